"""Lock, read, plan, write, unlock: what every change of a workflow goes through."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol, TypeVar

import bson
from pymongo.errors import ConnectionFailure, OperationFailure

from fwcore.launchpad.journal import IsGone, Overtaken, encoded, session_of
from fwcore.launchpad.reading import NOT_UNDERSTOOD, WHOLE, members_of, misread
from fwcore.launchpad.replay import Replay, Waits
from fwcore.launchpad.writing import NOBODYS_FAULT, merged, reach
from fwcore.plan import plan_refresh
from fwcore.world import Missing, World, Write

Document = dict[str, Any]

_OURS = re.compile("^fwagent:")
#: Bytes of the largest document, less some for what else changes in it.
_FULL = 16 * 1024 * 1024 - 64 * 1024
#: Bytes of a document without a field.
_EMPTY = 5
#: Items of a list that are measured one by one.
_PARENTS = 100
#: Times that a change is planned anew when somebody else has overtaken it.
_ATTEMPTS = 3


class Planned(Protocol):
    """A plan, whatever else it tells."""

    writes: list[Write]
    grown: dict[int, int]


_T = TypeVar("_T")
_Plan = TypeVar("_Plan", bound=Planned)


class Session(Replay):
    """Changes workflows under their locks."""

    @contextmanager
    def _locked(self, fw_ids: Sequence[int]) -> Iterator[tuple[str, World]]:
        """Lock the workflows of Fireworks; yield the token and a World that holds those we got."""
        world = World()
        if not fw_ids:
            yield "", world
            return
        self._finish_own()
        token = self._new_token()
        members = {"nodes": {"$in": list(fw_ids)}}
        self._open.add(token)
        away = False
        try:
            self._db.workflows.update_many(
                {**members, "locked": {"$exists": False}, **self._in_force()},
                {"$set": {"locked": token}},
            )
            for workflow in self._db.workflows.find(members, batch_size=WHOLE):
                self._take_in(world, workflow, token)
            self._check_in_force()
            self._flows[token] = [workflow["_id"] for workflow in world.workflows]
            yield token, world
        except ConnectionFailure:
            away = True
            raise
        finally:
            self._flows.pop(token, None)
            freed = self._freed.pop(token, 0)
            if away or token in self._half_done:
                pass  # it is finished later; to ask once more would take as long again
            elif (
                freed == len(world.workflows) > 0
                and not world.damaged
                and (token, None) not in self._aside
            ):
                self._open.discard(token)
            else:
                self._unlock(token, members)

    def _take_in(self, world: World, workflow: dict[str, Any], token: str) -> None:
        """Add a workflow to a World, or the reason why it may not be changed."""
        if workflow.get("locked") != token:
            reason = f"the workflow is locked by {holder_of(workflow.get('locked'))}"
            world.refused.update(dict.fromkeys(members_of(workflow), reason))
            return
        try:
            world.workflows.append(self._whole_workflow(workflow, token))
        except (AttributeError, TypeError, ValueError) as error:
            reason = misread(error)
            world.refused.update(dict.fromkeys(members_of(workflow), reason))
            world.damaged.update(dict.fromkeys(members_of(workflow), reason))

    def _unlock(self, token: str, members: Mapping[str, Any]) -> None:
        self._db.workflows.update_many({**members, "locked": token}, {"$unset": {"locked": ""}})
        self._open.discard(token)

    def _finish_own(self) -> None:
        """Finish what this session has begun and could not end, because the database was away."""
        if self._open and self._lease is not None:
            self._announce({})
        for token in sorted(self._open):
            try:
                finished = self._tried(token)
                if finished:
                    self._erase(token)
            except BaseException:
                self._open.add(token)
                raise
            if finished or token in self._stuck:
                self._untold.pop(token, None)
                continue
            # Somebody holds a workflow of it, or the queue does not tell: the next `resume` asks again.
            self._open.discard(token)
            self._later.add(token)

    def _new_fw_ids(self, count: int) -> range:
        first = self._allocate("next_fw_id", count, self._in_force()) if count else 0
        return range(first, first + count)

    def _planned(self, world: World, make: Callable[[], _Plan]) -> _Plan:
        """Return a plan, reading on as long as it asks for more."""
        world.fits = partial(_fits, world, {})
        while True:
            try:
                plan = make()
            except Missing as missing:
                self._read_more(world, missing)
                world.new_ids += self._new_fw_ids(missing.new_ids)
                world.gone.fireworks |= missing.fireworks - world.fireworks.keys()
                world.gone.launches |= missing.launches - world.launches.keys()
                continue
            plan.writes = merged(plan.writes)
            full, bursting = _outgrown(world, plan), _bursting(plan)
            cramped = _cramped(world, plan)
            if full <= world.full and bursting <= world.bursting and not cramped:
                return plan
            world.full |= full
            world.bursting |= bursting
            world.cramped |= cramped

    def _commit(self, plan: Planned, token: str) -> None:
        """Carry out a plan under the locks of ``token``; the write of a workflow releases its lock."""
        if not plan.writes:
            return
        with self._journal(token, {"writes": plan.writes}):
            try:
                self._execute(plan.writes, token)
            except Overtaken:
                # What it has written of launches is true, and whoever plans again goes on from it.
                self._end_journal(token)
                raise

    @contextmanager
    def _journal(
        self, token: str, intent: Mapping[str, Any], *, hold: bool = False
    ) -> Iterator[None]:
        """Store what is about to be done for as long as it takes; whatever cuts it, it is finished later.

        With ``hold`` it stays stored, until the claim is settled.
        """
        self._half_done.add(token)
        self._record(token, **intent)
        if not self._holds_all(token):
            self._end_journal(token)
            raise Overtaken
        yield
        if hold:
            self._held.add(token)
            self._half_done.discard(token)
        else:
            self._end_journal(token)

    def _end_journal(self, token: str) -> None:
        self._erase(token)
        self._half_done.discard(token)

    def _holds_all(self, token: str) -> bool:
        """Tell whether the locks are still there: a person or a killed server may have removed them."""
        wanted = self._flows.get(token, [])
        query = {"_id": {"$in": wanted}, "locked": token}
        return len(list(self._db.workflows.find(query, {"_id": 1}, batch_size=WHOLE))) == len(
            wanted
        )

    def _again(self, work: Callable[[], _T]) -> _T:
        """Do something anew that somebody else has overtaken."""
        for _attempt in range(_ATTEMPTS):
            with suppress(Overtaken):
                return work()
        return work()

    def resume(self, is_gone: IsGone = lambda _host, _pid: False) -> int:
        """Finish or drop what dead sessions have begun, and release their locks; return how many batches.

        ``is_gone`` may tell of a process that it no longer runs, so that its session need not expire.
        """
        with self._reaching():
            self._open |= self._later
            self._later.clear()
            self._finish_own()
            return self._make_whole(self._dead_sessions(is_gone))

    def _make_whole(self, dead: Mapping[str, Mapping[str, Any]]) -> int:
        """Finish or drop what dead sessions have begun; return how many batches."""
        if not dead:
            return 0
        tokens = {name: self._tokens_of(session) for name, session in dead.items()}
        for workflow in self._db.workflows.find({"locked": _OURS}, {"locked": 1}):
            if (name := session_of(workflow["locked"])) in dead:
                tokens[name].add(workflow["locked"])
        done = 0
        for _turn in range(2):  # what is in the way of one may be the lock of another
            for name, left in tokens.items():
                finished = {token for token in sorted(left) if self._tried(token)}
                done += len(finished)
                tokens[name] = left - finished
                if left == finished:
                    self._settled(name)
            tokens = {name: left for name, left in tokens.items() if left}
        return done

    def _tried(self, token: str) -> bool:
        """Finish what was begun under a token; what cannot be finished is told, and keeps nobody else waiting."""
        try:
            return self._finish(token)
        except (OperationFailure, *NOT_UNDERSTOOD) as error:
            if getattr(error, "code", None) in NOBODYS_FAULT:
                raise
            self._open.discard(token)
            self._stuck.add(token)
            self._refuse(f"{token}/journal", {}, f"{type(error).__name__}: {error}")
            return False

    def _finish(self, token: str) -> bool:
        """Make whole what a session that is over, or cut, has begun under a token.

        Returns False for a claim whose queue this session cannot see: its jobs may be there, so it is left
        to one that can; and where somebody holds a workflow that was written halfway: it is finished later.
        """
        self._half_done.discard(token)
        intent = self._take_over(token)
        try:
            affected = self._replay(intent.get("writes", []), token)
            self._unlock(token, {})
            if affected:
                self._again(partial(self._refresh_anew, affected))
        except (Overtaken, Waits):
            return False
        if intent.get("queue") and intent["claim"] and intent["queue"] != self.queue_name:
            return False
        claim = intent.get("claim") or self._untold.get(token)
        if claim and not self._take_back(claim, token.split(":")[1]):
            return False
        if intent:
            self._erase(token)
        return True

    def _refresh_anew(self, fw_ids: set[int]) -> None:
        """Derive the states of Fireworks anew, and have their workflows know them; Waits if somebody holds one."""
        wanted = sorted(fw_ids)
        with self._locked(wanted) as (token, world):
            if fw_ids & (world.refused.keys() - world.damaged.keys()):
                raise Waits
            self._read(world, wanted, [])
            plan = self._planned(world, partial(plan_refresh, world, wanted, self._clock()))
            self._commit(plan, token)

    def _take_back(self, claim: list[tuple[int, int]], host: str) -> bool:
        """Undo a claim, (launch_id, fw_id) each, that was cut before its jobs were recorded.

        Returns False if a part of it could not be undone now, because somebody holds a workflow or the queue is silent.
        """
        raise NotImplementedError


def _outgrown(world: World, plan: Planned) -> set[int]:
    """Return the Fireworks that a plan would let outgrow a document."""
    sizes: dict[int, int] = {}
    found: set[int] = set()
    for write in plan.writes:
        if write.collection != "fireworks" or write.upsert:
            continue
        changes = write.update.get("$set", {})
        grown = [value for path, value in changes.items() if path.startswith("spec")]
        if not grown:
            continue
        room = _FULL - sum(_size(value, sizes) for value in grown) - sum(map(len, changes))
        near = (fw_id for fw_id in reach(write) if world.sizes[fw_id] > room)
        gone = [*changes, *write.update.get("$unset", {})]
        found.update(
            fw_id
            for fw_id in near
            if world.sizes[fw_id] - _freed(world.fireworks[fw_id], gone) > room
        )
    return found


def _fits(world: World, known: dict[int, tuple[Any, int]], fw_id: int, spec: Document) -> bool:
    """Tell whether a Firework with another spec fits into a document; ``known`` are values that were measured."""
    before = _spec_size(world.fireworks[fw_id]["spec"], known)
    return world.sizes[fw_id] - before + _spec_size(spec, known) <= _FULL


def _spec_size(spec: Document, known: dict[int, tuple[Any, int]]) -> int:
    size = 0
    for key, value in spec.items():
        # A list of parents is each child's own, the parents in it are shared.
        parts = value if isinstance(value, list) and len(value) <= _PARENTS else [value]
        for part in parts:
            if id(part) not in known:
                # The value is kept, too, so that no other one gets its id.
                known[id(part)] = part, len(bson.encode({"": part}))
            size += known[id(part)][1]
        size += len(key.encode())
    return size


def _freed(document: Mapping[str, Any], paths: Sequence[str]) -> int:
    """Return the bytes of a document that lie at paths, none of which leads into another."""
    size = 0
    for path in paths:
        place: Any = document
        *parents, last = path.split(".")
        for name in parents:
            place = place.get(name, {}) if isinstance(place, Mapping) else {}
        if isinstance(place, Mapping) and last in place:
            size += len(bson.encode({last: place[last]})) - _EMPTY
    return size


def _size(value: Any, sizes: dict[int, int]) -> int:
    """Return the encoded size of a value. Siblings share what a parent gives them, which is measured once."""
    # A list of parents is each child's own, the parents in it are shared.
    parts = value if isinstance(value, list) and len(value) <= _PARENTS else [value]
    for part in parts:
        if id(part) not in sizes:
            sizes[id(part)] = len(bson.encode({"": part}))
    return sum(sizes[id(part)] + 16 for part in parts)


def _bursting(plan: Planned) -> set[int]:
    """Return the Fireworks whose actions add one that fits into no document."""
    return {
        plan.grown[write.filter["fw_id"]]
        for write in plan.writes
        if write.collection == "fireworks" and write.upsert and len(encoded(write)) > _FULL
    }


def _cramped(world: World, plan: Planned) -> set[int]:
    """Return the Fireworks that add more than the document of their workflow has room for, in their order."""
    documents = {workflow["_id"]: workflow for workflow in world.workflows}
    found: set[int] = set()
    for write in plan.writes:
        changes = write.update.get("$set", {})
        if write.collection != "workflows" or "nodes" not in changes:
            continue
        before = documents[write.filter["_id"]]
        after = _updated(before, changes)
        size = len(bson.encode(after))
        if size <= _FULL:
            continue
        # What each adds is told by its links well enough.
        added: dict[int, int] = {}
        for fw_id in set(after["nodes"]) - set(before["nodes"]):
            parent = plan.grown[fw_id]
            added[parent] = added.get(parent, 0) + 4 + len(after["links"].get(str(fw_id), []))
        least = len(bson.encode(before))
        each = (size - least) / sum(added.values())
        for parent in [parent for parent in dict.fromkeys(plan.grown.values()) if parent in added]:
            if least + each * added[parent] > _FULL:
                found.add(parent)
            else:
                least += round(each * added[parent])
    return found


def _updated(document: Document, changes: Mapping[str, Any]) -> Document:
    """Return a document with values set at paths of one or two keys."""
    updated = dict(document)
    for path, value in changes.items():
        key, _, inner = path.partition(".")
        updated[key] = {**updated[key], inner: value} if inner else value
    return updated


def holder_of(locked: Any) -> str:
    """Return who has put a value into ``locked``, for people."""
    if locked is None:
        return "nobody any more"
    if isinstance(locked, str) and locked.startswith("fwagent:"):
        _, host, pid, *_ = [*locked.split(":"), "?", "?"]
        return f"fwagent on {host} (process {pid})"
    return "FireWorks"


def batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Cut a list into lists of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
