"""Entries of the outbox that stay there: they are not read at each listing, and do not hold up the others."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.results import Result

#: Seconds after which one that has not changed is tried again: what stood in its way may be over.
AGAIN = 60.0

#: Inode, bytes, and times in ns of the last change, and of the last change of permissions and the like.
_Seen = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Left:
    seen: _Seen | None
    verdict: str
    reason: str
    until: float


class Leftovers:
    """What was left in the outbox, and why. Only a cache."""

    def __init__(self) -> None:
        self._left: dict[Path, _Left] = {}

    def others(self, entries: list[Path], now: float) -> list[Path]:
        """Return the entries that are to be read: not those that are as they were; ``now`` is in seconds."""
        if not self._left:
            return entries
        here = {path: self._left[path] for path in entries if path in self._left}
        self._left = {
            path: left
            for path, left in here.items()
            if now < left.until and left.seen == _seen(path)
        }
        return [path for path in entries if path not in self._left]

    def leave(self, path: Path, verdict: str, reason: str, now: float) -> None:
        """Note that an entry stays: what cannot be done with it, as in "cannot be read", and why."""
        self._left[path] = _Left(_seen(path), verdict, reason, now + AGAIN)

    def tell(self, result: Result) -> None:
        """Defer all of them in a line: a directory may be full of junk."""
        told = [f"{_count(found)} {verdict}: {found[0]}" for verdict, found in self._by_verdict()]
        if told:
            result.defer(None, None, "; ".join(told))

    def _by_verdict(self) -> Iterable[tuple[str, list[str]]]:
        found: dict[str, list[str]] = {}
        for left in self._left.values():
            found.setdefault(left.verdict, []).append(left.reason)
        return found.items()


def _count(found: list[str]) -> str:
    return f"{len(found)} entries of the outbox" if len(found) > 1 else "an entry of the outbox"


def _seen(path: Path) -> _Seen | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
