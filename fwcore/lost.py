"""A launch whose job ended without a report: how that is said in its action, and known again.

The end that we give such a launch is a conclusion, not a report. It is marked, so that what the job itself still
tells takes its place. FireWorks' `lpad detect_lostruns` retires the offline run for good, and a result that
arrives later is never seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fwcore import action as actions
from fwcore.documents import milliseconds, parse_time
from fwrunner.protocol import Report

Document = dict[str, Any]

#: The key in ``stored_data`` of such an action; its value tells what is known of the job's end.
MARK = "_fwagent_lost"
#: The key in the last history entry of a reservation that was taken back because its job vanished.
VANISHED = "_fwagent_vanished"


def lost_action(message: str, facts: Mapping[str, Any]) -> Document:
    """Return the action of a lost launch: FireWorks' of a failed one, and the facts under ``MARK``."""
    action = actions.failure(message)
    action["stored_data"][MARK] = dict(facts)
    return action


def facts_of(action: object) -> Document | None:
    """Return what an action says of a lost job, None if it is not one of ``lost_action``."""
    stored = action.get("stored_data") if isinstance(action, Mapping) else None
    facts = stored.get(MARK) if isinstance(stored, Mapping) else None
    return dict(facts) if isinstance(facts, Mapping) else None


def is_lost(launch: Mapping[str, Any]) -> bool:
    """Tell whether a launch has ended by our conclusion alone."""
    return bool(launch["state"] == "FIZZLED" and facts_of(launch.get("action")) is not None)


def disproves(report: Report, launch: Mapping[str, Any]) -> bool:
    """Tell whether a report shows that a lost launch is not: it has ended by itself, or lived on since."""
    if report.final:
        return facts_of(report.fwaction) is None
    history = launch["state_history"]
    given_up = parse_time(history[-1].get("created_on")) if history else None
    signs = [parse_time(text) for text in (report.ping_time, report.started_on)]
    # It is stored to the millisecond, and may be the time of the very ping that is told again.
    lived = [milliseconds(sign) for sign in signs if sign is not None]
    return given_up is not None and max(lived, default=given_up) > given_up
