"""The batch queue behind one small interface."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from agent.config import Config
from agent.jobs import JobEnd, QueuedJob, QueueSilent, State, Submission, Submitted
from agent.localqueue import Job, LocalQueue, LocalQueueError
from agent.queue.batch import BatchQueue
from agent.queue.dialect import Dialect
from agent.queue.lsf import Lsf
from agent.queue.pbs import Pbs
from agent.queue.settings import QueueSettings, read_settings
from agent.queue.sge import Sge
from agent.queue.slurm import Slurm
from agent.queue.tags import scope_of
from fwcore.errors import FwagentError

_DIALECTS: dict[str, Callable[[], Dialect]] = {"slurm": Slurm, "pbs": Pbs, "sge": Sge, "lsf": Lsf}


class Queue(Protocol):
    """What the agent asks of a queue. Making one runs no command, and needs none to be there."""

    #: Whether there is a listing, so that what becomes of jobs can be known.
    lists: bool

    def submit_all(
        self, submissions: Sequence[Submission], tend: Callable[[], None] = ...
    ) -> Iterator[Submitted]:
        """Hand over jobs; yield what became of each, in any order. ``tend`` is called now and then meanwhile."""

    def depth(self) -> int | None:
        """Return how many jobs of ours are queued or running, None if only the database knows."""

    def listing(self) -> dict[str, QueuedJob]:
        """Return all jobs of this user by job id, also some that have ended lately; raise QueueSilent."""

    def ends(self, job_ids: Iterable[str]) -> dict[str, JobEnd]:
        """Return how jobs have ended, as far as the queue tells; what it does not tell is missing."""

    def cancel(self, job_ids: Iterable[str]) -> None:
        """Have jobs ended or dropped; those that are gone do not matter. Raises QueueSilent."""

    def submitted(self, host: str, launch_ids: list[int]) -> dict[int, str] | None:
        """Return {launch_id: job id} of those launches that the queue of a host has taken.

        None if it cannot tell now: then nothing follows from it, and it is to be asked later.
        """

    def tend(self) -> None:
        """Do what the queue needs from time to time to go on by itself."""


#: A shell tells a signal by an exit status above this one.
_SIGNALLED = 128
#: What the local queue calls the jobs that have not ended.
_LISTED: dict[str, State] = {"PENDING": "PENDING", "RUNNING": "RUNNING"}


class Local:
    """Jobs as detached processes on this host."""

    lists = True

    def __init__(self, config: Config) -> None:
        self._spools = config.private / "local"
        self._limit = config.launch.max_running
        self._queue = LocalQueue(self._spools / socket.gethostname(), self._limit)

    def submit_all(
        self, submissions: Sequence[Submission], tend: Callable[[], None] = lambda: None
    ) -> Iterator[Submitted]:
        for submission in submissions:
            tend()
            try:
                job_id = self._queue.submit(
                    submission.script, submission.launch_id, submission.name
                )
            except FwagentError as error:
                yield Submitted(submission.launch_id, error=error)
            else:
                yield Submitted(submission.launch_id, job_id)

    def depth(self) -> int:
        return sum(job.state in ("PENDING", "RUNNING") for job in self._queue.jobs())

    def listing(self) -> dict[str, QueuedJob]:
        """Return the jobs of this host, and under ``HOST/ID`` those of others with the same launch root."""
        found = {}
        for prefix, jobs in self._everywhere():
            for job in jobs:
                if job.state in _LISTED:
                    job_id = prefix + job.job_id
                    found[job_id] = QueuedJob(job_id, job.launch_id, _LISTED[job.state], job.state)
        return found

    def ends(self, job_ids: Iterable[str]) -> dict[str, JobEnd]:
        """Return the ends of jobs, whatever host they were on; an id that several hosts have tells nothing."""
        wanted = set(job_ids)
        ended: dict[str, list[Job]] = {}
        for _prefix, jobs in self._everywhere():
            for job in jobs:
                if job.job_id in wanted and job.state not in _LISTED:
                    ended.setdefault(job.job_id, []).append(job)
        return {job_id: _end_of(jobs[0]) for job_id, jobs in ended.items() if len(jobs) == 1}

    def cancel(self, job_ids: Iterable[str]) -> None:
        try:
            for job_id in job_ids:
                self._queue.cancel(job_id)
        except LocalQueueError as error:
            raise QueueSilent(error.title, error.hint) from error

    def _everywhere(self) -> Iterator[tuple[str, list[Job]]]:
        here = socket.gethostname()
        try:
            for spool in sorted(self._spools.iterdir()):
                queue = self._queue if spool.name == here else LocalQueue(spool, self._limit)
                yield ("" if spool.name == here else f"{spool.name}/"), queue.jobs()
        except (OSError, LocalQueueError) as error:
            raise QueueSilent(f"the local queue cannot be listed: {error}") from error

    def submitted(self, host: str, launch_ids: list[int]) -> dict[int, str]:
        if not (self._spools / host).is_dir():
            return {}
        jobs = LocalQueue(self._spools / host, self._limit).jobs()
        return {job.launch_id: job.job_id for job in jobs if job.launch_id in set(launch_ids)}

    def tend(self) -> None:
        self._queue.ensure_server()


def _end_of(job: Job) -> JobEnd:
    """Return the end of a job of the local queue, in Slurm's words."""
    status = job.exit_status
    if job.state == "LOST":
        why = "it was killed together with the process that watched it, or the host was restarted"
        return JobEnd(job.job_id, "FAILED", reason=why)
    if status is None:
        return JobEnd(job.job_id, "CANCELLED", reason="cancelled while it ran")
    if status > _SIGNALLED:
        return JobEnd(job.job_id, "FAILED", signal=status - _SIGNALLED)
    return JobEnd(job.job_id, "FAILED" if status else "COMPLETED", exit_code=status)


class Unattended:
    """No queue: launch directories are staged, and the user submits their scripts."""

    lists = False

    def submit_all(
        self,
        submissions: Sequence[Submission],
        tend: Callable[[], None] = lambda: None,  # noqa: ARG002
    ) -> Iterator[Submitted]:
        """Leave the scripts to the user."""
        return (Submitted(submission.launch_id) for submission in submissions)

    def depth(self) -> None:
        """Nobody knows but the database."""

    def listing(self) -> dict[str, QueuedJob]:
        """Nobody knows."""
        raise QueueSilent(
            "there is no queue to ask", 'queue.type = "none": you submit the scripts yourself'
        )

    def ends(self, job_ids: Iterable[str]) -> dict[str, JobEnd]:  # noqa: ARG002
        """Nobody knows."""
        return {}

    def cancel(self, job_ids: Iterable[str]) -> None:
        """Leave the jobs to the user."""

    def submitted(self, host: str, launch_ids: list[int]) -> dict[int, str]:  # noqa: ARG002
        """Nobody knows."""
        return {}

    def tend(self) -> None:
        """Nothing to do."""


def open_queue(config: Config) -> Queue:
    """Return the queue of a configuration; raise ConfigError if it cannot be understood."""
    settings = read_settings(config)
    if settings.type == "local":
        return Local(config)
    if settings.type == "none":
        return Unattended()
    return BatchQueue(
        _dialect(settings),
        scope_of(config.database, config.launch.root),
        config.private,
        processes=config.queue.processes,
        timeout=config.queue.timeout,
    )


def _dialect(settings: QueueSettings) -> Dialect:
    dialect = _DIALECTS[settings.type]()
    dialect.submit_cmd = settings.commands.get("submit_cmd", dialect.submit_cmd)
    dialect.status_cmd = settings.commands.get("status_cmd", dialect.status_cmd)
    return dialect
