"""The throwaway server: it keeps its data over a crash, and never outlives its parent."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from pymongo.errors import ServerSelectionTimeoutError

from agent.mongod import Mongod
from tests.support.mongod import connect, initiate_replica_set

_START_AND_WAIT = """\
import sys
from pathlib import Path
from agent.mongod import Mongod
server = Mongod(Path(sys.argv[1]), binary=Path(sys.argv[2]))
server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", [Mongod.stop, Mongod.kill])
def test_data_and_port_outlive_the_process(private_mongod: Mongod, end) -> None:
    with connect(private_mongod) as client:
        client.kept.things.insert_one({"_id": 1})
        client.admin.command("fsync")
    before = private_mongod.uri, private_mongod.pid

    end(private_mongod)
    assert private_mongod.pid is None
    private_mongod.start()

    assert private_mongod.uri == before[0]
    assert private_mongod.pid != before[1]
    with connect(private_mongod) as client:
        assert client.kept.things.count_documents({}) == 1


def test_a_paused_server_takes_connections_and_answers_nothing(private_mongod: Mongod) -> None:
    with connect(private_mongod) as client:
        client.admin.command("ping")
    with private_mongod.paused():
        client = type(client)(private_mongod.uri, serverSelectionTimeoutMS=300)
        with client, pytest.raises(ServerSelectionTimeoutError, match="No servers found"):
            client.admin.command("ping")
    with connect(private_mongod) as client:
        client.admin.command("ping")


def test_a_paused_server_can_be_stopped(private_mongod: Mongod) -> None:
    private_mongod.pause()
    private_mongod.stop()
    assert '"exitCode":0' in private_mongod.log.read_text()


def test_it_dies_with_its_parent(mongod_binary: Path, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _START_AND_WAIT, str(tmp_path), str(mongod_binary)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        server = os.pidfd_open(pid)
        parent.kill()
    ended, _, _ = select.select([server], [], [], 10)
    os.close(server)
    assert ended


def test_a_replica_set_of_one(mongod_binary: Path, tmp_path: Path) -> None:
    with Mongod(tmp_path, binary=mongod_binary, replset="rs0") as server:
        assert initiate_replica_set(server).endswith("replicaSet=rs0")
        with connect(server) as client, client.start_session() as session:
            with session.start_transaction():
                client.some.things.insert_one({"_id": 1}, session=session)
            assert client.some.things.count_documents({}) == 1
