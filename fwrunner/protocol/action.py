"""FWAction: its keys, and the modifiers of ``mod_spec``. Both sides of the wire apply them.

Facts: FireWorks 2.1.4, ``fireworks/core/firework.py`` (``FWAction``) and
``fireworks/utilities/dict_mods.py`` (``DictMods``). ``_pull_all``, which is broken there, works here.
"""

from typing import Any, Callable, Dict, List, Tuple

Document = Dict[str, Any]

#: Every key of an FWAction with its default, in FireWorks' order.
EMPTY: Document = {
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


class InvalidAction(ValueError):
    """An action that cannot be stored or applied, with the reason for people."""


def with_whole_workflows(action: Document) -> Document:
    """Return an action that has all keys with the ``links``, ``metadata`` and ``detour`` that new workflows lack.

    FireWorks cannot load a launch without them (2.1.4, ``Workflow.from_dict``): it FIZZLES the Firework.
    """
    grown = {
        key: [_whole_workflow(each) for each in action[key]] for key in ("additions", "detours")
    }
    grown["append_wfs"] = [
        dict({"detour": False}, **dict(each, workflow=_whole_workflow(each["workflow"])))
        if isinstance(each, dict) and "workflow" in each
        else each
        for each in action["append_wfs"]
    ]
    return dict(action, **grown)


def _whole_workflow(source: Any) -> Any:
    if not isinstance(source, dict) or "fws" not in source:
        return source
    return dict(source, **{k: {} for k in ("links", "metadata") if source.get(k) is None})


def apply_modifiers(spec: Document, modifiers: List[Document]) -> None:
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
        if not all(isinstance(key, str) for key in arguments):
            raise InvalidAction("_unset takes a list of keys")
        arguments = dict.fromkeys(arguments, "")
    for path, value in arguments.items():
        if verb == "_pull_all" and value == [] and "->" in path:
            continue  # FireWorks makes no objects on the way then, as it does for all else
        try:
            handler(*_descend(spec, path, verb), value)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            reason = error if isinstance(error, InvalidAction) else _reason(error)
            raise InvalidAction(f"{verb} of {path!r}: {reason}") from error


def _reason(error: Exception) -> str:
    return "no such key" if isinstance(error, KeyError) else str(error)


def _descend(spec: Document, path: str, verb: str) -> Tuple[Document, str]:
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


def _list(target: Document, key: str) -> List[Any]:
    if not isinstance(target[key], (list, tuple)):
        raise InvalidAction("the value is not a list")
    return list(target[key])


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
        target[key] = [*_list(target, key), value]


def _pull(target: Document, key: str, value: Any) -> None:
    if key in target:
        target[key] = [item for item in _list(target, key) if item != value]


def _pull_all(target: Document, key: str, value: Any) -> None:
    if key in target:
        target[key] = [item for item in _list(target, key) if item not in value]


def _pop(target: Document, key: str, value: Any) -> None:
    if value in (1, -1):
        items = _list(target, key)
        items.pop(-1 if value == 1 else 0)
        target[key] = items


_VERBS: Dict[str, Callable[[Document, str, Any], None]] = {
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
