"""What has arrived on a connection and is not part of a request yet.

What lives here: bytes that were read, and how far they are used. They are parsed where they are: what is behind a
request is not copied when the request is taken, however many are pipelined. What must not: what the bytes mean beyond
where a head ends.
"""

from __future__ import annotations

import re

from wsgi.server.head import HEAD_END

_EMPTY_LINES = re.compile(rb"(?:\r\n)+")
"""Before a request; RFC 9112 section 2.2 wants at least one ignored."""


class Inbox:
    """``data`` was read, and is used up to ``at``; ``unread`` came after it. ``partial``: the beginning of a head."""

    __slots__ = ("at", "data", "partial", "unread")

    def __init__(self) -> None:
        self.data = b""
        self.at = 0
        self.unread = b""
        self.partial = bytearray()

    def size(self) -> int:
        """Return how many bytes are left to use."""
        return len(self.data) - self.at + len(self.unread)

    def head_end(self) -> int:
        """Return the offset in ``data`` where the head at ``at`` ends, or -1. Skips empty lines before it."""
        if self.data.startswith(b"\r\n", self.at):
            empty = _EMPTY_LINES.match(self.data, self.at)
            assert empty is not None
            self.at = empty.end()
        end = self.data.find(HEAD_END, self.at)
        if end >= 0:
            return end + len(HEAD_END)
        if not self.unread:
            return -1
        self.data, self.at, self.unread = self.data[self.at :] + self.unread, 0, b""
        return self.head_end()

    def begin_head(self) -> None:
        """Move what is left to ``partial``: it is not a whole head."""
        self.partial = bytearray(self.data[self.at :])
        self.data, self.at = b"", 0

    def find_head(self, seen: int) -> bool:
        """Move ``partial`` back to ``data`` if it holds a whole head, not to be found in the first ``seen`` bytes."""
        if self.partial.find(HEAD_END, max(seen - len(HEAD_END) + 1, 0)) < 0:
            return False
        self.data, self.partial = bytes(self.partial), bytearray()
        return True

    def add_to_head(self, data: bytes) -> int:
        """Add to ``partial``, without empty lines before the head; return how many of its bytes were there before."""
        seen = len(self.partial)
        self.partial += data
        return self.skip_empty_lines(seen)

    def skip_empty_lines(self, seen: int) -> int:
        """Drop empty lines from ``partial``; return 0 if there were any, else ``seen``."""
        empty = _EMPTY_LINES.match(self.partial)
        if empty is None:
            return seen
        self.partial = self.partial[empty.end() :]
        return 0

    def starts_with(self, prefix: bytes) -> bool:
        """Return whether what is left starts like this."""
        return (self.partial or self.data[self.at :]).startswith(prefix)

    def go_on(self) -> bool:
        """Drop ``data`` if it is used up; return whether anything is left."""
        if self.at == len(self.data):
            self.data, self.at, self.unread = self.unread, 0, b""
        return bool(self.data)

    def keep(self, data: bytes, at: int) -> None:
        """Keep what is behind a body that came in pieces.

        Not in ``data``: a turn would take a head there that equals the last one for the request that is in hand.
        """
        self.data, self.at, self.unread = b"", 0, data[at:]

    def clear(self) -> None:
        """Drop everything."""
        self.data, self.at, self.unread, self.partial = b"", 0, b"", bytearray()
