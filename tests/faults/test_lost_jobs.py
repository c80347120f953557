"""Lost jobs: the agent is killed at every command of a verdict, and real jobs of the local queue are."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config
from agent.jobs import QueuedJob, QueueSilent, Submission
from agent.localqueue import LocalQueue
from agent.queue import open_queue
from agent.reconciler import Reconciler
from agent.recover import WayBack
from agent.results import Result
from fwcore.launchpad import LaunchPad
from fwcore.lost import MARK
from fwrunner.protocol import MAX_REPORT_SIZE
from tests.support.agent import Site, Store, wait_until
from tests.support.batches import restore, saved
from tests.support.forks import Forks
from tests.support.killer import Killer
from tests.support.launchpads import consistent
from tests.support.mongod import Client
from tests.support.queues import Bench, FakeQueue


def reconcile(job: dict[str, Any]) -> int:
    """Reconcile once, killed after the given command; return how many there were."""
    killer = Killer(job["at"])
    launchpad = LaunchPad.from_uri(job["uri"], job["name"], event_listeners=[killer])
    root = Path(job["root"])
    launchpad.queue_name = f"slurm:{root}"
    config = Config.model_validate(job["config"])
    back = WayBack(launchpad, root / ".fwagent" / "outbox", MAX_REPORT_SIZE)
    Reconciler(launchpad, FakeQueue(), back, config, clock=lambda: job["now"]).run(Result())
    return len(killer.commands)


def after_all(bench: Bench) -> dict[str, Any]:
    """What must be the same, however often it was cut."""
    consistent(bench.db)
    setbacks = bench.lp.setbacks([1, 2, 3])
    return {
        "states": {doc["fw_id"]: doc["state"] for doc in bench.db.fireworks.find()},
        "launches": {doc["launch_id"]: doc["state"] for doc in bench.db.launches.find()},
        "setbacks": {fw_id: (each.vanished, each.lost) for fw_id, each in setbacks.items()},
        "open": bench.db.offline_runs.count_documents({"completed": False, "deprecated": False}),
    }


def test_the_agent_is_killed_at_every_command_of_its_verdicts(
    lp_on: LaunchPad, mongo_client: Client, db_uri: str, db_name: str, tmp_path: Path
) -> None:
    """One job died running and is to be rerun, one has vanished, one has vanished for the third time."""
    bench = Bench(lp_on, mongo_client[db_name], tmp_path / "root")
    bench.configure(lost="rerun")
    ran, vanished, thrice = bench.add(3)
    for _ in range(2):
        ((_claim, job_id),) = bench.launch(thrice)
        bench.queue.gone(job_id)
        bench.lose()
    bench.run(ran)
    bench.launch(vanished, thrice)
    bench.queue.jobs.clear()
    bench.turn()
    own = bench.own
    notes = (own / "reconcile.json").read_bytes()
    before = saved(mongo_client, db_name)

    job = {
        "uri": db_uri,
        "name": db_name,
        "root": str(bench.root),
        "now": bench.now + 300,
        "config": {
            "worker": {"name": "w"},
            "launch": {"root": str(bench.root)},
            "sync": {"lost": "rerun"},
        },
    }
    with Forks(reconcile) as forks:
        commands = forks.run({**job, "at": 0})
        assert commands > 20
        expected = after_all(bench)
        assert expected["states"] == {ran: "READY", vanished: "READY", thrice: "FIZZLED"}
        assert expected["setbacks"] == {ran: (0, 1), vanished: (1, 0), thrice: (2, 0)}
        assert expected["open"] == 0
        for at in range(1, commands):
            restore(mongo_client, db_name, before)
            (own / "reconcile.json").write_bytes(notes)
            assert forks.run({**job, "at": at}) == -signal.SIGKILL
            bench.lp.resume(is_gone=lambda _host, _pid: True)
            bench.configure(lost="rerun")
            bench.turn(300)
            bench.turn(300)
            assert after_all(bench) == expected, f"killed after command {at} of {commands}"


@pytest.fixture
def lp_on(db_uri: str, db_name: str) -> Any:
    launchpad = LaunchPad.from_uri(db_uri, db_name)
    launchpad.initialize()
    yield launchpad
    launchpad.close()


# --------------------------------------------------------------------------- real processes

#: Seconds.
QUICK: dict[str, Any] = {
    "reserve_interval": 0.2,
    "reconcile_interval": 0.2,
    "lost_after": 0.5,
    "ping_interval": 0.2,
}


@pytest.fixture
def site(mongod: Any, db_name: str, lp_on: LaunchPad, tmp_path: Path) -> Any:
    site = Site(tmp_path / "home", mongod, db_name)
    site.configure(
        queue={"type": "local"},
        launch={"max_running": 1},
        sync=QUICK,
    )
    yield site
    for spool in (site.root / ".fwagent" / "local").glob("*"):
        queue = LocalQueue(spool)
        for job in queue.jobs():
            queue.cancel(job.job_id)
        queue.wait_idle(20)
    shutil.rmtree(site.root)


@pytest.fixture
def store(lp_on: LaunchPad, mongo_client: Client, db_name: str) -> Store:
    return Store(lp_on, mongo_client[db_name])


def sleeper(pids: Path) -> dict[str, Any]:
    """A task that leaves the session of its job in a file, so that all of it can be killed."""
    script = f"ps -o sid= -p $$ >> {pids}; echo 'my last words' >&2; sleep 60"
    return {"_tasks": [{"_fw_name": "ScriptTask", "script": script, "shell_exe": "/bin/sh"}]}


def kill_session(pids: Path) -> None:
    """SIGKILL for the script, the runner, its tasks: nobody is left to write a report."""
    wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"))
    sid = int(pids.read_text().split()[-1])
    pids.unlink()
    found = subprocess.run(
        ["ps", "-o", "pid=", "-s", str(sid)],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    ).stdout.split()
    for pid in map(int, found):
        os.kill(pid, signal.SIGKILL)


def test_a_real_job_is_killed_with_all_that_watches_it(
    site: Site, store: Store, tmp_path: Path
) -> None:
    """Seen by `fwagent sync`, as from cron: what one remembers, the next one knows."""
    pids = tmp_path / "pids"
    (fw_id,) = store.add(sleeper(pids))
    site.run("sync")
    wait_until(pids.exists)
    assert site.json("explain", fw_id)["queue"]["job"]["state"] == "RUNNING"
    kill_session(pids)
    (spool,) = (site.root / ".fwagent" / "local").iterdir()
    assert LocalQueue(spool).wait_idle(20)
    told = site.json("sync")
    assert "lost" not in told
    while "lost" not in told:
        told = site.json("sync")
    (lost,) = told["lost"]
    assert (lost["fw_id"], lost["state"]) == (fw_id, "FIZZLED")
    assert store.state(fw_id) == "FIZZLED"
    told = site.json("explain", fw_id)
    assert told["why"][0] == lost["reason"]
    assert (told["queue"]["end"]["signal"], told["files"]["state"]) == (9, "RUNNING")
    facts = store.launch(lost["launch_id"])["action"]["stored_data"][MARK]
    assert (facts["scheduler"], facts["state"], facts["signal"]) == ("local", "FAILED", 9)
    assert "lost" not in site.json("sync")


def test_a_lost_job_is_rerun_and_one_that_vanishes_comes_again(
    site: Site, store: Store, tmp_path: Path
) -> None:
    """The second waits behind the first in the queue, and disappears from there."""
    site.configure(
        queue={"type": "local"}, launch={"max_running": 1}, sync=QUICK | {"lost": "rerun"}
    )
    pids, ran = tmp_path / "pids", tmp_path / "ran"
    (first,) = store.add(sleeper(pids))
    with site.daemon() as daemon:
        daemon.wait_for("applied", fw_id=first, state="RUNNING")
        (second,) = store.add(
            {"_tasks": [{"_fw_name": "ScriptTask", "script": f"echo x >> {ran}"}]}
        )
        job_id = daemon.wait_for("submitted", fw_id=second)["job_id"]
        (spool,) = (site.root / ".fwagent" / "local").iterdir()
        assert LocalQueue(spool, 1).cancel(job_id)
        vanished = daemon.wait_for("lost", fw_id=second)
        assert (vanished["state"], vanished["job_id"]) == ("READY", job_id)
        daemon.wait_for("submitted", fw_id=second)
        kill_session(pids)
        assert daemon.wait_for("lost", fw_id=first)["state"] == "READY"
        daemon.wait_for("submitted", fw_id=first)
        wait_until(lambda: store.state(second) == "COMPLETED")
    assert ran.read_text() == "x\n"
    assert store.launchpad.setbacks([first, second])[first].lost == 1


def test_what_the_local_queue_tells_of_its_jobs(tmp_path: Path) -> None:
    settings = {
        "worker": {"name": "w"},
        "launch": {"root": str(tmp_path)},
        "queue": {"type": "local"},
    }
    queue = open_queue(Config.model_validate(settings))
    texts = {1: "true", 2: "exit 3", 3: "kill -9 $$", 4: "sleep 60"}
    submissions = []
    for number, text in texts.items():
        script = tmp_path / f"launcher_{number}" / "FW_submit.script"
        script.parent.mkdir()
        script.write_text(f"#!/bin/sh\n{text}\n")
        submissions.append(Submission(number, script, "x"))
    ids = {done.launch_id: str(done.job_id) for done in queue.submit_all(submissions)}
    wait_until(lambda: [job.state for job in queue.listing().values()] == ["RUNNING"])
    (job,) = queue.listing().values()
    assert (job.job_id, job.launch_id) == (ids[4], 4)
    queue.cancel([ids[4], "99"])
    wait_until(lambda: not queue.listing())
    ends = queue.ends([*ids.values(), "99"])
    told = [(ends[ids[n]].state, ends[ids[n]].exit_code, ends[ids[n]].signal) for n in (1, 2, 3)]
    assert told == [("COMPLETED", 0, None), ("FAILED", 3, None), ("FAILED", None, 9)]
    assert ends[ids[4]].state in ("CANCELLED", "FAILED")
    assert set(ends) == set(ids.values())

    # Another login node with the same launch root: its jobs are seen, its numbers are not mixed up with ours.
    (here,) = (tmp_path / ".fwagent" / "local").iterdir()
    other = here.with_name("other")
    shutil.copytree(here, other)
    done = next((other / "done").glob("1-*"))
    done.rename(other / "running" / done.name)
    record = json.loads((other / "running" / done.name).read_text())
    (other / "running" / done.name).write_text(json.dumps({**record, "environment": {}}))
    assert queue.listing() == {"other/1": QueuedJob("other/1", 1, "RUNNING", "RUNNING")}
    assert set(queue.ends(ids.values())) == {ids[1]}
    other.chmod(0o755)
    with pytest.raises(QueueSilent, match="cannot be listed"):
        queue.listing()
