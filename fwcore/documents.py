"""The documents of a LaunchPad, exactly as FireWorks 2.1.4 stores them, made by pure functions.

Dates come in two kinds. ``workflows`` hold BSON dates; everything else holds ISO texts in UTC, except a
launch that was recovered as ended (all of its ``state_history``) and the ``updated_on`` of a Firework
that an offline run, a pause, a defuse or a pick has touched. Readers of either kind accept both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta, timezone
from typing import Any

from fwcore.errors import InvalidWorkflow
from fwcore.states import RANKS, workflow_state
from fwcore.trackers import new_trackers
from fwcore.worker import Worker

Document = dict[str, Any]

_NEW_WORKFLOW_HINT = (
    "see the section on workflow files in docs/compatibility.md, or `lpad check_wflow`"
)

#: What `lpad reset` and `lpad admin tuneup` create: collection -> [(keys, unique)].
INDEXES: dict[str, list[tuple[list[tuple[str, int]], bool]]] = {
    "fireworks": [
        ([("fw_id", 1)], True),
        *(
            ([(key, 1)], False)
            for key in ("state", "spec._category", "created_on", "updated_on", "name", "launches")
        ),
        ([("state", -1), ("_id", -1)], False),
        ([("state", -1), ("spec._priority", -1), ("created_on", -1)], False),
        ([("state", -1), ("spec._priority", -1), ("created_on", 1)], False),
    ],
    "launches": [
        ([("launch_id", 1)], True),
        *(
            ([(key, 1)], False)
            for key in (
                "fw_id",
                "state_history.reservation_id",
                "state",
                "time_start",
                "time_end",
                "host",
                "ip",
                "fworker.name",
            )
        ),
    ],
    "workflows": [
        *(([(key, 1)], False) for key in ("name", "created_on", "updated_on", "nodes")),
        ([("state", -1), ("_id", -1)], False),
    ],
    "fw_gridfs.files": [([("metadata.launch_id", 1)], True)],
}


def parse_time(value: object) -> datetime | None:
    """Return a date of a document or a file as an aware datetime; naive ones mean UTC (C14)."""
    if isinstance(value, str):
        text = value[:-1] + "+00:00" if value.endswith(("Z", "z")) else value
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    if value.tzinfo is timezone.utc:
        return value
    try:
        return (
            value.replace(tzinfo=timezone.utc)
            if value.tzinfo is None
            else value.astimezone(timezone.utc)
        )
    except OverflowError:
        return None


def iso(moment: datetime) -> str:
    """Return a time as FireWorks writes it: ISO 8601, UTC, microseconds unless exactly 0."""
    utc = moment if moment.tzinfo is timezone.utc else moment.astimezone(timezone.utc)
    return utc.isoformat()


def milliseconds(moment: datetime) -> datetime:
    """Return a time cut to the precision of a BSON date, as it will be read back."""
    return moment - timedelta(microseconds=moment.microsecond % 1000)


def _plain(value: Any) -> Any:
    """Return a value from a workflow file with dates as texts, as FireWorks' serializer does."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    return value


def new_workflow(
    source: Mapping[str, Any], first_id: int, now: datetime
) -> tuple[Document, list[Document], dict[int, int]]:
    """Return (workflow, fireworks, {old fw_id: new fw_id}) for a workflow file or a single Firework.

    New ids count from ``first_id`` in ascending order of the old ones, as FireWorks hands them out.
    Roots are READY. Raises InvalidWorkflow, naming the place, for anything FireWorks could not load.
    """
    fireworks, links, name, metadata = _checked_source(source)
    ids = {old: first_id + offset for offset, old in enumerate(sorted(fireworks))}
    new_links = {ids[old]: [ids[child] for child in links.get(old, [])] for old in fireworks}
    parent_links: dict[int, list[int]] = {}
    for parent, children in new_links.items():
        for child in children:
            parent_links.setdefault(child, []).append(parent)
    documents = [
        new_firework(firework, ids[old], ids[old] not in parent_links, now)
        for old, firework in fireworks.items()
    ]
    fw_states = {str(document["fw_id"]): document["state"] for document in documents}
    stored_links = {str(parent): children for parent, children in new_links.items()}
    tolerant = {d["fw_id"] for d in documents if d["spec"].get("_allow_fizzled_parents")}
    workflow = {
        "nodes": sorted(new_links),
        "links": stored_links,
        "parent_links": {str(child): parents for child, parents in parent_links.items()},
        "metadata": metadata,
        "name": name,
        "created_on": now,
        "updated_on": now,
        "fw_states": fw_states,
        "state": workflow_state(fw_states, stored_links, tolerant.__contains__),
    }
    return workflow, documents, ids


