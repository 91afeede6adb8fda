"""A relay in front of the store: bytes in pieces of any size, over TLS if wanted.

What lives here: threads that forward bytes. What must not: what the bytes mean (``tests.faults.proxy`` misbehaves).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

from tests.certificates import localhost


class Relay:
    """Listens on ``port`` and forwards to the unix socket ``target``, at most ``bytes_max`` at a time, each way."""

    def __init__(self, target: str, *, bytes_max: int = 65_536, tls: ssl.SSLContext | None = None) -> None:
        self._target, self._bytes_max, self._tls = target, bytes_max, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        # What accepted connections inherit: so that a writer finds them full.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[Any] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End the listener and every connection."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client: Any = self._listener.accept()[0]
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    client = self._tls.wrap_socket(client, server_side=True)
                store = socket.socket(socket.AF_UNIX)
                store.connect(self._target)
                self._sockets += [client, store]
                for source, sink in ((client, store), (store, client)):
                    threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: Any, sink: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := source.recv(self._bytes_max):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


def tls_context(directory: Path) -> tuple[ssl.SSLContext, str]:
    """Return a server's context with a certificate for localhost, and the path of its authority's."""
    authority, issued = localhost(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*issued)
    return context, authority
