"""A document that is not as it should be, or a report that cannot be stored, holds up nobody else."""

import pytest

from fwcore.launchpad import LaunchPad
from fwcore.launchpad.journal import Fenced
from tests.support.launchpads import TASKS, WORKER, Wire, add, report, stage

FIRST, CHILD = {"fw_id": 1}, {"fw_id": 2}
WORKFLOW, LAUNCH = {"nodes": 1}, {"launch_id": 1}

#: Damage to Firework 1 (of a workflow 1 -> 2) that leaves nothing to go by: (collection, whom, update).
HOPELESS = {
    "a spec that is missing": ("fireworks", FIRST, {"$unset": {"spec": ""}}),
    "a child's spec that is null": ("fireworks", CHILD, {"$set": {"spec": None}}),
    "a state that is missing": ("fireworks", FIRST, {"$unset": {"state": ""}}),
    "no links": ("workflows", WORKFLOW, {"$unset": {"links": ""}}),
    "links that are null": ("workflows", WORKFLOW, {"$set": {"links": None}}),
    "a link that is no list": ("workflows", WORKFLOW, {"$set": {"links.1": 2}}),
    "nodes that are no list": ("workflows", WORKFLOW, {"$set": {"nodes": 1}}),
    "an unknown parent": ("workflows", WORKFLOW, {"$set": {"parent_links.2": [1, 99]}}),
    "no history": ("launches", LAUNCH, {"$unset": {"state_history": ""}}),
    "a history of texts": ("launches", LAUNCH, {"$set": {"state_history": ["x"]}}),
    "no state of the launch": ("launches", LAUNCH, {"$unset": {"state": ""}}),
    "no fw_id of the launch": ("launches", LAUNCH, {"$unset": {"fw_id": ""}}),
}
#: Damage that says no more than that there is nothing, or that can be derived.
HARMLESS = {
    "launches that are null": ("fireworks", CHILD, {"$set": {"launches": None}}),
    "archived ones that are null": ("fireworks", FIRST, {"$set": {"archived_launches": None}}),
    "archived ones that are missing": ("fireworks", FIRST, {"$unset": {"archived_launches": ""}}),
    "fw_states that are null": ("workflows", WORKFLOW, {"$set": {"fw_states": None}}),
    "fw_states that are a list": ("workflows", WORKFLOW, {"$set": {"fw_states": []}}),
    "parent_links that are null": ("workflows", WORKFLOW, {"$set": {"parent_links": None}}),
    "a run without flags": (
        "offline_runs",
        LAUNCH,
        {"$unset": {"deprecated": "", "completed": ""}},
    ),
    "a run whose fwagent is a text": ("offline_runs", LAUNCH, {"$set": {"fwagent": "x"}}),
    "a run whose token is a list": ("offline_runs", LAUNCH, {"$set": {"fwagent": {"token": [1]}}}),
}


def damage(db, collection, whom, update):
    assert db[collection].update_one(whom, update).matched_count == 1


def nothing_left(db):
    assert db.workflows.count_documents({"locked": {"$exists": True}}) == 0
    assert db.fwagent_journal.count_documents({"void": {"$exists": False}}) == 0


def states(db):
    return {firework["fw_id"]: firework.get("state") for firework in db.fireworks.find()}


@pytest.fixture
def staged(lp):
    """Claims of Firework 1, with a child, and of 3 others that have nothing to do with it."""
    add(lp, {"a": "b"})
    others = [add(lp, {"x": ""})["x"] for _ in range(3)]
    return stage(lp, 1, *others)


@pytest.mark.parametrize("what", HOPELESS)
def test_one_report_is_deferred_the_others_are_applied(lp, db, staged, what):
    damage(db, *HOPELESS[what])
    result = lp.apply([report(claim) for claim in staged])
    (deferred,) = result.deferred
    assert deferred.launch_id == 1
    assert deferred.reason.startswith("its documents cannot be understood: ")
    assert [outcome.launch_id for outcome in result.applied] == [2, 3, 4]
    nothing_left(db)


@pytest.mark.parametrize("what", HARMLESS)
def test_what_can_be_derived_or_means_nothing_is_no_obstacle(lp, db, staged, what):
    damage(db, *HARMLESS[what])
    result = lp.apply([report(claim) for claim in staged])
    assert result.deferred == []
    assert [outcome.launch_id for outcome in result.applied] == [1, 2, 3, 4]
    assert states(db) == {1: "COMPLETED", 2: "READY", **dict.fromkeys((3, 4, 5), "COMPLETED")}
    workflow = db.workflows.find_one(WORKFLOW)
    assert workflow["fw_states"] == {"1": "COMPLETED", "2": "READY"}
    assert workflow["parent_links"] == {"2": [1]}
    nothing_left(db)


