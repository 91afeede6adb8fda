"""Falcon resources: one HTTP request in, one answer decided. The sink and the parser are injected.

What lives here: reading a body to its end, and the shape of each successful answer. What must not: how an error looks
(``routes``), what a payload may hold (``payload``), how records are stored (``sink``).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import falcon
import ujson

from wsgi import metrics
from wsgi.commit import COMMIT
from wsgi.durability import LEVELS, NAMES, RECEIVED
from wsgi.errors import DurabilityUnknown, LengthRequired, MalformedPayload, PayloadTooLarge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi.payload import Parsed, Parser, Rejection

QUEUED = b'{"status":"queued"}'
"""The whole answer to one accepted record."""
ERRORS_SHOWN_MAX = 1_000
"""Rejections that one answer lists; ``rejected`` counts them all."""
LENGTH_DIGITS_MAX = 18
"""A Content-Length of more digits is over every bound; int() of a longer one costs time."""


class Ticket(Protocol):
    """A request's place in the sink's batch."""

    level: int
    """What its 202 will promise (``wsgi.durability``)."""

    def commit(self) -> None:
        """Return once the records are as safe as that; raise SinkError where they may not be."""

    def addresses(self) -> list[tuple[str, int]]:
        """(entry ID, line) of each record; the ID is empty at the level ``received``."""


class Sink(Protocol):
    """What the resources need of a sink."""

    def append(self, lines: list[bytes], level: int) -> Ticket:
        """Add a request's lines to the open batch; raise SinkError where that is refused."""

    def check(self) -> None:
        """Raise SinkError unless records can be stored now."""


class Ingest:
    """``POST /ingest``: records in, 202 once they are stored."""

    def __init__(self, sink: Sink, parser: Parser, payload_bytes_max: int) -> None:
        self._append = sink.append
        self._parse = parser.parse
        self._bytes_max = payload_bytes_max

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Parse, append, and leave the commit for the response's first iteration (``wsgi.commit``)."""
        env = req.env
        body = read_body(env, self._bytes_max)
        parsed = self._parse(body, env.get("CONTENT_TYPE"), env.get("HTTP_CONTENT_ENCODING"))
        asked = env.get("HTTP_INLET_DURABILITY")
        ticket = self._append(parsed.lines, RECEIVED if asked is None else durability(asked))
        resp.status = falcon.HTTP_202
        resp.set_header("inlet-durability", NAMES[ticket.level])
        if parsed.unknown:
            metrics.UNKNOWN_MEMBERS.inc(parsed.unknown)
        if parsed.rejections:
            count_rejections(parsed.rejections)
        if wants_receipt(env):
            resp.data = b""
            env[COMMIT] = partial(_commit_with_receipt, ticket, parsed)
            return
        resp.data = _bulk_body(parsed) if parsed.bulk else QUEUED
        env[COMMIT] = ticket.commit


class Health:
    """``GET /healthz``: the process answers."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Always 200."""
        resp.data = b'{"status":"ok"}'

    on_head = on_get


class Ready:
    """``GET /readyz``: records can be stored now."""

    def __init__(self, sink: Sink, *, drops_unread: bool) -> None:
        self._check = sink.check
        self._body = b'{"status":"ready","unread":"drop"}' if drops_unread else b'{"status":"ready"}'

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """200, or the SinkError's 503 that names what is wrong."""
        self._check()
        resp.data = self._body

    on_head = on_get


class Metrics:
    """``GET /metrics``: Prometheus' text format, over all workers."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The exposition."""
        resp.content_type = metrics.CONTENT_TYPE
        resp.data = metrics.exposition()

    on_head = on_get


