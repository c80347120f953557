"""The LaunchPad on a real server: making one, adding workflows, looking, registered directories, leases."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest

from fwcore.errors import InvalidWorkflow, NotInitialized
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.journal import Fenced
from tests.support.launchpads import TASKS, WORKER, Wire, add, report, reports, stage

# ---------------------------------------------------------------------------------------- a new one


@pytest.fixture
def empty(mongo_client, db_name):
    return mongo_client[db_name]


@pytest.fixture
def bare(db_uri, db_name):
    launchpad = LaunchPad.from_uri(db_uri, db_name)
    yield launchpad
    launchpad.close()


def test_nothing_works_before_there_is_a_launchpad(bare, db_name) -> None:
    with pytest.raises(NotInitialized, match=db_name) as caught:
        bare.check()
    assert "fwagent add" in caught.value.hint
    with pytest.raises(NotInitialized):
        bare.add({"spec": {"_tasks": TASKS}})


def test_a_launchpad_is_made_once(bare, empty) -> None:
    assert bare.initialize() is True
    bare.check()
    assert empty.fw_id_assigner.find_one() == {"_id": -1, "next_fw_id": 1, "next_launch_id": 1}
    add(bare, {"a": ""})
    assert bare.initialize() is False
    assert empty.fw_id_assigner.find_one()["next_fw_id"] == 2
    bare.prepare()


def test_a_launchpad_that_has_lost_its_counter_is_not_given_a_new_one(bare, empty) -> None:
    empty.fireworks.insert_one({"fw_id": 7})
    with pytest.raises(NotInitialized, match="no id counter"):
        bare.initialize()
    assert empty.fw_id_assigner.find_one() is None


def test_two_agents_make_one_launchpad(db_uri, db_name, bare, empty) -> None:
    wire = Wire()
    slow = LaunchPad.from_uri(db_uri, db_name, event_listeners=[wire])
    wire.interrupt("insert", "fw_id_assigner", bare.initialize)
    assert slow.initialize() is False
    assert wire.interrupted
    slow.close()
    assert empty.fw_id_assigner.count_documents({}) == 1


# --------------------------------------------------------------------------------------------- adding


def test_add(lp, db) -> None:
    ids = add(lp, {"a": "bc"}, {"a": {"deep": {"a.b": 1, "$c": [1.0, True, None]}}})
    assert ids == {"a": 1, "b": 2, "c": 3}
    assert add(lp, {"a": ""}) == {"a": 4}
    found = {doc["fw_id"]: doc for doc in db.fireworks.find()}
    assert {i: doc["state"] for i, doc in found.items()} == {
        1: "READY",
        2: "WAITING",
        3: "WAITING",
        4: "READY",
    }
    assert found[1]["spec"]["deep"] == {"a.b": 1, "$c": [1.0, True, None]}
    workflow = db.workflows.find_one({"nodes": 1})
    assert workflow["nodes"] == [1, 2, 3]
    assert workflow["state"] == "READY"
    assert workflow["fw_states"] == {"1": "READY", "2": "WAITING", "3": "WAITING"}


def test_a_root_cannot_be_picked_before_its_workflow_is_there(db_uri, lp_name, lp, db) -> None:
    wire = Wire()
    slow = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    seen: list[str] = []
    wire.interrupt(
        "insert", "workflows", lambda: seen.extend(doc["state"] for doc in db.fireworks.find())
    )
    add(slow, {"a": "b"})
    slow.close()
    assert seen == ["WAITING", "WAITING"]


@pytest.mark.parametrize(
    "source",
    [
        {"spec": {"_tasks": []}, "fw_id": 1, "state": "NONSENSE"},
        {"fws": [{"fw_id": 1, "spec": {"_tasks": TASKS}}], "metadata": {"n": 2**70}},
        {"fws": [{"fw_id": 1, "spec": {"_tasks": TASKS}}], "metadata": {"n": {1, 2}}},
        {"fws": [{"fw_id": 1, "spec": {"_tasks": TASKS, "n": 2**64}}]},
        {"fws": [{"fw_id": 1, "spec": {"_tasks": TASKS, "t": "\ud800"}}]},
        {"fws": [{"fw_id": 1, "spec": {"_tasks": TASKS, "a\0b": 1}}]},
        {"fws": [{"fw_id": 1, "spec": {"_tasks": TASKS, "large": "x" * 17_000_000}}]},
    ],
    ids=["state", "large-int", "set", "large-int-in-spec", "surrogate", "nul-key", "17MB"],
)
def test_a_workflow_that_cannot_be_stored_leaves_nothing_behind(lp, db, source) -> None:
    with pytest.raises(InvalidWorkflow) as caught:
        lp.add(source)
    assert caught.value.hint
    assert db.fireworks.count_documents({}) == 0
    assert db.workflows.count_documents({}) == 0


def test_a_large_workflow_costs_no_more_commands(db_uri, lp_name, lp) -> None:
    wire = Wire()
    watched = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    lengths = []
    for count in (1, 400):
        before = len(wire.commands)
        watched.add({"fws": [{"fw_id": n, "spec": {"_tasks": TASKS}} for n in range(count)]})
        lengths.append(len(wire.commands) - before)
    watched.close()
    assert lengths[0] == lengths[1] <= 5


# -------------------------------------------------------------------------------------------- looking


def test_what_is_open(lp, db) -> None:
    ids = add(lp, dict.fromkeys("abcd", ""))
    claims = stage(lp, *ids.values())
    lp.apply([report(claims[1], "RUNNING"), report(claims[2])])
    db.offline_runs.update_one({"launch_id": claims[3].launch_id}, {"$set": {"deprecated": True}})
    db.launches.update_one({"launch_id": claims[1].launch_id}, {"$set": {"fworker": None}})

    found = {launch.launch_id: launch for launch in lp.open_launches()}
    assert set(found) == {claims[0].launch_id, claims[1].launch_id}
    first = found[claims[0].launch_id]
    assert (first.fw_id, first.state, first.worker) == (ids["a"], "RESERVED", "here")
    assert first.launch_dir == claims[0].launch_dir
    assert found[claims[1].launch_id].worker == ""
    assert [launch.launch_id for launch in lp.open_launches("here")] == [claims[0].launch_id]
    assert lp.open_launches("there") == []
    closed = lp.find_launches([claims[2].launch_id, 999])
    assert [(launch.launch_id, launch.state) for launch in closed] == [
        (claims[2].launch_id, "COMPLETED")
    ]


def test_what_is_active(lp, db) -> None:
    ids = add(lp, dict.fromkeys("abcd", ""))
    claims = stage(lp, *ids.values())
    lp.apply([report(claims[1], "RUNNING"), report(claims[2])])
    everything = [claim.launch_id for claim in claims]
    db.fireworks.update_one(
        {"fw_id": ids["d"]}, {"$set": {"launches": [], "archived_launches": [claims[3].launch_id]}}
    )
    assert lp.active_launches([*everything, 999]) == set(everything[:2])
    assert lp.active_launches([]) == set()
    assert lp.launch_ids_of([ids["a"], ids["d"], 99]) == {everything[0]}
    assert lp.active_count("here") == {"RESERVED": 2, "RUNNING": 1}
    assert lp.active_count("there") == {"RESERVED": 0, "RUNNING": 0}
    assert lp.stray_count("here") == {"RESERVED": 1, "RUNNING": 0}
    db.launches.insert_one({"state": "RUNNING", "fworker": {"name": "here"}, "launch_dir": "/x"})
    db.fireworks.insert_one({"fw_id": 9999, "state": "RUNNING", "launches": everything[0]})
    assert lp.stray_count("here") == {"RESERVED": 1, "RUNNING": 0}
    assert lp.overwritten("here", ()) == {}
    lp.defuse([ids["b"]])
    assert lp.stray_count("here") == {"RESERVED": 1, "RUNNING": 1}
    assert lp.stray_count("there") == {"RESERVED": 0, "RUNNING": 0}


def test_states_and_counts(lp) -> None:
    ids, other = add(lp, {"a": "b"}), add(lp, {"a": ""})
    lp.apply(reports(stage(lp, ids["a"]), "FIZZLED"))
    assert lp.fw_states() == {1: ("FIZZLED", "a"), 2: ("WAITING", "b"), 3: ("READY", "a")}
    assert lp.fw_states([other["a"], 99]) == {3: ("READY", "a")}
    assert lp.counts() == {"FIZZLED": 1, "WAITING": 1, "READY": 1}
    assert lp.workflow_states() == {1: "FIZZLED", 3: "READY"}


# ---------------------------------------------------------------------------------------- directories


def test_registered_directories(lp) -> None:
    lp.register("here", 1, "/a")
    lp.register("here", 2, "/b")
    lp.register("there", 3, "/a")
    assert lp.registered("here") == {1: "/a", 2: "/b"}
    lp.register("here", 1, "/c")
    assert lp.registered("here") == {1: "/c", 2: "/b"}
    assert lp.unregister("here", ["/b", "/a", "/nowhere"]) == ["/b"]
    assert lp.registered("here") == {1: "/c"}
    assert lp.registered("there") == {3: "/a"}
    lp.forget_registered([1, 3, 99])
    lp.forget_registered([])
    assert lp.registered("here") == lp.registered("there") == {}


# --------------------------------------------------------------------------------------------- leases


def test_one_holds_the_lease_until_it_is_given_back(lp) -> None:
    assert lp.lease("w") is None
    mine = lp.acquire_lease("w", "A", 60)
    assert (mine.owner, mine.epoch, mine.host) == ("A", 1, lp.host)
    assert mine.expires_at - mine.since == timedelta(seconds=60)
    assert lp.acquire_lease("w", "B", 60) == mine
    assert lp.acquire_lease("other", "B", 60).owner == "B"
    assert lp.lease("w") == (mine, True)

    renewed = lp.renew_lease(mine, 120)
    assert renewed is not None
    assert renewed.expires_at > mine.expires_at
    assert (renewed.epoch, renewed.since) == (1, mine.since)

    lp.release_lease(mine)
    found, live = lp.lease("w")
    assert (found.owner, live) == ("A", False)
    theirs = lp.acquire_lease("w", "B", 60)
    assert (theirs.owner, theirs.epoch) == ("B", 2)
    # The former holder can neither prolong it nor give away what is not its own.
    assert lp.renew_lease(mine, 60) is None
    lp.release_lease(mine)
    assert lp.lease("w") == (theirs, True)


def test_a_lease_that_has_run_out_can_be_taken(lp) -> None:
    late = lp.acquire_lease("w", "A", 0)
    taken = lp.acquire_lease("w", "B", 60)
    assert (taken.owner, taken.epoch) == ("B", 2)
    assert lp.renew_lease(late, 60) is None


def test_the_clock_of_the_host_does_not_matter(lp) -> None:
    def wrong_clock() -> datetime:
        raise AssertionError("the clock of the host was asked")

    skewed = LaunchPad(lp._db, clock=wrong_clock)
    assert skewed.acquire_lease("w", "A", 60).owner == "A"


def test_many_want_the_lease_and_one_gets_it(db_uri, lp_name, lp) -> None:
    launchpads = [LaunchPad.from_uri(db_uri, lp_name) for _ in range(6)]

    def acquire(number: int):
        return launchpads[number].acquire_lease("w", f"agent {number}", 60)

    with ThreadPoolExecutor(len(launchpads)) as pool:
        leases = list(pool.map(acquire, range(len(launchpads))))
    for launchpad in launchpads:
        launchpad.close()
    assert len({(lease.owner, lease.epoch) for lease in leases}) == 1
    assert leases[0].epoch == 1


def test_a_batch_needs_the_lease_and_prolongs_it(lp, db) -> None:
    claims = stage(lp, add(lp, {"a": ""})["a"], add(lp, {"a": ""})["a"])
    mine = lp.acquire_lease("w", "A", 1)
    lp.serve(mine, 60)
    lp.apply(reports(claims[:1]))
    found, live = lp.lease("w")
    assert live
    assert found.expires_at - mine.expires_at > timedelta(seconds=50)

    lp.release_lease(found)
    lp.serve(found, 60)
    with pytest.raises(Fenced) as why:
        lp.apply(reports(claims[1:]))
    assert "stopped for longer than it may be" in why.value.title
    assert db.workflows.count_documents({"locked": {"$exists": True}}) == 0

    lp.serve(lp.acquire_lease("w", "A", 60), 60)
    assert len(lp.apply(reports(claims[1:])).applied) == 1
    assert db.fwagent_sessions.count_documents({"dead": {"$exists": False}}) == 0


def test_a_lock_is_not_taken_when_the_lease_has_ended_on_the_way(db_uri, lp_name, lp, db) -> None:
    wire = Wire()
    slow = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    told = reports(stage(lp, add(lp, {"a": ""})["a"]))
    slow.serve(slow.acquire_lease("w", "A", 60), 0.2)
    locks: list[int] = []

    def heir() -> None:
        deadline = time.monotonic() + 10
        while lp.acquire_lease("w", "B", 60).owner != "B":
            assert time.monotonic() < deadline
        wire.interrupt("find", "workflows", look)

    def look() -> None:
        locks.append(db.workflows.count_documents({"locked": {"$exists": True}}))

    wire.interrupt("update", "workflows", heir)
    with pytest.raises(Fenced):
        slow.apply(told)
    slow.close()
    assert wire.interrupted
    assert locks == [0]
    assert len(lp.apply(told).applied) == 1


def test_a_new_holder_makes_whole_what_the_last_one_has_begun(db_uri, lp_name, lp, db) -> None:
    wire = Wire()
    slow = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    ids = add(lp, {"a": "b"})
    told = reports(stage(lp, ids["a"]))
    lease = slow.acquire_lease("w", "A", 60)
    slow.serve(lease, 60)

    def cut() -> None:
        lp.release_lease(lease)
        raise KeyboardInterrupt

    wire.interrupt("update", "fireworks", cut)
    with pytest.raises(KeyboardInterrupt):
        slow.apply(told)
    assert db.fwagent_journal.count_documents({}) == 1
    assert lp.acquire_lease("w", "B", 60).owner == "B"
    assert db.fireworks.find_one({"fw_id": ids["b"]})["state"] == "READY"
    assert db.workflows.count_documents({"locked": {"$exists": True}}) == 0
    assert db.fwagent_journal.count_documents({"void": {"$exists": False}}) == 0
    slow.close()


def test_nobody_is_asked_to_work_for_nothing(db_uri, lp_name, lp) -> None:
    wire = Wire()
    idle = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    assert idle.apply([]) == idle.cancel([])
    idle.open_runs([])
    idle.record_jobs({})
    idle.forget_registered([])
    assert idle.claim(WORKER, 0) == []
    assert wire.commands == []
    idle.close()
