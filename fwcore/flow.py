"""A locked workflow as it will be: its links and its copy of the states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from fwcore.diff import update_between
from fwcore.documents import milliseconds
from fwcore.states import HELD, workflow_state

Document = dict[str, Any]

#: What a workflow tells of each of its Fireworks.
_BY_NODE = ("fw_states", "links", "parent_links")
#: Of these, what is written one by one at most where the whole is as small.
_MANY = 100


class Flow:
    """One workflow. What was read is never altered; what changes is copied first."""

    def __init__(self, document: Document) -> None:
        self._old = document
        self._states: dict[str, str] = dict(document["fw_states"])
        self._links: dict[str, list[int]] = document["links"]
        self._parents: dict[str, list[int]] = document.get("parent_links", {})
        self._nodes: list[int] = document["nodes"]
        self._added: list[int] = []
        #: The lists of links that are copies already.
        self._ours: set[int] = set()
        self._dated = False

    @property
    def nodes(self) -> list[int]:
        """The Fireworks in it."""
        if self._added:
            self._nodes = sorted([*self._nodes, *self._added])
            self._added = []
        return self._nodes

    def children(self, fw_id: int) -> list[int]:
        """Return the Fireworks that wait for one."""
        return list(self._links.get(str(fw_id), []))

    def parents(self, fw_id: int) -> list[int]:
        """Return the Fireworks that one waits for."""
        return list(self._parents.get(str(fw_id), []))

    def fizzled_parents(self, fw_id: int) -> list[int]:
        """Return the FIZZLED parents of one in FireWorks' order: that of the links, whatever ``parent_links`` has."""
        found = [parent for parent in self.parents(fw_id) if self.state(parent) == "FIZZLED"]
        if len(found) < 2:
            return found
        place = {key: number for number, key in enumerate(self._links)}
        return sorted(found, key=lambda parent: place.get(str(parent), len(place)))

    def descendants(self, fw_id: int) -> list[int]:
        """Return all Fireworks below one, each once."""
        found: dict[int, None] = {}
        pending = self.children(fw_id)
        while pending:
            node = pending.pop()
            if node not in found:
                found[node] = None
                pending.extend(self.children(node))
        return list(found)

    def state(self, fw_id: int) -> str:
        """Return a Firework's state as the workflow knows it."""
        return self._states[str(fw_id)]

    def set_state(self, fw_id: int, state: str) -> bool:
        """Set the copy of a Firework's state; return whether it was another one."""
        changed = self._states.get(str(fw_id)) != state
        self._states[str(fw_id)] = state
        # FireWorks' refresh of a held Firework ends before it dates the workflow.
        self._dated |= state not in HELD
        return changed

    def add(self, links: Mapping[int, list[int]], parents: Iterable[int], roots: list[int]) -> None:
        """Append Fireworks with their links below ``parents``; they are WAITING."""
        if self._links is self._old["links"]:
            self._links, self._parents = dict(self._links), dict(self._parents)
        self._links.update((str(node), []) for node in links)
        edges = [(node, child) for node, children in links.items() for child in children]
        edges += [(parent, root) for parent in parents for root in roots]
        for parent, child in edges:
            self._append(self._links, parent, child)
            self._append(self._parents, child, parent)
        self._added += links
        self._states.update((str(node), "WAITING") for node in links)

    def _append(self, links: dict[str, list[int]], node: int, other: int) -> None:
        found = links.get(str(node), [])
        if id(found) not in self._ours:
            found = links[str(node)] = list(found)
            self._ours.add(id(found))
        found.append(other)

    def fizzled(self) -> set[int]:
        """Return the Fireworks that are FIZZLED."""
        return {int(key) for key, state in self._states.items() if state == "FIZZLED"}

    def changed(self) -> bool:
        """Return whether the states or the links are others than those that were read."""
        return self._states != self._old["fw_states"] or self.nodes is not self._old["nodes"]

    def update(self, tolerates: Callable[[int], bool], now: datetime) -> Document:
        """Return the MongoDB update that stores the workflow."""
        new = {
            **self._old,
            "nodes": self.nodes,
            "links": self._links,
            "fw_states": self._states,
            "state": workflow_state(self._states, self._links, tolerates),
        }
        if self._dated:
            new["updated_on"] = milliseconds(now)
        if "parent_links" in self._old or self._parents:
            new["parent_links"] = self._parents
        known = {key: _known(self._old.get(key), new[key]) for key in _BY_NODE if key in new}
        return update_between({**self._old, **known}, new)


def _known(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return an object to compare with, or None where writing all of it is cheaper than most of it.

    The server looks through the whole object for each path that leads into it.
    """
    if before is None or before is after:
        return before
    changed = sum(before.get(key) != value for key, value in after.items())
    return None if changed > max(_MANY, len(before) // 2) else before
