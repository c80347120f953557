"""The tasks of one Firework: run them one after the other, and add up what they give."""

import json
import os
import sys
from typing import Any, Dict, List, Tuple

from fwrunner import protocol
from fwrunner.action import SKIPS, Action, Fault, apply_mods, failure, plain, read_action
from fwrunner.channel import Channel
from fwrunner.launch import Launch
from fwrunner.places import say, to_stderr
from fwrunner.signals import Signals, Terminated
from fwrunner.tasks import RunTask, canonical, load

# Of a stack trace, what is told at most: its end.
_MAX_TRACE = 1000000

# FireWorks acts on these; fwrunner does not, so far.
_UNSUPPORTED = (
    *("_background_tasks", "_recovery", "_files_in", "_files_out", "_pass_job_info"),
    *("_preserve_fworker", "_add_fworker", "_add_launchpad_and_fw_id"),
)


class Run:
    """The tasks of one Firework, and what they have given so far."""

    def __init__(self, launch: Launch, channel: Channel, signals: Signals) -> None:
        self.launch = launch
        self.channel = channel
        self.signals = signals
        spec = launch.firework["spec"]
        # Apart from those in the spec, which a task may alter.
        self.tasks: List[Any] = [canonical(i) for i in json.loads(json.dumps(spec["_tasks"]))]
        self.spec: Dict[str, Any] = dict(spec, _fw_env=_worker_env(launch.firework))
        self.number = 0
        self.first = 0
        self.given: Dict[str, Any] = {"stored_data": {}, "update_spec": {}, "mod_spec": []}
        if launch.resume:
            self._resume(launch.resume)

    def execute(self) -> Tuple[str, Action]:
        """Run the tasks; return the final state and action, whatever happens."""
        try:
            os.chdir(self.launch.directory)
            return "COMPLETED", self._all_tasks()
        except BaseException as error:
            if os.getpid() != self.signals.pid:
                raise  # in a process that a task forked: it has nothing to tell
            return "FIZZLED", self._failure(error)

    def _all_tasks(self) -> Action:
        ignored = [key for key in _UNSUPPORTED if self.spec.get(key)]
        if ignored:
            say(f"not supported yet, so without effect: {', '.join(ignored)}")
        action = read_action(None)
        for number, run_task in list(enumerate(self._loaded()))[self.first :]:
            self.number = number
            self._checkpoint()
            action = self._one_task(run_task)
            if any(action[key] for key in SKIPS):
                break
        return action

    def _checkpoint(self) -> None:
        """Tell which task comes, and from where the run could go on; wait until that is on the disk."""
        checkpoint = {f"_all_{key}": plain(value) for key, value in self.given.items()}
        checkpoint["_task_n"] = self.number
        size = len(json.dumps(checkpoint))
        fits = size <= protocol.MAX_CHECKPOINT_SIZE
        if not fits:
            # That of an earlier task is as good, if less is saved by it.
            say(f"no checkpoint before task {self.number + 1}: it would have {size} bytes")
        self.channel.tell(task=self.number, checkpoint=checkpoint if fits else None)
        self.channel.wait()

    def _resume(self, checkpoint: Dict[str, Any]) -> None:
        """Go on where an earlier start was cut: with this task, and what those before it gave."""
        self.first = checkpoint["_task_n"]
        for key in self.given:
            self.given[key] = checkpoint[f"_all_{key}"]
        self.spec.update(self.given["update_spec"])
        apply_mods(self.spec, self.given["mod_spec"])

    def _loaded(self) -> List[RunTask]:
        if not self.tasks:
            raise Fault("the Firework has no tasks")
        loaded = []
        for number, task in enumerate(self.spec["_tasks"]):
            self.number = number
            with self.signals.armed():
                loaded.append(load(task))
        return loaded

    def _one_task(self, run_task: RunTask) -> Action:
        """Run one task; return its action with all that was given so far."""
        with self.signals.armed():
            raw = read_action(run_task(self.spec))
            if os.getpid() != self.signals.pid:
                sys.exit()
            action: Action = {key: plain(value, (key,)) for key, value in raw.items()}
        self.given["stored_data"].update(action["stored_data"])
        self.given["update_spec"].update(action["update_spec"])
        self.given["mod_spec"].extend(action["mod_spec"])
        # The next task gets the very objects, as in FireWorks; the report has copies of its own.
        self.spec.update(raw["update_spec"])
        apply_mods(self.spec, raw["mod_spec"])
        action.update(self.given)
        size = len(json.dumps(action))
        if size > protocol.MAX_ACTION_SIZE:
            raise Fault(
                f"the results are {size} bytes of JSON; at most {protocol.MAX_ACTION_SIZE} can be "
                "told: leave large data in files"
            )
        return action

    def _failure(self, error: BaseException) -> Action:
        import traceback

        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        to_stderr(trace)
        task = self.tasks[self.number] if self.tasks else None
        message = "runtime error during task"
        if isinstance(error, (Fault, Terminated, KeyboardInterrupt)):
            name = task.get("_fw_name") if isinstance(task, dict) else None
            message = f"task {self.number + 1} of {len(self.tasks)} ({name}): {error}"
        return failure(message, task, trace[-_MAX_TRACE:], error)


def _worker_env(firework: Dict[str, Any]) -> Dict[str, Any]:
    try:
        env = firework["launches"][-1]["fworker"]["env"]
    except (KeyError, IndexError, TypeError):
        env = None
    return env if isinstance(env, dict) else {}
