"""`fwagent doctor`: what must be right for the agent to work, each with what was seen and what to do.

A check looks at one thing and changes nothing that lasts. What it cannot find out is a warning, never a silence.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from agent import filesystem, modes, service
from agent.config import Config
from agent.health import read_status, syncs
from agent.inotify import Inotify
from agent.jobs import QueueSilent
from agent.lease import describe, is_gone
from agent.locks import seen
from agent.printable import when
from agent.queue import open_queue
from agent.queue.batch import LARGEST_ARRAY
from agent.queue.command import run
from agent.queue.script import Scripts
from agent.queue.settings import read_settings
from agent.recover import IGNORED
from agent.stage import prepare_root
from fwcore.errors import FwagentError
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.diagnosis import Diagnosis
from fwcore.settings import passed_over
from fwrunner.protocol import rescue, timestamp

Verdict = Literal["pass", "warn", "fail"]

#: Seconds within which the database must have answered.
_TIMEOUT = 5.0
#: Seconds of a round trip from which on it is worth telling, and that clocks may be apart.
_SLOW, _APART = 0.1, 5.0
#: Bytes that should be free below the launch root.
_ROOM = 1 << 30
#: What a user's programs may have of inotify, and how much of it is enough; Linux itself gives 128 instances.
INOTIFY = Path("/proc/sys/fs/inotify")
_ENOUGH = {"watches": 8192, "instances": 128}
_MARKS = {"pass": "ok  ", "warn": "warn", "fail": "FAIL"}
_COMMANDS = {
    "slurm": ("sbatch", "squeue", "scancel"),
    "pbs": ("qsub", "qstat", "qdel"),
    "sge": ("qsub", "qstat", "qdel"),
    "lsf": ("bsub", "bjobs", "bkill"),
}
#: What tells the limits of a scheduler, and their names: of jobs that it keeps, of elements of an array. 0 is none.
_LIMITS = {
    "slurm": (("scontrol", "show", "config"), "MaxJobCount", "MaxArraySize"),
    "pbs": (("qstat", "-Bf"), "max_queued", "max_array_size"),
    "sge": (("qconf", "-sconf"), "max_u_jobs", "max_aj_tasks"),
    "lsf": (("bparams", "-a"), "MAX_JOB_NUM", "MAX_JOB_ARRAY_SIZE"),
}
#: Seconds for a command that only tells something.
_PATIENCE = 10.0
_OLD_WAYS = re.compile(r"\b(?:lpad\s[^|;&]*recover_offline|qlaunch\b)")


@dataclass(frozen=True)
class Check:
    """One finding: ``title`` of what was looked at, ``seen``, and a ``hint`` where something should be done."""

    title: str
    verdict: Verdict
    seen: str
    hint: str = ""


def examine(config: Config, path: Path) -> Iterator[Check]:
    """Yield all checks of a configuration that was read from a file; never raises for what it finds."""
    yield from _guarded("configuration", lambda: _configuration(config, path))
    yield from _guarded("database", lambda: _database(config))
    yield from _guarded("launch root", lambda: _launch_root(config))
    yield from _guarded("file events", lambda: _events(config))
    yield from _guarded("queue", lambda: _queue(config))
    yield from _guarded("monitor", lambda: _monitor(config, path))
    yield from _guarded("service", _service)
    yield from _guarded("old ways", _old_ways)
    yield from _guarded("left behind", lambda: _left_behind(config))


def _guarded(title: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from check()
    except FwagentError as error:
        yield Check(title, "fail", error.title, error.hint)
    except OSError as error:
        yield Check(title, "warn", f"could not be looked at: {error}")


def _configuration(config: Config, path: Path) -> Iterator[Check]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o022:
        yield Check(
            "configuration",
            "warn",
            "others may change it: it names commands that are run as you",
            f"chmod go-w {path}",
        )
    if config.launchpad.file is not None and (keys := passed_over(config.launchpad.file)):
        yield Check(
            "configuration",
            "warn",
            f"{', '.join(keys)} in {config.launchpad.file} does nothing, in FireWorks 2.1 and here: no TLS is used",
            "write mongoclient_kwargs: {tls: true, tlsCAFile: /path/ca.pem} there",
        )
    yield Check("configuration", "pass", f"{path}, worker {config.fworker().name!r}")


def _database(config: Config) -> Iterator[Check]:
    launchpad = config.connect(timeout=_TIMEOUT)
    try:
        yield from _server(launchpad)
        yield from _locks(launchpad)
        if (worker := _worker(config)) is not None:
            yield from _agent(worker, launchpad, read_status(config.own(launchpad.where)) or {})
    finally:
        launchpad.close()


def _worker(config: Config) -> str | None:
    """Return the worker's name; None for a file that cannot be used, which the first check tells."""
    try:
        return config.fworker().name
    except FwagentError:
        return None


