"""Launch directories: where they are, what is written there and in which order, and whose they are."""

import errno
import json
import os
import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent import stage as staging
from agent.stage import Placement, StageError, earlier_launch, prepare_root, stage
from fwcore.launchpad.records import Claim
from fwrunner import protocol
from fwrunner.protocol import Report, write_report

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
STAMP = "2026-01-02-03-04-05-"


def still():
    """A clock that stands still."""
    return NOW


def firework(**spec):
    return {"fw_id": 1, "spec": spec}


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def claim_of(launch_dir, launch_id=7, token="tok", **spec):
    claimed = {"fw_id": 3, "name": "é", "spec": {"_tasks": [], **spec}}
    return Claim(3, launch_id, str(launch_dir), token, claimed)


# ------------------------------------------------------------------------------------------ names


def test_names_are_those_of_qlaunch_rapidfire(tmp_path):
    place = Placement(tmp_path, still)
    assert place(firework(), 1) == f"{tmp_path}/block_{STAMP}678901/launcher_{STAMP}678902"


def test_no_two_names_are_the_same_though_the_clock_stands_still(tmp_path):
    place = Placement(tmp_path, still)
    assert len({place(firework(), number) for number in range(600)}) == 600


def test_a_clock_that_goes_back_gives_no_name_twice(tmp_path):
    times = iter([NOW, NOW, NOW, NOW - timedelta(hours=1), NOW - timedelta(hours=1)])
    place = Placement(tmp_path, lambda: next(times))
    names = [place(firework(), number) for number in range(2)]
    assert sorted(set(names)) == names


def test_a_block_takes_500(tmp_path):
    place = Placement(tmp_path, still)
    blocks = [str(Path(place(firework(), number)).parent) for number in range(1001)]
    assert [blocks.count(block) for block in dict.fromkeys(blocks)] == [500, 500, 1]
    assert sorted(set(blocks)) == list(dict.fromkeys(blocks))


def test_nothing_is_made_by_giving_names(tmp_path):
    Placement(tmp_path / "root", still)(firework(), 1)
    assert not (tmp_path / "root").exists()


def test_the_newest_block_is_filled_up(tmp_path):
    old, new = tmp_path / "block_2025-01-01", tmp_path / "block_2025-06-01"
    for block, count in ((old, 1), (new, 498)):
        for number in range(count):
            (block / f"launcher_{number}").mkdir(parents=True)
    (new / "FW_submit.script").touch()
    place = Placement(tmp_path, still)
    blocks = [Path(place(firework(), number)).parent for number in range(3)]
    assert blocks == [new, new, tmp_path / f"block_{STAMP}678903"]


def test_what_only_looks_like_a_block_is_none(tmp_path):
    (tmp_path / "block_2025-01-01").mkdir()
    (tmp_path / "block_notes.txt").write_text("mine", encoding="utf-8")
    place = Placement(tmp_path, still)
    assert Path(place(firework(), 1)).parent == tmp_path / "block_2025-01-01"


def test_launch_dir_absolute_relative_and_with_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS", "/runs")
    place = Placement(tmp_path, still)
    block = f"{tmp_path}/block_{STAMP}678901"
    assert place(firework(_launch_dir="/a/b"), 1) == "/a/b"
    assert place(firework(_launch_dir="/a/./x/../b/"), 1) == "/a/b"
    assert place(firework(_launch_dir="sub/dir"), 1) == f"{block}/sub/dir"
    assert place(firework(_launch_dir="$RUNS/x"), 1) == "/runs/x"
    assert place(firework(_launch_dir="${RUNS}/y"), 1) == "/runs/y"


def test_launch_dir_does_not_fill_a_block(tmp_path):
    place = Placement(tmp_path, still)
    for number in range(600):
        place(firework(_launch_dir=f"/a/{number}"), number)
    assert Path(place(firework(), 1)).parent == tmp_path / f"block_{STAMP}678901"


@pytest.mark.parametrize("wish", ["", None, 5, ["/a"]])
def test_a_launch_dir_that_is_no_text_is_none(tmp_path, wish):
    assert "/launcher_" in Placement(tmp_path, still)(firework(_launch_dir=wish), 1)


# --------------------------------------------------------------------------------------- the root


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_root_is_made_with_a_private_outbox(tmp_path):
    outbox = prepare_root(tmp_path / "a" / "root")
    assert outbox == tmp_path / "a/root/.fwagent/outbox"
    assert mode(outbox) == 0o700
    assert mode(outbox.parent) == 0o700


def test_an_outbox_that_others_may_enter_is_closed(tmp_path):
    outbox = tmp_path / ".fwagent" / "outbox"
    outbox.mkdir(parents=True, mode=0o777)
    outbox.chmod(0o777)
    (outbox / "kept.json").touch()
    assert prepare_root(tmp_path) == outbox
    assert mode(outbox) == 0o700
    assert (outbox / "kept.json").exists()


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "root").touch()
    with pytest.raises(StageError) as caught:
        prepare_root(tmp_path / "root")
    assert f"the launch root {tmp_path}/root is not usable: Not a directory" in caught.value.title
    assert "launch.root" in caught.value.hint


