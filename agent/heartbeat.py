"""A URL that is asked for after good passes: whoever listens there tells people when it stays silent.

The URL often holds a token, so nothing that is told of a failure may have a part of it.
"""

from __future__ import annotations

import threading

from agent.log import Trouble, get_logger

#: Seconds for one request.
_TIMEOUT = 10.0
#: What the first part of an answer may cost.
_READ = 1024


def send(url: str, timeout: float = _TIMEOUT) -> str:
    """Ask for a URL; return "" or why there was no good answer."""
    import http.client  # what most agents do not need
    import urllib.error
    import urllib.request

    try:
        request = urllib.request.Request(url, headers={"User-Agent": "fwagent"})
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            answer.read(_READ)
    except urllib.error.HTTPError as error:
        with error:
            return f"HTTP status {error.code}"
    except urllib.error.URLError as error:
        cause = error.reason
        return (isinstance(cause, OSError) and cause.strerror) or type(cause).__name__
    except OSError as error:
        return error.strerror or type(error).__name__
    except (ValueError, http.client.HTTPException) as error:
        return type(error).__name__  # its text may quote the URL
    return ""


class Heartbeat:
    """Sends in a thread of its own, so that no pass waits; one at a time, at most once an interval."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._due = 0.0
        # Written by the thread, and read when it has ended.
        self._trouble = ""
        self._told = Trouble()

    def beat(self, url: str, interval: float, now: float) -> None:
        """Send if it is time; ``interval`` and ``now`` are in seconds."""
        if self._thread is not None and self._thread.is_alive():
            return
        if self._thread is not None:
            self._tell(now)
        if now < self._due:
            return
        self._due = now + interval
        self._thread = threading.Thread(
            target=self._send, args=[url], name="heartbeat", daemon=True
        )
        self._thread.start()

    def _send(self, url: str) -> None:
        self._trouble = send(url)

    def _tell(self, now: float) -> None:
        if self._trouble and self._told.news(self._trouble, now):
            get_logger().warning("the heartbeat is not taken", reason=self._trouble)
        elif not self._trouble and (before := self._told.over()):
            get_logger().info("the heartbeat is taken again", after=before)
