"""`fwagent run` as a process on a real database: what wakes it, what it does, and how it ends."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from agent.health import Health
from agent.lease import LeaseKeeper
from fwrunner.protocol import Report, outbox_name, timestamp, write_atomic, write_report
from tests.support.agent import (
    SHORT_LEASE,
    WORKER,
    Site,
    in_place,
    stock_report,
    wait_until,
)
from tests.support.listener import listening

SCRIPT = {"_tasks": [{"_fw_name": "ScriptTask", "script": "true"}]}
FAILS = {"_tasks": [{"_fw_name": "ScriptTask", "script": "exit 3"}]}


def only(rows):
    (row,) = rows
    return row


# ------------------------------------------------------------------------------------ the main job


@pytest.mark.parametrize("events", [True, False], ids=["events", "no-events"])
def test_a_workflow_runs_by_itself(site, store, events):
    """Fan-out, fan-in and a failure, with no timer: only reports drive it on. Without events, the outbox is listed."""
    a, b, c, d, e, f = store.add(
        SCRIPT,
        SCRIPT,
        SCRIPT,
        SCRIPT,
        FAILS,
        SCRIPT,
        links={1: [2, 3], 2: [4], 3: [4], 4: [5], 5: [6]},
    )
    sync = {"events": True} if events else {"events": False, "outbox_interval": 0.3}
    site.configure(queue={"type": "local"}, sync=sync)
    with site.daemon() as daemon:
        daemon.wait_for("applied", fw_id=e, state="FIZZLED")
        told = site.json("status")["events"]
        assert (told["kind"] == "not used") is not events
        # Each report comes twice, in its directory and in the outbox.
        wait_until(lambda: not list(site.outbox.iterdir()))
    assert store.states() == {
        **dict.fromkeys((a, b, c, d), "COMPLETED"),
        e: "FIZZLED",
        f: "WAITING",
    }
    assert store.db.launches.count_documents({}) == 5
    assert store.db.offline_runs.count_documents({"completed": True}) == 5
    assert store.locks() == 0
    assert next(entry["fw_id"] for entry in daemon.logged("submitted")) == a
    assert not daemon.logged("deferred")


def test_max_queued_is_kept_and_a_reload_takes_a_new_one_over(site, store):
    for _ in range(5):
        store.add()
    site.configure(launch={"max_queued": 1})
    with site.daemon() as daemon:
        wait_until(lambda: store.launchpad.active_count(WORKER)["RESERVED"] == 1)

        site.config.write_text("[launch\n", encoding="utf-8")
        daemon.reload()
        kept = daemon.wait_for("the old configuration stays in force")
        assert "is not valid TOML" in kept["reason"]

        site.configure(launch={"max_queued": 1}, worker={"name": "other"})
        daemon.reload()
        kept = daemon.wait_for("the old configuration stays in force")
        assert "the worker cannot change" in kept["reason"]
        assert store.launchpad.active_count(WORKER)["RESERVED"] == 1

        site.configure(launch={"max_queued": 3})
        daemon.reload()
        daemon.wait_for("the new configuration is in force")
        wait_until(lambda: store.launchpad.active_count(WORKER)["RESERVED"] == 3)
    assert len(daemon.logged("the new configuration is in force")) == 1
    assert store.launchpad.active_count(WORKER)["RESERVED"] == 3


# -------------------------------------------------------------------------------------- what wakes


def test_a_stock_launch_is_found_by_the_sweep_alone(site, store):
    """With all events lost, and nothing in the outbox: rlaunch has none."""
    store.add()
    claim = only(store.stock_launches(site.home))
    site.configure(sync={"events": False, "sweep_interval": 0.3})
    offline = Path(claim.launch_dir, "FW_offline.json")
    with site.daemon() as daemon:
        final = stock_report(claim)
        site.await_first_pass()
        in_place(offline, {"launch_id": claim.launch_id, "started_on": final["started_on"]})
        daemon.wait_for("applied", launch_id=claim.launch_id, state="RUNNING")
        in_place(offline, final)
        daemon.wait_for("applied", launch_id=claim.launch_id, state="COMPLETED")
    assert store.state(claim.fw_id) == "COMPLETED"


def test_a_stock_launch_is_found_and_picked_up_by_event(site, store):
    """Nothing of ours is in its files or documents, and it writes in place. No sweep is due for a day."""
    store.add()
    claim = only(store.stock_launches(site.home))
    offline = Path(claim.launch_dir, "FW_offline.json")
    with site.daemon() as daemon:
        final = stock_report(claim)
        started = {"launch_id": claim.launch_id, "started_on": final["started_on"]}
        site.await_first_pass()
        in_place(offline, started)
        daemon.wait_for("applied", launch_id=claim.launch_id, state="RUNNING")
        assert store.state(claim.fw_id) == "RUNNING"

        in_place(offline, final)
        applied = daemon.wait_for("applied", launch_id=claim.launch_id, state="COMPLETED")
        assert applied["latency"] < 1
    assert store.state(claim.fw_id) == "COMPLETED"


def test_the_sweep_finds_what_no_event_tells(site, store):
    """The watch stays on the directory that was moved away; a new one is in its place."""
    store.add()
    claim = only(store.stock_launches(site.home))
    site.configure(sync={"sweep_interval": 0.5})
    with site.daemon() as daemon:
        site.await_first_pass()
        place = Path(claim.launch_dir)
        place.rename(site.home / "away")
        place.mkdir()
        in_place(place / "FW_offline.json", stock_report(claim))
        daemon.wait_for("applied", launch_id=claim.launch_id, state="COMPLETED")
    assert store.state(claim.fw_id) == "COMPLETED"


def test_a_directory_that_was_moved_below_the_root_is_gone_after(site, store):
    fw_id = only(store.add())
    claim = site.launch_one()
    site.configure(sync={"sweep_interval": 0.3})
    with site.daemon() as daemon:
        site.await_first_pass()
        moved = site.root / "moved"
        Path(claim["launch_dir"]).rename(moved)
        daemon.wait_for("moved", launch_id=claim["launch_id"], launch_dir=str(moved))
        in_place(moved / "FW_offline.json", told_by(moved))
        daemon.wait_for("applied", fw_id=fw_id, state="COMPLETED")
    assert store.launch(claim["launch_id"])["launch_dir"] == str(moved)


def test_two_directories_that_have_changed_places_are_found(site, store):
    store.add()
    store.add()
    claims = [site.launch_one() for _ in range(2)]
    one, other = (Path(claim["launch_dir"]) for claim in claims)
    site.configure(sync={"sweep_interval": 0.3})
    with site.daemon() as daemon:
        site.await_first_pass()
        one.rename(site.root / "aside")
        other.rename(one)
        (site.root / "aside").rename(other)
        wait_until(lambda: len(daemon.logged("moved")) == 2)
        for claim, place in zip(claims, (other, one), strict=True):
            in_place(place / "FW_offline.json", told_by(place))
            daemon.wait_for("applied", fw_id=claim["fw_id"], state="COMPLETED")
            assert store.launch(claim["launch_id"])["launch_dir"] == str(place)


def test_a_name_that_no_database_can_hold_stops_nothing(site, store):
    fw_id = only(store.add())
    claim = site.launch_one()
    site.configure(sync={"sweep_interval": 0.3, "reserve_interval": 0.5})
    with site.daemon() as daemon:
        site.await_first_pass()
        bad = site.root / os.fsdecode(b"bad\xff")
        Path(claim["launch_dir"]).rename(bad)
        wait_until(lambda: daemon.logged("deferred", launch_id=claim["launch_id"]))
        later = only(store.add())
        wait_until(lambda: store.state(later) == "RESERVED")
        done = site.run("register", bad, status=1)
        assert "not valid UTF-8" in done.stderr + done.stdout
        back = site.root / "good"
        bad.rename(back)
        assert site.run("register", back).status == 0
        in_place(back / "FW_offline.json", told_by(back))
        daemon.wait_for("applied", fw_id=fw_id, state="COMPLETED")


def told_by(place):
    """What a run there leaves that cannot reach the outbox."""
    offline = json.loads((place / "FW_offline.json").read_text(encoding="utf-8"))
    now = timestamp()
    times = {"started_on": now, "completed_on": now}
    return {**offline, **times, "fwaction": {}, "state": "COMPLETED"}


def test_the_sweep_retires_what_lpad_has_left_open(site, store):
    """Runs that say nothing any more, of Fireworks that were rerun; such databases are there already."""
    store.add()
    store.add()
    rerun, plain = store.stock_launches(site.home, n=2)
    store.rerun(rerun.fw_id)
    with site.daemon() as daemon:
        daemon.wait_for("ignored", launch_id=rerun.launch_id)
    closed = {run["launch_id"]: run["deprecated"] for run in store.db.offline_runs.find()}
    assert {n: closed[n] for n in (rerun.launch_id, plain.launch_id)} == {
        rerun.launch_id: True,
        plain.launch_id: False,
    }
    assert store.db.launches.find_one({"launch_id": rerun.launch_id})["state"] == "RESERVED"


def report_into(outbox, claim, token):
    report = Report(claim.launch_id, "COMPLETED", "/gone", claim.fw_id, token, fwaction={})
    write_report(str(outbox / outbox_name(claim.launch_id, token, final=True)), report)


def test_an_outbox_entry_wakes(site, store):
    """Its launch directory is nowhere, and no timer fires."""
    store.add()
    claim = only(store.stock_launches(site.home))
    with site.daemon() as daemon:
        site.await_first_pass()
        report_into(site.outbox, claim, "any")
        applied = daemon.wait_for("applied", launch_id=claim.launch_id, state="COMPLETED")
        assert applied["latency"] < 1
    assert list(site.outbox.iterdir()) == []


def test_the_listing_finds_an_outbox_entry_that_no_event_tells(site, store):
    store.add()
    claim = only(store.stock_launches(site.home))
    site.configure(sync={"outbox_interval": 0.5})
    with site.daemon() as daemon:
        site.await_first_pass()
        site.outbox.rename(site.home / "away")
        site.outbox.mkdir()
        report_into(site.outbox, claim, "any")
        # Long before the loop would look of its own accord, to renew its lease.
        daemon.wait_for("applied", launch_id=claim.launch_id, state="COMPLETED", timeout=8)
    assert list(site.outbox.iterdir()) == []


def test_new_work_is_found_by_the_timer(site, store):
    site.configure(sync={"reserve_interval": 0.5})
    with site.daemon():
        fw_id = only(store.add())
        wait_until(lambda: store.state(fw_id) == "RESERVED")


# ------------------------------------------------------------------------------- pings are no news


def test_a_firework_that_cannot_be_understood_is_told_once_and_slows_nobody_down(site, store, db):
    (bad,) = store.add()
    db.fireworks.update_one({"fw_id": bad}, {"$unset": {"spec": ""}})
    site.configure(queue={"type": "local"}, sync={"reserve_interval": 1})
    with site.daemon() as daemon:
        told = daemon.wait_for("deferred", fw_id=bad)
        assert "cannot be understood" in told["reason"]
        (good,) = store.add(SCRIPT)
        daemon.wait_for("applied", fw_id=good, state="COMPLETED")
        assert not [entry for entry in daemon.log if entry["event"] == "cannot launch"]
    assert len([entry for entry in daemon.log if entry["event"] == "deferred"]) == 1


def test_a_running_job_is_told_once_and_its_pings_reach_the_database(site, store):
    store.add()
    claim = only(store.stock_launches(site.home))
    place = Path(claim.launch_dir)
    final = stock_report(claim)
    started = {"launch_id": claim.launch_id, "started_on": final["started_on"]}
    in_place(place / "FW_offline.json", started)
    with site.daemon() as daemon:
        daemon.wait_for("applied", state="RUNNING")
        for minute in (1, 2, 3):
            ping = f"2090-01-01T00:0{minute}:00"
            write_atomic(str(place / "FW_ping.json"), {"ping_time": ping})
            wait_until(partial(is_last_update, store, claim, ping))
        in_place(place / "FW_offline.json", final)
        daemon.wait_for("applied", state="COMPLETED")
    assert len(daemon.logged("applied")) == 2


def is_last_update(store, claim, time):
    return time in str(store.launch(claim.launch_id)["state_history"][-1].get("updated_on"))


# --------------------------------------------------------------------------------------- its end


def test_sigterm_ends_it_promptly_and_gives_the_lease_back(site, store):
    with site.daemon() as daemon:
        lease, live = store.launchpad.lease(WORKER)
        assert (live, lease.pid) == (True, daemon.pid)
        status = site.json("status")
        assert (status["agent"]["state"], status["agent"]["pid"]) == ("running", daemon.pid)
        assert daemon.terminate() < 3
    assert store.launchpad.lease(WORKER)[1] is False
    status = site.json("status")
    assert (status["agent"]["state"], status["agent"]["mode"]) == ("down", "stopped")
    assert daemon.log[-1]["event"] == "stopped"


def test_a_database_without_a_launchpad_is_told_once_and_served_when_it_has_one(
    site, mongo_client, db_name
):
    site.configure(launchpad={"name": db_name})
    with site.daemon(serving=False) as daemon:
        error = daemon.wait_for(
            f"the database '{db_name}' at {site.server.address}/{db_name} holds no LaunchPad"
        )
        assert "check the database name" in error["hint"]
        assert db_name not in mongo_client.list_database_names()
        site.run("add", workflow_file(site))
        daemon.wait_for("recovered")
        database = mongo_client[db_name]
        wait_until(lambda: database.fireworks.find_one()["state"] == "RESERVED")
    assert sum("LaunchPad" in entry["event"] for entry in daemon.log) == 1


def workflow_file(site):
    path = site.home / "one.yaml"
    path.write_text("spec: {_tasks: [{_fw_name: ScriptTask, script: 'true'}]}\n", encoding="utf-8")
    return path


def test_passes_that_do_nothing_are_silent(site, store):
    site.configure(
        sync=dict.fromkeys(("sweep_interval", "outbox_interval", "reserve_interval"), 0.05)
    )
    with site.daemon() as daemon:
        site.await_first_pass()
        before = list(daemon.log)
        store.add()
        claim = only(store.stock_launches(site.home))
        in_place(Path(claim.launch_dir, "FW_offline.json"), stock_report(claim))
        daemon.wait_for("applied", state="COMPLETED")
        wait_until(lambda: site.told()["applied"] == 1)
        assert [entry["event"] for entry in daemon.log[len(before) :]] == ["applied"]
    assert [entry["event"] for entry in before] == ["started", "serving"]


# ------------------------------------------------------------------------------ told to others


def test_metrics_and_heartbeats_while_it_serves(site, store):
    path = site.home / "fwagent.prom"
    with listening() as listener:
        monitor = {
            "metrics_file": str(path),
            "heartbeat_url": listener.url,
            "heartbeat_interval": 0.1,
        }
        site.configure(monitor=monitor, sync={"outbox_interval": 0.05})
        store.add()
        with site.daemon() as daemon:
            listener.status = 503
            failed = daemon.wait_for("the heartbeat is not taken")
            assert failed["reason"] == "HTTP status 503"
            listener.status = 200
            daemon.wait_for("the heartbeat is taken again")
            wait_until(lambda: store.state(1) == "RESERVED")
            text = path.read_text(encoding="utf-8")
            assert 'fwagent_serving{worker="test-worker"} 1.0' in text
            reload_without(site, daemon)
        assert 'fwagent_passes_total{worker="test-worker"}' in path.read_text(encoding="utf-8")
        assert set(listener.asked) == {"/ping/t0ken"}
        count = len(listener.asked)
        site.configure(monitor={"heartbeat_url": listener.url})
        site.run("sync")
        assert len(listener.asked) == count + 1
        listener.status = 404
        assert "the heartbeat is not taken: HTTP status 404" in site.run("sync").stderr
    assert "t0ken" not in str(daemon.log)


def reload_without(site, daemon):
    site.configure()
    daemon.reload()
    daemon.wait_for("the new configuration is in force")


def test_a_reload_gives_events_up(site, store):
    def kind():
        return site.json("status")["events"]["kind"]

    site.configure(sync={"events": True})
    with site.daemon() as daemon:
        site.await_first_pass()
        assert kind() != "not used"
        site.configure(sync={"events": False})
        daemon.reload()
        daemon.wait_for("the new configuration is in force")
        wait_until(lambda: kind() == "not used")


# -------------------------------------------------------------------------------- two for one worker


def test_a_second_agent_is_idle_until_the_first_ends(site, store, mongod, lp_name, tmp_path):
    second = Site(tmp_path / "second", mongod, lp_name)
    with (
        site.daemon(command=SHORT_LEASE) as first,
        second.daemon(command=SHORT_LEASE, serving=False) as daemon,
    ):
        idle = daemon.wait_for("idle: another agent serves this worker")
        assert f"process {first.pid}" in idle["holder"]
        assert "takes over when the other is gone" in idle["hint"]
        wait_until(lambda: f"process {first.pid}" in str(second.json("status")["agent"]["mode"]))
        assert f"(process {first.pid}) serves this worker" in second.run("status").stdout

        # A reload of an idle agent is done once, and changes nothing in who serves.
        daemon.reload()
        daemon.wait_for("the new configuration is in force")
        store.add()
        first.reload()
        wait_until(lambda: store.states() == {1: "RESERVED"})
        assert store.launch(1)["launch_dir"].startswith(str(site.root))

        first.terminate()
        daemon.wait_for("serving")
        store.add()
        daemon.reload()
        daemon.wait_for("the new configuration is in force")
        wait_until(lambda: store.states() == {1: "RESERVED", 2: "RESERVED"})
        assert store.launch(2)["launch_dir"].startswith(str(second.root))
    assert len(daemon.logged("idle: another agent serves this worker")) == 1
    assert len(daemon.logged("the new configuration is in force")) == 2


def test_a_second_agent_takes_over_from_one_that_was_killed(site, store, mongod, lp_name, tmp_path):
    second = Site(tmp_path / "second", mongod, lp_name)
    store.add()
    claim = only(store.stock_launches(site.home))
    with (
        site.daemon(command=SHORT_LEASE) as first,
        second.daemon(command=SHORT_LEASE, serving=False) as daemon,
    ):
        daemon.wait_for("idle: another agent serves this worker")
        first.kill()
        in_place(Path(claim.launch_dir, "FW_offline.json"), stock_report(claim))
        daemon.wait_for("serving")
        daemon.wait_for("applied", launch_id=claim.launch_id, state="COMPLETED")
    assert store.launchpad.lease(WORKER)[0].epoch == 2


def test_an_agent_that_was_stopped_for_too_long_does_not_serve_any_more(
    site, store, mongod, lp_name, tmp_path
):
    second = Site(tmp_path / "second", mongod, lp_name)
    with (
        site.daemon(command=SHORT_LEASE) as first,
        second.daemon(command=SHORT_LEASE, serving=False) as daemon,
    ):
        first.send(signal.SIGSTOP)
        daemon.wait_for("serving")
        first.send(signal.SIGCONT)
        first.wait_for("the lease was lost")
        idle = first.wait_for("idle: another agent serves this worker")
        assert f"process {daemon.pid}" in idle["holder"]


def test_a_lease_that_runs_out_unrenewed_is_taken(lp, monkeypatch):
    from agent import lease as leases

    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.2)
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.0)
    first, second = (LeaseKeeper(WORKER, Health(WORKER)) for _ in range(2))
    assert first.held(lp)
    assert not second.held(lp)
    assert first.held(lp)
    wait_until(lambda: second.held(lp), 5)
    assert not first.held(lp)
    second.give_back(lp)
    assert first.held(lp)
