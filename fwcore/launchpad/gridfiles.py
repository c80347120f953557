"""Actions that do not fit into their launches: in GridFS, as FireWorks keeps them.

The launch then holds ``action: {"gridfs_id": "<hex>"}``, and the file of that ``_id`` in ``fw_gridfs`` the
action as JSON text, with ``encoding: "utf-8"`` and ``metadata: {"launch_id": N}``, of which an index
allows one file per launch. Facts: FireWorks 2.1.4, ``LaunchPad.complete_launch`` and
``get_action_from_gridfs``; contract, section 1.5.

The chunks of a file are stored before the journal, which names the file only; the file's own document is one
of the writes in it. The number of a file follows from its launch and its content, so storing it twice, or by
two processes, is storing it once; and nothing is ever removed but files of an ended launch that it does not
name, which nobody can come to need.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import bson
from bson.errors import InvalidId
from bson.int64 import Int64
from bson.objectid import ObjectId
from gridfs import GridFS
from gridfs.errors import CorruptGridFile, NoFile
from pymongo import ASCENDING, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure

from fwcore.launchpad.journal import Journal, encoded
from fwcore.states import FINAL
from fwcore.world import Write

Document = dict[str, Any]

#: Bytes of the largest launch that is stored in one document: MongoDB's 16 MiB, less some for what grows in it.
LARGEST = 16 * 1024 * 1024 - 64 * 1024

_BUCKET = "fw_gridfs"
#: The collection of the files' own documents.
FILES = f"{_BUCKET}.files"
#: The driver's own, which FireWorks does not change.
_CHUNK = 255 * 1024
#: Chunks sent at once: some 8 MiB, so that a slow line does not make this session look dead.
_AT_ONCE = 32
_DUPLICATE_KEY = 11000


class GridFiles(Journal):
    """Puts actions into GridFS and gets them from there."""

    def _resolve(self, launches: Iterable[Document]) -> dict[int, str]:
        """Put the actions that are in GridFS into launches, in place.

        Returns {launch_id: why not} of those that cannot be read; their actions stay references.
        """
        unread: dict[int, str] = {}
        for launch in launches:
            action = launch.get("action")
            if not isinstance(action, Mapping) or "gridfs_id" not in action:
                continue
            try:
                launch["action"] = self._stored_action(action["gridfs_id"])
            except (InvalidId, TypeError, NoFile, CorruptGridFile, ValueError, RecursionError) as e:
                reason = str(e).partition("\n")[0][:200] or type(e).__name__
                unread[launch["launch_id"]] = f"GridFS file {action['gridfs_id']!r:.40}: {reason}"
        return unread

    def _stored_action(self, gridfs_id: object) -> Document:
        action = json.loads(GridFS(self._db, _BUCKET).get(ObjectId(gridfs_id)).read())  # type: ignore[arg-type]
        if not isinstance(action, dict):
            raise TypeError("it holds no JSON object")
        return action

    def _fitting(self, launches: Mapping[int, Document], writes: list[Write]) -> list[Write]:
        """Return writes whose launches fit into documents, with those of the files that it takes.

        ``launches`` are those that the writes change, as they were read. What is too large loses its action to
        GridFS; if that is not enough its checkpoints, which only save a rerun some work. To be called under
        the locks: the chunks of the files are stored here.
        """
        fitting: list[Write] = []
        for write in writes:
            if write.collection == "launches":
                fitting += self._fitted(launches[write.filter["launch_id"]], write)
            else:
                fitting.append(write)
        return sorted(fitting, key=lambda write: write.collection != FILES)

    def _fitted(self, launch: Document, write: Write) -> list[Write]:
        if _fits(launch, write):
            return [write]
        naming: list[Write] = []
        if write.update.get("$set", {}).get("action"):
            naming, write = self._apart(write)
        return [*naming, write if _fits(launch, write) else _without_checkpoints(launch, write)]

    def _apart(self, write: Write) -> tuple[list[Write], Write]:
        """Store the chunks of an action; return the writes that name the file, and that of its launch."""
        launch_id = write.filter["launch_id"]
        content = json.dumps(write.update["$set"]["action"]).encode("utf-8")
        file_id = _file_id(launch_id, content)
        self._store_chunks(file_id, content)
        # FireWorks may have died, too, after storing a file that no launch names.
        aside = {"metadata": {"launch_id": f"not {file_id}", "superseded": launch_id}}
        file = {
            "encoding": "utf-8",
            "metadata": {"launch_id": launch_id},
            "chunkSize": _CHUNK,
            "length": Int64(len(content)),
            "uploadDate": self._clock(),
        }
        naming = [
            Write(
                FILES, {"metadata.launch_id": launch_id, "_id": {"$ne": file_id}}, {"$set": aside}
            ),
            Write(FILES, {"_id": file_id}, {"$setOnInsert": file}, upsert=True),
        ]
        changes = {**write.update["$set"], "action": {"gridfs_id": str(file_id)}}
        return naming, replace(write, update={**write.update, "$set": changes})

    def _store_chunks(self, file_id: ObjectId, content: bytes) -> None:
        bucket = self._db[_BUCKET]
        self._ensure_index(FILES, "filename", "uploadDate", unique=False)
        self._ensure_index(f"{_BUCKET}.chunks", "files_id", "n", unique=True)
        starts = range(0, len(content), _CHUNK)
        operations = [
            UpdateOne(
                {"files_id": file_id, "n": n},
                {"$setOnInsert": {"data": content[start : start + _CHUNK]}},
                upsert=True,
            )
            for n, start in enumerate(starts)
        ]
        for first in range(0, len(operations), _AT_ONCE):
            self.keep_alive()
            try:
                bucket.chunks.bulk_write(operations[first : first + _AT_ONCE], ordered=False)
            except BulkWriteError as error:
                codes = {refused["code"] for refused in error.details["writeErrors"]}
                if codes != {_DUPLICATE_KEY}:
                    raise
                # Another process stores the same bytes at this moment.

    def _ensure_index(self, collection: str, *keys: str, unique: bool) -> None:
        """Create an index as the driver does at its first file, for it looks only then."""
        try:
            wanted = [(key, ASCENDING) for key in keys]
            self._db[collection].create_index(wanted, unique=unique)
        except OperationFailure:
            return  # one of another kind serves as well

    def _drop_superseded(self, writes: Iterable[Write]) -> None:
        """Remove the files that launches have not ended with, of those that ``writes`` put into GridFS.

        An end is final, so this is right however late it is done, by whomever.
        """
        for write in writes:
            if write.collection == FILES and write.upsert:
                self._drop_others(write.update["$setOnInsert"]["metadata"]["launch_id"])

    def _drop_others(self, launch_id: int) -> None:
        wanted = {"state": 1, "action.gridfs_id": 1}
        launch = self._db.launches.find_one({"launch_id": launch_id}, wanted)
        if launch and launch["state"] not in FINAL:
            return
        action = (launch or {}).get("action") or {}
        kept = ObjectId(action["gridfs_id"]) if ObjectId.is_valid(action.get("gridfs_id")) else None
        named = [{"metadata.launch_id": launch_id}, {"metadata.superseded": launch_id}]
        files = self._db[FILES].find({"$or": named, "_id": {"$ne": kept}}, {"_id": 1})
        others = [file["_id"] for file in files]
        lowest, highest = (_numbered(launch_id, bytes([byte]) * 7) for byte in (0, 255))
        ours = {"$gte": lowest, "$lte": highest, "$ne": kept}
        self._db[FILES].delete_many({"_id": {"$in": others}})
        self._db[f"{_BUCKET}.chunks"].delete_many(
            {"$or": [{"files_id": ours}, {"files_id": {"$in": others}}]}
        )


def _file_id(launch_id: int, content: bytes) -> ObjectId:
    return _numbered(launch_id, hashlib.sha256(content).digest()[:7])


def _numbered(launch_id: int, rest: bytes) -> ObjectId:
    """Return an id of which those of one launch are neighbours; a driver's begin with the time instead."""
    return ObjectId((launch_id % 2**40).to_bytes(5, "big") + rest)


def _fits(launch: Mapping[str, Any], write: Write) -> bool:
    return len(bson.encode({**launch, "action": None})) + len(encoded(write)) <= LARGEST


def _without_checkpoints(launch: Mapping[str, Any], write: Write) -> Write:
    """Return a write that stores no checkpoint and removes those that are stored."""
    changes = {
        path: _bare(value)
        for path, value in write.update["$set"].items()
        if not path.endswith(".checkpoint")
    }
    stored = [n for n, entry in enumerate(launch["state_history"]) if "checkpoint" in entry]
    removals = {f"state_history.{n}.checkpoint": "" for n in stored}
    update = {"$set": changes, "$unset": removals}
    return replace(write, update={verb: fields for verb, fields in update.items() if fields})


def _bare(entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    return {key: value for key, value in entry.items() if key != "checkpoint"}
