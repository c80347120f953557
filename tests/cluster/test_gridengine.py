"""The queue on real Grid Engine (Debian's 8.1.9), in short."""

import pytest

from agent.jobs import LimitReached, QueueSilent, Rejected, Submission
from agent.queue.script import adapter_script, options_script
from agent.queue.sge import Sge
from agent.queue.tags import ARRAY_PLACE
from agent.queue.templates import TEMPLATES

HEAD = "#!/bin/bash\n#$ -S /bin/bash\n"
ARRAY = (
    f'{HEAD}cd "$(sed -n "${{SGE_TASK_ID}}s/^[0-9]*[[:blank:]]//p" {ARRAY_PLACE}/launches)"\n'
    "echo $SGE_TASK_ID > ran\n"
)
OPTIONS = {
    "walltime": "01:00:00",
    "queue": "all.q",
    "account": "a",
    "priority": -5,
    "job_name": "2 b",
}


@pytest.fixture
def staged(tmp_path):
    def stage(launch_id, command, array=None, head=HEAD):
        place = tmp_path / "root" / f"launcher_{launch_id}"
        place.mkdir(parents=True)
        script = place / "FW_submit.script"
        script.write_text(f"{head}{command}\n")
        return Submission(launch_id, script, f"2: name/{launch_id}", array)

    return stage


def submit(queue, *submissions):
    return {outcome.launch_id: outcome for outcome in queue.submit_all(submissions)}


def test_jobs_and_an_array(gridengine, sge_queue, open_queue, staged):
    long = "exec sleep 600"
    texts = [
        options_script("sge", {**OPTIONS, "rocket_launch": long}, "/"),
        adapter_script(TEMPLATES["SGE"], {"queue": "all.q", "rocket_launch": long}, "/"),
    ]
    submissions = [staged(1, "exit 7"), staged(2, long), staged(3, long)]
    for submission, text in zip(submissions[1:], texts, strict=True):
        submission.script.write_text(text)
    late = staged(4, long, head=f"{HEAD}#$ -l h_rt=1\n")
    held = staged(5, long, head=f"{HEAD}#$ -h\n")
    array = [staged(number, "false", ARRAY) for number in (71, 72)]
    refused = staged(6, "true", head=f"{HEAD}#$ -q nope\n")
    outcomes = submit(sge_queue, *submissions, late, held, *array, refused)

    error = outcomes.pop(6).error
    assert isinstance(error, Rejected)
    assert 'requests unknown queue "nope"' in error.title
    ids = {launch_id: outcome.job_id for launch_id, outcome in outcomes.items()}
    assert all(ids.values()), outcomes
    assert ids[72] == ids[71].replace(".1", ".2")

    # Those that have ended are in no listing.
    there = {2: "RUNNING", 3: "RUNNING", 5: "HELD"}
    expected = {launch_id: (ids[launch_id], state) for launch_id, state in there.items()}
    queue = open_queue(Sge())

    def listed():
        jobs = queue.listing().values()
        return {job.launch_id: (job.job_id, job.state) for job in jobs}

    gridengine.wait_until(lambda: listed() == expected)
    gridengine.wait_until(lambda: len(queue.ends(ids.values())) == 4)
    ends = queue.ends(ids.values())
    told = {number: ends[job_id].state for number, job_id in ids.items() if job_id in ends}
    assert told == {1: "FAILED", 4: "TIMEOUT", 71: "COMPLETED", 72: "COMPLETED"}
    assert (ends[ids[1]].exit_code, ends[ids[4]].signal) == (7, 9)
    assert ends[ids[4]].limit == 1
    assert "h_rt" in ends[ids[4]].reason
    for index, submission in enumerate(array, 1):
        assert (submission.script.parent / "ran").read_text() == f"{index}\n"

    queue.cancel([ids[2], ids[3], ids[5], "999999"])
    gridengine.wait_until(lambda: listed() == {})


def test_the_defaults_of_a_user(gridengine, sge_queue, staged):
    """`.sge_qstat` may leave out what waits, `.sge_request` may change what qsub prints."""
    common = gridengine.home / "root/default/common"
    (common / "sge_qstat").write_text("-s r\n")
    (common / "sge_request").write_text("-terse\n")
    try:
        held = submit(sge_queue, staged(1, "true", head=f"{HEAD}#$ -h\n"))[1]
        listing = sge_queue.listing()
    finally:
        (common / "sge_qstat").unlink()
        (common / "sge_request").unlink()
    assert listing[held.job_id].launch_id == 1


def test_its_limit_and_its_silence(gridengine, sge_queue, open_queue, staged, monkeypatch):
    with gridengine.limited(2):
        outcomes = submit(sge_queue, *(staged(number, "exec sleep 600") for number in range(8)))
    errors = [outcome.error for outcome in outcomes.values() if outcome.error]
    assert len(errors) == 6
    assert all(isinstance(error, LimitReached) for error in errors)
    assert "2 jobs are allowed per user" in errors[0].title
    sge_queue.cancel(outcome.job_id for outcome in outcomes.values() if outcome.job_id)

    monkeypatch.setenv("SGE_QMASTER_PORT", "1")
    with pytest.raises(QueueSilent):
        sge_queue.listing()
    outcome = submit(sge_queue, staged(9, "true"))[9]
    assert isinstance(outcome.error, QueueSilent)
    assert not outcome.doubtful
