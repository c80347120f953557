"""fwagent as a service of the user's systemd: its unit files, and what systemctl says of it.

A user manager knows nothing of the shell that people configure their clusters in. So what the agent needs of that
environment, and where this fwagent is, goes into a drop-in of the unit, which is the one of ``deploy/systemd``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import agent
from agent.config import URI_VARIABLE, Config
from fwcore.errors import FwagentError

UNITS = ("fwagent.service", "fwagent@.service", "fwagent-tunnel@.service")
#: What the commands of queues and the C library go by, beside what the configuration names.
PASSED_ON = (
    *("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "FWAGENT_LOG"),
    *("SLURM_CONF", "PBS_CONF_FILE", "PBS_SERVER", "PBS_DEFAULT"),
    *("SGE_ROOT", "SGE_CELL", "SGE_CLUSTER_NAME", "SGE_QMASTER_PORT", "SGE_EXECD_PORT"),
    *("LSF_ENVDIR", "LSF_SERVERDIR", "LSF_LIBDIR", "LSF_BINDIR"),
)
#: Queue types whose jobs, or whose commands, what ``batch-queue.conf`` asks for would break.
_UNBOUND = ("local", "pbs")
# Seconds; systemctl waits for nothing else than the manager's answer here.
_TIMEOUT = 30.0
_SHOWN = (
    *("LoadState", "UnitFileState", "ActiveState", "SubState", "StatusText", "MainPID"),
    *("NRestarts", "Result", "StateChangeTimestamp"),
)

_WITHOUT = (
    "run it by cron instead: `* * * * * {command} sync` in `crontab -e` (runs that overlap do no harm), "
    "or `{command} run` in tmux"
)


class ServiceError(FwagentError):
    """systemd cannot do what is asked for."""


@dataclass(frozen=True)
class Service:
    """One service: ``fwagent``, or an instance of ``fwagent@`` for a configuration of that name."""

    instance: str = ""

    @property
    def unit(self) -> str:
        """The name of the unit."""
        return f"fwagent@{self.instance}.service" if self.instance else "fwagent.service"

    @property
    def file(self) -> str:
        """The name of the file that describes it, a template for instances."""
        return "fwagent@.service" if self.instance else "fwagent.service"


def unit_directory(environ: Mapping[str, str]) -> Path:
    """Return where the user's own units are."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111
    return Path(base) / "systemd" / "user"


def shipped(name: str) -> str:
    """Return a file of ``deploy/systemd``: in a checkout from there, else from the installed package."""
    package = Path(agent.__file__).parent
    for directory in (package / "systemd", package.parent / "deploy" / "systemd"):
        if (directory / name).is_file():
            return (directory / name).read_text(encoding="utf-8")
    raise ServiceError(f"{name} is missing from this installation", "install fwagent again")


def files(
    service: Service,
    config: Config,
    config_path: Path,
    environ: Mapping[str, str],
    *,
    credential: Path | None = None,
    host: str = "",
) -> dict[str, str]:
    """Return {path below the unit directory: text} of what makes the service.

    ``credential`` is a file with the database's URI; ``host`` the only one where the service starts. Raises
    ServiceError for a configuration that depends on a secret in the environment: a unit file would show it.
    """
    if URI_VARIABLE in environ and credential is None:
        raise ServiceError(
            f"${URI_VARIABLE} would not be there for a service",
            "write the URI into a file that only you can read, and give it as launchpad.uri_file, or here "
            "by --credential FILE",
        )
    below = f"{service.unit}.d"
    found = {
        service.file: shipped(service.file),
        f"{below}/here.conf": _here(config_path, environ, credential, host),
    }
    if config.queue.type not in _UNBOUND:
        found[f"{below}/batch-queue.conf"] = shipped("batch-queue.conf")
    return found


def _here(config_path: Path, environ: Mapping[str, str], credential: Path | None, host: str) -> str:
    text = config_path.read_text(encoding="utf-8")
    named = {a or b for a, b in re.findall(r"\$(?:(\w+)|\{(\w+)\})", text)} - {"HOME"}
    passed = {
        name: environ[name]
        for name in dict.fromkeys((*PASSED_ON, *sorted(named)))
        if name in environ
    }
    lines = ["# Written by `fwagent service install`.", ""]
    if host:
        lines += ["[Unit]", f"ConditionHost={host}", ""]
    lines += ["[Service]", "ExecStart="]
    words = [*command(), "--config", str(config_path), "run"]
    lines.append(f"ExecStart={' '.join(_word(word).replace('$', '$$') for word in words)}")
    lines += [f"Environment={_word(f'{name}={value}')}" for name, value in passed.items()]
    if credential is not None:
        lines.append(f"LoadCredential=launchpad_uri:{str(credential).replace('%', '%%')}")
    return "\n".join(lines) + "\n"


