"""The database is not there, goes away, or hangs: nothing is lost, nothing is FIZZLED, and all is told."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.printable import when
from fwcore.launchpad import LaunchPad
from tests.support.agent import WORKER, Site, Store, in_place, stock_report, wait_until
from tests.support.mongod import connect

DB = "fireworks"


@pytest.fixture
def site(private_mongod, tmp_path):
    site = Site(tmp_path / "home", private_mongod, DB)
    site.configure(
        launchpad=site.impatient_launchpad(),
        sync={"outbox_interval": 0.5, "reserve_interval": 0.5, "sweep_interval": 0.5},
    )
    return site


@pytest.fixture
def store(private_mongod):
    launchpad = LaunchPad.from_uri(private_mongod.uri, DB)
    launchpad.initialize()
    with connect(private_mongod) as client:
        yield Store(launchpad, client[DB])
    launchpad.close()


def started(claim):
    return {"launch_id": claim.launch_id, "started_on": stock_report(claim)["started_on"]}


def is_down(daemon):
    return daemon.wait_for_error("does not answer")


@contextmanager
def stopped(server):
    server.stop()
    yield
    server.start()


def paused(server):
    return server.paused()


def test_down_at_the_start(site, store, private_mongod):
    store.add()
    (claim,) = store.stock_launches(site.home)
    store.add()
    in_place(Path(claim.launch_dir, "FW_offline.json"), stock_report(claim))
    private_mongod.stop()
    with site.daemon(serving=False) as daemon:
        error = is_down(daemon)
        assert "check that MongoDB runs" in error["hint"]

        document = site.json("status", status=4)
        assert document["agent"]["state"] == "running"
        assert document["database"]["reachable"] is False
        since = document["database"]["down_since"]
        assert since is not None
        told = site.run("status", status=4).stdout
        assert f"does not answer since {when(since)}" in told
        assert "nothing is lost" in told

        private_mongod.start()
        daemon.wait_for("serving")
        daemon.wait_for("applied", fw_id=claim.fw_id, state="COMPLETED")
        wait_until(lambda: store.states() == {1: "COMPLETED", 2: "RESERVED"})
        wait_until(lambda: site.json("status")["database"]["down_since"] is None)
    assert len(daemon.logged("recovered")) == 1


@pytest.mark.parametrize("outage", [stopped, paused])
def test_away_while_jobs_run_and_end(site, store, private_mongod, outage):
    """One of rlaunch, one of fwrunner: both end while nobody can be told.

    No timer fires: what an event has told once must not be forgotten while the database is away.
    """
    site.configure(launchpad=site.impatient_launchpad())
    first, child = store.add({}, {}, links={1: [2]})
    (alone,) = store.add()
    (claim,) = store.stock_launches(site.home)
    place = site.launch_one()["launch_dir"]
    offline = Path(claim.launch_dir, "FW_offline.json")
    in_place(offline, started(claim))
    with site.daemon() as daemon:
        daemon.wait_for("applied", fw_id=first, state="RUNNING")
        with outage(private_mongod):
            in_place(offline, stock_report(claim, stored_data={"x": 1}))
            is_down(daemon)
            assert site.fwrunner(place).status == 0
            document = site.json("status", status=4)
            assert document["database"]["down_since"]
            assert document["backlog"]["reports"] == 2
        daemon.wait_for("recovered")
        wait_until(lambda: not list(site.outbox.iterdir()))
        wait_until(lambda: store.state(child) == "RESERVED")
        assert daemon.running
    assert store.states() == {first: "COMPLETED", child: "RESERVED", alone: "COMPLETED"}
    assert store.launch(claim.launch_id)["action"]["stored_data"] == {"x": 1}
    # It went on trying, and did not tell each time.
    errors = [entry for entry in daemon.log if entry["level"] == "error"]
    assert len(errors) <= 3, errors
    assert not [entry for entry in daemon.log if "exception" in entry]


def test_sigterm_while_it_is_down_does_not_wait_for_it(site, store, private_mongod):
    site.configure(launchpad=site.impatient_launchpad(8000), sync={"outbox_interval": 86400})
    with site.daemon() as daemon:
        private_mongod.stop()
        daemon.reload()
        daemon.wait_for_error("does not answer", timeout=30)
        assert daemon.terminate(timeout=30) < 7
    assert daemon.log[-1]["event"] == "stopped"
    private_mongod.start()
    # Its lease ends by itself; until then, status tells who had it.
    lease, _live = store.launchpad.lease(WORKER)
    assert lease.pid == daemon.pid


def test_the_commands_say_so_and_change_nothing(site, store, private_mongod):
    (fw_id,) = store.add()
    place = site.launch_one()["launch_dir"]
    assert site.fwrunner(place).status == 0
    before = {path.name: path.read_bytes() for path in site.outbox.iterdir()}
    with stopped(private_mongod):
        for command in ("recover", "sync"):
            done = site.run(command, "--json", status=4)
            assert done.stdout == ""
            assert "does not answer" in done.stderr
        assert {path.name: path.read_bytes() for path in site.outbox.iterdir()} == before
    assert [row["state"] for row in site.json("recover")["applied"]] == ["COMPLETED"]
    assert store.state(fw_id) == "COMPLETED"
