"""inotify(7), as much of it as is needed: one instance and one thread for any number of directories.

A user may have 128 instances on most hosts, and watchdog takes a thread, before its version 7.1 an instance too, for
each directory; nor does it tell of an overflow in all versions.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import threading
from collections.abc import Callable

#: A file was closed after writing, or got its name by a rename (linux/inotify.h).
CLOSE_WRITE, MOVED_TO = 0x8, 0x80
_MOVE_SELF = 0x800
_OVERFLOW, _IGNORED, _ONLYDIR = 0x4000, 0x8000, 0x01000000
_HEAD = struct.Struct("iIII")
_BUFFER = 256 * 1024

#: Called with (directory, name), of the thread's own; (None, "") if events were lost.
Told = Callable[[str | None, str], None]


class Inotify:
    """Tells of files that are written or renamed in directories. Raises OSError where there is no inotify."""

    def __init__(self, told: Told) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._told = told
        self._lock = threading.Lock()
        self._paths: dict[int, str] = {}
        self._watches: dict[str, int] = {}
        self._fd = self._checked(self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        self._end, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._read, name="inotify", daemon=True)

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and wait for the thread."""
        os.write(self._stop, b".")
        if self._thread.ident is not None:
            self._thread.join(timeout=5)
        for descriptor in (self._fd, self._end, self._stop):
            os.close(descriptor)

    def add(self, directory: str) -> None:
        """Watch a directory; raise OSError, ENOSPC if the user has no watch left."""
        with self._lock:
            path = os.fsencode(directory)
            flags = CLOSE_WRITE | MOVED_TO | _MOVE_SELF | _ONLYDIR
            watch = self._checked(self._libc.inotify_add_watch(self._fd, path, flags))
            self._paths[watch] = directory
            self._watches[directory] = watch

    def remove(self, directory: str) -> None:
        """Watch a directory no more; nothing happens if it was not."""
        with self._lock:
            watch = self._watches.pop(directory, None)
            # Two names of one directory share a watch.
            if watch is not None and self._paths.get(watch) == directory:
                del self._paths[watch]
                self._libc.inotify_rm_watch(self._fd, watch)

    def __len__(self) -> int:
        return len(self._watches)

    def __contains__(self, directory: object) -> bool:
        return directory in self._watches

    @property
    def directories(self) -> set[str]:
        """What is watched: not what has been removed meanwhile."""
        with self._lock:
            return set(self._watches)

    @staticmethod
    def _checked(result: int) -> int:
        if result >= 0:
            return result
        number = ctypes.get_errno()
        # What strerror says of it, "No space left on device", would mislead.
        limits = {errno.ENOSPC: "no watch is left", errno.EMFILE: "no instance is left"}
        raise OSError(number, f"inotify: {limits.get(number) or os.strerror(number)}")

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._end, select.POLLIN)
        while all(descriptor == self._fd for descriptor, _ in poll.poll()):
            self._tell(os.read(self._fd, _BUFFER))

    def _tell(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            watch, mask, _cookie, length = _HEAD.unpack_from(data, at)
            name = data[at + _HEAD.size : at + _HEAD.size + length].rstrip(b"\0")
            at += _HEAD.size + length
            if mask & _OVERFLOW:
                self._told(None, "")
            elif mask & _IGNORED:
                self._forget(watch)
            elif mask & _MOVE_SELF:
                # The watch would follow it, and another directory may take its place.
                self._libc.inotify_rm_watch(self._fd, watch)
            elif (directory := self._paths.get(watch)) is not None:
                self._told(directory, os.fsdecode(name))

    def _forget(self, watch: int) -> None:
        with self._lock:
            directory = self._paths.pop(watch, None)
            if directory is not None and self._watches.get(directory) == watch:
                del self._watches[directory]
