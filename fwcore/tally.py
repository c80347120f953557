"""What a period of a LaunchPad is counted into: plain numbers, few however many launches there are.

Everything here can be added up, so that a long period can be read piece by piece.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

#: Seconds at which durations are told apart: what lies in between is counted together.
EDGES: tuple[float, ...] = (
    *(0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 45),
    *(60, 90, 120, 180, 300, 420, 600, 900, 1200, 1800, 2700),
    *(3600, 5400, 7200, 10800, 14400, 21600, 28800, 43200, 64800),
    *(86400, 129600, 172800, 259200, 432000, 604800, 1209600, 2592000, 7776000, 31536000),
)

_HOUR, _DAY = 3600, 86400
#: Seconds of a step on the axis of time.
_WIDTHS = (
    *(60, 300, 900, _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR),
    *(_DAY, 2 * _DAY, 7 * _DAY, 28 * _DAY, 91 * _DAY, 364 * _DAY),
)
#: Steps that a period has at most.
STEPS = 50


@dataclass(frozen=True)
class Period:
    """A span of time in ``count`` steps of ``width``; the last one is cut by ``until``."""

    begin: datetime
    until: datetime
    width: timedelta

    @property
    def count(self) -> int:
        """How many steps there are, at least one."""
        return max(1, -((self.begin - self.until) // self.width))

    def start(self, step: int) -> datetime:
        """Return when a step begins."""
        return self.begin + step * self.width


def period(since: datetime, until: datetime) -> Period:
    """Return the period that holds two moments, in at most ``STEPS`` steps from a whole hour or day."""
    span = max((until - since).total_seconds(), 60.0)
    fits = (each for each in _WIDTHS if span / each <= STEPS - 2)
    width = next(fits, _DAY * (1 + int(span // (_DAY * (STEPS - 2)))))
    midnight = datetime(since.year, since.month, since.day, tzinfo=since.tzinfo)
    whole = (since - midnight).total_seconds() // width * width
    return Period(midnight + timedelta(seconds=whole), until, timedelta(seconds=width))


@dataclass(frozen=True)
class Failure:
    """Why launches FIZZLED, alike for all that are counted together.

    ``lost`` tells that the job left no report; ``text`` is then the scheduler's state of it ("" if it has no word),
    else the last line of the exception or the message of the action ("" if there is none).
    """

    text: str
    name: str
    lost: bool = False
    exit_code: str = ""
    signal: str = ""


@dataclass
class Tally:
    """Counts of one period. Steps are numbered from 0; durations count under the edge that they have reached.

    ``ended``: (step, state). ``reserved``, ``started``, ``left`` (the reservation) and ``stopped`` (running): steps.
    ``now``: launches that are RESERVED and RUNNING. ``delays``: seconds from the end of a run until it stood in the
    database, of ``sampled`` out of ``recovered`` offline runs. ``failures`` may leave out rare ones.
    """

    ended: Counter[tuple[int, str]] = field(default_factory=Counter)
    reserved: Counter[int] = field(default_factory=Counter)
    started: Counter[int] = field(default_factory=Counter)
    left: Counter[int] = field(default_factory=Counter)
    stopped: Counter[int] = field(default_factory=Counter)
    waits: Counter[float] = field(default_factory=Counter)
    runs: Counter[float] = field(default_factory=Counter)
    delays: Counter[float] = field(default_factory=Counter)
    failures: Counter[Failure] = field(default_factory=Counter)
    now: Counter[str] = field(default_factory=Counter)
    fireworks: Counter[str] = field(default_factory=Counter)
    taken_back: int = 0
    recovered: int = 0
    sampled: int = 0
