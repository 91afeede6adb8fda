"""The link: one connection, and the flights on it. Sends and reads without waiting, whoever drives it.

What lives here: connecting, sending, reading, the deadline, and what a broken connection leaves unknown. What must not:
which batch is sent when (``lane``), what a reply means (``flight``), bytes and sockets (``wire``).

Two ways to drive it. An event loop *watches* the socket and calls ``event``. Without one, ``wait`` blocks until there
is an event, and handles it. Both pass through ``event``, so there is one way of sending and reading.

Replies come in the order of the commands, so the oldest flight is the one that is replied to. An XADD whose bytes have
been given to the socket is never sent again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import redis

from wsgi.problems import SinkError
from wsgi.sink.dedup import Dedup
from wsgi.sink.driver import ERRORS, Driver, translate, unknown
from wsgi.sink.durability import RECEIVED
from wsgi.sink.flight import Flight
from wsgi.sink.waits import Waits
from wsgi.sink.wire import Wire

COMMITS_IN_FLIGHT_MAX = 2
"""Commits of one link that may wait for their replies. With more, batches are smaller and replies overlap."""
UNREAD_REPLIES_MAX = 1_024
"""Replies that may be outstanding at the level ``received`` before a commit waits for them: bounds what is unknown."""


class Watch(Protocol):
    """A watched file descriptor, as the server gives it (``phased.watch``)."""

    def want_write(self, on: bool, /) -> object:
        """Say whether "writable" is wanted."""

    def deadline(self, seconds: float | None, /) -> object:
        """Have "late" called after so many seconds without another call of this; None for never."""

    def close(self) -> object:
        """End it, before the file descriptor is closed."""


Watching = Callable[[int, Callable[[str], object]], Watch]


class Link:
    """Commits at one ``level`` over one connection. Not thread-safe.

    ``event``, ``send``, and ``wait`` return the flights that got further: settled, or at ``received`` answered.
    """

    def __init__(self, driver: Driver, waits: Waits, level: int, dedup: Dedup | None = None) -> None:
        self._driver, self.waits, self.level, self.dedup = driver, waits, level, dedup
        self.connect_seconds_max = driver.connect_seconds_max
        self._seconds_max = driver.reply_seconds_max
        self._wire: Wire | None = None
        self._watch: Watch | None = None
        self.connected = False
        """There is a connection, as far as is known."""
        self.watched = False
        """An event loop drives it."""
        self.flights: deque[Flight] = deque()
        """What is being written, or not replied to: in the order of sending, which is that of the replies."""
        self._writing: Flight | None = None  # the last one, while not all of it is written
        self._wants = False  # the loop was told that "writable" is wanted
        self._left: memoryview | bytes = b""  # of its commands, what the socket has not taken
        self._unread = 0  # replies outstanding, of whole flights
        self._unloaded = False  # the store has lost the script: what is under way ends, then the connection
        self._late_at = 0.0  # by time.monotonic, while there are flights
        self._armed = False  # the loop will report "late", perhaps too early

    @property
    def free(self) -> bool:
        """``send`` may be called."""
        if self._writing is not None or self._unloaded:
            return False
        if self.level == RECEIVED:
            return self._unread < UNREAD_REPLIES_MAX
        return len(self.flights) < COMMITS_IN_FLIGHT_MAX

    def connect(self) -> SinkError | None:
        """Connect, which may take seconds; return why it failed, or why the level cannot be reached."""
        driver = self._driver
        try:
            driver.connect()
            fault = self.waits.fault(driver, self.level)
            if fault is None and self.dedup is not None:
                self.dedup.load(driver)
            if fault is None:
                self._wire = Wire(driver.socket())
                self.connected = True
                return None
        except ERRORS as error:
            fault = translate(error)
        except BaseException:
            driver.close()
            raise
        driver.close()
        return fault

    def attach(self, watch: Watching, event: Callable[[str], object]) -> None:
        """Let an event loop watch the connection: it calls ``event``, which is to call this one's."""
        if self._watch is None and self._wire is not None:
            self._watch = watch(self._wire.fd, event)
            self.watched = True
            self._want_write()

    def send(self, flight: Flight) -> list[Flight]:
        """Begin to send a flight, after ``free`` and ``connected``. Never waits."""
        self.flights.append(flight)
        self._unread += flight.expected
        self._writing = flight
        flight.began = now = time.monotonic()
        self._late_at = now + self._seconds_max
        if not self._armed:
            self._arm(self._seconds_max)
        ended: list[Flight] = []
        try:
            self._write(ended)
        except ERRORS as error:
            self._break(error, ended)
        return ended

    def event(self, event: str) -> list[Flight]:
        """Handle what the loop reports of the socket: "readable", "writable" or "late"."""
        ended: list[Flight] = []
        went_on = False
        try:
            if event != "writable":
                went_on = self._read(ended)
            if event == "late":
                self._rung(went_on=went_on)
            if self._writing is not None:
                went_on = self._write(ended) or went_on
        except ERRORS as error:
            self._break(error, ended)
        if went_on and self.flights:
            self._late_at = time.monotonic() + self._seconds_max
        return ended

    def look(self) -> list[Flight]:
        """Handle what there is to read by now, the end of the connection included. Never waits."""
        wire = self._wire
        return self.event("readable") if wire is not None and wire.wait(0, writing=False) else []

    def wait(self) -> list[Flight]:
        """Wait for an event and handle it: for who has no event loop. Call it while there are flights."""
        wire = self._wire
        assert wire is not None
        seconds = self._late_at - time.monotonic()
        arrived = wire.wait(max(0.0, seconds) * 1000, writing=self._writing is not None)
        return (self.event("readable") if arrived else []) or self.expire()

    def expire(self) -> list[Flight]:
        """Give up what the store has not replied to in time."""
        late = bool(self.flights) and time.monotonic() >= self._late_at
        return self.event("late") if late else []

    def drop(self) -> list[Flight]:
        """Disconnect, and return the flights that were under way, as they are."""
        flights = list(self.flights)
        self.close()
        return flights

    def close(self) -> None:
        """Disconnect; replies not read are lost."""
        watch, self._watch, self.watched = self._watch, None, False
        if watch is not None:
            watch.close()
        self._reset()
        self._driver.close()

    def forget(self) -> None:
        """In a forked child: start with no connection and no flight, and leave the parent's event loop alone."""
        self._watch, self.watched = None, False
        self._reset()
        self._driver.forget()

    def _reset(self) -> None:
        self._wire = self._writing = None
        self.connected = False
        self._left = b""
        self._wants = self._armed = self._unloaded = False
        self.flights.clear()
        self._unread = 0

    def _arm(self, seconds: float) -> None:
        """Have the loop report "late". PERF: a commit moves ``_late_at`` only, and ``_rung`` looks at that."""
        if self._watch is not None:
            self._armed = True
            self._watch.deadline(seconds)

    def _rung(self, *, went_on: bool) -> None:
        """Handle "late": set it anew if it was too early; raise redis.TimeoutError if it is true.

        ``went_on``: this process was held up, and there was a reply.
        """
        self._armed = False
        if not self.flights:
            return
        left = self._seconds_max if went_on else self._late_at - time.monotonic()
        if left <= 0:
            raise redis.TimeoutError(f"nothing within {self._seconds_max:g} s")
        self._arm(left)

    def _write(self, ended: list[Flight]) -> bool:
        """Write what the socket takes of one command, or of several small ones; the rest on a later event.

        Return True if it took all of that.
        """
        flight, wire = self._writing, self._wire
        if flight is None or wire is None:
            return False
        left: memoryview | bytes = self._left or flight.take()
        sent = wire.send(left)
        whole = sent == len(left)
        if not whole:
            self._left = memoryview(left)[sent:] if sent else left
        else:
            self._left = b""
            if flight.taken == flight.expected:
                self._writing = None
                if self.level == RECEIVED:
                    ended.append(flight)
        if (self._writing is not None) is not self._wants:
            self._want_write()
        return whole

    def _want_write(self) -> None:
        writing = self._writing is not None
        if writing is not self._wants and self._watch is not None:
            self._wants = writing
            self._watch.want_write(writing)

    def _read(self, ended: list[Flight]) -> bool:
        """Give each reply that has arrived to its flight; return True if there was one."""
        wire, flights = self._wire, self.flights
        if wire is None:
            return False
        replies = wire.receive()
        for reply in replies:
            if not flights or len(flights[0].replies) >= flights[0].taken:
                raise redis.InvalidResponse("the store sent what nobody asked for")
            flight = flights[0]
            flight.replies.append(reply)
            if len(flight.replies) == flight.expected and flight is not self._writing:
                flight.settle()
                flights.popleft()
                self._unread -= flight.expected
                ended.append(flight)
                self._unloaded = self._unloaded or flight.unloaded
        if wire.ended:
            raise redis.ConnectionError("the store closed the connection")
        if self._unloaded and not flights:
            self.close()
        return bool(replies)

    def _break(self, error: Exception, ended: list[Flight]) -> None:
        """Disconnect, and settle the flights with what is known. Without any, nothing is lost."""
        stopped = self._writing is not None and self.level == RECEIVED
        missing = unknown("the store stopped reading" if stopped else "the store did not answer", error)
        for flight in self.drop():
            flight.settle(missing)
            ended.append(flight)
