"""Firetasks by ``_fw_name``: FireWorks' built-in ones, any importable class, or what FireWorks itself knows.

A task object of a spec is ``{"_fw_name": NAME, **parameters}``. ``load`` makes of it a function of the
spec; what that returns is read by ``fwrunner.action.read_action``. Each built-in task is in a module
of this package, which is imported when a Firework has such a task, and not before: a job starts
sooner without what it does not need. Names, parameters and defaults: FireWorks 2.1.4,
``fireworks/user_objects/firetasks``.
"""

import importlib
import sys
from functools import partial
from typing import Any, Callable, Dict, Mapping, Tuple

from fwrunner.action import Fault

Params = Dict[str, Any]
Spec = Dict[str, Any]
RunTask = Callable[[Spec], Any]

#: Short name -> its module in this package, the function there, the parameters it must have.
_BUILTIN: Dict[str, Tuple[str, str, Tuple[str, ...]]] = {
    "ArchiveDirTask": ("archive", "archive_dir", ("base_name",)),
    "CommandLineTask": ("command", "command_line", ("command_spec",)),
    "CompressDirTask": ("archive", "compress_dir", ()),
    "DecompressDirTask": ("archive", "decompress_dir", ()),
    "FileDeleteTask": ("files", "delete_files", ("files_to_delete",)),
    "FileTransferTask": ("files", "transfer_files", ("mode", "files")),
    "FileWriteTask": ("files", "write_files", ("files_to_write",)),
    "ForeachTask": ("dataflow", "foreach", ("task", "split")),
    "ImportDataTask": ("dataflow", "import_data", ("filename", "mapstring")),
    "JoinDictTask": ("dataflow", "join_dict", ("inputs", "output")),
    "JoinListTask": ("dataflow", "join_list", ("inputs", "output")),
    "PyTask": ("python", "python_task", ("func",)),
    "ScriptTask": ("script", "script_task", ("script",)),
    "TemplateWriterTask": (
        "template",
        "write_template",
        ("template_file", "context", "output_file"),
    ),
}

_OLD_NAMES = {
    "Script Task": "ScriptTask",
    "Template Writer Task": "TemplateWriterTask",
    "Transfer Task": "FileTransferTask",
}

#: Tasks of FireWorks' FilePad, which keeps files in the database.
_FILEPAD = ("AddFilesTask", "DeleteFilesTask", "GetFilesByQueryTask", "GetFilesTask")

_NO_DATABASE = (
    "An offline run has no database: a task has `fw_id`, and `launchpad` is None. Give results back "
    "as an FWAction (stored_data, update_spec, detours...), hand files on with _files_out and "
    "_files_in, or have this Firework run by `rlaunch` on a host that reaches the database"
)


def canonical(task: Any) -> Any:
    """Return the task object under the name that FireWorks would give it back."""
    if isinstance(task, dict) and task.get("_fw_name") in _OLD_NAMES:
        return dict(task, _fw_name=_OLD_NAMES[task["_fw_name"]])
    return task


def load(task: Any, attributes: Mapping[str, Any] = {}) -> RunTask:
    """Return the function of the spec that runs a task; raise Fault if there can be none.

    ``{{module.Class}}`` is imported and made by ``Class.from_dict(task)`` if there is such a method,
    ``Class(task)`` if it is a dict (as FireWorks' own base class is), else ``Class(**parameters)``.
    ``attributes`` are set on such an object.
    """
    task = canonical(task)
    name = task.get("_fw_name") if isinstance(task, dict) else None
    if not isinstance(name, str):
        raise Fault("it is no object with a '_fw_name'")
    dotted = name.strip("{} ") if name.startswith("{{") and name.endswith("}}") else ""
    short = dotted.rpartition(".")[2] if dotted.startswith("fireworks.") else name
    if short in _BUILTIN:
        return _builtin(short, task)
    if short == "BackgroundTask":
        raise Fault("a BackgroundTask is no Firetask: it belongs into spec._background_tasks")
    made = _from_class(dotted, task) if dotted else _from_fireworks(name, task)
    return _run_task_of(made, dotted or name, attributes, short in _FILEPAD)


def check_parameters(task: Params) -> None:
    """Raise Fault if a built-in task lacks a parameter that it must have."""
    name = task.get("_fw_name", "")
    if name not in _BUILTIN or task.get("use_global_spec"):
        return
    for parameter in _BUILTIN[name][2]:
        if parameter not in task:
            raise Fault(f"{name} needs the parameter {parameter!r}")


def _builtin(name: str, task: Params) -> RunTask:
    check_parameters(dict(task, _fw_name=name))
    module, function, _ = _BUILTIN[name]
    return partial(getattr(importlib.import_module(f"{__name__}.{module}"), function), task)


def _from_class(dotted: str, task: Params) -> Any:
    module, _, name = dotted.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise Fault(
            f"{dotted} cannot be imported by {sys.executable}: {error}. Is the package installed "
            "for this Python, or its folder in PYTHONPATH, on the compute node?"
        ) from error
    return _make(kind, task)


def _make(kind: Any, task: Params) -> Any:
    if hasattr(kind, "from_dict"):
        return kind.from_dict(dict(task))
    if isinstance(kind, type) and issubclass(kind, dict):
        return kind(dict(task))
    return kind(**{key: value for key, value in task.items() if key != "_fw_name"})


def _from_fireworks(name: str, task: Params) -> Any:
    try:
        serializers = importlib.import_module("fireworks.utilities.fw_serializers")
    except ImportError as error:
        if name in _FILEPAD:
            raise Fault(f"{name} keeps files in the database. {_NO_DATABASE}") from error
        raise Fault(
            f"no Firetask is called {name!r} here. Built in: {', '.join(sorted(_BUILTIN))}. For "
            f"FireWorks' others, install FireWorks for {sys.executable} on the compute node; for one "
            "of your own, name it as {{module.Class}}"
        ) from error
    return serializers.load_object(dict(task))


def _run_task_of(task: Any, name: str, attributes: Mapping[str, Any], filepad: bool) -> RunTask:
    if not callable(getattr(task, "run_task", None)):
        raise Fault(f"{name} has no method run_task(spec)")
    for attribute, value in attributes.items():
        setattr(task, attribute, value)
    run_task: RunTask = task.run_task
    if filepad:
        return partial(_explained, run_task, Exception)
    return partial(_explained, run_task, AttributeError) if "launchpad" in attributes else run_task


def _explained(run_task: RunTask, kind: type, spec: Spec) -> Any:
    """Run a task that may miss the database, and say so where that is why it fails."""
    try:
        return run_task(spec)
    except Exception as error:
        if not isinstance(error, kind) or (kind is AttributeError and "NoneType" not in str(error)):
            raise
        raise Fault(f"{type(error).__name__}: {error}. {_NO_DATABASE}") from error
