"""What `fwagent status` tells: the agent, the database, the launches, the backlog."""

from __future__ import annotations

import os
import socket
from typing import Any

from agent import modes, running
from agent.config import Config
from agent.health import backlog, read_status
from agent.lease import is_gone
from agent.locks import seen
from agent.notes import read_notes
from fwcore.errors import DatabaseRefused, DatabaseUnreachable
from fwcore.launchpad.records import Refusal, Wish
from fwcore.states import RANKS

#: Seconds that `status` waits for the database.
_TIMEOUT = 3.0
#: Locks that are shown to people.
_LOCKS = 5
#: Lost jobs that are shown to people.
_LOST = 5
#: Refused writes whose reasons are told.
_REFUSED = 5


def collect(config: Config) -> dict[str, Any]:
    """Return the status document; never raises for a database that is down.

    Keys: ``worker``; ``agent`` {``state``, ``host``, ``pid``, ``since``, ``last_pass``, ``mode``, ``wish``:
    {``mode``: `run`, `drain` or `pause`, ``by``, ``on``, ``followed``: null while no agent is there to answer}};
    ``database`` {``where``, ``reachable``, ``error``, ``down_since``}; ``fireworks`` {state: count} and
    ``launches`` {``open``, ``RESERVED``, ``RUNNING``}, null when the database is down; ``running``, the newest
    of these as in ``agent.running.pings``, likewise; ``backlog``
    {``reports``, ``oldest_seconds``, ``applying``: {``done``, ``total``} of what a pass is applying now, or null};
    ``events`` {``kind``, ``watched``, ``trouble``}: what file events tell there, how many launch directories are
    watched, why there are not more; ``queue`` {``silent_since``, ``reason``}, nulls while it answers; ``lost``, a
    list of {``launch_id``, ``fw_id``, ``job_id``, ``reason``, ``on``}: jobs that are lost and whose launches were left
    as they are; ``locks``, those that nobody is known to hold, as in ``agent.locks.seen``, null
    when the database is down; ``refused`` {``count``, ``newest``: at most 5 of {``collection``, ``id``,
    ``reason``, ``on``}}, writes that the server will never take, null when the database is down; ``counts`` since
    the agent's start; ``last_error``.
    """
    told = read_status(config.private) or {}
    worker = config.fworker().name
    launchpad = config.connect(timeout=_TIMEOUT)
    document: dict[str, Any] = {
        "worker": worker,
        "agent": _agent(told),
        "database": {
            "where": launchpad.where,
            "reachable": True,
            "error": None,
            "down_since": told.get("database_down_since"),
        },
        "fireworks": None,
        "launches": None,
        "running": None,
        "backlog": {**backlog(config.private / "outbox"), "applying": told.get("backlog") or None},
        "events": {
            "kind": told.get("events") or None,
            "watched": told.get("watched", 0),
            "trouble": told.get("watch_trouble") or None,
        },
        **_queue(config),
        "locks": None,
        "refused": None,
        "counts": {key: told.get(key, 0) for key in ("passes", "applied", "submitted", "deferred")},
        "last_error": {"title": told.get("last_error"), "on": told.get("last_error_on")},
    }
    try:
        lease = launchpad.lease(worker)
        wish = lease[0].wish if lease else launchpad.wish(worker)
        live = lease is not None and lease[1]
        followed = lease[0].followed >= wish.number if lease and live else None
        document["agent"]["wish"] = modes.document(wish, followed=followed)
        document["fireworks"] = launchpad.counts()
        launches = launchpad.open_launches(worker)
        document["launches"] = {"open": len(launches), **launchpad.active_count(worker)}
        document["running"] = running.pings(launches)
        document["locks"] = seen(launchpad.locks(is_gone=is_gone), told.get("locks") or [])
        document["refused"] = _refused(*launchpad.refused(_REFUSED))
    except (DatabaseUnreachable, DatabaseRefused) as error:
        document["database"].update(reachable=False, error=error.title)
    else:
        if lease is not None and lease[1]:
            document["agent"].update(
                state="running",
                host=lease[0].host,
                pid=lease[0].pid,
                since=lease[0].since.isoformat(),
            )
        elif document["agent"]["state"] == "running":
            document["agent"]["state"] = "waking"
    finally:
        launchpad.close()
    return document


def _queue(config: Config) -> dict[str, Any]:
    notes = read_notes(config.private)
    silent = notes.get("silent", {})
    told = [entry for entry in notes.get("told", {}).values() if isinstance(entry, dict)]
    return {
        "queue": {"silent_since": silent.get("since"), "reason": silent.get("reason")},
        "lost": sorted(told, key=lambda entry: str(entry.get("on")), reverse=True),
    }


def _refused(count: int, newest: list[Refusal]) -> dict[str, Any]:
    rows = [
        {
            "collection": each.collection,
            "id": each.number,
            "reason": each.reason,
            "on": each.on.isoformat() if each.on else None,
        }
        for each in newest
    ]
    return {"count": count, "newest": rows}


