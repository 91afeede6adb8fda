"""The answering half of a connection: from what the application returned to bytes with the transport (PEP 3333).

What lives here: ``start_response``, the response on its way out, whole or in pieces, errors, and what comes after an
answer. What must not: which bytes are a request (``wsgi.connection``), what a response looks like (``wsgi.response``),
when the application is called (``wsgi.worker``).

A connection has one request in hand at a time; what arrives meanwhile waits in ``unread``, bounded. States:

    IDLE -> BUSY                   a head and its body came in one read
    IDLE -> HEAD -> BODY -> BUSY   ... or in several
    BUSY -> (STREAM ->) IDLE       answered; BUSY means queued for a turn, or in it
    any  -> CLOSING                what still arrives is dropped, so that the client sees the answer and no reset
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from wsgi.http11 import CLOSE, ChunkedBody, HttpError
from wsgi.response import Framing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from wsgi.connection import Connection
    from wsgi.http11 import Site
    from wsgi.worker import PhasedWorker

IDLE, HEAD, BODY, BUSY, STREAM, CLOSING = range(6)


class NoHead:
    """Stands for "no head yet": no bytes match it, and a refusal has a body."""

    raw, total, mode, sends_body = b"", -1, CLOSE, True


class Exchange(asyncio.Protocol):
    """What a connection knows, and its answering half.

    ``since``: the worker's clock (s) when the present state, or its last progress, began.
    """

    __slots__ = (
        "answered",
        "began",
        "chunked",
        "data",
        "environ",
        "eof",
        "framing",
        "head",
        "headers",
        "held",
        "mode",
        "partial",
        "paused",
        "pending",
        "pieces",
        "reading",
        "received",
        "remote_addr",
        "remote_port",
        "result",
        "seen",
        "sent",
        "since",
        "site",
        "start",
        "started",
        "state",
        "status",
        "stream",
        "transport",
        "unread",
        "worker",
        "written",
        "wrote",
    )  # fmt: skip

    def __init__(self, worker: PhasedWorker, site: Site, remote_addr: str, remote_port: str) -> None:
        self.worker, self.site = worker, site
        self.remote_addr, self.remote_port = remote_addr, remote_port
        self.transport: Any = None
        self.state = IDLE
        self.head: Any = NoHead
        self.data = b""
        self.unread = b""
        self.partial = bytearray()
        self.environ: dict[str, Any] | None = None
        self.pieces: list[bytes] = []
        self.chunked: ChunkedBody | None = None
        self.received = self.held = self.answered = self.pending = self.sent = 0
        self.mode = CLOSE
        self.since = self.started = self.wrote = worker.clock
        self.seen: dict[str, Any] = {}
        self.began = 0.0
        self.eof = self.paused = False
        self.reading = True
        self.status: str | None = None
        self.headers: list[tuple[str, str]] = []
        self.written: list[bytes] = []
        self.stream: Iterator[bytes] | None = None
        self.framing: Framing | None = None
        self.result: Iterable[bytes] | None = None
        self.start: Any = self.start_response

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        """PEP 3333. What it gets is checked when the response is written."""
        if exc_info is not None:
            try:
                if self.state == STREAM:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.status is not None:
            raise AssertionError("start_response was called twice without exc_info")
        self.status, self.headers = status, headers
        return self.written.append

    def answer(self, result: Iterable[bytes]) -> None:
        """In the second phase of a turn: iterate the response and write it. Never raises what the application does."""
        worker = self.worker
        try:
            iterator = iter(result)
            first = next(iterator, b"")
            if self.status is None:
                raise AssertionError("the application did not call start_response")
            mode = CLOSE if (worker.closes or self.eof) and not self.unread else self.head.mode
            known = worker.plain.get((mode, self.status, tuple(self.headers)))
            if known is None or known[1] != len(first) or self.written or not self.head.sends_body:
                self._answer_in_full(result, iterator, first, mode)
                return
            data = known[0] + first
            self.result = result
            if hasattr(result, "close"):
                result.close()
        except Exception:
            self.result = result
            self.broken()
            return
        self.result = None
        transport = self.transport
        if transport is None:
            self.start = None  # The client left before its answer: nothing else would break this cycle.
        else:
            transport.write(data)
        self.sent = len(first)
        self.done(mode)

    def _answer_in_full(self, result: Iterable[bytes], iterator: Iterator[bytes], first: bytes, mode: int) -> None:
        """Any response: no length, several pieces, no body, write() used, or a head not seen this second."""
        worker, request = self.worker, self.head
        pieces = [*self.written, first]
        size = sum(map(len, pieces))
        self.stream = None
        for piece in iterator:
            pieces.append(piece)
            size += len(piece)
            if size > worker.gather_bytes_max:
                self.stream = iterator
                break
        assert self.status is not None
        head = worker.heads.make(mode, self.status, self.headers)
        chunked, length, extra = False, head.length, b""
        if head.bodiless or not request.sends_body:
            self.stream, pieces, length = None, [], -1
        elif length < 0 and self.stream is None:
            length, extra = size, b"Content-Length: %d\r\n" % size
        elif length < 0 and request.environ["SERVER_PROTOCOL"] == "HTTP/1.1":
            chunked, extra = True, b"Transfer-Encoding: chunked\r\n"
        elif length < 0:
            mode = CLOSE
            head = worker.heads.make(mode, self.status, self.headers)
        self.framing = Framing(length, chunked=chunked)
        self.state, self.since, self.result = STREAM, worker.clock, result
        self.sent = 0
        self._write(head.raw + extra + b"\r\n" + self.framing.frame(b"".join(pieces)))
        self.sent = min(size, length) if length >= 0 else size
        self.mode = mode
        self.pump()

    def pump(self) -> None:
        """Write a response on, until it is complete, the client is slow, or this turn's share is used up."""
        if self.state != STREAM or self.transport is None:
            return
        budget = self.worker.gather_bytes_max
        try:
            while self.stream is not None and self.framing is not None and not self.paused:
                if budget <= 0:
                    self.worker.loop.call_soon(self.pump)
                    return
                piece = next(self.stream, None)
                if piece is None:
                    self.stream = None
                elif piece:
                    budget -= len(piece)
                    self.sent += len(piece)
                    self._write(self.framing.frame(piece))
            if self.stream is not None:
                return
            if self.framing is not None:
                framing, self.framing = self.framing, None
                self._write(framing.end())
        except Exception:
            self.broken()
            return
        self._close_result()
        if not self.paused:
            self.done(self.mode)

    def done(self, mode: int) -> None:
        """The response is with the transport: on to the next request, or to the end."""
        worker = self.worker
        self.answered += 1
        if worker.observed:
            worker.observe(self)
        self.status, self.data = None, b""
        if self.written:
            self.written = []
        if self.held:
            self.release()
        if mode == CLOSE:
            self.linger()
        elif self.paused:
            self.state = STREAM  # ... of which nothing is left to write: the next request waits for the client to read.
            self.mode = mode
        else:
            self.since = worker.clock
            if self.unread:
                self.data, self.unread = self.unread, b""
                self.state = BUSY
                self.resume_reading()
                worker.arrive(cast("Connection", self))  # There is no other kind.
            else:
                self.state = IDLE

    def broken(self) -> None:
        """The application raised (call this while handling it): 500 where nothing was sent yet, else the end."""
        environ = self.head.environ
        self.worker.log.exception("Error handling request %s %s", environ["REQUEST_METHOD"], environ["RAW_URI"])
        self._close_result()
        self.status, self.written, self.stream = None, [], None
        if self.state == STREAM and self.transport is not None:
            self.transport.abort()
        else:
            self.fail(HttpError(500, "internal", "the fault is logged"))

    def fail(self, error: HttpError) -> None:
        """Answer without the application, and close."""
        self.worker.log.debug("refused: %s: %s", error.reason, error.detail)
        self.release()
        self.chunked, self.pieces, self.unread, self.partial = None, [], b"", bytearray()
        self._write(self.worker.heads.problem(error, body=self.head.sends_body))
        self.linger()

    def linger(self) -> None:
        """End our side; what still arrives is dropped until the client ends its own (RFC 9112 section 9.6)."""
        self.state, self.since, self.received = CLOSING, self.worker.clock, 0
        self.unread = b""
        transport = self.transport
        if transport is None:
            self.start = None
        elif self.eof or not transport.can_write_eof():
            transport.close()
        else:
            transport.write_eof()
            self.resume_reading()

    def finish(self) -> None:
        """End a connection in state CLOSING whose answer is out; what was not read of it so far is the client's."""
        if self.transport is not None and not self.transport.get_write_buffer_size():
            self.transport.abort()

    def _write(self, data: bytes) -> None:
        if data and self.transport is not None:
            self.transport.write(data)

    def _close_result(self) -> None:
        """PEP 3333: close() of the iterable, once, whatever became of the response."""
        result, self.result = self.result, None
        try:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        except Exception:
            self.worker.log.exception("Error closing a response")

    # Bounds.

    def hold(self, size: int) -> None:
        """Account for bytes of an unfinished body; stop reading it where the worker holds too many."""
        self.held += size
        self.worker.hold(self, size)

    def release(self) -> None:
        """The bytes of the body are no longer held."""
        held, self.held = self.held, 0
        if held:
            self.worker.unhold(held)

    def pause_reading(self) -> None:
        if self.reading and self.transport is not None:
            self.reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.reading and self.transport is not None and not self.transport.is_closing():
            self.reading = True
            self.transport.resume_reading()
