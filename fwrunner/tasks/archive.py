"""CompressDirTask, DecompressDirTask, ArchiveDirTask.

As in FireWorks 2.1.4 (``fileio_tasks.py``, monty's ``compress_dir``): each file below ``dest``, with
links left alone, is replaced by its compressed form, or that by the file. Unlike there, the files of the
launch itself stay as they are, the job's own output too, and a file is replaced whole or not at all.
"""

import os
import shutil
from typing import Any, Callable, Dict, Iterator, List

from fwrunner.control import OUR_DIRECTORY, is_being_written, is_control_file, is_own_output
from fwrunner.places import path_of
from fwrunner.zipped import open_zipped

Params = Dict[str, Any]

_COMPRESSIONS = ("gz", "bz2")
_COMPRESSED = (".gz", ".bz2", ".z")

#: Format, as `shutil.make_archive` calls it -> the end of the name, the mode of tarfile.
_FORMATS = {
    "gztar": (".tar.gz", "w:gz"),
    "tar": (".tar", "w:"),
    "bztar": (".tar.bz2", "w:bz2"),
    "xztar": (".tar.xz", "w:xz"),
    "zip": (".zip", ""),
}


def compress_dir(params: Params, _spec: Params) -> None:
    """Compress each file below ``dest`` by ``compression``, gz or bz2."""
    compression = params.get("compression", "gz")
    if compression not in _COMPRESSIONS:
        raise ValueError(f"CompressDirTask: 'compression' is {compression!r:.40}, not gz or bz2")
    _each_file(params, "CompressDirTask", lambda path: _compress(path, f".{compression}"))


def decompress_dir(params: Params, _spec: Params) -> None:
    """Decompress each file below ``dest`` whose name ends in .gz, .bz2 or .z."""
    _each_file(params, "DecompressDirTask", _decompress)


def archive_dir(params: Params, _spec: Params) -> None:
    """Make the archive ``base_name`` of the current directory, in ``format``: gztar, tar, bztar, xztar, zip."""
    kind = params.get("format", "gztar")
    if kind not in _FORMATS:
        raise ValueError(
            f"ArchiveDirTask: 'format' is {kind!r:.40}, not one of {', '.join(_FORMATS)}"
        )
    suffix, mode = _FORMATS[kind]
    path = os.path.abspath(path_of(params["base_name"] + suffix))
    # Listed before the archive is there: it must not become a part of itself.
    members = [member for member in _members() if os.path.abspath(member) != path]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if kind == "zip":
        _zip(path, members)
    else:
        _tar(path, mode, members)


def _members() -> Iterator[str]:
    yield "."
    for parent, directories, names in os.walk("."):
        yield from (os.path.join(parent, name) for name in directories)
        # One that is being written is gone when its turn comes.
        yield from (os.path.join(parent, name) for name in names if not is_being_written(name))


def _tar(path: str, mode: str, members: List[str]) -> None:
    import tarfile

    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member in members:
            archive.add(member, recursive=False)


def _zip(path: str, members: List[str]) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members[1:]:
            # It takes no devices, and would wait at a FIFO for ever.
            if os.path.isfile(member) or os.path.isdir(member):
                archive.write(member, _as_utf8(os.path.normpath(member)))


def _as_utf8(path: str) -> str:
    # A zip archive has its names in UTF-8, whatever the locale; what is no UTF-8 cannot be in one.
    return os.fsencode(path).decode("utf-8", "replace")


def _each_file(params: Params, task: str, replace: Callable[[str], None]) -> None:
    for path in _files(path_of(params["dest"]) if "dest" in params else os.getcwd()):
        try:
            replace(path)
        except Exception as error:
            if not params.get("ignore_errors", False):
                raise ValueError(f"{task}: {path} failed: {error}") from error


def _files(top: str) -> Iterator[str]:
    for parent, directories, names in os.walk(top):
        if OUR_DIRECTORY in directories:
            directories.remove(OUR_DIRECTORY)
        for name in names:
            path = os.path.join(parent, name)
            if not is_control_file(name) and not is_own_output(path):
                yield path


def _compress(path: str, suffix: str) -> None:
    if os.path.splitext(path)[1].lower() == suffix or os.path.islink(path):
        return
    _replace(path, path + suffix)


def _decompress(path: str) -> None:
    name, suffix = os.path.splitext(path)
    if suffix.lower() in _COMPRESSED and os.path.isfile(path):
        _replace(path, name)


def _replace(path: str, by: str) -> None:
    import tempfile

    parent, name = os.path.split(by)
    with tempfile.TemporaryDirectory(prefix=".part.", dir=parent) as aside:
        temporary = os.path.join(aside, name)
        with open_zipped(path, "rb") as source, open_zipped(temporary, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        shutil.copymode(path, temporary)
        os.replace(temporary, by)
    os.remove(path)
