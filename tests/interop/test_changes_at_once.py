"""Rerun, defuse, claim and apply by us while FireWorks pauses, reruns and defuses in the same workflows."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from agent.mongod import Mongod
from fwcore.launchpad import LaunchPad
from fwcore.states import HELD
from tests.support.fireworks import FireWorks
from tests.support.launchpads import WORKER, add, consistent, reports
from tests.support.mongod import Client

DIAMOND = {"a": "bc", "b": "d", "c": "d"}

THEIRS = """
import random
rng = random.Random(seed)
lp = launchpad()
lp.m_logger.setLevel("ERROR")
calls = [lp.pause_fw, lp.resume_fw, lp.resume_fw, lp.rerun_fw, lp.defuse_fw, lp.reignite_fw, lp.reignite_fw]
for _ in range(rounds):
    rng.choice(calls)(rng.choice(fw_ids))
result = None
"""


def test_nothing_is_lost_on_either_side(
    fireworks: FireWorks, mongod: Mongod, mongo_client: Client, db_name: str
) -> None:
    db = mongo_client[db_name]
    launchpad = LaunchPad.from_uri(mongod.uri, db_name)
    launchpad.prepare()
    fw_ids = [fw_id for _ in range(5) for fw_id in add(launchpad, DIAMOND).values()]
    rng = random.Random(4)
    done = dict.fromkeys(("rerun", "defuse", "completed"), 0)
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(fireworks.python, THEIRS, seed=5, rounds=150, fw_ids=fw_ids)
        while not theirs.done():
            done["rerun"] += len(launchpad.rerun(rng.sample(fw_ids, 2)).changed)
            done["defuse"] += len(launchpad.defuse(rng.sample(fw_ids, 1)).changed)
            for _ in range(2):
                claims = launchpad.claim(WORKER, 5)
                launchpad.open_runs(claims)
                result = launchpad.apply(reports(claims[1:]))
                done["completed"] += len(result.applied)
        theirs.result()
    launchpad.close()

    assert min(done.values()) > 10, done
    consistent(db)
    documents = {document["fw_id"]: document for document in db.fireworks.find()}
    launches = {document["launch_id"]: document for document in db.launches.find()}
    for workflow in db.workflows.find():
        for fw_id in workflow["nodes"]:
            firework = documents[fw_id]
            parents = workflow["parent_links"].get(str(fw_id), [])
            waits = any(documents[parent]["state"] != "COMPLETED" for parent in parents)
            counted = [launches[launch_id]["state"] for launch_id in firework["launches"]]
            if firework["state"] not in HELD:
                expected = "WAITING" if waits else (*counted, "READY")[0]
                assert firework["state"] == expected, (fw_id, counted)
    # A job whose report is not listened to must not be one that a Firework counts on.
    retired = db.offline_runs.distinct("launch_id", {"deprecated": True})
    assert retired
    assert db.fireworks.count_documents({"launches": {"$in": retired}}) == 0
