"""Claiming on a real server: each Firework to one worker, in order, and back again."""

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from pymongo.errors import DocumentTooLarge

from fwcore.launchpad import LaunchPad
from fwcore.launchpad.runs import OPEN
from fwcore.worker import Worker
from tests.support.launchpads import (
    TASKS,
    WORKER,
    Wire,
    add,
    consistent,
    report,
    reports,
    stage,
)


def numbers(claims) -> list[int]:
    return [claim.fw_id for claim in claims]


def test_a_claim(lp, db) -> None:
    ids = add(lp, {"a": "b"}, {"a": {"_trackers": [{"filename": "log"}], "n": 5}})
    [claim] = lp.claim(
        WORKER, 5, place=lambda firework, launch_id: f"/l/{firework['name']}{launch_id}"
    )

    firework, launch = db.fireworks.find_one({"fw_id": ids["a"]}), db.launches.find_one()
    assert (firework["state"], firework["launches"]) == ("RESERVED", [claim.launch_id])
    assert (launch["state"], launch["launch_dir"]) == ("RESERVED", "/l/a1")
    assert (launch["host"], launch["fworker"]["name"]) == (lp.host, "here")
    assert launch["trackers"] == [{"filename": "log", "nlines": 25, "allow_zipped": False}]
    workflow = db.workflows.find_one()
    assert (workflow["state"], workflow["fw_states"]) == (
        "RESERVED",
        {"1": "RESERVED", "2": "WAITING"},
    )
    consistent(db)
    # The offline run comes when the files are there: `lpad recover_offline` FIZZLES one that has none.
    assert db.offline_runs.count_documents({}) == 0

    assert (claim.fw_id, claim.launch_dir) == (ids["a"], "/l/a1")
    assert claim.firework["state"] == "RESERVED"
    assert claim.firework["spec"]["n"] == 5
    assert [inner["launch_id"] for inner in claim.firework["launches"]] == [claim.launch_id]
    assert json.loads(json.dumps(claim.firework)) == claim.firework

    lp.open_runs([claim])
    run = db.offline_runs.find_one()
    assert (run["fw_id"], run["launch_id"], run["name"]) == (claim.fw_id, claim.launch_id, "a")
    assert (run["completed"], run["deprecated"]) == (False, False)
    assert run["fwagent"] == {"token": claim.token}
    assert lp.claim(WORKER, 5) == []


def test_tokens_differ(lp) -> None:
    claims = stage(lp, *add(lp, dict.fromkeys("abc", "")).values())
    assert len({claim.token for claim in claims}) == 3


def test_the_order_is_priority_then_age(lp) -> None:
    ids = add(
        lp,
        dict.fromkeys("abcde", ""),
        {"b": {"_priority": 5}, "d": {"_priority": 9}, "e": {"_priority": -1}},
    )
    first = lp.claim(WORKER, 3)
    assert numbers(sorted(first, key=lambda claim: claim.launch_id)) == [
        ids["d"],
        ids["b"],
        ids["e"],
    ]
    assert sorted(numbers(lp.claim(WORKER, 9))) == [ids["a"], ids["c"]]


def test_category_query_and_worker_are_respected(lp) -> None:
    specs: dict[str, dict[str, object]] = {
        "a": {"_category": "big"},
        "b": {},
        "c": {"_fworker": "other"},
        "d": {"cores": 8},
    }
    ids = add(lp, dict.fromkeys("abcd", ""), specs)
    assert numbers(lp.claim(Worker("w", category="big"), 9)) == [ids["a"]]
    assert numbers(lp.claim(Worker("w", query={"spec.cores": {"$gt": 4}}), 9)) == [ids["d"]]
    assert numbers(lp.claim(Worker("w", category="__none__"), 9)) == [ids["b"]]
    assert lp.claim(Worker("w"), 9) == []
    # By number: as `qlaunch -f`, without regard to all that.
    assert numbers(lp.claim(Worker("w", category="big"), 9, fw_ids=[ids["c"], 99])) == [ids["c"]]


def test_no_more_than_asked_for(lp, db) -> None:
    add(lp, dict.fromkeys("abcde", ""))
    assert len(lp.claim(WORKER, 2)) == 2
    assert len(lp.claim(WORKER, 2)) == 2
    assert len(lp.claim(WORKER, 2)) == 1
    consistent(db)


def test_a_locked_workflow_is_passed_over(lp, db) -> None:
    ids, other = add(lp, {"a": ""}), add(lp, {"a": "", "b": ""})
    db.workflows.update_one({"nodes": ids["a"]}, {"$set": {"locked": True}})
    assert sorted(numbers(lp.claim(WORKER, 9))) == sorted(other.values())
    assert db.fireworks.find_one({"fw_id": ids["a"]})["state"] == "READY"
    assert db.workflows.find_one({"nodes": ids["a"]})["locked"] is True
    assert db.launches.count_documents({}) == 2
    db.workflows.update_one({"nodes": ids["a"]}, {"$unset": {"locked": ""}})
    assert numbers(lp.claim(WORKER, 9)) == [ids["a"]]
    consistent(db)


