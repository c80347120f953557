"""Commands that show, and those about launch directories: status, runs, explain, doctor, dirs, register, unregister."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli import ConfigOption, JsonOption, chosen, flat, fw_ids, states_like, storable

if TYPE_CHECKING:
    from agent.config import Config
    from fwcore.launchpad import LaunchPad

_SEE, _DIRS = "See", "Launch directories"
#: Directories that are shown to people.
_SHOWN = 20
#: Seconds between two looks of `status --watch`.
_EVERY = 2.0
#: Columns; where a terminal has fewer, it breaks the lines itself.
_NARROWEST = 60
_Directories = Annotated[
    list[Path],
    typer.Argument(metavar="DIR...", help="Launch directories, or a directory of blocks."),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel=_SEE)(status)
    app.command(rich_help_panel=_SEE)(runs)
    app.command(rich_help_panel=_SEE)(doctor)
    app.command(rich_help_panel=_SEE)(explain)
    app.command(rich_help_panel=_DIRS)(dirs)
    app.command(rich_help_panel=_DIRS)(register)
    app.command(rich_help_panel=_DIRS)(unregister)


def status(
    ctx: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on, every 2 s, until Ctrl-C.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the agent, the database, the launches and what waits to be brought back.

    Works when the agent is down, and when the database is (exit status 4).
    """
    from agent.config import load_config
    from agent.results import OK, UNREACHABLE
    from agent.status import collect, lines

    settings = load_config(chosen(ctx, config))
    if watch:
        _watch(
            lambda: json.dumps(collect(settings)) if as_json else lines(collect(settings), _width())
        )
        return
    document = collect(settings)
    typer.echo(json.dumps(document) if as_json else "\n".join(lines(document, _width())))
    raise typer.Exit(OK if document["database"]["reachable"] else UNREACHABLE)


def _width() -> int:
    """Return how wide the status may be where it is shown."""
    from agent.status import WIDTH

    if not sys.stdout.isatty():
        return WIDTH
    return max(_NARROWEST, min(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns))


def _watch(look: Callable[[], str | list[str]]) -> None:
    """Show what a look finds, again and again; as JSON, an object a line."""
    import signal
    from threading import Event

    from rich.live import Live
    from rich.text import Text

    # An exception from a signal may come where a library swallows it.
    end = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: end.set())
    with Live(auto_refresh=False) as screen:
        while not end.is_set():
            found = look()
            if isinstance(found, str):
                typer.echo(found)
            elif not screen.console.is_terminal:
                typer.echo("\n".join([*found, ""]))  # Live would say nothing until the end
            else:
                screen.update(Text("\n".join(found)), refresh=True)
            end.wait(_EVERY)


