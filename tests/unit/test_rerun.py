"""Rerun and defuse, on a LaunchPad in memory: what goes back, what stays, what is retired."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwcore.errors import InvalidRecovery
from fwcore.rerun import Recovery, plan_defuse, plan_rerun
from fwcore.states import HELD, acceptable_parents, workflow_state
from fwcore.world import World
from tests.support.memory import Memory, report

CHAIN = {"a": "b", "b": "c"}
DIAMOND = {"a": "bc", "b": "d", "c": "d"}
FINDER = {"_dupefinder": {"_fw_name": "DupeFinderExact"}}
TOLERANT = {"_allow_fizzled_parents": True}
CHECKPOINT = {"_task_n": 1, "_all_stored_data": {"e": 1}, "_all_update_spec": {}}


@pytest.fixture
def memory() -> Memory:
    return Memory()


def states(changes) -> dict[int, str]:
    assert all(not change.reason for change in changes)
    return {change.fw_id: change.state for change in changes}


def reasons(changes) -> dict[int, str]:
    assert all(not change.state for change in changes)
    return {change.fw_id: change.reason for change in changes}


def launches(memory, fw_id) -> tuple[list[int], list[int]]:
    firework = memory.firework(fw_id)
    return firework["launches"], firework["archived_launches"]


def nothing_done(plan) -> bool:
    return not plan.writes and not plan.changed and not plan.released


def shared(memory) -> tuple[dict[str, int], dict[str, int], int]:
    """Return two workflows whose first Fireworks are COMPLETED by the same launch, and that launch."""
    one, two = (memory.add({"a": "b"}, {"a": FINDER}) for _ in range(2))
    launch = memory.run(one["a"])
    memory.firework(two["a"])["launches"].append(launch)
    memory.set_state(two["a"], "RUNNING")
    memory.apply(report(launch, "COMPLETED"))
    assert memory.states(two) == {"a": "COMPLETED", "b": "READY"}
    return one, two, launch


# ------------------------------------------------------------------------------------- rerun: states


@pytest.mark.parametrize("state", ["COMPLETED", "FIZZLED"])
def test_what_has_ended_runs_again(memory, state) -> None:
    ids = memory.add(CHAIN)
    launch = memory.complete(ids["a"], state)
    plan = memory.rerun(ids["a"])
    assert memory.states(ids) == {"a": "READY", "b": "WAITING", "c": "WAITING"}
    assert launches(memory, ids["a"]) == ([], [launch])
    assert states(plan.changed)[ids["a"]] == "READY"
    assert plan.released == [ids["a"]]
    assert memory.workflow(ids["a"])["state"] == "READY"
    # The launch is kept as it was, and its run, which is closed.
    assert memory.launch(launch)["state"] == state
    assert memory.offline_run(launch)["deprecated"] is False


@pytest.mark.parametrize("begin", [Memory.reserve, Memory.run])
def test_a_job_that_is_on_is_not_listened_to_any_more(memory, begin) -> None:
    ids = memory.add({"a": "b"})
    launch = begin(memory, ids["a"])
    before = memory.launch(launch)
    memory.rerun(ids["a"])
    assert memory.states(ids) == {"a": "READY", "b": "WAITING"}
    assert memory.launch(launch) == before
    assert memory.offline_run(launch)["deprecated"] is True
    assert memory.offline_run(launch)["completed"] is False
    late = memory.plan(report(launch, "COMPLETED"))
    assert not late.writes
    assert "is retired" in late.ignored[0].reason
    # The next launch is another one, and its action is applied once.
    memory.complete(ids["a"])
    assert memory.states(ids) == {"a": "COMPLETED", "b": "READY"}


def test_what_has_run_below_goes_back_and_waits(memory) -> None:
    ids = memory.add(DIAMOND)
    for name in "abcd":
        memory.complete(ids[name], update_spec={name: 1})
    plan = memory.rerun(ids["b"])
    assert memory.states(ids) == {
        "a": "COMPLETED",
        "b": "READY",
        "c": "COMPLETED",
        "d": "WAITING",
    }
    assert states(plan.changed) == {ids["b"]: "READY", ids["d"]: "WAITING"}
    assert memory.workflow(ids["a"])["state"] == "RUNNING"
    # What was pushed to it stays, until it is pushed again.
    assert {"a", "b", "c"} & memory.firework(ids["d"])["spec"].keys() == {"b", "c"}

    plan = memory.rerun(ids["a"])
    assert set(memory.states(ids).values()) == {"READY", "WAITING"}
    # A Firework that waits is not looked behind.
    assert states(plan.changed) == {ids["a"]: "READY", ids["b"]: "WAITING", ids["c"]: "WAITING"}
    assert len(launches(memory, ids["d"])[1]) == 1


@pytest.mark.parametrize("begin", [Memory.reserve, Memory.run])
def test_children_that_run_go_back_with_their_jobs(memory, begin) -> None:
    ids = memory.add({"a": "b"})
    memory.complete(ids["a"])
    launch = begin(memory, ids["b"])
    memory.rerun(ids["a"])
    assert memory.states(ids) == {"a": "READY", "b": "WAITING"}
    assert launches(memory, ids["b"]) == ([], [launch])
    assert memory.offline_run(launch)["deprecated"] is True


def test_a_paused_firework_that_is_named_is_taken_up_again(memory) -> None:
    ids = memory.add({"a": ""})
    launch = memory.reserve(ids["a"])
    memory.set_state(ids["a"], "PAUSED")
    memory.rerun(ids["a"])
    assert memory.states(ids) == {"a": "READY"}
    assert launches(memory, ids["a"]) == ([], [launch])


@pytest.mark.parametrize("state", ["DEFUSED", "ARCHIVED"])
def test_what_was_given_up_is_skipped(memory, state) -> None:
    ids = memory.add({"a": "", "b": ""}, {"a": {"_recovery": {"_task_n": 1}}})
    memory.complete(ids["a"], "FIZZLED")
    memory.set_state(ids["a"], state)
    for recovery in (None, Recovery()):
        plan = memory.rerun(ids["a"], recovery=recovery)
        assert nothing_done(plan)
        assert reasons(plan.skipped) == {ids["a"]: f"it is {state}"}


def test_what_waits_is_skipped_unless_it_goes_back_anyway(memory) -> None:
    ids = memory.add(CHAIN)
    assert reasons(memory.rerun(ids["b"]).skipped) == {ids["b"]: "it is WAITING already"}
    for name in "ab":
        memory.complete(ids[name])
    plan = memory.rerun(ids["a"], ids["b"], ids["c"])
    assert states(plan.changed) == {
        number: memory.firework(number)["state"] for number in (1, 2, 3)
    }
    assert not plan.skipped


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_several_at_once_whatever_their_order(memory, order) -> None:
    ids = memory.add(CHAIN)
    for name in "abc":
        memory.complete(ids[name])
    plan = memory.rerun(*[ids[name] for name in order], ids["a"])
    assert memory.states(ids) == {"a": "READY", "b": "WAITING", "c": "WAITING"}
    assert plan.released == [ids["a"]]
    assert all(len(launches(memory, number)[1]) == 1 for number in ids.values())


def test_unknown_ones_and_locked_ones_do_not_keep_the_others(memory) -> None:
    free, locked = memory.add({"a": ""}), memory.add({"a": ""})
    for ids in (free, locked):
        memory.complete(ids["a"])
    world = memory.world()
    world.workflows.pop()
    world.refused = {locked["a"]: "the workflow is locked by FireWorks"}
    world.owners = {1: [free["a"]], 2: [locked["a"]]}
    for make in (plan_rerun, plan_defuse):
        plan = make(world, [99, locked["a"], free["a"]], memory.now)
        assert set(states(plan.changed)) == {free["a"]}
        assert reasons(plan.skipped) == {99: "no workflow holds Firework 99"}
        assert reasons(plan.deferred) == {locked["a"]: "the workflow is locked by FireWorks"}


@pytest.mark.parametrize("call", ["rerun", "defuse"])
def test_a_damaged_workflow_does_not_keep_the_others(memory, call) -> None:
    damaged, sound = memory.add(CHAIN), memory.add(CHAIN)
    for ids in (damaged, sound):
        memory.complete(ids["a"])
    memory.workflow(damaged["a"])["nodes"].remove(damaged["b"])
    plan = getattr(memory, call)(damaged["a"], sound["a"])
    assert reasons(plan.skipped) == {damaged["a"]: f"no workflow holds Firework {damaged['b']}"}
    assert states(plan.changed).keys() == {sound["a"], sound["b"]}


def test_one_that_cannot_be_done_is_left_whole(memory) -> None:
    """The child of the one is gone from the database; of the other nothing is changed twice."""
    broken, whole = memory.add({"a": "b", "b": "c"}), memory.add({"a": "b"})
    for ids in (broken, whole):
        memory.complete(ids["a"])
    memory.complete(broken["b"])
    gone = memory.firework(broken["c"])
    memory.collections["fireworks"].remove(gone)
    plan = memory.rerun(whole["a"], broken["a"])
    assert set(states(plan.changed)) == set(whole.values())
    assert reasons(plan.deferred) == {broken["a"]: f"Firework {broken['c']} is not in the database"}
    assert memory.firework(broken["a"])["state"] == "COMPLETED"
    assert memory.firework(whole["a"])["state"] == "READY"


def test_detours_that_were_added_stay(memory) -> None:
    ids = memory.add({"a": "b"})
    new = {"fw_id": -1, "name": "x", "spec": {"_tasks": []}}
    memory.complete(ids["a"], detours=[new])
    ids["x"] = 3
    memory.complete(ids["x"])
    memory.complete(ids["b"])
    memory.rerun(ids["a"])
    assert memory.states(ids) == {"a": "READY", "b": "WAITING", "x": "WAITING"}


# ------------------------------------------------------------------------- rerun: people's decisions


@pytest.mark.parametrize("state", sorted(HELD))
def test_a_child_that_somebody_holds_stays_held_and_starts_anew_when_it_is_let_go(
    memory, state
) -> None:
    ids = memory.add(CHAIN, {"b": {"_recovery": {"_task_n": 1}}})
    memory.complete(ids["a"])
    launch = memory.reserve(ids["b"])
    memory.set_state(ids["b"], state)
    plan = memory.rerun(ids["a"])
    assert memory.states(ids) == {"a": "READY", "b": state, "c": "WAITING"}
    assert states(plan.changed) == {ids["a"]: "READY", ids["b"]: state}
    assert launches(memory, ids["b"]) == ([], [launch])
    assert "_recovery" not in memory.firework(ids["b"])["spec"]
    assert memory.offline_run(launch)["deprecated"] is True
    again = memory.rerun(ids["a"])
    assert states(again.changed) == {ids["a"]: "READY"}, "it has nothing that is to be changed"


def test_what_is_below_a_held_child_goes_back_too(memory) -> None:
    ids = memory.add(CHAIN)
    for name in "abc":
        memory.complete(ids[name])
    memory.set_state(ids["b"], "DEFUSED")  # by an action
    memory.rerun(ids["a"])
    assert memory.states(ids) == {"a": "READY", "b": "DEFUSED", "c": "WAITING"}


def test_a_child_that_is_being_resumed_does_not_keep_its_launch(memory) -> None:
    """`lpad resume_fws` makes a Firework WAITING, then waits for the lock to derive its state."""
    ids = memory.add({"a": "b"})
    memory.complete(ids["a"])
    launch = memory.reserve(ids["b"])
    memory.firework(ids["b"])["state"] = "WAITING"
    memory.workflow(ids["b"])["fw_states"][str(ids["b"])] = "PAUSED"
    memory.rerun(ids["a"])
    assert memory.states(ids) == {"a": "READY", "b": "WAITING"}
    assert launches(memory, ids["b"]) == ([], [launch])
    assert memory.offline_run(launch)["deprecated"] is True


def test_a_held_child_that_is_named_too_is_taken_up_again(memory) -> None:
    ids = memory.add({"a": "b"})
    memory.complete(ids["a"])
    memory.set_state(ids["b"], "PAUSED")
    memory.rerun(ids["a"], ids["b"])
    assert memory.states(ids) == {"a": "READY", "b": "WAITING"}


# --------------------------------------------------------------------------------------- rerun: spec


def test_traces_of_failures_go(memory) -> None:
    ids = memory.add({"a": "b"}, {"a": {"_exception_details": 1, "_recovery": {}, "x": 1}})
    memory.complete(ids["a"], "FIZZLED")
    memory.rerun(ids["a"])
    assert memory.firework(ids["a"])["spec"].keys() == {"_tasks", "x"}
    # Only a failure is cleared away, as in FireWorks.
    memory.firework(ids["a"])["spec"]["_exception_details"] = 2
    memory.rerun(ids["a"])
    assert memory.firework(ids["a"])["spec"]["_exception_details"] == 2


def test_a_child_starts_anew_not_from_a_checkpoint_with_old_input(memory) -> None:
    ids = memory.add({"a": "b"}, {"b": {"_recovery": {"_task_n": 1}}})
    for name in "ab":
        memory.complete(ids[name])
    memory.rerun(ids["a"])
    assert "_recovery" not in memory.firework(ids["b"])["spec"]


def test_a_tolerant_child_goes_back_and_keeps_what_it_was_told(memory) -> None:
    ids = memory.add({"a": "b"}, {"b": TOLERANT})
    memory.complete(ids["a"], "FIZZLED")
    memory.complete(ids["b"], "FIZZLED")
    assert memory.workflow(ids["a"])["state"] == "FIZZLED"
    memory.rerun(ids["b"])
    assert memory.states(ids) == {"a": "FIZZLED", "b": "READY"}
    told = memory.firework(ids["b"])["spec"]["_fizzled_parents"]
    memory.rerun(ids["a"])
    assert memory.states(ids) == {"a": "READY", "b": "WAITING"}
    assert memory.firework(ids["b"])["spec"]["_fizzled_parents"] == told


# ----------------------------------------------------------------------------------- rerun: recovery


def failed(memory: Memory, fw_id: int) -> int:
    launch = memory.reserve(fw_id)
    memory.apply(report(launch)._replace(checkpoint=CHECKPOINT))
    memory.apply(report(launch, "FIZZLED"))
    return launch


@pytest.mark.parametrize("mode", [None, "cp", "prev_dir"])
def test_going_on_from_a_checkpoint(memory, mode) -> None:
    ids = memory.add({"a": "b"})
    launch = failed(memory, ids["a"])
    plan = memory.rerun(ids["a"], recovery=Recovery(mode))
    assert states(plan.changed) == {ids["a"]: "READY"}
    spec = memory.firework(ids["a"])["spec"]
    place = f"/launch/{launch}"
    origin = {"_prev_dir": place, "_launch_id": launch, "_mode": mode}
    assert spec["_recovery"] == {**CHECKPOINT, **origin}
    assert spec.get("_launch_dir") == (place if mode == "prev_dir" else None)
    # A later one from the start does not go on from there. Where it ran last is not told from a wish.
    memory.rerun(ids["a"])
    spec = memory.firework(ids["a"])["spec"]
    assert "_recovery" not in spec
    assert spec.get("_launch_dir") == (place if mode == "prev_dir" else None)


def test_a_job_that_was_killed_is_recovered_from_its_last_checkpoint(memory) -> None:
    ids = memory.add({"a": ""})
    launch = memory.run(ids["a"])
    memory.apply(report(launch)._replace(checkpoint=CHECKPOINT, ping_time="2026-11-23T12:03:00Z"))
    memory.rerun(ids["a"], recovery=Recovery("cp"))
    assert memory.firework(ids["a"])["spec"]["_recovery"]["_launch_id"] == launch
    assert memory.offline_run(launch)["deprecated"] is True


def test_without_a_checkpoint_nothing_is_changed(memory) -> None:
    ids = memory.add({"a": "", "b": "", "c": ""})
    never, ran = ids["a"], ids["b"]
    launch = memory.complete(ran, "FIZZLED")
    other = failed(memory, ids["c"])
    plan = memory.rerun(*ids.values(), recovery=Recovery(launches={ids["c"]: other}))
    assert states(plan.changed) == {ids["c"]: "READY"}
    assert reasons(plan.skipped) == {
        never: f"Firework {never} has no active launch to go on from",
        ran: f"launch {launch} of Firework {ran} left no checkpoint: rerun it from its start",
    }
    assert memory.states(ids) == {"a": "READY", "b": "FIZZLED", "c": "READY"}
    assert {write.filter.get("fw_id") for write in plan.writes} - {None} == {ids["c"]}


def test_the_launch_to_go_on_from_must_be_an_active_one(memory) -> None:
    ids = memory.add({"a": ""})
    first = failed(memory, ids["a"])
    memory.rerun(ids["a"])
    failed(memory, ids["a"])
    plan = memory.rerun(ids["a"], recovery=Recovery(launches={ids["a"]: first}))
    assert nothing_done(plan)
    assert reasons(plan.skipped) == {
        ids["a"]: f"launch {first} is no active launch of Firework {ids['a']}"
    }


def test_of_several_active_launches_it_goes_on_from_the_last(memory) -> None:
    """A Firework that looks for duplicates may have several."""
    ids = memory.add({"a": "", "b": ""})
    first, last = failed(memory, ids["a"]), failed(memory, ids["b"])
    memory.firework(ids["a"])["launches"].append(last)
    memory.rerun(ids["a"], recovery=Recovery())
    assert memory.firework(ids["a"])["spec"]["_recovery"]["_launch_id"] == last
    assert launches(memory, ids["a"]) == ([], [first, last])


def test_a_duplicate_below_goes_on_from_the_checkpoint_too(memory) -> None:
    ids = memory.add({"a": "b"}, {"a": FINDER, "b": {**FINDER, **TOLERANT}})
    launch = failed(memory, ids["a"])
    memory.firework(ids["b"])["launches"].append(launch)
    memory.set_state(ids["b"], "FIZZLED")
    memory.rerun(ids["a"], recovery=Recovery())
    assert memory.states(ids) == {"a": "READY", "b": "WAITING"}
    for fw_id in ids.values():
        assert memory.firework(fw_id)["spec"]["_recovery"]["_launch_id"] == launch


def test_a_checkpoint_that_does_not_fit_is_told(memory) -> None:
    ids = memory.add({"a": ""})
    failed(memory, ids["a"])
    world = memory.world()
    world.full, world.owners = {ids["a"]}, {1: [ids["a"]]}
    plan = plan_rerun(world, [ids["a"]], memory.now, recovery=Recovery())
    assert nothing_done(plan)
    assert "16 MiB" in plan.skipped[0].reason


def test_a_firework_that_waits_may_go_on_from_a_checkpoint(memory) -> None:
    ids = memory.add({"a": "b"})
    launch = failed(memory, ids["b"])  # before its parent was reset by somebody
    memory.set_state(ids["b"], "WAITING")
    memory.rerun(ids["b"], recovery=Recovery())
    assert memory.states(ids) == {"a": "READY", "b": "WAITING"}
    assert memory.firework(ids["b"])["spec"]["_recovery"]["_launch_id"] == launch


def test_no_other_mode() -> None:
    with pytest.raises(InvalidRecovery, match="'copy'") as caught:
        Recovery("copy")
    assert "prev_dir" in caught.value.hint


# --------------------------------------------------------------------------------- rerun: duplicates


def test_duplicates_are_rerun_together(memory) -> None:
    one, two, launch = shared(memory)
    plan = memory.rerun(two["a"])
    assert states(plan.changed) == {
        one["a"]: "READY",
        one["b"]: "WAITING",
        two["a"]: "READY",
        two["b"]: "WAITING",
    }
    for ids in (one, two):
        assert memory.states(ids) == {"a": "READY", "b": "WAITING"}
        assert launches(memory, ids["a"]) == ([], [launch])


def test_only_a_firework_that_looks_for_duplicates_has_any(memory) -> None:
    one, two, launch = shared(memory)
    del memory.firework(one["a"])["spec"]["_dupefinder"]
    memory.rerun(one["a"])
    assert memory.states(two) == {"a": "COMPLETED", "b": "READY"}
    assert launches(memory, two["a"]) == ([launch], [])


def test_duplicates_go_on_from_the_same_checkpoint(memory) -> None:
    one, two = (memory.add({"a": ""}, {"a": FINDER}) for _ in range(2))
    launch = memory.reserve(one["a"])
    memory.firework(two["a"])["launches"].append(launch)
    memory.set_state(two["a"], "RESERVED")
    memory.apply(report(launch)._replace(checkpoint=CHECKPOINT))
    memory.rerun(one["a"], two["a"], recovery=Recovery("cp", {one["a"]: launch}))
    for ids in (one, two):
        assert memory.firework(ids["a"])["spec"]["_recovery"]["_launch_id"] == launch
        assert memory.states(ids) == {"a": "READY"}
    assert memory.offline_run(launch)["deprecated"] is True


def test_a_duplicate_that_was_given_up_stays(memory) -> None:
    one, two, launch = shared(memory)
    memory.set_state(two["a"], "DEFUSED")
    memory.rerun(one["a"])
    assert memory.states(one) == {"a": "READY", "b": "WAITING"}
    assert memory.states(two) == {"a": "DEFUSED", "b": "READY"}
    assert launches(memory, two["a"]) == ([launch], [])


def test_a_run_is_retired_only_when_nobody_counts_on_it(memory) -> None:
    one, two = (memory.add({"a": "b"}, {"a": FINDER, "b": FINDER}) for _ in range(2))
    memory.complete(one["a"])
    launch = memory.run(one["b"])
    memory.firework(two["b"])["launches"].append(launch)
    memory.set_state(two["b"], "RUNNING")
    # FireWorks' rerun of a parent does not go on to the duplicates of a child, and neither does ours.
    memory.rerun(one["a"])
    assert memory.states(one) == {"a": "READY", "b": "WAITING"}
    assert launches(memory, two["b"]) == ([launch], [])
    assert memory.offline_run(launch)["deprecated"] is False
    memory.rerun(two["b"], duplicates=False)
    assert memory.offline_run(launch)["deprecated"] is True


@pytest.mark.parametrize("make", [plan_rerun, plan_defuse])
@pytest.mark.parametrize("refused", [True, False])
def test_duplicates_are_rerun_together_or_not_at_all(memory, make, refused) -> None:
    one, two, launch = shared(memory)
    world = memory.world()
    world.workflows.pop()
    world.owners = {launch: [one["a"], two["a"]]}
    if refused:
        world.refused = dict.fromkeys(two.values(), "the workflow is locked by FireWorks")
    plan = make(world, [one["a"]], memory.now)
    assert nothing_done(plan)
    why = "the workflow is locked by FireWorks" if refused else "it was not its duplicate just now"
    assert reasons(plan.deferred) == {one["a"]: f"Firework {two['a']} shares its launch: {why}"}


# --------------------------------------------------------------------------------------------- defuse


@pytest.mark.parametrize("state", ["WAITING", "READY", "FIZZLED", "PAUSED"])
def test_what_has_not_begun_is_defused_as_it_is(memory, state) -> None:
    ids = memory.add({"a": "b"})
    launch = memory.reserve(ids["a"]) if state in {"FIZZLED", "PAUSED"} else None
    memory.set_state(ids["a"], state)
    dated = memory.workflow(ids["a"])["updated_on"]
    plan = memory.defuse(ids["a"])
    assert states(plan.changed) == {ids["a"]: "DEFUSED"}
    assert memory.states(ids) == {"a": "DEFUSED", "b": "WAITING"}
    assert memory.workflow(ids["a"])["state"] == "DEFUSED"
    assert memory.workflow(ids["a"])["updated_on"] == dated
    assert launches(memory, ids["a"]) == ([launch] if launch else [], [])
    if launch:
        assert memory.offline_run(launch)["deprecated"] is False


@pytest.mark.parametrize("begin", [Memory.reserve, Memory.run, Memory.complete])
def test_what_has_begun_is_rerun_before(memory, begin) -> None:
    ids = memory.add({"a": "b"})
    launch = begin(memory, ids["a"])
    plan = memory.defuse(ids["a"])
    assert memory.states(ids) == {"a": "DEFUSED", "b": "WAITING"}
    assert launches(memory, ids["a"]) == ([], [launch])
    assert memory.offline_run(launch)["deprecated"] is (begin is not Memory.complete)
    assert plan.released == []
    # Its job goes on, and changes nothing (W11).
    assert not memory.plan(report(launch, "COMPLETED")).applied


@pytest.mark.parametrize(("state", "why"), [("DEFUSED", "DEFUSED already"), ("ARCHIVED",) * 2])
def test_defusing_has_its_limits(memory, state, why) -> None:
    ids = memory.add({"a": ""})
    memory.set_state(ids["a"], state)
    plan = memory.defuse(ids["a"], 99)
    assert nothing_done(plan)
    assert reasons(plan.skipped) == {ids["a"]: f"it is {why}", 99: "no workflow holds Firework 99"}


@pytest.mark.parametrize("order", ["abc", "cba"])
def test_several_are_defused_whatever_their_order(memory, order) -> None:
    ids = memory.add({"a": "b", "b": "c", "c": "d"})
    for name in "abcd":
        memory.complete(ids[name])
    plan = memory.defuse(*[ids[name] for name in order])
    assert memory.states(ids) == {"a": "DEFUSED", "b": "DEFUSED", "c": "DEFUSED", "d": "WAITING"}
    assert states(plan.changed)[ids["d"]] == "WAITING"


def test_duplicates_of_what_is_defused_are_rerun(memory) -> None:
    one, two, launch = shared(memory)
    memory.defuse(one["a"])
    assert memory.states(one) == {"a": "DEFUSED", "b": "WAITING"}
    assert memory.states(two) == {"a": "READY", "b": "WAITING"}
    assert launches(memory, two["a"]) == ([], [launch])


# ------------------------------------------------------------------------------ any workflow at all

NAMES = "abcdef"


@given(
    links=st.dictionaries(st.sampled_from(NAMES[:-1]), st.sets(st.sampled_from(NAMES), max_size=3)),
    tolerant=st.sets(st.sampled_from(NAMES)),
    history=st.lists(
        st.tuples(
            st.sampled_from(["reserve", "run", "COMPLETED", "FIZZLED", "PAUSED", "DEFUSED"]),
            st.sampled_from(NAMES),
        ),
        max_size=8,
    ),
    asked=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
    call=st.sampled_from(["rerun", "defuse"]),
)
@settings(max_examples=100, deadline=None)
def test_states_fit_together_afterwards(links, tolerant, history, asked, call) -> None:
    memory = Memory()
    downward = {a: "".join(sorted(b for b in bs if b > a)) for a, bs in links.items()}
    ids = memory.add({**dict.fromkeys(NAMES, ""), **downward}, dict.fromkeys(tolerant, TOLERANT))
    for event, name in history:
        _happen(memory, ids[name], event)
    before = memory.states(ids)
    runs = {run["launch_id"] for run in memory.collections["offline_runs"] if not run["completed"]}
    plan = getattr(memory, call)(*[ids[name] for name in asked])
    after = memory.states(ids)
    workflow = memory.workflow(1)
    for name, fw_id in ids.items():
        firework = memory.firework(fw_id)
        listed = firework["launches"] + firework["archived_launches"]
        assert len(listed) == len(set(listed)) == _count(memory, fw_id), "a launch is lost"
        retired = {n for n in runs & set(listed) if memory.offline_run(n)["deprecated"]}
        assert retired == runs & set(firework["archived_launches"])
        if call == "defuse" and name in asked:
            assert after[name] == "DEFUSED"
        elif name not in asked and before[name] in HELD:
            assert after[name] == before[name], "a decision of somebody is undone"
        elif after[name] not in HELD and (call == "rerun" or name not in tolerant):
            # What a FIZZLED parent has released stays so when that one is defused, as in FireWorks.
            accepted = acceptable_parents(firework["spec"])
            parents = workflow["parent_links"].get(str(fw_id), [])
            waits = any(workflow["fw_states"][str(p)] not in accepted for p in parents)
            assert (after[name] == "WAITING") == waits
    assert not plan.writes or workflow["state"] == workflow_state(
        workflow["fw_states"],
        workflow["links"],
        lambda number: bool(memory.firework(number)["spec"].get("_allow_fizzled_parents")),
    )


def _happen(memory, fw_id, event) -> None:
    state = memory.firework(fw_id)["state"]
    if event in HELD and state in {"WAITING", "READY", "RESERVED"}:
        memory.set_state(fw_id, event)
    elif state == "READY" and event in {"reserve", "run"}:
        getattr(memory, event)(fw_id)
    elif state == "READY" and event not in HELD:
        memory.complete(fw_id, event)


def _count(memory, fw_id) -> int:
    return sum(launch["fw_id"] == fw_id for launch in memory.collections["launches"])


def test_nothing_is_asked_of_an_empty_list() -> None:
    for make in (plan_rerun, plan_defuse):
        assert nothing_done(make(World(), [], Memory().now))
