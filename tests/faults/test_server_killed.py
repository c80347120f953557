"""mongod killed between two commands of a batch: what it had acknowledged and not yet synced is gone."""

from __future__ import annotations

from contextlib import suppress

import pytest

from agent.mongod import Mongod
from fwcore.errors import DatabaseUnreachable
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.session import Planned
from fwrunner.protocol import Report
from tests.support.launchpads import TASKS, Wire, add, consistent, report, stage
from tests.support.mongod import connect

ADDED = {"fw_id": -1, "spec": {"_tasks": TASKS}}


def until_applied(launchpad: LaunchPad, told: Report) -> None:
    """As an agent does: what was deferred, or not answered, is told again."""
    for _ in range(5):
        with suppress(DatabaseUnreachable):
            done = launchpad.apply([told])
            if done.applied or done.known:
                return
    pytest.fail("not applied")


@pytest.mark.parametrize(
    "at",
    [
        # Before the first two the driver finds the server again by itself, and goes on without the lock.
        *[("find", "offline_runs"), ("ids", "drawn"), ("find", "workflows")],
        ("insert", "fwagent_journal"),
        *[("update", name) for name in ("launches", "fireworks", "offline_runs")],
        ("delete", "fwagent_journal"),
    ],
    ids=" ".join,
)
def test_a_batch_is_whole_and_no_fw_id_is_used_twice(
    private_mongod: Mongod, at: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire()
    with connect(private_mongod) as client:
        lp = LaunchPad.from_uri(private_mongod.uri, "fw")
        lp.initialize()
        first, second = add(lp, {"a": "b"}), add(lp, {"a": "b"})
        ours, theirs = stage(lp, first["a"], second["a"])
        told = report(ours, update_spec={"x": 1}, additions=[{**ADDED, "name": "ours"}])
        others = report(theirs, additions=[{**ADDED, "name": "theirs"}])
        slow = LaunchPad.from_uri(private_mongod.uri, "fw", event_listeners=[wire])

        def killed() -> None:
            private_mongod.kill()
            private_mongod.start()
            assert len(lp.apply([others]).applied) == 1

        original = slow._commit

        def commit(plan: Planned, token: str) -> None:
            monkeypatch.setattr(slow, "_commit", original)
            killed()
            slow.counts()  # the driver finds the server again
            original(plan, token)

        slow.counts()
        if at == ("ids", "drawn"):
            monkeypatch.setattr(slow, "_commit", commit)
        else:
            wire.interrupt(*at, killed)
        until_applied(slow, told)
        assert wire.interrupted
        db = client["fw"]
        consistent(db)
        names = [(doc["name"], doc["state"]) for doc in db.fireworks.find()]
        states = ["COMPLETED", "READY", "READY"] * 2
        assert sorted(names) == sorted(
            zip(["a", "b", "ours", "a", "b", "theirs"], states, strict=True)
        )
        assert all(doc["completed"] for doc in db.offline_runs.find())
        assert db.fwagent_journal.count_documents({}) == 0
        slow.close()
        lp.close()
