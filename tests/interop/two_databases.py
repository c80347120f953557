"""A history played on two databases: real FireWorks on the one, and on the other the same by us."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from pymongo import DeleteOne, InsertOne

from agent.mongod import Mongod
from fwcore.launchpad import LaunchPad
from fwcore.states import HELD
from fwcore.worker import Worker
from fwrunner.protocol import OFFLINE_JSON, PING_JSON, Report, read_report
from tests.interop.differences import Found, differences, explanation
from tests.interop.histories import CHECKPOINT, DUPLICATES, Command, History, News, Swap, Turn
from tests.interop.mended import MEND, MENDS, Mend
from tests.support.fireworks import FireWorks
from tests.support.fireworks_session import FireWorksSession
from tests.support.mongod import Client

Document = dict[str, Any]
#: {collection: {key: document}}
Documents = dict[str, dict[Any, Document]]

COLLECTIONS = ("fireworks", "launches", "workflows", "offline_runs")
OPEN = {"completed": False, "deprecated": False}
WORKER = Worker("test-worker")
#: Where the times of the compute nodes begin: long ago, so that none of them is the time of a step.
LONG_AGO = datetime(2020, 1, 2, 3, 0, 0, 123000, tzinfo=timezone.utc)
#: What we refuse although FireWorks accepts it: see "Modifiers of mod_spec" in docs/compatibility.md.
STRICTER = re.compile(r"is not an object|would wait for itself")
#: Commands of the judge, in its own process: `names` are its databases.
JUDGE = """
from fireworks import FWorker, LaunchPad, Workflow
sides = {side: LaunchPad("127.0.0.1", port, name, strm_lvl="CRITICAL") for side, name in names.items()}
worker = FWorker("test-worker")

def add(workflow):
    ids = sides["theirs"].add_wf(Workflow.from_dict(workflow))
    return sorted(ids.values())

def reserve(wanted, directories):
    lp = sides["theirs"]
    for directory in directories[:wanted]:
        try:
            found, launch_id = lp.reserve_fw(worker, directory)
        except RuntimeError:  # an action of a shared launch that does not fit the other workflow
            return
        if found is None:
            return
        lp.add_offline_run(launch_id, found.fw_id, found.name)
        lp.set_reservation_id(launch_id, 1000 + launch_id)

def recover(launch_id):
    return sides["theirs"].recover_offline(launch_id) is not None

def command(name, arguments):
    return [attempt(getattr(lp, name), arguments) for lp in sides.values()]

def attempt(method, arguments):
    try:
        method(*arguments)
    except Exception as error:  # such as an action that cannot be applied, found out when a Firework is resumed
        return type(error).__name__
    return ""

result = None
"""


class Unlike(AssertionError):
    """The two databases differ, and no line of the table says why."""


class TwoDatabases:
    """`theirs` is what FireWorks makes of a history, `ours` what we make of it."""

    def __init__(self, home: Path, server: Mongod, client: Client) -> None:
        self.home = home
        self.names = {side: f"t_two_{side}_{server.port}" for side in ("theirs", "ours")}
        self.client = client
        self.databases = {side: client[name] for side, name in self.names.items()}
        fireworks = FireWorks(home / "fireworks", server, self.names["theirs"])
        self.judge = FireWorksSession(fireworks)
        self.judge.python(JUDGE, names=self.names, port=server.port)
        self.mend(MENDS)
        self.launchpad = LaunchPad.from_uri(server.uri, self.names["ours"])
        self.launchpad.initialize()
        theirs = LaunchPad.from_uri(server.uri, self.names["theirs"])
        theirs.initialize()
        theirs.close()
        #: How often what was played took place.
        self.tally: Counter[str] = Counter()
        self.met: Counter[str] = Counter()

    def close(self) -> None:
        self.launchpad.close()
        self.judge.close()
        for name in self.names.values():
            self.client.drop_database(name)

    def mend(self, mends: Iterable[Mend]) -> None:
        """Let the judge be FireWorks with these mistakes mended, and no others."""
        self.judge.python(MEND, mends=[[mend.function, mend.old, mend.new] for mend in mends])

    def play(self, history: History) -> None:
        """Play a history; raise Unlike at the first step after which the databases differ."""
        Played(self, history).play()

    def empty(self) -> None:
        for database in self.databases.values():
            for collection in COLLECTIONS:
                database[collection].delete_many({})
            database.fw_id_assigner.replace_one(
                {"_id": -1}, {"next_fw_id": 1, "next_launch_id": 1}, upsert=True
            )

    def ask(self, function: str, **arguments: Any) -> Any:
        """Call a function of the judge."""
        return self.judge.python(f"result = {function}(**arguments)", arguments=arguments)

    def documents(self, side: str) -> Documents:
        keys = {"workflows": "_id", "fireworks": "fw_id"}
        return {
            collection: {
                document[keys.get(collection, "launch_id")]: document
                for document in self.databases[side][collection].find()
            }
            for collection in COLLECTIONS
        }

    def restore(self, side: str, found: Documents, wanted: Documents) -> None:
        """Make a side's documents, which are `found` now, others."""
        for collection in COLLECTIONS:
            old, new = found[collection], wanted[collection]
            other = [key for key in {**old, **new} if repr(old.get(key)) != repr(new.get(key))]
            writes: list[Any] = [DeleteOne({"_id": old[key]["_id"]}) for key in other if key in old]
            writes += [InsertOne(new[key]) for key in other if key in new]
            if writes:
                self.databases[side][collection].bulk_write(writes)


