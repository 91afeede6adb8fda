"""How long to wait before the next try to reach the store. Pure.

What lives here: the one rule for waits. What must not: sleeping, clocks.
"""

from __future__ import annotations

BACKOFF_FIRST_SECONDS = 0.05
"""Seconds of the first wait: shorter than a failover, longer than a busy loop."""
BACKOFF_SECONDS_MAX = 2.0
"""Seconds of the longest wait: a reader notices this late that the store is back."""


def backoff_seconds(attempt: int, fraction: float) -> float:
    """Return the wait before try number ``attempt`` (from 0); ``fraction`` in [0, 1) spreads the readers of a group."""
    whole: float = min(BACKOFF_FIRST_SECONDS * 2 ** min(attempt, 20), BACKOFF_SECONDS_MAX)
    return whole * (0.5 + fraction / 2)
