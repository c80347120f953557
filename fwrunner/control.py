"""Which files of a launch directory tell of the launch itself, so that tasks leave them alone.

FireWorks has no such rule: its CompressDirTask compresses ``FW_offline.json`` under the reader, and a
recovery that copies the earlier directory brings back the earlier launch's state.
"""

import os

from fwrunner import action_file, protocol

_NAMES = (
    protocol.FW_JSON,
    protocol.OFFLINE_JSON,
    protocol.PING_JSON,
    protocol.ACTION_JSON,
    "FW_submit.script",
    *action_file.NAMES,
)
_SUFFIXES = ("", ".gz", ".bz2", ".z")

#: The directory of the outbox, which lies at the launch root.
OUR_DIRECTORY = protocol.OUTBOX_PATH.split(os.sep, maxsplit=1)[0]


def is_control_file(name: str) -> bool:
    """Tell whether a file of this name is the launch's: one of its files, compressed, or being written."""
    return is_being_written(name) or any(
        name == own + suffix for own in _NAMES for suffix in _SUFFIXES
    )


def is_being_written(name: str) -> bool:
    """Tell whether a file of this name is what ``write_atomic`` is about to rename."""
    return name.startswith(".FW") and name.endswith(".tmp")


def is_own_output(path: str) -> bool:
    """Tell whether a file is where the stdout or stderr of this job goes."""
    return any(_same_file(path, stream) for stream in (1, 2))


def _same_file(path: str, stream: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(stream))
    except OSError:
        return False
