"""OTLP logs: what becomes of each field in both encodings, bounds, answers, and hostile bodies.

What lives here: the receiver over the sink in memory. What must not: real exporters (``tests.clients``).
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from inlet.stream.errors import InletError
from inlet.stream.limits import RecordLimits
from inlet.stream.record import decode
from tests.receivers.support import MemorySink, Reply, ask, environ
from wsgi.problems import PROBLEMS, ClientError, Denied, SinkError
from wsgi.receivers.admission import OPEN, Admission
from wsgi.receivers.application import Application
from wsgi.receivers.foreign import Foreign, Lines
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.mounting import Bounds
from wsgi.receivers.otlp import SHORT_BYTES_MAX, SHORT_RECORDS_MAX, Otlp, mount
from wsgi.receivers.otlpanswers import RETRY
from wsgi.receivers.otlpproto import OtlpProtoReader
from wsgi.receivers.parsed import Parsed
from wsgi.receivers.protowire import field
from wsgi.receivers.resources import Operator
from wsgi.receivers.routes import create_app
from wsgi.receivers.slices import finish

PROTO, JSON = "application/x-protobuf", "application/json"
BOUNDS = Bounds(PayloadLimits(), RecordLimits())
NANOS, TIME = 1_769_903_999_123_456_789, "2026-01-31T23:59:59.123456789Z"
STEP_SECONDS_MAX = 1.0
"""Generous: a step takes a few milliseconds, on a machine that does nothing else."""


def app_of(sink: MemorySink, bounds: Bounds = BOUNDS, admission: Admission = OPEN) -> Application:
    """An application with this receiver alone."""
    return create_app(
        receivers=mount(bounds).receivers, append=sink.append, admission=admission,
        operator=Operator(lambda: sink.not_ready),
    )  # fmt: skip


def post(body: bytes, content_type: str | None = PROTO, sink: MemorySink | None = None, **more: Any) -> Reply:
    """One request to /v1/logs."""
    return ask(app_of(sink or MemorySink()), environ(body, "/v1/logs", CONTENT_TYPE=content_type, **more))


def request_of(records: int = 1, **fields: Any) -> ExportLogsServiceRequest:
    """A request with as many log records; ``fields`` of each."""
    request = ExportLogsServiceRequest()
    resource_logs = request.resource_logs.add()
    add(resource_logs.resource.attributes, "service.name", string_value="checkout")
    scope_logs = resource_logs.scope_logs.add()
    for _ in range(records):
        record = scope_logs.log_records.add(time_unix_nano=NANOS, **fields)
        record.body.string_value = "paid"
    return request


def add(attributes: Any, name: str, **value: Any) -> Any:
    """Add an attribute; return its value."""
    pair = attributes.add(key=name)
    pair.value.CopyFrom(AnyValue(**value))
    return pair.value


def as_json(request: ExportLogsServiceRequest, **options: Any) -> bytes:
    """A request as OTLP/JSON: ids in hex."""
    value = MessageToDict(request, use_integers_for_enums=True, **options)
    for resource_logs in value.get("resourceLogs", value.get("resource_logs", [])):
        for scope_logs in resource_logs.get("scopeLogs", resource_logs.get("scope_logs", [])):
            for record in scope_logs.get("logRecords", scope_logs.get("log_records", [])):
                for name in ("traceId", "spanId", "trace_id", "span_id"):
                    if name in record:
                        record[name] = base64.b64decode(record[name]).hex()
    return json.dumps(value).encode()


def parsed(body: bytes, content_type: str = PROTO, bounds: Bounds = BOUNDS) -> Parsed:
    """A body in slices; checks that reading it at once comes to the same."""
    otlp, env = Otlp(bounds), {"CONTENT_TYPE": content_type}
    found = finish(otlp.slices(env, body))
    at_once = otlp.read(env, body)
    if at_once is not None:
        timed = all(b'"2026-01-31T' in line for line in found.lines)  # others have the time of arrival
        assert len(at_once.lines) == len(found.lines)
        assert not timed or at_once.lines == found.lines
    return found


def only(body: bytes, content_type: str = PROTO, bounds: Bounds = BOUNDS) -> Any:
    """The one record of a body."""
    found = parsed(body, content_type, bounds)
    assert found.rejections is None, found.rejections.kept
    (line,) = found.lines
    return decode(line)


def everything() -> ExportLogsServiceRequest:
    """A request with one record that has all that a record can have."""
    request = request_of(
        observed_time_unix_nano=NANOS + 1, severity_number=17, severity_text="ERROR", trace_id=bytes(range(16)),
        span_id=bytes(range(8)), flags=1, event_name="payment", dropped_attributes_count=3,
    )  # fmt: skip
    resource_logs = request.resource_logs[0]
    resource_logs.schema_url = "https://example.com/resource"
    resource_logs.resource.dropped_attributes_count = 4
    add(resource_logs.resource.attributes, "host.cpus", int_value=8)
    scope_logs = resource_logs.scope_logs[0]
    scope_logs.schema_url = "https://example.com/scope"
    scope_logs.scope.name, scope_logs.scope.version = "app", "1.2"
    scope_logs.scope.dropped_attributes_count = 5
    add(scope_logs.scope.attributes, "debug", bool_value=True)
    attributes = scope_logs.log_records[0].attributes
    add(attributes, "text", string_value="é\u2028")
    add(attributes, "empty", string_value="")
    add(attributes, "yes", bool_value=True)
    add(attributes, "no", bool_value=False)
    add(attributes, "int", int_value=-(2**63))
    add(attributes, "double", double_value=1.5)
    add(attributes, "infinite", double_value=float("inf"))
    add(attributes, "bytes", bytes_value=b"\xff\x00")
    add(attributes, "nothing")
    values = add(attributes, "array", array_value={}).array_value.values
    values.add(string_value="a")
    values.add(int_value=1)
    values.add(bytes_value=b"b")
    values.add()
    add(add(attributes, "map", kvlist_value={}).kvlist_value.values, "in", string_value="x")
    add(attributes, "empty map", kvlist_value={})
    add(attributes, "text", string_value="again")
    add(attributes, "trace_id", string_value="mine")
    return request


EVERYTHING = {
    "observed_timestamp": "2026-01-31T23:59:59.123456790Z", "severity_number": "17", "severity_text": "ERROR",
    "trace_id": "000102030405060708090a0b0c0d0e0f", "span_id": "0001020304050607", "flags": "1",
    "event_name": "payment", "dropped_attributes_count": "3", "text": "é\u2028", "empty": "", "yes": "true",
    "no": "false", "int": "-9223372036854775808", "double": "1.5", "infinite": "Infinity", "bytes": "/wA=",
    "nothing": "null", "array": '["a",1,"Yg==",null]', "map.in": "x", "empty map": "{}", "text#2": "again",
    "trace_id#2": "mine", "resource.schema_url": "https://example.com/resource",
    "resource.dropped_attributes_count": "4", "resource.host.cpus": "8", "scope.name": "app", "scope.version": "1.2",
    "scope.schema_url": "https://example.com/scope", "scope.dropped_attributes_count": "5", "scope.debug": "true",
}  # fmt: skip


def snake(request: ExportLogsServiceRequest) -> bytes:
    return as_json(request, preserving_proto_field_name=True)


@pytest.mark.parametrize("encode", [lambda r: (r.SerializeToString(), PROTO), lambda r: (as_json(r), JSON),
                                    lambda r: (snake(r), JSON)])  # fmt: skip
def test_every_field_of_a_record_is_kept(encode: Callable[[Any], tuple[bytes, str]]) -> None:
    record = only(*encode(everything()))
    assert (record.timestamp, record.service, record.message) == (TIME, "checkout", "paid")
    assert record.metadata == EVERYTHING


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"string_value": ""}, ""), ({"bool_value": True}, "true"), ({"int_value": 0}, "0"),
        ({"double_value": 0.5}, "0.5"), ({"bytes_value": b"\xff"}, "/w=="), ({"bytes_value": b""}, ""),
        ({"array_value": {"values": [{"int_value": 1}]}}, "[1]"), ({}, ""),
        ({"kvlist_value": {"values": [{"key": "a", "value": {"string_value": "b"}}]}}, '{"a":"b"}'),
    ],
)  # fmt: skip
def test_a_body_that_is_no_string_becomes_json(value: dict[str, Any], message: str) -> None:
    request = request_of()
    request.resource_logs[0].scope_logs[0].log_records[0].body.CopyFrom(AnyValue(**value))
    assert only(request.SerializeToString()).message == message
    assert only(as_json(request), JSON).message == message


def test_the_time_is_the_events_else_the_observers_else_that_of_arrival() -> None:
    request = request_of()
    record = request.resource_logs[0].scope_logs[0].log_records[0]
    record.time_unix_nano, record.observed_time_unix_nano = 0, NANOS
    for body, kind in ((request.SerializeToString(), PROTO), (as_json(request), JSON)):
        assert only(body, kind).timestamp == TIME
    record.observed_time_unix_nano = 0
    body = request.SerializeToString()
    first, second = only(body), only(body)
    assert first.timestamp > TIME
    assert first.event_id != second.event_id


def test_a_retry_has_the_same_ids_and_two_equal_records_do_not() -> None:
    body = request_of(2).SerializeToString()
    lines = parsed(body).lines
    assert lines == parsed(body).lines
    assert len({decode(line).event_id for line in lines}) == 2
    assert lines == parsed(as_json(request_of(2)), JSON).lines


def test_the_unique_id_of_a_record_becomes_its_event_id() -> None:
    request = request_of()
    add(request.resource_logs[0].scope_logs[0].log_records[0].attributes, "log.record.uid", string_value="01H")
    record = only(request.SerializeToString())
    assert (record.event_id, record.metadata) == ("01H", {})


def test_a_request_without_a_service_name_is_of_an_unknown_service() -> None:
    request = request_of()
    del request.resource_logs[0].resource.attributes[:]
    assert only(request.SerializeToString()).service == "unknown"


def test_json_may_have_numbers_as_text_enums_as_names_and_unknown_members() -> None:
    record = {
        "timeUnixNano": NANOS, "severityNumber": "SEVERITY_NUMBER_WARN2", "traceId": "AB" * 16, "spanId": None,
        "x": [1],
        "attributes": [
            {"key": "a", "value": {"intValue": 5}}, {"key": "b", "value": {"intValue": "-6"}},
            {"key": "c", "value": {"doubleValue": "NaN"}}, {"key": "d", "value": {"doubleValue": 2}},
            {"key": "e", "value": {"unknown": 1}}, {"key": "f"},
        ],
    }  # fmt: skip
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}, None], "y": 1}, None], "z": {}})
    found = only(body.encode(), "application/json; charset=utf-8")
    assert found.timestamp == TIME
    assert found.metadata == {
        "severity_number": "14", "trace_id": "ab" * 16, "a": "5", "b": "-6", "c": "NaN", "d": "2.0", "e": "null",
        "f": "null",
    }  # fmt: skip


BAD_RECORDS: list[Any] = [
    1, None, [], "x", {"attributes": 1}, {"attributes": [1]}, {"attributes": [{"key": 1, "value": {}}]},
    {"attributes": [{"key": "a", "value": 1}]}, {"attributes": [{"key": "a", "value": {"stringValue": 1}}]},
    {"attributes": [{"key": "a", "value": {"intValue": "x"}}]},
    {"attributes": [{"key": "a", "value": {"intValue": []}}]},
    {"attributes": [{"key": "a", "value": {"doubleValue": "x"}}]}, {"body": "text"}, {"body": {"boolValue": 1}},
    {"body": {"arrayValue": []}}, {"body": {"arrayValue": {"values": {}}}}, {"body": {"kvlistValue": {"values": [1]}}},
    {"timeUnixNano": "x"}, {"timeUnixNano": -1}, {"timeUnixNano": 2**64}, {"timeUnixNano": 1.5}, {"flags": "9" * 21},
    {"severityNumber": "LOUD"}, {"severityText": 1}, {"traceId": 5}, {"eventName": {}},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_RECORDS)
def test_a_bad_record_of_json_is_rejected_alone(bad: Any) -> None:
    good = {"timeUnixNano": str(NANOS), "body": {"stringValue": "good"}}
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [good, bad, good]}]}]}).encode()
    sink = MemorySink()
    reply = post(body, JSON, sink)
    partial = reply.json["partialSuccess"]
    assert (reply.status, partial["rejectedLogRecords"], len(sink.stored)) == (200, "1", 2)
    assert partial["errorMessage"].isprintable()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"1", b"null", b'"x"', b'{"resourceLogs":1}', b'{"resourceLogs":[1]}', b"\xff\xfe", b"{}{}",
        b'{"resourceLogs":[{"scopeLogs":{}}]}', b'{"resourceLogs":[{"scopeLogs":[1]}]}', b'{"a":"\xff"}',
        b'{"resourceLogs":[{"resource":1,"scopeLogs":[{"logRecords":[{}]}]}]}', b"[" * 2_000,
        b'{"a":' + b"9" * 5_000 + b"}",
        b'{"resourceLogs":[{"resource":{"attributes":[1]},"scopeLogs":[{"logRecords":[{}]}]}]}',
        b'{"resourceLogs":[{"scopeLogs":[{"scope":{"name":1},"logRecords":[{}]}]}]}',
        b'{"resourceLogs":[{"scopeLogs":[{"logRecords":{}}]}]}',
    ],
)  # fmt: skip
def test_what_is_no_request_in_json_is_refused(body: bytes) -> None:
    for text in (body, body + b" " * SHORT_BYTES_MAX):
        sink = MemorySink()
        reply = post(text, JSON, sink)
        assert (reply.status, reply.headers["content-type"], sink.appended) == (400, JSON, [])
        assert reply.json["code"] == 3
        assert reply.json["message"].startswith("malformed-payload: ")


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a", b"\x0a\x05", b"\x0a\x80", b"\xff" * 11, b"\x07", b"\x02\x00", b"\x0b", b"{}", b"\x0a\x02\x0a\x05",
        b"\x0a\x04\x12\x02\x12\x05", b"\x0a\x08\x0a\x02\x0a\x05\x12\x02\x12\x00",
    ],
)  # fmt: skip
def test_what_is_no_request_in_protobuf_is_refused(body: bytes) -> None:
    reply = post(body)
    assert (reply.status, reply.headers["content-type"]) == (400, PROTO)
    assert reply.body.startswith(b"\x08\x03\x12")


def test_every_cut_of_a_request_is_refused_or_is_a_shorter_request() -> None:
    body = everything().SerializeToString()
    for end in range(len(body)):
        sink = MemorySink()
        assert post(body[:end], sink=sink).status == (200 if end == 0 else 400)
        assert not sink.stored


def with_record(record: bytes, others: int = 2) -> bytes:
    """A request in protobuf with this encoded record between ``others`` and one more."""
    good = field(0x12, b"\x09" + NANOS.to_bytes(8, "little"))
    return field(0x0A, field(0x12, good * others + field(0x12, record) + good))


def test_a_record_that_is_no_protobuf_is_rejected_alone() -> None:
    sink = MemorySink()
    reply = post(with_record(b"\x0a"), sink=sink)
    answer = ExportLogsServiceResponse.FromString(reply.body)
    assert (reply.status, answer.partial_success.rejected_log_records, len(sink.stored)) == (200, 1, 3)
    assert "malformed-record" in answer.partial_success.error_message


def test_a_request_whose_only_record_is_rejected_is_a_partial_success() -> None:
    sink = MemorySink()
    reply = post(field(0x0A, field(0x12, field(0x12, b"\x0a"))), sink=sink)
    assert ExportLogsServiceResponse.FromString(reply.body).partial_success.rejected_log_records == 1
    assert (reply.status, sink.appended) == (200, [])


def test_text_that_is_no_utf_8_is_repaired() -> None:
    broken = field(0x2A, field(0x0A, b"a\xffb")) + field(
        0x32, field(0x0A, b"k\xc3") + field(0x12, field(0x0A, b"\xe9"))
    )
    lines = parsed(with_record(broken)).lines
    record = decode(lines[2])
    assert (record.message, record.metadata) == ("a\ufffdb", {"k\ufffd": "\ufffd"})
    resource = field(0x0A, field(0x0A, b"service.name") + field(0x12, field(0x0A, b"caf\xe9")))
    body = field(0x0A, field(0x0A, resource) + field(0x12, field(0x12, b"")))
    assert only(body).service == "caf\ufffd"


def test_an_empty_request_is_a_success_without_a_record() -> None:
    for body, kind, answer in ((b"", PROTO, b""), (b"{}", JSON, b"{}"), (b"\x0a\x00", PROTO, b"")):
        sink = MemorySink()
        reply = post(body, kind, sink)
        assert (reply.status, reply.body, reply.headers["content-type"], sink.appended) == (200, answer, kind, [])


def test_a_success_is_in_the_type_of_the_request() -> None:
    for body, kind, answer in ((request_of().SerializeToString(), PROTO, b""), (as_json(request_of()), JSON, b"{}")):
        sink = MemorySink()
        reply = post(gzip.compress(body), kind, sink, HTTP_CONTENT_ENCODING="gzip")
        assert (reply.status, reply.body, len(sink.stored)) == (200, answer, 1)
        assert reply.headers["content-type"] == kind
        assert reply.headers["inlet-durability"] == "stored"


def test_other_media_types_are_refused_by_name() -> None:
    for kind in (None, "", "text/plain", "application/x-ndjson", "application/grpc"):
        reply = post(request_of().SerializeToString(), kind)
        assert (reply.status, reply.headers["accept"]) == (415, f"{PROTO}, {JSON}")
        assert reply.json["code"] == 3


@pytest.mark.parametrize("reason", sorted(PROBLEMS))
@pytest.mark.parametrize("kind", [PROTO, JSON])
def test_exporters_retry_what_a_retry_can_help_and_nothing_else(reason: str, kind: str) -> None:
    error: InletError = SinkError(reason, "d", 3) if PROBLEMS[reason].status == 503 else ClientError(reason, "d")
    status, headers, body = Otlp(BOUNDS).refused(error, receipt=False, request_id="r", content_type=kind)
    retried = status[:3] in ("429", "502", "503", "504")
    assert retried == (reason in RETRY)
    assert ("retry-after" in dict(headers)) == retried
    assert not status.startswith("2")
    assert dict(headers)["content-type"] == kind
    assert reason.encode() in body


def test_a_refusal_by_access_keeps_its_fields() -> None:
    otlp = Otlp(BOUNDS)
    for reason, code, expected in (("unauthorized", 16, "401"), ("forbidden", 7, "403"), ("quota-exceeded", 14, "503")):
        denied = Denied(reason, "d", [("www-authenticate", "Bearer"), ("Retry-After", "7")])
        status, headers, body = otlp.refused(denied, receipt=False, request_id="r", content_type=JSON)
        assert (status[:3], json.loads(body)["code"]) == (expected, code)
        assert ("www-authenticate", "Bearer") in headers
        assert [value for name, value in headers if name.lower() == "retry-after"] == ["7"]


@pytest.mark.parametrize("where", ["append_error", "commit_error"])
def test_a_store_that_is_away_is_a_503(where: str) -> None:
    sink = MemorySink(**{where: lambda: SinkError("sink-unavailable", "away", 2)})  # type: ignore[arg-type]
    reply = post(request_of().SerializeToString(), sink=sink)
    assert (reply.status, sink.stored, reply.body[:2]) == (503, [], b"\x08\x0e")
    assert 2 <= int(reply.headers["retry-after"]) <= 4


@pytest.mark.parametrize("records", [1, 2])
def test_a_request_holds_as_many_records_as_its_bound(records: int) -> None:
    bounds = Bounds(PayloadLimits(bulk_records_max=1), RecordLimits())
    for body, kind in ((request_of(records).SerializeToString(), PROTO), (as_json(request_of(records)), JSON)):
        for more in (b"", b" " * SHORT_BYTES_MAX if kind == JSON else field(0x7A, bytes(SHORT_BYTES_MAX))):
            sink = MemorySink()
            env = environ(body + more, "/v1/logs", CONTENT_TYPE=kind)
            reply = ask(app_of(sink, bounds), env)
            assert (reply.status, len(sink.stored)) == ((200, 1) if records == 1 else (413, 0))


@pytest.mark.parametrize("more", [0, 1])
def test_a_body_has_as_many_bytes_as_its_bound(more: int) -> None:
    body = request_of(20).SerializeToString()
    bounds = Bounds(PayloadLimits(otlp_bytes_max=len(body) - more), RecordLimits())
    for sent, coding in ((body, None), (gzip.compress(body), "gzip")):
        env = environ(sent, "/v1/logs", CONTENT_TYPE=PROTO, HTTP_CONTENT_ENCODING=coding)
        assert ask(app_of(MemorySink(), bounds), env).status == (413 if more else 200)


@pytest.mark.parametrize("records", [SHORT_RECORDS_MAX, SHORT_RECORDS_MAX + 1])
def test_only_few_records_are_read_in_one_step(records: int) -> None:
    body = request_of(records).SerializeToString()
    assert (Otlp(BOUNDS).read({"CONTENT_TYPE": PROTO}, body) is None) == (records > SHORT_RECORDS_MAX)
    assert len(parsed(body).lines) == records


def long_request(records: int) -> ExportLogsServiceRequest:
    """Several resources and scopes, of different sizes."""
    request = ExportLogsServiceRequest()
    for part in range(4):
        resource_logs = request.resource_logs.add(schema_url=f"https://example.com/{part}")
        add(resource_logs.resource.attributes, "service.name", string_value=f"service-{part}")
        add(add(resource_logs.resource.attributes, "tags", kvlist_value={}).kvlist_value.values, "n", int_value=part)
        for scope in range(3):
            scope_logs = resource_logs.scope_logs.add()
            scope_logs.scope.name = f"scope-{scope}"
            add(scope_logs.scope.attributes, "place", string_value='"]}[{\\')
            for number in range(records if part else 3):
                record = scope_logs.log_records.add(time_unix_nano=NANOS + number, severity_text="INFO")
                record.body.string_value = '{"[\\" ' * (number % 40)
                add(record.attributes, "n", int_value=number)
                add(add(record.attributes, "m", kvlist_value={}).kvlist_value.values, "k", double_value=number)
    return request


def test_a_long_body_is_read_piece_by_piece_as_it_is_at_once() -> None:
    request = long_request(900)
    body = request.SerializeToString()
    assert len(body) > 8 * SHORT_BYTES_MAX
    lines = Lines(Foreign("otlp", RecordLimits()), records_max=50_000, bytes_max=len(body))
    finish(OtlpProtoReader(lines, RecordLimits(), 50_000).decoded(request))
    whole = lines.lines
    assert parsed(body).lines == whole
    assert parsed(as_json(request), JSON).lines == whole
    assert parsed(snake(request), JSON).lines == whole
    indented = json.dumps(json.loads(as_json(request)), indent=2).encode()
    assert parsed(indented, JSON).lines == whole


def test_what_records_share_may_stand_behind_them() -> None:
    resource = field(0x0A, field(0x0A, field(0x0A, b"service.name") + field(0x12, field(0x0A, b"late"))))
    scope = field(0x0A, field(0x0A, b"scope"))
    body = field(0x0A, field(0x12, field(0x12, b"") + scope) + resource)
    for sent in (body, body + field(0x7A, bytes(SHORT_BYTES_MAX))):
        record = only(sent)
        assert (record.service, record.metadata) == ("late", {"scope.name": "scope"})
