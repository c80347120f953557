"""The way back without a database: what is read, what is offered, and what becomes of the files."""

import errno
import json
import os
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from agent import filesystem, leftovers, recover
from agent.recover import WayBack
from agent.results import Result
from fwcore.errors import DatabaseUnreachable, FwagentError
from fwcore.launchpad.records import Applied, OpenLaunch
from fwcore.plan import Outcome
from fwrunner.protocol import (
    MAX_REPORT_SIZE,
    Report,
    outbox_name,
    read_outbox_entry,
    rescue,
    write_atomic,
    write_report,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


class FakeLaunchPad:
    """Takes every report, unless told otherwise, and remembers what was offered."""

    def __init__(self):
        self.offered = []
        self.answers = {}
        self.open = []
        self.directories = {}
        self.lost = {}
        self.forgotten = set()
        self.down = False
        self.documents = {}
        self.tails = []
        self.known_tokens = {}

    def now(self):
        return NOW

    def apply(self, reports, *, track):
        if self.down:
            raise DatabaseUnreachable("down")
        reports = list(reports)
        documents = [self.documents.get(report.launch_id) for report in reports]
        self.tails += [track(launch) for launch in documents if launch]
        self.offered.append([report.launch_id for report in reports])
        applied = Applied()
        for report in reports:
            kind = self.answers.get((report.launch_id, report.token), "applied")
            state = report.state if kind == "applied" else ""
            reason = "" if kind in ("applied", "known") else f"{kind}!"
            outcome = Outcome(report.launch_id, 100 + report.launch_id, state, reason)
            getattr(applied, kind).append(outcome)
        return applied

    def open_launches(self, worker, *, after=0):
        of_worker = [launch for launch in self.open if worker in (None, launch.worker)]
        return [launch for launch in of_worker if launch.launch_id > after]

    def overwritten(self, worker, known):
        return {}

    def lost_places(self, worker, seconds):
        assert seconds > 86400
        return self.lost

    def registered(self, worker, *, within=None):
        return self.directories.get(worker, {})

    def tokens(self, launch_ids):
        return {key: token for key, token in self.known_tokens.items() if key in launch_ids}

    def launch_ids_of(self, fw_ids):
        return {fw_id - 100 for fw_id in fw_ids}

    def forget_registered(self, launch_ids):
        self.forgotten |= set(launch_ids)


@pytest.fixture
def launchpad():
    return FakeLaunchPad()


@pytest.fixture
def outbox(tmp_path):
    outbox = tmp_path / ".fwagent" / "outbox"
    outbox.mkdir(parents=True)
    return outbox


@pytest.fixture
def way_back(launchpad, outbox):
    return WayBack(launchpad, outbox, MAX_REPORT_SIZE)


def look(way_back, places=None, **options):
    result = Result()
    way_back.recover({key: str(place) for key, place in (places or {}).items()}, result, **options)
    return result


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def drop(outbox, launch_id, state="COMPLETED", token="tok", place="/x"):
    final = state != "RUNNING"
    action: dict[str, str] | None = {} if final else None
    report = Report(launch_id, state, place, 100 + launch_id, token, fwaction=action)
    path = outbox / outbox_name(launch_id, token, final)
    write_report(str(path), report)
    return path


def staged(parent, launch_id=1):
    place = parent / f"launcher_{launch_id}"
    place.mkdir()
    write_atomic(str(place / "FW_offline.json"), {"launch_id": launch_id})
    return place


def tell(place, launch_id=1, **keys):
    """Write FW_offline.json as stock rlaunch does."""
    offline = {"launch_id": launch_id, "started_on": "2026-01-01T00:00:00", **keys}
    (place / "FW_offline.json").write_text(json.dumps(offline), encoding="utf-8")


DONE = {"fwaction": {}, "state": "COMPLETED", "completed_on": "2026-01-01T00:01:00"}


# ------------------------------------------------------------------------------------ the outbox


def test_an_entry_goes_once_it_is_in_the_database(way_back, launchpad, outbox):
    drop(outbox, 1)
    drop(outbox, 2, "RUNNING")
    result = look(way_back)
    assert [(entry["launch_id"], entry["state"]) for entry in result.applied] == [
        (1, "COMPLETED"),
        (2, "RUNNING"),
    ]
    assert names(outbox) == []


def test_the_directory_of_what_the_outbox_has_ended_may_be_gone(way_back, outbox, tmp_path):
    drop(outbox, 1)
    drop(outbox, 2, "RUNNING")
    gone = {number: tmp_path / f"gone{number}" for number in (1, 2, 3)}
    assert [row["launch_id"] for row in look(way_back, gone).deferred] == [2, 3]


def test_an_entry_that_tells_nothing_new_goes_too(way_back, launchpad, outbox):
    drop(outbox, 1)
    launchpad.answers[1, "tok"] = "known"
    assert look(way_back).document()["applied"] == []
    assert names(outbox) == []


def test_an_entry_stays_while_it_is_deferred(way_back, launchpad, outbox):
    path = drop(outbox, 1)
    launchpad.answers[1, "tok"] = "deferred"
    for _ in range(2):
        assert look(way_back).deferred == [
            {"launch_id": 1, "fw_id": 101, "reason": "deferred!"},
        ]
        assert path.exists()
    launchpad.answers.clear()
    look(way_back)
    assert not path.exists()


def test_an_entry_stays_while_the_database_is_down(way_back, launchpad, outbox):
    path = drop(outbox, 1)
    launchpad.down = True
    with pytest.raises(DatabaseUnreachable):
        look(way_back)
    assert path.exists()


def test_an_entry_of_nobody_is_set_aside_whole(way_back, launchpad, outbox):
    text = drop(outbox, 1).read_text()
    launchpad.answers[1, "tok"] = "ignored"
    assert look(way_back).ignored == [{"launch_id": 1, "fw_id": 101, "reason": "ignored!"}]
    assert names(outbox) == []
    assert (outbox.parent / "ignored" / "1.tok.json").read_text() == text
    assert look(way_back).ignored == []


def test_a_forged_entry_does_not_take_the_true_one_with_it(way_back, launchpad, outbox):
    """The true one waits for a lock: it must still be there the next time."""
    drop(outbox, 1, token="forged")
    path = drop(outbox, 1, token="true")
    launchpad.answers = {(1, "forged"): "ignored", (1, "true"): "deferred"}
    look(way_back)
    assert path.exists()

    launchpad.answers[1, "true"] = "applied"
    assert [entry["launch_id"] for entry in look(way_back).applied] == [1]
    assert names(outbox) == []


@pytest.mark.parametrize("text", ["", '{"launch_id": 1, "sta', "[]", "\0", '{"launch_id": 1}'])
def test_an_entry_that_cannot_be_read_stays_and_is_read_again(way_back, launchpad, outbox, text):
    path = outbox / "1.tok.json"
    path.write_text(text, encoding="utf-8")
    look(way_back)
    assert path.read_text() == text
    assert launchpad.offered == []
    drop(outbox, 1)
    look(way_back)
    assert launchpad.offered == [[1]]


def test_an_outbox_that_is_no_directory_is_told(way_back, outbox):
    assert look(way_back).deferred == []
    outbox.rmdir()
    assert look(way_back).deferred == []
    outbox.write_text("x", encoding="ascii")
    (deferred,) = look(way_back).deferred
    assert deferred["reason"] == f"{outbox} is no directory: move it away"


def test_junk_is_not_read_at_each_listing_and_is_told_in_a_line(way_back, outbox, monkeypatch):
    for number in range(3):
        (outbox / f"{number}.tok.json").write_text("{", encoding="utf-8")
    (row,) = look(way_back).deferred
    assert row["reason"].startswith("3 entries of the outbox cannot be read: ")
    monkeypatch.setattr(recover, "read_outbox_entry", lambda *_: pytest.fail("it was read"))
    (outbox / "2.tok.json").unlink()
    (row,) = look(way_back).deferred
    assert row["reason"].startswith("2 entries of the outbox cannot be read: ")


def test_junk_is_tried_again_after_a_while(way_back, outbox, launchpad, monkeypatch):
    path = outbox / "1.tok.json"
    path.write_text("{", encoding="utf-8")
    look(way_back)
    read = read_outbox_entry
    tried = []

    def noted(*arguments):
        tried.append(arguments)
        return read(*arguments)

    monkeypatch.setattr(recover, "read_outbox_entry", noted)
    monkeypatch.setattr(launchpad, "now", lambda: NOW + timedelta(seconds=leftovers.AGAIN + 1))
    look(way_back)
    assert len(tried) == 1
    path.chmod(0o640)
    look(way_back)
    assert len(tried) == 2


@pytest.mark.parametrize("answer", ["applied", "ignored"])
def test_an_entry_that_cannot_be_removed_does_not_hold_up_the_others(
    way_back, launchpad, outbox, tmp_path, monkeypatch, answer
):
    """As on a file system that is full, or read-only for a while."""
    path, place = drop(outbox, 7), staged(tmp_path)
    launchpad.answers[7, "tok"] = answer
    tell(place, **DONE)
    refused = OSError(errno.EROFS, os.strerror(errno.EROFS))

    def refuse(*_args, **_options):
        raise refused

    with monkeypatch.context() as patch:
        for name in ("unlink", "replace"):
            patch.setattr(Path, name, refuse)
        result = look(way_back, {1: place})
        assert {1, 7} >= {row["launch_id"] for row in result.applied} >= {1}
        (row,) = result.deferred
        assert "settled, but not to be removed: 7.tok.json: Read-only file system" in row["reason"]
        assert len(look(way_back).deferred) == 1
        assert [7] in launchpad.offered
        assert launchpad.offered.count([7]) == 1
    monkeypatch.setattr(launchpad, "now", lambda: NOW + timedelta(seconds=leftovers.AGAIN + 1))
    assert look(way_back).deferred == []
    assert not path.exists()


def test_only_entries_are_read(way_back, launchpad, outbox):
    path = drop(outbox, 1)
    path.rename(outbox / ".1.tok.json.77.tmp")
    (outbox / ".hidden.json").write_text("{}", encoding="utf-8")
    (outbox / "README").write_text("mine", encoding="utf-8")
    (outbox / "2.tok.json").mkdir()
    (outbox / "3.tok.json").symlink_to("/etc/hostname")
    before = names(outbox)
    look(way_back)
    assert launchpad.offered == []
    assert names(outbox) == before


def test_no_outbox_is_an_empty_one(way_back, outbox):
    outbox.rmdir()
    assert look(way_back).document()["applied"] == []


def test_the_outbox_can_be_left_alone(way_back, outbox):
    path = drop(outbox, 1)
    look(way_back, outbox=False)
    assert path.exists()


def test_batches_are_bounded(way_back, launchpad, outbox, tmp_path, monkeypatch):
    monkeypatch.setattr(recover, "BATCH", 2)
    places = {}
    for number in range(5):
        drop(outbox, number + 10)
        places[number] = staged(tmp_path, number)
        tell(places[number], number)
    assert len(look(way_back, places).applied) == 10
    assert [len(batch) for batch in launchpad.offered] == [2, 2, 1, 2, 2, 1]
    assert names(outbox) == []


def test_a_backlog_is_applied_oldest_first_and_tells_how_far_it_is(
    way_back, launchpad, outbox, monkeypatch
):
    monkeypatch.setattr(recover, "BATCH", 2)
    for number, written in enumerate((30, 10, 50, 20, 40), 1):
        os.utime(drop(outbox, number), (written, written))
    told = []
    way_back.progress = lambda done, total: told.append((done, total))
    look(way_back)
    assert launchpad.offered == [[2, 4], [1, 5], [3]]
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_batches_of_large_reports_are_bounded_by_their_bytes(
    way_back, launchpad, outbox, tmp_path, monkeypatch
):
    monkeypatch.setattr(recover, "BATCH_BYTES", 3000)
    places = {}
    for number, size in enumerate((1000, 1000, 5000, 1000)):
        places[number] = staged(tmp_path, number)
        tell(places[number], number, fwaction={"x": "y" * size}, state="COMPLETED")
        path = drop(outbox, number + 10)
        path.write_bytes(path.read_bytes() + b" " * size)
    assert len(look(way_back, places).applied) == 8
    assert launchpad.offered == [[10, 11], [12], [13], [0, 1], [2], [3]]


# ----------------------------------------------------------------------------- launch directories


def test_a_directory_is_read_again_only_when_it_has_changed(way_back, launchpad, tmp_path):
    place = staged(tmp_path)
    for _ in range(3):
        assert look(way_back, {1: place}).document()["deferred"] == []
    assert launchpad.offered == []

    tell(place)
    for _ in range(3):
        look(way_back, {1: place})
    assert launchpad.offered == [[1]]

    (place / "FW_ping.json").write_text('{"ping_time": "2026-01-01T00:00:30"}', encoding="utf-8")
    for _ in range(3):
        look(way_back, {1: place})
    assert launchpad.offered == [[1]] * 2

    tell(place, **DONE)
    for _ in range(3):
        look(way_back, {1: place})
    assert launchpad.offered == [[1]] * 3


def test_quiet_directories_are_not_opened(way_back, tmp_path, monkeypatch):
    place = staged(tmp_path)
    tell(place)
    look(way_back, {1: place})
    monkeypatch.setattr(recover, "read_report", lambda *_: pytest.fail("it was read"))
    look(way_back, {1: place})


def test_what_was_deferred_is_offered_again(way_back, launchpad, tmp_path):
    place = staged(tmp_path)
    tell(place, **DONE)
    launchpad.answers[1, None] = "deferred"
    look(way_back, {1: place})
    assert [entry["reason"] for entry in look(way_back, {1: place}).deferred] == ["deferred!"]
    launchpad.answers.clear()
    assert len(look(way_back, {1: place}).applied) == 1
    look(way_back, {1: place})
    assert len(launchpad.offered) == 3


def test_what_the_database_did_not_take_is_offered_again(way_back, launchpad, tmp_path):
    place = staged(tmp_path)
    tell(place, **DONE)
    launchpad.down = True
    with pytest.raises(DatabaseUnreachable):
        look(way_back, {1: place})
    launchpad.down = False
    assert len(look(way_back, {1: place}).applied) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "is empty"), ('{"launch_id": 1, "fwac', "half-written"), ("[]", "no JSON object")],
)
def test_a_torn_file_is_deferred_with_its_place_until_it_is_whole(
    way_back, launchpad, tmp_path, text, reason
):
    place = staged(tmp_path)
    (place / "FW_offline.json").write_text(text, encoding="utf-8")
    for _ in range(3):
        (entry,) = look(way_back, {1: place}).deferred
        assert entry["launch_id"] == 1
        assert reason in entry["reason"]
        assert str(place) in entry["reason"]
    assert launchpad.offered == []
    tell(place, **DONE)
    result = look(way_back, {1: place})
    assert (len(result.applied), result.deferred) == (1, [])


