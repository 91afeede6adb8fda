"""Payload: the bytes of one request's body -> lines of valid records, and a rejection for each other one. Pure.

What lives here: media types, content encodings (bounded while decoding), the three formats, and the bounds on
a body. What must not: HTTP requests and responses, Redis, what makes a record valid (``record`` owns that).

Decisions:
- An empty or blank body is MalformedPayload. An empty array is JSON, but nothing to store: NothingAccepted.
- A leading UTF-8 byte order mark is ignored, as RFC 8259 section 8.1 permits. Of duplicate members the last
  wins.
- What ujson reads beyond JSON (NaN, leading zeros, raw control characters) is let in: a line is written anew,
  so it does no harm in an unknown member, and ``record`` refuses or escapes it in a known one.
- In a bulk, ``index`` counts the elements of the array, or the lines that are not blank, from 0.
- An array that does not parse as a whole is MalformedPayload; a bad NDJSON line is one rejection.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import ujson
import zstandard

from wsgi.errors import (
    MalformedPayload,
    NothingAccepted,
    PayloadTooLarge,
    RecordInvalid,
    UnsupportedContentEncoding,
    UnsupportedMediaType,
)
from wsgi.record import LOADS_ERRORS, RecordLimits, encoder, unknown_members

DECODE_CHUNK_BYTES = 65_536
"""Bytes of a compressed body that a decoder sees, or gives, at a time."""
MEMBERS_MAX = 1_024
"""Gzip members or zstd frames of a body: concatenated logs have dozens; a bomb of empty ones has 400,000."""
ZSTD_WINDOW_BYTES_MAX = 8_388_608
"""What a zstd frame's header may make the decoder allocate: the window that RFC 9659 allows."""
CONTENT_TYPE_CHARS_MAX = 256
"""Longer ones are not parsed."""
EVENT_ID_ECHO_CHARS_MAX = 256
"""Characters of a rejected record's event_id that its rejection names."""
MALFORMED_RECORD = "malformed-record"
"""Reason of a line of NDJSON that is not JSON."""

_TYPES = (
    "Content-Type must be application/json (an object is one record, an array a bulk), or "
    "application/x-ndjson, application/jsonl or application/jsonlines (one record a line)"
)
_NDJSON = frozenset({"application/x-ndjson", "application/jsonl", "application/jsonlines"})
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii"})
_PARAMETER = re.compile(r';\s*([^=;\s]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s]*)')
_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"
_BLANK_LINES = re.compile(rb"\n[ \t\r\n]+")
_STRING = re.compile(rb'"[^"]*"')
# For nesting only: both kinds of bracket become braces, and all but braces and quotes is deleted.
_TO_BRACES = bytes.maketrans(b"[]", b"{}")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))


class Rejection(NamedTuple):
    """One record of a bulk that was refused. ``event_id`` is None where there is none that can be named."""

    index: int  # type: ignore[assignment]  # tuple.index is not wanted here; the name is the wire contract's
    event_id: str | None
    reason: str
    detail: str


class Parsed(NamedTuple):
    """What a body holds: at least one line. ``unknown`` counts the unknown members of the valid records."""

    lines: list[bytes]
    rejections: list[Rejection]
    bulk: bool
    unknown: int


_parsed = tuple.__new__  # PERF: a NamedTuple's own constructor is in Python


@dataclass(frozen=True)
class PayloadLimits:
    """Bounds on one body."""

    payload_bytes_max: int = 8_388_608
    """Bytes, before and after decoding: what one request may make a worker hold."""
    bulk_records_max: int = 50_000
    """Records of a bulk, rejected ones included: bounds the time of one turn, and the list of rejections."""
    nesting_depth_max: int = 32
    """Arrays and objects within each other, whatever is in unknown members; ujson's own bound is 1024."""


