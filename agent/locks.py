"""Workflows that stay locked: since when, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fwcore.launchpad.records import Lock
from fwrunner.protocol import timestamp

Entry = dict[str, Any]

_WHAT = {
    "dead": "its process is gone; the next sweep of an agent releases it",
    "unknown": "nothing tells whether a process still holds it",
}


def seen(locks: Iterable[Lock], before: Iterable[Mapping[str, Any]] = ()) -> list[Entry]:
    """Return what is to be told of locks that are not known to be held.

    Each: ``fw_id`` (the lowest of the workflow), ``name``, ``holder``, ``verdict`` (`dead` or `unknown`), ``why``,
    ``unlock`` (the command that releases it, null where none is needed), ``since`` (ISO, UTC: when it was first
    seen, of those that were seen ``before``, else now) and ``mark``, which tells this lock from a later one.
    """
    known = {entry.get("mark"): entry.get("since") for entry in before}
    return [
        {
            "fw_id": lock.fw_id,
            "name": lock.name,
            "holder": lock.holder,
            "verdict": lock.verdict,
            "why": _WHAT[lock.verdict],
            "unlock": f"fwagent unlock {lock.fw_id}" if lock.verdict == "unknown" else None,
            "since": known.get(_mark(lock)) or timestamp(),
            "mark": _mark(lock),
        }
        for lock in locks
        if lock.verdict in _WHAT
    ]


def _mark(lock: Lock) -> str:
    # FireWorks' locks are all alike, but a workflow that was worked at has another date.
    return f"{lock.fw_id} {lock.value} {lock.updated_on}"