def test_a_root_where_nobody_may_write():
    with pytest.raises(StageError, match="the launch root /proc/fireworks is not usable"):
        prepare_root(Path("/proc/fireworks"))


# ------------------------------------------------------------------------------------- the files


def test_a_directory_is_made_ready(tmp_path):
    place = tmp_path / "block" / "it's here"
    script = stage(claim_of(place), tmp_path / "outbox", "the text", 60)

    assert json.loads((place / "FW.json").read_text())["spec"] == {"_tasks": []}
    assert json.loads((place / "FW_offline.json").read_text()) == {
        "launch_id": 7,
        "fwagent": {
            "protocol": protocol.PROTOCOL,
            "outbox": str(tmp_path / "outbox"),
            "token": "tok",
            "ping_interval": 60,
        },
    }
    assert script == place / "FW_submit.script"
    assert script.read_text() == "the text"
    assert names(place) == ["FW.json", "FW_offline.json", "FW_submit.script"]


def test_fw_offline_comes_last(tmp_path, monkeypatch):
    """Whatever is cut off: a directory that has it is complete."""
    there_before = []

    def write_atomic(path, document):
        there_before.append((Path(path).name, names(tmp_path / "x")))
        protocol.write_atomic(path, document)

    monkeypatch.setattr(staging, "write_atomic", write_atomic)
    stage(claim_of(tmp_path / "x"), tmp_path, "true", 60)
    assert there_before == [
        ("FW.json", []),
        ("FW_offline.json", ["FW.json", "FW_submit.script"]),
    ]


def test_what_an_earlier_launch_left_is_no_news_of_this_one(tmp_path):
    place = tmp_path / "x"
    stage(claim_of(place, 6, "old"), tmp_path, "true", 60)
    report = Report(6, "COMPLETED", str(place), 3, "old", fwaction={})
    write_report(str(place / "FW_action.json"), report)
    protocol.write_atomic(str(place / "FW_ping.json"), {"ping_time": "2020-01-01T00:00:00"})
    (place / "OUTCAR").write_text("kept", encoding="utf-8")
    assert isinstance(protocol.read_report(str(place)), Report)

    stage(claim_of(place, 7, "new"), tmp_path, "true", 60)

    told = protocol.read_report(str(place))
    assert told == protocol.NotYet(str(place), protocol.STAGED)
    assert not (place / "FW_action.json").exists()
    assert not (place / "FW_ping.json").exists()
    assert (place / "OUTCAR").read_text() == "kept"


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StageError) as caught:
        stage(claim_of(tmp_path / "file" / "x"), tmp_path, "true", 60)
    assert f"{tmp_path}/file/x cannot be made ready: Not a directory" in caught.value.title


def test_a_full_disk_leaves_no_fw_offline(tmp_path, monkeypatch):
    fsync = os.fsync

    def full(descriptor):
        if "FW_offline" in Path(f"/proc/self/fd/{descriptor}").readlink().name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StageError) as caught:
        stage(claim_of(tmp_path / "x"), tmp_path, "true", 60)
    assert "No space left on device" in caught.value.title
    assert "quota" in caught.value.hint
    assert names(tmp_path / "x") == ["FW.json", "FW_submit.script"]


def test_a_spec_that_is_no_json_is_refused_by_its_firework(tmp_path):
    with pytest.raises(StageError) as caught:
        stage(claim_of(tmp_path / "x", when=NOW), tmp_path, "true", 60)
    assert "Firework 3 cannot be written as JSON" in caught.value.title
    assert not (tmp_path / "x" / "FW_offline.json").exists()


# ---------------------------------------------------------------------------- somebody else's place


def test_a_directory_without_a_launch_is_free(tmp_path):
    assert earlier_launch(tmp_path, claim_of(tmp_path)) is None
    assert earlier_launch(tmp_path / "none", claim_of(tmp_path)) is None


def test_a_directory_of_the_same_launch_is_free(tmp_path):
    """It was staged before a crash, and is staged again."""
    stage(claim_of(tmp_path), tmp_path, "true", 60)
    assert earlier_launch(tmp_path, claim_of(tmp_path)) is None


def test_a_directory_of_another_launch_is_not(tmp_path):
    """Its report may have come, and be in no other place: what counts is what the database knows."""
    stage(claim_of(tmp_path, 6), tmp_path, "true", 60)
    assert earlier_launch(tmp_path, claim_of(tmp_path, 7)) == 6
    offline = {"launch_id": 6, "state": "COMPLETED", "fwaction": {}}
    protocol.write_atomic(str(tmp_path / "FW_offline.json"), offline)
    assert earlier_launch(tmp_path, claim_of(tmp_path, 7)) == 6


@pytest.mark.parametrize("text", ["", '{"launch_', "[]", "{}", '{"launch_id": "6"}'])
def test_a_directory_that_names_no_launch_is_free(tmp_path, text):
    (tmp_path / "FW_offline.json").write_text(text, encoding="utf-8")
    assert earlier_launch(tmp_path, claim_of(tmp_path)) is None
