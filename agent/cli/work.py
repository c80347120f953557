"""Commands that do something: run, sync, recover, launch, add, unlock, demo."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli import ConfigOption, JsonOption, VerboseOption, chosen, flat, fw_ids, storable

if TYPE_CHECKING:
    from agent.loop import Parts
    from agent.results import Result
    from fwcore.launchpad.records import Lock

_DAEMON, _ONCE = "The daemon", "Once, by hand or from cron"
_FwIds = Annotated[
    list[int] | None,
    typer.Option(
        "--fw-id",
        "-i",
        metavar="FW_ID",
        parser=fw_ids,
        callback=flat,
        help="Only this Firework; may be repeated, or several with commas.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel=_DAEMON)(run)
    app.command(rich_help_panel=_ONCE)(sync)
    app.command(rich_help_panel=_ONCE)(recover)
    app.command(rich_help_panel=_ONCE)(launch)
    app.command(rich_help_panel=_ONCE)(add)
    app.command(rich_help_panel=_ONCE)(unlock)
    app.command(rich_help_panel="Try it")(demo)


def run(ctx: typer.Context, config: ConfigOption = None, verbose: VerboseOption = False) -> None:
    """Run the agent in the foreground, until SIGTERM. SIGHUP reads the configuration anew.

    It serves one worker. A second agent for the same worker, on this or another login node, stays idle and
    takes over when the first is gone. The log goes to stderr ($FWAGENT_LOG=json: one object per line).
    """
    from agent.log import set_up
    from agent.loop import Agent

    set_up(logging.DEBUG if verbose else logging.INFO)
    Agent(chosen(ctx, config)).run()


def sync(ctx: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Do one whole pass, then exit: bring reports back, launch what is READY. For cron.

    Does nothing (exit status 3) while an agent serves this worker, or after `fwagent pause`; after `fwagent drain` it
    launches nothing.
    """
    from agent.lease import is_gone
    from agent.modes import DRAIN
    from agent.results import Result

    result = Result()
    with _parts(ctx, config) as parts, _lease(parts) as (mode, obstacle):
        if obstacle:
            result.defer(None, None, obstacle)
        else:
            worker = parts.config.fworker().name
            parts.launchpad.resume(is_gone)
            places = parts.way_back.places(worker)
            parts.way_back.recover(places, result)
            _follow(parts, places, result)
            parts.way_back.close(places, result)
            _reconcile(parts, result)
            if mode != DRAIN:
                parts.way_out.launch(parts.way_out.capacity(), result)
                parts.way_out.tell_passed_over(result)
            parts.queue.tend()
            _note(parts, result, len(places))
            _beat(parts)
    _finish(result, as_json)


def _follow(parts: Parts, places: dict[int, str], result: Result) -> None:
    """Look where launch directories have gone, and into those that were found."""
    missing = parts.way_back.missing & places.keys()
    moved = parts.way_back.follow(places, parts.config.launch.root, missing)
    if moved:
        result.deferred = [each for each in result.deferred if each["launch_id"] not in moved]
        parts.way_back.recover(moved, result, outbox=False)
        places.update(moved)


def _note(parts: Parts, result: Result, looked_at: int) -> None:
    """Leave for `fwagent status` and `explain` what a daemon would."""
    from agent.health import Health, StatusFile, read_status

    ended = {each["launch_id"] for each in result.applied if each["state"] != "RUNNING"}
    health = Health(parts.config.fworker().name)
    health.follow(read_status(parts.own))
    health.synced(result, open_launches=max(0, looked_at - len(ended)))
    StatusFile().write(parts.own, health, time.monotonic())


def _beat(parts: Parts) -> None:
    from agent.heartbeat import send

    url = parts.config.monitor.heartbeat_url
    if url is not None and (trouble := send(url.get_secret_value())):
        typer.echo(f"warning: the heartbeat is not taken: {trouble}", err=True)


def _reconcile(parts: Parts, result: Result) -> None:
    from agent.jobs import QueueSilent

    try:
        parts.reconciler.run(result)
    except QueueSilent as error:
        result.defer(None, None, f"the queue does not answer: {error.title}")