def _server(launchpad: LaunchPad) -> Iterator[Check]:
    facts = launchpad.diagnose()
    kind = f"replica set {facts.replica_set}" if facts.replica_set else "standalone"
    user = f"user {facts.user}" if facts.user else "no authentication"
    yield Check("database", "pass", f"{launchpad.where}: MongoDB {facts.version}, {kind}, {user}")
    yield from _found_in(facts)


def _found_in(facts: Diagnosis) -> Iterator[Check]:
    trip = f"{facts.round_trip * 1000:.1f} ms"
    slow = facts.round_trip > _SLOW
    hint = "everything works, a pass takes longer: an agent nearer to it would be quicker"
    yield Check("round trip", "warn" if slow else "pass", trip, hint if slow else "")
    if facts.unwritable:
        hint = "the user needs the role readWrite on this database"
        yield Check("writable", "fail", facts.unwritable, hint)
    else:
        yield Check("writable", "pass", "a document was stored and removed")
    if not facts.initialized:
        hint = "check the name of the database; `fwagent add` makes a new one, `lpad reset` erases what is there"
        yield Check("LaunchPad", "fail", "there is none in this database", hint)
    elif facts.missing_indexes:
        missing = ", ".join(facts.missing_indexes[:5])
        more = f" and {len(facts.missing_indexes) - 5} more" if facts.missing_indexes[5:] else ""
        hint = "lpad admin tuneup (without them every look reads whole collections)"
        yield Check("indexes", "warn", f"missing: {missing}{more}", hint)
    else:
        yield Check("indexes", "pass", "all of FireWorks' are there")
    yield clock("clock of the database", facts.clock_ahead)


def clock(title: str, ahead: float) -> Check:
    """Return the check of a clock that is so many seconds ahead of this host's."""
    apart = abs(ahead) > _APART
    side = "ahead of" if ahead > 0 else "behind"
    hint = "have this host synchronize its clock (chrony, ntp); nothing is lost, times are wrong"
    told = f"{abs(ahead):.1f} s {side} this host" if abs(ahead) >= 0.05 else "as on this host"
    return Check(title, "warn" if apart else "pass", told, hint if apart else "")


def _locks(launchpad: LaunchPad) -> Iterator[Check]:
    found = seen(launchpad.locks(is_gone=is_gone))
    for lock in found:
        hint = f"if none does: {lock['unlock']}" if lock["unlock"] else ""
        what = f"the workflow of Firework {lock['fw_id']} is locked by {lock['holder']}"
        yield Check("locks", "warn", f"{what}; {lock['why']}", hint)
    if not found:
        yield Check("locks", "pass", "no workflow is locked by somebody who may be gone")


def _agent(worker: str, launchpad: LaunchPad, told: dict[str, Any]) -> Iterator[Check]:
    held = launchpad.lease(worker)
    wish = launchpad.wish(worker)
    if asked := modes.told(modes.document(wish, followed=None)):
        yield Check("mode", "warn", f"{asked}: {modes.WORDS[wish.mode][1]}", "fwagent resume")
    if (held is None or not held[1]) and syncs(told, timestamp()):
        last = f"{when(told.get('last_pass'))} on {told.get('host')}"
        yield Check("agent", "pass", f"`fwagent sync` serves this worker, last at {last}")
    elif held is None or not held[1]:
        hint = "fwagent service install, or fwagent run, or fwagent sync from cron"
        yield Check("agent", "warn", "none serves this worker", hint)
    elif is_gone(held[0].host, held[0].pid):
        yield Check("agent", "warn", f"{describe(held[0])} is gone; its lease ends within a minute")
    else:
        yield Check("agent", "pass", f"{describe(held[0])} serves this worker")


