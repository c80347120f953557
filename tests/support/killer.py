"""A signal between two commands of the database; for processes that tests start to have them killed or stopped."""

import os
import signal

from pymongo.monitoring import CommandStartedEvent, CommandSucceededEvent

from tests.support.batches import Count


class Killer(Count):
    """Strikes this process ``when`` ("before", "after") the command ``at``, from 1 on; 0: never."""

    def __init__(self, at: int, when: str = "after", number: int = signal.SIGKILL) -> None:
        super().__init__()
        self.at, self._when, self._number = at, when, number

    def started(self, event: CommandStartedEvent) -> None:
        super().started(event)
        self._strike("before")

    def succeeded(self, _event: CommandSucceededEvent) -> None:
        self._strike("after")

    def _strike(self, when: str) -> None:
        if when == self._when and len(self.commands) == self.at:
            os.kill(os.getpid(), self._number)
