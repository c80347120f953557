"""The tasks of one Firework: run them one after the other, and add up what they give."""

import contextlib
import json
import os
import sys
from typing import Any, Dict, Iterator, List, Optional, Tuple

from fwrunner import protocol
from fwrunner.action import SKIPS, Action, Fault, apply_mods, failure, read_action
from fwrunner.action_file import ActionFile
from fwrunner.channel import Channel
from fwrunner.launch import Launch
from fwrunner.places import say, to_stderr
from fwrunner.plain import UNSERIALIZABLE, plain, type_name
from fwrunner.signals import Signals, Terminated
from fwrunner.tasks import RunTask, canonical, load

# Of a stack trace, what is told at most: its end.
_MAX_TRACE = 1000000

# Keys of the spec that `fwrunner.worker` and `fwrunner.handover` act on. Like other modules that few Fireworks
# need, these are imported for them only: each file opened counts on a parallel file system.
_ATTRIBUTES = ("_add_fworker", "_add_launchpad_and_fw_id")
_HANDOVER = ("_files_in", "_files_out", "_pass_job_info", "_preserve_fworker")

# Places of results that cannot be stored as they are, of those that are told.
_MAX_PROBLEMS = 50


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
        self.number: Optional[int] = None
        self.given: Dict[str, Any] = {"stored_data": {}, "update_spec": {}, "mod_spec": []}
        self.action_file: Optional[ActionFile] = None

    def execute(self) -> Tuple[str, Action]:
        """Run the tasks; return the final state and action, whatever happens."""
        try:
            os.chdir(self.launch.directory)
            return "COMPLETED", self._handed_over(self._all_tasks())
        except BaseException as error:
            if os.getpid() != self.signals.pid:
                raise  # in a process that a task forked: it has nothing to tell
            return "FIZZLED", self._failure(error)

    def _all_tasks(self) -> Action:
        with self.signals.armed():
            loaded = self._prepared()
        with contextlib.ExitStack() as beside:
            background = self._background(beside)
            action = self._each(loaded)
            if background:
                self._finish(background)
        return action

    def _prepared(self) -> List[Tuple[int, RunTask]]:
        """Return the tasks to run, with their numbers, when all that they need is in its place."""
        if not self.tasks:
            raise Fault("the Firework has no tasks")
        checkpoint = self.launch.resume or self.spec.get("_recovery")
        loaded = self._recovered(checkpoint) if checkpoint else self._loaded(0)
        # What an earlier launch left here is no news of this one; what comes next may be.
        self.action_file = ActionFile(self.launch.directory)
        if self._hands_over():
            from fwrunner import handover

            handover.check(self.spec)
            if not checkpoint:
                handover.take_files(self.spec, self.launch.directory)
        return loaded

    def _recovered(self, checkpoint: Dict[str, Any]) -> List[Tuple[int, RunTask]]:
        """Go on where an earlier launch, or an earlier start of this one, was cut."""
        from fwrunner.recovery import copy_previous, restore_spec, start_of

        start = start_of(checkpoint, len(self.tasks))
        loaded = self._loaded(start.number)
        self.given = {
            key: plain(value) for key, value in start._asdict().items() if key in self.given
        }
        restore_spec(self.spec, start)
        if not self.launch.resume:
            copy_previous(checkpoint, self.launch.directory)
        return loaded

    def _loaded(self, first: int) -> List[Tuple[int, RunTask]]:
        given = self._attributes()
        loaded = []
        for number, task in enumerate(self.spec["_tasks"][first:], first):
            self.number = number
            loaded.append((number, load(task, given)))
        self.number = None
        return loaded

    def _attributes(self) -> Dict[str, Any]:
        if not any(self.spec.get(key) for key in _ATTRIBUTES):
            return {}
        from fwrunner.worker import attributes

        return attributes(self.launch.firework)

    def _background(self, beside: contextlib.ExitStack) -> Any:
        """Start the background tasks, which few Fireworks have, and stop them at the end."""
        if not self.spec.get("_background_tasks"):
            return None
        from fwrunner.background import Background

        background = Background(self.launch.firework["spec"])
        beside.callback(background.stop)
        background.start()
        return background

    def _finish(self, background: Any) -> None:
        try:
            with self.signals.armed():
                background.finish()
        except (Terminated, KeyboardInterrupt) as error:
            say(f"the tasks are done; the background tasks were {error}")

    def _each(self, tasks: List[Tuple[int, RunTask]]) -> Action:
        action = read_action(None)
        for number, run_task in tasks:
            self.number = number
            self._checkpoint(number)
            action = self._one_task(run_task)
            if any(action[key] for key in SKIPS):
                break
        self.number = None
        return action

    def _checkpoint(self, number: int) -> None:
        """Tell which task comes, and from where the run could go on; wait until that is on the disk."""
        checkpoint = {f"_all_{key}": plain(value) for key, value in self.given.items()}
        checkpoint["_task_n"] = number
        size = len(json.dumps(checkpoint))
        fits = size <= protocol.MAX_CHECKPOINT_SIZE
        if not fits:
            # That of an earlier task is as good, if less is saved by it.
            say(f"no checkpoint before task {number + 1}: it would have {size} bytes")
        self.channel.tell(task=number, checkpoint=checkpoint if fits else None)
        self.channel.wait()

    def _one_task(self, run_task: RunTask) -> Action:
        """Run one task; return its action with all that was given so far."""
        with self.signals.armed():
            result = run_task(self.spec)
            if os.getpid() != self.signals.pid:
                sys.exit()
            written = self.action_file.read() if self.action_file else None
            raw = read_action(result if written is None else written)
            action = self._plain(raw)
        self.given["stored_data"].update(action["stored_data"])
        self.given["update_spec"].update(action["update_spec"])
        self.given["mod_spec"].extend(action["mod_spec"])
        # The next task gets the very objects, as in FireWorks; the report has copies of its own.
        self.spec.update(raw["update_spec"])
        apply_mods(self.spec, raw["mod_spec"])
        action.update(self.given)
        return _tellable(action)

    def _plain(self, raw: Action) -> Action:
        """Return an action as it can be told; where that is not all of it, say so."""
        problems: List[str] = []
        action: Action = {key: plain(value, key, problems) for key, value in raw.items()}
        if problems:
            known = self.given["stored_data"].get(UNSERIALIZABLE, [])
            told = [*known, *problems][:_MAX_PROBLEMS]
            action["stored_data"][UNSERIALIZABLE] = told
            say("not stored as it was given:\n  " + "\n  ".join(problems[:_MAX_PROBLEMS]))
        return action

    def _hands_over(self) -> bool:
        return any(self.spec.get(key) for key in _HANDOVER)

    def _handed_over(self, action: Action) -> Action:
        if not self._hands_over():
            return action
        from fwrunner.handover import hand_over

        return _tellable(hand_over(action, self.spec, self.launch.firework, self.launch.directory))

    def _failure(self, error: BaseException) -> Action:
        import traceback

        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        to_stderr(trace)
        task = None if self.number is None else self.tasks[self.number]
        message = "runtime error during task"
        if isinstance(error, (Fault, Terminated, KeyboardInterrupt)):
            message = str(error)
            if self.number is not None:
                name = task.get("_fw_name") if isinstance(task, dict) else None
                message = f"task {self.number + 1} of {len(self.tasks)} ({name}): {error}"
        action = failure(message, task, trace[-_MAX_TRACE:], error)
        try:
            return self._handed_over(action)
        except Exception as fault:
            say(f"nothing is handed over to the children: {fault}")
            return action


