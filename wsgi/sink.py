"""The sink: the open batch, ``append``, and ``commit``, which writes a batch to the stream.

What lives here: everything that knows Redis; no redis exception leaves this module. What must not: HTTP.

How a batch lives: ``append`` adds a request's lines to the *open* batch and never waits. The first request to
``commit`` closes that batch, opens the next and writes the closed one; every other request of it finds the outcome
there (group commit). So at any time one batch is open, at most one is being written, and all others have an outcome.

The entry a commit adds (docs/protocol.md), with redis-cli's eyes::

    XADD logs * r '["id-1",...]\\n["id-2",...]' n 2

``r`` holds one record a line, ``n`` how many. A batch over ``entry_bytes_max`` becomes several entries, in order, and a
request that fits one entry is never spread over two. An XADD whose bytes have left is never sent again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from itertools import accumulate
from typing import Any, NamedTuple, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from wsgi import metrics
from wsgi.errors import SinkError, SinkMisconfigured, SinkOutcomeUnknown, SinkUnavailable

log = logging.getLogger("inlet")

Connection = Any
"""A redis.connection.Connection; most of its methods carry no types."""

PASSING = frozenset(
    ("OOM", "LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "MISCONF", "BUSY", "CLUSTERDOWN", "TRYAGAIN")
)
"""First words of the error replies that pass with time; every other one waits for the operator."""


class Entry(NamedTuple):
    """What became of lines ``start:stop`` of a batch: an entry ID, or the error that kept them out."""

    start: int
    stop: int
    entry_id: str | None
    error: SinkError | None


class Batch:
    """The records of one commit. ``entries`` is None until the batch is written."""

    __slots__ = ("entries", "error", "lines", "starts")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.starts: list[int] = []  # of each request, an index into lines
        self.entries: list[Entry] | None = None
        self.error: SinkError | None = None  # the first error of any entry


class Ticket:
    """A request's place in its batch: lines ``start:stop``."""

    __slots__ = ("_sink", "batch", "start", "stop")

    def __init__(self, sink: Sink, batch: Batch, start: int, stop: int) -> None:
        self._sink, self.batch, self.start, self.stop = sink, batch, start, stop

    def commit(self) -> None:
        """Return once the records are stored; raise SinkError if any of them may not be."""
        batch = self.batch
        if batch.entries is None:
            self._sink.commit(batch)
        if batch.error is not None:
            self._raise_own(batch)

    def _raise_own(self, batch: Batch) -> None:
        """Raise the error of the entries this request is in, if there is one; the others do not matter."""
        own = [entry for entry in batch.entries or () if entry.start < self.stop and entry.stop > self.start]
        error = next((entry.error for entry in own if entry.error), None)
        if error is None:
            self._sink.answered(1)
            return
        stored = sum(min(e.stop, self.stop) - max(e.start, self.start) for e in own if e.entry_id)
        if stored:
            error = type(error)(f"{stored} of {self.stop - self.start} records were stored before: {error.detail}")
        raise error

    def addresses(self) -> list[tuple[str, int]]:
        """(entry ID, line) of each record, in order; only after ``commit`` returned."""
        return [
            (entry.entry_id or "", line - entry.start)
            for entry in self.batch.entries or ()
            for line in range(max(entry.start, self.start), min(entry.stop, self.stop))
        ]


