"""Commands that change the course of Fireworks, with lpad's selections: rerun, defuse, forget."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli import ConfigOption, JsonOption, chosen, flat, fw_ids, states_like

if TYPE_CHECKING:
    from fwcore.launchpad import LaunchPad
    from fwcore.launchpad.records import Changed

#: So many Fireworks are changed without asking.
_UNASKED = 10
_PANEL = "Change Fireworks"

_Ids = Annotated[
    list[int] | None,
    typer.Option(
        "--fw-id",
        "-i",
        metavar="FW_ID",
        parser=fw_ids,
        callback=flat,
        help="This Firework; may be repeated, or several with commas.",
    ),
]
_Name = Annotated[str, typer.Option("--name", "-n", metavar="NAME", help="Those of this name.")]
_State = Annotated[
    str,
    typer.Option(
        "--state",
        "-s",
        metavar="STATE",
        autocompletion=states_like,
        help="Those in this state, say FIZZLED.",
    ),
]
_Query = Annotated[
    str,
    typer.Option("--query", "-q", metavar="JSON", help="Those that a MongoDB filter finds."),
]
_Yes = Annotated[
    bool, typer.Option("--yes", "-y", help=f"Do not ask, however many (default: above {_UNASKED}).")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (rerun, defuse, forget):
        app.command(rich_help_panel=_PANEL)(command)


@dataclass(frozen=True)
class _Selection:
    """Which Fireworks; what is given counts together."""

    fw_ids: list[int] | None
    name: str
    state: str
    query: str

    @property
    def plain(self) -> list[int]:
        """The ids, if nothing else is asked for: what there is not is then told one by one."""
        if self.name or self.state or self.query:
            return []
        return list(dict.fromkeys(self.fw_ids or ()))

    def filter(self) -> dict[str, Any]:
        """Return the MongoDB filter; raise BadParameter."""
        parts: list[dict[str, Any]] = []
        if self.fw_ids:
            parts.append({"fw_id": {"$in": self.fw_ids}})
        if self.name:
            parts.append({"name": self.name})
        if self.state:
            parts.append({"state": known_state(self.state)})
        if self.query:
            parts.append(_parsed(self.query))
        if not parts:
            raise typer.BadParameter("say which Fireworks: -i FW_ID, -n NAME, -s STATE or -q JSON")
        return {"$and": parts}


def known_state(state: str) -> str:
    """Return a state as FireWorks writes it; raise BadParameter for another word."""
    from fwcore.states import RANKS

    if state.upper() not in RANKS:
        raise typer.BadParameter(f"there is no state {state!r}; there are {', '.join(RANKS)}")
    return state.upper()


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"the query is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter("the query is no JSON object")
    return found


def rerun(
    ctx: typer.Context,
    fw_id: _Ids = None,
    name: _Name = "",
    state: _State = "",
    query: _Query = "",
    task_level: Annotated[
        bool, typer.Option("--task-level", help="Go on from the last checkpoint.")
    ] = False,
    copy_data: Annotated[
        bool, typer.Option("--copy-data", help="With --task-level: copy the old launch directory.")
    ] = False,
    previous_dir: Annotated[
        bool, typer.Option("--previous-dir", help="With --task-level: go on in the old directory.")
    ] = False,
    duplicates: Annotated[
        bool, typer.Option(help="Rerun those too that share a launch (_dupefinder).")
    ] = True,
    yes: _Yes = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let Fireworks run again, like `lpad rerun_fws`. Those that follow them are reset, too.

    Jobs of theirs are not cancelled, but what they still report is not listened to.
    """
    from fwcore.rerun import Recovery

    if (copy_data or previous_dir) and not task_level:
        raise typer.BadParameter("--copy-data and --previous-dir need --task-level")
    if copy_data and previous_dir:
        raise typer.BadParameter("--copy-data or --previous-dir, not both")
    mode = "cp" if copy_data else "prev_dir" if previous_dir else None
    recovery = Recovery(mode) if task_level else None
    chosen_ones = _Selection(fw_id, name, state, query)
    with _asked(ctx, config, chosen_ones, "rerun", yes=yes, as_json=as_json) as (
        launchpad,
        ids,
        told,
    ):
        changed = launchpad.rerun(ids, recovery=recovery, duplicates=duplicates, told=told)
    _tell(changed, as_json, told.left)


