"""The shape of ``--json`` and the exit status, which scripts rely on."""

import json

from agent.results import Result
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

    assert result.document() == {
        "applied": [{"launch_id": 1, "fw_id": 11, "state": "COMPLETED"}],
        "deferred": [
            {"launch_id": 3, "fw_id": 13, "reason": "locked"},
            {"launch_id": 7, "fw_id": 17, "reason": "no space"},
        ],
        "ignored": [{"launch_id": 4, "fw_id": None, "reason": "unknown"}],
        "claimed": [{"launch_id": 6, "fw_id": 16, "launch_dir": "/there"}],
        "submitted": [{"launch_id": 6, "fw_id": 16, "job_id": "99"}],
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