def count_fireworks(source: Mapping[str, Any]) -> int:
    """Return how many ids a workflow needs; raise InvalidWorkflow as ``new_workflow`` does."""
    return len(_checked_source(source)[0])


def parsed_workflow(
    source: Mapping[str, Any],
) -> tuple[dict[int, Mapping[str, Any]], dict[int, list[int]]]:
    """Return ({fw_id: Firework}, links) of a workflow file or a single Firework, ids as they are there.

    Raises InvalidWorkflow as ``new_workflow`` does.
    """
    fireworks, links, _name, _metadata = _checked_source(source)
    return fireworks, links


def new_firework(source: Mapping[str, Any], fw_id: int, root: bool, now: datetime) -> Document:
    """Return a Firework as it is stored; a root is READY, another one as its source says."""
    created = parse_time(source.get("created_on")) or now
    return {
        "spec": _plain(source["spec"]),
        "fw_id": fw_id,
        "created_on": iso(created),
        "updated_on": iso(now),
        "name": source.get("name") or "Unnamed FW",
        "launches": [],
        "archived_launches": [],
        "state": "READY" if root else source.get("state", "WAITING"),
    }


_Source = tuple[dict[int, Mapping[str, Any]], dict[int, list[int]], str, Any]


def _checked_source(source: Mapping[str, Any]) -> _Source:
    if "fws" not in source:
        firework = _checked_firework(source, "the Firework")
        only = source.get("fw_id", -1)
        if not _is_id(only):
            raise InvalidWorkflow(
                f"the Firework has an unusable 'fw_id': {only!r}", "a fw_id is an integer"
            )
        return {only: firework}, {}, firework.get("name") or "Unnamed FW", {}
    members = source["fws"]
    if not isinstance(members, list) or not members:
        raise InvalidWorkflow("'fws' is not a list of at least one Firework", _NEW_WORKFLOW_HINT)
    fireworks = _by_id(members)
    links = _checked_links(source.get("links") or {}, fireworks)
    metadata = source.get("metadata") or {}
    return fireworks, links, source.get("name") or "unnamed WF", metadata


def _by_id(members: list[Any]) -> dict[int, Mapping[str, Any]]:
    fireworks: dict[int, Mapping[str, Any]] = {}
    for position, member in enumerate(members):
        firework = _checked_firework(member, f"fws[{position}]")
        fw_id = firework.get("fw_id", -1 if len(members) == 1 else None)
        if not _is_id(fw_id) or fw_id in fireworks:
            what = "has no" if fw_id is None else "has a repeated or unusable"
            raise InvalidWorkflow(
                f"fws[{position}] {what} 'fw_id': {fw_id!r}", "give every Firework its own integer"
            )
        fireworks[fw_id] = firework
    return fireworks


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _checked_firework(source: Any, where: str) -> Mapping[str, Any]:
    spec = source.get("spec") if isinstance(source, Mapping) else None
    tasks = spec.get("_tasks") if isinstance(spec, Mapping) else None
    if not isinstance(tasks, list):
        raise InvalidWorkflow(f"{where} has no list 'spec._tasks'", _NEW_WORKFLOW_HINT)
    for position, task in enumerate(tasks):
        if not isinstance(task, Mapping) or not isinstance(task.get("_fw_name"), str):
            raise InvalidWorkflow(
                f"{where}: spec._tasks[{position}] has no '_fw_name'", _NEW_WORKFLOW_HINT
            )
    if source.get("launches"):
        raise InvalidWorkflow(
            f"{where} has launches", "add new workflows only; remove 'launches' from the file"
        )
    if source.get("state", "WAITING") not in tuple(RANKS):
        raise InvalidWorkflow(f"{where}: unknown state {source['state']!r}", _NEW_WORKFLOW_HINT)
    return source  # type: ignore[no-any-return]


