"""A body of JSON as its values, one after the other: an object, an array, NDJSON, or objects without a separator.

What lives here: where one value ends and the next begins, in slices, and what becomes of one that is no JSON. What must
not: what a value means (its receiver), bounds on how many there are (``wsgi.receivers.foreign``).

A shipper cannot fix its records, so more is read than RFC 8259 permits: raw control characters in strings, NaN and
Infinity (Python's ``json`` writes both), and bytes that are no UTF-8, which become U+FFFD.

The standard library's decoder is used, since it says where a value ends. It is given a window of the body at a time. A
value that does not end within its window is looked for in the structure of the text (``wsgi.receivers.structure``), and
decoded alone, if it is not so rich that this would take long.
"""

from __future__ import annotations

import re
from codecs import utf_8_decode
from collections.abc import Generator, Iterator
from json import JSONDecodeError, JSONDecoder
from typing import Any, NamedTuple

from wsgi.receivers import jsontext
from wsgi.receivers.slices import finish
from wsgi.receivers.structure import VALUES_MAX, closing_bracket

WINDOW_BYTES = 65_536
"""Bytes that are decoded at a time: at most two milliseconds, where all of them are brackets."""
PIECE_BYTES = 16_384
"""Bytes of a text whose lines are found at a time: half a millisecond where all are blank."""
NARROW_BYTES = 4_096
"""Bytes of the window behind a fault, so that many faults cost no window each."""
SHORT_BYTES = 512
"""Bytes within which the end of a value is looked for first."""
CUT_CHARS = 16
"""Characters before the end of a window within which a fault may be the window's: an escape, a number, a word."""
ARRAYS_MAX = 1_000
"""Arrays at the top that are opened in a row: a millisecond of it, where all are empty."""
WASTE_MAX = 4
"""Bytes looked at in vain, for each byte of the body, after which the rest of it is one fault: beginnings of values
that never end would otherwise cost the square of a body's length."""
ENVELOPES = frozenset({"logs", "records", "events"})
"""An object whose only member has one of these names, and is an array, holds records and is none."""

_BETWEEN = re.compile(r"[ \t\r\n,]*+")
_NEXT = re.compile(rb"\n[ \t\r]*+(?=[{\[])")
_ENVELOPE = re.compile(rb'\{[ \t\r\n]*+"(?:%b)"[ \t\r\n]*+:[ \t\r\n]*+\[' % "|".join(sorted(ENVELOPES)).encode())
_CLOSED = re.compile(rb"[ \t\r\n]*+\}")


class Document(NamedTuple):
    """One value, or what stands in its place."""

    value: Any
    """Decoded; None where there is a fault."""
    fault: str = ""
    """Why it is none, in one sentence; empty where there is none. Quotes nothing of the text."""
    text: bytes = b""
    """What was sent, where there is a fault."""


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= jsontext.LONG_DIGITS else digits


def _fraction(number: str) -> float | str:
    """A number with a point or an exponent; as text where its whole part is that of a long integer."""
    digits = jsontext.LONG_DIGITS
    return number if number[:digits].lstrip("-").isdecimal() and len(number) > digits else float(number)


_decode = JSONDecoder(strict=False).raw_decode
_decode_long = JSONDecoder(strict=False, parse_int=_integer, parse_float=_fraction).raw_decode
_document = tuple.__new__  # PERF: a NamedTuple's own constructor is in Python
_Error = JSONDecodeError | RecursionError


def read(body: bytes, *, envelopes: bool = False) -> Generator[Document | None, None, None]:
    """Yield every value of a body: the elements of arrays at the top, and all else that stands at the top as it is.

    Yields None after each millisecond, about, in which no value came to an end. ``envelopes``: also yield the elements
    of ``{"logs":[...]}``, see ENVELOPES. Raises ClientError (``malformed-payload``) for a body that is blank,
    compressed, or UTF-16.
    """
    start = len(jsontext.BOM) if body.startswith(jsontext.BOM) else 0
    while (piece := body[start : start + WINDOW_BYTES]) and not piece.strip(jsontext.BLANK):
        start += WINDOW_BYTES
        yield None
    if not piece:
        raise jsontext.empty()
    jsontext.refuse_encoding(body[start : start + WINDOW_BYTES])
    yield from _Reader(body, start, envelopes=envelopes).read()


def text_lines(body: bytes) -> Iterator[bytes | None]:
    """Yield the lines of a text that are not blank, without their line feeds, and None after every piece of it."""
    at, size = 0, len(body)
    while at < size:
        end = body.rfind(b"\n", at, at + PIECE_BYTES) + 1 or body.find(b"\n", at + PIECE_BYTES) + 1 or size
        for line in body[at:end].split(b"\n"):
            if line and not line.isspace():
                yield line
        yield None
        at = end


