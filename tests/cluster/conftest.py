"""Schedulers of our own, one of each for all tests; a queue on them, and a launch directory with a script."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.queue.batch import BatchQueue
from agent.queue.dialect import Dialect
from agent.queue.sge import Sge
from agent.queue.slurm import Slurm as SlurmDialect
from tests.support import schedulers
from tests.support.schedulers import GridEngine, Slurm


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Slurm]:
    with schedulers.slurm() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def gridengine_cluster() -> Iterator[GridEngine]:
    with schedulers.gridengine() as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """Slurm, for all commands of this test. It has no job of ours afterwards."""
    for name, value in slurm_cluster.environ.items():
        monkeypatch.setenv(name, value)
    yield slurm_cluster
    slurm_cluster.cancel_all()


@pytest.fixture
def gridengine(
    gridengine_cluster: GridEngine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GridEngine]:
    """Grid Engine, likewise."""
    for name, value in gridengine_cluster.environ.items():
        monkeypatch.setenv(name, value)
    yield gridengine_cluster
    gridengine_cluster.run("qdel", "-u", "*", check=False)
    gridengine_cluster.wait_until(lambda: not gridengine_cluster.run("qstat"))


@pytest.fixture
def open_queue(tmp_path: Path) -> Callable[..., BatchQueue]:
    own = secrets.token_hex(4)

    def open_it(dialect: Dialect, timeout: float = 20, scope: str = own) -> BatchQueue:
        private = tmp_path / "root" / ".fwagent"
        (private / "outbox").mkdir(parents=True, exist_ok=True)
        return BatchQueue(dialect, scope, private, timeout=timeout)

    return open_it


@pytest.fixture
def slurm_queue(slurm: Slurm, open_queue: Callable[..., BatchQueue]) -> BatchQueue:
    return open_queue(SlurmDialect())


@pytest.fixture
def sge_queue(gridengine: GridEngine, open_queue: Callable[..., BatchQueue]) -> BatchQueue:
    return open_queue(Sge())