def test_a_ping_of_a_damaged_launch_is_deferred_the_others_are_stored(lp, db, staged):
    lp.apply([report(claim, "RUNNING") for claim in staged])
    damage(db, "launches", LAUNCH, {"$set": {"state_history": None}})
    pings = [report(claim, "RUNNING") for claim in staged]
    moment = "2026-11-23T12:02:00+00:00"
    result = lp.apply([ping._replace(ping_time=moment) for ping in pings])
    assert [outcome.launch_id for outcome in result.deferred] == [1]
    assert [outcome.launch_id for outcome in result.applied] == [2, 3, 4]


def test_a_report_that_no_database_can_hold(lp, db, staged):
    first, *rest = (report(claim) for claim in staged)
    result = lp.apply([first._replace(launch_id=2**70), *rest])
    assert [outcome.reason for outcome in result.deferred] == [
        "its documents cannot be understood: OverflowError MongoDB can only handle up to 8-byte ints"
    ]
    assert [outcome.launch_id for outcome in result.applied] == [2, 3, 4]
    nothing_left(db)


def test_known_reports_draw_no_fw_ids(lp, db, staged):
    born = {"fw_id": -1, "name": "born", "spec": {"_tasks": TASKS}}
    told = [report(claim, additions=[born]) for claim in staged]
    lp.apply(told)
    drawn = db.fw_id_assigner.find_one()["next_fw_id"]
    assert len(states(db)) == drawn - 1
    assert len(lp.apply(told).known) == 4
    assert db.fw_id_assigner.find_one()["next_fw_id"] == drawn


def test_what_fails_after_its_journal_was_written_is_not_begun_anew(lp, db, staged, monkeypatch):
    tries = []

    def fail(writes, _token):
        tries.append(len(writes))
        raise TypeError("in the middle")

    with monkeypatch.context() as broken:
        broken.setattr(lp, "_execute", fail)
        with pytest.raises(TypeError, match="in the middle"):
            lp.apply([report(claim) for claim in staged])
    assert len(tries) == 1
    # The next batch finishes it first.
    assert len(lp.apply([report(claim) for claim in staged]).known) == 4
    assert set(states(db).values()) == {"COMPLETED", "READY"}
    nothing_left(db)


# ------------------------------------------------------------------------------------- the way out

UNCLAIMABLE = {
    "a spec that is missing": ("fireworks", FIRST, {"$unset": {"spec": ""}}),
    "a spec that is a list": ("fireworks", FIRST, {"$set": {"spec": []}}),
    "launches that are a text": ("fireworks", FIRST, {"$set": {"launches": "x"}}),
    "archived ones that are objects": ("fireworks", FIRST, {"$set": {"archived_launches": [{}]}}),
    "a launch directory that is no text": (
        "fireworks",
        FIRST,
        {"$set": {"spec._launch_dir": {"a": 1}}},
    ),
    "no links": ("workflows", WORKFLOW, {"$unset": {"links": ""}}),
    "a link of a FIZZLED one that is no list": (
        "workflows",
        WORKFLOW,
        {"$set": {"links.2": 7, "fw_states.2": "FIZZLED"}},
    ),
}
CLAIMABLE = {
    "launches that are null": ("fireworks", FIRST, {"$set": {"launches": None}}),
    "launches that are missing": ("fireworks", FIRST, {"$unset": {"launches": ""}}),
    "archived ones that are null": ("fireworks", FIRST, {"$set": {"archived_launches": None}}),
    "archived ones that are missing": ("fireworks", FIRST, {"$unset": {"archived_launches": ""}}),
    "archived ones that nobody has": ("fireworks", FIRST, {"$set": {"archived_launches": [77]}}),
    "fw_states that are null": ("workflows", WORKFLOW, {"$set": {"fw_states": None}}),
    "a finder of several names": (
        "fireworks",
        FIRST,
        {"$set": {"spec._dupefinder": {"_fw_name": ["DupeFinderExact"]}}},
    ),
    "a finder that is an object": (
        "fireworks",
        FIRST,
        {"$set": {"spec._dupefinder": {"_fw_name": {"a": 1}}}},
    ),
}


def placed(firework, launch_id):
    return "/launches/" + (firework["spec"].get("_launch_dir") or str(launch_id))


