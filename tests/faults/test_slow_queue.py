"""The scheduler takes its time, or never answers: what comes back does not wait for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.agent import Site, wait_until
from tests.support.fireworks import REPOSITORY

# Each waits for as long as there is a file named after it. What sbatch has taken is in jobs, by its id.
COMMANDS = {
    "sbatch": """\
while [ -e "$FAKE/hold-sbatch" ]; do touch "$FAKE/in-sbatch"; sleep 0.02; done
for word; do case $word in --comment=*) tag=${word#--comment=} ;; esac; done
number=100
until mkdir "$FAKE/taken-$number" 2>/dev/null; do number=$((number + 1)); done
echo "$tag" > "$FAKE/jobs/$number"
echo "Submitted batch job $number"
""",
    "squeue": """\
while [ -e "$FAKE/hold-squeue" ]; do touch "$FAKE/in-squeue"; sleep 0.02; done
echo "fwagent|JOBID|ST|REASON|COMMENT"
for job in "$FAKE"/jobs/*; do test -e "$job" && echo "fwagent|${job##*/}|PD|None|$(cat "$job")"; done
exit 0
""",
}
# Launches, and kills itself before it records its jobs.
VICTIM = """
import os, signal, sys
from pathlib import Path
from agent.config import load_config
from agent.loop import make_parts
from agent.results import Result
parts = make_parts(load_config(Path(sys.argv[1])))
parts.launchpad.record_jobs = lambda _jobs: os.kill(os.getpid(), signal.SIGKILL)
parts.way_out.launch(10, Result())
"""


@pytest.fixture
def fake(tmp_path):
    place = tmp_path / "fake"
    (place / "jobs").mkdir(parents=True)
    for name, text in COMMANDS.items():
        (place / name).write_text(f"#!/bin/sh\n{text}")
        (place / name).chmod(0o755)
    return place


@pytest.fixture
def site(mongod, lp_name, tmp_path, fake):
    site = Site(tmp_path / "home", mongod, lp_name)
    site.environment.update(PATH=f"{fake}:{os.environ['PATH']}", FAKE=str(fake))
    site.configure(
        queue={"type": "slurm", "timeout": 60},
        sync={"reconcile_interval": 86400, "outbox_interval": 0.2},
    )
    return site


def run_job(site, store, fw_id):
    """Run the job of a Firework somewhere else, and see its result in the database."""
    launch = store.db.launches.find_one({"fw_id": fw_id})
    assert site.fwrunner(launch["launch_dir"]).status == 0
    wait_until(lambda: store.state(fw_id) == "COMPLETED", 10)


def hold(fake, name):
    (fake / f"hold-{name}").touch()


def release(fake, name):
    (fake / f"hold-{name}").unlink()


def began(fake, name):
    wait_until((fake / f"in-{name}").exists)


@pytest.mark.parametrize("name", ["sbatch", "squeue"])
def test_what_comes_back_does_not_wait_for_a_command(site, store, fake, name):
    first, second = store.add({}, {})
    store.db.fireworks.update_one({"fw_id": second}, {"$set": {"state": "WAITING"}})
    site.configure(
        queue={"type": "slurm", "timeout": 60},
        sync={"reconcile_interval": 0.5, "outbox_interval": 0.2, "reserve_interval": 0.3},
    )
    with site.daemon() as agent:
        agent.wait_for("submitted", fw_id=first)
        hold(fake, name)
        store.db.fireworks.update_one({"fw_id": second}, {"$set": {"state": "READY"}})
        began(fake, name)
        run_job(site, store, first)
        release(fake, name)
        agent.wait_for("submitted", fw_id=second)
        run_job(site, store, second)


def test_an_agent_serves_although_the_queue_does_not_say_what_the_killed_one_has_submitted(
    site, store, fake
):
    early, cut = store.add({}, {})
    store.db.fireworks.update_one({"fw_id": cut}, {"$set": {"state": "WAITING"}})
    assert site.launch_one()["fw_id"] == early
    store.db.fireworks.update_one({"fw_id": cut}, {"$set": {"state": "READY"}})
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, site.config],
        env=site.environment,
        cwd=REPOSITORY,
        timeout=60,
        check=False,
    )
    assert done.returncode == -9
    hold(fake, "squeue")
    with site.daemon() as agent:
        began(fake, "squeue")
        run_job(site, store, early)
        assert agent.terminate() < 3

    with site.daemon():
        began(fake, "squeue")
        launch = store.db.launches.find_one({"fw_id": cut})
        assert "reservation_id" not in launch["state_history"][0]
        release(fake, "squeue")
        wait_until(
            lambda: store.launch(launch["launch_id"])["state_history"][0].get("reservation_id")
        )
        run_job(site, store, cut)
    assert len(list(Path(fake, "jobs").iterdir())) == 2
    assert site.told()["mode"] == "stopped"
