"""A TCP proxy before a MongoDB server that can lose one command, or the reply to one, or be away in several ways."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Literal

from agent.mongod import Mongod

_HEADER = struct.Struct("<iiii")
_OP_MSG = 2013
#: What a driver says by itself, whatever it is used for.
_CHATTER = frozenset({"hello", "ismaster", "isMaster", "ping", "endSessions"})


#: All is well; connections are refused; nothing is answered; connections are reset, or cut within an answer.
Fault = Literal["none", "refuse", "stall", "reset", "half"]


class Proxy:
    """Forwards connections to a server and counts the commands that pass.

    `fault` has all of them go wrong, until it is "none" again.

    `lose` has the n-th command from then on lost, once: the connection is closed right before the server gets it
    (`reply=False`), or after the server has answered and before the client is told.
    """

    def __init__(self, server: Mongod) -> None:
        self._target = ("127.0.0.1", server.port)
        self._lock = threading.Lock()
        self._commands: list[str] = []
        self._at = 0
        self._reply = True
        self._lost: str | None = None
        self._fault: Fault = "none"
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []

    @property
    def uri(self) -> str:
        port = self._listener.getsockname()[1]
        return f"mongodb://127.0.0.1:{port}/?directConnection=true&serverMonitoringMode=poll"

    @property
    def commands(self) -> list[str]:
        """The commands since the last `lose`."""
        with self._lock:
            return list(self._commands)

    @property
    def lost(self) -> str | None:
        """The command that was lost, None if it has not been reached."""
        with self._lock:
            return self._lost

    @property
    def fault(self) -> Fault:
        """What goes wrong now."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        with self._changed:
            self._fault = fault
            self._changed.notify_all()
        if fault in ("refuse", "reset"):
            with self._lock:
                sockets, self._sockets = self._sockets, []
            for each in sockets:
                _reset(each)

    def _met(self) -> Fault:
        """Return what goes wrong with a message, after having kept it while nothing is answered."""
        with self._changed:
            self._changed.wait_for(lambda: self._fault != "stall")
            return self._fault

    def lose(self, at: int, *, reply: bool = True) -> None:
        """Lose the `at`-th command from now on; 0 loses none."""
        with self._lock:
            self._commands, self._at, self._reply, self._lost = [], at, reply, None

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.fault = "none"
        # A thread in `accept` is woken by a shutdown, not by a close.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            open_sockets = list(self._sockets)
        for each in open_sockets:
            _close(each)
        for thread in self._threads:
            thread.join(timeout=10)
            assert not thread.is_alive()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._fault in ("refuse", "reset"):
                _reset(client)
                continue
            server = socket.create_connection(self._target)
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets += [client, server]
            self._start(self._serve, client, server)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        """Carry requests and replies in turn: a driver that polls waits for each reply."""
        try:
            while True:
                request = _message(client)
                if self._met() not in ("none", "half"):
                    return
                losing = self._count(request)
                if losing and not self._reply:
                    return
                server.sendall(request)
                if _more_to_come(request):
                    continue
                answer = _message(server)
                if losing:
                    return
                if self._met() == "half":
                    client.sendall(answer[: len(answer) // 2])
                    return
                client.sendall(answer)
                while _more_to_come(answer):
                    answer = _message(server)
                    client.sendall(answer)
        except OSError:
            return
        finally:
            _close(client)
            _close(server)

    def _count(self, request: bytes) -> bool:
        """Count a request; tell whether it, or its reply, is to be lost."""
        name = command_of(request)
        if name is None or name in _CHATTER:
            return False
        with self._lock:
            self._commands.append(name)
            if len(self._commands) != self._at:
                return False
            self._lost = name
            return True


def command_of(message: bytes) -> str | None:
    """Return the name of the command in an OP_MSG: the first key of its body; None for other messages."""
    _length, _request, _response, opcode = _HEADER.unpack_from(message)
    if opcode != _OP_MSG:
        return None
    position = _HEADER.size + 4
    while position < len(message):
        kind = message[position]
        (size,) = struct.unpack_from("<i", message, position + 1)
        if kind == 0:  # the body; of a bulk, the sequences of documents may come before it
            begin = position + 1 + 4 + 1
            return message[begin : message.index(b"\0", begin)].decode()
        position += 1 + size
    return None


def _more_to_come(message: bytes) -> bool:
    (*_, opcode) = _HEADER.unpack_from(message)
    return opcode == _OP_MSG and bool(message[_HEADER.size] & 2)


def _message(source: socket.socket) -> bytes:
    head = _exactly(source, _HEADER.size)
    return head + _exactly(source, _HEADER.unpack(head)[0] - _HEADER.size)


def _exactly(source: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = source.recv(size - len(data))
        if not piece:
            raise ConnectionError("closed")
        data += piece
    return bytes(data)


def _reset(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _close(each)


def _close(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
