"""The main job with real FireWorks on either side of it: added, run or recovered by the other."""

import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.support.fireworks import REPOSITORY, FireWorks
from tests.support.mongod import Client

WORKFLOW = {
    "name": "relax and fit",
    "fws": [
        {
            "fw_id": -1,
            "name": "relax",
            "spec": {
                "_priority": 2,
                "_tasks": [
                    {"_fw_name": "ScriptTask", "script": "echo relaxed", "store_stdout": True},
                    {"_fw_name": "PyTask", "func": "math.sqrt", "args": [16.0], "outputs": ["a"]},
                ],
            },
        },
        {
            "fw_id": -2,
            "name": "volume",
            "spec": {
                "_tasks": [
                    {
                        "_fw_name": "PyTask",
                        "func": "math.pow",
                        "inputs": ["a"],
                        "args": [2.0],
                        "outputs": ["v"],
                        "stored_data_varname": "volume",
                    }
                ]
            },
        },
        {
            "fw_id": -3,
            "name": "fit",
            "spec": {"_tasks": [{"_fw_name": "ScriptTask", "script": "test -f FW.json"}]},
        },
    ],
    "links": {"-1": [-2], "-2": [-3]},
    "metadata": {"project": "interop"},
}


class Fwagent:
    """The command `fwagent` with a configuration for the database and the worker of `FireWorks`."""

    def __init__(self, fireworks: FireWorks, root: Path, queue: str) -> None:
        self.root = root
        self.config = fireworks.home / "fwagent.toml"
        runner = f"{sys.executable} -m fwrunner"
        self.config.write_text(
            f'[launchpad]\nfile = "{fireworks.launchpad_file}"\n'
            f'[worker]\nfile = "{fireworks.config / "my_fworker.yaml"}"\n'
            f'[launch]\nroot = "{root}"\n'
            f'[queue]\ntype = "{queue}"\nrunner = "{runner}"\n',
            encoding="utf-8",
        )

    def __call__(self, *args: str, status: int = 0) -> dict[str, Any]:
        """Run a command with --json and return what it printed."""
        command = [sys.executable, "-m", "agent", *args, "--json", "--config", str(self.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


@pytest.fixture
def workflow_file(tmp_path: Path) -> Path:
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(WORKFLOW), encoding="utf-8")
    return path


@pytest.fixture
def fwagent(fireworks: FireWorks, tmp_path: Path) -> Fwagent:
    return Fwagent(fireworks, tmp_path / "launches", "none")


def run_fwrunner(launch_dir: str | Path) -> None:
    """Run a launch directory as a job script does."""
    command = [sys.executable, "-m", "fwrunner", str(launch_dir)]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=60)


def instants(value: Any) -> Any:
    """Return a value with every date, in whatever form, as an instant in ms."""
    if isinstance(value, dict):
        return {key: instants(item) for key, item in value.items()}
    if isinstance(value, list):
        return [instants(item) for item in value]
    if isinstance(value, str) and len(value) >= 19 and value[10:11] == "T":
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
        return ("instant", int(aware.timestamp() * 1000))
    return value


def assert_fireworks_would_write_the_same(fireworks: FireWorks) -> None:
    for collection, stored, written in fireworks.reloaded():
        before, after = instants(stored), instants(written)
        if collection == "workflows":
            before.pop("locked", None)
            for side in (before, after):
                side["nodes"] = sorted(side["nodes"])
        assert after == before, collection


def wflow_states(fireworks: FireWorks) -> dict[str, str]:
    shown = json.loads(f"[{fireworks.lpad('get_wflows', '-d', 'more').stdout}]")
    return {workflow["name"].rsplit("--", 1)[0]: workflow["state"] for workflow in shown}


def test_added_by_lpad_and_done_by_fwagent(
    fireworks: FireWorks, fwagent: Fwagent, workflow_file: Path
) -> None:
    fireworks.lpad("add", workflow_file)

    for _generation in WORKFLOW["fws"]:
        [claimed] = fwagent("launch")["claimed"]
        assert claimed["launch_dir"].startswith(str(fwagent.root))
        run_fwrunner(claimed["launch_dir"])
        [applied] = fwagent("recover")["applied"]
        assert applied["launch_id"] == claimed["launch_id"]
        assert applied["state"] == "COMPLETED"
        assert_fireworks_would_write_the_same(fireworks)

    assert wflow_states(fireworks) == {"relax and fit": "COMPLETED"}
    assert fwagent("launch")["claimed"] == []
    stored = fireworks.python(
        "result = {f['name']: f['spec'].get('v') for f in launchpad().fireworks.find()}"
    )
    assert stored == {"relax": None, "volume": None, "fit": 16.0}


