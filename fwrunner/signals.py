"""The signals by which a job is ended or suspended: what the supervisor does with them, and the tasks.

Schedulers send SIGTERM before they kill, and before that, if asked to (in Slurm ``--signal=B:USR1@60``),
a warning, which may be any signal. A warning leaves a command the time to save its state; all of them end
the Firework. SIGHUP tells that a connection is lost; under `nohup` it is ignored, and stays so.
"""

import contextlib
import os
import signal
from typing import Any, Dict, Iterator, List, Tuple

from fwrunner.node import time_left

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def _others() -> Tuple[int, ...]:
    """Return what else ends a process by default: somebody has chosen it as a warning, if it comes at all."""
    names = ("USR1", "USR2", "XCPU", "ALRM", "VTALRM", "PROF", "IO", "PWR")
    found = [getattr(signal, f"SIG{name}", None) for name in names]
    first, last = (getattr(signal, name, 0) for name in ("SIGRTMIN", "SIGRTMAX"))
    realtime = range(first, last + 1) if first else ()
    return (*(number for number in found if number is not None), *realtime)


WARNINGS = _others()
SIGNALS = _STOPS + WARNINGS

#: Suspend the job and let it go on. SIGSTOP does so too, but nobody can see that one coming.
SUSPEND, RESUME = signal.SIGTSTP, signal.SIGCONT

#: Means nothing, but wakes a system call. Python sees a signal only between two of its instructions: one
#: that comes just before a task goes to sleep in the kernel would be seen only when it wakes.
NUDGE = signal.SIGURG

#: Seconds that a task has to stop in. After SIGTERM the scheduler kills: PBS after 10, Slurm after 30.
STOP = 5.0
#: Seconds that a command has after a warning, if the scheduler has not told the job's end, ...
_WARNED = 20.0
#: ... and those before that end that are ours.
_RESERVE = 15.0


class Terminated(BaseException):
    """A signal to end the job came while a task ran; SIGINT is a KeyboardInterrupt."""

    #: Seconds that a running command, which has had the signal too, may go on.
    grace = 0.0


def ending() -> Tuple[int, ...]:
    """Return the signals that end this job: all of them, but for a SIGHUP that is ignored."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return tuple(number for number in SIGNALS if not (ignored and number == signal.SIGHUP))


def name_of(number: int) -> str:
    """Return what a signal is called."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # one of the real-time signals


def ended_by(number: int) -> str:
    """Return why a Firework ends, in words: the signal, and the time that the job has left."""
    left = time_left()
    remaining = "" if left is None else f", {left:.0f} s before the end of the job"
    return f"ended by {name_of(number)}{remaining}"


def grace(number: int) -> float:
    """Return the seconds that a running command may go on after a signal before it is stopped."""
    if number not in WARNINGS:
        return 0.0
    left = time_left()
    return _WARNED if left is None else max(0.0, left - _RESERVE)


class Bell:
    """Signals as bytes in a pipe, for a process that waits for several things at once.

    From its making the signals are held back, so that none is lost while the process forks. It can be made
    in the main thread only, where Python handles signals.
    """

    def __init__(self) -> None:
        self._pipe = os.pipe()
        self._before: Dict[int, Any] = {}
        for end in self._pipe:
            os.set_blocking(end, False)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1])
        for number in ending() + (SUSPEND, RESUME, signal.SIGCHLD):
            self._before[number] = signal.signal(number, _nothing) or signal.SIG_DFL

    def listen(self) -> None:
        """Let the signals come."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def fileno(self) -> int:
        """Return what becomes readable when a signal has come."""
        return self._pipe[0]

    def came(self) -> List[int]:
        """Return the signals that have come since the last call."""
        try:
            return list(os.read(self._pipe[0], 512))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Put everything back as it was; what is held back stays so until ``listen``."""
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for end in self._pipe:
            os.close(end)


def _nothing(_number: int, _frame: Any) -> None:
    pass  # that a byte is in the pipe, or that a system call has ended, is all


class Signals:
    """Turns the signals into an exception while a task runs, and at no other time."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.received = 0
        self._armed = False
        self._before: Dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        self._before[NUDGE] = signal.signal(NUDGE, _nothing) or signal.SIG_DFL
        # Whoever started the job may have it ignored; then every command would seem to have succeeded.
        self._before[signal.SIGCHLD] = (
            signal.signal(signal.SIGCHLD, signal.SIG_DFL) or signal.SIG_DFL
        )
        for number in ending():
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
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt(ended_by(self.received))
        error = Terminated(ended_by(self.received))
        error.grace = grace(self.received)
        raise error
