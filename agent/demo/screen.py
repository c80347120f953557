"""What the demo shows: one screen that changes on a terminal, a line for every change elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

WIDTH = 100
_STYLES = {
    "WAITING": "dim",
    "READY": "blue",
    "RESERVED": "yellow",
    "RUNNING": "bold cyan",
    "COMPLETED": "green",
    "FIZZLED": "bold red",
}


class AgentLog:
    """The agent's log as it grows, and the latencies in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.last = ""
        #: {fw_id: seconds from the final report's writing to its being committed}.
        self.latencies: dict[int, float] = {}
        #: The Fireworks that were made READY, in order, each with the reports of that pass before it.
        self.released: dict[int, list[int]] = {}
        self._reported: list[int] = []

    def read(self) -> None:
        """Read on."""
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            text = stream.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self._take(line)

    def tail(self, count: int = 5) -> str:
        """Return the last lines, as they are."""
        lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-count:]) or "(it is empty)"

    def releasing(self, links: Mapping[int, list[int]]) -> list[int]:
        """Return the Fireworks whose report made children READY: of several parents, the last."""
        parents = {
            max(
                (parent for parent, children in links.items() if child in children),
                key=lambda parent: reported.index(parent) if parent in reported else -1,
            )
            for child, reported in self.released.items()
        }
        return [fw_id for fw_id in self.latencies if fw_id in parents]

    def _take(self, line: str) -> None:
        try:
            entry: dict[str, Any] = json.loads(line)
            event, stamp = entry["event"], entry["timestamp"]
        except (ValueError, KeyError, TypeError):
            self.last = line
            return
        if entry.get("latency") is not None and "fw_id" in entry:
            self.latencies[entry["fw_id"]] = entry["latency"]
            self._reported.append(entry["fw_id"])
        for fw_id in entry.get("fw_ids", []):
            self.released[fw_id] = list(self._reported)
        skipped = ("event", "timestamp", "level")
        rest = [f"{key}={_short(value)}" for key, value in entry.items() if key not in skipped]
        self.last = f"{stamp[11:23]} {event} {' '.join(rest)}"


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


class Screen:
    """The terminal, or what stands in for it."""

    def __init__(self, names: Mapping[int, str], expected: Mapping[int, str]) -> None:
        self._console = Console(highlight=False)
        self._console.width = min(self._console.width, WIDTH) if self._live_possible else WIDTH
        self._names = names
        self._expected = expected
        self._live: Live | None = None
        self._shown: dict[int, str] = {}
        self._began = time.monotonic()

    @property
    def _live_possible(self) -> bool:
        return self._console.is_terminal

    def say(self, text: str, style: str = "") -> None:
        """Print text; it is not wrapped, so that commands and paths can be copied."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show what `update` gets, until the end of the block."""
        if not self._live_possible:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as self._live:
            yield

    def update(self, states: Mapping[int, str], log: AgentLog) -> None:
        """Show the states of all Fireworks."""
        if states == self._shown and not self._live:
            return
        if self._live:
            self._live.update(self._picture(states, log), refresh=True)
        else:
            before = self._shown or dict.fromkeys(states, "WAITING")
            for fw_id, state in states.items():
                if before.get(fw_id) != state:
                    name = self._names[fw_id]
                    self.say(f"{self._seconds:5.1f} s  Firework {fw_id:2d}  {name:27s}  {state}")
        self._shown = dict(states)

    def show_result(self, states: Mapping[int, str], log: AgentLog) -> None:
        """Print the table that stays."""
        self._console.print(self._table(states, log))

    def say_latency(self, what: str, latencies: list[float]) -> None:
        """Print median and maximum."""
        if latencies:
            middle, worst = 1000 * median(latencies), 1000 * max(latencies)
            self.say(
                f"{what}  median {middle:4.0f} ms   max {worst:4.0f} ms   n = {len(latencies)}"
            )

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _picture(self, states: Mapping[int, str], log: AgentLog) -> Group:
        done = sum(states.get(fw_id) == state for fw_id, state in self._expected.items())
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(len(self._expected), done, width=40),
            f"{done} of {len(self._expected)} Fireworks as they are to end   {self._seconds:4.1f} s",
        )
        last = Text(f"agent: {log.last}", style="dim", no_wrap=True, overflow="ellipsis")
        return Group(self._table(states, log), bar, last)

    def _table(self, states: Mapping[int, str], log: AgentLog) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("fw_id", justify="right")
        table.add_column("Firework", width=27, no_wrap=True)
        table.add_column("state", width=9)
        table.add_column("report to database", justify="right")
        for fw_id, name in self._names.items():
            state = states.get(fw_id, "")
            delay = log.latencies.get(fw_id)
            shown = "" if delay is None else f"{1000 * delay:.0f} ms"
            table.add_row(str(fw_id), name, Text(state, style=_STYLES.get(state, "")), shown)
        return table
