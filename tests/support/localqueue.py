"""A local queue to test with: scripts, its server's process, and an end to all that it started."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from agent.localqueue import Job, LocalQueue
from agent.localspool import living, read


class Bench:
    """A spool with its launch directories under one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spool = directory / "spool"

    def queue(self, max_running: int = 0) -> LocalQueue:
        """One more client."""
        return LocalQueue(self.spool, max_running)

    def script(self, number: int, text: str = "true") -> Path:
        """The script of a launch, in a launch directory of its own."""
        script = self.directory / f"launcher_{number}" / "FW_submit.script"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"{text}\n")
        return script

    @property
    def server(self) -> int | None:
        """The process id of the server."""
        return living(read(self.spool / "lock").partition("\n")[0])

    def stop_server(self, number: int = signal.SIGTERM, timeout: float = 10.0) -> None:
        """Signal the server and wait until it has gone."""
        pid = self.server
        if pid is not None and pid != os.getpid():  # a test may play the server
            os.kill(pid, number)
            wait_gone(pid, timeout)

    def close(self) -> None:
        """Stop the server, then what it has left running."""
        self.stop_server()
        for note in (self.spool / "notes").glob("*.start"):
            pid = living(read(note))
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)


def wait_gone(pid: int, timeout: float = 10.0) -> None:
    """Wait until a process, which need not be a child, has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], timeout)[0], f"process {pid} is still there"
    finally:
        os.close(descriptor)


def wait_for(path: Path, timeout: float = 10.0) -> str:
    """What a file says once it says something."""
    deadline = time.monotonic() + timeout
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} has not come"
        time.sleep(0.01)
    return path.read_text()


def states(queue: LocalQueue) -> dict[str, tuple[str, int | None]]:
    """Job id to state and exit status."""
    return {job.job_id: (job.state, job.exit_status) for job in queue.jobs()}


def the(queue: LocalQueue, job_id: str) -> Job:
    """One job."""
    return next(job for job in queue.jobs() if job.job_id == job_id)
