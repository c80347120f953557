"""What a change of the LaunchPad costs: FireWorks and fwagent side by side on one mongod, in one run.

    .venv/bin/python benchmarks/cost.py [--quick] [--full]

Both do the same work on databases that were filled alike: FireWorks by the methods behind `lpad
recover_offline` and `qlaunch -r`, in a process of its own, fwagent by what its daemon calls, reading the
launch directories included. Times are the medians of the repetitions, without start-up; database commands are
counted by the driver's own listener, so they are exact. "Its plan alone" is the pure part, on documents that have
been read: it grows with what a report concerns, and by one look at each state of the workflow. FireWorks is left
out at 10,000 Fireworks a workflow but for `--full`: it takes minutes there, for one report. Needs what `make test`
installs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from pymongo import MongoClient, UpdateOne
from pymongo.database import Database

from agent.mongod import Mongod
from agent.recover import WayBack
from agent.results import Result
from benchmarks.staging import (
    ACTION,
    WORKER,
    Distance,
    fan_in,
    fan_out,
    pair,
    reserve,
    run,
    siblings,
)
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Claim
from fwcore.plan import Plan, plan_reports
from fwcore.world import Missing, World
from fwrunner.protocol import Report, read_report, timestamp
from tests.support.batches import Count
from tests.support.fireworks import FireWorks
from tests.support.mongod import Client

Document = dict[str, Any]

#: Seconds that FireWorks may take for what is measured once.
PATIENCE = 1800.0
#: Fireworks a workflow up to which FireWorks takes seconds and not minutes.
BEARABLE = 1000

#: Seconds each way to a database that is not on this campus.
AWAY = 0.025

#: FireWorks' side: `calls` one after the other; [ms, commands] of each.
CALLS = """\
import time
from pymongo import monitoring
sent = []
class Count(monitoring.CommandListener):
    def started(self, event): sent.append(event.command_name)
    def succeeded(self, event): pass
    def failed(self, event): pass
monitoring.register(Count())
from fireworks.core.fworker import FWorker
from fireworks import LaunchPad
lp = LaunchPad.from_file(file)
lp.fireworks.find_one()
calls = {
    "recover": lambda launch_id: lp.recover_offline(launch_id),
    "reserve": lambda _: reserve(*lp.reserve_fw(FWorker("test-worker"), "/launch")),
}
def reserve(firework, launch_id):
    lp.add_offline_run(launch_id, firework.fw_id, firework.name)
result = []
for argument in arguments:
    before, start = len(sent), time.perf_counter()
    calls[call](argument)
    result.append([1000 * (time.perf_counter() - start), len(sent) - before])
"""


@dataclass(frozen=True)
class Cost:
    """Of one piece of work: milliseconds and database commands, both per unit."""

    ms: float
    commands: float

    def __truediv__(self, units: int) -> Cost:
        return Cost(self.ms / units, self.commands / units)


def cost_of(counted: Count, work: Callable[[], object]) -> Cost:
    before, start = len(counted.commands), time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return Cost(1000 * seconds, len(counted.commands) - before)


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.ms for cost in costs),
        statistics.median(cost.commands for cost in costs),
    )


class Bench:
    """One mongod, databases that are filled alike, and both sides on them."""

    def __init__(self, scratch: Path, server: Mongod) -> None:
        self.scratch = scratch
        self.server = server
        self.distance = Distance(server, AWAY)
        self._numbers = count()
        self._home = scratch / "home"

    @contextmanager
    def filled(
        self, workflows: Sequence[Document], claims: int = 0
    ) -> Iterator[tuple[str, list[Claim]]]:
        """Yield the name of a new database that holds workflows, and reservations of it."""
        name = f"d{next(self._numbers)}"
        launchpad = LaunchPad.from_uri(self.server.uri, name)
        launchpad.initialize()
        for each in workflows:
            launchpad.add(each)
        yield name, reserve(launchpad, self.scratch / name, claims) if claims else []
        launchpad.drop()
        launchpad.close()

    def theirs(
        self, name: str, call: str, arguments: Sequence[int], *, away: bool = False
    ) -> list[Cost]:
        fireworks = FireWorks(self._home, self.server, name)
        if away:
            text = fireworks.launchpad_file.read_text()
            fireworks.launchpad_file.write_text(
                text.replace(str(self.server.port), str(self.distance.port))
            )
        named = {"file": str(fireworks.launchpad_file), "call": call, "arguments": list(arguments)}
        told = fireworks.python(CALLS, seconds=PATIENCE, **named)
        return [Cost(ms, commands) for ms, commands in told]

    @contextmanager
    def ours(
        self, name: str, *, away: bool = False
    ) -> Iterator[tuple[LaunchPad, Callable[[Callable[[], object]], Cost]]]:
        """Yield a LaunchPad, and a function that tells what something costs that is done with it."""
        counted = Count()
        uri = self.distance.uri if away else self.server.uri
        launchpad = LaunchPad.from_uri(uri, name, event_listeners=[counted])
        launchpad.counts()
        yield launchpad, partial(cost_of, counted)
        launchpad.close()

    def way_back(self, launchpad: LaunchPad) -> Callable[[Sequence[Claim]], None]:
        """Return what a pass of the daemon does with launch directories."""
        back = WayBack(launchpad, self.scratch / "no-outbox", 1 << 24)

        def recover(claims: Sequence[Claim]) -> None:
            result = Result()
            back.recover({claim.launch_id: claim.launch_dir for claim in claims}, result)
            assert not result.deferred, result.deferred

        return recover


# ------------------------------------------------------------------------------------- the measurements


def completed_pairs(bench: Bench, runs: int, few: int, *, away: bool) -> tuple[Cost, Cost]:
    """One run of a two-Firework workflow completes: FireWorks each, we in batches of 500."""
    with bench.filled([pair()] * few, few) as (name, claims):
        run(claims)
        theirs = median(
            bench.theirs(name, "recover", [claim.launch_id for claim in claims], away=away)
        )
    with bench.filled([pair()] * runs, runs) as (name, claims):
        run(claims)
        with bench.ours(name, away=away) as (launchpad, cost):
            back = bench.way_back(launchpad)
            ours = [cost(partial(back, claims[at : at + 500])) / 500 for at in range(0, runs, 500)]
    return theirs, median(ours)


def applied_pairs(bench: Bench, runs: int) -> Cost:
    """The part of it that is the database's: reports that have been read, in batches of 500."""
    with bench.filled([pair()] * runs, runs) as (name, claims):
        run(claims)
        read = [read_report(claim.launch_dir) for claim in claims]
        found = [report for report in read if isinstance(report, Report)]
        with bench.ours(name) as (launchpad, cost):
            batches = [found[at : at + 500] for at in range(0, runs, 500)]
            return median([cost(partial(launchpad.apply, batch)) / 500 for batch in batches])


