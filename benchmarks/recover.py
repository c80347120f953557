"""`fwagent recover` against `lpad recover_offline`, side by side on one mongod, in one run.

    .venv/bin/python benchmarks/recover.py [--workflows 300]

Both get the same thing: a database of two-Firework workflows whose first Firework is RESERVED and whose launch
directories say COMPLETED (with an update_spec for the child). Both are started as a user would, start-up
included; the time of an empty recovery is told too. Needs what `make test` installs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agent.mongod import Mongod
from benchmarks.staging import pair, reserve, run
from fwcore.launchpad import LaunchPad
from tests.support.fireworks import FireWorks
from tests.support.mongod import Client, connect


def stage(uri: str, name: str, root: Path, count: int) -> None:
    """Fill a database with workflows whose first Firework has run and was not recovered."""
    launchpad = LaunchPad.from_uri(uri, name)
    launchpad.initialize()
    for _ in range(count):
        launchpad.add(pair())
    run(reserve(launchpad, root, count))
    launchpad.close()


def measured(client: Client, command: Callable[[], object]) -> tuple[float, int]:
    """Return (seconds, requests that the server received) of a command."""
    before = client.admin.command("serverStatus")["network"]["numRequests"]
    start = time.perf_counter()
    command()
    seconds = time.perf_counter() - start
    after = client.admin.command("serverStatus")["network"]["numRequests"]
    return seconds, after - before - 1


def ready(client: Client, name: str) -> int:
    """Return how many children a recovery has released."""
    return client[name].fireworks.count_documents({"name": "n2", "state": "READY"})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workflows", type=int, default=300)
    count = parser.parse_args().workflows
    with tempfile.TemporaryDirectory() as scratch, Mongod(Path(scratch) / "mongod") as server:
        home = Path(scratch)
        theirs = FireWorks(home / "home", server, "theirs")
        config = home / "fwagent.toml"
        config.write_text(
            f'[launchpad]\nuri = "{server.uri}"\nname = "ours"\n[worker]\nname = "test-worker"\n'
            f'[launch]\nroot = "{home / "ours"}"\n[queue]\ntype = "none"\n'
        )
        for name in ("theirs", "ours"):
            stage(server.uri, name, home / name, count)
        ours = [sys.executable, "-m", "agent", "recover", "--config", str(config)]
        commands: dict[str, Callable[[], object]] = {
            "lpad recover_offline": lambda: theirs.run("lpad", "recover_offline", timeout=600),
            "fwagent recover": lambda: subprocess.run(ours, check=True, capture_output=True),
        }
        with connect(server) as client:
            full = {name: measured(client, command) for name, command in commands.items()}
            assert ready(client, "theirs") == ready(client, "ours") == count, "not the same outcome"
            empty = {name: measured(client, command) for name, command in commands.items()}
    print(f"{count} workflows of two Fireworks, the first of each to be recovered")
    print(f"{'':22} {'wall s':>8} {'ms/run':>8} {'requests':>9} {'per run':>8} {'empty s':>8}")
    for name, (seconds, requests) in full.items():
        per_run = 1000 * (seconds - empty[name][0]) / count
        print(
            f"{name:22} {seconds:8.2f} {per_run:8.3f} {requests:9} "
            f"{(requests - empty[name][1]) / count:8.2f} {empty[name][0]:8.2f}"
        )
    (slow, many), (fast, few) = full.values()
    print(f"ratio of wall time {slow / fast:.1f}, of requests {many / few:.1f}")


if __name__ == "__main__":
    main()
