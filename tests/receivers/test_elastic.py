"""The Elasticsearch receiver: what a document becomes, what is refused, and what the answers say."""

from __future__ import annotations

import gzip
import zlib
from typing import Any, NamedTuple

import pytest
import zstandard

from inlet.stream.limits import RecordLimits
from inlet.stream.rejected import Rejected
from tests.receivers.elastic_support import DOCUMENT, app_of, bulk_of, create, record_of, send, statuses, stored
from tests.receivers.support import MemoryAddress, MemorySink, MemoryTicket, ask, counted, environ, moved
from wsgi.problems import PROBLEMS, Denied, Refused, SinkError
from wsgi.receivers.admission import Admission
from wsgi.receivers.elasticbulk import ACTION_BYTES_MAX
from wsgi.receivers.elasticrecord import ID_BYTES_MAX, INDEX_BYTES_MAX
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.ndjson import LONG_BYTES
from wsgi.receivers.parsed import REJECTIONS_KEPT_MAX
from wsgi.receivers.structure import VALUES_MAX

# ---- a document as a record


def test_an_ordinary_document_keeps_all_that_it_holds() -> None:
    document = {
        **DOCUMENT, "service": {"name": "checkout", "version": "1.2"}, "log.level": "info", "n": 1, "pi": 3.5,
        "ok": True, "no": None, "tags": ["a", "b"], "host": {"name": "web-1", "os": {"family": "debian"}}, "empty": {},
    }  # fmt: skip
    record = record_of(document)
    assert record.timestamp == "2026-01-31T23:59:59.123Z"
    assert (record.service, record.message) == ("checkout", "paid")
    assert record.metadata == {
        "_index": "logs", "level": "info", "service.version": "1.2", "log.level": "info", "n": "1", "pi": "3.5",
        "ok": "true", "no": "null", "tags": '["a","b"]', "host.name": "web-1", "host.os.family": "debian",
        "empty": "{}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("document", "service"),
    [
        ({"service.name": "a", "service": "b"}, "a"), ({"service": "b", "app": "c"}, "b"),
        ({"service": {"name": "d"}}, "d"), ({"service": {"name": 1}, "app": "c"}, "c"), ({"application": "e"}, "e"),
        ({"programname": "sshd"}, "sshd"), ({"service": ""}, "logs"), ({}, "logs"),
    ],
)  # fmt: skip
def test_the_service_is_the_first_that_is_named_else_the_index(document: dict[str, Any], service: str) -> None:
    assert record_of(document).service == service


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"message": "m", "log": "l"}, "m"), ({"log": "l"}, "l"), ({"msg": "n"}, "n"), ({"event": "e"}, "e"),
        ({"message": {"a": 1}}, '{"a":1}'), ({"message": 5}, "5"), ({"message": None, "msg": "n"}, "n"),
        ({"log": {"level": "info"}}, ""), ({}, ""),
    ],
)  # fmt: skip
def test_the_message_is_the_first_text_among_the_usual_members(document: dict[str, Any], message: str) -> None:
    assert record_of(document).message == message


@pytest.mark.parametrize(
    ("document", "timestamp"),
    [
        ({"@timestamp": "2026-01-31T23:59:59.123456789+02:00"}, "2026-01-31T23:59:59.123456789+02:00"),
        ({"@timestamp": 1769903999123}, "2026-01-31T23:59:59.123Z"), ({"time": 1769903999}, "2026-01-31T23:59:59Z"),
        ({"@timestamp": "2026-01-31"}, "2026-01-31T00:00:00Z"),
        ({"@timestamp": "2026-02-30", "time": 1}, "1970-01-01T00:00:01Z"),
        ({"@timestamp": "soon", "timestamp": "2026-01-31 23:59:59"}, "2026-01-31T23:59:59Z"),
    ],
)  # fmt: skip
def test_the_time_is_the_first_moment_among_the_usual_members(document: dict[str, Any], timestamp: str) -> None:
    assert record_of(document).timestamp == timestamp


def test_a_time_that_is_no_moment_stays_in_the_metadata() -> None:
    record = record_of({"@timestamp": "soon"})
    assert record.metadata == {"_index": "logs", "@timestamp": "soon"}
    assert record.timestamp.startswith("2")


