"""One launch directory, as one start of its job reads and writes it.

All paths are absolute and fixed at the start, so a task may change the directory. One process alone, the
supervisor, writes here.
"""

import os
import time
from typing import Any, Callable, Dict, List, Optional

# All that a final report may need is imported before the tasks start: by the time of it fwrunner may have been
# replaced, or its file system be gone.
from fwrunner import places, protocol
from fwrunner.action import Action
from fwrunner.places import Place, leave, say
from fwrunner.protocol import rescue

PING_INTERVAL = 60.0

#: The spec key of a Firework that, when its job is started again, is to go on where it was cut.
RESUME = "_resume_requeued"

_FINAL_KEYS = ("fwaction", "state", "completed_on")


class NothingToRun(Exception):
    """No launch can be told from the directory, so there is nobody to report to: what is wrong, and a hint."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(f"{problem}\n  hint: {hint}")


class _Damaged(Exception):
    """``FW.json`` is not there, or holds no Firework."""


def check_meant(launch_id: int, meant: str) -> None:
    """Raise NothingToRun if the directory was staged for another launch than the one that this job is meant for."""
    if meant.isdigit() and int(meant) != launch_id:
        raise NothingToRun(
            f"this job is for launch {meant}, and the directory was staged for launch {launch_id} since",
            "nothing was run; the other launch has a job of its own",
        )


class Launch:
    """One launch directory, as one start of its job reads and writes it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._place = directory
        self._handle: Optional[int] = None
        self.offline = _offline_of(directory)
        ours = self.offline.get("fwagent")
        self.ours: Dict[str, Any] = ours if isinstance(ours, dict) else {}
        _check(self.offline, self.ours)
        self.launch_id: int = self.offline["launch_id"]
        #: Why there is nothing to run, although the launch is known; its Firework has no tasks then.
        self.damage: Optional[str] = None
        try:
            self.firework = _firework_of(directory)
        except _Damaged as error:
            self.damage = str(error)
            self.firework = {"spec": {"_tasks": []}}
        fw_id = self.firework.get("fw_id")
        token = self.ours.get("token")
        self.token: str = token if isinstance(token, str) else os.urandom(8).hex()
        self.ping_interval = _positive(self.ours.get("ping_interval"), PING_INTERVAL)
        self.report = protocol.Report(
            launch_id=self.launch_id,
            state="RUNNING",
            # As UTF-8 whatever the locale of the compute node: the login node compares it.
            launch_dir=os.fsencode(directory).decode("utf-8", "surrogateescape"),
            fw_id=fw_id if type(fw_id) is int else None,
            token=self.token,
            started_on=protocol.timestamp(),
            host=os.uname().nodename,
            attempt=_attempt_of(self.offline) + 1,
        )
        self._tails = self._reader_of_tails()
        self._taken_over = False
        self.written: Dict[str, Any] = {}
        #: The checkpoint to go on from, if this is not the first start and the Firework asks for it.
        self.resume: Optional[Dict[str, Any]] = None
        if self.report.attempt > 1 and self.firework["spec"].get(RESUME):
            self.resume = _checkpoint(self.offline, len(self.firework["spec"]["_tasks"]))
        if self.resume:
            self.written.update(checkpoint=self.resume)

    def ended(self) -> Optional[protocol.Report]:
        """Return the final report of an earlier start that could be left in another place only."""
        for directory in (self._outbox_path(), places.home()):
            report = directory and places.read_back(directory, self.report)
            if report:
                say(f"found in {directory}:")
                return report
        return None

    def start(self, **facts: Any) -> None:
        """Tell that the job has started, with the first ping."""
        self._handle = _open_directory(self.directory)
        if self.report.attempt > 1:
            self._tell_of_another()
        ours = {"protocol": protocol.PROTOCOL, "token": self.token, "attempt": self.report.attempt}
        self.written.update(started_on=self.report.started_on, fwagent=dict(self.ours, **ours))
        leave([self._offline_json(self.offline)])
        self._ping_json(facts).take()
        leave(self._outbox(self.report))

    def update(self, **changes: Any) -> None:
        """Add keys to ``FW_offline.json``, keeping what others put there."""
        self.written.update(changes)
        offline = self._look()
        if offline is not None:
            leave([self._offline_json(offline)])

    def ping(self, **facts: Any) -> None:
        """Tell that the job is alive, and what else there is to show of it."""
        if self._look() is not None:
            self._ping_json(facts).take()

    def finish(self, state: str, action: Action) -> bool:
        """Leave the final report; tell whether a file holds it.

        None does if the directory has been started again meanwhile: the last start decides.
        That is one in the launch directory or in the outbox. While neither is to be had, it lies below the
        home directory, or else in a line on stderr, and they are tried again for a while.
        """
        now = protocol.timestamp()
        self.written.update(fwaction=action, state=state, completed_on=now)
        offline = self._look()
        report = self.report._replace(
            state=state,
            fwaction=action,
            completed_on=now,
            checkpoint=self.written.get("checkpoint"),
            trackers=None if offline is None else self._tails(self._place),
        )
        if self._taken_over:
            _keep_to_ourselves(report)
            told = False
        else:
            told = self._told(report, self._places(report, offline))
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        return told

    def _told(self, report: protocol.Report, wanted: List[Place]) -> bool:
        refusing = leave(wanted)
        if len(refusing) == len(wanted):
            return self._rescue(report, wanted)
        if refusing and not self._outbox(report):
            # Staged for `lpad recover_offline`, which reads FW_offline.json alone.
            places.leave_anywhere([place for place in refusing if place.may_pass])
        return True

    def _reader_of_tails(self) -> Callable[[str], Optional[Dict[str, str]]]:
        trackers = self.firework["spec"].get("_trackers")
        if not trackers:
            return lambda _: None
        from fwrunner.tails import read_tails

        return lambda directory: read_tails(directory, trackers) or None

    def _places(self, report: protocol.Report, offline: Optional[Dict[str, Any]]) -> List[Place]:
        if offline is None:
            say(
                f"{self.directory} belongs to another launch by now: "
                f"the report of launch {self.launch_id} goes to its outbox only"
            )
            return self._outbox(report)
        action_json = Place(places.write_final, self._path(protocol.ACTION_JSON), report)
        return [action_json, self._offline_json(offline), *self._outbox(report)]

    def _offline_json(self, offline: Dict[str, Any]) -> Place:
        document = {key: offline[key] for key in offline if key not in _FINAL_KEYS}
        document.update(self.written)
        return Place(protocol.write_atomic, self._path(protocol.OFFLINE_JSON), document)

    def _ping_json(self, facts: Dict[str, Any]) -> Place:
        ping = dict(facts, ping_time=protocol.timestamp())
        return Place(protocol.write_atomic, self._path(protocol.PING_JSON), ping)

    def _outbox(self, report: protocol.Report) -> List[Place]:
        outbox = self._outbox_path()
        return [Place(places.drop, outbox, report)] if outbox else []

    def _outbox_path(self) -> Optional[str]:
        outbox = self.ours.get("outbox")
        try:
            return places.path_of(outbox) if isinstance(outbox, str) else None
        except UnicodeEncodeError:
            return None  # no path has such a text

    def _rescue(self, report: protocol.Report, refusing: List[Place]) -> bool:
        home = places.home()
        what = f"the report of launch {self.launch_id}, {report.state},"
        rescued = home is not None and Place(places.drop_at_home, home, report).take()
        if rescued:
            say(f"{what} is in {home} for now")
        elif places.to_stderr(rescue.line(report)):
            say(f"{what} is in the line above only: give this file to `fwagent recover --rescue`")
        if places.leave_anywhere(refusing):
            say(f"{what} has come to its place after all")
            if home is not None:
                places.take_back(home, report)
            return True
        if not rescued:
            say(f"{what} could not be left anywhere else")
        return rescued

    def _path(self, name: str) -> str:
        return os.path.join(self._place, name)

    def _look(self) -> Optional[Dict[str, Any]]:
        """Find the directory, and return its ``FW_offline.json``; None if it is not ours any more.

        It may be another launch's by now, or a later start's.
        """
        self._place = self._found()
        try:
            offline = protocol.read_offline(self._place)
        except (OSError, protocol.Unreadable):
            offline = self.offline  # gone or torn: what it was at the start
        # Staged again, for a rerun in the same directory, it names another launch.
        if not protocol.same_launch(offline, self.launch_id, self.token):
            return None
        # A scheduler that has lost sight of a node requeues the job, which may live on there.
        attempt, started_on = _attempt_of(offline), offline.get("started_on")
        later = (attempt, started_on) != (self.report.attempt, self.report.started_on)
        self._taken_over = later and attempt >= self.report.attempt
        return None if self._taken_over else offline

    def _tell_of_another(self) -> None:
        """Say so if an earlier start seems to be alive."""
        ping = protocol.read_ping(self.directory)
        host, pid = ping.get("host"), ping.get("pid")
        try:
            age = time.time() - os.stat(self._path(protocol.PING_JSON)).st_mtime
            if host == self.report.host and isinstance(pid, int):
                os.kill(pid, 0)
        except (OSError, OverflowError):
            return  # it has left no ping, or is gone
        if host and age < 2 * self.ping_interval:
            say(
                f"an earlier start, process {pid} on {host}, gave a sign of life {max(0.0, age):.0f} s ago. "
                "If it still runs, two share this directory; what counts is the end of this one"
            )

    def _found(self) -> str:
        if self._handle is None or os.path.isdir(self.directory):
            return self.directory
        try:
            moved_to = os.readlink(f"/proc/self/fd/{self._handle}")
        except OSError:
            return self.directory
        return moved_to if os.path.isdir(moved_to) else self.directory


