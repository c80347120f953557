"""Slurm: sbatch, squeue, sacct, scancel (seen: 22.05; documented the same since 17.02)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from agent.jobs import JobEnd, State
from agent.queue.command import Ran, answered
from agent.queue.dialect import Listed, Submit, seconds
from agent.queue.tags import Tag, find_tag

_STATES: dict[str, State] = {
    **dict.fromkeys(("PD", "CF", "RQ", "RF"), "PENDING"),
    **dict.fromkeys(("SE", "RH", "RD"), "HELD"),
    **dict.fromkeys(("CG", "SO"), "ENDING"),
    **dict.fromkeys(("CD", "F", "CA", "TO", "NF", "OOM", "PR", "BF", "DL", "RV"), "ENDED"),
}
_HELD = ("JobHeld", "DependencyNeverSatisfied")
_ENDS = {
    "CD": "COMPLETED",
    "F": "FAILED",
    "CA": "CANCELLED",
    "TO": "TIMEOUT",
    "NF": "NODE_FAIL",
    "OOM": "OUT_OF_MEMORY",
    "PR": "PREEMPTED",
    "BF": "BOOT_FAIL",
    "DL": "DEADLINE",
    "RV": "REVOKED",
}
#: Each line of a listing begins with it, so that a line of somebody else's is told from it.
_MARK = "fwagent"
_FIELDS = {
    "JobArrayID": 40,
    "StateCompact": 8,
    "exit_code": 12,
    "TimeUsed": 24,
    "TimeLimit": 24,
    "Reason": 80,
}
_LIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "RESIZING")


class Slurm:
    """Listings and ends come from ``squeue -t all``: slurmctld tells of a job for MinJobAge after its end."""

    exports = True
    index = "SLURM_ARRAY_TASK_ID"

    def __init__(self) -> None:
        self.submit_cmd = ["sbatch"]
        self.status_cmd = ["squeue"]

    def submit(self, script: Path, tag: Tag, name: str, text: str, count: int = 1) -> Submit:  # noqa: ARG002
        array = [f"--array=1-{count}"] if count > 1 else []
        return Submit([*self.submit_cmd, f"--comment={tag.text}", *array, str(script)])

    def job_id(self, stdout: str) -> str | None:
        found = re.search(r"Submitted batch job\s+(\d+)", stdout)
        return found[1] if found else None

    def element(self, job_id: str, index: int) -> str:
        return f"{job_id}_{index}"

    def listing(self, user: str) -> list[str]:
        fields = f"{_MARK}|%i|%t|%r|%k"
        # Without `--all` those of partitions that are hidden, or closed to this user by now, are left out.
        every = ["--all", "--states=all", "--array"]
        return [*self.status_cmd, *every, f"--user={user}", "--format", fields]

    def details(self, ran: Ran) -> list[list[str]]:  # noqa: ARG002
        return []

    def read_listing(self, rans: Sequence[Ran]) -> list[Listed]:
        ran = answered(rans[0])
        lines = [line for line in ran.stdout.splitlines() if line.startswith(f"{_MARK}|")]
        # The header comes when slurmctld has answered: without one, a listing without jobs proves nothing.
        if not lines:
            raise ran.silent
        return [_listed(line, ran) for line in lines[1:]]

    def ends(self, job_ids: Sequence[str]) -> list[list[str]]:
        jobs = ",".join(job_ids)
        # One that is unknown is an error if it is asked for alone.
        twice = jobs if len(job_ids) > 1 else f"{jobs},{jobs}"
        fields = ",".join(f"{name}:{size}|" for name, size in _FIELDS.items())
        states = ["--all", "--states=all", "--array", "--noheader", f"--jobs={twice}"]
        wanted = "JobID,State,ExitCode,ElapsedRaw,TimelimitRaw"
        accounts = [f"--jobs={jobs}", f"--format={wanted}"]
        # slurmctld answers at once; accounting, where there is any, remembers longer.
        return [
            [*self.status_cmd, *states, "--Format", fields],
            ["sacct", "--noheader", "--parsable2", "--allocations", *accounts],
        ]

    def read_ends(self, ran: Ran) -> Iterable[JobEnd]:
        if ran.status != 0:
            return
        read = _accounted if ran.argv[0] == "sacct" else _finished
        for line in ran.stdout.splitlines():
            if end := read([part.strip() for part in line.split("|")]):
                yield end

    def cancel(self, job_ids: Sequence[str]) -> list[str]:
        return ["scancel", *job_ids]


def _listed(line: str, ran: Ran) -> Listed:
    _mark, job_id, word, rest = [*line.split("|", 3), "", "", ""][:4]
    found = re.fullmatch(r"\d+(?:_(?P<index>\d+))?(_\[.*\])?(\+\d+)?", job_id)
    if found is None or not word:
        raise ran.silent
    reason, _, comment = rest.partition("|")
    # A word that we do not know is that of a job which is there: nothing follows from it.
    state: State = _STATES.get(word, "RUNNING")
    if state == "PENDING" and reason.startswith(_HELD):
        state = "HELD"
    index = int(found["index"]) if found["index"] else None
    told = "" if reason == "None" else reason
    return Listed(job_id, find_tag(comment), state, word, told, index)


def _accounted(parts: list[str]) -> JobEnd | None:
    if len(parts) != 5 or not re.fullmatch(r"\d+(_\d+)?", parts[0]):
        return None
    job_id, told, code, elapsed, limit = parts
    state = told.split()[0].rstrip("+") if told else ""
    if not state or state in _LIVE:
        return None
    status, _, number = code.partition(":")
    return JobEnd(
        job_id,
        state,
        exit_code=int(status) if status.isdecimal() else None,
        signal=int(number) if number.isdecimal() and int(number) else None,
        elapsed=float(elapsed) if elapsed.isdecimal() else None,
        limit=float(limit) * 60 if limit.isdecimal() else None,
        reason=told,
    )


def _finished(parts: list[str]) -> JobEnd | None:
    if len(parts) < len(_FIELDS) or parts[1] not in _ENDS:
        return None
    job_id, word, raw, elapsed, limit, reason = parts[: len(_FIELDS)]
    status = int(raw) if raw.isdecimal() else None
    return JobEnd(
        job_id,
        _ENDS[word],
        # As wait(2) has it.
        exit_code=status >> 8 if status is not None else None,
        signal=(status & 0x7F) or None if status is not None else None,
        elapsed=seconds(elapsed),
        limit=seconds(limit),
        reason="" if reason == "None" else reason,
    )