def test_staged_by_fwagent_and_run_by_rlaunch(
    fireworks: FireWorks, fwagent: Fwagent, workflow_file: Path
) -> None:
    fireworks.lpad("add", workflow_file)
    [claimed] = fwagent("launch", "--stage-only")["claimed"]
    ours = json.loads((Path(claimed["launch_dir"]) / "FW_offline.json").read_text())["fwagent"]

    fireworks.rlaunch("singleshot", "--offline", cwd=Path(claimed["launch_dir"]))

    written = json.loads((Path(claimed["launch_dir"]) / "FW_offline.json").read_text())
    assert written["fwagent"] == ours, "rlaunch keeps the keys that it does not know"
    recovered = fwagent("recover")
    assert recovered["applied"] == [
        {"launch_id": claimed["launch_id"], "fw_id": claimed["fw_id"], "state": "COMPLETED"}
    ]
    assert_fireworks_would_write_the_same(fireworks)
    states = fireworks.python(
        "result = {f['name']: f['state'] for f in launchpad().fireworks.find()}"
    )
    assert states == {"relax": "COMPLETED", "volume": "READY", "fit": "WAITING"}


def test_reserved_by_qlaunch_run_by_fwrunner_recovered_by_lpad(
    fireworks: FireWorks, workflow_file: Path, tmp_path: Path
) -> None:
    fireworks.lpad("add", workflow_file)
    launch_dir = tmp_path / "stock"
    launch_dir.mkdir()
    fireworks.qlaunch("-r", "--launch_dir", launch_dir, "singleshot")
    [job] = fireworks.submissions()

    run_fwrunner(job.directory)

    assert "1 job(s) recovered" in fireworks.lpad("recover_offline", cwd=tmp_path).stdout
    found = fireworks.python("""
    lp = launchpad()
    result = {
        "states": {f["name"]: f["state"] for f in lp.fireworks.find()},
        "spec": lp.fireworks.find_one({"name": "volume"})["spec"]["a"],
        "stdout": lp.launches.find_one()["action"]["stored_data"]["stdout"],
        "run": lp.offline_runs.find_one({}, {"_id": 0, "completed": 1, "deprecated": 1}),
    }
    """)
    assert found["states"] == {"relax": "COMPLETED", "volume": "READY", "fit": "WAITING"}
    assert found["spec"] == 4.0
    assert found["stdout"] == "relaxed\n"
    assert found["run"] == {"completed": True, "deprecated": False}


def test_a_launch_that_qlaunch_made_is_found_without_registering(
    fireworks: FireWorks, fwagent: Fwagent, workflow_file: Path, mongo_client: Client, db_name: str
) -> None:
    fireworks.lpad("add", workflow_file)
    fireworks.qlaunch("-r", "rapidfire", "--nlaunches", "1")
    [job] = fireworks.submissions()
    [listed] = fwagent("dirs")["dirs"]
    assert (listed["launch_dir"], listed["source"]) == (str(job.directory), "database")

    run_fwrunner(job.directory)

    [applied] = fwagent("recover")["applied"]
    assert applied["state"] == "COMPLETED"
    launch = mongo_client[db_name].launches.find_one() or {}
    assert launch["state_history"][0]["reservation_id"] == "1"
    assert_fireworks_would_write_the_same(fireworks)
    assert fwagent("recover")["applied"] == []


