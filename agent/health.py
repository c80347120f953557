"""What others may know of a running agent: a small status file below the launch root, in `Config.own`."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agent import modes
from agent.printable import when
from agent.results import Result
from fwcore.documents import parse_time
from fwrunner.protocol import Unreadable, read_json, timestamp, write_atomic

STATUS_FILE = "status.json"
#: Seconds between two writes of a status that says nothing new but the time.
_INTERVAL = 10.0
#: Deferred launches and Fireworks whose reasons are told.
DEFERRALS = 50
#: The mode after `fwagent sync`, as long as no daemon runs.
SYNCED = "sync"
#: Seconds without a `fwagent sync` after which none is taken to be in a crontab.
_SYNC_LATE = 6 * 3600.0
#: Minutes of which it is known what was done in them.
_RECENT = 60


@dataclass
class Health:
    """The state of one agent, in times (ISO 8601, UTC) and counts since its start."""

    worker: str
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    started_on: str = field(default_factory=timestamp)
    mode: str = "starting"
    last_pass: str | None = None
    passes: int = 0
    database_down_since: str | None = None
    last_error: str | None = None
    last_hint: str = ""
    last_error_on: str | None = None
    #: Since when what the last error told of is over.
    last_error_over_on: str | None = None
    errors: int = 0
    open_launches: int = 0
    deferred: int = 0
    #: The newest of what is deferred, as in a `Result`: at most DEFERRALS.
    deferrals: list[dict[str, Any]] = field(default_factory=list)
    applied: int = 0
    submitted: int = 0
    watched: int = 0
    watch_trouble: str = ""
    #: What events tell where the outbox is.
    events: str = ""
    #: Reports of the backlog that are applied now: {"done", "total"}.
    backlog: dict[str, int] = field(default_factory=dict)
    last_latency: float | None = None
    #: Of the past hour, the minutes in which something was done: [minute since the epoch, applied, submitted].
    recent: list[list[int]] = field(default_factory=list)
    locks: list[dict[str, Any]] = field(default_factory=list)
    #: What people want of it, as `agent.modes.document`.
    wish: dict[str, Any] = field(default_factory=dict)

    def failed(self, title: str, hint: str = "") -> None:
        """Note an error of ours, and what to do about it."""
        self.last_error, self.last_hint, self.last_error_on = title, hint, timestamp()
        self.last_error_over_on = None
        self.errors += 1

    def recovered(self, title: str) -> None:
        """Note that what an error told of is over."""
        if title == self.last_error:
            self.last_error_over_on = timestamp()

    def passed(self) -> None:
        """Note a pass without a fault."""
        self.passes += 1
        self.last_pass = timestamp()
        self.database_down_since = None

    def add(self, result: Result, latency: float | None, *, open_launches: int) -> None:
        """Count what a pass did; ``latency`` is in seconds, of the slowest report in it."""
        self.applied += len(result.applied)
        self.submitted += len(result.submitted)
        self.recent = counted(
            self.recent, this_minute(), len(result.applied), len(result.submitted)
        )
        self.open_launches = open_launches
        self.last_latency = latency if latency is not None else self.last_latency

    def follow(self, before: dict[str, Any] | None) -> None:
        """Go on with what a status file tells of the past hour, if it is of the same worker."""
        if before and before.get("worker") == self.worker:
            self.recent = _minutes(before.get("recent"))

    def synced(self, result: Result, *, open_launches: int) -> None:
        """Note a whole `fwagent sync`."""
        self.passed()
        latency = max(result.latencies.values(), default=None)
        self.add(result, latency, open_launches=open_launches)
        self.deferred, self.deferrals = len(result.deferred), result.deferred[-DEFERRALS:]
        self.mode = SYNCED

    def line(self) -> str:
        """Return what the agent does, in a line for people."""
        if self.database_down_since is not None:
            return (
                f"waits for the database since {when(self.database_down_since)}: {self.last_error}"
            )
        if self.mode != "serving":
            return self.mode
        asked = modes.told(self.wish)
        return (f"{asked}; " if asked else "") + (
            f"serves {self.worker}: {self.open_launches} open launches; since its start "
            f"{self.applied} reports applied, {self.submitted} jobs submitted"
        )

    def database_down(self) -> None:
        """Note since when the database has not answered."""
        self.database_down_since = self.database_down_since or timestamp()


def syncs(told: Mapping[str, Any], on: object) -> bool:
    """Tell from a status (its ``mode`` and ``last_pass``) whether `fwagent sync` seems to be run again and again."""
    last, now = parse_time(told.get("last_pass")), parse_time(on)
    if told.get("mode") != SYNCED or last is None or now is None:
        return False
    return (now - last).total_seconds() < _SYNC_LATE


def this_minute() -> int:
    """Return the present minute since the epoch."""
    return int(time.time() // 60)


def counted(recent: list[list[int]], minute: int, applied: int, submitted: int) -> list[list[int]]:
    """Return ``Health.recent`` with what was done in a minute, without what is over an hour old."""
    if not applied and not submitted:
        return recent
    kept = [entry for entry in recent if minute - _RECENT < entry[0] < minute]
    before = [entry for entry in recent if entry[0] == minute] or [[minute, 0, 0]]
    return [*kept, [minute, before[0][1] + applied, before[0][2] + submitted]]


def _minutes(recent: object) -> list[list[int]]:
    """Return what is a ``Health.recent`` in any JSON."""
    return [
        entry
        for entry in (recent if isinstance(recent, list) else [])
        if isinstance(entry, list) and len(entry) == 3 and all(type(n) is int for n in entry)
    ]


def past_hour(recent: object, minute: int) -> tuple[int, int]:
    """Return how many reports were applied and jobs submitted in the hour before a minute, of any JSON."""
    new = [entry for entry in _minutes(recent) if minute - _RECENT < entry[0] <= minute]
    return sum(entry[1] for entry in new), sum(entry[2] for entry in new)


class StatusFile:
    """Writes the status file when it says something new, else only now and then."""

    def __init__(self) -> None:
        self._written: dict[str, Any] = {}
        self._due = 0.0

    def write(self, own: Path, health: Health, now: float) -> str:
        """Write what changed into `Config.own`; return why it cannot be, as a full disk must not stop the agent.

        ``now`` is in seconds.
        """
        told = asdict(health)
        news = {key: value for key, value in told.items() if key not in ("last_pass", "passes")}
        if news == self._written and now < self._due:
            return ""
        self._written, self._due = news, now + _INTERVAL
        if health.mode.startswith("idle") and _serves_another(own, health.pid):
            return ""
        try:
            own.mkdir(mode=0o700, exist_ok=True)
            write_atomic(str(own / STATUS_FILE), told)
        except OSError as error:
            trouble = f"the status file cannot be written: {error.strerror}"
            health.failed(trouble)
            return trouble
        return ""


def _serves_another(own: Path, pid: int) -> bool:
    # An idle agent must not hide the one that works.
    told = read_status(own)
    return told is not None and told.get("mode") == "serving" and told.get("pid") != pid


def backlog(outbox: Path) -> dict[str, Any]:
    """Return how many ``reports`` wait in the outbox, and ``oldest_seconds``, the age of the oldest or None."""
    try:
        entries = [path for path in outbox.iterdir() if path.suffix == ".json"]
        states = [path.lstat() for path in entries if not path.name.startswith(".")]
        written = [state.st_mtime for state in states if stat.S_ISREG(state.st_mode)]
    except OSError:
        written = []
    oldest = max(0.0, time.time() - min(written)) if written else None
    return {"reports": len(written), "oldest_seconds": oldest}


def read_status(own: Path) -> dict[str, Any] | None:
    """Return the status file of the agent that last ran here, None if there is none."""
    try:
        return read_json(str(own / STATUS_FILE))
    except (FileNotFoundError, Unreadable):
        return None
