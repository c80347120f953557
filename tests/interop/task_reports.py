"""Runs the same Fireworks by `rlaunch singleshot --offline` and by `fwrunner`, and reads what they left.

Both run in the Python that has FireWorks, so that `fwrunner` also meets its real FWAction and its real
base class of tasks.
"""

import bz2
import gzip
import json
import os
import subprocess
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from tests.support import components
from tests.support.fireworks import REPOSITORY, fireworks_venv

# One process for all cases, one fork for each: starting FireWorks takes the time of the rest.
RUN_ALL = """\
import os, sys

import both

def stock():
    from fireworks.scripts.rlaunch_run import rlaunch
    from fireworks.utilities import fw_serializers
    for name, module in both.MODULES.items():  # it remembers where it found them
        fw_serializers.SAVED_FW_MODULES[name] = "fireworks.user_objects.firetasks." + module
    fw_serializers.SAVED_FW_MODULES["BackgroundTask"] = "fireworks.features.background_task"
    return lambda: rlaunch(["-s", "singleshot", "--offline"])

def ours():
    from fwrunner.__main__ import main
    os.fsync = lambda descriptor: None  # no power cut here; it is half of the time
    return lambda: main([])

run = {"stock": stock, "ours": ours}[sys.argv[1]]()
for directory in sys.stdin.read().splitlines():
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
    import collections, datetime, decimal, enum, fractions, os, pathlib, tarfile, uuid
    import numpy
    from monty.json import MSONable
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

    MODULES = {
        "ScriptTask": "script_task", "PyTask": "script_task", "TemplateWriterTask": "templatewriter_task",
        **dict.fromkeys(["FileWriteTask", "FileDeleteTask", "FileTransferTask", "CompressDirTask",
                         "DecompressDirTask", "ArchiveDirTask"], "fileio_tasks"),
        **dict.fromkeys(["CommandLineTask", "ForeachTask", "JoinDictTask", "JoinListTask",
                         "ImportDataTask"], "dataflow_tasks"),
    }

    @explicit_serialize
    class Attributes(FiretaskBase):
        def run_task(self, spec):
            seen = {"id": getattr(self, "fw_id", "none"), "lp": getattr(self, "launchpad", "none")}
            worker = getattr(self, "fworker", None)
            if worker:
                seen["worker"] = [worker.name, worker.category, worker.query, worker.env]
            return FWAction(stored_data=seen)

    class Colour(enum.Enum):
        RED = 1

    class Word(str, enum.Enum):
        WORD = "word"

    class Site(MSONable):
        def __init__(self, x):
            self.x = x

    class OldStyle:
        def to_dict(self):
            return {"inner": (Site(2), {datetime.date(2026, 1, 2): None})}

    VALUES = {
        "date": datetime.date(2026, 1, 2), "time": datetime.time(3, 4),
        "delta": datetime.timedelta(days=1), "naive": datetime.datetime(2026, 1, 2, 3, 4, 5, 6),
        "path": pathlib.PurePosixPath("a/b"), "set": {1}, "frozenset": frozenset("a"), "empty set": set(),
        "bytes": b"a\\xff", "bytearray": bytearray(b"a"), "complex": 1 + 2j, "range": range(3),
        "decimal": decimal.Decimal("1.50"), "fraction": fractions.Fraction(1, 3),
        "uuid": uuid.UUID(int=5), "enum": Colour.RED, "text enum": Word.WORD, "class": int,
        "builtin": print, "ellipsis": Ellipsis, "msonable": Site([1]), "old style": OldStyle(),
        "nested": {"a": [Site(1), (OldStyle(), b"")], "b": {"c": {2}}},
        "nan": float("nan"), "inf": [float("inf"), -float("inf")], "umlaut": "größe",
        "namedtuple": collections.namedtuple("P", "x y")(1, 2), "deque": collections.deque([1]),
        "defaultdict": collections.defaultdict(list, a=[1]), "counter": collections.Counter("aab"),
        "array": numpy.arange(3), "matrix": numpy.ones((2, 2)), "floats": numpy.float64(1.5),
        "texts": numpy.array(["a", "b"]), "np text": numpy.str_("a"), "np date": numpy.datetime64("2026-01-02"),
        "objects": numpy.array([None, {1: 2}], dtype=object), "complexes": numpy.array([1j]),
        "dates": numpy.array(["2026-01-02"], dtype="datetime64[s]"), "masked": numpy.array([1.5, float("nan")]),
        "int keys": {1: 1, -2: 2}, "other keys": {None: 1, True: 2, 1.5: 3},
        "text keys": {b"x": 1, datetime.date(2026, 1, 2): 2, frozenset(): 3, Colour.RED: 4},
    }

    def value(name):
        return VALUES[name]

    def members(path):
        names = [os.path.normpath(name) for name in tarfile.open(path).getnames()]
        return sorted(name for name in names if not name.startswith("FW_"))  # there is more of ours

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
    """A Firework, and where fwrunner's report is meant to differ: path -> (FireWorks', ours).

    ``files`` are in the launch directory before: name -> contents, or None for a directory.
    """

    name: str
    tasks: list[Any]
    spec: Mapping[str, Any] = MappingProxyType({})
    differs: Mapping[str, tuple[Any, Any]] = MappingProxyType({})
    files: Mapping[str, str | None] = MappingProxyType({})


class Outcome(NamedTuple):
    """What a run told, and the files that it left: name -> contents, decompressed."""

    report: Any
    files: dict[str, bytes]


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


WORKER = {"name": "w", "category": "c", "query": "{}", "env": {"cmd": "mpirun"}}


def run_cases(root: Path, cases: Sequence[Case]) -> dict[str, tuple[Outcome, Outcome]]:
    """For each case, by name: what FireWorks left, and what fwrunner left."""
    interpreter = fireworks_venv() / "bin" / "python"
    if not interpreter.exists():
        components.unavailable(f"no FireWorks in {fireworks_venv()}: `make test` installs it")
    (root / "both.py").write_text(textwrap.dedent(TASKS), encoding="utf-8")
    (root / ".fireworks").mkdir()
    (root / ".fireworks" / "my_fworker.yaml").write_text(json.dumps(WORKER))
    places = {by: [root / by / str(n) for n in range(len(cases))] for by in ("stock", "ours")}
    for directories in places.values():
        for case, directory in zip(cases, directories, strict=True):
            _stage(case, directory)
    with ExitStack() as running:
        runs = [running.enter_context(_run_all(interpreter, root, by, places[by])) for by in places]
        for process in runs:
            assert process.wait(110) == 0
    outcomes = {by: [_outcome(directory) for directory in places[by]] for by in places}
    both = zip(outcomes["stock"], outcomes["ours"], strict=True)
    return dict(zip([case.name for case in cases], both, strict=True))


def assert_agree(case: Case, both: tuple[Outcome, Outcome]) -> None:
    stock, ours = json.loads(json.dumps([outcome.report for outcome in both]))
    for path, (theirs, mine) in case.differs.items():
        assert (at(stock, path), at(ours, path)) == (theirs, mine), path
        without(stock, path)
        without(ours, path)
    # As texts, since NaN equals nothing.
    assert _comparable(leaves(ours)) == _comparable(leaves(stock))


def _comparable(found: dict[str, Any]) -> dict[str, str]:
    return {path: json.dumps(value, sort_keys=True) for path, value in found.items()}


def _stage(case: Case, directory: Path) -> None:
    directory.mkdir(parents=True)
    for name, contents in case.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if contents is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_text(contents, encoding="utf-8")
    launch = {
        "launch_id": 1, "fw_id": 3, "state": "RESERVED", "launch_dir": "/", "host": "h", "ip": "",
        "state_history": [], "trackers": [], "action": None, "fworker": WORKER,
    }  # fmt: skip
    spec = json.loads(json.dumps(dict(case.spec)).replace("DIRECTORY", str(directory)))
    tasks = json.loads(json.dumps(case.tasks).replace("DIRECTORY", str(directory)))
    firework = {
        "fw_id": 3, "name": "x", "state": "RESERVED", "launches": [launch], "spec": {**spec, "_tasks": tasks},
    }  # fmt: skip
    (directory / "FW.json").write_text(json.dumps(firework))
    (directory / "FW_offline.json").write_text('{"launch_id": 1}')


@contextmanager
def _run_all(
    python: Path, root: Path, by: str, directories: list[Path]
) -> Iterator[subprocess.Popen[str]]:
    environment = {key: os.environ[key] for key in ("PATH", "CI", "LANG") if key in os.environ}
    environment.update(
        HOME=str(root), PYTHONPATH=f"{REPOSITORY}{os.pathsep}{root}", PYTHONHASHSEED="0"
    )
    (root / f"{by}.list").write_text("\n".join(map(str, directories)))
    with (root / f"{by}.list").open() as stdin, (root / f"{by}.log").open("w") as log:
        command = [str(python), "-B", "-W", "ignore", "-c", RUN_ALL, by]
        process = subprocess.Popen(
            command, env=environment, stdin=stdin, stdout=log, stderr=log, text=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _outcome(directory: Path) -> Outcome:
    """What a run left, less what differs in any two runs."""
    (offline,) = directory.glob("FW_offline.json*")  # FireWorks compresses it, too
    text = _contents(offline).decode()
    report = json.loads(text.replace(str(directory), "DIRECTORY"))
    for key in ("launch_id", "started_on", "completed_on", "fwagent"):
        report.pop(key, None)
    detours = at(report, "fwaction.detours")
    for firework in detours if detours != ABSENT else []:
        if "ForeachTask" in firework.get("name", ""):
            firework["created_on"] = firework["updated_on"] = "at some time"
    exception = at(report, "fwaction.stored_data._exception")
    if exception != ABSENT:
        exception["_stacktrace"] = exception["_stacktrace"].strip().splitlines()[-1]
    paths = [path for path in directory.rglob("*") if path.is_file() and path.name[:3] != "FW_"]
    kept = [path for path in paths if not path.name.startswith("FW.json")]
    return Outcome(report, {str(path.relative_to(directory)): _contents(path) for path in kept})


def _contents(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name.endswith((".tar.gz", ".tar.bz2", ".tar", ".zip")):
        return b"an archive: its members are in the report"
    unpack = {".gz": gzip.decompress, ".z": gzip.decompress, ".bz2": bz2.decompress}.get(
        path.suffix.lower()
    )
    try:
        return unpack(data) if unpack else data
    except OSError:
        return data
