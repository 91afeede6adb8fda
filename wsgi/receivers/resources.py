"""Falcon resources: one for every path. Receivers' paths leave an Answer; the others answer at once.

What lives here: methods of each path, health, readiness, metrics. What must not: how an error looks
(``wsgi.receivers.refusals``), talking to the store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import falcon

from wsgi import metrics
from wsgi.problems import SinkError
from wsgi.receivers.pipeline import Application, Endpoint
from wsgi.receivers.refusals import Response, problem

Readiness = Callable[[], SinkError | None]
"""Why records cannot be stored now, or None: the watcher's last look. Never blocks, never talks to the store."""


class Resource:
    """What all resources share."""

    allow: ClassVar[str] = "GET, HEAD, OPTIONS"

    def on_options(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Name the methods of the path (RFC 9110 section 9.3.7)."""
        resp.set_header("allow", self.allow)
        resp.set_header("content-length", "0")


class Receive(Resource):
    """A receiver's path."""

    allow = "POST, OPTIONS"

    def __init__(self, endpoint: Endpoint) -> None:
        self._receive = endpoint.receive

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Take the request; Application answers with what is left here."""
        req.env[Application.ANSWER] = self._receive(req.env)


class Health(Resource):
    """``GET /healthz``: the process answers."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return 200, always."""
        resp.data = b'{"status":"ok"}'

    on_head = on_get


class Ready(Resource):
    """``GET /readyz``: records can be stored now."""

    def __init__(self, readiness: Readiness, *, drops_unread: bool) -> None:
        self._readiness = readiness
        self._body = b'{"status":"ready","unread":"drop"}' if drops_unread else b'{"status":"ready"}'

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return 200, or the status and reason that a request for records would get. Not counted: it is none."""
        error = self._readiness()
        if error is None:
            resp.data = self._body
        else:
            put(resp, problem(error))

    on_head = on_get


class Metrics(Resource):
    """``GET /metrics``: Prometheus' text format, over all workers."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return the exposition."""
        resp.content_type = metrics.CONTENT_TYPE
        resp.data = metrics.exposition()

    on_head = on_get


def put(resp: falcon.Response, response: Response) -> None:
    """Make ``resp`` this answer. Falcon sets the length itself."""
    resp.status, headers, resp.data = response
    for name, value in headers:
        if name != "content-length":
            resp.set_header(name, value)