def test_an_id_is_unique_within_its_index_only() -> None:
    assert record_of({}, _id="7").event_id == "logs/7"
    assert record_of({}, _id="7", _index="audit").event_id == "audit/7"
    assert record_of({}, _id=7).event_id == "logs/7"
    sink = MemorySink()
    assert statuses(send(bulk_of(({"index": {"_id": "7"}}, {})), sink)) == [201]
    assert stored(sink.stored)[0].event_id == "/7"
    assert stored(sink.stored)[0].service == "unknown"


def test_two_ids_are_never_one() -> None:
    # Found from outside: index a with _id b/c, and index a/b with _id c, were the same record.
    sink = MemorySink()
    pairs = [("a", "b/c"), ("a/b", "c"), (None, "a/b/c"), (None, "/a/b/c"), ("", "b/c")]
    reply = send(bulk_of(*[({"index": {"_index": index, "_id": own_id}}, {}) for index, own_id in pairs]), sink)
    assert statuses(reply) == [201, 400, 201, 201, 201]
    assert [record.event_id for record in stored(sink.stored)] == ["a/b/c", "/a/b/c", "//a/b/c", "/b/c"]


@pytest.mark.parametrize("own_id", [[], ["a"], {}, {"a": 1}, True, False, 1.5])
def test_an_id_that_is_neither_a_string_nor_an_integer_is_refused_alone(own_id: Any) -> None:
    # Elasticsearch takes numbers, and clients send them; they are the same as strings of their digits.
    reply = send(bulk_of(create(_id=own_id), create(_id=7)))
    assert statuses(reply) == [400, 201]
    assert "_id" not in reply.json["items"][0]["create"]
    assert reply.json["items"][0]["create"]["error"]["reason"] == "_id is neither a string nor an integer"


def test_a_longest_id_becomes_a_digest_and_the_answer_keeps_it() -> None:
    own_id = "i" * ID_BYTES_MAX
    sink = MemorySink()
    reply = send(bulk_of(create(_id=own_id)), sink)
    assert reply.json["items"][0]["create"]["_id"] == own_id
    (record,) = stored(sink.stored)
    assert len(record.event_id) == 32
    assert record.metadata["inlet.truncated"] == "event_id"
    assert statuses(send(bulk_of(create(_id=own_id + "i")))) == [400]


def test_the_same_request_again_gives_the_same_ids_and_each_record_its_own() -> None:
    body = bulk_of(create(), create(), ({"index": {"_index": "logs"}}, DOCUMENT))
    first, again = MemorySink(), MemorySink()
    ids = [item["create"]["_id"] for item in send(body, first).json["items"][:2]]
    send(body, again)
    assert first.stored == again.stored
    assert len({record.event_id for record in stored(first.stored)}) == 3
    assert [record.event_id for record in stored(first.stored)][:2] == ids


def test_routing_and_pipeline_are_kept_of_the_action_before_the_query() -> None:
    sink = MemorySink()
    body = bulk_of(create(routing="r1", pipeline="p1"), create({"_routing": "mine"}))
    send(body, sink, QUERY_STRING="routing=r2&pipeline=p%C3%A9&refresh=true")
    first, second = stored(sink.stored)
    assert (first.metadata["_routing"], first.metadata["_pipeline"]) == ("r1", "p1")
    assert (second.metadata["_routing"], second.metadata["_pipeline"]) == ("r2", "pé")
    assert second.metadata["_routing#2"] == "mine"


def test_the_index_of_the_path_is_the_default() -> None:
    sink = MemorySink()
    body = bulk_of(
        ({"index": {}}, {"a": 1}), ({"index": {"_index": "own"}}, {"a": 1}), ({"index": {"_index": None}}, {})
    )
    reply = send(body, sink, "/pfad-\xc3\xa9/_bulk")
    assert [record.metadata["_index"] for record in stored(sink.stored)] == ["pfad-é", "own", "pfad-é"]
    assert [item["index"]["_index"] for item in reply.json["items"]] == ["pfad-é", "own", "pfad-é"]


def test_what_no_json_or_text_can_hold_is_kept_as_text() -> None:
    record = record_of(b'{"message":"\\ud800x","n":NaN,"i":[Infinity],"big":123456789012345678901234567890}')
    assert record.message == "\ufffdx"
    assert record.metadata["n"] == "NaN"
    assert record.metadata["big"] == "123456789012345678901234567890"


