"""What became of the jobs: the queue's listing beside the database and the files, and what follows.

``decide`` is pure: it compares one listing with the launches that have not ended, with what their files look like,
and with what was seen at earlier listings, and gives verdicts. ``Reconciler`` asks and carries them out.

A job counts as lost when it is in no listing for ``lost_after`` seconds, at least two of them, its files do not change
in that time, and no final report is there; the scheduler's last word, where there is one, says how it ended. Where
that has no word for a job that ran, three pings must be missing as well. Before a verdict is carried out, the way back
looks at files and outbox once more, and the verdict is made again from what is there then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from agent.jobs import JobEnd, QueuedJob
from fwcore.launchpad.records import JobRecord, Setbacks
from fwcore.states import HELD
from fwrunner.protocol import Report

Kind = Literal["adopt", "release", "fizzle", "rerun", "report", "cancel"]

#: Seconds that a reservation of `qlaunch` may take to get its job id.
FOREIGN_AGE = 600.0
#: Pings that a job must have missed, where the scheduler does not say that it ended.
MISSED_PINGS = 3
#: A Firework whose jobs vanish before they begin is FIZZLED by this one in a row.
VANISHED_LIMIT = 3

_ALIVE = frozenset({"PENDING", "HELD", "RUNNING", "ENDING"})
_WAITING = frozenset({"PENDING", "HELD"})
#: Ends of jobs that never ran, if the scheduler counted no second for them (Slurm's JOB STATE CODES).
_NEVER_BEGAN = frozenset(
    {"BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "PREEMPTED", "REVOKED"}
)


@dataclass(frozen=True)
class Files:
    """What the files of a launch look like. ``signature`` changes whenever something is written."""

    signature: str
    #: Whether the launch directory is there.
    there: bool = True
    #: Whether the runner has begun, and whether it, or anybody, has left a final report.
    started: bool = False
    final: bool = False
    #: What a launch that runs has told last.
    report: Report | None = None


@dataclass(frozen=True)
class Absence:
    """Since when (seconds) a job is in no listing while its files look like this; ``told``: the loss was shown."""

    since: float
    signature: str
    told: str = ""


@dataclass(frozen=True)
class Memory:
    """What is remembered from one listing to the next, by launch_id."""

    absent: Mapping[int, Absence] = field(default_factory=dict)
    #: Since when a job that no Firework counts on is in the queue.
    unwanted: Mapping[int, float] = field(default_factory=dict)
    #: The job ids of launches that Fireworks counted on: one that was deleted is not in the database any more.
    known: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rules:
    """What the configuration says. ``queue`` is that of ``LaunchPad.queue_name``; times are in seconds."""

    worker: str
    scheduler: str
    queue: str = ""
    lost: str = "fizzle"
    lost_after: float = 60.0
    lost_reruns: int = 3
    ping_interval: float = 60.0
    cancel_defused: bool = True


@dataclass(frozen=True)
class View:
    """What is known at one moment, in seconds since the epoch. ``listing`` is None while the queue is silent.

    ``jobs`` are the launches that have not ended, ``strays`` what the database has of other launches whose jobs are
    listed, ``files`` those of absent jobs, by launch_id; ``ends`` are by job id, ``setbacks`` by fw_id.
    """

    now: float
    listing: Mapping[str, QueuedJob] | None
    jobs: Collection[JobRecord]
    strays: Mapping[int, JobRecord] = field(default_factory=dict)
    files: Mapping[int, Files] = field(default_factory=dict)
    ends: Mapping[str, JobEnd] = field(default_factory=dict)
    setbacks: Mapping[int, Setbacks] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What is to be done about one launch, and why."""

    kind: Kind
    launch_id: int
    fw_id: int
    job_id: str | None
    reason: str
    end: JobEnd | None = None
    files: Files | None = None


def tagged(listing: Mapping[str, QueuedJob]) -> dict[int, QueuedJob]:
    """Return the live jobs of a listing by the launch that they say they are for."""
    alive = (listing[job_id] for job_id in sorted(listing, reverse=True))
    return {job.launch_id: job for job in alive if job.launch_id and job.state in _ALIVE}


