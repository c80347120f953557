"""Keys of the spec that fwrunner acts on, where runs beside FireWorks do not show it.

(Those are in `interop/test_generated_tasks`.)
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fwrunner import background
from fwrunner.plain import UNSERIALIZABLE
from fwrunner.protocol import Report, read_outbox_entry, read_report
from fwrunner.supervise import run
from tests.unit.test_runner import old_python

REPOSITORY = Path(__file__).resolve().parents[2]
WORKER = {"name": "w", "category": ["a"], "query": '{"spec.x": 1}', "env": {"cmd": "mpirun"}}

TASKS = """
    import os, threading, time
    from pathlib import Path

    def write(name, text="", times=None):
        Path(name).write_text(text)
        if times:
            os.utime(name, ns=(times, times))

    def grow(name, until=0):
        with open(name, "a") as stream:
            stream.write("x")
        if os.path.getsize(name) > until:
            write("ready")

    class Call:
        def __init__(self, code):
            self.code = code
        def run_task(self, spec):
            return eval(self.code, dict(globals(), spec=spec, self=self))
"""


class Launched:
    """A launch directory that has been run."""

    def __init__(self, path: Path, status: int) -> None:
        self.path = path
        self.status = status

    @property
    def report(self) -> Report:
        report = read_report(str(self.path))
        assert isinstance(report, Report), report
        return report

    @property
    def action(self) -> dict[str, Any]:
        assert self.report.fwaction is not None
        return self.report.fwaction

    @property
    def stored(self) -> dict[str, Any]:
        stored: dict[str, Any] = self.action["stored_data"]
        return stored

    @property
    def message(self) -> str:
        assert self.status == 1
        return str(self.stored["_message"])


Launch = Callable[..., Launched]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Make a launch directory."""
    (tmp_path / "spec_key_tasks.py").write_text(textwrap.dedent(TASKS))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    path: Path = tmp_path / "launch"

    def make(*codes: Any, worker: Any = WORKER, **spec: Any) -> Path:
        path.mkdir(exist_ok=True)
        (path / "FW_action.json").unlink(missing_ok=True)
        tasks = [
            code
            if isinstance(code, dict)
            else {"_fw_name": "{{spec_key_tasks.Call}}", "code": code}
            for code in codes
        ]
        firework = {
            "fw_id": 3,
            "spec": {**spec, "_tasks": tasks},
            "launches": [{"fworker": worker}],
        }
        (path / "FW.json").write_text(json.dumps(firework))
        (path / "FW_offline.json").write_text('{"launch_id": 7}')
        return path

    yield make
    sys.modules.pop("spec_key_tasks", None)


@pytest.fixture
def launch(stage):
    """Make a launch directory and run it."""

    def make(*codes: Any, **given: Any) -> Launched:
        path = stage(*codes, **given)
        return Launched(path, run(str(path)))

    return make


def wrote(**action: Any) -> str:
    return f"write('FWAction.json', {json.dumps(action)!r})"


class TestActionFile:
    def test_counts_once(self, launch: Launch):
        push = {"mod_spec": [{"_push": {"x": 1}}]}
        ran = launch("None", wrote(**push), "{'stored_data': {'x': spec['x']}}", "{'mod_spec': []}")
        assert ran.action["mod_spec"] == [{"_push": {"x": 1}}]
        assert ran.stored == {"x": [1]}
        assert (ran.path / "FWAction.json").exists()

    def test_counts_again_when_written_again(self, launch: Launch):
        """By the same bytes, in place, and in the same tick of the clock."""
        text = json.dumps({"mod_spec": [{"_push": {"x": 1}}]})
        ran = launch(*[f"write('FWAction.json', {text!r}, 10**18)"] * 3)
        assert ran.action["mod_spec"] == [{"_push": {"x": 1}}] * 3

    def test_of_an_earlier_launch_does_not_count(self, launch: Launch, stage):
        path = stage("None")
        (path / "FWAction.json").write_text('{"stored_data": {"stale": 1}}')
        assert launch("None").stored == {}

    def test_takes_the_place_of_what_is_returned(self, launch: Launch):
        ran = launch(f"({wrote(stored_data={'f': 1}, comment='x')}, 'no action')[1]")
        assert (ran.status, ran.stored) == (0, {"f": 1})

    def test_skips_the_rest(self, launch: Launch):
        assert launch(wrote(exit=True), "{'stored_data': {'late': 1}}").stored == {}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "FWAction.json cannot be read: "),
            ("[]", "holds no FWAction, but a list"),
            ("\\udcff", "FWAction.json cannot be read: "),
        ],
    )
    def test_unreadable(self, launch: Launch, text, message):
        code = f"Path('FWAction.json').write_bytes('{text}'.encode('utf-8', 'surrogateescape')) and None"
        ran = launch("{'stored_data': {'kept': 1}}", code)
        assert message in ran.message
        assert ran.message.startswith("task 2 of 2 (")
        assert ran.report.checkpoint is not None
        assert ran.report.checkpoint["_all_stored_data"] == {"kept": 1}

    def test_no_yaml_parser(self, launch: Launch, monkeypatch):
        monkeypatch.setitem(sys.modules, "ruamel.yaml", None)
        monkeypatch.setitem(sys.modules, "yaml", None)
        ran = launch("write('FWAction.yaml', 'exit: true')")
        assert "write JSON instead" in ran.message


