"""One bad document or report must not hold up the others of its batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fwcore.launchpad.reading import NOT_UNDERSTOOD, misread
from fwcore.launchpad.session import Session

T = TypeVar("T")


class Isolating(Session):
    """Tries a batch again in ever smaller parts, until what spoils it is alone."""

    def _in_parts(
        self,
        items: list[T],
        work: Callable[[list[T]], None],
        give_up: Callable[[T, str], None],
    ) -> None:
        """Have ``work`` done on all items at once, in halves where that fails; ``give_up`` gets what fails alone.

        What fails after something was begun (a journal was written, a Firework is held) is raised: it is finished
        or dropped as a whole, and must not be begun anew meanwhile.
        """
        pending = [items] if items else []
        while pending:
            part = pending.pop()
            begun = self._open | self._held
            try:
                work(part)
            except NOT_UNDERSTOOD as error:
                if not self._open | self._held <= begun:
                    raise
                if len(part) == 1:
                    give_up(part[0], misread(error))
                    continue
                middle = len(part) // 2
                pending += [part[middle:], part[:middle]]
