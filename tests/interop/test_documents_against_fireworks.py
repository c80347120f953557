"""What `add`, `initialize` and the modifiers make, beside what FireWorks makes of the same."""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from ruamel.yaml import YAML

from agent.mongod import Mongod
from fwcore.launchpad import LaunchPad
from fwrunner.protocol.action import InvalidAction, apply_modifiers
from tests.interop.differences import instants, kind
from tests.support.batches import NOW
from tests.support.fireworks import FireWorks
from tests.support.launchpads import WORKER, reports, stage
from tests.support.mongod import Client

pytestmark = pytest.mark.interop

# ------------------------------------------------------------------------------------------- adding

DIAMOND = """\
name: relax and fit
metadata: {project: interop, tags: [a, b], deep: {n: 1, x: 1.0, none: null}}
links:
  -1: [-2, -3]
  -2: -4
  -3: [-4]
fws:
- fw_id: -1
  name: "step 1 / a"
  created_on: 2020-01-02T03:04:05.678901
  spec:
    _priority: 5
    _category: small
    _queueadapter: {walltime: "01:00:00"}
    _trackers: [{filename: log, nlines: 3}]
    a.b: {$c: 1}
    numbers: [1, 1.0, true, null, 2000000000000, -0.5]
    empty: {list: [], object: {}, text: ""}
    text: "größe"
    moment: 2026-01-02T03:04:05Z
    _tasks:
    - {_fw_name: ScriptTask, script: [echo one, echo two], use_shell: true}
    - {_fw_name: PyTask, func: math.sqrt, args: [16.0], outputs: [root]}
- fw_id: -2
  spec: {_tasks: [{_fw_name: ScriptTask, script: "true"}]}
- fw_id: -3
  name: left
  state: DEFUSED
  spec: {_tasks: [{_fw_name: ScriptTask, script: "true"}], _allow_fizzled_parents: true}
- fw_id: -4
  name: last
  spec: {_tasks: [{_fw_name: ScriptTask, script: "true"}]}
"""
WORKFLOWS = {
    "diamond.yaml": DIAMOND,
    "no-links.yaml": "links: {}\nmetadata: {}\nfws:\n"
    "- {fw_id: 7, spec: {_tasks: [{_fw_name: ScriptTask, script: date}]}}\n",
    "single.yaml": "spec: {_tasks: [{_fw_name: ScriptTask, script: date}]}\nname: solo\nfw_id: -1\n",
    "workflow.json": json.dumps(
        {
            "fws": [
                {
                    "fw_id": n,
                    "name": f"n{n}",
                    "spec": {"_tasks": [{"_fw_name": "ScriptTask", "script": "a"}]},
                }
                for n in (3, 1, 2)
            ],
            "links": {"3": [1], "1": [2]},
            "metadata": {},
        }
    ),
}


