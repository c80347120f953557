"""`fwagent doctor` on a real database, and what it says of a bad one."""

import os
import platform
import shutil

import pytest
from pymongo import ASCENDING

from agent import doctor
from agent.config import load_config
from fwcore.launchpad.diagnosis import Diagnosis
from fwrunner import __version__
from tests.support.agent import Site, Store


@pytest.fixture
def site(mongod, lp_name, tmp_path, monkeypatch):
    for name in ("crontab", "systemctl", "loginctl", "quota"):
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text("#!/bin/sh\ncat <$0.says 2>/dev/null\n")
        tool.chmod(0o755)
    site = Site(tmp_path / "home", mongod, lp_name)
    site.environment["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return site


def examined(site, *options, status=0):
    """{title: [checks]} of what the command tells."""
    checks: dict[str, list[dict[str, str]]] = {}
    for check in site.json("doctor", *options, status=status)["checks"]:
        checks.setdefault(check["title"], []).append(check)
    return checks


def only(rows):
    (row,) = rows
    return row


def test_all_is_well(site, lp, db):
    site.configure(queue={"type": "local"})
    before = set(db.list_collection_names())
    with site.daemon():
        checks = examined(site)
    assert {c["verdict"] for rows in checks.values() for c in rows} <= {"pass", "warn"}
    assert only(checks["agent"])["verdict"] == "pass"
    assert "serves this worker" in only(checks["agent"])["seen"]
    assert only(checks["indexes"])["seen"] == "all of FireWorks' are there"
    assert only(checks["writable"])["verdict"] == "pass"
    assert only(checks["rename"])["verdict"] == "pass"
    assert "MongoDB 6" in only(checks["database"])["seen"]
    assert "fwagent_probe" not in set(db.list_collection_names()) - before


def test_what_people_see(site):
    done = site.run("doctor")
    assert "ok    round trip: " in done.stdout
    assert "warn  agent: none serves this worker\n      -> fwagent service install" in done.stdout


def test_a_worker_that_sync_serves_from_cron(site):
    site.run("sync")
    check = only(examined(site)["agent"])
    assert check["verdict"] == "pass"
    assert "`fwagent sync` serves this worker, last at" in check["seen"]


def test_keys_that_promise_tls_and_do_nothing(site):
    path = site.home / "my_launchpad.yaml"
    host, _, port = site.server.address.partition(":")
    path.write_text(f"host: {host}\nport: {port}\nname: {site.db_name}\nssl: true\n")
    site.configure(launchpad={"uri": None, "name": None, "file": str(path)})
    told = [check for check in examined(site)["configuration"] if check["verdict"] == "warn"]
    assert "ssl in" in only(told)["seen"]
    assert "tls: true" in only(told)["hint"]


def test_a_database_that_is_away_is_told_once(site, private_mongod):
    site.server = private_mongod
    site.configure(launchpad=site.impatient_launchpad())
    private_mongod.stop()
    checks = examined(site, status=1)
    assert only(checks["database"])["verdict"] == "fail"
    assert "does not answer" in only(checks["database"])["seen"]
    assert not {"locks", "agent", "indexes"} & checks.keys()
    assert only(checks["rename"])["verdict"] == "pass"


def test_an_empty_database_is_no_launchpad(site, mongo_client, db_name):
    site.configure(launchpad={"name": db_name})
    assert only(examined(site, status=1)["LaunchPad"])["verdict"] == "fail"


def test_missing_indexes(site, db):
    db.fireworks.drop_index([("state", ASCENDING)])
    try:
        check = only(examined(site)["indexes"])
    finally:
        db.fireworks.create_index([("state", ASCENDING)])
    assert (check["verdict"], check["seen"]) == ("warn", "missing: fireworks.state")


def test_a_lock_that_nobody_can_be_told_to_hold(site, lp, db):
    (fw_id,) = Store(lp, db).add({})
    db.workflows.update_one({"nodes": fw_id}, {"$set": {"locked": True}})
    check = only(examined(site)["locks"])
    assert check["verdict"] == "warn"
    assert f"fwagent unlock {fw_id}" in check["hint"]


def test_cron_lines_that_still_run(site, tmp_path):
    says = tmp_path / "bin" / "crontab.says"
    says.write_text(
        "# lpad recover_offline\n*/5 * * * * lpad -l my.yaml recover_offline; qlaunch -r rapidfire\n"
    )
    check = only(examined(site)["cron"])
    assert check["verdict"] == "warn"
    assert "recover_offline" in check["seen"]
    says.write_text("# qlaunch\n* * * * * fwagent sync\n")
    assert only(examined(site)["cron"])["verdict"] == "pass"
    # Some sites have one that nobody may run, or that is of another machine.
    (tmp_path / "bin" / "crontab").write_bytes(b"\0\0")
    assert only(examined(site)["cron"])["verdict"] == "pass"


def test_commands_of_the_scheduler(site):
    site.configure(queue={"type": "lsf"})
    check = only(examined(site, status=1)["queue"])
    assert check["seen"] == "lsf: there is no bsub, bjobs, bkill on PATH"


def slurm(tmp_path, *more):
    """Have a Slurm with an empty queue."""
    for name in ("sbatch", "squeue", "scancel", *more):
        shutil.copy(tmp_path / "bin" / "quota", tmp_path / "bin" / name)
    (tmp_path / "bin" / "squeue.says").write_text("fwagent|JOBID|ST|REASON|COMMENT\n")


def test_a_scheduler_that_does_not_answer(site, tmp_path):
    slurm(tmp_path)
    site.configure(queue={"type": "slurm"})
    assert only(examined(site)["queue"])["verdict"] == "pass"
    (tmp_path / "bin" / "squeue").write_text(
        "#!/bin/sh\necho slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1\n"
    )
    check = only(examined(site, status=1)["queue"])
    assert check["verdict"] == "fail"
    assert "slurm does not answer" in check["seen"]
    assert "Unable to contact" in check["seen"]


def test_an_adapter_that_no_script_can_be_made_of(site, tmp_path):
    slurm(tmp_path)
    adapter = tmp_path / "my_qadapter.yaml"
    site.configure(queue={"type": "slurm", "file": str(adapter)})
    for rocket, status in (("rlaunch singleshot", 1), ("rlaunch singleshot --offline", 0)):
        adapter.write_text(f"_fw_q_type: SLURM\nrocket_launch: {rocket}\n")
        check = only(examined(site, status=status)["queue"])
        assert check["verdict"] == ("fail" if status else "pass")
        assert f"{rocket}" in check["seen"]
    assert check["seen"] == "slurm; jobs run `rlaunch singleshot --offline`"


def test_limits_of_the_scheduler(site, tmp_path):
    slurm(tmp_path, "scontrol")
    says = "MaxArraySize            = 1001\nMaxJobCount             = {}\n"
    site.configure(queue={"type": "slurm"}, launch={"max_queued": 50})
    for limit, verdict in ((20, "warn"), (10000, "pass")):
        (tmp_path / "bin" / "scontrol.says").write_text(says.format(limit))
        check = only(examined(site)["limits"])
        told = f"MaxJobCount {limit}, MaxArraySize 1001; launch.max_queued is 50"
        assert (check["verdict"], check["seen"]) == (verdict, told)


def test_limits_of_a_user_and_of_arrays(site, tmp_path):
    slurm(tmp_path, "scontrol", "sacctmgr", "qsub", "qstat", "qdel")
    (tmp_path / "bin" / "scontrol.says").write_text("MaxArraySize = 40\nMaxJobCount = 10000\n")
    site.configure(queue={"type": "slurm", "array": True}, launch={"max_queued": 50})
    check = only(examined(site)["limits"])
    assert (check["verdict"], check["hint"][:6]) == ("warn", "arrays")
    (tmp_path / "bin" / "sacctmgr.says").write_text("\n30\n20\n")
    check = only(examined(site)["limits"])
    assert check["verdict"] == "warn"
    assert "MaxSubmitJobs 20; launch.max_queued is 50" in check["seen"]
    assert "launch.max_queued" in check["hint"]
    says = "Server: s\n    max_array_size = 10000\n    max_queued = [u:PBS_GENERIC=20]\n"
    (tmp_path / "bin" / "qstat.says").write_text(says)
    site.configure(queue={"type": "pbs"}, launch={"max_queued": 50})
    # This qstat lists no jobs, whatever it is asked.
    check = only(examined(site, status=1)["limits"])
    told = "max_queued 20, max_array_size 10000; launch.max_queued is 50"
    assert (check["verdict"], check["seen"]) == ("warn", told)


def test_services_that_end_at_the_logout(site, tmp_path):
    assert "linger" not in examined(site)
    (tmp_path / "bin" / "systemctl.says").write_text("LoadState=not-found\n")
    shown = only(examined(site)["linger"])
    assert (shown["verdict"], shown["seen"][:20]) == ("warn", "not known: loginctl:")
    for answer, verdict in (("no", "warn"), ("yes", "pass")):
        (tmp_path / "bin" / "loginctl.says").write_text(f"Linger={answer}\n")
        shown = only(examined(site)["linger"])
        assert shown["verdict"] == verdict
        assert shown["hint"].startswith("loginctl enable-linger") == (answer == "no")


def test_a_quota_that_is_used_up(site, tmp_path):
    assert "quota" not in examined(site)
    (tmp_path / "bin" / "quota.says").write_text("Block limit reached on\n   /home\n")
    assert only(examined(site)["quota"])["seen"] == "Block limit reached on /home"


def test_a_job_goes_through_the_queue_and_back(site, lp, db):
    site.configure(queue={"type": "local"})
    with site.daemon() as agent:
        checks = examined(site, "--job")
        assert only(checks["trial job"])["verdict"] == "pass"
        there = only(checks["runner there"])
        assert there["seen"] == f"Python {platform.python_version()}, fwrunner {__version__}"
        for title in ("user there", "report seen", "events from there"):
            assert only(checks[title])["verdict"] == "pass"
        assert only(checks["clock of the compute node"])["verdict"] == "pass"
        assert agent.logged("ignored") == []
    assert list((site.root / ".fwagent").glob("trial-*")) == []
    assert db.launches.count_documents({}) == 0


def test_a_job_that_cannot_run(site, lp):
    site.configure(queue={"type": "local", "runner": "no-such-python -m fwrunner"})
    done = site.run("doctor", "--job", status=1)
    assert "FAIL  trial job: job 1 ended without a report" in done.stdout
    assert "no-such-python" in done.stdout
    assert "-> is `no-such-python -m fwrunner` there on a compute node" in done.stdout
    assert "job 1: gone" in done.stderr


def test_a_job_that_takes_too_long_is_cancelled(site, lp, tmp_path):
    mark = tmp_path / "ended"
    long = f"sh -c 'trap \"touch {mark}; exit\" TERM; while :; do sleep 0.1; done'"
    site.configure(queue={"type": "local", "runner": long})
    check = only(examined(site, "--job", "--wait", 1)["trial job"])
    assert check["verdict"] == "warn"
    assert check["seen"].startswith("job 1 has not ended within 1 s: ")
    assert mark.exists()
    assert list((site.root / ".fwagent").glob("trial-*")) == []


def test_nobody_submits_a_job_where_people_do(site, lp):
    site.configure(queue={"type": "none"})
    assert only(examined(site, "--job")["trial job"])["verdict"] == "warn"


def test_a_configuration_that_others_may_change(site):
    site.config.chmod(0o666)
    assert {c["verdict"] for c in examined(site)["configuration"]} == {"pass", "warn"}


@pytest.mark.parametrize(
    ("place", "words"),
    [("gone/x.prom", "cannot be written"), ("x.txt", "does not end with .prom")],
)
def test_metrics_that_nobody_would_see(site, tmp_path, place, words):
    site.configure(
        monitor={"metrics_file": str(tmp_path / place), "heartbeat_url": "http://h/t0ken"}
    )
    site.config.chmod(0o644)
    found = site.run("doctor", status=None).stdout
    assert words in found
    assert "others can read the heartbeat's URL" in found
    assert "t0ken" not in found


def test_what_was_left_behind(site, tmp_path):
    rescued = site.home / ".fwagent" / "rescue"
    rescued.mkdir(parents=True)
    (rescued / "7.abc.json").touch()
    assert "1 in " in only(examined(site)["left behind"])["seen"]


def test_a_root_that_cannot_be_used(site):
    site.home.joinpath("fireworks").write_text("a file")
    check = only(examined(site, status=1)["launch root"])
    assert "is not usable" in check["seen"]
    assert check["hint"]


@pytest.mark.parametrize(
    ("facts", "title", "verdict"),
    [
        ({"round_trip": 0.3}, "round trip", "warn"),
        ({"clock_ahead": -90.0}, "clock of the database", "warn"),
        ({"unwritable": "not authorized on fw to execute command"}, "writable", "fail"),
    ],
)
def test_verdicts(facts, title, verdict):
    good = {"version": "6", "round_trip": 0.001, "clock_ahead": 0.0}
    found = {check.title: check for check in doctor._found_in(Diagnosis(**{**good, **facts}))}
    assert found[title].verdict == verdict
    assert found[title].hint


def test_every_check_is_guarded(site, monkeypatch):
    def broken(*_arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(doctor, "_launch_root", broken)
    found = list(doctor.examine(load_config(site.config), site.config))
    (check,) = [check for check in found if check.title == "launch root"]
    assert check.verdict == "warn"
    assert found[-1].title != "launch root"


def test_a_broken_worker_file_is_told_once(site, tmp_path):
    file = tmp_path / "my_fworker.yaml"
    file.write_text("name: 7\n")
    site.configure(worker={"file": str(file), "name": None})
    site.config.chmod(0o666)
    checks = examined(site, status=1)
    writable, broken = checks["configuration"]
    assert writable["seen"].startswith("others may change it")
    assert (broken["verdict"], str(file) in broken["seen"]) == ("fail", True)
    assert only(checks["database"])["verdict"] == "pass"
    assert "locks" in checks
    assert "agent" not in checks


@pytest.mark.parametrize(
    ("watches", "instances", "scarce"),
    [(8192, 128, ""), (8192, 8, "instances"), (10, 8, "watches")],
)
def test_limits_of_inotify(tmp_path, monkeypatch, watches, instances, scarce):
    monkeypatch.setattr(doctor, "INOTIFY", tmp_path)
    (tmp_path / "max_user_watches").write_text(f"{watches}\n")
    (tmp_path / "max_user_instances").write_text(f"{instances}\n")
    check = doctor._inotify()
    assert check.seen == f"{watches} watches and {instances} instances for all programs of yours"
    assert check.verdict == ("warn" if scarce else "pass")
    assert f"max_user_{scarce}" in check.hint if scarce else not check.hint


def test_no_instance_of_inotify_is_left(monkeypatch):
    def refuse(_told):
        raise OSError(24, "inotify: no instance is left")

    monkeypatch.setattr(doctor, "Inotify", refuse)
    check = doctor._inotify()
    assert check.verdict == "warn"
    assert check.seen.startswith("inotify: no instance is left; ")
    assert "fs.inotify.max_user_" in check.hint
