"""Two processes on one database, doing the same work at the same moment: all of it is done once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from fwcore.launchpad import LaunchPad
from tests.support.fireworks import REPOSITORY
from tests.support.launchpads import TASKS, add, reports, stage

WORKFLOWS = 12
ROUNDS = 20

# Reads one job a line; says what came of it in one line.
AGENT = """
import json, sys
from fwcore.launchpad import LaunchPad
from fwcore.worker import Worker
from fwrunner.protocol import Report

lp = LaunchPad.from_uri(sys.argv[1], sys.argv[2])
lp.check()
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if job["kind"] == "apply":
        done = lp.apply(Report(*fields) for fields in job["reports"])
        answer = {
            kind: [outcome.launch_id for outcome in getattr(done, kind)]
            for kind in ("applied", "known", "deferred", "ignored")
        }
    else:
        answer = [[c.launch_id, c.fw_id] for c in lp.claim(Worker("here"), job["n"])]
    print(json.dumps(answer), flush=True)
lp.close()
"""


class Agent:
    """One of the two processes."""

    def __init__(self, uri: str, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", AGENT, uri, name],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Agent:
        assert self._line() == "ready"
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            assert self._process.wait(timeout=30) == 0
        finally:
            self._process.kill()
            self._process.stdout.close()

    def tell(self, job: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        return json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture
def agents(db_uri: str, lp_name: str) -> Iterator[list[Agent]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Agent(db_uri, lp_name)) for _ in range(2)]


def together(agents: list[Agent], job: dict[str, Any]) -> list[Any]:
    """Give both the same job at once."""
    for agent in agents:
        agent.tell(job)
    return [agent.answer() for agent in agents]


def one_after_the_other(lp: LaunchPad, count: int) -> list[dict[str, int]]:
    """Chains a -> b -> c, where `c` is written to by both others."""
    return [add(lp, {"a": "bc", "b": "c"}, {"c": {"log": []}}) for _ in range(count)]


def test_every_report_is_applied_once(lp, db, agents) -> None:
    for number in range(ROUNDS):
        ids = one_after_the_other(lp, WORKFLOWS)
        mods = [{"_push": {"log": number}}, {"_inc": {"count": 1}}]
        addition = {"fw_id": -1, "name": f"added {number}", "spec": {"_tasks": TASKS}}
        claims = stage(lp, *[each["a"] for each in ids])
        told = reports(claims, mod_spec=mods, additions=[addition])
        job = {"kind": "apply", "reports": [list(one) for one in told]}
        answers: list[Any] = []
        pending = agents
        while pending:
            assert len(answers) < 20
            found = together(pending, job)
            answers += found
            # As agents do: what was deferred is offered again, by whom it was deferred.
            pending = [
                agent for agent, answer in zip(pending, found, strict=True) if answer["deferred"]
            ]
        applied = [launch_id for answer in answers for launch_id in answer["applied"]]
        assert sorted(applied) == sorted(claim.launch_id for claim in claims)
        assert not any(answer["ignored"] for answer in answers)
        for each in ids:
            for name in "bc":
                spec = db.fireworks.find_one({"fw_id": each[name]})["spec"]
                assert (spec["log"], spec["count"]) == ([number], 1)
            assert len(db.workflows.find_one({"nodes": each["a"]})["nodes"]) == 4
        assert db.fireworks.count_documents({"name": f"added {number}"}) == WORKFLOWS
        check_nothing_is_left(db)


def test_every_firework_is_claimed_once(lp, db, agents) -> None:
    for _ in range(ROUNDS):
        # Several roots in one workflow, so that its lock is fought for as well.
        roots = [each[name] for each in (add(lp, dict.fromkeys("abcd", "e")),) for name in "abcd"]
        roots += [each["a"] for each in one_after_the_other(lp, WORKFLOWS)]
        claims: list[list[list[int]]] = [[], []]
        attempts = 0
        while sum(map(len, claims)) < len(roots):
            attempts += 1
            assert attempts < 50
            found = together(agents, {"kind": "claim", "n": len(roots)})
            claims = [mine + answer for mine, answer in zip(claims, found, strict=True)]
        claimed = {launch_id: fw_id for mine in claims for launch_id, fw_id in mine}
        assert sorted(claimed.values()) == sorted(roots)
        assert len(claimed) == len(roots)
        for launch_id, fw_id in claimed.items():
            firework = db.fireworks.find_one({"fw_id": fw_id})
            assert (firework["state"], firework["launches"]) == ("RESERVED", [launch_id])
        # No launch is left of what one has lost to the other.
        stored = {launch["launch_id"]: launch["state"] for launch in db.launches.find()}
        assert stored == dict.fromkeys(claimed, "RESERVED")
        check_nothing_is_left(db)
        lp.cancel(claimed)
        for collection in ("fireworks", "workflows", "launches"):
            db[collection].delete_many({})


def check_nothing_is_left(db) -> None:
    assert db.workflows.count_documents({"locked": {"$exists": True}}) == 0
    assert db.fwagent_journal.count_documents({}) == 0
    assert db.fwagent_refused.count_documents({}) == 0
    for workflow in db.workflows.find():
        members = db.fireworks.find({"fw_id": {"$in": workflow["nodes"]}})
        states = {str(member["fw_id"]): member["state"] for member in members}
        assert workflow["fw_states"] == states
