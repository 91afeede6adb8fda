"""Ordinary log records: read as bytes, they are the same records as read as messages, and what is odd is left alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs

from wsgi.receivers.otlplean import Request, ordinary
from wsgi.receivers.otlpmessages import record_to
from wsgi.receivers.otlprecord import OtlpShared

PAIRS_MAX = 8
Taken = list[tuple[Any, ...]]


def lean(data: bytes) -> tuple[bool, Taken]:
    """Read one LogRecord as bytes; return whether it was ordinary, and what was taken."""
    taken: Taken = []
    (record,) = Request.FromString(wrapped(data)).resource_logs[0].scope_logs[0].log_records
    found = ordinary(lambda *parts: taken.append(parts), record, OtlpShared("s", {"resource.a": "1"}), PAIRS_MAX)
    assert full(record.SerializeToString()) == full(data)
    return found, taken


def full(data: bytes) -> Taken:
    """Read it as a message."""
    taken: Taken = []
    record = LogRecord.FromString(data)
    record_to(lambda *parts: taken.append(parts), record, OtlpShared("s", {"resource.a": "1"}), PAIRS_MAX)
    return taken


def wrapped(data: bytes) -> bytes:
    """Return a request of one record."""
    for _ in range(3):  # log_records is field 2; scope_logs is field 2; resource_logs is field 1
        size, length = len(data), bytearray()
        while size > 0x7F:
            length.append(size & 0x7F | 0x80)
            size >>= 7
        data = (b"\x0a" if _ == 2 else b"\x12") + bytes([*length, size]) + data
    return data


texts = (
    st.text(max_size=6)
    | st.integers(120, 140).map("x".__mul__)
    | st.sampled_from((16_381, 16_384, 40_000)).map("é".__mul__)
)
plain = st.one_of(
    texts.map(lambda text: AnyValue(string_value=text)),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: AnyValue(int_value=number)),
    st.booleans().map(lambda flag: AnyValue(bool_value=flag)),
    st.floats().map(lambda number: AnyValue(double_value=number)),
)
odd = st.one_of(
    st.just(AnyValue()),
    st.binary(max_size=3).map(lambda data: AnyValue(bytes_value=data)),
    st.just(AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=1)]))),
    st.just(AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="k", value=AnyValue(int_value=1))]))),
)
records = st.builds(
    LogRecord,
    time_unix_nano=st.sampled_from((0, 1, 2**63)),
    observed_time_unix_nano=st.sampled_from((0, 1_794_000_000_000_000_000)),
    severity_text=texts,
    body=plain | odd,
    attributes=st.lists(st.builds(KeyValue, key=texts, value=plain | odd), max_size=PAIRS_MAX + 1),
    trace_id=st.sampled_from((b"", b"\1" * 16)),
    flags=st.sampled_from((0, 1)),
)


@given(records)
def test_a_record_read_as_bytes_is_the_one_read_as_a_message_or_is_left_alone(record: LogRecord) -> None:
    data = record.SerializeToString()
    found, taken = lean(data)
    assert taken == (full(data) if found else [])


@given(st.binary(max_size=24), st.binary(max_size=24))
def test_attributes_and_bodies_of_any_bytes_are_left_alone_or_read_as_protobuf_reads_them(
    pair: bytes, body: bytes
) -> None:
    data = b"\x2a" + bytes([len(body)]) + body + b"\x32" + bytes([len(pair)]) + pair
    (record,) = Request.FromString(wrapped(data)).resource_logs[0].scope_logs[0].log_records
    taken: Taken = []
    if ordinary(lambda *parts: taken.append(parts), record, OtlpShared("s", {}), PAIRS_MAX):
        found: Taken = []
        record_to(lambda *parts: found.append(parts), LogRecord.FromString(data), OtlpShared("s", {}), PAIRS_MAX)
        assert taken == found


@pytest.mark.parametrize(
    "value", [AnyValue(string_value="x" * 300), AnyValue(int_value=-1), AnyValue(double_value=0.5)]
)
def test_an_ordinary_record_is_taken_at_once(value: AnyValue) -> None:
    record = LogRecord(body=AnyValue(string_value="m" * 70_000), attributes=[KeyValue(key="a", value=value)])
    assert lean(record.SerializeToString())[0]


def test_the_schema_has_all_fields_of_a_log_record() -> None:
    theirs = {(one.name, one.number) for one in LogRecord.DESCRIPTOR.fields}
    (mine,) = Request.FromString(wrapped(b"")).resource_logs[0].scope_logs[0].log_records
    assert {(one.name, one.number) for one in mine.DESCRIPTOR.fields} == theirs
    request = ExportLogsServiceRequest(resource_logs=[ResourceLogs(scope_logs=[ScopeLogs(log_records=[LogRecord()])])])
    assert Request.FromString(request.SerializeToString()).SerializeToString() == request.SerializeToString()
