"""``POST /ingest/json``: loggers' and shippers' own formats as records, and what a query says."""

from __future__ import annotations

import json
import re
from typing import Any

import msgpack
import pytest

from inlet.stream.limits import RecordLimits
from inlet.stream.record import Record
from tests.receivers.shapes import BOUNDS, Sent, app_of, receiver_at, send
from tests.receivers.support import MemorySink, ask, environ, refused
from tests.support import ROOT
from wsgi.problems import PROBLEMS, SinkError
from wsgi.receivers import mapped
from wsgi.receivers.documents import Document
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.mapped import PATH, PATH_DOTS_MAX, PATHS_MAX, QUERY_CHARS_MAX
from wsgi.receivers.mounting import Bounds
from wsgi.receivers.parsed import NothingAccepted, Rejections
from wsgi.receivers.shaped import SHORT_BYTES_MAX, Reading, Shaped
from wsgi.receivers.slices import finish
from wsgi.receivers.written import written

T = "2026-01-31T23:59:59.123Z"
MILLIS, SECONDS = 1_769_903_999_123, 1_769_903_999.123


def posted(value: object, query: str = "", **more: Any) -> Sent:
    return send(PATH, value, QUERY_STRING=query, **more)


LOGGERS: dict[str, tuple[dict[str, Any], tuple[str, str, str, dict[str, str]]]] = {
    "pino": (
        {"level": 30, "time": MILLIS, "pid": 1, "hostname": "h", "name": "pay", "msg": "m"},
        (T, "pay", "m", {"level": "30", "pid": "1", "hostname": "h"}),
    ),
    "winston": (
        {"level": "info", "message": "m", "service": "pay", "timestamp": T},
        (T, "pay", "m", {"level": "info"}),
    ),
    "bunyan": (
        {"name": "pay", "hostname": "h", "pid": 1, "level": 30, "msg": "m", "time": T, "v": 0},
        (T, "pay", "m", {"hostname": "h", "pid": "1", "level": "30", "v": "0"}),
    ),
    "structlog": (
        {"event": "m", "timestamp": T, "level": "info", "user": {"id": 7}},
        (T, "unknown", "m", {"level": "info", "user.id": "7"}),
    ),
    "python-json-logger": (
        {"message": "m", "asctime": "2026-01-31 23:59:59,123", "levelname": "INFO", "name": "pay.card"},
        (T, "pay.card", "m", {"levelname": "INFO"}),
    ),
    "zap": (
        {"level": "info", "ts": SECONDS, "caller": "a.go:1", "msg": "m", "service": "pay"},
        (T, "pay", "m", {"level": "info", "caller": "a.go:1"}),
    ),
    "zerolog": ({"level": "info", "time": MILLIS, "message": "m"}, (T, "unknown", "m", {"level": "info"})),
    "logrus": ({"level": "info", "time": T, "msg": "m", "app": "pay"}, (T, "pay", "m", {"level": "info"})),
    "serilog, compact": (
        {"@t": T, "@m": "m 1", "@mt": "m {N}", "@l": "Warning", "Application": "pay", "N": 1},
        (T, "pay", "m 1", {"@mt": "m {N}", "@l": "Warning", "N": "1"}),
    ),
    "serilog, http": (
        {"Timestamp": T, "Level": "Information", "MessageTemplate": "m {N}", "RenderedMessage": "m 1"},
        (T, "unknown", "m 1", {"Level": "Information", "MessageTemplate": "m {N}"}),
    ),
    "log4j, JsonLayout": (
        {"instant": {"epochSecond": 1_769_903_999, "nanoOfSecond": 123_000_000}, "level": "INFO", "message": "m"},
        ("2026-01-31T23:59:59.123000000Z", "unknown", "m", {"level": "INFO"}),
    ),
    "log4j, ECS": (
        {"@timestamp": T, "ecs.version": "1.2.0", "log.level": "INFO", "message": "m", "service.name": "pay"},
        (T, "pay", "m", {"ecs.version": "1.2.0", "log.level": "INFO"}),
    ),
    "monolog": (
        {"message": "m", "level": 200, "channel": "pay", "datetime": T, "context": {}, "extra": {"a": [1]}},
        (T, "pay", "m", {"level": "200", "context": "{}", "extra.a": "[1]"}),
    ),
    "Fluent Bit": ({"date": SECONDS, "log": "m\n", "stream": "stdout"}, (T, "unknown", "m\n", {"stream": "stdout"})),
    "Fluent Bit, Kubernetes": (
        {
            "date": SECONDS,
            "log": "m",
            "kubernetes": {"labels": {"app.kubernetes.io/name": "pay"}, "pod_name": "pay-1"},
        },
        (T, "pay", "m", {"kubernetes.pod_name": "pay-1"}),
    ),
    "Vector": (
        {"timestamp": T, "message": "m", "host": "h", "source_type": "file", "file": "/a"},
        (T, "unknown", "m", {"host": "h", "source_type": "file", "file": "/a"}),
    ),
    "Logstash": (
        {"@timestamp": T, "@version": "1", "message": "m", "host": {"name": "h"}, "service": {"name": "pay"}},
        (T, "pay", "m", {"@version": "1", "host.name": "h"}),
    ),
    "Docker, json-file": ({"log": "m", "stream": "stderr", "time": T}, (T, "unknown", "m", {"stream": "stderr"})),
    "journald": (
        {"MESSAGE": "m", "SYSLOG_IDENTIFIER": "sshd", "__REALTIME_TIMESTAMP": str(MILLIS * 1000), "_PID": "1"},
        (T, "sshd", "m", {"_PID": "1"}),
    ),
    "rsyslog": (
        {"timereported": T, "programname": "sshd", "msg": " m", "hostname": "h"},
        (T, "sshd", " m", {"hostname": "h"}),
    ),
}


