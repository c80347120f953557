"""A LaunchPad on a real server, emptied for every test: making its indexes takes as long as a test does."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo.database import Database

from agent.mongod import Mongod
from fwcore.launchpad import LaunchPad
from tests.support.mongod import Client


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
