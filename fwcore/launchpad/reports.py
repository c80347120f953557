"""The way back into the database: applying reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from fwcore.growth import count_added
from fwcore.launchpad.journal import Fenced, Overtaken
from fwcore.launchpad.records import BATCH, Applied, Track
from fwcore.launchpad.runs import OPEN, OfflineRuns
from fwcore.launchpad.session import batches
from fwcore.plan import Outcome, Plan, is_heartbeat, plan_heartbeats, plan_reports
from fwcore.states import ACTIVE, FINAL
from fwcore.world import World, Write
from fwrunner.protocol import Report

Document = dict[str, Any]


class Reports(OfflineRuns):
    """Applies reports."""

    def apply(self, reports: Iterable[Report], *, track: Track | None = None) -> Applied:
        """Bring reports into the database: one lock, read, plan, write, unlock for a whole batch.

        ``track`` is asked for the launches that have not ended and have trackers; what it gives is stored
        together with what else their reports tell. A report that cannot be understood, or whose documents cannot,
        is deferred: the others are applied without it.
        """
        result = Applied()
        with self._reaching():
            self._finish_own()
            for batch in batches(list(reports), BATCH):
                self._apply_batch(batch, track, result)
        return result

    def close_ended(self, launch_ids: Iterable[int]) -> Applied:
        """Complete the open offline runs of launches that have ended: somebody else has run them (`rlaunch -f`).

        What was left half done then is carried on, as if their reports were applied again. FireWorks' recovery
        would FIZZLE them, for the files that it looks for are not where they ran.
        """
        with self._reaching():
            open_runs = {"launch_id": {"$in": list(launch_ids)}, **OPEN}
            wanted = {"launch_id": 1, "fwagent": 1}
            runs = {run["launch_id"]: run for run in self._db.offline_runs.find(open_runs, wanted)}
            launches = self._by_id("launches", "launch_id", runs) if runs else {}
            half = self._without_action(launches)
        return self.apply(
            Report(
                launch_id=launch_id,
                state=launch["state"],
                launch_dir=launch["launch_dir"],
                token=(runs[launch_id].get("fwagent") or {}).get("token"),
            )
            for launch_id, launch in launches.items()
            if launch["state"] in FINAL and launch_id not in half
        )

    def _without_action(self, launches: Mapping[int, Document]) -> set[int]:
        """Return those whose action somebody is about to store, or was killed before: their files have it."""
        bare = [
            launch_id
            for launch_id, launch in launches.items()
            if launch["state"] == "COMPLETED" and launch.get("action") is None
        ]
        return self._counted_on(bare) if bare else set()

    def _apply_batch(self, reports: list[Report], track: Track | None, result: Applied) -> None:
        launches: dict[int, Document] = {}
        beats: list[Report] = []
        rest: list[Report] = []

        def sort(part: list[Report]) -> None:
            wanted = {report.launch_id for report in part}
            launches.update(self._by_id("launches", "launch_id", wanted))
            told = [_told(report, launches.get(report.launch_id), track) for report in part]
            beats.extend(report for report, is_beat in told if is_beat)
            rest.extend(report for report, is_beat in told if not is_beat)

        def beat(part: list[Report]) -> None:
            result.extend(self._apply_beats(part, launches))

        def change(part: list[Report]) -> None:
            result.extend(self._applied(part))

        def defer(report: Report, reason: str) -> None:
            result.deferred.append(Outcome(report.launch_id, report.fw_id, reason=reason))

        self._in_parts(reports, sort, defer)
        self._in_parts(beats, beat, defer)
        self._in_parts(rest, change, defer)

    def _apply_beats(self, reports: list[Report], launches: dict[int, Document]) -> Plan:
        world = World(launches=launches)
        launch_ids = {report.launch_id for report in reports}
        # A job whose Firework was rerun lives on for a while; its run must not.
        self._retire_superseded(launch_ids)
        self._read_runs(world, launch_ids)
        plan = plan_heartbeats(world, reports)
        self._tell_of_life(self._fitting(launches, plan.writes))
        return plan

    def _applied(self, reports: list[Report]) -> Plan:
        try:
            return self._again(partial(self._apply_locked, reports))
        except Overtaken as error:
            why = error.title
            return Plan(deferred=[Outcome(r.launch_id, r.fw_id, reason=why) for r in reports])

    def _tell_of_life(self, writes: list[Write]) -> None:
        """Make the writes of heartbeats, which need no lock, but the lease where there is one."""
        if self._lease is None or not writes:
            self._execute(writes, "")
            return
        self.keep_alive()
        fence = self._in_force()
        self._execute([replace(write, filter={**write.filter, **fence}) for write in writes], "")
        self._check_lease()

    def _apply_locked(self, reports: list[Report]) -> Plan:
        launch_ids = list({report.launch_id for report in reports})
        owners = self._owners(launch_ids)
        with self._locked(owners) as (token, world):
            ending = {report.launch_id for report in reports if report.final}
            self._read(world, owners, launch_ids, children=bool(ending))
            world.new_ids += self._new_fw_ids(_added(world, reports))
            plan = self._planned(world, partial(plan_reports, world, reports, self._clock()))
            plan.writes = self._fitting(world.launches, plan.writes)
            try:
                self._commit(plan, token)
            except Fenced:
                # What was stored for it in vain may be of no use to anybody.
                self._drop_superseded(plan.writes)
                raise
            return plan


def _told(report: Report, launch: Document | None, track: Track | None) -> tuple[Report, bool]:
    """Return a report with what the files that its launch tracks hold now, and whether it is a heartbeat."""
    if launch is None:
        return report, False
    if track and launch.get("trackers") and launch["state"] in ACTIVE:
        report = report._replace(trackers={**(report.trackers or {}), **track(launch)})
    return report, is_heartbeat(launch, report)


def _added(world: World, reports: list[Report]) -> int:
    """Return how many Fireworks reports will add: those of launches that have ended have been added."""
    launches = world.launches
    news = [
        report
        for report in reports
        if report.launch_id in launches
        and (
            launches[report.launch_id]["state"] in ACTIVE
            or launches[report.launch_id].get("action") is None
        )
        and launches[report.launch_id]["fw_id"] not in world.refused
    ]
    return sum(count_added(report.fwaction) for report in news)
