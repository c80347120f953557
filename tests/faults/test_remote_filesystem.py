"""The launch root on a file system of other hosts, which tells of nothing and remembers what was, for a minute."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.support.agent import Site, in_place, stock_report
from tests.support.components import unavailable
from tests.support.fireworks import REPOSITORY
from tests.support.remotefs import mounts

#: Seconds for which a mount keeps what it knows: longer than a test may take.
CACHE = 60
SCRIPT = {"_tasks": [{"_fw_name": "ScriptTask", "script": "true"}]}

# A compute node sees its own mount where the login node has its own.
_ON_COMPUTE_NODE = """\
#!/bin/sh
set -e
mount --bind {far} {near}
cd "$PWD"
PYTHONPATH={repository} exec {python} -m fwrunner "$@"
"""


@pytest.fixture
def both(tmp_path):
    with mounts(tmp_path / "files", CACHE) as (near, far):
        yield near, far


def test_jobs_of_other_hosts_are_seen_by_the_outbox_alone(both, site: Site, store, tmp_path):
    near, far = both
    if os.getuid() != 0:
        unavailable("a mount namespace for the jobs: only root may make one")
    node = tmp_path / "on-compute-node"
    node.write_text(
        _ON_COMPUTE_NODE.format(near=near, far=far, repository=REPOSITORY, python=sys.executable),
        encoding="utf-8",
    )
    node.chmod(0o755)
    site.root = near / "fireworks"
    site.configure(
        launch={"root": str(site.root)},
        queue={"type": "local", "runner": f"unshare -m {node}"},
        sync={"outbox_interval": 0.3},
    )
    fw_ids = store.add(SCRIPT, SCRIPT, SCRIPT, links={1: [2], 2: [3]})
    with site.daemon() as daemon:
        daemon.wait_for("applied", fw_id=fw_ids[-1], state="COMPLETED", timeout=CACHE / 2)
        assert site.json("status")["events"]["kind"] == "fuse.bindfs tells nothing of other hosts"
    assert set(store.states().values()) == {"COMPLETED"}


def test_what_rlaunch_writes_elsewhere_is_seen_by_the_sweep(both, site: Site, store):
    near, far = both
    store.add()
    (claim,) = store.stock_launches(near)
    offline = Path(claim.launch_dir, "FW_offline.json")
    elsewhere = far / offline.relative_to(near)
    site.root = near / "fireworks"
    site.configure(sync={"sweep_interval": 0.3})
    with site.daemon() as daemon:
        site.await_first_pass()
        final = stock_report(claim)
        in_place(elsewhere, {"launch_id": claim.launch_id, "started_on": final["started_on"]})
        daemon.wait_for("applied", launch_id=claim.launch_id, state="RUNNING", timeout=CACHE / 2)
        in_place(elsewhere, final)
        daemon.wait_for("applied", launch_id=claim.launch_id, state="COMPLETED", timeout=CACHE / 2)
    assert store.state(claim.fw_id) == "COMPLETED"


def test_the_mounts_are_as_stale_as_they_should_be(both):
    """Else the others prove nothing."""
    near, far = both
    (near / "file").write_text("old", encoding="utf-8")
    before = (near / "file").stat()
    in_place(far / "file", {"what": "is longer"})
    assert json.loads((far / "file").read_text(encoding="utf-8"))
    assert (near / "file").stat().st_size == before.st_size
