"""Launch directories that are not where the database says: found below a directory, and recognized by their token."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import OpenLaunch
from fwrunner.protocol import MAX_INT, OFFLINE_JSON, Unreadable, read_offline

#: How deep launch directories may lie below what is searched (blocks, launchers, and a level of the user's own), and
#: how many directories are listed at most.
DEPTH, MOST = 4, 200_000
#: Launches that are looked up at once.
_BATCH = 1000
_UNSTORABLE = "its name is not valid UTF-8, which a database cannot hold: rename it"


@dataclass(frozen=True)
class Claimed:
    """What a directory says of itself."""

    launch_id: int
    token: str | None


def launch_dirs(
    top: Path, *, most: int = MOST, told: Callable[[int], None] = lambda _listed: None
) -> Iterator[str]:
    """Yield the launch directories below a directory, or itself; links and hidden directories are not followed.

    The search is bounded in depth and in the directories listed. ``told`` is called with how many were listed.
    """
    places = deque([(str(top), 0)])
    listed = 0
    while places and listed < most:
        place, depth = places.popleft()
        listed += 1
        told(listed)
        below: list[tuple[str, int]] = []
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name == OFFLINE_JSON or entry.name.startswith(f"{OFFLINE_JSON}."):
                        yield place
                        below = []
                        break
                    if entry.is_dir(follow_symlinks=False) and entry.name[0] != ".":
                        below.append((entry.path, depth + 1))
        except OSError:
            continue
        if depth < DEPTH:
            places.extend(sorted(below))


def storable(place: str) -> bool:
    """Tell whether a database can hold the name of a directory: file systems also take what is not UTF-8."""
    try:
        place.encode()
    except UnicodeEncodeError:
        return False
    return True


def claimed(place: str, max_size: int) -> Claimed | str:
    """Return what a launch directory says of itself, or why it says nothing."""
    try:
        offline = read_offline(place, max_size)
    except (FileNotFoundError, Unreadable) as error:
        return (
            f"{getattr(error, 'strerror', None) or error}; a launch directory has an {OFFLINE_JSON}"
        )
    launch_id, ours = offline.get("launch_id"), offline.get("fwagent")
    if type(launch_id) is not int or abs(launch_id) > MAX_INT:
        return f"its {OFFLINE_JSON} names no launch_id"
    token = ours.get("token") if isinstance(ours, dict) else None
    return Claimed(launch_id, token if isinstance(token, str) else None)


@dataclass(frozen=True)
class Checked:
    """A directory that was asked about: its launch, or ``reason`` why it cannot be registered."""

    launch_dir: str
    launch_id: int = 0
    reason: str = ""


def check(
    launchpad: LaunchPad, worker: str, places: Iterable[str], max_size: int
) -> Iterator[Checked]:
    """Tell of directories whether they are launches of a worker, in a few questions for any number of them."""
    batch: dict[str, Claimed] = {}
    for place in places:
        found = claimed(place, max_size) if storable(place) else _UNSTORABLE
        if isinstance(found, str):
            yield Checked(place, reason=found)
            continue
        batch[place] = found
        if len(batch) == _BATCH:
            yield from _checked(launchpad, worker, batch, max_size)
            batch = {}
    yield from _checked(launchpad, worker, batch, max_size)


def _checked(
    launchpad: LaunchPad, worker: str, batch: Mapping[str, Claimed], max_size: int
) -> Iterator[Checked]:
    numbers = {each.launch_id for each in batch.values()}
    known = {launch.launch_id: launch for launch in launchpad.find_launches(numbers)}
    tokens = launchpad.tokens(numbers)
    for place, each in batch.items():
        launch = known.get(each.launch_id)
        reason = _refusal(launchpad, worker, each, launch, tokens)
        if launch is not None and not reason and _is_copy(place, each, launch.launch_dir, max_size):
            reason = f"it is a copy: launch {each.launch_id} is in {launch.launch_dir}, which is looked at"
        yield Checked(place, each.launch_id, reason)


def _refusal(
    launchpad: LaunchPad,
    worker: str,
    each: Claimed,
    launch: OpenLaunch | None,
    tokens: Mapping[int, str],
) -> str:
    if launch is None:
        return f"launch {each.launch_id} is not in the database {launchpad.where}"
    if launch.worker != worker:
        return f"launch {each.launch_id} is of worker {launch.worker!r}, this configuration of {worker!r}"
    if launch.state == "COMPLETED":
        return f"launch {each.launch_id} is COMPLETED: it has nothing more to tell"
    if tokens.get(each.launch_id, each.token) != each.token:
        return f"it carries another token than launch {each.launch_id}: of another database, or staged again"
    return ""


def _is_copy(place: str, each: Claimed, original: str, max_size: int) -> bool:
    try:
        if Path(place).samefile(original):
            return False
    except OSError:
        return False
    return claimed(original, max_size) == each


@dataclass(frozen=True)
class Moved:
    """What a search for launch directories has found: {launch_id: place}, and those found in several places."""

    found: dict[int, str]
    copies: dict[int, list[str]]


def find_moved(
    root: Path, tokens: Mapping[int, str], known: Collection[str], max_size: int, most: int = MOST
) -> Moved:
    """Look below the launch root for the directories of launches, by their tokens.

    ``known`` are places of other launches, which are not opened. A launch that is in several places is in none: nobody
    can tell which of them its job writes to.
    """
    places: dict[int, list[str]] = {}
    for place in launch_dirs(root, most=most):
        if place in known or not storable(place):
            continue
        each = claimed(place, max_size)
        if isinstance(each, Claimed) and each.token and tokens.get(each.launch_id) == each.token:
            places.setdefault(each.launch_id, []).append(place)
    return Moved(
        {launch_id: found[0] for launch_id, found in places.items() if len(found) == 1},
        {launch_id: found for launch_id, found in places.items() if len(found) > 1},
    )


def follow(
    launchpad: LaunchPad,
    root: Path,
    places: Mapping[int, str],
    missing: Collection[int],
    max_size: int,
) -> dict[int, str]:
    """Look for launches that are not in their ``places``; have the database follow, and return where they are.

    Nothing is looked for while the launch root itself is away. Two may have changed places, so the places of those that
    are ``missing`` are looked into as well.
    """
    if not root.is_dir():
        return {}
    gone = {launch_id: places[launch_id] for launch_id in missing}
    tokens = launchpad.tokens(gone)
    if not tokens:
        return {}
    known = set(places.values()) - set(gone.values())
    moved = find_moved(root, tokens, known, max_size).found
    return launchpad.move_launches(
        {key: (gone[key], place) for key, place in moved.items() if place != gone[key]}
    )