def recover(
    ctx: typer.Context,
    fw_id: _FwIds = None,
    any_worker: Annotated[
        bool, typer.Option("--any-worker", help="Launches of all workers, not only of this one.")
    ] = False,
    rescue: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Only the reports in this file, the stderr of a job that could write them nowhere else; "
            "may be repeated.",
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring back what compute nodes wrote, like `lpad recover_offline`.

    May be run at any time, also beside a running agent. Nothing is ever FIZZLED because a file is missing,
    empty or half-written: it is looked at again the next time (exit status 3).
    """
    from agent.lease import is_gone
    from agent.results import Result

    result = Result()
    with _parts(ctx, config) as parts:
        parts.launchpad.resume(is_gone)
        for file in rescue or []:
            parts.way_back.recover_file(file, result)
        if rescue:
            _finish(result, as_json)
        worker = parts.config.fworker().name
        places = parts.way_back.places(None if any_worker else worker, fw_id, registered_for=worker)
        parts.way_back.recover(places, result, outbox=not fw_id)
        _follow(parts, places, result)
        parts.way_back.close(places, result)
    _finish(result, as_json)


def launch(
    ctx: typer.Context,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", metavar="N", min=1, help="At most so many; default: what the queue may hold."
        ),
    ] = None,
    fw_id: _FwIds = None,
    stage_only: Annotated[
        bool, typer.Option("--stage-only", help="Make the launch directories, submit nothing.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reserve READY Fireworks, make their launch directories and submit them, like `qlaunch -r`.

    With -i these Fireworks, whatever their category; they must be READY.
    """
    from agent.lease import is_gone
    from agent.results import FAILED, Result

    result = Result()
    with _parts(ctx, config) as parts:
        parts.launchpad.resume(is_gone)
        wanted = n if n is not None else (len(fw_id) if fw_id else None)
        capacity = wanted if stage_only and wanted else parts.way_out.capacity()
        parts.way_out.launch(
            min(capacity, wanted or capacity), result, fw_ids=fw_id, stage_only=stage_only
        )
        parts.way_out.tell_passed_over(result)
        refused = _explain_refused(parts, fw_id or [], result)
    _finish(result, as_json, FAILED if refused else None)


def add(
    ctx: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Workflow files, .yaml or .json.")
    ],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add workflows to the database, like `lpad add`. Task code is not imported.

    All files are checked before the first is added. An empty database is made a LaunchPad first.
    """
    from agent.config import load_config
    from fwcore.settings import load_settings

    hint = "a workflow file has `fws`, `links` and `metadata`, or is a single Firework with `spec`"
    workflows = [(path, load_settings(path, hint)) for path in files]
    launchpad = load_config(chosen(ctx, config)).connect()
    added = []
    try:
        for _path, workflow in workflows:
            launchpad.check_workflow(workflow)
        if launchpad.initialize():
            typer.echo(f"made a new LaunchPad in the empty database {launchpad.where}", err=True)
        for path, workflow in workflows:
            ids = launchpad.add(workflow)
            added.append({"file": str(path), "fw_ids": {str(old): new for old, new in ids.items()}})
            if not as_json:
                typer.echo(f"{path}: {len(ids)} Fireworks, id_map: {ids}")
    finally:
        launchpad.close()
    if as_json:
        typer.echo(json.dumps({"added": added}))


def unlock(
    ctx: typer.Context,
    fw_ids: Annotated[
        list[int],
        typer.Argument(metavar="FW_ID...", callback=storable, help="Any Firework of the workflow."),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release the locks of workflows that nobody can still hold; `status` names them.

    A lock of FireWorks does not tell who has taken it: make sure that no lpad, rlaunch or qlaunch is at work on
    the workflow. Locks of an fwagent that lives are kept (exit status 1).
    """
    from agent.lease import is_gone
    from agent.results import FAILED, OK, USAGE

    with _parts(ctx, config) as parts:
        locks = parts.launchpad.locks(fw_ids, is_gone)
        loose = [lock for lock in locks if lock.verdict != "held"]
        if loose and not yes and not _may_release(loose, ask=not as_json):
            typer.echo("nothing was released; --yes does it without asking", err=True)
            raise typer.Exit(USAGE)
        released = parts.launchpad.unlock(loose, is_gone)
    kept = [lock for lock in locks if lock not in released]
    if as_json:
        rows = {"released": released, "kept": kept}
        typer.echo(json.dumps({key: _lock_rows(value) for key, value in rows.items()}))
    else:
        _print_unlocked(released, kept)
    raise typer.Exit(FAILED if kept else OK)


def _may_release(locks: list[Lock], *, ask: bool) -> bool:
    for lock in locks:
        what = f"the workflow of Firework {lock.fw_id} ({lock.name})"
        typer.echo(f"{what} is locked by {lock.holder}", err=True)
    typer.echo("make sure that no lpad, rlaunch or qlaunch is at work on it", err=True)
    return ask and typer.confirm("release?", err=True)


def _print_unlocked(released: list[Lock], kept: list[Lock]) -> None:
    for lock in released:
        typer.echo(f"released the workflow of Firework {lock.fw_id}")
        if lock.holder == "FireWorks":
            mend = f"lpad admin refresh -i {lock.fw_id}"
            typer.echo(f"  what held it may have been cut half-way: run `{mend}`")
    for lock in kept:
        why = "which is at work" if lock.verdict == "held" else "who has taken it anew"
        typer.echo(f"kept: Firework {lock.fw_id} is locked by {lock.holder}, {why}", err=True)
    if not released and not kept:
        typer.echo("not locked")


def _lock_rows(locks: list[Lock]) -> list[dict[str, object]]:
    return [
        {"fw_id": lock.fw_id, "name": lock.name, "holder": lock.holder, "verdict": lock.verdict}
        for lock in locks
    ]


def demo(
    uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Use this MongoDB server instead of a throwaway one."),
    ] = None,
    keep: Annotated[bool, typer.Option(help="Keep the files and the database afterwards.")] = False,
) -> None:
    """Show the whole thing on a throwaway database: a real workflow, real jobs without a network."""
    from agent.demo.show import run_demo

    raise typer.Exit(run_demo(uri, keep=keep))


