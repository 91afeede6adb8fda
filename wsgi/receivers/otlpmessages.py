"""Decoded messages of OTLP: a LogRecord to a line, a Resource and a scope to what their records share.

What lives here: which field becomes what. What must not: how messages are decoded (``wsgi.receivers.otlpproto``), what
both encodings have in common (``wsgi.receivers.otlprecord``).

No ``MessageToDict``: it takes 30 us a record with nine attributes, all of this takes 7.
"""

from __future__ import annotations

from base64 import b64encode
from itertools import islice
from typing import Any

from wsgi.receivers.flatten import text
from wsgi.receivers.otlprecord import SLOW, OtlpPart, OtlpShared, Take, ValueRoom, deliver, mark, moment, put_value


def record_to(take: Take, record: Any, common: OtlpShared, pairs_max: int, cut: list[str] | None = None) -> None:
    """Hand one LogRecord to ``take``; ``cut`` names what was cut of it before. Raises as ``Lines.take``."""
    own: dict[str, str] = {}
    timestamp = fixed(record, own)
    attributes, count = record.attributes, len(own)
    expected, room = count + len(attributes), None
    if expected <= pairs_max:
        for pair in attributes:
            value = pair.value
            if found := value.string_value:
                own[pair.key] = found
                continue
            kind = value.WhichOneof("value")
            if kind == "int_value":
                own[pair.key] = str(value.int_value)
            elif kind == "string_value":
                own[pair.key] = ""
            elif kind == "bool_value":
                own[pair.key] = "true" if value.bool_value else "false"
            else:
                expected = SLOW
                break
    if len(own) != expected:
        # A kind that takes longer, or two of one name: all of them anew.
        own, room = {}, ValueRoom()
        fixed(record, own)
        _put_all(own, attributes, pairs_max, room)
    message = record.body.string_value
    if not message:
        message = _structured(record.body, own, room)
    if cut:
        mark(own, cut)
    deliver(take, common, timestamp, message, own)


def fixed(record: Any, own: dict[str, str]) -> str | None:
    """Put the fields that are no attributes into ``own``; return the time."""
    timestamp = moment(record.time_unix_nano, record.observed_time_unix_nano, own)
    if number := record.severity_number:
        own["severity_number"] = str(number)
    if severity := record.severity_text:
        own["severity_text"] = severity
    if trace_id := record.trace_id:
        own["trace_id"] = trace_id.hex()
    if span_id := record.span_id:
        own["span_id"] = span_id.hex()
    if flags := record.flags:
        own["flags"] = str(flags)
    if event_name := record.event_name:
        own["event_name"] = event_name
    if dropped := record.dropped_attributes_count:
        own["dropped_attributes_count"] = str(dropped)
    return timestamp


def _put_all(own: dict[str, str], attributes: Any, pairs_max: int, room: ValueRoom) -> None:
    """Add attributes of any kind, as many as a record may have, and one."""
    cut = []
    numbers: dict[str, int] = {}
    for pair in islice(attributes, pairs_max + 1):
        room.cut = False
        put_value(own, pair.key, plain(pair.value, room), numbers, pairs_max + 1)
        if room.cut:
            cut.append(pair.key)
    mark(own, cut)


def _structured(body: Any, own: dict[str, str], room: ValueRoom | None) -> str:
    """The message of a body that is no string, or an empty one."""
    kind = body.WhichOneof("value")
    if kind is None or kind == "string_value":
        return ""
    room = room or ValueRoom()
    room.cut = False
    message = text(plain(body, room))
    if room.cut:
        mark(own, ["message"])
    return message


def part_of_resource(resource: Any, schema_url: str, pairs_max: int, cut: list[str] | None = None) -> OtlpPart:
    """Return what a Resource gives to its records. Its ``entity_refs`` name attributes only, and are dropped."""
    more = [("schema_url", schema_url), ("dropped_attributes_count", resource.dropped_attributes_count)]
    return _part(resource.attributes, more, pairs_max, cut)


def part_of_scope(scope: Any, schema_url: str, pairs_max: int, cut: list[str] | None = None) -> OtlpPart:
    """Return what an InstrumentationScope gives to its records."""
    more = [
        ("name", scope.name), ("version", scope.version), ("schema_url", schema_url),
        ("dropped_attributes_count", scope.dropped_attributes_count),
    ]  # fmt: skip
    return _part(scope.attributes, more, pairs_max, cut)


def _part(attributes: Any, more: list[tuple[str, Any]], pairs_max: int, cut: list[str] | None) -> OtlpPart:
    """A resource or a scope with its attributes as plain values."""
    pairs, cut, room = list[tuple[str, Any]](), cut or [], ValueRoom()
    for pair in islice(attributes, pairs_max + 1):
        room.cut = False
        pairs.append((pair.key, plain(pair.value, room)))
        if room.cut:
            cut.append(pair.key)
    return OtlpPart(pairs, more, cut)


def plain(value: Any, room: ValueRoom) -> Any:
    """Return an AnyValue as JSON has it: bytes as base64 (RFC 4648 section 4), no value as None.

    Of a map's members with one name the last one counts.
    """
    kind = value.WhichOneof("value")
    if kind == "bytes_value":
        return b64encode(value.bytes_value).decode()
    if kind == "array_value":
        values = []
        for member in value.array_value.values:
            if not room.take():
                break
            values.append(plain(member, room))
        return values
    if kind == "kvlist_value":
        members = {}
        for member in value.kvlist_value.values:
            if not room.take():
                break
            members[member.key] = plain(member.value, room)
        return members
    if kind is None or kind == "string_value_strindex":  # an index into a table that logs do not have
        return None
    return getattr(value, kind)
