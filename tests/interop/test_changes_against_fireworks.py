"""`lpad rerun_fws`, `defuse_fws`, `forget_offline` and cancelled reservations beside ours.

All situations live in one database, which is copied; FireWorks changes the one, we the other. What differs
afterwards must be in the table of changes in `differences.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from agent.mongod import Mongod
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Changed
from fwcore.rerun import Recovery
from tests.interop.differences import (
    DIFFERENCES_OF_CHANGES,
    Found,
    differences,
    explanation,
    instants,
)
from tests.support import components
from tests.support.fireworks import FireWorks, fireworks_venv
from tests.support.mongod import Client

pytestmark = pytest.mark.interop

Document = dict[str, Any]
COLLECTIONS = ("fireworks", "launches", "workflows", "offline_runs")
KEYS = {"fireworks": "fw_id", "launches": "launch_id", "workflows": "_id", "offline_runs": "_id"}
TASKS = [{"_fw_name": "ScriptTask", "script": "true"}]
TOLERANT = {"_allow_fizzled_parents": True}
CHECKPOINT = {"_task_n": 1, "_all_stored_data": {"a": 1}, "_all_update_spec": {}}
RECOVERY = {"_recovery": {"_task_n": 2, "_launch_id": 77, "_mode": None}}
DETOUR = {
    "fws": [{"fw_id": -1, "name": "new", "spec": {"_tasks": TASKS}}],
    "links": {},
    "metadata": {},
}


@dataclass
class Situation:
    """A workflow with one-letter names, what has happened to it (`Past`, in FireWorks' own words), and the call.

    `call` is rerun, defuse, forget or cancel, `whom` are its letters in their order.
    """

    links: dict[str, str]
    past: str
    call: str
    whom: str
    specs: dict[str, Document] = field(default_factory=dict)
    recovery: Recovery | None = None
    #: The state of each Firework in the order of the letters: what both sides are to leave, or ours.
    expected: str = ""


UNKNOWN = 10**6
CHAIN = {"a": "b", "b": "c"}
DIAMOND = {"a": "bc", "b": "d", "c": "d"}
#: An unused entry of its launches keeps it apart from the others.
NO_CHECKPOINT = Recovery("cp", {-1: -1})


def finder(name: str) -> Document:
    """Return a spec that is found only by the one of the same name."""
    return {"_dupefinder": {"_fw_name": "DupeFinderExact"}, "name": name}


def failed(recovery: Recovery, **spec: Any) -> Situation:
    past = "run('a', checkpoint); end('a', 'FIZZLED')"
    return Situation({"a": "b"}, past, "rerun", "a", {"a": spec}, recovery, "READY WAITING")


SITUATIONS: dict[str, Situation] = {
    **{
        f"{call} what is {state}": Situation(
            CHAIN, past, call, "a", expected=f"{left} WAITING WAITING"
        )
        for call, result in (("rerun", "READY"), ("defuse", "DEFUSED"))
        for state, past, left in (
            ("READY", "", result),
            ("RESERVED", "reserve('a')", result),
            ("RUNNING", "run('a')", result),
            ("FIZZLED", "run('a'); end('a', 'FIZZLED')", result),
            ("COMPLETED", "run('a'); end('a')", result),
            ("PAUSED", "lp.pause_fw(ids['a'])", result),
            ("PAUSED in the queue", "reserve('a'); lp.pause_fw(ids['a'])", result),
            ("DEFUSED", "lp.defuse_fw(ids['a'])", "DEFUSED"),
        )
    },
    **{
        f"{call} what is ARCHIVED": Situation(
            {"a": "b"}, "run('a'); lp.archive_wf(ids['a'])", call, "a", expected="ARCHIVED ARCHIVED"
        )
        for call in ("rerun", "defuse")
    },
    "rerun what is WAITING": Situation(CHAIN, "", "rerun", "b", expected="READY WAITING WAITING"),
    "defuse what is WAITING": Situation(CHAIN, "", "defuse", "b", expected="READY DEFUSED WAITING"),
    "rerun a chain": Situation(
        CHAIN,
        "done('abc', update_spec={'x': 1}, mod_spec=[{'_push': {'log': 1}}])",
        "rerun",
        "a",
        expected="READY WAITING WAITING",
    ),
    "rerun the middle of a chain": Situation(
        CHAIN, "done('abc')", "rerun", "b", expected="COMPLETED READY WAITING"
    ),
    "rerun a diamond": Situation(
        DIAMOND, "done('abcd')", "rerun", "a", expected="READY WAITING WAITING WAITING"
    ),
    "rerun one side of a diamond": Situation(
        DIAMOND, "done('abc'); run('d')", "rerun", "c", expected="COMPLETED COMPLETED READY WAITING"
    ),
    "rerun what feeds a fan-in": Situation(
        {"a": "c", "b": "c"},
        "done('ab'); reserve('c')",
        "rerun",
        "b",
        expected="COMPLETED READY WAITING",
    ),
    "rerun what has READY children": Situation(
        {"a": "bcd"}, "done('ab'); run('c')", "rerun", "a", expected="READY WAITING WAITING WAITING"
    ),
    "rerun what has made a detour": Situation(
        {"a": "b"},
        "done('a', detours=[wf()]); ids['n'] = newest(); done('nb')",
        "rerun",
        "a",
        expected="READY WAITING WAITING",
    ),
    "rerun what has made an addition": Situation(
        {"a": "b"},
        "done('a', additions=[wf()]); ids['n'] = newest(); done('b')",
        "rerun",
        "a",
        expected="READY WAITING WAITING",
    ),
    "rerun the parent of what tolerates": Situation(
        {"a": "b"},
        "run('a'); end('a', 'FIZZLED'); done('b')",
        "rerun",
        "a",
        {"b": TOLERANT},
        expected="READY WAITING",
    ),
    "rerun what tolerates": Situation(
        {"a": "b"},
        "run('a'); end('a', 'FIZZLED'); done('b')",
        "rerun",
        "b",
        {"b": TOLERANT},
        expected="FIZZLED READY",
    ),
    "rerun what was told of a failure": Situation(
        {"a": "b"},
        "run('a'); end('a', 'FIZZLED')",
        "rerun",
        "a",
        {"a": {"_exception_details": {"x": 1}, **RECOVERY}},
        expected="READY WAITING",
    ),
    "rerun what ended well, but was told of a failure": Situation(
        {"a": ""},
        "done('a')",
        "rerun",
        "a",
        {"a": {"_exception_details": {"x": 1}}},
        expected="READY",
    ),
    "rerun the parent of a defused one": Situation(
        CHAIN, "done('a'); lp.defuse_fw(ids['b'])", "rerun", "a", expected="READY DEFUSED WAITING"
    ),
    "rerun the parent of a defused one that had failed": Situation(
        CHAIN,
        "done('a'); run('b'); end('b', 'FIZZLED'); lp.defuse_fw(ids['b'])",
        "rerun",
        "a",
        expected="READY DEFUSED WAITING",
    ),
    "rerun the parent of one paused in the queue": Situation(
        CHAIN,
        "done('a'); reserve('b'); lp.pause_fw(ids['b'])",
        "rerun",
        "a",
        expected="READY PAUSED WAITING",
    ),
    "rerun the parent of one that had gone on from a checkpoint": Situation(
        {"a": "b"}, "done('ab')", "rerun", "a", {"b": RECOVERY}, expected="READY WAITING"
    ),
    "rerun what is DEFUSED and had gone on from a checkpoint": Situation(
        {"a": "b"},
        "lp.defuse_fw(ids['a'])",
        "rerun",
        "a",
        {"a": RECOVERY},
        expected="DEFUSED WAITING",
    ),
    "rerun several": Situation(
        DIAMOND, "done('abcd')", "rerun", "bcd", expected="COMPLETED READY READY WAITING"
    ),
    "rerun several, children first": Situation(
        CHAIN, "done('abc')", "rerun", "cba", expected="READY WAITING WAITING"
    ),
    "rerun several, parents first": Situation(
        CHAIN, "done('abc')", "rerun", "abc", expected="READY WAITING WAITING"
    ),
    "rerun twice": Situation(
        CHAIN,
        "done('ab'); lp.rerun_fw(ids['a']); done('a')",
        "rerun",
        "a",
        expected="READY WAITING WAITING",
    ),
    "rerun a duplicate": Situation(
        {"a": "b", "x": "y"},
        "done('a'); steal('x'); run('y')",
        "rerun",
        "x",
        {"a": finder("one"), "x": finder("one")},
        expected="READY WAITING READY WAITING",
    ),
    "rerun what has a duplicate, first workflow": Situation(
        {"a": "b"}, "done('a')", "rerun", "a", {"a": finder("two")}, expected="READY WAITING"
    ),
    "rerun what has a duplicate, second workflow": Situation(
        {"a": "b"}, "steal('a'); run('b')", "", "", {"a": finder("two")}, expected="READY WAITING"
    ),
    "rerun the parent of a duplicate": Situation(
        {"a": "b", "x": ""},
        "done('a'); run('b'); steal('x')",
        "rerun",
        "a",
        {"b": finder("three"), "x": finder("three")},
        expected="READY WAITING RUNNING",
    ),
    "recover in a new directory": failed(Recovery()),
    "recover with a copy": failed(Recovery("cp")),
    "recover in the old directory": failed(Recovery("prev_dir"), **RECOVERY),
    "recover a job that was killed": Situation(
        {"a": ""}, "run('a', checkpoint)", "rerun", "a", {}, Recovery("cp"), "READY"
    ),
    "recover without a checkpoint": Situation(
        {"a": ""}, "run('a'); end('a', 'FIZZLED')", "rerun", "a", {}, NO_CHECKPOINT, "FIZZLED"
    ),
    "recover a duplicate": Situation(
        {"a": "", "x": ""},
        "run('a', checkpoint); steal('x')",
        "rerun",
        "a",
        {"a": finder("four"), "x": finder("four")},
        Recovery("cp"),
        "READY READY",
    ),
    "recover what is DEFUSED": Situation(
        {"a": ""},
        "run('a', checkpoint); end('a', 'FIZZLED'); lp.defuse_fw(ids['a'])",
        "rerun",
        "a",
        {},
        Recovery(),
        "DEFUSED",
    ),
    "defuse what others have followed": Situation(
        DIAMOND,
        "done('abc'); run('d')",
        "defuse",
        "b",
        expected="COMPLETED DEFUSED COMPLETED WAITING",
    ),
    "defuse several": Situation(
        CHAIN, "done('a'); reserve('b')", "defuse", "ab", expected="DEFUSED DEFUSED WAITING"
    ),
    "defuse several, children first": Situation(
        CHAIN, "done('a'); reserve('b')", "defuse", "ba", expected="DEFUSED DEFUSED WAITING"
    ),
    "defuse a duplicate": Situation(
        {"a": "", "x": ""},
        "done('a'); steal('x')",
        "defuse",
        "x",
        {"a": finder("five"), "x": finder("five")},
        expected="READY DEFUSED",
    ),
    "defuse the parent of what tolerates": Situation(
        {"a": "b"},
        "run('a'); end('a', 'FIZZLED'); run('b')",
        "defuse",
        "a",
        {"b": TOLERANT},
        expected="DEFUSED RUNNING",
    ),
    "forget what is RUNNING": Situation(
        {"a": "b"}, "run('a')", "forget", "a", expected="RUNNING WAITING"
    ),
    "forget what has run before": Situation(
        {"a": "b"},
        "done('a'); lp.rerun_fw(ids['a']); reserve('a')",
        "forget",
        "ab",
        expected="RESERVED WAITING",
    ),
    "cancel": Situation(CHAIN, "reserve('a')", "cancel", "a", expected="READY WAITING WAITING"),
    "cancel what was in the queue before": Situation(
        {"a": "b"},
        "done('a'); lp.rerun_fw(ids['a']); reserve('a')",
        "cancel",
        "a",
        expected="READY WAITING",
    ),
    "cancel what was to go on from a checkpoint": Situation(
        {"a": "b"}, "reserve('a')", "cancel", "a", {"a": RECOVERY}, expected="READY WAITING"
    ),
    "cancel what is paused": Situation(
        {"a": "b"}, "reserve('a'); lp.pause_fw(ids['a'])", "cancel", "a", expected="PAUSED WAITING"
    ),
}

SET_UP = """
from fireworks import FWAction, FWorker, Workflow
lp = launchpad()
worker = FWorker.from_file(worker_file)

def wf():
    return Workflow.from_dict(detour)

def newest():
    return max(lp.get_fw_ids())

def reserve(letter):
    firework, launch_id = lp.reserve_fw(worker, "/launches/" + letter, fw_id=ids[letter])
    lp.add_offline_run(launch_id, ids[letter], firework.name)
    lp.set_reservation_id(launch_id, 1000 + launch_id)
    launches[letter] = launch_id

def run(letter, saved=None):
    reserve(letter)
    lp.checkout_fw(worker, "/launches/" + letter, fw_id=ids[letter])
    if saved:
        lp.ping_launch(launches[letter], checkpoint=saved)

def end(letter, state="COMPLETED", **action):
    lp.complete_launch(launches[letter], FWAction(**action), state)
    lp.offline_runs.update_one({"launch_id": launches[letter]}, {"$set": {"completed": True}})

def done(letters, **action):
    for letter in letters:
        run(letter)
        end(letter, **(action if letter == letters[0] else {}))

def steal(letter):
    assert lp.reserve_fw(worker, "/launches/" + letter, fw_id=ids[letter]) == (None, None)

result = {}
for name, each in situations.items():
    given = sorted(lp.add_wf(Workflow.from_dict(each["workflow"])).values())
    ids, launches = dict(zip(each["names"], given)), {}
    exec(each["past"])
    result[name] = {"ids": ids, "launches": launches}
"""
CANCEL = """
lp = launchpad()
for launch_id in launch_ids:
    lp.cancel_reservation(launch_id)
try:
    lp.rerun_fw(unknown)
except ValueError as error:
    result = str(error)
"""


class Bench:
    """Both databases, before and after, and what we said of it."""

    def __init__(self, home: Path, server: Mongod, client: Client) -> None:
        self.client = client
        self.names = {side: f"t_changes_{side}_{server.port}" for side in ("theirs", "ours")}
        self.fireworks = FireWorks(home / "theirs", server, self.names["theirs"])
        self.fireworks.reset()
        self.copied = FireWorks(home / "ours", server, self.names["ours"])
        self.found: dict[str, Document] = self.fireworks.python(
            SET_UP,
            situations={name: described(name, each) for name, each in SITUATIONS.items()},
            worker_file=str(self.fireworks.config / "my_fworker.yaml"),
            checkpoint=CHECKPOINT,
            detour=DETOUR,
        )
        self.launchpad = LaunchPad.from_uri(server.uri, self.names["ours"])
        self._copy()
        self.before = self.documents("theirs")
        moment = datetime.now(timezone.utc)  # dates in a database have milliseconds
        self.since = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
        self.failed = self._let_fireworks()
        self.said = self._let_us()
        self.theirs, self.ours = self.documents("theirs"), self.documents("ours")

    def _copy(self) -> None:
        theirs, ours = (self.client[self.names[side]] for side in ("theirs", "ours"))
        for collection in (*COLLECTIONS, "fw_id_assigner"):
            ours[collection].insert_many(list(theirs[collection].find()))
        self.launchpad.prepare()

    def _ids(self, call: str, recovery: Recovery | None = None) -> list[int]:
        return [
            self.found[name]["ids"][letter]
            for name, each in SITUATIONS.items()
            if (each.call, each.recovery) == (call, recovery)
            for letter in each.whom
        ]

    def _let_fireworks(self) -> set[str]:
        """Let FireWorks do it; return the commands that ended with an error."""
        today = ("--password", datetime.now().astimezone().strftime("%Y-%m-%d"))
        for call, command in COMMANDS.items():
            self.fireworks.lpad(command, "-i", ",".join(map(str, self._ids(call))), *today)
        failed = set()
        for name, recovery in RECOVERIES.items():
            mode = {None: [], "cp": ["-cp"], "prev_dir": ["-pd"]}[recovery.mode]
            ids = ",".join(map(str, self._ids("rerun", recovery)))
            options = ("-i", ids, "--task-level", *mode)
            if self.fireworks.lpad("rerun_fws", *options, check=False).returncode != 0:
                failed.add(name)
        launch_ids = [
            self.found[name]["launches"][each.whom]
            for name, each in SITUATIONS.items()
            if each.call == "cancel"
        ]
        said = self.fireworks.python(CANCEL, launch_ids=launch_ids, unknown=UNKNOWN)
        assert said == f"FW with id: {UNKNOWN} not found!"
        return failed

    def _let_us(self) -> Changed:
        said = Changed()
        for result in (
            self.launchpad.rerun([UNKNOWN, *self._ids("rerun")]),
            self.launchpad.defuse(self._ids("defuse")),
            *(
                self.launchpad.rerun(self._ids("rerun", recovery), recovery=recovery)
                for recovery in RECOVERIES.values()
            ),
        ):
            said.changed += result.changed
            said.skipped += result.skipped
            said.deferred += result.deferred
        self.launchpad.forget(self._ids("forget"))
        cancelled = [
            self.found[name]["launches"][each.whom]
            for name, each in SITUATIONS.items()
            if each.call == "cancel"
        ]
        self.launchpad.cancel(cancelled)
        return said

    def documents(self, side: str) -> dict[str, dict[Any, Document]]:
        database = self.client[self.names[side]]
        return {
            collection: {
                document[KEYS[collection]]: ordered(document)
                for document in database[collection].find()
            }
            for collection in COLLECTIONS
        }

    def label(self, moment: datetime) -> str | None:
        return "now" if moment >= self.since else None


#: One command each; FireWorks' ends at the first Firework that it cannot do.
RECOVERIES = {
    "in a new directory": Recovery(),
    "with a copy": Recovery("cp"),
    "in the old directory": Recovery("prev_dir"),
    "without a checkpoint": NO_CHECKPOINT,
}
COMMANDS = {"rerun": "rerun_fws", "defuse": "defuse_fws", "forget": "forget_offline"}


def described(name: str, each: Situation) -> Document:
    names = sorted({*each.links, *"".join(each.links.values())})
    fws = [
        {"fw_id": n - 100, "name": letter, "spec": {"_tasks": TASKS, **each.specs.get(letter, {})}}
        for n, letter in enumerate(names)
    ]
    links = {
        str(names.index(letter) - 100): [names.index(child) - 100 for child in children]
        for letter, children in each.links.items()
    }
    workflow = {"fws": fws, "links": links, "name": name, "metadata": {}}
    return {"names": names, "workflow": workflow, "past": each.past}


def ordered(document: Document) -> Document:
    """Return a document with what is a set in order."""
    if "archived_launches" in document:
        return {**document, "archived_launches": sorted(document["archived_launches"])}
    if "nodes" not in document:
        return document
    parents = {child: sorted(found) for child, found in document["parent_links"].items()}
    return {**document, "nodes": sorted(document["nodes"]), "parent_links": parents}


@pytest.fixture(scope="module")
def bench(
    mongod: Mongod, mongo_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    if not (fireworks_venv() / "bin" / "lpad").exists():
        components.unavailable(f"no FireWorks in {fireworks_venv()}: `make test` installs it")
    bench = Bench(tmp_path_factory.mktemp("changes"), mongod, mongo_client)
    yield bench
    bench.launchpad.close()
    for name in bench.names.values():
        mongo_client.drop_database(name)


def found_in(bench: Bench, name: str) -> Iterator[Found]:
    ids = set(bench.found[name]["ids"].values())
    [workflow] = [doc for doc in bench.theirs["workflows"].values() if ids & set(doc["nodes"])]
    ids = set(workflow["nodes"])
    for collection in COLLECTIONS:
        theirs, ours = bench.theirs[collection], bench.ours[collection]
        assert theirs.keys() == ours.keys()
        for key, document in theirs.items():
            if document.get("fw_id") in ids or ids & set(document.get("nodes", [])):
                yield from differences(document, ours[key], collection, bench.label)


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_documents_are_the_same_but_for_the_table(bench: Bench, name: str) -> None:
    found = list(found_in(bench, name))
    table = DIFFERENCES_OF_CHANGES
    assert [each for each in found if explanation(each, name, table) is None] == []


def test_every_line_of_the_table_is_met(bench: Bench) -> None:
    table = DIFFERENCES_OF_CHANGES
    met = {
        explanation(found, name, table) for name in SITUATIONS for found in found_in(bench, name)
    }
    assert [entry.name for entry in table if entry not in met] == []


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_states_are_what_they_are_to_be(bench: Bench, name: str) -> None:
    ids = bench.found[name]["ids"]
    fireworks = bench.ours["fireworks"]
    assert " ".join(fireworks[ids[letter]]["state"] for letter in sorted(ids)) == (
        SITUATIONS[name].expected
    )


def test_what_we_say_is_what_we_did(bench: Bench) -> None:
    fireworks = bench.ours["fireworks"]
    assert all(fireworks[each.fw_id]["state"] == each.state for each in bench.said.changed)
    assert not bench.said.deferred
    skipped = {each.fw_id: each.reason for each in bench.said.skipped}
    expected = {
        "rerun what is DEFUSED": "it is DEFUSED",
        "rerun what is ARCHIVED": "it is ARCHIVED",
        "rerun what is DEFUSED and had gone on from a checkpoint": "it is DEFUSED",
        "recover what is DEFUSED": "it is DEFUSED",
        "defuse what is DEFUSED": "it is DEFUSED already",
        "defuse what is ARCHIVED": "it is ARCHIVED",
    }
    names = {bench.found[name]["ids"]["a"]: name for name in SITUATIONS}
    told = {names[fw_id]: why for fw_id, why in skipped.items() if fw_id in names}
    assert "left no checkpoint" in told.pop("recover without a checkpoint")
    assert told == expected
    waiting = bench.found["rerun what is WAITING"]["ids"]["b"]
    assert skipped[waiting] == "it is WAITING already"
    assert skipped[UNKNOWN] == f"no workflow holds Firework {UNKNOWN}"
    assert bench.failed == {"without a checkpoint"}


def test_fireworks_reads_what_we_leave_and_would_write_the_same(bench: Bench) -> None:
    for collection, stored, written in bench.copied.reloaded():
        if collection == "launches" and stored["state"] in {"RESERVED", "READY"}:
            written["reservedtime_secs"] = stored["reservedtime_secs"]  # goes on
        assert instants(ordered(written)) == instants(ordered(stored)), collection
