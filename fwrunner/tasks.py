"""Firetasks by ``_fw_name``: two built in, any importable class, or what FireWorks itself knows.

A task object of a spec is ``{"_fw_name": NAME, **parameters}``. ``load`` makes of it a function of the
spec; what that returns is read by ``fwrunner.action.read_action``.
"""

import importlib
import os
import signal
import sys
import threading
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Tuple

from fwrunner.action import Fault, is_action
from fwrunner.signals import SIGNALS, STOP

Params = Dict[str, Any]
Spec = Dict[str, Any]
RunTask = Callable[[Spec], Any]

_OLD_NAMES = {"Script Task": "ScriptTask"}


def canonical(task: Any) -> Any:
    """Return the task object under the name that FireWorks would give it back."""
    if isinstance(task, dict) and task.get("_fw_name") in _OLD_NAMES:
        return dict(task, _fw_name=_OLD_NAMES[task["_fw_name"]])
    return task


def load(task: Any) -> RunTask:
    """Return the function of the spec that runs a task; raise Fault if there can be none.

    ``{{module.Class}}`` is imported and made by ``Class.from_dict(task)`` if there is such a method,
    ``Class(task)`` if it is a dict (as FireWorks' own base class is), else ``Class(**parameters)``.
    """
    name = canonical(task).get("_fw_name") if isinstance(task, dict) else None
    if not isinstance(name, str):
        raise Fault("it is no object with a '_fw_name'")
    dotted = name.strip("{} ") if name.startswith("{{") and name.endswith("}}") else ""
    short = dotted.rpartition(".")[2] if dotted.startswith("fireworks.") else name
    if short in _BUILTIN:
        return _builtin(short, task)
    return _from_class(dotted, task) if dotted else _from_fireworks(name, task)


def _builtin(name: str, task: Params) -> RunTask:
    function, required = _BUILTIN[name]
    if required not in task and not task.get("use_global_spec"):
        raise Fault(f"{name} needs the parameter {required!r}")
    return partial(function, task)


def _from_class(dotted: str, task: Params) -> RunTask:
    module, _, name = dotted.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise Fault(
            f"{dotted} cannot be imported by {sys.executable}: {error}. Is the package installed "
            "for this Python, or its folder in PYTHONPATH, on the compute node?"
        ) from error
    return _run_task_of(_make(kind, task), dotted)


def _make(kind: Any, task: Params) -> Any:
    if hasattr(kind, "from_dict"):
        return kind.from_dict(dict(task))
    if isinstance(kind, type) and issubclass(kind, dict):
        return kind(dict(task))
    return kind(**{key: value for key, value in task.items() if key != "_fw_name"})


def _from_fireworks(name: str, task: Params) -> RunTask:
    try:
        serializers = importlib.import_module("fireworks.utilities.fw_serializers")
    except ImportError as error:
        raise Fault(
            f"no Firetask is called {name!r} here. Built in: {', '.join(sorted(_BUILTIN))}. For "
            f"FireWorks' others, install FireWorks for {sys.executable} on the compute node; for one "
            "of your own, name it as {{module.Class}}"
        ) from error
    return _run_task_of(serializers.load_object(dict(task)), name)


def _run_task_of(task: Any, name: str) -> RunTask:
    if not callable(getattr(task, "run_task", None)):
        raise Fault(f"{name} has no method run_task(spec)")
    run_task: RunTask = task.run_task
    return run_task


def _python_task(params: Params, spec: Spec) -> Any:
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
    return {key: params[key] for key in params if key not in _PYTHON_PARAMS and key[:1] != "_"}


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


def _script_task(params: Params, spec: Spec) -> Params:
    options = spec if params.get("use_global_spec") else params
    defuse = options.get("defuse_bad_rc")
    fizzle = options.get("fizzle_bad_rc", not defuse)
    if defuse and fizzle:
        raise ValueError("ScriptTask: fizzle_bad_rc and defuse_bad_rc exclude each other")
    codes, texts = _run_script(options, spec)
    if fizzle and codes[-1] != 0:
        raise RuntimeError(f"ScriptTask fizzled! Return code: {codes}")
    stored = dict(texts, returncode=codes[-1], all_returncodes=codes)
    return {"stored_data": stored, "defuse_children": bool(defuse and codes[-1] != 0)}


