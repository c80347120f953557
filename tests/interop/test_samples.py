"""Recorded runs of real FireWorks: the same files, applied by us, lead to the recorded database."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from pymongo.database import Database

from fwcore.documents import iso, parse_time
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Applied
from fwrunner.protocol import NotYet, Report, read_report
from tests.interop.differences import Found, differences, explanation
from tests.support.mongod import Client

Document = dict[str, Any]
SAMPLES = Path(__file__).parents[1] / "data" / "fireworks-2.1.4"
NAMES = sorted(path.name for path in SAMPLES.iterdir())
NOT_STARTED = {"chain-pending"}
COLLECTIONS = ("fireworks", "launches", "workflows", "offline_runs")
LONG_AFTER = datetime(2026, 12, 24, tzinfo=timezone.utc)


def load(name: str, moment: str) -> dict[str, list[Document]]:
    text = (SAMPLES / name / f"{moment}.json").read_text(encoding="utf-8")
    found: dict[str, list[Document]] = json_util.loads(text)
    return found


def naive(value: Any) -> Any:
    """Return a value with dates as FireWorks reads them."""
    if isinstance(value, dict):
        return {key: naive(item) for key, item in value.items()}
    if isinstance(value, list):
        return [naive(item) for item in value]
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


def before(name: str) -> dict[str, list[Document]]:
    """Return the database of a sample before its recovery, whole."""
    found = load(name, "before")
    if "launches" not in found:
        found["launches"] = [reserved(launch) for launch in load(name, "after")["launches"]]
    if "offline_runs" not in found:
        times = dict.fromkeys(("created_on", "updated_on"), found["fireworks"][0]["updated_on"])
        found["offline_runs"] = [
            {
                "_id": launch["launch_id"],
                "fw_id": launch["fw_id"],
                "launch_id": launch["launch_id"],
                "name": "",
                "deprecated": False,
                "completed": False,
                **times,
            }
            for launch in found["launches"]
        ]
    return found


def reserved(launch: Document) -> Document:
    """Return a launch as it was when it waited in the queue."""
    entry = {
        key: iso(value) if isinstance(value, datetime) else value
        for key, value in launch["state_history"][0].items()
    }
    times = dict.fromkeys(("time_start", "time_end", "runtime_secs"))
    return {**launch, "state": "RESERVED", "action": None, "state_history": [entry], **times}


def numbered(collection: str, documents: Iterable[Document]) -> dict[Any, Document]:
    """Return documents by their numbers; a Firework that an action has added has an `_id` of its own."""
    key = {"fireworks": "fw_id", "launches": "launch_id"}.get(collection, "_id")
    return {
        document[key]: {name: value for name, value in document.items() if name != "_id"}
        for document in documents
    }


class Replay:
    """One sample in a database of its own."""

    def __init__(self, name: str, database: Database[Document], directory: Path) -> None:
        self.name = name
        self.database = database
        self.before = before(name)
        for collection, documents in self.before.items():
            database[collection].insert_many(copy.deepcopy(documents))
        last = max(firework["fw_id"] for firework in self.before["fireworks"])
        counters = {"_id": -1, "next_fw_id": last + 1, "next_launch_id": 100}
        database["fw_id_assigner"].replace_one({"_id": -1}, counters, upsert=True)
        self.launchpad = LaunchPad(database, clock=lambda: LONG_AFTER)
        for file in (SAMPLES / name).glob("FW_*.json"):
            shutil.copy(file, directory)
        self.report = read_report(str(directory))

    def apply(self) -> Applied:
        assert isinstance(self.report, Report)
        return self.launchpad.apply([self.report])

    def recovered(self) -> datetime:
        """Return a moment after all that was before the recovery and before all that it wrote."""
        report = self.report
        times = [run["updated_on"] for run in self.before["offline_runs"]]
        if isinstance(report, Report):
            times += [report.started_on, report.completed_on, report.ping_time]
        known = [moment for moment in map(parse_time, times) if moment is not None]
        return max(known) + timedelta(milliseconds=1)

    def differences(self) -> Iterator[Found]:
        """Yield where the database now differs from the recorded one."""
        since = self.recovered()

        def label(moment: datetime) -> str | None:
            return "now" if moment >= since else None

        after = load(self.name, "after")
        for collection in COLLECTIONS:
            theirs = numbered(collection, after.get(collection, []))
            ours = numbered(collection, self.database[collection].find())
            if collection in after:
                assert theirs.keys() == ours.keys()
            for key, document in theirs.items():
                yield from differences(naive(document), naive(ours[key]), collection, label)


@pytest.fixture
def replay(
    mongo_client: Client, db_name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Replay:
    database = mongo_client[db_name].with_options(
        mongo_client.codec_options.with_options(tz_aware=True, tzinfo=timezone.utc)
    )
    return Replay(request.param, database, tmp_path)


@pytest.mark.parametrize(
    "replay", [name for name in NAMES if name not in NOT_STARTED], indirect=True
)
def test_a_recorded_run_leads_to_the_recorded_database(replay: Replay) -> None:
    result = replay.apply()
    assert len(result.applied) == 1
    assert not result.deferred
    assert not result.ignored
    unexplained = [
        found
        for found in replay.differences()
        if explanation(found, f"sample {replay.name}") is None
    ]
    assert unexplained == []


@pytest.mark.parametrize("replay", sorted(NOT_STARTED), indirect=True)
def test_a_run_that_waits_in_the_queue_has_nothing_to_tell(replay: Replay) -> None:
    assert isinstance(replay.report, NotYet)


def test_the_samples_are_all_there() -> None:
    assert set(NAMES) > NOT_STARTED
    assert len(NAMES) == 19
    assert all((SAMPLES / name / "FW_offline.json").exists() for name in NAMES)
