"""Some hundred Fireworks of all built-in Firetasks and spec keys, generated, under FireWorks and under us.

Reports and files agree, but for the differences that a case states. Where both FIZZLE, what they say
about it is in the words of each.
"""

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.interop.task_reports import (
    ABSENT,
    Absent,
    Case,
    Outcome,
    act,
    assert_agree,
    at,
    python,
    run_cases,
    script,
    see,
    without,
)

pytestmark = pytest.mark.interop

FILES = {
    "in.txt": "one\ntwo\n",
    "sub/two.txt": "two",
    "sub/deep/three.txt": "größe",
    "empty": None,
    "data.json": json.dumps({"k": [1, {"m": None}]}),
    "list.json": "[1, 2]",
    "data.yaml": "k: [1, 2]\nm: text\n",
    "page.j2": "Hello {{ name }} {{ gone }}{% for i in list %}{{ i }},{% endfor %} {{ html }}\n",
}
SPEC = {
    "x": 1, "text": "a b", "names": ["n1", "n2", "n3"], "d": {"a": 1}, "deep": {"er": {"k": {"old": 0}}},
    "path": {"type": "path", "value": "in.txt"}, "word": {"type": "data", "value": "w o"},
    "several": [{"type": "data", "value": 1}, {"source": {"type": "data", "value": 2.5}}],
}  # fmt: skip


def task(name: str, **parameters: Any) -> dict[str, Any]:
    return {"_fw_name": name, **parameters}


def case(name: str, *tasks: Any, spec: Any = None, files: Any = None, **differs: Any) -> Case:
    paths = {path.replace("__", "."): pair for path, pair in differs.items()}
    return Case(name, list(tasks), {**SPEC, **(spec or {})}, paths, {**FILES, **(files or {})})


def file_tasks() -> Iterator[Case]:
    record = {"filename": "out.txt", "contents": "größe\n"}
    for dest in ({}, {"dest": "sub"}, {"dest": "DIRECTORY/empty"}, {"dest": "nowhere"}):
        yield case(f"write {dest}", task("FileWriteTask", files_to_write=[record, record], **dest))
    yield case(
        "write no text", task("FileWriteTask", files_to_write=[{"filename": "a", "contents": 3}])
    )
    yield case("write nothing", task("FileWriteTask", files_to_write=[]), see("x"))
    options: list[dict[str, Any]] = [{}, {"ignore_errors": False}, {"dest": "sub"}]
    for names, more in itertools.product(
        (["in.txt"], ["in.txt", "gone", "data.json"], ["sub"]), options
    ):
        yield case(f"delete {names} {more}", task("FileDeleteTask", files_to_delete=names, **more))


def transfers() -> Iterator[Case]:
    for mode in ("move", "mv", "copy", "cp", "copy2", "copytree", "copyfile"):
        source = "sub" if mode == "copytree" else "in.txt"
        ways: list[tuple[Any, Any]] = [
            (source, {"dest": "new"}),
            ("gone", {"dest": "new", "ignore_errors": True}),
            ("gone", {"dest": "new"}),
            ({"src": f"DIRECTORY/{source}", "dest": "$HOME_OF_NOBODY/new"}, {}),
            ({"src": source, "dest": "empty"}, {"shell_interpret": False}),
        ]
        for entry, more in ways if mode in ("move", "copytree") else ways[:2]:
            transfer = task("FileTransferTask", mode=mode, files=[entry, entry], **more)
            yield case(f"{mode} {entry} {more}", transfer, see("x"))
    old = {"_fw_name": "Transfer Task", "mode": "cp", "files": ["gone"], "dest": "x"}
    yield case("transfer old name", old)


