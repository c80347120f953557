"""Reading what a plan needs."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import bson
from bson.errors import BSONError

from fwcore.errors import NotInitialized
from fwcore.launchpad.gridfiles import GridFiles
from fwcore.launchpad.journal import Fenced
from fwcore.states import ACTIVE
from fwcore.world import Missing, World

Document = dict[str, Any]

_LENGTH = struct.Struct("<i")
#: Documents of a reply: without it the server hands out 101, then asks to be asked again.
WHOLE = 100_000
#: The same for lists that may be very long: 16 MB of short documents, the server's own measure, are 50 MB of ours.
PART = 5_000
#: Characters of a reason that are kept.
_REASON = 200

#: Raised by code that meets a document or a report that is not as it should be. Errors of the driver and ours are
#: about the database or the whole batch, so they are none of these.
NOT_UNDERSTOOD = (
    *(AttributeError, BSONError, IndexError, KeyError),
    *(OverflowError, RecursionError, TypeError, ValueError),
)


class Reading(GridFiles):
    """Fills the World of a plan; draws ids."""

    def _allocate(self, counter: str, count: int, within: Document | None = None) -> int:
        """Return the first of ``count`` new ids of ``next_fw_id`` or ``next_launch_id``.

        Raises Fenced where ``within``, a filter that always matches until a batch is too late, does not.
        """
        # On disk before they are used: a server that is killed would give the same ids to somebody else.
        assigner = self._durable("fw_id_assigner")
        before = assigner.find_one_and_update(within or {}, {"$inc": {counter: count}})
        if before is None and within and assigner.find_one() is not None:
            raise Fenced
        if before is None:
            raise no_launchpad(self.name, self.where)
        return int(before[counter])

    def _counted_on(self, launch_ids: Iterable[int]) -> set[int]:
        """Return all launches of the RESERVED and RUNNING Fireworks that list any of these."""
        query = {"launches": {"$in": list(launch_ids)}, "state": {"$in": list(ACTIVE)}}
        owners = self._db.fireworks.find(query, {"launches": 1}, batch_size=PART)
        return {launch_id for owner in owners for launch_id in listed(owner)}

    def _owners(self, launch_ids: Iterable[int]) -> list[int]:
        query = {"launches": {"$in": list(launch_ids)}}
        cursor = self._db.fireworks.find(query, {"fw_id": 1}, batch_size=WHOLE)
        return [firework["fw_id"] for firework in cursor]

    def _all_owners(self, launch_ids: Iterable[int]) -> dict[int, list[int]]:
        """Return {launch_id: the Fireworks that list it}."""
        found: dict[int, list[int]] = {launch_id: [] for launch_id in launch_ids}
        query = {"launches": {"$in": list(found)}}
        wanted = {"fw_id": 1, "launches": 1}
        for firework in self._db.fireworks.find(query, wanted, batch_size=WHOLE):
            for launch_id in found.keys() & set(firework["launches"]):
                found[launch_id].append(firework["fw_id"])
        return found

    def _whole_workflow(self, workflow: Document, token: str) -> Document:
        """Return a workflow with the fields that old versions of FireWorks did not store.

        They are stored, too, as long as it is locked by ``token``. Raises TypeError for one that is damaged: what
        stands in it cannot be derived from anything else.
        """
        for key, kind in (("nodes", list), ("links", dict)):
            if not isinstance(workflow.get(key), kind):
                raise TypeError(f"the {key!r} of the workflow are {_kind_of(workflow.get(key))}")
        missing: Document = {}
        if not isinstance(workflow.get("parent_links"), dict):
            missing["parent_links"] = _parent_links(workflow["links"])
        states = workflow.get("fw_states")
        if not isinstance(states, dict) or any(
            str(node) not in states for node in workflow["nodes"]
        ):
            found = self._db.fireworks.find(
                {"fw_id": {"$in": workflow["nodes"]}, "state": {"$type": "string"}},
                {"fw_id": 1, "state": 1},
            )
            missing["fw_states"] = {str(firework["fw_id"]): firework["state"] for firework in found}
        if missing:
            # A process that was stopped here finds the lock of another when it wakes up.
            mine = {"_id": workflow["_id"], "locked": token}
            self._db.workflows.update_one(mine, {"$set": missing})
        return {**workflow, **missing}

    def _read(
        self,
        world: World,
        owners: Iterable[int],
        launch_ids: Iterable[int],
        *,
        children: bool = False,
    ) -> None:
        """Read what a plan will most likely need, under the locks."""
        known = set(owners)
        wanted = {fw_id for fw_id in known if fw_id not in world.refused}
        if children:
            for workflow in world.workflows:
                for fw_id in wanted.intersection(workflow["nodes"]):
                    wanted.update(workflow["links"].get(str(fw_id), []))
        numbers = set(launch_ids)
        self._read_runs(world, numbers)
        self._read_more(world, Missing(fireworks=wanted | known, launches=numbers))
        known.update(node for workflow in world.workflows for node in workflow["nodes"])
        for fw_id, firework in world.fireworks.items():
            if fw_id not in known and numbers.intersection(firework["launches"]):
                world.refused.setdefault(fw_id, "a duplicate has just been given this launch")

    def _read_runs(self, world: World, launch_ids: Iterable[int]) -> None:
        query = {"launch_id": {"$in": list(launch_ids)}}
        for run in self._db.offline_runs.find(query, batch_size=WHOLE):
            world.runs.setdefault(run["launch_id"], []).append(_whole_run(run))

    def _read_more(self, world: World, missing: Missing) -> None:
        fireworks = self._fireworks(world, missing)
        world.fireworks.update(fireworks)
        listed = {number for firework in fireworks.values() for number in firework["launches"]}
        wanted = (missing.launches | listed) - set(world.launches)
        launches = self._by_id("launches", "launch_id", wanted)
        world.unread.update(self._resolve(launches.values()))
        world.launches.update(launches)
        if missing.owners:
            world.owners.update(self._all_owners(missing.owners))
        if missing.flags:
            query = {"fw_id": {"$in": list(missing.flags)}}
            world.tolerant.update(dict.fromkeys(missing.flags, False))
            for firework in self._db.fireworks.find(
                query, {"fw_id": 1, "spec._allow_fizzled_parents": 1}
            ):
                spec = firework.get("spec")
                flag = isinstance(spec, dict) and spec.get("_allow_fizzled_parents")
                world.tolerant[firework["fw_id"]] = bool(flag)

    def _fireworks(self, world: World, missing: Missing) -> dict[int, Document]:
        """Return Fireworks by their ids, and whoever owns the launches by now."""
        members: Document = {"fw_id": {"$in": list(missing.fireworks)}}
        if missing.launches:
            members = {"$or": [members, {"launches": {"$in": list(missing.launches)}}]}
        elif not missing.fireworks:
            return {}
        found: dict[int, Document] = {}
        raw = cast(
            "Iterable[bytes]", self._db.fireworks.find_raw_batches(members, batch_size=WHOLE)
        )
        for batch in raw:
            fireworks: list[Document] = bson.decode_all(batch, self._db.codec_options)
            for firework in fireworks:
                _with_launches(firework)
            fw_ids = [firework["fw_id"] for firework in fireworks]
            found.update(zip(fw_ids, fireworks, strict=True))
            world.sizes.update(zip(fw_ids, _sizes(batch), strict=True))
        return found

    def _by_id(self, collection: str, key: str, ids: Iterable[int]) -> dict[int, Document]:
        wanted = list(ids)
        if not wanted:
            return {}
        found = self._db[collection].find({key: {"$in": wanted}}, batch_size=WHOLE)
        documents = {document[key]: document for document in found}
        if collection == "fireworks":
            for firework in documents.values():
                _with_launches(firework)
        return documents


def _sizes(batch: bytes) -> Iterator[int]:
    """Yield the sizes of documents that follow each other; each begins with its own (BSON, version 1.1)."""
    start = 0
    while start < len(batch):
        (size,) = _LENGTH.unpack_from(batch, start)
        yield size
        start += size


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


def misread(error: Exception) -> str:
    """Return the reason for leaving out what has raised an error, in one line."""
    words = " ".join(str(error).split())
    return f"its documents cannot be understood: {type(error).__name__} {words}"[:_REASON].rstrip()


def members_of(workflow: Mapping[str, Any]) -> list[int]:
    """Return the Fireworks of a workflow, also of one that is damaged, as far as it names any."""
    nodes: Any = workflow.get("nodes")
    return [node for node in (nodes if isinstance(nodes, list) else [nodes]) if is_id(node)]


def is_id(value: Any) -> bool:
    """Tell whether a value can be a fw_id or a launch_id; a shell stores them as doubles."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _with_launches(firework: Document) -> None:
    """Give a Firework the empty lists that it stands for where it has none."""
    for key in ("launches", "archived_launches"):
        if firework.get(key) is None:
            firework[key] = []


def _whole_run(run: Document) -> Document:
    """Return an offline run with the fields that others may have left out or spoilt."""
    told = run.get("fwagent")
    token = told.get("token") if isinstance(told, dict) else None
    flags = {key: bool(run.get(key)) for key in ("deprecated", "completed")}
    return {**run, **flags, "fwagent": {"token": token} if isinstance(token, str) else {}}


def _kind_of(value: Any) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"


def listed(firework: Document) -> list[Any]:
    """Return the launches of a Firework that a query for one of them has found; a damaged one has no list."""
    launches = firework["launches"]
    return launches if isinstance(launches, list) else [launches]
