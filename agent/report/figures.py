"""From counts to figures: what `fwagent report --json` prints and the page shows. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fwcore.documents import iso
from fwcore.states import RANKS
from fwcore.tally import EDGES, Failure, Period, Tally

Document = dict[str, Any]

#: Reasons and names that are told apart.
_ROWS = 12
#: Names that are told of a reason.
_NAMES = 5
# What differs from one run to the next, and would make a reason of each: directories, addresses, long numbers.
_DIRECTORY = re.compile(r"(?<![\w.<])/(?:[^\s/'\":,;()]+/)+")
_NUMBER = re.compile(r"\b0x[0-9a-fA-F]+\b|\d{5,}")


def figures(period: Period, tally: Tally, *, worker: str | None, where: str) -> Document:
    """Return the figures as one JSON object, as docs/json-outputs.md describes it."""
    totals = {state: _ended(tally, state) for state in ("COMPLETED", "FIZZLED")}
    return {
        "database": where,
        "worker": worker,
        "since": iso(period.begin),
        "until": iso(period.until),
        "step_seconds": period.width.total_seconds(),
        "fireworks": dict(sorted(tally.fireworks.items(), key=lambda each: RANKS.get(each[0], 9))),
        "launches": {
            **totals,
            "reserved": sum(n for step, n in tally.reserved.items() if step >= 0),
            "taken_back": tally.taken_back,
            "RESERVED": tally.now["RESERVED"],
            "RUNNING": tally.now["RUNNING"],
        },
        "throughput": _throughput(period, tally),
        "states": _states(period, tally),
        "latency": {
            **distribution(tally.delays),
            "sampled": tally.sampled,
            "recovered": tally.recovered,
        },
        "waiting": distribution(tally.waits),
        "running": distribution(tally.runs),
        "failures": _failures(tally.failures, totals["FIZZLED"]),
    }


def _ended(tally: Tally, state: str) -> int:
    return sum(n for (step, each), n in tally.ended.items() if each == state and step >= 0)


def _throughput(period: Period, tally: Tally) -> list[Document]:
    return [
        {
            "from": iso(period.start(step)),
            "COMPLETED": tally.ended[step, "COMPLETED"],
            "FIZZLED": tally.ended[step, "FIZZLED"],
        }
        for step in range(period.count)
    ]


def _states(period: Period, tally: Tally) -> list[Document]:
    """Return how many launches were RESERVED and RUNNING at the end of each step: from now backwards."""
    reserved, running = tally.now["RESERVED"], tally.now["RUNNING"]
    rows = []
    for step in reversed(range(period.count)):
        end = min(period.start(step + 1), period.until)
        # What was counted while somebody wrote may not add up by one or two.
        rows.append({"at": iso(end), "RESERVED": max(0, reserved), "RUNNING": max(0, running)})
        reserved += tally.left[step] - tally.reserved[step]
        running += tally.stopped[step] - tally.started[step]
    first = {"RESERVED": max(0, reserved), "RUNNING": max(0, running)}
    return [{"at": iso(period.begin), **first}, *reversed(rows)]


def distribution(counts: Mapping[float, int]) -> Document:
    """Return durations counted by ``EDGES`` as ``count``, ``median``, ``p90`` and ``bins`` from the first to the last.

    Median and p90 are read from the bins, as if what lies in one were spread evenly: None of nothing.
    """
    used = [edge for edge, n in counts.items() if n]
    if not used:
        return {"count": 0, "median": None, "p90": None, "bins": []}
    first, last = EDGES.index(min(used)), EDGES.index(max(used))
    bins = [
        {"from": EDGES[index], "to": _next_edge(index), "count": counts.get(EDGES[index], 0)}
        for index in range(first, last + 1)
    ]
    return {
        "count": sum(counts.values()),
        "median": _quantile(bins, 0.5),
        "p90": _quantile(bins, 0.9),
        "bins": bins,
    }


def _next_edge(index: int) -> float | None:
    return EDGES[index + 1] if index + 1 < len(EDGES) else None


def _quantile(bins: list[Document], part: float) -> float:
    wanted = part * sum(each["count"] for each in bins)
    passed = 0
    for each in bins:
        if each["count"] and passed + each["count"] >= wanted:
            low, high = each["from"], each["to"] or each["from"]
            return float(round(low + (high - low) * (wanted - passed) / each["count"], 3))
        passed += each["count"]
    return float(bins[-1]["from"])


def _failures(failures: Mapping[Failure, int], total: int) -> Document:
    """Return the most frequent reasons and names; ``others`` are those of FIZZLED launches that are not in them."""
    reasons: Counter[str] = Counter()
    lost: dict[str, bool] = {}
    named: dict[str, Counter[str]] = {}
    names: Counter[str] = Counter()
    for failure, n in failures.items():
        text = reason(failure)
        reasons[text] += n
        lost[text] = failure.lost
        named.setdefault(text, Counter())[failure.name] += n
        names[failure.name] += n
    top, worst = _most(reasons), _most(names)
    return {
        "count": total,
        "reasons": [
            {
                "reason": text,
                "lost": lost[text],
                "count": n,
                "names": [name for name, _n in _sorted(named[text])[:_NAMES]],
            }
            for text, n in top
        ],
        "other_reasons": max(0, total - sum(n for _text, n in top)),
        "names": [{"name": name, "count": n} for name, n in worst],
        "other_names": max(0, total - sum(n for _name, n in worst)),
    }


def _sorted(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def _most(counts: Counter[str]) -> list[tuple[str, int]]:
    return _sorted(counts)[:_ROWS]


def reason(failure: Failure) -> str:
    """Return why launches FIZZLED in one line, without what is of one run only."""
    if failure.lost:
        parts = [f"job ended as {failure.text}" if failure.text else "job gone"]
        parts += [f"exit code {failure.exit_code}"] if failure.exit_code not in ("", "0") else []
        parts += [f"signal {failure.signal}"] if failure.signal not in ("", "0") else []
        return f"lost: {', '.join(parts)}, without a report"
    text = " ".join(failure.text.split())
    text = _NUMBER.sub("#", _DIRECTORY.sub(".../", text))
    return text or "no reason is stored with the launch"


def nothing_yet(document: Document) -> bool:
    """Tell whether no launch has anything to show in the period."""
    launches = document["launches"]
    return not any(launches.values())
