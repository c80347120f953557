"""A batch queue: submits in parallel, lists, adopts by the tag, and never takes silence for an answer."""

from __future__ import annotations

import os
import pwd
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep, time

from agent.jobs import (
    Closed,
    JobEnd,
    LimitReached,
    QueuedJob,
    QueueSilent,
    Rejected,
    Submission,
    Submitted,
)
from agent.queue.command import Ran, refusal, run
from agent.queue.dialect import Dialect, Listed
from agent.queue.tags import ARRAY_PLACE, ARRAYS, Manifests, Tag
from agent.stage import SUBMIT_SCRIPT
from fwcore.errors import FwagentError

#: Launches in one array: a site that allows fewer than Slurm's default of 1,000 is rare.
LARGEST_ARRAY = 500
#: Seconds after which what a scheduler has been asked for is in its listing, if it has been taken at all.
SETTLE_SECONDS = 5.0
#: Likewise for a scheduler that has not answered in time.
DOUBT_SECONDS = 60.0
#: Jobs that one command is asked about or cancels.
AT_ONCE = 200
#: Refusals without a job that was taken, after which the others are not tried.
REFUSED_IN_A_ROW = 4
#: Likewise of those that want to go where nobody may now; the next may want to go elsewhere.
CLOSED_IN_A_ROW = 32
#: Days that the manifest of an array is kept after it was last seen in the queue.
KEEP_DAYS = 30

_DAY = 86400
#: What people set for their own listings would keep jobs from ours (squeue(1), scancel(1), sacct(1)).
_FILTERS = re.compile(r"(SQUEUE|SCANCEL|SACCT)_")
#: With these one launch would be many jobs, or sbatch wait for its end (sbatch(1)).
_NOT_OURS = re.compile(r"SBATCH_(ARRAY_INX|WAIT)$")


@dataclass(frozen=True)
class _Group:
    """Launches that become one job or one array."""

    members: tuple[Submission, ...]

    @property
    def launch_ids(self) -> list[int]:
        return [member.launch_id for member in self.members]


