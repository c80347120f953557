"""The documents of a batch as they will be, and the writes that lead there.

``World`` is what was read under the locks, ``Draft`` what the rules of FireWorks (``Workflow.refresh``,
``Workflow.apply_action``, 2.1.4) make of it. The writes are what differs between the two. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fwcore import action as actions
from fwcore.diff import history_update, update_between
from fwcore.documents import firework_object, iso, milliseconds
from fwcore.states import FINAL, HELD, acceptable_parents, representative, workflow_state
from fwrunner.protocol.action import InvalidAction, apply_modifiers

Document = dict[str, Any]


@dataclass
class Missing(Exception):
    """A rule needs documents that were not read: whole ``fireworks``, ``launches``, or only ``flags``."""

    fireworks: set[int] = field(default_factory=set)
    launches: set[int] = field(default_factory=set)
    flags: set[int] = field(default_factory=set)


@dataclass
class World:
    """The documents a plan may use, as they were read under the locks.

    ``workflows`` are the locked ones, keyed by nothing; ``fireworks``, ``launches`` are keyed by their
    ids; ``runs`` holds the offline runs of each launch; ``tolerant`` tells of Fireworks that were not
    read whole whether they have ``_allow_fizzled_parents``; ``refused`` tells for a Firework whose
    workflow is not locked by us the reason; ``gone`` is what was looked for and does not exist.
    """

    workflows: list[Document] = field(default_factory=list)
    fireworks: dict[int, Document] = field(default_factory=dict)
    launches: dict[int, Document] = field(default_factory=dict)
    runs: dict[int, list[Document]] = field(default_factory=dict)
    tolerant: dict[int, bool] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    gone: Missing = field(default_factory=Missing)


@dataclass(frozen=True)
class Write:
    """One MongoDB update: absolute values only, so that running it twice is running it once.

    ``many`` marks an update of all matching documents.
    """

    collection: str
    filter: Document
    update: Document
    many: bool = False


class Ignore(Exception):
    """The report will never be applied."""


class Defer(Exception):
    """The report cannot be applied now."""


class Draft:
    """The documents as they will be, on top of the ones that were read.

    A changed document is a new one; values inside are replaced, never altered, so that what was read
    stays as it was and the writes follow from comparing the two.
    """

    def __init__(self, world: World, now: datetime) -> None:
        self.world = world
        self.now = now
        self.changes = 0
        self._fireworks: dict[int, Document] = {}
        self._launches: dict[int, Document] = {}
        self._runs: dict[int, Document] = {}
        self._states = [dict(workflow["fw_states"]) for workflow in world.workflows]
        self._position = {
            fw_id: position
            for position, workflow in enumerate(world.workflows)
            for fw_id in workflow["nodes"]
        }
        self._owners: dict[int, list[int]] = {}
        for fw_id, firework in world.fireworks.items():
            for launch_id in firework["launches"]:
                self._owners.setdefault(launch_id, []).append(fw_id)

    def owners(self, launch_id: int) -> list[int]:
        """Return the Fireworks that a launch belongs to: several, when duplicates share it."""
        return self._owners.get(launch_id, [])

    def workflow(self, fw_id: int) -> Document:
        """Return the locked workflow of a Firework, as it was read."""
        if fw_id in self.world.refused:
            raise Defer(self.world.refused[fw_id])
        if fw_id not in self._position:
            raise Ignore(f"no workflow holds Firework {fw_id}")
        return self.world.workflows[self._position[fw_id]]

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

    def fw_state(self, fw_id: int) -> str:
        """Return a Firework's state as its workflow will know it."""
        state: str = self._states[self._position[fw_id]][str(fw_id)]
        return state

    def change_firework(self, fw_id: int, **fields: Any) -> None:
        """Set fields of a Firework."""
        old = self.firework(fw_id)
        if any(old.get(key) != value for key, value in fields.items()):
            self._fireworks[fw_id] = {**old, **fields}
            self.changes += 1

    def change_launch(self, launch_id: int, **fields: Any) -> None:
        """Set fields of a launch."""
        old = self.launch(launch_id)
        if any(old.get(key) != value for key, value in fields.items()):
            self._launches[launch_id] = {**old, **fields}
            self.changes += 1

    def change_runs(self, launch_id: int, **fields: bool) -> None:
        """Set flags of the offline runs of a launch that do not have them yet."""
        runs = self.world.runs.get(launch_id, [])
        if any(run[key] != value for run in runs for key, value in fields.items()):
            self._runs[launch_id] = fields
            self.changes += 1

    def mirror_state(self, fw_id: int, state: str) -> None:
        """Bring a workflow's copy of a Firework's state up to date."""
        self.workflow(fw_id)
        states = self._states[self._position[fw_id]]
        if states.get(str(fw_id)) != state:
            states[str(fw_id)] = state
            self.changes += 1

    def refresh(self, fw_id: int) -> None:
        """Derive a Firework's state anew, and those of the ones it thereby concerns."""
        pending = [fw_id]
        while pending:
            pending.extend(reversed(self._refresh_one(pending.pop())))

    def _refresh_one(self, fw_id: int) -> list[int]:
        firework = self.firework(fw_id)
        if firework["state"] in HELD:
            self.mirror_state(fw_id, firework["state"])
            return []
        state = self._derived_state(fw_id)
        self.mirror_state(fw_id, state)
        if state == firework["state"]:
            return []
        self.change_firework(fw_id, state=state, updated_on=self._updated_on(state))
        if state not in FINAL:
            return []
        if state == "COMPLETED":
            self._apply_action(fw_id)
        return self._children(fw_id)

    def _updated_on(self, state: str) -> datetime | str:
        # FireWorks flips a Firework to RUNNING by a field update, which stores a date, not a text.
        return milliseconds(self.now) if state == "RUNNING" else iso(self.now)

    def _derived_state(self, fw_id: int) -> str:
        spec = self.firework(fw_id)["spec"]
        parents = self.workflow(fw_id).get("parent_links", {}).get(str(fw_id), [])
        accepted = acceptable_parents(spec)
        if any(self.fw_state(parent) not in accepted for parent in parents):
            return "WAITING"
        fizzled = [parent for parent in parents if self.fw_state(parent) == "FIZZLED"]
        if fizzled and "_fizzled_parents" not in spec:
            objects = [self._whole(parent) for parent in fizzled]
            self.change_firework(fw_id, spec={**spec, "_fizzled_parents": objects})
        launch = self._representative(fw_id)
        return launch["state"] if launch else "READY"

    def _representative(self, fw_id: int) -> Document | None:
        found = representative(self.launch(number) for number in self.firework(fw_id)["launches"])
        return dict(found) if found is not None else None

    def _whole(self, fw_id: int) -> Document:
        firework = self.firework(fw_id)
        archived = firework["archived_launches"]
        return firework_object(
            firework, map(self.launch, firework["launches"]), map(self.launch, archived)
        )

    def _children(self, fw_id: int) -> list[int]:
        return list(self.workflow(fw_id)["links"].get(str(fw_id), []))

    def _descendants(self, fw_id: int) -> list[int]:
        found: dict[int, None] = {}
        pending = self._children(fw_id)
        while pending:
            node = pending.pop(0)
            if node not in found:
                found[node] = None
                pending.extend(self._children(node))
        return list(found)

    def specs_after(self, fw_id: int, action: Mapping[str, Any]) -> dict[int, Document]:
        """Return the specs that an action gives to other Fireworks; raise InvalidAction."""
        if not action["update_spec"] and not action["mod_spec"]:
            return {}
        targets = self._descendants(fw_id) if action["propagate"] else self._children(fw_id)
        self._require(targets)
        specs = {}
        for target in targets:
            specs[target] = {**self.firework(target)["spec"], **action["update_spec"]}
            try:
                apply_modifiers(specs[target], action["mod_spec"])
            except InvalidAction as error:
                raise InvalidAction(f"{error} (in Firework {target})") from error
        return specs

    def _apply_action(self, fw_id: int) -> None:
        launch = self._representative(fw_id)
        action = actions.normalized((launch or {}).get("action") or {})
        if any(action[key] for key in actions.GROWTH):
            raise Defer("an earlier launch's action adds Fireworks, which cannot be applied yet")
        try:
            specs = self.specs_after(fw_id, action)
        except InvalidAction as error:
            raise Defer(f"the action of Firework {fw_id} cannot be applied: {error}") from error
        for target, spec in specs.items():
            self.change_firework(target, spec=spec, updated_on=iso(self.now))
        if action["defuse_children"]:
            self._defuse(self._children(fw_id))
        if action["defuse_workflow"]:
            nodes = self.workflow(fw_id)["nodes"]
            self._defuse([node for node in nodes if self.fw_state(node) not in FINAL])

    def _defuse(self, fw_ids: list[int]) -> None:
        self._require(fw_ids)
        for fw_id in fw_ids:
            self.change_firework(fw_id, state="DEFUSED", updated_on=iso(self.now))
            self.mirror_state(fw_id, "DEFUSED")

    def _require(self, fw_ids: Iterable[int]) -> None:
        unknown = set(fw_ids) - set(self.world.fireworks)
        if gone := unknown & self.world.gone.fireworks:
            raise Defer(f"Firework {min(gone)} is not in the database")
        if unknown:
            raise Missing(fireworks=unknown)

    def released(self) -> list[int]:
        """Return the Fireworks that become READY."""
        return [
            fw_id
            for fw_id, firework in self._fireworks.items()
            if firework["state"] == "READY" != self.world.fireworks[fw_id]["state"]
        ]

    def writes(self) -> list[Write]:
        """Return the writes: launches, then specs before states, then workflows, offline runs last.

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
        specs, states = [], []
        for fw_id, new in self._fireworks.items():
            old = self.world.fireworks[fw_id]
            spec = update_between({"spec": old["spec"]}, {"spec": new["spec"]})
            if spec:
                specs.append(Write("fireworks", {"fw_id": fw_id}, spec))
            rest = update_between(_without_spec(old), _without_spec(new))
            if rest:
                # Compare-and-set: a pause or a defuse that came in between is not undone.
                states.append(Write("fireworks", {"fw_id": fw_id, "state": old["state"]}, rest))
        return specs + states

    def _workflow_writes(self) -> list[Write]:
        touched = {self._position[fw_id] for fw_id in self._fireworks if fw_id in self._position}
        writes = []
        for position, workflow in enumerate(self.world.workflows):
            states = self._states[position]
            if states == workflow["fw_states"] and position not in touched:
                continue
            new = {**workflow, "fw_states": states, "updated_on": milliseconds(self.now)}
            new["state"] = workflow_state(states, workflow["links"], self._tolerates(position))
            update = update_between(workflow, new)
            writes.append(Write("workflows", {"_id": workflow["_id"]}, update))
        return writes

    def _tolerates(self, position: int) -> Callable[[int], bool]:
        """Return a function that tells of a Firework whether it accepts FIZZLED parents."""
        states, links = self._states[position], self.world.workflows[position]["links"]
        fizzled = [key for key, state in states.items() if state == "FIZZLED"]
        asked = {child for key in fizzled for child in links.get(key, [])}
        unknown = asked - set(self.world.fireworks) - set(self.world.tolerant)
        if unknown:
            raise Missing(flags=unknown)

        def tolerates(fw_id: int) -> bool:
            if fw_id in self.world.fireworks:
                return bool(self.firework(fw_id)["spec"].get("_allow_fizzled_parents"))
            return self.world.tolerant[fw_id]

        return tolerates

    def _run_writes(self) -> list[Write]:
        return [
            Write(
                "offline_runs",
                {"launch_id": launch_id},
                {"$set": {**fields, "updated_on": iso(self.now)}},
                many=True,
            )
            for launch_id, fields in self._runs.items()
        ]


def _without_spec(firework: Document) -> Document:
    return {key: value for key, value in firework.items() if key != "spec"}


def launch_write(old: Document, new: Document) -> Write | None:
    """Return the update of a launch, unless something else has ended it; None if nothing changed."""
    plain = {key: value for key, value in new.items() if key != "state_history"}
    update = update_between({key: value for key, value in old.items() if key in plain}, plain)
    changes = {
        **update.get("$set", {}),
        **history_update(old["state_history"], new["state_history"]),
    }
    if not changes:
        return None
    return Write(
        "launches", {"launch_id": old["launch_id"], "state": old["state"]}, {"$set": changes}
    )
