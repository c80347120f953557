"""What differs between schedulers: their commands and their words. Pure: text in, text out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.jobs import JobEnd, State
from agent.queue.command import Ran
from agent.queue.tags import Tag


@dataclass(frozen=True)
class Listed:
    """A job in a listing. ``index`` is that of an element of an array."""

    job_id: str
    tag: Tag | None
    state: State
    scheduler_state: str
    reason: str = ""
    index: int | None = None


@dataclass(frozen=True)
class Submit:
    """A command that submits. ``stdin``: the script is its input, not its argument."""

    argv: list[str]
    stdin: bool = False


class Dialect(Protocol):
    """A scheduler."""

    #: The command words, which the user may replace (``_q_commands_override`` of FireWorks).
    submit_cmd: list[str]
    status_cmd: list[str]
    #: Whether the environment of the submit becomes that of the job: then its locale is left alone.
    exports: bool
    #: What a job script reads its index in an array from.
    index: str

    def submit(self, script: Path, tag: Tag, name: str, text: str, count: int = 1) -> Submit:
        """Return the command that submits a script, with this text, as a job or an array of ``count``."""

    def job_id(self, stdout: str) -> str | None:
        """Return the id that an accepted submit has printed."""

    def element(self, job_id: str, index: int) -> str:
        """Return the id of an element of an array."""

    def listing(self, user: str) -> list[str]:
        """Return the one command that lists all jobs of a user."""

    def details(self, ran: Ran) -> list[list[str]]:
        """Return what must be asked then, since no listing tells all; raise QueueSilent."""

    def read_listing(self, rans: Sequence[Ran]) -> list[Listed]:
        """Return the jobs in a listing, or its details if there are any; raise QueueSilent if it is none."""

    def ends(self, job_ids: Sequence[str]) -> list[list[str]]:
        """Return commands that may know how jobs have ended, the best first; the next is asked for the rest."""

    def read_ends(self, ran: Ran) -> Iterable[JobEnd]:
        """Return those that have ended, as far as the command knows any."""

    def cancel(self, job_ids: Sequence[str]) -> list[str]:
        """Return the command that cancels jobs."""


def seconds(text: str) -> float | None:
    """Return the seconds in [DD-]HH:MM:SS, MM:SS or SS, also [DD:]HH:MM:SS; None if it is no time."""
    found = re.fullmatch(r"(?:(\d+)[-:])?(?:(\d+):)?(?:(\d+):)?(\d+(?:\.\d+)?)s?", text.strip())
    if found is None:
        return None
    parts = [float(part) for part in re.split(r"[-:]", text.strip().rstrip("s"))]
    days = parts.pop(0) if "-" in text or len(parts) == 4 else 0.0
    total = 0.0
    for part in parts:
        total = total * 60 + part
    return total + days * 86400