def _tellable(action: Action) -> Action:
    """Return an action as it can be reported: of one that is too large, the largest values are described only.

    Raises Fault if it is too large without them, too.
    """
    size = len(json.dumps(action))
    if size <= protocol.MAX_ACTION_SIZE:
        return action
    stored = action["stored_data"]
    problems = stored[UNSERIALIZABLE] = list(stored.get(UNSERIALIZABLE, []))
    size += len(UNSERIALIZABLE) + 8
    for length, place, holder, key in sorted(_members(action), key=lambda it: -it[0]):
        why = f"it has {length} bytes of JSON; leave large data in files"
        described = {UNSERIALIZABLE: {"type": type_name(holder[key]), "why": why}}
        problem = f"{place:.200} is a {type_name(holder[key])}: {why}"
        saved = length - len(json.dumps([described, problem]))
        if size <= protocol.MAX_ACTION_SIZE or saved <= 0:
            break
        holder[key] = described
        problems.append(problem)
        size -= saved
        say(f"not stored as it was given:\n  {problem}")
    size = len(json.dumps(action))
    if size > protocol.MAX_ACTION_SIZE:
        raise Fault(
            f"the results are {size} bytes of JSON; at most {protocol.MAX_ACTION_SIZE} can be "
            "told: leave large data in files"
        )
    return action


def _members(action: Action) -> Iterator[Tuple[int, str, Dict[str, Any], str]]:
    """Yield bytes, place, dict and key of the values that something else can stand for."""
    holders = [(name, action[name]) for name in ("stored_data", "update_spec")]
    for number, mod in enumerate(action["mod_spec"]):
        # What others take, such as a list to be pushed, has to be of its type.
        found = [name for name in ("_set", "_push") if isinstance(mod.get(name), dict)]
        holders += [(f"mod_spec[{number}].{name}", mod[name]) for name in found]
    for place, holder in holders:
        for key, value in holder.items():
            if key != UNSERIALIZABLE:
                yield len(json.dumps(value)), f"{place}.{key}", holder, key


def _worker_env(firework: Dict[str, Any]) -> Dict[str, Any]:
    try:
        env = firework["launches"][-1]["fworker"]["env"]
    except (KeyError, IndexError, TypeError):
        env = None
    return env if isinstance(env, dict) else {}
