"""The documents of a new workflow, of a reservation, and of FW.json."""

import json
from datetime import date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwcore.documents import (
    count_fireworks,
    firework_object,
    iso,
    launch_object,
    milliseconds,
    new_launch,
    new_offline_run,
    new_workflow,
    parse_time,
)
from fwcore.errors import InvalidWorkflow
from fwcore.worker import Worker

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=timezone.utc)
TASKS = [{"_fw_name": "ScriptTask", "script": "true"}]


def fw(fw_id, **fields):
    return {"fw_id": fw_id, "spec": {"_tasks": TASKS}, **fields}


# -------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-23T12:31:08.287544+00:00", (12, 31, 8, 287544)),
        ("2026-11-23T12:31:08Z", (12, 31, 8, 0)),
        ("2026-11-23T12:31:08", (12, 31, 8, 0)),
        ("2026-11-23T14:31:08+02:00", (12, 31, 8, 0)),
        (datetime(2026, 11, 23, 12, 31, 8), (12, 31, 8, 0)),  # noqa: DTZ001
        (datetime(2026, 11, 23, 14, 31, 8, tzinfo=timezone(timedelta(hours=2))), (12, 31, 8, 0)),
        ("yesterday", None),
        ("", None),
        (None, None),
        (5, None),
        ("0001-01-01T00:00:00+02:00", None),
    ],
)
def test_parse_time(value, expected) -> None:
    found = parse_time(value)
    parts = ("hour", "minute", "second", "microsecond")
    wanted = NOW.replace(**dict(zip(parts, expected, strict=True))) if expected else None
    assert found == wanted
    assert found is None or found.tzinfo is timezone.utc


@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(timezone.utc)))  # noqa: DTZ001
def test_times_survive_their_texts(moment) -> None:
    assert parse_time(iso(moment)) == moment
    assert iso(moment).endswith("+00:00")
    cut = milliseconds(moment)
    assert moment - cut < timedelta(milliseconds=1)
    assert cut.microsecond % 1000 == 0


# ------------------------------------------------------------------------------------- new workflows


def test_new_ids_follow_the_ascending_order_of_the_old_ones() -> None:
    source = {"fws": [fw(-1), fw(-3), fw(7), fw(-2)], "links": {"-1": [-2, 7], "-3": [7]}}
    workflow, fireworks, ids = new_workflow(source, 10, NOW)
    assert ids == {-3: 10, -2: 11, -1: 12, 7: 13}
    assert workflow["nodes"] == [10, 11, 12, 13]
    assert workflow["links"] == {"10": [13], "11": [], "12": [11, 13], "13": []}
    assert {key: sorted(value) for key, value in workflow["parent_links"].items()} == {
        "11": [12],
        "13": [10, 12],
    }
    assert {doc["fw_id"]: doc["state"] for doc in fireworks} == {
        10: "READY",
        11: "WAITING",
        12: "READY",
        13: "WAITING",
    }
    assert workflow["fw_states"] == {str(doc["fw_id"]): doc["state"] for doc in fireworks}
    assert count_fireworks(source) == 4


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=8, unique=True), st.data())
def test_any_acyclic_workflow_keeps_its_shape(old_ids, data) -> None:
    links = {
        parent: data.draw(st.lists(st.sampled_from(old_ids[position + 1 :]), unique=True))
        for position, parent in enumerate(old_ids[:-1])
    }
    source = {"fws": [fw(number, name=f"fw {number}") for number in old_ids], "links": links}
    workflow, fireworks, ids = new_workflow(source, 5, NOW)
    assert [ids[old] for old in sorted(old_ids)] == list(range(5, 5 + len(old_ids)))
    back = {new: old for old, new in ids.items()}
    assert {doc["fw_id"]: doc["name"] for doc in fireworks} == {
        new: f"fw {old}" for new, old in back.items()
    }
    found = {
        back[int(key)]: [back[child] for child in value] for key, value in workflow["links"].items()
    }
    assert found == {old: links.get(old, []) for old in old_ids}
    parents = {child for children in workflow["links"].values() for child in children}
    for doc in fireworks:
        assert (doc["state"] == "READY") == (doc["fw_id"] not in parents)
        assert (str(doc["fw_id"]) in workflow["parent_links"]) == (doc["fw_id"] in parents)


