"""What `fwagent status` tells, from a status file, a lease and a database that may be down."""

import json
import os
import shutil
import socket
import time
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone

import pytest

from agent.config import Config, load_config
from agent.health import Health, StatusFile, counted, past_hour, read_status, this_minute
from agent.results import Result
from agent.status import collect, lines
from fwcore.errors import DatabaseUnreachable
from fwcore.launchpad.records import Lease, OpenLaunch, Refusal, Wish
from fwcore.plan import Outcome
from fwrunner.protocol import timestamp
from tests.support.agent import write_toml

SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
DEAD = 2**22  # above any process id


class FakeLaunchPad:
    where = "db:27017/fw"

    def __init__(self):
        self.down = False
        self.held = None
        self.asked = Wish()
        self.locked = []
        self.put_aside = []
        self.closed = False
        self.open = [OpenLaunch(n, n + 10, "/gone", "RESERVED", "w") for n in (1, 2, 3)]

    def _answer(self, value):
        if self.down:
            raise DatabaseUnreachable(
                "the database at db:27017/fw does not answer: refused", "is the tunnel up?"
            )
        return value

    def lease(self, worker):
        return self._answer(self.held)

    def wish(self, worker):
        return self._answer(self.asked)

    def counts(self):
        return self._answer({"READY": 3, "COMPLETED": 12, "FIZZLED": 1})

    def open_launches(self, worker):
        return self._answer(self.open)

    def stray_count(self, worker):
        return {"RESERVED": 0, "RUNNING": 0}

    def active_count(self, worker):
        return self._answer({"RESERVED": 2, "RUNNING": 1})

    def locks(self, fw_ids=None, is_gone=None):
        return self._answer(self.locked)

    def refused(self, newest):
        return self._answer((len(self.put_aside), self.put_aside[:newest]))

    def close(self):
        self.closed = True


@pytest.fixture
def launchpad(monkeypatch):
    launchpad = FakeLaunchPad()
    monkeypatch.setattr(Config, "connect", lambda _self, **_options: launchpad)
    return launchpad


@pytest.fixture
def config(tmp_path):
    tree = {"worker": {"name": "w"}, "launch": {"root": str(tmp_path / "root")}}
    return load_config(write_toml(tmp_path / "config.toml", tree))


def own(config):
    return config.own(FakeLaunchPad.where)


def tell(config, **fields):
    """Leave a status file behind, as an agent does."""
    own(config).mkdir(parents=True, exist_ok=True)
    health = Health("w", mode="serving")
    for name, value in fields.items():
        setattr(health, name, value)
    StatusFile().write(own(config), health, 0.0)
    return health


def lease(*, live=True, host="login2"):
    return Lease("w", "owner", host, 77, 3, SINCE, SINCE), live


# ------------------------------------------------------------------------------------ the document


def test_nothing_has_ever_run(config, launchpad):
    document = collect(config)
    assert document.pop("on") <= timestamp()
    assert document == {
        "worker": "w",
        "agent": {
            "state": "down",
            "host": None,
            "pid": None,
            "since": None,
            "last_pass": None,
            "mode": None,
            "wish": {"mode": "run", "by": None, "on": None, "followed": None},
        },
        "database": {
            "where": "db:27017/fw",
            "reachable": True,
            "error": None,
            "hint": None,
            "down_since": None,
        },
        "fireworks": {"READY": 3, "COMPLETED": 12, "FIZZLED": 1},
        "launches": {"open": 3, "RESERVED": 2, "RUNNING": 1},
        "running": [],
        "root": {"path": str(config.launch.root), "there": False},
        "backlog": {"reports": 0, "oldest_seconds": None, "applying": None},
        "events": {"kind": None, "watched": 0, "trouble": None},
        "queue": {"type": "slurm", "silent_since": None, "reason": None},
        "lost": [],
        "locks": [],
        "refused": {"count": 0, "newest": []},
        "deferred": [],
        "rates": {"applied": 0, "submitted": 0, "latency": None},
        "counts": {"passes": 0, "applied": 0, "submitted": 0, "deferred": 0},
        "last_error": {"title": None, "hint": None, "on": None, "over_on": None},
    }
    assert launchpad.closed


def test_the_lease_tells_who_serves_wherever_it_runs(config, launchpad):
    launchpad.held = lease()
    agent = collect(config)["agent"]
    assert (agent["state"], agent["host"], agent["pid"]) == ("running", "login2", 77)
    assert agent["since"] == "2026-01-02T03:04:05+00:00"


DRAINED = Wish("drain", "me@login1", SINCE, 4)