def test_a_locked_workflow_does_not_use_up_the_number(lp, db) -> None:
    ids, other = add(lp, {"a": ""}), add(lp, {"a": ""})
    db.workflows.update_one({"nodes": ids["a"]}, {"$set": {"locked": True}})
    assert numbers(lp.claim(WORKER, 1)) == [other["a"]]


def test_a_firework_that_is_taken_or_defused_at_the_last_moment(db_uri, lp_name, lp, db) -> None:
    ids = add(lp, dict.fromkeys("abc", ""))
    wire = Wire()
    slow = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])

    def meanwhile() -> None:
        db.fireworks.update_one({"fw_id": ids["a"]}, {"$set": {"state": "DEFUSED"}})

    wire.interrupt("update", "fireworks", meanwhile)
    claims = slow.claim(WORKER, 9)
    slow.close()
    assert wire.interrupted
    assert sorted(numbers(claims)) == [ids["b"], ids["c"]]
    found = db.fireworks.find_one({"fw_id": ids["a"]})
    assert (found["state"], found["launches"]) == ("DEFUSED", [])
    assert db.launches.count_documents({}) == 2


@pytest.mark.parametrize("together", [True, False], ids=["one workflow", "fifty workflows"])
def test_of_two_that_race_each_gets_what_the_other_does_not(
    db_uri, lp_name, lp, db, together
) -> None:
    members = [{"fw_id": n, "spec": {"_tasks": TASKS}} for n in range(50)]
    for source in [{"fws": members}] if together else [{"fws": [member]} for member in members]:
        lp.add(source)
    launchpads = [LaunchPad.from_uri(db_uri, lp_name) for _ in range(2)]
    barrier = Barrier(2)

    def claim_all(launchpad: LaunchPad):
        barrier.wait(10)
        claims = []
        while launchpad.counts().get("READY"):
            claims += launchpad.claim(WORKER, 7)
        return claims

    with ThreadPoolExecutor(2) as pool:
        claims = [claim for found in pool.map(claim_all, launchpads) for claim in found]
    for launchpad in launchpads:
        launchpad.close()
    assert sorted(numbers(claims)) == list(range(1, 51))
    assert len({claim.launch_id for claim in claims}) == 50
    consistent(db)
    owned = {doc["launches"][0]: doc["fw_id"] for doc in db.fireworks.find()}
    assert owned == {claim.launch_id: claim.fw_id for claim in claims}


def test_the_number_of_commands_does_not_depend_on_the_number_of_fireworks(
    db_uri, lp_name, lp
) -> None:
    wire = Wire()
    watched = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    costs = []
    for count in (1, 60):
        for _ in range(count):
            add(lp, {"a": ""})
        before = len(wire.commands)
        claims = watched.claim(WORKER, count)
        assert len(claims) == count
        watched.open_runs(claims)
        watched.record_jobs({claim.launch_id: "1" for claim in claims})
        middle = len(wire.commands)
        watched.cancel([claim.launch_id for claim in claims])
        costs.append((middle - before, len(wire.commands) - middle))
        for claim in claims:
            lp._db.fireworks.update_one({"fw_id": claim.fw_id}, {"$set": {"state": "PAUSED"}})
    watched.close()
    assert costs[0] == costs[1]
    assert costs[0][0] <= 17
    assert costs[0][1] <= 15


# -------------------------------------------------------------------------------------------- job ids


def test_job_ids_are_stored_where_fireworks_looks(lp, db) -> None:
    one, two = stage(lp, *add(lp, {"a": "", "b": ""}).values())
    lp.record_jobs({one.launch_id: "1001", two.launch_id: "1002.server"})
    stored = {doc["launch_id"]: doc["state_history"] for doc in db.launches.find()}
    assert stored[one.launch_id][0]["reservation_id"] == "1001"
    assert stored[two.launch_id][0]["reservation_id"] == "1002.server"
    lp.record_jobs({one.launch_id: "2002", 999: "1"})
    assert (
        db.launches.find_one({"launch_id": one.launch_id})["state_history"] == stored[one.launch_id]
    )


def test_a_job_id_may_come_after_the_job(lp, db) -> None:
    [claim] = stage(lp, *add(lp, {"a": ""}).values())
    lp.apply([report(claim)])
    lp.record_jobs({claim.launch_id: "1001"})
    history = db.launches.find_one()["state_history"]
    assert [entry.get("reservation_id") for entry in history] == ["1001", None, None]


