"""A small event loop that offers ``watch`` as the server does, and requests that wait in it.

What lives here: the loop, and how long it was ever held. What must not: the sink, assertions.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from tests.support import DEADLINE_SECONDS
from wsgi.problems import SinkError
from wsgi.sink.batch import RecordAddress
from wsgi.sink.circuit import fresh

Event = Callable[[str], object]


class LoopWatch:
    """One watched file descriptor."""

    def __init__(self, loop: Loop, fd: int, callback: Event) -> None:
        self._loop, self._fd, self.callback = loop, fd, callback
        self.late_at: float | None = None
        self.writing = False

    def want_write(self, on: bool) -> None:
        """As the server's."""
        self.writing = on
        self._loop.poll.modify(self._fd, select.POLLIN | select.POLLOUT if on else select.POLLIN)

    def deadline(self, seconds: float | None) -> None:
        """As the server's."""
        self.late_at = None if seconds is None else time.monotonic() + seconds

    def close(self) -> None:
        """As the server's; fails where the file descriptor was closed before."""
        os.fstat(self._fd)
        self._loop.poll.unregister(self._fd)
        del self._loop.watched[self._fd]


class Pending:
    """One request's ticket in the loop. ``error``: of its commit, once it is done; None for a success."""

    def __init__(self, loop: Loop, ticket: Any) -> None:
        self._loop, self.ticket = loop, ticket
        self.done = False
        self.error: SinkError | None = None
        self.iterations = 0

    def iterate(self) -> None:
        """What an answer does when it is iterated, the first time in place of the call of the application."""
        self.iterations += 1
        if self.iterations == 1:
            with self._loop.timed():
                self.ticket.future(self._loop.watch).add_done_callback(lambda _: self._loop.ready.append(self))
            return
        with self._loop.timed():
            future = self.ticket.begin(self._loop.watch)
        if future is not None:
            future.add_done_callback(lambda _: self._loop.ready.append(self))
            return
        self.done = True
        try:
            with self._loop.timed():
                self.ticket.commit()
        except SinkError as error:
            self.error = fresh(error)  # one that was raised would keep this frame, and so itself, alive


class Loop:
    """``longest_seconds``: the longest that a call of the sink, or a callback of it, has held the loop."""

    def __init__(self) -> None:
        self.poll = select.poll()
        self.watched: dict[int, LoopWatch] = {}
        self.ready: deque[Pending] = deque()  # filled from any thread
        self.longest_seconds = 0.0

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Measure one call."""
        began = time.monotonic()
        yield
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)

    def watch(self, fd: int, callback: Event) -> LoopWatch:
        """As the server's ``phased.watch``."""
        assert fd not in self.watched
        self.watched[fd] = watch = LoopWatch(self, fd, callback)
        self.poll.register(fd, select.POLLIN)
        return watch

    def begin(self, *tickets: Any) -> list[Pending]:
        """Iterate the answers to requests for the first time, in order."""
        pending = [Pending(self, ticket) for ticket in tickets]
        for one in pending:
            one.iterate()
        return pending

    def turn(self) -> None:
        """One turn: what the sockets report, then who need not wait any longer."""
        for fd, events in self.poll.poll(0 if self.ready else 5):
            for name, mask in (("readable", ~select.POLLOUT), ("writable", select.POLLOUT)):
                if events & mask and fd in self.watched:
                    with self.timed():
                        self.watched[fd].callback(name)
        for watch in list(self.watched.values()):
            if watch.late_at is not None and time.monotonic() >= watch.late_at:
                watch.late_at = None
                with self.timed():
                    watch.callback("late")
        for _ in range(len(self.ready)):
            self.ready.popleft().iterate()

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Turn until ``condition`` holds; fail after a minute."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"the loop waited for: {what}"
            self.turn()

    def finish(self, *pending: Pending) -> list[str | None]:
        """Turn until these are done; return the reasons of their errors."""
        self.until(lambda: all(one.done for one in pending), "the outcome of every request")
        return [one.error.reason if one.error is not None else None for one in pending]


class LoopTicket:
    """A ticket whose ``commit`` turns a loop until the outcome is known, so that any test of a commit can use one."""

    def __init__(self, loop: Loop, ticket: Any) -> None:
        self._loop, self._ticket = loop, ticket
        self.level = ticket.level

    def commit(self) -> None:
        """Return, or raise, as the sink's."""
        (pending,) = self._loop.begin(self._ticket)
        self._loop.finish(pending)
        self._ticket.commit()

    def addresses(self) -> list[RecordAddress]:
        """As the sink's."""
        addresses: list[RecordAddress] = self._ticket.addresses()
        return addresses
