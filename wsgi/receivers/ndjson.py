"""NDJSON: one record a line.

What lives here: how lines are found and decoded, many at once where they are valid, and how one that is not becomes a
rejection. What must not: what becomes of a decoded record (``wsgi.receivers.bulk``).

PERF: decoding several lines as one array takes four fifths of the time of decoding each (bench/micro.py: ndjson bulk).
Lines come from anybody: two that are nothing alone could make two records together. So a mark stands between them, a
string that no client knows. The array must hold lines and marks in turn. No client can spell the mark, and outside of a
string its letters are no JSON; so each element that is the mark is one of those put there, whole, and its commas are
the array's own. Hence what stands between two of them, a line, is exactly one element, decoded as it would be alone.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Generator
from io import BytesIO
from itertools import islice
from time import monotonic
from typing import Any

import ujson

from inlet.stream.errors import RecordInvalid
from inlet.stream.record import LOADS_ERRORS
from wsgi.problems import ClientError
from wsgi.receivers import jsontext
from wsgi.receivers.bulk import GROUP_RECORDS, MALFORMED_RECORD, NOT_A_RECORD, Bulk, Rules, too_many
from wsgi.receivers.parsed import Parsed
from wsgi.receivers.slices import SLICE_SECONDS, finish

PIECE_BYTES = 65_536
"""Bytes of a body whose lines are found at a time."""
LONG_BYTES = 65_536
"""Bytes of a line over which it is decoded and checked alone, in slices."""
JOINED_BYTES_MAX = 139_264
"""Bytes of lines and marks that are decoded together: those of a body that is read in one step."""
BLANK_LINES_MAX = 1_024
"""Lines of a piece over which blank ones are dropped first: they must not cost a turn of the loop each."""

_BLANK_LINES = re.compile(rb"\n(?:[ \t\r]*+\n)++")
_MARK = "x" + secrets.token_hex(8)
_BETWEEN = b',"' + _MARK.encode() + b'",'


def read_short(body: bytes, rules: Rules, lines_max: int, slow_max: int) -> Parsed | None:
    """Read a short body at once; return None if it has more than ``lines_max`` lines, or ``slow_max`` and a bad one.

    Raises as ``Native.read``.
    """
    body = body.removeprefix(jsontext.BOM)
    texts = list(islice(BytesIO(body), lines_max + 1))
    if len(texts) > lines_max:
        return None
    if not body or body.isspace():
        raise jsontext.empty()
    jsontext.refuse_encoding(body)
    bulk, few = Bulk(rules), len(texts) <= slow_max
    values = decode_together(texts)
    if values is None:
        if not few:
            return None
        finish(_take(bulk, texts, rules))
    elif len(texts) > rules.records_max:
        raise too_many(rules.records_max)
    elif few:
        bulk.take(values, texts)
    elif not bulk.take_valid(values, texts):
        return None
    return bulk.parsed()


def read_slices(body: bytes, rules: Rules) -> Generator[None, None, Parsed]:
    """Read a body of any size in slices. Raises as ``Native.read``."""
    start = len(jsontext.BOM) if body.startswith(jsontext.BOM) else 0
    blank = start
    while (piece := body[blank : blank + PIECE_BYTES]) and piece.isspace():
        blank += PIECE_BYTES
        yield
    if not piece:
        raise jsontext.empty()
    jsontext.refuse_encoding(body[start : start + PIECE_BYTES])
    bulk = Bulk(rules)
    due = monotonic() + SLICE_SECONDS
    while start < len(body):
        end = piece_end(body, start)
        texts = _lines(body[start:end])
        start = end
        for at in range(0, len(texts), GROUP_RECORDS):
            yield from _take(bulk, texts[at : at + GROUP_RECORDS], rules)
            if monotonic() >= due:
                yield
                due = monotonic() + SLICE_SECONDS
    return bulk.parsed()


def _take(bulk: Bulk, texts: list[bytes], rules: Rules) -> Generator[None, None, None]:
    """Take lines, valid or not; blank ones do not count. Yields only where one is long."""
    values = decode_together(texts)
    if values is None:
        kept = [text for text in texts if text.strip(jsontext.BLANK)]
        if len(kept) < len(texts):
            texts, values = kept, decode_together(kept) if kept else []
    if bulk.read + len(texts) > rules.records_max:
        raise too_many(rules.records_max)
    if values is not None:
        bulk.take(values, texts)
        return
    values, first = [], 0
    for at, text in enumerate(texts):
        try:
            if len(text) > LONG_BYTES:
                raise ValueError
            values.append(jsontext.strict(text))
        except LOADS_ERRORS as error:
            bulk.take(values, texts[first:at])
            values, first = [], at + 1
            # Where words are dropped, this is plainly no record; else it may have a second look.
            plain = isinstance(error, (ujson.JSONDecodeError, UnicodeError)) and not text.startswith(jsontext.BOM)
            if plain and bulk.rejections is not None and bulk.rejections.full:
                bulk.reject(None, MALFORMED_RECORD, "")
                continue
        else:
            continue
        yield from _take_again(bulk, text, rules)
    bulk.take(values, texts[first:])


def decode_together(texts: list[bytes]) -> list[Any] | None:
    """Return the values of lines, or None where one is long, or not JSON, or needs a second look."""
    joined = b"[" + _BETWEEN.join(texts) + b"]"
    if len(joined) > JOINED_BYTES_MAX:
        return None
    try:
        values = jsontext.strict(joined)
    except LOADS_ERRORS:
        return None
    size = len(texts)
    if len(values) != 2 * size - 1 or values[1::2].count(_MARK) != size - 1:
        return None
    return values[::2]  # type: ignore[no-any-return]  # of a list


def _take_again(bulk: Bulk, text: bytes, rules: Rules) -> Generator[None, None, None]:
    """Take a line that is long, or no JSON, or JSON that needs a second look."""
    try:
        if (yield from jsontext.has_too_many_values(text)):
            error = jsontext.too_many_values()
            bulk.reject(None, error.reason, error.detail, text)
            return
        if len(text) <= LONG_BYTES:
            bulk.take([jsontext.load(text, rules.depth_max)], [text])
            return
        value = yield from jsontext.load_slices(text, rules.depth_max)
        if not _is_regular(value, rules):
            yield from jsontext.check_slices(text, rules.depth_max)
    except ClientError as malformed:
        bulk.reject(None, MALFORMED_RECORD, malformed.detail, text)
        return
    if type(value) is list:
        bulk.reject(None, RecordInvalid.reason, NOT_A_RECORD, text)
    else:
        bulk.take_checked(value, text)


def _is_regular(value: Any, rules: Rules) -> bool:
    """Whether a record is valid and exactly the five members."""
    try:
        rules.encode_without_words(value)
    except RecordInvalid:
        return False
    return len(value) == 5 and "metadata" in value


def _lines(text: bytes) -> list[bytes]:
    """The lines of a text with their ends, blank ones among them, but few where there are many."""
    if text.count(b"\n") > BLANK_LINES_MAX:
        text = _BLANK_LINES.sub(b"\n", text)
    return BytesIO(text).readlines()


def piece_end(body: bytes, start: int) -> int:
    """Return where a piece from ``start`` on ends: behind a line feed, or with the body; later where a line is long."""
    if len(body) - start <= PIECE_BYTES:
        return len(body)
    end = body.rfind(b"\n", start, start + PIECE_BYTES)
    if end < 0:
        end = body.find(b"\n", start + PIECE_BYTES)
    return end + 1 if end >= 0 else len(body)
