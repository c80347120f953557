"""The planner, on a LaunchPad in memory: what reports do to Fireworks, launches, workflows and offline runs."""

import copy
import json
import math
from datetime import datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fwcore.action import storable
from fwcore.draft import Draft
from fwcore.plan import (
    is_heartbeat,
    plan_cancel,
    plan_heartbeat,
    plan_heartbeats,
    plan_reports,
)
from fwcore.states import FINAL, HELD, acceptable_parents, workflow_state
from fwcore.world import World
from tests.support.memory import NOW, Memory, report, updated

DIAMOND = {"a": "bc", "b": "d", "c": "d"}
TOLERANT = {"_allow_fizzled_parents": True}


@pytest.fixture
def memory() -> Memory:
    return Memory()


def reasons(outcomes) -> dict[int, str]:
    assert all(not outcome.state for outcome in outcomes)
    return {outcome.launch_id: outcome.reason for outcome in outcomes}


def applied(plan) -> dict[int, str]:
    assert all(not outcome.reason for outcome in plan.applied)
    return {outcome.launch_id: outcome.state for outcome in plan.applied}


def nothing_done(plan) -> bool:
    return not plan.writes and not plan.applied and not plan.released


# -------------------------------------------------------------------------------- releasing children


def test_a_diamond_from_top_to_bottom(memory) -> None:
    ids = memory.add(DIAMOND)
    assert memory.states(ids) == {"a": "READY", "b": "WAITING", "c": "WAITING", "d": "WAITING"}

    top = memory.reserve(ids["a"])
    assert applied(memory.apply(report(top))) == {top: "RUNNING"}
    assert memory.workflow(ids["a"])["state"] == "RUNNING"
    plan = memory.apply(report(top, "COMPLETED"))
    assert sorted(plan.released) == [ids["b"], ids["c"]]

    left, right = memory.reserve(ids["b"]), memory.reserve(ids["c"])
    plan = memory.apply(report(left, "COMPLETED"))
    assert plan.released == []
    assert memory.states(ids)["d"] == "WAITING"
    plan = memory.apply(report(right, "COMPLETED"))
    assert plan.released == [ids["d"]]

    memory.complete(ids["d"])
    assert set(memory.states(ids).values()) == {"COMPLETED"}
    assert memory.workflow(ids["a"])["state"] == "COMPLETED"


def test_both_parents_in_one_batch_release_the_child(memory) -> None:
    ids = memory.add(DIAMOND)
    memory.complete(ids["a"])
    left, right = memory.reserve(ids["b"]), memory.reserve(ids["c"])
    plan = memory.apply(report(left, "COMPLETED"), report(right, "COMPLETED"))
    assert applied(plan) == {left: "COMPLETED", right: "COMPLETED"}
    assert plan.released == [ids["d"]]


def test_ends_are_written_before_what_they_cause(memory) -> None:
    """What is cut in between is known to have begun."""
    ids = memory.add({"a": "c", "b": "c"})
    ended = [memory.reserve(ids["a"]), memory.reserve(ids["b"])]
    plan = memory.apply(*(report(each, "COMPLETED", update_spec={"x": 1}) for each in ended))
    written = [w.filter["fw_id"] for w in plan.writes if w.collection == "fireworks"]
    assert written == [ids["a"], ids["b"], ids["c"]]


def test_a_chain_that_has_run_unseen_is_caught_up_in_one_batch(memory) -> None:
    ids = memory.add({"a": "b", "b": "c"})
    launches = [memory.reserve(ids[name]) for name in "ab"]
    memory.set_state(ids["b"], "RESERVED")
    plan = memory.apply(*[report(launch, "COMPLETED") for launch in launches])
    assert plan.released == [ids["c"]]
    assert memory.states(ids) == {"a": "COMPLETED", "b": "COMPLETED", "c": "READY"}


def test_workflows_of_a_batch_do_not_touch_each_other(memory) -> None:
    first, second = memory.add({"a": "b"}), memory.add({"a": "b"})
    done = memory.reserve(first["a"])
    failed = memory.reserve(second["a"])
    plan = memory.apply(report(done, "COMPLETED"), report(failed, "FIZZLED"))
    assert plan.released == [first["b"]]
    assert memory.states(second) == {"a": "FIZZLED", "b": "WAITING"}
    assert memory.workflow(first["a"])["state"] == "RUNNING"
    assert memory.workflow(second["a"])["state"] == "FIZZLED"


# ---------------------------------------------------------------------------------- FIZZLED parents


def test_a_failed_parent_holds_its_child_back(memory) -> None:
    ids = memory.add({"a": "b", "b": "c"})
    plan_of_failure = memory.apply(report(memory.reserve(ids["a"]), "FIZZLED", exit=True))
    assert plan_of_failure.released == []
    assert memory.states(ids) == {"a": "FIZZLED", "b": "WAITING", "c": "WAITING"}
    assert memory.workflow(ids["a"])["state"] == "FIZZLED"
    assert memory.launch(1)["action"]["exit"] is True


def test_a_tolerant_child_is_released_and_told_about_its_parents(memory) -> None:
    ids = memory.add({"a": "cd", "b": "c"}, {"c": TOLERANT})
    memory.complete(ids["b"])
    launch = memory.reserve(ids["a"])
    plan = memory.apply(report(launch, "FIZZLED", stored_data={"why": 1}))
    assert plan.released == [ids["c"]]
    assert memory.states(ids)["d"] == "WAITING"
    # `d` does not tolerate it, so the workflow has failed.
    assert memory.workflow(ids["a"])["state"] == "FIZZLED"

    [parent] = memory.firework(ids["c"])["spec"]["_fizzled_parents"]
    assert (parent["fw_id"], parent["state"]) == (ids["a"], "FIZZLED")
    [inner] = parent["launches"]
    assert inner["action"]["stored_data"] == {"why": 1}
    assert inner["state_history"][-1]["state"] == "FIZZLED"
    assert json.loads(json.dumps(parent)) == parent


def test_all_children_tolerate_so_the_workflow_runs_on(memory) -> None:
    ids = memory.add({"a": "bc"}, {"b": TOLERANT, "c": TOLERANT})
    plan = memory.apply(report(memory.reserve(ids["a"]), "FIZZLED"))
    assert sorted(plan.released) == [ids["b"], ids["c"]]
    assert memory.workflow(ids["a"])["state"] == "RUNNING"


def test_a_tolerant_child_still_waits_for_parents_that_run(memory) -> None:
    ids = memory.add({"a": "c", "b": "c"}, {"c": TOLERANT})
    plan = memory.apply(report(memory.reserve(ids["a"]), "FIZZLED"))
    assert plan.released == []
    assert "_fizzled_parents" not in memory.firework(ids["c"])["spec"]


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETED"])
def test_a_job_that_ran_although_its_reservation_was_cancelled(memory, state) -> None:
    """`lpad cancel_qid` leaves the launch of a held Firework where it is, as READY."""
    ids = memory.add({"a": "b"})
    launch = memory.reserve(ids["a"])
    memory.set_state(ids["a"], "DEFUSED")
    memory.launch(launch)["state"] = "READY"
    plan = memory.apply(report(launch, state, stored_data={"energy": -1}))
    assert [outcome.state for outcome in plan.applied] == [state]
    assert memory.launch(launch)["state"] == state
    assert memory.states(ids) == {"a": "DEFUSED", "b": "WAITING"}