def _attempt_of(offline: Dict[str, Any]) -> int:
    """Return the number of the last start that an ``FW_offline.json`` tells of, from 1 on; 0 if of none."""
    ours = offline.get("fwagent")
    attempt = ours.get("attempt") if isinstance(ours, dict) else None
    return attempt if type(attempt) is int and 0 <= attempt < 10**9 else 0


def _keep_to_ourselves(report: protocol.Report) -> None:
    what = f"launch {report.launch_id} was started again meanwhile: that this start"
    if report.state != "COMPLETED":
        say(f"{what} has {report.state} is not reported")
        return
    places.to_stderr(rescue.line(report))
    say(f"{what} has COMPLETED is in the line above only")


def _open_directory(path: str) -> Optional[int]:
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


def _checkpoint(offline: Dict[str, Any], tasks: int) -> Optional[Dict[str, Any]]:
    """Return the checkpoint that an earlier start left, if a run can go on from it."""
    checkpoint = offline.get("checkpoint")
    if checkpoint is None or _usable(checkpoint, tasks):
        return checkpoint
    say("the checkpoint of the earlier start cannot be used: all tasks are run again")
    return None


def _usable(checkpoint: Any, tasks: int) -> bool:
    if not isinstance(checkpoint, dict):
        return False
    number = checkpoint.get("_task_n")
    kinds = {"_all_stored_data": dict, "_all_update_spec": dict, "_all_mod_spec": list}
    whole = all(isinstance(checkpoint.get(key), kind) for key, kind in kinds.items())
    return whole and type(number) is int and 0 <= number < tasks


