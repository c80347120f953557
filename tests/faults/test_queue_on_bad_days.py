"""Each dialect with commands on PATH that behave as real ones do on bad days."""

import os
import time
from collections.abc import Callable

import pytest

from agent.jobs import QueueSilent, Rejected, Submission
from agent.queue import batch
from agent.queue.batch import BatchQueue
from agent.queue.dialect import Dialect
from agent.queue.lsf import Lsf
from agent.queue.pbs import Pbs
from agent.queue.sge import Sge
from agent.queue.slurm import Slurm

# Keeps the arguments of each call. $TOLD, what it prints of a job, and $REFUSED are in its own words.
SUBMIT = """\
#!/bin/sh
TOLD='{told}' REFUSED='{refused}'
mode=$(cat "$FAKE/mode")
echo "$@" >> "$FAKE/calls"
case $mode in
  slow) sleep 0.3 ;;
  hangs) sleep 60 & exec sleep 60 ;;
  refuses) echo "$REFUSED" >&2; exit 1 ;;
  banner) printf 'Welcome to node 7, <5> users.\\n\\n' ;;
esac
echo "$@" >> "$FAKE/jobs"
test "$mode" = no-id || echo "$TOLD"
"""
# In each line of jobs are the arguments of a submit, and among them its tag.
TAG = "tag=$(expr \"$line\" : '.*\\(fwagent[:.][0-9]*[:.][0-9a-f]*\\)')"
JOBS = f'test -e "$FAKE/jobs" && while read -r line; do {TAG}; '
LISTINGS = {
    "squeue": 'echo "fwagent|JOBID|ST|REASON|COMMENT"\n'
    + JOBS
    + 'echo "fwagent|100|PD|None|$tag"; done < "$FAKE/jobs"',
    "qselect": 'test -e "$FAKE/jobs" && echo 100.pbs',
    "qstat": JOBS
    + 'printf "Job Id: 100.pbs\\n    job_state = Q\\n    Variable_List = A=1,\\n\\t%s\\n\\n" '
    '"FWAGENT_LAUNCH=$tag"; done < "$FAKE/jobs"',
    "bjobs": 'echo "JOBID|JOBINDEX|STAT|JOB_DESCRIPTION"\n'
    + JOBS
    + 'echo "100|0|PEND|$tag"; done < "$FAKE/jobs"',
}
SGE_LISTING = (
    "echo \"<?xml version='1.0'?><job_info>\"\n"
    + JOBS
    + 'echo "<job_list><JB_job_number>100</JB_job_number><JB_name>$tag</JB_name><state>qw</state></job_list>"; '
    'done < "$FAKE/jobs"\necho "</job_info>"'
)
DIALECTS: dict[str, tuple[Callable[[], Dialect], str, str, str, str]] = {
    "slurm": (Slurm, "sbatch", "Submitted batch job 100",
              "sbatch: error: invalid partition specified: nope", "100"),
    "pbs": (Pbs, "qsub", "100.pbs", "qsub: Unknown queue", "100.pbs"),
    "sge": (Sge, "qsub", 'Your job 100 ("x") has been submitted',
            "Unable to run job: unknown queue nope.", "100"),
    "lsf": (Lsf, "bsub", "Job <100> is submitted to queue <normal>.",
            "nope: No such queue. Job not submitted.", "100"),
}  # fmt: skip


@pytest.fixture
def fake(tmp_path, monkeypatch):
    place = tmp_path / "fake"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(place))
    monkeypatch.setattr(batch, "SETTLE_SECONDS", 0.01)
    return place


@pytest.fixture(params=DIALECTS)
def kind(request):
    return request.param


@pytest.fixture
def bad_day(fake, tmp_path, kind):
    """A queue whose commands are in a mode."""
    dialect, name, told, refused, _job_id = DIALECTS[kind]
    commands = {**LISTINGS, name: SUBMIT.format(told=told, refused=refused)}
    if kind == "sge":
        commands["qstat"] = SGE_LISTING
    for command, text in commands.items():
        (fake / command).write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\ntrue\n")
        (fake / command).chmod(0o755)
    (tmp_path / "root/outbox").mkdir(parents=True)

    def be(mode, timeout=20):
        (fake / "mode").write_text(mode)
        return BatchQueue(dialect(), "0123abcd", tmp_path / "root", timeout=timeout)

    return be


def submit(queue, tmp_path):
    place = tmp_path / "l7"
    place.mkdir()
    script = place / "FW_submit.script"
    script.write_text("#!/bin/sh\n")
    (outcome,) = queue.submit_all([Submission(7, script, "n", None)])
    return outcome


@pytest.mark.parametrize("mode", ["slow", "banner", "no-id"])
def test_it_is_taken(bad_day, tmp_path, fake, kind, mode):
    """With an id in the midst of other words, or without one: then it is found by its tag."""
    queue = bad_day(mode)
    outcome = submit(queue, tmp_path)
    assert (outcome.error, outcome.job_id) == (None, DIALECTS[kind][-1])
    assert {job.launch_id for job in queue.listing().values()} == {7}
    assert len((fake / "calls").read_text().splitlines()) == 1


def test_it_refuses_in_its_own_words(bad_day, tmp_path, kind):
    outcome = submit(bad_day("refuses"), tmp_path)
    assert isinstance(outcome.error, Rejected)
    assert DIALECTS[kind][3] in outcome.error.title
    assert not outcome.doubtful


def test_it_hangs(bad_day, tmp_path):
    queue = bad_day("hangs", timeout=0.4)
    before = time.monotonic()
    outcome = submit(queue, tmp_path)
    assert time.monotonic() - before < 5
    assert isinstance(outcome.error, QueueSilent)
    assert outcome.doubtful
    # It may still come.
    assert queue.submitted("h", [7]) is None
