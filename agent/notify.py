"""What systemd is told of a service of ``Type=notify``: ready, alive, a line for people (sd_notify(3)).

The protocol is one datagram; libraries for it are larger than it is. Where systemd asks for nothing, nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ADDRESS_VARIABLE = "NOTIFY_SOCKET"


class Notifier:
    """Tells the service manager, if there is one. Never raises: to be heard is not what the agent is for."""

    def __init__(self, address: str | None = None) -> None:
        """Take the address of the manager's socket; by default it is what the environment says."""
        self._address = os.environ.get(ADDRESS_VARIABLE, "") if address is None else address
        self._status = ""
        self._ready = False

    def ready(self) -> None:
        """Tell, once, that the start is over."""
        if not self._ready:
            self._ready = True
            self._send("READY=1")

    def alive(self, status: str) -> None:
        """Feed the watchdog; tell what the service does, if that has changed."""
        news = [f"STATUS={' '.join(status.split())}"] if status != self._status else []
        self._status = status
        self._send("WATCHDOG=1", *news)

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Tell when reading the configuration anew begins, and when it is over."""
        if not self._ready:
            yield
            return
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self._send("READY=1")

    def stopping(self) -> None:
        """Tell that the end has begun."""
        self._send("STOPPING=1", "STATUS=stopping")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # A name that begins with @ is in the abstract namespace, which is written with a zero byte.
        address = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(1)
            channel.sendto("\n".join(lines).encode(), address)
