"""PyTask: a function of a module, called with what the task and the spec hold."""

import importlib
from typing import Any, Callable, Dict, List

from fwrunner.action import is_action

Params = Dict[str, Any]

_PARAMS = (
    *("func", "args", "kwargs", "auto_kwargs", "stored_data_varname"),
    *("inputs", "outputs", "chunk_number"),
)


def python_task(params: Params, spec: Params) -> Any:
    """Call ``func``; return its own FWAction, else one of ``outputs`` and ``stored_data_varname``."""
    args = [*params.get("args", []), *(spec[key] for key in _names(params, "inputs"))]
    output = _function(params["func"])(*args, **_keywords(params))
    if is_action(output):
        return output
    action = _outputs(_names(params, "outputs"), output, params.get("chunk_number"))
    if params.get("stored_data_varname"):
        action["stored_data"] = {params["stored_data_varname"]: output}
    return action


def _function(dotted: str) -> Callable[..., Any]:
    module, _, name = dotted.rpartition(".")
    function: Callable[..., Any] = getattr(importlib.import_module(module or "builtins"), name)
    return function


def _names(params: Params, key: str) -> List[str]:
    names = params.get(key, [])
    if not isinstance(names, list):
        raise TypeError(f"PyTask: {key!r} must be a list of spec keys, not {names!r:.40}")
    return names


def _keywords(params: Params) -> Params:
    if not params.get("auto_kwargs"):
        return dict(params.get("kwargs", {}))
    return {key: params[key] for key in params if key not in _PARAMS and key[:1] != "_"}


def _outputs(names: List[str], output: Any, chunk: Any) -> Params:
    several = isinstance(output, (list, tuple, set))
    if not names:
        return {}
    if len(names) == 1 and chunk is None:
        return {"update_spec": {names[0]: output}}
    if len(names) == 1:
        return {"mod_spec": [{"_push": {names[0]: i}} for i in (output if several else [output])]}
    if not several or len(output) != len(names):
        raise ValueError(
            f"PyTask: {len(names)} 'outputs' need a list of as many, not {output!r:.80}"
        )
    return {"update_spec": dict(zip(names, output))}