class _Reader:
    """A body, how far it was read, and where that was: at the top, or within an array that stands there."""

    def __init__(self, body: bytes, start: int, *, envelopes: bool) -> None:
        self._body, self._at, self._envelopes = body, start, envelopes
        self._array = False
        """Whether what comes next is an element of an array."""
        self._wrapped = False
        """Whether that array is an envelope's."""
        self._width = WINDOW_BYTES
        self._left = WASTE_MAX * (len(body) + WINDOW_BYTES)
        """Bytes that may still be looked at in vain."""

    def read(self) -> Iterator[Document | None]:
        """Yield as ``read`` does."""
        while self._at < len(self._body):
            window = self._body[self._at : self._at + self._width]
            final = self._at + len(window) == len(self._body)
            try:
                text, taken = utf_8_decode(window, "strict", final)
            except UnicodeDecodeError:
                yield from self._mend()
                continue
            end, error = yield from self._window(text, final=final)
            self._at += end if taken == len(text) else len(text[:end].encode())
            if error is None:
                self._width = WINDOW_BYTES
            elif final or not _is_cut(error, len(text)):
                yield from self._refuse(error, end)
            elif end == 0 and self._width == WINDOW_BYTES:
                yield from self._long()
            else:
                self._width = WINDOW_BYTES
            yield None
        if self._array or self._wrapped:
            yield Document(None, "the array does not end")

    def _mend(self) -> Iterator[None]:
        """Replace what is no UTF-8 in all that is left."""
        pieces, at, size = [], self._at, len(self._body)
        while at < size:
            text, taken = utf_8_decode(self._body[at : at + WINDOW_BYTES], "replace", at + WINDOW_BYTES >= size)
            pieces.append(text.encode())
            at += taken
            yield None
        self._body, self._at = b"".join(pieces), 0

    def _window(self, text: str, *, final: bool) -> Generator[Document, None, tuple[int, _Error | None]]:
        """Yield the values that end within a window; return where the next one begins, and why it was not read."""
        at, size, envelopes, between = 0, len(text), self._envelopes, _BETWEEN.match
        arrays = 0
        while True:
            at = between(text, at).end()  # type: ignore[union-attr]  # matches always
            if at == size:
                return at, None
            first = text[at]
            if first == "[" and not self._array:
                self._array = True
                at += 1
                arrays += 1
                if arrays > ARRAYS_MAX:
                    return at, None
                continue
            if first == "]" and self._array:
                self._array = False
                at += 1
                continue
            if first == "}" and self._wrapped and not self._array:
                self._wrapped = False
                at += 1
                continue
            try:
                value, end = _value(text, at)
            except (JSONDecodeError, RecursionError) as error:
                return at, error.with_traceback(None)
            if end == size and not final and first not in '{["':
                return at, JSONDecodeError("", text, end)  # a number that may go on
            at = end
            if envelopes and not self._array and type(value) is dict and len(value) == 1:
                ((name, inner),) = value.items()
                if name in ENVELOPES and type(inner) is list:
                    for each in inner:
                        yield _document(Document, (each, "", b""))
                    continue
            yield _document(Document, (value, "", b""))

    def _refuse(self, error: _Error, start: int) -> Iterator[Document | None]:
        """Yield the fault that begins here; go on behind it."""
        self._width = NARROW_BYTES
        if isinstance(error, JSONDecodeError):
            # ``error.msg`` is fixed text, without a character of the body.
            fault = f"not valid JSON: {error.msg} at character {error.pos - start}"
            self._left -= error.pos - start
        else:
            fault = "arrays and objects nest too deep"
            self._left -= WINDOW_BYTES
        if self._array or isinstance(error, RecursionError):
            end, _ = yield from self._closing(self._at)
            self._left -= (end if end > 0 else len(self._body)) - self._at
        else:
            found = _NEXT.search(self._body, self._at)
            end = found.end() if found else -1
        yield self._fault(fault, end)

    def _fault(self, fault: str, end: int) -> Document:
        """The fault of what ends at ``end``, or of all that is left: where ``end`` is -1, or too much was in vain."""
        if end < 0 or self._left < 0:
            end, self._array, self._wrapped = len(self._body), False, False
        text = self._body[self._at : min(end, self._at + WINDOW_BYTES)]
        self._at = end
        return Document(None, fault, text)

    def _long(self) -> Iterator[Document | None]:
        """Yield the value that begins here and does not end within a window."""
        body, start = self._body, self._at
        if self._envelopes and not self._array and (found := _ENVELOPE.match(body, start)):
            end, _ = yield from self._closing(found.end() - 1)
            if end > 0 and _CLOSED.match(body, end):
                self._array = self._wrapped = True
                self._at = found.end()
                return
            self._left -= WINDOW_BYTES + end - start
        end, values = yield from self._closing(start)
        if end < 0:
            self._left -= len(body) - start
            yield from self._refuse(JSONDecodeError("a value does not end", "", 0), 0)
            return
        if values > VALUES_MAX:
            yield self._fault(f"it holds more than {VALUES_MAX} values", end)
            return
        try:
            text = body[start:end].decode("utf-8", "replace")
            value, _ = _value(text, 0)
        except (JSONDecodeError, RecursionError):
            yield self._fault("not valid JSON, or too deeply nested", end)
            return
        self._at = end
        yield Document(value)

    def _closing(self, start: int) -> Generator[None, None, tuple[int, int]]:
        """Return the offset behind the bracket that closes the one at ``start``, and how many values are between.

        -1 where there is none.
        """
        # PERF: a whole chunk takes half a millisecond, and most bad values are short (50,000 of them: 29 s, 3 s so).
        end, _ = finish(closing_bracket(self._body[start : start + SHORT_BYTES], 0))
        if end > 0:
            return start + end, 0
        return (yield from closing_bracket(self._body, start))


def _value(text: str, at: int) -> tuple[Any, int]:
    """The value at ``at``, and where it ends."""
    try:
        return _decode(text, at)
    except JSONDecodeError:
        raise
    except ValueError:
        # Python's limit on the digits of an integer.
        return _decode_long(text, at)


def _is_cut(error: _Error, size: int) -> bool:
    """Whether a value was not read, perhaps, because its window of ``size`` characters ends."""
    if isinstance(error, RecursionError):
        return False
    return error.pos >= size - CUT_CHARS or error.msg.startswith("Unterminated")
