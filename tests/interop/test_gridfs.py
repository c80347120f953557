"""Results that do not fit into a document: FireWorks reads ours, we read FireWorks', and the files are alike."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from gridfs import GridFS

from fwcore.launchpad import LaunchPad
from fwcore.worker import Worker
from fwrunner.protocol import Report
from fwrunner.protocol.action import EMPTY
from tests.support.fireworks import FireWorks
from tests.support.mongod import Client

TASK = {"_fw_name": "ScriptTask", "script": "true"}
CHAIN: dict[str, Any] = {
    "fws": [{"fw_id": n, "name": f"fw{n}", "spec": {"_tasks": [TASK]}} for n in (1, 2)],
    "links": {"1": [2]},
    "metadata": {},
}
ACTION = {
    **EMPTY,
    "stored_data": {"x": "ü" + "y" * 17 * 2**20, "n": [1, 2.5]},
    "update_spec": {"e": 1},
}

# What FireWorks makes of a launch directory, as `lpad recover_offline` does, and what it then has of the launch.
_READ = """
launch = launchpad().get_launch_by_id(launch_id)
stored = launch.action.stored_data
fw = launchpad().get_fw_by_id(launch.fw_id)
result = [launch.state, len(stored["x"]), stored["n"], len(fw.launches[-1].action.stored_data["x"])]
"""


@pytest.fixture
def launchpad(fireworks: FireWorks, db_uri: str, db_name: str) -> Iterator[LaunchPad]:
    with_fireworks = LaunchPad.from_uri(db_uri, db_name)
    yield with_fireworks
    with_fireworks.close()


def launched(launchpad: LaunchPad, place: Path) -> Report:
    """Add the workflow, reserve its first Firework, and leave a large result in a launch directory."""
    ids = launchpad.add(CHAIN)
    [claim] = launchpad.claim(
        Worker("test-worker"), 1, fw_ids=[ids[1]], place=lambda _firework, _id: str(place)
    )
    place.mkdir()
    told: dict[str, Any] = {"launch_id": claim.launch_id, "fwaction": ACTION, "state": "COMPLETED"}
    told["started_on"] = "2026-11-23T12:01:00+00:00"
    told["completed_on"] = "2026-11-23T12:05:00+00:00"
    (place / "FW_offline.json").write_text(json.dumps(told), encoding="utf-8")
    (place / "FW_ping.json").write_text('{"ping_time": "2026-11-23T12:05:00+00:00"}')
    launchpad.open_runs([claim])
    fields = {key: told[key] for key in ("started_on", "completed_on", "fwaction")}
    return Report(claim.launch_id, "COMPLETED", str(place), token=claim.token, **fields)


def shape(client: Client, db_name: str, launch_id: int) -> dict[str, Any]:
    """Return what is stored of a large action, without what differs from file to file by nature."""
    database = client[db_name]
    [file] = database["fw_gridfs.files"].find({"metadata.launch_id": launch_id})
    launch = database.launches.find_one({"launch_id": launch_id}) or {}
    assert launch["action"] == {"gridfs_id": str(file["_id"])}
    chunks = list(database["fw_gridfs.chunks"].find({"files_id": file["_id"]}).sort("n"))
    content = GridFS(database, "fw_gridfs").get(file["_id"]).read()
    action = json.loads(content)
    assert action.keys() == EMPTY.keys()
    indexes = {
        name: [(list(index["key"].items()), index.get("unique", False)) for index in found]
        for name in ("files", "chunks")
        for found in [sorted(database[f"fw_gridfs.{name}"].list_indexes(), key=lambda i: i["name"])]
    }
    return {
        "file": {k: (type(v), v) for k, v in file.items() if k not in ("_id", "uploadDate")},
        "types": {key: type(value) for key, value in file.items()},
        "chunks": [(sorted(chunk), chunk["n"], len(chunk["data"])) for chunk in chunks],
        "action": action,
        "text": {content[:40]},
        "indexes": indexes,
    }


def test_a_large_result(
    fireworks: FireWorks,
    launchpad: LaunchPad,
    mongo_client: Client,
    db_name: str,
    tmp_path: Path,
) -> None:
    """Theirs and ours in one database: the same documents, and each reads the other's."""
    told = launched(launchpad, tmp_path / "theirs")
    fireworks.lpad("recover_offline", cwd=tmp_path)
    theirs = shape(mongo_client, db_name, told.launch_id)
    assert launchpad.apply([told]).applied == []

    for name in ("fw_gridfs.files", "fw_gridfs.chunks"):
        mongo_client[db_name][name].drop_indexes()
    mongo_client[db_name]["fw_gridfs.files"].create_index("metadata.launch_id", unique=True)
    own = launched(launchpad, tmp_path / "ours")
    assert [outcome.state for outcome in launchpad.apply([own]).applied] == ["COMPLETED"]
    ours = shape(mongo_client, db_name, own.launch_id)
    theirs["file"]["metadata"] = (dict, {"launch_id": own.launch_id})
    assert ours == theirs

    state, size, numbers, again = fireworks.python(_READ, launch_id=own.launch_id)
    assert (state, size, numbers, again) == (
        "COMPLETED",
        len(ACTION["stored_data"]["x"]),
        [1, 2.5],
        size,
    )
    fw_id = (mongo_client[db_name].launches.find_one({"launch_id": own.launch_id}) or {})["fw_id"]
    printed = fireworks.lpad("get_fws", "-i", str(fw_id), "-d", "all").stdout
    assert len(printed) > size
    fireworks.lpad("rerun_fws", "-i", str(fw_id))
    [claim] = launchpad.claim(Worker("test-worker"), 1, fw_ids=[fw_id])
    assert [launch["action"] for launch in claim.firework["archived_launches"]] == [None]
    assert shape(mongo_client, db_name, own.launch_id) == ours
    fireworks.lpad("delete_wflows", "-i", str(fw_id))
    assert mongo_client[db_name]["fw_gridfs.files"].count_documents({}) == 1
    files = mongo_client[db_name]["fw_gridfs.chunks"].distinct("files_id")
    assert files == mongo_client[db_name]["fw_gridfs.files"].distinct("_id")


def test_an_action_that_fireworks_has_stored_is_applied(
    fireworks: FireWorks,
    launchpad: LaunchPad,
    mongo_client: Client,
    db_name: str,
    tmp_path: Path,
) -> None:
    """FireWorks has stored the end of a launch, and found the workflow locked (W16)."""
    told = launched(launchpad, tmp_path / "theirs")
    mongo_client[db_name].workflows.update_one({}, {"$set": {"locked": True}})
    fireworks.write_fw_config(WFLOCK_EXPIRATION_SECS=1)
    fireworks.lpad("recover_offline", cwd=tmp_path)
    mongo_client[db_name].workflows.update_one({}, {"$unset": {"locked": ""}})
    launch = mongo_client[db_name].launches.find_one({}) or {}
    assert launch["state"] == "COMPLETED"
    assert ObjectId.is_valid(launch["action"]["gridfs_id"])
    result = launchpad.apply([told])
    assert len(result.released) == 1
    child = mongo_client[db_name].fireworks.find_one({"fw_id": result.released[0]}) or {}
    assert child["spec"]["e"] == 1