def test_a_directory_that_is_gone_is_deferred(way_back, launchpad, tmp_path):
    place = staged(tmp_path)
    shutil.rmtree(place)
    (entry,) = look(way_back, {1: place}).deferred
    assert "no FW_offline.json" in entry["reason"]
    assert launchpad.offered == []


def test_a_directory_of_another_launch_by_now_tells_nothing_of_this_one(
    way_back, launchpad, tmp_path
):
    place = staged(tmp_path)
    tell(place, 2, **DONE)
    (entry,) = look(way_back, {1: place}).deferred
    assert entry["launch_id"] == 1
    assert "holds launch 2 now" in entry["reason"]
    assert launchpad.offered == []


def test_one_bad_directory_does_not_hold_up_the_others(way_back, launchpad, tmp_path):
    places = {number: staged(tmp_path, number) for number in (1, 2, 3)}
    (places[2] / "FW_offline.json").write_text("", encoding="utf-8")
    tell(places[1], 1, **DONE)
    tell(places[3], 3, **DONE)
    result = look(way_back, places)
    assert launchpad.offered == [[1, 3]]
    assert [entry["launch_id"] for entry in result.deferred] == [2]


def test_memory_is_dropped_with_its_launch(way_back, launchpad, tmp_path):
    place = staged(tmp_path)
    tell(place)
    look(way_back, {1: place})
    way_back.memory.keep([1])
    look(way_back, {1: place})
    assert len(launchpad.offered) == 1
    way_back.memory.keep([])
    look(way_back, {1: place})
    assert len(launchpad.offered) == 2


