"""Data from JSON and YAML files, the latter where a parser is installed."""

import importlib
import json
import sys
from typing import Any

from fwrunner.action import Fault


def parse(text: str, path: str) -> Any:
    """Return what a text holds, as YAML if its file is called so, else as JSON.

    Raises Fault, naming the file, if it cannot be read.
    """
    load = _yaml_loader(path) if path.endswith(".yaml") else json.loads
    try:
        return load(text)
    except Exception as error:
        # Each YAML parser has errors of its own.
        raise Fault(f"{path} cannot be read: {error}") from error


def _yaml_loader(path: str) -> Any:
    try:
        return importlib.import_module("ruamel.yaml").YAML(typ="safe", pure=True).load
    except ImportError:
        pass
    try:
        return importlib.import_module("yaml").safe_load
    except ImportError:
        raise Fault(
            f"{path} is YAML, and {sys.executable} on the compute node has neither ruamel.yaml nor "
            "PyYAML to read it: install one of them for this Python, or write JSON instead"
        ) from None
