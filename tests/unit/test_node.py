"""What a compute node tells of its job, by the environment."""

import os
import subprocess
from types import SimpleNamespace

import pytest

from fwrunner import node

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in (*node._END_TIMES, *(name for names in node._WALLTIMES for name in names)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(node, "time", SimpleNamespace(time=lambda: NOW))


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({}, None),
        ({"SLURM_JOB_END_TIME": f"{NOW + 60:.0f}"}, 60),
        ({"COBALT_ENDTIME": f"{NOW + 60}"}, 60),
        ({"SLURM_JOB_END_TIME": f"{NOW - 60:.0f}"}, 0),
        ({"SLURM_JOB_END_TIME": "0"}, None),
        ({"SLURM_JOB_END_TIME": "nan"}, None),
        ({"SLURM_JOB_END_TIME": "soon", "COBALT_ENDTIME": f"{NOW + 60}"}, 60),
        ({"SLURM_JOB_END_TIME": f"{NOW + 60}", "FWAGENT_JOB_END_TIME": f"{NOW + 5}"}, 5),
        ({"PBS_WALLTIME": "3600", "PBS_NODEFILE": "nodes"}, 3500),
        ({"OAR_JOB_WALLTIME_SECONDS": "3600", "OAR_NODEFILE": "nodes"}, 3500),
        ({"PBS_WALLTIME": "3600", "PBS_NODEFILE": "gone"}, None),
        ({"PBS_WALLTIME": "3600"}, None),
        ({"PBS_NODEFILE": "nodes"}, None),
    ],
)
def test_time_left(tmp_path, monkeypatch, given, left):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nodes").touch()
    os.utime("nodes", (NOW - 100, NOW - 100))
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert node.time_left() == left


def test_a_family_that_has_lost_its_head():
    """Known from before, a process is found without its parent; not another one that has its number by now."""
    with subprocess.Popen(
        ["sh", "-c", "setsid sleep 60 & echo $!; read line"], stdin=-1, stdout=-1
    ) as shell:
        assert shell.stdout
        assert shell.stdin
        child = int(shell.stdout.readline())
        known = node.family(shell.pid)
        assert set(known) == {shell.pid, child}
        shell.stdin.close()
    assert set(node.family(shell.pid, known)) == {child}
    later = {child: known[child]._replace(started=known[child].started + 1)}
    assert node.family(shell.pid, later) == {}
    os.kill(child, 9)
