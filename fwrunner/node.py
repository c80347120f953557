"""What a compute node tells of itself: the scheduler's job, the time it has left, what processes use."""

import os
import time
from typing import Dict, List, NamedTuple, Optional

#: What schedulers put into the environment of a job: Slurm, PBS, LSF, SGE, Cobalt, Flux, OAR, LoadLeveler.
_JOB_IDS = (
    *("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "COBALT_JOBID"),
    *("FLUX_JOB_ID", "OAR_JOB_ID", "LOADL_STEP_ID"),
)
#: Where they tell its end, in seconds since 1970: Slurm (22.05 and later), Cobalt.
_END_TIMES = ("SLURM_JOB_END_TIME", "COBALT_ENDTIME")


class Process(NamedTuple):
    """A running process: its parent, its process group, seconds of CPU, bytes of memory.

    The seconds include those of children that have ended and been waited for.
    """

    parent: int
    group: int
    cpu: float
    rss: int


def job_id() -> Optional[str]:
    """Return the scheduler's id of this job, if there is a scheduler."""
    return next((os.environ[name] for name in _JOB_IDS if os.environ.get(name)), None)


def time_left() -> Optional[float]:
    """Return the seconds until the scheduler ends this job, if it has told."""
    for name in _END_TIMES:
        try:
            return max(0.0, float(os.environ[name]) - time.time())
        except (KeyError, ValueError):
            continue
    return None


def family(leader: int) -> Dict[int, Process]:
    """Return a process, its descendants, and who else is in a process group that it leads.

    Empty where there is no ``/proc``.
    """
    everyone = _processes()
    children: Dict[int, List[int]] = {}
    for pid, process in everyone.items():
        children.setdefault(process.parent, []).append(pid)
    waiting = [pid for pid, process in everyone.items() if leader in (pid, process.group)]
    found: Dict[int, Process] = {}
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found[pid] = everyone[pid]
            waiting.extend(children.get(pid, ()))
    return found


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
            cpu=ticks / os.sysconf("SC_CLK_TCK"),
            rss=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        )
    except (OSError, ValueError, IndexError):
        return None  # it has ended meanwhile
