"""The wire format: what is torn, foreign or strange says nothing; what is whole says the truth."""

import bz2
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwrunner import protocol
from fwrunner.protocol import NotYet, Report, Unreadable, read_outbox_entry, read_report

ACTION = {"stored_data": {"a": [1, 2.5, None]}, "exit": False, "update_spec": {"größe": "µ"}}
STAGED: dict[str, Any] = {
    "launch_id": 7,
    "fwagent": {"protocol": 1, "token": "abc", "outbox": "/o"},
}
STARTED: dict[str, Any] = {
    **STAGED,
    "started_on": "2026-11-23T12:31:08.287544+00:00",
    "checkpoint": {"_task_n": 0},
}
ENDED = {
    **STARTED,
    "fwaction": ACTION,
    "state": "COMPLETED",
    "completed_on": "2026-11-23T12:31:12+00:00",
}
FINAL = Report(
    launch_id=7,
    state="COMPLETED",
    launch_dir="/elsewhere",
    fw_id=3,
    token="abc",
    started_on=STARTED["started_on"],
    completed_on="2026-11-23T12:31:12+00:00",
    checkpoint={"_task_n": 0},
    fwaction=ACTION,
    host="node1",
    attempt=2,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
#: Documents that are nearly right: the keys are known, the values are anything.
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("launch_id", "fw_id", "attempt"), JSON | st.integers(1, 9) | st.just(7)),
        **dict.fromkeys(
            ("launch_dir", "token", "host", "started_on", "completed_on"), JSON | st.text()
        ),
        "state": JSON | st.sampled_from(["RUNNING", "COMPLETED", "FIZZLED", "READY"]),
        "protocol": JSON | st.just(1),
        "fwaction": JSON | st.just(ACTION),
        "checkpoint": JSON | st.just({}),
        "fwagent": JSON | st.just({"token": "abc"}),
    },
)


def put(directory: Path, name: str, document: Any) -> Path:
    path = directory / name
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return path


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def reason(report: NotYet | Report) -> str:
    assert isinstance(report, NotYet), report
    return report.reason


class TestReadReport:
    def test_nothing_there(self, tmp_path):
        assert reason(read_report(str(tmp_path))) == "no FW_offline.json"
        assert reason(read_report(str(tmp_path / "gone"))) == "no FW_offline.json"
        assert isinstance(read_report("\0"), NotYet)

    def test_staged(self, tmp_path):
        put(tmp_path, "FW_offline.json", STAGED)
        assert reason(read_report(str(tmp_path))) == "staged, not started"

    def test_running(self, tmp_path):
        put(tmp_path, "FW_offline.json", STARTED)
        put(tmp_path, "FW_ping.json", {"ping_time": "2026-11-23T12:31:09+00:00"})
        report = read_report(str(tmp_path))
        assert report == Report(
            launch_id=7,
            state="RUNNING",
            launch_dir=str(tmp_path),
            token="abc",
            started_on=STARTED["started_on"],
            ping_time="2026-11-23T12:31:09+00:00",
            checkpoint={"_task_n": 0},
        )
        assert not report.final

    @pytest.mark.parametrize("ping", [b"", b"{", b"[]", b'{"ping_time": 3}', b"{}"])
    def test_a_torn_ping_hides_nothing(self, tmp_path, ping):
        put(tmp_path, "FW_offline.json", STARTED)
        put(tmp_path, "FW_ping.json", ping)
        report = read_report(str(tmp_path))
        assert isinstance(report, Report)
        assert report.ping_time is None

    def test_ended_under_stock_rlaunch(self, tmp_path):
        put(tmp_path, "FW_offline.json", {**ENDED, "fwagent": None})
        report = read_report(str(tmp_path))
        assert isinstance(report, Report)
        assert (report.final, report.state, report.fwaction) == (True, "COMPLETED", ACTION)
        assert (report.token, report.fw_id, report.attempt) == (None, None, 1)

    def test_the_attempt_is_told(self, tmp_path):
        put(tmp_path, "FW_offline.json", {**STARTED, "fwagent": {"token": "abc", "attempt": 3}})
        report = read_report(str(tmp_path))
        assert isinstance(report, Report)
        assert report.attempt == 3

    def test_the_final_report_wins(self, tmp_path):
        put(tmp_path, "FW_offline.json", STARTED)
        protocol.write_report(str(tmp_path / "FW_action.json"), FINAL)
        assert read_report(str(tmp_path)) == FINAL._replace(launch_dir=str(tmp_path))

    @pytest.mark.parametrize("torn", [None, b"", b"{", b"[1]"])
    def test_the_final_report_needs_no_offline_json(self, tmp_path, torn):
        if torn is not None:
            put(tmp_path, "FW_offline.json", torn)
        protocol.write_report(str(tmp_path / "FW_action.json"), FINAL)
        assert read_report(str(tmp_path)) == FINAL._replace(launch_dir=str(tmp_path))

    @pytest.mark.parametrize(
        "earlier",
        [
            FINAL._replace(launch_id=6),
            FINAL._replace(token="old"),
            FINAL._replace(fwaction=None, state="RUNNING"),
        ],
    )
    def test_what_an_earlier_launch_left_is_passed_over(self, tmp_path, earlier):
        put(tmp_path, "FW_offline.json", STAGED)
        protocol.write_report(str(tmp_path / "FW_action.json"), earlier)
        assert reason(read_report(str(tmp_path))) == "staged, not started"

    @pytest.mark.parametrize(
        "change",
        [{"state": None}, {"state": "READY"}, {"state": ["COMPLETED"]}, {"fwaction": None}, {"fwaction": []},
         {"launch_id": "7"}, {"launch_id": True}, {"launch_id": None}, {"launch_id": 2**70},
         {"completed_on": 5}, {"started_on": {}}, {"checkpoint": []}],
    )  # fmt: skip
    def test_half_a_truth_is_none(self, tmp_path, change):
        put(tmp_path, "FW_offline.json", {**ENDED, **change})
        assert reason(read_report(str(tmp_path))).startswith("FW_offline.json: ")


