"""Every status of the error table by a real request: gunicorn as a subprocess, over each kind of store."""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis
import ujson

from tests.conftest import Serve
from tests.support import Server, record, stored_lines, wait_until
from wsgi.problems import PROBLEMS

NDJSON = {"Content-Type": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}
PAYLOAD_BYTES_MAX = 65_536


@pytest.fixture(scope="module")
def target(store_url: str) -> Iterator[tuple[Server, str, str]]:
    """A server, the URL of its store and its stream."""
    stream = f"http-{uuid.uuid4().hex}"
    env = {"REDIS_URL": store_url, "INLET_STREAM": stream, "INLET_PAYLOAD_BYTES_MAX": str(PAYLOAD_BYTES_MAX)}
    server = Server("app:application", ["--workers", "2"], env)
    yield server, store_url, stream
    server.close()


class Inlet:
    """One test's view: requests, and what the stream has got since the test began."""

    def __init__(self, server: Server, client: Any, stream: str) -> None:
        self.server, self._client, self._stream = server, client, stream
        self._before = len(self._all())
        self.http = httpx.Client(base_url=server.url, timeout=30)

    def _all(self) -> list[list[Any]]:
        return stored_lines(self._client, self._stream)

    def stored(self) -> list[list[Any]]:
        return self._all()[self._before :]

    def post(self, body: bytes | str, headers: dict[str, str] | None = None, path: str = "/ingest") -> httpx.Response:
        return self.http.post(path, content=body, headers=JSON if headers is None else headers)

    def raw(self, text: str, body: bytes = b"", **kwargs: Any) -> tuple[int, dict[str, str], bytes]:
        head = text.replace("\n", "\r\n").encode() + b"\r\n\r\n"
        return self.server.send(head + body, **kwargs)


@pytest.fixture
def inlet(target: tuple[Server, str, str]) -> Iterator[Inlet]:
    server, url, stream = target
    with redis.Redis.from_url(url) as client:
        inlet = Inlet(server, client, stream)
        yield inlet
        inlet.http.close()


