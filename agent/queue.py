"""The batch queue behind one small interface."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

from agent.config import Config, ConfigError
from agent.jobs import JobEnd, QueuedJob, QueueSilent, State
from agent.localqueue import Job, LocalQueue, LocalQueueError


class Queue(Protocol):
    """What the agent asks of a queue."""

    def submit(self, script: Path, launch_id: int, name: str) -> str | None:
        """Hand over a job and return its id, None if a person will submit it; raise FwagentError."""

    def depth(self) -> int | None:
        """Return how many jobs of ours are queued or running, None if the queue cannot tell."""

    def submitted(self, host: str, launch_ids: list[int]) -> dict[int, str]:
        """Return {launch_id: job id} of those launches that the queue of a host has taken."""

    def listing(self) -> dict[str, QueuedJob]:
        """Return {job id: job} of what is queued or runs, all with one question; raise QueueSilent."""

    def ends(self, job_ids: Collection[str]) -> dict[str, JobEnd]:
        """Return how jobs that have left the queue ended, as far as it remembers; raise QueueSilent."""

    def cancel(self, job_ids: Collection[str]) -> None:
        """Take jobs out of the queue, and end those that run; raise QueueSilent."""

    def tend(self) -> None:
        """Do what the queue needs from time to time to go on by itself."""


#: A shell tells a signal by an exit status above this one.
_SIGNALLED = 128
#: What the local queue calls the jobs that have not ended.
_LISTED: dict[str, State] = {"PENDING": "PENDING", "RUNNING": "RUNNING"}


class Local:
    """Jobs as detached processes on this host."""

    def __init__(self, config: Config) -> None:
        self._spools = config.private / "local"
        self._limit = config.launch.max_running
        self._queue = LocalQueue(self._spools / socket.gethostname(), self._limit)

    def submit(self, script: Path, launch_id: int, name: str) -> str:
        return self._queue.submit(script, launch_id, name)

    def depth(self) -> int:
        return sum(job.state in ("PENDING", "RUNNING") for job in self._queue.jobs())

    def submitted(self, host: str, launch_ids: list[int]) -> dict[int, str]:
        if not (self._spools / host).is_dir():
            return {}
        jobs = LocalQueue(self._spools / host, self._limit).jobs()
        return {job.launch_id: job.job_id for job in jobs if job.launch_id in set(launch_ids)}

    def listing(self) -> dict[str, QueuedJob]:
        """Return the jobs of this host, and under ``HOST/ID`` those of others with the same launch root."""
        found = {}
        for prefix, jobs in self._everywhere():
            for job in jobs:
                if job.state in _LISTED:
                    job_id = prefix + job.job_id
                    found[job_id] = QueuedJob(job_id, job.launch_id, _LISTED[job.state], job.state)
        return found

    def ends(self, job_ids: Collection[str]) -> dict[str, JobEnd]:
        """Return the ends of jobs, whatever host they were on; an id that several hosts have tells nothing."""
        ended: dict[str, list[Job]] = {}
        for _prefix, jobs in self._everywhere():
            for job in jobs:
                if job.job_id in job_ids and job.state not in _LISTED:
                    ended.setdefault(job.job_id, []).append(job)
        return {job_id: _end_of(jobs[0]) for job_id, jobs in ended.items() if len(jobs) == 1}

    def cancel(self, job_ids: Collection[str]) -> None:
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

    def tend(self) -> None:
        self._queue.ensure_server()


class Unattended:
    """No queue: launch directories are staged, and the user submits their scripts."""

    def submit(self, script: Path, launch_id: int, name: str) -> None:
        """Leave the script to the user."""

    def depth(self) -> None:
        """Nobody knows but the database."""

    def submitted(self, host: str, launch_ids: list[int]) -> dict[int, str]:  # noqa: ARG002
        """Nobody knows."""
        return {}

    def listing(self) -> dict[str, QueuedJob]:
        """Nobody knows."""
        return {}

    def ends(self, job_ids: Collection[str]) -> dict[str, JobEnd]:  # noqa: ARG002
        """Nobody knows."""
        return {}

    def cancel(self, job_ids: Collection[str]) -> None:
        """Leave it to the user."""

    def tend(self) -> None:
        """Nothing to do."""


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


def open_queue(config: Config) -> Queue:
    """Return the queue of a configuration; raise ConfigError for one that is not supported yet."""
    if config.queue.type == "local":
        return Local(config)
    if config.queue.type == "none":
        return Unattended()
    raise ConfigError(
        f"queue.type = {config.queue.type!r} is not supported yet",
        'use "none" and submit the FW_submit.script files yourself, or "local" for jobs on this host',
    )