def _read(read: Callable[[str], Dict[str, Any]], path: str, passing: Any) -> Dict[str, Any]:
    """Read a document, again for a while if one of the errors that may pass comes."""
    for pause in places.BRIEFLY:
        try:
            return read(path)
        except passing:
            if not places.waited(pause):
                break
    return read(path)


def _offline_of(directory: str) -> Dict[str, Any]:
    try:
        return _read(protocol.read_offline, directory, protocol.Unreadable)
    except FileNotFoundError as error:
        raise NothingToRun(
            f"{error.strerror} in {directory}",
            "name the launch directory that fwagent, or qlaunch -r for an offline run, has made",
        ) from None
    except protocol.Unreadable as error:
        raise NothingToRun(
            f"{error} ({os.path.join(directory, protocol.OFFLINE_JSON)})",
            "if it stays so, cancel the job and have the Firework launched again",
        ) from None


def _firework_of(directory: str) -> Dict[str, Any]:
    """Read ``FW.json``; raise _Damaged."""
    path = os.path.join(directory, protocol.FW_JSON)
    try:
        firework = _read(protocol.read_json, path, (OSError, protocol.Unreadable))
    except (OSError, protocol.Unreadable) as error:
        problem = getattr(error, "strerror", None) or error
        raise _Damaged(f"{problem} ({path}): have the Firework launched again") from None
    spec = firework.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("_tasks"), list):
        raise _Damaged(f"{protocol.FW_JSON} has no list spec._tasks: is it a Firework? ({path})")
    return firework


def _check(offline: Dict[str, Any], ours: Dict[str, Any]) -> None:
    launch_id = offline.get("launch_id")
    if type(launch_id) is not int or not 0 <= launch_id <= protocol.MAX_INT:
        problem = f"{protocol.OFFLINE_JSON} has no launch_id"
        raise NothingToRun(problem, "have the Firework launched again")
    if ours.get("protocol", protocol.PROTOCOL) != protocol.PROTOCOL:
        raise NothingToRun(
            f"the directory was staged by another fwagent (protocol {ours['protocol']!r:.40}, "
            f"this fwrunner has {protocol.PROTOCOL})",
            "have the same version of fwagent on the login node and in the job",
        )


def _positive(value: Any, default: float) -> float:
    return value if isinstance(value, (int, float)) and 0 < value <= 1e6 else default