@pytest.mark.parametrize("filler", [0, LONG_BYTES], ids=["at once", "in slices"])
def test_an_integer_longer_than_python_converts_keeps_its_digits(filler: int) -> None:
    # Found from outside: it became 1, and a time of it 1970.
    digits = b"9" * 4_301
    record = record_of(b'{"@timestamp":%b,"time":"2026-01-31T23:59:59Z","n":-%b,"m":[%b],"x":"%b"}' % (
        digits, digits, digits, b"x" * filler,
    ), _id=7)  # fmt: skip
    assert record.timestamp == "2026-01-31T23:59:59Z"
    for name, beginning in (("@timestamp", "999"), ("n", "-999"), ("m", '["999')):
        assert record.metadata[name].startswith(beginning)
    many = bulk_of(*[create(b"x")] * REJECTIONS_KEPT_MAX, create(b'{"n":%b}' % digits))
    assert statuses(send(many))[-1] == 201


def test_an_action_with_a_long_integer_does_not_make_the_body_malformed() -> None:
    body = bulk_of((b'{"create":{"_index":"logs","version":%b}}' % (b"9" * 4_301), {}), create())
    assert statuses(send(body)) == [201, 201]


def test_what_is_over_a_bound_is_cut_and_named() -> None:
    sink = MemorySink()
    app = app_of(sink, record=RecordLimits(message_chars_max=5, metadata_pairs_max=3))
    ask(app, environ(bulk_of(create({"message": "longer", **{f"m{n}": n for n in range(9)}})), "/_bulk"))
    (record,) = stored(sink.stored)
    assert record.message == "longe"
    assert record.metadata["inlet.truncated"] == "message,metadata"


# ---- answers


def test_items_have_every_member_in_order_and_no_space() -> None:
    reply = send(bulk_of(create(_id='é"1'), ({"index": {"_index": "a"}}, {"x": 1})))
    assert reply.status == 200
    assert reply.headers["x-elastic-product"] == "Elasticsearch"
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["content-length"] == str(len(reply.body))
    assert b'"errors":false,"items":[{"create":{"_index":"logs","_id":"' in reply.body
    assert b": " not in reply.body
    first, second = reply.json["items"]
    shards = {"total": 1, "successful": 1, "failed": 0}
    assert first["create"] == {
        "_index": "logs", "_id": 'é"1', "_version": 1, "result": "created", "_shards": shards, "_seq_no": 0,
        "_primary_term": 1, "status": 201,
    }  # fmt: skip
    assert second["index"]["_index"] == "a"
    assert isinstance(reply.json["took"], int)


class Twice(MemorySink):
    """A sink that had every other record before."""

    def append(self, lines: list[bytes], level: int, destination: bytes | None = None) -> Any:
        super().append(lines, level, destination)
        ticket = MemoryTicket(self, lines, level)
        ticket.addresses = lambda: [  # type: ignore[method-assign]
            MemoryAddress("1-0", line, line % 2 == 1) for line in range(len(lines))
        ]
        return ticket


def test_a_duplicate_create_with_an_id_is_a_conflict_and_any_other_duplicate_a_success() -> None:
    body = bulk_of(create(_id="1"), create(_id="1"), create(), create(), *[({"index": {"_id": "2"}}, {})] * 2)
    reply = send(body, Twice())
    assert reply.json["errors"] is True
    assert statuses(reply) == [201, 409, 201, 200, 201, 200]
    assert reply.json["items"][1]["create"]["error"]["type"] == "version_conflict_engine_exception"
    assert reply.json["items"][5]["index"]["result"] == "noop"
    brief = send(body, Twice(), QUERY_STRING="filter_path=errors,items.*.error,items.*.status")
    assert statuses(brief) == [201, 409, 201, 200, 201, 200]
    assert set(brief.json) == {"errors", "items"}
    assert brief.json["items"][0] == {"create": {"status": 201}}
    assert set(brief.json["items"][1]["create"]) == {"status", "error"}