# --------------------------------------------------------------------------------------------- cancel


def test_cancel_and_claim_again(lp, db) -> None:
    ids = add(lp, {"a": "b"})
    [claim] = stage(lp, ids["a"])
    result = lp.cancel([claim.launch_id, 999])
    assert [(outcome.launch_id, outcome.state) for outcome in result.applied] == [
        (claim.launch_id, "READY")
    ]
    assert [outcome.launch_id for outcome in result.ignored] == [999]
    assert result.released == [ids["a"]]
    consistent(db)
    assert db.workflows.find_one()["state"] == "READY"
    assert db.offline_runs.find_one()["deprecated"] is True
    assert lp.open_launches() == []

    [again] = lp.claim(WORKER, 1)
    assert again.launch_id != claim.launch_id
    assert [old["launch_id"] for old in again.firework["archived_launches"]] == [claim.launch_id]
    # The first job starts nevertheless: its report is not for this Firework any more.
    late = lp.apply([report(claim)])
    assert "is retired" in late.ignored[0].reason
    assert db.fireworks.find_one({"fw_id": ids["a"]})["state"] == "RESERVED"


def test_cancel_leaves_running_and_locked_ones(lp, db) -> None:
    ids, other = add(lp, {"a": ""}), add(lp, {"a": ""})
    running, locked = stage(lp, ids["a"], other["a"])
    lp.apply(reports([running], "RUNNING"))
    db.workflows.update_one({"nodes": other["a"]}, {"$set": {"locked": True}})
    result = lp.cancel([running.launch_id, locked.launch_id])
    assert result.applied == []
    assert "RUNNING, not RESERVED" in result.ignored[0].reason
    assert result.deferred[0].reason == "the workflow is locked by FireWorks"
    assert {doc["state"] for doc in db.fireworks.find()} == {"RUNNING", "RESERVED"}


# ------------------------------------------------------------------------- runs of earlier launches


def rerun_by_lpad(db, fw_id) -> None:
    """`lpad rerun_fws`: it leaves the offline runs as they are."""
    launches = db.fireworks.find_one({"fw_id": fw_id})["launches"]
    change = {"state": "READY", "launches": [], "archived_launches": launches}
    db.fireworks.update_one({"fw_id": fw_id}, {"$set": change})
    db.workflows.update_one({"nodes": fw_id}, {"$set": {f"fw_states.{fw_id}": "READY"}})


def open_runs(db) -> set[int]:
    return {run["launch_id"] for run in db.offline_runs.find(OPEN)}


def test_the_open_run_of_an_earlier_launch_ends_with_the_next_reservation(lp, db) -> None:
    ids = add(lp, {"a": "", "b": "", "c": ""})
    first, other, shared = stage(lp, *ids.values())
    db.fireworks.update_one({"fw_id": ids["b"]}, {"$push": {"launches": shared.launch_id}})
    rerun_by_lpad(db, ids["a"])
    rerun_by_lpad(db, ids["c"])
    again = lp.claim(WORKER, 2)
    assert len(again) == 2
    # `b` still counts on the launch that `c` has given up.
    assert open_runs(db) == {other.launch_id, shared.launch_id}
    lp.open_runs(again)
    theirs = {claim.launch_id for claim in again}
    assert open_runs(db) == {other.launch_id, shared.launch_id, *theirs}
    assert "is retired" in lp.apply([report(first)]).ignored[0].reason


def test_a_run_that_is_opened_too_late_is_closed_at_once(lp, db) -> None:
    """Between its reservation and its run the Firework was rerun, and reserved by another process."""
    ids = add(lp, {"a": "", "b": ""})
    late, plain = sorted(lp.claim(WORKER, 2), key=lambda claim: claim.fw_id)
    rerun_by_lpad(db, ids["a"])
    (again,) = stage(lp, ids["a"])
    lp.open_runs([late, plain])
    assert late.launch_id not in open_runs(db)
    assert open_runs(db) == {again.launch_id, plain.launch_id}


def test_an_earlier_run_that_was_opened_after_the_reservation_ends_with_the_next_run(
    lp, db
) -> None:
    ids = add(lp, {"a": ""})
    stage(lp, ids["a"])
    rerun_by_lpad(db, ids["a"])
    (again,) = lp.claim(WORKER, 1)
    db.offline_runs.update_one({}, {"$set": {"deprecated": False}})
    lp.open_runs([again])
    assert open_runs(db) == {again.launch_id}


# ------------------------------------------------------------------------------------- duplicates

EXACT = {"n": 1, "_dupefinder": {"_fw_name": "DupeFinderExact"}}


