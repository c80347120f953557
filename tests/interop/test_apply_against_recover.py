"""The same launch directories through `lpad recover_offline` and through `LaunchPad.apply`.

All situations live in one database, which is copied; FireWorks recovers the one, we the other, twice: while the
runs are on, and when they have ended. What differs afterwards must be in the table of `differences.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from agent.mongod import Mongod
from fwcore.launchpad import LaunchPad
from fwrunner.protocol import OFFLINE_JSON, PING_JSON, Report, read_report
from tests.interop.differences import (
    DIFFERENCES,
    Found,
    Label,
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
RUN, BEFORE = timedelta(milliseconds=300), timedelta(milliseconds=50)
"""How long each run takes, and how long before the recovery it ended."""
TASKS = [{"_fw_name": "ScriptTask", "script": "true"}]
CHECKPOINT = {
    "_task_n": 1,
    "_all_stored_data": {"a": 1},
    "_all_update_spec": {},
    "_all_mod_spec": [],
}
TOLERANT = {"_allow_fizzled_parents": True}
ACTION: Document = {
    "stored_data": {},
    "exit": False,
    "update_spec": {},
    "mod_spec": [],
    "additions": [],
    "detours": [],
    "append_wfs": [],
    "defuse_children": False,
    "defuse_workflow": False,
    "propagate": False,
}
FAILURE = {
    **ACTION,
    "exit": True,
    "stored_data": {
        "_message": "runtime error during task",
        "_task": TASKS[0],
        "_exception": {"_stacktrace": "Traceback ...", "_details": None},
    },
}


@dataclass
class Situation:
    """A workflow with one-letter names; of `runs`, what each tells while it runs and when it has ended.

    A run that is not in `during` has not started then; one that is not in `ended` goes on.
    """

    links: dict[str, str]
    during: dict[str, Document] = field(default_factory=dict)
    ended: dict[str, Document] = field(default_factory=dict)
    specs: dict[str, Document] = field(default_factory=dict)
    reserved: str = ""
    #: FireWorks code with `lp` and `ids`, before the first recovery and between the two.
    before: str = ""
    between: str = ""

    @property
    def runs(self) -> str:
        return self.reserved or "".join(sorted({*self.during, *self.ended}))


def now() -> datetime:
    """Return the present, cut to what a BSON date holds."""
    moment = datetime.now(timezone.utc)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def completed(**action: Any) -> Document:
    return {"state": "COMPLETED", "fwaction": {**ACTION, **action}}


def new(number: int, name: str, **spec: Any) -> Document:
    """Return a Firework as an action adds it."""
    return {"fw_id": number, "name": name, "spec": {"_tasks": TASKS, **spec}}


def chain(*names: str) -> Document:
    """Return a workflow as an action adds it; ids go down from -1, each Firework follows the one before."""
    fws = [new(-number, name) for number, name in enumerate(names, 1)]
    links = {str(-number): [-number - 1] for number in range(1, len(names))}
    return {"fws": fws, "links": links, "name": "added", "metadata": {}}


def appended(workflow: Document, *parents: str, detour: bool = False) -> list[Document]:
    """Return an entry of append_wfs; `parents` are letters of the situation."""
    return [{"workflow": workflow, "parents": list(parents), "detour": detour}]


PING = {"ping": 2.0}
FIZZLED = {"state": "FIZZLED", "fwaction": FAILURE, "checkpoint": CHECKPOINT}
MODS = [
    {"_set": {"new": 1, "deep->er->key": 2, "a.b": 3}},
    {"_unset": {"gone": ""}},
    {"_push": {"lst": 3, "lst_new": 1}},
    {"_push_all": {"lst2": [8, 9], "lst2_new": [1, 2]}},
    {"_inc": {"cnt": 5, "cnt_new": 7}},
    {"_rename": {"old": "renamed"}},
    {"_add_to_set": {"uniq": 1, "uniq2": 5, "uniq_new": 4}},
    {"_pull": {"pl": 2, "absent": 1}},
    {"_pop": {"pop_last": 1, "pop_first": -1, "pop_none": 0}},
]
MOD_SPEC = {
    "gone": 1,
    "lst": [1],
    "lst2": [7],
    "cnt": 2,
    "old": {"x": 1},
    "uniq": [1],
    "uniq2": [1],
    "pl": [1, 2, 2, 3],
    "pop_last": [1, 2],
    "pop_first": [1, 2],
    "pop_none": [1],
}

SITUATIONS: dict[str, Situation] = {
    "stored data": Situation(
        {"a": ""}, {"a": PING}, {"a": completed(stored_data={"e": [-1.5, {"x": None}]})}
    ),
    "ended before it was ever seen": Situation({"a": "b"}, {}, {"a": completed()}),
    "ended without a ping": Situation({"a": "b"}, {"a": {}}, {"a": {**completed(), "ping": None}}),
    "update_spec": Situation(
        {"a": "bc", "b": "d"}, {"a": PING}, {"a": completed(update_spec={"x": {"y": 1}})}
    ),
    "every verb of mod_spec": Situation(
        {"a": "b"}, {}, {"a": completed(mod_spec=MODS)}, {"b": MOD_SPEC}
    ),
    "propagate": Situation(
        {"a": "bc", "b": "d", "c": "d"},
        {"a": PING},
        {"a": completed(update_spec={"x": 1}, mod_spec=[{"_push": {"log": "A"}}], propagate=True)},
    ),
    "exit": Situation({"a": "b"}, {"a": PING}, {"a": completed(exit=True)}),
    "defuse_children": Situation(
        {"a": "bc", "b": "d"}, {"a": PING}, {"a": completed(defuse_children=True)}
    ),
    "defuse_workflow": Situation(
        {"a": "b", "c": ""}, {"a": PING}, {"a": completed(defuse_workflow=True)}
    ),
    "a leaf FIZZLES": Situation({"a": ""}, {"a": PING}, {"a": FIZZLED}),
    "a parent FIZZLES": Situation({"a": "b", "b": "c"}, {"a": PING}, {"a": FIZZLED}),
    "a parent FIZZLES, a child tolerates": Situation(
        {"a": "bc"}, {"a": {**PING, "checkpoint": CHECKPOINT}}, {"a": FIZZLED}, {"b": TOLERANT}
    ),
    "all children tolerate": Situation({"a": "b"}, {}, {"a": FIZZLED}, {"b": TOLERANT}),
    "pending": Situation({"a": "b"}, reserved="a"),
    "running": Situation({"a": "b"}, {"a": {**PING, "checkpoint": CHECKPOINT}}),
    "running without a ping": Situation({"a": "b"}, {"a": {"checkpoint": CHECKPOINT}}),
    "fan-in, one of two": Situation(
        {"a": "c", "b": "c"}, {"a": PING, "b": PING}, {"a": completed()}
    ),
    "fan-in, both": Situation(
        {"a": "c", "b": "c"}, {"a": PING}, {"a": completed(), "b": completed()}
    ),
    "fan-in, one FIZZLES": Situation(
        {"a": "c", "b": "c"}, {"a": PING}, {"a": completed(), "b": FIZZLED}
    ),
    "a paused child": Situation(
        {"a": "bc"},
        {"a": PING},
        {"a": completed(update_spec={"x": 1})},
        before="lp.pause_fw(ids['b'])",
    ),
    "a defused child": Situation(
        {"a": "bc"}, {"a": PING}, {"a": completed()}, between="lp.defuse_fw(ids['b'])"
    ),
    "paused in the queue": Situation(
        {"a": "b"}, {}, {"a": completed()}, reserved="a", before="lp.pause_fw(ids['a'])"
    ),
    "rerun meanwhile": Situation(
        {"a": "b"}, {"a": PING}, {"a": completed()}, between="lp.rerun_fw(ids['a'])"
    ),
    "a detour of two": Situation(
        {"a": "b"}, {"a": PING}, {"a": completed(detours=[chain("x", "y")])}
    ),
    "a detour before a fan-out": Situation(
        {"a": "bcd", "b": "e", "c": "e"}, {"a": PING}, {"a": completed(detours=[chain("x", "y")])}
    ),
    "two detours": Situation(
        {"a": "bc"},
        {"a": PING},
        {"a": completed(detours=[chain("x"), {**chain(), "fws": [new(-7, "y"), new(-5, "z")]}])},
    ),
    "additions": Situation(
        {"a": "b"}, {"a": PING}, {"a": completed(additions=[chain("x", "y"), new(-7, "z", q=1)])}
    ),
    "an addition below a leaf": Situation(
        {"a": ""}, {"a": PING}, {"a": completed(additions=[new(-1, "x")])}
    ),
    "a detour and an addition": Situation(
        {"a": "bc"}, {"a": PING}, {"a": completed(detours=[chain("x")], additions=[new(-2, "y")])}
    ),
    "append_wfs to two parents": Situation(
        {"a": "c", "b": "d"},
        {"a": PING, "b": PING},
        {
            "a": completed(update_spec={"from": "a"}, mod_spec=[{"_push": {"log": "a"}}]),
            "b": completed(
                update_spec={"from": "b"},
                mod_spec=[{"_push": {"log": "b"}}],
                append_wfs=appended(chain("x", "y"), "a"),
            ),
        },
    ),
    "append_wfs to a parent that runs": Situation(
        {"a": "c", "b": ""},
        {"a": PING, "b": PING},
        {"a": completed(update_spec={"x": 1}, append_wfs=appended(chain("x"), "b", detour=True))},
    ),
    "update_spec and a detour": Situation(
        {"a": "b", "b": "c"},
        {"a": PING},
        {"a": completed(update_spec={"x": 1}, detours=[chain("x", "y")])},
    ),
    "propagate and an addition": Situation(
        {"a": "b", "b": "c"},
        {"a": PING},
        {
            "a": completed(
                update_spec={"x": 1},
                mod_spec=[{"_inc": {"n": 1}}],
                propagate=True,
                additions=[chain("x", "y")],
            )
        },
    ),
    "defuse_children and a detour": Situation(
        {"a": "bc", "b": "d"},
        {"a": PING},
        {"a": completed(defuse_children=True, detours=[chain("x")])},
    ),
    "it FIZZLES and would have added": Situation(
        {"a": "b"},
        {"a": PING},
        {"a": {**FIZZLED, "fwaction": {**FAILURE, "additions": [chain("x")]}}},
    ),
}

SET_UP = """
from fireworks import FWorker, Workflow
lp = launchpad()
worker = FWorker.from_file(worker_file)
result = {}
for name, each in situations.items():
    ids = {letter: lp_id for letter, lp_id in zip(
        each["names"], sorted(lp.add_wf(Workflow.from_dict(each["workflow"])).values()))}
    launches = {}
    for letter in each["runs"]:
        firework, launch_id = lp.reserve_fw(worker, each["dirs"][letter], fw_id=ids[letter])
        lp.add_offline_run(launch_id, ids[letter], firework.name)
        lp.set_reservation_id(launch_id, 1000 + launch_id)
        launches[letter] = launch_id
    exec(each["before"])
    result[name] = {"ids": ids, "launches": launches}
