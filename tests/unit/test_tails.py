"""The ends of tracked files: from hostile, compressed, vanishing and ordinary ones."""

import bz2
import gzip
import json
import os
import socket
from pathlib import Path

import pytest

from agent import tails
from agent.tails import read_tails


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "launch"
    place.mkdir()
    (place / "FW_offline.json").write_text('{"launch_id": 1}')
    return place


def read(place: Path, name: str = "log", *, zipped: bool = False) -> str | None:
    launch = {"launch_id": 1, "trackers": [{"filename": name, "nlines": 5, "allow_zipped": zipped}]}
    found = read_tails(launch, [str(place)])
    assert found.keys() <= {name}
    return found.get(name)


def test_a_file(place: Path) -> None:
    (place / "log").write_bytes("größe\r\n1\n".encode())
    assert read(place) == "größe\r\n1\n"


def test_a_file_below_and_by_its_whole_path(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "log").write_text("x")
    assert read(place, "out/log") == read(place, "./out/../out/log") == "x"
    assert read(place, str(place / "out" / "log")) == "x"


def test_only_the_end_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "MAX_TAIL", 10)
    (place / "log").write_text("first line\nsecond\n12\n")
    assert read(place) == "12\n"
    (place / "log").write_bytes("ü".encode() * 20)
    assert read(place) == "ü" * 5
    (place / "log").write_bytes(b"\x81" + "ü".encode() * 20 + b"x")
    assert read(place) == "\ufffd" + "ü" * 4 + "x"


def test_all_files_together_are_bounded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "MAX_CHARACTERS", 8)
    monkeypatch.setattr(tails, "MAX_FILES", 3)
    trackers = [{"filename": name} for name in ("a", "a", "b", "c")]
    for name in "abc":
        (place / name).write_text("12345")
    found = read_tails({"launch_id": 1, "trackers": trackers}, [str(place)])
    assert found == {"a": "12345", "b": "345"}


def test_links_within_the_directory_are_followed(place: Path) -> None:
    (place / "run.3.log").write_text("x")
    (place / "log").symlink_to("run.3.log")
    (place / "sub").symlink_to(".")
    assert read(place) == read(place, "sub/log") == "x"


def test_nothing_outside_is_read(place: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (place / "log").symlink_to(secret)
    (place / "out").symlink_to(tmp_path)
    (tmp_path / "launch2").mkdir()
    (tmp_path / "launch2" / "log").write_text("secret")
    names = ["log", "out/secret", "../secret", str(secret), "/etc/passwd", "../launch2/log"]
    assert [read(place, name) for name in names] == [None] * len(names)


def test_a_link_that_is_put_there_meanwhile(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking where a name leads and opening that, either part of it turns into a link."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "log").write_text("secret")
    for replaced, target in (("out", "secret"), ("out/log", "secret/log")):
        (place / "out").mkdir()
        (place / "out" / "log").write_text("x")
        real = os.path.realpath

        def then_replaced(path, real=real, replaced=replaced, target=target):
            found = real(path)
            if found.endswith("out/log"):
                (place / replaced).rename(tmp_path / "aside")
                (place / replaced).symlink_to(tmp_path / target)
            return found

        with monkeypatch.context() as patched:
            patched.setattr(os.path, "realpath", then_replaced)
            assert read(place, "out/log") is None
        assert (place / "out" / "log").read_text() == "secret"
        (place / replaced).unlink()
        (tmp_path / "aside").rename(place / replaced)
        (place / "out" / "log").unlink()
        (place / "out").rmdir()


def test_what_is_no_file(place: Path) -> None:
    os.mkfifo(place / "fifo")
    (place / "folder").mkdir()
    (place / "loop").symlink_to("loop")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.relpath(place / "socket"))
    names = ["fifo", "folder", "loop", "socket", ".", "", "a\0b", "x" * 5000, "log/x", "missing"]
    (place / "log").write_text("x")
    assert [read(place, name) for name in names] == [None] * len(names)
    listener.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else(place: Path) -> None:
    (place / "log").write_text("x")
    os.chown(place / "log", 12345, -1)
    assert read(place) is None


@pytest.mark.parametrize("data", [b"", b"a\0b\n", b"\x7fELF\x02\0\0"])
def test_an_empty_or_binary_file(place: Path, data: bytes) -> None:
    (place / "log").write_bytes(data)
    assert read(place) is None


def test_other_encodings_are_told_as_well_as_can_be(place: Path) -> None:
    (place / "log").write_bytes("größe\n".encode("latin-1"))
    assert read(place) == "gr\ufffd\ufffde\n"


@pytest.mark.parametrize("name", ["log", "log.gz", "log.bz2"])
def test_compressed_files(place: Path, name: str) -> None:
    """FireWorks takes the first of the names that is there, and decompresses by it."""
    assert read(place, name, zipped=True) is None
    (place / "log.bz2").write_bytes(bz2.compress(b"bz2\n"))
    assert read(place, name, zipped=True) == "bz2\n"
    (place / "log.gz").write_bytes(gzip.compress(b"gz\n"))
    assert read(place, name, zipped=True) == "gz\n"
    assert read(place, "log.gz") == "gz\n"
    assert read(place, "log") is None
    (place / "log").write_text("plain")
    assert read(place, name, zipped=True) == "plain"


def test_the_end_of_a_compressed_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "MAX_TAIL", 10)
    (place / "log.gz").write_bytes(gzip.compress(b"x" * 70_000 + b"\nlast\n"))
    assert read(place, zipped=True) == "last\n"
    monkeypatch.setattr(tails, "MAX_DECOMPRESSED", 60_000)
    assert read(place, zipped=True) is None


@pytest.mark.parametrize(
    "data", [b"", b"no gzip", gzip.compress(b"x" * 1000)[:-12]], ids=["empty", "other", "cut"]
)
def test_a_compressed_file_that_is_being_written(place: Path, data: bytes) -> None:
    (place / "log.gz").write_bytes(data)
    assert read(place, zipped=True) is None


@pytest.mark.parametrize("tracker", ["log", None, {}, {"filename": 7}, {"filename": None}])
def test_what_is_no_tracker(place: Path, tracker: object) -> None:
    (place / "log").write_text("x")
    trackers = [tracker, {"filename": "log"}]
    assert read_tails({"launch_id": 1, "trackers": trackers}, [str(place)]) == {"log": "x"}


def test_the_directory_must_be_that_of_the_launch(place: Path, tmp_path: Path) -> None:
    """It may have been staged again for another one, moved, or be gone."""
    (place / "log").write_text("x")
    other = tmp_path / "other"
    other.mkdir()
    (other / "log").write_text("other")
    launch = {"launch_id": 1, "trackers": [{"filename": "log"}]}
    gone = str(tmp_path / "gone")
    assert read_tails(launch, [gone, str(other), str(place)]) == {"log": "x"}
    (place / "FW_offline.json").write_text(json.dumps({"launch_id": 2}))
    assert read_tails(launch, [gone, str(other), str(place)]) == {}
    (place / "FW_offline.json").write_text('{"launch_')
    assert read_tails(launch, [str(place)]) == {}