def test_links_may_have_single_children_and_repeated_ones() -> None:
    workflow, _, _ = new_workflow({"fws": [fw(1), fw(2)], "links": {"1": 2}}, 1, NOW)
    assert workflow["links"] == {"1": [2], "2": []}
    workflow, _, _ = new_workflow({"fws": [fw(1), fw(2)], "links": {1: [2, "2"]}}, 1, NOW)
    assert workflow["links"] == {"1": [2], "2": []}
    assert workflow["parent_links"] == {"2": [1]}


def test_a_single_firework_is_a_workflow_of_its_name() -> None:
    workflow, [firework], ids = new_workflow({"spec": {"_tasks": TASKS}, "name": "solo"}, 4, NOW)
    assert ids == {-1: 4}
    assert (workflow["name"], firework["name"], firework["state"]) == ("solo", "solo", "READY")
    assert workflow["links"] == {"4": []}
    assert workflow["metadata"] == {}


def test_what_a_file_leaves_out_and_what_it_may_say() -> None:
    source = {
        "fws": [
            fw(1, name="kept", created_on="2020-01-02T03:04:05Z", state="COMPLETED"),
            fw(2, state="PAUSED"),
        ],
        "links": {"1": [2]},
        "metadata": {"a": 1},
    }
    workflow, [first, second], _ = new_workflow(source, 1, NOW)
    assert workflow["name"] == "unnamed WF"
    assert workflow["metadata"] == {"a": 1}
    assert (first["name"], second["name"]) == ("kept", "Unnamed FW")
    # A root is READY whatever the file says; the state of another one is taken.
    assert (first["state"], second["state"]) == ("READY", "PAUSED")
    assert workflow["state"] == "PAUSED"
    assert (first["created_on"], second["created_on"]) == ("2020-01-02T03:04:05+00:00", iso(NOW))
    assert workflow["created_on"] == workflow["updated_on"] == NOW
    assert second["launches"] == second["archived_launches"] == []


def test_the_spec_becomes_plain_json() -> None:
    spec = {
        "_tasks": TASKS,
        "day": date(2026, 1, 2),
        "moment": datetime(2026, 1, 2, 3, tzinfo=timezone.utc),
        "pair": (1, 2),
        5: {"deep": [date(2026, 1, 3)]},
    }
    _, [firework], _ = new_workflow({"spec": spec}, 1, NOW)
    assert firework["spec"] == json.loads(json.dumps(firework["spec"]))
    assert firework["spec"] == {
        "_tasks": TASKS,
        "day": "2026-01-02",
        "moment": "2026-01-02T03:00:00+00:00",
        "pair": [1, 2],
        "5": {"deep": ["2026-01-03"]},
    }


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({}, "the Firework has no list 'spec._tasks'"),
        ({"spec": {}}, "the Firework has no list 'spec._tasks'"),
        ({"spec": {"_tasks": {}}}, "the Firework has no list 'spec._tasks'"),
        ({"spec": {"_tasks": [{}]}}, "the Firework: spec._tasks[0] has no '_fw_name'"),
        ({"fws": []}, "'fws' is not a list of at least one Firework"),
        ({"fws": {"1": fw(1)}}, "'fws' is not a list"),
        ({"fws": [fw(1), {"fw_id": 2}]}, "fws[1] has no list 'spec._tasks'"),
        ({"fws": [fw(1), "two"]}, "fws[1] has no list"),
        (
            {"fws": [fw(1), {"fw_id": 2, "spec": {"_tasks": [*TASKS, {"_fw_name": 5}]}}]},
            "fws[1]: spec._tasks[1] has no '_fw_name'",
        ),
        ({"fws": [fw(1), fw(1)]}, "fws[1] has a repeated or unusable 'fw_id': 1"),
        ({"fws": [fw(1), {"spec": {"_tasks": TASKS}}]}, "fws[1] has no 'fw_id'"),
        ({"fws": [fw(1), fw("2")]}, "fws[1] has a repeated or unusable 'fw_id': '2'"),
        ({"fws": [fw(1), fw(True)]}, "fws[1] has a repeated or unusable 'fw_id': True"),
        ({"fws": [fw(1), fw(False)]}, "fws[1] has a repeated or unusable 'fw_id': False"),
        ({"fws": [fw([1]), fw(2)]}, "fws[0] has a repeated or unusable 'fw_id': [1]"),
        ({"fws": [fw(1)], "links": [[1, 1]]}, "'links' is not an object"),
        ({"fws": [fw(1)], "links": {"a": [1]}}, "links.a is [1], not fw_ids"),
        ({"fws": [fw(1)], "links": {"1": [None]}}, "links.1 is [None], not fw_ids"),
        ({"fws": [fw(1)], "links": {"1": [9], "8": []}}, "not in 'fws': [8, 9]"),
        ({"fws": [fw(1)], "links": {"1": [1]}}, "a cycle among the fw_ids [1]"),
        (
            {"fws": [fw(n) for n in range(1, 5)], "links": {"1": [2], "2": [3], "3": [2, 4]}},
            "a cycle among the fw_ids [2, 3",
        ),
        ({"fws": [fw(1, launches=[{"launch_id": 1}])]}, "fws[0] has launches"),
        ({"fws": [fw(1, state="DONE")]}, "fws[0]: unknown state 'DONE'"),
        ({"fws": [fw(1, state=["READY"])]}, "fws[0]: unknown state ['READY']"),
    ],
)
def test_a_workflow_that_cannot_be_names_the_place(source, said) -> None:
    for refuse in (count_fireworks, lambda source: new_workflow(source, 1, NOW)):
        with pytest.raises(InvalidWorkflow) as caught:
            refuse(source)
        assert said in caught.value.title


