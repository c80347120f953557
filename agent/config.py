"""The configuration: one TOML file into a frozen model.

FireWorks' own files may stand in for sections: ``my_launchpad.yaml`` for ``[launchpad]``,
``my_fworker.yaml`` for ``[worker]``. Unknown keys are refused, and so is a file that holds a password and
can be read by others.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import shlex
import stat
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from fwcore.errors import FwagentError, InvalidSettings
from fwcore.launchpad import LaunchPad
from fwcore.settings import load_settings, read_launchpad_file, read_worker_file
from fwcore.worker import Worker
from fwrunner.protocol import MAX_REPORT_SIZE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_PATH = "~/.config/fwagent/config.toml"
PATH_VARIABLE = "FWAGENT_CONFIG"
URI_VARIABLE = "FWAGENT_LAUNCHPAD_URI"
#: The name of the systemd credential (``LoadCredential=launchpad_uri:...``) that may hold the URI.
CREDENTIAL = "launchpad_uri"


#: FireWorks' queue types and ours.
ADAPTER_TYPES = {"SLURM": "slurm", "PBS": "pbs", "SGE": "sge", "LoadSharingFacility": "lsf"}
_ADAPTER_HINT = "it is FireWorks' my_qadapter.yaml; or use [queue.options]"


class ConfigError(FwagentError):
    """The configuration cannot be used."""


def _expanded(path: Path) -> Path:
    text = os.path.expandvars(str(path))
    if unset := re.search(r"\$(\w+|\{\w+\})", text):
        raise ValueError(f"the environment variable {unset[0]} is not set")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home directory for {path.parts[0]}") from None


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


Expanded = Annotated[Path, AfterValidator(_expanded)]
Absolute = Annotated[Expanded, AfterValidator(_absolute)]
Seconds = Annotated[float, Field(gt=0, le=86400)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="after")
    def _file_or_keys(self) -> _Section:
        # One of the two would win silently, and it may be the wrong database.
        instead = self.model_fields_set & set(getattr(self, "replaced_by_file", ()))
        if getattr(self, "file", None) is not None and instead:
            raise ValueError(f"`file` and `{min(instead)}` are both set; keep one of them")
        return self


class LaunchpadSection(_Section):
    """Where the FireWorks database is."""

    replaced_by_file: ClassVar[tuple[str, ...]] = ("uri", "uri_file", "name")

    file: Expanded | None = Field(
        default=None, description="a my_launchpad.yaml, instead of uri and name"
    )
    uri: SecretStr | None = Field(default=None, description="a MongoDB URI")
    uri_file: Expanded | None = Field(default=None, description="a file that holds the URI alone")
    name: str = Field(default="fireworks", min_length=1, description="the database")


class WorkerSection(_Section):
    """Whose launches this agent handles, and no others."""

    replaced_by_file: ClassVar[tuple[str, ...]] = ("name", "category", "query", "env")

    file: Expanded | None = Field(
        default=None, description="a my_fworker.yaml, instead of the keys below"
    )
    name: str | None = Field(default=None, min_length=1, description="the FWorker name")
    category: str | list[str] = Field(default="", description="one, several, or __none__")
    query: dict[str, Any] = Field(default_factory=dict, description="a MongoDB filter on Fireworks")
    env: dict[str, Any] = Field(default_factory=dict, description="the worker's environment")


class LaunchSection(_Section):
    """Where launch directories are made, and how many jobs there may be."""

    root: Absolute = Field(description="launch directories are made below it")
    group_readable: bool = Field(
        default=False, description="let the group read launch directories; else only you can"
    )
    max_queued: int = Field(default=50, ge=1, description="jobs of ours in the queue at once")
    max_running: int = Field(default=0, ge=0, description="jobs running at once; 0: no limit")


class QueueSection(_Section):
    """The batch queue."""

    replaced_by_file: ClassVar[tuple[str, ...]] = ("options",)

    type: Literal["slurm", "pbs", "sge", "lsf", "local", "none"] = Field(
        default="slurm",
        description="the batch system; local: jobs on this host, none: you submit the scripts",
    )
    file: Expanded | None = Field(
        default=None, description="a my_qadapter.yaml, instead of options"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="for the submit script")
    runner: str | None = Field(default=None, min_length=1, description="what the job script runs")
    array: bool = Field(default=False, description="one job array for Fireworks of equal resources")
    processes: int = Field(default=4, ge=1, le=64, description="submit commands at once")
    timeout: Seconds = Field(default=60, description="for one command of the scheduler")
    cancel_defused: bool = Field(
        default=True, description="cancel jobs that no Firework counts on any more"
    )


class SyncSection(_Section):
    """How often to look, in seconds."""

    sweep_interval: Seconds = Field(
        default=30, description="between two looks at all open launches"
    )
    sweep_fastest: Seconds | None = Field(
        default=None, description="between two looks at a launch that has just changed"
    )
    sweep_slowest: Seconds | None = Field(
        default=None, description="between two looks at a launch that is quiet"
    )
    sweep_watched: Seconds | None = Field(
        default=None, description="likewise, while file events tell of each change in its directory"
    )
    sweep_rate: float = Field(
        default=500, gt=0, le=100000, description="launch directories looked at in a second"
    )
    events: bool = Field(default=True, description="whether file events may wake the agent")
    outbox_interval: Seconds = Field(default=1, description="between two listings of the outbox")
    reserve_interval: Seconds = Field(
        default=30, description="between two looks for READY Fireworks"
    )
    reconcile_interval: Seconds = Field(default=60, description="between two listings of the queue")
    ping_interval: Seconds = Field(default=60, description="between two pings of a job")
    lost: Literal["fizzle", "rerun", "report"] = Field(
        default="fizzle", description="what to do with lost jobs"
    )
    lost_after: Seconds = Field(
        default=60, description="that a job must be gone, its files quiet, before it counts as lost"
    )
    lost_reruns: int = Field(
        default=3, ge=0, description="reruns in a row of a Firework, under lost = rerun"
    )
    max_report_size: int = Field(
        default=MAX_REPORT_SIZE, ge=1024, description="bytes of the largest report"
    )

    @model_validator(mode="after")
    def _in_order(self) -> SyncSection:
        if self.fastest > self.slowest:
            raise ValueError("sweep_fastest must not be longer than sweep_slowest")
        if self.watched < self.slowest:
            raise ValueError("sweep_watched must not be shorter than sweep_slowest")
        return self

    @property
    def fastest(self) -> float:
        """Seconds between two looks at a launch directory that has just changed."""
        if self.sweep_fastest is not None:
            return self.sweep_fastest
        return min(self.sweep_interval / 3, self.sweep_slowest or self.sweep_interval)

    @property
    def slowest(self) -> float:
        """Seconds between two looks at one that is quiet."""
        return self.sweep_slowest or max(self.sweep_interval, self.fastest)

    @property
    def watched(self) -> float:
        """Seconds between two looks at a quiet one that is watched. Only a queue of events that overflows loses any."""
        return self.sweep_watched or 3 * self.slowest


def _web_address(url: SecretStr) -> SecretStr:
    # The text of the error must not have a part of it.
    if not re.fullmatch(r"https?://[^/\s]+[^\s]*", url.get_secret_value()):
        raise ValueError("must be an http or https URL")
    return url


class MonitorSection(_Section):
    """How others learn that the agent is well."""

    metrics_file: Absolute | None = Field(
        default=None, description="metrics for Prometheus, rewritten every 10 s; ends with .prom"
    )
    heartbeat_url: Annotated[SecretStr, AfterValidator(_web_address)] | None = Field(
        default=None, description="an http or https URL, asked for after good passes"
    )
    heartbeat_interval: Seconds = Field(default=60, description="between two of these")


class Config(_Section):
    """A whole configuration file."""

    launchpad: LaunchpadSection = Field(default_factory=LaunchpadSection)
    worker: WorkerSection
    launch: LaunchSection
    queue: QueueSection = Field(default_factory=QueueSection)
    sync: SyncSection = Field(default_factory=SyncSection)
    monitor: MonitorSection = Field(default_factory=MonitorSection)

    @property
    def private(self) -> Path:
        """Our own directory below the launch root."""
        return self.launch.root / ".fwagent"

    @property
    def database(self) -> str:
        """The name of the database; raise InvalidSettings."""
        file = self.launchpad.file
        return self.launchpad.name if file is None else read_launchpad_file(file)[1]

    @property
    def runner(self) -> str:
        """The command line of the job script that runs the Firework."""
        if self.queue.runner is not None:
            return self.queue.runner
        # A local job runs on this host, so the interpreter that has fwrunner is known.
        python = shlex.quote(sys.executable) if self.queue.type == "local" else "python3"
        return f"{python} -m fwrunner"

    def fworker(self) -> Worker:
        """Return the worker; raise InvalidSettings or ConfigError."""
        section = self.worker
        if section.file is not None:
            return read_worker_file(section.file)
        if section.name is None:
            raise ConfigError(
                "the configuration names no worker",
                "set worker.name, or worker.file = my_fworker.yaml",
            )
        category = section.category
        return Worker(
            section.name,
            tuple(category) if isinstance(category, list) else category,
            section.query,
            section.env,
        )

    def own(self, database: str) -> Path:
        """Return the directory for what only the agent of this worker in a database (`LaunchPad.where`) is to read.

        Several may share a launch root. Raises InvalidSettings or ConfigError.
        """
        worker = self.fworker().name
        digest = hashlib.sha256(f"{worker}\n{database}".encode()).hexdigest()[:8]
        return self.private / f"{quote(worker, safe=' ')[:100]}-{digest}"

    def connect(self, *, timeout: float = 10.0) -> LaunchPad:
        """Return the LaunchPad, without connecting yet; raise ConfigError or InvalidSettings."""
        file, secret = self.launchpad.file, _secret_uri()
        if file is None:
            return LaunchPad.from_uri(secret or self._uri(), self.launchpad.name, timeout=timeout)
        uri, name, options = read_launchpad_file(file)
        if secret is None and (_holds_password(uri) or "password" in options):
            refuse_readable(file)
        return LaunchPad.from_uri(secret or uri, name, timeout=timeout, **options)

    def _uri(self) -> str:
        if self.launchpad.uri_file is not None:
            return _uri_from(self.launchpad.uri_file)
        if self.launchpad.uri is not None:
            return self.launchpad.uri.get_secret_value()
        raise ConfigError(
            "the configuration names no database",
            f"set launchpad.uri, launchpad.uri_file, launchpad.file or ${URI_VARIABLE}; what a service is given by "
            "--credential, only the service knows",
        )


def _secret_uri() -> str | None:
    """Return the URI that the environment or systemd gives; it may hold a password that no file does."""
    if URI_VARIABLE in os.environ:
        return os.environ[URI_VARIABLE]
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and (Path(credentials) / CREDENTIAL).exists():
        return (Path(credentials) / CREDENTIAL).read_text(encoding="utf-8").strip()
    return None


def config_path(given: Path | None) -> Path:
    """Return the configuration file: the given one, else ``$FWAGENT_CONFIG``, else the default one."""
    path = given or Path(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"there is no home directory for {path.parts[0]}") from None


def load_config(given: Path | None = None) -> Config:
    """Read and check the configuration; raise ConfigError that names the key and what to write."""
    path = config_path(given)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"there is no configuration at {path}",
            "fwagent init writes one; or name one by --config PATH or $FWAGENT_CONFIG",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    config = parse_config(text, path)
    if config.launchpad.uri and _holds_password(config.launchpad.uri.get_secret_value()):
        refuse_readable(path)
    return config


def parse_config(text: str, path: Path) -> Config:
    """Check the text of a configuration file; raise ConfigError that names the key and what to write."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Its message gives line and column; the line itself may hold a password.
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(*_explained(path, error)) from None
    return _with_queue_type(config)


