"""What kind of file system a directory is on, and what can be relied on there."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import Any

MOUNTS = Path("/proc/self/mountinfo")

#: Types (proc(5)) whose files other hosts change without this host's kernel raising an event.
_REMOTE = re.compile(
    r"nfs[34]?|lustre|gpfs|mmfs|beegfs|panfs|cifs|smb3?|smbfs|ceph|afs|9p|virtiofs|orangefs|pvfs2|wekafs|gfs2?|ocfs2|"
    r"glusterfs|fuse(blk)?(\..+)?"
)
#: Of linux/fcntl.h and linux/stat.h.
_AT_EMPTY_PATH, _AT_STATX_FORCE_SYNC, _STATX_BASIC_STATS = 0x1000, 0x2000, 0x7FF
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """A line of the mount table."""

    point: str
    kind: str
    source: str

    @property
    def remote(self) -> bool:
        """Whether other hosts may write there, so that events tell only of this host's own changes."""
        return _REMOTE.fullmatch(self.kind) is not None


def mount_of(path: Path, table: str | None = None) -> Mount:
    """Return the mount that a path is on, by the mount table (that of this process, unless one is given)."""
    text = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape") if table is None else table
    place = os.path.realpath(path)
    found = Mount("/", "unknown", "")
    for line in text.splitlines():
        mount = _parsed(line)
        # The later of two at the same place hides the earlier.
        if mount and _holds(mount.point, place) and len(mount.point) >= len(found.point):
            found = mount
    return found


def _parsed(line: str) -> Mount | None:
    left, dash, right = line.partition(" - ")
    fields, more = left.split(" "), right.split(" ")
    if not dash or len(fields) < 5 or len(more) < 2:
        return None
    return Mount(_plain(fields[4]), more[0], _plain(more[1]))


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _holds(point: str, place: str) -> bool:
    return point in ("/", place) or place.startswith(f"{point}/")


@dataclass(frozen=True)
class Trial:
    """What was tried in a directory: ``clock_ahead`` is the file server's clock against ours, in seconds."""

    replaces: bool
    clock_ahead: float


def tried(directory: Path) -> Trial:
    """Write and rename small files in a directory; raise OSError if that is refused. Nothing is left."""
    old, new = (directory / f".probe.{os.getpid()}.{token_hex(4)}" for _ in range(2))
    try:
        old.write_text("old", encoding="utf-8")
        before = time.time()
        new.write_text("new", encoding="utf-8")
        after = time.time()
        written = new.stat().st_mtime
        new.replace(old)
        replaces = old.read_text(encoding="utf-8") == "new" and not new.exists()
    finally:
        for path in (old, new):
            path.unlink(missing_ok=True)
    ahead = written - after if written > after else min(0.0, written - before)
    return Trial(replaces, ahead)


def refresh(directory: Path | str) -> None:
    """Have the next listing of a directory be true, where the file system keeps old ones for a while.

    A change of our own makes NFS drop what it remembers of a directory, and FUSE too; reading it again, or its stat,
    does not. Without it a listing was up to 5 s old with an attribute cache of 5 s, with it never.
    """
    probe = f"{directory}/.look.{os.getpid()}.{token_hex(4)}"
    with suppress(OSError):
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        os.unlink(probe)  # noqa: PTH108


def fresh_stat(path: str) -> os.stat_result:
    """Return the status of a regular file as its server has it now; raise OSError.

    NFS asks the server at every open; FUSE does not, but when statx(2) tells it to. A stat may be as old as the
    attribute cache (5 s, measured). A name that was not there when it was last looked for stays missing as long,
    whatever is done.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _ask_server(descriptor)
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _ask_server(descriptor: int) -> None:
    """Have the kernel drop what it remembers of an open file; where it cannot (Linux before 4.11), nothing happens."""
    statx, result = _statx()
    if statx is not None:
        statx(descriptor, b"", _AT_EMPTY_PATH | _AT_STATX_FORCE_SYNC, _STATX_BASIC_STATS, result)


@cache
def _statx() -> tuple[Any, Any]:
    """Return the function of the C library, and room for what it tells (256 bytes); Python has it since 3.15 only."""
    import ctypes  # a few ms that only those on a remote file system need

    # glibc has it since 2.28, and musl since 1.2.
    return getattr(ctypes.CDLL(None), "statx", None), ctypes.create_string_buffer(256)
