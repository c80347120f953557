"""CommandLineTask: a command put together from a description of its inputs and outputs, without a shell.

Facts: FireWorks 2.1.4, ``dataflow_tasks.py``. What fails there, and works here: an output that the spec
describes, a ``prefix`` or ``separator`` that is null, several outputs with a ``chunk_number`` (there
the names of the keys are pushed), stderr as data, stdout both as data and to a file.
"""

import os
from contextlib import ExitStack
from typing import Any, BinaryIO, Dict, List, Optional, Tuple

from fwrunner.places import path_of
from fwrunner.tasks.child import run_command

Params = Dict[str, Any]

_PIPE = -1  # subprocess.PIPE

# Of what a failed command wrote to stderr, the end is told.
_MAX_STDERR = 100000


def command_line(params: Params, spec: Params) -> Params:
    """Run ``command_spec``; return the targets of ``outputs``, each ``{"type", "value"}``.

    They are an update_spec {label: target}, or with ``chunk_number`` a ``_push`` each. Raises
    RuntimeError, with what the command wrote to stderr, if it ends with another code than 0.
    """
    described = params["command_spec"]
    with ExitStack() as files:
        call = _Call(_list(described["command"], "command"), files)
        for label in _list(params.get("inputs") or [], "inputs"):
            for argument in _arguments(described[label], spec):
                call.take_input(argument)
        labels = _list(params.get("outputs") or [], "outputs")
        for label in labels:
            call.take_output(_arguments(described[label], spec)[0])
        targets = call.run()
    if params.get("chunk_number") is None:
        return {"update_spec": dict(zip(labels, targets))}
    return {"mod_spec": [{"_push": {label: target}} for label, target in zip(labels, targets)]}


class _Call:
    """One command: its arguments, where its stdin comes from and where its output goes."""

    def __init__(self, command: List[str], files: ExitStack) -> None:
        self._files = files
        self._command = list(command)
        self._stdin: Any = None
        self._data: Optional[bytes] = None
        self._outputs: List[Params] = []
        self._streams: Dict[str, BinaryIO] = {}

    def take_input(self, argument: Params) -> None:
        source = _end(argument, "source", "path", "data")
        if source.get("value") is None:
            raise ValueError(f"CommandLineTask: the source {source!r:.200} has no value")
        text = _binding(argument)
        if "target" not in argument:
            self._append(text + str(source["value"]))
            return
        _end(argument, "target", "stdin")
        self._append(text)
        if source["type"] == "path":
            self._stdin = self._opened(source["value"], "rb")
        else:
            self._stdin, self._data = _PIPE, str(source["value"]).encode("utf-8")

    def take_output(self, argument: Params) -> None:
        target = dict(_end(argument, "target", "path", "data"))
        source = argument.get("source") or {}
        text = _binding(argument)
        if target["type"] == "path":
            target["value"] = _output_path(target)
            if source.get("type") in ("stdout", "stderr"):
                stream = self._opened(target["value"], "w+b")
                self._streams[source["type"]] = stream
            elif source.get("type") != "path":
                text += target["value"]
        self._append(text)
        self._outputs.append({"target": target, "source": source})

    def run(self) -> List[Params]:
        code, captured = self._run()
        if code != 0:
            said = str(captured["stderr"][-_MAX_STDERR:], "utf-8", "replace")
            raise RuntimeError(f"CommandLineTask: {self._command[0]} ended with {code}: {said}")
        for output in self._outputs:
            source, target = output["source"], output["target"]
            if target["type"] == "data":
                stream = "stderr" if source.get("type") == "stderr" else "stdout"
                target["value"] = str(captured[stream], "utf-8", "replace").strip()
            elif source.get("type") == "path":
                import shutil

                shutil.copyfile(source["value"], target["value"])
        return [output["target"] for output in self._outputs]

    def _run(self) -> Tuple[int, Dict[str, bytes]]:
        wanted = ["stderr"]
        if any(output["target"]["type"] == "data" for output in self._outputs):
            wanted.append("stdout")
        for name in wanted:
            if name not in self._streams:
                self._streams[name] = self._temporary_file()
        streams: Params = dict(self._streams, stdin=self._stdin)
        code, _ = run_command({"args": self._command}, self._data, streams)
        return code, {name: _whole(self._streams[name]) for name in wanted}

    def _opened(self, path: str, mode: str) -> Any:
        return self._files.enter_context(open(path_of(path), mode))

    def _temporary_file(self) -> Any:
        # No pipe: what a command says may be large, and is seldom asked for.
        import tempfile

        return self._files.enter_context(tempfile.TemporaryFile())

    def _append(self, argument: str) -> None:
        if argument:
            self._command.append(argument)


def _arguments(described: Any, spec: Params) -> List[Params]:
    """Return the arguments of a label: one, or as many as the spec has where it names a key of that."""
    if isinstance(described, str):
        items = spec[described]
        items = [items] if isinstance(items, dict) else items
        return [i if "source" in i or "target" in i else {"source": i} for i in items]
    parts = ("binding", "source", "target")
    given = {part: described[part] for part in parts if described.get(part) is not None}
    return [{k: spec[part] if isinstance(part, str) else part for k, part in given.items()}]


def _whole(stream: BinaryIO) -> bytes:
    stream.seek(0)
    return stream.read()


def _end(argument: Params, name: str, *types: str) -> Params:
    end = argument.get(name)
    if not isinstance(end, dict) or end.get("type") is None:
        raise ValueError(f"CommandLineTask: {argument!r:.200} has no {name!r} with a type")
    if end["type"] not in types:
        raise NotImplementedError(
            f"CommandLineTask: a {name} of type {end['type']!r:.40}, not {' or '.join(types)}"
        )
    return end


def _binding(argument: Params) -> str:
    binding = argument.get("binding") or {}
    return (binding.get("prefix") or "") + (binding.get("separator") or "")


def _output_path(target: Params) -> str:
    path = target.get("value")
    if not path:
        raise ValueError(f"CommandLineTask: the target {target!r:.200} has no path")
    if os.path.isdir(path_of(path)):
        import uuid

        path = os.path.join(path, str(uuid.uuid4()))
    return str(path)


def _list(value: Any, name: str) -> List[Any]:
    if not isinstance(value, list):
        raise TypeError(f"CommandLineTask: {name!r} must be a list, not {value!r:.80}")
    return value
