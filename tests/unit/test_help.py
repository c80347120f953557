"""`--help` as a man page: what a command does, its options, examples that parse, exit statuses, files."""

import shlex

import pytest
from typer.testing import CliRunner

from agent.cli import commands
from agent.cli.manual import MANUALS
from tests.support.calls import all_commands, parsed

COMMANDS = all_commands()


def test_every_command_has_a_manual_and_no_other():
    assert set(MANUALS) == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_says_all_of_it(name):
    shown = CliRunner().invoke(commands(), [*name.split(), "--help"], env={"COLUMNS": "80"})
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(shown.output.split())
    for call, what in MANUALS[name].examples:
        assert any(line.endswith(call) for line in lines)
        assert " ".join(f"{call} {what}".split()) in text
    assert "Exit status: 0 done" in text
    for each in (*MANUALS[name].statuses, *MANUALS[name].files):
        assert each in text
    assert MANUALS[name].configured == ("config.toml, or $FWAGENT_CONFIG: the conf" in text)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_is_explained(name):
    unexplained = [each.name for each in COMMANDS[name].params if not getattr(each, "help", "")]
    assert unexplained == []


CALLS = [(name, call) for name, manual in MANUALS.items() for call, _what in manual.examples]


@pytest.mark.parametrize(("name", "call"), CALLS)
def test_an_example_parses(name, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FW_job.error").touch()
    if name == "runner export" and call.startswith("python3"):
        return
    words = shlex.split(call.partition(" >>")[0])
    if words[-1].startswith("fwagent "):  # tmux is given a line
        words = shlex.split(words[-1])
    found, _context = parsed(words[words.index("fwagent") + 1 :])
    assert found == name


def test_statuses_are_told_in_order():
    for name, manual in MANUALS.items():
        numbers = [int(each.partition(" ")[0]) for each in manual.statuses]
        assert numbers == sorted(set(numbers)), name
        assert set(numbers) <= {1, 2, 3, 4}
        assert manual.examples
