"""Routes: ``create_app``, which path leads to which resource, and the errors of Falcon's own.

What lives here: the composition of receivers, resources and errors into one WSGI application. What must not: reading
the environment (``app.py``), doing the work, the text of a problem beyond 404 and 405.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import falcon

from inlet.stream.errors import InletError
from wsgi.problems import Refused
from wsgi.receivers.admission import Admission
from wsgi.receivers.application import Application, nothing
from wsgi.receivers.interfaces import Append, Keep, Receiver
from wsgi.receivers.pipeline import Endpoint
from wsgi.receivers.refusals import NO_RECEIVER, count, known, problem
from wsgi.receivers.resources import Health, Metrics, Operator, Ready, Receive, Resource, put

Routes = falcon.App[falcon.Request, falcon.Response]
Pages = Mapping[str, Callable[[Operator], Resource]]
"""Path -> what makes its resource."""

INGEST = "/ingest"
"""Path of the native receiver."""
METHODS = "GET, HEAD, POST, OPTIONS"
"""Every method that some path takes: what ``OPTIONS *`` names."""


class _Methods:
    """Falcon middleware: what depends on the method alone, whatever the path."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer ``OPTIONS *`` (RFC 9110 section 9.3.7), and refuse methods that nobody defined (section 9.1)."""
        if req.method not in falcon.COMBINED_METHODS:
            raise Refused("not-implemented", f"no path takes this method; the methods are {METHODS}")
        # A server passes the target "*" as an empty path.
        if req.method == "OPTIONS" and not req.env["PATH_INFO"]:
            resp.set_header("allow", METHODS)
            resp.set_header("content-length", "0")
            resp.complete = True


def create_app(
    *,
    receivers: Mapping[str, Receiver],
    append: Append,
    admission: Admission,
    operator: Operator,
    pages: Pages = MappingProxyType({}),
    keep_rejected: Keep | None = None,
    start: Callable[[int], object] = nothing,
) -> Application:
    """Return the WSGI application (PEP 3333): ``receivers`` by path, over a sink's ``append``.

    Opens nothing. A path may begin with one field, as ``/{index}/_bulk``. ``pages``: what else clients of these
    receivers ask for. ``keep_rejected``: takes the records that were refused one by one. ``start``: what the
    application's ``start`` calls.
    """
    # One for each receiver, of however many paths.
    made = {receiver: Endpoint(receiver, append, admission, keep_rejected) for receiver in set(receivers.values())}
    endpoints = {path: made[receiver] for path, receiver in receivers.items()}
    return Application(create_routes(endpoints, operator, pages), endpoints, start)


def create_routes(endpoints: Mapping[str, Endpoint], operator: Operator, pages: Pages = MappingProxyType({})) -> Routes:
    """Return the Falcon application with every path."""
    app = falcon.App(media_type="application/json", middleware=[_Methods()])
    app.req_options.auto_parse_form_urlencoded = False
    paths = [*endpoints, "/healthz", "/readyz", "/metrics"]
    for path, endpoint in endpoints.items():
        app.add_route(path, Receive(endpoint))
    for path, page in pages.items():
        app.add_route(path, page(operator))
    app.add_route("/healthz", Health())
    app.add_route("/readyz", Ready(operator))
    app.add_route("/metrics", Metrics(operator))
    details = {
        "not-found": f"the paths are {', '.join(paths[:-1])} and {paths[-1]}",
        "method-not-allowed": "the header Allow names the methods of this path",
    }

    def serialize(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
        """Render Falcon's own errors: 404, 405 (with Allow), and a request that it does not understand."""
        reason = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "bad-request")
        detail = details.get(reason, error.description or error.title or "bad request")
        _refuse(req, resp, Refused(reason, detail))

    app.set_error_serializer(serialize)
    app.add_error_handler(Exception, _answer_error)
    return app


def _answer_error(req: falcon.Request, resp: falcon.Response, error: Exception, params: object) -> None:
    _refuse(req, resp, known(error, stored=False, request_id=req.env[Application.REQUEST_ID]))


def _refuse(req: falcon.Request, resp: falcon.Response, error: InletError) -> None:
    count(NO_RECEIVER, error.reason)
    put(resp, problem(error, request_id=req.env[Application.REQUEST_ID]))
