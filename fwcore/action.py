"""FWAction as a plain document: made whole, and checked for what MongoDB cannot store.

Facts: FireWorks 2.1.4, ``fireworks/core/firework.py`` (``FWAction``).
"""

from __future__ import annotations

from copy import copy
from typing import Any

from fwrunner.protocol.action import EMPTY, InvalidAction

Document = dict[str, Any]


#: MongoDB refuses documents nested deeper than 100; an action sits a few levels down in its launch.
_MAX_DEPTH = 90


def normalized(action: Document) -> Document:
    """Return an action with every key that FireWorks stores; single objects become lists.

    Raises InvalidAction, naming the place, for what FireWorks could not load or MongoDB not store.
    """
    result = {key: action[key] if key in action else copy(EMPTY[key]) for key in EMPTY}
    for key, default in EMPTY.items():
        if isinstance(default, list):
            result[key] = _as_list(result[key])
        elif isinstance(default, bool):
            result[key] = bool(result[key])
        elif not isinstance(result[key], dict):
            raise InvalidAction(f"{key!r} is not an object")
    if not storable(result):
        _find_unstorable(result, "", 0)
    return result


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [value] if value else []


def storable(value: Any) -> bool:
    """Tell whether MongoDB can store a value; quick, for an action may have millions of numbers."""
    level = [value]
    for _depth in range(_MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                if not all(isinstance(key, str) and "\0" not in key for key in item):
                    return False
                below += [key for key in item if not key.isascii()]
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif not _storable_scalar(item):
                return False
        if not below:
            return True
        level = below
    return False


def _storable_scalar(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() or _encodable(value)
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _find_unstorable(value: Any, path: str, depth: int) -> None:
    """Raise InvalidAction, naming the first place that MongoDB cannot store."""
    if depth > _MAX_DEPTH:
        raise InvalidAction(f"nested deeper than {_MAX_DEPTH} levels at {path:.60}")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or "\0" in key:
                raise InvalidAction(f"the key {key!r} at {path or 'the top'} is no usable text")
            _find_unstorable(key, path, depth)
            _find_unstorable(item, f"{path}.{key}" if path else key, depth + 1)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            _find_unstorable(item, f"{path}[{position}]", depth + 1)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidAction(f"{path} is an integer beyond 64 bits")
    elif isinstance(value, str) and not _encodable(value):
        raise InvalidAction(f"{path} is a text with half a surrogate pair")


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def failure(message: str, stacktrace: str = "") -> Document:
    """Return the action of a failed launch, in the shape FireWorks gives it."""
    exception = {"_stacktrace": stacktrace, "_details": None}
    return {
        **normalized({}),
        "stored_data": {"_message": message, "_task": None, "_exception": exception},
        "exit": True,
    }
