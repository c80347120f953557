"""The states of a Firework, a Launch and a Workflow, as data and as pure rules.

Source of every rule: FireWorks 2.1.4, ``fireworks/core/firework.py`` (``Firework.STATE_RANKS``,
``Workflow.state``, ``Workflow.refresh``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

RANKS: dict[str, int] = {
    "ARCHIVED": -2,
    "FIZZLED": -1,
    "DEFUSED": 0,
    "PAUSED": 0,
    "WAITING": 1,
    "READY": 2,
    "RESERVED": 3,
    "RUNNING": 4,
    "COMPLETED": 5,
}

#: A person (or an action) has taken these out of the flow: a refresh leaves them alone.
HELD = frozenset({"DEFUSED", "ARCHIVED", "PAUSED"})
#: A launch in one of these has ended.
FINAL = frozenset({"COMPLETED", "FIZZLED"})
_SUCCESS = frozenset({"COMPLETED"})
#: A launch in one of these may still be told about.
ACTIVE = frozenset({"RESERVED", "RUNNING"})


def representative(launches: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the launch that gives a Firework its state: the highest rank, the first one on ties."""
    ranked = [launch for launch in launches if RANKS[launch["state"]] > RANKS["ARCHIVED"]]
    return max(ranked, key=lambda launch: RANKS[launch["state"]], default=None)


def acceptable_parents(spec: Mapping[str, Any]) -> frozenset[str]:
    """Return the states in which a parent no longer holds back a Firework with this spec."""
    return FINAL if spec.get("_allow_fizzled_parents") else _SUCCESS


def workflow_state(
    fw_states: Mapping[str, str],
    links: Mapping[str, list[int]],
    tolerates_fizzled: Callable[[int], bool],
) -> str:
    """Return a Workflow's state from those of its Fireworks; the first rule that matches wins.

    ``fw_states`` and ``links`` are keyed by ``str(fw_id)``, as they are stored. ``tolerates_fizzled``
    tells whether a Firework has ``_allow_fizzled_parents``; it is asked only about children of
    FIZZLED ones.
    """
    states = set(fw_states.values())
    leaves = {key for key, children in links.items() if not children}
    if all(fw_states[key] == "COMPLETED" for key in leaves):
        return "COMPLETED"
    if states == {"ARCHIVED"}:
        return "ARCHIVED"
    for held in ("DEFUSED", "PAUSED"):
        if held in states:
            return held
    if "FIZZLED" in states:
        fizzled = (key for key, state in fw_states.items() if state == "FIZZLED")
        stuck = any(
            key in leaves or not all(tolerates_fizzled(child) for child in links[key])
            for key in fizzled
        )
        return "FIZZLED" if stuck else "RUNNING"
    if states & {"COMPLETED", "RUNNING"}:
        return "RUNNING"
    return "RESERVED" if "RESERVED" in states else "READY"
