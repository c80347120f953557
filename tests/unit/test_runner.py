"""One run of a Firework: the order of its files, and that one final report is always left."""

import io
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fwrunner
from fwrunner import launch as launches
from fwrunner import places, protocol
from fwrunner.__main__ import main
from fwrunner.launch import NothingToRun
from fwrunner.plain import UNSERIALIZABLE
from fwrunner.protocol import Report, read_outbox_entry, read_report, rescue
from fwrunner.supervise import run

REPOSITORY = Path(__file__).resolve().parents[2]

TASKS = """
    import os, shutil, signal, sys, time
    from multiprocessing import Process
    from pathlib import Path
    from threading import Thread

    class Task:
        def __init__(self, **parameters):
            self.parameters = parameters

    class Action(Task):
        def run_task(self, spec):
            return self.parameters

    class See(Task):
        def run_task(self, spec):
            return {"stored_data": {key: spec.get(key) for key in self.parameters["keys"]}}

    class Stray(Task):
        def run_task(self, spec):
            os.chdir("/")

    class Files(Task):
        def run_task(self, spec):
            seen = {name: Path(name).read_text() for name in os.listdir(".") if name.startswith("FW_")}
            return {"stored_data": {"seen": seen, "cwd": os.getcwd()}}

    def end_a_worker():
        worker = Process(target=time.sleep, args=(60,))
        worker.start()
        time.sleep(0.1)
        worker.terminate()  # by SIGTERM
        worker.join()
        return {"stored_data": {"code": worker.exitcode}}

    class Call(Task):
        def run_task(self, spec):
            return eval(self.parameters["code"])

    def asleep_before_the_signal_is_seen():
        # Another thread takes the signal, so that no system call of this one ends by it.
        Thread(target=time.sleep, args=(60,), daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        print("up", flush=True)
        time.sleep(60)

    def call_me():
        pass

    class Evil:
        def __getattr__(self, name):
            raise RuntimeError("evil")

    class Detailed(Exception):
        def to_dict(self):
            return {"code": 7, "why": ("a", "b")}

    class Raise(Task):
        def run_task(self, spec):
            raise Detailed("it went wrong")
"""


