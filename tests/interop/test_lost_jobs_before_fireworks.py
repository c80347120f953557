"""What we say of a lost job, in the eyes of real FireWorks: it loads it, leaves it, and lets it run again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fwcore.launchpad import LaunchPad
from fwcore.lost import MARK, VANISHED
from tests.support.fireworks import FireWorks
from tests.support.mongod import Client
from tests.support.queues import Bench

# Looks as `lpad recover_offline` does, tells what it has, lets the lost one run again and rewrites the other's launch.
_THEIRS = """
lp = launchpad()
for run in lp.offline_runs.find({"completed": False, "deprecated": False}):
    lp.recover_offline(run["launch_id"])
fw = lp.get_fw_by_id(lost)
result = [fw.state, fw.launches[-1].state], fw.launches[-1].action.stored_data
lp.rerun_fw(lost)
launch = lp.get_launch_by_id(gone)
lp.launches.find_one_and_replace({"launch_id": gone}, launch.to_db_dict())
"""


@pytest.fixture
def launchpad(fireworks: FireWorks, db_uri: str, db_name: str) -> Iterator[LaunchPad]:
    with_fireworks = LaunchPad.from_uri(db_uri, db_name)
    yield with_fireworks
    with_fireworks.close()


def test_a_lost_job_and_a_vanished_one(
    fireworks: FireWorks,
    launchpad: LaunchPad,
    mongo_client: Client,
    db_name: str,
    tmp_path: Path,
) -> None:
    db = mongo_client[db_name]
    bench = Bench(launchpad, db, tmp_path / "root")
    lost, vanished = bench.add(2)
    claim, job_id, _runner = bench.run(lost)
    ((gone, _job),) = bench.launch(vanished)
    bench.queue.jobs.clear()
    bench.lose(600)
    assert bench.lp.counts() == {"FIZZLED": 1, "READY": 1}

    # `lpad recover_offline` would make a launch RUNNING again whose run is open.
    seen, stored = fireworks.python(_THEIRS, lost=lost, gone=gone.launch_id)
    assert seen == ["FIZZLED", "FIZZLED"]
    assert stored[MARK]["job_id"] == job_id

    # What we count by is still there after FireWorks has rewritten the launch.
    assert VANISHED in bench.stored(gone.launch_id)["state_history"][-1]
    assert launchpad.setbacks([vanished])[vanished].vanished == 1
    assert launchpad.setbacks([lost])[lost].lost == 0, "a person has let it run again"
    bench.run(lost)
    assert bench.state(lost) == "RUNNING"
    firework = db.fireworks.find_one({"fw_id": lost})
    assert firework is not None
    assert firework["archived_launches"] == [claim.launch_id]
