"""Turns: call the application for every request that is ready; then iterate the responses.

What lives here: the one rule of the server, and the order within a turn. PEP 3333 lets an application do its work in
the call or in the iteration, so one that collects in the first and commits in the second pays for one commit a turn.
What must not: how bytes become a request (``wsgi.server.connection``), how a response is written
(``wsgi.server.exchange``).

uvloop reads every readable socket, then runs what ``call_soon`` got: so the first request to arrive schedules the turn,
and all others of that poll are in it. A turn

1. calls the application for the requests that are ready,
2. runs the callbacks of watched descriptors (``wsgi.server.waiting``),
3. iterates the answers that waited for a future which is done now, then the new ones,
4. gives at most SLOW_SECONDS to slow work (``wsgi.server.slow``).
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
SLOW_SECONDS = 0.002
"""Seconds of slow work in a turn; one step may overshoot. Everybody else waits for it, and it pays for its turn."""


Called = list[tuple[Connection, Iterable[bytes]]]
Waits = dict[Any, list[Connection]]


class Turn:
    """Run turns over the queues in ``server``.

    ``app``: the WSGI application. ``notify``: gunicorn's heartbeat. ``count``: called with the number of requests of
    each turn.
    """

    def __init__(
        self, server: ServerState, app: Any, *, notify: Callable[[], None], count: Callable[[int], None]
    ) -> None:
        self.server, self.app, self._notify, self._count = server, app, notify, count
        self._beat_due = 0.0
        server.run_turn, server.call_one = self.run, self.call_one

    def beat(self) -> None:
        """Give a heartbeat: a worker that is answering requests is not stuck, however long its turn is."""
        self._notify()
        self._beat_due = time.monotonic() + BEAT_SECONDS

    def run(self) -> None:
        """Run one turn."""
        server = self.server
        monotonic = time.monotonic
        try:
            batch, server.arrived = server.arrived, []
            called, waiting = self._call(batch) if batch else ([], {})
            if server.noted:
                noted, server.noted = server.noted, []
                for watch, event in noted:
                    watch.call(event)
            if server.resumed:
                resumed, server.resumed = server.resumed, []
                for connection in resumed:
                    server.clock = clock = monotonic()
                    if clock > self._beat_due:
                        self.beat()
                    connection.resume()
            for future, connections in waiting.items():
                self._wait(future, connections)
            for connection, result in called:
                server.clock = clock = monotonic()
                if clock > self._beat_due:
                    self.beat()
                connection.answer(result)
            if called or waiting:
                self._count(len(called) + sum(map(len, waiting.values())))
            if server.slow:
                self._work()
        finally:
            server.scheduled = False
            if server.arrived or server.slow or server.resumed or server.noted:
                server.schedule()

    def _call(self, batch: list[Connection]) -> tuple[Called, Waits]:
        """Call the application for each request; return what it returned, apart what waits already."""
        server, app, monotonic = self.server, self.app, time.monotonic
        observer = server.observer
        called: Called = []
        waiting: Waits = {}
        for connection in batch:
            server.clock = clock = monotonic()
            if clock > self._beat_due:
                self.beat()
            exchange, inbox = connection.exchange, connection.inbox
            data, at, head = inbox.data, inbox.at, exchange.head
            environ: dict[str, Any] | None
            if 0 <= head.total <= len(data) - at and data.startswith(head.raw, at):
                # PERF: this client's last head again, byte for byte: nothing is parsed (see wsgi.server.head).
                environ = head.template.copy()
                environ["REMOTE_ADDR"] = connection.remote_addr
                environ["REMOTE_PORT"] = connection.remote_port
                inbox.at = stop = at + head.total
                environ["wsgi.input"] = BytesIO(data[at + head.size : stop])
            else:
                environ = connection.take()
                if environ is None:
                    continue
            try:
                if observer is not None:
                    exchange.seen, exchange.began = environ, clock
                    observer.called(environ)
                server.awaited = None
                result = app(environ, exchange.start_response)
                if server.awaited is None:
                    called.append((connection, result))
                else:
                    waiting.setdefault(server.awaited, []).append(connection)
                    exchange.result, connection.waits = result, True
            except Exception:
                connection.broken()
        return called, waiting

    def _wait(self, future: Any, connections: list[Connection]) -> None:
        """Have the answers of ``connections`` iterated once ``future`` is done."""
        try:
            self.server.wait_for(future, connections)
        except Exception:
            for connection in connections:
                connection.broken()

    def call_one(self, connection: Connection) -> None:
        """Call and answer the request of one connection, as slow work."""
        called, waiting = self._call([connection])
        for _, result in called:
            connection.answer(result)
        for future in waiting:
            self._wait(future, [connection])
        self._count(len(called) + len(waiting))

    def _work(self) -> None:
        """Do slow work until its share of this turn is used up; at least one step."""
        server, monotonic = self.server, time.monotonic
        slow = server.slow
        server.clock = clock = monotonic()
        end = clock + SLOW_SECONDS
        while slow and clock < end:
            if clock > self._beat_due:
                self.beat()
            slow.step()
            server.clock = clock = monotonic()