@pytest.mark.parametrize(
    ("query", "members", "item"),
    [
        ("filter_path=errors", {"errors"}, None), ("filter_path=took,items.*._id", {"took", "items"}, {"_id"}),
        ("filter_path=items.*.error", {"items"}, None), ("filter_path=items", {"items"}, "all"),
        ("filter_path=items.*.error.type,items.*.status,took", {"took", "items"}, {"status"}),
        ("filter_path=-took", {"took", "errors", "items"}, "all"), ("filter_path=", {"took", "errors", "items"}, "all"),
        ("filter_path=errors&x=" + "y" * 5_000, {"took", "errors", "items"}, "all"),
    ],
)  # fmt: skip
def test_a_filter_leaves_what_it_names(query: str, members: set[str], item: Any) -> None:
    reply = send(bulk_of(create(_id="1")), QUERY_STRING=query)
    assert set(reply.json) == members
    if isinstance(item, set):
        assert set(reply.json["items"][0]["create"]) == item
    elif item == "all":
        assert len(reply.json["items"][0]["create"]) == 8
    else:
        assert reply.json.get("items", []) == []


def test_a_long_answer_has_an_item_an_action() -> None:
    body = bulk_of(*[create(_id=str(n)) if n % 3 else ({"delete": {"_id": str(n)}}, None) for n in range(4_000)])
    sink = MemorySink()
    reply = send(body, sink)
    assert reply.json["errors"] is True
    found = [(next(iter(item)), *item.values()) for item in reply.json["items"]]
    assert [(name, item["_id"]) for name, item in found] == [
        ("create" if n % 3 else "delete", str(n)) for n in range(4_000)
    ]
    assert [item["status"] for _, item in found] == [201 if n % 3 else 400 for n in range(4_000)]
    assert len(sink.stored) == 4_000 - 1_334


# ---- refusals


def test_each_bad_pair_is_refused_alone_in_its_place() -> None:
    body = (
        b'{"index":{}}\n{"a":1}\r\n\n{"delete":{"_id":"1"}}\n{"update":{"_id":2}}\n{"doc":{}}\n{"create":{}}\n[1]\n'
        b'{"index":{"_index":"a\\"b"}}\n{}\n{"index":{}}\nxx\n{"index":{}}\n\n{"index":{"_id":""}}\n{}\n'
        b'{"create":{}}\n{"b":\xff}\n{"index":{"_id":"last"}}\n{"c":3}\n{"index":{}}'
    )
    sink, rows = MemorySink(), list[Rejected]()
    before = counted()
    app = app_of(sink, keep=lambda stream, receiver, found, more=0: rows.extend(found))
    reply = ask(app, environ(body, "/x/_bulk"))
    assert statuses(reply) == [201, 400, 400, 400, 400, 400, 400, 400, 400, 201, 400]
    assert [record.metadata.get("a") or record.metadata.get("c") for record in stored(sink.stored)] == ["1", "3"]
    errors = [item["error"] for each in reply.json["items"] for item in each.values() if "error" in item]
    assert [error["type"] for error in errors].count("document_parsing_exception") == 2
    assert all(error["reason"] for error in errors)
    assert "delete is not supported" in errors[0]["reason"]
    assert "update is not supported" in errors[1]["reason"]
    assert len(rows) == 9
    assert rows[0].text == b'{"delete":{"_id":"1"}}'
    assert moved(before)['inlet_requests_total{reason="",receiver="elasticsearch",status="200"}'] == 1


def test_a_request_without_a_valid_record_is_answered_in_items_too() -> None:
    sink = MemorySink()
    reply = send(bulk_of(create(b"[]"), ({"delete": {"_id": "1"}}, None)), sink)
    assert (reply.status, statuses(reply), sink.appended) == (200, [400, 400], [])


@pytest.mark.parametrize(
    "action",
    [b"{}", b"[]", b"1", b"null", b"x", b'{"index":1}', b'{"index":{},"create":{}}', b'{"upsert":{}}', b'"index"',
     b'{"index":null}', b'{"index":{"_id":"' + b"x" * ACTION_BYTES_MAX + b'"}}'],
)  # fmt: skip
@pytest.mark.parametrize("first", [b"", bulk_of(create())])
def test_an_action_line_that_is_none_makes_the_whole_body_malformed(action: bytes, first: bytes) -> None:
    sink = MemorySink()
    reply = send(first + action + b'\n{"a":1}\n', sink)
    assert (reply.status, reply.json["status"], sink.appended) == (400, 400, [])
    assert reply.json["error"]["type"] == "illegal_argument_exception"
    assert reply.json["error"]["root_cause"][0]["reason"] == reply.json["error"]["reason"]
    assert reply.json["inlet"]["reason"] == "malformed-payload"


