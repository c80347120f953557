"""When trouble is told, and what the journal gets."""

import json
import os
import re
import subprocess
import sys

import pytest

from agent.log import AGAIN, Trouble, to_journal


def test_trouble_is_told_once_then_at_intervals_and_its_end_once():
    trouble = Trouble()
    assert [trouble.news("a", now) for now in (0.0, 1.0, AGAIN - 1, AGAIN, AGAIN + 1)] == [
        True, False, False, True, False,
    ]  # fmt: skip
    assert trouble.over() == "a"
    assert trouble.over() == ""
    assert trouble.news("a", AGAIN + 2)


def test_what_shows_in_two_ways_by_turns_is_told_twice_only():
    trouble = Trouble()
    told = [what for now, what in enumerate("ababab") if trouble.news(what, float(now))]
    assert told == ["a", "b"]
    assert trouble.over() == "b"


LOG = """\
import logging, os, sys
from agent import log
state = os.fstat(2)
if sys.argv[1] == "journal":
    os.environ["JOURNAL_STREAM"] = f"{state.st_dev}:{state.st_ino}"
log.set_up(logging.DEBUG)
logger = log.get_logger()
logger.debug("quiet"); logger.info("serving", worker="w"); logger.warning("hm"); logger.error("no")
try:
    1 / 0
except ZeroDivisionError:
    logger.exception("a pass failed")
"""


def logged(*arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FWAGENT_")}
    environment = {**clean, **environment}
    done = subprocess.run(
        [sys.executable, "-c", LOG, *arguments], env=environment, capture_output=True, text=True, check=True, timeout=60
    )  # fmt: skip
    return done.stderr.splitlines()


def test_the_journal_gets_priorities_and_no_times():
    lines = logged("journal")
    assert [re.sub(r"\s+(?=\])|(?<=\s)\s+", "", line) for line in lines[:4]] == [
        "<7>[debug] quiet", "<6>[info] serving worker=w", "<4>[warning] hm", "<3>[error] no",
    ]  # fmt: skip
    assert len(lines) > 5, "a traceback"
    assert all(line.startswith("<3>") for line in lines[3:])


@pytest.mark.parametrize("environment", [{}, {"JOURNAL_STREAM": "1:2"}])
def test_of_another_stream_it_is_not_the_journal(environment):
    assert not to_journal(environment)


def test_json_in_the_journal_is_json():
    # The journal takes the priority off.
    line = logged("journal", FWAGENT_LOG="json")[1].removeprefix("<6>")
    assert json.loads(line)["event"] == "serving"


def test_a_library_that_skips_a_timer_says_nothing_and_an_error_of_it_is_seen():
    code = (
        "import logging; from agent import log; log.set_up(); "
        "told = logging.getLogger('apscheduler.scheduler'); told.warning('skipped'); told.error('broken')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == "broken\n"
