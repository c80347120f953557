"""Submit scripts: from ``[queue.options]`` through qtoolkit, or from a user's adapter file as FireWorks makes them."""

from __future__ import annotations

import difflib
import re
import shlex
import string
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from agent.config import Config, ConfigError
from agent.jobs import Rejected
from agent.queue.settings import read_settings
from agent.queue.sge import job_name as sge_name
from agent.queue.tags import ARRAY_PLACE, MANIFEST
from fwcore.launchpad.records import Claim
from fwrunner.protocol import LAUNCH_VARIABLE

Options = Mapping[str, Any]

#: FireWorks' ``QUEUE_JOBNAME_MAXLEN``.
NAME_LENGTH = 20
_DEFAULT_NAME = "FW_job"
_SLUG = frozenset(f"-_.() {string.ascii_letters}{string.digits}")
_INDEX = {
    "slurm": "SLURM_ARRAY_TASK_ID",
    "pbs": "PBS_ARRAY_INDEX",
    "sge": "SGE_TASK_ID",
    "lsf": "LSB_JOBINDEX",
}
# A program that runs Fireworks, then words without a meaning to the shell but single quotes.
_ONE_COMMAND = re.compile(
    r"""([\w./~+-]*/)?(python[\d.]*|rlaunch|[\w.-]+\.pyz|env|srun)( +([\w./~+=:,@%-]+|'[^'\n]*'))*"""
)
_OR_END = " || exit 1"
#: Directives that make one submit several jobs.
_ARRAYS = {
    "slurm": re.compile(r"^#SBATCH\s(.*\s)?(--array\b|-a\s*\d)", re.MULTILINE),
    "pbs": re.compile(r"^#PBS\s(.*\s)?-[Jt]\s*\d", re.MULTILINE),
    "sge": re.compile(r"^#\$\s(.*\s)?-t\s*\d", re.MULTILINE),
    "lsf": re.compile(r"^#BSUB\s(.*\s)?-J\s*\S*\[", re.MULTILINE),
}
#: Options that are lines of the script, not directives.
_BODY = frozenset({"modules", "pre_rocket", "rocket_launch", "post_rocket"})


class BadOption(Rejected):
    """An option that no script can be made of."""


class _Style(NamedTuple):
    """How a scheduler's script is made: qtoolkit's words for its options, and what qtoolkit has none for."""

    prefix: str
    #: FireWorks' and common names: qtoolkit's.
    aliases: Mapping[str, str] = {}
    #: Name: directive, with ``{}`` for the value.
    extra: Mapping[str, str] = {}
    #: Name: directives for true and for false.
    flags: Mapping[str, tuple[str, str]] = {}
    #: What is always there, unless it is among the options.
    defaults: Mapping[str, str] = {}
    always: tuple[str, ...] = ()
    #: Options that qtoolkit has and the scheduler does not take in that form, or that are not the user's.
    without: frozenset[str] = frozenset()


_FILES = {"qout_path": "FW_job.out", "qerr_path": "FW_job.error"}

