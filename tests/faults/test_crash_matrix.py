"""A batch is cut at every database command; whoever comes next makes it whole, once.

Cut by SIGKILL, or by SIGSTOP with a SIGCONT when another agent has long taken over.
"""

import json
import os
import signal
import subprocess
import sys
from datetime import datetime, timezone
from typing import Any

import pytest
from bson import json_util
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
from tests.support.fireworks import REPOSITORY
from tests.support.mongod import Client

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


# Applies reports and strikes itself with a signal at the given command of the batch.
VICTIM = """
import json, os, signal, sys
from datetime import datetime
from pymongo.monitoring import CommandListener
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.journal import Fenced
from fwcore.worker import Worker
from fwrunner.protocol import Report

job = json.loads(sys.argv[1])

class Killer(CommandListener):
    count = 0
    def started(self, event):
        self.count += 1
        self.strike("before")
    def succeeded(self, event):
        self.strike("after")
    def failed(self, event):
        pass
    def strike(self, when):
        if when == job["when"] and self.count == job["at"]:
            os.kill(os.getpid(), job["signal"])

now = datetime.fromisoformat(job["now"])
lp = LaunchPad.from_uri(job["uri"], job["name"], event_listeners=[Killer()])
lp._clock = lambda: now
try:
    if job["reports"]:
        lp.apply(Report(*fields) for fields in job["reports"])
    else:
        lp.claim(Worker("w"), 10)
except Fenced:
    sys.exit(3)
"""


@pytest.fixture
def staged(
    db_uri: str, db_name: str, mongo_client: Client
) -> tuple[list[Report], dict[str, list[dict[str, Any]]]]:
    """Four workflows whose first Fireworks have something to tell, and the documents before it."""
    launchpad = LaunchPad.from_uri(db_uri, db_name)
    launchpad.initialize()
    for source in WORKFLOWS:
        launchpad.add(source)
    claims = launchpad.claim(Worker("w"), len(WORKFLOWS))
    launchpad.open_runs(claims)
    launchpad.close()
    before = {name: list(mongo_client[db_name][name].find()) for name in COLLECTIONS}
    return reports(claims), before


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


Staged = tuple[list[Report], dict[str, list[dict[str, Any]]]]


def strike(
    uri: str, name: str, told: list[Report], at: int, when: str, number: int
) -> subprocess.Popen[bytes]:
    """Start a process that applies the reports and gets a signal at a command; wait for it to have it."""
    job = {"uri": uri, "name": name, "now": NOW.isoformat(), "at": at, "when": when}
    job |= {"signal": number, "reports": [list(report) for report in told]}
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, json.dumps(job)], cwd=REPOSITORY)
    # A stopped child is reported by WUNTRACED, a killed one left for `wait`.
    os.waitid(os.P_PID, victim.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return victim


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_cut_at_every_command(
    db_uri: str, db_name: str, mongo_client: Client, staged: Staged, number: signal.Signals
) -> None:
    told, before = staged
    count = Count()
    uninterrupted = connected(db_uri, db_name, count)
    result = uninterrupted.apply(told)
    assert len(result.applied) == len(WORKFLOWS), result
    expected = outcome(mongo_client, db_name)
    assert "detour-leaf" in expected
    commands = list(count.commands)
    uninterrupted.close()

    for at in range(1, len(commands) + 1):
        for when in ("before", "after"):
            where = f"{number.name} {when} command {at}, {commands[at - 1]}"
            restore(mongo_client, db_name, before)
            victim = strike(db_uri, db_name, told, at, when, number)
            heir = connected(db_uri, db_name)
            heir.resume(is_gone=lambda _host, _pid: True)
            again = heir.apply(told)
            assert not again.deferred, f"{where}: {again.deferred}"
            assert outcome(mongo_client, db_name) == expected, where
            if number == signal.SIGSTOP:
                victim.send_signal(signal.SIGCONT)
                assert victim.wait(timeout=60) in (0, 3), where
                assert outcome(mongo_client, db_name) == expected, f"{where}, after SIGCONT"
            else:
                assert victim.wait(timeout=60) == -signal.SIGKILL, where
            assert_nothing_is_left(mongo_client, db_name)
            heir.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_claim_that_is_cut_is_undone(
    db_uri: str, db_name: str, mongo_client: Client, number: signal.Signals
) -> None:
    database = mongo_client[db_name]
    launchpad = LaunchPad.from_uri(db_uri, db_name)
    launchpad.initialize()
    for source in WORKFLOWS:
        launchpad.add(source)
    launchpad.close()
    before = {name: list(database[name].find()) for name in COLLECTIONS}
    count = Count()
    uninterrupted = connected(db_uri, db_name, count)
    assert len(uninterrupted.claim(Worker("w"), 10)) == len(WORKFLOWS)
    commands = list(count.commands)
    uninterrupted.close()

    for at in range(1, len(commands) + 1):
        for when in ("before", "after"):
            where = f"{number.name} {when} command {at}, {commands[at - 1]}"
            restore(mongo_client, db_name, before)
            victim = strike(db_uri, db_name, [], at, when, number)
            heir = connected(db_uri, db_name)
            heir.resume(is_gone=lambda _host, _pid: True)
            journal = database.fwagent_journal.count_documents({"void": {"$exists": False}})
            assert journal == 0, where
            claims = heir.claim(Worker("w"), 10)
            if number == signal.SIGSTOP:
                victim.send_signal(signal.SIGCONT)
            assert victim.wait(timeout=60) in (0, 3, -signal.SIGKILL), where
            assert_claimed_once(database, [claim.launch_id for claim in claims], where)
            heir.close()


def assert_claimed_once(database: Any, claimed: list[int], where: str) -> None:
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
