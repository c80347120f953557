"""How many go out: what the configuration allows, and what the queue takes."""

import pytest

from agent.config import load_config
from agent.jobs import LimitReached, Submitted
from agent.launch import WayOut
from agent.results import Result
from tests.support.agent import write_toml
from tests.support.launchpads import WORKER, add


class Limited:
    """Takes as many jobs as there is room for."""

    lists = True

    def __init__(self, room):
        self.room = room
        self.tried = []

    def submit_all(self, submissions, tend):
        self.tried.append(len(submissions))
        self.names = [submission.name for submission in submissions]
        for number, submission in enumerate(submissions):
            tend()
            if number < self.room:
                yield Submitted(submission.launch_id, f"j{submission.launch_id}")
            else:
                yield Submitted(submission.launch_id, error=LimitReached("no more"))

    def depth(self):
        return None


@pytest.fixture
def way_out(lp, tmp_path):
    def make(queue, **launch):
        tree = {
            "launchpad": {"uri": "mongodb://db.example.org/"},
            "worker": {"name": WORKER.name},
            "launch": {"root": str(tmp_path / "root"), **launch},
            "queue": {"type": "slurm"},
        }
        return WayOut(lp, load_config(write_toml(tmp_path / "c.toml", tree)), queue, WORKER)

    return make


def go(way_out):
    result = Result()
    way_out.launch(way_out.capacity(), result)
    return result


def test_a_full_queue_is_tried_with_one_until_there_is_room(lp, db, way_out):
    add(lp, {str(number): "" for number in range(20)})
    queue = Limited(room=3)
    out = way_out(queue)
    result = go(out)
    assert (len(result.submitted), len(result.claimed), len(result.deferred)) == (3, 3, 17)
    assert lp.counts() == {"READY": 17, "RESERVED": 3}
    assert out.crowded
    queue.room = 0
    for _again in range(2):
        assert go(out).submitted == []
    queue.room = 100
    for _again in range(4):
        go(out)
    assert queue.tried == [20, 1, 1, 1, 2, 4, 8]
    assert not out.crowded
    # What was never tried has no launch that was taken back.
    assert db.launches.count_documents({"state": "READY"}) == 17 + 2
    assert db.fwagent_journal.count_documents({"void": {"$exists": False}}) == 0


def test_what_runs_counts_in_a_batch_queue(lp, way_out):
    add(lp, {str(number): "" for number in range(20)})
    queue = Limited(room=100)
    out = way_out(queue, max_queued=8, max_running=5)
    assert len(go(out).submitted) == 5
    assert out.capacity() == 0
    assert way_out(queue, max_queued=8).capacity() == 3
    assert way_out(queue, max_queued=3).capacity() == 0


def test_launches_that_nothing_counts_on_any_more_take_no_room(lp, way_out):
    """As rerun, defuse_fws and archive_wflows leave them, in FireWorks too: RESERVED or RUNNING for good."""
    add(lp, {str(number): "" for number in range(4)})
    queue = Limited(room=100)
    out = way_out(queue, max_queued=2)
    claimed = [row["fw_id"] for row in go(out).claimed]
    lp.defuse(claimed[:1])
    lp.rerun(claimed[1:])
    assert len(go(out).submitted) == 2
    assert out.capacity() == 0


def test_names_that_are_none(lp, db, way_out):
    """Any program may have written them; one that cannot be used must not keep the others here."""
    ids = add(lp, {"a": "", "b": "", "c": "", "d": ""})
    for letter, name in {"a": 5, "b": None, "c": "n\x00\u2028\x1b[31m"}.items():
        db.fireworks.update_one({"fw_id": ids[letter]}, {"$set": {"name": name}})
    db.fireworks.update_one({"fw_id": ids["d"]}, {"$unset": {"name": 1}})
    queue = Limited(room=9)
    assert len(go(way_out(queue)).submitted) == 4
    assert sorted(queue.names) == ["", "5", "Unnamed_FW", "n31m"]
