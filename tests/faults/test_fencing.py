"""An agent that is stopped at any database command, past its lease, and wakes up writes nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from fwcore.launchpad import LaunchPad
from fwcore.launchpad.journal import Fenced
from fwcore.worker import Worker
from fwrunner.protocol import Report
from tests.support.agent import wait_until
from tests.support.batches import Document, assert_nothing_is_left, restore, saved, stage_all
from tests.support.forks import Forks
from tests.support.killer import Killer
from tests.support.mongod import Client

LEASE_SECONDS = 0.5
#: Victims at a time, each on a database of its own: most of the test is waiting for leases to end.
AT_ONCE = 6
#: The exit status of one that was fenced.
FENCED = 3


def work(job: dict[str, Any]) -> int:
    """Do everything an agent does, and stop before the given command."""
    stopper = Killer(0, "before", signal.SIGSTOP)
    launchpad = LaunchPad.from_uri(job["uri"], job["name"], event_listeners=[stopper])
    lease = launchpad.acquire_lease("w", "victim", job["seconds"])
    launchpad.serve(lease, job["seconds"])
    stopper.commands.clear()
    stopper.at = job["at"]
    try:
        launchpad.resume()
        launchpad.apply(Report(*fields) for fields in job["reports"])
        launchpad.apply(Report(*fields) for fields in job["pings"])
        launchpad.forget_registered([fields[0] for fields in job["reports"]])
        claims = launchpad.claim(Worker("w"), 3, hold=True)
        launchpad.keep_alive()
        launchpad.open_runs(claims)
        launchpad.record_jobs({claim.launch_id: "job" for claim in claims})
        launchpad.settle()
        launchpad.release_lease(lease)
    except Fenced:
        return FENCED
    Path(job["commands"]).write_text(json.dumps(stopper.commands))
    return 0


@pytest.fixture
def victims() -> Iterator[Forks]:
    with Forks(work) as forks:
        yield forks


@pytest.fixture
def names(db_name: str, mongo_client: Client) -> Iterator[list[str]]:
    names = [f"{db_name}_{number}" for number in range(AT_ONCE)]
    yield names
    for name in names:
        mongo_client.drop_database(name)


def everything(database: Database[Document]) -> dict[str, list[Document]]:
    return {
        name: sorted(database[name].find(), key=lambda doc: str(doc["_id"]))
        for name in sorted(database.list_collection_names())
    }


def heir_of(stack: ExitStack, uri: str, name: str) -> LaunchPad:
    """Wait until the lease of a stopped victim is over, and take it."""
    heir = LaunchPad.from_uri(uri, name)
    stack.callback(heir.close)
    heir.submitted = lambda _host, _launch_ids: {}
    wait_until(lambda: heir.acquire_lease("w", "heir", 60).owner == "heir")
    found = heir.lease("w")
    assert found is not None
    heir.serve(found[0], 60)
    return heir


def test_stopped_at_every_command_past_its_lease(
    db_uri: str, db_name: str, names: list[str], mongo_client: Client, victims: Forks, tmp_path
) -> None:
    told, _ = stage_all(db_uri, db_name, mongo_client)
    running = next(report for report in told if report.state == "RUNNING")
    lp = LaunchPad.from_uri(db_uri, db_name)
    lp.apply([running])
    lp.register("w", told[0].launch_id, "/somewhere")
    for _ in range(3):
        lp.add({"name": "free", "spec": {"_tasks": []}})
    lp.close()
    before = saved(mongo_client, db_name)
    before["fwagent_dirs"] = list(mongo_client[db_name].fwagent_dirs.find())
    pings = [running._replace(ping_time="2026-11-23T11:40:00+00:00")]
    told = [report for report in told if report is not running]
    job = {
        "uri": db_uri,
        "reports": [list(report) for report in told],
        "pings": [list(report) for report in pings],
        "commands": str(tmp_path / "commands.json"),
    }

    def reset(name: str) -> None:
        restore(mongo_client, name, before)
        mongo_client[name].fwagent_leases.delete_many({})
        mongo_client[name].fwagent_dirs.delete_many({})
        mongo_client[name].fwagent_dirs.insert_many(before["fwagent_dirs"])

    reset(names[0])
    assert victims.run({**job, "name": names[0], "at": 0, "seconds": 60}) == 0
    commands = json.loads((tmp_path / "commands.json").read_text())
    for wanted in ("update workflows", "insert fwagent_journal", "update launches", "delete"):
        assert any(command.startswith(wanted) for command in commands), commands
    assert len(commands) > 35

    places = list(range(1, len(commands) + 1))
    while places:
        chunk, places = places[:AT_ONCE], places[AT_ONCE:]
        stopped: list[tuple[int, int, str]] = []
        for name, at in zip(names, chunk, strict=False):
            reset(name)
            pid, status = victims.start({**job, "name": name, "at": at, "seconds": LEASE_SECONDS})
            if status == FENCED and not stopped and at > 1:
                places.append(at)  # this machine was so slow that the lease ended before its time
                continue
            assert status is None, f"victim {at} ended with {status}"
            stopped.append((at, pid, name))
        with ExitStack() as stack:
            for at, pid, name in stopped:
                where = f"before command {at}, {commands[at - 1]}"
                database = mongo_client[name]
                heir = heir_of(stack, db_uri, name)
                seen = everything(database)
                status = victims.wake(pid)
                # The last two settle the claim and give the lease back: nobody is left to be told.
                assert status == FENCED or (status == 0 and at > len(commands) - 2), (
                    f"{where}: {status}"
                )
                assert everything(database) == seen, where

                # ... and the heir finds all of it as it should be.
                heir.resume()
                heir.apply([*told, *pings])
                assert len(heir.apply(told).known) == len(told), where
                heir.claim(Worker("w"), 100)
                assert_nothing_is_left(mongo_client, name)
                check(database, where)


def check(database: Database[Document], where: str) -> None:
    fireworks = {firework["fw_id"]: firework for firework in database.fireworks.find()}
    names = [firework["name"] for firework in fireworks.values() if firework["name"] != "free"]
    assert len(names) == len(set(names)), f"added twice, {where}"
    assert "READY" not in {firework["state"] for firework in fireworks.values()}, where
    for firework in fireworks.values():
        active = database.launches.count_documents(
            {"launch_id": {"$in": firework["launches"]}, "state": firework["state"]}
        )
        assert active == (firework["state"] not in ("WAITING", "READY")), where
    for workflow in database.workflows.find():
        states = {str(node): fireworks[node]["state"] for node in workflow["nodes"]}
        assert workflow["fw_states"] == states, where
    log = next(fw["spec"]["log"] for fw in fireworks.values() if fw["name"] == "pushes-b")
    assert log == ["old", "new"], where
    assert database.offline_runs.count_documents({"completed": True}) == 3, where
