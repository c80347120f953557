"""Gathering what is known of one Firework, for ``agent.explain``. Nothing is changed."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent import modes
from agent.config import Config
from agent.explain import Evidence, Launch, Told, launch_of
from agent.health import syncs
from agent.jobs import JobEnd, QueuedJob, QueueSilent
from agent.queue import Queue, open_queue
from agent.reconcile import tagged
from agent.recover import WayBack, holder
from agent.status import age, collect
from agent.tails import last_words
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Setbacks, Story
from fwrunner.protocol import OUTBOX_PATH, STAGED, NotYet, read_report, rescue, spoilt_final


def gather(config: Config, fw_id: int) -> Evidence:
    """Return the evidence on a Firework; raise DatabaseUnreachable, DatabaseRefused or ConfigError."""
    launchpad = config.connect()
    try:
        return _gathered(config, launchpad, fw_id)
    finally:
        launchpad.close()


def _gathered(config: Config, launchpad: LaunchPad, fw_id: int) -> Evidence:
    worker = config.fworker()
    story = launchpad.story(fw_id, worker)
    status = collect(config)
    agent = status["agent"]
    evidence = Evidence(
        fw_id=fw_id,
        now=time.time(),
        worker=worker.name,
        scheduler=config.queue.type,
        queue=f"{config.queue.type}:{config.launch.root}",
        agent=agent["state"],
        synced=_synced(status),
        deferred=_deferred(status["deferred"], story) if story else "",
        paused=agent["wish"]["mode"] == modes.PAUSE,
        asked=modes.told(agent["wish"]),
        lost=config.sync.lost,
        story=story,
        setbacks=launchpad.setbacks([fw_id])[fw_id] if story else Setbacks(),
    )
    launch = launch_of(story) if story else None
    if launch is None:
        return evidence
    place = launchpad.registered(worker.name).get(launch.launch_id, launch.launch_dir)
    evidence = replace(evidence, files=_files(config, launchpad, launch, place))
    if config.queue.type == "none":
        return evidence
    try:
        job, end = _asked(open_queue(config), launch)
    except QueueSilent as error:
        return replace(evidence, silent=error.title)
    return replace(evidence, job=job, end=end)


def _synced(status: dict[str, Any]) -> str:
    agent = status["agent"]
    return age(agent["last_pass"], status["on"]) if syncs(agent, status["on"]) else ""


def _deferred(rows: list[dict[str, Any]], story: Story) -> str:
    launches = {launch["launch_id"] for launch in story.launches}
    ours = [
        row["reason"]
        for row in rows
        if row["fw_id"] == story.firework["fw_id"] or row["launch_id"] in launches
    ]
    return str(ours[-1]) if ours else ""


def _asked(queue: Queue, launch: Launch) -> tuple[QueuedJob | None, JobEnd | None]:
    listing = queue.listing()
    job = tagged(listing).get(launch.launch_id)
    known = listing.get(launch.job_id or "")
    if job is None and known is not None and known.launch_id is None:
        job = known
    if job is not None or launch.job_id is None:
        return job, None
    return None, queue.ends([launch.job_id]).get(launch.job_id)


def _files(config: Config, launchpad: LaunchPad, launch: Launch, place: str) -> Told:
    size = config.sync.max_report_size
    outbox, rescued = config.launch.root / OUTBOX_PATH, Path.home() / rescue.PATH
    way_back = WayBack(launchpad, outbox, size, rescued)
    waiting = way_back.told_of().get(launch.launch_id, [])
    if leads := way_back.leads_out(place):
        return Told(there=False, reason=leads, waiting=tuple(sorted(waiting)))
    report = read_report(place, size)
    told = Told(
        there=Path(place).is_dir(),
        waiting=tuple(sorted(waiting)),
        words=last_words(place, launch.launch_id, launch.job_id),
    )
    if (other := holder(place, report, size)) not in (None, launch.launch_id):
        return replace(told, there=False, reason=f"the directory holds launch {other} now")
    if isinstance(report, NotYet):
        spoilt = spoilt_final(place, size) if report.reason == STAGED else ""
        return replace(told, reason=spoilt or report.reason)
    token = launchpad.tokens([launch.launch_id]).get(launch.launch_id, report.token)
    if report.final and token != report.token:
        return replace(told, reason="a report is there with the token of another launch: ignored")
    return replace(told, state=report.state, ping_time=report.ping_time)