def runs(
    ctx: typer.Context,
    fw_id: Annotated[
        list[int] | None,
        typer.Option(
            "--fw-id",
            "-i",
            metavar="FW_ID",
            parser=fw_ids,
            callback=flat,
            help="Of this Firework; may be repeated, or several with commas.",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", "-n", metavar="NAME", help="Of Fireworks of this name.")
    ] = "",
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            "-s",
            metavar="STATE",
            autocompletion=states_like,
            help="In this state; may be repeated.",
        ),
    ] = None,
    since: Annotated[
        str, typer.Option(metavar="WHEN", help="With news since: 30m, 2h, 7d, or a date.")
    ] = "",
    limit: Annotated[
        int, typer.Option("--limit", "-l", metavar="N", min=1, max=10**6, help="At most so many.")
    ] = 20,
    any_worker: Annotated[
        bool, typer.Option("--any-worker", help="Of all workers, not only of this one.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List launches, the newest first; of running ones what their jobs told last."""
    from agent.cli.change import known_state
    from agent.cli.show import print_table
    from agent.runs import TITLES, cells, moment, rows
    from fwrunner.protocol import utcnow

    begin = moment(since, utcnow()) if since else None
    if since and begin is None:
        raise typer.BadParameter(f"--since {since}: write 30m, 2h, 7d or 2026-01-31T12:00")
    states = [known_state(each) for each in state or ()]
    with _opened(ctx, config) as (settings, launchpad):
        worker = settings.fworker().name
        found = launchpad.runs(
            None if any_worker else worker,
            limit,
            fw_ids=fw_id or None,
            name=name,
            states=states,
            since=begin,
        )
    listed = rows(found, worker)
    if as_json:
        typer.echo(json.dumps({"runs": listed}))
    elif listed:
        print_table(list(TITLES), [cells(row, utcnow()) for row in listed])
    else:
        typer.echo("no launch is selected")


def doctor(
    ctx: typer.Context,
    job: Annotated[
        bool, typer.Option("--job", help="Send a small job through the queue, too.")
    ] = False,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="How long to wait for that job.")
    ] = 300,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check everything that must be right, and say what to do where it is not.

    With --job a job goes through the queue and back, as every job does, and tells of the compute node: its Python,
    fwrunner there, the launch root, clocks, how soon its report is seen. It is cancelled after --wait seconds. Exit
    status 1 if a check fails; warnings do not count. Nothing is changed.
    """
    from agent.config import config_path, load_config
    from agent.doctor import document, examine, lines
    from agent.results import FAILED, OK
    from agent.trialjob import checks as tried

    path = config_path(chosen(ctx, config))
    checks = []
    settings = load_config(path)
    more = tried(settings, wait, partial(typer.echo, err=True)) if job else ()
    for check in chain(examine(settings, path), more):
        checks.append(check)
        if not as_json:
            typer.echo("\n".join(lines(check)))
    found = document(checks)
    if as_json:
        typer.echo(json.dumps(found))
    raise typer.Exit(FAILED if found["verdict"] == "fail" else OK)


def explain(
    ctx: typer.Context,
    fw_id: Annotated[
        int, typer.Argument(metavar="FW_ID", callback=storable, help="Of this Firework.")
    ],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell why a Firework is where it is: its parents, database, queue and files, and what to do next.

    Changes nothing. Exit status 1 if there is no such Firework.
    """
    from agent.config import load_config
    from agent.evidence import gather
    from agent.explain import explain as explained
    from agent.explain import lines
    from agent.results import FAILED, OK

    document = explained(gather(load_config(chosen(ctx, config)), fw_id))
    typer.echo(json.dumps(document) if as_json else "\n".join(lines(document)))
    raise typer.Exit(FAILED if document["state"] is None else OK)


def dirs(ctx: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the launch directories that the agent looks at, and where it knows them from."""
    from agent.cli.show import print_table

    with _opened(ctx, config) as (settings, launchpad):
        rows = _directories(settings, launchpad)
    if as_json:
        typer.echo(json.dumps({"dirs": rows}))
    elif rows:
        titles = ["launch_id", "fw_id", "state", "source", "launch_dir"]
        print_table(titles, [[row[title] for title in titles] for row in rows])
    else:
        typer.echo("no launch directory may still tell anything")


def register(
    ctx: typer.Context,
    directories: _Directories,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have the agent look into launch directories that are not where the database says.

    Of a directory of blocks, into all that are below it. Those that `lpad`, `qlaunch` or fwagent made are found
    without it, and so are those that were moved below the launch root.
    """
    from agent.directories import check, launch_dirs
    from agent.results import FAILED

    registered: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    with _opened(ctx, config) as (settings, launchpad), _progress(as_json) as listed:
        worker, size = settings.fworker().name, settings.sync.max_report_size
        for directory in directories:
            top = directory.absolute()
            places = list(launch_dirs(top, told=listed)) or [str(top)]
            found = list(check(launchpad, worker, places, size))
            good = {each.launch_id: each.launch_dir for each in found if not each.reason}
            launchpad.register_all(worker, good)
            for each in found:
                if each.reason:
                    refused.append({"launch_dir": each.launch_dir, "reason": each.reason})
                elif good[each.launch_id] != each.launch_dir:
                    reason = f"launch {each.launch_id} is in {good[each.launch_id]} too"
                    refused.append({"launch_dir": each.launch_dir, "reason": reason})
            registered += [{"launch_id": key, "launch_dir": place} for key, place in good.items()]
    if as_json:
        typer.echo(json.dumps({"registered": registered, "refused": refused}))
    else:
        _tell_registered(registered, refused)
    raise typer.Exit(FAILED if refused else 0)


def _tell_registered(registered: list[dict[str, Any]], refused: list[dict[str, Any]]) -> None:
    for entry in registered[:_SHOWN]:
        typer.echo(f"registered launch {entry['launch_id']}: {entry['launch_dir']}")
    if len(registered) > _SHOWN:
        typer.echo(f"... and {len(registered) - _SHOWN} more (`fwagent dirs` lists them)")
    for entry in refused[:_SHOWN]:
        typer.echo(f"refused {entry['launch_dir']}: {entry['reason']}", err=True)
    if len(refused) > _SHOWN:
        typer.echo(f"... and {len(refused) - _SHOWN} more (--json shows all)", err=True)


@contextmanager
def _progress(as_json: bool) -> Iterator[Callable[[int], None]]:
    """Show how many directories were listed, on a terminal."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:,.0f} directories"),
        TimeElapsedColumn(),
    )
    quiet = as_json or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task("", total=None)
        yield lambda listed: progress.update(task, completed=listed)


def unregister(
    ctx: typer.Context,
    directories: _Directories,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Undo `register`. Launches known from the database are looked for where it says."""
    from agent.results import FAILED, OK

    places = [str(directory.absolute()) for directory in directories]
    with _opened(ctx, config) as (settings, launchpad):
        found = launchpad.unregister(settings.fworker().name, places)
    unknown = [place for place in places if place not in found]
    if as_json:
        typer.echo(json.dumps({"unregistered": found, "unknown": unknown}))
    else:
        for place in found:
            typer.echo(f"unregistered {place}")
        for place in unknown:
            typer.echo(f"was not registered: {place}", err=True)
    raise typer.Exit(FAILED if unknown else OK)


@contextmanager
def _opened(ctx: typer.Context, config: Path | None) -> Iterator[tuple[Config, LaunchPad]]:
    from agent.config import load_config

    settings = load_config(chosen(ctx, config))
    launchpad = settings.connect()
    try:
        yield settings, launchpad
    finally:
        launchpad.close()


def _directories(settings: Config, launchpad: LaunchPad) -> list[dict[str, Any]]:
    worker = settings.fworker().name
    registered = launchpad.registered(worker)
    launches = {launch.launch_id: launch for launch in launchpad.open_launches(worker)}
    launches |= {launch.launch_id: launch for launch in launchpad.find_launches(registered)}
    return [
        {
            "launch_id": launch_id,
            "fw_id": launch.fw_id,
            "state": launch.state,
            "source": "registered" if launch_id in registered else "database",
            "launch_dir": registered.get(launch_id, launch.launch_dir),
        }
        for launch_id, launch in sorted(launches.items())
    ]