class TestCompressed:
    """FireWorks' CompressDirTask also compresses the file that tells of it."""

    @pytest.mark.parametrize("suffix", [".gz", ".GZ", ".bz2", ".BZ2", ".z", ".Z"])
    def test_is_read(self, tmp_path, suffix):
        compress = bz2.compress if suffix.lower() == ".bz2" else gzip.compress
        data = compress(json.dumps(ENDED).encode())
        put(tmp_path, "FW_offline.json" + suffix, data)
        report = read_report(str(tmp_path))
        assert isinstance(report, Report)
        assert report.state == "COMPLETED"
        for end in range(len(data) - 1):
            put(tmp_path, "FW_offline.json" + suffix, data[:end])
            assert isinstance(read_report(str(tmp_path)), NotYet), end

    def test_flipped_bits_are_no_report(self, tmp_path):
        data = bytearray(gzip.compress(json.dumps(ENDED).encode()))
        for place in range(10, len(data)):
            data[place] ^= 0xFF
            put(tmp_path, "FW_offline.json.gz", bytes(data))
            assert isinstance(read_report(str(tmp_path)), NotYet), place
            data[place] ^= 0xFF

    def test_the_plain_one_comes_first(self, tmp_path):
        put(tmp_path, "FW_offline.json", STAGED)
        put(tmp_path, "FW_offline.json.gz", gzip.compress(json.dumps(ENDED).encode()))
        assert isinstance(read_report(str(tmp_path)), NotYet)

    def test_a_bomb_is_not_unpacked(self, tmp_path):
        put(tmp_path, "FW_offline.json.gz", gzip.compress(b" " * 10_000_000))
        assert "larger than 20000 bytes" in reason(read_report(str(tmp_path), max_size=20_000))


class TestTorn:
    """Cut at any byte, a file says what was true before, or nothing."""

    def test_offline_json(self, tmp_path):
        for document in (STARTED, ENDED):
            data = json.dumps(document, ensure_ascii=False).encode()
            for end in range(len(data)):
                put(tmp_path, "FW_offline.json", data[:end])
                assert isinstance(read_report(str(tmp_path)), NotYet), data[:end]

    def test_action_json(self, tmp_path):
        put(tmp_path, "FW_offline.json", STARTED)
        path = tmp_path / "FW_action.json"
        protocol.write_report(str(path), FINAL)
        data = path.read_bytes()
        for end in range(len(data)):
            path.write_bytes(data[:end])
            report = read_report(str(tmp_path))
            assert isinstance(report, Report), data[:end]
            assert report.state == "RUNNING"

    @given(data=st.binary(max_size=60), name=st.sampled_from(["FW_offline.json", "FW_action.json"]))
    def test_garbage(self, data, name, tmp_path_factory):
        directory = tmp_path_factory.mktemp("garbage", numbered=True)
        put(directory, name, data)
        assert isinstance(read_report(str(directory)), NotYet)

    def test_bottomless_nesting(self, tmp_path):
        put(tmp_path, "FW_offline.json", b'{"a":' * 100_000)
        assert isinstance(read_report(str(tmp_path)), NotYet)
        put(tmp_path, "FW_offline.json", b'{"a":' + b"9" * 10_000 + b"}")
        assert isinstance(read_report(str(tmp_path)), NotYet)


