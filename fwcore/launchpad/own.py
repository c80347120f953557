"""Our own collections: leases of workers, registered launch directories."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from pymongo import ReturnDocument, UpdateOne

from fwcore.errors import FwagentError
from fwcore.launchpad.journal import in_force
from fwcore.launchpad.reading import PART
from fwcore.launchpad.records import Lease, Wish
from fwcore.launchpad.session import Session
from fwrunner.protocol import utcnow

Document = dict[str, Any]

#: What an agent may be asked to do. A word that is not known here comes from a newer fwagent: then nothing is done.
MODES = ("run", "drain", "pause")


class Own(Session):
    """Keeps what FireWorks has no place for."""

    def register(self, worker: str, launch_id: int, launch_dir: str) -> None:
        """Remember that a launch is to be looked for in a directory of its own choice."""
        now = self._clock()
        with self._reaching():
            self._db.fwagent_dirs.update_one(
                {"_id": launch_id},
                {"$set": {"worker": worker, "launch_dir": launch_dir, "registered_on": now}},
                upsert=True,
            )

    def register_all(self, worker: str, launch_dirs: Mapping[int, str]) -> None:
        """Likewise, of any number of launches."""
        now = self._clock()
        changes = [
            UpdateOne(
                {"_id": launch_id},
                {"$set": {"worker": worker, "launch_dir": launch_dir, "registered_on": now}},
                upsert=True,
            )
            for launch_id, launch_dir in launch_dirs.items()
        ]
        if changes:
            with self._reaching():
                self._db.fwagent_dirs.bulk_write(changes, ordered=False)

    def move_launches(self, moves: Mapping[int, tuple[str, str]]) -> dict[int, str]:
        """Note that launch directories were moved, {launch_id: (from, to)}; return {launch_id: to} of those changed.

        What is not, or no more, where it is said to come from is left: a launch in the database, or a registration.
        """
        if not moves:
            return {}
        self._check_lease()
        with self._reaching():
            fence = self._in_force() if self._lease is not None else {}
            for launch_id, (old, new) in moves.items():
                change = {"$set": {"launch_dir": new}}
                self._db.launches.update_one(
                    {"launch_id": launch_id, "launch_dir": old, **fence}, change
                )
                self._db.fwagent_dirs.update_one(
                    {"_id": launch_id, "launch_dir": old, **fence}, change
                )
            wanted = {"launch_id": {"$in": list(moves)}}
            found = self._db.launches.find(wanted, {"launch_id": 1, "launch_dir": 1})
            places = {launch["launch_id"]: launch.get("launch_dir") for launch in found}
            named = self._db.fwagent_dirs.find({"_id": {"$in": list(moves)}})
            places.update({entry["_id"]: entry["launch_dir"] for entry in named})
        return {key: new for key, (_old, new) in moves.items() if places.get(key) == new}

    def unregister(self, worker: str, launch_dirs: Iterable[str]) -> list[str]:
        """Forget registered directories; return those that were registered."""
        with self._reaching():
            query = {"worker": worker, "launch_dir": {"$in": list(launch_dirs)}}
            found = [entry["launch_dir"] for entry in self._db.fwagent_dirs.find(query)]
            self._db.fwagent_dirs.delete_many(query)
            return found

    def forget_registered(self, launch_ids: Iterable[int]) -> None:
        """Drop the registrations of launches that have ended."""
        if wanted := list(launch_ids):
            with self._reaching():
                fence = self._in_force() if self._lease is not None else {}
                self._db.fwagent_dirs.delete_many({"_id": {"$in": wanted}, **fence})

    def registered(
        self,
        worker: str,
        *,
        within: float | None = None,
    ) -> dict[int, str]:
        """Return {launch_id: launch_dir} of a worker's directories, of those registered ``within`` some seconds."""
        query: Document = {"worker": worker}
        if within is not None:
            query["registered_on"] = {"$gt": self._clock() - timedelta(seconds=within)}
        with self._reaching():
            cursor = self._db.fwagent_dirs.find(query, {"launch_dir": 1}, batch_size=PART)
            return {entry["_id"]: entry["launch_dir"] for entry in cursor}

    def acquire_lease(self, worker: str, owner: str, seconds: float) -> Lease:
        """Take the lease of a worker if nobody holds it; else return the one that somebody holds.

        The server's clock decides about expiry, since those of login nodes may differ. Compare
        ``owner`` of the result with one's own. What the last holder has begun and not ended is made
        whole first, so that it can write nothing any more. To work under the lease, ``serve``.
        """
        mine = {"owner": owner, "host": self.host, "pid": os.getpid()}
        expiry = {"$add": ["$$NOW", round(seconds * 1000)]}
        epoch = {"$add": [{"$ifNull": ["$epoch", 0]}, 1]}
        taken = [{"$set": {**mine, "epoch": epoch, "since": "$$NOW", "expires_at": expiry}}]
        over = {"$lte": [{"$ifNull": ["$expires_at", "$$NOW"]}, "$$NOW"]}
        free = {"_id": worker, "token": {"$exists": False}, "$expr": over}
        leases = self._db.fwagent_leases
        with self._reaching():
            leases.update_one({"_id": worker}, {"$setOnInsert": {"epoch": 0}}, upsert=True)
            self._make_whole(self._fence({"_id": worker}))
            found = leases.find_one_and_update(free, taken, return_document=ReturnDocument.AFTER)
            return _lease(found or leases.find_one({"_id": worker}) or {"_id": worker})

    def renew_lease(self, lease: Lease, seconds: float) -> Lease | None:
        """Prolong a lease; None if it has run out or another agent has taken it since."""
        later = [{"$set": {"expires_at": {"$add": ["$$NOW", round(seconds * 1000)]}}}]
        with self._reaching():
            found = self._db.fwagent_leases.find_one_and_update(
                in_force(lease), later, return_document=ReturnDocument.AFTER
            )
        return _lease(found) if found else None

    def release_lease(self, lease: Lease) -> None:
        """Give a lease back, so that another agent need not wait for its end; one's own with nothing left open."""
        end: list[Document] = [{"$set": {"expires_at": "$$NOW"}}]
        own = self._lease is not None and in_force(self._lease) == in_force(lease)
        with self._reaching():
            if own:
                self._finish_own()
                # What is not finished yet is found by the token.
                end += [] if self._open | self._later else [{"$unset": "token"}]
            mine = {"_id": lease.worker, "owner": lease.owner, "epoch": lease.epoch}
            self._db.fwagent_leases.update_one(mine, end)
        if own:
            self._lease = None
            self._begin_session()

    def wish(self, worker: str) -> Wish:
        """Return what was asked of the agent of a worker last, whether or not there is one."""
        with self._reaching():
            return _wish(self._db.fwagent_leases.find_one({"_id": worker}) or {})

    def ask(self, seen: Wish, worker: str, mode: str, by: str) -> Wish:
        """Ask whoever serves a worker, now or later, for a mode; return the wish as it is stored.

        ``seen`` is the last one that the caller knows of: raises FwagentError if there is a newer one.
        """
        leases = self._db.fwagent_leases
        number = seen.number or {"$exists": False}
        wanted = {"mode": mode, "by": {"$literal": by}, "on": "$$NOW", "number": seen.number + 1}
        with self._reaching():
            leases.update_one({"_id": worker}, {"$setOnInsert": {"epoch": 0}}, upsert=True)
            found = leases.find_one_and_update(
                {"_id": worker, "wish.number": number},
                [{"$set": {"wish": wanted}}],
                return_document=ReturnDocument.AFTER,
            )
        if found is None:
            raise FwagentError(
                f"somebody else has asked the agent of {worker!r} for something at the same moment",
                "`fwagent status` shows what; ask again if it is to be otherwise",
            )
        return _wish(found)

    def ask_to_stop(self, lease: Lease, by: str) -> bool:
        """Ask the holder of a lease to end, and nobody who holds it later; False if it has ended meanwhile."""
        stop = {"epoch": lease.epoch, "by": by}
        with self._reaching():
            return bool(
                self._db.fwagent_leases.update_one(
                    in_force(lease), {"$set": {"stop": stop}}
                ).matched_count
            )

    def follow(self, lease: Lease) -> None:
        """Answer the wish of a lease that one holds: it is in force from now on."""
        with self._reaching():
            same = {**in_force(lease), "wish.number": lease.wish.number}
            self._db.fwagent_leases.update_one(same, {"$set": {"followed": lease.wish.number}})

    def count_trouble(self, kind: str, reasons: Mapping[int, str]) -> dict[int, int]:
        """Count a trouble of Fireworks, {fw_id: what was said}; return how often each has had it.

        ``kind`` is one word, as `rejected`. It counts from the last `forget_trouble`, and anew after `lpad reset`:
        then another Firework has the number.
        """
        if not reasons:
            return {}
        self._check_lease()
        with self._reaching():
            born = self._born(reasons)
            counts = {}
            for fw_id, reason in reasons.items():
                same = {"$eq": ["$born", born.get(fw_id, "")]}
                before = {"$cond": [same, {"$ifNull": [f"${kind}", 0]}, 0]}
                change = {
                    "born": born.get(fw_id, ""),
                    kind: {"$add": [before, 1]},
                    "reason": {"$literal": reason},
                    "on": "$$NOW",
                }
                found = self._db.fwagent_trouble.find_one_and_update(
                    {"_id": fw_id},
                    [{"$set": change}],
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
                counts[fw_id] = int((found or {kind: 1})[kind])
            return counts

    def forget_trouble(self, kind: str, fw_ids: Iterable[int]) -> None:
        """Begin to count a trouble of Fireworks anew."""
        if wanted := list(fw_ids):
            with self._reaching():
                fence = self._in_force() if self._lease is not None else {}
                had = {"_id": {"$in": wanted}, kind: {"$exists": True}}
                self._db.fwagent_trouble.update_many({**had, **fence}, {"$unset": {kind: ""}})

    def _born(self, fw_ids: Iterable[int]) -> dict[int, str]:
        found = self._db.fireworks.find({"fw_id": {"$in": list(fw_ids)}}, {"fw_id": 1})
        return {firework["fw_id"]: str(firework["_id"]) for firework in found}

    def lease(self, worker: str) -> tuple[Lease, bool] | None:
        """Return the lease of a worker and whether it is in force, None if there never was one."""
        live = {"$gt": ["$expires_at", "$$NOW"]}
        steps: list[Document] = [
            {"$match": {"_id": worker, "epoch": {"$gt": 0}}},
            {"$set": {"live": live}},
        ]
        with self._reaching():
            found = next(iter(self._db.fwagent_leases.aggregate(steps)), None)
        return (_lease(found), bool(found["live"])) if found else None


def _lease(document: Mapping[str, Any]) -> Lease:
    never = datetime.fromtimestamp(0, tz=utcnow().tzinfo)
    epoch, stop = document.get("epoch", 0), document.get("stop") or {}
    return Lease(
        worker=document["_id"],
        owner=document.get("owner", ""),
        host=document.get("host", ""),
        pid=document.get("pid", 0),
        epoch=epoch,
        expires_at=document.get("expires_at", never),
        since=document.get("since", never),
        wish=_wish(document),
        followed=document.get("followed", 0),
        stop=stop.get("by", "somebody") if stop.get("epoch") == epoch else "",
    )


def _wish(document: Mapping[str, Any]) -> Wish:
    told = document.get("wish") or {}
    mode = str(told.get("mode", "run"))
    return Wish(
        mode=mode if mode in MODES else "pause",
        by=str(told.get("by", "")),
        on=told.get("on"),
        number=int(told.get("number", 0)),
    )
