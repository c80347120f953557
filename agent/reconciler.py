"""Asking queue, database and files what became of the jobs, and carrying out what ``agent.reconcile`` decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agent.config import Config
from agent.jobs import NotWaitedFor, QueueSilent
from agent.notes import Notes, entry_of
from agent.queue import Queue
from agent.reconcile import (
    Files,
    Memory,
    Rules,
    Verdict,
    View,
    absent,
    decide,
    followed,
    questions,
    tagged,
)
from agent.recover import WayBack, signature
from agent.results import Result
from agent.tails import last_words
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import JobRecord
from fwcore.lost import lost_action
from fwcore.plan import Outcome
from fwrunner.protocol import (
    OFFLINE_JSON,
    STAGED,
    NotYet,
    Report,
    read_report,
)

_STARTED = ".started.json"


class Reconciler:
    """Compares the queue with the database and the files, once per call."""

    def __init__(
        self,
        launchpad: LaunchPad,
        queue: Queue,
        way_back: WayBack,
        config: Config,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._launchpad = launchpad
        self._queue = queue
        self._way_back = way_back
        self._clock = clock
        self._private = config.private
        self._max_size = config.sync.max_report_size
        sync = config.sync
        self._rules = Rules(
            worker=config.fworker().name,
            scheduler=config.queue.type,
            queue=launchpad.queue_name,
            lost=sync.lost,
            lost_after=sync.lost_after,
            lost_reruns=sync.lost_reruns,
            ping_interval=sync.ping_interval,
            cancel_defused=config.queue.cancel_defused,
        )
        self._notes = Notes(config.own(launchpad.where))
        self._recalled = False

    def run(self, result: Result) -> None:
        """List the queue, and settle what is to be settled.

        Without a batch queue there is nothing to ask. Raises QueueSilent, with nothing done, when the queue does not
        answer; `status` then tells so.
        """
        if self._rules.scheduler == "none":
            return
        try:
            self._settle(result)
        except NotWaitedFor:
            raise
        except QueueSilent as error:
            self._notes.silence(error.title)
            raise

    def _settle(self, result: Result) -> None:
        self._queue.tend()
        if not self._recalled:
            self._notes.recall(self._launchpad.identity())
            self._recalled = True
        view = self._look()
        memory = followed(self._notes.memory, view, self._rules)
        view = self._ask(view, memory)
        verdicts, after = decide(view, memory, self._rules)
        losses = {each.launch_id for each in verdicts if each.kind not in ("adopt", "cancel")}
        if losses:
            view = self._look_again(view, losses, result)
            verdicts, after = decide(view, memory, self._rules)
        self._carry_out(verdicts, view, result)
        self._notes.keep(after, verdicts)

    # ------------------------------------------------------------------------------ asking

    def _look(self) -> View:
        """Ask queue, database and files, in this order: what is submitted in between is in the database only."""
        listing = self._queue.listing()
        jobs = self._launchpad.active_jobs(self._rules.worker)
        known = {job.launch_id for job in jobs}
        strays = self._launchpad.jobs_of(tagged(listing).keys() - known)
        view = View(self._clock(), listing, jobs, strays)
        return replace(view, files=self._files(absent(view, self._rules)))

    def _ask(self, view: View, memory: Memory) -> View:
        """Ask what is needed for a verdict alone."""
        ripe = questions(memory, view, self._rules)
        if not ripe:
            return view
        ids = sorted({job.job_id for job in ripe if job.job_id is not None})
        return replace(
            view,
            ends=self._queue.ends(ids) if ids else {},
            setbacks=self._launchpad.setbacks({job.fw_id for job in ripe}),
            files={**view.files, **self._files(ripe, closely=True)},
        )

    def _look_again(self, view: View, wanted: set[int], result: Result) -> View:
        """Let the way back bring home what there is of some launches, and look anew at what is left."""
        places = self._places([job for job in view.jobs if job.launch_id in wanted])
        self._way_back.recover(places, result)
        now = self._launchpad.jobs_of(wanted)
        jobs = [
            now.get(job.launch_id, job) if job.launch_id in wanted else job for job in view.jobs
        ]
        jobs = [job for job in jobs if job.state in ("RESERVED", "RUNNING") and job.fw_state]
        left = [job for job in jobs if job.launch_id in wanted]
        return replace(view, jobs=jobs, files={**view.files, **self._files(left, closely=True)})

    def _places(self, jobs: Iterable[JobRecord]) -> dict[int, str]:
        moved = self._launchpad.registered(self._rules.worker)
        return {job.launch_id: moved.get(job.launch_id, job.launch_dir) for job in jobs}

    def _files(self, jobs: list[JobRecord], *, closely: bool = False) -> dict[int, Files]:
        """Return what the files of launches look like; nothing while the launch root is away."""
        if not jobs or not (self._private / "outbox").is_dir():
            return {}
        waiting = self._way_back.told_of()
        found = {}
        for launch_id, place in self._places(jobs).items():
            files = self._files_of(launch_id, place, waiting.get(launch_id, []), closely=closely)
            if files is not None:
                found[launch_id] = files
        return found

    def _files_of(
        self, launch_id: int, place: str, waiting: list[str], *, closely: bool
    ) -> Files | None:
        try:
            Path(place).stat()
            there = True
        except (FileNotFoundError, NotADirectoryError):
            there = False
        except OSError:
            return None
        files = Files(
            signature=repr((signature(place), sorted(waiting))),
            there=there,
            started=bool(waiting),
            final=any(not name.endswith(_STARTED) for name in waiting),
        )
        if not there or not closely:
            return files
        report = read_report(place, self._max_size)
        if isinstance(report, NotYet):
            torn = report.reason != STAGED and (Path(place) / OFFLINE_JSON).exists()
            return replace(files, started=files.started or torn)
        if report.launch_id != launch_id:
            return files
        return replace(files, started=True, final=files.final or report.final, report=report)

    # --------------------------------------------------------------------------- carrying out

    def _carry_out(self, verdicts: list[Verdict], view: View, result: Result) -> None:
        chosen: dict[str, list[Verdict]] = {}
        for verdict in verdicts:
            chosen.setdefault(verdict.kind, []).append(verdict)
        if adopted := chosen.get("adopt"):
            self._launchpad.record_jobs({v.launch_id: str(v.job_id) for v in adopted})
            result.adopted += map(entry_of, adopted)
        if cancelled := chosen.get("cancel"):
            self._queue.cancel([str(verdict.job_id) for verdict in cancelled])
            result.cancelled += map(entry_of, cancelled)
        result.lost += [{**entry_of(each), "state": None} for each in chosen.get("report", [])]
        self._release(chosen.get("release", []), result)
        jobs = {job.launch_id: job for job in view.jobs}
        left = self._rerun(chosen.get("rerun", []), jobs, result)
        self._fizzle([*chosen.get("fizzle", []), *left], jobs, result)

    def _release(self, verdicts: list[Verdict], result: Result) -> None:
        if not verdicts:
            return
        why = {verdict.launch_id: verdict.reason for verdict in verdicts}
        applied = self._launchpad.cancel(why, vanished=why)
        self._tell(verdicts, applied.applied, result)
        self._defer(applied.deferred, result)
        result.released += applied.released

    def _fizzle(
        self, verdicts: list[Verdict], jobs: Mapping[int, JobRecord], result: Result
    ) -> None:
        if not verdicts:
            return
        applied = self._launchpad.apply(self._ends(verdicts, jobs, rerun=False))
        self._tell(verdicts, applied.applied, result)
        self._defer(applied.deferred, result)
        result.released += applied.released

    def _rerun(
        self, verdicts: list[Verdict], jobs: Mapping[int, JobRecord], result: Result
    ) -> list[Verdict]:
        """Rerun Fireworks; return what could only be ended."""
        if not verdicts:
            return []
        done = self._launchpad.rerun_lost(self._ends(verdicts, jobs, rerun=True))
        states = {change.fw_id: change.state for change in done.changed}
        skipped = {change.fw_id for change in done.skipped}
        outcomes = [
            Outcome(verdict.launch_id, verdict.fw_id, states[verdict.fw_id])
            for verdict in verdicts
            if verdict.fw_id in states
        ]
        self._tell(verdicts, outcomes, result)
        for change in done.deferred:
            result.defer(None, change.fw_id, f"its job is lost: {change.reason}")
        result.released += done.released
        return [verdict for verdict in verdicts if verdict.fw_id in skipped]

    def _ends(
        self, verdicts: list[Verdict], jobs: Mapping[int, JobRecord], *, rerun: bool
    ) -> list[Report]:
        """Return the reports that lost jobs would have left."""
        places = self._places(jobs[verdict.launch_id] for verdict in verdicts)
        found = []
        for verdict in verdicts:
            job = jobs[verdict.launch_id]
            told = last_words(places[job.launch_id], job.launch_id, job.job_id)
            facts = {**self._facts(verdict), **told, "rerun": rerun}
            known = verdict.files.report if verdict.files else None
            base = known or Report(job.launch_id, "RUNNING", job.launch_dir)
            found.append(
                base._replace(
                    state="FIZZLED",
                    fw_id=job.fw_id,
                    token=job.token,
                    completed_on=None,
                    fwaction=lost_action(verdict.reason, facts),
                )
            )
        return found

    def _facts(self, verdict: Verdict) -> dict[str, Any]:
        end = asdict(verdict.end) if verdict.end is not None else {}
        keys = ("state", "exit_code", "signal", "elapsed", "limit", "reason")
        told = {key: end.get(key) for key in keys}
        return {"scheduler": self._rules.scheduler, "job_id": verdict.job_id, **told}

    def _tell(self, verdicts: list[Verdict], outcomes: Iterable[Outcome], result: Result) -> None:
        by_launch = {verdict.launch_id: verdict for verdict in verdicts}
        result.lost += [
            {**entry_of(by_launch[outcome.launch_id]), "state": outcome.state}
            for outcome in outcomes
            if outcome.launch_id in by_launch
        ]

    def _defer(self, outcomes: Iterable[Outcome], result: Result) -> None:
        for outcome in outcomes:
            why = f"its job is lost: {outcome.reason}"
            result.defer(outcome.launch_id, outcome.fw_id, why)