def _checked_links(source: Any, fireworks: Mapping[int, Any]) -> dict[int, list[int]]:
    if not isinstance(source, Mapping):
        raise InvalidWorkflow("'links' is not an object", _NEW_WORKFLOW_HINT)
    links: dict[int, list[int]] = {}
    for key, value in source.items():
        children = value if isinstance(value, list) else [value]
        try:
            links[int(key)] = list(dict.fromkeys(int(child) for child in children))
        except (TypeError, ValueError, OverflowError):
            raise InvalidWorkflow(f"links.{key} is {value!r}, not fw_ids") from None
    unknown = {*links, *(child for children in links.values() for child in children)} - set(
        fireworks
    )
    if unknown:
        raise InvalidWorkflow(
            f"'links' name fw_ids that are not in 'fws': {sorted(unknown)}", _NEW_WORKFLOW_HINT
        )
    _refuse_cycle(links)
    return links


def _refuse_cycle(links: Mapping[int, list[int]]) -> None:
    waiting = dict.fromkeys(links, 0)
    for children in links.values():
        for child in children:
            waiting[child] = waiting.get(child, 0) + 1
    free = [node for node, count in waiting.items() if count == 0]
    while free:
        node = free.pop()
        del waiting[node]
        for child in links.get(node, []):
            waiting[child] -= 1
            if waiting[child] == 0:
                free.append(child)
    if waiting:
        raise InvalidWorkflow(
            f"'links' form a cycle among the fw_ids {sorted(waiting)}",
            "a Firework that waits for itself would never run",
        )


def new_launch(
    launch_id: int,
    firework: Mapping[str, Any],
    worker: Worker,
    place: tuple[str, str, str],
    now: datetime,
) -> Document:
    """Return the launch of a reservation; ``place`` is (launch_dir, host, ip) of the login node."""
    launch_dir, host, ip = place
    moment = iso(now)
    return {
        "fworker": worker.document(),
        "fw_id": firework["fw_id"],
        "launch_dir": launch_dir,
        "host": host,
        "ip": ip,
        "trackers": new_trackers(firework["spec"].get("_trackers")),
        "action": None,
        "state": "RESERVED",
        "state_history": [{"state": "RESERVED", "created_on": moment, "updated_on": moment}],
        "launch_id": launch_id,
        "time_start": None,
        "time_end": None,
        "runtime_secs": None,
        "reservedtime_secs": 0.0,
    }


def new_offline_run(launch: Mapping[str, Any], name: str, token: str, now: datetime) -> Document:
    """Return the open offline run of a reservation. ``fwagent.token`` is ours; FireWorks keeps it."""
    return {
        "fw_id": launch["fw_id"],
        "launch_id": launch["launch_id"],
        "name": name,
        "created_on": iso(now),
        "updated_on": iso(now),
        "deprecated": False,
        "completed": False,
        "fwagent": {"token": token},
    }


_LAUNCH_OBJECT_KEYS = (
    "fworker",
    "fw_id",
    "launch_dir",
    "host",
    "ip",
    "trackers",
    "action",
    "state",
    "state_history",
    "launch_id",
)


def launch_object(launch: Mapping[str, Any]) -> Document:
    """Return a launch as FireWorks embeds it in ``FW.json``: no derived times, dates as texts."""
    found = {key: launch[key] for key in _LAUNCH_OBJECT_KEYS if key in launch}
    return _texts(found)  # type: ignore[no-any-return]


def firework_object(
    firework: Mapping[str, Any],
    launches: Iterable[Mapping[str, Any]],
    archived: Iterable[Mapping[str, Any]] = (),
) -> Document:
    """Return a Firework as FireWorks writes it into ``FW.json``, with whole launches inside."""
    keys = ("spec", "fw_id", "created_on", "updated_on")
    result: Document = _texts({key: firework[key] for key in keys if key in firework})
    result["launches"] = [launch_object(launch) for launch in launches]
    if archived := [launch_object(launch) for launch in archived]:
        result["archived_launches"] = archived
    if firework["state"] != "WAITING":
        result["state"] = firework["state"]
    result["name"] = firework.get("name", "Unnamed FW")
    return result


def _texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_texts(item) for item in value]
    return iso(parse_time(value) or value) if isinstance(value, datetime) else value
