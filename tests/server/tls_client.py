"""A TLS client that decides on each byte and each end itself: over a plain socket, with ssl.MemoryBIO.

What lives here: the client. What must not: assertions. Python's own SSLSocket cannot end one direction alone.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any, Self

from tests.server.worker_server import DEADLINE_SECONDS, Client

CLOSE_NOTIFY, FIN, RESET = "close_notify", "FIN", "reset"
"""How the server ended: as TLS wants it; its TCP alone; or by a reset."""


class TlsClient(Client):
    """A client over TLS. ``ended``: how the server ended its side, once it has."""

    def __init__(self, address: Any, context: ssl.SSLContext, *, handshake: bool = True) -> None:
        super().__init__(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.ended = ""
        if handshake:
            self.handshake()

    def handshake(self) -> None:
        """Shake hands. Raises SSLError where the server refuses, ConnectionError where it ends."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self._receive()
                if self.ended in (FIN, RESET):
                    raise ConnectionError(f"the server ended in the handshake: {self.ended}") from None
            else:
                self.flush()
                return

    def records(self, data: bytes) -> bytes:
        """``data`` as it goes over the wire, without sending it."""
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]
        return self.outgoing.read()

    def send(self, data: bytes) -> Self:
        self.sock.sendall(self.records(data))
        return self

    def flush(self) -> None:
        """Send what TLS wants to say."""
        self.sock.sendall(self.outgoing.read())

    def close_notify(self) -> Self:
        """End this side of TLS, and go on reading."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self.flush()
        return self

    def fin(self) -> Self:
        """End this side of TCP, and go on reading; the server may have ended both."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        return self

    def _receive(self) -> None:
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionError:
            self.ended = self.ended or RESET
            return
        if data:
            self.incoming.write(data)
        else:
            self.ended = self.ended or FIN

    def _fill(self) -> bool:
        while self.ended != CLOSE_NOTIFY:
            try:
                data = self.tls.read(1 << 18)
            except ssl.SSLWantReadError:
                if self.ended:
                    return False
                self._receive()
                continue
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                self.ended = CLOSE_NOTIFY
            self.buffer += data
            return bool(data)
        return False

    def wait_for_fin(self) -> bool:
        """Wait until the server has ended TCP as well; False where it was by a reset."""
        self.sock.settimeout(DEADLINE_SECONDS)
        try:
            while self.sock.recv(1 << 18):
                pass
        except ConnectionError:
            return False
        return True
