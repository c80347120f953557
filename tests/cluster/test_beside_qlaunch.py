"""FireWorks' own `qlaunch -r` beside an agent, on the same database, launch root and Slurm."""

import subprocess
import sys
from collections import Counter

import pytest

from tests.support.agent import Site, wait_until
from tests.support.fireworks import REPOSITORY

COUNT = 8
# It sleeps five seconds between two jobs, whatever it is told.
RAPIDFIRE = ("rapidfire", "--nlaunches", "2", "--sleep", "0", "-m", "0")
ADD = """
from fireworks import Firework, Workflow
fws = [Firework.from_dict({"spec": spec, "fw_id": -n}) for n in range(1, count + 1)]
launchpad().add_wf(Workflow(fws))
"""


@pytest.fixture
def site(mongod, db_name, tmp_path, slurm):
    site = Site(tmp_path / "ours", mongod, db_name)
    site.configure(
        queue={
            "type": "slurm",
            "runner": f"{sys.executable} -m fwrunner",
            "options": {"pre_rocket": f"export PYTHONPATH={REPOSITORY}"},
        },
        launch={"max_queued": 3},
        sync={
            "outbox_interval": 0.3,
            "sweep_interval": 1,
            "reserve_interval": 0.5,
            "reconcile_interval": 0.3,
            "lost_after": 0.5,
        },
    )
    return site


@pytest.fixture
def qlaunch(fireworks, slurm, site):
    def launch():
        """Run it with the real sbatch."""
        for stub in (fireworks.home / "bin").iterdir():
            stub.unlink()
        # Its script is that of a login shell, which knows no virtual environment.
        fireworks.write_queue_adapter(f"{fireworks.venv / 'bin/rlaunch'} singleshot --offline")
        command = [fireworks.venv / "bin/qlaunch", "-r", "--launch_dir", site.root, *RAPIDFIRE]
        environ = {**fireworks.environ(), **slurm.environ}
        subprocess.run(
            command, env=environ, cwd=fireworks.home, capture_output=True, timeout=60, check=True
        )

    return launch


def test_nobody_takes_the_jobs_of_the_other(
    fireworks, qlaunch, site, mongo_client, db_name, tmp_path
):
    """Under one worker's name. Theirs come home by the agent, too: their runs are offline runs."""
    db = mongo_client[db_name]
    ran, go = tmp_path / "ran", tmp_path / "go"
    text = f"echo $SLURM_JOB_ID >> {ran}; while [ ! -e {go} ]; do sleep 0.1; done"
    spec = {"_tasks": [{"_fw_name": "ScriptTask", "script": text}]}
    fireworks.python(ADD, spec=spec, count=COUNT)

    def jobs():
        entries = [entry for each in db.launches.find() for entry in each["state_history"]]
        return {entry["reservation_id"] for entry in entries if "reservation_id" in entry}

    with site.daemon() as agent:
        wait_until(lambda: len(jobs()) == 3)
        qlaunch()
        before = jobs()
        assert len(before) == 5
        wait_until(lambda: ran.exists() and len(ran.read_text().split()) == 5)
        agent.kill()
    site.own("status.json")[0].unlink()
    with site.daemon():
        # Some of them with a listing.
        wait_until(lambda: site.told().get("passes", 0) > 10)
        assert jobs() == before
        go.touch()
        wait_until(lambda: db.fireworks.count_documents({"state": "COMPLETED"}) == COUNT, 60)
    times = Counter(ran.read_text().split())
    assert set(times) == jobs() > before
    assert (len(times), set(times.values())) == (COUNT, {1})
    assert db.launches.count_documents({}) == COUNT
    assert db.offline_runs.count_documents({"completed": True}) == COUNT
