"""The offenders: what one client, or a few, can do to everybody else. Prebuilt bytes over raw sockets, few threads.

What lives here: their requests and how they send them. What must not: ordinary clients (``bench.ordinary``), servers,
what a row wants.

Each takes connections and returns what became of its requests. Those that send "without pause" do so until ``seconds``
are over; the others send what they have at once, and return when all is answered.
"""

from __future__ import annotations

import collections
import contextlib
import gzip
import json
import re
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.workers import HEALTH

BIG_BULK_BYTES = 5_000_000
"""As in the mixed load of ``bench.compare``."""
BIG_BULK_RECORD_BYTES = 467
"""Of each of its records: the payload of the article."""
ANSWER_SECONDS_MAX = 180.0
"""How long an offender waits for one answer: it may be the last of a hundred, on a machine that is busy."""
PACE_SECONDS = 0.01
"""Pause of a client that asks for a level, so that refusals that come at once are no flood."""
BAD_LINES = 49_999
"""Lines ``0`` of a small body that is much work: with its one record, as many as a bulk may have."""
FULL_BULK_RECORDS, FULL_BULK_RECORD_BYTES = 50_000, 140
TINY_CHUNK = b"1\r\n \r\n"
"""One byte of a chunked body. A space, which JSON allows before its text."""
TINY_CHUNKS = 500_000
"""Of one body: 3 MB on the wire."""
READ_BYTES = 1 << 18
PIPELINE_STEPS = 8
"""Writes in which a pipelining client sends what it may send ahead: it sends on before all of it is answered."""
_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3})")
_STATUS_LINE_BYTES = 12
MARKED_SERVICE = "offender"
"""The service of every record that an offender sends, so that its records can be told from the others'."""


def marked(**members: object) -> bytes:
    """Return a small record, as JSON, with these members changed."""
    value = {
        "event_id": "e-1",
        "timestamp": "2026-01-31T23:59:59.123Z",
        "service": MARKED_SERVICE,
        "message": "m",
        "metadata": {},
    }
    return json.dumps({**value, **members}, separators=(",", ":")).encode()


def marked_bytes(size: int, **members: object) -> bytes:
    """Return a record of ``size`` bytes, which its message fills."""
    return marked(message="m" * (size - len(marked(message="", **members))), **members)


def post(body: bytes, **headers: str) -> bytes:
    """Return the bytes of a POST /ingest of JSON, or as ``headers`` say (``_`` for ``-``)."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {"Host": "bench", "Content-Type": "application/json", **named, "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST /ingest HTTP/1.1\r\n{lines}\r\n".encode() + body


def chunked(body: bytes, chunks: bytes = b"") -> bytes:
    """Return a POST with ``body`` as the last chunk of a chunked body, behind ``chunks``."""
    head = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + chunks + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def zipped(body: bytes) -> bytes:
    """Return a POST of a gzip body of NDJSON."""
    return post(gzip.compress(body, 9, mtime=0), Content_Type="application/x-ndjson", Content_Encoding="gzip")


def bad_lines() -> bytes:
    """Return a small gzip body of one good record and 49,999 lines that are none."""
    return zipped(marked() + b"\n0" * BAD_LINES)


def full_bulk() -> bytes:
    """Return a bulk of 50,000 records of 140 bytes as gzip: as many as a bulk may have, 7 MB as plain text."""
    return zipped(b"\n".join([marked_bytes(FULL_BULK_RECORD_BYTES)] * FULL_BULK_RECORDS))


def big_bulk() -> bytes:
    """Return an NDJSON bulk of 5 MB, as the mixed load has it."""
    records = (BIG_BULK_BYTES + 1) // (BIG_BULK_RECORD_BYTES + 1)
    lines = [marked_bytes(BIG_BULK_RECORD_BYTES, metadata={f"key-{n}": "some value" for n in range(10)})] * records
    return post(b"\n".join(lines), Content_Type="application/x-ndjson")


@dataclass
class Seen:
    """What became of an offender's requests. ``seconds``: from each one's first byte to the end of its answer."""

    statuses: dict[int, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    sent_bytes: int = 0
    took: float = 0.0

    @property
    def answered(self) -> int:
        """Answers of any status."""
        return sum(self.statuses.values())

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.answered / self.took if self.took else 0.0


class _StatusLines:
    """The statuses in a sequence of answers, however reads split them. No body holds what looks like a status line."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[int]:
        """Take bytes; return the statuses whose lines have begun since."""
        text, end = self._rest + data, 0
        found = []
        for match in _STATUS_LINE.finditer(text):
            found.append(int(match[1]))
            end = match.end()
        self._rest = text[max(end, len(text) - _STATUS_LINE_BYTES + 1) :]
        return found


def read_answer(connection: socket.socket) -> int:
    """Read one answer and return its status; 0 where the connection ends or nothing comes in time."""
    connection.settimeout(ANSWER_SECONDS_MAX)
    data = bytearray()
    try:
        while (end := data.find(b"\r\n\r\n")) < 0:
            if not (piece := connection.recv(READ_BYTES)):
                return 0
            data += piece
        head = bytes(data[:end]).lower()
        left = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]) - (len(data) - end - 4)
        while left > 0:
            if not (piece := connection.recv(READ_BYTES)):
                return 0
            left -= len(piece)
    except OSError:
        return 0
    return int(head.split(b" ", 2)[1])