@pytest.mark.parametrize(
    ("followed", "words"), [(4, ""), (3, " (asked; the agent has not answered yet)")]
)
def test_what_people_have_asked_of_the_agent(config, launchpad, followed, words):
    held, live = lease()
    launchpad.held = replace(held, wish=DRAINED, followed=followed), live
    document = collect(config)
    assert document["agent"]["wish"] == {
        "mode": "drain", "by": "me@login1", "on": SINCE.isoformat(), "followed": followed == 4,
    }  # fmt: skip
    (line,) = [line for line in lines(document) if line.startswith("mode")]
    assert line == f"mode       drained since 2026-01-02 03:04:05 by me@login1{words}"


def test_what_was_asked_before_any_agent_ran_and_while_the_database_is_down(config, launchpad):
    launchpad.asked = DRAINED
    assert collect(config)["agent"]["wish"]["followed"] is None
    assert any("drained since" in line for line in lines(collect(config)))
    tell(config, wish={"mode": "pause", "by": "you@login2", "on": None, "followed": True})
    launchpad.down = True
    assert any("paused by you@login2" in line for line in lines(collect(config)))


def test_an_agent_that_was_killed_is_not_running(config, launchpad, monkeypatch):
    launchpad.held = lease(live=True)
    monkeypatch.setattr("agent.status.is_gone", lambda host, pid: (host, pid) == ("login2", 77))
    document = collect(config)
    assert document["agent"]["state"] == "gone"
    assert (
        "agent      process 77 on login2 was killed; its lease ends within a minute"
        in lines(document)[1]
    )


def test_a_lease_that_is_over_tells_nothing(config, launchpad):
    launchpad.held = lease(live=False)
    assert collect(config)["agent"]["state"] == "down"


def test_a_running_process_without_a_lease_is_not_serving_yet(config, launchpad):
    tell(config, mode="starting")
    assert collect(config)["agent"]["state"] == "waking"


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "running"),
        ({"mode": "stopped"}, "down"),
        ({"pid": DEAD}, "down"),
        ({"host": "another"}, "unknown"),
        ({"host": "another", "mode": "stopped"}, "down"),
    ],
)
def test_with_the_database_down_the_status_file_tells(config, launchpad, fields, state):
    tell(config, **fields)
    launchpad.down = True
    assert collect(config)["agent"]["state"] == state


def test_a_database_that_is_down_is_told_and_raises_nothing(config, launchpad):
    tell(config, database_down_since="2026-01-01T00:00:00+00:00", applied=5, passes=9)
    launchpad.down = True
    document = collect(config)
    assert document["database"] == {
        "where": "db:27017/fw",
        "reachable": False,
        "error": "the database at db:27017/fw does not answer: refused",
        "hint": "is the tunnel up?",
        "down_since": "2026-01-01T00:00:00+00:00",
    }
    assert document["fireworks"] is None
    assert document["launches"] is None
    assert document["counts"]["applied"] == 5
    assert launchpad.closed


def test_the_backlog_is_what_lies_in_the_outbox(config, launchpad):
    outbox = config.private / "outbox"
    outbox.mkdir(parents=True)
    for name, age in (("1.a.json", 100), ("2.b.json", 10), (".3.c.json", 500), ("junk", 900)):
        (outbox / name).touch()
        os.utime(outbox / name, (time.time() - age,) * 2)
    backlog = collect(config)["backlog"]
    assert backlog["reports"] == 2
    assert 100 <= backlog["oldest_seconds"] < 110


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"pid": "x", "host": 5}',
        '{"last_pass": 5, "last_latency": "x", "recent": [[1], 2, ["a", "b", "c"]]}',
        '{"last_error": "a", "last_error_on": 7, "recent": {}, "database_down_since": 9}',
    ],
)
def test_a_status_file_that_is_broken_is_none(config, launchpad, text):
    own(config).mkdir(parents=True)
    (own(config) / "status.json").write_text(text, encoding="utf-8")
    for launchpad.down in (False, True):
        document = collect(config)
        assert document["agent"]["state"] in ("down", "unknown")
        assert lines(document)


def running(launchpad, tmp_path, *pings):
    """Have launches run, with these pings in their directories."""
    launchpad.open = []
    for number, ping in enumerate(pings, 1):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "FW_ping.json").write_text(json.dumps(ping))
        launchpad.open.append(OpenLaunch(number, number + 10, str(place), "RUNNING", "w"))


PING = {
    "ping_time": "2026-01-02T03:04:05.678+00:00",
    "host": "n17",
    "pid": 5,
    "job_id": "4711",
    "task": 2,
}


