"""What a LaunchPad is asked with, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fwcore.plan import Outcome, Plan

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


@dataclass(frozen=True)
class OpenLaunch:
    """A launch that may still be told about: its offline run is open."""

    launch_id: int
    fw_id: int
    launch_dir: str
    state: str
    worker: str


@dataclass(frozen=True)
class Lease:
    """The right to serve a worker, as stored in ``fwagent_leases``. ``epoch`` counts the holders."""

    worker: str
    owner: str
    host: str
    pid: int
    epoch: int
    expires_at: datetime
    since: datetime