class TestFilesIn:
    def test_one_that_is_gone_is_named_before_any_task(self, launch: Launch):
        ran = launch("write('ran')", _files_in={"in": "x"}, _files_prev={"in": "/gone/y"})
        assert ran.message.startswith(
            "the file 'in' of _files_in cannot be copied from /gone/y to "
        )
        assert ran.stored["_task"] is None
        assert not (ran.path / "ran").exists()

    def test_what_makes_no_sense(self, launch: Launch):
        assert "_files_in must be an object of names" in launch("None", _files_in=["x"]).message
        assert (
            "_files_out must be an object of names" in launch("None", _files_out={"a": 3}).message
        )

    def test_a_directory_with_brackets(self, launch: Launch, stage, monkeypatch):
        path = stage("write('a.txt')", _files_out={"a": "*.txt"})
        place = path.rename(path.with_name("launch[1]"))
        assert run(str(place)) == 0
        mods = Launched(place, 0).action["mod_spec"]
        assert mods == [{"_set": {"_files_prev->a": str(place / "a.txt")}}]


class TestHandOver:
    @pytest.mark.parametrize("python", [sys.executable, *old_python()])
    def test_a_locale_without_umlauts(self, stage, monkeypatch, python):
        touch = {"_fw_name": "ScriptTask", "script": "touch a.txt"}
        place = stage(touch, _files_out={"a": "*.txt"}, _pass_job_info=True)
        place = place.rename(place.with_name("größe"))
        settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        for name, value in {**settings, "PYTHONPATH": str(REPOSITORY)}.items():
            monkeypatch.setenv(name, value)
        subprocess.run([python, "-B", "-m", "fwrunner"], cwd=place, check=True)
        info, file = Launched(place, 0).action["mod_spec"]
        assert info["_push_all"]["_job_info"][0]["launch_dir"] == str(place)
        assert file == {"_set": {"_files_prev->a": str(place / "a.txt")}}

    def test_a_worker_that_is_not_known(self, launch: Launch, capfd):
        ran = launch("None", worker=None, _preserve_fworker=True)
        assert ran.action["update_spec"] == {}
        assert "FW.json does not say which worker this is" in capfd.readouterr().err

    def test_job_info_that_a_task_made(self, launch: Launch):
        ran = launch(
            "{'update_spec': {'_job_info': [{'p': __import__('pathlib').Path('a')}]}}",
            _pass_job_info=True,
        )
        (mod,) = ran.action["mod_spec"]
        assert mod["_push_all"]["_job_info"][0] == {"p": "a"}
        ran = launch("write('ran')", _pass_job_info=True, _job_info=3)
        assert "the spec's _job_info is no list" in ran.message
        assert not (ran.path / "ran").exists()

    def test_a_failure_is_told_even_so(self, launch: Launch, capfd):
        ran = launch("{'update_spec': {'_files_out': 3}}", "1 / 0")
        assert "ZeroDivisionError" in ran.stored["_exception"]["_stacktrace"]
        assert "nothing is handed over to the children" in capfd.readouterr().err


