"""Stop on a signal: the flag that a loop checks, and the handlers that set it.

What lives here: signals and interruptible waits. What must not: what is stopped.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

WAIT_SLICE_SECONDS = 0.05
"""Seconds: a wait notices a stop this late."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def stopping_on(stop: Callable[[], object], signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Call ``stop`` on the first of these signals, and leave a second one its former effect: to end the process.

    Does nothing outside the main thread. The handlers are restored afterwards.
    """
    wanted = list(signals) if threading.current_thread() is threading.main_thread() else []

    def handler(number: int, frame: FrameType | None) -> None:
        restore()
        stop()

    def restore() -> None:
        for number, old in before.items():
            signal.signal(number, old)

    before = {number: signal.getsignal(number) for number in wanted}
    try:
        for number in wanted:
            signal.signal(number, handler)
        yield
    finally:
        restore()


def pauses(seconds: float, stopped: Callable[[], bool]) -> Iterator[float]:
    """Yield short sleeps (seconds) that add up to ``seconds``, and end early once ``stopped`` is true."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and not stopped():
        yield min(left, WAIT_SLICE_SECONDS)


class StopFlag:
    """Be set by ``stop``, from a signal handler or another thread, and end ``sleep``."""

    def __init__(self) -> None:
        self.stopped = False

    def stop(self) -> None:
        """Set the flag, for good."""
        self.stopped = True

    def sleep(self, seconds: float) -> None:
        """Sleep, but not beyond a stop."""
        for pause in pauses(seconds, lambda: self.stopped):
            time.sleep(pause)
