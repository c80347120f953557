"""A LaunchPad in memory: documents, what a planner reads of them, and its writes carried out.

The writes are interpreted strictly: what MongoDB would refuse (an empty name in a path, two paths of which one
leads into the other) is an error here too, and so is every operator but ``$set``, ``$unset`` and, in an
insertion, ``$setOnInsert``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, TypeVar

from fwcore import documents
from fwcore.plan import Plan, plan_cancel, plan_claim, plan_reports, plan_share
from fwcore.rerun import Changes, plan_defuse, plan_rerun, plan_rerun_lost
from fwcore.worker import Worker
from fwcore.world import Missing, World, Write
from fwrunner.protocol import Report

Document = dict[str, Any]

_Plan = TypeVar("_Plan")

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=timezone.utc)
TASKS = [{"_fw_name": "ScriptTask", "script": "true"}]


def updated(document: Mapping[str, Any], update: Mapping[str, Any]) -> Document:
    """Return a document after an update, as MongoDB would make it."""
    assert update.keys() <= {"$set", "$unset"}, f"not absolute: {sorted(update)}"
    assert all(update.values()), "MongoDB refuses an empty operator"
    paths = [*update.get("$set", {}), *update.get("$unset", {})]
    for path in paths:
        names = path.split(".")
        assert all(names), f"{path!r} has an empty name"
        assert not any(name.startswith("$") for name in names), f"{path!r} has an operator in it"
        inner = [other for other in paths if other.startswith(f"{path}.")]
        assert not inner, f"{path!r} conflicts with {inner}"
    assert len(paths) == len(set(paths)), "a path is set and unset"
    result = copy.deepcopy(dict(document))
    for path, value in update.get("$set", {}).items():
        _put(result, path.split("."), copy.deepcopy(value))
    for path in update.get("$unset", {}):
        _remove(result, path.split("."))
    return result


def _put(target: Any, names: list[str], value: Any) -> None:
    *parents, last = names
    for name in parents:
        target = target[int(name)] if isinstance(target, list) else target.setdefault(name, {})
    if isinstance(target, list):
        position = int(last)
        assert position <= len(target), "MongoDB would fill the gap with nulls"
        target[position:] = [value, *target[position + 1 :]]
    else:
        assert isinstance(target, dict), "MongoDB cannot create a field in a scalar"
        target[last] = value


def _remove(target: Any, names: list[str]) -> None:
    *parents, last = names
    for name in parents:
        if not isinstance(target, dict) or name not in target:
            return
        target = target[name]
    if isinstance(target, dict):
        target.pop(last, None)


class Memory:
    """The collections of one LaunchPad. Launches and Fireworks count from 1."""

    def __init__(self) -> None:
        self.now = NOW
        self.collections: dict[str, list[Document]] = {
            name: [] for name in ("fireworks", "launches", "workflows", "offline_runs")
        }

    # ----------------------------------------------------------------------------- making

    def add(
        self, links: Mapping[str, str], specs: Mapping[str, Mapping[str, Any]] | None = None
    ) -> dict[str, int]:
        """Add a workflow whose Fireworks have one-letter names: ``{"a": "bc", "b": ""}``."""
        names = sorted({*links, *(child for children in links.values() for child in children)})
        first = len(self.collections["fireworks"]) + 1
        source = {
            "fws": [
                {
                    "fw_id": number,
                    "name": name,
                    "spec": {"_tasks": TASKS, **(specs or {}).get(name, {})},
                }
                for number, name in enumerate(names, 1)
            ],
            "links": {
                names.index(name) + 1: [names.index(child) + 1 for child in children]
                for name, children in links.items()
            },
        }
        workflow, fireworks, ids = documents.new_workflow(source, first, self.now)
        workflow["_id"] = f"workflow{first}"
        self.collections["workflows"].append(workflow)
        self.collections["fireworks"] += fireworks
        return {name: ids[number] for number, name in enumerate(names, 1)}

    def reserve(self, fw_id: int, *, token: str | None = "tok") -> int:
        """Put a Firework into the queue; return the launch_id."""
        launch_id = len(self.collections["launches"]) + 1
        place = (f"/launch/{launch_id}", "login", "127.0.0.1")
        launch = documents.new_launch(
            launch_id, self.firework(fw_id), Worker("here"), place, self.now
        )
        self.collections["launches"].append(launch)
        run = documents.new_offline_run(launch, "name", token or "", self.now)
        if token is None:
            del run["fwagent"]
        self.collections["offline_runs"].append(run)
        self.firework(fw_id)["launches"].append(launch_id)
        self.set_state(fw_id, "RESERVED")
        return launch_id

    def run(self, fw_id: int) -> int:
        """Let a Firework be RUNNING; return the launch_id."""
        launch_id = self.reserve(fw_id)
        self.apply(report(launch_id))
        return launch_id

    def complete(self, fw_id: int, state: str = "COMPLETED", **action: Any) -> int:
        """Let a Firework be done; return the launch_id."""
        launch_id = self.run(fw_id)
        self.apply(report(launch_id, state, **action))
        return launch_id

    def set_state(self, fw_id: int, state: str) -> None:
        """Give a Firework a state, in its workflow too."""
        self.firework(fw_id)["state"] = state
        self.workflow(fw_id)["fw_states"][str(fw_id)] = state

    # ---------------------------------------------------------------------------- looking

    def firework(self, fw_id: int) -> Document:
        return next(doc for doc in self.collections["fireworks"] if doc["fw_id"] == fw_id)

    def launch(self, launch_id: int) -> Document:
        return next(doc for doc in self.collections["launches"] if doc["launch_id"] == launch_id)

    def offline_run(self, launch_id: int) -> Document:
        runs = self.collections["offline_runs"]
        return next(doc for doc in runs if doc["launch_id"] == launch_id)

    def workflow(self, fw_id: int) -> Document:
        return next(doc for doc in self.collections["workflows"] if fw_id in doc["nodes"])

    def states(self, ids: Mapping[str, int]) -> dict[str, str]:
        """Return the states by name; they must be the same in the workflow."""
        found = {name: self.firework(fw_id)["state"] for name, fw_id in ids.items()}
        copies = {name: self.workflow(i)["fw_states"][str(i)] for name, i in ids.items()}
        assert found == copies
        return found

    # --------------------------------------------------------------------------- planning

    def world(self) -> World:
        """Return a World with everything in it."""
        copies = copy.deepcopy(self.collections)
        world = World(
            workflows=copies["workflows"],
            fireworks={doc["fw_id"]: doc for doc in copies["fireworks"]},
            launches={doc["launch_id"]: doc for doc in copies["launches"]},
        )
        for run in copies["offline_runs"]:
            world.runs.setdefault(run["launch_id"], []).append(run)
        return world

    def frugal_world(self, launch_ids: Iterable[int]) -> World:
        """Return a World with the launches of reports and their Fireworks, and nothing more."""
        everything, wanted = self.world(), set(launch_ids)
        owners = {
            fw_id: firework
            for fw_id, firework in everything.fireworks.items()
            if wanted & set(firework["launches"])
        }
        return World(
            workflows=[
                workflow
                for workflow in everything.workflows
                if set(workflow["nodes"]) & owners.keys()
            ],
            fireworks=owners,
            launches={
                number: everything.launches[number]
                for number in everything.launches.keys() & wanted
            },
            runs={number: everything.runs[number] for number in everything.runs.keys() & wanted},
        )

    def plan(self, *reports: Report) -> Plan:
        """Plan reports twice, with everything read and with what the plan asks for; both must agree."""
        full, before = self.world(), self.world()
        make = partial(plan_reports, reports=reports, now=self.now)
        plan = self._planned(full, make)
        before.gone, before.new_ids = full.gone, full.new_ids
        assert full == before, "the documents that were read have been altered"
        frugal = self.frugal_world(report.launch_id for report in reports)
        assert self._planned(frugal, make) == plan
        return plan

    def _planned(self, world: World, make: Callable[[World], _Plan]) -> _Plan:
        while True:
            try:
                return make(world)
            except Missing as missing:
                self._hand_over(world, missing)

    def _hand_over(self, world: World, missing: Missing) -> None:
        everything = self.world()
        asked = missing.fireworks | missing.launches | missing.flags | missing.owners
        assert asked or missing.new_ids, "nothing is missing"
        assert not missing.owners & world.owners.keys(), "asked for twice"
        for number in missing.owners:
            world.owners[number] = [
                fw_id
                for fw_id, firework in everything.fireworks.items()
                if number in firework["launches"]
            ]
        first = max(everything.fireworks) + len(world.new_ids) + 1
        world.new_ids += range(first, first + missing.new_ids)
        known = (*world.fireworks, *world.gone.fireworks)
        assert not missing.fireworks & set(known), "asked for twice"
        known = (*world.launches, *world.gone.launches)
        assert not missing.launches & set(known), "asked for twice"
        found = everything.fireworks.keys() & missing.fireworks
        world.fireworks.update({number: everything.fireworks[number] for number in found})
        world.gone.fireworks |= missing.fireworks - found
        found = everything.launches.keys() & missing.launches
        world.launches.update({number: everything.launches[number] for number in found})
        world.gone.launches |= missing.launches - found
        for number in missing.flags:
            spec = everything.fireworks[number]["spec"]
            world.tolerant[number] = bool(spec.get("_allow_fizzled_parents"))

    def apply(self, *reports: Report) -> Plan:
        """Plan reports and carry the writes out, some seconds later."""
        plan = self.plan(*reports)
        self.execute(plan.writes)
        return plan

    def cancel(self, *launch_ids: int, vanished: Mapping[int, str] | None = None) -> Plan:
        """Take reservations back."""
        make = partial(plan_cancel, launch_ids=launch_ids, now=self.now, vanished=vanished or {})
        plan = self._planned(self.world(), make)
        self.execute(plan.writes)
        return plan

    def share(self, duplicates: Mapping[int, Iterable[int]]) -> Plan:
        """Give READY Fireworks the launches of those that they duplicate."""
        make = partial(plan_share, duplicates=duplicates, now=self.now)
        plan = self._planned(self.world(), make)
        self.execute(plan.writes)
        return plan

    def rerun(self, *fw_ids: int, **options: Any) -> Changes:
        """Rerun Fireworks."""
        return self._change(partial(plan_rerun, fw_ids=fw_ids, now=self.now, **options))

    def rerun_lost(self, *ends: Report) -> Changes:
        """Rerun Fireworks whose jobs were lost."""
        by_firework = {end.fw_id: end for end in ends if end.fw_id is not None}
        return self._change(
            partial(plan_rerun_lost, fw_ids=by_firework, now=self.now, ends=by_firework)
        )

    def defuse(self, *fw_ids: int, **options: Any) -> Changes:
        """Defuse Fireworks."""
        return self._change(partial(plan_defuse, fw_ids=fw_ids, now=self.now, **options))

    def _change(self, make: Callable[[World], Changes]) -> Changes:
        """Plan twice, with everything read and with what the plan asks for; carry the writes out."""
        full, before = self.world(), self.world()
        plan = self._planned(full, make)
        before.gone, before.owners = full.gone, full.owners
        assert full == before, "the documents that were read have been altered"
        frugal = World(workflows=self.world().workflows)
        assert self._planned(frugal, make) == plan
        self.execute(plan.writes)
        return plan

    def claimed(self, *fw_ids: int) -> Plan:
        """Return the writes to the workflows of Fireworks that were claimed."""
        return plan_claim(self.world(), fw_ids, self.now)

    def execute(self, writes: Iterable[Write]) -> int:
        """Carry writes out, let a minute pass; return how many documents changed."""
        changed = 0
        for write in writes:
            collection = self.collections[write.collection]
            found = [i for i, doc in enumerate(collection) if _matches(doc, write.filter)]
            if write.upsert:
                assert write.update.keys() == {"$setOnInsert"}
                if not found:
                    collection.append(copy.deepcopy(write.update["$setOnInsert"]))
                    changed += 1
                continue
            for position in found if write.many else found[:1]:
                new = updated(collection[position], write.update)
                changed += new != collection[position]
                collection[position] = new
        self.now += timedelta(minutes=1)
        return changed


def _matches(document: Document, query: Document) -> bool:
    absent = {"$exists": False}
    plain = all(value == absent for value in query.values() if isinstance(value, dict))
    assert plain, "plain equality, or absence, only"
    return all(
        _at(document, key.split(".")) == (None if value == absent else value)
        for key, value in query.items()
    )


def _at(place: Any, names: list[str]) -> Any:
    for name in names:
        if isinstance(place, list):
            place = place[int(name)] if int(name) < len(place) else None
        else:
            place = place.get(name) if isinstance(place, dict) else None
    return place


def report(launch_id: int, state: str = "RUNNING", **action: Any) -> Report:
    """Return a report of a launch that began at 12:01 and, if it ended, did so at 12:05."""
    final = state != "RUNNING"
    return Report(
        launch_id=launch_id,
        state=state,
        launch_dir=f"/launch/{launch_id}",
        token="tok",
        started_on="2026-11-23T12:01:00+00:00",
        completed_on="2026-11-23T12:05:00.654321+00:00" if final else None,
        fwaction=action if final else None,
    )
