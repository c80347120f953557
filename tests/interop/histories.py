"""Workflows and what happens to them, drawn by hypothesis: plain values that know of no database.

What a history speaks of is chosen when it is played: a *pick* is a number, taken modulo what there is then to
choose from. So every history can be played, and one that was made smaller still means something.

Left out is what `docs/compatibility.md` lists as different and what would only show that again: modifiers with
arguments of a type that FireWorks takes by accident.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from fwrunner.protocol.action import EMPTY

Document = dict[str, Any]

#: In a spec: a launch of the same spec is shared.
DUPLICATES = {"_dupefinder": {"_fw_name": "DupeFinderExact"}}
TASK = {"_fw_name": "ScriptTask", "script": "true"}
CHECKPOINT = {
    "_task_n": 1,
    "_all_stored_data": {"a": 1},
    "_all_update_spec": {"u": None},
    "_all_mod_spec": [{"_push": {"l": 1}}],
}
FAILURE = {
    "_message": "runtime error during task",
    "_task": TASK,
    "_exception": {"_stacktrace": "Traceback ...", "_details": None},
}
#: What people do, by the names of the LaunchPad's methods.
COMMANDS = (
    "rerun_fw",
    "pause_fw",
    "resume_fw",
    "defuse_fw",
    "reignite_fw",
    "archive_wf",
    "pause_wf",
    "set_priority",
    "update_spec",
    "cancel_reservation",
    "forget_offline",
)


@dataclass(frozen=True)
class News:
    """What a launch directory tells: `state` is PENDING, RUNNING, COMPLETED or FIZZLED.

    `action` has picks for the other parents of `append_wfs`.
    """

    state: str
    ping: bool
    checkpoint: bool
    action: Document


@dataclass(frozen=True)
class Turn:
    """Some launches have news, and are recovered: those of `told`, as (pick, news).

    Before, Fireworks are claimed by `claimant`, until more than `told` are open. `locked`: somebody holds the
    workflows at first. `stale`: what the launches told before comes along once more.
    """

    told: tuple[tuple[int, News], ...]
    claimant: str
    locked: bool
    stale: bool


@dataclass(frozen=True)
class Command:
    """Somebody does something to one Firework, by a method of FireWorks' LaunchPad."""

    name: str
    pick: int


@dataclass(frozen=True)
class Swap:
    """One database becomes a copy of the other: FireWorks goes on from what we wrote, or we from theirs."""

    source: str


Move = Turn | Command | Swap


@dataclass(frozen=True)
class History:
    """A workflow (children of each Firework, by position; its specs), and what happens to it.

    `twin`: the same workflow is there twice, and Fireworks of the one share launches with those of the other.
    """

    links: tuple[tuple[int, ...], ...]
    specs: tuple[Document, ...]
    twin: bool
    moves: tuple[Move, ...]


def _weighted(*choices: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Return a strategy that takes one of several, each so many times more often; the first is the simplest."""
    strategies = [strategy for weight, strategy in choices for _ in range(weight)]
    return st.sampled_from(range(len(strategies))).flatmap(strategies.__getitem__)


def _usual(*values: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for values of which the first comes as often as all others together."""
    return st.sampled_from([*[values[0]] * (len(values) - 1), *values[1:]])


_picks = st.integers(0, 11)
#: True about once in four and once in ten; False when made smaller.
_sometimes = st.integers(0, 3).map(lambda n: n == 3)
_rarely = st.integers(0, 9).map(lambda n: n == 9)
_scalars = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([None, True, False, 0.5, 1.0, -1e300, float("nan"), 2**40]),
    st.sampled_from(["", "x", "a.b", "$x", "ünï☃", "2020-01-02T03:04:05+00:00", "1", "true"]),
)
_keys = st.sampled_from(["x", "y", "a.b", "$k", "", "0", "ü"])
_values = st.one_of(
    _scalars,
    st.lists(_scalars, max_size=3),
    st.dictionaries(_keys, st.one_of(_scalars, st.lists(_scalars, max_size=2)), max_size=2),
)
_numbers = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, 2**33]))
_lists = st.lists(_scalars, max_size=3)

_ANYWHERE = ["n", "l", "o", "t", "o->n", "o->l", "o->new->x", "new", "new->er", "a.b", "o->$k"]
_LISTS = ["l", "o->l", "new_l", "o->new_l"]
_NUMBERS = ["n", "o->n", "new_n", "o->deep->n"]
_NAMES = ["n", "l", "o", "t", "absent"]
#: The paths and the arguments that go with each verb of mod_spec.
_VERBS: dict[str, tuple[list[str], st.SearchStrategy[Any]]] = {
    "_set": (_ANYWHERE, _values),
    "_push": (_LISTS, _values),
    "_push_all": (_LISTS, _lists),
    "_inc": (_NUMBERS, _numbers),
    "_add_to_set": (_LISTS, _scalars),
    "_pull": (_LISTS, _scalars),
    "_pull_all": (_LISTS, _lists),
    "_pop": (["l", "o->l"], st.sampled_from([1, -1])),
    "_rename": (_NAMES, st.sampled_from(["n", "t", "renamed"])),
    "_unset": (["n", "t", "o->n", "o->l", "absent"], st.just("")),
    "_no_such": (["n"], st.just(1)),
}
#: What they do to the tasks of a child; one without tasks FireWorks cannot handle.
_TASKS = {"_push": TASK, "_set": [TASK, TASK], "_pull": TASK, "_unset": "", "_rename": "t"}


