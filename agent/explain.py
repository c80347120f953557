"""Why a Firework is where it is: database, queue, files and agent side by side, and what to do next.

``explain`` is pure: it assembles ``Evidence``, which ``agent.evidence`` gathers, into one JSON object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from textwrap import wrap
from typing import Any

from agent.jobs import JobEnd, QueuedJob
from agent.printable import printable, when
from fwcore.documents import parse_time
from fwcore.launchpad.records import Setbacks, Story
from fwcore.lost import facts_of
from fwcore.states import ACTIVE, FINAL, acceptable_parents

Document = dict[str, Any]

#: Lines of a job's last words that are shown to people.
_LINES = 8
#: Characters of an error that are told.
_ERROR = 400
_WIDTH = 100
#: Seconds without a sign of life that are told: pings of `rlaunch` come once an hour (PING_TIME_SECS).
_SILENT = 3 * 3600.0


#: What jobs that end so have had too little of.
_TOO_LITTLE = {"TIMEOUT": "more walltime", "OUT_OF_MEMORY": "more memory"}


@dataclass(frozen=True)
class Told:
    """What the files of a launch tell.

    ``state`` is that of the report there, None with the ``reason`` if there is none yet; ``words`` are the job's last
    ones, by "stderr" and "stdout"; ``waiting`` are entries of the outbox.
    """

    there: bool
    state: str | None = None
    reason: str = ""
    ping_time: str | None = None
    waiting: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """All that is known of one Firework. ``now`` is in seconds; ``silent`` says why the queue does not answer."""

    fw_id: int
    now: float
    worker: str
    scheduler: str
    queue: str
    agent: str
    #: How long ago `fwagent sync` last ran, if that is what serves the worker.
    synced: str = ""
    #: Why the agent has put it off, launch or Firework.
    deferred: str = ""
    #: What people have asked of the agent, in words; "" if it just runs.
    asked: str = ""
    paused: bool = False
    lost: str = "fizzle"
    story: Story | None = None
    setbacks: Setbacks = field(default_factory=Setbacks)
    job: QueuedJob | None = None
    end: JobEnd | None = None
    silent: str = ""
    files: Told | None = None


@dataclass(frozen=True)
class Launch:
    """The launch that counts, or else the newest one, in a few words."""

    launch_id: int
    state: str
    archived: bool
    worker: str
    launch_dir: str
    job_id: str | None
    since: str | None
    last_sign: str | None
    queue: str
    by_hand: bool
    forgotten: bool
    #: Whether its offline run is completed.
    settled: bool
    message: str
    #: The last line of its traceback.
    error: str
    lost: Document | None


def launch_of(story: Story) -> Launch | None:
    """Return the launch to be told of: the newest active one, else the newest archived one."""
    active = [launch for launch in story.launches if not launch["archived"]]
    chosen = (active or story.launches)[-1:]
    if not chosen:
        return None
    (launch,) = chosen
    history = launch.get("state_history") or [{}]
    ids = [entry["reservation_id"] for entry in history if entry.get("reservation_id") is not None]
    ours = (launch.get("run") or {}).get("fwagent") or {}
    stored = (launch.get("action") or {}).get("stored_data") or {}
    return Launch(
        launch_id=launch["launch_id"],
        state=str(launch.get("state")),
        archived=launch["archived"],
        worker=str((launch.get("fworker") or {}).get("name", "")),
        launch_dir=str(launch.get("launch_dir", "")),
        job_id=str(ids[0]) if ids else None,
        since=_text(history[-1].get("created_on")),
        last_sign=_text(
            next((e.get("updated_on") for e in history if e.get("state") == "RUNNING"), None)
        ),
        queue=str(ours.get("queue", "")),
        by_hand=bool(ours.get("by_hand")),
        forgotten=bool((launch.get("run") or {}).get("deprecated")),
        settled=bool((launch.get("run") or {}).get("completed")),
        message=str(stored.get("_message", "")),
        error=_last_line(stored.get("_exception")),
        lost=facts_of(launch.get("action")),
    )


def _last_line(exception: object) -> str:
    trace = exception.get("_stacktrace") if isinstance(exception, Mapping) else None
    found = [line.strip() for line in str(trace or "").splitlines() if line.strip()]
    return found[-1][:_ERROR] if found else ""


def _text(moment: object) -> str | None:
    found = parse_time(moment)
    return found.isoformat() if found else None


def explain(evidence: Evidence) -> Document:
    """Return the explanation.

    Keys: ``fw_id``, ``name``, ``state`` (null: there is no such Firework); ``why`` and ``todo``, sentences and
    commands for people; ``parents``, a list of {``fw_id``, ``name``, ``state``}; ``workflow`` {``name``, ``state``,
    ``locked_by``}; ``launch``, as ``Launch``, or null; ``setbacks`` {``vanished``, ``lost``}; ``queue`` {``type``,
    ``silent``, ``job``, ``end``}, the latter as in ``agent.jobs`` or null; ``files``, as ``Told``, or null; ``agent``.
    """
    story = evidence.story
    document: Document = {
        "fw_id": evidence.fw_id,
        "name": story.firework.get("name") if story else None,
        "state": story.firework.get("state") if story else None,
        "why": [],
        "todo": [],
        "parents": story.parents if story else [],
        "workflow": story.workflow if story else None,
        "launch": None,
        "setbacks": asdict(evidence.setbacks),
        "queue": {
            "type": evidence.scheduler,
            "silent": evidence.silent,
            "job": asdict(evidence.job) if evidence.job else None,
            "end": asdict(evidence.end) if evidence.end else None,
        },
        "files": asdict(evidence.files) if evidence.files else None,
        "agent": evidence.agent,
    }
    if story is None:
        document["why"].append(f"there is no Firework {evidence.fw_id} in this database")
        document["todo"].append("lpad get_fws -d ids")
        return document
    launch = launch_of(story)
    document["launch"] = asdict(launch) if launch else None
    said = _Said()
    _REASONS.get(str(document["state"]), _unknown)(evidence, story, launch, said)
    if evidence.deferred and document["state"] != "READY":
        said.add(f"what it reported is put off, and tried again: {evidence.deferred}")
    begun = document["state"] in ACTIVE and launch is not None and launch.worker == evidence.worker
    if begun and evidence.agent != "running" and not evidence.synced:
        said.add(f"no agent serves this worker: it is {evidence.agent}", "fwagent run")
    document["why"], document["todo"] = said.why, said.todo
    return document


@dataclass
class _Said:
    why: list[str] = field(default_factory=list)
    todo: list[str] = field(default_factory=list)

    def add(self, why: str, *todo: str) -> None:
        self.why.append(why)
        self.todo += [each for each in todo if each not in self.todo]


_HELD_PARENT = {
    "FIZZLED": "fwagent rerun -i {}",
    "DEFUSED": "lpad reignite_fws -i {}",
    "PAUSED": "lpad resume_fws -i {}",
}


def _waiting(evidence: Evidence, story: Story, _launch: Launch | None, said: _Said) -> None:
    accepted = acceptable_parents(story.firework.get("spec") or {})
    holding = [parent for parent in story.parents if parent.get("state") not in accepted]
    for parent in holding:
        number, state = parent["fw_id"], str(parent.get("state"))
        todo = [f"fwagent explain {number}"]
        todo += [_HELD_PARENT[state].format(number)] if state in _HELD_PARENT else []
        said.add(f"it waits for Firework {number} ({parent.get('name')}), which is {state}", *todo)
    if not holding:
        refresh = f"lpad admin refresh -i {evidence.fw_id}"
        said.add("all its parents are done, but nobody has told it: a refresh was cut", refresh)


def _ready(evidence: Evidence, story: Story, _launch: Launch | None, said: _Said) -> None:
    spec = story.firework.get("spec") or {}
    if not story.wanted:
        keys = {key: spec[key] for key in ("_fworker", "_category") if key in spec}
        asks = f" (the Firework has {keys})" if keys else ""
        said.add(
            f"the worker {evidence.worker!r} does not take it: its name, category or query do not fit{asks}",
            "compare [worker] in the configuration with the spec",
        )
    _locked(evidence, story, said)
    if evidence.deferred:
        tell = (
            f"mend that (lpad update_fws -i {evidence.fw_id} -u ...); it is tried again by itself"
        )
        said.add(f"it was tried, and put off: {evidence.deferred}", tell)
    if evidence.setbacks.vanished:
        times = evidence.setbacks.vanished
        said.add(f"its job has vanished from the queue before it began, {times} times in a row")
    if evidence.setbacks.lost:
        said.add(f"its job was lost while it ran, {evidence.setbacks.lost} times in a row")
    if evidence.silent:
        said.add(f"the queue does not answer: {evidence.silent}")
    if evidence.asked:
        said.add(f"the agent is {evidence.asked}: nothing is launched", "fwagent resume")
    if evidence.agent != "running" and evidence.synced:
        said.add(f"the next `fwagent sync` takes it up; the last was {evidence.synced} ago")
    elif evidence.agent != "running":
        said.add(f"no agent serves this worker: it is {evidence.agent}", "fwagent run")
    if not said.why:
        said.add(
            "it is to be submitted at the next look for READY ones (sync.reserve_interval), as soon as the queue has "
            "room (launch.max_queued); those with a higher _priority, then older ones, go first",
            f"fwagent launch -i {evidence.fw_id}",
        )


def _locked(evidence: Evidence, story: Story, said: _Said) -> None:
    if holder := story.workflow.get("locked_by"):
        unlock = f"if nobody is at work on it: fwagent unlock {evidence.fw_id}"
        said.add(f"its workflow is locked by {holder}", unlock)


def _begun(evidence: Evidence, story: Story, launch: Launch | None, said: _Said) -> None:
    """RESERVED or RUNNING: the database has a launch, what do queue and files say?"""
    if evidence.paused:
        said.add(f"the agent is {evidence.asked}: nothing is brought back", "fwagent resume")
    if ends := _dead_end(evidence, story, launch):
        said.add(*ends)
        return
    assert launch is not None
    files = evidence.files
    if files and (files.state in FINAL or files.waiting):
        what = f"the end, {files.state}," if files.state in FINAL else "a report"
        said.add(
            f"its job has left {what} which is not in the database yet",
            f"fwagent recover -i {evidence.fw_id}",
        )
        _locked(evidence, story, said)
        if files.state in FINAL:
            return
    if launch.queue not in ("", evidence.queue):
        said.add(f"it was submitted to {launch.queue}; this configuration has {evidence.queue}")
        return
    _queued(evidence, launch, said)


def _dead_end(evidence: Evidence, story: Story, launch: Launch | None) -> tuple[str, ...]:
    """Return why what its queue and its job tell makes no difference, and what to do; () if it does."""
    rerun = f"fwagent rerun -i {evidence.fw_id}"
    if launch is None or launch.archived:
        return "no launch counts for it: whoever reserved it was cut", rerun
    ours = evidence.worker
    cases = {
        f"the worker {launch.worker!r} has it, this configuration is of {ours!r}": (
            launch.worker != ours,
            (),
        ),
        "it was forgotten (fwagent forget, lpad forget_offline): what its job reports is ignored": (
            launch.forgotten,
            (rerun,),
        ),
        "no workflow in the database holds it: what its job reports is ignored": (
            story.workflow.get("state") is None,
            ("add its workflow anew",),
        ),
        "its end was brought home, and an older state written over it since, as `lpad recover_offline` beside an "
        "agent may do: the agent mends that, within ten minutes": (
            launch.settled,
            (
                f"fwagent recover -i {evidence.fw_id}, to have it at once",
                "take `lpad recover_offline` out of the crontab",
            ),
        ),
    }
    return next(((why, *todo) for why, (holds, todo) in cases.items() if holds), ())


def _queued(evidence: Evidence, launch: Launch, said: _Said) -> None:
    job = evidence.job
    if job is not None and job.state != "ENDED":
        _listed(evidence, launch, job, said)
        return
    if (launch.by_hand and launch.job_id is None) or evidence.scheduler == "none":
        _by_hand(evidence, launch, said)
        return
    if evidence.silent:
        said.add(f"the queue does not answer, so nothing follows: {evidence.silent}")
        return
    gone = f"{evidence.scheduler} job {launch.job_id} is not in the queue"
    if launch.job_id is None:
        gone = "no job of it is known or in the queue"
    if evidence.end is not None:
        gone += f": it ended as {evidence.end.state}"
        gone += f" ({evidence.end.reason})" if evidence.end.reason else ""
    said.add(f"{gone}, and there is no final report")
    if evidence.lost == "report":
        todo = f"fwagent rerun -i {evidence.fw_id}"
        said.add('lost jobs are only reported here (sync.lost = "report")', todo)
        return
    begun = launch.state == "RUNNING"
    rerun = begun and evidence.lost == "rerun"
    then = "it is rerun" if rerun else "it is FIZZLED" if begun else "it is READY again"
    if evidence.agent == "running":
        said.add(f"the agent settles it once it was gone for sync.lost_after seconds: {then}")
    else:
        todo = "fwagent run, or twice fwagent sync"
        said.add(f"an agent settles it in two passes: {then}", todo)


def _by_hand(evidence: Evidence, launch: Launch, said: _Said) -> None:
    files = evidence.files
    if files is not None and not files.there:
        said.add(
            "its launch directory is gone, moved or purged"
            + (f" ({files.reason})" if files.reason else ""),
            "fwagent register DIR, where it is now",
            f"fwagent rerun -i {evidence.fw_id}",
        )
    elif launch.state == "RUNNING":
        age = _age(evidence, launch)
        told = f"it runs, by what it told {_span(age)} ago" if age is not None else ""
        said.add(told or "it runs; nobody asks a queue")
    else:
        said.add(
            "its script is left to a person to submit, and no start was told",
            f"submit {launch.launch_dir}/FW_submit.script",
        )


def _listed(evidence: Evidence, launch: Launch, job: QueuedJob, said: _Said) -> None:
    word = job.scheduler_state + (f", {job.reason}" if job.reason else "")
    what = f"{evidence.scheduler} job {job.job_id} is {job.state} ({word})"
    if launch.state == "RUNNING":
        age = _age(evidence, launch)
        said.add(f"{what}; its last sign of life is {_span(age)} old" if age is not None else what)
        if age is not None and age > _SILENT:
            why = "that is long: it hangs, or the clock of its node is behind this one's"
            said.add(why, f"look into {launch.launch_dir}")
    elif job.state == "HELD":
        said.add(f"{what}: it waits until it is released", "release the job in the batch system")
    elif job.state == "PENDING":
        said.add(f"{what}: it waits in the queue")
    else:
        said.add(f"{what}, and its runner has told nothing yet")


def _age(evidence: Evidence, launch: Launch) -> float | None:
    """Return how many seconds ago a job told anything."""
    signs = [launch.last_sign, evidence.files.ping_time if evidence.files else None]
    times = [moment.timestamp() for moment in map(parse_time, signs) if moment is not None]
    return evidence.now - max(times) if times else None


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _fizzled(evidence: Evidence, _story: Story, launch: Launch | None, said: _Said) -> None:
    rerun = f"fwagent rerun -i {evidence.fw_id}"
    if launch is None or not (launch.message or launch.error):
        said.add("it failed, and its launch does not say why", rerun)
        return
    said.add(_failure(launch))
    end = evidence.end
    if end is not None and end.state in _TOO_LITTLE:
        more = f"lpad update_fws -i {evidence.fw_id} -u '{{\"_queueadapter\": ...}}'"
        said.add(
            f"the queue ended its job as {end.state}", f"give it {_TOO_LITTLE[end.state]}: {more}"
        )
    if launch.lost is not None:
        said.add("that is concluded from the queue; should its job still report, that counts")
    files = evidence.files
    if files is not None and files.state == "COMPLETED" and launch.lost is None:
        said.add("its files tell COMPLETED: it was started once more, and its first end counts")
    if files is None or files.there:
        said.todo.append(f"look into {launch.launch_dir}")
    said.todo.append(rerun)


def _failure(launch: Launch) -> str:
    if launch.message and launch.error.endswith(launch.message):
        return launch.message
    return ": ".join(filter(None, (launch.message, launch.error)))


def _held(evidence: Evidence, story: Story, _launch: Launch | None, said: _Said) -> None:
    state = story.firework["state"]
    todo = {
        "DEFUSED": f"lpad reignite_fws -i {evidence.fw_id}",
        "PAUSED": f"lpad resume_fws -i {evidence.fw_id}",
    }.get(state)
    what = "somebody, or an action, has taken it out of the flow"
    said.add(what, *([todo] if todo else ["nothing brings it back: add it anew"]))
    if evidence.job is not None:
        job = evidence.job
        said.add(
            f"its job {job.job_id} is still in the queue: {job.state}",
            f"take {evidence.scheduler} job {job.job_id} out of the queue, if nobody wants it",
        )


def _completed(_evidence: Evidence, _story: Story, _launch: Launch | None, said: _Said) -> None:
    said.add("it has run; its result is in the database")


def _unknown(_evidence: Evidence, story: Story, _launch: Launch | None, said: _Said) -> None:
    said.add(f"FireWorks has no state {story.firework.get('state')!r}", "look at its document")


_REASONS: dict[str, Callable[[Evidence, Story, Launch | None, _Said], None]] = {
    "WAITING": _waiting,
    "READY": _ready,
    "RESERVED": _begun,
    "RUNNING": _begun,
    "COMPLETED": _completed,
    "FIZZLED": _fizzled,
    "DEFUSED": _held,
    "PAUSED": _held,
    "ARCHIVED": _held,
}


def lines(document: Document) -> list[str]:
    """Return an explanation for people, at most 100 columns wide but for what is to be copied."""
    name = f" ({document['name']})" if document["name"] else ""
    title = f"Firework {document['fw_id']}{name}: {document['state'] or 'not there'}"
    found = [printable(title)]
    for title, said in (("why", document["why"]), ("to do", document["todo"])):
        for text in said:
            found += wrap(
                f"{title:<10} {printable(text)}",
                _WIDTH,
                subsequent_indent=" " * 11,
                # A path or a command is to be copied, however long it is.
                break_long_words=False,
                break_on_hyphens=False,
            )
    words = [
        *_parent_lines(document["parents"]),
        *_launch_lines(document["launch"]),
        *_queue_lines(document["queue"]),
        *_file_lines(document["files"]),
    ]
    shown = map(printable, words)
    return found + [line if len(line) <= _WIDTH else line[: _WIDTH - 3] + "..." for line in shown]


def _parent_lines(found: list[Document]) -> list[str]:
    parents = [f"{each['fw_id']} {each.get('state')}" for each in found]
    return [f"parents    {', '.join(parents)}"] if parents else []


def _launch_lines(launch: Document | None) -> list[str]:
    if launch is None:
        return []
    archived = ", archived" if launch["archived"] else ""
    since = f" since {when(launch['since'])}" if launch["since"] else ""
    job = f", job {launch['job_id']}" if launch["job_id"] else ", no job recorded"
    return [f"database   launch {launch['launch_id']} is {launch['state']}{since}{archived}{job}"]


def _queue_lines(queue: Document) -> list[str]:
    if queue["silent"]:
        return [f"queue      does not answer: {queue['silent']}"]
    if job := queue["job"]:
        word = ", ".join(filter(None, (job["scheduler_state"], job["reason"])))
        return [f"queue      job {job['job_id']} is {job['state']} ({word})"]
    if end := queue["end"]:
        ran = f" after {end['elapsed']:.0f} s" if end["elapsed"] is not None else ""
        code = f", exit code {end['exit_code']}" if end["exit_code"] else ""
        code = f", signal {end['signal']}" if end["signal"] else code
        return [f"queue      job {end['job_id']} ended as {end['state']}{ran}{code}"]
    return []


def _file_lines(files: Document | None) -> list[str]:
    if files is None:
        return []
    if not files["there"]:
        reason = files["reason"] or "gone"
        return [f"files      the launch directory is not there: {reason}"]
    told = files["state"] or files["reason"]
    ping = f", last ping {when(files['ping_time'])}" if files["ping_time"] else ""
    found = [f"files      {told}{ping}"]
    found += [f"outbox     {name}" for name in files["waiting"]]
    for key, text in files["words"].items():
        for position, line in enumerate(text.splitlines()[-_LINES:]):
            found.append(f"{key if position == 0 else '':<10} {line}".rstrip())
    return found
