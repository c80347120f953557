"""Actions that do not fit into a document, on a real server."""

import json
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import bson
import pytest
from bson import ObjectId
from gridfs import GridFS
from pymongo.database import Database

from fwcore.launchpad import LaunchPad, gridfiles, session
from tests.support.launchpads import WORKER, Wire, add, report, reports, stage

MIB = 1024 * 1024
LARGE = "y" * 20_000


@pytest.fixture
def small_documents(monkeypatch) -> None:
    """A launch has outgrown its document at 10 kB, so that a test need not move megabytes."""
    monkeypatch.setattr(gridfiles, "LARGEST", 10_000)


def launch_of(db: Database[dict[str, Any]], launch_id: int) -> dict[str, Any]:
    launch = db.launches.find_one({"launch_id": launch_id})
    assert launch is not None
    return launch


def stored(db: Database[dict[str, Any]], launch_id: int) -> Any:
    """Return the action of a launch as a reader of FireWorks gets it."""
    action = launch_of(db, launch_id)["action"]
    assert action.keys() == {"gridfs_id"}
    return json.loads(GridFS(db, "fw_gridfs").get(ObjectId(action["gridfs_id"])).read())


def put(db: Database[dict[str, Any]], launch_id: int, action: Any) -> str:
    """Store an action as FireWorks does; return the reference."""
    files = GridFS(db, "fw_gridfs")
    metadata = {"launch_id": launch_id}
    return str(files.put(json.dumps(action), encoding="utf-8", metadata=metadata))


def assert_only_files_of(db: Database[dict[str, Any]], *launch_ids: int) -> None:
    """Nothing is in GridFS but one whole file of each of these launches, which they name."""
    files = {file["metadata"]["launch_id"]: file for file in db.fw_gridfs.files.find()}
    assert files.keys() == set(launch_ids)
    for launch_id, file in files.items():
        launch = launch_of(db, launch_id)
        assert launch["action"] == {"gridfs_id": str(file["_id"])}
    assert set(db.fw_gridfs.chunks.distinct("files_id")) == {file["_id"] for file in files.values()}


@pytest.mark.parametrize("size", [18, 40])
def test_a_result_larger_than_a_document(lp, db, size) -> None:
    ids = add(lp, {"a": "b"})
    plain = add(lp, {"a": "b"})
    large, other = stage(lp, ids["a"], plain["a"])
    data = {"x": "y" * size * MIB, "ü": [1.5, None]}
    result = lp.apply([report(large, stored_data=data, update_spec={"e": 1}), report(other)])
    assert {(o.launch_id, o.state) for o in result.applied} == {
        (large.launch_id, "COMPLETED"),
        (other.launch_id, "COMPLETED"),
    }
    assert sorted(result.released) == [ids["b"], plain["b"]]
    assert stored(db, large.launch_id)["stored_data"] == data
    assert db.fireworks.find_one({"fw_id": ids["b"]})["spec"]["e"] == 1
    assert db.launches.find_one({"launch_id": other.launch_id})["action"]["stored_data"] == {}
    assert db.fwagent_refused.count_documents({}) == 0
    assert db.fwagent_journal.count_documents({}) == 0
    assert_only_files_of(db, large.launch_id)


def test_the_same_report_again_changes_nothing(lp, db, small_documents) -> None:
    told = reports(stage(lp, add(lp, {"a": "b"})["a"]), stored_data={"x": LARGE})
    lp.apply(told)
    before = {name: list(db[name].find()) for name in db.list_collection_names()}
    assert [o.launch_id for o in lp.apply(told).known] == [1]
    del before["fwagent_sessions"]
    assert {name: list(db[name].find()) for name in before} == before


def test_only_a_batch_with_a_large_action_asks_gridfs(
    db_uri, lp_name, lp, db, small_documents
) -> None:
    wire = Wire()
    watched = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])

    def spent(**action: Any) -> list[tuple[str, str]]:
        told = reports(stage(lp, add(lp, {"a": "b"})["a"]), **action)
        before = len(wire.commands)
        watched.apply(told)
        return wire.commands[before:]

    spent()
    small, large = spent(stored_data={"x": "y"}), spent(stored_data={"x": LARGE})
    watched.close()
    assert not [where for _, where in small if where.startswith("fw_gridfs")]
    extra = [command for command in large if command[1].startswith("fw_gridfs")]
    assert len(large) - len(small) == len(extra) + 1  # and a look at the launch
    assert len(extra) <= 7


