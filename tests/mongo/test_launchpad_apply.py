"""Applying reports on a real server: whole batches, other people's locks, and changes in between."""

import copy

import bson
import pytest
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from fwcore.launchpad import LaunchPad
from fwcore.launchpad import reports as module
from fwrunner.protocol import utcnow
from tests.support.launchpads import TASKS, WORKER, Wire, add, report, reports, stage


def everything(db):
    names = ("fireworks", "launches", "workflows", "offline_runs")
    return {name: list(db[name].find().sort("_id")) for name in names}


def states(db) -> dict[int, str]:
    found = {doc["fw_id"]: doc["state"] for doc in db.fireworks.find()}
    for workflow in db.workflows.find():
        assert workflow["fw_states"] == {str(i): found[i] for i in workflow["nodes"]}
    return found


def test_a_diamond_in_three_batches(lp, db) -> None:
    ids = add(lp, {"a": "bc", "b": "d", "c": "d"})
    result = lp.apply(reports(stage(lp, ids["a"]), update_spec={"x": {"a.b": 1}}))
    assert sorted(result.released) == [ids["b"], ids["c"]]
    assert db.fireworks.find_one({"fw_id": ids["b"]})["spec"]["x"] == {"a.b": 1}
    left, right = stage(lp, ids["b"], ids["c"])
    assert lp.apply([report(left, "RUNNING"), report(right)]).released == []
    assert lp.apply([report(left)]).released == [ids["d"]]
    assert [outcome.state for outcome in lp.apply(reports(stage(lp, ids["d"]))).applied] == [
        "COMPLETED"
    ]
    assert set(states(db).values()) == {"COMPLETED"}
    workflow = db.workflows.find_one()
    assert workflow["state"] == "COMPLETED"
    assert "locked" not in workflow
    assert all(run["completed"] for run in db.offline_runs.find())


def test_an_end_that_an_older_state_is_written_over_is_mended_and_applied_once(lp, db) -> None:
    """`lpad recover_offline` replaces launch and Firework by what it had read before the end."""
    ids = add(lp, {"a": "b"})
    (claim,) = stage(lp, ids["a"])
    lp.apply([report(claim, "RUNNING")])
    key, owner = {"launch_id": claim.launch_id}, {"fw_id": ids["a"]}
    stale = db.launches.find_one(key), db.fireworks.find_one(owner)
    end = report(claim, mod_spec=[{"_push": {"log": "x"}}])
    lp.apply([end])
    assert lp.overwritten("here", ()) == {}
    db.launches.replace_one(key, stale[0])
    db.fireworks.replace_one(owner, stale[1])
    assert lp.overwritten("here", ()) == {claim.launch_id: claim.launch_dir}
    assert lp.overwritten("here", {claim.launch_id}) == lp.overwritten("there", ()) == {}
    applied = lp.apply([end])
    assert [outcome.state for outcome in applied.applied] == ["COMPLETED"]
    assert lp.overwritten("here", ()) == {}
    assert db.launches.find_one(key)["action"]["mod_spec"] == [{"_push": {"log": "x"}}]
    assert db.fireworks.find_one(owner)["state"] == "COMPLETED"
    child = db.fireworks.find_one({"fw_id": ids["b"]})
    assert (child["state"], child["spec"]["log"]) == ("READY", ["x"])


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETED", "FIZZLED"])
def test_the_same_reports_again_change_nothing(lp, db, state) -> None:
    ids = add(lp, {"a": "bc", "d": ""}, {"b": {"_allow_fizzled_parents": True, "log": [1]}})
    told = reports(stage(lp, ids["a"], ids["d"]), state, mod_spec=[{"_push": {"log": 2}}])
    first = lp.apply(told)
    assert len(first.applied) == 2
    stored = everything(db)
    again = lp.apply([*told, *told])
    assert not again.applied
    assert not again.released
    assert {outcome.launch_id for outcome in again.known} == {one.launch_id for one in told}
    assert everything(db) == stored


