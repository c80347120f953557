"""States: what a launch gives its Firework, what Fireworks give their Workflow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwcore.states import (
    ACTIVE,
    FINAL,
    HELD,
    RANKS,
    acceptable_parents,
    representative,
    workflow_state,
)

LAUNCH_STATES = ("FIZZLED", "READY", "RESERVED", "RUNNING", "COMPLETED")


def launches(*states):
    return [{"launch_id": number, "state": state} for number, state in enumerate(states, 1)]


@pytest.mark.parametrize(
    ("states", "chosen"),
    [
        ((), None),
        (("ARCHIVED",), None),
        (("FIZZLED",), 1),
        (("FIZZLED", "RESERVED"), 2),
        (("RESERVED", "FIZZLED"), 1),
        (("RUNNING", "RESERVED"), 1),
        (("FIZZLED", "COMPLETED", "RUNNING"), 2),
        (("COMPLETED", "COMPLETED"), 1),
        (("READY", "READY"), 1),
        (("ARCHIVED", "FIZZLED"), 2),
    ],
)
def test_the_representative_launch(states, chosen) -> None:
    found = representative(launches(*states))
    assert (found and found["launch_id"]) == chosen


@given(st.lists(st.sampled_from(LAUNCH_STATES), min_size=1))
def test_no_launch_outranks_the_representative_and_none_before_it_equals_it(states) -> None:
    found = representative(launches(*states))
    assert found is not None
    rank = RANKS[found["state"]]
    assert all(RANKS[state] <= rank for state in states)
    assert all(RANKS[state] < rank for state in states[: found["launch_id"] - 1])


@pytest.mark.parametrize(
    ("spec", "accepted"),
    [
        ({}, {"COMPLETED"}),
        ({"_allow_fizzled_parents": False}, {"COMPLETED"}),
        ({"_allow_fizzled_parents": True}, {"COMPLETED", "FIZZLED"}),
        ({"_allow_fizzled_parents": "yes"}, {"COMPLETED", "FIZZLED"}),
    ],
)
def test_acceptable_parents(spec, accepted) -> None:
    assert acceptable_parents(spec) == accepted


CHAIN = {"1": [2], "2": [3], "3": []}
FORK = {"1": [2, 3], "2": [], "3": []}
JOIN = {"1": [3], "2": [3], "3": []}

W, R, Q, U, C = "WAITING", "READY", "RESERVED", "RUNNING", "COMPLETED"
F, D, P, A = "FIZZLED", "DEFUSED", "PAUSED", "ARCHIVED"


@pytest.mark.parametrize(
    ("links", "states", "tolerant", "expected"),
    [
        (CHAIN, (R, W, W), (), "READY"),
        (CHAIN, (W, W, W), (), "READY"),
        (CHAIN, (Q, W, W), (), "RESERVED"),
        (CHAIN, (U, W, W), (), "RUNNING"),
        (CHAIN, (C, R, W), (), "RUNNING"),
        (CHAIN, (C, Q, W), (), "RUNNING"),
        (CHAIN, (C, C, C), (), "COMPLETED"),
        # Only the leaves count for COMPLETED.
        (CHAIN, (F, D, C), (), "COMPLETED"),
        (FORK, (C, C, R), (), "RUNNING"),
        (FORK, (C, C, C), (), "COMPLETED"),
        (CHAIN, (A, A, A), (), "ARCHIVED"),
        (CHAIN, (A, A, W), (), "READY"),
        (CHAIN, (C, C, D), (), "DEFUSED"),
        # DEFUSED before PAUSED before FIZZLED.
        (FORK, (F, D, P), (), "DEFUSED"),
        (FORK, (F, P, W), (), "PAUSED"),
        (CHAIN, (F, W, W), (), "FIZZLED"),
        (CHAIN, (C, C, F), (), "FIZZLED"),
        (CHAIN, (F, R, W), (2,), "RUNNING"),
        (CHAIN, (F, U, W), (2,), "RUNNING"),
        (FORK, (F, R, W), (2,), "FIZZLED"),
        (FORK, (F, R, R), (2, 3), "RUNNING"),
        (JOIN, (F, U, W), (3,), "RUNNING"),
        (JOIN, (F, U, W), (), "FIZZLED"),
        # A leaf that failed decides, whatever the tolerant ones do.
        (FORK, (F, F, R), (2, 3), "FIZZLED"),
        ({"1": []}, (F,), (), "FIZZLED"),
        ({"1": []}, (Q,), (), "RESERVED"),
    ],
)
def test_workflow_state(links, states, tolerant, expected) -> None:
    fw_states = {str(number): state for number, state in enumerate(states, 1)}
    assert workflow_state(fw_states, links, lambda fw_id: fw_id in tolerant) == expected


@given(st.lists(st.sampled_from(sorted(RANKS)), min_size=1, max_size=6), st.data())
def test_only_children_of_fizzled_ones_are_asked_about(states, data) -> None:
    nodes = range(1, len(states) + 1)
    links = {
        str(node): data.draw(st.lists(st.sampled_from(nodes), unique=True).map(sorted))
        for node in nodes
    }
    links = {
        key: [child for child in children if child > int(key)] for key, children in links.items()
    }
    fw_states = {str(node): state for node, state in zip(nodes, states, strict=True)}
    allowed = {
        child for key, state in fw_states.items() if state == "FIZZLED" for child in links[key]
    }

    def tolerates(fw_id: int) -> bool:
        assert fw_id in allowed
        return True

    found = workflow_state(fw_states, links, tolerates)
    assert found in set(states) | {"READY", "RUNNING"}
    if found == "COMPLETED":
        assert all(fw_states[key] == "COMPLETED" for key, children in links.items() if not children)


def test_the_sets_of_states_do_not_overlap() -> None:
    assert not HELD & FINAL
    assert not HELD & ACTIVE
    assert not FINAL & ACTIVE
    assert RANKS.keys() == HELD | FINAL | ACTIVE | {"WAITING", "READY"}