def _together(connections: list[socket.socket], work: Callable[[socket.socket, Seen], None]) -> Seen:
    """Run ``work`` for each connection in a thread of its own; return what all of them saw."""
    seen = [Seen() for _ in connections]
    threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in zip(connections, seen, strict=True)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses: collections.Counter[int] = collections.Counter()
    for one in seen:
        statuses.update(one.statuses)
    return Seen(
        dict(statuses),
        [seconds for one in seen for seconds in one.seconds],
        sum(one.sent_bytes for one in seen),
        time.monotonic() - began,
    )


def repeat(connections: list[socket.socket], request: bytes, seconds: float, pace: float = 0.0) -> Seen:
    """Send the request on each connection again and again, each after the answer to the one before."""
    ends = time.monotonic() + seconds

    def work(connection: socket.socket, seen: Seen) -> None:
        while (began := time.monotonic()) < ends:
            if not _once(connection, request, seen, began):
                return
            if pace:
                time.sleep(max(0.0, pace - (time.monotonic() - began)))

    return _together(connections, work)


def at_once(connections: list[socket.socket], request: bytes) -> Seen:
    """Send the request on all connections, then await every answer."""

    def work(connection: socket.socket, seen: Seen) -> None:
        _once(connection, request, seen, time.monotonic())

    return _together(connections, work)


def _once(connection: socket.socket, request: bytes, seen: Seen, began: float) -> bool:
    try:
        connection.sendall(request)
        status = read_answer(connection)
    except OSError:
        status = 0
    seen.statuses[status] = seen.statuses.get(status, 0) + 1
    seen.seconds.append(time.monotonic() - began)
    seen.sent_bytes += len(request)
    return status != 0


def tiny_chunks(connections: list[socket.socket], seconds: float) -> Seen:
    """Send bodies of one-byte chunks on all connections for ``seconds``, as fast as they are taken, from one thread."""
    head = (
        b"POST /ingest HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    record = marked()
    block = head + TINY_CHUNK * TINY_CHUNKS + b"%x\r\n%b\r\n0\r\n\r\n" % (len(record), record)
    return _pour(connections, block, seconds)


def unread_pipeline(connections: list[socket.socket], seconds: float) -> Seen:
    """Send GET /healthz without end for ``seconds``, as fast as it is taken, and never read an answer.

    Each has an empty chunked body: a server may not know before the next read that there is nothing to wait for.
    """
    request = HEALTH.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    return _pour(connections, request * (READ_BYTES // len(request)), seconds, reads=False)


def _pour(connections: list[socket.socket], block: bytes, seconds: float, *, reads: bool = True) -> Seen:
    """Write ``block`` over and over on each connection while it is taken; answers are read and counted by status."""
    seen, view, at = Seen(), memoryview(block), dict.fromkeys(connections, 0)
    lines = {connection: _StatusLines() for connection in connections}
    statuses: collections.Counter[int] = collections.Counter()
    began = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_WRITE | (selectors.EVENT_READ if reads else 0), connection)
        while (left := began + seconds - time.monotonic()) > 0 and selector.get_map():
            for key, events in selector.select(left):
                connection = key.data
                try:
                    if events & selectors.EVENT_WRITE:
                        sent = connection.send(view[at[connection] : at[connection] + READ_BYTES])
                        at[connection] = (at[connection] + sent) % len(block)
                        seen.sent_bytes += sent
                    if events & selectors.EVENT_READ:
                        data = connection.recv(READ_BYTES)
                        if not data:
                            raise ConnectionResetError
                        statuses.update(lines[connection].feed(data))
                except BlockingIOError:
                    continue
                except OSError:
                    statuses[0] += 1
                    selector.unregister(connection)
    seen.statuses, seen.took = dict(statuses), time.monotonic() - began
    return seen


def pipeline(connection: socket.socket, request: bytes, total: int, depth: int, seconds: float) -> Seen:
    """Send ``total`` requests, at most ``depth`` ahead of their answers, for ``seconds`` at most; count the answers."""
    step = max(1, depth // PIPELINE_STEPS)
    block, ahead, over = request * step, threading.Semaphore(depth), threading.Event()

    def send() -> None:
        left = total
        while left:
            for _ in range(min(step, left)):
                ahead.acquire()
            if over.is_set():
                return
            with contextlib.suppress(OSError):  # the reader finds out
                connection.sendall(block[: len(request) * min(step, left)])
            left -= min(step, left)

    connection.settimeout(None)
    sender = threading.Thread(target=send, daemon=True)
    statuses: collections.Counter[int] = collections.Counter()
    lines, began = _StatusLines(), time.monotonic()
    sender.start()
    while sum(statuses.values()) < total and (left := began + seconds - time.monotonic()) > 0:
        if not select.select([connection], [], [], left)[0]:
            break
        data = b""
        with contextlib.suppress(OSError):
            data = connection.recv(READ_BYTES)
        if not data:
            statuses[0] += 1
            break
        if new := lines.feed(data):
            statuses.update(new)
            ahead.release(len(new))
    seen = Seen(dict(statuses), took=time.monotonic() - began)
    over.set()
    ahead.release(depth)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # ends a send under way
    sender.join()
    connection.close()
    return seen
