"""`fwagent rerun`, `defuse` and `forget`: whom they choose, when they ask, and what they tell."""

import os
import signal

import pytest
from typer.testing import CliRunner

from agent.cli import commands
from agent.cli.change import _Work


def states(entries):
    return {entry["fw_id"]: entry["state"] for entry in entries}


def test_rerun_takes_those_that_follow_along(site, store):
    first, second = store.add({}, {}, links={1: [2]})
    site.launch_one()
    done = site.json("rerun", "-i", first)
    assert states(done["changed"]) == {first: "READY"}
    assert store.state(second) == "WAITING"


def test_defuse_by_name_and_state(site, store):
    first, second = store.add({}, {})
    done = site.json("defuse", "-n", "fw1", "-s", "ready")
    assert states(done["changed"]) == {first: "DEFUSED"}
    assert store.state(second) == "READY"
    again = site.json("defuse", "-i", first, status=1)
    assert again["skipped"][0]["fw_id"] == first


def test_a_query_is_a_filter(site, store):
    first, _second = store.add({"_priority": 5}, {})
    done = site.run("defuse", "-q", '{"spec._priority": 5}')
    assert done.stdout == f"Firework {first}: DEFUSED\n"


def test_forget(site, store):
    (fw_id,) = store.add({})
    claim = site.launch_one()
    done = site.json("forget", "-i", fw_id)
    assert done == {"forgotten": [{"fw_id": fw_id, "launch_id": claim["launch_id"]}]}
    assert site.json("forget", "-i", fw_id) == {"forgotten": []}
    assert store.state(fw_id) == "RESERVED"


def test_above_ten_it_asks(site, store):
    store.add(*({} for _ in range(11)))
    done = site.run("defuse", "-s", "READY", status=2)
    assert "defuse 11 Fireworks" in done.stderr
    assert "nothing was changed" in done.stderr
    assert len(site.json("defuse", "-s", "READY", "--yes")["changed"]) == 11


def test_a_locked_workflow_is_for_later(site, store, db):
    (fw_id,) = store.add({})
    db.workflows.update_one({"nodes": fw_id}, {"$set": {"locked": True}})
    assert site.json("defuse", "-i", fw_id, status=3)["deferred"][0]["fw_id"] == fw_id


def test_a_firework_that_there_is_not(site, store):
    (fw_id,) = store.add({})
    done = site.run("defuse", "-i", fw_id, "-i", 99, status=1)
    assert done.stdout == f"Firework {fw_id}: DEFUSED\n"
    assert "left alone: Firework 99: " in done.stderr
    assert store.state(fw_id) == "DEFUSED"
    assert "no Firework is selected" in site.run("defuse", "-n", "none", status=1).stderr


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["-s", "DONE"],
        ["-q", "{"],
        ["-q", "[1]"],
        ["-i", "1", "--copy-data"],
        ["-i", "1", "--task-level", "--copy-data", "--previous-dir"],
    ],
)
def test_usage(site, words):
    assert "Traceback" not in site.run("rerun", *words, status=2).stderr


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ('{"$no": 1}', "unknown top level operator: $no"),
        ('{"fw_id": {"$in": 1}}', "$in needs an array"),
        ('{"name": {"$regex": "("}}', "egular expression is invalid"),
        ('{"fw_id": 99999999999999999999}', "8-byte ints"),
    ],
)
def test_a_query_that_is_no_filter_is_the_users(site, query, words):
    told = site.run("forget", "-q", query, status=2).stderr
    assert words in told
    assert "hint:  it is a MongoDB filter" in told


@pytest.mark.parametrize(
    "words", [["rerun", "-i"], ["forget", "-i"], ["explain"], ["runs", "-i"], ["recover", "-i"]]
)
def test_a_number_that_no_database_can_hold(site, words):
    told = site.run(*words, str(1 << 63), status=2).stderr
    assert "is larger than any number of a Firework" in told
    assert "Traceback" not in told


def test_task_level_without_a_checkpoint(site, store):
    (fw_id,) = store.add({})
    site.launch_one()
    done = site.json("rerun", "-i", fw_id, "--task-level", status=1)
    assert done["skipped"][0]["fw_id"] == fw_id


@pytest.mark.parametrize("command", ["rerun", "defuse", "forget"])
def test_ctrl_c_ends_it_after_a_batch_and_tells_what_was_done(
    site, store, db, monkeypatch, command
):
    store.add(*({} for _ in range(12)))
    monkeypatch.setattr("fwcore.launchpad.changes.BATCH", 5)
    monkeypatch.setattr("agent.cli.change._Work.__call__", _interrupted_at_once)
    done = CliRunner().invoke(commands(), [command, "-c", str(site.config), "-s", "READY", "--yes"])
    assert done.exit_code == 1
    assert "stopped: 7 of 12 Fireworks were left as they are" in done.output
    if command == "defuse":
        assert db.fireworks.count_documents({"state": "DEFUSED"}) == 5
        assert done.output.count(": DEFUSED") == 5


_go_on = _Work.__call__


def _interrupted_at_once(work, done):
    os.kill(os.getpid(), signal.SIGINT)
    return _go_on(work, done)
