"""Decode one stream entry: its fields -> records, and a reason for each line that is not a record. Pure.

What lives here: the reading side of docs/protocol.md's stream contract. What must not: Redis, clocks, state.

An entry as Inlet's sink adds it::

    r   ["id-1","2026-...","checkout","paid",{"k":"v"}]\\n["id-2",...]
    n   2

Whatever else is in the stream (another writer's fields, a cut-off line) raises nothing: a line that is not a record
becomes a ``Bad``; an entry that is not Inlet's becomes one ``Bad`` with ``line`` -1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import ujson

from inlet.consumer.notes import Note
from inlet.stream.entry import FIELD_COUNT, FIELD_RECORDS
from inlet.stream.errors import RecordInvalid
from inlet.stream.record import LOADS_ERRORS, Record, decode

WHOLE = -1
"""The ``line`` of a fault of the whole entry."""
DETAIL_CHARS_MAX = 200
"""Characters of a detail: one line on a screen."""

MISSING_FIELD = "missing-field"
COUNT_MISMATCH = "count-mismatch"
INVALID_LINE = "invalid-line"

_loads = ujson.loads
_new = tuple.__new__
_join = "".join


class Address(NamedTuple):
    """Say where a record is: no two records of a stream share an address, and it never changes."""

    partition: int
    entry_id: str
    line: int


class Bad(NamedTuple):
    """One line that becomes a dead letter; for a fault of the whole entry ``line`` is WHOLE and ``raw`` empty.

    ``attempts``: how often a handler was called with it; 0 for a line that is not a record.
    """

    line: int
    reason: str
    detail: str
    raw: bytes
    attempts: int = 0


class Entry(NamedTuple):
    """One decoded entry. ``lines[i]`` is the line number of ``records[i]``; ``fields`` is what the store holds.

    ``deliveries``: how often the group received the entry, this time included; ``attempt``: how often a handler got
    these records, this time included. ``bad``: lines that go to the dead-letter stream when the entry is acked: those
    that are not records, and those that earlier attempts have judged. ``suppressed``: number of lines left out as
    duplicates. ``part``: the first and last line, unless these are all lines of the entry. ``note``: what earlier
    attempts have left, for the reader.
    """

    partition: int
    entry_id: str
    records: list[Record]
    lines: Sequence[int]
    deliveries: int
    bad: tuple[Bad, ...]
    suppressed: int
    fields: list[bytes]
    attempt: int = 1
    part: tuple[int, int] | None = None
    note: Note | None = None

    @property
    def watermark(self) -> tuple[int, str]:
        """Return (partition, entry ID), or (partition, ``"<entry ID>/<first line>-<last line>"``) for a part of it."""
        if self.part is None:
            return self.partition, self.entry_id
        return self.partition, f"{self.entry_id}/{self.part[0]}-{self.part[1]}"

    @property
    def span(self) -> tuple[int, int]:
        """Return the first and last line that were handed out: store it with the output in one transaction.

        An entry that failed comes again in halves of halves, so skip one whose span is within a stored one.
        """
        return self.part or (0, self.line_count - 1)

    @property
    def line_count(self) -> int:
        """Return the number of lines in the store's entry."""
        return (field(self.fields, FIELD_RECORDS) or b"").count(b"\n") + 1

    @property
    def size(self) -> int:
        """Return the bytes of the fields as the store holds them."""
        return sum(map(len, self.fields))

    def items(self) -> Iterator[tuple[Address, Record]]:
        """Yield each record with its address, in order."""
        for line, record in zip(self.lines, self.records, strict=True):
            yield Address(self.partition, self.entry_id, line), record

    def raw(self, line: int) -> bytes:
        """Return the bytes of one line, as stored."""
        return (field(self.fields, FIELD_RECORDS) or b"").split(b"\n")[line]