def test_an_upload_that_was_cut_is_completed(lp, db, small_documents, monkeypatch) -> None:
    """Whatever of it is there, and whether the driver or we have made the indexes."""
    monkeypatch.setattr(gridfiles, "_CHUNK", 1000)
    told = reports(stage(lp, add(lp, {"a": "b"})["a"]), stored_data={"x": LARGE})
    monkeypatch.setattr(lp, "_commit", lambda *_args: None)
    lp.apply(told)
    monkeypatch.undo()
    monkeypatch.setattr(gridfiles, "LARGEST", 10_000)
    monkeypatch.setattr(gridfiles, "_CHUNK", 1000)
    assert db.fw_gridfs.files.count_documents({}) == 0
    assert db.fw_gridfs.chunks.delete_many({"n": {"$gte": 7}}).deleted_count > 7
    lp.apply(told)
    assert stored(db, 1)["stored_data"] == {"x": LARGE}
    assert_only_files_of(db, 1)


def test_what_a_cut_upload_of_other_content_has_left_goes(
    lp, db, small_documents, monkeypatch
) -> None:
    [claim] = stage(lp, add(lp, {"a": "b"})["a"])
    commit = lp._commit
    monkeypatch.setattr(lp, "_commit", lambda *_args: None)
    lp.apply([report(claim, stored_data={"other": LARGE})])
    put(db, claim.launch_id, {"of": "a FireWorks that was killed before its launch named it"})
    assert len(db.fw_gridfs.chunks.distinct("files_id")) == 2
    monkeypatch.setattr(lp, "_commit", commit)
    lp.apply([report(claim, stored_data={"x": LARGE})])
    assert stored(db, 1)["stored_data"] == {"x": LARGE}
    assert_only_files_of(db, 1)
    assert db.fwagent_refused.count_documents({}) == 0


def test_a_process_that_was_stopped_while_it_stored_chunks_does_no_harm(
    db_uri, lp_name, lp, db, small_documents
) -> None:
    """It wakes up with other content, when the batch was long finished by somebody else."""
    [claim] = stage(lp, add(lp, {"a": "b"})["a"])
    wire = Wire()
    stopped = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])

    def meanwhile() -> None:
        lp.resume(is_gone=lambda _host, _pid: True)
        lp.apply([report(claim, stored_data={"x": LARGE})])

    wire.interrupt("update", "fw_gridfs.chunks", meanwhile)
    with pytest.raises(Exception, match="taken over"):
        stopped.apply([report(claim, stored_data={"other": LARGE})])
    assert wire.interrupted
    stopped.close()
    assert stored(db, 1)["stored_data"] == {"x": LARGE}
    assert_only_files_of(db, 1)
    assert lp.apply([report(claim, stored_data={"x": LARGE})]).known


def test_a_failed_result_is_kept_in_gridfs_too(lp, db, small_documents) -> None:
    ids = add(lp, {"a": "b"})
    told = reports(stage(lp, ids["a"]), stored_data={"x": LARGE}, mod_spec=[{"_unset": {"no": 1}}])
    assert [o.state for o in lp.apply(told).applied] == ["FIZZLED"]
    data = stored(db, 1)["stored_data"]
    assert "cannot be applied" in data["_message"]
    assert data["_action"]["stored_data"] == {"x": LARGE}


def test_a_child_that_could_not_hold_what_it_is_given(lp, db) -> None:
    ids = add(lp, {"a": "bc"}, {"c": {"_allow_fizzled_parents": True}})
    told = reports(stage(lp, ids["a"]), update_spec={"x": "y" * 17 * MIB})
    result = lp.apply(told)
    assert [(o.state, result.released) for o in result.applied] == [("FIZZLED", [ids["c"]])]
    data = stored(db, 1)["stored_data"]
    assert "would outgrow MongoDB's 16 MiB" in data["_message"]
    assert len(data["_action"]["update_spec"]["x"]) == 17 * MIB
    # The child that goes on nevertheless cannot hold its parent either.
    spec = db.fireworks.find_one({"fw_id": ids["c"]})["spec"]
    assert spec["_fizzled_parents"] == [{"fw_id": ids["a"], "name": "a", "state": "FIZZLED"}]
    assert db.fwagent_refused.count_documents({}) == 0


@pytest.mark.parametrize("state", ["COMPLETED", "FIZZLED"])
def test_many_children_of_a_large_result_cost_it_a_few_times(lp, db, monkeypatch, state) -> None:
    tolerant = {"_allow_fizzled_parents": True}
    ids = add(lp, {"a": "bcdefghijkl"}, dict.fromkeys("bcdefghijkl", tolerant))
    measured = []

    def encode(document: Any) -> bytes:
        data = bson.encode(document)
        measured.append(len(data))
        return data

    monkeypatch.setattr(session, "bson", SimpleNamespace(encode=encode))
    large = {"x": "y" * 17 * MIB}
    parts = {"update_spec": large} if state == "COMPLETED" else {"stored_data": large}
    result = lp.apply(reports(stage(lp, ids["a"]), state, **parts))
    assert [o.state for o in result.applied] == ["FIZZLED"]
    assert len(result.released) == 11
    assert 17 * MIB < sum(measured) < 4 * 17 * MIB


