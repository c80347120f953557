"""The LaunchPad: the one module that talks to MongoDB.

What to write is decided elsewhere, by pure functions (``fwcore.plan``, ``fwcore.documents``). Here the
documents are read, the workflows locked, the writes carried out in as few round trips as can be, whatever
the size of a batch: databases of clusters are often 20-100 ms away.

FireWorks' lock on a workflow is the field ``locked``, of which it only checks that it exists. We put a
token into it that names the holder, so that our own locks can be told from other people's.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import bson
from pymongo import (
    ASCENDING,
    DESCENDING,
    IndexModel,
    MongoClient,
    ReturnDocument,
    UpdateMany,
    UpdateOne,
)
from pymongo.database import Database
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)

from fwcore import documents
from fwcore.draft import Missing, World, Write
from fwcore.errors import (
    DatabaseRefused,
    DatabaseUnreachable,
    InvalidSettings,
    InvalidWorkflow,
    NotInitialized,
)
from fwcore.plan import (
    Outcome,
    Plan,
    is_heartbeat,
    plan_cancel,
    plan_claim,
    plan_heartbeats,
    plan_reports,
)
from fwcore.settings import read_launchpad_file
from fwcore.states import ACTIVE
from fwcore.worker import Worker
from fwrunner.protocol import Report, utcnow

Document = dict[str, Any]

#: Launches whose reports are applied under one set of locks; bounds memory and the time locks are held.
BATCH = 500
#: Bytes of the largest action and checkpoint that fit into a launch: MongoDB's 16 MiB less the rest.
MAX_ACTION_SIZE = 15 * 1024 * 1024
MAX_DOCUMENT_SIZE = 16 * 1024 * 1024

#: Documents of a reply: without it the server hands out 101, then asks to be asked again.
_WHOLE = 100_000

_ENTRY_COLLECTIONS = ("fireworks", "launches", "workflows", "offline_runs")


@dataclass(frozen=True)
class Claim:
    """A reserved Firework. ``firework`` is what belongs into ``FW.json``, its launch inside."""

    fw_id: int
    launch_id: int
    launch_dir: str
    token: str
    firework: Document


@dataclass
class Applied:
    """What became of reports; the lists are those of a Plan."""

    applied: list[Outcome] = field(default_factory=list)
    known: list[Outcome] = field(default_factory=list)
    deferred: list[Outcome] = field(default_factory=list)
    ignored: list[Outcome] = field(default_factory=list)
    released: list[int] = field(default_factory=list)

    def extend(self, other: Applied | Plan) -> None:
        """Take over the outcomes of another batch."""
        self.applied += other.applied
        self.known += other.known
        self.deferred += other.deferred
        self.ignored += other.ignored
        self.released += other.released


@dataclass(frozen=True)
class OpenLaunch:
    """A launch that may still be told about: its offline run is open."""

    launch_id: int
    fw_id: int
    launch_dir: str
    state: str
    worker: str


@dataclass(frozen=True)
class Lease:
    """The right to serve a worker, as stored in ``fwagent_leases``. ``epoch`` counts the holders."""

    worker: str
    owner: str
    host: str
    pid: int
    epoch: int
    expires_at: datetime
    since: datetime


#: Gives the launch directory of (the Firework to be claimed, its launch_id). It must not make it.
PlaceLaunch = Callable[[Mapping[str, Any], int], str]


@contextmanager
def _reaching(what: str) -> Iterator[None]:
    """Turn the driver's errors into ours; nothing of a URI, and so no password, gets into them."""
    try:
        yield
    except ConnectionFailure as error:
        raise DatabaseUnreachable(
            f"the database at {what} does not answer: {_first_line(error)}",
            "check that MongoDB runs and that this host may reach it; nothing is lost meanwhile",
        ) from None
    except OperationFailure as error:
        if isinstance(error, (BulkWriteError, DuplicateKeyError)):
            raise
        raise DatabaseRefused(
            f"the database at {what} refused: {_first_line(error)}",
            "check user, password, authSource and the rights of the user on this database",
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].split(", Timeout:")[0][:300]


