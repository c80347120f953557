"""From READY into the queue, beside `qlaunch -r rapidfire`; and how often a queue is asked. On real Slurm and mongod.

    .venv/bin/python -m benchmarks.submission [--fireworks 1000] [--jobs 0 100 5000]

`fwagent launch` and `qlaunch` are started as a user would, start-up included. qlaunch sleeps for 5 s after each job, so
it does a few of them only, as often with the sleep set to 0; what it would need for all is extrapolated. No job starts:
the partition is down. The hour is a simulated one: each minute the agent's two looks for READY Fireworks and its look
at the queue are made, one after the other, on a clock that is set forward; all commands of the queue are real, and
counted by wrappers on PATH. Needs what `make test` installs, Slurm among it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.config import load_config
from agent.loop import Parts, make_parts
from agent.mongod import Mongod
from agent.reconciler import Reconciler
from agent.results import Result
from benchmarks.staging import siblings
from fwcore.launchpad import LaunchPad
from tests.support.agent import write_toml
from tests.support.fireworks import FireWorks
from tests.support.mongod import connect
from tests.support.schedulers import Slurm, slurm

#: Jobs that qlaunch submits, with its sleep and without.
FEW = {5: 5, 0: 40}
#: Fireworks of a workflow, so that adding them takes no time worth telling.
_TOGETHER = 100
_COMMANDS = ("sbatch", "squeue", "sacct", "scancel")


def fill(launchpad: LaunchPad, count: int) -> None:
    """Make an empty LaunchPad with so many READY Fireworks."""
    launchpad.initialize()
    for first in range(0, count, _TOGETHER):
        launchpad.add(siblings(min(_TOGETHER, count - first)))


def configure(home: Path, server: Mongod, name: str, *, array: bool) -> Path:
    """Write the configuration of an agent."""
    return write_toml(
        home / f"{name}.toml",
        {
            "launchpad": {"uri": server.uri, "name": name},
            "worker": {"name": "test-worker"},
            "launch": {"root": str(home / name), "max_queued": 100_000},
            "queue": {"type": "slurm", "array": array, "options": {"walltime": "00:10:00"}},
        },
    )


def launched(home: Path, server: Mongod, count: int, *, array: bool) -> float:
    """Return the seconds that `fwagent launch` needs for so many Fireworks."""
    config = configure(home, server, f"array{array}", array=array)
    launchpad = load_config(config).connect()
    fill(launchpad, count)
    launchpad.close()
    command = [str(Path(sys.executable).with_name("fwagent")), "--config", str(config)]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, "launch", "--json"], check=True, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    assert len(json.loads(done.stdout)["submitted"]) == count
    return seconds


def launched_by_qlaunch(home: Path, server: Mongod, pause: int) -> float:
    """Return the seconds per job of `qlaunch -r rapidfire`, less those of its start."""
    name = f"qlaunch{pause}"
    theirs = FireWorks(home / name, server, name)
    shutil.rmtree(theirs.home / "bin")  # the stubs of the tests
    theirs.write_queue_adapter(walltime="00:10:00")
    theirs.write_fw_config(QUEUE_UPDATE_INTERVAL=pause)
    launchpad = LaunchPad.from_uri(server.uri, name)
    fill(launchpad, 1 + FEW[pause])
    launchpad.close()
    environment = {**theirs.environ(), "SLURM_CONF": os.environ["SLURM_CONF"]}
    with connect(server) as client:
        times = []
        for jobs in (1, FEW[pause]):
            words = ["-r", "rapidfire", "-m", "0", "--nlaunches", str(jobs)]
            start = time.perf_counter()
            subprocess.run(
                [str(theirs.venv / "bin" / "qlaunch"), *words],
                cwd=theirs.home,
                env=environment,
                check=True,
                capture_output=True,
            )
            times.append(time.perf_counter() - start)
        taken = client[name].launches.count_documents({"state_history.reservation_id": {"$gt": ""}})
        assert taken == 1 + FEW[pause], taken
    return (times[1] - times[0]) / (FEW[pause] - 1)


@contextmanager
def counted(home: Path) -> Iterator[Path]:
    """Have the commands of Slurm counted, a line each in the file that is yielded."""
    place, log = home / "counting", home / "commands"
    place.mkdir()
    for name in _COMMANDS:
        if real := shutil.which(name):
            text = f'#!/bin/sh\necho {name} >> {log}\nexec {real} "$@"\n'
            (place / name).write_text(text, encoding="utf-8")
            (place / name).chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{place}:{before}"
    try:
        yield log
    finally:
        os.environ["PATH"] = before


class Hour:
    """An agent with so many jobs in the queue, on a clock of its own."""

    def __init__(self, home: Path, server: Mongod, jobs: int) -> None:
        config = load_config(configure(home, server, f"hour{jobs}", array=True))
        self._now = time.time()
        self._parts: Parts = make_parts(config)
        fill(self._parts.launchpad, jobs)
        result = Result()
        self._parts.way_out.launch(self._parts.way_out.capacity(), result)
        assert len(result.submitted) == jobs
        parts = self._parts
        self._reconciler = Reconciler(
            parts.launchpad, parts.queue, parts.way_back, config, clock=lambda: self._now
        )
        self._sync = config.sync

    def pass_by(self) -> float:
        """Let an hour pass; return the seconds of a look at the queue."""
        looks = round(3600 / self._sync.reconcile_interval)
        spent = 0.0
        for _ in range(looks):
            self._now += self._sync.reconcile_interval
            for _ in range(round(self._sync.reconcile_interval / self._sync.reserve_interval)):
                self._parts.way_out.launch(self._parts.way_out.capacity(), Result())
            start = time.perf_counter()
            result = Result()
            self._reconciler.run(result)
            spent += time.perf_counter() - start
            assert result == Result()
        self._parts.launchpad.close()
        return spent / looks


def compare(home: Path, server: Mongod, cluster: Slurm, count: int) -> None:
    """Print how long so many Fireworks take."""
    print(f"from READY into the queue, {count} Fireworks")
    for array in (False, True):
        seconds = launched(home, server, count, array=array)
        what = "job arrays" if array else "a job each"
        print(
            f"  fwagent launch, {what:12} {seconds:8.1f} s   {count / seconds:7.1f} /s", flush=True
        )
        cluster.cancel_all()
    for pause, few in FEW.items():
        each = launched_by_qlaunch(home, server, pause)
        what = f"sleep {pause} s"
        told = f"extrapolated from {few}"
        print(
            f"  qlaunch -r, {what:16} {count * each:8.1f} s   {1 / each:7.1f} /s   {told}",
            flush=True,
        )
        cluster.cancel_all()


def count_commands(home: Path, server: Mongod, cluster: Slurm, sizes: Sequence[int]) -> None:
    """Print how often the queue is asked in an hour."""
    print("commands of the queue in an hour (simulated, see above)")
    for jobs in sizes:
        hour = Hour(home, server, jobs)
        with tempfile.TemporaryDirectory() as scratch, counted(Path(scratch)) as log:
            look = hour.pass_by()
            found: Mapping[str, Any] = Counter(log.read_text(encoding="utf-8").split())
        told = ", ".join(f"{number} {name}" for name, number in sorted(found.items()))
        print(f"  {jobs:5} jobs: {told}; a look takes {look * 1000:.0f} ms", flush=True)
        cluster.cancel_all()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fireworks", type=int, default=1000)
    parser.add_argument("--jobs", type=int, nargs="*", default=[0, 100, 5000])
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as scratch,
        Mongod(Path(scratch) / "mongod") as server,
        slurm() as cluster,
    ):
        os.environ.update(cluster.environ)
        cluster.run("scontrol", "update", "partition=main", "state=down")
        compare(Path(scratch), server, cluster, options.fireworks)
        count_commands(Path(scratch), server, cluster, options.jobs)


if __name__ == "__main__":
    main()
