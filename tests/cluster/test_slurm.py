"""The queue on real Slurm: submit, list, cancel, arrays, and what it means when slurmctld does not answer."""

import os
import shutil
import sys
import time

import pytest

from agent import trialjob
from agent.config import load_config
from agent.jobs import Closed, LimitReached, QueueSilent, Rejected, Submission
from agent.queue import batch
from agent.queue.script import adapter_script, options_script
from agent.queue.slurm import Slurm
from agent.queue.tags import ARRAY_PLACE
from agent.queue.templates import TEMPLATES

HEAD = "#!/bin/sh\n#SBATCH --output=out\n"


def test_a_trial_job(slurm, slurm_queue, tmp_path):
    path = tmp_path / "fwagent.toml"
    path.write_text(
        '[launchpad]\nuri = "mongodb://nowhere.invalid/x"\n[worker]\nname = "w"\n'
        f'[launch]\nroot = "{tmp_path / "root"}"\n[queue]\ntype = "slurm"\nrunner = "{sys.executable} -m fwrunner"\n'
    )
    told: list[str] = []
    found = {check.title: check for check in trialjob.checks(load_config(path), 60, told.append)}
    assert {check.verdict for check in found.values()} == {"pass"}, found
    assert "fwrunner" in found["runner there"].seen
    assert told
    assert not any((tmp_path / "root" / ".fwagent").glob("trial-*"))
    slurm.wait_until(lambda: {job.state for job in slurm_queue.listing().values()} <= {"ENDED"})


@pytest.fixture
def staged(tmp_path):
    """Make a launch directory with a script; return its Submission."""

    def stage(launch_id, command, array=None, head=HEAD):
        place = tmp_path / "root" / f"launcher {launch_id}"
        place.mkdir(parents=True)
        (place / "FW.json").touch()
        script = place / "FW_submit.script"
        script.write_text(f"{head}{command}\n")
        return Submission(launch_id, script, f"name-{launch_id}", array)

    return stage


def submit(queue, *submissions):
    outcomes = {outcome.launch_id: outcome for outcome in queue.submit_all(submissions)}
    assert outcomes.keys() == {submission.launch_id for submission in submissions}
    return outcomes


def accepted(queue, *submissions):
    outcomes = submit(queue, *submissions)
    assert all(outcome.error is None for outcome in outcomes.values()), outcomes
    return {launch_id: outcome.job_id for launch_id, outcome in outcomes.items()}


def await_state(cluster, queue, job_id, *states):
    cluster.wait_until(lambda: queue.listing()[job_id].state in states)
    return queue.listing()[job_id]


def test_the_life_of_jobs(slurm, slurm_queue, open_queue, staged):
    ids = accepted(
        slurm_queue,
        staged(1, "exit 0"),
        staged(2, "exit 7"),
        staged(3, "kill -9 $$"),
        staged(4, "exec sleep 600"),
        staged(5, "sleep 600", head="#!/bin/sh\n#SBATCH --hold\n"),
    )
    for number in (1, 2, 3):
        await_state(slurm, slurm_queue, ids[number], "ENDED")
    running = await_state(slurm, slurm_queue, ids[4], "RUNNING")
    held = slurm_queue.listing()[ids[5]]
    assert (running.launch_id, running.scheduler_state) == (4, "R")
    assert (held.state, held.launch_id, held.reason) == ("HELD", 5, "JobHeldUser")
    # Another agent of the same user knows its own.
    assert {job.launch_id for job in open_queue(Slurm(), scope="0" * 8).listing().values()} == {
        None
    }

    slurm_queue.cancel([ids[4], ids[5], "999999"])
    await_state(slurm, slurm_queue, ids[4], "ENDED")
    ends = slurm_queue.ends([*ids.values(), "999999"])
    told = {number: (ends[ids[number]].state, ends[ids[number]].exit_code) for number in ids}
    assert told == {
        1: ("COMPLETED", 0),
        2: ("FAILED", 7),
        3: ("FAILED", 0),
        4: ("CANCELLED", 0),
        5: ("CANCELLED", 0),
    }
    assert (ends[ids[3]].signal, ends[ids[1]].limit) == (9, 3600)
    assert ends.keys() == set(ids.values())
    assert slurm_queue.ends([ids[2]]) == {ids[2]: ends[ids[2]]}
    assert slurm_queue.ends(["999999"]) == {}


