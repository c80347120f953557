"""Pauses that grow, and start anew."""

from types import SimpleNamespace

import pytest

from agent import backoff
from agent.backoff import Backoff


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(backoff, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_pauses_double_up_to_the_last(clock):
    pauses = Backoff(1, 5)
    assert [pauses.failed() for _ in range(5)] == [1, 2, 4, 5, 5]
    assert pauses.remaining == 5
    assert pauses.succeeded()
    assert (pauses.failing, pauses.failed()) == (False, 1)


def test_what_is_new_waits_for_the_first_pause_only(clock):
    pauses = Backoff(1, 100)
    for _ in range(6):
        pauses.failed()
    clock[0] += 0.5
    pauses.hurry()
    assert pauses.remaining == 0.5
    clock[0] += 0.5
    assert (pauses.remaining, pauses.failed()) == (0, 1)


def test_a_hurry_makes_nothing_later(clock):
    pauses = Backoff(10, 100)
    pauses.hurry()
    assert pauses.remaining <= 0
    pauses.failed()
    clock[0] += 12
    pauses.hurry()
    assert pauses.remaining == -2
