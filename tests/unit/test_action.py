"""FWAction and the modifiers of `mod_spec`; that they do what FireWorks does is an interop test."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwcore.action import failure, modified, normalized, storable
from fwrunner.protocol.action import InvalidAction, apply_modifiers

SPEC = {
    "n": 1,
    "s": "text",
    "l": [1, 2, 2, 3],
    "d": {"n": 5, "l": ["x"], "d": {}},
    "none": None,
    "e": [],
}


@pytest.mark.parametrize(
    ("modifier", "changed"),
    [
        ({"_set": {"new": 1}}, {"new": 1}),
        ({"_set": {"n": None}}, {"n": None}),
        ({"_set": {"a->b->c": 1}}, {"a": {"b": {"c": 1}}}),
        ({"_set": {"d->n": 6}}, {"d": {"n": 6, "l": ["x"], "d": {}}}),
        ({"_set": {"a.b": 1}}, {"a.b": 1}),
        ({"_unset": {"d->l": ""}}, {"d": {"n": 5, "d": {}}}),
        ({"_push": {"l": 9}}, {"l": [1, 2, 2, 3, 9]}),
        ({"_push": {"new": 9}}, {"new": [9]}),
        ({"_push": {"d->l": "y"}}, {"d": {"n": 5, "l": ["x", "y"], "d": {}}}),
        ({"_push_all": {"l": [8, 9]}}, {"l": [1, 2, 2, 3, 8, 9]}),
        ({"_push_all": {"e": "ab"}}, {"e": ["a", "b"]}),
        ({"_push_all": {"new": [1]}}, {"new": [1]}),
        ({"_inc": {"n": 2}}, {"n": 3}),
        ({"_inc": {"s": "!"}}, {"s": "text!"}),
        ({"_inc": {"new": 2.5}}, {"new": 2.5}),
        ({"_rename": {"absent": "x"}}, {}),
        ({"_add_to_set": {"l": 3}}, {}),
        ({"_add_to_set": {"l": 4}}, {"l": [1, 2, 2, 3, 4]}),
        ({"_add_to_set": {"new": 4}}, {"new": 4}),
        ({"_pull": {"l": 2}}, {"l": [1, 3]}),
        ({"_pull": {"absent": 2}}, {}),
        ({"_pull_all": {"l": [1, 2]}}, {"l": [3]}),
        ({"_pull_all": {"o->l": []}}, {}),
        ({"_pop": {"l": 1}}, {"l": [1, 2, 2]}),
        ({"_pop": {"l": -1}}, {"l": [2, 2, 3]}),
        ({"_pop": {"l": 0}}, {}),
        ({"_inc": {"n": 1}, "_set": {"n2": 0}}, {"n": 2, "n2": 0}),
        ({}, {}),
    ],
)
def test_a_modifier_changes_this_and_nothing_else(modifier, changed) -> None:
    spec = copy.deepcopy(SPEC)
    apply_modifiers(spec, [modifier])
    assert spec == {**SPEC, **changed}


@pytest.mark.parametrize("keys", [{"s": ""}, ["s"]])
def test_unset_takes_an_object_or_a_list(keys) -> None:
    spec = copy.deepcopy(SPEC)
    apply_modifiers(spec, [{"_unset": keys}])
    assert spec == {key: value for key, value in SPEC.items() if key != "s"}


def test_rename_moves_the_value() -> None:
    spec = {"old": [1], "other": 2}
    apply_modifiers(spec, [{"_rename": {"old": "new"}}])
    assert spec == {"new": [1], "other": 2}


@pytest.mark.parametrize(
    ("modifier", "said"),
    [
        ({"_unset": {"absent": ""}}, "_unset of 'absent': no such key"),
        ({"_push": {"n": 1}}, "_push of 'n': the value is not a list"),
        ({"_push_all": {"l": 7}}, "_push_all of 'l': "),
        ({"_inc": {"s": 1}}, "_inc of 's': "),
        ({"_add_to_set": {"s": 1}}, "_add_to_set of 's': the value is not a list"),
        ({"_pull": {"d": 1}}, "_pull of 'd': the value is not a list"),
        ({"_pop": {"absent": 1}}, "_pop of 'absent': no such key"),
        ({"_pop": {"e": 1}}, "_pop of 'e': pop from empty list"),
        ({"_set": {"n->x": 1}}, "_set of 'n->x': 'n' is not an object"),
        ({"_set": {"none->x": 1}}, "_set of 'none->x': 'none' is not an object"),
        ({"_set": 5}, "_set takes an object, not int"),
        ({"_set": ["n"]}, "_set takes an object, not list"),
        ({"$set": {"n": 1}}, "'$set' is not a modifier; known are _add_to_set, _inc"),
        (["_set"], "a modifier is an object, not list"),
        (None, "a modifier is an object, not NoneType"),
        ({"_unset": [["n"]]}, "_unset takes a list of keys"),
        ({"_unset": ["n", 5]}, "_unset takes a list of keys"),
        ({"_rename": {"n": 5}}, "the new name is not a text"),
    ],
)
def test_what_cannot_be_applied_names_the_verb_and_the_place(modifier, said) -> None:
    with pytest.raises(InvalidAction) as caught:
        apply_modifiers(copy.deepcopy(SPEC), [modifier])
    assert said in str(caught.value)


PATHS = st.sampled_from(["n", "s", "l", "d", "d->n", "d->l", "d->new", "new", "new->deep", "e"])
VALUES: st.SearchStrategy[object] = st.sampled_from(
    [1, -1, 0, "t", [1], [2, 3], {}, None, 2.5, True]
)
VERBS = st.sampled_from(
    [
        "_set",
        "_unset",
        "_push",
        "_push_all",
        "_inc",
        "_rename",
        "_add_to_set",
        "_pull",
        "_pull_all",
        "_pop",
    ]
)
MODIFIERS = st.lists(
    st.dictionaries(VERBS, st.dictionaries(PATHS, VALUES, max_size=2), max_size=2), max_size=4
)


@given(MODIFIERS)
def test_a_shallow_copy_is_enough_to_keep_the_old_spec(modifiers) -> None:
    old = copy.deepcopy(SPEC)
    new = dict(old)
    try:
        apply_modifiers(new, modifiers)
    except InvalidAction:
        pass
    else:
        json.dumps(new)
    assert old == SPEC


def test_new_workflows_get_what_fireworks_cannot_load_them_without() -> None:
    new = {"fws": [{"fw_id": -1, "spec": {"_tasks": []}}]}
    single = {"fw_id": -2, "spec": {"_tasks": []}}
    given = {
        "additions": [{**new, "links": None}, single],
        "append_wfs": [{"workflow": new, "parents": []}, "what is this"],
    }
    before = copy.deepcopy(given)
    found = normalized(given)
    whole = {**new, "links": {}, "metadata": {}}
    assert found["additions"] == [whole, single]
    appended = {"workflow": whole, "parents": [], "detour": False}
    assert found["append_wfs"] == [appended, "what is this"]
    assert given == before
    again = {"additions": [{**whole, "metadata": {"m": 1}}]}
    assert normalized(again)["additions"] == again["additions"]


def test_an_action_gets_every_key_and_single_objects_become_lists() -> None:
    single = {"_push": {"l": 1}}
    found = normalized({"mod_spec": single, "exit": 1, "detours": {"fws": []}, "foreign": 5})
    assert found == {
        "stored_data": {},
        "exit": True,
        "update_spec": {},
        "mod_spec": [single],
        "additions": [],
        "detours": [{"fws": [], "links": {}, "metadata": {}}],
        "append_wfs": [],
        "defuse_children": False,
        "defuse_workflow": False,
        "propagate": False,
    }


def nested(levels: int):
    value: object = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ({"stored_data": []}, "'stored_data' is not an object"),
        ({"update_spec": "x"}, "'update_spec' is not an object"),
        ({"update_spec": None}, "'update_spec' is not an object"),
        ({"stored_data": {"a": [1, 2**63]}}, "stored_data.a[1] is an integer beyond 64 bits"),
        ({"stored_data": {"a": -(2**63) - 1}}, "stored_data.a is an integer beyond 64 bits"),
        ({"update_spec": {"a\0b": 1}}, "'a\\x00b' at update_spec is no usable text"),
        ({"stored_data": {"t": "\ud800"}}, "stored_data.t is a text with half a surrogate pair"),
        ({"stored_data": {"\udfff": 1}}, "half a surrogate pair"),
        ({"mod_spec": [{"_set": {"a": 2**64}}]}, "mod_spec[0]._set.a is an integer beyond"),
        ({"stored_data": nested(120)}, "nested deeper than 90 levels"),
    ],
)
def test_an_action_that_cannot_be_stored_names_the_place(action, said) -> None:
    with pytest.raises(InvalidAction) as caught:
        normalized(action)
    assert said in str(caught.value)
    assert str(caught.value).encode("utf-8")


def test_the_largest_integers_are_storable() -> None:
    data = {"a": 2**63 - 1, "b": -(2**63), "c": True, "d": nested(50)}
    assert normalized({"stored_data": data})["stored_data"] == data


def test_a_failure_has_the_shape_that_fireworks_gives_it() -> None:
    found = failure("it broke", "trace")
    assert found["exit"] is True
    assert found["stored_data"] == {
        "_message": "it broke",
        "_task": None,
        "_exception": {"_stacktrace": "trace", "_details": None},
    }
    assert found == normalized(found)


@pytest.mark.parametrize(
    ("value", "answer"),
    [(None, True), ({"a": [1, "x"]}, True), ({"a": 2**70}, False), ("\ud800", False)],
)
def test_storable(value, answer) -> None:
    assert storable(value) is answer


@pytest.mark.parametrize(
    ("modifiers", "said"),
    [
        ([{"_set": {"->".join("a" * 100): 1}}], "nested deeper than 99 levels at a.a.a."),
        ([{"_set": {"->".join("a" * 5000): 1}}], "nested deeper than 99 levels at a.a.a."),
        ([{"_set": {"->".join("a" * 30): nested(80)}}], "nested deeper than 99 levels at a.a.a."),
        ([{"_push": {"l": nested(99)}}], "nested deeper than 99 levels at l[0].a."),
        ([{"_inc": {"n": 1}}], "n is an integer beyond 64 bits"),
        ([{"_inc": {"d->n": -2}}], "d.n is an integer beyond 64 bits"),
        ([{"_rename": {"n": "x\0y"}}], "the key 'x\\x00y' at the top is no usable text"),
        ([{"_rename": {"none": "\0"}}], "at the top is no usable text"),
        ([{"_rename": {"n": "\ud800"}}], "half a surrogate pair"),
    ],
)
def test_a_spec_that_cannot_be_stored_names_the_place(modifiers, said) -> None:
    before = {"_tasks": [T1], "l": [], "n": 2**63 - 1, "d": {"n": -(2**63)}, "none": None}
    with pytest.raises(InvalidAction) as caught:
        modified(before, {"update_spec": {}, "mod_spec": modifiers})
    assert said in str(caught.value)
    assert str(caught.value).encode("utf-8")


def test_a_spec_may_be_nested_as_deep_as_a_firework_may() -> None:
    path = "->".join("a" * 99)
    assert modified({}, normalized({"mod_spec": [{"_set": {path: 1}}]})) == nested(99)


def test_what_an_action_leaves_alone_is_stored_already() -> None:
    before = {"_tasks": [T1], "deep": nested(150), "n": 1}
    after = modified(before, normalized({"mod_spec": [{"_inc": {"n": 1}}]}))
    assert after == {**before, "n": 2}


T1, T2, T3 = ({"_fw_name": "ScriptTask", "script": str(number)} for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("action", "tasks"),
    [
        ({"mod_spec": [{"_push": {"_tasks": T2}}]}, [T1, T2]),
        ({"mod_spec": [{"_push_all": {"_tasks": [T2, T3]}}, {"_pop": {"_tasks": -1}}]}, [T2, T3]),
        ({"update_spec": {"_tasks": [T2]}}, [T1]),
        ({"update_spec": {"_tasks": [T2]}, "mod_spec": [{"_push": {"_tasks": T3}}]}, [T1]),
        ({"mod_spec": [{"_set": {"_tasks": [T2]}}, {"_push": {"_tasks": T3}}]}, [T1]),
        ({"mod_spec": [{"_unset": ["_tasks"]}]}, [T1]),
        ({"mod_spec": [{"_pull": {"_tasks": T1}}]}, [T1]),
        ({"mod_spec": [{"_rename": {"_tasks": "t"}}]}, [T1]),
        ({"mod_spec": [{"_rename": {"x": "_tasks"}}]}, [T1]),
    ],
)
def test_tasks_are_altered_but_not_replaced(action, tasks) -> None:
    before = {"_tasks": [T1], "x": 5}
    changed = modified(before, normalized(action))
    assert changed["_tasks"] == tasks
    assert before == {"_tasks": [T1], "x": 5}


@pytest.mark.parametrize("modifier", [{"_inc": {"_tasks": 5}}, {"_push_all": {"_tasks": {}}}])
def test_a_spec_without_tasks_does_not_get_what_is_none(modifier) -> None:
    with pytest.raises(InvalidAction, match="no task"):
        modified({}, normalized({"mod_spec": [modifier]}))


def test_a_modifier_that_does_nothing_needs_no_tasks() -> None:
    assert modified({"x": 1}, normalized({"mod_spec": [{"_pull": {"_tasks": 1}}]})) == {"x": 1}


@pytest.mark.parametrize("junk", [5, {}, {"script": "true"}])
def test_what_is_no_task_is_refused(junk) -> None:
    with pytest.raises(InvalidAction, match="no task"):
        modified({"_tasks": [T1]}, normalized({"mod_spec": [{"_push": {"_tasks": junk}}]}))
