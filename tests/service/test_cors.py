"""CORS over the real server, on each worker class: what is stored and what is answered, to the byte of each field."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import ujson

from tests.certificates import localhost
from tests.support import Server, record, stored_lines

APP = "https://app.example.com"
OTHER = "https://other.example.com"
TEXT = {"Content-Type": "text/plain;charset=UTF-8"}
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-other"}
PAYLOAD_BYTES_MAX = 65_536


class Inlet:
    """A server, and what its stream holds."""

    def __init__(self, store_url: str, worker: str, **env: str) -> None:
        self._store_url, self._stream = store_url, f"cors-{uuid.uuid4().hex}"
        settings = {"REDIS_URL": store_url, "INLET_STREAM": self._stream, **env}
        settings["INLET_PAYLOAD_BYTES_MAX"] = str(PAYLOAD_BYTES_MAX)
        self.server = Server("app:application", ["--workers", "1", *(["-k", worker] if worker else [])], settings)
        self.http = httpx.Client(base_url=self.server.url, timeout=30)

    def post(self, event_id: str, **headers: str) -> httpx.Response:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post("/ingest", content=ujson.dumps(record(event_id)), headers={**TEXT, **fields})

    def stored(self, event_id: str) -> int:
        with redis.Redis.from_url(self._store_url) as client:
            return [line[0] for line in stored_lines(client, self._stream)].count(event_id)

    def close(self) -> None:
        self.http.close()
        self.server.close()


@pytest.fixture(scope="module", params=["", "gthread"])
def closed(request: pytest.FixtureRequest, valkey: str) -> Iterator[Inlet]:
    """No list."""
    inlet = Inlet(valkey, request.param)
    yield inlet
    inlet.close()


@pytest.fixture(scope="module", params=["", "gthread"])
def listed(request: pytest.FixtureRequest, valkey: str) -> Iterator[Inlet]:
    """One listed origin."""
    inlet = Inlet(valkey, request.param, INLET_CORS_ORIGINS=APP)
    yield inlet
    inlet.close()


@pytest.fixture
def event_id() -> str:
    """An ``event_id`` that nobody else uses."""
    return uuid.uuid4().hex


def fields_of(answer: httpx.Response) -> dict[str, str]:
    """The fields of an answer that CORS is about."""
    return {
        name: value for name, value in answer.headers.items() if name.startswith("access-control-") or name == "vary"
    }


def readable(answer: httpx.Response, origin: str) -> bool:
    """Whether a browser gives this answer to a page of the origin, Retry-After and the request's id included."""
    fields = fields_of(answer)
    exposed = fields.get("access-control-expose-headers", "").split(", ")
    return (
        fields.get("access-control-allow-origin") == origin
        and fields.get("access-control-allow-credentials") == "true"
        and fields.get("vary") == "Origin"
        and {"retry-after", "x-request-id", "inlet-durability", "ratelimit", "ratelimit-policy"} <= set(exposed)
    )


def refused(answer: httpx.Response) -> None:
    """Check that this is the refusal of an origin, which no page can read."""
    assert answer.status_code == 403, answer.text
    problem = answer.json()
    assert (problem["reason"], problem["retryable"]) == ("origin-not-allowed", False)
    assert fields_of(answer) == {"vary": "Origin"}
    assert "other.example" not in answer.text


@pytest.mark.parametrize(
    "origin", [OTHER, "null", "", "http://127.0.0.1", "*", f"{APP}, {OTHER}", "http://127.0.0.1:1"]
)
def test_what_a_page_would_not_be_told_is_not_stored(closed: Inlet, event_id: str, origin: str) -> None:
    # Regression: it was stored, and the page, told of a failure, sent it again.
    refused(closed.post(event_id, Origin=origin))
    assert closed.stored(event_id) == 0


@pytest.mark.parametrize("origin", [OTHER, "null", f"{APP}.evil.example", f"{APP}:8443", "http://app.example.com"])
def test_beside_a_list_too(listed: Inlet, event_id: str, origin: str) -> None:
    refused(listed.post(event_id, Origin=origin))
    refused(listed.http.options("/ingest", headers={"Origin": origin, **ASKS}))
    assert listed.stored(event_id) == 0


def test_what_the_browser_says_of_the_page_counts(closed: Inlet, event_id: str) -> None:
    refused(closed.post(event_id, Origin=closed.server.url, Sec_Fetch_Site="cross-site"))
    assert closed.stored(event_id) == 0
    # A proxy that names itself in Host.
    answer = closed.post(event_id, Origin="https://inlet.example.com", Sec_Fetch_Site="same-origin")
    assert (answer.status_code, fields_of(answer)) == (202, {})
    assert closed.stored(event_id) == 1


def test_a_client_that_is_no_page_sees_no_difference(closed: Inlet, listed: Inlet, event_id: str) -> None:
    for inlet in (closed, listed):
        answer = inlet.post(event_id)
        assert (answer.status_code, answer.content) == (202, b'{"status":"queued"}')
        assert fields_of(answer) == {}
        assert inlet.stored(event_id) == 1


