"""`fwagent demo` from the outside: its exit status, what it leaves behind, and that its verdict is worth something."""

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest

from agent.demo import show, workflow
from agent.demo.show import run_demo
from agent.mongod import Mongod
from fwcore.errors import FwagentError
from tests.support.mongod import Client

pytestmark = pytest.mark.slow

FWAGENT = [sys.executable, "-c", "from agent.cli import main; main()"]


def demo(folder: Path, *options: str, **environment: str) -> "subprocess.Popen[str]":
    """Start the demo with a temporary folder of its own; not on a terminal."""
    return subprocess.Popen(
        [*FWAGENT, "demo", *options],
        env={**os.environ, "TMPDIR": str(folder), **environment},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def left_behind(folder: Path) -> list[str]:
    """Files, and processes whose command line or directory names the folder."""
    found = [str(path) for path in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            where = str((process / "cwd").readlink())
        except OSError:
            continue
        if str(folder) in command or where.startswith(str(folder)):
            found.append(f"{process.name} {command}")
    return found


def databases(client: Client) -> set[str]:
    return {name for name in client.list_database_names() if name.startswith("fwagent_demo")}


@pytest.fixture(scope="module")
def stored(
    mongod: Mongod, mongo_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """What a good run leaves in the database."""
    folder = tmp_path_factory.mktemp("kept")
    # The environment of the agent must not lead it to another database.
    process = demo(
        folder,
        *("--uri", mongod.uri, "--keep"),
        FWAGENT_LAUNCHPAD_URI="mongodb://127.0.0.1:1/",
    )
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 0, said
    (name,) = databases(mongo_client)
    assert f"{mongod.address}/{name}" in said
    yield {
        collection: list(mongo_client[name][collection].find())
        for collection in workflow.COLLECTIONS
    }
    mongo_client.drop_database(name)


def test_on_a_throwaway_server_it_shows_everything_and_leaves_nothing(mongod_binary, tmp_path):
    process = demo(tmp_path, PATH=f"{mongod_binary.parent}:{os.environ['PATH']}")
    said, _ = process.communicate(timeout=90)

    assert process.returncode == 0, said
    assert "The database says what it should." in said
    assert "report written -> children READY" in said
    for name, state in zip(workflow.NAMES.values(), workflow.EXPECTED.values(), strict=True):
        assert any(name in line and state in line for line in said.splitlines()), said
    assert max(map(len, said.splitlines())) <= 100
    assert "\x1b" not in said
    assert left_behind(tmp_path) == []


def test_the_verdict_on_a_good_run(stored):
    assert workflow.differences(stored, cut_off=False) == []
    assert [workflow_["state"] for workflow_ in stored["workflows"]] == ["FIZZLED"]


def _set(collection: str, key: str, value: object, fw_id: int | None = None):
    def tamper(stored: dict[str, list[dict[str, Any]]]) -> None:
        for document in stored[collection]:
            if fw_id is None or document["fw_id"] == fw_id:
                *parents, last = key.split(".")
                reduce(getitem, parents, document)[last] = value

    return tamper


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (_set("fireworks", "state", "READY", workflow.BANDS), "'phonon bands' is READY"),
        (_set("fireworks", "spec.point_3", [1, 2], workflow.FIT), "point_3 is [1, 2], not"),
        (_set("fireworks", "spec.lattice", 5.0, workflow.STATIC[0]), "lattice is 5.0, not"),
        (_set("workflows", "state", "RUNNING"), "the workflow is RUNNING"),
        (_set("workflows", "fw_states.1", "READY"), "the states in the workflow are not"),
        (_set("workflows", "locked", "somebody"), "still locked by somebody"),
        (_set("launches", "action", None, workflow.FIT), "is COMPLETED without a result"),
        (_set("launches", "action.stored_data", {}, workflow.PHONONS), "does not tell why"),
        (
            _set("launches", "action.stored_data.database", "reached", workflow.RELAX),
            "a job cut off from the network says of the database: 'reached'",
        ),
        (_set("offline_runs", "completed", False, workflow.RELAX), "are still open"),
        (lambda stored: stored["launches"].append(stored["launches"][0]), "has 2 launches, not 1"),
        (lambda stored: stored["workflows"].clear(), "there are 0 workflows"),
    ],
)
def test_whatever_is_wrong_in_the_database_is_found(stored, tamper, told):
    wrong = copy.deepcopy(stored)
    tamper(wrong)
    assert told in "\n".join(workflow.differences(wrong, cut_off=True))


def test_ctrl_c_while_jobs_run_leaves_nothing(mongod, mongo_client, stored, tmp_path):
    before = databases(mongo_client)
    process = demo(tmp_path, "--uri", mongod.uri)
    assert process.stdout is not None
    said = ""
    while "RUNNING" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    assert databases(mongo_client) > before
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGINT)  # impatience changes nothing
    rest, _ = process.communicate(timeout=60)

    assert process.returncode == 130, said + rest
    assert "SIGINT: cleaning up" in rest
    assert left_behind(tmp_path) == []
    assert databases(mongo_client) == before


def test_a_server_that_does_not_answer_is_exit_status_4(tmp_path):
    process = demo(tmp_path, "--uri", "mongodb://u:secret@127.0.0.1:1/")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 4, said
    assert "does not answer" in said
    assert "hint:" in said
    assert "secret" not in said
    assert left_behind(tmp_path) == []


def test_an_agent_that_ends_by_itself_is_told_with_its_last_words(
    mongod, mongo_client, tmp_path, monkeypatch
):
    def broken(folder: Path, *_: object) -> Path:
        (folder / "config.toml").write_text("[launchpad]\n")
        return folder / "config.toml"

    before = databases(mongo_client)
    monkeypatch.setattr(show, "write_config", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(FwagentError, match="has ended by itself, with exit status 2") as caught:
        run_demo(mongod.uri, keep=False)
    assert "config.toml: worker: Field required" in caught.value.hint
    assert left_behind(tmp_path) == []
    assert databases(mongo_client) == before


def test_the_time_is_bounded_and_the_log_is_quoted(mongod, mongo_client, tmp_path, monkeypatch):
    before = databases(mongo_client)
    monkeypatch.setattr(show, "TIMEOUT", 3.0)
    monkeypatch.setattr(workflow, "EXPECTED", {**workflow.EXPECTED, 99: "COMPLETED"})
    monkeypatch.setattr(show, "_SETTLED", 99.0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(FwagentError, match="not done after 3 s") as caught:
        run_demo(mongod.uri, keep=False)
    assert "the agent's log says last" in caught.value.hint
    assert left_behind(tmp_path) == []
    assert databases(mongo_client) == before
