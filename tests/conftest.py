"""Fixtures for the real components. Asking for one marks a test (`mongo`, `interop`)."""

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from agent.mongod import Mongod, find_mongod
from fwcore.launchpad import LaunchPad
from tests.support import components
from tests.support.agent import Site, Store
from tests.support.fireworks import FireWorks, fireworks_venv
from tests.support.mongod import Client, connect, write_launchpad_file

_MARKS = {"mongod": "mongo", "private_mongod": "mongo", "fireworks": "interop"}


def pytest_configure() -> None:
    # `nohup make test`: what ignores a signal hands that on to whatever it starts.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # People are told the time of their host.
    os.environ["TZ"] = "UTC"
    time.tzset()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in _MARKS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(_MARKS[fixture])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skips = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    told = (skip.partition(components.MISSING) for skip in skips)
    if missing := {reason.rstrip("')") for _, found, reason in told if found}:
        terminalreporter.section("REAL COMPONENTS ARE MISSING", sep="!", red=True, bold=True)
        for reason in sorted(missing):
            terminalreporter.line(f"tests were skipped: {reason}", red=True)


@pytest.fixture(scope="session")
def mongod_binary() -> Path:
    binary = find_mongod()
    if binary is None:
        components.unavailable("no mongod on PATH, and fwagent[demo] is not installed: `make test`")
    return binary


@pytest.fixture(scope="session")
def mongod(mongod_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """The server that all tests share. One that stops or kills it wants `private_mongod`."""
    with Mongod(tmp_path_factory.mktemp("mongod"), binary=mongod_binary) as server:
        yield server


@pytest.fixture(scope="session")
def mongo_client(mongod: Mongod) -> Iterator[Client]:
    with connect(mongod) as client:
        yield client


@pytest.fixture
def private_mongod(mongod_binary: Path, tmp_path: Path) -> Iterator[Mongod]:
    """A server for this test alone, to stop, kill or pause (about a second to start)."""
    with Mongod(tmp_path / "mongod", binary=mongod_binary) as server:
        yield server


@pytest.fixture
def db_name(mongo_client: Client) -> Iterator[str]:
    """A database that nobody else uses, dropped afterwards."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    yield name
    mongo_client.drop_database(name)


@pytest.fixture
def db_uri(mongod: Mongod) -> str:
    """The URI of the server that `db_name` is on."""
    return mongod.uri


@pytest.fixture
def launchpad_file(mongod: Mongod, db_name: str, tmp_path: Path) -> Path:
    """A `my_launchpad.yaml` for `db_name`."""
    return write_launchpad_file(tmp_path / "my_launchpad.yaml", mongod, db_name)


@pytest.fixture
def fireworks(mongod: Mongod, db_name: str, tmp_path: Path) -> FireWorks:
    """Real FireWorks on `db_name`, with an empty LaunchPad."""
    if not (fireworks_venv() / "bin" / "lpad").exists():
        components.unavailable(f"no FireWorks in {fireworks_venv()}: `make test` installs it")
    fireworks = FireWorks(tmp_path / "home", mongod, db_name)
    fireworks.reset()
    return fireworks


# A LaunchPad that is emptied for every test: making its indexes takes as long as a test does.


@pytest.fixture(scope="session")
def _initialized(mongod: Mongod, mongo_client: Client) -> Iterator[str]:
    name = f"t_{uuid.uuid4().hex[:12]}"
    launchpad = LaunchPad.from_uri(mongod.uri, name)
    launchpad.initialize()
    launchpad.close()
    yield name
    mongo_client.drop_database(name)


@pytest.fixture
def lp_name(_initialized: str, mongo_client: Client) -> str:
    """The name of a database that holds an empty LaunchPad."""
    database = mongo_client[_initialized]
    for collection in database.list_collection_names():
        database[collection].delete_many({})
    database.fw_id_assigner.insert_one({"_id": -1, "next_fw_id": 1, "next_launch_id": 1})
    return _initialized


@pytest.fixture
def db(mongo_client: Client, lp_name: str) -> Database[dict[str, Any]]:
    """That database as FireWorks sees it: dates without a zone."""
    return mongo_client[lp_name]


@pytest.fixture
def lp(db_uri: str, lp_name: str) -> Iterator[LaunchPad]:
    """That LaunchPad."""
    launchpad = LaunchPad.from_uri(db_uri, lp_name)
    yield launchpad
    launchpad.close()


@pytest.fixture
def site(mongod: Mongod, lp_name: str, tmp_path: Path) -> Site:
    """A user on a login node, whose database it is."""
    return Site(tmp_path / "home", mongod, lp_name)


@pytest.fixture
def store(lp: LaunchPad, db: Database[dict[str, Any]]) -> Store:
    """The same database as tests fill it and look at it."""
    return Store(lp, db)
