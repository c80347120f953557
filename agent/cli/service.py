"""fwagent as a service: service install, uninstall, status, logs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli import ConfigOption, JsonOption, chosen

if TYPE_CHECKING:
    from agent.service import Service

service = typer.Typer(
    no_args_is_help=True,
    help="fwagent as a service of your own systemd: it starts with the login node and is restarted when it fails.",
    rich_markup_mode=None,
)

InstanceOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="One of several agents: fwagent@NAME, for ~/.config/fwagent/NAME.toml.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(service, name="service", rich_help_panel="Service")


@service.command()
def install(
    ctx: typer.Context,
    config: ConfigOption = None,
    instance: InstanceOption = "",
    credential: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file (0600) with the database's URI, for systemd."),
    ] = None,
    here_only: Annotated[
        bool, typer.Option("--here-only", help="Start on this login node and on no other.")
    ] = False,
    start: Annotated[bool, typer.Option(help="Start it now.")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the files, and change nothing.")
    ] = False,
) -> None:
    """Write the unit files, enable the service and start it. It may be repeated, to take over changes.

    What the agent needs of this shell's environment (PATH, the variables that the configuration names) is kept with
    it: repeat `install` when it changes.
    """
    from agent import service as services

    one = _service(instance)
    path = _configuration(chosen(ctx, config), instance)
    found = _files(one, path, credential, here_only=here_only)
    if dry_run:
        for name, text in found.items():
            typer.echo(f"--- {services.unit_directory(os.environ) / name}\n{text}")
        return
    services.check_manager()
    for written in services.write(found, os.environ):
        typer.echo(f"wrote {written}")
    services.systemctl("daemon-reload")
    services.systemctl("enable", one.unit)
    _linger()
    if start:
        # It is ready only when it has looked at everything; while the database is away that takes long.
        services.systemctl("restart", "--no-block", one.unit)
        which = f" --instance {instance}" if instance else ""
        typer.echo(
            f"{one.unit} is starting: fwagent service status{which}, fwagent service logs{which}"
        )


def _configuration(given: Path | None, instance: str) -> Path:
    from agent.config import config_path

    if given is None and instance:
        given = Path(f"~/.config/fwagent/{instance}.toml")
    return Path(os.path.abspath(config_path(given)))  # noqa: PTH100 - a link may be the only lasting name


def _files(one: Service, path: Path, credential: Path | None, *, here_only: bool) -> dict[str, str]:
    """Return {path below the unit directory: text}; raise ServiceError for a credential that is not there."""
    import socket

    from agent import service as services
    from agent.config import load_config, refuse_readable

    secret = credential.expanduser().absolute() if credential else None
    if secret is not None and not secret.is_file():
        raise services.ServiceError(f"there is no file {secret}", "give the one with the URI")
    if secret is not None:
        refuse_readable(secret)
    host = socket.gethostname() if here_only else ""
    return services.files(one, load_config(path), path, os.environ, credential=secret, host=host)


def _linger() -> None:
    from agent import service as services

    if not services.lingers():
        typer.echo(
            "warning: this host does not let your services go on after you log out; "
            "ask for `loginctl enable-linger`, or keep a session open",
            err=True,
        )


@service.command()
def uninstall(instance: InstanceOption = "") -> None:
    """Stop the service and remove its unit files. Jobs, launch directories and the configuration stay."""
    from contextlib import suppress

    from agent import service as services

    one = _service(instance)
    services.check_manager()
    with suppress(services.ServiceError):
        services.systemctl("disable", "--now", one.unit, timeout=90)
    gone = services.remove(one, os.environ)
    services.systemctl("daemon-reload")
    for path in gone:
        typer.echo(f"removed {path}")
    if not gone:
        typer.echo(f"{one.unit} was not installed")


# Its own name would hide `fwagent status` in this package.
@service.command("status")
def service_status(instance: InstanceOption = "", as_json: JsonOption = False) -> None:
    """Show what systemd says of the service. Exit status 1 if it is not active."""
    from agent import service as services
    from agent.results import FAILED, OK

    services.check_manager()
    state = services.state(_service(instance))
    typer.echo(json.dumps(state) if as_json else "\n".join(_lines(state)))
    raise typer.Exit(OK if state["active"] == "active" else FAILED)


@service.command()
def logs(
    instance: InstanceOption = "",
    lines: Annotated[int, typer.Option("--lines", "-n", metavar="N", min=1, help="How many.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it is written.")] = False,
) -> None:
    """Show the newest lines of the service's log."""
    from agent import service as services

    words = services.log_command(_service(instance), lines, follow=follow)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        raise services.ServiceError(f"{words[0]} cannot be run: {error.strerror}") from None


def _service(instance: str) -> Service:
    from agent import service as services

    if instance and not instance.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise typer.BadParameter("letters, digits, '-', '_' and '.' only", param_hint="--instance")
    return services.Service(instance)


def _lines(state: dict[str, Any]) -> list[str]:
    instance = state["unit"].removesuffix(".service").partition("@")[2]
    which = f" --instance {instance}" if instance else ""
    if not state["installed"]:
        return [f"{state['unit']} is not installed: fwagent service install{which}"]
    since = f" since {state['since']}" if state["since"] else ""
    found = [
        f"service    {state['unit']}: {state['active']}{since}",
        f"enabled    {'yes' if state['enabled'] else 'no: it does not start by itself'}",
    ]
    if state["status"]:
        found.append(f"status     {state['status']}")
    if state["pid"]:
        found.append(f"process    {state['pid']}")
    if state["restarts"] or state["result"] not in ("", "success"):
        found.append(f"restarts   {state['restarts']}; last result: {state['result']}")
    if state["active"] == "failed":
        found.append(f"why        fwagent service logs{which}")
    return [line if len(line) <= 100 else line[:97] + "..." for line in found]
