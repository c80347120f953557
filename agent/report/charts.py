"""Charts as SVG, drawn to the size they are shown in, so that their text is never scaled down. Pure.

Colours are CSS variables of the page, which has them for light and dark. Every mark has a ``<title>``. Callers give
text as it is; it is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agent.report.words import cut, plain, short

#: Pixels around what is drawn; ``_MARKED`` is above a histogram, for two lines of text.
_LEFT, _RIGHT, _TOP, _BOTTOM, _MARKED = 44.0, 14.0, 12.0, 28.0, 44.0
#: Pixels of a character of the text in charts, on the wide side.
_CHARACTER = 7.0
_GAP = 10.0
#: Pixels of a row of horizontal bars: its words, then its bar.
_ROW, _BAR = 40.0, 12.0


@dataclass(frozen=True)
class Size:
    """A chart's width and height in pixels; ``name`` is the class by which the page shows it, or not."""

    name: str
    width: float
    height: float


#: On a phone, in one of two columns, and over both of them.
NARROW, WIDE, FULL = Size("narrow", 343, 220), Size("wide", 558, 260), Size("full", 1148, 260)


@dataclass(frozen=True)
class Column:
    """What stands over one place of an axis: ``parts`` are (class, count, what it is), from below."""

    parts: Sequence[tuple[str, int, str]]


@dataclass(frozen=True)
class Tick:
    """A word under an axis, at ``at`` columns from its beginning; ``rank`` 0 is set first."""

    at: float
    text: str
    rank: int = 0


