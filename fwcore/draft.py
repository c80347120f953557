"""The rules of FireWorks, played through on the documents of a batch. Pure.

``World`` is what was read under the locks, ``Draft`` what the rules (``Workflow.refresh``,
``Workflow.apply_action``, 2.1.4) make of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fwcore import action as actions
from fwcore.documents import firework_object, iso, milliseconds, new_firework
from fwcore.drafted import Drafted
from fwcore.flow import Flow
from fwcore.growth import Growth, growths_of, new_ids
from fwcore.states import FINAL, HELD, RANKS, acceptable_parents, representative
from fwcore.world import Defer, Missing, World
from fwrunner.protocol.action import InvalidAction

Document = dict[str, Any]


class Draft(Drafted):
    """The documents as they will be once the rules have been played through."""

    def __init__(self, world: World, now: datetime) -> None:
        super().__init__(world, now)
        #: {new Firework: the one whose action adds it}
        self.grown: dict[int, int] = {}
        #: Fireworks whose action was applied when they were COMPLETED before
        self.spent: set[int] = set()
        self._new_ids = iter(world.new_ids)
        self._drawn = 0
        self._wholes: dict[int, tuple[list[Document], Document]] = {}
        #: {Firework: its action and what that appends}, once they were found to be good
        self._checked: dict[int, tuple[Document, list[Growth]]] = {}
        #: {launch: its action, as it is stored and whole}
        self._normalized: dict[int, tuple[Document, Document]] = {}
        #: {Firework: its action, and what that makes of specs: {child: (before, after)}}
        self._given: dict[int, tuple[Document, dict[int, tuple[Document, Document]]]] = {}

    def refresh(self, fw_id: int) -> None:
        """Derive a Firework's state anew, and those of the ones it thereby concerns."""
        pending = [fw_id]
        while pending:
            pending.extend(reversed(self._refresh_one(pending.pop())))

    def _refresh_one(self, fw_id: int) -> list[int]:
        before = self.firework(fw_id)["state"]
        if before in HELD:
            self.mirror_state(fw_id, before)
            return []
        state = self._derived_state(fw_id)
        applies = state == "COMPLETED" and before != state and fw_id not in self.spent
        if applies and (why := self._refusal(fw_id)):
            state = "FIZZLED"
            details = {"_message": why, "_stacktrace": ""}
            spec = self.firework(fw_id)["spec"]
            self.change_firework(fw_id, spec={**spec, "_exception_details": details})
        self.mirror_state(fw_id, state)
        if state == before:
            return []
        # FireWorks flips a Firework to RUNNING by a field update, which stores a date, not a text.
        now = milliseconds(self.now) if state == "RUNNING" else self._stamp
        self.change_firework(fw_id, state=state, updated_on=now)
        if state not in FINAL:
            return []
        born = self._apply_action(fw_id) if applies and state == "COMPLETED" else []
        return [*born, *self.flow(fw_id).children(fw_id)]

    def _derived_state(self, fw_id: int) -> str:
        firework, flow = self.firework(fw_id), self.flow(fw_id)
        spec = firework["spec"]
        states = [flow.state(parent) for parent in flow.parents(fw_id)]
        if not acceptable_parents(spec).issuperset(states):
            return "WAITING"
        if not firework["launches"] and "FIZZLED" not in states:
            return "READY"
        fizzled = flow.fizzled_parents(fw_id)
        if fizzled and "_fizzled_parents" not in spec:
            told = {**spec, "_fizzled_parents": [self._whole(parent) for parent in fizzled]}
            if not self.has_room(fw_id, told):
                told["_fizzled_parents"] = [self._brief(parent) for parent in fizzled]
            self.change_firework(fw_id, spec=told)
        launch = self._representative(fw_id)
        return launch["state"] if launch else "READY"

    def _representative(self, fw_id: int) -> Document | None:
        found = representative(self._launches_of(fw_id, "launches"))
        return dict(found) if found is not None else None

    def _launches_of(self, fw_id: int, key: str) -> list[Document]:
        """Return the launches in a list of a Firework; those without a document are passed over, as in FireWorks."""
        gone = self.world.gone.launches
        return [self.launch(number) for number in self.firework(fw_id)[key] if number not in gone]

    def _refusal(self, fw_id: int) -> str:
        """Return why the action of a Firework that becomes COMPLETED cannot be applied; "" if it can."""
        launch = self._representative(fw_id) or {}
        action: Document = launch.get("action") or {}
        checked, _growths = self._checked.get(fw_id, (None, []))
        try:
            if checked is not action:
                action = self._stored_action(launch)
            # Also where it was checked before: other Fireworks may have changed what it concerns.
            self.check_action(fw_id, action)
        except InvalidAction as error:
            return f"the action of launch {launch['launch_id']} cannot be applied: {error}"
        return ""

    def _whole(self, fw_id: int) -> Document:
        """Return a Firework as its children are told about it: one object for all of them.

        One that would be nested too deep is told in brief.
        """
        firework = self.firework(fw_id)
        launches = self._launches_of(fw_id, "launches")
        archived = self._launches_of(fw_id, "archived_launches")
        parts = [firework, *launches, *archived]
        known, whole = self._wholes.get(fw_id, ([], {}))
        if list(map(id, parts)) != list(map(id, known)):
            whole = firework_object(firework, launches, archived)
            # Generations of failed parents lie in each other.
            whole = whole if actions.tellable(whole) else self._brief(fw_id)
            self._wholes[fw_id] = parts, whole
        return whole

    def _brief(self, fw_id: int) -> Document:
        """Return what fits of a Firework where the whole of it does not."""
        firework = self.firework(fw_id)
        return {key: firework[key] for key in ("fw_id", "name", "state") if key in firework}

    def check_action(self, fw_id: int, action: Document) -> None:
        """Raise InvalidAction if the action of a Firework cannot be applied to its workflow."""
        self._specs_after(fw_id, action)
        flow = self.flow(fw_id)
        if fw_id in self.world.bursting:
            raise InvalidAction("a Firework that it adds would outgrow MongoDB's 16 MiB")
        if fw_id in self.world.cramped:
            raise InvalidAction("its workflow, with what it adds, would outgrow MongoDB's 16 MiB")
        known, growths = self._checked.get(fw_id, (None, []))
        if known is not action:
            growths = growths_of(action, fw_id)
        for parent in dict.fromkeys(parent for growth in growths for parent in growth.parents):
            if self._flow_of.get(parent) is not flow:
                raise InvalidAction(f"Firework {parent} is not in the same workflow")
        detours = [growth for growth in growths if growth.detours]
        if detours:
            others = {parent for growth in detours for parent in growth.parents} - {fw_id}
            self._check_detour(flow, fw_id, others, action)
        for growth in growths:
            self._pulled_specs(growth, {fw_id: action})
        self._checked[fw_id] = action, growths

    def _check_detour(self, flow: Flow, parent: int, others: set[int], action: Document) -> None:
        if others and (tangled := others & set(flow.descendants(parent))):
            raise InvalidAction(f"Firework {min(tangled)} would wait for itself")
        if action["defuse_children"]:
            return
        # What the workflow's defusing leaves alone has begun all the same.
        begun = [
            child
            for child in flow.children(parent)
            if RANKS[flow.state(child)] > RANKS["WAITING"]
            and (flow.state(child) == "COMPLETED" or not action["defuse_workflow"])
        ]
        if begun:
            raise InvalidAction(
                f"a detour of Firework {parent} needs children that wait, "
                f"but {begun[0]} is {flow.state(begun[0])}"
            )

    def _specs_after(self, fw_id: int, action: Document) -> dict[int, Document]:
        """Return the specs that an action gives to other Fireworks; raise InvalidAction."""
        if not action["update_spec"] and not action["mod_spec"]:
            return {}
        flow = self.flow(fw_id)
        targets = flow.descendants(fw_id) if action["propagate"] else flow.children(fw_id)
        self._require(targets)
        given, known = self._given.get(fw_id, ({}, {}))
        if given is not action:
            known = {}
        found: dict[int, tuple[Document, Document]] = {}
        for target in targets:
            before = self.firework(target)["spec"]
            # What was found when the action was checked may still hold.
            held = known.get(target)
            same_spec = held is not None and held[0] is before
            found[target] = held if held and same_spec else self._spec_after(target, before, action)
        self._given[fw_id] = (action, found)
        return {target: after for target, (_before, after) in found.items()}

    def _spec_after(
        self, target: int, before: Document, action: Document
    ) -> tuple[Document, Document]:
        """Return a spec before and after an action."""
        after = _modified(before, action, f"Firework {target}")
        if not self.has_room(target, after):
            raise InvalidAction(f"the spec of Firework {target} would outgrow MongoDB's 16 MiB")
        return before, after

    def _apply_action(self, fw_id: int) -> list[int]:
        """Apply the action of a Firework that has just become COMPLETED, which was checked; return what it adds."""
        action, growths = self._checked[fw_id]
        specs = self._specs_after(fw_id, action)
        for target, spec in specs.items():
            self.change_firework(target, spec=spec)
        flow = self.flow(fw_id)
        if action["defuse_children"]:
            self._defuse(flow.children(fw_id))
        if action["defuse_workflow"]:
            self._defuse([node for node in flow.nodes if flow.state(node) not in FINAL])
        return self._grow(fw_id, growths, action)

    def _grow(self, fw_id: int, growths: list[Growth], action: Document) -> list[int]:
        ids = self._draw(growths)
        born: list[int] = []
        flow = self.flow(fw_id)
        # The children that a detour is to hold back are those from before this action.
        held = {parent: flow.children(parent) for growth in growths for parent in growth.detours}
        for growth in growths:
            specs = self._pulled_specs(growth, {fw_id: action})
            links = {ids[old]: [ids[child] for child in growth.links.get(old, [])] for old in specs}
            waiting = dict.fromkeys(child for parent in growth.detours for child in held[parent])
            for leaf in growth.leaves:
                links[ids[leaf]] = list(waiting)
            flow.add(links, growth.parents, [ids[root] for root in growth.roots])
            for old, spec in specs.items():
                document = new_firework(growth.fireworks[old], ids[old], False, self.now)
                if document["state"] in HELD:  # no refresh touches it
                    document["updated_on"] = growth.fireworks[old].get("updated_on", iso(self.now))
                self._fireworks[ids[old]] = {**document, "spec": spec}
                self._flow_of[ids[old]] = flow
                self.grown[ids[old]] = fw_id
                born.append(ids[old])
            self.changes += len(specs)
        return born

    def _draw(self, growths: list[Growth]) -> dict[int, int]:
        """Return the new ids of the Fireworks in ``growths``."""
        needed = sum(len(growth.fireworks) for growth in growths)
        if self._drawn + needed > len(self.world.new_ids):
            raise Missing(new_ids=self._drawn + needed - len(self.world.new_ids))
        self._drawn += needed
        return new_ids(growths, self._new_ids)

    def _pulled_specs(self, growth: Growth, known: Mapping[int, Document]) -> dict[int, Document]:
        """Return the specs of the Fireworks in ``growth``, its roots changed by completed parents."""
        specs = {old: dict(source["spec"]) for old, source in growth.fireworks.items()}
        for parent in growth.parents if growth.pulls else ():
            action = known.get(parent) or self._completed_action(parent)
            for root in growth.roots if action else ():
                specs[root] = _modified(specs[root], action or {}, f"the new Firework {root}")
        return specs

    def _completed_action(self, fw_id: int) -> Document | None:
        launch = self._representative(fw_id)
        if launch is None or launch["state"] != "COMPLETED" or not launch["action"]:
            return None
        return self._stored_action(launch)

    def _stored_action(self, launch: Document) -> Document:
        """Return the action of a launch, whole."""
        action = launch.get("action") or {}
        if "gridfs_id" in action:
            why = self.world.unread.get(launch["launch_id"], "it was not read")
            raise Defer(f"the action of launch {launch['launch_id']} cannot be read: {why}")
        known, whole = self._normalized.get(launch["launch_id"], (None, {}))
        if known is not action:
            whole = actions.normalized(action)
            self._normalized[launch["launch_id"]] = action, whole
        return whole

    def _defuse(self, fw_ids: list[int]) -> None:
        self._require(fw_ids)
        for fw_id in fw_ids:
            self.change_firework(fw_id, state="DEFUSED")
            self.mirror_state(fw_id, "DEFUSED")


def _modified(spec: Document, action: Mapping[str, Any], whose: str) -> Document:
    """Return a spec after an action's ``update_spec`` and ``mod_spec``; raise InvalidAction."""
    try:
        return actions.modified(spec, action)
    except InvalidAction as error:
        raise InvalidAction(f"{error} (in {whose})") from error