_STYLES = {
    "slurm": _Style(
        "#SBATCH",
        aliases={"walltime": "time", "queue": "partition", "license": "licenses"},
        extra={
            "core_spec": "--core-spec={}",
            "gpu_bind": "--gpu-bind={}",
            "gpus_per_task": "--gpus-per-task={}",
            "image": "--image={}",
            "ntasks_per_core": "--ntasks-per-core={}",
            "reservation": "--reservation={}",
            "signal": "--signal={}",
            "time_min": "--time-min={}",
            "volume": "--volume={}",
        },
        # sbatch refuses `--requeue=VALUE`.
        flags={"requeue": ("--requeue", "--no-requeue"), "exclusive": ("--exclusive", "")},
        defaults={"qout_path": "{job_name}-%j.out", "qerr_path": "{job_name}-%j.error"},
        without=frozenset({"array", "requeue", "exclusive"}),
    ),
    "pbs": _Style(
        "#PBS",
        aliases={
            "group_name": "group_list",
            "email": "mail_user",
            "notification_options": "mail_type",
        },
        extra={
            "filesystems": "-l filesystems={}",
            "mem": "-l mem={}",
            "mppwidth": "-l mppwidth={}",
            "nodes": "-l nodes={}",
            "pmem": "-l pmem={}",
            "project": "-P {}",
            "qos": "-l qos={}",
        },
        defaults=_FILES,
        without=frozenset({"array"}),
    ),
    "sge": _Style(
        "#$",
        aliases={"project": "device", "pe": "model", "resources": "select"},
        extra={"account": "-A {}"},
        defaults=_FILES,
        # Grid Engine starts the shell of the queue otherwise, often csh.
        always=("-S /bin/bash",),
        # `-cwd` takes no value, and there is no `-W group_list`.
        without=frozenset({"array", "cwd", "group_list"}),
    ),
    "lsf": _Style(
        "#BSUB",
        aliases={"nodes": "nnodes", "resources": "select"},
        extra={
            "account": "-P {}",
            "app": "-app {}",
            "gpu": "-gpu {}",
            "group": "-G {}",
            "job_name": "-J {}",
            "mail_user": "-u {}",
            "mem": "-M {}",
            "nnodes": "-nnodes {}",
            "ntasks": "-n {}",
            "priority": "-sp {}",
            "project": "-P {}",
            "qerr_path": "-e {}",
            "qos": "-sla {}",
            "qout_path": "-o {}",
            "queue": "-q {}",
            "select": "-R {}",
            "walltime": "-W {}",
        },
        flags={"exclusive": ("-x", ""), "requeue": ("-r", "-rn")},
        defaults={"qout_path": "{job_name}-%J.out", "qerr_path": "{job_name}-%J.error"},
    ),
}


def slug(name: str) -> str:
    """Return what FireWorks makes of a name (``get_slug``): it may be empty."""
    return "".join(letter for letter in name if letter in _SLUG).replace(" ", "_")


def plain_script(launch_dir: str, runner: str, launch_id: int) -> str:
    """Return a script without directives."""
    body = _body(shlex.quote(launch_dir), {"rocket_launch": runner}, str(launch_id))
    return f"#!/bin/sh\n{body}"


