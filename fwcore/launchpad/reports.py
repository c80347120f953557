"""The way back into the database: applying reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import bson

from fwcore.growth import count_added
from fwcore.launchpad.records import BATCH, Applied
from fwcore.launchpad.session import Session, batches
from fwcore.plan import Outcome, Plan, is_heartbeat, plan_heartbeats, plan_reports
from fwcore.world import World, Write
from fwrunner.protocol import Report

Document = dict[str, Any]


#: Bytes of the largest action and checkpoint that fit into a launch: MongoDB's 16 MiB less the rest.
MAX_ACTION_SIZE = 15 * 1024 * 1024


class Reports(Session):
    """Applies reports."""

    def apply(self, reports: Iterable[Report]) -> Applied:
        """Bring reports into the database: one lock, read, plan, write, unlock for a whole batch."""
        result = Applied()
        with self._reaching():
            self._finish_own()
            for batch in batches(list(reports), BATCH):
                storable, too_large = _split_by_size(batch)
                result.deferred += too_large
                result.extend(self._apply_batch(storable))
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
            self._tell_of_life(plan.writes)
            result.extend(plan)
        if rest:
            result.extend(self._apply_locked(rest))
        return result

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
            self._commit(plan, token)
            return plan


def _split_by_size(reports: list[Report]) -> tuple[list[Report], list[Outcome]]:
    storable, too_large = [], []
    for report in reports:
        size = _stored_size(report)
        if size <= MAX_ACTION_SIZE:
            storable.append(report)
        else:
            reason = f"its result of {size} bytes does not fit into a MongoDB document"
            too_large.append(Outcome(report.launch_id, report.fw_id, reason=reason))
    return storable, too_large


def _stored_size(report: Report) -> int:
    try:
        return len(bson.encode(cast(Document, {"a": report.fwaction, "c": report.checkpoint})))
    except (bson.errors.InvalidDocument, OverflowError, UnicodeEncodeError):
        # The plan finds the place and says so.
        return 0
