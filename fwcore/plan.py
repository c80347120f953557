"""What reports do to a LaunchPad: documents and reports in, field-level writes out.

Everything here is pure. ``World`` holds what was read under the locks of the workflows concerned. The
rules of FireWorks are played through on a ``Draft`` of those documents, and the writes are then what
differs between the two. When a rule needs a document that was not read, ``Missing`` says which, and the
caller reads it and plans again.

Facts: FireWorks 2.1.4, ``Workflow.refresh``, ``Workflow.apply_action``, ``LaunchPad.recover_offline`` and
``LaunchPad.cancel_reservation``. Where recovery there is wrong (times of a launch, heartbeats,
checkpoints, states a person has set), this does the right thing; see docs/compatibility.md.

Complexity: a report costs its children and their parents (with ``propagate`` its descendants), a batch one
look at each Firework's state in the workflows that are locked, however many of its reports are in them. Neither
depends on how many workflows there are besides. ``benchmarks/cost.py`` shows the time of a plan alone at 10 to
10,000 Fireworks a workflow, as children, parents and siblings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from fwcore import action as actions
from fwcore import history as histories
from fwcore.documents import iso
from fwcore.draft import Draft
from fwcore.drafted import launch_write
from fwcore.growth import check_loadable, growths_of
from fwcore.lost import VANISHED, disproves, facts_of, is_lost
from fwcore.states import ACTIVE, HELD
from fwcore.trackers import followed
from fwcore.world import Defer, Ignore, Missing, World, Write
from fwrunner.protocol import Report
from fwrunner.protocol.action import InvalidAction

Document = dict[str, Any]
T = TypeVar("T")

#: In an offline run: since when its launch is lost, as text; null once it is known not to be.
LOST = "fwagent.lost"
#: Of a launch whose job may still tell of it. READY is that of a held Firework whose reservation was cancelled:
#: FireWorks leaves it where it is, and the job may have begun all the same.
_OPEN = ACTIVE | {"READY"}


@dataclass(frozen=True)
class Outcome:
    """What became of one report: ``state`` when it was applied, else the ``reason`` why not."""

    launch_id: int
    fw_id: int | None = None
    state: str = ""
    reason: str = ""


@dataclass
class Plan:
    """The writes of a batch in the order they are to be made, and what they mean.

    ``released`` are the Fireworks that become READY. ``applied`` reports cause writes, ``known`` ones
    tell nothing new, ``ignored`` ones never will, ``deferred`` ones are to be offered again.
    ``grown`` tells for each new Firework whose action adds it.
    """

    writes: list[Write] = field(default_factory=list)
    applied: list[Outcome] = field(default_factory=list)
    known: list[Outcome] = field(default_factory=list)
    deferred: list[Outcome] = field(default_factory=list)
    ignored: list[Outcome] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    grown: dict[int, int] = field(default_factory=dict)


def is_heartbeat(launch: Mapping[str, Any], report: Report) -> bool:
    """Tell whether a report can change nothing but its launch: no lock is needed for it."""
    return bool(launch["state"] == "RUNNING" and report.state == "RUNNING")


def plan_heartbeat(launch: Document, report: Report) -> Write | None:
    """Return the write of a ping or a checkpoint of a RUNNING launch, None if it tells nothing new.

    What its tracked files hold is stored along with it; that alone is no news, for it changes with every byte.
    It compares the last sign of life with the one that was read, for no lock keeps others from storing a later one.
    """
    history = histories.started(launch["state_history"], report)
    changed = {**launch, "state_history": history, **histories.derived_times(history)}
    if launch_write(launch, changed) is None:
        return None
    write = launch_write(launch, {**changed, **followed(launch, report)})
    seen = histories.last_sign(launch["state_history"], history)
    return write and replace(write, filter={**write.filter, **seen})


def plan_heartbeats(world: World, reports: Iterable[Report]) -> Plan:
    """Return the plan of reports that are heartbeats; needs their launches and offline runs only."""
    plan = Plan()
    genuine = _genuine(world, reports, plan.ignored)
    for report in _most_advanced(genuine).values():
        launch = world.launches[report.launch_id]
        write = plan_heartbeat(launch, report)
        outcome = Outcome(report.launch_id, launch["fw_id"], "RUNNING")
        (plan.known if write is None else plan.applied).append(outcome)
        if write is not None:
            plan.writes.append(write)
    return plan


def plan_reports(world: World, reports: Iterable[Report], now: datetime) -> Plan:
    """Return the plan of a batch; several reports of one launch count as the most advanced of them.

    Raises Missing when ``world`` lacks documents.
    """
    foreign: list[Outcome] = []
    news = list(_most_advanced(_genuine(world, reports, foreign)).values())
    plan = _played(world, now, news, _apply, partial(_rejected, world))
    plan.ignored += foreign
    return plan


def _played(
    world: World,
    now: datetime,
    items: list[T],
    play: Callable[[Draft, T], Outcome],
    rejected: Callable[[T, str], Outcome],
) -> Plan:
    """Return the plan of items that are played through one after the other, on one draft.

    An item that raises Ignore or Defer leaves nothing in the plan. One that is played, and has a reason
    nevertheless, is ignored. Raises Missing when ``world`` lacks documents.
    """
    plan, missing = Plan(), Missing()
    ignored: list[Outcome] = []
    remaining = list(items)
    draft = Draft(world, now)
    position = 0
    while position < len(remaining):
        item = remaining[position]
        before = draft.changes
        try:
            outcome = play(draft, item)
        except Missing as more:
            # What the others need as well is read at once.
            missing.add(more)
        except (Ignore, Defer) as why:
            told = ignored if isinstance(why, Ignore) else plan.deferred
            told.append(rejected(item, str(why)))
            remaining.pop(position)
            if draft.changes != before:
                # Part of it is in the draft already: begin again without it.
                draft, position = Draft(world, now), 0
                for outcomes in (plan.applied, plan.known, plan.ignored):
                    outcomes.clear()
            continue
        else:
            changed = plan.applied if draft.changes != before else plan.known
            (plan.ignored if outcome.reason else changed).append(outcome)
        position += 1
    if missing:
        raise missing
    plan.ignored += ignored
    return _completed(plan, draft)


def _completed(plan: Plan, draft: Draft) -> Plan:
    plan.writes = draft.writes()
    plan.released = draft.released()
    plan.grown = draft.grown
    return plan


def plan_claim(world: World, fw_ids: Iterable[int], now: datetime) -> Plan:
    """Return the writes to the workflows of Fireworks that have just become RESERVED."""
    draft = Draft(world, now)
    for fw_id in fw_ids:
        draft.mirror_state(fw_id, "RESERVED")
    return Plan(writes=draft.writes())


def plan_refresh(world: World, fw_ids: Iterable[int], now: datetime) -> Plan:
    """Return the writes that bring workflows in line with Fireworks of theirs.

    The state of one that has no launch follows from its parents; what has begun stays as it is, so that no action
    is applied again. One that cannot be looked at is left out.
    """
    plan = Plan()
    draft = Draft(world, now)
    for fw_id in fw_ids:
        try:
            firework = draft.firework(fw_id)
            if firework["launches"]:
                draft.mirror_state(fw_id, firework["state"])
            else:
                draft.refresh(fw_id)
        except (Ignore, Defer) as why:
            plan.deferred.append(Outcome(0, fw_id, reason=str(why)))
    return _completed(plan, draft)


def plan_share(world: World, duplicates: Mapping[int, Iterable[int]], now: datetime) -> Plan:
    """Return the writes that give READY Fireworks the launches of those that they duplicate.

    Their state then follows from these launches, as ``LaunchPad._steal_launches`` has it. Both workflows
    must be locked: a launch that ends meanwhile would not know of its new owner. Ignored are those that are no
    duplicates any more.
    """

    def play(draft: Draft, fw_id: int) -> Outcome:
        return Outcome(0, fw_id, _share(draft, fw_id, duplicates[fw_id]))

    def rejected(fw_id: int, reason: str) -> Outcome:
        return Outcome(0, fw_id, reason=reason)

    return _played(world, now, list(duplicates), play, rejected)


def _share(draft: Draft, fw_id: int, originals: Iterable[int]) -> str:
    draft.flow(fw_id)
    firework = draft.firework(fw_id)
    if firework["state"] != "READY":
        raise Ignore(f"Firework {fw_id} is {firework['state']}, not READY")
    shared: dict[int, None] = {}
    for original in originals:
        draft.flow(original)
        shared.update(dict.fromkeys(draft.firework(original)["launches"]))
    if not shared:
        raise Ignore(f"what Firework {fw_id} duplicates has been rerun")
    draft.change_firework(fw_id, launches=list(dict.fromkeys([*firework["launches"], *shared])))
    draft.refresh(fw_id)
    return str(draft.firework(fw_id)["state"])


def plan_cancel(
    world: World,
    launch_ids: Iterable[int],
    now: datetime,
    vanished: Mapping[int, str] = MappingProxyType({}),
) -> Plan:
    """Return the writes that take reservations back: READY again, the launch archived, the run retired.

    ``vanished`` tells of launches whose job was lost before it began what the queue said; it is kept in their
    history, so that the next loss of the same Firework can be counted.
    """

    def fw_id_of(launch_id: int) -> int | None:
        launch = world.launches.get(launch_id)
        return launch["fw_id"] if launch else None

    def play(draft: Draft, launch_id: int) -> Outcome:
        _cancel(draft, launch_id, vanished.get(launch_id))
        return Outcome(launch_id, fw_id_of(launch_id), "READY")

    def rejected(launch_id: int, reason: str) -> Outcome:
        return Outcome(launch_id, fw_id_of(launch_id), reason=reason)

    return _played(world, now, list(dict.fromkeys(launch_ids)), play, rejected)


def _cancel(draft: Draft, launch_id: int, vanished: str | None) -> None:
    launch = draft.world.launches.get(launch_id)
    if launch is None:
        raise Ignore(f"launch {launch_id} is not in the database")
    if launch["state"] != "RESERVED":
        raise Ignore(f"launch {launch_id} is {launch['state']}, not RESERVED")
    owners = draft.owners(launch_id)
    for fw_id in owners:
        draft.flow(fw_id)
    entry: Document = {"state": "READY", "created_on": iso(draft.now)}
    if vanished is not None:
        entry[VANISHED] = vanished
    history = [*launch["state_history"], entry]
    times = histories.derived_times(history, draft.now)
    draft.change_launch(launch_id, state="READY", state_history=history, **times)
    for fw_id in owners:
        firework = draft.firework(fw_id)
        if firework["state"] != "RESERVED":
            continue
        draft.change_firework(
            fw_id,
            launches=[other for other in firework["launches"] if other != launch_id],
            archived_launches=[*firework["archived_launches"], launch_id],
        )
        draft.refresh(fw_id)
    draft.change_runs(launch_id, deprecated=True)


def _genuine(world: World, reports: Iterable[Report], foreign: list[Outcome]) -> Iterator[Report]:
    """Yield the reports that are of the launch they name; the others are ``foreign``, each told once."""
    for report in reports:
        try:
            _check_identity(world, report)
        except Ignore as why:
            outcome = _rejected(world, report, str(why))
            if outcome not in foreign:
                foreign.append(outcome)
        else:
            # A checkpoint only saves a later rerun some work.
            usable = actions.storable(report.checkpoint)
            yield report if usable else report._replace(checkpoint=None)


def _most_advanced(reports: Iterable[Report]) -> dict[int, Report]:
    best: dict[int, Report] = {}
    for report in reports:
        known = best.get(report.launch_id)
        if known is None or (report.final, report.ping_time or "") > (
            known.final,
            known.ping_time or "",
        ):
            best[report.launch_id] = report
    return best


def _rejected(world: World, report: Report, reason: str) -> Outcome:
    launch = world.launches.get(report.launch_id)
    return Outcome(report.launch_id, launch["fw_id"] if launch else report.fw_id, reason=reason)


def _apply(draft: Draft, report: Report) -> Outcome:
    launch = draft.world.launches[report.launch_id]
    owners = draft.owners(report.launch_id)
    if not owners:
        # An open run of a superseded launch would be offered for ever, and FireWorks would apply the
        # action of the newer launch again at each recovery (C16, W38).
        draft.change_runs(report.launch_id, deprecated=True)
        why = "the launch is archived: its Firework was rerun or cancelled meanwhile"
        return Outcome(report.launch_id, launch["fw_id"], reason=why)
    for fw_id in owners:
        draft.flow(fw_id)
    given_up = is_lost(launch)
    half = _is_half_recovered(draft, launch, owners, report)
    if launch["state"] in _OPEN or half or (given_up and disproves(report, launch)):
        for fw_id in owners:
            # One that has not begun yet does not end with its launch.
            if report.final and (given_up or draft.firework(fw_id)["state"] in ACTIVE):
                draft.require_children(fw_id)
        report = _applicable(draft, launch, owners, report)
        record(draft, launch, report)
        _mark_runs(draft, report, given_up)
        if given_up and not report.final:
            _live_on(draft, owners)
    elif report.final and launch["state"] != report.state and not given_up:
        raise Ignore(
            f"the launch is {launch['state']} in the database, the report says {report.state}"
        )
    draft.spent |= _spent(draft.world, launch, owners)
    for fw_id in owners:
        draft.refresh(fw_id)
    if report.final:
        draft.change_runs(report.launch_id, completed=True)
    return Outcome(report.launch_id, launch["fw_id"], report.state)


def _spent(world: World, launch: Document, owners: list[int]) -> set[int]:
    """Return the owners of a launch if its end was applied, and an older state written over it since.

    `lpad recover_offline` replaces launch and Fireworks by what it has read (FireWorks 2.1.4); what it has not read is
    that the job has ended meanwhile. The offline run, which it leaves alone, is completed with the end and not before.
    """
    runs = world.runs.get(launch["launch_id"], [])
    ended = any(run.get("completed") and not (run.get("fwagent") or {}).get("lost") for run in runs)
    return set(owners) if ended and launch["state"] in ACTIVE else set()


def _is_half_recovered(draft: Draft, launch: Document, owners: list[int], report: Report) -> bool:
    """Tell whether somebody has stored the end of a launch, and not yet its action.

    `lpad recover_offline` writes them one after the other (FireWorks 2.1.4, ``recover_offline``, ``complete_launch``);
    were the Firework ended in between, or after a kill there, its action would never be applied.
    """
    return (
        report.final
        and launch["state"] == report.state
        and launch.get("action") is None
        and any(draft.firework(fw_id)["state"] in ACTIVE for fw_id in owners)
    )


def _live_on(draft: Draft, owners: list[int]) -> None:
    """Let Fireworks run again that were FIZZLED; children that their failure has released wait again."""
    for fw_id in owners:
        draft.refresh(fw_id)
        flow = draft.flow(fw_id)
        for child in flow.children(fw_id):
            if flow.state(child) == "READY":
                draft.refresh(child)


def _mark_runs(draft: Draft, report: Report, given_up: bool) -> None:
    """Keep in the offline runs whether the launch is lost: of such a launch a report may still come.

    To FireWorks the run is completed: its `lpad recover_offline` would say RUNNING of what has ended.
    """
    lost = report.final and facts_of(report.fwaction) is not None
    if lost or given_up:
        since = iso(draft.now) if lost else None
        fields: dict[str, bool | str | None] = {"completed": bool(report.final), LOST: since}
        draft.change_runs(report.launch_id, **fields)


def _check_identity(world: World, report: Report) -> None:
    launch = world.launches.get(report.launch_id)
    if launch is None:
        raise Ignore("the launch is not in this database")
    runs = world.runs.get(report.launch_id, [])
    if report.fw_id not in (None, launch["fw_id"]):
        raise Ignore(f"the report is of Firework {report.fw_id}, the launch of {launch['fw_id']}")
    tokens = {run.get("fwagent", {}).get("token") for run in runs} - {None}
    if tokens and report.token not in tokens:
        raise Ignore("the token is not the one that was given to this launch")
    if runs and all(run["deprecated"] for run in runs):
        raise Ignore("the offline run is retired (rerun, lpad forget_offline, or declared lost)")


def _applicable(draft: Draft, launch: Document, owners: list[int], report: Report) -> Report:
    """Return the report with a whole action, or the FIZZLED one that it is if its action is unusable.

    Whether it can be applied is for the Firework that has run to say. One of its duplicates to whose workflow it
    cannot be applied is FIZZLED alone.
    """
    if not report.final:
        return report
    try:
        action = actions.normalized(report.fwaction or {})
    except InvalidAction as error:
        return _fizzled(report, f"the action cannot be stored: {error}")
    try:
        # What FireWorks cannot load is not stored where it loads it, whoever applies it.
        if report.state != "COMPLETED":
            check_loadable(action)
        elif _has_a_say(draft, launch, owners):
            draft.check_action(launch["fw_id"], action)
        else:
            growths_of(action, launch["fw_id"])
    except InvalidAction as error:
        if report.state == "COMPLETED":
            return _fizzled(report, f"the action cannot be applied: {error}", action)
        action = actions.without_growth(action)
    return report._replace(fwaction=action)


def _has_a_say(draft: Draft, launch: Document, owners: list[int]) -> bool:
    """Tell whether the Firework that has run applies its action: a held one only once it is let go."""
    if launch["fw_id"] not in owners:
        return False
    state = draft.firework(launch["fw_id"])["state"]
    return state != "COMPLETED" and (state not in HELD or len(owners) == 1)


def _fizzled(report: Report, message: str, action: Document | None = None) -> Report:
    failure = actions.failure(message)
    if action is not None:
        # What the job computed stays readable where people look for its failure.
        failure["stored_data"]["_action"] = action
    return report._replace(state="FIZZLED", fwaction=failure)


def record(draft: Draft, launch: Document, report: Report) -> None:
    """Write into the draft of a launch what a report tells of it alone."""
    if report.final and launch["state"] == report.state and not is_lost(launch):
        # All but its action is there.
        draft.change_launch(report.launch_id, action=report.fwaction)
        return
    before = launch["state_history"]
    known = histories.reopened(before) if is_lost(launch) else before
    history = histories.started(known, report)
    if report.final:
        history = histories.ended(history, report, draft.now)
    fields = histories.derived_times(history, draft.now)
    if launch["state"] != report.state:
        fields |= followed(launch, report)
    if report.final or is_lost(launch):
        fields["action"] = report.fwaction
    draft.change_launch(report.launch_id, state=report.state, state_history=history, **fields)
