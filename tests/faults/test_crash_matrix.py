"""A batch is cut at every database command; whoever comes next makes it whole, once.

Cut by SIGKILL, or by SIGSTOP with a SIGCONT when another agent has long taken over.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

import pytest
from bson import ObjectId
from gridfs import GridFS

from fwcore.launchpad import gridfiles
from fwcore.worker import Worker
from fwrunner.protocol import Report
from tests.support.batches import (
    NOW,
    WORKFLOWS,
    Count,
    Staged,
    add_all,
    assert_claimed_once,
    assert_nothing_is_left,
    connected,
    outcome,
    restore,
    saved,
    stage_all,
)
from tests.support.fireworks import REPOSITORY
from tests.support.mongod import Client

# Applies reports, claims, or changes Fireworks, and strikes itself with a signal at the given command of the batch.
VICTIM = """
import json, os, signal, sys
from datetime import datetime
from pymongo.monitoring import CommandListener
from fwcore.launchpad import LaunchPad, gridfiles
from fwcore.launchpad.journal import Fenced
from fwcore.worker import Worker
from fwrunner.protocol import Report

job = json.loads(sys.argv[1])
for limit, value in job["limits"].items():
    setattr(gridfiles, limit, value)

class Killer(CommandListener):
    count = 0
    def started(self, event):
        self.count += 1
        self.strike("before")
    def succeeded(self, event):
        self.strike("after")
    def failed(self, event):
        pass
    def strike(self, when):
        if when == job["when"] and self.count == job["at"]:
            os.kill(os.getpid(), job["signal"])

now = datetime.fromisoformat(job["now"])
lp = LaunchPad.from_uri(job["uri"], job["name"], event_listeners=[Killer()])
lp._clock = lambda: now
try:
    if job["call"]:
        getattr(lp, job["call"])(job["fw_ids"])
    elif job["reports"]:
        lp.apply(Report(*fields) for fields in job["reports"])
    else:
        lp.claim(Worker("w"), 10)
except Fenced:
    sys.exit(3)
