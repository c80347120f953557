"""What commands print for people: plain lines, at most 100 columns, cut where there are too many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from agent.results import Entry, Result

_LINES = 20


def print_result(result: Result) -> None:
    """Print what a command did."""
    rows = {
        "applied": [
            f"launch {e['launch_id']} of Firework {e['fw_id']}: {e['state']}"
            for e in result.applied
        ],
        "released": [f"Firework {fw_id} is READY" for fw_id in sorted(result.released)],
        "claimed": [f"Firework {e['fw_id']}: {e['launch_dir']}" for e in result.claimed],
        "submitted": [f"Firework {e['fw_id']}: job {e['job_id']}" for e in result.submitted],
        "adopted": [_job(entry) for entry in result.adopted],
        "cancelled": [_job(entry) for entry in result.cancelled],
        "lost": [f"{_job(entry)} ({entry['state'] or 'left as it is'})" for entry in result.lost],
        "deferred": [_reason(entry) for entry in result.deferred],
        "ignored": [_reason(entry) for entry in result.ignored],
    }
    if not any(rows.values()):
        typer.echo("nothing to do")
    for title, lines in rows.items():
        _print_lines(title, lines)


def _print_lines(title: str, lines: list[str]) -> None:
    if not lines:
        return
    typer.echo(f"{title}: {len(lines)}")
    for line in lines[:_LINES]:
        typer.echo(f"  {line}")
    if len(lines) > _LINES:
        typer.echo(f"  ... and {len(lines) - _LINES} more (--json shows all)")


def _reason(entry: Entry) -> str:
    number = entry["launch_id"]
    return entry["reason"] if number is None else f"launch {number}: {entry['reason']}"


def _job(entry: Entry) -> str:
    return f"launch {entry['launch_id']} of Firework {entry['fw_id']}: {entry['reason']}"


def print_table(titles: list[str], rows: list[list[Any]]) -> None:
    """Print columns, as wide as their widest cell."""
    cells = [titles, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo(line.rstrip())
