"""Files compressed or not, told by the end of their names, as FireWorks (monty's ``zopen``) does."""

import os
from typing import Any

#: End of a name, in lower case -> the module that opens such files.
_MODULES = {".gz": "gzip", ".z": "gzip", ".bz2": "bz2", ".xz": "lzma", ".lzma": "lzma"}


def open_zipped(path: str, mode: str) -> Any:
    """Open a file for its bytes (mode ``rb`` or ``wb``), uncompressed."""
    module = _MODULES.get(os.path.splitext(path)[1].lower())
    if module is None:
        return open(path, mode)
    import importlib

    return importlib.import_module(module).open(path, mode)