@pytest.mark.parametrize("body", [b"", b"\n", b" \r\n\n" * 3_000])
def test_an_empty_body_is_malformed(body: bytes) -> None:
    assert send(body).status == 400


BAD_NAMES = [
    *(f"a{bad}b" for bad in '\\/*?"<>| ,#:'), ".", "..", "A", "aÉ", "_a", "-a", "+a", "a\n", "é" * 128, 5,
]  # fmt: skip


@pytest.mark.parametrize("index", BAD_NAMES)
def test_an_index_that_elasticsearch_refuses_is_refused_item_by_item(index: Any) -> None:
    sink = MemorySink()
    reply = send(bulk_of(create(_index=index), create(_index=index), create()), sink)
    assert statuses(reply) == [400, 400, 201]
    for item in reply.json["items"][:2]:
        assert item["create"]["error"]["type"] == "invalid_index_name_exception"
        assert item["create"]["_index"] == ""
    assert len(sink.stored) == 1


@pytest.mark.parametrize("index", [".ds-logs-2026.01.31-000001", "...", "a_b-c+d", "é", "1", "a;b=c!"])
def test_an_index_that_elasticsearch_takes_is_taken(index: str) -> None:
    assert record_of({}, _index=index).metadata["_index"] == index


@pytest.mark.parametrize(("values", "status"), [(VALUES_MAX, 201), (VALUES_MAX + 1, 400)])
def test_a_document_has_a_greatest_number_of_values(values: int, status: int) -> None:
    # Two brackets, and commas.
    reply = send(bulk_of(create(b'{"a":[' + b"1," * (values - 2) + b"1]}"), create()))
    assert statuses(reply) == [status, 201]
    if status == 400:
        assert reply.json["items"][0]["create"]["error"]["type"] == "illegal_argument_exception"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/_bulk", 405), ("POST", "/logs/_doc", 404)])
def test_other_methods_and_paths_are_answered_as_everywhere(method: str, path: str, status: int) -> None:
    reply = send(bulk_of(create()), path=path, REQUEST_METHOD=method)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json")


@pytest.mark.parametrize("size", [INDEX_BYTES_MAX, INDEX_BYTES_MAX + 1])
def test_an_index_has_a_longest_name(size: int) -> None:
    expected = [201 if size == INDEX_BYTES_MAX else 400]
    assert statuses(send(bulk_of(create(_index="i" * size)))) == expected
    assert statuses(send(bulk_of(({"index": {}}, {})), path=f"/{'i' * size}/_bulk")) == expected


def test_bounds_hold_at_the_limit_and_one_past_it() -> None:
    app = app_of(MemorySink(), limits=PayloadLimits(bulk_records_max=3, nesting_depth_max=4))
    for count, status in ((3, 200), (4, 413)):
        reply = ask(app, environ(bulk_of(*[create()] * count), "/_bulk"))
        assert reply.status == status
    assert reply.json["error"]["type"] == "content_too_long_exception"
    for depth, item in ((4, 201), (5, 400)):
        document = b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)
        assert statuses(ask(app, environ(bulk_of(create(document)), "/_bulk"))) == [item]
    assert statuses(ask(app, environ(bulk_of(create({"a": "[[[[[[[", "b": [1], "c": [2]})), "/_bulk"))) == [201]


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/json", "application/x-ndjson", "application/json; charset=utf-8", "text/plain",
     "application/vnd.elasticsearch+x-ndjson; compatible-with=8",
     "application/vnd.elasticsearch+x-ndjson;compatible-with=9"],
)  # fmt: skip
def test_any_media_type_of_a_client_is_taken(content_type: str | None) -> None:
    assert send(bulk_of(create()), CONTENT_TYPE=content_type).status == 200


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_form_is_refused_with_words_that_help(content_type: str) -> None:
    reply = send(bulk_of(create()), CONTENT_TYPE=content_type)
    assert (reply.status, reply.json["error"]["type"]) == (415, "media_type_header_exception")
    assert "application/x-ndjson" in reply.json["error"]["reason"]