def test_a_batch_has_one_of_each_kind(lp, db) -> None:
    ids = add(lp, dict.fromkeys("abcde", ""))
    beat, done, dynamic, retired, failed = stage(lp, *ids.values())
    lp.apply([report(beat, "RUNNING")])
    db.offline_runs.update_one({"launch_id": retired.launch_id}, {"$set": {"deprecated": True}})
    result = lp.apply(
        [
            report(beat, "RUNNING")._replace(ping_time="2026-11-23T13:00:00+00:00"),
            report(done, stored_data={"x": 1}),
            report(dynamic, additions=[{"fws": []}]),
            report(retired),
            report(failed, "FIZZLED"),
            report(done)._replace(launch_id=999),
        ]
    )
    assert {(o.launch_id, o.state) for o in result.applied} == {
        (beat.launch_id, "RUNNING"),
        (done.launch_id, "COMPLETED"),
        (dynamic.launch_id, "FIZZLED"),
        (failed.launch_id, "FIZZLED"),
    }
    assert result.deferred == []
    assert sorted(o.launch_id for o in result.ignored) == [retired.launch_id, 999]
    history = db.launches.find_one({"launch_id": beat.launch_id})["state_history"]
    assert history[-1]["updated_on"] == "2026-11-23T13:00:00+00:00"
    assert "locked" not in db.workflows.find_one()


def test_more_reports_than_one_batch_takes(lp, db, monkeypatch) -> None:
    monkeypatch.setattr(module, "BATCH", 3)
    claims = [stage(lp, add(lp, {"a": "b"})["a"])[0] for _ in range(8)]
    result = lp.apply(reports(claims))
    assert len(result.applied) == len(result.released) == 8
    assert len(lp.cancel([claim.launch_id for claim in claims]).ignored) == 8


def test_duplicates_across_workflows(lp, db) -> None:
    first, second = add(lp, {"a": "b"}), add(lp, {"a": "b"})
    [claim] = stage(lp, first["a"])
    db.fireworks.update_one(
        {"fw_id": second["a"]}, {"$set": {"launches": [claim.launch_id], "state": "RESERVED"}}
    )
    result = lp.apply([report(claim)])
    assert sorted(result.released) == [first["b"], second["b"]]
    assert states(db) == {1: "COMPLETED", 2: "READY", 3: "COMPLETED", 4: "READY"}


def test_documents_of_older_fireworks_lack_fields(lp, db) -> None:
    ids = add(lp, {"a": "b"})
    [claim] = stage(lp, ids["a"])
    db.workflows.update_one({}, {"$unset": {"parent_links": "", "fw_states": ""}})
    assert lp.apply([report(claim)]).released == [ids["b"]]
    assert states(db) == {1: "COMPLETED", 2: "READY"}


# ------------------------------------------------------------------------------------ locks of others


@pytest.mark.parametrize(
    ("lock", "holder"),
    [(True, "FireWorks"), ("fwagent:login7:4711:ab:cd", "fwagent on login7 (process 4711)")],
)
def test_a_locked_workflow_is_deferred_and_the_others_are_applied(lp, db, lock, holder) -> None:
    ids, other = add(lp, {"a": "b"}), add(lp, {"a": "b"})
    claims = stage(lp, ids["a"], other["a"])
    db.workflows.update_one({"nodes": ids["a"]}, {"$set": {"locked": lock}})
    before = everything(db)
    result = lp.apply(reports(claims))
    assert [(o.launch_id, o.reason) for o in result.deferred] == [
        (claims[0].launch_id, f"the workflow is locked by {holder}")
    ]
    assert [o.launch_id for o in result.applied] == [claims[1].launch_id]
    after = everything(db)
    for name, documents in before.items():
        ours = [doc for doc in documents if doc.get("fw_id", ids["a"]) in ids.values()]
        ours = [doc for doc in ours if ids["a"] in doc.get("nodes", [ids["a"]])]
        assert all(doc in after[name] for doc in ours)

    db.workflows.update_one({"nodes": ids["a"]}, {"$unset": {"locked": ""}})
    result = lp.apply(reports(claims))
    assert result.released == [ids["b"]]