class TestTrackers:
    def test_the_final_report_has_the_ends_of_the_files(self, launch: Launch, tmp_path):
        (tmp_path / "secret").write_text("secret\n")
        code = """[write('log'), open('log', 'w').write('é\\n' * 200_000 + 'last\\n'),
            __import__('os').mkfifo('fifo'), __import__('os').symlink('../secret', 'link'),
            open('bin', 'wb').write(b'a\\0b'), open('small', 'wb').write(b'a\\xffb')] and None"""
        names = [
            "log",
            "gone",
            "fifo",
            "link",
            "../secret",
            str(tmp_path / "secret"),
            "bin",
            "small",
            ".",
        ]
        trackers = [{"filename": name} for name in names]
        ran = launch(code, "1 / 0", _trackers=[*trackers, {}, "junk", {"filename": "a\0"}])
        report = read_outbox_entry(str(ran.path / "FW_action.json"))
        assert isinstance(report, Report)
        assert report.state == "FIZZLED"
        assert report.trackers is not None
        assert set(report.trackers) == {"log", "small"}
        assert report.trackers["small"] == "a\ufffdb"
        log = report.trackers["log"]
        assert 80_000 < len(log) < 128 * 1024
        assert log == "é\n" * ((len(log) - 5) // 2) + "last\n"

    def test_of_many_there_is_a_bounded_part(self, launch: Launch):
        code = "[open(str(n), 'w').write('x' * 2**17) for n in range(9)] and None"
        ran = launch(code, _trackers=[{"filename": str(n)} for n in range(9)])
        report = read_outbox_entry(str(ran.path / "FW_action.json"))
        assert isinstance(report, Report)
        assert {name: len(text) for name, text in (report.trackers or {}).items()} == {
            "0": 2**17,
            "1": 2**17,
        }


class TestAttributes:
    CODE = "{'stored_data': {'w': list(self.fworker), 'id': self.fw_id, 'lp': self.launchpad}}"

    def test_without_fireworks(self, launch: Launch):
        keys = {"_add_fworker": True, "_add_launchpad_and_fw_id": True}
        assert launch(self.CODE, **keys).stored == {
            "w": ["w", ["a"], {"spec.x": 1}, {"cmd": "mpirun"}], "id": 3, "lp": None,
        }  # fmt: skip

    def test_fireworks_own_worker_where_it_is_in_use(self, launch: Launch, monkeypatch):
        made = SimpleNamespace(FWorker=lambda *given: ["FWorker", *given])
        monkeypatch.setitem(sys.modules, "fireworks.core.fworker", made)
        ran = launch("{'stored_data': {'w': self.fworker}}", _add_fworker=True)
        assert ran.stored["w"][:2] == ["FWorker", "w"]

    def test_what_needs_the_database_is_told_so(self, launch: Launch):
        ran = launch("self.launchpad.get_wf_by_fw_id(self.fw_id)", _add_launchpad_and_fw_id=True)
        assert "`launchpad` is None. Give results back as an FWAction" in ran.message

    @pytest.mark.parametrize(
        "worker", [None, 3, {}, {"name": 3, "env": [], "query": "{", "category": 1}]
    )
    def test_a_worker_that_is_none(self, launch: Launch, worker):
        code = "{'stored_data': {'w': list(self.fworker), 'env': spec['_fw_env']}}"
        stored = launch(code, worker=worker, _add_fworker=True).stored
        assert stored == {"w": ["", "", {}, {}], "env": {}}


def recovery(
    number: int, mode: str | None = None, previous: Any = "/gone", **given: Any
) -> dict[str, Any]:
    keys: dict[str, Any] = {"_all_stored_data": {}, "_all_update_spec": {}, "_all_mod_spec": []}
    return {
        "_task_n": number,
        "_mode": mode,
        "_prev_dir": str(previous),
        "_launch_id": 5,
        **keys,
        **given,
    }


class TestRecovery:
    def test_later_tasks_see_what_the_earlier_ones_did(self, launch: Launch):
        done: dict[str, Any] = {
            "_all_update_spec": {"x": [1]},
            "_all_mod_spec": [{"_push": {"x": 2}}, {"_unset": {"gone": ""}}],
        }
        ran = launch("1 / 0", "{'stored_data': {'x': spec['x']}}", _recovery=recovery(1, **done))
        assert (ran.stored, ran.action["mod_spec"]) == ({"x": [1, 2]}, done["_all_mod_spec"])

    def test_it_is_told_what_cannot_be_repeated(self, launch: Launch, capfd):
        launch("None", _recovery=recovery(0, _all_mod_spec=[{"_unset": {"gone": ""}}]))
        assert "its mod_spec fails: _unset of 'gone'" in capfd.readouterr().err

    def test_the_checkpoint_of_a_failure_can_be_gone_on_from(self, launch: Launch):
        """And a result that could not be stored is still told at the end."""
        codes = ["{'stored_data': {'a': 1, 'f': object()}}", "Path('mended').read_text() and None"]
        failed = launch(*codes)
        assert failed.status == 1
        assert failed.report.checkpoint is not None
        (failed.path / "mended").write_text("x")
        again = {
            **recovery(0),
            **failed.report.checkpoint,
            "_mode": "prev_dir",
            "_prev_dir": str(failed.path),
        }
        ran = launch("1 / 0", codes[1], _recovery=again)
        assert (ran.status, ran.stored["a"]) == (0, 1)
        assert ran.stored[UNSERIALIZABLE] == ["stored_data.f is a object: it has no JSON form"]

    def test_what_tells_of_the_earlier_launch_is_not_copied(self, launch: Launch, tmp_path):
        old = tmp_path / "old"
        (old / "sub").mkdir(parents=True)
        names = (
            "FW.json",
            "FW_offline.json",
            "FW_offline.json.gz",
            "FW_ping.json",
            "FW_action.json",
            "FW_submit.script",
        )
        for name in names:
            (old / name).write_text('{"launch_id": 5, "state": "FIZZLED", "fwaction": {}}')
        (old / "sub" / "data").write_text("data")
        (old / "nothing").symlink_to("/nowhere")
        (old / "sub" / "circle").symlink_to("..")
        (old / "linked").symlink_to("sub")
        (tmp_path / "launch" / "sub").mkdir(parents=True)
        (tmp_path / "launch" / "sub" / "data").write_text("of a first, interrupted start")
        seen = "{'stored_data': {'seen': sorted(os.listdir('.')), 'sub': os.listdir('sub')}}"
        ran = launch("1 / 0", seen, _recovery=recovery(1, "cp", old))
        assert ran.status == 0
        assert ran.report.launch_id == 7
        files = ["FW.json", "FW_offline.json", "FW_ping.json", "linked", "nothing", "sub"]
        assert ran.stored == {"seen": files, "sub": ["data"]}
        assert (
            (ran.path / "sub" / "data").read_text()
            == (ran.path / "linked" / "data").read_text()
            == "data"
        )

    def test_the_same_directory_by_another_name(self, launch: Launch, tmp_path):
        (tmp_path / "launch").mkdir()
        (tmp_path / "launch" / "data").write_text("x")
        (tmp_path / "link").symlink_to("launch")
        ran = launch("None", _recovery=recovery(0, "cp", tmp_path / "link"))
        assert (ran.status, (ran.path / "data").read_text()) == (0, "x")

    def test_the_new_directory_may_lie_in_the_old_one(self, launch: Launch, tmp_path):
        (tmp_path / "data").write_text("x")
        ran = launch("None", _recovery=recovery(0, "cp", tmp_path))
        assert (ran.path / "data").exists()
        assert not (ran.path / "launch").exists()

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (recovery(2), "_recovery goes on at task 3 of 2"),
            (recovery(-1), "_recovery goes on at task 0 of 2"),
            (recovery(0, _all_mod_spec={}), "no '_all_mod_spec' that is a list"),
            ({"_task_n": True}, "no '_task_n' that is a int"),
            ([1], "no '_task_n'"),
            (recovery(1, "cp"), "the earlier launch, /gone, is not there"),
        ],
    )
    def test_what_cannot_be_gone_on_from(self, launch: Launch, given, message):
        ran = launch("None", "None", _recovery=given)
        assert message in ran.message
        assert ran.stored["_task"] is None

    def test_tasks_that_are_done_need_not_be_there(self, launch: Launch):
        assert launch({"_fw_name": "{{gone.Task}}"}, "None", _recovery=recovery(1)).status == 0