def read_body(env: dict[str, Any], bytes_max: int) -> bytes:
    """Read the whole body, and no byte beyond it.

    Raises LengthRequired without Content-Length or chunked coding, PayloadTooLarge over ``bytes_max`` (before reading
    where the length is given), MalformedPayload where the body is cut short or its framing is broken.
    """
    length = env.get("CONTENT_LENGTH")
    read = env["wsgi.input"].read
    try:
        if length:
            if not (length.isascii() and length.isdigit()):
                raise MalformedPayload("Content-Length is not a number")
            if len(length) > LENGTH_DIGITS_MAX or (expected := int(length)) > bytes_max:
                raise PayloadTooLarge(f"the body is over {bytes_max} bytes")
            body: bytes = read(expected)
            if len(body) != expected:
                raise MalformedPayload(f"the body ended after {len(body)} of {length} bytes")
            return body
        # wsgi.input_terminated: the server ends the stream where the body ends (chunked coding, RFC 9112 section 7.1).
        if not (env.get("HTTP_TRANSFER_ENCODING") and env.get("wsgi.input_terminated")):
            raise LengthRequired("send Content-Length, or Transfer-Encoding: chunked")
        body = read(bytes_max + 1)
        while len(body) <= bytes_max and (more := read(bytes_max + 1 - len(body))):
            body += more
    except (OSError, EOFError, ValueError) as error:
        raise MalformedPayload(f"the body cannot be read: {type(error).__name__}") from None
    if len(body) > bytes_max:
        raise PayloadTooLarge(f"the body is over {bytes_max} bytes")
    return body


def wants_receipt(env: dict[str, Any]) -> bool:
    """``?receipt=1``, or ``Prefer: return=representation`` (RFC 7240 section 4.2)."""
    query, prefer = env.get("QUERY_STRING"), env.get("HTTP_PREFER")
    if query and "1" in falcon.uri.parse_query_string(query).get("receipt", ()):
        return True
    return prefer is not None and any(
        part.split(";")[0].strip() == "return=representation" for part in prefer.split(",")
    )


def durability(asked: str) -> int:
    """The level that a request's ``Inlet-Durability`` asks for; raise DurabilityUnknown."""
    level = LEVELS.get(asked.strip().lower())
    if level is None:
        raise DurabilityUnknown(f"Inlet-Durability must be one of {', '.join(NAMES)}")
    return level


def count_rejections(rejections: Sequence[Rejection]) -> None:
    """Count rejected records by reason."""
    counts: dict[str, int] = {}
    for rejection in rejections:
        counts[rejection.reason] = counts.get(rejection.reason, 0) + 1
    for reason, count in counts.items():
        metrics.RECORDS_REJECTED.labels(reason).inc(count)


def shown(rejections: Sequence[Rejection]) -> list[dict[str, object]]:
    """The ``errors`` member: the first rejections, in the order of the bulk."""
    return [
        {"index": r.index, "event_id": r.event_id, "reason": r.reason, "detail": r.detail}
        for r in sorted(rejections)[:ERRORS_SHOWN_MAX]
    ]


def _bulk_body(parsed: Parsed, **members: object) -> bytes:
    answer = {
        "status": "queued",
        "accepted": len(parsed.lines),
        "rejected": len(parsed.rejections),
        "errors": shown(parsed.rejections),
        **members,
    }
    return ujson.dumps(answer, ensure_ascii=False, escape_forward_slashes=False).encode()


def _commit_with_receipt(ticket: Ticket, parsed: Parsed) -> bytes:
    """Commit; then the answer that names each accepted record's address."""
    ticket.commit()
    rejected = {rejection.index for rejection in parsed.rejections}
    accepted = (index for index in range(len(parsed.lines) + len(rejected)) if index not in rejected)
    records = [
        {"index": index, "entry_id": entry_id or None, "line": line}
        for index, (entry_id, line) in zip(accepted, ticket.addresses(), strict=True)
    ]
    # Each rejection is the producer's to mend: the same record sent again is refused again.
    errors = [{**error, "retryable": False} for error in shown(parsed.rejections)]
    return _bulk_body(parsed, errors=errors, records=records)
