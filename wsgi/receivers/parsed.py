"""What a receiver makes of a body: lines to store, and the records that it refused.

What lives here: the types that receivers and the pipeline share. What must not: how a body is read, how an answer
looks.
"""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

from wsgi.problems import ClientError

REJECTIONS_KEPT_MAX = 1_000
"""Rejections of a bulk that are kept in words, and so can be listed in an answer; all of them are counted. A bulk of
50,000 bad records would otherwise hold megabytes of words that nobody sees."""


class Rejection(NamedTuple):
    """One record of a bulk that was refused. ``event_id`` is None where there is none that can be named."""

    index: int  # type: ignore[assignment]  # tuple.index is not wanted here; the name is the wire contract's
    event_id: str | None
    reason: str
    detail: str


class Rejections:
    """The records of one bulk that were refused, in its order; ``len`` counts them all."""

    __slots__ = ("counts", "indexes", "kept")

    def __init__(self) -> None:
        self.kept: list[Rejection] = []
        """The first REJECTIONS_KEPT_MAX, in words."""
        self.counts: dict[str, int] = {}
        """Reason -> rejections."""
        self.indexes = array("L")
        """Index of each, ascending."""

    def __len__(self) -> int:
        return len(self.indexes)

    @property
    def full(self) -> bool:
        """Whether the words of further ones are dropped; ``add`` then takes none."""
        return len(self.kept) >= REJECTIONS_KEPT_MAX

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
    """What a body holds: at least one line."""

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
