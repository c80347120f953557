"""The process outside of the one that runs the tasks. It alone writes, so it always leaves a report.

A task may take its interpreter down (a segmentation fault, ``os._exit``, no memory left) or keep it from
doing anything else. So the tasks run in a child, forked before what they need is imported. They tell
what they do through a ``Channel``; the supervisor pings, passes signals on, and tells the end. Should it be
killed itself, a third process kills the tasks.
"""

import os
import select
import signal
import sys
import time
from typing import Any, Callable, Dict, List, NoReturn, Optional

from fwrunner import node, protocol, signals
from fwrunner.action import failure
from fwrunner.channel import Channel
from fwrunner.launch import Launch, NothingToRun, check_meant
from fwrunner.places import say

#: Exit status of the process.
STATUS = {"COMPLETED": 0, "FIZZLED": 1}
NOTHING_TO_RUN = 2

# Seconds beyond those in which a task has to stop: for what it does then, for us to see it.
_MARGIN = 3.0
# Seconds after a signal that ends the job at which a report is left, whatever still runs: Torque kills after 2.
_REPORT = 1.0
# Seconds after a signal, and between two nudges from then on.
_NUDGE = 0.2
_NUDGE_AGAIN = 1.0
# Seconds that a process which the tasks left behind has to stop, and between two looks whether it did.
_LEFT_BEHIND = 2.0
_LOOK = 0.05
# Looks, at most, until no more processes of the tasks are found.
_ROUNDS = 20

# In the environment of all that a start of a job starts: what it left behind is known by that.
_MARK = "FWAGENT_START"

# What a terminal sends to all that is in its foreground.
_KEYS = (signal.SIGINT, signal.SIGQUIT)


def end_here(status: int) -> NoReturn:
    """End this process with an exit status, without what is registered for the end of the interpreter."""
    _flush()
    os._exit(status)


def run(
    launch_dir: str,
    ping_interval: Optional[float] = None,
    end: Callable[[int], NoReturn] = end_here,
) -> int:
    """Run the Firework of a launch directory; return the exit status. May raise NothingToRun.

    ``end`` ends the child that runs the tasks, with an exit status: ``sys.exit``, if it is called by a
    program of its own, so that what tasks registered for the end of the interpreter is done.
    """
    _open_what_is_closed()
    directory = _absolute(launch_dir)
    # Tasks may run others.
    meant = os.environ.pop(protocol.LAUNCH_VARIABLE, "")
    there = protocol.read_report(directory)
    if isinstance(there, protocol.Report) and there.final:
        check_meant(there.launch_id, meant)
        return _ended_before(there)
    launch = Launch(directory)
    check_meant(launch.launch_id, meant)
    done = launch.ended()
    if done is not None:
        return _ended_before(done)
    if launch.damage:
        return _without_tasks(launch, launch.damage)
    channel = Channel()
    bell = signals.Bell()
    # With a terminal, a process group of its own could not read from it, and Ctrl-C reaches both.
    own_group = not _terminal()
    mark = f"{launch.launch_id}.{os.urandom(8).hex()}"
    _flush()  # else both would write it
    try:
        pid = os.fork()
    except OSError as error:
        bell.listen()
        bell.close()
        channel.close()
        return _without_tasks(launch, f"no process could be started for the tasks: {error}")
    if pid == 0:
        bell.close()
        channel.for_the_tasks()
        os.environ[_MARK] = mark
        end(_run_tasks(launch, channel))
    tasks = _Tasks(pid, own_group, f"{_MARK}={mark}")
    _guard(channel, tasks)
    supervisor = _Supervisor(launch, channel, bell, tasks)
    try:
        return supervisor.watch(ping_interval or launch.ping_interval)
    finally:
        bell.close()
        channel.close()


def _ended_before(done: protocol.Report) -> int:
    say(f"launch {done.launch_id} has ended as {done.state} before; nothing is run again")
    return STATUS[done.state]


def _without_tasks(launch: Launch, why: str) -> int:
    say(why)
    launch.start(**_facts())
    launch.finish("FIZZLED", failure(why, None, f"{why}\n", OSError(why)))
    return STATUS["FIZZLED"]


def _run_tasks(launch: Launch, channel: Channel) -> int:
    """Run the tasks, in the child."""
    # The supervisor tells of the start meanwhile: what most tasks need next costs no time now.
    from fwrunner.runner import Run

    with signals.Signals() as received:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.SIGNALS)
        channel.wait()
        state, action = Run(launch, channel, received).execute()
        channel.tell(state=state, fwaction=action)
    return STATUS[state]


