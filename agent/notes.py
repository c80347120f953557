"""What is remembered of the queue from one listing to the next, in a file below the launch root.

The daemon, `fwagent sync` and `fwagent status` of one worker share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agent.reconcile import Absence, Memory, Verdict
from agent.results import Entry
from fwcore.errors import FwagentError
from fwrunner.protocol import Unreadable, read_json, timestamp, write_atomic

MEMORY_FILE = "reconcile.json"


class Notes:
    """What is kept of one listing for the next.

    It is a cache: without it, or where it says nonsense, what is lost is found one interval later. The file holds
    ``absent`` and ``unwanted`` as in ``Memory``; for people ``told``: {launch_id: {"fw_id", "job_id", "reason",
    "on"}} of losses that were only told; ``known``: {"of": the database's identity, "jobs": {launch_id: job_id}} of
    launches that Fireworks counted on; and ``silent``: {"since", "reason"} while the queue does not answer.
    """

    def __init__(self, own: Path) -> None:
        self._path = own / MEMORY_FILE
        self._document = read_notes(own)
        self.memory = _memory(self._document)
        self._database = ""

    def recall(self, database: str) -> None:
        """Remember also which launches have been in this database (`LaunchPad.identity`), and in no other.

        In another one of the same name, or in one that was made anew, their absence would mean nothing.
        """
        self._database = database
        known = self._document.get("known", {})
        if database and known.get("of") == database:
            self.memory = replace(self.memory, known=_jobs(known.get("jobs")))

    def keep(self, memory: Memory, verdicts: Iterable[Verdict]) -> None:
        """Remember until the next listing; the queue has answered."""
        self.memory = memory
        told = {
            key: entry
            for key, entry in self._document.get("told", {}).items()
            if key.isdecimal() and int(key) in memory.absent and memory.absent[int(key)].told
        }
        for verdict in verdicts:
            if verdict.kind == "report":
                told[str(verdict.launch_id)] = {**entry_of(verdict), "on": timestamp()}
        self._store(
            {
                "absent": {str(key): asdict(each) for key, each in memory.absent.items()},
                "unwanted": {str(key): since for key, since in memory.unwanted.items()},
                "told": told,
                "known": {
                    "of": self._database,
                    "jobs": {str(key): job_id for key, job_id in memory.known.items()},
                },
                "silent": {},
            }
        )

    def silence(self, reason: str) -> None:
        """Note that the queue does not answer, and since when."""
        since = self._document.get("silent", {}).get("since") or timestamp()
        self._store({**self._document, "silent": {"since": since, "reason": reason}})

    def _store(self, document: dict[str, Any]) -> None:
        if document == self._document:
            return
        self._document = document
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            write_atomic(str(self._path), document)
        except OSError as error:
            raise FwagentError(
                f"{self._path} cannot be written: {error.strerror}",
                "check the space and the quota there",
            ) from None


def read_notes(own: Path) -> dict[str, Any]:
    """Return the notes in `Config.own`, for what they are: {} where there are none, or they are broken."""
    try:
        found = read_json(str(own / MEMORY_FILE))
    except (FileNotFoundError, Unreadable):
        return {}
    return {
        key: found[key] if isinstance(found.get(key), dict) else {}
        for key in ("absent", "unwanted", "told", "known", "silent")
    }


def _memory(document: Mapping[str, Any]) -> Memory:
    try:
        return Memory(
            absent={
                int(key): Absence(float(each["since"]), str(each["signature"]), str(each["told"]))
                for key, each in document.get("absent", {}).items()
            },
            unwanted={
                int(key): float(since) for key, since in document.get("unwanted", {}).items()
            },
        )
    except (KeyError, TypeError, ValueError):
        return Memory()


def _jobs(found: object) -> dict[int, str]:
    jobs = found if isinstance(found, dict) else {}
    return {int(key): str(job_id) for key, job_id in jobs.items() if key.isdecimal()}


def entry_of(verdict: Verdict) -> Entry:
    """Return a verdict as a result, a log and the notes tell it."""
    return {
        "launch_id": verdict.launch_id,
        "fw_id": verdict.fw_id,
        "job_id": verdict.job_id,
        "reason": verdict.reason,
    }