class LaunchPad:
    """A FireWorks database.

    All methods raise DatabaseUnreachable when MongoDB does not answer and DatabaseRefused when it says
    no. ``clock`` gives the present as an aware datetime; this package never looks at one by itself.
    """

    def __init__(
        self,
        database: Database[Document],
        *,
        where: str = "",
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self._db = database
        self._clock = clock
        self.name = database.name
        self.where = where or database.name
        self.host = socket.gethostname()
        self.ip = _own_address(self.host)
        self._holder = f"fwagent:{self.host}:{os.getpid()}:{secrets.token_hex(4)}"

    @classmethod
    def from_uri(
        cls, uri: str, name: str = "fireworks", *, timeout: float = 10.0, **options: Any
    ) -> LaunchPad:
        """Return the LaunchPad at a MongoDB URI; no connection is made yet.

        ``timeout`` is in seconds, for finding a server; a command may take six times as long. Raises
        InvalidSettings for a URI that cannot be understood.
        """
        settings = {
            "appname": "fwagent",
            "tz_aware": True,
            "serverSelectionTimeoutMS": round(timeout * 1000),
            "connectTimeoutMS": round(timeout * 1000),
            "socketTimeoutMS": round(timeout * 6000),
            **options,
        }
        try:
            client: MongoClient[Document] = MongoClient(uri, **settings)
            where = ", ".join(f"{host}:{port}" for host, port in _seeds(client)) + f"/{name}"
            return cls(client[name], where=where)
        except (InvalidURI, ConfigurationError, ValueError, TypeError, PyMongoError):
            raise InvalidSettings(
                "the database URI cannot be understood",
                "it looks like mongodb://USER:PASSWORD@HOST:27017/?authSource=admin; "
                "escape special characters of the password (%40 for @)",
            ) from None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, timeout: float = 10.0) -> LaunchPad:
        """Return the LaunchPad of a ``my_launchpad.yaml`` (or ``.json``), ``uri_mode`` included.

        Raises InvalidSettings.
        """
        uri, name, options = read_launchpad_file(Path(path))
        return cls.from_uri(uri, name, timeout=timeout, **options)

    def now(self) -> datetime:
        """Return the present, by the clock this LaunchPad was given."""
        return self._clock()

    def close(self) -> None:
        """Close the connections."""
        self._db.client.close()

    # ------------------------------------------------------------------------------ the database

    def check(self) -> None:
        """Make sure that the database answers and holds a LaunchPad; raise NotInitialized."""
        with _reaching(self.where):
            if self._db.fw_id_assigner.find_one() is None:
                raise NotInitialized(
                    f"the database {self.name!r} at {self.where} holds no LaunchPad",
                    "check the database name; a new LaunchPad is made by `fwagent add` into an empty "
                    "database, or by `lpad reset` (which erases an old one)",
                )

    def initialize(self) -> bool:
        """Make a LaunchPad in an empty database, as `lpad reset` does; return whether it was done.

        A database that holds any FireWorks document is left as it is.
        """
        with _reaching(self.where):
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
        ]
        with _reaching(self.where):
            self._db.offline_runs.create_indexes(wanted)

    def _allocate(self, counter: str, count: int) -> int:
        """Return the first of ``count`` new ids of ``next_fw_id`` or ``next_launch_id``."""
        before = self._db.fw_id_assigner.find_one_and_update({}, {"$inc": {counter: count}})
        if before is None:
            self.check()
            raise NotInitialized(f"the database {self.name!r} holds no LaunchPad")
        return int(before[counter])

    # ------------------------------------------------------------------------------- workflows in

    def add(self, workflow: Mapping[str, Any]) -> dict[int, int]:
        """Store a workflow (the content of a workflow file, or one Firework); return {old: new fw_id}.

        Raises InvalidWorkflow, with nothing stored, and NotInitialized.
        """
        count = documents.count_fireworks(workflow)
        with _reaching(self.where):
            first_id = self._allocate("next_fw_id", count)
            document, fireworks, ids = documents.new_workflow(workflow, first_id, self._clock())
            for each in (*fireworks, document):
                _check_storable(each)
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

    # ---------------------------------------------------------------------------------- claiming

    def claim(
        self,
        worker: Worker,
        n: int,
        *,
        fw_ids: Iterable[int] | None = None,
        place: PlaceLaunch | None = None,
    ) -> list[Claim]:
        """Reserve up to ``n`` READY Fireworks for a worker, in FireWorks' order.

        With ``fw_ids`` only those, without regard to category and query, as `qlaunch -f`. ``place``
        gives each its launch directory (default: the current one). Fireworks whose workflow somebody
        else has locked are passed over. The offline run is opened later, by ``open_runs``, once the
        files are there: `lpad recover_offline` FIZZLES a run whose files it does not find.
        """
        claims: list[Claim] = []
        tried: list[int] = []
        with _reaching(self.where):
            while len(claims) < n:
                found = self._candidates(worker, n - len(claims), fw_ids, tried)
                if not found:
                    break
                tried += [firework["fw_id"] for firework in found]
                claims += self._reserve(
                    worker, found, place or (lambda _firework, _id: str(Path.cwd()))
                )
        return claims

    def _candidates(
        self, worker: Worker, n: int, fw_ids: Iterable[int] | None, tried: list[int]
    ) -> list[Document]:
        query = worker.ready_query() if fw_ids is None else {"state": "READY"}
        ids: Document = (
            {"$nin": tried} if fw_ids is None else {"$in": list(set(fw_ids) - set(tried))}
        )
        order = [("spec._priority", DESCENDING), ("created_on", ASCENDING)]
        wanted = {"fw_id": 1, "name": 1, "spec._trackers": 1, "spec._launch_dir": 1}
        cursor = self._db.fireworks.find({"$and": [query, {"fw_id": ids}]}, wanted)
        return list(cursor.sort(order).limit(n).batch_size(_WHOLE))

    def _reserve(
        self, worker: Worker, found: Sequence[Document], place: PlaceLaunch
    ) -> list[Claim]:
        with self._locked([firework["fw_id"] for firework in found]) as (token, world):
            free = [firework for firework in found if firework["fw_id"] not in world.refused]
            free = [firework for firework in free if _member(world, firework["fw_id"])]
            if not free:
                return []
            now = self._clock()
            first = self._allocate("next_launch_id", len(free))
            launches = [
                documents.new_launch(
                    launch_id,
                    firework,
                    worker,
                    (place(firework, launch_id), self.host, self.ip),
                    now,
                )
                for launch_id, firework in enumerate(free, first)
            ]
            self._db.launches.insert_many(launches)
            won = self._take(launches, now)
            self._discard(launch for launch in launches if launch["fw_id"] not in won)
            self._commit(self._planned(world, partial(plan_claim, world, won, now)), token)
            return self._claims(launches, won)

    def _take(self, launches: Sequence[Document], now: datetime) -> dict[int, Document]:
        """Flip Fireworks to RESERVED; return those that were still READY, as they are now, by fw_id."""
        ids = {launch["fw_id"]: launch["launch_id"] for launch in launches}
        self._db.fireworks.bulk_write(
            [
                UpdateOne(
                    {"fw_id": fw_id, "state": "READY"},
                    {
                        "$set": {"state": "RESERVED", "updated_on": documents.iso(now)},
                        "$push": {"launches": launch_id},
                    },
                )
                for fw_id, launch_id in ids.items()
            ],
            ordered=False,
        )
        # A launch id is never used twice, so holding it proves that the update was ours.
        query = {"launches": {"$in": list(ids.values())}}
        cursor = self._db.fireworks.find(query, batch_size=_WHOLE)
        return {firework["fw_id"]: firework for firework in cursor}

    def _discard(self, launches: Iterable[Document]) -> None:
        if lost := [launch["launch_id"] for launch in launches]:
            self._db.launches.delete_many({"launch_id": {"$in": lost}})

    def _claims(self, launches: Sequence[Document], won: Mapping[int, Document]) -> list[Claim]:
        launches = [launch for launch in launches if launch["fw_id"] in won]
        own = {launch["launch_id"] for launch in launches}
        mentioned = {
            number
            for firework in won.values()
            for key in ("launches", "archived_launches")
            for number in firework[key]
        }
        older = self._by_id("launches", "launch_id", mentioned - own)
        every = {**older, **{launch["launch_id"]: launch for launch in launches}}
        return [
            Claim(
                fw_id=launch["fw_id"],
                launch_id=launch["launch_id"],
                launch_dir=launch["launch_dir"],
                token=secrets.token_hex(8),
                firework=documents.firework_object(
                    won[launch["fw_id"]],
                    [every[number] for number in won[launch["fw_id"]]["launches"]],
                    [every[number] for number in won[launch["fw_id"]]["archived_launches"]],
                ),
            )
            for launch in launches
        ]

    def open_runs(self, claims: Iterable[Claim]) -> None:
        """Insert the offline runs of claims whose launch directories are staged."""
        now = self._clock()
        runs = [
            documents.new_offline_run(
                {"fw_id": claim.fw_id, "launch_id": claim.launch_id},
                claim.firework["name"],
                claim.token,
                now,
            )
            for claim in claims
        ]
        if runs:
            with _reaching(self.where):
                self._db.offline_runs.insert_many(runs)

    def record_jobs(self, job_ids: Mapping[int, str]) -> None:
        """Store the queue's job id of each launch, where FireWorks looks for reservation ids."""
        entry = {"state": "RESERVED", "reservation_id": {"$exists": False}}
        writes = [
            UpdateOne(
                {"launch_id": launch_id, "state_history": {"$elemMatch": entry}},
                {"$set": {"state_history.$.reservation_id": str(job_id)}},
            )
            for launch_id, job_id in job_ids.items()
        ]
        if writes:
            with _reaching(self.where):
                self._db.launches.bulk_write(writes, ordered=False)

    def cancel(self, launch_ids: Iterable[int]) -> Applied:
        """Take reservations back: the Firework is READY again, its launch archived, its run retired."""
        result = Applied()
        with _reaching(self.where):
            for batch in _batches(list(launch_ids), BATCH):
                owners = self._owners(batch)
                with self._locked(owners) as (token, world):
                    self._read(world, owners, batch)
                    plan = self._planned(world, partial(plan_cancel, world, batch, self._clock()))
                    self._commit(plan, token)
                    result.extend(plan)
        return result

    # ----------------------------------------------------------------------------------- the way back

    def apply(self, reports: Iterable[Report]) -> Applied:
        """Bring reports into the database: one lock, read, plan, write, unlock for a whole batch."""
        result = Applied()
        with _reaching(self.where):
            for batch in _batches(list(reports), BATCH):
                storable, too_large = _split_by_size(batch)
                result.deferred += too_large
                result.extend(self._apply_batch(storable))
        return result

    def _apply_batch(self, reports: list[Report]) -> Applied:
        launches = self._by_id("launches", "launch_id", {report.launch_id for report in reports})
        beats: list[Report] = []
        rest: list[Report] = []
        for report in reports:
            launch = launches.get(report.launch_id)
            (beats if launch and is_heartbeat(launch, report) else rest).append(report)
        result = Applied()
        if beats:
            world = World(launches=launches)
            self._read_runs(world, {report.launch_id for report in beats})
            plan = plan_heartbeats(world, beats)
            self._execute(plan.writes)
            result.extend(plan)
        if rest:
            result.extend(self._apply_locked(rest))
        return result

    def _apply_locked(self, reports: list[Report]) -> Plan:
        launch_ids = list({report.launch_id for report in reports})
        owners = self._owners(launch_ids)
        with self._locked(owners) as (token, world):
            ending = {report.launch_id for report in reports if report.final}
            self._read(world, owners, launch_ids, children=bool(ending))
            plan = self._planned(world, partial(plan_reports, world, reports, self._clock()))
            self._commit(plan, token)
            return plan

    def _owners(self, launch_ids: Iterable[int]) -> list[int]:
        query = {"launches": {"$in": list(launch_ids)}}
        cursor = self._db.fireworks.find(query, {"fw_id": 1}, batch_size=_WHOLE)
        return [firework["fw_id"] for firework in cursor]

    @contextmanager
    def _locked(self, fw_ids: Sequence[int]) -> Iterator[tuple[str, World]]:
        """Lock the workflows of Fireworks; yield the token and a World that holds those we got."""
        token = f"{self._holder}:{secrets.token_hex(4)}"
        world = World()
        if not fw_ids:
            yield token, world
            return
        members = {"nodes": {"$in": list(fw_ids)}}
        try:
            self._db.workflows.update_many(
                {**members, "locked": {"$exists": False}}, {"$set": {"locked": token}}
            )
            for workflow in self._db.workflows.find(members, batch_size=_WHOLE):
                if workflow.get("locked") == token:
                    world.workflows.append(self._whole_workflow(workflow))
                else:
                    reason = f"the workflow is locked by {_holder_of(workflow.get('locked'))}"
                    world.refused.update(dict.fromkeys(workflow["nodes"], reason))
            yield token, world
        finally:
            # The index on nodes finds them; there is none on locked.
            self._db.workflows.update_many({**members, "locked": token}, {"$unset": {"locked": ""}})

    def _whole_workflow(self, workflow: Document) -> Document:
        """Return a workflow with the fields that old versions of FireWorks did not store."""
        if "parent_links" not in workflow:
            workflow["parent_links"] = _parent_links(workflow["links"])
        states = workflow.get("fw_states", {})
        if any(str(node) not in states for node in workflow["nodes"]):
            found = self._db.fireworks.find(
                {"fw_id": {"$in": workflow["nodes"]}}, {"fw_id": 1, "state": 1}
            )
            workflow["fw_states"] = {
                str(firework["fw_id"]): firework["state"] for firework in found
            }
            self._db.workflows.update_one(
                {"_id": workflow["_id"]}, {"$set": {"fw_states": workflow["fw_states"]}}
            )
        return workflow

    def _read(
        self,
        world: World,
        owners: Iterable[int],
        launch_ids: Iterable[int],
        *,
        children: bool = False,
    ) -> None:
        """Read what a plan will most likely need, under the locks."""
        wanted = {fw_id for fw_id in owners if fw_id not in world.refused}
        if children:
            for workflow in world.workflows:
                for fw_id in wanted & set(workflow["nodes"]):
                    wanted = wanted | set(workflow["links"].get(str(fw_id), []))
        numbers = set(launch_ids)
        self._read_runs(world, numbers)
        self._read_more(world, Missing(fireworks=wanted | set(owners), launches=numbers))

    def _read_runs(self, world: World, launch_ids: Iterable[int]) -> None:
        query = {"launch_id": {"$in": list(launch_ids)}}
        for run in self._db.offline_runs.find(query, batch_size=_WHOLE):
            world.runs.setdefault(run["launch_id"], []).append(run)

    def _read_more(self, world: World, missing: Missing) -> None:
        fireworks = self._by_id("fireworks", "fw_id", missing.fireworks)
        for firework in fireworks.values():
            firework.setdefault("launches", [])
            firework.setdefault("archived_launches", [])
        world.fireworks.update(fireworks)
        listed = {number for firework in fireworks.values() for number in firework["launches"]}
        wanted = (missing.launches | listed) - set(world.launches)
        world.launches.update(self._by_id("launches", "launch_id", wanted))
        if missing.flags:
            query = {"fw_id": {"$in": list(missing.flags)}}
            world.tolerant.update(dict.fromkeys(missing.flags, False))
            for firework in self._db.fireworks.find(
                query, {"fw_id": 1, "spec._allow_fizzled_parents": 1}
            ):
                flag = firework.get("spec", {}).get("_allow_fizzled_parents")
                world.tolerant[firework["fw_id"]] = bool(flag)

    def _planned(self, world: World, make: Callable[[], Plan]) -> Plan:
        """Return a plan, reading on as long as it asks for more."""
        while True:
            try:
                return make()
            except Missing as missing:
                self._read_more(world, missing)
                world.gone.fireworks |= missing.fireworks - world.fireworks.keys()
                world.gone.launches |= missing.launches - world.launches.keys()

    def _by_id(self, collection: str, key: str, ids: Iterable[int]) -> dict[int, Document]:
        wanted = list(ids)
        if not wanted:
            return {}
        return {
            document[key]: document
            for document in self._db[collection].find({key: {"$in": wanted}}, batch_size=_WHOLE)
        }

    def _commit(self, plan: Plan, token: str) -> None:
        """Carry out a plan under the locks of ``token``; the write of a workflow releases its lock."""
        self._execute([_unlocking(write, token) for write in plan.writes])

    def _execute(self, writes: list[Write]) -> None:
        for collection, group in groupby(writes, key=lambda write: write.collection):
            operations = [
                (UpdateMany if write.many else UpdateOne)(write.filter, write.update)
                for write in group
            ]
            self._db[collection].bulk_write(operations, ordered=True)

    # ------------------------------------------------------------------------------------- looking

    def open_launches(self, worker: str | None = None) -> list[OpenLaunch]:
        """Return the launches with an open offline run, of one worker or of all of them."""
        with _reaching(self.where):
            runs = self._db.offline_runs.find(
                {"completed": False, "deprecated": False}, {"launch_id": 1, "_id": 0}
            )
            query: Document = {"launch_id": {"$in": [run["launch_id"] for run in runs]}}
            return self._open_launches(query, worker)

    def find_launches(self, launch_ids: Iterable[int]) -> list[OpenLaunch]:
        """Return what is known of launches, open or not."""
        with _reaching(self.where):
            return self._open_launches({"launch_id": {"$in": list(launch_ids)}}, None)

    def _open_launches(self, query: Document, worker: str | None) -> list[OpenLaunch]:
        if worker is not None:
            query["fworker.name"] = worker
        wanted = {"launch_id": 1, "fw_id": 1, "launch_dir": 1, "state": 1, "fworker.name": 1}
        return [
            OpenLaunch(
                launch["launch_id"],
                launch["fw_id"],
                launch["launch_dir"],
                launch["state"],
                (launch.get("fworker") or {}).get("name", ""),
            )
            for launch in self._db.launches.find(query, wanted)
        ]

    def active_launches(self, launch_ids: Iterable[int]) -> set[int]:
        """Return those launches that a Firework still counts on: RESERVED or RUNNING, not archived."""
        wanted = list(launch_ids)
        with _reaching(self.where):
            owned = self._db.fireworks.find({"launches": {"$in": wanted}}, {"launches": 1})
            listed = {number for firework in owned for number in firework["launches"]}
            query = {"launch_id": {"$in": wanted}, "state": {"$in": list(ACTIVE)}}
            active = self._db.launches.find(query, {"launch_id": 1})
            return listed & {launch["launch_id"] for launch in active}

    def launch_ids_of(self, fw_ids: Iterable[int]) -> set[int]:
        """Return the active launches of Fireworks."""
        with _reaching(self.where):
            cursor = self._db.fireworks.find({"fw_id": {"$in": list(fw_ids)}}, {"launches": 1})
            return {number for firework in cursor for number in firework.get("launches", [])}

    def fw_states(self, fw_ids: Iterable[int] | None = None) -> dict[int, tuple[str, str]]:
        """Return {fw_id: (state, name)}, of some Fireworks or of all."""
        query: Document = {} if fw_ids is None else {"fw_id": {"$in": list(fw_ids)}}
        with _reaching(self.where):
            cursor = self._db.fireworks.find(query, {"fw_id": 1, "state": 1, "name": 1})
            return {doc["fw_id"]: (doc["state"], doc.get("name", "")) for doc in cursor}

    def workflow_states(self) -> dict[int, str]:
        """Return {lowest fw_id: state} of every workflow."""
        with _reaching(self.where):
            cursor = self._db.workflows.find({}, {"nodes": 1, "state": 1})
            return {min(workflow["nodes"]): workflow["state"] for workflow in cursor}

    def counts(self) -> dict[str, int]:
        """Return how many Fireworks are in each state."""
        with _reaching(self.where):
            groups = self._db.fireworks.aggregate([{"$group": {"_id": "$state", "n": {"$sum": 1}}}])
            return {group["_id"]: group["n"] for group in groups}

    def active_count(self, worker: str) -> dict[str, int]:
        """Return how many launches of a worker are RESERVED and RUNNING."""
        with _reaching(self.where):
            return {
                state: self._db.launches.count_documents({"state": state, "fworker.name": worker})
                for state in sorted(ACTIVE)
            }

    # ----------------------------------------------------------------- a database made for a while

    def collections(self) -> list[str]:
        """Return the names of the collections that there are; none in a database that nobody uses."""
        with _reaching(self.where):
            return sorted(self._db.list_collection_names())

    def documents(self, collection: str) -> list[Document]:
        """Return all documents of a collection, as they are: for a small database."""
        with _reaching(self.where):
            return list(self._db[collection].find())

    def drop(self) -> None:
        """Remove the whole database: for a caller that has made it itself, under a name of its own."""
        with _reaching(self.where):
            self._db.client.drop_database(self.name)

    # --------------------------------------------------------------------- registered directories

    def register(self, worker: str, launch_id: int, launch_dir: str) -> None:
        """Remember that a launch is to be looked for in a directory of its own choice."""
        now = self._clock()
        with _reaching(self.where):
            self._db.fwagent_dirs.update_one(
                {"_id": launch_id},
                {"$set": {"worker": worker, "launch_dir": launch_dir, "registered_on": now}},
                upsert=True,
            )

    def unregister(self, worker: str, launch_dirs: Iterable[str]) -> list[str]:
        """Forget registered directories; return those that were registered."""
        with _reaching(self.where):
            query = {"worker": worker, "launch_dir": {"$in": list(launch_dirs)}}
            found = [entry["launch_dir"] for entry in self._db.fwagent_dirs.find(query)]
            self._db.fwagent_dirs.delete_many(query)
            return found

    def forget_registered(self, launch_ids: Iterable[int]) -> None:
        """Drop the registrations of launches that have ended."""
        if wanted := list(launch_ids):
            with _reaching(self.where):
                self._db.fwagent_dirs.delete_many({"_id": {"$in": wanted}})

    def registered(self, worker: str) -> dict[int, str]:
        """Return {launch_id: launch_dir} of the registered directories of a worker."""
        with _reaching(self.where):
            cursor = self._db.fwagent_dirs.find({"worker": worker})
            return {entry["_id"]: entry["launch_dir"] for entry in cursor}

    # ------------------------------------------------------------------------------------- the lease

    def acquire_lease(self, worker: str, owner: str, seconds: float) -> Lease:
        """Take the lease of a worker if nobody holds it; else return the one that somebody holds.

        The server's clock decides about expiry, since those of login nodes may differ. Compare
        ``owner`` of the result with one's own.
        """
        mine = {"owner": owner, "host": self.host, "pid": os.getpid()}
        expiry = {"$add": ["$$NOW", round(seconds * 1000)]}
        epoch = {"$add": [{"$ifNull": ["$epoch", 0]}, 1]}
        taken = [{"$set": {**mine, "epoch": epoch, "since": "$$NOW", "expires_at": expiry}}]
        free = {"_id": worker, "$expr": {"$lte": [{"$ifNull": ["$expires_at", "$$NOW"]}, "$$NOW"]}}
        leases = self._db.fwagent_leases
        with _reaching(self.where):
            leases.update_one({"_id": worker}, {"$setOnInsert": {"epoch": 0}}, upsert=True)
            found = leases.find_one_and_update(free, taken, return_document=ReturnDocument.AFTER)
            return _lease(found or leases.find_one({"_id": worker}) or {"_id": worker})

    def renew_lease(self, lease: Lease, seconds: float) -> Lease | None:
        """Prolong a lease; None if another agent has taken it since."""
        mine = {"_id": lease.worker, "owner": lease.owner, "epoch": lease.epoch}
        later = [{"$set": {"expires_at": {"$add": ["$$NOW", round(seconds * 1000)]}}}]
        with _reaching(self.where):
            found = self._db.fwagent_leases.find_one_and_update(
                mine, later, return_document=ReturnDocument.AFTER
            )
        return _lease(found) if found else None

    def release_lease(self, lease: Lease) -> None:
        """Give a lease back, so that another agent need not wait for its end."""
        mine = {"_id": lease.worker, "owner": lease.owner, "epoch": lease.epoch}
        with _reaching(self.where):
            self._db.fwagent_leases.update_one(mine, [{"$set": {"expires_at": "$$NOW"}}])

    def lease(self, worker: str) -> tuple[Lease, bool] | None:
        """Return the lease of a worker and whether it is in force, None if there never was one."""
        live = {"$gt": ["$expires_at", "$$NOW"]}
        steps: list[Document] = [
            {"$match": {"_id": worker, "epoch": {"$gt": 0}}},
            {"$set": {"live": live}},
        ]
        with _reaching(self.where):
            found = next(iter(self._db.fwagent_leases.aggregate(steps)), None)
        return (_lease(found), bool(found["live"])) if found else None