@pytest.mark.parametrize("what", UNCLAIMABLE)
def test_a_damaged_firework_is_passed_over_and_named(lp, db, what):
    add(lp, {"a": "b"})
    other = add(lp, {"x": ""})["x"]
    damage(db, *UNCLAIMABLE[what])
    claims = lp.claim(WORKER, 10, place=placed)
    assert [claim.fw_id for claim in claims] == [other]
    assert lp.passed_over.keys() == {1}
    assert lp.passed_over[1].startswith("its documents cannot be understood: ")
    assert states(db)[1] == "READY"
    nothing_left(db)
    assert lp.claim(WORKER, 10, fw_ids=[other]) == []
    assert lp.passed_over == {}


@pytest.mark.parametrize("what", CLAIMABLE)
def test_a_firework_with_empty_lists_however_told_is_claimed(lp, db, what):
    add(lp, {"a": "b"})
    other = add(lp, {"x": ""})["x"]
    damage(db, *CLAIMABLE[what])
    claims = lp.claim(WORKER, 10)
    assert sorted(claim.fw_id for claim in claims) == [1, other]
    assert lp.passed_over == {}
    assert states(db)[1] == "RESERVED"
    (launch_id,) = (claim.launch_id for claim in claims if claim.fw_id == 1)
    assert db.fireworks.find_one(FIRST)["launches"] == [launch_id]
    nothing_left(db)


def test_a_damaged_original_costs_only_its_duplicate(lp, db):
    spec = {"a": {"_dupefinder": {"_fw_name": "DupeFinderExact"}}}
    original = add(lp, {"a": ""}, spec)["a"]
    stage(lp, original)
    duplicate = add(lp, {"a": ""}, spec)["a"]
    other = add(lp, {"x": ""})["x"]
    damage(db, "launches", LAUNCH, {"$unset": {"state": ""}})
    claims = lp.claim(WORKER, 10)
    assert [claim.fw_id for claim in claims] == [other]
    assert lp.passed_over.keys() == {duplicate}
    nothing_left(db)


def test_the_reservations_of_others_can_be_taken_back(lp, db, staged):
    damage(db, "launches", LAUNCH, {"$set": {"state_history": None}})
    result = lp.cancel([claim.launch_id for claim in staged])
    assert [outcome.launch_id for outcome in result.deferred] == [1]
    assert [outcome.launch_id for outcome in result.applied] == [2, 3, 4]
    assert states(db) == {1: "RESERVED", 2: "WAITING", 3: "READY", 4: "READY", 5: "READY"}
    nothing_left(db)


@pytest.mark.parametrize(("call", "state"), [("rerun", "READY"), ("defuse", "DEFUSED")])
def test_the_others_are_rerun_and_defused(lp, db, staged, call, state):
    lp.apply([report(claim) for claim in staged])
    damage(db, "fireworks", FIRST, {"$unset": {"spec": ""}})
    result = getattr(lp, call)([1, 3, 4, 2**70, 5])
    assert {change.fw_id for change in result.deferred} == {1, 2**70}
    assert {change.fw_id: change.state for change in result.changed} == dict.fromkeys(
        (3, 4, 5), state
    )
    nothing_left(db)


def test_what_lists_launches_lives_with_damaged_ones(lp, db, staged):
    damage(db, "launches", LAUNCH, {"$unset": {"launch_dir": ""}})
    damage(db, "launches", {"launch_id": 2}, {"$unset": {"state": "", "fw_id": ""}})
    damage(db, "launches", {"launch_id": 3}, {"$set": {"fworker": "here"}})
    damage(db, "offline_runs", {"launch_id": 4}, {"$unset": {"launch_id": ""}})
    damage(db, "fireworks", FIRST, {"$unset": {"state": ""}})
    assert [launch.launch_id for launch in lp.open_launches()] == [2, 3]
    assert lp.fw_states([1])[1][0] == ""
    assert lp.counts()["None"] == 1


# --------------------------------------------------------------------------------- who may mend it


def test_a_process_that_was_stopped_before_it_mends_a_workflow_mends_nothing(
    lp, db, db_uri, staged
):
    damage(db, "workflows", WORKFLOW, {"$unset": {"fw_states": ""}})
    wire = Wire()
    slow = LaunchPad.from_uri(db_uri, db.name, event_listeners=[wire])

    def taken_over():
        lp.resume(lambda _host, _pid: True)
        lp.apply([report(staged[0])])

    def before_the_lock():
        wire.interrupt("update", "workflows", taken_over)  # the one after it: the mending

    wire.interrupt("find", "workflows", before_the_lock)
    with pytest.raises(Fenced):
        slow.apply([report(staged[0])])
    assert wire.interrupted
    slow.close()
    assert db.workflows.find_one(WORKFLOW)["fw_states"] == {"1": "COMPLETED", "2": "READY"}