class Parser:
    """Bodies -> records, with every bound taken at construction. Holds no state: safe between threads."""

    def __init__(self, payload_limits: PayloadLimits, record_limits: RecordLimits) -> None:
        self._limits = payload_limits
        self._bytes_max = payload_limits.payload_bytes_max
        self._depth_max = payload_limits.nesting_depth_max
        self._encode: Callable[[object], bytes] = encoder(record_limits)
        # The spellings that nearly every client uses need no parsing.
        self._is_ndjson: dict[str | None, bool] = {None: False, "": False, "application/json": False}
        for name in ("application/json; charset=utf-8", "application/json;charset=utf-8", *sorted(_NDJSON)):
            self._is_ndjson[name] = is_ndjson(name)

    def parse(self, body: bytes, content_type: str | None, content_encoding: str | None) -> Parsed:
        """Return the lines and rejections of ``body``, which is the whole body as it came.

        Raises UnsupportedMediaType, UnsupportedContentEncoding, PayloadTooLarge and MalformedPayload; for a
        single record RecordInvalid and RecordTooLarge; for a bulk without a valid record NothingAccepted.
        """
        ndjson = self._is_ndjson.get(content_type)
        if ndjson is None:
            ndjson = is_ndjson(content_type or "")
        if len(body) > self._bytes_max:
            raise _too_large(self._bytes_max)
        if content_encoding:
            body = decompress(body, content_encoding, self._bytes_max)
        if ndjson:
            return self._parse_ndjson(body)
        value = self._load(body)
        if type(value) is list:
            if len(value) > self._limits.bulk_records_max:
                raise _too_many(self._limits.bulk_records_max)
            return self._bulk(((index, item, body) for index, item in enumerate(value)), [], body)
        try:
            line = self._encode(value)
        except RecordInvalid:
            check_nesting(body, self._depth_max)
            raise
        if len(value) == 5 and "metadata" in value:
            return _parsed(Parsed, ([line], [], False, 0))
        check_nesting(body, self._depth_max)
        return Parsed([line], [], False, unknown_members(value))

    def _load(self, text: bytes) -> Any:
        """Decode one JSON text; raise MalformedPayload. What nests deeper than a record is for ``check_nesting``."""
        try:
            # The one breach of UTF-8 that ujson lets in is an encoded surrogate; its first byte is always ED.
            if not text.isascii() and b"\xed" in text:
                text.decode()
            return ujson.loads(text)
        except LOADS_ERRORS as error:
            check_nesting(text, self._depth_max)
            # One mark only: were each one taken off in turn, a body of them would exhaust the stack.
            if text.startswith(_BOM) and not text.startswith(_BOM, len(_BOM)):
                return self._load(text[len(_BOM) :])
            raise _malformed(text, error) from None

    def _parse_ndjson(self, body: bytes) -> Parsed:
        body = body.removeprefix(_BOM)
        if body.count(b"\n") > self._limits.bulk_records_max:
            # Too many records, or mostly blank lines: those must not cost a turn of the loop below each.
            body = _BLANK_LINES.sub(b"\n", body)
        if not body or body.isspace():
            raise MalformedPayload("the body is empty")
        rejections: list[Rejection] = []
        return self._bulk(self._values(BytesIO(body), rejections), rejections)

    def _values(self, lines: Iterable[bytes], rejections: list[Rejection]) -> Iterator[tuple[int, Any, bytes]]:
        """Each line's index, decoded value and text; a line that is not JSON goes to ``rejections`` instead."""
        index, records_max, load = 0, self._limits.bulk_records_max, self._load
        for line in lines:
            if not line.strip(_BLANK):
                continue
            if index >= records_max:
                raise _too_many(records_max)
            try:
                value = load(line)
            except MalformedPayload as error:
                rejections.append(Rejection(index, None, MALFORMED_RECORD, error.detail))
            else:
                yield index, value, line
            index += 1

    def _bulk(
        self, values: Iterable[tuple[int, Any, bytes]], rejections: list[Rejection], array: bytes | None = None
    ) -> Parsed:
        """Encode each value; a bad one is rejected alone. ``values`` may add rejections of its own.

        With each value comes the text it is from: its own line, or the whole ``array``. A record of the five members
        cannot nest too deep, so only the text of any other value is checked for that.
        """
        lines: list[bytes] = []
        checked = None
        unknown, encode, depth_max = 0, self._encode, self._depth_max
        for index, value, text in values:
            fault: RecordInvalid | None = None
            try:
                line = encode(value)
            except RecordInvalid as error:
                fault = error
            else:
                if len(value) == 5 and "metadata" in value:
                    lines.append(line)
                    continue
            if text is not checked:
                try:
                    check_nesting(text, depth_max)
                except MalformedPayload as error:
                    if text is array:
                        raise
                    rejections.append(Rejection(index, None, MALFORMED_RECORD, error.detail))
                    continue
                checked = text
            if fault is None:
                lines.append(line)
                unknown += unknown_members(value)
            else:
                rejections.append(Rejection(index, _echo(value), fault.reason, fault.detail))
        if not lines:
            detail = "no record of the bulk is valid" if rejections else "the bulk holds no record"
            raise NothingAccepted(detail, rejections)
        return Parsed(lines, rejections, True, unknown)


