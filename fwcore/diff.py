"""The field-level writes that turn one document into another.

A write names the fields that changed and no others, so that what somebody else changed meanwhile is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import isnan
from typing import Any

Document = dict[str, Any]


def update_between(old: Mapping[str, Any], new: Mapping[str, Any]) -> Document:
    """Return the MongoDB update (``$set``, ``$unset``) from ``old`` to ``new``; empty if they are equal.

    Objects are entered, lists are set whole. Where a key that a MongoDB path cannot express (one with a dot, a
    leading dollar, or empty: contract C15) has changed, the object around it is set whole.
    """
    changes: Document = {}
    removals: Document = {}
    _compare_members("", old, new, _differing(old, new), changes, removals)
    update = {}
    if changes:
        update["$set"] = changes
    if removals:
        update["$unset"] = removals
    return update


def history_update(old: list[Document], new: list[Document]) -> Document:
    """Return the ``$set`` of a ``state_history``: entry by entry if it has only grown or been touched.

    A reservation id that the submitter adds to an earlier entry at the same time is thereby kept. Where an entry,
    or a part of one, is gone (a lost launch that lives after all), the whole is set.
    """
    if len(new) < len(old) or any(
        before.keys() - after.keys() for before, after in zip(old, new, strict=False)
    ):
        return {"state_history": new}
    changes: Document = {}
    for position, entry in enumerate(new):
        path = f"state_history.{position}"
        if position >= len(old):
            changes[path] = entry
            continue
        for key, value in entry.items():
            if not same(old[position].get(key, _ABSENT), value):
                changes[f"{path}.{key}"] = value
    return changes


class _Absent:
    """Stands for a key that is not there; equal to nothing else."""


_ABSENT = _Absent()


def _compare_members(
    prefix: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    differing: list[str],
    changes: Document,
    removals: Document,
) -> None:
    for key in differing:
        before, after = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if after is _ABSENT:
            removals[prefix + key] = ""
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            inner = _differing(before, after)
            if all(map(_expressible, inner)):
                _compare_members(f"{prefix}{key}.", before, after, inner, changes, removals)
                continue
        changes[prefix + key] = after


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values are not the same, then those that are gone."""
    # Most values are the very ones that were read: asked here, for a call each would cost more than all the rest.
    found = [
        key
        for key, after in new.items()
        if (before := old.get(key, _ABSENT)) is not after and not same(before, after)
    ]
    return found + [key for key in old if key not in new]


def same(before: Any, after: Any) -> bool:
    """Tell whether two values are stored alike; 1, 1.0 and True are equal in Python, not in BSON."""
    if before is after:
        return True
    if type(before) is not type(after):
        return False
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(
            same(before[key], after[key]) for key in before
        )
    if isinstance(before, list):
        return len(before) == len(after) and all(map(same, before, after))
    if isinstance(before, float) and isnan(before):
        return isnan(after)  # Python's JSON has NaN, and so may a checkpoint
    return bool(before == after)


@lru_cache(maxsize=4096)
def _expressible(key: str) -> bool:
    return bool(key) and "." not in key and "\0" not in key and not key.startswith("$")
