"""The Loki receiver: what becomes of an entry, in each form; and its answers."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from inlet.stream.limits import RecordLimits
from inlet.stream.record import token_of_service
from tests.receivers.loki_support import (
    JSON,
    NANOS,
    PROTOBUF,
    TIME,
    app_of,
    bounds,
    field,
    json_request,
    push,
    request,
    snappy,
)
from tests.receivers.support import MemorySink, ask, environ
from tests.receivers.test_admission import Grant, admission
from wsgi.problems import PROBLEMS, ClientError, Denied, SinkError
from wsgi.receivers import loki_push
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.loki import OLD_PUSH, PUSH, READY, mount

LABELS = '{service_name="checkout", job="varlogs", host="node-1"}'
ONE = snappy(request((LABELS, [(NANOS, "paid", [("trace_id", "0af7")])])))


def test_an_entry_in_protobuf_becomes_a_record() -> None:
    reply, (record,) = push(ONE)
    assert (reply.status, reply.body) == (204, b"")
    assert "content-length" not in reply.headers
    assert "content-type" not in reply.headers
    assert (record.timestamp, record.service, record.message) == (TIME, "checkout", "paid")
    assert record.metadata == {"job": "varlogs", "host": "node-1", "trace_id": "0af7"}
    assert len(record.event_id) == 32


def test_the_same_entry_in_json_becomes_the_same_record() -> None:
    labels = {"service_name": "checkout", "job": "varlogs", "host": "node-1"}
    body = json_request((labels, [[str(NANOS), "paid", {"trace_id": "0af7"}]]))
    assert push(body, JSON)[1] == push(ONE)[1]


def test_the_same_entry_in_the_old_json_becomes_the_same_record() -> None:
    entry = {"ts": TIME, "line": "paid", "structuredMetadata": [{"name": "trace_id", "value": "0af7"}]}
    body = json.dumps({"streams": [{"labels": LABELS, "entries": [entry]}]}).encode()
    for path in (PUSH, OLD_PUSH):
        assert push(body, JSON, path)[1] == push(ONE)[1]


@pytest.mark.parametrize("content_type", [None, "", PROTOBUF, "text/plain", "application/x-www-form-urlencoded"])
def test_snappy_is_read_whatever_its_content_type_says(content_type: str | None) -> None:
    assert len(push(ONE, content_type)[1]) == 1


@pytest.mark.parametrize("content_type", [None, "", JSON, "application/json; charset=utf-8", "text/plain"])
def test_json_is_read_whatever_its_content_type_says(content_type: str | None) -> None:
    assert len(push(json_request(({}, [["1", "x"]])), content_type)[1]) == 1


def test_content_encodings_are_undone() -> None:
    body = json_request(({}, [["1", "x"]]))
    assert len(push(gzip.compress(body), JSON, HTTP_CONTENT_ENCODING="gzip")[1]) == 1
    for coding in ("snappy", " Snappy ", ""):
        assert len(push(ONE, PROTOBUF, HTTP_CONTENT_ENCODING=coding)[1]) == 1
    reply, records = push(ONE, PROTOBUF, HTTP_CONTENT_ENCODING="br")
    assert (reply.status, records, reply.headers["accept-encoding"]) == (400, [], "gzip, deflate, zstd")


def test_a_line_that_is_json_stays_the_text_that_it_is() -> None:
    line = '{"level": "info",  "msg":"x"}'
    assert push(snappy(request(("{}", [(NANOS, line, [])]))))[1][0].message == line
    assert push(json_request(({}, [[str(NANOS), line]])), JSON)[1][0].message == line


def test_the_tenant_becomes_metadata() -> None:
    _, (record,) = push(ONE, HTTP_X_SCOPE_ORGID="team-a")
    assert record.metadata["loki.tenant"] == "team-a"
    _, (record,) = push(ONE, HTTP_X_SCOPE_ORGID="caf\u00e9".encode().decode("latin-1"))
    assert record.metadata["loki.tenant"] == "caf\u00e9"


def test_ids_are_those_of_the_content_and_its_position() -> None:
    body = snappy(request(("{}", [(NANOS, "same", []), (NANOS, "same", [])])))
    first, second = push(body)[1]
    assert first.event_id != second.event_id
    assert [record.event_id for record in push(body)[1]] == [first.event_id, second.event_id]


def test_an_entry_without_a_time_gets_the_time_of_arrival_and_an_id_of_its_own() -> None:
    for body, kind in (
        (snappy(request(("{}", [(None, "x", [])]))), PROTOBUF),
        (json_request(({}, [[None, "x"]])), JSON),
    ):
        once, again = push(body, kind)[1], push(body, kind)[1]
        assert once[0].event_id != again[0].event_id
        assert once[0].metadata == {}


@pytest.mark.parametrize(
    ("nanos", "timestamp"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (2**63 - 1, "2262-04-11T23:47:16.854775807Z"),
        (253_402_300_799_999_999_999, "9999-12-31T23:59:59.999999999Z"),
    ],
)
def test_times_are_exact_to_the_nanosecond(nanos: int, timestamp: str) -> None:
    assert push(snappy(request(("{}", [(nanos, "x", [])]))))[1][0].timestamp == timestamp
    assert push(json_request(({}, [[str(nanos), "x"]])), JSON)[1][0].timestamp.rstrip("Z").rstrip("0").rstrip(".") == (
        timestamp.rstrip("Z").rstrip("0").rstrip(".")
    )


def test_entries_of_both_forms_in_one_stream_are_all_read() -> None:
    stream = {"entries": [{"ts": TIME, "line": "b"}], "values": [["1", "a"]], "stream": {"job": "api"}}
    for more in (0, 100_000):
        _, records = push(json.dumps({"streams": [stream], "x": "x" * more}).encode(), JSON)
        assert [(record.service, record.message) for record in records] == [("api", "a"), ("api", "b")]


@pytest.mark.parametrize(
    "time", ["9" * 25, "soon", "", 1e300, 1.5, 1769903999.25, "1.5", " -2. ", True, [1], "-" + "9" * 30, "1" * 5_000]
)
def test_a_time_that_is_none_is_kept_as_metadata(time: Any) -> None:
    reply, (record,) = push(json_request(({}, [[time, "x"]])), JSON)
    assert reply.status == 204
    assert record.metadata["loki.timestamp"] == (time if type(time) is str else json.dumps(time))


def test_a_timestamp_in_protobuf_that_is_none_is_kept_as_metadata() -> None:
    made = loki_push.PushRequest()
    entry = made.streams.add().entries.add(line=b"x")  # a stream without labels
    entry.timestamp.seconds, entry.timestamp.nanos = 2**62, -5
    _, (record,) = push(snappy(made.SerializeToString()))
    assert record.metadata == {"loki.timestamp": f"{2**62} s -5 ns"}


def test_a_time_of_other_spelling_is_read() -> None:
    for ts in (1769903999.25, "1769903999.25"):
        body = json.dumps({"streams": [{"entries": [{"ts": ts, "line": "x"}]}]}).encode()
        assert push(body, JSON)[1][0].timestamp == "2026-01-31T23:59:59.250Z"
    for time in (NANOS, TIME, f" {NANOS}", str(NANOS)):
        assert push(json_request(({}, [[time, "x"]])), JSON)[1][0].timestamp == TIME


def test_bytes_that_are_no_utf_8_cost_themselves_alone() -> None:
    made = loki_push.PushRequest()
    stream = made.streams.add(labels=b'{a="\xff"}')
    stream.entries.add(line=b"x\xffy").structured.add(name=b"\xfe", value=b"\xc3")
    _, (record,) = push(snappy(made.SerializeToString()))
    assert record.message == "x\ufffdy"
    assert record.metadata == {"a": "\ufffd", "\ufffd": "\ufffd"}


def test_half_a_surrogate_pair_in_json_becomes_a_replacement() -> None:
    _, (record,) = push(b'{"streams":[{"stream":{},"values":[["1","\\ud800x"]]}]}', JSON)
    assert record.message == "\ufffdx"


def test_fields_that_inlet_does_not_know_are_ignored() -> None:
    stream = field(1, b"{}") + b"\x18\x05" + field(2, field(2, b"x") + field(4, b"") + b"\x3d1234" + b"\x4112345678")
    raw = field(1, stream) + field(2, b"loki")
    _, records = push(snappy(raw))
    assert [record.message for record in records] == ["x"]


def test_labels_behind_the_entries_count() -> None:
    raw = field(1, field(2, field(2, b"x")) + field(1, b'{job="late"}'))
    assert push(snappy(raw))[1][0].service == "late"
    assert push(b'{"streams":[{"values":[["1","x"]],"stream":{"job":"late"}}]}', JSON)[1][0].service == "late"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (snappy(b""), PROTOBUF),
        (snappy(field(1, field(1, LABELS.encode()))), PROTOBUF),
        (b'{"streams":[]}', JSON),
        (b'{"streams":null}', JSON),
        (b'{"streams":[{"stream":{"a":"b"},"values":[]}]}', JSON),
        (b'{"streams":[{"stream":{"a":"b"},"values":null}]}', JSON),
        (b'{"streams":[{"labels":"{}"},{"values":[],"entries":[],"hash":7,"x":[]}],"y":null}', JSON),
    ],
)
def test_a_request_without_entries_is_a_success(body: bytes, content_type: str) -> None:
    assert (push(body, content_type)[0].status, push(body, content_type)[1]) == (204, [])


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"nonsense", b"null", b"5", b'"x"', b"{}", b'{"streams":5}', b'{"streams":[5]}',
        b'{"streams":[{"values":5}]}', b'{"streams":[{"values":{"a":1}}]}', b'{"streams":[]} x',
        b'[{"streams":[{"stream":{},"values":[["1","x"]]}]}]', b'[{"stream":{},"values":[["1","x"]]}]', b"[]",
        b'{"streams":[{"stream":{},"entrys":[["1","x"]]}]}', b'{"streams":[],"stream":[{"values":[["1","x"]]}]}',
        b'{"streams":[{"values":[["1","x"]]},{"values":[],"Values":[["2","y"]]}]}', b'{"streams":null,"entries":[1]}',
        b'{"streams":[{"values":[["1","x"]],"entries":{"a":1}}]}',
        b'{"streams":' + b"[" * 40 + b"]" * 40 + b"}", b"[" * 60_000, b'{"streams":[{"values":[["1","\xff"]]}]}',
    ],
)  # fmt: skip
def test_json_that_is_no_push_request_is_refused_once_and_for_all(body: bytes) -> None:
    reply, records = push(body, JSON)
    assert (reply.status, records) == (400, [])
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.body.decode().strip().isprintable()


@pytest.mark.parametrize(
    "raw", [b"\xff", b"\x0a", b"\x0a\x05x", b"\x0b", b"\x0a\x02\x12\x05", b"\x0a" + b"\xff" * 11, b"\x0d1"]
)
def test_protobuf_that_is_no_push_request_is_refused_once_and_for_all(raw: bytes) -> None:
    assert (push(snappy(raw))[0].status, push(snappy(raw))[1]) == (400, [])


def test_entries_that_are_none_are_refused_and_the_others_stored_as_loki_does_it() -> None:
    values: list[Any] = [["1", "a"], ["2"], 7, {"ts": "x"}, ["3", "b"], None]
    sink = MemorySink()
    reply, records = push(json_request(({}, values)), JSON, sink=sink, made_with=bounds(keep=True))
    assert reply.status == 400
    assert reply.body.startswith(b"4 of 6 entries were refused, 2 stored: an entry is")
    assert [record.message for record in records] == ["a", "b"]
    reply, records = push(json_request(({}, [[]])), JSON)
    assert (reply.status, records) == (400, [])


def test_lines_and_metadata_that_are_no_strings_are_written_as_json() -> None:
    body = json_request(
        ({}, [["1", {"a": 1}, {"n": 5, "o": {"p": True, "q": {}}, "l": [1]}], ["2", 7, "note"], ["3", "x", 0]])
    )
    first, second, third = push(body, JSON)[1]
    assert (first.message, second.message, third.message) == ('{"a":1}', "7", "x")
    assert first.metadata == {"n": "5", "o.p": "true", "o.q": "{}", "l": "[1]"}
    assert second.metadata == {"structured_metadata": "note"}


def test_what_is_over_a_bound_is_cut_and_marked() -> None:
    small = bounds(record=RecordLimits(message_chars_max=10, metadata_pairs_max=4, metadata_value_chars_max=20))
    many = [(f"p{at}", "v") for at in range(9)]
    for size, cut in ((10, False), (11, True), (1_000, True)):
        for raw in (snappy(request(("{}", [(NANOS, "\u00e9" * size, [])]))),):
            _, (record,) = push(raw, made_with=small)
            assert (len(record.message), record.metadata.get("inlet.truncated")) == (10, "message" if cut else None)
        _, (record,) = push(json_request(({}, [["1", "\u00e9" * size]])), JSON, made_with=small)
        assert (len(record.message), record.metadata.get("inlet.truncated")) == (10, "message" if cut else None)
    _, (record,) = push(snappy(request(('{l="1"}', [(NANOS, "x", many)]))), made_with=small)
    assert record.metadata == {"l": "1", "p0": "v", "p1": "v", "inlet.truncated": "metadata"}
    _, (record,) = push(json_request(({"l": "1"}, [["1", "x", dict(many)]])), JSON, made_with=small)
    assert record.metadata == {"l": "1", "p0": "v", "p1": "v", "inlet.truncated": "metadata"}


def test_a_request_of_as_many_records_as_allowed_is_taken_and_one_more_refused() -> None:
    few = bounds(PayloadLimits(bulk_records_max=3))
    for count, status in ((3, 204), (4, 400)):
        entries: list[Any] = [(NANOS, "x", [])] * count
        assert push(snappy(request(("{}", entries))), made_with=few)[0].status == status
        assert push(json_request(({}, [["1", "x"]] * count)), JSON, made_with=few)[0].status == status


def test_a_body_over_its_bound_is_refused_with_400_since_fluent_bit_retries_every_other_status() -> None:
    small = bounds(PayloadLimits(payload_bytes_max=200))
    raw = request(("{}", [(NANOS, "x" * 300, [])]))
    reply, _ = push(snappy(raw), made_with=small)
    assert (reply.status, b"200 bytes" in reply.body) == (400, True)
    assert ask(app_of(MemorySink(), small), environ(b"x" * 201, PUSH)).status == 400


@pytest.mark.parametrize("reason", sorted(PROBLEMS))
def test_each_refusal_has_a_status_that_its_clients_act_on(reason: str) -> None:
    receiver = mount(bounds()).receivers[PUSH]
    row = PROBLEMS[reason]
    error = SinkError(reason, "why", 7) if row.status == 503 else ClientError(reason, "why")
    status, headers, body = receiver.refused(error, receipt=False, request_id="r", content_type="")
    code = int(status.split()[0])
    assert body == b"why\n"
    # Promtail, Alloy, Docker's driver and Vector retry 429 and 5xx; Fluent Bit all but 400.
    retried = code == 429 or code >= 500
    if row.retryable and reason != "request-timeout":
        assert retried
    if reason in ("unauthorized", "forbidden", "origin-not-allowed"):
        assert code == row.status
    elif not row.retryable and reason not in ("internal", "durability-unavailable"):
        assert code == 400
    if row.status == 503:
        assert 7 <= int(dict(headers)["retry-after"]) <= 9


def test_a_refusal_keeps_the_fields_of_a_denial() -> None:
    receiver = mount(bounds()).receivers[PUSH]
    error = Denied("quota-exceeded", "slow down", [("retry-after", "5"), ("www-authenticate", "Bearer")])
    status, headers, _ = receiver.refused(error, receipt=False, request_id="r", content_type="")
    assert (status[:3], dict(headers)["retry-after"], dict(headers)["www-authenticate"]) == ("429", "5", "Bearer")
    assert len({name for name, _ in headers}) == len(headers)


def test_nothing_is_a_success_that_the_store_did_not_take() -> None:
    for reason in ("sink-unavailable", "backlog-full", "sink-outcome-unknown", "store-full", "overloaded"):
        for step in ("append_error", "commit_error"):
            sink = MemorySink(**{step: lambda reason=reason: SinkError(reason, "away", 3)})  # type: ignore[arg-type]
            reply, records = push(ONE, sink=sink)
            assert (reply.status, records) == (PROBLEMS[reason].status, [])
            assert reply.headers["retry-after"].isdecimal()


def test_ready_says_whether_records_can_be_stored() -> None:
    sink = MemorySink()
    app = app_of(sink)
    reply = ask(app, environ(path=READY, method="GET", CONTENT_LENGTH=None))
    assert (reply.status, reply.body) == (200, b"ready\n")
    assert reply.headers["content-type"].startswith("text/plain")
    sink.not_ready = SinkError("sink-unavailable", "host 10.1.2.3 is away", 4)
    reply = ask(app, environ(path=READY, method="GET", CONTENT_LENGTH=None))
    assert (reply.status, reply.body) == (503, b"The records cannot be stored now\n")
    assert int(reply.headers["retry-after"]) >= 4
    assert ask(app, environ(path=READY, method="HEAD", CONTENT_LENGTH=None)).status == 503


def test_other_methods_of_the_push_and_other_paths_are_refused_with_problem_documents() -> None:
    for path, method, status in ((PUSH, "GET", 405), ("/loki/api/v1/pull", "POST", 404)):
        reply = ask(app_of(MemorySink()), environ(path=path, method=method))
        assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json")


def test_entries_of_services_that_the_key_has_no_right_to_are_refused_and_the_others_stored() -> None:
    limited = admission(Grant(services=frozenset((token_of_service("api"),))))
    for services, stored in ((("web", "db", "web"), 0), (("web", "api"), 1)):
        sink = MemorySink()
        streams: list[Any] = [(f'{{job="{service}"}}', [(NANOS, "x", [])]) for service in services]
        env = environ(snappy(request(*streams)), PUSH, CONTENT_TYPE=PROTOBUF)
        reply = ask(app_of(sink, admission=limited), env)
        assert (reply.status, len(sink.stored)) == (400, stored)
        assert reply.body == (
            f"{len(services) - stored} of {len(services)} entries were refused, {stored} stored: "
            "this key has no right to the record's service (right: services)\n".encode()
        )


def test_protobuf_is_decoded_by_upb() -> None:
    assert loki_push.IMPLEMENTATION == "upb"


@pytest.mark.parametrize("padding", [0, 200_000])
def test_an_integer_longer_than_python_converts_keeps_its_digits(padding: int) -> None:
    """Regression: it became 1."""
    body = b'{"streams":[{"stream":{"a":"%s"},"values":[["1","x",{"n":%s}]]}]}' % (b" " * padding, b"9" * 5_000)
    _, (record,) = push(body, JSON)
    assert record.metadata["n"] == "9" * 5_000
