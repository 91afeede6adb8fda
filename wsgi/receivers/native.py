"""The native receiver: ``POST /ingest``, the strict contract of docs/protocol.md.

What lives here: its media types, its three formats (an object, an array, NDJSON), and its answers. What must not: what
makes a record valid (``inlet.stream.record``), reading and decoding a body, when an answer is given (the pipeline).

Decisions:
- An empty or blank body is malformed. An empty array is JSON, but nothing to store.
- A leading UTF-8 byte order mark is ignored, as RFC 8259 section 8.1 permits. Of duplicate members the last wins.
- In a bulk, ``index`` counts the elements of the array, or the lines that are not blank, from 0.
- An array that does not parse as a whole is malformed; a bad NDJSON line is one rejection.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import TYPE_CHECKING, Any

import ujson

from inlet.stream.errors import InletError, RecordInvalid
from inlet.stream.limits import RecordLimits
from inlet.stream.record import LOADS_ERRORS, encoder, unknown_members
from wsgi.problems import ClientError
from wsgi.receivers import jsontext
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.mediatype import ACCEPTED, NDJSON, is_ndjson
from wsgi.receivers.pipeline import Addresses, NothingAccepted, Parsed, Rejection
from wsgi.receivers.refusals import Response, problem
from wsgi.sink.durability import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from wsgiref.types import WSGIEnvironment

EVENT_ID_ECHO_CHARS_MAX = 256
"""Characters of a rejected record's event_id that its rejection names."""
ERRORS_SHOWN_MAX = 1_000
"""Rejections that one answer lists; ``rejected`` counts them all."""
MALFORMED_RECORD = "malformed-record"
"""Reason of a line of NDJSON that is not JSON."""
QUEUED = b'{"status":"queued"}'
"""The whole answer to one accepted record."""

_BLANK_LINES = re.compile(rb"\n[ \t\r\n]+")
_NOT_A_RECORD = (
    "a line of NDJSON is one record, a JSON object, not an array; send an array with Content-Type: application/json"
)
_loads = ujson.loads
_parsed = tuple.__new__  # PERF: a NamedTuple's own constructor is in Python


