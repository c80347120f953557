"""Carrying out the writes of a plan so that doing it twice, or late, is doing it once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import bson
from bson.errors import BSONError
from pymongo import UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure

from fwcore.launchpad.journal import Overtaken, Unlocked, encoded
from fwcore.launchpad.reading import Reading
from fwcore.states import ACTIVE
from fwcore.world import Write

Document = dict[str, Any]

#: Tries to write a Firework that others keep changing without a lock.
_ATTEMPTS = 20
#: The server's error code for `spec.a.b` where `spec.a` is no object.
_PATH_NOT_VIABLE = 28
#: Of refusals that are about the user or the server, and not about what is written: Unauthorized,
#: AuthenticationFailed, MaxTimeMSExpired, shutdown and failover (MongoDB's error_codes.yml).
NOBODYS_FAULT = frozenset({13, 18, 50, 91, 189, 262, 8000, 10107, 11600, 11602, 13435, 13436})


class Writing(Reading):
    """Makes writes."""

    def _begin_session(self) -> None:
        super()._begin_session()
        # How many workflows the writes under a token have released.
        self._freed: dict[str, int] = {}
        # (token, fw_id) of writes that the server has refused.
        self._aside: set[tuple[str, int | None]] = set()
        # Tokens of journals that cannot be carried out.
        self._stuck: set[str] = set()
        # The workflows that are locked under a token.
        self._flows: dict[str, list[Any]] = {}

    def _execute(self, writes: list[Write], token: str) -> None:
        """Make writes for the first time.

        Raises Overtaken if a launch is not as it was read, before a Firework is touched; Unlocked if somebody
        has taken a lock away: the journal tells what is to be finished.
        """
        self._aside.clear()
        for collection, wanted, done in self._carry_out(writes, token):
            if collection == "launches" and token and done < wanted:
                raise Overtaken
            if collection == "workflows":
                self._freed[token] = done
                if done < wanted:
                    raise Unlocked
        self._drop_superseded(writes)

    def _carry_out(self, writes: Sequence[Write], token: str) -> Iterator[tuple[str, int, int]]:
        """Make writes, collection by collection; yield after each its name, how many, and how many found theirs."""
        for collection, group in groupby(writes, key=lambda write: write.collection):
            batch = list(group)
            done = self._write(collection, [unlocking(write, token) for write in batch], token)
            if collection == "fireworks" and done < sum(len(reach(write)) for write in batch):
                self._settle([single for write in batch for single in singles(write)], token)
            yield collection, len(batch), done

    def _write(self, collection: str, writes: list[Write], token: str) -> int:
        """Make writes and return how many found their document.

        One that the server refuses for good (a document that would grow too large) must not keep the others
        from being made, nor the batch from ever ending: it is put aside in ``fwagent_refused``.
        """
        operations = [_operation(write) for write in writes]
        try:
            result = self._db[collection].bulk_write(operations, ordered=False)
        except BulkWriteError as error:
            done = int(error.details["nMatched"] + error.details["nUpserted"])
            for refused in error.details["writeErrors"]:
                write = writes[refused["index"]]
                # One of many ends the whole update: the others shall not suffer for it.
                if len(each := singles(write)) > 1:
                    done += self._write(collection, each, token)
                # A path that somebody has made unviable is mended when the write is rebased.
                elif refused["code"] != _PATH_NOT_VIABLE:
                    self._put_aside(write, token, str(refused["errmsg"]))
                    done += 1
            return done
        except (OperationFailure, BSONError) as error:
            if getattr(error, "code", None) in NOBODYS_FAULT:
                raise
            return self._write_apart(collection, writes, token, str(error))
        return result.matched_count + result.upserted_count

    def _write_apart(self, collection: str, writes: list[Write], token: str, reason: str) -> int:
        """Make writes one by one of which the server has refused all together."""
        each = [single for write in writes for single in singles(write)]
        if len(each) > 1:
            return sum(self._write(collection, [write], token) for write in each)
        self._put_aside(writes[0], token, reason)
        return 1

    def _put_aside(self, write: Write, token: str, reason: str) -> None:
        number = str(write.filter.get("fw_id") or write.filter.get("launch_id"))
        self._refuse(f"{token}/{write.collection}/{number}", {"write": encoded(write)}, reason)
        self._aside.add((token, write.filter.get("fw_id")))

    def _refuse(self, number: str, what: Document, reason: str) -> None:
        kept = {**what, "reason": reason[:1000], "on": self._clock()}
        self._db.fwagent_refused.update_one({"_id": number}, {"$set": kept}, upsert=True)

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
                and (token, fw_id) not in self._aside
            }
            ours = self._still_locked(token, pending)
            if token in self._half_done and ours != pending.keys():
                raise Unlocked
            pending = {fw_id: pending[fw_id] for fw_id in ours}
            if not pending:
                return
            again = [rebased(write, found[fw_id]) for fw_id, write in pending.items()]
            self._write("fireworks", again, token)
        if token in self._half_done:
            raise Unlocked  # whoever keeps changing them: the journal waits
        for write in pending.values():
            self._put_aside(write, token, "somebody keeps changing it")

    def _still_locked(self, token: str, fw_ids: Iterable[int]) -> set[int]:
        members = {"locked": token, "nodes": {"$in": list(fw_ids)}}
        nodes = self._db.workflows.find(members, {"nodes": 1})
        return {node for workflow in nodes for node in workflow["nodes"]} & set(fw_ids)


def merged(writes: list[Write]) -> list[Write]:
    """Return the same writes, but those that change Fireworks alike as one.

    The children that one Firework releases are often hundreds that were added, and are changed, at once.
    """
    result: list[Write] = []
    alike: dict[bytes, list[int]] = {}
    for write in writes:
        if write.collection != "fireworks" or write.upsert:
            result.append(write)
            continue
        seen = {key: value for key, value in write.filter.items() if key != "fw_id"}
        kind = bson.encode({"seen": seen, "update": write.update})
        fw_ids = alike.setdefault(kind, [])
        if not fw_ids:
            result.append(replace(write, filter={"fw_id": {"$in": fw_ids}, **seen}, many=True))
        fw_ids.append(write.filter["fw_id"])
    return result


def reach(write: Write) -> list[int]:
    """Return the Fireworks that a write is for."""
    fw_ids = write.filter["fw_id"]
    return list(fw_ids["$in"]) if isinstance(fw_ids, dict) else [fw_ids]


def singles(write: Write) -> list[Write]:
    """Return a write of each Firework that a merged one is for."""
    if not isinstance(write.filter.get("fw_id"), dict):
        return [write]
    return [
        replace(write, filter={**write.filter, "fw_id": fw_id}, many=False)
        for fw_id in reach(write)
    ]


def _operation(write: Write) -> UpdateOne | UpdateMany:
    if write.many:
        return UpdateMany(write.filter, write.update)
    return UpdateOne(write.filter, write.update, upsert=write.upsert)


def rebased(write: Write, firework: Document) -> Write:
    """Return a write for a Firework as it is now.

    Its spec changes and launches are archived in any case, its state changes only if it still is as it was
    seen: a Firework that is paused while it is rerun is then a rerun one that is paused.
    """
    changes = _viable(write.update["$set"], firework)
    archives = "archived_launches" in changes
    if _set_back(write, firework):
        changes.update(_archiving(firework["launches"], firework))
    elif archives:
        changes.update(_archiving(changes["archived_launches"], firework))
    if firework["state"] != write.filter["state"] and not _holds(write, firework):
        kept = ("spec", "launches", "archived_launches") if archives else "spec"
        changes = {key: value for key, value in changes.items() if key.startswith(kept)}
        changes["updated_on"] = write.update["$set"]["updated_on"]
    seen = {
        "fw_id": firework["fw_id"],
        "state": firework["state"],
        "updated_on": firework.get("updated_on"),
    }
    # What lies below a value that is replaced goes with it; the server takes no path and one that it leads to.
    removals = {
        path: ""
        for path in write.update.get("$unset", {})
        if not any(path.startswith(f"{given}.") for given in changes)
    }
    update = {"$set": changes, **({"$unset": removals} if removals else {})}
    return Write("fireworks", seen, update)


def _holds(write: Write, firework: Document) -> bool:
    """Tell whether a Firework gets its new state in spite of the one that somebody has given it since."""
    state = firework["state"]
    return _overtakes(write, state) or _set_back(write, firework) or _defuses(write, state)


def _defuses(write: Write, state: str) -> bool:
    """Tell whether a Firework is given up in spite of a pause, which would let it run when it is resumed."""
    return write.update["$set"].get("state") == "DEFUSED" and state in (
        "PAUSED",
        "WAITING",
        "READY",
    )


def _overtakes(write: Write, state: str) -> bool:
    """Tell whether a Firework ends in spite of the state that somebody has given it since it was read.

    What follows from its end is in the same batch: were it PAUSED all the same, its action would be applied
    again when it is resumed. COMPLETED, and FIZZLED but for a defuse, nobody leaves without the lock.
    """
    ends = write.update["$set"].get("state")
    return ends == "COMPLETED" or (ends == "FIZZLED" and state in ("PAUSED", "WAITING"))


def _set_back(write: Write, firework: Document) -> bool:
    """Tell whether a Firework that was to wait, or to be defused, has been started in between.

    `rlaunch` has picked it, or `lpad recover_offline` says RUNNING of each run it looks at. What is to follow a
    rerun, or is given up, must not run on.
    """
    to_be = write.update["$set"].get("state") in {"WAITING", "DEFUSED"}
    rerun = write.filter["state"] == "READY" or "archived_launches" in write.update["$set"]
    return to_be and rerun and firework["state"] in ACTIVE


def _archiving(archived: list[int], firework: Document) -> Document:
    """Return the launches of a Firework as it is now, of which some are to be archived."""
    before = firework["archived_launches"]
    return {
        "launches": [number for number in firework["launches"] if number not in archived],
        "archived_launches": [*before, *(number for number in archived if number not in before)],
    }


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


def unlocking(write: Write, token: str) -> Write:
    """Return a write that, if it is that of a workflow, releases the lock and needs it."""
    if write.collection != "workflows":
        return write
    removals = {**write.update.get("$unset", {}), "locked": ""}
    return Write(
        write.collection, {**write.filter, "locked": token}, {**write.update, "$unset": removals}
    )
