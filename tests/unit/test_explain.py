"""Why a Firework is where it is: from evidence to words and commands."""

from dataclasses import replace
from typing import Any

import pytest

from agent.explain import Evidence, Told, explain, launch_of, lines
from agent.jobs import JobEnd, QueuedJob
from fwcore.launchpad.records import Setbacks, Story
from fwcore.lost import lost_action

RESERVED = {"state": "RESERVED", "created_on": "2026-11-23T12:00:00+00:00", "reservation_id": "70"}
RUNNING = {
    "state": "RUNNING",
    "created_on": "2026-11-23T12:10:00+00:00",
    "updated_on": "2026-11-23T12:30:00+00:00",
}
AT = 1795437600.0  # 2026-11-23T12:40:00Z


def launch(*history, archived=False, **more):
    return {
        "launch_id": 7,
        "state": history[-1]["state"],
        "state_history": list(history),
        "launch_dir": "/d/7",
        "fworker": {"name": "w"},
        "run": {"fwagent": {"token": "t", "queue": "slurm:/r"}},
        "archived": archived,
        **more,
    }


def story(state, *launches, parents=(), locked="", wanted=True, **spec):
    firework = {"fw_id": 3, "name": "relax", "state": state, "spec": spec}
    workflow = {"name": "wf", "state": "RUNNING", "locked_by": locked}
    return Story(firework, workflow, list(parents), list(launches), wanted)


def evidence(found, **more):
    basis = Evidence(
        fw_id=3,
        now=AT,
        worker="w",
        scheduler="slurm",
        queue="slurm:/r",
        agent="running",
        story=found,
    )
    return replace(basis, **more)


def say(found, **more):
    document = explain(evidence(found, **more))
    assert document["why"], "there is always a reason"
    assert all(len(line) <= 100 for line in lines(document))
    return "; ".join(document["why"]), document["todo"]


def job(state="PENDING", word="PD", reason=""):
    return QueuedJob("70", 7, state, word, reason)


def test_there_is_none():
    document = explain(evidence(None))
    assert (document["state"], document["name"]) == (None, None)
    assert document["why"] == ["there is no Firework 3 in this database"]


def test_waiting_names_the_parents_that_hold_it_and_what_lets_them_go():
    parents = [
        {"fw_id": 1, "name": "a", "state": "COMPLETED"},
        {"fw_id": 2, "name": "b", "state": "FIZZLED"},
    ]
    why, todo = say(story("WAITING", parents=parents))
    assert why == "it waits for Firework 2 (b), which is FIZZLED"
    assert todo == ["fwagent explain 2", "fwagent rerun -i 2"]
    why, _todo = say(story("WAITING", parents=parents, _allow_fizzled_parents=True))
    assert "a refresh was cut" in why


@pytest.mark.parametrize(
    ("found", "more", "words", "do"),
    [
        (story("READY", wanted=False, _fworker="other"), {}, "'_fworker': 'other'", "[worker]"),
        (story("READY", locked="FireWorks"), {}, "locked by FireWorks", "fwagent unlock 3"),
        (story("READY"), {"agent": "down"}, "no agent serves this worker: it is down", "run"),
        (story("READY"), {"silent": "squeue: down"}, "does not answer: squeue: down", ""),
        (story("READY"), {"setbacks": Setbacks(vanished=2)}, "vanished from the queue", ""),
        (story("READY"), {"deferred": "no dir"}, "it was tried, and put off: no dir", "update_fws"),
        (
            story("READY"),
            {"agent": "down", "synced": "40 s"},
            "the next `fwagent sync` takes it up; the last was 40 s ago",
            "",
        ),
        (story("READY"), {}, "as soon as the queue has room", "fwagent launch -i 3"),
    ],
)
def test_ready_and_not_submitted(found, more, words, do):
    why, todo = say(found, **more)
    assert words in why
    assert any(do in each for each in todo) or not do


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"job": job(reason="Priority")}, "slurm job 70 is PENDING (PD, Priority): it waits"),
        ({"job": job("HELD", "Eqw")}, "it waits until it is released"),
        ({"job": job("RUNNING", "R")}, "its runner has told nothing yet"),
        ({"silent": "no squeue"}, "so nothing follows: no squeue"),
        (
            {},
            "slurm job 70 is not in the queue, and there is no final report; the agent settles it",
        ),
        ({"agent": "down"}, "settles it in two passes: it is READY again"),
        (
            {"agent": "down", "job": job()},
            "it waits in the queue; no agent serves this worker: it is down",
        ),
        ({"lost": "report"}, "only reported here"),
        ({"end": JobEnd("70", "TIMEOUT", reason="why")}, "it ended as TIMEOUT (why), and there"),
        ({"queue": "local:/r"}, "submitted to slurm:/r; this configuration has local:/r"),
        (
            {"files": Told(True, "COMPLETED")},
            "has left the end, COMPLETED, which is not in the database",
        ),
        ({"deferred": "locked by x"}, "is put off, and tried again: locked by x"),
        ({"files": Told(True, waiting=("7.t.json",))}, "has left a report"),
        ({"files": Told(True, "RUNNING", waiting=("7.t.json",))}, "is not in the queue"),
    ],
)
def test_reserved(more, words):
    assert words in say(story("RESERVED", launch(RESERVED)), **more)[0]