class TestFuzz:
    @given(document=JSON | NEARLY)
    def test_parse_report(self, document):
        if not isinstance(document, dict):
            document = {"launch_id": document}
        try:
            report = protocol.parse_report(document)
        except Unreadable:
            return
        self.check(report)
        assert isinstance(report.fw_id, int)
        assert isinstance(report.token, str)

    @settings(deadline=None, max_examples=60)
    @given(offline=NEARLY, final=NEARLY)
    def test_read_report(self, offline, final, tmp_path_factory):
        directory = tmp_path_factory.mktemp("fuzz", numbered=True)
        put(directory, "FW_offline.json", offline)
        put(directory, "FW_action.json", final)
        report = read_report(str(directory))
        if isinstance(report, Report):
            self.check(report)
            if report.final:
                assert (report.fwaction, report.state) in [
                    (whole.get("fwaction"), whole.get("state")) for whole in (offline, final)
                ]

    @staticmethod
    def check(report: Report) -> None:
        assert type(report.launch_id) is int
        assert report.state in protocol.REPORT_STATES
        assert report.final == isinstance(report.fwaction, dict)
        for text in (report.token, report.started_on, report.completed_on, report.host):
            assert text is None or isinstance(text, str)
        assert report.checkpoint is None or isinstance(report.checkpoint, dict)


class TestForeign:
    @pytest.fixture
    def directory(self, tmp_path):
        put(tmp_path, "real.json", ENDED)
        return tmp_path

    def test_a_symlink_is_not_followed(self, directory):
        (directory / "FW_offline.json").symlink_to("real.json")
        assert "symbolic link" in reason(read_report(str(directory))).lower()

    def test_a_fifo_does_not_hang(self, directory):
        os.mkfifo(directory / "FW_offline.json")
        assert "regular file" in reason(read_report(str(directory)))

    def test_a_directory_is_no_file(self, directory):
        (directory / "FW_offline.json").mkdir()
        assert "Is a directory" in reason(read_report(str(directory)))

    def test_size(self, directory):
        (directory / "real.json").rename(directory / "FW_offline.json")
        size = (directory / "FW_offline.json").stat().st_size
        assert isinstance(read_report(str(directory), max_size=size), Report)
        assert "larger than" in reason(read_report(str(directory), max_size=size - 1))

    def test_owner(self, directory):
        (directory / "real.json").rename(directory / "FW_offline.json")
        assert "belongs to user" in reason(read_report(str(directory), owner=os.geteuid() + 1))
        if os.geteuid() == 0:
            os.chown(directory / "FW_offline.json", 12345, -1)
            assert "belongs to user 12345" in reason(read_report(str(directory)))
            assert isinstance(read_report(str(directory), owner=12345), Report)

    def test_another_protocol(self, directory):
        path = put(directory, "entry.json", {**FINAL._asdict(), "protocol": 2})
        assert "protocol 2, not 1" in reason(read_outbox_entry(str(path)))

    @pytest.mark.parametrize("document", [STARTED, ENDED])
    def test_another_protocol_in_the_launch_directory(self, tmp_path, document):
        put(tmp_path, "FW_offline.json", {**document, "fwagent": {"token": "abc", "protocol": 2}})
        final = {**FINAL._asdict(), "protocol": 2, "fwaction": {"new": "shape"}}
        put(tmp_path, "FW_action.json", final)
        told = reason(read_report(str(tmp_path)))
        assert told.startswith(
            "FW_offline.json: written by another fwrunner (protocol 2, not 1): have"
        )

    def test_no_outbox_entry(self, tmp_path):
        assert reason(read_outbox_entry(str(tmp_path / "7.abc.json"))) == "no 7.abc.json"