def test_running_jobs_tell_of_themselves(config, launchpad, tmp_path):
    running(launchpad, tmp_path, PING | {"rss": 1_234_000_000, "cpu": 93.4, "more": 1}, ["torn"])
    launchpad.open[1:1] = [OpenLaunch(3, 13, "/gone", "RESERVED", "w")]
    document = collect(config)
    silent = dict.fromkeys(("ping_time", "host", "pid", "job_id", "task", "rss", "cpu"))
    assert document["running"] == [
        {"launch_id": 2, "fw_id": 12, "launch_dir": str(tmp_path / "2"), **silent},
        {"launch_id": 1, "fw_id": 11, "launch_dir": str(tmp_path / "1"), **PING}
        | {"rss": 1_234_000_000, "cpu": 93.4},
    ]
    assert lines(document)[5:7] == [
        "running    Firework 12: no ping yet",
        "running    Firework 11: task 3, on n17, job 4711, 1234 MB, 93 s of CPU, seen 2026-01-02 03:04:05",
    ]
    launchpad.down = True
    assert collect(config)["running"] is None


def test_of_many_running_jobs_the_newest_are_asked(config, launchpad, tmp_path):
    running(launchpad, tmp_path, *[PING] * 30)
    document = collect(config) | {"launches": {"open": 30, "RESERVED": 0, "RUNNING": 30}}
    assert [told["launch_id"] for told in document["running"]] == [*range(30, 10, -1)]
    assert [line[:21] for line in lines(document)[5:11]] == [
        *(f"running    Firework {n}"[:21] for n in (40, 39, 38, 37, 36)),
        "           ... and 25",
    ]


def test_what_a_job_writes_into_its_ping_is_not_trusted(config, launchpad, tmp_path):
    bad = {
        "host": "a\x1b[2J" + "b" * 999,
        "task": True,
        "rss": "7",
        "cpu": float("nan"),
        "ping_time": 5,
    }
    running(launchpad, tmp_path, bad | {"job_id": None, "pid": -1})
    document = collect(config)
    assert {key for key, value in document["running"][0].items() if value is not None} == {
        "launch_id", "fw_id", "launch_dir", "host",
    }  # fmt: skip
    assert lines(document)[5].startswith("running    Firework 11: on a?[2Jbb")


# ------------------------------------------------------------------------------------- for people


def test_for_people(config, launchpad):
    launchpad.held = lease()
    now = datetime.now(timezone.utc)
    tell(
        config,
        last_pass=(now - timedelta(hours=3)).isoformat(),
        last_latency=0.34,
        recent=[[this_minute() - 5, 12, 3]],
    )
    assert lines(collect(config)) == [
        "worker     w",
        "agent      running on login2, process 77, since 2026-01-02 03:04:05",
        "last pass  3h ago; past hour: 12 reports applied (the last took 0.3 s), 3 jobs submitted",
        "database   db:27017/fw: answers",
        "fireworks  1 FIZZLED, 3 READY, 12 COMPLETED",
        "launches   2 in the queue, 1 running, 3 may still report",
        "queue      slurm: answers",
        "backlog    none",
    ]


def test_nothing_of_the_past_hour_is_told_of_a_day_ago(config, launchpad):
    tell(config, last_pass="2026-01-02T03:04:05+00:00", recent=[[this_minute() - 60, 12, 3]])
    assert collect(config)["rates"]["applied"] == 0
    assert "past hour: 0 reports applied, 0 jobs submitted" in "\n".join(lines(collect(config)))


def test_a_silent_queue_and_jobs_that_are_lost(config, launchpad):
    own(config).mkdir(parents=True)
    told = {
        str(n): {"launch_id": n, "fw_id": n, "job_id": "1", "reason": "TIMEOUT", "on": f"2026-0{n}"}
        for n in range(1, 8)
    }
    notes = {
        "silent": {"since": "2026-01-02T03:04:05.6+00:00", "reason": "no squeue"},
        "told": told,
    }
    (own(config) / "reconcile.json").write_text(json.dumps(notes), encoding="utf-8")
    document = collect(config)
    assert document["queue"] == {
        "type": "slurm",
        "silent_since": "2026-01-02T03:04:05.6+00:00",
        "reason": "no squeue",
    }
    assert [entry["launch_id"] for entry in document["lost"]] == [7, 6, 5, 4, 3, 2, 1]
    told_to_people = "\n".join(lines(document))
    assert (
        "queue      slurm: does not answer since 2026-01-02 03:04:05: no squeue\n" in told_to_people
    )
    assert "lost       launch 7 of Firework 7: TIMEOUT\n" in told_to_people
    assert "           ... and 2 more (--json shows all)" in told_to_people