def test_running_tells_the_age_of_the_last_sign_of_life():
    found = story("RUNNING", launch(RESERVED, RUNNING))
    text = say(found, job=job("RUNNING", "R"))[0]
    assert text == "slurm job 70 is RUNNING (R); its last sign of life is 10 min old"
    sooner = Told(True, "RUNNING", ping_time="2026-11-23T12:40:00+00:00")
    assert "is 0 s old" in say(found, job=job("RUNNING", "R"), files=sooner)[0]
    why, todo = say(found, job=job("RUNNING", "R"), now=AT + 4 * 3600)
    assert "is 4 h old; that is long: it hangs, or the clock" in why
    assert todo == ["look into /d/7"]


def test_a_launch_that_is_not_ours_to_judge():
    found = story("RUNNING", launch(RESERVED, RUNNING, fworker={"name": "w2"}))
    assert say(found)[0] == "the worker 'w2' has it, this configuration is of 'w'"
    why, todo = say(story("RESERVED"))
    assert "whoever reserved it was cut" in why
    assert todo == ["fwagent rerun -i 3"]
    archived = launch(RESERVED, archived=True)
    assert "whoever reserved it was cut" in say(story("RESERVED", archived))[0]


def test_a_script_that_is_left_to_a_person():
    by_hand = {"fwagent": {"token": "t", "by_hand": True}}
    history = {key: value for key, value in RESERVED.items() if key != "reservation_id"}
    why, todo = say(story("RESERVED", launch(history, run=by_hand)))
    assert "left to a person" in why
    assert todo == ["submit /d/7/FW_submit.script"]


def test_one_that_was_forgotten_and_still_runs():
    why, todo = say(
        story("RUNNING", launch(RESERVED, RUNNING, run={"deprecated": True})), job=job("RUNNING")
    )
    assert "it was forgotten" in why
    assert todo == ["fwagent rerun -i 3"]


def test_one_whose_end_was_overwritten():
    done = {"completed": True, "fwagent": {"queue": "slurm:/r"}}
    why, todo = say(
        story("RUNNING", launch(RESERVED, RUNNING, run=done)), files=Told(True, "COMPLETED")
    )
    assert "an older state written over it" in why
    assert todo[0] == "fwagent recover -i 3, to have it at once"


def test_a_directory_that_holds_another_launch_is_not_to_be_submitted():
    by_hand = {"fwagent": {"token": "t", "by_hand": True}}
    history = {key: value for key, value in RESERVED.items() if key != "reservation_id"}
    found = story("RESERVED", launch(history, run=by_hand))
    why, todo = say(found, files=Told(there=False, reason="the directory holds launch 2 now"))
    assert "purged (the directory holds launch 2 now)" in why
    assert not any("FW_submit" in each for each in todo)


def test_a_workflow_that_is_gone_is_not_to_be_recovered():
    found = story("RESERVED", launch(RESERVED))
    found.workflow.update(name=None, state=None)
    why, todo = say(found, files=Told(True, "COMPLETED"))
    assert "no workflow in the database holds it" in why
    assert not any("recover" in each for each in todo)


def test_a_directory_that_is_gone_is_not_to_be_submitted():
    by_hand = {"fwagent": {"token": "t", "by_hand": True}}
    history = {key: value for key, value in RESERVED.items() if key != "reservation_id"}
    found = story("RESERVED", launch(history, run=by_hand))
    why, todo = say(found, files=Told(there=False))
    assert why == "its launch directory is gone, moved or purged"
    assert todo == ["fwagent register DIR, where it is now", "fwagent rerun -i 3"]


