"""FileWriteTask, FileDeleteTask, FileTransferTask.

Paths are relative to the current directory. FireWorks 2.1.4 (``fileio_tasks.py``) takes a path that
has "src" or "dest" in it for an object, and after a failure transfers again what was transferred; both
is put right here.
"""

import os
from time import sleep
from typing import Any, Callable, Dict, Tuple

from fwrunner.action import Fault
from fwrunner.places import path_of

Params = Dict[str, Any]


def write_files(params: Params, _spec: Params) -> None:
    """Write ``files_to_write``, ``[{"filename", "contents"}]``, into ``dest``, as UTF-8."""
    for record in params["files_to_write"]:
        path = os.path.join(_destination(params), path_of(record["filename"]))
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(record["contents"])


def delete_files(params: Params, _spec: Params) -> None:
    """Delete ``files_to_delete`` from ``dest``; OSError only if ``ignore_errors`` is false."""
    for name in params["files_to_delete"]:
        try:
            os.remove(os.path.join(_destination(params), path_of(name)))
        except OSError:
            if not params.get("ignore_errors", True):
                raise


def transfer_files(params: Params, _spec: Params) -> None:
    """Move or copy ``files``, each a path that goes to ``dest``, or ``{"src", "dest"}``.

    Each is tried ``max_retry`` times more, ``retry_delay`` seconds apart. Raises ValueError when one
    cannot be transferred, unless ``ignore_errors``; it is then told on stderr.
    """
    transfer = _mode(params["mode"])
    for entry in params["files"]:
        source, destination = _ends(params, entry)
        _transfer(params, transfer, source, destination)


def _destination(params: Params) -> str:
    return path_of(str(params["dest"])) if "dest" in params else os.getcwd()


def _mode(mode: str) -> Callable[[str, str], Any]:
    import shutil

    modes: Dict[str, Callable[..., Any]] = {
        "move": shutil.move,
        "mv": shutil.move,
        "copy": shutil.copy,
        "cp": shutil.copy,
        "copy2": shutil.copy2,
        "copytree": shutil.copytree,
        "copyfile": shutil.copyfile,
    }
    if mode == "rtransfer":
        raise Fault(
            "the mode 'rtransfer' needs another host, over SFTP, which is not built in. Use one of "
            f"{', '.join(modes)} if both places are on a shared file system; else a ScriptTask with "
            "scp or rsync, where compute nodes reach that host, or a Firework run by `rlaunch`"
        )
    if mode not in modes:
        raise Fault(f"there is no mode {mode!r:.40}; there are {', '.join(modes)}")
    return modes[mode]


def _ends(params: Params, entry: Any) -> Tuple[str, str]:
    pair = entry if isinstance(entry, dict) else {"src": entry}
    destination = pair["dest"] if "dest" in pair else params.get("dest")
    if destination is None:
        raise ValueError(f"FileTransferTask: there is no 'dest' for {entry!r:.200}")
    if params.get("shell_interpret", True):
        return _interpreted(pair["src"]), _interpreted(destination)
    return path_of(pair["src"]), path_of(destination)


def _interpreted(path: str) -> str:
    return os.path.abspath(os.path.expanduser(os.path.expandvars(path_of(path))))


def _transfer(params: Params, transfer: Callable[[str, str], Any], source: str, to: str) -> None:
    import traceback

    for left in range(params.get("max_retry") or 0, -1, -1):
        try:
            transfer(source, to)
            return
        except Exception as error:
            traceback.print_exc()
            if left:
                sleep(params.get("retry_delay", 10))
            elif not params.get("ignore_errors", False):
                raise ValueError(
                    f"FileTransferTask: {params['mode']} from {source} to {to} failed: {error}"
                ) from error