def archives() -> Iterator[Case]:
    pack, unpack = "CompressDirTask", "DecompressDirTask"
    for more in ({}, {"compression": "bz2"}, {"dest": "sub"}, {"dest": "DIRECTORY/sub/deep"}):
        yield case(f"compress {more}", task(pack, **more))
        yield case(
            f"there and back {more}", task(pack, **more), task(unpack), script("cat sub/*.txt")
        )
    yield case("compress badly", task(pack, compression="zip"))
    for form, end in (("gztar", "tar.gz"), ("tar", "tar"), ("bztar", "tar.bz2")):
        for base in ("a", "sub/b", "DIRECTORY/empty/c"):
            told = python("both.members", args=[f"{base}.{end}"], stored_data_varname="in it")
            yield case(
                f"archive {form} {base}", task("ArchiveDirTask", base_name=base, format=form), told
            )
    yield case(
        "archive",
        task("ArchiveDirTask", base_name="a"),
        script("tar xzf a.tar.gz -C empty ./in.txt"),
    )
    yield case("archive zip", task("ArchiveDirTask", base_name="sub/z", format="zip"), see("x"))
    yield case("archive unknown", task("ArchiveDirTask", base_name="a", format="rar"))


def templates() -> Iterator[Case]:
    context = {"name": "N", "list": [1, 2], "html": "<&>"}
    given = {"context": context, "output_file": "out.txt"}
    for more in (
        {"template_dir": "DIRECTORY", "template_file": "page.j2"},
        {"template_file": "DIRECTORY/page.j2"},
        {"template_dir": ".", "template_file": "gone.j2"},
        {"template_file": "simple_template.txt"},
        {"template_file": "no_such_template.txt"},
    ):
        yield case(f"template {more}", task("TemplateWriterTask", **given, **more))
    spec = {**given, "template_dir": "DIRECTORY", "template_file": "page.j2"}
    yield case("template global", task("TemplateWriterTask", use_global_spec=True), spec=spec)
    old = {"_fw_name": "Template Writer Task", **given, "template_file": "DIRECTORY/gone"}
    yield case("template old name", old)


def command(words: Any, inputs: Any = (), outputs: Any = (), **described: Any) -> dict[str, Any]:
    more = {"chunk_number": described.pop("chunk")} if "chunk" in described else {}
    spec = {"command": words, **described}
    return task(
        "CommandLineTask", command_spec=spec, inputs=list(inputs), outputs=list(outputs), **more
    )


def commands() -> Iterator[Case]:
    data = {"target": {"type": "data"}}
    sources = {
        "path": {"source": {"type": "path", "value": "in.txt"}},
        "data": {"source": {"type": "data", "value": 3}},
        "of spec": {"source": "word"},
        "prefixed": {"source": "word", "binding": {"prefix": "-p"}},
        "bound": {"source": "word", "binding": {"prefix": "--p", "separator": "="}},
        "listed": "several",
        "stdin": {"source": "path", "target": {"type": "stdin"}},
        "stdin data": {"source": "word", "target": {"type": "stdin"}},
        "stdin bound": {"source": "word", "target": {"type": "stdin"}, "binding": {"prefix": "-"}},
    }
    for name, source in sources.items():
        words = ["cat"] if "stdin" in name else ["echo", "-n"]
        called = command(words, ["i"], ["o"], i=source, o=data)
        yield case(f"command {name}", called, see("o"))
        yield case(
            f"command {name} chunk",
            command(words, ["i"], ["o"], i=source, o=data, chunk=0),
            see("o"),
        )
    path = {"type": "path", "value": "out.txt"}
    outputs = {
        "argument": (["touch"], {"target": path}),
        "stdout": (["echo", "a"], {"target": path, "source": {"type": "stdout"}}),
        "stderr": (["ls", "in.txt"], {"target": path, "source": {"type": "stderr"}}),
        "copy": (["true"], {"target": path, "source": {"type": "path", "value": "in.txt"}}),
        "bound": (["touch"], {"target": path, "binding": {"prefix": "p-"}}),
    }
    for name, (words, output) in outputs.items():
        yield case(f"command to {name}", command(words, [], ["o"], o=output), see("o"))
        yield case(
            f"command to {name} chunk", command(words, [], ["o"], o=output, chunk=3), see("o")
        )
    both = command(
        ["sh", "-c", "echo out"],
        [],
        ["o", "p"],
        o=data,
        p={"target": path, "source": {"type": "path", "value": "in.txt"}},
    )
    yield case("command two outputs", both, see("o", "p"))
    yield case("command bare", command(["true"]), see("x"))
    yield case("command no shell", command(["echo", "$HOME", "*"], [], ["o"], o=data))
    yield case("command no label", command(["true"], ["i"]))
    yield case("command no source", command(["true"], ["i"], i={"binding": {"prefix": "x"}}))
    for kind in ("identifier", "stdout"):
        yield case(
            f"command {kind}", command(["true"], ["i"], i={"source": {"type": kind, "value": "x"}})
        )
    yield case("command fails", command(["ls", "gone"]))
    yield case("command is not there", command(["no-such-command"]))


