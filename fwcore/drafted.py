"""The documents of a batch as they will be, and the writes that lead there.

``World`` is what was read under the locks. The writes are what differs between it and what a draft makes of it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from fwcore.diff import history_update, same, update_between
from fwcore.documents import iso
from fwcore.flow import Flow
from fwcore.states import FINAL
from fwcore.world import Defer, Ignore, Missing, World, Write

Document = dict[str, Any]


class Drafted:
    """The documents as they will be, on top of the ones that were read.

    A changed document is a new one; values inside are replaced, never altered, so that what was read
    stays as it was and the writes follow from comparing the two.
    """

    def __init__(self, world: World, now: datetime) -> None:
        self.world = world
        self.now = now
        self._stamp = iso(now)
        self.changes = 0
        self._fireworks: dict[int, Document] = {}
        self._launches: dict[int, Document] = {}
        self._runs: dict[int, Document] = {}
        self._retired: dict[int, None] = {}
        self._flows = [Flow(workflow) for workflow in world.workflows]
        self._flow_of = {node: flow for flow in self._flows for node in flow.nodes}
        self._owners: dict[int, list[int]] = {}
        for fw_id, firework in world.fireworks.items():
            for launch_id in firework["launches"]:
                self._owners.setdefault(launch_id, []).append(fw_id)

    def owners(self, launch_id: int) -> list[int]:
        """Return the Fireworks that a launch belongs to: several, when duplicates share it."""
        return self._owners.get(launch_id, [])

    def flow(self, fw_id: int) -> Flow:
        """Return the locked workflow of a Firework."""
        if fw_id in self.world.refused:
            raise Defer(self.world.refused[fw_id])
        if fw_id not in self._flow_of:
            raise Ignore(f"no workflow holds Firework {fw_id}")
        return self._flow_of[fw_id]

    def holds(self, fw_id: int) -> bool:
        """Tell whether a Firework is in one of the locked workflows."""
        return fw_id in self._flow_of

    def require_children(self, fw_id: int) -> None:
        """Raise Defer where a child of a Firework that is about to end is gone: before anything is changed."""
        self._require(self.flow(fw_id).children(fw_id))

    def foresee(self, fw_ids: Iterable[int], launch_ids: Iterable[int]) -> None:
        """Ask at once for what will be looked at: Fireworks, and all the owners of launches."""
        fireworks = set(fw_ids) - self.world.fireworks.keys() - self.world.gone.fireworks
        owners = set(launch_ids) - self.world.owners.keys()
        if fireworks or owners:
            raise Missing(fireworks=fireworks, owners=owners)

    def firework(self, fw_id: int) -> Document:
        """Return a Firework as it will be."""
        found = self._fireworks.get(fw_id) or self.world.fireworks.get(fw_id)
        if found is None:
            self._require([fw_id])
            raise Missing(fireworks={fw_id})
        return found

    def launch(self, launch_id: int) -> Document:
        """Return a launch as it will be."""
        found = self._launches.get(launch_id) or self.world.launches.get(launch_id)
        if found is None and launch_id in self.world.gone.launches:
            raise Defer(f"launch {launch_id} is not in the database")
        if found is None:
            raise Missing(launches={launch_id})
        return found

    def change_firework(self, fw_id: int, **fields: Any) -> None:
        """Set fields of a Firework, and with them ``updated_on``."""
        old = self.firework(fw_id)
        if any(not same(old.get(key), value) for key, value in fields.items()):
            self._fireworks[fw_id] = {**old, "updated_on": self._stamp, **fields}
            self.changes += 1

    def change_launch(self, launch_id: int, **fields: Any) -> None:
        """Set fields of a launch."""
        old = self.launch(launch_id)
        if any(not same(old.get(key), value) for key, value in fields.items()):
            self._launches[launch_id] = {**old, **fields}
            self.changes += 1

    def change_runs(self, launch_id: int, **fields: bool | str | None) -> None:
        """Set fields of the offline runs of a launch, by their paths, that do not have these values yet."""
        runs = self.world.runs.get(launch_id, [])
        wanted = {**self._runs.get(launch_id, {}), **fields}
        if any(_at(run, path) != value for run in runs for path, value in wanted.items()):
            self.changes += self._runs.get(launch_id) != wanted
            self._runs[launch_id] = wanted

    def retire_runs(self, launch_id: int) -> None:
        """Retire the open offline runs of a launch that no Firework counts on any more."""
        self._retired[launch_id] = None

    def mirror_state(self, fw_id: int, state: str) -> None:
        """Bring a workflow's copy of a Firework's state up to date."""
        self.changes += self.flow(fw_id).set_state(fw_id, state)

    def has_room(self, fw_id: int, spec: Document) -> bool:
        """Tell whether a Firework can have a spec."""
        return fw_id not in self.world.full or self.world.fits(fw_id, spec)

    def _require(self, fw_ids: Iterable[int]) -> None:
        known, drafted = self.world.fireworks, self._fireworks
        unknown = {fw_id for fw_id in fw_ids if fw_id not in known and fw_id not in drafted}
        if gone := unknown & self.world.gone.fireworks:
            raise Defer(f"Firework {min(gone)} is not in the database")
        if unknown:
            raise Missing(fireworks=unknown)

    def released(self) -> list[int]:
        """Return the Fireworks that become READY."""
        return [
            fw_id
            for fw_id, firework in self._fireworks.items()
            if firework["state"] == "READY"
            and self.world.fireworks.get(fw_id, {}).get("state") != "READY"
        ]

    def writes(self) -> list[Write]:
        """Return the writes: launches, Fireworks (new ones, specs, states), workflows, offline runs.

        A child must not be READY before it has its new spec, and an offline run is completed only after
        everything that its report causes.
        """
        return [
            *self._launch_writes(),
            *self._firework_writes(),
            *self._workflow_writes(),
            *self._run_writes(),
        ]

    def _launch_writes(self) -> list[Write]:
        found = (
            launch_write(self.world.launches[launch_id], new)
            for launch_id, new in self._launches.items()
        )
        return [write for write in found if write is not None]

    def _firework_writes(self) -> list[Write]:
        born, changed = [], []
        for fw_id, new in self._fireworks.items():
            old = self.world.fireworks.get(fw_id)
            if old is None:
                born.append(
                    Write("fireworks", {"fw_id": fw_id}, {"$setOnInsert": new}, upsert=True)
                )
                continue
            # Compare-and-set: a pause or a defuse that came in between is not undone, and a plan that
            # somebody else has carried out for us is not carried out again.
            seen = {"fw_id": fw_id, "state": old["state"], "updated_on": old.get("updated_on")}
            update = update_between(old, new)
            # Also where it is what it was: that a write has been made is told by it.
            update.setdefault("$set", {})["updated_on"] = new["updated_on"]
            changed.append(Write("fireworks", seen, update))
        # An end before what it causes: what is cut in between is then known to have begun.
        changed.sort(key=lambda write: write.update["$set"].get("state") not in FINAL)
        return born + changed

    def _workflow_writes(self) -> list[Write]:
        touched = {id(self._flow_of[fw_id]) for fw_id in self._fireworks if fw_id in self._flow_of}
        changed = [
            (old, flow)
            for old, flow in zip(self.world.workflows, self._flows, strict=True)
            if id(flow) in touched or flow.changed()
        ]
        self._require_flags(flow for _old, flow in changed)
        return [
            Write("workflows", _seen(old), flow.update(self._tolerates, self.now))
            for old, flow in changed
        ]

    def _require_flags(self, flows: Iterable[Flow]) -> None:
        known = (self.world.fireworks, self._fireworks, self.world.tolerant)
        unknown = {
            child
            for flow in flows
            for fw_id in flow.fizzled()
            for child in flow.children(fw_id)
            if not any(child in where for where in known)
        }
        if unknown:
            raise Missing(flags=unknown)

    def _tolerates(self, fw_id: int) -> bool:
        """Tell whether a Firework accepts FIZZLED parents."""
        if fw_id in self.world.fireworks or fw_id in self._fireworks:
            return bool(self.firework(fw_id)["spec"].get("_allow_fizzled_parents"))
        return self.world.tolerant[fw_id]

    def _run_writes(self) -> list[Write]:
        # The open runs need not have been read: one that is opened meanwhile is met all the same.
        is_open = {"completed": False, "deprecated": False}
        changes = [({"launch_id": launch_id}, fields) for launch_id, fields in self._runs.items()]
        changes += [({"launch_id": n, **is_open}, {"deprecated": True}) for n in self._retired]
        return [
            Write(
                "offline_runs",
                seen,
                {"$set": {**fields, "updated_on": iso(self.now)}},
                many=True,
            )
            for seen, fields in changes
        ]


def _at(document: Mapping[str, Any], path: str) -> Any:
    place: Any = document
    for name in path.split("."):
        place = place.get(name) if isinstance(place, Mapping) else None
    return place


def _seen(workflow: Document) -> Document:
    """Return the filter of a workflow that nobody has refreshed since it was read."""
    return {"_id": workflow["_id"], "updated_on": workflow.get("updated_on")}


def launch_write(old: Document, new: Document) -> Write | None:
    """Return the update of a launch, unless something else has ended it; None if nothing changed."""
    plain = {key: value for key, value in new.items() if key not in ("state_history", "action")}
    update = update_between({key: value for key, value in old.items() if key in plain}, plain)
    # Whole: it may have to go somewhere else.
    action = {} if same(old.get("action"), new.get("action")) else {"action": new["action"]}
    changes = {
        **update.get("$set", {}),
        **action,
        **history_update(old["state_history"], new["state_history"]),
    }
    if not changes:
        return None
    return Write(
        "launches", {"launch_id": old["launch_id"], "state": old["state"]}, {"$set": changes}
    )