def parser(payload_limits: PayloadLimits, record_limits: RecordLimits) -> Parser:
    """A Parser with these bounds."""
    return Parser(payload_limits, record_limits)


def is_ndjson(content_type: str) -> bool:
    """Whether a Content-Type (RFC 9110 section 8.3) means NDJSON, else JSON; raise UnsupportedMediaType."""
    if len(content_type) > CONTENT_TYPE_CHARS_MAX:
        raise UnsupportedMediaType(_TYPES)
    media_type = content_type.partition(";")[0].strip().lower()
    for name, value in _PARAMETER.findall(content_type):
        if name.lower() == "charset" and value.strip('"').lower() not in _UTF8:
            raise UnsupportedMediaType("the charset must be utf-8, or left out")
    if media_type in _NDJSON:
        return True
    if media_type in ("", "application/json", "text/plain") or re.fullmatch(r"[^/]+/[^/]+\+json", media_type):
        return False
    if media_type == "application/x-www-form-urlencoded":
        raise UnsupportedMediaType(f"with curl, add -H 'Content-Type: application/json'. {_TYPES}")
    raise UnsupportedMediaType(_TYPES)


def check_nesting(text: bytes, depth_max: int) -> None:
    """Raise MalformedPayload where brackets nest deeper than ``depth_max``, before ujson meets them.

    Every step is one pass in C: drop escapes, keep structure and quotes, drop strings, then take away the
    innermost pairs once per level. Text that is not JSON may come out either way, but never passes with more
    than ``2 * depth_max``.
    """
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    text = text.translate(_TO_BRACES, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in text:
        text = _STRING.sub(b"", text)
    for _ in range(depth_max):
        if b"{}" not in text:
            break
        text = text.replace(b"{}", b"")
    if b"{}" in text or text.count(b"{") > depth_max:
        raise MalformedPayload(f"arrays and objects nest more than {depth_max} deep")


def decompress(body: bytes, content_encoding: str, bytes_max: int) -> bytes:
    """Undo Content-Encoding (RFC 9110 section 8.4): gzip, x-gzip, deflate (zlib's, or raw), zstd, identity.

    Never decodes more than ``bytes_max`` and a chunk; raises PayloadTooLarge beyond, MalformedPayload for
    data that is corrupt, cut short or followed by other data, UnsupportedContentEncoding for others and for
    several at once.
    """
    names = (name.strip().lower() for name in content_encoding.split(","))
    codings = [name for name in names if name not in ("", "identity")]
    if not codings:
        return body
    if len(codings) > 1:
        raise UnsupportedContentEncoding("only one Content-Encoding at a time: gzip, deflate, zstd, identity")
    if codings[0] in ("gzip", "x-gzip"):
        return _inflate(body, 16 + zlib.MAX_WBITS, MEMBERS_MAX, bytes_max)
    if codings[0] == "deflate":
        try:
            return _inflate(body, zlib.MAX_WBITS, 1, bytes_max)
        except MalformedPayload:
            return _inflate(body, -zlib.MAX_WBITS, 1, bytes_max)
    if codings[0] == "zstd":
        return _unzstd(body, bytes_max)
    raise UnsupportedContentEncoding("Content-Encoding must be gzip, deflate, zstd or identity")


def _inflate(body: bytes, wbits: int, members_max: int, bytes_max: int) -> bytes:
    """zlib's three formats, told apart by ``wbits``."""
    pieces: list[bytes] = []
    room, members, decoder = bytes_max, 1, zlib.decompressobj(wbits)
    for start in range(0, len(body), DECODE_CHUNK_BYTES):
        data = body[start : start + DECODE_CHUNK_BYTES]
        while data:
            if decoder.eof:
                members += 1
                _check_members(members, members_max)
                decoder = zlib.decompressobj(wbits)
            try:
                # One byte over the room tells too much from just enough.
                pieces.append(decoder.decompress(data, room + 1))
            except zlib.error:
                raise _corrupt() from None
            room -= len(pieces[-1])
            if room < 0:
                raise _too_large(bytes_max)
            data = decoder.unused_data
    if not decoder.eof:
        raise _corrupt()
    return b"".join(pieces)


def _unzstd(body: bytes, bytes_max: int) -> bytes:
    """Frames of zstd (RFC 8878). Twice over the data: one API is bounded, the other tells a cut-off frame."""
    codec = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
    pieces: list[bytes] = []
    room, members, decoder = bytes_max, 1, codec.decompressobj()
    try:
        reader = codec.stream_reader(body, read_across_frames=True)
        while piece := reader.read(DECODE_CHUNK_BYTES):
            room -= len(piece)
            if room < 0:
                raise _too_large(bytes_max)
            pieces.append(piece)
        for start in range(0, len(body), DECODE_CHUNK_BYTES):
            data = body[start : start + DECODE_CHUNK_BYTES]
            while data:
                if decoder.eof:
                    members += 1
                    _check_members(members, MEMBERS_MAX)
                    decoder = codec.decompressobj()
                decoder.decompress(data)
                data = decoder.unused_data
    except zstandard.ZstdError:
        raise _corrupt() from None
    if not decoder.eof:
        raise _corrupt()
    return b"".join(pieces)


def _check_members(members: int, members_max: int) -> None:
    if members_max == 1:
        raise _corrupt()
    if members > members_max:
        raise PayloadTooLarge(f"the body is compressed in more than {members_max} parts")


def _corrupt() -> MalformedPayload:
    return MalformedPayload("the compressed body is corrupt, cut short, or followed by other data")


def _too_large(bytes_max: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is over {bytes_max} bytes, or would be when decoded")


def _too_many(records_max: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"a bulk holds at most {records_max} records")


def _malformed(text: bytes, error: Exception) -> MalformedPayload:
    """What ujson raised, in words: its own messages are fixed text, without a byte of the body."""
    if not text.strip(_BLANK):
        return MalformedPayload("the body is empty")
    if isinstance(error, UnicodeError):
        return MalformedPayload("not UTF-8")
    if isinstance(error, ujson.JSONDecodeError):
        return MalformedPayload(f"not valid JSON: {str(error)[:100]}")
    return MalformedPayload("not JSON that can be read: a number is too long, or the nesting too deep")


def _echo(value: Any) -> str | None:
    """The event_id of a rejected record, if it can be named: a string of whole characters, cut to its bound."""
    event_id = value.get("event_id") if type(value) is dict else None
    if type(event_id) is not str:
        return None
    event_id = event_id[:EVENT_ID_ECHO_CHARS_MAX]
    return None if any("\ud800" <= char <= "\udfff" for char in event_id) else event_id
