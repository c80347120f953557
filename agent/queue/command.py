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

from agent.jobs import Closed, LimitReached, QueueSilent, Rejected
from agent.localqueue import public
from agent.umask import inherited
from fwcore.errors import FwagentError

#: Bytes of output that are read; a listing of 100,000 jobs has a tenth of it.
MAX_OUTPUT = 64 * 1024 * 1024

# Words of the schedulers, as their sources and their users' reports have them.
_LIMIT = re.compile(
    r"""(QOS|Assoc)(Grp|Max)\w*(Submit|Jobs)\w*
    |MaxJobCount|job\ submit\ limit|temporarily\ unable\ to\ accept\ job
    |would\ exceed\ .*limit|Maximum\ number\ of\ jobs|exceeds\ the\ queue\ limit
    |max_u_jobs|max_jobs|(only|job)\s.*\ (jobs|job)\s.*\ allowed\ per\ user
    |job\ threshold\ reached|job\ limit\ (has\ been\ )?(reached|exceeded)|too\ many\ jobs""",
    re.IGNORECASE | re.VERBOSE,
)
# One that a single job is over, however many there are (Slurm's reasons: PerJob, PerNode, and Min...NotSatisfied).
_OVER = re.compile(
    r"(QOS|Assoc)(Max|Min)\w*(PerJob|PerNode|NotSatisfied|NotMet)|(QOS|Assoc)MaxWall\w*",
    re.IGNORECASE,
)
# What is refused to everybody for a time: maintenance, a full disk of the scheduler.
_CLOSED = re.compile(
    r"""partition\ not\ available|partition\ is\ (down|drained|inactive)|queue\ (is\ not\ enabled|not\ enabled)
    |queue\ has\ been\ closed|is\ closed\b|maintenance|error\ writing\ script/environment
    |no\ space\ left|disk\ quota\ exceeded|(temporarily|currently)\ (disabled|unavailable|not\ accepting)""",
    re.IGNORECASE | re.VERBOSE,
)
_SILENT = re.compile(
    r"""unable\ to\ contact|socket\ timed\ out|connection\ (refused|timed\ out|reset)|communication\ (failure|error)
    |commlib\ error|unable\ to\ (send|receive)\ message|cannot\ connect|could\ not\ connect|cannot\ reach
    |not\ responding|is\ down|temporarily\ unavailable|timed?\ ?out|zero\ bytes|protocol\ (failure|authentication)
    |munge|LSF\ is\ down|please\ wait|server\ is\ busy|server\ shutting\ down|slurm_load_jobs\ error
    |sge_qmaster|answer\ list|error\ getting\ the\ response|backup\ controller|establish\ a\ configuration\ source
    |unknown\ host""",
    re.IGNORECASE | re.VERBOSE,
)
#: Of the silent ones: those that are told when the request has not left this host.
_NOT_SENT = re.compile(
    r"unable to contact|connection refused|cannot connect|could not connect|got select error|LSF is down"
    r"|establish a configuration source|unknown host",
    re.IGNORECASE,
)
#: Of the silent ones: those that are told when it may have left.
_MAY_BE_SENT = re.compile(
    r"timed?\ ?out|send/recv|zero bytes|protocol|connection reset|read error|answer list",
    re.IGNORECASE,
)
# 128 + signal, from a shell around the command. PBS has errors of its own from 153 on.
_SIGNALLED = range(129, 153)


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
        what = self.said or f"nothing, exit status {self.status}"
        return QueueSilent(f"{name} does not answer as expected: {what}", _hint(self))


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    cwd: Path | None = None,
    stdin: Path | None = None,
    environment: Mapping[str, str] | None = None,
    without: re.Pattern[str] | None = None,
) -> Ran:
    """Run a command to its end or its deadline, when it is killed with all that it has started.

    It gets this environment less what is meant for the agent alone, since batch queues hand it on to their jobs, and
    less ``without``, a pattern of names. Raises QueueSilent if there is no such command, or if it prints without end.
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
                env={**_environment(without), **(environment or {})},
                start_new_session=True,
                umask=inherited(),
            )
        finally:
            if not isinstance(source, int):
                source.close()
    except (OSError, ValueError) as error:
        raise QueueSilent(
            f"{argv[0]} cannot be run: {getattr(error, 'strerror', None) or error}",
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


def _environment(without: re.Pattern[str] | None) -> dict[str, str]:
    found = public(os.environ)
    return {name: value for name, value in found.items() if not (without and without.match(name))}


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
    """Return what a submit command that has failed means, and whether the job may be in the queue all the same.

    Only the scheduler's words refuse a script. A command that was killed, or has failed without a word, may have been
    heard before.
    """
    text = f"{ran.stdout}\n{ran.stderr}"
    if _LIMIT.search(text) and not _OVER.search(text):
        hint = "it is tried again; launch.max_queued keeps below a limit of the site"
        full = LimitReached(f"the queue takes no more jobs now: {ran.said}", hint)
        # Some wait for room by themselves, and may have found it when they were killed.
        return full, _cut(ran)
    if _cut(ran) or not ran.said:
        return ran.silent, True
    if _CLOSED.search(text):
        return Closed(f"the queue is closed now: {ran.said}", "it is tried again"), False
    if _SILENT.search(text):
        return ran.silent, bool(_MAY_BE_SENT.search(text) or not _NOT_SENT.search(text))
    name = Path(ran.argv[0]).name
    hint = "see FW_submit.script in the launch directory, [queue] in the configuration, and `_queueadapter`"
    return Rejected(f"{name} has rejected the script: {ran.said}", hint), False


def _cut(ran: Ran) -> bool:
    """Tell whether a command was ended by somebody, before it had said what it had to say."""
    return ran.status is None or ran.status < 0 or ran.status in _SIGNALLED


def answered(ran: Ran) -> Ran:
    """Return what has run to a good end; raise QueueSilent."""
    if ran.status != 0:
        raise ran.silent
    return ran


def _hint(ran: Ran) -> str:
    return f"run: {' '.join(ran.argv)}"