class Staged(NamedTuple):
    """A launch directory, and the ways to look at it."""

    path: Path
    outbox: Path

    def read(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    def write(self, name: str, document: Any) -> None:
        (self.path / name).write_text(json.dumps(document))

    def report(self) -> Report:
        report = read_report(str(self.path))
        assert isinstance(report, Report), report
        return report

    def entry(self, *, final: bool = True) -> Report:
        name = protocol.outbox_name(7, "abc", final)
        report = read_outbox_entry(str(self.outbox / name))
        assert isinstance(report, Report), report
        return report

    def stored(self) -> Any:
        action = self.report().fwaction
        assert action is not None
        return action["stored_data"]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Make a launch directory with these tasks, as the login node does."""
    (tmp_path / "runner_tasks.py").write_text(textwrap.dedent(TASKS))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    outbox = tmp_path / ".fwagent" / "outbox"
    outbox.mkdir(parents=True)

    def make(*tasks: Any, ours: Any = None, **spec: Any) -> Staged:
        staged = Staged(tmp_path / "launch", outbox)
        staged.path.mkdir()
        given = [task if isinstance(task, dict) else {"_fw_name": task} for task in tasks]
        for task in given:
            name = task.get("_fw_name", "{}")
            if name.isalpha() and not name.endswith("Task"):
                task["_fw_name"] = "{{runner_tasks." + name + "}}"
        worker = {"name": "w", "env": {"cmd": "mpirun"}}
        firework = {
            "fw_id": 3,
            "spec": {**spec, "_tasks": given},
            "launches": [{"fworker": worker}],
        }
        staged.write("FW.json", firework)
        fwagent = {"protocol": 1, "token": "abc", "outbox": str(outbox), "later": "kept"}
        staged.write("FW_offline.json", {"launch_id": 7, "mine": [1], "fwagent": ours or fwagent})
        return staged

    yield make
    sys.modules.pop("runner_tasks", None)


def action(**keys: Any) -> dict[str, Any]:
    return {"_fw_name": "Action", **keys}


def call(code: str) -> dict[str, Any]:
    return {"_fw_name": "Call", "code": code}


class TestCompleted:
    def test_all_files(self, stage):
        staged = stage(action(stored_data={"a": 1}), "Files")
        assert run(str(staged.path)) == 0

        offline = staged.read("FW_offline.json")
        final = staged.report()
        assert final == staged.entry()._replace(launch_dir=str(staged.path))
        assert final._replace(fwaction=None, checkpoint=None) == Report(
            launch_id=7,
            state="COMPLETED",
            launch_dir=str(staged.path),
            fw_id=3,
            token="abc",
            started_on=offline["started_on"],
            completed_on=offline["completed_on"],
            host=os.uname().nodename,
            attempt=1,
        )
        assert (offline["fwaction"], offline["checkpoint"]) == (final.fwaction, final.checkpoint)
        assert offline["state"] == "COMPLETED"
        assert (offline["launch_id"], offline["mine"]) == (7, [1])
        assert offline["fwagent"] == {
            "protocol": 1,
            "token": "abc",
            "outbox": str(staged.outbox),
            "later": "kept",
            "attempt": 1,
        }
        assert offline["started_on"] < staged.read("FW_ping.json")["ping_time"]
        assert staged.read("FW_ping.json")["ping_time"] < offline["completed_on"]
        started = staged.entry(final=False)
        assert (started.state, started.started_on) == ("RUNNING", offline["started_on"])

        names = ["FW.json", "FW_action.json", "FW_offline.json", "FW_ping.json"]
        assert sorted(path.name for path in staged.path.iterdir()) == names

    def test_what_is_there_when_a_task_runs(self, stage):
        staged = stage("Files")
        assert run(str(staged.path)) == 0
        stored = staged.stored()
        assert stored["cwd"] == str(staged.path)
        assert sorted(stored["seen"]) == ["FW_offline.json", "FW_ping.json"]
        offline = json.loads(stored["seen"]["FW_offline.json"])
        assert sorted(offline) == ["checkpoint", "fwagent", "launch_id", "mine", "started_on"]
        assert offline["checkpoint"] == {
            "_task_n": 0, "_all_stored_data": {}, "_all_update_spec": {}, "_all_mod_spec": [],
        }  # fmt: skip

    def test_results_add_up(self, stage):
        staged = stage(
            action(stored_data={"a": 1, "b": 1}, update_spec={"x": [1]}, propagate=True),
            action(stored_data={"b": 2}, mod_spec=[{"_push": {"x": 2}}]),
            {"_fw_name": "See", "keys": ["x", "y", "_fw_env"]},
            y=5,
        )
        assert run(str(staged.path)) == 0
        report = staged.report()
        assert report.fwaction == {
            "stored_data": {"a": 1, "b": 2, "x": [1, 2], "y": 5, "_fw_env": {"cmd": "mpirun"}},
            "exit": False,
            "update_spec": {"x": [1]},
            "mod_spec": [{"_push": {"x": 2}}],
            "additions": [],
            "detours": [],
            "append_wfs": [],
            "defuse_children": False,
            "defuse_workflow": False,
            "propagate": False,
        }
        assert report.checkpoint == {
            "_task_n": 2,
            "_all_stored_data": {"a": 1, "b": 2},
            "_all_update_spec": {"x": [1]},
            "_all_mod_spec": [{"_push": {"x": 2}}],
        }
        assert "x" not in staged.read("FW.json")["spec"]

    @pytest.mark.parametrize(
        ("given", "skips"),
        [({"exit": True}, True), ({"additions": [{"spec": {}}]}, True), ({"detours": [{}]}, True),
         ({"append_wfs": [{}]}, True), ({"defuse_children": True}, True), ({"defuse_workflow": True}, True),
         ({"stored_data": {"x": 1}, "update_spec": {"x": 1}, "mod_spec": [{"_set": {"y": 1}}]}, False),
         ({"propagate": True}, False)],
    )  # fmt: skip
    def test_what_skips_the_remaining_tasks(self, stage, given, skips):
        staged = stage(action(**given), action(stored_data={"late": True}))
        assert run(str(staged.path)) == 0
        assert ("late" in staged.stored()) is not skips

    def test_a_task_that_changes_directory(self, stage):
        staged = stage("Stray", call("{'stored_data': {'cwd': os.getcwd()}}"))
        assert run("launch") == 0
        assert staged.stored() == {"cwd": "/"}
        assert staged.entry().launch_dir == str(staged.path)

    def test_live_objects_reach_the_next_task(self, stage):
        staged = stage(
            call("{'update_spec': {'t': (1, 2)}}"),
            call("{'stored_data': {'kind': type(spec['t']).__name__}}"),
        )
        assert run(str(staged.path)) == 0
        assert staged.stored() == {"kind": "tuple"}

    def test_a_directory_that_stock_qlaunch_made(self, stage):
        staged = stage("Files")
        staged.write("FW_offline.json", {"launch_id": 7})
        assert run(str(staged.path)) == 0
        token = staged.read("FW_offline.json")["fwagent"]["token"]
        assert re.fullmatch("[0-9a-f]{16}", token)
        assert staged.report().token == token == staged.read("FW_action.json")["token"]
        assert not list(staged.outbox.iterdir())


class TestFizzled:
    def test_a_task_that_raises(self, stage, capfd):
        staged = stage(action(stored_data={"a": 1}), "Raise")
        assert run(str(staged.path)) == 1
        report = staged.report()
        assert report.state == staged.read("FW_offline.json")["state"] == "FIZZLED"
        assert report.fwaction is not None
        stored = report.fwaction.pop("stored_data")
        trace = stored["_exception"].pop("_stacktrace")
        assert stored == {
            "_message": "runtime error during task",
            "_task": {"_fw_name": "{{runner_tasks.Raise}}"},
            "_exception": {"_details": {"code": 7, "why": ["a", "b"]}},
        }
        assert trace.endswith("runner_tasks.Detailed: it went wrong\n")
        assert trace in capfd.readouterr().err
        assert report.fwaction == {
            "exit": True, "update_spec": {}, "mod_spec": [], "additions": [], "detours": [],
            "append_wfs": [], "defuse_children": False, "defuse_workflow": False, "propagate": False,
        }  # fmt: skip
        assert report.checkpoint is not None
        assert report.checkpoint["_all_stored_data"] == {"a": 1}
        assert staged.entry().state == "FIZZLED"

    @pytest.mark.parametrize(
        ("code", "why"),
        [("sys.exit(0)", "SystemExit: 0"), ("1 / 0", "ZeroDivisionError"), ("shutil.copy('a', 'b')", "FileNotFound"),
         ("(_ for _ in ()).throw(GeneratorExit)", "GeneratorExit"), ("open(chr(0xdc80))", "\\udc80")],
    )  # fmt: skip
    def test_whatever_it_raises(self, stage, code, why):
        staged = stage(call(code))
        assert run(str(staged.path)) == 1
        assert why in staged.stored()["_exception"]["_stacktrace"]

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            (
                "{'mod_spec': [{'_unset': {'x': 1}}]}",
                "its mod_spec fails: _unset of 'x': no such key",
            ),
            ("{'stored': 1}", "it returned a dict with 'stored', which no FWAction has"),
            ("3", "it returned a int, which is no FWAction"),
            ("Evil()", "it returned a runner_tasks.Evil, which is no FWAction"),
        ],
    )
    def test_results_that_cannot_be_told(self, stage, code, message):
        staged = stage(action(stored_data={"a": 1}), call(code))
        assert run(str(staged.path)) == 1
        stored = staged.stored()
        assert stored["_message"].startswith("task 2 of 2 ({{runner_tasks.Call}}): " + message)
        assert stored["_task"]["code"] == code

    def test_a_result_that_cannot_be_stored_costs_itself_only(self, stage, capfd):
        staged = stage(
            call("{'update_spec': {'x': [0, {1}, 2**64]}, 'stored_data': {'f': call_me}}"),
            call("{'stored_data': {'same': spec['x'][2] == 2**64, 'g': object(), 'h': Evil()}}"),
            action(stored_data={"a": 1}),
        )
        assert run(str(staged.path)) == 0
        stored = staged.stored()
        assert (stored["a"], stored["same"]) == (1, True)
        assert stored["f"][UNSERIALIZABLE]["type"] == "function"
        assert [problem.split(": ")[0] for problem in stored[UNSERIALIZABLE]] == [
            "stored_data.f is a function", "update_spec.x[2] is a int", "stored_data.g is a object",
            "stored_data.h is a runner_tasks.Evil",
        ]  # fmt: skip
        update = staged.report().fwaction["update_spec"]["x"]
        assert update[:2] == [0, "{1}"]
        assert update[2][UNSERIALIZABLE]["text"] == str(2**64)
        assert capfd.readouterr().err.count("not stored as it was given:\n  ") == 2
        checkpoint = staged.report().checkpoint
        assert checkpoint["_all_stored_data"][UNSERIALIZABLE] == stored[UNSERIALIZABLE]

    @pytest.mark.parametrize("where", ["stored_data", "update_spec", "mod_spec"])
    def test_of_results_too_large_to_be_read_the_rest_is_kept(
        self, stage, monkeypatch, capfd, where
    ):
        monkeypatch.setattr(protocol, "MAX_ACTION_SIZE", 3000)
        values = "{'x': 'y' * 3000, 'z': 'y' * 1000, 'a': 1}"
        given = f"[{{'_set': {values}}}]" if where == "mod_spec" else values
        staged = stage(call(f"{{{where!r}: {given}}}"), action(stored_data={"b": 2}))
        assert run(str(staged.path)) == 0
        result = staged.report().fwaction
        kept = result["mod_spec"][0]["_set"] if where == "mod_spec" else result[where]
        assert (kept["z"], kept["a"], result["stored_data"]["b"]) == ("y" * 1000, 1, 2)
        described = kept["x"][UNSERIALIZABLE]
        assert described == {
            "type": "str",
            "why": "it has 3002 bytes of JSON; leave large data in files",
        }
        (problem,) = result["stored_data"][UNSERIALIZABLE]
        assert problem.endswith(f".x is a str: {described['why']}")
        assert problem in capfd.readouterr().err
        assert len(json.dumps(result)) <= 3000

    def test_what_is_handed_over_counts_too(self, stage, monkeypatch):
        monkeypatch.setattr(protocol, "MAX_ACTION_SIZE", 1000)
        given = {"_pass_job_info": True, "_job_info": ["y" * 900]}
        assert run(str(stage(call("{}"), **given).path)) == 1
        assert (
            "bytes of JSON; at most 1000"
            in Staged(Path.cwd() / "launch", Path()).stored()["_message"]
        )

    def test_details_of_an_error_too_large_to_be_read(self, stage, monkeypatch):
        monkeypatch.setattr(protocol, "MAX_ACTION_SIZE", 8)
        staged = stage("Raise")
        assert run(str(staged.path)) == 1
        assert staged.stored()["_exception"]["_details"] is None

    def test_a_checkpoint_too_large_for_a_launch_leaves_the_one_before(
        self, stage, monkeypatch, capfd
    ):
        monkeypatch.setattr(protocol, "MAX_CHECKPOINT_SIZE", 1000)
        large = call("{'stored_data': {'x': 'y' * 1000}}")
        staged = stage(action(stored_data={"a": 1}), large, call("1 / 0"))
        assert run(str(staged.path)) == 1
        checkpoint = staged.report().checkpoint
        assert (checkpoint["_task_n"], checkpoint["_all_stored_data"]) == (1, {"a": 1})
        assert "no checkpoint before task 3" in capfd.readouterr().err

    def test_what_ends_the_process_is_named_although_there_is_no_checkpoint_of_it(
        self, stage, monkeypatch
    ):
        monkeypatch.setattr(protocol, "MAX_CHECKPOINT_SIZE", 1000)
        staged = stage(
            call("{'stored_data': {'x': 'y' * 1000}}"), call("__import__('os')._exit(9)")
        )
        assert run(str(staged.path)) == 1
        assert staged.stored()["_message"].startswith("task 2 of 2 ({{runner_tasks.Call}}): ")
        assert staged.report().checkpoint["_task_n"] == 0

    def test_the_largest_report_can_be_read(self, stage):
        """With 40 MB in it, and a checkpoint as large as there may be."""
        first = call(f"{{'stored_data': {{'x': 'y' * {protocol.MAX_CHECKPOINT_SIZE - 1000}}}}}")
        staged = stage(first, call("{'stored_data': {'z': 'y' * 40 * 10**6}}"))
        assert run(str(staged.path)) == 0
        assert len(staged.stored()["z"]) == 40 * 10**6
        assert staged.report().checkpoint["_task_n"] == 1
        total = protocol.MAX_ACTION_SIZE + protocol.MAX_CHECKPOINT_SIZE
        assert total + 1024 * 1024 < protocol.MAX_REPORT_SIZE

    @pytest.mark.parametrize(
        ("task", "message"),
        [({"_fw_name": "{{nowhere.T}}"}, "cannot be imported"), ({"script": "true"}, "no object with a '_fw_name'"),
         ({"_fw_name": "PyTask"}, "needs the parameter 'func'")],
    )  # fmt: skip
    def test_a_task_that_cannot_be_loaded_stops_all_before_the_first(self, stage, task, message):
        staged = stage({"_fw_name": "ScriptTask", "script": "touch ran"}, task)
        assert run(str(staged.path)) == 1
        assert staged.stored()["_message"].startswith("task 2 of 2 (")
        assert message in staged.stored()["_message"]
        assert not (staged.path / "ran").exists()

    def test_the_task_is_told_as_it_was_given(self, stage):
        staged = stage(call("spec['_tasks'][0].clear() or 1 / 0"))
        assert run(str(staged.path)) == 1
        assert staged.stored()["_task"]["_fw_name"] == "{{runner_tasks.Call}}"

    def test_no_tasks(self, stage):
        staged = stage()
        assert run(str(staged.path)) == 1
        assert staged.stored()["_message"].endswith("the Firework has no tasks")
        assert staged.stored()["_task"] is None


class TestPing:
    def test_goes_on_while_a_task_runs_elsewhere(self, stage):
        code = "(os.chdir('/'), time.sleep(0.3), {'stored_data': {'p': Path(%r).read_text()}})[2]"
        staged = stage(call("None"))
        ping = str(staged.path / "FW_ping.json")
        staged.write("FW.json", {"fw_id": 3, "spec": {"_tasks": [
            {"_fw_name": "{{runner_tasks.Call}}", "code": code % ping}]}})  # fmt: skip
        assert run(str(staged.path), ping_interval=0.05) == 0
        seen = json.loads(staged.stored()["p"])["ping_time"]
        assert staged.report().started_on < seen < staged.read("FW_ping.json")["ping_time"]
        assert not [thread for thread in threading.enumerate() if thread.name == "fwrunner-ping"]

    @pytest.mark.parametrize("interval", [0.05, None])
    def test_interval_of_the_login_node(self, stage, interval):
        ours = {"protocol": 1, "token": "abc", "ping_interval": interval}
        staged = stage("Files", ours=ours)
        launch = launches.Launch(str(staged.path))
        assert launch.ping_interval == (interval or launches.PING_INTERVAL)

    def test_a_ping_that_fails_kills_nothing(self, stage, capfd):
        staged = stage(call("time.sleep(0.1)"))
        (staged.path / "FW_ping.json").mkdir()
        assert run(str(staged.path), ping_interval=0.02) == 0
        assert "not written: IsADirectoryError" in capfd.readouterr().err


class TestPlacesThatFail:
    def test_no_outbox(self, stage, capfd):
        staged = stage("Files")
        staged.outbox.rmdir()
        assert run(str(staged.path)) == 0
        assert staged.report().state == "COMPLETED"
        assert capfd.readouterr().err.count("not written: FileNotFoundError") == 2

    @pytest.mark.parametrize("token", ["../../x", ""])
    def test_a_token_that_is_no_name(self, stage, token, tmp_path):
        staged = stage("Files", ours={"token": token, "outbox": str(tmp_path)})
        assert run(str(staged.path)) == 0
        assert staged.report().final

    def test_the_launch_directory_is_gone(self, stage, capfd):
        staged = stage(call("shutil.rmtree(os.getcwd())"), action(stored_data={"a": 1}))
        assert run(str(staged.path)) == 0
        entry = staged.entry()
        assert (entry.state, entry.launch_dir) == ("COMPLETED", str(staged.path))
        assert entry.fwaction is not None
        assert entry.fwaction["stored_data"] == {"a": 1}
        assert "FW_action.json" in capfd.readouterr().err

    def test_a_torn_offline_json_is_mended(self, stage):
        staged = stage(call("Path('FW_offline.json').write_text('')"), action(stored_data={"a": 1}))
        assert run(str(staged.path)) == 0
        offline = staged.read("FW_offline.json")
        assert (offline["launch_id"], offline["mine"], offline["state"]) == (7, [1], "COMPLETED")
        assert offline["fwagent"]["token"] == "abc"

    def test_at_home(self, stage, capfd, monkeypatch, tmp_path):
        monkeypatch.setattr(places, "PATIENTLY", (0.01,))
        staged = stage(call("shutil.rmtree(os.path.dirname(os.getcwd()))"))
        assert run(str(staged.path)) == 0
        rescued = tmp_path / "home" / ".fwagent" / "rescue"
        assert f"launch 7, COMPLETED, is in {rescued} for now" in capfd.readouterr().err
        assert rescued.stat().st_mode & 0o777 == 0o700
        report = read_outbox_entry(str(rescued / "7.abc.json"))
        assert isinstance(report, Report)
        assert (report.state, report.launch_dir) == ("COMPLETED", str(staged.path))

    def test_only_on_stderr(self, stage, capfd, monkeypatch, tmp_path):
        monkeypatch.setattr(places, "PATIENTLY", (0.01,))
        staged = stage(call("shutil.rmtree(os.path.dirname(os.getcwd()))"))
        (tmp_path.parent / f"{tmp_path.name}.file").touch()
        monkeypatch.setenv("HOME", f"{tmp_path}.file")
        assert run(str(staged.path)) == 1
        told = capfd.readouterr().err
        assert "launch 7, COMPLETED, could not be left anywhere else" in told
        (report,) = rescue.read_lines(io.BytesIO(told.encode()), "FW_job.error")
        assert isinstance(report, Report)
        assert (report.state, report.token) == ("COMPLETED", "abc")

    def test_without_a_home_nothing_is_left_in_the_current_directory(
        self, stage, capfd, monkeypatch, tmp_path
    ):
        monkeypatch.setattr(places, "PATIENTLY", (0.01,))
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without $HOME and passwd
        here = tmp_path.parent / f"{tmp_path.name}.here"
        here.mkdir()
        monkeypatch.chdir(here)
        staged = stage(call("shutil.rmtree(os.path.dirname(os.getcwd()))"))
        assert run(str(staged.path)) == 1
        assert not list(here.iterdir())
        assert "is in the line above only" in capfd.readouterr().err

    def test_what_comes_to_its_place_later_does_not_stay_at_home(
        self, stage, capfd, monkeypatch, tmp_path
    ):
        staged = stage(call("shutil.rmtree(os.path.dirname(os.getcwd()))"))

        def mend(_seconds: float) -> None:
            assert list((tmp_path / "home" / ".fwagent" / "rescue").iterdir())
            staged.outbox.mkdir(parents=True, exist_ok=True)

        monkeypatch.setattr(places, "sleep", mend)
        assert run(str(staged.path)) == 0
        assert staged.entry().state == "COMPLETED"
        assert not list((tmp_path / "home" / ".fwagent" / "rescue").iterdir())
        assert "has come to its place after all" in capfd.readouterr().err

    def test_what_may_pass_is_tried_again(self, stage, capfd, monkeypatch):
        staged = stage("Files")
        write, full = protocol.write_report, [28, 28]

        def refuse(path: str, report: Report) -> None:
            if full and report.final:
                raise OSError(full.pop(), "No space left on device")
            write(path, report)

        monkeypatch.setattr(protocol, "write_report", refuse)
        monkeypatch.setattr(places, "sleep", lambda _seconds: None)
        assert run(str(staged.path)) == 0
        assert staged.report().state == staged.entry().state == "COMPLETED"
        assert capfd.readouterr().err.count("No space left on device") == 2

    @pytest.mark.parametrize("action_refused", [6, 0])
    def test_every_place_is_tried_until_it_is_written(self, stage, monkeypatch, action_refused):
        # `lpad recover_offline` reads FW_offline.json only; the disk takes it last.
        staged = stage("Files", ours={"protocol": 1, "token": "abc"})
        write, left = (
            protocol.write_atomic,
            {"FW_action.json": action_refused, "FW_offline.json": 8},
        )

        def refuse(path: str, document: Any) -> None:
            name = Path(path).name
            if "fwaction" in document and left.get(name):
                left[name] -= 1
                raise OSError(28, "No space left on device")
            write(path, document)

        monkeypatch.setattr(protocol, "write_atomic", refuse)
        monkeypatch.setattr(places, "sleep", lambda _seconds: None)
        assert run(str(staged.path)) == 0
        assert staged.report().state == staged.read("FW_offline.json")["state"] == "COMPLETED"

    def test_what_cannot_pass_is_not_waited_for_when_another_place_has_it(self, stage, monkeypatch):
        staged = stage(call("call_me()"), ours={"protocol": 1, "token": "abc"})
        (staged.path / "FW_action.json").mkdir()
        monkeypatch.setattr(places, "sleep", lambda _seconds: pytest.fail("waited"))
        assert run(str(staged.path)) == 0
        assert staged.read("FW_offline.json")["state"] == "COMPLETED"

    def test_near_the_end_of_the_job_nothing_is_waited_for(self, stage, monkeypatch):
        staged = stage(call("shutil.rmtree(os.path.dirname(os.getcwd()))"))
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + 4))
        monkeypatch.setattr(places, "sleep", lambda _seconds: pytest.fail("waited"))
        assert run(str(staged.path)) == 0

    def test_the_launch_directory_is_moved(self, stage, tmp_path):
        move = "os.rename(os.getcwd(), os.path.join(os.path.dirname(os.getcwd()), 'moved'))"
        staged = stage(call(move), action(stored_data={"a": 1}))
        staged.write("FW_offline.json", {"launch_id": 7})
        assert run(str(staged.path)) == 0
        assert not staged.path.exists()
        report = read_report(str(tmp_path / "moved"))
        assert isinstance(report, Report)
        assert (report.state, report.launch_id) == ("COMPLETED", 7)
        assert json.loads((tmp_path / "moved" / "FW_offline.json").read_text())["state"]

    def test_stderr_is_closed(self, stage, monkeypatch):
        staged = stage("Raise")
        staged.outbox.rmdir()
        monkeypatch.setattr(sys, "stderr", None)
        assert run(str(staged.path)) == 1
        assert staged.report().state == "FIZZLED"


class TestSuperseded:
    @pytest.mark.parametrize(
        "now",
        [
            {"launch_id": 8},
            {"launch_id": 7, "fwagent": {"token": "new"}},
            {"launch_id": 8, "fwagent": {"token": "abc"}},
        ],
    )
    def test_a_directory_staged_again_is_left_alone(self, stage, now, capfd):
        text = json.dumps(now)
        staged = stage(
            call(f"Path('FW_offline.json').write_text({text!r}) and os.remove('FW_ping.json')"),
            action(stored_data={"a": 1}),
            _trackers=[{"filename": "FW.json"}],
        )
        assert run(str(staged.path)) == 0
        assert (staged.path / "FW_offline.json").read_text() == text
        assert sorted(path.name for path in staged.path.iterdir()) == ["FW.json", "FW_offline.json"]
        assert (staged.entry().state, staged.entry().trackers) == ("COMPLETED", None)
        assert "belongs to another launch by now" in capfd.readouterr().err


@pytest.mark.parametrize("final", [False, True])
def test_a_job_whose_directory_was_given_to_another_launch_runs_nothing(stage, monkeypatch, final):
    staged = stage({"_fw_name": "ScriptTask", "script": "echo $FWAGENT_LAUNCH_ID x >> ran"})
    if final:
        assert run(str(staged.path)) == 0
        assert (staged.path / "ran").read_text() == "x\n"
    before = {path: path.read_bytes() for path in staged.path.iterdir()}
    monkeypatch.setenv("FWAGENT_LAUNCH_ID", "6")
    with pytest.raises(NothingToRun, match="this job is for launch 6, "):
        run(str(staged.path))
    assert {path: path.read_bytes() for path in staged.path.iterdir()} == before


def test_a_job_runs_the_launch_that_it_was_submitted_for(stage, monkeypatch):
    staged = stage({"_fw_name": "ScriptTask", "script": "echo $FWAGENT_LAUNCH_ID x >> ran"})
    monkeypatch.setenv("FWAGENT_LAUNCH_ID", "7")
    assert run(str(staged.path)) == 0
    # It is not handed on: a task may run another launch.
    assert (staged.path / "ran").read_text() == "x\n"


class TestStartedAgain:
    def test_ended_is_ended(self, stage, capfd):
        staged = stage({"_fw_name": "ScriptTask", "script": "echo x >> ran; exit 1"})
        assert (run(str(staged.path)), run(str(staged.path))) == (1, 1)
        assert (staged.path / "ran").read_text() == "x\n"
        assert (
            "launch 7 has ended as FIZZLED before; nothing is run again" in capfd.readouterr().err
        )

    def test_the_rescue_directory_whatever_the_umask(self, tmp_path):
        report = Report(launch_id=7, state="COMPLETED", launch_dir="/", token="abc", fwaction={})
        before = os.umask(0o777)
        try:
            places.drop_at_home(str(tmp_path / "home" / "rescue"), report)
        finally:
            os.umask(before)
        modes = [path.stat().st_mode & 0o777 for path in sorted((tmp_path / "home").rglob("*"))]
        assert modes == [0o700, 0o600]

    @pytest.mark.parametrize("place", [".fwagent/outbox", "home/.fwagent/rescue"])
    def test_ended_is_ended_wherever_that_is_told(self, stage, capfd, tmp_path, place):
        staged = stage({"_fw_name": "ScriptTask", "script": "echo x >> ran"})
        other = Report(7, "FIZZLED", "/x", token="abc", fwaction={})
        places.drop_at_home(str(tmp_path / place), other)
        assert run(str(staged.path)) == 1
        assert not (staged.path / "ran").exists()
        told = capfd.readouterr().err
        assert "launch 7 has ended as FIZZLED before; nothing is run again" in told
        assert f"found in {tmp_path / place}" in told

    @pytest.mark.parametrize(
        "changed", [{"launch_id": 8}, {"token": "old"}, {"state": "RUNNING", "fwaction": None}]
    )
    def test_what_another_place_holds_of_others_does_not_count(self, stage, changed):
        staged = stage("Files")
        other = Report(7, "FIZZLED", "/x", token="abc", fwaction={})._replace(**changed)
        protocol.write_report(str(staged.outbox / "7.abc.json"), other)
        assert run(str(staged.path)) == 0

    def test_ended_under_stock_rlaunch(self, stage):
        staged = stage("Raise")
        done = {"launch_id": 7, "started_on": "2026", "fwaction": {}, "state": "COMPLETED"}
        staged.write("FW_offline.json", done)
        assert run(str(staged.path)) == 0
        assert staged.read("FW_offline.json") == done

    def test_cut_short_it_starts_over_and_counts(self, stage):
        staged = stage("Files")
        launch = launches.Launch(str(staged.path))
        launch.start()
        launch.update(checkpoint={"_task_n": 5})
        assert run(str(staged.path)) == 0
        report = staged.report()
        assert (report.attempt, staged.entry().attempt) == (2, 2)
        assert staged.read("FW_offline.json")["fwagent"]["attempt"] == 2

    @pytest.mark.parametrize("attempt", ["1", -5, True, 2**63 - 1])
    def test_a_count_that_is_none_starts_anew(self, stage, attempt):
        staged = stage("Files")
        offline = staged.read("FW_offline.json")
        offline["fwagent"]["attempt"] = attempt
        staged.write("FW_offline.json", offline)
        assert run(str(staged.path)) == 0
        assert staged.entry().attempt == 1

    def test_the_final_report_of_an_earlier_launch_does_not_count(self, stage):
        staged = stage("Files")
        protocol.write_report(
            str(staged.path / "FW_action.json"),
            Report(6, "FIZZLED", "/", fw_id=3, token="old", fwaction={}),
        )
        assert run(str(staged.path)) == 0
        assert staged.report().launch_id == 7

    def test_what_is_no_final_report_does_not_stay(self, stage):
        staged = stage(call("{'stored_data': {'o': Path('FW_offline.json').read_text()}}"))
        staged.write("FW_offline.json", {"launch_id": 7, "fwaction": {}, "completed_on": "x"})
        assert run(str(staged.path)) == 0
        assert not {"fwaction", "completed_on"} & set(json.loads(staged.stored()["o"]))

    COMPLETES = """
        import os
        from fwrunner import launch, action
        later = launch.Launch(os.getcwd())
        later.start()
        later.finish("COMPLETED", action.read_action({"stored_data": {"mine": 2}}))
    """

    @pytest.mark.parametrize("ending", ["call_me()", "1 / 0"])
    def test_the_end_of_a_later_start_stays(self, stage, ending, capfd):
        # As after a requeue of a job that lives on on a node that was taken for failed.
        staged = stage(call(f"exec({textwrap.dedent(self.COMPLETES)!r}, {{}})"), call(ending))
        assert run(str(staged.path)) == 1
        report, entry = staged.report(), staged.entry()
        assert (report.state, report.attempt) == (entry.state, entry.attempt) == ("COMPLETED", 2)
        offline = staged.read("FW_offline.json")
        assert (offline["state"], offline["fwaction"]) == ("COMPLETED", report.fwaction)
        told = capfd.readouterr().err
        assert "launch 7 was started again meanwhile" in told
        lines = list(rescue.read_lines(io.BytesIO(told.encode()), "FW_job.error"))
        assert [isinstance(line, Report) and line.state for line in lines] == ["COMPLETED"] * (
            ending == "call_me()"
        )

    def test_of_two_starts_at_once_the_one_that_wrote_last_counts(self, stage):
        staged = stage("Files")
        first, second = (launches.Launch(str(staged.path)) for _ in range(2))
        assert first.report.attempt == second.report.attempt == 1
        first.start()
        second.start()
        assert second.finish("COMPLETED", {})
        assert not first.finish("FIZZLED", {})
        assert staged.report().state == staged.entry().state == "COMPLETED"

    @pytest.mark.parametrize(("attempt", "started_on", "stays"), [
        (3, "2026", True), (2, "2026", True), (1, "2026", False), (2, None, False),
    ])  # fmt: skip
    def test_the_final_report_of_a_later_start_stays_wherever_it_is(
        self, tmp_path, attempt, started_on, stays
    ):
        ours = Report(7, "FIZZLED", "/x", token="abc", started_on="2025", fwaction={}, attempt=2)
        there = ours._replace(
            state="COMPLETED", attempt=attempt, started_on=started_on or ours.started_on
        )
        places.drop(str(tmp_path), there)
        places.drop(str(tmp_path), ours)
        assert read_outbox_entry(str(tmp_path / "7.abc.json")) == (there if stays else ours)

    @pytest.mark.parametrize(("host", "pid", "age", "told"), [
        ("elsewhere", 1, 5, True), ("elsewhere", 1, 500, False),
        (os.uname().nodename, os.getpid(), 5, True), (os.uname().nodename, 2**22, 5, False),
    ], ids=["elsewhere", "long ago", "here", "gone"])  # fmt: skip
    def test_an_earlier_start_that_seems_alive_is_told(self, stage, capfd, host, pid, age, told):
        staged = stage("Files")
        offline = staged.read("FW_offline.json")
        offline["fwagent"]["attempt"] = 1
        staged.write("FW_offline.json", offline)
        staged.write("FW_ping.json", {"ping_time": "x", "host": host, "pid": pid})
        os.utime(staged.path / "FW_ping.json", (time.time() - age,) * 2)
        assert run(str(staged.path)) == 0
        line = f"an earlier start, process {pid} on {host}, gave a sign of life {age} s ago"
        assert (line in capfd.readouterr().err) == told


class TestNothingToRun:
    @pytest.mark.parametrize(
        ("name", "text", "problem"),
        [
            ("FW_offline.json", None, "no FW_offline.json in "),
            ("FW_offline.json", "", "FW_offline.json is empty"),
            ("FW_offline.json", "{}", "FW_offline.json has no launch_id"),
            ("FW_offline.json", '{"launch_id": 9223372036854775808}', "has no launch_id"),
            (
                "FW_offline.json",
                '{"launch_id": 7, "fwagent": {"protocol": 2}}',
                r"protocol 2, this .* 1\)",
            ),
        ],
    )
    def test_is_told_with_a_hint_and_touches_nothing(
        self, stage, monkeypatch, capsys, name, text, problem
    ):
        monkeypatch.setattr(places, "sleep", lambda _: None)
        staged = stage("Files")
        (staged.path / name).unlink()
        if text is not None:
            (staged.path / name).write_text(text)
        before = {path.name: path.read_text() for path in staged.path.iterdir()}
        with pytest.raises(NothingToRun, match=problem + r"[\s\S]*\n  hint: ."):
            run(str(staged.path))
        assert main([str(staged.path)]) == 2
        assert capsys.readouterr().err.startswith("fwrunner: ")
        assert before == {path.name: path.read_text() for path in staged.path.iterdir()}


class TestDamagedFirework:
    """The launch is known by FW_offline.json, so that what was submitted must not stay RESERVED."""

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            (None, "no FW.json ("),
            ("", "FW.json is empty ("),
            ('{"spec": {"_tas', "FW.json is half-written or not JSON ("),
            ("[]", "FW.json holds no JSON object ("),
            ('{"fw_id": 3}', "FW.json has no list spec._tasks: is it a Firework? ("),
        ],
    )
    def test_is_reported(self, stage, monkeypatch, capfd, text, problem):
        monkeypatch.setattr(places, "sleep", lambda _: None)
        staged = stage("Files")
        (staged.path / "FW.json").unlink()
        if text is not None:
            (staged.path / "FW.json").write_text(text)
        assert main([str(staged.path)]) == 1
        for report in (staged.report(), staged.entry()):
            assert (report.launch_id, report.token, report.state) == (7, "abc", "FIZZLED")
        assert staged.report().started_on is not None
        assert staged.stored()["_message"].startswith(problem)
        assert staged.read("FW_offline.json")["state"] == "FIZZLED"
        assert staged.entry(final=False).state == "RUNNING"
        assert f"fwrunner: {problem}" in capfd.readouterr().err
        staged.write("FW.json", {"spec": {"_tasks": []}})
        assert main([str(staged.path)]) == 1
        assert "has ended as FIZZLED before" in capfd.readouterr().err

    @pytest.mark.parametrize("name", ["FW.json", "FW_offline.json"])
    def test_it_may_come_in_a_moment(self, stage, monkeypatch, name):
        staged = stage("Files")
        text = (staged.path / name).read_text()
        (staged.path / name).write_text(text[:9])
        monkeypatch.setattr(places, "sleep", lambda _: (staged.path / name).write_text(text))
        assert run(str(staged.path)) == 0

    def test_an_id_that_is_none_is_not_reported(self, stage):
        staged = stage("Files")
        staged.write("FW.json", {**staged.read("FW.json"), "fw_id": "three"})
        assert run(str(staged.path)) == 0
        assert (staged.entry().state, staged.entry().fw_id) == ("COMPLETED", None)

    def test_what_has_ended_has_although_its_files_are_gone(self, stage, capfd):
        staged = stage("Files")
        assert run(str(staged.path)) == 0
        (staged.path / "FW.json").unlink()
        (staged.path / "FW_offline.json").write_text("")
        assert run(str(staged.path)) == 0
        assert "has ended as COMPLETED before" in capfd.readouterr().err


def old_python() -> list[str]:
    """The Python of an old compute node, if there is one: `$FWRUNNER_PYTHON`, else `python3.6`."""
    python = shutil.which(os.environ.get("FWRUNNER_PYTHON", "python3.6"))
    works = (
        python and not subprocess.run([python, "-V"], capture_output=True, check=False).returncode
    )
    return [python] if python and works else []


def command(*arguments: Any, python: str = sys.executable) -> list[str]:
    return [python, "-B", "-m", "fwrunner", *map(str, arguments)]


@contextmanager
def started(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A job that runs, which is ended should the test fail."""
    with subprocess.Popen(command(path), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        try:
            yield job
        finally:
            job.kill()


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """For the runner as a process of its own."""
    monkeypatch.delenv("FWAGENT_PING_INTERVAL", raising=False)
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{tmp_path}")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


@pytest.mark.usefixtures("environment")
class TestCommand:
    @pytest.mark.parametrize("python", [sys.executable, *old_python()])
    def test_the_current_directory_is_the_default(self, stage, python):
        staged = stage({"_fw_name": "ScriptTask", "script": "echo hello"}, "Files")
        done = subprocess.run(
            command(python=python), cwd=staged.path, capture_output=True, text=True, check=True
        )
        assert (done.stdout, done.stderr) == ("hello\n", "")
        assert staged.report().state == "COMPLETED"

    def test_what_lies_in_the_directory_is_not_imported(self, stage):
        staged = stage("Files")
        for name in ("json", "signal", "argparse", "threading", "datetime"):
            (staged.path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
        assert subprocess.run(command(), cwd=staged.path, check=False).returncode == 0

    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
    def test_streams_that_are_closed(self, stage, closed):
        script = {"_fw_name": "ScriptTask", "script": "cat; echo out; echo err >&2"}
        staged = stage(script, dict(script, store_stdout=True), call("print('x')"))
        shell = f"exec {shlex.join(command(staged.path))} {closed}"
        subprocess.run(shell, shell=True, check=True, stdin=subprocess.DEVNULL)
        assert staged.stored() == {"returncode": 0, "all_returncodes": [0], "stdout": "out\n"}

    def test_a_current_directory_that_is_gone(self, stage, tmp_path):
        staged = stage("Files")
        for arguments, status in (([staged.path], 0), ([], 2), (["launch"], 2)):
            (tmp_path / "gone").mkdir()
            shell = f"cd gone; rmdir ../gone; exec {shlex.join(command(*arguments))}"
            done = subprocess.run(shell, shell=True, check=False, stderr=subprocess.PIPE, text=True)
            assert done.returncode == status
            assert status == 0 or "hint: give the absolute path" in done.stderr

    def test_exit_statuses(self, stage, tmp_path):
        staged = stage("Raise")
        for arguments, status in (([staged.path], 1), ([tmp_path / "none"], 2), (["--what"], 2)):
            done = subprocess.run(command(*arguments), capture_output=True, check=False)
            assert done.returncode == status

    def test_needs_the_standard_library_alone(self, stage):
        staged = stage({"_fw_name": "ScriptTask", "script": "true"})
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); from fwrunner.__main__ import main\n"
            "status = main([sys.argv[2]])\n"
            "paths = [getattr(module, '__file__', None) or '' for module in sys.modules.values()]\n"
            "print(status, [p for p in paths if 'site-packages' in p])"
        )
        python = [sys.executable, "-B", "-S", "-I", "-c", code, REPOSITORY, staged.path]
        assert subprocess.check_output(python, text=True) == "0 []\n"

    @pytest.mark.parametrize(
        ("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")]
    )
    @pytest.mark.parametrize(
        "task",
        [
            {"_fw_name": "ScriptTask", "script": "echo up; exec sleep 60"},
            call("print('up', flush=True) or time.sleep(60)"),
            call("asleep_before_the_signal_is_seen()"),
        ],
    )
    def test_signals(self, stage, number, name, task):
        staged = stage(action(stored_data={"a": 1}), task, "Files")
        with started(staged.path) as job:
            assert job.stdout is not None
            assert job.stdout.readline() == b"up\n"
            job.send_signal(number)
            # The end of stdout comes only when the child of a ScriptTask has ended too: at once.
            job.communicate(timeout=15)
        assert job.returncode == 1
        stored = staged.stored()
        assert stored["_message"].startswith("task 2 of 3 (")
        assert stored["_message"].endswith(f": ended by {name}")
        checkpoint = staged.report().checkpoint
        assert checkpoint is not None
        assert checkpoint["_all_stored_data"] == {"a": 1}

    def test_a_command_that_the_scheduler_has_killed_first(self, stage):
        """Slurm signals all processes of a job, in any order: what ended the job is the reason all the same."""
        staged = stage({"_fw_name": "ScriptTask", "script": "echo $$; exec sleep 60"})
        with started(staged.path) as job:
            assert job.stdout is not None
            with open(os.pidfd_open(pid := int(job.stdout.readline()))) as script:  # noqa: PTH123
                os.kill(pid, signal.SIGTERM)
                assert select.select([script], [], [], 10)[0]  # it is gone
            job.send_signal(signal.SIGTERM)
            job.communicate(timeout=15)
        assert staged.stored()["_message"].endswith(": ended by SIGTERM")

    @pytest.mark.parametrize(
        "code",
        [
            "end_a_worker()",
            "{'stored_data': {'code': -os.waitpid(os.fork() or sys.exit(15), 0)[1] >> 8}}",
            "{'stored_data': {'code': -15 if (lambda p: p and os.waitpid(p, 0))(os.fork()) else 0}}",
        ],
        ids=["terminated", "exits", "returns"],
    )
    def test_a_process_that_a_task_forked_reports_nothing(self, stage, code):
        staged = stage(call(code), {"_fw_name": "ScriptTask", "script": "echo x >> ran"})
        job = subprocess.run(command(staged.path), capture_output=True, text=True, check=False)
        assert (job.returncode, job.stderr) == (0, "")
        assert staged.stored()["code"] == -15
        assert (staged.path / "ran").read_text() == "x\n"

    @pytest.mark.parametrize("python", [sys.executable, *old_python()])
    def test_commands_in_a_locale_without_umlauts(self, stage, monkeypatch, python):
        arguments = {"source": {"type": "data", "value": "ß中"}}
        described = {
            "command": ["echo"],
            "i": arguments,
            "o": {"source": {"type": "stdout"}, "target": {"type": "data"}},
        }
        staged = stage(
            {"_fw_name": "ScriptTask", "script": ["echo é中", "echo ü > ä"], "store_stdout": True},
            {"_fw_name": "ScriptTask", "script": "cat ä", "use_shell": False},
            {
                "_fw_name": "CommandLineTask",
                "command_spec": described,
                "inputs": ["i"],
                "outputs": ["o"],
            },
        )
        for name in ("PYTHONUTF8", "PYTHONCOERCECLOCALE"):
            monkeypatch.setenv(name, "0")
        monkeypatch.setenv("LC_ALL", "C")
        assert subprocess.run(command(staged.path, python=python), check=False).returncode == 0
        assert staged.stored()["stdout"] == "é中\n"
        assert staged.report().fwaction["update_spec"]["o"]["value"] == "ß中"

    def test_a_locale_without_umlauts(self, stage, monkeypatch):
        staged = stage("Files")
        place = staged.path.rename(staged.path.with_name("größe"))
        monkeypatch.setenv("LC_ALL", "C")
        monkeypatch.setenv("PYTHONUTF8", "0")
        monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
        assert subprocess.run(command(place), check=False).returncode == 0
        assert staged.entry().launch_dir == str(place)

    def test_killed_at_any_time_nothing_is_torn(self, stage):
        staged = stage(*[{"_fw_name": "ScriptTask", "script": "true"}] * 5)
        offline = (staged.path / "FW_offline.json").read_text()
        for delay in (0.02, 0.05, 0.08, 0.11, 0.14):
            (staged.path / "FW_offline.json").write_text(offline)
            job = subprocess.Popen(command(staged.path))
            time.sleep(delay)
            job.kill()
            job.wait()
            for path in (*staged.path.glob("FW*.json"), *staged.outbox.glob("[!.]*")):
                protocol.read_json(str(path))
            for path in (*staged.path.glob("FW_action.json"), *staged.outbox.iterdir()):
                path.unlink()


