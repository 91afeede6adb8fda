"""The phased worker: a gunicorn worker class (``-k wsgi.worker.PhasedWorker``) on uvloop.

What lives here: the process: signals, the tick and its sweep, the drain. What must not: anything of one application
(any WSGI application runs under it), and how bytes become requests (``wsgi.server.connection``, ``wsgi.server.head``).

Its one rule is in ``wsgi.server.turn``. Deadlines and memory are the sweep's: once a second over all connections.
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
from functools import partial
from typing import Any, ClassVar

import uvloop
from gunicorn.workers.base import Worker

from wsgi.server.acceptor import Acceptor
from wsgi.server.balance import board_of
from wsgi.server.deadlines import sweep
from wsgi.server.early import abandon, early_of
from wsgi.server.limits import Limits
from wsgi.server.observing import Observer
from wsgi.server.refusal import Refuse, refuse_as_text
from wsgi.server.shared import ServerState
from wsgi.server.states import BODY, BUSY, CLOSING, HEAD, IDLE, STREAM
from wsgi.server.turn import Turn
from wsgi.server.waiting import Waiting


class PhasedWorker(Worker):  # type: ignore[misc]  # gunicorn has no types
    """See the module. Set ``limits`` and ``refuse`` in a subclass, or with ``configure``."""

    limits: ClassVar[Limits] = Limits()
    refuse: ClassVar[Refuse] = staticmethod(refuse_as_text)
    loop: Any

    @classmethod
    def configure(cls, *, limits: Limits | None = None, refuse: Refuse | None = None) -> None:
        """Set the limits, or how refusals are rendered, before the workers start (in gunicorn.conf.py)."""
        if limits is not None:
            cls.limits = limits
        if refuse is not None:
            cls.refuse = staticmethod(refuse)

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse a configuration that the worker cannot honor; gunicorn calls it before the fork. Raises SystemExit."""
        if cfg.proxy_protocol not in (False, None, "off"):
            log.error("proxy_protocol is not supported by this worker: let the proxy send X-Forwarded-* headers")
            sys.exit(1)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Find the memory that the workers share; gunicorn calls it in the master."""
        super().__init__(*args, **kwargs)
        self.board = board_of(self.ppid)

    def init_process(self) -> None:
        """Create the loop first, for init_signals; gunicorn calls it in the child."""
        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        super().init_process()

    def init_signals(self) -> None:
        """Give signals gunicorn's meanings; those that end the worker take effect between two turns.

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
        """Handle signals in the running loop, and those that came before it ran."""
        for number, handler in self.signal_handlers.items():
            self.loop.add_signal_handler(number, handler)
        for number in self.early_signals:
            self.signal_handlers[number]()

    # The life of the process.

    def run(self) -> None:
        """Serve until drained."""
        raise_descriptor_limit(self.limits.connections_max)
        self.server = server = ServerState(
            self.limits,
            call_soon=self.loop.call_soon,
            log=self.log,
            refuse=type(self).refuse,
            observer=self._observer(),
            keepalive_seconds=self.cfg.keepalive,
        )
        server.heads.tick(time.time())
        server.early = early_of(server, self.wsgi)
        Waiting(server, self.loop)
        self.turn = Turn(server, self.wsgi, notify=self.notify, count=self._count)
        self.draining = False
        self.drain_deadline = 0.0
        self.collected_at, self.collected_nr = server.clock, self.nr
        gc.disable()
        if gc.get_freeze_count() == 0:
            gc.collect()
            gc.freeze()
        self.loop.set_exception_handler(self._log_bug)
        self.acceptor = Acceptor(server, self.loop, self.cfg, self.board)
        for listener in self.sockets:
            self.acceptor.listen(listener)
        self.loop.call_soon(self._take_signals)
        self.loop.call_soon(self.tick)
        try:
            self.loop.run_forever()
        finally:
            self.acceptor.close()
            for connection in list(server.connections):
                if connection.state == BODY:
                    abandon(connection)
                if connection.transport is not None:
                    connection.transport.abort()
            self.loop.close()

    def _log_bug(self, loop: Any, context: dict[str, Any]) -> None:
        """Log an exception that reached the loop: asyncio's own logger is none of gunicorn's."""
        error = context.get("exception")
        if isinstance(error, OSError):  # A socket's error is the network's or the client's doing.
            self.log.debug("in the event loop: %s: %s", context["message"], error)
        else:
            self.log.error("in the event loop: %s", context["message"], exc_info=error)

    def _observer(self) -> Observer | None:
        """Return an observer if there is an access log or a hook that is not gunicorn's default."""
        access = self.log.access if self.log.access_log_enabled else None
        pre_request, post_request = self._hook("pre_request"), self._hook("post_request")
        if access is None and pre_request is None and post_request is None:
            return None
        return Observer(access, pre_request, post_request)

    def _hook(self, name: str) -> Any:
        """Return a hook of the configuration, or None for gunicorn's default, which does nothing."""
        hook = self.cfg.settings[name].get()
        return None if getattr(hook, "__module__", None) == "gunicorn.config" else partial(hook, self)

    def _count(self, requests: int) -> None:
        """Count the requests of a turn; start the drain at max_requests."""
        self.nr += requests
        if self.nr >= self.max_requests and not self.draining:
            self.log.info("Autorestarting worker after current request.")
            self.begin_drain()

    # The sweep.

    def tick(self) -> None:
        """Once a second, between turns: heartbeat and date; then the sweep, once what has arrived is read."""
        self.turn.beat()
        self.loop.call_later(1, self.tick)
        self.server.heads.tick(time.time())
        self.acceptor.tick()
        if self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            self.begin_drain()
        elif not self.alive:  # gunicorn's reloader, from its thread.
            self.begin_drain()
        # A timer runs before uvloop polls, and so does what it calls soon; what that calls soon runs after.
        self.loop.call_soon(self.loop.call_soon, self.sweep)

    def sweep(self) -> None:
        """Deadlines, memory, collection."""
        server = self.server
        server.clock = time.monotonic()
        for connection in list(server.connections):
            sweep(connection, server.clock)
        server.held.shed(server.connections)
        if self.nr != self.collected_nr and server.clock - self.collected_at >= self.limits.collect_every_seconds:
            gc.collect()
            self.collected_at, self.collected_nr = server.clock, self.nr

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
        self.draining = self.server.closes = True
        self.drain_deadline = time.monotonic() + max(self.cfg.graceful_timeout - self.limits.drain_margin_seconds, 0.5)
        self.acceptor.accept_all()
        self.acceptor.close()
        self.loop.call_later(DRAIN_STEP_SECONDS, self._drain)

    def _drain(self) -> None:
        """Close what is idle and has nothing in the kernel's buffer; end once nothing is left, or time is up."""
        self.server.clock = clock = time.monotonic()
        idle_seconds = self.limits.drain_idle_seconds
        for connection in list(self.server.connections):
            late = connection.state == CLOSING and clock - connection.since > DRAIN_LINGER_SECONDS
            if late and connection.transport is not None and not connection.transport.get_write_buffer_size():
                connection.transport.abort()  # The answer is out.
        idle = {
            c.transport.get_extra_info("socket").fileno(): c
            for c in self.server.connections
            if c.state == IDLE and clock - c.since >= idle_seconds
        }
        poll = select.poll()
        for fileno in idle:
            poll.register(fileno, select.POLLIN)
        readable = {fileno for fileno, _ in poll.poll(0)}
        for fileno, connection in idle.items():
            if fileno not in readable and connection.transport is not None:
                connection.transport.close()
        if not (self.server.connections or self.acceptor.accepting) or time.monotonic() > self.drain_deadline:
            left = sum(connection.state in (HEAD, BODY, BUSY, STREAM) for connection in self.server.connections)
            if left:
                self.log.warning("graceful_timeout: %d requests were cut off", left)
            self.loop.stop()
        else:
            self.loop.call_later(DRAIN_STEP_SECONDS, self._drain)


OTHER_DESCRIPTORS = 256
"""File descriptors of a worker beside its connections: logs, listeners, what the application opens."""
DRAIN_STEP_SECONDS = 0.02
"""Between two looks at the idle connections: long enough for one poll of the loop to read what had arrived."""
DRAIN_LINGER_SECONDS = 0.5
"""How long an answered connection of a draining worker waits for its client to close: pools may take minutes."""


def raise_descriptor_limit(connections_max: int) -> None:
    """Raise the soft limit of file descriptors to what the connections need, as far as the hard limit goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + OTHER_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        wanted = min(hard, wanted)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