def _agent(told: dict[str, Any]) -> dict[str, Any]:
    agent = {
        "state": "down",
        "host": told.get("host"),
        "pid": told.get("pid"),
        "since": told.get("started_on"),
        "last_pass": told.get("last_pass"),
        "mode": told.get("mode"),
        "wish": told.get("wish") or modes.document(Wish(), followed=None),
    }
    if agent["pid"] and agent["mode"] != "stopped":
        agent["state"] = _seen_from_here(agent["host"], agent["pid"])
    return agent


def _seen_from_here(host: object, pid: object) -> str:
    """Tell whether a process runs, if it is on this host."""
    if host != socket.gethostname() or not isinstance(pid, int):
        return "unknown"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "down"
    except PermissionError:
        return "unknown"
    return "running"


def lines(document: dict[str, Any]) -> list[str]:
    """Return the status for people, at most 100 columns wide."""
    agent, database, backlog = document["agent"], document["database"], document["backlog"]
    found = [f"worker     {document['worker']}", f"agent      {_agent_line(agent)}"]
    if asked := modes.told(agent["wish"]):
        found.append(f"mode       {asked}")
        found.append(f"           {modes.WORDS[agent['wish']['mode']][1]}; end it: fwagent resume")
    if database["reachable"]:
        found.append(f"database   {database['where']}: answers")
    else:
        since = f" since {database['down_since']}" if database["down_since"] else ""
        refused = str(database["error"]).startswith(f"the database at {database['where']} refused")
        what = "refuses" if refused else "does not answer"
        found.append(f"database   {database['where']}: {what}{since}")
        found.append(
            "           nothing is lost: reports stay in the launch directories until it does"
        )
    if document["launches"] is not None:
        launches, fireworks = document["launches"], document["fireworks"]
        states = [f"{n} {state}" for state, n in sorted(fireworks.items(), key=_by_rank)]
        found.append(f"fireworks  {', '.join(states) or 'none'}")
        found.append(
            f"launches   {launches['RESERVED']} in the queue, {launches['RUNNING']} running, "
            f"{launches['open']} may still report"
        )
        found += running.lines(document["running"], launches["RUNNING"])
    age = backlog["oldest_seconds"]
    waiting = (
        f"{backlog['reports']} reports, the oldest {age:.0f} s old" if age is not None else "none"
    )
    if applying := backlog["applying"]:
        waiting += f"; {applying['done']} of {applying['total']} are applied"
    found.append(f"backlog    {waiting}")
    found += _events_lines(document["events"])
    found += _queue_lines(document["queue"], document["lost"])
    found += _lock_lines(document["locks"] or [])
    found += _refused_lines(document["refused"] or {"count": 0, "newest": []})
    if deferred := document["counts"]["deferred"]:
        found.append(f"deferred   {deferred}, looked at again and again; the agent's log says why")
    if document["last_error"]["title"]:
        found.append(
            f"last error {document['last_error']['title']} ({document['last_error']['on']})"
        )
    return [line if len(line) <= 100 else line[:97] + "..." for line in found]


def _events_lines(events: dict[str, Any]) -> list[str]:
    if not events["kind"]:
        return []
    found = [f"events     {events['kind']}; {events['watched']} launch directories are watched"]
    return [*found, f"           {events['trouble']}"] if events["trouble"] else found


def _queue_lines(queue: dict[str, Any], lost: list[dict[str, Any]]) -> list[str]:
    found = []
    if queue["silent_since"]:
        found.append(
            f"queue      does not answer since {queue['silent_since'][:19]}: {queue['reason']}"
        )
    for entry in lost[:_LOST]:
        what = f"launch {entry.get('launch_id')} of Firework {entry.get('fw_id')}"
        found.append(f"lost       {what}: {entry.get('reason')}")
    if len(lost) > _LOST:
        found.append(f"           ... and {len(lost) - _LOST} more (--json shows all)")
    return found


def _lock_lines(locks: list[dict[str, Any]]) -> list[str]:
    found = []
    for lock in locks[:_LOCKS]:
        found.append(
            f"locked     the workflow of Firework {lock['fw_id']}, by {lock['holder']}, seen since "
            f"{lock['since'][:19]}"
        )
        todo = f"; if none does: {lock['unlock']}" if lock["unlock"] else ""
        found.append(f"           {lock['why']}{todo}")
    if len(locks) > _LOCKS:
        found.append(f"           ... and {len(locks) - _LOCKS} more (--json shows all)")
    return found


def _refused_lines(refused: dict[str, Any]) -> list[str]:
    if not refused["count"]:
        return []
    found = [f"refused    {refused['count']} writes that the database will never take; the newest:"]
    for entry in refused["newest"]:
        what = f"{entry['collection']} {entry['id']}"
        found.append(f"           {what}: {' '.join(entry['reason'].split())}")
    return found


def _agent_line(agent: dict[str, Any]) -> str:
    if agent["state"] == "down":
        last = f"; it last ran on {agent['host']}" if agent["host"] else ""
        return f"not running{last}. Start it: fwagent run"
    where = f"on {agent['host']}, process {agent['pid']}, since {agent['since']}"
    mode = agent["mode"] if agent["mode"] not in (None, "serving") else agent["state"]
    return f"{mode} {where}"


def _by_rank(item: tuple[str, int]) -> int:
    return RANKS.get(item[0], 0)