@pytest.mark.parametrize("reason", sorted(PROBLEMS))
def test_every_refusal_is_an_error_of_elasticsearch_and_retried_only_where_that_can_help(reason: str) -> None:
    row = PROBLEMS[reason]
    error = (
        SinkError(reason, "why", 5) if row.status == 503 else Denied(reason, "why", [("www-authenticate", "Bearer")])
    )
    sink = MemorySink(append_error=lambda: error)
    reply = send(bulk_of(create()), sink)
    assert (reply.status, reply.json["status"], reply.headers["x-elastic-product"]) == (
        row.status, row.status, "Elasticsearch",
    )  # fmt: skip
    assert reply.json["error"]["type"].endswith("exception")
    assert reply.json["inlet"]["retryable"] is row.retryable
    if row.status == 503:
        assert int(reply.headers["retry-after"]) >= 5
        assert reply.json["error"]["type"] == "unavailable_shards_exception"
    else:
        assert reply.headers["www-authenticate"] == "Bearer"
    if row.retryable:
        assert row.status in (408, 429, 503)


def test_a_bug_says_nothing_of_itself() -> None:
    reply = send(bulk_of(create()), MemorySink(commit_error=lambda: ValueError("secret")))
    assert (reply.status, reply.json["error"]["type"]) == (500, "exception")
    assert b"secret" not in reply.body


def test_the_key_is_asked_for_and_its_refusal_is_elasticsearchs() -> None:
    def key(env: Any, receiver: str) -> Any:
        raise Denied("unauthorized", "no key", [("www-authenticate", 'Bearer realm="inlet"')])

    app = app_of(MemorySink(), admission=Admission(lambda env: [], lambda env: None, key))
    reply = ask(app, environ(bulk_of(create()), "/_bulk"))
    assert (reply.status, reply.json["error"]["type"]) == (401, "security_exception")
    assert reply.headers["www-authenticate"] == 'Bearer realm="inlet"'


class Checkout(NamedTuple):
    """The grant of a key for one service."""

    key: str = "k"
    services: frozenset[bytes] | None = frozenset({b"checkout"})
    stream: bytes | None = None
    meter: None = None


def test_records_of_other_services_are_refused_one_by_one_in_their_places() -> None:
    sink = MemorySink()
    app = app_of(sink, admission=Admission(lambda env: [], lambda env: None, lambda env, receiver: Checkout()))
    services = ["checkout", "admin", "checkout", "admin"]
    body = bulk_of(*[create({"service": name, "n": n}) for n, name in enumerate(services)], create(b"x"))
    reply = ask(app, environ(body, "/_bulk"))
    assert statuses(reply) == [201, 400, 201, 400, 400]
    assert reply.json["items"][1]["create"]["error"]["type"] == "security_exception"
    assert [record.metadata["n"] for record in stored(sink.stored)] == ["0", "2"]
    # Not the whole request: Beats and Logstash would send it again for ever.
    reply = ask(app, environ(bulk_of(create({"service": "admin"})), "/_bulk"))
    assert (reply.status, statuses(reply)) == (200, [400])


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_a_compressed_bulk_is_decoded(coding: str) -> None:
    body = bulk_of(create(), create(b"x"))
    coded = {"gzip": gzip.compress(body), "deflate": zlib.compress(body), "zstd": zstandard.compress(body)}
    assert statuses(send(coded[coding], HTTP_CONTENT_ENCODING=coding)) == [201, 400]


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/_bulk", "/logs/_bulk"])
def test_a_bulk_comes_by_post_and_put(method: str, path: str) -> None:
    assert send(bulk_of(create()), path=path, REQUEST_METHOD=method).status == 200


def test_blank_lines_between_pairs_change_nothing() -> None:
    plain, spaced = MemorySink(), MemorySink()
    found = [create(_id=str(n)) for n in range(200)]
    send(bulk_of(*found), plain)
    assert set(statuses(send(bulk_of(*found).replace(b'}\n{"create', b'}\n\n{"create'), spaced))) == {201}
    assert plain.stored == spaced.stored


def test_an_unknown_error_of_the_table_is_answered_too() -> None:
    assert send(bulk_of(create()), MemorySink(append_error=lambda: Refused("uri-too-long", "x"))).status == 414
