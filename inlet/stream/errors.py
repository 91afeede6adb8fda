"""Exceptions that the server and the consumers share, and what an error reply of the store means.

What lives here: the root of both trees, the faults of one record, and the store's failures as a reader sees them. What
must not: HTTP statuses (``wsgi.problems``), redis-py, I/O.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple


class InletError(Exception):
    """Root of every failure that Inlet names. ``detail`` is one plain sentence; it never quotes untrusted bytes raw."""

    reason: ClassVar[str] = "internal"
    """Stable slug. Problem documents, log lines, and metric labels use the same word."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class RecordInvalid(InletError):
    """One record breaks the record contract of docs/protocol.md."""

    reason = "invalid-record"


class RecordTooLarge(RecordInvalid):
    """One record, or one of its members, exceeds its bound."""

    reason = "record-too-large"


class ConsumerError(InletError):
    """Root of what the consumer library and the commands raise."""


class StoreAway(ConsumerError):
    """The store cannot be reached, or refuses for a passing cause. Readers wait; commands may give up."""


class StoreRefuses(ConsumerError):
    """Waiting does not help: wrong credentials, no permission, the key is not a stream, an unknown command."""


PASSING = frozenset(
    ("OOM", "LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "MISCONF", "BUSY", "CLUSTERDOWN", "TRYAGAIN")
)
"""First words of the error replies that pass with time; every other one needs the operator."""
GROUP_GONE = frozenset(("NOGROUP", "UNBLOCKED"))
"""The group or its stream was deleted; UNBLOCKED ends a read that was blocked on it (before Redis 7.2)."""
RECONNECT = frozenset(("READONLY", "MASTERDOWN", "LOADING"))
"""Passing errors after which the address may lead to another server: connect again."""


class Fault(NamedTuple):
    """An error reply: its first word, and the whole line."""

    code: str
    text: str


def fault(text: str, code: str | None = None) -> Fault:
    """Return the Fault of an error reply; ``code`` is its first word where redis-py has cut it off ``text``."""
    line = " ".join(text.split())[:200]
    first = code or line.partition(" ")[0]
    return Fault(first, line if line.startswith(first) else f"{first} {line}")
