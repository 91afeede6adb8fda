"""JSON texts (RFC 8259): what ujson reads beyond the standard, and what is wrong with a text that it refuses.

What lives here: the checks of a text that holds more than the five members of a record, the second look at a text that
ujson refused, and the words for it; each at once, and in slices for a long text. What must not: what makes a record
valid, media types.

ujson reads more than JSON. Numbers that JSON forbids are refused here (RFC 8259 section 6); a raw control character in
a string is let in, since a line is written anew and escapes it. Texts come from anybody: every step is linear.
"""

from __future__ import annotations

import re
from codecs import utf_8_decode
from collections.abc import Callable, Generator
from typing import Any

import ujson

from inlet.stream.errors import RecordTooLarge
from inlet.stream.record import LOADS_ERRORS
from wsgi.problems import ClientError
from wsgi.receivers.decompress import label
from wsgi.receivers.slices import finish
from wsgi.receivers.structure import (
    NOT_BRACKETS,
    TO_BRACES,
    VALUES_MAX,
    count_values,
    depth_reached,
    quoted_parts,
)

LONG_DIGITS = 640
"""Digits in a row over which a number is read as a short one: Python never limits the length of shorter integers
(``sys.int_info.str_digits_check_threshold``). A record of the five members holds no numbers, so its value does not
matter; that of any other record is kept as text."""
PROBED_BYTES_MAX = 262_144
"""Bytes of a first line that are parsed to tell NDJSON from JSON: as long as a record may be."""
NUMBER_SEEN_BYTES = 8
"""Bytes before and behind the beginning of a number that JSON forbids that decide about it: ``Infinity`` has eight."""
CHECKED_BYTES = 131_072
"""Bytes of a text that is checked in one go: a quarter of a millisecond, for an array that is read in one step."""
DECODED_BYTES = 262_144
"""Bytes of a text that are decoded at a time to find what is not UTF-8: half a millisecond where none are ASCII."""
BOM = b"\xef\xbb\xbf"
BLANK = b" \t\r\n"
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a UTF-16 pair: no character, and no text in UTF-8 can hold one."""

# Outside of strings, in a text that ujson has read: each alternative is the beginning of a number that JSON forbids.
# In order: a zero before another digit, a minus without a digit, "-0" before another digit, a point without one.
_BAD_NUMBER = re.compile(rb"0[0-9](?<![0-9eE.+-]0[0-9])|-(?![0-9])|-0[0-9](?<![eE]-0[0-9])|\.(?![0-9])|NaN|Infinity")
# Each begins where digits do: runs of just LONG_DIGITS would otherwise be looked at from each of their digits.
_LONG_NUMBER = re.compile(rb"(?<![0-9])[0-9]{%d,}+" % (LONG_DIGITS + 1))
# A whole number with so many digits before its point, but no name of a member: JSON has no numbers there.
_LONG_VALUE = re.compile(
    rb"(?<![0-9.eE+-])-?[0-9]{%d,}+(?:\.[0-9]*+)?+(?:[eE][+-]?[0-9]++)?+(?![ \t\r\n]*+:)" % (LONG_DIGITS + 1)
)


def strict(text: bytes) -> Any:
    """Decode one JSON text; raise one of LOADS_ERRORS."""
    # The one breach of UTF-8 that ujson lets in is an encoded surrogate; its first byte is always ED.
    if not text.isascii() and b"\xed" in text:
        text.decode()
    return ujson.loads(text)


def with_short_numbers(text: bytes) -> bytes:
    """Put ``1`` in place of each long run of digits outside of strings: where the value of a number does not matter."""
    return _replaced(text, _LONG_NUMBER, b"1")


def with_texts_of_numbers(text: bytes) -> bytes:
    """Put quotes around each long integer, or number with so long a whole part, outside of strings: it becomes a text
    with all of its digits, for records of any shape. It stays valid JSON, or what it was.
    """
    return _replaced(text, _LONG_VALUE, rb'"\g<0>"')


def load(text: bytes, depth_max: int, numbers: Callable[[bytes], bytes] = with_short_numbers) -> Any:
    """Decode one JSON text, or raise ClientError (``malformed-payload``). Slow, but for the ordinary case.

    What nests deeper than a record, and numbers, are for ``check``. ``numbers``: what becomes of long integers,
    ``with_short_numbers`` or ``with_texts_of_numbers``.
    """
    try:
        return strict(text)
    except LOADS_ERRORS as error:
        message, digits = str(error), has_long_number(error)
    return finish(load_again(text, depth_max, message, digits=digits, numbers=numbers))


def load_slices(
    text: bytes, depth_max: int, numbers: Callable[[bytes], bytes] = with_short_numbers
) -> Generator[None, None, Any]:
    """Do as ``load`` does, for a text of any size. Decoding it is one slice, however long."""
    try:
        return strict(text)
    except LOADS_ERRORS as error:
        message, digits = str(error), has_long_number(error)
    yield
    return (yield from load_again(text, depth_max, message, digits=digits, numbers=numbers))


def has_too_many_values(text: bytes) -> Generator[None, None, bool]:
    """Return whether one record's text holds more values than may be decoded in one go."""
    return len(text) > VALUES_MAX and (yield from count_values(text)) > VALUES_MAX


