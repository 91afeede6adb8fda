"""One client's connection: an asyncio protocol (PEP 3156) between a transport and the turns.

What lives here: which bytes belong to which request, in order; and what follows an answer. What must not: answers
(``wsgi.server.exchange``), calling the application (``wsgi.server.turn``), what a valid request is
(``wsgi.server.head``), what is overdue (``wsgi.server.deadlines``).

A connection works on one request at a time; what arrives meanwhile waits in its inbox, bounded. The states and their
moves are the table in ``wsgi.server.states``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable
from io import BytesIO
from typing import Any

from wsgi.server import states
from wsgi.server.chunked import CONTINUE, Body, body_of
from wsgi.server.early import OWNER, abandon
from wsgi.server.exchange import AGAIN, FAILED, MORE, PAUSED, Exchange
from wsgi.server.head import CLOSE, KEEP_ALIVE, Head, NoHead, Site
from wsgi.server.inbox import Inbox
from wsgi.server.refusal import HttpError, bad
from wsgi.server.refusing import refusal
from wsgi.server.shared import ServerState
from wsgi.server.slow import CALL, FEED, NONE, RESUME
from wsgi.server.states import ANSWERED, ARRIVED, BODY, BUSY, CLOSING, HEAD, IDLE, LEFT, STREAM


class Connection(asyncio.Protocol):
    """A connection. It has an ``exchange``, which answers.

    ``since``: the clock (s) when the present state, or its last progress, began; ``started``: when the body, or the
    closing, did. ``held``: bytes of ``owner``'s unfinished body. ``waits``: whether the answer may not be iterated now.
    """

    __slots__ = (
        "answered", "body", "environ", "eof", "exchange", "held", "inbox", "next_mode", "next_step", "owner",
        "pending", "reading", "received", "remote_addr", "remote_port", "server", "since", "site", "started", "state",
        "transport", "waits", "working", "wrote",
    )  # fmt: skip

    def __init__(self, server: ServerState, site: Site, remote_addr: str, remote_port: str) -> None:
        self.server, self.site = server, site
        self.remote_addr, self.remote_port = remote_addr, remote_port
        self.exchange, self.inbox = Exchange(server), Inbox()
        self.transport: Any = None
        self.state, self.next_step = IDLE, NONE
        self.body: Body | None = None
        self.environ: dict[str, Any] | None = None  # Of a request with a body that came in pieces.
        self.owner: Hashable = None
        self.received = self.held = self.answered = self.pending = 0
        self.next_mode: int | None = None
        self.since = self.started = self.wrote = server.clock
        self.reading = True
        self.eof = self.waits = self.working = False

    # What the transport calls.

    def connection_made(self, transport: Any) -> None:
        """Start."""
        self.transport = self.exchange.transport = transport
        self.server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes: in one read, the usual case, they are queued as they are."""
        if self.state == IDLE:
            self.state = ARRIVED[IDLE]
            self.inbox.data = data
            self.server.arrive(self)
        else:
            self._more(data)

    def eof_received(self) -> bool:
        """Note that the client has ended its side; return whether the transport stays open for the answer."""
        self.eof = True
        if (self.state == BODY and self.next_step == NONE) or (self.state == HEAD and self.inbox.partial):
            self.fail(bad("the request was cut short"))
        return self.state in (BODY, BUSY, STREAM)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop everything but a request that waits for its turn: that one is called, with nobody to answer."""
        if self.state not in (IDLE, CLOSING):
            self.server.log.debug("a client went away in mid-request: %s", exc or "end of stream")
        if self.state == STREAM:
            self.exchange.abandon()
        if self.state == BODY:
            abandon(self)
        self.state = states.ENDED[self.state]
        self.transport = self.exchange.transport = None
        self.server.held.free(self, self.server.clock)
        self.server.leave(self)
        self.inbox.partial, self.inbox.unread = bytearray(), b""

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
            self._seek_head(self.inbox.add_to_head(data))
        elif self.state == CLOSING:
            self.since = self.server.clock
        else:
            self.inbox.unread += data
            if self.inbox.size() > self.server.limits.unread_bytes_max:
                self.pause_reading()

    def _seek_head(self, seen: int) -> None:
        """Queue the request once its head is complete; refuse what cannot become one. ``seen``: bytes searched."""
        if self.inbox.find_head(seen):
            self.state = states.HEAD_ENDED[self.state]
            self.server.arrive(self)
            return
        try:
            self.site.check_start(self.inbox.partial, seen)
        except HttpError as error:
            self.fail(error)

    def take(self) -> dict[str, Any] | None:
        """Return the environ of the request at the start of ``data``, or None if it is incomplete or refused."""
        if self.environ is not None:
            environ, self.environ = self.environ, None
            return environ
        exchange, inbox = self.exchange, self.inbox
        last, exchange.head = exchange.head, NoHead
        end = inbox.head_end()
        if end < 0:
            self._begin_head()
            return None
        try:
            exchange.head = head = self.site.head(inbox.data[inbox.at : end], last)
            return self._begin_body(head, end)
        except HttpError as error:
            self.fail(error)
            return None

    def _begin_head(self) -> None:
        if self.transport is None:
            self.state = states.DROPPED[self.state]
            return
        self.state = states.HEAD_BEGUN[self.state]
        self.since = self.server.clock
        self.inbox.begin_head()
        self.resume_reading()
        self._seek_head(0)
        if self.eof and self.state == HEAD and not self.eof_received():
            self.transport.close()

    def _begin_body(self, head: Head, at: int) -> dict[str, Any] | None:
        """Return the environ if the body is at ``at`` and small; else wait for it. Raises HttpError."""
        limits, inbox = self.server.limits, self.inbox
        if 0 <= head.length <= min(len(inbox.data) - at, limits.big_bytes, limits.payload_bytes_max):
            inbox.at = at + head.length
            return self._fill(head.take(), BytesIO(inbox.data[at : inbox.at]))
        data, unread, bytes_max = inbox.data, inbox.unread, limits.payload_bytes_max
        inbox.clear()
        if self.transport is None:
            self.state = states.DROPPED[self.state]
            return None
        environ = self._fill(head.take(), BytesIO())
        early, whole = self.server.early, 0 <= head.length <= min(len(data) - at + len(unread), bytes_max)
        if early and not whole and (answer := early.answer(environ, sends_body=head.sends_body)) is not None:
            self._refuse(answer)
            return None
        self.environ, self.owner, self.received = environ, environ.get(OWNER), 0
        self.body = body_of(head.length, bytes_max)
        self.state = states.BODY_BEGUN[self.state]
        self.since = self.started = self.server.clock
        if head.expects and at == len(data) and not unread:
            self.transport.write(CONTINUE)
        for piece, start in ((data, at), (unread, 0)):
            if self.state != BODY:
                inbox.unread += piece
            elif start < len(piece):
                self._take_body(piece, start)
        if self.state == BODY and self.next_step == NONE:
            self._read_on()
        return None

    def _read_on(self) -> None:
        """Read the rest of a body. Raises HttpError if there is none. What slow work took is not the client's time."""
        if self.eof:
            raise bad("the body was cut short")
        self.since = self.server.clock
        if self not in self.server.held.waiting:
            self.resume_reading()

    def _take_body(self, data: bytes, at: int = 0) -> None:
        """Take a piece of the body, ``data`` from ``at`` on, or go on with what was taken. Raises HttpError."""
        body = self.body
        assert body is not None
        self.received += len(data) - at
        self.server.held.add(self, len(data) - at)
        if not body.feed(data, at):
            if body.more:
                self.pause_reading()
                self._slow_down(FEED)
            elif not data:
                self._read_on()
            return
        self.inbox.keep(*body.left)
        self.body, self.environ["wsgi.input"] = None, body.stream  # type: ignore[index]  # It was made before.
        self.state = states.BODY_ENDED[self.state]
        if body.size > self.server.limits.big_bytes:
            self._slow_down(CALL)
        else:
            self.server.arrive(self)

    def _fill(self, environ: dict[str, Any], body: BytesIO) -> dict[str, Any]:
        """Complete the environ (PEP 3333) of one request."""
        environ["REMOTE_ADDR"] = self.remote_addr
        environ["REMOTE_PORT"] = self.remote_port
        environ["wsgi.input"] = body
        return environ

    def _slow_down(self, step: int) -> None:
        """Leave the next step to ``wsgi.server.slow``."""
        if self.next_step == NONE and not self.working:
            self.server.slow_down(self)
        self.next_step = step

    def work(self) -> bool:
        """Take one step of slow work; return whether there is another. Never raises."""
        step, self.next_step = self.next_step, NONE
        self.working = True
        if step == CALL:
            self.server.call_one(self)
        elif step == RESUME:
            self.resume()
        elif step == FEED and self.state == BODY:
            try:
                self._take_body(b"")
            except HttpError as error:
                self.fail(error)
        self.working = False
        return self.next_step != NONE

    # What follows an answer.

    def answer(self, result: Iterable[bytes]) -> None:
        """Begin to write the application's response, in the second phase of a turn."""
        self._after(self.exchange.answer(result, self._mode()))

    def resume(self) -> None:
        """Go on with a response that gave way to others, or waited. Nothing is left of one that is gone since."""
        self.waits = False
        if self.state == STREAM:
            self.pump()
        elif self.state in (BUSY, LEFT):
            self._after(self.exchange.step(self._mode()))

    def _mode(self) -> int:
        """Return what follows the answer, as far as it is known before its framing."""
        last = (self.server.closes or self.eof) and not self.inbox.size()
        return CLOSE if last else self.exchange.head.mode

    def _after(self, outcome: int) -> None:
        """Go on after a part of an answer, or all of it."""
        inbox = self.inbox
        if outcome == PAUSED:
            self._pause()
        elif outcome < 0:
            self._unanswered(outcome)
        elif outcome != KEEP_ALIVE or (
            inbox.at < len(inbox.data) or inbox.unread or self.eof or self.held or self.exchange.paused
            or not self.reading or self.transport is None
        ):  # fmt: skip
            self._answered(outcome)
        else:
            # PERF: the usual end of an answer, as _answered and _go_on would make it.
            self.answered += 1
            inbox.data, inbox.at = b"", 0
            self.since = self.server.clock
            self.state = ANSWERED[self.state]

    def _pause(self) -> None:
        """Have the answer iterated again: once what it waits for is done, or after others had their turn."""
        server = self.server
        self.waits = True
        if self.exchange.begun:
            self.state = states.PART_SENT[self.state]
        future, server.awaited = server.awaited, None
        if future is None:
            self._slow_down(RESUME)
            return
        try:
            server.wait_for(future, [self])
        except Exception:
            self.broken()

    def pump(self) -> None:
        """Write a response on, after the client or the other connections had time."""
        if self.state != STREAM or self.waits:
            return
        if self.next_mode is not None:
            mode, self.next_mode = self.next_mode, None
            self._go_on(mode)
        else:
            self._after(self.exchange.pump())

    def broken(self) -> None:
        """Answer 500 after the application raised; call it while handling the exception."""
        self._unanswered(self.exchange.broken())

    def _answered(self, mode: int) -> None:
        """Account for an answer that is complete."""
        self.answered += 1
        if self.held:
            self.server.held.free(self, self.server.clock)
        if self.transport is None:
            self.inbox.clear()
            self.state = states.DROPPED[self.state]
        elif not self.exchange.paused:
            self._go_on(mode)
        else:  # What follows waits until the client has read this answer.
            self.state = states.PART_SENT[self.state]
            self.next_mode = mode

    def _go_on(self, mode: int) -> None:
        """Start on the next request, or end."""
        self.since = self.server.clock
        left = self.inbox.go_on()
        if mode == CLOSE or (self.eof and not left):
            self.state = states.ANSWERED_LAST[self.state]
            self._linger()
        elif left:
            self.state = states.ANSWERED_NEXT[self.state]
            if self.inbox.size() <= self.server.limits.unread_bytes_max:
                self.resume_reading()
            self.server.arrive(self)
        else:
            self.state = ANSWERED[self.state]
            self.resume_reading()

    def _unanswered(self, outcome: int) -> None:
        """Go on after an answer that is not complete."""
        if outcome in (MORE, AGAIN):
            self.since = self.server.clock
            self.state = states.PART_SENT[self.state]
            if outcome == AGAIN:
                self.server.call_soon(self.pump)
        elif outcome == FAILED:
            self.fail(HttpError(500, "the application failed; the error is logged"))
        else:
            self.state = states.ANSWERED_LAST[self.state]
            self.transport.abort()

    def fail(self, error: HttpError) -> None:
        """Answer without the application, and close."""
        self._refuse(refusal(self, error))

    def _refuse(self, answer: bytes) -> None:
        """Send ``answer`` instead of the application's, and close."""
        abandon(self)
        if self.transport is None:
            self.state = states.DROPPED[self.state]
            return
        self.transport.write(answer)
        self.state = states.REFUSED[self.state]
        self._linger()

    def _linger(self) -> None:
        """End our side; what still arrives is dropped until the client ends its own (RFC 9112 section 9.6)."""
        self.since = self.started = self.server.clock
        self.inbox.clear()
        if self.eof:
            self.transport.close()
        else:
            self.transport.write_eof()
            self.resume_reading()

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
