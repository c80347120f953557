"""FireWorks' other built-in Firetasks: what generated runs beside FireWorks cannot show.

(Those are in `interop/test_generated_tasks`.)
"""

import gzip
import importlib
import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fwrunner.action import Fault, read_action
from fwrunner.protocol.action import EMPTY
from fwrunner.tasks import load


@pytest.fixture(autouse=True)
def workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, spec: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    """Run a task; return what differs from an empty action."""
    action = read_action(load({"_fw_name": name, **parameters})(spec or {}))
    return {key: value for key, value in action.items() if value != EMPTY[key]}


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(directory: str) -> list[str]:
    return sorted(path.name for path in Path(directory).iterdir())


class TestFiles:
    def test_a_path_may_have_src_and_dest_in_it(self, workdir):
        write(workdir, src_and_dest="x")
        run("FileTransferTask", mode="cp", files=["src_and_dest"], dest="copy")
        assert (workdir / "copy").read_text() == "x"

    def test_retries_what_failed_and_only_that(self, workdir, monkeypatch, capfd):
        naps = []

        def sleep(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 2:
                (workdir / "late").write_text("late")

        monkeypatch.setattr("fwrunner.tasks.files.sleep", sleep)
        write(workdir, first="first")
        (workdir / "to").mkdir()
        transfer: dict[str, Any] = {"mode": "mv", "files": ["first", "late"], "dest": "to"}
        run("FileTransferTask", **transfer, max_retry=3, retry_delay=7)
        assert names("to") == ["first", "late"]
        assert naps == [7, 7]
        assert "FileNotFoundError" in capfd.readouterr().err
        with pytest.raises(ValueError, match=r"mv from .*late to .*to failed: "):
            run("FileTransferTask", **dict(transfer, files=["late"]), max_retry=1, retry_delay=0)

    @pytest.mark.parametrize(
        ("mode", "message"),
        [("rtransfer", "another host, .*scp or rsync"), ("link", "no mode 'link'; there are move")],
    )
    def test_modes_that_are_not_there(self, mode, message):
        with pytest.raises(Fault, match=message):
            run("FileTransferTask", mode=mode, files=["a"], dest="b", ignore_errors=True)

    def test_umlauts_whatever_the_locale(self, workdir):
        run("FileWriteTask", files_to_write=[{"filename": "f", "contents": "größe"}])
        assert (workdir / "f").read_bytes() == "größe".encode()


CONTROL = ("FW.json", "FW_offline.json", "FW_ping.json", "FW_action.json", "FW_submit.script")


class TestArchives:
    @pytest.mark.parametrize("compression", ["gz", "bz2"])
    def test_what_tells_of_the_launch_is_left_alone(self, workdir, compression):
        kept = (*CONTROL, ".FW_ping.json.1.abc.tmp", ".fwagent/outbox/1.abc.json")
        for name in kept:
            write(workdir, **{name: "{}", f"sub/{name}": "{}", "data": "d"})
        run("CompressDirTask", compression=compression)
        for name in kept:
            assert (workdir / name).read_text() == (workdir / "sub" / name).read_text() == "{}"
        assert not (workdir / "data").exists()
        write(workdir, **{"FW_offline.json.gz": "of an earlier run"})
        run("DecompressDirTask")
        assert (workdir / "data").read_text() == "d"
        assert (workdir / "FW_offline.json").read_text() == "{}"

    def test_the_output_of_this_job_is_left_alone(self, workdir):
        write(workdir, **{"FW_job.out": "", "other.out": ""})
        with open(workdir / "FW_job.out", "a") as output:  # noqa: PTH123
            before = os.dup(1)
            os.dup2(output.fileno(), 1)
            try:
                run("CompressDirTask")
            finally:
                os.dup2(before, 1)
                os.close(before)
        assert names(".") == ["FW_job.out", "other.out.gz"]

    def test_a_file_that_cannot_be_read_costs_nothing(self, workdir):
        write(workdir, **{"bad.gz": "no", "bad": "before", "sub/bad.bz2": ""})
        with gzip.open(workdir / "good.gz", "w") as stream:
            stream.write(b"good")
        with pytest.raises(ValueError, match=r"DecompressDirTask: .*/bad.gz failed: "):
            run("DecompressDirTask")
        run("DecompressDirTask", ignore_errors=True)
        assert (workdir / "good").read_text() == "good"
        assert (workdir / "bad").read_text() == "before"
        assert names(".") == ["bad", "bad.gz", "good", "sub"]

    def test_mode_and_links_stay(self, workdir):
        write(workdir, script="x")
        (workdir / "script").chmod(0o750)
        (workdir / "link").symlink_to("script")
        run("CompressDirTask")
        assert (workdir / "script.gz").stat().st_mode & 0o777 == 0o750
        assert (workdir / "link").is_symlink()

    def test_an_archive_does_not_hold_itself(self, workdir):
        write(workdir, **{"a": "x" * 100000, "sub/b": "b", ".FW_ping.json.1.abc.tmp": ""})
        os.mkfifo("pipe")
        run("ArchiveDirTask", base_name="all", format="zip")
        assert sorted(zipfile.ZipFile("all.zip").namelist()) == ["a", "sub/", "sub/b"]
        run("ArchiveDirTask", base_name="new/all", format="xztar")
        with tarfile.open("new/all.tar.xz") as archive:
            members = {os.path.normpath(name) for name in archive.getnames()}
        assert members == {".", "a", "all.zip", "pipe", "sub", "sub/b"}
        with pytest.raises(ValueError, match="'format' is 'rar', not one of gztar, tar"):
            run("ArchiveDirTask", base_name="all", format="rar")


class FakeJinja:
    FileSystemLoader = staticmethod(lambda directory: directory)

    def __init__(self, loader: str, autoescape: bool) -> None:
        assert autoescape

    Environment = property(lambda self: self)

    def from_string(self, text: str) -> Any:
        return SimpleNamespace(render=lambda context: text.format(**context))


class TestTemplate:
    @pytest.fixture(autouse=True)
    def anew(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "fwrunner.tasks.template", raising=False)
        yield
        sys.modules.pop("fwrunner.tasks.template", None)

    def test_needs_jinja_and_says_so_before_anything_runs(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "jinja2", None)
        with pytest.raises(Fault, match=r"needs Jinja2, which .* Install it for this Python, or"):
            load({"_fw_name": "TemplateWriterTask", "use_global_spec": True})

    def test_writes_and_appends(self, workdir, monkeypatch):
        fake = SimpleNamespace(FileSystemLoader=FakeJinja.FileSystemLoader, Environment=FakeJinja)
        monkeypatch.setitem(sys.modules, "jinja2", fake)
        write(workdir, **{"t/x": "{a}\n"})
        parameters: dict[str, Any] = {
            "template_file": "x",
            "template_dir": "t",
            "output_file": "out",
        }
        for number in (1, 2):
            run("TemplateWriterTask", **parameters, context={"a": number}, append=number == 2)
        assert (workdir / "out").read_text() == "1\n2\n"

    def test_no_directory_and_no_fireworks(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "jinja2", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "fireworks", None)
        with pytest.raises(ValueError, match="Name its 'template_dir'"):
            run("TemplateWriterTask", template_file="x", context={}, output_file="y")


def command(*words: str, **described: Any) -> dict[str, Any]:
    more = {
        key: described.pop(key) for key in ("inputs", "outputs", "chunk_number") if key in described
    }
    return run(
        "CommandLineTask",
        described.pop("spec", None),
        command_spec={"command": list(words), **described},
        **more,
    )


class TestCommandLine:
    DATA = {"target": {"type": "data"}}  # noqa: RUF012

    def test_stdout_as_data_and_to_a_file(self, workdir):
        to_file = {"target": {"type": "path", "value": "o"}, "source": {"type": "stdout"}}
        action = command("echo", "a", outputs=["d", "f"], d=self.DATA, f=to_file)
        assert action["update_spec"]["d"] == {"type": "data", "value": "a"}
        assert (workdir / "o").read_text() == "a\n"

    def test_stderr_as_data(self):
        data = {**self.DATA, "source": {"type": "stderr"}}
        action = command("sh", "-c", "echo out; echo err >&2", outputs=["d"], d=data)
        assert action["update_spec"]["d"]["value"] == "err"

    def test_an_output_that_the_spec_describes(self):
        action = command("echo", "a", outputs=["d"], d="key", spec={"key": [self.DATA]})
        assert action["update_spec"]["d"]["value"] == "a"

    def test_several_outputs_of_a_chunk(self):
        action = command("echo", "a", outputs=["d", "e"], d=self.DATA, e=self.DATA, chunk_number=1)
        target = {"type": "data", "value": "a"}
        assert action == {"mod_spec": [{"_push": {"d": target}}, {"_push": {"e": target}}]}

    def test_null_in_a_binding(self):
        source = {
            "source": {"type": "data", "value": 1},
            "binding": {"prefix": None, "separator": "="},
        }
        action = command("echo", inputs=["i"], i=source, outputs=["d"], d=self.DATA)
        assert action["update_spec"]["d"]["value"] == "=1"

    def test_a_directory_gets_a_file(self, workdir):
        (workdir / "to").mkdir()
        path = {"target": {"type": "path", "value": "to"}}
        value = command("touch", outputs=["f"], f=path)["update_spec"]["f"]["value"]
        assert names("to") == [Path(value).name]
        assert path["target"]["value"] == "to"

    def test_failure_says_what_the_command_said(self):
        with pytest.raises(RuntimeError, match="sh ended with 3: sorry"):
            command("sh", "-c", "echo sorry >&2; exit 3")

    @pytest.mark.parametrize(
        ("described", "message"),
        [
            ({"inputs": "i"}, "'inputs' must be a list"),
            ({"inputs": ["i"], "i": {"source": {"type": "data"}}}, "has no value"),
            ({"outputs": ["o"], "o": {"target": {"type": "path"}}}, "has no path"),
            ({"outputs": ["o"], "o": {}}, "no 'target' with a type"),
            ({"outputs": ["o"], "o": {"target": {"type": "filepad"}}}, "of type 'filepad', not path or data"),
        ],
    )  # fmt: skip
    def test_what_makes_no_sense(self, described, message):
        with pytest.raises(Exception, match=message):
            command("true", **described)


class TestDataflow:
    TASK = {"_fw_name": "PyTask", "func": "len", "inputs": ["l"]}  # noqa: RUF012

    def test_a_detour_of_a_rerun_starts_at_its_first_task(self):
        spec = {"l": [1, 2, 3], "_recovery": {"_task_n": 1}}
        detours = run("ForeachTask", spec, task=self.TASK, split="l")["detours"]
        assert [firework["spec"]["l"] for firework in detours] == [[1], [2], [3]]
        assert [firework["fw_id"] for firework in detours] == [-1, -2, -3]
        assert all("_recovery" not in firework["spec"] for firework in detours)
        assert "chunk_number" not in self.TASK

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"number of chunks": -1}, "no positive integer"),
            ({"number of chunks": "2"}, "no positive integer"),
            (
                {"task": {"_fw_name": "PyTask", "inputs": ["l"]}},
                "PyTask needs the parameter 'func'",
            ),
            ({"task": "PyTask"}, "'task' must be a dict"),
            ({"split": "x"}, "has no 'x' among its 'inputs'"),
            (
                {"split": "none", "task": {**TASK, "inputs": "none"}},
                "no list with elements, but ..$",
            ),
        ],
    )
    def test_foreach_refuses(self, given, message):
        with pytest.raises((Fault, TypeError, ValueError), match=message):
            run(
                "ForeachTask",
                {"l": [1], "x": [1], "none": []},
                **{"task": self.TASK, "split": "l", **given},
            )

    def test_the_spec_of_the_firework_is_not_altered(self, workdir):
        spec = {"d": {"e": {}}, "l": [1], "x": 2}
        write(workdir, data__json='{"k": 1}')
        run("JoinDictTask", spec, inputs=["x"], output="d")
        run("JoinListTask", spec, inputs=["x"], output="l")
        action = run("ImportDataTask", spec, filename="data.json", mapstring="d/e/f")
        assert action["update_spec"] == {"d": {"e": {"f": {"k": 1}}}}
        assert spec == {"d": {"e": {}}, "l": [1], "x": 2}

    def test_import_says_which_file(self, workdir):
        write(workdir, data__json="{")
        with pytest.raises(Fault, match=r"data.json cannot be read: "):
            run("ImportDataTask", filename="data.json", mapstring="d")

    def test_yaml_without_a_parser(self, workdir, monkeypatch):
        write(workdir, data__yaml="k: 1")
        monkeypatch.setitem(sys.modules, "ruamel.yaml", None)
        monkeypatch.setitem(sys.modules, "yaml", None)
        with pytest.raises(Fault, match=r"neither ruamel.yaml nor PyYAML"):
            run("ImportDataTask", filename="data.yaml", mapstring="d")

    def test_yaml_with_another_parser(self, workdir, monkeypatch):
        write(workdir, data__yaml="{}")
        monkeypatch.setitem(sys.modules, "ruamel.yaml", None)
        monkeypatch.setitem(sys.modules, "yaml", SimpleNamespace(safe_load=json.loads))
        assert run("ImportDataTask", filename="data.yaml", mapstring="d") == {
            "update_spec": {"d": {}}
        }