@pytest.mark.parametrize("text", ["{", "[]", '{"told": 3, "silent": "x"}', '{"told": {"1": 2}}'])
def test_broken_notes_on_the_queue_tell_nothing(config, launchpad, text):
    own(config).mkdir(parents=True)
    (own(config) / "reconcile.json").write_text(text, encoding="utf-8")
    document = collect(config)
    assert (document["queue"]["silent_since"], document["lost"]) == (None, [])


def test_what_the_database_has_refused_is_counted_and_the_newest_is_named(config, launchpad):
    reason = "Resulting document\nis too large"
    launchpad.put_aside = [Refusal("fireworks", str(n), reason, SINCE) for n in range(7)]
    document = collect(config)
    assert document["refused"]["count"] == 7
    assert len(document["refused"]["newest"]) == 5
    assert document["refused"]["newest"][0] == {
        "collection": "fireworks",
        "id": "0",
        "reason": reason,
        "on": "2026-01-02T03:04:05+00:00",
    }
    told = lines(document)
    assert "refused    7 writes that the database will never take; the newest:" in told
    assert "           fireworks 0: Resulting document is too large" in told
    launchpad.down = True
    assert collect(config)["refused"] is None


def test_what_waits_is_told_with_its_reason(config, launchpad):
    rows = [{"launch_id": n, "fw_id": 10 + n, "reason": f"why\n{n}"} for n in range(1, 6)]
    rows.append({"launch_id": None, "fw_id": 9, "reason": "Firework 9 cannot be launched: no"})
    tell(config, deferred=7, deferrals=rows)
    document = collect(config)
    assert document["deferred"] == rows
    told = lines(document)
    begin = told.index("deferred   7, tried again and again:")
    assert told[begin + 1 : begin + 5] == [
        "           launch 4: why 4",
        "           launch 5: why 5",
        "           Firework 9 cannot be launched: no",
        "           ... and 4 more (--json shows up to 50)",
    ]


@pytest.mark.parametrize("junk", ["x", [1, {"reason": 3}], {"a": 1}])
def test_what_waits_is_read_from_any_file(config, launchpad, junk):
    tell(config, deferred=1, deferrals=junk)
    assert all(isinstance(row, dict) for row in collect(config)["deferred"])
    lines(collect(config))


def test_a_sync_from_cron_is_what_serves(config, launchpad):
    before = tell(config, recent=[[this_minute() - 3, 2, 0]])
    health = Health("w")
    health.follow(read_status(own(config)))
    result = Result(applied=[{"launch_id": 1, "fw_id": 2, "state": "COMPLETED"}])
    result.defer(None, 9, "no")
    health.synced(result, open_launches=4)
    StatusFile().write(own(config), health, 0.0)
    document = collect(config)
    assert document["rates"]["applied"] == 3
    assert document["counts"]["deferred"] == 1
    assert document["agent"]["state"] == "down"
    told = lines(document)
    assert told[1] == f"agent      not running; `fwagent sync` last ran on {before.host}"
    assert told[2].startswith("last pass  0s ago; past hour: 3 reports applied")


def test_the_past_hour_of_another_worker_is_not_ours(config):
    tell(config, recent=[[this_minute(), 2, 0]])
    health = Health("other")
    health.follow(read_status(own(config)))
    assert health.recent == []


def test_a_launch_root_that_is_away_is_told_while_an_agent_serves(config, launchpad):
    tell(config)
    assert not any(line.startswith("root ") for line in lines(collect(config)))
    shutil.rmtree(config.launch.root)
    assert not any(line.startswith("root ") for line in lines(collect(config)))
    launchpad.held = lease()
    told = lines(collect(config))
    assert any(line.startswith(f"root       {config.launch.root} is not there") for line in told)


def test_for_people_when_all_is_down(config, launchpad):
    tell(
        config,
        mode="stopped",
        database_down_since="2026-01-01T00:00:00+00:00",
        last_error="the disk is full",
        last_hint="remove what is old",
        last_error_on=(datetime.now(timezone.utc) - timedelta(days=3)).isoformat(),
    )
    launchpad.down = True
    host = socket.gethostname()
    assert lines(collect(config)) == [
        "worker     w",
        f"agent      not running; it last ran on {host}. Start it: fwagent service install, run, or sync by cron",
        "database   db:27017/fw: does not answer since 2026-01-01 00:00:00",
        "           refused",
        "           -> is the tunnel up?",
        "           nothing is lost: reports stay in the launch directories until it does",
        "queue      slurm",
        "backlog    none",
        "last error 3d ago: the disk is full",
        "           -> remove what is old",
    ]


