"""Batches: ``append`` takes a request's lines, ``commit`` writes a whole batch to the stream.

What lives here: the open batch, group commit, and the outcome of each request. What must not: HTTP, Redis but through
``link``, whether records may be taken (``circuit``), what a batch holds (``batch``).

How a batch lives: ``append`` adds a request's lines to the *open* batch and never waits. The first request to
``commit`` closes that batch, opens the next and writes the closed one; every other request of it finds the outcome
there (group commit). So at any time one batch is open, at most one is being written, and all others have an outcome.

A batch groups lines by destination, the store key of a stream. A commit writes one entry to each in one round trip, or
several where the lines exceed ``entry_bytes_max``; a request that fits one entry is never spread over two. An XADD
whose bytes have been sent is never sent again.
"""

from __future__ import annotations

import os
import threading

from wsgi import metrics
from wsgi.problems import SinkError
from wsgi.sink.batch import Batch, Outcome, Part
from wsgi.sink.circuit import Circuit, fresh
from wsgi.sink.durability import RECEIVED, STORED
from wsgi.sink.link import Link, xadd
from wsgi.sink.spans import spans
from wsgi.sink.watcher import Watcher


class Ticket:
    """A request's place in its batch: lines ``start:stop`` of ``part``, and the level it asks for."""

    __slots__ = ("_batch", "_batches", "_part", "_start", "_stop", "level")

    def __init__(self, batches: Batches, batch: Batch, part: Part, start: int, stop: int, level: int) -> None:
        self._batches = batches
        self._batch = batch
        self._part = part
        self._start = start
        self._stop = stop
        self.level = level

    def commit(self) -> None:
        """Return once the records are as safe as ``level`` says; raise SinkError if any of them may not be."""
        batch = self._batch
        if not batch.done:
            self._batches.commit(batch)
        if batch.failed and (error := self._own_error()) is not None:
            try:
                raise error
            finally:
                del error  # it holds this frame, so this frame must not hold it

    def _own_error(self) -> SinkError | None:
        """Return a copy of the error of the entries this request is in, or None; other requests' do not matter."""
        start, stop = self._start, self._stop
        own = [outcome for outcome in self._part.outcomes if outcome.start < stop and outcome.stop > start]
        error = next((outcome.error for outcome in own if outcome.error), None)
        if error is None:
            error = self._batch.level_error if self.level > STORED else None
            return None if error is None else fresh(error)
        stored = sum(min(each.stop, stop) - max(each.start, start) for each in own if each.entry_id)
        if not stored:
            return fresh(error)
        return SinkError(error.reason, f"{stored} of {stop - start} records were stored before: {error.detail}")

    def addresses(self) -> list[tuple[str, int]]:
        """Return (entry ID, line) of each record, in order, after ``commit``; no ID at the level ``received``."""
        return [
            (outcome.entry_id or "", line - outcome.start)
            for outcome in self._part.outcomes
            for line in range(max(outcome.start, self._start), min(outcome.stop, self._stop))
        ]


