"""A body of MessagePack as its records, as Fluent Bit sends them: ``[time, {members}]``, one after the other.

What lives here: where a value ends, in slices, Fluent Bit's time and metadata, and what stands for that which JSON does
not know. What must not: which member means what (``wsgi.receivers.mapped``).

Read: ``[time, {...}]``, ``[[time, {metadata}], {...}]`` (Fluent Bit 2.1 and later), a map, and arrays of these. Time
is an EventTime (Fluentd's Forward Protocol: extension 0, two big-endian 32-bit numbers, seconds and nanoseconds), a
timestamp (MessagePack: extension -1), an integer or a float, in seconds. It becomes the member ``date``, which is its
name in Fluent Bit's JSON.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from typing import Any

import msgpack

from wsgi.receivers import jsontext, moments
from wsgi.receivers.documents import Document

FED_BYTES = 32_768
"""Bytes that are decoded at a time: a millisecond, where each is an empty array."""
DOCUMENT_BYTES_MAX = 1_048_576
"""Bytes of one record: it cannot be told how many values it holds, and a million of them take 60 MB."""
VALUES_MAX = 20_000
"""Values of one record, at any depth: converted in one step, in some milliseconds."""
DEPTH_MAX = 64
"""Arrays and maps within each other; what is deeper is dropped."""
DATE, METADATA = "date", "metadata"
"""Members that the time and the metadata of a record become, unless it has such members."""
EVENT_TIME = 0
"""Extension of Fluentd's EventTime."""

EMPTY_MAX = 2_000
"""Empty arrays at the top that are passed in a row: a millisecond of them."""

_TOO_LARGE = f"a record takes over {DOCUMENT_BYTES_MAX} bytes"
_TOO_RICH = f"a record holds over {VALUES_MAX} values"
_CUT_OFF = "the last value is cut off"
_ARRAYS = {**dict.fromkeys(range(0x90, 0xA0), 1), 0xDC: 3, 0xDD: 5}
"""First byte of an array -> bytes of its header."""
_MAPS = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
"""First bytes of a map."""
_TIMES = (str, int, float, msgpack.Timestamp)


def read(body: bytes) -> Generator[Document | None, None, None]:
    """Yield every record of a body, and what is none as it is; None after about each millisecond without one.

    The elements of an array at the top are read one by one, whatever its size. Raises ClientError
    (``malformed-payload``) for an empty body.
    """
    if not body:
        raise jsontext.empty()
    yield from _Reader(body).read()


class _Reader:
    """A body, and how far it was read: at the top, or within an array that stands there."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._begin(0)
        self._left = 0
        """Elements of the array that are still to come."""
        self._first_of_two = False
        """Whether the next one may be the time of a record."""
        self._time: Any = None
        """That time, where the next value is the record."""

    def _begin(self, at: int, *, skips: bool = False) -> None:
        """Go on at a value's first byte. ``skips``: without making it, to find its end."""
        self._unpacker = msgpack.Unpacker(
            raw=False,
            strict_map_key=False,
            unicode_errors="replace",
            ext_hook=_extension,
            max_buffer_size=len(self._body) + 1,
        )
        self._base = self._fed = self._start = at
        self._skips = skips

    def read(self) -> Generator[Document | None, None, None]:
        """Yield as ``read`` does."""
        body, size = self._body, len(self._body)
        while self._fed < size:
            self._unpacker.feed(body[self._fed : self._fed + FED_BYTES])
            self._fed = min(size, self._fed + FED_BYTES)
            yield from self._values()
            yield None
            if self._fed - self._start > DOCUMENT_BYTES_MAX and not self._skips:
                yield Document(None, _TOO_LARGE, self._text())
                self._begin(self._start, skips=True)
        if (self._start < size or self._left) and not self._skips:
            yield Document(None, _CUT_OFF, self._text())

    def _text(self) -> bytes:
        return self._body[self._start : self._start + FED_BYTES]

    def _values(self) -> Iterator[Document | None]:
        """Yield the values that end within what the unpacker was fed."""
        empty = 0
        while True:
            if not self._left and self._start < self._fed and (header := _ARRAYS.get(self._body[self._start])):
                if self._start + header > self._fed:
                    return
                self._left = self._unpacker.read_array_header()
                self._start = self._base + self._unpacker.tell()
                self._first_of_two = self._left == 2
                empty += not self._left
                if empty >= EMPTY_MAX:
                    empty = 0
                    yield None
                continue
            try:
                value = self._unpacker.skip() if self._skips else self._unpacker.unpack()
            except msgpack.OutOfData:
                return
            except Exception as error:
                # msgpack raises ValueErrors of its own, and whatever a key that is an array raises.
                yield Document(None, _fault(error), self._text())
                self._start = self._fed = len(self._body)
                self._left = 0
                return
            self._start = self._base + self._unpacker.tell()
            if (found := self._found(value)) is not None:
                yield found

    def _found(self, value: Any) -> Document | None:
        """The record that a value is, or ends; None where it is only the time of one, or was skipped."""
        first, self._first_of_two = self._first_of_two, False
        time, self._time = self._time, None
        within = self._left > 0
        self._left -= within
        if self._skips:
            self._skips = False
            return None
        if time is not None:
            return _timed(time, value)
        if first and self._start < len(self._body) and self._body[self._start] in _MAPS and _is_time(value):
            self._time = value
            return None
        return (_event(value) if within and type(value) is list else None) or _record(value)


