"""A batch: the records of one commit, by destination, and what became of them. Data, and who waits for it.

What lives here: lines, their bounds, outcomes, callbacks. What must not: locks, commits (``lane``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from wsgi.problems import SinkError

_address = tuple.__new__  # PERF: a NamedTuple's own constructor takes three times as long


class RecordAddress(NamedTuple):
    """Where a record is stored."""

    entry_id: str
    """Empty at the level ``received``."""
    line: int
    duplicate: bool = False
    """It was stored before, and so not again."""


class Outcome(NamedTuple):
    """What became of lines ``start:stop`` of a part: an entry ID, or the error that kept them out."""

    start: int
    stop: int
    entry_id: str | None
    error: SinkError | None
    duplicates: Mapping[int, RecordAddress] = MappingProxyType({})
    """By line of the part: the lines that are not in the entry since they are stored elsewhere. If all are, its ID is
    empty."""

    def addresses(self, start: int, stop: int) -> list[RecordAddress]:
        """Return the address of each of the lines ``start:stop`` of the part, as far as they are of this outcome."""
        entry_id, duplicates, own = self.entry_id or "", self.duplicates, self.start
        lines = range(max(start, own), min(stop, self.stop))
        if not duplicates:
            return [_address(RecordAddress, (entry_id, line - own, False)) for line in lines]
        before = sum(line < start for line in duplicates)
        found = []
        for line in lines:
            known = duplicates.get(line)
            before += known is not None
            found.append(known or RecordAddress(entry_id, line - own - before))
        return found


class Part:
    """The lines of one batch for one destination. ``outcomes`` cover them all once the batch is done."""

    __slots__ = ("lines", "outcomes", "starts")

    def __init__(self) -> None:
        self.lines: list[bytes] = []  # empty again once all are sent
        self.starts: list[int] = []  # of each request, an index into lines
        self.outcomes: list[Outcome] = []


Begin = Callable[["Batch", Any], object]
"""``Lane.begin``."""


class Batch:
    """The records of one commit, all at one level. ``stream``: the default destination.

    It is a future: ``add_done_callback`` as of asyncio's and concurrent.futures' own.
    """

    __slots__ = (
        "_begin", "_callbacks", "bytes", "done", "failed", "level_error", "main", "parts", "requests", "wanted",
        "watch",
    )  # fmt: skip

    def __init__(self, stream: bytes, begin: Begin) -> None:
        self._begin = begin  # starts the commit, and returns this batch if it is what to wait for
        self.watch: Any = None  # the event loop's, where there is one
        self.main = Part()
        self.parts = {stream: self.main}  # by destination; main may be empty
        self.bytes = 0  # of all lines
        self.requests = 0
        self.wanted = False  # some request waits for it, so it is sent as soon as it can be
        self.done = False
        self.level_error: SinkError | None = None  # why the level was not reached
        self.failed = False  # some outcome is an error, or level_error is one
        self._callbacks: list[Callable[[Batch], object]] = []

    def part(self, destination: bytes) -> Part:
        """Return the part for ``destination``, which is made as needed."""
        part = self.parts.get(destination)
        if part is None:
            part = self.parts[destination] = Part()
        return part

    def finish(self, error: SinkError) -> None:
        """Give every record the outcome ``error``."""
        for part in self.parts.values():
            part.outcomes = [Outcome(0, sys.maxsize, None, error)]
        self.failed = self.done = True

    def add_done_callback(self, callback: Callable[[Batch], object]) -> None:
        """Call ``callback`` with this batch once its outcome is known, or it needs ``Ticket.begin`` again.

        Starts the commit if nothing has. At once if it is done. Only the thread that calls ``begin`` may call this.
        """
        if not self.done and (self.wanted or self.watch is None or self._begin(self, self.watch) is self):
            self._callbacks.append(callback)
        else:
            callback(self)

    def wake(self) -> None:
        """Make the calls that were asked for."""
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)
