"""The one table of problems: reason -> status, title, retryable; and the problem document (RFC 9457).

What lives here: every reason that an answer can carry, the exceptions that carry one, and their rendering. What must
not: when a request is refused, metrics, Falcon, Redis.

An exception carries a reason and a detail and nothing else: the status, the title and ``retryable`` are looked up here,
at the moment of the answer. The server (``wsgi.server``) knows HTTP statuses only; ``SERVER_REASONS`` maps them back.
"""

from __future__ import annotations

import random
from http import HTTPStatus
from typing import Final, NamedTuple

import ujson

from inlet.stream.errors import InletError

MEDIA_TYPE: Final = "application/problem+json"
TYPE_BASE: Final = "urn:inlet:problem:"
"""RFC 9457 section 3.1.1 allows any URI; a URN (RFC 8141) claims no host."""

RETRY_JITTER_SECONDS: Final = 2
"""Retry-After is what the error says and a random number of seconds up to this: clients must not return all at once."""

Headers = list[tuple[str, str]]


class Problem(NamedTuple):
    """One row: the HTTP status (RFC 9110 section 15), the title, and whether sending the request again can help."""

    status: int
    title: str
    retryable: bool


PROBLEMS: Final[dict[str, Problem]] = {
    "bad-request": Problem(400, "The request is not one that this service understands", False),
    "malformed-payload": Problem(400, "The body cannot be read as records", False),
    "unknown-durability": Problem(400, "Inlet-Durability names no level", False),
    "unauthorized": Problem(401, "The request has no valid key", False),
    "forbidden": Problem(403, "The key does not have this right", False),
    "origin-not-allowed": Problem(403, "Pages of this origin may not send records", False),
    "not-found": Problem(404, "There is nothing at this path", False),
    "method-not-allowed": Problem(405, "This path does not take this method", False),
    "request-timeout": Problem(408, "The request did not arrive in time", True),
    "length-required": Problem(411, "The length of the body is not known", False),
    "payload-too-large": Problem(413, "The body is too large", False),
    "uri-too-long": Problem(414, "The request line is too long", False),
    "unsupported-media-type": Problem(415, "The Content-Type is not supported", False),
    "unsupported-content-encoding": Problem(415, "The Content-Encoding is not supported", False),
    "expectation-failed": Problem(417, "The expectation cannot be met", False),
    "invalid-record": Problem(422, "The record breaks the contract", False),
    "record-too-large": Problem(422, "The record is too large", False),
    "nothing-accepted": Problem(422, "No record of the bulk is valid", False),
    "backlog-full": Problem(429, "Consumers are too far behind", True),
    "quota-exceeded": Problem(429, "The key is over its quota", True),
    "headers-too-large": Problem(431, "The header fields are too large, or too many", False),
    "internal": Problem(500, "A bug in this service", False),
    "not-implemented": Problem(501, "The method or transfer coding is not implemented", False),
    "sink-unavailable": Problem(503, "The records cannot be stored now", True),
    "sink-outcome-unknown": Problem(503, "The records may or may not be stored", True),
    "sink-misconfigured": Problem(503, "The store refuses records until its operator acts", True),
    "durability-timeout": Problem(503, "The records are stored, but not yet as safely as asked", True),
    "durability-unavailable": Problem(503, "The store cannot provide the durability level", False),
    "store-full": Problem(503, "The store's memory or disk is nearly used up", True),
    "overloaded": Problem(503, "The service holds as many unfinished requests as it may", True),
    "version-not-supported": Problem(505, "The version of HTTP is not supported", False),
}
"""docs/protocol.md prints this table; a test compares the two."""

SERVER_REASONS: Final = {
    400: "bad-request", 408: "request-timeout", 413: "payload-too-large", 414: "uri-too-long",
    417: "expectation-failed", 431: "headers-too-large", 500: "internal", 501: "not-implemented", 503: "overloaded",
    505: "version-not-supported",
}  # fmt: skip
"""Status of a refusal by the server itself -> its reason."""

STATUS_LINES: Final = {
    problem.status: f"{problem.status} {HTTPStatus(problem.status).phrase}" for problem in PROBLEMS.values()
}


class Refused(InletError):
    """A request was refused. ``reason``: a key of PROBLEMS; ``detail``: one plain sentence for a person."""

    reason: str  # type: ignore[misc]  # of each instance here, of the class in the other branches of the tree

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class ClientError(Refused):
    """The request is wrong; the producer must change it."""


class Denied(ClientError):
    """Access was denied: by origin, key, right or quota. ``headers``: fields that the answer carries besides."""

    def __init__(self, reason: str, detail: str, headers: Headers | None = None) -> None:
        super().__init__(reason, detail)
        self.headers = headers or []


class SinkError(Refused):
    """The records were not, or may not be, stored as asked. ``retry_after``: seconds before a retry can help."""

    def __init__(self, reason: str, detail: str, retry_after: int = 1) -> None:
        super().__init__(reason, detail)
        self.retry_after = retry_after


def spread(seconds: int) -> int:
    """Return what Retry-After says (RFC 9110 section 10.2.3, seconds) where a retry can help after ``seconds``."""
    return seconds + random.randint(0, RETRY_JITTER_SECONDS)  # nosec B311  # spreads retries


def document(reason: str, detail: str, **members: object) -> bytes:
    """Return the problem document (RFC 9457 section 3) of ``reason``, with ``members`` after the standard ones."""
    problem = PROBLEMS[reason]
    value = {
        "type": TYPE_BASE + reason,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "reason": reason,
        "retryable": problem.retryable,
        **members,
    }
    return ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False).encode()
