"""The way back into the database: applying reports."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from fwcore.growth import count_added
from fwcore.launchpad.journal import Fenced
from fwcore.launchpad.records import BATCH, Applied
from fwcore.launchpad.session import Session, batches
from fwcore.plan import Plan, is_heartbeat, plan_heartbeats, plan_reports
from fwcore.world import World
from fwrunner.protocol import Report

Document = dict[str, Any]


class Reports(Session):
    """Applies reports."""

    def apply(self, reports: Iterable[Report]) -> Applied:
        """Bring reports into the database: one lock, read, plan, write, unlock for a whole batch."""
        result = Applied()
        with self._reaching():
            self._finish_own()
            for batch in batches(list(reports), BATCH):
                result.extend(self._apply_batch(batch))
        return result

    def _apply_batch(self, reports: list[Report]) -> Applied:
        launches = self._by_id("launches", "launch_id", {report.launch_id for report in reports})
        beats: list[Report] = []
        rest: list[Report] = []
        for report in reports:
            launch = launches.get(report.launch_id)
            (beats if launch and is_heartbeat(launch, report) else rest).append(report)
        result = Applied()
        if beats:
            world = World(launches=launches)
            self._read_runs(world, {report.launch_id for report in beats})
            plan = plan_heartbeats(world, beats)
            self._execute(self._fitting(launches, plan.writes), "")
            result.extend(plan)
        if rest:
            result.extend(self._apply_locked(rest))
        return result

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
