"""TLS between a socket and a connection (RFC 8446, RFC 5246): ciphertext on one side, bytes on the other.

What lives here: the handshake and its deadline, and how either side ends. What must not: which certificates and
versions are accepted (gunicorn's settings decide), requests, or accepting (``wsgi.server.acceptor``).

uvloop has TLS of its own, but it ends a transport as soon as the client has ended its side. A client that sends its
request, ends its side, and then reads would get no answer. This layer keeps the two directions apart, as TCP does.

Every request says how long it is, so a connection's end never completes one. That is why a FIN without close_notify,
which an attacker can forge, is treated like close_notify: it cuts a request short, or it comes after a whole one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any

from wsgi.server.connection import Connection

FRAGMENT_BYTES_MAX = 16_384
"""Bytes that TLS encrypts in one piece (RFC 8446 section 5.1): what one read can return."""
ALERT_SECONDS = 1
"""How long a client whose handshake failed may take to read the alert and end its side, before it is reset."""

_SHAKING, _OPEN, _DEAF = range(3)
"""The handshake runs; data flows; what arrives is dropped, since the client ended its side or the server did."""


def secure(context: ssl.SSLContext) -> ssl.SSLContext:
    """Switch renegotiation off, whatever the configuration made: it lets a client make the server work for free."""
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


class TlsLayer(asyncio.Protocol):
    """The socket's protocol, and the transport of ``connection``, which hears of nothing until the handshake is done.

    ``settled`` is called once: when the handshake is done, or the client left before. ``seconds``: for the handshake.
    """

    __slots__ = (
        "_connection", "_incoming", "_loop", "_notified", "_outgoing", "_seconds", "_settled", "_state", "_timer",
        "_tls", "_transport",
    )  # fmt: skip

    def __init__(
        self, context: ssl.SSLContext, loop: Any, connection: Connection, settled: Callable[[], None], seconds: float
    ) -> None:
        self._loop, self._seconds = loop, seconds
        self._connection: Connection | None = connection
        self._settled: Callable[[], None] | None = settled
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._state = _SHAKING
        self._notified = False

    # What the socket's transport calls.

    def connection_made(self, transport: Any) -> None:
        """Wait for the client's first words, for a while."""
        self._transport = transport
        self._timer = self._loop.call_later(self._seconds, self.abort)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket."""
        if self._state == _OPEN:
            self._incoming.write(data)
            self._read()
        elif self._state == _SHAKING:
            self._incoming.write(data)
            self._shake()
        elif self._notified and self._connection is not None:
            self._connection.data_received(data)  # It lingers: it drops them, and notes that the client still sends.

    def eof_received(self) -> bool:
        """Take a FIN; return whether the socket stays open for the answer."""
        if self._state == _SHAKING or self._connection is None or self._transport.is_closing():
            return False
        if self._connection.eof:  # close_notify came before.
            return True
        return self._end_of_stream()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on, and refer to nobody any more."""
        self._stop_timer()
        connection, self._connection = self._connection, None
        if connection is not None and connection.transport is self:
            connection.connection_lost(exc)
        self.settle()
        self._transport, self._state = None, _DEAF

    def pause_writing(self) -> None:
        """Pass it on: the client is slow to read."""
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        if self._connection is not None:
            self._connection.resume_writing()

    # The handshake.

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._refuse(error)
        else:
            self._flush()
            self._stop_timer()
            self._state = _OPEN
            connection = self._connection
            assert connection is not None
            connection.since = connection.server.clock
            connection.connection_made(self)
            self.settle()
            if self._incoming.pending:
                self._read()

    def _refuse(self, error: ssl.SSLError) -> None:
        """Send the alert, and let the client read it: if it still sends to a closed socket, it sees a reset."""
        assert self._connection is not None
        self._connection.server.log.debug("a TLS handshake failed: %s", error)
        self._stop_timer()
        self._connection, self._state = None, _DEAF
        self._flush()
        self._transport.write_eof()
        self._timer = self._loop.call_later(ALERT_SECONDS, self.abort)

    def settle(self) -> None:
        """Call ``settled``, unless it was."""
        settled, self._settled = self._settled, None
        if settled is not None:
            settled()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # From ciphertext to bytes.

    def _read(self) -> None:
        """Give the connection all that is whole, in one piece, as a read of a plain socket would."""
        tls, incoming, connection = self._tls, self._incoming, self._connection
        assert connection is not None
        pieces = []
        ended, failed = False, None
        try:
            while True:
                piece = tls.read(FRAGMENT_BYTES_MAX)
                if not piece:
                    ended = True
                    break
                pieces.append(piece)
                if not incoming.pending:  # PERF: saves the exception that says so.
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            failed = str(error)
        if pieces:
            connection.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._state != _OPEN:  # The connection has ended meanwhile.
            return
        if self._outgoing.pending:
            self._flush()
            if failed is None and tls.version() != "TLSv1.3":
                failed = "the client wants to renegotiate"  # Older versions say nothing else after the handshake.
        if failed is not None:
            connection.server.log.debug("TLS failed: %s", failed)
            self._state = _DEAF
            self._transport.close()
        elif ended:
            self._end_of_stream()

    def _end_of_stream(self) -> bool:
        """Tell the connection that nothing will follow; return whether it goes on."""
        assert self._connection is not None
        self._state = _DEAF
        if self._connection.eof_received():
            return True
        self.close()
        return False

    # What the connection calls: the methods of a transport (PEP 3156) that it uses.

    def write(self, data: bytes) -> None:
        """Send ``data``."""
        tls = self._tls
        try:
            sent = tls.write(data)
            if sent < len(data):  # One fragment at a time.
                view = memoryview(data)
                while sent < len(data):
                    sent += tls.write(view[sent:])
        except ssl.SSLError as error:  # TLS is over, though the socket may not be.
            if self._connection is not None:
                self._connection.server.log.debug("TLS failed: %s", error)
            self.abort()
            return
        self._transport.write(self._outgoing.read())

    def write_eof(self) -> None:
        """End this side, once all is sent: close_notify, then FIN. What still arrives is dropped without decrypting."""
        self._notify()
        self._state = _DEAF
        self._transport.write_eof()

    def close(self) -> None:
        """End both sides, once all is sent."""
        if self._transport is not None and not self._transport.is_closing():
            self._notify()
            self._state = _DEAF
            self._transport.close()

    def abort(self) -> None:
        """Reset the socket."""
        if self._transport is not None:
            self._transport.abort()

    def is_closing(self) -> bool:
        """Return whether both sides end."""
        return self._transport is None or bool(self._transport.is_closing())

    def pause_reading(self) -> None:
        """Leave further bytes in the kernel's buffer."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait for the client: of ciphertext, since all is encrypted at once."""
        return int(self._transport.get_write_buffer_size())

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the socket's transport says."""
        return self._transport.get_extra_info(name, default)

    def _notify(self) -> None:
        """Send close_notify: without it the client could not tell the end from an attacker's (RFC 8446 section 6.1)."""
        if not self._notified:
            self._notified = True
            with contextlib.suppress(ssl.SSLError):  # The client's own close_notify need not be there.
                self._tls.unwrap()
            self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())
