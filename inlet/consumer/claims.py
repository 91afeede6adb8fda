"""Which pending entries to claim, and when. Pure.

What lives here: XPENDING's rows, and the rule that doubles the wait with each delivery. What must not: I/O, clocks.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any, NamedTuple

from inlet.consumer.options import Options


class Pending(NamedTuple):
    """One row of XPENDING's extended form."""

    entry_id: bytes
    consumer: bytes
    idle_ms: int
    deliveries: int


class Due(NamedTuple):
    """Entries to claim with one XCLAIM: each idle for at least ``min_idle_ms``.

    ``deliveries``: entry ID -> how often it was delivered before this claim.
    """

    min_idle_ms: int
    deliveries: dict[bytes, int]


def pending(rows: Iterable[Any]) -> list[Pending]:
    """Return the typed rows of an XPENDING reply (extended form)."""
    return [Pending(bytes(row[0]), bytes(row[1]), int(row[2]), int(row[3])) for row in rows]


def retry_idle_ms(deliveries: int, options: Options) -> int:
    """Return how long (ms) an entry with so many deliveries must be idle before it is claimed: doubling, bounded."""
    # The shift is bounded too, so that no delivery count makes a number of a million digits.
    return min(options.claim_idle_ms << min(max(deliveries - 1, 0), 40), options.claim_idle_ms_max)


def due(rows: Iterable[Pending], held: Container[bytes], options: Options, *, own: bool) -> list[Due]:
    """Return the pending entries to claim, grouped by how long they must have been idle.

    ``held``: entries this reader is working on; never claimed. ``own``: the rows are pending under this consumer's name
    since before a crash or a lost reply, and due at once.
    """
    groups: dict[int, dict[bytes, int]] = {}
    for row in rows:
        idle_ms = 0 if own else retry_idle_ms(row.deliveries, options)
        if row.idle_ms >= idle_ms and row.entry_id not in held:
            groups.setdefault(idle_ms, {})[row.entry_id] = row.deliveries
    return [Due(idle_ms, members) for idle_ms, members in sorted(groups.items())]
