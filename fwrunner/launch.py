"""One launch directory, as one start of its job reads and writes it.

All paths are absolute and fixed at the start, so a task may change the directory. What one place
refuses (a full disk, a folder that is gone) is told on stderr, and the next place is tried.
"""

import os
import sys
from typing import Any, Callable, Dict

from fwrunner import protocol
from fwrunner.action import Action

PING_INTERVAL = 60.0

_FINAL_KEYS = ("fwaction", "state", "completed_on")


class NothingToRun(Exception):
    """The launch directory cannot be run: what is wrong, and a hint."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(f"{problem}\n  hint: {hint}")


class Launch:
    """One launch directory, as one start of its job reads and writes it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.firework = _read(protocol.read_json, self._path(protocol.FW_JSON))
        self.offline = _read(protocol.read_offline, directory)
        ours = self.offline.get("fwagent")
        self.ours: Dict[str, Any] = ours if isinstance(ours, dict) else {}
        _check(self.firework, self.offline, self.ours)
        self.launch_id: int = self.offline["launch_id"]
        token = self.ours.get("token")
        self.token: str = token if isinstance(token, str) else os.urandom(8).hex()
        self.ping_interval = _positive(self.ours.get("ping_interval"), PING_INTERVAL)
        attempt = self.ours.get("attempt")
        self.report = protocol.Report(
            launch_id=self.launch_id,
            state="RUNNING",
            # As UTF-8 whatever the locale of the compute node: the login node compares it.
            launch_dir=os.fsencode(directory).decode("utf-8", "surrogateescape"),
            fw_id=self.firework.get("fw_id"),
            token=self.token,
            started_on=protocol.timestamp(),
            host=os.uname().nodename,
            attempt=attempt + 1 if isinstance(attempt, int) else 1,
        )
        self.written: Dict[str, Any] = {}

    def start(self) -> None:
        """Tell that the job has started."""
        ours = {"protocol": protocol.PROTOCOL, "token": self.token, "attempt": self.report.attempt}
        self.update(started_on=self.report.started_on, fwagent=dict(self.ours, **ours))
        self.ping()
        self._to_outbox(self.report)

    def update(self, **changes: Any) -> bool:
        """Add keys to ``FW_offline.json``, keeping what others put there; tell whether it took."""
        self.written.update(changes)
        offline = self._offline_now()
        if not self._is_ours(offline):
            return False
        document = {key: offline[key] for key in offline if key not in _FINAL_KEYS}
        document.update(self.written)
        return _try(protocol.write_atomic, self._path(protocol.OFFLINE_JSON), document)

    def ping(self) -> None:
        """Tell that the job is alive."""
        if self._is_ours(self._offline_now()):
            now = {"ping_time": protocol.timestamp()}
            _try(protocol.write_atomic, self._path(protocol.PING_JSON), now)

    def finish(self, state: str, action: Action) -> bool:
        """Leave the final report wherever it can be left; tell whether there is such a place."""
        report = self.report._replace(
            state=state,
            fwaction=action,
            completed_on=protocol.timestamp(),
            checkpoint=self.written.get("checkpoint"),
        )
        told = []
        if self._is_ours(self._offline_now()):
            told.append(_try(protocol.write_report, self._path(protocol.ACTION_JSON), report))
            told.append(self.update(fwaction=action, state=state, completed_on=report.completed_on))
        else:
            say(
                f"{self.directory} belongs to another launch by now: "
                f"the report of launch {self.launch_id} goes to its outbox only"
            )
        told.append(self._to_outbox(report))
        if not any(told):
            say(f"the report of launch {self.launch_id}, {state}, could not be left anywhere")
        return any(told)

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _offline_now(self) -> Dict[str, Any]:
        try:
            return protocol.read_offline(self.directory)
        except (OSError, protocol.Unreadable):
            return self.offline  # gone or torn: what it was at the start

    def _is_ours(self, offline: Dict[str, Any]) -> bool:
        # Staged again, for a rerun in the same directory, it names another launch.
        return protocol.same_launch(offline, self.launch_id, self.token)

    def _to_outbox(self, report: protocol.Report) -> bool:
        outbox = self.ours.get("outbox")
        return isinstance(outbox, str) and _try(_drop, outbox, report)


def _drop(outbox: str, report: protocol.Report) -> None:
    name = protocol.outbox_name(report.launch_id, str(report.token), report.final)
    protocol.write_report(os.path.join(outbox, name), report)


def _read(read: Callable[[str], Dict[str, Any]], path: str) -> Dict[str, Any]:
    try:
        return read(path)
    except FileNotFoundError as error:
        raise NothingToRun(
            f"{error.strerror} in {os.path.dirname(str(error.filename))}",
            "name the launch directory that fwagent, or qlaunch -r for an offline run, has made",
        ) from None
    except protocol.Unreadable as error:
        raise NothingToRun(
            f"{error} ({path})",
            "if it stays so, cancel the job and have the Firework launched again",
        ) from None


def _check(firework: Dict[str, Any], offline: Dict[str, Any], ours: Dict[str, Any]) -> None:
    spec = firework.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("_tasks"), list):
        raise NothingToRun(f"{protocol.FW_JSON} has no list spec._tasks", "is it a Firework?")
    if type(offline.get("launch_id")) is not int:
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


def say(text: str) -> None:
    """Tell the user something, on stderr."""
    to_stderr(f"fwrunner: {text}\n")


def to_stderr(text: str) -> None:
    """Write to stderr, if there is one."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        pass  # closed, or on a full disk


def _try(write: Callable[..., None], *args: Any) -> bool:
    try:
        write(*args)
    except Exception as error:
        say(f"not written: {type(error).__name__}: {error} ({args[0]})")
        return False
    return True