def test_a_registration_goes_with_the_end_of_its_launch(way_back, launchpad, tmp_path):
    places = {1: staged(tmp_path, 1), 2: staged(tmp_path, 2)}
    tell(places[1], 1)
    tell(places[2], 2, **DONE)
    look(way_back, places)
    assert launchpad.forgotten == {2}


def test_latency_is_from_the_final_report_to_the_database(way_back, outbox, tmp_path):
    import os

    place = staged(tmp_path, 2)
    tell(place, 2)
    path = drop(outbox, 1)
    os.utime(path, (NOW.timestamp() - 3, NOW.timestamp() - 3))
    assert look(way_back, {2: place}).latencies == {1: 3.0}
    assert look(way_back).latencies == {}


def test_a_quick_look_is_one_stat_and_finds_all_the_same(
    way_back, launchpad, tmp_path, monkeypatch
):
    place = staged(tmp_path)
    tell(place)
    look(way_back, {1: place})
    stats = []
    real = os.stat

    def counted(path, **options):
        stats.append(path)
        return real(path, **options)

    monkeypatch.setattr("agent.recover.os.stat", counted)
    look(way_back, {1: place}, quick={1}, outbox=False)
    look(way_back, {1: place}, outbox=False)
    assert len(stats) == 1 + 3
    monkeypatch.undo()

    # A final report that could be written when nothing else could.
    report = Report(1, "COMPLETED", str(place), 101, "tok", fwaction={})
    write_report(str(place / "FW_action.json"), report)
    look(way_back, {1: place}, quick={1})
    assert launchpad.offered == [[1]]
    look(way_back, {1: place})
    assert launchpad.offered == [[1], [1]]


