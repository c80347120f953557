"""What a batch queue is asked, and what it tells of its jobs, in words that all schedulers share. Shapes only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fwcore.errors import FwagentError

State = Literal["PENDING", "HELD", "RUNNING", "ENDING", "ENDED"]


class QueueSilent(FwagentError):
    """The scheduler does not answer, or not in words we know: nothing follows from it, ask later."""


class NotWaitedFor(QueueSilent):
    """The agent ends, and takes no answer any more: nothing is wrong with the scheduler."""


class LimitReached(FwagentError):
    """The scheduler takes no more jobs of ours now: submit later."""


class Closed(FwagentError):
    """Where this script wants to go takes no jobs now, from nobody: submit it later, and the others all the same."""


class Rejected(FwagentError):
    """The scheduler refuses this script, in its own words, and would do so again."""


@dataclass(frozen=True)
class Submission:
    """A staged launch that is to become a job."""

    launch_id: int
    #: The submit script, in the launch directory.
    script: Path
    name: str
    #: The script for an array of launches (`agent.queue.script`), None: a job of its own. Launches whose texts are
    #: equal may share an array.
    array: str | None = None


@dataclass(frozen=True)
class Submitted:
    """What became of a Submission.

    Without an error it is in the queue as ``job_id`` (None: a person will submit it). With one it is certainly
    not there, unless ``doubtful``: then the queue has not said whether it took the job.
    """

    launch_id: int
    job_id: str | None = None
    error: FwagentError | None = None
    doubtful: bool = False


@dataclass(frozen=True)
class QueuedJob:
    """One job as the listing of the queue has it."""

    #: As the scheduler prints it: "123", "123_4" (an element of an array), "123.server".
    job_id: str
    #: From the tag that every job of ours carries; None for a job that is not ours.
    launch_id: int | None
    state: State
    #: The scheduler's own word, "PD" or "Eqw", and its reason if it gives one, for people.
    scheduler_state: str
    reason: str = ""


@dataclass(frozen=True)
class JobEnd:
    """How a job has ended, as the scheduler tells it."""

    job_id: str
    #: Slurm's words for all schedulers: COMPLETED, FAILED, TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, CANCELLED, ...
    state: str
    exit_code: int | None = None
    signal: int | None = None
    #: Seconds it ran, and was allowed to run.
    elapsed: float | None = None
    limit: float | None = None
    #: The scheduler's own words.
    reason: str = ""