def shape(value: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (path, type, kind) of every value in a document, dates told by their format only."""
    if isinstance(value, dict):
        yield path, "object", ""
        for key, item in value.items():
            yield from shape(item, f"{path}.{key}")
    elif isinstance(value, list):
        yield path, "list", str(len(value))
        for position, item in enumerate(value):
            yield from shape(item, f"{path}.{position}")
    else:
        what = kind(value, lambda moment: "now" if moment.year > 2025 else None)
        yield path, type(value).__name__, repr(value) if what == "number" else what


def test_documents_are_those_of_lpad_add(
    fireworks: FireWorks, mongod: Mongod, mongo_client: Client, db_name: str, tmp_path: Path
) -> None:
    files = []
    for name, text in WORKFLOWS.items():
        files.append(tmp_path / name)
        files[-1].write_text(text, encoding="utf-8")
    fireworks.lpad("add", *files)
    ours = f"{db_name}_ours"
    launchpad = LaunchPad.from_uri(mongod.uri, ours)
    try:
        launchpad.initialize()
        for file in files:
            text = file.read_text(encoding="utf-8")
            launchpad.add(
                json.loads(text) if file.suffix == ".json" else YAML(typ="safe").load(text)
            )
        assert (
            mongo_client[ours].fw_id_assigner.find_one()
            == mongo_client[db_name].fw_id_assigner.find_one()
        )
        for collection, key in (("fireworks", "fw_id"), ("workflows", "name")):
            theirs_found, ours_found = (
                {
                    document[key]: document
                    for document in mongo_client[name][collection].find({}, {"_id": 0})
                }
                for name in (db_name, ours)
            )
            assert theirs_found.keys() == ours_found.keys()
            for each, theirs in theirs_found.items():
                mine = ours_found[each]
                if "nodes" in theirs:
                    theirs["nodes"].sort()
                    for document in (theirs, mine):
                        for parents in document["parent_links"].values():
                            parents.sort()
                assert sorted(shape(mine)) == sorted(shape(theirs)), each
    finally:
        launchpad.close()
        mongo_client.drop_database(ours)


def test_a_fresh_launchpad_has_the_indexes_of_lpad_reset_and_four_more(
    fireworks: FireWorks, mongod: Mongod, mongo_client: Client, db_name: str
) -> None:
    def indexes(name: str) -> dict[str, Any]:
        database = mongo_client[name]
        return {
            collection: {
                index["name"]: dict(index) for index in database[collection].list_indexes()
            }
            for collection in database.list_collection_names()
        }

    ours = f"{db_name}_ours"
    launchpad = LaunchPad.from_uri(mongod.uri, ours)
    try:
        launchpad.initialize()
        theirs_found, ours_found = indexes(db_name), indexes(ours)
        more = ours_found.pop("offline_runs")
        theirs_found.pop("offline_runs", None)
        assert more.pop("fwagent.lost_1")["sparse"]
        assert more.keys() == {"_id_", "launch_id_1", "completed_1_deprecated_1"}
        assert ours_found["workflows"].pop("locked_1")["sparse"]
        assert ours_found == theirs_found
        # And neither minds what the other has made.
        fireworks.write_worker()
        fireworks.python("launchpad().tuneup(); result = None")
        fireworks.reset()
    finally:
        launchpad.close()
        mongo_client.drop_database(ours)


# ------------------------------------------------------------------------- claimed, told of, cancelled


def test_fireworks_would_write_what_claim_cancel_and_apply_leave(
    fireworks: FireWorks, mongod: Mongod, db_name: str
) -> None:
    launchpad = LaunchPad.from_uri(mongod.uri, db_name)
    # The reports tell of that day: no run begins before its reservation.
    launchpad._clock = lambda: NOW
    source = YAML(typ="safe").load(DIAMOND)
    roots = [launchpad.add(source)[-1] for _ in range(6)]
    pending, cancelled, running, done, failed, again = stage(launchpad, *roots)
    launchpad.record_jobs(
        {claim.launch_id: f"10{claim.launch_id}" for claim in (pending, running, done)}
    )
    launchpad.cancel([cancelled.launch_id, again.launch_id])
    [again] = stage(launchpad, again.fw_id)
    launchpad.apply(
        [
            *reports([running], "RUNNING"),
            *reports([done, again], update_spec={"x": {"y": [1]}}, stored_data={"e": -1.5}),
            *reports([failed], "FIZZLED", exit=True),
        ]
    )
    launchpad.close()
    seen = set()
    for collection, stored, written in fireworks.reloaded():
        seen.add((collection, stored["state"]))
        if collection == "launches" and stored["state"] in {"RESERVED", "READY"}:
            written["reservedtime_secs"] = stored["reservedtime_secs"]  # goes on
        assert instants(written) == instants(stored), collection
    assert {state for collection, state in seen if collection == "launches"} == {
        "RESERVED",
        "READY",
        "RUNNING",
        "COMPLETED",
        "FIZZLED",
    }


# ------------------------------------------------------------------------------------- FW.json


def test_fw_json_is_what_fireworks_would_write(
    fireworks: FireWorks, mongod: Mongod, db_name: str
) -> None:
    launchpad = LaunchPad.from_uri(mongod.uri, db_name)
    ids = launchpad.add(YAML(typ="safe").load(DIAMOND))
    [claim] = launchpad.claim(WORKER, 1)
    launchpad.close()
    theirs = fireworks.python("result = launchpad().get_fw_by_id(fw_id).to_dict()", fw_id=ids[-1])
    assert instants(claim.firework) == instants(theirs)
    assert {type(value) for value in _times(claim.firework)} == {str}


def _times(document: dict[str, Any]) -> list[Any]:
    history = document["launches"][0]["state_history"][0]
    return [
        document["created_on"],
        document["updated_on"],
        history["created_on"],
        history["updated_on"],
    ]


# ------------------------------------------------------------------------------------------ modifiers

SPEC: dict[str, Any] = {
    "n": 1,
    "f": 2.5,
    "s": "text",
    "t": True,
    "none": None,
    "l": [1, 2, 2, "x"],
    "e": [],
    "d": {"n": 1, "l": [1], "d": {"deep": 1}},
    "a.b": 1,
}
PATHS = (
    "n",
    "f",
    "s",
    "t",
    "none",
    "l",
    "e",
    "d",
    "a.b",
    "new",
    "d->n",
    "d->l",
    "d->d",
    "d->new",
    "new->x",
)
THROUGH = ("n->x", "s->x", "s->t", "l->x", "l->absent", "none->x", "d->n->x", "")
VALUES: tuple[Any, ...] = (1, -1, 0, 2.5, True, None, "x", "", [], [1, 2], ["x"], {}, {"k": 1})
VERBS = (
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
)
ODD: list[Any] = [
    {"_nonsense": {"n": 1}},
    {"set": {"n": 1}},
    {"_rename": {"n": "n"}},
    {"_rename": {"n": "s"}},
    {"_unset": ["n", "s"]},
    {"_unset": ["n", "absent"]},
    {"_set": []},
    {"_set": None},
    {},
]

#: Feeds docs/compatibility.md.
INTENDED = {
    "_pull_all works": "FireWorks 2.1.4 raises an AttributeError at every _pull_all that has something to remove; "
    "here it removes all the listed values.",
    "a renaming to itself": "FireWorks' _rename of a key to its own name deletes the key; here it stays.",
    "a new name is a text": "FireWorks renames a key to anything that can be hashed, which MongoDB then refuses; "
    "here that is an error.",
    "_inc of a list": "FireWorks extends a list by whatever can be iterated; here only a list is added to a list.",
    "_pop of nothing": "_pop with a value other than 1 and -1 does nothing here, whatever stands there; FireWorks "
    "wants a list even then.",
    "through no object": "FireWorks' _pull and _pop through a list or a text find nothing and say nothing; here a path "
    "that leads through no object is an error.",
}


def intended(modifier: Any, ours: Any) -> str | None:
    """Return the intended difference that one modifier shows."""
    ((verb, arguments),) = modifier.items()
    ((path, value),) = arguments.items()
    found = {
        "_pull_all works": verb == "_pull_all",
        "a renaming to itself": verb == "_rename" and path == value,
        "a new name is a text": verb == "_rename" and not isinstance(value, str),
        "_inc of a list": verb == "_inc" and path in {"l", "e", "d->l"} and ours is None,
        "_pop of nothing": verb == "_pop" and value not in (1, -1) and ours == SPEC,
        "through no object": verb in {"_pull", "_pop"} and path in THROUGH and ours is None,
    }
    return next((name for name, applies in found.items() if applies), None)


BATCH = """
import copy
from fireworks.utilities.dict_mods import apply_mod
result = []
for modifiers in batch:
    target = copy.deepcopy(spec)
    try:
        for modifier in modifiers:
            apply_mod(copy.deepcopy(modifier), target)
    except Exception:
        target = None
    result.append(target)
"""


def applied(modifiers: list[Any]) -> Any:
    target = copy.deepcopy(SPEC)
    try:
        apply_modifiers(target, copy.deepcopy(modifiers))
    except InvalidAction:
        return None
    return target


def steady(modifier: Any) -> bool:
    """Tell whether a modifier can show none of the intended differences, whatever has been done before."""
    for verb, arguments in modifier.items():
        if verb in {"_rename", "_pull_all"} or not isinstance(arguments, dict):
            return False
        for path, value in arguments.items():
            if verb == "_inc" and not isinstance(value, (int, float)):
                return False
            if verb in {"_pull", "_pop"} and "->" in path:
                return False
            if verb == "_pop" and value not in (1, -1):
                return False
    return True


def test_modifiers_do_what_those_of_fireworks_do(fireworks: FireWorks) -> None:
    singles = [
        [{verb: {path: value}}]
        for verb, path, value in itertools.product(VERBS, (*PATHS, *THROUGH), VALUES)
    ]
    singles += [[each] for each in ODD]
    answers = fireworks.python(BATCH, batch=singles, spec=SPEC)
    met, wrong, alike = set(), [], []
    for modifiers, theirs in zip(singles, answers, strict=True):
        ours = applied(modifiers)
        if json_util.dumps(ours, sort_keys=True) == json_util.dumps(theirs, sort_keys=True):
            alike.append(modifiers[0])
        elif (why := intended(modifiers[0], ours)) is not None:
            met.add(why)
        else:
            wrong.append((modifiers, theirs, ours))
    assert wrong == []
    assert met == set(INTENDED)
    assert len(alike) > 1500
    working = [each for each in alike if applied([each]) is not None and steady(each)]
    source = random.Random(20261123)
    sequences = [source.sample(working, 4) for _ in range(400)]
    answers = fireworks.python(BATCH, batch=sequences, spec=SPEC)
    wrong = []
    for modifiers, theirs in zip(sequences, answers, strict=True):
        ours = applied(modifiers)
        if json_util.dumps(ours, sort_keys=True) != json_util.dumps(theirs, sort_keys=True):
            wrong.append((modifiers, theirs, ours))
    assert wrong == []
