"""A daemon with many launches, for benchmarks: on a MongoDB server of its own, with real files, without real jobs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.mongod import Mongod
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Claim
from fwcore.worker import Worker
from fwrunner.protocol import timestamp
from tests.support.agent import WORKER, Site, Store
from tests.support.mongod import connect

_WIDTH = 500
SPEC = {"_tasks": [{"_fw_name": "ScriptTask", "script": "true"}]}


@dataclass
class Crowd:
    """A user's site and its database; ``far`` is the launch root as compute nodes have it."""

    site: Site
    store: Store
    far: Path

    def claim(self, count: int, *, children: bool) -> list[Claim]:
        """Reserve new Fireworks, stage their directories, open their runs; with a child each, if wanted."""
        for begin in range(0, count, _WIDTH):
            width = min(_WIDTH, count - begin)
            numbers = range(1, width * (2 if children else 1) + 1)
            fws = [{"fw_id": n, "name": "f", "spec": SPEC} for n in numbers]
            links = {n: [n + width] for n in range(1, width + 1)} if children else {}
            self.store.launchpad.add({"fws": fws, "links": links})
        block = self.site.root / f"block_{timestamp()[:19]}"
        claims = self.store.launchpad.claim(
            Worker(WORKER), count, place=lambda _fw, number: str(block / f"launcher_{number}")
        )
        assert len(claims) == count, f"{len(claims)} of {count} could be claimed"
        for claim in claims:
            Path(claim.launch_dir).mkdir(parents=True)
            offline = {
                "launch_id": claim.launch_id,
                "fwagent": {"protocol": 1, "token": claim.token},
            }
            Path(claim.launch_dir, "FW_offline.json").write_text(
                json.dumps(offline), encoding="utf-8"
            )
        self.store.launchpad.open_runs(claims)
        return claims

    def report(self, claim: Claim, *, outbox: bool) -> None:
        """Leave the final report of a launch, in the outbox by a rename, or as `rlaunch` does, in the directory."""
        now = timestamp()
        told = {"started_on": now, "completed_on": now, "state": "COMPLETED", "fwaction": {}}
        place = self.far / Path(claim.launch_dir).relative_to(self.site.root)
        if not outbox:
            ours = {"protocol": 1, "token": claim.token}
            document: dict[str, Any] = {"launch_id": claim.launch_id, **told, "fwagent": ours}
            (place / "FW_offline.json").write_text(json.dumps(document), encoding="utf-8")
            return
        document = {
            "protocol": 1, "launch_id": claim.launch_id, "fw_id": claim.fw_id, "token": claim.token,
            "launch_dir": claim.launch_dir, "attempt": 1, **told,
        }  # fmt: skip
        entries = self.far / ".fwagent" / "outbox"
        temporary = entries / f".{claim.launch_id}"
        temporary.write_text(json.dumps(document), encoding="utf-8")
        temporary.rename(entries / f"{claim.launch_id}.{claim.token}.json")


@contextmanager
def crowd(root: Path | None = None, far: Path | None = None, **sync: Any) -> Iterator[Crowd]:
    """Yield a site without launches; ``sync`` are keys of its configuration."""
    with (
        tempfile.TemporaryDirectory(prefix="fwagent-bench-") as folder,
        Mongod(Path(folder, "mongod")) as server,
        connect(server) as client,
    ):
        launchpad = LaunchPad.from_uri(server.uri, "bench")
        launchpad.initialize()
        site = Site(Path(folder, "home"), server, "bench")
        site.root = root or site.root
        (site.root / ".fwagent" / "outbox").mkdir(parents=True, exist_ok=True)
        os.chmod(site.root / ".fwagent" / "outbox", 0o700)  # noqa: PTH101
        site.configure(launch={"max_queued": 200000}, sync={**sync})
        yield Crowd(site, Store(launchpad, client["bench"]), far or site.root)
        launchpad.close()
