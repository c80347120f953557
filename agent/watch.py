"""File events: a hint which launch directories to look at, and a reason to wake up.

Events only shorten the wait. Writes of other hosts raise none on NFS, Lustre or GPFS, and a full kernel
queue loses some: the sweep and the listing of the outbox find everything without them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

from fwrunner.protocol import ACTION_JSON, OFFLINE_JSON, PING_JSON

#: Launch directories watched at once, the newest first: each costs watchdog a thread.
MAX_WATCHED = 100

_TELLING = frozenset({OFFLINE_JSON, PING_JSON, ACTION_JSON})
# Opening and closing for reading raise events too: ours would wake us for ever.
_EVENTS: list[type[FileSystemEvent]] = [FileClosedEvent, FileCreatedEvent, FileMovedEvent]


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


class _Handler(FileSystemEventHandler):
    """Runs on watchdog's thread, so it does nothing but wake the loop."""

    def __init__(self, wake: Wake, names: frozenset[str] | None) -> None:
        self._wake = wake
        self._names = names

    def on_any_event(self, event: FileSystemEvent) -> None:
        # An atomic replacement is a move whose destination is the file.
        path = os.fsdecode(event.dest_path or event.src_path)
        directory, name = os.path.split(path)
        if self._names is None:
            if not name.startswith("."):
                self._wake.call("outbox")
        elif name in self._names:
            self._wake.call("event", directory)


class Watch:
    """inotify watches on the outbox and on the newest launch directories."""

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._observer: BaseObserver = Observer()
        self._watched: dict[str, ObservedWatch] = {}
        self._outbox: ObservedWatch | None = None
        #: Why there are fewer watches than wanted, if so.
        self.trouble = ""

    def start(self) -> None:
        """Begin to deliver events."""
        self._observer.start()

    def stop(self) -> None:
        """Stop, and wait for watchdog's threads."""
        self._observer.stop()
        self._observer.join(timeout=5)

    def watch_outbox(self, outbox: Path) -> None:
        """Wake the loop for whatever appears in the outbox."""
        if self._outbox is not None and self._outbox.path == str(outbox):
            return
        if self._outbox is not None:
            self._observer.unschedule(self._outbox)
        self._outbox = self._schedule(str(outbox), _Handler(self._wake, None))

    def watch_launches(self, places: Mapping[int, str]) -> None:
        """Watch the directories of the newest launches, and of no others."""
        newest = sorted(places.items(), reverse=True)[:MAX_WATCHED]
        wanted = {place for _launch_id, place in newest}
        for place in set(self._watched) - wanted:
            self._observer.unschedule(self._watched.pop(place))
        for place in wanted - set(self._watched):
            if not Path(place).is_dir():
                continue
            watch = self._schedule(place, _Handler(self._wake, _TELLING))
            if watch is None:
                return
            self._watched[place] = watch

    @property
    def count(self) -> int:
        """How many launch directories are watched."""
        return len(self._watched)

    def _schedule(self, place: str, handler: _Handler) -> ObservedWatch | None:
        try:
            watch = self._observer.schedule(handler, place, event_filter=_EVENTS)
        except OSError as error:
            self.trouble = f"no more file events ({error.strerror}): sweeps find what they miss"
            return None
        self.trouble = ""
        return watch
