"""Where applying a report leaves other documents than `lpad recover_offline`, on purpose: one table.

A place is a path inside a document, its list positions as numbers. What stands there is told by its kind:
`absent`, `null`, `date now` or `text now` (the time of the recovery; `step N` where there are many), `date` or `text`
with the time itself (one that was there before, or that the compute node wrote), a number, else the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fwcore.documents import parse_time


@dataclass(frozen=True)
class Difference:
    """An intended difference.

    `path`, `theirs` (FireWorks), `ours` and `where` (the situation) are regular expressions of the whole text.
    """

    name: str
    path: str
    theirs: str
    ours: str
    why: str
    where: str = ".*"


_NOW = r"(date|text) (now|step \d+)"
_TIME = r"(date|text) (\d.*|step \d+)"
#: A launch, also as its child is told about it.
_LAUNCH = r"(launches|fireworks\.spec\._fizzled_parents\.\d\.launches\.\d)"
# RUNNING is the second entry of its history, or the third of one whose reservation was cancelled.
#: A workflow inside a stored action.
_ADDED = r"launches\.action\.(additions|detours|append_wfs)\.\d(\.workflow)?"
_PENDING = r"(pending|ended before|every verb|all children|fan-in, (both|one FIZZLES)|paused in the queue).*, while.*"

#: Feeds docs/compatibility.md.
DIFFERENCES = (
    Difference(
        "end, as a tolerant child is told",
        r"fireworks\.spec\._fizzled_parents\.\d\.launches\.\d\.state_history\.2\.created_on",
        _NOW,
        _TIME,
        "_fizzled_parents tells when the parent ended. FireWorks embeds it before it has corrected its own time.",
    ),
    Difference(
        "start of a run",
        _LAUNCH + r"\.(state_history\.[12]\.created_on|time_start)",
        _NOW,
        _TIME,
        "A run started when the compute node says so. FireWorks takes the time of the recovery that sees it first.",
    ),
    Difference(
        "end of a run",
        r"launches\.time_end",
        _NOW,
        r"text \d.*",
        "A run ended when the compute node says so. FireWorks computes time_end from the time of the recovery.",
    ),
    Difference(
        "durations",
        r"launches\.(runtime_secs|reservedtime_secs)",
        r"number .*",
        r"number .*",
        "runtime_secs and reservedtime_secs follow from the times of start and end.",
    ),
    Difference(
        "last sign of life",
        _LAUNCH + r"\.state_history\.[12]\.updated_on",
        r"(date|text) .*",
        _TIME,
        "updated_on of the RUNNING entry is the last ping, else the start: what the compute node wrote. FireWorks "
        "overwrites it with the time of a recovery, which hides dead runs and declares live ones lost.",
    ),
    Difference(
        "checkpoint",
        _LAUNCH + r"\.state_history\.\d\.checkpoint",
        r"absent",
        r"\{'_task_n': .*",
        "The checkpoint is kept, so that `lpad rerun_fws --task-level` finds it. FireWorks drops it when there is "
        "a ping file.",
    ),
    Difference(
        "date of a FIZZLED parent, as a tolerant child is told",
        r"fireworks\.spec\._fizzled_parents\.\d\.updated_on",
        _NOW,
        _TIME,
        "_fizzled_parents tells when the parent FIZZLED. FireWorks tells when it has loaded the parent.",
        r"generated: .*",
    ),
    Difference(
        "time of looking",
        r"offline_runs\.updated_on",
        _NOW,
        _TIME,
        "offline_runs.updated_on changes when a run is closed. FireWorks changes it at every look.",
    ),
    Difference(
        "nothing new",
        r"(fireworks|workflows)\.updated_on",
        _NOW,
        _TIME,
        "A launch directory that tells nothing new causes no write. FireWorks rewrites Firework and Workflow.",
        rf"{_PENDING}|generated: unchanged|(pending|running.*|fan-in, one of two|.* a parent that runs), "
        r"when they have ended",
    ),
    Difference(
        "a held Firework stays held",
        r"(fireworks\.state|workflows\.(state|fw_states\.\d+))",
        r"'(RESERVED|COMPLETED|RUNNING)'",
        r"'PAUSED'",
        "A Firework that somebody has paused, defused or archived while it was in the queue stays so; its result is "
        "stored in its launch and takes effect when it is resumed. FireWorks' recovery undoes the pause.",
        r"paused in the queue, .*",
    ),
    Difference(
        "children of a held Firework",
        r"(fireworks\.state|workflows\.fw_states\.\d+)",
        r"'READY'",
        r"'WAITING'",
        "The children of a Firework that stays held wait.",
        r"paused in the queue, when.*",
    ),
    Difference(
        "times of a held Firework",
        r"(fireworks|workflows)\.updated_on",
        _NOW,
        _TIME,
        "What stays as it is keeps its updated_on.",
        r"paused in the queue, .*",
    ),
    Difference(
        "result of a superseded launch",
        r"launches\.(action|state|state_history|runtime_secs|time_end)|offline_runs\.completed",
        r"\{'stored_data'.*|'COMPLETED'|\[.*|number .*|text now|True",
        r"null|'RUNNING'|\[.*|False",
        "The report of a launch that a rerun has archived is ignored, with the reason. FireWorks stores the result "
        "in the archived launch, where nothing uses it.",
        r"rerun meanwhile, when.*",
    ),
    Difference(
        "run of a superseded launch",
        r"offline_runs\.deprecated",
        r"False",
        r"True",
        "The open run of a launch that a rerun has archived is retired when it tells something. FireWorks leaves it "
        "open, and then applies the action of the newer launch again at every recovery (W38).",
        r"rerun meanwhile, when.*",
    ),
    Difference(
        "a single Firework that is added",
        r"launches\.action\.(additions|detours)\.\d\.(fw_id|fws|links|metadata|name|spec|(created|updated)_on)",
        r".*",
        r".*",
        "An action is stored as the compute node wrote it. FireWorks wraps a single Firework in a workflow first.",
        where=r".*action-(additions|both)|(additions|.* an addition|an addition below a leaf), when.*",
    ),
    Difference(
        "a workflow that is added",
        rf"{_ADDED}(\.fws\.\d)?\.(created|updated)_on|{_ADDED}\.links\.-\d",
        r"text now|\[\]",
        r"absent",
        "An action is stored as the compute node wrote it. FireWorks writes the dates and the empty links of leaves "
        "into it that it lacks.",
    ),
)

#: The same for `lpad rerun_fws`, `defuse_fws`, `forget_offline` and cancelled reservations.
DIFFERENCES_OF_CHANGES = (
    Difference(
        "runs of archived launches",
        r"offline_runs\.deprecated",
        r"False",
        r"True",
        "The open offline run of a launch that is archived is retired: its report is not listened to any more. "
        "FireWorks leaves it open, so that `lpad recover_offline` undoes a defuse, and applies the action of a newer "
        "launch at every call (W11, W30, W38).",
        r"(rerun|recover|defuse|cancel) .*|cancel",
    ),
    Difference(
        "time of retiring",
        r"offline_runs\.updated_on",
        r"text \d.*",
        r"text now",
        "A run that is retired is dated.",
        r"(rerun|recover|defuse|cancel) .*|cancel",
    ),
    Difference(
        "a held child stays held",
        r"(fireworks\.state|workflows\.fw_states\.\d+)",
        r"'WAITING'",
        r"'(PAUSED|DEFUSED)'",
        "A Firework that somebody has paused or defused stays so when one above it is rerun; its launches are "
        "archived, so that it starts anew when it is let go. FireWorks takes it out of that state (W34).",
        r"rerun the parent of (a defused one|one paused).*|defuse several, children first",
    ),
    Difference(
        "the workflow of a held child",
        r"workflows\.state",
        r"'READY'",
        r"'(PAUSED|DEFUSED)'",
        "The state of the workflow follows from that.",
        r"rerun the parent of (a defused one|one paused).*",
    ),
    Difference(
        "a held child keeps its date",
        r"fireworks\.updated_on",
        r"text now",
        r"date \d.*",
        "What stays as it is keeps its updated_on.",
        r"rerun the parent of a defused one",
    ),
    Difference(
        "date of a child that is defused first",
        r"fireworks\.updated_on",
        r"text now",
        r"date now",
        "It was defused, as FireWorks dates it, and stays so.",
        r"defuse several, children first",
    ),
    Difference(
        "a child starts anew",
        r"fireworks\.spec\._recovery",
        r"\{.*",
        r"absent",
        "A Firework that is rerun because one above it is gets new input, so it starts from its beginning. FireWorks "
        "lets it go on from the checkpoint of its last recovery.",
        r"rerun the parent of one that had gone on from a checkpoint",
    ),
    Difference(
        "a skipped Firework is left as it is: rerun",
        r"fireworks\.spec\._recovery",
        r"absent",
        r"\{.*",
        "What is DEFUSED is not rerun, and not changed. FireWorks says that it cannot rerun it, and removes _recovery.",
        r"rerun what is DEFUSED and.*",
    ),
    Difference(
        "a skipped Firework is left as it is: recovery",
        r"fireworks\.spec\._recovery",
        r"\{.*",
        r"absent",
        "What is DEFUSED is not rerun, and not changed. FireWorks says that it cannot rerun it, and sets _recovery.",
        r"recover what is DEFUSED",
    ),
    Difference(
        "defused twice",
        r"fireworks\.updated_on",
        r"date now",
        r"date \d.*",
        "What is DEFUSED already is not written.",
        r"defuse what is DEFUSED",
    ),
    Difference(
        "a cancelled reservation goes on from its checkpoint",
        r"fireworks\.spec\._recovery",
        r"absent",
        r"\{.*",
        "A Firework that was to go on from a checkpoint still does after its reservation was taken back. FireWorks "
        "forgets about it.",
        r"cancel what was to go on from a checkpoint",
    ),
    Difference(
        "time in the queue",
        r"launches\.reservedtime_secs",
        r"number .*",
        r"number .*",
        "Until the reservation was taken back.",
        r"cancel.*",
    ),
)


@dataclass(frozen=True)
class Found:
    """A place where two documents differ, with the kind of what stands there."""

    path: str
    theirs: str
    ours: str


#: Names the moments at which something happened ("now", ...), None for the time itself.
Label = Callable[[datetime], str | None]


def differences(theirs: Any, ours: Any, path: str, label: Label) -> Iterator[Found]:
    """Yield every place where two values differ; times with the same label are the same."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        for key in sorted({*theirs, *ours}):
            inner = f"{path}.{key}"
            if key in theirs and key in ours:
                yield from differences(theirs[key], ours[key], inner, label)
            else:
                before = kind(theirs[key], label) if key in theirs else "absent"
                yield Found(inner, before, kind(ours[key], label) if key in ours else "absent")
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for position, (before, after) in enumerate(zip(theirs, ours, strict=True)):
            yield from differences(before, after, f"{path}.{position}", label)
    elif _token(theirs, label) != _token(ours, label):
        yield Found(path, kind(theirs, label), kind(ours, label))


