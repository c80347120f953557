"""Finding launch directories: bounded, by what they say of themselves, without following anything."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.directories import Claimed, check, claimed, find_moved, launch_dirs

SIZE = 10**6
NOBODY: Any = SimpleNamespace()


def launch(place, launch_id, token="tok"):
    place.mkdir(parents=True)
    offline = {"launch_id": launch_id, **({"fwagent": {"token": token}} if token else {})}
    (place / "FW_offline.json").write_text(json.dumps(offline), encoding="utf-8")
    return str(place)


def test_a_tree_of_blocks(tmp_path):
    wanted = [launch(tmp_path / f"block_{b}" / f"launcher_{n}", n) for b in (1, 2) for n in (1, 2)]
    launch(tmp_path / "block_1" / "launcher_1" / "inside", 9)
    launch(tmp_path / ".fwagent" / "x", 9)
    (tmp_path / "link").symlink_to(tmp_path / "block_1")
    (tmp_path / "block_1" / "loop").symlink_to(tmp_path)
    assert list(launch_dirs(tmp_path)) == wanted
    assert list(launch_dirs(tmp_path / "block_2")) == wanted[2:]
    assert list(launch_dirs(tmp_path / "block_2" / "launcher_1")) == wanted[2:3]


def test_the_search_is_bounded(tmp_path):
    deep = tmp_path.joinpath(*"abcd")
    launch(deep / "e", 1)
    near = launch(tmp_path / "z", 2)
    for number in range(20):
        (tmp_path / f"y{number}").mkdir()
    listed: list[int] = []
    assert list(launch_dirs(tmp_path, told=listed.append)) == [near]
    assert listed == list(range(1, len(listed) + 1))
    assert list(launch_dirs(tmp_path, most=10)) == []


def test_what_cannot_be_listed_is_passed_over(tmp_path, monkeypatch):
    place = launch(tmp_path / "b" / "l", 1)
    (tmp_path / "a").mkdir()
    real = os.scandir

    def refusing(path):
        if path.endswith("/a"):
            raise PermissionError
        return real(path)

    monkeypatch.setattr("agent.directories.os.scandir", refusing)
    assert list(launch_dirs(tmp_path)) == [place]
    assert list(launch_dirs(tmp_path / "none")) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"launch_id": 7, "fwagent": {"token": "t"}}', Claimed(7, "t")),
        ('{"launch_id": 7}', Claimed(7, None)),
        ('{"launch_id": 7, "fwagent": []}', Claimed(7, None)),
        ('{"launch_id": 7, "fwagent": {"token": 1}}', Claimed(7, None)),
        ('{"launch_id": true}', "its FW_offline.json names no launch_id"),
        ("{}", "its FW_offline.json names no launch_id"),
        ('{"launch_id": 99999999999999999999}', "its FW_offline.json names no launch_id"),
        ("[", "FW_offline.json is half-written or not JSON"),
    ],
)
def test_what_a_directory_says_of_itself(tmp_path, text, found):
    (tmp_path / "FW_offline.json").write_text(text, encoding="utf-8")
    told = claimed(str(tmp_path), SIZE)
    assert told == found if isinstance(found, Claimed) else str(told).startswith(found)


def test_moved_ones_are_known_by_launch_and_token(tmp_path):
    moved = launch(tmp_path / "new" / "name", 1, "one")
    launch(tmp_path / "other", 1, "another")
    launch(tmp_path / "stock", 2, None)
    known = launch(tmp_path / "known", 3, "three")
    copies = [launch(tmp_path / name, 4, "four") for name in ("c1", "c2")]
    tokens = {1: "one", 2: "two", 3: "three", 4: "four"}
    found = find_moved(tmp_path, tokens, {known}, SIZE)
    assert (found.found, found.copies) == ({1: moved}, {4: copies})


def test_a_name_that_no_database_can_hold_is_passed_over_and_refused(tmp_path):
    place = os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff")
    launch(Path(place), 1, "one")
    assert find_moved(tmp_path, {1: "one"}, (), SIZE).found == {}
    told = next(iter(check(NOBODY, "w", [place], SIZE)))
    assert "not valid UTF-8" in told.reason
