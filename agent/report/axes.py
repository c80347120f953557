"""Words under the axes of a chart: moments and durations. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from agent.report.charts import Mark, Tick
from agent.report.words import day, month, span

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 366 * 86400
#: Seconds between two words under an axis of time that is no longer than a few days.
_APART = (5 * _MINUTE, 15 * _MINUTE, _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY)
#: Words that fit under the narrowest chart.
_WORDS = 5
#: Durations that are worth a word, the first ones before the others.
_DURATIONS = (
    (1, _MINUTE, _HOUR, _DAY),
    (0.1, 10, 10 * _MINUTE, 6 * _HOUR, 7 * _DAY),
    (0.01, 0.5, 5, 30, 5 * _MINUTE, 30 * _MINUTE, 2 * _HOUR, 12 * _HOUR, 3 * _DAY, 30 * _DAY),
)


def of_time(moments: Sequence[datetime], seconds: float) -> list[Tick]:
    """Return the words of an axis whose steps, so many seconds each, begin at these moments."""
    apart = _spacing(len(moments) * seconds, seconds)
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    if seconds >= _DAY:
        every = max(1, round(apart / seconds))
        named = month if len(moments) * seconds > _YEAR else day
        return [Tick(at, named(each)) for at, each in enumerate(moments) if at % every == 0]
    ticks = []
    for at, each in enumerate(moments):
        if (each - epoch).total_seconds() % apart == 0:
            begins = (each.hour, each.minute) == (0, 0)
            ticks.append(Tick(at, day(each) if begins else f"{each:%H:%M}", 0 if begins else 1))
    return ticks or [Tick(0, f"{moments[0]:%H:%M}")]


def _spacing(whole: float, seconds: float) -> float:
    usable = (each for each in _APART if each >= seconds and whole / each <= _WORDS)
    return next(
        usable, seconds * -(-whole // (seconds * _WORDS)) if seconds >= _DAY else _days(whole)
    )


def _days(whole: float) -> float:
    return _DAY * -(-whole // (_DAY * _WORDS))


def of_durations(bins: Sequence[dict[str, Any]]) -> list[Tick]:
    """Return the words of an axis of such bins."""
    edges = _edges(bins)
    return [
        Tick(edges.index(seconds), span(seconds), rank)
        for rank, row in enumerate(_DURATIONS)
        for seconds in row
        if seconds in edges
    ]


def mark(bins: Sequence[dict[str, Any]], seconds: float, words: str) -> Mark:
    """Return where a duration lies among such bins."""
    edges = _edges(bins)
    index = min(bisect_right(edges, seconds), len(edges) - 1) - 1
    low, high = edges[index], edges[index + 1]
    return Mark(index + min(1.0, (seconds - low) / (high - low)), words)


def _edges(bins: Sequence[dict[str, Any]]) -> list[float]:
    last = bins[-1]
    return [*(each["from"] for each in bins), last["to"] or 2 * last["from"]]