@pytest.mark.parametrize("name", LOGGERS)
def test_a_loggers_own_format_needs_no_configuration(name: str) -> None:
    value, expected = LOGGERS[name]
    record = posted(value).only
    assert record[1:] == expected
    # A retry of the same request is the same record.
    assert re.fullmatch(r"[0-9a-f]{32}", record.event_id)
    assert posted(value).only == record


def test_the_page_lists_the_defaults() -> None:
    page = (ROOT / "docs/receivers/json.md").read_text()
    for part, paths in (("time", mapped.TIMES), ("message", mapped.MESSAGES), ("service", mapped.SERVICES),
                        ("id", mapped.IDS)):  # fmt: skip
        printed = re.findall(rf"^\| `{part}` \| (.+?) \|", page, re.MULTILINE)[0]
        assert tuple(re.findall(r"`([^`]+)`", printed)) == paths


def test_a_member_that_is_no_time_stays_under_its_name_and_the_next_one_is_looked_at() -> None:
    record = posted({"time": "soon", "ts": SECONDS, "date": 12.5, "msg": "m"}).only
    assert (record.timestamp, record.metadata) == (T, {"time": "soon", "date": "12.5"})
    late = posted({"time": [1], "msg": "m"}).only
    assert late.metadata == {"time": "[1]"}
    assert late.timestamp > "2026"


def test_a_moment_of_monologs_has_its_zone_beside_it_and_one_that_is_unknown_stays() -> None:
    moment = {"date": "2026-07-31 23:59:59.123000", "timezone_type": 3, "timezone": "Europe/Berlin"}
    assert posted({"datetime": moment, "message": "m"}).only.timestamp == "2026-07-31T23:59:59.123000+02:00"
    record = posted({"datetime": {**moment, "timezone": "EST"}, "message": "m"}).only
    assert record.metadata["datetime.date"] == moment["date"]
    assert record.metadata["datetime.timezone"] == "EST"


@pytest.mark.parametrize("time", [99_999_999, "99999999", True, None, {"epochSecond": "x"}, 10**30, "2026-13-01T00:00"])
def test_what_is_no_moment_is_none(time: Any) -> None:
    assert posted({"time": time, "msg": "m"}).only.metadata


def test_an_integer_longer_than_python_converts_keeps_its_digits_and_is_no_time() -> None:
    digits = "9" * 4_301
    (record,) = posted(f'{{"time":{digits},"timestamp":"{T}","n":-{digits}}}'.encode()).records
    assert record.timestamp == T
    assert record.metadata["time"].startswith("99")
    assert record.metadata["n"].startswith("-99")


def test_a_message_is_the_first_text_else_an_object_as_json_else_empty() -> None:
    assert posted({"message": "", "event": {"a": 1}, "log": {"b": 1}, "body": "m"}).only.message == "m"
    record = posted({"message": {"a": [1.5, None]}, "event": {"b": 1}}).only
    assert (record.message, record.metadata) == ('{"a":[1.5,null]}', {"event.b": "1"})
    assert posted({"message": 5}).only.message == "5"
    assert posted({"cpu": 0.5}).only[3:] == ("", {"cpu": "0.5"})
    assert posted({}).only[2:] == ("unknown", "", {})


def test_an_id_is_a_string_under_a_name_that_means_one() -> None:
    assert posted({"event_id": "e-1", "id": "7"}).only[::4] == ("e-1", {"id": "7"})
    assert posted({"event_id": 4624}).only.metadata == {"event_id": "4624"}
    assert posted({"insertId": "i"}).only.event_id == "i"
    assert posted({"a": 1}).only.event_id != posted({"a": 1}).only.event_id