class TestDatabase:
    @pytest.mark.parametrize(
        "name", ["AddFilesTask", "GetFilesTask", "GetFilesByQueryTask", "DeleteFilesTask"]
    )
    def test_filepad_tasks_say_what_to_do(self, monkeypatch, name):
        monkeypatch.setitem(sys.modules, "fireworks", None)
        with pytest.raises(
            Fault, match=f"{name} keeps files in the database. .*_files_out.*rlaunch"
        ):
            load({"_fw_name": name})

    @pytest.mark.parametrize("name", ["AddFilesTask", "Other"])
    def test_filepad_where_fireworks_is_installed(self, monkeypatch, name):
        class Task:
            def run_task(self, spec: Any) -> None:
                raise OSError("no server")

        serializers = SimpleNamespace(load_object=lambda task: Task())
        for module in ("fireworks", "fireworks.utilities"):
            monkeypatch.setitem(sys.modules, module, SimpleNamespace())
        monkeypatch.setitem(sys.modules, "fireworks.utilities.fw_serializers", serializers)
        kind, message = (
            (Fault, "OSError: no server. An offline run")
            if name[0] == "A"
            else (OSError, "^no server$")
        )
        with pytest.raises(kind, match=message):
            load({"_fw_name": name})({})

    def test_a_task_that_uses_launchpad(self, workdir, monkeypatch):
        code = "class Uses:\n    def run_task(self, spec):\n        return self.launchpad.get_wf(self.fw_id)\n"
        code += "class Fails:\n    def run_task(self, spec):\n        return self.nothing\n"
        write(workdir, users_of_lp__py=code)
        monkeypatch.syspath_prepend(str(workdir))
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        given = {"fw_id": 3, "launchpad": None}
        with pytest.raises(
            Fault, match=r"'NoneType' object has no attribute 'get_wf'. An offline run"
        ):
            load({"_fw_name": "{{users_of_lp.Uses}}"}, given)({})
        with pytest.raises(AttributeError, match="nothing"):
            load({"_fw_name": "{{users_of_lp.Fails}}"}, given)({})
        del sys.modules["users_of_lp"]


def test_a_background_task_is_no_firetask():
    with pytest.raises(Fault, match=r"belongs into spec._background_tasks"):
        load({"_fw_name": "BackgroundTask", "tasks": []})


def test_every_built_in_task_can_be_imported_and_is_asked_for_its_parameters(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", SimpleNamespace())
    built_in = importlib.import_module("fwrunner.tasks")._BUILTIN
    assert len(built_in) == 14
    for name, (_, _, required) in built_in.items():
        assert callable(load({"_fw_name": name, **dict.fromkeys(required, "")}))
        if required:
            with pytest.raises(Fault, match=f"{name} needs the parameter {required[0]!r}"):
                load({"_fw_name": name})
    del sys.modules["fwrunner.tasks.template"]
