"""The queues without a scheduler tell of their jobs in the same words."""

import os
from pathlib import Path

import pytest

from agent.config import load_config
from agent.jobs import JobEnd, QueuedJob, QueueSilent, Submission, Submitted
from agent.queue import open_queue
from tests.support.agent import wait_until, write_toml


@pytest.fixture
def opened(tmp_path):
    def open_it(kind):
        tree: dict[str, dict[str, object]] = {
            "launchpad": {"uri": "mongodb://db.example.org/"},
            "worker": {"name": "w"},
            "launch": {"root": str(tmp_path / "root"), "max_running": 3},
            "queue": {"type": kind},
        }
        return open_queue(load_config(write_toml(tmp_path / "config.toml", tree)))

    return open_it


@pytest.fixture
def staged(tmp_path):
    def stage(launch_id, text):
        script = tmp_path / f"l{launch_id}" / "FW_submit.script"
        script.parent.mkdir()
        script.write_text(f"#!/bin/sh\n{text}\n")
        return Submission(launch_id, script, "n")

    return stage


def states(queue):
    return {job.launch_id: job.state for job in queue.listing().values()}


def test_local(opened, staged):
    queue = opened("local")
    scripts = {7: "exit 3", 8: "exec sleep 60", 9: "kill -9 $$", 10: "exec sleep 60", 11: "true"}
    outcomes = list(queue.submit_all([staged(n, text) for n, text in scripts.items()]))
    ids = {outcome.launch_id: outcome.job_id for outcome in outcomes}
    assert ids.keys() == scripts.keys()
    wait_until(lambda: states(queue) == {8: "RUNNING", 10: "RUNNING"})
    assert queue.listing()[ids[8]] == QueuedJob(ids[8], 8, "RUNNING", "RUNNING")
    queue.cancel([ids[8], ids[10], "999"])
    wait_until(lambda: states(queue) == {})
    ends = queue.ends([*ids.values(), "999"])
    assert ends[ids[7]] == JobEnd(ids[7], "FAILED", exit_code=3)
    assert ends[ids[9]] == JobEnd(ids[9], "FAILED", signal=9)
    assert ends[ids[11]] == JobEnd(ids[11], "COMPLETED", exit_code=0)
    assert ends.keys() == set(ids.values())
    assert queue.submitted(os.uname().nodename, [7, 99]) == {7: ids[7]}


def test_local_where_the_disk_is_not_there(opened, tmp_path):
    queue = opened("local")
    spool = next((tmp_path / "root/.fwagent/local").iterdir())
    for place in spool.iterdir():
        if place.is_dir():
            place.rmdir()
    spool.joinpath("pending").touch()
    with pytest.raises(QueueSilent):
        queue.listing()


def test_none(opened, staged):
    queue = opened("none")
    assert not queue.lists
    assert list(queue.submit_all([staged(7, "true")])) == [Submitted(7)]
    with pytest.raises(QueueSilent):
        queue.listing()
    assert queue.ends(["1"]) == {}
    queue.cancel(["1"])


@pytest.mark.parametrize("kind", ["slurm", "pbs", "sge", "lsf"])
def test_a_batch_queue_needs_no_command_to_be_opened(opened, monkeypatch, kind):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert opened(kind).lists
    assert not (Path(os.environ["PATH"])).exists()
