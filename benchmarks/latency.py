"""From the final report to the child that is READY, and to the child that is staged.

    .venv/bin/python -m benchmarks.latency [--samples 40] [--open 1000] [--svg latency.svg] [--modes events,outbox,...]
        [--fuse LOGIN COMPUTE]

``events``: a local file system. ``outbox``: without events, listed every second. ``sweeps``: what `rlaunch` writes,
without events, at the default intervals (minutes). ``fuse``: two mounts of one directory with an attribute cache, the
jobs write through the other. ``cron`` is not run but computed: the wait for a minute of the clock, evenly from 0 to
60 s, and the time that one `lpad recover_offline` takes here (--recover SECONDS, from benchmarks/recover.py).
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from xml.sax.saxutils import escape

from benchmarks.crowd import Crowd, crowd

#: What is not measured must not fire.
DAY = 86400
MODES = {
    "events": {"outbox_interval": DAY, "sweep_interval": DAY, "reserve_interval": DAY},
    "outbox": {
        "events": False,
        "outbox_interval": 1,
        "sweep_interval": DAY,
        "reserve_interval": DAY,
    },
    "sweeps": {
        "events": False,
        "outbox_interval": 1,
        "sweep_interval": 30,
        "reserve_interval": DAY,
    },
    "fuse": {"outbox_interval": 1, "sweep_interval": DAY, "reserve_interval": DAY},
}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555")
Samples = dict[str, list[float]]


def measured(
    here: Crowd, mode: str, samples: int, open_launches: int, dice: random.Random
) -> Samples:
    """Return seconds: {"ready": [...], "staged": [...]}."""
    here.claim(open_launches, children=False)
    claims = here.claim(samples, children=True)
    children = {claim.launch_id: claim.fw_id + len(claims) for claim in claims}
    found: Samples = {"ready": [], "staged": []}
    with here.site.daemon():
        here.site.await_first_pass()
        groups = [claims] if mode == "sweeps" else [[claim] for claim in claims]
        for group in groups:
            time.sleep(dice.random() * (1.0 if mode != "events" else 0.05))
            _follow(here, {children[claim.launch_id]: claim for claim in group}, mode, found, dice)
    return found


def _follow(
    here: Crowd, wanted: dict[int, object], mode: str, found: Samples, dice: random.Random
) -> None:
    """Report, each at its time, and look what becomes of the children until all are staged."""
    start = time.monotonic()
    length = 60.0 if mode == "sweeps" else 0.0
    due = {fw_id: start + dice.random() * length for fw_id in wanted}
    told: dict[int, float] = {}
    ready: set[int] = set()
    staged: set[int] = set()
    while len(staged) < len(wanted):
        now = time.monotonic()
        for fw_id, when in due.items():
            if fw_id not in told and when <= now:
                told[fw_id] = time.monotonic()
                here.report(wanted[fw_id], outbox=mode != "sweeps")  # type: ignore[arg-type]
        waiting = list(told.keys() - staged)
        for firework in here.store.db.fireworks.find({"fw_id": {"$in": waiting}}):
            now, fw_id = time.monotonic(), firework["fw_id"]
            if firework["state"] != "WAITING" and fw_id not in ready:
                ready.add(fw_id)
                found["ready"].append(now - told[fw_id])
            if firework["launches"] and _is_staged(here, firework["launches"][0]):
                staged.add(fw_id)
                found["staged"].append(time.monotonic() - told[fw_id])
        assert now - start < length + 300, "the children are not staged"
        time.sleep(0.002 if length == 0 else 0.02)


def _is_staged(here: Crowd, launch_id: int) -> bool:
    launch = here.store.db.launches.find_one({"launch_id": launch_id}, {"launch_dir": 1})
    return bool(launch and Path(launch["launch_dir"], "FW_offline.json").exists())


def cron(samples: int, seconds: float) -> Samples:
    """What `lpad recover_offline` from cron at every minute would take."""
    waits = [60 * (n + 0.5) / samples + seconds for n in range(samples)]
    return {"ready": waits, "staged": [wait + seconds for wait in waits]}


def line(title: str, values: list[float]) -> str:
    values = sorted(values)
    at = [values[min(len(values) - 1, int(len(values) * share))] for share in (0.5, 0.95)]
    return f"{title:34}{at[0] * 1000:10.0f}{at[1] * 1000:10.0f}{values[-1] * 1000:10.0f}"


def svg(curves: dict[str, list[float]]) -> str:
    """Return a plot of the shares of reports that were brought back in time, over a logarithmic axis."""
    import math

    left, top, width, height = 60, 20, 640, 320
    low, high = math.log10(0.005), math.log10(200)

    def at(seconds: float, share: float) -> str:
        x = left + width * (math.log10(max(seconds, 0.005)) - low) / (high - low)
        return f"{x:.1f},{top + height * (1 - share):.1f}"

    box = f"0 0 {left + width + 20} {top + height + 60}"
    font = 'font-family="sans-serif" font-size="12"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" {font}>']
    frame = f'x="{left}" y="{top}" width="{width}" height="{height}"'
    parts.append(f'<rect {frame} fill="none" stroke="#999"/>')
    for seconds in (0.01, 0.1, 1, 10, 100):
        x, y = at(seconds, 0).split(",")
        parts.append(f'<path d="M{x},{y} V{top}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{x}" y="{top + height + 18}" text-anchor="middle">{seconds:g} s</text>'
        )
    for number, (title, values) in enumerate(curves.items()):
        ordered, color = sorted(values), COLORS[number % len(COLORS)]
        points = " ".join(at(value, (n + 1) / len(ordered)) for n, value in enumerate(ordered))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        begin = left + 10 + 125 * number
        parts.append(
            f'<text x="{begin}" y="{top + height + 44}" fill="{color}">{escape(title)}</text>'
        )
    label = "share of final reports whose child is staged"
    parts.append(
        f'<text transform="translate(20 {top + height // 2}) rotate(-90)" text-anchor="middle">{label}</text>'
    )
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--samples", type=int, default=40)
    options.add_argument(
        "--open", type=int, default=1000, help="other launches that run and say nothing"
    )
    options.add_argument("--modes", default="events,outbox,sweeps,cron")
    options.add_argument("--fuse", nargs=2, type=Path, metavar=("LOGIN", "COMPUTE"))
    options.add_argument(
        "--recover", type=float, default=0.0, help="seconds of one lpad recover_offline"
    )
    options.add_argument("--svg", type=Path)
    given = options.parse_args()
    dice = random.Random(1)
    curves: dict[str, list[float]] = {}
    print(
        f"{given.open} launches open, {given.samples} samples; ms{'':10}{'p50':>10}{'p95':>10}{'max':>10}",
        flush=True,
    )
    modes = dict.fromkeys([*given.modes.split(","), *(["fuse"] if given.fuse else [])])
    for mode in modes:
        if mode == "cron":
            found = cron(given.samples, given.recover)
        else:
            name = f"r{time.time_ns()}"
            near, far = (place / name for place in given.fuse) if mode == "fuse" else (None, None)
            with crowd(near, far, **MODES[mode]) as here:
                found = measured(here, mode, given.samples, given.open, dice)
        print(line(f"{mode}: child READY", found["ready"]), flush=True)
        print(line(f"{mode}: child staged", found["staged"]), flush=True)
        curves[mode] = found["staged"]
    if given.svg:
        given.svg.write_text(svg(curves), encoding="utf-8")


if __name__ == "__main__":
    main()