"""
BETWEEN = """
lp = launchpad()
for ids, code in steps:
    exec(code)
result = None
"""


class Bench:
    """Both databases, the launch directories, and what came of them."""

    def __init__(self, home: Path, server: Mongod, client: Client) -> None:
        self.root = home / "launches"
        self.server, self.client = server, client
        self.names = {side: f"t_recover_{side}_{server.port}" for side in ("theirs", "ours")}
        self.fireworks = FireWorks(home / "theirs", server, self.names["theirs"])
        self.fireworks.reset()
        self.copied = FireWorks(home / "ours", server, self.names["ours"])
        self.found = self._set_up()
        self.launchpad = LaunchPad.from_uri(server.uri, self.names["ours"])
        self.snapshots: list[tuple[Label, dict[str, Any], dict[str, Any]]] = []
        self.starts: dict[tuple[str, str], datetime] = {}
        # A run begins RUN + BEFORE before `between`, and none may begin before its reservation:
        # FireWorks would reckon a negative waiting time, which we never store.
        time.sleep((RUN + BEFORE).total_seconds())
        self.between = (now(), now())

    def _set_up(self) -> dict[str, Document]:
        given = {name: self._described(name, each) for name, each in SITUATIONS.items()}
        found: dict[str, Document] = self.fireworks.python(
            SET_UP, situations=given, worker_file=str(self.fireworks.config / "my_fworker.yaml")
        )
        for name, each in SITUATIONS.items():
            for letter in each.runs:
                launch_id = found[name]["launches"][letter]
                self._write(name, letter, OFFLINE_JSON, {"launch_id": launch_id})
        return found

    def _described(self, name: str, each: Situation) -> Document:
        names = sorted({*each.links, *"".join(each.links.values())})
        fws = [
            {
                "fw_id": n - 100,
                "name": letter,
                "spec": {"_tasks": TASKS, **each.specs.get(letter, {})},
            }
            for n, letter in enumerate(names)
        ]
        links = {
            str(names.index(letter) - 100): [names.index(child) - 100 for child in children]
            for letter, children in each.links.items()
        }
        dirs = {letter: self.directory(name, letter) for letter in each.runs}
        for directory in dirs.values():
            directory.mkdir(parents=True)
        return {
            "names": names,
            "workflow": {"fws": fws, "links": links, "name": name, "metadata": {}},
            "runs": list(each.runs),
            "dirs": {letter: str(directory) for letter, directory in dirs.items()},
            "before": each.before,
        }

    def directory(self, name: str, letter: str) -> Path:
        return self.root / name.replace(" ", "_").replace(",", "") / letter

    def _write(self, name: str, letter: str, file: str, content: Document) -> None:
        (self.directory(name, letter) / file).write_text(json.dumps(content), encoding="utf-8")

    def copy(self) -> None:
        """Make our database as theirs is now."""
        theirs, ours = (self.client[self.names[side]] for side in ("theirs", "ours"))
        for collection in (*COLLECTIONS, "fw_id_assigner"):
            documents = list(theirs[collection].find())
            if documents:
                ours[collection].insert_many(documents)
        self.launchpad.prepare()

    def tell(self, stage: str) -> None:
        """Write what the compute nodes write; every time in it lies before the recovery."""
        ended = (now() if stage == "during" else self.between[0]) - BEFORE
        started = ended - RUN
        for name, each in SITUATIONS.items():
            for letter, says in getattr(each, stage).items():
                offline = {"launch_id": self.found[name]["launches"][letter]}
                offline["started_on"] = self.starts.setdefault((name, letter), started).isoformat()
                told = self._with_ids(name, says)
                ping = told.pop("ping", 3.0)
                if ping is not None and (stage == "ended" or "ping" in each.during.get(letter, {})):
                    moment = self.starts[name, letter] + timedelta(milliseconds=10 * ping)
                    self._write(name, letter, PING_JSON, {"ping_time": moment.isoformat()})
                if "state" in told:
                    told["completed_on"] = ended.isoformat()
                self._write(
                    name, letter, OFFLINE_JSON, {"checkpoint": CHECKPOINT, **offline, **told}
                )

    def _with_ids(self, name: str, says: Document) -> Document:
        """Return what a run tells, with fw_ids for letters in `append_wfs`."""
        ids = self.found[name]["ids"]
        action = says.get("fwaction")
        if not action or not action["append_wfs"]:
            return dict(says)
        entries = [
            {**entry, "parents": [ids[letter] for letter in entry["parents"]]}
            for entry in action["append_wfs"]
        ]
        return {**says, "fwaction": {**action, "append_wfs": entries}}

    def meanwhile(self) -> None:
        """Let somebody do something between the two recoveries, on both sides."""
        begin = now()
        steps = [(self.found[name]["ids"], each.between) for name, each in SITUATIONS.items()]
        for side in (self.fireworks, self.copied):
            side.python(BETWEEN, steps=[step for step in steps if step[1]])
        self.between = (begin, now())

    def recover(self) -> None:
        """Let both sides recover, and remember what they left."""
        since = now()
        self.fireworks.lpad("recover_offline")
        directories = [
            self.directory(name, letter)
            for name, each in SITUATIONS.items()
            for letter in each.runs
        ]
        read = [read_report(str(directory)) for directory in directories]
        self.launchpad.apply([one for one in read if isinstance(one, Report)])

        def label(moment: datetime) -> str | None:
            if self.between[0] <= moment <= self.between[1]:
                return "between"
            return "now" if moment >= since else None

        self.snapshots.append((label, self.documents("theirs"), self.documents("ours")))

    def documents(self, side: str) -> dict[str, dict[Any, Document]]:
        """Return {collection: {key: document}} of one side; a new Firework has an `_id` of its own."""
        database = self.client[self.names[side]]
        keys = {"workflows": "_id", "fireworks": "fw_id"}
        hidden = {"fireworks": {"_id": 0}}
        return {
            collection: {
                document[keys.get(collection, "launch_id")]: document
                for document in database[collection].find({}, hidden.get(collection))
            }
            for collection in COLLECTIONS
        }


@pytest.fixture(scope="module")
def bench(
    mongod: Mongod, mongo_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    if not (fireworks_venv() / "bin" / "lpad").exists():
        components.unavailable(f"no FireWorks in {fireworks_venv()}: `make test` installs it")
    bench = Bench(tmp_path_factory.mktemp("recover"), mongod, mongo_client)
    bench.copy()
    bench.tell("during")
    bench.recover()
    bench.meanwhile()
    bench.tell("ended")
    bench.recover()
    yield bench
    bench.launchpad.close()
    for name in bench.names.values():
        mongo_client.drop_database(name)


MOMENTS = ("while they run", "when they have ended")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", SITUATIONS)
def test_the_documents_are_the_same_but_for_the_table(bench: Bench, name: str, moment: str) -> None:
    where = f"{name}, {moment}"
    found = found_in(bench, name, moment)
    assert [each for each in found if explanation(each, where) is None] == []


def found_in(bench: Bench, name: str, moment: str) -> Iterator[Found]:
    label, theirs, ours = bench.snapshots[MOMENTS.index(moment)]
    ids = members(bench, name, moment)
    for collection in COLLECTIONS:
        assert theirs[collection].keys() == ours[collection].keys()
        for key, document in theirs[collection].items():
            if document.get("fw_id") in ids or ids & set(document.get("nodes", [])):
                pair = ordered(document), ordered(ours[collection][key])
                yield from differences(*pair, collection, label)


def ordered(document: Document) -> Document:
    """Return a document with what is a set in order."""
    if "nodes" not in document:
        return document
    parents = {child: sorted(found) for child, found in document["parent_links"].items()}
    return {**document, "nodes": sorted(document["nodes"]), "parent_links": parents}


def members(bench: Bench, name: str, moment: str) -> set[int]:
    """Return the Fireworks of a situation, with those that were added."""
    _, theirs, _ = bench.snapshots[MOMENTS.index(moment)]
    ids = set(bench.found[name]["ids"].values())
    [workflow] = [doc for doc in theirs["workflows"].values() if ids & set(doc["nodes"])]
    return set(workflow["nodes"])


def test_every_line_of_the_table_is_met(bench: Bench) -> None:
    met = {
        explanation(found, f"{name}, {moment}")
        for name in SITUATIONS
        for moment in MOMENTS
        for found in found_in(bench, name, moment)
    }
    elsewhere = [entry for entry in DIFFERENCES if entry.where == "generated: .*"]
    assert [entry.name for entry in DIFFERENCES if entry not in {*met, *elsewhere}] == []


def test_fireworks_reads_what_we_leave_and_would_write_the_same(bench: Bench) -> None:
    for collection, stored, written in bench.copied.reloaded():
        if (collection, stored["state"]) == ("launches", "RESERVED"):
            written["reservedtime_secs"] = stored["reservedtime_secs"]  # goes on
        if collection == "launches" and stored["action"]:
            # It would complete the workflows that an action adds; the table has that.
            for key in ("additions", "detours", "append_wfs"):
                found = stored["action"].pop(key), written["action"].pop(key)
                assert len(found[0]) == len(found[1])
        assert instants(written) == instants(stored), collection


def test_the_situations_are_what_they_say(bench: Bench) -> None:
    """So that two sides that both do nothing are not taken for agreement."""
    _, _, ours = bench.snapshots[1]

    def states(name: str) -> str:
        ids = bench.found[name]["ids"]
        return " ".join(ours["fireworks"][ids[letter]]["state"] for letter in sorted(ids))

    assert states("stored data") == "COMPLETED"
    assert states("update_spec") == "COMPLETED READY READY WAITING"
    assert states("a parent FIZZLES, a child tolerates") == "FIZZLED READY WAITING"
    assert states("fan-in, one of two") == "COMPLETED RUNNING WAITING"
    assert states("fan-in, both") == "COMPLETED COMPLETED READY"
    assert states("defuse_workflow") == "COMPLETED DEFUSED DEFUSED"
    assert states("a paused child") == "COMPLETED PAUSED READY"
    assert states("pending") == "RESERVED WAITING"
    assert states("rerun meanwhile") == "READY WAITING"

    def added(name: str) -> dict[str, str]:
        new = members(bench, name, MOMENTS[1]) - set(bench.found[name]["ids"].values())
        found = [ours["fireworks"][number] for number in new]
        return {firework["name"]: firework["state"] for firework in found}

    assert states("a detour before a fan-out") == "COMPLETED WAITING WAITING WAITING WAITING"
    assert added("a detour before a fan-out") == {"x": "READY", "y": "WAITING"}
    assert added("two detours") == {"x": "READY", "y": "READY", "z": "READY"}
    assert added("additions") == {"x": "READY", "y": "WAITING", "z": "READY"}
    assert states("a detour and an addition") == "COMPLETED WAITING WAITING"
    assert added("append_wfs to two parents") == {"x": "READY", "y": "WAITING"}
    assert added("append_wfs to a parent that runs") == {"x": "WAITING"}
    assert states("defuse_children and a detour") == "COMPLETED DEFUSED DEFUSED WAITING"
    assert added("it FIZZLES and would have added") == {}
