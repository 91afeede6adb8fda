"""Hostile OTLP bodies: no step takes long, nothing grows without bound, and answers are documented ones.

What lives here: bodies that nobody sends by accident, and random ones. What must not: ordinary requests.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlet.stream.errors import InletError
from inlet.stream.limits import RecordLimits
from inlet.stream.record import decode
from tests.receivers.support import MemorySink, ask, environ
from tests.receivers.test_otlp import (
    BOUNDS,
    JSON,
    NANOS,
    PROTO,
    add,
    app_of,
    as_json,
    everything,
    only,
    parsed,
    post,
    request_of,
    snake,
)
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.mounting import Bounds
from wsgi.receivers.otlp import Otlp
from wsgi.receivers.otlprecord import put_value
from wsgi.receivers.protowire import field, varint

BYTES = 20 * 2**20 - 128
STEP_SECONDS_MAX = 1.0
"""CPU seconds of a step, generous: each takes a few milliseconds on a machine that does nothing else."""
EMPTY = field(0x12, b"")
PAIR = field(0x32, field(0x0A, b"k") + field(0x12, field(0x0A, b"v")))


def logs(scope: bytes, resource: bytes = b"") -> bytes:
    """A request of one ResourceLogs with one ScopeLogs, both encoded."""
    return field(0x0A, resource + field(0x12, scope))


def one(record: bytes) -> bytes:
    """A request with one encoded log record."""
    return logs(field(0x12, record))


def records(inner: bytes) -> bytes:
    """A request in JSON; ``inner`` is between the brackets of its log records."""
    return b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[' + inner + b"]}]}]}"


def kvlists(depth: int) -> bytes:
    """An AnyValue of so many maps within each other."""
    value = b""
    for _ in range(depth):
        value = field(0x32, field(0x0A, field(0x12, value)))
    return value


def steps(body: bytes, content_type: str) -> tuple[str, int, float]:
    """What a body comes to, in how many steps, and how long the longest takes, in CPU seconds."""
    otlp, env = Otlp(BOUNDS), {"CONTENT_TYPE": content_type}
    began = time.process_time()
    if otlp.read(env, body) is not None:
        return "read", 1, time.process_time() - began
    longest, count, work = time.process_time() - began, 0, otlp.slices(env, body)
    while True:
        count, began, outcome = count + 1, time.process_time(), ""
        try:
            next(work)
        except StopIteration as done:
            rejections = done.value.rejections
            outcome = f"{len(done.value.lines)}+{len(rejections) if rejections else 0}"
        except InletError as error:
            outcome = error.reason
        longest = max(longest, time.process_time() - began)
        if outcome:
            return outcome, count, longest


LARGE = "payload-too-large"
HOSTILE: dict[str, tuple[Callable[[], bytes], str, str, int]] = {
    "ten million empty records": (lambda: logs(EMPTY * (BYTES // 2)), PROTO, LARGE, 2),
    "one record too many": (lambda: logs(EMPTY * 50_001), PROTO, LARGE, 1),
    "as many records as there may be": (lambda: logs(EMPTY * 50_000), PROTO, "50000+0", 50),
    "ten million empty scopes": (lambda: field(0x0A, EMPTY * (BYTES // 2)), PROTO, LARGE, 10),
    "ten million empty resources": (lambda: field(0x0A, b"") * (BYTES // 2), PROTO, LARGE, 10),
    "ten million unknown fields": (lambda: b"\x78\x00" * (BYTES // 2), PROTO, LARGE, 10),
    "short, with many resources": (lambda: field(0x0A, b"") * 60_000, PROTO, "0+0", 10),
    "20 MiB of empty attributes": (lambda: one(b"\x32\x00" * (BYTES // 2)), PROTO, "1+0", 1_000),
    "20 MiB of attributes": (lambda: one(PAIR * (BYTES // len(PAIR))), PROTO, "1+0", 500),
    "20 MiB of array": (lambda: one(field(0x2A, field(0x2A, b"\x0a\x00" * (BYTES // 2)))), PROTO, "1+0", 5),
    "100 KB of array": (lambda: one(field(0x2A, field(0x2A, b"\x0a\x00" * 50_000))), PROTO, "1+0", 1),
    "20 MiB of text": (lambda: one(field(0x2A, field(0x0A, b"x" * BYTES))), PROTO, "1+0", 2),
    "long attributes": (
        lambda: one(b"".join(field(0x32, field(0x0A, b"%d" % n) + field(0x12, field(0x0A, b"v" * 150_000)))
                             for n in range(130))), PROTO, "1+0", 2),
    "1 MiB of resource for all": (
        lambda: logs(EMPTY * 50_000, field(0x0A, b"".join(
            field(0x0A, field(0x0A, b"%d" % n) + field(0x12, field(0x0A, b"v" * 8_192))) for n in range(128)))),
        PROTO, LARGE, 50),
    "a map of many with a long name": (
        lambda: one(field(0x32, field(0x0A, b"n" * 60_000) + field(0x12, field(0x32, b"".join(
            field(0x0A, field(0x0A, b"%d" % n)) for n in range(8_000)))))), PROTO, "1+0", 1),
    "members with one name": (
        lambda: one(b"".join(field(0x32, field(0x0A, b"a") + field(0x12, field(0x32, field(0x0A, field(0x0A, b"b"))
            + field(0x0A, field(0x0A, b"%d" % n))))) for n in range(128))), PROTO, "read", 1),
    "maps with one name": (
        lambda: one(field(0x32, field(0x0A, b"a") + field(0x12, field(0x32, b"".join(
            field(0x0A, field(0x0A, b"%d" % n)) for n in range(64))))) * 128) , PROTO, "1+0", 1),
    "4,000 records with one name each": (lambda: logs(field(0x12, PAIR * 128) * 4_000), PROTO, "4000+0", 200),
    "deep maps": (lambda: one(field(0x2A, kvlists(200))), PROTO, "0+1", 1),
    "bad records": (lambda: logs(field(0x12, b"\x0a") * 50_000), PROTO, "0+50000", 20),
    "text that is no UTF-8": (
        lambda: logs(field(0x12, field(0x1A, b"\xff") + b"\x32\x00" * 60_000) * 5), PROTO, "5+0", 20),
    "brackets": (lambda: b"[" * BYTES, JSON, "malformed-payload", 1),
    "empty arrays": (lambda: b'{"a":[' + b"[]," * (BYTES // 3) + b"0]}", JSON, LARGE, 20),
    "empty resources in JSON": (
        lambda: b'{"resourceLogs":[' + b"{}," * (BYTES // 3) + b"{}]}", JSON, LARGE, 20),
    "empty scopes in JSON": (
        lambda: b'{"resourceLogs":[{"scopeLogs":[' + b"{}," * (BYTES // 3) + b"{}]}]}", JSON, LARGE, 20),
    "empty records in JSON": (lambda: records(b"{}," * (BYTES // 3) + b"{}"), JSON, LARGE, 20),
    "arrays for records": (lambda: records(b"[]," * 40_000 + b"{}"), JSON, "1+40000", 10),
    "arrays in one record": (lambda: records(b'{"a":[' + b"[]," * (BYTES // 3) + b"0]}"), JSON, "0+1", 100),
    "one text in JSON": (lambda: records(b'{"a":"' + b"x" * BYTES + b'"}'), JSON, "0+1", 100),
    "numbers": (lambda: b'{"a":[' + b"0," * (BYTES // 2) + b"0]}", JSON, LARGE, 20),
    "quotes": (lambda: b'{"a":"' + b'\\"' * (BYTES // 2) + b'"}', JSON, LARGE, 20),
    "an open string": (lambda: b'{"a":"' + b"x" * BYTES, JSON, "malformed-payload", 20),
    "resource attributes in JSON": (
        lambda: b'{"resourceLogs":[{"resource":{"attributes":[' + b"{}," * (BYTES // 3)
        + b'{}]},"scopeLogs":[{"logRecords":[{}]}]}]}', JSON, LARGE, 20),
    "scope attributes in JSON": (
        lambda: b'{"resourceLogs":[{"scopeLogs":[{"scope":{"attributes":[' + b"{}," * (BYTES // 3)
        + b'{}]},"logRecords":[{}]}]}]}', JSON, "malformed-payload", 20),
    "records that are no UTF-8 in JSON": (
        lambda: records(b",".join([b'{"a":"\xff"}'] * 50_000)), JSON, "0+50000", 100),
    "long numbers in JSON": (
        lambda: records(b",".join([b'{"a":%b}' % (b"9" * 4_301)] * 4_500)), JSON, "0+4500", 100),
    "records of many brackets": (
        lambda: records(b",".join([b"[" * 30_000 + b"]" * 30_000] * 340)), JSON, "0+340", 340),
    "deep arrays in JSON": (
        lambda: records(b'{"body":' + b'{"arrayValue":{"values":[' * 300 + b"]}}" * 300 + b"}"), JSON, "0+1", 1),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_read_in_short_steps(name: str) -> None:
    make, content_type, expected, steps_min = HOSTILE[name]
    outcome, count, longest = steps(make(), content_type)
    assert outcome == expected
    assert count >= steps_min
    assert longest < STEP_SECONDS_MAX


def test_what_is_cut_of_a_long_record_is_marked() -> None:
    long_text = field(0x32, field(0x0A, b"long") + field(0x12, field(0x0A, "é".encode() * 100_000)))
    array = field(0x32, field(0x0A, b"array") + field(0x12, field(0x2A, field(0x0A, b"\x18\x01") * 60_000)))
    body = one(
        b"\x09" + NANOS.to_bytes(8, "little") + PAIR + long_text + array + field(0x2A, field(0x0A, b"m" * 200_000))
    )
    record = only(body)
    assert record.metadata["k"] == "v"
    assert record.metadata["long"].startswith("éé")
    assert record.metadata["array"].startswith("[1,1,1")
    assert record.message.startswith("mmm")
    assert {"message", "long", "array"} <= set(record.metadata["inlet.truncated"].split(","))


def test_a_record_with_too_many_values_is_cut_and_marked() -> None:
    values = {"arrayValue": {"values": [{"intValue": 1}] * 9_000}}
    record = only(records(json.dumps({"body": values}).encode()), JSON)
    assert record.message.count("1") == 8_192
    assert record.metadata["inlet.truncated"] == "message"


def test_of_too_many_attributes_the_first_are_kept() -> None:
    pairs = [{"key": f"k{n}", "value": {"stringValue": "v"}} for n in range(130)]
    record = only(records(json.dumps({"attributes": pairs}).encode()), JSON)
    assert (len(record.metadata), record.metadata["k0"], record.metadata["inlet.truncated"]) == (128, "v", "metadata")


CYCLES: dict[str, tuple[bytes, str]] = {
    "ordinary": (everything().SerializeToString(), PROTO), "ordinary JSON": (snake(everything()), JSON),
    "bad record": (logs(field(0x12, b"\x0a") + EMPTY), PROTO), "bad JSON record": (records(b"1,{}"), JSON),
    "bad text": (one(field(0x1A, b"\xff")), PROTO), "long record": (one(PAIR * 30_000), PROTO),
    "cut": (b"\x0a\x05", PROTO), "no JSON": (b"{", JSON), "no long JSON": (b'{"a":' + b"[]," * 100_000, JSON),
    "too many": (logs(EMPTY * 50_001), PROTO), "long JSON": (records(b"{}," * 60_000 + b"{}"), JSON),
    "bad resource": (b'{"resourceLogs":[{"resource":{"attributes":1},"scopeLogs":[{"logRecords":[{}]}]}]}', JSON),
    "bad scope": (logs(EMPTY + field(0x0A, b"\x0a")), PROTO), "type": (b"", "text/plain"),
}  # fmt: skip


@pytest.mark.parametrize("name", CYCLES)
def test_no_request_leaves_a_cycle_of_references(name: str) -> None:
    body, content_type = CYCLES[name]
    app = app_of(MemorySink())

    def send() -> None:
        ask(app, environ(body, "/v1/logs", CONTENT_TYPE=content_type))

    send()
    gc.collect()
    gc.disable()
    try:
        send()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_rejected_records_are_kept_with_their_text_where_that_is_asked_for() -> None:
    for body, kind, text in (
        (logs(field(0x12, b"\x0abad") + EMPTY), PROTO, b"\x0abad"),
        (records(b'{"attributes":1},{}'), JSON, b'{"attributes":1}'),
    ):
        for keep in (False, True):
            found = parsed(body, kind, Bounds(PayloadLimits(), RecordLimits(), keep))
            assert found.rejections is not None
            assert (len(found.lines), len(found.rejections)) == (1, 1)
            assert [(row.reason, row.text) for row in found.rejections.rows] == [("malformed-record", text)] * keep


@pytest.mark.parametrize(
    "element",
    [
        b'{"resource":{"attributes":[{{"a":1}:2}]},"scopeLogs":[{"logRecords":[%b]}]}',
        b'{"scopeLogs":[{"logRecords":[1{},%b]}]}', b'{"scopeLogs":[{"logRecords":[{}1,%b]}]}',
        b'{"scopeLogs":[{"logRecords":[{}{},%b]}]}', b'{"scopeLogs":[{"logRecords":[{}"",%b]}]}',
        b'{"scopeLogs":[{"logRecords":[[},%b]}]}', b'{"scopeLogs":[{"logRecords":[{} , , %b]}]}',
        b'{"scopeLogs":[{"logRecords":[%b],}]}', b'{"scopeLogs":[{"logRecords":[%b]}]]',
    ],
)  # fmt: skip
def test_a_long_text_that_is_no_json_is_refused(element: bytes) -> None:
    good = b",".join([b'{"body":{"stringValue":"%b"}}' % (b"x" * 1_000)] * 300)
    sink = MemorySink()
    reply = post(b'{"resourceLogs":[%b]}' % (element % good), JSON, sink)
    assert (reply.status, sink.appended) == (400, [])


DOCUMENTED = (200, 400, 413, 415)


def check(body: bytes, content_type: str) -> None:
    """Only documented answers; a 200 stored everything that it does not name as rejected."""
    sink = MemorySink()
    reply = post(body, content_type, sink)
    assert reply.status in DOCUMENTED
    assert reply.headers["content-type"] == content_type
    assert bool(sink.stored) <= (reply.status == 200)
    for line in sink.stored:
        decode(line)
    if reply.status == 200:
        found = parsed(body, content_type)
        assert len(found.lines) == len(sink.stored)


SAMPLES = [everything().SerializeToString(), logs(EMPTY * 3), one(field(0x2A, kvlists(20)))]


@settings(max_examples=300)
@given(st.sampled_from(SAMPLES), st.data())
def test_a_spoiled_request_in_protobuf_gets_a_documented_answer(body: bytes, data: st.DataObject) -> None:
    spoiled = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(spoiled) - 1))
        spoiled[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        if not spoiled:
            break
    check(bytes(spoiled), PROTO)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_random_bytes_get_a_documented_answer(body: bytes) -> None:
    check(body, PROTO)
    check(body, JSON)


NAMES = st.sampled_from([
    "resourceLogs", "resource", "scopeLogs", "scope", "logRecords", "attributes", "key", "value", "stringValue", "body",
    "intValue", "arrayValue", "values", "kvlistValue", "timeUnixNano", "severityNumber", "traceId", "name", "schemaUrl",
])  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300)
@given(VALUES, st.integers(0, 3))
def test_any_json_gets_a_documented_answer(value: Any, place: int) -> None:
    if place:
        value = {"resourceLogs": [{"resource": value if place == 1 else {}, "scopeLogs": [
            {"logRecords": [value if place == 2 else {"attributes": [{"key": "k", "value": value}]}]}]}]}  # fmt: skip
    body = json.dumps(value, allow_nan=False, default=str) if _finite(value) else "{"
    check(body.encode(), JSON)
    check(body.encode() + b" " * 140_000, JSON)


def _finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


@settings(max_examples=100)
@given(st.data())
def test_a_spoiled_request_in_json_gets_a_documented_answer(data: st.DataObject) -> None:
    spoiled = bytearray(snake(everything()))
    at = data.draw(st.integers(0, len(spoiled) - 1))
    spoiled[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    check(bytes(spoiled), JSON)


class Counted(dict[str, str]):
    """A record's metadata that counts how often a name is looked up."""

    tried = 0

    def __contains__(self, name: object) -> bool:
        self.tried += 1
        return super().__contains__(name)


