"""The Fireworks that an action adds to a running workflow: detours, append_wfs, additions.

Facts: FireWorks 2.1.4, ``Workflow.append_wf`` and ``Workflow.apply_action``; contract, sections 4.4 and 4.5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fwcore.documents import parsed_workflow
from fwcore.errors import InvalidWorkflow
from fwrunner.protocol.action import InvalidAction

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Growth:
    """One workflow to be appended.

    ``fireworks`` and ``links`` are keyed by the negative ids it came with; ``parents`` are the Fireworks
    it is appended to, ``detours`` those of them whose children are to wait for it; ``pulls`` tells whether
    its roots get the ``update_spec`` and ``mod_spec`` of completed parents.
    """

    fireworks: Mapping[int, Document]
    links: Mapping[int, list[int]]
    parents: tuple[int, ...]
    detours: frozenset[int]
    pulls: bool

    @property
    def roots(self) -> list[int]:
        """Return the Fireworks that nothing in it precedes."""
        children = {child for children in self.links.values() for child in children}
        return [number for number in self.fireworks if number not in children]

    @property
    def leaves(self) -> list[int]:
        """Return the Fireworks that nothing in it follows."""
        return [number for number in self.fireworks if not self.links.get(number)]


def growths_of(action: Mapping[str, Any], fw_id: int) -> list[Growth]:
    """Return what the action of a Firework appends, in FireWorks' order.

    Raises InvalidAction for what FireWorks could not append: ids that are not negative or not distinct,
    a workflow that cannot be loaded.
    """
    found = list(_growths(action, fw_id))
    numbers = [number for growth in found for number in growth.fireworks]
    if repeated := {number for number, count in Counter(numbers).items() if count > 1}:
        raise InvalidAction(f"it adds several Fireworks with the same fw_id: {sorted(repeated)}")
    return found


def check_loadable(action: Mapping[str, Any]) -> None:
    """Raise InvalidAction if FireWorks could not even load the action: less than appending it needs.

    Ids that are not negative or not distinct matter only where the action is applied.
    """
    for key in ("detours", "append_wfs", "additions"):
        for entry in _listed(action, key):
            nested = key == "append_wfs" and isinstance(entry, Mapping)
            _parsed(key, entry.get("workflow") if nested else entry)


def count_added(action: Mapping[str, Any] | None) -> int:
    """Return how many Fireworks an action adds, 0 for one that cannot be applied."""
    try:
        return sum(len(growth.fireworks) for growth in growths_of(action or {}, 0))
    except InvalidAction:
        return 0


def new_ids(growths: list[Growth], ids: Iterator[int]) -> dict[int, int]:
    """Return {negative id: fw_id}: ascending, as FireWorks gives them out."""
    numbers = sorted(number for growth in growths for number in growth.fireworks)
    return {number: next(ids) for number in numbers}


def _growths(action: Mapping[str, Any], fw_id: int) -> Iterator[Growth]:
    for source in _listed(action, "detours"):
        yield _growth("detours", source, (fw_id,), frozenset({fw_id}), pulls=False)
    for entry in _listed(action, "append_wfs"):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("parents"), list):
            raise InvalidAction("append_wfs needs objects with 'workflow', 'parents' and 'detour'")
        others = entry["parents"]
        if not all(type(other) is int for other in others):
            raise InvalidAction("append_wfs has 'parents' that are no fw_ids")
        detours = frozenset({fw_id} if entry.get("detour") else ())
        parents = tuple(dict.fromkeys((fw_id, *others)))
        yield _growth("append_wfs", entry.get("workflow"), parents, detours, pulls=True)
    for source in _listed(action, "additions"):
        yield _growth("additions", source, (fw_id,), frozenset(), pulls=False)


def _listed(action: Mapping[str, Any], key: str) -> list[Any]:
    value = action.get(key) or []
    return value if isinstance(value, list) else [value]


def _parsed(key: str, source: Any) -> tuple[Mapping[int, Document], Mapping[int, list[int]]]:
    if not isinstance(source, Mapping):
        raise InvalidAction(f"{key} has an entry that is neither a workflow nor a Firework")
    try:
        return parsed_workflow(source)
    except InvalidWorkflow as error:
        raise InvalidAction(f"{key}: {error.title}") from error


def _growth(
    key: str, source: Any, parents: tuple[int, ...], detours: frozenset[int], *, pulls: bool
) -> Growth:
    fireworks, links = _parsed(key, source)
    if positive := [number for number in fireworks if number >= 0]:
        raise InvalidAction(f"{key}: new Fireworks need negative fw_ids, not {positive[0]}")
    return Growth(fireworks, links, parents, detours, pulls)
