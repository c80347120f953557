"""Launches and their jobs: what can be compared with a queue. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from itertools import takewhile
from typing import Any

from pymongo.errors import OperationFailure

from fwcore.documents import iso
from fwcore.launchpad.reading import WHOLE, is_id
from fwcore.launchpad.records import JobRecord, Setbacks
from fwcore.launchpad.session import Session
from fwcore.lost import MARK, VANISHED
from fwcore.plan import LOST
from fwcore.states import ACTIVE

Document = dict[str, Any]

# Checkpoints in the history may be of megabytes.
_HISTORY = "state_history.reservation_id"
_WANTED = ("launch_id", "fw_id", "state", "launch_dir", "fworker.name", _HISTORY)
_FACTS = f"action.stored_data.{MARK}"


class Jobs(Session):
    """Reads launches and their jobs."""

    def active_jobs(self, worker: str) -> list[JobRecord]:
        """Return the offline launches of a worker that a Firework counts on and that have not ended.

        These are the RESERVED and RUNNING ones with an open offline run, and the RESERVED ones without a reservation
        id, whose submission was cut (W27). Left out are those that a claim still holds: somebody is at work on them,
        or whoever finds it dead takes them back.
        """
        with self._reaching():
            runs = self._runs({"completed": False, "deprecated": False})
            # Each branch is planned for itself, and has an index that leads to few launches.
            mine = {"fworker.name": worker}
            begun = {**mine, "launch_id": {"$in": list(runs)}, "state": {"$in": list(ACTIVE)}}
            no_id = {_HISTORY: {"$exists": False}}
            query = {"$or": [begun, {**mine, "state": "RESERVED", **no_id}]}
            found = self._job_records(query, runs)
            held = self._held_by_claims() if any(job.job_id is None for job in found) else set()
        return [job for job in found if job.fw_state and job.launch_id not in held]

    def identity(self) -> str:
        """Return what tells this database from all others, of the same name or made anew: the UUID of its launches.

        It is "" if there are none, or if this user may not ask.
        """
        with self._reaching(), suppress(OperationFailure):
            for found in self._db.list_collections(filter={"name": "launches"}):
                return str(found.get("info", {}).get("uuid", ""))
        return ""

    def jobs_of(self, launch_ids: Iterable[int]) -> dict[int, JobRecord]:
        """Return what is known of launches, whatever has become of them; those that are gone are left out."""
        wanted = list(launch_ids)
        if not wanted:
            return {}
        with self._reaching():
            chosen = {"launch_id": {"$in": wanted}}
            found = self._job_records(chosen, self._runs(chosen))
        return {job.launch_id: job for job in found}

    def setbacks(self, fw_ids: Iterable[int]) -> dict[int, Setbacks]:
        """Return how often in a row the jobs of Fireworks were lost."""
        wanted = list(fw_ids)
        if not wanted:
            return {}
        with self._reaching():
            fireworks = self._db.fireworks.find(
                {"fw_id": {"$in": wanted}}, {"fw_id": 1, "archived_launches": 1}, batch_size=WHOLE
            )
            archived = {doc["fw_id"]: doc.get("archived_launches") or [] for doc in fireworks}
            numbers = [number for each in archived.values() for number in each]
            ends = {"launch_id": 1, _FACTS: 1, "state": 1, "state_history": {"$slice": -1}}
            cursor = self._db.launches.find({"launch_id": {"$in": numbers}}, ends, batch_size=WHOLE)
            kinds = {doc["launch_id"]: _setback(doc) for doc in cursor}
        return {
            fw_id: _counted([kinds.get(number, "") for number in sorted(each, reverse=True)])
            for fw_id, each in archived.items()
        }

    def lost_places(self, worker: str, seconds: float) -> dict[int, str]:
        """Return {launch_id: launch_dir} of a worker's launches that were declared lost in the last seconds."""
        with self._reaching():
            since = iso(self._clock() - timedelta(seconds=seconds))
            runs = self._db.offline_runs.find({LOST: {"$gt": since}}, {"launch_id": 1})
            query = {
                "launch_id": {"$in": [run["launch_id"] for run in runs]},
                "fworker.name": worker,
                "state": "FIZZLED",
                "launch_dir": {"$type": "string"},
            }
            found = self._db.launches.find(query, {"launch_id": 1, "launch_dir": 1})
            return {launch["launch_id"]: launch["launch_dir"] for launch in found}

    def _runs(self, query: Mapping[str, Any]) -> dict[int, Document]:
        wanted = {"launch_id": 1, "fwagent": 1}
        cursor = self._db.offline_runs.find(query, wanted, batch_size=WHOLE)
        return {run["launch_id"]: run for run in cursor if is_id(run.get("launch_id"))}

    def _job_records(
        self, query: Mapping[str, Any], runs: Mapping[int, Document]
    ) -> list[JobRecord]:
        cursor = self._db.launches.find(query, dict.fromkeys(_WANTED, 1), batch_size=WHOLE)
        launches = [launch for launch in cursor if isinstance(launch.get("launch_dir"), str)]
        numbers = [launch["launch_id"] for launch in launches]
        owners = self._db.fireworks.find(
            {"launches": {"$in": numbers}}, {"launches": 1, "state": 1}, batch_size=WHOLE
        )
        counted = {
            number: str(firework.get("state", ""))
            for firework in owners
            for number in firework["launches"]
        }
        return [
            _job_record(launch, runs.get(launch["launch_id"], {}), counted) for launch in launches
        ]

    def _held_by_claims(self) -> set[int]:
        cursor = self._db.fwagent_journal.find({"claim": {"$exists": True}}, {"claim": 1})
        return {launch_id for entry in cursor for launch_id, _fw_id in entry["claim"] or ()}


def _job_record(launch: Document, run: Document, counted: Mapping[int, str]) -> JobRecord:
    history = launch.get("state_history") or []
    ids = [entry["reservation_id"] for entry in history if entry.get("reservation_id") is not None]
    worker, ours = launch.get("fworker"), run.get("fwagent")
    ours = ours if isinstance(ours, dict) else {}
    return JobRecord(
        launch_id=launch["launch_id"],
        fw_id=launch.get("fw_id", 0),
        state=launch["state"],
        launch_dir=launch["launch_dir"],
        worker=str(worker.get("name", "")) if isinstance(worker, dict) else "",
        job_id=str(ids[0]) if ids else None,
        fw_state=counted.get(launch["launch_id"], ""),
        token=ours.get("token"),
        queue=str(ours.get("queue", "")),
        by_hand=bool(ours.get("by_hand")),
    )


def _setback(launch: Document) -> str:
    """Return how a launch ended: "vanished", "lost" and then rerun, or neither."""
    if any(VANISHED in entry for entry in launch.get("state_history") or ()):
        return "vanished"
    facts = ((launch.get("action") or {}).get("stored_data") or {}).get(MARK) or {}
    return "lost" if facts.get("rerun") else ""


def _counted(kinds: list[str]) -> Setbacks:
    """Count from the newest launch back."""
    first = kinds[0] if kinds else ""
    row = len(list(takewhile(lambda kind: kind == first, kinds)))
    return Setbacks(**{first: row}) if first else Setbacks()
