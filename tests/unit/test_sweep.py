"""The schedule of looks at launch directories: nobody is forgotten, nobody is asked too often, no bursts."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sweep import THOROUGH, Bounds, Schedule

BOUNDS = Bounds(fastest=10, slowest=60, per_second=1e9, watched=180)
LAUNCHES = st.sets(st.integers(1, 10**6), min_size=1, max_size=30)


def played(schedule, seconds, changed=lambda _launch, _now: False, begin=0, step=1):
    """Look at what is due every second; return {launch_id: the times of its looks}."""
    times: dict[int, list[int]] = {}
    for now in range(begin, begin + seconds, step):
        due = schedule.due(now)
        assert len(due) == len(set(due))
        for launch_id in due:
            times.setdefault(launch_id, []).append(now)
        schedule.looked(due, now, [each for each in due if changed(each, now)])
    return times


def pauses(times):
    return [after - before for before, after in pairwise(times)]


@given(LAUNCHES, st.randoms(use_true_random=False))
def test_everyone_is_looked_at_within_the_bounds(launches, random):
    schedule = Schedule(BOUNDS)
    schedule.keep(launches, 0)
    times = played(schedule, 400, lambda *_: random.random() < 0.3)
    assert times.keys() == launches
    for looks in times.values():
        assert looks[0] <= BOUNDS.fastest
        # Looks come at whole seconds.
        assert all(pause <= BOUNDS.slowest + 1 for pause in pauses(looks))
        # The first of a longer pause may come early, for a launch keeps its own time.
        assert len(looks) <= 1.5 * 400 / BOUNDS.fastest + 2
        assert 400 - looks[-1] <= BOUNDS.slowest + 1


@given(LAUNCHES, LAUNCHES)
def test_those_that_ended_are_not_due_any_more_and_new_ones_are_soon(before, after):
    schedule = Schedule(BOUNDS)
    schedule.keep(before, 0)
    played(schedule, 100)
    schedule.keep(after, 100)
    assert len(schedule) == len(after)
    times = played(schedule, 100, begin=100)
    assert times.keys() == after
    assert all(times[new][0] <= 100 + BOUNDS.fastest for new in after - before)


@given(st.integers(1, 10**6))
def test_what_has_changed_is_looked_at_sooner_than_what_is_quiet(launch_id):
    schedule = Schedule(BOUNDS)
    schedule.keep([launch_id], 0)
    quiet = pauses(played(schedule, 400)[launch_id])
    assert quiet[0] < quiet[-1]
    assert all(abs(pause - BOUNDS.slowest) <= 1 for pause in quiet[-3:])
    busy = pauses(played(schedule, 400, lambda *_: True, begin=400)[launch_id][1:])
    assert max(busy) <= BOUNDS.fastest + 1


def test_the_looks_are_spread():
    """Also of launches that were all found at once, and again after a long quiet time."""
    schedule = Schedule(BOUNDS)
    schedule.keep(range(1, 6001), 0)
    times = played(schedule, 1200)
    of_second = Counter(now for looks in times.values() for now in looks)
    assert max(of_second[now] for now in range(10)) <= 2 * 6000 / 10
    assert max(of_second[now] for now in range(900, 1200)) <= 1.5 * 6000 / 60


@pytest.mark.parametrize("times", [1, 2, 3, 4, 2.5])
def test_of_a_few_looks_at_any_launch_one_is_thorough(times):
    bounds = BOUNDS._replace(watched=BOUNDS.slowest * times)
    schedule = Schedule(bounds)
    schedule.keep(range(1, 101), 0)
    schedule.watched(range(1, 51), 0)
    looks: dict[int, list[bool]] = {}
    for now in range(3600):
        due = schedule.due(now)
        quick = schedule.quick(due)
        for launch_id in due:
            looks.setdefault(launch_id, []).append(launch_id not in quick)
        schedule.looked(due, now, ())
    for found in looks.values():
        assert len(found) >= 15
        assert {sum(found[at : at + THOROUGH]) for at in range(len(found) - THOROUGH)} == {1}


def test_thorough_looks_come_also_where_the_rate_has_looks_come_late():
    schedule = Schedule(BOUNDS._replace(per_second=2))
    schedule.keep(range(1, 201), 0)
    thorough = set()
    for now in range(1000):
        due = schedule.due(now)
        thorough |= set(due) - schedule.quick(due)
        schedule.looked(due, now, ())
    assert len(thorough) == 200


def test_a_rate_bounds_bursts_and_nobody_starves():
    schedule = Schedule(Bounds(10, 60, per_second=50, watched=60))
    schedule.keep(range(1, 6001), 0)
    times = played(schedule, 300)
    of_second = Counter(now for looks in times.values() for now in looks)
    assert max(of_second.values()) <= 50
    assert len(times) == 6000
    assert max(pause for looks in times.values() for pause in pauses(looks)) <= 6000 / 50 + 61


def test_after_a_long_sleep_not_everything_is_looked_at_at_once():
    schedule = Schedule(Bounds(10, 60, per_second=50, watched=60))
    schedule.keep(range(1, 6001), 0)
    played(schedule, 200)
    assert len(schedule.due(90000)) <= 60 * 50


def test_stale_entries_do_not_pile_up():
    """Of launches that events name again and again, and of those that are gone."""
    schedule = Schedule(BOUNDS)
    for now in range(0, 10000, 10):
        schedule.keep(range(now, now + 100), now)
        due = schedule.due(now)
        schedule.looked(due, now, ())
        schedule.looked(range(now, now + 50), now, range(now, now + 50))
    assert sum(len(slot.launches) for slot in schedule._slots.values()) < 1000
    assert len(schedule._slots) == len(schedule._order) < 200


@given(LAUNCHES, st.data())
def test_those_that_are_watched_are_looked_at_less_while_they_are_quiet(launches, data):
    watched = data.draw(st.sets(st.sampled_from(sorted(launches))))
    schedule = Schedule(BOUNDS)
    schedule.keep(launches, 0)
    schedule.watched(watched, 0)
    times = played(schedule, 2000)
    for launch_id in launches:
        longest = BOUNDS.watched if launch_id in watched else BOUNDS.slowest
        last = pauses(times[launch_id])[-3:]
        assert all(abs(pause - longest) <= 1 for pause in last)
    still = data.draw(st.sets(st.sampled_from(sorted(launches))))
    schedule.watched(still, 2000)
    times = played(schedule, 2000, begin=2000)
    for launch_id in launches - still:
        assert times[launch_id][0] <= 2000 + BOUNDS.slowest + 1
        assert all(pause <= BOUNDS.slowest + 1 for pause in pauses(times[launch_id]))
    changed = played(schedule, 200, lambda *_: True, begin=4000)
    assert all(max(pauses(looks)) <= BOUNDS.fastest + 1 for looks in changed.values() if looks[1:])


def test_a_slot_that_two_kinds_share_is_right_for_both():
    schedule = Schedule(BOUNDS)
    schedule.keep(range(1, 2001), 0)
    schedule.watched(range(1, 1001), 0)
    times = played(schedule, 1500)
    assert all(max(pauses(times[each])) <= BOUNDS.slowest + 1 for each in range(1001, 2001))
    assert all(pauses(times[each])[-1] >= BOUNDS.watched - 1 for each in range(1, 1001))
    of_second = Counter(now for looks in times.values() for now in looks)
    assert max(of_second[now] for now in range(900, 1500)) <= 2 * (1000 / 60 + 1000 / 180)
