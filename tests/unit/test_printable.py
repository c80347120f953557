"""What is shown of values that others have written."""

import time

import pytest

from agent.printable import printable, when


def test_nothing_steers_a_terminal():
    assert printable("a\x1b[31m\nb é") == "a?[31m?b é"


@pytest.fixture
def tokyo(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("moment", "told"),
    [
        ("2026-01-02T23:04:05.678+00:00", "2026-01-03 08:04:05"),
        ("2026-01-02T23:04:05", "2026-01-03 08:04:05"),
        ("\x1b[2J and more that is long", "?[2J and more that "),
        (None, "None"),
        (7, "7"),
    ],
)
def test_a_moment_is_told_in_the_time_of_this_host(tokyo, moment, told):
    assert when(moment) == told
