"""What a Firetask gives back: read it by its shape, apply it.

FireWorks calls it an FWAction. Here it is a plain dict that has every key of ``EMPTY``.
"""

import json
from typing import Any, Callable, Dict, List

from fwrunner import protocol
from fwrunner.plain import plain, type_name
from fwrunner.protocol.action import EMPTY, InvalidAction, apply_modifiers, with_whole_workflows

Action = Dict[str, Any]

#: After an action that has one of these, the remaining tasks of the Firework are skipped.
SKIPS = ("exit", "additions", "detours", "append_wfs", "defuse_children", "defuse_workflow")


class Fault(Exception):
    """What is wrong with a task, or with its result, in words for the user."""


def read_action(result: Any) -> Action:
    """Return the FWAction that a task's result means, its values unchanged, but new workflows made whole.

    The result may be nothing (None or, as in FireWorks, anything empty), an object like FireWorks'
    own FWAction, an object with ``as_dict`` or ``to_dict``, or a dict with keys of an FWAction.
    """
    if result is None or (isinstance(result, (bool, int, str, list, tuple, dict)) and not result):
        given: Any = {}
    elif is_action(result):
        given = {key: getattr(result, key) for key in EMPTY if _has(result, key)}
    else:
        given = _dict_form(result) if _has_dict_form(result) else result
    if not isinstance(given, dict):
        raise Fault(f"it returned a {type_name(result)}, which is no FWAction")
    for key in given:
        if key not in EMPTY:
            raise Fault(
                f"it returned a {type_name(result)} with {key!r:.40}, which no FWAction has"
            )
    return with_whole_workflows({key: _member(key, given.get(key)) for key in EMPTY})


def is_action(value: Any) -> bool:
    """Tell whether an object is like FireWorks' FWAction, which need not be installed here."""
    attributes = ("stored_data", "update_spec", "mod_spec")
    return not isinstance(value, type) and all(_has(value, name) for name in attributes)


def failure(message: str, task: Any, stacktrace: str, error: BaseException) -> Action:
    """Return the FWAction of a FIZZLED Firework, as FireWorks has it."""
    details = _quietly(lambda: plain(error.to_dict()))  # type: ignore[attr-defined]
    if len(json.dumps(details)) > protocol.MAX_ACTION_SIZE // 2:
        details = None  # the rest is to be told
    exception = {"_stacktrace": plain(stacktrace), "_details": details}
    stored = {"_message": plain(message), "_task": _quietly(lambda: plain(task))}
    return dict(read_action(None), stored_data=dict(stored, _exception=exception), exit=True)


def _has(value: Any, name: str) -> bool:
    """Tell whether an object has an attribute; the author of its class may not have thought of the question."""
    try:
        return hasattr(value, name)
    except Exception:
        return False


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
        raise Fault(f"its {key} is a {type_name(value)}, not a dict")
    return dict(value or {})


def _has_dict_form(value: Any) -> bool:
    return not isinstance(value, type) and (_has(value, "as_dict") or _has(value, "to_dict"))


def _dict_form(value: Any) -> Any:
    form = (value.as_dict if _has(value, "as_dict") else value.to_dict)()
    return dict(form) if isinstance(form, dict) else form
