"""The way back into the database: applying reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from fwcore.growth import count_added
from fwcore.launchpad.journal import Fenced, Overtaken
from fwcore.launchpad.records import BATCH, Applied, Track
from fwcore.launchpad.session import Session, batches
from fwcore.plan import Outcome, Plan, is_heartbeat, plan_heartbeats, plan_reports
from fwcore.states import ACTIVE
from fwcore.world import World, Write
from fwrunner.protocol import Report

Document = dict[str, Any]


class Reports(Session):
    """Applies reports."""

    def apply(self, reports: Iterable[Report], *, track: Track | None = None) -> Applied:
        """Bring reports into the database: one lock, read, plan, write, unlock for a whole batch.

        ``track`` is asked for the launches that have not ended and have trackers; what it gives is stored
        together with what else their reports tell.
        """
        result = Applied()
        with self._reaching():
            self._finish_own()
            for batch in batches(list(reports), BATCH):
                result.extend(self._apply_batch(batch, track))
        return result

    def _apply_batch(self, reports: list[Report], track: Track | None) -> Applied:
        launches = self._by_id("launches", "launch_id", {report.launch_id for report in reports})
        beats: list[Report] = []
        rest: list[Report] = []
        for report in reports:
            launch = launches.get(report.launch_id)
            told = _tracking(report, launch, track) if launch and track else report
            (beats if launch and is_heartbeat(launch, report) else rest).append(told)
        result = Applied()
        if beats:
            world = World(launches=launches)
            self._read_runs(world, {report.launch_id for report in beats})
            plan = plan_heartbeats(world, beats)
            self._tell_of_life(self._fitting(launches, plan.writes))
            result.extend(plan)
        if rest:
            result.extend(self._applied(rest))
        return result

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
            world.new_ids += self._new_fw_ids(sum(count_added(r.fwaction) for r in reports))
            plan = self._planned(world, partial(plan_reports, world, reports, self._clock()))
            plan.writes = self._fitting(world.launches, plan.writes)
            try:
                self._commit(plan, token)
            except Fenced:
                # What was stored for it in vain may be of no use to anybody.
                self._drop_superseded(plan.writes)
                raise
            return plan


def _tracking(report: Report, launch: Document, track: Track) -> Report:
    """Return a report with what the files that its launch tracks hold now."""
    if not launch.get("trackers") or launch["state"] not in ACTIVE:
        return report
    return report._replace(trackers={**(report.trackers or {}), **track(launch)})
