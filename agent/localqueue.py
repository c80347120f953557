"""A small batch queue on this host: its jobs are detached processes that outlive the agent.

Everything is files in one spool directory per host (`agent.localspool`). One server per spool,
``python -m agent.localqueue SPOOL`` (`agent.localserver`), is started by the first submit, holds a lock
for its life, and leaves when no job is left. When it is killed, jobs go on, and the next one takes them
over.

The environment of a job is that of the submit which started the server, less what is meant for the
agent alone, plus what its own submit asks for. Only the latter is stored, until the job has ended.
Under systemd, jobs that shall outlive the agent's service need ``KillMode=process`` in its unit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from agent.localspool import LocalQueueError, Spool, ids, living, rewrite, try_lock
from agent.umask import inherited
from fwrunner.protocol import timestamp, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Job", "LocalQueue", "LocalQueueError", "public"]

# Secrets, and what systemd means for one process and not for its children.
_PRIVATE = ("FWAGENT_LAUNCHPAD", "CREDENTIALS_DIRECTORY", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_")

State = Literal["PENDING", "RUNNING", "DONE", "LOST"]
_STATES: dict[str, State] = {"pending": "PENDING", "running": "RUNNING"}


@dataclass(frozen=True)
class Job:
    """One job as the queue knows it. LOST: it has ended, and nobody can tell how."""

    job_id: str
    launch_id: int
    state: State
    launch_dir: str
    exit_status: int | None
    submitted_on: str


class LocalQueue:
    """The client. Any number of them, in any number of processes of this host, may share a spool."""

    def __init__(self, spool: Path, max_running: int = 0) -> None:
        """Prepare the spool. The newest `max_running` (0: no limit) of a submit or `ensure_server` counts."""
        self._spool = Spool(spool.absolute())
        self._max_running = max_running
        self._ended: dict[str, Job] = {}
        with self._explained():
            self._spool.prepare()

    def submit(
        self,
        script: Path,
        launch_id: int,
        name: str,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Accept a job that runs `script` in its directory, or raise; return its job id.

        A launch that is pending or running is not submitted again: its job id is returned. `environment`
        adds to that of the queue, and is stored until the job has ended: no secrets.
        """
        script = script.absolute()
        record = {
            "name": name,
            "script": str(script),
            "launch_dir": str(script.parent),
            "submitted_on": timestamp(),
            "environment": public(environment or {}),
        }
        with self._exclusive() as counter:
            waiting, done = self._spool.keys("pending", "running"), self._spool.keys("done")
            for key in waiting:
                if ids(key)[1] == launch_id and key not in done:
                    return str(ids(key)[0])
            job_id = _next_id(counter, waiting + done)
            path = self._spool.path("pending", f"{job_id}-{launch_id}")
            write_atomic(str(path), record)
            try:
                self._rouse()
            except (OSError, subprocess.TimeoutExpired, LocalQueueError):
                if _removed(path):  # else a server took it after all
                    raise
        return str(job_id)

    def ensure_server(self) -> None:
        """Start a server if there are jobs and none serves them: the last one was killed."""
        with self._exclusive():
            if self._spool.keys("pending", "running"):
                self._rouse()

    def jobs(self) -> list[Job]:
        """All jobs in the order of submission; of those that have ended, the newest thousand."""
        with self._explained():
            found = {
                key: job
                for folder in ("pending", "running", "done")
                for key in self._spool.keys(folder)
                if (job := self._job(folder, key))
            }
        self._ended = {key: job for key, job in found.items() if job.state in ("DONE", "LOST")}
        return [found[key] for key in sorted(found, key=ids)]

    def cancel(self, job_id: str) -> bool:
        """Drop a pending job, or have a running one ended; False if there is no such job (any more)."""
        with self._exclusive():
            key = self._find(job_id, "pending")
            if key and _removed(self._spool.path("pending", key)):
                return True
            key = self._find(job_id, "running")
            if key is None or self._spool.path("done", key).exists():
                return False
            self._spool.note(key, ".cancel").touch()
            self._rouse()
            return True

    def wait_idle(self, timeout: float) -> bool:
        """Wait until no job is pending or running. It starts no server: see `ensure_server`."""
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer

        class Handler(FileSystemEventHandler):
            def on_moved(self, event: FileSystemEvent) -> None:  # noqa: ARG002
                ended.set()

        ended, deadline, observer = threading.Event(), time.monotonic() + timeout, Observer()
        observer.schedule(Handler(), str(self._spool.root / "done"))
        with contextlib.suppress(OSError):  # no inotify watch left: look once a second
            observer.start()
        while not (idle := self._idle()) and (left := deadline - time.monotonic()) > 0:
            ended.wait(min(left, 1.0))
            ended.clear()
        observer.stop()
        if observer.is_alive():
            observer.join()
        return idle

    def _idle(self) -> bool:
        with self._explained():
            return set(self._spool.keys("pending", "running")) <= set(self._spool.keys("done"))

    def _job(self, folder: str, key: str) -> Job | None:
        if folder == "done" and key in self._ended:
            return self._ended[key]
        record = self._spool.load(folder, key)
        if record is None:
            return None
        return Job(
            job_id=str(ids(key)[0]),
            launch_id=ids(key)[1],
            state=_STATES.get(folder) or record["state"],
            launch_dir=record["launch_dir"],
            exit_status=record.get("exit_status"),
            submitted_on=record["submitted_on"],
        )

    def _find(self, job_id: str, folder: str) -> str | None:
        keys = self._spool.keys(folder)
        return next((key for key in keys if key.partition("-")[0] == job_id), None)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LocalQueueError(
                f"the local queue in {self._spool.root} cannot be used: {error}",
                "It needs a writable file system with file locks (flock), as local disks have",
            ) from error

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[IO[str]]:
        """One client at a time: no launch gets two jobs, and one server is started."""
        with self._explained(), (self._spool.root / "submit.lock").open("a+") as counter:
            deadline = time.monotonic() + 90
            while not try_lock(counter):
                if time.monotonic() > deadline:
                    raise LocalQueueError(f"{counter.name} has been locked for more than a minute")
                time.sleep(0.005)
            yield counter

    def _rouse(self) -> None:
        """Have a server look at the spool, now that the files are in place. Called under the lock."""
        self._spool.max_running = self._max_running
        with (self._spool.root / "lock").open("a+") as lock:
            free = try_lock(lock)
            lock.seek(0)
            pid = living(lock.readline())
        if free:
            self._start_server()
        elif pid:  # else it has just begun: it looks at the spool after it has signed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)

    def _start_server(self) -> None:
        with self._spool.open_log() as log:
            status = subprocess.run(
                [sys.executable, "-m", "agent.localqueue", str(self._spool.root)],
                cwd=Path(__file__).parents[1],  # where `agent` is found if it is not installed
                env=public(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=inherited(),
                timeout=60,
                check=False,
            ).returncode
        if status:
            raise LocalQueueError(
                f"the server of the local queue does not start (exit status {status})",
                f"Its last words are in {self._spool.log}",
            )


def public(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment a job may have: neither our secrets nor what systemd means for us alone."""
    return {name: value for name, value in environment.items() if not name.startswith(_PRIVATE)}


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _next_id(counter: IO[str], keys: list[str]) -> int:
    """One more than any before; the counter knows those that were cancelled, the keys outlive a power cut."""
    counter.seek(0)
    last = counter.read()
    number = 1 + max([int(last) if last.isdigit() else 0, *(ids(key)[0] for key in keys)])
    rewrite(counter, str(number))
    return number


if __name__ == "__main__":
    from agent.localserver import main

    sys.exit(main(Path(sys.argv[1])))
