"""Memory of unfinished bodies: all connections of a worker together stay under one bound.

What lives here: the account, and who waits for room. What must not: why a body is unfinished, sockets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from wsgi.server.refusal import HttpError
from wsgi.server.states import BODY


class Holder(Protocol):
    """A connection, as far as this account knows one."""

    held: int
    since: float
    state: int

    def pause_reading(self) -> None:
        """Leave further bytes in the kernel's buffer."""

    def resume_reading(self) -> None:
        """Read on."""

    def fail(self, error: HttpError) -> None:
        """Answer without the application, and close."""


class HeldBytes:
    """Account for bytes of bodies that arrived in several reads. ``total``: bytes held now, of ``bytes_max``."""

    __slots__ = ("bytes_max", "total", "waiting")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.total = 0
        self.waiting: set[Holder] = set()

    def add(self, holder: Holder, size: int) -> None:
        """Take ``size`` more bytes of one body; over the bound the connection is not read on."""
        holder.held += size
        self.total += size
        if self.total > self.bytes_max:
            holder.pause_reading()
            self.waiting.add(holder)

    def free(self, holder: Holder, clock: float) -> None:
        """Forget a connection's bytes. Where there is room again, those that wait are read on, from ``clock`` (s)."""
        self.total -= holder.held
        holder.held = 0
        if holder in self.waiting:
            self.waiting.discard(holder)
            holder.resume_reading()
        if self.waiting and self.total <= self.bytes_max:
            waiting, self.waiting = self.waiting, set()
            for other in waiting:
                other.since = clock
                other.resume_reading()

    def shed(self, holders: Iterable[Holder]) -> None:
        """Refuse the largest of the unfinished bodies until these fit: those that fill the memory can never finish.

        Finished bodies count to ``total``, but not here: they are about to be used, and freed.
        """
        if self.total <= self.bytes_max:
            return
        unfinished = sorted((each for each in holders if each.state == BODY), key=lambda each: each.held)
        size = sum(each.held for each in unfinished)
        while size > self.bytes_max:
            largest = unfinished.pop()
            size -= largest.held
            self.waiting.discard(largest)
            largest.fail(HttpError(503, "too many unfinished bodies; send this one again"))
