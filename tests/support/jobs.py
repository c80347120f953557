"""Launch directories for `fwrunner` as a process of its own, and ways to look at what it leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from fwrunner.protocol import Report, outbox_name, read_outbox_entry, read_report

REPOSITORY = Path(__file__).resolve().parents[2]


def pythons() -> list[str]:
    """This Python, and the oldest and the newest that fwrunner is for, where they are installed.

    `$FWRUNNER_PYTHON` names another old one.
    """
    versions = Path.home() / ".pyenv" / "versions"
    found = [sys.executable]
    for name in (os.environ.get("FWRUNNER_PYTHON", "python3.6"), "python3.13"):
        installed = sorted(versions.glob(f"{name.removeprefix('python')}.*/bin/python"))
        path = str(installed[-1]) if installed else shutil.which(name)
        if path and not subprocess.run([path, "-V"], capture_output=True, check=False).returncode:
            found.append(path)
    return found


class Job:
    """A staged launch, 7 of Firework 3, with a module ``job_tasks`` for its PyTasks."""

    def __init__(self, root: Path, functions: str = "") -> None:
        self.root = root
        self.place = root / "launch"
        self.outbox = root / ".fwagent" / "outbox"
        self.home = root / "home"
        self._started: list[subprocess.Popen[str]] = []
        for directory in (self.place, self.outbox, self.home):
            directory.mkdir(parents=True, exist_ok=True)
        (root / "job_tasks.py").write_text(textwrap.dedent(functions))
        self.environment = {
            **{key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ},
            "HOME": str(self.home),
            "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{root}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def stage(self, *tasks: str | dict[str, Any], ping_interval: float = 60, **spec: Any) -> Job:
        """Write the files of the login node; a task that is a text is a command, or ``name()`` a function."""
        given = [task if isinstance(task, dict) else _task(task) for task in tasks]
        firework = {"fw_id": 3, "spec": {**spec, "_tasks": given}}
        ours = {
            "protocol": 1,
            "token": "abc",
            "outbox": str(self.outbox),
            "ping_interval": ping_interval,
        }
        self.write("FW.json", firework)
        self.write("FW_offline.json", {"launch_id": 7, "fwagent": ours})
        return self

    def command(self, python: str = sys.executable) -> list[str]:
        """Return what the job script runs."""
        return [python, "-S", "-m", "fwrunner", str(self.place)]

    def start(self, python: str = sys.executable, **more: Any) -> subprocess.Popen[str]:
        """Start the job, with its stdout and stderr in pipes."""
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": -1, "stderr": -1}
        process = subprocess.Popen(
            self.command(python), env=self.environment, text=True, **{**pipes, **more}
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """End what a test that has failed left running: its warnings would be another's failure."""
        for process in self._started:
            with process:
                process.kill()

    def run(self, python: str = sys.executable, **more: Any) -> tuple[int, str, str]:
        """Run the job; return its exit status, stdout and stderr."""
        with self.start(python, **more) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def write(self, name: str, document: Any) -> None:
        """Write a file of the launch directory."""
        (self.place / name).write_text(json.dumps(document))

    def read(self, name: str) -> Any:
        """Return a file of the launch directory."""
        return json.loads((self.place / name).read_text())

    def report(self) -> Report:
        """Return what the launch directory tells, which must be the same as what the outbox does."""
        report = read_report(str(self.place))
        assert isinstance(report, Report), report
        if report.final:
            entry = read_outbox_entry(str(self.outbox / outbox_name(7, "abc", final=True)))
            assert isinstance(entry, Report), entry
            assert entry._replace(launch_dir="") == report._replace(launch_dir="")
        return report

    def stored(self) -> Any:
        """Return the stored_data of the final report."""
        action = self.report().fwaction
        assert action is not None
        return action["stored_data"]


def _task(text: str) -> dict[str, Any]:
    if text.endswith("()"):
        return {"_fw_name": "PyTask", "func": f"job_tasks.{text[:-2]}", "outputs": []}
    return {"_fw_name": "ScriptTask", "script": text}