class Scripts:
    """Makes the submit scripts of a configuration."""

    def __init__(self, config: Config) -> None:
        """Read the adapter file, if there is one; raise ConfigError, also for an option that is none."""
        self._settings = read_settings(config)
        self._runner = config.runner
        self._array = config.queue.array and self._settings.type in _INDEX
        self._options = dict(config.queue.options)
        self._own_runner = config.queue.runner is not None
        if self._options and self._settings.type in _STYLES:
            try:
                self._checked(
                    options_script(
                        self._settings.type, {"rocket_launch": self._runner, **self._options}, "/"
                    )
                )
            except BadOption as error:
                raise ConfigError(f"queue.options: {error.title}", error.hint) from None
        if self._settings.adapter is not None:
            adapter = self._settings.adapter
            try:
                self._checked("\n".join([adapter.template, *map(str, adapter.values.values())]))
            except BadOption as error:
                raise ConfigError(f"queue.file: {error.title}", error.hint) from None

    def _checked(self, text: str) -> str:
        """Return a script if it makes one job: several would run one Firework in one directory."""
        pattern = _ARRAYS.get(self._settings.type)
        found = pattern.search(text) if pattern else None
        if found:
            raise BadOption(
                f"{found[0]!r} makes several jobs of one launch",
                "`array = true` in [queue] puts many launches into one job array",
            )
        return text

    def text(self, claim: Claim) -> str:
        """Return the script of a launch; raise BadOption."""
        return self._text(claim, shlex.quote(claim.launch_dir), str(claim.launch_id))

    def array_text(self, claim: Claim) -> str | None:
        """Return the script of an array that this launch may be in, None if it is to have a job of its own.

        It is the same for all launches that may be in one array: it finds the directory in the manifest of the array,
        in the directory that stands for `ARRAY_PLACE`. What it prints goes where it runs, as with a job of its own.
        """
        if not self._array or "\n" in claim.launch_dir:
            return None
        manifest = shlex.quote(f"{ARRAY_PLACE}/{MANIFEST}")
        number, place = (
            f'"$(sed -n "${{{_INDEX[self._settings.type]}}}s/{rest}//p" {manifest})"'
            for rest in ("[[:blank:]].*", "^[0-9]*[[:blank:]]")
        )
        there = f"{place} && test -e FW.json && exec >FW_job.out 2>FW_job.error"
        return self._text(claim, there + _OR_END, number, name="fireworks")

    def _text(self, claim: Claim, launch_dir: str, launch_id: str, name: str | None = None) -> str:
        firework = claim.firework
        override = (firework.get("spec") or {}).get("_queueadapter") or {}
        if not isinstance(override, Mapping):
            raise BadOption(f"_queueadapter is no object but {type(override).__name__}")
        # As FireWorks has it: the name of the Firework beats the file, `_queueadapter` beats both.
        job_name = slug(str(firework.get("name") or ""))[:NAME_LENGTH] if name is None else name
        adapter = self._settings.adapter
        if adapter is not None:
            # Of a runner that is named here it is ours to say what becomes of a `cd` that fails.
            there = (
                f"{_guarded(launch_dir)}\n{_told(launch_id)}" if self._own_runner else launch_dir
            )
            values = {**adapter.values, "job_name": job_name, **override}
            if not self._own_runner or "rocket_launch" in override:
                values["rocket_launch"] = _singleshot(str(values["rocket_launch"]), claim.fw_id)
            return self._checked(adapter_script(adapter.template, values, there))
        if self._settings.type not in _STYLES:
            return plain_script(claim.launch_dir, self._runner, claim.launch_id)
        options = {
            "rocket_launch": self._runner,
            "job_name": job_name,
            **self._options,
            **override,
        }
        return self._checked(options_script(self._settings.type, options, launch_dir, launch_id))


def _singleshot(command: str, fw_id: int) -> str:
    # What reservation mode adds; only rlaunch knows it.
    return f"{command} --fw_id {fw_id}" if "singleshot" in command else command


class _AdapterTemplate(string.Template):
    delimiter = "$$"


def adapter_script(template: str, values: Options, launch_dir: str) -> str:
    """Return the script that ``CommonAdapter.get_script_str`` makes of its template and values (2.1.4)."""
    given = {key: value for key, value in values.items() if value is not None}
    given.setdefault("job_name", _DEFAULT_NAME)
    text = _AdapterTemplate(template).safe_substitute(given, launch_dir=launch_dir)
    return "\n".join(line for line in text.split("\n") if "$$" not in line)


def options_script(kind: str, options: Options, launch_dir: str, launch_id: str = "") -> str:
    """Return the script of a scheduler for options; raise BadOption that names the one at fault.

    ``launch_dir`` and ``launch_id`` are as the shell is to read them.
    """
    style = _STYLES[kind]
    given = {key: value for key, value in options.items() if value is not None}
    if "rocket_launch" not in given:
        raise BadOption("rocket_launch is null: there is nothing to run", "leave it away")
    for key in given.keys() - _BODY - {"qverbatim"}:
        _check_value(key, given[key])
    given["job_name"] = _job_name(kind, str(given.get("job_name") or "") or _DEFAULT_NAME)
    for key, value in style.defaults.items():
        given.setdefault(key, value.format(job_name=given["job_name"]))
    words = {style.aliases.get(key, key): value for key, value in given.items() if key not in _BODY}
    known = _HEADERS[kind].known() - style.without
    _check_keys(kind, words, known | style.extra.keys() | style.flags.keys() | {"qverbatim"})
    header = _HEADERS[kind].header({key: words[key] for key in words.keys() & known})
    directives = [
        *style.always,
        *(
            style.extra[key].format(words[key])
            for key in style.extra
            if key in words and key not in known
        ),
        *(_flag(style.flags[key], words[key]) for key in style.flags if key in words),
    ]
    lines = [*header, *(f"{style.prefix} {directive}" for directive in directives if directive)]
    verbatim = _text_lines("qverbatim", words.get("qverbatim"))
    return "\n".join(["#!/bin/bash", *lines, *verbatim, _body(launch_dir, given, launch_id)])


