"""Every metric: its name, help and unit; and their exposition over all workers.

What lives here: the definitions, and what makes prometheus_client's multiprocess mode bounded. What must not: anything
that decides when a metric moves.

In multiprocess mode (``PROMETHEUS_MULTIPROC_DIR`` is set before this module is imported; gunicorn.conf.py does that)
values live in one file per *slot* and metric type. A slot is a small number that a worker takes over from its
predecessor, so recycled workers add no files and no counter ever falls.

Units last, base units only (seconds, bytes), as Prometheus names them. Values are added up per commit, not per record.
"""

from __future__ import annotations

import atexit
import os
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

import prometheus_client.values
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the exposition (Prometheus text format 0.0.4)."""

T = TypeVar("T", int, float)

_slot = "master"


def take_slot(slot: int) -> None:
    """Make this process write its values under ``slot``; call it once, right after the fork."""
    global _slot
    _slot = str(slot)


_directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
if _directory:
    # The library's seam for naming the files by something other than the pid; must come before the first metric.
    prometheus_client.values.ValueClass = prometheus_client.values.MultiProcessValue(  # type: ignore[no-untyped-call]  # has no types
        process_identifier=lambda: _slot
    )

_registry = CollectorRegistry()

REQUESTS = Counter(
    "inlet_requests",
    "Requests for records answered, and requests refused before a receiver saw them (receiver none).",
    ["receiver", "status", "reason"],
    registry=_registry,
)
RECORDS_STORED = Counter("inlet_records_stored", "Records stored in the stream.", registry=_registry)
STREAM_RECORDS_STORED = Counter(
    "inlet_stream_records_stored", "Records stored, by stream.", ["stream"], registry=_registry
)
RECORDS_DUPLICATE = Counter(
    "inlet_records_duplicate",
    "Records answered as accepted and not stored again, since their event_id was stored before (INLET_DEDUP_SECONDS).",
    registry=_registry,
)
RECORDS_REJECTED = Counter(
    "inlet_records_rejected", "Records reported to the client as rejected, by reason.", ["reason"], registry=_registry
)
RECORDS_DROPPED = Counter(
    "inlet_records_dropped",
    "Records answered 202 at the level received that the store then refused, or may have.",
    registry=_registry,
)
REJECTED_LOST = Counter(
    "inlet_rejected_lost",
    "Rejected records that were not kept though INLET_KEEP_REJECTED asks for it.",
    registry=_registry,
)
ENTRIES_TRIMMED = Counter("inlet_entries_trimmed", "Entries trimmed that all groups had acked.", registry=_registry)
ENTRIES_DROPPED = Counter(
    "inlet_entries_dropped", "Entries trimmed that some group had not acked (retention).", registry=_registry
)
UNKNOWN_MEMBERS = Counter(
    "inlet_unknown_members", "Members of accepted records that the contract does not know.", registry=_registry
)
COMMITS_FAILED = Counter("inlet_commits_failed", "Commits that failed, by reason.", ["reason"], registry=_registry)
COMMIT_SECONDS = Histogram(
    "inlet_commit_seconds",
    "Time from the first byte of a commit to its last reply, without connecting.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    registry=_registry,
)
CIRCUIT_OPEN = Gauge(
    "inlet_circuit_open",
    "Workers that refuse at once because a commit failed and no probe has succeeded since.",
    multiprocess_mode="sum",
    registry=_registry,
)

KEYS_FILE_BROKEN = Gauge(
    "inlet_keys_file_broken",
    "1 while INLET_KEYS_FILE cannot be read and the keys of before are used.",
    multiprocess_mode="max",
    registry=_registry,
)

LATE_SECONDS = 0.05
"""Seconds between two moves of what is counted late, while commits go on: what a worker that is killed with SIGKILL has
not counted, and a thousandth of its time. When commits pause, the watcher's next look, a second later, moves it."""


class Late:
    """What every successful commit moves, added up and moved together a little later.

    PERF: prometheus_client takes 2 us to move one value, and a commit moves four (bench/stages.py). Safe for threads:
    what is counted goes through deques, whose appends and pops are atomic.
    """

    def __init__(self) -> None:
        self._counters: list[tuple[Counter, deque[int]]] = []
        self._seconds: deque[float] = deque()
        self._due = 0.0
        self.stored = self.counter(RECORDS_STORED)
        """Count records stored by a commit."""

    def counter(self, counter: Counter) -> Callable[[int], None]:
        """Return a function that adds to ``counter``."""
        counted: deque[int] = deque()
        self._counters.append((counter, counted))
        return counted.append

    def commit(self, records: int, seconds: float, now: float) -> None:
        """Count a commit of ``records`` that took ``seconds``. ``now``: time.monotonic()."""
        self.stored(records)
        self._seconds.append(seconds)
        if now >= self._due:
            self.flush()

    def flush(self) -> None:
        """Move everything that was counted so far. For any thread, at any time."""
        self._due = time.monotonic() + LATE_SECONDS
        for counter, counted in self._counters:
            if amount := sum(_taken(counted)):
                counter.inc(amount)
        bounds = COMMIT_SECONDS._upper_bounds
        times = [0] * len(bounds)
        total = 0.0
        for seconds in _taken(self._seconds):
            total += seconds
            times[bisect_left(bounds, seconds)] += 1
        if any(times):
            # The library observes one value at a time only.
            COMMIT_SECONDS._sum.inc(total)
            for bucket, count in zip(COMMIT_SECONDS._buckets, times, strict=True):
                if count:
                    bucket.inc(count)


def _taken(counted: deque[T]) -> Iterator[T]:
    while counted:
        try:
            yield counted.popleft()
        except IndexError:  # Another thread took it.
            return


LATE = Late()
atexit.register(LATE.flush)


def exposition() -> bytes:
    """Every metric, summed over all workers, in Prometheus' text format."""
    LATE.flush()
    if _directory is None:
        return generate_latest(_registry)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=_directory)  # type: ignore[no-untyped-call]  # has no types
    return generate_latest(registry)
