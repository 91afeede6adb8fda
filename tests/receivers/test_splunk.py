"""wsgi.receivers.splunk: what its clients send, what is stored of it, and the answer to each outcome."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st

from inlet.stream.errors import InletError
from inlet.stream.limits import RecordLimits
from tests.access.support import keys_file, new_key
from tests.receivers.support import MemorySink, Reply, account, ask, environ
from wsgi.access.keys import Keys
from wsgi.problems import PROBLEMS, ClientError, Denied, SinkError
from wsgi.receivers import splunk
from wsgi.receivers.admission import OPEN, Admission
from wsgi.receivers.application import Application
from wsgi.receivers.flatten import text
from wsgi.receivers.interfaces import Receiver
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.mounting import Bounds, Mount
from wsgi.receivers.resources import Operator
from wsgi.receivers.routes import create_app
from wsgi.receivers.slices import finish
from wsgi.receivers.splunk_answers import CHECK_BITS, TEXTS, AckIds, refusal
from wsgi.sink.durability import RECEIVED, STORED

EVENT, RAW, ACK, HEALTH = (f"{splunk.ROOT}/{name}" for name in ("event", "raw", "ack", "health"))
EVENT_PATHS = (splunk.ROOT, EVENT, f"{EVENT}/1.0")
SUCCESS = b'{"text":"Success","code":0}'
UUID = "0aeeac95-ac74-4aa9-b30d-6c4c0ac581ba"
TIMED = {"event": "paid", "time": 1447828325.412}


def mounted(keep_rejected: bool = False, record: RecordLimits | None = None, **payload: int) -> Mount:
    """Every path, with these bounds."""
    return splunk.mount(Bounds(PayloadLimits(**payload), record or RecordLimits(), keep_rejected))


def app_of(sink: MemorySink, found: Mount | None = None, admission: Admission = OPEN, **more: Any) -> Application:
    """The application with this receiver alone."""
    found = found or mounted()
    return create_app(
        receivers=found.receivers, pages=found.pages, append=sink.append, admission=admission,
        operator=Operator(lambda: sink.not_ready), **more,
    )  # fmt: skip


def hec(*events: dict[str, Any]) -> bytes:
    """Events as clients join them: without anything between."""
    return b"".join(json.dumps(event).encode() for event in events)


def post(sink: MemorySink, body: bytes, path: str = EVENT, **more: Any) -> Reply:
    """One request."""
    return ask(app_of(sink), environ(body, path, **more))


def stored(body: bytes, path: str = EVENT, **more: Any) -> list[list[Any]]:
    """The records of a request that succeeded, each without its id."""
    sink = MemorySink()
    reply = post(sink, body, path, **more)
    assert (reply.status, reply.body) == (200, SUCCESS)
    return [json.loads(line)[1:] for line in sink.stored]


def refused(reply: Reply, status: int, code: int, number: int | None = None) -> dict[str, Any]:
    """Check a refusal; return it."""
    answer: dict[str, Any] = reply.json
    assert (reply.status, answer["code"], answer["text"]) == (status, code, TEXTS[code]), answer
    assert answer.get("invalid-event-number") == number
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["content-length"] == str(len(reply.body))
    assert answer["detail"].isprintable()
    assert ("retry-after" in reply.headers) == (status == 503)
    return answer


@pytest.mark.parametrize("path", EVENT_PATHS)
def test_each_path_for_events_takes_them(path: str) -> None:
    assert stored(hec(TIMED), path) == [["2015-11-18T06:32:05.412Z", "unknown", "paid", {}]]


@pytest.mark.parametrize("between", [b"", b" ", b"\n", b"\r\n\t ", b"\n\n", b","])
def test_events_follow_each_other_whatever_is_between_them(between: bytes) -> None:
    body = between.join(hec({**TIMED, "event": str(number)}) for number in range(300))
    assert [record[2] for record in stored(body)] == [str(number) for number in range(300)]


def test_an_array_holds_events() -> None:
    body = json.dumps([TIMED, TIMED]).encode()
    assert [record[2] for record in stored(body)] == ["paid", "paid"]


def test_labels_and_fields_are_metadata_and_the_source_is_the_service() -> None:
    event = {
        **TIMED, "host": "web-1", "source": "checkout", "sourcetype": "_json", "index": "main",
        "fields": {"region": "eu", "club": ["a", "b"], "n": 3, "deep": {"x": True}},
    }  # fmt: skip
    assert stored(hec(event)) == [[
        "2015-11-18T06:32:05.412Z", "checkout", "paid",
        {"host": "web-1", "source": "checkout", "sourcetype": "_json", "index": "main", "region": "eu",
         "club": '["a","b"]', "n": "3", "deep.x": "true"},
    ]]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "service"),
    [
        ({}, "unknown"),
        ({"sourcetype": "nginx"}, "nginx"),
        ({"sourcetype": "nginx", "source": "edge"}, "edge"),
        ({"source": "edge", "fields": {"service": "api"}}, "api"),
        ({"source": "edge", "fields": {"service": "api", "service.name": "shop"}}, "shop"),
        ({"source": "edge", "event": {"service": "cart", "message": "m"}}, "cart"),
        ({"source": "edge", "event": {"service": 3, "message": "m"}}, "edge"),
    ],
)
def test_the_service_is_the_first_that_is_named(more: dict[str, Any], service: str) -> None:
    assert stored(hec({**TIMED, **more}))[0][1] == service


@pytest.mark.parametrize(
    ("event", "message", "metadata"),
    [
        ("text", "text", {}),
        (7, "7", {}),
        (False, "false", {}),
        ([1, {"a": 2}], '[1,{"a":2}]', {}),
        ({}, "{}", {}),
        ({"a": {"b": 1}}, '{"a":{"b":1}}', {}),
        ({"line": "x", "source": "stdout", "tag": "t"}, "x", {"event.source": "stdout", "event.tag": "t"}),
        ({"line": {"a": 1}, "source": "stdout"}, '{"a":1}', {"event.source": "stdout"}),
        ({"message": {"msg": "x", "meta": {"a": 1}}, "n": 1}, "x", {"event.n": "1", "event.message.meta.a": "1"}),
        ({"message": {"a": 1}}, '{"a":1}', {}),
        ({"message": "", "log": "x"}, "x", {"event.message": ""}),
        ({"msg": "x", "ctx": {"id": 1, "tags": [1]}}, "x", {"event.ctx.id": "1", "event.ctx.tags": "[1]"}),
    ],
)
def test_a_structured_event_becomes_its_text_or_json(event: Any, message: str, metadata: dict[str, str]) -> None:
    assert stored(hec({**TIMED, "event": event}))[0][2:] == [message, metadata]


@pytest.mark.parametrize("members", [127, 128, 129])
def test_a_structured_event_that_would_have_to_be_cut_is_kept_whole_as_json(members: int) -> None:
    event = {"message": "m", **{f"k{number}": number for number in range(members)}}
    ((_, _, message, metadata),) = stored(hec({**TIMED, "event": event}))
    if members <= 128:
        assert (message, len(metadata)) == ("m", members)
    else:
        assert (json.loads(message), metadata) == (event, {})


@pytest.mark.parametrize("event", [{"message": "m", "a": "x" * 16_385}, {"message": "m", "k" * 251: 1}])
def test_so_is_one_with_a_member_over_a_bound(event: dict[str, Any]) -> None:
    ((_, _, message, metadata),) = stored(hec({**TIMED, "event": event}))
    assert (json.loads(message), metadata) == (event, {})


@pytest.mark.parametrize(
    ("moment", "timestamp"),
    [
        (1447828325, "2015-11-18T06:32:05Z"),
        ("1447828325", "2015-11-18T06:32:05Z"),
        ("1447828325.062000", "2015-11-18T06:32:05.062Z"),
        (1447828325062, "2015-11-18T06:32:05.062Z"),
        ("2015-11-18T06:32:05.062Z", "2015-11-18T06:32:05.062Z"),
    ],
)
def test_the_time_is_read_as_clients_write_it(moment: object, timestamp: str) -> None:
    assert stored(hec({"event": "x", "time": moment}))[0][0] == timestamp


def test_a_time_that_is_none_is_kept_as_metadata() -> None:
    assert stored(hec({"event": "x", "time": "soon"}))[0][3] == {"time": "soon"}
    assert stored(hec({"event": "x", "time": ""}))[0][3] == {}


def test_other_members_are_metadata_too() -> None:
    body = hec({**TIMED, "host": None, "source": "", "sourcetype": 5, "fields": [1], "level": {"n": 3}})
    assert stored(body)[0][3] == {"sourcetype": "5", "fields": "[1]", "level.n": "3"}


def test_a_request_sent_again_has_the_same_ids_and_two_alike_events_do_not() -> None:
    sink = MemorySink()
    for _ in range(2):
        post(sink, hec(TIMED, TIMED))
    ids = [json.loads(line)[0] for line in sink.stored]
    assert ids[:2] == ids[2:]
    assert len(set(ids)) == 2


def test_lines_of_raw_text_share_what_the_query_says() -> None:
    query = "sourcetype=access&source=edge%20proxy&host=h&index=web&time=1447828325.5&channel=" + UUID
    sink = MemorySink()
    reply = post(sink, b"GET /a\r\n\n  \nGET \xff\n  in front", RAW, QUERY_STRING=query)
    assert (reply.status, sorted(reply.json)) == (200, ["ackId", "code", "text"])
    shared = {"host": "h", "source": "edge proxy", "sourcetype": "access", "index": "web"}
    assert [json.loads(line)[1:] for line in sink.stored] == [
        ["2015-11-18T06:32:05.500Z", "edge proxy", line, shared] for line in ("GET /a", "GET \ufffd", "  in front")
    ]


def test_raw_text_needs_no_query() -> None:
    ((_, service, message, metadata),) = stored(b'{"a":1}', f"{RAW}/1.0")
    assert (service, message, metadata) == ("unknown", '{"a":1}', {})


def test_a_time_in_the_query_that_is_none_is_kept() -> None:
    assert stored(b"x", RAW, QUERY_STRING="time=soon&source=")[0][3] == {"time": "soon"}


def test_a_long_raw_line_is_cut_and_marked() -> None:
    for sent in ("x" * 131_073, "\U0001f600" * 200_000):
        ((_, _, message, metadata),) = stored(sent.encode(), RAW)
        assert sent.startswith(message)
        assert "message" in metadata["inlet.truncated"]


@pytest.mark.parametrize("path", [EVENT, RAW])
@pytest.mark.parametrize("body", [b"", b" \r\n ", b"\n" * 200_000])
def test_a_body_without_an_event_has_no_data(path: str, body: bytes) -> None:
    reply = post(MemorySink(), body, path)
    refused(reply, 400, 6 if path == EVENT and len(body) > splunk.SHORT_BYTES_MAX else 5)
    assert refused(post(MemorySink(), b"[]"), 400, 5)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"{}", 12), (b'{"event":null}', 12), (b'{"fields":{}}', 12), (b'{"event":""}', 13), (b'{"event":" \\n"}', 13),
        (b"7", 6), (b'"x"', 6), (b'{"event":}', 6),
    ],
)  # fmt: skip
def test_what_is_no_event_is_named_and_all_others_are_stored(bad: bytes, code: int) -> None:
    sink = MemorySink()
    body = b"\n".join((hec(TIMED), bad, hec({**TIMED, "event": "behind"})))
    answer = refused(post(sink, body), 400, code, number=1)
    assert "the others are stored" in answer["detail"]
    assert [json.loads(line)[3] for line in sink.stored] == ["paid", "behind"]
    alone = MemorySink()
    refused(post(alone, bad), 400, code, number=0)
    assert not alone.appended


def test_refused_events_are_counted_and_kept_where_that_is_asked_for() -> None:
    kept: list[Any] = []
    sink = MemorySink()
    app = app_of(sink, mounted(keep_rejected=True), keep_rejected=lambda *row: kept.append(row))
    ask(app, environ(hec(TIMED, {"event": "", "host": "h"}), EVENT))
    ((stream, receiver, rows, more),) = kept
    assert (stream, receiver, more) == (None, "splunk", 0)
    assert [json.loads(row.text) for row in rows] == [{"event": "", "host": "h"}]


def test_a_channel_gets_an_ack_id_that_is_acknowledged_by_any_worker() -> None:
    channel = {"HTTP_X_SPLUNK_REQUEST_CHANNEL": UUID.upper()}
    ids = [post(MemorySink(), hec(TIMED), **channel).json["ackId"] for _ in range(2)]
    assert len(set(ids)) == 2
    assert max(ids) < 1 << 53
    body = json.dumps({"acks": [*ids, 0, 1, ids[0] + 1]}).encode()
    reply = post(MemorySink(), body, ACK, QUERY_STRING=f"channel={UUID}")
    assert reply.status == 200
    assert reply.json == {
        "acks": {str(ids[0]): True, str(ids[1]): True, "0": False, "1": False, str(ids[0] + 1): False}
    }
    other = post(MemorySink(), body, ACK, QUERY_STRING="channel=other").json["acks"]
    assert not other[str(ids[0])]


def test_no_number_that_splunk_counts_to_is_an_ack_id() -> None:
    acks = AckIds()
    assert not any(acks.knows(UUID, number) for number in range(1 << (CHECK_BITS + 2)))
    assert not any(acks.knows(UUID, number) for number in (-1, 1 << 53, (1 << 64) - 1))
    own = [acks.give(UUID) for _ in range(100)]
    assert all(1 << 52 <= number < 1 << 53 and acks.knows(UUID, number) for number in own)


def test_ack_ids_begin_anew_in_every_process() -> None:
    program = (
        "import os\nfrom wsgi.receivers.splunk_answers import AckIds\nacks = AckIds()\n"
        "for _ in range(2):\n    if os.fork() == 0:\n        print(acks.give('c'), flush=True)\n        os._exit(0)\n"
        "    os.wait()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert len(set(done.stdout.split())) == 2


def test_nothing_is_acknowledged_before_it_is_stored() -> None:
    receiver = mounted().receivers[EVENT]
    env = environ(hec(TIMED), EVENT, HTTP_X_SPLUNK_REQUEST_CHANNEL=UUID)
    parsed = receiver.read(env, hec(TIMED))
    assert parsed is not None
    answers = [receiver.accepted(parsed, level, None) for level in (RECEIVED, STORED)]
    assert [b"ackId" in answer[2] for answer in answers if isinstance(answer, tuple)] == [False, True]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"acks":1}', b'{"acks":["1"]}', b'{"acks":[-1]}', b'{"acks":[18446744073709551616]}',
     b'{"acks":[true]}', b'{"acks":[' + b" " * splunk.ACKS_BYTES_MAX + b"]}"],
)  # fmt: skip
def test_a_question_for_acks_that_is_none_is_invalid_data(body: bytes) -> None:
    refused(post(MemorySink(), body, ACK, HTTP_X_SPLUNK_REQUEST_CHANNEL=UUID), 400, 6)


def test_a_question_for_acks_needs_a_channel_and_a_channel_has_a_bound() -> None:
    refused(post(MemorySink(), b'{"acks":[1]}', ACK), 400, 10)
    for path, body in ((EVENT, hec(TIMED)), (RAW, b"x"), (ACK, b'{"acks":[1]}')):
        assert post(MemorySink(), body, path, HTTP_X_SPLUNK_REQUEST_CHANNEL="c" * 256).status == 200
        refused(post(MemorySink(), body, path, HTTP_X_SPLUNK_REQUEST_CHANNEL="c" * 257), 400, 11)


def test_a_question_for_no_acks_is_answered_with_none() -> None:
    assert post(MemorySink(), b'{"acks":[]}', ACK, HTTP_X_SPLUNK_REQUEST_CHANNEL=UUID).json == {"acks": {}}


def test_a_query_has_a_bound() -> None:
    assert post(MemorySink(), b"x", RAW, QUERY_STRING="&".join(["a=1"] * 64)).status == 200
    refused(post(MemorySink(), b"x", RAW, QUERY_STRING="&".join(["a=1"] * 65)), 400, 6)


@pytest.mark.parametrize("path", [HEALTH, f"{HEALTH}/1.0"])
def test_health_is_what_the_store_is(path: str) -> None:
    sink = MemorySink()
    app = app_of(sink)
    reply = ask(app, environ(b"", path, "GET"))
    assert (reply.status, reply.json) == (200, {"text": "HEC is healthy", "code": 17})
    assert ask(app, environ(b"", path, "HEAD")).status == 200
    sink.not_ready = SinkError("sink-unavailable", "secret of the store", 5)
    answer = refused(ask(app, environ(b"", path, "GET")), 503, 18)
    assert "secret" not in answer["detail"]


@pytest.mark.parametrize("path", [*EVENT_PATHS, RAW, ACK])
def test_options_is_exactly_200(path: str) -> None:
    reply = ask(app_of(MemorySink()), environ(b"", path, "OPTIONS"))
    assert (reply.status, reply.body, reply.headers["allow"]) == (200, b"", "POST, OPTIONS")


ANSWERS = {
    "unauthorized": (401, 3), "forbidden": (403, 4), "origin-not-allowed": (403, 4), "internal": (500, 8),
    "not-implemented": (500, 8), "version-not-supported": (500, 8),
}  # fmt: skip


@pytest.mark.parametrize("reason", list(PROBLEMS))
def test_each_reason_is_retried_where_that_can_help_and_dropped_where_it_cannot(reason: str) -> None:
    problem = PROBLEMS[reason]
    again = problem.retryable or problem.status == 503
    status, code = (503, 9) if again else ANSWERS.get(reason, (400, 6))
    error = SinkError(reason, "why", 7) if again else ClientError(reason, "why")
    line, headers, body = refusal(error, "r-1")
    answer = json.loads(body)
    assert (int(line[:3]), answer) == (
        status, {"text": TEXTS[code], "code": code, "request_id": "r-1", "detail": "why"},
    )  # fmt: skip
    assert [7 <= int(value) <= 9 for name, value in headers if name == "retry-after"] == [True] * again


def test_a_quota_says_when_to_come_back_and_a_missing_key_how_to_send_one() -> None:
    fields = [("retry-after", "4"), ("ratelimit", '"records";r=0;t=4')]
    line, headers, _ = refusal(Denied("quota-exceeded", "d", fields), "r")
    assert (line[:3], headers[2:]) == ("503", fields)
    line, headers, _ = refusal(Denied("unauthorized", "d", [("www-authenticate", "Bearer")]), "r")
    assert (line, headers[2:]) == ("401 Unauthorized", [("www-authenticate", "Bearer")])


def test_an_error_of_no_kind_is_busy_with_retry_after() -> None:
    line, headers, _ = refusal(ClientError("request-timeout", "d"), "r")
    assert line[:3] == "503"
    assert headers[-1][0] == "retry-after"


@pytest.mark.parametrize("fault", ["append", "commit"])
def test_a_store_that_takes_none_is_busy(fault: str) -> None:
    sink = MemorySink()
    setattr(sink, f"{fault}_error", lambda: SinkError("store-full", "full", 3))
    refused(post(sink, hec(TIMED)), 503, 9)
    assert not sink.stored


def test_a_bug_is_an_internal_error() -> None:
    sink = MemorySink(commit_error=lambda: ValueError("secret"))
    answer = refused(post(sink, hec(TIMED)), 500, 8)
    assert "secret" not in answer["detail"]


def test_the_bounds_of_a_body_are_refused_with_400_since_413_is_retried() -> None:
    app = app_of(MemorySink(), mounted(payload_bytes_max=100, bulk_records_max=3))
    assert ask(app, environ(b'{"event":"' + b"x" * 88 + b'"}', EVENT)).status == 200
    refused(ask(app, environ(b'{"event":"' + b"x" * 89 + b'"}', EVENT)), 400, 6)
    for path, one in ((EVENT, b'{"event":1}'), (RAW, b"x\n")):
        assert ask(app, environ(one * 3, path)).status == 200
        refused(ask(app, environ(one * 4, path)), 400, 6)
    refused(ask(app, environ(b"x", EVENT, HTTP_CONTENT_ENCODING="br")), 400, 6)


def test_what_the_query_shares_is_bounded_by_the_body() -> None:
    app = app_of(MemorySink(), mounted(payload_bytes_max=1_000))
    assert ask(app, environ(b"x\n", RAW, QUERY_STRING="source=" + "s" * 250)).status == 200
    refused(ask(app, environ(b"x\n" * 20, RAW, QUERY_STRING="source=" + "s" * 250)), 400, 6)


def walk(receiver: Receiver, body: bytes, path: str, query: str = "") -> tuple[int, str]:
    """Read a body in slices; the steps that it took, and how it ended."""
    work = receiver.slices(environ(body, path, QUERY_STRING=query), body)
    steps = 0
    while True:
        try:
            next(work)
        except StopIteration as done:
            return steps, f"{len(done.value.lines)} lines"
        except InletError as error:
            return steps, error.reason
        steps += 1


MIB8 = 8 << 20


@pytest.mark.parametrize(
    ("body", "end"),
    [
        (b"[" * MIB8, "nothing-accepted"),
        (b"{}" * (MIB8 // 2), "payload-too-large"),
        (b'{"event":' * (MIB8 // 9), "nothing-accepted"),
        (b"[]" * (MIB8 // 8), "malformed-payload"),
        (b'"' * MIB8, "payload-too-large"),
        (b'{"event":1}' * 50_000, "50000 lines"),
        (b'{"event":1}' * 50_001, "payload-too-large"),
        (b'{"event":"\xff"}' * 10_000, "10000 lines"),
    ],
    ids=["brackets", "empty objects", "nested events", "empty arrays", "quotes", "most", "too many", "no UTF-8"],
)
def test_a_hostile_body_is_read_in_many_short_steps(body: bytes, end: str) -> None:
    steps, found = walk(mounted().receivers[EVENT], body, EVENT)
    assert found == end
    assert steps > 5


@pytest.mark.parametrize(
    ("body", "query", "end"),
    [
        (b"\n" * MIB8, "", "malformed-payload"),
        (b"a\n" * (MIB8 // 2), "", "payload-too-large"),
        (b"a\n" * 50_000, "source=" + "s" * 7_000, "payload-too-large"),
        (b"a\n" * 50_000, "", "50000 lines"),
    ],
    ids=["blank lines", "too many lines", "a long parameter", "most"],
)
def test_so_is_raw_text(body: bytes, query: str, end: str) -> None:
    steps, found = walk(mounted().receivers[RAW], body, RAW, query)
    assert found == end
    assert steps > 20


@pytest.mark.parametrize(
    "event",
    [
        b"[" * 900 + b"1" * 600 + b"]" * 900, b'{"a":' * 900 + b"NaN" + b"}" * 900, b'"\\ud800"', b"9" * 5_000,
        b'{"message":{"\\udfff":Infinity}}', b"1e999", b'{"message":' + b"[" * 300 + b"]" * 300 + b"}",
    ],
)  # fmt: skip
def test_a_strange_event_becomes_a_record_of_valid_text(event: bytes) -> None:
    sink = MemorySink()
    assert post(sink, b'{"event":%b,"time":%b}' % (event, event)).status == 200
    assert len(ujson.loads(sink.stored[0])) == 5
    sink.stored[0].decode()


def test_json_that_ujson_cannot_write_is_written_however_deep_it_nests() -> None:
    value: Any = [float("nan"), 1 << 70, {}, [], "\ud800/", {"a": None, "b": [True, {}]}, 1.5]
    flat = text(value)
    assert flat == '[NaN,1180591620717411303424,{},[],"\\ud800/",{"a":null,"b":[true,{}]},1.5]'
    for _ in range(5_000):
        value = {"a": [value]}
    assert text(value) == '{"a":[' * 5_000 + flat + "]}" * 5_000


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["event", "time", "host", "source", "sourcetype", "index", "fields", "message", "x"])
EVENTS = st.dictionaries(NAMES, VALUES, max_size=6).map(lambda value: json.dumps(value).encode())
PIECES = EVENTS | st.binary(max_size=12) | st.sampled_from([b"{", b"[", b"]", b",", b"\n", b'{"event":"a","time":1}'])
BODIES = st.lists(PIECES, max_size=8).map(b"".join)
OUTCOMES = {(200, 0), (400, 5), (400, 6), (400, 12), (400, 13)}


@given(BODIES, st.sampled_from([EVENT, RAW]))
def test_any_body_gets_an_answer_of_the_contract_and_a_success_only_if_all_of_it_is_stored(
    body: bytes, path: str
) -> None:
    sink = MemorySink()
    reply = post(sink, body, path)
    assert (reply.status, reply.json["code"]) in OUTCOMES
    if reply.status == 200:
        assert sink.stored
    for line in sink.stored:
        assert [type(member) for member in ujson.loads(line)] == [str, str, str, str, dict]


@given(BODIES, st.sampled_from([EVENT, RAW]))
def test_a_body_is_read_in_slices_as_it_is_at_once(body: bytes, path: str) -> None:
    receiver, env = mounted().receivers[path], environ(body, path)
    at_once, sliced = account(lambda: receiver.read(env, body)), account(lambda: finish(receiver.slices(env, body)))

    def timed(outcome: tuple[Any, ...] | None) -> Any:
        """Without what arrival decides: ids and times of records without a time."""
        if outcome is None or type(outcome[0]) is not list:
            return outcome
        return [json.loads(line)[2:] for line in outcome[0]], outcome[1:]

    assert timed(at_once) == timed(sliced)


def test_events_of_services_that_a_key_has_no_right_to_are_named_and_the_others_stored(tmp_path: Path) -> None:
    key, token = new_key("hec", services=("shop",))
    keys = Keys(keys_file(tmp_path / "keys.toml", key), lambda *_: None)
    sink = MemorySink()
    app = app_of(sink, admission=OPEN._replace(key=keys.admit))
    mine, other = {**TIMED, "source": "shop"}, {**TIMED, "source": "bank"}

    def answer(*events: dict[str, Any]) -> Reply:
        return ask(app, environ(hec(*events), EVENT, HTTP_AUTHORIZATION=f"Splunk {token}"))

    assert answer(mine).status == 200
    refused(answer(mine, other, mine), 400, 7, number=1)
    refused(answer({}, other), 400, 12, number=0)
    refused(answer(other), 403, 4)
    assert len(sink.stored) == 3


def test_a_key_is_taken_as_splunk_clients_send_it_and_every_failure_is_one_401(tmp_path: Path) -> None:
    key, token = new_key("hec", receivers=("splunk",))
    other, other_token = new_key("other", receivers=("loki",))
    keys = Keys(keys_file(tmp_path / "keys.toml", key, other), lambda *_: None)
    sink = MemorySink()
    app = app_of(sink, admission=OPEN._replace(key=keys.admit))

    def answer(authorization: str | None, path: str = EVENT, body: bytes = SUCCESS) -> Reply:
        return ask(app, environ(hec(TIMED) if path == EVENT else body, path, HTTP_AUTHORIZATION=authorization))

    assert answer(f"Splunk {token}").status == 200
    wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
    bad = [answer(text) for text in (None, "Splunk x", f"Splunk {wrong}", "Basic eA==", "Splunk ")]
    assert {refused(reply, 401, 3)["detail"] for reply in bad} == {bad[0].json["detail"]}
    assert all("www-authenticate" in reply.headers for reply in bad)
    refused(answer(f"Splunk {other_token}"), 403, 4)
    refused(answer(None, ACK), 401, 3)
    assert ask(app, environ(b"", HEALTH, "GET")).status == 200
    assert ask(app, environ(b"", EVENT, "OPTIONS")).status == 200
