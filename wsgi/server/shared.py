"""What all connections of a worker share: ``ServerState``.

What lives here: the clock, the limits, finished response heads, the queue of requests that wait for a turn, the account
of memory. What must not: the process (``wsgi.server.worker``), what is done with any of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from wsgi.server.held import HeldBytes
from wsgi.server.limits import Limits
from wsgi.server.observing import Observer
from wsgi.server.refusal import HttpError, Refuse, refuse_as_text
from wsgi.server.response import Heads


def _nothing() -> None:
    """Stand for a callback until its owner has set it."""


class ServerState:
    """The small object that connections and exchanges get instead of the worker.

    ``clock``: monotonic seconds, of the turn or sweep that runs. ``closes``: whether each connection ends after its
    answer. ``arrived`` and ``big``: the connections whose requests wait for a turn; ``run_turn`` is called soon after
    the first one. ``on_leave`` is called when a connection is gone, and there is room for another.
    """

    __slots__ = (
        "arrived", "big", "call_soon", "clock", "closes", "connections", "heads", "held", "keepalive_seconds", "limits",
        "log", "observer", "on_leave", "plain", "refuse", "run_turn", "scheduled",
    )  # fmt: skip

    def __init__(
        self,
        limits: Limits,
        *,
        call_soon: Callable[..., object],
        log: Any,
        refuse: Refuse = refuse_as_text,
        observer: Observer | None = None,
        keepalive_seconds: float = 2,
    ) -> None:
        self.limits, self.call_soon, self.log, self.refuse, self.observer = limits, call_soon, log, refuse, observer
        self.keepalive_seconds = keepalive_seconds
        self.closes = keepalive_seconds <= 0
        self.clock = time.monotonic()
        self.heads = Heads()
        self.plain = self.heads.plain
        self.held = HeldBytes(limits.held_bytes_max)
        self.connections: set[Any] = set()
        self.arrived: list[Any] = []
        self.big: deque[Any] = deque()
        self.scheduled = False
        self.run_turn: Callable[[], None] = _nothing
        self.on_leave: Callable[[], None] = _nothing

    def arrive(self, connection: Any) -> None:
        """Queue a connection for the next turn."""
        self.arrived.append(connection)
        if not self.scheduled:
            self.scheduled = True
            self.call_soon(self.run_turn)

    def arrive_big(self, connection: Any) -> None:
        """Queue a connection with a big body for a turn of its own."""
        self.big.append(connection)
        if not self.scheduled:
            self.scheduled = True
            self.call_soon(self.run_turn)

    def leave(self, connection: Any) -> None:
        """Forget a connection that is gone."""
        self.connections.discard(connection)
        self.held.waiting.discard(connection)
        self.on_leave()

    def refusal(self, error: HttpError, *, sends_body: bool) -> bytes:
        """Render a refusal, as text if the function that was handed in fails. Never raises."""
        self.log.debug("refused: %d: %s", error.status, error.detail)
        try:
            return self.heads.refusal(*self.refuse(error.status, error.detail), sends_body=sends_body)
        except Exception:
            self.log.exception("Error rendering a refusal")
            return self.heads.refusal(*refuse_as_text(error.status, error.detail), sends_body=sends_body)
