"""Token buckets in memory that all workers of a host share: no lock, no system call, and no lost update on the path.

What lives here: the memory, its rows, and one bucket's arithmetic. What must not: what is charged when, what a refusal
looks like (``wsgi.access.quotas``), keys, HTTP.

A bucket counts in time: what it is charged is how long its rate takes to refill that, in units of 1/16 ns. So it gains
one unit per unit of time, whatever its rate, and all its words are integers that no rounding accumulates in. A signed
word of 64 bits holds 18 years of that. With ``filled`` and ``used`` as below, at the time ``now``:

    level = filled + now + used by each slot      (used is what its workers were charged, as a negative number)

Each ``used`` has one writer, the worker that has the slot, so no charge is ever lost, and a worker's successor goes on
with the same word. ``filled`` only ever falls, when a bucket would be fuller than its burst. Workers may race there:
they write values that differ by the moment between their clock readings. One that is paused between reading and writing
can bring back what spilled meanwhile; a bucket is never read as fuller than its burst, so that is at most one burst.
Two workers may both pass on the last tokens; the level is then below 0, and both wait until it has recovered.

Threads of one process share a slot. ``words[i] -= n`` does not lose an update between them: CPython switches threads
at calls and jumps, and there is none between its load and its store. A test hammers on that.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from weakref import WeakValueDictionary, finalize

from inlet.keyfile import KEYS_MAX

UNITS_PER_NS = 16
"""Fine enough to charge one byte at a gigabyte per second exactly, and coarse enough for 18 years in 63 bits."""
UNITS_PER_SECOND = UNITS_PER_NS * 1_000_000_000
SECONDS_MAX = 31_536_000
"""One year, in seconds: the most that a bucket holds or a charge counts, in time of its rate. A year of burst and a
year of debt leave 16 years of uptime in a word."""
UNITS_MAX = SECONDS_MAX * UNITS_PER_SECOND
SPILL_SHARE = 1_024
"""A bucket spills once it is fuller than its burst by this part of it, so that one that is always full does not write
with every request. A tenth of a percent is well within what a quota has to keep."""
SLOTS = 512
"""Workers at a time: HUP starts new ones, 256 at most, before it ends the old ones. Any more share a word with one of
these, and some of what they admit is not counted."""
ROWS = 2 * 3 * KEYS_MAX
"""Buckets: three kinds for each key, twice, so that a new file can differ from the old one in every quota."""

# The shared memory, in signed 64-bit words. It is mapped whole, 25 MB, and only pages that are used take memory.
#
#   words 0 to 7   SLOTS_USED   slots that ever had a worker: those to add up     } written under the lock
#                  ROWS_USED    rows that ever were claimed                       }
#                  CHANGES      moves with each claim                             }
#   NAMES          a word a row: hash of the bucket's name; 0: free               }
#   STAMPS         a word a row: when a process last claimed it, in ns            }
#   FILLED         a word a row: its burst minus the time when it was last full   written by all
#   USED           a column of ROWS words for each slot: minus what was charged   written by the slot's worker
#
# So each worker writes to pages of its own, and a bucket's words are ROWS apart.
SLOTS_USED, ROWS_USED, CHANGES = range(3)
NAMES = 8
STAMPS = NAMES + ROWS
FILLED = STAMPS + ROWS
USED = FILLED + ROWS
WORDS = USED + SLOTS * ROWS

Clock = Callable[[], int]
"""Nanoseconds of a clock that all processes of the host share and that never goes back (CLOCK_MONOTONIC)."""


class Bucket:
    """One bucket, as this process sees it. Levels and costs are in units.

    ``burst``: what it holds; ``one``: cost of one token; ``mine``: index of the word to subtract a charge from.
    ``read()``: its words. Their sum and the time is the level; where that is over ``full``, call ``spill``.
    """

    __slots__ = ("__weakref__", "_words", "burst", "full", "mine", "name", "one", "per_token", "read", "row")

    read: Callable[[], list[int]]
    row: int
    mine: int

    def __init__(self, words: memoryview, name: int, per_second: float, burst: float) -> None:
        self._words = words
        self.name = name
        self.per_token = UNITS_PER_SECOND / per_second
        self.burst = self.cost(burst)
        self.full = self.burst + self.burst // SPILL_SHARE
        self.one = min(self.cost(1), self.burst)

    def bind(self, row: int, slots: int, slot: int) -> None:
        """Use this row. ``slots``: how many to add up; ``slot``: this process's."""
        filled = FILLED + row
        self.row, self.mine = row, USED + slot * ROWS + row
        # PERF: one call in C reads all of them, 70 ns for two slots and 1.5 us for 256.
        self.read = self._words[filled : filled + slots * ROWS + 1 : ROWS].tolist

    def cost(self, tokens: float) -> int:
        """Return the units that ``tokens`` take to refill: at least 1, at most UNITS_MAX."""
        return min(int(tokens * self.per_token), UNITS_MAX) or 1

    def level(self, now: int) -> int:
        """Return what the bucket holds; negative while it is in debt. ``now``: in units."""
        level = sum(self.read(), now)
        return level if level <= self.full else self.spill(now)

    def spill(self, now: int) -> int:
        """Let what is over the burst go, and return the burst."""
        words, at = self._words, FILLED + self.row
        held = self.read()
        spilled = held[0] - sum(held, now) + self.burst
        # Reading it again leaves a race between processes only: CPython switches no thread between these two.
        if words[at] > spilled:
            words[at] = spilled
        return self.burst


