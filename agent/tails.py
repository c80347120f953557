"""The ends of the files that a launch tracks, read from its directory. Nothing there is trusted."""

from __future__ import annotations

import bz2
import gzip
import os
import stat
import zlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import PurePath
from typing import IO, Any

from fwcore.trackers import MAX_CHARACTERS, MAX_FILES
from fwrunner.protocol import Unreadable, read_offline

#: Bytes of the end of a file that are looked at.
MAX_TAIL = 128 * 1024
#: Bytes that are decompressed to find the end of a file; a larger one has no content.
MAX_DECOMPRESSED = 32 * 1024 * 1024

#: Characters of the last words of a job, of each of its two files.
LAST_WORDS = 4096

_BLOCK = 64 * 1024
# Entries of a launch directory that are looked through for the output of its job.
_ENTRIES = 10_000
_WRITTEN = {"stderr": ".error", "stdout": ".out"}
# What FireWorks looks for in place of a file, in this order, and how it reads it.
_SUFFIXES = ("", ".gz", ".GZ", ".bz2", ".BZ2", ".z", ".Z")
_DECOMPRESSORS: dict[str, Any] = {".gz": gzip.open, ".z": gzip.open, ".bz2": bz2.open}


def read_tails(launch: Mapping[str, Any], places: Iterable[str]) -> dict[str, str]:
    """Return {filename: the end of that file} of the files that a launch tracks; never raises.

    ``places`` are directories that may be those of the launch; the first that says so is read. A file that is
    missing, binary, not ours or outside of the directory has no content, and is left out.
    """
    place = next((place for place in places if _holds(place, launch["launch_id"])), None)
    if place is None:
        return {}
    found: dict[str, str] = {}
    trackers = [item for item in launch["trackers"] if isinstance(item, Mapping)]
    for tracker in islice(trackers, MAX_FILES):
        name = tracker.get("filename")
        room = MAX_CHARACTERS - sum(map(len, found.values()))
        if isinstance(name, str) and name not in found and room > 0:
            found[name] = _tail(place, name, bool(tracker.get("allow_zipped")))[-room:]
    return {name: text for name, text in found.items() if text}


def last_words(place: str, launch_id: int, job_id: str | None) -> dict[str, str]:
    """Return the ends of what a job has written to stderr and stdout, ``{"stderr", "stdout"}``; never raises.

    These are the newest ``*.error`` and ``*.out`` of its launch directory, those with the job id in their name
    before others. What there is none of is left out.
    """
    if not _holds(place, launch_id):
        return {}
    found = {}
    for key, suffix in _WRITTEN.items():
        names = _newest(place, suffix)
        mine = [name for name in names if job_id and job_id in name]
        text = _tail(place, (mine or names or [""])[0], False)[-LAST_WORDS:]
        found[key] = text.encode("utf-8", "replace").decode("utf-8")
    return {key: text for key, text in found.items() if text}


def _newest(place: str, suffix: str) -> list[str]:
    try:
        with os.scandir(place) as entries:
            some = [entry for entry in islice(entries, _ENTRIES) if entry.name.endswith(suffix)]
            dated = [(entry.stat(follow_symlinks=False).st_mtime, entry.name) for entry in some]
    except OSError:
        return []
    return [name for _time, name in sorted(dated, reverse=True)]


def _holds(place: str, launch_id: int) -> bool:
    try:
        return read_offline(place).get("launch_id") == launch_id
    except (OSError, ValueError, Unreadable):
        return False


def _tail(place: str, name: str, zipped: bool) -> str:
    for candidate in _candidates(name, zipped):
        try:
            with ExitStack() as opened:
                stream = opened.enter_context(_open_inside(place, candidate))
                return _text(*_end(stream, PurePath(candidate).suffix.lower()))
        except FileNotFoundError:
            continue
        except (OSError, EOFError, ValueError, zlib.error):
            return ""
    return ""


def _candidates(name: str, zipped: bool) -> list[str]:
    if not zipped:
        return [name]
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return [name + suffix for suffix in _SUFFIXES]


def _open_inside(place: str, name: str) -> IO[bytes]:
    """Open a regular file of ours in a directory or below; raise OSError or ValueError.

    Links are followed first; on the way to what they lead to there may be none any more.
    """
    root = os.path.realpath(place)
    path = PurePath(os.path.realpath(PurePath(root, name)))
    *folders, last = path.relative_to(root).parts or ("",)
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            inner = os.open(folder, flags, dir_fd=directory)
            os.close(directory)
            directory = inner
        # O_NONBLOCK: a FIFO must not hang the reader.
        file = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    finally:
        os.close(directory)
    stream = os.fdopen(file, "rb")
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        stream.close()
        raise PermissionError(f"{name} is no regular file of ours")
    return stream


def _end(stream: IO[bytes], suffix: str) -> tuple[bytes, bool]:
    """Return the last bytes of a file, and whether there are others before."""
    if suffix not in _DECOMPRESSORS:
        size = os.fstat(stream.fileno()).st_size
        stream.seek(max(0, size - MAX_TAIL))
        return stream.read(MAX_TAIL), size > MAX_TAIL
    kept, total = b"", 0
    with _DECOMPRESSORS[suffix](stream) as plain:
        while block := plain.read(_BLOCK):
            kept, total = (kept + block)[-MAX_TAIL:], total + len(block)
            if total > MAX_DECOMPRESSED:
                raise ValueError("too large to be decompressed")
    return kept, total > MAX_TAIL


def _text(data: bytes, cut: bool) -> str:
    if b"\0" in data:
        return ""
    if cut:
        # The first line is not whole, unless it is the only one.
        data = data.partition(b"\n")[2] or data
    return data.decode("utf-8", "replace")
