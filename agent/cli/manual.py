"""What `--help` says at the end of each command, as a man page does: examples, exit statuses, files. Data alone."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import typer

#: Columns, less what click indents.
_WIDTH = 76
_CONFIG = "~/.config/fwagent/config.toml"
_NO_CONFIG = "2 usage or configuration"
_NO_DATABASE = "4 the database could not be reached"
_DEFERRED = "3 something was deferred and will be retried"


@dataclass(frozen=True)
class Manual:
    """``examples`` are (call, what it does). ``statuses`` and ``files`` leave out 0 and the configuration."""

    examples: tuple[tuple[str, str], ...]
    statuses: tuple[str, ...] = (_NO_CONFIG, _NO_DATABASE)
    files: tuple[str, ...] = ()
    configured: bool = True


_SELECTED = ("1 nothing was selected, or some were left alone", _NO_CONFIG, _DEFERRED, _NO_DATABASE)
_ASKED = (
    _NO_CONFIG,
    "3 the agent has not answered in time; it will follow nevertheless",
    _NO_DATABASE,
)
_OUTBOX = "ROOT/.fwagent/outbox: reports of jobs"

MANUALS = {
    "init": Manual(
        (
            ("fwagent init --dry-run", "what would be written"),
            ("fwagent init --yes --queue slurm --root '$SCRATCH/fireworks'", "ask nothing"),
            ("fwagent init --uri-file ~/.config/fwagent/uri", "without a my_launchpad.yaml"),
        ),
        ("2 there is a configuration already, or none can be made",),
        (
            "~/.fireworks/FW_config.yaml, my_launchpad.yaml, my_fworker.yaml, my_qadapter.yaml: read",
        ),
    ),
    "run": Manual(
        (
            ("fwagent run", "in the foreground, until Ctrl-C"),
            ("FWAGENT_LOG=json fwagent run --verbose", "log all, an object a line"),
            ("tmux new-session -d -s fwagent 'fwagent run'", "where there is no systemd"),
        ),
        ("1 it was ended by a fault", _NO_CONFIG),
        (
            _OUTBOX,
            "ROOT/.fwagent/WORKER-*/status.json: what `status` shows while the database is down",
        ),
    ),
    "drain": Manual(
        (
            ("fwagent drain", "before a maintenance of the cluster: nothing new, all of the old"),
            ("fwagent drain --no-wait", "say it, and do not wait for the agent's answer"),
        ),
        _ASKED,
    ),
    "pause": Manual(
        (
            ("fwagent pause", "before a maintenance of the database"),
            ("fwagent pause --timeout 300", "wait longer for what it has begun"),
        ),
        _ASKED,
    ),
    "resume": Manual((("fwagent resume", "after `drain` or `pause`"),), _ASKED),
    "stop": Manual(
        (
            ("fwagent stop", "the agent of this worker, on whichever login node"),
            ("fwagent stop --json", "which one that was, and who took over"),
        ),
        (_NO_CONFIG, "3 it has not ended in time; it will after its present pass", _NO_DATABASE),
    ),
    "sync": Manual(
        (
            ("fwagent sync", "one pass"),
            ("*/5 * * * *  fwagent sync >>$HOME/fwagent.log 2>&1", "as a cron line"),
            ("fwagent sync --json", "what it did, for scripts"),
        ),
        (_NO_CONFIG, f"{_DEFERRED}, or another agent is at work", _NO_DATABASE),
        (_OUTBOX,),
    ),
    "recover": Manual(
        (
            ("fwagent recover", "all that may still report"),
            ("fwagent recover -i 7 -i 8", "of these Fireworks only"),
            ("fwagent recover --rescue FW_job.error", "from the stderr of a job"),
        ),
        (_NO_CONFIG, _DEFERRED, _NO_DATABASE),
        (_OUTBOX, "~/.fwagent/rescue: reports that had no other place"),
    ),
    "launch": Manual(
        (
            ("fwagent launch", "as many as the queue may hold"),
            ("fwagent launch -n 1 --stage-only", "one launch directory, and submit it yourself"),
            ("fwagent launch -i 7", "this Firework"),
        ),
        ("1 a Firework asked for was not launched", _NO_CONFIG, _DEFERRED, _NO_DATABASE),
        (
            "ROOT/block_*/launcher_*: launch directories, with FW.json, FW_offline.json, FW_submit.script",
        ),
    ),
    "add": Manual(
        (
            ("fwagent add workflow.yaml", "one workflow"),
            ("fwagent add --json a.yaml b.json", "which fw_ids they got"),
        ),
    ),
    "unlock": Manual(
        (
            ("fwagent unlock 7", "the workflow of Firework 7; asks first"),
            ("fwagent unlock --yes 7 12", "two, without asking"),
        ),
        ("1 a lock was kept", "2 nothing was confirmed, usage or configuration", _NO_DATABASE),
    ),
    "demo": Manual(
        (
            (
                "fwagent demo",
                "on a throwaway database; needs `pip install 'fwagent[demo]'` or a mongod",
            ),
            ("fwagent demo --uri mongodb://localhost:27017/ --keep", "on your server, and keep it"),
        ),
        ("1 the database does not say what it should",),
        configured=False,
    ),
    "status": Manual(
        (
            ("fwagent status", "one screen"),
            ("fwagent status --watch", "again every 2 s"),
            ("fwagent status --json", "for scripts; docs/json-outputs.md has the keys"),
        ),
        files=("ROOT/.fwagent/WORKER-*/status.json: read when the database is down",),
    ),
    "runs": Manual(
        (
            ("fwagent runs", "the newest 20"),
            ("fwagent runs -s RUNNING -l 100", "running ones, with their last pings"),
            ("fwagent runs -s FIZZLED --since 2d -n relax", "what failed of that name"),
        ),
    ),
    "report": Manual(
        (
            ("fwagent report", "the last 30 days, into fwagent-report.html"),
            ("fwagent report --since 7d -o week.html", "a week"),
            ("fwagent report --any-worker --json", "the figures, of all workers"),
        ),
        ("1 the page cannot be written", _NO_CONFIG, _NO_DATABASE),
    ),
    "doctor": Manual(
        (
            ("fwagent doctor", "all checks"),
            ("fwagent doctor --job", "and a job through the queue and back"),
            ("fwagent doctor --json", "for scripts"),
        ),
        ("1 a check fails", _NO_CONFIG),
    ),
    "explain": Manual(
        (
            ("fwagent explain 7", "Firework 7"),
            ("fwagent explain 7 --json", "all that is known of it"),
        ),
        ("1 there is no such Firework", _NO_CONFIG, _NO_DATABASE),
    ),
    "dirs": Manual((("fwagent dirs", "where the agent looks"),)),
    "register": Manual(
        (("fwagent register /scratch/me/moved/launcher_1", "look for its launch there"),),
        ("1 a directory was refused", _NO_CONFIG, _NO_DATABASE),
        ("DIR/FW_offline.json: tells the launch",),
    ),
    "unregister": Manual(
        (("fwagent unregister /scratch/me/moved/launcher_1", "not any more"),),
        ("1 one was not registered", _NO_CONFIG, _NO_DATABASE),
    ),
    "rerun": Manual(
        (
            ("fwagent rerun -i 7", "one Firework"),
            ("fwagent rerun -s FIZZLED -n relax --yes", "all that failed of that name"),
            ("fwagent rerun -i 7 --task-level --previous-dir", "on from its checkpoint"),
        ),
        _SELECTED,
    ),
    "defuse": Manual(
        (
            ("fwagent defuse -i 7", "one Firework"),
            ('fwagent defuse -q \'{"spec.tag": "old"}\'', "those that a filter finds"),
        ),
        _SELECTED,
    ),
    "forget": Manual(
        (("fwagent forget -i 7", "its report is not looked for any more"),),
        _SELECTED,
    ),
    "runner export": Manual(
        (
            ("fwagent runner export ~/fwrunner.pyz", "where compute nodes see it"),
            ("python3 ~/fwrunner.pyz LAUNCH_DIR", "what the job script then runs"),
        ),
        ("1 it cannot be written",),
        configured=False,
    ),
    "service install": Manual(
        (
            ("fwagent service install", "and start it"),
            ("fwagent service install --dry-run", "the unit files, and nothing else"),
            (
                "fwagent service install --instance other --here-only",
                "a second agent, on this host",
            ),
        ),
        ("1 systemd of yours does not answer", _NO_CONFIG),
        ("~/.config/systemd/user/fwagent.service, fwagent.service.d/: written",),
    ),
    "service uninstall": Manual(
        (("fwagent service uninstall", "jobs and configuration stay"),),
        ("1 systemd of yours does not answer",),
        ("~/.config/systemd/user/fwagent.service, fwagent.service.d/: removed",),
        configured=False,
    ),
    "service status": Manual(
        (
            ("fwagent service status", "what systemd knows of it"),
            ("fwagent service status --instance other", "of another agent"),
        ),
        ("1 it is not active",),
        configured=False,
    ),
    "service logs": Manual(
        (
            ("fwagent service logs -n 100", "the newest lines"),
            ("fwagent service logs --follow", "as they are written"),
        ),
        ("1 there is no journalctl",),
        configured=False,
    ),
}


def add_to(app: typer.Typer, before: str = "") -> None:
    """Give every command of an application, and of its groups, what it has here as the end of its help."""
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        if manual := MANUALS.get(before + name):
            # What begins with \b is printed as it is; the line that is empty ends that.
            command.epilog = "\b\n" + "\n".join(_lines(manual)).replace("\n\n", "\n\n\b\n")
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_to(group.typer_instance, f"{before}{group.name} ")


def _lines(manual: Manual) -> Iterator[str]:
    yield "Examples:"
    for call, what in manual.examples:
        prompt = "" if call.startswith("*") else "$ "  # a cron line is not typed
        yield f"  {prompt}{call}"
        yield from _folded(what, "      ")
    yield "\nExit status:"
    for status in ("0 done", *manual.statuses):
        yield from _folded(status, "  ", hang=2)
    files = [f"{_CONFIG}, or $FWAGENT_CONFIG: the configuration"] if manual.configured else []
    files += manual.files
    if files:
        yield "\nFiles:"
    for each in files:
        yield from _folded(each, "  ", hang=4)


def _folded(text: str, indent: str, hang: int = 0) -> list[str]:
    more = indent + " " * hang
    return wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=more, break_on_hyphens=False)
