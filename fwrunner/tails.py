"""The ends of the files that a launch tracks, for its final report.

The login node reads them too, but perhaps only when the launch directory has been purged. Facts: FireWorks
2.1.4, ``Tracker`` in ``fireworks/core/firework.py``. Compressed files are left to the login node.
"""

import os
import stat
from typing import Any, Dict

# As `agent/tails.py` and `fwcore/trackers.py` have it: bytes of a file, files, characters of all.
_MAX_TAIL = 128 * 1024
_MAX_FILES = 20
_MAX_CHARACTERS = 256 * 1024


def read_tails(directory: str, trackers: Any) -> Dict[str, str]:
    """Return {filename: its end} of the files that ``_trackers`` names in a directory; never raises.

    What is missing, binary, no regular file or outside of the directory is left out.
    """
    found: Dict[str, str] = {}
    room = _MAX_CHARACTERS
    for tracker in trackers[:_MAX_FILES] if isinstance(trackers, list) else ():
        name = tracker.get("filename") if isinstance(tracker, dict) else None
        if isinstance(name, str) and name not in found and room:
            found[name] = _tail(directory, name)[-room:]
            room -= len(found[name])
    return {name: text for name, text in found.items() if text}


def _tail(directory: str, name: str) -> str:
    try:
        root = os.path.realpath(directory)
        path = os.path.realpath(os.path.join(root, name))
        if os.path.commonpath((root, path)) != root:
            return ""
        with open(path, "rb", opener=_open_at_once) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                return ""
            start = max(0, status.st_size - _MAX_TAIL)
            stream.seek(start)
            data = stream.read(_MAX_TAIL)
    except (OSError, ValueError):
        return ""
    if b"\0" in data:
        return ""
    if start:
        # The first line is not whole, unless it is the only one.
        data = data.partition(b"\n")[2] or data
    return data.decode("utf-8", "replace")


def _open_at_once(path: str, flags: int) -> int:
    # A FIFO must not keep the report waiting.
    return os.open(path, flags | os.O_NONBLOCK)