def test_the_end_of_a_launch_that_was_stored_without_its_action(memory) -> None:
    """`lpad recover_offline` stores both one after the other: it may be there, or have been killed, in between."""
    ids = memory.add({"a": "b"})
    launch = memory.reserve(ids["a"])
    memory.apply(report(launch))
    stored = memory.launch(launch)
    stored["state"] = "COMPLETED"
    stored["state_history"].append({"state": "COMPLETED", "created_on": "2026-11-23T12:00:00"})
    end = report(launch, "COMPLETED", update_spec={"energy": -1})
    assert applied(memory.apply(end)) == {launch: "COMPLETED"}
    assert memory.launch(launch)["action"]["update_spec"] == {"energy": -1}
    assert memory.firework(ids["b"])["spec"]["energy"] == -1
    assert memory.states(ids) == {"a": "COMPLETED", "b": "READY"}
    states = [entry["state"] for entry in memory.launch(launch)["state_history"]]
    assert states == ["RESERVED", "RUNNING", "COMPLETED"]
    assert not memory.apply(end).released


def test_failed_parents_are_told_in_the_order_of_the_links_as_fireworks_does(memory) -> None:
    ids = memory.add({"a": "c", "b": "c"}, {"c": TOLERANT})
    memory.workflow(ids["a"])["parent_links"][str(ids["c"])] = [ids["b"], ids["a"]]
    memory.complete(ids["b"], "FIZZLED")
    memory.complete(ids["a"], "FIZZLED")
    told = memory.firework(ids["c"])["spec"]["_fizzled_parents"]
    assert [parent["fw_id"] for parent in told] == [ids["a"], ids["b"]]


def test_what_a_child_was_told_about_failed_parents_is_never_replaced(memory) -> None:
    ids = memory.add({"a": "b"}, {"b": {**TOLERANT, "_fizzled_parents": ["mine"]}})
    memory.complete(ids["a"], "FIZZLED")
    assert memory.states(ids)["b"] == "READY"
    assert memory.firework(ids["b"])["spec"]["_fizzled_parents"] == ["mine"]


def test_generations_of_failed_parents_do_not_nest_without_end(memory) -> None:
    deep: object = 1
    for _ in range(85):
        deep = {"a": deep}
    links = {"a": "b", "b": "c", "c": "d", "d": "e", "e": "f", "f": "g"}
    ids = memory.add(links, {**dict.fromkeys("bcdefg", TOLERANT), "a": {"deep": deep}})
    for name in "abcdef":
        memory.complete(ids[name], "FIZZLED")
    told = {name: memory.firework(ids[name])["spec"]["_fizzled_parents"][0] for name in "bcdefg"}
    assert told["f"] == {"fw_id": ids["e"], "name": "e", "state": "FIZZLED"}
    assert all(told[name]["launches"] for name in "bcdeg"), "all that can be is told whole"
    assert all(storable(memory.firework(fw_id), 100) for fw_id in ids.values())


def test_the_action_of_a_failed_launch_is_stored_and_not_applied(memory) -> None:
    ids = memory.add({"a": "b"}, {"b": TOLERANT})
    memory.complete(ids["a"], "FIZZLED", update_spec={"x": 1}, mod_spec=[{"_set": {"y": 1}}])
    assert not memory.firework(ids["b"])["spec"].keys() & {"x", "y"}
    assert memory.launch(1)["action"]["update_spec"] == {"x": 1}


# ------------------------------------------------------------------------------------- held members


@pytest.mark.parametrize("held", sorted(HELD))
def test_a_held_child_stays_held(memory, held) -> None:
    ids = memory.add({"a": "bc"})
    memory.set_state(ids["b"], held)
    before = copy.deepcopy(memory.firework(ids["b"]))
    plan = memory.apply(report(memory.reserve(ids["a"]), "COMPLETED", update_spec={"x": 1}))
    assert plan.released == [ids["c"]]
    # The spec arrives, so that a later reignite or resume finds it.
    after = memory.firework(ids["b"])
    assert after["spec"].pop("x") == 1
    assert {**after, "updated_on": before["updated_on"]} == before


@pytest.mark.parametrize("held", sorted(HELD))
def test_the_result_of_a_held_firework_is_kept_and_the_firework_stays_held(memory, held) -> None:
    ids = memory.add({"a": "b"})
    launch = memory.run(ids["a"])
    memory.set_state(ids["a"], held)
    plan = memory.apply(report(launch, "COMPLETED", stored_data={"x": 1}))
    assert applied(plan) == {launch: "COMPLETED"}
    assert memory.launch(launch)["state"] == "COMPLETED"
    assert memory.launch(launch)["action"]["stored_data"] == {"x": 1}
    assert memory.states(ids) == {"a": held, "b": "WAITING"}
    assert memory.offline_run(launch)["completed"] is True


@pytest.mark.parametrize("held", ["DEFUSED", "PAUSED"])
def test_a_started_report_does_not_wake_a_held_firework(memory, held) -> None:
    ids = memory.add({"a": ""})
    launch = memory.reserve(ids["a"])
    memory.set_state(ids["a"], held)
    memory.apply(report(launch))
    assert memory.launch(launch)["state"] == "RUNNING"
    assert memory.states(ids) == {"a": held}


# ------------------------------------------------------------------------------------------- actions


def test_specs_of_children_only_or_of_all_descendants(memory) -> None:
    action = {"update_spec": {"u": {"v": 1}}, "mod_spec": [{"_push": {"log": "A"}}]}
    for propagate, reached in ((False, "bc"), (True, "bcd")):
        ids = memory.add(DIAMOND, {"b": {"log": ["old"]}})
        memory.complete(ids["a"], **action, propagate=propagate)
        for name in "abcd":
            spec = memory.firework(ids[name])["spec"]
            assert ("u" in spec) == (name in reached)
            # `d` is below both `b` and `c`, and gets it once.
            assert spec.get("log") == (
                (["old", "A"] if name == "b" else ["A"]) if name in reached else None
            )


def test_an_update_that_changes_only_the_kind_of_a_number_is_made(memory) -> None:
    ids = memory.add({"a": "b"}, {"b": {"n": 1}})
    memory.complete(ids["a"], update_spec={"n": True})
    assert memory.firework(ids["b"])["spec"]["n"] is True


def test_defuse_children_and_not_grandchildren(memory) -> None:
    ids = memory.add({"a": "b", "b": "c"})
    plan = memory.apply(report(memory.reserve(ids["a"]), "COMPLETED", defuse_children=True))
    assert plan.released == []
    assert memory.states(ids) == {"a": "COMPLETED", "b": "DEFUSED", "c": "WAITING"}
    assert memory.workflow(ids["a"])["state"] == "DEFUSED"


def test_defuse_workflow_spares_what_has_ended(memory) -> None:
    ids = memory.add({"a": "b", "c": "", "d": "", "e": ""})
    memory.complete(ids["c"])
    memory.complete(ids["d"], "FIZZLED")
    memory.complete(ids["a"], defuse_workflow=True)
    assert memory.states(ids) == {
        "a": "COMPLETED",
        "b": "DEFUSED",
        "c": "COMPLETED",
        "d": "FIZZLED",
        "e": "DEFUSED",
    }


@pytest.mark.parametrize("growth", ["detours", "additions", "append_wfs"])
def test_an_action_that_adds_what_is_no_workflow_fizzles_that_firework_only(memory, growth) -> None:
    ids, other = memory.add({"a": "b"}), memory.add({"a": "b"})
    growing, plain = memory.run(ids["a"]), memory.run(other["a"])
    plan = memory.apply(
        report(growing, "COMPLETED", **{growth: [{"fws": []}]}), report(plain, "COMPLETED")
    )
    assert applied(plan) == {growing: "FIZZLED", plain: "COMPLETED"}
    assert plan.released == [other["b"]]
    assert memory.states(ids) == {"a": "FIZZLED", "b": "WAITING"}
    stored = memory.launch(growing)["action"]["stored_data"]
    assert growth in stored["_message"]
    assert stored["_action"][growth][0].items() >= {"fws": []}.items()


