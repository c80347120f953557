"""Final reports that neither the launch directory nor the outbox took: at home, or a line on stderr."""

import json
from typing import Any, Iterator, Union

from fwrunner.protocol import (
    MAX_REPORT_SIZE,
    RESCUE_PATH,
    NotYet,
    Report,
    Unreadable,
    document_of,
    parse_json,
    parse_report,
)

#: Where they are at home.
PATH = RESCUE_PATH

#: What begins a line that holds a report, wherever on the line it begins.
MARK = "fwrunner-report: "


def line(report: Report) -> str:
    """Return the line for stderr that holds a report: ASCII, with its ends of line before and after."""
    return f"\n{MARK}{json.dumps(document_of(report))}\n"


def read_lines(
    stream: Any, name: str, max_size: int = MAX_REPORT_SIZE
) -> Iterator[Union[NotYet, Report]]:
    """Return what a text file (what a job wrote to stderr) holds of reports, one by one.

    ``stream`` is open for reading bytes. Other lines are passed over. A line that begins as a report does
    but holds none, or more than ``max_size`` bytes, is a NotYet that says so.
    """
    mark = MARK.encode("ascii")
    while True:
        text = stream.readline(max_size)
        if not text:
            return
        _, found, data = text.partition(mark)
        if not found:
            continue
        if not data.endswith(b"\n") and len(text) == max_size:
            yield NotYet(name, f"a report in it is larger than {max_size} bytes")
            continue
        try:
            yield parse_report(parse_json(data, f"a report in {name}"))
        except Unreadable as error:
            yield NotYet(name, str(error))
