"""The same Fireworks run by `rlaunch singleshot --offline` and by `fwrunner`: what do the reports say?

They say the same, but for the differences that a case states. Both run in the Python that has
FireWorks, so that `fwrunner` also meets its real FWAction and its real base class of tasks.
"""

import json
import os
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tests.support import components
from tests.support.fireworks import REPOSITORY, fireworks_venv

pytestmark = pytest.mark.interop

# One process for all cases, one fork for each: starting FireWorks takes the time of the rest.
RUN_ALL = """\
import os, runpy, sys

import both

def stock():
    from fireworks.scripts.rlaunch_run import rlaunch
    from fireworks.utilities.fw_serializers import load_object
    for name in ("ScriptTask", "PyTask"):  # it remembers where it found them
        load_object({"_fw_name": name, "script": "", "func": ""})
    return lambda: rlaunch(["-s", "singleshot", "--offline"])

def ours():
    from fwrunner.__main__ import main
    return lambda: main([])

run = {"stock": stock, "ours": ours}[sys.argv[1]]()
for directory in sys.argv[2:]:
    child = os.fork()
    if not child:
        os.chdir(directory)
        try:
            run()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""

TASKS = """
    import datetime, os
    import numpy
    from fireworks import FiretaskBase, Firework, FWAction, ScriptTask, Workflow, explicit_serialize

    class Detailed(Exception):
        def to_dict(self):
            return {"code": 7, "why": ["a", "b"]}

    @explicit_serialize
    class Act(FiretaskBase):
        required_params = ["action"]
        def run_task(self, spec):
            return FWAction(**self["action"])

    @explicit_serialize
    class See(FiretaskBase):
        def run_task(self, spec):
            return FWAction(stored_data={key: spec.get(key) for key in self["keys"]})

    @explicit_serialize
    class Grow(FiretaskBase):
        def run_task(self, spec):
            day = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc)
            dates = {"created_on": day, "updated_on": day}
            fw = Firework([ScriptTask.from_str("true")], name="more", fw_id=-5, **dates)
            wf = Workflow([fw], name="wf", **dates)
            return FWAction(additions=fw, detours=[wf], stored_data={"x": 1})

    def boom(message):
        raise ValueError(message)

    def detailed():
        raise Detailed("with details")

    def leave(status):
        raise SystemExit(status)

    def identity(x):
        return x

    def pair():
        return (1, 2)

    def keywords(*args, **kwargs):
        return [list(args), kwargs]

    def action(**given):
        return FWAction(**given)

    def array():
        return numpy.arange(3)

    def number():
        return numpy.int64(3)

    def day():
        return datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.timezone.utc)

    def nothing_json():
        return {1, 2}

    def nested():
        return {"a": [1.5, None, True, {"b": "größe"}], 1: 2}
"""


class Case(NamedTuple):
    """A Firework, and where fwrunner's report is meant to differ: path -> (FireWorks', ours)."""

    name: str
    tasks: list[Any]
    spec: Mapping[str, Any] = MappingProxyType({})
    differs: Mapping[str, tuple[Any, Any]] = MappingProxyType({})


class Absent:
    """In place of a value that one report lacks."""

    def __repr__(self) -> str:
        return "ABSENT"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Absent)

    __hash__ = None  # type: ignore[assignment]


class Like(str):
    """A text that only has to begin so."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and other.startswith(str(self))

    __hash__ = None  # type: ignore[assignment]


ABSENT = Absent()
RUNTIME_ERROR = "runtime error during task"


def script(command: Any, **parameters: Any) -> dict[str, Any]:
    return {"_fw_name": "ScriptTask", "script": command, **parameters}


def python(function: str, **parameters: Any) -> dict[str, Any]:
    return {"_fw_name": "PyTask", "func": function, **parameters}


def act(**action: Any) -> dict[str, Any]:
    return {"_fw_name": "{{both.Act}}", "action": action}


def see(*keys: str) -> dict[str, Any]:
    return {"_fw_name": "{{both.See}}", "keys": list(keys)}


def stored(**values: Any) -> dict[str, Any]:
    """The stored data of a ScriptTask that ended well."""
    return {**values, "returncode": 0, "all_returncodes": [0]}


def mended(**values: Any) -> dict[str, tuple[Any, Any]]:
    """The differences of a ScriptTask that FireWorks fails on (section ScriptTask: its quirks)."""
    return {
        "state": ("FIZZLED", "COMPLETED"),
        "fwaction.exit": (True, False),
        "fwaction.stored_data": (FAILED, values),
    }


class Failed(dict[str, Any]):
    """Equal to any failure action, and to its stored data."""

    def __eq__(self, other: object) -> bool:
        keys = {"_message", "_task", "_exception"}
        return isinstance(other, dict) and set(other.get("stored_data", other)) == keys

    __hash__ = None


FAILED = Failed()


def explained(message: str, task: Any, trace: str = "") -> dict[str, tuple[Any, Any]]:
    """The differences where FireWorks has one message for all, no task, and another stack trace."""
    path = "fwaction.stored_data."
    return {
        path + "_message": (RUNTIME_ERROR, Like(message)),
        path + "_task": (None, task),
        path + "_exception._stacktrace": (Like(""), Like(trace)),
    }


