"""The redo log: what a batch is about to write is stored first, so that it can be finished by anybody.

A session is one connected LaunchPad; its lock tokens name it. While it holds locks it keeps a document alive: one
of its own in ``fwagent_sessions``, or, when it works under a lease, that lease in ``fwagent_leases``: then a batch
is announced in the very document that says who may work, and nobody can begin one whose lease is over. Commands
that a stopped process has under way carry the end of what they rely on (``_in_force``), by the server's clock.

When a session is dead, another one makes its half-done batches whole:

- a batch whose journal is whole is carried out again: its writes are absolute and compare-and-set, so what was
  done already stays as it is;
- a claim is taken back, except for launches whose jobs are in the queue;
- a batch without a whole journal has written nothing: its journal is voided, so that the dead session, should it
  wake up, cannot write one, and its locks are released.

``fwagent_journal`` holds one document per part of a journal, ``_id`` = ``TOKEN/N``; a large batch needs several.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import bson
from bson.codec_options import CodecOptions
from pymongo import ReturnDocument
from pymongo.errors import BulkWriteError, DuplicateKeyError

from fwcore.errors import FwagentError
from fwcore.launchpad.connection import Connected
from fwcore.launchpad.records import Lease
from fwcore.world import Write

Document = dict[str, Any]

#: Seconds that a session is believed to live without saying so again.
SESSION_SECONDS = 60.0
#: Days after which nothing can wake up any more that was stopped.
_KEEP_DAYS = 90
#: Bytes of encoded writes in one document of the journal.
_PART = 8 * 1024 * 1024

_AWARE: CodecOptions[Document] = CodecOptions(tz_aware=True)

#: Tells of (host, process id) whether that process is certainly gone.
IsGone = Callable[[str, int], bool]
#: Tells of (host of the session, launch_ids) which of them its queue has taken: {launch_id: job id, or "" if that
#: is not known any more}. None if the queue cannot tell now.
Submitted = Callable[[str, list[int]], Mapping[int, str] | None]


class Fenced(FwagentError):
    """This session was, or may have been, taken for dead; others finish or drop what it has begun."""

    def __init__(
        self,
        title: str = "this process was stopped for longer than it may be: another agent may have taken over",
    ) -> None:
        super().__init__(
            title, "nothing is lost, and nothing is done twice; it goes on when it may"
        )


class Unlocked(Fenced):
    """A workflow that was being written is not locked by this session any more, or gone."""

    def __init__(self) -> None:
        super().__init__(
            "a workflow was unlocked or deleted while it was being changed, or another agent has taken over"
        )


class Overtaken(FwagentError):
    """Somebody else has changed what a batch was to change; it has changed nothing that matters."""

    def __init__(self) -> None:
        super().__init__(
            "somebody else has changed the same launches or workflows meanwhile",
            "nothing is lost; try again",
        )


class Journal(Connected):
    """Keeps this session alive, and finishes what dead ones have begun."""

    #: Asked before a claim is taken back.
    submitted: Submitted = staticmethod(lambda _host, _launch_ids: {})
    #: Names the queue that `submitted` can see. A held claim is taken back only by one who sees its queue.
    queue_name: str = ""

    #: The lease that this LaunchPad works under, and how many seconds it lasts unless it is renewed.
    _lease: Lease | None = None
    _lease_seconds: float = 0.0

    def _begin_session(self) -> None:
        self._session = secrets.token_hex(6)
        self._quiet_since: datetime | None = None
        # Until when, by the server's clock, others take this session for alive.
        self._deadline: datetime | None = None
        # Tokens of locks that may be held, and of batches that may be half done.
        self._open: set[str] = set()
        self._half_done: set[str] = set()
        # Tokens of claims that are to be taken back unless they are settled.
        self._held: set[str] = set()
        # Tokens of claims that could not be taken back yet.
        self._later: set[str] = set()
        # (launch_id, fw_id) of claims that were made, of which nobody could be told, by token.
        self._untold: dict[str, list[tuple[int, int]]] = {}

    def serve(self, lease: Lease, seconds: float) -> None:
        """Work under a lease from now on: without it nothing is begun; ``seconds`` is how long it lasts.

        Every batch prolongs it. To be called again with the lease as it was renewed.
        """
        if lease == self._lease:
            return
        if self._lease is None and self._quiet_since is not None:
            with self._reaching():
                self._end_session()
        self._lease, self._lease_seconds = lease, seconds
        # What was begun under an earlier lease is still to be finished, so only the name changes.
        self._session = f"{lease.owner}.{lease.epoch}"
        self._quiet_since, self._deadline = self._clock(), lease.expires_at

    def _new_token(self) -> str:
        """Return a lock token and announce it; raise Fenced if this session was taken for dead.

        Whoever declares a session dead finds its last token announced, and voids it: so a batch that a
        stopped process has begun before cannot be committed after.
        """
        if self._lease is None and self._is_late():
            # Nothing is open, so being taken for dead meanwhile is no harm.
            self._end_session()
            self._begin_session()
        token = f"fwagent:{self.host}:{self._pid}:{self._session}:{secrets.token_hex(4)}"
        self._announce({"host": self.host, "pid": self._pid, "token": token})
        return token

    def keep_alive(self) -> None:
        """Say that this session lives, when it is time to: during long work between two batches.

        Raises Fenced if it was taken for dead: then its claims have been taken back.
        """
        if self._quiet_since is None or self._silence() < self._lasts() / 3:
            return
        with self._reaching():
            self._announce({})

    def _announce(self, news: Document) -> None:
        """Store ``news``, if any, and a new expiry, provided that nobody has taken this session for dead."""
        now = self._clock()
        expiry = {"$add": ["$$NOW", round(self._lasts() * 1000)]}
        if self._lease is not None:
            place, alive, upsert = self._db.fwagent_leases, in_force(self._lease), False
        else:
            place, upsert = self._db.fwagent_sessions, bool(news)
            alive = {"_id": self._session, "dead": {"$exists": False}}
        try:
            found = place.find_one_and_update(
                alive,
                [{"$set": {**news, "expires_at": expiry}}],
                {"expires_at": 1},
                upsert=upsert,
                return_document=ReturnDocument.AFTER,
            )
        except DuplicateKeyError:
            found = None
        if found is None:
            self._give_up()
            raise Fenced from None
        self._quiet_since, self._deadline = now, found["expires_at"]

    def _give_up(self, token: str = "") -> None:
        """Forget what others have taken over: the whole session, or one batch of a lease."""
        if self._lease is None:
            self._begin_session()
        self._open.discard(token)
        self._half_done.discard(token)

    def _lasts(self) -> float:
        return SESSION_SECONDS if self._lease is None else self._lease_seconds

    def _silence(self) -> float:
        """Return the seconds since others were told that this session lives."""
        quiet = self._quiet_since
        return (self._clock() - quiet).total_seconds() if quiet is not None else 0.0

    def _is_late(self) -> bool:
        return self._silence() > self._lasts()

    def _in_force(self) -> Document:
        """Return the part of a filter that nothing matches once this session can be taken for dead."""
        return {"$expr": {"$lt": ["$$NOW", self._deadline]}} if self._deadline else {}

    def _check_in_force(self) -> None:
        """Raise Fenced if what was just asked for may have come too late to have an effect."""
        if self._is_late():
            raise Fenced

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._check_in_force()

    def _end_session(self) -> None:
        for token in sorted(self._held):
            self._erase(token)
        # What is not finished yet is found by the session that has begun it, once that has run out.
        if self._quiet_since and self._lease is None and not self._open | self._later:
            self._db.fwagent_sessions.delete_one({"_id": self._session, "dead": {"$exists": False}})

    def _record(
        self,
        token: str,
        *,
        writes: list[Write] | None = None,
        claim: list[tuple[int, int]] | None = None,
    ) -> None:
        """Store what is about to be done; raise Fenced if somebody has voided it.

        Part 0 comes last: a journal that has it is whole.
        """
        parts: list[Document] = [
            {"_id": f"{token}/{n}", "writes": part} for n, part in enumerate(_parts(writes or []))
        ]
        parts[0]["claim"] = claim or []
        parts[0]["queue"] = self.queue_name
        try:
            # On disk, and so the locks that were taken before: a server that is killed forgets neither.
            self._durable("fwagent_journal").insert_many(parts[::-1])
        except BulkWriteError:
            self._erase_rest(token)
            self._give_up(token)
            raise Fenced from None

    def _erase(self, token: str) -> None:
        # On disk before it is acknowledged, and so all writes before it: the files that told us go next.
        self._durable("fwagent_journal").delete_many(_parts_of(token))

    def _erase_rest(self, token: str) -> None:
        """Drop the parts of a journal that was voided before it was whole."""
        rest = {"_id": {**_parts_of(token)["_id"], "$ne": f"{token}/0"}}
        self._db.fwagent_journal.delete_many(rest)

    def _take_over(self, token: str) -> Document:
        """Return what a journal holds (``writes``, ``claim``), or {} after making sure that there can be none."""
        if self._void(token):
            return {}
        found = list(self._db.fwagent_journal.find(_parts_of(token)))
        found.sort(key=lambda part: int(part["_id"].rpartition("/")[2]))
        if not found or found[0].get("void"):
            return {}
        writes = [write for part in found for write in _decoded(part["writes"])]
        return {"writes": writes, "claim": found[0]["claim"], "queue": found[0]["queue"]}

    def _void(self, token: str) -> bool:
        """Make sure that no journal can be written under a token; return False if there is one, or a void one."""
        void = {"_id": f"{token}/0", "void": True, "on": self._clock()}
        try:
            self._db.fwagent_journal.insert_one(void)
        except DuplicateKeyError:
            return False
        self._erase_rest(token)
        return True

    def _fence(
        self, leases: Document, is_gone: IsGone = lambda _host, _pid: False
    ) -> dict[str, Document]:
        """Return the sessions of leases that are over, by id: dead, with nothing they can commit any more."""
        over = {"$lte": ["$expires_at", "$$NOW"]}
        steps = [{"$match": {**leases, "token": {"$exists": True}}}, {"$set": {"over": over}}]
        fenced = {}
        for lease in self._db.fwagent_leases.aggregate(steps):
            mine = {"_id": lease["_id"], "token": lease["token"]}
            if not lease["over"]:
                if not is_gone(lease["host"], lease["pid"]):
                    continue
                self._db.fwagent_leases.update_one(mine, [{"$set": {"expires_at": "$$NOW"}}])
            self._void(lease["token"])
            session = session_of(lease["token"])
            dead = {key: lease[key] for key in ("host", "pid", "token", "expires_at")}
            self._db.fwagent_sessions.update_one(
                {"_id": session}, {"$set": {**dead, "dead": True}}, upsert=True
            )
            self._db.fwagent_leases.update_one(mine, {"$unset": {"token": ""}})
            fenced[session] = {"_id": session, **dead}
        return fenced

    def _dead_sessions(self, is_gone: IsGone) -> dict[str, Document]:
        """Return the sessions that are over, by id, marked so that they stay it."""
        sessions = self._db.fwagent_sessions
        self._forget_old_ones()
        self._fence({"_id": {"$ne": self._lease.worker if self._lease else ""}}, is_gone)
        # An own session that was idle is none: the next batch begins another one.
        others = {"_id": {"$ne": self._session}, "dead": {"$exists": False}}
        late = {**others, "$expr": {"$lt": ["$expires_at", "$$NOW"]}}
        sessions.update_many(late, {"$set": {"dead": True}})
        for session in sessions.find(others):
            if is_gone(session["host"], session["pid"]):
                sessions.update_one({"_id": session["_id"]}, {"$set": {"dead": True}})
        found = sessions.find({"dead": True, "token": {"$exists": True}})
        return {session["_id"]: session for session in found}

    def _tokens_of(self, session: Mapping[str, Any]) -> set[str]:
        """Return the tokens under which a session may have begun something."""
        start = f"fwagent:{session['host']}:{session['pid']}:{session['_id']}:"
        parts = self._db.fwagent_journal.find(
            {"_id": {"$gte": start, "$lt": start + "~"}}, {"void": 1}
        )
        recorded = {part["_id"].rpartition("/")[0] for part in parts if not part.get("void")}
        return {session["token"]} | recorded

    def _settled(self, session: str) -> None:
        """Note that nothing of a dead session is left to be done."""
        self._db.fwagent_sessions.update_one({"_id": session}, {"$unset": {"token": ""}})

    def _forget_old_ones(self) -> None:
        before = self._clock() - timedelta(days=_KEEP_DAYS)
        self._db.fwagent_sessions.delete_many({"dead": True, "expires_at": {"$lt": before}})
        self._db.fwagent_journal.delete_many({"void": True, "on": {"$lt": before}})


def in_force(lease: Lease) -> Document:
    """Return the filter that matches a lease document as long as the lease is its holder's."""
    holder = {"_id": lease.worker, "owner": lease.owner, "epoch": lease.epoch}
    return {**holder, "$expr": {"$lt": ["$$NOW", "$expires_at"]}}


def session_of(token: str) -> str:
    """Return the session that a lock token names: fwagent:HOST:PID:SESSION:BATCH."""
    parts = token.split(":")
    return parts[-2] if len(parts) >= 5 else ""


def _parts_of(token: str) -> Document:
    return {"_id": {"$gte": f"{token}/", "$lt": f"{token}0"}}


def encoded(write: Write) -> bytes:
    """Return a write as one BSON document."""
    return bson.encode(
        {
            "c": write.collection,
            "f": write.filter,
            "u": write.update,
            "m": write.many,
            "i": write.upsert,
        }
    )


def _parts(writes: list[Write]) -> Iterator[bytes]:
    part: list[bytes] = []
    size = 0
    for write in map(encoded, writes):
        if part and size + len(write) > _PART:
            yield b"".join(part)
            part, size = [], 0
        part.append(write)
        size += len(write)
    yield b"".join(part)


def _decoded(part: bytes) -> Iterator[Write]:
    for document in bson.decode_iter(part, codec_options=_AWARE):
        yield Write(document["c"], document["f"], document["u"], document["m"], document["i"])
