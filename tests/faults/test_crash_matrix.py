"""A batch is cut at every database command; whoever comes next makes it whole, once.

Cut by SIGKILL, or by SIGSTOP with a SIGCONT when another agent has long taken over.
"""

import json
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from bson import ObjectId
from gridfs import GridFS

from fwcore.launchpad import LaunchPad, gridfiles
from fwcore.launchpad.journal import Fenced
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
from tests.support.forks import Forks
from tests.support.killer import Killer
from tests.support.mongod import Client

#: One that was stopped after a command wakes up where one does that was stopped before the next.
MOMENTS = {signal.SIGKILL: ("before", "after"), signal.SIGSTOP: ("before",)}


@pytest.fixture
def staged(db_uri: str, db_name: str, mongo_client: Client) -> Staged:
    """Four workflows whose first Fireworks have something to tell, and the documents before it."""
    return stage_all(db_uri, db_name, mongo_client)


def cut(job: dict[str, Any]) -> int:
    """Apply reports, do a change, or claim, and have a signal at the given command of it."""
    for limit, value in job["limits"].items():
        setattr(gridfiles, limit, value)
    killer = Killer(job["at"], job["when"], job["signal"])
    launchpad = LaunchPad.from_uri(job["uri"], job["name"], event_listeners=[killer])
    launchpad._clock = lambda: NOW
    try:
        if job["call"]:
            getattr(launchpad, job["call"])(job["fw_ids"])
        elif job["reports"]:
            launchpad.apply(Report(*fields) for fields in job["reports"])
        else:
            launchpad.claim(Worker("w"), 10)
    except Fenced:
        return 3
    return 0


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks(cut) as forks:
        yield forks


@dataclass
class Victim:
    """One of them, stopped (``status`` is None) or ended."""

    forks: Forks
    pid: int
    status: int | None

    def end(self) -> int | None:
        """Return how it has ended, after it was woken up if it had stopped."""
        if self.status is None:
            self.status = self.forks.wake(self.pid)
        return self.status


@dataclass
class Strikes:
    """Forks that work on one database until they have their signal."""

    forks: Forks
    uri: str
    name: str

    def __call__(
        self,
        told: list[Report],
        at: int,
        when: str,
        number: int,
        *,
        change: tuple[str, list[int]] = ("", []),
        limits: Mapping[str, int] | None = None,
    ) -> Victim:
        """Have one apply the reports; without any it claims, or does a ``change``, a method and its Fireworks."""
        job = {"uri": self.uri, "name": self.name, "at": at, "when": when, "signal": number}
        job |= {"reports": [list(report) for report in told], "limits": limits or {}}
        job |= {"call": change[0], "fw_ids": change[1]}
        return Victim(self.forks, *self.forks.start(job))


@pytest.fixture
def strike(forks: Forks, db_uri: str, db_name: str) -> Strikes:
    return Strikes(forks, db_uri, db_name)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_cut_at_every_command(
    db_uri: str,
    db_name: str,
    mongo_client: Client,
    staged: Staged,
    strike: Strikes,
    number: signal.Signals,
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
            victim = strike(told, at, when, number)
            heir = connected(db_uri, db_name)
            heir.resume(is_gone=lambda _host, _pid: True)
            again = heir.apply(told)
            assert not again.deferred, f"{where}: {again.deferred}"
            assert outcome(mongo_client, db_name) == expected, where
            if number == signal.SIGSTOP:
                assert victim.end() in (0, 3), where
                assert outcome(mongo_client, db_name) == expected, f"{where}, after SIGCONT"
            else:
                assert victim.end() == -signal.SIGKILL, where
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
    strike: Strikes,
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
        victim = strike(told, at, "after", number, limits=LIMITS)
        heir = connected(db_uri, db_name)
        heir.resume(is_gone=lambda _host, _pid: True)
        again = heir.apply(told)
        assert not again.deferred, f"{where}: {again.deferred}"
        assert victim.end() in (0, 3, -signal.SIGKILL), where
        heir.close()
        assert outcome(mongo_client, db_name) == expected, where
        assert_one_file(where)
        assert_nothing_is_left(mongo_client, db_name)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_claim_that_is_cut_is_undone(
    db_uri: str, db_name: str, mongo_client: Client, strike: Strikes, number: signal.Signals
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
            victim = strike([], at, when, number)
            heir = connected(db_uri, db_name)
            heir.resume(is_gone=lambda _host, _pid: True)
            journal = database.fwagent_journal.count_documents({"void": {"$exists": False}})
            assert journal == 0, where
            claims = heir.claim(Worker("w"), 10)
            assert victim.end() in (0, 3, -signal.SIGKILL), where
            assert_claimed_once(database, [claim.launch_id for claim in claims], where)
            heir.close()


@pytest.mark.parametrize("call", ["rerun", "defuse"])
def test_a_change_that_is_cut_is_finished(
    db_uri: str, db_name: str, mongo_client: Client, staged: Staged, strike: Strikes, call: str
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
        victim = strike([], at, "after", signal.SIGKILL, change=(call, fw_ids))
        assert victim.end() == -signal.SIGKILL, where
        heir = connected(db_uri, db_name)
        heir.resume(is_gone=lambda _host, _pid: True)
        if outcome(mongo_client, db_name) != expected:
            assert saved(mongo_client, db_name) == before, f"{where}: part of it was done"
            getattr(heir, call)(fw_ids)
        assert outcome(mongo_client, db_name) == expected, where
        assert_nothing_is_left(mongo_client, db_name)
        heir.close()
