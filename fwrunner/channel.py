"""How the process of the tasks tells the supervisor what happens: one JSON document a line.

Three pipes. What is told goes up; a byte comes down when a checkpoint is on the disk. Nothing is ever
written into the third: the supervisor alone holds its one end, and when that is closed, by its death,
the kernel kills the tasks. A job of which nobody would hear must not go on, for it may be started again.
"""

import fcntl
import json
import os
import signal
from typing import Any, Dict, Iterator, List

_ACKNOWLEDGED = b"."

# In <fcntl.h> of every Linux; the module has it from Python 3.7 or so on some.
_F_SETSIG = getattr(fcntl, "F_SETSIG", 10)


class Channel:
    """The pipes between the two; made before the fork, then each keeps its ends."""

    def __init__(self) -> None:
        self._up, self._tell = os.pipe()
        self._down, self._acknowledge = os.pipe()
        self._life, self._alive = os.pipe()
        self._part: List[bytes] = []
        #: Whether more may be told.
        self.open = True

    def close(self) -> None:
        """Close what this process has of it."""
        for end in ("_up", "_tell", "_down", "_acknowledge", "_life", "_alive"):
            self._close(end)

    # -- the tasks ---------------------------------------------------------------------------

    def for_the_tasks(self, own_group: bool) -> None:
        """Keep the ends of the tasks' process, which from now on dies with the supervisor.

        So does its process group, if it has one of its own.
        """
        for end in ("_up", "_acknowledge", "_alive"):
            self._close(end)
        try:
            fcntl.fcntl(self._life, fcntl.F_SETOWN, -os.getpid() if own_group else os.getpid())
            fcntl.fcntl(self._life, _F_SETSIG, signal.SIGKILL)
            flags = fcntl.fcntl(self._life, fcntl.F_GETFL)
            fcntl.fcntl(self._life, fcntl.F_SETFL, flags | os.O_ASYNC)
        except (OSError, AttributeError):
            pass  # no Linux

    def tell(self, **document: Any) -> None:
        """Tell the supervisor; raise OSError if there is none any more."""
        data = json.dumps(document).encode("ascii") + b"\n"
        while data:
            data = data[os.write(self._tell, data) :]

    def wait(self) -> None:
        """Wait until the supervisor lets the tasks go on."""
        if not os.read(self._down, 1):
            raise OSError("the supervisor is gone")

    # -- the supervisor ----------------------------------------------------------------------

    def for_the_supervisor(self) -> None:
        """Keep the ends of the supervisor."""
        for end in ("_tell", "_down"):
            self._close(end)
        os.set_blocking(self._up, False)

    def let_go(self) -> None:
        """Have nobody die with this process any more: the tasks have ended, and their daemons may go on."""
        try:
            flags = fcntl.fcntl(self._life, fcntl.F_GETFL)
            fcntl.fcntl(self._life, fcntl.F_SETFL, flags & ~os.O_ASYNC)
        except (OSError, AttributeError):
            pass  # no Linux

    def fileno(self) -> int:
        """Return what becomes readable when something is told."""
        return self._up

    def told(self) -> Iterator[Dict[str, Any]]:
        """Return the documents that are whole by now."""
        while True:
            try:
                data = os.read(self._up, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                self.open = False
                return
            *lines, rest = data.split(b"\n")
            for line in lines:
                whole = b"".join(self._part) + line
                self._part = []
                yield json.loads(whole.decode("ascii"))
            self._part.append(rest)

    def go_on(self) -> None:
        """Let the tasks go on."""
        try:
            os.write(self._acknowledge, _ACKNOWLEDGED)
        except OSError:
            pass  # they have ended

    def _close(self, end: str) -> None:
        number = getattr(self, end)
        if number >= 0:
            os.close(number)
            setattr(self, end, -1)
