"""Waiting between two tries of what fails: doubled each time, capped, back to the start on success."""

from __future__ import annotations

import time


class Backoff:
    """One thing that may fail. Times are in seconds."""

    def __init__(self, first: float, last: float) -> None:
        self._first = first
        self._last = last
        self._pause = first
        self._until = 0.0
        self._tried = 0.0

    @property
    def failing(self) -> bool:
        """Whether the last try failed."""
        return self._pause != self._first

    @property
    def remaining(self) -> float:
        """How long to wait until the next try; 0 or less: it is time."""
        return self._until - time.monotonic()

    def hurry(self) -> None:
        """Start again with the first pause, counted from the last try: there is more to try for than then."""
        self._pause = self._first
        self._until = min(self._until, self._tried + self._first)

    def failed(self) -> float:
        """Note a failure and return the pause that follows."""
        pause, self._pause = self._pause, min(self._pause * 2, self._last)
        self._tried = time.monotonic()
        self._until = self._tried + pause
        return pause

    def succeeded(self) -> bool:
        """Note a success and return whether it ends a row of failures."""
        ended, self._pause, self._until = self.failing, self._first, 0.0
        return ended
