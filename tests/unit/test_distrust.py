"""Whatever lies in a launch directory or in the outbox: an answer, in time, and nothing read from elsewhere."""

import json
import os
import sys
import time
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.tails import read_tails
from fwrunner.protocol import (
    MAX_INT,
    REPORT_STATES,
    NotYet,
    Report,
    read_outbox_entry,
    read_ping,
    read_report,
)
from tests.support.mutations import ODD, SEEDS, corpus

COUNT = int(os.environ.get("FWAGENT_FUZZ_N", "1500"))
SEED = int(os.environ.get("FWAGENT_FUZZ_SEED", "1"))
SIZE = 100_000
#: Seconds that one look may take.
LONGEST = 2.0
NAMES = ("FW_offline.json", "FW_action.json", "FW_ping.json")

_opened: list[str] | None = None


def _hook(event, arguments):
    if _opened is not None and event == "open" and isinstance(arguments[0], str):
        _opened.append(arguments[0])


sys.addaudithook(_hook)


@contextmanager
def opening():
    """The files that are opened meanwhile, as the interpreter itself tells."""
    global _opened  # noqa: PLW0603 - a hook cannot be taken out again
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


def sound(found):
    """Check that an answer is one that the LaunchPad may be given."""
    if isinstance(found, NotYet):
        assert isinstance(found.reason, str)
        return
    assert isinstance(found, Report)
    assert found.state in REPORT_STATES
    assert found.final == (found.fwaction is not None)
    assert type(found.launch_id) is int
    assert abs(found.launch_id) <= MAX_INT
    for value in (found.token, found.started_on, found.completed_on, found.ping_time, found.host):
        assert value is None or isinstance(value, str)
    json.dumps(found._asdict())


def looked_at(place):
    """Read a launch directory and an entry in every way that there is."""
    begin = time.monotonic()
    for found in (
        read_report(str(place), SIZE),
        read_outbox_entry(f"{place}/FW_action.json", SIZE),
    ):
        sound(found)
    ping = read_ping(str(place), SIZE)
    assert all(isinstance(value, (str, int, float)) for value in ping.values())
    assert time.monotonic() - begin < LONGEST


def test_a_corpus_of_mutated_reports(tmp_path):
    texts = list(corpus(SEEDS, COUNT, SEED))
    assert len(set(texts)) > COUNT * 0.7
    answers = set()
    with opening() as opened:
        for number, text in enumerate(texts):
            for name in NAMES if number % 3 == 0 else NAMES[number % 3 :][:1]:
                (tmp_path / name).write_bytes(text)
            looked_at(tmp_path)
            answers.add(type(read_report(str(tmp_path), SIZE)))
    assert answers == {NotYet, Report}
    outside = [path for path in opened if not path.startswith(str(tmp_path))]
    assert outside == []


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes(tmp_path_factory, data):
    place = tmp_path_factory.getbasetemp() / "any"
    place.mkdir(exist_ok=True)
    for name in NAMES:
        (place / name).write_bytes(data)
    looked_at(place)


JSON = st.recursive(
    st.sampled_from([value for value in ODD if not isinstance(value, (list, dict))]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(sorted(SEEDS[0] | SEEDS[1])), JSON, max_size=4))
def test_any_values_in_any_key(tmp_path_factory, changes):
    place = tmp_path_factory.getbasetemp() / "keys"
    place.mkdir(exist_ok=True)
    for name, seed in zip(NAMES, SEEDS, strict=True):
        text = json.dumps({**seed, **changes})
        (place / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    looked_at(place)


def test_what_a_report_names_is_not_read_from_outside(tmp_path):
    """Tracked files are named by the spec, and the directory by the database: neither may lead out of it."""
    secret = tmp_path / "secret"
    secret.write_text("password")
    place = tmp_path / "launcher"
    place.mkdir()
    (place / "FW_offline.json").write_text('{"launch_id": 1}')
    (place / "link").symlink_to(secret)
    names = [str(secret), "../secret", "link", "a/../../secret", "/proc/self/environ", "\0", "~/x"]
    launch = {
        "launch_id": 1,
        "launch_dir": str(place),
        "trackers": [{"filename": n} for n in names],
    }
    with opening() as opened:
        tails = read_tails(launch, [str(place)])
    assert not any("password" in text for text in tails.values())
    # What is relative is opened from the directory, part by part.
    far = [path for path in opened if path.startswith("/") and not path.startswith(str(place))]
    assert (far, [path for path in opened if ".." in path.split("/")]) == ([], [])


def huge(path):
    """A file of a terabyte, of which the disk holds nothing."""
    path.touch()
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "link", "loop", "huge"])
def test_what_is_no_small_regular_file(tmp_path, name, kind):
    path = tmp_path / name
    make = {
        "fifo": lambda: os.mkfifo(path),
        "directory": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"),
        "link": lambda: path.symlink_to("/etc/passwd"),
        "loop": lambda: path.symlink_to(path),
        "huge": lambda: huge(path),
    }
    make[kind]()
    with opening() as opened:
        looked_at(tmp_path)
    assert isinstance(read_report(str(tmp_path), SIZE), NotYet)
    assert [each for each in opened if not each.startswith(str(tmp_path))] == []
