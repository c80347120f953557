"""fwrunner as one file for compute nodes: a zip archive with a ``__main__.py``, which Python runs."""

from __future__ import annotations

import io
import os
import zipfile
from importlib.resources import files
from pathlib import Path

from fwcore.errors import FwagentError

# Python 2 must understand it, to be able to say that it is too old.
_MAIN = """\
import sys

if sys.version_info < (3, 6):
    sys.stderr.write("fwrunner: needs Python 3.6 or newer, and %s is %s\\n" % (
        sys.executable, sys.version.split()[0]))
    sys.exit(2)

from fwrunner.__main__ import main
from fwrunner.supervise import end_here

end_here(main())
"""

_SHEBANG = b"#!/usr/bin/env python3\n"

# The oldest that a zip archive can tell: the same sources give the same bytes at any time.
_DATE = (1980, 1, 1, 0, 0, 0)


def export(path: Path) -> int:
    """Write the archive, executable, replacing what is there; return its size in bytes.

    Raises FwagentError if it cannot be written. The same version of fwagent writes the same bytes.
    """
    data = archive()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.chmod(0o755)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FwagentError(
            f"{path} cannot be written: {error.strerror}",
            "name a file in a directory of yours that the compute nodes see",
        ) from None
    return len(data)


def archive() -> bytes:
    """Return the bytes of the archive."""
    sources = {"__main__.py": _MAIN.encode("ascii")}
    package = Path(str(files("fwrunner")))
    sources.update((_name(path, package), path.read_bytes()) for path in package.rglob("*.py"))
    buffer = io.BytesIO()
    buffer.write(_SHEBANG)
    with zipfile.ZipFile(buffer, "a") as target:
        for name in sorted(sources):
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system = 3  # Unix, wherever it is written
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(info, sources[name], compresslevel=9)
    return buffer.getvalue()


def _name(path: Path, package: Path) -> str:
    return path.relative_to(package.parent).as_posix()
