"""The way out: claim, stage, submit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agent.config import Config
from agent.queue import Queue
from agent.results import Result
from agent.stage import Placement, StageError, earlier_launch, prepare_root, stage
from fwcore.errors import DatabaseUnreachable, FwagentError
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Claim
from fwcore.worker import Worker


class WayOut:
    """Claims READY Fireworks, stages their launch directories and submits their jobs."""

    def __init__(self, launchpad: LaunchPad, config: Config, queue: Queue, worker: Worker) -> None:
        self._launchpad = launchpad
        self._config = config
        self._queue = queue
        self._worker = worker

    def capacity(self) -> int:
        """Return how many more jobs may be in the queue."""
        depth = self._queue.depth()
        if depth is None:
            depth = self._launchpad.active_count(self._worker.name)["RESERVED"]
        return max(0, self._config.launch.max_queued - depth)

    def launch(
        self,
        n: int,
        result: Result,
        *,
        fw_ids: Iterable[int] | None = None,
        stage_only: bool = False,
    ) -> None:
        """Launch up to ``n`` Fireworks. What could not be staged or submitted is READY again."""
        if n <= 0:
            return
        outbox = prepare_root(self._config.launch.root)
        place = Placement(self._config.launch.root)
        claims = self._launchpad.claim(self._worker, n, fw_ids=fw_ids, place=place, hold=True)
        try:
            staged = self._stage(claims, outbox, result)
            self._launchpad.open_runs((claim for claim, _script in staged), by_hand=stage_only)
            for claim, _script in staged:
                result.claim(claim)
            if not stage_only:
                self._submit(staged, result)
        except BaseException:
            self._launchpad.abandon()
            raise
        self._launchpad.settle()

    def tell_passed_over(self, result: Result) -> None:
        """Note the Fireworks that the last claim could not understand, as far as it got to see any."""
        for fw_id, reason in self._launchpad.passed_over.items():
            result.defer(None, fw_id, f"Firework {fw_id} cannot be launched: {reason}")

    def _stage(self, claims: list[Claim], outbox: Path, result: Result) -> list[tuple[Claim, Path]]:
        staged = []
        for claim in claims:
            self._launchpad.keep_alive()
            try:
                self._refuse_occupied(claim)
                script = stage(claim, outbox, self._config.runner, self._config.sync.ping_interval)
            except StageError as error:
                self._take_back(claim, error, result)
            else:
                staged.append((claim, script))
        return staged

    def _refuse_occupied(self, claim: Claim) -> None:
        # Its report may be in no other place than the files that staging replaces.
        earlier = earlier_launch(Path(claim.launch_dir), claim)
        if earlier is not None and self._launchpad.active_launches([earlier]):
            raise StageError(
                f"{claim.launch_dir} is in use by launch {earlier}, whose end is not in the database",
                "give the Fireworks different `_launch_dir`s, or wait",
            )

    def _submit(self, staged: list[tuple[Claim, Path]], result: Result) -> None:
        job_ids = {}
        for claim, script in staged:
            self._launchpad.keep_alive()
            try:
                job_id = self._queue.submit(script, claim.launch_id, claim.firework["name"])
            except FwagentError as error:
                self._take_back(claim, error, result)
                continue
            if job_id is not None:
                job_ids[claim.launch_id] = job_id
                result.submitted.append(
                    {"launch_id": claim.launch_id, "fw_id": claim.fw_id, "job_id": job_id}
                )
        self._launchpad.record_jobs(job_ids)

    def _take_back(self, claim: Claim, error: FwagentError, result: Result) -> None:
        if isinstance(error, DatabaseUnreachable):
            raise error
        self._launchpad.cancel([claim.launch_id])
        result.claimed = [
            entry for entry in result.claimed if entry["launch_id"] != claim.launch_id
        ]
        result.defer(claim.launch_id, claim.fw_id, error.title)
