"""Commands that show, and those about launch directories: status, explain, dirs, register, unregister."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli import ConfigOption, JsonOption, chosen

if TYPE_CHECKING:
    from agent.config import Config
    from fwcore.launchpad import LaunchPad

_SEE, _DIRS = "See", "Launch directories"
_Directories = Annotated[
    list[Path],
    typer.Argument(metavar="DIR...", help="Launch directories, with an FW_offline.json."),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel=_SEE)(status)
    app.command(rich_help_panel=_SEE)(explain)
    app.command(rich_help_panel=_DIRS)(dirs)
    app.command(rich_help_panel=_DIRS)(register)
    app.command(rich_help_panel=_DIRS)(unregister)


def status(ctx: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the agent, the database, the launches and what waits to be brought back.

    Works when the agent is down, and when the database is (exit status 4).
    """
    from agent.config import load_config
    from agent.results import OK, UNREACHABLE
    from agent.status import collect, lines

    document = collect(load_config(chosen(ctx, config)))
    typer.echo(json.dumps(document) if as_json else "\n".join(lines(document)))
    raise typer.Exit(OK if document["database"]["reachable"] else UNREACHABLE)


def explain(
    ctx: typer.Context,
    fw_id: Annotated[int, typer.Argument(metavar="FW_ID")],
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

    Those that `lpad`, `qlaunch` or fwagent made are found without it.
    """
    from agent.results import FAILED, OK

    registered: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    with _opened(ctx, config) as (settings, launchpad):
        for directory in directories:
            place = str(directory.absolute())
            launch_id, reason = _check_directory(settings, launchpad, place)
            if reason:
                refused.append({"launch_dir": place, "reason": reason})
                continue
            launchpad.register(settings.fworker().name, launch_id, place)
            registered.append({"launch_id": launch_id, "launch_dir": place})
    if as_json:
        typer.echo(json.dumps({"registered": registered, "refused": refused}))
    else:
        for entry in registered:
            typer.echo(f"registered launch {entry['launch_id']}: {entry['launch_dir']}")
        for entry in refused:
            typer.echo(f"refused {entry['launch_dir']}: {entry['reason']}", err=True)
    raise typer.Exit(FAILED if refused else OK)


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


def _check_directory(settings: Config, launchpad: LaunchPad, place: str) -> tuple[int, str]:
    """Return (launch_id, why it cannot be registered or "")."""
    from fwrunner.protocol import OFFLINE_JSON, Unreadable, read_json

    try:
        launch_id = read_json(str(Path(place) / OFFLINE_JSON)).get("launch_id")
    except (FileNotFoundError, Unreadable) as error:
        return 0, f"{error}; a launch directory has an {OFFLINE_JSON}"
    if not isinstance(launch_id, int):
        return 0, f"its {OFFLINE_JSON} names no launch_id"
    known = launchpad.find_launches([launch_id])
    if not known:
        return 0, f"launch {launch_id} is not in the database {launchpad.where}"
    worker = settings.fworker().name
    if known[0].worker != worker:
        return (
            0,
            f"launch {launch_id} is of worker {known[0].worker!r}, this configuration of {worker!r}",
        )
    return launch_id, ""
