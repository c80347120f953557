"""Counts of a made-up LaunchPad, for pages to be drawn from."""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta, timezone
from typing import Any

from agent.report.figures import figures
from fwcore.tally import EDGES, Failure, Tally, period

UNTIL = datetime(2026, 11, 23, 14, 5, tzinfo=timezone.utc)

#: A name as nobody trusts it.
HOSTILE = (
    '<script>alert("x")</script></title></svg>&amp;\N{RIGHT-TO-LEFT OVERRIDE}\x00 ' + "long" * 40
)


def tally_of(days: float, launches: int, seed: int = 1) -> tuple[Any, Tally]:
    """Return a period and counts in it, the same for the same seed."""
    dice = random.Random(seed)
    span = period(UNTIL - timedelta(days=days), UNTIL)
    found = Tally()
    for _ in range(launches):
        step = int(span.count * dice.random())
        state = "FIZZLED" if dice.random() < 0.06 else "COMPLETED"
        found.ended[step, state] += 1
        found.started[step] += 1
        found.left[step] += 1
        found.stopped[step] += 1
        found.reserved[max(0, step - dice.randrange(2))] += 1
        for counts, middle, width in (
            (found.waits, 6, 2),
            (found.runs, 7.5, 1),
            (found.delays, 0.3, 0.5),
        ):
            seconds = math.exp(dice.gauss(middle, width))
            counts[max(edge for edge in EDGES if edge <= seconds)] += 1
    found.now.update(RESERVED=17, RUNNING=8)
    found.fireworks.update(COMPLETED=launches, RUNNING=8, RESERVED=17, WAITING=240, FIZZLED=61)
    found.recovered = found.sampled = launches
    found.taken_back = 3
    fizzled = sum(n for (_step, state), n in found.ended.items() if state == "FIZZLED")
    found.failures.update(_failures(fizzled))
    return span, found


def _failures(count: int) -> dict[Failure, int]:
    kinds = [
        Failure("TIMEOUT", "relax: step 1", lost=True, exit_code="0", signal="9"),
        Failure("OUT_OF_MEMORY", "static", lost=True, exit_code="0", signal="125"),
        Failure(
            "FileNotFoundError: [Errno 2] No such file or directory: '/scratch/me/x/block_1/POSCAR'",
            "relax: step 2",
        ),
        Failure("RuntimeError: ScriptTask failed! Return code: [1]", "analysis"),
        Failure("", "band structure"),
        Failure(f"ValueError: {HOSTILE}", HOSTILE),
    ]
    return {kind: max(1, count // 2 ** (n + 1)) for n, kind in enumerate(kinds)}


def sample(days: float = 30, launches: int = 3000) -> dict[str, Any]:
    """Return the figures of such counts."""
    span, found = tally_of(days, launches)
    return figures(span, found, worker="perlmutter", where="db.example.org:27017/fireworks")
