"""SIGKILL between two commands of the database; for processes that tests start to have them killed."""

import os
import signal

from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)


class Killer(CommandListener):
    """Kills this process after the command with that number, from 1 on; 0: never. ``count`` is how many there were."""

    def __init__(self, at: int) -> None:
        self._at = at
        self.count = 0

    def started(self, event: CommandStartedEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self.count += 1
        if self.count == self._at:
            os.kill(os.getpid(), signal.SIGKILL)
