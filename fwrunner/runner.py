"""Run one Firework: checkpoint, ping, act, and always leave one final report.

All paths are absolute and fixed at the start, so a task may change the directory. What one place
refuses (a full disk, a folder that is gone) is told on stderr, and the next place is tried.
"""

import contextlib
import json
import os
import signal
import sys
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from fwrunner import protocol
from fwrunner.action import SKIPS, Action, Fault, apply_mods, failure, plain, read_action
from fwrunner.tasks import RunTask, canonical, load

PING_INTERVAL = 60.0

#: Exit status of the process.
STATUS = {"COMPLETED": 0, "FIZZLED": 1}
NOTHING_TO_RUN = 2

# Of a stack trace, what is told at most: its end.
_MAX_TRACE = 1000000

_FINAL_KEYS = ("fwaction", "state", "completed_on")

# FireWorks acts on these; fwrunner does not, so far.
_UNSUPPORTED = (
    *("_background_tasks", "_recovery", "_files_in", "_files_out", "_pass_job_info"),
    *("_preserve_fworker", "_add_fworker", "_add_launchpad_and_fw_id"),
)


class NothingToRun(Exception):
    """The launch directory cannot be run: what is wrong, and a hint."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(f"{problem}\n  hint: {hint}")


class Terminated(BaseException):
    """SIGTERM came while a task ran."""


def run(launch_dir: str, ping_interval: Optional[float] = None) -> int:
    """Run the Firework of a launch directory; return the exit status. May raise NothingToRun."""
    launch = Launch(os.path.abspath(launch_dir))
    done = protocol.read_report(launch.directory)
    if isinstance(done, protocol.Report) and done.final:
        _say(f"launch {launch.launch_id} has ended as {done.state} before; nothing is run again")
        return STATUS[done.state]
    with _Signals() as signals:
        launch.start()
        with _pinging(launch, ping_interval or launch.ping_interval):
            state, action = _Run(launch, signals).execute()
        return STATUS[state] if launch.finish(state, action) else STATUS["FIZZLED"]


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
            _say(
                f"{self.directory} belongs to another launch by now: "
                f"the report of launch {self.launch_id} goes to its outbox only"
            )
        told.append(self._to_outbox(report))
        if not any(told):
            _say(f"the report of launch {self.launch_id}, {state}, could not be left anywhere")
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


class _Run:
    """The tasks of one Firework, and what they have given so far."""

    def __init__(self, launch: Launch, signals: "_Signals") -> None:
        self.launch = launch
        self.signals = signals
        spec = launch.firework["spec"]
        # Apart from those in the spec, which a task may alter.
        self.tasks: List[Any] = [canonical(i) for i in json.loads(json.dumps(spec["_tasks"]))]
        self.spec: Dict[str, Any] = dict(spec, _fw_env=_worker_env(launch.firework))
        self.number = 0
        self.given: Dict[str, Any] = {"stored_data": {}, "update_spec": {}, "mod_spec": []}

    def execute(self) -> Tuple[str, Action]:
        """Run the tasks; return the final state and action, whatever happens."""
        try:
            os.chdir(self.launch.directory)
            return "COMPLETED", self._all_tasks()
        except BaseException as error:
            if os.getpid() != self.signals.pid:
                raise  # in a process that a task forked: it has nothing to tell
            return "FIZZLED", self._failure(error)

    def _all_tasks(self) -> Action:
        ignored = [key for key in _UNSUPPORTED if self.spec.get(key)]
        if ignored:
            _say(f"not supported yet, so without effect: {', '.join(ignored)}")
        action = read_action(None)
        for number, run_task in enumerate(self._loaded()):
            self.number = number
            self._checkpoint()
            action = self._one_task(run_task)
            if any(action[key] for key in SKIPS):
                break
        return action

    def _checkpoint(self) -> None:
        """Tell from where a task-level rerun could go on."""
        checkpoint = {f"_all_{key}": plain(value) for key, value in self.given.items()}
        checkpoint["_task_n"] = self.number
        size = len(json.dumps(checkpoint))
        if size <= protocol.MAX_CHECKPOINT_SIZE:
            self.launch.update(checkpoint=checkpoint)
        else:
            # That of an earlier task is as good, if less is saved by it.
            _say(f"no checkpoint before task {self.number + 1}: it would have {size} bytes")

    def _loaded(self) -> List[RunTask]:
        if not self.tasks:
            raise Fault("the Firework has no tasks")
        loaded = []
        for number, task in enumerate(self.spec["_tasks"]):
            self.number = number
            with self.signals.armed():
                loaded.append(load(task))
        return loaded

    def _one_task(self, run_task: RunTask) -> Action:
        """Run one task; return its action with all that was given so far."""
        with self.signals.armed():
            raw = read_action(run_task(self.spec))
            if os.getpid() != self.signals.pid:
                sys.exit()
            action: Action = {key: plain(value, (key,)) for key, value in raw.items()}
        self.given["stored_data"].update(action["stored_data"])
        self.given["update_spec"].update(action["update_spec"])
        self.given["mod_spec"].extend(action["mod_spec"])
        # The next task gets the very objects, as in FireWorks; the report has copies of its own.
        self.spec.update(raw["update_spec"])
        apply_mods(self.spec, raw["mod_spec"])
        action.update(self.given)
        size = len(json.dumps(action))
        if size > protocol.MAX_ACTION_SIZE:
            raise Fault(
                f"the results are {size} bytes of JSON; at most {protocol.MAX_ACTION_SIZE} can be "
                "told: leave large data in files"
            )
        return action

    def _failure(self, error: BaseException) -> Action:
        import traceback

        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        _to_stderr(trace)
        task = self.tasks[self.number] if self.tasks else None
        message = "runtime error during task"
        if isinstance(error, (Fault, Terminated, KeyboardInterrupt)):
            name = task.get("_fw_name") if isinstance(task, dict) else None
            message = f"task {self.number + 1} of {len(self.tasks)} ({name}): {error}"
        return failure(message, task, trace[-_MAX_TRACE:], error)


def _worker_env(firework: Dict[str, Any]) -> Dict[str, Any]:
    try:
        env = firework["launches"][-1]["fworker"]["env"]
    except (KeyError, IndexError, TypeError):
        env = None
    return env if isinstance(env, dict) else {}


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


def _say(text: str) -> None:
    _to_stderr(f"fwrunner: {text}\n")


def _to_stderr(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        pass  # closed, or on a full disk


def _try(write: Callable[..., None], *args: Any) -> bool:
    try:
        write(*args)
    except Exception as error:
        _say(f"not written: {type(error).__name__}: {error} ({args[0]})")
        return False
    return True


@contextlib.contextmanager
def _pinging(launch: Launch, interval: float) -> Iterator[None]:
    stop = threading.Event()

    def ping_until_stopped() -> None:
        while not stop.wait(interval):
            launch.ping()

    thread = threading.Thread(target=ping_until_stopped, name="fwrunner-ping", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        _say(f"no pings but the first and the last: {error}")
    try:
        yield
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join(1)
        launch.ping()


class _Signals:
    """Turns SIGTERM and SIGINT into an exception while a task runs, and at no other time."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.received = 0
        self._armed = False
        self._before: Dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle) or signal.SIG_DFL
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Let the signals raise; the one that came before does so at once."""
        self._armed = True
        try:
            if self.received:
                self._raise()
            yield
        finally:
            self._armed = False

    def _handle(self, number: int, _: Any) -> None:
        if os.getpid() != self.pid:
            # In a process that a task forked (multiprocessing ends its workers by SIGTERM).
            signal.signal(number, self._before[number])
            os.kill(os.getpid(), number)
            return
        self.received = number
        if self._armed:
            self._raise()

    def _raise(self) -> None:
        self._armed = False
        kind = KeyboardInterrupt if self.received == signal.SIGINT else Terminated
        raise kind(f"ended by {signal.Signals(self.received).name}")
