"""What ``[queue]`` and a ``my_qadapter.yaml`` say: which scheduler, and what its scripts are made of."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.config import Config, ConfigError
from agent.queue.templates import TEMPLATES
from fwcore.errors import InvalidSettings
from fwcore.settings import load_settings

#: FireWorks' queue types and ours. Scripts of the others can be made, for ``type = "none"``.
_TYPES = {"SLURM": "slurm", "PBS": "pbs", "SGE": "sge", "LoadSharingFacility": "lsf"}
_HINT = (
    "it is the file that `lpad init`'s documentation calls my_qadapter.yaml; or use [queue.options]"
)


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
    try:
        found = load_settings(path, _HINT)
    except InvalidSettings as error:
        raise ConfigError(error.title, error.hint) from None
    name = found.get("_fw_q_type")
    if name not in TEMPLATES:
        raise ConfigError(
            f"{path}: _fw_q_type is {name!r}", f"FireWorks knows {', '.join(TEMPLATES)}"
        )
    return QueueSettings(
        _type(config, path, name),
        Adapter(_template(path, found, name), _values(config, path, found)),
        _commands(path, found),
    )


def _type(config: Config, path: Path, name: str) -> str:
    known = _TYPES.get(name)
    if "type" not in config.queue.model_fields_set:
        if known is None:
            raise ConfigError(
                f"{path}: fwagent cannot talk to {name}",
                'set queue.type = "none": launch directories are made, and you submit their scripts',
            )
        return known
    chosen = config.queue.type
    if chosen in (known, "none", "local"):
        return chosen
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
    if not isinstance(rocket, str) or "singleshot" not in rocket or "--offline" not in rocket:
        raise ConfigError(
            f"{path}: rocket_launch does not run one Firework offline: {rocket!r}",
            "write `rocket_launch: rlaunch singleshot --offline` there, or set queue.runner",
        )
    return values


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
