"""Carrying out a journal that somebody else, or an earlier moment, has left: it may be done, half done, or late."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fwcore.diff import same
from fwcore.launchpad.reading import WHOLE
from fwcore.launchpad.writing import Writing, reach, rebased, singles
from fwcore.world import Write

Document = dict[str, Any]
#: The Fireworks in each workflow, by the workflow's ``_id``.
Members = dict[Any, set[int]]

#: Tries to write Fireworks that others keep changing without a lock.
_ATTEMPTS = 3


class Waits(Exception):
    """Somebody else holds a workflow in which a journal has begun; the rest of it has to wait."""


class Replay(Writing):
    """Carries out journals."""

    def _replay(self, writes: Sequence[Write], token: str) -> set[int]:
        """Make what is left to be made of the writes of a journal.

        Workflows may be as they were left: locked, or unlocked by a person (`lpad admin unlock`) and not refreshed
        since. These are written as planned. Where somebody has gone on meanwhile, the journal comes late. If
        Fireworks there are as it has written them, the rest follows: nobody applies an action a second time whose
        Firework is COMPLETED. If none is, whoever applies the report again does everything, and the Fireworks
        that it has added without a place are removed.

        Returns the Fireworks whose states are to be derived anew, because of what somebody has done meanwhile.
        Raises Waits, with nothing written, if somebody else holds a workflow in which the journal has begun.
        """
        flows = {write.filter["_id"]: write for write in writes if write.collection == "workflows"}
        affected: set[int] = set()
        if flows:
            writes, affected = self._still_valid(writes, flows, token)
        for _done in self._carry_out(writes, token):
            pass  # what does not find its document any more has been made, or is somebody else's
        self._drop_superseded(writes)
        return affected

    def _still_valid(
        self, writes: Sequence[Write], flows: Mapping[Any, Write], token: str
    ) -> tuple[list[Write], set[int]]:
        """Go on where the journal comes late; return what is to be written as planned, and what was affected."""
        owners = self._owners_by_launch(writes)
        standing, finished, late = self._sorted(flows, token)
        for fw_id in self._overtaken(writes, owners):
            for key in [key for key, nodes in standing.items() if fw_id in nodes]:
                late[key] = standing.pop(key)
        begun = self._begun(writes, late)
        self._lock_all(begun, token)
        ours = _all(standing)
        known = ours | _all(finished) | _all(begun)
        self._remove_orphans(writes, known)
        affected = self._go_on(writes, flows, begun, token)
        valid = [_restricted(write, standing, ours, known, owners) for write in writes]
        return [write for write in valid if write is not None], affected

    def _sorted(self, flows: Mapping[Any, Write], token: str) -> tuple[Members, Members, Members]:
        """Return the workflows that are as they were left, those that have been written, and all others."""
        standing: Members = {}
        finished: Members = {}
        late: Members = {}
        wanted = {"nodes": 1, "locked": 1, "updated_on": 1}
        for workflow in self._db.workflows.find({"_id": {"$in": list(flows)}}, wanted):
            write = flows[workflow["_id"]]
            changes = write.update.get("$set", {})
            locked, date = workflow.get("locked"), workflow.get("updated_on")
            unchanged = date == write.filter["updated_on"]
            # A defuse leaves the date alone: that it is written is told by the lock alone.
            dated = "updated_on" in changes
            if unchanged and (locked == token or (dated and self._locked_again(write, token))):
                place = standing
            else:
                place = finished if dated and date == changes["updated_on"] else late
            place[workflow["_id"]] = {*workflow["nodes"], *changes.get("nodes", [])}
        return standing, finished, late

    def _locked_again(self, flow: Write, token: str) -> bool:
        free = {**flow.filter, "locked": {"$exists": False}}
        return bool(self._db.workflows.update_one(free, {"$set": {"locked": token}}).matched_count)

    def _begun(self, writes: Sequence[Write], late: Members) -> Members:
        """Return the workflows with a Firework that is as the journal has written it."""
        dates = {
            fw_id: write.update["$set"]["updated_on"]
            for write in writes
            if write.collection == "fireworks" and not write.upsert
            for fw_id in reach(write)
        }
        wanted = [fw_id for fw_id in dates if fw_id in _all(late)]
        query = {"fw_id": {"$in": wanted}}
        found = self._db.fireworks.find(query, {"fw_id": 1, "updated_on": 1}, batch_size=WHOLE)
        written = {doc["fw_id"] for doc in found if doc.get("updated_on") == dates[doc["fw_id"]]}
        return {key: nodes for key, nodes in late.items() if written & nodes}

    def _lock_all(self, begun: Members, token: str) -> None:
        for key in begun:
            free = {"_id": key, "$or": [{"locked": {"$exists": False}}, {"locked": token}]}
            taken = self._db.workflows.update_one(free, {"$set": {"locked": token}})
            if not taken.matched_count:
                raise Waits

    def _go_on(
        self, writes: Sequence[Write], flows: Mapping[Any, Write], begun: Members, token: str
    ) -> set[int]:
        """Make what is left in workflows that somebody has changed; return the Fireworks that it affects."""
        ours = _all(begun)
        parts = [_of_fireworks(write, ours) for write in writes if write.collection == "fireworks"]
        left = [write for write in parts if write is not None]
        if left:
            self._write("fireworks", left, token)
            self._write_late([single for write in left for single in singles(write)], token)
        born = {w.filter["fw_id"]: w.update["$setOnInsert"]["state"] for w in left if w.upsert}
        written = {fw_id for write in left for fw_id in reach(write)}
        affected: set[int] = set()
        for key in begun:
            mine = {"_id": key, "locked": token}
            workflow = self._db.workflows.find_one(mine)
            if workflow is None:
                raise Waits
            workflow = self._whole_workflow(workflow, token)
            own = {fw_id: state for fw_id, state in born.items() if fw_id in begun[key]}
            workflow |= (added := _joined(workflow, flows[key].update.get("$set", {}), own))
            if added:
                self._write("workflows", [Write("workflows", mine, {"$set": added})], token)
            here = written & set(workflow["nodes"])
            affected |= here.union(*(workflow["links"].get(str(fw_id), []) for fw_id in here))
        return affected

    def _write_late(self, writes: Iterable[Write], token: str) -> None:
        """Make the writes of Fireworks that somebody has changed before they were made.

        Who was written and has gone on since stays as it is.
        """
        wanted = {write.filter["fw_id"]: write for write in writes if not write.upsert}
        for _attempt in range(_ATTEMPTS):
            found = self._by_id("fireworks", "fw_id", wanted)
            late = [
                rebased(wanted[fw_id], firework)
                for fw_id, firework in found.items()
                if not _made(wanted[fw_id], firework)
            ]
            if not late or self._write("fireworks", late, token) == len(late):
                return

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


def _joined(workflow: Document, changes: Document, born: Mapping[int, str]) -> Document:
    """Return what changes in a workflow that gets new Fireworks, {fw_id: state}, late: all their links and no others.

    ``changes`` are those that were planned; every link that a plan adds leads to a new Firework, or from one.
    """
    nodes = sorted({*workflow["nodes"], *born})
    if nodes == sorted(workflow["nodes"]):
        return {}
    links = {str(fw_id): [] for fw_id in born} | workflow["links"]
    parents = dict(workflow["parent_links"])
    for parent, children in _lists(changes, "links").items():
        for child in children:
            if not {int(parent), child} & born.keys() or not {int(parent), child} <= set(nodes):
                continue
            links[parent] = _with(links.get(parent, []), child)
            parents[str(child)] = _with(parents.get(str(child), []), int(parent))
    states = {str(fw_id): state for fw_id, state in born.items()} | workflow["fw_states"]
    return {"nodes": nodes, "links": links, "parent_links": parents, "fw_states": states}


def _made(write: Write, firework: Document) -> bool:
    """Tell whether a write of a Firework has been made, whatever else has become of the Firework since.

    Its state is not asked about: it follows from those of others.
    """
    changes = write.update["$set"]
    if firework.get("updated_on") == changes["updated_on"]:
        return True
    if not set(changes.get("archived_launches", ())) <= set(firework["archived_launches"]):
        return False
    given = {path: value for path, value in changes.items() if path.startswith("spec")}
    return all(_has(_at(firework, path), value) for path, value in given.items()) and not any(
        _at(firework, path) is not _ABSENT for path in write.update.get("$unset", {})
    )


_ABSENT = object()


def _at(firework: Document, path: str) -> Any:
    place: Any = firework
    for name in path.split("."):
        place = place.get(name, _ABSENT) if isinstance(place, Mapping) else _ABSENT
    return place


def _has(found: Any, value: Any) -> bool:
    """Tell whether a value is there; a list may have got more since."""
    if isinstance(found, list) and isinstance(value, list):
        found = found[: len(value)]
    return same(found, value)


def _lists(changes: Document, key: str) -> dict[str, list[int]]:
    """Return the lists that are set in an object of lists, one by one or as a whole."""
    start = f"{key}."
    single = {path.removeprefix(start): v for path, v in changes.items() if path.startswith(start)}
    return {**changes.get(key, {}), **single}


def _with(items: list[int], item: int) -> list[int]:
    return items if item in items else [*items, item]


def _of_fireworks(write: Write, fw_ids: set[int]) -> Write | None:
    """Return what a write of Fireworks is to some of them, None if nothing."""
    found = [fw_id for fw_id in reach(write) if fw_id in fw_ids]
    if not write.many:
        return write if found else None
    return replace(write, filter={**write.filter, "fw_id": {"$in": found}}) if found else None


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
    return _of_fireworks(write, ours) if write.collection == "fireworks" else write
