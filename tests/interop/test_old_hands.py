"""People with `lpad` and `rlaunch rapidfire` on the same workflows, while we claim and apply: no update is lost."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Claim
from fwcore.worker import Worker
from fwrunner.protocol import FW_JSON, OFFLINE_JSON, Report
from tests.support.agent import in_place, stock_report
from tests.support.fireworks import FireWorks
from tests.support.launchpads import report
from tests.support.mongod import Client
from tests.support.old_hands import INCONSISTENT, Hand, Rlaunch, people, recoverer

Document = dict[str, Any]

WORKFLOWS = 80
REPORTS = 500
BATCH = 25
WORKER = Worker("here", category="offline")
TASK = {"_fw_name": "ScriptTask", "script": "true"}
ONLINE = {"_fw_name": "PyTask", "func": "builtins.abs", "args": [-1]}

#: name: (category, children). Of `o...` we run all, but `o0` is recovered by FireWorks in every other workflow.
NODES = {
    **{f"o{n}": ("offline", ["join"]) for n in range(5)},
    "online": ("online", ["mixed"]),
    "mixed": ("online", []),
    "join": ("offline", ["tail"]),
    "tail": ("offline", []),
}


def workflow(number: int) -> Document:
    """One in which all is done to everything, or (even numbers) one whose `join` and `tail` no FireWorks rewrites."""
    names = list(NODES)
    links = {name: list(children) for name, (_category, children) in NODES.items()}
    links["o0"].append("mixed")
    if number % 2:
        links["mixed"].append("join")
    return {
        "name": f"wf {number}",
        "fws": [
            {
                "fw_id": names.index(name),
                "name": name,
                "spec": {
                    "_tasks": [ONLINE if category == "online" else TASK],
                    "_category": category,
                    "log": [],
                    "recovered_by_fireworks": name == "o0" and number % 2 == 1,
                },
            }
            for name, (category, _children) in NODES.items()
        ],
        "links": {
            names.index(name): [names.index(child) for child in children]
            for name, children in links.items()
        },
        "metadata": {"number": number},
    }


def action_of(claim: Claim) -> Document:
    """What the run of a Firework asks for: a trace of itself in its children, and some growth."""
    name = claim.firework["name"]
    action: Document = {"stored_data": {"launch": claim.launch_id}}
    action["mod_spec"] = [{"_push": {"log": f"{name} {claim.launch_id}"}}]
    new = {"spec": {"_tasks": [TASK], "_category": "offline", "log": []}, "fw_id": -1}
    if name == "o1":
        action["additions"] = [{**new, "name": f"added {claim.launch_id}"}]
    if name == "o4":
        action["update_spec"] = {"_from": claim.launch_id}
        action["propagate"] = True
    return action


class Ours:
    """Our side: claims, runs that end in any order, and reports, in batches."""

    def __init__(self, launchpad: LaunchPad, place: Path, recovering: Hand | None) -> None:
        self.launchpad = launchpad
        self.recovering = recovering
        self.applied: Counter[str] = Counter()
        self.ignored: set[str] = set()
        self._place = place
        self._dice = random.Random(4711)
        self._pending: list[Report] = []
        self._odd: set[int] = set()

    def turn(self) -> None:
        """Claim some, let some start and some end, and apply what they tell."""
        claims = self.launchpad.claim(WORKER, BATCH, place=self._launch_dir, hold=True)
        for claim in claims:
            if self._theirs(claim):
                self._stage(claim)
        self.launchpad.open_runs(claims)
        self.launchpad.settle()
        for claim in claims:
            if self._theirs(claim):
                assert self.recovering is not None
                self.recovering.tell(claim.launch_id)
                continue
            self._pending.append(report(claim, "RUNNING"))
            self._pending.append(report(claim, **action_of(claim)))
        now = self._pending[: 2 * BATCH]
        self._dice.shuffle(now)
        told, later = now[:BATCH], now[BATCH:]
        result = self.launchpad.apply(told)
        for outcome in result.applied:
            self.applied[outcome.state] += 1
        self.ignored |= {outcome.reason.split(":")[0] for outcome in result.ignored}
        deferred = {outcome.launch_id for outcome in result.deferred}
        again = [each for each in told if each.launch_id in deferred]
        self._pending = later + self._pending[2 * BATCH :] + again

    @property
    def idle(self) -> bool:
        return not self._pending

    def _theirs(self, claim: Claim) -> bool:
        stock = claim.firework["spec"].get("recovered_by_fireworks")
        return bool(stock) and self.recovering is not None

    def _launch_dir(self, _firework: Any, launch_id: int) -> str:
        return str(self._place / f"launcher_{launch_id}")

    def _stage(self, claim: Claim) -> None:
        place = Path(claim.launch_dir)
        place.mkdir()
        in_place(place / FW_JSON, claim.firework)
        in_place(place / OFFLINE_JSON, stock_report(claim, **action_of(claim)))


@pytest.fixture
def launchpad(db_uri: str, db_name: str) -> Iterator[LaunchPad]:
    launchpad = LaunchPad.from_uri(db_uri, db_name)
    yield launchpad
    launchpad.close()


def test_nothing_of_theirs_and_nothing_of_ours_is_lost(
    fireworks: FireWorks, launchpad: LaunchPad, mongo_client: Client, db_name: str, tmp_path: Path
) -> None:
    database = mongo_client[db_name]
    fireworks.write_worker("online", category="online")
    launchpad.prepare()
    ids = [launchpad.add(workflow(number)) for number in range(WORKFLOWS)]
    named = [{name: each[n] for n, name in enumerate(NODES)} for each in ids]
    began = time.monotonic()
    with ExitStack() as stack:
        hands = [
            stack.enter_context(
                closing(people(fireworks, seed, targets(named, seed), WEIGHTS[seed]))
            )
            for seed in range(len(WEIGHTS))
        ]
        recovering = stack.enter_context(closing(recoverer(fireworks)))
        rlaunch = stack.enter_context(closing(Rlaunch(fireworks, tmp_path / "online")))
        ours = Ours(launchpad, tmp_path, recovering)
        while ours.applied["COMPLETED"] < REPORTS:
            ours.turn()
            assert time.monotonic() - began < 300, ours.applied
        told = [hand.end() for hand in hands]
        failed = recovering.end()["failed"]
        ours.recovering = None
        drain(ours, database, rlaunch)
    assert [each["errors"] for each in told] == [[]] * len(told)
    # A pause may come while the end of the run is being written; it is overtaken then.
    overtaken = [(held, found) for each in told for _fw_id, held, found in each["lost"]]
    assert set(overtaken) <= {("PAUSED", "COMPLETED")}
    assert len(overtaken) <= sum(each["done"]["hold"] for each in told) / 10
    assert failed == []
    # Reports of runs that somebody has rerun, or defused, meanwhile; nothing else.
    assert ours.ignored <= {
        "the launch is archived",
        "the offline run is retired (rerun, lpad forget_offline, or declared lost)",
    }
    check_states(database)
    check_launches(database)
    check_traces(database)
    check_specs(database, told)
    found = fireworks.python(INCONSISTENT)
    assert found == {"changes": [], "lost": [], "inconsistent": []}


#: What each of the people does, and how often.
WEIGHTS = [
    {"hold": 6, "push": 3, "prefer": 3, "look": 1},
    {"rerun": 2, "hold": 4, "push": 3, "prefer": 3},
]


def targets(named: list[dict[str, int]], seed: int) -> dict[str, list[int]]:
    """Return the Fireworks of each kind of command that are for one of the people."""
    quiet, wild = named[seed * 2 :: 4], named[seed * 2 + 1 :: 4]
    held = [each[name] for each in wild for name in ("o2", "o3")]
    if "rerun" not in WEIGHTS[seed]:
        # A rerun takes what waits below it out of a pause or a defuse (W34), and so does a defuse of what has ended.
        held = [each[name] for each in wild[::2] for name in ("o2", "o3")]
        held += [each["join"] for each in wild[1::4]] + [each["tail"] for each in wild[3::4]]
    return {
        "hold": held,
        "rerun": [each[name] for each in wild for name in ("o4", "online")],
        "push": [each[name] for each in quiet for name in ("join", "tail")],
        "prefer": [each[name] for each in quiet for name in ("join", "tail", "o1")],
        "look": [each["o1"] for each in quiet],
    }


def drain(ours: Ours, database: Database[Document], rlaunch: Rlaunch) -> None:
    """Let everything that is still to be run be run."""
    deadline = time.monotonic() + 180
    while True:
        ours.turn()
        states = Counter(firework["state"] for firework in database.fireworks.find())
        if ours.idle and set(states) == {"COMPLETED"}:
            return
        assert rlaunch.running
        assert "FIZZLED" not in states
        if time.monotonic() > deadline:
            stuck = list(
                database.fireworks.find({"state": {"$ne": "COMPLETED"}}, {"spec._tasks": 0})
            )[:5]
            flows = [database.workflows.find_one({"nodes": fw["fw_id"]}) for fw in stuck]
            raise AssertionError(f"{states}: {stuck} {flows}")


def check_states(database: Database[Document]) -> None:
    for flow in database.workflows.find():
        members = database.fireworks.find({"fw_id": {"$in": flow["nodes"]}})
        assert flow["fw_states"] == {str(each["fw_id"]): each["state"] for each in members}
        assert flow["state"] == "COMPLETED"
        assert "locked" not in flow
    assert database.fwagent_journal.count_documents({"void": {"$exists": False}}) == 0
    assert database.fwagent_refused.count_documents({}) == 0


def check_launches(database: Database[Document]) -> None:
    """Every launch belongs to one Firework, and the active ones of a Firework that has ended have ended."""
    listed: Counter[int] = Counter()
    for firework in database.fireworks.find():
        listed.update(firework["launches"] + firework["archived_launches"])
        active = list(database.launches.find({"launch_id": {"$in": firework["launches"]}}))
        assert [launch["state"] for launch in active] == ["COMPLETED"], firework
    launches = {launch["launch_id"] for launch in database.launches.find()}
    assert listed == dict.fromkeys(launches, 1)
    open_runs = database.offline_runs.find({"completed": False, "deprecated": False})
    assert {run["launch_id"] for run in open_runs} <= launches


def check_traces(database: Database[Document]) -> None:
    """Each completed run has left its trace in each of its children, once."""
    fireworks = {firework["fw_id"]: firework for firework in database.fireworks.find()}
    for flow in database.workflows.find():
        for node, children in flow["links"].items():
            parent = fireworks[int(node)]
            if parent["spec"]["_category"] == "online" or parent["name"].startswith("added"):
                continue
            numbers = parent["launches"] + parent["archived_launches"]
            ended = database.launches.find({"launch_id": {"$in": numbers}, "state": "COMPLETED"})
            ran = {launch["launch_id"] for launch in ended}
            for child in map(fireworks.__getitem__, children):
                if child["name"].startswith("added"):
                    continue
                traces = [t for t in child["spec"]["log"] if t.startswith(parent["name"] + " ")]
                wanted = [f"{parent['name']} {launch_id}" for launch_id in ran]
                assert sorted(traces) == sorted(wanted), (parent, child)


def check_specs(database: Database[Document], told: list[Document]) -> None:
    for each in told:
        arrived = [(fw_id, number) for fw_id, number, seen in each["pushed"] if seen]
        assert len(arrived) > 5
        for fw_id, number in arrived:
            firework = database.fireworks.find_one({"fw_id": fw_id})
            assert firework is not None
            assert firework["spec"]["people"].count(number) == 1, (firework, number)
        for fw_id, priority in each["priority"].items():
            firework = database.fireworks.find_one({"fw_id": int(fw_id)})
            assert firework is not None
            assert firework["spec"]["_priority"] == priority, firework
