"""Locks of workflows: who holds them, which nobody can hold any more, and releasing those on request."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest

from fwcore.launchpad import LaunchPad
from tests.support.agent import Store
from tests.support.launchpads import Wire, add, report, stage


def dead(_host: str, _pid: int) -> bool:
    return True


def lock(db, fw_id: int, value: object = True) -> None:
    db.workflows.update_one({"nodes": fw_id}, {"$set": {"locked": value}})


def is_locked(db, fw_id: int) -> bool:
    return "locked" in db.workflows.find_one({"nodes": fw_id})


@pytest.fixture
def cut(db_uri, lp_name, lp) -> Iterator[tuple[LaunchPad, dict[str, int]]]:
    """A LaunchPad that was cut in the middle of a batch, and the Fireworks of it."""
    wire = Wire()
    slow = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    ids = add(lp, {"a": "b"})
    [claim] = stage(lp, ids["a"])

    def end() -> None:
        raise KeyboardInterrupt

    wire.interrupt("update", "fireworks", end)
    with pytest.raises(KeyboardInterrupt):
        slow.apply([report(claim)])
    yield slow, ids
    slow.close()


def test_a_lock_of_fireworks_tells_nothing(lp, db) -> None:
    free, ids = add(lp, {"a": ""}), add(lp, {"a": "b"})
    assert lp.locks() == []
    lock(db, ids["b"])
    [found] = lp.locks()
    assert (found.fw_id, found.holder, found.verdict) == (ids["a"], "FireWorks", "unknown")
    assert lp.locks([ids["b"]]) == [found]
    assert lp.locks([free["a"]]) == []
    assert lp.unlock([found]) == [found]
    assert lp.locks() == []


def test_only_the_lock_that_was_shown_is_released(lp, db) -> None:
    ids = add(lp, {"a": ""})
    lock(db, ids["a"])
    shown = lp.locks()
    # Released, and taken anew: by one of ours, or by a FireWorks that has worked at it.
    lock(db, ids["a"], "fwagent:there:1:session:batch")
    assert lp.unlock(shown) == []
    lock(db, ids["a"])
    db.workflows.update_one({}, {"$set": {"updated_on": datetime.now(timezone.utc)}})
    assert lp.unlock(shown) == []
    assert is_locked(db, ids["a"])


def test_the_lock_of_one_that_lives_is_kept(cut, lp, db) -> None:
    _slow, ids = cut
    [found] = lp.locks()
    assert (found.verdict, found.fw_id) == ("held", ids["a"])
    assert lp.unlock([found]) == []
    assert is_locked(db, ids["a"])


@pytest.mark.parametrize("why", ["expired", "gone", "declared"])
def test_the_lock_of_a_dead_one_is_finished_before_it_is_released(cut, lp, db, why) -> None:
    _slow, ids = cut
    is_gone = dead if why == "gone" else lambda _host, _pid: False
    if why == "expired":
        past = datetime.now(timezone.utc) - timedelta(seconds=1)
        db.fwagent_sessions.update_many({}, {"$set": {"expires_at": past}})
    elif why == "declared":  # ... and settled, so that no resume looks for it
        db.fwagent_sessions.update_many({}, {"$set": {"dead": True}, "$unset": {"token": ""}})
    [found] = lp.locks(is_gone=is_gone)
    assert found.verdict == "dead"
    assert lp.unlock([found], is_gone) == [found]
    assert db.fireworks.find_one({"fw_id": ids["b"]})["state"] == "READY"
    assert not is_locked(db, ids["a"])


def test_one_whose_session_is_not_known_is_finished_too(cut, lp, db) -> None:
    _slow, ids = cut
    db.fwagent_sessions.delete_many({})
    [found] = lp.locks()
    assert found.verdict == "unknown"
    assert lp.unlock([found]) == [found]
    assert db.fireworks.find_one({"fw_id": ids["b"]})["state"] == "READY"
    assert not is_locked(db, ids["a"])


def test_the_lock_of_an_agent_lives_as_long_as_its_lease(lp, db) -> None:
    ids = add(lp, {"a": ""})
    lease = lp.acquire_lease("w", "A", 60)
    lock(db, ids["a"], f"fwagent:{lp.host}:1:A.{lease.epoch}:batch")
    assert [found.verdict for found in lp.locks()] == ["held"]
    assert [found.verdict for found in lp.locks(is_gone=dead)] == ["dead"]
    lp.release_lease(lease)
    assert [found.verdict for found in lp.locks()] == ["dead"]
    lp.acquire_lease("w", "B", 60)
    assert [found.verdict for found in lp.locks()] == ["unknown"]


def test_looking_takes_one_command_by_an_index(lp, lp_name, db_uri, db) -> None:
    lp.prepare()
    wire = Wire()
    other = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    lock(db, add(lp, {"a": ""})["a"])
    assert len(other.locks()) == 1
    assert wire.commands == [("find", "workflows")]
    other.close()
    plan = db.workflows.find({"locked": {"$exists": True}}).explain()["queryPlanner"]
    assert "locked_1" in str(plan["winningPlan"])


# ------------------------------------------------------------------------------------- the commands


def test_status_names_it_and_unlock_releases_it(site, lp, db) -> None:
    ids = add(lp, {"a": "b"})
    assert site.json("status")["locks"] == []
    lock(db, ids["a"])
    [told] = site.json("status")["locks"]
    assert (told["fw_id"], told["verdict"]) == (ids["a"], "unknown")
    command = f"fwagent unlock {ids['a']}"
    assert told["unlock"] == command
    assert command in site.run("status").stdout

    done = site.run("unlock", ids["b"], status=1)  # nobody is there to say yes
    assert "locked by FireWorks" in done.stderr
    assert is_locked(db, ids["a"])
    found = site.json("unlock", ids["b"], "--yes")
    assert [row["fw_id"] for row in found["released"]] == [ids["a"]]
    assert found["kept"] == []
    assert not is_locked(db, ids["a"])
    assert site.run("unlock", ids["b"]).stdout == "not locked\n"


def test_unlock_with_json_needs_a_yes(site, lp, db) -> None:
    ids = add(lp, {"a": ""})
    lock(db, ids["a"])
    done = site.run("unlock", ids["a"], "--json", status=2)
    assert done.stdout == ""
    assert "--yes" in done.stderr
    assert is_locked(db, ids["a"])


def test_unlock_keeps_what_is_held(site, cut, db) -> None:
    _slow, ids = cut
    done = site.run("unlock", ids["a"], "--yes", status=1)
    assert "which is at work" in done.stderr
    assert is_locked(db, ids["a"])


def test_an_agent_remembers_since_when(site, lp, db) -> None:
    store = Store(lp, db)
    site.configure(sync={"sweep_interval": 0.2})
    lock(db, add(lp, {"a": ""})["a"])
    with site.daemon() as daemon:
        site.await_first_pass()
        daemon.reload()
        first = site.json("status")["locks"][0]["since"]
    assert site.json("status")["locks"][0]["since"] == first
    assert store.locks() == 1
