"""File events: a hint which launch directories to look at, and a reason to wake up.

Events only shorten the wait. Writes of other hosts raise none on NFS, Lustre or GPFS, and a full kernel
queue loses some: the sweep and the listing of the outbox find everything without them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from secrets import token_hex

from agent.filesystem import mount_of
from agent.inotify import Inotify
from agent.printable import when
from fwrunner.protocol import ACTION_JSON, OFFLINE_JSON, PING_JSON, timestamp

#: How many watches a user may have, in all programs together.
LIMIT = Path("/proc/sys/fs/inotify/max_user_watches")
#: Our share of them, and what we take at most: each costs the kernel about 1 KB.
SHARE, MOST = 4, 8192
#: Seconds in which the event of a file that we have written ourselves must have come.
PROBE_SECONDS = 2.0

#: Seconds for which it is told that events were lost.
LOST_SECONDS = 3600.0
#: What is known of events while none are asked for.
UNUSED = "not used"

_TELLING = frozenset({OFFLINE_JSON, PING_JSON, ACTION_JSON})


def budget(limit: Path = LIMIT) -> int:
    """Return how many launch directories may be watched; 0 where the kernel names no limit."""
    try:
        return min(MOST, int(limit.read_text(encoding="ascii")) // SHARE)
    except (OSError, ValueError):
        return 0


class Wake:
    """Why the loop should turn now. Any thread and any signal handler may call; only the loop waits.

    A SimpleQueue, unlike an Event, may be used in a signal handler that has interrupted its own use.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[str, str | None]] = SimpleQueue()

    def call(self, reason: str, directory: str | None = None) -> None:
        """Give a reason to turn, and perhaps a launch directory to look at."""
        self._calls.put((reason, directory))

    def wait(self, timeout: float) -> tuple[set[str], set[str]]:
        """Wait for a call, at most ``timeout`` seconds; return (reasons, directories) of all of them."""
        calls = []
        with suppress(Empty):
            calls.append(self._calls.get(timeout=timeout))
            while True:
                calls.append(self._calls.get_nowait())
        return {reason for reason, _ in calls}, {place for _, place in calls if place is not None}


class Watch:
    """inotify watches on the outbox and on the newest launch directories.

    On a file system that other hosts write to, the outbox alone is watched, for the jobs of this host: events would
    tell little, and cost the watches of other programs.
    """

    def __init__(self, wake: Wake, most: int | None = None) -> None:
        self._wake = wake
        self._most = budget() if most is None else most
        self._inotify: Inotify | None = None
        self._outbox: str | None = None
        self._probe = ""
        self._answered = threading.Event()
        self._remote = False
        #: What is known of events where the outbox is, for `status`.
        self.kind = UNUSED
        self._short = ""
        # When the kernel has dropped events: for our clock, and for people.
        self._lost: tuple[float, str] | None = None

    def start(self) -> None:
        """Begin to deliver events."""
        try:
            self._inotify = Inotify(self._tell)
        except OSError as error:
            self._short = f"no file events ({error.strerror}): sweeps find what they miss"
            return
        self._short = ""
        self._inotify.start()

    def stop(self) -> None:
        """Stop, and wait for the thread."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = self._outbox = None
            self.kind = UNUSED

    def watch_outbox(self, outbox: Path) -> None:
        """Wake the loop for whatever appears in the outbox, and find out whether events come at all."""
        place = str(outbox)
        if self._inotify is None or place in self._inotify:
            return
        if self._outbox is not None:
            self._inotify.remove(self._outbox)
        self._outbox = place
        mount = mount_of(outbox)
        self._remote = mount.remote
        if not self._add(place):
            self.kind = f"none on {mount.kind}"
        elif mount.remote:
            self.kind = f"{mount.kind} tells nothing of other hosts"
        elif self._comes(outbox):
            self.kind = f"{mount.kind} tells of changes at once"
        else:
            # Some sandboxes have inotify, and never an event.
            self._remote = True
            self.kind = f"{mount.kind} tells nothing, although it should"

    def watch_launches(self, places: Mapping[int, str]) -> set[int]:
        """Watch the directories of the newest launches, as many as the budget has, and no others; return which."""
        if self._inotify is None:
            return set()
        # By the numbers alone: pairs take ten times as long to sort.
        numbers = [] if self._remote else sorted(places, reverse=True)[: self._most]
        newest = [places[launch_id] for launch_id in numbers]
        wanted = set(newest)
        watched = self._inotify.directories - {self._outbox}
        for place in watched - wanted:
            self._inotify.remove(place)
        # Those that were there: the newest first, should the kernel have no more.
        whole = all(place in watched or self._add(place) for place in newest)
        if whole and (self._outbox is None or self._outbox in self._inotify):
            self._short = ""
        return {number for number in numbers if places[number] in self._inotify}

    @property
    def trouble(self) -> str:
        """Why there are fewer watches than wanted, or that events were lost lately; "" if all is well."""
        if self._lost is not None and time.monotonic() - self._lost[0] < LOST_SECONDS:
            return self._lost[1]
        return self._short

    @property
    def count(self) -> int:
        """How many launch directories are watched."""
        return len(self._inotify) - (self._outbox in self._inotify) if self._inotify else 0

    @property
    def used(self) -> bool:
        """Whether events are asked for."""
        return self._inotify is not None

    @property
    def remote(self) -> bool:
        """Whether events tell nothing of what jobs write."""
        return self._remote

    def _add(self, place: str) -> bool:
        """Watch a directory; false if no other could be watched either."""
        assert self._inotify is not None
        try:
            self._inotify.add(place)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return place != self._outbox
        except OSError as error:
            self._short = f"no more file events ({error.strerror}): sweeps find what they miss"
            return False
        return True

    def _comes(self, outbox: Path) -> bool:
        """Tell whether writing a file raises an event; nothing is left of it."""
        self._answered.clear()
        self._probe = f".probe.{os.getpid()}.{token_hex(4)}"
        path = outbox / self._probe
        try:
            path.touch()
            return self._answered.wait(PROBE_SECONDS)
        except OSError:
            return False
        finally:
            with suppress(OSError):
                path.unlink()

    def _tell(self, directory: str | None, name: str) -> None:
        # Runs on the thread of inotify, so it does nothing but wake the loop.
        if directory is None:
            told = f"events were lost at {when(timestamp())}, too many at once; all was looked at"
            self._lost = time.monotonic(), told
            self._wake.call("overflow")
        elif directory != self._outbox:
            if name in _TELLING:
                self._wake.call("event", directory)
        elif not name.startswith("."):
            self._wake.call("outbox")
        elif name == self._probe:
            self._answered.set()
