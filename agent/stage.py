"""A claimed Firework into a launch directory: where it is, and what is written there.

The reservation is in the database before anything is written here. ``FW_offline.json`` comes last: a
directory that has it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from fwcore.errors import FwagentError
from fwcore.launchpad.records import Claim
from fwrunner.protocol import (
    ACTION_JSON,
    FW_JSON,
    OFFLINE_JSON,
    OUTBOX_PATH,
    PING_JSON,
    PROTOCOL,
    Unreadable,
    read_json,
    utcnow,
    write_atomic,
)

#: FireWorks' names: ``FW_BLOCK_FORMAT``, ``SUBMIT_SCRIPT_NAME`` and `qlaunch --maxjobs_block`.
TIME_FORMAT = "%Y-%m-%d-%H-%M-%S-%f"
SUBMIT_SCRIPT = "FW_submit.script"
LAUNCHES_PER_BLOCK = 500


class StageError(FwagentError):
    """A launch directory could not be made ready; the reservation is to be taken back."""


class Placement:
    """Gives launch directories the names that `qlaunch rapidfire` would, without making them.

    Used as the ``place`` of ``LaunchPad.claim``. A Firework with ``_launch_dir`` goes there: variables are
    expanded, and a relative path is below the block directory (FireWorks 2.1.4, ``queue_launcher``).
    """

    def __init__(self, root: Path, clock: Callable[[], datetime] = utcnow) -> None:
        self._root = root
        self._clock = clock
        self._last = datetime.min.replace(tzinfo=clock().tzinfo)
        self._block, self._room = self._newest_block()

    def __call__(self, firework: Mapping[str, Any], _launch_id: int) -> str:
        """Return the launch directory for a Firework."""
        wish = firework.get("spec", {}).get("_launch_dir")
        if isinstance(wish, str) and wish:
            return os.path.normpath(self._block / os.path.expandvars(wish))
        if self._room <= 0:
            self._block, self._room = self._root / f"block_{self._stamp()}", LAUNCHES_PER_BLOCK
        self._room -= 1
        return str(self._block / f"launcher_{self._stamp()}")

    def _stamp(self) -> str:
        # A claim of many asks faster than the clock's resolution, and names must differ.
        self._last = max(self._clock(), self._last + timedelta(microseconds=1))
        return self._last.strftime(TIME_FORMAT)

    def _newest_block(self) -> tuple[Path, int]:
        entries = _listing(self._root) if self._root.exists() else []
        for name in sorted(entries, reverse=True):
            if not name.startswith("block_"):
                continue
            try:
                launches = _listing(self._root / name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            taken = sum(name.startswith("launcher_") for name in launches)
            return self._root / name, LAUNCHES_PER_BLOCK - taken
        return self._root / f"block_{self._stamp()}", LAUNCHES_PER_BLOCK


def _listing(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - names do, and a block may have many
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise StageError(
            f"{directory} cannot be listed: {error.strerror}", "check its permissions"
        ) from None


def prepare_root(root: Path) -> Path:
    """Make the launch root and its outbox (0700) ready and return the outbox; raise StageError."""
    outbox = root / OUTBOX_PATH
    try:
        outbox.mkdir(parents=True, exist_ok=True)
        outbox.parent.chmod(0o700)
        outbox.chmod(0o700)
        # A full disk takes directories and empty files; a claim that cannot be staged leaves its traces.
        write_atomic(str(outbox.parent / "probe.json"), {"space": "x" * 16384})
    except OSError as error:
        raise StageError(
            f"the launch root {root} is not usable: {error.strerror}",
            "check launch.root, the permissions of that directory, and the space and quota there",
        ) from None
    return outbox


def earlier_launch(launch_dir: Path, claim: Claim) -> int | None:
    """Return the other launch that a directory was staged for before, if any."""
    try:
        earlier = read_json(str(launch_dir / OFFLINE_JSON)).get("launch_id")
    except (FileNotFoundError, Unreadable):
        return None
    return earlier if isinstance(earlier, int) and earlier != claim.launch_id else None


def stage(claim: Claim, outbox: Path, text: str, ping_interval: float) -> Path:
    """Write a launch directory, with this text as its submit script; return that file, raise StageError."""
    launch_dir = Path(claim.launch_dir)
    ours = {
        "protocol": PROTOCOL,
        "outbox": str(outbox),
        "token": claim.token,
        "ping_interval": ping_interval,
    }
    try:
        launch_dir.mkdir(parents=True, exist_ok=True)
        _forget_earlier_launch(launch_dir)
        write_atomic(str(launch_dir / FW_JSON), claim.firework)
        script = launch_dir / SUBMIT_SCRIPT
        script.write_text(text, encoding="utf-8")
        write_atomic(
            str(launch_dir / OFFLINE_JSON), {"launch_id": claim.launch_id, "fwagent": ours}
        )
    except OSError as error:
        raise StageError(
            f"{launch_dir} cannot be made ready: {error.strerror}",
            "check the permissions, the space and the quota there",
        ) from None
    except (TypeError, ValueError) as error:
        raise StageError(
            f"Firework {claim.fw_id} cannot be written as JSON: {error}",
            "look at its spec with `lpad get_fws -i ID -d all`",
        ) from None
    return script


def _forget_earlier_launch(launch_dir: Path) -> None:
    # What an earlier launch in this directory left behind must not count as news of this one.
    for name in (ACTION_JSON, PING_JSON, OFFLINE_JSON):
        with suppress(FileNotFoundError):
            (launch_dir / name).unlink()
