"""Short ways to put work into a real LaunchPad, and to see or disturb what it says to the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pymongo.database import Database
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Claim
from fwcore.worker import Worker
from fwrunner.protocol import Report

WORKER = Worker("here")
TASKS = [{"_fw_name": "ScriptTask", "script": "true"}]


def add(
    launchpad: LaunchPad,
    links: Mapping[str, str],
    specs: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, int]:
    """Add a workflow whose Fireworks have one-letter names: ``{"a": "bc", "b": ""}``; return their ids."""
    names = sorted({*links, *(child for children in links.values() for child in children)})
    ids = launchpad.add(
        {
            "fws": [
                {"fw_id": n, "name": name, "spec": {"_tasks": TASKS, **(specs or {}).get(name, {})}}
                for n, name in enumerate(names)
            ],
            "links": {
                names.index(name): [names.index(child) for child in children]
                for name, children in links.items()
            },
        }
    )
    return {name: ids[n] for n, name in enumerate(names)}


def stage(launchpad: LaunchPad, *fw_ids: int) -> list[Claim]:
    """Claim Fireworks and open their offline runs; return the claims in the order of the ids."""
    claims = launchpad.claim(WORKER, len(fw_ids), fw_ids=fw_ids)
    launchpad.open_runs(claims)
    return sorted(claims, key=lambda claim: fw_ids.index(claim.fw_id))


def report(claim: Claim, state: str = "COMPLETED", **action: Any) -> Report:
    """Return what the run of a claim tells."""
    final = state != "RUNNING"
    return Report(
        launch_id=claim.launch_id,
        state=state,
        launch_dir=claim.launch_dir,
        fw_id=claim.fw_id,
        token=claim.token,
        started_on="2026-11-23T12:01:00.000001+00:00",
        completed_on="2026-11-23T12:05:00+00:00" if final else None,
        fwaction=action if final else None,
    )


def reports(claims: Iterable[Claim], state: str = "COMPLETED", **action: Any) -> list[Report]:
    return [report(claim, state, **action) for claim in claims]


def consistent(db: Database[dict[str, Any]]) -> None:
    """Workflows know the states of their Fireworks; every launch has its Firework; nothing is locked."""
    states = {doc["fw_id"]: doc["state"] for doc in db.fireworks.find()}
    for workflow in db.workflows.find():
        assert workflow["fw_states"] == {str(i): states[i] for i in workflow["nodes"]}
        assert "locked" not in workflow
    listed = [i for doc in db.fireworks.find() for i in doc["launches"] + doc["archived_launches"]]
    assert sorted(listed) == sorted(doc["launch_id"] for doc in db.launches.find())


class Wire(CommandListener):
    """Counts the commands of a client; `interrupt` does something right before one of them is sent."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, str]] = []
        self._interrupts: dict[tuple[str, str], Callable[[], object]] = {}

    def interrupt(self, command: str, collection: str, action: Callable[[], object]) -> None:
        """Call `action` (which must use another client) once, before the next such command."""
        self._interrupts[command, collection] = action

    @property
    def interrupted(self) -> bool:
        """Whether every interruption has taken place."""
        return not self._interrupts

    def started(self, event: CommandStartedEvent) -> None:
        sent = event.command_name, str(event.command.get(event.command_name))
        self.commands.append(sent)
        action = self._interrupts.pop(sent, None)
        if action is not None:
            action()

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass
