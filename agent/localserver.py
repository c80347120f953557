"""The server of the local queue: it starts the jobs of one spool, and sees how they end.

It may be killed between any two of its steps. A job creates its ``.start`` note exclusively before it
runs, so a start that was cut can be repeated and never runs a job twice; it leaves its exit status in
``.exit``, so that it need not be the child of whoever asks. All signals are blocked but where the
server waits: none is lost, and nothing polls, except for the jobs of a predecessor.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import signal
import time
from pathlib import Path
from typing import IO

from agent.localspool import Record, Spool, boot_id, ids, living, me, read, rewrite, try_lock
from fwrunner.protocol import timestamp, write_atomic

KEEP_DONE = 1000
GRACE = 5.0  # seconds from SIGTERM to SIGKILL
LINGER = 1.0  # how long an idle server waits for the next job

_SIGNALS = (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# Faults of this host and not of the job: too many processes or open files, no memory.
_TRANSIENT = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)

# The process that a job is known by. It says who it is, unless another one does or did (then the record has
# moved on), and stays through a signal to the whole group to tell how the script ("$@") ended.
_WRAPPER = """\
note=$1 record=$2 directory=$3
shift 3
{ read -r self </proc/$$/stat; } 2>/dev/null || self=$$
set -C
{ echo "$self" >"$note.start"; } 2>/dev/null && test -e "$record" || exit 125
set +C
trap : HUP INT TERM
cd "$directory" && "$@"
status=$?
echo "$status" >"$note.tmp" && mv -f "$note.tmp" "$note.exit"
exit "$status"
"""


def main(root: Path) -> int:
    """Serve a spool in the background; return as soon as a server holds its lock, this or another."""
    lock = (root / "lock").open("a+")
    if not try_lock(lock):
        return 0
    if os.fork():
        os._exit(0)  # the child keeps the lock, and is nobody's child
    os.setsid()
    os.chdir("/")
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # one that is ignored cannot be waited for
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    Server(Spool(root), lock).serve()
    return 0


class Server:
    """It goes by the files: its memory is a cache."""

    def __init__(self, spool: Spool, lock: IO[str]) -> None:
        self._spool = spool
        self._lock = lock
        self._children: dict[int, str] = {}
        self._statuses: dict[str, int] = {}  # how they ended
        self._cancelled: dict[str, tuple[int, float]] = {}  # process group, when to kill it

    def serve(self) -> None:
        """Run until nothing is left to do, or the spool is gone, or SIGTERM."""
        self._take_over()
        while self._owns_spool():
            try:
                wait = self._turn()
            except OSError as error:
                self._log(f"to be tried again in 5 s: {error}")
                wait = 5.0
            received = signal.sigtimedwait(_SIGNALS, wait)
            if received is not None and received.si_signo == signal.SIGTERM:
                self._log("SIGTERM: jobs go on, the next server takes them over")
                return
            if received is None and not self._busy() and self._leave():
                return

    def _take_over(self) -> None:
        """Clean up after whoever was killed here, and sign: from now on clients send signals."""
        self._lock.seek(0)
        rebooted = self._lock.read().partition("\n")[2] != boot_id()
        running = self._spool.keys("running")
        for path in self._spool.root.glob("notes/*"):
            if path.stem not in running:
                path.unlink()
        for path in self._spool.root.glob("*/.*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > 3600:
                    path.unlink()
        for key in running:
            self._settle(key, rebooted=rebooted)
        self._sign()

    def _sign(self) -> None:
        rewrite(self._lock, f"{me()}\n{boot_id()}")

    def _owns_spool(self) -> bool:
        """False when the directory was removed, or removed and made anew: that lock is not ours."""
        try:
            there = (self._spool.root / "lock").stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(self._lock.fileno()), there)

    def _busy(self) -> bool:
        return bool(self._spool.keys("pending", "running"))

    def _leave(self) -> bool:
        """Let go, then look once more: a client that found the lock taken had written its job before."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        if not self._busy() or not try_lock(self._lock):
            return True
        self._sign()
        return False

    def _turn(self) -> float:
        """Settle what has ended, start what may start; return how long nothing needs a look."""
        self._reap()
        own = set(self._children.values())
        for key in self._spool.keys("running"):
            if self._spool.note(key, ".cancel").exists():
                self._end(key)
            if key not in own:
                self._settle(key)
        limit, count = self._spool.max_running, len(self._spool.keys("running"))
        for key in self._spool.keys("pending"):
            if limit and count >= limit:
                break
            count += self._start(key)
        if self._cancelled:
            return 0.2
        if count > len(self._children):  # the others are not ours: their end raises no signal
            return 1.0
        return 60.0 if count else LINGER

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                key = self._children.pop(ended[0])
                claim = read(self._spool.note(key, ".start"))
                if not claim or claim.split()[0] == str(ended[0]):  # else another one runs the job
                    code = os.waitstatus_to_exitcode(ended[1])
                    self._statuses[key] = code if code >= 0 else 128 - code

    def _start(self, key: str) -> bool:
        record = self._spool.load("pending", key)
        if record is None:
            return False
        try:
            self._spool.path("pending", key).rename(self._spool.path("running", key))
        except FileNotFoundError:  # cancelled
            return False
        _sync(self._spool.root / "running")  # no power cut makes it pending again
        return self._spawn(key, record)

    def _spawn(self, key: str, record: Record) -> bool:
        files = str(self._spool.note(key)), str(self._spool.path("running", key))
        arguments = [*files, record["launch_dir"], *_argv(record["script"])]
        output = f"{record['launch_dir']}/{_slug(record['name'])}-{ids(key)[0]}"
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _WRAPPER, "sh", *arguments],
                {**os.environ, **record["environment"]},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, f"{output}.out", append, 0o666),
                    (os.POSIX_SPAWN_OPEN, 2, f"{output}.error", append, 0o666),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
        except (OSError, ValueError, TypeError) as error:
            if isinstance(error, OSError) and error.errno in _TRANSIENT:
                raise  # it is in running/ without a .start: the next turn tries again
            self._log(f"job {key} cannot be started: {error}")
            self._finish(key, record, 126)
            return False
        self._children[pid] = key
        return True

    def _settle(self, key: str, *, rebooted: bool = False) -> None:
        """See what has become of a running job that is no child (any more)."""
        record = self._spool.load("running", key)
        if record is None:
            return
        self._read_status(key)
        if not rebooted and key not in self._statuses:  # nothing lives through a reboot
            start = self._spool.note(key, ".start")
            if not start.exists():
                self._spawn(key, record)
                return
            claim = read(start)
            if living(claim) or (not claim and time.time() - start.stat().st_mtime < 10):
                return
            self._read_status(key)  # it may have ended, and told it, between the two looks
        group, deadline = self._cancelled.get(key, (0, 0.0))
        if time.monotonic() < deadline and _signal_group(group, 0):
            return  # the rest of it may end decently
        self._finish(key, record, self._statuses.get(key))

    def _read_status(self, key: str) -> None:
        status = read(self._spool.note(key, ".exit")).strip()
        if status.isdigit():
            self._statuses[key] = int(status)

    def _end(self, key: str) -> None:
        """SIGTERM to the process group, once; SIGKILL to what is left of it after the grace."""
        now = time.monotonic()
        if key in self._cancelled:
            group, deadline = self._cancelled[key]
            if now >= deadline:
                _signal_group(group, signal.SIGKILL)
            return
        child = next((pid for pid, its in self._children.items() if its == key), None)
        leader = child or living(read(self._spool.note(key, ".start")))
        if leader:
            self._cancelled[key] = (leader, now + GRACE)
            _signal_group(leader, signal.SIGTERM)

    def _finish(self, key: str, record: Record, status: int | None) -> None:
        lost = status is None and key not in self._cancelled
        ended = {
            "state": "LOST" if lost else "DONE",
            "exit_status": status,
            "ended_on": timestamp(),
        }
        del record["environment"]
        write_atomic(str(self._spool.path("done", key)), {**record, **ended})
        self._spool.path("running", key).unlink(missing_ok=True)
        for suffix in (".start", ".exit", ".cancel"):
            self._spool.note(key, suffix).unlink(missing_ok=True)
        self._statuses.pop(key, None)
        self._cancelled.pop(key, None)
        for old in self._spool.keys("done")[:-KEEP_DONE]:
            self._spool.path("done", old).unlink(missing_ok=True)

    def _log(self, text: str) -> None:
        with self._spool.open_log() as log:
            log.write(f"{timestamp()} {text}\n")


def _argv(script: str) -> list[str]:
    """What runs a script: what its first line asks for, also where the file is not executable."""
    with contextlib.suppress(OSError):  # then sh will say what is wrong
        with Path(script).open("rb") as file:
            line = file.readline(256)
        if line.startswith(b"#!") and line[2:].strip():
            return [*map(os.fsdecode, line[2:].strip().split(maxsplit=1)), script]
    return ["/bin/sh", script]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:100] or "job"


def _signal_group(group: int, number: int) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
