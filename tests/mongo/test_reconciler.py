"""Jobs that are lost, on a real database: a queue that says what the test wants, and a clock that does."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.config import Config
from agent.jobs import QueueSilent
from agent.notes import read_notes
from agent.reconciler import Reconciler
from agent.recover import WayBack
from agent.results import Result
from fwcore.lost import MARK
from fwrunner.launch import Launch
from fwrunner.protocol import Report, outbox_name, write_report
from tests.support.agent import TASKS, in_place
from tests.support.launchpads import consistent
from tests.support.queues import WORKER, Bench

ALLOWED = {"spec": {"_tasks": TASKS, "_resume_requeued": True}}


@pytest.fixture
def bench(lp, db, tmp_path):
    return Bench(lp, db, tmp_path / "root")


def only(rows):
    (row,) = rows
    return row


# ------------------------------------------------------------------------------- died running


def test_a_job_over_its_walltime(bench):
    (fw_id,) = bench.add()
    claim, job_id, _runner = bench.run(fw_id)
    place = Path(claim.launch_dir)
    (place / f"x-{job_id}.error").write_text("slurmstepd: CANCELLED DUE TO TIME LIMIT\n")
    (place / f"x-{job_id}.out").write_text("line\n" * 5000)
    (place / "x-99.error").write_text("another job's\n")
    bench.queue.gone(job_id, "TIMEOUT", exit_code=0, signal=15, elapsed=61.0, limit=60.0)
    told = only(bench.lose(60).lost)
    assert (told["launch_id"], told["state"]) == (claim.launch_id, "FIZZLED")
    assert bench.state(fw_id) == "FIZZLED"
    stored = bench.stored(claim.launch_id)["action"]["stored_data"]
    assert stored["_message"] == told["reason"]
    assert stored["_message"] == (
        f"slurm job {job_id} ended as TIMEOUT without a final report, exit code 0, signal 15, "
        "after 61 s of 60 s"
    )
    facts = stored[MARK]
    assert facts.pop("stdout") == ("line\n" * 5000)[-4096:]
    assert facts == {
        "scheduler": "slurm",
        "job_id": job_id,
        "state": "TIMEOUT",
        "exit_code": 0,
        "signal": 15,
        "elapsed": 61.0,
        "limit": 60.0,
        "reason": "",
        "stderr": "slurmstepd: CANCELLED DUE TO TIME LIMIT\n",
        "rerun": False,
    }
    consistent(bench.db)
    assert bench.turn(1000).lost == []


def test_one_listing_for_all_jobs_and_one_question_for_all_ends(bench):
    jobs = bench.launch(*bench.add(20))
    bench.turn()
    assert bench.queue.asked == {"listing": 1}
    for _claim, job_id in jobs[:15]:
        bench.queue.gone(job_id, "FAILED", exit_code=1, elapsed=0)
    assert len(bench.lose().lost) == 15
    assert bench.queue.asked == {"listing": 3, "ends": 1}
    assert bench.lp.counts() == {"FIZZLED": 15, "RESERVED": 5}


def test_a_final_report_that_nobody_has_seen_yet_wins(bench):
    (fw_id,) = bench.add()
    _claim, job_id, runner = bench.run(fw_id)
    bench.queue.gone(job_id, "TIMEOUT")
    bench.turn()
    runner.finish("COMPLETED", {})
    assert bench.turn(500).lost == []
    assert bench.turn(500).lost == []
    bench.way_back.recover(bench.way_back.places("w"), Result())
    assert bench.state(fw_id) == "COMPLETED"


def test_the_way_back_looks_once_more_after_the_verdict(bench, monkeypatch):
    """The report comes while the scheduler is asked how the job ended."""
    (fw_id,) = bench.add()
    _claim, job_id, runner = bench.run(fw_id)
    bench.queue.gone(job_id, "TIMEOUT")
    bench.turn()
    before = WayBack.recover

    def late(self, *args, **options):
        runner.finish("COMPLETED", {})
        before(self, *args, **options)

    monkeypatch.setattr(WayBack, "recover", late)
    result = bench.turn(100)
    assert (result.lost, only(result.applied)["state"]) == ([], "COMPLETED")
    assert bench.state(fw_id) == "COMPLETED"


def test_a_report_between_verdict_and_write_wins(bench, monkeypatch):
    (fw_id,) = bench.add()
    claim, job_id, _runner = bench.run(fw_id)
    bench.queue.gone(job_id, "NODE_FAIL")
    bench.turn()
    apply = bench.lp.apply
    done = Report(claim.launch_id, "COMPLETED", "/x", claim.fw_id, claim.token, fwaction={})

    def overtaken(reports):
        monkeypatch.undo()
        apply([done])
        return apply(reports)

    bench.way_back.recover = lambda *_args, **_options: None
    monkeypatch.setattr(bench.lp, "apply", overtaken)
    result = bench.turn(100)
    assert (result.lost, result.deferred) == ([], [])
    assert bench.state(fw_id) == "COMPLETED"


@pytest.mark.parametrize("where", ["outbox", "launch directory"])
def test_a_report_after_our_own_verdict_wins(bench, where):
    (fw_id,) = bench.add()
    claim, job_id, runner = bench.run(fw_id)
    bench.queue.gone(job_id, "NODE_FAIL")
    assert only(bench.lose().lost)["state"] == "FIZZLED"
    if where == "outbox":
        runner.finish("COMPLETED", {})
    else:  # as rlaunch does
        offline = json.loads((Path(claim.launch_dir) / "FW_offline.json").read_text())
        more = {"state": "COMPLETED", "fwaction": {}, "completed_on": "2099-01-01T00:00:00+00:00"}
        in_place(Path(claim.launch_dir) / "FW_offline.json", {**offline, **more})
    bench.way_back.recover(bench.way_back.places("w"), Result())
    assert bench.state(fw_id) == "COMPLETED"
    consistent(bench.db)


def test_pings_and_a_requeue_keep_a_job_alive(bench):
    (fw_id,) = bench.add()
    claim, job_id, runner = bench.run(fw_id)
    del bench.queue.jobs[job_id]
    bench.turn()
    runner.ping()
    assert bench.turn(500).lost == []
    bench.queue.put(claim.launch_id, "PENDING", job_id)
    assert bench.turn(500).lost == []
    bench.queue.gone(job_id, "NODE_FAIL")
    assert bench.turn(500).lost == []
    assert bench.state(fw_id) == "RUNNING"


def test_a_silent_queue_says_nothing(bench):
    (fw_id,) = bench.add()
    _claim, job_id, _runner = bench.run(fw_id)
    bench.queue.gone(job_id, "TIMEOUT")
    bench.turn()
    bench.queue.silent = True
    for _ in range(2):
        with pytest.raises(QueueSilent):
            bench.turn(500)
    since = read_notes(bench.own)["silent"]
    assert since["reason"] == "squeue: Unable to contact slurm controller"
    assert bench.state(fw_id) == "RUNNING"
    bench.queue.silent = False
    assert only(bench.turn(500).lost)["fw_id"] == fw_id
    assert read_notes(bench.own)["silent"] == {}


def test_a_launch_root_that_is_away_says_nothing(bench):
    (fw_id,) = bench.add()
    _claim, job_id, _runner = bench.run(fw_id)
    bench.queue.gone(job_id, "TIMEOUT")
    bench.turn()
    away = bench.root.rename(bench.root.with_name("away"))
    bench.root.mkdir()
    (bench.root / ".fwagent").mkdir()
    for _ in range(3):
        assert bench.turn(500).lost == []
    shutil.rmtree(bench.root)
    away.rename(bench.root)
    assert bench.state(fw_id) == "RUNNING"


def test_the_memory_is_kept_for_the_next_process_and_is_no_more_than_that(bench):
    """As `fwagent sync` from cron has it; without its file a loss is found one interval later."""
    (fw_id,) = bench.add()
    _claim, job_id, _runner = bench.run(fw_id)
    bench.queue.gone(job_id, "TIMEOUT")
    bench.turn()
    notes = bench.own / "reconcile.json"
    notes.write_text('{"absent": {"1": {"since": "x"}}}')
    bench.configure()
    assert bench.turn(500).lost == []
    bench.configure()
    assert only(bench.turn(60).lost)["state"] == "FIZZLED"


def test_another_worker_with_the_same_launch_root_remembers_for_itself(bench):
    """As `fwagent sync` of two workers by turns: each is a process of its own, with nothing but the files."""
    (fw_id,) = bench.add()
    _claim, job_id, _runner = bench.run(fw_id)
    bench.queue.gone(job_id, "TIMEOUT")
    bench.turn()
    other = Config.model_validate({"worker": {"name": "v"}, "launch": {"root": str(bench.root)}})
    assert other.own(bench.lp.where) != bench.own
    Reconciler(bench.lp, bench.queue, bench.way_back, other, clock=lambda: bench.now).run(Result())
    bench.configure()
    assert only(bench.turn(500).lost)["state"] == "FIZZLED"


def test_a_locked_workflow_defers_it(bench):
    (fw_id,) = bench.add()
    _claim, job_id, _runner = bench.run(fw_id)
    bench.queue.gone(job_id, "TIMEOUT")
    bench.db.workflows.update_one({}, {"$set": {"locked": True}})
    result = bench.lose()
    assert result.lost == []
    assert "locked by FireWorks" in only(result.deferred)["reason"]
    bench.db.workflows.update_one({}, {"$unset": {"locked": ""}})
    assert only(bench.turn(60).lost)["state"] == "FIZZLED"


def test_report_changes_nothing_and_is_shown(bench):
    (fw_id,) = bench.add()
    _claim, job_id, _runner = bench.run(fw_id)
    bench.queue.gone(job_id, "OUT_OF_MEMORY")
    bench.configure(lost="report")
    assert only(bench.lose().lost)["state"] is None
    assert bench.turn(500).lost == []
    (told,) = read_notes(bench.own)["told"].values()
    assert "OUT_OF_MEMORY" in told["reason"]
    assert bench.state(fw_id) == "RUNNING"
    bench.configure(lost="fizzle")
    assert only(bench.turn(60).lost)["state"] == "FIZZLED"
    assert read_notes(bench.own)["told"] == {}


# ------------------------------------------------------------------------------------- rerun


def test_rerun_with_a_cap(bench):
    (fw_id,) = bench.add()
    bench.configure(lost="rerun", lost_reruns=2)
    for left in ("READY", "READY", "FIZZLED"):
        _claim, job_id, _runner = bench.run(fw_id)
        bench.queue.gone(job_id, "NODE_FAIL")
        result = bench.lose()
        assert only(result.lost)["state"] == left
        assert result.released == ([fw_id] if left == "READY" else [])
        assert bench.state(fw_id) == left
    assert only(result.lost)["reason"].endswith("; that is the 3. time in a row")
    consistent(bench.db)
    # A person lets it run again, and the count begins anew.
    bench.lp.rerun([fw_id])
    _claim, job_id, _runner = bench.run(fw_id)
    bench.queue.gone(job_id, "NODE_FAIL")
    assert only(bench.lose().lost)["state"] == "READY"
    assert bench.lp.setbacks([fw_id])[fw_id].lost == 1


def test_rerun_goes_on_from_the_checkpoint_where_the_firework_allows_it(bench):
    fw_id = only(bench.lp.add(ALLOWED).values())
    bench.configure(lost="rerun")
    claim, job_id, runner = bench.run(fw_id)
    checkpoint = {"_task_n": 0, "_all_stored_data": {"a": 1}, "_all_update_spec": {}}
    runner.update(checkpoint={**checkpoint, "_all_mod_spec": []})
    bench.queue.gone(job_id, "TIMEOUT")
    assert only(bench.lose().lost)["state"] == "READY"
    recovery = bench.db.fireworks.find_one({"fw_id": fw_id})["spec"]["_recovery"]
    assert (recovery["_prev_dir"], recovery["_mode"]) == (claim.launch_dir, "cp")
    assert recovery["_all_stored_data"] == {"a": 1}


# ----------------------------------------------------------------------- vanished, cut, adopted


def test_a_job_that_vanishes_goes_back_and_the_third_time_fizzles(bench):
    (fw_id,) = bench.add()
    for time, left in enumerate(("READY", "READY", "FIZZLED"), 1):
        ((claim, job_id),) = bench.launch(fw_id)
        bench.queue.gone(job_id, "CANCELLED", elapsed=0)
        result = bench.lose()
        assert only(result.lost)["state"] == left
        assert bench.lp.setbacks([fw_id])[fw_id].vanished == min(time, 2)
        assert bench.state(fw_id) == left
    assert result.released == []
    message = bench.stored(claim.launch_id)["action"]["stored_data"]["_message"]
    assert message == (
        f"slurm job {job_id} ended as CANCELLED before it began, after 0 s; "
        "that is the 3. time in a row"
    )
    consistent(bench.db)
    assert bench.db.offline_runs.count_documents({"completed": False, "deprecated": False}) == 0


def test_a_start_that_only_the_outbox_knows_of_is_one(bench):
    """The directory is gone, and the started report cannot be applied now."""
    (fw_id,) = bench.add()
    ((claim, job_id),) = bench.launch(fw_id)
    Launch(claim.launch_dir).start()
    shutil.rmtree(claim.launch_dir)
    bench.way_back.recover = lambda *_args, **_options: None
    bench.queue.gone(job_id, "CANCELLED")
    assert only(bench.lose().lost)["state"] == "FIZZLED"


def test_a_run_in_between_begins_the_count_anew(bench):
    (fw_id,) = bench.add()
    ((_claim, job_id),) = bench.launch(fw_id)
    bench.queue.gone(job_id)
    bench.lose()
    claim, _job_id, runner = bench.run(fw_id)
    runner.finish("FIZZLED", {})
    bench.way_back.recover({claim.launch_id: claim.launch_dir}, Result())
    bench.lp.rerun([fw_id])
    assert bench.lp.setbacks([fw_id])[fw_id].vanished == 0


def test_a_reservation_without_a_job_is_adopted_or_released(bench):
    """W27: whoever had reserved it was killed; `launch --stage-only` waits for a person."""
    found, cut, by_hand = bench.add(3)
    adopted, lost = bench.claim(found, cut)
    bench.claim(by_hand, by_hand=True)
    job_id = bench.queue.put(adopted.launch_id)
    assert only(bench.turn().adopted)["job_id"] == job_id
    assert bench.lp.jobs_of([adopted.launch_id])[adopted.launch_id].job_id == job_id
    result = bench.turn(60)
    assert (only(result.lost)["launch_id"], result.released) == (lost.launch_id, [cut])
    assert bench.turn(9999).lost == []
    assert bench.lp.counts() == {"READY": 1, "RESERVED": 2}
    # Nobody knows when it comes, but once it is there it is followed as any other.
    later = bench.queue.put(3)
    assert only(bench.turn().adopted)["launch_id"] == 3
    bench.queue.gone(later)
    assert only(bench.lose().lost)["state"] == "READY"


def test_reservations_of_qlaunch(bench):
    cut, ended = bench.add(2)
    bench.lp.claim(WORKER, 1, fw_ids=[cut])  # no files, no offline run, no reservation id
    claim = only(bench.claim(ended))
    bench.lp.record_jobs({claim.launch_id: "77"})
    bench.db.offline_runs.update_one({"launch_id": claim.launch_id}, {"$unset": {"fwagent": ""}})
    bench.queue.jobs["77"] = SimpleNamespace(  # untagged
        job_id="77", launch_id=None, state="PENDING", scheduler_state="PD", reason=""
    )
    assert bench.lose(599).lost == []
    assert only(bench.turn(1).lost)["fw_id"] == cut
    bench.queue.gone("77", "CANCELLED")
    assert only(bench.lose().lost)["fw_id"] == ended
    assert bench.lp.counts() == {"READY": 2}


def test_a_claim_that_somebody_is_at_work_on_is_left_alone(bench):
    (fw_id,) = bench.add()
    bench.lp.claim(WORKER, 1, fw_ids=[fw_id], hold=True)
    assert bench.lose(9999).lost == []
    assert bench.state(fw_id) == "RESERVED"


# ------------------------------------------------------------------------------ what nobody wants


@pytest.mark.parametrize("how", ["rerun", "defuse", "delete"])
def test_the_job_of_a_firework_that_was_taken_back_is_cancelled(bench, how):
    (fw_id,) = bench.add()
    ((claim, job_id),) = bench.launch(fw_id)
    bench.turn()
    if how == "delete":
        for collection in ("fireworks", "launches", "workflows", "offline_runs"):
            bench.db[collection].delete_many({})
    else:
        getattr(bench.lp, how)([fw_id])
    bench.queue.put(claim.launch_id + 40)  # somebody else's, with a number of ours
    assert bench.turn().cancelled == []
    assert only(bench.turn(60).cancelled)["job_id"] == job_id
    assert bench.queue.cancelled == [job_id]
    bench.queue.put(claim.launch_id, "ENDING", job_id)
    del bench.queue.jobs[job_id]
    assert bench.turn(60).cancelled == []


@pytest.mark.parametrize("anew", [False, True])
def test_after_a_restart_the_job_of_a_deleted_workflow_is_cancelled(bench, anew):
    """In a database that has been made anew nobody can tell that anything was deleted."""
    (fw_id,) = bench.add()
    ((_claim, job_id),) = bench.launch(fw_id)
    bench.turn()
    for collection in ("fireworks", "launches", "workflows", "offline_runs"):
        bench.db[collection].drop() if anew else bench.db[collection].delete_many({})
    bench.lp.initialize()
    bench.configure()
    assert bench.turn().cancelled == []
    cancelled = bench.turn(60).cancelled
    assert [entry["job_id"] for entry in cancelled] == ([] if anew else [job_id])
    bench.configure(lost="report")
    assert bench.turn(60).cancelled == cancelled


def test_no_queue_no_question(bench):
    config = Config.model_validate(
        {
            "worker": {"name": "w"},
            "launch": {"root": str(bench.root)},
            "queue": {"type": "none"},
        }
    )
    Reconciler(bench.lp, bench.queue, bench.way_back, config).run(Result())
    assert not bench.queue.asked


def test_an_entry_of_the_outbox_that_cannot_be_applied_now_holds_the_verdict_up(bench):
    (fw_id,) = bench.add()
    claim, job_id, _runner = bench.run(fw_id)
    bench.queue.gone(job_id, "TIMEOUT")
    bench.turn()
    entry = bench.outbox / outbox_name(claim.launch_id, claim.token, final=True)
    entry.write_text("{")
    assert bench.turn(500).lost == []
    assert bench.turn(500).lost == []
    done = Report(claim.launch_id, "COMPLETED", "/x", fw_id, claim.token, fwaction={})
    write_report(str(entry), done)
    bench.way_back.recover({}, Result())
    assert bench.state(fw_id) == "COMPLETED"


def test_a_torn_file_of_a_dead_job_does_not(bench):
    """W2: `rlaunch` writes in place, and the walltime may cut it there."""
    (fw_id,) = bench.add()
    claim, job_id, _runner = bench.run(fw_id)
    (Path(claim.launch_dir) / "FW_offline.json").write_text('{"launch_id": ')
    bench.queue.gone(job_id, "TIMEOUT")
    assert only(bench.lose().lost)["state"] == "FIZZLED"


def test_a_directory_that_was_moved_is_looked_for_where_it_is(bench):
    (fw_id,) = bench.add()
    claim, job_id, runner = bench.run(fw_id)
    moved = Path(claim.launch_dir).rename(bench.root / "moved")
    bench.lp.register("w", claim.launch_id, str(moved))
    bench.queue.gone(job_id, "TIMEOUT")
    bench.turn()
    runner.ping()
    assert bench.turn(100).lost == []
    assert only(bench.turn(100).lost)["state"] == "FIZZLED"
