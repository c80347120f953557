"""ForeachTask, JoinDictTask, JoinListTask, ImportDataTask: data between the Fireworks of a workflow.

Facts: FireWorks 2.1.4, ``dataflow_tasks.py``. What its assertions check is checked here, in words. The
spec of the running Firework is not altered, but by the action that comes back.
"""

from typing import Any, Dict, List

from fwrunner import data_files, protocol
from fwrunner.places import path_of
from fwrunner.tasks import canonical, check_parameters

Params = Dict[str, Any]


def foreach(params: Params, spec: Params) -> Params:
    """Make a detour for each element of the list ``spec[split]``, or for each of its chunks.

    The detours have a copy of the whole spec, with the chunk in place of the list, and ``task`` with its
    ``chunk_number``. Their ids are negative, as those of all Fireworks that an action adds.
    """
    key, task = params["split"], _task_of(params)
    items = spec[_text(key, "ForeachTask", "split")]
    if not isinstance(items, list) or not items:
        raise ValueError(f"ForeachTask: spec[{key!r}] is no list with elements, but {items!r:.80}")
    size = _chunk_size(len(items), params.get("number of chunks"))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    # A task-level rerun is one of this Firework alone: its children begin with their first task.
    inherited = {name: value for name, value in spec.items() if name != "_recovery"}
    now = protocol.timestamp()
    fireworks = []
    for index, chunk in enumerate(chunks):
        its_task = dict(task, chunk_number=index)
        fireworks.append(
            {
                "spec": dict(inherited, **{key: chunk, "_tasks": [its_task]}),
                "fw_id": -1 - index,
                "created_on": now,
                "updated_on": now,
                "name": f"ForeachTask {index}",
            }
        )
    return {"detours": fireworks}


def join_dict(params: Params, spec: Params) -> Params:
    """Put the spec's values of ``inputs`` into the object ``output``, under names that ``rename`` gives."""
    key = _text(params["output"], "JoinDictTask", "output")
    joined = _kind(spec.get(key, {}), dict, f"JoinDictTask: spec[{key!r}]")
    names = _kind(params.get("rename") or {}, dict, "JoinDictTask: 'rename'")
    inputs = _kind(params["inputs"], list, "JoinDictTask: 'inputs'")
    return {"update_spec": {key: dict(joined, **{names.get(i, i): spec[i] for i in inputs})}}


def join_list(params: Params, spec: Params) -> Params:
    """Append the spec's values of ``inputs`` to the list ``output``."""
    key = _text(params["output"], "JoinListTask", "output")
    joined = _kind(spec.get(key, []), list, f"JoinListTask: spec[{key!r}]")
    inputs = _kind(params["inputs"], list, "JoinListTask: 'inputs'")
    return {"update_spec": {key: [*joined, *(spec[name] for name in inputs)]}}


def import_data(params: Params, spec: Params) -> Params:
    """Load a .json or .yaml file to the place ``mapstring``, ``a/b/c``, of the spec.

    An object is merged into one that is there; all but the last part of the place must exist.
    """
    path = _text(params["filename"], "ImportDataTask", "filename")
    if not path.endswith((".json", ".yaml")):
        raise ValueError(f"ImportDataTask: {path!r:.200} ends in neither .json nor .yaml")
    with open(path_of(path), encoding="utf-8") as stream:
        data = data_files.parse(stream.read(), path)
    place = _text(params["mapstring"], "ImportDataTask", "mapstring").split("/")
    return {"update_spec": {place[0]: _placed(spec, place, data)[place[0]]}}


def _placed(target: Params, place: List[str], data: Any) -> Params:
    """Return a copy of an object with the data at a place, everything else shared."""
    key, *rest = place
    if rest:
        return dict(target, **{key: _placed(target[key], rest, data)})
    there = target.get(key)
    if isinstance(data, dict) and isinstance(there, dict):
        data = dict(there, **data)
    return dict(target, **{key: data})


def _task_of(params: Params) -> Params:
    task = canonical(_kind(params["task"], dict, "ForeachTask: 'task'"))
    check_parameters(task)
    inputs = task.get("inputs")
    if params["split"] not in (inputs if isinstance(inputs, list) else [inputs]):
        raise ValueError(f"ForeachTask: the task has no {params['split']!r} among its 'inputs'")
    return dict(task)


def _chunk_size(length: int, number: Any) -> int:
    if not number:
        return 1
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"ForeachTask: 'number of chunks' is {number!r:.40}, no positive integer")
    return -(-length // number)


def _text(value: Any, task: str, name: str) -> str:
    return str(_kind(value, str, f"{task}: {name!r}"))


def _kind(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{what} must be a {kind.__name__}, not {value!r:.80}")
    return value