def beside(*codes: str, **more: Any) -> list[dict[str, Any]]:
    tasks = [{"_fw_name": "{{spec_key_tasks.Call}}", "code": code} for code in codes]
    return [{"_fw_name": "BackgroundTask", "tasks": tasks, "sleep_time": 0.01, **more}]


class TestBackground:
    WAIT = "[time.sleep(0.01) for _ in range(500) if not os.path.exists('ready')] and None"

    def test_again_and_again_until_the_end(self, launch: Launch):
        ran = launch(self.WAIT, _background_tasks=beside("grow('log', 3)"))
        assert ran.status == 0
        assert len((ran.path / "log").read_text()) > 3
        assert not [t for t in threading.enumerate() if t.name.startswith("_background")]

    def test_one_that_fails_costs_nothing_but_itself(self, launch: Launch, capfd):
        entries = beside("write('ready') or 1 / 0", run_on_finish=True)
        ran = launch(self.WAIT, "{'stored_data': {'a': 1}}", _background_tasks=entries)
        assert (ran.status, ran.stored) == (0, {"a": 1})
        told = "_background_tasks[0] failed, and is not run again: ZeroDivisionError"
        assert capfd.readouterr().err.count(told) == 2

    def test_a_signal_in_the_last_run_leaves_the_results(self, launch: Launch, capfd):
        code = "threading.current_thread() is threading.main_thread() and os.kill(os.getpid(), 15)"
        ran = launch(
            "{'stored_data': {'a': 1}}", _background_tasks=beside(code, run_on_finish=True)
        )
        assert (ran.status, ran.stored) == (0, {"a": 1})
        assert "the background tasks were ended by SIGTERM" in capfd.readouterr().err

    def test_no_last_run_after_a_failure(self, launch: Launch):
        last = beside("grow('log')", run_on_finish=True, num_launches=1)
        ran = launch(self.WAIT, "1 / 0", _background_tasks=last)
        assert (ran.path / "log").read_text() == "x"

    def test_a_process_of_one_ends_with_the_job(self, launch: Launch, monkeypatch):
        monkeypatch.setattr(background, "_PATIENCE", 0.05)
        endless = {"_fw_name": "ScriptTask", "script": "echo $$ > pid; touch ready; exec sleep 60"}
        entry = {"tasks": [endless], "sleep_time": 60}
        ran = launch(self.WAIT, _background_tasks=[entry])
        assert ran.status == 0
        with pytest.raises(ProcessLookupError):
            os.kill(int((ran.path / "pid").read_text()), 0)

    def test_a_signal_ends_it_too(self, stage, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{Path.cwd()}")
        entry = {
            "tasks": {"_fw_name": "ScriptTask", "script": "echo $$; exec sleep 60"},
            "sleep_time": 60,
        }
        path = stage("time.sleep(60)", _background_tasks=[entry])
        command = [sys.executable, "-B", "-m", "fwrunner", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
            assert job.stdout is not None
            pid = int(job.stdout.readline())
            job.send_signal(signal.SIGTERM)
            job.communicate(timeout=10)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert "SIGTERM" in Launched(path, 1).message

    @pytest.mark.parametrize(
        ("entries", "message"),
        [
            (3, "_background_tasks is no list"),
            ([{}], "_background_tasks[0] has no 'tasks'"),
            (beside("None", sleep_time="1"), "'sleep_time' is '1'"),
            (beside("None", num_launches=-1), "'num_launches' is -1"),
            (
                [{"tasks": [{"_fw_name": "PyTask"}]}],
                "in the spec's _background_tasks[0], PyTask needs",
            ),
        ],
    )
    def test_what_cannot_be_run_stops_all_before_the_first(self, launch: Launch, entries, message):
        ran = launch("write('ran')", _background_tasks=entries)
        assert message in ran.message
        assert not (ran.path / "ran").exists()


@pytest.mark.parametrize("python", [sys.executable, *old_python()])
def test_all_of_it_at_once(stage, tmp_path, monkeypatch, python):
    """Also on the Python of an old compute node, and without anything that FireWorks needs."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "in.txt").write_text("in")
    described = {
        "command": ["cat"],
        "i": {"source": {"type": "path", "value": "in.txt"}, "target": {"type": "stdin"}},
        "o": {"target": {"type": "data"}},
    }
    push = {"filename": "FWAction.json", "contents": '{"mod_spec": [{"_push": {"m": 1}}]}'}
    path = stage(
        {"_fw_name": "{{gone.Task}}"},
        {"_fw_name": "FileWriteTask", "files_to_write": [push]},
        {"_fw_name": "Transfer Task", "mode": "cp", "files": ["in.txt"], "dest": "copy"},
        {"_fw_name": "CompressDirTask"},
        {"_fw_name": "DecompressDirTask"},
        *({"_fw_name": "ArchiveDirTask", "base_name": "a", "format": kind} for kind in ("zip", "bztar")),
        {"_fw_name": "CommandLineTask", "command_spec": described, "inputs": ["i"], "outputs": ["o"]},
        {"_fw_name": "JoinDictTask", "inputs": ["m"], "output": "d"},
        {"_fw_name": "JoinListTask", "inputs": ["m"], "output": "l"},
        {"_fw_name": "PyTask", "func": "object", "stored_data_varname": "object"},
        {"_fw_name": "PyTask", "func": "datetime.date", "args": [2026, 1, 2], "stored_data_varname": "day"},
        {"_fw_name": "FileDeleteTask", "files_to_delete": ["copy"], "ignore_errors": False},
        {"_fw_name": "ForeachTask", "task": {"_fw_name": "PyTask", "func": "len", "inputs": ["m"]}, "split": "m"},
        _recovery=recovery(1, "cp", tmp_path / "old", _all_stored_data={"first": 1}),
        _files_out={"z": "*.zip"}, _trackers=[{"filename": "a.zip"}, {"filename": "beside"}],
        _pass_job_info=True, _preserve_fworker=True, _add_fworker=True,
        _background_tasks=[
            {"tasks": {"_fw_name": "ScriptTask", "script": "touch beside"}, "num_launches": 1, "run_on_finish": True}
        ],
    )  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    command = [python, "-B", "-m", "fwrunner"]
    subprocess.run(command, cwd=path, stderr=subprocess.PIPE, check=True)
    ran = Launched(path, 0)
    assert (ran.stored["first"], ran.stored["day"]) == (1, "2026-01-02")
    assert ran.stored["object"][UNSERIALIZABLE]["type"] == "object"
    assert ran.action["update_spec"]["o"] == {"type": "data", "value": "in"}
    assert ran.action["update_spec"]["_fworker"] == "w"
    assert [next(iter(mod)) for mod in ran.action["mod_spec"]] == ["_push", "_push_all", "_set"]
    assert len(ran.action["detours"]) == 1
    names = {"FWAction.json", "a.tar.bz2", "a.zip", "beside", "in.txt"}
    assert {file.name for file in path.iterdir() if file.name[:3] not in ("FW.", "FW_")} == names


@pytest.mark.parametrize("key", ["_trackers", "_launch_dir", "_priority", "_anything"])
def test_other_keys_are_data(launch: Launch, key):
    assert launch(f"{{'stored_data': {{'seen': spec['{key}']}}}}", **{key: "x"}).stored == {
        "seen": "x"
    }


def test_modules_that_few_fireworks_need_are_not_imported(stage, tmp_path, monkeypatch):
    (tmp_path / "looks.py").write_text(
        "import sys\nclass Look:\n    def run_task(self, spec):\n"
        "        return {'stored_data': {'modules': sorted(sys.modules)}}\n"
    )
    path = stage({"_fw_name": "ScriptTask", "script": "true"}, {"_fw_name": "{{looks.Look}}"})
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{tmp_path}")
    subprocess.run([sys.executable, "-B", "-S", "-m", "fwrunner", path], cwd="/", check=True)
    modules = set(Launched(path, 0).stored["modules"])
    tasks = {name for name in modules if name.startswith("fwrunner.tasks.")}
    assert tasks == {"fwrunner.tasks.script", "fwrunner.tasks.child"}
    names = ("background", "handover", "recovery", "worker", "control", "zipped")
    unwanted = {f"fwrunner.{name}" for name in names}
    unwanted |= {"shutil", "glob", "tarfile", "zipfile", "tempfile", "gzip", "bz2", "lzma", "uuid"}
    assert unwanted & modules == set()