def _launch_root(config: Config) -> Iterator[Check]:
    root = config.launch.root
    prepare_root(root)
    mount = filesystem.mount_of(root)
    trial = filesystem.tried(config.private)
    yield Check("launch root", "pass", f"{root} on {mount.kind} ({mount.source})")
    if not trial.replaces:
        hint = "put launch.root elsewhere: reports rely on a rename that replaces a file whole"
        yield Check("rename", "fail", "a renamed file did not replace the other", hint)
    else:
        yield Check("rename", "pass", "replaces a file whole")
    yield clock("clock of the file server", trial.clock_ahead)
    space = os.statvfs(root)
    free = space.f_bavail * space.f_frsize
    scarce = free < _ROOM or (space.f_files > 0 and space.f_favail < 1000)
    told = f"{free / (1 << 30):.1f} GiB free, {space.f_favail} files more (quotas may say less)"
    hint = "remove old launch directories, or move launch.root"
    yield Check("space", "warn" if scarce else "pass", told, hint if scarce else "")
    # Only what is over: the rest of its output has as many forms as there are systems.
    over = " ".join(_said("quota", "-q").split())
    if over:
        yield Check("quota", "warn", over[:200], hint)


def _said(*argv: str) -> str:
    """Return what a command prints, "" if there is none, or it takes too long."""
    try:
        return run(argv, timeout=_PATIENCE).stdout
    except QueueSilent:
        return ""


def _events(config: Config) -> Iterator[Check]:
    mount = filesystem.mount_of(config.launch.root)
    if mount.remote:
        seconds = config.sync.outbox_interval
        told = f"{mount.kind} tells nothing of other hosts' changes; the outbox is listed every {seconds:g} s"
        yield Check("file events", "pass", told)
    else:
        yield Check("file events", "pass", f"{mount.kind} tells of changes at once")
    yield _inotify()


def _inotify() -> Check:
    """Tell the limits of this user's programs together, and whether one more can have events at all."""
    limits = {kind: _number(INOTIFY / f"max_user_{kind}") for kind in _ENOUGH}
    known = {kind: limit for kind, limit in limits.items() if limit is not None}
    told = " and ".join(f"{limit} {kind}" for kind, limit in known.items()) or "limits not known"
    told += " for all programs of yours"
    scarce = [kind for kind, limit in known.items() if limit < _ENOUGH[kind]]
    try:
        Inotify(lambda _directory, _name: None).close()
    except OSError as error:
        told, scarce = f"{error.strerror}; {told}", scarce or ["instances"]
    if not scarce:
        return Check("inotify", "pass", told)
    names = " and ".join(f"fs.inotify.max_user_{kind}" for kind in scarce)
    return Check(
        "inotify", "warn", told, f"sweeps find what is not watched; root may raise {names}"
    )


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _queue(config: Config) -> Iterator[Check]:
    kind = config.queue.type
    missing = [name for name in _COMMANDS.get(kind, ()) if not shutil.which(name)]
    if missing:
        hint = "load the scheduler's module, or correct queue.type; a service needs it in its PATH"
        yield Check("queue", "fail", f"{kind}: there is no {', '.join(missing)} on PATH", hint)
    command = job_command(config)
    if kind == "none":
        told = "none: you submit the FW_submit.script of each launch directory"
        yield Check("queue", "warn", told, 'queue.type = "slurm", "pbs", "sge", "lsf" or "local"')
    elif not missing:
        yield _answers(config, f"{kind}; jobs run `{command}`")
        yield from _limits(config)


def _answers(config: Config, told: str) -> Check:
    try:
        open_queue(config).listing()
    except QueueSilent as error:
        hint = error.hint or "nothing is lost meanwhile: the agent waits until it answers"
        return Check("queue", "fail", f"{config.queue.type} does not answer: {error.title}", hint)
    return Check("queue", "pass", told)


def job_command(config: Config) -> str:
    """Return what submit scripts run; raise ConfigError where none can be made."""
    Scripts(config)
    adapter = read_settings(config).adapter
    return config.runner if adapter is None else str(adapter.values["rocket_launch"])


def _limits(config: Config) -> Iterator[Check]:
    if config.queue.type not in _LIMITS:
        return
    command, most_jobs, largest_array = _LIMITS[config.queue.type]
    limits = {**_numbers(_said(*command), (most_jobs, largest_array)), **_own_limits(config)}
    if not limits:
        return
    told = ", ".join(f"{name} {value}" for name, value in limits.items())
    told += f"; launch.max_queued is {config.launch.max_queued}"
    array = limits.pop(largest_array, 0)
    most = min((value for value in limits.values() if value), default=0)
    if 0 < most < config.launch.max_queued:
        hint = "more is not lost, it waits; set launch.max_queued to what is left for you"
        yield Check("limits", "warn", told, hint)
    elif config.queue.array and 0 < array < min(LARGEST_ARRAY, config.launch.max_queued):
        hint = "arrays that are refused are tried again as smaller ones: launching takes longer"
        yield Check("limits", "warn", told, hint)
    else:
        yield Check("limits", "pass", told)