"""


#: One that was stopped after a command wakes up where one does that was stopped before the next.
MOMENTS = {signal.SIGKILL: ("before", "after"), signal.SIGSTOP: ("before",)}


@pytest.fixture
def staged(db_uri: str, db_name: str, mongo_client: Client) -> Staged:
    """Four workflows whose first Fireworks have something to tell, and the documents before it."""
    return stage_all(db_uri, db_name, mongo_client)


def strike(
    uri: str,
    name: str,
    told: list[Report],
    at: int,
    when: str,
    number: int,
    change: tuple[str, list[int]] = ("", []),
    limits: Mapping[str, int] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process that applies the reports and gets a signal at a command; wait for it to have it.

    Without reports it claims, or does a ``change``, a method of the LaunchPad and the Fireworks for it.
    """
    job = {"uri": uri, "name": name, "now": NOW.isoformat(), "at": at, "when": when}
    job |= {"signal": number, "reports": [list(report) for report in told], "limits": limits or {}}
    job |= {"call": change[0], "fw_ids": change[1]}
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, json.dumps(job)], cwd=REPOSITORY)
    # A stopped child is reported by WUNTRACED, a killed one left for `wait`.
    os.waitid(os.P_PID, victim.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return victim


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_cut_at_every_command(
    db_uri: str, db_name: str, mongo_client: Client, staged: Staged, number: signal.Signals
) -> None:
    told, before = staged
    count = Count()
    uninterrupted = connected(db_uri, db_name, count)
    result = uninterrupted.apply(told)
    assert len(result.applied) == len(WORKFLOWS), result
    expected = outcome(mongo_client, db_name)
    assert "detour-leaf" in expected
    commands = list(count.commands)
    uninterrupted.close()

    for at in range(1, len(commands) + 1):
        for when in MOMENTS[number]:
            where = f"{number.name} {when} command {at}, {commands[at - 1]}"
            restore(mongo_client, db_name, before)
            victim = strike(db_uri, db_name, told, at, when, number)
            heir = connected(db_uri, db_name)
            heir.resume(is_gone=lambda _host, _pid: True)
            again = heir.apply(told)
            assert not again.deferred, f"{where}: {again.deferred}"
            assert outcome(mongo_client, db_name) == expected, where
            if number == signal.SIGSTOP:
                victim.send_signal(signal.SIGCONT)
                assert victim.wait(timeout=60) in (0, 3), where
                assert outcome(mongo_client, db_name) == expected, f"{where}, after SIGCONT"
            else:
                assert victim.wait(timeout=60) == -signal.SIGKILL, where
            assert_nothing_is_left(mongo_client, db_name)
            heir.close()


# A document has 3000 bytes, a chunk 1000, and two of them are sent at once.
LIMITS = {"LARGEST": 3000, "_CHUNK": 1000, "_AT_ONCE": 2}
GRIDFS = ("fw_gridfs.files", "fw_gridfs.chunks")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_large_result_that_is_cut(
    db_uri: str,
    db_name: str,
    mongo_client: Client,
    staged: Staged,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An action on its way into GridFS: one file, whole, named by its launch, whatever happens."""
    for name, value in LIMITS.items():
        monkeypatch.setattr(gridfiles, name, value)
    database = mongo_client[db_name]
    told, before = staged
    large = {**(told[0].fwaction or {}), "stored_data": {"x": "y" * 5000}}
    told = [told[0]._replace(state="COMPLETED", fwaction=large)]

    def assert_one_file(where: str) -> None:
        [file] = database["fw_gridfs.files"].find()
        assert file["metadata"] == {"launch_id": told[0].launch_id}, where
        assert database["fw_gridfs.chunks"].distinct("files_id") == [file["_id"]], where
        launch = database.launches.find_one({"launch_id": told[0].launch_id}) or {}
        reference = ObjectId(launch["action"]["gridfs_id"])
        action = json.loads(GridFS(database, "fw_gridfs").get(reference).read())
        assert action["stored_data"] == large["stored_data"], where

    count = Count()
    uninterrupted = connected(db_uri, db_name, count)
    assert len(uninterrupted.apply(told).applied) == 1
    expected = outcome(mongo_client, db_name)
    commands = list(count.commands)
    uninterrupted.close()
    assert commands.count("update fw_gridfs.chunks") > 2

    for at, command in enumerate(commands, 1):
        # Cut before a command is cut after the one before, and a look changes nothing.
        if command.startswith("find"):
            continue
        # The other tests stop everywhere; here, where a large result makes a difference.
        if number == signal.SIGSTOP and not command.endswith(("chunks", "_journal", "launches")):
            continue
        where = f"{number.name} after command {at}, {command}"
        restore(mongo_client, db_name, before)
        for collection in GRIDFS:
            database[collection].delete_many({})
        victim = strike(db_uri, db_name, told, at, "after", number, limits=LIMITS)
        heir = connected(db_uri, db_name)
        heir.resume(is_gone=lambda _host, _pid: True)
        again = heir.apply(told)
        assert not again.deferred, f"{where}: {again.deferred}"
        if number == signal.SIGSTOP:
            victim.send_signal(signal.SIGCONT)
        assert victim.wait(timeout=60) in (0, 3, -signal.SIGKILL), where
        heir.close()
        assert outcome(mongo_client, db_name) == expected, where
        assert_one_file(where)
        assert_nothing_is_left(mongo_client, db_name)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_claim_that_is_cut_is_undone(
    db_uri: str, db_name: str, mongo_client: Client, number: signal.Signals
) -> None:
    database = mongo_client[db_name]
    add_all(db_uri, db_name).close()
    before = saved(mongo_client, db_name)
    count = Count()
    uninterrupted = connected(db_uri, db_name, count)
    assert len(uninterrupted.claim(Worker("w"), 10)) == len(WORKFLOWS)
    commands = list(count.commands)
    uninterrupted.close()

    for at in range(1, len(commands) + 1):
        for when in MOMENTS[number]:
            where = f"{number.name} {when} command {at}, {commands[at - 1]}"
            restore(mongo_client, db_name, before)
            victim = strike(db_uri, db_name, [], at, when, number)
            heir = connected(db_uri, db_name)
            heir.resume(is_gone=lambda _host, _pid: True)
            journal = database.fwagent_journal.count_documents({"void": {"$exists": False}})
            assert journal == 0, where
            claims = heir.claim(Worker("w"), 10)
            if number == signal.SIGSTOP:
                victim.send_signal(signal.SIGCONT)
            assert victim.wait(timeout=60) in (0, 3, -signal.SIGKILL), where
            assert_claimed_once(database, [claim.launch_id for claim in claims], where)
            heir.close()


@pytest.mark.parametrize("call", ["rerun", "defuse"])
def test_a_change_that_is_cut_is_finished(
    db_uri: str, db_name: str, mongo_client: Client, staged: Staged, call: str
) -> None:
    """Two have ended, with children that go back; one has a job in the queue whose run is to be retired."""
    told, _ = staged
    setting_up = connected(db_uri, db_name)
    setting_up.apply(told[:2])
    setting_up.claim(Worker("w"), 1)
    setting_up.close()
    before = saved(mongo_client, db_name)
    count = Count()
    uninterrupted = connected(db_uri, db_name, count)
    fw_ids = [report.fw_id for report in told if report.fw_id]
    result = getattr(uninterrupted, call)(fw_ids)
    assert len(result.changed) > len(fw_ids) == len(WORKFLOWS), result
    expected = outcome(mongo_client, db_name)
    assert mongo_client[db_name].offline_runs.count_documents({"deprecated": True}) == 2
    commands = list(count.commands)
    uninterrupted.close()

    # Nothing happens between the reply to a command and the next one, so one cut stands for both.
    for at in range(1, len(commands) + 1):
        where = f"{call} cut after command {at}, {commands[at - 1]}"
        restore(mongo_client, db_name, before)
        victim = strike(db_uri, db_name, [], at, "after", signal.SIGKILL, (call, fw_ids))
        assert victim.wait(timeout=60) == -signal.SIGKILL, where
        heir = connected(db_uri, db_name)
        heir.resume(is_gone=lambda _host, _pid: True)
        if outcome(mongo_client, db_name) != expected:
            assert saved(mongo_client, db_name) == before, f"{where}: part of it was done"
            getattr(heir, call)(fw_ids)
        assert outcome(mongo_client, db_name) == expected, where
        assert_nothing_is_left(mongo_client, db_name)
        heir.close()