class BatchQueue:
    """The queue of a scheduler, asked by its commands."""

    lists = True

    def __init__(
        self,
        dialect: Dialect,
        scope: str,
        private: Path,
        *,
        processes: int = 4,
        timeout: float = 60.0,
    ) -> None:
        """``scope`` tells our jobs from those of other agents of this user; ``private`` is the root's `.fwagent`.

        Nothing is run, nor looked for, before it is needed.
        """
        self._dialect = dialect
        self._scope = scope
        self._outbox = private / "outbox"
        self._arrays = private / ARRAYS
        self._manifests = Manifests(self._arrays)
        self._processes = processes
        self._timeout = timeout
        # Until when the queue may show a job that it was asked for in vain, by launch_id.
        self._doubts: dict[int, float] = {}

    # ------------------------------------------------------------------------------- submitting

    def submit_all(
        self, submissions: Sequence[Submission], tend: Callable[[], None] = lambda: None
    ) -> Iterator[Submitted]:
        """Submit, some at a time; yield what became of each as soon as it is known.

        ``tend`` is called now and then meanwhile. When the queue takes no more, or answers to nothing but refusals,
        the rest is not tried: these come back with that error, and certainly have no job.
        """
        pending, progress = _groups(submissions), _Progress()
        with ThreadPoolExecutor(self._processes, "submit") as pool:
            running: dict[Future[list[Submitted]], _Group] = {}
            while running or pending:
                if progress.stop is not None:
                    yield from (each for group in pending for each in _all(group, progress.stop))
                    pending = []
                while pending and len(running) < self._processes:
                    group = pending.pop(0)
                    running[pool.submit(self._submit, group)] = group
                done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                tend()
                for future in done:
                    smaller = _smaller(running.pop(future), future.result()[0])
                    pending[:0] = smaller
                    if not smaller:
                        yield from progress.certain(future.result())
        if progress.doubtful:
            yield from self._resolved(progress.doubtful)

    def _submit(self, group: _Group) -> list[Submitted]:
        if len(group.members) == 1:
            return self._submit_one(group.members[0])
        return self._submit_array(group)

    def _submit_one(self, member: Submission) -> list[Submitted]:
        tag = Tag(str(member.launch_id), self._scope)
        try:
            text = member.script.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            return [
                _failed(member, FwagentError(f"{member.script} cannot be read: {error.strerror}"))
            ]
        return self._outcomes(_Group((member,)), self._ask(member.script, tag, member.name, text))

    def _submit_array(self, group: _Group) -> list[Submitted]:
        first = group.members[0]
        assert first.array is not None
        try:
            name, place = self._manifests.write(
                (member.launch_id, str(member.script.parent)) for member in group.members
            )
            script = place / SUBMIT_SCRIPT
            text = first.array.replace(ARRAY_PLACE, str(place))
            script.write_text(text, encoding="utf-8")
        except OSError as error:
            trouble = FwagentError(
                f"{self._arrays} is not usable: {error.strerror}", "check space and quota"
            )
            return list(_all(group, trouble))
        count = len(group.members)
        answer = self._ask(script, Tag(name, self._scope), first.name, text, count)
        outcomes = self._outcomes(group, answer)
        if outcomes[0].error is not None and not outcomes[0].doubtful:
            shutil.rmtree(place, ignore_errors=True)
        return outcomes

    def _ask(
        self, script: Path, tag: Tag, name: str, text: str, count: int = 1
    ) -> Ran | QueueSilent:
        submit = self._dialect.submit(script, tag, name, text, count)
        locale = {} if self._dialect.exports else {"LC_ALL": "C"}
        try:
            return run(
                submit.argv,
                timeout=self._timeout,
                cwd=script.parent,
                stdin=script if submit.stdin else None,
                # LSF's bsub waits for room in the queue otherwise.
                environment={**locale, "LSB_NTRIES": "1"},
                without=_NOT_OURS,
            )
        except QueueSilent as error:
            return error

    def _outcomes(self, group: _Group, answer: Ran | QueueSilent) -> list[Submitted]:
        if isinstance(answer, QueueSilent):
            return list(_all(group, answer))
        job_id = self._dialect.job_id(answer.stdout)
        if answer.status != 0:
            error, doubtful = refusal(answer)
            # Whoever tells an id has a job, whatever else has failed.
            return list(_all(group, error, doubtful=doubtful or job_id is not None))
        if job_id is None:
            untold = FwagentError(
                f"{answer.argv[0]} has accepted a job but told no id: {answer.said}"
            )
            return list(_all(group, untold, doubtful=True))
        if len(group.members) == 1:
            return [Submitted(group.members[0].launch_id, job_id)]
        return [
            Submitted(member.launch_id, self._dialect.element(job_id, index))
            for index, member in enumerate(group.members, 1)
        ]

    def _resolved(self, doubtful: Sequence[Submitted]) -> Iterator[Submitted]:
        """Look for jobs that the queue may have taken without our knowing."""
        until = monotonic() + DOUBT_SECONDS
        self._doubts.update((outcome.launch_id, until) for outcome in doubtful)
        try:
            found = self._by_launch(self._list())
        except QueueSilent:
            found = {}
        for outcome in doubtful:
            if job_id := found.get(outcome.launch_id):
                self._doubts.pop(outcome.launch_id, None)
                yield Submitted(outcome.launch_id, job_id)
            else:
                yield outcome

    # ---------------------------------------------------------------------------------- listing

    def listing(self) -> dict[str, QueuedJob]:
        """Return all jobs of this user; raise QueueSilent."""
        found = self._list()
        self._touch({job.tag.key for job in found if job.tag and job.tag.scope == self._scope})
        return {
            job.job_id: QueuedJob(
                job.job_id, self._launch_id(job), job.state, job.scheduler_state, job.reason
            )
            for job in found
        }

    def _list(self) -> list[Listed]:
        ran = self._run(self._dialect.listing(_user()))
        details = [self._run(argv) for argv in self._dialect.details(ran)]
        return self._dialect.read_listing(details or [ran])

    def _run(self, argv: Sequence[str]) -> Ran:
        environment = {"LC_ALL": "C"}
        return run(argv, timeout=self._timeout, environment=environment, without=_FILTERS)

    def _launch_id(self, job: Listed) -> int | None:
        if job.tag is None or job.tag.scope != self._scope:
            return None
        if job.tag.key.isdecimal():
            return int(job.tag.key)
        return self._manifests.launch_id(job.tag.key, job.index)

    def _by_launch(self, jobs: Iterable[Listed]) -> dict[int, str]:
        # Numbers begin anew with `lpad reset`: what is there counts before what has ended.
        ordered = sorted(jobs, key=lambda job: job.state != "ENDED")
        pairs = ((self._launch_id(job), job.job_id) for job in ordered)
        return {launch_id: job_id for launch_id, job_id in pairs if launch_id is not None}

    def _touch(self, names: set[str]) -> None:
        """Keep the manifests of these arrays, and drop those that have not been in the queue for long."""
        now = time()
        for place in self._arrays.glob("a*"):
            with suppress(OSError):
                if place.name in names:
                    os.utime(place)
                elif now - place.stat().st_mtime > KEEP_DAYS * _DAY:
                    shutil.rmtree(place)

    # ------------------------------------------------------------------------------------- ends

    def ends(self, job_ids: Iterable[str]) -> dict[str, JobEnd]:
        """Return how jobs have ended, as far as the scheduler tells; what it does not tell is missing."""
        wanted = list(dict.fromkeys(job_ids))
        found: dict[str, JobEnd] = {}
        for start in range(0, len(wanted), AT_ONCE):
            left = wanted[start : start + AT_ONCE]
            for argv in self._dialect.ends(left):
                if not left:
                    break
                with suppress(QueueSilent):
                    told = self._dialect.read_ends(self._run(argv))
                    found.update((end.job_id, end) for end in told if end.job_id in left)
                left = [job_id for job_id in left if job_id not in found]
        return found

    def cancel(self, job_ids: Iterable[str]) -> None:
        """Have jobs ended or dropped; those that are gone already do not matter. Raises QueueSilent."""
        wanted = list(dict.fromkeys(job_ids))
        for start in range(0, len(wanted), AT_ONCE):
            ran = self._run(self._dialect.cancel(wanted[start : start + AT_ONCE]))
            # All of them exit with an error when one of the jobs is gone.
            if ran.status is None or (ran.status != 0 and isinstance(refusal(ran)[0], QueueSilent)):
                raise ran.silent

    # --------------------------------------------------------------------------------- adopting

    def submitted(self, host: str, launch_ids: list[int]) -> dict[int, str] | None:  # noqa: ARG002
        """Return {launch_id: job id} of those launches that the queue has taken, None if it cannot tell now.

        What it does not show it is asked for again after a moment: a request that a killed agent has sent may still
        be on its way. A launch that has reported has had a job, which may have left the queue since: its id is "".
        """
        started = monotonic()
        try:
            found = self._taken(launch_ids)
            missing = [number for number in launch_ids if number not in found]
            if missing and not self._may_come(missing):
                sleep(max(0.0, started + SETTLE_SECONDS - monotonic()))
                found |= self._taken(missing)
                missing = [number for number in missing if number not in found]
        except QueueSilent:
            return None
        return None if missing and self._may_come(missing) else found

    def _taken(self, launch_ids: Sequence[int]) -> dict[int, str]:
        listed = self._by_launch(self._list())
        reported = dict.fromkeys(self._reported(launch_ids), "")
        return {number: listed[number] for number in launch_ids if number in listed} | {
            number: told for number, told in reported.items() if number not in listed
        }

    def _reported(self, launch_ids: Sequence[int]) -> list[int]:
        wanted = {str(number) for number in launch_ids}
        try:
            names = {entry.name.partition(".")[0] for entry in os.scandir(self._outbox)}
        except OSError:
            names = set()
        return [int(number) for number in wanted & names]

    def _may_come(self, launch_ids: Sequence[int]) -> bool:
        """Tell whether a job of one of these may still come into the queue, having been asked for."""
        now = monotonic()
        self._doubts = {number: until for number, until in self._doubts.items() if until > now}
        if not self._doubts.keys().isdisjoint(launch_ids):
            return True
        # A submit command that outlives the agent which has started it.
        keys = [*map(str, launch_ids), *self._manifests.elements(launch_ids)]
        tags = [Tag(key, self._scope) for key in keys]
        wanted = {text.encode() for tag in tags for text in (tag.text, tag.name)}
        ours = [line for line in _command_lines() if self._scope.encode() in line]
        return any(text in line for line in ours for text in wanted)

    def depth(self) -> None:
        """Only a listing would tell; the database knows what we have submitted."""

    def tend(self) -> None:
        """Nothing to do: a scheduler goes on by itself."""


