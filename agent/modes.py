"""What an agent may be asked to do, by whom: in words, and as JSON has it."""

from __future__ import annotations

from typing import Any

from agent.printable import when
from fwcore.launchpad.records import Wish

RUN, DRAIN, PAUSE = "run", "drain", "pause"
#: For people: what an agent in such a mode is, and what it does and does not.
WORDS = {
    RUN: ("running", "it launches what is READY and brings back what was reported"),
    DRAIN: ("drained", "nothing is launched any more; what was reported is brought back"),
    PAUSE: (
        "paused",
        "nothing is launched, and nothing is brought back: reports stay where they are",
    ),
}


def document(wish: Wish, *, followed: bool | None) -> dict[str, Any]:
    """Return a wish as JSON has it: ``mode``, ``by``, ``on``, ``followed`` (null: no agent is there to tell)."""
    on = wish.on.isoformat() if wish.on else None
    return {"mode": wish.mode, "by": wish.by or None, "on": on, "followed": followed}


def told(wish: dict[str, Any]) -> str:
    """Return a wish for people: "drained since ... by ..."; "" for an agent that just runs."""
    mode = wish.get("mode")
    if mode not in (DRAIN, PAUSE):
        return ""
    since = f" since {when(wish['on'])}" if wish.get("on") else ""
    by = f" by {wish['by']}" if wish.get("by") else ""
    asked = " (asked; the agent has not answered yet)" if wish.get("followed") is False else ""
    return f"{WORDS[mode][0]}{since}{by}{asked}"
