"""The sink: the open batch, ``append``, and ``commit``, which writes a batch to the stream; and when to refuse at once.

What lives here: batches, group commit, the circuit, and the thread that watches the store. What must not: HTTP, and
Redis but through ``link``.

How a batch lives: ``append`` adds a request's lines to the *open* batch and never waits. The first request to
``commit`` closes that batch, opens the next and writes the closed one; every other request of it finds the outcome
there (group commit). So at any time one batch is open, at most one is being written, and all others have an outcome.

The entry a commit adds (docs/protocol.md), with redis-cli's eyes::

    XADD logs * r '["id-1",...]\\n["id-2",...]' n 2

``r`` holds one record a line, ``n`` how many. A batch over ``entry_bytes_max`` becomes several entries, in order, and a
request that fits one entry is never spread over two. An XADD whose bytes have left is never sent again.

The circuit: after a commit that failed, ``append`` refuses at once, and the watcher probes the store until it takes
records again. The same refusal serves backpressure, from the watcher's samples.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from itertools import accumulate
from typing import NamedTuple

from wsgi import metrics
from wsgi.backpressure import Backpressure
from wsgi.durability import RECEIVED, STORED
from wsgi.errors import Overloaded, SinkError, SinkMisconfigured, SinkOutcomeUnknown, SinkUnavailable
from wsgi.link import Link

log = logging.getLogger("inlet")

PROBE_SECONDS = (0.05, 0.5)
"""Pause before the first probe of a store that failed, and the longest, to which it doubles: recovery in a second."""
SAMPLE_SECONDS = 1.0
"""Pause between two samples of a store that works."""


class Entry(NamedTuple):
    """What became of lines ``start:stop`` of a batch: an entry ID, or the error that kept them out."""

    start: int
    stop: int
    entry_id: str | None
    error: SinkError | None


class Batch:
    """The records of one commit. ``entries`` is None until the batch is written."""

    __slots__ = ("bytes", "entries", "error", "level", "level_error", "lines", "starts")

    def __init__(self, level: int) -> None:
        self.lines: list[bytes] = []
        self.bytes = 0  # of lines
        self.starts: list[int] = []  # of each request, an index into lines
        self.level = level  # the highest that a request of it asks for
        self.entries: list[Entry] | None = None
        self.level_error: SinkError | None = None  # why ``level`` was not reached
        self.error: SinkError | None = None  # the first error of any entry, or level_error


class Ticket:
    """A request's place in its batch: lines ``start:stop``, and the level it asks for."""

    __slots__ = ("_sink", "batch", "level", "start", "stop")

    def __init__(self, sink: Sink, batch: Batch, start: int, stop: int, level: int) -> None:
        self._sink, self.batch, self.start, self.stop, self.level = sink, batch, start, stop, level

    def commit(self) -> None:
        """Return once the records are as safe as ``level`` says; raise SinkError if any of them may not be."""
        batch = self.batch
        if batch.entries is None:
            self._sink.commit(batch)
        if batch.error is not None:
            self._raise_own(batch)

    def _raise_own(self, batch: Batch) -> None:
        """Raise the error of the entries this request is in, if there is one; the others do not matter."""
        own = [entry for entry in batch.entries or () if entry.start < self.stop and entry.stop > self.start]
        error = next((entry.error for entry in own if entry.error), None)
        if error is None and self.level > STORED:
            error = batch.level_error
        if error is None:
            self._sink.answered(1)
            return
        stored = sum(min(e.stop, self.stop) - max(e.start, self.start) for e in own if e.entry_id)
        if stored and error is not batch.level_error:
            error = type(error)(f"{stored} of {self.stop - self.start} records were stored before: {error.detail}")
        raise error.with_traceback(None)

    def addresses(self) -> list[tuple[str, int]]:
        """(entry ID, line) of each record, in order, after ``commit``; the ID is empty at the level ``received``."""
        return [
            (entry.entry_id or "", line - entry.start)
            for entry in self.batch.entries or ()
            for line in range(max(entry.start, self.start), min(entry.stop, self.stop))
        ]