def unchanged_runs(bench: Bench, runs: int, few: int) -> tuple[Cost, Cost]:
    """One run goes on and tells nothing new, at a further pass."""
    with bench.filled([pair()] * few, few) as (name, claims):
        run(claims, ended=False)
        ids = [claim.launch_id for claim in claims]
        theirs = median(bench.theirs(name, "recover", ids * 2)[few:])
    with bench.filled([pair()] * runs, runs) as (name, claims):
        run(claims, ended=False)
        with bench.ours(name) as (launchpad, cost):
            back = bench.way_back(launchpad)
            back(claims)
            ours = median([cost(lambda: back(claims)) / runs for _ in range(3)])
    return theirs, ours


def one_of(bench: Bench, shape: Document, times: int) -> Cost:
    """The first Firework of one workflow completes; a report of its own, after another one as a warm-up."""
    found = []
    for _ in range(times):
        with bench.filled([pair(), shape], 2) as (name, claims):
            run(claims)
            with bench.ours(name) as (launchpad, cost):
                back = bench.way_back(launchpad)
                found.append([cost(partial(back, [claim])) for claim in claims][1])
    return median(found)


def one_of_theirs(bench: Bench, shape: Document, times: int) -> Cost:
    """Return what the same costs FireWorks."""
    found = []
    for _ in range(times):
        with bench.filled([pair(), shape], 2) as (name, claims):
            run(claims)
            ids = [claim.launch_id for claim in claims]
            found.append(bench.theirs(name, "recover", ids)[1])
    return median(found)


def plan_of_one(bench: Bench, shape: Document, times: int) -> Cost:
    """The plan of the same alone, on the documents that it asks for."""
    with bench.filled([shape], 1) as (name, claims), bench.ours(name) as (launchpad, cost):
        run(claims)
        reports = [read_report(claim.launch_dir) for claim in claims]
        now = launchpad.now()
        fireworks = {each["fw_id"]: each for each in launchpad.documents("fireworks")}
        world = World(
            workflows=launchpad.documents("workflows"),
            fireworks={claim.fw_id: fireworks[claim.fw_id] for claim in claims},
            launches={each["launch_id"]: each for each in launchpad.documents("launches")},
        )
        for each in launchpad.documents("offline_runs"):
            world.runs.setdefault(each["launch_id"], []).append(each)

        def plan() -> Plan:
            return plan_reports(world, [each for each in reports if isinstance(each, Report)], now)

        while missing := _asked(plan):
            world.fireworks.update((fw_id, fireworks[fw_id]) for fw_id in missing.fireworks)
        return median([cost(plan) for _ in range(times)])


def _asked(plan: Callable[[], Plan]) -> Missing | None:
    """Return what a plan lacks, None if nothing."""
    try:
        assert plan().applied
    except Missing as missing:
        return missing
    return None


