"""What commands import, and what they cost before they begin; the completion of shells."""

import os
import subprocess
import sys

import pytest

from tests.support.agent import FWAGENT


def imported(*arguments):
    """Run the command line; return the modules that it has imported."""
    code = (
        "import os, sys\nleave = os._exit\n"
        "os._exit = lambda code: (print(*sorted(sys.modules), file=sys.stderr, flush=True), leave(code))\n"
        "sys.argv = ['fwagent', *sys.argv[1:]]\nfrom agent.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.stdout, done.stderr
    return set(done.stderr.split()), done.stdout


SLOW = {
    "pymongo",
    "pydantic",
    "rich",
    "structlog",
    "ruamel.yaml",
    "watchdog",
    "apscheduler",
    "prometheus_client",
}


# typer takes pydantic, where it is, for the arguments of a command.
@pytest.mark.parametrize(
    ("arguments", "needed"), [(["--help"], set()), (["status", "--help"], {"pydantic"})]
)
def test_help_imports_nothing_that_takes_long(arguments, needed):
    modules, _text = imported(*arguments)
    assert SLOW & modules <= needed


def test_help_lists_each_command_under_what_it_is_for():
    _modules, text = imported("--help")
    daemon = text.split("\nThe daemon:\n")[1].split("\n\n")[0]
    names = [line.split()[0] for line in daemon.splitlines() if not line.startswith("   ")]
    assert names == ["run", "drain", "pause", "resume", "stop"]
    assert all(len(line) <= 100 for line in text.splitlines())


def test_a_command_ends_at_once_although_pymongo_has_threads(tmp_path):
    code = (
        "import sys, threading, time\nfrom agent import cli\n"
        "threading.Thread(target=time.sleep, args=[60]).start()\n"
        "sys.argv = ['fwagent', '--version']\ncli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.startswith("fwagent ")


def test_nobody_reads_what_is_printed():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*FWAGENT, "--version"], stdout=writer, stderr=subprocess.PIPE, timeout=30, check=False
        )
    finally:
        os.close(writer)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


def completed(words):
    """Ask as the script for bash does; return what may stand for the last word."""
    environment = {
        **os.environ,
        "_FWAGENT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    return subprocess.run(
        FWAGENT, env=environment, capture_output=True, text=True, timeout=60, check=False
    ).stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("fwagent re", {"recover", "register", "report", "rerun", "resume"}),
        ("fwagent dra", {"drain"}),
        ("fwagent service ins", {"install"}),
        ("fwagent drain --no", {"--no-wait"}),
        ("fwagent runs -s R", {"READY", "RESERVED", "RUNNING"}),
        ("fwagent rerun --state FI", {"FIZZLED"}),
    ],
)
def test_completion(words, found):
    assert set(completed(words)) == found


def test_the_script_for_bash_is_one_that_bash_takes(tmp_path):
    """As `eval` takes it: the function is there, bound to the command, and gives commands."""
    environment = {**os.environ, "_FWAGENT_COMPLETE": "source_bash", "HOME": str(tmp_path)}
    script = subprocess.run(
        FWAGENT, env=environment, capture_output=True, text=True, timeout=60, check=False
    ).stdout
    place = os.path.dirname(FWAGENT[0])  # noqa: PTH120
    words = "COMP_WORDS=(fwagent dr); COMP_CWORD=1; _fwagent_completion fwagent; "
    words += 'echo "${COMPREPLY[@]}"; complete -p fwagent'
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{words}"],
        env={**os.environ, "PATH": f"{place}:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "drain",
        "complete -o default -F _fwagent_completion fwagent",
    ], done


def test_an_option_that_the_driver_does_not_know_is_one_line(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(
        f'[launch]\nroot = "{tmp_path}"\n[worker]\nname = "w"\n[queue]\ntype = "none"\n',
        encoding="utf-8",
    )
    uri = "mongodb://127.0.0.1:1/?authsorce=admin&serverSelectionTimeoutMS=100"
    done = subprocess.run(
        [*FWAGENT, "--config", str(config), "status"],
        env={**os.environ, "FWAGENT_LAUNCHPAD_URI": uri},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr.startswith("warning: Unknown option: authsorce")
    assert done.stderr.count("\n") == 1
