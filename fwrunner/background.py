"""``_background_tasks``: tasks that run again and again beside the others, each list in a thread.

An entry is FireWorks' BackgroundTask: ``tasks``, ``num_launches`` (0: without limit), ``sleep_time``
(seconds from the end of one run to the next), ``run_on_finish`` (run once more after the last task).
They get the stored spec, and what they return is ignored. Facts: FireWorks 2.1.4,
``fireworks/core/rocket.py`` and ``features/background_task.py``. Unlike there, one that fails does
not take the results of the others with it, and a process that it has started ends with the job.
"""

import os
import threading
from typing import Any, Dict

from fwrunner.action import Fault
from fwrunner.places import say
from fwrunner.tasks import RunTask, load
from fwrunner.tasks.child import end_child_of

Spec = Dict[str, Any]

# Seconds that a run in progress has to end by itself when the tasks are done, and when it was told to.
_PATIENCE = 5.0
_GRACE = 1.0


class Background:
    """The background tasks of a spec; raises Fault if one cannot be loaded."""

    def __init__(self, spec: Spec) -> None:
        entries = spec.get("_background_tasks") or []
        if not isinstance(entries, list):
            raise Fault(f"the spec's _background_tasks is no list, but {entries!r:.80}")
        self._pid = os.getpid()
        self._loops = [_Loop(entry, number, spec) for number, entry in enumerate(entries)]

    def start(self) -> None:
        for loop in self._loops:
            try:
                loop.start()
            except RuntimeError as error:
                say(f"{loop.name} does not run: {error}")

    def stop(self, patience: float = 0.0) -> None:
        """Stop all; those that are running may do so for some seconds more."""
        if os.getpid() != self._pid:
            return  # in a process that a task forked: they run in the other one
        for loop in self._loops:
            loop.stopped.set()
        for loop in self._loops:
            loop.end(patience)

    def finish(self) -> None:
        """Stop all without hurry, and run once more those that ask for it."""
        self.stop(_PATIENCE)
        for loop in self._loops:
            if loop.run_on_finish:
                loop.run_once()


class _Loop(threading.Thread):
    """One entry: its tasks, in a thread of their own."""

    def __init__(self, entry: Any, number: int, spec: Spec) -> None:
        super().__init__(name=f"_background_tasks[{number}]", daemon=True)
        if not isinstance(entry, dict) or "tasks" not in entry:
            raise Fault(f"the spec's {self.name} has no 'tasks'")
        tasks = entry["tasks"] if isinstance(entry["tasks"], list) else [entry["tasks"]]
        self._tasks = [_loaded(task, self.name) for task in tasks]
        self._spec = spec
        self._launches = _number(entry, "num_launches", 0, self.name)
        self._sleep_time = _number(entry, "sleep_time", 60, self.name)
        self._ended = False
        self.run_on_finish = bool(entry.get("run_on_finish"))
        self.stopped = threading.Event()

    def run(self) -> None:
        launches = 0
        while not self.stopped.is_set() and self.run_once():
            launches += 1
            if launches == self._launches:
                return
            self.stopped.wait(self._sleep_time)

    def run_once(self) -> bool:
        """Run the tasks one after the other; tell on stderr, and by the result, if that failed."""
        try:
            for run_task in self._tasks:
                run_task(self._spec)
        except (Exception, SystemExit) as error:
            if not self._ended:
                say(f"{self.name} failed, and is not run again: {type(error).__name__}: {error}")
            return False
        return True

    def end(self, patience: float) -> None:
        if self.ident is None:
            return
        self.join(patience)
        if self.is_alive():
            self._ended = True
            end_child_of(self)
            self.join(_GRACE)


def _loaded(task: Any, name: str) -> RunTask:
    try:
        return load(task)
    except Fault as error:
        raise Fault(f"in the spec's {name}, {error}") from error


def _number(entry: Spec, key: str, default: float, name: str) -> float:
    value = entry.get(key, default)
    if not isinstance(value, (int, float)) or not 0 <= value <= threading.TIMEOUT_MAX:
        raise Fault(f"in the spec's {name}, {key!r} is {value!r:.40}, no number from 0 on")
    return value
