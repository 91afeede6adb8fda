"""Raw snappy (one block, no frames), bounded before anything is decoded.

What lives here: the length that a block states, and its decoding, at once where it is short, else in slices. What must
not: what the decoded bytes hold. Source: google/snappy, ``format_description.txt``.

A block is a varint, the number of decoded bytes, and then elements: literals, and copies of what was decoded before.
"""

from __future__ import annotations

from collections.abc import Generator
from time import monotonic

import cramjam

from wsgi.problems import ClientError
from wsgi.receivers.body import too_large
from wsgi.receivers.slices import SLICE_SECONDS

WHOLE_BYTES_MAX = 262_144
"""Bytes of a block that is decoded in one step. Nobody can hold cramjam back: a block of one-byte copies takes it 23
nanoseconds each, 2 ms here and 65 ms in 8 MiB. Shippers send batches of about 1 MiB decoded, a fifth of it encoded."""
LENGTH_BYTES_MAX = 5
"""Bytes of the length: it has 32 bits."""
CHECKED_ELEMENTS = 256
"""Elements between two looks at the clock."""


def decoded_bytes(block: bytes, bytes_max: int) -> int:
    """Return the number of decoded bytes that a block states.

    Raises ClientError: ``malformed-payload`` where it states none, ``payload-too-large`` over ``bytes_max``.
    """
    size = 0
    for at, byte in enumerate(block[:LENGTH_BYTES_MAX]):
        size |= (byte & 127) << 7 * at
        if byte < 128:
            if size > bytes_max:
                raise too_large(bytes_max)
            return size
    raise malformed("the body is not raw snappy: it does not begin with the length of its content")


def decode(block: bytes, bytes_max: int) -> bytes:
    """Return the content of a block in one step. Raises ClientError as ``decoded_bytes``, also for a false length."""
    decoded_bytes(block, bytes_max)
    try:
        return bytes(cramjam.snappy.decompress_raw(block))
    except cramjam.DecompressionError:
        raise corrupt() from None


def decode_slices(block: bytes, bytes_max: int) -> Generator[None, None, bytes]:
    """Do as ``decode`` does, for a block of any size."""
    if len(block) <= WHOLE_BYTES_MAX:
        return decode(block, bytes_max)
    size, at, end = decoded_bytes(block, bytes_max), 0, len(block)
    while block[at] > 127:
        at += 1
    at += 1
    out, elements, due = bytearray(), 0, monotonic() + SLICE_SECONDS
    while at < end:
        tag = block[at]
        at += 1
        kind, length = tag & 3, tag >> 2
        if kind == 0:
            at, length = _literal_length(block, at, length)
            out += block[at : at + length]
            at += length
        else:
            extra = 1 if kind == 1 else 2 if kind == 2 else 4
            offset = int.from_bytes(block[at : at + extra], "little")
            at += extra
            if kind == 1:
                offset |= (tag >> 5) << 8
                length = (length & 7) + 3
            _copy(out, offset, length + 1)
        if at > end or len(out) > size:
            raise corrupt()
        elements += 1
        if not elements % CHECKED_ELEMENTS and monotonic() >= due:
            yield
            due = monotonic() + SLICE_SECONDS
    if len(out) != size:
        raise corrupt()
    return bytes(out)


def _literal_length(block: bytes, at: int, length: int) -> tuple[int, int]:
    """Where a literal begins, and how long it is."""
    if length < 60:
        return at, length + 1
    extra = length - 59
    return at + extra, int.from_bytes(block[at : at + extra], "little") + 1


def _copy(out: bytearray, offset: int, length: int) -> None:
    """Append ``length`` bytes that begin ``offset`` before the end; where they go beyond it, they repeat."""
    size = len(out)
    if not 0 < offset <= size:
        raise corrupt()
    if offset >= length:
        start = size - offset
        out += out[start : start + length]
    else:
        part = out[size - offset :]
        out += (part * (length // offset + 1))[:length]


def corrupt() -> ClientError:
    """Return the error of a block that cannot be decoded, or not to the length that it states."""
    return malformed("the body is not raw snappy: it is corrupt, cut short, or not as long as it says")


def malformed(detail: str) -> ClientError:
    """Return the error of a body that cannot be read."""
    return ClientError("malformed-payload", detail)