CASES = [
    Case("script", [script("echo hello")]),
    Case("script stores", [script("echo out; echo err >&2", store_stdout=True, store_stderr=True)]),
    Case("script list", [script(["true", "exit 0"])]),
    Case("script stops", [script(["true", "exit 3", "true"])]),
    Case("script stores bad rc", [script(["exit 3", "true"], fizzle_bad_rc=False)]),
    Case("script defuses", [script("exit 3", defuse_bad_rc=True), see("late")]),
    Case("script both", [script("exit 3", defuse_bad_rc=True, fizzle_bad_rc=True)],
         differs={"fwaction.stored_data._exception._stacktrace": (
             Like("ValueError: ScriptTask cannot both"), Like("ValueError: ScriptTask: fizzle_bad_rc and"))}),
    Case("script signal", [script("kill -9 $$", fizzle_bad_rc=False)]),
    Case("script files", [script("echo a; echo b >&2", stdout_file="o", stderr_file="e"),
                          script("cat o e", store_stdout=True)]),
    Case("script stdin file", [script("echo in > i"), script("cat", stdin_file="i", store_stdout=True)]),
    Case("script old name", [{"_fw_name": "Script Task", "script": "exit 1"}]),
    Case("script shell", [script("echo ${BASH##*/}", shell_exe="/bin/bash", store_stdout=True)]),
    Case("script global spec", [script("false", use_global_spec=True)],
         {"script": "echo spec", "store_stdout": True}),
    Case("script stdin key", [script("cat", stdin_key="t", store_stdout=True)], {"t": "text"},
         mended(**stored(stdout="text"))),
    Case("script list stores", [script(["echo a", "echo b"], store_stdout=True)],
         differs=mended(stdout="a\nb\n", returncode=0, all_returncodes=[0, 0])),
    Case("script no shell", [script("echo '$HOME'", use_shell=False, store_stdout=True)],
         differs=mended(**stored(stdout="$HOME\n"))),
    Case("script not utf-8", [script(r"printf 'a\377'", store_stdout=True)],
         differs=mended(**stored(stdout="a\ufffd"))),
    Case("py nothing", [python("math.sqrt", args=[4])]),
    Case("py builtin", [python("sorted", args=[[2, 1]], stored_data_varname="s")]),
    Case("py output", [python("math.sqrt", args=[4], outputs=["r"]), see("r")]),
    Case("py inputs", [python("math.pow", args=[2], inputs=["e"], outputs=["r"])], {"e": 3}),
    Case("py kwargs", [python("both.keywords", args=[1], kwargs={"a": 2}, stored_data_varname="s")]),
    Case("py auto kwargs", [python("both.keywords", auto_kwargs=True, a=2, _b=3, stored_data_varname="s")]),
    Case("py several outputs", [python("both.pair", outputs=["a", "b"]), see("a", "b")]),
    Case("py wrong outputs", [python("both.pair", outputs=["a", "b", "c"])],
         differs={"fwaction.stored_data._exception._stacktrace": (
             "AssertionError", "ValueError: PyTask: 3 'outputs' need a list of as many, not (1, 2)")}),
    Case("py tuple", [python("both.pair", outputs=["a"], stored_data_varname="s")]),
    Case("py chunk", [python("both.pair", outputs=["a"], chunk_number=0), see("a")]),
    Case("py chunk value", [python("math.sqrt", args=[4], outputs=["a"], chunk_number=1)]),
    Case("py raises", [act(stored_data={"a": 1}), python("both.boom", args=["no"]), see("late")]),
    Case("py raises details", [python("both.detailed")]),
    Case("py exits", [python("both.leave", args=[0])]),
    Case("py missing", [python("nowhere.f")]),
    Case("py missing input", [python("math.sqrt", inputs=["x"])]),
    Case("py action", [python("both.action", kwargs={"stored_data": {"a": 1}, "exit": True}), see("late")]),
    Case("py nested", [python("both.nested", outputs=["n"])]),
    Case("py dates", [python("both.day", outputs=["d"])]),
    Case("py array", [python("both.array", outputs=["a"])]),
    Case("py numpy number", [python("both.number", outputs=["n"])],
         differs={"fwaction.update_spec.n": ("3", 3)}),
    Case("py text that is a date", [python("both.keywords", args=["20260102T030405"], stored_data_varname="s")],
         differs={"fwaction.stored_data.s": ([["2026-01-02T03:04:05"], {}], [["20260102T030405"], {}])}),
    Case("py no json form", [python("both.nothing_json", stored_data_varname="s")],
         differs={"state": ("COMPLETED", "FIZZLED"), "fwaction.exit": (False, True),
                  "fwaction.stored_data": ({"s": "{1, 2}"}, FAILED)}),
    Case("class", [act(stored_data={"a": 1}), act(stored_data={"a": 2, "b": [1]}), see("x")], {"x": {"y": 1}}),
    Case("class update_spec", [act(update_spec={"x": 1}), see("x"), act(update_spec={"x": 2}), see("x")]),
    Case("class mod_spec", [act(mod_spec={"_push": {"x": 1}}), act(mod_spec=[{"_inc": {"n": 2}}]), see("x", "n")],
         {"x": [0], "n": 1}),
    Case("class bad mod_spec", [act(mod_spec=[{"_unset": {"x": 1}}])],
         differs=explained("task 1 of 1 ({{both.Act}}): its mod_spec fails: _unset of 'x': no such key",
                           act(mod_spec=[{"_unset": {"x": 1}}]))),
    Case("class unknown verb", [act(mod_spec=[{"$set": {"x": 1}}])],
         differs=explained("task 1 of 1 ({{both.Act}}): its mod_spec fails: '$set' is not a modifier",
                           act(mod_spec=[{"$set": {"x": 1}}]))),
    Case("class _pull_all", [act(mod_spec=[{"_pull_all": {"x": [1, 3]}}]), see("x")], {"x": [1, 2, 3]},
         {"state": ("FIZZLED", "COMPLETED"), "fwaction.exit": (True, False),
          "fwaction.stored_data": (FAILED, {"x": [2]}),
          "fwaction.mod_spec": ([], [{"_pull_all": {"x": [1, 3]}}]),
          "checkpoint._task_n": (0, 1), "checkpoint._all_mod_spec": ([], [{"_pull_all": {"x": [1, 3]}}])}),
    # FireWorks reports the very list that the next task's mod_spec then changes.
    Case("class update then push", [act(update_spec={"x": [1]}), act(mod_spec=[{"_push": {"x": 2}}])],
         differs={"fwaction.update_spec.x": ([1, 2], [1])}),
    Case("class grows", [{"_fw_name": "{{both.Grow}}"}, see("late")]),
    *(Case(f"class {key}", [act(**{key: True}), see("late")])
      for key in ("exit", "defuse_children", "defuse_workflow", "propagate")),
    Case("class short name", [{"_fw_name": "FileWriteTask", "files_to_write": [{"filename": "f", "contents": "x"}]},
                              script("cat f", store_stdout=True)]),
    # FireWorks takes it for no Firework at all, and leaves it RUNNING for ever.
    Case("no tasks", [], differs={"state": (ABSENT, "FIZZLED"), "fwaction": (ABSENT, FAILED)}),
]  # fmt: skip


