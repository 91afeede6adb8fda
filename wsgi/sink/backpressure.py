"""Backpressure: whether a sample of the store, or of one stream, calls for a refusal, and for how long.

What lives here: the bounds, and Retry-After, estimated from how fast the excess is draining. What must not: taking
samples (``probe``), how a refusal is answered, clocks, threads.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from typing import Protocol

from inlet.stream.retention import Hold
from wsgi.problems import SinkError

RETRY_AFTER_SECONDS_MAX = 60
"""Retry-After where the excess is not draining, or too slowly to estimate."""
FULL_RETRY_AFTER_SECONDS = 10
"""Retry-After where retention is full: consumers have to ack first, and the keeper looks every two seconds."""
SAMPLES_MAX = 10
"""Samples, one a second, from which the rate is taken: consumers ack in steps, and ten seconds even them out."""


class Memory(Protocol):
    """The members of a sample of the store that are judged."""

    @property
    def used_bytes(self) -> int | None:
        """Memory that the store uses."""

    @property
    def max_bytes(self) -> int | None:
        """Its bound; 0 for none."""


class Unread(Protocol):
    """The members of a sample of one stream that are judged."""

    @property
    def full(self) -> Hold | None:
        """What keeps unread entries that fill the bounds of retention, if they do."""

    @property
    def backlog_entries(self) -> int | None:
        """Entries not yet acked by the slowest group."""


class Backpressure:
    """``backlog_max``: entries, 0 for no bound. ``memory_percent_max``: of the store's maxmemory."""

    def __init__(self, *, backlog_max: int, memory_percent_max: int) -> None:
        self._backlog_max = backlog_max
        self._memory_percent_max = memory_percent_max
        self._backlog: dict[bytes, deque[tuple[float, int]]] = {}  # by stream
        self._used: deque[tuple[float, int]] = deque(maxlen=SAMPLES_MAX)

    def judge(self, now: float, sample: Memory) -> SinkError | None:
        """Return the refusal of everything until the next sample, or None. ``now``: seconds of any steady clock."""
        if sample.used_bytes is not None and sample.max_bytes:
            self._used.append((now, sample.used_bytes))
            bound = sample.max_bytes * self._memory_percent_max // 100
            if sample.used_bytes > bound:
                used = f"the store uses {sample.used_bytes} of {sample.max_bytes} bytes; no more above {bound}"
                return SinkError("store-full", used, retry_after(self._used, bound))
        return None

    def judge_stream(self, now: float, key: bytes, sample: Unread) -> SinkError | None:
        """Return the refusal of what goes to the stream at ``key`` until its next sample, or None."""
        if sample.full is not None:
            why = sample.full.words()
            detail = f"entries that some consumer group has not acked fill the bounds of INLET_RETENTION; {why}"
            return SinkError("backlog-full", detail, FULL_RETRY_AFTER_SECONDS)
        if sample.backlog_entries is not None and self._backlog_max:
            samples = self._backlog.get(key)
            if samples is None:
                samples = self._backlog[key] = deque(maxlen=SAMPLES_MAX)
            samples.append((now, sample.backlog_entries))
            if sample.backlog_entries > self._backlog_max:
                waiting = f"{sample.backlog_entries} entries wait for consumers; no more above {self._backlog_max}"
                return SinkError("backlog-full", waiting, retry_after(samples, self._backlog_max))
        return None

    def forget_others(self, keys: Collection[bytes]) -> None:
        """Forget the samples of streams that are not in ``keys``."""
        for key in self._backlog.keys() - set(keys):
            del self._backlog[key]


def retry_after(samples: deque[tuple[float, int]], bound: int) -> int:
    """Return the whole seconds until the quantity is back at ``bound``, at the rate of ``samples`` (at, quantity)."""
    (began, first), (now, last) = samples[0], samples[-1]
    fallen, seconds = first - last, now - began
    if fallen <= 0 or seconds <= 0:
        return RETRY_AFTER_SECONDS_MAX
    return max(1, min(RETRY_AFTER_SECONDS_MAX, math.ceil((last - bound) * seconds / fallen)))
