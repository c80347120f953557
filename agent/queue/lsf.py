"""LSF: bsub, bjobs -o (10.1, 9.1.2), bkill. From IBM's command reference; nobody could run it here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from agent.jobs import JobEnd, State
from agent.queue.command import Ran
from agent.queue.dialect import Listed, Submit
from agent.queue.tags import Tag, find_tag

_STATES: dict[str, State] = {
    **dict.fromkeys(("PEND", "PROV", "WAIT"), "PENDING"),
    "PSUSP": "HELD",
    **dict.fromkeys(("DONE", "EXIT"), "ENDED"),
}
#: ``exit_reason``: termination reasons that bjobs displays.
_REASONS = {
    "TERM_RUNLIMIT": "TIMEOUT",
    "TERM_DEADLINE": "DEADLINE",
    "TERM_MEMLIMIT": "OUT_OF_MEMORY",
    "TERM_SWAP": "OUT_OF_MEMORY",
    "TERM_PREEMPT": "PREEMPTED",
    "TERM_OWNER": "CANCELLED",
    "TERM_FORCE_OWNER": "CANCELLED",
    "TERM_ADMIN": "CANCELLED",
    "TERM_FORCE_ADMIN": "CANCELLED",
    "TERM_ZOMBIE": "NODE_FAIL",
    "TERM_RC_RECLAIM": "NODE_FAIL",
}
_NONE = re.compile(r"No (unfinished |matching )?job found", re.IGNORECASE)
_FIELDS = "jobid jobindex stat job_description"
_END_FIELDS = "jobid jobindex stat exit_code run_time exit_reason"


class Lsf:
    """The tag is the description of the job."""

    exports = True
    index = "LSB_JOBINDEX"

    def __init__(self) -> None:
        self.submit_cmd = ["bsub"]
        self.status_cmd = ["bjobs"]

    def submit(self, script: Path, tag: Tag, name: str, text: str, count: int = 1) -> Submit:  # noqa: ARG002
        array = ["-J", f"{_array_name(name)}[1-{count}]"] if count > 1 else []
        return Submit([*self.submit_cmd, "-Jd", tag.text, *array], stdin=True)

    def job_id(self, stdout: str) -> str | None:
        found = re.search(r"Job <(\d+)>", stdout)
        return found[1] if found else None

    def element(self, job_id: str, index: int) -> str:
        return f"{job_id}[{index}]"

    def listing(self, user: str) -> list[str]:
        # With those that have ended lately.
        return [*self.status_cmd, "-a", "-u", user, "-o", f"{_FIELDS} delimiter='|'"]

    def details(self, ran: Ran) -> list[list[str]]:  # noqa: ARG002
        return []

    def read_listing(self, rans: Sequence[Ran]) -> list[Listed]:
        (ran,) = rans
        return [_listed(parts) for parts in _rows(ran)]

    def ends(self, job_ids: Sequence[str]) -> list[list[str]]:
        return [[*self.status_cmd, "-a", "-o", f"{_END_FIELDS} delimiter='|'", *job_ids]]

    def read_ends(self, ran: Ran) -> Iterable[JobEnd]:
        for line in ran.stdout.splitlines():
            parts = [part.strip() for part in line.split("|")]
            if len(parts) >= 6 and parts[0].isdecimal() and _STATES.get(parts[2]) == "ENDED":
                yield _end(parts)

    def cancel(self, job_ids: Sequence[str]) -> list[str]:
        return ["bkill", *job_ids]


def _array_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name) or "FW_job"


def _rows(ran: Ran) -> list[list[str]]:
    """Return the fields of each job. It exits with 255 if there is none."""
    lines = [line.split("|") for line in ran.stdout.splitlines() if "|" in line]
    headers = [index for index, parts in enumerate(lines) if parts[0].strip().upper() == "JOBID"]
    if ran.status is not None and not headers and _NONE.search(ran.stdout + ran.stderr):
        return []
    if ran.status != 0 or not headers:
        raise ran.silent
    rows = [[part.strip() for part in parts] for parts in lines[headers[0] + 1 :]]
    if any(len(parts) < 4 or not parts[0].isdecimal() for parts in rows):
        raise ran.silent
    return rows


def _job_id(number: str, index: str) -> str:
    return f"{number}[{index}]" if index.isdecimal() and index != "0" else number


def _listed(parts: list[str]) -> Listed:
    number, index, word, description = [*parts[:3], "|".join(parts[3:])]
    element = int(index) if index.isdecimal() and index != "0" else None
    tag = find_tag(description)
    return Listed(_job_id(number, index), tag, _STATES.get(word, "RUNNING"), word, "", element)


def _end(parts: list[str]) -> JobEnd:
    number, index, word, code, ran_for, reason = parts[:6]
    status = int(code) if code.isdecimal() else None
    elapsed = re.match(r"[\d.]+", ran_for)
    keyword = reason.partition(":")[0]
    done = "COMPLETED" if word == "DONE" else "FAILED"
    return JobEnd(
        _job_id(number, index),
        _REASONS.get(keyword, done),
        exit_code=0 if word == "DONE" and status is None else status,
        signal=status - 128 if status is not None and 128 < status < 160 else None,
        elapsed=float(elapsed[0]) if elapsed else None,
        reason="" if reason == "-" else reason,
    )
