"""The synchronous reader: performs a session's steps over one blocking connection.

What lives here: the loop that hands out entries. What must not: decisions about entries.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Literal

from inlet.consumer import handling
from inlet.consumer.base import ReaderBase
from inlet.consumer.deadline import limited
from inlet.consumer.entries import Entry
from inlet.consumer.errors import Stopped
from inlet.consumer.session import Stats
from inlet.consumer.steps import Call, Done, Invoke, Step, Steps, T, advance
from inlet.consumer.stopping import STOP_SIGNALS, stopping_on
from inlet.stream.client import StoreClient
from inlet.stream.errors import StoreAway, StoreRefuses
from inlet.stream.record import Record


class Reader(ReaderBase[StoreClient]):
    """Read a stream as one consumer of a group: at least once, in order as long as nothing fails.

    ``consumer``: a name that no other live process uses; what a crash left pending under it is delivered first. None
    makes up a new name each time and deletes it on ``close``.

    ``run`` does everything. To iterate instead, ack each entry: ``for entry in reader: ...; reader.ack(entry)``. An
    entry that is not acked is delivered again, to any consumer, after ``claim_idle_ms``. The handler of an entry must
    finish within ``claim_idle_ms``, or another consumer may get the entry too. A closed reader stays closed.
    Not for use by two threads; ``stop`` may be called from any thread, or from a signal handler.

    Redis >= 6.2 or Valkey. A reader waits for a store that is away; every other refusal of the store is raised as
    StoreRefuses.
    """

    def _connect(self, url: str, block_ms: int) -> StoreClient:
        return StoreClient(url, block_ms, lambda: self._session.stopping)

    def __iter__(self) -> Iterator[Entry]:
        return self.entries(forever=True)

    def entries(self, *, forever: bool, idle: Callable[[], object] | None = None) -> Iterator[Entry]:
        """Yield entries, each to be acked. If not ``forever``, end when there are no more right now.

        ``idle`` is called whenever ``block_ms`` pass without an entry.
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
        """Mark ``entry`` as done (XACK).

        Acks are sent together, at the latest with the next read after ``ack_delay_ms``. The entry's
        bad lines become dead letters at once. Raises Stopped if the store stays away during a stop; the entry is then
        delivered again.
        """
        if entry.bad or entry.note is not None:
            self._perform(self._session.bury(entry, entry.bad))
        elif self._session.ack(entry):
            self._perform(self._session.flush())

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
        """Call ``handle`` with every record until ``stop`` or one of ``signals`` (main thread only); then ``close``.

        Acks an entry once all its records are handled. What ``handle`` may raise: see ``handling``.
        """

        def each(handle: Callable[[Record], object], entry: Entry) -> bool:
            if not handling.first(entry):
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

        return self._run(handle, each, forever, signals)

    def run_entries(
        self,
        handle: Callable[[Entry], object],
        *,
        forever: bool = True,
        signals: Iterable[signal.Signals] = STOP_SIGNALS,
    ) -> Stats:
        """Do as ``run`` with whole entries: ``entry.watermark`` allows exactly-once effects (docs/consumers.md)."""

        def each(handle: Callable[[Entry], object], entry: Entry) -> bool:
            return self._perform(handling.whole(self._session, entry), handle)

        return self._run(handle, each, forever, signals)

    def _run(
        self,
        handle: Callable[[Any], object],
        each: Callable[[Callable[[Any], object], Entry], bool],
        forever: bool,
        signals: Iterable[signal.Signals],
    ) -> Stats:
        timeout_ms = self._session.options.handle_timeout_ms
        with self, stopping_on(self.stop, signals), limited(handle, timeout_ms) as call:
            for entry in self.entries(forever=forever):
                try:
                    if each(call, entry):
                        self.flush()
                except Stopped:
                    break
        return self.stats

    def close(self) -> None:
        """Ack what is done, hand back what was read ahead, and leave. Gives up soon on a store that is away."""
        with contextlib.suppress(Stopped, StoreAway, StoreRefuses):
            self._perform(self._session.leave(forget=self._forget))
        self._client.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.close()
        return False

    def _perform(
        self, steps: Steps[T], handle: Callable[[Any], object] | None = None, error: Exception | None = None
    ) -> T:
        """Take the steps (I/O, waits, and calls of the handler), the first with ``error``; return their result."""
        step = advance(steps, error=error)
        while not isinstance(step, Done):
            try:
                outcome = self._take(step, handle)
            except KeyboardInterrupt:
                if isinstance(step, Invoke):
                    # A second Ctrl-C is no fault of the record.
                    with contextlib.suppress(Stopped, StoreAway, StoreRefuses):
                        self._perform(steps, error=Stopped("interrupted"))
                raise
            except Exception as raised:
                step = advance(steps, error=raised)
            else:
                step = advance(steps, outcome)
        return step.value

    def _take(self, step: Step, handle: Callable[[Any], object] | None) -> Any:
        if isinstance(step, Call):
            if step.reconnect:
                self._client.close()
            return self._client.call(step.commands)
        if isinstance(step, Invoke):
            return handle(step.argument) if handle else None
        for pause in self._pauses(step):
            time.sleep(pause)
        return None
