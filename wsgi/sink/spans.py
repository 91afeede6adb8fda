"""Where a batch is split into entries. Pure.

What lives here: the split. What must not: Redis, outcomes, locks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def spans(lines: Sequence[bytes], starts: Sequence[int], bytes_max: int) -> list[tuple[int, int]]:
    """Split ``lines`` (at least one) into runs ``start:stop``, each of at most ``bytes_max`` once joined by b"\\n".

    ``starts``: the first line of each request, ascending from 0. Requests stay whole where they fit; only a request
    over the bound is split, between its lines. A single line over the bound is a run of its own.
    """
    if sum(map(len, lines)) + len(lines) - 1 <= bytes_max:
        return [(0, len(lines))]
    ends = list(accumulate(map(len, lines), initial=0))  # ends[i]: bytes of the lines before i, without b"\n"

    def fits(start: int, stop: int) -> bool:
        return stop - start == 1 or ends[stop] - ends[start] + stop - start - 1 <= bytes_max

    found: list[tuple[int, int]] = []
    start = stop = 0
    for request_stop in [*starts[1:], len(lines)]:
        if fits(start, request_stop):
            stop = request_stop
            continue
        if stop > start:
            found.append((start, stop))
            start = stop
        while not fits(start, request_stop):
            stop = start + 1
            while fits(start, stop + 1):
                stop += 1
            found.append((start, stop))
            start = stop
        stop = request_stop
    found.append((start, stop))
    return found
