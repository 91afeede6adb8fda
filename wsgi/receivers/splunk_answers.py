"""The answers of Splunk's HTTP Event Collector (HEC): its codes, its words, its acknowledgments.

What lives here: which code a reason or a refused event has, the bodies of all answers, and ackIds. What must not: how
a request is read (``wsgi.receivers.splunk``, ``wsgi.receivers.splunk_events``).

Codes and texts are those of Splunk's manual, "Troubleshoot HTTP Event Collector"; 17 and 18 those of its health
endpoint. What is not a success has one more member for people, ``detail``; ``request_id`` too where nothing was stored.

Which status a refusal has follows from what clients do with it. Whatever can succeed later is 503 with Retry-After:
some (``splunk-handler``) do not retry 429. Whatever cannot is 400: the OpenTelemetry exporter retries 413, 415 and 422
until it gives up, and .NET's library everything but 400, 403 and 405.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from hashlib import blake2b
from itertools import count
from typing import Final

import ujson

from inlet.stream.errors import InletError
from wsgi.problems import PROBLEMS, STATUS_LINES, ClientError, Denied, SinkError, spread
from wsgi.receivers.parsed import NothingAccepted, Rejections
from wsgi.receivers.refusals import Response

SUCCESS, INVALID_AUTHORIZATION, INVALID_TOKEN, NO_DATA, INVALID_DATA, INCORRECT_INDEX = 0, 3, 4, 5, 6, 7
INTERNAL, BUSY, CHANNEL_MISSING, CHANNEL_INVALID, EVENT_MISSING, EVENT_BLANK = 8, 9, 10, 11, 12, 13
HEALTHY, UNHEALTHY = 17, 18

TEXTS: Final = {
    SUCCESS: "Success",
    INVALID_AUTHORIZATION: "Invalid authorization",
    INVALID_TOKEN: "Invalid token",
    NO_DATA: "No data",
    INVALID_DATA: "Invalid data format",
    INCORRECT_INDEX: "Incorrect index",
    INTERNAL: "Internal server error",
    BUSY: "Server is busy",
    CHANNEL_MISSING: "Data channel is missing",
    CHANNEL_INVALID: "Invalid data channel",
    EVENT_MISSING: "Event field is required",
    EVENT_BLANK: "Event field cannot be blank",
    HEALTHY: "HEC is healthy",
    UNHEALTHY: "HEC is unhealthy, queues are full",
}

MISSING, BLANK, FORBIDDEN = "the member event is missing", "the member event is blank", "forbidden"
CODES: Final = {MISSING: EVENT_MISSING, BLANK: EVENT_BLANK, FORBIDDEN: INCORRECT_INDEX}
"""Detail, or reason, of an event that was refused -> its code; that of any other is INVALID_DATA."""

CHECK_BITS: Final = 13
"""Bits of an ackId that tell whether it was given: 8,191 of 8,192 that were not are known by them."""
NUMBER_BITS: Final = 39
"""Bits that tell one ackId from another. With one more, set in all of them, they are 53: what JavaScript holds exactly.
Splunk counts its ackIds from 0 in each channel, so none of them is one of ours."""

_OK = b'{"text":"Success","code":0}'


class HecError(ClientError):
    """A request that HEC has a code for. ``code``: a key of TEXTS."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__("malformed-payload", detail)
        self.code = code


class AckIds:
    """Gives ackIds, and knows them again, without keeping any.

    The records of a request are stored before its answer is given: so whoever has an ackId has an acknowledgment. What
    an ackId must show is only that Inlet gave it, for this channel. It does so by a check sum, which every worker on
    every host can verify. An id from elsewhere, as one of a Splunk that was replaced while events were pending, is
    not acknowledged, and its client sends the events again. It is no signature: a client that forges one deceives
    nobody but itself.
    """

    def __init__(self) -> None:
        self._numbers: Iterator[int] | None = None

    def give(self, channel: str) -> int:
        """Return an ackId for a request of this channel, which others have with a chance of one in 2^39."""
        if self._numbers is None:
            # Of this process: made before the fork, it would be the same in all workers.
            self._numbers = count(secrets.randbits(NUMBER_BITS))
        number = next(self._numbers) % (1 << NUMBER_BITS) | 1 << NUMBER_BITS
        return number << CHECK_BITS | _check(channel, number)

    def knows(self, channel: str, ack_id: int) -> bool:
        """Return whether ``ack_id`` was given to this channel."""
        number = ack_id >> CHECK_BITS
        if number >> NUMBER_BITS != 1:
            return False
        return ack_id & ((1 << CHECK_BITS) - 1) == _check(channel, number)


