"""A LaunchPad on a database of its own, and a view of what is stored there."""

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo.database import Database

from fwcore.launchpad import LaunchPad
from tests.support.mongod import Client


@pytest.fixture
def db(mongo_client: Client, db_name: str) -> Database[dict[str, Any]]:
    """The database as FireWorks sees it: dates without a zone."""
    return mongo_client[db_name]


@pytest.fixture
def lp(db_uri: str, db_name: str) -> Iterator[LaunchPad]:
    """An empty LaunchPad."""
    launchpad = LaunchPad.from_uri(db_uri, db_name)
    launchpad.initialize()
    yield launchpad
    launchpad.close()
