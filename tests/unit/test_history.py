"""What a report adds to a launch's history, and the times that follow."""

import copy
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwcore.documents import iso, parse_time
from fwcore.history import derived_times, ended, started
from fwrunner.protocol import Report

T0 = datetime(2026, 11, 23, 12, 0, 0, 5, tzinfo=timezone.utc)
NOW = T0 + timedelta(hours=2)


def at(minutes: float) -> str:
    return iso(T0 + timedelta(minutes=minutes))


RESERVED = {"state": "RESERVED", "created_on": at(0), "updated_on": at(0), "reservation_id": "9"}


def running(created: float, updated: float, **more):
    return {"state": "RUNNING", "created_on": at(created), "updated_on": at(updated), **more}


def report(**fields) -> Report:
    return Report(**{"launch_id": 1, "state": "RUNNING", "launch_dir": "/d", **fields})


@pytest.mark.parametrize(
    ("history", "fields", "entry"),
    [
        # The first sight of a start: dated by the compute node, not by now.
        ([RESERVED], {"started_on": at(3)}, running(3, 3)),
        ([RESERVED], {"started_on": at(3), "ping_time": at(8)}, running(3, 8)),
        ([RESERVED, running(3, 3)], {"started_on": at(3), "ping_time": at(9)}, running(3, 9)),
        # A recovery by FireWorks has dated the start by its own time: put right.
        ([RESERVED, running(7, 7)], {"started_on": at(3)}, running(3, 7)),
        # An older ping never turns the last sign of life back.
        ([RESERVED, running(3, 20)], {"started_on": at(3), "ping_time": at(9)}, running(3, 20)),
        ([RESERVED, running(3, 4)], {"ping_time": at(9)}, running(3, 9)),
        (
            [RESERVED, running(3, 4)],
            {"started_on": at(3), "checkpoint": {"_task_n": 1}},
            running(3, 4, checkpoint={"_task_n": 1}),
        ),
        (
            [RESERVED, running(3, 4, checkpoint={"_task_n": 1})],
            {"started_on": at(3)},
            running(3, 4, checkpoint={"_task_n": 1}),
        ),
        # Naive times mean UTC, others are turned into it; what is no time says nothing.
        ([RESERVED], {"started_on": "2026-11-23T12:03:00"}, None),
        ([RESERVED], {"started_on": "2026-11-23T14:03:00+02:00"}, None),
    ],
)
def test_started(history, fields, entry) -> None:
    before = copy.deepcopy(history)
    found = started(history, report(**fields))
    utc = "2026-11-23T12:03:00+00:00"
    entry = entry or {"state": "RUNNING", "created_on": utc, "updated_on": utc}
    assert found == [RESERVED, entry]
    assert history == before


@pytest.mark.parametrize("started_on", [None, "", "yesterday", "2026-13-01T00:00:00"])
def test_without_a_time_of_start_nothing_has_started(started_on) -> None:
    assert started([RESERVED], report(started_on=started_on)) == [RESERVED]


def test_an_entry_without_any_time_of_life_stays_as_it_is() -> None:
    entry = {"state": "RUNNING", "created_on": at(3)}
    assert started([RESERVED, entry], report()) == [RESERVED, entry]


def test_the_end_has_dates_and_the_time_of_the_compute_node() -> None:
    final = report(state="COMPLETED", completed_on=at(30), fwaction={})
    history = ended([RESERVED, running(3, 20, checkpoint={"_task_n": 1})], final, NOW)
    assert [entry["state"] for entry in history] == ["RESERVED", "RUNNING", "COMPLETED"]
    for entry in history:
        for key in entry.keys() & {"created_on", "updated_on"}:
            assert isinstance(entry[key], datetime)
            assert entry[key].microsecond % 1000 == 0
    assert history[2] == {
        "state": "COMPLETED",
        "created_on": T0.replace(minute=30, microsecond=0),
    }
    assert history[0]["reservation_id"] == "9"


@pytest.mark.parametrize(
    ("fields", "minutes"),
    [
        ({"completed_on": at(30), "ping_time": at(20)}, 30),
        ({"completed_on": None, "ping_time": at(20)}, 20),
        ({"completed_on": "never", "ping_time": None}, 120),
    ],
)
def test_the_best_time_of_the_end(fields, minutes) -> None:
    history = ended([RESERVED], report(state="FIZZLED", fwaction={}, **fields), NOW)
    assert history[-1]["created_on"] - history[0]["created_on"] == timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("known", "told", "kept"),
    [
        (None, None, None),
        ({"n": 1}, None, {"n": 1}),
        ({"n": 1}, {"n": 2}, {"n": 2}),
        (None, {"n": 2}, {"n": 2}),
    ],
)
def test_a_failed_launch_keeps_its_checkpoint_for_a_task_level_rerun(known, told, kept) -> None:
    history = [RESERVED, running(3, 20, **({"checkpoint": known} if known else {}))]
    failed = ended(history, report(state="FIZZLED", checkpoint=told, fwaction={}), NOW)
    done = ended(history, report(state="COMPLETED", checkpoint=told, fwaction={}), NOW)
    assert failed[-1].get("checkpoint") == kept
    assert "checkpoint" not in done[-1]


def test_derived_times_of_a_whole_life() -> None:
    final = report(state="COMPLETED", started_on=at(3), completed_on=at(30), fwaction={})
    history = ended(started([RESERVED], final), final, NOW)
    times = derived_times(history, NOW)
    assert times["runtime_secs"] == 27 * 60
    assert times["reservedtime_secs"] == 3 * 60
    assert parse_time(times["time_start"]) == history[1]["created_on"]
    assert parse_time(times["time_end"]) == history[2]["created_on"]
    assert times["time_end"].endswith("+00:00")


def test_the_time_in_the_queue_goes_on_until_the_start() -> None:
    assert derived_times([RESERVED], NOW) == {
        "time_start": None,
        "time_end": None,
        "runtime_secs": None,
        "reservedtime_secs": 7200.0,
    }
    assert "reservedtime_secs" not in derived_times([RESERVED])


@given(
    st.lists(st.floats(0, 60).map(at) | st.none(), max_size=6),
    st.lists(st.floats(0, 60).map(at) | st.none() | st.text(max_size=3), min_size=3, max_size=3),
)
def test_the_last_sign_of_life_never_goes_back(pings, times) -> None:
    history = [RESERVED]
    last = T0
    for ping in pings:
        history = started(history, report(started_on=times[0], ping_time=ping, checkpoint=None))
        entry = history[-1]
        if entry["state"] == "RUNNING":
            seen = parse_time(entry["updated_on"])
            assert seen is not None
            assert seen >= max(last, parse_time(ping) or T0)
            last = seen
        derived_times(history, NOW)
    final = report(state="FIZZLED", started_on=times[0], completed_on=times[1], fwaction={})
    closed = ended(started(history, final), final, NOW)
    derived_times(closed, NOW)
    assert closed[-1]["state"] == "FIZZLED"