# ---------------------------------------------------------------------------------------- reservation

WORKER = Worker("w", ("a", "b"), {"x": 1}, {"scratch": "/s"})


def launch_of(spec):
    return new_launch(3, {"fw_id": 8, "spec": spec}, WORKER, ("/dir", "login1", "10.0.0.1"), NOW)


def test_a_new_launch() -> None:
    assert launch_of({"_tasks": TASKS}) == {
        "launch_id": 3,
        "fw_id": 8,
        "launch_dir": "/dir",
        "host": "login1",
        "ip": "10.0.0.1",
        "fworker": {
            "name": "w",
            "category": ["a", "b"],
            "query": '{"x": 1}',
            "env": {"scratch": "/s"},
        },
        "trackers": [],
        "action": None,
        "state": "RESERVED",
        "state_history": [{"state": "RESERVED", "created_on": iso(NOW), "updated_on": iso(NOW)}],
        "time_start": None,
        "time_end": None,
        "runtime_secs": None,
        "reservedtime_secs": 0.0,
    }


def test_trackers_without_a_file_are_left_out() -> None:
    tracker = {"filename": "log", "nlines": 3, "content": "old", "allow_zipped": True}
    spec = {"_trackers": [tracker, {"filename": "b"}, {"nlines": 3}, "log"]}
    assert launch_of(spec)["trackers"] == [
        {"filename": "log", "nlines": 3, "allow_zipped": True},
        {"filename": "b", "nlines": 25, "allow_zipped": False},
    ]
    assert launch_of({"_trackers": "log"})["trackers"] == []


def test_a_new_offline_run() -> None:
    assert new_offline_run(launch_of({}), "relax", "tok", NOW) == {
        "fw_id": 8,
        "launch_id": 3,
        "name": "relax",
        "created_on": iso(NOW),
        "updated_on": iso(NOW),
        "deprecated": False,
        "completed": False,
        "fwagent": {"token": "tok"},
    }


# -------------------------------------------------------------------------------------------- FW.json


def test_fw_json_holds_texts_for_dates_and_whole_launches() -> None:
    launch = {**launch_of({}), "_id": "x", "reservation": 1}
    launch["state_history"] = [{**launch["state_history"][0], "created_on": NOW}]
    firework = {
        "_id": "y",
        "fw_id": 8,
        "spec": {"_tasks": TASKS, "_fizzled_parents": [{"updated_on": NOW}]},
        "name": "relax",
        "state": "RESERVED",
        "created_on": iso(NOW),
        "updated_on": NOW,
        "launches": [3],
        "archived_launches": [],
    }
    found = firework_object(firework, [launch], [])
    assert json.loads(json.dumps(found)) == found
    assert found["updated_on"] == found["created_on"] == iso(NOW)
    assert found["spec"]["_fizzled_parents"] == [{"updated_on": iso(NOW)}]
    assert found.keys() == {
        "spec",
        "fw_id",
        "created_on",
        "updated_on",
        "launches",
        "state",
        "name",
    }
    [inner] = found["launches"]
    assert inner == launch_object(launch)
    assert inner["state_history"][0]["created_on"] == iso(NOW)
    assert not inner.keys() & {"_id", "reservation", "time_start", "time_end", "runtime_secs"}
    again = firework_object({**firework, "state": "WAITING"}, [], [launch])
    assert "state" not in again
    assert again["archived_launches"] == [inner]
