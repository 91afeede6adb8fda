"""Slices: long work as a generator that yields about every millisecond, so that other requests get their turn.

What lives here: how long a slice is, and how such a generator is run to its end where nobody else waits. What must not:
what the work is.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

SLICE_SECONDS = 0.001
"""Work between two yields, about: a server does some 2 ms of such work in a turn, so small requests wait no longer."""

T = TypeVar("T")


def finish(work: Generator[Any, None, T]) -> T:
    """Run ``work`` to its end without a pause; return what it returns, raise what it raises."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result
