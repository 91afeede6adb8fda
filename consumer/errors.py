"""What the consumer can raise: its own tree, so that no redis exception reaches a handler's code.

What lives here: classes, and what an error reply of the store means. What must not: I/O, redis-py.
"""

from __future__ import annotations

from typing import NamedTuple


class ConsumerError(Exception):
    """Root of the tree. ``detail`` is one plain line for a person."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class StoreAway(ConsumerError):
    """The store cannot be reached, or refuses for a passing cause. The readers wait it out; commands may give up."""


class StoreRefuses(ConsumerError):
    """Waiting does not help: wrong credentials, no permission, the key is no stream, an unknown command."""


class Stopped(ConsumerError):
    """The reader was told to stop while it waited for the store. What was not acked is handed out again."""


class Unsafe(ConsumerError):
    """An operation would lose records that a group has not acked."""


class BadRecord(ConsumerError):
    """Raise it in a handler for a record that no retry can help: it goes to the dead-letter stream at once.

    ``line``: the record's line, needed only by handlers of whole entries.
    """

    def __init__(self, detail: str, line: int | None = None) -> None:
        super().__init__(detail)
        self.line = line


PASSING = frozenset(
    ("OOM", "LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "MISCONF", "BUSY", "CLUSTERDOWN", "TRYAGAIN")
)
"""First words of the error replies that pass with time. READONLY: a failover, found again by connecting anew."""
GROUP_GONE = frozenset(("NOGROUP", "UNBLOCKED"))
"""The group or its stream was deleted; UNBLOCKED ends a read that was blocked on it (before Redis 7.2)."""
RECONNECT = frozenset(("READONLY", "MASTERDOWN", "LOADING"))
"""Of those, the ones after which the address may lead to another server: connect anew."""


class Fault(NamedTuple):
    """An error reply: its first word, and the whole line."""

    code: str
    text: str


def fault(text: str, code: str | None = None) -> Fault:
    """``text``: an error reply, perhaps without its first word, which redis-py cuts off some and gives as ``code``."""
    line = " ".join(text.split())[:200]
    first = code or line.partition(" ")[0]
    return Fault(first, line if line.startswith(first) else f"{first} {line}")
