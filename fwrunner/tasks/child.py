"""A process that a task starts, waits for, and never leaves behind."""

import os
import signal
import time
from _thread import get_ident
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Tuple

from fwrunner.signals import STOP, ending

if TYPE_CHECKING:
    import threading

#: Seconds in which a signal to the whole job has reached all its processes.
_OUR_TURN = 0.5
# Seconds between two looks whether a child has ended: the first time, and at most.
_LOOK, _LOOK_SELDOM = 0.001, 0.05

# Python has them from 3.8 on.
_spawn: Any = getattr(os, "posix_spawn", None)
_DUP2: Any = getattr(os, "POSIX_SPAWN_DUP2", None)

#: The child that a thread waits for now, by the thread's ident. Only background tasks have another thread.
_waited_for: Dict[int, Any] = {}


def run_command(command: Dict[str, Any], data: Any, streams: Dict[str, Any]) -> Tuple[int, Any]:
    """Run a command to its end; return its exit code and what came out of its pipes.

    ``command`` and ``streams`` are arguments of ``subprocess.Popen``; ``data`` are the bytes for its
    stdin, or None. Should anything interrupt the wait, the child is ended first.
    """
    started: List[Any] = []
    thread = get_ident()
    try:
        with _signals_held():
            started.append(_started(dict(command, args=_encoded(command["args"])), streams))
        _waited_for[thread] = started[0]
        texts = started[0].communicate(data)
        if started[0].returncode < 0:
            # A scheduler that ends a job signals all its processes, in any order: ours may be about to come, and
            # it tells more than how the command died.
            time.sleep(_OUR_TURN)
    except BaseException as error:
        for process in started:
            _end(process, getattr(error, "grace", 0.0))
        raise
    finally:
        _waited_for.pop(thread, None)
    return started[0].returncode, texts


def _started(command: Dict[str, Any], streams: Dict[str, Any]) -> Any:
    if _is_plain(command, streams):
        return _Shell(command["args"], streams)
    import subprocess

    return subprocess.Popen(**command, **streams)


def _is_plain(command: Dict[str, Any], streams: Dict[str, Any]) -> bool:
    """Tell whether it is for the usual shell, with no pipe, and this Python (3.8 or newer) starts such by itself."""
    usual = command.get("shell") and command.get("executable") is None
    return bool(usual) and _spawn is not None and -1 not in streams.values()


class _Shell:
    """A shell command, as far as ``subprocess.Popen`` is used here.

    Of what a job with a ScriptTask asks of the file system, that module with those that it imports is a tenth.
    """

    def __init__(self, script: bytes, streams: Dict[str, Any]) -> None:
        names = ("stdin", "stdout", "stderr")
        given = [(streams.get(name), number) for number, name in enumerate(names)]
        self._pid = _spawn(
            "/bin/sh",
            ["/bin/sh", "-c", script],
            os.environ,
            file_actions=[(_DUP2, f.fileno(), number) for f, number in given if f],
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # which Python ignores
        )
        self.returncode: Optional[int] = None

    def communicate(self, _data: None) -> Tuple[None, None]:
        self._wait(0)
        return None, None

    def poll(self) -> Optional[int]:
        if self.returncode is None:
            self._wait(os.WNOHANG)
        return self.returncode

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _wait(self, how: int) -> None:
        try:
            pid, status = os.waitpid(self._pid, how)
        except ChildProcessError:
            self.returncode = 0  # as Popen has it, where SIGCHLD is ignored
            return
        if pid:
            code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            self.returncode = code

    def _send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self._pid, number)


def _encoded(argument: Any) -> Any:
    # The locale of a job may be ASCII, and Python's with it; files and shells take UTF-8 all the same.
    if isinstance(argument, (list, tuple)):
        return [_encoded(each) for each in argument]
    return argument.encode("utf-8", "surrogateescape") if isinstance(argument, str) else argument


def end_child_of(thread: "threading.Thread") -> None:
    """End the process that another thread waits for, if there is one."""
    process = _waited_for.get(thread.ident or 0)
    if process is not None:
        _end(process, 0.0)


def _end(process: Any, grace: float) -> None:
    """The job is being ended: a command may go on for so many seconds, but must not outlive us."""
    for seconds, end in ((grace, process.terminate), (STOP, process.kill)):
        if _ended_within(seconds, process):
            return
        end()


def _ended_within(seconds: float, process: Any) -> bool:
    until, pause = time.monotonic() + seconds, _LOOK
    while process.poll() is None:
        left = until - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LOOK_SELDOM)
    return True


@contextmanager
def _signals_held() -> Iterator[None]:
    """Handle signals only afterwards: a child that nobody knows of yet cannot be ended."""
    came: List[int] = []
    before: Dict[int, Any] = {}
    try:
        for number in ending():
            before[number] = signal.signal(number, lambda number, _frame: came.append(number))
    except ValueError:
        pass  # only the main thread handles signals
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for received in came:
        os.kill(os.getpid(), received)