def test_a_failed_launch_may_say_that_it_would_have_added_fireworks(memory) -> None:
    ids = memory.add({"a": ""})
    addition: dict[str, object] = {"spec": {"_tasks": []}}
    launch = memory.complete(ids["a"], "FIZZLED", additions=[addition], stored_data={"why": 1})
    assert memory.states(ids) == {"a": "FIZZLED"}
    action = memory.launch(launch)["action"]
    assert (action["additions"], action["stored_data"]) == ([addition], {"why": 1})


def test_what_fireworks_can_load_but_not_append_stays_in_the_action_of_a_failed_launch(
    memory,
) -> None:
    ids = memory.add({"a": ""})
    new: dict[str, object] = {"fw_id": -1, "spec": {"_tasks": []}}
    launch = memory.complete(
        ids["a"], "FIZZLED", detours=[new, new], additions=[{**new, "fw_id": 7}]
    )
    action = memory.launch(launch)["action"]
    assert (action["detours"], action["additions"]) == ([new, new], [{**new, "fw_id": 7}])
    assert "_action" not in action["stored_data"]


def test_what_fireworks_could_not_load_of_a_failed_launch_is_set_aside(memory) -> None:
    launch = memory.complete(
        memory.add({"a": ""})["a"], "FIZZLED", additions=["no workflow"], stored_data={"why": 1}
    )
    action = memory.launch(launch)["action"]
    assert action["additions"] == []
    assert action["stored_data"] == {"why": 1, "_action": {"additions": ["no workflow"]}}


def test_a_failed_launch_that_would_add_a_number_twice_in_one_workflow_keeps_its_failure(
    memory,
) -> None:
    new: dict[str, object] = {"fw_id": -1, "spec": {"_tasks": []}}
    twice = {"fws": [new, new], "links": {}, "metadata": {}}
    ids = memory.add({"a": ""})
    launch = memory.complete(ids["a"], "FIZZLED", additions=[twice], stored_data={"why": 1})
    assert memory.launch(launch)["action"]["stored_data"] == {
        "why": 1,
        "_action": {"additions": [twice]},
    }


def test_what_fireworks_could_not_load_is_not_stored_for_those_that_do_not_apply_it(memory) -> None:
    own, other = memory.add({"a": ""}), memory.add({"a": ""})
    launch = shared(memory, own["a"], other["a"])
    memory.set_state(own["a"], "PAUSED")
    memory.apply(report(launch, "COMPLETED", detours=["no workflow"]))
    assert memory.launch(launch)["state"] == "FIZZLED"
    assert memory.launch(launch)["action"]["detours"] == []


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (
            {"mod_spec": [{"_unset": {"absent": ""}}]},
            "cannot be applied: _unset of 'absent': no such key",
        ),
        ({"mod_spec": [{"_nonsense": {}}]}, "cannot be applied: '_nonsense' is not a modifier"),
        ({"stored_data": {"n": 2**70}}, "cannot be stored: stored_data.n"),
        ({"update_spec": 5}, "cannot be stored: 'update_spec' is not an object"),
    ],
)
def test_an_action_that_cannot_be_applied_fizzles_its_firework_only(memory, action, said) -> None:
    ids, other = memory.add({"a": "b"}), memory.add({"a": "b"})
    bad, good = memory.run(ids["a"]), memory.run(other["a"])
    plan = memory.apply(report(bad, "COMPLETED", **action), report(good, "COMPLETED"))
    assert applied(plan) == {bad: "FIZZLED", good: "COMPLETED"}
    assert memory.states(ids) == {"a": "FIZZLED", "b": "WAITING"}
    assert memory.states(other) == {"a": "COMPLETED", "b": "READY"}
    stored = memory.launch(bad)["action"]
    assert said in stored["stored_data"]["_message"]
    assert stored["exit"] is True
    assert memory.offline_run(bad)["completed"] is True
    # Told again, it is not taken for a success.
    again = memory.plan(report(bad, "COMPLETED", **action))
    assert nothing_done(again)


def test_what_the_job_computed_stays_readable_when_its_modifiers_fail(memory) -> None:
    ids = memory.add({"a": "b"})
    launch = memory.complete(
        ids["a"], stored_data={"energy": -1.5}, mod_spec=[{"_unset": {"x": ""}}]
    )
    stored = memory.launch(launch)["action"]["stored_data"]
    assert stored["_action"]["stored_data"] == {"energy": -1.5}
    assert f"(in Firework {ids['b']})" in stored["_message"]


def test_every_reason_is_told_once_when_a_batch_is_begun_again(memory) -> None:
    ids, other, third = (memory.add({"a": "b"}) for _ in range(3))
    growing, tangled, plain = (memory.run(each["a"]) for each in (ids, other, third))
    # An older launch of `b` whose action cannot be read comes to light when its parent ends.
    older = memory.complete(other["b"])
    memory.launch(older)["action"] = {"gridfs_id": "0"}
    memory.set_state(other["b"], "WAITING")
    plan = memory.plan(
        report(plain, "COMPLETED"),
        report(growing, "COMPLETED"),
        report(tangled, "COMPLETED"),
        report(99, "COMPLETED"),
    )
    assert [outcome.launch_id for outcome in plan.deferred] == [tangled]
    assert [outcome.launch_id for outcome in plan.ignored] == [99]
    assert applied(plan) == {plain: "COMPLETED", growing: "COMPLETED"}
    assert {write.collection for write in plan.writes} == set(memory.collections)
    touched = {str(write.filter) for write in plan.writes}
    assert not any(f"'launch_id': {tangled}" in text for text in touched)


# ----------------------------------------------------------------------------------------- duplicates


def test_duplicates_that_share_a_launch_complete_together(memory) -> None:
    first, second = memory.add({"a": "b"}), memory.add({"a": "b"})
    launch = memory.reserve(first["a"])
    memory.firework(second["a"])["launches"].append(launch)
    memory.set_state(second["a"], "RESERVED")
    plan = memory.apply(report(launch, "COMPLETED", update_spec={"x": 1}))
    assert applied(plan) == {launch: "COMPLETED"}
    assert sorted(plan.released) == [first["b"], second["b"]]
    for ids in (first, second):
        assert memory.states(ids) == {"a": "COMPLETED", "b": "READY"}
        assert memory.firework(ids["b"])["spec"]["x"] == 1


UNSET = {"mod_spec": [{"_unset": {"key": 1}}]}
HAS = {"b": {"key": 1}}


def shared(memory: Memory, *fw_ids: int) -> int:
    """Return a launch of the first of these Fireworks that is that of all of them."""
    launch = memory.reserve(fw_ids[0])
    for fw_id in fw_ids[1:]:
        memory.firework(fw_id)["launches"].append(launch)
        memory.set_state(fw_id, "RESERVED")
    return launch


@pytest.mark.parametrize(
    "action",
    [
        UNSET,
        {"append_wfs": [{"workflow": {"spec": {"_tasks": []}}, "parents": [1], "detour": False}]},
    ],
)
def test_a_duplicate_to_whose_workflow_an_action_cannot_be_applied_fizzles_alone(
    memory, action
) -> None:
    own, live = memory.add({"a": "b"}, HAS), memory.add({"a": "b"})
    launch = shared(memory, own["a"], live["a"])
    assert applied(memory.apply(report(launch, "COMPLETED", **action))) == {launch: "COMPLETED"}
    assert memory.states(own) == {"a": "COMPLETED", "b": "READY"}
    assert "key" not in memory.firework(own["b"])["spec"] or action is not UNSET
    assert memory.states(live) == {"a": "FIZZLED", "b": "WAITING"}
    assert memory.workflow(live["a"])["state"] == "FIZZLED"
    details = memory.firework(live["a"])["spec"]["_exception_details"]
    assert f"the action of launch {launch} cannot be applied: " in details["_message"]
    assert memory.offline_run(launch)["completed"] is True
    # Told again, it changes nothing; rerun, it forgets.
    assert not memory.apply(report(launch, "COMPLETED", **action)).writes
    memory.rerun(live["a"])
    assert "_exception_details" not in memory.firework(live["a"])["spec"]


