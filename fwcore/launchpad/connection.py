"""Finding a server, and what it answers when it does not do as told."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any

from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)
from pymongo.write_concern import WriteConcern

from fwcore.errors import DatabaseRefused, DatabaseUnreachable, InvalidSettings

Document = dict[str, Any]


@contextmanager
def reaching(what: str) -> Iterator[None]:
    """Turn the driver's errors into ours; nothing of a URI, and so no password, gets into them."""
    try:
        yield
    except ConnectionFailure as error:
        raise DatabaseUnreachable(
            f"the database at {what} does not answer: {_first_line(error)}",
            "check that MongoDB runs and that this host may reach it; nothing is lost meanwhile",
        ) from None
    except OperationFailure as error:
        if isinstance(error, (BulkWriteError, DuplicateKeyError)):
            raise
        raise DatabaseRefused(
            f"the database at {what} refused: {_first_line(error)}",
            "check user, password, authSource and the rights of the user on this database",
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].split(", Timeout:")[0].split(", full error:")[0][:300]


class Connected:
    """A connected database; the parts of the LaunchPad build on it."""

    _db: Database[Document]
    _clock: Callable[[], datetime]
    _pid: int
    name: str
    where: str
    host: str
    ip: str

    def _durable(self, collection: str) -> Collection[Document]:
        """Return a collection whose writes are on disk, and with a majority, before they are acknowledged.

        So then is all that this client has written before.
        """
        return self._db[collection].with_options(write_concern=WriteConcern(w="majority", j=True))

    def _reaching(self) -> AbstractContextManager[None]:
        return reaching(self.where)


def connect(
    uri: str, name: str, timeout: float, options: Mapping[str, Any]
) -> tuple[Database[Document], str]:
    """Return a database and what to call it in messages; the driver connects when it is used."""
    settings = {
        "appname": "fwagent",
        "tz_aware": True,
        "serverSelectionTimeoutMS": round(timeout * 1000),
        "connectTimeoutMS": round(timeout * 1000),
        "socketTimeoutMS": round(timeout * 6000),
        **options,
    }
    try:
        client: MongoClient[Document] = MongoClient(uri, **settings)
        where = ", ".join(f"{host}:{port}" for host, port in _seeds(client)) + f"/{name}"
        return client[name], where
    except (InvalidURI, ConfigurationError, ValueError, TypeError, PyMongoError):
        raise InvalidSettings(
            "the database URI cannot be understood",
            "it looks like mongodb://USER:PASSWORD@HOST:27017/?authSource=admin; "
            "escape special characters of the password (%40 for @)",
        ) from None


def own_address(host: str) -> str:
    """Return the address of this host, as FireWorks stores it with a launch."""
    try:
        return socket.gethostbyname(host)
    except OSError:
        return "127.0.0.1"


def _seeds(client: MongoClient[Document]) -> list[tuple[str, int | None]]:
    return sorted(client.topology_description.server_descriptions(), key=str)
