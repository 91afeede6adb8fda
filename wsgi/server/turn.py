"""Turns: call the application for every request that is ready; then iterate the responses.

What lives here: the one rule of the server. PEP 3333 lets an application do its work in the call or in the iteration,
so one that collects in the first and commits in the second pays for one commit a turn. What must not: how bytes become
a request (``wsgi.server.connection``), how a response is written (``wsgi.server.exchange``).

uvloop reads every readable socket, then runs what ``call_soon`` got: so the first request to arrive schedules the turn,
and all others of that poll are in it. A request with a big body gets a turn of its own, alternating with the turns of
the others: these wait for its CPU time once, not for its queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from wsgi.server.connection import Connection
from wsgi.server.shared import ServerState

BEAT_SECONDS = 1
"""Seconds between heartbeats: gunicorn's timeout, whose least value is 1 s, kills a worker without one."""


class Turn:
    """Run turns over the queue in ``server``.

    ``app``: the WSGI application. ``notify``: gunicorn's heartbeat. ``count``: called with the number of requests of
    each turn.
    """

    def __init__(
        self, server: ServerState, app: Any, *, notify: Callable[[], None], count: Callable[[int], None]
    ) -> None:
        self.server, self.app, self._notify, self._count = server, app, notify, count
        self._big_is_next = False
        self._beat_due = 0.0
        server.run_turn = self.run

    def beat(self) -> None:
        """Give a heartbeat: a worker that is answering requests is not stuck, however long its turn is."""
        self._notify()
        self._beat_due = time.monotonic() + BEAT_SECONDS

    def run(self) -> None:
        """Run one turn."""
        server = self.server
        called = self._call(self._batch())
        monotonic = time.monotonic
        for connection, result in called:
            server.clock = clock = monotonic()
            if clock > self._beat_due:
                self.beat()
            connection.answer(result)
        if server.arrived or server.big:
            server.call_soon(self.run)
        else:
            server.scheduled = False
        self._count(len(called))

    def _batch(self) -> list[Connection]:
        """Take the connections of this turn off the queue."""
        server = self.server
        if server.big and (self._big_is_next or not server.arrived):
            self._big_is_next = False
            return [server.big.popleft()]
        batch, server.arrived = server.arrived, []
        self._big_is_next = True
        return batch

    def _call(self, batch: list[Connection]) -> list[tuple[Connection, Iterable[bytes]]]:
        """Call the application for each request; return what it returned."""
        server, app, monotonic = self.server, self.app, time.monotonic
        observer = server.observer
        called: list[tuple[Connection, Iterable[bytes]]] = []
        for connection in batch:
            server.clock = clock = monotonic()
            if clock > self._beat_due:
                self.beat()
            exchange = connection.exchange
            data, head = connection.data, exchange.head
            environ: dict[str, Any] | None
            if len(data) == head.total and data.startswith(head.raw):
                # PERF: this client's last head again, byte for byte: nothing is parsed (see wsgi.server.head).
                environ = head.environ.copy()
                environ["REMOTE_ADDR"] = connection.remote_addr
                environ["REMOTE_PORT"] = connection.remote_port
                environ["wsgi.input"] = BytesIO(data[head.size :])
            else:
                environ = connection.take()
                if environ is None:
                    continue
            try:
                if observer is not None:
                    exchange.seen, exchange.began = environ, clock
                    observer.called(environ)
                called.append((connection, app(environ, exchange.start_response)))
            except Exception:
                connection.broken()
        return called
