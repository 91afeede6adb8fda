"""Waiting without blocking the loop: the two callables that this server adds to the environ.

What lives here: ``phased.wait`` and ``phased.watch``, which docs/design.md specifies, in the spirit of the wsgi.org
draft ``x-wsgiorg.fdevent``. What must not: when an answer is iterated (``wsgi.server.turn``), what it waits for.

PEP 3333 lets an application yield empty byte strings while it is not ready. Here an empty piece gives way to the other
requests; with ``wait`` right before it, until a future is done.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable
from threading import get_ident
from typing import Any, Protocol

from wsgi.server.shared import ServerState

WAIT, WATCH = "phased.wait", "phased.watch"
"""Keys of the environ."""
READABLE, WRITABLE, LATE = "readable", "writable", "late"
"""Events of a Watch."""


class Awaitable(Protocol):
    """What ``wait`` takes: asyncio's and concurrent.futures' futures, or anything else with this method."""

    def add_done_callback(self, callback: Callable[[Any], object], /) -> object:
        """Have ``callback(self)`` called once, from any thread, when done; at once if that is the case already."""


class Waiting:
    """The answers that wait for a future, by future; and the two callables. Belongs to the thread that makes it."""

    def __init__(self, server: ServerState, loop: Any) -> None:
        self._server, self._loop = server, loop
        self._thread = get_ident()
        self._waiting: dict[Awaitable, list[Any]] = {}
        server.environ |= {WAIT: self.wait, WATCH: self.watch}
        server.wait_for = self.add

    def wait(self, future: Awaitable) -> None:
        """Have the answer go on once ``future`` is done.

        In the call of the application: the answer is not iterated before. In its iteration: it yields ``b""`` next.
        """
        self._server.awaited = future

    def watch(self, fd: int, callback: Callable[[str], object]) -> Watch:
        """Have ``callback(event)`` called within a turn when ``fd`` is readable, and as the Watch is told."""
        return Watch(self._server, self._loop, fd, callback)

    def add(self, future: Awaitable, connections: list[Any]) -> None:
        """Resume ``connections`` once ``future`` is done. Raises what ``future`` does."""
        waiting = self._waiting.get(future)
        if waiting is None:
            self._waiting[future] = connections
            future.add_done_callback(self._done)
        else:
            waiting += connections

    def _done(self, future: Awaitable) -> None:
        if get_ident() == self._thread:
            self._server.resumed += self._waiting.pop(future, ())
            self._server.schedule()
            return
        try:
            self._loop.call_soon_threadsafe(self._resume, future)
        except RuntimeError:  # The loop is closed: the worker has ended.
            self._server.log.debug("a future was done after the worker's end")

    def _resume(self, future: Awaitable) -> None:
        server = self._server
        server.resumed += self._waiting.pop(future, ())
        server.schedule()


class Watch:
    """One file descriptor that is watched for an application. Always for reading, level-triggered.

    The loop polls an epoll that polls the descriptor: libuv stops polling a socket that has an error, such as a reset,
    and would not tell that there is something to read.
    """

    __slots__ = ("_callback", "_due", "_epoll", "_fd", "_loop", "_server", "_timer", "_timer_at", "_writes")

    def __init__(self, server: ServerState, loop: Any, fd: int, callback: Callable[[str], object]) -> None:
        self._server, self._loop, self._fd = server, loop, fd
        self._callback: Callable[[str], object] | None = callback
        self._writes = False
        self._due = math.inf
        self._timer: Any = None
        self._timer_at = 0.0
        self._epoll = select.epoll()
        self._epoll.register(fd, select.EPOLLIN)
        loop.add_reader(self._epoll.fileno(), self._ready)

    def want_write(self, wanted: bool) -> None:
        """Switch the event "writable"."""
        if wanted != self._writes and self._callback is not None:
            self._epoll.modify(self._fd, select.EPOLLIN | select.EPOLLOUT if wanted else select.EPOLLIN)
            self._writes = wanted

    def _ready(self) -> None:
        if not self._writes:  # PERF: it can only be one thing.
            self._note(READABLE)
            return
        for _, events in self._epoll.poll(0):
            if events & ~select.EPOLLOUT:
                self._note(READABLE)
            if events & select.EPOLLOUT:
                self._note(WRITABLE)

    def deadline(self, seconds: float | None) -> None:
        """Have "late" called once, ``seconds`` from now, unless this is called again before; None: not at all.

        PERF: a commit moves the deadline and leaves the timer alone, which sets itself anew when it rings.
        """
        if seconds is None:
            self._due = math.inf
            return
        self._due = due = time.monotonic() + seconds
        if self._timer is None:
            self._arm(seconds)
        elif self._timer_at > due:
            self._timer.cancel()
            self._arm(seconds)

    def close(self) -> None:
        """End all of it, before ``fd`` is closed. Nothing is called afterwards."""
        if self._callback is None:
            return
        self._callback = None
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, seconds: float) -> None:
        self._timer_at = time.monotonic() + seconds
        self._timer = self._loop.call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._due == math.inf:
            return
        left = self._due - time.monotonic()
        if left > 0:
            self._arm(left)
        else:
            self._due = math.inf
            self._note(LATE)

    def _note(self, event: str) -> None:
        self._server.noted.append((self, event))
        self._server.schedule()

    def call(self, event: str) -> None:
        """Call the callback, within a turn. A bug in it is logged and ends the watch: it would come up again."""
        if self._callback is None:
            return
        try:
            self._callback(event)
        except Exception:
            self._server.log.exception("Error in a callback of %s", WATCH)
            self.close()
