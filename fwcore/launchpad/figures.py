"""Counting a period for `fwagent report`: the server adds up, and what comes back is small.

A history holds texts while its launch is open, and dates once it was recovered (contract, 1.9): `$convert` takes
both. Launches that have ended are found by the index that FireWorks keeps of ``time_end``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from fwcore.documents import iso
from fwcore.launchpad.session import Session
from fwcore.lost import MARK
from fwcore.states import ACTIVE, FINAL
from fwcore.tally import EDGES, Failure, Period, Tally

Document = dict[str, Any]

#: Pieces that a period is read in, each in one answer.
_PIECES = 24
#: Offline runs whose delay is looked at; each costs the server a look at its launch.
_SAMPLE = 5_000
#: Kinds of failures that are told apart in a piece.
_KINDS = 1000
#: Characters of a stack trace that are looked at, from its end, and of a reason that are kept.
_TRACE, _REASON = 4000, 300


class Figures(Session):
    """Counts launches."""

    def tally(self, period: Period, worker: str | None) -> Iterator[tuple[float, Tally]]:
        """Count what the launches of a worker (None: of all) did in a period.

        Yields the part that is done, up to 1.0, and the one Tally that grows by it. Nobody is kept from writing
        meanwhile, so a launch that ends just then may be counted as one that runs.
        """
        found = Tally()
        mine: Document = {} if worker is None else {"fworker.name": worker}
        pieces = [
            *({**mine, "time_end": each} for each in _ranges(period)),
            {**mine, "state": {"$in": sorted(ACTIVE)}},
            {**mine, "state": "READY"},
        ]
        steps = len(pieces) + 2
        for done, piece in enumerate(pieces, 1):
            with self._reaching():
                self._count(found, period, piece)
            yield done / steps, found
        with self._reaching():
            self._count_delays(found, period, mine)
        yield (steps - 1) / steps, found
        with self._reaching():
            groups = self._db.fireworks.aggregate(_counted("$state"))
            found.fireworks.update({str(group["_id"]): group["n"] for group in groups})
        yield 1.0, found

    def _count(self, found: Tally, period: Period, piece: Document) -> None:
        steps = [{"$match": piece}, {"$project": _MOMENTS}, {"$facet": _facets(period)}]
        (counts,) = self._db.launches.aggregate(steps, allowDiskUse=True)
        last = period.count - 1

        def take(into: Counter[int], name: str) -> None:
            for row in counts[name]:
                into[min(row["_id"], last)] += row["n"]

        for row in counts["ended"]:
            found.ended[min(row["_id"]["step"], last), row["_id"]["state"]] += row["n"]
        take(found.reserved, "reserved")
        take(found.started, "started")
        take(found.left, "left")
        take(found.stopped, "stopped")
        for durations, name in ((found.waits, "waits"), (found.runs, "runs")):
            durations.update({row["_id"]: row["n"] for row in counts[name]})
        found.now.update({row["_id"]: row["n"] for row in counts["now"]})
        found.taken_back += sum(row["n"] for row in counts["taken_back"])
        if "time_end" in piece:
            self._count_failures(found, {**piece, "state": "FIZZLED"})

    def _count_failures(self, found: Tally, failed: Document) -> None:
        steps = [{"$match": failed}, *_FAILURES]
        for row in self._db.launches.aggregate(steps, allowDiskUse=True):
            told = row["_id"]
            failure = Failure(
                text=told["text"],
                name=str(told.get("name", "")),
                lost=told["lost"],
                exit_code=told.get("exit_code", ""),
                signal=told.get("signal", ""),
            )
            found.failures[failure] += row["n"]

    def _count_delays(self, found: Tally, period: Period, mine: Document) -> None:
        done = {"completed": True, "updated_on": {"$gte": iso(period.begin)}}
        found.recovered = self._db.offline_runs.count_documents(done)
        mine = {f"launch.{key}": value for key, value in mine.items()}
        steps: list[Document] = [
            {"$match": done},
            {"$project": {"launch_id": 1, "updated_on": 1}},
            {"$sample": {"size": _SAMPLE}},
            {
                "$lookup": {
                    "from": "launches",
                    "localField": "launch_id",
                    "foreignField": "launch_id",
                    "as": "launch",
                }
            },
            {"$unwind": "$launch"},
            # The end of a lost launch is our own conclusion, not a report.
            {"$match": {**mine, f"launch.action.stored_data.{MARK}": {"$exists": False}}},
            {
                "$project": {
                    "known": _date("$updated_on"),
                    "end": _entered("$launch.state_history", FINAL, -1),
                }
            },
            {"$match": {"end": {"$type": "date"}, "known": {"$type": "date"}}},
            {"$project": {"seconds": _seconds("$end", "$known")}},
            _by_edge("$seconds"),
        ]
        counts = {
            row["_id"]: row["n"]
            for row in self._db.offline_runs.aggregate(steps, allowDiskUse=True)
        }
        found.delays.update(counts)
        found.sampled = sum(counts.values())


def _ranges(period: Period) -> Iterator[Document]:
    """Yield filters of ``time_end`` that cover a period, the last one with no end."""
    length = max(period.until - period.begin, timedelta(seconds=_PIECES)) / _PIECES
    cuts = [iso(period.begin + number * length) for number in range(_PIECES)]
    for number, cut in enumerate(cuts):
        yield {"$gte": cut, **({"$lt": cuts[number + 1]} if number + 1 < _PIECES else {})}


def _date(value: Any) -> Document:
    return {"$convert": {"input": value, "to": "date", "onError": None, "onNull": None}}


def _entered(history: str, states: frozenset[str], which: int) -> Document:
    """Return when a launch came into one of some states: for the first time (0), or the last (-1)."""
    entries = {"$cond": [{"$isArray": history}, history, []]}
    chosen = {"$filter": {"input": entries, "cond": {"$in": ["$$this.state", sorted(states)]}}}
    entry = {"$arrayElemAt": [chosen, which]}
    return {"$let": {"vars": {"entry": entry}, "in": _date("$$entry.created_on")}}


def _seconds(start: str, end: str) -> Document:
    """Return the seconds between two dates; clocks that disagree make none of them negative."""
    return {"$max": [0, {"$divide": [{"$subtract": [end, start]}, 1000]}]}


def _counted(key: Any) -> list[Document]:
    return [{"$group": {"_id": key, "n": {"$sum": 1}}}]


def _by_edge(seconds: str) -> Document:
    return {
        "$bucket": {
            "groupBy": seconds,
            "boundaries": list(EDGES),
            "default": EDGES[-1],
            "output": {"n": {"$sum": 1}},
        }
    }


def _step(moment: str, period: Period) -> Document:
    passed = {
        "$divide": [{"$subtract": [moment, period.begin]}, period.width.total_seconds() * 1000]
    }
    return {"$toInt": {"$floor": passed}}


def _facets(period: Period) -> dict[str, list[Document]]:
    def since(moment: str) -> Document:
        return {"$match": {moment: {"$gte": period.begin}}}

    def at(moment: str) -> list[Document]:
        return [since(moment), *_counted(_step(f"${moment}", period))]

    ended = {"$match": {"state": {"$in": sorted(FINAL)}}}
    was_reserved = {"$match": {"reserved": {"$type": "date"}}}
    has_started = {"$match": {"started": {"$type": "date"}}}
    active = {"$match": {"state": {"$in": sorted(ACTIVE)}}}
    return {
        "ended": [
            ended,
            since("ended"),
            *_counted({"step": _step("$ended", period), "state": "$state"}),
        ],
        "reserved": at("reserved"),
        "started": at("started"),
        "left": [was_reserved, *at("left")],
        "stopped": [has_started, *at("ended")],
        "waits": [
            was_reserved,
            since("started"),
            {"$project": {"seconds": _seconds("$reserved", "$started")}},
            _by_edge("$seconds"),
        ],
        "runs": [
            has_started,
            since("ended"),
            {"$project": {"seconds": _seconds("$started", "$ended")}},
            _by_edge("$seconds"),
        ],
        "now": [active, *_counted("$state")],
        "taken_back": [{"$match": {"state": "READY"}}, since("left"), *_counted(None)],
    }


_MOMENTS: Document = {
    "state": 1,
    "reserved": _entered("$state_history", frozenset({"RESERVED"}), 0),
    "started": _entered("$state_history", frozenset({"RUNNING"}), 0),
    "ended": _entered("$state_history", FINAL, -1),
    # Whatever came after the reservation: the start, an end without one, or that it was taken back.
    "left": _entered("$state_history", FINAL | {"RUNNING", "READY"}, 0),
}


def _text(value: Any) -> Document:
    return {"$cond": [{"$eq": [{"$type": value}, "string"]}, value, ""]}


def _word(value: str) -> Document:
    return {"$convert": {"input": value, "to": "string", "onError": "", "onNull": ""}}


def _last_line(text: Any) -> Document:
    trimmed = {"$rtrim": {"input": text}}
    length = {"$strLenCP": "$$text"}
    start = {"$max": [0, {"$subtract": [length, _TRACE]}]}
    tail = {"$substrCP": ["$$text", start, _TRACE]}
    line = {"$arrayElemAt": [{"$split": [tail, "\n"]}, -1]}
    return {"$let": {"vars": {"text": trimmed}, "in": line}}


_STORED = "$action.stored_data"
_FACTS = f"{_STORED}.{MARK}"
_LINE = _last_line(_text(f"{_STORED}._exception._stacktrace"))
_TOLD = {
    "$let": {
        "vars": {"line": {"$trim": {"input": _LINE}}},
        "in": {
            "$cond": [{"$ne": ["$$line", ""]}, "$$line", _last_line(_text(f"{_STORED}._message"))]
        },
    }
}
_IS_LOST = {"$eq": [{"$type": _FACTS}, "object"]}
_FAILURES: list[Document] = [
    {
        "$project": {
            "fw_id": 1,
            "lost": _IS_LOST,
            "text": {
                "$substrCP": [{"$cond": [_IS_LOST, _text(f"{_FACTS}.state"), _TOLD]}, 0, _REASON]
            },
            "exit_code": _word(f"{_FACTS}.exit_code"),
            "signal": _word(f"{_FACTS}.signal"),
        }
    },
    {
        "$lookup": {
            "from": "fireworks",
            "localField": "fw_id",
            "foreignField": "fw_id",
            "as": "firework",
        }
    },
    {
        "$group": {
            "_id": {
                **{key: f"${key}" for key in ("lost", "text", "exit_code", "signal")},
                "name": {"$arrayElemAt": ["$firework.name", 0]},
            },
            "n": {"$sum": 1},
        }
    },
    {"$sort": {"n": -1, "_id": 1}},
    {"$limit": _KINDS},
]
