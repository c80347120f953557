"""When to look at which launch directory: a pure schedule, without a clock and without files.

One that has just changed is looked at again soon; each look that finds nothing new doubles the pause, up to a bound.
The looks are spread over the pauses, so that neither this host nor the file server sees bursts.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import NamedTuple

#: A launch's own part of any pause; that of its neighbours is far from it (the golden ratio).
_STEP = 0.6180339887498949
#: What is due in the same slot of time is due together: seconds, at most this part of the shortest pause.
_SLOT_SECONDS = 0.5
_SLOT_SHARE = 0.25


class Bounds(NamedTuple):
    """Seconds between two looks at one launch directory, and how many looks a second there may be."""

    fastest: float
    slowest: float
    per_second: float


class Schedule:
    """Which launches are due. Times are seconds of any clock that does not go back.

    A launch with a pause is due whenever its own part of that pause is over, counted from 0: found together
    or not, launches stay as far from each other as their numbers say.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._width = min(_SLOT_SECONDS, bounds.fastest * _SLOT_SHARE)
        # {launch_id: (pause, slot)}, and who is in which slot: among them some that are elsewhere by now.
        self._launches: dict[int, tuple[float, int]] = {}
        self._slots: dict[int, list[int]] = {}
        self._order: list[int] = []
        self._taken = 0.0

    def __len__(self) -> int:
        return len(self._launches)

    def keep(self, launch_ids: Iterable[int], now: float) -> None:
        """Drop all other launches; those that are new are due within the shortest pause."""
        wanted = set(launch_ids)
        for launch_id in self._launches.keys() - wanted:
            del self._launches[launch_id]
        pause = self.bounds.fastest
        self._put(((launch_id, pause) for launch_id in wanted - self._launches.keys()), now)

    def due(self, now: float) -> list[int]:
        """Return the launches to look at now, the longest due first; each must then be `looked` at.

        Not more than the bound allows since the last time, for at least one second's worth.
        """
        most = max(1, int(self.bounds.per_second * min(60.0, max(1.0, now - self._taken))))
        # As a dict: one that left a slot and came back is in it twice.
        found: dict[int, None] = {}
        while self._order and self._order[0] < now // self._width and len(found) < most:
            slot = self._order[0]
            here = self._slots[slot]
            while here and len(found) < most:
                launch_id = here.pop()
                if self._launches.get(launch_id, (0.0, None))[1] == slot:
                    found[launch_id] = None
            if not here:
                del self._slots[heapq.heappop(self._order)]
        if found:
            self._taken = now
        return list(found)

    def looked(self, launch_ids: Iterable[int], now: float, changed: Iterable[int]) -> None:
        """Note that launches were looked at, and which of them had something new to tell, or could not be read."""
        fastest, slowest, _ = self.bounds
        news = set(changed)
        known = [launch_id for launch_id in launch_ids if launch_id in self._launches]
        self._put(
            (
                (each, fastest if each in news else min(self._launches[each][0] * 2, slowest))
                for each in known
            ),
            now,
        )

    def turn(self, now: float) -> int:
        """Return a number that is another one at each look at a launch that has long been quiet."""
        return int(now // self.bounds.slowest)

    def _put(self, pauses: Iterable[tuple[int, float]], now: float) -> None:
        # There may be 100,000 launches, so equal pairs are one object.
        pairs: dict[tuple[float, int], tuple[float, int]] = {}
        for launch_id, pause in pauses:
            when = now + pause - (now - launch_id * _STEP % 1 * pause) % pause
            slot = int(when // self._width)
            pair = (pause, slot)
            self._launches[launch_id] = pairs.setdefault(pair, pair)
            if slot not in self._slots:
                self._slots[slot] = []
                heapq.heappush(self._order, slot)
            self._slots[slot].append(launch_id)
