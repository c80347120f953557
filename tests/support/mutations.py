"""Reports with something wrong in them: bytes, types, sizes, depths. The same seed gives the same corpus."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

Document = dict[str, Any]

_TIMES = {"started_on": "2026-01-01T00:00:00+00:00", "completed_on": "2026-01-01T00:01:00+00:00"}
_ACTION = {
    "stored_data": {"x": [1, {"y": None}]}, "exit": False, "update_spec": {"a": 1}, "mod_spec": [{"_push": {"l": 2}}],
    "additions": [], "detours": [{"fws": [{"fw_id": -1, "spec": {"_tasks": []}}], "links": {}, "metadata": {}}],
    "defuse_children": False, "defuse_workflow": False, "propagate": False, "append_wfs": [],
}  # fmt: skip

#: What is mutated: FW_offline.json, FW_action.json (and an entry of the outbox), FW_ping.json.
SEEDS: tuple[Document, ...] = (
    {
        "launch_id": 1, **_TIMES, "state": "COMPLETED", "fwaction": _ACTION,
        "checkpoint": {"_task_n": 1, "_all_stored_data": {}, "_all_update_spec": {}, "_all_mod_spec": []},
        "fwagent": {"protocol": 1, "token": "tok", "outbox": "/x/.fwagent/outbox", "ping_interval": 60, "attempt": 1},
    },
    {
        "protocol": 1, "launch_id": 1, "fw_id": 101, "token": "tok", "state": "COMPLETED", "launch_dir": "/x",
        "attempt": 1, **_TIMES, "fwaction": _ACTION, "host": "node", "trackers": {"log": "text"},
    },
    {"ping_time": "2026-01-01T00:00:30", "host": "node", "pid": 7, "job_id": "1", "task": 0, "rss": 1, "cpu": 0.5},
)  # fmt: skip

#: Values that belong nowhere, or everywhere.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**63) - 1, 10**400, 1.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "x", "\0", "\ud800", "../../etc/passwd", "/etc/passwd", "READY", "RUNNING", "COMPLETED", "FIZZLED", "ARCHIVED",
    "9999-99-99T99:99:99", "0000-00-00", "2026-01-01T00:00:00+99:99", "-292277022399-01-01", "1970-01-01", "Ä" * 1000,
    [], {}, [[]], [None], {"": 1}, {"$set": 1}, {"a.b": 1}, {"$where": "sleep(9999)"}, {"a\0b": 1},
    {"@module": "os", "@class": "system"}, {"_fw_name": "ScriptTask"}, {"py/object": "os.system"},
    {"$oid": "x"}, {"launch_id": 1}, [1] * 1000,
)  # fmt: skip


def corpus(seeds: Sequence[Document], count: int, seed: int) -> Iterator[bytes]:
    """Yield ``count`` mutated texts of JSON documents."""
    dice = random.Random(seed)
    for _ in range(count):
        document = json.loads(json.dumps(dice.choice(seeds)))
        for _ in range(dice.choice((1, 1, 1, 2, 5))):
            document = mutated(document, dice)
        data = json.dumps(document).encode("utf-8", "surrogatepass")
        if dice.random() < 0.35:
            data = torn(data, dice)
        yield data


def mutated(value: Any, dice: random.Random) -> Any:
    """Return a JSON value with one place in it changed."""
    if isinstance(value, dict) and value and dice.random() < 0.85:
        key = dice.choice(sorted(value))
        return _in_object(value, key, dice)
    if isinstance(value, list) and value and dice.random() < 0.85:
        at = dice.randrange(len(value))
        return [*value[:at], mutated(value[at], dice), *value[at + 1 :]]
    if dice.random() < 0.1:
        return nested(dice.choice((3, 50, 101, 500)), dice)
    return dice.choice(ODD)


def _in_object(value: Document, key: str, dice: random.Random) -> Document:
    what = dice.random()
    if what < 0.2:
        return {name: each for name, each in value.items() if name != key}
    if what < 0.3:
        odd = dice.choice([each for each in ODD if isinstance(each, str)])
        return {**value, odd: value[key]}
    return {**value, key: mutated(value[key], dice)}


def nested(depth: int, dice: random.Random) -> Any:
    """Return objects or lists within each other."""
    value: Any = "bottom"
    for _ in range(depth):
        value = {"k": value} if dice.random() < 0.5 else [value]
    return value


def torn(data: bytes, dice: random.Random) -> bytes:
    """Return bytes that were cut, flipped, doubled, or hold what is no UTF-8."""
    at = dice.randrange(len(data))
    return dice.choice(
        (
            data[:at],
            data[at:],
            data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :],
            data[:at] + b"\0" * dice.randrange(100) + data[at:],
            data + data,
            data[:at] + b"\xff\xfe" + data[at:],
            data[:at] + b"[" * dice.choice((10, 2000, 100000)),
            data[:at] + b"9" * 6000 + data[at:],
            b"\xef\xbb\xbf" + data,
            data.decode("utf-8", "replace").encode("utf-16"),
        )
    )
