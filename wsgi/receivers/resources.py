"""Falcon resources: one for every path. Receivers' paths leave an Answer; the others answer at once.

What lives here: methods of each path, health, readiness, metrics, and who may see what of them. What must not: how an
error looks (``wsgi.receivers.refusals``), talking to the store.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

import falcon
import ujson

from wsgi import metrics
from wsgi.problems import PROBLEMS, Denied, SinkError
from wsgi.receivers.application import Application
from wsgi.receivers.pipeline import Endpoint
from wsgi.receivers.refusals import Response, problem

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

Readiness = Callable[[], SinkError | None]
"""Why records cannot be stored now, or None: the watcher's last look. Never blocks, never talks to the store."""
FORWARDED = frozenset((
    "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_SERVER",
    "HTTP_X_FORWARDED_PORT", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA", "HTTP_X_CLIENT_IP", "HTTP_TRUE_CLIENT_IP",
    "HTTP_CF_CONNECTING_IP", "HTTP_FLY_CLIENT_IP", "HTTP_FASTLY_CLIENT_IP", "HTTP_X_ENVOY_EXTERNAL_ADDRESS",
    "HTTP_X_CLUSTER_CLIENT_IP", "HTTP_X_ORIGINAL_FORWARDED_FOR",
))  # fmt: skip
"""Fields of which a proxy sends at least one: a request that has one is not this machine's own, whoever the peer is."""
_HOST_PORT = re.compile(r"(.*?)(?::[0-9]*)?")


class OperatorGrant(Protocol):
    """What a key permits, as far as it matters here."""

    @property
    def metrics(self) -> bool:
        """Whether it may read the metrics, and the details of readiness."""


class Operator(NamedTuple):
    """What the paths for operators need. ``readiness``: of all. ``grant``: the key of a request, which raises Denied;
    None where no keys are required. ``keys_broken``: why the keys file cannot be read now, if so. ``refused``: the
    streams that take no records now, and why.
    """

    readiness: Readiness
    grant: Callable[[WSGIEnvironment], OperatorGrant] | None = None
    keys_broken: Callable[[], str | None] = lambda: None
    refused: Callable[[], Mapping[str, SinkError]] = dict
    drops_unread: bool = False
    """Whether retention may trim unread entries."""

    def check(self, environ: WSGIEnvironment) -> None:
        """Return where the request may see everything: of this machine itself, or with the right ``metrics``.

        Raises Denied (``unauthorized``, ``forbidden``).
        """
        if is_local(environ):
            return
        if self.grant is None:
            raise Denied("forbidden", "only this machine may read this, or a key with the right metrics")
        if not self.grant(environ).metrics:
            raise Denied("forbidden", "this key has no right to this (right: metrics)")


def is_local(environ: WSGIEnvironment) -> bool:
    """Return whether a request comes from this machine, and through no proxy; a Unix socket is this machine's.

    A name in Host other than localhost is that of a proxy, or of a page that had its own name resolve to this machine
    (DNS rebinding).
    """
    if not FORWARDED.isdisjoint(environ) or not _is_plain_host(environ.get("HTTP_HOST", "")):
        return False
    peer: str = environ.get("REMOTE_ADDR", "")
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer == ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_plain_host(host: str) -> bool:
    """Return whether a Host field (RFC 9110 section 7.2) is empty, localhost or an IP address, with or without port."""
    match = _HOST_PORT.fullmatch(host)
    name = match[1] if match is not None else host
    if name.lower() in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


class Resource:
    """What all resources share."""

    allow = "GET, HEAD, OPTIONS"

    def on_options(self, req: falcon.Request, resp: falcon.Response, **params: str) -> None:
        """Name the methods of the path (RFC 9110 section 9.3.7)."""
        resp.set_header("allow", self.allow)
        resp.set_header("content-length", "0")


class Receive(Resource):
    """A receiver's path."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._receive, self._preflight = endpoint.receive, endpoint.preflight
        methods = [*endpoint.methods, "OPTIONS"]
        # Falcon finds a resource's methods by these names.
        if "PUT" in methods:
            self.on_put = self.on_post
        if endpoint.probed:
            methods[:0] = ["GET", "HEAD"]
            self.on_get = self.on_head = self._probe
        self.allow = ", ".join(methods)

    def on_post(self, req: falcon.Request, resp: falcon.Response, **params: str) -> None:
        """Take the request; Application answers with what is left here."""
        req.env[Application.ANSWER] = self._receive(req.env)

    def _probe(self, req: falcon.Request, resp: falcon.Response, **params: str) -> None:
        resp.data = b'{"status":"ok"}'

    def on_options(self, req: falcon.Request, resp: falcon.Response, **params: str) -> None:
        """Answer a browser's preflight (Fetch Standard), before any key is looked at; else name the methods."""
        fields = self._preflight(req.env)
        if fields is None:
            super().on_options(req, resp)
            return
        resp.status = falcon.HTTP_204
        resp.set_headers(fields)


class Health(Resource):
    """``GET /healthz``: the process answers."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return 200, always."""
        resp.data = b'{"status":"ok"}'

    on_head = on_get


class Ready(Resource):
    """``GET /readyz``: records can be stored now."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return 200, or the status and reason that a request for records would get. Not counted: it is none.

        Details, which may quote the store, are for operators.
        """
        operator = self._operator
        error = operator.readiness()
        if error is None:
            resp.data = ujson.dumps(self._body(req.env), escape_forward_slashes=False).encode()
            return
        if not self._sees_all(req.env):
            detail = f"{PROBLEMS[error.reason].title}; the log has the details"
            error = SinkError(error.reason, detail, error.retry_after)
        put(resp, problem(error, request_id=req.env[Application.REQUEST_ID]))

    on_head = on_get

    def _body(self, environ: WSGIEnvironment) -> dict[str, object]:
        operator = self._operator
        body: dict[str, object] = {"status": "ready"}
        if operator.drops_unread:
            body["unread"] = "drop"
        if self._sees_all(environ):
            if operator.keys_broken() is not None:
                body["keys"] = "stale"
            if refused := operator.refused():
                body["streams_refused"] = {stream: error.reason for stream, error in refused.items()}
        return body

    def _sees_all(self, environ: WSGIEnvironment) -> bool:
        try:
            self._operator.check(environ)
        except Denied:
            return False
        return True


class Metrics(Resource):
    """``GET /metrics``: Prometheus' text format, over all workers."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return the exposition."""
        self._operator.check(req.env)
        resp.content_type = metrics.CONTENT_TYPE
        resp.data = metrics.exposition()

    on_head = on_get


def put(resp: falcon.Response, response: Response) -> None:
    """Make ``resp`` this answer. Falcon sets the length itself."""
    resp.status, headers, resp.data = response
    for name, value in headers:
        if name != "content-length":
            resp.set_header(name, value)