def _fault(error: Exception) -> str:
    """Why MessagePack was not read, in words that quote nothing."""
    if isinstance(error, msgpack.StackError):
        return "arrays and maps nest too deep"
    return "not MessagePack that this service reads"


def _is_time(value: Any) -> bool:
    """Whether a value can be the time of a record, or its time and metadata."""
    if type(value) is list and 1 <= len(value) <= 2:
        value = value[0]
    return type(value) in _TIMES


def _event(value: list[Any]) -> Document | None:
    """The record of ``[time, {...}]``; None where it is something else."""
    if len(value) != 2 or type(value[1]) is not dict or not _is_time(value[0]):
        return None
    return _timed(value[0], value[1])


def _timed(time: Any, members: dict[str, Any]) -> Document:
    """The record of a time, or a time and metadata, and members."""
    metadata = None
    if type(time) is list:
        time, metadata = time[0], time[1] if len(time) == 2 else None
    record = _record(members)
    if record.fault:
        return record
    found = record.value
    found.setdefault(DATE, plain(time))
    if metadata and METADATA not in found:
        inner = _record(metadata)
        if not inner.fault:
            found[METADATA] = inner.value
    return record


def _record(value: Any) -> Document:
    left = [VALUES_MAX]
    found = plain(value, left=left)
    return Document(found) if left[0] >= 0 else Document(None, _TOO_RICH)


def _extension(code: int, data: bytes) -> Any:
    """The value of an extension: a time as RFC 3339, any other as its bytes."""
    if code == EVENT_TIME and len(data) == 8:
        seconds, nanos = struct.unpack(">II", data)
        return moments.from_parts(seconds, nanos) or data
    return data


def plain(value: Any, depth: int = 0, left: list[int] | None = None) -> Any:
    """Return a decoded value as JSON can hold it: names as text, bytes as text, a timestamp as RFC 3339.

    ``left``: how many values may still be converted; below 0 the rest is dropped.
    """
    kind = type(value)
    if left is not None and (kind is dict or kind is list):
        left[0] -= len(value)
        if left[0] < 0:
            return None
    if kind is dict:
        if depth >= DEPTH_MAX:
            return None
        return {
            name if type(name) is str else str(plain(name, depth + 1)): plain(member, depth + 1, left)
            for name, member in value.items()
        }
    if kind is list:
        return [plain(each, depth + 1, left) for each in value] if depth < DEPTH_MAX else None
    if kind is bytes:
        return value.decode("utf-8", "replace")
    if kind is msgpack.Timestamp:
        return moments.from_parts(value.seconds, value.nanoseconds)
    return value
