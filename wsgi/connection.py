"""One client's connection: an asyncio protocol (PEP 3156) between a transport and the worker's turns.

What lives here: which bytes belong to which request, in order, and what is overdue. What must not: answers
(``wsgi.exchange``, which also draws the states), calling the application (``wsgi.worker``), what a valid request is
(``wsgi.http11``).
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from wsgi.exchange import BODY, BUSY, CLOSING, HEAD, IDLE, STREAM, Exchange, NoHead
from wsgi.http11 import HEAD_END, ChunkedBody, Head, HttpError, bad, too_large

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(Exchange):
    """Created at accept by the worker."""

    __slots__ = ()

    # What the transport calls.

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.worker.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self.state == IDLE:
            self.state = BUSY
            self.data = data
            self.worker.arrive(self)
        else:
            self._more(data)

    def eof_received(self) -> bool:
        """A client may end its side and still read the answer; returns whether the transport stays open."""
        self.eof = True
        if self.state in (HEAD, BODY):
            self.fail(bad("the request was cut short"))
        # TLS cannot be half-closed: uvloop ends such a transport whatever is returned here, and warns of True.
        return self.state in (BUSY, STREAM) and self.transport.can_write_eof() is True

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.lost(self)
        if self.state not in (IDLE, CLOSING):
            self.worker.log.debug("a client went away in mid-request: %s", exc or "end of stream")
        if self.state == STREAM:
            self._close_result()
        if self.state != BUSY:
            self.start = None
        self.release()
        self.transport = None
        self.pieces, self.partial, self.unread = [], bytearray(), b""

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.since = self.worker.clock
        if self.state == STREAM:
            self.worker.loop.call_soon(self.pump)

    # Bytes to requests.

    def _more(self, data: bytes) -> None:
        """Bytes that do not start a request on an idle connection."""
        if self.state == BODY:
            self.since = self.worker.clock
            try:
                self._take_body(data)
            except HttpError as error:
                self.fail(error)
        elif self.state == HEAD:
            seen = len(self.partial)
            self.partial += data
            self._seek_head(seen)
        elif self.state == CLOSING:
            self.received += len(data)
            if self.received > self.worker.linger_bytes_max and self.transport is not None:
                self.transport.abort()
        else:
            self.unread += data
            if len(self.unread) > self.worker.unread_bytes_max:
                self.pause_reading()

    def _seek_head(self, seen: int) -> None:
        """Go on once the head is complete; refuse one that cannot become valid. ``seen``: bytes looked at before."""
        partial = self.partial
        if partial.find(HEAD_END, max(seen - 3, 0)) >= 0:
            self.data, self.partial = bytes(partial), bytearray()
            self.state = BUSY
            self.worker.arrive(self)
            return
        line_max = self.site.line_bytes_max
        if len(partial) > line_max and partial.find(b"\r\n", 0, line_max + 2) < 0:
            self.fail(HttpError(414, "uri-too-long", f"the request line is over {line_max} bytes"))
        elif len(partial) > self.worker.head_bytes_max:
            self.fail(HttpError(431, "headers-too-large", f"the head is over {self.worker.head_bytes_max} bytes"))
        else:
            at = partial.find(b"\n", seen)
            while at >= 0:
                if at == 0 or partial[at - 1] != 0x0D:
                    self.fail(bad("a line of the head ends with LF alone"))
                    return
                at = partial.find(b"\n", at + 1)

    def take(self) -> dict[str, Any] | None:
        """In a turn, where the short cut does not apply: the request's environ, or None: not yet, or refused."""
        if self.environ is not None:
            environ, self.environ = self.environ, None
            return environ
        data = self.data
        if self.unread:  # It came between the end of the last request and this turn.
            data, self.unread = data + self.unread, b""
        if data.startswith(b"\r\n"):
            data = data[2:]  # RFC 9112 section 2.2: one empty line before a request is ignored.
        self.head = NoHead
        try:
            end = data.find(HEAD_END) + 4
            if end < 4:
                self.state, self.since = HEAD, self.worker.clock
                self.partial, self.data = bytearray(data), b""
                if self.eof:
                    raise bad("the request was cut short")
                self.resume_reading()
                self._seek_head(0)
                return None
            self.head = head = self.site.head(data[:end])
            return self._start_body(head, data)
        except HttpError as error:
            self.fail(error)
            return None

    def _start_body(self, head: Head, data: bytes) -> dict[str, Any] | None:
        worker = self.worker
        self.data = b""
        if head.length > worker.payload_bytes_max:
            raise too_large(worker.payload_bytes_max)
        have = len(data) - head.size
        if 0 <= head.length <= min(have, worker.big_bytes):
            self.unread = data[head.size + head.length :]
            return self.fill(head, BytesIO(data[head.size : head.size + head.length]))
        self.state, self.since, self.started = BODY, worker.clock, worker.clock
        self.received, self.pieces = 0, []
        self.chunked = ChunkedBody(worker.payload_bytes_max) if head.length < 0 else None
        if head.expects and not have and self.transport is not None:
            self.transport.write(CONTINUE)
        self.resume_reading()
        if have or not head.length:
            self._take_body(data[head.size :])
        if self.eof and self.state == BODY:
            raise bad("the body was cut short")
        return None

    def _take_body(self, data: bytes) -> None:
        """A piece of the body. It is kept as it came: no piece is copied before the last one is there."""
        self.received += len(data)
        self.hold(len(data))
        if self.chunked is not None:
            if self.chunked.feed(data):
                self.unread = self.chunked.rest
                self._body_done(self.chunked.stream, self.chunked.size)
            return
        length = self.head.length
        surplus = self.received - length
        if surplus > 0:
            self.unread = data[len(data) - surplus :]
            data = data[: len(data) - surplus]
        self.pieces.append(data)
        if surplus >= 0:
            body, self.pieces = BytesIO(b"".join(self.pieces)), []
            self._body_done(body, length)

    def _body_done(self, body: BytesIO, size: int) -> None:
        self.environ = self.fill(self.head, body)
        self.chunked = None
        self.state = BUSY
        if size > self.worker.big_bytes:
            self.worker.arrive_big(self)
        else:
            self.worker.arrive(self)

    def fill(self, head: Head, body: BytesIO) -> dict[str, Any]:
        """The environ (PEP 3333) of one request."""
        environ = head.environ.copy()
        environ["REMOTE_ADDR"] = self.remote_addr
        environ["REMOTE_PORT"] = self.remote_port
        environ["wsgi.input"] = body
        return environ

    # Deadlines.

    def sweep(self, clock: float) -> None:
        """Once a second: end what is overdue. ``clock``: the worker's, in seconds."""
        worker, transport = self.worker, self.transport
        if transport is None:
            return
        pending = transport.get_write_buffer_size()
        if pending:
            if pending != self.pending:
                self.wrote = clock
            elif clock - self.wrote > worker.write_seconds:
                transport.abort()
            self.pending = pending
            return
        self.pending = 0
        age = clock - self.since
        if self.state == IDLE:
            if age > (worker.keepalive_seconds if self.answered else worker.head_seconds):
                transport.close()
        elif self.state == HEAD:
            if age > worker.head_seconds:
                self.fail(HttpError(408, "request-timeout", f"the head took over {worker.head_seconds} s"))
        elif self.state == BODY and self.reading:
            elapsed = clock - self.started
            if age > worker.body_idle_seconds:
                self.fail(HttpError(408, "request-timeout", f"no byte of the body for {worker.body_idle_seconds} s"))
            elif elapsed > worker.body_grace_seconds and self.received < elapsed * worker.body_bytes_per_second_min:
                least = worker.body_bytes_per_second_min
                self.fail(HttpError(408, "request-timeout", f"the body came at under {least} bytes a second"))
        elif self.state == CLOSING and age > worker.linger_seconds:
            transport.abort()
