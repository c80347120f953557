"""A MongoDB server with TLS and authentication, and servers whose certificates are not as they should be."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import trustme
from pymongo import MongoClient

from agent.mongod import Mongod
from tests.support.mongod import Client

#: In no other word of a log, and with what has to be escaped in a URI.
ADMIN_PASSWORD = "adm1n:s3cr3t"
PASSWORD = "s3cr3t@p/w%rd"
ESCAPED = "s3cr3t%40p%2Fw%25rd"
USER = "fwagent-user"


@dataclass
class Secure:
    """The server; ``ca`` is the file of the CA that has signed its certificate, ``other_ca`` one that has not."""

    server: Mongod
    directory: Path
    authority: trustme.CA

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def other_ca(self) -> Path:
        return self.directory / "other-ca.pem"

    def uri(
        self, password: str = ESCAPED, *, source: str = "admin", options: str | None = None
    ) -> str:
        """A URI for the limited user; ``options`` instead of those for TLS."""
        tls = f"tls=true&tlsCAFile={self.ca}" if options is None else options
        return f"mongodb://{USER}:{password}@{self.server.address}/?authSource={source}&{tls}"

    def admin(self) -> Client:
        """A client that may do everything. Close it."""
        return MongoClient(
            self.server.uri,
            username="root",
            password=ADMIN_PASSWORD,
            tls=True,
            tlsCAFile=str(self.ca),
        )

    @contextmanager
    def certified(self, name: str, *, expired: bool = False) -> Iterator[str]:
        """The address of a server with a certificate of the right CA, for a name; it shakes hands and no more."""
        now = datetime.now(timezone.utc)
        until = now - timedelta(days=1) if expired else None
        issued = self.authority.issue_cert(
            name, not_before=now - timedelta(days=9), not_after=until
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(context)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(0.1)
            end = threading.Event()
            thread = threading.Thread(target=_shake_hands, args=[listener, context, end])
            thread.start()
            try:
                yield f"127.0.0.1:{listener.getsockname()[1]}"
            finally:
                end.set()
                thread.join()


def _shake_hands(listener: socket.socket, context: ssl.SSLContext, end: threading.Event) -> None:
    while not end.is_set():
        with contextlib.suppress(OSError):
            plain, _address = listener.accept()
            with plain, context.wrap_socket(plain, server_side=True):
                pass


@contextmanager
def secure_server(directory: Path, binary: Path) -> Iterator[Secure]:
    """A server that takes nobody without TLS and a password."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(directory / "other-ca.pem"))
    tls: dict[str, Any] = {
        "--tlsMode": "requireTLS",
        "--tlsCAFile": str(directory / "ca.pem"),
        "--tlsCertificateKeyFile": str(directory / "server.pem"),
    }
    arguments = ["--auth", "--tlsAllowConnectionsWithoutCertificates"]
    arguments += [word for pair in tls.items() for word in pair]
    with Mongod(directory / "data", binary=binary, args=arguments) as server:
        # The first user may be made from this host without a password.
        ca = str(directory / "ca.pem")
        first: Client = MongoClient(server.uri, tls=True, tlsCAFile=ca)
        with first:
            first.admin.command("createUser", "root", pwd=ADMIN_PASSWORD, roles=["root"])
        yield Secure(server, directory, authority)
