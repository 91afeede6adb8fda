"""Slow work: what takes so long that other requests must not wait for all of it. Each turn does a bounded part.

What lives here: the order in which connections with slow work take their steps. What must not: what a step does
(``wsgi.server.connection``), or how long a turn works (``wsgi.server.turn``).

The first step of a connection's work goes before the long work that is left of others, alternating with it: most work
ends with its first step. Of the long work the oldest goes on until it is done, so that its memory is freed and its
result is used before more of it is begun.
"""

from __future__ import annotations

from collections import deque
from typing import Any

NONE, CALL, FEED, RESUME = range(4)
"""The next step of a connection: none; call the application; go on with a chunked body; go on with an answer."""
BEGUN_MAX = 64
"""Connections whose work is begun and not done. At this number no more is begun, which bounds what they hold."""


class SlowWork:
    """Connections whose next step waits. Truthy while there are any."""

    __slots__ = ("_begun", "_begun_is_next", "_new")

    def __init__(self) -> None:
        self._new: deque[Any] = deque()
        self._begun: deque[Any] = deque()
        self._begun_is_next = False

    def __bool__(self) -> bool:
        return bool(self._new or self._begun)

    def add(self, connection: Any) -> None:
        """Queue a connection whose work is new."""
        self._new.append(connection)

    def step(self) -> None:
        """Run one step of one connection: its ``work()``, which returns whether there is more."""
        begun = self._begun
        if begun and (self._begun_is_next or not self._new or len(begun) >= BEGUN_MAX):
            self._begun_is_next = False
            if not begun[0].work():
                begun.popleft()
            return
        self._begun_is_next = True
        connection = self._new.popleft()
        if connection.work():
            begun.append(connection)