class Played:
    """One history on its way."""

    def __init__(self, bench: TwoDatabases, history: History) -> None:
        self.bench = bench
        self.history = history
        self.root = bench.home / "launches"
        self.directories = 0
        self.ticks = 0
        #: When each step so far began.
        self.steps: list[datetime] = []
        #: Differences that are there since an earlier step: (document, difference).
        self.known: set[tuple[str, Found]] = set()
        empty: Documents = {collection: {} for collection in COLLECTIONS}
        self.theirs, self.ours = empty, empty
        self.said: dict[int, list[Report]] = {}
        self.started: dict[int, str] = {}

    def play(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        self.bench.empty()
        for _ in range(2 if self.history.twin else 1):
            self.bench.ask("add", workflow=self._workflow())
        self.copy("theirs")
        self.count("workflows", len(self.theirs["workflows"]))
        for move in self.history.moves:
            self._move(move)

    def _move(self, move: Turn | Command | Swap) -> None:
        if isinstance(move, Turn):
            self.turn(move)
        elif isinstance(move, Command):
            self.command(move)
        else:
            self.copy(move.source)
            self.count(f"swap to {move.source}")

    def count(self, what: str, times: int = 1) -> None:
        self.bench.tally[what] += times

    def _workflow(self) -> Document:
        size = len(self.history.specs)
        specs = [
            {**spec, **DUPLICATES} if self.history.twin and n % 3 < 2 else spec
            for n, spec in enumerate(self.history.specs)
        ]
        fws = [
            {"fw_id": n - size, "name": f"old {n}", "spec": spec} for n, spec in enumerate(specs)
        ]
        links = {
            str(parent - size): [child - size for child in children]
            for parent, children in enumerate(self.history.links)
        }
        return {"fws": fws, "links": links, "name": "generated", "metadata": {"a": 1}}

    def copy(self, source: str) -> None:
        """Make one side a copy of the other, which may have changed since the last comparison."""
        found = self.bench.documents(source)
        if source == "theirs":
            self.bench.restore("ours", self.ours, found)
        else:
            self.bench.restore("theirs", self.theirs, found)
        self.same_ids()
        self.theirs, self.ours = found, found
        self.known = set()

    def same_ids(self) -> None:
        """Let both sides give out the same ids next: those that were drawn and not used are lost, none comes twice."""
        counters = [db.fw_id_assigner.find_one() or {} for db in self.bench.databases.values()]
        highest = {
            key: max(counter[key] for counter in counters)
            for key in ("next_fw_id", "next_launch_id")
        }
        for database, counter in zip(self.bench.databases.values(), counters, strict=True):
            if counter != {**counter, **highest}:
                database.fw_id_assigner.update_one({}, {"$set": highest})

    def compare(self, what: str) -> None:
        """Read both sides; raise Unlike if they differ in another way than the table has it."""
        before = self.ours
        self.theirs, self.ours = (self.bench.documents(side) for side in ("theirs", "ours"))
        unexplained = []
        known = self.known
        self.known = set()
        for place, found, where in self._differences(before):
            entry = explanation(found, where)
            if (place, found) in known or entry is not None:
                self.known.add((place, found))
            else:
                unexplained.append(found)
            if entry is not None:
                self.bench.met[entry.name] += 1
        if unexplained:
            raise Unlike(f"{what}:\n" + "\n".join(map(str, unexplained)))

    def _differences(self, before: Documents) -> Iterator[tuple[str, Found, str]]:
        for collection in COLLECTIONS:
            theirs, ours = self.theirs[collection], self.ours[collection]
            if theirs.keys() != ours.keys():
                yield "", Found(collection, str(sorted(theirs)), str(sorted(ours))), ""
            for key in theirs.keys() & ours.keys():
                same = repr(before[collection].get(key)) == repr(ours[key])
                where = f"generated: {'unchanged' if same else 'changed'}"
                pair = ordered(theirs[key]), ordered(ours[key])
                for found in differences(*pair, collection, self._label):
                    yield f"{collection} {key}", found, where

    def _label(self, moment: datetime) -> str | None:
        """Return the step that a time lies in; None for a time of a compute node."""
        if not self.steps or moment < self.steps[0]:
            return None
        return f"step {sum(begin <= moment for begin in self.steps)}"

    def begin(self) -> None:
        """Begin a step: what comes, does so now."""
        moment = datetime.now(timezone.utc)
        self.steps.append(moment.replace(microsecond=moment.microsecond // 1000 * 1000))

    def command(self, move: Command) -> None:
        """Let FireWorks' own command change both databases."""
        arguments = self._arguments(move)
        if arguments is None:
            return
        # The report of a held Firework may have drawn ids for what its action adds, once it is let go.
        self.same_ids()
        self.begin()
        theirs, ours = self.bench.ask("command", name=move.name, arguments=arguments)
        if theirs != ours:
            raise Unlike(f"{move.name} {arguments} raises {theirs!r}, on our database {ours!r}")
        self.count("failing command", bool(theirs))
        self.count(move.name)
        self.compare(f"{move.name} {arguments}")

    def _arguments(self, move: Command) -> list[Any] | None:
        fw_ids = sorted(self.theirs["fireworks"])
        if move.name == "cancel_reservation":
            reserved = {
                key for key, doc in self.theirs["launches"].items() if doc["state"] == "RESERVED"
            }
            launch_ids = sorted(reserved & self._active())
            return [_picked(launch_ids, move.pick)] if launch_ids else None
        wanted = _CONCERNS.get(move.name)
        candidates = [
            fw_id
            for fw_id in fw_ids
            if wanted is None or self.theirs["fireworks"][fw_id]["state"] in wanted
        ]
        if not candidates and move.name in _FIRST:
            self.command(Command(_FIRST[move.name], move.pick))
        if not candidates:
            return None
        fw_id = _picked(candidates, move.pick)
        more: dict[str, list[Any]] = {
            "set_priority": [move.pick],
            "update_spec": [{"by hand": move.pick}],
            "forget_offline": [False],
        }
        first = [fw_id] if move.name == "update_spec" else fw_id
        return [first, *more.get(move.name, [])]

    def _active(self) -> set[int]:
        return {number for doc in self.theirs["fireworks"].values() for number in doc["launches"]}

    def turn(self, move: Turn) -> None:
        """Let runs tell something, and recover them on both sides."""
        self.claim(move)
        told: dict[int, News] = {}
        launch_ids = self._open()
        for pick, news in move.told if launch_ids else ():
            told[_picked(launch_ids, pick)] = news
        if not told:
            return
        for launch_id, news in told.items():
            self.tell(launch_id, news)
        if move.locked:
            self.defer(list(told))
        self.recover(list(told), move)

    def _open(self) -> list[int]:
        return sorted(
            key
            for key, run in self.theirs["offline_runs"].items()
            if not run["completed"] and not run["deprecated"]
        )

    def claim(self, move: Turn) -> None:
        """Have one more open run than will tell something, if there are enough READY Fireworks."""
        wanted = len(move.told) + 1 - len(self._open())
        if wanted <= 0:
            return
        places = [str(self.root / str(self.directories + n)) for n in range(wanted)]
        self.directories += wanted
        for place in places:
            Path(place).mkdir(parents=True)
        if move.claimant == "theirs" or self._duplicates():
            self.bench.ask("reserve", wanted=wanted, directories=places)
            self.copy("theirs")
        else:
            remaining = iter(places)
            claims = self.bench.launchpad.claim(
                WORKER, wanted, place=lambda _firework, _launch_id: next(remaining)
            )
            self.bench.launchpad.open_runs(claims)
            self.copy("ours")
        for launch_id, launch in self.ours["launches"].items():
            path = Path(launch["launch_dir"]) / OFFLINE_JSON
            if launch["state"] == "RESERVED" and not path.exists():
                _write(path, self._staged(launch_id))
        self.count(f"claimed by {move.claimant}")

    def _staged(self, launch_id: int) -> Document:
        run = self.ours["offline_runs"][launch_id]
        return {"launch_id": launch_id, **({"fwagent": run["fwagent"]} if "fwagent" in run else {})}

    def _duplicates(self) -> bool:
        return any("_dupefinder" in doc["spec"] for doc in self.theirs["fireworks"].values())

    def tell(self, launch_id: int, news: News) -> None:
        """Write what the compute node writes."""
        if news.state == "PENDING":
            return
        directory = Path(self.theirs["launches"][launch_id]["launch_dir"])
        offline = self._staged(launch_id)
        offline["started_on"] = self.started.setdefault(launch_id, self._tick())
        if news.checkpoint:
            offline["checkpoint"] = CHECKPOINT
        if news.ping:
            _write(directory / PING_JSON, {"ping_time": self._tick()})
        if news.state != "RUNNING":
            offline["state"] = news.state
            offline["fwaction"] = self._action(launch_id, news.action)
            offline["completed_on"] = self._tick()
        _write(directory / OFFLINE_JSON, offline)

    def _tick(self) -> str:
        self.ticks += 1
        return (LONG_AGO + timedelta(seconds=self.ticks)).isoformat()

    def _action(self, launch_id: int, action: Document) -> Document:
        """Return an action with fw_ids for the picks of `append_wfs`."""
        fw_id = self.theirs["launches"][launch_id]["fw_id"]
        # One that appends to itself is linked twice by FireWorks, and once by us.
        owners = {
            key for key, doc in self.theirs["fireworks"].items() if launch_id in doc["launches"]
        }
        nodes = next(
            (
                sorted(set(doc["nodes"]) - {fw_id, *owners})
                for doc in self.theirs["workflows"].values()
                if fw_id in doc["nodes"]
            ),
            [],
        )

        def parents(picks: Iterable[int]) -> list[int]:
            return list(dict.fromkeys(_picked(nodes, pick) for pick in picks)) if nodes else []

        entries = [
            {**entry, "parents": parents(entry["parents"])} for entry in action["append_wfs"]
        ]
        return {**action, "append_wfs": entries}

    def _reports(self, launch_ids: Iterable[int]) -> list[Report]:
        found = [
            read_report(self.theirs["launches"][launch_id]["launch_dir"])
            for launch_id in launch_ids
        ]
        return [one for one in found if isinstance(one, Report)]

    def defer(self, launch_ids: list[int]) -> None:
        """Offer the reports while somebody else has the workflows locked: nothing may change."""
        workflows = self.bench.databases["ours"].workflows
        workflows.update_many({}, {"$set": {"locked": True}})
        beats = {key for key, doc in self.ours["launches"].items() if doc["state"] == "RUNNING"}
        reports = [
            each
            for each in self._reports(launch_ids)
            if each.final or each.launch_id not in beats
            if each.launch_id in self._active()
        ]
        done = self.bench.launchpad.apply(reports)
        workflows.update_many({}, {"$unset": {"locked": ""}})
        if {each.launch_id for each in done.deferred} != {each.launch_id for each in reports}:
            raise Unlike(f"not deferred under a lock: {done}")
        self.unchanged("under a lock")
        self.count("locked", len(reports))

    def recover(self, launch_ids: list[int], move: Turn) -> None:
        """Let both sides recover what they find in the launch directories."""
        active = self._active()
        before = self.ours
        reports = self._reports(launch_ids)
        stale = [each for launch_id in launch_ids for each in self.said.get(launch_id, [])]
        self.same_ids()
        self.begin()
        done = self.bench.launchpad.apply([*(stale if move.stale else []), *reports])
        if done.deferred:
            raise Unlike(f"we defer what FireWorks recovers: {done.deferred}")
        became = {each.launch_id: each.state for each in done.applied}
        by_launch = {each.launch_id: each for each in reports}
        if reasons := self._fizzled_alone(before):
            self.alone(launch_ids, reasons)
            return
        for launch_id in launch_ids:
            report = by_launch.get(launch_id)
            self.count("nothing new", launch_id not in became)
            if launch_id not in active:
                self.superseded(launch_id, before)
                continue
            if report and became.get(launch_id, report.state) != report.state:
                self.refused(launch_id, report)
            self.bench.ask("recover", launch_id=launch_id)
        what = f"recovered {[(each.launch_id, each.state) for each in reports]}"
        for report in reports:
            self.said.setdefault(report.launch_id, []).append(report)
            self.count(report.state)
        if move.stale and stale:
            self.count("reports out of order", len(stale))
        self.compare(what)
        self._count_effects(before)
        if move.stale:
            self.again(reports)

    def _fizzled_alone(self, before: Documents) -> list[str]:
        """Return why Fireworks were FIZZLED although their launch is COMPLETED."""
        return [
            firework["spec"]["_exception_details"]["_message"]
            for key, firework in self.bench.documents("ours")["fireworks"].items()
            if firework["state"] == "FIZZLED"
            and "_exception_details" in firework["spec"]
            and "_exception_details" not in before["fireworks"][key]["spec"]
        ]

    def alone(self, launch_ids: list[int], reasons: list[str]) -> None:
        """See to it that FireWorks fails, too, where we FIZZLE a duplicate alone; go on from what we made of it.

        FireWorks FIZZLES whoever counts on the launch then.
        """
        failed = [self.bench.ask("recover", launch_id=launch_id) for launch_id in launch_ids]
        if not any(failed) and not all(map(STRICTER.search, reasons)):
            raise Unlike(f"we refuse what FireWorks accepts: {reasons}")
        self.theirs = self.bench.documents("theirs")
        self.copy("ours")
        self.count("FIZZLED alone", len(reasons))

    def superseded(self, launch_id: int, before: Documents) -> None:
        """See to it that a launch that nobody has any more changes nothing but its own run, which is retired."""
        found = self.bench.documents("ours")
        launch, run = found["launches"][launch_id], found["offline_runs"][launch_id]
        report = read_report(launch["launch_dir"])
        if not isinstance(report, Report):
            return
        if repr(launch) != repr(before["launches"][launch_id]):
            raise Unlike(f"the superseded launch {launch_id} has changed: {launch}")
        if not run["deprecated"]:
            raise Unlike(f"the run of the superseded launch {launch_id} stays open")
        theirs = self.bench.databases["theirs"]
        theirs.launches.replace_one({"_id": launch["_id"]}, launch)
        theirs.offline_runs.replace_one({"_id": run["_id"]}, run)
        self.count("superseded")

    def refused(self, launch_id: int, report: Report) -> None:
        """See to it that FireWorks cannot apply an action either; let it recover the failure we made of it."""
        launch = self.bench.documents("ours")["launches"][launch_id]
        reason = launch["action"]["stored_data"]["_message"]
        before = self.bench.documents("theirs")
        counter = self.bench.databases["theirs"].fw_id_assigner.find_one() or {}
        failed = self.bench.ask("recover", launch_id=launch_id)
        if not failed and not STRICTER.search(reason) and not _held(before, launch_id):
            raise Unlike(f"we refuse what FireWorks accepts: {reason}")
        self.bench.restore("theirs", self.bench.documents("theirs"), before)
        self.bench.databases["theirs"].fw_id_assigner.replace_one({}, counter)
        path = Path(launch["launch_dir"]) / OFFLINE_JSON
        offline = json.loads(path.read_text(encoding="utf-8"))
        _write(path, {**offline, "state": "FIZZLED", "fwaction": launch["action"]})
        self.count("refused action")

    def unchanged(self, what: str) -> None:
        """Raise Unlike if our documents are not what they were."""
        found = self.bench.documents("ours")
        for collection in COLLECTIONS:
            for key, document in found[collection].items():
                before = self.ours[collection].get(key)
                if repr(before) != repr(document):
                    raise Unlike(f"{collection} changed {what}:\n{before}\n{document}")

    def again(self, reports: list[Report]) -> None:
        """Offer the same reports once more: that must change nothing."""
        finals = [report for report in reports if report.final]
        if not finals:
            return
        self.bench.launchpad.apply(finals)
        self.unchanged("by a report that was applied already")
        self.count("reports repeated", len(finals))

    def _count_effects(self, before: Documents) -> None:
        old, new = before["fireworks"], self.ours["fireworks"]
        self.count("Fireworks added", len(new) - len(old))
        for fw_id in new:
            state = new[fw_id]["state"]
            if old.get(fw_id, {}).get("state") != state:
                self.count(f"became {state}")
        for launch_id, launch in self.ours["launches"].items():
            known = before["launches"].get(launch_id, {}).get("state")
            if launch["state"] == "COMPLETED" and known != "COMPLETED":
                for key, value in launch["action"].items():
                    self.count(f"applied {key}", bool(value))
                for modifier in launch["action"]["mod_spec"]:
                    for verb in modifier:
                        self.count(f"applied {verb}")
                shared = [doc for doc in new.values() if launch_id in doc["launches"]]
                self.count("shared launch completed", len(shared) > 1)
        for fw_id, firework in new.items():
            if "_fizzled_parents" in firework["spec"] and "_fizzled_parents" not in old.get(
                fw_id, {}
            ).get("spec", {}):
                self.count("told of FIZZLED parents")


#: What is done instead of a command that nothing is there for.
_FIRST = {"resume_fw": "pause_fw", "reignite_fw": "defuse_fw"}
#: The states that a command is for, where it has no effect on others.
_CONCERNS: dict[str, set[str]] = {
    "pause_fw": {"WAITING", "READY", "RESERVED"},
    "resume_fw": {"PAUSED"},
    "reignite_fw": {"DEFUSED"},
    "rerun_fw": {"READY", "RESERVED", "RUNNING", "FIZZLED", "COMPLETED", "PAUSED"},
}


def _picked(items: list[int], pick: int) -> int:
    return items[pick % len(items)]


def _write(path: Path, document: Document) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")


def ordered(document: Any) -> Any:
    """Return a value with what is a set in order, without the driver's `_id`, what an action adds in one form."""
    if isinstance(document, list):
        return [ordered(item) for item in document]
    if not isinstance(document, dict):
        return document
    found = {key: ordered(value) for key, value in document.items() if key != "_id"}
    if "nodes" in found:
        found["nodes"] = sorted(found["nodes"])
        # FireWorks appends the roots of a workflow in the order of a Python set.
        for key in ("links", "parent_links"):
            found[key] = {node: sorted(others) for node, others in found[key].items()}
    if "archived_launches" in found:
        found["archived_launches"] = sorted(found["archived_launches"], key=repr)
    if "append_wfs" in found and "mod_spec" in found:
        for key in ("additions", "detours"):
            found[key] = [_whole(growth) for growth in found[key]]
        found["append_wfs"] = [
            {**entry, "workflow": _whole(entry["workflow"])} for entry in found["append_wfs"]
        ]
    return found


def _whole(growth: Document) -> Document:
    """Return what an action adds as a workflow with all links and no dates."""
    if "fws" not in growth:
        growth = {"fws": [growth], "links": {}, "name": growth["name"], "metadata": {}}
    dates = ("created_on", "updated_on")
    fws = [{key: value for key, value in fw.items() if key not in dates} for fw in growth["fws"]]
    links = {**{str(fw["fw_id"]): [] for fw in fws}, **growth["links"]}
    found = {key: value for key, value in growth.items() if key not in dates}
    return {**found, "fws": fws, "links": links}


def _held(before: Documents, launch_id: int) -> bool:
    """Tell whether a launch is of a held Firework: FireWorks finds out only when that is resumed."""
    return any(
        doc["state"] in HELD for doc in before["fireworks"].values() if launch_id in doc["launches"]
    )