class Sink:
    """One stream of one store. Built before the fork; connects at the first commit, so in the worker.

    ``link`` is for commits, ``probe`` another to the same store, for the watcher and ``check``. ``level`` is the
    default (``wsgi.durability``). ``inflight_bytes_max`` and ``inflight_requests_max`` bound a batch.
    """

    def __init__(
        self,
        link: Link,
        probe: Link,
        backpressure: Backpressure,
        *,
        level: int,
        entry_bytes_max: int,
        inflight_bytes_max: int,
        inflight_requests_max: int,
        sample_backlog: bool = False,
        sample_retention: bool = False,
    ) -> None:
        self._link, self._probe, self._backpressure = link, probe, backpressure
        self._level = level
        self._entry_bytes_max = entry_bytes_max
        self._bytes_max, self._requests_max = inflight_bytes_max, inflight_requests_max
        self._sampled = {"backlog": sample_backlog, "retention": sample_retention}
        self.answered = metrics.REQUESTS.labels("202", "").inc
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Start with no connection, no record, no thread and unheld locks: at construction, and in a forked child."""
        self._lock = threading.Lock()  # guards the open batch; held for no longer than an append
        self._commit_lock = threading.Lock()  # held for a whole commit
        self._probe_lock = threading.Lock()
        self._wake = threading.Event()
        self._watcher: threading.Thread | None = None
        self._open = Batch(self._level)
        self._failing: str | None = None  # reason of the last commit's failure; None after a success
        self._refusing: str | None = None  # reason of backpressure, while it lasts
        self._refusal: SinkError | None = None  # what append raises
        self._link.close()
        self._probe.close()

    def append(self, lines: list[bytes], level: int = RECEIVED) -> Ticket:
        """Add one request's lines (at least one) to the open batch. Never waits for the store.

        Raises SinkError, with nothing kept, where the circuit is open, on backpressure, and with too much in hand.
        """
        if self._refusal is not None:
            raise type(self._refusal)(self._refusal.detail, self._refusal.retry_after)
        size = len(lines[0]) if len(lines) == 1 else sum(map(len, lines))
        with self._lock:
            batch = self._open
            start = len(batch.lines)
            if start and (batch.bytes + size > self._bytes_max or len(batch.starts) >= self._requests_max):
                raise Overloaded(f"this worker has {len(batch.starts)} requests of {batch.bytes} bytes in hand")
            if level < self._level:
                level = self._level
            elif level > batch.level:
                batch.level = level
            batch.starts.append(start)
            batch.bytes += size
            batch.lines += lines
        return Ticket(self, batch, start, start + len(lines), level)

    def commit(self, batch: Batch) -> None:
        """Write ``batch`` unless another request of it has; afterwards its outcome is set. Raises nothing."""
        with self._commit_lock:
            if batch.entries is not None:
                return
            with self._lock:
                self._open = Batch(self._level)
            if self._failing is not None and self._refusal is not None:
                # It waited behind a commit that failed: another wait for the same store would help nobody.
                batch.error = self._refusal
                batch.entries = [Entry(0, len(batch.lines), None, self._refusal)]
                return
            try:
                entries = self._write(batch)
            except BaseException:
                # The process is being ended in the middle: whoever still waits must not read this as a success.
                unknown = SinkOutcomeUnknown("the worker was stopped during the commit")
                batch.error, batch.entries = unknown, [Entry(0, len(batch.lines), None, unknown)]
                raise
            error = next((entry.error for entry in entries if entry.error), None)
            batch.error = error or batch.level_error
            batch.entries = entries
            if batch.error is None:
                self.answered(len(batch.starts))
            # A level that only some requests ask for is not the store's failure.
            self._note(error or (batch.level_error if batch.level == self._level else None))

    def _write(self, batch: Batch) -> list[Entry]:
        spans = self._spans(batch)
        commands = [self._link.xadd(batch.lines[start:stop]) for start, stop in spans]
        if batch.level == RECEIVED:
            self._settle(wait=False)
            error = self._link.post(commands, [stop - start for start, stop in spans])
            return [Entry(*span, "" if error is None else None, error) for span in spans]
        if self._level == RECEIVED:
            self._settle(wait=True)
        begin = time.monotonic()
        replies, batch.level_error = self._link.execute(commands, batch.level)
        metrics.COMMIT_SECONDS.observe(time.monotonic() - begin)
        entries = [
            Entry(*span, None, reply) if isinstance(reply, SinkError) else Entry(*span, reply, None)
            for span, reply in zip(spans, replies, strict=True)
        ]
        stored = sum(entry.stop - entry.start for entry in entries if entry.entry_id)
        if stored:
            metrics.RECORDS_STORED.inc(stored)
        return entries

    def _settle(self, *, wait: bool) -> None:
        """Count what became of the records that were answered without waiting (``received``)."""
        stored, dropped, error = self._link.settle(wait=wait)
        if stored:
            metrics.RECORDS_STORED.inc(stored)
        if error is not None:
            metrics.RECORDS_DROPPED.inc(dropped)
            self._note(error)

    def _spans(self, batch: Batch) -> list[tuple[int, int]]:
        """Cut a batch into entries: runs of whole requests, and runs of records for a request over the bound."""
        lines, bytes_max = batch.lines, self._entry_bytes_max
        ends = list(accumulate(map(len, lines), initial=0))  # ends[i]: bytes of the lines before i, without "\n"

        def fits(start: int, stop: int) -> bool:
            return ends[stop] - ends[start] + stop - start - 1 <= bytes_max

        if fits(0, len(lines)):
            return [(0, len(lines))]
        spans: list[tuple[int, int]] = []
        start = stop = 0
        for request_stop in [*batch.starts[1:], len(lines)]:
            if fits(start, request_stop):
                stop = request_stop
                continue
            if stop > start:
                spans.append((start, stop))
                start = stop
            while not fits(start, request_stop):
                stop = start + 1
                while fits(start, stop + 1):
                    stop += 1
                spans.append((start, stop))
                start = stop
            stop = request_stop
        spans.append((start, stop))
        return spans

    def check(self) -> None:
        """Raise SinkError unless records can be stored now, as safely as the default level says; say what is wrong."""
        with self._probe_lock:
            self._probe.check(self._level)
            sample = self._probe.sample(**self._sampled)
        if sample.policy not in (None, "noeviction"):
            raise SinkMisconfigured(f"maxmemory-policy is {sample.policy}, which may evict the stream; set noeviction")
        if sample.aof_writes is False:
            raise SinkMisconfigured("the store cannot write its append-only file; see its log, and the disk")
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)

    def _note(self, error: SinkError | None) -> None:
        """Count a commit's outcome, log where it differs from the last one's, and open or close the circuit."""
        if error is None:
            if self._failing is not None:
                log.info("sink: commits succeed again")
                self._failing = None
            if self._watcher is None:
                self._watch()
            return
        metrics.COMMITS_FAILED.labels(error.reason).inc()
        self._open_circuit(error)
        self._watch()
        self._wake.set()

    def _open_circuit(self, error: SinkError) -> None:
        """Refuse from now on, and say why once per reason: what a commit ran into, or a probe finds meanwhile."""
        if self._failing != error.reason:
            level = logging.CRITICAL if isinstance(error, SinkMisconfigured) else logging.ERROR
            log.log(level, "sink: commits fail, reason=%s: %s", error.reason, error.detail)
        self._failing = error.reason
        self._refusal = (
            error
            if isinstance(error, SinkMisconfigured)
            else SinkUnavailable(f"not tried, since a commit failed just now: {error.detail}")
        )
        metrics.CIRCUIT_OPEN.set(1)

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch_store, name="inlet-watcher", daemon=True)
            self._watcher.start()

    def _watch_store(self) -> None:
        """The watcher's life: sample a store that works, probe one that failed until it takes records again."""
        pause, longest = PROBE_SECONDS
        while True:
            if self._failing is None:
                pause = PROBE_SECONDS[0]
            if self._failing is not None and self._refusal is not None:
                time.sleep(pause)
                pause = min(pause * 2, longest)
            elif self._wake.wait(SAMPLE_SECONDS):
                self._wake.clear()
                continue
            try:
                self._watch_once()
            except SinkError:
                pass  # as before; if that is news, a commit will tell
            except Exception:
                log.exception("sink: a bug in the watcher")

    def _watch_once(self) -> None:
        failing = self._failing is not None and self._refusal is not None
        with self._probe_lock:
            if failing:
                try:
                    self._probe.check(self._level)
                except SinkError as error:
                    self._open_circuit(error)
                    return
            sample = self._probe.sample(**self._sampled)
        refusal = self._backpressure.judge(time.monotonic(), sample)
        reason = refusal.reason if refusal else None
        if refusal and reason != self._refusing:
            log.warning("sink: refusing, reason=%s: %s", reason, refusal.detail)
        elif reason != self._refusing:
            log.info("sink: accepting again")
        self._refusing = reason
        with self._commit_lock:
            if self._level == RECEIVED:
                self._settle(wait=False)
            if failing or self._failing is None or self._refusal is None:
                self._refusal = refusal
                metrics.CIRCUIT_OPEN.set(0)