def parse(partition: int, entry_id: bytes, fields: list[bytes], deliveries: int = 1) -> Entry:
    """Decode one entry. Raises nothing: what is not a record is in ``bad``."""
    lines = field(fields, FIELD_RECORDS)
    if lines is None:
        bad: tuple[Bad, ...] = (_whole(MISSING_FIELD, "the entry has no field 'r': it is not Inlet's"),)
        return Entry(partition, entry_id.decode(), [], (), deliveries, bad, 0, fields)
    count = field(fields, FIELD_COUNT)
    split = lines.split(b"\n")
    stored = len(split)
    records = _fast(split) if count == b"%d" % stored else None
    if records is None:
        return _slow(partition, entry_id, fields, deliveries, split, count)
    return Entry(partition, entry_id.decode(), records, range(stored), deliveries, (), 0, fields)


def left_by(note: Note, entry: Entry) -> Entry:
    """Return the entry with what earlier attempts have left of it, and with the lines they have judged in ``bad``."""
    known = {bad.line for bad in entry.bad} | {verdict.line for verdict in note.bad}
    kept = [number for number, line in enumerate(entry.lines) if line not in known and note.leaves(line)]
    stored = (field(entry.fields, FIELD_RECORDS) or b"").split(b"\n")
    judged = tuple(
        Bad(verdict.line, verdict.reason, verdict.detail, stored[verdict.line], verdict.attempts)
        for verdict in note.bad
        if 0 <= verdict.line < len(stored)
    )
    return entry._replace(
        records=[entry.records[number] for number in kept],
        lines=[entry.lines[number] for number in kept],
        bad=entry.bad + judged,
        attempt=1 + max((unit.attempts for unit in note.left), default=0),
        note=note,
    )


def field(fields: list[bytes], name: bytes) -> bytes | None:
    """Return the value of a field in a flat list of names and values, or None."""
    # The common case first: the sink writes the records, then the count.
    if len(fields) == 4 and fields[0] == FIELD_RECORDS and fields[2] == FIELD_COUNT:
        return fields[1] if name == FIELD_RECORDS else fields[3] if name == FIELD_COUNT else None
    for position in range(0, len(fields) - 1, 2):
        if fields[position] == name:
            return fields[position + 1]
    return None


def _fast(lines: list[bytes]) -> list[Record] | None:
    """Decode all lines in one call, then check each; return None if any is not a record.

    PERF: bench/consumer_bench.py: 1.6 us a record of 450 B, against 2.5 us line by line. Checks in bulk
    (``set(map(type, ...))``) are slower than this loop, which finds each record in the cache.
    """
    try:
        values: Any = _loads(b"[" + b",".join(lines) + b"]")
        # A line such as '1],[2' would be two values here; the count shows it.
        if len(values) != len(lines):
            return None
        for event_id, timestamp, service, message, metadata in values:
            if not type(event_id) is type(timestamp) is type(service) is type(message) is str:
                return None
            # Of JSON's types only an object has values(); joining raises TypeError unless all of them are strings.
            _join(metadata.values())
    except (*LOADS_ERRORS, TypeError, AttributeError):
        return None
    return list(map(_new, repeat(Record), values))


def _slow(
    partition: int, entry_id: bytes, fields: list[bytes], deliveries: int, split: list[bytes], count: bytes | None
) -> Entry:
    """Decode an entry with a fault line by line, so that one bad line costs no other."""
    name = entry_id.decode()
    if count is None:
        bad = _whole(MISSING_FIELD, "the entry has no field 'n': it is not Inlet's, or was cut off")
        return Entry(partition, name, [], (), deliveries, (bad,), 0, fields)
    if count != b"%d" % len(split):
        said = ascii(count.decode(errors="replace"))[:32]
        bad = _whole(COUNT_MISMATCH, f"field 'n' says {said}, field 'r' holds {len(split)} lines")
        return Entry(partition, name, [], (), deliveries, (bad,), 0, fields)
    records: list[Record] = []
    good: list[int] = []
    faults: list[Bad] = []
    for number, line in enumerate(split):
        try:
            records.append(decode(line))
            good.append(number)
        except RecordInvalid as error:
            faults.append(Bad(number, INVALID_LINE, error.detail[:DETAIL_CHARS_MAX], line))
    return Entry(partition, name, records, good, deliveries, tuple(faults), 0, fields)


def _whole(reason: str, detail: str) -> Bad:
    return Bad(WHOLE, reason, detail, b"")