def too_many_values() -> RecordTooLarge:
    """Return the error of such a record."""
    return RecordTooLarge(f"the record holds more than {VALUES_MAX} values, those in unknown members included")


def has_long_number(error: Exception) -> bool:
    """Return whether one of LOADS_ERRORS is Python's limit on the digits of an integer, and no fault of the text."""
    # ujson's own errors are JSONDecodeErrors.
    return not isinstance(error, (ujson.JSONDecodeError, UnicodeError))


def check(text: bytes, depth_max: int) -> None:
    """Raise ClientError (``malformed-payload``) where a text that ujson has read nests too deep, or is not JSON."""
    outside = text if b'"' not in text else b"".join(_without_escapes(text).split(b'"')[::2])
    braces = outside.translate(TO_BRACES, NOT_BRACKETS)
    if braces.count(b"{") > depth_max and depth_reached(braces, 0) > depth_max:
        raise _too_deep(depth_max)
    if (found := _BAD_NUMBER.search(outside)) is not None:
        raise _bad_number(found[0])


def check_slices(text: bytes, depth_max: int) -> Generator[None, None, None]:
    """Do as ``check`` does, for a text of any size."""
    if len(text) <= CHECKED_BYTES:
        check(text, depth_max)
        return
    depth, numbers = 0, _Numbers()
    for _, parts, inside in quoted_parts(text):
        outside = b"".join(parts[inside::2])
        depth = _deepen(outside, depth, depth_max)
        numbers.look(outside)
        yield
    if bad := numbers.end():
        raise _bad_number(bad)


def check_nesting(text: bytes, depth_max: int) -> None:
    """Raise ClientError (``malformed-payload``) where brackets nest deeper than ``depth_max``.

    For any text, read or not; one that is not JSON may come out either way.
    """
    finish(nesting_slices(text, depth_max))


def nesting_slices(text: bytes, depth_max: int) -> Generator[None, None, None]:
    """Do as ``check_nesting`` does, for a text of any size."""
    depth = 0
    for _, parts, inside in quoted_parts(text):
        depth = _deepen(b"".join(parts[inside::2]), depth, depth_max)
        yield


def _deepen(outside: bytes, depth: int, depth_max: int) -> int:
    """Return the depth behind a piece of what stands outside of strings; raise where it is too deep within."""
    braces = outside.translate(TO_BRACES, NOT_BRACKETS)
    opened = braces.count(b"{")
    if depth + opened > depth_max and depth_reached(braces, depth) > depth_max:
        raise _too_deep(depth_max)
    return depth + 2 * opened - len(braces)


class _Numbers:
    """A search for the first number that JSON forbids, piece by piece."""

    def __init__(self) -> None:
        self._window, self._at, self._bad = b"", 0, b""

    def look(self, outside: bytes) -> None:
        """Look at another piece of what stands outside of strings."""
        if self._bad:
            return
        window = self._window + outside
        # What begins close to the end is looked at with the next piece: it may go on there.
        end = len(window) - NUMBER_SEEN_BYTES
        found = _BAD_NUMBER.search(window, self._at)
        if found is not None and found.start() < end:
            self._bad = found[0]
        # Keep what is not looked at yet, and what a pattern looks back at.
        kept = max(0, end - NUMBER_SEEN_BYTES)
        self._at = max(self._at, end) - kept
        self._window = window[kept:]

    def end(self) -> bytes:
        """Return what was found, or nothing."""
        if not self._bad and (found := _BAD_NUMBER.search(self._window, self._at)) is not None:
            self._bad = found[0]
        return self._bad


def _too_deep(depth_max: int) -> ClientError:
    return _malformed(f"arrays and objects nest more than {depth_max} deep")