def _own_address(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError:
        return "127.0.0.1"


def _seeds(client: MongoClient[Document]) -> list[tuple[str, int | None]]:
    return sorted(client.topology_description.server_descriptions(), key=str)


def _lease(document: Mapping[str, Any]) -> Lease:
    never = datetime.fromtimestamp(0, tz=utcnow().tzinfo)
    return Lease(
        worker=document["_id"],
        owner=document.get("owner", ""),
        host=document.get("host", ""),
        pid=document.get("pid", 0),
        epoch=document.get("epoch", 0),
        expires_at=document.get("expires_at", never),
        since=document.get("since", never),
    )


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


def _member(world: World, fw_id: int) -> bool:
    return any(fw_id in workflow["nodes"] for workflow in world.workflows)


def _parent_links(links: Mapping[str, list[int]]) -> dict[str, list[int]]:
    parents: dict[str, list[int]] = {}
    for parent, children in links.items():
        for child in children:
            parents.setdefault(str(child), []).append(int(parent))
    return parents


def _holder_of(locked: Any) -> str:
    if isinstance(locked, str) and locked.startswith("fwagent:"):
        _, host, pid, *_ = locked.split(":")
        return f"fwagent on {host} (process {pid})"
    return "FireWorks"


def _unlocking(write: Write, token: str) -> Write:
    if write.collection != "workflows":
        return write
    removals = {**write.update.get("$unset", {}), "locked": ""}
    return Write(
        write.collection, {**write.filter, "locked": token}, {**write.update, "$unset": removals}
    )


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _split_by_size(reports: list[Report]) -> tuple[list[Report], list[Outcome]]:
    storable, too_large = [], []
    for report in reports:
        size = _stored_size(report)
        if size <= MAX_ACTION_SIZE:
            storable.append(report)
        else:
            reason = f"its result of {size} bytes does not fit into a MongoDB document"
            too_large.append(Outcome(report.launch_id, report.fw_id, reason=reason))
    return storable, too_large


def _stored_size(report: Report) -> int:
    try:
        return len(bson.encode(cast(Document, {"a": report.fwaction, "c": report.checkpoint})))
    except (bson.errors.InvalidDocument, OverflowError, UnicodeEncodeError):
        # The plan finds the place and says so.
        return 0
