"""How the process of the tasks tells the supervisor what happens: one JSON document a line.

Three pipes. What is told goes up; a byte comes down when a checkpoint is on the disk. The third is for a
process that guards the tasks: the supervisor alone holds its one end, so that its death can be seen.
"""

import fcntl
import json
import os
from typing import Any, Dict, Iterator, List, Optional, Tuple

_ACKNOWLEDGED = b"."
_ENDED = b"."

# What is told has these keys, all of them.
_DOCUMENTS = ({"task", "checkpoint"}, {"state", "fwaction"})

# More descriptors than are open at the start of a job.
_MANY = 4096


class Channel:
    """The pipes between the two; made before the fork, then each keeps its ends."""

    def __init__(self) -> None:
        self._up, self._tell = os.pipe()
        self._down, self._acknowledge = os.pipe()
        self._life, self._alive = os.pipe()
        self._pid = os.getpid()
        self._pipes = {end: _identity(getattr(self, end)) for end in ("_tell", "_down")}
        # By which a task that has closed all its descriptors has these again.
        self._others = {"_tell": (self._up, os.O_WRONLY), "_down": (self._acknowledge, os.O_RDONLY)}
        self._part: List[bytes] = []

    def close(self) -> None:
        """Close what this process has of it."""
        for end in ("_up", "_tell", "_down", "_acknowledge", "_life", "_alive"):
            self._close(end)

    # -- the tasks ---------------------------------------------------------------------------

    def for_the_tasks(self) -> None:
        """Keep the ends of the tasks' process."""
        for end in ("_up", "_acknowledge", "_life", "_alive"):
            self._close(end)

    def tell(self, **document: Any) -> None:
        """Tell the supervisor; raise OSError if there is none any more."""
        # The end of line before it ends what a task may have written here, to a descriptor that it took for its own.
        data = b"\n" + json.dumps(document).encode("ascii") + b"\n"
        pipe = self._mine("_tell")
        while data:
            data = data[os.write(pipe, data) :]

    def wait(self) -> None:
        """Wait until the supervisor lets the tasks go on."""
        if not os.read(self._mine("_down"), 1):
            raise OSError("the supervisor is gone")

    def _mine(self, end: str) -> int:
        """Return the descriptor of an end, opened again if a task has closed it; it may be another file's by now."""
        number: int = getattr(self, end)
        if _identity(number) == self._pipes[end]:
            return number
        other, flags = self._others[end]
        opened = os.open(f"/proc/{self._pid}/fd/{other}", flags)
        try:
            if _identity(opened) != self._pipes[end]:
                raise OSError("a task has closed the pipe to the supervisor, which is gone")
            # Above those of stdin, stdout and stderr, should these be closed, too.
            number = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 3)
        finally:
            os.close(opened)
        setattr(self, end, number)
        return number

    # -- the guard ---------------------------------------------------------------------------

    def supervisor_has_died(self) -> bool:
        """Wait for the end of the tasks, or of the supervisor before it; tell whether it was the latter.

        All that this process has open else is closed.
        """
        os.closerange(0, self._life)
        os.closerange(self._life + 1, _MANY)
        return os.read(self._life, 1) != _ENDED

    # -- the supervisor ----------------------------------------------------------------------

    def for_the_supervisor(self) -> None:
        """Keep the ends of the supervisor, and those of the tasks: while they are open, these can be had again."""
        os.set_blocking(self._up, False)

    def let_go(self) -> None:
        """Tell the guard that the tasks have ended: their daemons may go on, and others may have their numbers."""
        try:
            os.write(self._alive, _ENDED)
        except OSError:
            pass  # there is none

    def fileno(self) -> int:
        """Return what becomes readable when something is told."""
        return self._up

    def told(self) -> Iterator[Dict[str, Any]]:
        """Return the documents that are whole by now; what is none is passed over."""
        while True:
            try:
                data = os.read(self._up, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                return
            *lines, rest = data.split(b"\n")
            for line in lines:
                whole = b"".join(self._part) + line
                self._part = []
                document = _document(whole)
                if document is not None:
                    yield document
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


def _document(line: bytes) -> Optional[Dict[str, Any]]:
    try:
        document = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and set(document) in _DOCUMENTS else None


def _identity(descriptor: int) -> Optional[Tuple[int, int]]:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None  # it is closed
    return found.st_dev, found.st_ino
