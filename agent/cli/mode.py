"""Commands for a running agent, wherever it runs: pause, drain, resume, stop."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli import ConfigOption, JsonOption, chosen

if TYPE_CHECKING:
    from agent.asking import Answer
    from fwcore.launchpad.records import Lease

_PANEL = "The daemon"
_Wait = Annotated[bool, typer.Option(help="Wait until the agent has answered.")]
_Seconds = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0, help="Wait so long at most.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (drain, pause, resume, stop):
        app.command(rich_help_panel=_PANEL)(command)


def drain(
    ctx: typer.Context,
    wait: _Wait = True,
    timeout: _Seconds = 60,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have the agent launch nothing more, and go on bringing back what jobs report.

    From any login node. It lasts until `fwagent resume`, also over restarts and for `fwagent sync`; jobs that are in
    the queue run. Exit status 3 if the agent has not answered in time: it will follow nevertheless.
    """
    _ask(ctx, "drain", wait, timeout, config, as_json)


def pause(
    ctx: typer.Context,
    wait: _Wait = True,
    timeout: _Seconds = 60,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have the agent write nothing to the database but its lease, for maintenance: neither launch nor bring back.

    What it has begun is finished first. Jobs run on, and what they report stays in the launch directories until
    `fwagent resume`. (Fireworks are paused by `lpad pause_fws`.)
    """
    _ask(ctx, "pause", wait, timeout, config, as_json)


def resume(
    ctx: typer.Context,
    wait: _Wait = True,
    timeout: _Seconds = 60,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a drained or paused agent do everything again."""
    _ask(ctx, "run", wait, timeout, config, as_json)


def stop(
    ctx: typer.Context,
    wait: _Wait = True,
    timeout: _Seconds = 60,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the agent that serves the worker, wherever it runs; as a service it stays down, too.

    An idle one on another login node takes over. Jobs run on. To have nothing done by any of them: `fwagent pause`.
    """
    from agent import asking
    from agent.config import load_config
    from agent.lease import describe
    from agent.results import DEFERRED, OK

    settings = load_config(chosen(ctx, config))
    worker = settings.fworker().name
    launchpad = settings.connect()
    try:
        launchpad.check()
        asked = asking.serving(launchpad, worker)
        if asked is None or not launchpad.ask_to_stop(asked, asking.asker()):
            _print({"worker": worker, "stopped": None, "serving": None}, as_json)
            _say(f"no agent serves the worker {worker!r}", as_json)
            raise typer.Exit(OK)
        answer = _answer(lambda: asking.ended(launchpad, asked), asked, wait, timeout)
    finally:
        launchpad.close()
    heir = answer.lease if answer.settled else None
    found = {
        "stopped": _holder(asked) if answer.settled else None,
        "serving": _holder(answer.lease),
    }
    _print({"worker": worker, **found}, as_json)
    if not answer.settled:
        _say(f"{describe(asked)} was asked to stop; it ends after its present pass", as_json)
    else:
        _say(f"{describe(asked)} has stopped", as_json)
    if heir is not None:
        _say(f"{describe(heir)} has taken over; `fwagent stop` again ends that one", as_json)
    raise typer.Exit(OK if answer.settled or not wait else DEFERRED)


def _ask(
    ctx: typer.Context,
    mode: str,
    wait: bool,
    timeout: float,
    config: Path | None,
    as_json: bool,
) -> None:
    from agent import asking, modes
    from agent.config import load_config
    from agent.results import DEFERRED, OK

    settings = load_config(chosen(ctx, config))
    worker = settings.fworker().name
    launchpad = settings.connect()
    try:
        launchpad.check()
        before = launchpad.wish(worker)
        # To ask again for what is so already must not change who asked, and since when.
        same = before.mode == mode
        wish = before if same else launchpad.ask(before, worker, mode, asking.asker())
        agent = asking.serving(launchpad, worker)
        answer = _answer(lambda: asking.followed(launchpad, wish, worker), agent, wait, timeout)
    finally:
        launchpad.close()
    there = answer.lease is not None
    found = modes.document(wish, followed=answer.settled if there else None)
    _print({"worker": worker, **found, "was": before.mode, "agent": _holder(answer.lease)}, as_json)
    _say("\n".join(_outcome(mode, answer, worker, same)), as_json)
    raise typer.Exit(OK if answer.settled or not wait else DEFERRED)


def _outcome(mode: str, answer: Answer, worker: str, same: bool) -> list[str]:
    from agent.lease import describe
    from agent.modes import RUN, WORDS

    word, means = WORDS[mode]
    if answer.lease is None:
        first = f"no agent serves the worker {worker!r}"
        then = "does everything again" if mode == RUN else f"is {word}"
        # A wish to run that is one already has changed nothing.
        news = mode != RUN or not same
        return [f"{first}; the next one, and `fwagent sync`, {then}" if news else first]
    who = describe(answer.lease)
    if not answer.settled:
        return [f"{who} was asked; it follows after its present pass"]
    return [f"{who} is {word}{' already' if same else ''}: {means}"]


def _answer(look: Callable[[], Answer], agent: Lease | None, wait: bool, timeout: float) -> Answer:
    from agent import asking

    with _progress(agent) if wait else nullcontext():
        return asking.wait(look, timeout if wait else 0.0)


def _progress(agent: Lease | None) -> AbstractContextManager[Any]:
    """Show, to people, whose answer is waited for."""
    if agent is None or not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    from agent.lease import describe

    return Console(stderr=True).status(f"waiting for {describe(agent)}")


def _holder(lease: Lease | None) -> dict[str, Any] | None:
    return None if lease is None else {"host": lease.host, "pid": lease.pid}


def _print(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(document))


def _say(text: str, as_json: bool) -> None:
    if not as_json:
        typer.echo(text)