def test_a_launch_that_is_shared_while_its_report_is_applied(lp, db, db_uri, lp_name) -> None:
    """The new owner's workflow is not locked: the report waits, and then completes both."""
    [claim] = stage(lp, add(lp, {"a": ""}, {"a": EXACT})["a"])
    wire = Wire()
    slow = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    again = add(lp, {"a": "b"}, {"a": EXACT})
    wire.interrupt("findAndModify", "fwagent_sessions", lambda: lp.claim(WORKER, 5))
    result = slow.apply([report(claim)])
    assert wire.interrupted
    assert [(each.launch_id, each.reason) for each in result.deferred] == [
        (claim.launch_id, "a duplicate has just been given this launch")
    ]
    assert db.launches.find_one()["state"] == "RESERVED"
    assert slow.apply([report(claim)]).released == [again["b"]]
    slow.close()
    states = [doc["state"] for doc in db.fireworks.find().sort("fw_id")]
    assert sorted(states) == ["COMPLETED", "COMPLETED", "READY"]
    assert db.workflows.count_documents({"locked": {"$exists": True}}) == 0


def test_a_duplicate_of_a_firework_in_a_locked_workflow_waits(lp, db) -> None:
    original = add(lp, {"a": ""}, {"a": EXACT})["a"]
    stage(lp, original)
    add(lp, {"a": ""}, {"a": EXACT})
    db.workflows.update_one({"nodes": original}, {"$set": {"locked": True}})
    assert lp.claim(WORKER, 5) == []
    assert not lp.passed_over
    assert lp.fw_states()[original + 1][0] == "READY"
    db.workflows.update_one({"nodes": original}, {"$unset": {"locked": ""}})
    assert lp.claim(WORKER, 5) == []
    assert lp.fw_states()[original + 1][0] == "RESERVED"
    assert len(db.fireworks.distinct("launches")) == db.launches.count_documents({}) == 1


def test_a_duplicate_that_cannot_take_the_result_is_named(lp, db) -> None:
    lp.apply(reports(stage(lp, add(lp, {"a": ""}, {"a": EXACT})["a"])))
    again = add(lp, {"a": "b"}, {"a": EXACT})
    db.fireworks.delete_one({"fw_id": again["b"]})
    assert lp.claim(WORKER, 5) == []
    assert lp.passed_over == {again["a"]: f"Firework {again['b']} is not in the database"}
    found = db.fireworks.find_one({"fw_id": again["a"]})
    assert (found["state"], found["launches"]) == ("READY", [])
    assert db.workflows.count_documents({"locked": {"$exists": True}}) == 0


def test_a_claim_asks_for_duplicates_only_where_a_firework_does(lp, db_uri, lp_name) -> None:
    counts: list[int] = []
    for spec in ({}, EXACT):
        wire = Wire()
        other = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
        add(lp, {"a": ""}, {"a": {**spec, "k": len(counts)}})
        assert len(other.claim(WORKER, 1)) == 1
        counts.append(sum(name != "endSessions" for name, _ in wire.commands))
        other.close()
    assert counts[1] == counts[0] + 2


def test_large_specs_that_look_for_duplicates_keep_nobody_waiting(lp, db) -> None:
    """More than one question to the server can hold; the largest one alone all but fills it."""
    large = [9, 9.5, 15.99]
    specs = [{**EXACT, "large": str(n) * int(size * 2**20)} for n, size in enumerate(large)]
    done = [add(lp, {"a": ""}, {"a": spec})["a"] for spec in specs[::2]]
    lp.apply(reports(stage(lp, *done)))
    ids = [add(lp, {"a": ""}, {"a": spec})["a"] for spec in specs]
    plain = add(lp, {"a": ""})["a"]
    assert sorted(numbers(lp.claim(WORKER, 10))) == [ids[1], plain]
    assert lp.passed_over == {}
    shared = {doc["fw_id"]: doc["state"] for doc in db.fireworks.find({"fw_id": {"$in": ids}})}
    assert [shared[fw_id] for fw_id in ids] == ["COMPLETED", "RESERVED", "COMPLETED"]


def test_one_spec_that_nobody_can_ask_for_costs_only_itself(lp, db, monkeypatch) -> None:
    ids = [add(lp, {"a": ""}, {"a": {**EXACT, "n": n}})["a"] for n in range(4)]
    ask = lp._with_launches_and

    def refuses(specs):
        specs = list(specs)
        if any(spec["n"] == 2 for spec in specs):
            raise DocumentTooLarge("too large")
        return ask(specs)

    monkeypatch.setattr(lp, "_with_launches_and", refuses)
    assert sorted(numbers(lp.claim(WORKER, 10))) == [ids[0], ids[1], ids[3]]
    assert lp.passed_over.keys() == {ids[2]}
    assert "DocumentTooLarge" in lp.passed_over[ids[2]]
