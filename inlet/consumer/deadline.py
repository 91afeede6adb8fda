"""End a call of the handler that takes too long (``handle_timeout_ms``): SIGALRM, or asyncio's own timeout.

What lives here: the two wrappers of a handler. What must not: what a failed attempt leads to (``handling``).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import Any

from inlet.consumer.errors import BadRecord, HandlerTimeout


@contextlib.contextmanager
def limited(handle: Callable[[Any], Any], timeout_ms: int) -> Iterator[Callable[[Any], Any]]:
    """Yield ``handle`` with a deadline (setitimer(2)); it raises HandlerTimeout in the handler, and again if caught.

    A call into C that does not return to the interpreter ends no sooner than it returns. Raises ValueError outside the
    main thread, the only one that Python runs signal handlers in.
    """
    if not timeout_ms:
        yield handle
        return
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("handle_timeout_ms needs the main thread, or AsyncReader")
    armed = fired = False
    seconds = timeout_ms / 1000

    def expired(number: int, frame: FrameType | None) -> None:
        nonlocal fired
        # An alarm of the last moment must not hit the reader's own code.
        if armed:
            fired = True
            raise _overdue(timeout_ms)

    def timed(argument: Any) -> Any:
        nonlocal armed, fired
        armed, fired = True, False
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
        try:
            try:
                return handle(argument)
            finally:
                armed = False
        finally:
            armed = False  # an alarm may have come just before the line above
            signal.setitimer(signal.ITIMER_REAL, 0)

    def call(argument: Any) -> Any:
        try:
            result = timed(argument)
        except BadRecord as error:
            if fired:
                raise _overdue(timeout_ms) from error
            raise
        if fired:
            raise _overdue(timeout_ms)
        return result

    before = signal.signal(signal.SIGALRM, expired)
    try:
        yield call
    finally:
        signal.signal(signal.SIGALRM, before)


def limited_async(handle: Callable[[Any], Awaitable[Any]], timeout_ms: int) -> Callable[[Any], Awaitable[Any]]:
    """Return ``handle`` with a deadline (``asyncio.timeout``): it is canceled, and the call raises HandlerTimeout."""
    if not timeout_ms:
        return handle

    async def call(argument: Any) -> Any:
        deadline = asyncio.timeout(timeout_ms / 1000)
        try:
            async with deadline:
                result = await handle(argument)
        except (TimeoutError, BadRecord) as error:
            if not deadline.expired():
                raise
            raise _overdue(timeout_ms) from error
        if deadline.expired():
            raise _overdue(timeout_ms)
        return result

    return call


def _overdue(timeout_ms: int) -> HandlerTimeout:
    """Return what a call has failed with once its deadline has passed, whatever the handler makes of it."""
    return HandlerTimeout(f"the handler took longer than {timeout_ms} ms")