def _guard(channel: Channel, tasks: "_Tasks") -> None:
    """Start a process that kills the tasks, with all that belongs to them, when the supervisor dies.

    Nobody would hear of them, and the directory may be started again. It takes a process of its own: one that is
    killed can do nothing, tasks need not come back to Python, and the kernel signals one process (group) only.
    """
    try:
        pid = os.fork()
    except OSError:
        return  # no process is left for it: the job runs without
    if pid:
        return
    try:
        os.setpgid(0, 0)  # what ends the job must not end it first
        signal.pthread_sigmask(signal.SIG_BLOCK, (*range(1, 32), *signals.SIGNALS))
        if channel.supervisor_has_died():
            tasks.kill_from_outside()
    finally:
        os._exit(0)


class _Tasks:
    """The process of the tasks, with all that belongs to it."""

    def __init__(self, pid: int, own_group: bool, mark: str) -> None:
        self.pid = pid
        self._mark = mark
        self._own_group = own_group
        self._known: Dict[int, node.Process] = {}
        #: What waitpid() said of it, once it has ended.
        self.ended: Optional[int] = None
        if own_group:
            try:
                os.setpgid(pid, pid)  # before a signal can come that is to reach all of it
            except OSError:
                pass  # it has ended already

    def look(self) -> bool:
        """Tell whether it has ended."""
        if self.ended is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.ended = status
        return self.ended is not None

    def family(self) -> Dict[int, node.Process]:
        """Return all its processes: those it has now, and of those it had when we looked before what still runs.

        A command that ``timeout`` or a shell with job control starts is in another process group, and has
        another parent once they have ended.
        """
        self._known = node.family(self.pid, self._known)
        return self._known

    def find(self) -> None:
        """Look for what is in another session and has lost its parent before we looked: by its environment."""
        self._known.update(node.marked(self._mark))

    def signal(self, number: int) -> None:
        """Send a signal to all its processes, so that commands get it too."""
        family = self.family()
        if self._own_group:
            _send(os.killpg, self.pid, number)
        elif self.ended is None:
            _send(os.kill, self.pid, number)
            if number in _KEYS:
                return  # without a process group of their own, the others have got it as we have
        for pid, process in family.items():
            if pid != self.pid and not (self._own_group and process.group == self.pid):
                _send(os.kill, pid, number)

    def nudge(self) -> None:
        """Have it see the signal that has reached it, should it have gone to sleep meanwhile."""
        self.family()  # what it has started since
        if self.ended is None:
            os.kill(self.pid, signals.NUDGE)

    def kill(self) -> None:
        """Kill all its processes."""
        self.signal(signal.SIGKILL)
        if self.ended is None:
            self.ended = os.waitpid(self.pid, 0)[1]

    def kill_from_outside(self) -> None:
        """Kill all its processes, which are not ours to wait for.

        They are stopped first: who is killed while it starts another process leaves that one without a parent,
        and so without a trace.
        """
        self.find()
        for _ in range(_ROUNDS):
            before = set(self._known)
            self.signal(signal.SIGSTOP)
            if before and set(self.family()) == before:
                break
        self.signal(signal.SIGKILL)

    def clear(self) -> None:
        """End what it left behind."""
        self.find()
        self.signal(signal.SIGTERM)
        until = time.monotonic() + _LEFT_BEHIND
        while self._left() and time.monotonic() < until:
            time.sleep(_LOOK)
        self.signal(signal.SIGKILL)

    def _left(self) -> bool:
        family = self.family()
        if family:
            return not all(process.dead for process in family.values())
        return self._own_group and _send(os.killpg, self.pid, 0)  # there may be no /proc

    def usage(self) -> Dict[str, Any]:
        """Return the memory in bytes and the seconds of CPU of all its processes."""
        members = self.family().values()
        if not members:
            return {}
        return {"rss": sum(i.rss for i in members), "cpu": round(sum(i.cpu for i in members), 2)}


def _send(kill: Callable[[int, int], None], to: int, number: int) -> bool:
    try:
        kill(to, number)
    except OSError:
        return False  # nobody is left
    return True


