"""The way out of the database: reserving Fireworks, and taking reservations back."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pymongo import ASCENDING, DESCENDING, UpdateOne

from fwcore import documents
from fwcore.launchpad.duplicates import Duplicates
from fwcore.launchpad.journal import Overtaken
from fwcore.launchpad.reading import WHOLE, is_id
from fwcore.launchpad.records import BATCH, Applied, Claim, PlaceLaunch
from fwcore.launchpad.session import batches
from fwcore.plan import Outcome, Plan, plan_cancel, plan_claim
from fwcore.worker import Worker

Document = dict[str, Any]

#: What a claim needs to know of a Firework before it is its own.
_SEEN = (
    *("fw_id", "name", "updated_on", "launches", "archived_launches"),
    *("spec._trackers", "spec._launch_dir", "spec._dupefinder"),
)


class Claims(Duplicates):
    """Reserves Fireworks."""

    def claim(
        self,
        worker: Worker,
        n: int,
        *,
        fw_ids: Iterable[int] | None = None,
        place: PlaceLaunch | None = None,
        hold: bool = False,
    ) -> list[Claim]:
        """Reserve up to ``n`` READY Fireworks for a worker, in FireWorks' order.

        With ``fw_ids`` only those, without regard to category and query, as `qlaunch -f`. ``place``
        gives each its launch directory (default: the current one). Fireworks whose workflow somebody
        else has locked are passed over, and so are damaged ones, which ``passed_over`` tells. One with a
        ``_dupefinder`` whose spec is that of a Firework with launches is not reserved, but shares
        these (FireWorks 2.1.4, ``_steal_launches``). With ``hold`` the claim is taken back if this
        process dies before ``settle``. The offline run is opened later, by ``open_runs``, once the files
        are there: `lpad recover_offline` FIZZLES a run whose files it does not find.
        """
        claims: list[Claim] = []
        held_before = set(self._held)
        self.passed_over = {}
        placed = place or (lambda _firework, _id: str(Path.cwd()))
        try:
            with self._reaching():
                self._finish_own()
                self._fill(claims, worker, n, fw_ids, placed)
            if not hold:
                self.settle()
        except BaseException:
            # The caller is told of none of them; the journal of some may be gone already.
            untold = self._held - held_before
            pairs = [(claim.launch_id, claim.fw_id) for claim in claims]
            self._untold.update(dict.fromkeys(untold, pairs))
            self._open |= untold
            self._held -= untold
            raise
        return claims

    def _fill(
        self,
        claims: list[Claim],
        worker: Worker,
        n: int,
        fw_ids: Iterable[int] | None,
        place: PlaceLaunch,
    ) -> None:
        """Add claims until there are ``n``, or no Firework is left that can be reserved."""

        def reserve(found: list[Document]) -> None:
            claims.extend(self._reserve(worker, found, place))

        tried: list[Any] = []
        while len(claims) < n:
            found = self._candidates(worker, n - len(claims), fw_ids, tried)
            if not found:
                return
            sound = [firework for firework in found if self._is_sound(firework)]
            unique, later = self._unique(sound)
            numbers = [seen.get("fw_id") for seen in found]
            tried += [each for each in numbers if not is_id(each) or each not in later]
            with suppress(Overtaken):  # those are not reserved
                self._in_parts(unique, reserve, self._pass_over)

    def _is_sound(self, seen: Document) -> bool:
        """Tell whether a READY Firework can be reserved and written out; one that cannot is passed over."""
        if reason := _damage(seen):
            self._pass_over(seen, f"its documents cannot be understood: {reason}")
        return not reason

    def _candidates(
        self, worker: Worker, n: int, fw_ids: Iterable[int] | None, tried: list[int]
    ) -> list[Document]:
        query = worker.ready_query() if fw_ids is None else {"state": "READY"}
        ids: Document = (
            {"$nin": tried} if fw_ids is None else {"$in": list(set(fw_ids) - set(tried))}
        )
        order = [("spec._priority", DESCENDING), ("created_on", ASCENDING)]
        wanted = dict.fromkeys(_SEEN, 1)
        cursor = self._db.fireworks.find({"$and": [query, {"fw_id": ids}]}, wanted)
        return list(cursor.sort(order).limit(n).batch_size(WHOLE))

    def _reserve(
        self, worker: Worker, found: Sequence[Document], place: PlaceLaunch
    ) -> list[Claim]:
        with self._locked([firework["fw_id"] for firework in found]) as (token, world):
            for firework in found:
                if reason := world.damaged.get(firework["fw_id"]):
                    self._pass_over(firework, reason)
            free = [firework for firework in found if firework["fw_id"] not in world.refused]
            members = {node for workflow in world.workflows for node in workflow["nodes"]}
            free = [firework for firework in free if firework["fw_id"] in members]
            if not free:
                return []
            now = self._clock()
            # What cannot be understood raises here, before anything is begun.
            wanted = [firework["fw_id"] for firework in free]
            plan = self._planned(world, partial(plan_claim, world, wanted, now))
            first = self._allocate("next_launch_id", len(free), self._in_force())
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
            with self._journal(
                token,
                {"claim": [(launch["launch_id"], launch["fw_id"]) for launch in launches]},
                hold=True,
            ):
                self._db.launches.insert_many(launches)
                won = self._take(free, launches, now)
                self._discard(launch for launch in launches if launch["fw_id"] not in won)
                self._retire_superseded(_earlier(won.values()))
                if won.keys() != set(wanted):
                    plan = self._planned(world, partial(plan_claim, world, won, now))
                self._execute(plan.writes, token)
            return self._claims(launches, won)

    def _take(
        self, free: Sequence[Document], launches: Sequence[Document], now: datetime
    ) -> dict[int, Document]:
        """Flip Fireworks to RESERVED; return those that were as they were seen, as they are now, by fw_id."""
        reserved = {"state": "RESERVED", "updated_on": documents.iso(now)}
        operations = [
            UpdateOne(
                {
                    "fw_id": seen["fw_id"],
                    "state": "READY",
                    "updated_on": seen.get("updated_on"),
                    **self._in_force(),
                },
                _reservation(seen, reserved, launch["launch_id"]),
            )
            for seen, launch in zip(free, launches, strict=True)
        ]
        self._db.fireworks.bulk_write(operations, ordered=False)
        # A launch id is never used twice, so holding it proves that the update was ours.
        query = {"launches": {"$in": [launch["launch_id"] for launch in launches]}}
        cursor = self._db.fireworks.find(query, batch_size=WHOLE)
        return {firework["fw_id"]: firework for firework in cursor}

    def _discard(self, launches: Iterable[Document]) -> None:
        if lost := [launch["launch_id"] for launch in launches]:
            # One that another session has cancelled for us stays, as any cancelled launch does.
            self._db.launches.delete_many({"launch_id": {"$in": lost}, "state": "RESERVED"})

    def settle(self) -> None:
        """Note that held claims are staged, submitted and recorded, or cancelled."""
        if self._held:
            self._check_lease()
        with self._reaching():
            for token in sorted(self._held):
                self._erase(token)
                self._held.discard(token)

    def abandon(self) -> None:
        """Have held claims taken back before anything else is done: their launching has failed."""
        self._open |= self._held
        self._held.clear()

    def postpone(self) -> None:
        """Leave held claims to a later ``resume``: the queue does not tell of all their jobs whether it has them."""
        self._later |= self._held
        self._held.clear()

    def _take_back(self, claim: list[tuple[int, int]], host: str) -> bool:
        recorded = self._recorded(launch_id for launch_id, _fw_id in claim)
        # A job that was recorded may have left the queue since, and its report may be waiting.
        claim = [(launch_id, fw_id) for launch_id, fw_id in claim if launch_id not in recorded]
        if not claim:
            return True
        jobs = self.submitted(host, [launch_id for launch_id, _fw_id in claim])
        if jobs is None:
            return False
        self.record_jobs({launch_id: job_id for launch_id, job_id in jobs.items() if job_id})
        claim = [(launch_id, fw_id) for launch_id, fw_id in claim if launch_id not in jobs]
        launch_ids = [launch_id for launch_id, _fw_id in claim]
        # A stopped process that wakes up must not find them as it has seen them.
        touched = {"fw_id": {"$in": [fw_id for _launch_id, fw_id in claim]}, "state": "READY"}
        now = documents.iso(self._clock())
        self._db.fireworks.update_many(touched, {"$set": {"updated_on": now}})
        if self.cancel(launch_ids).deferred:
            return False
        self._keep_closed(claim)
        query = {"$or": [{key: {"$in": launch_ids}} for key in ("launches", "archived_launches")]}
        used = {
            number
            for firework in self._db.fireworks.find(query, {"launches": 1, "archived_launches": 1})
            for key in ("launches", "archived_launches")
            for number in firework.get(key) or ()
        }
        self._db.launches.delete_many({"launch_id": {"$in": sorted(set(launch_ids) - used)}})
        return True

    def _recorded(self, launch_ids: Iterable[int]) -> set[int]:
        """Return the launches whose jobs are recorded."""
        query = {
            "launch_id": {"$in": list(launch_ids)},
            "state_history.reservation_id": {"$exists": True},
        }
        cursor = self._db.launches.find(query, {"launch_id": 1}, batch_size=WHOLE)
        return {launch["launch_id"] for launch in cursor}

    def _keep_closed(self, claim: list[tuple[int, int]]) -> None:
        """Retire the runs of cancelled launches that a stopped process has not opened yet, but may."""
        names = self._by_id("fireworks", "fw_id", {fw_id for _launch_id, fw_id in claim})
        now = self._clock()
        writes = [
            UpdateOne(
                {"launch_id": launch_id},
                {
                    "$setOnInsert": {
                        **documents.new_offline_run(
                            {"fw_id": fw_id, "launch_id": launch_id}, names[fw_id]["name"], "", now
                        ),
                        "deprecated": True,
                    }
                },
                upsert=True,
            )
            for launch_id, fw_id in claim
            if launch_id in names.get(fw_id, {}).get("archived_launches", [])
        ]
        if writes:
            self._db.offline_runs.bulk_write(writes, ordered=False)

    def _claims(self, launches: Sequence[Document], won: Mapping[int, Document]) -> list[Claim]:
        launches = [launch for launch in launches if launch["fw_id"] in won]
        own = {launch["launch_id"] for launch in launches}
        mentioned = {
            number
            for firework in won.values()
            for key in ("launches", "archived_launches")
            for number in firework.get(key) or ()
        }
        older = self._by_id("launches", "launch_id", mentioned - own)
        for launch in older.values():
            launch["action"] = _told(launch.get("action"))
        every = {**older, **{launch["launch_id"]: launch for launch in launches}}
        return [
            Claim(
                fw_id=launch["fw_id"],
                launch_id=launch["launch_id"],
                launch_dir=launch["launch_dir"],
                token=secrets.token_hex(8),
                firework=documents.firework_object(
                    won[launch["fw_id"]],
                    _known(every, won[launch["fw_id"]].get("launches")),
                    _known(every, won[launch["fw_id"]].get("archived_launches")),
                ),
            )
            for launch in launches
        ]

    def open_runs(self, claims: Iterable[Claim], *, by_hand: bool = False) -> None:
        """Insert the offline runs of claims whose launch directories are staged.

        They keep the queue that their jobs go to; with ``by_hand`` a person will submit them, nobody knows when.
        Those of earlier launches are retired, and so is one whose Firework was rerun since it was claimed.
        """
        claims = list(claims)
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
        facts = {"queue": self.queue_name, "by_hand": by_hand}
        for run in runs:
            run["fwagent"] |= {key: value for key, value in facts.items() if value}
        # A second run of the same launch would stay open for ever, so asking twice must not make one.
        writes = [
            UpdateOne({"launch_id": run["launch_id"]}, {"$setOnInsert": run}, upsert=True)
            for run in runs
        ]
        if writes:
            with self._reaching():
                self._db.offline_runs.bulk_write(writes, ordered=False)
                self._check_lease()
                archived = (claim.firework.get("archived_launches", ()) for claim in claims)
                earlier = {launch["launch_id"] for each in archived for launch in each}
                self._retire_superseded(earlier | {claim.launch_id for claim in claims})

    def record_jobs(self, job_ids: Mapping[int, str]) -> None:
        """Store the queue's job id of each launch, where FireWorks looks for reservation ids."""
        entry = {"state": "RESERVED", "reservation_id": {"$exists": False}}
        writes = [
            UpdateOne(
                # One that was cancelled meanwhile has no job that anybody counts on.
                {
                    "launch_id": launch_id,
                    "state": {"$ne": "READY"},
                    "state_history": {"$elemMatch": entry},
                },
                {"$set": {"state_history.$.reservation_id": str(job_id)}},
            )
            for launch_id, job_id in job_ids.items()
        ]
        if writes:
            with self._reaching():
                self._db.launches.bulk_write(writes, ordered=False)
            self._check_lease()

    def cancel(
        self, launch_ids: Iterable[int], *, vanished: Mapping[int, str] = MappingProxyType({})
    ) -> Applied:
        """Take reservations back: the Firework is READY again, its launch archived, its run retired.

        ``vanished`` tells of those whose job was lost what the queue said: ``setbacks`` counts them. What somebody
        else has locked, or is damaged, is deferred.
        """
        result = Applied()
        with self._reaching():
            for batch in batches(list(launch_ids), BATCH):
                self._in_parts(
                    batch,
                    lambda part: result.extend(self._again(partial(self._cancel, part, vanished))),
                    lambda launch_id, reason: result.deferred.append(
                        Outcome(launch_id, reason=reason)
                    ),
                )
        return result

    def _cancel(self, launch_ids: list[int], vanished: Mapping[int, str]) -> Plan:
        owners = self._owners(launch_ids)
        with self._locked(owners) as (token, world):
            self._read(world, owners, launch_ids)
            make = partial(plan_cancel, world, launch_ids, self._clock(), vanished)
            plan = self._planned(world, make)
            self._commit(plan, token)
            return plan


