"""GELF, Datadog, CloudEvents and webhooks: what stands where, and the answers that their clients understand."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlet.stream.limits import RecordLimits
from inlet.stream.record import decode, encoder
from tests.receivers.shapes import BOUNDS, Sent, app_of, body_of, receiver_at, send
from tests.receivers.support import MemorySink, ask, environ, refused
from wsgi.problems import PROBLEMS, Denied, Refused, SinkError
from wsgi.receivers.admission import Admission
from wsgi.receivers.cloudevents import ID_CHARS_MAX
from wsgi.receivers.datadog import DROPPED, PATHS, REPEATED, VALIDATE
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.mounting import Bounds
from wsgi.receivers.resources import Operator
from wsgi.receivers.shaped import FORMS
from wsgi.receivers.slices import finish

T = "2026-01-31T23:59:59.123Z"
LOGS = PATHS[0]
SHAPED_PATHS = ("/ingest/json", "/gelf", LOGS, "/cloudevents", "/webhook")

# ---- GELF

GELF: dict[str, Any] = {
    "version": "1.1", "host": "h", "short_message": "s", "full_message": "f\nf", "timestamp": 1769903999.123,
    "level": 1, "_user_id": 9001, "_service": "pay", "_x": {"y": [1]}, "_": 1, "line": 3,
}  # fmt: skip


def test_a_gelf_message_loses_nothing_but_its_underscores_and_its_version() -> None:
    record = send("/gelf", GELF).only
    assert record[1:4] == (T, "pay", "s")
    assert record.metadata == {
        "host": "h", "full_message": "f\nf", "level": "1", "user_id": "9001", "x.y": "[1]", "_": "1", "line": "3",
    }  # fmt: skip
    assert send("/gelf", GELF).only == record


def test_a_gelf_message_without_a_service_is_of_its_host_and_its_time_is_in_seconds() -> None:
    record = send(
        "/gelf", {"host": "h", "message": "m", "timestamp": "1.5", "version": "2", "user_id": 1, "_user_id": 2}
    )
    assert record.only[1:] == (
        "1970-01-01T00:00:01.500Z", "h", "m", {"host": "h", "version": "2", "user_id": "1", "user_id#2": "2"},
    )  # fmt: skip
    assert send("/gelf", {"short_message": "m", "timestamp": "now"}).only.metadata == {"timestamp": "now"}
    assert send("/gelf", {"full_message": "m"}).only.message == "m"


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000])
def test_a_gelf_timestamp_in_another_unit_is_told_by_its_size(unit: int) -> None:
    time = 1_769_903_999.123 * unit
    assert send("/gelf", {**GELF, "timestamp": time if unit == 1 else round(time)}).only.timestamp == T


def test_an_empty_short_message_of_gelf_gives_way_to_the_full_one() -> None:
    record = send("/gelf", {"short_message": "", "full_message": "f", "host": "h"}).only
    assert (record.message, record.metadata) == ("f", {"host": "h"})
    record = send("/gelf", {"short_message": "", "full_message": "", "host": "h"}).only
    assert (record.message, record.metadata) == ("", {"host": "h", "full_message": ""})
    assert send("/gelf", {"short_message": ""}).only.message == ""


def test_a_gelf_message_without_text_is_rejected_and_several_are_read() -> None:
    sent = send("/gelf", b'{"short_message":"a"}\n{"host":"h"}\n[1,{"short_message":"b"}]')
    assert ([record.message for record in sent.records], sent.reply.json["rejected"]) == (["a", "b"], 2)
    assert sent.reply.json["errors"][0]["detail"] == "a GELF message has a short_message"


# ---- Datadog


def test_an_agents_payload_is_stored_and_answered_with_an_empty_object() -> None:
    log = {"message": "m", "status": "info", "timestamp": 1769903999123, "hostname": "i", "service": "pay",
           "ddsource": "nginx", "ddtags": "env:x,team:y"}  # fmt: skip
    for path in PATHS:
        sent = send(path, [log, {"message": {"a": 1}}])
        assert (sent.reply.status, sent.reply.body) == (202, b"{}")
        assert sent.records[0][1:] == (
            T, "pay", "m", {"status": "info", "hostname": "i", "ddsource": "nginx", "ddtags": "env:x,team:y"},
        )  # fmt: skip
        assert sent.records[1].message == '{"a":1}'


@pytest.mark.parametrize("body", [b"{}", b"[{}]", b"[]"])
def test_the_agents_probe_is_answered_and_stores_nothing(body: bytes) -> None:
    sent = send(LOGS, body)
    assert (sent.reply.status, sent.reply.body, sent.records) == (202, b"{}", [])


def test_query_parameters_say_what_a_log_does_not() -> None:
    query = "ddsource=s&service=pay&hostname=h&ddtags=a%3Ab&dd-api-key=secret"
    sent = send(LOGS, [{"message": "m"}, {"message": "n", "service": "own"}], QUERY_STRING=query)
    assert [record.service for record in sent.records] == ["pay", "own"]
    assert sent.records[0].metadata == {"ddsource": "s", "hostname": "h", "ddtags": "a:b"}
    sent = send(LOGS, b"one\r\n\n two\n", QUERY_STRING=query, CONTENT_TYPE="text/plain")
    assert [(record.service, record.message) for record in sent.records] == [("pay", "one"), ("pay", " two")]
    assert send(LOGS, b'{"message":"m"}', CONTENT_TYPE="text/plain").only.message == "m"


@pytest.mark.parametrize("body", [b"[1]", b"nope", b"", b'{"message":', b"\xff\xfe"])
def test_what_can_never_succeed_makes_the_agent_drop_it(body: bytes) -> None:
    sent = send(LOGS, body)
    assert (sent.reply.status, sent.records) == (400, [])
    (error,) = sent.reply.json["errors"]
    assert (error["status"], error["title"]) == ("400", "Bad Request")
    assert send(LOGS, b'[1,{"message":"m"}]').only.message == "m"


@pytest.mark.parametrize("reason", PROBLEMS)
def test_every_reason_has_a_status_that_the_agent_understands(reason: str) -> None:
    row = PROBLEMS[reason]
    error: Refused = SinkError(reason, "x") if row.status == 503 else Denied(reason, "x", [("retry-after", "7")])
    line, headers, body = receiver_at(LOGS).refused(error, receipt=False, request_id="r", content_type="")
    status = int(line[:3])
    assert status == row.status if status in DROPPED | REPEATED and row.status == status else status == 400
    # "internal" may be fixed, and 408 is the server's.
    if row.retryable or row.status == 503:
        assert status in REPEATED
        assert any(name == "retry-after" for name, _ in headers) or status == 408
    elif reason != "internal":
        assert status in DROPPED
    assert json.loads(body)["errors"]


def refuse_all(grant: object = None, receiver: str = "") -> Any:
    raise Denied("unauthorized", "the request has no valid key", [("www-authenticate", "Bearer")])


def test_a_wrong_key_is_dropped_and_the_agents_check_of_it_says_forbidden() -> None:
    admission = Admission(origin=lambda environ: [], preflight=lambda environ: None, key=refuse_all)
    closed = app_of(MemorySink(), admission=admission, operator=Operator(lambda: None, grant=refuse_all))
    reply = ask(closed, environ(b"[]", path=LOGS))
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
    reply = ask(closed, environ(path=VALIDATE, method="GET"))
    assert (reply.status, reply.json) == (403, {"errors": ["Forbidden"]})
    reply = ask(app_of(MemorySink()), environ(path=VALIDATE, method="GET"))
    assert (reply.status, reply.json) == (200, {"valid": True})
    allowed = Operator(lambda: None, grant=lambda environ: refuse_all.__class__)  # type: ignore[arg-type,return-value]
    assert ask(app_of(MemorySink(), operator=allowed), environ(path=VALIDATE, method="GET")).status == 200


# ---- CloudEvents

EVENT: dict[str, Any] = {
    "specversion": "1.0", "id": "A-1", "source": "/orders", "type": "com.example.created", "time": T, "subject": "s",
    "datacontenttype": "application/json", "data": {"n": 1.5, "t": ["é"]}, "traceparent": "00-1", "retries": 3,
}  # fmt: skip
METADATA = {
    "type": "com.example.created", "subject": "s", "datacontenttype": "application/json", "traceparent": "00-1",
    "retries": "3",
}  # fmt: skip
STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json; charset=utf-8"


def event(value: object, content_type: str = STRUCTURED, **more: Any) -> Sent:
    return send("/cloudevents", value, CONTENT_TYPE=content_type, **more)


def test_an_event_is_the_same_record_in_every_mode() -> None:
    expected = ("/orders A-1", T, "/orders", '{"n":1.5,"t":["é"]}', METADATA)
    assert event(EVENT).only == expected
    assert event([EVENT], BATCH).only == expected
    assert event(EVENT, "application/json").only == expected
    fields = {f"HTTP_CE_{name.upper()}": str(value) for name, value in EVENT.items() if not name.startswith("data")}
    body = '{"n":1.5,"t":["é"]}'.encode()
    assert event(body, "application/json", **fields).only == expected


def test_two_sources_with_the_same_id_are_two_events() -> None:
    sent = event([{**EVENT, "source": source} for source in ("/a", "/b", "/a 1", "/a%201")], BATCH)
    assert [record.event_id for record in sent.records] == ["/a A-1", "/b A-1", "/a%201 A-1", "/a%25201 A-1"]
    assert len({event({**EVENT, "source": "/" + "a" * 300, "id": each}).only.event_id for each in "ab"}) == 2


def test_a_long_source_or_id_is_its_digest_before_it_is_encoded() -> None:
    bounds = Bounds(PayloadLimits(), RecordLimits(event_id_chars_max=5 * ID_CHARS_MAX))

    def named(source: str, event_id: str) -> str:
        sent = send("/cloudevents", {**EVENT, "source": source, "id": event_id}, bounds, CONTENT_TYPE=STRUCTURED)
        return sent.only.event_id

    most = " " * ID_CHARS_MAX
    assert named(most, most) == f"{'%20' * ID_CHARS_MAX} {most}"
    assert re.fullmatch(r"[0-9a-f]{32} [0-9a-f]{32}", named(most + " ", most + "x"))
    assert len({named(most + a, most + b) for a in "xy" for b in "xy"}) == 4
    receiver = receiver_at("/cloudevents")
    body = json.dumps({**EVENT, "source": " " * 8 * 2**20, "id": "\ud800" * 2_000}).encode()
    (line,) = finish(receiver.slices(environ(CONTENT_TYPE=STRUCTURED), body)).lines
    assert len(decode(line).event_id) == 65


@pytest.mark.parametrize(
    ("data", "message", "encoded"),
    [
        ({"data": "text"}, "text", None), ({"data": None}, "", None), ({}, "", None),
        ({"data": [1, True]}, "[1,true]", None), ({"data_base64": "//8="}, "//8=", "true"),
        ({"data_base64": base64.b64encode("é".encode()).decode()}, "é", None),
        ({"data_base64": "no"}, "no", "true"), ({"data_base64": 1}, "", None),
        ({"data": 1, "data_base64": "x"}, "1", "x"),
    ],
)  # fmt: skip
def test_data_becomes_the_message(data: dict[str, Any], message: str, encoded: str | None) -> None:
    record = event({**{name: EVENT[name] for name in ("id", "source", "type")}, **data}).only
    assert (record.message, record.metadata.get("data_base64")) == (message, encoded)


def test_header_fields_are_decoded_once_and_data_may_be_anything() -> None:
    more = {
        "HTTP_CE_ID": "a%2520b", "HTTP_CE_SOURCE": "/x", "HTTP_CE_TYPE": '"q\\"t"', "HTTP_CE_SPECVERSION": "1.0",
        "HTTP_CE_NAME": "Euro%20%E2%82%AC", "HTTP_CE_RAW": "é".encode().decode("latin-1"),
    }  # fmt: skip
    record = event(b"\xff\xfe", "image/png", **more).only
    assert (record.event_id, record.message) == ("/x a%20b", "//4=")
    assert record.metadata == {
        "type": 'q"t', "name": "Euro €", "raw": "é", "datacontenttype": "image/png", "data_base64": "true",
    }  # fmt: skip
    assert event(b"", "", **more).only.message == ""
    assert event(b"a=1", "application/x-www-form-urlencoded", **more).only.message == "a=1"


def test_what_is_no_event_is_rejected() -> None:
    sent = event([{"id": "1"}, 1, EVENT], BATCH)
    assert sent.reply.json["errors"][0]["detail"].endswith("missing: source, type")
    assert (len(sent.records), sent.reply.json["rejected"]) == (1, 2)
    refused(event({**EVENT, "id": ""}).reply, "nothing-accepted")
    refused(event(b"", "text/plain", HTTP_CE_ID="1").reply, "nothing-accepted")
    refused(event(b"", "application/cloudevents+avro").reply, "unsupported-media-type")


# ---- webhooks


@pytest.mark.parametrize(
    ("fields", "body", "expected"),
    [
        ({"X_GITHUB_EVENT": "issues", "X_GITHUB_DELIVERY": "d-1", "X_HUB_SIGNATURE_256": "s"}, {"action": "opened"},
         ("d-1", "github", {"event": "issues", "action": "opened"})),
        ({"X_GITEA_EVENT": "push", "X_GITEA_DELIVERY": "d-2", "X_GITHUB_EVENT": "push", "X_GITHUB_DELIVERY": "d-2"}, {},
         ("d-2", "gitea", {"event": "push"})),
        ({"X_GITLAB_EVENT": "Push Hook", "X_GITLAB_EVENT_UUID": "u", "X_GITLAB_TOKEN": "secret"},
         {"object_kind": "push"},
         ("u", "gitlab", {"event": "Push Hook"})),
        ({"X_GITLAB_EVENT": "Push Hook", "IDEMPOTENCY_KEY": "k", "X_GITLAB_EVENT_UUID": "u"}, {},
         ("k", "gitlab", {"event": "Push Hook"})),
        ({"WEBHOOK_ID": "m", "IDEMPOTENCY_KEY": "k"}, {}, ("k", "webhook", {})),
        ({"STRIPE_SIGNATURE": "s"}, {"id": "evt_1", "object": "event", "type": "charge.ok", "created": 1769903999},
         ("evt_1", "stripe", {"event": "charge.ok"})),
        ({"WEBHOOK_ID": "msg_1"}, {"type": "user.created", "timestamp": T},
         ("msg_1", "webhook", {"event": "user.created"})),
        ({"X_EVENT_KEY": "repo:push", "X_REQUEST_UUID": "r"}, {}, ("r", "bitbucket", {"event": "repo:push"})),
        ({"X_SHOPIFY_TOPIC": "orders/create", "X_SHOPIFY_WEBHOOK_ID": "w"}, {"id": 1},
         ("w", "shopify", {"event": "orders/create"})),
    ],
)  # fmt: skip
def test_a_webhook_is_its_body_and_what_its_fields_say(
    fields: dict[str, str], body: dict[str, Any], expected: tuple[str, str, dict[str, str]]
) -> None:
    more: dict[str, Any] = {f"HTTP_{name}": value for name, value in fields.items()}
    record = send("/webhook", body, **more).only
    assert (record.event_id, record.service, record.metadata) == expected
    assert json.loads(record.message) == body
    if "created" in body or "timestamp" in body:
        assert record.timestamp.startswith("2026-01-31T23:59:59")


def test_further_records_of_a_webhook_have_their_own_ids() -> None:
    sent = send("/webhook", [{}, 1, {}], HTTP_WEBHOOK_ID="m")
    assert [record.event_id for record in sent.records] == ["m", "m#2"]
    ids = [send("/webhook", {}, HTTP_WEBHOOK_ID=name).only.event_id for name in ("m#2", "m%232", "m%25232")]
    assert ids == ["m%232", "m%25232", "m%2525232"]
    assert send("/webhook", {"id": "evt_1"}).only.event_id != "evt_1"


# ---- all


@pytest.mark.parametrize("path", [path for path in SHAPED_PATHS if path != LOGS])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_form_is_refused(path: str, form: str) -> None:
    refused(send(path, b"a=1", CONTENT_TYPE=form).reply, "unsupported-media-type")
    assert send(LOGS, b"a=1", CONTENT_TYPE=form).reply.status == 400


texts = st.text(max_size=6) | st.sampled_from(["id", "source", "type", "short_message", "message", "time", "event", T])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=12,
)
SMALL = Bounds(
    PayloadLimits(payload_bytes_max=2_000, bulk_records_max=6),
    RecordLimits(512, 40, 6, 20, 4, 16, 12, 30), True,
)  # fmt: skip
TYPES = ["", "application/json", "text/plain", STRUCTURED, BATCH, "application/msgpack", *sorted(FORMS)]
check = encoder(SMALL.record)


@settings(max_examples=400)
@given(
    st.sampled_from(SHAPED_PATHS),
    st.binary(max_size=60) | (json_values | st.lists(json_values)).map(json.dumps).map(str.encode),
    st.sampled_from(TYPES) | st.text(max_size=8),
    st.sampled_from(["", "time=a.b&id=id&service=a&message=b&ok=200", "ddsource=x", "%%%"]) | st.text(max_size=12),
    st.booleans(),
)  # fmt: skip
def test_any_request_gets_a_documented_answer_and_a_success_is_what_was_stored(
    path: str, body: bytes, content_type: str, query: str, named: bool
) -> None:
    more = {"HTTP_CE_ID": "1", "HTTP_CE_SOURCE": "/a", "HTTP_X_GITHUB_EVENT": "e"} if named else {}
    sink = MemorySink()
    env = environ(body, path=path, CONTENT_TYPE=content_type, QUERY_STRING=query, **more)
    reply = ask(app_of(sink, SMALL, keep=lambda *row: None), env)
    for line in sink.stored:
        assert check(decode(line)._asdict()) == line
    if reply.status in (200, 202):
        assert path == LOGS or len(sink.stored) == reply.json["accepted"] > 0
    else:
        assert not sink.stored
        assert reply.status in (DROPPED if path == LOGS else {400, 413, 415, 422})
    receiver = receiver_at(path, SMALL)
    if reply.status < 300 and path != LOGS:
        at_once, sliced = receiver.read(env, body), finish(receiver.slices(env, body))
        assert at_once is None or len(at_once.lines) == len(sliced.lines) == len(sink.stored)


@pytest.mark.parametrize("path", SHAPED_PATHS)
@pytest.mark.parametrize("fault", [reason for reason, row in PROBLEMS.items() if row.status == 503])
def test_a_fault_of_the_store_is_never_a_success_and_is_retried(path: str, fault: str) -> None:
    body = body_of({**EVENT, "short_message": "m"})
    for name in ("append_error", "commit_error"):
        sink = MemorySink()
        setattr(sink, name, lambda: SinkError(fault, "x"))
        reply = ask(app_of(sink, BOUNDS), environ(body, path=path))
        assert (reply.status, sink.stored) == (503, [])
        assert int(reply.headers["retry-after"]) >= 1
