"""Looking, without changing anything."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from pymongo import DESCENDING
from pymongo.errors import OperationFailure

from fwcore.documents import iso, parse_time
from fwcore.errors import InvalidFilter
from fwcore.launchpad.reading import PART
from fwcore.launchpad.records import OpenLaunch, Refusal, Run, Story
from fwcore.launchpad.session import Session, holder_of
from fwcore.lost import MARK
from fwcore.states import ACTIVE, FINAL
from fwcore.worker import Worker

Document = dict[str, Any]

#: What a server says of a filter: BadValue, FailedToParse, TypeMismatch, JSInterpreterFailure, an invalid regex.
_NO_FILTER = frozenset((2, 9, 14, 139, 51091))
_FILTER_HINT = 'it is a MongoDB filter on Fireworks as JSON, say {"spec.batch": {"$in": [1, 2]}}'

# Of a history, all but the checkpoints, which may be large.
_RUN = dict.fromkeys(
    (
        *("launch_id", "fw_id", "state", "launch_dir", "runtime_secs"),
        *(
            f"state_history.{key}"
            for key in ("state", "created_on", "updated_on", "reservation_id")
        ),
    ),
    1,
)
_KEYS = ("_fworker", "_category", "_priority", "_allow_fizzled_parents", "_launch_dir")
# Without checkpoints, which may be of megabytes.
_ENTRY = ("state", "created_on", "updated_on", "reservation_id")
_TOLD = {
    "_id": 0,
    **dict.fromkeys(("fw_id", "name", "state", "updated_on", "launches", "archived_launches"), 1),
    **{f"spec.{key}": 1 for key in _KEYS},
}
_LAUNCH_TOLD = {
    "_id": 0,
    **dict.fromkeys(("launch_id", "state", "launch_dir", "fworker.name"), 1),
    **{f"state_history.{key}": 1 for key in _ENTRY},
    **dict.fromkeys(("host", "time_start", "time_end"), 1),
    **{f"action.stored_data.{key}": 1 for key in ("_message", MARK)},
    "action.stored_data._exception._stacktrace": 1,
}


class Queries(Session):
    """Reads a LaunchPad."""

    def open_launches(self, worker: str | None = None, *, after: int = 0) -> list[OpenLaunch]:
        """Return the launches with an open offline run, of one worker or of all of them.

        Those with a launch_id greater than ``after``, so that new ones can be asked for alone.
        """
        with self._reaching():
            is_open: Document = {"completed": False, "deprecated": False}
            if after > 0:
                is_open["launch_id"] = {"$gt": after}
            runs = self._db.offline_runs.find(is_open, {"launch_id": 1, "_id": 0}, batch_size=PART)
            query: Document = {"launch_id": {"$in": [run.get("launch_id") for run in runs]}}
            return self._open_launches(query, worker)

    def find_launches(self, launch_ids: Iterable[int]) -> list[OpenLaunch]:
        """Return what is known of launches, open or not."""
        with self._reaching():
            return self._open_launches({"launch_id": {"$in": list(launch_ids)}}, None)

    def tokens(self, launch_ids: Iterable[int]) -> dict[int, str]:
        """Return {launch_id: token} of launches that were given one: those that fwagent has staged."""
        query = {"launch_id": {"$in": list(launch_ids)}, "fwagent.token": {"$type": "string"}}
        with self._reaching():
            runs = self._db.offline_runs.find(query, {"launch_id": 1, "fwagent.token": 1})
            return {run["launch_id"]: run["fwagent"]["token"] for run in runs}

    def overwritten(self, worker: str, known: Collection[int]) -> dict[int, str]:
        """Return {launch_id: launch_dir} of a worker's launches that were ended, and are active again.

        `lpad recover_offline` beside us may write what it has read before the end. Those ``known`` are left out.
        """
        with self._reaching():
            mine = {**_active_of(worker), "launch_dir": {"$type": "string"}}
            wanted = {"launch_id": 1, "launch_dir": 1}
            launches = self._db.launches.find(mine, wanted, batch_size=PART)
            places = {
                launch["launch_id"]: str(launch["launch_dir"])
                for launch in launches
                if launch["launch_id"] not in known
            }
            done = {"launch_id": {"$in": list(places)}, "completed": True, "deprecated": False}
            runs = self._db.offline_runs.find({**done, "fwagent.lost": None}, {"launch_id": 1})
            ended = [run["launch_id"] for run in runs]
            counted = self._counted_on(ended)
        return {launch_id: places[launch_id] for launch_id in ended if launch_id in counted}

    def _open_launches(self, query: Document, worker: str | None) -> list[OpenLaunch]:
        if worker is not None:
            query["fworker.name"] = worker
        # One without a directory is a damaged one: there is no place to look into.
        query["launch_dir"] = {"$type": "string"}
        wanted = {"launch_id": 1, "fw_id": 1, "launch_dir": 1, "state": 1, "fworker.name": 1}
        return [
            OpenLaunch(
                launch["launch_id"],
                launch.get("fw_id", 0),
                launch["launch_dir"],
                launch.get("state", ""),
                _name_of(launch.get("fworker")),
            )
            for launch in self._db.launches.find(query, wanted, batch_size=PART)
        ]

    def active_launches(self, launch_ids: Iterable[int]) -> set[int]:
        """Return those launches that a Firework still counts on: RESERVED or RUNNING, not archived."""
        wanted = list(launch_ids)
        with self._reaching():
            owned = self._db.fireworks.find({"launches": {"$in": wanted}}, {"launches": 1})
            listed = {number for firework in owned for number in firework["launches"]}
            query = {"launch_id": {"$in": wanted}, "state": {"$in": list(ACTIVE)}}
            active = self._db.launches.find(query, {"launch_id": 1})
            return listed & {launch["launch_id"] for launch in active}

    def launch_ids_of(self, fw_ids: Iterable[int]) -> set[int]:
        """Return the active launches of Fireworks."""
        with self._reaching():
            cursor = self._db.fireworks.find({"fw_id": {"$in": list(fw_ids)}}, {"launches": 1})
            return {number for firework in cursor for number in firework.get("launches") or ()}

    def runs(
        self,
        worker: str | None,
        limit: int,
        *,
        fw_ids: Iterable[int] | None = None,
        name: str = "",
        states: Iterable[str] = (),
        since: datetime | None = None,
    ) -> list[Run]:
        """Return the newest launches of a worker (None: of all), at most ``limit``; the newest first.

        Those of some Fireworks, of Fireworks of a name, in some states, and with news ``since`` a moment.
        """
        query: Document = {"fworker.name": worker} if worker is not None else {}
        if fw_ids is not None or name:
            wanted: Document = {"name": name} if name else {}
            wanted |= {} if fw_ids is None else {"fw_id": {"$in": list(fw_ids)}}
            query["fw_id"] = {"$in": self.select(wanted)}
        if states:
            query["state"] = {"$in": list(states)}
        if since is not None:
            query["$or"] = _dated_since(since)
        with self._reaching():
            found = list(self._db.launches.find(query, _RUN).sort("launch_id", -1).limit(limit))
        told = self.fw_states(launch.get("fw_id") for launch in found)
        names = {fw_id: str(name) for fw_id, (_state, name) in told.items()}
        return [_run(launch, names.get(launch.get("fw_id"), "")) for launch in found]

    def select(self, query: Mapping[str, Any]) -> list[int]:
        """Return the Fireworks that a MongoDB filter finds, in the order of their ids; raise InvalidFilter."""
        with self._reaching():
            try:
                found = self._db.fireworks.find(query, {"fw_id": 1})
                # One damaged document must not hide all others.
                return sorted(doc["fw_id"] for doc in found if isinstance(doc.get("fw_id"), int))
            except OverflowError as error:
                raise InvalidFilter(f"the query cannot be asked: {error}", _FILTER_HINT) from None
            except OperationFailure as error:
                if error.code not in _NO_FILTER:
                    raise
                reason = str(error).partition(", full error:")[0]
                raise InvalidFilter(f"the query is no filter: {reason}", _FILTER_HINT) from None

    def fw_states(self, fw_ids: Iterable[int] | None = None) -> dict[int, tuple[str, str]]:
        """Return {fw_id: (state, name)}, of some Fireworks or of all."""
        query: Document = {} if fw_ids is None else {"fw_id": {"$in": list(fw_ids)}}
        with self._reaching():
            cursor = self._db.fireworks.find(query, {"fw_id": 1, "state": 1, "name": 1})
            return {doc["fw_id"]: (doc.get("state", ""), doc.get("name", "")) for doc in cursor}

    def workflow_states(self) -> dict[int, str]:
        """Return {lowest fw_id: state} of every workflow."""
        with self._reaching():
            cursor = self._db.workflows.find({}, {"nodes": 1, "state": 1})
            return {min(workflow["nodes"]): workflow["state"] for workflow in cursor}

    def counts(self) -> dict[str, int]:
        """Return how many Fireworks are in each state."""
        with self._reaching():
            groups = self._db.fireworks.aggregate([{"$group": {"_id": "$state", "n": {"$sum": 1}}}])
            return {str(group["_id"]): group["n"] for group in groups}

    def refused(self, newest: int) -> tuple[int, list[Refusal]]:
        """Return how many writes lie in ``fwagent_refused``, and the newest of them."""
        with self._reaching():
            count = self._db.fwagent_refused.count_documents({})
            # The writes themselves may be of 16 MiB each.
            cursor = self._db.fwagent_refused.find({}, {"reason": 1, "on": 1})
            found = list(cursor.sort("on", DESCENDING).limit(newest)) if count else []
        return count, [_refusal(entry) for entry in found]

    def story(self, fw_id: int, worker: Worker) -> Story | None:
        """Return a Firework with its parents, its workflow and its launches; None if there is none."""
        with self._reaching():
            firework = self._db.fireworks.find_one({"fw_id": fw_id}, _TOLD)
            if firework is None:
                return None
            takes = {key: value for key, value in worker.ready_query().items() if key != "state"}
            wanted = {"$and": [takes, {"fw_id": fw_id}]}
            workflow = self._db.workflows.find_one({"nodes": fw_id}) or {}
            parents = (workflow.get("parent_links") or {}).get(str(fw_id), [])
            seen = {"fw_id": 1, "name": 1, "state": 1, "_id": 0}
            found = self._db.fireworks.find({"fw_id": {"$in": parents}}, seen)
            locked = workflow.get("locked")
            return Story(
                firework=firework,
                workflow={
                    "name": workflow.get("name"),
                    "state": workflow.get("state"),
                    "locked_by": "" if locked is None else holder_of(locked),
                },
                parents=sorted(found, key=lambda parent: parent["fw_id"]),
                launches=self._launches_of(firework),
                wanted=self._db.fireworks.count_documents(wanted, limit=1) > 0,
            )

    def _launches_of(self, firework: Document) -> list[Document]:
        active = list(firework.get("launches") or ())
        archived = sorted(firework.get("archived_launches") or ())[-1:]
        query = {"launch_id": {"$in": [*active, *archived]}}
        launches = list(self._db.launches.find(query, _LAUNCH_TOLD))
        runs = {run["launch_id"]: run for run in self._db.offline_runs.find(query, {"_id": 0})}
        for launch in launches:
            launch["run"] = runs.get(launch["launch_id"])
            launch["archived"] = launch["launch_id"] not in active
        return sorted(launches, key=lambda launch: (launch["archived"], launch["launch_id"]))

    def active_count(self, worker: str) -> dict[str, int]:
        """Return how many launches of a worker say that they are RESERVED and RUNNING, `stray_count` included."""
        with self._reaching():
            return {
                state: self._db.launches.count_documents({"state": state, "fworker.name": worker})
                for state in sorted(ACTIVE)
            }

    def stray_count(self, worker: str) -> dict[str, int]:
        """Return how many of them no RESERVED or RUNNING Firework counts on.

        A launch whose Firework is rerun, defused or archived meanwhile says so for good (FireWorks 2.1.4), and a
        database that has been used for years has many.
        """
        with self._reaching():
            wanted = {"launch_id": 1, "state": 1}
            launches = self._db.launches.find(_active_of(worker), wanted, batch_size=PART)
            states = {launch["launch_id"]: str(launch["state"]) for launch in launches}
            counted = self._counted_on(states)
        left = [state for launch_id, state in states.items() if launch_id not in counted]
        return {state: left.count(state) for state in sorted(ACTIVE)}


def _active_of(worker: str) -> Document:
    # A damaged one without a number is nobody's.
    active = {"state": {"$in": list(ACTIVE)}, "launch_id": {"$type": "number"}}
    return {**active, "fworker.name": worker}


def _refusal(entry: Document) -> Refusal:
    # TOKEN/COLLECTION/NUMBER
    *_, collection, number = ["?", "?", *str(entry["_id"]).split("/")]
    return Refusal(collection, number, str(entry.get("reason", "")), entry.get("on"))


def _dated_since(since: datetime) -> list[Document]:
    # A history has texts while its launch is open, and dates from the first recovery by FireWorks on.
    return [
        {f"state_history.{key}": {"$gte": moment}}
        for key in ("created_on", "updated_on")
        for moment in (iso(since), since)
    ]


def _run(launch: Document, name: str) -> Run:
    history = [entry for entry in launch.get("state_history") or () if isinstance(entry, dict)]
    first = {entry.get("state"): entry for entry in reversed(history)}
    running, ended = first.get("RUNNING", {}), history[-1] if history else {}
    jobs = [entry["reservation_id"] for entry in history if entry.get("reservation_id")]
    return Run(
        launch_id=launch["launch_id"],
        fw_id=launch.get("fw_id", 0),
        name=name,
        state=str(launch.get("state", "")),
        launch_dir=str(launch.get("launch_dir", "")),
        job_id=str(jobs[-1]) if jobs else None,
        reserved=_moment(first.get("RESERVED", {}).get("created_on")),
        started=_moment(running.get("created_on")),
        seen=_moment(running.get("updated_on")),
        ended=_moment(ended.get("created_on")) if launch.get("state") in FINAL else None,
        runtime=launch.get("runtime_secs"),
    )


def _moment(value: Any) -> str | None:
    moment = parse_time(value)
    return None if moment is None else iso(moment)


def _name_of(worker: Any) -> str:
    return str(worker.get("name", "")) if isinstance(worker, dict) else ""
