"""`fwagent runner export`: one file that any python3 of a compute node runs."""

import hashlib
import json
import subprocess
import sys
import zipfile

import pytest
from typer.testing import CliRunner

from agent.cli import commands
from agent.export import archive, export
from fwcore.errors import FwagentError
from tests.support.jobs import Job, pythons


@pytest.fixture(scope="module")
def command():
    return lambda *arguments: CliRunner().invoke(
        commands(), ["runner", "export", *map(str, arguments)]
    )


@pytest.mark.parametrize("python", pythons())
def test_it_runs_a_firework_alone(tmp_path, command, python):
    path = tmp_path / "fwrunner.pyz"
    done = command(path)
    assert done.exit_code == 0, done.output
    assert f'runner = "python3 {path}"' in done.output
    job = Job(tmp_path, "def f():\n    return 3\n")
    task = {"_fw_name": "PyTask", "func": "job_tasks.f", "outputs": ["n"]}
    job.stage("echo hello", task, "exit 3")
    job.environment["PYTHONPATH"] = str(tmp_path)
    arguments = [python, "-s", str(path), str(job.place)]
    ran = subprocess.run(
        arguments, env=job.environment, cwd="/", capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, "hello\n"), ran.stderr
    report = job.report()
    assert report.checkpoint is not None
    assert (report.state, report.checkpoint["_all_update_spec"]) == ("FIZZLED", {"n": 3})
    assert job.stored()["_message"] == "runtime error during task"


def test_it_is_small_and_always_the_same(tmp_path):
    path = tmp_path / "fwrunner.pyz"
    assert export(path) == path.stat().st_size < 70_000
    assert path.stat().st_mode & 0o777 == 0o755
    first = hashlib.sha256(path.read_bytes()).digest()
    assert hashlib.sha256(archive()).digest() == first
    with zipfile.ZipFile(path) as written:
        assert "fwrunner/protocol/rescue.py" in written.namelist()
        assert not [name for name in written.namelist() if not name.endswith(".py")]


def test_json(tmp_path, command):
    done = command(tmp_path / "x", "--json")
    assert json.loads(done.output) == {
        "path": str(tmp_path / "x"),
        "size": (tmp_path / "x").stat().st_size,
    }


def test_a_place_that_does_not_take_it(tmp_path):
    with pytest.raises(FwagentError, match="cannot be written"):
        export(tmp_path / "none" / "x")
    (tmp_path / "d").mkdir()
    with pytest.raises(FwagentError, match="cannot be written"):
        export(tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_the_command_itself_has_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "agent", "runner", "export", tmp_path / "x"], check=False
    )
    assert done.returncode == 0
