"""A task-level rerun, or a job started again: go on at a task, with what the ones before it have given.

`lpad rerun_fws --task-level` puts the checkpoint of the failed launch into the spec as ``_recovery``,
with ``_prev_dir`` and ``_mode`` ("cp": the files of that directory are copied first; "prev_dir": the job
runs there again; else null). Facts: FireWorks 2.1.4, ``fireworks/core/rocket.py``. Unlike there, the
tasks that follow find in the spec what the earlier ones have changed in it, and what belongs to the
launch itself is not copied.
"""

import os
import shutil
from typing import Any, Dict, List, NamedTuple, Set

from fwrunner.action import Fault, apply_mods
from fwrunner.control import OUR_DIRECTORY, is_control_file, is_own_output
from fwrunner.places import say

Document = Dict[str, Any]


class Start(NamedTuple):
    """The number of the first task to run, and what the tasks before it have given."""

    number: int
    stored_data: Document
    update_spec: Document
    mod_spec: List[Any]


def start_of(recovery: Any, tasks: int) -> Start:
    """Return where a Firework with so many tasks goes on; raise Fault if its ``_recovery`` is none."""
    number = _part(recovery, "_task_n", int)
    if not 0 <= number < tasks:
        raise Fault(f"the spec's _recovery goes on at task {number + 1} of {tasks}")
    return Start(
        number,
        dict(_part(recovery, "_all_stored_data", dict)),
        dict(_part(recovery, "_all_update_spec", dict)),
        list(_part(recovery, "_all_mod_spec", list)),
    )


def restore_spec(spec: Document, start: Start) -> None:
    """Change a spec as the tasks before the start have, or as well as can be."""
    spec.update(start.update_spec)
    for modifier in start.mod_spec:
        try:
            apply_mods(spec, [modifier])
        except Fault as error:
            say(f"recovery: of the tasks before number {start.number + 1}, {error}")


def copy_previous(recovery: Document, directory: str) -> None:
    """In the mode "cp", copy the files of the earlier launch into this launch directory."""
    if recovery.get("_mode") != "cp":
        return
    previous = _part(recovery, "_prev_dir", str)
    if not os.path.isdir(previous):
        raise Fault(
            f"the directory of the earlier launch, {previous}, is not there: rerun without copying, "
            "or from the beginning"
        )
    if os.path.samefile(previous, directory):
        return
    try:
        _copy(previous, directory, {os.path.realpath(directory)})
    except OSError as error:
        raise Fault(f"the files of {previous} cannot be copied: {error}") from error


def _copy(source: str, target: str, around: Set[str]) -> None:
    # Links are followed, as FireWorks does, but neither into a circle nor to nothing.
    around = around | {os.path.realpath(source)}
    for name in os.listdir(source):
        old, new = os.path.join(source, name), os.path.join(target, name)
        if is_control_file(name) or is_own_output(new) or name == OUR_DIRECTORY:
            continue
        if os.path.isdir(old):
            if os.path.realpath(old) not in around:
                os.makedirs(new, exist_ok=True)
                _copy(old, new, around)
        elif os.path.isfile(old):
            shutil.copy2(old, new)
        elif os.path.islink(old) and not os.path.lexists(new):
            os.symlink(os.readlink(old), new)


def _part(recovery: Any, key: str, kind: type) -> Any:
    part = recovery.get(key) if isinstance(recovery, dict) else None
    if not isinstance(part, kind) or isinstance(part, bool):
        raise Fault(f"the spec's _recovery has no {key!r} that is a {kind.__name__}")
    return part