@contextmanager
def _parts(ctx: typer.Context, config: Path | None) -> Iterator[Parts]:
    from agent.config import load_config
    from agent.loop import make_parts
    from agent.umask import restrict

    settings = load_config(chosen(ctx, config))
    restrict(group_readable=settings.launch.group_readable)
    parts = make_parts(settings)
    try:
        # A name mistyped is an empty database, where there is never anything to do.
        parts.launchpad.check()
        yield parts
    finally:
        parts.launchpad.close()


@contextmanager
def _lease(parts: Parts) -> Iterator[tuple[str, str]]:
    """Hold the lease for a while; yield the mode and "" or why nothing may be done now."""
    from agent import modes
    from agent.health import Health
    from agent.lease import LeaseKeeper
    from agent.log import set_up

    set_up(logging.ERROR)  # who else serves the worker is told in the result
    health = Health(parts.config.fworker().name)
    keeper = LeaseKeeper(health.worker, health)
    served = keeper.held(parts.launchpad)
    try:
        if served is None:
            yield modes.RUN, health.mode
        elif served.wish.mode == modes.PAUSE:
            paused = modes.told(modes.document(served.wish, followed=None))
            yield modes.PAUSE, f"the agent is {paused}; `fwagent resume` lets it go on"
        else:
            yield served.wish.mode, ""
    finally:
        keeper.give_back(parts.launchpad)


def _explain_refused(parts: Parts, fw_ids: list[int], result: Result) -> bool:
    """Note why Fireworks that were asked for by number were not launched."""
    told = {entry["fw_id"] for entry in (*result.claimed, *result.deferred)}
    refused = [fw_id for fw_id in fw_ids if fw_id not in told]
    states = parts.launchpad.fw_states(refused) if refused else {}
    for fw_id in refused:
        state, _name = states.get(fw_id, ("not in the database", ""))
        reason = f"Firework {fw_id} is {state}"
        reason += ", but the queue is full or its workflow is locked" if state == "READY" else ""
        result.ignored.append({"launch_id": None, "fw_id": fw_id, "reason": reason})
    return bool(refused)


def _finish(result: Result, as_json: bool, status: int | None = None) -> None:
    from agent.cli.show import print_result

    if as_json:
        typer.echo(json.dumps(result.document()))
    else:
        print_result(result)
    raise typer.Exit(result.exit_status if status is None else status)
