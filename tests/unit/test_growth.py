"""Actions that add Fireworks: what they may hold, and the workflow that comes of them."""

import copy
from time import process_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwcore.growth import count_added, growths_of, new_ids
from fwcore.plan import plan_reports
from fwcore.states import HELD
from fwrunner.protocol.action import InvalidAction
from tests.support.memory import TASKS, Memory, report

Document = dict[str, Any]


@pytest.fixture
def memory() -> Memory:
    return Memory()


def fw(number: int, name: str = "new", **spec) -> Document:
    return {"fw_id": number, "name": name, "spec": {"_tasks": TASKS, **spec}}


def wf(links: dict[int, list[int]], **specs) -> Document:
    """A workflow file of Fireworks that are named by their numbers."""
    return {
        "fws": [fw(number, f"new{number}", **specs) for number in links],
        "links": {str(number): children for number, children in links.items()},
        "name": "grown",
        "metadata": {},
    }


CHAIN = {-1: [-2], -2: []}


def appended(source, *parents: int, detour: bool = False) -> list[Document]:
    return [{"workflow": source, "parents": list(parents), "detour": detour}]


def by_name(memory: Memory, name: str) -> Document:
    [found] = [doc for doc in memory.collections["fireworks"] if doc["name"] == name]
    return found


def state(memory: Memory, name: str) -> str:
    firework = by_name(memory, name)
    assert (
        memory.workflow(firework["fw_id"])["fw_states"][str(firework["fw_id"])]
        == (firework["state"])
    )
    return str(firework["state"])


def check_whole(memory: Memory) -> None:
    """Links are the inverse of parent_links, every node has a state, no id is used twice."""
    numbers = [doc["fw_id"] for doc in memory.collections["fireworks"]]
    assert len(numbers) == len(set(numbers))
    members = [node for flow in memory.collections["workflows"] for node in flow["nodes"]]
    assert sorted(members) == sorted(numbers)
    for flow in memory.collections["workflows"]:
        nodes = {str(node) for node in flow["nodes"]}
        assert flow["links"].keys() == flow["fw_states"].keys() == nodes
        down = {(int(up), child) for up, children in flow["links"].items() for child in children}
        up = {
            (parent, int(child))
            for child, parents in flow["parent_links"].items()
            for parent in parents
        }
        assert down == up
        assert sum(map(len, flow["links"].values())) == len(down)
        assert sum(map(len, flow["parent_links"].values())) == len(up)
        for node in flow["nodes"]:
            assert flow["fw_states"][str(node)] == memory.firework(node)["state"]


# ---------------------------------------------------------------------------------------- parsing


@pytest.mark.parametrize("key", ["detours", "additions"])
@pytest.mark.parametrize(
    "source",
    [fw(-1), [fw(-1)], wf({-1: []}), [wf({-1: []})], {"spec": {"_tasks": TASKS}, "name": "new"}],
)
def test_a_single_firework_a_workflow_and_lists_of_them(key, source) -> None:
    [growth] = growths_of({key: source}, 7)
    assert list(growth.fireworks) == [-1]
    assert growth.parents == (7,)
    assert growth.detours == ({7} if key == "detours" else set())
    assert growth.pulls is False
    assert growth.roots == growth.leaves == [-1]


@pytest.mark.parametrize("listed", [True, False])
def test_append_wfs(listed) -> None:
    entry = appended(wf(CHAIN), 3, 7, 5, 3, detour=True)
    [growth] = growths_of({"append_wfs": entry if listed else entry[0]}, 7)
    assert growth.parents == (7, 3, 5)
    assert growth.detours == {7}
    assert growth.pulls is True
    assert (growth.roots, growth.leaves) == ([-1], [-2])


def test_the_order_is_that_of_fireworks() -> None:
    action = {
        "additions": [fw(-9), fw(-1)],
        "append_wfs": appended(fw(-3)),
        "detours": [fw(-2), fw(-7)],
    }
    growths = growths_of(action, 1)
    assert [list(growth.fireworks) for growth in growths] == [[-2], [-7], [-3], [-9], [-1]]
    assert count_added(action) == 5
    assert new_ids(growths, iter(range(40, 50))) == {-9: 40, -7: 41, -3: 42, -2: 43, -1: 44}


