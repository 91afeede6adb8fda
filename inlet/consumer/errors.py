"""What the consumer library raises beside the store's failures of ``inlet.stream.errors``.

What lives here: classes. What must not: I/O, redis-py.
"""

from __future__ import annotations

from inlet.stream.errors import ConsumerError

WORDS_CHARS_MAX = 200
"""Characters of what a handler's exception says: one line on a screen."""


class Stopped(ConsumerError):
    """The reader was stopped while it waited for the store. Unacked entries are delivered again.

    A handler may raise it to end ``run``: its entry is handed back, and the call is not counted as an attempt.
    """

    def __init__(self, detail: str = "stopped") -> None:
        super().__init__(detail)


class HandlerTimeout(ConsumerError):
    """A call of the handler took longer than ``handle_timeout_ms``. It counts as a failed attempt."""

    def __init__(self, detail: str = "the handler took too long") -> None:
        super().__init__(detail)


class HandlerCanceled(ConsumerError):
    """A task that a coroutine function waited for was canceled, not the reader's. It counts as a failed attempt."""


class Unsafe(ConsumerError):
    """An operation would lose records that a group has not acked."""


class BadRecord(ConsumerError):
    """Raise it in a handler for a record that no retry can help: it goes to the dead-letter stream at once.

    ``detail``: why, as text or as the exception that says so. ``line``: the record's line, needed only by handlers of
    whole entries.
    """

    def __init__(self, detail: object = "the handler takes no such record", line: int | None = None) -> None:
        super().__init__(words(detail))
        self.line = line


def words(value: object) -> str:
    """Return the text of what a handler raised, on one line. Raises nothing, whatever the value's ``__str__`` does."""
    try:
        # Half a character (a lone surrogate) can be neither stored nor logged.
        return " ".join(str(value).split())[:WORDS_CHARS_MAX].encode(errors="replace").decode()
    except Exception:
        return f"({type(value).__name__} without a text)"
