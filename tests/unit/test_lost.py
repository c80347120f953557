"""A launch whose job was lost, on a LaunchPad in memory: its end is a conclusion, and a report beats it."""

import pytest

from fwcore.lost import MARK, VANISHED, facts_of, is_lost, lost_action
from tests.support.memory import Memory, report

FACTS = {"scheduler": "slurm", "state": "TIMEOUT"}


@pytest.fixture
def memory() -> Memory:
    return Memory()


def lost(launch_id: int, **more):
    return report(launch_id, "FIZZLED")._replace(
        completed_on=None, fwaction=lost_action("it is lost", {**FACTS, **more})
    )


def test_it_is_fizzled_with_the_facts(memory) -> None:
    ids = memory.add({"a": "b"})
    launch_id = memory.run(ids["a"])
    assert memory.apply(lost(launch_id)).applied[0].state == "FIZZLED"
    launch = memory.launch(launch_id)
    assert memory.states(ids) == {"a": "FIZZLED", "b": "WAITING"}
    assert launch["action"]["stored_data"]["_message"] == "it is lost"
    assert launch["action"]["stored_data"][MARK] == FACTS
    assert is_lost(launch)
    run = memory.offline_run(launch_id)
    assert run["completed"], "`lpad recover_offline` would say RUNNING"
    assert run["fwagent"]["lost"] == "2026-11-23T12:01:00.123456+00:00"


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("state", ["COMPLETED", "FIZZLED"])
def test_what_the_job_itself_tells_later_takes_its_place(memory, state, begun) -> None:
    ids = memory.add({"a": "b"})
    launch_id = memory.run(ids["a"]) if begun else memory.reserve(ids["a"])
    memory.apply(lost(launch_id))
    plan = memory.apply(report(launch_id, state, update_spec={"x": 1}))
    assert plan.applied[0].state == state
    launch = memory.launch(launch_id)
    assert [entry["state"] for entry in launch["state_history"]] == ["RESERVED", "RUNNING", state]
    assert launch["time_end"] == "2026-11-23T12:05:00.654000+00:00"
    assert launch["action"]["update_spec"] == {"x": 1}
    assert not is_lost(launch)
    assert memory.states(ids)["a"] == state
    assert plan.released == ([ids["b"]] if state == "COMPLETED" else [])
    assert memory.offline_run(launch_id)["fwagent"]["lost"] is None
    assert not memory.apply(report(launch_id, state, update_spec={"x": 1})).writes


def test_a_conclusion_never_replaces_a_report(memory) -> None:
    ids = memory.add({"a": ""})
    launch_id = memory.complete(ids["a"])
    plan = memory.apply(lost(launch_id))
    assert not plan.writes
    assert [outcome.reason for outcome in plan.ignored] == [
        "the launch is COMPLETED in the database, the report says FIZZLED"
    ]
    failed = memory.complete(memory.add({"a": ""})["a"], "FIZZLED")
    assert not memory.apply(lost(failed)).writes


def test_the_same_conclusion_again_changes_nothing(memory) -> None:
    launch_id = memory.run(memory.add({"a": ""})["a"])
    memory.apply(lost(launch_id))
    assert not memory.apply(lost(launch_id, state="NODE_FAIL")).writes


def test_a_sign_of_life_after_it_lets_it_run_again(memory) -> None:
    """Its scheduler has requeued the job, or lied."""
    ids = memory.add({"a": "b"}, {"b": {"_allow_fizzled_parents": True}})
    launch_id = memory.run(ids["a"])
    alive = report(launch_id)._replace(ping_time="2026-11-23T12:30:00.123456+00:00")
    memory.apply(lost(launch_id)._replace(ping_time=alive.ping_time))
    assert memory.states(ids)["b"] == "READY"
    stored = memory.launch(launch_id)

    assert not memory.apply(alive).writes, "that ping was known"
    assert memory.launch(launch_id) == stored

    memory.apply(alive._replace(ping_time="2026-11-23T13:00:00+00:00"))
    launch = memory.launch(launch_id)
    assert (launch["state"], launch["action"], launch["time_end"]) == ("RUNNING", None, None)
    assert launch["state_history"][-1]["updated_on"] == "2026-11-23T13:00:00+00:00"
    assert all(isinstance(entry["created_on"], str) for entry in launch["state_history"])
    run = memory.offline_run(launch_id)
    assert (run["completed"], run["fwagent"]["lost"]) == (False, None)
    assert memory.states(ids) == {"a": "RUNNING", "b": "WAITING"}
    memory.apply(report(launch_id, "COMPLETED"))
    assert memory.states(ids) == {"a": "COMPLETED", "b": "READY"}


