"""What people do to Fireworks: rerun, defuse, forget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial

from fwcore.launchpad.isolation import Isolating
from fwcore.launchpad.reading import WHOLE
from fwcore.launchpad.records import BATCH, Changed, Forgotten
from fwcore.launchpad.session import batches
from fwcore.rerun import Change, Changes, Recovery, plan_defuse, plan_rerun, plan_rerun_lost
from fwcore.world import World
from fwrunner.protocol import Report

#: Is told, after each batch, how many Fireworks were dealt with; False ends it there.
Told = Callable[[int], bool]
_Make = Callable[[World, Sequence[int], datetime], Changes]


class Changing(Isolating):
    """Changes the course of workflows."""

    def rerun(
        self,
        fw_ids: Iterable[int],
        *,
        recovery: Recovery | None = None,
        duplicates: bool = True,
        told: Told = bool,
    ) -> Changed:
        """Let Fireworks run again, as `lpad rerun_fws`: their launches are archived, they are READY again.

        What follows them and does not just wait is reset, too; what is paused, defused or archived there stays
        so. With ``recovery`` they go on from their last checkpoint; one that has none is skipped, with the
        reason. With ``duplicates`` Fireworks that share a launch (``_dupefinder``) are rerun together. The
        open offline runs of archived launches are retired; jobs are not cancelled. Skipped are DEFUSED,
        ARCHIVED, WAITING and unknown Fireworks, deferred those in workflows that somebody else has locked or that
        are damaged.
        """
        make = partial(plan_rerun, recovery=recovery, duplicates=duplicates)
        return self._change(fw_ids, make, duplicates, told)

    def rerun_lost(self, ends: Iterable[Report]) -> Changed:
        """Let Fireworks run again whose jobs were lost; ``ends`` are the FIZZLED reports of their launches.

        Launch and Firework change in one batch, so nobody sees the Firework FIZZLED. One with ``_resume_requeued``
        goes on from its checkpoint. Skipped is what has ended, was archived or is held meanwhile.
        """
        by_firework = {end.fw_id: end for end in ends if end.fw_id is not None}
        return self._change(by_firework, partial(plan_rerun_lost, ends=by_firework), True, bool)

    def defuse(
        self, fw_ids: Iterable[int], *, duplicates: bool = True, told: Told = bool
    ) -> Changed:
        """Take Fireworks out of the flow until `lpad reignite_fws`, as `lpad defuse_fws`.

        RESERVED, RUNNING and COMPLETED ones are rerun before, with all that this means; the launches of others
        stay as they are. ``duplicates`` are rerun, but not defused. Skipped are DEFUSED, ARCHIVED and unknown
        Fireworks, deferred those in workflows that somebody else has locked or that are damaged.
        """
        make = partial(plan_defuse, duplicates=duplicates)
        return self._change(fw_ids, make, duplicates, told)

    def forget(self, fw_ids: Iterable[int], *, told: Told = bool) -> list[Forgotten]:
        """Retire all offline runs of Fireworks, as `lpad forget_offline`; return those that were not retired.

        What these jobs still report is ignored. Fireworks and launches stay as they are, so no lock is needed;
        a run that is being completed at the same time is completed before or after.
        """
        forgotten: list[Forgotten] = []
        done = 0
        with self._reaching():
            for batch in batches(list(dict.fromkeys(fw_ids)), BATCH):
                # Launches have an index of their Fireworks, offline runs of their launches.
                launches = self._db.launches.find({"fw_id": {"$in": batch}}, {"launch_id": 1})
                launch_ids = [launch["launch_id"] for launch in launches]
                query = {"launch_id": {"$in": launch_ids}, "deprecated": False}
                wanted = {"fw_id": 1, "launch_id": 1}
                runs = list(self._db.offline_runs.find(query, wanted, batch_size=WHOLE))
                found = {"_id": {"$in": [run["_id"] for run in runs]}}
                self._db.offline_runs.update_many(found, {"$set": {"deprecated": True}})
                forgotten += [Forgotten(run["fw_id"], run["launch_id"]) for run in runs]
                done += len(batch)
                if not told(done):
                    break
        return forgotten

    def _change(self, fw_ids: Iterable[int], make: _Make, duplicates: bool, told: Told) -> Changed:
        result, done = Changed(), 0
        with self._reaching():
            for batch in batches(list(dict.fromkeys(fw_ids)), BATCH):
                self._in_parts(
                    batch,
                    lambda part: result.extend(
                        self._again(partial(self._change_some, part, make, duplicates))
                    ),
                    lambda fw_id, reason: result.deferred.append(Change(fw_id, reason=reason)),
                )
                done += len(batch)
                if not told(done):
                    break
        return result

    def _change_some(self, fw_ids: list[int], make: _Make, duplicates: bool) -> Changes:
        concerned = [*fw_ids, *(self._duplicates_of(fw_ids) if duplicates else ())]
        with self._locked(concerned) as (token, world):
            plan = self._planned(world, partial(make, world, fw_ids, self._clock()))
            self._commit(plan, token)
            return plan

    def _duplicates_of(self, fw_ids: Sequence[int]) -> list[int]:
        """Return the Fireworks that share a launch with one that looks for duplicates, itself included."""
        query = {"fw_id": {"$in": fw_ids}, "spec._dupefinder": {"$exists": True}}
        finders = self._db.fireworks.find(query, {"launches": 1}, batch_size=WHOLE)
        launches = [number for finder in finders for number in finder.get("launches") or ()]
        return self._owners(launches) if launches else []
