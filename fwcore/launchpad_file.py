"""``my_launchpad.yaml``, as FireWorks 2.1 reads it (contract, section 9.1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from fwcore.errors import InvalidLaunchpadFile

_HINT = "it is the file that `lpad init` writes; `host` and `name` are what it needs"


def load_settings(path: Path) -> dict[str, Any]:
    """Return the object in a ``.yaml`` or ``.json`` file; raise InvalidLaunchpadFile."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidLaunchpadFile(f"{path} cannot be read: {error}", _HINT) from None
    try:
        found = json.loads(text) if path.suffix == ".json" else YAML(typ="safe").load(text)
    except (YAMLError, ValueError):
        # The parser's message would quote the line, and the line may be the password's.
        raise InvalidLaunchpadFile(
            f"{path} is not valid {path.suffix[1:].upper()}", _HINT
        ) from None
    if not isinstance(found, Mapping):
        raise InvalidLaunchpadFile(f"{path} holds no object", _HINT)
    return dict(found)


def read_launchpad_file(path: Path) -> tuple[str, str, dict[str, Any]]:
    """Return (URI, database name, client options) of a launchpad file."""
    settings = load_settings(path)
    options = settings.get("mongoclient_kwargs") or {}
    if not isinstance(options, Mapping):
        raise InvalidLaunchpadFile(f"{path}: mongoclient_kwargs is no object", _HINT)
    host = settings.get("host") or "localhost"
    if settings.get("uri_mode"):
        if not settings.get("name"):
            raise InvalidLaunchpadFile(f"{path}: uri_mode needs `name`", _HINT)
        return host, settings["name"], dict(options)
    name = settings.get("name") or "fireworks"
    port = settings.get("port") or 27017
    user, password = settings.get("username"), settings.get("password")
    if not user:
        return f"mongodb://{host}:{port}/", name, dict(options)
    # FireWorks authenticates against the database itself unless told otherwise.
    source = settings.get("authsource") or name
    login = f"{quote_plus(str(user))}:{quote_plus(str(password or ''))}@"
    return f"mongodb://{login}{host}:{port}/?authSource={quote_plus(source)}", name, dict(options)
