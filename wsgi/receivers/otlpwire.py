"""A long message of OTLP made short, before it is decoded.

What lives here: cutting a log record, a resource or a scope that is too long to be decoded in one step. What must not:
framing (``wsgi.receivers.protowire``), what a field means (``wsgi.receivers.otlpproto``), answers.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice

from inlet.stream.limits import RecordLimits
from wsgi.problems import ClientError
from wsgi.receivers import protowire
from wsgi.receivers.protowire import Field, field

Span = tuple[int, int]
"""Where a field's value begins and ends."""

LONG_BYTES = 131_072
"""Bytes over which a message is not decoded as it is: 128 KiB of empty messages take 4 ms."""
STRUCTURE_BYTES = 65_536
"""Bytes of arrays and maps of a long message that are kept."""
FEW_FIELDS = 64
"""Fields that a long attribute, or its value, may have; it needs two."""
WALKED_FIELDS = 1_024
"""Fields that are walked between two yields: half a millisecond."""
SMALL_BYTES = 1_024
"""Bytes of an attribute that is kept as it is."""
CHAR_BYTES = 4
"""Bytes that a character may take in UTF-8."""
ROOM_BYTES = 1_048_576
"""Bytes of strings of one long message that are kept: four times what a record may have."""

DEPTH_MESSAGES_MAX = 98
"""Messages within each other in an attribute or a body that a decoder takes: 100, with the log record around it."""
LOOKED_FIELDS = 4_096
"""Fields of a long value that are looked at to find how deep it nests."""
NESTED_MESSAGES = {0x2A: 2, 0x32: 3}
"""Tag of an AnyValue's array or map -> messages to the AnyValue within it: a map has a KeyValue between."""

STRING_VALUE, ARRAY_VALUE, MAP_VALUE, BYTES_VALUE = 0x0A, 0x2A, 0x32, 0x3A
"""Tags of AnyValue's kinds that can be long: 8 times the field's number, and 2 for length-delimited."""
KEY, VALUE = 0x0A, 0x12
"""Tags of KeyValue."""


def malformed(detail: str) -> ClientError:
    """Return the error of a body that is not protobuf."""
    return ClientError("malformed-payload", f"the body is not an ExportLogsServiceRequest in protobuf: {detail}")


def fields(data: bytes, at: int, end: int) -> Iterator[Field]:
    """Return each field of the message that is ``data[at:end]``. Raises ClientError (``malformed-payload``)."""
    return protowire.fields(data, at, end, malformed)


