"""``python -m fwrunner [LAUNCH_DIR]``: run the Firework of a launch directory."""

import os
import sys

_HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
try:
    _HERE = os.getcwd()
except OSError:
    _HERE = ""  # it has been removed
if __name__ == "__main__" and sys.path[:1] in ([""], [_HERE]) and _HERE != _HOME:
    # `python -m` searches the current directory first. That is a job's: a json.py or random.py that a
    # task left there must not stand in for the library's. (Neither do the commands of FireWorks.)
    del sys.path[0]

from typing import List, Optional, Tuple  # noqa: E402

from fwrunner import __version__  # noqa: E402
from fwrunner.launch import PING_INTERVAL, NothingToRun  # noqa: E402
from fwrunner.supervise import NOTHING_TO_RUN, end_here, run  # noqa: E402

_ABOUT = """\
Run the Firework of a launch directory, without a database and without FireWorks.

The directory holds FW.json and FW_offline.json, made on the login node by `fwagent launch` or by
`qlaunch -r` with an offline rlaunch. What happens is told in FW_offline.json, FW_ping.json and
FW_action.json, and brought home by `fwagent` or by `lpad recover_offline`.
"""

_NOTES = """\
exit status:
  0  the Firework COMPLETED
  1  it FIZZLED: why is in FW_action.json, under stored_data._exception
  2  wrong usage, or nothing to run here

example, as a job script:
  cd /scratch/me/launcher_2026-01-02-03-04-05-678901 && python3 -m fwrunner
"""


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    # What job scripts call needs no parser, which would read more files than all the rest.
    plain = len(arguments) < 2 and not "".join(arguments).startswith("-")
    if plain and not os.environ.get("FWAGENT_PING_INTERVAL"):
        launch_dir, ping_interval = "".join(arguments) or ".", None
    else:
        launch_dir, ping_interval = _parsed(arguments)
    try:
        return run(launch_dir, ping_interval, sys.exit)
    except NothingToRun as error:
        sys.stderr.write(f"fwrunner: {error}\n")
        return NOTHING_TO_RUN


def _parsed(arguments: List[str]) -> Tuple[str, Optional[float]]:
    import argparse

    parser = argparse.ArgumentParser(
        prog="fwrunner",
        description=_ABOUT,
        epilog=_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "launch_dir",
        metavar="LAUNCH_DIR",
        nargs="?",
        default=".",
        help="the launch directory (default: the current one)",
    )
    parser.add_argument(
        "--ping-interval",
        metavar="SECONDS",
        type=_seconds,
        # A text, so that argparse checks it as it does the option.
        default=os.environ.get("FWAGENT_PING_INTERVAL") or None,
        help="how often to tell that the job is alive (default: $FWAGENT_PING_INTERVAL, else "
        f"what the login node asked for, else {PING_INTERVAL:g})",
    )
    parser.add_argument("--version", action="version", version=f"fwrunner {__version__}")
    options = parser.parse_args(arguments)
    return options.launch_dir, options.ping_interval


def _seconds(text: str) -> float:
    from argparse import ArgumentTypeError

    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 1e6:
        raise ArgumentTypeError(f"{text!r} is no number of seconds from above 0 to a million")
    return seconds


if __name__ == "__main__":
    # Nothing is left to be done: this saves taking the interpreter apart. The tasks' process does it, though.
    end_here(main())