@pytest.mark.parametrize("value", ["x", {f"n{number}": "x" for number in range(64)}])
def test_names_that_repeat_cost_no_more_the_more_there_are(value: Any) -> None:
    into, numbers = Counted(), dict[str, int]()
    for _ in range(128):
        put_value(into, "a", value, numbers)
    assert len(into) == 128 * (len(value) if isinstance(value, dict) else 1)
    assert into.tried <= 2 * len(into)


def test_attributes_of_one_name_are_numbered_one_by_one() -> None:
    request = request_of()
    attributes = request.resource_logs[0].scope_logs[0].log_records[0].attributes
    for number in range(100):
        add(attributes, "a", string_value=str(number))
    expected = {"a": "0", **{f"a#{number + 1}": str(number) for number in range(1, 100)}}
    assert only(request.SerializeToString()).metadata == expected
    assert only(as_json(request), JSON).metadata == expected


def test_a_map_of_a_resource_gives_no_more_than_a_record_may_have_and_the_service_is_found_behind_it() -> None:
    request = request_of()
    attributes = request.resource_logs[0].resource.attributes
    del attributes[:]
    members = add(attributes, "map", kvlist_value={}).kvlist_value.values
    for number in range(1_000):
        add(members, str(number), int_value=number)
    add(attributes, "service.name", string_value="late")
    for body, kind in ((request.SerializeToString(), PROTO), (as_json(request), JSON)):
        sink = MemorySink()
        assert post(body, kind, sink).status == 200
        record = decode(sink.stored[0])
        assert record.service == "late"
        assert len(record.metadata) == RecordLimits().metadata_pairs_max
        assert record.metadata["inlet.truncated"] == "metadata"