class Shortener:
    """Makes one long message short enough to be decoded in one step."""

    def __init__(self, attribute: int, body: int, limits: RecordLimits) -> None:
        """``attribute``, ``body``: tags of these fields; ``body`` 0 where there is none."""
        self._attribute, self._body, self._limits = attribute, body, limits
        self._strings, self._structures = ROOM_BYTES, STRUCTURE_BYTES
        self.cut: list[str] = []
        """Names of the attributes that were cut; ``message`` for the body."""

    def short(self, data: bytes, at: int, end: int) -> Generator[None, None, bytes]:
        """Return ``data[at:end]`` with as many attributes as a record may have, and one, and with their values cut.

        Of other fields the last one counts. Raises ClientError (``malformed-payload``).
        """
        attributes: list[bytes] = []
        others: dict[int, bytes] = {}
        for count, (tag, begin, start, stop) in enumerate(fields(data, at, end)):
            if not count % WALKED_FIELDS:
                yield
            if tag == self._attribute:
                if len(attributes) <= self._limits.metadata_pairs_max:
                    attributes.append((yield from self._pair(data, begin, start, stop)))
            elif tag == self._body:
                value, was_cut = yield from self._value(data, start, stop, self._limits.message_chars_max)
                others[tag] = field(tag, value)
                if was_cut:
                    self.cut.append("message")
            elif len(others) < FEW_FIELDS or tag in others:
                if tag & 7 != 2 or stop - start <= SMALL_BYTES:
                    others[tag] = data[begin:stop]
                else:
                    chars_max = self._limits.metadata_value_chars_max
                    others[tag] = field(tag, self._text(data, start, stop, chars_max)[0])
        return b"".join([*others.values(), *attributes])

    def _pair(self, data: bytes, begin: int, start: int, stop: int) -> Generator[None, None, bytes]:
        """The field of one attribute, cut where it is long."""
        if stop - start <= SMALL_BYTES and self._structures > 0:
            self._structures -= stop - begin
            return data[begin:stop]
        found = {tag: (first, last) for tag, _, first, last in _few(data, start, stop)}
        first, last = found.get(KEY, (stop, stop))
        name, _ = self._text(data, first, last, self._limits.metadata_key_chars_max)
        first, last = found.get(VALUE, (stop, stop))
        value, was_cut = yield from self._value(data, first, last, self._limits.metadata_value_chars_max)
        if was_cut:
            self.cut.append(name.decode(errors="replace")[: self._limits.metadata_key_chars_max])
        return field(self._attribute, field(KEY, name) + field(VALUE, value))

    def _value(self, data: bytes, start: int, stop: int, chars_max: int) -> Generator[None, None, tuple[bytes, bool]]:
        """An AnyValue, and whether it was cut."""
        if stop - start <= SMALL_BYTES and self._structures > 0:
            self._structures -= stop - start
            return data[start:stop], False
        tag, begin, first, last = (_few(data, start, stop) or [(0, stop, stop, stop)])[-1]
        if tag in (ARRAY_VALUE, MAP_VALUE):
            end, room = first, max(0, self._structures)
            for count, (_, _, _, after) in enumerate(fields(data, first, last)):
                if not count % WALKED_FIELDS:
                    yield
                if after - first > room:
                    break
                end = after
            if end < last:
                yield from _refuse_deep(data, start, stop)
            self._structures -= end - first
            return field(tag, data[first:end]), end < last
        if tag in (STRING_VALUE, BYTES_VALUE):
            text, was_cut = self._text(data, first, last, chars_max)
            return field(tag, text), was_cut
        # A number, or what this version of OTLP does not know.
        return (data[begin:last], False) if last - begin <= SMALL_BYTES else (b"", True)

    def _text(self, data: bytes, start: int, stop: int, chars_max: int) -> tuple[bytes, bool]:
        """A string's bytes: enough for so many characters and one more, and whether there were more."""
        end = min(stop, start + CHAR_BYTES * (chars_max + 1), start + max(SMALL_BYTES, self._strings))
        self._strings -= end - start
        if end == stop:
            return data[start:stop], False
        while end > start and data[end] & 0xC0 == 0x80:  # within a character
            end -= 1
        return data[start:end], True


def _few(data: bytes, start: int, stop: int) -> list[tuple[int, int, int, int]]:
    """The fields of a message that needs only a few; raise ClientError where it has too many."""
    found = list(islice(fields(data, start, stop), FEW_FIELDS + 1))
    if len(found) > FEW_FIELDS:
        raise malformed(f"an attribute or a value has more than {FEW_FIELDS} fields")
    return found


def _refuse_deep(data: bytes, start: int, stop: int) -> Generator[None, None, None]:
    """Raise ClientError (``malformed-payload``) where an AnyValue nests deeper than a decoder goes.

    Looks at the longest of the first values of each array and map.
    """
    depth, left = 0, LOOKED_FIELDS
    while left > 0:
        tag, _, first, last = next(fields(data, start, stop), (0, 0, 0, 0))
        if tag not in NESTED_MESSAGES:
            return
        depth += NESTED_MESSAGES[tag]
        if depth > DEPTH_MESSAGES_MAX:
            raise malformed("a value nests too deep")
        start = stop = last
        for _, _, begin, end in islice(fields(data, first, last), left):
            left -= 1
            if not left % WALKED_FIELDS:
                yield
            if end - begin > stop - start:
                start, stop = begin, end
        if tag == MAP_VALUE:
            inner = {name: (begin, end) for name, _, begin, end in islice(fields(data, start, stop), FEW_FIELDS)}
            start, stop = inner.get(VALUE, (stop, stop))