def refused(answer: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """Check a problem document; return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == f"urn:inlet:problem:{reason}"
    assert (problem["status"], problem["reason"], problem["title"]) == (status, reason, PROBLEMS[reason].title)
    assert problem["detail"]
    assert (PROBLEMS[reason].status, PROBLEMS[reason].retryable) == (status, problem["retryable"])
    return problem


def test_one_record_is_answered_202_and_exactly_this_body(inlet: Inlet) -> None:
    answer = inlet.post(ujson.dumps(record("one")))
    assert (answer.status_code, answer.content) == (202, b'{"status":"queued"}')
    assert answer.headers["content-type"] == "application/json"
    assert inlet.stored() == [["one", "2026-01-31T23:59:59.123Z", "checkout", "paid", {"region": "eu-1"}]]


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "application/a+json", "text/plain", None])
def test_the_json_types_are_one(inlet: Inlet, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    assert inlet.post(ujson.dumps(record()), headers).status_code == 202


def test_a_bulk_with_bad_lines_stores_the_good_ones_and_names_the_bad(inlet: Inlet) -> None:
    lines = [ujson.dumps(record("a")), "{", ujson.dumps(record("c", service="")), "", ujson.dumps(record("d"))]
    answer = inlet.post("\n".join(lines), NDJSON)
    assert answer.status_code == 202
    body = answer.json()
    assert [body[name] for name in ("status", "accepted", "rejected")] == ["queued", 2, 2]
    assert [(e["index"], e["event_id"], e["reason"]) for e in body["errors"]] == [
        (1, None, "malformed-record"),
        (2, "c", "invalid-record"),
    ]
    assert [line[0] for line in inlet.stored()] == ["a", "d"]


def test_an_array_is_a_bulk(inlet: Inlet) -> None:
    answer = inlet.post(ujson.dumps([record("a"), record("b")]))
    assert answer.json() == {"status": "queued", "accepted": 2, "rejected": 0, "errors": []}
    assert [line[0] for line in inlet.stored()] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/ingest?receipt=1", {}), ("/ingest", {"Prefer": "respond-async, return=representation"})],
)
def test_a_receipt_names_the_address_of_each_record(inlet: Inlet, path: str, headers: dict[str, str]) -> None:
    body = "\n".join([ujson.dumps(record("a")), "{", ujson.dumps(record("b"))])
    answer = inlet.post(body, {**NDJSON, **headers}, path).json()
    assert [(r["index"], r["line"]) for r in answer["records"]] == [(0, 0), (2, 1)]
    entry_id = answer["records"][0]["entry_id"]
    fields = dict(inlet._client.xrange(inlet._stream, entry_id, entry_id))[entry_id.encode()]
    assert [ujson.loads(line)[0] for line in fields[b"r"].split(b"\n")] == ["a", "b"]
    assert [e["retryable"] for e in answer["errors"]] == [False]


def test_a_chunked_body_is_read_with_no_length(inlet: Inlet) -> None:
    body = ujson.dumps(record("chunked")).encode()
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:7], body[7:])) + b"0\r\n\r\n"
    status, _, answer = inlet.raw("POST /ingest HTTP/1.1\nHost: x\nTransfer-Encoding: chunked", chunked)
    assert (status, answer) == (202, b'{"status":"queued"}')
    assert [line[0] for line in inlet.stored()] == ["chunked"]


def test_a_compressed_body_is_decoded(inlet: Inlet) -> None:
    body = gzip.compress(ujson.dumps(record("gz")).encode())
    assert inlet.post(body, {**JSON, "Content-Encoding": "gzip"}).status_code == 202
    assert [line[0] for line in inlet.stored()] == ["gz"]


@pytest.mark.parametrize(
    "body", ["", " \n", "{", '{"event_id":}', "[1,]", '{"a":1}x', "\xff", '{"a":"' + "[" * 9, "[" * 33]
)
def test_400_malformed_payload(inlet: Inlet, body: str) -> None:
    refused(inlet.post(body.encode("latin-1")), 400, "malformed-payload")
    assert inlet.stored() == []


def test_400_where_the_body_is_shorter_than_its_length(inlet: Inlet) -> None:
    body = ujson.dumps(record("cut")).encode() + b"\n" + ujson.dumps(record("cut")).encode()
    status, _, answer = inlet.raw(
        f"POST /ingest HTTP/1.1\nHost: x\nContent-Type: application/x-ndjson\nContent-Length: {len(body) + 1}",
        body,
        half_close=True,
    )
    assert status == 400, answer
    assert inlet.stored() == []


def test_404(inlet: Inlet) -> None:
    refused(inlet.http.get("/nothing"), 404, "not-found")


@pytest.mark.parametrize("path", ["/ingest", "/healthz", "/readyz", "/metrics"])
def test_405_with_allow_and_options_answers_what_it_names(inlet: Inlet, path: str) -> None:
    answer = inlet.http.delete(path)
    refused(answer, 405, "method-not-allowed")
    allowed = {method.strip() for method in answer.headers["allow"].split(",")}
    assert allowed == ({"POST", "OPTIONS"} if path == "/ingest" else {"GET", "HEAD", "OPTIONS"})
    options = inlet.http.options(path)
    assert options.status_code in (200, 204)
    assert {method.strip() for method in options.headers["allow"].split(",")} == allowed


def test_options_of_the_server_as_a_whole(inlet: Inlet) -> None:
    status, headers, body = inlet.raw("OPTIONS * HTTP/1.1\nHost: x")
    assert (status, body) == (200, b"")
    assert {method.strip() for method in headers["allow"].split(",")} == {"GET", "HEAD", "POST", "OPTIONS"}


def test_501_of_a_method_that_nobody_defined(inlet: Inlet) -> None:
    status, headers, body = inlet.raw("BREW /ingest HTTP/1.1\nHost: x")
    assert (status, ujson.loads(body)["reason"]) == (501, "not-implemented")
    assert headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_head_is_get_without_a_body(inlet: Inlet, path: str) -> None:
    answer = inlet.http.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


def test_411_without_a_length(inlet: Inlet) -> None:
    status, headers, body = inlet.raw("POST /ingest HTTP/1.1\nHost: x\nContent-Type: application/json")
    assert (status, ujson.loads(body)["reason"]) == (411, "length-required")
    assert headers["content-type"] == "application/problem+json"


def test_413_one_byte_past_the_bound_and_202_at_it(inlet: Inlet) -> None:
    text = ujson.dumps(record("bound"))
    at = text + " " * (PAYLOAD_BYTES_MAX - len(text))
    assert inlet.post(at).status_code == 202
    refused(inlet.post(at + " "), 413, "payload-too-large")
    assert len(inlet.stored()) == 1


@pytest.mark.parametrize("length", [PAYLOAD_BYTES_MAX + 1, 10**17, 10**30])
def test_413_before_a_byte_is_read(inlet: Inlet, length: int) -> None:
    status, _, body = inlet.raw(f"POST /ingest HTTP/1.1\nHost: x\nContent-Length: {length}")
    assert (status, ujson.loads(body)["reason"]) == (413, "payload-too-large")


def test_413_of_a_chunked_body_past_the_bound(inlet: Inlet) -> None:
    piece = b"%x\r\n%b\r\n" % (PAYLOAD_BYTES_MAX + 1, b" " * (PAYLOAD_BYTES_MAX + 1))
    status, _, body = inlet.raw("POST /ingest HTTP/1.1\nHost: x\nTransfer-Encoding: chunked", piece + b"0\r\n\r\n")
    assert (status, ujson.loads(body)["reason"]) == (413, "payload-too-large")


def test_413_of_a_body_that_is_too_large_decoded(inlet: Inlet) -> None:
    body = gzip.compress(b" " * (PAYLOAD_BYTES_MAX + 1))
    refused(inlet.post(body, {**JSON, "Content-Encoding": "gzip"}), 413, "payload-too-large")


def test_415_of_a_type_names_those_that_work(inlet: Inlet) -> None:
    problem = refused(inlet.post("<a/>", {"Content-Type": "application/xml"}), 415, "unsupported-media-type")
    assert "application/json" in problem["detail"]
    assert "application/x-ndjson" in problem["detail"]


def test_415_of_curls_default_type_says_what_to_add(inlet: Inlet) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    problem = refused(inlet.post(ujson.dumps(record()), headers), 415, "unsupported-media-type")
    assert "-H 'Content-Type: application/json'" in problem["detail"]


def test_415_of_an_encoding(inlet: Inlet) -> None:
    answer = inlet.post("x", {**JSON, "Content-Encoding": "br"})
    refused(answer, 415, "unsupported-content-encoding")
    assert "zstd" in answer.headers["accept-encoding"]


def test_422_of_a_record_that_breaks_the_contract(inlet: Inlet) -> None:
    problem = refused(inlet.post(ujson.dumps(record(timestamp="yesterday"))), 422, "invalid-record")
    assert "timestamp" in problem["detail"]
    refused(inlet.post(ujson.dumps(record(event_id="x" * 257))), 422, "record-too-large")
    assert inlet.stored() == []


def test_422_of_a_bulk_without_a_valid_record(inlet: Inlet) -> None:
    problem = refused(inlet.post(b"{}\n1", NDJSON), 422, "nothing-accepted")
    assert (problem["accepted"], problem["rejected"], len(problem["errors"])) == (0, 2, 2)
    refused(inlet.post(b"[]"), 422, "nothing-accepted")


def test_health_ready_and_metrics(inlet: Inlet) -> None:
    assert inlet.http.get("/healthz").json() == {"status": "ok"}
    wait_until(lambda: inlet.http.get("/readyz").json() == {"status": "ready"}, "the watcher has looked at the store")
    assert inlet.post(ujson.dumps(record())).status_code == 202
    inlet.post("{")
    answer = inlet.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'inlet_requests_total{reason="",receiver="native",status="202"}' in answer.text
    assert 'inlet_requests_total{reason="malformed-payload",receiver="native",status="400"}' in answer.text
    assert "inlet_records_stored_total" in answer.text


def test_a_lone_surrogate_nan_or_control_character_never_reaches_the_stream(inlet: Inlet) -> None:
    bad = [r'"\ud800"', "NaN", "Infinity", "1e400", '"\ud800"']
    for value in bad:
        body = f'{{"event_id":"e","timestamp":"2026-01-31T23:59:59Z","service":"s","message":{value}}}'
        assert inlet.post(body.encode("utf-8", "surrogatepass")).status_code in (400, 422)
    assert inlet.stored() == []
    body = '{"event_id":"e","timestamp":"2026-01-31T23:59:59Z","service":"s","message":"a\n\tb"}'
    assert inlet.post(body).status_code == 202
    assert inlet.stored()[0][3] == "a\n\tb"


def test_503_while_the_store_is_away_with_retry_after(serve: Serve) -> None:
    server = serve("--workers", "1", REDIS_URL="unix:///nonexistent/valkey.sock")
    answer = httpx.post(server.url + "/ingest", content=ujson.dumps(record()), headers=JSON, timeout=30)
    refused(answer, 503, "sink-unavailable")
    assert answer.headers["retry-after"] in ("1", "2", "3")
    ready = httpx.get(server.url + "/readyz", timeout=30)
    refused(ready, 503, "sink-unavailable")
    assert httpx.get(server.url + "/healthz", timeout=30).status_code == 200
    httpx.post(server.url + "/ingest", content=ujson.dumps(record()), headers=JSON, timeout=30)
    assert server.log().count("reason=sink-unavailable") == 1


def test_503_that_only_the_operator_can_mend(serve: Serve, valkey: str, client: Any, stream: str) -> None:
    client.set(stream, "a string")
    server = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream)
    answer = httpx.post(server.url + "/ingest", content=ujson.dumps(record()), headers=JSON, timeout=30)
    assert "WRONGTYPE" in refused(answer, 503, "sink-misconfigured")["detail"]
    assert "retry-after" in answer.headers
    refused(httpx.get(server.url + "/readyz", timeout=30), 503, "sink-misconfigured")


def test_500_of_a_bug_is_a_problem_too_and_its_traceback_is_in_the_log(serve: Serve) -> None:
    server = serve("--workers", "1", app="tests.service.broken_app:application")
    answer = httpx.post(server.url + "/ingest", content=ujson.dumps(record()), headers=JSON, timeout=30)
    refused(answer, 500, "internal")
    assert "a bug of the test" in server.log()
    assert "a bug of the test" not in answer.text


@pytest.mark.parametrize("how", [("-k", "sync"), ("-k", "gthread", "--threads", "4")], ids=lambda how: how[1])
def test_broken_chunks_were_a_bug_of_the_service_under_gunicorns_own_workers(
    how: tuple[str, ...], serve: Serve, valkey: str, stream: str
) -> None:
    # Found from outside: gunicorn's exceptions derive from none that a stream usually raises.
    server = serve(*how, "--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream)
    head = b"POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    bad = (b"zz\r\n\r\n", b"1;a=\r\n{\r\n0\r\n\r\n", b"1\r\n{}\r\n0\r\n\r\n", b"1\r\n{\r\n0\r\nbad trailer\r\n\r\n")
    for chunks in bad:
        status, _, body = server.send(head + chunks, half_close=True)
        assert (status, ujson.loads(body)["reason"]) == (400, "malformed-payload"), chunks
    assert "Traceback" not in server.log()


def test_a_length_with_leading_zeros_was_taken_for_a_huge_one(inlet: Inlet) -> None:
    body = ujson.dumps(record()).encode()
    head = f"POST /ingest HTTP/1.1\nHost: a\nContent-Type: application/json\nContent-Length: {len(body):030d}"
    assert inlet.raw(head, body)[0] == 202
    assert len(inlet.stored()) == 1


def test_a_long_method_that_is_unknown_is_not_implemented(inlet: Inlet) -> None:
    assert inlet.raw(f"{'A' * 33} / HTTP/1.1\nHost: a")[0] == 501
