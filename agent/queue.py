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

    def tend(self) -> None:
        """Do what the queue needs from time to time to go on by itself."""


class Local:
    """Jobs as detached processes on this host."""

    def __init__(self, config: Config) -> None:
        spool = config.private / "local" / socket.gethostname()
        self._queue = LocalQueue(spool, config.launch.max_running)

    def submit(self, script: Path, launch_id: int, name: str) -> str:
        return self._queue.submit(script, launch_id, name)

    def depth(self) -> int:
        return sum(job.state in ("PENDING", "RUNNING") for job in self._queue.jobs())

    def tend(self) -> None:
        self._queue.ensure_server()


class Unattended:
    """No queue: launch directories are staged, and the user submits their scripts."""

    def submit(self, script: Path, launch_id: int, name: str) -> None:
        """Leave the script to the user."""

    def depth(self) -> None:
        """Nobody knows but the database."""

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
