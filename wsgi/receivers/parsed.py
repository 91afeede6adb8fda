"""What a receiver makes of a body: lines to store, and the records that it refused.

What lives here: the types that receivers and the pipeline share. What must not: how a body is read, how an answer
looks.
"""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

from inlet.stream.rejected import Rejected as Rejected
from inlet.stream.rejected import bytes_of
from wsgi.problems import ClientError

REJECTIONS_KEPT_MAX = 1_000
"""Rejections of a bulk that are kept in words, and so can be listed in an answer; all of them are counted. A bulk of
50,000 bad records would otherwise hold megabytes of words that nobody sees."""

ROWS_MAX = 100
"""Rejected records of a request whose texts are kept (INLET_KEEP_REJECTED): enough to find what is wrong with a
producer; one bad bulk must not push everybody else's out of ``<stream>:rejected``."""
ROWS_BYTES_MAX = 262_144
"""Bytes of memory that those rows take at most, about."""


class Rejection(NamedTuple):
    """One record of a bulk that was refused. ``event_id`` is None where there is none that can be named."""

    index: int  # type: ignore[assignment]  # tuple.index is not wanted here; the name is the wire contract's
    event_id: str | None
    reason: str
    detail: str


class Rejections:
    """The records of one bulk that were refused, in its order; ``len`` counts them all."""

    __slots__ = ("_rows_bytes", "counts", "indexes", "kept", "rows")

    def __init__(self) -> None:
        self.kept: list[Rejection] = []
        """The first REJECTIONS_KEPT_MAX, in words."""
        self.counts: dict[str, int] = {}
        """Reason -> rejections."""
        self.indexes = array("L")
        """Index of each, ascending."""
        self.rows: list[Rejected] = []
        """The first ones with their texts, where the bulk's rules ask for them: ROWS_MAX, ROWS_BYTES_MAX."""
        self._rows_bytes = 0

    def __len__(self) -> int:
        return len(self.indexes)

    @property
    def full(self) -> bool:
        """Whether the words of further ones are dropped; ``add`` then takes none."""
        return len(self.kept) >= REJECTIONS_KEPT_MAX

    @property
    def wants_rows(self) -> bool:
        """Whether ``keep`` has room left."""
        return len(self.rows) < ROWS_MAX and self._rows_bytes < ROWS_BYTES_MAX

    def keep(self, row: Rejected) -> None:
        """Keep a rejected record's text, unless the rows would take too many bytes; then no further one is kept."""
        self._rows_bytes += bytes_of(row)
        if self._rows_bytes <= ROWS_BYTES_MAX:
            self.rows.append(row)

    def add(self, index: int, event_id: str | None, reason: str, detail: str) -> None:
        """Note one more; ``index`` is over all before."""
        kept = self.kept
        if len(kept) < REJECTIONS_KEPT_MAX:
            if kept and kept[-1].detail == detail:
                detail = kept[-1].detail  # one string, where a producer makes one mistake throughout
            kept.append(Rejection(index, event_id, reason, detail))
        self.count(index, reason)

    def count(self, index: int, reason: str) -> None:
        """Note one more without its words; for use where ``full``."""
        self.indexes.append(index)
        self.counts[reason] = self.counts.get(reason, 0) + 1


class Parsed(NamedTuple):
    """What a body holds: at least one line, unless the receiver is ``partial``."""

    lines: list[bytes]
    rejections: Rejections | None
    """None where every record is valid."""
    unknown: int
    """Members of the valid records that the contract does not know."""
    context: Any
    """Whatever else the receiver needs for its answer."""


class NothingAccepted(ClientError):
    """A bulk in which no record is valid. ``rejections``: all of its records; empty where it holds none."""

    def __init__(self, detail: str, rejections: Rejections) -> None:
        super().__init__("nothing-accepted", detail)
        self.rejections = rejections