def _run_script(options: Params, spec: Spec) -> Tuple[List[int], Dict[str, str]]:
    # Output that is stored is that of all commands; output that only goes to a file never is here.
    codes: List[int] = []
    with ExitStack() as files:
        stdin, data = _stdin(options, spec, files)
        outputs = [_Output(options, name, files) for name in ("stdout", "stderr")]
        streams = dict({output.name: output.stream for output in outputs}, stdin=stdin)
        for command in _commands(options):
            code, texts = _run_command(command, data, streams)
            codes.append(code)
            for output, text in zip(outputs, texts):
                output.add(text)
            if code != 0:
                break
    return codes, {output.name: output.text() for output in outputs if output.stored}


def _commands(options: Params) -> List[Params]:
    """Return the arguments of Popen for each command."""
    script = options["script"]
    scripts = [script] if isinstance(script, str) else script
    if not isinstance(scripts, list) or not scripts:
        raise ValueError(
            f"ScriptTask: 'script' must be a command or a list of them, not {script!r}"
        )
    if options.get("use_shell", True):
        executable = options.get("shell_exe")
        return [{"args": item, "shell": True, "executable": executable} for item in scripts]
    import shlex

    return [{"args": shlex.split(i) if isinstance(i, str) else i} for i in scripts]


def _stdin(options: Params, spec: Spec, files: ExitStack) -> Tuple[Any, Any]:
    path, key = options.get("stdin_file"), options.get("stdin_key")
    if path and key:
        raise ValueError("ScriptTask: stdin_file and stdin_key exclude each other")
    if path:
        return files.enter_context(open(path, "rb")), None
    if not key:
        return None, None
    data = spec[key]
    return -1, data.encode("utf-8") if isinstance(data, str) else data  # -1: subprocess.PIPE


class _Output:
    """Where stdout, or stderr, of a ScriptTask goes: the job's, a file, stored_data or the last two."""

    def __init__(self, options: Params, name: str, files: ExitStack) -> None:
        self.name = name
        self.stored = bool(options.get("store_" + name))
        self.chunks: List[bytes] = []
        path = options.get(name + "_file")
        self.file: Any = None
        if path:
            self.file = files.enter_context(open(path, "ab"))  # noqa: SIM115
        self.stream = -1 if self.stored else self.file  # -1: subprocess.PIPE

    def add(self, data: Any) -> None:
        if self.stored:
            self.chunks.append(data)
            if self.file:
                self.file.write(data)

    def text(self) -> str:
        return b"".join(self.chunks).decode("utf-8", "replace")


def _run_command(command: Params, data: Any, streams: Params) -> Tuple[int, Tuple[Any, Any]]:
    import subprocess

    started: List[Any] = []
    try:
        with _signals_held():
            started.append(subprocess.Popen(**command, **streams))
        texts = started[0].communicate(data)
    except BaseException as error:
        for process in started:
            _end(process, getattr(error, "grace", 0.0))
        raise
    return started[0].returncode, texts


def _end(process: Any, grace: float) -> None:
    """The job is being ended: a command may go on for so many seconds, but must not outlive us."""
    import subprocess

    for seconds, end in ((grace, process.terminate), (STOP, process.kill)):
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            end()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Handle signals only afterwards: a child that nobody knows of yet cannot be ended."""
    came: List[int] = []
    before: Dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            before[number] = signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for received in came:
        os.kill(os.getpid(), received)


_PYTHON_PARAMS = (
    *("func", "args", "kwargs", "auto_kwargs", "stored_data_varname"),
    *("inputs", "outputs", "chunk_number"),
)

#: Short name -> the function, and its required parameter.
_BUILTIN: Dict[str, Tuple[Callable[[Params, Spec], Any], str]] = {
    "PyTask": (_python_task, "func"),
    "ScriptTask": (_script_task, "script"),
}
