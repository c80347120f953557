"""What `fwagent status` tells: the agent, the database, the launches, the backlog."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from textwrap import wrap
from typing import Any

from agent import modes, running
from agent.config import Config
from agent.health import DEFERRALS, SYNCED, backlog, past_hour, read_status, syncs, this_minute
from agent.lease import is_gone
from agent.locks import seen
from agent.notes import read_notes
from agent.printable import printable, when
from agent.runs import span
from fwcore.documents import parse_time
from fwcore.errors import DatabaseRefused, DatabaseUnreachable
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Lease, Refusal, Wish
from fwcore.states import RANKS
from fwrunner.protocol import timestamp

#: Seconds that `status` waits for the database.
_TIMEOUT = 3.0
#: Locks that are shown to people.
_LOCKS = 5
#: Lost jobs that are shown to people.
_LOST = 5
#: Deferred launches and Fireworks that are shown to people.
_DEFERRED = 3
#: Refused writes whose reasons are told.
_REFUSED = 5
#: Columns of a line, and of its label; lines that a long text may take.
WIDTH, _LABEL, _MOST_CHARACTERS = 100, 11, 300
#: Keys that only the database can answer.
_FROM_DATABASE = ("fireworks", "launches", "running", "locks", "refused")


def collect(config: Config) -> dict[str, Any]:
    """Return the status document; never raises for a database that is down.

    Keys: ``worker``; ``on``, the time of this look; ``agent`` {``state``, ``host``, ``pid``, ``since``,
    ``last_pass``, ``mode``, ``wish``: {``mode``: `run`, `drain` or `pause`, ``by``, ``on``, ``followed``: null while
    no agent is there to answer}}; ``database`` {``where``, ``reachable``, ``error``, ``hint``, ``down_since``};
    ``fireworks`` {state: count} and ``launches`` {``open``, ``RESERVED``, ``RUNNING``}, null when the database is
    down; ``running``, the newest of these as in ``agent.running.pings``, likewise; ``root`` {``path``, ``there``},
    the launch root; ``backlog`` {``reports``, ``oldest_seconds``, ``applying``: {``done``, ``total``} of what a pass
    is applying now, or null}; ``events`` {``kind``, ``watched``, ``trouble``}: what file events tell there, how many
    launch directories are watched, why there are not more; ``queue`` {``type``, ``silent_since``, ``reason``}, the
    latter two null while it answers; ``lost``, a list of {``launch_id``, ``fw_id``, ``job_id``, ``reason``, ``on``}:
    jobs that are lost and whose launches were left as they are; ``locks``, those that nobody is known to hold, as in
    ``agent.locks.seen``, null when the database is down; ``deferred``, the newest (at most 50) of {``launch_id``,
    ``fw_id``, ``reason``} that wait to be tried again; ``refused`` {``count``, ``newest``: at most 5 of
    {``collection``, ``id``, ``reason``, ``on``}}, writes that the server will never take, null when the database is
    down; ``rates`` {``applied``, ``submitted``: in the past hour, ``latency``: seconds of the slowest report of the
    newest pass that brought any}; ``counts`` since the agent's start; ``last_error`` {``title``, ``hint``, ``on``,
    ``over_on``}.
    """
    launchpad = config.connect(timeout=_TIMEOUT)
    own = config.own(launchpad.where)
    told = read_status(own) or {}
    document = {
        "worker": config.fworker().name,
        "on": timestamp(),
        "agent": _agent(told),
        "database": _database(launchpad.where, told),
        **dict.fromkeys(_FROM_DATABASE),
        "root": {"path": str(config.launch.root), "there": config.launch.root.is_dir()},
        "backlog": {**backlog(config.private / "outbox"), "applying": told.get("backlog") or None},
        "events": _events(told),
        **_queue(config, own),
        "rates": _rates(told),
        "counts": {key: told.get(key, 0) for key in ("passes", "applied", "submitted", "deferred")},
        "deferred": _deferred(told),
        "last_error": _last_error(told),
    }
    try:
        lease = _asked(document, launchpad)
        document |= _counted(launchpad, document["worker"], told.get("locks") or [])
    except (DatabaseUnreachable, DatabaseRefused) as error:
        document["database"].update(reachable=False, error=error.title, hint=error.hint or None)
    else:
        _seen_by_lease(document["agent"], lease)
    finally:
        launchpad.close()
    return document


def _database(where: str, told: dict[str, Any]) -> dict[str, Any]:
    return {
        "where": where,
        "reachable": True,
        "error": None,
        "hint": None,
        "down_since": told.get("database_down_since"),
    }


def _events(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": told.get("events") or None,
        "watched": told.get("watched", 0),
        "trouble": told.get("watch_trouble") or None,
    }


def _rates(told: dict[str, Any]) -> dict[str, Any]:
    applied, submitted = past_hour(told.get("recent"), this_minute())
    latency = told.get("last_latency")
    known = latency if isinstance(latency, (int, float)) else None
    return {"applied": applied, "submitted": submitted, "latency": known}


def _deferred(told: dict[str, Any]) -> list[dict[str, Any]]:
    found = told.get("deferrals")
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return [{key: row.get(key) for key in ("launch_id", "fw_id", "reason")} for row in rows]


def _last_error(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": told.get("last_error"),
        "hint": told.get("last_hint") or None,
        "on": told.get("last_error_on"),
        "over_on": told.get("last_error_over_on"),
    }


def _asked(document: dict[str, Any], launchpad: LaunchPad) -> tuple[Lease, bool] | None:
    """Note what people want of the agent; return its lease, and whether that is live."""
    worker = document["worker"]
    lease = launchpad.lease(worker)
    wish = lease[0].wish if lease else launchpad.wish(worker)
    followed = lease[0].followed >= wish.number if lease and lease[1] else None
    document["agent"]["wish"] = modes.document(wish, followed=followed)
    return lease


def _counted(
    launchpad: LaunchPad, worker: str, known_locks: list[dict[str, Any]]
) -> dict[str, Any]:
    launches = launchpad.open_launches(worker)
    strays = launchpad.stray_count(worker)
    active = {state: n - strays[state] for state, n in launchpad.active_count(worker).items()}
    return {
        "fireworks": launchpad.counts(),
        "launches": {"open": len(launches), **active},
        "running": running.pings(launches),
        "locks": seen(launchpad.locks(is_gone=is_gone), known_locks),
        "refused": _refused(*launchpad.refused(_REFUSED)),
    }


def _seen_by_lease(agent: dict[str, Any], lease: tuple[Lease, bool] | None) -> None:
    if lease is not None and lease[1]:
        held = lease[0]
        state = "gone" if is_gone(held.host, held.pid) else "running"
        agent.update(state=state, host=held.host, pid=held.pid, since=held.since.isoformat())
    elif agent["state"] == "running":
        agent["state"] = "waking"


def _queue(config: Config, own: Path) -> dict[str, Any]:
    notes = read_notes(own)
    silent = notes.get("silent", {})
    told = [entry for entry in notes.get("told", {}).values() if isinstance(entry, dict)]
    return {
        "queue": {
            "type": config.queue.type,
            "silent_since": silent.get("since"),
            "reason": silent.get("reason"),
        },
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
    if agent["pid"] and agent["mode"] not in ("stopped", SYNCED):
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


def lines(document: dict[str, Any], width: int = WIDTH) -> list[str]:
    """Return the status for people, at most so many columns wide."""
    agent = document["agent"]
    found = [f"worker     {document['worker']}", *_agent_lines(document)]
    found += _mode_lines(agent["wish"])
    found += _database_lines(document["database"])
    if document["launches"] is not None:
        found += _launch_lines(document)
    found.append(_queue_line(document["queue"], serving=agent["state"] == "running"))
    found += _root_lines(document["root"], serving=agent["state"] == "running")
    found.append(f"backlog    {_backlog(document['backlog'])}")
    found += _events_lines(document["events"])
    found += _lost_lines(document["lost"])
    found += _lock_lines(document["locks"] or [])
    found += _refused_lines(document["refused"] or {"count": 0, "newest": []})
    found += _deferred_lines(document["counts"]["deferred"], document["deferred"])
    found += _error_lines(document)
    return [part for line in found for part in _fitted(line, width)]


def _fitted(line: str, width: int) -> list[str]:
    """Return a line in as many as it takes; a job, a host or a server may have written parts of it."""
    plain = printable(line)
    indent = " " * _LABEL
    if len(plain) <= width:
        return [plain]
    return wrap(
        plain,
        width,
        subsequent_indent=indent,
        max_lines=_MOST_CHARACTERS // width,
        placeholder=" ...",
        # Paths and commands are to be copied.
        break_on_hyphens=False,
    )


def _agent_lines(document: dict[str, Any]) -> list[str]:
    agent, rates = document["agent"], document["rates"]
    found = [f"agent      {_agent_line(agent, document['on'])}"]
    if agent["last_pass"]:
        took = rates["latency"]
        last = f" (the last took {took:.1f} s)" if took is not None and rates["applied"] else ""
        found.append(
            f"last pass  {age(agent['last_pass'], document['on'])} ago; past hour: "
            f"{rates['applied']} reports applied{last}, {rates['submitted']} jobs submitted"
        )
    return found


def age(then: object, now: str) -> str:
    """Return how long ago something was, for people."""
    begin, end = parse_time(then), parse_time(now)
    return span((end - begin).total_seconds()) if begin and end else "-"


def _mode_lines(wish: dict[str, Any]) -> list[str]:
    asked = modes.told(wish)
    if not asked:
        return []
    does = modes.WORDS[wish["mode"]][1]
    return [f"mode       {asked}", f"           {does}; end it: fwagent resume"]


def _database_lines(database: dict[str, Any]) -> list[str]:
    where = database["where"]
    if database["reachable"]:
        return [f"database   {where}: answers"]
    since = f" since {when(database['down_since'])}" if database["down_since"] else ""
    refused = str(database["error"]).startswith(f"the database at {where} refused")
    found = [f"database   {where}: {'refuses' if refused else 'does not answer'}{since}"]
    reason = str(database["error"]).partition(f"{where} ")[2].partition(": ")[2]
    hint = database["hint"] or ""
    kept = "nothing is lost: reports stay in the launch directories until it does"
    found += [f"           {reason}"] if reason else []
    found += [f"           -> {hint}"] if hint else []
    return found if "nothing is lost" in hint else [*found, f"           {kept}"]


def _launch_lines(document: dict[str, Any]) -> list[str]:
    launches, fireworks = document["launches"], document["fireworks"]
    states = [f"{n} {state}" for state, n in sorted(fireworks.items(), key=_by_rank)]
    active = f"{launches['RESERVED']} in the queue, {launches['RUNNING']} running"
    return [
        f"fireworks  {', '.join(states) or 'none'}",
        f"launches   {active}, {launches['open']} may still report",
        *running.lines(document["running"], launches["RUNNING"]),
    ]


def _backlog(backlog: dict[str, Any]) -> str:
    age, applying = backlog["oldest_seconds"], backlog["applying"]
    waiting = (
        f"{backlog['reports']} reports, the oldest {span(age)} old" if age is not None else "none"
    )
    if applying:
        waiting += f"; {applying['done']} of {applying['total']} are applied"
    return waiting


def _error_lines(document: dict[str, Any]) -> list[str]:
    error, database = document["last_error"], document["database"]
    same = not database["reachable"] and str(error["title"]).startswith(
        f"the database at {database['where']} "
    )
    if not error["title"] or same:
        return []
    began = f"last error {age(error['on'], document['on'])} ago"
    if error["over_on"]:
        return [f"{began}, over since {age(error['over_on'], document['on'])}: {error['title']}"]
    found = [f"{began}: {error['title']}"]
    return [*found, f"           -> {error['hint']}"] if error["hint"] else found


def _events_lines(events: dict[str, Any]) -> list[str]:
    if not events["kind"]:
        return []
    found = [f"events     {events['kind']}; {events['watched']} launch directories are watched"]
    return [*found, f"           {events['trouble']}"] if events["trouble"] else found


def _queue_line(queue: dict[str, Any], *, serving: bool) -> str:
    if queue["silent_since"]:
        since = when(queue["silent_since"])
        return f"queue      {queue['type']}: does not answer since {since}: {queue['reason']}"
    if queue["type"] == "none":
        return "queue      none: the scripts in launch directories are yours to submit"
    return f"queue      {queue['type']}{': answers' if serving else ''}"


def _root_lines(root: dict[str, Any], *, serving: bool) -> list[str]:
    # Where no agent has served yet, the first one makes it.
    if root["there"] or not serving:
        return []
    why = "is its file system mounted? Nothing is lost: what jobs report is read once it is back"
    return [f"root       {root['path']} is not there", f"           {why}"]


def _lost_lines(lost: list[dict[str, Any]]) -> list[str]:
    found = []
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
            f"{when(lock['since'])}"
        )
        todo = f"; if none does: {lock['unlock']}" if lock["unlock"] else ""
        found.append(f"           {lock['why']}{todo}")
    if len(locks) > _LOCKS:
        found.append(f"           ... and {len(locks) - _LOCKS} more (--json shows all)")
    return found


def _deferred_lines(count: int, newest: list[dict[str, Any]]) -> list[str]:
    if not count:
        return []
    found = [f"deferred   {count}, tried again and again:"]
    shown = newest[-_DEFERRED:]
    found += [
        f"           {_what(entry)}{' '.join(str(entry['reason']).split())}" for entry in shown
    ]
    more = count - len(shown)
    return (
        [*found, f"           ... and {more} more (--json shows up to {DEFERRALS})"]
        if more
        else found
    )


def _what(entry: dict[str, Any]) -> str:
    """Name a launch or a Firework, unless its reason does."""
    names = {"launch": entry["launch_id"], "Firework": entry["fw_id"]}
    known = [f"{name} {number}" for name, number in names.items() if number is not None]
    return f"{known[0]}: " if known and known[-1] not in str(entry["reason"]) else ""


def _refused_lines(refused: dict[str, Any]) -> list[str]:
    if not refused["count"]:
        return []
    found = [f"refused    {refused['count']} writes that the database will never take; the newest:"]
    for entry in refused["newest"]:
        what = f"{entry['collection']} {entry['id']}"
        found.append(f"           {what}: {' '.join(entry['reason'].split())}")
    return found


def _agent_line(agent: dict[str, Any], on: str) -> str:
    if agent["state"] == "down":
        if syncs(agent, on):
            return f"not running; `fwagent sync` last ran on {agent['host']}"
        last = f"; it last ran on {agent['host']}" if agent["host"] else ""
        return f"not running{last}. Start it: fwagent service install, run, or sync by cron"
    if agent["state"] == "gone":
        told = f"process {agent['pid']} on {agent['host']} was killed"
        return f"{told}; its lease ends within a minute. Start it: fwagent run"
    where = f"on {agent['host']}, process {agent['pid']}, since {when(agent['since'])}"
    mode = agent["mode"] if agent["mode"] not in (None, "serving") else agent["state"]
    return f"{mode} {where}"


def _by_rank(item: tuple[str, int]) -> tuple[int, str]:
    return RANKS.get(item[0], 0), item[0]
