"""The command line as people and scripts use it: the installed command, on a real database."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fwrunner.protocol import write_atomic
from tests.support.agent import FWAGENT, TASKS, WORKER, stock_report, wait_until, write_toml

WORKFLOW = {
    "name": "pair",
    "fws": [
        {"fw_id": 1, "spec": {"_tasks": TASKS}, "name": "first"},
        {"fw_id": 2, "spec": {"_tasks": TASKS}, "name": "second"},
    ],
    "links": {"1": [2]},
    "metadata": {},
}


def nowhere(path, **login):
    """A [launchpad] where nobody listens, and nobody waits for long."""
    limit = {"serverSelectionTimeoutMS": 200}
    settings = {"host": "127.0.0.1", "port": 1, "name": "fireworks", "mongoclient_kwargs": limit}
    path.write_text(json.dumps({**settings, **login}), encoding="utf-8")
    path.chmod(0o600)
    return {"file": str(path), "uri": None, "name": None}


def entries(document):
    """The lists of a result that are not empty."""
    assert set(document) == {"applied", "deferred", "ignored", "claimed", "submitted"}
    return {name: rows for name, rows in document.items() if rows}


def only(rows):
    (row,) = rows
    return row


# ------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((), ["Exit status", "recover", "launch", "status", "0 done"]),
        (("run",), ["SIGTERM", "SIGHUP", "second agent", "--verbose"]),
        (("sync",), ["one whole pass", "cron", "--json"]),
        (("recover",), ["lpad recover_offline", "--any-worker", "--fw-id", "never FIZZLED"]),
        (("launch",), ["qlaunch -r", "--stage-only", "-n", "--fw-id"]),
        (("add",), ["lpad add", "FILE", "before the first is added"]),
        (("register",), ["DIR", "without it"]),
        (("unregister",), ["register", "DIR"]),
        (("dirs",), ["where it knows them from", "--json"]),
        (("status",), ["when the agent is down", "exit status 4"]),
    ],
)
def test_help_says_what_a_command_does(site, command, words):
    done = site.run(*command, "--help", config=False, fresh=not command)
    text = " ".join(done.stdout.replace("│", " ").split())
    text = text.replace("Nothing is ever FIZZLED", "never FIZZLED")
    missing = [word for word in words if word not in text]
    assert not missing, done.stdout


# ---------------------------------------------------------------------------------- the exit status


def test_2_without_a_configuration(site):
    site.environment["HOME"] = str(site.home / "elsewhere")
    done = site.run("status", config=False, status=2, fresh=True)
    assert done.stdout == ""
    assert "error: there is no configuration at" in done.stderr
    assert "hint:  fwagent init writes one" in done.stderr
    assert "--config" in done.stderr


def test_the_configuration_may_come_before_or_after_the_command_or_from_the_environment(site):
    site.run("dirs")
    site.run("dirs", "-c", site.config, config=False)
    site.environment["FWAGENT_CONFIG"] = str(site.config)
    site.run("dirs", config=False)


def test_2_for_a_broken_configuration(site):
    site.configure(launch={"max_queue": 3})
    done = site.run("recover", "--json", status=2)
    assert done.stdout == ""
    assert "unknown key 'launch.max_queue'" in done.stderr
    assert "did you mean 'max_queued'?" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["launch", "-n", "0"], ["recover", "-i", "x"], ["add"], ["no"]]
)
def test_2_for_wrong_usage(site, arguments):
    assert site.run(*arguments, status=2).stdout == ""


def test_2_for_an_option_that_no_script_can_have(site, store):
    store.add()
    site.configure(queue={"type": "slurm", "options": {"acount": "m"}})
    done = site.run("launch", "--json", status=2)
    assert done.stdout == ""
    assert "queue.options: unknown option 'acount' for slurm" in done.stderr
    assert "did you mean 'account'?" in done.stderr
    assert store.states() == {1: "READY"}


def test_3_where_the_scheduler_has_no_commands(site, store):
    """The way back works without them, and so does looking."""
    store.add()
    site.configure(queue={"type": "slurm"})
    site.environment["PATH"] = str(site.home)
    done = site.json("launch", status=3)
    assert only(done["deferred"])["reason"] == "sbatch cannot be run: No such file or directory"
    assert store.states() == {1: "READY"}
    site.json("recover")
    site.run("status", status=None)


def test_a_firework_with_an_option_that_no_script_can_have_fizzles(site, store):
    """As one that the scheduler refuses: the third time."""
    bad, good = only(store.add({"_queueadapter": {"wall": 5}})), only(store.add())
    site.configure(queue={"type": "slurm", "options": {"walltime": "5"}})
    site.environment["PATH"] = str(site.home)
    for _attempt in range(2):
        done = site.json("launch", "-i", bad, status=3)
        assert only(done["deferred"])["reason"] == "unknown option 'wall' for slurm"
        assert store.state(bad) == "READY"
    done = site.json("launch", "-i", bad, status=1)
    assert only(done["applied"])["state"] == "FIZZLED"
    assert store.states() == {bad: "FIZZLED", good: "READY"}
    launch = store.launch(only(done["applied"])["launch_id"])
    message = launch["action"]["stored_data"]["_message"]
    assert message == "not submitted, refused 3 times: unknown option 'wall' for slurm"
    store.launchpad.rerun([bad])
    site.json("launch", "-i", bad, status=3)


def test_1_for_a_database_without_a_launchpad(site, mongo_client):
    site.configure(launchpad={"name": "no_such_database"})
    for command in ("launch", "sync"):
        done = site.run(command, status=1)
        assert "holds no LaunchPad" in done.stderr
        assert "check the database name" in done.stderr
    assert "no_such_database" not in mongo_client.list_database_names()


def test_4_when_the_database_does_not_answer(site):
    site.configure(launchpad=nowhere(site.home / "my_launchpad.yaml"))
    done = site.run("status", "--json", status=4, fresh=True)
    assert done.json["database"]["reachable"] is False
    assert "127.0.0.1:1" in done.json["database"]["error"]
    assert done.json["fireworks"] is None
    for command in ("launch", "dirs"):
        done = site.run(command, "--json", status=4)
        assert done.stdout == ""
        assert "error: the database at 127.0.0.1:1/fireworks does not answer" in done.stderr
        assert "nothing is lost meanwhile" in done.stderr


# --------------------------------------------------------------------------------------------- add


def test_add_yaml_and_json(site, store, tmp_path):
    as_json = tmp_path / "pair.json"
    as_json.write_text(json.dumps(WORKFLOW), encoding="utf-8")
    as_yaml = tmp_path / "one.yaml"
    as_yaml.write_text(
        "name: single\nspec:\n  _tasks:\n  - {_fw_name: ScriptTask, script: 'true'}\n", "utf-8"
    )
    done = site.json("add", as_json, as_yaml)
    assert done == {
        "added": [
            {"file": str(as_json), "fw_ids": {"1": 1, "2": 2}},
            {"file": str(as_yaml), "fw_ids": {"-1": 3}},
        ]
    }
    assert store.states() == {1: "READY", 2: "WAITING", 3: "READY"}

    assert site.run("add", as_json).stdout == f"{as_json}: 2 Fireworks, id_map: {{1: 4, 2: 5}}\n"


def test_add_makes_a_launchpad_of_an_empty_database_and_says_so(
    site, mongo_client, db_name, tmp_path
):
    path = tmp_path / "pair.json"
    path.write_text(json.dumps(WORKFLOW), encoding="utf-8")
    site.configure(launchpad={"name": db_name})
    done = site.run("add", path, "--json")
    assert "made a new LaunchPad in the empty database" in done.stderr
    assert only(done.json["added"])["fw_ids"] == {"1": 1, "2": 2}
    assert mongo_client[db_name].fireworks.count_documents({}) == 2
    assert "made a new" not in site.run("add", path).stderr


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "fws: [\n", "is not valid YAML"),
        ("a.json", "{", "is not valid JSON"),
        ("a.yaml", "- 1\n", "holds no object"),
        ("a.json", '{"fws": []}', "'fws' is not a list"),
        ("a.json", json.dumps({**WORKFLOW, "links": {"1": [9]}}), "9"),
        ("a.json", json.dumps({**WORKFLOW, "links": {"1": [2], "2": [1]}}), "cycl"),
        ("a.json", json.dumps({"spec": {"x": 2**70, "_tasks": []}}), "64"),
        ("none.yaml", None, "there is no file"),
    ],
)
def test_one_broken_file_and_nothing_is_added(site, store, tmp_path, name, text, words):
    good = tmp_path / "good.json"
    good.write_text(json.dumps(WORKFLOW), encoding="utf-8")
    bad = tmp_path / name
    if text is not None:
        bad.write_text(text, encoding="utf-8")
    done = site.run("add", good, bad, "--json", status=2)
    assert done.stdout == ""
    assert words in done.stderr
    assert store.states() == {}
    assert store.db.workflows.count_documents({}) == 0


# ------------------------------------------------------------------------------------------ launch


def test_launch_without_a_queue_leaves_the_scripts_to_the_user(site, store):
    store.add()
    store.add()
    claimed = entries(site.json("launch", "-n", 1))
    row = only(claimed.pop("claimed"))
    assert claimed == {}
    assert (row["fw_id"], row["launch_id"]) == (1, 1)
    place = Path(row["launch_dir"])
    assert place.parent.parent == site.root
    assert sorted(path.name for path in place.iterdir()) == [
        "FW.json",
        "FW_offline.json",
        "FW_submit.script",
    ]
    assert store.states() == {1: "RESERVED", 2: "READY"}
    assert store.launch(1)["launch_dir"] == str(place)
    assert store.launch(1)["fworker"]["name"] == WORKER
    assert store.locks() == 0


def test_launch_fills_the_queue_and_no_more(site, store):
    for _ in range(4):
        store.add()
    site.configure(launch={"max_queued": 3})
    assert len(site.json("launch")["claimed"]) == 3
    assert entries(site.json("launch", "-n", 5)) == {}
    assert list(store.states().values()).count("RESERVED") == 3
    # What is staged only is in no queue.
    assert len(site.json("launch", "-n", 5, "--stage-only")["claimed"]) == 1


def test_launch_by_number(site, store):
    ready, waiting = store.add({}, {}, links={1: [2]})
    other = only(store.add({"_category": "of-another-worker"}))
    done = site.json("launch", "-i", other, "-i", waiting, "-i", 77, status=1)
    assert [row["fw_id"] for row in done["claimed"]] == [other]
    assert done["ignored"] == [
        {"launch_id": None, "fw_id": waiting, "reason": f"Firework {waiting} is WAITING"},
        {"launch_id": None, "fw_id": 77, "reason": "Firework 77 is not in the database"},
    ]
    assert store.states() == {ready: "READY", waiting: "WAITING", other: "RESERVED"}

    again = site.run("launch", "-i", other, status=1)
    assert f"Firework {other} is RESERVED" in again.stdout


def test_launch_into_the_local_queue_or_only_into_a_directory(site, store):
    first, second = store.add()[0], store.add()[0]
    site.configure(queue={"type": "local"})
    done = entries(site.json("launch", "-n", 1, "--stage-only"))
    assert set(done) == {"claimed"}
    assert not (site.root / ".fwagent" / "local").exists() or not list(
        (site.root / ".fwagent" / "local").glob("*/*/*-1.json")
    )

    done = entries(site.json("launch", "-n", 1))
    row = only(done["submitted"])
    assert (row["launch_id"], row["fw_id"]) == (2, second)
    history = store.launch(2)["state_history"]
    assert history[0]["reservation_id"] == row["job_id"]
    assert "reservation_id" not in store.launch(1)["state_history"][0]
    assert store.state(first) == "RESERVED"
    # The job runs by itself, and is brought back: no daemon, only commands.
    place = Path(only(done["claimed"])["launch_dir"])
    wait_until((place / "FW_action.json").exists)
    states = {row["state"] for row in site.json("recover")["applied"]}
    assert "COMPLETED" in states
    assert store.state(second) == "COMPLETED"


def test_a_place_that_cannot_be_used_gives_the_firework_back(site, store):
    (site.home / "file").touch()
    bad = only(store.add({"_launch_dir": str(site.home / "file" / "x"), "_priority": 5}))
    good = only(store.add())
    done = site.json("launch", "-n", 2, status=3)
    row = only(done["deferred"])
    assert row["fw_id"] == bad
    assert "cannot be made ready: Not a directory" in row["reason"]
    assert [row["fw_id"] for row in done["claimed"]] == [good]
    assert store.states() == {bad: "READY", good: "RESERVED"}
    assert [run["fw_id"] for run in store.db.offline_runs.find({"deprecated": False})] == [good]


def test_an_occupied_directory_is_refused_until_its_launch_is_out_of_the_way(site, store):
    place = site.home / "shared"
    first = only(store.add({"_launch_dir": str(place)}))
    second = only(store.add({"_launch_dir": str(place)}))
    assert len(site.json("launch", "-i", first)["claimed"]) == 1
    before = (place / "FW_offline.json").read_text()

    done = site.json("launch", "-i", second, status=3)
    assert "is in use by launch 1" in only(done["deferred"])["reason"]
    assert store.states() == {first: "RESERVED", second: "READY"}
    assert (place / "FW_offline.json").read_text() == before

    # It has ended, but that is told only by the files that staging would replace.
    assert site.fwrunner(place).status == 0
    shutil.rmtree(site.outbox)
    site.json("launch", "-i", second, status=3)
    site.json("recover")
    assert store.states() == {first: "COMPLETED", second: "READY"}

    assert len(site.json("launch", "-i", second)["claimed"]) == 1
    assert json.loads((place / "FW_offline.json").read_text())["launch_id"] != 1
    assert not (place / "FW_action.json").exists()

    # A launch that was archived by a rerun does not count either.
    store.rerun(second)
    assert len(site.json("launch", "-i", second)["claimed"]) == 1


# ----------------------------------------------------------------------------------------- recover


def test_recover(site, store):
    first, child = store.add({}, {}, links={1: [2]})
    place = only(site.json("launch")["claimed"])["launch_dir"]
    assert entries(site.json("recover")) == {}
    assert site.fwrunner(place).status == 0
    done = site.run("recover", "--json")
    assert entries(done.json) == {
        "applied": [{"launch_id": 1, "fw_id": first, "state": "COMPLETED"}]
    }
    assert store.states() == {first: "COMPLETED", child: "READY"}
    assert store.db.offline_runs.find_one()["completed"] is True
    assert store.locks() == 0
    assert list(site.outbox.iterdir()) == []
    assert site.run("recover").stdout == "nothing to do\n"


def test_recover_for_people(site, store):
    first, child = store.add({}, {}, links={1: [2]})
    claim = only(store.stock_launches(site.root))
    write_atomic(f"{claim.launch_dir}/FW_offline.json", stock_report(claim))
    assert site.run("recover").stdout.splitlines() == [
        "applied: 1",
        f"  launch 1 of Firework {first}: COMPLETED",
        "released: 1",
        f"  Firework {child} is READY",
    ]


@pytest.mark.parametrize("command", ["recover", "sync"])
def test_the_run_of_a_firework_that_was_rerun_is_retired(site, store, command):
    store.add()
    claim = only(store.stock_launches(site.root))
    store.rerun(claim.fw_id)
    row = only(site.json(command)["ignored"])
    assert (row["launch_id"], row["fw_id"]) == (claim.launch_id, claim.fw_id)
    assert "its Firework was rerun" in row["reason"]
    assert store.db.offline_runs.find_one({"launch_id": claim.launch_id})["deprecated"] is True
    assert site.json("recover")["ignored"] == []


def test_the_run_of_a_launch_that_rlaunch_has_taken_over_is_completed(site, store):
    """`rlaunch -f` runs it elsewhere: there are no files of an offline run, and never will be."""
    first, child = store.add({}, {}, links={1: [2]})
    claim = only(store.stock_launches(site.root))
    elsewhere = {"launch_dir": str(site.home), "state": "COMPLETED", "action": {"stored_data": {}}}
    store.db.launches.update_one({"launch_id": claim.launch_id}, {"$set": elsewhere})
    done = entries(site.json("recover"))
    assert done == {
        "applied": [{"launch_id": claim.launch_id, "fw_id": first, "state": "COMPLETED"}]
    }
    assert store.db.offline_runs.find_one()["completed"] is True
    assert store.states() == {first: "COMPLETED", child: "READY"}
    assert entries(site.json("recover")) == {}


def test_recover_leaves_other_workers_alone_unless_told(site, store):
    store.add()
    store.add()
    mine = only(store.stock_launches(site.root))
    theirs = only(store.stock_launches(site.root, worker="other"))
    for claim in (mine, theirs):
        write_atomic(f"{claim.launch_dir}/FW_offline.json", stock_report(claim))
    untouched = store.db.launches.find_one({"launch_id": theirs.launch_id})

    assert [row["launch_id"] for row in site.json("recover")["applied"]] == [mine.launch_id]
    assert store.db.launches.find_one({"launch_id": theirs.launch_id}) == untouched
    assert store.state(theirs.fw_id) == "RESERVED"

    done = site.json("recover", "--any-worker")
    assert [row["launch_id"] for row in done["applied"]] == [theirs.launch_id]
    assert store.states() == {1: "COMPLETED", 2: "COMPLETED"}


def test_recover_only_some(site, store):
    for _ in range(3):
        store.add()
    claims = store.stock_launches(site.root, n=3)
    for claim in claims:
        write_atomic(f"{claim.launch_dir}/FW_offline.json", stock_report(claim))
    done = site.json("recover", "-i", claims[0].fw_id, "-i", claims[2].fw_id)
    assert {row["fw_id"] for row in done["applied"]} == {claims[0].fw_id, claims[2].fw_id}
    assert store.state(claims[1].fw_id) == "RESERVED"


def test_recover_what_was_left_at_home_or_on_stderr(site, store, tmp_path):
    """The launch root is lost while two jobs run; for the second the home directory is full as well."""
    destroy = {"_tasks": [{"_fw_name": "ScriptTask", "script": f"rm -r {site.root}"}]}
    first, second = only(store.add(destroy)), only(store.add(destroy))
    site.environment["SLURM_JOB_END_TIME"] = "1"  # no time left to try again
    place = only(site.json("launch", "-i", first)["claimed"])["launch_dir"]
    assert site.fwrunner(place).status == 0
    rescued = site.home / ".fwagent" / "rescue"
    assert len(list(rescued.iterdir())) == 1
    assert [row["fw_id"] for row in site.json("recover")["applied"]] == [first]
    assert not list(rescued.iterdir())

    place = only(site.json("launch", "-i", second)["claimed"])["launch_dir"]
    rescued.rmdir()
    rescued.touch()
    job = site.fwrunner(place)
    assert job.status == 1
    file = tmp_path / "FW_job.error"
    file.write_text(job.stderr)
    assert len(site.json("recover", status=3)["deferred"]) == 1
    assert [row["fw_id"] for row in site.json("recover", "--rescue", file)["applied"]] == [second]
    assert store.states() == {first: "COMPLETED", second: "COMPLETED"}
    assert site.run("recover", "--rescue", site.config, status=1).stderr.startswith(
        "error: there is no"
    )
    assert site.run("recover", "--rescue", tmp_path / "none", status=2).status == 2


@pytest.mark.parametrize("purged", [False, True])
def test_a_job_whose_firework_is_damaged_does_not_stay_reserved(site, store, purged):
    """By the launch directory, and where that is gone, by the outbox."""
    fw_id = only(store.add())
    place = Path(only(site.json("launch")["claimed"])["launch_dir"])
    (place / "FW.json").write_text('{"spec": {"_tas', encoding="utf-8")
    assert site.fwrunner(place).status == 1
    shutil.rmtree(place if purged else site.root / ".fwagent" / "outbox")
    assert [row["fw_id"] for row in site.json("recover")["applied"]] == [fw_id]
    assert store.state(fw_id) == "FIZZLED"
    message = store.db.launches.find_one()["action"]["stored_data"]["_message"]
    assert message.startswith("FW.json is half-written or not JSON (")


def test_3_when_something_is_deferred(site, store):
    store.add()
    claim = only(store.stock_launches(site.root))
    Path(claim.launch_dir, "FW_offline.json").write_text("", encoding="utf-8")
    done = site.json("recover", status=3)
    row = only(done["deferred"])
    assert row["launch_id"] == claim.launch_id
    assert "FW_offline.json is empty" in row["reason"]

    store.db.workflows.update_one({"nodes": claim.fw_id}, {"$set": {"locked": True}})
    write_atomic(f"{claim.launch_dir}/FW_offline.json", stock_report(claim))
    done = site.run("recover", status=3)
    assert "the workflow is locked by FireWorks" in done.stdout
    store.db.workflows.update_one({"nodes": claim.fw_id}, {"$unset": {"locked": ""}})
    assert len(site.json("recover")["applied"]) == 1


# -------------------------------------------------------------------------------------------- sync


def test_sync_is_one_whole_pass(site, store):
    first, child = store.add({}, {}, links={1: [2]})
    done = entries(site.json("sync"))
    assert set(done) == {"claimed"}
    assert site.fwrunner(only(done["claimed"])["launch_dir"]).status == 0
    done = entries(site.json("sync"))
    assert [row["fw_id"] for row in done["applied"]] == [first]
    assert [row["fw_id"] for row in done["claimed"]] == [child]
    assert store.states() == {first: "COMPLETED", child: "RESERVED"}
    # It leaves nothing behind that would stop the next one.
    assert entries(site.json("sync")) == {}
    told = site.run("status").stdout
    assert "not running; `fwagent sync` last ran on" in told
    assert "past hour: 1 reports applied" in told


def test_why_a_firework_was_put_off_is_told_by_status_and_explain(site, store):
    occupied = site.home / "a file"
    occupied.write_text("", encoding="utf-8")
    (number,) = store.add({"_launch_dir": str(occupied / "x")})
    reason = only(entries(site.json("sync", status=3))["deferred"])["reason"]
    assert reason in " ".join(site.run("status").stdout.split())
    why = "; ".join(site.json("explain", str(number))["why"])
    assert f"it was tried, and put off: {reason}" in why
    assert "the next `fwagent sync` takes it up" in why


def test_sync_does_nothing_while_an_agent_serves(site, store):
    store.add()
    lease = store.launchpad.acquire_lease(WORKER, "somebody", 60)
    done = site.json("sync", status=3)
    row = only(entries(done)["deferred"])
    assert f"on {lease.host} (process {lease.pid})" in row["reason"]
    assert store.states() == {1: "READY"}
    store.launchpad.release_lease(lease)
    assert set(entries(site.json("sync"))) == {"claimed"}


# ------------------------------------------------------------------------------------- explain


def test_explain_lays_database_queue_and_files_side_by_side(site, store):
    first, child, other = store.add({}, {}, {"_category": "big"}, links={1: [2]})
    site.configure(worker={"category": "__none__"})
    assert "to do      fwagent run" in site.run("explain", first).stdout
    assert "(the Firework has {'_category': 'big'})" in " ".join(
        site.run("explain", other).stdout.split()
    )
    place = site.launch_one("-i", first)["launch_dir"]
    told = site.json("explain", first)
    assert (told["state"], told["launch"]["launch_dir"]) == ("RESERVED", place)
    assert told["todo"] == [f"submit {place}/FW_submit.script", "fwagent run"]
    assert told["files"]["reason"] == "staged, not started"
    told = site.json("explain", child)
    assert told["parents"] == [{"fw_id": first, "name": "fw1", "state": "RESERVED"}]
    site.fwrunner(place)
    told = site.json("explain", first)
    assert told["todo"] == [f"fwagent recover -i {first}", "fwagent run"]
    assert told["files"]["state"] == "COMPLETED"
    site.json("recover")
    assert site.json("explain", first)["why"] == ["it has run; its result is in the database"]
    assert site.json("explain", 99, status=1)["state"] is None


# ------------------------------------------------------------------------ register, unregister, dirs


def test_a_directory_that_was_moved_is_found_once_it_is_registered(site, store):
    fw_id = only(store.add())
    claim = only(store.stock_launches(site.root))
    moved = site.home / "moved"
    shutil.move(claim.launch_dir, moved)
    write_atomic(str(moved / "FW_offline.json"), stock_report(claim))
    assert "no FW_offline.json" in only(site.json("recover", status=3)["deferred"])["reason"]

    assert site.json("register", "moved") == {
        "registered": [{"launch_id": claim.launch_id, "launch_dir": str(moved)}],
        "refused": [],
    }
    assert only(site.json("dirs")["dirs"]) == {
        "launch_id": claim.launch_id,
        "fw_id": fw_id,
        "state": "RESERVED",
        "source": "registered",
        "launch_dir": str(moved),
    }
    assert [row["fw_id"] for row in site.json("recover")["applied"]] == [fw_id]
    assert store.state(fw_id) == "COMPLETED"
    # It has ended, so it is of no interest any more.
    assert site.json("dirs") == {"dirs": []}


def test_a_directory_that_was_moved_below_the_root_is_found_by_itself(site, store):
    fw_id = only(store.add())
    claim = site.launch_one()
    moved = site.root / "elsewhere" / "mine"
    moved.parent.mkdir()
    shutil.move(claim["launch_dir"], moved)
    site.outbox.chmod(0o700)
    assert site.fwrunner(moved).status == 0
    for entry in site.outbox.iterdir():
        entry.unlink()
    assert [row["fw_id"] for row in site.json("recover")["applied"]] == [fw_id]
    assert (store.state(fw_id), store.launch(claim["launch_id"])["launch_dir"]) == (
        "COMPLETED",
        str(moved),
    )


def test_a_copied_directory_never_reports_twice(site, store):
    """Both copies run: the report that comes first counts. Of two where none should be, none is believed."""
    parent, child = store.add({}, {}, links={1: [2]})
    claim = site.launch_one()
    place = Path(claim["launch_dir"])
    copies = [place.with_name(name) for name in ("copy1", "copy2")]
    for copy in copies:
        shutil.copytree(place, copy)
    place.rename(site.home / "away")
    row = only(site.json("recover", status=3)["deferred"])
    assert "the directory is gone, moved or purged" in row["reason"]
    assert store.launch(claim["launch_id"])["launch_dir"] == str(place)

    assert [site.fwrunner(copy).status for copy in copies] == [0, 0]
    applied = [site.json("recover", status=None)["applied"] for _ in range(3)]
    assert [[row["fw_id"] for row in rows] for rows in applied] == [[parent], [], []]
    assert store.states() == {parent: "COMPLETED", child: "READY"}
    assert site.json("register", *copies, status=1)["registered"] == []


def test_a_directory_that_was_purged_after_the_end_loses_nothing(site, store):
    fw_id = only(store.add())
    claim = site.launch_one()
    assert site.fwrunner(claim["launch_dir"]).status == 0
    shutil.rmtree(claim["launch_dir"])
    done = site.json("recover")
    assert ([row["fw_id"] for row in done["applied"]], done["deferred"]) == ([fw_id], [])
    assert store.state(fw_id) == "COMPLETED"


def test_a_directory_that_vanished_is_told_and_its_job_may_still_report(site, store):
    fw_id = only(store.add())
    claim = site.launch_one()
    saved = site.home / "saved"
    shutil.move(claim["launch_dir"], saved)
    for _ in range(2):
        row = only(site.json("recover", status=3)["deferred"])
        assert "the directory is gone" in row["reason"]
        assert store.state(fw_id) == "RESERVED"
    assert site.fwrunner(saved).status == 0
    assert [row["fw_id"] for row in site.json("recover", status=None)["applied"]] == [fw_id]


def test_a_tree_of_blocks_is_registered_at_once(site, store):
    for _ in range(3):
        store.add()
    claims = store.stock_launches(site.home / "theirs" / "block_1", n=3)
    away = site.home / "away"
    shutil.move(site.home / "theirs", away)
    (away / "block_1" / "launcher_9").mkdir()
    (away / "block_1" / "launcher_9" / "FW_offline.json").write_text('{"launch_id": 99}')
    done = site.json("register", away, status=1)
    assert [row["launch_id"] for row in done["registered"]] == [1, 2, 3]
    assert "launch 99 is not in the database" in only(done["refused"])["reason"]
    for number, claim in enumerate(claims, 1):
        place = away / "block_1" / f"launcher_{number}"
        write_atomic(str(place / "FW_offline.json"), stock_report(claim))
    assert len(site.json("recover")["applied"]) == 3
    assert site.json("register", away / "block_1" / "launcher_1", status=1)["registered"] == []


def test_register_refuses_a_directory_with_another_token(site, store):
    store.add()
    place = Path(site.launch_one()["launch_dir"])
    other = site.home / "other"
    shutil.copytree(place, other)
    offline = json.loads((other / "FW_offline.json").read_text())
    offline["fwagent"]["token"] = "forged"
    (other / "FW_offline.json").write_text(json.dumps(offline))
    assert "another token" in only(site.json("register", other, status=1)["refused"])["reason"]
    assert site.json("register", place)["registered"] == [
        {"launch_id": 1, "launch_dir": str(place)}
    ]


def test_register_refuses_a_copy_while_the_original_is_there(site, store):
    """It would be looked at in place of the directory that the job writes to."""
    fw_id = only(store.add())
    claim = only(store.stock_launches(site.root))
    copy = site.home / "backup" / "x"
    shutil.copytree(claim.launch_dir, copy)
    refused = only(site.json("register", copy.parent, status=1)["refused"])
    assert f"it is a copy: launch {claim.launch_id} is in {claim.launch_dir}" in refused["reason"]
    write_atomic(str(Path(claim.launch_dir, "FW_offline.json")), stock_report(claim))
    assert [row["fw_id"] for row in site.json("recover")["applied"]] == [fw_id]


def test_dirs_and_unregister(site, store):
    store.add()
    assert site.run("dirs").stdout == "no launch directory may still tell anything\n"
    claim = only(store.stock_launches(site.root))
    title, row = site.run("dirs").stdout.splitlines()
    assert title.split() == ["launch_id", "fw_id", "state", "source", "launch_dir"]
    assert row.split() == ["1", "1", "RESERVED", "database", claim.launch_dir]

    site.run("register", claim.launch_dir)
    assert only(site.json("dirs")["dirs"])["source"] == "registered"
    assert site.json("unregister", claim.launch_dir) == {
        "unregistered": [claim.launch_dir],
        "unknown": [],
    }
    assert only(site.json("dirs")["dirs"])["source"] == "database"
    assert site.json("unregister", claim.launch_dir, status=1)["unknown"] == [claim.launch_dir]


def test_register_refuses_what_is_not_ours(site, store):
    store.add()
    store.add()
    theirs = only(store.stock_launches(site.root, worker="other"))
    mine = only(store.stock_launches(site.root))
    unknown, empty, odd = site.home / "unknown", site.home / "empty", site.home / "odd"
    for place in (unknown, empty, odd):
        place.mkdir()
    (unknown / "FW_offline.json").write_text('{"launch_id": 99}', encoding="utf-8")
    (odd / "FW_offline.json").write_text('{"launch_id": "1"}', encoding="utf-8")
    done = site.json("register", theirs.launch_dir, unknown, empty, odd, mine.launch_dir, status=1)
    reasons = [row["reason"] for row in done["refused"]]
    assert f"is of worker 'other', this configuration of '{WORKER}'" in reasons[0]
    assert "launch 99 is not in the database" in reasons[1]
    assert "FW_offline.json" in reasons[2]
    assert "names no launch_id" in reasons[3]
    assert done["registered"] == [{"launch_id": mine.launch_id, "launch_dir": mine.launch_dir}]
    assert list(store.launchpad.registered(WORKER)) == [mine.launch_id]


# ------------------------------------------------------------------------------------------ status


def test_status_without_an_agent(site, store):
    store.add({}, {}, links={1: [2]})
    store.add()
    store.stock_launches(site.root)
    document = site.json("status")
    assert document["worker"] == WORKER
    assert document["agent"]["state"] == "down"
    assert document["fireworks"] == {"READY": 1, "WAITING": 1, "RESERVED": 1}
    assert document["launches"] == {"open": 1, "RESERVED": 1, "RUNNING": 0}
    assert document["database"]["reachable"] is True
    done = site.run("status")
    assert "not running. Start it: fwagent service install, run" in done.stdout
    assert "1 in the queue, 0 running, 1 may still report" in done.stdout


def test_status_tells_what_the_database_has_refused(site, store, db):
    key = "fwagent:host:77:0123:4567/fireworks/12"
    kept = {"_id": key, "write": b"", "reason": "too large", "on": store.launchpad.now()}
    db.fwagent_refused.insert_one(kept)
    db.fwagent_refused.insert_one({"_id": "somebody's"})
    refused = site.json("status")["refused"]
    assert refused["count"] == 2
    assert refused["newest"][0]["reason"] == "too large"
    assert (refused["newest"][0]["collection"], refused["newest"][0]["id"]) == ("fireworks", "12")


# ------------------------------------------------------------------------------ what was cut before

# Becomes fwagent, and kills itself before it sends the given command to the given collection.
_MORTAL = """
import os, signal, sys
import pymongo.monitoring
command, collection, *arguments = sys.argv[1:]

