"""Everything at once on real Slurm: levels of Fireworks, jobs that are killed in every way, and an agent that is."""

import sys
import time
from collections import Counter

import pytest

from tests.support.agent import Site, wait_until
from tests.support.fireworks import REPOSITORY

LEVELS = (10, 20, 30)
#: What sbatch says at a limit of the site.
FULL = "Job violates accounting/QOS policy"
NODE = f"export PYTHONPATH={REPOSITORY}"


@pytest.fixture
def site(mongod, lp_name, tmp_path, slurm):
    site = Site(tmp_path / "home", mongod, lp_name)
    site.configure(
        queue={
            "type": "slurm",
            # As on a compute node: nothing but its own files.
            "runner": f"unshare -n {sys.executable} -m fwrunner",
            "options": {"pre_rocket": NODE, "walltime": "01:00:00"},
            "timeout": 30,
        },
        launch={"max_queued": 20},
        sync={
            "outbox_interval": 0.3,
            "sweep_interval": 2,
            "reserve_interval": 1,
            "reconcile_interval": 1,
            "lost_after": 2,
            "ping_interval": 1,
        },
    )
    return site


def script(text, **spec):
    return {"_tasks": [{"_fw_name": "ScriptTask", "script": text}], **spec}


def layered(ran):
    """Return the specs and links of the levels; each Firework of a level has two parents in the one above."""
    specs = [script(f"echo $SLURM_JOB_NAME >> {ran}") for _ in range(sum(LEVELS))]
    links: dict[int, list[int]] = {}
    above, first = list(range(1, LEVELS[0] + 1)), LEVELS[0] + 1
    for size in LEVELS[1:]:
        level = list(range(first, first + size))
        for position, child in enumerate(level):
            for parent in {above[position % len(above)], above[(position + 1) % len(above)]}:
                links.setdefault(parent, []).append(child)
        above, first = level, first + size
    return specs, links


@pytest.mark.timeout(240)
def test_nothing_is_lost_and_nothing_runs_twice(site, store, slurm, tmp_path):
    ran, odd, go = tmp_path / "ran", tmp_path / "odd", tmp_path / "go"
    wait = f"echo $$ >> {odd}; while [ ! -e {go} ]; do sleep 0.1; done"
    limit = {"_queueadapter": {"walltime": "00:01:00"}}
    broken = {"_queueadapter": {"pre_rocket": "exit 3"}}
    jobs = {
        "stopped": store.add(script(wait))[0],
        "requeued": store.add(script(wait))[0],
        "broken": store.add(script("true", **broken))[0],
        # With these all eight slots are taken.
        **{f"filler {n}": store.add(script(wait))[0] for n in range(6)},
    }
    waiting = [name for name in jobs if name != "broken"]

    def job_of(name):
        found = site.json("runs", "-i", jobs[name], "-l", 1)["runs"]
        return found[0]["job_id"] if found else None

    def state(name):
        return store.state(jobs[name])

    with site.daemon() as agent:
        wait_until(lambda: {state(name) for name in waiting} == {"RUNNING"}, 30)
        jobs["pending"] = store.add(script(f"echo pending >> {ran}"))[0]
        wait_until(lambda: job_of("pending"), 30)
        slurm.run("scancel", job_of("pending"))
        slurm.run("scancel", job_of("stopped"))
        again = job_of("requeued")
        slurm.run("scontrol", "update", f"JobId={again}", "Requeue=1")
        slurm.run("scontrol", "requeue", again)
        # Not before: its end would have made room for the pending one.
        jobs["too long"] = store.add(script(wait, **limit))[0]
        agent.wait_for("lost", fw_id=jobs["pending"], timeout=30)
        agent.kill()

    with site.daemon() as agent:
        ended = ("stopped", "requeued", "too long", "broken")
        wait_until(lambda: {state(name) for name in ended} == {"FIZZLED"}, 60)
        specs, links = layered(ran)
        with slurm.limited(9):
            levels = store.add(*specs, links=links)
            wait_until(lambda: any(FULL in each["reason"] for each in agent.logged("deferred")), 30)
            go.touch()
            wait_until(lambda: store.states()[levels[3]] == "COMPLETED", 60)
        slurm.stop_controller()
        stopped = time.monotonic()
        agent.kill()

    # Slurm's commands wait for 19 s before they give up.
    with site.daemon() as agent:
        assert time.monotonic() - stopped < 15
        wait_until(lambda: time.monotonic() - stopped > 30, 40)
        slurm.start_controller()
        slurm.await_nodes()
        wait_until(lambda: store.states()[levels[15]] == "COMPLETED", 60)
        agent.kill()

    with site.daemon():
        wait_until(lambda: {store.states()[fw_id] for fw_id in levels} == {"COMPLETED"}, 90)
        wait_until(lambda: state("pending") == "COMPLETED", 30)
        wait_until(lambda: not slurm.run("squeue", "-h"), 30)

    names = Counter(ran.read_text().split())
    assert names.pop("pending") == 1
    assert (len(names), set(names.values())) == (sum(LEVELS), {1})
    assert len(odd.read_text().split()) == len(set(odd.read_text().split()))
    assert {state(f"filler {n}") for n in range(6)} == {"COMPLETED"}
    assert {state(name) for name in ended} == {"FIZZLED"}

    told = {name: " ".join(site.run("explain", jobs[name]).stdout.split()) for name in jobs}
    assert "ended by SIGTERM" in told["stopped"]
    assert "ended by SIGTERM" in told["requeued"]
    assert "ended by SIGTERM" in told["too long"] or "TIMEOUT" in told["too long"]
    assert "exit code 3" in told["broken"]
    assert not store.db.workflows.count_documents({"locked": {"$exists": True}})
    # Void entries only keep what was killed from going on.
    assert not list(store.db.fwagent_journal.find({"void": {"$exists": False}}))
    assert not list(site.root.glob(".fwagent/outbox/*.json"))