def test_a_job_that_takes_too_long(slurm, slurm_queue, staged):
    ids = accepted(slurm_queue, staged(1, "exec sleep 600", head=f"{HEAD}#SBATCH --time=1\n"))
    await_state(slurm, slurm_queue, ids[1], "ENDED")
    assert slurm_queue.ends(ids.values())[ids[1]].state == "TIMEOUT"


OPTIONS = {
    "walltime": "02:00:00",
    "nodes": 1,
    "ntasks": 2,
    "cpus_per_task": 1,
    "mem": "100M",
    "queue": "main",
    "signal": "B:USR1@60",
    "requeue": False,
    "time_min": "01:00:00",
    "exclusive": True,
    "priority": 5,
    "job_name": "a(b)_c.d-e",
    "mail_type": "NONE",
    "qverbatim": "#SBATCH --nice=1\n#SBATCH --hold",
}


def test_slurm_takes_the_scripts(slurm, slurm_queue, staged):
    texts = [options_script("slurm", {**OPTIONS, "rocket_launch": "true"}, "/")]
    values = {"walltime": "1:00", "nodes": 1, "queue": "main", "rocket_launch": "true", "mem": 100}
    texts.append(adapter_script(TEMPLATES["SLURM"], {**values, "job_name": "x"}, "/"))
    submissions = [staged(number, "") for number in range(len(texts))]
    for submission, text in zip(submissions, texts, strict=True):
        submission.script.write_text(text)
    ids = accepted(slurm_queue, *submissions)
    line = slurm.run("scontrol", "show", "job", "-o", ids[0])
    for word in (
        "Nice=1",
        "TimeLimit=02:00:00",
        "TimeMin=01:00:00",
        "Requeue=0",
        "OverSubscribe=NO",
    ):
        assert word in line
    assert f"/{OPTIONS['job_name']}-{ids[0]}.out" in line


def test_a_refused_script(slurm_queue, staged):
    outcomes = submit(
        slurm_queue,
        staged(1, "true", head=f"{HEAD}#SBATCH --partition=none\n"),
        staged(2, "true"),
    )
    error = outcomes[1].error
    assert isinstance(error, Rejected)
    assert "invalid partition specified: none" in error.title
    assert not outcomes[1].doubtful
    assert outcomes[2].job_id


def test_a_limit_is_no_refusal(slurm, slurm_queue, staged):
    with slurm.limited(0):
        outcomes = submit(slurm_queue, *(staged(number, "sleep 600") for number in range(6)))
    errors = [outcome.error for outcome in outcomes.values() if outcome.error]
    assert [type(error) for error in errors] == [LimitReached] * 6
    assert "Job violates accounting/QOS policy" in errors[0].title
    assert not any(outcome.doubtful for outcome in outcomes.values())


CUT = {
    "killed": '"$SBATCH" "$@" > /dev/null; kill -9 $$',
    "killed below a shell": '"$SBATCH" "$@" > /dev/null; exit 137',
    "without a word": '"$SBATCH" "$@" > /dev/null; exit 1',
    "after its id": '"$SBATCH" "$@"; exit 1',
}


@pytest.mark.parametrize("end", list(CUT))
def test_a_submit_that_fails_after_slurm_has_taken_the_job(
    slurm, slurm_queue, staged, tmp_path, monkeypatch, end
):
    """The job counts: taken for refused, its Firework would be submitted once more."""
    monkeypatch.setenv("SBATCH", shutil.which("sbatch"))
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wrapper.write_text(f"#!/bin/sh\n{CUT[end]}\n")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    outcome = submit(slurm_queue, staged(1, "sleep 600"))[1]
    (job,) = (job for job in slurm_queue.listing().values() if job.launch_id == 1)
    assert (outcome.error, outcome.job_id) == (None, job.job_id)


def test_a_closed_partition_is_no_refusal(slurm, slurm_queue, staged):
    slurm.run("scontrol", "update", "partition=main", "state=drain")
    try:
        outcome = submit(slurm_queue, staged(1, "true"))[1]
    finally:
        slurm.run("scontrol", "update", "partition=main", "state=up")
    assert isinstance(outcome.error, Closed)
    assert "Required partition not available" in outcome.error.title


@pytest.mark.parametrize("name", ["SQUEUE_PARTITION", "SQUEUE_ACCOUNT", "SQUEUE_NAMES"])
def test_what_the_user_filters_his_own_listings_by(slurm_queue, staged, monkeypatch, name):
    """A job that is left out would count as vanished."""
    monkeypatch.setenv(name, "other")
    ids = accepted(slurm_queue, staged(1, "sleep 600"))
    assert slurm_queue.listing()[ids[1]].launch_id == 1


