"""JSON texts (RFC 8259): what ujson reads beyond the standard, and what is wrong with a text that it refuses.

What lives here: the checks of a text that holds more than the five members of a record, the second look at a text that
ujson refused, and the words for it. What must not: what makes a record valid, media types.

ujson reads more than JSON. Numbers that JSON forbids are refused here (RFC 8259 section 6); a raw control character in
a string is let in, since a line is written anew and escapes it. Texts come from anybody: every step is linear.
"""

from __future__ import annotations

import re
from typing import Any

import ujson

from inlet.stream.record import LOADS_ERRORS
from wsgi.problems import ClientError
from wsgi.receivers.decompress import label

LONG_DIGITS = 640
"""Digits in a row over which a number is read as a short one: Python never limits the length of shorter integers
(``sys.int_info.str_digits_check_threshold``). A record holds no numbers, so its value does not matter."""
PROBED_BYTES_MAX = 262_144
"""Bytes of a first line that are parsed to tell NDJSON from JSON: as long as a record may be."""
BOM = b"\xef\xbb\xbf"
BLANK = b" \t\r\n"
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a UTF-16 pair: no character, and no text in UTF-8 can hold one."""

_STRING = re.compile(rb'"[^"]*"')
# For nesting only: both kinds of bracket become braces, and all but braces and quotes is deleted.
_TO_BRACES = bytes.maketrans(b"[]", b"{}")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
# Outside of strings, in a text that ujson has read: each alternative is the beginning of a number that JSON forbids.
# In order: a zero before another digit, a minus without a digit, "-0" before another digit, a point without one.
_BAD_NUMBER = re.compile(rb"0[0-9](?<![0-9eE.+-]0[0-9])|-(?![0-9])|-0[0-9](?<![eE]-0[0-9])|\.(?![0-9])|NaN|Infinity")
_LONG_NUMBER = re.compile(rb"[0-9]{%d,}+" % (LONG_DIGITS + 1))


def load(text: bytes, depth_max: int) -> Any:
    """Decode one JSON text, or raise ClientError (``malformed-payload``). Slow, but for the ordinary case.

    What nests deeper than a record, and numbers, are for ``check``.
    """
    try:
        # The one breach of UTF-8 that ujson lets in is an encoded surrogate; its first byte is always ED.
        if not text.isascii() and b"\xed" in text:
            text.decode()
        return ujson.loads(text)
    except LOADS_ERRORS as error:
        return _load_again(text, depth_max, error)


def check(text: bytes, depth_max: int) -> None:
    """Raise ClientError (``malformed-payload``) where a text that ujson has read nests too deep, or is not JSON."""
    outside = b"".join(_without_escapes(text).split(b'"')[::2])
    _check_depth(outside.translate(_TO_BRACES, _NOT_STRUCTURE), depth_max)
    _check_numbers(outside)


def check_nesting(text: bytes, depth_max: int) -> None:
    """Raise ClientError (``malformed-payload``) where brackets nest deeper than ``depth_max``.

    For any text, read or not. Every step is one pass in C: drop escapes, keep structure and quotes, drop strings, then
    take away the innermost pairs once per level. Text that is not JSON may come out either way, but never passes with
    more than ``2 * depth_max``.
    """
    text = _without_escapes(text).translate(_TO_BRACES, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in text:
        text = _STRING.sub(b"", text)
    _check_depth(text, depth_max)


def _check_depth(braces: bytes, depth_max: int) -> None:
    """Take away the innermost pairs once per level."""
    for _ in range(depth_max):
        if b"{}" not in braces:
            break
        braces = braces.replace(b"{}", b"")
    if b"{}" in braces or braces.count(b"{") > depth_max:
        raise _malformed(f"arrays and objects nest more than {depth_max} deep")


def _check_numbers(outside: bytes) -> None:
    """Look for a number that JSON forbids in what stands outside of strings."""
    found = _BAD_NUMBER.search(outside)
    if found is None:
        return
    if found[0] in (b"NaN", b"Infinity"):
        raise _malformed(f"not valid JSON: {found[0].decode()} is no number in JSON; send null, or a string")
    kind = {b"0": "a leading zero", b".": "no digit after its point", b"-": "no digit after its minus sign"}
    what = "a leading zero" if len(found[0]) > 1 else kind[found[0][:1]]
    raise _malformed(f"not valid JSON: a number has {what} (RFC 8259 section 6)")


def refuse_encoding(text: bytes) -> None:
    """Raise ClientError (``malformed-payload``) where a text begins as compressed data or UTF-16 does."""
    coding = label(text)
    if coding is not None:
        raise _malformed(f"not UTF-8: the body begins like {coding} data; send Content-Encoding: {coding} with it")
    if text.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in text[:2]:
        raise _malformed("not UTF-8: the text looks like UTF-16 or UTF-32; send UTF-8 without NUL bytes")


def _load_again(text: bytes, depth_max: int, error: Exception) -> Any:
    """Decode what ujson refused though it is JSON: one byte order mark, and long integers; else raise what is wrong."""
    check_nesting(text, depth_max)
    start = len(BOM) if text.startswith(BOM) else 0
    # ujson's own errors are JSONDecodeErrors; a plain ValueError is Python's limit on the digits of an integer.
    too_long = not isinstance(error, (ujson.JSONDecodeError, UnicodeError))
    if start or too_long:
        again = _with_short_numbers(text[start:])
        try:
            if not again.isascii():
                again.decode()
            return ujson.loads(again)
        except LOADS_ERRORS as second:
            raise _explain(text, str(second)) from None
    raise _explain(text, str(error))


def _with_short_numbers(text: bytes) -> bytes:
    """Put ``1`` in place of each long run of digits outside of strings."""
    pieces: list[bytes] = []
    at, inside = 0, False
    for run in _LONG_NUMBER.finditer(text):
        before = text[at : run.start()]
        inside ^= _without_escapes(before).count(b'"') % 2 == 1
        pieces += (before, run[0] if inside else b"1")
        at = run.end()
    return b"".join([*pieces, text[at:]])


def _without_escapes(text: bytes) -> bytes:
    """Drop escaped backslashes and quotes: afterwards every quote begins or ends a string."""
    return text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text


def _explain(text: bytes, message: str) -> ClientError:
    """Say what is wrong with a text that cannot be read; ``message`` is ujson's. Quotes no more than one byte."""
    if not text.removeprefix(BOM).strip(BLANK):
        return _malformed("the body is empty")
    refuse_encoding(text)
    try:
        text.decode()
    except UnicodeDecodeError as undecodable:
        at = undecodable.start
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


def _is_json(line: bytes) -> bool:
    try:
        ujson.loads(line)
    except LOADS_ERRORS:
        return False
    return True


def _malformed(detail: str) -> ClientError:
    return ClientError("malformed-payload", detail)