def _of_verb(verb: str) -> st.SearchStrategy[Document]:
    paths, values = _VERBS[verb]
    pairs = st.tuples(st.sampled_from(paths), values)
    if verb in _TASKS:
        pairs = _weighted((12, pairs), (1, st.just(("_tasks", _TASKS[verb]))))
    return st.lists(pairs, min_size=1, max_size=2).map(lambda found: {verb: dict(found)})


_modifiers = _weighted(*((1 if verb == "_no_such" else 3, _of_verb(verb)) for verb in _VERBS))
_UPDATES: dict[str, st.SearchStrategy[Any]] = {
    "u": _values,
    "n": _numbers,
    "l": _lists,
    "o": st.fixed_dictionaries({"l": _lists}),
    "a.b": _scalars,
    "$k": _scalars,
    "_allow_fizzled_parents": st.booleans(),
    "_priority": st.integers(0, 9),
    "_category": st.just("big"),
    "_tasks": st.just([TASK, TASK]),
}
_updates = st.lists(st.sampled_from(sorted(_UPDATES)), min_size=1, max_size=3, unique=True).flatmap(
    lambda keys: st.fixed_dictionaries({key: _UPDATES[key] for key in keys})
)

#: What modifiers find in a spec.
_DATA: list[Document] = [
    {"n": 1, "l": [1, 2, 2], "o": {"n": 1, "l": ["x"]}, "t": "text"},
    {"n": 0.5, "l": ["x", None, 1], "o": {"n": 2**33, "l": [], "$k": {"a.b": 1}}, "t": "text"},
    {"n": -3, "l": [float("nan"), True], "o": {"n": 0, "l": [1, 1], "new": {}}, "t": "20"},
    {"l": [], "o": {}, "a.b": [0], "new": 1},
    {},
]
#: What FireWorks itself looks at.
_FLAGS: list[Document] = [
    {},
    {"_allow_fizzled_parents": True},
    {"_allow_fizzled_parents": True, "_priority": 5},
    {"_allow_fizzled_parents": False, "_category": "big"},
    {"_fworker": "test-worker", "_priority": None},
    {"_fworker": None, "_priority": -1, "_category": "small"},
    {"_fworker": "elsewhere"},
]
_specs = st.tuples(_usual(*_DATA), _usual(*_FLAGS)).map(
    lambda parts: {"_tasks": [TASK], **parts[0], **parts[1]}
)


def _links(size: int) -> st.SearchStrategy[tuple[tuple[int, ...], ...]]:
    """Return a strategy for the children of each of `size` Fireworks: they come after their parents."""
    parents = [
        st.lists(st.integers(0, child - 1), max_size=min(child, 3), unique=True)
        for child in range(1, size)
    ]

    def children(found: tuple[list[int], ...]) -> tuple[tuple[int, ...], ...]:
        return tuple(
            tuple(child for child, above in enumerate(found, 1) if parent in above)
            for parent in range(size)
        )

    return st.tuples(*parents).map(children)


_sizes = st.one_of(st.integers(1, 2), st.integers(1, 4))
#: One workflow of an action: links and specs of its Fireworks; `form` is how it is written.
_growths = _sizes.flatmap(
    lambda size: st.fixed_dictionaries(
        {
            "links": _links(size),
            "specs": st.tuples(*[_specs] * size),
            "form": _usual("whole", "short", "single"),
            "state": _usual(None, None, None, None, "PAUSED"),
        }
    )
)
_entries = st.fixed_dictionaries(
    {
        "workflow": _growths,
        "parents": st.lists(_picks, max_size=2, unique=True),
        "detour": st.booleans(),
    }
)
_PARTS: dict[str, st.SearchStrategy[Any]] = {
    "update_spec": _updates,
    "mod_spec": st.lists(_modifiers, min_size=1, max_size=3),
    "propagate": st.just(True),
    "detours": st.lists(_growths, min_size=1, max_size=2),
    "additions": st.lists(_growths, min_size=1, max_size=2),
    "append_wfs": st.lists(_entries, min_size=1, max_size=2),
    "stored_data": st.dictionaries(_keys, _values, max_size=2),
    "exit": st.just(True),
    "defuse_children": st.just(True),
    "defuse_workflow": st.just(True),
}
#: The order that new Fireworks are numbered in, or what makes the numbers unusable.
_numberings = _usual("down", "up", "up", "up", "twice", "positive")