def _damage(seen: Document) -> str:
    """Return why a Firework cannot be reserved; "" if it can."""
    if not is_id(seen.get("fw_id")):
        return "its fw_id is no number"
    if not isinstance(seen.get("spec"), dict):
        return "its spec is missing or no object"
    for key in ("launches", "archived_launches"):
        listed = seen.get(key)
        if listed is not None and not (isinstance(listed, list) and all(map(is_id, listed))):
            return f"its {key} are no list of numbers"
    return ""


def _reservation(seen: Document, reserved: Document, launch_id: int) -> Document:
    """Return the update that gives a Firework its launch; the server appends to no list that is null."""
    if seen.get("launches") is None:
        return {"$set": {**reserved, "launches": [launch_id]}}
    return {"$set": reserved, "$push": {"launches": launch_id}}


def _known(launches: Mapping[int, Document], numbers: Iterable[int] | None) -> list[Document]:
    """Return the launches with these numbers, but for those that somebody has deleted."""
    return [launches[number] for number in numbers or () if number in launches]


def _earlier(fireworks: Iterable[Document]) -> set[int]:
    return {number for firework in fireworks for number in firework.get("archived_launches") or ()}


def _told(action: Document | None) -> Document | None:
    """Return the action of an earlier launch as ``FW.json`` tells it: not one that GridFS has to hold.

    Nothing on a compute node reads it, and a rerun must not have to carry tens of megabytes per launch.
    """
    return None if action and "gridfs_id" in action else action
