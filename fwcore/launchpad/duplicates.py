"""Duplicates: READY Fireworks that get the launches of others with the same spec instead of one of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any

import bson

from fwcore.launchpad.journal import Overtaken
from fwcore.launchpad.reading import WHOLE, is_id
from fwcore.launchpad.runs import OfflineRuns
from fwcore.plan import plan_share

Document = dict[str, Any]

#: Names of FireWorks' own duplicate finder. Others are code of the user, which is not run here.
_EXACT = frozenset(
    {
        "DupeFinderExact",
        "Dupe Finder Exact",
        "{{fireworks.user_objects.dupefinders.dupefinder_exact.DupeFinderExact}}",
    }
)
#: Bytes of specs that one question may hold. The server takes 16 MiB, and so a single spec of whatever size.
_QUESTION = 8 * 1024 * 1024


class Duplicates(OfflineRuns):
    """Finds duplicates, and shares launches."""

    #: {fw_id: why} of the READY Fireworks that the last claim has passed over because they, their workflows, or
    #: the result that they are to share, are damaged. Each claim looks at them again.
    passed_over: Mapping[int, str] = MappingProxyType({})

    def _pass_over(self, seen: Document, reason: str) -> None:
        fw_id: Any = seen.get("fw_id")
        self.passed_over = {**self.passed_over, (fw_id if is_id(fw_id) else 0): reason}

    def _unique(self, found: Sequence[Document]) -> tuple[list[Document], set[int]]:
        """Return the Fireworks that are to be reserved, and those to be looked at again after that.

        Duplicates of Fireworks with launches share these; of several that are alike the first goes first.
        """
        finders = {seen["fw_id"]: seen.get("spec", {}).get("_dupefinder") for seen in found}
        asked = [fw_id for fw_id, finder in finders.items() if _is_exact(finder)]
        if not asked:
            return list(found), set()
        kinds: dict[int, bytes] = {}
        originals: dict[bytes, list[int]] = {}
        unclear: set[int] = set()

        def look_up(part: list[int]) -> None:
            for some in self._specs_in_turn(part):
                originals.update(self._with_launches_and(some.values()))
                kinds.update((fw_id, _kind(spec)) for fw_id, spec in some.items())

        def leave_out(fw_id: int, reason: str) -> None:
            self._pass_over({"fw_id": fw_id}, reason)
            unclear.add(fw_id)

        self._in_parts(asked, look_up, leave_out)
        duplicates, later, first = {}, set(), set()
        for fw_id in (fw_id for fw_id in asked if fw_id in kinds):
            kind = kinds[fw_id]
            if kind in originals:
                duplicates[fw_id] = originals[kind]
            elif kind in first:
                later.add(fw_id)
            first.add(kind)
        with suppress(Overtaken):
            self._in_parts(
                list(duplicates),
                lambda part: self._share({fw_id: duplicates[fw_id] for fw_id in part}),
                lambda fw_id, reason: self._pass_over({"fw_id": fw_id}, reason),
            )
        out = later | duplicates.keys() | unclear
        return [seen for seen in found if seen["fw_id"] not in out], later

    def _specs_in_turn(self, fw_ids: Sequence[int]) -> Iterator[dict[int, Document]]:
        """Yield whole specs by the fw_id, as many at a time as one question can hold."""
        query = {"fw_id": {"$in": list(fw_ids)}}
        some: dict[int, Document] = {}
        size = 0
        for firework in self._db.fireworks.find(query, {"fw_id": 1, "spec": 1}, batch_size=WHOLE):
            own = len(bson.encode(firework["spec"]))
            if some and size + own > _QUESTION:
                yield some
                some, size = {}, 0
            some[firework["fw_id"]] = firework["spec"]
            size += own
        if some:
            yield some

    def _with_launches_and(self, specs: Iterable[Document]) -> dict[bytes, list[int]]:
        """Return the Fireworks that have launches and one of these specs, by the kind of the spec."""
        alike = {"launches": {"$nin": [[], None]}, "spec": {"$in": list(specs)}}
        found: dict[bytes, list[int]] = {}
        for other in self._db.fireworks.find(alike, {"fw_id": 1, "spec": 1}):
            found.setdefault(_kind(other["spec"]), []).append(other["fw_id"])
        return found

    def _share(self, duplicates: Mapping[int, Sequence[int]]) -> None:
        concerned = [*duplicates, *(other for others in duplicates.values() for other in others)]
        with self._locked(concerned) as (token, world):
            self._read(world, concerned, [])
            plan = self._planned(world, partial(plan_share, world, duplicates, self._clock()))
            locked = set(world.refused.values()) - set(world.damaged.values())
            for outcome in plan.deferred:
                if outcome.reason not in locked:
                    self._pass_over({"fw_id": outcome.fw_id}, outcome.reason)
            self._commit(plan, token)


def _kind(spec: Document) -> bytes:
    """Return what tells equal specs, in a few bytes."""
    return hashlib.sha256(bson.encode(spec)).digest()


def _is_exact(finder: Any) -> bool:
    name = finder.get("_fw_name") if isinstance(finder, dict) else None
    return isinstance(name, str) and name in _EXACT
