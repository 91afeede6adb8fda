"""Load that retries: every id until it is answered 202, whatever happens; and the oracle for it.

What lives here: clients that never give up, and the judgement. What must not: faults, and when they come.

    every valid id that was sent      in the stream, exactly once, once the load has finished
    anything else                     not in the stream

Half of the clients are impatient: they hang up before a slow answer, and send the same ids again while the first
attempt may still be under way. And each client sends now and then again what was answered 202, as one does that has
crashed before it noted the answer.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tests.faults import content
from tests.faults.load import (
    ANSWER_SECONDS,
    CLIENTS,
    PACE_SECONDS,
    REFUSED,
    REFUSED_SECONDS,
    RESET,
    TIMEOUT,
    Answer,
    Load,
    exchange,
    request_body,
    understand,
    without,
)
from tests.faults.oracle import event_id_of
from tests.support import DEADLINE_SECONDS

IMPATIENT = "hung up"
"""Stands for a reason where the client did not wait for the answer."""
IMPATIENT_SECONDS = 0.25
"""How long an impatient client waits: less than a commit takes while the store is away."""
RETRY_SECONDS = 0.05
"""Pause before an attempt is repeated."""
FORGETFUL_EVERY = 10
"""Each tenth request is sent once more after its 202."""
DONE_STATUSES = frozenset((202, 422))
"""A request of which all records are invalid is answered 422, for ever."""


class OnceVerdict(NamedTuple):
    """Counts of records. All but the first two must be 0."""

    sent: int
    """Valid ids, each of them answered 202."""
    retried: int
    """Attempts after the first one."""
    unanswered: int
    """Valid ids that no 202 has named."""
    missing: int
    doubled: int
    strangers: int
    altered: int

    def faults(self) -> str:
        """What breaks the promise, in words; empty if nothing does."""
        named = self._asdict()
        return ", ".join(f"{named[name]} {name}" for name in self._fields[2:] if named[name])


class Retrying(Load):
    """As ``Load``; ``stop`` lets no new ids begin, and ``finish`` returns once each has its 202."""

    def __init__(
        self, name: str, address: Callable[[], tuple[str, int]], clients: int = CLIENTS, pace: float = PACE_SECONDS
    ) -> None:
        super().__init__(name, address, clients, pace)
        self.valid: set[str] = set()
        """Every id that must be stored."""
        self.promised: set[str] = set()
        self.retried = 0
        self._given_up = threading.Event()
        self._guard = threading.Lock()

    def stop(self) -> None:
        """Let no new ids begin. What is under way goes on: the server may be away."""
        self._stop.set()

    def finish(self) -> None:
        """Wait until every id is answered 202. Raises AssertionError if some never are."""
        self._stop.set()
        deadline = time.monotonic() + DEADLINE_SECONDS
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        alive = [thread for thread in self._threads if thread.is_alive()]
        self._given_up.set()
        for thread in alive:
            thread.join()
        assert not alive, f"{len(alive)} clients still retry after {DEADLINE_SECONDS:.0f} s"

    def abandon(self) -> None:
        """End all clients, whatever they wait for."""
        self._stop.set()
        self._given_up.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def verdict(self, lines: Iterable[bytes]) -> OnceVerdict:
        """Judge the stream's lines; after ``finish``."""
        count = Counter[str]()
        altered = 0
        for line in lines:
            event_id = event_id_of(line)
            count[event_id] += 1
            altered += line != content.line(event_id)
        return OnceVerdict(
            sent=len(self.valid),
            retried=self.retried,
            unanswered=len(self.valid - self.promised),
            missing=len(self.valid - count.keys()),
            doubled=sum(times > 1 for times in count.values()),
            strangers=len(count.keys() - self.valid),
            altered=altered,
        )

    def _client(self, number: int) -> None:
        patience = IMPATIENT_SECONDS if number % 2 else ANSWER_SECONDS
        connection: socket.socket | None = None
        for count in itertools.count():
            if self._stop.is_set():
                break
            ids, body, invalid = request_body(f"{self.name}-{number}-{count}", count)
            valid = without(ids, invalid)
            with self._guard:
                self.valid.update(valid)
            left = 2 if count % FORGETFUL_EVERY == 0 else 1  # 202s to get
            first = True
            while left and not self._given_up.is_set():
                if not first:
                    with self._guard:
                        self.retried += 1
                answer, connection = self._attempt(connection, ids, body, invalid, patience)
                first = False
                self.answers.append(answer)
                if answer.status in DONE_STATUSES:
                    left -= 1
                    with self._guard:
                        self.promised.update(answer.promised)
                else:
                    self._given_up.wait(REFUSED_SECONDS if answer.reason == REFUSED else RETRY_SECONDS)
            self._stop.wait(self._pace)
        if connection is not None:
            connection.close()

    def _attempt(
        self,
        connection: socket.socket | None,
        ids: tuple[str, ...],
        body: bytes,
        invalid: tuple[str, ...],
        patience: float,
    ) -> tuple[Answer, socket.socket | None]:
        """Send a request, on a new connection if there is none; the answer, and the connection if it goes on."""
        began = time.time()
        if connection is None:
            try:
                connection = socket.create_connection(self._address(), ANSWER_SECONDS)
            except OSError:
                return Answer(0, REFUSED, began, time.time(), (), ids, ()), None
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(patience)
        unknown = without(ids, invalid)
        try:
            status, answer_body, keep = exchange(connection, body)
        except TimeoutError:
            reason = TIMEOUT if patience == ANSWER_SECONDS else IMPATIENT
            answer, keep = Answer(0, reason, began, time.time(), (), invalid, unknown), False
        except OSError:
            answer, keep = Answer(0, RESET, began, time.time(), (), invalid, unknown), False
        else:
            answer = understand(status, answer_body, ids, invalid, began)
        if keep:
            return answer, connection
        connection.close()
        return answer, None
