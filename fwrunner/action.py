"""What a Firetask gives back: read it by its shape, check that it can be stored, apply it.

FireWorks calls it an FWAction. Here it is a plain dict that has every key of ``EMPTY``.
"""

import datetime as dt
import json
from typing import Any, Callable, Dict, List, Tuple

from fwrunner.protocol import MAX_INT
from fwrunner.protocol.action import EMPTY, InvalidAction, apply_modifiers

Action = Dict[str, Any]
Path = Tuple[str, ...]

#: After an action that has one of these, the remaining tasks of the Firework are skipped.
SKIPS = ("exit", "additions", "detours", "append_wfs", "defuse_children", "defuse_workflow")

# MongoDB takes 100 levels, and an action is stored inside other documents.
_MAX_DEPTH = 90


class Fault(Exception):
    """What is wrong with a task, or with its result, in words for the user."""


def read_action(result: Any) -> Action:
    """Return the FWAction that a task's result means, its values unchanged.

    The result may be nothing (None or, as in FireWorks, anything empty), an object like FireWorks'
    own FWAction, an object with ``as_dict`` or ``to_dict``, or a dict with keys of an FWAction.
    """
    if result is None or (isinstance(result, (bool, int, str, list, tuple, dict)) and not result):
        given: Any = {}
    elif is_action(result):
        given = {key: getattr(result, key) for key in EMPTY if hasattr(result, key)}
    else:
        given = _dict_form(result) if _has_dict_form(result) else result
    if not isinstance(given, dict):
        raise Fault(f"it returned a {_type(result)}, which is no FWAction")
    for key in given:
        if key not in EMPTY:
            raise Fault(f"it returned a {_type(result)} with {key!r:.40}, which no FWAction has")
    return {key: _member(key, given.get(key)) for key in EMPTY}


def is_action(value: Any) -> bool:
    """Tell whether an object is like FireWorks' FWAction, which need not be installed here."""
    attributes = ("stored_data", "update_spec", "mod_spec")
    return not isinstance(value, type) and all(hasattr(value, name) for name in attributes)


def failure(message: str, task: Any, stacktrace: str, error: BaseException) -> Action:
    """Return the FWAction of a FIZZLED Firework, as FireWorks has it."""
    details = _quietly(lambda: plain(error.to_dict()))  # type: ignore[attr-defined]
    exception = {"_stacktrace": _text(stacktrace), "_details": details}
    stored = {"_message": _text(message), "_task": _quietly(lambda: plain(task))}
    return dict(read_action(None), stored_data=dict(stored, _exception=exception), exit=True)


def plain(value: Any, path: Path = ()) -> Any:
    """Return a copy of a value, made of what both JSON and MongoDB can hold.

    Tuples become lists, dates ISO 8601 texts, objects what their ``as_dict``, ``to_dict`` or (numpy)
    ``tolist`` gives; dict keys become texts as ``json`` makes them; NaN stays. A lone surrogate in a
    text, which UTF-8 cannot hold, is replaced by U+FFFD. Raises Fault, naming the place, for the
    rest: other types, integers beyond 64 bits, keys with a NUL character, values nested too deeply.
    """
    if len(path) > _MAX_DEPTH:
        raise Fault(f"{_place(path[:3])}... is nested more than {_MAX_DEPTH} deep, or holds itself")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return _integer(int(value), path)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    return _container(value, path)


def apply_mods(spec: Action, mods: List[Any]) -> None:
    """Apply a mod_spec to the spec of the running Firework."""
    try:
        apply_modifiers(spec, mods)
    except InvalidAction as error:
        raise Fault(f"its mod_spec fails: {error}") from error


def _quietly(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception:
        return None


def _member(key: str, value: Any) -> Any:
    default = EMPTY[key]
    if isinstance(default, bool):
        return bool(value)
    if isinstance(default, list):
        value = [] if value is None else value
        return list(value) if isinstance(value, (list, tuple)) else [value]
    if value and not isinstance(value, dict):
        raise Fault(f"its {key} is a {_type(value)}, not a dict")
    return value or {}


def _has_dict_form(value: Any) -> bool:
    return not isinstance(value, type) and (hasattr(value, "as_dict") or hasattr(value, "to_dict"))


def _dict_form(value: Any) -> Any:
    form = (value.as_dict if hasattr(value, "as_dict") else value.to_dict)()
    return dict(form) if isinstance(form, dict) else form


def _container(value: Any, path: Path) -> Any:
    if type(value) is not dict and _has_dict_form(value):
        return plain(_dict_form(value), (*path, ""))
    if isinstance(value, dict):
        return {_key(key, path): plain(value[key], (*path, f".{key}")) for key in value}
    if isinstance(value, (list, tuple)):
        return [plain(item, (*path, f"[{index}]")) for index, item in enumerate(value)]
    if hasattr(value, "tolist") and not isinstance(value, type):
        return plain(value.tolist(), (*path, ""))
    raise Fault(f"{_place(path)} is a {_type(value)}, which has no JSON form")


def _key(key: Any, path: Path) -> str:
    key = plain(key, path)
    if isinstance(key, (list, dict)):
        raise Fault(f"{_place(path)} has a key that is no text")
    text = key if isinstance(key, str) else json.dumps(key)
    if "\0" in text:
        raise Fault(f"{_place(path)} has a key with a NUL character")
    return text


def _text(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return str(value)


def _integer(value: int, path: Path) -> int:
    if not -MAX_INT - 1 <= value <= MAX_INT:
        raise Fault(f"{_place(path)} is an integer beyond 64 bits, which MongoDB cannot store")
    return value


def _place(path: Path) -> str:
    return "".join(path).lstrip(".") or "the result"


def _type(value: Any) -> str:
    kind = type(value)
    prefix = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return prefix + kind.__qualname__
