"""When to look at which launch directory: a pure schedule, without a clock and without files.

One that has just changed is looked at again soon; each look that finds nothing new doubles the pause, up to a bound.
The looks are spread over the pauses, so that neither this host nor the file server sees bursts.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import NamedTuple

#: What of a pause is the same for all; the rest is a launch's own, so that those found at once drift apart.
_COMMON = 0.5
#: Neighbours end up far from each other (the golden ratio).
_STEP = 0.6180339887498949


class Bounds(NamedTuple):
    """Seconds between two looks at one launch directory, and how many looks a second there may be."""

    fastest: float
    slowest: float
    per_second: float


class Schedule:
    """Which launches are due. Times are seconds of any clock that does not go back."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        # {launch_id: (pause, when)}, and the same as a heap, in which there may be stale entries.
        self._slots: dict[int, tuple[float, float]] = {}
        self._heap: list[tuple[float, int]] = []
        self._taken = 0.0

    def __len__(self) -> int:
        return len(self._slots)

    def keep(self, launch_ids: Iterable[int], now: float) -> None:
        """Drop all other launches; those that are new are due within the shortest pause."""
        wanted = set(launch_ids)
        for launch_id in self._slots.keys() - wanted:
            del self._slots[launch_id]
        for launch_id in wanted - self._slots.keys():
            pause = self.bounds.fastest
            self._put(launch_id, pause, now + pause * (launch_id * _STEP % 1))
        if len(self._heap) > 2 * len(self._slots) + 1000:
            self._heap = [(when, launch_id) for launch_id, (_, when) in self._slots.items()]
            heapq.heapify(self._heap)

    def due(self, now: float) -> list[int]:
        """Return the launches to look at now, the longest due first; each must then be `looked` at.

        Not more than the bound allows since the last time, for at least one second's worth.
        """
        most = max(1.0, self.bounds.per_second * min(60.0, max(1.0, now - self._taken)))
        found: list[int] = []
        while self._heap and self._heap[0][0] <= now and len(found) < most:
            when, launch_id = heapq.heappop(self._heap)
            slot = self._slots.get(launch_id)
            if slot is not None and slot[1] == when:
                found.append(launch_id)
        if found:
            self._taken = now
        return found

    def looked(self, launch_ids: Iterable[int], now: float, changed: Iterable[int]) -> None:
        """Note that launches were looked at, and which of them had something new to tell, or could not be read."""
        news = set(changed)
        for launch_id in launch_ids:
            slot = self._slots.get(launch_id)
            if slot is None:
                continue
            quick = launch_id in news
            pause = self.bounds.fastest if quick else min(slot[0] * 2, self.bounds.slowest)
            spread = _COMMON + (1 - _COMMON) * (launch_id * _STEP % 1)
            # From when it was due: those looked at in one turn of a loop must not stay together.
            late = now - slot[1]
            begin = slot[1] if 0 <= late < self.bounds.fastest / 4 else now
            self._put(launch_id, pause, begin + pause * spread)

    def _put(self, launch_id: int, pause: float, when: float) -> None:
        self._slots[launch_id] = (pause, when)
        heapq.heappush(self._heap, (when, launch_id))
