"""A small batch queue on this host: jobs are detached processes that outlive the agent.

Everything is files in one spool directory per host. ``pending/``, ``running/`` and ``done/`` hold a
JSON file per job, ``<job id>-<launch id>.json``, which moves on by rename. ``notes/`` holds what the
jobs themselves leave there: who runs (``.start``), how it ended (``.exit``); and ``.cancel``. One
server per spool, ``python -m agent.localqueue SPOOL``, is started by the first submit, holds the lock
on ``lock`` for its life, and leaves when there is nothing to do. Nothing is lost when it is killed:
jobs go on, and the next server takes them over. A job creates its ``.start`` exclusively before it
runs, so a start that was cut anywhere can be repeated, and never runs a job twice.

The environment of the jobs is that of the submit which started the server, less what is meant for
the agent alone, plus what a submit asks for. Only the latter is stored, until the job has ended.
Under systemd, jobs that shall outlive the agent's service need ``KillMode=process`` in its unit.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from fwcore.errors import FwagentError
from fwrunner.protocol import timestamp, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEEP_DONE = 1000
GRACE = 5.0  # seconds from SIGTERM to SIGKILL
LINGER = 1.0  # how long an idle server waits for the next job
LOG_SIZE = 256 * 1024  # of server.log, and of server.log.1

_State = Literal["PENDING", "RUNNING", "DONE", "LOST"]
_FOLDERS = ("pending", "running", "done", "notes", "broken")
_KEY = re.compile(r"(\d{1,18}-\d{1,19})\.json", re.ASCII)
_FIELDS = ("script", "launch_dir", "name", "submitted_on")
_SIGNALS = (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# Faults of this host, not of the job: too many processes or files, no memory.
_TRANSIENT = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
# Secrets, and what systemd gives to one process and not to its children.
_PRIVATE = ("FWAGENT_LAUNCHPAD", "CREDENTIALS_DIRECTORY", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_")

# The process that a job is known by: it says who it is, unless a predecessor already did, stays through a
# signal to the whole group so that it can tell how the job ended, and runs the script ("$@").
_WRAPPER = """\
{ read -r self </proc/$$/stat; } 2>/dev/null || self=$$
set -C
{ echo "$self" >"$1.start"; } 2>/dev/null || exit 125
set +C
trap : HUP INT TERM
note=$1 directory=$2
shift 2
cd "$directory" && "$@"
status=$?
echo "$status" >"$note.tmp" && mv -f "$note.tmp" "$note.exit"
exit "$status"
"""


class LocalQueueError(FwagentError):
    """The local queue cannot be used; a job whose submit raises this was not accepted."""


@dataclass(frozen=True)
class Job:
    """One job as the queue knows it. LOST: it has ended, and nobody can tell how."""

    job_id: str
    launch_id: int
    state: _State
    launch_dir: str
    exit_status: int | None
    submitted_on: str


class LocalQueue:
    """The client. Any number of them, in any number of processes of this host, may share a spool."""

    def __init__(self, spool: Path, max_running: int = 0) -> None:
        """Prepare `spool`. The newest `max_running` (0: no limit) of a submit or `ensure_server` counts."""
        self.spool = spool.absolute()
        self.max_running = max_running
        self._ended: dict[str, Job] = {}
        with _explained(self.spool):
            _prepare(self.spool)

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
        adds to that of the queue and is stored until the job has ended, so no secrets.
        """
        script = script.absolute()
        record = {
            "launch_id": launch_id,
            "name": name,
            "script": str(script),
            "launch_dir": str(script.parent),
            "submitted_on": timestamp(),
            "environment": _public(environment or {}),
        }
        with self._exclusive() as counter:
            waiting = _keys(self.spool, "pending") + _keys(self.spool, "running")
            done = _keys(
                self.spool, "done"
            )  # listed last: a job that moves on meanwhile is seen once
            for key in waiting:
                if _ids(key)[1] == launch_id and key not in done:
                    return str(_ids(key)[0])
            job_id = _next_id(counter, waiting + done)
            path = _path(self.spool, "pending", f"{job_id}-{launch_id}")
            write_atomic(str(path), record)
            try:
                self._rouse()
            except (OSError, LocalQueueError):
                with contextlib.suppress(
                    FileNotFoundError
                ):  # gone: a server has taken it after all
                    path.unlink()
                    raise
        return str(job_id)

    def ensure_server(self) -> None:
        """Start a server if there are jobs and none serves them: the last one was killed."""
        with self._exclusive():
            if _keys(self.spool, "pending") or _keys(self.spool, "running"):
                self._rouse()

    def jobs(self) -> list[Job]:
        """All jobs in the order of submission; of those that have ended, the newest thousand."""
        found: dict[str, Job] = {}
        with _explained(self.spool):
            for folder in ("pending", "running", "done"):
                for key in _keys(self.spool, folder):
                    job = self._ended.get(key) if folder == "done" else None
                    job = job or _job(self.spool, folder, key)
                    if job is not None:
                        found[key] = job
        self._ended = {key: job for key, job in found.items() if job.state in ("DONE", "LOST")}
        return [found[key] for key in sorted(found, key=_ids)]

    def cancel(self, job_id: str) -> bool:
        """Drop a pending job, or have a running one ended; False if there is no such job (any more)."""
        with self._exclusive():
            for key in _keys(self.spool, "pending"):
                if str(_ids(key)[0]) == job_id:
                    with contextlib.suppress(FileNotFoundError):  # it starts just now
                        _path(self.spool, "pending", key).unlink()
                        return True
            for key in _keys(self.spool, "running"):
                if str(_ids(key)[0]) == job_id:
                    _note(self.spool, key, "cancel").touch()
                    self._rouse()
                    return True
        return False

    def wait_idle(self, timeout: float) -> bool:
        """Wait until no job is pending or running. It starts no server: see `ensure_server`."""
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer

        class Handler(FileSystemEventHandler):
            def on_moved(self, event: FileSystemEvent) -> None:  # noqa: ARG002
                ended.set()

        ended, deadline, observer = threading.Event(), time.monotonic() + timeout, Observer()
        observer.schedule(Handler(), str(self.spool / "done"))
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
        with _explained(self.spool):
            waiting = {*_keys(self.spool, "pending"), *_keys(self.spool, "running")}
            return waiting <= set(_keys(self.spool, "done"))

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[IO[str]]:
        with _explained(self.spool), (self.spool / "submit.lock").open("a+") as counter:
            deadline = time.monotonic() + 60
            while not _try_lock(counter):
                if time.monotonic() > deadline:
                    raise LocalQueueError(
                        f"another process has kept {counter.name} locked for a minute"
                    )
                time.sleep(0.005)
            yield counter

    def _rouse(self) -> None:
        """Have a server look at the spool, after the files are in place. Called under the lock."""
        if _max_running(self.spool) != self.max_running:
            write_atomic(str(self.spool / "limit.json"), {"max_running": self.max_running})
        with (self.spool / "lock").open("a+") as lock:
            free = _try_lock(lock)
            lock.seek(0)
            pid = None if free else _living(lock.readline())
        if free:
            self._start_server()
        elif pid is not None:  # else it has just begun, and looks at the spool after it has signed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)

    def _start_server(self) -> None:
        root = Path(__file__).parents[1]
        with _open_log(self.spool) as log:
            status = subprocess.run(
                [sys.executable, "-m", "agent.localqueue", str(self.spool)],
                cwd=root,  # where `agent` is found if it is not installed
                env=_public(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                timeout=60,
                check=False,
            ).returncode
        if status:
            raise LocalQueueError(
                f"the server of the local queue does not start (exit status {status})",
                f"Its last words are in {log.name}",
            )


class _Server:
    """The one process that starts jobs. It goes by the files: its memory is a cache."""

    def __init__(self, spool: Path, lock: IO[str]) -> None:
        self.spool = spool
        self._lock = lock
        self._children: dict[int, str] = {}
        self._statuses: dict[str, int] = {}  # of children that have ended
        self._cancelled: dict[str, tuple[int, float]] = {}  # process group, when to kill it
        lock.seek(0)
        # Nothing lives through a reboot, whatever process has a recorded id now.
        self._rebooted = lock.read().partition("\n")[2] != _read(_BOOT_ID)

    def serve(self) -> None:
        """Run until there is nothing left to do, the spool is gone, or SIGTERM."""
        self._tidy()
        for key in _keys(self.spool, "running"):
            self._settle(key)
        self._rebooted = False
        self._sign()
        while self._owns_spool():
            try:
                wait = self._turn()
            except OSError as error:
                self._log(f"try again in 5 s: {error}")
                wait = 5.0
            received = signal.sigtimedwait(_SIGNALS, wait)
            if received is not None and received.si_signo == signal.SIGTERM:
                self._log("SIGTERM: the jobs go on, the next server takes them over")
                return
            if received is None and not self._busy() and self._leave():
                return

    def _sign(self) -> None:
        self._lock.truncate(0)
        self._lock.write(f"{_read(_PROC / 'self' / 'stat')}\n{_read(_BOOT_ID)}")
        self._lock.flush()

    def _owns_spool(self) -> bool:
        """False when the directory was removed, or removed and made anew: its lock is not ours."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._lock.fileno()), (self.spool / "lock").stat())
        return False

    def _busy(self) -> bool:
        return bool(_keys(self.spool, "pending") or _keys(self.spool, "running"))

    def _leave(self) -> bool:
        """Let go, then look once more: a client that found the lock taken had written its job before."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        if not self._busy() or not _try_lock(self._lock):
            return True
        self._sign()
        return False

    def _turn(self) -> float:
        """Settle what has ended, start what may start; return how long nothing needs a look."""
        self._reap()
        own = set(self._children.values())
        for key in _keys(self.spool, "running"):
            if _note(self.spool, key, "cancel").exists():
                self._end(key)
            if key not in own:
                self._settle(key)
        limit = _max_running(self.spool)
        count = len(_keys(self.spool, "running"))
        for key in _keys(self.spool, "pending"):
            if limit and count >= limit:
                break
            count += self._start(key)
        if self._cancelled:
            return 0.2
        if count > len(self._children):  # taken over: their end raises no signal
            return 1.0
        return 60.0 if count else LINGER

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                key = self._children.pop(ended[0])
                claim = _read(_note(self.spool, key, "start"))
                if not claim or claim.split()[0] == str(ended[0]):
                    code = os.waitstatus_to_exitcode(ended[1])
                    self._statuses[key] = code if code >= 0 else 128 - code

    def _start(self, key: str) -> bool:
        record = _load(self.spool, "pending", key)
        if record is None:
            return False
        try:
            _path(self.spool, "pending", key).rename(_path(self.spool, "running", key))
        except FileNotFoundError:  # cancelled
            return False
        _sync(self.spool / "running")  # a power cut must not make it pending again
        return self._spawn(key, record)

    def _spawn(self, key: str, record: dict[str, Any]) -> bool:
        note = str(_note(self.spool, key, "start").with_suffix(""))
        output = f"{record['launch_dir']}/{_slug(record['name'])}-{_ids(key)[0]}"
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _WRAPPER, "sh", note, record["launch_dir"], *_argv(record["script"])],
                {**os.environ, **_public(record["environment"])},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, f"{output}.out", append, 0o666),
                    (os.POSIX_SPAWN_OPEN, 2, f"{output}.error", append, 0o666),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in _TRANSIENT:
                raise  # it is in running/ without a .start: the next turn spawns it
            self._log(f"job {key} cannot be started: {error}")
            self._finish(key, record, 126)
            return False
        self._children[pid] = key
        return True

    def _settle(self, key: str) -> None:
        """See what has become of a running job that is no child (any more)."""
        record = _load(self.spool, "running", key)
        if record is None:
            return
        status, start = _read(_note(self.spool, key, "exit")), _note(self.spool, key, "start")
        if status.strip().isdigit():
            self._statuses[key] = int(status)
        elif not self._rebooted and key not in self._statuses:
            if not start.exists():
                self._spawn(key, record)
                return
            claim = _read(start)
            if _living(claim) or (not claim and time.time() - start.stat().st_mtime < 10):
                return
        group, deadline = self._cancelled.get(key, (0, 0.0))
        if time.monotonic() < deadline and _kill_group(group, 0):
            return  # the rest of it has some seconds to end decently
        self._finish(key, record, self._statuses.get(key))

    def _end(self, key: str) -> None:
        """SIGTERM to the process group, once; SIGKILL to what is left of it after the grace."""
        now = time.monotonic()
        if key in self._cancelled:
            group, deadline = self._cancelled[key]
            if now >= deadline:
                _kill_group(group, signal.SIGKILL)
            return
        own = next((pid for pid, child in self._children.items() if child == key), None)
        group = own or _living(_read(_note(self.spool, key, "start")))
        if group:
            self._cancelled[key] = (group, now + GRACE)
            _kill_group(group, signal.SIGTERM)

    def _finish(self, key: str, record: dict[str, Any], status: int | None) -> None:
        lost = status is None and key not in self._cancelled
        ended = {"state": "LOST" if lost else "DONE", "exit_status": status, "environment": {}}
        write_atomic(
            str(_path(self.spool, "done", key)), {**record, **ended, "ended_on": timestamp()}
        )
        _path(self.spool, "running", key).unlink(missing_ok=True)
        for suffix in ("start", "exit", "cancel"):
            _note(self.spool, key, suffix).unlink(missing_ok=True)
        self._statuses.pop(key, None)
        self._cancelled.pop(key, None)
        for old in _keys(self.spool, "done")[:-KEEP_DONE]:
            _path(self.spool, "done", old).unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Remove what was left behind where a server or a client was killed."""
        running = set(_keys(self.spool, "running"))
        for path in self.spool.glob("notes/*"):
            if path.stem not in running:
                path.unlink()
        for path in self.spool.glob("*/.*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > 3600:
                    path.unlink()

    def _log(self, text: str) -> None:
        with _open_log(self.spool) as log:
            log.write(f"{timestamp()} {text}\n")


def main(spool: Path) -> int:
    """Serve a spool in the background; 0 as soon as a server holds the lock, this one or another."""
    lock = (spool / "lock").open("a+")
    if not _try_lock(lock):
        return 0
    if os.fork():
        os._exit(0)  # the child keeps the lock, and belongs to nobody
    os.setsid()
    os.chdir("/")
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # an ignored one would not be waited for
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _Server(spool, lock).serve()
    return 0


def _prepare(spool: Path) -> None:
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = spool.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise LocalQueueError(
            f"{spool} must be a directory of yours that nobody else can enter, since jobs are started from it",
            f"Have a look at what is in it, then: chmod 700 '{spool}' (or remove it)",
        )
    for folder in _FOLDERS:
        (spool / folder).mkdir(exist_ok=True)


@contextlib.contextmanager
def _explained(spool: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, subprocess.TimeoutExpired) as error:
        hint = "It needs a writable file system with file locks (flock): a local disk has them"
        raise LocalQueueError(
            f"the local queue in {spool} cannot be used: {error}", hint
        ) from error


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _next_id(counter: IO[str], keys: list[str]) -> int:
    """One more than any before, even if those were cancelled or the counter did not survive a power cut."""
    counter.seek(0)
    last = counter.read().strip()
    number = 1 + max([int(last) if last.isdigit() else 0, *(_ids(key)[0] for key in keys)])
    counter.truncate(0)
    counter.write(str(number))
    return number


def _keys(spool: Path, folder: str) -> list[str]:
    """The jobs in a folder, in the order of submission."""
    found = []
    for name in os.listdir(spool / folder):
        if match := _KEY.fullmatch(name):
            found.append(match[1])
        elif not name.startswith("."):  # else it is being written
            _set_aside(spool / folder / name)
    return sorted(found, key=_ids)


def _load(spool: Path, folder: str, key: str) -> dict[str, Any] | None:
    """The record of a job; None if it has moved on, or was set aside because it is none."""
    path = _path(spool, folder, key)
    try:
        record = json.loads(path.read_bytes())
        _Record.check(record)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, IsADirectoryError):
        _set_aside(path)
        return None
    return record