def test_an_action_that_does_not_suit_the_firework_that_has_run_fizzles_its_duplicates_too(
    memory,
) -> None:
    own, live = memory.add({"a": "b"}), memory.add({"a": "b"}, HAS)
    launch = shared(memory, own["a"], live["a"])
    memory.apply(report(launch, "COMPLETED", **UNSET))
    assert memory.launch(launch)["state"] == "FIZZLED"
    assert memory.states(own) == memory.states(live) == {"a": "FIZZLED", "b": "WAITING"}


@pytest.mark.parametrize("state", ["COMPLETED", *sorted(HELD)])
def test_a_duplicate_that_does_not_apply_an_action_has_no_say(memory, state) -> None:
    own, other = memory.add({"a": "b"}, HAS), memory.add({"a": "b"})
    launch = shared(memory, own["a"], other["a"])
    if state == "COMPLETED":
        memory.firework(other["a"])["launches"].insert(
            0, memory.complete(memory.add({"a": ""})["a"])
        )
    memory.set_state(other["a"], state)
    assert applied(memory.apply(report(launch, "COMPLETED", **UNSET))) == {launch: "COMPLETED"}
    assert memory.states(own) == {"a": "COMPLETED", "b": "READY"}
    assert memory.states(other) == {"a": state, "b": "WAITING"}


def test_a_held_firework_that_has_run_has_no_say_over_its_duplicates(memory) -> None:
    own, live = memory.add({"a": "b"}), memory.add({"a": "b"}, HAS)
    launch = shared(memory, own["a"], live["a"])
    memory.set_state(own["a"], "PAUSED")
    memory.apply(report(launch, "COMPLETED", **UNSET))
    assert memory.states(live) == {"a": "COMPLETED", "b": "READY"}
    assert memory.states(own) == {"a": "PAUSED", "b": "WAITING"}


def test_duplicates_with_a_common_child_do_not_wait_for_ever(memory) -> None:
    """What the first of them removes the second cannot remove again; FireWorks has the same order."""
    ids = memory.add({"a": "c", "b": "c"}, {"c": {"key": 1}})
    launch = shared(memory, ids["b"], ids["a"])
    plan = memory.apply(report(launch, "COMPLETED", **UNSET))
    assert applied(plan) == {launch: "COMPLETED"}
    assert memory.states(ids) == {"a": "COMPLETED", "b": "FIZZLED", "c": "WAITING"}


def test_an_older_result_that_cannot_be_applied_does_not_hold_up_its_parents(memory) -> None:
    ids = memory.add({"a": "b", "b": "c"})
    launch = memory.run(ids["a"])
    older = memory.complete(ids["b"])
    memory.launch(older)["action"]["mod_spec"] = UNSET["mod_spec"]
    memory.set_state(ids["b"], "WAITING")
    assert applied(memory.apply(report(launch, "COMPLETED"))) == {launch: "COMPLETED"}
    assert memory.states(ids) == {"a": "COMPLETED", "b": "FIZZLED", "c": "WAITING"}
    assert "no such key" in memory.firework(ids["b"])["spec"]["_exception_details"]["_message"]


def test_a_duplicate_whose_workflow_does_not_suit_the_result_is_fizzled(memory) -> None:
    first, second = memory.add({"a": "b"}, HAS), memory.add({"a": "b"})
    memory.complete(first["a"], **UNSET)
    plan = memory.share({second["a"]: [first["a"]]})
    assert [(each.fw_id, each.state) for each in plan.applied] == [(second["a"], "FIZZLED")]
    assert memory.states(second) == {"a": "FIZZLED", "b": "WAITING"}
    assert (
        "_unset of 'key'" in memory.firework(second["a"])["spec"]["_exception_details"]["_message"]
    )


def test_a_shared_launch_waits_until_all_its_workflows_are_ours(memory) -> None:
    first, second = memory.add({"a": "b"}), memory.add({"a": "b"})
    launch = memory.reserve(first["a"])
    memory.firework(second["a"])["launches"].append(launch)
    world = memory.world()
    world.workflows.pop()
    world.refused = {second["a"]: "the workflow is locked by FireWorks"}
    plan = plan_reports(world, [report(launch, "COMPLETED")], memory.now)
    assert nothing_done(plan)
    assert reasons(plan.deferred) == {launch: "the workflow is locked by FireWorks"}


def test_a_duplicate_gets_the_result_of_what_it_duplicates(memory) -> None:
    first, second = memory.add({"a": "b"}), memory.add({"a": "b"})
    launch = memory.complete(first["a"], update_spec={"x": 1})
    plan = memory.share({second["a"]: [first["a"]]})
    assert [(each.fw_id, each.state) for each in plan.applied] == [(second["a"], "COMPLETED")]
    assert plan.released == [second["b"]]
    assert memory.firework(second["a"])["launches"] == [launch]
    assert memory.firework(second["b"])["spec"]["x"] == 1


@pytest.mark.parametrize("kind", ["its child is gone", "the action cannot be read"])
def test_a_duplicate_that_cannot_take_the_result_stays_as_it_was(memory, kind) -> None:
    """And the one beside it takes it."""
    first, broken, sound = (memory.add({"a": "b"}) for _ in range(3))
    other = memory.add({"a": ""})
    memory.complete(first["a"])
    launch = memory.complete(other["a"])
    if kind == "its child is gone":
        memory.collections["fireworks"].remove(memory.firework(broken["b"]))
        why, original = f"Firework {broken['b']} is not in the database", first["a"]
    else:
        memory.launch(launch)["action"] = {"gridfs_id": "0"}
        why, original = f"the action of launch {launch} cannot be read", other["a"]
    before = copy.deepcopy(memory.firework(broken["a"]))
    plan = memory.share({broken["a"]: [original], sound["a"]: [first["a"]]})
    assert [each.fw_id for each in plan.deferred] == [broken["a"]]
    assert why in plan.deferred[0].reason
    assert memory.firework(broken["a"]) == before
    assert memory.workflow(broken["a"])["fw_states"][str(broken["a"])] == "READY"
    assert [each.fw_id for each in plan.applied] == [sound["a"]]
    assert plan.released == [sound["b"]]


# ---------------------------------------------------------------------- reports that are not for us


def test_an_unknown_launch(memory) -> None:
    memory.add({"a": ""})
    plan = memory.plan(report(5, "COMPLETED"))
    assert nothing_done(plan)
    assert reasons(plan.ignored) == {5: "the launch is not in this database"}


def test_an_archived_launch(memory) -> None:
    ids = memory.add({"a": "b"})
    launch = memory.run(ids["a"])
    firework = memory.firework(ids["a"])
    firework["archived_launches"], firework["launches"] = firework["launches"], []
    memory.set_state(ids["a"], "READY")
    plan = memory.apply(report(launch, "COMPLETED"))
    # Its run is retired: FireWorks would apply the newer launch's action again at each recovery (W38).
    assert [write.collection for write in plan.writes] == ["offline_runs"]
    run = memory.offline_run(launch)
    assert (run["deprecated"], run["completed"]) == (True, False)
    assert not plan.applied
    assert "is archived: its Firework was rerun or cancelled" in reasons(plan.ignored)[launch]


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETED", "FIZZLED"])
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"token": "foreign"}, "the token is not the one"),
        ({"token": None}, "the token is not the one"),
        ({"fw_id": 77}, "the report is of Firework 77, the launch of 1"),
    ],
)
def test_a_report_of_another_launch_with_this_number(memory, state, fields, said) -> None:
    launch = memory.reserve(memory.add({"a": "b"})["a"])
    plan = memory.plan(report(launch, state)._replace(**fields))
    assert nothing_done(plan)
    assert said in reasons(plan.ignored)[launch]


