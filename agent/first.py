"""`fwagent init`: a configuration from what is found on this host, FireWorks' own files first.

Where FireWorks looks is a fact of FireWorks 2.1.4. ``fw_config.py``: the first FW_config.yaml of the current
directory, ``~/.fireworks`` and ``$FW_CONFIG_FILE`` counts. ``scripts/_helpers.py``: a file in its CONFIG_FILE_DIR, the
current directory if it has none, goes before the one that it names.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.config import ConfigError, read_adapter_file
from agent.filesystem import mount_of
from agent.queue.settings import is_offline
from fwcore.settings import load_settings, read_launchpad_file, read_worker_file

_CONFIG_HINT = "FireWorks reads this file, too: mend or remove it"
#: The key of FW_config.yaml and the name of the file that it is about.
_FILES = {
    "launchpad": ("LAUNCHPAD_LOC", "my_launchpad.yaml"),
    "worker": ("FWORKER_LOC", "my_fworker.yaml"),
    "queue": ("QUEUEADAPTER_LOC", "my_qadapter.yaml"),
}
#: Commands by which a scheduler is known, in the order of trial: Grid Engine and PBS both have qsub.
_SCHEDULERS = (
    ("slurm", "sbatch"),
    ("lsf", "bsub"),
    ("sge", "qconf"),
    ("pbs", "pbsnodes"),
    ("pbs", "qsub"),
)


@dataclass(frozen=True)
class Found:
    """FireWorks' files on this host; None where there is none."""

    launchpad: Path | None
    worker: Path | None
    queue: Path | None


@dataclass(frozen=True)
class Choices:
    """What a configuration is made of."""

    launchpad: Path | None
    uri_file: Path | None
    database: str
    worker_file: Path | None
    worker: str
    root: str
    #: The queue type; "" if ``queue_file`` tells it.
    queue: str
    queue_file: Path | None


def find_fireworks(environ: Mapping[str, str], here: Path) -> Found:
    """Return FireWorks' files, as FireWorks itself would find them; raise InvalidSettings."""
    home = Path("~/.fireworks").expanduser()
    configs = [here / "FW_config.yaml", home / "FW_config.yaml"]
    if environ.get("FW_CONFIG_FILE"):
        configs.append(Path(environ["FW_CONFIG_FILE"]).expanduser())
    settings: Mapping[str, object] = {}
    own, places = here, [here, home]
    for path in configs:
        if path.is_file():
            settings = load_settings(path, _CONFIG_HINT)
            own = here / Path(str(settings.get("CONFIG_FILE_DIR") or ".")).expanduser()
            break
    found = {
        section: _located(settings.get(key), [place / name for place in (own, *places)])
        for section, (key, name) in _FILES.items()
    }
    return Found(**found)


def _located(named: object, places: list[Path]) -> Path | None:
    """Return the file; one that is named and not there, too, as FireWorks takes no other instead of it."""
    own, *others = places
    if isinstance(named, str) and not own.is_file():
        return Path(named).expanduser().absolute()
    return next((path.absolute() for path in (own, *others) if path.is_file()), None)


def database_in(answer: str) -> tuple[Path | None, Path | None]:
    """Return (launchpad file, URI file), one of them, for what somebody has named; raise ConfigError."""
    if not answer:
        raise ConfigError(
            "no my_launchpad.yaml was found, and no database is named",
            "name one: --launchpad my_launchpad.yaml, or --uri-file FILE with a mongodb:// URI in it",
        )
    if answer.startswith("mongodb"):
        raise ConfigError(
            "a URI is not taken here: it may hold a password",
            "write it into a file (0600), and name that",
        )
    path = Path(answer).expanduser().absolute()
    try:
        begins = path.read_text(encoding="utf-8")[:7]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"{path} cannot be read: {reason}") from None
    return (None, path) if begins == "mongodb" else (path, None)


