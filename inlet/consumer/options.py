"""``Options``: how a reader reads, with the bounds of each value.

What lives here: the options and their check. What must not: the decisions made with them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

BOUNDS: dict[str, tuple[int, int]] = {
    "block_ms": (1, 60_000),
    "entries_max": (1, 10_000),
    "bytes_max": (1_024, 1_073_741_824),
    "claim_idle_ms": (10, 86_400_000),
    "claim_idle_ms_max": (10, 604_800_000),
    "attempts_max": (1, 1_000),
    "handle_timeout_ms": (0, 43_200_000),
    "ack_delay_ms": (0, 60_000),
    "dedup_window_ms": (0, 604_800_000),
}
"""Smallest and largest value of each number, both allowed."""


@dataclass(frozen=True)
class Options:
    """Say how a reader reads. Raises ValueError for a value outside ``BOUNDS``."""

    start: Literal["start", "now"] = "start"
    """Where a new group begins: at the oldest entry ("start"), or after the newest one ("now")."""
    block_ms: int = 500
    """Milliseconds an idle read waits in the store; a stop is noticed this late. If unsure, keep the default."""
    entries_max: int = 256
    """Entries read ahead: 25,600 records at the usual 100 records an entry."""
    bytes_max: int = 8_388_608
    """Bytes read ahead (8 MiB). An entry's size is unknown until it arrives, so the count asked for follows the largest
    recent entry; one read can exceed the bound by as much as entries suddenly grow."""
    claim_idle_ms: int = 60_000
    """Milliseconds without an ack after which another consumer takes an entry, and the wait after the first failed
    attempt: longer than any handler call."""
    claim_idle_ms_max: int = 3_600_000
    """Milliseconds: the wait doubles with each failed attempt, up to this (an hour)."""
    attempts_max: int = 5
    """Attempts: calls of the handler that raised, or that the process did not survive. A record that fails alone at the
    last one goes to the dead-letter stream."""
    handle_timeout_ms: int = 0
    """Milliseconds a call of the handler may take before it is ended and counts as failed; 0 for no limit."""
    ack_delay_ms: int = 100
    """Milliseconds an ack may wait to share a round trip. A crash can redeliver this much finished work."""
    dedup_window_ms: int = 0
    """Milliseconds in which a second record with the same event_id is left out; 0 turns this off."""

    def __post_init__(self) -> None:
        if self.start not in ("start", "now"):
            raise ValueError(f"start must be 'start' or 'now', not {self.start!r}")
        for item in fields(self):
            if item.name in BOUNDS:
                low, high = BOUNDS[item.name]
                value = getattr(self, item.name)
                if type(value) is not int or not low <= value <= high:
                    raise ValueError(f"{item.name} must be a whole number from {low} to {high}, not {value!r}")
        if self.claim_idle_ms_max < self.claim_idle_ms:
            raise ValueError("claim_idle_ms_max must not be below claim_idle_ms")
        if self.handle_timeout_ms >= self.claim_idle_ms:
            raise ValueError("handle_timeout_ms must be below claim_idle_ms, or another consumer gets the entry too")
