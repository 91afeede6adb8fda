"""What the tests of shared memory share: processes that are forked, as workers are, and a clock that a test moves."""

from __future__ import annotations

import os
from collections.abc import Callable

SECOND = 1_000_000_000
"""Nanoseconds."""


class Clock:
    """Nanoseconds that a test moves."""

    def __init__(self, now: int = 7 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def forked(work: Callable[[int], None], number: int) -> int:
    """Run ``work(number)`` in a process that does nothing else; return its pid. Wait for it with ``wait_for``."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work(number)
            status = 0
        finally:
            os._exit(status)
    return pid


def wait_for(pid: int) -> int:
    """Return the exit status of a forked process; minus the signal where one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
