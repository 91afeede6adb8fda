"""How much to read ahead: the COUNT of each read, from the sizes of the entries read before. Pure.

What lives here: an entry as the store gave it, and the rule for COUNT. What must not: connections, decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from inlet.consumer.notes import Note
from inlet.consumer.options import Options

ENTRY_BYTES_GUESS = 1_048_576
"""Bytes an entry is assumed to have before any was read: the default of ``INLET_ENTRY_BYTES_MAX``."""


class Raw(NamedTuple):
    """An entry as the store gave it. It is decoded only when handed out, which bounds memory and keeps caches warm."""

    partition: int
    entry_id: bytes
    fields: list[bytes]
    deliveries: int
    note: Note | None = None


def next_count(count: int, largest: int, options: Options, partitions: int) -> int:
    """Return COUNT of the next read of each partition: at most double, within the bounds on entries and bytes."""
    room = min(options.entries_max, options.bytes_max // max(largest, 1))
    return max(1, min(count * 2, room // partitions))


class ReadAhead:
    """Keep ``count``, the COUNT of the next read, in step with the size of the entries (bytes)."""

    def __init__(self, options: Options, partitions: int) -> None:
        self._options, self._partitions = options, partitions
        self._largest = 1
        self.count = min(max(1, options.bytes_max // ENTRY_BYTES_GUESS // partitions), options.entries_max)

    def learn(self, found: Sequence[Raw]) -> None:
        """Take the sizes of one read into account. A large entry is forgotten slowly."""
        largest = max((sum(map(len, raw.fields)) for raw in found), default=0)
        self._largest = max(largest, self._largest * 7 // 8)
        if found:
            self.count = next_count(self.count, self._largest, self._options, self._partitions)
