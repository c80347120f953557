"""Carrying out the writes of a plan so that doing it twice, or late, is doing it once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from pymongo import UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError

from fwcore.launchpad.journal import Fenced, encoded
from fwcore.launchpad.reading import Reading
from fwcore.world import Write

Document = dict[str, Any]

#: Tries to write a Firework that others keep changing without a lock.
_ATTEMPTS = 5
#: The server's error code for `spec.a.b` where `spec.a` is no object.
_PATH_NOT_VIABLE = 28


class Writing(Reading):
    """Makes writes."""

    def _execute(self, writes: list[Write], token: str) -> None:
        for collection, group in groupby(writes, key=lambda write: write.collection):
            batch = list(group)
            done = self._write(collection, [_unlocking(write, token) for write in batch], token)
            if collection == "fireworks" and done < len(batch):
                self._settle(batch, token)
        self._drop_superseded(writes)

    def _write(self, collection: str, writes: list[Write], token: str) -> int:
        """Make writes and return how many found their document.

        One that the server refuses for good (a document that would grow too large) must not keep the others
        from being made, nor the batch from ever ending: it is put aside in ``fwagent_refused``.
        """
        operations = [_operation(write) for write in writes]
        try:
            done = self._db[collection].bulk_write(operations, ordered=False)
        except BulkWriteError as error:
            for refused in error.details["writeErrors"]:
                # A path that somebody has made unviable is mended when the write is rebased.
                if refused["code"] != _PATH_NOT_VIABLE:
                    self._put_aside(writes[refused["index"]], token, str(refused["errmsg"]))
            return int(error.details["nMatched"] + error.details["nUpserted"])
        return done.matched_count + done.upserted_count

    def _put_aside(self, write: Write, token: str, reason: str) -> None:
        kept = {"write": encoded(write), "reason": reason[:1000], "on": self._clock()}
        number = str(write.filter.get("fw_id") or write.filter.get("launch_id"))
        self._db.fwagent_refused.update_one(
            {"_id": f"{token}/{write.collection}/{number}"}, {"$set": kept}, upsert=True
        )

    def _settle(self, writes: list[Write], token: str) -> None:
        """Make the writes of Fireworks that somebody has changed since they were read.

        That can be a command of FireWorks that takes no lock (a pause, a defuse, a pick). Where the lock is
        gone, the batch was finished already, and what differs since is somebody else's.
        """
        pending = {write.filter["fw_id"]: write for write in writes if not write.upsert}
        for _attempt in range(_ATTEMPTS):
            found = self._by_id("fireworks", "fw_id", pending)
            pending = {
                fw_id: pending[fw_id]
                for fw_id, firework in found.items()
                if firework.get("updated_on") != pending[fw_id].update["$set"]["updated_on"]
            }
            ours = self._still_locked(token, pending)
            if token in self._half_done and ours != pending.keys():
                raise Fenced
            pending = {fw_id: pending[fw_id] for fw_id in ours}
            if not pending:
                return
            rebased = [_rebased(write, found[fw_id]) for fw_id, write in pending.items()]
            self._write("fireworks", rebased, token)

    def _still_locked(self, token: str, fw_ids: Iterable[int]) -> set[int]:
        members = {"locked": token, "nodes": {"$in": list(fw_ids)}}
        nodes = self._db.workflows.find(members, {"nodes": 1})
        return {node for workflow in nodes for node in workflow["nodes"]} & set(fw_ids)


def _operation(write: Write) -> UpdateOne | UpdateMany:
    if write.many:
        return UpdateMany(write.filter, write.update)
    return UpdateOne(write.filter, write.update, upsert=write.upsert)


def _rebased(write: Write, firework: Document) -> Write:
    """Return a write for a Firework as it is now: its spec changes, its state only if it still fits."""
    changes = _viable(write.update["$set"], firework)
    if firework["state"] != write.filter["state"]:
        changes = {key: value for key, value in changes.items() if key.startswith("spec")}
        changes["updated_on"] = write.update["$set"]["updated_on"]
    seen = {
        "fw_id": firework["fw_id"],
        "state": firework["state"],
        "updated_on": firework.get("updated_on"),
    }
    return Write("fireworks", seen, {**write.update, "$set": changes})


def _viable(changes: Mapping[str, Any], firework: Mapping[str, Any]) -> Document:
    """Return changes whose paths exist: where somebody has put a value, our object takes its place."""
    found: Document = {}
    for path, value in changes.items():
        *parents, last = path.split(".")
        place: Any = firework
        names: list[str] = []
        for name in parents:
            names.append(name)
            place = place.get(name, {})
            if not isinstance(place, Mapping):
                break
        if isinstance(place, Mapping):
            found[path] = value
            continue
        rest = [*parents[len(names) :], last]
        target = found.setdefault(".".join(names), {})
        for name in rest[:-1]:
            target = target.setdefault(name, {})
        target[rest[-1]] = value
    return found


def _unlocking(write: Write, token: str) -> Write:
    if write.collection != "workflows":
        return write
    removals = {**write.update.get("$unset", {}), "locked": ""}
    return Write(
        write.collection, {**write.filter, "locked": token}, {**write.update, "$unset": removals}
    )
