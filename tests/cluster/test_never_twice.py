"""The way out on real Slurm, cut by SIGKILL, refused or unanswered: each Firework is in the queue exactly once."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agent.config import load_config
from agent.lease import is_gone
from agent.loop import make_parts
from agent.queue import batch
from agent.results import Result
from tests.support.agent import wait_until, write_toml
from tests.support.fireworks import REPOSITORY

COUNT = 3

# Launches, and kills itself: when it would open the offline runs, when the first submit has begun, or when it would
# record the jobs.
VICTIM = """
import json, os, signal, sys, threading
from pathlib import Path
import pymongo.monitoring
job = json.loads(sys.argv[1])

class Killer(pymongo.monitoring.CommandListener):
    def started(self, event):
        if job["words"] and job["words"] in str(event.command):
            os.kill(os.getpid(), signal.SIGKILL)
    def failed(self, event):
        pass
    def succeeded(self, event):
        pass

def await_submit():
    while not Path(job["begun"]).exists():
        threading.Event().wait(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

if job["begun"]:
    threading.Thread(target=await_submit, daemon=True).start()
pymongo.monitoring.register(Killer())
from agent.config import load_config
from agent.loop import make_parts
from agent.results import Result

parts = make_parts(load_config(Path(job["config"])))
parts.way_out.launch(10, Result())
"""

# Takes its time on the way to the scheduler.
SLOW_SBATCH = """\
#!/bin/sh
touch "$BEGUN"
while [ ! -e "$GO" ]; do sleep 0.02; done
exec {sbatch} "$@"
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(batch, "SETTLE_SECONDS", 0.2)


@pytest.fixture
def config(tmp_path, db_uri, db_name, slurm):
    return write_toml(
        tmp_path / "config.toml",
        {
            "launchpad": {"uri": db_uri, "name": db_name},
            "worker": {"name": "w"},
            "launch": {"root": str(tmp_path / "root")},
            "queue": {
                "type": "slurm",
                # As on a compute node: nothing but its own files.
                "runner": f"unshare -n {sys.executable} -m fwrunner",
                "options": {"pre_rocket": f"export PYTHONPATH={REPOSITORY}", "walltime": "5"},
                "timeout": 20,
            },
        },
    )


@pytest.fixture
def ran(tmp_path):
    return tmp_path / "ran.txt"


@pytest.fixture
def open_parts(config):
    made = []

    def open_them(**queue):
        settings = load_config(config)
        changed = settings.queue.model_copy(update=queue)
        made.append(make_parts(settings.model_copy(update={"queue": changed})))
        return made[-1]

    yield open_them
    for parts in made:
        parts.launchpad.close()


@pytest.fixture
def parts(open_parts, ran):
    """An agent, and Fireworks that tell which job they ran in."""
    parts = open_parts()
    parts.launchpad.initialize()
    # Two lines of header, and lo.
    offline = "test $(wc -l < /proc/net/dev) -eq 3"
    tasks = [{"_fw_name": "ScriptTask", "script": f"{offline} && echo $SLURM_JOB_ID >> {ran}"}]
    fws = [{"fw_id": -n, "name": f"n{n}", "spec": {"_tasks": tasks}} for n in range(1, COUNT + 1)]
    parts.launchpad.add({"fws": fws, "links": {}})
    return parts


def victim(config, words="", **environment):
    job = json.dumps({"config": str(config), "words": words, "begun": environment.get("BEGUN")})
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, job],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done


def finish(parts, ran, count=COUNT):
    """Do what an agent does, until all is done; each Firework must have had one job."""

    def whole():
        result = Result()
        parts.launchpad.resume(is_gone)
        parts.way_back.recover(parts.way_back.places("w"), result)
        parts.way_out.launch(parts.way_out.capacity(), result)
        counts = parts.launchpad.counts()
        assert "FIZZLED" not in counts
        return counts == {"COMPLETED": count}

    wait_until(whole, 30)
    jobs = Counter(ran.read_text().split())
    assert len(jobs) == count
    assert set(jobs.values()) == {1}


def jobs_of(parts):
    return {job.launch_id: job_id for job_id, job in parts.queue.listing().items() if job.launch_id}


def recorded(mongo_client, db_name):
    launches = mongo_client[db_name].launches.find()
    return {
        launch["launch_id"]: launch["state_history"][0].get("reservation_id") for launch in launches
    }


def test_without_a_network(parts, ran, mongo_client, db_name):
    finish(parts, ran)
    assert recorded(mongo_client, db_name) == jobs_of(parts)


