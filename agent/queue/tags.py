"""What every job of ours carries, so that the listing of the queue tells which launch it is for."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: Below the launch root's `.fwagent`.
ARRAYS = "arrays"
#: One line per element, counted from 1: launch_id, tab, launch directory.
MANIFEST = "launches"
#: Stands in the script of an array for the directory that its manifest is in.
ARRAY_PLACE = "@FWAGENT_ARRAY@"

# Schedulers differ in which of `:` and `.` they refuse in a name.
_TAG = re.compile(r"fwagent[:.](?P<key>\d+|a[0-9a-f]{12})[:.](?P<scope>[0-9a-f]{8})(?![0-9a-f])")


@dataclass(frozen=True)
class Tag:
    """``key`` is a launch_id, or the name of an array; ``scope`` tells roots and databases apart."""

    key: str
    scope: str

    @property
    def text(self) -> str:
        """For places that take any text."""
        return f"fwagent:{self.key}:{self.scope}"

    @property
    def name(self) -> str:
        """For names of jobs."""
        return f"fwagent.{self.key}.{self.scope}"


def scope_of(database: str, root: Path) -> str:
    """Return what is the same for all agents on a database and a launch root, from any login node.

    The address of the server is not in it: it changes with a tunnel or another member of a replica set, and jobs
    in the queue must be known then.
    """
    text = f"{database}\0{os.path.normpath(root)}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def find_tag(text: str) -> Tag | None:
    """Return the tag in what a listing tells of a job."""
    found = _TAG.search(text)
    return Tag(found["key"], found["scope"]) if found else None


class Manifests:
    """Which launches the elements of our arrays are: a directory per array, that its jobs read too."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[str, list[int]] = {}

    def write(self, launches: Iterable[tuple[int, str]]) -> tuple[str, Path]:
        """Store (launch_id, launch directory) of the elements, from 1 on; return the array's name and directory."""
        name = "a" + secrets.token_hex(6)
        place = self._directory / name
        place.mkdir(parents=True, mode=0o700)
        lines = [f"{launch_id}\t{launch_dir}\n" for launch_id, launch_dir in launches]
        with (place / MANIFEST).open("w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        return name, place

    def launch_id(self, name: str, index: int | None) -> int | None:
        """Return the launch of an element, None if nobody knows."""
        launch_ids = self._read.get(name) or self._load(name)
        if index is None or not 1 <= index <= len(launch_ids):
            return None
        return launch_ids[index - 1]

    def elements(self, launch_ids: Iterable[int]) -> dict[str, dict[int, int]]:
        """Return {array: {launch_id: index}} of these launches, in every array that was ever prepared for them."""
        wanted = set(launch_ids)
        found = {}
        for place in self._directory.glob("a" + "[0-9a-f]" * 12):
            known = self._read.get(place.name) or self._load(place.name)
            if here := {number: index for index, number in enumerate(known, 1) if number in wanted}:
                found[place.name] = here
        return found

    def _load(self, name: str) -> list[int]:
        try:
            with (self._directory / name / MANIFEST).open(
                encoding="utf-8", errors="replace"
            ) as file:
                numbers = [line.partition("\t")[0] for line in file]
        except OSError:
            return []
        self._read[name] = [int(number) if number.isdecimal() else -1 for number in numbers]
        return self._read[name]
