"""Work that has been done on compute nodes and is not yet in the database; and a slow way there."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agent.mongod import Mongod
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Claim
from fwcore.worker import Worker
from fwrunner.protocol import timestamp
from fwrunner.protocol.action import EMPTY

Document = dict[str, Any]

WORKER = Worker("test-worker")
TASKS = [{"_fw_name": "ScriptTask", "script": "true"}]
ACTION: Document = {
    **EMPTY,
    "stored_data": {"returncode": 0, "all_returncodes": [0]},
    "update_spec": {"energy": -1.5},
    "mod_spec": [{"_push": {"log": "first"}}],
}


def workflow(links: dict[int, list[int]]) -> Document:
    """Return a workflow; Firework 1 is named `first` and goes first."""
    numbers = sorted({*links, *(child for children in links.values() for child in children)})
    fws = [
        {
            "fw_id": number,
            "name": "first" if number == 1 else f"n{number}",
            "spec": {"_tasks": TASKS, "_priority": int(number == 1)},
        }
        for number in numbers
    ]
    return {"fws": fws, "links": {str(k): v for k, v in links.items()}, "metadata": {}}


def pair() -> Document:
    """Return a workflow of two Fireworks, one after the other."""
    return workflow({1: [2]})


def fan_out(children: int) -> Document:
    """Return a workflow whose first Firework has so many children."""
    return workflow({1: list(range(2, children + 2))})


def fan_in(parents: int) -> Document:
    """Return a workflow whose last Firework has so many parents."""
    return workflow({number: [parents + 1] for number in range(1, parents + 1)})


def siblings(count: int) -> Document:
    """Return a workflow of so many Fireworks that have nothing to do with each other."""
    return workflow({number: [] for number in range(1, count + 1)})


def reserve(launchpad: LaunchPad, root: Path, count: int) -> list[Claim]:
    """Reserve Fireworks whose launch directories are below `root`."""
    claims = launchpad.claim(WORKER, count, place=lambda _firework, number: str(root / str(number)))
    for claim in claims:
        Path(claim.launch_dir).mkdir(parents=True)
        tell(claim, "FW.json", claim.firework)
    launchpad.open_runs(claims)
    return claims


def tell(claim: Claim, file: str, content: Document) -> None:
    """Write a file of a launch directory."""
    (Path(claim.launch_dir) / file).write_text(json.dumps(content))


def run(claims: Iterable[Claim], *, ended: bool = True) -> None:
    """Write what the compute nodes would have written."""
    for claim in claims:
        told: Document = {"launch_id": claim.launch_id, "started_on": timestamp()}
        told["fwagent"] = {"token": claim.token}
        if ended:
            told |= {"fwaction": ACTION, "state": "COMPLETED", "completed_on": timestamp()}
        tell(claim, "FW_offline.json", told)
        tell(claim, "FW_ping.json", {"ping_time": timestamp()})


class Distance:
    """A server that is `seconds` away, each way: what is sent arrives that much later."""

    def __init__(self, server: Mongod, seconds: float) -> None:
        self._target = server.port
        self._seconds = seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)
        self.port: int = started.result(10)

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true"

    async def _listen(self) -> int:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    async def _connected(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, forth = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._relay(near, forth), self._relay(far, back))

    async def _relay(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            self._loop.call_later(self._seconds, target.write, data)
        self._loop.call_later(self._seconds, target.close)