def defuse(
    ctx: typer.Context,
    fw_id: _Ids = None,
    name: _Name = "",
    state: _State = "",
    query: _Query = "",
    yes: _Yes = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take Fireworks out of the flow, like `lpad defuse_fws`; `lpad reignite_fws` brings them back."""
    chosen_ones = _Selection(fw_id, name, state, query)
    with _asked(ctx, config, chosen_ones, "defuse", yes=yes, as_json=as_json) as (
        launchpad,
        ids,
        told,
    ):
        changed = launchpad.defuse(ids, told=told)
    _tell(changed, as_json, told.left)


def forget(
    ctx: typer.Context,
    fw_id: _Ids = None,
    name: _Name = "",
    state: _State = "",
    query: _Query = "",
    yes: _Yes = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop looking for the reports of Fireworks, like `lpad forget_offline`. Their states stay as they are."""
    from agent.results import FAILED, OK

    chosen_ones = _Selection(fw_id, name, state, query)
    with _asked(ctx, config, chosen_ones, "forget", yes=yes, as_json=as_json) as (
        launchpad,
        ids,
        told,
    ):
        forgotten = launchpad.forget(ids, told=told)
    rows = [{"fw_id": each.fw_id, "launch_id": each.launch_id} for each in forgotten]
    if as_json:
        typer.echo(json.dumps({"forgotten": rows}))
    else:
        for row in rows:
            launch = f"launch {row['launch_id']}"
            typer.echo(f"Firework {row['fw_id']}: {launch} is not looked for any more")
        if not rows:
            typer.echo("there was nothing to forget")
    raise typer.Exit(FAILED if told.left else OK)


@contextmanager
def _asked(
    ctx: typer.Context,
    config: Path | None,
    selection: _Selection,
    what: str,
    *,
    yes: bool,
    as_json: bool,
) -> Iterator[tuple[LaunchPad, list[int], _Work]]:
    """Yield the LaunchPad, the Fireworks selected, and what is to be told of how many are done; ask first if many."""
    from agent.config import load_config
    from agent.results import FAILED, USAGE

    wanted = selection.filter()
    launchpad = load_config(chosen(ctx, config)).connect()
    try:
        launchpad.check()
        ids = selection.plain or launchpad.select(wanted)
        if not ids:
            typer.echo("no Firework is selected", err=True)
            raise typer.Exit(FAILED)
        if len(ids) > _UNASKED and not yes and not _confirmed(what, ids, ask=not as_json):
            typer.echo("nothing was changed; --yes does it without asking", err=True)
            raise typer.Exit(USAGE)
        with _watched(what, len(ids), quiet=as_json) as told:
            yield launchpad, ids, told
    finally:
        launchpad.close()


class _Work:
    """How far it is, and whether it is to end there."""

    def __init__(self, total: int, advance: Callable[[int], None]) -> None:
        self._total, self._advance = total, advance
        self._interrupted = False
        #: Fireworks that were not dealt with, because somebody has ended it.
        self.left = 0

    def interrupt(self, _number: int, _frame: object) -> None:
        self._interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __call__(self, done: int) -> bool:
        self._advance(done)
        self.left = self._total - done if self._interrupted else 0
        return not self._interrupted


@contextmanager
def _watched(what: str, total: int, *, quiet: bool) -> Iterator[_Work]:
    """Show a bar on a terminal; the first Ctrl-C ends the work after a batch, the second at once.

    So what was done is told: a batch is changed as a whole, and those after it are as they were.
    """
    with _bar(what, total, quiet=quiet) as advance:
        work = _Work(total, advance)
        before = signal.signal(signal.SIGINT, work.interrupt)
        try:
            yield work
        finally:
            signal.signal(signal.SIGINT, before)
    if work.left:
        typer.echo(f"stopped: {work.left} of {total} Fireworks were left as they are", err=True)


@contextmanager
def _bar(what: str, total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    if quiet or total <= _UNASKED or not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def _confirmed(what: str, ids: list[int], *, ask: bool) -> bool:
    some = ", ".join(map(str, ids[:5]))
    typer.echo(f"{what} {len(ids)} Fireworks ({some}, ...)", err=True)
    return ask and sys.stdin.isatty() and typer.confirm("go on?", err=True)


def _tell(changed: Changed, as_json: bool, left: int) -> None:
    from agent.results import DEFERRED, FAILED, OK

    lists = {
        "changed": [{"fw_id": each.fw_id, "state": each.state} for each in changed.changed],
        "skipped": [{"fw_id": each.fw_id, "reason": each.reason} for each in changed.skipped],
        "deferred": [{"fw_id": each.fw_id, "reason": each.reason} for each in changed.deferred],
    }
    if as_json:
        typer.echo(json.dumps({**lists, "released": sorted(changed.released)}))
    else:
        for each in changed.changed:
            typer.echo(f"Firework {each.fw_id}: {each.state}")
        for word, rows in (("left alone", changed.skipped), ("not now", changed.deferred)):
            for each in rows:
                typer.echo(f"{word}: Firework {each.fw_id}: {each.reason}", err=True)
    status = FAILED if changed.skipped or left else OK
    raise typer.Exit(DEFERRED if changed.deferred else status)