def warnings(choices: Choices, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what somebody should know of the files that a configuration points at."""
    named = environ.get("FW_CONFIG_FILE")
    if named and not Path(named).expanduser().is_file():
        yield f"$FW_CONFIG_FILE names {named}, which is not there"
    for path in filter(None, (choices.launchpad, choices.uri_file)):
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield f"others can read {path}; if it holds a password, fwagent will not use it: chmod 600 {path}"


def scheduler(which: Callable[[str], str | None] = shutil.which) -> str:
    """Return the queue type whose commands are on PATH, ``local`` if there is none."""
    return next((kind for kind, name in _SCHEDULERS if which(name)), "local")


def usual_root(environ: Mapping[str, str]) -> str:
    """Return a launch root for jobs' data: on scratch, where the cluster has one."""
    scratch = next((name for name in ("SCRATCH", "WORK", "PSCRATCH") if environ.get(name)), "")
    return f"${scratch}/fireworks" if scratch else "~/fireworks"


def check(choices: Choices) -> None:
    """Raise InvalidSettings or ConfigError for files that cannot be used."""
    if choices.launchpad is not None:
        read_launchpad_file(choices.launchpad)
    elif choices.uri_file is not None and not choices.uri_file.is_file():
        raise ConfigError(
            f"there is no file {choices.uri_file}", "write the URI alone into it (0600)"
        )
    if choices.worker_file is not None:
        read_worker_file(choices.worker_file)


def toml(choices: Choices) -> str:
    """Return the configuration file, with comments."""
    return "\n".join(_lines(choices)) + "\n"


def _lines(choices: Choices) -> Iterator[str]:
    yield "# fwagent's configuration. All keys, with what they mean: config.example.toml. Check it: fwagent doctor"
    yield ""
    yield "[launchpad]"
    if choices.launchpad is not None:
        yield f"file = {_text(choices.launchpad)}   # FireWorks' own; its database and login"
    else:
        yield f"uri_file = {_text(choices.uri_file)}   # holds the MongoDB URI alone"
        yield f"name = {_text(choices.database)}"
    yield ""
    yield "[worker]   # this agent handles its launches and no others"
    if choices.worker_file is not None:
        yield f"file = {_text(choices.worker_file)}   # FireWorks' own; name, category, query, env"
    else:
        yield f"name = {_text(choices.worker)}"
        yield '# category = ""'
    yield ""
    yield "[launch]"
    yield f"root = {_text(choices.root)}   # launch directories are made below it"
    yield "max_queued = 50   # jobs of ours in the queue at once"
    yield ""
    runner = '# runner = "python3 ~/fwrunner.pyz"   # after `fwagent runner export ~/fwrunner.pyz`'
    yield "[queue]"
    if choices.queue:
        yield f"type = {_text(choices.queue)}"
    if choices.queue_file is not None:
        yield f"file = {_text(choices.queue_file)}   # FireWorks' own; the scheduler and its scripts"
        if not is_offline(read_adapter_file(choices.queue_file).get("rocket_launch")):
            yield "# its rocket_launch does not run offline; or, after `fwagent runner export ~/fwrunner.pyz`:"
            yield '# "python3 ~/fwrunner.pyz"'
            runner = 'runner = "python3 -m fwrunner"'
    elif choices.queue not in ("local", "none"):
        yield '# options = { account = "...", walltime = "02:00:00", nodes = 1 }   # for submit scripts'
    if choices.queue != "local":
        yield runner


def _text(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)


def write(path: Path, text: str, *, force: bool) -> None:
    """Write a configuration that only its owner can read; raise ConfigError if there is one already."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
    except FileExistsError:
        raise ConfigError(
            f"{path} is there already", "keep it, or have it replaced: fwagent init --force"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def about_root(root: str) -> str:
    """Return what is to be known of the file system of a launch root, for people."""
    mount = mount_of(Path(os.path.expandvars(root)).expanduser())
    if mount.remote:
        return f"{root} is on {mount.kind}: changes by compute nodes raise no event, the outbox is listed"
    return f"{root} is on {mount.kind}: changes are seen at once"
