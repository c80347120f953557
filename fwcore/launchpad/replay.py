"""Carrying out a journal that somebody else, or an earlier moment, has left: it may be done, half done, or late."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pymongo import UpdateOne

from fwcore.launchpad.writing import Writing, reach
from fwcore.world import Write

Document = dict[str, Any]
#: The Fireworks in each workflow, by the workflow's ``_id``.
Members = dict[Any, set[int]]


class Replay(Writing):
    """Carries out journals."""

    def _replay(self, writes: Sequence[Write], token: str) -> None:
        """Make the writes of a journal, in workflows that are as they were left.

        A person may have released the locks meanwhile (`lpad admin unlock`): they are taken again as long as
        nobody has refreshed the workflow. Where somebody has, the journal comes too late: whoever applies the
        report again finishes what it has begun, and the Fireworks that it has added without a place are removed.
        """
        flows = {write.filter["_id"]: write for write in writes if write.collection == "workflows"}
        if flows:
            writes = self._still_valid(writes, flows, token)
        for _done in self._carry_out(writes, token):
            pass  # what does not find its document any more has been made, or is somebody else's
        self._drop_superseded(writes)

    def _still_valid(
        self, writes: Sequence[Write], flows: Mapping[Any, Write], token: str
    ) -> list[Write]:
        self._lock_again(flows.values(), token)
        standing, finished = self._standing(flows, token)
        owners = self._owners_by_launch(writes)
        for fw_id in self._overtaken(writes, owners):
            standing = {key: nodes for key, nodes in standing.items() if fw_id not in nodes}
        ours = _all(standing)
        known = ours | _all(finished)
        self._remove_orphans(writes, known)
        valid = [_restricted(write, standing, ours, known, owners) for write in writes]
        return [write for write in valid if write is not None]

    def _lock_again(self, flows: Iterable[Write], token: str) -> None:
        locking = [
            UpdateOne({**write.filter, "locked": {"$exists": False}}, {"$set": {"locked": token}})
            for write in flows
        ]
        self._db.workflows.bulk_write(locking, ordered=False)

    def _standing(self, flows: Mapping[Any, Write], token: str) -> tuple[Members, Members]:
        """Return the workflows that are still to be written, and those that have been."""
        standing: Members = {}
        finished: Members = {}
        wanted = {"nodes": 1, "locked": 1, "updated_on": 1}
        for workflow in self._db.workflows.find({"_id": {"$in": list(flows)}}, wanted):
            changes = flows[workflow["_id"]].update.get("$set", {})
            nodes = {*workflow["nodes"], *changes.get("nodes", [])}
            if workflow.get("locked") == token:
                standing[workflow["_id"]] = nodes
            elif workflow.get("updated_on") == changes.get("updated_on"):
                finished[workflow["_id"]] = nodes
        return standing, finished

    def _owners_by_launch(self, writes: Iterable[Write]) -> dict[int, set[int]]:
        """Return the Fireworks of launches that are written, also those that have archived them."""
        launch_ids = {number for write in writes if (number := write.filter.get("launch_id"))}
        lists = ("launches", "archived_launches")
        query = {"$or": [{key: {"$in": list(launch_ids)}} for key in lists]}
        owners: dict[int, set[int]] = {number: set() for number in launch_ids}
        for firework in self._db.fireworks.find(query, dict.fromkeys(("fw_id", *lists), 1)):
            listed = {number for key in lists for number in firework.get(key) or []}
            for number in launch_ids & listed:
                owners[number].add(firework["fw_id"])
        return owners

    def _overtaken(self, writes: Iterable[Write], owners: Mapping[int, set[int]]) -> Iterable[int]:
        """Yield the Fireworks of launches to which somebody else has given another state."""
        changing = {w.filter["launch_id"]: w for w in writes if w.collection == "launches"}
        query = {"launch_id": {"$in": list(changing)}}
        for launch in self._db.launches.find(query, {"launch_id": 1, "state": 1}):
            write = changing[launch["launch_id"]]
            fitting = (write.filter.get("state"), write.update.get("$set", {}).get("state"))
            if launch["state"] not in fitting:
                yield from owners[launch["launch_id"]]

    def _remove_orphans(self, writes: Iterable[Write], known: set[int]) -> None:
        born = [w.filter["fw_id"] for w in writes if w.collection == "fireworks" and w.upsert]
        if lost := [fw_id for fw_id in born if fw_id not in known]:
            placed = self._db.workflows.distinct("nodes", {"nodes": {"$in": lost}})
            orphans = sorted(set(lost) - set(placed))
            self._db.fireworks.delete_many({"fw_id": {"$in": orphans}, "launches": []})


def _all(members: Members) -> set[int]:
    return {fw_id for nodes in members.values() for fw_id in nodes}


def _restricted(
    write: Write,
    standing: Members,
    ours: set[int],
    known: set[int],
    owners: Mapping[int, set[int]],
) -> Write | None:
    """Return what of a write is still to be made, None if nothing is."""
    if write.collection == "workflows":
        return write if write.filter["_id"] in standing else None
    if write.collection == "launches":
        return write if owners[write.filter["launch_id"]] & ours else None
    if write.collection == "offline_runs":
        return write if owners[write.filter["launch_id"]] & known else None
    if write.collection != "fireworks":
        return write
    fw_ids = [fw_id for fw_id in reach(write) if fw_id in ours]
    if not write.many:
        return write if fw_ids else None
    kept = {**write.filter, "fw_id": {"$in": fw_ids}}
    return replace(write, filter=kept) if fw_ids else None
