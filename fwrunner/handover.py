"""What a Firework takes over from its parents, and hands on to its children, by keys of its spec.

``_files_in`` and ``_files_prev``; ``_files_out``, ``_pass_job_info``, ``_preserve_fworker``. Facts:
FireWorks 2.1.4, ``fireworks/core/rocket.py``.
"""

import os
from typing import Any, Dict, List

from fwrunner.action import Action, Fault
from fwrunner.places import say
from fwrunner.plain import plain
from fwrunner.worker import worker_of
from fwrunner.zipped import open_zipped

Spec = Dict[str, Any]


def check(spec: Spec) -> None:
    """Raise Fault where the spec asks for what makes no sense: before the tasks, not after hours."""
    for key in ("_files_in", "_files_prev", "_files_out"):
        _names(spec, key)
    _given_info(spec)


def take_files(spec: Spec, directory: str) -> None:
    """Copy each file of ``_files_prev`` that ``_files_in`` asks for into the launch directory.

    Whatever is compressed, by its name, is so transparently. Raises Fault, naming the file.
    """
    wanted, given = _names(spec, "_files_in"), _names(spec, "_files_prev")
    for label in wanted:
        if label in given:
            _copy(label, given[label], os.path.join(directory, wanted[label]))


def hand_over(action: Action, spec: Spec, firework: Dict[str, Any], directory: str) -> Action:
    """Return a final action with what the spec says is to be passed to the children.

    That is also done to the action of a FIZZLED Firework, as there; its children never get it. Not where the
    process of the tasks has died: FireWorks has no action at all for such a run.
    Raises Fault where the spec asks for what makes no sense.
    """
    mods: List[Any] = []
    if spec.get("_pass_job_info"):
        mods.append({"_push_all": {"_job_info": _job_info(spec, firework, directory)}})
    mods.extend(_file_mods(spec, directory))
    update = action["update_spec"]
    if spec.get("_preserve_fworker"):
        name = worker_of(firework).name
        if name:
            update = dict(update, _fworker=name)
        else:
            say("_preserve_fworker has no effect: FW.json does not say which worker this is")
    return dict(action, mod_spec=[*action["mod_spec"], *mods], update_spec=update)


def _copy(label: str, source: str, target: str) -> None:
    import shutil

    try:
        with open_zipped(source, "rb") as old, open_zipped(target, "wb") as new:
            shutil.copyfileobj(old, new, 1 << 20)
    except (OSError, EOFError, ValueError) as error:
        raise Fault(
            f"the file {label!r} of _files_in cannot be copied from {source} to {target}: {error}"
        ) from error


def _job_info(spec: Spec, firework: Dict[str, Any], directory: str) -> List[Any]:
    own = {
        "fw_id": firework.get("fw_id", -1),
        "name": firework.get("name") or "Unnamed FW",
        "launch_dir": _as_utf8(directory),
        "state": firework.get("state", "WAITING"),
    }
    known: List[Any] = plain(_given_info(spec))
    return known if own in known else [*known, plain(own)]


def _given_info(spec: Spec) -> List[Any]:
    given = spec.get("_job_info") or []
    if isinstance(given, (list, tuple)):
        return list(given)
    if spec.get("_pass_job_info"):
        raise Fault(f"the spec's _job_info is no list, but {given!r:.80}")
    return []


def _file_mods(spec: Spec, directory: str) -> List[Any]:
    patterns = _names(spec, "_files_out")
    if not patterns:
        return []
    import glob

    mods = []
    for label, pattern in patterns.items():
        found = glob.glob(os.path.join(glob.escape(directory), pattern))
        if found:
            mods.append({"_set": {f"_files_prev->{label}": _as_utf8(max(found))}})
    return mods


def _as_utf8(path: str) -> str:
    # Whatever the locale of the compute node: another host is to find it.
    return str(plain(os.fsencode(path).decode("utf-8", "surrogateescape")))


def _names(spec: Spec, key: str) -> Dict[str, str]:
    given = spec.get(key) or {}
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given.values()):
        raise Fault(f"the spec's {key} must be an object of names, not {given!r:.80}")
    return given
