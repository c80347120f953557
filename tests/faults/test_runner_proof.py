"""fwrunner under fire: killed at any moment, on a full disk, with a flood of output, with nothing installed."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fwrunner.launch import Launch
from fwrunner.protocol import (
    NotYet,
    Report,
    Unreadable,
    outbox_name,
    read_json,
    read_outbox_entry,
    read_report,
)
from tests.support.jobs import REPOSITORY, Job, pythons

RUNS = 200
NAMES = ("FW_offline.json", "FW_ping.json", "FW_action.json")


class Reader(threading.Thread):
    """Reads the files of the present job in a tight loop; what was ever torn is kept."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.job: Job | None = None
        self.torn: list[str] = []
        self.reads = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.0005):
            job = self.job
            for path in self.paths(job) if job else ():
                try:
                    read_json(path)
                except FileNotFoundError:
                    continue
                except Unreadable as error:
                    self.torn.append(f"{path}: {error}")
                self.reads += 1

    @staticmethod
    def paths(job: Job) -> Iterator[str]:
        yield from (str(job.place / name) for name in NAMES)
        yield from (str(job.outbox / outbox_name(7, "abc", final)) for final in (True, False))


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 20)  # it must not hold the test up
    reader.start()
    yield reader
    reader.done.set()
    reader.join()
    sys.setswitchinterval(interval)


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path, reader):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    whole = Job(tmp_path / "whole").stage("true")
    started = time.monotonic()
    assert whole.run()[0] == 0
    longest = time.monotonic() - started
    ended = []
    for number in range(RUNS):
        job = Job(tmp_path / str(number)).stage("true")
        reader.job = job
        how = (signal.SIGKILL, signal.SIGTERM)[number % 2]
        process = job.start(start_new_session=True)
        try:
            process.wait(chance.uniform(0, longest))
        except subprocess.TimeoutExpired:
            process.send_signal(how)
        process.communicate()
        report = read_report(str(job.place))
        final = isinstance(report, Report) and report.final
        ended.append(final)
        # So that it is about as often too late as too early, however busy the machine is.
        longest *= 0.9 if final else 1.1
        self_ended = process.returncode >= 0
        assert final or not self_ended, (seed, number, process.returncode, report)
        for path in reader.paths(job):
            with suppress(FileNotFoundError):
                read_json(path)
        if isinstance(report, Report) and final:
            entry = read_outbox_entry(str(job.outbox / outbox_name(7, "abc", final=True)))
            # Killed between the two, the first alone is there.
            assert isinstance(entry, NotYet) or entry.state == report.state, (seed, number)
            assert not isinstance(entry, NotYet) or not self_ended, (seed, number)
        else:
            assert Launch(str(job.place)).report.attempt in (1, 2)
            if number % 16 < 2:
                assert job.run()[0] == 0
                assert job.report().state == "COMPLETED"
    assert reader.torn == []
    assert reader.reads > RUNS
    # It was neither always too early nor always too late.
    assert RUNS // 20 < sum(ended) < RUNS - RUNS // 20


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: a file system of 1 MB, which root alone can mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def task_of(report: NotYet | Report) -> Any:
    assert isinstance(report, Report)
    assert report.checkpoint is not None
    return report.checkpoint["_task_n"]


