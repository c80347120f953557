"""Locks of workflows: who holds them, whether they still can, and releasing one that nobody holds any more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fwcore.launchpad.journal import IsGone, session_of
from fwcore.launchpad.reading import WHOLE, members_of
from fwcore.launchpad.records import Lock
from fwcore.launchpad.session import Session, holder_of

Document = dict[str, Any]

_SHOWN = {"nodes": 1, "name": 1, "locked": 1, "updated_on": 1}


class Locks(Session):
    """Tells of locks, and releases them on request."""

    def locks(
        self,
        fw_ids: Iterable[int] | None = None,
        is_gone: IsGone = lambda _host, _pid: False,
    ) -> list[Lock]:
        """Return the locks of workflows, of those with these Fireworks or of all; changes nothing.

        ``is_gone`` may tell of a process that it no longer runs.
        """
        query: Document = {"locked": {"$exists": True}}
        if fw_ids is not None:
            query["nodes"] = {"$in": list(fw_ids)}
        with self._reaching():
            found = list(self._db.workflows.find(query, _SHOWN, batch_size=WHOLE))
            sessions = {_session(workflow["locked"]) for workflow in found} - {""}
            alive = self._alive(sessions, is_gone) if sessions else {}
        return sorted((_lock(workflow, alive) for workflow in found), key=lambda lock: lock.fw_id)

    def _alive(self, sessions: set[str], is_gone: IsGone) -> dict[str, bool]:
        """Return of each session that is known, on its own or by its lease, whether it lives."""
        live = {"$set": {"live": {"$gt": ["$expires_at", "$$NOW"]}}}
        own = [{"$match": {"_id": {"$in": sorted(sessions)}}}, live]
        found = {session["_id"]: session for session in self._db.fwagent_sessions.aggregate(own)}
        for lease in self._db.fwagent_leases.aggregate([{"$match": {"epoch": {"$gt": 0}}}, live]):
            found.setdefault(f"{lease['owner']}.{lease['epoch']}", lease)
        return {
            name: session["live"]
            and not session.get("dead")
            and not is_gone(session["host"], session["pid"])
            for name, session in found.items()
            if name in sessions
        }

    def unlock(
        self, locks: Iterable[Lock], is_gone: IsGone = lambda _host, _pid: False
    ) -> list[Lock]:
        """Release locks that nobody can still hold, as ``locks`` has told of them; return those released.

        Only the very lock that was shown is released, not one that was taken since. What a session of ours
        has begun under it is finished or dropped first. One whose holder lives stays.
        """
        with self._reaching():
            self.resume(is_gone)
            return [lock for lock in locks if lock.verdict != "held" and self._release(lock)]

    def _release(self, lock: Lock) -> bool:
        shown = {"nodes": lock.fw_id, "locked": lock.value}
        if session := _session(lock.value):
            if self._db.workflows.find_one(shown, {"_id": 1}) is None:
                return True  # resumed
            # Whoever it was must not begin anything more.
            dead = {"$set": {"dead": True, "expires_at": self._clock()}}
            self._db.fwagent_sessions.update_one({"_id": session}, dead, upsert=True)
            self._tried(lock.value)
            if lock.value in self._stuck:
                # It cannot be finished, so a person gives it up; the journal stays readable for a while.
                void = {"$set": {"void": True, "on": self._clock()}}
                self._db.fwagent_journal.update_one({"_id": f"{lock.value}/0"}, void)
                self._unlock(lock.value, {})
            return True
        shown["updated_on"] = lock.updated_on
        return bool(self._db.workflows.update_one(shown, {"$unset": {"locked": ""}}).modified_count)


def _session(locked: Any) -> str:
    return session_of(locked) if isinstance(locked, str) and locked.startswith("fwagent:") else ""


def _lock(workflow: Document, alive: Mapping[str, bool]) -> Lock:
    lives = alive.get(_session(workflow["locked"]))
    return Lock(
        fw_id=min(members_of(workflow), default=0),
        name=str(workflow.get("name", "")),
        value=workflow["locked"],
        updated_on=workflow.get("updated_on"),
        holder=holder_of(workflow["locked"]),
        verdict="unknown" if lives is None else "held" if lives else "dead",
    )
