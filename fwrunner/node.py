"""What a compute node tells of itself: the scheduler's job, the time it has left, what processes use."""

import os
import time
from typing import Dict, List, NamedTuple, Optional

#: What schedulers put into the environment of a job: Slurm, PBS, LSF, SGE, Cobalt, Flux, OAR, LoadLeveler.
_JOB_IDS = (
    *("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "COBALT_JOBID"),
    *("FLUX_JOB_ID", "OAR_JOB_ID", "LOADL_STEP_ID"),
)
#: Where its end is told, in seconds since 1970: by the job script, Slurm (22.05 and later), Cobalt.
_END_TIMES = ("FWAGENT_JOB_END_TIME", "SLURM_JOB_END_TIME", "COBALT_ENDTIME")
#: Where schedulers tell the seconds that it may last, and a file that they write when it starts: Torque, OAR.
#: PBS Professional, LSF and SGE tell a job nothing of the kind.
_WALLTIMES = (("PBS_WALLTIME", "PBS_NODEFILE"), ("OAR_JOB_WALLTIME_SECONDS", "OAR_NODEFILE"))


class Process(NamedTuple):
    """A process: its parent, its process group, seconds of CPU, bytes of memory.

    The seconds include those of children that have ended and been waited for. ``started``, in ticks since the
    boot, tells it from a later one of the same number. One that is ``dead`` has not been waited for.
    """

    parent: int
    group: int
    started: int
    dead: bool
    cpu: float
    rss: int


def job_id() -> Optional[str]:
    """Return the scheduler's id of this job, if there is a scheduler."""
    return next((os.environ[name] for name in _JOB_IDS if os.environ.get(name)), None)


def time_left() -> Optional[float]:
    """Return the seconds until the scheduler ends this job, if that can be known."""
    ends = [_number(os.environ.get(name)) for name in _END_TIMES]
    ends += [_end(*names) for names in _WALLTIMES]
    end = next((end for end in ends if end is not None), None)
    return None if end is None else max(0.0, end - time.time())


def _end(walltime: str, written_at_start: str) -> Optional[float]:
    seconds = _number(os.environ.get(walltime))
    if seconds is None:
        return None
    try:
        return os.stat(os.environ[written_at_start]).st_mtime + seconds
    except (KeyError, OSError):
        return None


def _number(text: Optional[str]) -> Optional[float]:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 < number < 1e12 else None


def family(leader: int, known: Optional[Dict[int, Process]] = None) -> Dict[int, Process]:
    """Return a process, its descendants, and who else is in a process group that it leads.

    So, too, with those ``known`` from an earlier look: what has lost its parent since can be found by
    nothing else. Empty where there is no ``/proc``.
    """
    everyone = _processes()
    roots = {leader, *(known or ())}
    for pid, process in (known or {}).items():
        if pid in everyone and everyone[pid].started != process.started:
            roots.discard(pid)  # another one has its number by now
    children: Dict[int, List[int]] = {}
    for pid, process in everyone.items():
        children.setdefault(process.parent, []).append(pid)
    waiting = [pid for pid, process in everyone.items() if pid in roots or process.group in roots]
    found: Dict[int, Process] = {}
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found[pid] = everyone[pid]
            waiting.extend(children.get(pid, ()))
    return found


def marked(mark: str) -> Dict[int, Process]:
    """Return the processes that were started with ``mark``, as ``NAME=VALUE``, in their environment."""
    entry = mark.encode("ascii")
    everyone = _processes()
    return {pid: everyone[pid] for pid in everyone if entry in _environment(pid)}


def _environment(pid: int) -> List[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            return stream.read().split(b"\0")
    except OSError:
        return []  # it is another user's, or has ended meanwhile


def _processes() -> Dict[int, Process]:
    # One look at all of them: what tells of children alone needs a look at each thread.
    processes = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return {}
    for name in names:
        if name.isdigit():
            process = _process(name)
            if process is not None:
                processes[int(name)] = process
    return processes


def _process(name: str) -> Optional[Process]:
    try:
        with open(f"/proc/{name}/stat", "rb") as stream:
            # The command, in parentheses, may hold anything. proc(5) numbers the fields from 1.
            fields = stream.read().rpartition(b")")[2].split()
        ticks = sum(int(field) for field in fields[11:15])
        return Process(
            parent=int(fields[1]),
            group=int(fields[2]),
            started=int(fields[19]),
            dead=fields[0] in (b"Z", b"X"),
            cpu=ticks / os.sysconf("SC_CLK_TCK"),
            rss=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        )
    except (OSError, ValueError, IndexError):
        return None  # it has ended meanwhile
