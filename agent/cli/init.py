"""The first command: init."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from agent.cli import ConfigOption, chosen


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
    import socket

    from agent import first
    from agent.config import ConfigError, config_path, parse_config

    path = config_path(chosen(ctx, config))
    if path.exists() and not (force or dry_run):
        raise ConfigError(f"{path} is there already", "keep it, or have it replaced: --force")
    found = first.find_fireworks(os.environ, Path.cwd())
    asked = not yes and not dry_run and sys.stdin.isatty()
    worker_file = None if worker else found.worker
    host = socket.gethostname().partition(".")[0]
    kind = queue or ("" if found.queue else first.scheduler())
    choices = first.Choices(
        launchpad=launchpad or (None if uri_file else found.launchpad),
        uri_file=uri_file.absolute() if uri_file else None,
        database=database,
        worker_file=worker_file,
        worker=worker or ("" if worker_file else _answer("Name of this worker", host, asked)),
        root=root or _answer("Launch directories below", first.usual_root(os.environ), asked),
        queue=kind,
        queue_file=found.queue if kind not in ("local", "none") else None,
    )
    first.check(choices)
    text = first.toml(choices)
    parse_config(text, path)
    if dry_run:
        typer.echo(f"# {path}\n{text}", nl=False)
        return
    first.write(path, text, force=force)
    typer.echo(f"wrote {path}\n{first.about_root(choices.root)}")
    typer.echo("next: fwagent doctor, then fwagent service install (or fwagent run)")


def _answer(question: str, default: str, asked: bool) -> str:
    return str(typer.prompt(question, default=default)) if asked else default
