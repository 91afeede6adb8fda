"""The front door: a WSGI application (PEP 3333) that hands each request to its endpoint, or to the routes.

What lives here: which of the two, the answer before a body, and refusals by the server itself. What must not: the steps
of a request (``wsgi.receivers.pipeline``), what the routes do (``wsgi.receivers.routes``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from wsgi.problems import SERVER_REASONS, Headers, Refused, SinkError
from wsgi.receivers.pipeline import Answer, Endpoint
from wsgi.receivers.refusals import NO_RECEIVER, Response, count, problem
from wsgi.receivers.requestid import FIELD, request_id

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


def nothing(slot: int) -> None:
    """Start nothing: for an application beside whose requests nothing runs."""


class Application:
    """The WSGI application: receivers' own paths straight to their endpoints, all others to ``routes``.

    ``routes`` answers every path; what it leaves in the environ under ANSWER is answered in place of its own. PERF:
    routing by Falcon costs a fifth of a request (bench/micro.py: app, app through Falcon), so a POST to an exact path
    of ``endpoints`` goes without.
    """

    ANSWER = "inlet.answer"
    """Environ key: the Answer that a route left."""
    REQUEST_ID = "inlet.request_id"
    """Environ key, for routes: the request's id."""

    def __init__(
        self,
        routes: WSGIApplication,
        endpoints: Mapping[str, Endpoint],
        start: Callable[[int], object] = nothing,
    ) -> None:
        self.start = start
        """Starts what runs beside the requests. Call it once in each worker process, after the fork, with the worker's
        slot: a small number that no other living worker has."""
        self._routes = routes
        self._endpoints = endpoints
        self._direct = {path: found.receive for path, found in endpoints.items() if "POST" in found.methods}
        # "/{index}/_bulk": by its last segment.
        self._ends = {path.rpartition("/")[2]: found for path, found in endpoints.items() if path.startswith("/{")}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        receive = self._direct.get(environ["PATH_INFO"])
        if receive is None or environ["REQUEST_METHOD"] != "POST":
            return self._route(environ, start_response)
        answer = receive(environ)
        answer.start_response = start_response
        return answer

    def before_body(self, environ: WSGIEnvironment) -> Response | None:
        """Return the answer to a request that needs no body for it, or None: then call the application with the body.

        For servers that read a body before they call (docs/design.md): nobody is to fill their memory without a key.
        """
        endpoint = self._endpoint(environ["PATH_INFO"])
        if endpoint is not None and environ["REQUEST_METHOD"] in endpoint.methods:
            return endpoint.before_body(environ)
        held = _Held()
        body = b"".join(self._route(environ, held))
        return held.status, held.headers, body

    def _endpoint(self, path: str) -> Endpoint | None:
        """The endpoint that ``routes`` lead a path to."""
        endpoint = self._endpoints.get(path)
        if endpoint is None and path.count("/") == 2:
            return self._ends.get(path.rpartition("/")[2])
        return endpoint

    def _route(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        held = _Held()
        environ[self.REQUEST_ID] = own_id = request_id(environ)
        body = self._routes(environ, held)
        answer: Answer | None = environ.pop(self.ANSWER, None)
        if answer is None:
            start_response(held.status, [*held.headers, (FIELD, own_id)])
            return body
        answer.start_response = start_response
        return answer


class _Held:
    """A ``start_response`` (PEP 3333) that keeps what it is called with."""

    status: str
    headers: Headers

    def __call__(self, status: str, headers: Headers, exc_info: Any = None, /) -> Callable[[bytes], object]:
        self.status, self.headers = status, headers
        return _no_write


def refuse_for_server(status: int, detail: str, environ: WSGIEnvironment | None = None) -> Response:
    """Render, and count, a refusal by the server itself: a request that no application saw.

    ``status`` is a key of SERVER_REASONS, any other counts as a bug; ``detail`` is one sentence. ``environ``: what is
    known of the request, for its id.
    """
    reason, own_id = SERVER_REASONS.get(status, "internal"), request_id(environ)
    count(NO_RECEIVER, reason)
    error = SinkError(reason, detail) if status == 503 else Refused(reason, detail)
    line, headers, body = problem(error, request_id=own_id)
    return line, [*headers, (FIELD, own_id)], body


def _no_write(data: bytes) -> object:
    raise NotImplementedError("PEP 3333's write() is not offered: return an iterable")
