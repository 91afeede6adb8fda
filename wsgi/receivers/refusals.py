"""Refusals: from an error to a problem document with its header fields (RFC 9457), and the count of it.

What lives here: the one rendering that every path, every receiver and the server itself share. What must not: the table
of problems (``wsgi.problems``), when a request is refused.
"""

from __future__ import annotations

import logging

from inlet.stream.errors import InletError
from wsgi import metrics
from wsgi.problems import MEDIA_TYPE, PROBLEMS, STATUS_LINES, Denied, Headers, SinkError, document, spread
from wsgi.receivers.decompress import ACCEPTED

log = logging.getLogger("inlet")

Response = tuple[str, Headers, bytes]
"""Status line, header fields, body: what ``start_response`` and the iterable give to a server (PEP 3333)."""

NO_RECEIVER = "none"
"""Label of requests that no receiver saw."""
NOT_STORED = "a bug in this service; the log has it. No record of this request was stored"
MAY_BE_STORED = "a bug in this service; the log has it. The records of this request may be stored"


def problem(error: InletError, accept: str = "", *, request_id: str, **members: object) -> Response:
    """Return the problem document of ``error``, with ``members``; a 415 of a media type names those of ``accept``."""
    row = PROBLEMS[error.reason]
    body = document(error.reason, error.detail, **members, request_id=request_id)
    headers = [("content-type", MEDIA_TYPE), ("content-length", str(len(body))), *fields_of(error, accept)]
    return STATUS_LINES[row.status], headers, body


def fields_of(error: InletError, accept: str = "") -> Headers:
    """Return the header fields that a refusal has whatever form its body has: when to retry, and what to send."""
    if isinstance(error, SinkError):
        return [("retry-after", str(spread(error.retry_after)))]
    if isinstance(error, Denied):
        return error.headers
    # RFC 9110 section 15.5.16: what would have been taken.
    if error.reason == "unsupported-content-encoding":
        return [("accept-encoding", ACCEPTED)]
    if error.reason == "unsupported-media-type" and accept:
        return [("accept", accept)]
    return []


def count(receiver: str, reason: str) -> None:
    """Count a request that was refused for ``reason``."""
    metrics.REQUESTS.labels(receiver, str(PROBLEMS[reason].status), reason).inc()


def known(error: Exception, *, stored: bool, request_id: str) -> InletError:
    """Return ``error`` itself where it is one of ours, else log the bug and return the ``internal`` that stands for it.

    ``stored``: whether records may have been stored before; ``request_id``: for the log. The error refers to no frame
    afterwards: kept with an answer, it would be a reference cycle, and hold a whole bulk until the collector runs.
    """
    if not isinstance(error, InletError) or error.reason not in PROBLEMS:
        log.error("a bug in answering a request", exc_info=error, extra={"request_id": request_id})
        error.__traceback__ = error.__context__ = error.__cause__ = None
        error = InletError(MAY_BE_STORED if stored else NOT_STORED)
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error
