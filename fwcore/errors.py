"""Errors with a title, what was seen, and what to do."""

from __future__ import annotations


class FwagentError(Exception):
    """An error for people: ``title`` says what is wrong, ``hint`` what to do about it."""

    def __init__(self, title: str, hint: str = "") -> None:
        super().__init__(title)
        self.title = title
        self.hint = hint


class DatabaseUnreachable(FwagentError):
    """No answer from MongoDB: nothing was decided, the same call may be made again."""


class DatabaseRefused(FwagentError):
    """MongoDB answered and said no: a wrong password, missing rights, a command it does not know."""


class NotInitialized(FwagentError):
    """The database holds no LaunchPad."""


class InvalidWorkflow(FwagentError):
    """A workflow that FireWorks could not load; nothing of it was stored."""


class InvalidRecovery(FwagentError):
    """A way of going on from a checkpoint that there is not; nothing was changed."""


class InvalidFilter(FwagentError):
    """A MongoDB filter that the server or the driver does not understand."""


class InvalidSettings(FwagentError):
    """A ``my_launchpad.yaml``, a ``my_fworker.yaml`` or a database URI that cannot be used."""
