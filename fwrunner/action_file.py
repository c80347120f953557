"""``FWAction.json`` or ``FWAction.yaml``: the FWAction of a task that is not Python.

After each task FireWorks 2.1.4 (``fireworks/core/rocket.py``) takes it for what the task returned. It
leaves it there, and so takes it again after every later task, and in a later launch of the same
directory. Here it counts once, each time that it is written.
"""

import os
from typing import Any, Dict, Optional

from fwrunner import data_files, protocol
from fwrunner.action import Fault
from fwrunner.places import say
from fwrunner.protocol.action import EMPTY

NAMES = ("FWAction.json", "FWAction.yaml")


class ActionFile:
    """The file of a launch directory, as it was when last looked at."""

    def __init__(self, directory: str) -> None:
        self._paths = [os.path.join(directory, name) for name in NAMES]
        self._seen = {path: _signature(path) for path in self._paths}

    def read(self) -> Optional[Dict[str, Any]]:
        """Return what it says if it was written since, else None; raise Fault if it cannot be read."""
        new = [path for path in self._paths if _signature(path) not in (None, self._seen[path])]
        if not new:
            return None
        action = _action(new[0])
        for path in self._paths:
            _make_older(path)
            self._seen[path] = _signature(path)
        return action


def _action(path: str) -> Dict[str, Any]:
    try:
        action = data_files.parse(_read(path), path)
    except (OSError, UnicodeDecodeError) as error:
        raise Fault(f"{path} cannot be read: {error}") from error
    if not isinstance(action, dict):
        raise Fault(f"{path} holds no FWAction, but a {type(action).__name__}")
    unknown = [key for key in action if key not in EMPTY]
    if unknown:
        say(f"passed over in {path}, being no part of an FWAction: {', '.join(map(repr, unknown))}")
    return {key: action[key] for key in EMPTY if key in action}


def _read(path: str) -> str:
    if not os.path.isfile(path):
        raise Fault(f"{path} is no file")
    with open(path, "rb") as stream:
        data = stream.read(protocol.MAX_REPORT_SIZE + 1)
    if len(data) > protocol.MAX_REPORT_SIZE:
        raise Fault(f"{path} is larger than {protocol.MAX_REPORT_SIZE} bytes")
    return data.decode("utf-8")


def _signature(path: str) -> Any:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _make_older(path: str) -> None:
    # Clocks of file systems are coarse: the next task may write as many bytes in the same tick.
    try:
        status = os.stat(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 10**10))
    except OSError:
        pass
