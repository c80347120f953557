"""Values of others for a terminal: a job, a host or a database may have escape sequences in its texts."""

from fwcore.documents import parse_time


def printable(text: str) -> str:
    """Return a text in one line, with a question mark for each character that is not shown."""
    return "".join(each if each.isprintable() else "?" for each in text)


def when(moment: object) -> str:
    """Return an ISO 8601 moment in the time of this host, to the second; of another text the first characters."""
    found = parse_time(moment)
    if found is None:
        return printable(str(moment)[:19])
    return found.astimezone().strftime("%Y-%m-%d %H:%M:%S")