def command() -> list[str]:
    """Return the command of this very fwagent, as absolute paths."""
    beside = Path(sys.executable).parent / "fwagent"
    if beside.is_file():
        return [str(beside)]
    found = shutil.which("fwagent")
    if found is None:
        raise ServiceError(
            "there is no command `fwagent`", "install the package: pip install fwagent"
        )
    return [os.path.abspath(found)]  # noqa: PTH100 - a link to it may be the only lasting name


def _word(word: str) -> str:
    """Return a word as a unit file has it (systemd.syntax(7)); raise ServiceError if it cannot have it."""
    if not word.isprintable():
        raise ServiceError(
            f"{word!r:.60} cannot stand in a unit file", "it has a control character: change that"
        )
    escapes = {"\\": "\\\\", '"': '\\"', "%": "%%"}
    return f'"{"".join(escapes.get(character, character) for character in word)}"'


def write(found: Mapping[str, str], environ: Mapping[str, str]) -> list[Path]:
    """Write the files of a service, others' drop-ins stay; return their paths."""
    directory = unit_directory(environ)
    paths = []
    for name, text in found.items():
        path = directory / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ServiceError(f"{path} cannot be written: {error.strerror}") from None
        paths.append(path)
    return paths


def remove(service: Service, environ: Mapping[str, str]) -> list[Path]:
    """Remove what ``write`` has written; a template that other instances use stays. Returns what went."""
    directory = unit_directory(environ)
    below = directory / f"{service.unit}.d"
    gone = [below / "here.conf", below / "batch-queue.conf"]
    if not service.instance or not [d for d in directory.glob("fwagent@*.service.d") if d != below]:
        gone.append(directory / service.file)
    gone = [path for path in gone if path.exists()]
    for path in gone:
        path.unlink()
    if below.is_dir() and not any(below.iterdir()):
        below.rmdir()
    return gone


def systemctl(*arguments: str, timeout: float = _TIMEOUT) -> str:
    """Return what ``systemctl --user`` prints; raise ServiceError with its words."""
    return _run(["systemctl", "--user", "--no-pager", *arguments], timeout)


def check_manager() -> None:
    """Raise ServiceError, with what to do instead, if this user has no systemd here."""
    try:
        systemctl("show-environment")
    except ServiceError as error:
        hint = _WITHOUT.format(command=" ".join(command()))
        raise ServiceError(f"there is no systemd for users here: {error.title}", hint) from None


def lingers() -> bool:
    """Have the user's services go on after logout, if that is allowed; tell whether they will."""
    try:
        if not lingering():
            _run(["loginctl", "enable-linger"], _TIMEOUT)
    except ServiceError:
        return False
    return True


def lingering() -> bool:
    """Tell whether the user's services go on after logout; raise ServiceError where that is not told."""
    told = _run(["loginctl", "show-user", str(os.getuid()), "--property=Linger"], _TIMEOUT)
    return "yes" in told


def state(service: Service) -> dict[str, Any]:
    """Return what systemd says of a service.

    ``unit``, ``installed``, ``enabled``, ``active`` (``active``, ``activating``, ``inactive``, ``failed`` ...),
    ``status`` (the agent's own line), ``pid``, ``restarts``, ``result``, ``since`` (a text, or null).
    """
    told = systemctl("show", service.unit, f"--property={','.join(_SHOWN)}")
    values = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    return {
        "unit": service.unit,
        "installed": values.get("LoadState") == "loaded",
        "enabled": values.get("UnitFileState") == "enabled",
        "active": values.get("ActiveState", "unknown"),
        "status": values.get("StatusText", ""),
        "pid": int(values.get("MainPID") or 0) or None,
        "restarts": int(values.get("NRestarts") or 0),
        "result": values.get("Result", ""),
        "since": values.get("StateChangeTimestamp") or None,
    }


def log_command(service: Service, lines: int, *, follow: bool) -> list[str]:
    """Return the command that shows the log of a service."""
    more = ["--follow"] if follow else ["--no-pager"]
    return ["journalctl", f"--user-unit={service.unit}", f"--lines={lines}", "--quiet", *more]


def _run(arguments: list[str], timeout: float) -> str:
    try:
        done = subprocess.run(
            arguments,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise ServiceError(f"there is no {arguments[0]}") from None
    except OSError as error:
        raise ServiceError(f"{arguments[0]} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ServiceError(f"{arguments[0]} has not answered for {timeout:.0f} s") from None
    if done.returncode != 0:
        words = " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}"
        raise ServiceError(f"{arguments[0]}: {words}")
    return done.stdout