class Sink:
    """One stream of one store. Built before the fork; connects at the first commit, so in the worker.

    ``url``: redis://, rediss:// or unix://. Deadlines in milliseconds: to connect, and for each read or write.
    """

    def __init__(
        self, url: str, stream: str, *, entry_bytes_max: int, connect_timeout_ms: int, commit_timeout_ms: int
    ) -> None:
        self.stream = stream
        self._entry_bytes_max = entry_bytes_max
        # protocol=2: nothing but replies ever arrives. No retry: redis-py would send an XADD again.
        self._pool = redis.ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=commit_timeout_ms / 1000,
            **({} if url.startswith("unix:") else {"socket_connect_timeout": connect_timeout_ms / 1000}),
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
        key = stream.encode()
        self._xadd_head = b"*7\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n$1\r\nr\r\n$" % (len(key), key)
        self._committed = metrics.COMMITS.labels("stored").inc
        self.answered = metrics.REQUESTS.labels("202", "").inc
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Start with no connection, no record and unheld locks: at construction, and in a forked child."""
        self._lock = threading.Lock()  # guards the open batch; held for no longer than an append
        self._commit_lock = threading.Lock()  # held for a whole commit
        self._probe_lock = threading.Lock()
        self._open = Batch()
        self._connection: Connection | None = None
        self._probe_connection: Connection | None = None
        self._failing: str | None = None  # reason of the last commit's failure; None after a success

    def append(self, lines: list[bytes]) -> Ticket:
        """Add one request's lines (at least one) to the open batch. Never waits for the store."""
        with self._lock:
            batch = self._open
            start = len(batch.lines)
            batch.starts.append(start)
            batch.lines += lines
        return Ticket(self, batch, start, start + len(lines))

    def commit(self, batch: Batch) -> None:
        """Write ``batch`` unless another request of it has; afterwards its outcome is set. Raises nothing."""
        with self._commit_lock:
            if batch.entries is not None:
                return
            with self._lock:
                self._open = Batch()
            try:
                entries = self._write(batch)
            except BaseException:
                # The process is being ended in the middle: whoever still waits must not read this as a success.
                unknown = SinkOutcomeUnknown("the worker was stopped during the commit")
                batch.error, batch.entries = unknown, [Entry(0, len(batch.lines), None, unknown)]
                raise
            batch.error = next((entry.error for entry in entries if entry.error), None)
            batch.entries = entries
            if batch.error is None:
                self.answered(len(batch.starts))
            self._note(batch.error)

    def _write(self, batch: Batch) -> list[Entry]:
        spans = self._spans(batch)
        commands = [self._xadd(batch.lines[start:stop]) for start, stop in spans]
        begin = time.monotonic()
        replies = self._execute(commands)
        metrics.COMMIT_SECONDS.observe(time.monotonic() - begin)
        entries = [
            Entry(*span, None, reply) if isinstance(reply, SinkError) else Entry(*span, reply, None)
            for span, reply in zip(spans, replies, strict=True)
        ]
        stored = sum(entry.stop - entry.start for entry in entries if entry.entry_id)
        if stored:
            metrics.RECORDS_STORED.inc(stored)
            metrics.COMMIT_RECORDS.observe(len(batch.lines))
        return entries

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

    def _xadd(self, lines: list[bytes]) -> bytes:
        """One packed XADD (RESP2): built by hand because packing it anew costs more than the rest of a commit."""
        records = b"\n".join(lines)
        count = b"%d" % len(lines)
        return b"%b%d\r\n%b\r\n$1\r\nn\r\n$%d\r\n%b\r\n" % (self._xadd_head, len(records), records, len(count), count)

    def _execute(self, commands: list[bytes]) -> list[str | SinkError]:
        """Send XADDs and read a reply for each: an entry ID, or the error in words. Sends nothing twice."""
        try:
            connection = self._connect(self._connection)
        except (redis.RedisError, OSError) as error:
            self._connection = None
            return [translate(error)] * len(commands)
        self._connection = connection
        replies: list[str | SinkError] = []
        try:
            connection.send_packed_command(commands)
            for _ in commands:
                try:
                    reply = connection.read_response()
                except redis.ResponseError as error:
                    replies.append(translate(error))
                else:
                    replies.append(reply.decode() if isinstance(reply, bytes) else str(reply))
        except (redis.RedisError, OSError) as error:
            self._connection = None
            connection.disconnect()
            if _code(error):
                # A reply all the same (LOADING, NOAUTH), after which redis-py has hung up.
                replies.append(translate(error))
            unknown = SinkOutcomeUnknown(f"the store's answer did not come: {words(error)}")
            replies += [unknown] * (len(commands) - len(replies))
        except BaseException:
            # A reply may still be under way, and must not be taken for the next commit's.
            self._connection = None
            connection.disconnect()
            raise
        return replies

    def _connect(self, connection: Connection | None) -> Connection:
        """Give a connection fit to send on: this one, unless its other end has closed it, else a new one."""
        if connection is not None:
            # Between commits nothing arrives; what is readable is the end of the connection.
            with contextlib.suppress(redis.RedisError, OSError):
                if not connection.can_read(0):
                    return connection
            connection.disconnect()
        connection = cast("Connection", self._pool.make_connection())
        connection.connect()
        return connection

    def check(self) -> None:
        """Raise SinkError unless records can be stored now: a write that changes nothing, on its own connection.

        XADD NOMKSTREAM (Redis 6.2) on a key that is never made is refused for all that refuses a real XADD (OOM,
        READONLY, MISCONF, NOREPLICAS, no permission), and TYPE tells whether the stream's key is free or a stream.
        """
        with self._probe_lock:
            probe, self._probe_connection = self._probe_connection, None
            try:
                probe = self._connect(probe)
                probe.send_command("XADD", f"{self.stream}:probe", "NOMKSTREAM", "*", "probe", "1")
                probe.read_response()
                probe.send_command("TYPE", self.stream)
                kind = probe.read_response()
            except (redis.RedisError, OSError) as error:
                if probe is not None:
                    probe.disconnect()
                raise translate(error) from None
            self._probe_connection = probe
        if kind not in (b"stream", b"none"):
            raise SinkMisconfigured(f"the key {self.stream!r} holds a {kind.decode()}, not a stream")

    def _note(self, error: SinkError | None) -> None:
        """Count a commit's outcome, and log where it differs from the last one's."""
        if error is None:
            self._committed()
            if self._failing is not None:
                log.info("sink: commits succeed again")
            self._failing = None
            return
        metrics.COMMITS.labels(error.reason).inc()
        if self._failing != error.reason:
            level = logging.CRITICAL if isinstance(error, SinkMisconfigured) else logging.ERROR
            log.log(level, "sink: commits fail, reason=%s: %s", error.reason, error.detail)
        self._failing = error.reason


def translate(error: Exception) -> SinkError:
    """What redis-py or the socket raised before anything was stored, as one of ours."""
    code = _code(error)
    if code is None:
        return SinkUnavailable(f"the store cannot be reached: {words(error)}")
    text = words(error) if words(error).startswith(code) else f"{code} {words(error)}"
    passing = code in PASSING or "max number of clients" in text
    return (SinkUnavailable if passing else SinkMisconfigured)(f"the store refuses: {text}")


def _code(error: Exception) -> str | None:
    """First word of the error reply that ``error`` stands for; None where it is no reply."""
    # redis-py cuts the word off the message where it has a class for it, LOADING and NOAUTH as ConnectionErrors.
    code = getattr(error, "status_code", None)
    if code is None and isinstance(error, redis.ResponseError):
        code = str(error).partition(" ")[0] or "ERR"
    return code


def words(error: Exception | str) -> str:
    """A driver's message on one line, bounded."""
    return " ".join(str(error).split())[:200] or type(error).__name__
