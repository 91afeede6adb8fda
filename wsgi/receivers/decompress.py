"""Content codings (RFC 9110 section 8.4) undone, bounded while decoding.

What lives here: gzip, deflate and zstd, their bounds, and what is wrong with a compressed body. What must not: what the
decoded bytes hold.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Generator
from time import monotonic

import zstandard

from wsgi.problems import ClientError
from wsgi.receivers.body import too_large
from wsgi.receivers.slices import SLICE_SECONDS

DECODE_CHUNK_BYTES = 65_536
"""Bytes of a compressed body that a decoder sees, or gives, at a time."""
FRAME_CHUNK_BYTES = 262_144
"""Bytes that a decoder of zstd gives at a time, about, where nothing but the body bounds it."""
MEMBERS_MAX = 1_024
"""Gzip members or zstd frames of a body: concatenated logs have dozens; a bomb of empty ones has 400,000."""
ZSTD_WINDOW_BYTES_MAX = 8_388_608
"""What a zstd frame's header may make the decoder allocate: the window that RFC 9659 allows."""
ACCEPTED = "gzip, deflate, zstd"
"""Content codings, as the header Accept-Encoding of a 415 lists them (RFC 9110 section 12.5.3)."""

EITHER = ["gzip", "deflate"]
"""Both at once: what graypy and pygelf, the GELF handlers of Python, say of one of the two. The data tells which."""

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_PLAIN_TEXT = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*[{\[]")


def decompress(body: bytes, content_encoding: str, bytes_max: int) -> Generator[None, None, bytes]:
    """Return the body with its Content-Encoding undone: gzip, x-gzip, deflate (zlib's, or raw), zstd, identity.

    Yields about every SLICE_SECONDS of work. Never decodes more than ``bytes_max`` and a chunk. Raises ClientError:
    ``payload-too-large`` beyond, ``malformed-payload`` for data that is corrupt, cut short or followed by other data,
    ``unsupported-content-encoding`` for other codings and for several at once.
    """
    names = (name.strip().lower() for name in content_encoding.split(","))
    codings = [name for name in names if name not in ("", "identity")]
    if not codings:
        return body
    if codings == EITHER:
        if not body.startswith(_GZIP):
            body = yield from _undeflate(body, bytes_max)
        # As the standard has it, both, one after the other; JSON never begins so.
        codings = ["gzip"] if body.startswith(_GZIP) else []
        if not codings:
            return body
    if len(codings) > 1:
        raise _unsupported(f"send one Content-Encoding at a time: one of {ACCEPTED}, identity")
    coding = codings[0]
    if coding in ("gzip", "x-gzip"):
        if not body.startswith(_GZIP):
            raise _mislabelled(body, "gzip")
        return (yield from _inflate(body, 16 + zlib.MAX_WBITS, MEMBERS_MAX, bytes_max))
    if coding == "deflate":
        return (yield from _undeflate(body, bytes_max))
    if coding == "zstd":
        # Beside frames there are skippable ones, of sixteen magic numbers (RFC 8878 section 3.1.2).
        if not body.startswith(_ZSTD) and not body[1:4] == b"\x2a\x4d\x18":
            raise _mislabelled(body, "zstd")
        return (yield from _unzstd(body, bytes_max))
    raise _unsupported(f"Content-Encoding must be one of {ACCEPTED}, identity")


def _undeflate(body: bytes, bytes_max: int) -> Generator[None, None, bytes]:
    """zlib's format as the standard has it (RFC 9110 section 8.4.1.2), or raw deflate, as some clients send it."""
    try:
        return (yield from _inflate(body, zlib.MAX_WBITS, 1, bytes_max))
    except ClientError as error:
        if error.reason != "malformed-payload":
            raise
    try:
        return (yield from _inflate(body, -zlib.MAX_WBITS, 1, bytes_max))
    except ClientError as error:
        # Only now: a raw stream may begin with any of these.
        if error.reason == "malformed-payload" and (_PLAIN_TEXT.match(body) or label(body) in ("gzip", "zstd")):
            raise _mislabelled(body, "deflate") from None
        raise


def label(body: bytes) -> str | None:
    """Return the Content-Encoding that ``body`` begins like (RFC 1952, RFC 1950, RFC 8878), or None."""
    if body.startswith(_GZIP):
        return "gzip"
    if body.startswith(_ZSTD):
        return "zstd"
    return "deflate" if _is_zlib(body) else None


def _is_zlib(body: bytes) -> bool:
    """Whether the first two bytes are a zlib header (RFC 1950 section 2.2) with a window as every compressor sets."""
    return body[:1] == b"\x78" and len(body) > 1 and (body[0] * 256 + body[1]) % 31 == 0


def _inflate(body: bytes, wbits: int, members_max: int, bytes_max: int) -> Generator[None, None, bytes]:
    """zlib's three formats, told apart by ``wbits``."""
    pieces: list[bytes] = []
    room, members, decoder = bytes_max, 1, zlib.decompressobj(wbits)
    due = monotonic() + SLICE_SECONDS
    for start in range(0, len(body), DECODE_CHUNK_BYTES):
        data = body[start : start + DECODE_CHUNK_BYTES]
        more = False  # whether the decoder may hold output back: it gave as much as it was allowed to
        while data or more:
            if decoder.eof:
                members += 1
                _check_members(members, members_max)
                decoder = zlib.decompressobj(wbits)
            # One byte over the room tells too much from just enough.
            allowed = min(room + 1, DECODE_CHUNK_BYTES)
            try:
                piece = decoder.decompress(data, allowed)
            except zlib.error:
                raise _corrupt() from None
            room -= len(piece)
            if room < 0:
                raise too_large(bytes_max)
            pieces.append(piece)
            more = len(piece) == allowed and not decoder.eof
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            if monotonic() >= due:
                yield
                due = monotonic() + SLICE_SECONDS
    if not decoder.eof:
        raise _corrupt()
    return b"".join(pieces)


def _unzstd(body: bytes, bytes_max: int) -> Generator[None, None, bytes]:
    """Frames of zstd (RFC 8878). Twice over the data: one API is bounded, the other tells a cut-off frame."""
    codec = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
    pieces: list[bytes] = []
    room = bytes_max
    due = monotonic() + SLICE_SECONDS
    try:
        reader = codec.stream_reader(body, read_across_frames=True)
        while piece := reader.read(DECODE_CHUNK_BYTES):
            room -= len(piece)
            if room < 0:
                raise too_large(bytes_max)
            pieces.append(piece)
            if monotonic() >= due:
                yield
                due = monotonic() + SLICE_SECONDS
        del reader  # its window is as large as the next decoder's
        yield from _check_frames(body, codec, bytes_max - room)
    except zstandard.ZstdError as error:
        # The library has no code for this; its text is libzstd's own, fixed one.
        raise (_wide_window() if "too much memory" in str(error) else _corrupt()) from None
    return b"".join(pieces)


def _check_frames(body: bytes, codec: zstandard.ZstdDecompressor, size: int) -> Generator[None, None, None]:
    """Decode once more, to see that there are few frames and that the last one is whole; all fit, in ``size`` bytes."""
    members, decoder = 1, codec.decompressobj()
    # This API is not bounded: give it as little of the body as holds FRAME_CHUNK_BYTES, on average.
    step = max(1, len(body) * FRAME_CHUNK_BYTES // max(size, FRAME_CHUNK_BYTES))
    due = monotonic() + SLICE_SECONDS
    for start in range(0, len(body), step):
        data = body[start : start + step]
        while data:
            if decoder.eof:
                members += 1
                _check_members(members, MEMBERS_MAX)
                decoder = codec.decompressobj()
            decoder.decompress(data)
            data = decoder.unused_data
            if monotonic() >= due:
                yield
                due = monotonic() + SLICE_SECONDS
    if not decoder.eof:
        raise _corrupt()


def _check_members(members: int, members_max: int) -> None:
    if members_max == 1:
        raise _corrupt()
    if members > members_max:
        detail = f"the body is compressed in more than {members_max} gzip members or zstd frames; compress it as one"
        raise ClientError("payload-too-large", detail)


def _mislabelled(body: bytes, coding: str) -> ClientError:
    """Say that a body is not what its Content-Encoding says, and what it looks like."""
    found = label(body)
    if not body:
        seen = "is empty"
    elif found is not None:
        seen = f"begins like {found}; send Content-Encoding: {found}"
    elif _PLAIN_TEXT.match(body):
        seen = "is plain text; compress it, or leave Content-Encoding out"
    else:
        seen = f"has no {coding} header; it is corrupt, or compressed otherwise"
    return ClientError("malformed-payload", f"Content-Encoding says {coding}, but the body {seen}")


def _wide_window() -> ClientError:
    detail = (
        f"a zstd frame needs a window of more than {ZSTD_WINDOW_BYTES_MAX} bytes (RFC 9659); compress without --long, "
        "or with windowLog 23 at most"
    )
    return ClientError("malformed-payload", detail)


def _unsupported(detail: str) -> ClientError:
    return ClientError("unsupported-content-encoding", detail)


def _corrupt() -> ClientError:
    return ClientError("malformed-payload", "the compressed body is corrupt, cut short, or followed by other data")
