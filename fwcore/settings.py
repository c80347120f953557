"""``my_launchpad.yaml`` and ``my_fworker.yaml``, as FireWorks 2.1 reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from fwcore.errors import InvalidSettings
from fwcore.worker import Worker

_LAUNCHPAD_HINT = "it is the file that `lpad init` writes; `host` and `name` are what it needs"
_MISSING = "the configuration, or FireWorks' FW_config.yaml, names it: mend that, or write the file"
_WORKER_HINT = "FireWorks' my_fworker.yaml has name, category, and query as a JSON text like '{}'"


def load_settings(path: Path, hint: str, missing: str = "") -> dict[str, Any]:
    """Return the object in a ``.yaml`` or ``.json`` file; raise InvalidSettings, with another hint if it is missing."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidSettings(f"there is no file {path}", missing or hint) from None
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InvalidSettings(f"{path} cannot be read: {what}", hint) from None
    from ruamel.yaml import YAML  # a command without such a file is quicker
    from ruamel.yaml.error import YAMLError

    try:
        found = json.loads(text) if path.suffix == ".json" else YAML(typ="safe").load(text)
    except (YAMLError, ValueError) as error:
        # The parser's message would quote the line, and the line may be the password's.
        kind = path.suffix[1:].upper()
        raise InvalidSettings(f"{path} is not valid {kind}{_line(error)}", hint) from None
    if not isinstance(found, Mapping):
        raise InvalidSettings(f"{path} holds no object", hint)
    return dict(found)


def _line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    line = getattr(error, "lineno", None) or (mark.line + 1 if mark is not None else None)
    return f", line {line}" if line else ""


def read_launchpad_file(path: Path) -> tuple[str, str, dict[str, Any]]:
    """Return (URI, database name, client options) of a launchpad file."""
    settings = load_settings(path, _LAUNCHPAD_HINT, _MISSING)
    options = settings.get("mongoclient_kwargs") or {}
    if not isinstance(options, Mapping):
        raise InvalidSettings(f"{path}: mongoclient_kwargs is no object", _LAUNCHPAD_HINT)
    host = settings.get("host") or "localhost"
    if not isinstance(host, str):
        raise InvalidSettings(f"{path}: host is no text", _LAUNCHPAD_HINT)
    if settings.get("uri_mode"):
        if not settings.get("name"):
            raise InvalidSettings(f"{path}: uri_mode needs `name`", _LAUNCHPAD_HINT)
        return host, settings["name"], dict(options)
    name = settings.get("name") or "fireworks"
    port = settings.get("port") or 27017
    user, password = settings.get("username"), settings.get("password")
    if not user:
        return f"mongodb://{host}:{port}/", name, dict(options)
    # FireWorks authenticates against the database itself unless told otherwise.
    source = settings.get("authsource") or name
    login = f"{quote_plus(str(user))}:{quote_plus(str(password or ''))}@"
    return (
        f"mongodb://{login}{host}:{port}/?authSource={quote_plus(str(source))}",
        name,
        dict(options),
    )


def passed_over(path: Path) -> list[str]:
    """Return the keys for TLS of a launchpad file that do nothing: FireWorks had them once, 2.1 has not."""
    return sorted(
        key for key in load_settings(path, _LAUNCHPAD_HINT) if key.startswith(("ssl", "tls"))
    )


def read_worker_file(path: Path) -> Worker:
    """Return the worker of a ``my_fworker.yaml``; raise InvalidSettings."""
    settings = load_settings(path, _WORKER_HINT, _MISSING)
    query, category = settings.get("query", "{}"), settings.get("category", "")
    try:
        query = json.loads(query)
    except (TypeError, ValueError):
        raise InvalidSettings(f"{path}: query is no JSON text", _WORKER_HINT) from None
    env = settings.get("env") or {}
    if not isinstance(settings.get("name"), str) or not isinstance(env, Mapping):
        raise InvalidSettings(f"{path}: `name` is not a text, or `env` no object", _WORKER_HINT)
    if not isinstance(category, (str, list)) or not isinstance(query, dict):
        raise InvalidSettings(f"{path}: `category` or `query` is of the wrong type", _WORKER_HINT)
    category = tuple(category) if isinstance(category, list) else category
    return Worker(settings["name"], category, query, dict(env))
