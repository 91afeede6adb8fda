"""The structure of a JSON text (RFC 8259), chunk by chunk: what stands outside of strings, depth, top-level commas,
and where a value ends.

What lives here: one pass over a text of any size, whose every step is a few passes in C over one chunk. What must not:
values, words for what is wrong.

The text need not be JSON: then the answer may be wrong, but every step stays linear and nothing is raised.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import accumulate

CHUNK_BYTES = 16_384
"""Bytes of a text at a time: two milliseconds at worst, where all of them are brackets; mostly some 20 microseconds."""

VALUES_MAX = 100_000
"""Values that one record may hold, at any depth, those in unknown members included, as ``count_values`` counts them: a
record is decoded in one go, and 8 MiB of empty arrays would take a quarter of a second and 200 MB. A text of no more
bytes than this holds no more values, and needs no look."""
DECODED_DEPTH_MAX = 1_024
"""Where ujson gives up."""
NO_COMMA, TOO_MANY_VALUES = -1, -2
COMMA = ord(",")

TO_BRACES = bytes.maketrans(b"[]", b"{}")
"""Both kinds of bracket become braces."""
NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
"""Delete these to keep brackets alone."""

_NOT_MARKS = bytes(set(NOT_BRACKETS) - set(b","))
# What a byte of marks adds to the depth, by its value.
_STEP = [0] * 256
_STEP[ord("{")], _STEP[ord("}")] = 1, -1
_step = _STEP.__getitem__


def quoted_parts(text: bytes, start: int = 0) -> Iterator[tuple[int, list[bytes], bool]]:
    """Return (offset, parts, inside) of each chunk of ``text[start:]``, ``start`` being outside of a string.

    ``parts`` is the chunk cut at the quotes that begin or end strings; every other part is within a string, the first
    one where ``inside``. Joined by a quote they are as long as the chunk: escaped quotes and backslashes are replaced.
    """
    inside, size = False, len(text)
    while start < size:
        chunk = text[start : start + CHUNK_BYTES]
        # A chunk never ends between a backslash and what it escapes.
        if chunk.endswith(b"\\") and (len(chunk) - len(chunk.rstrip(b"\\"))) % 2:
            chunk = text[start : start + CHUNK_BYTES + 1]
        length = len(chunk)
        if b"\\" in chunk:
            chunk = chunk.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        parts = chunk.split(b'"')
        yield start, parts, inside
        inside ^= len(parts) % 2 == 0
        start += length


def depth_reached(braces: bytes, depth: int) -> int:
    """Return the greatest depth within ``braces`` (no other bytes), ``depth`` being the one before them."""
    return depth + max(accumulate(map(_step, braces), initial=0))


def count_values(text: bytes) -> Generator[None, None, int]:
    """Return how many commas and opening brackets stand outside of strings: about how many values there are to decode.

    Stops soon after VALUES_MAX.
    """
    values = 0
    for _, parts, inside in quoted_parts(text):
        outside = b"".join(parts[inside::2])
        values += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        if values > VALUES_MAX:
            break
        yield
    return values


def last_comma(text: bytes, start: int) -> Generator[None, None, int]:
    """Return the offset of a comma that separates two elements, ``start`` being where one begins.

    It is the last one of the first chunk that has one. Returns NO_COMMA if there is none, or none that a decoder comes
    to; TOO_MANY_VALUES if the element alone holds more than VALUES_MAX (by ``count_values``). Yields after each chunk.
    """
    depth = values = 0
    for offset, parts, inside in quoted_parts(text, start):
        first = int(not inside)
        # Strings become NULs, so that offsets stay.
        parts[first::2] = map(bytes, map(len, parts[first::2]))
        chunk = b"\0".join(parts)
        marks = chunk.translate(TO_BRACES, _NOT_MARKS)
        depths = list(accumulate(map(_step, marks), initial=depth))
        ended = -1 in depths
        if ended:  # the array's own closing bracket
            del depths[depths.index(-1) :]
        if 0 in depths:
            for at in range(min(len(depths), len(marks)) - 1, -1, -1):
                if depths[at] == 0 and marks[at] == COMMA:
                    commas = marks.count(b",", 0, at + 1)
                    return offset + len(chunk) - len(chunk.split(b",", commas)[commas]) - 1
        depth = depths[-1]
        if ended or depth > DECODED_DEPTH_MAX:
            return NO_COMMA
        values += len(marks) - marks.count(b"}")
        if values > VALUES_MAX:
            return TOO_MANY_VALUES
        yield
    return NO_COMMA


def closing_bracket(text: bytes, start: int) -> Generator[None, None, tuple[int, int]]:
    """Return the offset behind the bracket that closes the one at ``start``, and about how many values are between.

    -1 where there is none, or no bracket at ``start``. Yields after each chunk.
    """
    depth = values = 0
    for offset, parts, inside in quoted_parts(text, start):
        first = int(not inside)
        # Strings become NULs, so that offsets stay.
        parts[first::2] = map(bytes, map(len, parts[first::2]))
        chunk = b"\0".join(parts).translate(TO_BRACES)
        braces = chunk.translate(None, NOT_BRACKETS)
        if offset == start and not chunk.startswith(b"{"):
            return -1, 0
        values += chunk.count(b",") + chunk.count(b"{")
        depths = list(accumulate(map(_step, braces), initial=depth))
        if 0 in depths[1:]:
            closers = braces[: depths.index(0, 1)].count(b"}")
            return offset + len(chunk) - len(chunk.split(b"}", closers)[closers]), values
        depth = depths[-1]
        yield
    return -1, values