def test_a_foreign_report_does_not_hide_the_true_one(memory) -> None:
    ids = memory.add({"a": "b"})
    launch = memory.reserve(ids["a"])
    foreign = report(launch, "COMPLETED")._replace(token="foreign")
    for reports in ((foreign, report(launch)), (report(launch), foreign)):
        plan = memory.plan(*reports)
        assert applied(plan) == {launch: "RUNNING"}
        assert "the token is not the one" in reasons(plan.ignored)[launch]


def test_without_a_token_in_the_database_none_is_asked_for(memory) -> None:
    launch = memory.reserve(memory.add({"a": ""})["a"], token=None)
    for token in (None, "any"):
        plan = memory.plan(report(launch, "COMPLETED")._replace(token=token))
        assert applied(plan) == {launch: "COMPLETED"}


def test_a_retired_run_is_over_unless_another_one_is_open(memory) -> None:
    launch = memory.reserve(memory.add({"a": "b"})["a"])
    run = memory.offline_run(launch)
    run["deprecated"] = True
    plan = memory.plan(report(launch, "COMPLETED"))
    assert nothing_done(plan)
    assert "the offline run is retired" in reasons(plan.ignored)[launch]
    memory.collections["offline_runs"].append({**run, "deprecated": False})
    plan = memory.apply(report(launch, "COMPLETED"))
    assert applied(plan) == {launch: "COMPLETED"}
    assert all(run["completed"] for run in memory.collections["offline_runs"])


def test_a_launch_that_has_ended_otherwise(memory) -> None:
    launch = memory.complete(memory.add({"a": "b"})["a"], "FIZZLED")
    plan = memory.plan(report(launch, "COMPLETED"))
    assert nothing_done(plan)
    assert reasons(plan.ignored) == {
        launch: "the launch is FIZZLED in the database, the report says COMPLETED"
    }


def test_a_firework_without_a_workflow(memory) -> None:
    ids, other = memory.add({"a": ""}), memory.add({"a": ""})
    lost, plain = memory.reserve(ids["a"]), memory.reserve(other["a"])
    memory.collections["workflows"].pop(0)
    plan = memory.plan(report(lost, "COMPLETED"), report(plain, "COMPLETED"))
    assert reasons(plan.ignored) == {lost: f"no workflow holds Firework {ids['a']}"}
    assert applied(plan) == {plain: "COMPLETED"}


def test_what_is_ignored_half_way_leaves_nothing_behind(memory) -> None:
    """Its workflow links to a child that it does not have."""
    ids, other = memory.add({"a": "b"}), memory.add({"a": ""})
    lost, plain = memory.reserve(ids["a"]), memory.reserve(other["a"])
    memory.workflow(ids["a"])["nodes"].remove(ids["b"])
    plan = memory.plan(report(lost, "COMPLETED"), report(plain, "COMPLETED"))
    assert reasons(plan.ignored) == {lost: f"no workflow holds Firework {ids['b']}"}
    assert applied(plan) == {plain: "COMPLETED"}
    touched = {write.filter.get("launch_id") or write.filter.get("fw_id") for write in plan.writes}
    assert not touched & {lost, ids["a"]}


def test_a_child_that_is_gone_defers_what_needs_it_and_harms_no_other(memory) -> None:
    ids, other = memory.add({"a": "b"}, {"b": TOLERANT}), memory.add({"a": "b"})
    lost, plain = memory.reserve(ids["a"]), memory.reserve(other["a"])
    memory.collections["fireworks"].remove(memory.firework(ids["b"]))
    plan = memory.plan(report(lost, "FIZZLED"), report(plain, "COMPLETED"))
    missing = f"Firework {ids['b']}"
    assert reasons(plan.deferred) == {lost: f"{missing} is not in the database"}
    assert applied(plan) == {plain: "COMPLETED"}
    assert plan.released == [other["b"]]


@pytest.mark.parametrize("key", ["launches", "archived_launches"])
def test_a_launch_that_is_gone_is_passed_over(memory, key) -> None:
    """FireWorks loads the launches that there are (`LazyFirework`)."""
    ids = memory.add({"a": "b"}, {"b": TOLERANT})
    launch = memory.reserve(ids["a"])
    memory.firework(ids["a"])[key].insert(0, 77)
    plan = memory.apply(report(launch, "FIZZLED"))
    assert applied(plan) == {launch: "FIZZLED"}
    assert memory.states(ids) == {"a": "FIZZLED", "b": "READY"}
    (parent,) = memory.firework(ids["b"])["spec"]["_fizzled_parents"]
    assert [each["launch_id"] for each in parent["launches"]] == [launch]
    assert memory.firework(ids["a"])[key].count(77) == 1


def test_many_parents_of_a_child_that_is_gone_are_planned_once(memory, monkeypatch) -> None:
    names = "abcdefgh"
    ids = memory.add(dict.fromkeys(names, "z"))
    launches = [memory.reserve(ids[name]) for name in names]
    memory.collections["fireworks"].remove(memory.firework(ids["z"]))
    drafts = []

    class Counted(Draft):
        def __init__(self, *args) -> None:
            drafts.append(1)
            super().__init__(*args)

    monkeypatch.setattr("fwcore.plan.Draft", Counted)
    world = memory.world()
    world.gone.fireworks.add(ids["z"])
    told = [report(launch, "COMPLETED") for launch in launches]
    plan = plan_reports(world, told, memory.now)
    assert len(plan.deferred) == len(names)
    assert len(drafts) == 1


def test_an_empty_batch(memory) -> None:
    assert nothing_done(memory.plan())


# ------------------------------------------------------------------------------------ told twice


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETED", "FIZZLED"])
def test_a_report_that_was_applied_is_known_and_writes_nothing(memory, state) -> None:
    ids = memory.add(DIAMOND)
    told = report(memory.reserve(ids["a"]), state, mod_spec=[{"_push": {"log": 1}}])
    assert memory.apply(told).writes
    plan = memory.apply(told)
    assert nothing_done(plan)
    assert not plan.ignored
    assert [(outcome.launch_id, outcome.state) for outcome in plan.known] == [(1, state)]


def test_late_news_of_a_finished_run_change_nothing(memory) -> None:
    launch = memory.complete(memory.add({"a": "b"})["a"])
    plan = memory.plan(report(launch)._replace(ping_time="2026-11-23T13:00:00+00:00"))
    assert nothing_done(plan)


@pytest.mark.parametrize("first", ["RUNNING", "COMPLETED"])
def test_several_reports_of_one_launch_count_as_the_most_advanced(memory, first) -> None:
    launch = memory.reserve(memory.add({"a": ""})["a"])
    second = "COMPLETED" if first == "RUNNING" else "RUNNING"
    plan = memory.apply(report(launch, first), report(launch, second))
    assert applied(plan) == {launch: "COMPLETED"}
    assert [entry["state"] for entry in memory.launch(launch)["state_history"]] == [
        "RESERVED",
        "RUNNING",
        "COMPLETED",
    ]


