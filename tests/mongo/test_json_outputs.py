"""docs/json-outputs.md against what the commands print: every key, and its types."""

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pytest

from agent import service
from fwcore.documents import iso
from fwrunner.protocol import timestamp, utcnow, write_atomic
from tests.support.agent import TASKS, WORKER, Site, Store, wait_until
from tests.support.calls import all_commands

PAGE = Path(__file__).parents[2] / "docs" / "json-outputs.md"
_TYPES = {str: "text", bool: "true/false", int: "integer", float: "number", type(None): "null"}
_SYSTEMD = "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\nMainPID=7\nNRestarts=0\n"


def flat(value: Any, path: str = "", maps: Collection[str] = ()) -> dict[str, set[str]]:
    """Return {path: types} of what is no list or object; in a list it is ``path[]``, in a map ``path.*``."""
    if isinstance(value, list):
        inside = [flat(each, f"{path}[]", maps) for each in value]
    elif isinstance(value, dict):
        keys = {key: "*" if path in maps else key for key in value}
        inside = [
            flat(value[key], f"{path}.{name}".lstrip("."), maps) for key, name in keys.items()
        ]
    else:
        return {path: {_TYPES[type(value)]}}
    return _together(inside)


def _together(parts: Iterable[dict[str, set[str]]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for part in parts:
        for path, types in part.items():
            found.setdefault(path, set()).update(types)
    return found


def documented() -> dict[str, dict[str, set[str]]]:
    """Return {command: {path: types}} of the page; "at times" is one of the types of what need not be there."""
    found: dict[str, dict[str, set[str]]] = {}
    rows: list[dict[str, set[str]]] = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            rows = [found.setdefault(name, {}) for name in re.findall(r"`fwagent ([a-z ]+)`", line)]
        elif match := re.match(r"\| `([^`]+)` \| ([^|]+) \|", line):
            types = set(match[2].strip().split(", "))
            for each in rows:
                each[match[1]] = types
    return found


def test_every_command_with_json_is_documented():
    wanted = {
        name
        for name, command in all_commands().items()
        if any("--json" in option.opts for option in command.params)
    }
    assert set(documented()) == wanted


@pytest.fixture(scope="module")
def told(mongod, _initialized, mongo_client, tmp_path_factory):
    """{command: what it printed, several times}: on a database with something of everything."""
    from fwcore.launchpad import LaunchPad

    home = tmp_path_factory.mktemp("json") / "home"
    database = mongo_client[_initialized]
    for collection in database.list_collection_names():
        database[collection].delete_many({})
    database.fw_id_assigner.insert_one({"_id": -1, "next_fw_id": 1, "next_launch_id": 1})
    launchpad = LaunchPad.from_uri(mongod.uri, _initialized)
    site, store = Site(home, mongod, _initialized), Store(launchpad, database)
    try:
        return _gathered(site, store, database)
    finally:
        launchpad.close()


def _gathered(site: Site, store: Store, db: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}

    def run(command: str, *arguments: object, status: int | None = None) -> Any:
        printed = site.json(*command.split(), *arguments, status=status)
        found.setdefault(command, []).append(printed)
        return printed

    file = site.home / "workflow.json"
    file.write_text(json.dumps({"spec": {"_tasks": TASKS}, "name": "one"}), encoding="utf-8")
    run("add", file)
    store.add({}, {}, {}, {}, links={1: [2]})
    run("explain", 99)
    run("explain", 3)
    claims = [run("launch", "-n", 1)["claimed"][0] for _ in range(3)]
    run("launch", "-i", 3)
    done, runs, waits = claims
    site.fwrunner(done["launch_dir"])
    run("status")
    place = Path(runs["launch_dir"])
    offline = json.loads((place / "FW_offline.json").read_text())
    write_atomic(str(place / "FW_offline.json"), {**offline, "started_on": timestamp()})
    ping = {"ping_time": timestamp(), "host": "n1", "pid": 5, "job_id": "7", "task": 0}
    write_atomic(str(place / "FW_ping.json"), {**ping, "rss": 2, "cpu": 1.5})
    (Path(waits["launch_dir"]) / "FW_offline.json").write_text("{", encoding="utf-8")
    run("recover")
    for claim in claims:
        run("explain", claim["fw_id"])
    run("dirs")
    run("register", runs["launch_dir"], site.home)
    run("unregister", runs["launch_dir"], site.home)
    db.fwagent_refused.insert_one({"_id": "t/launches/3", "reason": "x", "on": utcnow()})
    db.workflows.update_one({"nodes": waits["fw_id"]}, {"$set": {"locked": True}})
    run("status")
    _modes(store, run)
    run("runs")
    run("defuse", "-i", waits["fw_id"])
    run("unlock", waits["fw_id"], "--yes")
    db.workflows.update_one({"nodes": waits["fw_id"]}, {"$unset": {"locked": ""}})
    run("rerun", "-i", done["fw_id"])
    run("rerun", "-i", done["fw_id"], "-i", 99)
    run("forget", "-i", runs["fw_id"])
    run("defuse", "-i", waits["fw_id"])
    run("doctor")
    run("runner export", site.home / "fwrunner.pyz")
    _fail(db, done["launch_id"])
    run("report")
    site.configure(queue={"type": "local"})
    run("launch", "-n", 1)
    run("sync")
    wait_until(lambda: list(site.outbox.glob("[0-9]*.json")))
    run("sync")
    return found


def _modes(store: Store, run: Any) -> None:
    for name in ("drain", "pause", "resume", "stop"):
        run(name, status=0)
    lease = store.launchpad.acquire_lease(WORKER, "someone", 60)
    for name in ("drain", "pause"):
        run(name, "--no-wait", status=0)
    run("resume", "--timeout", 0, status=3)
    run("stop", "--no-wait", status=0)
    store.launchpad.release_lease(lease)


def _fail(db: Any, launch_id: int) -> None:
    entry = {"state": "FIZZLED", "created_on": utcnow()}
    stored = {"stored_data": {"_message": "no luck"}}
    fields = {"state": "FIZZLED", "action": stored, "time_end": iso(utcnow())}
    db.launches.update_one(
        {"launch_id": launch_id}, {"$set": fields, "$push": {"state_history": entry}}
    )


@pytest.fixture(scope="module")
def printed(told):
    saved = service.systemctl
    try:
        service.systemctl = lambda *_words, **_more: _SYSTEMD
        told["service status"] = [service.state(service.Service(""))]
    finally:
        service.systemctl = saved
    return told


@pytest.mark.parametrize("command", sorted(documented()))
def test_keys_and_types_are_those_documented(printed, command):
    wanted = documented()[command]
    maps = {path.removesuffix(".*") for path in wanted if path.endswith(".*")}
    seen = _together(flat(document, maps=maps) for document in printed[command])
    for types in wanted.values():
        types.update(["integer"] if "number" in types else [])
    unknown = {path: types for path, types in seen.items() if not types <= wanted.get(path, set())}
    assert not unknown, "not as documented"
    sure = {path for path, types in wanted.items() if "at times" not in types}
    assert not sure - seen.keys(), "documented, and not there"
