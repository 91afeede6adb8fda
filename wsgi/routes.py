"""Routes: ``create_app(sink, ...)``, and the one table from error to response.

What lives here: which path leads to which resource, and how every error looks (RFC 9457 ``application/problem+json``).
What must not: reading the environment (``app.py``), doing the work (``resources``).
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, cast

import falcon
import ujson

from wsgi import metrics, resources
from wsgi.commit import DeferredCommit
from wsgi.errors import ClientError, InletError, NothingAccepted, SinkError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from wsgi.payload import Parser, Rejection

log = logging.getLogger("inlet")

PROBLEM = "application/problem+json"
TYPE_BASE = "urn:inlet:problem:"
"""RFC 9457 section 3.1.1 allows any URI; a URN (RFC 8141) claims no host."""
RETRY_JITTER_SECONDS = 2
"""Retry-After is what the error says and a random number of seconds up to this: clients must not return all at once."""

INGEST = "/ingest"

TITLES = {
    "bad-request": "The request is not HTTP that this service understands",
    "malformed-payload": "The body cannot be read as records",
    "payload-too-large": "The body is too large",
    "unsupported-media-type": "The Content-Type is not one of those read here",
    "unsupported-content-encoding": "The Content-Encoding is not one of those read here",
    "length-required": "The length of the body is not known",
    "request-timeout": "The request did not arrive in time",
    "invalid-record": "The record breaks the contract",
    "record-too-large": "The record is too large",
    "nothing-accepted": "No record of the bulk is valid",
    "unknown-durability": "Inlet-Durability names no level",
    "not-found": "There is nothing at this path",
    "method-not-allowed": "This path does not take this method",
    "sink-unavailable": "The records cannot be stored now",
    "sink-outcome-unknown": "The records may have been stored, or not",
    "sink-misconfigured": "The store refuses records until its operator acts",
    "durability-timeout": "The records are stored, but not yet as safely as asked",
    "durability-unavailable": "The store cannot promise what is asked",
    "backlog-full": "Consumers are too far behind",
    "store-full": "The store's memory is nearly used up",
    "overloaded": "The service holds as many unfinished requests as it may",
    "internal": "A fault of this service",
}
"""Every reason that a response can carry, with its title. docs/protocol.md holds the same table."""

BUG = "the fault is logged; the records of this request were not stored"
"""Detail of a 500."""

_STATUS_LINES = {code: falcon.util.code_to_http_status(code) for code in (400, 408, 411, 413, 415, 422, 429, 500, 503)}


class _Request:
    """As much of a falcon.Request as ``Ingest`` reads."""

    __slots__ = ("env",)

    def __init__(self, env: WSGIEnvironment) -> None:
        self.env = env


class _Response:
    """As much of a falcon.Response as ``Ingest`` and the error handlers set."""

    __slots__ = ("data", "headers", "status")

    status: str
    data: bytes

    def __init__(self) -> None:
        self.headers: dict[str, str] = {"content-type": "application/json"}

    def set_header(self, name: str, value: str) -> None:
        """Set one header; the name is in lower case."""
        self.headers[name] = value


class _App(falcon.App):  # type: ignore[type-arg]  # falcon's default types are meant
    """falcon.App, but that ``POST /ingest`` goes straight to its responder and back.

    PERF: Falcon's way there (a Request, a Response, routing, middleware) is a quarter of what this application costs a
    request (bench/micro.py), and that route needs none of it. The responder and the error handlers are the same.
    """

    ingest: resources.Ingest

    def __call__(self, env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if env["PATH_INFO"] != INGEST or env["REQUEST_METHOD"] != "POST":
            return super().__call__(env, start_response)
        resp = _Response()
        try:
            self.ingest.on_post(cast("falcon.Request", _Request(env)), cast("falcon.Response", resp))
        except InletError as error:
            resp.status, headers, resp.data = refusal(error)
            start_response(resp.status, headers)
            return [resp.data]
        except Exception as error:
            log.error("a bug: POST %s", INGEST, exc_info=error)
            resp.status, headers, resp.data = refusal(InletError(BUG))
            start_response(resp.status, headers)
            return [resp.data]
        resp.headers["content-length"] = str(len(resp.data))
        start_response(resp.status, list(resp.headers.items()))
        return [resp.data]


def create_app(
    sink: resources.Sink, parser: Parser, *, payload_bytes_max: int, drops_unread: bool = False
) -> WSGIApplication:
    """The WSGI application over an injected sink. Opens nothing. ``drops_unread``: for ``/readyz`` to tell."""
    app = _App(media_type="application/json")
    app.req_options.auto_parse_form_urlencoded = False
    app.set_error_serializer(_serialize_http_error)
    app.add_error_handler(InletError, _answer_error)
    app.add_error_handler(Exception, _answer_bug)
    app.ingest = resources.Ingest(sink, parser, payload_bytes_max)
    app.add_route(INGEST, app.ingest)
    app.add_route("/healthz", resources.Health())
    app.add_route("/readyz", resources.Ready(sink, drops_unread=drops_unread))
    app.add_route("/metrics", resources.Metrics())
    return DeferredCommit(app, refusal)


def refusal(error: InletError) -> tuple[str, list[tuple[str, str]], bytes]:
    """The one rendering of an error: status line, headers, body. Counts it."""
    metrics.REQUESTS.labels(str(error.status), error.reason).inc()
    members: dict[str, object] = {}
    if isinstance(error, NothingAccepted):
        rejections = cast("Sequence[Rejection]", error.rejections)
        resources.count_rejections(rejections)
        members = {"accepted": 0, "rejected": len(rejections), "errors": resources.shown(rejections)}
    elif isinstance(error, ClientError) and error.status == 422:
        metrics.RECORDS_REJECTED.labels(error.reason).inc()
    body = problem(error.status, error.reason, error.detail, retryable=error.retryable, **members)
    headers = [("content-type", PROBLEM), ("content-length", str(len(body)))]
    if isinstance(error, SinkError):
        headers.append(("retry-after", str(error.retry_after + random.randint(0, RETRY_JITTER_SECONDS))))
    return _STATUS_LINES[error.status], headers, body


def problem(status: int, reason: str, detail: str, *, retryable: bool, **members: object) -> bytes:
    """A problem document (RFC 9457)."""
    document = {
        "type": TYPE_BASE + reason,
        "title": TITLES[reason],
        "status": status,
        "detail": detail,
        "reason": reason,
        "retryable": retryable,
        **members,
    }
    return ujson.dumps(document, ensure_ascii=False, escape_forward_slashes=False).encode()


def _answer_error(req: falcon.Request, resp: falcon.Response, error: InletError, params: object) -> None:
    resp.status, headers, resp.data = refusal(error)
    for name, value in headers:
        if name != "content-length":
            resp.set_header(name, value)


def _answer_bug(req: falcon.Request, resp: falcon.Response, error: Exception, params: object) -> None:
    log.error("a bug: %s %s", req.method, req.path, exc_info=error)
    _answer_error(req, resp, InletError(BUG), params)


def _serialize_http_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    """Falcon's own errors: 404, 405 (with Allow), and a request line it does not understand."""
    code = error.status_code
    reason = {404: "not-found", 405: "method-not-allowed"}.get(code, "bad-request")
    detail = {
        404: "the paths are /ingest, /healthz, /readyz and /metrics",
        405: "the header Allow names the methods of this path",
    }.get(code, error.title)
    resp.content_type = PROBLEM
    resp.data = problem(code, reason, detail or "bad request", retryable=False)