class Batches:
    """Appends to and commits of one store. Build it before the fork; it connects at the first commit.

    ``stream``: the destination unless ``append`` names another. ``level``: the default (``wsgi.sink.durability``).
    ``inflight_bytes_max`` and ``inflight_requests_max`` bound a batch.
    """

    def __init__(
        self,
        link: Link,
        circuit: Circuit,
        watcher: Watcher,
        stream: str,
        *,
        level: int,
        entry_bytes_max: int,
        inflight_bytes_max: int,
        inflight_requests_max: int,
    ) -> None:
        self._link, self._circuit = link, circuit
        self._watch = watcher.start
        self._stream = stream.encode()
        self._level = level
        self._entry_bytes_max = entry_bytes_max
        self._bytes_max, self._requests_max = inflight_bytes_max, inflight_requests_max
        self._forget()
        os.register_at_fork(after_in_child=self._forget)
        if level == RECEIVED:
            watcher.after_look(self.settle)

    def _forget(self) -> None:
        """Start with no connection, no record and unheld locks: at construction, and in a forked child."""
        self._lock = threading.Lock()  # guards the open batch; held for no longer than an append
        self._commit_lock = threading.Lock()  # held for a whole commit
        self._open = Batch(self._stream, self._level)
        self._link.forget()

    def append(self, lines: list[bytes], level: int = RECEIVED, destination: bytes | None = None) -> Ticket:
        """Add one request's lines (at least one) to the open batch. Never waits for the store.

        Raises SinkError, with nothing kept, while the circuit or backpressure refuses, and over the bounds of a batch.
        """
        refusal = self._circuit.state.refusal
        if refusal is not None:
            raise fresh(refusal)
        size = len(lines[0]) if len(lines) == 1 else sum(map(len, lines))
        with self._lock:
            batch = self._open
            if not batch.requests:
                self._watch()
            elif batch.bytes + size > self._bytes_max or batch.requests >= self._requests_max:
                detail = f"this worker holds {batch.requests} unfinished requests of {batch.bytes} bytes"
                raise SinkError("overloaded", detail)
            part = batch.main if destination is None else batch.part(destination)
            if level < self._level:
                level = self._level
            elif level > batch.level:
                batch.level = level
            batch.requests += 1
            batch.bytes += size
            start = len(part.lines)
            part.starts.append(start)
            part.lines += lines
            stop = len(part.lines)
        return Ticket(self, batch, part, start, stop, level)

    def commit(self, batch: Batch) -> None:
        """Write ``batch`` unless another request of it has; afterwards its outcome is set. Raises nothing."""
        with self._commit_lock:
            if batch.done:
                return
            with self._lock:
                self._open = Batch(self._stream, self._level)
            try:
                if self._level == RECEIVED:
                    # Replies to what was posted come before those to this batch.
                    self._settle(wait=batch.level != RECEIVED)
                state = self._circuit.state
                if state.open and state.refusal is not None:
                    # It waited behind a commit that failed: another wait for the same store would help nobody.
                    batch.finish(state.refusal)
                    return
                error = self._write(batch)
            except BaseException:
                # The process is being ended in the middle: whoever still waits must not read this as a success.
                batch.finish(SinkError("sink-outcome-unknown", "the worker was stopped during the commit"))
                raise
            batch.failed = error is not None or batch.level_error is not None
            batch.done = True
            # A level that only some requests ask for is not the store's failure.
            self._note(error or (batch.level_error if batch.level == self._level else None), batch.level)

    def _write(self, batch: Batch) -> SinkError | None:
        """Write an entry or more to each destination, set the outcomes, and return the first error."""
        pieces: list[tuple[Part, int, int]] = []
        commands: list[bytes] = []
        for key, part in batch.parts.items():
            if not part.lines:
                continue
            lines = part.lines
            whole = batch.bytes + len(lines) - 1 <= self._entry_bytes_max
            runs = [(0, len(lines))] if whole else spans(lines, part.starts, self._entry_bytes_max)
            for start, stop in runs:
                pieces.append((part, start, stop))
                commands.append(xadd(key, lines[start:stop]))
        if batch.level == RECEIVED:
            error = self._link.post(commands, [stop - start for _, start, stop in pieces])
            for part, start, stop in pieces:
                part.outcomes.append(Outcome(start, stop, "" if error is None else None, error))
            return error
        replies, batch.level_error = self._link.execute(commands, batch.level)
        first: SinkError | None = None
        stored = 0
        for (part, start, stop), reply in zip(pieces, replies, strict=True):
            if isinstance(reply, SinkError):
                first = first or reply
                part.outcomes.append(Outcome(start, stop, None, reply))
            else:
                stored += stop - start
                part.outcomes.append(Outcome(start, stop, reply, None))
        if stored:
            metrics.RECORDS_STORED.inc(stored)
        return first

    def _note(self, error: SinkError | None, level: int) -> None:
        """Count a commit's failure, and report its outcome to the circuit."""
        if error is not None:
            metrics.COMMITS_FAILED.labels(error.reason).inc()
            self._circuit.fail(error)
        elif level != RECEIVED:  # of what was only sent, nothing is known yet
            self._circuit.succeed()

    def settle(self) -> None:
        """Count what became of records answered at ``received`` whose replies have arrived since."""
        with self._commit_lock:
            self._settle(wait=False)

    def _settle(self, *, wait: bool) -> None:
        stored, dropped, error = self._link.settle(wait=wait)
        if stored:
            metrics.RECORDS_STORED.inc(stored)
        if error is not None:
            metrics.RECORDS_DROPPED.inc(dropped)
        if stored or error is not None:
            self._note(error, STORED)