class _Supervisor:
    """Waits for what the tasks tell, for signals, for the time of the next ping."""

    def __init__(self, launch: Launch, channel: Channel, bell: signals.Bell, tasks: _Tasks) -> None:
        self._launch = launch
        self._channel = channel
        self._bell = bell
        self._tasks = tasks
        self._task: int = launch.resume["_task_n"] if launch.resume else 0
        self._signal = 0
        self._kill_at: Optional[float] = None
        self._nudge_at: Optional[float] = None
        self._report_at: Optional[float] = None
        self._killed = False
        self._state: Optional[str] = None
        self._told = False
        self._facts = _facts()

    def watch(self, ping_interval: float) -> int:
        """Return the exit status, when the tasks have ended and the report is left."""
        self._channel.for_the_supervisor()
        self._bell.listen()
        self._launch.start(task=self._task, **self._facts)
        self._channel.go_on()
        ping_at = time.monotonic() + ping_interval
        while not self._tasks.look():
            self._wait(ping_at)
            if self._report_is_due():
                self._listen()
                if self._state is None:
                    self._finish("FIZZLED", self._died())
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._killed = True
                self._tasks.kill()
            if self._nudge_at is not None and time.monotonic() >= self._nudge_at:
                self._nudge_at = time.monotonic() + _NUDGE_AGAIN
                self._tasks.nudge()
            if self._state is None and time.monotonic() >= ping_at:
                ping_at = time.monotonic() + ping_interval
                self._ping(**self._tasks.usage())
        self._channel.let_go()
        self._listen()
        if self._state is None:
            self._finish("FIZZLED", self._died())
            self._tasks.clear()
        elif self._signal:
            self._tasks.clear()
        return STATUS[str(self._state)] if self._told else STATUS["FIZZLED"]

    def _report_is_due(self) -> bool:
        due = self._report_at is not None and time.monotonic() >= self._report_at
        return due and self._state is None

    def _wait(self, ping_at: float) -> None:
        due = [self._kill_at, self._nudge_at]
        if self._state is None:
            due += [ping_at, self._report_at]
        times = [at for at in due if at is not None]
        timeout = max(0.0, min(times) - time.monotonic()) if times else None
        heard: List[Any] = [self._bell, self._channel]
        ready = select.select(heard, [], [], timeout)[0]
        if self._bell in ready:
            came = self._bell.came()
            for position, number in enumerate(came):
                if number != signals.SUSPEND or signals.RESUME not in came[position:]:
                    self._pass_on(number)
        if self._channel in ready:
            self._listen()

    def _pass_on(self, number: int) -> None:
        if number in (signals.SUSPEND, signals.RESUME):
            self._tasks.signal(number)
            if number == signals.SUSPEND:
                # Its own default would do nothing in a process group that no shell looks after.
                os.kill(os.getpid(), signal.SIGSTOP)
        if number not in signals.SIGNALS:
            return  # SIGCHLD: it has served its purpose
        self._signal = self._signal or number
        self._tasks.signal(number)
        kill_at = time.monotonic() + signals.grace(number) + signals.STOP + _MARGIN
        self._kill_at = min(kill_at, self._kill_at or kill_at)
        self._nudge_at = time.monotonic() + _NUDGE
        if number not in signals.WARNINGS and self._report_at is None:
            self._report_at = time.monotonic() + _REPORT

    def _listen(self) -> None:
        for told in self._channel.told():
            if self._state is not None:
                self._kill_at = time.monotonic()  # the report has been left: nothing may go on
                continue
            if "state" in told:
                self._finish(told["state"], told["fwaction"])
                continue
            self._task = told["task"]
            if told["checkpoint"] is not None:
                self._launch.update(checkpoint=told["checkpoint"])
            self._channel.go_on()

    def _finish(self, state: str, action: Dict[str, Any]) -> None:
        self._state = state
        self._ping()
        self._told = self._launch.finish(state, action)

    def _ping(self, **usage: Any) -> None:
        self._launch.ping(task=self._task, **self._facts, **usage)

    def _died(self) -> Dict[str, Any]:
        """Return the action of a Firework whose tasks' process has ended without telling one."""
        tasks = self._launch.firework["spec"]["_tasks"]
        task = tasks[self._task] if tasks else None
        name = task.get("_fw_name") if isinstance(task, dict) else None
        why = self._cause()
        say(why)
        message = f"task {self._task + 1} of {len(tasks)} ({name}): {why}"
        return failure(message, task, f"{why}\n", RuntimeError(why))

    def _cause(self) -> str:
        if self._signal:
            ended = signals.ended_by(self._signal)
            if self._killed:
                return f"{ended}; it did not stop, and was killed"
            return (
                ended if self._tasks.ended is not None else f"{ended}; it had not stopped by then"
            )
        status = self._tasks.ended
        assert status is not None
        if not os.WIFSIGNALED(status):
            return f"it ended the process of the tasks with exit status {os.WEXITSTATUS(status)}"
        number = os.WTERMSIG(status)
        cause = f"the process of the tasks was killed by {signals.name_of(number)}"
        if number == signal.SIGKILL:
            cause += f", perhaps because memory ran out{_peak()}"
        return cause


def _facts() -> Dict[str, Any]:
    return {"host": os.uname().nodename, "pid": os.getpid(), "job_id": node.job_id()}


def _peak() -> str:
    """Return in words how much memory the largest process of the tasks has had."""
    try:
        import resource
    except (ImportError, OSError):
        return ""  # Python's library is gone by now
    return f" (its peak was {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024} MB)"


def _terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False


def _absolute(launch_dir: str) -> str:
    try:
        return os.path.abspath(launch_dir)
    except OSError as error:
        raise NothingToRun(
            f"the current directory is gone: {error.strerror}",
            "give the absolute path of the launch directory",
        ) from None


def _open_what_is_closed() -> None:
    # The next files to be opened, the channel, would be taken for a command's stdin or stdout.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
            os.set_inheritable(descriptor, True)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # closed, or on a full disk
