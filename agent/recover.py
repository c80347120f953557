"""The way back: from launch directories and the outbox into the database."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple, TypeVar

from agent.directories import Claimed, claimed, follow
from agent.filesystem import fresh_stat, refresh
from agent.leftovers import Leftovers
from agent.results import Result
from agent.tails import read_tails
from fwcore.errors import FwagentError
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import BATCH, Applied
from fwcore.states import FINAL
from fwrunner.protocol import (
    ACTION_JSON,
    OFFLINE_JSON,
    PING_JSON,
    STAGED,
    NotYet,
    Report,
    read_outbox_entry,
    read_report,
    spoilt_final,
)
from fwrunner.protocol.rescue import read_lines

#: Seconds for which the directory of a launch is looked at after it was declared lost.
LOST_WATCHED = 7 * 86400.0
#: Bytes of reports that are in memory at once, unless a single one has more.
BATCH_BYTES = 64 * 1024 * 1024

#: Told of a run that is retired although its job has said nothing.
SUPERSEDED = "its Firework was rerun or cancelled meanwhile: its offline run is retired"

#: Beside the outbox: its entries that are nobody's in this database.
IGNORED = "ignored"
#: Launches by which a run may be opened after a later one: ids are drawn first.
OPENED_LATE = 1000
#: Seconds that clocks of login nodes may be apart for a registration to be seen before all are listed again.
REGISTERED_LATE = 300.0

#: The first changes with whatever is told of the state of a launch.
_LOOKED_AT = (OFFLINE_JSON, PING_JSON, ACTION_JSON)

_EIGHT_BYTES = Struct("q").pack

T = TypeVar("T")
#: Inode, bytes, time of the last change in ns.
Seen = tuple[int, int, int]
Signature = tuple[Seen | None, ...]
#: A signature in eight bytes for each file: there may be 100,000.
Print = bytes


@dataclass
class Memory:
    """What was seen of launch directories, so that unchanged ones are not read again. Only a cache."""

    signatures: dict[int, Print] = field(default_factory=dict)
    #: Rescued reports that are not for us: as they were when they were offered.
    foreign: dict[Path, Seen | None] = field(default_factory=dict)

    def keep(self, launch_ids: Collection[int]) -> None:
        """Forget all but these launches."""
        for launch_id in [each for each in self.signatures if each not in launch_ids]:
            del self.signatures[launch_id]


class Look(NamedTuple):
    """A launch directory that is to be read, as it is now."""

    launch_id: int
    place: str
    signature: Signature

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file[1] for file in self.signature if file)


@dataclass(frozen=True)
class Found:
    """A report, and when it was written: seconds since 1970, 0 if nobody can tell."""

    report: Report
    written: float


class WayBack:
    """Reads reports and brings them into the database, in batches of bounded size."""

    def __init__(
        self,
        launchpad: LaunchPad,
        outbox: Path,
        max_size: int,
        rescued: Path | None = None,
        *,
        remote: bool = False,
    ) -> None:
        self._launchpad = launchpad
        self._outbox = outbox
        self._max_size = max_size
        self._root = str(outbox.parent.parent)
        self._aside = outbox.parent / IGNORED
        self._rescued = rescued
        # Whether other hosts write there, so that listings and stats may be old.
        self._remote = remote
        self.memory = Memory()
        self._left = Leftovers()
        #: The launches of the last `recover` whose directories had changed, or could not be read.
        self.news: set[int] = set()
        #: Those of them whose directory is not where it should be.
        self.missing: set[int] = set()
        # Those that were declared lost, when all were listed.
        self._lost: Collection[int] = ()
        #: Called with how many entries of the outbox are done, and how many there were; after each batch.
        self.progress: Callable[[int, int], None] = lambda _done, _total: None
        # The latest launch that was seen in a list of places.
        self._newest = 0
        self._listed_on = launchpad.now()
        # Launches with an open run that had ended in the database when the places were listed.
        self._ended: set[int] = set()

    def places(
        self,
        worker: str | None,
        fw_ids: Iterable[int] | None = None,
        registered_for: str = "",
    ) -> dict[int, str]:
        """Return {launch_id: directory} of what may still be told about.

        These are the open offline runs, whoever staged them, and the registered directories. ``worker``
        None means every worker; ``fw_ids`` restricts to the launches of these Fireworks.
        """
        self._listed_on = self._launchpad.now()
        launches = self._launchpad.open_launches(worker)
        self._newest = max((launch.launch_id for launch in launches), default=0)
        places = {launch.launch_id: launch.launch_dir for launch in launches}
        self._ended = {launch.launch_id for launch in launches if launch.state in FINAL}
        if worker is not None:
            places.update(self._launchpad.overwritten(worker, places))
            # A lost job may turn out not to be: what it still tells is looked for.
            lost = self._launchpad.lost_places(worker, LOST_WATCHED)
            self._lost = lost.keys() - places.keys()
            places.update(lost)
        places.update(self._launchpad.registered(worker or registered_for))
        if fw_ids is None:
            return places
        wanted = self._launchpad.launch_ids_of(fw_ids)
        return {launch_id: place for launch_id, place in places.items() if launch_id in wanted}

    def new_places(self, worker: str) -> dict[int, str]:
        """Return the `places` that may have been added since they were last listed as a whole."""
        launches = self._launchpad.open_launches(worker, after=self._newest - OPENED_LATE)
        self._newest = max([self._newest, *(launch.launch_id for launch in launches)])
        places = {launch.launch_id: launch.launch_dir for launch in launches}
        since = (self._launchpad.now() - self._listed_on).total_seconds() + REGISTERED_LATE
        places.update(self._launchpad.registered(worker, within=since))
        return places

    def told_of(self) -> dict[int, list[str]]:
        """Return {launch_id: file names} of the reports that wait in the outbox or in the rescue place."""
        waiting = _entries(self._outbox)
        for path in _entries(self._rescued) if self._rescued else []:
            if self.memory.foreign.get(path, ()) != _stat(path):
                waiting.append(path)
        found: dict[int, list[str]] = {}
        for path in waiting:
            found.setdefault(_launch_id(path), []).append(path.name)
        return found

    def recover(
        self,
        places: Mapping[int, str],
        result: Result,
        *,
        outbox: bool = True,
        quick: Collection[int] = (),
    ) -> None:
        """Apply everything that the outbox, these launch directories and their rescued reports tell.

        For the launches in ``quick`` one stat does: the others are made only if FW_offline.json has changed,
        which comes with each start and each end.
        """
        self.news = set()
        self.missing = set()
        if outbox:
            if self._remote:
                refresh(self._outbox)
            listed = self._left.others(_entries(self._outbox), self._now())
            waiting = _oldest_first(listed)
            done = 0
            for entries in _batches(waiting, _size):
                before = len(result.applied)
                self._apply_entries(entries, places, result)
                done += len(entries)
                # What cannot be read stays there, and is no progress at each pass.
                if len(result.applied) > before or done == len(waiting):
                    self.progress(done, len(waiting))
            self._left.tell(result)
            if not listed and self._outbox.exists() and not self._outbox.is_dir():
                result.defer(None, None, f"{self._outbox} is no directory: move it away")
        settled = self._apply_rescued(places, result)
        settled |= {row["launch_id"] for row in result.applied if row["state"] != "RUNNING"}
        # The directory of what the outbox has ended, or of a rescued report, may be gone for good.
        left = places
        if settled:
            left = {key: place for key, place in places.items() if key not in settled}
        for looks in _batches(self._changed(left, quick), lambda look: look.size):
            self._apply_places(looks, result)

    def follow(
        self, places: Mapping[int, str], root: Path, missing: Collection[int]
    ) -> dict[int, str]:
        """Look below the launch root for directories that `recover` has missed; return where they are."""
        return follow(self._launchpad, root, places, missing, self._max_size) if missing else {}

    def close(self, places: Mapping[int, str], result: Result) -> None:
        """Close the offline runs of these launches that no report can end any more.

        Those are of Fireworks that were rerun, and of launches that somebody has run without these files.
        """
        for run in self._launchpad.retire_superseded(places):
            result.ignore(run.launch_id, run.fw_id, SUPERSEDED)
        if left := self._ended & places.keys():
            closed = self._launchpad.close_ended(left)
            ended = {outcome.launch_id for outcome in closed.applied}
            result.deferred = [e for e in result.deferred if e["launch_id"] not in ended]
            result.take(closed)

    def recover_file(self, file: Path, result: Result) -> None:
        """Apply the reports in a file that holds what a job wrote to stderr. Raises FwagentError."""
        # None of them is larger than the file.
        size = _size(file)
        for found in _batches(self._told_in(file, result), lambda _: size):
            self._apply(found, {}, result)

    def _told_in(self, file: Path, result: Result) -> Iterator[Found]:
        told = False
        try:
            with file.open("rb") as stream:
                for item in read_lines(stream, str(file), self._max_size):
                    told = True
                    if isinstance(item, NotYet):
                        result.defer(None, None, item.reason)
                    else:
                        yield Found(item, _modified(file))
        except OSError as error:
            raise FwagentError(
                f"{file} cannot be read: {error.strerror}", "give the file with the job's stderr"
            ) from None
        if not told:
            raise FwagentError(
                f"there is no report in {file}",
                "a job writes one to its stderr only if it can write it nowhere else: look there",
            )

    def _apply_entries(
        self, entries: list[Path], places: Mapping[int, str], result: Result
    ) -> None:
        found: dict[Path, Found] = {}
        for path in entries:
            report = read_outbox_entry(str(path), self._max_size)
            if isinstance(report, Report):
                found[path] = Found(report, _modified(path))
            else:
                self._left.leave(path, "cannot be read", report.reason, self._now())
        applied = self._apply(found.values(), places, result)
        unsettled = {outcome.launch_id for outcome in applied.deferred}
        ignored = {outcome.launch_id for outcome in applied.ignored}
        for path, item in found.items():
            # One launch may have a true entry and a forged one: while either waits, both stay.
            if item.report.launch_id in unsettled:
                continue
            try:
                if item.report.launch_id in ignored:
                    self._set_aside(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                # A full or read-only disk: what else there is to bring home can be read all the same.
                why = f"{path.name}: {error.strerror}"
                self._left.leave(path, "settled, but not to be removed", why, self._now())

    def _now(self) -> float:
        return self._launchpad.now().timestamp()

    def _apply_rescued(self, places: Mapping[int, str], result: Result) -> set[int]:
        """Apply rescued reports of these launches; return which are in the database now."""
        settled: set[int] = set()
        for paths in _batches(self._rescued_entries(places), _size):
            settled |= self._apply_rescued_entries(paths, places, result)
        return settled

    def _rescued_entries(self, places: Mapping[int, str]) -> Iterator[Path]:
        # Other databases may be served from the same home directory. Their entries are left alone.
        if self._rescued:
            yield from self._offered(self._rescued, places)
        yield from self._ours_aside(places)

    def _offered(self, directory: Path, places: Mapping[int, str]) -> Iterator[Path]:
        for path in _entries(directory):
            if _launch_id(path) in places and self.memory.foreign.get(path, ()) != _stat(path):
                yield path

    def _ours_aside(self, places: Mapping[int, str]) -> Iterator[Path]:
        """Yield what an agent of another database, with the same launch root, has put aside and is ours."""
        entries = {path: _launch_id(path) for path in self._offered(self._aside, places)}
        tokens = self._launchpad.tokens(entries.values()) if entries else {}
        for path, number in entries.items():
            if _token(path) == tokens.get(number):
                yield path
            else:
                # Not to be asked about at each pass.
                self.memory.foreign[path] = _stat(path)

    def _apply_rescued_entries(
        self, paths: list[Path], places: Mapping[int, str], result: Result
    ) -> set[int]:
        found: dict[Path, Found] = {}
        for path in paths:
            number = _launch_id(path)
            report = read_outbox_entry(str(path), self._max_size)
            if isinstance(report, NotYet):
                result.defer(number, None, f"{path}: {report.reason}")
            elif _same_place(report.launch_dir, places[number]):
                found[path] = Found(report, _modified(path))
        applied = self._apply(found.values(), places, result)
        unsettled = {outcome.launch_id for outcome in applied.deferred}
        ignored = {outcome.launch_id for outcome in applied.ignored}
        for path, item in found.items():
            if item.report.launch_id in unsettled:
                continue
            if item.report.launch_id not in ignored:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                    continue
            # Not to be offered again.
            self.memory.foreign[path] = _stat(path)
        return {item.report.launch_id for item in found.values()} - unsettled - ignored

    def _set_aside(self, path: Path) -> None:
        # It is nobody's here, but it may be the only copy of somebody's result.
        self._aside.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            path.replace(self._aside / path.name)

    def _changed(self, places: Mapping[int, str], quick: Collection[int]) -> Iterator[Look]:
        for launch_id, place in places.items():
            known = self.memory.signatures.get(launch_id)
            if known and launch_id in quick:
                # No Path: of a quiet launch this is all that is done, and that would cost more than the stat.
                seen = _stat(f"{place}/{OFFLINE_JSON}", fresh=self._remote)
                if known.startswith(_EIGHT_BYTES(hash(seen))):
                    continue
            whole = signature(place, fresh=self._remote)
            if known != _print(whole):
                self.news.add(launch_id)
                yield Look(launch_id, place, whole)

    def _apply_places(self, looks: list[Look], result: Result) -> None:
        found = []
        seen: dict[int, Print] = {}
        real_root = self._real_root()
        for launch_id, place, signature in looks:
            if leads := self.leads_out(place, real_root):
                result.defer(launch_id, None, leads)
                continue
            report = read_report(place, self._max_size)
            spoilt = self._spoilt(place, report, signature)
            if spoilt:
                result.defer(launch_id, None, f"{place}: {spoilt}")
            if trouble := self._trouble(launch_id, place, report, spoilt):
                # Of one that is settled as lost nothing more is expected.
                if launch_id not in self._lost:
                    result.defer(launch_id, None, trouble)
                continue
            if isinstance(report, Report):
                name = ACTION_JSON if report.final and report.fw_id else OFFLINE_JSON
                found.append(Found(report, _modified(f"{place}/{name}")))
            if not spoilt:
                seen[launch_id] = _print(signature)
        applied = self._apply(found, {look.launch_id: look.place for look in looks}, result)
        # Only now: had the database not answered, all of them would have to be read again.
        for outcome in applied.deferred:
            seen.pop(outcome.launch_id, None)
        self.memory.signatures |= seen

    def _trouble(self, launch_id: int, place: str, report: NotYet | Report, spoilt: str) -> str:
        """Return why nothing follows from a directory; what may be somewhere else is to be searched for."""
        other = holder(place, report, self._max_size)
        if other not in (None, launch_id):
            self.missing.add(launch_id)
            return f"{place} holds launch {other} now"
        if isinstance(report, Report) or report.reason == STAGED or spoilt:
            return ""
        # A program may have made the directory anew that was moved away.
        if not os.path.lexists(f"{place}/{OFFLINE_JSON}"):
            self.missing.add(launch_id)
        gone = "" if os.path.lexists(place) else "; the directory is gone, moved or purged"
        return f"{place}: {report.reason}{gone}"

    def _real_root(self) -> str:
        return os.path.realpath(self._root)

    def leads_out(self, place: str, real_root: str = "") -> str:
        """Return why a launch directory below the launch root is not read: a link leads out of it. "" if none does."""
        if not place.startswith(f"{self._root}/"):
            return ""
        there = os.path.realpath(place)
        if there.startswith(f"{real_root or self._real_root()}/"):
            return ""
        return f"{place} leads out of the launch root, to {there}: `fwagent register {there}` if it is the launch's"

    def _spoilt(self, place: str, report: NotYet | Report, signature: Signature) -> str:
        """Return why the final report that is there tells nothing; it came by a rename, so it stays as it is."""
        ended = isinstance(report, Report) and report.final
        if ended or signature[_LOOKED_AT.index(ACTION_JSON)] is None:
            return ""
        return spoilt_final(place, self._max_size)

    def _apply(
        self, found: Collection[Found], places: Mapping[int, str], result: Result
    ) -> Applied:
        if not found:
            return Applied()

        def track(launch: Mapping[str, Any]) -> Mapping[str, str]:
            # A directory that was moved, and registered, is not where its launch says.
            stored = launch["launch_dir"]
            known = dict.fromkeys((places.get(launch["launch_id"], stored), stored))
            return read_tails(launch, [place for place in known if not self.leads_out(place)])

        with _uncollected():
            applied = self._launchpad.apply((item.report for item in found), track=track)
        result.take(applied)
        now = self._launchpad.now().timestamp()
        ended = {outcome.launch_id for outcome in applied.applied if outcome.state != "RUNNING"}
        self._launchpad.forget_registered(ended)
        result.latencies |= {
            item.report.launch_id: round(now - item.written, 3)
            for item in found
            if item.report.final and item.report.launch_id in ended and item.written
        }
        return applied


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no cycles meanwhile: a batch lives to its end, and to walk it again and again costs a fifth."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def holder(place: str, report: NotYet | Report, max_size: int) -> int | None:
    """Return the launch that a directory holds, None if it does not say."""
    if isinstance(report, Report):
        return report.launch_id
    found = claimed(place, max_size) if report.reason == STAGED else ""
    return found.launch_id if isinstance(found, Claimed) else None


def _entries(directory: Path) -> list[Path]:
    try:
        names = os.listdir(directory)  # noqa: PTH208 - once a second, and mostly there is nothing
    except OSError:
        return []
    return [directory / name for name in sorted(names) if name.endswith(".json") and name[0] != "."]


def _oldest_first(entries: list[Path]) -> list[Path]:
    """Return entries in the order in which they were written; those of a backlog release what waits longest first."""
    if len(entries) <= BATCH:
        return entries
    return sorted(entries, key=_modified)


def _launch_id(entry: Path) -> int:
    number = entry.name.partition(".")[0]
    return int(number) if number.isdecimal() else -1


def _token(entry: Path) -> str:
    return entry.name.split(".")[1]


def _same_place(one: str, other: str) -> bool:
    # The compute node may have the file system elsewhere, and a job sees its links resolved.
    return Path(one).parts[-2:] == Path(other).parts[-2:]


def signature(place: str, *, fresh: bool = False) -> Signature:
    """Return what changes whenever the files of a launch directory do that tell of it.

    ``fresh``: as the file server has them now, for what an attribute cache may hide.
    """
    return tuple(_stat(f"{place}/{name}", fresh=fresh) for name in _LOOKED_AT)


def _print(files: Iterable[Seen | None]) -> Print:
    return b"".join(_EIGHT_BYTES(hash(file)) for file in files)


def _stat(path: Path | str, *, fresh: bool = False) -> Seen | None:
    try:
        status = fresh_stat(str(path)) if fresh else os.stat(path, follow_symlinks=False)  # noqa: PTH116
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _modified(path: Path | str) -> float:
    seen = _stat(path)
    return seen[2] / 1e9 if seen else 0.0


def _size(path: Path) -> int:
    status = _stat(path)
    return status[1] if status else 0


def _batches(items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    batch: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if batch and (len(batch) == BATCH or total + size > BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch
