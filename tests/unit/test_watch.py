"""What wakes the loop: real file events, and nothing that the loop does itself."""

import errno
import os
import signal
import struct
import threading
import time
from pathlib import Path

import pytest

from agent import watch as watching
from agent.filesystem import Mount
from agent.watch import Wake, Watch
from fwrunner.protocol import write_atomic

DEADLINE = 10


@pytest.fixture
def wake():
    return Wake()


@pytest.fixture
def watch(wake):
    watch = Watch(wake, most=2)
    watch.start()
    yield watch
    watch.stop()


def told(wake, *wanted):
    """What the loop is told until it has heard of all that is wanted: (reasons, directories)."""
    reasons: set[str] = set()
    places: set[str] = set()
    deadline = time.monotonic() + DEADLINE
    while not reasons | places >= set(wanted):
        assert time.monotonic() < deadline, (reasons, places)
        more = wake.wait(DEADLINE)
        reasons |= more[0]
        places |= more[1]
    return reasons, places


# ----------------------------------------------------------------------------------- Wake itself


def test_all_calls_so_far_are_told_at_once(wake):
    wake.call("event", "/a")
    wake.call("event", "/b")
    wake.call("outbox")
    wake.call("outbox")
    assert wake.wait(DEADLINE) == ({"event", "outbox"}, {"/a", "/b"})
    assert wake.wait(0.01) == (set(), set())


def test_a_call_ends_the_wait(wake):
    threading.Timer(0.05, wake.call, ["stop"]).start()
    before = time.monotonic()
    assert wake.wait(DEADLINE)[0] == {"stop"}
    assert time.monotonic() - before < DEADLINE / 2


def test_a_signal_handler_may_call_while_the_loop_waits(wake):
    old = signal.signal(signal.SIGUSR2, lambda *_: wake.call("reload"))
    try:
        threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGUSR2]).start()
        assert wake.wait(DEADLINE)[0] == {"reload"}
    finally:
        signal.signal(signal.SIGUSR2, old)


# ------------------------------------------------------------------------------ launch directories


@pytest.mark.parametrize("name", ["FW_offline.json", "FW_ping.json", "FW_action.json"])
def test_a_report_written_in_place_wakes_with_its_directory(wake, watch, tmp_path, name):
    watch.watch_launches({1: str(tmp_path)})
    (tmp_path / name).write_text("{}", encoding="utf-8")
    assert told(wake, str(tmp_path)) == ({"event"}, {str(tmp_path)})


def test_a_report_written_by_rename_wakes_with_its_directory(wake, watch, tmp_path):
    watch.watch_launches({1: str(tmp_path)})
    write_atomic(str(tmp_path / "FW_action.json"), {})
    assert told(wake, str(tmp_path)) == ({"event"}, {str(tmp_path)})


def test_what_a_job_writes_besides_does_not_wake(wake, watch, tmp_path):
    watch.watch_launches({1: str(tmp_path)})
    (tmp_path / "OUTCAR").write_text("x", encoding="utf-8")
    (tmp_path / "FW.json").write_text("{}", encoding="utf-8")
    (tmp_path / "other").mkdir()
    (tmp_path / "FW_ping.json").write_text("{}", encoding="utf-8")  # events come in order
    told(wake, str(tmp_path))
    # Of all that, only the ping is news, and it may raise more than one event.
    assert wake.wait(0.2)[0] <= {"event"}
    (tmp_path / "OUTCAR").write_text("more", encoding="utf-8")
    assert wake.wait(0.3) == (set(), set())


def test_to_read_a_report_does_not_wake(wake, watch, tmp_path):
    """Else every look would cause the next one."""
    report = tmp_path / "FW_offline.json"
    report.write_text("{}", encoding="utf-8")
    watch.watch_launches({1: str(tmp_path)})
    for _ in range(3):
        report.read_text(encoding="utf-8")
    assert wake.wait(0.3) == (set(), set())
    report.write_text("[]", encoding="utf-8")
    told(wake, str(tmp_path))


def test_the_newest_launches_are_watched_and_no_more(wake, watch, tmp_path):
    places = {number: str(tmp_path / f"launcher_{number}") for number in (3, 1, 2)}
    for place in places.values():
        Path(place).mkdir()
    watch.watch_launches(places)
    assert watch.count == 2
    write_atomic(f"{places[1]}/FW_action.json", {})
    write_atomic(f"{places[2]}/FW_action.json", {})
    write_atomic(f"{places[3]}/FW_action.json", {})
    assert told(wake, places[3], places[2])[1] == {places[2], places[3]}
    assert wake.wait(0.2)[1] <= {places[2], places[3]}


def test_a_launch_that_has_ended_is_not_watched_any_more(wake, watch, tmp_path):
    ended, other = tmp_path / "1", tmp_path / "2"
    ended.mkdir()
    other.mkdir()
    watch.watch_launches({1: str(ended), 2: str(other)})
    watch.watch_launches({2: str(other)})
    assert watch.count == 1
    write_atomic(str(ended / "FW_action.json"), {})
    write_atomic(str(other / "FW_action.json"), {})
    assert told(wake, str(other))[1] | wake.wait(0.2)[1] == {str(other)}


def test_a_directory_that_is_not_there_yet_is_watched_when_it_is(wake, watch, tmp_path):
    place = tmp_path / "late"
    watch.watch_launches({1: str(place), 2: str(tmp_path)})
    assert watch.count == 1
    place.mkdir()
    watch.watch_launches({1: str(place), 2: str(tmp_path)})
    assert watch.count == 2
    write_atomic(str(place / "FW_action.json"), {})
    assert str(place) in told(wake, str(place))[1]


def test_a_watched_directory_may_vanish(wake, watch, tmp_path):
    place = tmp_path / "gone"
    place.mkdir()
    watch.watch_launches({1: str(place), 2: str(tmp_path)})
    place.rmdir()
    watch.watch_launches({2: str(tmp_path)})
    assert watch.count == 1


# ------------------------------------------------------------------------------------- the outbox


def test_an_outbox_entry_wakes(wake, watch, tmp_path):
    watch.watch_outbox(tmp_path)
    write_atomic(str(tmp_path / "1.tok.json"), {})
    assert told(wake, "outbox") == ({"outbox"}, set())


def test_an_entry_that_is_being_written_does_not(wake, watch, tmp_path):
    watch.watch_outbox(tmp_path)
    (tmp_path / ".1.tok.json.tmp").write_text("{", encoding="utf-8")
    assert wake.wait(0.3) == (set(), set())
    (tmp_path / ".1.tok.json.tmp").rename(tmp_path / "1.tok.json")
    told(wake, "outbox")


