"""Backpressure: samples of the store -> refuse now, or not, and for how long. Pure: no Redis, no clock, no thread.

What lives here: the bounds, and the Retry-After worked out from how fast what is too much falls. What must not: taking
samples (``sink``), how a refusal looks (``routes``).
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

from wsgi.errors import BacklogFull, StoreFull

RETRY_AFTER_SECONDS_MAX = 60
"""Retry-After where what is too much does not fall, or falls so slowly that nobody can tell."""
FULL_RETRY_AFTER_SECONDS = 10
"""Retry-After where retention is full: the keeper looks again that often."""
SAMPLES_MAX = 10
"""Samples, one a second, from which the rate is taken: long enough to see through the steps in which consumers ack."""


class Sampled(Protocol):
    """What is looked at in a sample."""

    @property
    def used_bytes(self) -> int | None:
        """Memory that the store uses."""

    @property
    def max_bytes(self) -> int | None:
        """Its bound; 0 for none."""

    @property
    def full(self) -> bool:
        """Unread entries fill the bounds of retention."""

    @property
    def backlog_entries(self) -> int | None:
        """Entries not yet acked by the slowest group."""


class Backpressure:
    """``backlog_max``: entries, 0 for no bound. ``memory_percent_max``: of the store's maxmemory."""

    def __init__(self, *, backlog_max: int, memory_percent_max: int) -> None:
        self._backlog_max = backlog_max
        self._memory_percent_max = memory_percent_max
        self._backlog: deque[tuple[float, int]] = deque(maxlen=SAMPLES_MAX)
        self._used: deque[tuple[float, int]] = deque(maxlen=SAMPLES_MAX)

    def judge(self, now: float, sample: Sampled) -> BacklogFull | StoreFull | None:
        """The refusal that holds until the next sample, at ``now`` in seconds of any steady clock; None to accept."""
        if sample.used_bytes is not None and sample.max_bytes:
            self._used.append((now, sample.used_bytes))
            bound = sample.max_bytes * self._memory_percent_max // 100
            if sample.used_bytes > bound:
                detail = f"the store uses {sample.used_bytes} of {sample.max_bytes} bytes; over {bound} none are added"
                return StoreFull(detail, retry_after(self._used, bound))
        if sample.full:
            detail = "entries that some consumer group has not acked fill the bounds of INLET_RETENTION"
            return BacklogFull(detail, FULL_RETRY_AFTER_SECONDS)
        if sample.backlog_entries is not None and self._backlog_max:
            self._backlog.append((now, sample.backlog_entries))
            if sample.backlog_entries > self._backlog_max:
                detail = f"{sample.backlog_entries} entries wait for consumers; over {self._backlog_max} none are added"
                return BacklogFull(detail, retry_after(self._backlog, self._backlog_max))
        return None


def retry_after(samples: deque[tuple[float, int]], bound: int) -> int:
    """Whole seconds until the quantity is back at ``bound``, if it goes on falling as it did over ``samples``."""
    (began, first), (now, last) = samples[0], samples[-1]
    fallen, seconds = first - last, now - began
    if fallen <= 0 or seconds <= 0:
        return RETRY_AFTER_SECONDS_MAX
    return max(1, min(RETRY_AFTER_SECONDS_MAX, math.ceil((last - bound) * seconds / fallen)))
