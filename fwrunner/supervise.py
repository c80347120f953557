"""The process of a job: its pings, its signals, its exit status, and that it runs once."""

import contextlib
import os
import threading
from typing import Iterator, Optional

from fwrunner import protocol
from fwrunner.launch import Launch, say
from fwrunner.runner import Run, Signals

#: Exit status of the process.
STATUS = {"COMPLETED": 0, "FIZZLED": 1}
NOTHING_TO_RUN = 2


def run(launch_dir: str, ping_interval: Optional[float] = None) -> int:
    """Run the Firework of a launch directory; return the exit status. May raise NothingToRun."""
    launch = Launch(os.path.abspath(launch_dir))
    done = protocol.read_report(launch.directory)
    if isinstance(done, protocol.Report) and done.final:
        say(f"launch {launch.launch_id} has ended as {done.state} before; nothing is run again")
        return STATUS[done.state]
    with Signals() as signals:
        launch.start()
        with _pinging(launch, ping_interval or launch.ping_interval):
            state, action = Run(launch, signals).execute()
        return STATUS[state] if launch.finish(state, action) else STATUS["FIZZLED"]


@contextlib.contextmanager
def _pinging(launch: Launch, interval: float) -> Iterator[None]:
    stop = threading.Event()

    def ping_until_stopped() -> None:
        while not stop.wait(interval):
            launch.ping()

    thread = threading.Thread(target=ping_until_stopped, name="fwrunner-ping", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        say(f"no pings but the first and the last: {error}")
    try:
        yield
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join(1)
        launch.ping()
