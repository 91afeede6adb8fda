"""The circuit: whether records may be taken now, and if not, why.

What lives here: one immutable value that says so, its changes, and one log line for each change. What must not: Redis,
threads, when to look at the store (``watcher``), what a batch is, what is logged of one destination (``barred``).

    closed --a commit fails--> open --the watcher's check succeeds--> closed

While it is open, records are refused at once: waiting for a store that just failed helps nobody. What a look finds
(backpressure, a default level that cannot be reached) refuses through the same value while the circuit is closed.

A destination that fails for a reason of its own (a wrong type, no permission, a backlog) is *barred*: refused alone,
until a look finds it well. A failure of the whole store opens the circuit for all destinations.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from wsgi import metrics
from wsgi.problems import SinkError
from wsgi.sink.barred import MISCONFIGURED, PRESSURE, BarredLog
from wsgi.sink.durability import NAMES

log = logging.getLogger("inlet")


class CircuitState(NamedTuple):
    """What holds until it is replaced. Read ``circuit.state`` once, and decide on what was read."""

    refusal: SinkError | None = None
    """Why records are refused; None to take them. Shared: raise ``fresh(refusal)``, never this object."""
    open: bool = False
    """The refusal stands for a commit or check that failed; otherwise for backpressure."""
    failing: str | None = None
    """Reason of the last failure, kept until a commit succeeds: each is logged once."""
    pressing: str | None = None
    """Reason of the last look's refusal; None once there is none."""
    unreachable: Mapping[int, SinkError] = MappingProxyType({})
    """Levels above the default that are refused now, and why. A level that is not here may be tried."""
    barred: Mapping[bytes, SinkError] = MappingProxyType({})
    """Destinations, by store key, that are refused alone, and why. Shared, as ``refusal`` is."""


class Circuit:
    """Closed, with no backpressure, until something else is reported. Safe for threads, and for forked children."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Start closed, with an unheld lock: at construction, and in a forked child."""
        self._lock = threading.Lock()
        self.state = CircuitState()
        self._failing_at: dict[int, str] = {}  # by level above the default: the reason that was logged
        self._log = BarredLog()
        self.failing_for = self._log.failing
        """Destinations whose last commit failed for reasons of their own, and the reason; empty if there is none."""
        self.opened = threading.Event()
        """Set while the circuit is open; the watcher waits for it."""

    def fail(self, error: SinkError) -> None:
        """Open: refuse from now on, with the reason of a failed commit, or of what a check found since."""
        with self._lock:
            state = self.state
            if state.failing != error.reason:
                level = logging.CRITICAL if error.reason in MISCONFIGURED else logging.ERROR
                log.log(level, "sink: commits fail, reason=%s: %s", error.reason, error.detail)
            refusal = error
            if error.reason not in MISCONFIGURED:
                detail = f"not tried, since a commit failed just now: {error.detail}"
                refusal = SinkError("sink-unavailable", detail)
            self.state = state._replace(refusal=refusal, open=True, failing=error.reason)
            self.opened.set()
            metrics.CIRCUIT_OPEN.set(1)

    def succeed(self) -> None:
        """Note that a commit succeeded."""
        if self.state.failing is None:
            return
        with self._lock:
            log.info("sink: commits succeed again")
            self.state = self.state._replace(failing=None)

    def fail_at(self, level: int, error: SinkError) -> None:
        """Refuse requests for a level above the default until the next look: a commit at this level has failed.

        That says nothing of the others: a slow fsync or replica is no reason to refuse them.
        """
        with self._lock:
            if self._failing_at.get(level) != error.reason:
                self._failing_at[level] = error.reason
                log.error("sink: commits at %s fail, reason=%s: %s", NAMES[level], error.reason, error.detail)
            detail = f"not tried, since a commit at {NAMES[level]} failed just now: {error.detail}"
            barred = {**self.state.unreachable, level: SinkError("sink-unavailable", detail)}
            self.state = self.state._replace(unreachable=barred)

    def succeed_at(self, level: int) -> None:
        """Note that a commit at a level above the default succeeded."""
        if level not in self._failing_at:
            return
        with self._lock:
            log.info("sink: commits at %s succeed again", NAMES[level])
            self._failing_at.pop(level, None)

    def bar(self, faults: Iterable[tuple[bytes, SinkError]]) -> None:
        """Refuse these destinations until the next look: a commit has failed for each, for a reason of its own."""
        faults = list(faults)
        with self._lock:
            self._log.failed(faults)
            self.state = self.state._replace(barred={**self.state.barred, **dict(faults)})

    def succeed_for(self, keys: Iterable[bytes]) -> None:
        """Note that commits to these destinations succeeded."""
        with self._lock:
            self._log.succeeded(keys)

    def look(
        self,
        seen: CircuitState,
        refusal: SinkError | None,
        unreachable: Mapping[int, SinkError] = MappingProxyType({}),
        streams: Mapping[bytes, SinkError | None] = MappingProxyType({}),
    ) -> None:
        """Take the verdict of a look at the store that succeeded: close, and refuse only for ``refusal``.

        ``seen``: the state when the look began. A failure since then stands. ``refusal``: backpressure, or the default
        level is out of reach; ``unreachable``: which levels above it are. ``streams``: the destinations that may be
        refused alone, and why each is, or None; nothing is remembered of others.
        """
        barred = {key: error for key, error in streams.items() if error is not None}
        with self._lock:
            state = self.state
            if state.barred is not seen.barred:
                was = seen.barred
                barred |= {key: error for key, error in state.barred.items() if was.get(key) is not error}
            self._log.looked(streams)
            pressing = refusal.reason if refusal is not None else None
            if refusal is not None and pressing != state.pressing:
                level = logging.WARNING if pressing in PRESSURE else logging.ERROR
                log.log(level, "sink: refusing, reason=%s: %s", pressing, refusal.detail)
            elif pressing != state.pressing:
                log.info("sink: accepting again")
            if state.open and not seen.open:
                self.state = state._replace(pressing=pressing, unreachable=unreachable, barred=barred)
                return
            self.state = CircuitState(refusal, False, state.failing, pressing, unreachable, barred)
            self.opened.clear()
            metrics.CIRCUIT_OPEN.set(0)


def fresh(error: SinkError) -> SinkError:
    """Return a copy to raise. A shared exception would collect the frames of everyone who raises it."""
    return SinkError(error.reason, error.detail, error.retry_after)
