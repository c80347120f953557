"""PBS and LSF by commands on PATH that behave as real ones do on bad days."""

import os
import time

import pytest

from agent.jobs import Closed, LimitReached, QueueSilent, Rejected, Submission
from agent.queue import batch, command
from agent.queue.batch import BatchQueue
from agent.queue.lsf import Lsf
from agent.queue.pbs import Pbs

# Takes a job as PBS does. $FAKE holds the jobs, and what the commands are to do.
QSUB = """#!/bin/sh
mode=$(cat "$FAKE/mode" 2>/dev/null)
echo "$@" >> "$FAKE/calls"
case $mode in
  slow) sleep 0.3 ;;
  hangs) sleep 60 & exec sleep 60 ;;
  refuses) echo "qsub: Unknown queue" >&2; exit 170 ;;
  closed) case " $* " in *:[1-4][0-9]:*) echo "qsub: Queue is not enabled" >&2; exit 184 ;; esac ;;
  full) test "$(ls "$FAKE/jobs" | wc -l)" -ge 3 && { echo "qsub: would exceed queue w's per-user limit" >&2; exit 1;
    } ;;
  arrayless) case " $* " in *" -J "*) echo "usage: qsub" >&2; exit 2 ;; esac ;;
  small) case " $* " in *" -J 1-"[3-9]*) echo "qsub: would exceed limit on jobs" >&2; exit 1 ;; esac ;;
  endless) exec cat /dev/zero ;;
esac
case " $* " in *" -J "*) brackets='[]' ;; esac
while [ "$1" != -v ]; do shift; done
number=100
until mkdir "$FAKE/taken-$number" 2>/dev/null; do number=$((number + 1)); done
echo "$2" > "$FAKE/jobs/$number$brackets"
test "$mode" = banner && echo "Welcome to node 7."
test "$mode" = takes-and-hangs && exec sleep 60
test "$mode" = no-id || echo "$number$brackets.pbs"
"""
QSELECT = """#!/bin/sh
mode=$(cat "$FAKE/mode" 2>/dev/null)
test "$mode" = mute && exec sleep 60
test "$mode" = down && { echo "qselect: cannot connect to server pbs (errno=111)" >&2; exit 111; }
test "$mode" = banner && echo "Welcome to node 7."
for job in "$FAKE"/jobs/*; do test -e "$job" && echo "${job##*/}.pbs"; done
exit 0
"""
QSTAT = """#!/bin/sh
show() { printf 'Job Id: %s.pbs\\n    job_state = Q\\n    Variable_List = A=1,\\n\\t%s\\n\\n' "$1" "$2"; }
for job in "$FAKE"/jobs/*; do
  name=${job##*/}
  show "$name" "$(cat "$job")"
  case $name in *'[]') for index in 1 2; do show "${name%']'}$index]" "$(cat "$job")"; done ;; esac
done
"""
BSUB = """#!/bin/sh
cat > "$FAKE/script"
echo "$@" >> "$FAKE/calls"
env > "$FAKE/environment"
echo "Job <101> is submitted to default queue <normal>."
"""
BJOBS = """#!/bin/sh
test -e "$FAKE/calls" || { echo "No job found" >&2; exit 255; }
echo "JOBID|JOBINDEX|STAT|JOB_DESCRIPTION"
while read -r _ tag rest; do
  case $rest in
    *'[1-2]'*) for index in 1 2; do echo "101|$index|PEND|$tag"; done ;;
    *) echo "101|0|PEND|$tag" ;;
  esac
done < "$FAKE/calls"
"""


@pytest.fixture(autouse=True)
def fake(tmp_path, monkeypatch):
    """The directory of the fake scheduler, whose commands come first on PATH."""
    place = tmp_path / "fake"
    (place / "jobs").mkdir(parents=True)
    commands = {"qsub": QSUB, "qselect": QSELECT, "qstat": QSTAT, "bsub": BSUB, "bjobs": BJOBS}
    for name, text in commands.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(place))
    monkeypatch.setenv("FWAGENT_LAUNCHPAD_URI", "mongodb://me:hush-hush@x")
    monkeypatch.setattr(batch, "SETTLE_SECONDS", 0.01)
    return place


@pytest.fixture
def queue(tmp_path):
    (tmp_path / "root/outbox").mkdir(parents=True)
    return BatchQueue(Pbs(), "0123abcd", tmp_path / "root", timeout=20)


