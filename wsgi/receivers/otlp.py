"""The OTLP/HTTP receiver of logs: ``POST /v1/logs`` (docs/receivers/otlp.md).

What lives here: which encoding a request has, what is read at once and what in slices. What must not: the encodings
(``wsgi.receivers.otlpproto``, ``wsgi.receivers.otlpjson``), what answers look like (``wsgi.receivers.otlpanswers``).

https://opentelemetry.io/docs/specs/otlp/, version 1.10.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from inlet.stream.errors import InletError
from wsgi.problems import ClientError
from wsgi.receivers import otlplean
from wsgi.receivers.foreign import ForeignReceiver, Lines
from wsgi.receivers.headerfields import bare_type
from wsgi.receivers.mounting import Bounds, Mount
from wsgi.receivers.otlpanswers import JSON, MEDIA_TYPES, PROTOBUF, is_json, refusal, success
from wsgi.receivers.otlpjson import OtlpJsonReader
from wsgi.receivers.otlpproto import OtlpProtoReader
from wsgi.receivers.parsed import Parsed
from wsgi.receivers.refusals import Response

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from wsgi.receivers.interfaces import Addresses

PATH = "/v1/logs"
READ_BYTES_MAX = 65_536
"""Bytes of a body that is read in one step: a millisecond where it is ordinary, ten where all of it is empty values."""
SHORT_BYTES_MAX = 131_072
"""Bytes of a body that is decoded in one step: a fifth of a millisecond where it is ordinary, 4 ms at worst."""
SHORT_RECORDS_MAX = 128
"""Log records of a body that is read in one step: a millisecond where they are ordinary."""
SMALL_BYTES_MAX, RECORD_BYTES_MAX = 16_384, 4_096
"""Bytes of such a body, or bytes a record on average, whichever is more; what is longer may take long."""


class Otlp(ForeignReceiver):
    """The receiver, with every bound taken at construction. Holds no state: safe between threads."""

    name = "otlp"
    partial = True

    def __init__(self, bounds: Bounds) -> None:
        super().__init__(bounds)
        self.bytes_max = bounds.payload.otlp_bytes_max
        self._is_json = {PROTOBUF: False, "application/protobuf": False, JSON: True}

    def read(self, environ: WSGIEnvironment, body: bytes) -> Parsed | None:
        """Read a short body in protobuf; return None for any other. ``context``: whether the answer is JSON.

        Raises ClientError (``unsupported-media-type``, ``malformed-payload``, ``payload-too-large``).
        """
        if self._json(environ) or len(body) > READ_BYTES_MAX:
            return None
        try:
            return self._short(otlplean.Request.FromString(body), len(body))
        except DecodeError:
            return None

    def _short(self, request: Any, size: int) -> Parsed | None:
        records = scopes = 0
        if len(request.resource_logs) > SHORT_RECORDS_MAX:
            return None
        for resource_logs in request.resource_logs:
            scopes += len(resource_logs.scope_logs)
            if scopes > SHORT_RECORDS_MAX:
                return None
            for scope_logs in resource_logs.scope_logs:
                records += len(scope_logs.log_records)
        if records > SHORT_RECORDS_MAX or size > max(SMALL_BYTES_MAX, RECORD_BYTES_MAX * records):
            return None
        lines = self._lines()
        self._proto(lines).short(request)
        return lines.parsed(False)

    def slices(self, environ: WSGIEnvironment, body: bytes) -> Generator[None, None, Parsed]:
        """Do as ``read`` does, for any body, yielding about once in a millisecond of work."""
        json, lines = self._json(environ), self._lines()
        if json:
            yield from OtlpJsonReader(lines, self._bounds).read(body)
            return lines.parsed(True)
        reader = self._proto(lines)
        if len(body) <= SHORT_BYTES_MAX:
            try:
                request = ExportLogsServiceRequest.FromString(body)
            except DecodeError:
                request = None
            if request is not None:
                yield from reader.decoded(request)
                return lines.parsed(False)
        yield from reader.walked(body)
        return lines.parsed(False)

    def _proto(self, lines: Lines) -> OtlpProtoReader:
        return OtlpProtoReader(lines, self._bounds.record, self._bounds.payload.bulk_records_max)

    def _json(self, environ: WSGIEnvironment) -> bool:
        """Whether a request is JSON; raise ClientError (``unsupported-media-type``) where it is protobuf neither."""
        content_type = environ.get("CONTENT_TYPE") or ""
        found = self._is_json.get(content_type)
        if found is None:
            found = self._is_json.get(bare_type(content_type))
            if found is None:
                raise ClientError("unsupported-media-type", f"Content-Type must be one of {MEDIA_TYPES}")
        return found

    def accepted(self, parsed: Parsed, level: int, addresses: Addresses | None) -> Response:
        """Return the 200; with a partial success where records were rejected."""
        return success(level, parsed.rejections, json=parsed.context)

    def refused(self, error: InletError, *, receipt: bool, request_id: str, content_type: str) -> Response:
        """Return a ``google.rpc.Status`` with the HTTP status that makes exporters do what helps."""
        return refusal(error, json=is_json(content_type))


def mount(bounds: Bounds) -> Mount:
    """Mount ``POST /v1/logs``."""
    return Mount({PATH: Otlp(bounds)})
