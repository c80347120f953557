"""Calls of `fwagent` that are parsed, and not run; and all commands that there are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from typer.main import get_command

from agent.cli import commands


def all_commands(group: Any = None, before: str = "") -> dict[str, Any]:
    """Return {name: command} of all that can be called, those of groups as ``group name``."""
    found: dict[str, Any] = {}
    for name, command in (group or command_line()).commands.items():
        if hasattr(command, "commands"):
            found |= all_commands(command, f"{before}{name} ")
        else:
            found[before + name] = command
    return found


@cache
def command_line() -> Any:
    return get_command(commands())


def parsed(words: Sequence[str]) -> tuple[str, Any]:
    """Return (command, its context); click's own error where it does not parse."""
    command: Any = command_line()
    context = command.make_context("fwagent", list(words))
    name = []
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        if not rest:
            break
        given, command, rest = command.resolve_command(context, rest)
        name.append(given)
        # What is only named need not have what it cannot do without.
        context = command.make_context(given, rest, parent=context, resilient_parsing=not rest)
    return " ".join(name), context
