"""What ``[queue]`` and a ``my_qadapter.yaml`` say: which scheduler, and what its scripts are made of."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.config import ADAPTER_TYPES, Config, ConfigError, read_adapter_file
from agent.queue.templates import TEMPLATES


@dataclass(frozen=True)
class Adapter:
    """A ``my_qadapter.yaml``. ``values`` are what FireWorks' ``CommonAdapter`` would hold."""

    template: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class QueueSettings:
    """A queue. Without an ``adapter`` its scripts are made from ``queue.options``."""

    type: str
    adapter: Adapter | None = None
    #: ``submit_cmd``, ``status_cmd``: the words that stand in for the scheduler's own.
    commands: Mapping[str, list[str]] = field(default_factory=dict)


def read_settings(config: Config) -> QueueSettings:
    """Return the queue of a configuration; raise ConfigError."""
    if config.queue.file is None:
        return QueueSettings(config.queue.type)
    path = config.queue.file
    found = read_adapter_file(path)
    name = str(found.get("_fw_q_type"))
    if name not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise ConfigError(f"{path}: _fw_q_type is {name!r}", f"FireWorks knows {known}")
    _check_type(config, path, name)
    return QueueSettings(
        config.queue.type,
        Adapter(_template(path, found, name), _values(config, path, found)),
        _commands(path, found),
    )


def _check_type(config: Config, path: Path, name: str) -> None:
    chosen = config.queue.type
    if chosen not in (ADAPTER_TYPES.get(name), "none", "local"):
        raise ConfigError(
            f'queue.type is "{chosen}", and {path} is for {name}', "leave queue.type away"
        )


def _template(path: Path, found: Mapping[str, Any], name: str) -> str:
    file = found.get("_fw_template_file")
    if file is None:
        return TEMPLATES[name]
    # FireWorks means the directory where a command is typed; a daemon has none.
    place = path.parent / Path(os.path.expandvars(str(file))).expanduser()
    try:
        return place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: _fw_template_file cannot be read: {error}") from None


def _values(config: Config, path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    # As CommonAdapter.from_dict leaves them (2.1.4).
    values = {key: value for key, value in found.items() if not key.startswith("_fw")}
    rocket = values.get("rocket_launch")
    if config.queue.runner is not None:
        return {**values, "rocket_launch": config.queue.runner}
    if not is_offline(rocket):
        raise ConfigError(
            f"{path}: rocket_launch does not run one Firework offline: {rocket!r}",
            "write `rocket_launch: rlaunch singleshot --offline` there, or set queue.runner",
        )
    return values


def is_offline(rocket_launch: object) -> bool:
    """Tell whether a ``rocket_launch`` runs one Firework and reports it by files."""
    words = rocket_launch if isinstance(rocket_launch, str) else ""
    return "singleshot" in words and "--offline" in words


def _commands(path: Path, found: Mapping[str, Any]) -> dict[str, list[str]]:
    override = found.get("_q_commands_override") or {}
    if not isinstance(override, Mapping):
        raise ConfigError(f"{path}: _q_commands_override is no object")
    commands = {}
    for key in ("submit_cmd", "status_cmd"):
        if key in override:
            try:
                commands[key] = shlex.split(str(override[key]))
            except ValueError as error:
                raise ConfigError(f"{path}: {key} cannot be understood: {error}") from None
    return {key: words for key, words in commands.items() if words}
