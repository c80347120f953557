"""Grid Engine: qsub, qstat -xml, qacct, qdel (seen: 8.1.9)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from agent.jobs import JobEnd, State
from agent.queue.command import Ran, answered
from agent.queue.dialect import Listed, Submit, seconds
from agent.queue.tags import Tag, find_tag

#: How many ends are asked for: qacct tells one at a time, and reads all of its file for each.
_ASKED = 20
#: ``failed`` of accounting(5) and what it amounts to; 100 means by a signal.
_FAILED = {"37": "TIMEOUT", "21": "NODE_FAIL", "22": "NODE_FAIL"}


class Sge:
    """The tag is in the name of the job: no listing of many jobs has its context or its variables."""

    exports = False
    index = "SGE_TASK_ID"

    def __init__(self) -> None:
        self.submit_cmd = ["qsub"]
        self.status_cmd = ["qstat"]

    def submit(self, script: Path, tag: Tag, name: str, text: str, count: int = 1) -> Submit:
        array = ["-t", f"1-{count}"] if count > 1 else []
        own = re.findall(r"^#\$\s+-N\s+(\S+)", text, re.MULTILINE)
        # On the command line it replaces what the script says of it.
        named = f"{job_name(own[-1] if own else name)}.{tag.name}"
        return Submit([*self.submit_cmd, "-cwd", "-N", named, *array, str(script)])

    def job_id(self, stdout: str) -> str | None:
        # The second is what `-terse` prints, which `.sge_request` may ask for.
        found = re.search(r"Your job(?:-array)? (\d+)", stdout) or re.search(
            r"^(\d+)(?:\.\d+-\d+:\d+)?$", stdout, re.MULTILINE
        )
        return found[1] if found else None

    def element(self, job_id: str, index: int) -> str:
        return f"{job_id}.{index}"

    def listing(self, user: str) -> list[str]:
        # The state is named since `.sge_qstat` may name another.
        return [*self.status_cmd, "-u", user, "-s", "prs", "-g", "d", "-xml"]

    def details(self, ran: Ran) -> list[list[str]]:  # noqa: ARG002
        return []

    def read_listing(self, rans: Sequence[Ran]) -> list[Listed]:
        (ran,) = rans
        found = re.search(r"<\?xml.*</job_info>", answered(ran).stdout, re.DOTALL)
        try:
            # Bounded, from the scheduler, without a document type: there is nothing to expand.
            if found is None or "<!" in found[0]:
                raise ran.silent
            root = ET.fromstring(found[0])
        except ET.ParseError:
            raise ran.silent from None
        return [_listed(job, ran) for job in root.iter("job_list")]

    def ends(self, job_ids: Sequence[str]) -> list[list[str]]:
        return [_qacct(job_id) for job_id in job_ids[:_ASKED]]

    def read_ends(self, ran: Ran) -> Iterable[JobEnd]:
        if ran.status != 0:
            return
        for record in re.split(r"^={10,}$", ran.stdout, flags=re.MULTILINE):
            values = dict(re.findall(r"^(\w+)[ \t]+(.*?)[ \t]*$", record, re.MULTILINE))
            if "jobnumber" in values:
                yield _end(values)

    def cancel(self, job_ids: Sequence[str]) -> list[str]:
        return ["qdel", *job_ids]


def job_name(name: str) -> str:
    """Return a name that Grid Engine takes: qsub(1) lists what it may not hold, nor begin with.

    With other letters than ASCII's it fails in some locales (seen: 8.1.9), and names end at 512.
    """
    usable = re.sub(r"[\s/:@\\*?]|[^!-~]", "_", name)[:400] or "FW_job"
    return f"_{usable}" if usable[0].isdigit() else usable


def _qacct(job_id: str) -> list[str]:
    number, _, task = job_id.partition(".")
    return ["qacct", "-j", number, *(["-t", task] if task else [])]


def _listed(job: ET.Element, ran: Ran) -> Listed:
    number, word = job.findtext("JB_job_number"), job.findtext("state")
    task = job.findtext("tasks")
    if not number or not word or not number.isdecimal():
        raise ran.silent
    index = int(task) if task and task.isdecimal() else None
    job_id = f"{number}.{index}" if index is not None else number
    tag = find_tag(job.findtext("JB_name") or "")
    return Listed(job_id, tag, _state(word), word, "", index)


def _state(word: str) -> State:
    if "d" in word:
        return "ENDING"
    if "z" in word:
        return "ENDED"
    if "E" in word or "h" in word:
        return "HELD"
    return "PENDING" if "q" in word or word == "w" else "RUNNING"


def _end(values: dict[str, str]) -> JobEnd:
    failed = re.match(r"\d+", values.get("failed", "0"))
    number = failed[0] if failed else "0"
    told = values.get("failed", "").partition(":")[2].strip() or values.get("failed", "")
    code = re.match(r"\d+", values.get("exit_status", ""))
    status = int(code[0]) if code else None
    task = values.get("taskid", "")
    job_id = f"{values['jobnumber']}.{task}" if task.isdecimal() else values["jobnumber"]
    limit = re.search(r"h_rt=([\d:]+)", values.get("category", ""))
    return JobEnd(
        job_id,
        _FAILED.get(number) or ("FAILED" if status or number != "0" else "COMPLETED"),
        exit_code=status,
        # Its shepherd reports 128 + signal.
        signal=status - 128 if status is not None and 128 < status < 160 else None,
        elapsed=seconds(values.get("ru_wallclock", "")),
        limit=seconds(limit[1]) if limit else None,
        reason="" if number == "0" else f"failed {number} {told}".strip(),
    )
