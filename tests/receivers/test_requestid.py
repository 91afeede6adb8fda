"""wsgi.receivers.requestid, and where the id of a request goes."""

from __future__ import annotations

import os

import pytest

from tests.receivers.support import ONE, MemorySink, application, ask, environ, refused
from wsgi.receivers.application import refuse_for_server
from wsgi.receivers.requestid import REQUEST_ID_CHARS_MAX, request_id


@pytest.mark.parametrize("given", ["a", "5f2b-11", "A_b~c+d/e=f.g:h@i", "x" * REQUEST_ID_CHARS_MAX])
def test_a_sane_id_is_taken(given: str) -> None:
    assert request_id({"HTTP_X_REQUEST_ID": given}) == given


@pytest.mark.parametrize(
    "given", ["", " a", "a b", 'a"b', "a\nb", "a\x1b[31m", "é", "a,b", "x" * (REQUEST_ID_CHARS_MAX + 1), "a\n", "<b>"]
)
def test_any_other_is_replaced(given: str) -> None:
    made = request_id({"HTTP_X_REQUEST_ID": given})
    assert made != given
    assert request_id({"HTTP_X_REQUEST_ID": made}) == made


def test_ids_that_are_made_differ_in_forked_processes_too() -> None:
    ids = {request_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, request_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 200).decode().partition("-")[0] not in {each.partition("-")[0] for each in ids}
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(("path", "method", "status"), [("/ingest", "POST", 202), ("/healthz", "GET", 200),
                                                        ("/metrics", "GET", 200), ("/readyz", "HEAD", 200),
                                                        ("/ingest", "OPTIONS", 200), ("/no", "GET", 404)])  # fmt: skip
def test_every_answer_ends_with_it(path: str, method: str, status: int) -> None:
    answer = ask(application(MemorySink()), environ(ONE, path=path, method=method, HTTP_X_REQUEST_ID="q-9"))
    assert (answer.status, list(answer.headers.items())[-1]) == (status, ("x-request-id", "q-9"))


@pytest.mark.parametrize(
    ("body", "more", "reason"),
    [(b"{", {}, "malformed-payload"), (b"{}", {}, "invalid-record"), (b"[{}]", {}, "nothing-accepted"),
     (ONE, {"path": "/no"}, "not-found"), (ONE, {"method": "PUT"}, "method-not-allowed")],
)  # fmt: skip
def test_every_problem_names_it(body: bytes, more: dict[str, str], reason: str) -> None:
    answer = ask(application(MemorySink()), environ(body, HTTP_X_REQUEST_ID="q-9", **more))
    assert refused(answer, reason)["request_id"] == answer.headers["x-request-id"] == "q-9"


def test_a_refusal_of_the_server_itself_has_one_that_was_made() -> None:
    _, headers, body = refuse_for_server(408, "late")
    name, made = headers[-1]
    assert (name, f'"request_id":"{made}"'.encode() in body) == ("x-request-id", True)
