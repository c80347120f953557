"""How long commands take to start, beside bare Python and FireWorks' `lpad --help`.

    FWAGENT_FIREWORKS_VENV=.venv-fireworks .venv/bin/python -m benchmarks.startup

The best of several runs of each, taken by turns; seconds of wall clock, and of processor time, which a busy machine
changes less. `status` asks a throwaway MongoDB on this host. Wanted: `--help` 0.15 s, `status` 0.5 s.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from agent.mongod import Mongod, find_mongod
from fwcore.launchpad import LaunchPad

RUNS = 10


def took(command: list[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Run a command; return the seconds it took, by the clock and of processor time."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=60)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def configured(home: Path, uri: str) -> Path:
    launchpad = LaunchPad.from_uri(uri, "startup")
    launchpad.initialize()
    launchpad.close()
    path = home / "config.toml"
    path.write_text(
        f'[launchpad]\nuri = "{uri}"\nname = "startup"\n[worker]\nname = "w"\n'
        f'[launch]\nroot = "{home}/fw"\n[queue]\ntype = "none"\n',
        encoding="utf-8",
    )
    path.chmod(0o600)
    return path


def main() -> None:
    fireworks = Path(os.environ.get("FWAGENT_FIREWORKS_VENV", ".venv-fireworks")) / "bin"
    # Only with compiled modules, as they are installed.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with (
        tempfile.TemporaryDirectory() as folder,
        Mongod(Path(folder, "mongod"), binary=find_mongod()) as server,
    ):
        fwagent = [
            sys.executable,
            "-m",
            "agent",
            "--config",
            str(configured(Path(folder), server.uri)),
        ]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "fwagent --help": [*fwagent, "--help"],
            "fwagent status": [*fwagent, "status"],
            "import pymongo, pydantic": [sys.executable, "-c", "import pymongo, pydantic"],
        }
        if (fireworks / "lpad").exists():
            commands["lpad --help"] = [str(fireworks / "lpad"), "--help"]
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(RUNS):
            for name, command in commands.items():
                times[name].append(took(command, environment))
    print(f"{'command':<26}{'wall':>8}{'processor':>11}")
    for name, runs in times.items():
        walls, seconds = zip(*runs, strict=True)
        print(f"{name:<26}{min(walls):>8.3f}{min(seconds):>11.3f}")


if __name__ == "__main__":
    main()
