"""Offline runs that are still open although no report can end them any more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fwcore import documents
from fwcore.launchpad.isolation import Isolating
from fwcore.launchpad.reading import PART, listed
from fwcore.launchpad.records import Forgotten

Document = dict[str, Any]

#: What FireWorks' own recovery looks for.
OPEN = {"completed": False, "deprecated": False}


class OfflineRuns(Isolating):
    """Closes offline runs."""

    def retire_superseded(self, launch_ids: Iterable[int]) -> list[Forgotten]:
        """Retire the open offline runs of those launches that no Firework counts on; return these runs.

        `lpad rerun_fws`, `defuse_fws` and `cancel_qid` archive a launch and leave its run open. FireWorks' recovery
        then applies the action of the Firework's next launch again each time it looks at it (contract, C16, W38).
        No lock is needed: a run is opened after a Firework lists its launch, and an archived launch stays archived.
        """
        with self._reaching():
            return self._retire_superseded(launch_ids)

    def _retire_superseded(self, launch_ids: Iterable[int]) -> list[Forgotten]:
        alone = set(launch_ids)
        if not alone:
            return []
        query: Document = {"launches": {"$in": list(alone)}}
        for firework in self._db.fireworks.find(query, {"launches": 1}, batch_size=PART):
            alone.difference_update(listed(firework))
        if not alone:
            return []
        query = {"launch_id": {"$in": list(alone)}, **OPEN}
        runs = list(self._db.offline_runs.find(query, {"fw_id": 1, "launch_id": 1}))
        if runs:
            # An agent that was stopped, and has lost its lease since, writes nothing.
            fence = self._in_force() if self._lease is not None else {}
            found = {"_id": {"$in": [run["_id"] for run in runs]}, **OPEN, **fence}
            now = documents.iso(self._clock())
            retired = {"$set": {"deprecated": True, "updated_on": now}}
            self._db.offline_runs.update_many(found, retired)
            self._check_lease()
        return [Forgotten(run.get("fw_id", 0), run["launch_id"]) for run in runs]
