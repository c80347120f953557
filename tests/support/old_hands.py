"""People at work with real FireWorks, in processes that live for a while.

Each is a Python of FireWorks' own environment. `people` calls what is behind the commands of `lpad`, again and
again, on Fireworks that nobody else of them touches; `recover` is `lpad recover_offline` on launches that are
named to it; `rlaunch` is the real command.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.support.fireworks import FireWorks

Document = dict[str, Any]

# Reads the job from the first line of stdin, works until stdin ends, and prints what it did: one object.
_PEOPLE = """
import json, logging, random, select, sys
logging.disable(logging.CRITICAL)
from fireworks import LaunchPad
lp = LaunchPad.auto_load()
job = json.loads(sys.stdin.readline())
dice = random.Random(job["seed"])
held, lost, pushed, priority, errors = {}, [], [], {}, []
done = dict.fromkeys(job["targets"], 0)

def state(fw_id):
    return lp.fireworks.find_one({"fw_id": fw_id}, {"state": 1})["state"]

def check(fw_id):
    wanted = held.get(fw_id)
    if wanted and state(fw_id) != wanted:
        lost.append([fw_id, wanted, state(fw_id)])

def hold(fw_id):
    if fw_id in held:
        return release(fw_id)
    command, wanted = dice.choice([(lp.pause_fw, "PAUSED"), (lp.defuse_fw, "DEFUSED")])
    if command(fw_id):
        held[fw_id] = wanted
        check(fw_id)

def release(fw_id):
    check(fw_id)
    (lp.resume_fw if held.pop(fw_id) == "PAUSED" else lp.reignite_fw)(fw_id)

def push(fw_id):
    number = len(pushed) * 10 + job["seed"]
    lp.update_spec([fw_id], {"$push": {"spec.people": number}}, mongo=True)
    found = lp.fireworks.find_one({"fw_id": fw_id, "spec.people": number})
    pushed.append([fw_id, number, found is not None])

def prefer(fw_id):
    priority[fw_id] = dice.randrange(1000)
    lp.set_priority(fw_id, priority[fw_id])

def look(fw_id):
    lp.get_wf_by_fw_id(fw_id)
    lp.detect_lostruns()

commands = {"hold": hold, "rerun": lp.rerun_fw, "push": push, "prefer": prefer, "look": look}
while not select.select([sys.stdin], [], [], 0)[0]:
    kind = dice.choices(list(job["weights"]), list(job["weights"].values()))[0]
    fw_id = dice.choice(job["targets"][kind])
    try:
        commands[kind](fw_id)
        done[kind] += 1
    except Exception as error:
        errors.append([kind, fw_id, repr(error)[-1500:]])
for fw_id in list(held):
    release(fw_id)
print(json.dumps({
    "done": done, "lost": lost, "pushed": pushed, "priority": priority, "errors": errors,
}))
"""

# Reads launch_ids, one a line, and recovers each; prints those that were not recovered without an error.
_RECOVER = """
import json, logging, sys
logging.disable(logging.CRITICAL)
from fireworks import LaunchPad
lp = LaunchPad.auto_load()
failed = []
for line in sys.stdin:
    try:
        error = lp.recover_offline(int(line), ignore_errors=True)
    except Exception as problem:
        error = repr(problem)
    if error:
        failed.append([int(line), str(error)[-1500:]])
print(json.dumps({"failed": failed}))
"""

# What a refresh of everything would change, and the Fireworks that `lpad detect_lostruns` finds. (It also lists
# RUNNING launches that a rerun has archived: those stay so for ever.)
INCONSISTENT = """
lp = launchpad()
changes = []
for workflow in list(lp.workflows.find({}, {"nodes": 1})):
    wf = lp.get_wf_by_fw_id(workflow["nodes"][0])
    before = wf.to_db_dict()
    for fw_id in workflow["nodes"]:
        updated = wf.refresh(fw_id)
        if updated:
            changes.append([fw_id, sorted(updated)])
    after = wf.to_db_dict()
    for key in ("fw_states", "state", "links", "parent_links", "nodes"):
        if before[key] != after[key]:
            changes.append([workflow["nodes"][0], key, before[key], after[key]])
_archived, lost, inconsistent = lp.detect_lostruns(expiration_secs=0)
result = {"changes": changes, "lost": lost, "inconsistent": inconsistent}
"""


class Hand:
    """One process of FireWorks."""

    def __init__(self, fireworks: FireWorks, code: str, *arguments: object) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            [str(fireworks.venv / "bin" / "python"), "-c", code, *map(str, arguments)],
            cwd=fireworks.home,
            env=fireworks.environ(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def tell(self, line: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(line)}\n")
        self._process.stdin.flush()

    def end(self, timeout: float = 60.0) -> Document:
        """Let it finish what it is about; return what it says."""
        printed, _ = self._process.communicate(timeout=timeout)
        self._errors.seek(0)
        assert self._process.returncode == 0, self._errors.read()[-3000:]
        found = json.loads(printed.splitlines()[-1])
        assert isinstance(found, dict)
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def people(
    fireworks: FireWorks, seed: int, targets: dict[str, list[int]], weights: dict[str, int]
) -> Hand:
    """Somebody who calls commands of `weights` on Fireworks of `targets`, until `end`."""
    hand = Hand(fireworks, _PEOPLE)
    hand.tell({"seed": seed, "targets": targets, "weights": weights})
    return hand


def recoverer(fireworks: FireWorks) -> Hand:
    """`lpad recover_offline` of the launch_ids that are told to it."""
    return Hand(fireworks, _RECOVER)


class Rlaunch:
    """`rlaunch rapidfire`, for ever."""

    def __init__(self, fireworks: FireWorks, place: Path) -> None:
        place.mkdir()
        self._process = subprocess.Popen(
            [
                str(fireworks.venv / "bin" / "rlaunch"),
                *("--silencer", "rapidfire", "--nlaunches", "infinite", "--sleep", "1"),
            ],
            cwd=place,
            env=fireworks.environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