class Native:
    """The native receiver, with every bound taken at construction. Holds no state: safe between threads."""

    name = "native"

    def __init__(self, payload_limits: PayloadLimits, record_limits: RecordLimits) -> None:
        self._records_max = payload_limits.bulk_records_max
        self._depth_max = payload_limits.nesting_depth_max
        self._encode = encoder(record_limits)
        # The spellings that nearly every client uses need no parsing.
        self._is_ndjson: dict[str | None, bool] = {None: False, "": False, "application/json": False}
        for name in ("application/json; charset=utf-8", "application/json;charset=utf-8", *sorted(NDJSON)):
            self._is_ndjson[name] = is_ndjson(name)
        self._queued = [  # by level
            [("content-type", "application/json"), ("inlet-durability", name), ("content-length", str(len(QUEUED)))]
            for name in NAMES
        ]

    def read(self, environ: WSGIEnvironment, body: bytes) -> Parsed:
        """Turn a body into lines and rejections; ``context`` is whether it is a bulk.

        Raises ClientError (``unsupported-media-type``, ``payload-too-large``, ``malformed-payload``), RecordInvalid and
        RecordTooLarge for a single record, NothingAccepted for a bulk without a valid one.
        """
        content_type = environ.get("CONTENT_TYPE")
        ndjson = self._is_ndjson.get(content_type)
        if ndjson is None:
            ndjson = is_ndjson(content_type or "")
        if ndjson:
            return self._read_lines(body)
        try:
            # The one breach of UTF-8 that ujson lets in is an encoded surrogate; its first byte is always ED.
            value = _loads(body) if body.isascii() or b"\xed" not in body else jsontext.load(body, self._depth_max)
        except LOADS_ERRORS:
            value = jsontext.load(body, self._depth_max)
        if type(value) is list:
            return self._read_array(value, body)
        try:
            line = self._encode(value)
        except RecordInvalid:
            jsontext.check(body, self._depth_max)
            raise
        if len(value) == 5 and "metadata" in value:
            # These five hold neither numbers nor deep nesting.
            return _parsed(Parsed, ([line], (), 0, False))
        jsontext.check(body, self._depth_max)
        return Parsed([line], (), unknown_members(value), False)

    def _read_array(self, values: list[Any], body: bytes) -> Parsed:
        """Encode each element; a bad one is rejected alone."""
        if len(values) > self._records_max:
            raise _too_many(self._records_max)
        lines: list[bytes] = []
        rejections: list[Rejection] = []
        unknown, encode, checked = 0, self._encode, False
        for index, value in enumerate(values):
            try:
                line = encode(value)
                if len(value) == 5 and "metadata" in value:
                    lines.append(line)
                    continue
                unknown += unknown_members(value)
                lines.append(line)
            except RecordInvalid as error:
                rejections.append(Rejection(index, _echo(value), error.reason, error.detail))
            if not checked:
                # Whatever is not the five members may hold what is not JSON: the whole text, once.
                jsontext.check(body, self._depth_max)
                checked = True
        return _bulk(lines, rejections, unknown)

    def _read_lines(self, body: bytes) -> Parsed:
        """Decode and encode each line that is not blank; a bad one is rejected alone."""
        body = body.removeprefix(jsontext.BOM)
        if body.count(b"\n") > self._records_max:
            # Too many records, or mostly blank lines: those must not cost a turn of the loop below each.
            body = _BLANK_LINES.sub(b"\n", body)
        if not body or body.isspace():
            raise ClientError("malformed-payload", "the body is empty")
        jsontext.refuse_encoding(body)
        lines: list[bytes] = []
        rejections: list[Rejection] = []
        index = unknown = 0
        load, encode, depth_max, records_max = jsontext.load, self._encode, self._depth_max, self._records_max
        for text in BytesIO(body):
            if not text.strip(jsontext.BLANK):
                continue
            if index >= records_max:
                raise _too_many(records_max)
            value = None
            try:
                value = load(text, depth_max)
                line = encode(value)
                if len(value) != 5 or "metadata" not in value:
                    jsontext.check(text, depth_max)
                    unknown += unknown_members(value)
                lines.append(line)
            except ClientError as error:
                rejections.append(Rejection(index, None, MALFORMED_RECORD, error.detail))
            except RecordInvalid as error:
                rejections.append(_line_rejection(index, value, error, text, depth_max))
            index += 1
        return _bulk(lines, rejections, unknown)

    def accepted(self, parsed: Parsed, level: int, addresses: Addresses | None) -> Response:
        """Return the 202: one constant for a record, counts and rejections for a bulk, addresses for a receipt."""
        if addresses is None and not parsed.context:
            return "202 Accepted", self._queued[level].copy(), QUEUED
        rejections = parsed.rejections
        answer: dict[str, object] = {
            "status": "queued",
            "accepted": len(parsed.lines),
            "rejected": len(rejections),
            "errors": _shown(rejections, receipt=addresses is not None),
        }
        if addresses is not None:
            rejected = {rejection.index for rejection in rejections}
            stored = (index for index in range(len(parsed.lines) + len(rejected)) if index not in rejected)
            answer["records"] = [
                {"index": index, "entry_id": entry_id or None, "line": line}
                for index, (entry_id, line) in zip(stored, addresses, strict=True)
            ]
        body = ujson.dumps(answer, ensure_ascii=False, escape_forward_slashes=False).encode()
        return "202 Accepted", [*self._queued[level][:2], ("content-length", str(len(body)))], body

    def refused(self, error: InletError, *, receipt: bool) -> Response:
        """Return the problem document; that of a bulk without a valid record lists why."""
        if isinstance(error, NothingAccepted):
            errors = _shown(error.rejections, receipt=receipt)
            return problem(error, ACCEPTED, accepted=0, rejected=len(error.rejections), errors=errors)
        return problem(error, ACCEPTED)


def _bulk(lines: list[bytes], rejections: list[Rejection], unknown: int) -> Parsed:
    if not lines:
        detail = "no record of the bulk is valid" if rejections else "the bulk holds no record"
        raise NothingAccepted(detail, rejections)
    return Parsed(lines, rejections, unknown, True)


def _line_rejection(index: int, value: object, error: RecordInvalid, text: bytes, depth_max: int) -> Rejection:
    """The rejection of a line that ujson has read; where it is not even JSON, that is said instead."""
    try:
        jsontext.check(text, depth_max)
    except ClientError as malformed:
        return Rejection(index, None, MALFORMED_RECORD, malformed.detail)
    detail = _NOT_A_RECORD if type(value) is list else error.detail
    return Rejection(index, _echo(value), error.reason, detail)


def _shown(rejections: Sequence[Rejection], *, receipt: bool) -> list[dict[str, object]]:
    """The member ``errors``: the first rejections, in the order of the bulk."""
    # Each rejection is the producer's to fix: the same record sent again is refused again.
    more = {"retryable": False} if receipt else {}
    return [{**rejection._asdict(), **more} for rejection in rejections[:ERRORS_SHOWN_MAX]]


def _echo(value: Any) -> str | None:
    """The event_id of a rejected record, if it can be named: a string of whole characters, cut to its bound."""
    event_id = value.get("event_id") if type(value) is dict else None
    if type(event_id) is not str:
        return None
    event_id = event_id[:EVENT_ID_ECHO_CHARS_MAX]
    return None if jsontext.SURROGATE.search(event_id) else event_id


def _too_many(records_max: int) -> ClientError:
    return ClientError("payload-too-large", f"a bulk holds at most {records_max} records; send several requests")