def test_a_rerun_that_came_first_stays(memory) -> None:
    ids = memory.add({"a": ""})
    launch_id = memory.run(ids["a"])
    memory.rerun(ids["a"])
    assert memory.apply(lost(launch_id)).ignored
    assert memory.states(ids) == {"a": "READY"}


# ------------------------------------------------------------------------------------- rerun


def test_end_and_rerun_in_one_batch(memory) -> None:
    """Nobody sees the Firework FIZZLED: a child that tolerates it does not begin."""
    ids = memory.add({"a": "b"}, {"b": {"_allow_fizzled_parents": True}})
    launch_id = memory.run(ids["a"])
    end = lost(launch_id, rerun=True)._replace(fw_id=ids["a"])
    changes = memory.rerun_lost(end)
    assert changes.released == [ids["a"]]
    assert memory.states(ids) == {"a": "READY", "b": "WAITING"}
    firework, launch = memory.firework(ids["a"]), memory.launch(launch_id)
    assert (firework["launches"], firework["archived_launches"]) == ([], [launch_id])
    assert (launch["state"], facts_of(launch["action"])) == ("FIZZLED", {**FACTS, "rerun": True})
    assert memory.offline_run(launch_id)["deprecated"]
    assert "_recovery" not in firework["spec"]
    again = memory.rerun_lost(end)
    assert not again.writes
    assert [change.fw_id for change in again.skipped] == [ids["a"]]


def test_where_the_firework_asks_for_it_it_goes_on_from_the_checkpoint(memory) -> None:
    ids = memory.add({"a": "", "b": ""}, {n: {"_resume_requeued": True} for n in "ab"})
    checkpoint = {"_task_n": 1, "_all_stored_data": {}, "_all_update_spec": {}, "_all_mod_spec": []}
    first, second = memory.run(ids["a"]), memory.run(ids["b"])
    memory.rerun_lost(
        lost(first)._replace(fw_id=ids["a"], checkpoint=checkpoint),
        lost(second)._replace(fw_id=ids["b"]),
    )
    assert memory.states(ids) == {"a": "READY", "b": "READY"}
    assert memory.firework(ids["a"])["spec"]["_recovery"] == {
        **checkpoint,
        "_prev_dir": f"/launch/{first}",
        "_launch_id": first,
        "_mode": "cp",
    }
    assert "_recovery" not in memory.firework(ids["b"])["spec"]


@pytest.mark.parametrize("state", ["PAUSED", "DEFUSED", "COMPLETED"])
def test_what_is_held_or_done_is_not_rerun(memory, state) -> None:
    ids = memory.add({"a": ""})
    launch_id = memory.run(ids["a"])
    memory.set_state(ids["a"], state)
    changes = memory.rerun_lost(lost(launch_id)._replace(fw_id=ids["a"]))
    assert not changes.writes
    assert [change.reason for change in changes.skipped] == [f"it is {state}"]


def test_a_report_that_came_first_is_not_rerun(memory) -> None:
    ids = memory.add({"a": ""})
    launch_id = memory.complete(ids["a"])
    memory.set_state(ids["a"], "RUNNING")
    assert not memory.rerun_lost(lost(launch_id)._replace(fw_id=ids["a"])).writes


def test_a_job_that_vanished_is_noted_in_the_launch(memory) -> None:
    ids = memory.add({"a": ""})
    launch_id = memory.reserve(ids["a"])
    memory.cancel(launch_id, vanished={launch_id: "gone"})
    assert memory.states(ids) == {"a": "READY"}
    assert memory.launch(launch_id)["state_history"][-1][VANISHED] == "gone"
    other = memory.reserve(ids["a"])
    memory.cancel(other)
    assert VANISHED not in memory.launch(other)["state_history"][-1]
