"""Field-level updates: carried out on the old document they give the new one, and they name no more than that."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fwcore.diff import history_update, update_between
from tests.support.memory import updated

#: Few keys, so that two documents have some in common; among them what no MongoDB path can express.
KEYS = st.sampled_from(["a", "b", "c", "0", "", "a.b", ".", "$set", "a$", "ä", "->"])
NUMBERS = st.integers(-2, 2) | st.sampled_from([0.0, 1.0, -2.0, 0.5, math.nan, math.inf, 2**62])
SCALARS = st.none() | st.booleans() | NUMBERS | st.sampled_from(["", "a", "1"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)


def text(value) -> str:
    """Tell 1, 1.0 and True apart, as BSON does, and NaN equal to itself."""
    return json.dumps(value, sort_keys=True)


@given(DOCUMENTS, DOCUMENTS)
@example({"a": 1}, {"a": True})
@example({"a": {"b": 1}}, {"a": {"b": 1.0}})
@example({"a": {"b": 1}}, {"a": {}})
@example({"a": {}}, {"a": {"b": {}}})
@example({"a": [1]}, {"a": {"0": 1}})
@example({"a": {"b": 1, "$set": 2}}, {"a": {"b": 2, "$set": 2}})
def test_the_update_leads_from_the_old_document_to_the_new_one(old, new) -> None:
    update = update_between({"spec": old}, {"spec": new})
    assert text(updated({"spec": old}, update)) == text({"spec": new})


@given(DOCUMENTS)
def test_equal_documents_need_no_update(document) -> None:
    twin = json.loads(json.dumps(document))
    assert update_between({"spec": document}, {"spec": twin}) == {}


@given(DOCUMENTS, DOCUMENTS)
def test_running_an_update_twice_is_running_it_once(old, new) -> None:
    update = update_between({"spec": old}, {"spec": new})
    once = updated({"spec": old}, update)
    assert text(updated(once, update)) == text(once)


@given(
    st.dictionaries(st.sampled_from("abc"), DOCUMENTS, max_size=3),
    st.dictionaries(st.sampled_from("abc"), DOCUMENTS, max_size=3),
    st.sampled_from("xyz"),
    VALUES,
)
def test_a_field_that_somebody_else_adds_meanwhile_is_kept(old, new, foreign, value) -> None:
    update = update_between({"spec": old}, {"spec": new})
    raced = {"spec": {**old, foreign: value}}
    assert text(updated(raced, update)) == text({"spec": {**new, foreign: value}})


@pytest.mark.parametrize(
    ("old", "new", "update"),
    [
        ({"a": 1}, {"a": 2}, {"$set": {"a": 2}}),
        ({"a": 1}, {}, {"$unset": {"a": ""}}),
        ({}, {"a": {"b": 1}}, {"$set": {"a": {"b": 1}}}),
        ({"a": {"b": 1, "c": 1}}, {"a": {"b": 2, "c": 1}}, {"$set": {"a.b": 2}}),
        ({"a": {"b": 1, "c": 1}}, {"a": {"c": 1}}, {"$unset": {"a.b": ""}}),
        ({"a": [1, 2]}, {"a": [1, 3]}, {"$set": {"a": [1, 3]}}),
        ({"a": {"x.y": 1}}, {"a": {"x.y": 2}}, {"$set": {"a": {"x.y": 2}}}),
        ({"a": {"": 1}}, {"a": {}}, {"$set": {"a": {}}}),
        ({"a": {"b": {"$x": 1}}}, {"a": {"b": {"$x": 2}}}, {"$set": {"a.b": {"$x": 2}}}),
        ({"a": {"x.y": 1, "b": 1}}, {"a": {"x.y": 1, "b": 2}}, {"$set": {"a.b": 2}}),
        ({"a": {"$x": {"y": 1}, "b": 1}}, {"a": {"$x": {"y": 1}}}, {"$unset": {"a.b": ""}}),
        ({"a": {"": 1}}, {"a": {"": 1, "b": {"c.d": 1}}}, {"$set": {"a.b": {"c.d": 1}}}),
        ({"a": {"x.y": {"b": 1}}}, {"a": {"x.y": {}}}, {"$set": {"a": {"x.y": {}}}}),
        ({"a": {"x.y": 1, "b": 1}}, {"a": {"b": 1}}, {"$set": {"a": {"b": 1}}}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2, "b": 1}}, {}),
        ({"a": None}, {}, {"$unset": {"a": ""}}),
        ({}, {"a": None}, {"$set": {"a": None}}),
    ],
)
def test_the_smallest_update(old, new, update) -> None:
    assert update_between(old, new) == update


def test_an_unchanged_field_at_the_top_is_left_alone_whatever_its_name() -> None:
    old = {"a.b": 1, "a": {"b": 2}, "n": 1}
    assert update_between(old, {**old, "n": 2}) == {"$set": {"n": 2}}


RESERVED = {"state": "RESERVED", "created_on": "t0", "updated_on": "t0"}
RUNNING = {"state": "RUNNING", "created_on": "t1", "updated_on": "t1"}


@pytest.mark.parametrize(
    ("new", "changes"),
    [
        ([RESERVED], {}),
        ([RESERVED, RUNNING], {"state_history.1": RUNNING}),
        ([{**RESERVED, "updated_on": "t9"}], {"state_history.0.updated_on": "t9"}),
        (
            [{**RESERVED, "checkpoint": {"_task_n": 1}}],
            {"state_history.0.checkpoint": {"_task_n": 1}},
        ),
        (
            [{**RESERVED, "updated_on": "t9"}, RUNNING],
            {"state_history.0.updated_on": "t9", "state_history.1": RUNNING},
        ),
    ],
)
def test_a_history_is_written_entry_by_entry(new, changes) -> None:
    assert history_update([RESERVED], new) == changes


def test_a_reservation_id_that_is_stored_meanwhile_is_kept() -> None:
    changes = history_update([RESERVED], [{**RESERVED, "updated_on": "t9"}, RUNNING])
    raced = {"state_history": [{**RESERVED, "reservation_id": "1001"}]}
    assert updated(raced, {"$set": changes})["state_history"] == [
        {**RESERVED, "updated_on": "t9", "reservation_id": "1001"},
        RUNNING,
    ]