class Buckets:
    """The memory. Make it before the fork; call ``start`` after it in each process that charges beside others."""

    def __init__(self, clock: Clock = time.monotonic_ns) -> None:
        self.words = memoryview(mmap.mmap(-1, WORDS * 8)).cast("q")
        self.words[SLOTS_USED] = 1
        self.slots = 1
        """Slots that the buckets of this process add up. Where it differs from words[SLOTS_USED], call ``rebind``."""
        self.clock = clock
        self._slot = 0
        self._lock = threading.Lock()
        self._lock_file = _lock_file()
        finalize(self, os.close, self._lock_file)
        self._live: WeakValueDictionary[int, Bucket] = WeakValueDictionary()
        self._rows: dict[int, int] = {}
        self._changes = 0
        self._spare: list[tuple[int, int]] = []

    def start(self, slot: int) -> None:
        """Charge in this slot from now on: no two living processes may have the same; a successor inherits one."""
        with self._exclusive():
            self._slot = slot % SLOTS
            self.words[SLOTS_USED] = self.slots = max(self.words[SLOTS_USED], self._slot + 1)
            for bucket in self._live.values():
                # Made before the fork, which may be long ago: the row may be another bucket's by now.
                bucket.bind(self._claim(bucket), self.slots, self._slot)

    def rebind(self) -> None:
        """Add up all slots that there are: another worker has started."""
        with self._lock:
            self.slots = self.words[SLOTS_USED]
            for bucket in self._live.values():
                bucket.bind(bucket.row, self.slots, self._slot)

    def bucket(self, name: str, per_second: float, burst: float) -> Bucket:
        """Return the bucket of this name, rate and burst, the same in all processes; a new one is full.

        Raises RuntimeError if this process uses ROWS buckets already.
        """
        digest = blake2b(f"{name} {per_second!r} {burst!r}".encode(), digest_size=8).digest()
        # 64 bits: the chance that two of 6,000 names share a row is one in 10^12.
        number = int.from_bytes(digest, "big", signed=True) or 1
        with self._exclusive():
            bucket = self._live.get(number) or Bucket(self.words, number, per_second, burst)
            bucket.bind(self._claim(bucket), self.slots, self._slot)
            self._live[number] = bucket
        return bucket

    def _claim(self, bucket: Bucket) -> int:
        words, now = self.words, self.clock()
        if words[CHANGES] != self._changes:
            names = words[NAMES : NAMES + words[ROWS_USED]].tolist()
            self._rows = {name: row for row, name in enumerate(names) if name}
        row = self._rows.get(bucket.name)
        if row is None:
            row = self._free_row()
            self._rows.pop(words[NAMES + row], None)
            # In this order, so that a process that is killed in between leaves a free row, and nobody misses a name.
            words[CHANGES] += 1
            words[NAMES + row] = 0
            for at in range(USED + row, USED + words[SLOTS_USED] * ROWS, ROWS):
                if words[at]:
                    words[at] = 0
            words[FILLED + row] = bucket.burst - now * UNITS_PER_NS
            words[NAMES + row] = bucket.name
            self._rows[bucket.name] = row
        self._changes = words[CHANGES]
        words[STAMPS + row] = now
        return row

    def _free_row(self) -> int:
        """Return a row of nobody's; else the one that was claimed longest ago, of those that this process does not use.

        A process that has not read the newest keys yet uses rows that were claimed by a load of before. There is room
        for two whole loads, so the oldest row is of an earlier one.
        """
        words = self.words
        if words[ROWS_USED] < ROWS:
            words[ROWS_USED] += 1
            return words[ROWS_USED] - 1
        for _ in range(2):
            while self._spare:
                stamp, row = self._spare.pop()
                if words[STAMPS + row] == stamp:  # Else it was claimed since the list was made.
                    return row
            used = {bucket.row for bucket in self._live.values()}
            stamps = enumerate(words[STAMPS : STAMPS + ROWS].tolist())
            self._spare = sorted(((stamp, row) for row, stamp in stamps if row not in used), reverse=True)
        raise RuntimeError(f"more than {ROWS} buckets")

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Let one thread of one process in. A POSIX lock ends with its process, however that ends."""
        with self._lock:
            fcntl.lockf(self._lock_file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._lock_file, fcntl.LOCK_UN)


def _lock_file() -> int:
    """Return the descriptor of a file without a name."""
    if sys.platform == "linux":  # Where /tmp may be read-only.
        return os.memfd_create("quotas")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