def test_what_lpad_reruns_is_launched_again_and_lpad_recovers_no_result_twice(
    fireworks: FireWorks, fwagent: Fwagent, tmp_path: Path
) -> None:
    """The first job is killed; with its run left open FireWorks would push to `log` at every recovery."""
    push: dict[str, Any] = {
        "_fw_name": "PyTask",
        "func": "math.sqrt",
        "args": [4.0],
        "outputs": ["log"],
    }
    push["chunk_number"] = 1
    fws = [{"fw_id": 1, "spec": {"_tasks": [push]}}, {"fw_id": 2, "spec": {"_tasks": [push]}}]
    workflow = tmp_path / "pushing.json"
    workflow.write_text(json.dumps({"fws": fws, "links": {"1": [2]}, "metadata": {}}))
    fireworks.lpad("add", workflow)
    [killed] = fwagent("launch")["claimed"]
    started = Path(killed["launch_dir"]) / "FW_offline.json"
    began = {"started_on": "2026-11-23T12:00:00.000001+00:00"}
    started.write_text(json.dumps({**json.loads(started.read_text()), **began}))
    [applied] = fwagent("recover")["applied"]
    assert applied["state"] == "RUNNING"

    fireworks.lpad("rerun_fws", "-i", "1")
    [again] = fwagent("launch")["claimed"]
    run_fwrunner(again["launch_dir"])
    [applied] = fwagent("recover")["applied"]
    assert applied == {"launch_id": again["launch_id"], "fw_id": 1, "state": "COMPLETED"}

    for _time in range(2):
        assert "0 job(s) recovered" in fireworks.lpad("recover_offline").stdout
    child = fireworks.python("result = launchpad().fireworks.find_one({'fw_id': 2})")
    assert (child["state"], child["spec"]["log"]) == ("READY", [2.0])


@pytest.mark.parametrize("recovered_by", ["fwagent", "lpad"])
def test_new_workflows_without_metadata_or_links_can_be_loaded_by_fireworks(
    fireworks: FireWorks, fwagent: Fwagent, tmp_path: Path, recovered_by: str
) -> None:
    new = {"fws": [{"fw_id": -1, "spec": {"_tasks": [{"_fw_name": "ScriptTask", "script": ":"}]}}]}
    (tmp_path / "FWAction.json").write_text(json.dumps({"detours": [{**new, "links": {}}]}))
    copy = {"_fw_name": "ScriptTask", "script": f"cp {tmp_path}/FWAction.json ."}
    fws = [{"fw_id": n, "spec": {"_tasks": [copy]}} for n in (1, 2)]
    workflow = tmp_path / "detouring.json"
    workflow.write_text(json.dumps({"fws": fws, "links": {"1": [2]}, "metadata": {}}))
    fireworks.lpad("add", workflow)
    [claimed] = fwagent("launch", "--stage-only")["claimed"]
    run_fwrunner(claimed["launch_dir"])
    if recovered_by == "lpad":
        fireworks.lpad("recover_offline")
    else:
        fwagent("recover")
    fireworks.lpad("admin", "refresh", "-i", "1")
    states = fireworks.python(
        "result = [f['state'] for f in launchpad().fireworks.find().sort('fw_id', 1)]"
    )
    assert states == ["COMPLETED", "WAITING", "READY"]


def test_a_firework_that_fails_keeps_its_checkpoint_for_a_rerun_that_goes_on_from_it(
    fireworks: FireWorks, fwagent: Fwagent, tmp_path: Path
) -> None:
    tasks = [
        {"_fw_name": "PyTask", "func": "math.sqrt", "args": [4.0], "outputs": ["kept"]},
        {"_fw_name": "ScriptTask", "script": "test -e mended"},
    ]
    workflow = tmp_path / "failing.json"
    workflow.write_text(
        json.dumps({"fws": [{"fw_id": 1, "spec": {"_tasks": tasks}}], "links": {}, "metadata": {}})
    )
    fireworks.lpad("add", workflow)
    [claimed] = fwagent("launch")["claimed"]
    failed = subprocess.run(
        [sys.executable, "-m", "fwrunner", claimed["launch_dir"]],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert failed.returncode == 1
    [applied] = fwagent("recover")["applied"]
    assert applied["state"] == "FIZZLED"
    assert_fireworks_would_write_the_same(fireworks)

    (Path(claimed["launch_dir"]) / "mended").touch()
    fireworks.lpad("rerun_fws", "-i", "1", "--task-level", "--copy-data")

    spec = fireworks.python("result = launchpad().fireworks.find_one()['spec']")
    assert spec["_recovery"]["_task_n"] == 1
    assert spec["_recovery"]["_all_update_spec"] == {"kept": 2.0}

    [again] = fwagent("launch")["claimed"]
    assert again["launch_dir"] != claimed["launch_dir"]
    run_fwrunner(again["launch_dir"])
    [applied] = fwagent("recover")["applied"]
    assert (applied["launch_id"], applied["state"]) == (2, "COMPLETED")
    launch = fireworks.python("result = launchpad().launches.find_one({'launch_id': 2})")
    assert launch["action"]["update_spec"] == {"kept": 2.0}
    assert_fireworks_would_write_the_same(fireworks)
