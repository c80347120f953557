"""The database is away for long while jobs end: refused, silent, reset, or cut in the middle of its answers.

FWAGENT_BACKLOG_N finished launches, 600 unless it is set.
"""

import json
import os
from itertools import islice
from pathlib import Path

import pytest

from fwcore.worker import Worker
from fwrunner.protocol import timestamp
from tests.support.agent import TASKS, WORKER, Site, wait_until
from tests.support.proxy import Proxy

COUNT = int(os.environ.get("FWAGENT_BACKLOG_N", "600"))
#: Bytes by which the agent may grow while it is away, and that the backlog may take.
GROWTH = 48 * 1024 * 1024


@pytest.fixture
def proxy(mongod):
    with Proxy(mongod) as proxy:
        yield proxy


@pytest.fixture
def site(mongod, lp_name, tmp_path, proxy):
    site = Site(tmp_path / "home", mongod, lp_name)
    limits = "serverSelectionTimeoutMS=400&connectTimeoutMS=400&socketTimeoutMS=2000"
    site.configure(
        launchpad={"uri": f"{proxy.uri}&{limits}"},
        launch={"max_queued": 1},
        sync={"outbox_interval": 0.5, "sweep_interval": 5},
    )
    return site


def reserved(store, site):
    """Reserve COUNT Fireworks, each with a child, as `fwagent launch` does; no file is written."""
    width = 50
    for _ in range(COUNT // width):
        fws = [
            {"fw_id": n, "name": "f", "spec": {"_tasks": TASKS}} for n in range(1, 2 * width + 1)
        ]
        links = {n: [n + width] for n in range(1, width + 1)}
        store.launchpad.add({"fws": fws, "links": links})
    claims = store.launchpad.claim(
        Worker(WORKER), COUNT, place=lambda _fw, number: str(site.root / f"launcher_{number}")
    )
    store.launchpad.open_runs(claims)
    return claims


def resident(pid):
    """Bytes of memory that a process has."""
    text = Path(f"/proc/{pid}/statm").read_text(encoding="ascii")
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def finish(site, claims):
    """Leave the final reports of launches in the outbox."""
    for claim in claims:
        now = timestamp()
        report = {
            "protocol": 1, "launch_id": claim.launch_id, "fw_id": claim.fw_id, "token": claim.token,
            "state": "COMPLETED", "launch_dir": claim.launch_dir, "attempt": 1, "started_on": now,
            "completed_on": now, "fwaction": {"stored_data": {"n": claim.fw_id}},
        }  # fmt: skip
        temporary = site.outbox / f".{claim.launch_id}"
        temporary.write_text(json.dumps(report), encoding="utf-8")
        temporary.rename(site.outbox / f"{claim.launch_id}.{claim.token}.json")


def test_a_backlog_waits_and_is_applied_once(site, store, proxy):
    claims = iter(reserved(store, site))
    completed = {"state": "COMPLETED"}
    with site.daemon() as daemon:
        site.await_first_pass()
        finish(site, islice(claims, 10))
        wait_until(lambda: store.db.launches.count_documents(completed) == 10)
        before = resident(daemon.pid)
        for fault in ("stall", "refuse", "half", "reset"):
            proxy.fault = fault
            last = fault == "reset"
            finish(site, claims if last else islice(claims, 10))
            daemon.wait_for_error("does not answer", timeout=30)
            document = site.json("status", status=4)
            assert document["agent"]["state"] == "running"
            assert document["backlog"]["reports"] >= (COUNT - 100 if last else 10)
            assert resident(daemon.pid) < before + GROWTH
            proxy.fault = "none"
            daemon.wait_for("recovered", timeout=60)
        wait_until(lambda: store.db.launches.count_documents(completed) == COUNT, 120)
        wait_until(lambda: not list(site.outbox.iterdir()), 30)
        assert resident(daemon.pid) < before + GROWTH
        wait_until(lambda: not site.json("status")["backlog"]["applying"])
    assert not [entry for entry in daemon.log if "exception" in entry]
    assert daemon.logged("applying a backlog")
    assert store.locks() == 0
    assert store.db.fireworks.count_documents({"state": "COMPLETED"}) == COUNT
    # One may be launched as the first children come free.
    assert store.db.fireworks.count_documents({"state": {"$in": ["READY", "RESERVED"]}}) == COUNT
    for launch in store.db.launches.find(completed):
        assert launch["action"]["stored_data"] == {"n": launch["fw_id"]}
    assert not site.ignored.exists()