def dataflow() -> Iterator[Case]:
    called = {"_fw_name": "PyTask", "func": "sorted", "inputs": ["names"], "outputs": ["o"]}
    for number in (None, 0, 1, 2, 3, 5):
        more: dict[str, Any] = {} if number is None else {"number of chunks": number}
        yield case(
            f"foreach {number}",
            task("ForeachTask", task=called, split="names", **more),
            see("late"),
        )
    for name, given in {
        "text inputs": {"task": {**called, "inputs": "names"}, "split": "names"},
        "old name": {
            "task": {"_fw_name": "Script Task", "script": "true", "inputs": ["names"]},
            "split": "names",
        },
        "own class": {
            "task": {"_fw_name": "{{both.See}}", "keys": [], "inputs": ["names"]},
            "split": "names",
        },
        "not an input": {"task": {**called, "inputs": ["x"]}, "split": "names"},
        "not a list": {"task": {**called, "inputs": ["x"]}, "split": "x"},
        "not there": {"task": {**called, "inputs": ["gone"]}, "split": "gone"},
        "empty": {"task": {**called, "inputs": ["none"]}, "split": "none"},
    }.items():
        yield case(f"foreach {name}", task("ForeachTask", **given), spec={"none": []})
    inputs: Any
    for inputs, output, more in itertools.product(
        (["x"], ["x", "text"], [], ["gone"], "x"), ("d", "new", "x"), ({}, {"rename": {"x": "y"}})
    ):
        if more and output != "d":
            continue
        name = f"{inputs} {output} {more}"
        yield case(
            f"join dict {name}",
            task("JoinDictTask", inputs=inputs, output=output, **more),
            see("d", "new"),
        )
        if not more:
            joined = "names" if output == "d" else output
            yield case(
                f"join list {name}",
                task("JoinListTask", inputs=inputs, output=joined),
                see("names", "new"),
            )
    for filename, place in itertools.product(
        ("data.json", "list.json", "data.yaml", "in.txt", "gone.json"),
        ("new", "d", "deep/er/k", "gone/k", "x"),
    ):
        if (filename, place) in (("data.json", "x"), ("data.yaml", "x")):
            continue  # FireWorks cannot merge an object into a number; here it replaces it
        imported = task("ImportDataTask", filename=filename, mapstring=place)
        yield case(f"import {filename} {place}", imported, see("new", "d", "deep"))


def values() -> Iterator[Case]:
    names = (
        "date", "time", "delta", "naive", "path", "set", "frozenset", "empty set", "bytes", "bytearray",
        "complex", "range", "decimal", "fraction", "uuid", "enum", "text enum", "class", "builtin", "ellipsis",
        "msonable", "old style", "nested", "nan", "inf", "umlaut", "namedtuple", "deque", "defaultdict",
        "counter", "array", "matrix", "floats", "texts", "np text", "np date", "objects", "complexes", "dates",
        "masked", "int keys", "other keys", "text keys",
    )  # fmt: skip
    for name in names:
        yield case(
            f"value {name}",
            python("both.value", args=[name], outputs=["v"], stored_data_varname="s"),
        )


