"""A new LaunchPad, and workflows into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bson
from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError, PyMongoError

from fwcore import documents
from fwcore.errors import InvalidWorkflow, NotInitialized
from fwcore.launchpad.reading import no_launchpad
from fwcore.launchpad.session import Session
from fwcore.plan import LOST

Document = dict[str, Any]


MAX_DOCUMENT_SIZE = 16 * 1024 * 1024

_ENTRY_COLLECTIONS = ("fireworks", "launches", "workflows", "offline_runs")


class Intake(Session):
    """Checks, creates and fills a LaunchPad."""

    def check(self) -> None:
        """Make sure that the database answers and holds a LaunchPad; raise NotInitialized."""
        with self._reaching():
            if self._db.fw_id_assigner.find_one() is None:
                raise no_launchpad(self.name, self.where)

    def initialize(self) -> bool:
        """Make a LaunchPad in an empty database, as `lpad reset` does; return whether it was done.

        A database that holds any FireWorks document is left as it is.
        """
        with self._reaching():
            if self._db.fw_id_assigner.find_one() is not None:
                return False
            if any(self._db[name].find_one() is not None for name in _ENTRY_COLLECTIONS):
                raise NotInitialized(
                    f"the database {self.name!r} holds FireWorks documents but no id counter",
                    "restore 'fw_id_assigner' from a backup, or look with `lpad introspect`",
                )
            try:
                self._db.fw_id_assigner.insert_one(
                    {"_id": -1, "next_fw_id": 1, "next_launch_id": 1}
                )
            except DuplicateKeyError:
                return False  # somebody else does it right now
            for collection, indexes in documents.INDEXES.items():
                models = [
                    IndexModel(keys, unique=unique, background=True) for keys, unique in indexes
                ]
                self._db[collection].create_indexes(models)
            self.prepare()
            return True

    def prepare(self) -> None:
        """Create the indexes that FireWorks lacks and we live by; rights for it may be missing."""
        wanted = [
            IndexModel([("launch_id", ASCENDING)]),
            IndexModel([("completed", ASCENDING), ("deprecated", ASCENDING)]),
            IndexModel([(LOST, ASCENDING)], sparse=True),
        ]
        with self._reaching():
            self._db.offline_runs.create_indexes(wanted)
            self._db.workflows.create_index([("locked", ASCENDING)], sparse=True)

    def add(self, workflow: Mapping[str, Any]) -> dict[int, int]:
        """Store a workflow (the content of a workflow file, or one Firework); return {old: new fw_id}.

        Raises InvalidWorkflow, with nothing stored, and NotInitialized.
        """
        count = documents.count_fireworks(workflow)
        with self._reaching():
            first_id = self._allocate("next_fw_id", count)
            document, fireworks, ids = self._new_workflow(workflow, first_id)
            # Nobody may pick a root before its workflow is there.
            ready = [firework for firework in fireworks if firework["state"] == "READY"]
            held = [
                {**firework, "state": "WAITING"} if firework["state"] == "READY" else firework
                for firework in fireworks
            ]
            new_ids = list(ids.values())
            try:
                self._db.fireworks.insert_many(held)
                self._db.workflows.insert_one(document)
                self._db.fireworks.update_many(
                    {"fw_id": {"$in": [firework["fw_id"] for firework in ready]}},
                    {"$set": {"state": "READY"}},
                )
            except PyMongoError:
                self._db.workflows.delete_many({"nodes": {"$in": new_ids}})
                self._db.fireworks.delete_many({"fw_id": {"$in": new_ids}})
                raise
            return ids

    def check_workflow(self, workflow: Mapping[str, Any]) -> None:
        """Raise InvalidWorkflow if ``add`` would; asks no database."""
        self._new_workflow(workflow, 1)

    def _new_workflow(
        self, workflow: Mapping[str, Any], first_id: int
    ) -> tuple[Document, list[Document], dict[int, int]]:
        document, fireworks, ids = documents.new_workflow(workflow, first_id, self._clock())
        for each in (*fireworks, document):
            _check_storable(each)
        return document, fireworks, ids


def _check_storable(document: Document) -> None:
    what = f"Firework {document['name']!r}" if "fw_id" in document else "the workflow itself"
    try:
        size = len(bson.encode(document))
    except (bson.errors.BSONError, OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise InvalidWorkflow(
            f"{what} cannot be stored: {error}",
            "specs and metadata hold what JSON holds, and integers of at most 64 bits",
        ) from None
    if size > MAX_DOCUMENT_SIZE:
        raise InvalidWorkflow(
            f"{what} has {size} bytes; MongoDB stores at most {MAX_DOCUMENT_SIZE} in a document",
            "put large data into files, and their paths into the spec",
        )
