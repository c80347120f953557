"""When to look at which launch directory: a pure schedule, without a clock and without files.

One that has just changed is looked at again soon; each look that finds nothing new doubles the pause, up to a bound.
The looks are spread over the pauses, so that neither this host nor the file server sees bursts.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from typing import NamedTuple

#: A launch's own part of any pause; that of its neighbours is far from it (the golden ratio).
_STEP = 0.6180339887498949
#: Of so many looks at a quiet launch directory one looks for all files.
THOROUGH = 4
#: What is due in the same slot of time is due together: seconds, at most this part of the shortest pause.
_SLOT_SECONDS = 0.5
_SLOT_SHARE = 0.25


class Bounds(NamedTuple):
    """Seconds between two looks at one launch directory, and how many looks a second there may be."""

    fastest: float
    slowest: float
    per_second: float
    #: Of those that tell of their changes by themselves; not less than ``slowest``.
    watched: float


class _Slot:
    """Launches that are due together, in the same slot of time after the same pause; some may be elsewhere by now."""

    __slots__ = ("launches", "number", "pause")

    def __init__(self, number: int, pause: float) -> None:
        self.number = number
        self.pause = pause
        self.launches: list[int] = []


class Schedule:
    """Which launches are due. Times are seconds of any clock that does not go back.

    A launch with a pause is due whenever its own part of that pause is over, counted from 0: found together
    or not, launches stay as far from each other as their numbers say. Those that have long been quiet move on
    together, so that each costs little more than the look itself.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._width = min(_SLOT_SECONDS, bounds.fastest * _SLOT_SHARE)
        self._launches: dict[int, _Slot] = {}
        self._watched: set[int] = set()
        self._turns: dict[int, int] = {}
        self._slots: dict[tuple[int, float], _Slot] = {}
        self._order: list[tuple[int, float]] = []
        # Slots that were due as a whole and are not looked at yet.
        self._taken: list[_Slot] = []
        self._taken_on = 0.0

    def __len__(self) -> int:
        return len(self._launches)

    def keep(self, launch_ids: Collection[int], now: float) -> None:
        """Drop all other launches; those that are new are due within the shortest pause."""
        # No sets: of a hundred thousand launches each takes megabytes.
        for launch_id in [each for each in self._launches if each not in launch_ids]:
            del self._launches[launch_id]
            self._turns.pop(launch_id, None)
        for launch_id in [each for each in launch_ids if each not in self._launches]:
            self._put(launch_id, self.bounds.fastest, now)

    def watched(self, launch_ids: Iterable[int], now: float) -> None:
        """Name all launches that tell of their changes by themselves; those that no longer do are due as others are."""
        watched = set(launch_ids)
        for launch_id in (self._watched - watched) & self._launches.keys():
            if self._launches[launch_id].pause > self.bounds.slowest:
                self._put(launch_id, self.bounds.slowest, now)
        self._watched = watched

    def due(self, now: float) -> list[int]:
        """Return the launches to look at now, the longest due first; each must then be `looked` at.

        Not more than the bound allows since the last time, for at least one second's worth.
        """
        most = max(1, int(self.bounds.per_second * min(60.0, max(1.0, now - self._taken_on))))
        found: list[int] = []
        self._taken = []
        while self._order and self._order[0][0] < now // self._width and len(found) < most:
            slot = self._slots[self._order[0]]
            here = self._here(slot)
            room = most - len(found)
            found += here[:room]
            slot.launches = here[room:] or here
            if len(here) > room:
                break
            del self._slots[heapq.heappop(self._order)]
            if here:
                self._taken.append(slot)
        if found:
            self._taken_on = now
        return found

    def looked(self, launch_ids: Iterable[int], now: float, changed: Iterable[int]) -> None:
        """Note that launches were looked at, and which of them had something new to tell, or could not be read."""
        fastest = self.bounds.fastest
        news = set(changed)
        left = set(launch_ids)
        for slot in self._taken:
            quiet = self._slowed(slot) and news.isdisjoint(slot.launches)
            if quiet and left.issuperset(slot.launches) and self._moved(slot, now):
                left.difference_update(slot.launches)
        self._taken = []
        for launch_id in left & self._launches.keys():
            pause = min(self._launches[launch_id].pause * 2, self._longest(launch_id))
            self._put(launch_id, fastest if launch_id in news else pause, now)

    def quick(self, launch_ids: Iterable[int]) -> set[int]:
        """Return those of these launches that a quick look is enough for now: of THOROUGH looks at each all but one."""
        found = set()
        for launch_id in launch_ids:
            # Counted, for what is due by the clock may come at any multiple of it.
            turn = self._turns[launch_id] = (self._turns.get(launch_id, launch_id) + 1) % THOROUGH
            if turn:
                found.add(launch_id)
        return found

    def _longest(self, launch_id: int) -> float:
        return self.bounds.watched if launch_id in self._watched else self.bounds.slowest

    def _slowed(self, slot: _Slot) -> bool:
        """Tell whether the pause of all launches there is as long as it may become."""
        _, slowest, _, watched = self.bounds
        if slot.pause == watched:
            return watched == slowest or self._watched.issuperset(slot.launches)
        return slot.pause == slowest and self._watched.isdisjoint(slot.launches)

    def _here(self, slot: _Slot) -> list[int]:
        # As a dict: one that left a slot and came back is in it twice.
        return list(
            dict.fromkeys(each for each in slot.launches if self._launches.get(each) is slot)
        )

    def _moved(self, slot: _Slot, now: float) -> bool:
        """Have a whole slot wait for another of its pauses; False if others have its place by then."""
        pause = max(1, int(slot.pause / self._width))
        behind = max(0, int(now // self._width) - slot.number)
        number = slot.number + pause * (behind // pause + 1)
        if (number, slot.pause) in self._slots:
            return False
        slot.number = number
        self._add(slot)
        return True

    def _put(self, launch_id: int, pause: float, now: float) -> None:
        when = now + pause - (now - launch_id * _STEP % 1 * pause) % pause
        key = (int(when // self._width), pause)
        slot = self._slots.get(key) or self._add(_Slot(*key))
        self._launches[launch_id] = slot
        slot.launches.append(launch_id)

    def _add(self, slot: _Slot) -> _Slot:
        key = (slot.number, slot.pause)
        self._slots[key] = slot
        heapq.heappush(self._order, key)
        return slot