def explanation(
    found: Found, where: str, table: tuple[Difference, ...] = DIFFERENCES
) -> Difference | None:
    """Return the entry of a table that a difference is an instance of."""
    for entry in table:
        pairs = (
            (entry.path, found.path),
            (entry.theirs, found.theirs),
            (entry.ours, found.ours),
            (entry.where, where),
        )
        if all(re.fullmatch(pattern, text) for pattern, text in pairs):
            return entry
    return None


def kind(value: Any, label: Label) -> str:
    """Return what a value is, in the words of the table."""
    moment = _moment(value)
    if moment is not None:
        form = "date" if isinstance(value, datetime) else "text"
        return f"{form} {label(moment) or moment.isoformat()}"
    if value is None:
        return "null"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"number {value}"
    return repr(value)


def _token(value: Any, label: Label) -> tuple[str, Any]:
    """Return what makes two values the same: type and value; of times the form, and the label or the ms."""
    moment = _moment(value)
    if moment is not None:
        exact = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
        return type(value).__name__, label(moment) or exact
    return type(value).__name__, repr(value) if isinstance(value, float) else value


def _moment(value: Any) -> datetime | None:
    if isinstance(value, str) and not re.match(r"\d{4}-\d\d-\d\dT", value):
        return None
    return parse_time(value)


def instants(value: Any) -> Any:
    """Return a value with every time, text or date, as an instant in ms, and what is a set in order."""
    if isinstance(value, Mapping):
        found = {key: instants(item) for key, item in value.items()}
        if "parent_links" in found:
            found["nodes"].sort()
            for parents in found["parent_links"].values():
                parents.sort()
        return found
    if isinstance(value, list):
        return [instants(item) for item in value]
    moment = _moment(value)
    return value if moment is None else ("instant", int(moment.timestamp() * 1000))
