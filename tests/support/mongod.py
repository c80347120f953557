"""What the tests add to `agent.mongod`: files that point to a server, and replica sets."""

import time
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure

from agent.mongod import Mongod, MongodError

Client = MongoClient[dict[str, Any]]

_ALREADY_INITIALIZED = 23


def connect(server: Mongod) -> Client:
    """A client of exactly this server, with tz-naive dates as FireWorks has them. Close it."""
    return MongoClient(server.uri, serverSelectionTimeoutMS=10_000)


def initiate_replica_set(server: Mongod, timeout: float = 30.0) -> str:
    """Make a server that was started with `replset` primary; returns a URI that discovers the set."""
    config = {"_id": server.replset, "members": [{"_id": 0, "host": server.address}]}
    deadline = time.monotonic() + timeout
    with connect(server) as client:
        try:
            client.admin.command("replSetInitiate", config)
        except OperationFailure as error:
            if error.code != _ALREADY_INITIALIZED:
                raise
        while not client.admin.command("hello")["isWritablePrimary"]:
            if time.monotonic() > deadline:
                raise MongodError(f"{server.address} did not become primary of {server.replset}")
            time.sleep(0.05)
    return f"mongodb://{server.address}/?replicaSet={server.replset}"


def write_launchpad_file(path: Path, server: Mongod, name: str) -> Path:
    """A `my_launchpad.yaml` as `lpad init` writes it, for the database `name`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"authsource: null\nhost: 127.0.0.1\nlogdir: null\nmongoclient_kwargs: {{}}\nname: {name}\n"
        f"password: null\nport: {server.port}\nstrm_lvl: INFO\nuser_indices: []\nusername: null\n"
        "wf_user_indices: []\n",
        encoding="utf-8",
    )
    path.chmod(0o600)
    return path
