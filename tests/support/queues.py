"""A queue that says what a test wants, and counts what it is asked; an agent's parts around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pymongo.database import Database

from agent.config import Config
from agent.jobs import JobEnd, QueuedJob, QueueSilent, State, Submission, Submitted
from agent.reconciler import Reconciler
from agent.recover import WayBack
from agent.results import Result
from agent.stage import Placement, prepare_root, stage
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Claim
from fwcore.worker import Worker
from fwrunner.launch import Launch
from fwrunner.protocol import MAX_REPORT_SIZE
from tests.support.agent import TASKS, Store

Document = dict[str, Any]

WORKER = Worker("w")


class FakeQueue:
    """As `agent.queue.Queue`. Jobs are put in with `put`, and taken out with `gone`."""

    lists = True

    def __init__(self) -> None:
        self.jobs: dict[str, QueuedJob] = {}
        self.ended: dict[str, JobEnd] = {}
        self.cancelled: list[str] = []
        self.asked: Counter[str] = Counter()
        self.silent = False
        self._next = 100

    def put(self, launch_id: int, state: State = "PENDING", job_id: str | None = None) -> str:
        """Have a job in the queue; return its id."""
        self._next += job_id is None
        job_id = job_id or str(self._next)
        self.jobs[job_id] = QueuedJob(job_id, launch_id, state, state)
        return job_id

    def gone(self, job_id: str, state: str = "", **how: object) -> None:
        """Let a job leave the queue; without a state nobody remembers it."""
        del self.jobs[job_id]
        if state:
            self.ended[job_id] = JobEnd(job_id, state, **how)  # type: ignore[arg-type]

    def submit_all(
        self, submissions: Sequence[Submission], tend: Callable[[], None] = lambda: None
    ) -> Iterator[Submitted]:
        tend()
        return (Submitted(each.launch_id, self.put(each.launch_id)) for each in submissions)

    def depth(self) -> int:
        return len(self.jobs)

    def submitted(self, host: str, launch_ids: list[int]) -> dict[int, str]:
        found = {job.launch_id: job_id for job_id, job in self.jobs.items() if job.launch_id}
        return {key: found[key] for key in launch_ids if key in found}

    def listing(self) -> dict[str, QueuedJob]:
        self._ask("listing")
        return dict(self.jobs)

    def ends(self, job_ids: Iterable[str]) -> dict[str, JobEnd]:
        self._ask("ends")
        return {job_id: self.ended[job_id] for job_id in job_ids if job_id in self.ended}

    def cancel(self, job_ids: Iterable[str]) -> None:
        self._ask("cancel")
        self.cancelled += job_ids

    def tend(self) -> None:
        """Nothing to do."""

    def _ask(self, what: str) -> None:
        self.asked[what] += 1
        if self.silent:
            raise QueueSilent("squeue: Unable to contact slurm controller")


class Bench:
    """A launch root with what an agent has, on a Slurm that does as it is told."""

    def __init__(self, lp: LaunchPad, db: Database[Document], root: Path) -> None:
        self.lp, self.db, self.root, self.queue = lp, db, root, FakeQueue()
        self.now = 1e9
        self.outbox = prepare_root(root)
        self.lp.queue_name = f"slurm:{root}"
        self.lp.submitted = self.queue.submitted
        self.way_back = WayBack(lp, self.outbox, MAX_REPORT_SIZE)
        self.configure()

    def configure(self, **sync: Any) -> None:
        config = Config.model_validate(
            {"worker": {"name": "w"}, "launch": {"root": str(self.root)}, "sync": sync}
        )
        self.own = config.own(self.lp.where)
        self.reconciler = Reconciler(
            self.lp, self.queue, self.way_back, config, clock=lambda: self.now
        )

    def add(self, n: int = 1, **spec: Any) -> list[int]:
        fws = [{"fw_id": i, "spec": {"_tasks": TASKS, **spec}} for i in range(n)]
        return list(self.lp.add({"fws": fws, "links": {}}).values())

    def claim(self, *fw_ids: int, by_hand: bool = False) -> list[Claim]:
        claims = self.lp.claim(
            WORKER, len(fw_ids), fw_ids=fw_ids, place=Placement(self.root), hold=False
        )
        for claim in claims:
            stage(claim, self.outbox, "python3 -m fwrunner", 60)
        self.lp.open_runs(claims, by_hand=by_hand)
        return sorted(claims, key=lambda claim: fw_ids.index(claim.fw_id))

    def launch(self, *fw_ids: int) -> list[tuple[Claim, str]]:
        """Reserve and submit; return (claim, job id) of each."""
        claims = self.claim(*fw_ids)
        jobs = {claim.launch_id: self.queue.put(claim.launch_id) for claim in claims}
        self.lp.record_jobs(jobs)
        return [(claim, jobs[claim.launch_id]) for claim in claims]

    def run(self, fw_id: int) -> tuple[Claim, str, Launch]:
        """Launch a Firework whose job begins; return (claim, job id, what its runner has)."""
        ((claim, job_id),) = self.launch(fw_id)
        self.queue.put(claim.launch_id, "RUNNING", job_id)
        runner = Launch(claim.launch_dir)
        runner.start()
        self.way_back.recover({claim.launch_id: claim.launch_dir}, Result())
        return claim, job_id, runner

    def turn(self, seconds: float = 0) -> Result:
        self.now += seconds
        result = Result()
        self.reconciler.run(result)
        return result

    def lose(self, seconds: float = 200) -> Result:
        """Reconcile twice; nothing follows from the first time."""
        before = self.turn()
        assert (before.lost, before.cancelled) == ([], [])
        return self.turn(seconds)

    def state(self, fw_id: int) -> str:
        return Store(self.lp, self.db).state(fw_id)

    def stored(self, launch_id: int) -> Document:
        return Store(self.lp, self.db).launch(launch_id)
