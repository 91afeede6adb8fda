"""A JSON array of records: decoded as a whole where it is short, else in pieces.

What lives here: where an array is cut, and why its pieces decode as the whole does. What must not: what becomes of a
record (``wsgi.receivers.bulk``).

A long array is cut at commas, and ``[`` piece ``]`` is decoded. A cut need only be likely: decoding proves it, since a
decoder reads from left to right and knows nothing of what is to come. Let a piece begin where an element of the array
begins, and end before a comma. If ``[`` piece ``]`` decodes to an array of at least one element, then the decoder was
within that array alone, behind an element, when it came to the bracket. So it is there, in the whole text, when it
comes to the comma: the comma separates two elements, and the next piece begins where an element begins. Hence the
elements of the pieces are those of the whole. Where a piece does not decode, whatever the reason, what is left is
decoded as ``[0,`` rest, which leads to the same state as the whole text did, and so to the same verdict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from time import monotonic
from typing import Any

from inlet.stream.record import LOADS_ERRORS
from wsgi.problems import ClientError
from wsgi.receivers import jsontext
from wsgi.receivers.bulk import GROUP_RECORDS, Bulk, Rules, too_many
from wsgi.receivers.parsed import Parsed
from wsgi.receivers.slices import SLICE_SECONDS
from wsgi.receivers.structure import TOO_MANY_VALUES, VALUES_MAX, last_comma

PIECE_BYTES = 65_536
"""Bytes of a piece: decoded in about a third of a millisecond where records are ordinary."""

# Between two objects, nearly always the elements; else within an unknown member, or a string.
_LIKELY = re.compile(rb"[}\]][ \t\r\n]*+,[ \t\r\n]*+[{\[]")
_strict: Callable[[bytes], list[Any]] = jsontext.strict  # of what begins with a bracket
_OPENED = re.compile(rb"[ \t\r\n]*+\[")


def opened(body: bytes) -> Generator[None, None, int]:
    """Return the offset behind the bracket that begins an array, or 0 where the text is no array.

    Raises ClientError (``malformed-payload``) where the text is blank.
    """
    start = len(jsontext.BOM) if body.startswith(jsontext.BOM) else 0
    while (piece := body[start : start + PIECE_BYTES]) and not piece.strip(jsontext.BLANK):
        start += PIECE_BYTES
        yield
    if not piece:
        raise jsontext.empty()
    found = _OPENED.match(piece)
    return start + found.end() if found else 0


def read_slices(body: bytes, start: int, rules: Rules) -> Generator[None, None, Parsed]:
    """Read an array of any size in slices; ``start`` is what ``opened`` returned. Raises as ``Native.read``."""
    bulk, pieces, size = Bulk(rules), _Pieces(body, rules.depth_max), 0
    due = monotonic() + SLICE_SECONDS
    for values in pieces.read(start):
        if values is None:
            values = []
        size += len(values)
        # Beyond the bound nothing is encoded any more; but what is not JSON is refused for that.
        if size <= rules.records_max:
            for at in range(0, len(values), GROUP_RECORDS):
                bulk.take(values[at : at + GROUP_RECORDS])
                if monotonic() >= due:
                    yield
                    due = monotonic() + SLICE_SECONDS
        if monotonic() >= due:
            yield
            due = monotonic() + SLICE_SECONDS
    if pieces.second_look or body.startswith(jsontext.BOM):
        yield from jsontext.nesting_slices(body, rules.depth_max)
    if size > rules.records_max:
        raise too_many(rules.records_max)
    if bulk.irregular:
        # Whatever is not the five members may hold what is not JSON: the whole text, once.
        yield from jsontext.check_slices(body, rules.depth_max)
    return bulk.parsed()


class _Pieces:
    """An array's elements, piece by piece."""

    def __init__(self, text: bytes, depth_max: int) -> None:
        self._text, self._depth_max = text, depth_max
        self.second_look = False
        """Whether a piece held an integer so long that it was decoded otherwise."""

    def read(self, start: int) -> Generator[list[Any] | None, None, None]:
        """Yield the elements from ``start`` on, many at a time, and None between slices.

        Raises ClientError: ``malformed-payload`` for what is no array, or more than an array, ``payload-too-large`` for
        an element of too many values.
        """
        text, before = self._text, b"["
        while len(text) - start > PIECE_BYTES:
            cut = _likely_cut(text, start)
            values = self._decode(start, cut)
            if not values:
                yield None
                cut = yield from last_comma(text, start)
                if cut == TOO_MANY_VALUES:
                    detail = f"an element of the array holds more than {VALUES_MAX} values; a record needs a few"
                    raise ClientError("payload-too-large", detail)
                values = self._decode(start, cut)
            if not values:
                break
            yield values
            start, before = cut + 1, b"[0,"
        values = yield from self._rest(before + text[start:])
        yield values if before == b"[" else values[1:]

    def _decode(self, start: int, cut: int) -> list[Any] | None:
        """The elements from ``start`` to ``cut``; None if this is not what is there, or ``cut`` is -1."""
        if cut < 0:
            return None
        piece = b"[%b]" % self._text[start:cut]
        try:
            return _strict(piece)
        except LOADS_ERRORS as error:
            if not jsontext.has_long_number(error):
                return None
        self.second_look = True
        try:
            return _strict(jsontext.with_short_numbers(piece))
        except LOADS_ERRORS:
            return None

    def _rest(self, text: bytes) -> Generator[None, None, list[Any]]:
        """All that is left, decoded in one slice; else raise the error of the whole text."""
        try:
            return _strict(text)
        except LOADS_ERRORS as error:
            message, digits = str(error), jsontext.has_long_number(error)
        yield
        if digits:
            self.second_look = True
            try:
                return _strict(jsontext.with_short_numbers(text))
            except LOADS_ERRORS as error:
                message = str(error)
        yield from jsontext.nesting_slices(self._text, self._depth_max)
        raise (yield from jsontext.explain(self._text, message))


def _likely_cut(text: bytes, start: int) -> int:
    """The offset of a comma that is likely to separate two elements, or -1."""
    found = _LIKELY.search(text, start + PIECE_BYTES // 2, start + PIECE_BYTES)
    return text.index(b",", found.start()) if found else -1