def test_a_query_says_where_the_parts_are() -> None:
    value = {"when": {"at": MILLIS}, "a": {"b.c": "s"}, "text": {"x": 1}, "no": 7, "message": "other", "null": None}
    record = posted(value, "time=nope,when.at&service=a.b.c&message=null,text&id=no&key=k&x=1").only
    assert record == ("7", T, "s", '{"x":1}', {"message": "other", "null": "null"})
    record = posted(value, "message=%20nope%20,%6eo&default_service=pay&time=nope").only
    assert (record.service, record.message) == ("pay", "7")
    assert posted({"service": "own"}, "default_service=pay").only.service == "own"


@pytest.mark.parametrize(("query", "status"), [("ok=200", 200), ("ok=202", 202), ("ok", 202), ("", 202)])
def test_ok_says_the_status_of_success(query: str, status: int) -> None:
    assert posted({"a": 1}, query).reply.status == status
    assert posted([1], query).reply.status == 422


def test_a_query_beyond_its_bounds_is_refused() -> None:
    at_most = ",".join(["a"] * PATHS_MAX)
    for query, status in (
        (f"time={at_most}", 202), (f"time={at_most},a", 400), ("id=" + "." * PATH_DOTS_MAX, 202),
        ("id=" + "." * (PATH_DOTS_MAX + 1), 400), ("a" * QUERY_CHARS_MAX, 202), ("a" * (QUERY_CHARS_MAX + 1), 400),
    ):  # fmt: skip
        assert posted({"a": 1}, query).reply.status == status
    refused(posted({"a": 1}, "a" * 5_000).reply, "bad-request")


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/json", "text/plain", "application/octet-stream", "application/x-ndjson", "x", "a/b; c=d"],
)
def test_any_content_type_will_do(content_type: str | None) -> None:
    for body in (b'{"msg":"a"}\n{"msg":"b"}\n', b'[{"msg":"a"},{"msg":"b"}]', b'{"logs":[{"msg":"a"},{"msg":"b"}]}',
                 b'{"msg":"a"}{\n"msg":"b"}'):  # fmt: skip
        assert [record.message for record in posted(body, CONTENT_TYPE=content_type).records] == ["a", "b"]


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "MULTIPART/Form-Data"]
)
def test_a_form_is_refused_with_words_that_help(content_type: str) -> None:
    problem = refused(posted(b"a=1", CONTENT_TYPE=content_type).reply, "unsupported-media-type")
    assert "curl" in problem["detail"]
    assert "HTTPHandler" in problem["detail"]


@pytest.mark.parametrize("content_type", sorted(mapped.MSGPACK))
def test_messagepack_is_told_by_its_content_type(content_type: str) -> None:
    body = msgpack.packb([SECONDS, {"log": "m"}]) + msgpack.packb([[SECONDS, {}], {"log": "n"}])
    sent = posted(body, CONTENT_TYPE=content_type)
    assert [record[1:4] for record in sent.records] == [(T, "unknown", "m"), (T, "unknown", "n")]


def test_what_is_no_object_is_rejected_one_by_one() -> None:
    sent = posted(b'[{"a":1},[1],"x",null,{"a":},{"b":1}]')
    assert (sent.reply.status, sent.reply.json["accepted"], sent.reply.json["rejected"]) == (202, 2, 4)
    assert sent.reply.headers["inlet-durability"] == "stored"
    assert [(each["index"], each["reason"]) for each in sent.reply.json["errors"]] == [
        (1, "invalid-record"), (2, "invalid-record"), (3, "invalid-record"), (4, "malformed-record"),
    ]  # fmt: skip
    problem = refused(posted(b"[1]").reply, "nothing-accepted")
    assert problem["errors"][0]["detail"] == "a record is a JSON object, not a number"
    assert refused(posted(b"[]").reply, "nothing-accepted")["errors"] == []
    for body in (b"", b" \n"):
        refused(posted(body).reply, "malformed-payload")


def test_a_record_that_nests_too_deep_is_rejected_alone() -> None:
    deep = b'{"a":' * 600 + b"1" + b"}" * 600
    long = b'{"a":' * 600 + b'"\\ud800"' + b"}" * 600
    sent = posted(b"[%b,%b,%b,{}]" % (deep, long, b"[" * 5_000 + b"]" * 5_000))
    assert sent.reply.json["accepted"] + sent.reply.json["rejected"] == 4
    assert sent.reply.json["rejected"] >= 1
    assert {each["reason"] for each in sent.reply.json["errors"]} == {"malformed-record"}


