"""Finding a server, and what it answers when it does not do as told."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

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

#: What helps, by what the driver or OpenSSL says; the first that fits.
_HINTS = [
    (
        r"certificate has expired|certificate is not yet valid",
        "whoever runs the server must renew its certificate; if that is good, the clock of this host is wrong",
    ),
    (
        r"unable to get local issuer|self.signed certificate",
        "nobody known here has signed the server's certificate: name its CA in the URI, tlsCAFile=/path/ca.pem",
    ),
    (
        r"(?i:hostname|ip address) mismatch",
        "the server's certificate is for another name: use the host name that stands in it",
    ),
    (
        r"(?i)wrong.version.number|record layer|EOF occurred|closed \(EOF\)",
        "the server speaks no TLS there: leave tls=true out",
    ),
    (
        r"(?i)alert (certificate required|bad certificate|unknown ca|handshake failure)",
        "the server wants a certificate of ours: tlsCertificateKeyFile=/path/client.pem in the URI",
    ),
    (
        r"connection closed|Connection reset",
        "the server may want TLS (tls=true in the URI), or a certificate of ours, too (tlsCertificateKeyFile=)",
    ),
]
_NOT_UNDERSTOOD = "the database URI cannot be understood"
_URI_HINT = (
    "it looks like mongodb://USER:PASSWORD@HOST:27017/?authSource=admin; "
    "escape special characters of the password (%40 for @, %2F for /)"
)
#: Milliseconds; the driver refuses less.
_HEARTBEAT_LEAST = 500
_UNREACHABLE = "check that MongoDB runs and that this host may reach it; nothing is lost meanwhile"
#: The server's codes: Unauthorized, AuthenticationFailed (error_codes.yml of MongoDB).
_UNAUTHORIZED, _AUTHENTICATION_FAILED = 13, 18
_REFUSED = "it is an answer of the server, whose log may tell more; nothing is lost meanwhile"
_REFUSALS = {
    _UNAUTHORIZED: "the user lacks a right, or none is given; docs/security.md has the role that fwagent needs",
    _AUTHENTICATION_FAILED: "check user, password and authSource (the database that the user was made in, often admin)",
}


@contextmanager
def reaching(what: str) -> Iterator[None]:
    """Turn the driver's errors into ours; nothing of a URI, and so no password, gets into them."""
    try:
        yield
    except ConnectionFailure as error:
        raise DatabaseUnreachable(
            f"the database at {what} does not answer: {_first_line(error)}", _hint(error)
        ) from None
    except OperationFailure as error:
        if isinstance(error, (BulkWriteError, DuplicateKeyError)):
            raise
        raise DatabaseRefused(
            f"the database at {what} refused: {_first_line(error)}",
            _REFUSALS.get(error.code or 0, _REFUSED),
        ) from None


def _first_line(error: Exception) -> str:
    line = str(error).splitlines()[0].split(", Timeout:")[0].split(", full error:")[0]
    # Of a command that the user has no right to, its name and collection: the rest is of no use.
    line = re.sub(r'execute command \{ (\w+): "?([\w.$]*).*', r"execute \1 on \2", line)
    return re.sub(r" \((_ssl\.c:\d+|configured timeouts: [^)]*)\)", "", line)[:300]


def _hint(error: Exception) -> str:
    return next((hint for words, hint in _HINTS if re.search(words, str(error))), _UNREACHABLE)


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
    """Return a database and what to call it in messages; the driver connects when it is used.

    A server that takes connections and answers nothing is given up after three times ``timeout``: the driver's
    monitor asks it every ``heartbeatFrequencyMS``, and cuts the commands that wait when it gets no answer.
    """
    settings = {
        "appname": "fwagent",
        "serverSelectionTimeoutMS": round(timeout * 1000),
        "connectTimeoutMS": round(timeout * 1000),
        "heartbeatFrequencyMS": max(_HEARTBEAT_LEAST, round(timeout * 1000)),
        "socketTimeoutMS": round(timeout * 12000),
        **options,
    }
    _refuse_unescaped(uri)
    try:
        # To the driver, what is given beside a URI goes before what the URI says.
        said = {name.lower() for name, _value in parse_qsl(urlsplit(uri).query)}
        settings = {
            name: value
            for name, value in settings.items()
            if name in options or name.lower() not in said
        }
        settings["tz_aware"] = True
        client: MongoClient[Document] = MongoClient(uri, **settings)
        where = ", ".join(f"{host}:{port}" for host, port in _seeds(client)) + f"/{name}"
        return client[name], where
    except OSError as error:
        # Of a certificate, which the driver reads at once.
        raise InvalidSettings(
            f"a file that the database URI names cannot be used: {error.filename or error.strerror or error}",
            "tlsCAFile and tlsCertificateKeyFile name PEM files on this host",
        ) from None
    except (InvalidURI, ConfigurationError, ValueError, TypeError, PyMongoError) as error:
        if _is_of_dns(error.__cause__):
            # Of mongodb+srv://, whose servers are asked for at once. DNS may be back in a minute.
            raise DatabaseUnreachable(
                f"the servers of the database are not to be found: {error.__cause__}",
                "is the host name of the database URI right, and DNS there? It is tried again",
            ) from None
        raise InvalidSettings(_NOT_UNDERSTOOD, _URI_HINT) from None


def _refuse_unescaped(uri: str) -> None:
    """Raise InvalidSettings for a password with a bare / and @ in it: the driver takes its end for the host.

    It would look that up in the DNS, and we would tell it.
    """
    _user_and_hosts, _, path = uri.partition("://")[2].partition("/")
    database, _, options = path.partition("?")
    if "@" in database or any("@" in each and "=" not in each for each in options.split("&")):
        raise InvalidSettings(_NOT_UNDERSTOOD, _URI_HINT)


def own_address(host: str) -> str:
    """Return the address of this host, as FireWorks stores it with a launch."""
    try:
        return socket.gethostbyname(host)
    except OSError:
        return "127.0.0.1"


def _is_of_dns(error: BaseException | None) -> bool:
    # By its module: the driver has the library only where it asks for servers.
    return error is not None and type(error).__module__.partition(".")[0] == "dns"


def _seeds(client: MongoClient[Document]) -> list[tuple[str, int | None]]:
    return sorted(client.topology_description.server_descriptions(), key=str)
