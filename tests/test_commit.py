"""wsgi.commit under a server's eyes: nothing is told before the commit, and PEP 3333 holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from wsgi.commit import COMMIT, DeferredCommit
from wsgi.errors import InletError, SinkUnavailable

Headers = list[tuple[str, str]]
ACCEPTED = b'{"status":"queued"}'


class Body:
    """A body that tells when it was closed."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def close(self) -> None:
        self.closed += 1


def app(commit: Callable[[], bytes | None] | None, body: Iterable[bytes]) -> Any:
    def inner(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("202 Accepted", [("content-length", "19"), ("content-type", "application/json")])
        if commit is not None:
            environ[COMMIT] = commit
        return body

    return DeferredCommit(inner, refusal)


def refusal(error: InletError) -> tuple[str, Headers, bytes]:
    body = error.reason.encode()
    return "503 Service Unavailable", [("content-type", "text/plain"), ("content-length", str(len(body)))], body


class Told:
    """A server's ``start_response`` that keeps what it was told."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, dict[str, str]]] = []

    def __call__(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        self.answers.append((status, dict(headers)))
        return lambda data: None


def call(subject: Any, told: Told) -> Iterable[bytes]:
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ["QUERY_STRING"] = ""
    body: Iterable[bytes] = subject(environ, told)
    return body


def test_nothing_is_told_before_the_commit_has_returned() -> None:
    order: list[str] = []
    told = Told()

    def commit() -> None:
        order.append(f"commit, told {len(told.answers)}")

    iterable = call(app(commit, [ACCEPTED]), told)
    assert (order, told.answers) == ([], [])
    assert b"".join(iterable) == ACCEPTED
    assert order == ["commit, told 0"]
    assert told.answers == [("202 Accepted", {"content-length": "19", "content-type": "application/json"})]


def test_every_app_is_called_before_the_first_commit_where_the_server_does_so() -> None:
    order: list[str] = []

    def make(name: str) -> Any:
        def inner(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            order.append(f"call {name}")
            start_response("202 Accepted", [])
            environ[COMMIT] = lambda: order.append(f"commit {name}")
            return [name.encode()]

        return DeferredCommit(inner, refusal)

    iterables = [call(make(name), Told()) for name in "ab"]
    assert [b"".join(iterable) for iterable in iterables] == [b"a", b"b"]
    assert order == ["call a", "call b", "commit a", "commit b"]


def test_a_commit_that_fails_turns_the_answer_into_the_refusal() -> None:
    def commit() -> None:
        raise SinkUnavailable("the store is away")

    told = Told()
    assert b"".join(call(app(commit, [ACCEPTED]), told)) == b"sink-unavailable"
    assert told.answers == [("503 Service Unavailable", {"content-type": "text/plain", "content-length": "16"})]


def test_a_commit_that_returns_a_body_replaces_the_answers_and_its_length() -> None:
    told = Told()
    assert b"".join(call(app(lambda: b'{"records":[]}', [b""]), told)) == b'{"records":[]}'
    assert told.answers == [("202 Accepted", {"content-type": "application/json", "content-length": "14"})]


def test_an_answer_without_a_commit_goes_straight_through() -> None:
    told = Told()
    body = Body([b"x" * 19])
    iterable = call(app(None, body), told)
    assert told.answers
    assert iterable is body


@pytest.mark.parametrize("iterated", [True, False])
def test_close_reaches_the_body_and_a_request_closed_unread_is_not_committed(iterated: bool) -> None:
    commits: list[int] = []
    body = Body([ACCEPTED])
    iterable: Any = call(app(lambda: commits.append(1), body), Told())
    if iterated:
        assert list(iterable) == [ACCEPTED]
    iterable.close()
    assert list(iterable) == []
    assert (len(commits), body.closed) == (int(iterated), 1)


@pytest.mark.parametrize("outcome", ["stored", "refused", "replaced", "none"])
def test_wsgiref_validate_has_no_complaint(outcome: str) -> None:
    def commit() -> bytes | None:
        if outcome == "refused":
            raise SinkUnavailable("the store is away")
        return b"{}" if outcome == "replaced" else None

    subject = validator(app(None if outcome == "none" else commit, [ACCEPTED]))
    told = Told()
    iterable: Any = call(subject, told)
    assert b"".join(iterable)
    iterable.close()
    assert len(told.answers) == 1
