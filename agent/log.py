"""structlog to stderr: readable text for people, with priorities for the journal, or one JSON object per line.

INFO is what has changed; a pass that did nothing is silent. An error is told once, then at intervals, then its end.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

#: ``json`` for one object per line, ``text`` (the default) for people.
FORMAT_VARIABLE = "FWAGENT_LOG"
#: Seconds between two times that the same trouble is told, as long as it lasts.
AGAIN = 3600.0

#: syslog(3), as sd-daemon(3) has it at the beginning of a line.
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


class Trouble:
    """One kind of thing that goes wrong, perhaps for long: when to tell of it."""

    def __init__(self) -> None:
        # When each thing was told last. A fault may show in two ways by turns.
        self._told: dict[str, float] = {}

    def news(self, what: str, now: float) -> bool:
        """Return whether to tell: the first time, then once in ``AGAIN`` seconds; ``now`` is in seconds."""
        if now - self._told.get(what, -AGAIN) < AGAIN:
            return False
        self._told[what] = now
        return True

    def over(self) -> str:
        """Note that it goes well; return what was told last, "" if nothing was."""
        last = max(self._told, key=self._told.__getitem__, default="")
        self._told.clear()
        return last


def set_up(level: int = logging.INFO) -> None:
    """Send the log to stderr."""
    import structlog  # commands that log nothing are quicker without

    as_json, journal = os.environ.get(FORMAT_VARIABLE) == "json", to_journal(os.environ)
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if journal and not as_json:
        del processors[1]  # the journal has times of its own
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    # It calls events that come while a watch is being removed an error; sweeps find what events miss.
    logging.getLogger("watchdog").setLevel(logging.CRITICAL)
    # A timer that a busy machine skips is due again at the next tick, and is nothing to tell of.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    structlog.configure(
        processors=[*processors, _with_priority(renderer) if journal else renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def to_journal(environ: Mapping[str, str]) -> bool:
    """Tell whether stderr is the journal: systemd says of which stream that is true (systemd.exec(5))."""
    try:
        state = os.fstat(2)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{state.st_dev}:{state.st_ino}"


def _with_priority(renderer: Any) -> Any:
    def render(logger: Any, name: str, event: dict[str, Any]) -> str:
        mark = f"<{_PRIORITIES.get(name, 6)}>"
        # Each line is an entry of its own.
        return "\n".join(mark + line for line in str(renderer(logger, name, event)).splitlines())

    return render


def get_logger() -> Any:
    """Return the logger."""
    import structlog

    return structlog.get_logger()
