"""The same READY Fireworks through FireWorks' `reserve_fw` and through `LaunchPad.claim`.

One database, and copies of it. FireWorks is told to take Fireworks of equal priority in order of age
(``SORT_FWS: FIFO``), as we do; its own default leaves that order open.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from fwcore.launchpad import LaunchPad
from fwcore.worker import Worker
from tests.interop.differences import Found, differences
from tests.support.fireworks import FireWorks
from tests.support.launchpads import TASKS, add, report, stage
from tests.support.mongod import Client

pytestmark = pytest.mark.interop

Document = dict[str, Any]

COLLECTIONS = ("fireworks", "launches", "workflows", "offline_runs", "fw_id_assigner")
EXACT = {"_dupefinder": {"_fw_name": "DupeFinderExact"}}

#: Reserves as [[worker, how many]...] says; returns what was reserved, in order.
RESERVE = """\
import fireworks.core.launchpad as module
from fireworks.core.fworker import FWorker
module.SORT_FWS = "FIFO"
lp = launchpad()
worker = FWorker(**worker)
result = []
while True:
    fw, launch_id = lp.reserve_fw(worker, "/launch")
    if fw is None:
        break
    result.append(fw.fw_id)
"""

WORKERS = [
    Worker("w1"),
    Worker("w2", category="small"),
    Worker("w1", category=("small", "large")),
    Worker("w2", category="__none__"),
    Worker("w3", query={"spec.x": {"$gte": 2}}),
    Worker("w1", query={"$or": [{"spec.x": 1}, {"name": "f3"}]}),
    Worker("w1", "large", {"$or": [{"spec.x": 1}], "$and": [{"spec.x": {"$lt": 3}}]}),
]


@pytest.fixture
def theirs(fireworks: FireWorks) -> FireWorks:
    fireworks.reset()
    return fireworks


@pytest.fixture
def ours(db_uri: str, db_name: str, mongo_client: Client) -> Iterator[LaunchPad]:
    launchpad = LaunchPad.from_uri(db_uri, f"{db_name}_ours")
    yield launchpad
    launchpad.close()
    mongo_client.drop_database(f"{db_name}_ours")


def copy(source: Database[Document], target: Database[Document]) -> None:
    for collection in COLLECTIONS:
        target[collection].delete_many({})
        documents = list(source[collection].find())
        if documents:
            target[collection].insert_many(documents)


def arguments(worker: Worker) -> Document:
    category = list(worker.category) if isinstance(worker.category, tuple) else worker.category
    return {"name": worker.name, "category": category, "query": worker.query, "env": {}}


def test_order_and_filters(theirs, ours, mongo_client, db_name, db_uri) -> None:
    dice = random.Random(7)
    choices: Mapping[str, list[Any]] = {
        "_priority": [None, 5, 5.5, 0, -1, 5, "high", True, 2**40],
        "_category": ["small", "large", "", None],
        "_fworker": ["w1", "w2", None],
        "x": [1, 2, 3],
    }
    filled = LaunchPad.from_uri(db_uri, db_name)
    for number in range(24):
        spec = {key: dice.choice(values) for key, values in choices.items() if dice.random() < 0.6}
        filled.add({"name": f"f{number}", "spec": {"_tasks": TASKS, **spec}})
    filled.close()
    database, other = mongo_client[db_name], mongo_client[f"{db_name}_ours"]
    copy(database, other)
    reserved = []
    for worker in WORKERS:
        copy(other, database)
        reserved.append(theirs.python(RESERVE, worker=arguments(worker)))
        copy(other, mongo_client[f"{db_name}_kept"])
        assert [claim.fw_id for claim in ours.claim(worker, 1000)] == reserved[-1], worker
        copy(mongo_client[f"{db_name}_kept"], other)
    mongo_client.drop_database(f"{db_name}_kept")
    assert all(reserved)
    assert len(set(map(tuple, reserved))) == len(WORKERS)


@pytest.fixture
def population(theirs: FireWorks, db_uri: str, db_name: str, tmp_path: Path) -> dict[str, int]:
    """Fireworks in every state, and READY ones that do the same: their children tell what has come of it."""
    filled = LaunchPad.from_uri(db_uri, db_name)
    found: dict[str, int] = {}

    def make(name: str, spec: Document) -> None:
        ids = add(filled, {"a": "b"}, {"a": {"_priority": 1, **spec}, "b": {"_category": "none"}})
        found[name] = ids["a"]

    for name in ("reserved", "running", "completed", "fizzled"):
        make(name, {"n": name, **EXACT})
    claims = dict(zip(found, stage(filled, *found.values()), strict=True))
    filled.apply(
        [
            report(claims["running"], "RUNNING"),
            report(claims["completed"], update_spec={"from": "the original"}, stored_data={"e": 1}),
            report(claims["fizzled"], "FIZZLED"),
        ]
    )
    for name in ("reserved", "running", "completed", "fizzled"):
        make(f"{name}, again", {"n": name, **EXACT})
        make(f"{name}, not asked for", {"n": name})
    make("alike 1", {"n": "alike", **EXACT})
    make("alike 2", {"n": "alike", **EXACT})
    make("another order", {**EXACT, "n": "completed"})
    filled.close()
    return found


#: Paths at which a reservation is dated, or named after the host of its test.
ASIDE = (".created_on", ".updated_on", ".host", ".ip", ".launch_dir", "reservedtime_secs")


def test_duplicates_share_launches(population, theirs, ours, mongo_client, db_name) -> None:
    database, other = mongo_client[db_name], mongo_client[f"{db_name}_ours"]
    copy(database, other)
    worker = Worker("w", query={"spec._category": {"$ne": "none"}})
    reserved = theirs.python(RESERVE, worker=arguments(worker))
    claims = ours.claim(worker, 1000, place=lambda _firework, _launch_id: "/launch")
    assert sorted(claim.fw_id for claim in claims) == sorted(reserved)
    found = [each for each in compared(database, other) if not each.path.endswith(ASIDE)]
    assert found == []
    states = {doc["fw_id"]: doc["state"] for doc in other.fireworks.find()}
    assert {name: states[fw_id] for name, fw_id in population.items() if "again" in name} == {
        "reserved, again": "RESERVED",
        "running, again": "RUNNING",
        "completed, again": "COMPLETED",
        "fizzled, again": "FIZZLED",
    }
    assert population["alike 1"] in reserved
    assert population["alike 2"] not in reserved
    assert other.fireworks.count_documents({"spec.from": "the original", "state": "READY"}) == 2


def compared(database: Database[Document], other: Database[Document]) -> Iterator[Found]:
    """Yield where the documents differ; a launch goes by the Firework that it was made for."""
    for collection in ("fireworks", "launches", "workflows"):
        pairs = [
            {document.get("fw_id") or document["nodes"][0]: document for document in side}
            for side in (normal(database, collection), normal(other, collection))
        ]
        assert pairs[0].keys() == pairs[1].keys()
        for name, document in pairs[0].items():
            yield from differences(
                document, pairs[1][name], collection, lambda _moment: "some time"
            )


def normal(database: Database[Document], collection: str) -> list[Document]:
    owners = {launch["launch_id"]: launch["fw_id"] for launch in database.launches.find()}
    found = list(database[collection].find({}, {"_id": 0}))
    for document in found:
        if "launches" in document:
            document["launches"] = [owners[number] for number in document["launches"]]
        if "nodes" in document:
            document["nodes"].sort()
        document.pop("launch_id", None)
    return found
