"""The last keys file that could be used, in memory that all processes since the fork share.

What lives here: that memory, and telling a whole write from a torn one. What must not: what the bytes mean.

Without it a worker that starts while the file is broken would have the keys that the master read when it started, and
a key that was revoked since would be valid again.
"""

from __future__ import annotations

import hashlib
import mmap
import struct

_HEAD = struct.Struct("<32sI")
"""SHA-256 of length and content, then the length in bytes."""
_ATTEMPTS = 100
"""Reads of a content that another process is writing: a write takes microseconds."""


class LastGood:
    """Up to ``bytes_max`` bytes of anonymous shared memory (mmap(2)). Build it before the fork."""

    def __init__(self, bytes_max: int) -> None:
        self._memory = mmap.mmap(-1, _HEAD.size + bytes_max)

    def write(self, data: bytes) -> None:
        """Share ``data``; whichever process writes last wins. It is left alone if it is there already."""
        head = _HEAD.pack(_digest(data), len(data))
        if self._memory[: _HEAD.size] != head:
            self._memory[: _HEAD.size + len(data)] = head + data

    def read(self) -> bytes | None:
        """Return what was shared last, or None if it never comes whole."""
        for _ in range(_ATTEMPTS):
            digest, length = _HEAD.unpack_from(self._memory)
            data = self._memory[_HEAD.size : _HEAD.size + length]
            if _digest(data) == digest and len(data) == length:
                return data
        return None


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
