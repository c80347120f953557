"""An agent that ends in the midst of a question to the queue says nothing of the queue."""

from types import SimpleNamespace

import pytest

from agent.jobs import NotWaitedFor, QueueSilent
from agent.reconciler import Reconciler


@pytest.mark.parametrize(
    ("error", "noted"),
    [(QueueSilent("slurmctld is away"), ["slurmctld is away"]), (NotWaitedFor("end"), [])],
)
def test_only_a_silent_queue_is_noted(error, noted):
    def settle(_result):
        raise error

    told: list[str] = []
    reconciler = SimpleNamespace(
        _rules=SimpleNamespace(scheduler="slurm"),
        _settle=settle,
        _notes=SimpleNamespace(silence=told.append),
    )
    with pytest.raises(QueueSilent):
        Reconciler.run(reconciler, None)  # type: ignore[arg-type]
    assert told == noted