@pytest.mark.parametrize("key", ["additions", "append_wfs"])
def test_a_new_firework_that_fits_into_no_document(lp, db, key) -> None:
    new = {"fws": [{"fw_id": -1, "spec": {"_tasks": [], "x": "y" * 9 * MIB}}], "links": {}}
    fits = {"fws": [{"fw_id": -2, "spec": {"_tasks": [], "x": "y"}}], "links": {}}
    action: dict[str, Any] = {"additions": [fits]}
    if key == "additions":
        new["fws"][0]["spec"]["z"] = "y" * 9 * MIB  # type: ignore[index]
        action[key].append(new)
    else:
        action[key] = [{"workflow": new, "parents": [1], "detour": False}]
        action["update_spec"] = {"z": "y" * 9 * MIB}
    plain, large = add(lp, {"a": "b"}), add(lp, {"a": ""})
    claims = stage(lp, large["a"], plain["a"])
    if key == "append_wfs":
        action[key][0]["parents"] = [large["a"]]
    result = lp.apply([report(claims[0], **action), report(claims[1])])
    assert {(o.launch_id, o.state) for o in result.applied} == {
        (claims[0].launch_id, "FIZZLED"),
        (claims[1].launch_id, "COMPLETED"),
    }
    assert "a Firework that it adds would outgrow" in json.dumps(stored(db, claims[0].launch_id))
    assert db.fireworks.count_documents({}) == 3
    assert db.fwagent_refused.count_documents({}) == 0


# ---------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_goes_rather_than_the_result(lp, db, small_documents) -> None:
    [claim] = stage(lp, add(lp, {"a": ""})["a"])
    large = {"_task_n": 1, "_all_stored_data": {"x": LARGE}}
    told = report(claim, "FIZZLED", stored_data={"y": LARGE})._replace(checkpoint=large)
    assert [o.state for o in lp.apply([told]).applied] == ["FIZZLED"]
    launch = db.launches.find_one()
    assert not [entry for entry in launch["state_history"] if "checkpoint" in entry]
    assert stored(db, 1)["stored_data"] == {"y": LARGE}


def test_a_checkpoint_that_fits_stays_when_the_action_does_not(lp, db, small_documents) -> None:
    [claim] = stage(lp, add(lp, {"a": ""})["a"])
    small = {"_task_n": 1, "_all_stored_data": {"x": 1}}
    lp.apply([report(claim, "FIZZLED", stored_data={"y": LARGE})._replace(checkpoint=small)])
    history = db.launches.find_one()["state_history"]
    assert [entry.get("checkpoint") for entry in history] == [None, small, small]


def test_a_ping_is_stored_without_a_checkpoint_that_is_too_large(lp, db, small_documents) -> None:
    [claim] = stage(lp, add(lp, {"a": ""})["a"])
    small = {"_task_n": 1, "_all_stored_data": {"x": "y" * 6000}}
    lp.apply([report(claim, "RUNNING")._replace(checkpoint=small)])
    large = {"_task_n": 2, "_all_stored_data": {"x": LARGE}}
    ping = "2026-11-23T13:00:00+00:00"
    beat = report(claim, "RUNNING")._replace(ping_time=ping, checkpoint=large)
    assert len(lp.apply([beat]).applied) == 1
    assert db.launches.find_one()["state_history"][-1]["updated_on"] == ping
    # With what is left of the first one it would not fit; the end makes room.
    assert [o.state for o in lp.apply([report(claim, "FIZZLED")]).applied] == ["FIZZLED"]
    assert db.launches.find_one()["state"] == "FIZZLED"


# -------------------------------------------------------------------------------------------- reading


def complete_in_fireworks(db: Database[dict[str, Any]], launch_id: int, action: Any) -> None:
    """Leave a launch as FireWorks does when it dies before it refreshes the workflow (W16)."""
    history = launch_of(db, launch_id)["state_history"]
    moment = datetime(2026, 11, 23, tzinfo=timezone.utc).isoformat()
    changes = {
        "state": "COMPLETED",
        "action": action,
        "state_history": [*history, {"state": "COMPLETED", "created_on": moment}],
    }
    db.launches.update_one({"launch_id": launch_id}, {"$set": changes})


def whole(**parts: Any) -> dict[str, Any]:
    return {
        "stored_data": {},
        "exit": False,
        "update_spec": {},
        "mod_spec": [],
        "additions": [],
        "detours": [],
        "defuse_children": False,
        **parts,
    }


