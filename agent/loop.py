"""The daemon: one thread does all the work, in passes; everything else only wakes it.

A pass looks (at the outbox, at directories with events, at all open launches when a sweep is due), applies
what it found, and launches what is READY. Whatever fails is tried again; nothing of ours ever ends a job.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from apscheduler.schedulers.background import BackgroundScheduler

from agent import modes
from agent.backoff import Backoff
from agent.config import Config, load_config
from agent.health import Health, StatusFile, backlog
from agent.heartbeat import Heartbeat
from agent.jobs import QueueSilent
from agent.launch import WayOut
from agent.lease import RENEW_SECONDS, LeaseKeeper, is_gone
from agent.locks import seen
from agent.log import Trouble, get_logger
from agent.notify import Notifier
from agent.queue import Queue, open_queue
from agent.reconciler import Reconciler
from agent.recover import WayBack
from agent.results import Deferrals, Result
from agent.stage import StageError, prepare_root
from agent.umask import restrict
from agent.watch import Wake, Watch
from fwcore.errors import DatabaseRefused, DatabaseUnreachable, FwagentError
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.journal import Fenced
from fwcore.launchpad.records import Lease
from fwrunner.protocol import rescue

if TYPE_CHECKING:
    from agent.metrics import Metrics

#: Seconds between two passes while they fail, and between two tries to launch: first and last pause.
PASS_BACKOFF = (1.0, 60.0)
LAUNCH_BACKOFF = (10.0, 300.0)
#: Between two listings while the queue does not answer.
QUEUE_BACKOFF = (30.0, 600.0)


@dataclass
class Parts:
    """What follows from a configuration, and is made anew when it changes."""

    config: Config
    launchpad: LaunchPad
    queue: Queue
    way_back: WayBack
    way_out: WayOut
    reconciler: Reconciler


def make_parts(config: Config) -> Parts:
    """Return the parts of an agent; nothing is connected yet. Raises FwagentError."""
    worker = config.fworker()
    launchpad = config.connect()
    outbox = prepare_root(config.launch.root)
    queue = open_queue(config)
    launchpad.submitted = queue.submitted
    launchpad.queue_name = f"{config.queue.type}:{config.launch.root}"
    rescued = Path.home() / rescue.PATH
    way_back = WayBack(launchpad, outbox, config.sync.max_report_size, rescued)
    return Parts(
        config,
        launchpad,
        queue,
        way_back,
        WayOut(launchpad, config, queue, worker),
        Reconciler(launchpad, queue, way_back, config),
    )


class Agent:
    """``fwagent run``."""

    def __init__(self, config_path: Path | None) -> None:
        self._config_path = config_path
        config = load_config(config_path)
        restrict(group_readable=config.launch.group_readable)
        self._parts = make_parts(config)
        self._worker = self._parts.config.fworker().name
        self._health = Health(self._worker)
        self._status_file = StatusFile()
        self._notifier = Notifier()
        self._heartbeat = Heartbeat()
        self._metrics: Metrics | None = None
        self._lease = LeaseKeeper(self._worker, self._health)
        self._wake = Wake()
        self._watch = Watch(self._wake)
        self._scheduler = BackgroundScheduler(timezone="UTC")
        self._log = get_logger()
        # What may still be told about, as of the last sweep and the launches since: a cache.
        self._places: dict[int, str] = {}
        # Launches that were seen to run, so that a ping is not told as news.
        self._running: set[int] = set()
        self._deferrals = Deferrals()
        self._due = {"start"}
        self._touched: set[str] = set()
        self._checked = False
        # Of the lease under which the last pass was made; 0 while another agent serves the worker.
        self._epoch = 0
        # What is done of what people have asked for, and the number of that wish.
        self._mode, self._wish = modes.RUN, 0
        self._stopping = False
        self._passes = Backoff(*PASS_BACKOFF)
        self._launches = Backoff(*LAUNCH_BACKOFF)
        self._listings = Backoff(*QUEUE_BACKOFF)
        self._faults, self._silence, self._stuck, self._unmeasured = (Trouble() for _ in range(4))

    def run(self) -> None:
        """Turn until SIGTERM or SIGINT; SIGHUP reads the configuration anew."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_signal)
        self._watch.start()
        self._schedule()
        self._scheduler.start()
        self._log.info("started", worker=self._worker, database=self._parts.launchpad.where)
        try:
            while not self._stopping:
                self._turn()
                self._wait()
        finally:
            self._end()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._wake.call("reload")
            return
        if self._stopping:
            # Asked twice: a pass may hang on a dead file server, and being killed is safe at any time.
            os._exit(128 + number)
        self._stopping = True
        self._wake.call("stop")

    def _schedule(self) -> None:
        sync = self._parts.config.sync
        intervals = {
            "outbox": sync.outbox_interval,
            "sweep": sync.sweep_interval,
            "reserve": sync.reserve_interval,
            "reconcile": sync.reconcile_interval,
        }
        for reason, seconds in intervals.items():
            self._scheduler.add_job(
                self._wake.call,
                "interval",
                args=[reason],
                seconds=seconds,
                id=reason,
                coalesce=True,
                max_instances=1,
                misfire_grace_time=None,
                replace_existing=True,
            )

    def _wait(self) -> None:
        """Wait for a reason to turn. While something fails, the end of the backoff is the only one."""
        while not self._stopping:
            pause = self._passes.remaining
            reasons, places = self._wake.wait(pause if pause > 0 else RENEW_SECONDS)
            self._due |= reasons
            self._touched |= places
            if self._passes.remaining <= 0 or "reload" in reasons:
                return

    def _turn(self) -> None:
        if "reload" in self._due:
            with self._notifier.reloading():
                self._read_config_again()
        begin = time.monotonic()
        try:
            self._pass()
        except (DatabaseUnreachable, DatabaseRefused) as error:
            self._health.database_down()
            self._failed(error)
        except Fenced as error:
            self._lease.ask_again()
            self._failed(error)
        except FwagentError as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001 - the one place: a fault of ours must not end the daemon
            self._log.exception("a pass failed")
            self._failed(FwagentError(f"unexpected {type(error).__name__}: {error}"))
        else:
            self._succeeded()
        # A pass is over, whatever came of it. One that hangs says nothing.
        self._notifier.alive(self._health.line())
        self._status_file.write(self._parts.config.private, self._health, time.monotonic())
        if metrics := self._counting():
            metrics.took(time.monotonic() - begin)
        self._write_metrics()

    def _counting(self) -> Metrics | None:
        """Return the metrics, if anybody wants them."""
        if self._metrics is None and self._parts.config.monitor.metrics_file is not None:
            from agent.metrics import Metrics

            self._metrics = Metrics(self._worker, version("fwagent"))
        return self._metrics

    def _write_metrics(self, *, last: bool = False) -> None:
        path = self._parts.config.monitor.metrics_file
        metrics = self._counting()
        if metrics is None or path is None:
            return
        waiting = backlog(self._parts.config.private / "outbox")
        trouble = metrics.write(path, self._health, waiting, time.monotonic(), last=last)
        if trouble:
            self._health.failed(trouble)
        elif before := self._unmeasured.over():
            self._log.info("the metrics file can be written again", after=before)
        if trouble and self._unmeasured.news(trouble, time.monotonic()):
            self._log.warning(trouble, path=str(path))

    def _pass(self) -> None:
        if not self._checked:
            # A name mistyped is an empty database, where there would never be anything to do.
            self._parts.launchpad.check()
            self._checked = True
        lease = self._lease.held(self._parts.launchpad)
        if lease is None:
            self._epoch = 0
            return
        if lease.stop:
            self._log.info("asked to stop", by=lease.stop)
            self._stopping = True
            return
        if lease.epoch != self._epoch:
            self._epoch = lease.epoch
            self._wish = 0
            self._due.add("start")
        self._follow(lease)
        if self._mode == modes.PAUSE:
            return
        due, touched = self._due, self._touched
        self._due, self._touched = set(), set()
        result = Result()
        done = False
        try:
            if "start" in due:
                due |= {"sweep", "reserve", "reconcile"}
                # Indexes only make it quicker; the right to create them may be missing.
                with suppress(DatabaseRefused):
                    self._parts.launchpad.prepare()
            self._look(due, touched, result)
            self._reconcile(due, result)
            self._launch(due, result)
            self._parts.way_out.tell_passed_over(result)
            done = True
        finally:
            if not done:
                self._due |= due
                self._touched |= touched
            self._tell(result, whole=done and "sweep" in due)

    def _follow(self, lease: Lease) -> None:
        """Do as people have asked last, and answer."""
        wish = lease.wish
        if wish.number == self._wish:
            return
        if wish.mode == modes.PAUSE:
            # What is half done would stay locked.
            self._parts.launchpad.resume(is_gone)
        if wish.number > lease.followed:
            self._parts.launchpad.follow(lease)
        if wish.mode != self._mode:
            self._log.info(modes.WORDS[wish.mode][0], by=wish.by, on=str(wish.on))
            self._due.add("start")
        self._mode, self._wish = wish.mode, wish.number
        self._health.wish = modes.document(wish, followed=True)

    def _look(self, due: set[str], touched: set[str], result: Result) -> None:
        way_back = self._parts.way_back
        if "sweep" in due:
            # What a killed agent has left half done comes first: its locks hold others up.
            self._parts.launchpad.resume(is_gone)
            locks = self._parts.launchpad.locks(is_gone=is_gone)
            self._health.locks = seen(locks, self._health.locks)
            self._places = way_back.places(self._worker)
            way_back.memory.keep(self._places)
            self._running &= self._places.keys()
            self._watch.watch_outbox(self._parts.config.private / "outbox")
            self._watch.watch_launches(self._places)
            self._parts.queue.tend()
            way_back.recover(self._places, result)
            way_back.close(self._places, result)
        else:
            places = {key: place for key, place in self._places.items() if place in touched}
            way_back.recover(places, result)
        for entry in result.applied:
            if entry["state"] != "RUNNING":
                self._places.pop(entry["launch_id"], None)

    def _reconcile(self, due: set[str], result: Result) -> None:
        if "reconcile" not in due or self._listings.remaining > 0:
            return
        try:
            self._parts.reconciler.run(result)
        except QueueSilent as error:
            # Nothing follows from silence: neither is anything lost, nor does what comes back have to wait.
            if self._silence.news(error.title, time.monotonic()):
                self._log.warning("the queue does not answer", reason=error.title, hint=error.hint)
            self._listings.failed()
        else:
            self._listings.succeeded()
            if before := self._silence.over():
                self._log.info("the queue answers again", after=before)

    def _launch(self, due: set[str], result: Result) -> None:
        ended = any(entry["state"] != "RUNNING" for entry in result.applied)
        if self._mode != modes.RUN:
            return
        if self._launches.remaining > 0 or not (result.released or ended or "reserve" in due):
            return
        capacity = self._parts.way_out.capacity()
        if capacity == 0 and ended:
            # The job that has just reported may not have left the queue yet.
            self._due.add("reserve")
        failed = len(result.deferred)
        try:
            self._parts.way_out.launch(capacity, result)
        except StageError as error:
            # What cannot go out must not slow down what comes back.
            self._cannot_launch(error.title)
        else:
            if len(result.deferred) > failed and not result.claimed:
                self._cannot_launch(result.deferred[-1]["reason"])
            else:
                self._launches.succeeded()
                if before := self._stuck.over():
                    self._log.info("launching again", after=before)
        self._places.update((claim["launch_id"], claim["launch_dir"]) for claim in result.claimed)
        self._watch.watch_launches(self._places)

    def _cannot_launch(self, reason: str) -> None:
        if self._stuck.news(reason, time.monotonic()):
            self._log.error("cannot launch", reason=reason)
        self._health.failed(reason)
        self._launches.failed()

    def _tell(self, result: Result, *, whole: bool) -> None:
        latencies = self._parts.way_back.latencies
        for entry in result.applied:
            ended = entry["state"] != "RUNNING"
            first = ended or entry["launch_id"] not in self._running
            delay = {"latency": latencies.get(entry["launch_id"])} if ended else {}
            (self._log.info if first else self._log.debug)("applied", **entry, **delay)
            self._running.add(entry["launch_id"])
        for entry in result.ignored:
            self._log.warning("ignored", **entry)
        for entry in result.lost:
            self._log.warning("lost", **entry)
        for entry in result.adopted:
            self._log.info("adopted", **entry)
        for entry in result.cancelled:
            self._log.info("cancelled", **entry)
        for entry in result.submitted:
            self._log.info("submitted", **entry)
        news = self._deferrals.take(result, whole=whole)
        for entry in result.deferred:
            (self._log.info if entry in news else self._log.debug)("deferred", **entry)
        latency = max(latencies.values(), default=None)
        if result.released:
            self._log.info("released", fw_ids=sorted(result.released), latency=latency)
        if metrics := self._counting():
            metrics.add(result, latencies)
        self._health.add(result, latency, open_launches=len(self._places))
        self._health.deferred = len(self._deferrals)
        self._health.watched, self._health.watch_trouble = self._watch.count, self._watch.trouble

    def _failed(self, error: FwagentError) -> None:
        pause = self._passes.failed()
        if self._faults.news(error.title, time.monotonic()):
            self._log.error(error.title, hint=error.hint, next_try_in=pause)
        self._health.failed(error.title)

    def _succeeded(self) -> None:
        self._passes.succeeded()
        if before := self._faults.over():
            self._log.info("recovered", after=before)
        self._health.passed()
        self._notifier.ready()
        monitor = self._parts.config.monitor
        if monitor.heartbeat_url is not None and self._epoch:
            url = monitor.heartbeat_url.get_secret_value()
            self._heartbeat.beat(url, monitor.heartbeat_interval, time.monotonic())

    def _read_config_again(self) -> None:
        self._due.discard("reload")
        try:
            parts = make_parts(load_config(self._config_path))
        except FwagentError as error:
            self._keep_config(error.title, error.hint)
            return
        if parts.config.fworker().name != self._worker:
            parts.launchpad.close()
            self._keep_config("the worker cannot change while running", "restart fwagent")
            return
        old, self._parts = self._parts, parts
        restrict(group_readable=parts.config.launch.group_readable)
        old.launchpad.close()
        self._lease.ask_again()
        self._checked = False
        self._due.add("start")
        self._schedule()
        self._log.info("the new configuration is in force")

    def _keep_config(self, reason: str, hint: str) -> None:
        self._log.error("the old configuration stays in force", reason=reason, hint=hint)
        self._health.failed(f"the new configuration is not in force: {reason}")

    def _end(self) -> None:
        self._notifier.stopping()
        self._scheduler.shutdown(wait=False)
        self._watch.stop()
        if self._health.database_down_since is None:
            with suppress(FwagentError):
                self._lease.give_back(self._parts.launchpad)
        self._health.mode = "stopped"
        self._write_metrics(last=True)
        self._status_file.write(self._parts.config.private, self._health, time.monotonic())
        self._parts.launchpad.close()
        self._log.info("stopped")
