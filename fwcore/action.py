"""FWAction as a plain document, and the modifiers of ``mod_spec``.

Facts: FireWorks 2.1.4, ``fireworks/core/firework.py`` (``FWAction``) and
``fireworks/utilities/dict_mods.py`` (``DictMods``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Document = dict[str, Any]

#: Every key of a stored FWAction with the value that says nothing.
_EMPTY: Document = {
    "stored_data": {},
    "exit": False,
    "update_spec": {},
    "mod_spec": [],
    "additions": [],
    "detours": [],
    "append_wfs": [],
    "defuse_children": False,
    "defuse_workflow": False,
    "propagate": False,
}


#: Parts of an action that add Fireworks to a workflow.
GROWTH = ("detours", "append_wfs", "additions")

#: MongoDB refuses documents nested deeper than 100; an action sits a few levels down in its launch.
_MAX_DEPTH = 90


class InvalidAction(ValueError):
    """An action that cannot be stored or applied, with the reason for people."""


def normalized(action: Document) -> Document:
    """Return an action with every key that FireWorks stores; single objects become lists.

    Raises InvalidAction, naming the place, for what FireWorks could not load or MongoDB not store.
    """
    result = {key: action.get(key, default) for key, default in _EMPTY.items()}
    for key, default in _EMPTY.items():
        if isinstance(default, list):
            result[key] = _as_list(result[key])
        elif isinstance(default, bool):
            result[key] = bool(result[key])
        elif not isinstance(result[key], dict):
            raise InvalidAction(f"{key!r} is not an object")
    _check_storable(result, "", 0)
    return result


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [value] if value else []


def _check_storable(value: Any, path: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise InvalidAction(f"nested deeper than {_MAX_DEPTH} levels at {path:.60}")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or "\0" in key:
                raise InvalidAction(f"the key {key!r} at {path or 'the top'} is no usable text")
            _check_storable(key, path, depth)
            _check_storable(item, f"{path}.{key}" if path else key, depth + 1)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            _check_storable(item, f"{path}[{position}]", depth + 1)
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


def apply_modifiers(spec: Document, modifiers: list[Document]) -> None:
    """Apply ``mod_spec`` to a spec, in order and in place.

    A path ``a->b`` leads into nested objects, which are made where they are missing. Objects and
    lists below the top level are replaced by changed copies, never altered, so a shallow copy of a
    spec is enough to keep the old one. Raises InvalidAction at the first modifier that cannot be
    applied; the spec is then half changed.
    """
    for modifier in modifiers:
        if not isinstance(modifier, dict):
            raise InvalidAction(f"a modifier is an object, not {type(modifier).__name__}")
        for verb, arguments in modifier.items():
            _apply(spec, verb, arguments)


def _apply(spec: Document, verb: str, arguments: Any) -> None:
    handler = _VERBS.get(verb)
    if handler is None:
        raise InvalidAction(f"{verb!r} is not a modifier; known are {', '.join(sorted(_VERBS))}")
    if not isinstance(arguments, dict):
        if verb != "_unset" or not isinstance(arguments, list):
            raise InvalidAction(f"{verb} takes an object, not {type(arguments).__name__}")
        arguments = dict.fromkeys(arguments, "")
    for path, value in arguments.items():
        try:
            handler(*_descend(spec, path, verb), value)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            reason = error if isinstance(error, InvalidAction) else _reason(error)
            raise InvalidAction(f"{verb} of {path!r}: {reason}") from error


def _reason(error: Exception) -> str:
    return "no such key" if isinstance(error, KeyError) else str(error)


def _descend(spec: Document, path: str, verb: str) -> tuple[Document, str]:
    if verb == "_rename":
        return spec, path
    *parents, key = path.split("->")
    for parent in parents:
        inner = spec.get(parent, {})
        if not isinstance(inner, dict):
            raise InvalidAction(f"{parent!r} is not an object")
        spec[parent] = dict(inner)
        spec = spec[parent]
    return spec, key


def _list(target: Document, key: str) -> list[Any]:
    if not isinstance(target[key], list):
        raise InvalidAction("the value is not a list")
    return target[key]  # type: ignore[no-any-return]


def _set(target: Document, key: str, value: Any) -> None:
    target[key] = value


def _unset(target: Document, key: str, _value: Any) -> None:
    del target[key]


def _push(target: Document, key: str, value: Any) -> None:
    if key not in target:
        target[key] = [value]
    else:
        target[key] = [*_list(target, key), value]


def _push_all(target: Document, key: str, value: Any) -> None:
    target[key] = [*_list(target, key), *value] if key in target else value


def _inc(target: Document, key: str, value: Any) -> None:
    target[key] = target[key] + value if key in target else value


def _rename(target: Document, key: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InvalidAction("the new name is not a text")
    if key in target:
        target[value] = target.pop(key)


def _add_to_set(target: Document, key: str, value: Any) -> None:
    # FireWorks stores the bare value when the key is missing; a later one then fails there.
    if key not in target:
        target[key] = value
    elif value not in _list(target, key):
        target[key] = [*target[key], value]


def _pull(target: Document, key: str, value: Any) -> None:
    if key in target:
        target[key] = [item for item in _list(target, key) if item != value]


def _pull_all(target: Document, key: str, value: Any) -> None:
    if key in target:
        target[key] = [item for item in _list(target, key) if item not in value]


def _pop(target: Document, key: str, value: Any) -> None:
    items = list(_list(target, key))
    if value in (1, -1):
        items.pop(-1 if value == 1 else 0)
    target[key] = items


_VERBS: dict[str, Callable[[Document, str, Any], None]] = {
    "_set": _set,
    "_unset": _unset,
    "_push": _push,
    "_push_all": _push_all,
    "_inc": _inc,
    "_rename": _rename,
    "_add_to_set": _add_to_set,
    "_pull": _pull,
    "_pull_all": _pull_all,
    "_pop": _pop,
}
