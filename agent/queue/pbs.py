"""PBS: qsub, qselect, qstat -f, qdel, of OpenPBS and PBS Pro, and of Torque."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from agent.jobs import JobEnd, State
from agent.queue.command import Ran, answered
from agent.queue.dialect import Listed, Submit, seconds
from agent.queue.tags import Tag, find_tag

VARIABLE = "FWAGENT_LAUNCH"
#: Jobs that one command asks for.
_AT_ONCE = 1000
_STATES: dict[str, State] = {
    **dict.fromkeys("QWTM", "PENDING"),
    "H": "HELD",
    "E": "ENDING",
    **dict.fromkeys("FXC", "ENDED"),
}
#: Negative ``Exit_status``: PBS Pro's job.h (-24 to -29), Torque's (-10 to -12).
_KILLED = {
    -29: "TIMEOUT",
    -11: "TIMEOUT",
    -27: "OUT_OF_MEMORY",
    -26: "OUT_OF_MEMORY",
    -10: "OUT_OF_MEMORY",
}
#: ``substate`` of a job that somebody has deleted (PBS Pro).
_DELETED = "91"
#: Four blanks; the rest of a folded value has a tab, or more of them.
_ATTRIBUTE = re.compile(r" {2,6}([A-Za-z][\w.-]*) = (.*)")
_GONE = re.compile(r"Unknown Job Id|Job has finished|Unknown queue", re.IGNORECASE)


class Pbs:
    """The tag is a variable of the job.

    ``qstat -f`` is the one listing that has variables, and most versions cannot restrict it to a user: qselect
    names the jobs first.
    """

    exports = False
    #: PBS Pro's. Torque, whose arrays are made by `-t`, refuses `-J`: there each launch gets a job of its own.
    index = "PBS_ARRAY_INDEX"

    def __init__(self) -> None:
        self.submit_cmd = ["qsub"]
        self.status_cmd = ["qstat"]

    def submit(self, script: Path, tag: Tag, name: str, text: str, count: int = 1) -> Submit:  # noqa: ARG002
        # On the command line it replaces what the script says of it.
        own = re.findall(r"^#PBS\s+(?:.*\s)?-v\s*(\S+)", text, re.MULTILINE)
        variables = ",".join([*own, f"{VARIABLE}={tag.text}"])
        array = ["-J", f"1-{count}"] if count > 1 else []
        return Submit([*self.submit_cmd, "-v", variables, *array, str(script)])

    def job_id(self, stdout: str) -> str | None:
        found = re.search(r"^\s*(\d+(?:\[\])?(?:\.[\w.-]+)?)\s*$", stdout, re.MULTILINE)
        return found[1] if found else None

    def element(self, job_id: str, index: int) -> str:
        return re.sub(r"^(\d+)(\[\])?", rf"\1[{index}]", job_id)

    def listing(self, user: str) -> list[str]:
        # It is beside the qstat that the user may have named.
        path = Path(self.status_cmd[0])
        return [str(path.with_name("qselect")) if path.parent.name else "qselect", "-u", user]

    def details(self, ran: Ran) -> list[list[str]]:
        job_ids = re.findall(
            r"^\s*(\d+(?:\[\d*\])?(?:\.[\w.-]+)?)\s*$", answered(ran).stdout, re.MULTILINE
        )
        starts = range(0, len(job_ids), _AT_ONCE)
        return [
            [*self.status_cmd, "-f", "-t", *job_ids[start : start + _AT_ONCE]] for start in starts
        ]

    def read_listing(self, rans: Sequence[Ran]) -> list[Listed]:
        found = []
        for ran in rans:
            if ran.argv[0].endswith("qselect"):
                if answered(ran).stderr.strip():
                    raise ran.silent
                continue
            if ran.status is None or (ran.status != 0 and not _GONE.search(ran.stderr)):
                raise ran.silent
            found += [_listed(*job, ran) for job in _jobs(ran.stdout)]
        return [job for job in found if "[]" not in job.job_id]

    def ends(self, job_ids: Sequence[str]) -> list[list[str]]:
        wanted = job_ids[:_AT_ONCE]
        # Torque means XML by `-x`, and forgets jobs after a while anyway.
        return [[*self.status_cmd, "-x", "-f", *wanted], [*self.status_cmd, "-f", *wanted]]

    def read_ends(self, ran: Ran) -> Iterable[JobEnd]:
        for job_id, values in _jobs(ran.stdout):
            if _STATES.get(values.get("job_state", "")) == "ENDED":
                yield _end(job_id, values)

    def cancel(self, job_ids: Sequence[str]) -> list[str]:
        return ["qdel", *job_ids]


def _jobs(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (job id, attributes) of the long format, in which long values are folded."""
    for part in re.split(r"^Job Id:[ \t]*", text, flags=re.MULTILINE)[1:]:
        job_id, *lines = part.splitlines()
        values: dict[str, str] = {}
        name = ""
        for line in lines:
            if found := _ATTRIBUTE.match(line):
                name = found[1]
                values[name] = found[2]
            elif name and line.strip():
                values[name] += line.strip()
        yield job_id.strip(), values


def _listed(job_id: str, values: dict[str, str], ran: Ran) -> Listed:
    word = values.get("job_state", "")
    if not word or not re.match(r"\d", job_id):
        raise ran.silent
    variable = re.search(rf"\b{VARIABLE}=([^,]*)", values.get("Variable_List", ""))
    index = re.match(r"\d+\[(\d+)\]", job_id)
    return Listed(
        job_id,
        find_tag(variable[1]) if variable else None,
        _STATES.get(word, "RUNNING"),
        word,
        values.get("comment", ""),
        int(index[1]) if index else None,
    )


def _end(job_id: str, values: dict[str, str]) -> JobEnd:
    told = values.get("Exit_status", values.get("exit_status", ""))
    status = int(told) if re.fullmatch(r"-?\d+", told) else None
    elapsed = seconds(values.get("resources_used.walltime", ""))
    limit = seconds(values.get("Resource_List.walltime", ""))
    signal = status & 0x7F if status is not None and status > 128 else None
    late = bool(signal and elapsed is not None and limit is not None and elapsed >= limit)
    return JobEnd(
        job_id,
        _word(status, deleted=values.get("substate") == _DELETED or told == "", late=late),
        exit_code=status,
        signal=signal,
        elapsed=elapsed,
        limit=limit,
        reason=values.get("comment", ""),
    )


def _word(status: int | None, *, deleted: bool, late: bool) -> str:
    if status in _KILLED:
        return _KILLED[status]
    if late:
        return "TIMEOUT"
    if deleted:
        return "CANCELLED"
    return "FAILED" if status else "COMPLETED"