def test_what_a_database_holds_does_not_steer_the_terminal():
    found = story("READY")
    found.firework["name"] = "\x1b[31mred\n"
    assert lines(explain(evidence(found)))[0] == "Firework 3 (?[31mred?): READY"


def test_fizzled_says_what_the_launch_says():
    ended = {"state": "FIZZLED", "created_on": "2026-11-23T12:40:00+00:00"}
    action = lost_action("slurm job 70 ended as TIMEOUT", {"scheduler": "slurm"})
    why, todo = say(story("FIZZLED", launch(RESERVED, RUNNING, ended, action=action)))
    assert why.startswith("slurm job 70 ended as TIMEOUT; that is concluded from the queue")
    assert todo == ["look into /d/7", "fwagent rerun -i 3"]
    plain: dict[str, Any] = {"stored_data": {"_message": "runtime error during task"}}
    why, _todo = say(story("FIZZLED", launch(RESERVED, RUNNING, ended, action=plain)))
    assert why == "runtime error during task"
    trace = "Traceback ...\n  File x\nValueError: no such\x1b[2J atom\n\n"
    plain["stored_data"]["_exception"] = {"_stacktrace": trace}
    found = story("FIZZLED", launch(RESERVED, RUNNING, ended, action=plain))
    assert say(found)[0] == "runtime error during task: ValueError: no such\x1b[2J atom"
    assert "no such?[2J atom" in "".join(lines(explain(evidence(found))))
    why, todo = say(found, files=Told(there=False))
    assert todo == ["fwagent rerun -i 3"]
    why, todo = say(found, end=JobEnd("70", "TIMEOUT", signal=15))
    assert "the queue ended its job as TIMEOUT" in why
    assert todo[0].startswith("give it more walltime: lpad update_fws -i 3 -u '{")
    told = lines(explain(evidence(found, end=JobEnd("70", "TIMEOUT", exit_code=0, signal=15))))
    assert "queue      job 70 ended as TIMEOUT, signal 15" in told
    plain["stored_data"] = {"_message": "cut", "_exception": {"_stacktrace": "x.Terminated: cut"}}
    assert say(story("FIZZLED", launch(RUNNING, ended, action=plain)))[0] == "cut"
    assert "started once more, and its first end" in say(found, files=Told(True, "COMPLETED"))[0]
    assert "does not say why" in say(story("FIZZLED"))[0]


@pytest.mark.parametrize(
    ("state", "command"),
    [
        ("PAUSED", "lpad resume_fws -i 3"),
        ("DEFUSED", "lpad reignite_fws -i 3"),
        ("ARCHIVED", "add"),
    ],
)
def test_held(state, command):
    why, todo = say(story(state, launch(RESERVED)), job=job())
    assert "taken it out of the flow" in why
    assert "its job 70 is still in the queue" in why
    assert any(command in each for each in todo)


@pytest.mark.parametrize("state", ["COMPLETED", None, "STRANGE"])
def test_every_state_has_an_answer(state):
    assert say(story(state))


def test_the_newest_active_launch_counts_and_else_the_archived_one():
    active = [launch(RESERVED, launch_id=n) for n in (4, 5)]
    archived = launch(RESERVED, launch_id=3, archived=True)
    found = launch_of(story("RUNNING", *active, archived))
    assert found is not None
    assert found.launch_id == 5
    found = launch_of(story("READY", archived))
    assert found is not None
    assert (found.launch_id, found.archived) == (3, True)
    assert launch_of(story("READY")) is None


def test_for_people():
    found = story(
        "RUNNING", launch(RESERVED, RUNNING), parents=[{"fw_id": 1, "state": "COMPLETED"}]
    )
    files = Told(
        True,
        "RUNNING",
        ping_time="2026-11-23T12:30:00+00:00",
        words={"stderr": "\n".join(map(str, range(20)))},
    )
    end = JobEnd("70", "NODE_FAIL", exit_code=1, elapsed=3.0)
    told = lines(explain(evidence(found, end=end, files=files)))
    assert told[:2] == [
        "Firework 3 (relax): RUNNING",
        "why        slurm job 70 is not in the queue: it ended as NODE_FAIL, and there is no final report",
    ]
    assert told[3:8] == [
        "parents    1 COMPLETED",
        "database   launch 7 is RUNNING since 2026-11-23 12:10:00, job 70",
        "queue      job 70 ended as NODE_FAIL after 3 s, exit code 1",
        "files      RUNNING, last ping 2026-11-23 12:30:00",
        "stderr     12",
    ]
    assert len(told) == 15
