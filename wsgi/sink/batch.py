"""A batch: the records of one commit, by destination, and what became of them. Data only.

What lives here: lines, their bounds, outcomes. What must not: locks, commits (``batches``).
"""

from __future__ import annotations

from typing import NamedTuple

from wsgi.problems import SinkError


class Outcome(NamedTuple):
    """What became of lines ``start:stop`` of a part: an entry ID, or the error that kept them out."""

    start: int
    stop: int
    entry_id: str | None
    error: SinkError | None


class Part:
    """The lines of one batch for one destination. ``outcomes`` cover them all once the batch is done."""

    __slots__ = ("lines", "outcomes", "starts")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.starts: list[int] = []  # of each request, an index into lines
        self.outcomes: list[Outcome] = []


class Batch:
    """The records of one commit. ``stream``: the default destination."""

    __slots__ = ("bytes", "done", "failed", "level", "level_error", "main", "parts", "requests")

    def __init__(self, stream: bytes, level: int) -> None:
        self.main = Part()
        self.parts = {stream: self.main}  # by destination; main may be empty
        self.bytes = 0  # of all lines
        self.requests = 0
        self.level = level  # the highest that a request of it asks for
        self.done = False
        self.level_error: SinkError | None = None  # why ``level`` was not reached
        self.failed = False  # some outcome is an error, or level_error is one

    def part(self, destination: bytes) -> Part:
        """Return the part for ``destination``, which is made as needed."""
        part = self.parts.get(destination)
        if part is None:
            part = self.parts[destination] = Part()
        return part

    def finish(self, error: SinkError) -> None:
        """Give every record the outcome ``error``."""
        for part in self.parts.values():
            part.outcomes = [Outcome(0, len(part.lines), None, error)]
        self.failed = self.done = True
