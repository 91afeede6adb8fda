"""One client's connection: an asyncio protocol (PEP 3156) between a transport and the turns.

What lives here: which bytes belong to which request, in order; and what follows an answer. What must not: answers
(``wsgi.server.exchange``), calling the application (``wsgi.server.turn``), what a valid request is
(``wsgi.server.head``), what is overdue (``wsgi.server.deadlines``).

A connection works on one request at a time; what arrives meanwhile waits in ``unread``, bounded. The states and their
moves are the table in ``wsgi.server.states``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from io import BytesIO
from typing import Any

from wsgi.server.chunked import ChunkedBody, SizedBody
from wsgi.server.exchange import AGAIN, FAILED, MORE, Exchange
from wsgi.server.head import CLOSE, HEAD_END, KEEP_ALIVE, Head, NoHead, Site
from wsgi.server.refusal import HttpError, bad, too_large
from wsgi.server.shared import ServerState
from wsgi.server.states import (
    ANSWERED,
    ANSWERED_LAST,
    ANSWERED_NEXT,
    ARRIVED,
    BODY,
    BODY_BEGUN,
    BODY_ENDED,
    BUSY,
    CLOSING,
    DROPPED,
    ENDED,
    HEAD,
    HEAD_BEGUN,
    HEAD_ENDED,
    IDLE,
    PART_SENT,
    REFUSED,
    STREAM,
)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_EMPTY_LINES = re.compile(rb"(?:\r\n)+")
"""Before a request; RFC 9112 section 2.2 wants at least one ignored."""


class Connection(asyncio.Protocol):
    """A connection. It has an ``exchange``, which answers.

    ``since``: the clock (s) when the present state, or its last progress, began; ``started``: when the body, or the
    closing, did. ``held``: bytes of an unfinished body.
    """

    __slots__ = (
        "answered", "body", "data", "environ", "eof", "exchange", "held", "next_mode", "partial", "pending", "reading",
        "received", "remote_addr", "remote_port", "server", "since", "site", "started", "state", "transport", "unread",
        "wrote",
    )  # fmt: skip

    def __init__(self, server: ServerState, site: Site, remote_addr: str, remote_port: str) -> None:
        self.server, self.site = server, site
        self.remote_addr, self.remote_port = remote_addr, remote_port
        self.exchange = Exchange(server)
        self.transport: Any = None
        self.state = IDLE
        self.data = b""
        self.unread = b""
        self.partial = bytearray()
        self.body: SizedBody | ChunkedBody | None = None
        self.environ: dict[str, Any] | None = None
        self.received = self.held = self.answered = self.pending = 0
        self.next_mode: int | None = None
        self.since = self.started = self.wrote = server.clock
        self.eof = False
        self.reading = True

    # What the transport calls.

    def connection_made(self, transport: Any) -> None:
        """Start."""
        self.transport = self.exchange.transport = transport
        self.server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes: in one read, the usual case, they are queued as they are."""
        if self.state == IDLE:
            self.state = ARRIVED[IDLE]
            self.data = data
            self.server.arrive(self)
        else:
            self._more(data)

    def eof_received(self) -> bool:
        """Note that the client has ended its side; return whether the transport stays open for the answer."""
        self.eof = True
        if self.state == BODY or (self.state == HEAD and self.partial):
            self.fail(bad("the request was cut short"))
        # TLS cannot be half-closed: uvloop ends such a transport whatever is returned here, and warns of True.
        return self.state in (BUSY, STREAM) and self.transport.can_write_eof() is True

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop everything but a request that waits for its turn: that one is called, with nobody to answer."""
        if self.state not in (IDLE, CLOSING):
            self.server.log.debug("a client went away in mid-request: %s", exc or "end of stream")
        if self.state == STREAM:
            self.exchange.abandon()
        self.state = ENDED[self.state]
        self.transport = self.exchange.transport = None
        self.server.held.free(self, self.server.clock)
        self.server.leave(self)
        self.body, self.partial, self.unread = None, bytearray(), b""

    def pause_writing(self) -> None:
        """Note that the client is slow to read."""
        self.exchange.paused = True

    def resume_writing(self) -> None:
        """Go on with the answer, in a later step of the loop."""
        self.exchange.paused = False
        self.since = self.server.clock
        if self.state == STREAM:
            self.server.call_soon(self.pump)

    # Bytes to requests.

    def _more(self, data: bytes) -> None:
        """Take bytes that do not start a request on an idle connection."""
        if self.state == BODY:
            self.since = self.server.clock
            try:
                self._take_body(data)
            except HttpError as error:
                self.fail(error)
        elif self.state == HEAD:
            seen = len(self.partial)
            self.partial += data
            self._seek_head(seen)
        elif self.state == CLOSING:
            self.since = self.server.clock
        else:
            self.unread += data
            if len(self.unread) > self.server.limits.unread_bytes_max:
                self.pause_reading()

    def _seek_head(self, seen: int) -> None:
        """Queue the request once its head is complete; refuse what cannot become one. ``seen``: bytes searched."""
        partial = self.partial
        empty = _EMPTY_LINES.match(partial)
        if empty is not None:
            seen = 0
            self.partial = partial = partial[empty.end() :]
        if partial.find(HEAD_END, max(seen - 3, 0)) >= 0:
            self.data, self.partial = bytes(partial), bytearray()
            self.state = HEAD_ENDED[self.state]
            self.server.arrive(self)
            return
        try:
            self.site.check_start(partial, seen)
        except HttpError as error:
            self.fail(error)

    def take(self) -> dict[str, Any] | None:
        """Return the environ of the request at the start of ``data``, or None if it is incomplete or refused."""
        if self.environ is not None:
            environ, self.environ = self.environ, None
            return environ
        data = self.data
        if self.unread:  # It came between the end of the last request and this turn.
            data, self.unread = data + self.unread, b""
        empty = _EMPTY_LINES.match(data)
        if empty is not None:
            data = data[empty.end() :]
        self.exchange.head = NoHead
        end = data.find(HEAD_END) + 4
        if end < 4:
            self._begin_head(data)
            return None
        self.data = data
        try:
            self.exchange.head = head = self.site.head(data[:end])
            return self._begin_body(head, data)
        except HttpError as error:
            self.fail(error)
            return None

    def _begin_head(self, data: bytes) -> None:
        self.data = b""
        if self.transport is None:
            self.state = DROPPED[self.state]
            return
        self.state = HEAD_BEGUN[self.state]
        self.since = self.server.clock
        self.partial = bytearray(data)
        self.resume_reading()
        self._seek_head(0)
        if self.eof and self.state == HEAD:
            if self.partial:
                self.fail(bad("the request was cut short"))
            else:
                self.transport.close()

    def _begin_body(self, head: Head, data: bytes) -> dict[str, Any] | None:
        """Return the environ if the body is there and small; else wait for it. Raises HttpError."""
        limits = self.server.limits
        if head.length > limits.payload_bytes_max:
            raise too_large(limits.payload_bytes_max)
        self.data = b""
        have = len(data) - head.size
        if 0 <= head.length <= min(have, limits.big_bytes):
            self.unread = data[head.size + head.length :]
            return self._fill(head, BytesIO(data[head.size : head.size + head.length]))
        if self.transport is None:
            self.state = DROPPED[self.state]
            return None
        self.state = BODY_BEGUN[self.state]
        self.since = self.started = self.server.clock
        self.received = 0
        self.body = ChunkedBody(limits.payload_bytes_max) if head.length < 0 else SizedBody(head.length)
        if head.expects and not have:
            self.transport.write(CONTINUE)
        self.resume_reading()
        if have:
            self._take_body(data[head.size :])
        if self.eof and self.state == BODY:
            raise bad("the body was cut short")
        return None

    def _take_body(self, data: bytes) -> None:
        """Take a piece of the body. Raises HttpError."""
        body = self.body
        assert body is not None
        self.received += len(data)
        self.server.held.add(self, len(data))
        if not body.feed(data):
            return
        self.unread, self.body = body.rest, None
        self.environ = self._fill(self.exchange.head, body.stream)
        self.state = BODY_ENDED[self.state]
        if body.size > self.server.limits.big_bytes:
            self.server.arrive_big(self)
        else:
            self.server.arrive(self)

    def _fill(self, head: Head, body: BytesIO) -> dict[str, Any]:
        """Return the environ (PEP 3333) of one request."""
        environ = head.environ.copy()
        environ["REMOTE_ADDR"] = self.remote_addr
        environ["REMOTE_PORT"] = self.remote_port
        environ["wsgi.input"] = body
        return environ

    # What follows an answer.

    def answer(self, result: Iterable[bytes]) -> None:
        """Write the application's response, in the second phase of a turn."""
        server, exchange = self.server, self.exchange
        mode = CLOSE if (server.closes or self.eof) and not self.unread else exchange.head.mode
        outcome = exchange.answer(result, mode)
        busy = self.unread or self.eof or self.held or exchange.paused or not self.reading
        if outcome == KEEP_ALIVE and not busy and self.transport:
            # PERF: the usual end of an answer, as _answered and _go_on would make it.
            self.answered += 1
            self.data = b""
            self.since = server.clock
            self.state = ANSWERED[self.state]
        elif outcome >= 0:
            self._answered(outcome)
        else:
            self._unanswered(outcome)

    def pump(self) -> None:
        """Write a response on, after the client or the other connections had time."""
        if self.state != STREAM:
            return
        if self.next_mode is not None:
            mode, self.next_mode = self.next_mode, None
            self._go_on(mode)
            return
        outcome = self.exchange.pump()
        if outcome >= 0:
            self._answered(outcome)
        else:
            self._unanswered(outcome)

    def broken(self) -> None:
        """Answer 500 after the application raised; call it while handling the exception."""
        self._unanswered(self.exchange.broken())

    def _answered(self, mode: int) -> None:
        """Account for an answer that is complete."""
        self.answered += 1
        self.data = b""
        if self.held:
            self.server.held.free(self, self.server.clock)
        if self.transport is None:
            self.unread = b""
            self.state = DROPPED[self.state]
        elif not self.exchange.paused:
            self._go_on(mode)
        else:  # What follows waits until the client has read this answer.
            self.state = PART_SENT[self.state]
            self.next_mode = mode

    def _go_on(self, mode: int) -> None:
        """Start on the next request, or end."""
        self.since = self.server.clock
        if mode == CLOSE or (self.eof and not self.unread):
            self.state = ANSWERED_LAST[self.state]
            self._linger(refused=False)
        elif self.unread:
            self.state = ANSWERED_NEXT[self.state]
            self.data, self.unread = self.unread, b""
            if len(self.data) <= self.server.limits.unread_bytes_max:
                self.resume_reading()
            self.server.arrive(self)
        else:
            self.state = ANSWERED[self.state]
            self.resume_reading()

    def _unanswered(self, outcome: int) -> None:
        """Go on after an answer that is not complete."""
        if outcome in (MORE, AGAIN):
            self.since = self.server.clock
            self.state = PART_SENT[self.state]
            if outcome == AGAIN:
                self.server.call_soon(self.pump)
        elif outcome == FAILED:
            self.fail(HttpError(500, "the application failed; the error is logged"))
        else:
            self.state = ANSWERED_LAST[self.state]
            self.transport.abort()

    def fail(self, error: HttpError) -> None:
        """Answer without the application, and close. An answer to HEAD has no body, though its head is not parsed."""
        start = self.partial or self.data
        sends_body = self.exchange.head.sends_body and not start.startswith(b"HEAD ")
        answer = self.server.refusal(error, sends_body=sends_body)
        self.server.held.free(self, self.server.clock)
        self.body, self.data, self.unread, self.partial = None, b"", b"", bytearray()
        if self.transport is None:
            self.state = DROPPED[self.state]
            return
        self.transport.write(answer)
        self.state = REFUSED[self.state]
        self._linger(refused=True)

    def _linger(self, *, refused: bool) -> None:
        """End our side; what still arrives is dropped until the client ends its own (RFC 9112 section 9.6)."""
        self.since = self.started = self.server.clock
        self.unread = b""
        if self.eof:
            self.transport.close()
        elif self.transport.can_write_eof():
            self.transport.write_eof()
            self.resume_reading()
        elif refused:  # TLS cannot be half-closed; the client may still be sending.
            self.resume_reading()
        else:
            self.transport.close()

    def pause_reading(self) -> None:
        """Leave further bytes in the kernel's buffer."""
        if self.reading and self.transport is not None:
            self.reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if not self.reading and self.transport is not None and not self.transport.is_closing():
            self.reading = True
            self.transport.resume_reading()
