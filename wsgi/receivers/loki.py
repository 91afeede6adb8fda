"""The Loki receiver: ``POST /loki/api/v1/push`` and the older ``/api/prom/push``, and ``GET /ready``.

What lives here: which form a body has, its answers, and readiness in Loki's words. What must not: how a form is read
(``loki_push``, ``loki_json``). docs/receivers/loki.md is the contract.

Decisions:
- The answer is 204, without a body. Vector takes no other for a success.
- Whatever sending again cannot help is 400, also a body that is too large: Fluent Bit retries every other status.
  Promtail, Alloy, the Docker driver and Vector drop it as they do any 4xx but 429. A missing or refused key stays 401
  or 403: Fluent Bit retries within its Retry_Limit, and the key may be fixed in that time.
- A request of which some entries were refused is 400 with the others stored, as Loki does it: a retry would
  store them twice.
- A request without any entry is 204: there is nothing that could be lost.
- JSON by its Content-Type; without one, by its first byte: a PushRequest of that length cannot begin with a brace.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import falcon

from inlet.stream.errors import InletError
from wsgi.problems import PROBLEMS, STATUS_LINES, Headers
from wsgi.receivers import loki_snappy
from wsgi.receivers.foreign import ForeignReceiver
from wsgi.receivers.headerfields import utf8
from wsgi.receivers.loki_json import JsonReader
from wsgi.receivers.loki_labels import Sharing
from wsgi.receivers.loki_push import PushReader
from wsgi.receivers.mounting import Bounds, Mount
from wsgi.receivers.parsed import Parsed
from wsgi.receivers.refusals import Response, fields_of
from wsgi.receivers.resources import Operator, Resource

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from wsgi.receivers.interfaces import Addresses

PUSH, OLD_PUSH, READY = "/loki/api/v1/push", "/api/prom/push", "/ready"
SHORT_BYTES_MAX = 131_072
"""Bytes of a body, encoded and decoded, that is read in one step."""
FINAL = {401, 403, 429, 500, 503}
"""Statuses of refusals that stay as they are; all others become 400."""
REFUSED = STATUS_LINES[400]


class Loki(ForeignReceiver):
    """The Loki receiver. Holds no state: safe between threads."""

    name = "loki"
    partial = True
    codings = frozenset(("snappy",))
    """Vector names what every protobuf body has anyway."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__(bounds)
        sharing, records_max = Sharing(bounds.record), bounds.payload.bulk_records_max
        self._push = PushReader(sharing, bounds.record, records_max)
        self._json = JsonReader(sharing, bounds.record, records_max)

    def read(self, environ: WSGIEnvironment, body: bytes) -> Parsed | None:
        """Turn a short body into lines; return None if it is long.

        Raises ClientError (``malformed-payload``, ``payload-too-large``, ``unsupported-media-type``).
        """
        if len(body) > SHORT_BYTES_MAX:
            return None
        lines, tenant = self._lines(), _tenant(environ)
        if _is_json(environ, body):
            return lines.parsed() if self._json.read(body, lines, tenant) else None
        if loki_snappy.decoded_bytes(body, self.bytes_max) > SHORT_BYTES_MAX:
            return None
        raw = loki_snappy.decode(body, self.bytes_max)
        return lines.parsed() if self._push.read(raw, lines, tenant) else None

    def slices(self, environ: WSGIEnvironment, body: bytes) -> Generator[None, None, Parsed]:
        """Do the same for any body, yielding about once in a millisecond of work."""
        lines, tenant = self._lines(), _tenant(environ)
        if _is_json(environ, body):
            yield from self._json.slices(body, lines, tenant)
        else:
            raw = yield from loki_snappy.decode_slices(body, self.bytes_max)
            yield
            yield from self._push.slices(raw, lines, tenant)
        return lines.parsed()

    def accepted(self, parsed: Parsed, level: int, addresses: Addresses | None) -> Response:
        """Return the 204; a 400 where entries were refused, with the others stored."""
        rejections = parsed.rejections
        if rejections is None:
            return "204 No Content", [], b""
        stored, first = len(parsed.lines), rejections.kept[0]
        total = stored + len(rejections)
        return _plain(REFUSED, f"{len(rejections)} of {total} entries were refused, {stored} stored: {first.detail}")

    def refused(self, error: InletError, *, receipt: bool, request_id: str, content_type: str) -> Response:
        """Return the refusal as plain text, as Go's ``http.Error`` writes it."""
        status = PROBLEMS[error.reason].status
        return _plain(STATUS_LINES[status] if status in FINAL else REFUSED, error.detail, fields_of(error))


class LokiReady(Resource):
    """``GET /ready``: 200 where records can be stored now, else 503. Vector asks before it sends."""

    def __init__(self, operator: Operator) -> None:
        self._readiness = operator.readiness

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return ``ready``, or why not in general words: the details are for operators."""
        error = self._readiness()
        resp.content_type = falcon.MEDIA_TEXT
        if error is None:
            resp.data = b"ready\n"
            return
        row = PROBLEMS[error.reason]
        resp.status = STATUS_LINES[row.status]
        resp.data = f"{row.title}\n".encode()
        resp.set_header("retry-after", str(error.retry_after))

    on_head = on_get


def mount(bounds: Bounds) -> Mount:
    """Mount both paths of the push, and readiness."""
    receiver = Loki(bounds)
    return Mount({PUSH: receiver, OLD_PUSH: receiver}, {READY: LokiReady})


def _is_json(environ: WSGIEnvironment, body: bytes) -> bool:
    """Whether a body is JSON; snappy otherwise, whatever its Content-Type says or lacks, as for Loki."""
    content_type = environ.get("CONTENT_TYPE") or ""
    if content_type == "application/x-protobuf":
        return False
    if "json" in content_type.lower():
        return True
    return body.lstrip(b" \t\r\n\xef\xbb\xbf")[:1] == b"{" and b'"streams"' in body[:1_024]


def _tenant(environ: WSGIEnvironment) -> str:
    """The tenant that the client names, empty if it names none."""
    return utf8(environ.get("HTTP_X_SCOPE_ORGID") or "")


def _plain(status: str, text: str, headers: Headers | None = None) -> Response:
    body = f"{text}\n".encode()
    own = [
        ("content-type", "text/plain; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
        ("content-length", str(len(body))),
    ]
    return status, [*own, *(headers or ())], body