def spec_keys() -> Iterator[Case]:
    handed = {
        "_pass_job_info": True, "_preserve_fworker": True, "_files_out": {"a": "*.txt", "b": "gone*", "c": "sub/*"},
    }  # fmt: skip
    for count in (1, 2, 3):
        for keys in itertools.combinations(sorted(handed), count):
            spec = {key: handed[key] for key in keys}
            yield case(
                f"hand over {keys}",
                act(mod_spec=[{"_set": {"y": 1}}], update_spec={"z": 1}),
                spec=spec,
            )
            yield case(f"hand over {keys} fizzled", python("both.boom", args=["no"]), spec=spec)
    earlier = [{"fw_id": 1, "name": "p", "launch_dir": "/p", "state": "RESERVED"}]
    own = {"fw_id": 3, "name": "x", "launch_dir": "DIRECTORY", "state": "RESERVED"}
    for infos in (earlier, [*earlier, own]):
        yield case(
            f"job info {len(infos)}",
            see("_job_info"),
            spec={"_pass_job_info": True, "_job_info": infos},
        )
    given = {"_files_prev": {"a": "DIRECTORY/in.txt", "z": "DIRECTORY/sub/two.txt", "n": "/gone"}}
    for wanted in (
        {"a": "a.txt"},
        {"a": "a.gz", "z": "z.bz2"},
        {"other": "o"},
        {"a": "sub/a.Z"},
        {"n": "x"},
    ):
        fizzles = "n" in wanted
        yield case(f"files in {wanted}", script("ls"), see("_files_in"), spec={**given, "_files_in": wanted},
                   **({"checkpoint": (ABSENT, ABSENT)} if fizzles else {}))  # fmt: skip
    yield case("env", see("_fw_env"))
    attributes = task("{{both.Attributes}}")
    for added in (
        [],
        ["_add_launchpad_and_fw_id"],
        ["_add_fworker"],
        ["_add_launchpad_and_fw_id", "_add_fworker"],
    ):
        yield case(f"attributes {added}", attributes, spec=dict.fromkeys(added, True))
    once = {
        "_fw_name": "BackgroundTask",
        "num_launches": 1,
        "sleep_time": 0,
        "run_on_finish": False,
    }
    note = {**once, "tasks": [script("echo once >> b.txt")]}
    wait = script("while [ ! -s b.txt ]; do sleep 0.01; done")
    yield case("background", wait, see("x"), spec={"_background_tasks": [note]})
    last = {**note, "run_on_finish": True}
    yield case(
        "background at the end",
        wait,
        spec={"_background_tasks": [last, {**last, "tasks": [see("x")]}]},
    )
    yield case(
        "background, and it fizzles", wait, script("false"), spec={"_background_tasks": [last]}
    )
    yield case(
        "trackers", script("echo 1"), spec={"_trackers": [{"filename": "in.txt", "nlines": 1}]}
    )
    yield case("launch dir", see("x"), spec={"_launch_dir": "/somewhere"})


def recoveries() -> Iterator[Case]:
    done = {
        "_all_stored_data": {"old": 1},
        "_all_update_spec": {"u": 1},
        "_all_mod_spec": [{"_push": {"m": 1}}],
    }
    for number, mode in itertools.product((0, 1, 2), (None, "cp", "prev_dir")):
        previous = "DIRECTORY/sub" if mode == "cp" else "DIRECTORY"
        recovery = {
            "_task_n": number,
            "_prev_dir": previous,
            "_mode": mode,
            "_launch_id": 9,
            **done,
        }
        tasks = [act(stored_data={str(i): i}, update_spec={f"t{i}": i}) for i in range(3)]
        spec = {
            "_recovery": recovery,
            "_files_in": {"a": "not copied"},
            "_files_prev": {"a": "DIRECTORY/in.txt"},
        }
        yield case(f"recovery {number} {mode}", *tasks, spec=spec)
    yield case("recovery that fizzles", act(), python("both.boom", args=["no"]),
               spec={"_recovery": {"_task_n": 1, "_prev_dir": "/gone", "_mode": None, **done}})  # fmt: skip


