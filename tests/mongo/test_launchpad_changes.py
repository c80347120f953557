"""Rerun, defuse and forget on a real server: with others at work, and in few commands."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier

import pytest

from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Forgotten
from fwcore.rerun import Change, Recovery
from tests.support.launchpads import WORKER, Wire, add, consistent, report, reports, stage

FINDER = {"_dupefinder": {"_fw_name": "DupeFinderExact"}}
CHECKPOINT = {"_task_n": 1, "_all_stored_data": {"e": 1}, "_all_update_spec": {}}


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def slow(db_uri, lp_name, wire) -> Iterator[LaunchPad]:
    """A LaunchPad that somebody gets in the way of."""
    launchpad = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    yield launchpad
    launchpad.close()


class Cut(Exception):
    """Stands for the end of a process."""


def states(db, ids) -> dict[str, str]:
    return {name: db.fireworks.find_one({"fw_id": fw_id})["state"] for name, fw_id in ids.items()}


def completed(lp, ids, names) -> None:
    for name in names:
        lp.apply(reports(stage(lp, ids[name])))


# --------------------------------------------------------------------------------------------- rerun


def test_rerun_and_run_again(lp, db) -> None:
    ids = add(lp, {"a": "b"})
    [claim] = stage(lp, ids["a"])
    result = lp.rerun([ids["a"], ids["b"], 999])
    assert result.changed == [Change(ids["a"], "READY")]
    assert result.skipped == [
        Change(ids["b"], reason="it is WAITING already"),
        Change(999, reason="no workflow holds Firework 999"),
    ]
    assert result.released == [ids["a"]]
    assert lp.open_launches() == []
    consistent(db)

    [again] = stage(lp, ids["a"])
    assert [old["launch_id"] for old in again.firework["archived_launches"]] == [claim.launch_id]
    [late] = lp.apply([report(claim)]).ignored
    assert "is retired" in late.reason
    lp.apply([report(again, update_spec={"x": 1})])
    assert states(db, ids) == {"a": "COMPLETED", "b": "READY"}
    consistent(db)


def test_the_next_launch_is_told_where_to_go_on(lp, db) -> None:
    ids = add(lp, {"a": ""})
    [claim] = stage(lp, ids["a"])
    lp.apply([report(claim, "RUNNING")._replace(checkpoint=CHECKPOINT)])
    lp.apply([report(claim, "FIZZLED")])
    lp.rerun(ids.values(), recovery=Recovery("prev_dir"))
    [again] = stage(lp, ids["a"])
    spec = again.firework["spec"]
    origin = {"_prev_dir": claim.launch_dir, "_launch_id": claim.launch_id, "_mode": "prev_dir"}
    assert spec["_recovery"] == {**CHECKPOINT, **origin}
    assert spec["_launch_dir"] == claim.launch_dir


def test_what_is_locked_is_deferred_and_the_others_go_on(lp, db) -> None:
    free, locked = add(lp, {"a": "b"}), add(lp, {"a": "b"})
    stage(lp, free["a"], locked["a"])
    db.workflows.update_one({"nodes": locked["a"]}, {"$set": {"locked": True}})
    for call, state in ((lp.rerun, "READY"), (lp.defuse, "DEFUSED")):
        result = call([free["a"], locked["a"]])
        assert result.changed == [Change(free["a"], state)]
        why = "the workflow is locked by FireWorks"
        assert result.deferred == [Change(locked["a"], reason=why)]
    assert db.fireworks.find_one({"fw_id": locked["a"]})["state"] == "RESERVED"
    assert [run.fw_id for run in lp.open_launches()] == [locked["a"]]


@pytest.mark.parametrize("call", ["rerun", "defuse"])
def test_duplicates_in_another_workflow(lp, db, call) -> None:
    one, two = (add(lp, {"a": "b"}, {"a": FINDER}) for _ in range(2))
    [claim] = stage(lp, one["a"])
    stolen = {"$set": {"state": "RESERVED", "launches": [claim.launch_id]}}
    db.fireworks.update_one({"fw_id": two["a"]}, stolen)
    db.workflows.update_one({"nodes": two["a"]}, {"$set": {"locked": True}})
    result = getattr(lp, call)([one["a"]])
    assert result.changed == []
    assert str(two["a"]) in result.deferred[0].reason
    assert lp.open_launches()

    db.workflows.update_one({"nodes": two["a"]}, {"$unset": {"locked": ""}})
    result = getattr(lp, call)([one["a"]])
    assert {change.fw_id for change in result.changed} == {one["a"], two["a"]}
    assert states(db, one)["a"] == ("READY" if call == "rerun" else "DEFUSED")
    assert states(db, two)["a"] == "READY"
    assert lp.open_launches() == []


def test_more_than_a_batch(lp, db, monkeypatch) -> None:
    monkeypatch.setattr("fwcore.launchpad.changes.BATCH", 2)
    ids = add(lp, {"a": "b", "b": "c", "c": "d"})
    completed(lp, ids, "abc")
    result = lp.rerun([ids[name] for name in "dcabd"])
    # The first batch has made `c` READY, the second one takes it back.
    assert sorted((change.fw_id, change.state) for change in result.changed) == [
        (ids["a"], "READY"),
        (ids["b"], "WAITING"),
        (ids["c"], "WAITING"),
        (ids["d"], "WAITING"),
    ]
    assert result.released == [ids["a"]]
    assert result.skipped == [], "what an earlier batch has reset was not left out"
    consistent(db)


def test_the_number_of_commands_does_not_depend_on_the_number_of_fireworks(
    slow, wire, lp, db
) -> None:
    costs = []
    for depth, count in ((1, 2), (4, 30)):
        names = "abcdefg"[: depth + 1]
        chain = dict(pairwise(names))
        workflows = [add(lp, chain, {"a": FINDER}) for _ in range(count)]
        for name in names:
            lp.apply(reports(stage(lp, *(ids[name] for ids in workflows))))
        half = len(workflows) // 2
        for one, two in zip(workflows[:half], workflows[half:], strict=True):
            shared = db.fireworks.find_one({"fw_id": one["a"]})["launches"]
            db.fireworks.update_one({"fw_id": two["a"]}, {"$set": {"launches": shared}})
        for call in (slow.rerun, slow.defuse, slow.forget):
            before = len(wire.commands)
            call(ids["a"] for ids in workflows[:half])
            costs.append(len(wire.commands) - before)
    assert costs[:3] == costs[3:]
    rerun, defuse, forget = costs[:3]
    assert rerun <= 17
    assert defuse <= 14
    assert forget == 3


# ------------------------------------------------------------------------- what others do in between


@pytest.mark.parametrize("flipped", ["PAUSED", "DEFUSED"])
def test_a_firework_that_is_held_in_between_stays_held_and_is_rerun(
    slow, wire, lp, db, flipped
) -> None:
    """`lpad pause_fws` flips without the lock, then waits for it to tell the workflow."""
    ids = add(lp, {"a": "b"})
    [claim] = stage(lp, ids["a"])

    def flip() -> None:
        db.fireworks.update_one({"fw_id": ids["a"]}, {"$set": {"state": flipped}})

    wire.interrupt("update", "fireworks", flip)
    slow.rerun([ids["a"]])
    firework = db.fireworks.find_one({"fw_id": ids["a"]})
    assert wire.interrupted
    assert firework["state"] == flipped
    # Its run is retired, so its launch must not be one that it counts on.
    assert (firework["launches"], firework["archived_launches"]) == ([], [claim.launch_id])
    assert lp.open_launches() == []


@pytest.mark.parametrize("call", ["rerun", "defuse"])
def test_a_child_that_is_picked_in_between_goes_back_too(slow, wire, lp, db, call) -> None:
    """`rlaunch` picks without the lock: the child would run on what its parent gave it before."""
    ids = add(lp, {"a": "b"})
    completed(lp, ids, "a")

    def pick() -> None:
        db.launches.insert_one({**db.launches.find_one({}, {"_id": 0}), "launch_id": 77})
        picked = {"state": "RUNNING", "launches": [77]}
        db.fireworks.update_one({"fw_id": ids["b"]}, {"$set": picked})

    wire.interrupt("update", "fireworks", pick)
    getattr(slow, call)([ids["a"]])
    assert wire.interrupted
    assert states(db, ids)["b"] == "WAITING"
    assert db.fireworks.find_one({"fw_id": ids["b"]})["archived_launches"] == [77]
    consistent(db)


def test_what_is_picked_while_it_is_defused_is_defused(slow, wire, lp, db) -> None:
    ids = add(lp, {"a": ""})
    pick = {"$set": {"state": "RESERVED"}}
    wire.interrupt("update", "fireworks", lambda: db.fireworks.update_one({}, pick))
    slow.defuse(ids.values())
    assert wire.interrupted
    assert states(db, ids) == {"a": "DEFUSED"}
    consistent(db)


def test_a_recovery_by_fireworks_in_between_does_not_undo_a_defuse(slow, wire, lp, db) -> None:
    """`lpad recover_offline` makes each Firework with an open run RUNNING for a moment."""
    ids = add(lp, {"a": ""})
    stage(lp, ids["a"])
    flip = {"$set": {"state": "RUNNING"}}
    wire.interrupt("update", "fireworks", lambda: db.fireworks.update_one({}, flip))
    slow.defuse(ids.values())
    assert wire.interrupted
    assert states(db, ids) == {"a": "DEFUSED"}
    consistent(db)


def test_what_is_picked_before_a_cut_rerun_is_finished_runs(slow, lp, db, monkeypatch) -> None:
    """The rerun has reached the Firework, not its workflow, when the process ends."""
    ids = add(lp, {"a": "b"})
    [claim] = stage(lp, ids["a"])
    write = slow._write

    def cut(collection, writes, token):
        if collection == "workflows":
            raise Cut
        return write(collection, writes, token)

    with monkeypatch.context() as patched:
        patched.setattr(slow, "_write", cut)
        with pytest.raises(Cut):
            slow.rerun([ids["a"]])
    db.launches.insert_one({**db.launches.find_one({}, {"_id": 0}), "launch_id": 77})
    picked = {"$set": {"state": "RUNNING", "launches": [77]}}
    assert db.fireworks.update_one({"state": "READY"}, picked).modified_count == 1
    assert lp.resume(is_gone=lambda _host, _pid: True) == 1
    firework = db.fireworks.find_one({"fw_id": ids["a"]})
    assert (firework["state"], firework["launches"]) == ("RUNNING", [77])
    assert firework["archived_launches"] == [claim.launch_id]
    assert [run["deprecated"] for run in db.offline_runs.find()] == [True]


@pytest.mark.parametrize("call", ["rerun", "defuse"])
def test_reports_are_applied_at_the_same_time(db_uri, lp_name, lp, db, call) -> None:
    """Each Firework is rerun before or after its report: both leave it and its children whole."""
    workflows = [add(lp, {"a": "b"}, {"b": {"log": []}}) for _ in range(40)]
    firsts = [ids["a"] for ids in workflows]
    told = reports(stage(lp, *firsts), mod_spec=[{"_push": {"log": 1}}])
    other = LaunchPad.from_uri(db_uri, lp_name)
    barrier = Barrier(2)

    def apply() -> None:
        barrier.wait()
        pending = told
        while pending:
            result = lp.apply(pending[:3])
            again = {outcome.launch_id for outcome in result.deferred}
            pending = [each for each in pending[:3] if each.launch_id in again] + pending[3:]

    def change() -> None:
        barrier.wait()
        pending = firsts[::-1]
        while pending:
            result = getattr(other, call)(pending[:3])
            again = [change.fw_id for change in result.deferred]
            pending = [*again, *pending[3:]]

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(apply), pool.submit(change)]:
            done.result()
    other.close()
    consistent(db)
    assert lp.open_launches() == []
    state = "READY" if call == "rerun" else "DEFUSED"
    before = 0
    for ids in workflows:
        assert states(db, ids) == {"a": state, "b": "WAITING"}
        [launch_id] = db.fireworks.find_one({"fw_id": ids["a"]})["archived_launches"]
        log = db.fireworks.find_one({"fw_id": ids["b"]})["spec"]["log"]
        reported = db.launches.find_one({"launch_id": launch_id})["state"] == "COMPLETED"
        assert log == ([1] if reported else [])
        before += reported
    assert 0 < before < len(workflows), "the one was done before the other had begun"


# -------------------------------------------------------------------------------------------- forget


def test_forget(lp, db) -> None:
    ids, other = add(lp, {"a": "b"}), add(lp, {"a": ""})
    completed(lp, ids, "a")
    [old] = db.launches.distinct("launch_id")
    # As a rerun by FireWorks, which leaves runs as they are.
    rerun = {"launches": [], "archived_launches": [old], "state": "READY"}
    db.fireworks.update_one({"fw_id": ids["a"]}, {"$set": rerun})
    [claim, kept] = stage(lp, ids["a"], other["a"])
    before = list(db.fireworks.find()), list(db.launches.find()), list(db.workflows.find())

    forgotten = lp.forget([ids["a"], ids["b"], 999])
    assert forgotten == [Forgotten(ids["a"], old), Forgotten(ids["a"], claim.launch_id)]
    assert [run.launch_id for run in lp.open_launches()] == [kept.launch_id]
    assert before == (
        list(db.fireworks.find()),
        list(db.launches.find()),
        list(db.workflows.find()),
    )
    assert lp.forget([ids["a"]]) == []
    assert "is retired" in lp.apply([report(claim)]).ignored[0].reason


def test_a_forgotten_firework_is_rerun_or_defused(lp, db) -> None:
    """Forgetting freezes the state; this is the way out."""
    ids = add(lp, {"a": "", "b": ""})
    stage(lp, *ids.values())
    lp.forget(ids.values())
    lp.rerun([ids["a"]])
    lp.defuse([ids["b"]])
    assert states(db, ids) == {"a": "READY", "b": "DEFUSED"}
    assert [claim.fw_id for claim in lp.claim(WORKER, 5)] == [ids["a"]]


def test_nothing_is_asked_for(slow, wire) -> None:
    before = len(wire.commands)
    assert not slow.rerun([]).changed
    assert not slow.defuse([]).changed
    assert slow.forget([]) == []
    assert len(wire.commands) == before


def test_forget_reads_what_it_forgets_only(lp, db) -> None:
    """Offline runs have no index of their Fireworks."""
    ids = [add(lp, {"a": ""})["a"] for _ in range(3)]
    stage(lp, *ids)
    lp.prepare()
    db.command("profile", 2)
    try:
        assert len(lp.forget(ids[:1])) == 1
    finally:
        db.command("profile", 0)
    found = list(db.system.profile.find({"ns": f"{db.name}.offline_runs"}))
    db.system.profile.drop()
    assert [each["docsExamined"] for each in found] == [1, 1]
