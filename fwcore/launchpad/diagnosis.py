"""What can be told of a database before it is worked with. Nothing is left changed."""

from __future__ import annotations

import statistics
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from pymongo.errors import OperationFailure

from fwcore import documents
from fwcore.launchpad.connection import Connected

#: Where the right to write is tried; empty but for a moment.
PROBE = "fwagent_probe"
#: Round trips that are measured.
_TRIES = 5


@dataclass(frozen=True)
class Diagnosis:
    """The facts about one database.

    ``round_trip`` and ``clock_ahead`` (of the server's clock against ours) are in seconds; ``replica_set`` and
    ``user`` are "" where there is none. ``unwritable`` is the server's reason, "" if a write was taken.
    ``missing_indexes`` are FireWorks' own, as ``collection.key``.
    """

    version: str
    round_trip: float
    clock_ahead: float
    replica_set: str = ""
    user: str = ""
    unwritable: str = ""
    initialized: bool = True
    missing_indexes: list[str] = field(default_factory=list)


class Diagnoses(Connected):
    """Looks at a database as a whole."""

    def diagnose(self) -> Diagnosis:
        """Return what the server tells of itself, of us, and of this database."""
        with self._reaching():
            self._db.client.admin.command("ping")  # the first one connects
            trips, ahead, hello = zip(*(self._greeted() for _ in range(_TRIES)), strict=True)
            return Diagnosis(
                version=str(self._db.client.server_info()["version"]),
                round_trip=statistics.median(trips),
                clock_ahead=statistics.median(ahead),
                replica_set=str(hello[0].get("setName", "")),
                user=self._user(),
                unwritable=self._why_unwritable(),
                initialized=self._db.fw_id_assigner.find_one({"_id": -1}) is not None,
                missing_indexes=self._missing_indexes(),
            )

    def _greeted(self) -> tuple[float, float, dict[str, Any]]:
        sent = self._clock()
        hello: dict[str, Any] = self._db.client.admin.command("hello")
        trip = self._clock() - sent
        told: datetime = hello["localTime"].replace(tzinfo=timezone.utc)
        return trip.total_seconds(), (told - (sent + trip / 2)).total_seconds(), hello

    def _user(self) -> str:
        status = self._db.client.admin.command("connectionStatus")
        users = status["authInfo"]["authenticatedUsers"]
        return str(users[0]["user"]) if users else ""

    def _why_unwritable(self) -> str:
        probe = self._db[PROBE]
        try:
            found = probe.insert_one({}).inserted_id
            probe.delete_one({"_id": found})
        except OperationFailure as error:
            return str(error).split(", full error:")[0]
        with suppress(OperationFailure):
            probe.drop()  # the right to drop is not needed otherwise
        return ""

    def _missing_indexes(self) -> list[str]:
        missing = []
        for collection, indexes in documents.INDEXES.items():
            there = [list(index["key"].items()) for index in self._indexes_of(collection)]
            for keys, _unique in indexes:
                if keys not in there:
                    missing.append(f"{collection}.{'+'.join(key for key, _order in keys)}")
        return missing

    def _indexes_of(self, collection: str) -> list[Any]:
        try:
            return list(self._db[collection].list_indexes())
        except OperationFailure:
            return []
