"""The batch queue behind one small interface."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Protocol

from agent.config import Config, ConfigError
from agent.localqueue import LocalQueue


class Queue(Protocol):
    """What the agent asks of a queue."""

    def submit(self, script: Path, launch_id: int, name: str) -> str | None:
        """Hand over a job and return its id, None if a person will submit it; raise FwagentError."""

    def depth(self) -> int | None:
        """Return how many jobs of ours are queued or running, None if the queue cannot tell."""

    def submitted(self, host: str, launch_ids: list[int]) -> dict[int, str]:
        """Return {launch_id: job id} of those launches that the queue of a host has taken."""

    def tend(self) -> None:
        """Do what the queue needs from time to time to go on by itself."""


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

    def tend(self) -> None:
        """Nothing to do."""


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