def test_another_outbox_takes_the_place_of_the_first(wake, watch, tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    watch.watch_outbox(first)
    watch.watch_outbox(second)
    watch.watch_outbox(second)
    write_atomic(str(first / "1.tok.json"), {})
    assert wake.wait(0.3) == (set(), set())
    write_atomic(str(second / "1.tok.json"), {})
    told(wake, "outbox")


# ---------------------------------------------------------------------------------- out of watches


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_a_kernel_without_watches_left_is_told_and_stops_nothing(
    watch, tmp_path, monkeypatch, number
):
    add = watch._inotify.add

    def no_more(_path):
        raise OSError(number, "inotify: none is left")

    monkeypatch.setattr(watch._inotify, "add", no_more)
    watch.watch_outbox(tmp_path / "outbox")
    watch.watch_launches({1: str(tmp_path)})
    assert watch.count == 0
    assert "none is left" in watch.trouble

    monkeypatch.setattr(watch._inotify, "add", add)
    (tmp_path / "outbox").mkdir()
    watch.watch_outbox(tmp_path / "outbox")
    watch.watch_launches({1: str(tmp_path)})
    assert watch.count == 1
    assert watch.trouble == ""


def test_the_want_of_watches_is_over_when_those_that_are_left_are_watched(
    watch, tmp_path, monkeypatch
):
    add = watch._inotify.add

    def one(path):
        if watch.count:
            raise OSError(errno.ENOSPC, "inotify: none is left")
        add(path)

    monkeypatch.setattr(watch._inotify, "add", one)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    watch.watch_launches({1: str(tmp_path / "a"), 2: str(tmp_path / "b")})
    assert (watch.count, "none is left" in watch.trouble) == (1, True)
    watch.watch_launches({2: str(tmp_path / "b")})
    assert (watch.count, watch.trouble) == (1, "")


def test_events_may_be_given_up_and_used_again(wake, watch, tmp_path):
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    watch.watch_outbox(outbox)
    watch.stop()
    assert (watch.used, watch.kind, watch.count) == (False, "not used", 0)
    watch.watch_outbox(outbox)
    watch.start()
    watch.watch_outbox(outbox)
    assert watch.used
    assert "at once" in watch.kind
    wake.wait(0)
    (outbox / "1.a.json").touch()
    assert wake.wait(DEADLINE)[0] == {"outbox"}


def test_a_kernel_without_inotify_stops_nothing(wake, tmp_path, monkeypatch):
    def none(_told):
        raise OSError(errno.EMFILE, "inotify: no instance is left")

    monkeypatch.setattr(watching, "Inotify", none)
    watch = Watch(wake)
    watch.start()
    watch.watch_outbox(tmp_path)
    watch.watch_launches({1: str(tmp_path)})
    assert (watch.count, "no instance is left" in watch.trouble) == (0, True)
    watch.stop()


@pytest.mark.parametrize(("limit", "most"), [("8192", 2048), ("999999", 8192), ("x", 0)])
def test_a_share_of_the_users_watches_is_taken(tmp_path, limit, most):
    (tmp_path / "max_user_watches").write_text(limit, encoding="ascii")
    assert watching.budget(tmp_path / "max_user_watches") == most
    assert watching.budget(tmp_path / "none") == 0


def test_an_overflow_asks_for_a_look_at_everything_and_is_told_for_a_while(
    wake, watch, monkeypatch
):
    """The record is what the kernel writes: no directory, the mask IN_Q_OVERFLOW."""
    watch._inotify._tell(struct.pack("iIII", -1, 0x4000, 0, 0))
    assert wake.wait(DEADLINE)[0] == {"overflow"}
    assert "events were lost" in watch.trouble
    monkeypatch.setattr(watching, "LOST_SECONDS", 0.0)
    assert watch.trouble == ""


def test_a_thousand_directories_cost_one_thread(wake, tmp_path):
    threads = threading.active_count()
    watch = Watch(wake, most=1000)
    watch.start()
    places = {number: str(tmp_path / str(number)) for number in range(1000)}
    for place in places.values():
        Path(place).mkdir()
    watch.watch_launches(places)
    assert (watch.count, threading.active_count()) == (1000, threads + 1)
    write_atomic(f"{places[0]}/FW_action.json", {})
    assert told(wake, places[0])[1] == {places[0]}
    watch.stop()


def test_a_directory_that_takes_the_place_of_another_is_watched(wake, watch, tmp_path):
    place = tmp_path / "launcher"
    place.mkdir()
    watch.watch_launches({1: str(place)})
    place.rename(tmp_path / "away")
    place.mkdir()
    deadline = time.monotonic() + DEADLINE
    while watch.count:  # the kernel's word on it is read by a thread
        assert time.monotonic() < deadline
        time.sleep(0.01)
    watch.watch_launches({1: str(place)})
    write_atomic(str(place / "FW_action.json"), {})
    assert str(place) in told(wake, str(place))[1]


# ------------------------------------------------------------------------------ where events tell


def test_events_of_a_file_system_of_this_host_are_proven(watch, tmp_path):
    watch.watch_outbox(tmp_path)
    assert watch.kind.endswith("tells of changes at once")
    assert list(tmp_path.iterdir()) == []


def test_events_that_do_not_come_are_told(watch, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(watch, "_tell", lambda *_: None)
    monkeypatch.setattr(watch._inotify, "_told", lambda *_: None)
    watch.watch_outbox(tmp_path)
    assert "although it should" in watch.kind
    watch.watch_launches({1: str(tmp_path)})
    assert watch.count == 0


def test_where_other_hosts_write_the_outbox_alone_is_watched(wake, watch, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "mount_of", lambda _: Mount("/", "lustre", "x"))
    watch.watch_outbox(tmp_path)
    watch.watch_launches({1: str(tmp_path)})
    assert (watch.count, watch.kind) == (0, "lustre tells nothing of other hosts")
    write_atomic(str(tmp_path / "1.tok.json"), {})
    told(wake, "outbox")
