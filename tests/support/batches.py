"""A batch of every kind for tests that cut it, and what must be there afterwards."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from bson import json_util
from pymongo.database import Database
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Claim
from fwcore.worker import Worker
from fwrunner.protocol import Report
from tests.support.mongod import Client

Document = dict[str, Any]
Staged = tuple[list[Report], dict[str, list[Document]]]

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=timezone.utc)
COLLECTIONS = ("fireworks", "launches", "workflows", "offline_runs", "fw_id_assigner")
TASK = {"_fw_name": "ScriptTask", "script": "true"}


def firework(number: int, name: str, **spec: Any) -> dict[str, Any]:
    return {"fw_id": number, "name": name, "spec": {"_tasks": [TASK], **spec}}


def workflow(name: str, **of_child: Any) -> dict[str, Any]:
    return {
        "name": name,
        "fws": [
            firework(-1, f"{name}-a"),
            firework(-2, f"{name}-b", log=["old"], **of_child),
            firework(-3, f"{name}-c"),
        ],
        "links": {"-1": [-2], "-2": [-3]},
        "metadata": {},
    }


WORKFLOWS = [
    workflow("grows"),
    workflow("pushes"),
    workflow("fails", _allow_fizzled_parents=True),
    workflow("runs"),
]

ACTIONS: dict[str, dict[str, Any]] = {
    "grows-a": {
        "stored_data": {"energy": -1.5},
        "update_spec": {"seen": True},
        "detours": [
            {
                "fws": [firework(-1, "detour-root"), firework(-2, "detour-leaf")],
                "links": {"-1": [-2]},
                "metadata": {},
            }
        ],
        "additions": [firework(-3, "addition")],
    },
    "pushes-a": {"mod_spec": [{"_push": {"log": "new"}}, {"_inc": {"count": 1}}]},
    "fails-a": {"stored_data": {"_message": "boom"}},
}


def reports(claims: list[Claim]) -> list[Report]:
    found = []
    for claim in claims:
        name = claim.firework["name"]
        told = Report(
            claim.launch_id,
            "RUNNING",
            claim.launch_dir,
            claim.fw_id,
            claim.token,
            started_on="2026-11-23T11:00:00+00:00",
        )
        if name in ACTIONS:
            told = told._replace(
                state="FIZZLED" if name == "fails-a" else "COMPLETED",
                completed_on="2026-11-23T11:30:00+00:00",
                fwaction=ACTIONS[name],
            )
        found.append(told)
    return found


class Count(CommandListener):
    """Counts the commands of a client."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.commands.append(f"{event.command_name} {event.command.get(event.command_name)}")

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


def add_all(uri: str, name: str) -> LaunchPad:
    """Make a LaunchPad that holds WORKFLOWS."""
    launchpad = LaunchPad.from_uri(uri, name)
    launchpad.initialize()
    for source in WORKFLOWS:
        launchpad.add(source)
    return launchpad


def stage_all(uri: str, name: str, client: Client) -> Staged:
    """Put the first Fireworks of WORKFLOWS into the queue; return what they tell, and the documents before."""
    launchpad = add_all(uri, name)
    claims = launchpad.claim(Worker("w"), len(WORKFLOWS))
    launchpad.open_runs(claims)
    launchpad.close()
    return reports(claims), saved(client, name)


def saved(client: Client, name: str, *more: str) -> dict[str, list[Document]]:
    """Return all documents, for `restore`; of ``more`` collections, too."""
    return {each: list(client[name][each].find()) for each in (*COLLECTIONS, *more)}


def connected(uri: str, name: str, *listeners: CommandListener) -> LaunchPad:
    launchpad = LaunchPad.from_uri(uri, name, event_listeners=list(listeners))
    launchpad._clock = lambda: NOW
    return launchpad


def restore(client: Client, name: str, documents: dict[str, list[dict[str, Any]]]) -> None:
    for collection in (*COLLECTIONS, "fwagent_journal", "fwagent_sessions"):
        client[name][collection].delete_many({})
        if documents.get(collection):
            client[name][collection].insert_many(documents[collection])


def outcome(client: Client, name: str) -> str:
    """Return all documents as a text in which a Firework's number is replaced by its name."""
    database = client[name]
    names = {doc["fw_id"]: doc["name"] for doc in database.fireworks.find()}
    assert len(set(names.values())) == len(names), "a Firework was added twice"
    numbers = [doc["fw_id"] for doc in database.fireworks.find()]
    assert len(set(numbers)) == len(numbers)

    def named(value: Any) -> Any:
        return names.get(value, value)

    found: dict[str, Any] = {}
    for doc in database.fireworks.find({}, {"_id": 0}):
        found[f"firework {doc['name']}"] = {**doc, "fw_id": named(doc["fw_id"])}
    for doc in database.launches.find({}, {"_id": 0}):
        found[f"launch {doc['launch_id']}"] = {**doc, "fw_id": named(doc["fw_id"])}
    for doc in database.offline_runs.find({}, {"_id": 0}):
        found[f"run {doc['launch_id']}"] = doc
    for doc in database.workflows.find({}, {"_id": 0}):
        for key in ("links", "parent_links", "fw_states"):
            doc[key] = {
                named(int(node)): sorted(map(named, value)) if isinstance(value, list) else value
                for node, value in doc[key].items()
            }
        doc["nodes"] = sorted(map(named, doc["nodes"]))
        found[f"workflow {doc['name']}"] = doc
    return json_util.dumps(found, sort_keys=True, indent=1)


def assert_nothing_is_left(client: Client, name: str) -> None:
    assert client[name].workflows.count_documents({"locked": {"$exists": True}}) == 0
    assert client[name].fwagent_journal.count_documents({"void": {"$exists": False}}) == 0


def assert_claimed_once(database: Database[Document], claimed: list[int], where: str) -> None:
    """Every first Firework is RESERVED by one launch, and no launch is left that nobody lists."""
    reserved = list(database.fireworks.find({"state": "RESERVED"}))
    active = [number for firework in reserved for number in firework["launches"]]
    assert len(reserved) == len(active) == len(WORKFLOWS), where
    # A claim that was cut after its last command is whole, and its caller may have been told.
    assert set(claimed) <= set(active), where
    archived = [n for firework in reserved for n in firework["archived_launches"]]
    known = {launch["launch_id"] for launch in database.launches.find({}, {"launch_id": 1})}
    assert known == {*active, *archived}, where
    assert database.workflows.count_documents({"locked": {"$exists": True}}) == 0, where
    assert {flow["state"] for flow in database.workflows.find()} == {"RESERVED"}, where
