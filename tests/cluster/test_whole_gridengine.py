"""The whole of it on real Grid Engine, in short: two levels, jobs deleted waiting and running, a killed agent."""

import sys
from collections import Counter

import pytest

from tests.support.agent import Site, Store, wait_until
from tests.support.fireworks import REPOSITORY

LEVELS = (5, 7)


@pytest.fixture
def site(mongod, lp_name, tmp_path, gridengine):
    site = Site(tmp_path / "home", mongod, lp_name)
    site.environment.update(gridengine.environ)
    site.configure(
        queue={
            "type": "sge",
            "runner": f"unshare -n {sys.executable} -m fwrunner",
            "options": {"pre_rocket": f"export PYTHONPATH={REPOSITORY}", "walltime": "01:00:00"},
        },
        launch={"max_queued": 20},
        sync={
            "outbox_interval": 0.3,
            "sweep_interval": 2,
            "reserve_interval": 0.5,
            "reconcile_interval": 0.5,
            "lost_after": 1,
            "ping_interval": 1,
        },
    )
    return site


def script(text, **spec):
    return {"_tasks": [{"_fw_name": "ScriptTask", "script": text}], **spec}


@pytest.mark.timeout(120)
def test_nothing_is_lost_and_nothing_runs_twice(site, lp, db, gridengine, tmp_path):
    store = Store(lp, db)
    ran, go = tmp_path / "ran", tmp_path / "go"
    tell = f"echo $JOB_ID >> {ran}"
    wait = f"{tell}; while [ ! -e {go} ]; do sleep 0.1; done"
    # With these all eight slots are taken.
    running = [store.add(script(wait))[0] for _ in range(8)]
    (broken,) = store.add(script("true", _queueadapter={"pre_rocket": "exit 3"}))

    def job_of(fw_id):
        found = site.json("runs", "-i", fw_id, "-l", 1)["runs"]
        return found[0]["job_id"] if found else None

    def states(fw_ids):
        return [store.state(fw_id) for fw_id in fw_ids]

    with site.daemon() as agent:
        wait_until(lambda: states(running) == ["RUNNING"] * 8, 60, agent.tail)
        (pending,) = store.add(script(tell))
        gridengine.wait_until(lambda: job_of(pending) is not None, 20)
        gridengine.run("qdel", job_of(pending))
        gridengine.run("qdel", job_of(running[0]))
        agent.wait_for("lost", fw_id=pending, timeout=20)
        agent.kill()

    with site.daemon():
        links = {n: [5 + n, 8 + n % 5] for n in range(1, LEVELS[0] + 1)}
        levels = store.add(*(script(tell) for _ in range(sum(LEVELS))), links=links)
        go.touch()
        good = [*running[1:], pending, *levels]
        gridengine.wait_until(lambda: set(states(good)) == {"COMPLETED"}, 60)
        gridengine.wait_until(lambda: states([running[0], broken]) == ["FIZZLED"] * 2, 30)
        gridengine.wait_until(lambda: not gridengine.run("qstat"), 20)

    times = Counter(ran.read_text().split())
    assert (len(times), set(times.values())) == (len(good) + 1, {1})
    assert "exit code 3" in " ".join(site.run("explain", broken).stdout.split())
    told = " ".join(site.run("explain", running[0]).stdout.split())
    assert "signal 9, after" in told
    assert "failed 100 assumedly after job" in told
    assert not db.workflows.count_documents({"locked": {"$exists": True}})
    assert not list(db.fwagent_journal.find({"void": {"$exists": False}}))
    assert not list(site.outbox.glob("*.json"))