def test_a_result_that_fireworks_left_half_way_is_carried_on(memory) -> None:
    """Its recover ends a launch, then finds the workflow locked, and gives up for ever."""
    ids = memory.add({"a": "b"})
    launch = memory.run(ids["a"])
    done = copy.deepcopy(memory)
    done.apply(report(launch, "COMPLETED", update_spec={"x": 1}))
    memory.collections["launches"] = done.collections["launches"]
    plan = memory.apply(report(launch, "COMPLETED", update_spec={"x": 1}))
    assert applied(plan) == {launch: "COMPLETED"}
    assert memory.states(ids) == {"a": "COMPLETED", "b": "READY"}
    assert memory.firework(ids["b"])["spec"]["x"] == 1


# ------------------------------------------------------------------------------------------ heartbeats


def beat(launch, **fields):
    return report(launch)._replace(**fields)


def test_only_news_of_a_running_launch_are_heartbeats(memory) -> None:
    launch = memory.reserve(memory.add({"a": ""})["a"])
    assert not is_heartbeat(memory.launch(launch), report(launch))
    memory.apply(report(launch))
    assert is_heartbeat(memory.launch(launch), report(launch))
    assert not is_heartbeat(memory.launch(launch), report(launch, "COMPLETED"))


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({}, None),
        (
            {"ping_time": "2026-11-23T12:30:00+00:00"},
            {"state_history.1.updated_on": "2026-11-23T12:30:00+00:00"},
        ),
        ({"ping_time": "2026-11-23T11:30:00+00:00"}, None),
        ({"ping_time": "soon"}, None),
        ({"checkpoint": {"_task_n": 2}}, {"state_history.1.checkpoint": {"_task_n": 2}}),
    ],
)
def test_a_heartbeat_writes_what_is_new_and_needs_no_lock(memory, fields, changes) -> None:
    launch = memory.run(memory.add({"a": ""})["a"])
    write = plan_heartbeat(memory.launch(launch), beat(launch, **fields))
    if changes is None:
        assert write is None
        return
    assert write is not None
    assert write.collection == "launches"
    seen = memory.launch(launch)["state_history"][1]["updated_on"]
    assert write.filter == {
        "launch_id": launch,
        "state": "RUNNING",
        "state_history.1.updated_on": seen,
    }
    assert write.update == {"$set": changes}
    memory.execute([write])
    assert plan_heartbeat(memory.launch(launch), beat(launch, **fields)) is None


def test_a_late_heartbeat_does_not_overwrite_a_later_sign_of_life(memory) -> None:
    launch = memory.run(memory.add({"a": ""})["a"])
    earlier, later = (
        plan_heartbeat(memory.launch(launch), beat(launch, ping_time=f"2026-11-23T{hour}:00:00Z"))
        for hour in (13, 15)
    )
    memory.execute([later, earlier])
    assert memory.launch(launch)["state_history"][1]["updated_on"] == "2026-11-23T15:00:00+00:00"


def test_the_first_sign_of_life_is_stored_where_there_was_none(memory) -> None:
    launch = memory.run(memory.add({"a": ""})["a"])
    del memory.launch(launch)["state_history"][1]
    write = plan_heartbeat(memory.launch(launch), beat(launch))
    assert write is not None
    assert write.filter["state_history.1.updated_on"] == {"$exists": False}
    memory.execute([write, write])
    assert [entry["state"] for entry in memory.launch(launch)["state_history"]] == [
        "RESERVED",
        "RUNNING",
    ]


def test_a_batch_of_heartbeats_takes_the_latest_of_each_launch(memory) -> None:
    launches = [memory.run(memory.add({"a": ""})["a"]) for _ in range(3)]
    beats = [
        beat(launches[0], ping_time="2026-11-23T12:31:00+00:00"),
        beat(launches[0], ping_time="2026-11-23T12:30:00+00:00"),
        beat(launches[1]),
        beat(launches[2], ping_time="2026-11-23T12:31:00+00:00", token="foreign"),
    ]
    plan = plan_heartbeats(memory.world(), beats)
    assert [outcome.launch_id for outcome in plan.applied] == [launches[0]]
    assert [outcome.launch_id for outcome in plan.known] == [launches[1]]
    assert "the token is not the one" in reasons(plan.ignored)[launches[2]]
    memory.execute(plan.writes)
    assert memory.launch(launches[0])["state_history"][1]["updated_on"].startswith(
        "2026-11-23T12:31"
    )


def test_a_start_that_fireworks_dated_by_its_recovery_is_put_right(memory) -> None:
    launch = memory.run(memory.add({"a": ""})["a"])
    for entry in memory.launch(launch)["state_history"][1:]:
        entry["created_on"] = "2026-11-23T12:45:00+00:00"
    write = plan_heartbeat(memory.launch(launch), beat(launch))
    memory.execute([write])
    assert memory.launch(launch)["time_start"] == "2026-11-23T12:01:00+00:00"


# ---------------------------------------------------------------------------------------------- times


def test_times_are_those_of_the_compute_node(memory) -> None:
    ids = memory.add({"a": ""})
    memory.now = NOW + timedelta(days=1)
    launch = memory.launch(memory.complete(ids["a"]))
    assert launch["time_start"] == "2026-11-23T12:01:00+00:00"
    assert launch["time_end"] == "2026-11-23T12:05:00.654000+00:00"
    assert launch["runtime_secs"] == 240.654


def test_kinds_of_dates(memory) -> None:
    """A Date where FireWorks' recovery leaves one, a text where it leaves a text."""
    ids = memory.add({"a": "b"})
    launch = memory.reserve(ids["a"])
    memory.apply(report(launch))
    assert isinstance(memory.firework(ids["a"])["updated_on"], datetime)
    assert all(
        isinstance(entry["updated_on"], str) for entry in memory.launch(launch)["state_history"]
    )
    memory.apply(report(launch, "COMPLETED"))
    assert isinstance(memory.firework(ids["a"])["updated_on"], str)
    assert isinstance(memory.firework(ids["b"])["updated_on"], str)
    assert isinstance(memory.workflow(ids["a"])["updated_on"], datetime)
    assert isinstance(memory.offline_run(launch)["updated_on"], str)
    for entry in memory.launch(launch)["state_history"]:
        for key in entry.keys() & {"created_on", "updated_on"}:
            assert isinstance(entry[key], datetime)


def test_a_checkpoint_is_kept_where_a_task_level_rerun_looks(memory) -> None:
    ids = memory.add({"a": ""})
    launch = memory.reserve(ids["a"])
    memory.apply(beat(launch, checkpoint={"_task_n": 0}))
    memory.apply(beat(launch, checkpoint={"_task_n": 1}))
    memory.apply(report(launch, "FIZZLED")._replace(checkpoint={"_task_n": 2}))
    assert memory.launch(launch)["state_history"][-1]["checkpoint"] == {"_task_n": 2}


# --------------------------------------------------------------------------------------------- writes


def test_the_order_of_writes(memory) -> None:
    ids = memory.add(DIAMOND)
    plan = memory.plan(report(memory.reserve(ids["a"]), "COMPLETED", update_spec={"x": 1}))
    # A run is closed after all that it causes.
    kinds = ["launches", *["fireworks"] * 3, "workflows", "offline_runs"]
    assert [write.collection for write in plan.writes] == kinds
    # A child gets its spec and its state at once: nobody can pick it with the old spec.
    children = [write for write in plan.writes if write.filter.get("fw_id") in (ids["b"], ids["c"])]
    assert [write.update["$set"]["spec.x"] for write in children] == [1, 1]
    assert {write.update["$set"]["state"] for write in children} == {"READY"}
    assert plan.writes[-1].many


def test_states_are_compared_before_they_are_set(memory) -> None:
    ids = memory.add({"a": "bc"})
    plan = memory.plan(report(memory.reserve(ids["a"]), "COMPLETED", update_spec={"x": 1}))
    memory.set_state(ids["b"], "DEFUSED")
    memory.launch(1)["state_history"][0]["reservation_id"] = "1001"
    memory.execute(plan.writes)
    assert memory.firework(ids["b"])["state"] == "DEFUSED"
    assert memory.firework(ids["c"])["state"] == "READY"
    assert memory.launch(1)["state_history"][0]["reservation_id"] == "1001"


