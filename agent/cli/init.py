"""The first command: init."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli import ConfigOption, chosen

if TYPE_CHECKING:
    from agent.first import Choices


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Set up")(init)


def init(
    ctx: typer.Context,
    config: ConfigOption = None,
    launchpad: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A my_launchpad.yaml.")
    ] = None,
    uri_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead: a file with a MongoDB URI alone.")
    ] = None,
    database: Annotated[
        str, typer.Option(metavar="NAME", help="The database, with --uri-file.")
    ] = "fireworks",
    worker: Annotated[
        str, typer.Option(metavar="NAME", help="The worker, where there is no my_fworker.yaml.")
    ] = "",
    root: Annotated[
        str, typer.Option(metavar="DIR", help="Where launch directories are made.")
    ] = "",
    queue: Annotated[
        str, typer.Option(metavar="TYPE", help="slurm, pbs, sge, lsf, local or none.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing one.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, and write nothing.")] = False,
) -> None:
    """Write a configuration: from FireWorks' own files, where FireWorks finds them, and from what this host has.

    It points at my_launchpad.yaml, my_fworker.yaml and my_qadapter.yaml, detects the scheduler, and asks only
    what it cannot find out (nothing with --yes).
    """
    from agent import first
    from agent.config import ConfigError, config_path, parse_config

    path = config_path(chosen(ctx, config))
    if path.exists() and not (force or dry_run):
        raise ConfigError(f"{path} is there already", "keep it, or have it replaced: --force")
    ask = _asked if not (yes or dry_run) and sys.stdin.isatty() else _unasked
    choices = _choices(launchpad, uri_file, database, worker, root, queue, ask)
    first.check(choices)
    text = first.toml(choices)
    parse_config(text, path)
    if dry_run:
        typer.echo(f"# {path}\n{text}", nl=False)
        return
    first.write(path, text, force=force)
    for warning in first.warnings(choices, os.environ):
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"wrote {path}\n{first.about_root(choices.root)}")
    typer.echo("next: fwagent doctor --job, then fwagent service install (or fwagent run)")


def _choices(
    launchpad: Path | None,
    uri_file: Path | None,
    database: str,
    worker: str,
    root: str,
    queue: str,
    ask: Callable[[str, str], str],
) -> Choices:
    """Return what was given, else what FireWorks' files and this host tell, else what ``ask`` answers."""
    import socket

    from agent import first

    found = first.find_fireworks(os.environ, Path.cwd())
    pad = launchpad or (None if uri_file else found.launchpad)
    if pad is None and uri_file is None:
        # First of all: the rest has defaults.
        pad, uri_file = first.database_in(
            ask("A my_launchpad.yaml, or a file with a MongoDB URI alone", "")
        )
    worker_file = None if worker else found.worker
    host = socket.gethostname().partition(".")[0]
    kind = queue or ("" if found.queue else first.scheduler())
    return first.Choices(
        launchpad=pad,
        uri_file=uri_file.absolute() if uri_file else None,
        database=database,
        worker_file=worker_file,
        worker=worker or ("" if worker_file else ask("Name of this worker", host)),
        root=root or ask("Launch directories below", first.usual_root(os.environ)),
        queue=kind,
        queue_file=found.queue if kind not in ("local", "none") else None,
    )


def _asked(question: str, default: str) -> str:
    return str(typer.prompt(question, default=default, show_default=bool(default)))


def _unasked(_question: str, default: str) -> str:
    return default
