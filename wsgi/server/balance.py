"""Balance: which of the sibling workers takes the next connection.

What lives here: the counters that the workers of one master share, and the rule by which a worker leaves a connection
to its siblings. What must not: sockets and timers (``wsgi.server.acceptor``), or anything about a connection.

All workers poll the same listening sockets, and without a rule the one that happens to be awake takes all that comes.
The rule: a worker takes a connection if no sibling has fewer, or if so many wait that its siblings get as many as it
has. It leaves the others alone for ``Limits.balance_seconds``, then takes them, since a sibling may be stuck.

Why this keeps workers within one of each other, whichever runs when: a worker publishes what it has after it took it,
and reads the siblings' counts before it asks how many wait. So what it knows is never more than what is true, and it
takes only what it may take at the lowest possible counts. Two things break it until new connections even it out:
clients that leave, and a sibling that did not look at its sockets for ``balance_seconds``.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from functools import cache

SLOTS = 256
"""Workers of one master that are balanced, those that still drain included. Any more take connections unasked."""
STALE_MS = 3_000
"""Milliseconds without a tick (one a second) after which nobody waits for a worker: it is stopped, stuck, or dead."""
MANY = 1 << 40
"""More connections than there can be."""

# The shared memory, in signed 64-bit words. Each has one writer, except for GENERATION, where any new number will do.
#
#   words 0 to 7       GENERATION   another number each time a worker comes, goes, or is full; the rest is unused
#   words 8 to 15      a slot:      USED       1 once a worker has had it
#                                   STAMP      ms of the monotonic clock at the worker's last tick; 0: takes nothing
#                                   OPEN       connections that the worker has
#                                   ACCEPTED   connections accepted since the start; one word for each of 5 listeners
#   words 16 to 23     the next slot, and so on: a cache line each, so that no two workers write to the same one
LINE = 8
GENERATION = 0
USED, STAMP, OPEN, ACCEPTED = range(4)
ACCEPTED_WORDS = LINE - ACCEPTED


class Board:
    """The memory that the workers of one master share. Make it in the master, before the fork."""

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, (1 + SLOTS) * LINE * 8)).cast("q")
        self._locks = _lock_file()

    def claim(self) -> int | None:
        """Take a free slot for this process; return its first word, or None if all are taken.

        The claim is a POSIX lock on one byte, so the kernel frees the slot with the process, however that ends.
        """
        for slot in range(SLOTS):
            try:
                fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
            except OSError:
                continue
            return (1 + slot) * LINE
        return None


def _lock_file() -> int:
    """Return the descriptor of a file without a name, open until the process ends."""
    if sys.platform == "linux":  # Where /tmp may be read-only.
        return os.memfd_create("balance")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@cache
def board_of(master: int) -> Board:
    """Return the board of the master with this pid. It survives HUP; a master started by USR2 has one of its own."""
    return Board()


class Balance:
    """A worker's place among its siblings.

    ``open``: connections of this worker, from the accept to the end, TLS handshakes included. ``slot``: its number, or
    None where no slot was free: such a worker has no siblings, and nobody waits for it.
    """

    def __init__(self, board: Board) -> None:
        at = board.claim()
        self.slot = None if at is None else at // LINE - 1
        if at is None:
            board, at = Board(), LINE
        self.open = 0
        self._words, self._at = board.words, at
        self._used: list[int] = []
        self._counts: list[int] = []
        self._generation = -1
        self._words[at + OPEN] = 0
        self._words[at + USED] = 1
        self._takes = True
        self.tick()
        self._announce()

    # What this worker publishes.

    def accepted(self, listener: int) -> None:
        """Count a connection that was accepted from the listener with this number."""
        words, at = self._words, self._at
        self.open = words[at + OPEN] = self.open + 1
        words[at + ACCEPTED + listener % ACCEPTED_WORDS] += 1

    def left(self) -> None:
        """Count a connection that is gone."""
        self.open = self._words[self._at + OPEN] = self.open - 1

    def takes(self, yes: bool) -> None:
        """Publish whether this worker takes connections: nobody waits for one that is full, or that ends."""
        if yes != self._takes:
            self._takes = yes
            self.tick()
            self._announce()

    def tick(self) -> None:
        """Show that this worker lives, and look which siblings do: once a second."""
        self._words[self._at + STAMP] = _clock_ms() if self._takes else 0
        self._look_around()

    def _announce(self) -> None:
        """Have the siblings look at once."""
        self._words[GENERATION] = time.monotonic_ns()

    # What it knows of the others.

    def _look_around(self) -> None:
        """Find the siblings that take connections."""
        words, oldest = self._words, _clock_ms() - STALE_MS
        self._generation = words[GENERATION]
        self._used = [at for at in range(LINE, len(words), LINE) if words[at + USED]]
        self._counts = [at + OPEN for at in self._used if at != self._at and words[at + STAMP] > oldest]

    def others(self) -> list[int]:
        """Return the numbers of connections of the siblings that take some; empty if there is none."""
        words = self._words
        if words[GENERATION] != self._generation:
            self._look_around()
        return [words[at] for at in self._counts]

    def has_least(self) -> bool:
        """Return whether no sibling has fewer connections than this worker."""
        words, mine = self._words, self.open
        if words[GENERATION] != self._generation:
            self._look_around()
        return all(words[at] >= mine for at in self._counts)

    def accepted_by_all(self, listener: int) -> int:
        """Return how many connections all workers, the former ones too, have accepted from a listener."""
        words, word = self._words, ACCEPTED + listener % ACCEPTED_WORDS
        return sum(words[at + word] for at in self._used)


def _clock_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def share(mine: int, others: Iterable[int], waiting: int) -> int:
    """Return how many of the connections that wait one worker may take, so that its siblings come out no lower.

    As if the connections were poured in one by one, each to the worker that has least; what is left over once all are
    level is not counted. ``mine`` and ``others``: connections of this worker and of its siblings.
    """
    total, workers = mine + waiting, 1
    for count in sorted(others):
        if count * workers >= total:
            break
        total += count
        workers += 1
    return max(total // workers - mine, 0)


class Patience:
    """How long the connections that wait at one listener have been left to the siblings.

    They are taken in the order in which they came. So a number says which: at the time in a row of ``_seen``, the first
    so many of all that ever came had come. The first ``_overdue`` have waited for too long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: deque[tuple[float, int]] = deque()
        self._overdue = 0

    def overdue(self, accepted: int, waiting: int, now: float) -> int:
        """Return how many have waited for ``seconds`` since a call saw them: their sibling is stuck.

        ``accepted``: by all workers, ever. ``waiting``: at least 1.
        """
        seen = self._seen
        while seen and seen[0][1] <= accepted:
            seen.popleft()
        if not seen or seen[-1][1] < accepted + waiting:  # So there are no more rows than connections that wait.
            seen.append((now, accepted + waiting))
        while seen and now - seen[0][0] >= self._seconds:
            self._overdue = seen.popleft()[1]
        return max(self._overdue - accepted, 0)

    def reset(self) -> None:
        """Note that none waits."""
        self._seen.clear()
        self._overdue = 0