def test_where_a_cache_may_be_old_files_are_opened_and_the_outbox_is_touched(
    launchpad, outbox, tmp_path, monkeypatch
):
    place = staged(tmp_path)
    tell(place)
    opened: list[str] = []
    touched: list[object] = []

    def fresh_stat(path):
        opened.append(path)
        return filesystem.fresh_stat(path)

    monkeypatch.setattr(recover, "fresh_stat", fresh_stat)
    monkeypatch.setattr(recover, "refresh", touched.append)
    way_back = WayBack(launchpad, outbox, MAX_REPORT_SIZE, remote=True)
    look(way_back, {1: place})
    assert str(place / "FW_offline.json") in opened
    assert touched == [outbox]


# --------------------------------------------------------------------------------- where to look


def launch(launch_id, worker="w"):
    return OpenLaunch(launch_id, 100 + launch_id, f"/db/{launch_id}", "RUNNING", worker)


def test_places_are_those_of_the_database_and_the_registered_ones(way_back, launchpad):
    launchpad.open = [launch(1), launch(2), launch(3, "other")]
    launchpad.directories = {"w": {2: "/moved/2", 9: "/moved/9"}, "other": {3: "/moved/3"}}
    assert way_back.places("w") == {1: "/db/1", 2: "/moved/2", 9: "/moved/9"}
    assert way_back.places("w", [102, 103]) == {2: "/moved/2"}
    assert way_back.places("w", []) == {}
    # One that was declared lost may have a word to say all the same.
    launchpad.lost = {4: "/db/4"}
    assert way_back.places("w") == {1: "/db/1", 2: "/moved/2", 4: "/db/4", 9: "/moved/9"}


