"""Trackers: the last lines of files that a job writes, kept in its launch for `lpad track_fws`.

A tracker of a launch is ``{"filename", "nlines", "allow_zipped"}``, and ``content`` once there is some. Facts:
FireWorks 2.1.4, ``Tracker`` in ``fireworks/core/firework.py``; contract, sections 1.2 and 7. FireWorks loses
the contents of offline runs (weakness W33).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fwrunner.protocol import Report

Document = dict[str, Any]

#: FireWorks loads no tracker of more lines.
MAX_LINES = 1000
#: Trackers of a launch that get content, and characters of all their contents: a launch is read often.
MAX_FILES = 20
MAX_CHARACTERS = 256 * 1024

_LINE_END = re.compile("\r\n|\r|\n")


def new_trackers(source: Any) -> list[Document]:
    """Return the stored form of ``_trackers``; what is no tracker is left out, for FireWorks loads none."""
    trackers = source if isinstance(source, list) else []
    return [
        {
            "filename": tracker["filename"],
            "nlines": min(tracker.get("nlines", 25), MAX_LINES),
            "allow_zipped": tracker.get("allow_zipped", False),
        }
        for tracker in trackers
        if _is_tracker(tracker)
    ]


def followed(launch: Mapping[str, Any], report: Report) -> Document:
    """Return ``{"trackers": [...]}`` of a launch with the contents that a report has, else {}.

    A file that the report has nothing of keeps the content that is stored.
    """
    trackers = launch.get("trackers")
    if not report.trackers or not isinstance(trackers, list):
        return {}
    room = MAX_CHARACTERS
    result = list(trackers)
    for position, tracker in enumerate(trackers[:MAX_FILES]):
        content = _content(tracker, report.trackers)[-room:] if room else ""
        room -= len(content)
        if content:
            result[position] = {**tracker, "content": content}
    return {"trackers": result}


def _content(tracker: Any, texts: Mapping[str, Any]) -> str:
    text = texts.get(tracker["filename"]) if _is_tracker(tracker) else None
    if not isinstance(text, str):
        return ""
    storable = text.encode("utf-8", "replace").decode("utf-8")
    return last_lines(storable, tracker.get("nlines", 25))


def last_lines(text: str, count: int) -> str:
    """Return the last lines of a text as FireWorks does: joined by newlines, none at the end.

    A count that is not positive means as many as there may be.
    """
    lines = _LINE_END.split(text)
    if not lines[-1]:
        lines.pop()
    return "\n".join(lines[-(min(count, MAX_LINES) if count > 0 else MAX_LINES) :])


def _is_tracker(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("filename"), str)
        and type(value.get("nlines", 25)) is int
    )
