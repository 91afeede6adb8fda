"""What all connections of a worker share: ``ServerState``.

What lives here: the clock, the limits, finished response heads, the queues of what a turn will do, the account of
memory. What must not: the process (``wsgi.server.worker``), what is done with any of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from wsgi.server.held import HeldBytes
from wsgi.server.limits import Limits
from wsgi.server.observing import Observer
from wsgi.server.refusal import Refuse, refuse_as_text
from wsgi.server.response import Heads
from wsgi.server.slow import SlowWork


def _nothing() -> None:
    """Stand for a callback until its owner has set it."""


def _nothing_with(connection: Any) -> None:
    """Stand for a callback until its owner has set it."""


def _no_wait(future: Any, connections: list[Any]) -> None:
    raise RuntimeError("this server does not offer phased.wait")


class ServerState:
    """The small object that connections and exchanges get instead of the worker.

    ``clock``: monotonic seconds, of the turn or sweep that runs. ``closes``: whether each connection ends after its
    answer. ``on_leave`` is called when a connection is gone, and there is room for another.

    What the next turn does: ``arrived`` are the connections whose requests are to be called, ``noted`` the events of
    watched descriptors, ``resumed`` the connections whose answers go on, ``slow`` those whose work takes long. Whoever
    adds to them calls ``schedule``. ``awaited``: the future that the answer being iterated wants to wait for.
    """

    __slots__ = (
        "arrived", "awaited", "call_one", "call_soon", "clock", "closes", "connections", "early", "environ", "heads",
        "held", "keepalive_seconds", "limits", "log", "noted", "observer", "on_leave", "plain", "refuse", "resumed",
        "run_turn", "scheduled", "slow", "varied", "wait_for",
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
        self.plain, self.varied = self.heads.plain, self.heads.varied
        self.held = HeldBytes(limits.held_bytes_max, limits.payload_bytes_max)
        self.connections: set[Any] = set()
        self.arrived: list[Any] = []
        self.noted: list[tuple[Any, str]] = []
        self.resumed: list[Any] = []
        self.slow = SlowWork()
        self.awaited: Any = None
        self.early: Any = None
        """``Early`` of ``wsgi.server.early``, if the application has a ``before_body``."""
        self.environ: dict[str, Any] = {}
        """What every environ has beside PEP 3333's keys."""
        self.wait_for: Callable[[Any, list[Any]], None] = _no_wait
        """``Waiting.add`` of ``wsgi.server.waiting``."""
        self.scheduled = False
        self.run_turn: Callable[[], None] = _nothing
        self.call_one: Callable[[Any], None] = _nothing_with
        """Calls and answers one connection's request, as slow work."""
        self.on_leave: Callable[[], None] = _nothing

    def schedule(self) -> None:
        """Have a turn run after what is being read now."""
        if not self.scheduled:
            self.scheduled = True
            self.call_soon(self.run_turn)

    def arrive(self, connection: Any) -> None:
        """Queue a connection whose request is to be called."""
        self.arrived.append(connection)
        if not self.scheduled:
            self.scheduled = True
            self.call_soon(self.run_turn)

    def slow_down(self, connection: Any) -> None:
        """Queue a connection whose next step may take long."""
        self.slow.add(connection)
        self.schedule()

    def leave(self, connection: Any) -> None:
        """Forget a connection that is gone."""
        self.connections.discard(connection)
        self.held.waiting.discard(connection)
        self.on_leave()
