"""What running jobs tell of themselves, by the last pings in their launch directories, for `fwagent status`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any

from agent.printable import printable, when
from fwcore.launchpad.records import OpenLaunch
from fwrunner.protocol import read_ping

#: Launches whose pings are read, the newest: `status` should not wait for thousands of files.
MAX_READ = 20
#: Of these, those that are shown to people.
_SHOWN = 5
#: Characters of a host's name or a job's id: a job could write anything.
_MAX_TEXT = 60

#: Bytes of a ping that is read.
_MAX_SIZE = 64 * 1024

#: What is shown of a ping.
TOLD = ("ping_time", "host", "pid", "job_id", "task", "rss", "cpu")


def pings(launches: Iterable[OpenLaunch]) -> list[dict[str, Any]]:
    """Return the newest running launches, at most 20, with what their jobs told last.

    Each has ``launch_id``, ``fw_id``, ``launch_dir``, and of its ping ``ping_time`` (ISO 8601), ``host``, ``pid``,
    ``job_id`` (the scheduler's), ``task`` (from 0), ``rss`` (bytes) and ``cpu`` (seconds) of all its processes; null
    where that is not known, as in runs of `rlaunch`.
    """
    running = [launch for launch in launches if launch.state == "RUNNING"]
    newest = sorted(running, key=attrgetter("launch_id"), reverse=True)[:MAX_READ]
    return [
        {"launch_id": launch.launch_id, "fw_id": launch.fw_id, "launch_dir": launch.launch_dir}
        | {key: told.get(key) for key in TOLD}
        for launch, told in ((launch, read_ping(launch.launch_dir, _MAX_SIZE)) for launch in newest)
    ]


def lines(running: list[dict[str, Any]], count: int) -> list[str]:
    """Return them for people; ``count`` is how many launches are running."""
    found = [
        f"running    Firework {told['fw_id']}: {', '.join(_facts(told)) or 'no ping yet'}"
        for told in running[:_SHOWN]
    ]
    if found and count > len(found):
        more = f" (--json shows {len(running)})" if len(running) > len(found) else ""
        found.append(f"           ... and {count - len(found)} more{more}")
    return found


def _facts(told: dict[str, Any]) -> Iterator[str]:
    if told["task"] is not None:
        yield f"task {told['task'] + 1:.0f}"
    if told["host"] is not None:
        yield f"on {_word(told['host'])}"
    if told["job_id"] is not None:
        yield f"job {_word(told['job_id'])}"
    if told["rss"] is not None:
        yield f"{told['rss'] / 1e6:.0f} MB"
    if told["cpu"] is not None:
        yield f"{told['cpu']:.0f} s of CPU"
    if told["ping_time"] is not None:
        yield f"seen {when(told['ping_time'])}"


def _word(text: str) -> str:
    return printable(text[:_MAX_TEXT])