def test_a_launch_that_somebody_else_has_ended_is_left_alone(memory) -> None:
    launch = memory.run(memory.add({"a": ""})["a"])
    plan = memory.plan(report(launch, "COMPLETED"))
    memory.apply(report(launch, "FIZZLED", stored_data={"by": "another"}))
    memory.execute([write for write in plan.writes if write.collection == "launches"])
    assert memory.launch(launch)["state"] == "FIZZLED"
    assert memory.launch(launch)["action"]["stored_data"] == {"by": "another"}


# ------------------------------------------------------------------------------------ claim and cancel


def test_claimed_fireworks_are_mirrored_in_their_workflows(memory) -> None:
    ids = memory.add({"a": "", "b": ""})
    memory.firework(ids["a"])["state"] = "RESERVED"
    plan = memory.claimed(ids["a"])
    assert {write.collection for write in plan.writes} == {"workflows"}
    memory.execute(plan.writes)
    assert memory.states(ids) == {"a": "RESERVED", "b": "READY"}
    assert memory.workflow(ids["a"])["state"] == "RESERVED"
    assert memory.claimed(ids["a"]).writes == []


def test_cancel_takes_a_reservation_back(memory) -> None:
    ids = memory.add({"a": "b"})
    launch = memory.reserve(ids["a"])
    plan = memory.cancel(launch)
    assert applied(plan) == {launch: "READY"}
    assert plan.released == [ids["a"]]
    assert memory.states(ids) == {"a": "READY", "b": "WAITING"}
    firework = memory.firework(ids["a"])
    assert (firework["launches"], firework["archived_launches"]) == ([], [launch])
    assert memory.launch(launch)["state"] == "READY"
    assert [e["state"] for e in memory.launch(launch)["state_history"]] == ["RESERVED", "READY"]
    assert memory.offline_run(launch)["deprecated"] is True
    assert memory.workflow(ids["a"])["state"] == "READY"
    # The job may start all the same: its report is not for this Firework any more.
    assert nothing_done(memory.plan(report(launch, "COMPLETED")))


@pytest.mark.parametrize("twice", [True, False])
def test_cancel_leaves_what_has_started(memory, twice) -> None:
    ids = memory.add({"a": ""})
    launch = memory.run(ids["a"])
    plan = memory.cancel(launch, *([launch] if twice else []), 99)
    assert nothing_done(plan)
    assert reasons(plan.ignored) == {
        launch: f"launch {launch} is RUNNING, not RESERVED",
        99: "launch 99 is not in the database",
    }


def test_cancel_twice_in_one_call_archives_once(memory) -> None:
    launch = memory.reserve(memory.add({"a": ""})["a"])
    memory.cancel(launch, launch)
    assert memory.firework(1)["archived_launches"] == [launch]
    assert len(memory.launch(launch)["state_history"]) == 2


def test_cancel_of_a_held_firework_keeps_it_held(memory) -> None:
    ids = memory.add({"a": ""})
    launch = memory.reserve(ids["a"])
    memory.set_state(ids["a"], "DEFUSED")
    memory.cancel(launch)
    assert memory.states(ids) == {"a": "DEFUSED"}
    assert memory.launch(launch)["state"] == "READY"


def test_cancel_does_the_whole_of_a_launch_or_nothing(memory) -> None:
    """Its Firework cannot be looked at again, for a parent that it would be told about is gone."""
    ids, other = memory.add({"a": "b"}, {"b": TOLERANT}), memory.add({"a": ""})
    memory.complete(ids["a"], "FIZZLED")
    broken, plain = memory.reserve(ids["b"]), memory.reserve(other["a"])
    del memory.firework(ids["b"])["spec"]["_fizzled_parents"]
    memory.collections["fireworks"].remove(memory.firework(ids["a"]))
    before = copy.deepcopy([memory.firework(ids["b"]), memory.launch(broken)])
    plan = memory.cancel(broken, plain)
    assert reasons(plan.deferred) == {broken: f"Firework {ids['a']} is not in the database"}
    assert [memory.firework(ids["b"]), memory.launch(broken)] == before
    assert memory.offline_run(broken)["deprecated"] is False
    assert applied(plan) == {plain: "READY"}


def test_cancel_of_a_locked_workflow_is_deferred(memory) -> None:
    ids = memory.add({"a": ""})
    launch = memory.reserve(ids["a"])
    world = memory.world()
    world.workflows.clear()
    world.refused = {ids["a"]: "the workflow is locked by FireWorks"}
    plan = plan_cancel(world, [launch], memory.now)
    assert nothing_done(plan)
    assert reasons(plan.deferred) == {launch: "the workflow is locked by FireWorks"}


def test_cancel_of_a_firework_without_a_workflow_harms_no_other(memory) -> None:
    ids, other = memory.add({"a": ""}), memory.add({"a": ""})
    lost, plain = memory.reserve(ids["a"]), memory.reserve(other["a"])
    memory.collections["workflows"].pop(0)
    plan = memory.cancel(lost, plain)
    assert applied(plan) == {plain: "READY"}
    assert reasons(plan.ignored) == {lost: f"no workflow holds Firework {ids['a']}"}


# ------------------------------------------------------------------------------ any workflow at all

NAMES = "abcdef"
ACTIONS = st.fixed_dictionaries(
    {},
    optional={
        "update_spec": st.dictionaries(st.sampled_from("xy"), st.integers(0, 3), max_size=2),
        "mod_spec": st.lists(
            st.sampled_from(
                [{"_push": {"log": 1}}, {"_inc": {"n": 1}}, {"_unset": {"absent": ""}}]
            ),
            max_size=2,
        ),
        "propagate": st.booleans(),
        "defuse_children": st.sampled_from([False, False, True]),
    },
)


@st.composite
def workflows(draw):
    count = draw(st.integers(1, len(NAMES)))
    links = {
        name: "".join(sorted(draw(st.sets(st.sampled_from(NAMES[i + 1 : count]), max_size=3))))
        if i + 1 < count
        else ""
        for i, name in enumerate(NAMES[:count])
    }
    tolerant = draw(st.sets(st.sampled_from(NAMES[:count])))
    return links, dict.fromkeys(tolerant, TOLERANT)


@settings(max_examples=30, deadline=None)
@given(workflows(), st.data())
def test_a_workflow_runs_to_its_end_by_the_rules(shape, data) -> None:
    links, specs = shape
    memory = Memory()
    ids = memory.add(links, specs)
    for _ in range(2 * len(links)):
        ready = [i for i in ids.values() if memory.firework(i)["state"] == "READY"]
        if not ready:
            break
        chosen = data.draw(st.lists(st.sampled_from(ready), min_size=1, unique=True))
        reports = [
            report(
                memory.reserve(i),
                data.draw(st.sampled_from(["COMPLETED", "FIZZLED"])),
                **data.draw(ACTIONS),
            )
            for i in chosen
        ]
        plan = memory.apply(*reports)
        assert len(plan.applied) == len(chosen)
        check_rules(memory, ids)
        # Every write again, and every report again: nothing changes.
        assert memory.execute(plan.writes) == 0
        again = memory.plan(*reports)
        assert not again.writes
        assert not again.released
    assert not any(memory.firework(i)["state"] == "READY" for i in ids.values())


