"""structlog to stderr: readable text for people and the journal, or one JSON object per line."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog

#: ``json`` for one object per line, ``text`` (the default) for people.
FORMAT_VARIABLE = "FWAGENT_LOG"


def set_up(level: int = logging.INFO) -> None:
    """Send the log to stderr."""
    renderer: Any = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    if os.environ.get(FORMAT_VARIABLE) == "json":
        renderer = structlog.processors.JSONRenderer()
    # It calls events that come while a watch is being removed an error; sweeps find what events miss.
    logging.getLogger("watchdog").setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def get_logger() -> Any:
    """Return the logger."""
    return structlog.get_logger()
