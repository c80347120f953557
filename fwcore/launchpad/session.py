"""Lock, read, plan, write, unlock: what every change of a workflow goes through."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import groupby
from typing import Any

from pymongo import UpdateMany, UpdateOne
from pymongo.database import Database

from fwcore.draft import Missing, World, Write
from fwcore.errors import NotInitialized
from fwcore.launchpad.connection import reaching
from fwcore.plan import Plan

Document = dict[str, Any]

#: Documents of a reply: without it the server hands out 101, then asks to be asked again.
WHOLE = 100_000


class Session:
    """A connected database; the parts of the LaunchPad build on it."""

    _db: Database[Document]
    _clock: Callable[[], datetime]
    _holder: str
    name: str
    where: str
    host: str
    ip: str

    def _reaching(self) -> Any:
        return reaching(self.where)

    def _allocate(self, counter: str, count: int) -> int:
        """Return the first of ``count`` new ids of ``next_fw_id`` or ``next_launch_id``."""
        before = self._db.fw_id_assigner.find_one_and_update({}, {"$inc": {counter: count}})
        if before is None:
            raise no_launchpad(self.name, self.where)
        return int(before[counter])

    def _owners(self, launch_ids: Iterable[int]) -> list[int]:
        query = {"launches": {"$in": list(launch_ids)}}
        cursor = self._db.fireworks.find(query, {"fw_id": 1}, batch_size=WHOLE)
        return [firework["fw_id"] for firework in cursor]

    @contextmanager
    def _locked(self, fw_ids: Sequence[int]) -> Iterator[tuple[str, World]]:
        """Lock the workflows of Fireworks; yield the token and a World that holds those we got."""
        token = f"{self._holder}:{secrets.token_hex(4)}"
        world = World()
        if not fw_ids:
            yield token, world
            return
        members = {"nodes": {"$in": list(fw_ids)}}
        try:
            self._db.workflows.update_many(
                {**members, "locked": {"$exists": False}}, {"$set": {"locked": token}}
            )
            for workflow in self._db.workflows.find(members, batch_size=WHOLE):
                if workflow.get("locked") == token:
                    world.workflows.append(self._whole_workflow(workflow))
                else:
                    reason = f"the workflow is locked by {_holder_of(workflow.get('locked'))}"
                    world.refused.update(dict.fromkeys(workflow["nodes"], reason))
            yield token, world
        finally:
            # The index on nodes finds them; there is none on locked.
            self._db.workflows.update_many({**members, "locked": token}, {"$unset": {"locked": ""}})

    def _whole_workflow(self, workflow: Document) -> Document:
        """Return a workflow with the fields that old versions of FireWorks did not store."""
        if "parent_links" not in workflow:
            workflow["parent_links"] = _parent_links(workflow["links"])
        states = workflow.get("fw_states", {})
        if any(str(node) not in states for node in workflow["nodes"]):
            found = self._db.fireworks.find(
                {"fw_id": {"$in": workflow["nodes"]}}, {"fw_id": 1, "state": 1}
            )
            workflow["fw_states"] = {
                str(firework["fw_id"]): firework["state"] for firework in found
            }
            self._db.workflows.update_one(
                {"_id": workflow["_id"]}, {"$set": {"fw_states": workflow["fw_states"]}}
            )
        return workflow

    def _read(
        self,
        world: World,
        owners: Iterable[int],
        launch_ids: Iterable[int],
        *,
        children: bool = False,
    ) -> None:
        """Read what a plan will most likely need, under the locks."""
        wanted = {fw_id for fw_id in owners if fw_id not in world.refused}
        if children:
            for workflow in world.workflows:
                for fw_id in wanted & set(workflow["nodes"]):
                    wanted = wanted | set(workflow["links"].get(str(fw_id), []))
        numbers = set(launch_ids)
        self._read_runs(world, numbers)
        self._read_more(world, Missing(fireworks=wanted | set(owners), launches=numbers))

    def _read_runs(self, world: World, launch_ids: Iterable[int]) -> None:
        query = {"launch_id": {"$in": list(launch_ids)}}
        for run in self._db.offline_runs.find(query, batch_size=WHOLE):
            world.runs.setdefault(run["launch_id"], []).append(run)

    def _read_more(self, world: World, missing: Missing) -> None:
        fireworks = self._by_id("fireworks", "fw_id", missing.fireworks)
        for firework in fireworks.values():
            firework.setdefault("launches", [])
            firework.setdefault("archived_launches", [])
        world.fireworks.update(fireworks)
        listed = {number for firework in fireworks.values() for number in firework["launches"]}
        wanted = (missing.launches | listed) - set(world.launches)
        world.launches.update(self._by_id("launches", "launch_id", wanted))
        if missing.flags:
            query = {"fw_id": {"$in": list(missing.flags)}}
            world.tolerant.update(dict.fromkeys(missing.flags, False))
            for firework in self._db.fireworks.find(
                query, {"fw_id": 1, "spec._allow_fizzled_parents": 1}
            ):
                flag = firework.get("spec", {}).get("_allow_fizzled_parents")
                world.tolerant[firework["fw_id"]] = bool(flag)

    def _planned(self, world: World, make: Callable[[], Plan]) -> Plan:
        """Return a plan, reading on as long as it asks for more."""
        while True:
            try:
                return make()
            except Missing as missing:
                self._read_more(world, missing)
                world.gone.fireworks |= missing.fireworks - world.fireworks.keys()
                world.gone.launches |= missing.launches - world.launches.keys()

    def _by_id(self, collection: str, key: str, ids: Iterable[int]) -> dict[int, Document]:
        wanted = list(ids)
        if not wanted:
            return {}
        return {
            document[key]: document
            for document in self._db[collection].find({key: {"$in": wanted}}, batch_size=WHOLE)
        }

    def _commit(self, plan: Plan, token: str) -> None:
        """Carry out a plan under the locks of ``token``; the write of a workflow releases its lock."""
        self._execute([_unlocking(write, token) for write in plan.writes])

    def _execute(self, writes: list[Write]) -> None:
        for collection, group in groupby(writes, key=lambda write: write.collection):
            operations = [
                (UpdateMany if write.many else UpdateOne)(write.filter, write.update)
                for write in group
            ]
            self._db[collection].bulk_write(operations, ordered=True)


def no_launchpad(name: str, where: str) -> NotInitialized:
    """Return the error of a database without an id counter."""
    return NotInitialized(
        f"the database {name!r} at {where} holds no LaunchPad",
        "check the database name; a new LaunchPad is made by `fwagent add` into an empty "
        "database, or by `lpad reset` (which erases an old one)",
    )


def _parent_links(links: Mapping[str, list[int]]) -> dict[str, list[int]]:
    parents: dict[str, list[int]] = {}
    for parent, children in links.items():
        for child in children:
            parents.setdefault(str(child), []).append(int(parent))
    return parents


def _holder_of(locked: Any) -> str:
    if isinstance(locked, str) and locked.startswith("fwagent:"):
        _, host, pid, *_ = locked.split(":")
        return f"fwagent on {host} (process {pid})"
    return "FireWorks"


def _unlocking(write: Write, token: str) -> Write:
    if write.collection != "workflows":
        return write
    removals = {**write.update.get("$unset", {}), "locked": ""}
    return Write(
        write.collection, {**write.filter, "locked": token}, {**write.update, "$unset": removals}
    )


def batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Cut a list into lists of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
