"""ScriptTask: commands, by the shell or without it.

FireWorks 2.1.4 fails on a list of commands whose output goes anywhere, on ``use_shell: false``, on a
text from ``stdin_key`` and on output that is no UTF-8 (``fireworks/user_objects/firetasks/
script_task.py``). Here they work.
"""

from contextlib import ExitStack
from typing import Any, Dict, List, Tuple

from fwrunner.places import path_of
from fwrunner.tasks.child import run_command

Params = Dict[str, Any]

_PIPE = -1  # subprocess.PIPE


def script_task(params: Params, spec: Params) -> Params:
    """Run ``script``, one command or a list of them, up to the first that fails."""
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


def _run_script(options: Params, spec: Params) -> Tuple[List[int], Dict[str, str]]:
    # Output that is stored is that of all commands; output that only goes to a file never is here.
    codes: List[int] = []
    with ExitStack() as files:
        stdin, data = _stdin(options, spec, files)
        outputs = [_Output(options, name, files) for name in ("stdout", "stderr")]
        streams = dict({output.name: output.stream for output in outputs}, stdin=stdin)
        for command in _commands(options):
            code, texts = run_command(command, data, streams)
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


def _stdin(options: Params, spec: Params, files: ExitStack) -> Tuple[Any, Any]:
    path, key = options.get("stdin_file"), options.get("stdin_key")
    if path and key:
        raise ValueError("ScriptTask: stdin_file and stdin_key exclude each other")
    if path:
        return files.enter_context(open(path_of(path), "rb")), None
    if not key:
        return None, None
    data = spec[key]
    return _PIPE, data.encode("utf-8") if isinstance(data, str) else data


class _Output:
    """Where stdout, or stderr, of a ScriptTask goes: the job's, a file, stored_data or the last two."""

    def __init__(self, options: Params, name: str, files: ExitStack) -> None:
        self.name = name
        self.stored = bool(options.get("store_" + name))
        self.chunks: List[bytes] = []
        path = options.get(name + "_file")
        self.file: Any = None
        if path:
            self.file = files.enter_context(open(path_of(path), "ab"))  # noqa: SIM115
        self.stream = _PIPE if self.stored else self.file

    def add(self, data: Any) -> None:
        if self.stored:
            self.chunks.append(data)
            if self.file:
                self.file.write(data)

    def text(self) -> str:
        return b"".join(self.chunks).decode("utf-8", "replace")