def test_a_lost_one_whose_directory_is_gone_is_not_put_off(way_back, launchpad):
    launchpad.open, launchpad.lost = [launch(1)], {1: "/db/1", 4: "/db/4"}
    result = Result()
    way_back.recover(way_back.places("w"), result)
    assert [entry["launch_id"] for entry in result.deferred] == [1]
    assert way_back.missing == {1, 4}


def test_new_places_are_asked_for_alone(way_back, launchpad):
    launchpad.open = [launch(1), launch(5000)]
    way_back.places("w")
    launchpad.open += [launch(4500), launch(5001), launch(5002, "other")]
    assert way_back.new_places("w") == {n: f"/db/{n}" for n in (4500, 5000, 5001)}


def test_places_of_all_workers(way_back, launchpad):
    launchpad.open = [launch(1), launch(3, "other")]
    launchpad.directories = {"w": {1: "/moved/1"}}
    assert way_back.places(None, registered_for="w") == {1: "/moved/1", 3: "/db/3"}


# ------------------------------------------------------------------------------------ tracked files


def test_tracked_files_are_read_where_the_launch_is(way_back, launchpad, outbox, tmp_path):
    """In the directory that it has, or in the one that was registered for it; told by either way."""
    place, moved = staged(tmp_path), tmp_path / "moved"
    (place / "log").write_text("x")
    document = {"launch_id": 1, "launch_dir": str(place), "trackers": [{"filename": "log"}]}
    launchpad.documents[1] = document
    drop(outbox, 1)
    look(way_back)
    tell(place, **DONE)
    look(way_back, {1: place})
    place.rename(moved)
    drop(outbox, 1)
    look(way_back, {1: moved})
    assert launchpad.tails == [{"log": "x"}] * 3
    shutil.rmtree(moved)
    drop(outbox, 1)
    look(way_back, {1: moved})
    assert launchpad.tails[3:] == [{}]


