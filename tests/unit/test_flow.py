"""One workflow as it will be: links, parents and the copy of the states."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwcore.flow import Flow
from tests.support.memory import NOW, Memory, updated

Document = dict[str, Any]
DIAMOND = {"a": "bc", "b": "d", "c": "d"}


def stored(links: dict[str, str]) -> Document:
    memory = Memory()
    memory.add(links)
    return memory.collections["workflows"][0]


def intolerant(_fw_id: int) -> bool:
    return False


def after(document: Document, flow: Flow, tolerates=intolerant) -> Document:
    """The document once the flow is stored."""
    return updated(document, flow.update(tolerates, NOW))


def inverse(links: dict[str, list[int]]) -> dict[str, set[int]]:
    parents: dict[str, set[int]] = {}
    for parent, children in links.items():
        for child in children:
            parents.setdefault(str(child), set()).add(int(parent))
    return parents


def test_what_is_above_and_below() -> None:
    flow = Flow(stored(DIAMOND))
    assert flow.nodes == [1, 2, 3, 4]
    assert flow.children(1) == [2, 3]
    assert flow.children(4) == []
    assert flow.parents(1) == []
    assert flow.parents(4) == [2, 3]
    assert sorted(flow.descendants(1)) == [2, 3, 4]
    assert flow.descendants(4) == []


def test_what_it_gives_away_can_be_altered_without_harm() -> None:
    document = stored(DIAMOND)
    flow = Flow(document)
    flow.children(1).append(9)
    flow.parents(4).clear()
    assert flow.children(1) == [2, 3]
    assert flow.parents(4) == [2, 3]
    assert document == stored(DIAMOND)


def test_a_state_is_set_in_the_copy_only() -> None:
    document = stored(DIAMOND)
    flow = Flow(document)
    assert not flow.changed()
    assert flow.set_state(1, "READY") is False
    assert not flow.changed()
    assert flow.set_state(1, "FIZZLED") is True
    assert flow.set_state(1, "FIZZLED") is False
    assert flow.changed()
    assert flow.state(1) == "FIZZLED"
    assert flow.fizzled() == {1}
    assert document["fw_states"]["1"] == "READY"


@pytest.mark.parametrize(("tolerated", "state"), [({2, 3}, "RUNNING"), ({2}, "FIZZLED")])
def test_the_state_follows_from_the_states(tolerated, state) -> None:
    document = stored(DIAMOND)
    flow = Flow(document)
    flow.set_state(1, "FIZZLED")
    assert after(document, flow, tolerated.__contains__)["state"] == state


def test_only_what_changed_is_written() -> None:
    document = stored(DIAMOND)
    flow = Flow(document)
    flow.set_state(2, "RUNNING")
    changes = flow.update(intolerant, NOW)["$set"]
    assert changes.keys() <= {"fw_states.2", "state", "updated_on"}
    assert changes["fw_states.2"] == "RUNNING"


def test_a_chain_between_a_firework_and_its_children() -> None:
    document = stored({"a": "bc"})
    before = copy.deepcopy(document)
    flow = Flow(document)
    flow.add({11: [12], 12: [2, 3]}, [1], [11])
    assert document == before
    assert flow.changed()
    assert flow.nodes == [1, 2, 3, 11, 12]
    assert flow.state(12) == "WAITING"
    assert flow.children(1) == [2, 3, 11]
    assert flow.children(12) == [2, 3]
    assert flow.parents(2) == [1, 12]
    assert flow.parents(11) == [1]
    new = after(document, flow)
    assert new["nodes"] == [1, 2, 3, 11, 12]
    assert new["links"] == {"1": [2, 3, 11], "2": [], "3": [], "11": [12], "12": [2, 3]}
    assert new["parent_links"] == {"2": [1, 12], "3": [1, 12], "11": [1], "12": [11]}
    assert new["fw_states"] == {**before["fw_states"], "11": "WAITING", "12": "WAITING"}
    assert new["name"] == before["name"]


@pytest.mark.parametrize("count", [30, 300])
def test_what_is_added_is_written_one_by_one_where_it_is_little(count) -> None:
    document = stored({"a": "b", "b": ""})
    flow = Flow(document)
    new = [*range(11, 11 + count)]
    flow.add({node: [] for node in new}, [1], new)
    written = {path for path in flow.update(intolerant, NOW)["$set"] if path != "nodes"}
    single = {f"{key}.{node}" for key in ("links", "parent_links", "fw_states") for node in new}
    whole = {"links", "parent_links", "fw_states"}
    assert written - {"updated_on"} == (single | {"links.1"} if count == 30 else whole)
    assert after(document, flow)["links"] == {"1": [2, *new], "2": [], **{str(n): [] for n in new}}


def test_below_several_fireworks_at_once() -> None:
    document = stored({"a": "", "b": ""})
    flow = Flow(document)
    flow.add({7: [], 8: []}, [1, 2], [7, 8])
    new = after(document, flow)
    assert new["links"] == {"1": [7, 8], "2": [7, 8], "7": [], "8": []}
    assert new["parent_links"] == {"7": [1, 2], "8": [1, 2]}


def test_a_workflow_of_one_firework_gets_its_first_parents() -> None:
    document = stored({"a": ""})
    document.pop("parent_links")
    flow = Flow(document)
    assert "parent_links" not in after(document, flow)
    flow.add({5: []}, [1], [5])
    assert after(document, flow)["parent_links"] == {"5": [1]}


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_however_it_grows_parents_and_children_agree(data) -> None:
    document = stored({"a": "b"})
    flow = Flow(document)
    free = 3
    for _ in range(data.draw(st.integers(1, 4))):
        nodes = list(flow.nodes)
        parents = data.draw(st.lists(st.sampled_from(nodes), min_size=1, unique=True))
        count = data.draw(st.integers(1, 3))
        new = range(free, free + count)
        free += count
        links = {
            node: data.draw(st.lists(st.sampled_from(range(node + 1, free)), unique=True))
            if node + 1 < free
            else []
            for node in new
        }
        below = {child for children in links.values() for child in children}
        flow.add(links, parents, [node for node in new if node not in below])
    stored_now = after(document, flow)
    assert stored_now["nodes"] == list(range(1, free))
    assert stored_now["links"].keys() == stored_now["fw_states"].keys()
    assert {int(key) for key in stored_now["links"]} == set(stored_now["nodes"])
    assert {k: set(v) for k, v in stored_now["parent_links"].items()} == inverse(
        stored_now["links"]
    )
    every = [list(stored_now[kind].values()) for kind in ("links", "parent_links")]
    assert all(len(found) == len(set(found)) for kind in every for found in kind)
