"""The history of a launch: what a report adds to it, and the times that follow from it.

FireWorks computes ``time_start`` and ``time_end`` of a recovered run from the moment of recovery, and
forgets pings and checkpoints (weaknesses W5, W6, W31). Here they are what the compute node wrote.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fwcore.documents import iso, milliseconds, parse_time
from fwcore.states import FINAL
from fwrunner.protocol import Report

Document = dict[str, Any]


def started(history: list[Document], report: Report) -> list[Document]:
    """Return the history with its RUNNING entry brought up to date from a report.

    ``updated_on`` is the last sign of life, as a text: the lost-run query compares texts (C3).
    """
    history = [dict(entry) for entry in history]
    begin = parse_time(report.started_on)
    entry = next((entry for entry in history if entry["state"] == "RUNNING"), None)
    if entry is None and begin is None:
        return history
    if entry is None:
        entry = {"state": "RUNNING"}
        history.append(entry)
    signs = (entry.get("updated_on"), report.ping_time, report.started_on)
    seen = [moment for moment in map(parse_time, signs) if moment is not None]
    if begin is not None:
        entry["created_on"] = iso(begin)
    if seen:
        entry["updated_on"] = iso(max(seen))
    if report.checkpoint:
        entry["checkpoint"] = report.checkpoint
    return history


def reopened(history: list[Document]) -> list[Document]:
    """Return the history of a lost launch as it was before we ended it: the last entry off, dates as texts."""
    return [_with_texts(entry) for entry in history[:-1]]


def last_sign(before: list[Document], after: list[Document]) -> Document:
    """Return the filter that matches as long as the RUNNING entry of ``after`` is dated as it was ``before``."""
    position = next((n for n, entry in enumerate(after) if entry["state"] == "RUNNING"), None)
    if position is None:
        return {}
    known = before[position].get("updated_on") if position < len(before) else None
    # Null would match: MongoDB looks for a field "1" in each entry, too.
    return {f"state_history.{position}.updated_on": known or {"$exists": False}}


def ended(history: list[Document], report: Report, now: datetime) -> list[Document]:
    """Return the history with its last entry; dates become BSON dates, as after any recovery."""
    completed = parse_time(report.completed_on) or parse_time(report.ping_time) or now
    # Where a clock was set back meanwhile, or the end is known by another clock than the start: no time has passed.
    completed = max(completed, _first_time(history, {"RUNNING"}) or completed)
    entry: Document = {"state": report.state, "created_on": iso(completed)}
    # A later `lpad rerun_fws --task-level` takes the checkpoint from the last entry.
    checkpoint = report.checkpoint or (history[-1].get("checkpoint") if history else None)
    if checkpoint and report.state == "FIZZLED":
        entry["checkpoint"] = checkpoint
    return [_with_dates(entry) for entry in [*history, entry]]


def derived_times(history: list[Document], now: datetime | None = None) -> Document:
    """Return the fields of a launch that FireWorks computes from its history at every write.

    The time in the queue goes on until ``now`` while the launch has not started. It is by two clocks, and never
    negative.
    """
    start, end = _first_time(history, {"RUNNING"}), _first_time(history, FINAL)
    reserved = _first_time(history, {"RESERVED"})
    times: Document = {
        "time_start": iso(start) if start else None,
        "time_end": iso(end) if end else None,
        "runtime_secs": max(0.0, (end - start).total_seconds()) if start and end else None,
    }
    left_queue = start or now
    if reserved and left_queue:
        times["reservedtime_secs"] = max(0.0, (left_queue - reserved).total_seconds())
    return times


def _first_time(history: list[Document], states: set[str] | frozenset[str]) -> datetime | None:
    return next((parse_time(e["created_on"]) for e in history if e["state"] in states), None)


def _with_texts(entry: Document) -> Document:
    dates = {key: parse_time(entry.get(key)) for key in ("created_on", "updated_on")}
    return {**entry, **{key: iso(moment) for key, moment in dates.items() if moment}}


def _with_dates(entry: Document) -> Document:
    dates = {key: parse_time(entry.get(key)) for key in ("created_on", "updated_on")}
    return {**entry, **{key: milliseconds(moment) for key, moment in dates.items() if moment}}