def _body(launch_dir: str, options: Options, launch_id: str) -> str:
    """Return what the shell does: a `cd` that fails must not run the job somewhere else."""
    before = [
        f"module load {shlex.quote(name)}"
        for name in _text_lines("modules", options.get("modules"))
    ]
    before += _text_lines("pre_rocket", options.get("pre_rocket"))
    after = _text_lines("post_rocket", options.get("post_rocket"))
    runner = str(options["rocket_launch"])
    if after:
        status = ["fwagent_status=$?", f"unset {LAUNCH_VARIABLE}"]
        ran = [runner, *status, *after, "exit $fwagent_status"]
    else:
        # A signal to the batch shell, a warning before the time is over, reaches the runner if it takes the shell's
        # place: as far as it is one command.
        ran = [f"exec {runner}" if _ONE_COMMAND.fullmatch(runner) else runner]
    told = [_told(launch_id)] if launch_id else []
    return "\n".join([*before, *told, f"cd {_guarded(launch_dir)}", *ran, ""])


def _told(launch_id: str) -> str:
    """Return what tells the runner whose job it is, should the directory have been given to another launch."""
    return f"export {LAUNCH_VARIABLE}={launch_id}"


def _guarded(launch_dir: str) -> str:
    return launch_dir if launch_dir.endswith(_OR_END) else launch_dir + _OR_END


def _flag(directives: tuple[str, str], value: object) -> str:
    return directives[0 if value and str(value).lower() not in ("no", "false", "n", "0") else 1]


def _text_lines(key: str, value: object) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return value.split("\n")
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return value
    raise BadOption(f"{key} is neither a text nor a list of texts", "write one line each")


def _check_value(key: str, value: object) -> None:
    if isinstance(value, (str, int, float)):
        if not re.search(r"[\n\r]|\$\$", str(value)):
            return
        raise BadOption(f"{key} holds a line break or $$", "give each option one line")
    raise BadOption(
        f"{key} is {type(value).__name__}, not a text or a number", "see config.example.toml"
    )


def _check_keys(kind: str, words: Options, known: set[str]) -> None:
    style = _STYLES[kind]
    names = {*known, *style.aliases, *_BODY}
    for key in words:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), names, n=1, cutoff=0.6)
            hint = (
                f"did you mean {nearest[0]!r}? "
                if nearest
                else f"known are: {', '.join(sorted(names))}. "
            )
            raise BadOption(
                f"unknown option {key!r} for {kind}", f"{hint}Other directives: qverbatim"
            )


def _job_name(kind: str, name: str) -> str:
    if kind == "sge":
        return sge_name(name)
    if kind == "pbs" and not name[0].isalpha():
        return f"_{name}"
    return name


class _Header(NamedTuple):
    """Directives that others make: which options they know, and the lines."""

    known: Callable[[], set[str]]
    header: Callable[[dict[str, Any]], list[str]]


def _qtoolkit(module: str, name: str) -> _Header:
    def io() -> Any:
        from importlib import import_module

        return getattr(import_module(f"qtoolkit.io.{module}"), name)()

    def known() -> set[str]:
        from qtoolkit.io.base import QTemplate

        return set(QTemplate(io().header_template).get_identifiers()) - {"qverbatim"}

    def header(options: dict[str, Any]) -> list[str]:
        if (
            "select" in options
            and module == "pbs"
            and "=" not in str(options["select"]).split(":", 1)[0]
        ):
            options["select"] = f"select={options['select']}"
        return [line for line in io().generate_header(options).split("\n") if line]

    return _Header(known, header)


_HEADERS = {
    "slurm": _qtoolkit("slurm", "SlurmIO"),
    "pbs": _qtoolkit("pbs", "PBSIO"),
    "sge": _qtoolkit("sge", "SGEIO"),
    "lsf": _Header(set, lambda _options: []),
}