def leaves(document: Any, path: str = "") -> dict[str, Any]:
    """Flatten the objects of a report: path -> value that is no object, or an empty one."""
    if not isinstance(document, dict) or not document:
        return {path: document}
    found: dict[str, Any] = {}
    for key, value in document.items():
        found.update(leaves(value, f"{path}.{key}" if path else key))
    return found


def at(document: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(document, dict) or key not in document:
            return ABSENT
        document = document[key]
    return document


def without(document: Any, path: str) -> None:
    *parents, last = path.split(".")
    for key in parents:
        document = document.get(key, {})
    document.pop(last, None)


def report(directory: Path) -> Any:
    """What a run told, less what differs in any two runs."""
    offline = json.loads((directory / "FW_offline.json").read_text())
    for key in ("launch_id", "started_on", "completed_on", "fwagent"):
        offline.pop(key, None)
    exception = at(offline, "fwaction.stored_data._exception")
    if exception != ABSENT:
        exception["_stacktrace"] = exception["_stacktrace"].strip().splitlines()[-1]
    return offline


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """For each case, the report of FireWorks and that of fwrunner."""
    interpreter = fireworks_venv() / "bin" / "python"
    if not interpreter.exists():
        components.unavailable(f"no FireWorks in {fireworks_venv()}: `make test` installs it")
    root = tmp_path_factory.mktemp("against_fireworks")
    (root / "both.py").write_text(textwrap.dedent(TASKS), encoding="utf-8")
    environment = {key: os.environ[key] for key in ("PATH", "CI", "LANG") if key in os.environ}
    environment.update(HOME=str(root), PYTHONPATH=f"{REPOSITORY}{os.pathsep}{root}")
    found = {}
    for by in ("stock", "ours"):
        directories = [root / by / str(number) for number in range(len(CASES))]
        for case, directory in zip(CASES, directories, strict=True):
            directory.mkdir(parents=True)
            firework = {"fw_id": 3, "name": "x", "spec": {**case.spec, "_tasks": case.tasks}}
            (directory / "FW.json").write_text(json.dumps(firework))
            (directory / "FW_offline.json").write_text('{"launch_id": 1}')
        command = [interpreter, "-B", "-c", RUN_ALL, by, *directories]
        subprocess.run(command, env=environment, capture_output=True, check=True, timeout=100)
        found[by] = [report(directory) for directory in directories]
    both = zip(found["stock"], found["ours"], strict=True)
    return dict(zip([case.name for case in CASES], both, strict=True))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_reports_agree(case: Case, reports: dict[str, tuple[Any, Any]]) -> None:
    stock, ours = json.loads(json.dumps(reports[case.name]))
    for path, (theirs, mine) in case.differs.items():
        assert (at(stock, path), at(ours, path)) == (theirs, mine), path
        without(stock, path)
        without(ours, path)
    assert leaves(ours) == leaves(stock)