def test_what_is_too_deep_for_a_step_after_reading_has_the_same_reason() -> None:
    def too_deep(lines: Any, value: Any) -> None:
        raise RecursionError

    receiver = Shaped("json", BOUNDS, lambda environ, body: Reading(iter([Document({})]), too_deep))
    with pytest.raises(NothingAccepted) as refusal:
        finish(receiver.slices(environ(), b"{}"))
    assert [each.reason for each in refusal.value.rejections.kept] == ["malformed-record"]


def test_rejected_records_are_kept_where_that_is_asked_for() -> None:
    kept: list[Any] = []
    app = app_of(MemorySink(), BOUNDS._replace(keep_rejected=True), keep=lambda *row: kept.append(row))
    assert ask(app, environ(b'[{},{"a":},[1]]', path=PATH)).status == 202
    ((_, name, rows, _),) = kept
    assert (name, [row.text for row in rows]) == ("json", [b'{"a":}', b"[1]"])


def test_bulk_records_max_at_the_bound_and_one_past_it() -> None:
    bounds = Bounds(PayloadLimits(bulk_records_max=3), RecordLimits())
    assert send(PATH, b"{}[]1{}", bounds).reply.json["accepted"] == 2
    refused(send(PATH, b"{}{}1{}", bounds).reply, "payload-too-large")
    bounds = Bounds(PayloadLimits(payload_bytes_max=128), RecordLimits())
    assert send(PATH, b'{"a":%b}' % (b"1" * 122), bounds).reply.status == 202
    refused(send(PATH, b'{"a":%b}' % (b"1" * 123), bounds).reply, "payload-too-large")


def test_read_and_slices_agree_and_a_long_body_is_for_slices() -> None:
    receiver = receiver_at(PATH)
    values: list[Any] = [value for value, _ in LOGGERS.values()]
    body = json.dumps([*values, 1]).encode()
    at_once, sliced = receiver.read(environ(), body), finish(receiver.slices(environ(), body))
    if at_once is not None:  # on an idle machine
        assert at_once.lines == sliced.lines
        assert at_once.rejections is not None
    assert isinstance(sliced.rejections, Rejections)
    assert receiver.read(environ(), b" " * SHORT_BYTES_MAX + body) is None
    assert receiver.read(environ(), b"{}" * 16_000) is None
    assert sum(1 for _ in receiver.slices(environ(), b"{}" * 16_000)) > 3


def test_heads_and_gets_are_probes() -> None:
    app = app_of(MemorySink())
    for method in ("HEAD", "GET"):
        assert ask(app, environ(path=PATH, method=method)).status == 200


def test_store_faults_are_retryable_problems() -> None:
    for reason in (reason for reason, row in PROBLEMS.items() if row.status == 503):
        sink = MemorySink(append_error=lambda reason=reason: SinkError(reason, "x"))  # type: ignore[misc]
        reply = ask(app_of(sink), environ(b"{}", path=PATH))
        refused(reply, reason)
        assert int(reply.headers["retry-after"]) >= 1


def test_a_message_that_is_json_holds_numbers_that_json_has() -> None:
    sent = b'{"message":{"a":[NaN,1e400,-1e400,-Infinity,1.10],"b":"NaN \\" -Infinity","NaN":"\\\\"}}'
    expected = {"a": ["NaN", "Infinity", "-Infinity", "-Infinity", 1.1], "b": 'NaN " -Infinity', "NaN": "\\"}
    event = b'{"id":"1","source":"s","type":"t","data":%b}' % sent
    for path, body, found in ((PATH, sent, expected), ("/webhook", sent, {"message": expected}),
                              ("/cloudevents", event, {"message": expected})):  # fmt: skip
        message = send(path, body).only.message
        assert json.loads(message, parse_constant=pytest.fail) == found
    assert posted(b'{"message":NaN}').only.message == "NaN"
    for value in ({"a": 2**70, "b": "\ud800é", "c": float("inf")}, {"a": [[]] * 3, "d": {"e": None}}):
        assert json.loads(written(value), parse_constant=pytest.fail) == {
            **value,
            **({"c": "Infinity"} if "c" in value else {}),
        }
    deep: Any = float("nan")
    for _ in range(5_000):
        deep = [deep]
    assert written(deep) == "[" * 5_000 + '"NaN"' + "]" * 5_000


def test_lossless_parts_of_a_record() -> None:
    value = {"msg": "é\U0001f600", "a.b": 1, "a": {"b": 2}, "big": 2**70, "f": 1.10, "t": True, "n": None}
    record: Record = posted(value).only
    assert record.message == "é\U0001f600"
    assert record.metadata == {"a.b": "1", "a.b#2": "2", "big": str(2**70), "f": "1.1", "t": "true", "n": "null"}