@pytest.mark.parametrize(("hours", "words"), [(1, "`fwagent sync` last ran on"), (7, "Start it")])
def test_a_sync_of_long_ago_serves_nobody(config, launchpad, hours, words):
    then = datetime.now(timezone.utc) - timedelta(hours=hours)
    tell(config, mode="sync", last_pass=then.isoformat())
    assert words in lines(collect(config))[1]


def test_an_error_that_is_over_says_so_and_asks_for_nothing(config, launchpad):
    health = Health("w")
    health.failed("no room", "make some")
    health.recovered("another")
    assert health.last_error_over_on is None
    health.recovered("no room")
    tell(config, **{key: value for key, value in asdict(health).items() if key.startswith("last_")})
    told = "\n".join(lines(collect(config)))
    assert "last error 0s ago, over since 0s: no room" in told
    assert "make some" not in told
    health.failed("no room", "make some")
    assert health.last_error_over_on is None


def test_a_database_that_is_down_is_told_of_once(config, launchpad):
    tell(config, last_error="the database at db:27017/fw does not answer: refused")
    assert lines(collect(config))[-1].startswith("last error")
    launchpad.down = True
    assert "last error" not in "\n".join(lines(collect(config)))


def test_lines_fit_into_100_columns(config, launchpad):
    tell(config, last_error="a word " * 20, last_hint="x" * 999, last_error_on="\x1b[2J")
    told = lines(collect(config))
    assert max(map(len, told)) == 100
    assert max(map(len, lines(collect(config), 70))) == 70
    assert told[-1] == "           ..."
    assert all(line.isprintable() for line in told)


# -------------------------------------------------------------------------------- the status file


def test_since_when_the_database_is_down_is_kept_until_it_answers():
    health = Health("w")
    health.database_down()
    since = health.database_down_since
    assert since is not None
    health.database_down()
    assert health.database_down_since is since
    health.passed()
    assert asdict(health)["database_down_since"] is None
    health.database_down()
    assert health.database_down_since != since


def test_counts_add_up():
    health = Health("w")
    result = Result()
    result.applied = [{}, {}]
    result.submitted = [{}]
    health.add(result, 0.5, open_launches=4)
    health.add(Result(applied=[{}]), None, open_launches=3)
    assert (health.applied, health.submitted, health.open_launches) == (3, 1, 3)
    assert health.last_latency == 0.5
    assert past_hour(health.recent, this_minute()) == (3, 1)


def test_what_was_done_is_counted_by_the_minute_for_an_hour():
    recent = counted([], 1000, 2, 0)
    recent = counted(recent, 1000, 3, 1)
    assert recent == [[1000, 5, 1]]
    assert counted(recent, 1030, 0, 0) is recent
    recent = counted(recent, 1059, 0, 7)
    assert past_hour(recent, 1059) == (5, 8)
    assert past_hour(recent, 1060) == (0, 7)
    assert counted(recent, 1060, 1, 0) == [[1059, 0, 7], [1060, 1, 0]]


def test_the_file_is_written_for_news_and_else_now_and_then(tmp_path):
    health, status_file = Health("w"), StatusFile()
    path = tmp_path / "status.json"

    def written(now):
        path.unlink(missing_ok=True)
        status_file.write(tmp_path, health, now)
        return path.exists()

    assert written(0)
    health.passed()
    assert not written(1)
    assert not written(9)
    assert written(11)
    health.failed("trouble")
    assert written(12)
    assert (read_status(tmp_path) or {})["last_error"] == "trouble"


def test_a_full_disk_does_not_stop_the_agent(tmp_path):
    health = Health("w")
    StatusFile().write(tmp_path / "none" / "w", health, 0)
    assert health.last_error is not None
    assert "the status file cannot be written: No such file" in health.last_error


def test_an_outcome_with_no_news_counts_as_nothing():
    from fwcore.launchpad.records import Applied

    result = Result()
    result.take(Applied(known=[Outcome(1, 2, "RUNNING")]))
    health = Health("w")
    health.add(result, None, open_launches=1)
    assert health.applied == 0


def test_what_events_tell_and_how_far_a_backlog_is_applied(config, launchpad):
    tell(
        config,
        events="nfs4 tells nothing of other hosts",
        watched=3,
        watch_trouble="no watch is left",
        backlog={"done": 500, "total": 5000},
    )
    text = "\n".join(lines(collect(config)))
    assert "events     nfs4 tells nothing of other hosts; 3 launch directories are watched" in text
    assert "           no watch is left" in text
    assert "none; 500 of 5000 are applied" in text