def _groups(submissions: Iterable[Submission]) -> list[_Group]:
    groups: list[_Group] = []
    alike: dict[str, list[Submission]] = {}
    for submission in submissions:
        if submission.array is None:
            groups.append(_Group((submission,)))
        else:
            alike.setdefault(submission.array, []).append(submission)
    for members in alike.values():
        starts = range(0, len(members), LARGEST_ARRAY)
        groups += [_Group(tuple(members[start : start + LARGEST_ARRAY])) for start in starts]
    return groups


def _smaller(group: _Group, outcome: Submitted) -> list[_Group]:
    """Return what to try in the place of an array that was refused: a limit may have room for some of it."""
    count = len(group.members)
    if count == 1 or outcome.doubtful:
        return []
    if isinstance(outcome.error, Rejected):
        return [_Group((member,)) for member in group.members]
    if isinstance(outcome.error, LimitReached):
        return [_Group(group.members[: count // 2]), _Group(group.members[count // 2 :])]
    return []


@dataclass
class _Progress:
    """What is known of the queue from the answers so far."""

    #: Why nothing more is to be tried.
    stop: FwagentError | None = None
    doubtful: list[Submitted] = field(default_factory=list)
    _refused: int = 0
    _closed: int = 0
    _accepted: int = 0

    def certain(self, outcomes: Sequence[Submitted]) -> list[Submitted]:
        """Take in what became of one group; return what is certain."""
        error = outcomes[0].error
        self._accepted += error is None
        self._refused += isinstance(error, Rejected)
        self._closed += isinstance(error, Closed)
        if isinstance(error, (LimitReached, QueueSilent)):
            self.stop = LimitReached(error.title, error.hint)
        elif self._closed >= CLOSED_IN_A_ROW and error is not None and not self._accepted:
            self.stop = LimitReached(f"not tried, since {error.title}", error.hint)
        elif (
            isinstance(error, Rejected) and self._refused >= REFUSED_IN_A_ROW and not self._accepted
        ):
            # The configuration is wrong rather than each of the Fireworks.
            title = f"not tried, since others were refused: {error.title}"
            self.stop = LimitReached(title, error.hint)
        self.doubtful += [outcome for outcome in outcomes if outcome.doubtful]
        return [outcome for outcome in outcomes if not outcome.doubtful]


def _all(group: _Group, error: FwagentError, *, doubtful: bool = False) -> Iterator[Submitted]:
    return (Submitted(number, error=error, doubtful=doubtful) for number in group.launch_ids)


def _failed(member: Submission, error: FwagentError) -> Submitted:
    return Submitted(member.launch_id, error=error)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _command_lines() -> Iterator[bytes]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if process.stat().st_uid == os.getuid() and int(process.name) != os.getpid():
                yield (process / "cmdline").read_bytes()
