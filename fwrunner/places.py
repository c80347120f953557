"""Files that must be written although the file system fights back.

It may be full, over quota, read-only, gone, stale or broken, for a moment or for good. What can pass is
tried again after a while, never for so long that the end of the job would cut it short.
"""

import errno
import os
import sys
from time import sleep
from typing import Any, Callable, List, Optional, Sequence

from fwrunner import protocol
from fwrunner.node import time_left

#: Seconds between the tries, where another place may do as well ...
BRIEFLY = (0.1, 0.3, 1.0)
#: ... and where none has.
PATIENTLY = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)

# So much of the job's time is left to its end.
_RESERVE = 5.0

_MAY_PASS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY),
    *(errno.ENOLCK, errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN, errno.EMFILE, errno.ENFILE),
)


class Place:
    """A file, what is to be in it, and how the last try to write it ended."""

    def __init__(self, write: Callable[..., None], path: str, content: Any) -> None:
        self.path = path
        self._write = write
        self._content = content
        self._tried = False
        #: Whether what refused it may be over soon.
        self.may_pass = False

    def take(self) -> bool:
        """Try to write it; tell whether it worked. The first refusal is told on stderr."""
        try:
            self._write(self.path, self._content)
        except Exception as error:
            self.may_pass = getattr(error, "errno", None) in _MAY_PASS
            if not self._tried:
                say(f"not written: {type(error).__name__}: {error} ({self.path})")
            self._tried = True
            return False
        return True


def leave(places: Sequence[Place]) -> List[Place]:
    """Write all of them, if need be again and again; return those that refuse it."""
    refused = [place for place in places if not place.take()]
    for pause in BRIEFLY:
        if not any(place.may_pass for place in refused) or not waited(pause):
            break
        refused = [place for place in refused if not place.take()]
    return refused


def leave_anywhere(places: Sequence[Place]) -> bool:
    """Try all of them, however they refuse it, until one takes it; tell whether one did.

    The others are tried on while what keeps them from it may pass: who reads one may not read another.
    """
    left = list(places)
    for pause in PATIENTLY:
        worth_it = len(left) == len(places) or any(place.may_pass for place in left)
        if not left or not worth_it or not waited(pause):
            break
        left = [place for place in left if not place.take()]
    return len(left) < len(places)


def write_final(path: str, report: protocol.Report) -> None:
    """Write a final report, unless that of a later start is there. Raises as ``write_report`` does."""
    there = protocol.read_outbox_entry(path)
    if isinstance(there, protocol.Report) and _counts_more(there, report):
        say(f"the report of start {there.attempt} stays, which has {there.state} ({path})")
    else:
        protocol.write_report(path, report)


def _counts_more(there: protocol.Report, report: protocol.Report) -> bool:
    """Tell whether a final report is one of the same launch that another, later or equal, start has left."""
    if not there.final or (there.launch_id, there.token) != (report.launch_id, report.token):
        return False
    same = (there.attempt, there.started_on) == (report.attempt, report.started_on)
    return there.attempt >= report.attempt and not same


def drop(directory: str, report: protocol.Report) -> None:
    """Write a report into an outbox. Raises as ``write_report`` does."""
    name = protocol.outbox_name(report.launch_id, str(report.token), report.final)
    write = write_final if report.final else protocol.write_report
    write(os.path.join(directory, name), report)


def home() -> Optional[str]:
    """Return the directory for what no other place takes; None if there is no home directory."""
    user = os.path.expanduser("~")
    # Without $HOME, and without an entry of the user on this node, nothing is expanded.
    return os.path.join(user, protocol.RESCUE_PATH) if os.path.isabs(user) else None


def read_back(directory: str, start: protocol.Report) -> Optional[protocol.Report]:
    """Return the final report of the launch of a start that an outbox holds, if it does."""
    try:
        name = protocol.outbox_name(start.launch_id, str(start.token), final=True)
    except ValueError:
        return None
    report = protocol.read_outbox_entry(os.path.join(directory, name))
    if not isinstance(report, protocol.Report) or not report.final:
        return None
    same = (report.launch_id, report.token) == (start.launch_id, start.token)
    return report if same else None


def drop_at_home(directory: str, report: protocol.Report) -> None:
    """Write a report into a directory that is made for it, for us alone."""
    before = os.umask(0o077)  # the user's may leave nothing to the owner
    try:
        os.makedirs(directory, exist_ok=True)
    finally:
        os.umask(before)
    drop(directory, report)


def take_back(directory: str, report: protocol.Report) -> None:
    """Remove a report that has come to a better place meanwhile."""
    name = protocol.outbox_name(report.launch_id, str(report.token), report.final)
    try:
        os.unlink(os.path.join(directory, name))
    except OSError:
        pass  # two are no harm: it is applied once


def path_of(text: str) -> str:
    """Return a path that a document names, for this host: in UTF-8, whatever the locale here."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def say(text: str) -> bool:
    """Tell the user something, on stderr."""
    return to_stderr(f"fwrunner: {text}\n")


def to_stderr(text: str) -> bool:
    """Write to stderr; tell whether it worked."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        return False  # closed, or on a full disk
    return True


def waited(pause: float) -> bool:
    """Wait, unless the job would end meanwhile; tell whether there was the time."""
    left = time_left()
    if left is not None and left - pause < _RESERVE:
        return False
    sleep(pause)
    return True
