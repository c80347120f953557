"""Metrics for Prometheus: a file that node_exporter's textfile collector reads. No port is opened.

Counters start at 0 with the agent. All have the label ``worker``.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from agent import modes
from agent.health import Health
from agent.results import Result
from fwcore.documents import parse_time

#: Seconds: from 50 ms, a pass with little to do, to an hour, a report that waited for a database.
_LATENCIES = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_DURATIONS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
#: Seconds between two writes.
_INTERVAL = 10.0


class Metrics:
    """What one agent counts."""

    def __init__(self, worker: str, version: str) -> None:
        # fwagent_start_time_seconds tells it once.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self._worker = worker

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"fwagent_{name}", text, ["worker", *labels], registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"fwagent_{name}", text, ["worker", *labels], registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            labels = ["worker"]
            return Histogram(f"fwagent_{name}", text, labels, registry=registry, buckets=buckets)

        info = gauge("info", "Always 1; which fwagent this is", "version", "host")
        self._info = info, version
        self._started = gauge("start_time_seconds", "When the agent was started")
        self._last = gauge("last_pass_timestamp_seconds", "When the last good pass ended")
        self._serving = gauge("serving", "1 if it serves the worker, 0 if another agent does")
        self._mode = gauge("mode", "1 for what people have asked of it last", "mode")
        self._database = gauge("database_up", "1 if the database answered in the last pass")
        self._open = gauge("open_launches", "Launches that may still report")
        self._deferred = gauge("deferred", "Reports and Fireworks that wait for something")
        self._reports = gauge("backlog_reports", "Reports in the outbox, not in the database yet")
        self._oldest = gauge("backlog_oldest_seconds", "Age of the oldest of these; 0 without any")
        self._locks = gauge("locked_workflows", "Workflows locked by nobody who is known to live")
        self._passes = counter("passes", "Good passes")
        self._errors = counter("errors", "Faults of the agent's own, all of which are retried")
        self._applied = counter("reports_applied", "Reports brought back", "state")
        self._submitted = counter("jobs_submitted", "Jobs submitted")
        self._lost = counter("jobs_lost", "Jobs that ended without a report")
        self._took = histogram("pass_duration_seconds", "Duration of a pass", _DURATIONS)
        self._latency = histogram(
            "report_latency_seconds", "From a final report on disk to the database", _LATENCIES
        )
        self._counted = {self._passes: 0, self._errors: 0}
        self._due = 0.0

    def took(self, seconds: float) -> None:
        """Count the duration of a pass."""
        self._took.labels(self._worker).observe(seconds)

    def add(self, result: Result, latencies: dict[int, float]) -> None:
        """Count what a pass did; ``latencies`` of final reports in seconds, by launch."""
        for entry in result.applied:
            self._applied.labels(self._worker, str(entry["state"])).inc()
        self._submitted.labels(self._worker).inc(len(result.submitted))
        self._lost.labels(self._worker).inc(len(result.lost))
        for seconds in latencies.values():
            self._latency.labels(self._worker).observe(max(0.0, seconds))

    def write(
        self, path: Path, health: Health, waiting: dict[str, Any], now: float, *, last: bool = False
    ) -> str:
        """Write the file now and then, and at the ``last`` time; return "" or why it cannot be written.

        ``waiting`` is what ``agent.health.backlog`` tells, ``now`` in seconds.
        """
        if now < self._due and not last:
            return ""
        self._due = now + _INTERVAL
        self._look(health, waiting)
        try:
            _replace(path, generate_latest(self._registry))
        except OSError as error:
            return f"the metrics file cannot be written: {error.strerror}"
        return ""

    def _look(self, health: Health, waiting: dict[str, Any]) -> None:
        info, version = self._info
        info.labels(self._worker, version, health.host).set(1)
        for gauge, moment in ((self._started, health.started_on), (self._last, health.last_pass)):
            found = parse_time(moment)
            gauge.labels(self._worker).set(found.timestamp() if found else 0)
        asked = health.wish.get("mode", modes.RUN)
        for mode in modes.WORDS:
            self._mode.labels(self._worker, mode).set(mode == asked)
        for gauge, value in (
            (self._serving, health.mode == "serving"),
            (self._database, health.database_down_since is None),
            (self._open, health.open_launches),
            (self._deferred, health.deferred),
            (self._locks, len(health.locks)),
            (self._reports, waiting["reports"]),
            (self._oldest, waiting["oldest_seconds"] or 0),
        ):
            gauge.labels(self._worker).set(value)
        for counter, count in ((self._passes, health.passes), (self._errors, health.errors)):
            counter.labels(self._worker).inc(count - self._counted[counter])
            self._counted[counter] = count


def _replace(path: Path, text: bytes) -> None:
    # Without the suffix .prom a collector does not read it, half-written as it is. Another user's process reads the
    # whole one; it holds numbers.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{token_hex(4)}")
    try:
        with temporary.open("xb") as stream:
            os.fchmod(stream.fileno(), 0o644)
            stream.write(text)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
