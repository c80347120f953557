"""The LaunchPad: the one package that talks to MongoDB.

What to write is decided elsewhere, by pure functions (``fwcore.plan``, ``fwcore.documents``). Here the
documents are read, the workflows locked, the writes carried out in as few round trips as can be, whatever
the size of a batch: databases of clusters are often 20-100 ms away.

FireWorks' lock on a workflow is the field ``locked``, of which it only checks that it exists. We put a
token into it that names the holder, so that our own locks can be told from other people's.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from pymongo.database import Database

from fwcore.errors import FwagentError
from fwcore.launchpad.changes import Changing
from fwcore.launchpad.claims import Claims
from fwcore.launchpad.connection import connect, own_address
from fwcore.launchpad.diagnosis import Diagnoses
from fwcore.launchpad.figures import Figures
from fwcore.launchpad.intake import Intake
from fwcore.launchpad.jobs import Jobs
from fwcore.launchpad.locks import Locks
from fwcore.launchpad.own import Own
from fwcore.launchpad.queries import Queries
from fwcore.launchpad.reports import Reports
from fwcore.settings import read_launchpad_file
from fwrunner.protocol import utcnow

Document = dict[str, Any]


class LaunchPad(Intake, Claims, Reports, Changing, Queries, Figures, Jobs, Locks, Own, Diagnoses):
    """A FireWorks database.

    All methods raise DatabaseUnreachable when MongoDB does not answer and DatabaseRefused when it says
    no. ``clock`` gives the present as an aware datetime; this package never looks at one by itself.
    """

    def __init__(
        self,
        database: Database[Document],
        *,
        where: str = "",
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self._db = database
        self._clock = clock
        self.name = database.name
        self.where = where or database.name
        self.host = socket.gethostname()
        self.ip = own_address(self.host)
        self._pid = os.getpid()
        self._begin_session()

    @classmethod
    def from_uri(
        cls, uri: str, name: str = "fireworks", *, timeout: float = 10.0, **options: Any
    ) -> LaunchPad:
        """Return the LaunchPad at a MongoDB URI; no connection is made yet.

        ``timeout`` is in seconds, for finding a server; a command may take twelve times as long if the server answers
        others meanwhile. What the URI or ``options`` say of timeouts goes before. Raises InvalidSettings for a URI
        that cannot be understood.
        """
        database, where = connect(uri, name, timeout, options)
        return cls(database, where=where)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, timeout: float = 10.0) -> LaunchPad:
        """Return the LaunchPad of a ``my_launchpad.yaml`` (or ``.json``), ``uri_mode`` included.

        Raises InvalidSettings.
        """
        uri, name, options = read_launchpad_file(Path(path))
        return cls.from_uri(uri, name, timeout=timeout, **options)

    def now(self) -> datetime:
        """Return the present, by the clock this LaunchPad was given."""
        return self._clock()

    def close(self) -> None:
        """End the session and close the connections; may be called twice."""
        with suppress(FwagentError), self._reaching():
            # What cannot be finished now is finished by whoever finds the session expired.
            self._finish_own()
            self._end_session()
        self._begin_session()  # so that a second close has nothing to end
        self._db.client.close()

    # ----------------------------------------------------------------- a database made for a while

    def collections(self) -> list[str]:
        """Return the names of the collections that there are; none in a database that nobody uses."""
        with self._reaching():
            return sorted(self._db.list_collection_names())

    def documents(self, collection: str) -> list[Document]:
        """Return all documents of a collection, as they are: for a small database."""
        with self._reaching():
            return list(self._db[collection].find())

    def drop(self) -> None:
        """Remove the whole database: for a caller that has made it itself, under a name of its own."""
        with self._reaching():
            self._db.client.drop_database(self.name)
