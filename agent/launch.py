"""The way out: claim, stage, submit."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from agent.config import Config
from agent.jobs import LimitReached, QueueSilent, Rejected, Submission, Submitted
from agent.queue import Queue
from agent.queue.script import Scripts, slug
from agent.results import Result
from agent.stage import Placement, StageError, earlier_launch, prepare_root, stage
from fwcore.action import failure
from fwcore.errors import DatabaseUnreachable, FwagentError
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Claim
from fwcore.states import ACTIVE
from fwcore.worker import Worker
from fwrunner.protocol import Report, timestamp

#: Jobs whose ids are stored at once.
RECORD_EVERY = 100
#: Launches in one claim.
MOST_AT_ONCE = 5000
#: Seconds for which the launch root is taken to be as it was seen: ten ends a second ask ten times for what is READY.
SEEN_SECONDS = 2.0
#: Seconds for which launches that nothing counts on are taken to be as many as they were.
STRAY_SECONDS = 60.0
#: The kind of trouble (`LaunchPad.count_trouble`) of a Firework whose script is refused.
REJECTED = "rejected"
#: Refusals of a Firework's script in a row after which it FIZZLES.
REJECTED_TIMES = 3


class _Staged(NamedTuple):
    claim: Claim
    script: Path


class WayOut:
    """Claims READY Fireworks, stages their launch directories and submits their jobs."""

    def __init__(self, launchpad: LaunchPad, config: Config, queue: Queue, worker: Worker) -> None:
        self._launchpad = launchpad
        self._config = config
        self._queue = queue
        self._worker = worker
        self._scripts = Scripts(config)
        # Whether something of the claim in hand is left to a later `resume`.
        self._doubt = False
        # Launches at once: each one that the queue has no room for is a reservation made and taken back.
        self._burst = MOST_AT_ONCE
        self._full = False
        # The outbox, the names for launch directories, and until when both are taken as they were seen.
        self._root: tuple[Path, Placement, float] | None = None
        self._strays: Mapping[str, int] = {}
        self._strays_until = 0.0
        #: Whether the last launch has found the queue full, and nothing else in its way.
        self.crowded = False

    def capacity(self) -> int:
        """Return how many more jobs may be in the queue.

        Of a batch queue it is known without asking: what this worker has RESERVED or RUNNING. Where nobody but the
        user submits, jobs that run are no longer in the queue.
        """
        limit, most = self._config.launch.max_queued, self._config.launch.max_running
        depth = self._queue.depth()
        if depth is not None:
            return max(0, limit - depth)
        # A batch queue starts its jobs when it likes: as many as there are may run at once.
        limit = min(limit, most) if most and self._queue.lists else limit
        states = ("RESERVED", "RUNNING") if self._queue.lists else ("RESERVED",)
        active = self._launchpad.active_count(self._worker.name)
        said = sum(active[state] for state in states)
        strays = self._stray_count(full=said >= limit)
        return max(0, limit - said + sum(strays[state] for state in states))

    def _stray_count(self, *, full: bool) -> Mapping[str, int]:
        """Return how many launches only say that they are active; asks, which is dear, only where there is no room."""
        now = time.monotonic()
        if now < self._strays_until:
            return self._strays
        self._strays = dict.fromkeys(ACTIVE, 0)
        if full:
            self._strays = self._launchpad.stray_count(self._worker.name)
            self._strays_until = now + STRAY_SECONDS
        return self._strays

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
        outbox, place = self._places()
        self._doubt = self._full = self.crowded = False
        n = min(n, self._burst)
        claims = self._launchpad.claim(self._worker, n, fw_ids=fw_ids, place=place, hold=True)
        try:
            staged = self._stage(claims, outbox, result)
            self._launchpad.open_runs((item.claim for item in staged), by_hand=stage_only)
            for item in staged:
                result.claim(item.claim)
            if not stage_only:
                self._submit(staged, result)
        except BaseException:
            self._launchpad.abandon()
            raise
        self._burst = 1 if self._full else min(2 * self._burst, MOST_AT_ONCE)
        if self._doubt:
            self._launchpad.postpone()
        else:
            self._launchpad.settle()

    def _places(self) -> tuple[Path, Placement]:
        """Return the outbox and the names for launch directories; raise StageError for a root that cannot be used."""
        if self._root is None or time.monotonic() >= self._root[2]:
            self._root = None
            root = self._config.launch.root
            self._root = prepare_root(root), Placement(root), time.monotonic() + SEEN_SECONDS
        return self._root[:2]

    def tell_passed_over(self, result: Result) -> None:
        """Note the Fireworks that the last claim could not understand, as far as it got to see any."""
        for fw_id, reason in self._launchpad.passed_over.items():
            result.defer(None, fw_id, f"Firework {fw_id} cannot be launched: {reason}")

    def _stage(self, claims: list[Claim], outbox: Path, result: Result) -> list[_Staged]:
        staged: list[_Staged] = []
        back: list[tuple[Claim, FwagentError]] = []
        for claim in claims:
            self._launchpad.keep_alive()
            try:
                self._refuse_occupied(claim)
                text = self._scripts.text(claim)
                script = stage(claim, outbox, text, self._config.sync.ping_interval)
            except (StageError, Rejected) as error:
                self._root = None  # it is no longer as it was seen
                back.append((claim, error))
            else:
                staged.append(_Staged(claim, script))
        self._not_launched(back, result)
        return staged

    def _refuse_occupied(self, claim: Claim) -> None:
        # Its report may be in no other place than the files that staging replaces.
        earlier = earlier_launch(Path(claim.launch_dir), claim)
        if earlier is not None and self._launchpad.active_launches([earlier]):
            raise StageError(
                f"{claim.launch_dir} is in use by launch {earlier}, whose end is not in the database",
                "give the Fireworks different `_launch_dir`s, or wait",
            )

    def _submit(self, staged: list[_Staged], result: Result) -> None:
        claims = {item.claim.launch_id: item.claim for item in staged}
        job_ids: dict[int, str] = {}
        back: list[tuple[Claim, FwagentError]] = []
        kinds: set[type[FwagentError]] = set()
        for outcome in self._queue.submit_all(
            self._submissions(staged), self._launchpad.keep_alive
        ):
            claim = claims[outcome.launch_id]
            if outcome.error is not None:
                kinds.add(type(outcome.error))
            if outcome.doubtful:
                self._doubt = True
                result.defer(claim.launch_id, claim.fw_id, _doubt(outcome))
            elif outcome.error is not None:
                self._full |= isinstance(outcome.error, (LimitReached, QueueSilent))
                back.append((claim, outcome.error))
            elif outcome.job_id is not None:
                job_ids[claim.launch_id] = outcome.job_id
                result.submitted.append(
                    {
                        "launch_id": claim.launch_id,
                        "fw_id": claim.fw_id,
                        "job_id": outcome.job_id,
                    }
                )
            if len(job_ids) >= RECORD_EVERY:
                self._record(job_ids, claims)
        self._record(job_ids, claims)
        self.crowded = kinds == {LimitReached}
        self._not_launched(back, result)

    def _submissions(self, staged: list[_Staged]) -> list[Submission]:
        return [
            Submission(
                item.claim.launch_id,
                item.script,
                slug(str(item.claim.firework.get("name") or "")),
                self._scripts.array_text(item.claim),
            )
            for item in staged
        ]

    def _record(self, job_ids: dict[int, str], claims: Mapping[int, Claim]) -> None:
        self._launchpad.record_jobs(job_ids)
        self._launchpad.forget_trouble(REJECTED, [claims[number].fw_id for number in job_ids])
        job_ids.clear()

    def _not_launched(self, failed: list[tuple[Claim, FwagentError]], result: Result) -> None:
        """Take back the reservations of launches that certainly have no job; FIZZLE what is refused for good."""
        for _claim, error in failed:
            if isinstance(error, DatabaseUnreachable):
                raise error
        rejected = {
            claim.fw_id: str(error) for claim, error in failed if isinstance(error, Rejected)
        }
        counts = self._launchpad.count_trouble(REJECTED, rejected)
        hopeless = [pair for pair in failed if counts.get(pair[0].fw_id, 0) >= REJECTED_TIMES]
        self._fizzle(hopeless, result)
        back = [pair for pair in failed if pair not in hopeless]
        if not back:
            return
        launch_ids = {claim.launch_id for claim, _error in back}
        if self._launchpad.cancel(launch_ids).deferred:
            self._doubt = True
        result.claimed = [entry for entry in result.claimed if entry["launch_id"] not in launch_ids]
        for claim, error in back:
            result.defer(claim.launch_id, claim.fw_id, error.title)

    def _fizzle(self, failed: list[tuple[Claim, FwagentError]], result: Result) -> None:
        if not failed:
            return
        self._launchpad.open_runs(claim for claim, _error in failed)
        reports = [
            Report(
                claim.launch_id,
                "FIZZLED",
                claim.launch_dir,
                claim.fw_id,
                claim.token,
                completed_on=timestamp(),
                fwaction=failure(f"not submitted, refused {REJECTED_TIMES} times: {error.title}"),
            )
            for claim, error in failed
        ]
        applied = self._launchpad.apply(reports)
        result.take(applied)
        settled = {outcome.fw_id for outcome in applied.applied if outcome.fw_id is not None}
        self._launchpad.forget_trouble(REJECTED, settled)
        # What could not be written now is taken back, and counted on.
        left = {claim.launch_id for claim, _error in failed if claim.fw_id not in settled}
        if left and self._launchpad.cancel(left).deferred:
            self._doubt = True


def _doubt(outcome: Submitted) -> str:
    said = outcome.error.title if outcome.error else "the queue does not answer"
    return f"it is looked up later whether the queue has its job: {said}"
