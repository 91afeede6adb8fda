"""Loki's PushRequest in protobuf: entries to records, at once or in slices.

What lives here: the message classes (grafana/loki, ``pkg/push/push.proto``), where a long request is cut, and how an
entry becomes a record. What must not: snappy, JSON, answers.

The classes are made from a descriptor that is written here: no generated code, and upb decodes. Strings are declared as
bytes: one that is not UTF-8 must cost its own bad bytes, not the request.

A long request is cut between entries, by walking the fields around them (protobuf, "Encoding"). An entry that is long
by itself is reduced first, to the fields that are read and as many pairs as a record may have.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from time import monotonic
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import api_implementation
from google.protobuf.message import DecodeError

from inlet.stream.limits import RecordLimits
from wsgi.problems import ClientError
from wsgi.receivers import moments
from wsgi.receivers.foreign import Lines, too_many
from wsgi.receivers.loki_labels import (
    HEAVY_WEIGHT,
    PAIR_WEIGHT,
    SHORT_WEIGHT_MAX,
    STRUCTURED,
    TIMESTAMP,
    Shared,
    Sharing,
    put,
)
from wsgi.receivers.loki_snappy import malformed
from wsgi.receivers.protowire import Field, field, fields
from wsgi.receivers.slices import SLICE_SECONDS

SHORT_RECORDS_MAX = 256
"""Entries, and streams, of a request that is read in one step: a millisecond and a half."""
GROUP_BYTES = 65_536
"""Bytes of entries that are decoded together: 1.2 ms where all of them are empty. A longer entry is reduced first."""
TOGETHER = 16
"""Entries that are taken between two looks at the clock, if their stream's labels are ordinary."""
KNOWN_MAX = 16
"""Texts of labels that are remembered while a long request is read: each took up to six
milliseconds, and takes up to half a megabyte."""
SHORT_ESCAPES_MAX = 4_096
"""Backslashes in the labels of a request that is read in one step: two milliseconds."""
CHECKED_FIELDS = 256
"""Fields between two looks at the clock."""
TIMESTAMP_BYTES_MAX = 1_024
"""Bytes of a timestamp in an entry that is reduced: it needs 22."""
_FIELD = descriptor_pb2.FieldDescriptorProto
_UTF8_BYTES = 4
"""Bytes that a character takes at most."""
STREAMS = LABELS = 0x0A
"""Tags, that is number and wire type: PushRequest.streams, StreamAdapter.labels."""
ENTRIES = 0x12
"""StreamAdapter.entries."""
_ENTRY_FIELDS, _PAIR_FIELDS = (0x0A, 0x12, 0x1A), (0x0A, 0x12)


def _classes() -> dict[str, Any]:
    """The messages as classes. ``parsed`` and ``hash`` are Loki's own, and left out."""
    file = descriptor_pb2.FileDescriptorProto(name="inlet/loki.proto", package="logproto", syntax="proto2")
    messages: dict[str, list[tuple[str, int, Any, str]]] = {
        "Timestamp": [("seconds", 1, _FIELD.TYPE_INT64, ""), ("nanos", 2, _FIELD.TYPE_INT32, "")],
        "LabelPair": [("name", 1, _FIELD.TYPE_BYTES, ""), ("value", 2, _FIELD.TYPE_BYTES, "")],
        "Entry": [
            ("timestamp", 1, _FIELD.TYPE_MESSAGE, "Timestamp"),
            ("line", 2, _FIELD.TYPE_BYTES, ""),
            ("structured", 3, _FIELD.TYPE_MESSAGE, "LabelPair"),
        ],
        "Stream": [("labels", 1, _FIELD.TYPE_BYTES, ""), ("entries", 2, _FIELD.TYPE_MESSAGE, "Entry")],
        "PushRequest": [("streams", 1, _FIELD.TYPE_MESSAGE, "Stream")],
    }
    for message, members in messages.items():
        made = file.message_type.add(name=message)
        for name, number, kind, of in members:
            repeated = name in ("structured", "entries", "streams")
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            field = made.field.add(name=name, number=number, type=kind, label=label)
            if of:
                field.type_name = f".logproto.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"logproto.{name}")) for name in messages}


