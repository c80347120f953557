"""Who serves a worker: the lease document in the database, seen from one agent.

Login nodes do not share file locks reliably, so the database decides. A second agent stays idle and takes
over when the first is gone.
"""

from __future__ import annotations

import os
import socket
import time
from secrets import token_hex

from agent.health import Health
from agent.log import get_logger
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Lease

#: Seconds that a lease lasts unless it is renewed, and between two renewals.
LEASE_SECONDS = 60.0
#: A renewal also brings what people ask of the agent, who wait for it.
RENEW_SECONDS = 5.0


class LeaseKeeper:
    """Takes, renews and gives back the lease of one worker."""

    def __init__(self, worker: str, health: Health) -> None:
        self._worker = worker
        self._owner = token_hex(8)
        self._health = health
        self._lease: Lease | None = None
        self._ask_at = 0.0
        self._log = get_logger()

    def held(self, launchpad: LaunchPad) -> Lease | None:
        """Return the lease if this agent serves the worker; asks the database only when it is time to.

        From then on ``launchpad`` writes nothing but under that lease.
        """
        if time.monotonic() < self._ask_at:
            return self._lease
        if self._lease is not None:
            self._lease = launchpad.renew_lease(self._lease, LEASE_SECONDS)
            if self._lease is None:
                self._log.warning("the lease was lost", worker=self._worker)
        if self._lease is None:
            self._take(launchpad)
        if self._lease is not None:
            launchpad.serve(self._lease, LEASE_SECONDS)
        self._ask_at = time.monotonic() + RENEW_SECONDS
        return self._lease

    def ask_again(self) -> None:
        """Trust nothing that was known: another database is used now, or a batch was refused."""
        self._ask_at = 0.0

    def _take(self, launchpad: LaunchPad) -> None:
        lease = launchpad.acquire_lease(self._worker, self._owner, LEASE_SECONDS)
        if lease.owner != self._owner and is_gone(lease.host, lease.pid):
            # A restart after a crash need not wait for the dead one's lease to expire.
            launchpad.release_lease(lease)
            lease = launchpad.acquire_lease(self._worker, self._owner, LEASE_SECONDS)
        if lease.owner == self._owner:
            self._lease = lease
            self._health.mode = "serving"
            self._log.info("serving", worker=self._worker, epoch=lease.epoch)
            return
        mode = f"idle: {describe(lease)} serves this worker"
        if mode != self._health.mode:
            self._log.warning(
                "idle: another agent serves this worker",
                worker=self._worker,
                holder=describe(lease),
                since=lease.since.isoformat(),
                hint="stop one of the two or give them different workers; "
                "this one takes over when the other is gone",
            )
        self._health.mode = mode

    def give_back(self, launchpad: LaunchPad) -> None:
        """Let another agent take over at once."""
        if self._lease is not None:
            launchpad.release_lease(self._lease)
            self._lease = None


def is_gone(host: str, pid: int) -> bool:
    """Tell whether a process is certainly gone: only one of this host can be known to be."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def describe(lease: Lease) -> str:
    """Return who holds a lease, for people."""
    return f"the agent on {lease.host} (process {lease.pid})"