def check_rules(memory: Memory, ids: dict[str, int]) -> None:
    workflow = memory.workflow(next(iter(ids.values())))
    states = {i: memory.firework(i)["state"] for i in ids.values()}
    assert workflow["fw_states"] == {str(i): state for i, state in states.items()}

    def tolerates(fw_id: int) -> bool:
        return bool(memory.firework(fw_id)["spec"].get("_allow_fizzled_parents"))

    assert workflow["state"] == workflow_state(workflow["fw_states"], workflow["links"], tolerates)
    for fw_id, state in states.items():
        parents = workflow["parent_links"].get(str(fw_id), [])
        accepted = acceptable_parents(memory.firework(fw_id)["spec"])
        free = all(states[parent] in accepted for parent in parents)
        assert free or state in HELD | {"WAITING"}
        assert not free or state != "WAITING"
        if state in FINAL:
            launch = memory.launch(memory.firework(fw_id)["launches"][0])
            assert launch["state"] == state
            assert memory.offline_run(launch["launch_id"])["completed"]


@settings(max_examples=30, deadline=None)
@given(workflows(), st.data())
def test_one_batch_does_what_one_report_at_a_time_does(shape, data) -> None:
    links, specs = shape
    together = Memory()
    ids = together.add(links, specs)
    roots = [i for i in ids.values() if together.firework(i)["state"] == "READY"]
    reports = [
        report(
            together.reserve(i),
            data.draw(st.sampled_from(["COMPLETED", "FIZZLED"])),
            **data.draw(ACTIONS),
        )
        for i in roots
    ]
    alone = copy.deepcopy(together)
    together.apply(*reports)
    for one in reports:
        alone.apply(one)
        alone.now = together.now - timedelta(minutes=1)
    assert timeless(alone) == timeless(together)


def timeless(memory: Memory):
    """Everything but `updated_on`, and the history (a read time) of what is told about failed parents."""
    return json.loads(
        json.dumps(memory.collections, default=str),
        object_hook=lambda found: {k: v for k, v in found.items() if k != "updated_on"},
    )


@settings(max_examples=30, deadline=None)
@given(workflows(), st.data(), st.integers(1, 30))
def test_a_plan_that_was_cut_off_anywhere_is_completed_by_running_it_again(
    shape, data, cut
) -> None:
    links, specs = shape
    memory = Memory()
    ids = memory.add(links, specs)
    roots = [i for i in ids.values() if memory.firework(i)["state"] == "READY"]
    plan = memory.plan(
        *[report(memory.reserve(i), "COMPLETED", **data.draw(ACTIONS)) for i in roots]
    )
    whole = copy.deepcopy(memory)
    whole.execute(plan.writes)
    memory.execute(plan.writes[:cut])
    memory.execute(plan.writes)
    assert memory.collections == whole.collections


def test_the_update_of_a_launch_is_what_changed(memory) -> None:
    launch = memory.run(memory.add({"a": ""})["a"])
    old = copy.deepcopy(memory.launch(launch))
    plan = memory.plan(report(launch, "FIZZLED", exit=True))
    [write] = [write for write in plan.writes if write.collection == "launches"]
    assert not write.update["$set"].keys() & {"fworker", "host", "ip", "launch_dir", "trackers"}
    assert updated(old, write.update)["state"] == "FIZZLED"


def test_a_world_is_empty_by_default() -> None:
    plan = plan_reports(World(), [report(1, "COMPLETED")], NOW)
    assert reasons(plan.ignored) == {1: "the launch is not in this database"}


# -------------------------------------------------------------------------------- any JSON at all

ODD_NAMES = st.sampled_from(
    ["a", "n", "l", "_tasks", "a->b", "n->x", "", "a.b", "$x", "fw_id", "-1"]
)
ODD_NUMBERS = st.sampled_from([0, 1, -1, 2, 2**63 - 1, 0.5, math.inf, math.nan])
ODD_TEXTS = st.sampled_from(
    ["", "a", "-1", "COMPLETED", "n", "\0", "2026-11-23T12:00:00", "9" * 5000]
)
ODD = st.recursive(
    st.none() | st.booleans() | ODD_NUMBERS | ODD_TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD_NAMES, inner, max_size=3),
    max_leaves=6,
)
ODD_TASKS = st.just([{"_fw_name": "ScriptTask", "script": "true"}]) | ODD


def _objects(values, *, whole: bool = False):
    """Objects with keys that mean something, whose values mostly do, too."""
    members = {key: value | ODD for key, value in values.items()}
    return st.fixed_dictionaries(members) if whole else st.fixed_dictionaries({}, optional=members)


NEW_IDS = st.sampled_from([-1, -2, -3, -(2**63), 1, True])
NEW_FIREWORKS = _objects(
    {
        "fw_id": NEW_IDS,
        "spec": st.fixed_dictionaries({"_tasks": ODD_TASKS, "_allow_fizzled_parents": ODD}),
        "state": st.sampled_from(["WAITING", "COMPLETED", "FIZZLED", "PAUSED", "RUNNING"]),
        "created_on": ODD_TEXTS,
        "name": ODD,
    },
)
LINKS = st.dictionaries(
    st.sampled_from(["-1", "-2", "x", "9" * 5000]),
    st.lists(NEW_IDS | ODD_NUMBERS, max_size=2) | ODD,
)
NEW = NEW_FIREWORKS | _objects(
    {"fws": st.lists(NEW_FIREWORKS | ODD, max_size=3), "links": LINKS, "metadata": ODD}, whole=True
)
APPENDED = _objects(
    {"workflow": NEW, "parents": st.lists(st.sampled_from([1, 2, 3, 9]) | ODD), "detour": ODD}
)
MODIFIERS = _objects(
    {
        verb: st.dictionaries(ODD_NAMES, ODD, max_size=2) | st.lists(ODD_NAMES | ODD, max_size=2)
        for verb in (
            *("_set", "_unset", "_push", "_push_all", "_inc", "_rename"),
            *("_add_to_set", "_pull", "_pull_all", "_pop"),
        )
    }
)
ODD_ACTIONS = _objects(
    {
        "stored_data": st.dictionaries(ODD_NAMES, ODD, max_size=2),
        "update_spec": st.dictionaries(ODD_NAMES, ODD, max_size=2),
        "mod_spec": st.lists(MODIFIERS | ODD, max_size=3),
        "additions": st.lists(NEW | ODD, max_size=2),
        "detours": st.lists(NEW | ODD, max_size=2),
        "append_wfs": st.lists(APPENDED | ODD, max_size=2),
        "defuse_children": st.booleans(),
        "defuse_workflow": st.booleans(),
        "propagate": st.booleans(),
        "exit": st.booleans(),
    }
)


@settings(max_examples=200, deadline=None)
@given(ODD_ACTIONS, st.sampled_from(["COMPLETED", "FIZZLED"]))
@example({"mod_spec": [{"_unset": [["a"]]}]}, "COMPLETED")
@example({"mod_spec": [{"_inc": {"n": 1}}]}, "COMPLETED")
@example(
    {"additions": {"fws": [{"fw_id": -1, "spec": {"_tasks": []}}], "links": {"-1": math.inf}}},
    "COMPLETED",
)
def test_whatever_an_action_holds_a_plan_comes_of_it_that_can_be_stored(action, state) -> None:
    memory = Memory()
    ids = memory.add({"a": "bc", "b": "d", "c": "d"}, {"b": {"n": 2**63 - 1, "l": [1], "a": {}}})
    other = memory.add({"x": "y"})
    first, second = memory.reserve(ids["a"]), memory.reserve(other["x"])
    plan = memory.apply(report(first, state, **action), report(second, "COMPLETED"))
    assert [outcome.launch_id for outcome in plan.applied] == [first, second]
    assert memory.states(other) == {"x": "COMPLETED", "y": "READY"}
    for documents in memory.collections.values():
        assert all(storable(document, 100) for document in documents)
