"""What tracked files hold, on its way into launches: with what else is told, and at no cost otherwise."""

from typing import Any

import pytest

from fwcore.launchpad import LaunchPad
from tests.support.launchpads import Wire, add, report, stage

TRACKED = {"_trackers": [{"filename": "log", "nlines": 2}]}


class Files:
    """What the tracked files of launches hold; counts how often it is asked."""

    def __init__(self) -> None:
        self.text = "1\n2\n3\n"
        self.asked: list[int] = []

    def __call__(self, launch: Any) -> dict[str, str]:
        self.asked.append(launch["launch_id"])
        return {"log": self.text}


@pytest.fixture
def files() -> Files:
    return Files()


def content(db: Any, launch_id: int) -> str | None:
    [tracker] = db.launches.find_one({"launch_id": launch_id})["trackers"]
    return tracker.get("content")  # type: ignore[no-any-return]


@pytest.mark.parametrize("state", ["COMPLETED", "FIZZLED"])
def test_contents_from_the_start_to_the_end(lp, db, files, state) -> None:
    [claim] = stage(lp, add(lp, {"a": ""}, {"a": TRACKED})["a"])
    told = report(claim, "RUNNING")
    lp.apply([told], track=files)
    assert content(db, claim.launch_id) == "2\n3"
    files.text = "4\n"
    assert len(lp.apply([told], track=files).known) == 1
    assert content(db, claim.launch_id) == "2\n3"
    db.workflows.update_one({}, {"$set": {"locked": True}})
    beat = told._replace(ping_time="2026-11-23T13:00:00+00:00")
    assert len(lp.apply([beat], track=files).applied) == 1
    assert content(db, claim.launch_id) == "4"
    db.workflows.update_one({}, {"$unset": {"locked": ""}})
    files.text = "5\n6\n7\n"
    lp.apply([report(claim, state)], track=files)
    assert content(db, claim.launch_id) == "6\n7"
    files.text = "8\n"
    lp.apply([report(claim, state)], track=files)
    assert content(db, claim.launch_id) == "6\n7"
    assert files.asked == [claim.launch_id] * 4, "one that has ended is not looked at"


def test_a_report_may_bring_contents_with_it(lp, db, files) -> None:
    """Of a directory that is gone; what is read there counts for more."""
    trackers = {"_trackers": [{"filename": "log", "nlines": 2}, {"filename": "out", "nlines": 2}]}
    [claim] = stage(lp, add(lp, {"a": ""}, {"a": trackers})["a"])
    brought = {"log": "older", "out": "from the runner"}
    lp.apply([report(claim)._replace(trackers=brought)], track=files)
    found = db.launches.find_one()["trackers"]
    assert [tracker["content"] for tracker in found] == ["2\n3", "from the runner"]


def test_launches_without_trackers_cost_nothing(db_uri, lp_name, lp, files) -> None:
    wire = Wire()
    watched = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    spent = []
    for spec in ({}, TRACKED):
        for track in (None, files):
            [claim] = stage(lp, add(lp, {"a": ""}, {"a": spec})["a"])
            before = len(wire.commands)
            watched.apply([report(claim)], track=track)
            spent.append(len(wire.commands) - before)
    watched.close()
    assert spent[0] == spent[1] == spent[2] == spent[3]
    assert files.asked == [4]
