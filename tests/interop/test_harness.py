"""The harness itself: real FireWorks, on the real mongod, does its offline round."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.fireworks import FireWorks, FireWorksError
from tests.support.mongod import Client

WORKFLOW = """\
name: two in a row
fws:
- fw_id: -1
  name: first
  spec: {_tasks: [{_fw_name: ScriptTask, script: echo one}]}
- fw_id: -2
  name: second
  spec: {_tasks: [{_fw_name: ScriptTask, script: echo two}]}
links: {"-1": [-2]}
metadata: {}
"""


@pytest.fixture
def workflow_file(tmp_path: Path) -> Path:
    path = tmp_path / "workflow.yaml"
    path.write_text(WORKFLOW, encoding="utf-8")
    return path


def test_an_added_workflow_is_in_the_database(
    fireworks: FireWorks, workflow_file: Path, mongo_client: Client, db_name: str
) -> None:
    fireworks.lpad("add", workflow_file)

    [shown] = json.loads(f"[{fireworks.lpad('get_wflows', '-d', 'more').stdout}]")
    assert shown["name"].startswith("two in a row--")
    assert shown["state"] == "READY"
    stored = mongo_client[db_name].fireworks.find()
    assert {fw["name"]: fw["state"] for fw in stored} == {"first": "READY", "second": "WAITING"}


def test_the_offline_round(fireworks: FireWorks, workflow_file: Path) -> None:
    fireworks.lpad("add", workflow_file)
    fireworks.qlaunch("-r", "rapidfire", "--nlaunches", "1")

    [job] = fireworks.submissions()
    assert job.job_id == "1"
    assert job.arguments == ["FW_submit.script"]
    fireworks.rlaunch("singleshot", "--offline", cwd=job.directory)
    assert json.loads((job.directory / "FW_offline.json").read_text())["state"] == "COMPLETED"
    fireworks.lpad("recover_offline")

    states = fireworks.python(
        "result = {fw['name']: fw['state'] for fw in launchpad().fireworks.find()}"
    )
    assert states == {"first": "COMPLETED", "second": "READY"}


def test_values_travel_to_a_snippet_and_back(fireworks: FireWorks) -> None:
    sent = {"date": datetime(2026, 1, 2, 3, 4, 5), "big": 2**40, "float": 1.0}  # noqa: DTZ001
    back = fireworks.python(
        "print('noise'); result = [value, type(value['big']).__name__]", value=sent
    )
    assert back == [sent, "Int64"]
    assert isinstance(back[0]["float"], float)


def test_a_failing_command_shows_its_output(fireworks: FireWorks) -> None:
    with pytest.raises(FireWorksError, match="No such file"):
        fireworks.lpad("add", "absent.yaml")
    with pytest.raises(FireWorksError, match="ZeroDivisionError"):
        fireworks.python("1 / 0")