@pytest.fixture
def hasty(tmp_path):
    return BatchQueue(Pbs(), "0123abcd", tmp_path / "root", timeout=0.5)


@pytest.fixture
def staged(tmp_path):
    def stage(launch_id, array=None):
        place = tmp_path / f"l{launch_id}"
        place.mkdir()
        (place / "FW_submit.script").write_text("#PBS -v B=2\n")
        return Submission(launch_id, place / "FW_submit.script", "n", array)

    return stage


def submit(queue, *submissions):
    return {outcome.launch_id: outcome for outcome in queue.submit_all(submissions)}


def calls(fake):
    return (fake / "calls").read_text().splitlines()


def launches(queue):
    return {job.launch_id: job_id for job_id, job in queue.listing().items()}


def test_a_job_and_a_banner(fake, queue, staged):
    (fake / "mode").write_text("banner")
    outcome = submit(queue, staged(7))[7]
    assert outcome.job_id == "100.pbs"
    assert calls(fake) == [f"-v B=2,FWAGENT_LAUNCH=fwagent:7:0123abcd {staged_script(7, fake)}"]
    assert launches(queue) == {7: "100.pbs"}


def staged_script(launch_id, fake):
    return fake.parent / f"l{launch_id}" / "FW_submit.script"


def test_some_at_a_time(fake, queue, staged):
    """Sixteen that take 0.3 s each, four at once; the agent says meanwhile that it is alive."""
    (fake / "mode").write_text("slow")
    tended = []
    before = time.monotonic()
    outcomes = list(queue.submit_all([staged(n) for n in range(4)], lambda: tended.append(1)))
    assert len(outcomes) == 4
    assert time.monotonic() - before < 1.1
    assert tended


@pytest.mark.parametrize("mode", ["no-id", "takes-and-hangs"])
def test_taken_without_a_word_it_is_found_in_the_listing(fake, hasty, staged, mode):
    (fake / "mode").write_text(mode)
    outcome = submit(hasty, staged(7))[7]
    assert outcome.error is None
    assert outcome.job_id == launches(hasty)[7]


def test_no_answer_is_doubt_and_stops_the_rest(fake, hasty, staged):
    (fake / "mode").write_text("hangs")
    before = time.monotonic()
    outcomes = submit(hasty, *(staged(number) for number in range(20)))
    assert time.monotonic() - before < 10
    doubtful = {number for number, outcome in outcomes.items() if outcome.doubtful}
    assert 1 <= len(doubtful) <= 4
    assert all(isinstance(outcomes[number].error, QueueSilent) for number in doubtful)
    assert {type(outcomes[n].error) for n in outcomes.keys() - doubtful} == {LimitReached}
    # It has answered now, but what it was asked may still be on its way.
    assert hasty.submitted("h", [min(doubtful)]) is None
    assert hasty.submitted("h", [99]) == {}


def test_taken_without_an_id_where_nothing_is_listed(fake, hasty, staged, monkeypatch):
    (fake / "mode").write_text("no-id")
    monkeypatch.setattr(Pbs, "read_listing", lambda _self, _rans: [])
    outcome = submit(hasty, staged(7))[7]
    assert outcome.doubtful
    assert "told no id" in str(outcome.error)


def test_a_limit_leaves_room_for_some(fake, queue, staged):
    (fake / "mode").write_text("full")
    outcomes = submit(queue, *(staged(number) for number in range(12)))
    errors = [outcome.error for outcome in outcomes.values() if outcome.error]
    assert {type(error) for error in errors} == {LimitReached}
    assert not any(outcome.doubtful for outcome in outcomes.values())
    assert sorted(launches(queue)) == sorted(n for n in outcomes if not outcomes[n].error)


def test_refused(fake, queue, staged):
    (fake / "mode").write_text("refuses")
    error = submit(queue, staged(7))[7].error
    assert isinstance(error, Rejected)
    assert error.title == "qsub has rejected the script: qsub: Unknown queue"


def test_what_goes_to_a_closed_queue_waits_and_keeps_nothing_else(fake, queue, staged):
    (fake / "mode").write_text("closed")
    outcomes = submit(queue, *(staged(number) for number in range(10, 54) if not 30 <= number < 50))
    errors = {number: outcome.error for number, outcome in outcomes.items() if outcome.error}
    assert sorted(errors) == list(range(10, 30))
    assert all(isinstance(error, Closed) for error in errors.values())