def _bad_number(found: bytes) -> ClientError:
    """Say what is wrong with a number; ``found`` is what _BAD_NUMBER found."""
    if found in (b"NaN", b"Infinity"):
        return _malformed(f"not valid JSON: {found.decode()} is no number in JSON; send null, or a string")
    kind = {b"0": "a leading zero", b".": "no digit after its point", b"-": "no digit after its minus sign"}
    what = "a leading zero" if len(found) > 1 else kind[found[:1]]
    return _malformed(f"not valid JSON: a number has {what} (RFC 8259 section 6)")


def refuse_encoding(text: bytes) -> None:
    """Raise ClientError (``malformed-payload``) where a text begins as compressed data or UTF-16 does."""
    coding = label(text)
    if coding is not None:
        raise _malformed(f"not UTF-8: the body begins like {coding} data; send Content-Encoding: {coding} with it")
    if text.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in text[:2]:
        raise _malformed("not UTF-8: the text looks like UTF-16 or UTF-32; send UTF-8 without NUL bytes")


def load_again(
    text: bytes, depth_max: int, message: str, *, digits: bool, numbers: Callable[[bytes], bytes] = with_short_numbers
) -> Generator[None, None, Any]:
    """Decode what ujson refused though it is JSON: one byte order mark, and long integers; else raise what is wrong.

    ``message`` is what ujson said, ``digits`` what ``has_long_number`` said of it; ``numbers``: as for ``load``.
    """
    yield from nesting_slices(text, depth_max)
    start = len(BOM) if text.startswith(BOM) else 0
    if start or digits:
        try:
            return strict(numbers(text[start:]))
        except LOADS_ERRORS as second:
            message = str(second)
        yield
    raise (yield from explain(text, message))


def _replaced(text: bytes, pattern: re.Pattern[bytes], by: bytes) -> bytes:
    """Replace what ``pattern`` finds outside of strings by a template. It finds nothing that holds a quote."""
    pieces: list[bytes] = []
    at, inside = 0, False
    for run in pattern.finditer(text):
        before = text[at : run.start()]
        inside ^= _without_escapes(before).count(b'"') % 2 == 1
        pieces += (before, run[0] if inside else run.expand(by))
        at = run.end()
    return b"".join([*pieces, text[at:]])


def _without_escapes(text: bytes) -> bytes:
    """Drop escaped backslashes and quotes: afterwards every quote begins or ends a string."""
    return text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text


def explain(text: bytes, message: str) -> Generator[None, None, ClientError]:
    """Say what is wrong with a text that cannot be read; ``message`` is ujson's. Quotes no more than one byte."""
    if not text.removeprefix(BOM).strip(BLANK):
        return empty()
    refuse_encoding(text)
    at = yield from _undecodable(text)
    if at >= 0:
        return _malformed(f"not UTF-8: byte 0x{text[at]:02X} at offset {at}; encode the text as UTF-8")
    nul = text.find(b"\0")
    if nul >= 0:
        return _malformed(f"not valid JSON: a NUL byte at offset {nul}; within a string, write it as \\u0000")
    if "Trailing data" in message:
        line = text.removeprefix(BOM).lstrip(BLANK).partition(b"\n")[0]
        if len(line) <= PROBED_BYTES_MAX and line.rstrip(BLANK)[-1:] in (b"}", b"]") and _is_json(line):
            return _malformed(
                "not one JSON value but several; send an array, or one record a line with Content-Type: "
                "application/x-ndjson"
            )
        return _malformed("not valid JSON: there is more text behind the value; send an array for several records")
    # ujson's messages are fixed text, without a byte of the body.
    return _malformed(f"not valid JSON: {message[:100]}")


def _undecodable(text: bytes) -> Generator[None, None, int]:
    """Return the offset of the first byte that is not UTF-8, or -1."""
    at = 0
    while at < len(text):
        end = at + DECODED_BYTES
        try:
            at += utf_8_decode(text[at:end], "strict", end >= len(text))[1]
        except UnicodeDecodeError as error:
            return at + error.start
        yield
    return -1


def _is_json(line: bytes) -> bool:
    try:
        ujson.loads(line)
    except LOADS_ERRORS:
        return False
    return True


def empty() -> ClientError:
    """Return the error of a body that is empty, or blank."""
    return _malformed("the body is empty")


def _malformed(detail: str) -> ClientError:
    return ClientError("malformed-payload", detail)
