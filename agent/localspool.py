"""The files of the local queue, and how to tell the processes that they name.

``pending/``, ``running/`` and ``done/`` hold a JSON file per job, ``<job id>-<launch id>.json``, which
moves on from one to the next. ``notes/`` holds what a job itself leaves: who runs it (``.start``), how
it ended (``.exit``); and that it is to be ended (``.cancel``). What belongs to nobody goes to ``broken/``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
from pathlib import Path
from typing import IO, Any

from fwcore.errors import FwagentError
from fwrunner.protocol import write_atomic

LOG_SIZE = 256 * 1024  # of server.log, and of server.log.1
_KEY = re.compile(r"(\d{1,18}-\d{1,19})\.json", re.ASCII)
_TEXTS = ("script", "launch_dir", "name", "submitted_on")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Record = dict[str, Any]


class LocalQueueError(FwagentError):
    """The local queue cannot be used. A job whose submit raises this was not accepted."""


class Spool:
    """One directory of ours on this host. Jobs go by their key, ``<job id>-<launch id>``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "server.log"

    def prepare(self) -> None:
        """Make the directories; refuse a spool into which others could put jobs."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self.root.lstat()
        mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
        if not mine or status.st_mode & 0o077:
            raise LocalQueueError(
                f"{self.root} is not a directory of yours alone, and jobs are started from it",
                f"Remove it, or look through it and then: chmod 700 '{self.root}'",
            )
        for folder in ("pending", "running", "done", "notes", "broken"):
            (self.root / folder).mkdir(exist_ok=True)

    def path(self, folder: str, key: str) -> Path:
        """Where the record of a job is while it is in this folder."""
        return self.root / folder / f"{key}.json"

    def note(self, key: str, suffix: str = "") -> Path:
        """What is noted about a running job."""
        return self.root / "notes" / f"{key}{suffix}"

    def keys(self, *folders: str) -> list[str]:
        """The jobs in these folders, in the order of submission.

        A job may move on meanwhile; one that is looked for is not missed if the folders come in the order
        that it takes.
        """
        found = set()
        for folder in folders:
            for name in os.listdir(self.root / folder):  # noqa: PTH208 - names are enough
                if match := _KEY.fullmatch(name):
                    found.add(match[1])
                elif not name.startswith("."):  # else it is being written
                    self._set_aside(self.root / folder / name)
        return sorted(found, key=ids)

    def load(self, folder: str, key: str) -> Record | None:
        """The record of a job; None if it has moved on, or was none and is set aside."""
        path = self.path(folder, key)
        try:
            record = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError, IsADirectoryError):
            record = None
        if not _is_record(record, ended=folder == "done"):
            self._set_aside(path)
            return None
        return dict(record)

    @property
    def max_running(self) -> int:
        """The limit that counts now; 0 is none."""
        try:
            return int(json.loads(read(self.root / "limit.json"))["max_running"])
        except (ValueError, TypeError, KeyError):
            return 0

    @max_running.setter
    def max_running(self, limit: int) -> None:
        if limit != self.max_running:
            write_atomic(str(self.root / "limit.json"), {"max_running": limit})

    def open_log(self) -> IO[str]:
        """The server's log, to append to. There is one older part, and none of them grows for ever."""
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_SIZE:
                self.log.replace(f"{self.log}.1")
        return self.log.open("a", errors="backslashreplace")

    def _set_aside(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # somebody else has done it
            path.rename(self.root / "broken" / path.name)


def ids(key: str) -> tuple[int, int]:
    """Job id and launch id."""
    job_id, _, launch_id = key.partition("-")
    return int(job_id), int(launch_id)


def read(path: Path) -> str:
    """What a small file says, or nothing."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def try_lock(file: IO[str]) -> bool:
    """Take the lock on an open file, unless another open file has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def rewrite(file: IO[str], text: str) -> None:
    """Replace what a file says that is open for appending."""
    file.truncate(0)
    file.write(text)
    file.flush()


def boot_id() -> str:
    """A text that every boot changes; nothing where the kernel has none."""
    return read(_BOOT_ID)


def me() -> str:
    """A line that `living` will know this process by."""
    return read(Path("/proc/self/stat")).strip() or str(os.getpid())


def living(line: str) -> int | None:
    """The process id at the beginning of a line of ``/proc/PID/stat``, if that process is still there.

    The kernel gives the id to another one after a while: the start time, in the same line, tells them
    apart. Where there is no ``/proc``, the line is but the id, and that has to do.
    """
    try:
        pid = int(line.partition(" ")[0])
        os.kill(pid, 0)
    except (ValueError, OverflowError, OSError):
        return None
    if pid <= 1:  # never what we started, and signals to it would reach others
        return None
    then, now = _state_and_start(line), _state_and_start(read(Path(f"/proc/{pid}/stat")))
    return pid if then[1] == now[1] and now[0] not in ("Z", "X") else None


def _state_and_start(line: str) -> tuple[str, str]:
    fields = line.rpartition(")")[2].split()  # the second field is a name, which may hold anything
    return (fields[0], fields[19]) if len(fields) > 19 else ("", "")


def _is_record(record: object, *, ended: bool) -> bool:
    if not isinstance(record, dict) or not all(isinstance(record.get(k), str) for k in _TEXTS):
        return False
    if ended:
        return record.get("state") in ("DONE", "LOST") and isinstance(
            record.get("exit_status"), int | None
        )
    return isinstance(record.get("environment"), dict)
