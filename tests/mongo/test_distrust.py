"""Mutated reports, applied to a real LaunchPad: a launch ends only by a report that is its own and says so."""

import json
import os

from fwrunner.protocol import Report, read_outbox_entry
from tests.support.launchpads import add, consistent, report, stage
from tests.support.mutations import SEEDS, corpus

COUNT = int(os.environ.get("FWAGENT_FUZZ_N", "200"))
SEED = int(os.environ.get("FWAGENT_FUZZ_SEED", "2"))
#: Launches at a time.
GROUP = 20


def test_mutated_reports_change_nothing_but_their_own_launch(lp, db, tmp_path):
    path = tmp_path / "entry.json"
    accepted = 0
    for number in range(COUNT // GROUP):
        ids = [add(lp, {"a": "b"}) for _ in range(GROUP)]
        claims = stage(lp, *(each["a"] for each in ids))
        told = []
        for at, claim in enumerate(claims[1:]):
            ours = {"launch_id": claim.launch_id, "fw_id": claim.fw_id, "token": claim.token}
            seed = {**SEEDS[1], **ours}
            (text,) = corpus([seed], 1, SEED + number * 1000 + at)
            path.write_bytes(text)
            found = read_outbox_entry(str(path))
            if isinstance(found, Report):
                told.append(found)
        innocent = claims[0]
        outcome = lp.apply([*told, report(innocent, stored_data={"x": 1})])
        assert innocent.launch_id in {each.launch_id for each in outcome.applied}

        owner = {claim.launch_id: claim for claim in claims}
        own = {
            found.launch_id: found.state
            for found in told
            if (whose := owner.get(found.launch_id)) is not None
            and found.token == whose.token
            and found.fw_id in (None, whose.fw_id)
        }
        launches = {each["launch_id"]: each for each in db.launches.find()}
        for claim in claims[1:]:
            state = launches[claim.launch_id]["state"]
            # An action that cannot be applied FIZZLES what has run; all else needs its own word.
            said = own.get(claim.launch_id)
            assert state in {"RESERVED", said} | ({"FIZZLED"} if said == "COMPLETED" else set())
            accepted += state != "RESERVED"
    consistent(db)
    assert 0 < accepted < COUNT
    assert json.dumps(SEEDS)
