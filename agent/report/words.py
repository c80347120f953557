"""Numbers, spans, moments and foreign text as a page shows them. Pure."""

from __future__ import annotations

from datetime import datetime
from html import escape

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_THOUSANDS = ((1_000_000_000, "G"), (1_000_000, "M"), (1000, "k"))


def plain(text: object) -> str:
    """Return foreign text for HTML: escaped, and without what is not shown or turns the line around."""
    shown = "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(text)
    )
    return escape(shown)


def cut(text: str, most: int) -> str:
    """Return at most so many characters of a text, the first ones."""
    return text if len(text) <= most else text[: most - 1] + "…"


def number(value: float) -> str:
    """Return a number with its thousands apart."""
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def short(value: float) -> str:
    """Return a number for an axis: 1500 is ``1.5k``."""
    for size, unit in _THOUSANDS:
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def span(seconds: float | None) -> str:
    """Return a duration in its largest fitting unit, with two digits that count."""
    if seconds is None:
        return "-"
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{_two_digits(seconds / size)} {unit}"
    return f"{seconds * 1000:.0f} ms" if seconds else "0 s"


def _two_digits(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") if value < 10 else f"{value:.0f}"


def day(moment: datetime) -> str:
    """Return a day of a year that goes without saying: ``3 Nov``."""
    return f"{moment.day} {moment:%b}"


def month(moment: datetime) -> str:
    """Return the month of a day, where a day alone could be in more than one year: ``Nov 2026``."""
    return f"{moment:%b %Y}"


def minute(moment: datetime) -> str:
    """Return a moment to the minute."""
    return f"{moment.day} {moment:%b %Y %H:%M}"