GOOD = b'{"timeUnixNano":"%d","body":{"stringValue":"good"}}' % NANOS
UNDECODABLE = {
    "too deep": b'{"body":' + b'{"arrayValue":{"values":[' * 340 + b"]}}" * 340 + b"}",
    "much too deep": b'{"body":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "too many digits": b'{"body":{"intValue":' + b"9" * 4_301 + b"}}",
    "not UTF-8": b'{"body":{"stringValue":"\xff"}}',
    "a surrogate": b'{"body":{"stringValue":"\xed\xa0\x80"}}',
}


@pytest.mark.parametrize("padding", [0, 30_000, 140_000])
@pytest.mark.parametrize("neighbors", [1, 3, 2_000])
@pytest.mark.parametrize("name", UNDECODABLE)
def test_a_record_that_cannot_be_decoded_is_rejected_alone(name: str, neighbors: int, padding: int) -> None:
    bad = UNDECODABLE[name]
    some = b",".join([GOOD] * neighbors)
    scope = b'{"scope":{"name":"s","attributes":[{"key":"a","value":{"intValue":1}}]},"logRecords":[%b]}'
    resource = b'{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]}'
    body = b'{"resourceLogs":[{"resource":%b,"scopeLogs":[%b,%b]},{"scopeLogs":[%b]}]%b}' % (
        resource, scope % b",".join((some, bad, GOOD)), scope % bad, scope % GOOD, b" " * padding,
    )  # fmt: skip
    sink = MemorySink()
    reply = post(body, JSON, sink)
    assert (reply.status, len(sink.stored)) == (200, neighbors + 2)
    partial = reply.json["partialSuccess"]
    assert partial["rejectedLogRecords"] == "2"
    assert "malformed-record" in partial["errorMessage"]
    assert "set_in" not in partial["errorMessage"]
    kept = [decode(line) for line in sink.stored]
    assert [record.service for record in kept] == ["shop"] * (neighbors + 1) + ["unknown"]
    assert {record.metadata["scope.a"] for record in kept} == {"1"}


@pytest.mark.parametrize("name", UNDECODABLE)
@pytest.mark.parametrize("place", [b'{"x":%b,"resourceLogs":[]}', b'{"resourceLogs":[{"resource":{"a":%b}}]}',
    b'{"resourceLogs":[{"scopeLogs":[{"scope":{"attributes":[%b]},"logRecords":[{}]}]}]}'])  # fmt: skip
def test_what_cannot_be_decoded_outside_of_records_is_named_in_plain_words(name: str, place: bytes) -> None:
    for padding in (b"", b" " * 140_000):
        reply = post(place % UNDECODABLE[name] + padding, JSON)
        # A member that nobody asks for may be left undecoded.
        assert reply.status in (200, 400)
        if reply.status == 400:
            assert reply.json["message"].startswith("malformed-payload: ")
            assert not any(word in reply.json["message"] for word in ("set_in", "integer string", "codec"))


@pytest.mark.parametrize("bad", [b'{"body":1,,}', b'{"body" 1}', b"{1}", b"tru"])
def test_a_record_that_is_no_json_makes_the_request_none(bad: bytes) -> None:
    for deep in (b"{}", UNDECODABLE["too deep"]):
        sink = MemorySink()
        assert post(records(b",".join((GOOD, deep, bad))), JSON, sink).status == 400
        assert sink.stored == []


def nested(depth: int, *, maps: bool) -> bytes:
    """An AnyValue of so many arrays, or maps, within each other."""
    parts, size = list[bytes](), 0
    for _ in range(depth):
        heads = [0x32, 0x0A, 0x12] if maps else [0x2A, 0x0A]
        for tag in reversed(heads):
            head = bytes([tag]) + varint(size)
            parts.append(head)
            size += len(head)
    return b"".join(reversed(parts))


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("depth", [200, 8_000, 11_000, 20_000, 200_000])
@pytest.mark.parametrize("where", ["body", "attribute"])
def test_a_record_of_protobuf_that_nests_too_deep_is_rejected_however_long(depth: int, where: str, maps: bool) -> None:
    value = nested(depth, maps=maps)
    record = field(0x2A, value) if where == "body" else field(0x32, field(0x0A, b"a") + field(0x12, value))
    for more in (b"", PAIR * 20_000):
        found = parsed(logs(field(0x12, record + more) + EMPTY))
        assert found.rejections is not None
        assert (len(found.lines), len(found.rejections)) == (1, 1)


def test_an_empty_service_name_is_a_missing_one_and_a_second_one_is_kept() -> None:
    request = request_of()
    attributes = request.resource_logs[0].resource.attributes
    add(attributes, "service.name", string_value="second")
    record = only(request.SerializeToString())
    assert (record.service, record.metadata) == ("checkout", {"resource.service.name#2": "second"})
    del attributes[:]
    add(attributes, "service.name", string_value="")
    assert only(request.SerializeToString()).service == "unknown"


def test_ids_that_are_no_hex_and_long_numbers_are_kept_as_they_were_sent() -> None:
    long_number = b"1" * 40
    record = only(records(b'{"traceId":"zz","attributes":[{"key":"a","value":{"intValue":%b}}]}' % long_number), JSON)
    assert record.metadata == {"trace_id": "zz", "a": long_number.decode()}
