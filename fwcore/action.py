"""FWAction as a plain document: made whole, and checked for what MongoDB cannot store.

Facts: FireWorks 2.1.4, ``fireworks/core/firework.py`` (``FWAction``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fwrunner.protocol.action import (
    EMPTY,
    InvalidAction,
    apply_modifiers,
    with_whole_workflows,
)

Document = dict[str, Any]


#: Levels of nesting that MongoDB promises to store in a document, the document itself counted.
_LEVELS = 100
#: An action sits a few levels down in its launch.
_MAX_DEPTH = 90
#: A spec lies one level down in its Firework, a failed parent in `_fizzled_parents` three.
_SPEC_DEPTH, _PARENT_DEPTH = _LEVELS - 1, _LEVELS - 3


def normalized(action: Document) -> Document:
    """Return an action with every key that FireWorks stores; single objects become lists, workflows whole.

    Raises InvalidAction, naming the place, for what FireWorks could not load or MongoDB not store.
    """
    # The type of each default makes it anew: {}, [] or False.
    result = {k: action[k] if k in action else type(default)() for k, default in EMPTY.items()}
    for key, default in EMPTY.items():
        if isinstance(default, list):
            result[key] = _as_list(result[key])
        elif isinstance(default, bool):
            result[key] = bool(result[key])
        elif not isinstance(result[key], dict):
            raise InvalidAction(f"{key!r} is not an object")
    if not storable(result):
        _find_unstorable(result, "", 0)
    return with_whole_workflows(result)


#: The modifiers that alter a list instead of replacing it.
_IN_PLACE = frozenset({"_push", "_push_all", "_inc", "_add_to_set", "_pop"})


def modified(spec: Document, action: Mapping[str, Any]) -> Document:
    """Return a spec after an action's ``update_spec`` and ``mod_spec``.

    Raises InvalidAction, naming the place, where a modifier cannot be applied, or makes what MongoDB cannot store.
    ``_tasks`` is as FireWorks has it: it keeps a Firework's tasks beside its spec and writes them over the
    spec's in the end. So what replaces the list is lost, and what alters it stays.
    """
    before = {**spec, **action["update_spec"]}
    after = dict(before)
    apply_modifiers(after, action["mod_spec"])
    after.update(_modified_tasks(spec, action))
    # The rest is stored already, or was checked when the action was made whole.
    made = {k: value for k, value in after.items() if k not in before or before[k] is not value}
    if not storable(made, _SPEC_DEPTH):
        _find_unstorable(made, "", 0, _SPEC_DEPTH)
    return after


def tellable(firework: Document) -> bool:
    """Tell whether MongoDB can store a Firework in the ``_fizzled_parents`` of a child."""
    return storable(firework, _PARENT_DEPTH)


def _modified_tasks(spec: Document, action: Mapping[str, Any]) -> Document:
    found = {key: spec[key] for key in ("_tasks",) if key in spec}
    replaced = "_tasks" in action["update_spec"]
    for modifier in action["mod_spec"]:
        for verb, arguments in modifier.items():
            if replaced or not _concerns_tasks(verb, arguments):
                continue
            replaced = verb not in _IN_PLACE
            if not replaced:
                apply_modifiers(found, [{verb: {"_tasks": arguments["_tasks"]}}])
                _check_tasks(found.get("_tasks", []))
    return found


def _check_tasks(tasks: Any) -> None:
    usable = isinstance(tasks, list) and all(
        isinstance(task, Mapping) and "_fw_name" in task for task in tasks
    )
    if not usable:
        raise InvalidAction("'_tasks' would hold what is no task")


def _concerns_tasks(verb: str, arguments: Any) -> bool:
    renamed = verb == "_rename" and "_tasks" in arguments.values()
    return renamed or "_tasks" in arguments


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [value] if value else []


def storable(value: Any, depth: int = _MAX_DEPTH) -> bool:
    """Tell whether MongoDB can store a value, nested in itself up to ``depth`` levels.

    Quick, for an action may have millions of numbers.
    """
    level = [value]
    for _depth in range(depth + 1):
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


def _find_unstorable(value: Any, path: str, depth: int, most: int = _MAX_DEPTH) -> None:
    """Raise InvalidAction, naming the first place that MongoDB cannot store."""
    if depth > most:
        raise InvalidAction(f"nested deeper than {most} levels at {path:.60}")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or "\0" in key:
                raise InvalidAction(f"the key {key!r} at {path or 'the top'} is no usable text")
            _find_unstorable(key, path, depth, most)
            _find_unstorable(item, f"{path}.{key}" if path else key, depth + 1, most)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            _find_unstorable(item, f"{path}[{position}]", depth + 1, most)
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


def without_growth(action: Document) -> Document:
    """Return the action of a failed launch with what it would have added set aside, as ``stored_data._action``."""
    grown = {key: action[key] for key in ("additions", "detours", "append_wfs") if action[key]}
    stored = {**action["stored_data"], "_action": grown}
    return {**action, **{key: [] for key in grown}, "stored_data": stored}


def failure(message: str, stacktrace: str = "") -> Document:
    """Return the action of a failed launch, in the shape FireWorks gives it."""
    exception = {"_stacktrace": stacktrace, "_details": None}
    return {
        **normalized({}),
        "stored_data": {"_message": message, "_task": None, "_exception": exception},
        "exit": True,
    }
