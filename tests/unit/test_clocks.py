"""Clocks of compute node, file server and login node that are a day apart: nothing is lost, no time is negative."""

from datetime import timedelta
from typing import Any

import pytest

from fwcore.documents import iso, parse_time
from tests.support.memory import NOW, Memory, report

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
APART = [-DAY, timedelta(), DAY]


@pytest.fixture
def memory():
    return Memory()


@pytest.mark.parametrize("apart", APART, ids=["behind", "equal", "ahead"])
def test_a_run_lasts_as_long_as_its_node_says(memory, apart):
    ids = memory.add({"a": "b"})
    launch_id = memory.reserve(ids["a"])
    begin = NOW + apart
    memory.apply(report(launch_id)._replace(started_on=iso(begin), ping_time=iso(begin)))
    assert memory.states(ids)["a"] == "RUNNING"
    done = report(launch_id, "COMPLETED")
    memory.apply(done._replace(started_on=iso(begin), completed_on=iso(begin + MINUTE)))
    launch = memory.launch(launch_id)
    assert memory.states(ids) == {"a": "COMPLETED", "b": "READY"}
    assert launch["runtime_secs"] == 60
    assert launch["reservedtime_secs"] >= 0
    start, end = parse_time(launch["time_start"]), parse_time(launch["time_end"])
    assert start is not None
    assert (abs(start - begin) < MINUTE / 60, end) == (True, start + MINUTE)


@pytest.mark.parametrize("apart", APART, ids=["behind", "equal", "ahead"])
@pytest.mark.parametrize("told", ["set back", "no end", "a ping alone"])
def test_an_end_before_the_start_takes_no_time(memory, apart, told):
    """The clock was set back meanwhile, or the end is by another clock: that of the login node, or of the ping."""
    ids = memory.add({"a": ""})
    launch_id = memory.reserve(ids["a"])
    begin = NOW + apart
    ends: dict[str, dict[str, Any]] = {
        "set back": {"completed_on": iso(begin - DAY)},
        "no end": {"completed_on": None},
        "a ping alone": {"completed_on": None, "ping_time": iso(begin - MINUTE)},
    }
    memory.apply(report(launch_id, "COMPLETED")._replace(started_on=iso(begin), **ends[told]))
    launch = memory.launch(launch_id)
    assert memory.states(ids)["a"] == "COMPLETED"
    assert launch["runtime_secs"] >= 0
    assert launch["reservedtime_secs"] >= 0
    states = [entry["state"] for entry in launch["state_history"]]
    assert states == ["RESERVED", "RUNNING", "COMPLETED"]


def test_the_last_sign_of_life_never_goes_back(memory):
    ids = memory.add({"a": ""})
    launch_id = memory.reserve(ids["a"])
    for moment in (NOW + DAY, NOW, NOW - DAY):
        memory.apply(report(launch_id)._replace(started_on=iso(NOW), ping_time=iso(moment)))
    running = memory.launch(launch_id)["state_history"][-1]
    assert parse_time(running["updated_on"]) == NOW + DAY
