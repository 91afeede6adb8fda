"""Acks that wait to share a round trip. No I/O, no clock.

What lives here: which acks wait, since when, and the XACK commands for them. What must not: sending them.
"""

from __future__ import annotations

from typing import Any

ACKS_MAX = 1_000
"""Acks that may wait for their round trip; also the entry IDs of one command."""


class Acks:
    """Collect the entry IDs to ack, per partition. ``delay_ms``: how long the first one may wait."""

    def __init__(self, keys: tuple[str, ...], group: str, delay_ms: int) -> None:
        self._keys, self._group, self._delay_ms = keys, group, delay_ms
        self._waiting: list[list[bytes]] = [[] for _ in keys]
        self._since = 0.0
        self._count = 0

    def add(self, partition: int, entry_id: bytes, now: float) -> bool:
        """Add one; return True if it is time to send them. ``now``: seconds of a clock that never goes back."""
        self._waiting[partition].append(entry_id)
        if not self._count:
            self._since = now
        self._count += 1
        return self._count >= ACKS_MAX or (now - self._since) * 1000 >= self._delay_ms

    def take(self) -> tuple[int, list[tuple[Any, ...]]]:
        """Return how many wait and the XACK commands for them, and forget them."""
        if not self._count:
            return 0, []
        waiting, self._waiting = self._waiting, [[] for _ in self._keys]
        count, self._count = self._count, 0
        commands = zip(self._keys, waiting, strict=True)
        return count, [("XACK", key, self._group, *names) for key, names in commands if names]
