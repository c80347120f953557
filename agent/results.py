"""What a pass, or one command, did: the shape of ``--json`` and the exit status that goes with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from fwcore.launchpad.records import Applied, Claim
from fwcore.plan import Outcome

OK = 0
FAILED = 1
USAGE = 2
DEFERRED = 3
UNREACHABLE = 4

Entry = dict[str, Any]

#: Seconds after which what was deferred would have been deferred again.
LASTS = 900.0


@dataclass
class Result:
    """Lists of JSON objects, each with at least ``launch_id`` (or ``fw_id``, where there is no launch).

    ``applied``: + ``fw_id``, ``state``. ``deferred``, ``ignored``: + ``reason``. ``claimed``: +
    ``launch_dir``. ``submitted``: + ``job_id``. ``lost``: + ``fw_id``, ``job_id``, ``state`` (what the Firework is
    now; null if its loss is only told) and ``reason``. ``adopted``, ``cancelled``: + ``fw_id``, ``job_id``,
    ``reason``. ``latencies`` are not printed: {launch_id: seconds from the writing of a final report to its being in
    the database}.
    """

    applied: list[Entry] = field(default_factory=list)
    deferred: list[Entry] = field(default_factory=list)
    ignored: list[Entry] = field(default_factory=list)
    claimed: list[Entry] = field(default_factory=list)
    submitted: list[Entry] = field(default_factory=list)
    lost: list[Entry] = field(default_factory=list)
    adopted: list[Entry] = field(default_factory=list)
    cancelled: list[Entry] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    latencies: dict[int, float] = field(default_factory=dict)

    def take(self, applied: Applied) -> None:
        """Add what became of reports."""
        # The outbox and the directory of a launch may tell the same, one after the other.
        known = {(entry["launch_id"], entry["state"]) for entry in self.applied}
        self.applied += [
            {"launch_id": outcome.launch_id, "fw_id": outcome.fw_id, "state": outcome.state}
            for outcome in applied.applied
            if (outcome.launch_id, outcome.state) not in known
        ]
        self.deferred += _reasons(applied.deferred)
        self.ignored += _reasons(applied.ignored)
        self.released += applied.released

    def defer(self, launch_id: int | None, fw_id: int | None, reason: str) -> None:
        """Note what will be tried again."""
        self.deferred.append({"launch_id": launch_id, "fw_id": fw_id, "reason": reason})

    def ignore(self, launch_id: int, fw_id: int, reason: str) -> None:
        """Note what is settled without having been applied."""
        self.ignored.append({"launch_id": launch_id, "fw_id": fw_id, "reason": reason})

    def claim(self, claim: Claim) -> None:
        """Note a reservation whose launch directory is ready."""
        self.claimed.append(
            {"launch_id": claim.launch_id, "fw_id": claim.fw_id, "launch_dir": claim.launch_dir}
        )

    def document(self) -> dict[str, list[Entry]]:
        """Return the documented JSON object; what the queue told of jobs is in it if there is any."""
        jobs = {"lost": self.lost, "adopted": self.adopted, "cancelled": self.cancelled}
        return {
            "applied": self.applied,
            "deferred": self.deferred,
            "ignored": self.ignored,
            "claimed": self.claimed,
            "submitted": self.submitted,
            **{key: entries for key, entries in jobs.items() if entries},
        }

    @property
    def exit_status(self) -> int:
        """3 if something is to be retried, else 0: what was ignored is settled."""
        return DEFERRED if self.deferred else OK


class Deferrals:
    """What waits to be tried again, over the passes of a daemon."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._when: dict[tuple[str, int], float] = {}
        self._reasons: dict[tuple[str, int], str] = {}
        self._told: dict[tuple[str, int], str] = {}
        self._launches: dict[tuple[str, int], int | None] = {}

    def take(
        self,
        result: Result,
        *,
        whole: bool,
        looked: Collection[int] | None = None,
        places: Collection[int] = (),
    ) -> list[Entry]:
        """Take over what a pass deferred; return what has lasted since an earlier one and is not told yet.

        ``whole`` means that the pass has looked at everything, or at these launches and at all that is no launch, so
        that what it did not defer is settled, and so are launches that are not in ``places`` any more. What nothing has
        deferred for LASTS seconds is not ours any more: somebody else has ended it, or another worker has it.
        A file caught half-written is whole at the next look, and no news.
        """
        now = {_key(entry): entry for entry in result.deferred}
        settled = {
            key
            for entry in (*result.applied, *result.ignored, *result.claimed)
            for key in _keys(entry)
        }
        before, moment = self._reasons, self._clock()
        settled |= {key for key, when in self._when.items() if moment - when > LASTS}
        again = {
            key
            for key, launch_id in self._launches.items()
            if _again(launch_id, whole, looked)
            # Deferred as a Firework it is another launch at each try.
            or (whole and looked is not None and key[0] == "launch_id" and key[1] not in places)
        }
        gone = settled | again | now.keys()
        kept = {k: v for k, v in before.items() if k not in gone}
        launches = {**self._launches, **{key: entry["launch_id"] for key, entry in now.items()}}
        self._reasons = {**kept, **{key: entry["reason"] for key, entry in now.items()}}
        self._launches = {key: launches[key] for key in self._reasons}
        when = {**self._when, **dict.fromkeys(now, moment)}
        self._when = {key: when[key] for key in self._reasons}
        self._told = {k: v for k, v in self._told.items() if self._reasons.get(k) == v}
        news = {
            key: entry
            for key, entry in now.items()
            if entry["reason"] == before.get(key) and key not in self._told
        }
        self._told.update((key, entry["reason"]) for key, entry in news.items())
        return list(news.values())

    def newest(self, most: int) -> list[Entry]:
        """Return some of what waits, what was deferred last at the end."""
        kept = islice(reversed(self._reasons.items()), most)
        found = [
            {**dict.fromkeys(("launch_id", "fw_id")), **self._about(key), "reason": reason}
            for key, reason in kept
        ]
        return found[::-1]

    def _about(self, key: tuple[str, int]) -> Entry:
        name, number = key
        return {"launch_id": self._launches[key], **({name: number} if name else {})}

    def __len__(self) -> int:
        return len(self._reasons)


def _again(launch_id: int | None, whole: bool, looked: Collection[int] | None) -> bool:
    """Tell whether a pass would have deferred again what waits."""
    if looked is None or launch_id is None:
        return whole
    return launch_id in looked


def _key(entry: Entry) -> tuple[str, int]:
    return _keys(entry)[-1]


def _keys(entry: Entry) -> list[tuple[str, int]]:
    # A Firework that cannot be launched gets a new launch at every try.
    keys = [(name, entry[name]) for name in ("launch_id", "fw_id") if entry[name] is not None]
    return keys or [("", 0)]


def _reasons(outcomes: Iterable[Outcome]) -> list[Entry]:
    return [
        {"launch_id": outcome.launch_id, "fw_id": outcome.fw_id, "reason": outcome.reason}
        for outcome in outcomes
    ]