def test_an_action_in_gridfs_is_applied(lp, db) -> None:
    ids = add(lp, {"a": "b"})
    [claim] = stage(lp, ids["a"])
    reference = {"gridfs_id": put(db, claim.launch_id, whole(update_spec={"from": "GridFS"}))}
    complete_in_fireworks(db, claim.launch_id, reference)
    result = lp.apply([report(claim)])
    assert result.released == [ids["b"]]
    assert db.fireworks.find_one({"fw_id": ids["b"]})["spec"]["from"] == "GridFS"
    assert db.launches.find_one()["action"] == reference


def break_nothing(_db: Database[dict[str, Any]], _file_id: ObjectId) -> None:
    pass


def lose_file(db: Database[dict[str, Any]], file_id: ObjectId) -> None:
    GridFS(db, "fw_gridfs").delete(file_id)


def lose_chunk(db: Database[dict[str, Any]], file_id: ObjectId) -> None:
    db.fw_gridfs.chunks.delete_many({"files_id": file_id})


def tear(db: Database[dict[str, Any]], file_id: ObjectId) -> None:
    db.fw_gridfs.chunks.update_one({"files_id": file_id}, {"$set": {"data": b'{"stored'}})
    db.fw_gridfs.files.update_one({"_id": file_id}, {"$set": {"length": 8}})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lose_file, "no file in gridfs collection"),
        (lose_chunk, "no chunk #0"),
        (tear, "Unterminated string"),
    ],
)
def test_an_action_that_cannot_be_read_defers_its_report_alone(lp, db, damage, reason) -> None:
    ids, other = add(lp, {"a": "b"}), add(lp, {"a": "b"})
    broken, plain = stage(lp, ids["a"], other["a"])
    file_id = put(db, broken.launch_id, whole(update_spec={"from": "GridFS"}))
    complete_in_fireworks(db, broken.launch_id, {"gridfs_id": file_id})
    damage(db, ObjectId(file_id))
    result = lp.apply([report(broken), report(plain)])
    assert result.released == [other["b"]]
    [deferred] = result.deferred
    assert deferred.launch_id == broken.launch_id
    assert f"the action of launch {broken.launch_id} cannot be read" in deferred.reason
    assert reason in deferred.reason
    assert db.fireworks.find_one({"fw_id": ids["b"]})["state"] == "WAITING"


@pytest.mark.parametrize("reference", ["no id", 7, None])
def test_a_reference_that_is_none(lp, db, reference) -> None:
    [claim] = stage(lp, add(lp, {"a": ""})["a"])
    complete_in_fireworks(db, claim.launch_id, {"gridfs_id": reference})
    [deferred] = lp.apply([report(claim)]).deferred
    assert "cannot be read" in deferred.reason


@pytest.mark.parametrize("damage", [break_nothing, lose_file])
def test_a_failed_parent_whose_action_is_in_gridfs(lp, db, damage) -> None:
    """What cannot be read of it is told as it stands there; it keeps nobody from going on."""
    ids = add(lp, {"a": "c", "b": "c"}, {"c": {"_allow_fizzled_parents": True}})
    first, second = stage(lp, ids["a"], ids["b"])
    lp.apply([report(first, "FIZZLED", stored_data={"x": "in GridFS"})])
    action = db.launches.find_one({"launch_id": first.launch_id})["action"]
    reference = {"gridfs_id": put(db, first.launch_id, action)}
    db.launches.update_one({"launch_id": first.launch_id}, {"$set": {"action": reference}})
    damage(db, ObjectId(reference["gridfs_id"]))
    assert lp.apply([report(second)]).released == [ids["c"]]
    [parent] = db.fireworks.find_one({"fw_id": ids["c"]})["spec"]["_fizzled_parents"]
    told = action if damage is break_nothing else reference
    assert parent["launches"][0]["action"] == told
    assert db.launches.find_one({"launch_id": first.launch_id})["action"] == reference


def test_a_claim_does_not_carry_the_actions_of_earlier_launches_that_gridfs_holds(
    db_uri, lp_name, lp, db, small_documents
) -> None:
    ids = add(lp, {"a": ""})
    [claim] = stage(lp, ids["a"])
    lp.apply([report(claim, stored_data={"x": LARGE})])
    rerun = {"state": "READY", "launches": [], "archived_launches": [claim.launch_id]}
    db.fireworks.update_one({"fw_id": ids["a"]}, {"$set": rerun})
    wire = Wire()
    watched = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    [again] = watched.claim(WORKER, 1)
    watched.close()
    [archived] = again.firework["archived_launches"]
    assert (archived["launch_id"], archived["action"]) == (claim.launch_id, None)
    assert not [where for _, where in wire.commands if where.startswith("fw_gridfs")]
    assert stored(db, claim.launch_id)["stored_data"] == {"x": LARGE}