def test_a_final_report_that_cannot_be_read_is_told_at_each_look(way_back, launchpad, tmp_path):
    place = staged(tmp_path)
    (place / "FW_action.json").write_bytes(b"\xff{}")
    for _ in range(2):
        assert look(way_back, {1: place}).deferred == [
            {"launch_id": 1, "fw_id": None, "reason": f"{place}: FW_action.json is half-written or not JSON"}
        ]  # fmt: skip
    tell(place)
    result = look(way_back, {1: place})
    assert ([entry["state"] for entry in result.applied], len(result.deferred)) == (["RUNNING"], 1)
    tell(place, **DONE)
    assert look(way_back, {1: place}).deferred == []


def test_what_an_earlier_launch_left_is_not_told(way_back, tmp_path):
    place = staged(tmp_path)
    report = Report(7, "COMPLETED", str(place), 107, "tok", fwaction={})
    write_report(str(place / "FW_action.json"), report)
    assert look(way_back, {1: place}).deferred == []


def test_one_that_holds_another_launch_or_none_is_searched_for(way_back, tmp_path):
    """Two that have changed places, and one whose place a program has made anew."""
    a, b, c = (staged(tmp_path, number) for number in (1, 2, 3))
    a.rename(tmp_path / "x")
    b.rename(a)
    (tmp_path / "x").rename(b)
    c.rename(tmp_path / "y")
    c.mkdir()
    result = look(way_back, {1: a, 2: b, 3: c})
    assert way_back.missing == {1, 2, 3}
    reasons = [row["reason"] for row in result.deferred]
    assert reasons[:2] == [f"{a} holds launch 2 now", f"{b} holds launch 1 now"]


