"""Deferred commit: WSGI middleware (PEP 3333) that makes a response wait until its records are stored.

What lives here: the order call, commit, ``start_response``, body. What must not: Falcon, Redis, what a commit is.

The app inside stays an ordinary WSGI app: it calls ``start_response`` and returns its body. Where it also left a
callable under ``environ[COMMIT]``, the middleware returns an iterable and has told the server nothing yet. The first
iteration calls the callable; only then does it call the server's ``start_response``, with the app's answer where the
callable returned and with a refusal where it raised. PEP 3333 allows exactly that: "start_response must be called ...
before the iterable yields its first body bytestring".

A server that calls the app for several requests before it iterates any response therefore lets them share one commit,
and needs to know nothing about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from wsgi.errors import InletError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    Headers = list[tuple[str, str]]
    Refusal = Callable[[InletError], tuple[str, Headers, bytes]]

COMMIT = "inlet.commit"
"""Environ key: a callable that returns once the records are stored, or raises InletError. It returns None, or a body
to send in place of the app's (JSON, as the app's own)."""


class DeferredCommit:
    """``app`` inside, ``refusal``: error -> (status line, headers, body)."""

    def __init__(self, app: WSGIApplication, refusal: Refusal) -> None:
        self._app = app
        self._refusal = refusal

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answer = _Answer(start_response, self._refusal)
        body = self._app(environ, answer.hold)
        commit = environ.get(COMMIT)
        if commit is None:
            start_response(answer.status, answer.headers)
            return body
        answer.commit, answer.body = commit, body
        return answer


class _Answer:
    """The answer of one request, held back; and the iterable the server gets for it."""

    __slots__ = ("_refusal", "_start_response", "body", "commit", "headers", "status")

    status: str
    headers: Headers
    commit: Callable[[], bytes | None] | None
    body: Iterable[bytes]

    def __init__(self, start_response: StartResponse, refusal: Refusal) -> None:
        self._start_response = start_response
        self._refusal = refusal

    def hold(self, status: str, headers: Headers, exc_info: Any = None, /) -> Callable[[bytes], object]:
        """The ``start_response`` that the app gets."""
        self.status, self.headers = status, headers
        return _no_write

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        commit = self.commit
        if commit is None:
            raise StopIteration
        self.commit = None
        try:
            body = commit()
        except InletError as error:
            status, headers, body = self._refusal(error)
            self._start_response(status, headers)
            return body
        if body is None:
            self._start_response(self.status, self.headers)
            return b"".join(self.body)
        headers = [pair for pair in self.headers if pair[0].lower() != "content-length"]
        self._start_response(self.status, [*headers, ("content-length", str(len(body)))])
        return body

    def close(self) -> None:
        """Pass ``close`` on (PEP 3333). A request that ends before it was iterated is never answered 2xx."""
        self.commit = None
        close = getattr(getattr(self, "body", None), "close", None)
        if close is not None:
            close()


def _no_write(data: bytes) -> object:
    raise NotImplementedError("PEP 3333's write() is not offered: return an iterable")
