"""Steps: what a session asks its driver to do, and the patience with a store that is away. No I/O, no clock.

What lives here: ``Call``, ``Wait`` and ``Invoke``; sending commands until the store takes them. What must not: what the
commands are for (``session``), sockets, sleeping.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from inlet.consumer.backoff import backoff_seconds
from inlet.consumer.errors import Stopped
from inlet.stream.errors import GROUP_GONE, PASSING, RECONNECT, Fault, StoreAway, StoreRefuses
from inlet.stream.keys import groups_key

log = logging.getLogger("inlet.consumer")

STOP_SECONDS_MAX = 3.0
"""Seconds a stopping reader tries to reach a store that is away, to ack what it has handled."""

OUT_OF_MEMORY = frozenset(("OOM",))
"""Acks and reads are let through when the store is out of memory, and lead to what frees it: never wait instead."""

T = TypeVar("T")


class Call(NamedTuple):
    """Send these commands in one go; be sent the replies, a Fault for each error reply. May raise StoreAway."""

    commands: list[tuple[Any, ...]]
    reconnect: bool = False


class Wait(NamedTuple):
    """Resume after so many seconds, or as soon as the reader is stopped."""

    seconds: float


class Invoke(NamedTuple):
    """Call the handler with this record or entry; what it raises is thrown into the generator."""

    argument: Any


Step = Call | Wait | Invoke
Steps = Generator[Step, Any, T]


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The end of the steps, and what they return."""

    value: T


def advance(steps: Steps[T], outcome: Any = None, error: Exception | None = None) -> Step | Done[T]:
    """Send ``outcome``, or throw ``error``, into the steps; return the next one, or Done."""
    try:
        return steps.send(outcome) if error is None else steps.throw(error)
    except StopIteration as stop:
        return Done(stop.value)


class Patient:
    """Send one consumer's commands until each is answered, or never can be.

    ``keys``: the stream's store keys, one a partition. ``clock``: seconds, never going back.
    """

    def __init__(self, keys: tuple[str, ...], group: str, clock: Callable[[], float]) -> None:
        self.keys, self.group = keys, group
        self.stopping = False
        self.losses = 0  # replies that were lost
        self.own: dict[int, bytes] = {}  # partition -> where to look for what is pending under our own name
        self._clock = clock
        self._stop_at = 0.0
        self._away: str | None = None

    def call(self, commands: list[tuple[Any, ...]], accept: Collection[str] = ()) -> Steps[list[Any]]:
        """Return the replies to ``commands``, which are sent as often as needed: each must be safe to send twice.

        ``accept``: codes of error replies to return like any other, as a Fault. Raises StoreRefuses if waiting does not
        help, Stopped if the store stays away during a stop.
        """
        attempt, reconnect = 0, False
        while True:
            try:
                replies: list[Any] = yield Call(commands, reconnect)
            except StoreAway as error:
                # A reply with entries may be lost: they are pending under our name, and nobody has seen them.
                self.losses += 1
                self.own = dict.fromkeys(range(len(self.keys)), b"-")
                attempt, reconnect = (yield from self._wait(error.detail, attempt)), False
                continue
            faults = [reply for reply in replies if isinstance(reply, Fault) and reply.code not in accept]
            if not faults:
                # An error that the caller accepts may be what is waited for.
                if self._away is not None and not any(isinstance(reply, Fault) for reply in replies):
                    log.warning("inlet: the store is back")
                    self._away = None
                return replies
            if any(fault.code in GROUP_GONE for fault in faults):
                attempt = yield from self._regroup(attempt)
                continue
            passing = next((fault for fault in faults if fault.code in PASSING), None)
            if passing is None:
                raise StoreRefuses(f"the store refuses: {faults[0].text}")
            reconnect = passing.code in RECONNECT
            attempt = yield from self._wait(passing.text, attempt)

    def _wait(self, why: str, attempt: int) -> Steps[int]:
        """Wait before the next try; log why, once."""
        if self._away is None:
            log.warning("inlet: waiting for the store: %s", why)
            self._away = why
        if self.stopping:
            self._stop_at = self._stop_at or self._clock() + STOP_SECONDS_MAX
            if self._clock() >= self._stop_at:
                raise Stopped(f"stopped while the store was away: {why}")
        yield Wait(backoff_seconds(attempt, random.random()))  # nosec B311  # jitter
        return attempt + 1

    def create(self, key: str, begin: str) -> Steps[None]:
        """Create the group on one partition at ``begin`` if it is not there, and let the keeper remember it."""
        attempt = 0
        while True:
            create = ("XGROUP", "CREATE", key, self.group, begin, "MKSTREAM")
            # Remembered first: a group that was created and forgotten would be trimmed past after a failover.
            replies = yield from self.call([remember(key, self.group), create], accept=("OOM", "BUSYGROUP"))
            if not isinstance(replies[-1], Fault) or replies[-1].code != "OOM":
                return
            [there] = yield from self.call([("XPENDING", key, self.group)], accept=GROUP_GONE)
            if not isinstance(there, Fault):
                return
            attempt = yield from self._wait(replies[-1].text, attempt)

    def _regroup(self, attempt: int) -> Steps[int]:
        """Create a group that is gone, as after a flush, again from the oldest entry, so that nothing is skipped."""
        attempt = yield from self._wait(f"group {self.group!r} is gone; creating it from the oldest entry", attempt)
        try:
            # For partitions that still have theirs the reply is BUSYGROUP.
            create = [("XGROUP", "CREATE", key, self.group, "0", "MKSTREAM") for key in self.keys]
            yield Call([*[remember(key, self.group) for key in self.keys], *create])
        except StoreAway:
            log.debug("inlet: the store went away meanwhile")
        return attempt


def remember(key: str, group: str) -> tuple[Any, ...]:
    """Return the HSETNX that lets the keeper hold entries for this group even where a failover has lost it."""
    return ("HSETNX", groups_key(key), group, int(time.time() * 1000))
