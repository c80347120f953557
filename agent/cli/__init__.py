"""The command ``fwagent``: thin typer commands; what they need is imported when they run."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from fwcore.errors import (
    DatabaseRefused,
    DatabaseUnreachable,
    FwagentError,
    InvalidFilter,
    InvalidSettings,
    InvalidWorkflow,
)

#: What writing to a full disk, or to one over its quota, ends with.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class _Group(TyperGroup):
    """Turns our errors into two lines for people and an exit status."""

    def invoke(self, ctx: Any) -> object:
        try:
            return super().invoke(ctx)
        except FwagentError as error:
            _tell(f"error: {error.title}")
            if error.hint:
                _tell(f"hint:  {error.hint}")
            sys.exit(exit_status(error))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands by what they are for; rich, which would do it, takes longer than all the rest."""
        panels: dict[str, list[str]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            panel = str(getattr(command, "rich_help_panel", None) or "Commands")
            text = command.get_short_help_str(limit=300) if command else ""
            first, *more = wrap(text, max(20, formatter.width - 16)) or [""]
            panels.setdefault(panel, []).append(f"  {name:<12}  {first}")
            panels[panel] += [f"{'':16}{line}" for line in more]
        for panel, lines in panels.items():
            formatter.write(f"\n{panel}:\n" + "\n".join(lines) + "\n")


def _tell(line: str) -> None:
    from agent.log import to_journal

    # As of a service that cannot begin: the journal is to know that it is an error.
    typer.echo(f"<3>{line}" if to_journal(os.environ) else line, err=True)


def exit_status(error: FwagentError) -> int:
    """Return 4 for a database that does not answer or refuses, 2 for what the user can mend, else 1."""
    from agent.config import ConfigError
    from agent.results import FAILED, UNREACHABLE, USAGE

    if isinstance(error, (DatabaseUnreachable, DatabaseRefused)):
        return UNREACHABLE
    for_the_user = (ConfigError, InvalidFilter, InvalidSettings, InvalidWorkflow)
    return USAGE if isinstance(error, for_the_user) else FAILED


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="PATH",
        help="Configuration file; default: $FWAGENT_CONFIG, else ~/.config/fwagent/config.toml.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")]

app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Makes FireWorks' offline mode run by itself: reserves jobs, submits them to the queue, and "
    "brings back what compute nodes wrote.\n\n"
    "Exit status: 0 done · 1 a part failed · 2 usage or configuration · 3 something was deferred and "
    "will be retried · 4 the database could not be reached.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"fwagent {version('fwagent')}")
        raise typer.Exit


@app.callback()
def _main(
    ctx: typer.Context,
    config: ConfigOption = None,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    ctx.obj = config


def fw_ids(text: str) -> list[int]:
    """Return the ids that a text names, as `lpad -i` takes them: one, or several with commas; raise BadParameter."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no number, nor several with commas between them"
        ) from None


def states_like(incomplete: str) -> list[str]:
    """Return the states of FireWorks that a shell may complete a word to."""
    from fwcore.states import RANKS

    return [state for state in RANKS if state.startswith(incomplete)]


def flat(found: list[list[int]] | None) -> list[int] | None:
    """Return the ids of all options together; raise BadParameter for one that no database can hold."""
    numbers = [number for each in found or () for number in each]
    storable(numbers)
    return numbers or None


def storable(number: int | list[int] | None) -> int | list[int] | None:
    """Return ids as they were given; raise BadParameter for one that no database can hold."""
    numbers = number if isinstance(number, list) else [number or 0]
    for each in numbers:
        if abs(each) >= 1 << 63:
            raise typer.BadParameter(f"{each} is larger than any number of a Firework")
    return number


def chosen(ctx: typer.Context, config: Path | None) -> Path | None:
    """Return the configuration given to the command, else the one given before it."""
    given: Path | None = config if config is not None else ctx.obj
    return given


@cache
def commands() -> typer.Typer:
    """Return the command line with all its commands."""
    from agent.cli import change, init, look, manual, mode, report, runner, service, work

    init.add_to(app)
    work.add_to(app)
    mode.add_to(app)
    look.add_to(app)
    report.add_to(app)
    change.add_to(app)
    runner.add_to(app)
    service.add_to(app)
    manual.add_to(app)
    return app


def main() -> None:
    """Run the command line."""
    # As the driver's, of an option in a URI that it does not know: people are to see what it says, not where.
    warnings.formatwarning = lambda message, *_where: f"warning: {message}\n"
    try:
        commands()()
    except SystemExit as end:
        _leave(end.code)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        with suppress(OSError):
            print(f"error: what is printed finds no room: {error.strerror}", file=sys.stderr)
        _leave(1)


def _leave(code: Any) -> NoReturn:
    """End at once: pymongo would wait half a second for threads that have nothing to do any more."""
    status = code if isinstance(code, int) else int(code is not None)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # as it is where the shell has closed it
                stream.flush()
        except OSError:  # nobody reads it any more
            status = status or 1
    os._exit(status)
