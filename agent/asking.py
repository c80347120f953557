"""Asking a running agent to drain, pause, resume or stop: through its lease, from any login node.

A wish stays in the database until the next one, so an agent that starts again, or another that takes over, keeps to it.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from agent.lease import is_gone
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Lease, Wish

#: Seconds between two looks for an answer.
_EVERY = 0.3


@dataclass(frozen=True)
class Answer:
    """What came of a wish. ``lease`` is that of the agent which serves the worker now, None if none does."""

    lease: Lease | None
    settled: bool


def asker() -> str:
    """Return who asks, as user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def serving(launchpad: LaunchPad, worker: str) -> Lease | None:
    """Return the lease of the agent that serves a worker now."""
    held = launchpad.lease(worker)
    if held is None or not held[1] or is_gone(held[0].host, held[0].pid):
        return None
    return held[0]


def followed(launchpad: LaunchPad, wish: Wish, worker: str) -> Answer:
    """Tell whether the agent follows a wish; where there is none, the next one will."""
    lease = serving(launchpad, worker)
    return Answer(lease, lease is None or lease.followed >= wish.number)


def ended(launchpad: LaunchPad, asked: Lease) -> Answer:
    """Tell whether the holder of a lease has ended; ``lease`` is of the one that has taken over, if one has."""
    lease = serving(launchpad, asked.worker)
    return Answer(lease, lease is None or lease.epoch != asked.epoch)


def wait(look: Callable[[], Answer], seconds: float) -> Answer:
    """Look until it is settled, or for so many seconds; return the last answer."""
    deadline = time.monotonic() + seconds
    while True:
        answer = look()
        if answer.settled or time.monotonic() > deadline:
            return answer
        Event().wait(_EVERY)
