"""Commands of a scheduler: no shell, a deadline, bounded output, and what their failures mean."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from agent.jobs import LimitReached, QueueSilent, Rejected
from agent.localqueue import public
from agent.umask import inherited
from fwcore.errors import FwagentError

#: Bytes of output that are read; a listing of 100,000 jobs has a tenth of it.
MAX_OUTPUT = 64 * 1024 * 1024

# Words of the schedulers, as their sources and their users' reports have them.
_LIMIT = re.compile(
    r"""QOSMax\w*(Submit|Job)\w*Limit|QOSGrp\w*Submit\w*|Assoc(Grp|Max)\w*(Submit|Job)\w*
    |MaxJobCount|job\ submit\ limit|temporarily\ unable\ to\ accept\ job
    |would\ exceed\ .*limit|Maximum\ number\ of\ jobs|exceeds\ the\ queue\ limit
    |max_u_jobs|max_jobs|(only|job)\s.*\ (jobs|job)\s.*\ allowed\ per\ user
    |job\ threshold\ reached|job\ limit\ (has\ been\ )?(reached|exceeded)|too\ many\ jobs""",
    re.IGNORECASE | re.VERBOSE,
)
_SILENT = re.compile(
    r"""unable\ to\ contact|socket\ timed\ out|connection\ (refused|timed\ out|reset)|communication\ (failure|error)
    |commlib\ error|unable\ to\ (send|receive)\ message|cannot\ connect|could\ not\ connect|cannot\ reach
    |not\ responding|is\ down|temporarily\ unavailable|timed?\ ?out|zero\ bytes|protocol\ (failure|authentication)
    |munge|LSF\ is\ down|please\ wait|server\ is\ busy|server\ shutting\ down|slurm_load_jobs\ error
    |sge_qmaster|error\ getting\ the\ response|backup\ controller|establish\ a\ configuration\ source
    |unknown\ host""",
    re.IGNORECASE | re.VERBOSE,
)
#: Of the silent ones: those that are told when the request has not left this host.
_NOT_SENT = re.compile(
    r"unable to contact|connection refused|cannot connect|could not connect|got select error|LSF is down"
    r"|establish a configuration source|unknown host",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Ran:
    """What a command printed. ``status`` is None if it was killed at its deadline."""

    argv: tuple[str, ...]
    status: int | None
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """What it said, for people: one line of bounded length."""
        lines = [line.strip() for line in (self.stderr or self.stdout).splitlines()]
        return " · ".join(line for line in lines if line)[:500]

    @property
    def silent(self) -> QueueSilent:
        """The error that says so."""
        name = Path(self.argv[0]).name
        if self.status is None:
            return QueueSilent(f"{name} has not answered in time", _hint(self))
        what = self.said or "nothing"
        return QueueSilent(f"{name} does not answer as expected: {what}", _hint(self))


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    cwd: Path | None = None,
    stdin: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ran:
    """Run a command to its end or its deadline, when it is killed with all that it has started.

    It gets this environment less what is meant for the agent alone: batch queues hand it on to their jobs.
    Raises QueueSilent if there is no such command, or if it prints without end.
    """
    try:
        source: IO[bytes] | int = stdin.open("rb") if stdin else subprocess.DEVNULL
        try:
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**public(os.environ), **(environment or {})},
                start_new_session=True,
                umask=inherited(),
            )
        finally:
            if not isinstance(source, int):
                source.close()
    except OSError as error:
        raise QueueSilent(
            f"{argv[0]} cannot be run: {error.strerror or error}",
            "the commands of the scheduler must be on PATH where fwagent runs; or set queue.type",
        ) from None
    with process:
        try:
            told = _read(process, time.monotonic() + timeout)
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    stdout, stderr = (text.decode("utf-8", "replace") for text in told.texts)
    if told.endless:
        raise QueueSilent(f"{argv[0]} has printed more than {MAX_OUTPUT} bytes")
    return Ran(tuple(argv), None if told.late else process.returncode, stdout, stderr)


@dataclass
class _Told:
    texts: tuple[bytearray, bytearray]
    late: bool = False
    endless: bool = False


def _read(process: subprocess.Popen[bytes], deadline: float) -> _Told:
    told = _Told((bytearray(), bytearray()))
    with selectors.DefaultSelector() as selector:
        for stream, text in zip((process.stdout, process.stderr), told.texts, strict=True):
            assert stream is not None
            selector.register(stream, selectors.EVENT_READ, text)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                told.late = True
                return told
            for key, _events in selector.select(left):
                if not (part := os.read(key.fd, 65536)):
                    selector.unregister(key.fileobj)
                key.data.extend(part)
                if len(key.data) > MAX_OUTPUT:
                    told.endless = True
                    return told
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        told.late = True
    return told


def refusal(ran: Ran) -> tuple[FwagentError, bool]:
    """Return what a submit command that has failed means, and whether the job may be in the queue all the same."""
    text = f"{ran.stdout}\n{ran.stderr}"
    if _LIMIT.search(text):
        hint = "it is tried again; launch.max_queued keeps below a limit of the site"
        full = LimitReached(f"the queue takes no more jobs now: {ran.said}", hint)
        # Some wait for room by themselves, and may have found it when they were killed.
        return full, ran.status is None
    if ran.status is None:
        return ran.silent, True
    if _SILENT.search(text):
        return ran.silent, not _NOT_SENT.search(text)
    said = ran.said or f"exit status {ran.status}, without a word"
    name = Path(ran.argv[0]).name
    hint = "see FW_submit.script in the launch directory, [queue] in the configuration, and `_queueadapter`"
    return Rejected(f"{name} has rejected the script: {said}", hint), False


def answered(ran: Ran) -> Ran:
    """Return what has run to a good end; raise QueueSilent."""
    if ran.status != 0:
        raise ran.silent
    return ran


def _hint(ran: Ran) -> str:
    return f"run: {' '.join(ran.argv)}"