@dataclass(frozen=True)
class Mark:
    """A line across a histogram, ``at`` so many columns from the beginning."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """Counts at the ends of steps, one more than there are steps."""

    name: str
    values: Sequence[int]


@dataclass(frozen=True)
class Bar:
    """A row of a chart of horizontal bars."""

    words: str
    count: int
    kind: str


def columns(
    size: Size, name: str, data: Sequence[Column], ticks: Sequence[Tick], marks: Sequence[Mark] = ()
) -> str:
    """Return a chart of stacked columns."""
    top = _MARKED if marks else _TOP
    frame = _Frame(size, top, len(data), max(_height(column) for column in data))
    body = [*_grid(frame), *_under(frame, ticks)]
    for index, column in enumerate(data):
        body += _stack(frame, index, column)
    for row, mark in enumerate(marks):
        body += _marked(frame, row, mark)
    return _svg(size, size.height, name, body)


def lines(
    size: Size, name: str, data: Sequence[Line], told: Sequence[str], ticks: Sequence[Tick]
) -> str:
    """Return a chart of lines; ``told`` is what each step says of all of them."""
    count = len(told)
    frame = _Frame(size, _TOP, count, max((max(line.values) for line in data), default=0))
    body = [*_grid(frame), *_under(frame, ticks)]
    for line in data:
        points = [f"{frame.x(at):.1f},{frame.y(n):.1f}" for at, n in enumerate(line.values)]
        attributes = {"class": f"line {line.name.lower()}", "points": " ".join(points)}
        body.append(_tag("polyline", _tag("title", plain(line.name)), **attributes))
    for step, words in enumerate(told):
        area = frame.box(frame.x(step), frame.y(frame.most), frame.step, frame.inner)
        body.append(_tag("rect", _tag("title", plain(words)), **{"class": "hover", **area}))
    return _svg(size, size.height, name, body)


def rows(size: Size, name: str, data: Sequence[Bar]) -> str:
    """Return a chart of horizontal bars, each under its words."""
    most = max(bar.count for bar in data)
    room = size.width - 4
    body = []
    for index, bar in enumerate(data):
        top = index * _ROW
        count = short(bar.count)
        words = cut(bar.words, int((room - _CHARACTER * len(count) - _GAP) / _CHARACTER))
        body.append(_tag("text", plain(words), x="2", y=f"{top + 16:.1f}"))
        body.append(_tag("text", count, x=f"{room:.1f}", y=f"{top + 16:.1f}", **{"class": "end"}))
        area = {
            "x": "2",
            "y": f"{top + 22:.1f}",
            "width": f"{max(2.0, (room - 2) * bar.count / most):.1f}",
            "height": f"{_BAR:.1f}",
        }
        title = _tag("title", plain(f"{bar.words}: {bar.count}"))
        body.append(_tag("rect", title, **{"class": bar.kind, **area}))
    return _svg(size, len(data) * _ROW, name, body)


class _Frame:
    """Where things are in a chart with axes."""

    def __init__(self, size: Size, top: float, count: int, highest: int) -> None:
        self.size = size
        self.top = top
        self.ticks = _round_numbers(highest)
        self.most = self.ticks[-1]
        self.step = (size.width - _LEFT - _RIGHT) / count
        self.inner = size.height - top - _BOTTOM

    def x(self, at: float) -> float:
        return _LEFT + at * self.step

    def y(self, value: float) -> float:
        return self.top + self.inner * (1 - value / self.most)

    @staticmethod
    def box(x: float, y: float, width: float, height: float) -> dict[str, str]:
        sides = {"x": x, "y": y, "width": width, "height": height}
        return {key: f"{value:.1f}" for key, value in sides.items()}


def _round_numbers(highest: int) -> list[int]:
    """Return three to six whole numbers from 0 on, the last of them at or above the highest."""
    if highest <= 2:
        return list(range(max(1, highest) + 1))
    power = 10 ** math.floor(math.log10(highest / 4)) if highest >= 4 else 1
    step = int(
        next(n * power for n in (1, 2, 5, 10) if n * power * 5 >= highest and n * power >= 1)
    )
    return (
        list(range(0, highest + step, step))
        if highest % step
        else list(range(0, highest + 1, step))
    )


def _height(column: Column) -> int:
    return sum(count for _kind, count, _words in column.parts)


def _grid(frame: _Frame) -> Iterator[str]:
    right = frame.size.width - _RIGHT
    for value in frame.ticks:
        y = f"{frame.y(value):.1f}"
        yield _tag("line", x1=f"{_LEFT:.1f}", x2=f"{right:.1f}", y1=y, y2=y, **{"class": "grid"})
        place = {"x": f"{_LEFT - 6:.1f}", "y": f"{frame.y(value) + 4:.1f}", "class": "end"}
        yield _tag("text", short(value), **place)


def _under(frame: _Frame, ticks: Iterable[Tick]) -> Iterator[str]:
    """Yield the words under an axis, as many as there is room for."""
    taken: list[tuple[float, float]] = []
    for tick in sorted(ticks, key=lambda each: each.rank):
        middle, half = frame.x(tick.at), _CHARACTER * len(tick.text) / 2
        low, high = middle - half, middle + half
        if low < 0 or high > frame.size.width:
            continue
        if any(low < end + _GAP and high > start - _GAP for start, end in taken):
            continue
        taken.append((low, high))
        place = {"x": f"{middle:.1f}", "y": f"{frame.size.height - 8:.1f}", "class": "middle"}
        yield _tag("text", plain(tick.text), **place)
        bottom = frame.top + frame.inner
        x = f"{middle:.1f}"
        yield _tag(
            "line", x1=x, x2=x, y1=f"{bottom:.1f}", y2=f"{bottom + 4:.1f}", **{"class": "axis"}
        )


def _stack(frame: _Frame, index: int, column: Column) -> Iterator[str]:
    below = 0
    gap = min(2.0, frame.step / 5)
    for kind, count, words in column.parts:
        if not count:
            continue
        y = frame.y(below + count)
        # What is there can be seen, however little it is.
        height = max(1.0, frame.y(below) - y)
        area = frame.box(frame.x(index) + gap / 2, y, frame.step - gap, height)
        yield _tag("rect", _tag("title", plain(words)), **{"class": kind, **area})
        below += count


def _marked(frame: _Frame, row: int, mark: Mark) -> Iterator[str]:
    x, y = frame.x(mark.at), 14.0 + 16 * row
    bottom = frame.top + frame.inner
    title = _tag("title", plain(mark.text))
    ends = {"x1": f"{x:.1f}", "x2": f"{x:.1f}", "y1": f"{y - 8:.1f}", "y2": f"{bottom:.1f}"}
    yield _tag("line", title, **{"class": "mark", **ends})
    to_left = x + 6 + _CHARACTER * len(mark.text) > frame.size.width
    place = {"x": f"{x - 6 if to_left else x + 6:.1f}", "y": f"{y:.1f}"}
    yield _tag("text", plain(mark.text), **place, **({"class": "end"} if to_left else {}))


def _svg(size: Size, height: float, name: str, body: Iterable[str]) -> str:
    view = f"0 0 {size.width:g} {height:g}"
    attributes = {"class": size.name, "viewBox": view, "role": "img", "aria-label": plain(name)}
    return _tag("svg", "".join(body), **attributes)


def _tag(name: str, content: str = "", **attributes: Any) -> str:
    written = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f"<{name}{written}>{content}</{name}>"
