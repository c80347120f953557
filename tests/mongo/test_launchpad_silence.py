"""A queue that does not tell what it has: its claims wait, and nobody waits for them. And what Fireworks have had."""

import pytest

from fwcore.launchpad import LaunchPad
from tests.support.launchpads import WORKER, add


class Told:
    """What the queue says: None, or {launch_id: job id}."""

    def __init__(self):
        self.answer = None
        self.asked = []

    def __call__(self, host, launch_ids):
        self.asked.append(sorted(launch_ids))
        return self.answer


@pytest.fixture
def queue(lp):
    queue = Told()
    lp.submitted, lp.queue_name = queue, "q"
    return queue


@pytest.fixture
def heir(db_uri, lp_name, queue):
    """Another agent on the same queue."""
    launchpad = LaunchPad.from_uri(db_uri, lp_name)
    launchpad.submitted, launchpad.queue_name = queue, "q"
    yield launchpad
    launchpad.close()


def claim(lp):
    add(lp, {"a": "", "b": "", "c": ""})
    claims = lp.claim(WORKER, 3, hold=True)
    lp.open_runs(claims)
    return [each.launch_id for each in claims]


def job_ids(db):
    launches = db.launches.find({}, sort=[("launch_id", 1)])
    return [launch["state_history"][0].get("reservation_id") for launch in launches]


def journal(db):
    return db.fwagent_journal.count_documents({"void": {"$exists": False}})


def test_what_is_postponed_is_decided_when_the_queue_tells(lp, db, queue):
    one, two, three = claim(lp)
    lp.record_jobs({one: "j1"})
    lp.postpone()
    for _look in range(2):
        lp.resume()
        assert lp.counts() == {"RESERVED": 3}
    # Only what is not known is asked for, and only by `resume`: others go on.
    assert queue.asked == [[two, three]] * 2
    add(lp, {"d": ""})
    assert len(lp.claim(WORKER, 1)) == 1
    assert len(queue.asked) == 2
    assert journal(db) == 1

    queue.answer = {two: "j2"}
    lp.resume()
    assert lp.counts() == {"RESERVED": 3, "READY": 1}
    assert job_ids(db)[:3] == ["j1", "j2", None]
    assert journal(db) == 0
    lp.resume()
    assert len(queue.asked) == 3


def test_a_job_without_a_number_is_a_job(lp, db, queue):
    one, *_others = claim(lp)
    lp.postpone()
    queue.answer = {one: ""}
    lp.resume()
    assert lp.counts() == {"RESERVED": 1, "READY": 2}
    assert set(job_ids(db)) == {None}


def test_a_failed_launch_waits_as_well(lp, db, queue):
    claim(lp)
    lp.abandon()
    add(lp, {"d": ""})
    lp.resume()
    assert lp.counts() == {"RESERVED": 3, "READY": 1}
    queue.answer = {}
    lp.resume()
    assert lp.counts() == {"READY": 4}


def test_the_next_agent_decides_what_one_has_left(lp, heir, db, queue):
    lease = lp.acquire_lease("here", "A", 60)
    lp.serve(lease, 60)
    claim(lp)
    lp.postpone()
    lp.release_lease(lease)
    assert lp.counts() == {"RESERVED": 3}
    queue.answer = {}
    lease = heir.acquire_lease("here", "B", 60)
    assert lease.owner == "B"
    assert heir.counts() == {"READY": 3}
    assert journal(db) == 0


def test_so_does_the_next_command(lp, heir, db, queue):
    claim(lp)
    lp.postpone()
    lp.close()
    assert heir.resume(lambda _host, _pid: True) == 0
    assert heir.counts() == {"RESERVED": 3}
    queue.answer = {}
    assert heir.resume(lambda _host, _pid: True) == 1
    assert heir.counts() == {"READY": 3}


# ------------------------------------------------------------------------------------- trouble


def test_trouble_is_counted_by_kind(lp, db):
    ids = add(lp, {"a": "", "b": ""})
    a, b = ids["a"], ids["b"]
    assert lp.count_trouble("rejected", {}) == {}
    assert lp.count_trouble("rejected", {a: "no $such queue"}) == {a: 1}
    assert lp.count_trouble("rejected", {a: "$reason", b: ""}) == {a: 2, b: 1}
    assert lp.count_trouble("vanished", {a: "x"}) == {a: 1}
    lp.forget_trouble("rejected", [a, 99])
    assert lp.count_trouble("rejected", {a: "again", b: "again"}) == {a: 1, b: 2}
    assert lp.count_trouble("vanished", {a: "x"}) == {a: 2}
    stored = db.fwagent_trouble.find_one({"_id": b})
    assert (stored["rejected"], stored["reason"]) == (2, "again")


def test_another_firework_of_the_same_number_begins_anew(lp, db):
    (fw_id,) = add(lp, {"a": ""}).values()
    lp.count_trouble("rejected", {fw_id: "x"})
    db.fireworks.delete_many({})
    db.workflows.delete_many({})
    db.fw_id_assigner.update_one({}, {"$set": {"next_fw_id": fw_id}})
    assert add(lp, {"a": ""}) == {"a": fw_id}
    assert lp.count_trouble("rejected", {fw_id: "x"}) == {fw_id: 1}
