"""Batches: ``append`` takes a request's lines, and the request's ticket has them committed.

What lives here: a request's place in its batch and its outcome there, the bounds of what is pending, and the lanes: two
a durability level, since large requests have their own. What must not: HTTP, Redis, when a batch is sent (``lane``),
whether records may be taken (``circuit``), what a batch holds (``batch``).

A batch groups lines by destination, the store key of a stream. A commit writes one entry to each in one round trip, or
several where the lines exceed ``entry_bytes_max``; a request that fits one entry is never spread over two. All requests
of a batch ask for one level.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from itertools import chain

from wsgi.problems import SinkError
from wsgi.sink.batch import Batch, Part, RecordAddress
from wsgi.sink.circuit import Circuit, fresh
from wsgi.sink.connecting import Connecting
from wsgi.sink.durability import RECEIVED
from wsgi.sink.lane import Lane
from wsgi.sink.link import Link, Watching
from wsgi.sink.probe import Streams
from wsgi.sink.tally import Tally
from wsgi.sink.watcher import Watcher

LARGE_BYTES = 524_288
"""Bytes of a request's lines above which it is committed over a connection of its own: the store takes milliseconds to
read them, and replies in the order of what was sent."""


class Ticket:
    """A request's place in its batch: lines ``start:stop`` of ``part``, to be committed at ``level``."""

    __slots__ = ("_batch", "_lane", "_part", "_start", "_stop", "level")

    def __init__(self, lane: Lane, batch: Batch, part: Part, start: int, stop: int) -> None:
        self._lane = lane
        self._batch = batch
        self._part = part
        self._start = start
        self._stop = stop
        self.level = lane.level

    def future(self, watch: Watching) -> Batch:
        """Return the batch, whose commit begins when the first request waits for it; then call ``begin``.

        PERF: so a request of the usual kind is iterated once, not twice (bench/trees.py).
        """
        batch = self._batch
        batch.watch = watch
        return batch

    def begin(self, watch: Watching) -> Batch | Connecting | None:
        """Start the commit, or bring it forward, and return the future to wait for before calling this again.

        None once the outcome is known: then call ``commit``. Never waits. ``watch``: the event loop's.
        """
        batch = self._batch
        if batch.done:
            return None
        # PERF: called twice a request; all but the first of a batch end here (bench/commits.py).
        return batch if batch.wanted else self._lane.begin(batch, watch)

    def commit(self) -> None:
        """Return once the records are as safe as ``level`` says; raise SinkError if any of them may not be.

        It blocks until the outcome is known, so not at all once ``begin`` has returned None.
        """
        batch = self._batch
        if not batch.done:
            self._lane.commit(batch)
        if batch.failed and (error := self._own_error()) is not None:
            try:
                raise error
            finally:
                del error  # it holds this frame, so this frame must not hold it

    def _own_error(self) -> SinkError | None:
        """Return a copy of the error of the entries this request is in, or None; other requests' do not matter."""
        start, stop = self._start, self._stop
        own = [outcome for outcome in self._part.outcomes if outcome.start < stop and outcome.stop > start]
        errors = [outcome.error for outcome in own if outcome.error]
        # What is unknown comes first: the reason of another entry may promise that nothing was stored.
        unknown = [error for error in errors if error.reason == "sink-outcome-unknown"]
        error = next(iter(unknown + errors), None)
        if error is None:
            error = self._batch.level_error
            return None if error is None else fresh(error)
        stored = sum(min(each.stop, stop) - max(each.start, start) for each in own if each.error is None)
        if not stored:
            return fresh(error)
        return SinkError(error.reason, f"{stored} of {stop - start} records were stored before: {error.detail}")

    def addresses(self) -> list[RecordAddress]:
        """Return the address of each record, in order, after ``commit``; no entry ID at the level ``received``."""
        start, stop = self._start, self._stop
        own = (each.addresses(start, stop) for each in self._part.outcomes if each.start < stop and each.stop > start)
        return list(chain.from_iterable(own))


