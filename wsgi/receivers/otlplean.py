"""Ordinary log records of OTLP, read with few steps: a schema whose attributes are bytes.

What lives here: that schema, and the attributes and bodies that it leaves undecoded. What must not: which field becomes
what (``wsgi.receivers.otlpmessages``), records that are not ordinary.

PERF: each attribute that upb hands out as a message costs an object for itself and one for its value, and four steps to
look into them: 20 us a record with nine of them. As bytes they cost one object, and are taken apart here: 7 us
(bench/receivers.py: otlp). The fields are those of opentelemetry-proto, logs/v1/logs.proto and common/v1/common.proto.
"""

from __future__ import annotations

from struct import unpack
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from wsgi.receivers.flatten import text
from wsgi.receivers.otlpmessages import fixed
from wsgi.receivers.otlprecord import OtlpShared, Take, deliver

REMEMBERED_MAX = 4_096
"""Names, and short values that are no strings, that are decoded once."""
STRING, BOOL, INT, DOUBLE = 0x0A, 0x10, 0x18, 0x21
"""Tags of AnyValue's kinds: 8 times the field's number, and the wire type."""
KEY, VALUE = 0x0A, 0x12
"""Tags of KeyValue."""

_F = descriptor_pb2.FieldDescriptorProto
_FIELDS: dict[str, list[tuple[str, int, Any, bool]]] = {
    "LogRecord": [
        ("time_unix_nano", 1, _F.TYPE_FIXED64, False), ("observed_time_unix_nano", 11, _F.TYPE_FIXED64, False),
        ("severity_number", 2, _F.TYPE_INT32, False), ("severity_text", 3, _F.TYPE_STRING, False),
        ("body", 5, _F.TYPE_BYTES, False), ("attributes", 6, _F.TYPE_BYTES, True),
        ("dropped_attributes_count", 7, _F.TYPE_UINT32, False), ("flags", 8, _F.TYPE_FIXED32, False),
        ("trace_id", 9, _F.TYPE_BYTES, False), ("span_id", 10, _F.TYPE_BYTES, False),
        ("event_name", 12, _F.TYPE_STRING, False),
    ],
    "ScopeLogs": [
        ("scope", 1, _F.TYPE_BYTES, False), ("log_records", 2, "LogRecord", True),
        ("schema_url", 3, _F.TYPE_STRING, False),
    ],
    "ResourceLogs": [
        ("resource", 1, _F.TYPE_BYTES, False), ("scope_logs", 2, "ScopeLogs", True),
        ("schema_url", 3, _F.TYPE_STRING, False),
    ],
    "Request": [("resource_logs", 1, "ResourceLogs", True)],
}  # fmt: skip


def _classes() -> dict[str, Any]:
    """The messages as classes, all of them kept: upb would make one anew for each request, and each is a cycle."""
    file = descriptor_pb2.FileDescriptorProto(name="inlet/otlplean.proto", package="otlplean", syntax="proto3")
    for message, members in _FIELDS.items():
        made = file.message_type.add(name=message)
        for name, number, kind, repeated in members:
            field = made.field.add(name=name, number=number)
            field.label = _F.LABEL_REPEATED if repeated else _F.LABEL_OPTIONAL
            field.type = _F.TYPE_MESSAGE if type(kind) is str else kind
            if type(kind) is str:
                field.type_name = f".otlplean.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"otlplean.{name}")) for name in _FIELDS}


_made = _classes()
Request: Any = _made["Request"]
_names: dict[bytes, str] = {}
_values: dict[bytes, str] = {b"\x10\x00": "false", b"\x10\x01": "true", b"\x0a\x00": ""}


def ordinary(take: Take, record: Any, common: OtlpShared, pairs_max: int) -> bool:
    """Hand one record of a ``Request`` to ``take``; return False, having done nothing, if it is not ordinary.

    An ordinary one has attributes of different names and of plain kinds, and a string for a body, all in the form
    that every encoder writes. Raises as ``Lines.take``.
    """
    own: dict[str, str] = {}
    timestamp = fixed(record, own)
    attributes = record.attributes
    expected = len(own) + len(attributes)
    if expected > pairs_max:
        return False
    try:
        for raw in attributes:
            at = raw[1] + 2
            name = _names.get(raw[:at])
            if name is None:
                name = _name(raw[:at])
            size = raw[at + 1]
            # A string of up to 125 bytes: all lengths are of one byte, and agree.
            if raw[at + 2] == STRING and size == raw[at + 3] + 2 == len(raw) - at - 2 and raw[at] == VALUE:
                own[name] = raw[at + 4 :].decode()
            else:
                own[name] = _value(raw, at)
        message = _string(record.body) if record.body else ""
    except (IndexError, ValueError):
        return False
    if len(own) != expected:
        return False
    deliver(take, common, timestamp, message, own)
    return True


def _name(head: bytes) -> str:
    """The name of an attribute that begins like this. Raises ValueError if it is not ordinary."""
    if head[0] != KEY or head[1] >= 0x80 or len(head) != head[1] + 2:
        raise ValueError
    name = head[2:].decode()
    if len(_names) < REMEMBERED_MAX:
        _names[head] = name
    return name


def _value(raw: bytes, at: int) -> str:
    """The value of an attribute whose value's field begins at ``at``. Raises ValueError, IndexError."""
    if raw[at] != VALUE:
        raise ValueError
    size, start = _size(raw, at + 1)
    if start + size != len(raw):
        raise ValueError
    value = raw[start:]
    found = _values.get(value)
    if found is not None:
        return found
    kind = value[0]
    if kind == STRING:
        return _string(value)
    if kind == INT:
        number, end = _size(value, 1)
        if end != len(value) or number >= 1 << 64:
            raise ValueError
        found = str(number - (1 << 64) if number >> 63 else number)
    elif kind == DOUBLE and len(value) == 9:
        found = text(unpack("<d", value[1:])[0])
    else:
        raise ValueError
    if len(_values) < REMEMBERED_MAX:
        _values[value] = found
    return found


def _string(value: bytes) -> str:
    """The string that an AnyValue is. Raises ValueError, IndexError."""
    size, start = _size(value, 1)
    if value[0] != STRING or start + size != len(value):
        raise ValueError
    return value[start:].decode()


def _size(raw: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends. Raises IndexError, ValueError."""
    number = raw[at]
    if number < 0x80:
        return number, at + 1
    number, shift = number & 0x7F, 7
    while shift < 70:
        at += 1
        byte = raw[at]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at + 1
        shift += 7
    raise ValueError