def test_a_heartbeat_does_not_wait_for_a_lock(lp, db) -> None:
    [claim] = stage(lp, add(lp, {"a": ""})["a"])
    lp.apply([report(claim, "RUNNING")])
    db.workflows.update_one({}, {"$set": {"locked": True}})
    beat = report(claim, "RUNNING")._replace(ping_time="2026-11-23T13:00:00+00:00")
    assert len(lp.apply([beat]).applied) == 1
    assert db.workflows.find_one()["locked"] is True


def test_locks_are_given_back_when_planning_fails(lp, db, monkeypatch) -> None:
    [claim] = stage(lp, add(lp, {"a": ""})["a"])

    def broken(*_args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(module, "plan_reports", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        lp.apply([report(claim)])
    assert "locked" not in db.workflows.find_one()


def test_a_lock_is_taken_before_anything_is_read_and_held_until_the_end(
    db_uri, lp_name, lp, db
) -> None:
    ids = add(lp, {"a": "b"})
    [claim] = stage(lp, ids["a"])
    wire = Wire()
    slow = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    seen = []
    for collection in ("launches", "fireworks"):
        wire.interrupt("update", collection, lambda: seen.append(db.workflows.find_one()["locked"]))
    wire.interrupt(
        "update", "offline_runs", lambda: seen.append(db.workflows.find_one().get("locked"))
    )
    slow.apply([report(claim, update_spec={"x": 1})])
    slow.close()
    assert wire.interrupted
    assert seen[0].startswith(f"fwagent:{lp.host}:")
    assert seen == [seen[0], seen[0], None]


# ------------------------------------------------------------------------- what others do in between


@pytest.fixture
def wire():
    """What is between `slow` and the server; an interruption that was asked for must have taken place."""
    wire = Wire()
    yield wire
    assert wire.interrupted


@pytest.fixture
def slow(db_uri, lp_name, wire):
    launchpad = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    yield launchpad
    launchpad.close()


@pytest.mark.parametrize("begun", [True, False])
def test_a_heartbeat_does_not_overwrite_a_later_one_that_arrives_meanwhile(
    slow, wire, lp, db, begun
) -> None:
    [claim] = stage(lp, add(lp, {"a": ""})["a"])
    lp.apply([report(claim, "RUNNING")])
    if not begun:
        db.launches.update_one({}, {"$pop": {"state_history": 1}})
    earlier, later = (
        report(claim, "RUNNING")._replace(ping_time=f"2026-11-23T{hour}:00:00+00:00")
        for hour in (13, 15)
    )
    wire.interrupt("update", "launches", lambda: lp.apply([later]))
    slow.apply([earlier])
    [_reserved, running] = db.launches.find_one()["state_history"]
    assert running["updated_on"] == "2026-11-23T15:00:00+00:00"


def test_what_many_reports_need_besides_is_read_at_once(slow, wire, lp):
    """Grandchildren are not read before a rule asks for them."""
    claims = []
    for _ in range(12):
        claims += stage(lp, add(lp, {"a": "b", "b": "c"})["a"])
    counts = []
    for batch in (claims[:2], claims[2:]):
        before = len(wire.commands)
        done = slow.apply(reports(batch, update_spec={"x": 1}, propagate=True))
        assert len(done.released) == len(batch)
        counts.append(len(wire.commands) - before)
    assert counts[1] == counts[0]


@pytest.mark.parametrize(
    ("flipped", "state"),
    [
        *(("PAUSED", state) for state in ("COMPLETED", "FIZZLED")),
        *(("WAITING", state) for state in ("COMPLETED", "FIZZLED")),
        ("DEFUSED", "COMPLETED"),
    ],
)
def test_a_pause_that_arrives_while_the_end_is_written_is_overtaken(
    slow, wire, lp, db, flipped, state
) -> None:
    """What follows from the end is written too: PAUSED all the same, a resume would apply the action again."""
    ids = add(lp, {"a": "b"}, {"b": {"log": [], "_allow_fizzled_parents": True}})
    [claim] = stage(lp, ids["a"])
    flip = {"$set": {"state": flipped, "updated_on": utcnow()}}
    wire.interrupt("update", "launches", lambda: db.fireworks.update_one({"fw_id": ids["a"]}, flip))
    result = slow.apply([report(claim, state, mod_spec=[{"_push": {"log": 1}}])])
    assert result.released == [ids["b"]]
    parent, child = (db.fireworks.find_one({"fw_id": ids[name]}) for name in "ab")
    assert (parent["state"], child["state"]) == (state, "READY")
    assert child["spec"]["log"] == ([1] if state == "COMPLETED" else [])
    assert db.workflows.find_one()["fw_states"] == {str(ids["a"]): state, str(ids["b"]): "READY"}


def test_a_defuse_of_what_has_just_failed_stays(slow, wire, lp, db) -> None:
    ids = add(lp, {"a": ""})
    [claim] = stage(lp, ids["a"])
    flip = {"$set": {"state": "DEFUSED", "updated_on": utcnow()}}
    wire.interrupt("update", "launches", lambda: db.fireworks.update_one({"fw_id": ids["a"]}, flip))
    slow.apply([report(claim, "FIZZLED")])
    assert db.fireworks.find_one({"fw_id": ids["a"]})["state"] == "DEFUSED"


@pytest.mark.parametrize("flipped", ["DEFUSED", "PAUSED", "ARCHIVED"])
def test_a_child_that_is_held_in_between_stays_held(slow, wire, lp, db, flipped) -> None:
    """`lpad defuse_fws` flips without the lock, then waits for it to tell the workflow."""
    ids = add(lp, {"a": "bc"})
    [claim] = stage(lp, ids["a"])

    def flip() -> None:
        db.fireworks.update_one({"fw_id": ids["b"]}, {"$set": {"state": flipped}})

    wire.interrupt("update", "launches", flip)
    slow.apply([report(claim, update_spec={"x": 1})])
    found = {doc["fw_id"]: doc for doc in db.fireworks.find()}
    assert found[ids["b"]]["state"] == flipped
    assert found[ids["c"]]["state"] == "READY"
    assert found[ids["b"]]["spec"]["x"] == 1


def test_a_spec_that_is_changed_in_between_keeps_both_changes(slow, wire, lp, db) -> None:
    ids = add(lp, {"a": "b"}, {"b": {"deep": {"mine": 1}, "old": 1}})
    [claim] = stage(lp, ids["a"])

    def update_fws() -> None:
        db.fireworks.update_one(
            {"fw_id": ids["b"]}, {"$set": {"spec.deep.theirs": 2, "spec._priority": 7}}
        )

    wire.interrupt("update", "launches", update_fws)
    slow.apply([report(claim, mod_spec=[{"_set": {"deep->mine": 5}, "_unset": {"old": ""}}])])
    assert db.fireworks.find_one({"fw_id": ids["b"]})["spec"] == {
        "_tasks": TASKS,
        "deep": {"mine": 5, "theirs": 2},
        "_priority": 7,
    }


def test_a_job_id_that_is_recorded_in_between_is_kept(slow, wire, lp, db) -> None:
    [claim] = stage(lp, add(lp, {"a": ""})["a"])
    wire.interrupt("update", "launches", lambda: lp.record_jobs({claim.launch_id: "1001"}))
    slow.apply([report(claim, "RUNNING")])
    launch = db.launches.find_one()
    assert launch["state"] == "RUNNING"
    assert launch["state_history"][0]["reservation_id"] == "1001"


def test_two_agents_apply_the_same_reports(slow, wire, lp, db) -> None:
    ids = add(lp, {"a": "b"}, {"b": {"log": []}})
    told = reports(stage(lp, ids["a"]), mod_spec=[{"_push": {"log": 1}}])
    results = []
    wire.interrupt("update", "launches", lambda: results.append(lp.apply(told)))
    results.append(slow.apply(told))
    assert [len(result.applied) for result in results] == [0, 1]
    assert "locked by fwagent on" in results[0].deferred[0].reason
    assert db.fireworks.find_one({"fw_id": ids["b"]})["spec"]["log"] == [1]
    assert len(lp.apply(told).known) == 1


def test_metadata_and_nodes_that_are_added_in_between_are_kept(slow, wire, lp, db) -> None:
    ids = add(lp, {"a": "b"})
    [claim] = stage(lp, ids["a"])
    wire.interrupt(
        "update",
        "launches",
        lambda: db.workflows.update_one(
            {}, {"$set": {"metadata.note": "mine", "fw_states.9": "READY"}}
        ),
    )
    slow.apply([report(claim)])
    workflow = db.workflows.find_one()
    assert workflow["metadata"] == {"note": "mine"}
    assert workflow["fw_states"]["9"] == "READY"


# ----------------------------------------------------------------------------------------------- cost


def test_the_number_of_commands_does_not_depend_on_the_batch(db_uri, lp_name, lp) -> None:
    wire = Wire()
    watched = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    costs = []
    for count in (1, 40):
        claims = [stage(lp, add(lp, {"a": "bc"})["a"])[0] for _ in range(count)]
        beat = [
            one._replace(ping_time="2026-11-23T13:00:00+00:00")
            for one in reports(claims, "RUNNING")
        ]
        spent = []
        for told in (reports(claims, "RUNNING"), beat, reports(claims, update_spec={"x": 1})):
            before = len(wire.commands)
            assert len(watched.apply(told).applied) == count
            spent.append(len(wire.commands) - before)
        costs.append(spent)
    watched.close()
    assert costs[0] == costs[1]
    assert max(costs[0]) <= 17
    # Launches, who counts on them, runs; one write.
    assert costs[0][1] <= 4


def test_what_is_known_costs_only_reads(db_uri, lp_name, lp) -> None:
    claims = [stage(lp, add(lp, {"a": ""})["a"])[0] for _ in range(3)]
    lp.apply(reports(claims, "RUNNING"))
    wire = Wire()
    watched = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    assert len(watched.apply(reports(claims, "RUNNING")).known) == 3
    assert {command for command, _ in wire.commands} == {"find"}
    watched.close()


def test_a_child_that_is_paused_while_it_is_defused_is_defused(lp, db, db_uri, lp_name) -> None:
    """Paused, it would run when it is resumed: the action that gives it up is applied but once."""
    ids = add(lp, {"a": "b"})
    wire = Wire()
    slow = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[wire])
    pause = {"$set": {"state": "PAUSED", "updated_on": utcnow()}}
    wire.interrupt(
        "update", "fireworks", lambda: db.fireworks.update_one({"fw_id": ids["b"]}, pause)
    )
    slow.apply(reports(stage(lp, ids["a"]), defuse_children=True))
    slow.close()
    assert wire.interrupted
    assert states(db) == {ids["a"]: "COMPLETED", ids["b"]: "DEFUSED"}


def test_a_job_whose_firework_was_rerun_does_not_keep_its_run_open_by_its_pings(lp, db) -> None:
    rerun, plain = stage(lp, *(add(lp, {"a": ""})["a"] for _ in range(2)))
    lp.apply(reports([rerun, plain], "RUNNING"))
    gone = {"launches": [], "archived_launches": [rerun.launch_id], "state": "READY"}
    db.fireworks.update_one({"fw_id": rerun.fw_id}, {"$set": gone})
    pings = [
        each._replace(ping_time="2026-11-23T13:00:00+00:00")
        for each in reports([rerun, plain], "RUNNING")
    ]
    before = db.launches.find_one({"launch_id": rerun.launch_id})
    result = lp.apply(pings)
    assert [each.launch_id for each in result.applied] == [plain.launch_id]
    assert [each.launch_id for each in result.ignored] == [rerun.launch_id]
    assert db.launches.find_one({"launch_id": rerun.launch_id}) == before
    assert [run["deprecated"] for run in db.offline_runs.find().sort("launch_id")] == [True, False]


class Given(CommandListener):
    """The Fireworks that a server gives away with their specs."""

    def __init__(self) -> None:
        self.fw_ids: list[int] = []

    def started(self, event: CommandStartedEvent) -> None:
        pass

    def succeeded(self, event: CommandSucceededEvent) -> None:
        found = event.reply.get("cursor", {}).get("firstBatch", [])
        for batch in found:
            documents = bson.decode_all(batch) if isinstance(batch, bytes) else [batch]
            self.fw_ids += [document["fw_id"] for document in documents if "spec" in document]

    def failed(self, event: CommandFailedEvent) -> None:
        pass


def test_a_completion_reads_its_children_not_its_workflow(db_uri, lp_name, lp) -> None:
    members = [{"fw_id": n, "spec": {"_tasks": TASKS, "n": n}} for n in range(200)]
    links = {"0": [1], **{str(n): [n + 1] for n in range(2, 199)}}
    ids = lp.add({"fws": members, "links": links})
    [claim] = stage(lp, ids[0])
    given = Given()
    watched = LaunchPad.from_uri(db_uri, lp_name, event_listeners=[given])
    assert watched.apply([report(claim)]).released == [ids[1]]
    watched.close()
    assert sorted(given.fw_ids) == [ids[0], ids[1]]


# -------------------------------------------------------------------------------------- odd documents


@pytest.mark.parametrize("data", [{"n": 2**70}, {"t": "\ud800"}, {"a\0b": 1}])
def test_a_result_that_cannot_be_stored_fizzles_its_firework(lp, db, data) -> None:
    odd, plain = stage(lp, add(lp, {"a": ""})["a"], add(lp, {"a": ""})["a"])
    result = lp.apply([report(odd, stored_data=data), report(plain)])
    assert {(o.launch_id, o.state) for o in result.applied} == {
        (odd.launch_id, "FIZZLED"),
        (plain.launch_id, "COMPLETED"),
    }
    message = db.launches.find_one({"launch_id": odd.launch_id})["action"]["stored_data"][
        "_message"
    ]
    assert "cannot be stored" in message


def test_a_checkpoint_that_cannot_be_stored_harms_no_other(lp, db) -> None:
    odd, plain = stage(lp, add(lp, {"a": ""})["a"], add(lp, {"a": ""})["a"])
    strange = report(odd, "RUNNING")._replace(
        checkpoint={"_task_n": 1, "_all_stored_data": {"n": 2**70}}
    )
    result = lp.apply([strange, report(plain)])
    assert plain.launch_id in [o.launch_id for o in result.applied]
    assert db.fireworks.find_one({"fw_id": odd.fw_id})["state"] in {"RUNNING", "RESERVED"}
    # and as a heartbeat
    lp.apply([report(odd, "RUNNING")])
    result = lp.apply([strange, report(plain)])
    assert {o.launch_id for o in result.known} == {odd.launch_id, plain.launch_id}


def test_specs_with_names_that_are_no_paths(lp, db) -> None:
    odd = {"a.b": {"c.d": 1}, "": {"x": 1}, "$e": [1], "f": {"$g": {"h": 1}, "i": 1}}
    ids = add(lp, {"a": "b"}, {"b": copy.deepcopy(odd)})
    mods = [{"_set": {"a.b->c.d": 2, "->x": 2, "f->$g->h": 2, "f->i": 2}, "_push": {"$e": 2}}]
    lp.apply(reports(stage(lp, ids["a"]), mod_spec=mods))
    assert db.fireworks.find_one({"fw_id": ids["b"]})["spec"] == {
        "_tasks": TASKS,
        "a.b": {"c.d": 2},
        "": {"x": 2},
        "$e": [1, 2],
        "f": {"$g": {"h": 2}, "i": 2},
    }


def test_a_lost_child_defers_its_parent_only(lp, db) -> None:
    ids, other = add(lp, {"a": "b"}), add(lp, {"a": "b"})
    claims = stage(lp, ids["a"], other["a"])
    db.fireworks.delete_one({"fw_id": ids["b"]})
    result = lp.apply(reports(claims))
    assert result.deferred[0].reason == f"Firework {ids['b']} is not in the database"
    assert result.released == [other["b"]]
    assert not any("locked" in workflow for workflow in db.workflows.find())


def test_one_worker_per_launch_is_not_needed_to_apply(lp) -> None:
    [claim] = lp.claim(WORKER, 1) or stage(lp, add(lp, {"a": ""})["a"])
    assert len(lp.apply([report(claim)]).applied) == 1
