"""The command that makes a page of figures: report."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli import ConfigOption, JsonOption, chosen

if TYPE_CHECKING:
    from fwcore.launchpad import LaunchPad
    from fwcore.tally import Period, Tally

_PAGE = Path("fwagent-report.html")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="See")(report)


def report(
    ctx: typer.Context,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            dir_okay=False,
            help=f"Where the page goes; default: {_PAGE}, with --json nowhere.",
        ),
    ] = None,
    since: Annotated[
        str, typer.Option(metavar="WHEN", help="From when on: 12h, 30d, 52w, or a date.")
    ] = "30d",
    any_worker: Annotated[
        bool, typer.Option("--any-worker", help="Of all workers, not only of this one.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make one HTML page of throughput, latency, queue waiting and run times, and failures by reason.

    The page needs no server and loads nothing: open it in a browser, or mail it. The figures come from the
    database; the server counts, so that millions of launches are no burden for this host. Nothing is changed.
    """
    from agent.config import load_config
    from agent.report.figures import figures
    from agent.report.page import page
    from agent.runs import moment
    from fwcore.tally import period
    from fwrunner.protocol import utcnow

    now = utcnow()
    begin = moment(since, now)
    if begin is None or begin >= now:
        raise typer.BadParameter(f"--since {since}: write 12h, 30d, 52w or 2026-01-31")
    settings = load_config(chosen(ctx, config))
    worker = None if any_worker else settings.fworker().name
    span = period(begin, now)
    launchpad = settings.connect()
    try:
        launchpad.check()
        found = _counted(launchpad, span, worker, quiet=as_json)
    finally:
        launchpad.close()
    document = figures(span, found, worker=worker, where=launchpad.where)
    if as_json:
        typer.echo(json.dumps(document))
    if output is not None or not as_json:
        _write(output or _PAGE, page(document))
        typer.echo(f"wrote {output or _PAGE}", err=as_json)


def _counted(launchpad: LaunchPad, span: Period, worker: str | None, *, quiet: bool) -> Tally:
    """Return what is counted; tell how far it is, on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from fwcore.tally import Tally

    found = Tally()
    silent = quiet or not sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=silent) as progress:
        task = progress.add_task("counting", total=1.0)
        for done, found in launchpad.tally(span, worker):  # noqa: B007 - it grows, and the last one is whole
            progress.update(task, completed=done)
    return found


def _write(path: Path, text: str) -> None:
    from fwcore.errors import FwagentError

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise FwagentError(
            f"{path} cannot be written: {error.strerror}", "name another one: -o FILE"
        ) from None
