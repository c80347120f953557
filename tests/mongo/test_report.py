"""`fwagent report`: what it counts, against the same counted by hand from the documents."""

import random
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from fwcore.documents import iso
from fwcore.lost import lost_action
from fwcore.tally import EDGES, Failure, period
from fwrunner.protocol import write_atomic
from tests.support.agent import WORKER, Store

NOW = datetime(2026, 11, 23, 14, 5, tzinfo=timezone.utc)
DAY = timedelta(days=1)
TRACE = "Traceback (most recent call last):\n  File x\nValueError: no such thing\n\n"


def counted(launchpad, span, worker="w"):
    parts, found = zip(*launchpad.tally(span, worker), strict=True)
    assert list(parts) == sorted(parts)
    assert parts[-1] == 1.0
    return found[-1]


def edge(seconds):
    return max(each for each in EDGES if each <= max(0, seconds))


def stored(dice, moment):
    """A moment as FireWorks stores it now, or did."""
    kinds = (moment, iso(moment), moment.replace(tzinfo=None).isoformat())
    return dice.choice(kinds)


def history(dice, number):
    """(states, moments) of a launch that somebody has reserved, or run without."""
    reserved = NOW - 20 * DAY * dice.random()
    started = reserved + timedelta(seconds=dice.expovariate(1 / 20_000))
    ended = started + timedelta(seconds=dice.expovariate(1 / 40_000))
    states = [("RESERVED", reserved), ("RUNNING", started)]
    states += [(dice.choice(["COMPLETED", "COMPLETED", "FIZZLED"]), ended)]
    if number % 7 == 0:
        states = [("RESERVED", reserved), ("READY", started)]
    elif number % 11 == 0:
        del states[0]
    elif number % 13 == 0:
        del states[1]
    # Milliseconds are what a date keeps.
    before = [(s, m.replace(microsecond=m.microsecond // 1000 * 1000)) for s, m in states]
    return [each for each in before if each[1] < NOW] or before[:1]


def fill(db, count, seed=3):
    """Store launches; return their histories of worker w."""
    dice = random.Random(seed)
    told = []
    for number in range(1, count + 1):
        states = history(dice, number)
        state, last = states[-1]
        worker = "other" if number % 10 == 0 else "w"
        action: dict[str, Any] = {"stored_data": {}}
        if state == "FIZZLED":
            action["stored_data"] = {"_message": "m", "_exception": {"_stacktrace": TRACE}}
            if number % 2:
                facts = {"state": "TIMEOUT", "exit_code": 0, "signal": 9}
                action = lost_action("lost", facts)
        final = state in ("COMPLETED", "FIZZLED")
        db.launches.insert_one(
            {
                "launch_id": number,
                "fw_id": number,
                "fworker": {"name": worker},
                "state": state,
                "action": action if final else None,
                "state_history": [
                    {"state": each, "created_on": stored(dice, moment)} for each, moment in states
                ],
                "time_end": iso(last) if final else None,
            }
        )
        db.fireworks.insert_one({"fw_id": number, "name": f"n{number % 3}", "state": state})
        delay = dice.random() * 100
        run = {"launch_id": number, "completed": final, "deprecated": False}
        db.offline_runs.insert_one({**run, "updated_on": iso(last + timedelta(seconds=delay))})
        if worker == "w":
            told.append((number, dict(states), action, delay))
    return told


def test_counts_are_those_of_the_documents(lp, db):
    told = fill(db, 400)
    span = period(NOW - 10 * DAY, NOW)
    found = counted(lp, span)
    step = {}
    ended, failures, now = Counter[Any](), Counter[Any](), Counter[Any]()
    moments = {name: Counter[Any]() for name in ("reserved", "started", "left", "stopped")}
    waits, runs, delays = Counter[Any](), Counter[Any](), Counter[Any]()
    for number, states, action, delay in told:
        step = {s: (m - span.begin) // span.width for s, m in states.items()}
        (final,) = [s for s in states if s in ("COMPLETED", "FIZZLED")] or [None]
        last = list(states)[-1]
        now.update([last] if last in ("RESERVED", "RUNNING") else [])
        left = next((s for s in states if s != "RESERVED"), None)
        marked = {
            "reserved": "RESERVED",
            "started": "RUNNING",
            "left": left if "RESERVED" in states else None,
            "stopped": final if "RUNNING" in states else None,
        }
        for name, state in marked.items():
            moments[name].update([step[state]] if step.get(state, -1) >= 0 else [])
        if step.get("RUNNING", -1) >= 0 and "RESERVED" in states:
            waits[edge((states["RUNNING"] - states["RESERVED"]).total_seconds())] += 1
        if final is None or step[final] < 0:
            continue
        ended[step[final], final] += 1
        if "RUNNING" in states:
            runs[edge((states[final] - states["RUNNING"]).total_seconds())] += 1
        lost = "_fwagent_lost" in action["stored_data"]
        if not lost:
            delays[edge(delay)] += 1
        if final == "FIZZLED":
            name = f"n{number % 3}"
            kinds = {
                True: Failure("TIMEOUT", name, True, "0", "9"),
                False: Failure("ValueError: no such thing", name),
            }
            failures[kinds[lost]] += 1
    assert found.ended == ended
    for name, counts in moments.items():
        assert getattr(found, name) == counts, name
    assert (found.waits, found.runs) == (waits, runs)
    assert found.failures == failures
    assert found.now == now
    assert now.total() > 5
    assert found.taken_back == sum("READY" in s and s["READY"] >= span.begin for _n, s, *_ in told)
    assert found.taken_back > 5
    # A run that ended just before may have been told of in this time.
    extra = found.delays.total() - delays.total()
    assert 0 <= extra <= 1
    everybody = counted(lp, span, None)
    assert sum(everybody.ended.values()) > sum(ended.values())
    assert sum(everybody.fireworks.values()) == 400


@pytest.mark.parametrize(
    "damage",
    [
        {"state_history": None},
        {"state_history": [None, {"state": 3}, {"state": "RUNNING", "created_on": "yesterday"}]},
        {"state_history": [{"state": "FIZZLED", "created_on": {"$x": 1}}]},
        {"action": 7},
        {"action": {"stored_data": {"_message": 5, "_exception": [1]}}},
        {"action": {"stored_data": {"_fwagent_lost": {"state": None, "exit_code": []}}}},
        {"action": {"stored_data": {"_exception": {"_stacktrace": "\u00e9" * 9000}}}},
        {"fw_id": None},
    ],
)
def test_a_damaged_launch_stops_nothing(lp, db, damage):
    moment = NOW - DAY
    entries = [{"state": "FIZZLED", "created_on": iso(moment)}]
    whole = {"state": "FIZZLED", "fworker": {"name": "w"}, "time_end": iso(moment)}
    sound = {**whole, "fw_id": 1, "action": None, "state_history": entries}
    db.launches.insert_many([{**sound, "launch_id": 1}, {**sound, "launch_id": 2, **damage}])
    db.fireworks.insert_one({"fw_id": 1, "name": "n"})
    found = counted(lp, period(NOW - 3 * DAY, NOW))
    assert found.failures[Failure("", "n")] >= 1
    assert found.failures.total() == 2


def test_what_was_written_after_now_is_of_the_last_step(lp, db):
    later = NOW + timedelta(hours=1)
    entries = [{"state": "COMPLETED", "created_on": later}]
    launch = {"launch_id": 1, "fw_id": 1, "state": "COMPLETED", "fworker": {"name": "w"}}
    db.launches.insert_one({**launch, "time_end": iso(later), "state_history": entries})
    span = period(NOW - DAY, NOW)
    assert counted(lp, span).ended == Counter({(span.count - 1, "COMPLETED"): 1})


def test_the_command(site, lp, db):
    store = Store(lp, db)
    store.add({}, {}, {})
    claims = [site.launch_one() for _ in range(3)]
    site.fwrunner(claims[0]["launch_dir"])
    site.json("recover")
    write_atomic(str(site.home / "kept.html"), {"old": 1})
    document = site.json("report")
    launches = document["launches"]
    assert (launches["COMPLETED"], launches["RESERVED"], launches["reserved"]) == (1, 2, 3)
    assert document["latency"]["count"] == document["waiting"]["count"] == 1
    assert 0 <= document["latency"]["median"] < 60
    assert document["worker"] == WORKER
    until, since = (datetime.fromisoformat(document[key]) for key in ("until", "since"))
    assert (until - since).days == 30
    assert sum(each["COMPLETED"] for each in document["throughput"]) == 1
    assert document["states"][-1] == {"at": document["until"], "RESERVED": 2, "RUNNING": 0}
    assert not list(site.home.glob("fwagent-report.html"))

    assert "wrote fwagent-report.html" in site.run("report").stdout
    assert "<h2>Throughput</h2>" in (site.home / "fwagent-report.html").read_text("utf-8")
    # With --json the page is made if it is asked for, and stdout is JSON alone.
    assert site.json("report", "-o", "kept.html", "--since", "2h")["step_seconds"] == 300
    assert (site.home / "kept.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    assert not list(site.home.glob(".*.tmp"))


def test_nothing_yet_and_nowhere(site, lp):
    site.run("report", "-o", "empty.html")
    assert "Nothing yet" in (site.home / "empty.html").read_text("utf-8")
    refused = site.run("report", "-o", "no/such/place.html", status=1)
    assert "cannot be written" in refused.stderr
    for since in ("later", "2999-01-01", "-3d"):
        assert "--since" in site.run("report", "--since", since, status=2).stderr
