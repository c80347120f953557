"""The pictures of README.md: what `fwagent demo` and `fwagent status` print, as SVG. `make pictures` runs it.

Both are real, on a throwaway database; only the name of this host is replaced. The SVGs load nothing: rich's template
asks for a font on the web, which is taken out.
"""

from __future__ import annotations

import io
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from agent.config import load_config
from agent.demo import host, show
from agent.demo.screen import WIDTH, AgentLog, Screen
from agent.status import collect, lines
from fwcore.launchpad import LaunchPad

HERE = Path(__file__).parent
_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_HOST = "login01"
_DEADLINE = 30.0


def without_fonts(text: str) -> str:
    """Return an SVG of rich without the fonts that it would load, and its comments."""
    text = re.sub(r"@font-face \{.*?\n    \}", "", text, flags=re.DOTALL)
    text = text.replace("Fira Code, monospace", _FONT).replace(
        "font-family: arial", "font-family: sans-serif"
    )
    text = re.sub(r" *<!--.*?-->\n", "", text)
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


def recorder() -> Console:
    """Return a console that keeps what is printed."""
    return Console(
        record=True,
        file=io.StringIO(),
        width=WIDTH,
        force_terminal=True,
        color_system="truecolor",
        highlight=False,
    )


def write(console: Console, name: str) -> None:
    """Write what a console has kept; refuse what tells of this machine."""
    text = without_fonts(console.export_svg(title=f"fwagent {name}", unique_id=name))
    for private in (socket.gethostname(), tempfile.gettempdir() + "/", str(Path.home()) + "/"):
        if private in text:
            raise SystemExit(f"{name}: the picture would show {private!r}")
    (HERE / f"{name}.svg").write_text(text, encoding="utf-8")


class _Still(Screen):
    """The demo's screen at its end, without what moved before."""

    kept: Console

    def __init__(self, names: Mapping[int, str], expected: Mapping[int, str]) -> None:
        super().__init__(names, expected)
        self._console = _Still.kept = recorder()

    @property
    def _live_possible(self) -> bool:
        return False

    def update(self, states: Mapping[int, str], log: AgentLog) -> None:
        """Show nothing yet."""


def demo() -> None:
    """Draw a demo."""
    setattr(show, "Screen", _Still)  # noqa: B010 - a name that the module imports
    if status := show.run_demo(None, keep=False):
        sys.exit(status)
    write(_Still.kept, "demo")


def _task(script: str) -> dict[str, Any]:
    return {"_tasks": [{"_fw_name": "ScriptTask", "script": script}]}


def workflow() -> dict[str, Any]:
    """Return eight quick Fireworks, four that take their time, twelve that wait in the queue, and one child of all."""
    scripts = ["true"] * 8 + ["sleep 60"] * 4 + ["true"] * 12
    fws = [
        {
            "fw_id": number,
            "name": f"relax {number}",
            "spec": {**_task(script), "_priority": -number},
        }
        for number, script in enumerate(scripts, 1)
    ]
    fws.append({"fw_id": 99, "name": "summary", "spec": _task("true")})
    return {"name": "pictures", "fws": fws, "links": {str(n): [99] for n in range(1, len(fws))}}


def status() -> None:
    """Draw the status of an agent at work."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="fwagent-picture-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = host.throwaway_server(folder)
        stack.callback(server.stop)
        host.start_server(server, _DEADLINE)
        launchpad = LaunchPad.from_uri(server.uri, "fireworks")
        stack.callback(launchpad.close)
        launchpad.initialize()
        launchpad.add(workflow())
        config = host.write_config(folder, server.uri, "fireworks", [])
        config.write_text(config.read_text("utf-8").replace('"demo"', '"perlmutter"'), "utf-8")
        stack.callback(host.end_jobs, folder / "launches")
        daemon = host.Daemon(folder, config)
        stack.callback(daemon.stop)
        daemon.start()
        console = recorder()
        for line in _settled(config):
            console.print(Text(line), soft_wrap=True)
        write(console, "status")


def _settled(config: Path) -> list[str]:
    """Return the status once the quick ones are done and all that may run does, each with a second ping."""
    end = time.monotonic() + _DEADLINE
    while time.monotonic() < end:
        document = collect(load_config(config))
        told = [ping["rss"] for ping in document["running"] or [] if ping["rss"] is not None]
        if document["fireworks"].get("COMPLETED", 0) >= 8 and len(told) >= 4:
            return [line.replace(socket.gethostname(), _HOST) for line in lines(document)]
        time.sleep(0.5)
    raise SystemExit("the agent did not come to where the picture is taken")


if __name__ == "__main__":
    status()
    demo()
