"""Answers of OTLP/HTTP, each in the type of its request: success, partial success, ``google.rpc.Status``.

What lives here: their encoding, and which status and code a reason has. What must not: when a request is refused.

https://opentelemetry.io/docs/specs/otlp/#otlphttp-response. Exporters retry 429, 502, 503 and 504 and drop the records
at any other error; those of Python before 1.40 drop them at 429 too. So whatever a retry can help is a 503 here.
"""

from __future__ import annotations

from typing import Final

import ujson

from inlet.stream.errors import InletError
from wsgi.problems import PROBLEMS, STATUS_LINES, Headers, spread
from wsgi.receivers.headerfields import bare_type
from wsgi.receivers.parsed import Rejections
from wsgi.receivers.protowire import field, varint
from wsgi.receivers.refusals import Response, fields_of
from wsgi.sink.durability import NAMES

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
MEDIA_TYPES: Final = f"{PROTOBUF}, {JSON}"
RETRY: Final = frozenset({"durability-unavailable", *(reason for reason, row in PROBLEMS.items() if row.retryable)})
"""Reasons that end without the client's help. A level that the store cannot provide is the operator's to fix."""
WORDS_MAX = 3
"""Details of rejected records that an answer names."""

# google/rpc/code.proto
INVALID_ARGUMENT, INTERNAL, UNAVAILABLE = 3, 13, 14
CODES: Final = {401: 16, 403: 7, 404: 5, 405: 12, 500: INTERNAL, 501: 12, 503: UNAVAILABLE}
"""HTTP status -> google.rpc.Code; any other is INVALID_ARGUMENT."""
MESSAGE_FIELD = 0x12
PARTIAL_FIELD, REJECTED_FIELD = 0x0A, 0x08
"""Tags of Status.message, ExportLogsServiceResponse.partial_success, and of its rejected_log_records."""


def is_json(content_type: str) -> bool:
    """Return whether an answer to a request of this type is JSON: if it is JSON itself, or nobody knows."""
    return not bare_type(content_type).endswith("protobuf")


def success(level: int, rejections: Rejections | None, *, json: bool) -> Response:
    """Return the 200, with a partial success where records were rejected. ``level``: what the 200 promises."""
    if not rejections:
        body = b"{}" if json else b""
    else:
        said = "; ".join(dict.fromkeys(f"{row.reason}: {row.detail}" for row in rejections.kept[:WORDS_MAX]))
        message = f"{len(rejections)} log records were rejected, the first of them for: {said}"
        if json:
            partial = {"rejectedLogRecords": str(len(rejections)), "errorMessage": message}
            body = ujson.dumps({"partialSuccess": partial}, escape_forward_slashes=False).encode()
        else:
            rejected = varint(REJECTED_FIELD) + varint(len(rejections))
            body = field(PARTIAL_FIELD, rejected + field(MESSAGE_FIELD, message.encode()))
    media_type = JSON if json else PROTOBUF
    headers = [("content-type", media_type), ("inlet-durability", NAMES[level]), ("content-length", str(len(body)))]
    return "200 OK", headers, body


def refusal(error: InletError, *, json: bool) -> Response:
    """Return the answer where nothing was stored, or nobody knows: a ``google.rpc.Status``."""
    row = PROBLEMS[error.reason]
    retry = error.reason in RETRY
    # An invalid record, or a bulk without a valid one, is a 422 elsewhere.
    status = 503 if retry else 400 if row.status == 422 else row.status
    code, message = CODES.get(status, INVALID_ARGUMENT), f"{error.reason}: {error.detail}"
    if json:
        body = ujson.dumps({"code": code, "message": message}, escape_forward_slashes=False).encode()
    else:
        body = b"\x08" + varint(code) + field(MESSAGE_FIELD, message.encode(errors="replace"))
    headers: Headers = [("content-type", JSON if json else PROTOBUF), ("content-length", str(len(body)))]
    headers += fields_of(error, MEDIA_TYPES)
    if retry and not any(name.lower() == "retry-after" for name, _ in headers):
        headers.append(("retry-after", str(spread(1))))
    return STATUS_LINES[status], headers, body
