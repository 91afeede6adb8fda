"""Steps: what a reader asks its driver to do, and the patience with a store that is away. No I/O, no clock.

What lives here: ``Call``, ``Wait`` and ``Invoke``; sending commands until the store takes them. What must not: what the
commands are for (``core``), sockets, sleeping.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

from consumer import plan
from consumer.errors import GROUP_GONE, PASSING, RECONNECT, Fault, Stopped, StoreAway, StoreRefuses

log = logging.getLogger("inlet.consumer")

STOP_SECONDS_MAX = 3.0
"""How long a stopping reader tries to reach a store that is away, to ack what it has handled."""

T = TypeVar("T")


class Call(NamedTuple):
    """Send these commands in one go; be sent the replies, a Fault for each error reply. May raise StoreAway."""

    commands: list[tuple[Any, ...]]
    reconnect: bool = False


class Wait(NamedTuple):
    """Come back after so many seconds, or sooner when told to stop."""

    seconds: float


class Invoke(NamedTuple):
    """Call the handler with this record, or entry; be thrown what it raises."""

    argument: Any


Steps = Generator[Call | Wait | Invoke, Any, T]


class Patient:
    """One consumer's dealings with the store: every command is sent until it is answered, or can never be."""

    def __init__(self, keys: tuple[str, ...], group: str, clock: Callable[[], float]) -> None:
        self.keys, self.group = keys, group
        self.stopping = False
        self.own: dict[int, bytes] = {}  # partition -> where to look for what is pending under our own name
        self._clock = clock
        self._stop_at = 0.0
        self._away: str | None = None

    def call(self, commands: list[tuple[Any, ...]]) -> Steps[list[Any]]:
        """Replies to ``commands``, sent as often as it takes: every one of them may be sent twice without harm.

        Raises StoreRefuses where waiting does not help, Stopped where the store stays away during a stop.
        """
        attempt, reconnect = 0, False
        while True:
            try:
                replies: list[Any] = yield Call(commands, reconnect)
            except StoreAway as error:
                # A reply with entries may be lost: they are pending under our name, and nobody has seen them.
                self.own = dict.fromkeys(range(len(self.keys)), b"-")
                attempt, reconnect = (yield from self._wait(error.detail, attempt)), False
                continue
            faults = [reply for reply in replies if isinstance(reply, Fault)]
            if not faults:
                if self._away is not None:
                    log.warning("consumer: the store is back")
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
        """Wait before the next try; say why, once."""
        if self._away is None:
            log.warning("consumer: waiting for the store: %s", why)
            self._away = why
        if self.stopping:
            self._stop_at = self._stop_at or self._clock() + STOP_SECONDS_MAX
            if self._clock() >= self._stop_at:
                raise Stopped(f"stopped while the store was away: {why}")
        yield Wait(plan.backoff_seconds(attempt, random.random()))
        return attempt + 1

    def _regroup(self, attempt: int) -> Steps[int]:
        """The group is gone, as after a flush: make it again from the oldest entry, so that nothing is passed over."""
        attempt = yield from self._wait(f"group {self.group!r} is gone; making it again from the oldest entry", attempt)
        try:
            # For partitions that still have theirs the reply is BUSYGROUP.
            yield Call([("XGROUP", "CREATE", key, self.group, "0", "MKSTREAM") for key in self.keys])
        except StoreAway:
            log.debug("consumer: the store went away meanwhile")
        return attempt
