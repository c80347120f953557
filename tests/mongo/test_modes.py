"""`fwagent drain`, `pause`, `resume` and `stop`: what a running agent does, and what is kept for the next one."""

import socket
from pathlib import Path

import pytest

from agent import asking
from agent.printable import when
from fwcore.errors import FwagentError
from fwcore.launchpad.records import Wish
from tests.support.agent import (
    SHORT_LEASE,
    WORKER,
    Site,
    in_place,
    stock_report,
    wait_until,
)


@pytest.fixture
def site(mongod, lp_name, tmp_path, mongo_client):
    # A wish would outlive the test in the shared database.
    mongo_client[lp_name].fwagent_leases.delete_many({})
    return Site(tmp_path / "home", mongod, lp_name)


def holder(daemon):
    return {"host": socket.gethostname(), "pid": daemon.pid}


def test_a_drained_agent_brings_back_and_launches_nothing_even_after_a_restart(site, store):
    claim = one_running(site, store)
    site.configure(sync={"sweep_interval": 0.2, "reserve_interval": 0.2})
    with site.daemon(command=SHORT_LEASE) as daemon:
        found = site.json("drain")
        assert found == {
            "worker": WORKER,
            "mode": "drain",
            "by": asking.asker(),
            "on": found["on"],
            "followed": True,
            "was": "run",
            "agent": holder(daemon),
        }
        daemon.wait_for("drained", by=asking.asker())
        store.add()
        in_place(Path(claim.launch_dir, "FW_offline.json"), stock_report(claim))
        daemon.wait_for("applied", launch_id=claim.launch_id, state="COMPLETED")
        status = site.json("status")["agent"]["wish"]
        assert (status["mode"], status["followed"]) == ("drain", True)
        assert f"mode       drained since {when(status['on'])} by " in site.run("status").stdout
        assert "the agent is drained" in site.run("explain", 2).stdout
        assert "fwagent resume" in site.run("doctor", status=None).stdout
        daemon.kill()
    with site.daemon(command=SHORT_LEASE) as daemon:
        daemon.wait_for("drained")
        passes_go_on(site)
        assert "already: nothing is launched" in site.run("drain").stdout
        assert store.state(2) == "READY"
        assert site.json("status")["agent"]["wish"]["on"] == status["on"]
        assert "brings back what was reported" in site.run("resume").stdout
        wait_until(lambda: store.state(2) == "RESERVED")


def one_running(site, store):
    store.add()
    (claim,) = store.stock_launches(site.home)
    return claim


def test_a_paused_agent_writes_nothing_but_its_lease(site, store):
    claim = one_running(site, store)
    site.configure(sync={"sweep_interval": 0.1, "outbox_interval": 0.1, "reserve_interval": 0.1})
    with site.daemon(command=SHORT_LEASE) as daemon:
        assert "nothing is brought back" in site.run("pause").stdout
        daemon.wait_for("paused")
        store.add()
        in_place(Path(claim.launch_dir, "FW_offline.json"), stock_report(claim))
        before = everything(store)
        passes_go_on(site)
        assert everything(store) == before
        assert "nothing is brought back" in site.run("explain", 1).stdout
        site.run("resume", "--no-wait")
        daemon.wait_for("running")
        daemon.wait_for("applied", launch_id=claim.launch_id, state="COMPLETED")
        wait_until(lambda: store.state(2) == "RESERVED")


def everything(store):
    names = set(store.db.list_collection_names()) - {"fwagent_leases"}
    return {name: list(store.db[name].find()) for name in names}


def passes_go_on(site):
    """Wait until the agent has renewed its lease, and so has turned, a few times."""
    seen = set()

    def renewed():
        seen.add(site_lease(site))
        return len(seen) > 3

    wait_until(renewed)


