"""One request's answer: from what the application returned to bytes with the transport (PEP 3333).

What lives here: ``start_response``, the response on its way out, whole or in pieces, and the application's errors. What
must not: which bytes are a request and what follows the answer (``wsgi.server.connection``), what a response looks like
(``wsgi.server.response``), when the application is called (``wsgi.server.turn``).

A connection has one Exchange, used for one request after the other. An Exchange never refers to its connection, and
keeps nothing of the application's once the answer is complete: so nothing on a request's path is a reference cycle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from wsgi.server.head import CLOSE, NoHead
from wsgi.server.response import VARYING, Framing
from wsgi.server.shared import ServerState

MORE, AGAIN, FAILED, ABORTED, PAUSED = -1, -2, -3, -4, -5
"""Outcomes of ``answer``, ``step`` and ``pump`` beside a complete answer, which is a mode of ``wsgi.server.head`` (0 or
more): pieces are left until the client reads on; ... until the others had their turn; the application failed and
nothing is sent; it failed in mid-answer; it yielded an empty piece and wants to be iterated again."""


_COMPLETE = (list, tuple)
"""Results that have nothing to wait for: an empty piece in them is just empty."""


class Exchange:
    """The answering half of a connection. ``transport`` is None while, and once, there is no client."""

    __slots__ = (
        "began", "begun", "framing", "head", "headers", "iterator", "mode", "paused", "result", "seen", "sent",
        "server", "status", "stream", "transport", "written",
    )  # fmt: skip

    def __init__(self, server: ServerState) -> None:
        self.server = server
        self.transport: Any = None
        self.paused = False
        """Whether the client is slow: the transport's buffer is full."""
        self.head: Any = NoHead
        self.mode = CLOSE
        self.status: str | None = None
        self.headers: list[tuple[str, str]] = []
        self.written: list[bytes] = []
        self.begun = False
        """Whether the response's head is sent."""
        self.result: Iterable[bytes] | None = None
        self.iterator: Any = None
        self.stream: Iterator[bytes] | None = None
        self.framing: Framing | None = None
        self.sent = 0
        self.seen: dict[str, Any] | None = None
        self.began = 0.0

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        """Take status and headers (PEP 3333); they are checked when the response is written."""
        if exc_info is not None:
            try:
                if self.begun:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.status is not None:
            raise AssertionError("start_response was called twice without exc_info")
        self.status, self.headers = status, headers
        return self.written.append

    def answer(self, result: Iterable[bytes], mode: int) -> int:
        """Take what the application returned, and begin to iterate and write it; return the outcome.

        ``mode``: what follows the answer if the response's framing allows it. Never raises what the application does.
        """
        self.result = result
        return self.step(mode)

    def step(self, mode: int) -> int:
        """Iterate ``result``, of which nothing is sent yet; again after PAUSED. As ``answer``."""
        server = self.server
        server.awaited = None
        try:
            iterator = self.iterator
            if iterator is None:
                self.iterator = iterator = iter(self.result)  # type: ignore[arg-type]  # there is one
            first = next(iterator, None)
            if not first:
                if first is not None and not self.written and type(self.result) not in _COMPLETE:
                    return PAUSED
                first = b""
            if self.status is None:
                raise AssertionError("the application did not call start_response")
            headers, quick = self.headers, None
            if headers and headers[-1][0] == VARYING:
                value = headers[-1][1]
                varied = server.varied.get((mode, self.status, tuple(headers[:-1])))
                # Printable ASCII is all that is let through here: no CR, LF, NUL.
                if varied is not None and varied[1] == len(first) and value.isascii() and value.isprintable():
                    quick = b"".join((varied[0], value.encode(), varied[2], first))
            else:
                known = server.plain.get((mode, self.status, tuple(headers)))
                if known is not None and known[1] == len(first):
                    quick = known[0] + first
            if quick is None or self.written or not self.head.sends_body:
                return self._answer_in_full(first, mode)
        except Exception:
            return self.broken()
        if hasattr(self.result, "close"):
            self._close_result()
        else:
            self.result = self.iterator = None
        if self.transport is not None:
            self.transport.write(quick)
        self.sent = len(first)
        if self.seen is not None:
            return self._complete(mode)
        self.status = None  # PERF: nothing else of _complete applies here.
        return mode

    def _answer_in_full(self, first: bytes, mode: int) -> int:
        """Answer with any response: no length, several pieces, no body, write() used, a head not seen this second."""
        request, heads = self.head, self.server.heads
        pieces = [*self.written, first]
        size = sum(map(len, pieces))
        self.stream, outcome = self.iterator, 0
        while (piece := next(self.stream, None)) is not None:
            if not piece and type(self.result) not in _COMPLETE:
                outcome = PAUSED  # What there is goes out first (PEP 3333, "Buffering and Streaming").
                break
            pieces.append(piece)
            size += len(piece)
            if size > self.server.limits.gather_bytes_max:
                break
        else:
            self.stream = None
        assert self.status is not None
        head = heads.make(mode, self.status, self.headers)
        chunked, length, extra = False, head.length, b""
        if head.bodiless or not request.sends_body:
            self.stream, pieces, length = None, [], -1
        elif length < 0 and self.stream is None:
            length, extra = size, b"Content-Length: %d\r\n" % size
        elif length < 0 and not request.http10:
            chunked, extra = True, b"Transfer-Encoding: chunked\r\n"
        elif length < 0:
            mode = CLOSE
            head = heads.make(mode, self.status, self.headers)
        if self.transport is None:
            self.stream = None  # Nobody reads the rest.
            self._close_result()
            return self._complete(mode)
        self.framing, self.mode, self.begun = Framing(length, chunked=chunked), mode, True
        self._write(head.raw + extra + b"\r\n" + self.framing.frame(b"".join(pieces)))
        self.sent = min(size, length) if length >= 0 else size
        return outcome if outcome and self.stream is not None else self.pump()

    def pump(self) -> int:
        """Write a response on until it is complete, the client is slow, or this turn's share is used up."""
        server = self.server
        budget = server.limits.gather_bytes_max
        framing = self.framing
        assert framing is not None
        try:
            while self.stream is not None:
                if self.paused:
                    return MORE
                if budget <= 0:
                    return AGAIN
                server.awaited = None
                piece = next(self.stream, None)
                if piece is None:
                    self.stream = None
                elif not piece:
                    return PAUSED
                else:
                    budget -= len(piece)
                    self.sent += len(piece)
                    self._write(framing.frame(piece))
            self._write(framing.end())
        except Exception:
            return self.broken()
        self._close_result()
        return self._complete(self.mode)

    def _complete(self, mode: int) -> int:
        """Forget a response that is with the transport, after telling the observer, if any."""
        observer, seen = self.server.observer, self.seen
        if observer is not None and seen is not None:
            self.seen = None
            try:
                observer.answered(seen, self.status or "500", self.headers, self.sent, self.began)
            except Exception:
                self.server.log.exception("Error in the access log or post_request")
            self.began = 0.0
        self.status = None
        if self.written:
            self.written = []
        if self.begun:
            self.begun, self.framing = False, None
        return mode

    def broken(self) -> int:
        """Clean up after the application raised; call it while handling the exception. Returns FAILED or ABORTED."""
        self.server.log.exception("Error handling request %s %s", self.head.method, self.head.uri)
        begun = self.begun
        self.abandon()
        return ABORTED if begun else FAILED

    def abandon(self) -> None:
        """Forget a response that stays incomplete."""
        self.stream, self.framing, self.begun = None, None, False
        self._close_result()
        self.status, self.headers, self.written, self.seen = None, [], [], None

    def _write(self, data: bytes) -> None:
        if data and self.transport is not None:
            self.transport.write(data)

    def _close_result(self) -> None:
        """Call close() of the iterable (PEP 3333), once, whatever became of the response."""
        result, self.result, self.iterator = self.result, None, None
        try:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        except Exception:
            self.server.log.exception("Error closing a response")
