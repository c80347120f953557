"""What is decided of jobs, from listings, documents and files: examples, and what must hold for all of them."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.jobs import JobEnd, QueuedJob
from agent.reconcile import (
    FOREIGN_AGE,
    Files,
    Memory,
    Rules,
    View,
    absent,
    decide,
    followed,
    questions,
)
from fwcore.launchpad.records import JobRecord, Setbacks
from fwrunner.protocol import Report

RULES = Rules(worker="w", scheduler="slurm", queue="slurm:/root", lost_after=60, ping_interval=60)
QUIET = Files("as it was")
RAN = JobRecord(7, 3, "RUNNING", "/d/7", "w", "70", "RUNNING", token="t", queue="slurm:/root")
WAITS = replace(RAN, state="RESERVED", fw_state="RESERVED")


def listed(launch_id: int | None = 7, state="RUNNING", job_id="70") -> dict[str, QueuedJob]:
    return {job_id: QueuedJob(job_id, launch_id, state, state)}


def turn(memory: Memory, now: float, listing=None, job=RAN, files=QUIET, rules=RULES, **more):
    """One listing; the job is absent from it unless it is given."""
    view = View(now, {} if listing is None else listing, [job], files={7: files}, **more)
    return decide(view, memory, rules)


def after(seconds: float, job=RAN, files=QUIET, rules=RULES, **more):
    """Return the verdicts of the second of two listings without the job."""
    verdicts, memory = turn(Memory(), 1000, job=job, files=files, rules=rules)
    assert verdicts == []
    return turn(memory, 1000 + seconds, job=job, files=files, rules=rules, **more)[0]


def kinds(verdicts) -> list[str]:
    return [verdict.kind for verdict in verdicts]


def ended(state: str, **more) -> dict[str, dict[str, JobEnd]]:
    return {"ends": {"70": JobEnd("70", state, **more)}}


@pytest.mark.parametrize("state", ["TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "CANCELLED", "FAILED"])
def test_the_last_word_of_the_scheduler_ends_a_job_that_ran(state):
    (verdict,) = after(60, **ended(state, exit_code=1, elapsed=30, limit=30, reason="why"))
    assert (verdict.kind, verdict.launch_id, verdict.fw_id) == ("fizzle", 7, 3)
    assert verdict.reason == (
        f"slurm job 70 ended as {state} without a final report, exit code 1, after 30 s of 30 s, why"
    )


def test_not_a_second_before_its_time():
    assert after(59.9, **ended("TIMEOUT")) == []


def test_without_a_word_three_pings_must_be_missing_too():
    assert after(179) == []
    (verdict,) = after(180)
    assert "the scheduler does not say how it ended" in verdict.reason


@pytest.mark.parametrize("state", ["PENDING", "HELD", "RUNNING", "ENDING"])
def test_a_job_that_is_there_again_was_never_lost(state):
    """Requeued, or the listing was one of a scheduler that had just been restarted."""
    _, memory = turn(Memory(), 1000)
    _, memory = turn(memory, 1100, listed(state=state))
    assert memory.absent == {}
    verdicts, memory = turn(memory, 1200, **ended("NODE_FAIL"))
    assert verdicts == []
    assert kinds(turn(memory, 1260, **ended("NODE_FAIL"))[0]) == ["fizzle"]


def test_an_ended_job_in_the_listing_is_gone():
    verdicts, memory = turn(Memory(), 1000, listed(state="ENDED"))
    assert kinds(turn(memory, 1060, listed(state="ENDED"), **ended("FAILED"))[0]) == ["fizzle"]
    assert verdicts == []


def test_an_id_that_another_launch_has_now_is_no_sign_of_life():
    assert [job.launch_id for job in absent(View(0, listed(9), [RAN]), RULES)] == [7]
    assert absent(View(0, listed(None), [RAN]), RULES) == []


def test_any_new_file_begins_the_time_anew():
    _, memory = turn(Memory(), 1000)
    verdicts, memory = turn(memory, 1500, files=Files("a ping later"), **ended("TIMEOUT"))
    assert verdicts == []
    assert memory.absent[7].since == 1500


def test_a_final_report_wins():
    assert after(9999, files=replace(QUIET, final=True), **ended("TIMEOUT")) == []


def test_files_that_cannot_be_seen_say_nothing():
    view = View(1000, {}, [RAN], ends={"70": JobEnd("70", "TIMEOUT")})
    assert followed(Memory(), view, RULES).absent == {}


def test_a_directory_that_is_gone_needs_the_schedulers_word():
    gone = replace(QUIET, there=False)
    assert kinds(after(999, files=gone)) == ["report"]
    assert kinds(after(999, files=gone, **ended("TIMEOUT"))) == ["fizzle"]


def test_a_clock_that_was_set_back_begins_the_time_anew():
    _, memory = turn(Memory(), 5000)
    _, memory = turn(memory, 1000, **ended("TIMEOUT"))
    assert memory.absent[7].since == 1000


# ----------------------------------------------------------------------------- before it began


@pytest.mark.parametrize(
    "end", [{}, ended("CANCELLED"), ended("CANCELLED", elapsed=0), ended("BOOT_FAIL", elapsed=0)]
)
def test_a_job_that_vanished_before_it_began_goes_back(end):
    (verdict,) = after(60, job=WAITS, **end)
    assert verdict.kind == "release"
    assert "before it began" in verdict.reason


@pytest.mark.parametrize("end", [ended("FAILED", elapsed=0), ended("CANCELLED", elapsed=3)])
def test_a_node_script_that_failed_before_the_runner_did_begin(end):
    assert kinds(after(60, job=WAITS, **end)) == ["fizzle"]


def test_files_may_know_of_a_start_that_the_database_does_not():
    files = replace(QUIET, started=True)
    assert kinds(after(60, job=WAITS, files=files, **ended("CANCELLED"))) == ["fizzle"]


def test_the_third_time_in_a_row_is_the_last():
    assert kinds(after(60, job=WAITS, setbacks={3: Setbacks(vanished=1)})) == ["release"]
    (verdict,) = after(60, job=WAITS, setbacks={3: Setbacks(vanished=2)})
    assert verdict.kind == "fizzle"
    assert verdict.reason.endswith("; that is the 3. time in a row")


def test_a_reservation_whose_submission_was_cut():
    """Ours goes back as a vanished job does; `qlaunch` may be at it still; a person may submit any time."""
    cut = replace(WAITS, job_id=None)
    assert kinds(after(60, job=cut)) == ["release"]
    foreign = replace(cut, token=None, queue="")
    assert after(FOREIGN_AGE - 1, job=foreign) == []
    assert kinds(after(FOREIGN_AGE, job=foreign)) == ["release"]
    assert after(1e6, job=replace(cut, by_hand=True)) == []


def test_a_job_without_a_recorded_id_is_adopted_by_its_tag():
    cut = replace(WAITS, job_id=None)
    (verdict,) = turn(Memory(), 1000, listed(state="PENDING"), job=cut)[0]
    assert (verdict.kind, verdict.job_id) == ("adopt", "70")
    assert turn(Memory(), 1000, listed(8, "PENDING"), job=cut)[0] == []


def test_launches_of_another_queue_are_not_ours_to_judge():
    assert after(1e6, job=replace(RAN, queue="local:/root"), **ended("FAILED")) == []
    foreign = replace(RAN, token=None, queue="")
    assert kinds(after(60, job=foreign, **ended("FAILED"))) == ["fizzle"]
    local = replace(RULES, scheduler="local", queue="local:/root")
    assert after(1e6, job=foreign, rules=local, **ended("FAILED")) == []


# ------------------------------------------------------------------------------------ policies


def test_rerun_has_an_end():
    rules = replace(RULES, lost="rerun", lost_reruns=2)
    twice = {3: Setbacks(lost=2)}
    assert kinds(after(60, rules=rules, setbacks={3: Setbacks(lost=1)}, **ended("NODE_FAIL"))) == [
        "rerun"
    ]
    (verdict,) = after(60, rules=rules, setbacks=twice, **ended("NODE_FAIL"))
    assert verdict.kind == "fizzle"
    assert verdict.reason.endswith("that is the 3. time in a row")


@pytest.mark.parametrize("job", [RAN, WAITS])
def test_report_says_it_once(job):
    rules = replace(RULES, lost="report")
    _, memory = turn(Memory(), 1000, job=job, rules=rules)
    verdicts, memory = turn(memory, 1060, job=job, rules=rules, **ended("CANCELLED"))
    assert kinds(verdicts) == ["report"]
    assert memory.absent[7].told == verdicts[0].reason
    view = View(2000, {}, [job], files={7: QUIET})
    assert questions(memory, view, rules) == []
    assert turn(memory, 2000, job=job, rules=rules, **ended("CANCELLED"))[0] == []
    # Another policy takes it up.
    assert turn(memory, 2000, job=job, **ended("CANCELLED"))[0] != []


# ------------------------------------------------------------------------- what nobody wants

ARCHIVED = replace(RAN, fw_state="")


def unwanted(stray=ARCHIVED, state="PENDING", job_id="70", rules=RULES, jobs=()):
    memory = Memory()
    found = []
    for now in (1000.0, 1060.0):
        strays = {7: stray} if stray else {}
        view = View(now, listed(7, state, job_id), list(jobs), strays=strays)
        verdicts, memory = decide(view, memory, rules)
        found.append(kinds(verdicts))
    assert found[0] == []
    return found[1]


@pytest.mark.parametrize("state", ["PENDING", "HELD", "RUNNING"])
def test_a_job_whose_firework_was_rerun_is_cancelled(state):
    assert unwanted(state=state) == ["cancel"]


def test_a_job_that_is_not_certainly_ours_is_never_cancelled():
    assert unwanted(job_id="71") == []
    assert unwanted(replace(ARCHIVED, worker="somebody else")) == []
    assert unwanted(replace(ARCHIVED, job_id=None)) == []
    assert unwanted(None) == []
    assert unwanted(rules=replace(RULES, cancel_defused=False)) == []


def test_a_defused_firework_that_still_lists_its_launch():
    """An action defuses a workflow without archiving; what runs then goes on, its result is kept."""
    defused = replace(WAITS, fw_state="DEFUSED")
    assert unwanted(None, "PENDING", jobs=[defused]) == ["cancel"]
    assert unwanted(None, "RUNNING", jobs=[defused]) == []
    assert unwanted(None, "PENDING", jobs=[replace(WAITS, fw_state="PAUSED")]) == []


def test_a_deleted_launch_is_known_from_before():
    _, memory = turn(Memory(), 900, listed())
    for now, found in ((1000, []), (1060, ["cancel"])):
        verdicts, memory = decide(View(now, listed(), []), memory, RULES)
        assert kinds(verdicts) == found
    # The numbers begin anew after `lpad reset`: the same launch, another job.
    assert decide(View(2000, listed(job_id="71"), []), memory, RULES)[0] == []


def test_one_who_is_rerun_in_time_is_let_be():
    view = View(1000, listed(), [], strays={7: ARCHIVED})
    _, memory = decide(view, Memory(), RULES)
    assert memory.unwanted == {7: 1000}
    _, memory = decide(View(1030, listed(), [RAN]), memory, RULES)
    assert memory.unwanted == {}


# ------------------------------------------------------------------------------- for all of them


@dataclass
class Step:
    """What one listing meets: seconds since the last one, and what has changed meanwhile."""

    wait: float
    silent: bool
    there: bool
    news: bool
    final: bool
    end: bool


steps = st.lists(
    st.builds(
        Step,
        wait=st.sampled_from([0.0, 1.0, 30.0, 60.0, 200.0]),
        silent=st.booleans(),
        there=st.booleans(),
        news=st.booleans(),
        final=st.sampled_from([False, False, False, True]),
        end=st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@dataclass
class History:
    """One launch over several listings; what was decided, and what had been seen by then."""

    rules: Rules
    job: JobRecord = RAN
    memory: Memory = field(default_factory=Memory)
    now: float = 1e9
    version: int = 0
    final: bool = False
    #: Since when listings, of which two or more have answered, lack the job while its files are quiet.
    gone: list[float] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)

    def play(self, step: Step) -> None:
        self.now += step.wait
        self.version += step.news
        self.final = self.final or step.final
        if step.news or (step.there and not step.silent):
            self.gone = []
        if not step.there and not step.silent:
            self.gone.append(self.now)
        listing = None if step.silent else listed() if step.there else {}
        view = View(
            self.now,
            listing,
            [self.job],
            files={7: Files(str(self.version), final=self.final)},
            ends={"70": JobEnd("70", "TIMEOUT")} if step.end else {},
        )
        verdicts, self.memory = decide(view, self.memory, self.rules)
        assert len(verdicts) <= 1
        for verdict in verdicts:
            self.verdicts.append(verdict.kind)
            assert not step.silent
            assert not step.there
            assert not self.final
            assert len(self.gone) > 1
            assert self.now - self.gone[0] >= self.rules.lost_after


@settings(deadline=None)
@given(steps, st.sampled_from(["fizzle", "rerun", "report"]), st.sampled_from([RAN, WAITS]))
def test_no_verdict_too_early(script, policy, job):
    """From one listing, from silence, beside a live job, a final report or a fresh ping nothing follows."""
    history = History(replace(RULES, lost=policy), job)
    for step in script:
        before = len(history.verdicts)
        known = history.memory.absent.get(7)
        history.play(step)
        if len(history.verdicts) > before:
            assert known is not None, "the first listing without it is no reason"
            if policy != "report":
                return  # carried out: the launch is not active any more


@settings(deadline=None)
@given(steps, steps)
def test_what_was_told_once_is_not_told_again_while_nothing_changes(script, rest):
    history = History(replace(RULES, lost="report"))
    for step in script:
        history.play(step)
    told = history.memory.absent.get(7)
    if told is None or not told.told or told.signature != str(history.version):
        return
    before = len(history.verdicts)
    for step in rest:
        history.play(replace(step, there=False, news=False))
    assert len(history.verdicts) == before


@settings(deadline=None)
@given(st.floats(0, 1e5), st.floats(0, 1e5), st.booleans())
def test_a_verdict_stays_one_if_one_waits_longer(first, more, end):
    facts = ended("TIMEOUT") if end else {}
    sooner, later = after(first, **facts), after(first + more, **facts)
    assert kinds(sooner) in ([], kinds(later))


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["RESERVED", "RUNNING"]), min_size=1, max_size=6),
    st.sets(st.integers(0, 5)),
    st.sets(st.integers(0, 5)),
)
def test_each_launch_gets_one_verdict_at_most_whoever_else_there_is(states, gone, unknown):
    jobs = [
        replace(RAN, launch_id=n + 1, fw_id=n + 1, state=state, job_id=str(n))
        for n, state in enumerate(states)
    ]
    alive = [job for n, job in enumerate(jobs) if n not in gone]
    listing = {
        str(job.job_id): QueuedJob(str(job.job_id), job.launch_id, "RUNNING", "R") for job in alive
    }
    jobs = [replace(job, job_id=None) if job.launch_id in unknown else job for job in jobs]
    files = {job.launch_id: QUIET for job in jobs}
    memory = Memory()
    for now in (0.0, 1000.0):
        verdicts, memory = decide(View(now, listing, jobs, files=files), memory, RULES)
    judged = [verdict.launch_id for verdict in verdicts]
    assert len(judged) == len(set(judged))
    lost = {verdict.launch_id for verdict in verdicts if verdict.kind != "adopt"}
    assert lost == {job.launch_id for job in jobs} - {job.launch_id for job in alive}


def test_a_report_of_the_run_is_kept_for_its_end():
    report = Report(7, "RUNNING", "/d/7", ping_time="2026-11-23T12:00:00+00:00")
    (verdict,) = after(60, files=replace(QUIET, report=report), **ended("TIMEOUT"))
    assert verdict.files is not None
    assert verdict.files.report is report
