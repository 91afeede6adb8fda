"""wsgi.receivers.routes: every path and method, Falcon's own errors, health, readiness and metrics.

What lives here: paths other than a receiver's POST. What must not: real servers (tests/service).
"""

from __future__ import annotations

import pytest

from tests.receivers.support import ONE, MemorySink, application, ask, counted, environ, moved, refused
from wsgi.problems import SinkError

METHODS = {"/ingest": {"POST", "OPTIONS"}, "/healthz": {"GET", "HEAD", "OPTIONS"}}
METHODS |= {"/readyz": METHODS["/healthz"], "/metrics": METHODS["/healthz"]}


@pytest.mark.parametrize("path", METHODS)
def test_options_names_every_method_of_a_path_itself_included(path: str) -> None:
    # Found from outside: Allow left OPTIONS out.
    app = application(MemorySink())
    options = ask(app, environ(path=path, method="OPTIONS"))
    assert (options.status, options.body) == (200, b"")
    assert set(options.headers["allow"].split(", ")) == METHODS[path]
    answer = ask(app, environ(path=path, method="DELETE"))
    refused(answer, "method-not-allowed")
    assert set(answer.headers["allow"].split(", ")) == METHODS[path]


def test_options_of_the_server_as_a_whole_names_all_its_methods() -> None:
    # Found from outside: "OPTIONS *", whose path a server leaves empty, was 404.
    answer = ask(application(MemorySink()), environ(path="", method="OPTIONS"))
    assert (answer.status, answer.body) == (200, b"")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST", "OPTIONS"}
    refused(ask(application(MemorySink()), environ(path="", method="GET")), "not-found")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_head_is_get_without_a_body(path: str) -> None:
    answer = ask(application(MemorySink()), environ(path=path, method="HEAD"))
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("path", "method", "reason", "status"),
    [("/nothing", "GET", "not-found", 404), ("/ingest/", "POST", "not-found", 404), ("/ingest", "GET",
     "method-not-allowed", 405), ("/ingest", "BREW", "not-implemented", 501)],
)  # fmt: skip
def test_what_no_receiver_saw_is_counted_for_none(path: str, method: str, reason: str, status: int) -> None:
    before = counted()
    refused(ask(application(MemorySink()), environ(path=path, method=method)), reason)
    sample = f'inlet_requests_total{{reason="{reason}",receiver="none",status="{status}"}}'
    assert moved(before) == {sample: 1}


def test_readiness_is_what_the_watcher_saw_last_and_counts_as_no_request() -> None:
    # Found from outside: the 503 of /readyz counted as a request to /ingest.
    sink = MemorySink()
    app, before = application(sink), counted()
    assert ask(app, environ(path="/readyz", method="GET")).json == {"status": "ready"}
    sink.not_ready = SinkError("sink-misconfigured", "NOAUTH", retry_after=7)
    answer = ask(app, environ(path="/readyz", method="GET"))
    assert refused(answer, "sink-misconfigured")["detail"] == "NOAUTH"
    assert answer.headers["retry-after"] in ("7", "8", "9")
    assert ask(app, environ(path="/healthz", method="GET")).json == {"status": "ok"}
    assert moved(before) == {}


def test_metrics_are_prometheus_text() -> None:
    ask(application(MemorySink()), environ(ONE))
    answer = ask(application(MemorySink()), environ(path="/metrics", method="GET"))
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'inlet_requests_total{reason="",receiver="native",status="202"}' in answer.body


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_bug_outside_of_the_receivers_is_a_problem_too(method: str, caplog: pytest.LogCaptureFixture) -> None:
    class Unready(MemorySink):
        @property
        def not_ready(self) -> SinkError | None:
            raise RuntimeError("a bug of the test")

        @not_ready.setter
        def not_ready(self, value: SinkError | None) -> None:
            """Ignore it."""

    answer = ask(application(Unready()), environ(path="/readyz", method=method))
    refused(answer, "internal" if method == "GET" else "method-not-allowed")
    assert ("a bug of the test" in caplog.text) == (method == "GET")


@pytest.mark.parametrize(
    ("env", "field", "names"),
    [
        ({"HTTP_CONTENT_ENCODING": "br"}, "accept-encoding", ("gzip", "deflate", "zstd")),
        ({"CONTENT_TYPE": "application/xml"}, "accept", ("application/json", "application/x-ndjson")),
        ({"CONTENT_TYPE": "application/json; charset=latin1"}, "accept", ("application/json",)),
    ],
)
def test_a_415_names_what_would_have_been_taken(env: dict[str, str], field: str, names: tuple[str, ...]) -> None:
    answer = ask(application(MemorySink()), environ(ONE, **env))
    assert answer.status == 415
    assert set(names) <= set(answer.headers[field].split(", "))