class TestWrite:
    def test_whatever_the_umask_its_owner_can_read_it(self, tmp_path):
        before = os.umask(0o777)
        try:
            protocol.write_atomic(str(tmp_path / "a.json"), {})
        finally:
            os.umask(before)
        assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o600

    def test_a_symbolic_link_is_named_as_what_is_wrong(self, tmp_path):
        put(tmp_path, "a.json", {})
        (tmp_path / "FW.json").symlink_to("a.json")
        with pytest.raises(protocol.Unreadable, match=r"FW\.json is a symbolic link"):
            protocol.read_json(str(tmp_path / "FW.json"))

    def test_a_report_comes_back(self, tmp_path):
        path = str(tmp_path / "7.abc.json")
        protocol.write_report(path, FINAL)
        assert read_outbox_entry(path) == FINAL
        assert names(tmp_path) == ["7.abc.json"]

    def test_names_of_outbox_entries(self):
        assert protocol.outbox_name(7, "a-b_c", final=True) == "7.a-b_c.json"
        assert protocol.outbox_name(7, "abc", final=False) == "7.abc.started.json"
        for token in ("", "../x", "a/b", "a.b", "-"):
            with pytest.raises(ValueError, match="plain name"):
                protocol.outbox_name(7, token, final=True)

    @pytest.mark.parametrize("bad", [{"a": {1, 2}}, {"a": b""}, {(1,): 1}])
    def test_what_is_no_json_touches_nothing(self, tmp_path, bad):
        path = put(tmp_path, "x.json", {"old": 1})
        with pytest.raises(TypeError):
            protocol.write_atomic(str(path), bad)
        assert json.loads(path.read_text()) == {"old": 1}
        assert names(tmp_path) == ["x.json"]

    def test_a_failed_write_leaves_no_litter(self, tmp_path, monkeypatch):
        path = put(tmp_path, "x.json", {"old": 1})

        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            protocol.write_atomic(str(path), {"new": 1})
        assert json.loads(path.read_text()) == {"old": 1}
        assert names(tmp_path) == ["x.json"]

    def test_relative_paths_and_missing_directories(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        protocol.write_atomic("x.json", {})
        assert protocol.read_json("x.json") == {}
        with pytest.raises(FileNotFoundError):
            protocol.write_atomic(str(tmp_path / "gone" / "x.json"), {})

    def test_killed_at_any_time_it_leaves_a_whole_file(self, tmp_path):
        path = tmp_path / "x.json"
        protocol.write_atomic(str(path), {"n": -1, "pad": ""})
        code = (
            "import sys, itertools; from fwrunner.protocol import write_atomic\n"
            "pad = 'x' * 200000; print('go', flush=True)\n"
            "for n in itertools.count(): write_atomic(sys.argv[1], {'n': n, 'pad': pad})\n"
        )
        for delay in (0.0, 0.003, 0.01, 0.02, 0.04):
            writer = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
            assert writer.stdout is not None
            with writer.stdout:
                writer.stdout.readline()
                until = protocol.utcnow().timestamp() + delay
                while protocol.utcnow().timestamp() < until:
                    assert len(protocol.read_json(str(path))["pad"]) in (0, 200_000)
                writer.send_signal(signal.SIGKILL)
                writer.wait()
            assert len(protocol.read_json(str(path))["pad"]) in (0, 200_000)


def test_times_are_as_fireworks_writes_them():
    before = protocol.utcnow()
    now = datetime.fromisoformat(protocol.timestamp())
    margin = timedelta(microseconds=1)
    assert before - margin <= now <= protocol.utcnow() + margin
    assert protocol.utcnow().tzinfo is not None


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (1767323045.678901, "2026-01-02T03:04:05.678901+00:00"),
        (1767323045.000011, "2026-01-02T03:04:05.000011+00:00"),
        (1767323045.0, "2026-01-02T03:04:05+00:00"),
    ],
)
def test_a_time_of_the_year_round(monkeypatch, now, text):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    clock = SimpleNamespace(time=lambda: now, strftime=time.strftime, gmtime=time.gmtime)
    monkeypatch.setattr(protocol, "time", clock)
    assert protocol.timestamp() == text
