"""The framing of protobuf: fields of a message found without decoding it, and fields written.

What lives here: walking fields, and numbers of base 128. What must not: what a field means, which errors there are.

Encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from wsgi.problems import ClientError

Malformed = Callable[[str], ClientError]
"""Makes the error of what is no message, from words for it."""
Field = tuple[int, int, int, int]
"""Tag, where a field begins, where its value begins, and where it ends."""


def fields(data: bytes, at: int, end: int, malformed: Malformed) -> Iterator[Field]:
    """Return each field of the message that is ``data[at:end]``.

    Raises what ``malformed`` makes of words for it, once it comes to what is wrong. Groups are, which proto3 has not.
    """
    while at < end:
        begin, tag = at, data[at]
        at += 1
        if tag >= 0x80:
            tag, at = _varint(data, begin, end, malformed)
        wire = tag & 7
        start = at
        if wire == 2:
            if at >= end:
                raise malformed("it ends within a field")
            size = data[at]
            at += 1
            if size >= 0x80:
                size, at = _varint(data, start, end, malformed)
            start = at
            at += size
        elif wire == 0:
            _, at = _varint(data, at, end, malformed)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise malformed("a field has a wire type that OTLP does not use")
        if tag < 8:
            raise malformed("a field has the number 0")
        if at > end:
            raise malformed("a field is longer than what is left")
        yield tag, begin, start, at


def _varint(data: bytes, at: int, end: int, malformed: Malformed) -> tuple[int, int]:
    """A number of base 128, and where it ends."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise malformed("a number does not end")


def field(tag: int, value: bytes) -> bytes:
    """Return one length-delimited field."""
    return varint(tag) + varint(len(value)) + value


def varint(number: int) -> bytes:
    """Return a number of base 128; not negative."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