class TestUsage:
    def test_help_teaches(self, capsys):
        with pytest.raises(SystemExit, match="0"):
            main(["--help"])
        text = capsys.readouterr().out
        for word in ("LAUNCH_DIR", "FW.json", "exit status", "COMPLETED", "FIZZLED", "example"):
            assert word in text

    def test_version(self, capsys):
        with pytest.raises(SystemExit, match="0"):
            main(["--version"])
        assert capsys.readouterr().out == f"fwrunner {fwrunner.__version__}\n"
        pyproject = (REPOSITORY / "pyproject.toml").read_text()
        stated = re.search(r'(?m)^version = "(.*)"', pyproject)
        assert stated is None or stated[1] == fwrunner.__version__

    @pytest.mark.parametrize("bad", ["0", "-1", "soon", "nan", "inf", "1e9"])
    @pytest.mark.parametrize("by", ["option", "environment"])
    def test_ping_interval(self, capsys, monkeypatch, bad, by):
        if by == "environment":
            monkeypatch.setenv("FWAGENT_PING_INTERVAL", bad)
        with pytest.raises(SystemExit, match="2"):
            main([f"--ping-interval={bad}"] if by == "option" else [])
        assert "no number of seconds" in capsys.readouterr().err

    def test_ping_interval_option_before_environment(self, stage, monkeypatch):
        seen = []

        def note(*given: Any) -> int:
            seen.append(given)
            return 0

        monkeypatch.setattr("fwrunner.__main__.run", note)
        assert main([]) == 0
        monkeypatch.setenv("FWAGENT_PING_INTERVAL", "5")
        assert main(["d"]) == 0
        assert main(["d", "--ping-interval", "2.5"]) == 0
        assert seen == [(".", None, sys.exit), ("d", 5.0, sys.exit), ("d", 2.5, sys.exit)]