def claims_of(bench: Bench, many: int, few: int) -> tuple[Cost, Cost]:
    """One Firework is reserved and its offline run opened."""
    with bench.filled([pair()] * few) as (name, _):
        theirs = median(bench.theirs(name, "reserve", range(few)))
    with bench.filled([pair()] * many) as (name, _), bench.ours(name) as (launchpad, cost):
        ours = cost(lambda: launchpad.open_runs(launchpad.claim(WORKER, many))) / many
        assert launchpad.counts()["RESERVED"] == many
    return theirs, ours


def bare(bench: Bench, runs: int) -> Cost:
    """The reads and bulk writes of a completed run and nothing else: no lock, no journal, no plan."""
    counted = Count()
    client: Client = MongoClient(bench.server.uri, event_listeners=[counted])
    with client, bench.filled([pair()] * runs, runs) as (name, claims):
        ids = [claim.launch_id for claim in claims]
        client[name].fireworks.find_one()
        return cost_of(counted, partial(read_and_write, client[name], ids)) / runs


def read_and_write(db: Database[Document], ids: list[int]) -> None:
    """Do what `bare` says."""
    now = timestamp()
    launches = list(db.launches.find({"launch_id": {"$in": ids}}, batch_size=5000))
    fw_ids = [launch["fw_id"] for launch in launches]
    flows = list(db.workflows.find({"nodes": {"$in": fw_ids}}, batch_size=5000))
    members = [node for flow in flows for node in flow["nodes"]]
    fireworks = list(db.fireworks.find({"fw_id": {"$in": members}}, batch_size=5000))
    ended = {"state": "COMPLETED", "action": ACTION, "time_end": now}
    states = {each["fw_id"]: "COMPLETED" if each["launches"] else "READY" for each in fireworks}
    writes: dict[str, list[UpdateOne]] = {
        "launches": [UpdateOne({"launch_id": number}, {"$set": ended}) for number in ids],
        "fireworks": [
            UpdateOne({"fw_id": fw_id}, {"$set": {"state": state, "updated_on": now}})
            for fw_id, state in states.items()
        ],
        "workflows": [
            UpdateOne({"_id": flow["_id"]}, {"$set": {"state": "RUNNING"}}) for flow in flows
        ],
        "offline_runs": [
            UpdateOne({"launch_id": number}, {"$set": {"completed": True}}) for number in ids
        ],
    }
    for collection, operations in writes.items():
        db[collection].bulk_write(operations, ordered=False)


# --------------------------------------------------------------------------------------------- the report


def line(what: str, theirs: Cost | None, ours: Cost) -> None:
    before = f"{theirs.ms:10.2f} {theirs.commands:9.1f}" if theirs else f"{'':20}"
    ratio = f"{theirs.ms / ours.ms:8.1f}" if theirs and ours.ms else ""
    print(f"{what:46} {before} {ours.ms:9.3f} {ours.commands:9.3f} {ratio}", flush=True)


#: One Firework completes in a workflow of a shape that so many others make.
SHAPES: dict[str, Callable[[int], Document]] = {
    "one completes that has {:,} children": fan_out,
    "one of {:,} parents completes": fan_in,
    "one of {:,} siblings completes": siblings,
}


def lines_of_one(bench: Bench, what: str, shape: Document, times: int, *, full: bool) -> None:
    bearable = len(shape["fws"]) <= BEARABLE + 1
    theirs = None
    if bearable or full:
        theirs = one_of_theirs(bench, shape, times if bearable else 1)
    line(what, theirs, one_of(bench, shape, times if bearable else min(times, 3)))
    line("  its plan alone", None, plan_of_one(bench, shape, times))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--full", action="store_true", help="FireWorks at 10,000 Fireworks, too")
    options = parser.parse_args()
    runs, few, times = (500, 20, 1) if options.quick else (2000, 100, 5)
    with tempfile.TemporaryDirectory() as scratch, Mongod(Path(scratch) / "mongod") as server:
        bench = Bench(Path(scratch), server)
        print(f"{'':46} {'FireWorks':>20} {'fwagent':>19}")
        print(f"{'':46} {'ms':>10} {'commands':>9} {'ms':>9} {'commands':>9} {'ratio':>8}")
        line("a run completes (batches of 500)", *completed_pairs(bench, runs, few, away=False))
        line("  reading its files left out", None, applied_pairs(bench, runs))
        line("  bare reads and bulk writes, for comparison", None, bare(bench, 500))
        line(
            f"  with {1000 * AWAY:.0f} ms each way to the database",
            *completed_pairs(bench, 500, 3, away=True),
        )
        line("a run goes on and tells nothing new", *unchanged_runs(bench, 500, few))
        line("a Firework is reserved (1,000 at once)", *claims_of(bench, 1000, few))
        sizes = (10, 100, 1000) if options.quick else (10, 100, 1000, 10_000)
        for what, shape in SHAPES.items():
            for size in sizes:
                lines_of_one(bench, what.format(size), shape(size), times, full=options.full)


if __name__ == "__main__":
    main()
