"""Who may read what the agent writes; jobs keep the umask that the agent was started with.

Schedulers hand the umask of a submit command on to the job, whose results are the user's, not ours.
"""

from __future__ import annotations

import os

_PRIVATE, _GROUP = 0o077, 0o027
#: As this process was started: None while it is still in force.
_inherited: int | None = None


def restrict(*, group_readable: bool) -> None:
    """Let only the user, or the group too, read what this process makes from now on; may be called again."""
    global _inherited  # noqa: PLW0603 - so is the umask
    before = os.umask(_GROUP if group_readable else _PRIVATE)
    _inherited = before if _inherited is None else _inherited


def inherited() -> int:
    """Return the umask for processes that are not ours, as ``subprocess`` takes it; -1: the present one."""
    return -1 if _inherited is None else _inherited