class Killer(pymongo.monitoring.CommandListener):
    def started(self, event):
        if (event.command_name, event.command.get(event.command_name)) == (command, collection):
            os.kill(os.getpid(), signal.SIGKILL)
    def succeeded(self, event):
        pass
    def failed(self, event):
        pass

pymongo.monitoring.register(Killer())
sys.argv = ["fwagent", *arguments]
from agent.cli import main
main()
"""


def cut(site, command, collection, *arguments):
    """Run fwagent until it is killed before a command to the database."""
    done = subprocess.run(
        [sys.executable, "-c", _MORTAL, command, collection, "-c", str(site.config), *arguments],
        env=site.environment,
        cwd=site.home,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done


def whole(store):
    assert store.locks() == 0
    assert store.db.fwagent_journal.count_documents({"void": {"$exists": False}}) == 0


@pytest.mark.parametrize("command", ["recover", "sync", "launch"])
def test_a_recover_that_was_killed_is_finished_by_the_next_command(site, store, command):
    first, child = store.add({}, {}, links={1: [2]})
    site.fwrunner(site.launch_one()["launch_dir"])
    cut(site, "update", "fireworks", "recover")
    assert store.locks() == 1
    site.json(command, status=None)
    assert store.state(first) == "COMPLETED"
    assert store.state(child) == ("READY" if command == "recover" else "RESERVED")
    whole(store)


@pytest.mark.parametrize("killed", ["launch", "sync"])
@pytest.mark.parametrize("command", ["recover", "sync", "launch"])
def test_a_claim_that_was_cut_is_taken_back_by_the_next_command(site, store, killed, command):
    (fw_id,) = store.add()
    cut(site, "update", "offline_runs", killed)
    assert store.state(fw_id) == "RESERVED"
    done = site.json(command)
    assert [entry["fw_id"] for entry in done["claimed"]] == [fw_id] * (command != "recover")
    assert store.state(fw_id) == ("READY" if command == "recover" else "RESERVED")
    whole(store)


@pytest.mark.parametrize("command", ["launch", "sync"])
def test_a_firework_that_cannot_be_understood_is_named_and_the_others_are_launched(
    site, store, db, command
):
    (bad,), (good,) = store.add(), store.add()
    db.fireworks.update_one({"fw_id": bad}, {"$unset": {"spec": ""}})
    done = site.json(command, status=3)
    assert [entry["fw_id"] for entry in done["claimed"]] == [good]
    assert only(done["deferred"]) == {
        "launch_id": None,
        "fw_id": bad,
        "reason": f"Firework {bad} cannot be launched: its documents cannot be understood: "
        "its spec is missing or no object",
    }


# ----------------------------------------------------------------------------------------- secrets


def test_no_password_in_any_output(site):
    """Whatever is wrong with the database: nobody there, a wrong user, or not understood."""
    path, login = site.home / "my_launchpad.yaml", {"username": "me", "password": "s3cr3t"}
    for launchpad, status in (
        (nowhere(path, **login), 4),
        ({"uri": f"mongodb://me:s3cr3t@{site.server.address}/?directConnection=true"}, 4),
        ({"uri": "mongodb://me:s3cr3t@[::1/"}, 2),
    ):
        site.configure(launchpad=launchpad)
        for command in ("status", "launch"):
            done = site.run(command, status=status)
            assert "s3cr3t" not in done.stdout + done.stderr


def test_a_readable_password_is_refused_with_the_command_to_run(site):
    write_toml(
        site.config,
        {
            "launchpad": {"uri": "mongodb://me:s3cr3t@db/"},
            "worker": {"name": "w"},
            "launch": {"root": str(site.root)},
        },
        mode=0o644,
    )
    done = site.run("status", status=2)
    assert f"run: chmod 600 {site.config}" in done.stderr
    assert "s3cr3t" not in done.stderr


def test_a_shell_that_has_closed_stdout(site):
    command = ["sh", "-c", '"$@" >&-', "sh", *FWAGENT, "-c", str(site.config), "runs"]
    done = subprocess.run(command, stderr=subprocess.PIPE, env=site.environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_one_damaged_document_does_not_hide_the_others(site, store):
    fw_id = only(store.add())
    store.db.fireworks.update_one({"fw_id": fw_id}, {"$set": {"state": "FIZZLED"}})
    store.db.fireworks.insert_one({"fw_id": "abc", "state": "FIZZLED"})
    site.run("rerun", "-s", "FIZZLED", "-y")
    assert store.state(fw_id) == "READY"


def test_a_credential_that_others_can_read_is_refused(site):
    secret = site.home / "uri"
    secret.write_text(site.server.uri)
    secret.chmod(0o640)
    done = site.run("service", "install", "--dry-run", "--credential", secret, status=None)
    assert done.status != 0
    assert f"run: chmod 600 {secret}" in done.stderr
    secret.chmod(0o600)
    assert (
        f"LoadCredential=launchpad_uri:{secret}"
        in site.run("service", "install", "--dry-run", "--credential", secret).stdout
    )


def test_what_finds_no_room_is_told_in_one_line(site):
    command = [sys.executable, "-c", "from agent.cli import main; main()", "--help"]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "error: what is printed finds no room: No space left on device\n",
    )


def test_ids_are_given_as_lpad_takes_them(site, store):
    fw_ids = store.add({}, {}, {})
    site.run("defuse", "-i", f"{fw_ids[0]},{fw_ids[1]}", "-i", fw_ids[2])
    assert set(store.states().values()) == {"DEFUSED"}
    for wrong in ("1,", "a", "1 2", str(2**70)):
        assert "Traceback" not in site.run("defuse", "-i", wrong, status=2).stderr
