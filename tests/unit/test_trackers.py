"""Contents of trackers in a launch: which lines, how many, and when they are worth a write."""

import pytest

from fwcore import trackers
from fwcore.plan import plan_heartbeat
from fwcore.trackers import followed, last_lines, new_trackers
from tests.support.memory import Memory, report

LOG = {"filename": "log", "nlines": 2, "allow_zipped": False}


@pytest.mark.parametrize(
    ("text", "count", "lines"),
    [
        ("a\nb\nc\n", 2, "b\nc"),
        ("a\nb\nc", 2, "b\nc"),
        ("a\r\nb\rc\n\n", 3, "b\nc\n"),
        ("a\n", 5, "a"),
        ("a\x0bb\u2028c\n", 1, "a\x0bb\u2028c"),
        ("a\nb", 0, "a\nb"),
        ("a\nb", -1, "a\nb"),
        ("x\n" * 5000, 5000, "\n".join("x" * 1000)),
        ("", 5, ""),
        ("\n", 5, ""),
    ],
)
def test_the_last_lines(text, count, lines) -> None:
    assert last_lines(text, count) == lines


@pytest.mark.parametrize(
    ("source", "stored"),
    [
        ([{"filename": "a"}], [{"filename": "a", "nlines": 25, "allow_zipped": False}]),
        (
            [{"filename": "a", "nlines": 5000, "allow_zipped": True}],
            [{"filename": "a", "nlines": 1000, "allow_zipped": True}],
        ),
        ([{"filename": "a", "nlines": "5"}, {"nlines": 5}, {"filename": 1}, "a", None], []),
        ({"filename": "a"}, []),
        (None, []),
    ],
)
def test_trackers_of_a_spec(source, stored) -> None:
    assert new_trackers(source) == stored


def test_a_file_without_content_keeps_what_is_stored() -> None:
    launch = {"trackers": [{**LOG, "content": "old"}, {**LOG, "filename": "out"}, LOG, "junk"]}
    told = report(1)._replace(trackers={"out": "1\n2\n3\n", "log": "\n", "other": "x"})
    assert followed(launch, told) == {
        "trackers": [
            {**LOG, "content": "old"},
            {**LOG, "filename": "out", "content": "2\n3"},
            LOG,
            "junk",
        ]
    }


@pytest.mark.parametrize("content", [None, 7, ["x"], {"a": 1}])
def test_a_content_that_is_no_text(content) -> None:
    told = report(1)._replace(trackers={"log": content})
    assert followed({"trackers": [LOG]}, told) == {"trackers": [LOG]}


def test_half_a_surrogate_pair_is_replaced() -> None:
    told = report(1)._replace(trackers={"log": "a\ud800b"})
    assert followed({"trackers": [LOG]}, told)["trackers"][0]["content"] == "a?b"


def test_contents_are_bounded_in_total(monkeypatch) -> None:
    monkeypatch.setattr(trackers, "MAX_CHARACTERS", 10)
    monkeypatch.setattr(trackers, "MAX_FILES", 3)
    names = "abcd"
    launch = {"trackers": [{**LOG, "filename": name} for name in names]}
    told = report(1)._replace(trackers={"a": "123456", "b": "abcdef", "c": "x", "d": "y"})
    found = followed(launch, told)["trackers"]
    assert [tracker.get("content") for tracker in found] == ["123456", "cdef", None, None]


@pytest.mark.parametrize("launch", [{}, {"trackers": None}, {"trackers": [LOG]}])
def test_nothing_told_is_nothing_changed(launch) -> None:
    assert followed(launch, report(1)) == {}


def tracked(state: str = "RUNNING") -> Memory:
    lp = Memory()
    fw_id = lp.add({"a": ""}, {"a": {"_trackers": [{"filename": "log", "nlines": 2}]}})["a"]
    lp.run(fw_id) if state == "RUNNING" else lp.reserve(fw_id)
    return lp


def test_contents_come_with_a_ping_and_not_without() -> None:
    lp = tracked()
    tail = report(1)._replace(trackers={"log": "1\n2\n3\n"})
    assert plan_heartbeat(lp.launch(1), tail) is None
    write = plan_heartbeat(lp.launch(1), tail._replace(ping_time="2026-11-23T12:09:00+00:00"))
    assert write is not None
    assert write.update["$set"].keys() == {"state_history.1.updated_on", "trackers"}
    lp.execute([write])
    assert lp.launch(1)["trackers"] == [{**LOG, "content": "2\n3"}]
    again = tail._replace(ping_time="2026-11-23T12:10:00+00:00")
    write = plan_heartbeat(lp.launch(1), again)
    assert write is not None
    assert write.update["$set"].keys() == {"state_history.1.updated_on"}


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETED", "FIZZLED"])
def test_contents_come_with_a_change_of_state(state) -> None:
    lp = tracked("RESERVED")
    lp.apply(report(1, state)._replace(trackers={"log": "1\n2\n3\n"}))
    assert lp.launch(1)["state"] == state
    assert lp.launch(1)["trackers"] == [{**LOG, "content": "2\n3"}]
    assert not lp.apply(report(1, state)._replace(trackers={"log": "other"})).writes