_made = _classes()
PushRequest, Stream, Entry = _made["PushRequest"], _made["Stream"], _made["Entry"]
IMPLEMENTATION = api_implementation.Type()
"""``upb``: the one in Python takes forty times as long. A test holds this."""


class PushReader:
    """Reads PushRequests. Holds no state: safe between threads."""

    def __init__(self, sharing: Sharing, limits: RecordLimits, records_max: int) -> None:
        self._sharing, self._records_max = sharing, records_max
        self._pairs_max = sharing.pairs_max
        # What is cut by bytes here still has more characters than a record may have, so Foreign marks it.
        self._line_max = _UTF8_BYTES * (limits.message_chars_max + 1)
        self._text_max = _UTF8_BYTES * (max(limits.metadata_value_chars_max, limits.metadata_key_chars_max) + 1)
        self._labels_max = GROUP_BYTES * _UTF8_BYTES

    def read(self, raw: bytes, lines: Lines, tenant: str) -> bool:
        """Take all entries of a short request; return False, having taken none, if there are many.

        Raises ClientError (``malformed-payload``, and as ``Lines.take``).
        """
        streams = _decode(PushRequest, raw).streams
        if len(streams) + sum([len(stream.entries) for stream in streams]) > SHORT_RECORDS_MAX:
            return False
        if sum([stream.labels.count(b"\\") for stream in streams]) > SHORT_ESCAPES_MAX:
            return False
        found, weight = [], 0
        for stream in streams:
            shared, entries = self._shared(stream.labels, tenant), stream.entries
            weight += shared.weight * len(entries) + PAIR_WEIGHT * sum([len(entry.structured) for entry in entries])
            found.append((entries, shared))
        if weight > SHORT_WEIGHT_MAX:
            return False
        for entries, shared in found:
            self._take(entries, shared, lines)
        return True

    def slices(self, raw: bytes, lines: Lines, tenant: str) -> Generator[None, None, None]:
        """Take all entries of a request of any size. Raises as ``read``."""
        streams, known, due = 0, dict[bytes, Shared](), monotonic() + SLICE_SECONDS
        for found in _fields(raw, 0, len(raw)):
            if found is None:
                yield
                continue
            tag, _, start, end = found
            if tag == STREAMS:
                streams += 1
                if streams > self._records_max:
                    raise too_many(self._records_max)
                yield from self._stream(raw, start, end, lines, tenant, known)
                if monotonic() >= due:
                    yield
                    due = monotonic() + SLICE_SECONDS

    def _stream(
        self, raw: bytes, start: int, end: int, lines: Lines, tenant: str, known: dict[bytes, Shared]
    ) -> Generator[None, None, None]:
        """Take the entries of one stream, in groups of GROUP_BYTES. ``known``: what texts of labels say, as bytes."""
        labels, groups, entries = b"", list[tuple[int, int]](), 0
        for found in _fields(raw, start, end):
            if found is None:
                yield
                continue
            tag, begun, content, ended = found
            if tag == LABELS:
                labels = raw[content : min(ended, content + self._labels_max)]
            elif tag == ENTRIES:
                entries += 1
                if lines.read + entries > self._records_max:
                    raise too_many(self._records_max)
                # What stands between two entries of a group is decoded with them, and ignored.
                if groups and ended - groups[-1][0] <= GROUP_BYTES:
                    groups[-1] = (groups[-1][0], ended)
                else:
                    groups.append((begun, ended))
        due, shared = monotonic() + SLICE_SECONDS, known.get(labels)
        if shared is None:
            shared = self._shared(labels, tenant)
            if len(known) >= KNOWN_MAX:
                known.clear()
            known[labels] = shared
            if monotonic() >= due:
                yield
                due = monotonic() + SLICE_SECONDS
        together = 1 if shared.weight > HEAVY_WEIGHT else TOGETHER
        for first, last in groups:
            if last - first <= GROUP_BYTES:
                found_entries: Sequence[Any] = _decode(Stream, raw[first:last]).entries
            else:
                found_entries = [_decode(Entry, (yield from self._reduced(raw, first, last)))]
            for at in range(0, len(found_entries), together):
                self._take(found_entries[at : at + together], shared, lines)
                if monotonic() >= due:
                    yield
                    due = monotonic() + SLICE_SECONDS

    def _reduced(self, raw: bytes, first: int, last: int) -> Generator[None, None, bytes]:
        """A long entry without what is not read of it."""
        (found,) = [found for found in _fields(raw, first, last) if found is not None]
        kept: dict[int, list[bytes]] = {tag: [] for tag in _ENTRY_FIELDS}
        for part in _fields(raw, found[2], last):
            if part is None:
                yield
                continue
            tag, _, start, end = part
            if tag not in kept or (tag == _ENTRY_FIELDS[2] and len(kept[tag]) >= self._pairs_max):
                continue
            content = raw[start : min(end, start + self._line_max)]
            if tag == _ENTRY_FIELDS[2]:
                kept[tag].append((yield from self._pair(raw, start, end)))
            elif tag == _ENTRY_FIELDS[0] and end - start > TIMESTAMP_BYTES_MAX:
                raise malformed("the body is no PushRequest: a timestamp is too long")
            else:
                kept[tag] = [content]
        return b"".join(field(tag, content) for tag, contents in kept.items() for content in contents)

    def _pair(self, raw: bytes, start: int, end: int) -> Generator[None, None, bytes]:
        """A pair of structured metadata without what is not read of it."""
        kept: dict[int, bytes] = {}
        for part in _fields(raw, start, end):
            if part is None:
                yield
            elif part[0] in _PAIR_FIELDS:
                kept[part[0]] = raw[part[2] : min(part[3], part[2] + self._text_max)]
        return b"".join(field(tag, content) for tag, content in kept.items())

    def _shared(self, labels: bytes, tenant: str) -> Shared:
        return self._sharing.of_text(labels[: self._labels_max].decode(errors="replace"), tenant)

    def _take(self, entries: Sequence[Any], shared: Shared, lines: Lines) -> None:
        """Take entries of one stream, none of them longer than GROUP_BYTES or reduced."""
        take, labels, service, pairs_max = lines.take, shared.metadata, shared.service, self._pairs_max
        copy, from_parts = labels.copy, moments.from_parts
        for entry in entries:
            metadata, pairs, moment, made = copy(), entry.structured, entry.timestamp, None
            # PERF: put() is spelled out here: it would cost a fifteenth of a record with two pairs.
            for pair in pairs if len(pairs) <= pairs_max else pairs[:pairs_max]:
                name = pair.name.decode("utf-8", "replace")
                metadata[STRUCTURED + name if name in labels else name] = pair.value.decode("utf-8", "replace")
            seconds, nanos = moment.seconds, moment.nanos
            if seconds or nanos or entry.HasField("timestamp"):
                made = from_parts(seconds, nanos)
                if made is None:
                    put(metadata, shared, TIMESTAMP, f"{seconds} s {nanos} ns")
            take("", made, service, entry.line.decode("utf-8", "replace"), metadata)


def _decode(message: Any, raw: bytes) -> Any:
    try:
        return message.FromString(raw)
    except DecodeError:
        raise _no_request() from None


def _fields(raw: bytes, at: int, end: int) -> Generator[Field | None, None, None]:
    """Yield each field from ``at`` to ``end``, and None between slices. Raises ClientError (``malformed-payload``)."""
    due = monotonic() + SLICE_SECONDS
    for seen, found in enumerate(fields(raw, at, end, _no_request), 1):
        yield found
        if not seen % CHECKED_FIELDS and monotonic() >= due:
            yield None
            due = monotonic() + SLICE_SECONDS


def _no_request(words: str = "") -> ClientError:
    """The error, whatever ``words`` there are for it."""
    return malformed("the body is no PushRequest: its protobuf is corrupt or cut short")
