"""Memory of unfinished bodies: all connections of a worker together stay under one bound, and each owner under half.

What lives here: the account, and who waits for room. What must not: why a body is unfinished, who an owner is, sockets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import Protocol

from wsgi.server.refusal import HttpError
from wsgi.server.states import BODY


class Holder(Protocol):
    """A connection, as far as this account knows one. ``owner`` does not change while it holds bytes."""

    held: int
    owner: Hashable
    since: float
    state: int

    def pause_reading(self) -> None:
        """Leave further bytes in the kernel's buffer."""

    def resume_reading(self) -> None:
        """Read on."""

    def fail(self, error: HttpError) -> None:
        """Answer without the application, and close."""


class HeldBytes:
    """Account for bytes of bodies that arrived in several reads. ``total``: bytes held now, of ``bytes_max``.

    ``owned``: bytes by owner, of ``owner_bytes_max``: half, but a whole body (``body_bytes_max``) must fit. None is
    nobody in particular, and has no bound of its own.
    """

    __slots__ = ("bytes_max", "owned", "owner_bytes_max", "total", "waiting")

    def __init__(self, bytes_max: int, body_bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.owner_bytes_max = max(bytes_max // 2, body_bytes_max)
        self.total = 0
        self.owned: dict[Hashable, int] = {}
        self.waiting: set[Holder] = set()

    def add(self, holder: Holder, size: int) -> None:
        """Take ``size`` more bytes of one body; over a bound the connection is not read on."""
        holder.held += size
        self.total += size
        self.owned[holder.owner] = self.owned.get(holder.owner, 0) + size
        if not self._has_room(holder.owner):
            holder.pause_reading()
            self.waiting.add(holder)

    def free(self, holder: Holder, clock: float) -> None:
        """Forget a connection's bytes. Where there is room again, those that wait are read on, from ``clock`` (s)."""
        size, holder.held = holder.held, 0
        if holder in self.waiting:
            self.waiting.discard(holder)
            holder.resume_reading()
        if not size:
            return
        owner = holder.owner
        full, over = self.total > self.bytes_max, self.owned[owner] > self.owner_bytes_max
        self.total -= size
        self.owned[owner] -= size
        if not self.owned[owner]:
            del self.owned[owner]
        if (full or over) and self.waiting and self.total <= self.bytes_max:
            for other in [each for each in self.waiting if self._has_room(each.owner)]:
                self.waiting.discard(other)
                other.since = clock
                other.resume_reading()

    def _has_room(self, owner: Hashable) -> bool:
        fits = owner is None or self.owned.get(owner, 0) <= self.owner_bytes_max
        return fits and self.total <= self.bytes_max

    def shed(self, holders: Iterable[Holder]) -> None:
        """Refuse unfinished bodies until the rest fits: those that fill the memory can never finish.

        The largest body goes first: of an owner over its bound, then of the owner that holds most. Finished bodies
        count to ``total``, but not here: they are about to be used, and freed.
        """
        if not self.waiting:
            return
        bodies: defaultdict[Hashable, list[Holder]] = defaultdict(list)
        for each in sorted(holders, key=lambda each: each.held):
            if each.state == BODY:
                bodies[each.owner].append(each)
        sizes = {owner: sum(each.held for each in owned) for owner, owned in bodies.items()}
        for owner, owned in bodies.items():
            while owner is not None and sizes[owner] > self.owner_bytes_max:
                sizes[owner] -= self._refuse(owned.pop())
        while sum(sizes.values()) > self.bytes_max:
            most = max(sizes, key=sizes.__getitem__)
            sizes[most] -= self._refuse(bodies[most].pop())

    def _refuse(self, holder: Holder) -> int:
        """Return what it held."""
        size = holder.held
        self.waiting.discard(holder)
        holder.fail(HttpError(503, "too many unfinished bodies; send this one again"))
        return size