def test_a_page_of_the_server_itself_may_send(closed: Inlet, listed: Inlet, event_id: str) -> None:
    for inlet in (closed, listed):
        # As behind a proxy that ends TLS.
        for number, scheme in enumerate(("http", "https"), 1):
            answer = inlet.post(event_id, Origin=inlet.server.url.replace("http", scheme, 1))
            assert (answer.status_code, fields_of(answer)) == (202, {})
            assert inlet.stored(event_id) == number


def test_over_tls_a_page_of_plain_http_is_of_another_origin(valkey: str, event_id: str, tmp_path: Path) -> None:
    _, (cert, key) = localhost(tmp_path)
    inlet = Inlet(valkey, "", GUNICORN_CMD_ARGS=f"--certfile {cert} --keyfile {key}")
    own = f"https://127.0.0.1:{inlet.server.port}"
    try:
        with httpx.Client(base_url=own, timeout=30, verify=False) as inlet.http:
            refused(inlet.post(event_id, Origin=own.replace("https", "http", 1)))
            assert inlet.stored(event_id) == 0
            assert inlet.post(event_id, Origin=own).status_code == 202
            assert inlet.stored(event_id) == 1
    finally:
        inlet.close()


def test_a_listed_origin_may_send_and_read(listed: Inlet, event_id: str) -> None:
    answer = listed.post(event_id, Origin=APP)
    assert (answer.status_code, answer.content) == (202, b'{"status":"queued"}')
    assert readable(answer, APP)
    assert listed.stored(event_id) == 1


def test_a_preflight_is_answered_from_fixed_lists(listed: Inlet) -> None:
    answer = listed.http.options("/ingest", headers={"Origin": APP, **ASKS})
    assert (answer.status_code, answer.content) == (204, b"")
    assert fields_of(answer) == {
        "access-control-allow-origin": APP,
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": "authorization, ce-dataschema, ce-id, ce-source, ce-specversion, ce-subject, "
        "ce-time, ce-type, content-encoding, content-type, dd-api-key, inlet-durability, prefer, x-api-key, "
        "x-request-id, x-scope-orgid, x-splunk-request-channel",
        "access-control-max-age": "7200",
        "vary": "Origin",
    }
    # RFC 9110 section 8.6: a 204 has no Content-Length.
    assert "content-length" not in answer.headers


def test_other_options_requests_are_answered_as_before(listed: Inlet) -> None:
    for headers in ({}, {"Origin": APP}, {"Origin": OTHER}, {"Access-Control-Request-Method": "POST"}):
        answer = listed.http.options("/ingest", headers=headers)
        assert (answer.status_code, answer.headers["allow"], fields_of(answer)) == (200, "POST, OPTIONS", {})


def test_other_paths_give_no_page_their_answer(listed: Inlet) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert fields_of(listed.http.get(path, headers={"Origin": APP})) == {}
        assert fields_of(listed.http.options(path, headers={"Origin": APP, **ASKS})) == {}


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"{}", {"Inlet-Durability": "rumor"}, 400),
        (b"x" * PAYLOAD_BYTES_MAX, {}, 400),
        (b"x" * (PAYLOAD_BYTES_MAX + 1), {}, 413),
        (b"{}", {"Content-Type": "image/png"}, 415),
        (b"{}", {"Content-Encoding": "br"}, 415),
        (b"{}", {}, 422),
        (b"[{}]", {}, 422),
    ],
)
def test_a_listed_origin_reads_every_refusal(listed: Inlet, body: bytes, headers: dict[str, str], status: int) -> None:
    # Threads close a connection whose body they did not read, and the next request must not be sent on it.
    sent = {**TEXT, "Origin": APP, "Connection": "close", **headers}
    answer = listed.http.post("/ingest", content=body, headers=sent)
    assert answer.status_code == status, answer.text
    assert readable(answer, APP)


def test_an_origin_costs_no_body(closed: Inlet) -> None:
    # The head alone, and a body that never comes.
    head = (
        f"POST /ingest HTTP/1.1\r\nHost: a\r\nOrigin: {OTHER}\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n"
        "Expect: 100-continue\r\n\r\n"
    )
    if closed.server.worker_class != "gthread":
        status, fields, _ = closed.server.send(head.encode())
        assert (status, fields.get("connection")) == (403, "close")


@pytest.mark.parametrize("value", ["https://app.example.com/", "app.example.com", "*,https://a.example", "https://*.a"])
def test_a_malformed_list_aborts_the_start(value: str, valkey: str) -> None:
    with pytest.raises(AssertionError, match="INLET_CORS_ORIGINS"):
        Server("app:application", ["--workers", "1"], {"REDIS_URL": valkey, "INLET_CORS_ORIGINS": value})


def test_the_log_has_no_origin_of_a_client(closed: Inlet) -> None:
    mark: Any = uuid.uuid4().hex
    refused(closed.post("e", Origin=f"https://{mark}.example"))
    assert mark not in closed.server.log()
