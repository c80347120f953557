"""`fwagent doctor --job`: a job goes the whole way through the queue and back, without the database.

It runs what every job runs, on a compute node, in a launch root of its own below `.fwagent` of the real one, so that
no agent takes it for one of its own. Nothing of it is left.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from secrets import token_hex
from typing import Any

from agent import filesystem
from agent.config import Config
from agent.doctor import Check, clock, job_command
from agent.jobs import QueueSilent, Submission
from agent.queue import Queue, open_queue
from agent.queue.script import Scripts
from agent.stage import prepare_root, stage
from agent.tails import last_words
from agent.watch import Wake, Watch
from fwcore.documents import parse_time
from fwcore.launchpad.records import Claim
from fwrunner.protocol import OFFLINE_JSON, NotYet, Report, read_outbox_entry, read_report

#: Seconds between two looks at the files, and two questions to the queue.
_LOOK, _ASK = 0.3, 5.0
#: Listings in a row without the job, after which it has ended without a report.
_ABSENT = 3
#: Seconds for a cancelled job to leave its directory alone.
_LEAVE = 20.0
_LAUNCH_ID = 1
#: Seconds until a report is seen, from which on that is worth telling.
_LATE = 5.0

_FACTS: dict[str, dict[str, Any]] = {
    "python": {"func": "platform.python_version"},
    "host": {"func": "platform.node"},
    "user": {"func": "os.getuid"},
    # None where something else than fwrunner runs the Firework.
    "fwrunner": {
        "func": "builtins.eval",
        "args": ["getattr(__import__('sys').modules.get('fwrunner'), '__version__', None)"],
    },
}
_FIREWORK = {
    "fw_id": 1,
    "name": "fwagent trial",
    "state": "RESERVED",
    "spec": {
        "_tasks": [
            {"_fw_name": "PyTask", "stored_data_varname": name, **call}
            for name, call in _FACTS.items()
        ]
    },
}


@dataclass
class Trial:
    """A trial job: how it came along, and what came back."""

    job_id: str
    token: str
    launch_dir: Path
    submitted: float
    #: The state in the queue that was told last.
    state: str = ""
    absent: int = 0
    #: Since the epoch, by this host's clock: when the report was seen.
    seen: float = 0.0
    report: Report | None = None
    #: Whether an event told of it.
    told: bool = False
    #: By the clock of the file server: when it was written.
    written: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


def checks(config: Config, seconds: float, progress: Callable[[str], None]) -> Iterator[Check]:
    """Yield what a job through the queue shows, within so many seconds; ``progress`` is told how far it is."""
    place = config.private / f"trial-{token_hex(4)}"
    launch = config.launch.model_copy(update={"root": place})
    own = config.model_copy(update={"launch": launch})
    outbox = prepare_root(place)
    queue = open_queue(own)
    try:
        yield from _through(own, queue, outbox, seconds, progress)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _through(
    config: Config, queue: Queue, outbox: Path, seconds: float, progress: Callable[[str], None]
) -> Iterator[Check]:
    ahead = filesystem.tried(outbox).clock_ahead
    wake = Wake()
    watch = Watch(wake)
    watch.start()
    try:
        watch.watch_outbox(outbox)
        submitted = _submit(config, queue, outbox)
        if isinstance(submitted, Check):
            yield submitted
            return
        with _ended_after(queue, submitted):
            _follow(submitted, config, queue, outbox, wake, seconds, progress)
    finally:
        watch.stop()
    yield from _found(submitted, config, ahead, seconds)


def _submit(config: Config, queue: Queue, outbox: Path) -> Trial | Check:
    launch_dir = outbox.parent.parent / "launcher"
    claim = Claim(1, _LAUNCH_ID, str(launch_dir), token_hex(8), _FIREWORK)
    script = stage(claim, outbox, Scripts(config).text(claim), config.sync.ping_interval)
    (outcome,) = queue.submit_all([Submission(claim.launch_id, script, "fwagent_trial")])
    if outcome.error is not None:
        return Check("trial job", "fail", outcome.error.title, outcome.error.hint)
    if outcome.job_id is None:
        hint = 'queue.type = "slurm", "pbs", "sge", "lsf" or "local"'
        return Check("trial job", "warn", "nobody submits it: queue.type is none", hint)
    return Trial(outcome.job_id, claim.token, launch_dir, time.time())


@contextmanager
def _ended_after(queue: Queue, trial: Trial) -> Iterator[None]:
    """Have the job ended that has not reported, and wait until it writes no more."""
    try:
        yield
    finally:
        with suppress(QueueSilent):
            if trial.report is None and trial.absent < _ABSENT:
                queue.cancel([trial.job_id])
            _until(lambda: not _there(queue, trial), _LEAVE)


def _there(queue: Queue, trial: Trial) -> bool:
    job = queue.listing().get(trial.job_id)
    return job is not None and job.state != "ENDED"


def _until(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(_LOOK)


def _follow(
    trial: Trial,
    config: Config,
    queue: Queue,
    outbox: Path,
    wake: Wake,
    seconds: float,
    progress: Callable[[str], None],
) -> None:
    """Look and ask until the report is there, the job is gone, or the time is over."""
    remote = filesystem.mount_of(outbox).remote
    deadline, ask = time.monotonic() + seconds, 0.0
    while time.monotonic() < deadline and trial.absent < _ABSENT:
        trial.told |= bool(wake.wait(_LOOK)[0])
        if remote:
            filesystem.refresh(outbox)
        if _reported(trial, outbox, config.sync.max_report_size):
            return
        if time.monotonic() >= ask:
            ask = time.monotonic() + _ASK
            _ask(trial, queue, progress)


def _reported(trial: Trial, outbox: Path, max_size: int) -> bool:
    entry = outbox / f"{_LAUNCH_ID}.{trial.token}.json"
    found = read_outbox_entry(str(entry), max_size)
    if isinstance(found, NotYet):
        entry = trial.launch_dir / OFFLINE_JSON
        found = read_report(str(trial.launch_dir), max_size)
    if isinstance(found, NotYet) or not found.final:
        return False
    trial.seen, trial.report = time.time(), found
    trial.written = entry.stat().st_mtime
    return True


def _ask(trial: Trial, queue: Queue, progress: Callable[[str], None]) -> None:
    try:
        job = queue.listing().get(trial.job_id)
    except QueueSilent as error:
        progress(f"the queue does not answer: {error.title}")
        return
    ended = job is None or job.state == "ENDED"
    # A report may be on its way over the file system.
    trial.absent = trial.absent + 1 if ended else 0
    state = "gone" if job is None else f"{job.state} {job.reason}".strip()
    if state != trial.state:
        trial.state = state
        progress(f"job {trial.job_id}: {state}")


def _found(trial: Trial, config: Config, ahead: float, seconds: float) -> Iterator[Check]:
    report = trial.report
    if report is None:
        yield _no_report(trial, config, seconds)
        return
    stored = (report.fwaction or {}).get("stored_data") or {}
    if report.state != "COMPLETED":
        why = str((stored.get("_exception") or {}).get("_stacktrace") or "").strip().splitlines()
        yield Check("trial job", "fail", f"it FIZZLED: {why[-1] if why else 'no reason'}")
        return
    host = report.host or stored.get("host")
    # By the file server's clock, as this host's is.
    written = trial.written - ahead
    yield Check("trial job", "pass", f"job {trial.job_id} ran on {host}{_times(trial, report)}")
    yield _runner(stored)
    yield _user(stored)
    late = max(0.0, trial.seen - written)
    hint = "attribute caches of the file system (acregmax of NFS): results come that much later"
    shown = f"{late:.1f} s after it was written" if late >= 0.05 else "at once"
    yield Check(
        "report seen", "warn" if late > _LATE else "pass", shown, hint if late > _LATE else ""
    )
    if stored.get("fwrunner"):
        told = "tell of what jobs write" if trial.told else "do not come; the outbox is listed"
        yield Check("events from there", "pass", told)
    ended = parse_time(report.completed_on)
    if ended is not None:
        yield clock("clock of the compute node", ended.timestamp() - written)


def _times(trial: Trial, report: Report) -> str:
    begin, end = parse_time(report.started_on), parse_time(report.completed_on)
    if begin is None or end is None:
        return ""
    waited = max(0.0, begin.timestamp() - trial.submitted)
    return f", {waited:.1f} s after it was submitted, for {(end - begin).total_seconds():.1f} s"


def _runner(stored: dict[str, Any]) -> Check:
    python, runner = stored.get("python"), stored.get("fwrunner")
    if runner is None:
        hint = "without fwrunner there is no outbox: ends are seen by events and sweeps. See queue.runner"
        return Check("runner there", "warn", f"Python {python}, not fwrunner", hint)
    ours = version("fwagent")
    if runner != ours:
        hint = f"this is fwagent {ours}: bring both to the same version"
        return Check("runner there", "warn", f"Python {python}, fwrunner {runner}", hint)
    return Check("runner there", "pass", f"Python {python}, fwrunner {runner}")


def _user(stored: dict[str, Any]) -> Check:
    theirs, ours = stored.get("user"), os.getuid()
    if theirs == ours:
        return Check("user there", "pass", f"the same, {ours}")
    hint = "reports of other users are not read: jobs must run as the user that the agent runs as"
    return Check("user there", "fail", f"user id {theirs} there, {ours} here", hint)


def _no_report(trial: Trial, config: Config, seconds: float) -> Check:
    words = last_words(str(trial.launch_dir), _LAUNCH_ID, trial.job_id)
    lines = [line for text in words.values() for line in text.strip().splitlines()]
    said = f": {lines[-1]}" if lines else ""
    if trial.absent >= _ABSENT:
        hint = f"is `{job_command(config)}` there on a compute node, and the launch root? See docs/operations.md"
        return Check("trial job", "fail", f"job {trial.job_id} ended without a report{said}", hint)
    hint = "it was cancelled. Where the queue is long: --wait with more seconds"
    told = f"job {trial.job_id} has not ended within {seconds:g} s: {trial.state or 'not seen'}"
    return Check("trial job", "warn", told, hint)
