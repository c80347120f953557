"""The metrics file, the Grafana board that shows it, and the heartbeat."""

import json
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from agent.health import Health
from agent.heartbeat import Heartbeat, send
from agent.metrics import Metrics
from agent.results import Result
from tests.support.listener import Listener, listening

BOARD = Path(__file__).parents[2] / "deploy/grafana/fwagent.json"
NOTHING = {"reports": 0, "oldest_seconds": None}


def samples(path):
    families = text_string_to_metric_families(path.read_text(encoding="utf-8"))
    return {
        (
            sample.name,
            *(value for key, value in sorted(sample.labels.items()) if key != "worker"),
        ): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fwagent.prom"


def worked() -> Result:
    return Result(
        applied=[
            {"launch_id": 1, "fw_id": 1, "state": "COMPLETED"},
            {"launch_id": 2, "fw_id": 2, "state": "RUNNING"},
            {"launch_id": 3, "fw_id": 3, "state": "COMPLETED"},
        ],
        submitted=[{"launch_id": 4, "fw_id": 4, "job_id": "9"}],
        lost=[{"launch_id": 5, "fw_id": 5, "job_id": "8", "state": "FIZZLED", "reason": "gone"}],
    )


def test_what_is_counted(path):
    health, metrics = Health("w", host="login1", mode="serving"), Metrics("w", "1.2")
    metrics.add(worked(), {1: 0.3, 3: 70.0})
    metrics.took(0.2)
    for _ in range(3):
        health.passed()
    health.failed("oops")
    health.open_launches, health.deferred, health.locks = 7, 2, [{}]
    health.wish = {"mode": "drain"}
    assert metrics.write(path, health, {"reports": 4, "oldest_seconds": 12.5}, 100.0) == ""
    found = samples(path)
    assert found["fwagent_info", "login1", "1.2"] == 1
    assert found["fwagent_reports_applied_total", "COMPLETED"] == 2
    assert found["fwagent_reports_applied_total", "RUNNING"] == 1
    values = {
        key[0].removeprefix("fwagent_"): value for key, value in found.items() if len(key) == 1
    }
    assert (values["jobs_submitted_total"], values["jobs_lost_total"]) == (1, 1)
    assert (values["passes_total"], values["errors_total"]) == (3, 1)
    assert (values["open_launches"], values["deferred"], values["locked_workflows"]) == (7, 2, 1)
    assert (values["backlog_reports"], values["backlog_oldest_seconds"]) == (4, 12.5)
    assert (values["serving"], values["database_up"]) == (1, 1)
    assert (values["report_latency_seconds_count"], values["pass_duration_seconds_count"]) == (2, 1)
    assert found["fwagent_report_latency_seconds_bucket", "0.5"] == 1
    assert abs(values["last_pass_timestamp_seconds"] - time.time()) < 60
    assert abs(values["start_time_seconds"] - time.time()) < 60
    modes = {key[1]: value for key, value in found.items() if key[0] == "fwagent_mode"}
    assert modes == {"run": 0, "drain": 1, "pause": 0}

    health.database_down()
    health.passes += 2
    assert metrics.write(path, health, NOTHING, 105.0) == ""
    assert samples(path) == found, "it is rewritten now and then only"
    metrics.write(path, health, NOTHING, 106.0, last=True)
    again = samples(path)
    assert (again["fwagent_passes_total",], again["fwagent_database_up",]) == (5, 0)
    assert again["fwagent_backlog_oldest_seconds",] == 0


def test_the_collector_of_another_user_reads_it_whole_or_not_at_all(path, tmp_path):
    import os

    before = os.umask(0o077)
    try:
        assert Metrics("w", "1").write(path, Health("w"), NOTHING, 0.0) == ""
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_told_and_ends_nothing(tmp_path):
    path = tmp_path / "gone" / "fwagent.prom"
    told = Metrics("w", "1").write(path, Health("w"), NOTHING, 0.0)
    assert told == "the metrics file cannot be written: No such file or directory"


def test_the_board_shows_metrics_that_there_are_and_all_of_them(path):
    metrics = Metrics("w", "1")
    metrics.add(worked(), {1: 1.0})
    metrics.took(1.0)
    metrics.write(path, Health("w"), NOTHING, 0.0)
    text = path.read_text(encoding="utf-8")
    there = set(re.findall(r"^(fwagent_\w+)", text, re.MULTILINE))
    families = set(re.findall(r"^# TYPE (fwagent_\w+) ", text, re.MULTILINE))
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    shown = {name for expression in asked for name in re.findall(r"fwagent_\w+", expression)}
    assert shown <= there
    assert {re.sub(r"_bucket$", "", name) for name in shown} == families
    assert all('{worker=~"$worker"}' in expression for expression in asked)


def test_the_panels_of_the_board_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    panels = json.loads(BOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells


# ------------------------------------------------------------------------------------ the heartbeat


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as server:
        yield server


def test_a_heartbeat_is_sent_at_most_once_an_interval_and_no_pass_waits(listener):
    heartbeat = Heartbeat()
    listener.go.clear()
    begin = time.monotonic()
    heartbeat.beat(listener.url, 60, 1000.0)
    heartbeat.beat(listener.url, 60, 1061.0)
    assert time.monotonic() - begin < 5, "nobody has answered yet"
    listener.go.set()
    ended(heartbeat)
    heartbeat.beat(listener.url, 60, 1059.0)
    ended(heartbeat)
    assert listener.asked == ["/ping/t0ken"]
    heartbeat.beat(listener.url, 60, 1060.0)
    ended(heartbeat)
    assert listener.asked == ["/ping/t0ken"] * 2


def ended(heartbeat: Heartbeat) -> None:
    assert heartbeat._thread is not None
    heartbeat._thread.join(10)


def test_a_heartbeat_that_is_not_taken_is_told_once_and_so_is_the_recovery(listener):
    heartbeat = Heartbeat()
    with capture_logs() as log:
        for now, status in enumerate((500, 500, 200, 200, 200)):
            listener.status = status
            heartbeat.beat(listener.url, 1, float(now))
            ended(heartbeat)
    assert log == [
        {
            "event": "the heartbeat is not taken",
            "reason": "HTTP status 500",
            "log_level": "warning",
        },
        {"event": "the heartbeat is taken again", "after": "HTTP status 500", "log_level": "info"},
    ]


@contextmanager
def silent() -> Iterator[str]:
    with Listener() as server:  # nobody serves
        yield server.url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1/s3cr3t", "Connection refused"),
        ("http://127.0.0.1:1/s3cr3t space\n", "InvalidURL"),
        ("http://s3cr3t.invalid./x", ""),
        ("http://[s3cr3t/x", "ValueError"),
        ("http://127.0.0.1:s3cr3t/x", "InvalidURL"),
    ],
)
def test_no_part_of_the_url_is_told(url, reason):
    told = send(url)
    assert told
    assert "s3cr3t" not in told
    assert reason in told


def test_a_listener_that_hangs_is_given_up():
    with silent() as url:
        assert send(url, timeout=0.2) in ("timed out", "TimeoutError")
