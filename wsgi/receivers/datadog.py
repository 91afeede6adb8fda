"""Datadog's intake of logs: ``POST /api/v2/logs`` and ``/v1/input``, and ``GET /api/v1/validate``.

What lives here: which member of a log is which part of a record, the statuses that the agent understands, and the
check of a key that it makes as it starts. What must not: the steps of a request (``wsgi.receivers.shaped``).

The agent drops a payload that is answered 400, 401, 403 or 413, and sends it again, for ever, after every other failure
(DataDog/datadog-agent, ``comp/logs-library/client/http/destination.go``). So what can never succeed is one of the four.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import falcon
import ujson

from inlet.stream.errors import InletError
from wsgi.problems import PROBLEMS, STATUS_LINES, Denied
from wsgi.receivers import documents
from wsgi.receivers.documents import Document
from wsgi.receivers.flatten import flatten
from wsgi.receivers.foreign import Lines
from wsgi.receivers.interfaces import Addresses
from wsgi.receivers.mapped import QUERY_CHARS_MAX, SERVICES, TIMES, take_message
from wsgi.receivers.members import take_moment, take_text
from wsgi.receivers.mounting import Bounds, Mount
from wsgi.receivers.parsed import Parsed
from wsgi.receivers.refusals import Response, fields_of
from wsgi.receivers.resources import Operator, Resource
from wsgi.receivers.shaped import Reading, Shaped, media_type, refuse_kind

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

PATHS = ("/api/v2/logs", "/v1/input")
VALIDATE = "/api/v1/validate"
DROPPED = frozenset({400, 401, 403, 413})
"""Statuses that make the agent drop a payload."""
REPEATED = frozenset({408, 429, 500, 503})
"""Statuses after which it is right to send the same again: overload, the store, and a bug, which may be fixed."""
QUERY = ("ddsource", "ddtags", "hostname", "service")
"""Parameters that say what a log does not (v1 and v2: "the attribute can be sent as a query parameter")."""
EMPTY = b"{}"


def mount(bounds: Bounds) -> Mount:
    """Mount both paths, and the check of a key."""
    receiver = Datadog(bounds)
    return Mount(dict.fromkeys(PATHS, receiver), {VALIDATE: _Validate})


class Datadog(Shaped):
    """The receiver of logs; 202 with ``{}``."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__("datadog", bounds, self._start, probed=True, partial=True)
        self._pairs_max = bounds.record.metadata_pairs_max

    def _start(self, environ: WSGIEnvironment, body: bytes) -> Reading:
        kind = media_type(environ)
        query = environ.get("QUERY_STRING", "")[:QUERY_CHARS_MAX]
        said = {name: value for name, value in parse_qsl(query) if name in QUERY} if query else {}

        def take(lines: Lines, value: Any) -> None:
            if type(value) is not dict:
                refuse_kind(lines, value)
                return
            if not value:
                return  # the agent's probe
            for name, member in said.items():
                value.setdefault(name, member)
            timestamp = take_moment(value, TIMES)
            message = take_message(value)
            service = take_text(value, SERVICES)
            metadata: dict[str, str] = {}
            flatten(value, "", metadata, pairs_max=self._pairs_max)
            lines.take("", timestamp, service, message, metadata)

        plain = kind == "text/plain" and body[:64].lstrip()[:1] not in (b"{", b"[")
        return Reading(_texts(body) if plain else documents.read(body), take)

    def accepted(self, parsed: Parsed, level: int, addresses: Addresses | None) -> Response:
        """Return 202 with ``{}``; 400 where every log was refused."""
        if parsed.rejections and not parsed.lines:
            return _answer(400, parsed.rejections.kept[0].detail if parsed.rejections.kept else "")
        return "202 Accepted", [("content-type", "application/json"), ("content-length", str(len(EMPTY)))], EMPTY

    def refused(self, error: InletError, *, receipt: bool, request_id: str, content_type: str) -> Response:
        """Return the error in Datadog's form; its status tells the agent whether to drop the payload."""
        row = PROBLEMS[error.reason]
        status = row.status if row.status in DROPPED or row.status in REPEATED else 400
        line, headers, body = _answer(status, error.detail)
        return line, headers + fields_of(error), body


class _Validate(Resource):
    """``GET /api/v1/validate``: whether a key is good."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return 200, or 403 as Datadog does."""
        resp.content_type = "application/json"
        try:
            if self._operator.grant is not None:
                self._operator.grant(req.env)
        except Denied:
            resp.status, resp.data = falcon.HTTP_403, b'{"errors":["Forbidden"]}'
            return
        resp.data = b'{"valid":true}'

    on_head = on_get


def _texts(body: bytes) -> Iterator[Document | None]:
    """Every line of a text as a log."""
    for line in documents.text_lines(body):
        if line is None:
            yield None
        else:
            yield Document({"message": line.removesuffix(b"\r").decode("utf-8", "replace")})


def _answer(status: int, detail: str) -> Response:
    line = STATUS_LINES[status]
    if status == 403:
        answer: dict[str, object] = {"errors": ["Forbidden"]}
    else:
        answer = {"errors": [{"status": str(status), "title": line[4:], "detail": detail}]}
    body = ujson.dumps(answer, escape_forward_slashes=False).encode()
    return line, [("content-type", "application/json"), ("content-length", str(len(body)))], body