def test_a_closed_queue_is_not_asked_for_all_of_them(fake, queue, staged, monkeypatch):
    (fake / "mode").write_text("closed")
    monkeypatch.setattr(batch, "CLOSED_IN_A_ROW", 4)
    outcomes = submit(queue, *(staged(number) for number in range(10, 30)))
    kinds = [type(outcome.error) for outcome in outcomes.values()]
    assert set(kinds) == {Closed, LimitReached}
    assert kinds.count(Closed) == len(calls(fake)) < 10


def test_endless_output_is_no_answer(fake, queue, staged, monkeypatch):
    monkeypatch.setattr(command, "MAX_OUTPUT", 1_000_000)
    (fake / "mode").write_text("endless")
    error = submit(queue, staged(7))[7].error
    assert isinstance(error, QueueSilent)
    assert "more than 1000000 bytes" in error.title


@pytest.mark.parametrize("mode", ["mute", "down"])
def test_silence_is_no_empty_queue(fake, hasty, mode):
    (fake / "mode").write_text(mode)
    with pytest.raises(QueueSilent):
        hasty.listing()
    assert hasty.submitted("h", [1]) is None


def test_a_launch_that_has_reported_had_a_job(queue, tmp_path):
    (tmp_path / "root/outbox/7.abc.started.json").touch()
    assert queue.submitted("h", [7, 8]) == {7: ""}


def test_an_array(fake, queue, staged):
    text = "#PBS -N x\ncat @FWAGENT_ARRAY@/launches\n"
    outcomes = submit(queue, staged(7, text), staged(8, text))
    assert [outcomes[n].job_id for n in (7, 8)] == ["100[1].pbs", "100[2].pbs"]
    (call,) = calls(fake)
    assert " -J 1-2 " in call
    (place,) = (fake.parent / "root/arrays").iterdir()
    script = (place / "FW_submit.script").read_text()
    assert script == f"#PBS -N x\ncat {place}/launches\n"


def test_an_array_that_was_taken_without_a_word(fake, queue, staged):
    (fake / "mode").write_text("no-id")
    outcomes = submit(queue, staged(7, "x"), staged(8, "x"))
    assert [outcomes[n].job_id for n in (7, 8)] == ["100[1].pbs", "100[2].pbs"]
    assert queue.submitted("h", [8, 9]) == {8: "100[2].pbs"}
    assert len(calls(fake)) == 1


def test_an_array_that_is_too_large_is_halved(fake, queue, staged):
    (fake / "mode").write_text("small")
    outcomes = submit(queue, *(staged(number, "x") for number in range(5)))
    assert not any(outcome.error for outcome in outcomes.values())
    sizes = [call.partition(" -J ")[2].partition(" ")[0] for call in calls(fake)]
    assert sorted(sizes) == ["", "1-2", "1-2", "1-3", "1-5"]
    # What was refused has left no manifest.
    assert len(list((fake.parent / "root/arrays").iterdir())) == 2


def test_torque_has_no_such_arrays(fake, queue, staged):
    (fake / "mode").write_text("arrayless")
    outcomes = submit(queue, staged(7, "x"), staged(8, "x"))
    assert sorted(launches(queue)) == [7, 8]
    assert not any(outcome.error for outcome in outcomes.values())


def test_lsf_reads_its_script_and_no_secret(fake, tmp_path, staged):
    queue = BatchQueue(Lsf(), "0123abcd", tmp_path / "root")
    assert queue.listing() == {}
    assert submit(queue, staged(7))[7].job_id == "101"
    assert (fake / "script").read_text() == "#PBS -v B=2\n"
    assert calls(fake) == ["-Jd fwagent:7:0123abcd"]
    environment = (fake / "environment").read_text()
    assert "hush-hush" not in environment
    assert "LSB_NTRIES=1" in environment
    assert launches(queue) == {7: "101"}


def test_an_lsf_array(fake, tmp_path, staged):
    queue = BatchQueue(Lsf(), "0123abcd", tmp_path / "root")
    outcomes = submit(queue, staged(7, "x"), staged(8, "x"))
    assert {n: outcome.job_id for n, outcome in outcomes.items()} == {7: "101[1]", 8: "101[2]"}
    assert launches(queue) == {7: "101[1]", 8: "101[2]"}


def test_no_such_command(queue, staged, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(QueueSilent, match="qselect cannot be run"):
        queue.listing()
    outcome = submit(queue, staged(7))[7]
    assert isinstance(outcome.error, QueueSilent)
    assert not outcome.doubtful
