"""The daemon: one thread does all the work, in passes; everything else only wakes it, or waits for the queue.

A pass looks (at the outbox, at directories with events, at all open launches when a sweep is due), applies
what it found, and launches what is READY. Whatever fails is tried again; nothing of ours ever ends a job.
While the queue takes its time to answer, what comes back is looked at and applied all the same.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from agent import modes
from agent.backoff import Backoff
from agent.config import Config, load_config
from agent.filesystem import mount_of
from agent.health import DEFERRALS, Health, StatusFile, backlog, read_status
from agent.heartbeat import Heartbeat
from agent.jobs import QueueSilent
from agent.launch import WayOut
from agent.lease import RENEW_SECONDS, LeaseKeeper, is_gone
from agent.locks import seen
from agent.log import Trouble, get_logger
from agent.notify import Notifier
from agent.queue import Queue, open_queue
from agent.queue.beside import Beside
from agent.reconciler import Reconciler
from agent.recover import WayBack
from agent.results import Deferrals, Result
from agent.stage import StageError, prepare_root
from agent.sweep import Bounds, Schedule
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
PASS_BACKOFF = (1.0, 20.0)
LAUNCH_BACKOFF = (10.0, 300.0)
#: Seconds for finding the database: there is another pass, and whoever asks what goes on is not to wait for long.
FIND_SECONDS = 5.0
#: Seconds in which a pass that waits for a database which is away may still end by itself after SIGTERM.
STOP_SECONDS = 3.0
#: Between two searches for launch directories that are gone.
SEARCH_BACKOFF = (60.0, 3600.0)
#: The share of the time that may go into listing all launches of the database: new ones are asked for meanwhile.
LIST_SHARE = 0.001
#: Seconds after which they are listed as a whole in any case.
LIST_SECONDS = 600.0
#: Between two listings while the queue does not answer.
QUEUE_BACKOFF = (30.0, 600.0)
#: Seconds for which an answer of the queue is waited for at once.
MOMENT = 1.0
#: What is done while the queue is waited for.
_WAY_BACK = frozenset({"outbox", "event", "overflow", "sweep", "resume"})


@dataclass
class Parts:
    """What follows from a configuration, and is made anew when it changes."""

    config: Config
    launchpad: LaunchPad
    queue: Queue
    way_back: WayBack
    way_out: WayOut
    reconciler: Reconciler
    #: `Config.own`, where the status file is.
    own: Path


def make_parts(
    config: Config,
    around: Callable[[Queue], Queue] = lambda queue: queue,
    *,
    timeout: float = 10.0,
) -> Parts:
    """Return the parts of an agent; nothing is connected yet. Raises FwagentError.

    What ``around`` makes of the queue is what is asked instead of it; ``timeout`` is as for the LaunchPad.
    """
    worker = config.fworker()
    launchpad = config.connect(timeout=timeout)
    outbox = prepare_root(config.launch.root)
    queue = around(open_queue(config))
    launchpad.submitted = queue.submitted
    launchpad.queue_name = f"{config.queue.type}:{config.launch.root}"
    rescued = Path.home() / rescue.PATH
    remote = mount_of(outbox).remote
    way_back = WayBack(launchpad, outbox, config.sync.max_report_size, rescued, remote=remote)
    return Parts(
        config,
        launchpad,
        queue,
        way_back,
        WayOut(launchpad, config, queue, worker),
        Reconciler(launchpad, queue, way_back, config),
        config.own(launchpad.where),
    )


def bounds(config: Config) -> Bounds:
    """Return how often launch directories are looked at."""
    sync = config.sync
    return Bounds(sync.fastest, sync.slowest, sync.sweep_rate, sync.watched)


class Agent:
    """``fwagent run``."""

    def __init__(self, config_path: Path | None) -> None:
        self._config_path = config_path
        config = load_config(config_path)
        restrict(group_readable=config.launch.group_readable)
        self._wake = Wake()
        self._parts = make_parts(config, self._beside, timeout=FIND_SECONDS)
        self._worker = self._parts.config.fworker().name
        self._health = Health(self._worker)
        self._health.follow(read_status(self._parts.own))
        self._status_file = StatusFile()
        self._notifier = Notifier()
        self._heartbeat = Heartbeat()
        self._metrics: Metrics | None = None
        self._lease = LeaseKeeper(self._worker, self._health)
        self._watch = Watch(self._wake)
        # Its timers only set a flag, so they need no threads of their own.
        self._scheduler = BackgroundScheduler(
            timezone="UTC", executors={"default": DebugExecutor()}
        )
        self._log = get_logger()
        # What may still be told about, as of the last sweep and the launches since: a cache.
        self._places: dict[int, str] = {}
        self._looks = Schedule(bounds(self._parts.config))
        # The launches that the last pass has looked at, and when all of them are to be listed again.
        self._looked: Collection[int] | None = None
        self._list_due = 0.0
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
        # The driver cannot be called off; being killed is safe at any time.
        self._leaving = threading.Timer(STOP_SECONDS, self._leave)
        self._leaving.daemon = True
        self._passes = Backoff(*PASS_BACKOFF)
        self._launches = Backoff(*LAUNCH_BACKOFF)
        self._listings = Backoff(*QUEUE_BACKOFF)
        self._searches = Backoff(*SEARCH_BACKOFF)
        # The launches that were gone when they were last looked at.
        self._sought: set[int] = set()
        self._faults, self._silence, self._stuck = Trouble(), Trouble(), Trouble()
        self._unmeasured, self._unshown = Trouble(), Trouble()

    def run(self) -> None:
        """Turn until SIGTERM or SIGINT; SIGHUP reads the configuration anew."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_signal)
        self._use_events()
        self._schedule()
        self._scheduler.start()
        self._log.info("started", worker=self._worker, database=self._parts.launchpad.where)
        try:
            while not self._stopping:
                self._turn()
                self._wait()
        finally:
            self._end()

    def _use_events(self) -> None:
        """Begin or cease to watch, as the configuration says."""
        wanted = self._parts.config.sync.events
        if wanted != self._watch.used:
            (self._watch.start if wanted else self._watch.stop)()

    def _beside(self, queue: Queue) -> Queue:
        return Beside(
            queue,
            meanwhile=self._meanwhile,
            answered=lambda: self._wake.call("answer"),
            settled=lambda: self._wake.call("resume"),
        )

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._wake.call("reload")
            return
        if self._stopping:
            # Asked twice: a pass may hang on a dead file server, and being killed is safe at any time.
            os._exit(128 + number)
        self._stopping = True
        if self._health.database_down_since is not None:
            self._leaving.start()
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
            self._due |= reasons - {"answer"}
            self._touched |= places
            # One that was asked in a pass has been taken there.
            if reasons != {"answer"} and (self._passes.remaining <= 0 or "reload" in reasons):
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
        if metrics := self._counting():
            metrics.took(time.monotonic() - begin)
        # A pass is over, whatever came of it. One that hangs says nothing.
        self._show()

    def _show(self) -> None:
        self._notifier.alive(self._health.line())
        trouble = self._status_file.write(self._parts.own, self._health, time.monotonic())
        if trouble and self._unshown.news(trouble, time.monotonic()):
            self._log.warning(trouble, hint="fwagent status shows what it was before")
        elif not trouble:
            self._unshown.over()
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
        self._obey(lease)
        if self._mode == modes.PAUSE:
            return
        with self._work() as (due, touched, result):
            if "start" in due:
                due |= {"sweep", "reserve", "reconcile"}
                # Indexes only make it quicker; the right to create them may be missing.
                with suppress(DatabaseRefused):
                    self._parts.launchpad.prepare()
            self._look(due, touched, result)
            self._reconcile(due, result)
            self._launch(due, result)
            self._parts.way_out.tell_passed_over(result)

    @contextmanager
    def _work(
        self, only: frozenset[str] | None = None
    ) -> Iterator[tuple[set[str], set[str], Result]]:
        """Yield what is due, of these reasons alone, and a result to be told of; what fails stays due."""
        due = self._due if only is None else self._due & only
        self._due, touched, self._touched = self._due - due, self._touched, set()
        self._looked = None
        self._parts.way_back.progress = self._progress
        result = Result()
        done = False
        try:
            yield due, touched, result
            done = True
        finally:
            if not done:
                self._due |= due
                self._touched |= touched
            self._tell(result, whole=done and "sweep" in due)

    def _meanwhile(self) -> bool:
        """Wait for a moment, and bring home what has come back; False if fwagent is to end."""
        reasons, places = self._wake.wait(MOMENT)
        self._due |= reasons - {"answer"}
        self._touched |= places
        self._parts.launchpad.keep_alive()
        if self._stopping or not self._due & _WAY_BACK:
            return not self._stopping
        with self._work(_WAY_BACK) as (due, touched, result):
            self._look(due, touched, result)
        if result.released or _ended(result):
            self._due.add("reserve")
        self._show()
        return True

    def _obey(self, lease: Lease) -> None:
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
        now = time.monotonic()
        whole = bool(due & {"start", "overflow"})
        listed: Mapping[int, str] = {}
        before = self._places
        if whole or "sweep" in due:
            listed = self._list(whole)
        elif "resume" in due:
            self._parts.launchpad.resume(is_gone)
        quick: set[int] = set()
        places: Mapping[int, str] = self._places
        if not whole:
            quick = self._places.keys() & set(self._looks.due(now))
            news = (
                {key for key, place in self._places.items() if place in touched}
                if touched
                else set()
            )
            news |= {key for key, place in listed.items() if before.get(key) != place}
            places = {key: self._places[key] for key in quick | news}
            quick -= news
        self._looked = places.keys()
        # What could not be brought home is looked at again soon.
        again: Collection[int] = places.keys()
        try:
            way_back.recover(places, result, quick=self._looks.quick(quick))
            again = way_back.news
        finally:
            self._looks.looked(places, now, again)
        self._follow(result)
        if listed:
            way_back.close(listed, result)
        for entry in result.applied:
            if entry["state"] != "RUNNING":
                self._places.pop(entry["launch_id"], None)

    def _follow(self, result: Result) -> None:
        """Go after launch directories that were moved; to search for them is dear, so seldom."""
        way_back = self._parts.way_back
        # One that is gone for good must not delay the search for others.
        if way_back.missing - self._sought:
            self._searches.hurry()
        # Two that have changed places are found missing one after the other, and found again together.
        looked = self._looked or ()
        self._sought = {each for each in self._sought if each not in looked}
        self._sought |= way_back.missing & self._places.keys()
        if not self._sought or self._searches.remaining > 0:
            return
        moved = way_back.follow(self._places, self._parts.config.launch.root, self._sought)
        self._searches.failed()
        self._sought -= moved.keys()
        if moved:
            self._searches.succeeded()
            self._places.update(moved)
            way_back.recover(moved, result, outbox=False)
            for launch_id, place in moved.items():
                self._log.info("moved", launch_id=launch_id, launch_dir=place)
            result.deferred = [each for each in result.deferred if each["launch_id"] not in moved]

    def _list(self, whole: bool) -> dict[int, str]:
        """Ask the database which launches may still report; return those that it has told of."""
        way_back = self._parts.way_back
        # What a killed agent has left half done comes first: its locks hold others up.
        self._parts.launchpad.resume(is_gone)
        locks = self._parts.launchpad.locks(is_gone=is_gone)
        self._health.locks = seen(locks, self._health.locks)
        begin = time.monotonic()
        if whole or begin >= self._list_due:
            listed = self._places = way_back.places(self._worker)
            way_back.memory.keep(listed)
            end = time.monotonic()
            self._list_due = end + min(LIST_SECONDS, (end - begin) / LIST_SHARE)
        else:
            listed = way_back.new_places(self._worker)
            self._places = {**self._places, **listed}
        self._running &= self._places.keys()
        self._sought &= self._places.keys()
        self._looks.keep(self._places, begin)
        self._watch.watch_outbox(self._parts.config.private / "outbox")
        self._looks.watched(self._watch.watch_launches(self._places), begin)
        self._parts.queue.tend()
        return listed

    def _reconcile(self, due: set[str], result: Result) -> None:
        if "reconcile" not in due or self._listings.remaining > 0:
            return
        try:
            self._parts.reconciler.run(result)
        except QueueSilent as error:
            if self._stopping:
                return
            # Nothing follows from silence: neither is anything lost, nor does what comes back have to wait.
            if self._silence.news(error.title, time.monotonic()):
                self._log.warning("the queue does not answer", reason=error.title, hint=error.hint)
            self._listings.failed()
        else:
            self._listings.succeeded()
            if before := self._silence.over():
                self._log.info("the queue answers again", after=before)

    def _launch(self, due: set[str], result: Result) -> None:
        ended = _ended(result)
        if not self._may_launch(due, result, ended=ended):
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
        except QueueSilent:
            # The claim is made whole by whoever serves next.
            if not self._stopping:
                raise
        else:
            if len(result.deferred) > failed and not result.claimed:
                self._cannot_launch(result.deferred[-1]["reason"])
            else:
                self._launches.succeeded()
                if before := self._stuck.over():
                    self._log.info("launching again", after=before)
                    self._health.recovered(before)
        self._watch_also({each["launch_id"]: each["launch_dir"] for each in result.claimed})

    def _may_launch(self, due: set[str], result: Result, *, ended: bool) -> bool:
        if self._mode != modes.RUN:
            return False
        # Where one job has ended, a queue that was full has room for another.
        room = ended and self._parts.way_out.crowded
        if self._launches.remaining > 0 and not room:
            return False
        return bool(result.released or ended or "reserve" in due)

    def _watch_also(self, claimed: Mapping[int, str]) -> None:
        if claimed:
            self._places.update(claimed)
            self._looks.keep(self._places, time.monotonic())
        self._looks.watched(self._watch.watch_launches(self._places), time.monotonic())

    def _cannot_launch(self, reason: str) -> None:
        if self._stuck.news(reason, time.monotonic()):
            self._log.error("cannot launch", reason=reason)
        self._health.failed(reason)
        self._launches.failed()

    def _progress(self, done: int, total: int) -> None:
        """Tell how far a backlog of several batches is; a single one is over before anybody could ask."""
        under_way = done < total
        if not under_way and not self._health.backlog:
            return
        self._health.backlog = {"done": done, "total": total} if under_way else {}
        if under_way:
            self._log.info("applying a backlog", done=done, total=total)
        self._notifier.alive(self._health.line())
        self._status_file.write(self._parts.own, self._health, time.monotonic())

    def _tell(self, result: Result, *, whole: bool) -> None:
        latencies = result.latencies
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
        news = self._deferrals.take(result, whole=whole, looked=self._looked, places=self._places)
        for entry in result.deferred:
            (self._log.info if entry in news else self._log.debug)("deferred", **entry)
        latency = max(latencies.values(), default=None)
        if result.released:
            self._log.info("released", fw_ids=sorted(result.released), latency=latency)
        if metrics := self._counting():
            metrics.add(result, latencies)
        self._health.add(result, latency, open_launches=len(self._places))
        self._health.deferred = len(self._deferrals)
        self._health.deferrals = self._deferrals.newest(DEFERRALS)
        self._health.watched, self._health.watch_trouble = self._watch.count, self._watch.trouble
        self._health.events = self._watch.kind

    def _failed(self, error: FwagentError) -> None:
        pause = self._passes.failed()
        if self._faults.news(error.title, time.monotonic()):
            self._log.error(error.title, hint=error.hint, next_try_in=pause)
        self._health.failed(error.title, error.hint)

    def _succeeded(self) -> None:
        self._passes.succeeded()
        if before := self._faults.over():
            self._log.info("recovered", after=before)
            self._health.recovered(before)
        self._health.passed()
        self._notifier.ready()
        monitor = self._parts.config.monitor
        if monitor.heartbeat_url is not None and self._epoch:
            url = monitor.heartbeat_url.get_secret_value()
            self._heartbeat.beat(url, monitor.heartbeat_interval, time.monotonic())

    def _read_config_again(self) -> None:
        self._due.discard("reload")
        try:
            config = load_config(self._config_path)
            parts = make_parts(config, self._beside, timeout=FIND_SECONDS)
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
        self._looks = Schedule(bounds(parts.config))
        self._due.add("start")
        self._use_events()
        self._schedule()
        self._log.info("the new configuration is in force")

    def _keep_config(self, reason: str, hint: str) -> None:
        self._log.error("the old configuration stays in force", reason=reason, hint=hint)
        self._health.failed(f"the new configuration is not in force: {reason}", hint)

    def _end(self) -> None:
        self._notifier.stopping()
        self._scheduler.shutdown(wait=False)
        self._watch.stop()
        if self._health.database_down_since is None:
            with suppress(FwagentError):
                self._lease.give_back(self._parts.launchpad)
        self._parts.launchpad.close()
        self._leaving.cancel()
        self._say_stopped()

    def _leave(self) -> None:
        self._say_stopped()
        os._exit(0)

    def _say_stopped(self) -> None:
        self._health.mode = "stopped"
        self._write_metrics(last=True)
        self._status_file.write(self._parts.own, self._health, time.monotonic())
        self._log.info("stopped")


def _ended(result: Result) -> bool:
    return any(entry["state"] != "RUNNING" for entry in result.applied)
