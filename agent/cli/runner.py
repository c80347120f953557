"""Commands about fwrunner, which compute nodes need: runner export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from agent.cli import JsonOption

runner = typer.Typer(
    no_args_is_help=True,
    help="fwrunner, the part that compute nodes need.",
    rich_markup_mode=None,
)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(runner, name="runner", rich_help_panel="Compute nodes")


# Without it, typer would make a group of one command that command itself.
@runner.callback()
def _group() -> None:
    pass


@runner.command()
def export(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where to, say ~/fwrunner.pyz.")],
    as_json: JsonOption = False,
) -> None:
    """Write fwrunner into one file that any python3 >= 3.6 runs: `python3 fwrunner.pyz LAUNCH_DIR`.

    Put it where compute nodes see it, and name it in the configuration: queue.runner = "python3 PATH".
    """
    from agent.export import export as write

    size = write(path)
    if as_json:
        typer.echo(json.dumps({"path": str(path.absolute()), "size": size}))
    else:
        typer.echo(
            f'{path}: {size} bytes. For the job script: runner = "python3 {path.absolute()}"'
        )