def absent(view: View, rules: Rules) -> list[JobRecord]:
    """Return the launches that should have a job in this queue and have none."""
    if view.listing is None:
        return []
    tags = tagged(view.listing)
    return [job for job in view.jobs if _expected(job, rules) and not _alive(job, view, tags)]


def _expected(job: JobRecord, rules: Rules) -> bool:
    if job.by_hand and job.job_id is None:
        return False
    # Those of `qlaunch` are in the batch system, those of another configuration in the queue that it has.
    foreign = job.token is None
    return rules.scheduler != "local" if foreign else job.queue in ("", rules.queue)


def _alive(job: JobRecord, view: View, tags: Mapping[int, QueuedJob]) -> bool:
    if job.launch_id in tags:
        return True
    listed = (view.listing or {}).get(job.job_id or "")
    # The id of a job that says to be another launch's was given anew.
    return listed is not None and listed.state in _ALIVE and listed.launch_id is None


def followed(memory: Memory, view: View, rules: Rules) -> Memory:
    """Return the memory after a listing: what is there again, or has written something, begins anew."""
    if view.listing is None:
        return memory
    found = {}
    for job in absent(view, rules):
        files = view.files.get(job.launch_id)
        if files is None:
            continue  # nothing can be said of it: a file system is away
        before = memory.absent.get(job.launch_id)
        if before is None or before.signature != files.signature or before.since > view.now:
            before = Absence(view.now, files.signature)
        found[job.launch_id] = before
    counted = {job.launch_id: job.job_id for job in view.jobs if job.job_id is not None}
    tags = tagged(view.listing)
    known = {key: job_id for key, job_id in memory.known.items() if key in tags}
    unwanted = {
        launch_id: min(memory.unwanted.get(launch_id, view.now), view.now)
        for launch_id in _unwanted(view, memory, rules)
    }
    return Memory(found, unwanted, {**known, **counted})


def questions(memory: Memory, view: View, rules: Rules) -> list[JobRecord]:
    """Return the absent launches whose end the scheduler is to be asked about: it may be time for a verdict."""
    ripe = {
        launch_id
        for launch_id, absence in memory.absent.items()
        if view.now - absence.since >= rules.lost_after and not _settled(absence, rules)
    }
    return [job for job in absent(view, rules) if job.launch_id in ripe]


def _settled(absence: Absence, rules: Rules) -> bool:
    return bool(absence.told) and rules.lost == "report"


def decide(view: View, memory: Memory, rules: Rules) -> tuple[list[Verdict], Memory]:
    """Return what is to be done, at most one thing about each launch, and what is to be remembered."""
    if view.listing is None:
        return [], memory
    memory = followed(memory, view, rules)
    verdicts = [*_adopted(view, rules), *_cancelled(view, memory, rules)]
    done = {verdict.launch_id for verdict in verdicts}
    for job in questions(memory, view, rules):
        verdict = _lost(job, view, memory.absent[job.launch_id], rules)
        if verdict is not None and job.launch_id not in done:
            shown = verdict.kind == "report" and memory.absent[job.launch_id].told == verdict.reason
            verdicts += [] if shown else [verdict]
    told = {
        verdict.launch_id: replace(
            memory.absent[verdict.launch_id],
            told=verdict.reason if verdict.kind == "report" else "",
        )
        for verdict in verdicts
        if verdict.kind not in ("adopt", "cancel")
    }
    return verdicts, replace(memory, absent={**memory.absent, **told})


def _adopted(view: View, rules: Rules) -> list[Verdict]:
    """A job was accepted, but the one who submitted it was cut before he had recorded its id."""
    tags = tagged(view.listing or {})
    return [
        Verdict("adopt", job.launch_id, job.fw_id, tags[job.launch_id].job_id, "found by its tag")
        for job in view.jobs
        if job.job_id is None and job.launch_id in tags and _of_this(job, rules)
    ]


def _of_this(job: JobRecord, rules: Rules) -> bool:
    return job.token is not None and job.queue in ("", rules.queue)


