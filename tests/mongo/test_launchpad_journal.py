"""The redo log, the sessions behind it, and what the server refuses, on a real server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import bson
import pytest
from pymongo.database import Database

from fwcore.errors import DatabaseUnreachable
from fwcore.launchpad import LaunchPad
from fwcore.launchpad import journal as module
from fwcore.launchpad.journal import SESSION_SECONDS, Fenced
from fwcore.world import Write
from fwrunner.protocol import utcnow
from tests.support.launchpads import TASKS, Wire, add, consistent, report, reports, stage

Document = dict[str, Any]
MIB = 1024 * 1024


@pytest.fixture
def wire() -> Iterator[Wire]:
    """What is between `slow` and the server; an interruption that was asked for must have taken place."""
    wire = Wire()
    yield wire
    assert wire.interrupted


@pytest.fixture
def slow(db_uri: str, lp_name: str, wire: Wire) -> Iterator[LaunchPad]:
    launchpad = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    yield launchpad
    launchpad.close()


class Cut(BaseException):
    """Stands for the end of a process; not an Exception, which the driver would keep to itself."""


def dead(_host: str, _pid: int) -> bool:
    return True


def left(db: Database[Document]) -> tuple[int, int]:
    """How many locks and whole journals there are."""
    return (
        db.workflows.count_documents({"locked": {"$exists": True}}),
        db.fwagent_journal.count_documents({"void": {"$exists": False}}),
    )


def killed(launchpad: LaunchPad, monkeypatch, at: str) -> Any:
    """Have a LaunchPad raise Cut in one of its methods, and do nothing any more afterwards."""

    def end(*_args: Any, **_named: Any) -> None:
        for name in ("_unlock", "_erase", "_finish_own"):
            monkeypatch.setattr(launchpad, name, lambda *_args: None)
        raise Cut

    monkeypatch.setattr(launchpad, at, end)
    return pytest.raises(Cut)


# ------------------------------------------------------------------------------------ refused writes


def test_a_child_that_would_outgrow_a_document_fizzles_its_parent(lp, db) -> None:
    ids = add(lp, {"a": "b"}, {"b": {"large": "x" * 9 * MIB}})
    other = add(lp, {"a": "b"})
    growing, plain = stage(lp, ids["a"], other["a"])
    result = lp.apply([report(growing, update_spec={"more": "y" * 8 * MIB}), report(plain)])
    assert {(o.launch_id, o.state) for o in result.applied} == {
        (growing.launch_id, "FIZZLED"),
        (plain.launch_id, "COMPLETED"),
    }
    assert result.released == [other["b"]]
    data = db.launches.find_one({"launch_id": growing.launch_id})["action"]["stored_data"]
    assert f"the spec of Firework {ids['b']} would outgrow MongoDB's 16 MiB" in data["_message"]
    assert data["_action"]["update_spec"].keys() == {"more"}
    assert "more" not in db.fireworks.find_one({"fw_id": ids["b"]})["spec"]
    assert db.fwagent_refused.count_documents({}) == 0
    assert left(db) == (0, 0)


def test_only_what_does_not_fit_is_refused_in_the_order_of_the_reports(lp, db) -> None:
    ids = add(lp, dict.fromkeys("abcde", "f"), {"f": {"large": "x" * 6 * MIB}})
    claims = stage(lp, *(ids[name] for name in "abcde"))
    given = [3 * MIB, 17 * MIB, 4 * MIB, 4 * MIB, 1]
    told = [
        report(claim, mod_spec=[{"_push": {"log": name * size}}])
        for claim, name, size in zip(claims, "abcde", given, strict=True)
    ]
    result = lp.apply(told)
    assert [outcome.state for outcome in result.applied] == [
        *("COMPLETED", "FIZZLED", "COMPLETED", "FIZZLED", "COMPLETED")
    ]
    log = db.fireworks.find_one({"fw_id": ids["f"]})["spec"]["log"]
    assert [(value[0], len(value)) for value in log] == [("a", 3 * MIB), ("c", 4 * MIB), ("e", 1)]
    assert db.fwagent_refused.count_documents({}) == 0


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"update_spec": {"large": "y" * 9 * MIB}}, {"large": "y" * 9 * MIB, "d": {"n": 1}}),
        ({"mod_spec": [{"_set": {"d->n": "y" * 2 * MIB}}]}, {"d": {"n": "y" * 2 * MIB}}),
        (
            {"mod_spec": [{"_unset": ["large"]}, {"_set": {"d->n": "y" * 9 * MIB}}]},
            {"d": {"n": "y" * 9 * MIB}, "large": None},
        ),
        ({"update_spec": {"a.b": 1}}, {"a.b": 1, "d": {"n": 1}}),
    ],
    ids=["replaced", "beside", "removed", "the whole spec"],
)
def test_what_is_replaced_or_removed_makes_room(lp, db, given, kept) -> None:
    ids = add(lp, {"a": "b"}, {"b": {"large": "x" * 9 * MIB, "d": {"n": 1}}})
    [claim] = stage(lp, ids["a"])
    [outcome] = lp.apply([report(claim, **given)]).applied
    assert outcome.state == "COMPLETED"
    spec = db.fireworks.find_one({"fw_id": ids["b"]})["spec"]
    del spec["_tasks"]
    expected = {"large": "x" * 9 * MIB, **kept}
    assert spec == {key: value for key, value in expected.items() if value is not None}


def test_a_child_without_room_for_its_failed_parents_is_told_their_numbers(lp, db) -> None:
    large = {"large": "x" * 8 * MIB, "_allow_fizzled_parents": True}
    ids = add(lp, {"a": "bc"}, {"b": large, "c": {"_allow_fizzled_parents": True}})
    [claim] = stage(lp, ids["a"])
    result = lp.apply([report(claim, "FIZZLED", stored_data={"log": "y" * 9 * MIB})])
    assert sorted(result.released) == [ids["b"], ids["c"]]
    told = {
        name: db.fireworks.find_one({"fw_id": ids[name]})["spec"]["_fizzled_parents"]
        for name in "bc"
    }
    assert told["b"] == [{"fw_id": ids["a"], "name": "a", "state": "FIZZLED"}]
    assert told["c"][0]["launches"][0]["action"]["stored_data"]["log"].startswith("yy")
    assert db.fwagent_refused.count_documents({}) == 0


def test_a_child_that_is_all_but_full_is_released_by_a_failed_parent(lp, db) -> None:
    room = 16 * MIB - 40 * 1024
    full = {"large": "x" * room, "_allow_fizzled_parents": True}
    ids = add(lp, {"a": "b"}, {"b": full})
    result = lp.apply(reports(stage(lp, ids["a"]), "FIZZLED"))
    assert result.released == [ids["b"]]
    assert db.fireworks.find_one({"fw_id": ids["b"]})["state"] == "READY"


def test_a_workflow_that_would_outgrow_a_document_fizzles_who_adds_too_much(lp, db) -> None:
    tasks = {"spec": {"_tasks": TASKS}}
    fireworks = [{"fw_id": number, "name": f"{number}", **tasks} for number in range(4)]
    # Less than what is left free for what else changes, and some hundred Fireworks.
    large = {"large": "x" * (16 * MIB - 64 * 1024 - 20_000)}
    lp.add({"fws": fireworks, "links": {0: [3], 1: [3], 2: [3]}, "metadata": large})
    few, many = ([{"fw_id": -n, **tasks} for n in range(1, size)] for size in (11, 1001))
    claims = stage(lp, 1, 2, 3)
    told = [
        report(claim, additions=new) for claim, new in zip(claims, (few, many, few), strict=True)
    ]
    result = lp.apply(told)
    assert [outcome.state for outcome in result.applied] == ["COMPLETED", "FIZZLED", "COMPLETED"]
    data = db.launches.find_one({"launch_id": claims[1].launch_id})["action"]["stored_data"]
    assert "its workflow, with what it adds, would outgrow MongoDB's 16 MiB" in data["_message"]
    assert len(data["_action"]["additions"]) == 1000
    assert db.fwagent_refused.count_documents({}) == 0
    assert db.fireworks.count_documents({}) == 4 + 20
    assert left(db) == (0, 0)
    consistent(db)


def test_a_workflow_that_the_server_refuses_is_not_left_locked(lp, db) -> None:
    ids = add(lp, {"a": "b"})
    told = reports(stage(lp, ids["a"]))
    db.command("collMod", "workflows", validator={"state": {"$ne": "RUNNING"}})
    try:
        lp.apply(told)
        assert left(db) == (0, 0)
    finally:
        db.command("collMod", "workflows", validator={})
    assert [doc["_id"].split("/")[1] for doc in db.fwagent_refused.find()] == ["workflows"]


@pytest.mark.parametrize("dated", [True, False])
def test_a_path_that_somebody_has_made_a_value_is_ours_and_nothing_else_is_lost(
    slow, wire, lp, db, dated
) -> None:
    ids = add(lp, {"a": "bc"}, {"b": {"d": {"x": {"old": 1}}, "e": {"y": 1}, "f": 1}})
    [claim] = stage(lp, ids["a"])

    def meanwhile() -> None:
        theirs: Document = {"spec.d": 7, "spec.f": 2, "spec.e.theirs": 3}
        if dated:
            theirs["updated_on"] = "meanwhile"
        db.fireworks.update_one({"fw_id": ids["b"]}, {"$set": theirs})

    wire.interrupt("update", "launches", meanwhile)
    mods = [{"_set": {"d->x->new": 2, "e->y": 2, "g": 1}}]
    assert sorted(slow.apply([report(claim, mod_spec=mods)]).released) == [ids["b"], ids["c"]]
    child = db.fireworks.find_one({"fw_id": ids["b"]})
    assert child["spec"] == {
        "_tasks": TASKS,
        "d": {"x": {"new": 2}},
        "e": {"y": 2, "theirs": 3},
        "f": 2,
        "g": 1,
    }
    assert child["state"] == "READY"
    assert db.fwagent_refused.count_documents({}) == 0
    assert left(db) == (0, 0)


@pytest.mark.parametrize("dated", [True, False])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"update_spec": {"d": {"new": 2}}}, {"new": 2}),
        ({"mod_spec": [{"_set": {"d->x": 5}}, {"_unset": {"d->old": 1}}]}, {"x": 5}),
        ({"mod_spec": [{"_unset": {"d->old": 1}}]}, 7),
    ],
    ids=["replaced", "set and removed", "removed"],
)
def test_what_is_removed_from_an_object_that_somebody_has_made_a_value(
    slow, wire, lp, db, dated, given, expected
) -> None:
    ids = add(lp, {"a": "b"}, {"b": {"d": {"old": 1}, "e": 1}})
    [claim] = stage(lp, ids["a"])

    def meanwhile() -> None:
        date = {"updated_on": "meanwhile"} if dated else {}
        db.fireworks.update_one({"fw_id": ids["b"]}, {"$set": {"spec.d": 7, **date}})

    wire.interrupt("update", "launches", meanwhile)
    assert slow.apply([report(claim, **given)]).released == [ids["b"]]
    child = db.fireworks.find_one({"fw_id": ids["b"]})
    assert child["spec"] == {"_tasks": TASKS, "d": expected, "e": 1}
    assert child["state"] == "READY"
    assert db.fwagent_refused.count_documents({}) == 0


def test_a_firework_that_loses_its_date_meanwhile_is_written(slow, wire, lp, db) -> None:
    ids = add(lp, {"a": "b"})
    [claim] = stage(lp, ids["a"])
    query = {"fw_id": ids["b"]}
    wire.interrupt(
        "update",
        "launches",
        lambda: db.fireworks.update_one(query, {"$unset": {"updated_on": ""}}),
    )
    slow.apply([report(claim, update_spec={"x": 1})])
    child = db.fireworks.find_one(query)
    assert (child["state"], child["spec"]["x"]) == ("READY", 1)


def test_children_that_change_alike_are_changed_at_once_and_each_for_itself(
    slow, wire, lp, db
) -> None:
    """One is paused meanwhile, one has got a value in the way: the others do not suffer for it."""
    ids = add(lp, {"a": "bcdef"})
    [claim] = stage(lp, ids["a"])
    journal: list[Document] = []

    def meanwhile() -> None:
        journal.extend(db.fwagent_journal.find())
        paused = {"state": "PAUSED", "updated_on": "meanwhile"}
        db.fireworks.update_one({"fw_id": ids["c"]}, {"$set": paused})
        db.fireworks.update_one({"fw_id": ids["d"]}, {"$set": {"spec.deep": 7}})

    wire.interrupt("update", "launches", meanwhile)
    slow.apply([report(claim, mod_spec=[{"_set": {"deep->x": 1}}])])
    writes = [write["f"]["fw_id"] for part in journal for write in bson.decode_all(part["writes"])
              if write["c"] == "fireworks"]  # fmt: skip
    assert {"$in": [ids[name] for name in "bcdef"]} in writes
    children = {name: db.fireworks.find_one({"fw_id": ids[name]}) for name in "bcdef"}
    assert {name: child["state"] for name, child in children.items()} == {
        **dict.fromkeys("bdef", "READY"),
        "c": "PAUSED",
    }
    assert all(child["spec"]["deep"] == {"x": 1} for child in children.values())
    assert left(db) == (0, 0)


def test_what_the_server_refuses_is_kept_aside_and_the_batch_ends(lp, db) -> None:
    ids, other = add(lp, {"a": "bc"}), add(lp, {"a": "b"})
    claims = stage(lp, ids["a"], other["a"])
    poison = {"spec.poison": {"$exists": False}}
    db.command("collMod", "fireworks", validator=poison, validationLevel="strict")
    try:
        mods = [{"_set": {"poison": 1}}]
        result = lp.apply([report(claims[0], mod_spec=mods), report(claims[1])])
        assert len(result.applied) == 2
        assert not result.deferred
        again = lp.apply(reports(claims))
    finally:
        db.command("collMod", "fireworks", validator={})
    assert len(again.known) == 2
    kept = list(db.fwagent_refused.find())
    assert {doc["_id"].rpartition("/")[2] for doc in kept} == {str(ids["b"]), str(ids["c"])}
    for doc in kept:
        assert "validation" in doc["reason"]
        write = bson.decode(doc["write"])
        assert (write["c"], write["u"]["$set"]["spec.poison"]) == ("fireworks", 1)
    assert db.fireworks.find_one({"fw_id": ids["b"]})["state"] == "WAITING"
    assert db.fireworks.find_one({"fw_id": ids["a"]})["state"] == "COMPLETED"
    assert db.fireworks.find_one({"fw_id": other["b"]})["state"] == "READY"
    assert left(db) == (0, 0)


# --------------------------------------------------------------------------------- large, or cut short


def many_writes(lp: LaunchPad) -> tuple[list[Any], list[int]]:
    """Reports whose writes take three parts of a journal, and the children that they change."""
    claims, children = [], []
    for _ in range(5):
        ids = add(lp, {"a": "b"})
        claims += stage(lp, ids["a"])
        children.append(ids["b"])
    return reports(claims, update_spec={"large": "x" * 4 * MIB}), children


def test_a_journal_of_several_parts(slow, wire, lp, db) -> None:
    told, children = many_writes(lp)
    sizes: list[int] = []

    def look() -> None:
        sizes.extend(len(part["writes"]) for part in db.fwagent_journal.find().sort("_id"))

    wire.interrupt("update", "launches", look)
    assert sorted(slow.apply(told).released) == children
    # Twice 4 MiB, in the child and in the launch, is one part and a bit.
    assert len(sizes) > 2
    assert sum(sizes) > 40 * MIB
    assert all(size < 16 * MIB for size in sizes)
    assert left(db) == (0, 0)


def test_a_journal_of_several_parts_is_carried_out_by_another_one(
    slow, lp, db, monkeypatch
) -> None:
    told, children = many_writes(lp)
    with killed(slow, monkeypatch, "_execute"):
        slow.apply(told)
    locks, parts = left(db)
    assert locks == 5
    assert parts > 2
    assert db.fireworks.count_documents({"state": "READY"}) == 0
    assert lp.resume(dead) == 1
    found = list(db.fireworks.find({"fw_id": {"$in": children}}))
    assert {doc["state"] for doc in found} == {"READY"}
    assert {len(doc["spec"]["large"]) for doc in found} == {4 * MIB}
    assert left(db) == (0, 0)
    assert len(lp.apply(told).known) == 5


def test_a_journal_of_which_a_part_is_missing_was_never_begun(slow, lp, db, monkeypatch) -> None:
    told, children = many_writes(lp)
    with killed(slow, monkeypatch, "_execute"):
        slow.apply(told)
    db.fwagent_journal.delete_one({"_id": {"$regex": "/0$"}})
    assert lp.resume(dead) == 1
    assert left(db) == (0, 0)
    assert {doc["state"] for doc in db.fireworks.find({"fw_id": {"$in": children}})} == {"WAITING"}
    assert sorted(lp.apply(told).released) == children


# -------------------------------------------------------------------------------------------- sessions


def test_a_session_that_was_stopped_before_its_journal_is_fenced(slow, wire, lp, db) -> None:
    ids = add(lp, {"a": "b"}, {"b": {"log": []}})
    told = reports(stage(lp, ids["a"]), mod_spec=[{"_push": {"log": 1}}])
    taken: list[Any] = []

    def somebody_else() -> None:
        taken.append(lp.resume(dead))
        taken.append(lp.apply(told).released)

    wire.interrupt("insert", "fwagent_journal", somebody_else)
    with pytest.raises(Fenced) as caught:
        slow.apply(told)
    assert "taken over" in caught.value.title
    assert caught.value.hint
    assert taken == [1, [ids["b"]]]
    assert db.fireworks.find_one({"fw_id": ids["b"]})["spec"]["log"] == [1]
    assert left(db) == (0, 0)
    # It goes on as a new session.
    assert len(slow.apply(told).known) == 1


def test_a_large_batch_that_is_fenced_leaves_no_part(slow, wire, lp, db) -> None:
    told, children = many_writes(lp)
    wire.interrupt("insert", "fwagent_journal", lambda: lp.resume(dead))
    with pytest.raises(Fenced):
        slow.apply(told)
    assert left(db) == (0, 0)
    assert sorted(slow.apply(told).released) == children


@pytest.mark.parametrize("collection", ["launches", "fireworks", "workflows", "offline_runs"])
def test_a_session_that_was_stopped_after_its_journal_changes_nothing_more(
    slow, wire, lp, db, collection
) -> None:
    ids = add(lp, {"a": "b"}, {"b": {"log": []}})
    told = reports(stage(lp, ids["a"]), mod_spec=[{"_push": {"log": 1}}])
    seen: list[Any] = []

    def everything() -> list[Any]:
        return [list(db[name].find()) for name in ("fireworks", "launches", "workflows")]

    def somebody_else() -> None:
        assert lp.resume(dead) == 1
        # ... and the world goes on.
        lp.apply(reports(stage(lp, ids["b"])))
        seen.append(everything())

    if collection == "workflows":  # the second time: the first one takes the lock
        wire.interrupt(
            "update", "fireworks", lambda: wire.interrupt("update", collection, somebody_else)
        )
    else:
        wire.interrupt("update", collection, somebody_else)
    try:
        slow.apply(told)
    except Fenced:
        assert collection != "offline_runs"
    assert [everything()] == seen
    assert db.fireworks.find_one({"fw_id": ids["b"]})["state"] == "COMPLETED"
    assert db.fireworks.find_one({"fw_id": ids["b"]})["spec"]["log"] == [1]
    assert left(db) == (0, 0)


def test_a_session_whose_lock_was_voided_cannot_begin_another_batch(slow, lp, db) -> None:
    first, second = add(lp, {"a": ""}), add(lp, {"a": ""})
    claims = stage(lp, first["a"], second["a"])
    slow.apply(reports(claims[:1]))
    assert lp.resume(dead) == 1
    with pytest.raises(Fenced):
        slow.apply(reports(claims[1:]))
    assert len(slow.apply(reports(claims[1:])).applied) == 1


def test_an_idle_session_that_was_declared_dead_begins_anew(slow, lp, db) -> None:
    first, second = add(lp, {"a": ""}), add(lp, {"a": ""})
    claims = stage(lp, first["a"], second["a"])
    slow.apply(reports(claims[:1]))
    assert lp.resume(dead) == 1
    later = utcnow() + timedelta(seconds=SESSION_SECONDS + 1)
    slow._clock = lambda: later
    assert len(slow.apply(reports(claims[1:])).applied) == 1


def test_an_expired_session_is_over_and_a_living_one_is_not(slow, lp, db) -> None:
    slow.apply(reports(stage(lp, add(lp, {"a": ""})["a"])))
    assert lp.resume() == 0
    past = datetime.now(timezone.utc) - timedelta(seconds=1)
    db.fwagent_sessions.update_one({"_id": slow._session}, {"$set": {"expires_at": past}})
    assert lp.resume() == 1
    assert lp.resume() == 0


def test_an_own_session_is_never_dead(slow, lp, db) -> None:
    slow.apply(reports(stage(lp, add(lp, {"a": ""})["a"])))
    lp.close()
    past = datetime.now(timezone.utc) - timedelta(hours=1)
    db.fwagent_sessions.update_many({}, {"$set": {"expires_at": past}})
    assert slow.resume(dead) == 0
    assert db.fwagent_journal.count_documents({}) == 0


def test_is_gone_is_asked_about_sessions_of_others_only(slow, lp, db) -> None:
    slow.apply(reports(stage(lp, add(lp, {"a": ""})["a"])))
    asked: list[tuple[str, int]] = []

    def is_gone(host: str, pid: int) -> bool:
        asked.append((host, pid))
        return False

    assert lp.resume(is_gone) == 0
    assert asked == [(slow.host, os.getpid())]


def test_resume_with_nothing_to_do_costs_few_commands(slow, wire, lp, db) -> None:
    lp.apply(reports(stage(lp, add(lp, {"a": ""})["a"])))
    slow.check()
    wire.commands.clear()
    assert slow.resume(lambda _host, _pid: False) == 0
    assert len(wire.commands) <= 6
    assert {collection for _command, collection in wire.commands} <= {
        "fwagent_leases",
        "fwagent_sessions",
        "fwagent_journal",
    }


def test_resume_releases_the_locks_of_the_dead_and_no_others(slow, lp, db, monkeypatch) -> None:
    first, second, third = (add(lp, {"a": ""}) for _ in range(3))
    told = reports(stage(lp, first["a"]))
    foreign = "fwagent:login7:4711:ab:cd"
    db.workflows.update_one({"nodes": second["a"]}, {"$set": {"locked": foreign}})
    db.workflows.update_one({"nodes": third["a"]}, {"$set": {"locked": True}})
    with killed(slow, monkeypatch, "_commit"):
        slow.apply(told)
    assert left(db) == (3, 0)
    assert lp.resume(dead) == 1
    locks = [workflow.get("locked") for workflow in db.workflows.find().sort("_id")]
    assert locks == [None, foreign, True]
    assert len(lp.apply(told).applied) == 1


def test_a_finished_process_leaves_no_session(db_uri, lp_name, lp, db) -> None:
    launchpads = [LaunchPad.from_uri(db_uri, lp_name) for _ in range(3)]
    for launchpad in launchpads[:2]:
        launchpad.apply(reports(stage(lp, add(lp, {"a": ""})["a"])))
    lp.close()
    assert db.fwagent_sessions.count_documents({}) == 2
    for launchpad in launchpads:
        launchpad.close()
    assert db.fwagent_sessions.count_documents({}) == 0


def test_a_close_makes_whole_what_an_outage_has_cut(slow, lp, db, monkeypatch) -> None:
    ids = add(lp, {"a": "b"})
    told = reports(stage(lp, ids["a"]))
    original = slow._write

    def fails(*_args: Any) -> None:
        monkeypatch.setattr(slow, "_write", original)
        raise DatabaseUnreachable("gone")

    monkeypatch.setattr(slow, "_write", fails)
    with pytest.raises(DatabaseUnreachable):
        slow.apply(told)
    assert left(db) == (1, 1)
    lp.close()
    slow.close()
    assert left(db) == (0, 0)
    assert db.fwagent_sessions.count_documents({}) == 0
    assert db.fireworks.find_one({"fw_id": ids["b"]})["state"] == "READY"


def test_a_session_that_cannot_finish_stays_for_others(slow, lp, db, monkeypatch) -> None:
    ids = add(lp, {"a": "b"})
    told = reports(stage(lp, ids["a"]))

    def fails(*_args: Any) -> None:
        raise DatabaseUnreachable("gone")

    monkeypatch.setattr(slow, "_write", fails)
    with pytest.raises(DatabaseUnreachable):
        slow.apply(told)
    slow.close()
    assert left(db) == (1, 1)
    assert lp.resume(dead) == 1
    assert left(db) == (0, 0)
    assert db.fireworks.find_one({"fw_id": ids["b"]})["state"] == "READY"


# --------------------------------------------------------------------------- locks that are taken away

ADDED = {"fw_id": -1, "name": "added", "spec": {"_tasks": TASKS}}


def whole(db: Database[Document], ids: dict[str, int]) -> None:
    """One completed Firework, its child released, what it has added in its workflow, nothing else."""
    states = {doc["fw_id"]: doc["state"] for doc in db.fireworks.find()}
    [workflow] = db.workflows.find()
    assert {int(key): state for key, state in workflow["fw_states"].items()} == states
    assert sorted(workflow["nodes"]) == sorted(states)
    assert sorted(states.values()) == ["COMPLETED", "READY", "READY"]
    assert states[ids["a"]] == "COMPLETED"
    assert db.fireworks.distinct("spec.log") == [1]
    assert [doc["state"] for doc in db.launches.find()] == ["COMPLETED"]
    assert db.offline_runs.distinct("completed") == [True]
    assert left(db) == (0, 0)


@pytest.mark.parametrize("collection", ["launches", "fireworks", "workflows", "offline_runs"])
@pytest.mark.parametrize("stopped", [True, False])
def test_a_person_who_unlocks_a_half_done_batch_breaks_nothing(
    slow, wire, lp, db, monkeypatch, collection, stopped
) -> None:
    """`lpad admin unlock` while the process is stopped before a write, or after it was killed there."""
    ids = add(lp, {"a": "b"}, {"b": {"log": []}})
    told = reports(stage(lp, ids["a"]), additions=[ADDED], mod_spec=[{"_push": {"log": 1}}])

    def unlock() -> None:
        db.workflows.update_many({}, {"$unset": {"locked": ""}})
        if not stopped:
            for name in ("_unlock", "_erase", "_finish_own"):
                monkeypatch.setattr(slow, name, lambda *_args: None)
            raise Cut

    at = ("update", collection)
    if collection == "workflows":  # the second time: the first one takes the lock
        wire.interrupt("update", "fireworks", lambda: wire.interrupt(*at, unlock))
    else:
        wire.interrupt(*at, unlock)
    with suppress(Cut, Fenced):
        slow.apply(told)
    lp.resume(dead)
    lp.apply(told)
    whole(db, ids)


def test_a_journal_that_comes_after_somebody_else_has_gone_on_adds_nothing(
    slow, wire, lp, db, monkeypatch
) -> None:
    ids = add(lp, {"a": "b"}, {"b": {"log": []}})
    told = reports(stage(lp, ids["a"]), additions=[ADDED], mod_spec=[{"_push": {"log": 1}}])
    with killed(slow, monkeypatch, "_write"):
        slow.apply(told)
    db.workflows.update_many({}, {"$unset": {"locked": ""}})
    lp.apply(told)
    lp.resume(dead)
    whole(db, ids)


def cut_before_its_workflows(slow: LaunchPad, monkeypatch, work: Callable[[], object]) -> None:
    """Kill a session when its Fireworks are written, and take its locks away."""
    write: Callable[..., int] = slow._write

    def some(collection: str, writes: list[Write], token: str) -> int:
        if collection != "workflows":
            return write(collection, writes, token)
        for name in ("_unlock", "_erase", "_finish_own"):
            monkeypatch.setattr(slow, name, lambda *_args: None)
        raise Cut

    monkeypatch.setattr(slow, "_write", some)
    with pytest.raises(Cut):
        work()
    slow._db.workflows.update_many({}, {"$unset": {"locked": ""}})


def test_what_was_added_without_a_place_goes_when_its_parent_has_been_rerun(
    slow, lp, db, monkeypatch
) -> None:
    ids = add(lp, {"a": ""})
    told = reports(stage(lp, ids["a"]), additions=[ADDED])
    cut_before_its_workflows(slow, monkeypatch, lambda: slow.apply(told))
    assert db.fireworks.distinct("name") == ["a", "added"]
    lp.rerun([ids["a"]])
    assert lp.resume(dead) == 1
    [firework] = db.fireworks.find()
    assert (firework["name"], firework["state"]) == ("a", "READY")
    assert db.workflows.find_one()["nodes"] == [ids["a"]]
    lp.apply(reports(stage(lp, ids["a"]), additions=[ADDED]))
    assert db.fireworks.distinct("state") == ["COMPLETED", "READY"]
    consistent(db)


def test_a_journal_whose_launch_somebody_has_ended_otherwise_is_not_carried_out(
    slow, lp, db, monkeypatch
) -> None:
    """`lpad detect_lostruns --fizzle` asks for no lock before it writes the launch."""
    ids = add(lp, {"a": "b"})
    told = reports(stage(lp, ids["a"]), update_spec={"x": 1})
    with killed(slow, monkeypatch, "_execute"):
        slow.apply(told)
    db.launches.update_one({}, {"$set": {"state": "FIZZLED"}})
    assert lp.resume(dead) == 1
    states = {doc["name"]: doc["state"] for doc in db.fireworks.find()}
    assert states == {"a": "RESERVED", "b": "WAITING"}
    assert "x" not in db.fireworks.find_one({"fw_id": ids["b"]})["spec"]
    assert left(db) == (0, 0)


def test_a_workflow_that_is_deleted_while_it_is_changed(slow, wire, lp, db) -> None:
    """`lpad delete_wflows` asks for no lock."""
    gone, other = add(lp, {"a": "b"}), add(lp, {"a": "b"}, {"b": {"log": []}})
    claims = stage(lp, gone["a"], other["a"])
    given: Document = {"additions": [ADDED], "mod_spec": [{"_push": {"log": 1}}]}
    told = [report(claims[0], additions=[ADDED]), report(claims[1], **given)]

    def delete() -> None:
        db.workflows.delete_one({"nodes": gone["a"]})
        db.fireworks.delete_many({"fw_id": {"$in": list(gone.values())}})
        db.launches.delete_one({"launch_id": claims[0].launch_id})
        db.offline_runs.delete_one({"launch_id": claims[0].launch_id})

    at = ("update", "workflows")
    wire.interrupt("update", "fireworks", lambda: wire.interrupt(*at, delete))
    with pytest.raises(Fenced) as caught:
        slow.apply(told)
    assert "a workflow was unlocked or deleted" in caught.value.title
    again = slow.apply(told)
    assert "not in this database" in again.ignored[0].reason
    assert [outcome.launch_id for outcome in again.known] == [claims[1].launch_id]
    whole(db, other)


def test_a_journal_waits_for_whoever_holds_what_it_has_begun(slow, lp, db, monkeypatch) -> None:
    ids = add(lp, {"a": "b"}, {"b": {"log": []}})
    told = reports(stage(lp, ids["a"]), additions=[ADDED], mod_spec=[{"_push": {"log": 1}}])
    cut_before_its_workflows(slow, monkeypatch, lambda: slow.apply(told))
    later = datetime.now(timezone.utc)
    db.workflows.update_one({}, {"$set": {"locked": True, "updated_on": later}})
    assert lp.resume(dead) == 0
    assert "locked by FireWorks" in lp.apply(told).deferred[0].reason
    assert left(db) == (1, 1)
    db.workflows.update_one({}, {"$unset": {"locked": ""}})
    assert lp.resume(dead) == 1
    lp.apply(told)
    whole(db, ids)


def test_one_s_own_journal_waits_even_when_its_session_ends(slow, lp, db, monkeypatch) -> None:
    ids = add(lp, {"a": "b"}, {"b": {"log": []}})
    told = reports(stage(lp, ids["a"]), additions=[ADDED], mod_spec=[{"_push": {"log": 1}}])
    write: Callable[..., int] = slow._write

    def fails(collection: str, writes: list[Write], token: str) -> int:
        if collection == "workflows":
            raise DatabaseUnreachable("gone")
        return write(collection, writes, token)

    monkeypatch.setattr(slow, "_write", fails)
    with pytest.raises(DatabaseUnreachable):
        slow.apply(told)
    monkeypatch.setattr(slow, "_write", write)
    later = datetime.now(timezone.utc)
    db.workflows.update_one({}, {"$set": {"locked": True, "updated_on": later}})
    assert slow.apply(told).deferred
    slow.close()
    assert left(db) == (1, 1)
    db.workflows.update_one({}, {"$unset": {"locked": ""}})
    assert lp.resume(dead) > 0
    lp.apply(told)
    whole(db, ids)


def test_what_was_picked_meanwhile_is_not_started_again(slow, lp, db, monkeypatch) -> None:
    """As long as the detour had no place, a refresh made the child READY."""
    ids = add(lp, {"a": "b", "b": "c"}, {"b": {"log": []}})
    told = reports(stage(lp, ids["a"]), detours=[ADDED], mod_spec=[{"_push": {"log": 1}}])
    cut_before_its_workflows(slow, monkeypatch, lambda: slow.apply(told))
    db.workflows.update_one({}, {"$set": {"updated_on": datetime.now(timezone.utc)}})
    db.fireworks.update_one({"fw_id": ids["b"]}, {"$set": {"state": "READY", "updated_on": "now"}})
    child = stage(lp, ids["b"])
    assert lp.resume(dead) == 1
    lp.apply(told)
    states = {doc["name"]: doc["state"] for doc in db.fireworks.find()}
    assert states == {"a": "COMPLETED", "b": "RESERVED", "c": "WAITING", "added": "READY"}
    # FireWorks' rule, too: it is COMPLETED, and c READY, when the detour is.
    assert lp.apply(reports(child)).released == []
    detour = db.fireworks.find_one({"name": "added"})["fw_id"]
    assert lp.apply(reports(stage(lp, detour))).released == [ids["c"]]
    assert db.fireworks.find_one({"fw_id": ids["b"]})["spec"]["log"] == [1]
    consistent(db)


def test_a_late_defuse_leaves_what_was_archived_since(slow, lp, db, monkeypatch) -> None:
    """Neither of the two dates the workflow."""
    ids = add(lp, {"a": "b"})
    with killed(slow, monkeypatch, "_erase"):
        slow.defuse([ids["a"]])
    archived = {"state": "ARCHIVED", "updated_on": "2026-11-23T12:00:00"}
    db.fireworks.update_many({}, {"$set": archived})
    states = dict.fromkeys(map(str, ids.values()), "ARCHIVED")
    db.workflows.update_one({}, {"$set": {"fw_states": states, "state": "ARCHIVED"}})
    assert lp.resume(dead) == 1
    workflow = db.workflows.find_one()
    assert (workflow["fw_states"], workflow["state"]) == (states, "ARCHIVED")
    assert left(db) == (0, 0)


def test_a_lock_that_is_gone_before_anything_is_written_is_taken_again(slow, wire, lp, db) -> None:
    """As a server forgets it that is killed and comes back."""
    ids = add(lp, {"a": "b"}, {"b": {"log": []}})
    told = reports(stage(lp, ids["a"]), additions=[ADDED], mod_spec=[{"_push": {"log": 1}}])
    forget = {"$unset": {"locked": ""}}
    wire.interrupt("insert", "fwagent_journal", lambda: db.workflows.update_many({}, forget))
    assert slow.apply(told).applied[0].state == "COMPLETED"
    whole(db, ids)


@pytest.mark.parametrize("state", ["RUNNING", "FIZZLED"])
def test_a_launch_that_gets_another_state_while_its_end_is_applied(
    slow, wire, lp, db, state
) -> None:
    """`lpad recover_offline` says RUNNING, or `lpad detect_lostruns --fizzle` gives it up."""
    ids = add(lp, {"a": "b"})
    [claim] = stage(lp, ids["a"])
    entry = {"state": state, "created_on": "2026-11-23T12:02:00+00:00"}
    theirs = {"$set": {"state": state}, "$push": {"state_history": entry}}
    wire.interrupt("update", "launches", lambda: db.launches.update_one({}, theirs))
    result = slow.apply([report(claim, stored_data={"energy": -1.5})])
    launch = db.launches.find_one()
    child = db.fireworks.find_one({"fw_id": ids["b"]})
    if state == "RUNNING":
        assert (launch["state"], launch["action"]["stored_data"]) == ("COMPLETED", {"energy": -1.5})
        assert child["state"] == "READY"
    else:
        assert "the launch is FIZZLED in the database" in result.ignored[0].reason
        assert (launch["state"], child["state"]) == ("FIZZLED", "WAITING")
        assert db.offline_runs.find_one()["completed"] is False
    assert left(db) == (0, 0)


def test_a_journal_that_cannot_be_carried_out_keeps_nobody_waiting(
    slow, wire, lp, db, monkeypatch
) -> None:
    ids, other = add(lp, {"a": "b"}), add(lp, {"a": "b"})
    stuck, free = stage(lp, ids["a"], other["a"])
    with killed(slow, monkeypatch, "_write"):
        slow.apply([report(stuck)])
    db.fwagent_journal.update_one({}, {"$set": {"writes": b"no BSON"}})
    assert lp.resume(dead) == 0
    assert lp.apply([report(free)]).released == [other["b"]]
    assert "no BSON" in str(db.fwagent_journal.find_one()["writes"])
    [refused] = db.fwagent_refused.find()
    assert refused["reason"]
    [lock] = lp.locks(is_gone=dead)
    assert lp.unlock([lock], dead) == [lock]
    assert left(db) == (0, 0)
    assert lp.apply([report(stuck)]).released == [ids["b"]]


# --------------------------------------------------------------------------------------------- purging


def test_what_is_long_over_is_purged(slow, lp, db, monkeypatch) -> None:
    for launchpad in (slow, lp):
        launchpad.apply(reports(stage(lp, add(lp, {"a": ""})["a"])))
    with killed(slow, monkeypatch, "_commit"):
        slow.apply(reports(stage(lp, add(lp, {"a": ""})["a"])))
    assert lp.resume(dead) == 1
    assert db.fwagent_journal.count_documents({"void": True}) == 1
    assert db.fwagent_sessions.count_documents({"dead": True}) == 1

    before = utcnow() + timedelta(days=module._KEEP_DAYS - 1)
    lp._clock = lambda: before
    lp.resume()
    assert db.fwagent_journal.count_documents({"void": True}) == 1
    assert db.fwagent_sessions.count_documents({"dead": True}) == 1

    after = utcnow() + timedelta(days=module._KEEP_DAYS + 1)
    lp._clock = lambda: after
    lp.resume()
    assert db.fwagent_journal.count_documents({}) == 0
    assert [doc["_id"] for doc in db.fwagent_sessions.find()] == [lp._session]


# ------------------------------------------------------------------------- workflows of old FireWorks


def test_a_workflow_without_parent_links_gets_all_of_them(lp, db) -> None:
    """Those of new Fireworks alone would make roots of all the others."""
    ids = add(lp, {"a": "b", "b": "d", "c": "d"})
    db.workflows.update_one({}, {"$unset": {"parent_links": ""}})
    addition = {"fw_id": -1, "name": "new", "spec": {"_tasks": TASKS}}
    lp.apply(reports(stage(lp, ids["a"]), additions=[addition]))
    lp.apply(reports(stage(lp, ids["b"])))
    assert db.fireworks.find_one({"fw_id": ids["d"]})["state"] == "WAITING"
    assert db.workflows.find_one()["parent_links"] == {
        str(ids["b"]): [ids["a"]],
        str(ids["d"]): [ids["b"], ids["c"]],
        "5": [ids["a"]],
    }
