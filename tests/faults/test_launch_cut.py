"""The way out is cut by SIGKILL after every database command: each Firework still runs exactly once."""

import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo.monitoring
import pytest

from agent.config import load_config
from agent.lease import is_gone
from agent.localqueue import LocalQueue
from agent.loop import make_parts
from agent.results import Result
from tests.support.forks import Forks
from tests.support.killer import Killer
from tests.support.mongod import Client

COUNT = 3


def launch(job: dict[str, Any]) -> int:
    """Launch, killed after the given command; return how many there were."""
    killer = Killer(job["at"])
    pymongo.monitoring.register(killer)
    parts = make_parts(load_config(Path(job["config"])))
    parts.way_out.launch(10, Result())
    return len(killer.commands)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks(launch) as forks:
        yield forks


@pytest.fixture
def config(tmp_path: Path, db_uri: str, db_name: str) -> Path:
    path = tmp_path / "fwagent.toml"
    path.write_text(
        f'[launchpad]\nuri = "{db_uri}"\nname = "{db_name}"\n[worker]\nname = "w"\n'
        f'[launch]\nroot = "{tmp_path / "root"}"\n[queue]\ntype = "local"\n',
        encoding="utf-8",
    )
    return path


def begin_anew(config: Path, ran: Path, client: Client, name: str) -> None:
    shutil.rmtree(config.parent / "root", ignore_errors=True)
    ran.unlink(missing_ok=True)
    for collection in client[name].list_collection_names():
        client[name][collection].delete_many({})
    parts = make_parts(load_config(config))
    parts.launchpad.initialize()
    for number in range(COUNT):
        task = {"_fw_name": "ScriptTask", "script": f"echo {number} >> {ran}"}
        parts.launchpad.add({"name": str(number), "spec": {"_tasks": [task]}})
    parts.launchpad.close()


def finish(config: Path) -> None:
    """Do what an agent does that starts after the killed one."""
    settings = load_config(config)
    parts = make_parts(settings)
    parts.launchpad.resume(is_gone)
    result = Result()
    parts.way_out.launch(10, result)
    assert result.deferred == []
    [spool] = (settings.private / "local").iterdir()
    queue = LocalQueue(spool, settings.launch.max_running)
    queue.ensure_server()
    assert queue.wait_idle(30)
    parts.way_back.recover(parts.way_back.places("w"), result)
    parts.launchpad.close()


def test_each_firework_runs_once(
    config: Path, tmp_path: Path, mongo_client: Client, db_name: str, forks: Forks
) -> None:
    ran = tmp_path / "ran.txt"
    begin_anew(config, ran, mongo_client, db_name)
    commands = forks.run({"config": str(config), "at": 0})
    assert commands > 10
    finish(config)

    for at in range(1, commands + 1):
        begin_anew(config, ran, mongo_client, db_name)
        assert forks.run({"config": str(config), "at": at}) == -signal.SIGKILL
        finish(config)
        where = f"killed after command {at} of {commands}"
        assert Counter(ran.read_text().split()) == {str(n): 1 for n in range(COUNT)}, where
        documents: Any = mongo_client[db_name]
        assert {fw["state"] for fw in documents.fireworks.find()} == {"COMPLETED"}, where
        assert documents.workflows.count_documents({"locked": {"$exists": True}}) == 0, where
        assert documents.fwagent_journal.count_documents({"void": {"$exists": False}}) == 0, where
        assert not any((config.parent / "root" / ".fwagent" / "outbox").iterdir()), where


def test_who_cannot_see_the_queue_leaves_the_claim_alone(
    config: Path, tmp_path: Path, mongo_client: Client, db_name: str, forks: Forks
) -> None:
    """An agent with another launch root cannot know which jobs of a killed one were submitted."""
    ran = tmp_path / "ran.txt"
    begin_anew(config, ran, mongo_client, db_name)
    commands = forks.run({"config": str(config), "at": 0})
    finish(config)
    begin_anew(config, ran, mongo_client, db_name)
    # The last two record the jobs and settle the claim.
    assert forks.run({"config": str(config), "at": commands - 2}) == -signal.SIGKILL

    other = tmp_path / "other.toml"
    other.write_text(config.read_text().replace(f"{tmp_path / 'root'}", f"{tmp_path / 'else'}"))
    parts = make_parts(load_config(other))
    parts.launchpad.resume(is_gone)
    assert parts.launchpad.counts() == {"RESERVED": COUNT}
    result = Result()
    parts.way_out.launch(10, result)
    assert result.claimed == []
    parts.launchpad.close()

    finish(config)
    assert Counter(ran.read_text().split()) == {str(n): 1 for n in range(COUNT)}