def test_killed_before_the_jobs_are_recorded(parts, config, ran, mongo_client, db_name, slurm):
    """They are adopted by their tags, whether they still wait, run, or have ended."""
    slurm.run("scontrol", "update", "partition=main", "state=down")
    try:
        victim(config, "state_history.$.reservation_id")
        assert parts.launchpad.counts() == {"RESERVED": COUNT}
        assert set(recorded(mongo_client, db_name).values()) == {None}
        parts.launchpad.resume(is_gone)
        assert recorded(mongo_client, db_name) == jobs_of(parts)
        assert len(jobs_of(parts)) == COUNT
    finally:
        slurm.run("scontrol", "update", "partition=main", "state=up")
    finish(parts, ran)


def test_killed_while_the_jobs_are_submitted(parts, config, ran, tmp_path):
    """The submit command outlives the agent, and comes to the scheduler after the next one has looked."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(SLOW_SBATCH.format(sbatch=shutil.which("sbatch")))
    sbatch.chmod(0o755)
    go, begun = tmp_path / "go", tmp_path / "begun"
    path = f"{sbatch.parent}:{os.environ['PATH']}"
    victim(config, PATH=path, BEGUN=str(begun), GO=str(go))

    parts.launchpad.resume(is_gone)
    assert parts.launchpad.counts() == {"RESERVED": COUNT}
    go.touch()
    wait_until(lambda: len(jobs_of(parts)) >= 1)
    finish(parts, ran)


def test_killed_before_anything_is_submitted(parts, config, ran):
    """Nothing is in the queue, and it says so twice: they are READY again."""
    victim(config, "offline_runs")
    assert parts.launchpad.counts() == {"RESERVED": COUNT}
    parts.launchpad.resume(is_gone)
    assert parts.launchpad.counts() == {"READY": COUNT}
    finish(parts, ran)


def test_no_answer_when_submitting(parts, open_parts, slurm, monkeypatch):
    """What the queue says later counts: here that it has never heard of them."""
    monkeypatch.setattr(batch, "DOUBT_SECONDS", 0.0)
    hasty = open_parts(timeout=1)
    slurm.stop_controller()
    try:
        result = Result()
        hasty.way_out.launch(10, result)
        assert len(result.deferred) == COUNT
        assert result.submitted == []
        assert hasty.launchpad.counts()["RESERVED"] >= 1
        hasty.launchpad.resume(is_gone)
        assert hasty.launchpad.counts()["RESERVED"] >= 1
        # Others go on meanwhile.
        assert hasty.launchpad.add({"name": "x", "spec": {"_tasks": []}})
        hasty.launchpad.defuse([COUNT + 1])
    finally:
        slurm.start_controller()
        slurm.await_nodes()
    hasty.launchpad.resume(is_gone)
    assert hasty.launchpad.counts() == {"READY": COUNT, "DEFUSED": 1}


def test_refused_three_times(parts, open_parts, config, mongo_client, db_name):
    """The third time the Firework FIZZLES, in the words of the scheduler."""
    wrong = open_parts(options={"queue": "nowhere"})
    for _attempt in range(2):
        result = Result()
        wrong.way_out.launch(10, result)
        assert len(result.deferred) == COUNT
        assert wrong.launchpad.counts() == {"READY": COUNT}
    result = Result()
    wrong.way_out.launch(10, result)
    assert wrong.launchpad.counts() == {"FIZZLED": COUNT}
    assert {entry["state"] for entry in result.applied} == {"FIZZLED"}
    database = mongo_client[db_name]
    for launch in database.launches.find({"state": "FIZZLED"}):
        message = launch["action"]["stored_data"]["_message"]
        assert "refused 3 times" in message
        assert "invalid partition specified: nowhere" in message
    assert database.fwagent_trouble.count_documents({"rejected": {"$exists": True}}) == 0
    assert database.fwagent_journal.count_documents({"void": {"$exists": False}}) == 0


def test_an_array_is_one_sbatch(open_parts, parts, ran, config, mongo_client, db_name):
    arrays = open_parts(array=True)
    finish(arrays, ran)
    ids = set(recorded(mongo_client, db_name).values())
    assert {job_id.partition("_")[0] for job_id in ids if "_" in job_id}
    assert len({job_id.partition("_")[0] for job_id in ids}) == 1
    places = Path(load_config(config).launch.root).glob("block_*/launcher_*/FW_job.out")
    assert len(list(places)) == COUNT