def _numbers(text: str, names: Iterable[str]) -> dict[str, int]:
    """Return those limits that a text tells; PBS has them for each of its users as ``[u:PBS_GENERIC=100]``."""
    pattern = r"^\s*{}\W+(?:u:PBS_GENERIC=)?(\d+)"
    found = {name: re.search(pattern.format(name), text, re.MULTILINE) for name in names}
    return {name: int(match[1]) for name, match in found.items() if match}


def _own_limits(config: Config) -> dict[str, int]:
    """Return Slurm's limit of this user's jobs, of the account that has the lowest, where accounting tells."""
    if config.queue.type != "slurm":
        return {}
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return {}
    text = _said("sacctmgr", "-nP", "show", "associations", f"user={user}", "format=MaxSubmitJobs")
    found = [int(line) for line in text.split() if line.isdigit()]
    return {"MaxSubmitJobs": min(found)} if found else {}


def _monitor(config: Config, path: Path) -> Iterator[Check]:
    metrics = config.monitor.metrics_file
    if metrics is not None and not os.access(metrics.parent, os.W_OK | os.X_OK):
        hint = "make the directory, or have its owner let you write there"
        yield Check("metrics", "warn", f"{metrics} cannot be written", hint)
    elif metrics is not None and metrics.suffix != ".prom":
        hint = "the textfile collector reads *.prom only"
        yield Check("metrics", "warn", f"{metrics} does not end with .prom", hint)
    elif metrics is not None:
        yield Check("metrics", "pass", str(metrics))
    mode = stat.S_IMODE(path.stat().st_mode)
    if config.monitor.heartbeat_url is not None and mode & 0o077:
        told = f"others can read the heartbeat's URL in {path}"
        yield Check("heartbeat", "warn", told, f"chmod 600 {path}")


def _service() -> Iterator[Check]:
    try:
        service.check_manager()
    except service.ServiceError as error:
        yield Check("service", "warn", error.title, error.hint)
        return
    yield _unit()
    yield _linger()


def _unit() -> Check:
    state = service.state(service.Service())
    if not state["installed"]:
        told = "systemd is there, fwagent.service is not"
        return Check("service", "warn", told, "fwagent service install")
    told = f"{state['unit']} is {state['active']}"
    told += f": {state['status']}" if state["status"] else ""
    if state["active"] != "active":
        return Check("service", "warn", told, "fwagent service logs")
    return Check("service", "pass", told)


def _linger() -> Check:
    hint = (
        "loginctl enable-linger; where that is not allowed ask for it, or run fwagent sync by cron"
    )
    try:
        if service.lingering():
            return Check("linger", "pass", "services of yours go on after you log out")
    except service.ServiceError as error:
        return Check("linger", "warn", f"not known: {error.title}", hint)
    return Check("linger", "warn", "services of yours end when you log out", hint)


def _old_ways() -> Iterator[Check]:
    text = _said("crontab", "-l")
    jobs = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    found = [command for line in jobs for command in _OLD_WAYS.findall(line)]
    if found:
        hint = "fwagent does both, and each would submit up to its own limit; take them out: `crontab -e`"
        yield Check("cron", "warn", f"crontab still runs: {'; '.join(found[:3])}", hint)
    else:
        yield Check("cron", "pass", "no `lpad recover_offline` and no `qlaunch` in it")


def _left_behind(config: Config) -> Iterator[Check]:
    places = {
        Path.home()
        / rescue.PATH: "reports of jobs that could write nowhere else; fwagent takes those of its launches",
        config.private
        / IGNORED: "reports that are nobody's in this database: see docs/operations.md",
    }
    for place, what in places.items():
        count = len(list(place.glob("*.json"))) if place.is_dir() else 0
        if count:
            yield Check("left behind", "warn", f"{count} in {place}", what)


def document(checks: list[Check]) -> dict[str, Any]:
    """Return what ``--json`` prints: ``host``, ``verdict`` (the worst) and ``checks``."""
    verdicts = [check.verdict for check in checks]
    worst = next((each for each in ("fail", "warn") if each in verdicts), "pass")
    return {
        "host": socket.gethostname(),
        "verdict": worst,
        "checks": [asdict(check) for check in checks],
    }


def lines(check: Check) -> list[str]:
    """Return a check for people."""
    found = [f"{_MARKS[check.verdict]}  {check.title}: {check.seen}"]
    return [*found, f"      -> {check.hint}"] if check.hint else found