def _check(channel: str, number: int) -> int:
    """The check sum of a number in a channel."""
    digest = blake2b(channel.encode("utf-8", "replace"), digest_size=4, key=b"inlet splunk", salt=number.to_bytes(16))
    return int.from_bytes(digest.digest()) % (1 << CHECK_BITS)


def stored(ack_id: int | None) -> Response:
    """Return the answer to a request of which every event is stored."""
    body = _OK if ack_id is None else b'{"text":"Success","code":0,"ackId":%d}' % ack_id
    return _json("200 OK", body)


def partly(rejections: Rejections) -> Response:
    """Return the answer to a request of which some events were refused. All others are stored."""
    code, number, detail = first_of(rejections)
    detail += f"; {len(rejections)} refused in all, the others are stored"
    return said(400, code, detail, {"invalid-event-number": number})


def found(body: bytes) -> Response:
    """Return the answer to a question for acknowledgments."""
    return _json("200 OK", body)


def unhealthy(error: SinkError) -> Response:
    """Return the answer of the health page where no records can be stored. Quotes nothing of the store."""
    line, headers, body = said(503, UNHEALTHY, PROBLEMS[error.reason].title)
    return line, [*headers, ("retry-after", str(spread(error.retry_after)))], body


def first_of(rejections: Rejections) -> tuple[int, int, str]:
    """Return code, number (from 0) and detail of the first event that was refused."""
    first = rejections.kept[0]
    code = CODES.get(first.detail) or CODES.get(first.reason, INVALID_DATA)
    return code, first.index, first.detail


def said(status: int, code: int, detail: str = "", more: dict[str, object] | None = None) -> Response:
    """Return an answer of this status and code; ``detail`` and ``more`` are further members."""
    members: dict[str, object] = {"text": TEXTS[code], "code": code, **(more or {})}
    if detail:
        members["detail"] = detail
    line = "200 OK" if status == 200 else STATUS_LINES[status]
    return _json(line, ujson.dumps(members, escape_forward_slashes=False).encode())


def refusal(error: InletError, request_id: str) -> Response:
    """Return the answer to a request of which nothing is stored, or nobody knows."""
    more: dict[str, object] = {"request_id": request_id}
    detail = error.detail
    if isinstance(error, HecError):
        status, code = 400, error.code
    elif isinstance(error, NothingAccepted) and error.rejections.kept:
        status = 400
        code, number, detail = first_of(error.rejections)
        more["invalid-event-number"] = number
    else:
        status, code = _status(error.reason)
    line, headers, body = said(status, code, detail, more)
    if isinstance(error, SinkError):
        headers.append(("retry-after", str(spread(error.retry_after))))
    elif isinstance(error, Denied):
        headers += error.headers
    elif status == 503:
        headers.append(("retry-after", str(spread(1))))
    return line, headers, body


def _status(reason: str) -> tuple[int, int]:
    """Status and code of a reason of PROBLEMS."""
    problem = PROBLEMS[reason]
    if problem.retryable or problem.status == 503:
        return 503, BUSY
    if problem.status == 401:
        return 401, INVALID_AUTHORIZATION
    if problem.status == 403:
        return 403, INVALID_TOKEN
    if problem.status >= 500:
        return 500, INTERNAL
    return 400, INVALID_DATA


def _json(status: str, body: bytes) -> Response:
    return status, [("content-type", "application/json"), ("content-length", str(len(body)))], body
