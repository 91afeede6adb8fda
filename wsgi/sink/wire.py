"""The wire: a connected Driver's socket, read and written without waiting.

What lives here: bytes out as far as they go, bytes in, and replies out of them (RESP2, by hiredis). What must not: what
is sent, what a reply means, when to try again (``link``).

redis-py connects: TCP, TLS, AUTH, SELECT. Then its socket is taken over, and its own reader is never used again: that
one waits. PERF: with a poll(2) of its own, a reply still costs 1 us less than by redis-py (bench/commits.py).
"""

from __future__ import annotations

import select
import ssl
from collections.abc import Callable
from typing import Any

import hiredis
import redis

READ_BYTES = 16_384
"""Read at once: the replies of some hundred XADDs."""
_LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_NONE = object()


class Wire:
    """Not thread-safe. Raises OSError, and redis.InvalidResponse for bytes that are no reply."""

    def __init__(self, sock: Any) -> None:
        sock.setblocking(False)
        self._recv, self._send = sock.recv, sock.send
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._reader = hiredis.Reader(notEnoughData=_NONE, protocolError=redis.InvalidResponse)
        self.fd: int = sock.fileno()
        self.ended = False
        """The store has closed the connection; all that came before has been returned."""
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLIN)
        self._writing = False
        self.poll: Callable[[float], list[tuple[int, int]]] = self._poll.poll
        """``wait`` without ``writing``; call it only while nothing is being written."""

    def send(self, data: memoryview | bytes) -> int:
        """Write what the socket takes now, and return how many bytes; 0 for none, then call again with the same."""
        try:
            sent: int = self._send(data)
        except _LATER:
            return 0
        return sent

    def receive(self) -> list[Any]:
        """Return the replies that are complete: bytes, int, list, None, or a hiredis.ReplyError (not raised)."""
        reader = self._reader
        try:
            while True:
                data = self._recv(READ_BYTES)
                reader.feed(data)
                # Of TLS, the rest of a record may wait where poll does not see it: read until there is no more.
                if len(data) < READ_BYTES and not (self._tls and data):
                    self.ended = not data
                    break
        except _LATER:
            pass
        found = []
        while (reply := reader.gets()) is not _NONE:
            found.append(reply)
        return found

    def wait(self, milliseconds: float, *, writing: bool = False) -> bool:
        """Wait until there is something to read, or with ``writing`` room to write; False after so long without."""
        if writing is not self._writing:
            self._poll.modify(self.fd, select.POLLIN | select.POLLOUT if writing else select.POLLIN)
            self._writing = writing
        return bool(self._poll.poll(milliseconds))
