"""What an agent costs that has many launches: processor, memory, descriptors, its growth.

    .venv/bin/python -m benchmarks.soak [--open 10000] [--registered 0] [--seconds 600] [--rate 10]

``--open`` launches are active; of them ``--rate`` finish in each second, the rest says nothing. ``--registered``
directories are in fwagent_dirs besides, of launches that say nothing either. The first line is of a quiet agent.
A shortened run: --open 1000 --seconds 30. `--rate 100 --seconds 360` is an hour at ten times the speed.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.crowd import Crowd, crowd
from fwcore.launchpad.records import Claim
from tests.support.agent import WORKER

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Use:
    """What a process has used: seconds of a processor, bytes of memory, descriptors, threads; and when."""

    now: float
    cpu: float
    resident: int
    descriptors: int
    threads: int


def use(pid: int) -> Use:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return Use(
        time.monotonic(),
        (int(fields[11]) + int(fields[12])) / _TICKS,
        int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208
        int(fields[17]),
    )


def register(here: Crowd, count: int) -> None:
    """Register directories of launches whose runs are closed: they are looked at for that alone."""
    root = here.site.home / "registered"
    launches, entries = [], []
    for number in range(count):
        launch_id = 10_000_000 + number
        place = root / f"block_{number // 1000}" / f"launcher_{number}"
        place.mkdir(parents=True)
        (place / "FW_offline.json").write_text(f'{{"launch_id": {launch_id}}}', encoding="ascii")
        launches.append({
            "launch_id": launch_id, "fw_id": launch_id, "launch_dir": str(place), "state": "RESERVED",
            "fworker": {"name": WORKER}, "state_history": [], "trackers": [], "action": None,
        })  # fmt: skip
        now = here.store.launchpad.now()
        entries.append(
            {"_id": launch_id, "worker": WORKER, "launch_dir": str(place), "registered_on": now}
        )
    if count:
        here.store.db.launches.insert_many(launches)
        here.store.db.fwagent_dirs.insert_many(entries)


def told(title: str, before: Use, after: Use) -> str:
    cpu = 100 * (after.cpu - before.cpu) / (after.now - before.now)
    return (
        f"{title:24}{cpu:8.2f} % of a core {after.resident / 1e6:8.1f} MB "
        f"{after.descriptors:5} descriptors {after.threads:4} threads"
    )


def busy(here: Crowd, pid: int, claims: list[Claim], seconds: float, rate: float) -> None:
    """Let launches finish at a rate; tell of the agent ten times."""
    start = before = use(pid)
    done = 0
    for part in range(1, 11):
        while (now := time.monotonic() - start.now) < seconds * part / 10:
            wanted = min(len(claims), int(now * rate))
            for claim in claims[done:wanted]:
                here.report(claim, outbox=True)
            done = max(done, wanted)
            time.sleep(0.05)
        after = use(pid)
        completed = here.store.db.launches.count_documents({"state": "COMPLETED"})
        print(
            f"{told(f'{now:.0f} s, {done} finished', before, after)}, {completed} COMPLETED",
            flush=True,
        )
        before = after


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--open", type=int, default=10_000)
    options.add_argument("--registered", type=int, default=0)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--quiet", type=float, default=60, help="seconds without any end, before")
    options.add_argument("--rate", type=float, default=10)
    given = options.parse_args()
    with crowd(sweep_interval=30, outbox_interval=1, reserve_interval=30) as here:
        claims = here.claim(given.open, children=False)
        register(here, given.registered)
        with here.site.daemon() as daemon:
            here.site.await_first_pass()
            time.sleep(given.quiet / 2)  # the first looks come at the shortest pause
            before = use(daemon.pid)
            time.sleep(given.quiet)
            print(told("quiet", before, use(daemon.pid)), flush=True)
            if given.rate:
                busy(here, daemon.pid, claims, given.seconds, given.rate)


if __name__ == "__main__":
    main()
