"""Messages whose strings are not UTF-8: decoded nevertheless, with U+FFFD in place of what is no character.

What lives here: the second look at a message that protobuf refused. What must not: what becomes of it.

Protobuf refuses a whole message for one such string, but some clients do not check theirs, and cannot fix their
records. So the schema is loaded a second time with ``bytes`` in place of each ``string``.
"""

from __future__ import annotations

from collections.abc import Generator
from time import monotonic
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.resource.v1 import resource_pb2

from wsgi.receivers.slices import SLICE_SECONDS

REAL_BYTES = frozenset({"trace_id", "span_id", "bytes_value"})
"""Fields that are bytes in the schema itself."""


def _lenient_pool() -> Any:
    """The schema without strings."""
    pool = descriptor_pool.DescriptorPool()
    for module in (common_pb2, resource_pb2, logs_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        for message in file.message_type:
            for field in message.field:
                if field.type == field.TYPE_STRING:
                    field.type = field.TYPE_BYTES
        pool.Add(file)
    return pool


_POOL = _lenient_pool()
_LENIENT = {
    message.DESCRIPTOR.full_name: message_factory.GetMessageClass(
        _POOL.FindMessageTypeByName(message.DESCRIPTOR.full_name)
    )
    for message in (common_pb2.InstrumentationScope, resource_pb2.Resource, logs_pb2.LogRecord)
}
"""Held here: a class that is made anew each time is a cycle each time."""


def repaired(kind: Any, data: bytes) -> Generator[None, None, Any]:
    """Return a message of ``kind``, or None where ``data`` is none, whatever its strings are."""
    lenient = _LENIENT[kind.DESCRIPTOR.full_name]
    try:
        message = lenient.FromString(data)
    except DecodeError:
        return None
    yield
    due = monotonic() + SLICE_SECONDS
    open_messages = [iter([message])]
    while open_messages:
        message_open = next(open_messages[-1], None)
        if message_open is None:
            open_messages.pop()
            continue
        for field, value in message_open.ListFields():
            if type(value) is bytes:
                if field.name not in REAL_BYTES:
                    setattr(message_open, field.name, value.decode(errors="replace").encode())
            elif field.message_type is not None:
                open_messages.append(iter(value if hasattr(value, "append") else [value]))
        if monotonic() >= due:
            yield
            due = monotonic() + SLICE_SECONDS
    encoded = message.SerializeToString()
    yield
    return kind.FromString(encoded)