def _unwanted(view: View, memory: Memory, rules: Rules) -> dict[int, str]:
    """Return {launch_id: why} of listed jobs that are certainly ours and that no Firework counts on."""
    records = {**view.strays, **{job.launch_id: job for job in view.jobs}}
    found = {}
    for launch_id, job in tagged(view.listing or {}).items():
        record = records.get(launch_id)
        if record is None:
            if memory.known.get(launch_id) == job.job_id:
                found[launch_id] = "its Firework was deleted"
        elif (record.job_id, record.worker) == (job.job_id, rules.worker):
            if not record.fw_state:
                found[launch_id] = "its Firework was rerun, defused, archived or deleted"
            elif record.fw_state in HELD - {"PAUSED"} and job.state in _WAITING:
                found[launch_id] = f"its Firework is {record.fw_state}"
    return found


def _cancelled(view: View, memory: Memory, rules: Rules) -> list[Verdict]:
    if not rules.cancel_defused:
        return []
    tags, reasons = tagged(view.listing or {}), _unwanted(view, memory, rules)
    records = {**view.strays, **{job.launch_id: job for job in view.jobs}}
    return [
        Verdict(
            "cancel",
            launch_id,
            records[launch_id].fw_id if launch_id in records else 0,
            tags[launch_id].job_id,
            reasons[launch_id],
        )
        for launch_id, since in memory.unwanted.items()
        if view.now - since >= rules.lost_after
    ]


def _lost(job: JobRecord, view: View, absence: Absence, rules: Rules) -> Verdict | None:
    files, end = view.files[job.launch_id], view.ends.get(job.job_id or "")
    began = job.state == "RUNNING" or files.started or (end is not None and _began(end))
    if files.final or view.now - absence.since < _patience(job, end, began, rules):
        return None
    reason = words(job, end, began, rules.scheduler)
    kind, why = _measure(job, files, end, began, view.setbacks.get(job.fw_id, Setbacks()), rules)
    return Verdict(kind, job.launch_id, job.fw_id, job.job_id, reason + why, end, files)


def _began(end: JobEnd) -> bool:
    return end.state not in _NEVER_BEGAN or bool(end.elapsed)


def _patience(job: JobRecord, end: JobEnd | None, began: bool, rules: Rules) -> float:
    """Return the seconds for which a job must be gone and its files quiet."""
    if job.job_id is None and job.token is None:
        return max(rules.lost_after, FOREIGN_AGE)
    if end is None and began:
        return max(rules.lost_after, MISSED_PINGS * rules.ping_interval)
    return rules.lost_after


def _measure(
    job: JobRecord,
    files: Files,
    end: JobEnd | None,
    began: bool,
    before: Setbacks,
    rules: Rules,
) -> tuple[Kind, str]:
    if rules.lost == "report":
        return "report", ""
    if not files.there and end is None and began:
        return "report", f"; {job.launch_dir} is not there, so nobody can tell"
    if not began:
        vanished = before.vanished + 1
        return ("release", "") if vanished < VANISHED_LIMIT else ("fizzle", _in_a_row(vanished))
    if rules.lost == "rerun":
        lost = before.lost
        return ("rerun", "") if lost < rules.lost_reruns else ("fizzle", _in_a_row(lost + 1))
    return "fizzle", ""


def _in_a_row(times: int) -> str:
    return f"; that is the {times}. time in a row"


def words(job: JobRecord, end: JobEnd | None, began: bool, scheduler: str) -> str:
    """Return what has become of a job, for people."""
    what = f"{scheduler} job {job.job_id}" if job.job_id is not None else f"the {scheduler} job"
    when = "without a final report" if began else "before it began"
    if end is None:
        return f"{what} is gone from the queue {when}, and the scheduler does not say how it ended"
    told = [f"{what} ended as {end.state} {when}"]
    if end.exit_code is not None:
        told.append(f"exit code {end.exit_code}")
    if end.signal:
        told.append(f"signal {end.signal}")
    if end.elapsed is not None:
        limit = f" of {end.limit:.0f} s" if end.limit is not None else ""
        told.append(f"after {end.elapsed:.0f} s{limit}")
    if end.reason:
        told.append(end.reason)
    return ", ".join(told)
