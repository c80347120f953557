"""`fwagent runs` and `status --watch`."""

import json
import signal
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent.runs import moment
from fwrunner.protocol import timestamp, utcnow, write_atomic
from tests.support.agent import FWAGENT, Store

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def runs(site, lp, db):
    """Three launches: one has ended, one runs, one waits."""
    store = Store(lp, db)
    store.add({}, {}, {})
    claims = [site.launch_one() for _ in range(3)]
    site.fwrunner(claims[0]["launch_dir"])
    place = Path(claims[1]["launch_dir"])
    offline = json.loads((place / "FW_offline.json").read_text())
    write_atomic(str(place / "FW_offline.json"), {**offline, "started_on": timestamp()})
    ping = {"ping_time": timestamp(), "host": "n1", "task": 1, "rss": 2_000_000, "cpu": 1.5}
    write_atomic(str(place / "FW_ping.json"), ping)
    site.json("recover")
    return claims


def listed(site, *words):
    return [run["launch_id"] for run in site.json("runs", *words)["runs"]]


def test_what_is_told(site, runs):
    waits, running, ended = site.json("runs")["runs"]
    assert [waits["state"], running["state"], ended["state"]] == [
        "RESERVED",
        "RUNNING",
        "COMPLETED",
    ]
    assert (waits["started"], waits["ping"], waits["ended"]) == (None, None, None)
    assert running["ping"]["host"] == "n1"
    assert running["seen"] is not None
    assert ended["runtime"] >= 0
    assert ended["ended"] >= ended["started"] >= ended["reserved"]
    assert ended["name"] == "fw1"


def test_filters(site, runs):
    ids = [claim["launch_id"] for claim in runs]
    assert listed(site) == ids[::-1]
    assert listed(site, "-l", 1) == ids[2:]
    assert listed(site, "-s", "running", "-s", "COMPLETED") == ids[1::-1]
    assert listed(site, "-i", runs[2]["fw_id"]) == ids[2:]
    assert listed(site, "-n", "fw2") == ids[1:2]
    assert listed(site, "--since", "1h") == ids[::-1]
    assert listed(site, "--since", (utcnow() + timedelta(days=1)).isoformat()) == []
    site.configure(worker={"name": "another"})
    assert listed(site) == []
    assert listed(site, "--any-worker") == ids[::-1]


def test_what_people_see(site, runs):
    lines = site.run("runs").stdout.splitlines()
    assert lines[0].split()[:4] == ["fw_id", "name", "state", "launch"]
    assert "RUNNING" in lines[2]
    assert lines[2].split()[-2:] == ["2", "2"]
    assert all(len(line) <= 100 for line in lines)
    assert site.run("runs", "-n", "none").stdout == "no launch is selected\n"
    assert "write 30m" in site.run("runs", "--since", "soon", status=2).stderr
    assert "there is no state 'GONE'" in site.run("runs", "-s", "GONE", status=2).stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", NOW - timedelta(minutes=30)),
        (" 1.5h ", NOW - timedelta(hours=1.5)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=timezone.utc)),
        ("yesterday", None),
        ("99999999999w", None),
    ],
)
def test_moments(text, expected):
    assert moment(text, NOW) == expected


def test_status_goes_on_until_it_is_interrupted(site):
    command = [*FWAGENT, "--config", str(site.config), "status", "--watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=site.environment) as watching:
        assert watching.stdout is not None
        seen = [json.loads(watching.stdout.readline()) for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0
    assert all(document["database"]["reachable"] for document in seen)


def test_status_goes_on_without_a_terminal_too(site):
    command = [*FWAGENT, "--config", str(site.config), "status", "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=site.environment) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().startswith(b"worker ")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0