def test_tracked_files_are_not_read_through_a_link_out_of_the_root(
    way_back, launchpad, outbox, tmp_path_factory, tmp_path
):
    elsewhere = staged(tmp_path_factory.mktemp("elsewhere"))
    (elsewhere / "log").write_text("secret")
    place = tmp_path / "launcher_1"
    place.symlink_to(elsewhere)
    document = {"launch_id": 1, "launch_dir": str(place), "trackers": [{"filename": "log"}]}
    launchpad.documents[1] = document
    drop(outbox, 1)
    look(way_back)
    assert launchpad.tails == [{}]


def test_a_launch_directory_that_is_a_link_out_of_the_root_is_not_read(
    way_back, launchpad, tmp_path_factory, tmp_path
):
    elsewhere = staged(tmp_path_factory.mktemp("elsewhere"))
    tell(elsewhere, **DONE)
    place = tmp_path / "launcher_1"
    place.symlink_to(elsewhere)
    (row,) = look(way_back, {1: place}).deferred
    assert "leads out of the launch root" in row["reason"]
    assert f"fwagent register {elsewhere}" in row["reason"]
    assert launchpad.offered == []
    # Where the user says that it is, it is read.
    assert len(look(way_back, {1: elsewhere}).applied) == 1


def test_a_link_within_the_root_is_followed(way_back, tmp_path):
    (tmp_path / "real").mkdir()
    tell(staged(tmp_path / "real"), **DONE)
    (tmp_path / "block").symlink_to(tmp_path / "real")
    assert len(look(way_back, {1: tmp_path / "block" / "launcher_1"}).applied) == 1


def test_what_the_agent_of_another_database_put_aside_is_taken_if_it_is_ours(
    launchpad, outbox, tmp_path
):
    """Two databases, one launch root: numbers of launches are the same, tokens are not."""
    theirs = WayBack(launchpad, outbox, MAX_REPORT_SIZE)
    launchpad.answers[1, "ours"] = "ignored"
    drop(outbox, 1, token="ours", place="/b/l")
    drop(outbox, 1, token="theirs", place="/b/l")
    look(theirs, {1: "/b/l"})
    aside = outbox.parent / "ignored"
    assert names(aside) == ["1.ours.json", "1.theirs.json"]

    ours: Any = FakeLaunchPad()
    ours.known_tokens = {1: "ours"}
    assert len(look(WayBack(ours, outbox, MAX_REPORT_SIZE), {1: "/b/l"}).applied) == 1
    assert (ours.offered, names(aside)) == ([[1]], ["1.theirs.json"])


# ---------------------------------------------------------------------------- what was rescued