def test_one_launch_is_one_job_whatever_the_user_has_set(slurm_queue, staged, monkeypatch):
    monkeypatch.setenv("SBATCH_ARRAY_INX", "1-3")
    monkeypatch.setenv("SBATCH_WAIT", "1")
    ids = accepted(slurm_queue, staged(1, "sleep 600"))
    assert [key for key, job in slurm_queue.listing().items() if job.launch_id == 1] == [ids[1]]


def test_when_all_are_refused_the_rest_is_not_tried(slurm_queue, staged):
    head = f"{HEAD}#SBATCH --partition=none\n"
    outcomes = submit(slurm_queue, *(staged(number, "true", head=head) for number in range(30)))
    kinds = [type(outcome.error) for outcome in outcomes.values()]
    assert 4 <= kinds.count(Rejected) < 10
    assert kinds.count(LimitReached) == 30 - kinds.count(Rejected)


ARRAY = (
    f'{HEAD}cd "$(sed -n "${{SLURM_ARRAY_TASK_ID}}s/^[0-9]*[[:blank:]]//p" {ARRAY_PLACE}/launches)"\n'
    'echo "$SLURM_ARRAY_TASK_ID" > ran\n'
)


def test_an_array(slurm, slurm_queue, open_queue, staged):
    submissions = [staged(number, "false", ARRAY) for number in (71, 72, 73)]
    alone = staged(74, "true", f"{ARRAY}# other resources")
    ids = accepted(slurm_queue, *submissions, alone)
    (array,) = {ids[number].partition("_")[0] for number in (71, 72, 73)}
    assert [ids[number] for number in (71, 72, 73)] == [f"{array}_{n}" for n in (1, 2, 3)]
    assert "_" not in ids[74]
    for job_id in ids.values():
        await_state(slurm, slurm_queue, job_id, "ENDED")
    # An agent that was started anew reads the manifest.
    listing = open_queue(Slurm()).listing()
    assert {launch_id: listing[job_id].launch_id for launch_id, job_id in ids.items()} == {
        number: number for number in (71, 72, 73, 74)
    }
    for index, submission in enumerate(submissions, 1):
        assert (submission.script.parent / "ran").read_text() == f"{index}\n"
    assert not (alone.script.parent / "ran").exists()
    ends = slurm_queue.ends(ids.values())
    assert {end.state for end in ends.values()} == {"COMPLETED"}
    assert ends.keys() == set(ids.values())


def test_a_refused_array_is_tried_one_by_one(slurm_queue, staged, monkeypatch):
    """What the site has against arrays is nothing against its jobs."""
    monkeypatch.setattr(Slurm, "submit", _without_arrays(Slurm.submit))
    ids = accepted(slurm_queue, *(staged(number, "true", ARRAY) for number in (1, 2)))
    assert not any("_" in job_id for job_id in ids.values())
    assert list(slurm_queue._arrays.iterdir()) == []


def _without_arrays(submit):
    def refuse(self, script, tag, name, text, count=1):
        made = submit(self, script, tag, name, text, count)
        if count > 1:
            made.argv.insert(1, "--partition=none")
        return made

    return refuse


def test_slurmctld_is_away(slurm, slurm_queue, open_queue, staged, monkeypatch):
    """Nothing follows from silence: no job is lost, none counts as gone, and none is there twice."""
    monkeypatch.setattr(batch, "SETTLE_SECONDS", 0.1)
    ids = accepted(slurm_queue, staged(1, "sleep 600"))
    slurm.stop_controller()
    queue = open_queue(Slurm(), timeout=1)
    try:
        with pytest.raises(QueueSilent, match="squeue has not answered in time"):
            queue.listing()
        with pytest.raises(QueueSilent):
            queue.cancel(ids.values())
        assert queue.submitted("host", [1]) is None
        assert queue.ends(ids.values()) == {}
        outcome = submit(queue, staged(2, "true"))[2]
        assert isinstance(outcome.error, QueueSilent)
        assert outcome.doubtful
    finally:
        slurm.start_controller()
        slurm.await_nodes()
    assert slurm_queue.listing()[ids[1]].launch_id == 1
    assert slurm_queue.submitted("host", [1, 2]) == {1: ids[1]}
    # The one that was asked for in vain may still be on its way.
    assert queue.submitted("host", [1, 2]) is None
    assert queue.submitted("host", [1]) == {1: ids[1]}
    monkeypatch.setattr(batch, "monotonic", lambda: time.monotonic() + batch.DOUBT_SECONDS)
    assert queue.submitted("host", [1, 2]) == {1: ids[1]}
