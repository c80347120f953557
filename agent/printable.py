"""Text of others for a terminal: a job, a host or a database may have escape sequences in it."""


def printable(text: str) -> str:
    """Return a text in one line, with a question mark for each character that is not shown."""
    return "".join(each if each.isprintable() else "?" for each in text)