class Batches:
    """Appends to and commits of one store. Build it before the fork; a level's connection is made at its first commit.

    ``link``: makes the link of a level. ``stream``: the destination unless ``append`` names another. ``level``: the
    default (``wsgi.sink.durability``). ``inflight_bytes_max`` and ``inflight_requests_max`` bound what is pending at
    one level: the open batch, and those in flight. ``streams``: every stream that records may go to, the default one
    first; None where there are no others.
    """

    def __init__(
        self,
        link: Callable[[int], Link],
        circuit: Circuit,
        watcher: Watcher,
        stream: str,
        *,
        level: int,
        entry_bytes_max: int,
        inflight_bytes_max: int,
        inflight_requests_max: int,
        streams: Streams | None = None,
    ) -> None:
        self._link, self._circuit = link, circuit
        self._watch = watcher.start
        self._watched = False  # the watcher was started in this process
        self._stream = stream.encode()
        self._level = level
        self._entry_bytes_max = entry_bytes_max
        self._bytes_max, self._requests_max = inflight_bytes_max, inflight_requests_max
        self._lock = threading.Lock()  # guards the making of lanes
        self._tally = Tally(streams or (lambda: (stream,)))
        self._lane = self._make(level)
        self._lanes = {(level, False): self._lane}  # by level, from the default on, and whether for large requests
        os.register_at_fork(after_in_child=self._forget)
        if level == RECEIVED:
            watcher.after_look(self.settle)

    def _forget(self) -> None:
        """In a forked child: start with no connection, no record and unheld locks."""
        self._lock = threading.Lock()
        self._watched = False
        for lane in self._lanes.values():
            lane.forget()

    def _make(self, level: int) -> Lane:
        return Lane(
            self._link(level), self._circuit, self._stream, self._tally,
            default=level == self._level, entry_bytes_max=self._entry_bytes_max,
        )  # fmt: skip

    def settle(self) -> None:
        """Count what became of records answered at ``received`` whose replies have arrived since. Never waits."""
        for lane in list(self._lanes.values()):
            if lane.level == RECEIVED:
                lane.settle()

    def lane(self, level: int, *, large: bool = False) -> Lane:
        """Return the lane of a level from the default on, or that of its large requests; it is made when first needed.

        Raises SinkError (``durability-unavailable``) if the level cannot be reached now.
        """
        unreachable = self._circuit.state.unreachable.get(level)
        if unreachable is not None:
            raise fresh(unreachable)
        key = level, large
        lane = self._lanes.get(key)
        if lane is None:
            with self._lock:
                lane = self._lanes.get(key) or self._lanes.setdefault(key, self._make(level))
        return lane

    def append(self, lines: list[bytes], level: int = RECEIVED, destination: bytes | None = None) -> Ticket:
        """Add one request's lines (at least one) to the open batch of its level. Never waits for the store.

        Raises SinkError, with nothing kept, while the circuit or backpressure refuses, for a destination that is
        barred, over the bounds of what may be pending, and for a level that cannot be reached.
        """
        state = self._circuit.state
        refusal = state.refusal
        if refusal is None and state.barred:
            refusal = state.barred.get(destination or self._stream)
        if refusal is not None:
            raise fresh(refusal)
        size = len(lines[0]) if len(lines) == 1 else sum(map(len, lines))
        if level <= self._level and size <= LARGE_BYTES:
            lane = self._lane
        else:
            lane = self.lane(max(level, self._level), large=size > LARGE_BYTES)
        with lane.lock:
            batch = lane.open
            requests = batch.requests + lane.sent_requests
            if not self._watched:
                self._watched = True
                self._watch()
            if requests and (batch.bytes + lane.sent_bytes + size > self._bytes_max or requests >= self._requests_max):
                held = batch.bytes + lane.sent_bytes
                raise SinkError("overloaded", f"this worker holds {requests} unfinished requests of {held} bytes")
            part = batch.main if destination is None else batch.part(destination)
            batch.requests += 1
            batch.bytes += size
            start = len(part.lines)
            part.starts.append(start)
            part.lines += lines
            stop = len(part.lines)
        return Ticket(lane, batch, part, start, stop)
