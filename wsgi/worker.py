"""The phased worker: a gunicorn worker class (``-k wsgi.worker.PhasedWorker``) on uvloop.

What lives here: the process: accepting, turns, the sweep, the drain. What must not: Redis, Falcon, anything of Inlet
(any WSGI application runs under it), and how bytes become requests (``wsgi.connection``, ``wsgi.http11``).

Its one rule: in each turn of the loop it **calls the application for every request that is ready, and only then
iterates any response**. PEP 3333 lets an application do its work at either step, so one that collects in the first and
commits in the second pays for one commit a turn.

uvloop reads every readable socket, then runs what ``call_soon`` got: so the first request to arrive schedules the turn,
and all others of that poll are in it. A request with a big body gets a turn of its own, alternating with the turns of
the others: these wait for its CPU time once, not for its queue.

Deadlines and memory are the sweep's: once a second over all connections, so no request pays for a timer.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import select
import signal
import sys
import time
from collections import deque
from datetime import timedelta
from io import BytesIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import uvloop
from gunicorn.workers.base import Worker

from wsgi.acceptor import Acceptor
from wsgi.exchange import BODY, BUSY, CLOSING, HEAD, IDLE, STREAM
from wsgi.http11 import HttpError
from wsgi.response import Heads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi.connection import Connection
    from wsgi.exchange import Exchange


class PhasedWorker(Worker):  # type: ignore[misc]  # gunicorn has no types
    """See the module. Every limit is a class attribute; a subclass, or ``configure``, sets another."""

    payload_bytes_max: ClassVar[int] = 8_388_608
    """A body's bytes; over it 413, before reading where the length is given."""
    big_bytes: ClassVar[int] = 65_536
    """A body over this many bytes gets a turn of its own: it costs the others milliseconds, not microseconds."""
    head_bytes_max: ClassVar[int] = 65_536
    """Request line and headers together, in bytes; over it 431. gunicorn's limit_request_* bind first as a rule."""
    unread_bytes_max: ClassVar[int] = 65_536
    """Bytes behind the request in hand (pipelined) before reading stops; one read (256 KiB in uvloop) may overshoot."""
    held_bytes_max: ClassVar[int] = 268_435_456
    """Bytes of bodies that came in several reads, all connections of the worker together; above it they wait unread."""
    gather_bytes_max: ClassVar[int] = 262_144
    """Bytes of a response gathered before its first write, and written on in one turn, before others have theirs."""
    connections_max: ClassVar[int] = 16_384
    """Connections a worker accepts; above it they stay in the listening socket's backlog for its siblings."""
    accepts_per_poll: ClassVar[int] = 4
    """Connections accepted before reading again: few, so that idle siblings get their share of a burst."""
    head_seconds: ClassVar[float] = 10
    """From a request's first byte, or from accept, to the end of its head; then 408."""
    body_idle_seconds: ClassVar[float] = 30
    """Longest wait for the next byte of a body; then 408."""
    body_grace_seconds: ClassVar[float] = 10
    """A body may take this long whatever its rate."""
    body_bytes_per_second_min: ClassVar[int] = 1_024
    """Mean rate of a body after the grace; under it 408. A modem's rate: slower ones are attacks."""
    write_seconds: ClassVar[float] = 30
    """A client that takes not one byte of its answer for this long is cut off."""
    linger_seconds: ClassVar[float] = 5
    """How long a closing connection still drops what arrives, so that the answer is read before a reset."""
    linger_bytes_max: ClassVar[int] = 16_777_216
    """How many bytes it drops at most: twice the largest body."""
    collect_every_seconds: ClassVar[float] = 10
    """Cyclic garbage is collected between turns, this often at most, and only after requests."""
    drain_margin_seconds: ClassVar[float] = 1
    """The drain ends this long before gunicorn's graceful_timeout, after which the master kills."""

    # Attributes read on the hot path are set in run().
    loop: Any

    @classmethod
    def configure(cls, **limits: float) -> None:
        """Set limits by name, in gunicorn.conf.py. Raises ValueError for an unknown name or one under 1."""
        for name, value in limits.items():
            if not isinstance(getattr(cls, name, None), (int, float)) or value < 1:
                raise ValueError(f"not a limit of the worker: {name}={value}")
            setattr(cls, name, value)

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Called by gunicorn before the fork. Raises SystemExit where the worker cannot do what is asked."""
        if cfg.proxy_protocol not in (False, None, "off"):
            log.error("proxy_protocol is not supported by this worker: let the proxy send X-Forwarded-* headers")
            sys.exit(1)

    def init_process(self) -> None:
        """In the child: the loop first, for init_signals."""
        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        super().init_process()

    def init_signals(self) -> None:
        """gunicorn's meanings; those that end the worker take effect between two turns.

        uvloop loses a signal that comes before the loop runs, so until then they are only noted. ABRT stays a plain
        handler: the master sends it to a worker whose application does not return.
        """
        self.signal_handlers = {
            signal.SIGTERM: self.begin_drain,
            signal.SIGQUIT: self.quit,
            signal.SIGINT: self.quit,
            signal.SIGUSR1: self.log.reopen_files,
            signal.SIGWINCH: lambda: None,
        }
        self.early_signals: list[signal.Signals] = []
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for number in self.signal_handlers:
            signal.signal(number, lambda number, frame: self.early_signals.append(signal.Signals(number)))
        signal.signal(signal.SIGABRT, self.handle_abort)

    def _take_signals(self) -> None:
        """First thing in the running loop: handle signals there, and those that came before."""
        for number, handler in self.signal_handlers.items():
            self.loop.add_signal_handler(number, handler)
        for number in self.early_signals:
            self.signal_handlers[number]()

    # The life of the process.

    def run(self) -> None:
        """Serve until drained."""
        self._prepare()
        self.loop.set_exception_handler(self._log_bug)
        self.acceptor = Acceptor(self)
        for listener in self.sockets:
            self.acceptor.listen(listener)
        self.loop.call_soon(self._take_signals)
        self.loop.call_soon(self.tick)
        try:
            self.loop.run_forever()
        finally:
            self.acceptor.close()
            for connection in list(self.connections):
                if connection.transport is not None:
                    connection.transport.abort()
            self.loop.close()

    def _prepare(self) -> None:
        self.connections: set[Connection] = set()
        self.arrived: list[Connection] = []
        self.big: deque[Connection] = deque()
        self.starved: set[Exchange] = set()
        self.scheduled = self.draining = self.big_is_next = False
        self.held = 0
        self.drain_deadline = self.beat_due = 0.0
        self.closes = self.cfg.keepalive <= 0
        self.clock = time.monotonic()
        self.collected_at, self.collected_nr = self.clock, self.nr
        self.heads = Heads()
        self.heads.tick(time.time())
        self.plain = self.heads.plain
        self.keepalive_seconds: float = self.cfg.keepalive
        self.access_log: bool = self.log.access_log_enabled
        self.hooks = {name: self._hook(name) for name in ("pre_request", "post_request")}
        self.observed: bool = self.access_log or any(self.hooks.values())
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.connections_max + 256 if hard == resource.RLIM_INFINITY else min(hard, self.connections_max + 256)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        gc.disable()
        if gc.get_freeze_count() == 0:
            gc.collect()
            gc.freeze()

    def _log_bug(self, loop: Any, context: dict[str, Any]) -> None:
        """An exception that reached the loop: asyncio's own logger is none of gunicorn's."""
        self.log.error("in the event loop: %s", context["message"], exc_info=context.get("exception"))

    def _hook(self, name: str) -> Any:
        """A hook of the configuration, or None where it is gunicorn's default, which does nothing."""
        setting = self.cfg.settings[name]
        hook = setting.get()
        return None if getattr(hook, "__module__", None) == "gunicorn.config" else hook

    # Turns.

    def arrive(self, connection: Connection) -> None:
        """A connection has bytes for the next turn."""
        self.arrived.append(connection)
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.turn)

    def arrive_big(self, connection: Connection) -> None:
        """A connection has a complete request with a big body: it gets a turn of its own."""
        self.big.append(connection)
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.turn)

    def turn(self) -> None:
        """Call the application for every request that is ready; then iterate the responses."""
        if self.big and (self.big_is_next or not self.arrived):
            self.big_is_next = False
            batch = [self.big.popleft()]
        else:
            batch, self.arrived = self.arrived, []
            self.big_is_next = True
        app, observed, monotonic = self.wsgi, self.observed, time.monotonic
        called: list[tuple[Connection, Iterable[bytes]]] = []
        for connection in batch:
            self.clock = monotonic()
            if self.clock > self.beat_due:
                self._beat()
            data, head = connection.data, connection.head
            environ: dict[str, Any] | None
            if len(data) == head.total and data.startswith(head.raw):
                # PERF: this client's last head again, byte for byte: nothing is parsed (see wsgi.http11).
                environ = head.environ.copy()
                environ["REMOTE_ADDR"] = connection.remote_addr
                environ["REMOTE_PORT"] = connection.remote_port
                environ["wsgi.input"] = BytesIO(data[head.size :])
            else:
                environ = connection.take()
                if environ is None:
                    continue
            if observed:
                self._observe_call(connection, environ)
            try:
                called.append((connection, app(environ, connection.start)))
            except Exception:
                connection.broken()
        for connection, result in called:
            self.clock = monotonic()
            if self.clock > self.beat_due:
                self._beat()
            connection.answer(result)
        self.nr += len(called)
        if self.arrived or self.big:
            self.loop.call_soon(self.turn)
        else:
            self.scheduled = False
        if self.nr >= self.max_requests and not self.draining:
            self.log.info("Autorestarting worker after current request.")
            self.begin_drain()

    def _beat(self) -> None:
        """The heartbeat: a worker that gets on with its requests is not stuck, however long its turn is."""
        self.notify()
        self.beat_due = time.monotonic() + 1

    def _observe_call(self, connection: Exchange, environ: dict[str, Any]) -> None:
        """Only with an access log or a request hook."""
        connection.seen, connection.began = environ, time.monotonic()
        if self.hooks["pre_request"] is not None:
            self.hooks["pre_request"](self, _request(environ))

    def observe(self, connection: Exchange) -> None:
        """A response is done: access log and post_request, where there are any."""
        environ, connection.seen = connection.seen, {}
        status = connection.status or "500"
        response = SimpleNamespace(
            status=status, status_code=int(status[:3]), sent=connection.sent, headers=connection.headers
        )
        request = _request(environ)
        if self.access_log:
            self.log.access(response, request, environ, timedelta(seconds=time.monotonic() - connection.began))
        if self.hooks["post_request"] is not None:
            self.hooks["post_request"](self, request, environ, response)

    # Bounds.

    def hold(self, connection: Exchange, size: int) -> None:
        """Bytes of an unfinished body; over the bound the connection waits unread."""
        self.held += size
        if self.held > self.held_bytes_max:
            connection.pause_reading()
            self.starved.add(connection)

    def unhold(self, size: int) -> None:
        """A body is done with."""
        self.held -= size
        if self.starved and self.held <= self.held_bytes_max:
            waiting, self.starved = self.starved, set()
            for connection in waiting:
                connection.since = self.clock
                connection.resume_reading()

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        self.acceptor.resume()
        self.starved.discard(connection)

    def _shed(self) -> None:
        """Where only unfinished bodies fill the memory, none of them can finish: refuse the largest."""
        while self.starved and self.held > self.held_bytes_max and not self.big:
            largest = max(self.starved, key=lambda connection: connection.held)
            self.starved.discard(largest)
            largest.fail(HttpError(503, "overloaded", "too many unfinished bodies; send this one again"))

    # The sweep.

    def tick(self) -> None:
        """Once a second, between turns: heartbeat and date; then the sweep, once what has arrived is read."""
        self._beat()
        self.loop.call_later(1, self.tick)
        self.heads.tick(time.time())
        self.acceptor.resume()
        if self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            self.begin_drain()
        elif not self.alive:  # gunicorn's reloader, from its thread.
            self.begin_drain()
        # A timer runs before uvloop polls, and so does what it calls soon; what that calls soon runs after.
        self.loop.call_soon(self.loop.call_soon, self.sweep)

    def sweep(self) -> None:
        """Deadlines, memory, collection."""
        self.clock = time.monotonic()
        for connection in list(self.connections):
            connection.sweep(self.clock)
        self._shed()
        if self.nr != self.collected_nr and self.clock - self.collected_at >= self.collect_every_seconds:
            gc.collect()
            self.collected_at, self.collected_nr = self.clock, self.nr

    # The end.

    def quit(self) -> None:
        """QUIT and INT: at once, between two turns."""
        self.alive = False
        self.cfg.worker_int(self)
        self.loop.stop()

    def begin_drain(self) -> None:
        """TERM, max_requests, a lost master: accept what waits, answer what was sent, then end."""
        self.alive = False
        if self.draining:
            return
        self.draining = self.closes = True
        self.drain_deadline = time.monotonic() + max(self.cfg.graceful_timeout - self.drain_margin_seconds, 0.5)
        self.acceptor.accept_all()
        self.acceptor.close()
        self.loop.call_later(DRAIN_STEP_SECONDS, self._drain)

    def _drain(self) -> None:
        """Close what is idle and has nothing in the kernel's buffer; end once nothing is left, or time is up."""
        self.clock = time.monotonic()
        for connection in list(self.connections):
            if connection.state == CLOSING and self.clock - connection.since > DRAIN_LINGER_SECONDS:
                connection.finish()
        idle = {c.transport.get_extra_info("socket").fileno(): c for c in self.connections if c.state == IDLE}
        poll = select.poll()
        for fileno in idle:
            poll.register(fileno, select.POLLIN)
        readable = {fileno for fileno, _ in poll.poll(0)}
        for fileno, connection in idle.items():
            if fileno not in readable and connection.transport is not None:
                connection.transport.close()
        if not (self.connections or self.acceptor.accepting) or time.monotonic() > self.drain_deadline:
            left = sum(connection.state in (HEAD, BODY, BUSY, STREAM) for connection in self.connections)
            if left:
                self.log.warning("graceful_timeout: %d requests were cut off", left)
            self.loop.stop()
        else:
            self.loop.call_later(DRAIN_STEP_SECONDS, self._drain)


DRAIN_STEP_SECONDS = 0.02
"""Between two looks at the idle connections: long enough for one poll of the loop to read what had arrived."""
DRAIN_LINGER_SECONDS = 0.5
"""How long an answered connection of a draining worker waits for its client to close: pools may take minutes."""


def _request(environ: dict[str, Any]) -> SimpleNamespace:
    """What access logs and hooks of gunicorn read of a request."""
    headers = [(key[5:].replace("_", "-"), value) for key, value in environ.items() if key.startswith("HTTP_")]
    return SimpleNamespace(
        method=environ["REQUEST_METHOD"], uri=environ["RAW_URI"], path=environ["PATH_INFO"],
        query=environ["QUERY_STRING"], version=(1, int(environ["SERVER_PROTOCOL"][-1])), headers=headers,
    )  # fmt: skip
