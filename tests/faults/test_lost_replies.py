"""The network loses a command, or the reply to one: the same process goes on, and all is done once."""

from collections.abc import Callable, Iterator

import pytest
from pymongo.database import Database

from agent.mongod import Mongod
from fwcore.errors import DatabaseUnreachable
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Claim
from fwcore.worker import Worker
from tests.support.batches import (
    WORKFLOWS,
    Document,
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
from tests.support.mongod import Client
from tests.support.proxy import Proxy

LOSSES = {"the reply": True, "the request": False}


@pytest.fixture
def proxy(mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    # The driver asks a server that was lost again at most twice a second.
    monkeypatch.setattr("pymongo.common.MIN_HEARTBEAT_INTERVAL", 0.005)
    with Proxy(mongod) as proxy:
        yield proxy


@pytest.fixture
def staged(db_uri: str, db_name: str, mongo_client: Client) -> Staged:
    return stage_all(db_uri, db_name, mongo_client)


def until_it_answers(call: Callable[..., object], *arguments: object) -> int:
    """Make a call until the database answers; return how often it did not."""
    for failures in range(3):
        try:
            call(*arguments)
        except DatabaseUnreachable:
            continue
        return failures
    raise AssertionError("the database never answered")


def claim_into(claims: list[Claim], launchpad: LaunchPad) -> None:
    claims += launchpad.claim(Worker("w"), 10)


def commands_of(proxy: Proxy, name: str, act: Callable[[LaunchPad], object]) -> list[str]:
    launchpad = connected(proxy.uri, name)
    launchpad.check()  # connects
    proxy.lose(0)
    act(launchpad)
    commands = proxy.commands
    launchpad.close()
    return commands


@pytest.mark.parametrize("loss", LOSSES)
def test_of_every_command_of_a_batch(
    proxy: Proxy, db_name: str, mongo_client: Client, staged: Staged, loss: str
) -> None:
    told, before = staged
    commands = commands_of(proxy, db_name, lambda lp: lp.apply(told))
    expected = outcome(mongo_client, db_name)
    assert "detour-leaf" in expected
    assert {"find", "insert", "update", "delete", "findAndModify"} <= set(commands)
    failures = 0

    for at, command in enumerate(commands, 1):
        where = f"{loss} of command {at}, {command}"
        restore(mongo_client, db_name, before)
        launchpad = connected(proxy.uri, db_name)
        launchpad.check()
        proxy.lose(at, reply=LOSSES[loss])
        failures += until_it_answers(launchpad.apply, told)
        assert proxy.lost == command, where
        again = launchpad.apply(told)
        assert not again.deferred, f"{where}: {again.deferred}"
        assert outcome(mongo_client, db_name) == expected, where
        assert_nothing_is_left(mongo_client, db_name)
        launchpad.close()
        assert mongo_client[db_name].fwagent_sessions.count_documents({}) == 0, where
    # The driver repeats reads by itself, and no others.
    assert failures == len(commands) - commands.count("find")


@pytest.mark.parametrize("loss", LOSSES)
def test_of_every_command_and_the_process_gives_up(
    proxy: Proxy, db_uri: str, db_name: str, mongo_client: Client, staged: Staged, loss: str
) -> None:
    """It closes the LaunchPad and ends; the next one needs no more than the reports."""
    told, before = staged
    commands = commands_of(proxy, db_name, lambda lp: lp.apply(told))
    expected = outcome(mongo_client, db_name)
    for at, command in enumerate(commands, 1):
        if command == "find":
            continue
        where = f"{loss} of command {at}, {command}"
        restore(mongo_client, db_name, before)
        launchpad = connected(proxy.uri, db_name)
        launchpad.check()
        proxy.lose(at, reply=LOSSES[loss])
        with pytest.raises(DatabaseUnreachable):
            launchpad.apply(told)
        launchpad.close()
        assert_nothing_is_left(mongo_client, db_name)
        heir = connected(db_uri, db_name)
        assert not heir.apply(told).deferred, where
        assert outcome(mongo_client, db_name) == expected, where
        heir.close()


@pytest.mark.parametrize("loss", LOSSES)
def test_of_every_command_of_a_claim(
    proxy: Proxy, db_uri: str, db_name: str, mongo_client: Client, loss: str
) -> None:
    database: Database[Document] = mongo_client[db_name]
    add_all(db_uri, db_name).close()
    before = saved(mongo_client, db_name)
    commands = commands_of(proxy, db_name, lambda lp: lp.claim(Worker("w"), 10))
    assert {"find", "insert", "update", "delete", "findAndModify"} <= set(commands)

    for at, command in enumerate(commands, 1):
        where = f"{loss} of command {at}, {command}"
        restore(mongo_client, db_name, before)
        launchpad = LaunchPad.from_uri(proxy.uri, db_name)
        launchpad.check()
        proxy.lose(at, reply=LOSSES[loss])
        claims: list[Claim] = []
        until_it_answers(claim_into, claims, launchpad)
        assert proxy.lost == command, where
        # What it took under the lost command is its own still: nothing is RESERVED that nobody knows of.
        claims += launchpad.claim(Worker("w"), 10)
        assert len(claims) == len(WORKFLOWS), where
        assert_claimed_once(database, [claim.launch_id for claim in claims], where)
        assert_nothing_is_left(mongo_client, db_name)
        launchpad.close()


def test_of_every_command_that_makes_a_cut_claim_whole(
    proxy: Proxy, db_uri: str, db_name: str, mongo_client: Client
) -> None:
    """A second loss, while the first is being made good."""
    database: Database[Document] = mongo_client[db_name]
    add_all(db_uri, db_name).close()
    before = saved(mongo_client, db_name)
    commands = commands_of(proxy, db_name, lambda lp: lp.claim(Worker("w"), 10))
    last_insert = max(n for n, command in enumerate(commands, 1) if command == "insert")
    at = 0
    while True:
        at += 1
        restore(mongo_client, db_name, before)
        launchpad = LaunchPad.from_uri(proxy.uri, db_name)
        launchpad.check()
        proxy.lose(last_insert + 1)
        with pytest.raises(DatabaseUnreachable):
            launchpad.claim(Worker("w"), 10)
        proxy.lose(at)
        claims: list[Claim] = []
        until_it_answers(claim_into, claims, launchpad)
        where = f"the reply of command {at}, {proxy.lost}"
        claims += launchpad.claim(Worker("w"), 10)
        launchpad.close()
        assert len(claims) == len(WORKFLOWS), where
        assert_claimed_once(database, [claim.launch_id for claim in claims], where)
        assert_nothing_is_left(mongo_client, db_name)
        if proxy.lost is None:
            break
    assert at > len(commands)
