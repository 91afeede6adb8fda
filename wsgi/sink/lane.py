"""A lane: the commits of one durability level. Each level has a connection of its own, so none waits for another's.

What lives here: the open batch, when it is sent, and what its outcome means for metrics and the circuit. What must not:
Redis commands (``flight``), sockets (``link``), whether records may be taken (``circuit``).

How a batch lives: requests are added to the *open* batch. The first of them that wants its outcome has the batch closed
and sent, at once if no commit is in flight, else as soon as there is room. Until then it stays open, so batches grow
with the store's latency by themselves. So at any time a lane has one open batch and COMMITS_IN_FLIGHT_MAX at most in
flight; all others have an outcome.

``begin`` never waits, and needs an event loop that watches the socket; ``commit`` blocks. A process uses one of the
two: both at once, in two threads, is not supported.
"""

from __future__ import annotations

import threading
import time

from wsgi import metrics
from wsgi.problems import SinkError
from wsgi.sink.batch import Batch
from wsgi.sink.circuit import Circuit
from wsgi.sink.connecting import Connecting
from wsgi.sink.flight import Flight
from wsgi.sink.link import Link, Watching
from wsgi.sink.tally import Tally
from wsgi.sink.waits import at_default


class Lane:
    """``stream``: the default destination. ``default``: whether its level is what every request asks for at least.
    ``tally``: counts what was stored by stream, and knows the streams.

    ``open`` and what is in it are guarded by ``lock``. All else is written by the one thread of an event loop, or under
    the lock of ``commit``.
    """

    def __init__(
        self, link: Link, circuit: Circuit, stream: bytes, tally: Tally, *, default: bool, entry_bytes_max: int
    ) -> None:
        self._link, self._circuit, self._stream, self._tally = link, circuit, stream, tally
        self.level = link.level
        self._default = default
        self._entry_bytes_max = entry_bytes_max
        self.forget()

    def forget(self) -> None:
        """Start with no connection, no record and unheld locks: at construction, and in a forked child."""
        self.lock = threading.Lock()  # held for no longer than an append
        self.commit_lock = threading.Lock()  # held for a whole blocking commit
        self.open = Batch(self._stream, self.begin)
        self.sent_bytes = 0  # of the batches that are closed and not done: in flight
        self.sent_requests = 0
        self._connecting: Connecting | None = None
        self._connecting_for: Batch | None = None
        self._link.forget()

    def begin(self, batch: Batch, watch: Watching) -> Batch | Connecting | None:
        """Start the commit of ``batch``, or bring it forward; return what to wait for before calling this again.

        None: the outcome is known. Never waits. For a batch that is ``wanted``, there is nothing to bring forward.
        """
        try:
            # PERF: what is usual is decided here, without calls (bench/stages.py).
            if batch is self.open and not ((self._circuit.state.open or not self._default) and self._refuses()):
                link = self._link
                if not link.flights and (ended := link.look()):
                    self._ended(ended)  # the end of a connection is seen before anything is written to it
                if not link.connected:
                    waiting = self._connect(batch)
                    if waiting is not None or batch.done:
                        return waiting
                batch.wanted = True
                if not link.watched:
                    link.attach(watch, self._event)
                if link.free:
                    self._send()
        except BaseException:
            self._abandon(batch)
            raise
        return None if batch.done else batch

    def commit(self, batch: Batch) -> None:
        """Block until the outcome of ``batch`` is known. Raises nothing."""
        link = self._link
        with self.commit_lock:
            try:
                while not batch.done:
                    if batch is not self.open:
                        self._ended(link.wait())
                    elif not self._refuses():
                        self._ended(link.look())
                        if not link.connected:
                            self._connected(link.connect())
                        elif link.free:
                            self._send()
                        else:
                            self._ended(link.wait())
            except BaseException:
                self._abandon(batch)
                raise

    def settle(self) -> None:
        """Count what became of records answered at ``received``, in a process without an event loop. Never waits."""
        if self.commit_lock.acquire(blocking=False):  # else a commit is under way, and does the same
            try:
                if not self._link.watched:
                    self._ended(self._link.look())
                    self._ended(self._link.expire())
            finally:
                self.commit_lock.release()

    def _event(self, event: str) -> None:
        """Called by the event loop: handle it, and send what has been waiting for that."""
        batch = self.open
        try:
            self._ended(self._link.event(event))
            if batch.wanted and not self._refuses():
                if not self._link.connected:
                    batch.wanted = False
                    batch.wake()  # so that ``begin`` connects
                elif self._link.free:
                    self._send()
        except BaseException:
            self._abandon(batch)
            raise

    def _abandon(self, batch: Batch) -> None:
        """End what is in flight, and ``batch``: whoever still waits must not read this as a success."""
        stopped = SinkError("sink-outcome-unknown", "the worker was stopped during the commit")
        batches = [flight.batch for flight in self._link.drop()]
        for each in (*batches, self._close() if batch is self.open else batch):
            if each is not None and not each.done:
                self._finish(each, stopped)

    def _refuses(self) -> bool:
        """Finish the open batch if a commit has failed since: another wait for the same store would help nobody."""
        state = self._circuit.state
        refusal = state.refusal if state.open else None
        if refusal is None and not self._default:
            refusal = state.unreachable.get(self.level)
        if refusal is None:
            return False
        self._finish(self._close(), refusal)
        return True

    def _close(self) -> Batch:
        """Open the next batch; return the one that was open."""
        with self.lock:
            batch, self.open = self.open, Batch(self._stream, self.begin)
            self.sent_bytes += batch.bytes
            self.sent_requests += batch.requests
        return batch

    def _send(self) -> None:
        batch, link = self._close(), self._link
        if ended := link.send(Flight(batch, self.level, link.waits, self._entry_bytes_max, link.dedup)):
            self._ended(ended)

    def _connect(self, batch: Batch) -> Connecting | None:
        """Return the attempt to wait for; None if there is a connection, or if the batch was finished without one."""
        trying = self._connecting
        if trying is not None and trying.done:
            # Given up, it may not have come back yet; of another batch, its error says nothing about now.
            if trying.error is not None and (trying.running or self._connecting_for is batch):
                self._connecting_for = None
                self._connected(trying.error)
                return None
            trying = None
        if trying is None:
            trying = self._connecting = Connecting(self._link.connect, self._link.connect_seconds_max)
        self._connecting_for = batch
        return trying

    def _connected(self, error: SinkError | None) -> None:
        """Finish the open batch if connecting failed, or if the level was found to be out of reach."""
        if error is None:
            return
        unreachable = error.reason == "durability-unavailable"
        if self._default:
            error = at_default(error)
        self._finish(self._close(), error)
        if self._default or not unreachable:
            self._note(error)

    def _finish(self, batch: Batch, error: SinkError) -> None:
        """Give a batch of which nothing was sent its outcome."""
        batch.finish(error)
        self._leave(batch)

    def _leave(self, batch: Batch) -> None:
        """Take a batch that is done out of the bounds, and let its requests go on."""
        self.sent_bytes -= batch.bytes
        self.sent_requests -= batch.requests
        batch.wake()

    def _ended(self, flights: list[Flight]) -> None:
        """Account for flights that got further: count, report to the circuit, let the requests go on."""
        for flight in flights:
            batch = flight.batch
            if batch is not None and not flight.settled:
                flight.answer(batch)
                self._leave(batch)
                continue
            error = flight.error
            if flight.faults or self._circuit.failing_for:
                own = self._destinations(flight)
                error = error or own
            if flight.stored:
                self._tally.count(flight)
            if flight.duplicate:
                metrics.RECORDS_DUPLICATE.inc(flight.duplicate)
            if batch is None:
                if flight.stored:
                    metrics.LATE.stored(flight.stored)
                if flight.dropped:
                    metrics.RECORDS_DROPPED.inc(flight.dropped)
                self._note(error)
                continue
            now = time.monotonic()
            metrics.LATE.commit(flight.stored, now - flight.began, now)
            # A level that only some requests ask for is not the store's failure.
            error = error or (batch.level_error if self._default else None)
            if error is not None or self._circuit.state.failing is not None or not self._default:
                self._note(error)
            self._leave(batch)

    def _destinations(self, flight: Flight) -> SinkError | None:
        """Bar the destinations that failed for reasons of their own, and note those that work again.

        Return the error of the default stream instead where there is no other: it is the whole store's then.
        """
        circuit, barred = self._circuit, dict(flight.faults)
        alone = barred.pop(self._stream, None) if len(self._tally.streams()) == 1 else None
        if barred:
            for reason in {error.reason for error in barred.values()}:
                metrics.COMMITS_FAILED.labels(reason).inc()
            circuit.bar(barred.items())
        replies = zip(flight.pieces, flight.replies, strict=False)
        stored = {piece[0] for piece, reply in replies if type(reply) in (bytes, list)}
        if again := (stored - barred.keys()) & circuit.failing_for.keys():
            circuit.succeed_for(again)
        return alone

    def _note(self, error: SinkError | None) -> None:
        """Count a commit's failure, and report its outcome to the circuit."""
        circuit = self._circuit
        if error is not None:
            metrics.COMMITS_FAILED.labels(error.reason).inc()
            if self._default:
                circuit.fail(error)
            else:
                circuit.fail_at(self.level, error)
        elif self._default:
            circuit.succeed()
        else:
            circuit.succeed_at(self.level)
