"""What the consumer library raises beside the store's failures of ``inlet.stream.errors``.

What lives here: classes. What must not: I/O, redis-py.
"""

from __future__ import annotations

from inlet.stream.errors import ConsumerError


class Stopped(ConsumerError):
    """The reader was stopped while it waited for the store. Unacked entries are delivered again.

    A handler may raise it to end ``run``: its entry is handed back, and the call is not counted as an attempt.
    """


class HandlerTimeout(ConsumerError):
    """A call of the handler took longer than ``handle_timeout_ms``. It counts as a failed attempt."""


class Unsafe(ConsumerError):
    """An operation would lose records that a group has not acked."""


class BadRecord(ConsumerError):
    """Raise it in a handler for a record that no retry can help: it goes to the dead-letter stream at once.

    ``line``: the record's line, needed only by handlers of whole entries.
    """

    def __init__(self, detail: str, line: int | None = None) -> None:
        super().__init__(detail)
        self.line = line
