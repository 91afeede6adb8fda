"""The keeper of rejected records: a bounded queue, and a thread that writes it to ``<stream>:rejected``.

What lives here: the queue, the thread, its connection, what is dropped. What must not: which records are kept (the
receivers), the layout of an entry (``inlet.stream.rejected``), requests, which never wait for any of it.

At worst: QUEUE_BYTES_MAX of a worker's memory, ROWS_PER_SECOND_MAX entries a second from each worker, and 64 MB of the
store's memory for each stream (``inlet.stream.rejected.ENTRIES_MAX``). What is over is dropped and counted.

Nothing here is as safe as a record that was accepted. An entry whose reply was lost is written again, so it may be
there twice; and what waits in a worker that is killed is lost, uncounted.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from inlet.stream.client import StoreClient
from inlet.stream.errors import PASSING, ConsumerError, Fault
from inlet.stream.keys import rejected_key
from inlet.stream.rejected import ENTRIES_MAX, Rejected, bytes_of, fields
from wsgi import metrics

log = logging.getLogger("inlet")

QUEUE_BYTES_MAX = 8_388_608
"""Bytes of memory that waiting rows take in a worker, about: seconds of an ordinary producer's mistakes."""
STREAM_ROWS_MAX = 1_000
"""Rows that wait for one stream: what one tenant sends must not crowd out the others'."""
STREAM_BYTES_MAX = QUEUE_BYTES_MAX // 4
"""Bytes of rows that wait for one stream, for the same reason."""
BATCH_ROWS = 100
"""Rows written in one pipeline."""
BATCH_SECONDS = 0.2
"""Pause after each pipeline. The thread shares the interpreter with the requests, and the store with the commits."""
ROWS_PER_SECOND_MAX = int(BATCH_ROWS / BATCH_SECONDS)
"""Rows that a worker writes in a second at most: 3 MB of the longest; 1% of a core for ordinary ones."""
RETRY_SECONDS = 1.0
"""Pause after the store could not be reached, or refused for a passing cause."""
FLUSH_SECONDS_MAX = 0.8
"""How long a worker that ends waits for the rest to be written. A drain ends a second before gunicorn kills the worker
(``wsgi.server.limits``)."""


class _Row(NamedTuple):
    stream: bytes | None  # None: the default one
    receiver: str
    row: Rejected
    size: int  # bytes of memory


