"""The shape of ``--json`` and the exit status, which scripts rely on."""

import json

from agent.results import LASTS, Deferrals, Result
from fwcore.launchpad.records import Applied, Claim
from fwcore.plan import Outcome


def test_the_documented_object():
    result = Result()
    result.take(
        Applied(
            applied=[Outcome(1, 11, "COMPLETED")],
            known=[Outcome(2, 12, "RUNNING")],
            deferred=[Outcome(3, 13, reason="locked")],
            ignored=[Outcome(4, None, reason="unknown")],
            released=[15],
        )
    )
    result.claim(Claim(16, 6, "/there", "secret-token", {"name": "x"}))
    result.submitted.append({"launch_id": 6, "fw_id": 16, "job_id": "99"})
    result.defer(7, 17, "no space")
    result.lost.append(
        {"launch_id": 8, "fw_id": 18, "job_id": "9", "reason": "gone", "state": None}
    )

    assert result.document() == {
        "applied": [{"launch_id": 1, "fw_id": 11, "state": "COMPLETED"}],
        "deferred": [
            {"launch_id": 3, "fw_id": 13, "reason": "locked"},
            {"launch_id": 7, "fw_id": 17, "reason": "no space"},
        ],
        "ignored": [{"launch_id": 4, "fw_id": None, "reason": "unknown"}],
        "claimed": [{"launch_id": 6, "fw_id": 16, "launch_dir": "/there"}],
        "submitted": [{"launch_id": 6, "fw_id": 16, "job_id": "99"}],
        "lost": [{"launch_id": 8, "fw_id": 18, "job_id": "9", "reason": "gone", "state": None}],
    }
    assert result.released == [15]
    assert "secret-token" not in json.dumps(result.document())


def test_exit_status():
    result = Result()
    assert result.exit_status == 0
    result.ignored.append({"launch_id": 1, "reason": "settled"})
    assert result.exit_status == 0
    result.defer(1, None, "again")
    assert result.exit_status == 3


def deferred(*entries):
    result = Result()
    for launch_id, fw_id, reason in entries:
        result.defer(launch_id, fw_id, reason)
    return result


def test_a_deferral_is_news_when_it_lasts_and_only_once():
    deferrals = Deferrals()
    told = [deferrals.take(deferred((1, None, "torn")), whole=True) for _ in range(4)]
    assert told == [[], [{"launch_id": 1, "fw_id": None, "reason": "torn"}], [], []]
    assert len(deferrals) == 1

    told = [deferrals.take(deferred((1, None, "locked")), whole=True) for _ in range(3)]
    assert [len(news) for news in told] == [0, 1, 0]

    assert deferrals.take(Result(), whole=True) == []
    assert len(deferrals) == 0
    told = [deferrals.take(deferred((1, None, "locked")), whole=True) for _ in range(3)]
    assert [len(news) for news in told] == [0, 1, 0]


def test_a_look_at_a_part_does_not_settle_the_rest():
    deferrals = Deferrals()
    deferrals.take(deferred((1, None, "torn"), (2, 12, "locked")), whole=True)
    deferrals.take(Result(), whole=False)
    assert len(deferrals) == 2
    deferrals.take(Result(applied=[{"launch_id": 1, "fw_id": 11}]), whole=False)
    assert len(deferrals) == 1
    deferrals.take(Result(ignored=[{"launch_id": 2, "fw_id": 12}]), whole=False)
    assert len(deferrals) == 0


def test_a_firework_that_cannot_be_launched_is_told_once_though_its_launches_differ():
    deferrals = Deferrals()
    told = [deferrals.take(deferred((n, 12, "no space")), whole=False) for n in range(4)]
    assert [len(news) for news in told] == [0, 1, 0, 0]
    assert len(deferrals) == 1
    assert deferrals.newest(5) == [{"launch_id": 3, "fw_id": 12, "reason": "no space"}]


def test_what_nothing_defers_any_more_is_not_ours():
    times = iter([0.0, 10.0, LASTS - 1, LASTS + 11])
    deferrals = Deferrals(clock=lambda: next(times))
    deferrals.take(deferred((1, None, "another worker's"), (2, None, "ours")), whole=False)
    deferrals.take(deferred((2, None, "ours")), whole=False)
    deferrals.take(Result(), whole=True, looked={3}, places={1, 2})
    assert len(deferrals) == 2
    deferrals.take(deferred((2, None, "ours")), whole=True, looked={2})
    assert [row["launch_id"] for row in deferrals.newest(9)] == [2]


def test_a_launch_that_is_not_open_any_more_does_not_wait():
    deferrals = Deferrals()
    deferrals.take(deferred((1, None, "torn"), (2, 12, "no space")), whole=False)
    deferrals.take(Result(), whole=False, looked={3}, places={3})
    assert len(deferrals) == 2
    deferrals.take(Result(), whole=True, looked={3}, places={3})
    assert [row["fw_id"] for row in deferrals.newest(9)] == [12]


def test_a_firework_that_was_put_off_is_settled_by_its_claim():
    deferrals = Deferrals()
    deferrals.take(deferred((1, 12, "no space")), whole=False)
    claimed = [{"launch_id": 2, "fw_id": 12, "launch_dir": "/x"}]
    deferrals.take(Result(claimed=claimed), whole=False)
    assert len(deferrals) == 0


def test_the_newest_of_what_waits_are_told():
    deferrals = Deferrals()
    deferrals.take(deferred((1, None, "a"), (2, None, "b")), whole=False)
    deferrals.take(deferred((1, None, "c"), (None, None, "d")), whole=False)
    assert deferrals.newest(2) == [
        {"launch_id": 1, "fw_id": None, "reason": "c"},
        {"launch_id": None, "fw_id": None, "reason": "d"},
    ]
    assert [row["launch_id"] for row in deferrals.newest(9)] == [2, 1, None]
