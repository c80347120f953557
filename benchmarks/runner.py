"""What a job costs on the compute node: `fwrunner` beside `rlaunch singleshot --offline` and bare Python.

    FWAGENT_FIREWORKS_VENV=.venv-fireworks python -m benchmarks.runner [RUNS]

The Firework is a ScriptTask that runs `true`. All run in turns, with the same interpreter and the site-packages
of FireWorks' virtual environment, to which `fwrunner` is added as by an installation. With `-I -S` Python looks
for nothing but its own library: enough for Fireworks of built-in tasks. Times are those of the whole process
with all its children: `wall`, and `cpu`, which other work on the machine disturbs less. `files` counts the
system calls that name a file, of all processes (a metadata server sees most of them), `missing` those that
found none. `memory` is what the Python processes of the job hold together while the command runs (proportional
set size), `peak` the sum of their largest resident sets, in which what they share counts for each.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.export import export

REPOSITORY = Path(__file__).resolve().parents[1]
FIREWORKS = Path(os.environ.get("FWAGENT_FIREWORKS_VENV", REPOSITORY / ".venv-fireworks"))

#: What the processes above a command hold, up to the benchmark, with the other children of the first of them.
_MEMORY = """
total=0; peak=0; pids=; pid=$PPID
while [ "$pid" != "$BENCHMARK" ]; do
  pids="$pids $pid"; first=$pid
  pid=$(sed 's/.*) . \\([0-9]*\\) .*/\\1/' /proc/$pid/stat)
done
for pid in $(cat /proc/$first/task/$first/children); do
  case " $$ $pids " in *" $pid "*) ;; *) [ -e /proc/$pid/smaps_rollup ] && pids="$pids $pid" ;; esac
done
for pid in $pids; do
  total=$((total + $(sed -n 's/^Pss: *\\([0-9]*\\).*/\\1/p' /proc/$pid/smaps_rollup)))
  peak=$((peak + $(sed -n 's/^VmHWM:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$pid/status)))
done
echo $total $peak > memory
"""


class Job(NamedTuple):
    """A way to run a launch directory."""

    name: str
    command: list[str]


class Cost(NamedTuple):
    """Seconds of one run."""

    wall: float
    cpu: float


def jobs(scratch: Path) -> Iterator[Job]:
    """Return what is compared; the first is the measure."""
    python = installed(scratch / "venv")
    archive = scratch / "fwrunner.pyz"
    export(archive)
    yield Job("python3 -c pass", [python, "-c", "pass"])
    yield Job("python3 -m fwrunner", [python, "-m", "fwrunner"])
    yield Job("python3 fwrunner.pyz", [python, str(archive)])
    yield Job("python3 -I -S fwrunner.pyz", [python, "-I", "-S", str(archive)])
    unpacked = scratch / "fwrunner"
    shutil.unpack_archive(archive, unpacked, "zip")
    yield Job("python3 unpacked/", [python, str(unpacked)])
    yield Job("python3 -I -S unpacked/", [python, "-I", "-S", str(unpacked)])
    rlaunch = str(FIREWORKS / "bin" / "rlaunch")
    yield Job("rlaunch", [python, rlaunch, "-s", "singleshot", "--offline"])


def installed(place: Path) -> str:
    """Make a virtual environment with what FireWorks' has, and `fwrunner`; return its interpreter."""
    python = str(FIREWORKS / "bin" / "python")
    subprocess.run([python, "-m", "venv", "--without-pip", str(place)], check=True)
    (ours,) = place.glob("lib/python*/site-packages")
    for package in (FIREWORKS / ours.relative_to(place)).iterdir():
        (ours / package.name).symlink_to(package)
    shutil.copytree(
        REPOSITORY / "fwrunner", ours / "fwrunner", ignore=shutil.ignore_patterns("__pycache__")
    )
    return str(place / "bin" / "python")


def stage(place: Path, script: str) -> None:
    """Write a launch directory as `qlaunch -r` does."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    firework = {"fw_id": 1, "spec": {"_tasks": [{"_fw_name": "ScriptTask", "script": script}]}}
    (place / "FW.json").write_text(json.dumps(firework))
    (place / "FW_offline.json").write_text('{"launch_id": 1}')


def run(job: Job, scratch: Path, script: str = "true", before: Sequence[str] = ()) -> Cost:
    """Run a job once."""
    place = scratch / "launch"
    stage(place, script)
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    environment["BENCHMARK"] = str(os.getpid())
    start = time.perf_counter()
    process = subprocess.Popen(
        [*before, *job.command], cwd=place, env=environment, stdin=-3, stdout=-3, stderr=-3
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if "pass" not in job.command:
        state = json.loads((place / "FW_offline.json").read_text()).get("state")
        assert (process.returncode, state) == (0, "COMPLETED"), (job, process.returncode, state)
    return Cost(wall, usage.ru_utime + usage.ru_stime)


def files(job: Job, scratch: Path) -> tuple[int, int]:
    """Return how many system calls name a file, and how many of them find none."""
    trace = scratch / "trace"
    run(job, scratch, before=["strace", "-f", "-e", "trace=%file", "-o", str(trace)])
    calls = [
        line
        for line in trace.read_text(errors="replace").splitlines()
        if '"' in line and '""' not in line
    ]
    trace.unlink()
    return len(calls), sum("ENOENT" in call for call in calls)


def memory(job: Job, scratch: Path) -> tuple[int, int]:
    """Return the kB that the processes of a job hold together while its command runs, and their peaks."""
    if "pass" in job.command:
        return 0, 0
    run(job, scratch, _MEMORY)
    total, peak = (scratch / "launch" / "memory").read_text().split()
    return int(total), int(peak)


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        compared = list(jobs(scratch))
        costs: dict[str, list[Cost]] = {job.name: [] for job in compared}
        for turn in range(runs + 1):
            for job in compared:
                cost = run(job, scratch)
                if turn:  # the first one fills the caches
                    costs[job.name].append(cost)
        print(
            f"{'':28}{'wall ms':>16}{'cpu ms':>16}{'files':>8}{'missing':>9}{'memory MB':>11}{'peak MB':>9}"
        )
        print(f"{'':28}{'best  median':>16}{'best  median':>16}")
        traced = shutil.which("strace") is not None
        for job in compared:
            figures = [sorted(column) for column in zip(*costs[job.name], strict=True)]
            times = "".join(
                f"{f'{column[0] * 1e3:.0f}  {statistics.median(column) * 1e3:6.0f}':>16}"
                for column in figures
            )
            named, missing = files(job, scratch) if traced else (0, 0)
            held, peak = (kilobytes / 1024 for kilobytes in memory(job, scratch))
            print(f"{job.name:28}{times}{named:8}{missing:9}{held:11.1f}{peak:9.1f}")


if __name__ == "__main__":
    main()
