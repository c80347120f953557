"""A process that a task starts, waits for, and never leaves behind."""

import os
import signal
import subprocess
import threading
from contextlib import contextmanager
from time import sleep
from typing import Any, Dict, Iterator, List, Tuple

from fwrunner.signals import STOP, ending

#: Seconds in which a signal to the whole job has reached all its processes.
_OUR_TURN = 0.5

#: The child that a thread waits for now, by the thread's ident. Only background tasks have another thread.
_waited_for: Dict[int, Any] = {}


def run_command(command: Dict[str, Any], data: Any, streams: Dict[str, Any]) -> Tuple[int, Any]:
    """Run a command to its end; return its exit code and what came out of its pipes.

    ``command`` and ``streams`` are arguments of ``subprocess.Popen``; ``data`` are the bytes for its
    stdin, or None. Should anything interrupt the wait, the child is ended first.
    """
    started: List[Any] = []
    thread = threading.get_ident()
    try:
        with _signals_held():
            started.append(
                subprocess.Popen(**dict(command, args=_encoded(command["args"])), **streams)
            )
        _waited_for[thread] = started[0]
        texts = started[0].communicate(data)
        if started[0].returncode < 0:
            # A scheduler that ends a job signals all its processes, in any order: ours may be about to come, and
            # it tells more than how the command died.
            sleep(_OUR_TURN)
    except BaseException as error:
        for process in started:
            _end(process, getattr(error, "grace", 0.0))
        raise
    finally:
        _waited_for.pop(thread, None)
    return started[0].returncode, texts


def _encoded(argument: Any) -> Any:
    # The locale of a job may be ASCII, and Python's with it; files and shells take UTF-8 all the same.
    if isinstance(argument, (list, tuple)):
        return [_encoded(each) for each in argument]
    return argument.encode("utf-8", "surrogateescape") if isinstance(argument, str) else argument


def end_child_of(thread: threading.Thread) -> None:
    """End the process that another thread waits for, if there is one."""
    process = _waited_for.get(thread.ident or 0)
    if process is not None:
        _end(process, 0.0)


def _end(process: Any, grace: float) -> None:
    """The job is being ended: a command may go on for so many seconds, but must not outlive us."""
    for seconds, end in ((grace, process.terminate), (STOP, process.kill)):
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            end()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Handle signals only afterwards: a child that nobody knows of yet cannot be ended."""
    came: List[int] = []
    before: Dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in ending():
            before[number] = signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for received in came:
        os.kill(os.getpid(), received)