def _with_queue_type(config: Config) -> Config:
    """Return the configuration with the queue type of a ``my_qadapter.yaml``, unless it names one itself."""
    file = config.queue.file
    if file is None or "type" in config.queue.model_fields_set:
        return config
    name = str(read_adapter_file(file).get("_fw_q_type"))
    if name not in ADAPTER_TYPES:
        raise ConfigError(
            f"{file}: fwagent cannot talk to _fw_q_type = {name!r}",
            'set queue.type = "none" (fwagent init --queue none): launch directories are made, and you submit '
            "their scripts",
        )
    queue = config.queue.model_copy(update={"type": ADAPTER_TYPES[name]})
    return config.model_copy(update={"queue": queue})


def read_adapter_file(path: Path) -> dict[str, Any]:
    """Return what a ``my_qadapter.yaml`` holds; raise ConfigError."""
    try:
        return load_settings(path, _ADAPTER_HINT)
    except InvalidSettings as error:
        raise ConfigError(error.title, error.hint) from None


def _uri_from(path: Path) -> str:
    try:
        uri = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"launchpad.uri_file cannot be read: {error}") from None
    if _holds_password(uri):
        refuse_readable(path)
    return uri


def _holds_password(uri: str) -> bool:
    return re.match(r"[^/]*//[^/@]*:[^/]*@", uri) is not None


def refuse_readable(path: Path) -> None:
    """Raise ConfigError for a file with a password that others can read."""
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(
            f"{path} holds a password and others can read it", f"run: chmod 600 {path}"
        )


def _explained(path: Path, error: ValidationError) -> tuple[str, str]:
    """Return (title, hint) of the first fault; values are left out, they may be secrets."""
    fault = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        message = fault["msg"].removeprefix("Value error, ")
        return f"{path}: {key}: {message}", _description(fault["loc"])
    known = list(_fields(fault["loc"][:-1]))
    nearest = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are: {', '.join(known)}"
    return f"{path}: unknown key {key!r}", hint


def _fields(location: tuple[int | str, ...]) -> dict[str, Any]:
    fields: dict[str, Any] = dict(Config.model_fields)
    for part in location:
        section = getattr(fields.get(str(part)), "annotation", None)
        fields = dict(getattr(section, "model_fields", {}))
    return fields


def _description(location: tuple[int | str, ...]) -> str:
    field = _fields(location[:1]).get(str(location[1])) if len(location) > 1 else None
    return (field.description or "") if field is not None else "see config.example.toml"
