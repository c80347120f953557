"""A batch is cut, and a person unlocks and refreshes its workflows before anybody makes it whole.

A cut is the death of everything that the session would still have done: from one command on, none is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from fwcore.launchpad import LaunchPad
from fwcore.world import Write
from tests.support.batches import (
    NOW,
    WORKFLOWS,
    Document,
    Staged,
    assert_nothing_is_left,
    connected,
    restore,
    saved,
    stage_all,
)
from tests.support.fireworks import FireWorks
from tests.support.fireworks_session import FireWorksSession
from tests.support.mongod import Client

# What `lpad admin unlock` and `lpad admin refresh` do, which looks at the roots of workflows.
REFRESH = """
from fireworks import LaunchPad
lp = LaunchPad.auto_load()
lp.m_logger.setLevel("ERROR")
lp.workflows.update_many({}, {"$unset": {"locked": True}})
for fw_id in fw_ids:
    lp._refresh_wf(fw_id)
"""
# As when other jobs of the same workflows end; twice, for a child may come before its parent.
REFRESH_ALL = """
from fireworks import LaunchPad
fw_ids = [fw_id for workflow in LaunchPad.auto_load().workflows.find() for fw_id in workflow["nodes"] * 2]
"""


class Death(BaseException):
    """Not an Exception: those the driver keeps from whoever has sent the command."""


class Reaper(CommandListener):
    """Ends a session before its ``at``-th command, and again whenever it tries another one."""

    def __init__(self, at: int | None = None) -> None:
        self.commands: list[str] = []
        self._at = at

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "endSessions":  # the driver cleans up
            return
        self.commands.append(f"{event.command_name} {event.command.get(event.command_name)}")
        if self._at is not None and len(self.commands) >= self._at:
            raise Death

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


@pytest.fixture
def staged(fireworks: FireWorks, db_uri: str, db_name: str, mongo_client: Client) -> Staged:
    """Four workflows whose first Fireworks have something to tell, and the documents before it."""
    return stage_all(db_uri, db_name, mongo_client)


@pytest.fixture
def person(fireworks: FireWorks, staged: Staged) -> Iterator[FireWorksSession]:
    with FireWorksSession(fireworks) as session:
        yield session


def result(client: Client, name: str) -> dict[str, Any]:
    """Return what counts of all documents, with names for numbers and without dates."""
    database = client[name]
    names = {doc["fw_id"]: doc["name"] for doc in database.fireworks.find()}
    assert len(set(names.values())) == len(names), "a Firework was added twice"
    flows: list[Document] = list(database.workflows.find())
    assert sorted(node for flow in flows for node in flow["nodes"]) == sorted(names), "no place"
    found: dict[str, Any] = {}
    for doc in database.fireworks.find():
        spec = doc["spec"]
        if "_fizzled_parents" in spec:
            spec["_fizzled_parents"] = [parent["name"] for parent in spec["_fizzled_parents"]]
        found[doc["name"]] = doc["state"], spec, len(doc["launches"]), doc["archived_launches"]
    for flow in flows:
        found[f"workflow {flow['name']}"] = (
            flow["state"],
            {names[int(node)]: state for node, state in flow["fw_states"].items()},
            *(
                {
                    names[int(node)]: sorted(names[other] for other in others)
                    for node, others in flow[key].items()
                    if others
                }
                for key in ("links", "parent_links")
            ),
        )
    for launch in database.launches.find():
        found[f"launch {launch['launch_id']}"] = launch["state"], launch["action"]
    for run in database.offline_runs.find():
        found[f"run {run['launch_id']}"] = run["completed"], run["deprecated"]
    return found


def one_by_one(launchpad: LaunchPad) -> LaunchPad:
    """Have each write be a command, as a large batch, or a server that dies, may cut it anywhere."""
    write: Callable[[str, list[Write], str], int] = launchpad._write

    def apart(collection: str, writes: list[Write], token: str) -> int:
        return sum(write(collection, [each], token) for each in writes)

    launchpad._write = apart  # type: ignore[method-assign]
    return launchpad


def cut(uri: str, name: str, at: int, work: Callable[[LaunchPad], object]) -> None:
    launchpad = one_by_one(connected(uri, name, Reaper(at)))
    with pytest.raises(Death):
        work(launchpad)
    launchpad._db.client.close()


def heir(uri: str, name: str) -> LaunchPad:
    launchpad = connected(uri, name)
    launchpad.resume(is_gone=lambda _host, _pid: True)
    return launchpad


@pytest.mark.parametrize("then", [REFRESH, REFRESH_ALL + REFRESH], ids=["roots", "all"])
def test_a_person_unlocks_and_refreshes_what_was_cut(
    db_uri: str,
    db_name: str,
    mongo_client: Client,
    staged: Staged,
    person: FireWorksSession,
    then: str,
) -> None:
    told, before = staged
    fw_ids = [report.fw_id for report in told]
    restore(mongo_client, db_name, before)
    reaper = Reaper()
    uncut = one_by_one(connected(db_uri, db_name, reaper))
    assert len(uncut.apply(told).applied) == len(WORKFLOWS)
    expected = result(mongo_client, db_name)
    assert expected["grows-b"][0] == "WAITING"
    assert expected["pushes-b"][1]["log"] == ["old", "new"]
    commands = list(reaper.commands)
    uncut.close()

    first = commands.index("insert fwagent_journal")
    assert commands[first:].count("update fireworks") > len(WORKFLOWS)
    for at in range(first + 1, len(commands) + 1):
        where = f"cut before command {at}, {commands[at - 1]}"
        restore(mongo_client, db_name, before)
        cut(db_uri, db_name, at, lambda launchpad: launchpad.apply(told))
        person.python(then, fw_ids=fw_ids)
        launchpad = heir(db_uri, db_name)
        again = launchpad.apply(told)
        assert not again.deferred, f"{where}: {again.deferred}"
        assert result(mongo_client, db_name) == expected, where
        assert_nothing_is_left(mongo_client, db_name)
        launchpad.close()


def test_who_makes_it_whole_is_cut_as_well(
    db_uri: str, db_name: str, mongo_client: Client, staged: Staged, person: FireWorksSession
) -> None:
    told, before = staged
    uncut = connected(db_uri, db_name)
    uncut.apply(told)
    expected = result(mongo_client, db_name)
    uncut.close()

    reaper = Reaper()
    uncut = one_by_one(connected(db_uri, db_name, reaper))
    restore(mongo_client, db_name, before)
    uncut.apply(told)
    last = len(reaper.commands) - reaper.commands[::-1].index("update workflows")
    uncut.close()

    restore(mongo_client, db_name, before)
    cut(db_uri, db_name, last, lambda launchpad: launchpad.apply(told))
    person.python(REFRESH, fw_ids=[report.fw_id for report in told])
    halfway = saved(mongo_client, db_name, "fwagent_journal", "fwagent_sessions")
    commands = 0
    while True:
        commands += 1
        where = f"cut before command {commands}"
        restore(mongo_client, db_name, halfway)
        second = connected(db_uri, db_name, Reaper(commands))
        try:
            second.resume(is_gone=lambda _host, _pid: True)
        except Death:
            ended = False
        else:
            ended = True
        second._db.client.close()
        launchpad = heir(db_uri, db_name)
        launchpad.apply(told)
        assert result(mongo_client, db_name) == expected, where
        assert_nothing_is_left(mongo_client, db_name)
        launchpad.close()
        if ended:
            break
    assert commands > 20


@pytest.mark.parametrize("call", ["rerun", "defuse"])
def test_a_change_that_was_cut_is_done_or_can_be_done(
    db_uri: str,
    db_name: str,
    mongo_client: Client,
    staged: Staged,
    person: FireWorksSession,
    call: str,
) -> None:
    told, _ = staged
    setting_up = connected(db_uri, db_name)
    setting_up._clock = lambda: NOW - timedelta(hours=1)
    setting_up.apply(told[:2])
    setting_up.close()
    before = saved(mongo_client, db_name)
    fw_ids = [report.fw_id for report in told if report.fw_id]
    reaper = Reaper()
    uncut = one_by_one(connected(db_uri, db_name, reaper))
    getattr(uncut, call)(fw_ids)
    expected = result(mongo_client, db_name)
    commands = list(reaper.commands)
    uncut.close()

    for at in range(commands.index("insert fwagent_journal") + 1, len(commands) + 1):
        where = f"{call} cut before command {at}, {commands[at - 1]}"
        restore(mongo_client, db_name, before)
        cut(db_uri, db_name, at, lambda launchpad: getattr(launchpad, call)(fw_ids))
        person.python(REFRESH, fw_ids=fw_ids)
        launchpad = heir(db_uri, db_name)
        if result(mongo_client, db_name) != expected:
            getattr(launchpad, call)(fw_ids)
        assert result(mongo_client, db_name) == expected, where
        assert_nothing_is_left(mongo_client, db_name)
        launchpad.close()


def test_with_the_commands_of_fireworks(
    db_uri: str, db_name: str, mongo_client: Client, staged: Staged, fireworks: FireWorks
) -> None:
    told, before = staged
    restore(mongo_client, db_name, before)
    uncut = connected(db_uri, db_name)
    uncut.apply(told)
    expected = result(mongo_client, db_name)
    uncut.close()

    restore(mongo_client, db_name, before)
    dying = connected(db_uri, db_name)
    write = dying._write

    def end(collection: str, writes: list[Write], token: str) -> int:
        if collection != "workflows":
            return write(collection, writes, token)
        dying._db.client.close()
        raise Death

    dying._write = end  # type: ignore[method-assign]
    with pytest.raises(Death):
        dying.apply(told)
    assert mongo_client[db_name].workflows.count_documents({"locked": {"$exists": True}}) == 4
    numbers = ",".join(str(report.fw_id) for report in told)
    for command in ("unlock", "refresh"):
        fireworks.lpad("admin", command, "-i", numbers)
    launchpad = heir(db_uri, db_name)
    launchpad.apply(told)
    assert result(mongo_client, db_name) == expected
    launchpad.close()
