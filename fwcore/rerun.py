"""Rerun and defuse: Fireworks go back to where they have not run, and what has followed them goes with them.

Pure: documents in, field-level writes out, as in ``fwcore.plan``. Facts: FireWorks 2.1.4,
``LaunchPad.rerun_fw``, ``LaunchPad.defuse_fw``, ``Workflow.rerun_fw``, ``Firework._rerun``; contract, sections
2.4 and 6. On purpose different from there (docs/compatibility.md): a Firework that somebody has paused,
defused or archived stays so when one above it is rerun; a Firework that follows starts anew, not from a
checkpoint of its own; the open offline runs of archived launches are retired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fwcore.documents import milliseconds
from fwcore.draft import Draft
from fwcore.errors import InvalidRecovery
from fwcore.plan import record
from fwcore.states import ACTIVE, HELD
from fwcore.world import Defer, Ignore, World, Write
from fwrunner.protocol import Report

Document = dict[str, Any]

#: In these a Firework is not rerun, unless one above it is.
_NOT_RERUN = frozenset({"ARCHIVED", "DEFUSED"})
#: The spec key of a Firework that goes on where it was cut: in `fwrunner`, when its job is started again.
_RESUMES = "_resume_requeued"
#: From these a Firework is rerun before it is defused.
_BEGUN = frozenset({"RESERVED", "RUNNING", "COMPLETED"})


@dataclass(frozen=True)
class Recovery:
    """How a Firework goes on from the checkpoint of a launch, as `lpad rerun_fws --task-level`.

    ``mode`` is None (in a new directory), "cp" (in a new directory, into which the old one is copied) or
    "prev_dir" (in the old directory). ``launches`` names the launch to go on from, {fw_id: launch_id};
    where it does not, that is the last active one. Raises InvalidRecovery for another mode.
    """

    mode: str | None = None
    launches: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in (None, "cp", "prev_dir"):
            raise InvalidRecovery(
                f"there is no recovery mode {self.mode!r}", "it is None, 'cp' or 'prev_dir'"
            )


@dataclass(frozen=True)
class Change:
    """What became of one Firework: the ``state`` it has now, or the ``reason`` why it was left alone."""

    fw_id: int
    state: str = ""
    reason: str = ""


@dataclass
class Changes:
    """The writes of a batch in the order they are to be made, and what they mean.

    ``changed`` are the Fireworks that were asked for, their duplicates, and those that follow them and were
    reset; ``skipped`` ones stay as they are, ``deferred`` ones are to be asked for again; ``released`` are
    those that become READY.
    """

    writes: list[Write] = field(default_factory=list)
    changed: list[Change] = field(default_factory=list)
    skipped: list[Change] = field(default_factory=list)
    deferred: list[Change] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    #: {new Firework: the one whose action adds it}
    grown: dict[int, int] = field(default_factory=dict)


def plan_rerun(
    world: World,
    fw_ids: Iterable[int],
    now: datetime,
    *,
    recovery: Recovery | None = None,
    duplicates: bool = True,
) -> Changes:
    """Return the plan that lets Fireworks run again, from a checkpoint if ``recovery`` says how.

    ``duplicates`` tells whether Fireworks that share a launch are rerun together. Raises Missing when
    ``world`` lacks documents.
    """

    def rerun(batch: _Batch, fw_id: int) -> None:
        batch.rerun(fw_id, recovery)

    return _plan(world, list(dict.fromkeys(fw_ids)), now, duplicates, rerun)


def plan_defuse(
    world: World, fw_ids: Iterable[int], now: datetime, *, duplicates: bool = True
) -> Changes:
    """Return the plan that takes Fireworks out of the flow; those that have begun are rerun first.

    ``duplicates`` as in ``plan_rerun``; FireWorks reruns duplicates, but does not defuse them. Raises
    Missing when ``world`` lacks documents.
    """
    return _plan(world, list(dict.fromkeys(fw_ids)), now, duplicates, _Batch.defuse)


def plan_rerun_lost(
    world: World, fw_ids: Iterable[int], now: datetime, *, ends: Mapping[int, Report]
) -> Changes:
    """Return the plan that ends launches whose jobs were lost, and lets their Fireworks run again, in one batch.

    ``ends`` has for each Firework the FIZZLED report of its launch. A Firework whose spec has
    ``_resume_requeued`` goes on from the checkpoint of that launch, if it left one, in a new directory into which
    the old one is copied. Skipped is a Firework whose launch has ended or was archived meanwhile, or that does
    not count on that one alone any more. Raises Missing when ``world`` lacks documents.
    """

    def rerun(batch: _Batch, fw_id: int) -> None:
        batch.rerun_lost(fw_id, ends[fw_id])

    return _plan(world, list(dict.fromkeys(fw_ids)), now, True, rerun)


def _plan(
    world: World,
    fw_ids: list[int],
    now: datetime,
    duplicates: bool,
    change: Callable[[_Batch, int], None],
) -> Changes:
    skipped: dict[int, str] = {}
    deferred: dict[int, str] = {}
    remaining = fw_ids
    batch = _Batch(world, now, fw_ids, duplicates)
    position = 0
    while position < len(remaining):
        fw_id = remaining[position]
        before = batch.draft.changes
        try:
            change(batch, fw_id)
        except (Ignore, Defer) as why:
            (skipped if isinstance(why, Ignore) else deferred)[fw_id] = str(why)
            if batch.draft.changes != before:
                # Part of it is in the draft already: begin again without it.
                remaining = [each for each in fw_ids if each not in {*skipped, *deferred}]
                batch, position = _Batch(world, now, fw_ids, duplicates), 0
                continue
        position += 1
    return Changes(
        writes=batch.writes(),
        changed=[Change(fw_id, batch.draft.firework(fw_id)["state"]) for fw_id in batch.changed],
        skipped=[Change(fw_id, reason=why) for fw_id, why in skipped.items()],
        deferred=[Change(fw_id, reason=why) for fw_id, why in deferred.items()],
        released=batch.draft.released(),
        grown=batch.draft.grown,
    )


class _Batch:
    """Fireworks that are rerun or defused together, on one draft."""

    def __init__(self, world: World, now: datetime, fw_ids: list[int], duplicates: bool) -> None:
        self.draft = Draft(world, now)
        #: Fireworks that are not as they were.
        self.changed: dict[int, None] = {}
        self._duplicates = duplicates
        #: Fireworks that are WAITING or READY again, and the launches that were archived.
        self._reset: set[int] = set()
        self._archived: dict[int, set[int]] = {}
        self._foresee(fw_ids)

    def writes(self) -> list[Write]:
        """Return the writes; runs are retired whose launch is of none of its owners any more."""
        self.draft.foresee((), self._archived)
        for launch_id, former in self._archived.items():
            if former >= set(self.draft.world.owners[launch_id]):
                self.draft.retire_runs(launch_id)
        return self.draft.writes()

    def rerun(self, fw_id: int, recovery: Recovery | None) -> None:
        """Rerun a Firework and those that share its launch; raise Ignore or Defer."""
        self.draft.flow(fw_id)
        state = self.draft.firework(fw_id)["state"]
        if fw_id in self._reset:
            return  # with one above it, or as a duplicate
        if state in _NOT_RERUN:
            raise Ignore(f"it is {state}")
        if state == "WAITING" and recovery is None:
            raise Ignore("it is WAITING already")
        group = self._group(fw_id, may_wait=recovery is not None)
        # All of them are asked before the first one is changed.
        specs = {each: self._recovered(each, fw_id, recovery) for each in group}
        for each, additions in specs.items():
            self._rewind(each, additions)

    def rerun_lost(self, fw_id: int, end: Report) -> None:
        """End the launch of a Firework whose job was lost, and rerun it; raise Ignore or Defer."""
        self.draft.flow(fw_id)
        firework = self.draft.firework(fw_id)
        if end.launch_id not in firework["launches"]:
            raise Ignore(f"launch {end.launch_id} is archived")
        if firework["state"] not in ACTIVE:
            raise Ignore(f"it is {firework['state']}")
        launch = self.draft.launch(end.launch_id)
        if launch["state"] not in ACTIVE:
            raise Ignore(f"launch {end.launch_id} is {launch['state']}")
        # No refresh in between: nothing may follow from an end that is none.
        record(self.draft, launch, end)
        goes_on = _RESUMES in firework["spec"] and firework["spec"][_RESUMES]
        history = self.draft.launch(end.launch_id)["state_history"]
        found = goes_on and history[-1].get("checkpoint")
        self.rerun(fw_id, Recovery("cp", {fw_id: end.launch_id}) if found else None)

    def defuse(self, fw_id: int) -> None:
        """Defuse a Firework; raise Ignore or Defer."""
        self.draft.flow(fw_id)
        state = self.draft.firework(fw_id)["state"]
        if state in _NOT_RERUN:
            raise Ignore(f"it is {state}" + (" already" if state == "DEFUSED" else ""))
        if state in _BEGUN:
            self.rerun(fw_id, None)
        # FireWorks flips it by a field update, which stores a date, not a text.
        now = milliseconds(self.draft.now)
        self.draft.change_firework(fw_id, state="DEFUSED", updated_on=now)
        self.draft.mirror_state(fw_id, "DEFUSED")
        self.changed[fw_id] = None

    def _group(self, fw_id: int, *, may_wait: bool) -> list[int]:
        """Return a Firework and those that are to be rerun with it because they share a launch."""
        others = self._sharers([fw_id])
        for other in others:
            if not self.draft.holds(other):
                why = self.draft.world.refused.get(other, "it was not its duplicate just now")
                raise Defer(f"Firework {other} shares its launch: {why}")
        stay = _NOT_RERUN if may_wait else _NOT_RERUN | {"WAITING"}
        return [fw_id, *(n for n in others if self.draft.firework(n)["state"] not in stay)]

    def _sharers(self, fw_ids: Iterable[int]) -> list[int]:
        """Return the other Fireworks with a launch of one that looks for duplicates."""
        fireworks = [self.draft.world.fireworks[n] for n in fw_ids if self._looks(n)]
        launches = [number for firework in fireworks for number in firework["launches"]]
        self.draft.foresee((), launches)
        owners = [owner for number in launches for owner in self.draft.world.owners[number]]
        return [owner for owner in dict.fromkeys(owners) if owner not in fw_ids]

    def _looks(self, fw_id: int) -> bool:
        firework = self.draft.world.fireworks.get(fw_id)
        return self._duplicates and firework is not None and "_dupefinder" in firework["spec"]

    def _recovered(self, fw_id: int, asked_for: int, recovery: Recovery | None) -> Document:
        """Return what a spec gets so that its Firework goes on from a checkpoint; raise Ignore."""
        if recovery is None:
            return {}
        launches = self.draft.firework(fw_id)["launches"]
        whose = f"Firework {fw_id}"
        if not launches:
            raise Ignore(f"{whose} has no active launch to go on from")
        launch_id = recovery.launches.get(asked_for, launches[-1])
        if launch_id not in launches:
            raise Ignore(f"launch {launch_id} is no active launch of {whose}")
        launch = self.draft.launch(launch_id)
        history = launch["state_history"]
        checkpoint = history[-1].get("checkpoint") if history else None
        if not checkpoint:
            raise Ignore(
                f"launch {launch_id} of {whose} left no checkpoint: rerun it from its start"
            )
        origin = {"_prev_dir": launch["launch_dir"], "_launch_id": launch_id}
        found: Document = {"_recovery": {**checkpoint, **origin, "_mode": recovery.mode}}
        if recovery.mode == "prev_dir":
            found["_launch_dir"] = launch["launch_dir"]
        if not self.draft.has_room(fw_id, {**self.draft.firework(fw_id)["spec"], **found}):
            raise Ignore(f"the spec of {whose} with the checkpoint would outgrow MongoDB's 16 MiB")
        return found

    def _rewind(self, fw_id: int, additions: Document) -> None:
        """Reset a Firework, and all below it that do not just wait."""
        self._reset_one(fw_id, additions)
        seen = {fw_id}
        pending = [fw_id]
        while pending:
            for child in self.draft.flow(fw_id).children(pending.pop()):
                if child in seen or _just_waits(self.draft.firework(child)):
                    continue
                seen.add(child)
                if self.draft.firework(child)["state"] in HELD:
                    self._clear_held(child)
                else:
                    self._reset_one(child, {})
                pending.append(child)

    def _reset_one(self, fw_id: int, additions: Document) -> None:
        spec = {**_without_recovery(self.draft.firework(fw_id)), **additions}
        self._archive(fw_id, state="WAITING", spec=spec)
        self.draft.refresh(fw_id)
        self._reset.add(fw_id)
        self.changed[fw_id] = None

    def _clear_held(self, fw_id: int) -> None:
        """Reset a Firework but for its state: once it is let go, it runs with what its parents give it."""
        before = self.draft.changes
        self._archive(fw_id, spec=_without_recovery(self.draft.firework(fw_id)))
        if self.draft.changes != before:
            self.changed[fw_id] = None

    def _archive(self, fw_id: int, **fields: Any) -> None:
        firework = self.draft.firework(fw_id)
        for launch_id in firework["launches"]:
            self._archived.setdefault(launch_id, set()).add(fw_id)
        archived = dict.fromkeys((*firework["archived_launches"], *firework["launches"]))
        self.draft.change_firework(fw_id, launches=[], archived_launches=list(archived), **fields)

    def _foresee(self, fw_ids: list[int]) -> None:
        """Ask for what will be looked at in a few requests, whatever the number of Fireworks."""
        self._foresee_below(fw_ids)
        if others := self._sharers(fw_ids):
            self._foresee_below(others)

    def _foresee_below(self, fw_ids: Iterable[int]) -> None:
        found: set[int] = set()
        pending = list(fw_ids)
        while pending:
            fw_id = pending.pop()
            # One that a link leads to and no workflow holds spoils the change that meets it, not the others.
            if fw_id in found or not self.draft.holds(fw_id):
                continue
            found.add(fw_id)
            flow = self.draft.flow(fw_id)
            if flow.state(fw_id) != "WAITING":
                pending.extend(flow.children(fw_id))
        self.draft.foresee(found, ())


def _just_waits(firework: Document) -> bool:
    """Tell whether a Firework has nothing to be reset.

    One that `lpad resume_fws` has just let go waits until that has refreshed it, and may count on a launch.
    """
    return firework["state"] == "WAITING" and not firework["launches"]


def _without_recovery(firework: Document) -> Document:
    """Return the spec of a Firework that is to start anew, without what a failure has left in it."""
    dropped = {"_recovery"}
    if firework["state"] == "FIZZLED":
        dropped.add("_exception_details")
    return {key: value for key, value in firework["spec"].items() if key not in dropped}