class TestFullDisk:
    FILL = "cat /dev/zero > fill 2> /dev/null; echo >> fill"

    def small(self, tmp_path: Path, small_disk: Path) -> Job:
        job = Job(tmp_path)
        job.place = small_disk / "launch"
        job.place.mkdir()
        # With the time over nothing is waited for.
        job.environment["SLURM_JOB_END_TIME"] = "1"
        return job

    def test_the_outbox_elsewhere_has_the_report(self, tmp_path, small_disk):
        job = self.small(tmp_path, small_disk).stage("true", f"{self.FILL}; exit 0", "true")
        assert job.run()[0] == 0
        entry = read_outbox_entry(str(job.outbox / outbox_name(7, "abc", final=True)))
        assert isinstance(entry, Report)
        assert (entry.state, task_of(entry)) == ("COMPLETED", 2)
        # What was there before is still whole.
        assert task_of(read_report(str(job.place))) == 1
        assert sorted(path.name for path in job.place.iterdir()) == [
            "FW.json", "FW_offline.json", "FW_ping.json", "fill",
        ]  # fmt: skip

    @pytest.mark.parametrize("home", [True, False])
    def test_the_home_directory_has_it_or_stderr(self, tmp_path, small_disk, home):
        job = self.small(tmp_path, small_disk)
        job.outbox = small_disk
        if not home:
            job.environment["HOME"] = str(small_disk)
        job.stage(f"{self.FILL}; exit 0")
        status, _, err = job.run()
        assert status == (0 if home else 1)
        path = job.home / ".fwagent" / "rescue" / "7.abc.json"
        if home:
            assert f"is in {path.parent} for now" in err
        else:
            line = err.partition("fwrunner-report: ")[2].partition("\n")[0]
            path.parent.mkdir(parents=True)
            path.write_text(line)
        report = read_outbox_entry(str(path))
        assert isinstance(report, Report)
        assert report.state == "COMPLETED"

    def test_it_comes_to_its_place_when_there_is_space_again(self, tmp_path, small_disk):
        job = self.small(tmp_path, small_disk)
        del job.environment["SLURM_JOB_END_TIME"]
        job.stage(f"{self.FILL}; exit 0")
        process = job.start()
        assert process.stderr is not None
        while "No space left" not in process.stderr.readline():
            assert process.poll() is None
        (job.place / "fill").unlink()
        process.communicate()
        assert process.returncode == 0
        assert job.report().state == "COMPLETED"
        assert not (job.home / ".fwagent").exists()

    def test_a_directory_that_may_not_be_written(self, tmp_path):
        if os.geteuid() != 0:
            pytest.skip(
                "NOT TESTED: a directory that refuses, which root alone can make for itself"
            )
        job = Job(tmp_path).stage("true")
        frozen = subprocess.run(["chattr", "+i", job.place], capture_output=True, check=False)
        if frozen.returncode:
            pytest.skip(
                "NOT TESTED: a directory that refuses; this file system knows no `chattr +i`"
            )
        try:
            assert job.run()[0] == 0
        finally:
            subprocess.run(["chattr", "-i", job.place], check=True)
        entry = read_outbox_entry(str(job.outbox / outbox_name(7, "abc", final=True)))
        assert isinstance(entry, Report)


_FLOOD = "head -c 1000000000 /dev/zero"
_PEAKS = """
for pid in $PPID $(sed 's/.*) . \\([0-9]*\\) .*/\\1/' /proc/$PPID/stat); do
  sed -n 's/^VmHWM:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$pid/status
done > peaks
"""


def test_a_flood_of_output_is_not_kept(tmp_path):
    job = Job(tmp_path, "def flood():\n    for _ in range(1000):\n        print('x' * 999_999)\n")
    job.stage(_FLOOD, "flood()", _PEAKS)
    process = job.start()
    assert process.stdout is not None
    seen = 0
    while data := os.read(process.stdout.fileno(), 1 << 20):
        seen += len(data)
    process.communicate()
    assert process.returncode == 0
    assert seen == 2_000_000_000
    peaks = [int(line) for line in (job.place / "peaks").read_text().split()]
    assert len(peaks) == 2
    assert max(peaks) < 40_000  # kB


@pytest.mark.parametrize("python", pythons())
def test_only_standard_modules(tmp_path, python):
    """Neither the process of the tasks nor the supervisor has anything from elsewhere."""
    names = "sorted({n.partition('.')[0] for n in __import__('sys').modules})"
    look = {"_fw_name": "PyTask", "func": "builtins.eval", "args": [names], "outputs": ["names"]}
    job = Job(tmp_path).stage("true", look)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from fwrunner.__main__ import main\n"
        f"status = main([sys.argv[2]]); print(__import__('json').dumps([status, {names}]))"
    )
    command = [python, "-B", "-S", "-I", "-c", code, str(REPOSITORY), str(job.place)]
    status, supervisor = json.loads(
        subprocess.check_output(command, env=job.environment, text=True)
    )
    assert status == 0
    action = job.report().fwaction
    assert action is not None
    tasks = action["update_spec"]["names"]
    assert "fwrunner" in tasks
    allowed = sys.stdlib_module_names | {"fwrunner", "__main__", "__mp_main__", "sre_compile"}
    allowed |= {"sre_constants", "sre_parse", "_bootlocale"}  # of older Pythons
    assert {*supervisor, *tasks} - allowed == set()
    # It stays small, since nothing of what tasks need is in it.
    assert not {"subprocess", "traceback", "argparse", "threading"} & set(supervisor)
    if hasattr(os, "posix_spawn") and python == sys.executable:
        # Each of them is read from a parallel file system.
        assert not {"subprocess", "threading", "selectors", "traceback"} & set(tasks)