def _action(parts: list[str]) -> st.SearchStrategy[Document]:
    wanted = {part: _PARTS[part] for part in parts}
    return st.tuples(st.fixed_dictionaries(wanted), _numberings).map(_numbered)


def _numbered(drawn: tuple[Document, str]) -> Document:
    """Return the action as a compute node writes it: every new Firework has a number."""
    action, numbering = drawn
    detours, additions = action.get("detours", []), action.get("additions", [])
    entries = action.get("append_wfs", [])
    numbers = _numbers_of(
        [*detours, *(entry["workflow"] for entry in entries), *additions], numbering
    )
    return {
        **EMPTY,
        **action,
        "detours": [written(growth, numbers) for growth in detours],
        "append_wfs": [
            {**entry, "workflow": written(entry["workflow"], numbers)} for entry in entries
        ],
        "additions": [written(growth, numbers) for growth in additions],
    }


def _numbers_of(growths: list[Document], numbering: str) -> Iterator[int]:
    total = sum(len(growth["links"]) for growth in growths)
    if numbering == "up":
        return iter(range(-total, 0))
    if numbering == "twice":
        return iter([-1 - n // 2 for n in range(total)])
    first = 1 if numbering == "positive" else -1
    return iter(range(first, first - total, -1))


def written(growth: Document, numbers: Iterator[int]) -> Document:
    """Return what an action adds, as FireWorks writes it (whole), as people do (short), or one Firework."""
    ids = [next(numbers) for _ in growth["links"]]
    whole = growth["form"] == "whole"
    dates = dict.fromkeys(("created_on", "updated_on"), "2020-01-01T08:00:00.000001+00:00")
    fws = [
        {"fw_id": number, "name": f"new {number}", "spec": spec, **(dates if whole else {})}
        for number, spec in zip(ids, growth["specs"], strict=True)
    ]
    if growth["state"]:
        fws[0]["state"] = growth["state"]
    if growth["form"] == "single" and len(ids) == 1:
        return fws[0]
    links = {
        str(number): [ids[child] for child in children]
        for number, children in zip(ids, growth["links"], strict=True)
        if children or whole
    }
    return {"fws": fws, "links": links, "name": "new", "metadata": {}, **(dates if whole else {})}


#: An action that defuses the workflow leaves little to go on with.
_parts = st.sampled_from(
    [
        *[part for part in _PARTS if part != "defuse_workflow"] * 3,
        *_PARTS,
        "mod_spec",
        "mod_spec",
        *["defuse_workflow"] * 2,
    ]
)
_actions = _weighted(
    (4, st.lists(_parts, min_size=1, max_size=5).map(dict.fromkeys).map(list).flatmap(_action)),
    (1, st.just(dict(EMPTY))),
)


def _loadable(action: Document) -> Document:
    """Return the action without workflows that use a number twice.

    FireWorks cannot load them: it writes its own failure over that of the job (a row of docs/compatibility.md).
    """

    def loads(growth: Document) -> bool:
        numbers = [each["fw_id"] for each in growth.get("fws", ())]
        return len(numbers) == len(set(numbers))

    return {
        **action,
        **{key: [each for each in action[key] if loads(each)] for key in ("detours", "additions")},
        "append_wfs": [each for each in action["append_wfs"] if loads(each["workflow"])],
    }


_failures = st.tuples(_usual({}, {}, {"additions": True}), _actions).map(
    lambda drawn: {
        **(_loadable(drawn[1]) if drawn[0] else EMPTY),
        "exit": True,
        "stored_data": FAILURE,
    }
)
_news = _weighted(
    (6, st.builds(News, st.just("COMPLETED"), st.booleans(), st.booleans(), _actions)),
    (2, st.builds(News, st.just("FIZZLED"), st.booleans(), st.booleans(), _failures)),
    (1, st.builds(News, st.just("RUNNING"), st.booleans(), st.booleans(), st.just({}))),
    (1, st.builds(News, st.just("PENDING"), st.just(False), st.just(False), st.just({}))),
)
_turns = st.builds(
    Turn,
    st.lists(st.tuples(_picks, _news), min_size=1, max_size=3).map(tuple),
    st.sampled_from(["theirs", "ours"]),
    _rarely,
    _sometimes,
)
_COMMANDS = ("rerun_fw",) * 4 + ("reignite_fw", "resume_fw", "archive_wf") + COMMANDS
_moves = _weighted(
    (8, _turns),
    (4, st.builds(Command, st.sampled_from(_COMMANDS), _picks)),
    (1, st.builds(Swap, st.sampled_from(["theirs", "ours"]))),
)


def histories(moves: int = 6) -> st.SearchStrategy[History]:
    """Return a strategy for histories of 2 to 12 Fireworks and up to so many moves."""
    return st.one_of(st.integers(2, 5), st.integers(2, 12)).flatmap(
        lambda size: st.builds(
            History,
            _links(size),
            st.tuples(*[_specs] * size),
            _sometimes,
            st.lists(_moves, min_size=3, max_size=moves).map(tuple),
        )
    )