def site_lease(site):
    from fwcore.launchpad import LaunchPad

    launchpad = LaunchPad.from_uri(site.server.uri, site.db_name)
    try:
        held = launchpad.lease(WORKER)
        assert held is not None
        return held[0].expires_at
    finally:
        launchpad.close()


def test_a_pause_finishes_what_was_begun(site, store, db):
    store.add()
    dead = "fwagent:gone:1:0123456789ab:1"
    db.workflows.update_one({}, {"$set": {"locked": dead}})
    db.fwagent_sessions.insert_one(
        {
            "_id": "0123456789ab",
            "host": "gone",
            "pid": 1,
            "token": dead,
            "dead": True,
            "expires_at": store.launchpad.now(),
        }
    )
    site.run("pause")
    with site.daemon(command=SHORT_LEASE) as daemon:
        daemon.wait_for("paused")
        wait_until(lambda: store.locks() == 0)
    assert store.states() == {1: "READY"}


def test_stop_ends_the_agent_and_an_idle_one_takes_over(site, mongod, lp_name, tmp_path):
    second = Site(tmp_path / "second", mongod, lp_name)
    with (
        site.daemon(command=SHORT_LEASE) as first,
        second.daemon(command=SHORT_LEASE, serving=False) as idle,
    ):
        idle.wait_for("idle: another agent serves this worker")
        site.json("stop", "--no-wait")
        first.wait_for("asked to stop", by=asking.asker())
        wait_until(lambda: not first.running)
        assert first._process.returncode == 0
        idle.wait_for("serving")
        assert idle.running
        assert site.json("stop") == {
            "worker": WORKER, "stopped": holder(idle), "serving": None,
        }  # fmt: skip
        wait_until(lambda: not idle.running)
    assert "no agent serves" in site.run("stop").stdout


def test_without_an_agent_the_next_one_and_sync_follow(site, store):
    store.add()
    drained = site.run("drain").stdout
    assert drained == (
        f"no agent serves the worker '{WORKER}'; the next one, and `fwagent sync`, is drained\n"
    )
    assert site.json("sync")["submitted"] == site.json("sync")["claimed"] == []
    assert site.json("pause")["followed"] is None
    (deferred,) = site.json("sync", status=3)["deferred"]
    assert "paused since" in deferred["reason"]
    assert "fwagent resume" in deferred["reason"]
    assert site.json("resume")["was"] == "pause"
    assert len(site.json("sync")["claimed"]) == 1


def test_an_agent_that_does_not_answer_in_time(site, store):
    lease = store.launchpad.acquire_lease(WORKER, "another", 60)
    store.db.fwagent_leases.update_one({"_id": WORKER}, {"$set": {"host": "login9"}})
    assert lease.wish == Wish()
    told = site.run("drain", "--timeout", 0.1, status=3).stdout
    assert "the agent on login9" in told
    assert "follows after its present pass" in told
    assert site.json("drain", "--no-wait")["followed"] is False
    assert site.json("stop", "--timeout", 0, status=3)["stopped"] is None
    assert "the agent has not answered yet" in site.run("status").stdout


def test_of_two_who_ask_at_once_one_is_told(site, lp):
    before = lp.wish(WORKER)
    lp.ask(before, WORKER, "drain", "me@login1")
    with pytest.raises(FwagentError, match="somebody else has asked"):
        lp.ask(before, WORKER, "run", "you@login2")
    wish = lp.wish(WORKER)
    assert (wish.mode, wish.by, wish.number) == ("drain", "me@login1", before.number + 1)


def test_a_mode_of_a_newer_fwagent_is_a_pause(site, lp, db):
    db.fwagent_leases.update_one(
        {"_id": WORKER}, {"$set": {"wish": {"mode": "hibernate", "number": 3}}}, upsert=True
    )
    assert lp.wish(WORKER).mode == "pause"


def test_who_asks_is_text_and_nothing_else(site, lp):
    assert lp.ask(lp.wish(WORKER), WORKER, "drain", "$owner").by == "$owner"
