"""Real FireWorks and we, on generated workflows and histories: what both leave is the same, but for the table.

`make test-differential N=5000` plays more of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

from agent.mongod import Mongod
from fwrunner.protocol.action import EMPTY
from tests.interop.differences import DIFFERENCES
from tests.interop.histories import TASK, Command, History, Move, News, Turn, histories
from tests.interop.mended import MENDS, Mend
from tests.interop.two_databases import TwoDatabases, Unlike
from tests.support import components
from tests.support.fireworks import fireworks_venv
from tests.support.mongod import Client

pytestmark = pytest.mark.interop

EXAMPLES = int(os.environ.get("FWAGENT_DIFFERENTIAL_N", "200"))
SEED = int(os.environ.get("FWAGENT_DIFFERENTIAL_SEED", "1"))
#: What 200 workflows must have met, in the words of the tally; and 2,000.
KINDS = (
    *(f"applied {key}" for key in EMPTY),
    *(f"became {state}" for state in ("DEFUSED", "FIZZLED", "READY", "RUNNING", "WAITING")),
    *("claimed by ours", "claimed by theirs", "swap to ours", "swap to theirs"),
    *("rerun_fw", "pause_fw", "defuse_fw", "reignite_fw", "archive_wf", "Fireworks added"),
    *("locked", "refused action", "nothing new", "superseded", "shared launch completed"),
    *("reports repeated", "told of FIZZLED parents"),
)
RARE = (
    *(f"applied {verb}" for verb in ("_set", "_push", "_push_all", "_inc", "_add_to_set")),
    *(f"applied {verb}" for verb in ("_pull", "_pull_all", "_pop", "_rename", "_unset")),
    *("resume_fw", "reports out of order", "cancel_reservation"),
)


@pytest.fixture(scope="module")
def bench(
    mongod: Mongod, mongo_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoDatabases]:
    if not (fireworks_venv() / "bin" / "lpad").exists():
        components.unavailable(f"no FireWorks in {fireworks_venv()}: `make test` installs it")
    bench = TwoDatabases(tmp_path_factory.mktemp("two"), mongod, mongo_client)
    yield bench
    bench.close()


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_the_documents_are_the_same(bench: TwoDatabases) -> None:
    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(histories())
    def play(history: History) -> None:
        bench.play(history)

    bench.tally.clear()
    play()
    for name, count in sorted(bench.tally.items()):
        print(f"{count:7d}  {name}")
    expected = [*(KINDS if EXAMPLES >= 200 else ()), *(RARE if EXAMPLES >= 2000 else ())]
    assert [kind for kind in expected if not bench.tally[kind]] == []


def told(state: str = "COMPLETED", **action: Any) -> Turn:
    """Return a turn in which one run has news."""
    return Turn(((0, News(state, True, False, {**EMPTY, **action})),), "ours", False, False)


def history(links: str, *moves: Move) -> History:
    """Return a history of Fireworks with these children: ``"12 - -"``."""
    children = tuple(tuple(map(int, each.strip("-"))) for each in links.split())
    specs = tuple({"_tasks": [TASK], "l": [1, 2], "t": 1} for _ in children)
    return History(children, specs, False, moves)


ADDED = {"fw_id": -1, "name": "added", "spec": {"_tasks": [TASK]}}
TWO = {"fws": [ADDED, {**ADDED, "fw_id": -2}], "links": {}, "name": "two", "metadata": {}}
LATER = History(
    ((2,), (2,), ()),
    tuple({"_tasks": [TASK], "_allow_fizzled_parents": True} for _ in range(3)),
    False,
    (told("FIZZLED"), told()),
)


def test_every_difference_of_generated_histories_is_met(bench: TwoDatabases) -> None:
    bench.met.clear()
    bench.play(LATER)
    rows = [entry.name for entry in DIFFERENCES if entry.where == "generated: .*"]
    assert [name for name in rows if not bench.met[name]] == []


MET = {
    "recovery leaves a held Firework alone": history(
        "1 -", told("PENDING"), Command("pause_fw", 0), told("RUNNING")
    ),
    "defuse_workflow knows whose action it is": history(
        "1 - -", told(defuse_workflow=True, additions=[ADDED])
    ),
    "Fireworks do not share values": history(
        "12 - -", told(mod_spec=[{"_set": {"new": []}}, {"_push": {"new": 1}}])
    ),
    "Fireworks do not share values, update_spec": history(
        "12 - -", told(update_spec={"new": []}, mod_spec=[{"_push": {"new": 1}}])
    ),
    "Fireworks do not share values, append_wfs": history(
        "-",
        told(
            update_spec={"new": []},
            mod_spec=[{"_push": {"new": 1}}],
            append_wfs=[{"workflow": TWO, "parents": [], "detour": False}],
        ),
    ),
    "_pull_all works": history("1 -", told(mod_spec=[{"_pull_all": {"l": [1, 2]}}])),
    "_rename to itself": history("1 -", told(mod_spec=[{"_rename": {"t": "t"}}])),
}


@pytest.mark.parametrize("mend", MENDS, ids=[mend.name for mend in MENDS])
def test_every_mend_is_needed_and_enough(bench: TwoDatabases, mend: Mend) -> None:
    bench.play(MET[mend.name])
    without = [other for other in MENDS if other.name != mend.name]
    try:
        bench.mend(other for other in without if mend.new not in other.old)
        with pytest.raises(Unlike):
            bench.play(MET[mend.name])
    finally:
        bench.mend(MENDS)
