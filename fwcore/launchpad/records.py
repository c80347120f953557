"""What a LaunchPad is asked with, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fwcore.plan import Outcome, Plan
from fwcore.rerun import Change, Changes

Document = dict[str, Any]

#: Launches handled under one set of locks; bounds memory and the time locks are held.
BATCH = 500

#: Gives the launch directory of (the Firework to be claimed, its launch_id). It must not make it.
PlaceLaunch = Callable[[Mapping[str, Any], int], str]

#: Gives {filename: its end, as text} of the files that a launch, given as its document, tracks.
Track = Callable[[Mapping[str, Any]], Mapping[str, str]]


@dataclass(frozen=True)
class Claim:
    """A reserved Firework. ``firework`` is what belongs into ``FW.json``, its launch inside."""

    fw_id: int
    launch_id: int
    launch_dir: str
    token: str
    firework: Document


@dataclass
class Applied:
    """What became of reports; the lists are those of a Plan."""

    applied: list[Outcome] = field(default_factory=list)
    known: list[Outcome] = field(default_factory=list)
    deferred: list[Outcome] = field(default_factory=list)
    ignored: list[Outcome] = field(default_factory=list)
    released: list[int] = field(default_factory=list)

    def extend(self, other: Applied | Plan) -> None:
        """Take over the outcomes of another batch."""
        self.applied += other.applied
        self.known += other.known
        self.deferred += other.deferred
        self.ignored += other.ignored
        self.released += other.released


@dataclass
class Changed:
    """What became of Fireworks that were to be rerun or defused; the lists are those of Changes."""

    changed: list[Change] = field(default_factory=list)
    skipped: list[Change] = field(default_factory=list)
    deferred: list[Change] = field(default_factory=list)
    released: list[int] = field(default_factory=list)

    def extend(self, other: Changes) -> None:
        """Take over the outcomes of a later batch; what an earlier one has done was not skipped."""
        done = {change.fw_id for change in self.changed}
        again = {change.fw_id for change in other.changed}
        self.changed = [change for change in self.changed if change.fw_id not in again]
        self.changed += other.changed
        self.skipped += [change for change in other.skipped if change.fw_id not in done]
        self.deferred += other.deferred
        self.released = [fw_id for fw_id in self.released if fw_id not in again]
        self.released += other.released


@dataclass(frozen=True)
class Forgotten:
    """An offline run that was retired: nobody looks for its report any more."""

    fw_id: int
    launch_id: int


@dataclass(frozen=True)
class OpenLaunch:
    """A launch that may still be told about: its offline run is open."""

    launch_id: int
    fw_id: int
    launch_dir: str
    state: str
    worker: str


@dataclass(frozen=True)
class Run:
    """A launch as its history tells of it; moments are ISO 8601 texts, None where there is none.

    ``seen`` is the last sign of life, ``runtime`` is in seconds and of a launch that has ended.
    """

    launch_id: int
    fw_id: int
    name: str
    state: str
    launch_dir: str
    job_id: str | None
    reserved: str | None
    started: str | None
    seen: str | None
    ended: str | None
    runtime: float | None


@dataclass(frozen=True)
class JobRecord:
    """A launch and its job, as the database has them.

    ``job_id`` is the reservation id; None while none is recorded. ``fw_state`` is the state of a Firework that
    counts on the launch; "" if none does, because it was rerun, defused or archived, or is gone. ``token`` is that of
    its offline run, None where `qlaunch` has made it; ``queue`` the one its job goes to ("" if that is not known);
    ``by_hand`` tells that its script is left to a person to submit.
    """

    launch_id: int
    fw_id: int
    state: str
    launch_dir: str
    worker: str
    job_id: str | None
    fw_state: str
    token: str | None = None
    queue: str = ""
    by_hand: bool = False


@dataclass(frozen=True)
class Setbacks:
    """How often in a row the jobs of a Firework have been lost: before they began, and while they ran.

    The newest archived launches count, as far back as all of them ended that way, so that a run that ended
    otherwise, or one that was given up for good, begins the count anew.
    """

    vanished: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Story:
    """One Firework with what is around it, as documents; those of tasks and results are left out.

    ``workflow`` has ``locked_by`` ("" if nobody), ``parents`` are in the order of their ids. ``launches`` are the
    active ones, then the newest archived one, each with its offline ``run`` and ``archived``. ``wanted`` tells whether
    a worker would take the Firework if it were READY.
    """

    firework: Document
    workflow: Document
    parents: list[Document]
    launches: list[Document]
    wanted: bool


@dataclass(frozen=True)
class Wish:
    """What people want the agent of a worker to do, whoever holds its lease; it stays until the next one.

    ``mode``: `run`; `drain`, launch nothing; `pause`, write nothing at all. ``by`` is who asked, as user@host,
    and ``on`` when, by the server's clock. ``number`` counts the wishes of a worker; 0: nobody has ever asked.
    """

    mode: str = "run"
    by: str = ""
    on: datetime | None = None
    number: int = 0


@dataclass(frozen=True)
class Lease:
    """The right to serve a worker, as stored in ``fwagent_leases``. ``epoch`` counts the holders.

    ``followed`` is the number of the wish that an agent has answered last; ``stop`` says who has asked the present
    holder to end, "" if nobody has.
    """

    worker: str
    owner: str
    host: str
    pid: int
    epoch: int
    expires_at: datetime
    since: datetime
    wish: Wish = Wish()
    followed: int = 0
    stop: str = ""


@dataclass(frozen=True)
class Refusal:
    """A write that the server has refused for good; ``number`` names the Firework or launch it was for."""

    collection: str
    number: str
    reason: str
    on: datetime | None


@dataclass(frozen=True)
class Lock:
    """A workflow that is locked. ``fw_id`` is its lowest, ``value`` what stands in ``locked``.

    ``verdict``: `held` by a process of ours that lives; `dead`, left by one of ours that does not, and released by
    the next agent that resumes; `unknown`, since FireWorks' locks tell neither who has taken them nor when.
    """

    fw_id: int
    name: str
    value: Any
    updated_on: datetime | None
    holder: str
    verdict: str