def action_files() -> Iterator[Case]:
    empty: dict[str, Any] = {
        "stored_data": {}, "exit": False, "update_spec": {}, "mod_spec": [], "additions": [], "detours": [],
        "append_wfs": [], "defuse_children": False, "defuse_workflow": False, "propagate": False,
    }  # fmt: skip
    for more in (
        {"stored_data": {"f": 1}}, {"mod_spec": [{"_push": {"m": 1}}]}, {"exit": True}, {"defuse_children": True},
        {"update_spec": {"u": {"v": [1.5, None]}}, "propagate": True}, {"extra": 1},
    ):  # fmt: skip
        text = json.dumps({**empty, **more})
        write = task(
            "FileWriteTask", files_to_write=[{"filename": "FWAction.json", "contents": text}]
        )
        yield case(f"action file {more}", act(stored_data={"first": 1}), write)
        returned = task(
            "FileWriteTask", files_to_write=[{"filename": "FWAction.yaml", "contents": text}]
        )
        yield case(f"action file, yaml {more}", returned)
    torn = task(
        "FileWriteTask", files_to_write=[{"filename": "FWAction.json", "contents": '{"stor'}]
    )
    yield case("action file torn", torn, fwaction__stored_data___task=(None, torn))


def anything() -> Iterator[Case]:
    """Random Fireworks of tasks that may follow one another."""
    pool: list[Any] = [
        script("echo a >> log.txt", store_stdout=True), script("cat in.txt", store_stdout=True), script("exit 2"),
        script(["true", "exit 1", "true"], fizzle_bad_rc=False), script("exit 1", defuse_bad_rc=True),
        python("len", inputs=["names"], outputs=["n"]), python("both.pair", outputs=["p", "q"]),
        python("both.pair", outputs=["chunks"], chunk_number=0),
        task("FileWriteTask", files_to_write=[{"filename": "w.txt", "contents": "w"}]),
        task("FileDeleteTask", files_to_delete=["w.txt"], ignore_errors=False),
        task("FileDeleteTask", files_to_delete=["in.txt"]),
        task("FileTransferTask", mode="mv", files=["in.txt"], dest="sub/moved.txt"),
        task("FileTransferTask", mode="cp", files=[{"src": "in.txt", "dest": "w.txt"}], ignore_errors=True, dest="."),
        task("CompressDirTask", dest="sub"), task("DecompressDirTask", dest="sub"),
        task("JoinDictTask", inputs=["x", "text"], output="joined"),
        task("JoinListTask", inputs=["x"], output="listed"),
        task("ImportDataTask", filename="data.json", mapstring="imported"),
        command(["cat"], ["i"], ["c"], i={"source": "path"}, o=None, c={"target": {"type": "data"}}),
        act(stored_data={"a": 1}, update_spec={"x": 5}), act(mod_spec=[{"_inc": {"x": 2}}, {"_set": {"d->z": [1]}}]),
        act(propagate=True), see("x", "text", "n", "p", "_fw_env"),
        task("ForeachTask", task={"_fw_name": "PyTask", "func": "len", "inputs": ["names"]}, split="names"),
    ]  # fmt: skip
    keys: dict[str, Any] = {
        "_pass_job_info": True, "_preserve_fworker": True, "_files_out": {"w": "w*", "t": "*.txt"},
        "_add_fworker": True, "_files_in": {"a": "got.txt"}, "_files_prev": {"a": "DIRECTORY/data.json"},
    }  # fmt: skip
    chance = random.Random(20260102)
    for number in range(50):
        tasks = chance.sample(pool, chance.randint(2, 6))
        spec = {key: keys[key] for key in keys if chance.random() < 0.3}
        yield case(f"random {number}", *tasks, spec=spec)


GROUPS = (
    file_tasks, transfers, archives, templates, commands, dataflow, values, spec_keys, recoveries, action_files,
    anything,
)  # fmt: skip
CASES = [each for group in GROUPS for each in group()]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Outcome, Outcome]]:
    assert len({case.name for case in CASES}) == len(CASES) > 300
    return run_cases(tmp_path_factory.mktemp("generated"), CASES)


def own_words(outcome: Outcome) -> None:
    """Take away how a failure is told; that it is told has been seen."""
    path = "fwaction.stored_data._exception._stacktrace"
    if not isinstance(at(outcome.report, path), Absent):
        assert at(outcome.report, path)
        without(outcome.report, path)
        without(outcome.report, "fwaction.stored_data._message")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_reports_and_files_agree(case: Case, outcomes: dict[str, tuple[Outcome, Outcome]]) -> None:
    stock, ours = outcomes[case.name]
    own_words(stock)
    own_words(ours)
    assert_agree(case, (stock, ours))
    assert ours.files == stock.files
