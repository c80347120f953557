"""`fwagent runs`: launches, the newest first, with what the running ones told last."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from agent.printable import printable
from agent.running import TOLD, pings
from fwcore.documents import parse_time
from fwcore.launchpad.records import OpenLaunch, Run

TITLES = ("fw_id", "name", "state", "launch", "job", "started", "took", "last seen", "task", "MB")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NAME, _JOB = 24, 12


def moment(text: str, now: datetime) -> datetime | None:
    """Return a moment from an ISO 8601 text or a span before now (``30m``, ``2h``, ``7d``); None for another."""
    if span := _SPAN.fullmatch(text.strip()):
        try:
            return now - timedelta(seconds=float(span[1]) * _SECONDS[span[2]])
        except OverflowError:
            return None
    return parse_time(text)


def rows(runs: list[Run], worker: str) -> list[dict[str, Any]]:
    """Return the runs as JSON objects: the fields of ``Run`` and ``ping``, null but for running ones.

    Only the newest running launches' pings are read.
    """
    going = [
        OpenLaunch(run.launch_id, run.fw_id, run.launch_dir, run.state, worker) for run in runs
    ]
    told = {ping["launch_id"]: ping for ping in pings(going)}
    return [
        {**asdict(run), "ping": {key: told[run.launch_id][key] for key in TOLD}}
        if run.launch_id in told
        else {**asdict(run), "ping": None}
        for run in runs
    ]


def cells(row: dict[str, Any], now: datetime) -> list[str]:
    """Return a row of the table for people."""
    ping = row["ping"] or {}
    seen = ping.get("ping_time") or row["seen"]
    return [
        str(row["fw_id"]),
        _cut(row["name"], _NAME),
        row["state"],
        str(row["launch_id"]),
        _cut(row["job_id"] or "-", _JOB),
        _local(row["started"]),
        span(row["runtime"]),
        _ago(seen, now) if row["state"] == "RUNNING" else "-",
        "-" if ping.get("task") is None else f"{ping['task'] + 1:.0f}",
        "-" if ping.get("rss") is None else f"{ping['rss'] / 1e6:.0f}",
    ]


def _cut(text: str, width: int) -> str:
    plain = printable(text)
    return plain if len(plain) <= width else plain[: width - 1] + "…"


def _local(text: str | None) -> str:
    found = parse_time(text)
    return "-" if found is None else found.astimezone().strftime("%m-%d %H:%M")


def _ago(text: str | None, now: datetime) -> str:
    found = parse_time(text)
    return "-" if found is None else f"{span((now - found).total_seconds())} ago"


def span(seconds: float | None) -> str:
    """Return a span of time for people: ``45s``, ``3h``; ``-`` for None."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= 2 * size:
            return f"{whole / size:.0f}{unit}"
    return f"{whole}s"
