"""The synchronous reader: performs ``core``'s steps over one blocking connection.

What lives here: the loop that hands out entries. What must not: decisions about entries.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, Literal

from consumer import handling, plan
from consumer.core import Raw, Session, Stats
from consumer.entries import Entry
from consumer.errors import Stopped, StoreAway, StoreRefuses
from consumer.link import Link
from consumer.plan import Options
from consumer.steps import Call, Invoke, Steps, T, Wait
from wsgi.record import Record

WAIT_SLICE_SECONDS = 0.05
"""How late a wait notices a stop."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def consumer_name() -> str:
    """A name nobody else has, made of the host's, the process's and a random part."""
    return plan.consumer_name(socket.gethostname(), os.getpid(), uuid.uuid4().hex[:6])


class Reader:
    """Reads a stream as one consumer of a group: at least once, in order as long as nothing fails.

    ``consumer``: a name that no other live process uses; what a crash left pending under it is handed out first. None
    makes a new name each time, which is forgotten again on ``close``.

    ``run`` does everything. To iterate instead, ack each entry: ``for entry in reader: ...; reader.ack(entry)``; one
    that is not acked is handed out again, to any consumer, after ``claim_idle_ms``. The handler of an entry has to be
    done within ``claim_idle_ms``, or others may get the entry too. A reader that was closed stays so: make a new one.
    Not for use by two threads; ``stop`` may come from any thread, or from a signal handler.

    Redis >= 6.2 or Valkey. The store being away is waited out; every other refusal of the store is raised as
    StoreRefuses.
    """

    def __init__(
        self,
        url: str,
        stream: str,
        group: str,
        consumer: str | None = None,
        *,
        partitions: int = 1,
        options: Options | None = None,
    ) -> None:
        options = options or Options()
        name = consumer or consumer_name()
        self._forget = consumer is None
        self._session = Session(stream, group, name, partitions, options, time.monotonic, recover=consumer is not None)
        self._link = Link(url, options.block_ms)

    @property
    def stats(self) -> Stats:
        """What this reader has done so far."""
        return self._session.stats

    @property
    def consumer(self) -> str:
        """The consumer's name."""
        return self._session.consumer

    def stop(self) -> None:
        """End the iteration, or ``run``, after the entry in hand; seen within ``block_ms``."""
        self._session.stopping = True

    def __iter__(self) -> Iterator[Entry]:
        return self.entries(forever=True)

    def entries(self, *, forever: bool, idle: Callable[[], object] | None = None) -> Iterator[Entry]:
        """Entries, each to be acked; not ``forever``: until there are no more right now.

        ``idle`` is called whenever ``block_ms`` went by without an entry.
        """
        session = self._session
        while not session.stopping:
            try:
                entry = self._perform(session.next())
                if entry is None:
                    self._perform(session.fetch(block=forever))
            except Stopped:
                return
            if entry is not None:
                yield entry
                continue
            if not session.buffer:
                if not forever:
                    return
                if idle is not None:
                    idle()

    def ack(self, entry: Entry) -> None:
        """``entry`` is done (XACK): sent with others, at the latest with the next read after ``ack_delay_ms``.

        Its bad lines become dead letters now. Raises Stopped where the store stays away during a stop: then it comes
        again.
        """
        if entry.bad:
            self._perform(self._session.bury(entry, entry.bad))
        elif self._session.ack(entry):
            self._perform(self._session.flush())

    def give_back(self, entry: Entry) -> None:
        """``entry`` was not handled: ``close`` hands it back with what was read ahead, for others to claim at once."""
        raw = Raw(entry.partition, entry.entry_id.encode(), entry.fields, entry.deliveries)
        self._session.buffer.appendleft(raw)

    def flush(self) -> None:
        """Send the acks that still wait."""
        self._perform(self._session.flush())

    def run(
        self,
        handle: Callable[[Record], object],
        *,
        forever: bool = True,
        signals: Iterable[signal.Signals] = STOP_SIGNALS,
    ) -> Stats:
        """Call ``handle`` with every record, until ``stop`` or one of ``signals`` (main thread only); then ``close``.

        Acks an entry when all its records are handled. What ``handle`` raises: see ``handling``.
        """

        def each(entry: Entry) -> bool:
            if entry.deliveries > 1:
                return self._perform(handling.records(self._session, entry), handle)
            done = 0
            try:
                for record in entry.records:
                    handle(record)
                    done += 1
            except Exception as error:
                return self._perform(handling.records(self._session, entry, done, error), handle)
            if entry.bad:
                self._perform(self._session.bury(entry, entry.bad))
                return False
            return self._session.ack(entry)

        return self._run(each, forever, signals)

    def run_entries(
        self,
        handle: Callable[[Entry], object],
        *,
        forever: bool = True,
        signals: Iterable[signal.Signals] = STOP_SIGNALS,
    ) -> Stats:
        """The same with whole entries: ``entry.watermark`` makes exactly-once effects possible (docs/consumers.md)."""

        def each(entry: Entry) -> bool:
            return self._perform(handling.whole(self._session, entry), handle)

        return self._run(each, forever, signals)

    def _run(self, each: Callable[[Entry], bool], forever: bool, signals: Iterable[signal.Signals]) -> Stats:
        with self, stopping_on(self.stop, signals):
            for entry in self.entries(forever=forever):
                try:
                    if each(entry):
                        self.flush()
                except Stopped:
                    break
        return self.stats

    def close(self) -> None:
        """Ack what is done, hand back what was read ahead, leave. A store that is away is given up on soon."""
        with contextlib.suppress(Stopped, StoreAway, StoreRefuses):
            self._perform(self._session.leave(forget=self._forget))
        self._link.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.close()
        return False

    def _perform(self, steps: Steps[T], handle: Callable[[Any], object] | None = None) -> T:
        """Take the steps: I/O, waiting and the handler's calls; return what they come to."""
        error: Exception | None = None
        outcome: Any = None
        while True:
            try:
                step = steps.send(outcome) if error is None else steps.throw(error)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]  # StopIteration carries no type
            error = outcome = None
            try:
                outcome = self._take(step, handle)
            except Exception as raised:
                error = raised

    def _take(self, step: Call | Wait | Invoke, handle: Callable[[Any], object] | None) -> Any:
        if isinstance(step, Call):
            if step.reconnect:
                self._link.close()
            return self._link.call(step.commands)
        if isinstance(step, Invoke):
            return handle(step.argument) if handle else None
        deadline = time.monotonic() + step.seconds
        # A stop that came before this wait began must not make it a busy loop.
        was_stopping = self._session.stopping
        while (left := deadline - time.monotonic()) > 0 and self._session.stopping == was_stopping:
            time.sleep(min(left, WAIT_SLICE_SECONDS))
        return None


@contextlib.contextmanager
def stopping_on(stop: Callable[[], object], signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Call ``stop`` on these signals, and restore their handlers afterwards; nothing outside the main thread."""
    wanted = list(signals) if threading.current_thread() is threading.main_thread() else []

    def handler(number: int, frame: FrameType | None) -> None:
        stop()

    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