class TestRescued:
    """Reports that neither the launch directory nor the outbox took: at home, or in a job's stderr."""

    @pytest.fixture
    def rescued(self, tmp_path):
        rescued = tmp_path / "home" / "rescue"
        rescued.mkdir(parents=True)
        return rescued

    @pytest.fixture
    def way_back(self, launchpad, outbox, rescued):
        return WayBack(launchpad, outbox, MAX_REPORT_SIZE, rescued)

    def test_is_applied_once_and_goes(self, way_back, launchpad, rescued):
        drop(rescued, 1, place="/gpfs/scratch/block_1/launcher_1")
        assert look(way_back, {1: "/scratch/block_1/launcher_1"}).deferred == []
        assert (launchpad.offered, names(rescued)) == ([[1]], [])

    def test_come_in_batches_of_bounded_size(self, way_back, launchpad, rescued, monkeypatch):
        sizes = {number: drop(rescued, number, place="/b/l").stat().st_size for number in (1, 2, 3)}
        monkeypatch.setattr(recover, "BATCH_BYTES", sizes[1] + sizes[2])
        look(way_back, dict.fromkeys(sizes, "/b/l"))
        assert (launchpad.offered, names(rescued)) == ([[1, 2], [3]], [])

    def test_the_files_that_its_launch_tracks_are_read(
        self, way_back, launchpad, rescued, tmp_path
    ):
        place = staged(tmp_path)
        (place / "log").write_text("x")
        launchpad.documents[1] = {
            "launch_id": 1,
            "launch_dir": "/",
            "trackers": [{"filename": "log"}],
        }
        drop(rescued, 1, place=str(place))
        look(way_back, {1: place})
        assert launchpad.tails == [{"log": "x"}]

    @pytest.mark.parametrize("places", [{}, {2: "/b/l"}, {1: "/b/other"}])
    def test_of_another_database_is_left_alone(self, way_back, launchpad, rescued, places):
        drop(rescued, 1, place="/b/l")
        assert look(way_back, places).ignored == []
        assert (launchpad.offered, names(rescued)) == ([], ["1.tok.json"])

    def test_with_another_token_is_left_and_told_once(self, way_back, launchpad, rescued):
        drop(rescued, 1, place="/b/l")
        launchpad.answers[1, "tok"] = "ignored"
        assert len(look(way_back, {1: "/b/l"}).ignored) == 1
        assert look(way_back, {1: "/b/l"}).ignored == []
        assert names(rescued) == ["1.tok.json"]

    def test_waits_as_others_do(self, way_back, launchpad, rescued):
        drop(rescued, 1, place="/b/l")
        launchpad.answers[1, "tok"] = "deferred"
        deferred = look(way_back, {1: "/b/l"}).deferred
        assert {"launch_id": 1, "fw_id": 101, "reason": "deferred!"} in deferred
        assert names(rescued) == ["1.tok.json"]

    def test_half_of_one_is_looked_at_again(self, way_back, launchpad, rescued):
        path = drop(rescued, 1, place="/b/l")
        path.write_text(path.read_text()[:-9])
        assert "half-written" in look(way_back, {1: "/b/l"}).deferred[0]["reason"]
        assert names(rescued) == ["1.tok.json"]

    def test_a_line_among_others(self, way_back, launchpad, tmp_path):
        report = Report(1, "COMPLETED", "/b/l", 101, "tok", fwaction={"stored_data": {"x": "ü\n"}})
        file = tmp_path / "FW_job.error"
        file.write_bytes(b"\xff noise\nno end" + rescue.line(report).encode() + b"more\n")
        result = Result()
        way_back.recover_file(file, result)
        assert (launchpad.offered, len(result.applied)) == ([[1]], 1)

    def test_lines_come_in_batches_of_bounded_size(
        self, way_back, launchpad, tmp_path, monkeypatch
    ):
        file = tmp_path / "FW_job.error"
        reports = [Report(n, "COMPLETED", "/b/l", 101, "tok", fwaction={}) for n in (1, 2, 3)]
        file.write_text("".join(map(rescue.line, reports)))
        monkeypatch.setattr(recover, "BATCH_BYTES", file.stat().st_size)
        way_back.recover_file(file, Result())
        assert launchpad.offered == [[1], [2], [3]]

    def test_a_line_that_was_cut(self, way_back, launchpad, tmp_path):
        line = rescue.line(Report(1, "COMPLETED", "/b/l", 101, "tok", fwaction={}))
        file = tmp_path / "FW_job.error"
        for end in range(len(rescue.MARK) + 1, len(line) - 2):
            file.write_text(line[:end])
            result = Result()
            way_back.recover_file(file, result)
            assert "a report in" in result.deferred[0]["reason"]
        assert launchpad.offered == []

    def test_no_such_line(self, way_back, tmp_path):
        file = tmp_path / "FW_job.error"
        file.write_text("nothing\n")
        with pytest.raises(FwagentError, match="no report in"):
            way_back.recover_file(file, Result())
        with pytest.raises(FwagentError, match="cannot be read"):
            way_back.recover_file(tmp_path / "none", Result())

    def test_a_line_too_long(self, launchpad, outbox, tmp_path):
        file = tmp_path / "FW_job.error"
        report = Report(1, "COMPLETED", "/b/l", 101, "tok", fwaction={"stored_data": "x" * 3000})
        file.write_text(rescue.line(report) + rescue.line(report._replace(fwaction={})))
        result = Result()
        WayBack(launchpad, outbox, 1000).recover_file(file, result)
        assert "larger than 1000 bytes" in result.deferred[0]["reason"]
        assert launchpad.offered == [[1]]
