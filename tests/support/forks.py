"""Processes forked for one job each, to be stopped, woken up or killed: Python and its imports are paid for once."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import IO, Any, NoReturn

from tests.support.fireworks import REPOSITORY

Job = dict[str, Any]


class Forks:
    """Does jobs by ``work``, a function of a module; what that returns, None for 0, is the exit status.

    The process that forks has imported the module of ``work``, and has neither threads nor clients of a database.
    """

    def __init__(self, work: Callable[[Job], int | None]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, work.__module__, work.__qualname__],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_raised: object) -> None:
        with self._process as process:
            process.kill()

    def start(self, job: Job) -> tuple[int, int | None]:
        """Return the process id of a fork, and its exit status, None if it has stopped; a signal is negative."""
        return self._ask({"job": job})

    def wake(self, pid: int) -> int | None:
        """Let one go on that has stopped; return its exit status, None if it has stopped again."""
        return self._ask({"wake": pid})[1]

    def run(self, job: Job) -> int:
        """Return the exit status of a fork that does not stop."""
        _pid, status = self.start(job)
        assert status is not None
        return status

    def _ask(self, order: dict[str, Any]) -> tuple[int, int | None]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        pid, status = json.loads(self._process.stdout.readline())
        return pid, status


def _serve(work: Callable[[Job], int | None], answers: IO[str]) -> None:
    for line in sys.stdin:
        order = json.loads(line)
        pid = order.get("wake") or os.fork()
        if pid == 0:
            _work(work, order["job"])
        if "wake" in order:
            os.kill(pid, signal.SIGCONT)
        pid, status = os.waitpid(pid, os.WUNTRACED)
        stopped = os.WIFSTOPPED(status)
        told = None if stopped else os.waitstatus_to_exitcode(status)
        print(json.dumps([pid, told]), file=answers, flush=True)


def _work(work: Callable[[Job], int | None], job: Job) -> NoReturn:
    try:
        status = work(job) or 0
    except BaseException:  # noqa: BLE001 - or it would go on as the one that forks
        traceback.print_exc()
        status = 1
    os._exit(status)


if __name__ == "__main__":
    # What jobs print is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, name = sys.argv[1:]
    _serve(getattr(importlib.import_module(module), name), answers)
