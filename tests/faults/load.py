"""Load for the fault suite: clients with unique event ids, and a note of every answer.

What lives here: what was sent and what was answered. What must not: the store, and any judgement (``oracle``).

Each id is sent once, whatever the answer: so "at most once per attempt" is "at most once in the stream". What a record
holds follows from its id (``content``).
The clients are raw sockets on threads, paced: they share the machine's cores with the server under test.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import ujson

from tests.faults import content

CLIENTS = 8
PACE_SECONDS = 0.005
"""Pause of a client after each answer: some hundred requests a second in all, a fraction of what the server can do."""
ANSWER_SECONDS = 60.0
"""How long a client waits for an answer; over every deadline of the server: none at all is a fault."""
REFUSED_SECONDS = 0.02
"""Pause after a connection that could not be made."""
BULK_EVERY, BULK_RECORDS = 8, 5
"""Each 8th request is a bulk of 5 records, of which the second is invalid."""
INVALID_EVERY = 16
"""Each 16th request is one invalid record."""
NOTHING_STORED = frozenset(
    ("sink-unavailable", "sink-misconfigured", "durability-unavailable", "store-full", "backlog-full", "overloaded")
)
"""Reasons that say that nothing was stored (docs/protocol.md), unless the detail says how much was."""
RESET, TIMEOUT, REFUSED = "reset", "timeout", "no connection"
"""Stand for a reason where no answer came; the last one where nothing was sent either."""


class Answer(NamedTuple):
    """One attempt. Times are ``time.time()``, in seconds, so that they compare with a trace of another process."""

    status: int  # HTTP status; 0 where no answer came
    reason: str  # the problem's reason; empty with a 2xx; RESET, TIMEOUT or REFUSED
    began: float
    ended: float
    promised: tuple[str, ...]  # event ids that must be in the stream
    refused: tuple[str, ...]  # event ids that must not be in it
    unknown: tuple[str, ...]  # event ids that may be in it, once

    @property
    def seconds(self) -> float:
        """How long the client waited."""
        return self.ended - self.began


class Load:
    """Clients that POST to ``host:port`` between ``start`` and ``stop``; ``answers`` grows meanwhile."""

    def __init__(
        self, name: str, address: Callable[[], tuple[str, int]], clients: int = CLIENTS, pace: float = PACE_SECONDS
    ) -> None:
        self.answers: list[Answer] = []
        self.name, self._address, self._pace = name, address, pace
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(n,), daemon=True) for n in range(clients)]

    def start(self) -> None:
        """Let the clients go."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait for the answers under way, then return."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def note_reset(self, ids: tuple[str, ...], began: float) -> None:
        """Note a request that may have been sent, and whose connection ended without an answer."""
        self.answers.append(Answer(0, RESET, began, time.time(), (), (), ids))

    def since(self, moment: float) -> list[Answer]:
        """The answers that came at ``moment`` or later, to requests sent whenever."""
        return [answer for answer in list(self.answers) if answer.ended >= moment]

    def accepted(self, moment: float = 0.0) -> list[Answer]:
        """The 202s to requests sent at ``moment`` or later."""
        return [answer for answer in list(self.answers) if answer.status == 202 and answer.began >= moment]

    def _client(self, number: int) -> None:
        connection: socket.socket | None = None
        for count in itertools.count():
            if self._stop.is_set():
                break
            ids, body, invalid = request_body(f"{self.name}-{number}-{count}", count)
            began = time.time()
            if connection is None:
                try:
                    connection = socket.create_connection(self._address(), ANSWER_SECONDS)
                except OSError:
                    self.answers.append(Answer(0, REFUSED, began, time.time(), (), ids, ()))
                    self._stop.wait(REFUSED_SECONDS)
                    continue
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                status, answer_body, keep = exchange(connection, body)
            except TimeoutError:
                answer, keep = Answer(0, TIMEOUT, began, time.time(), (), invalid, without(ids, invalid)), False
            except OSError:
                answer, keep = Answer(0, RESET, began, time.time(), (), invalid, without(ids, invalid)), False
            else:
                answer = understand(status, answer_body, ids, invalid, began)
            self.answers.append(answer)
            if not keep:
                connection.close()
                connection = None
            self._stop.wait(self._pace)
        if connection is not None:
            connection.close()


def request_body(name: str, count: int) -> tuple[tuple[str, ...], bytes, tuple[str, ...]]:
    """The ``count``-th request of a client: its event ids, its bytes, and the ids of its invalid records."""
    if count % BULK_EVERY == BULK_EVERY - 1:
        ids = tuple(f"{name}-{index}" for index in range(BULK_RECORDS))
        invalid = ids[1:2]
    else:
        ids = (name,)
        invalid = ids if count % INVALID_EVERY == 1 else ()
    # Its time zone is missing, so the record is refused.
    wrong = {"timestamp": "2026-01-31T23:59:59"}
    return ids, post([{**content.sent(i), **(wrong if i in invalid else {})} for i in ids]), invalid


def post(records: list[dict[str, Any]]) -> bytes:
    """The bytes of a request with these records: NDJSON if there are several."""
    body = "\n".join(map(ujson.dumps, records)).encode()
    return http_post(body, b"application/x-ndjson" if len(records) > 1 else b"")


def http_post(body: bytes, content_type: bytes = b"") -> bytes:
    """The bytes of a POST /ingest."""
    return b"POST /ingest HTTP/1.1\r\nHost: faults\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        content_type or b"application/json",
        len(body),
        body,
    )


def exchange(connection: socket.socket, request: bytes) -> tuple[int, bytes, bool]:
    """Send a request and read its answer: status, body, whether the connection may be used again.

    Raises TimeoutError, or OSError where the connection ends before the answer does.
    """
    connection.sendall(request)
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _some(connection)
    head = data[:end].lower()
    fields = dict(line.partition(b":")[::2] for line in head.split(b"\r\n")[1:])
    length = int(fields[b"content-length"])
    body = data[end + 4 :]
    while len(body) < length:
        body += _some(connection)
    return int(head.split(b" ", 2)[1]), body, fields.get(b"connection", b"").strip() != b"close"


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    if not data:
        raise ConnectionResetError("the connection ended before the answer")
    return data


def understand(status: int, body: bytes, ids: tuple[str, ...], invalid: tuple[str, ...], began: float) -> Answer:
    """What an answer says of each of its records."""
    ended = time.time()
    document = ujson.loads(body)
    reason = str(document.get("reason", ""))
    if status == 202:
        refused = tuple(ids[error["index"]] for error in document.get("errors", ()))
        return Answer(status, reason, began, ended, without(ids, refused), refused, ())
    if status < 500 or (reason in NOTHING_STORED and "were stored" not in document.get("detail", "")):
        return Answer(status, reason, began, ended, (), ids, ())
    return Answer(status, reason, began, ended, (), invalid, without(ids, invalid))


def without(ids: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """``ids`` that are not in ``others``, in order."""
    return tuple(i for i in ids if i not in others) if others else ids


def summary(answers: list[Answer]) -> str:
    """The answers but successes and 422, most frequent first: ``503 sink-unavailable 12``."""
    counts = Counter(f"{a.status or ''} {a.reason}".strip() for a in answers if a.status not in (202, 422))
    return ", ".join(f"{what} {count}" for what, count in counts.most_common())