class RejectedKeeper:
    """Keeps rejected records of ``stream``, or of a stream that is named with them, in the store at ``url``.

    Build it before the fork; the thread starts with the first record. Safe for threads.
    """

    def __init__(self, url: str, stream: str) -> None:
        self._url, self._stream = url, stream
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Start with no thread, an empty queue and an unheld lock: at construction, and in a forked child."""
        self._pid = 0  # of the process in which the thread runs
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # held for some steps, never while anything waits
        self._wake, self._stop = threading.Event(), threading.Event()
        self._queue: deque[_Row] = deque()
        self._rows: Counter[bytes | None] = Counter()  # waiting, by stream
        self._bytes: Counter[bytes | None] = Counter()
        self._all_bytes = 0
        self._pending = 0  # rows that are being written
        self._refused: set[bytes | None] = set()  # streams of which the store refused the last row; each logged once

    def keep(self, stream: bytes | None, receiver: str, rows: Sequence[Rejected], more: int = 0) -> None:
        """Queue rows for ``stream`` (None: the default one). Never waits; what finds no room is counted as lost.

        ``more``: rejected records of the same request beside ``rows``, which are lost as well.
        """
        lost = more
        with self._lock:
            for row in rows:
                size = bytes_of(row)
                if (
                    self._rows[stream] >= STREAM_ROWS_MAX
                    or self._bytes[stream] + size > STREAM_BYTES_MAX
                    or self._all_bytes + size > QUEUE_BYTES_MAX
                    or self._stop.is_set()
                ):
                    lost += 1
                    continue
                queued = _Row(stream, receiver, row, size)
                self._queue.append(queued)
                self._count((queued,), 1)
            if rows and self._pid != os.getpid():
                self._start()
        if lost:
            metrics.REJECTED_LOST.inc(lost)
        self._wake.set()

    def _start(self) -> None:
        thread = threading.Thread(target=self._live, name="inlet-rejected", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # No more threads for now. The rows wait: the next ones try again, and the answer goes out.
            log.exception("rejected records wait: their thread cannot start")
            return
        self._thread, self._pid = thread, os.getpid()
        atexit.register(self._end, self._pid)

    def _end(self, pid: int) -> None:
        """At exit. A forked child inherits the handler, but not the queue."""
        if pid == os.getpid():
            self.flush()

    def flush(self, seconds: float = FLUSH_SECONDS_MAX) -> None:
        """Write what waits, for at most so long; count the rest as lost. Nothing is kept afterwards."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(seconds)
        if left := len(self._take(len(self._queue))) + self._pending:
            metrics.REJECTED_LOST.inc(left)

    def _live(self) -> None:
        """The thread's life: write what waits, a batch at a time."""
        client = StoreClient(self._url, stopping=self._stop.is_set)
        away = False
        while self._queue or not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            pause = BATCH_SECONDS
            try:
                while self._queue:
                    detail = self._write(client)
                    if (detail is not None) and not away:
                        log.warning("rejected records wait: %s", detail)
                    away = detail is not None
                    if away and self._stop.is_set():
                        return
                    pause = RETRY_SECONDS if away else BATCH_SECONDS
                    self._stop.wait(pause)
            except Exception:
                # A bug costs the batch that it was in, not the thread.
                log.exception("rejected records: a bug")
                metrics.REJECTED_LOST.inc(self._pending)
                self._pending = 0
                self._stop.wait(RETRY_SECONDS)
        client.close()

    def _write(self, client: StoreClient) -> str | None:
        """Write one batch; return why it must be tried again, or None."""
        batch = self._take(BATCH_ROWS)
        self._pending = len(batch)
        try:
            replies = client.call(self._command(row) for row in batch)
        except ConsumerError as error:
            self._put_back(batch)
            return error.detail
        self._put_back([row for row, reply in zip(batch, replies, strict=True) if _passes(reply)])
        lost = 0
        for row, reply in zip(batch, replies, strict=True):
            if not isinstance(reply, Fault):
                self._refused.discard(row.stream)
            elif not _passes(reply):
                lost += 1
                if row.stream not in self._refused:
                    self._refused.add(row.stream)
                    log.error("rejected records of %s are lost: %s", self._key(row.stream), reply.text)
        if lost:
            metrics.REJECTED_LOST.inc(lost)
        return next((reply.text for reply in replies if _passes(reply)), None)

    def _command(self, row: _Row) -> tuple[Any, ...]:
        # Exactly so many, not about: how far "~" may exceed it is a setting of the store's.
        return "XADD", self._key(row.stream), "MAXLEN", ENTRIES_MAX, "*", *fields(row.row, row.receiver)

    def _key(self, stream: bytes | None) -> str:
        return rejected_key(self._stream if stream is None else stream.decode())

    def _take(self, rows: int) -> list[_Row]:
        """Take the oldest rows off the queue."""
        with self._lock:
            taken = [self._queue.popleft() for _ in range(min(rows, len(self._queue)))]
            self._count(taken, -1)
        return taken

    def _put_back(self, rows: list[_Row]) -> None:
        """Put rows before all others. Meanwhile others may have come: then the queue is over its bound by a batch."""
        with self._lock:
            self._queue.extendleft(reversed(rows))
            self._count(rows, 1)
            self._pending = 0

    def _count(self, rows: Sequence[_Row], sign: int) -> None:
        for row in rows:
            self._all_bytes += sign * row.size
            self._rows[row.stream] += sign
            self._bytes[row.stream] += sign * row.size


def _passes(reply: Any) -> bool:
    return isinstance(reply, Fault) and reply.code in PASSING