def test_nothing_is_added_by_most_actions() -> None:
    assert growths_of({}, 1) == []
    assert growths_of({"additions": None, "detours": [], "append_wfs": {}}, 1) == []
    assert count_added(None) == 0
    assert count_added({"additions": [fw(1)]}) == 0


REFUSED: dict[str, tuple[Document, str]] = {
    "positive": ({"additions": [fw(5)]}, "additions: new Fireworks need negative fw_ids, not 5"),
    "zero": ({"detours": wf({-1: [0], 0: []})}, "detours: new .* negative fw_ids, not 0"),
    "endless links": (
        {"additions": {"fws": [fw(-1)], "links": {"-1": float("inf")}}},
        r"additions: links.-1 is inf, not fw_ids",
    ),
    "links that are no numbers": (
        {"additions": {"fws": [fw(-1)], "links": {"-1": [float("nan")]}}},
        r"additions: links.-1 is \[nan\], not fw_ids",
    ),
    "repeated in two parts": (
        {"detours": [fw(-1)], "additions": [fw(-1)]},
        r"the same fw_id: \[-1\]",
    ),
    "repeated in two entries": ({"additions": [fw(-4), fw(-4)]}, r"the same fw_id: \[-4\]"),
    "repeated in one workflow": (
        {"detours": [{"fws": [fw(-1), fw(-1)]}]},
        r"detours: fws\[1\] has a repeated or unusable 'fw_id': -1",
    ),
    "no id among several": (
        {"detours": [{"fws": [fw(-1), {"spec": {"_tasks": TASKS}}]}]},
        r"detours: fws\[1\] has no 'fw_id'",
    ),
    "a text for an id": ({"additions": [{**fw(-1), "fw_id": "-1"}]}, "additions: .*'-1'"),
    "a number with a point for an id": (
        {"additions": [{**fw(-1), "fw_id": -1.5}]},
        "additions: .*-1.5",
    ),
    "true for an id": ({"additions": [{**fw(-1), "fw_id": True}]}, "additions: .*True"),
    "no spec": ({"additions": [{"fw_id": -1}]}, "additions: .*no list 'spec._tasks'"),
    "no name of a task": (
        {"additions": [{"fw_id": -1, "spec": {"_tasks": [{}]}}]},
        r"additions: .*spec._tasks\[0\] has no '_fw_name'",
    ),
    "no Fireworks": ({"detours": [{"fws": []}]}, "detours: 'fws' is not a list of at least one"),
    "a text": ({"additions": ["more"]}, "additions has an entry that is neither"),
    "an unknown child": ({"additions": [wf({-1: [-2]})]}, r"additions: .*\[-2\]"),
    "a cycle": ({"detours": [wf({-1: [-2], -2: [-1]})]}, "detours: 'links' form a cycle"),
    "its own launches": ({"additions": [{**fw(-1), "launches": [3]}]}, "additions: .* launches"),
    "an unknown state": ({"additions": [{**fw(-1), "state": "DONE"}]}, "unknown state 'DONE'"),
    "append_wfs of a workflow": ({"append_wfs": [wf(CHAIN)]}, "append_wfs needs objects with"),
    "append_wfs of a text": ({"append_wfs": "wf"}, "append_wfs needs objects with"),
    "append_wfs without a workflow": (
        {"append_wfs": [{"parents": []}]},
        "append_wfs has an entry that is neither",
    ),
    "parents that are names": (
        {"append_wfs": appended(fw(-1), "b")},  # type: ignore[arg-type]
        "append_wfs has 'parents' that are no fw_ids",
    ),
    "a parent that is true": (
        {"append_wfs": appended(fw(-1), True)},
        "append_wfs has 'parents' that are no fw_ids",
    ),
    "one parent, not in a list": (
        {"append_wfs": {"workflow": fw(-1), "parents": 1}},
        "append_wfs needs objects with",
    ),
    "a parent elsewhere": (
        {"append_wfs": appended(fw(-1), 4)},
        "Firework 4 is not in the same workflow",
    ),
    "a parent that is added by the same action": (
        {"additions": [fw(-1)], "append_wfs": appended(fw(-2), -1)},
        "Firework -1 is not in the same workflow",
    ),
    "what a new Firework cannot take": (
        {"mod_spec": [{"_push": {"log": 1}}], "append_wfs": appended(fw(-6, log="text"))},
        r"_push of 'log': .* \(in the new Firework -6\)",
    ),
    "a parent that would wait for itself": (
        {"append_wfs": appended(wf(CHAIN), 2, detour=True)},
        "Firework 2 would wait for itself",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_added_fizzles_that_firework_only(memory, case) -> None:
    action, said = REFUSED[case]
    ids, other = memory.add({"a": "b", "b": "c"}), memory.add({"a": "b"})
    growing, plain = memory.run(ids["a"]), memory.run(other["a"])
    workflow = copy.deepcopy(memory.workflow(ids["a"]))
    plan = memory.apply(
        report(growing, "COMPLETED", stored_data={"e": 1}, **copy.deepcopy(action)),
        report(plain, "COMPLETED", additions=[fw(-1, "added")]),
    )
    assert {one.launch_id: one.state for one in plan.applied} == {
        growing: "FIZZLED",
        plain: "COMPLETED",
    }
    assert memory.states(ids) == {"a": "FIZZLED", "b": "WAITING", "c": "WAITING"}
    data = memory.launch(growing)["action"]["stored_data"]
    with pytest.raises(InvalidAction, match=said):
        raise InvalidAction(data["_message"])
    assert data["_message"].startswith("the action cannot be applied: ")
    assert data["_action"]["stored_data"] == {"e": 1}
    assert memory.workflow(ids["a"])["links"] == workflow["links"]
    assert memory.workflow(ids["a"])["nodes"] == workflow["nodes"]
    assert state(memory, "added") == "READY"
    check_whole(memory)


@pytest.mark.parametrize("begun", ["READY", "RESERVED", "RUNNING", "COMPLETED"])
@pytest.mark.parametrize("key", ["detours", "append_wfs"])
def test_a_detour_needs_children_that_wait(memory, begun, key) -> None:
    ids = memory.add({"a": "bc"})
    launch = memory.run(ids["a"])
    memory.set_state(ids["c"], begun)
    growth = fw(-1) if key == "detours" else appended(fw(-1), detour=True)
    memory.apply(report(launch, "COMPLETED", **{key: growth}))
    assert memory.states(ids)["a"] == "FIZZLED"
    message = memory.launch(launch)["action"]["stored_data"]["_message"]
    assert f"a detour of Firework {ids['a']} needs children that wait" in message
    assert f"{ids['c']} is {begun}" in message
    assert len(memory.collections["fireworks"]) == len(ids)


@pytest.mark.parametrize("key", ["additions", "append_wfs"])
def test_other_additions_do_not(memory, key) -> None:
    ids = memory.add({"a": "b"})
    launch = memory.run(ids["a"])
    memory.set_state(ids["b"], "RUNNING")
    growth = fw(-1) if key == "additions" else appended(fw(-1))
    memory.apply(report(launch, "COMPLETED", **{key: growth}))
    assert state(memory, "new") == "READY"
    check_whole(memory)


def test_a_detour_of_a_child_that_defuse_workflow_spares(memory) -> None:
    ids = memory.add({"a": "b"})
    launch = memory.run(ids["a"])
    memory.set_state(ids["b"], "COMPLETED")
    memory.apply(report(launch, "COMPLETED", detours=fw(-1), defuse_workflow=True))
    assert memory.states(ids)["a"] == "FIZZLED"
    assert len(memory.collections["fireworks"]) == len(ids)


# ---------------------------------------------------------------------------------- the workflow then


def test_a_detour_holds_back_the_old_children_only(memory) -> None:
    ids = memory.add({"a": "bc", "c": "d"})
    plan = memory.apply(report(memory.run(ids["a"]), "COMPLETED", detours=wf(CHAIN)))
    # -2 comes before -1 in ascending order.
    assert by_name(memory, "new-2")["fw_id"] == 5
    assert by_name(memory, "new-1")["fw_id"] == 6
    flow = memory.workflow(1)
    assert flow["nodes"] == [1, 2, 3, 4, 5, 6]
    assert flow["links"] == {"1": [2, 3, 6], "2": [], "3": [4], "4": [], "5": [2, 3], "6": [5]}
    assert flow["parent_links"] == {"2": [1, 5], "3": [1, 5], "4": [3], "5": [6], "6": [1]}
    assert plan.released == [6]
    assert memory.states(ids) == {"a": "COMPLETED", "b": "WAITING", "c": "WAITING", "d": "WAITING"}
    assert flow["state"] == "RUNNING"

    memory.complete(6)
    assert memory.states(ids)["b"] == "WAITING"
    plan = memory.apply(report(memory.run(5), "COMPLETED"))
    assert plan.released == [2, 3]
    assert memory.states(ids) == {"a": "COMPLETED", "b": "READY", "c": "READY", "d": "WAITING"}
    check_whole(memory)


def test_an_addition_holds_back_nothing(memory) -> None:
    ids = memory.add({"a": "b"})
    plan = memory.apply(report(memory.run(ids["a"]), "COMPLETED", additions=wf(CHAIN)))
    assert sorted(plan.released) == [2, 4]
    flow = memory.workflow(1)
    assert flow["links"] == {"1": [2, 4], "2": [], "3": [], "4": [3]}
    assert flow["parent_links"] == {"2": [1], "3": [4], "4": [1]}
    assert flow["fw_states"] == {"1": "COMPLETED", "2": "READY", "3": "WAITING", "4": "READY"}


def test_an_addition_below_a_leaf_keeps_the_workflow_open(memory) -> None:
    memory.add({"a": ""})
    memory.complete(1, additions=fw(-1))
    assert memory.workflow(1)["state"] == "RUNNING"
    memory.complete(2)
    assert memory.workflow(1)["state"] == "COMPLETED"


def test_everything_in_one_action(memory) -> None:
    ids = memory.add({"a": "b"})
    launch = memory.run(ids["a"])
    memory.apply(
        report(
            launch,
            "COMPLETED",
            detours=[fw(-1, "first"), wf({-5: [-4], -4: []})],
            append_wfs=appended(fw(-3, "third")),
            additions=[fw(-2, "second")],
        )
    )
    numbers = {name: by_name(memory, name)["fw_id"] for name in ("third", "second", "first")}
    assert numbers == {"third": 5, "second": 6, "first": 7}
    assert [by_name(memory, f"new{n}")["fw_id"] for n in (-5, -4)] == [3, 4]
    flow = memory.workflow(1)
    assert flow["links"] == {
        "1": [2, 7, 3, 5, 6],
        "2": [],
        "3": [4],
        "4": [2],
        "5": [],
        "6": [],
        "7": [2],
    }
    # Only what was there before the action waits, and for both detours.
    assert flow["parent_links"]["2"] == [1, 7, 4]
    assert {name: state(memory, name) for name in (*numbers, "new-5", "new-4")} == {
        **dict.fromkeys((*numbers, "new-5"), "READY"),
        "new-4": "WAITING",
    }
    # As it was reported: the ids inside stay negative.
    assert memory.launch(launch)["action"]["additions"] == [fw(-2, "second")]
    check_whole(memory)


def test_a_new_firework_is_what_the_action_says(memory) -> None:
    memory.add({"a": ""})
    source = {**fw(-1, "n", _priority=3, **{"a.b": {"$c": 1}}), "state": "DEFUSED"}
    memory.complete(1, additions=source)
    found = memory.firework(2)
    assert found["name"] == "n"
    assert found["spec"] == source["spec"]
    assert found["launches"] == found["archived_launches"] == []
    assert found["state"] == "DEFUSED"
    assert memory.workflow(1)["fw_states"]["2"] == "DEFUSED"


@pytest.mark.parametrize("claimed", ["READY", "WAITING"])
def test_the_state_of_a_new_firework_follows_from_its_parents(memory, claimed) -> None:
    memory.add({"a": ""})
    chain = wf(CHAIN)
    for each in chain["fws"]:
        each["state"] = claimed
    memory.complete(1, additions=chain)
    assert (state(memory, "new-1"), state(memory, "new-2")) == ("READY", "WAITING")


# ------------------------------------------------------------------------- specs, and several parents


def test_append_wfs_pulls_from_completed_parents_in_their_order(memory) -> None:
    ids = memory.add({"a": "", "b": "", "c": ""})
    memory.complete(ids["b"], update_spec={"who": "b", "b": 1}, mod_spec=[{"_push": {"log": "b"}}])
    memory.complete(ids["c"], "FIZZLED", update_spec={"who": "c"})
    memory.complete(
        ids["a"],
        update_spec={"who": "a", "a": 1},
        mod_spec=[{"_push": {"log": "a"}}],
        append_wfs=appended(wf({-1: [-3], -2: [-3], -3: []}), ids["b"]),
    )
    for root in ("new-1", "new-2"):
        assert by_name(memory, root)["spec"] == {
            "_tasks": TASKS,
            "who": "b",
            "a": 1,
            "b": 1,
            "log": ["a", "b"],
        }
        assert state(memory, root) == "READY"
    assert by_name(memory, "new-3")["spec"] == {"_tasks": TASKS}
    roots = [by_name(memory, root)["fw_id"] for root in ("new-1", "new-2")]
    flow = memory.workflow(1)
    assert flow["links"]["1"] == flow["links"]["2"] == roots
    assert flow["parent_links"][str(roots[0])] == [ids["a"], ids["b"]]
    check_whole(memory)


def test_append_wfs_waits_for_a_parent_that_runs_and_has_nothing_to_give(memory) -> None:
    ids = memory.add({"a": "", "b": ""})
    memory.run(ids["b"])
    memory.complete(ids["a"], append_wfs=appended(fw(-1), ids["b"]))
    assert state(memory, "new") == "WAITING"
    assert by_name(memory, "new")["spec"] == {"_tasks": TASKS}
    memory.apply(
        report(memory.firework(ids["b"])["launches"][0], "COMPLETED", update_spec={"b": 1})
    )
    assert state(memory, "new") == "READY"
    assert by_name(memory, "new")["spec"]["b"] == 1


@pytest.mark.parametrize("key", ["detours", "additions"])
def test_detours_and_additions_do_not_get_the_changes_of_specs(memory, key) -> None:
    ids = memory.add({"a": "b", "b": "c"})
    memory.complete(ids["a"], update_spec={"x": 1}, propagate=True, **{key: fw(-1)})
    assert by_name(memory, "new")["spec"] == {"_tasks": TASKS}
    assert [memory.firework(ids[name])["spec"].get("x") for name in "bc"] == [1, 1]


def test_what_an_action_holds_is_not_altered(memory) -> None:
    memory.add({"a": ""})
    action = {
        "mod_spec": [{"_push": {"deep->log": 1}}],
        "append_wfs": appended(fw(-1, deep={"log": [0]})),
    }
    before = copy.deepcopy(action)
    memory.complete(1, **action)
    assert action == before
    assert by_name(memory, "new")["spec"]["deep"] == {"log": [0, 1]}


# --------------------------------------------------------------------------------------- and defusing


def test_a_detour_of_children_that_are_defused(memory) -> None:
    ids = memory.add({"a": "b", "b": "c"})
    memory.complete(ids["a"], defuse_children=True, detours=fw(-1))
    assert memory.states(ids) == {"a": "COMPLETED", "b": "DEFUSED", "c": "WAITING"}
    assert state(memory, "new") == "READY"
    assert memory.workflow(1)["parent_links"][str(ids["b"])] == [1, 4]
    memory.complete(4)
    assert memory.states(ids)["b"] == "DEFUSED"


@pytest.mark.parametrize("key", ["detours", "additions", "append_wfs"])
def test_what_is_added_to_a_defused_workflow_is_below_its_firework(memory, key) -> None:
    """FireWorks would attach it to the last member of the workflow, and so it would never run."""
    ids = memory.add({"a": "b", "c": ""})
    growth = appended(fw(-1)) if key == "append_wfs" else fw(-1)
    plan = memory.apply(
        report(memory.run(ids["a"]), "COMPLETED", defuse_workflow=True, **{key: growth})
    )
    assert memory.states(ids) == {"a": "COMPLETED", "b": "DEFUSED", "c": "DEFUSED"}
    assert memory.workflow(1)["parent_links"]["4"] == [ids["a"]]
    assert plan.released == [4]
    check_whole(memory)


def test_a_held_firework_adds_nothing_until_it_is_resumed(memory) -> None:
    ids = memory.add({"a": "b"})
    launch = memory.reserve(ids["a"])
    memory.set_state(ids["a"], "PAUSED")
    memory.apply(report(launch, "COMPLETED", additions=fw(-1)))
    assert len(memory.collections["fireworks"]) == 2
    assert memory.launch(launch)["action"]["additions"] == [fw(-1)]


def test_a_failed_launch_adds_nothing(memory) -> None:
    ids = memory.add({"a": "b"})
    memory.complete(ids["a"], "FIZZLED", additions=fw(-1), detours=[fw(3)])
    assert len(memory.collections["fireworks"]) == 2


# ------------------------------------------------------------------------- several of them in a batch


def test_two_in_one_workflow(memory) -> None:
    ids = memory.add({"a": "c", "b": "c"})
    first, second = memory.run(ids["a"]), memory.run(ids["b"])
    plan = memory.apply(
        report(first, "COMPLETED", detours=fw(-1, "of a")),
        report(second, "COMPLETED", detours=fw(-1, "of b")),
    )
    assert len(plan.applied) == 2
    numbers = [by_name(memory, name)["fw_id"] for name in ("of a", "of b")]
    assert sorted(numbers) == [4, 5]
    assert sorted(memory.workflow(1)["parent_links"]["3"]) == [1, 2, 4, 5]
    memory.complete(4)
    assert memory.states(ids)["c"] == "WAITING"
    memory.complete(5)
    assert memory.states(ids)["c"] == "READY"
    check_whole(memory)


def test_two_in_two_workflows_where_a_third_is_deferred(memory) -> None:
    every = [memory.add({"a": "b"}) for _ in range(3)]
    launches = [memory.run(ids["a"]) for ids in every]
    memory.collections["fireworks"].remove(memory.firework(every[1]["b"]))
    plan = memory.plan(
        *[
            report(launch, "COMPLETED", update_spec={"x": 1}, additions=fw(-1, f"of {launch}"))
            for launch in launches
        ]
    )
    assert [one.launch_id for one in plan.applied] == [launches[0], launches[2]]
    assert [one.launch_id for one in plan.deferred] == [launches[1]]
    born = [write.update["$setOnInsert"] for write in plan.writes if write.upsert]
    assert [doc["name"] for doc in born] == [f"of {launches[0]}", f"of {launches[2]}"]
    assert sorted(doc["fw_id"] for doc in born) == [7, 8]


def test_a_shared_launch_grows_both_workflows(memory) -> None:
    first, second = memory.add({"a": "b"}), memory.add({"a": "b"})
    launch = memory.run(first["a"])
    memory.firework(second["a"])["launches"] = [launch]
    memory.set_state(second["a"], "RUNNING")
    plan = memory.apply(report(launch, "COMPLETED", detours=wf(CHAIN)))
    assert len(plan.released) == 2
    flows = memory.workflow(first["a"]), memory.workflow(second["a"])
    assert [len(flow["nodes"]) for flow in flows] == [4, 4]
    assert not set(flows[0]["nodes"]) & set(flows[1]["nodes"])
    assert memory.states(first) == memory.states(second) == {"a": "COMPLETED", "b": "WAITING"}
    check_whole(memory)


def test_carried_out_twice_it_is_carried_out_once(memory) -> None:
    ids = memory.add({"a": "b"})
    told = report(memory.run(ids["a"]), "COMPLETED", detours=wf(CHAIN), additions=fw(-3))
    plan = memory.apply(told)
    stored = copy.deepcopy(memory.collections)
    assert memory.execute(plan.writes) == 0
    again = memory.plan(told)
    assert not again.writes
    assert [one.launch_id for one in again.known] == [told.launch_id]
    assert memory.collections == stored


def test_new_fireworks_are_there_before_anything_refers_to_them(memory) -> None:
    ids = memory.add({"a": "b"})
    plan = memory.plan(report(memory.run(ids["a"]), "COMPLETED", additions=fw(-1)))
    kinds = [(write.collection, write.upsert) for write in plan.writes]
    assert kinds == [
        ("launches", False),
        ("fireworks", True),
        *[("fireworks", False)] * 2,
        ("workflows", False),
        ("offline_runs", False),
    ]


# ---------------------------------------------------------------------------- any dynamic action at all


@st.composite
def grown(draw, first: int):
    """A workflow whose ids go down from `first`."""
    count = draw(st.integers(1, 3))
    numbers = [first - offset for offset in range(count)]
    links: dict[int, list[int]] = {
        number: draw(st.lists(st.sampled_from(numbers[i + 1 :]), unique=True))
        if i + 1 < count
        else []
        for i, number in enumerate(numbers)
    }
    return draw(st.just(fw(numbers[0]))) if count == 1 else wf(links)


@st.composite
def dynamic_actions(draw, nodes: list[int]):
    sources = [draw(grown(-10 * n - 1)) for n in range(draw(st.integers(1, 3)))]
    action: Document = {"detours": [], "additions": [], "append_wfs": []}
    for source in sources:
        key = draw(st.sampled_from(sorted(action)))
        if key == "append_wfs":
            parents = draw(st.lists(st.sampled_from(nodes), max_size=2))
            action[key] += appended(source, *parents, detour=draw(st.booleans()))
        else:
            action[key].append(source)
    action["defuse_children"] = draw(st.sampled_from([False, False, True]))
    action["defuse_workflow"] = draw(st.sampled_from([False, False, False, True]))
    if draw(st.booleans()):
        action["update_spec"] = {"x": 1}
        action["propagate"] = draw(st.booleans())
    return action


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_is_added_the_workflow_is_whole(data) -> None:
    memory = Memory()
    ids = memory.add({"a": "bc", "b": "d", "c": "d", "e": ""})
    other = memory.add({"a": "b"})
    for _ in range(data.draw(st.integers(1, 3))):
        ready = [doc for doc in memory.collections["fireworks"] if doc["state"] == "READY"]
        ready = [doc for doc in ready if len(memory.collections["fireworks"]) < 20]
        if not ready:
            break
        chosen = data.draw(
            st.lists(st.sampled_from([doc["fw_id"] for doc in ready]), min_size=1, unique=True)
        )
        told = []
        for number in chosen:
            action = data.draw(dynamic_actions(memory.workflow(number)["nodes"]))
            told.append(report(memory.reserve(number), "COMPLETED", **action))
        plan = memory.apply(*told)
        assert len(plan.applied) == len(told)
        assert not memory.plan(*told).writes
        check_whole(memory)
        check_states(memory)
    assert memory.workflow(ids["a"]) is not memory.workflow(other["a"])


def check_states(memory: Memory) -> None:
    for flow in memory.collections["workflows"]:
        for node in flow["nodes"]:
            now = flow["fw_states"][str(node)]
            parents = flow["parent_links"].get(str(node), [])
            free = all(flow["fw_states"][str(parent)] == "COMPLETED" for parent in parents)
            assert now in HELD or free == (now != "WAITING")
            above, seen = list(parents), set()
            while above:
                parent = above.pop()
                assert parent != node, "it waits for itself"
                if parent not in seen:
                    seen.add(parent)
                    above += flow["parent_links"].get(str(parent), [])


@pytest.mark.parametrize(
    ("source", "updated_on"),
    [({"updated_on": "2026-01-01T08:00:00+00:00"}, "2026-01-01T08:00:00+00:00"), ({}, None)],
)
def test_a_new_firework_that_is_held_keeps_its_date(memory, source, updated_on) -> None:
    ids = memory.add({"a": ""})
    launch = memory.reserve(ids["a"])
    memory.apply(report(launch, "COMPLETED", additions=[{**fw(-1), "state": "PAUSED", **source}]))
    new = by_name(memory, "new")
    assert new["state"] == "PAUSED"
    assert new["updated_on"] == (updated_on or memory.firework(ids["a"])["updated_on"])


# ------------------------------------------------------------------------------------------- cost


def cost(key: str, count: int) -> float:
    """Return the processor time, in seconds, of planning an action that adds Fireworks one by one."""
    memory = Memory()
    launch_id = memory.reserve(memory.add({"a": "b"})["a"])
    world = memory.world()
    world.new_ids += range(1000, 1000 + count)
    new = [fw(-number) for number in range(1, count + 1)]
    if key == "append_wfs":
        new = [appended(source, detour=True)[0] for source in new]
    begin = process_time()
    plan = plan_reports(world, [report(launch_id, "COMPLETED", **{key: new})], memory.now)
    assert len(plan.grown) == count
    return process_time() - begin


@pytest.mark.parametrize("key", ["additions", "detours", "append_wfs"])
def test_the_cost_of_a_plan_is_linear_in_what_it_adds(key) -> None:
    few, many = (min(cost(key, count) for _ in range(3)) for count in (400, 4000))
    assert many < 20 * few
