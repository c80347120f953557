"""When the daemon searches for launch directories that are gone: new ones soon, lost ones ever more seldom."""

from types import SimpleNamespace
from typing import Any

import pytest

from agent import backoff, loop
from agent.backoff import Backoff
from agent.results import Result


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(backoff, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def agent():
    """As much of an agent as searches; nothing is ever found."""
    agent: Any = loop.Agent.__new__(loop.Agent)
    way_back = SimpleNamespace(missing=set(), searches=0)

    def follow(_places, _root, missing):
        way_back.searches += 1
        way_back.sought = set(missing)
        return {}

    way_back.follow = follow
    config = SimpleNamespace(launch=SimpleNamespace(root=None))
    agent._parts = SimpleNamespace(way_back=way_back, config=config)
    agent._places = dict.fromkeys((1, 2, 3), "/d")
    agent._searches = Backoff(*loop.SEARCH_BACKOFF)
    agent._sought = set()
    return agent


def searched(agent, clock, seconds, missing):
    """How many searches there are in a time with a pass a second; ``missing`` are those of each pass in turn."""
    before = agent._parts.way_back.searches
    for second in range(seconds):
        agent._looked = agent._parts.way_back.missing = missing[second % len(missing)]
        agent._follow(Result())
        clock[0] += 1
    return agent._parts.way_back.searches - before


def test_what_stays_away_is_searched_for_ever_more_seldom(agent, clock):
    assert searched(agent, clock, 7200, [{1}]) <= 8
    # Also when it is others' turn to be looked at in between.
    assert searched(agent, clock, 7200, [{1}, set(), {1}]) <= 3


def test_one_that_is_gone_for_good_does_not_delay_the_search_for_another(agent, clock):
    searched(agent, clock, 7200, [{1}])
    assert searched(agent, clock, 30, [{2}]) == 1


def test_two_that_are_missed_one_after_the_other_are_searched_for_together(agent, clock):
    """They may have changed places, and each is where the other was."""
    searched(agent, clock, 120, [{1}, {2}])
    assert agent._parts.way_back.sought == {1, 2}


def test_several_that_take_turns_do_not_hurry_each_other(agent, clock):
    searched(agent, clock, 600, [{1}, {2}, {3}])
    assert searched(agent, clock, 7200, [{1}, {2}, {3}]) <= 8
