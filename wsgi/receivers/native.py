"""The native receiver: ``POST /ingest``, the strict contract of docs/protocol.md.

What lives here: its media types, which of its three formats a body has (an object, an array, NDJSON), what is read at
once and what in slices, and its answers. What must not: what makes a record valid (``inlet.stream.record``), how a bulk
is read (``wsgi.receivers.arrays``, ``wsgi.receivers.ndjson``), when an answer is given (the pipeline).

Decisions:
- An empty or blank body is malformed. An empty array is JSON, but nothing to store.
- A leading UTF-8 byte order mark is ignored, as RFC 8259 section 8.1 permits. Of duplicate members the last wins.
- In a bulk, ``index`` counts the elements of the array, or the lines that are not blank, from 0.
- An array that does not parse as a whole is malformed; a bad NDJSON line is one rejection.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING

import ujson

from inlet.stream.errors import InletError, RecordInvalid
from inlet.stream.limits import RecordLimits
from inlet.stream.record import LOADS_ERRORS, unknown_members
from wsgi.receivers import arrays, jsontext, ndjson
from wsgi.receivers.bulk import Bulk, rules, too_many
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.mediatype import ACCEPTED, NDJSON, is_ndjson
from wsgi.receivers.parsed import NothingAccepted, Parsed, Rejections
from wsgi.receivers.refusals import Response, problem
from wsgi.receivers.slices import SLICE_SECONDS
from wsgi.sink.durability import NAMES

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from wsgi.receivers.interfaces import Addresses

SHORT_BYTES_MAX = 131_072
"""Bytes of a body that is read in one step: half a millisecond where it is ordinary, six where it is all brackets."""
SHORT_RECORDS_MAX = 128
"""Records of a bulk that is read in one step."""
SLOW_RECORDS_MAX = 16
"""Records of a bulk that is read in one step where one of them is bad, which costs up to 10 microseconds each..."""
LONG_BYTES_MIN = 16_384
"""... unless the body has so many bytes, and cost its sender as much."""
WHOLE_RECORDS_MAX = 1_000
"""Records of a receipt that is rendered in one step."""
ENTRIES_AT_ONCE = 250
"""Records of a longer one that are rendered at a time: a quarter of a millisecond."""
QUEUED = b'{"status":"queued"}'
"""The whole answer to one accepted record."""

_loads = ujson.loads
_parsed = tuple.__new__  # PERF: a NamedTuple's own constructor is in Python


class Native:
    """The native receiver, with every bound taken at construction. Holds no state: safe between threads."""

    name = "native"
    methods: tuple[str, ...] = ("POST",)
    receipts, addressed, partial, probed = True, False, False, False

    def __init__(
        self, payload_limits: PayloadLimits, record_limits: RecordLimits, *, keep_rejected: bool = False
    ) -> None:
        self.bytes_max = payload_limits.payload_bytes_max
        self._rules = rules(payload_limits, record_limits, keep_rejected=keep_rejected)
        self._encode, self._depth_max = self._rules.encode, self._rules.depth_max
        # The spellings that nearly every client uses need no parsing.
        self._is_ndjson: dict[str | None, bool] = {None: False, "": False, "application/json": False}
        for name in ("application/json; charset=utf-8", "application/json;charset=utf-8", *sorted(NDJSON)):
            self._is_ndjson[name] = is_ndjson(name)
        self._queued = [  # by level
            [("content-type", "application/json"), ("inlet-durability", name), ("content-length", str(len(QUEUED)))]
            for name in NAMES
        ]

    def read(self, environ: WSGIEnvironment, body: bytes) -> Parsed | None:
        """Turn a body into lines and rejections, or return None if that may take long; ``context``: is it a bulk.

        Raises ClientError (``unsupported-media-type``, ``payload-too-large``, ``malformed-payload``), RecordInvalid and
        RecordTooLarge for a single record, NothingAccepted for a bulk without a valid one.
        """
        content_type = environ.get("CONTENT_TYPE")
        ndjson_sent = self._is_ndjson.get(content_type)
        if ndjson_sent is None:
            ndjson_sent = is_ndjson(content_type or "")
        if len(body) > SHORT_BYTES_MAX:
            return None
        if ndjson_sent:
            return ndjson.read_short(body, self._rules, SHORT_RECORDS_MAX, _slow_max(body))
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
            return _parsed(Parsed, ([line], None, 0, False))
        jsontext.check(body, self._depth_max)
        return Parsed([line], None, unknown_members(value), False)

    def _read_array(self, values: list[object], body: bytes) -> Parsed | None:
        """Read a short array; return None if it is not."""
        if len(values) > self._rules.records_max:
            raise too_many(self._rules.records_max)
        bulk = Bulk(self._rules)
        if len(values) <= _slow_max(body):
            bulk.take(values)
        elif len(values) > SHORT_RECORDS_MAX or not bulk.take_valid(values):
            return None
        if bulk.irregular:
            # Whatever is not the five members may hold what is not JSON: the whole text, once.
            jsontext.check(body, self._depth_max)
        return bulk.parsed()

    def slices(self, environ: WSGIEnvironment, body: bytes) -> Generator[None, None, Parsed]:
        """Do as ``read`` does, for any body, yielding about once in a millisecond of work."""
        content_type = environ.get("CONTENT_TYPE")
        if is_ndjson(content_type or ""):
            return (yield from ndjson.read_slices(body, self._rules))
        start = yield from arrays.opened(body)
        if start:
            return (yield from arrays.read_slices(body, start, self._rules))
        if (yield from jsontext.has_too_many_values(body)):
            raise jsontext.too_many_values()
        value = yield from jsontext.load_slices(body, self._depth_max)
        yield
        try:
            line = self._encode(value)
        except RecordInvalid:
            yield from jsontext.check_slices(body, self._depth_max)
            raise
        if len(value) != 5 or "metadata" not in value:
            yield from jsontext.check_slices(body, self._depth_max)
        return Parsed([line], None, unknown_members(value), False)

    def accepted(
        self, parsed: Parsed, level: int, addresses: Addresses | None
    ) -> Response | Generator[None, None, Response]:
        """Return the 202: one constant for a record, counts and rejections for a bulk, addresses for a receipt.

        That of a long receipt is rendered in slices.
        """
        if addresses is None and not parsed.context:
            return "202 Accepted", self._queued[level].copy(), QUEUED
        rejections = parsed.rejections
        answer: dict[str, object] = {
            "status": "queued",
            "accepted": len(parsed.lines),
            "rejected": len(rejections) if rejections else 0,
            "errors": _shown(rejections, receipt=addresses is not None),
        }
        if addresses is None:
            return self._queued_bulk(level, _dumps(answer))
        entries = _entries(rejections, parsed.lines, addresses)
        if len(addresses) <= WHOLE_RECORDS_MAX:
            return self._queued_bulk(level, _dumps({**answer, "records": list(entries)}))
        return self._receipt(level, answer, entries)

    def _receipt(
        self, level: int, answer: dict[str, object], entries: Iterator[dict[str, object]]
    ) -> Generator[None, None, Response]:
        """Render a receipt in slices: byte by byte what it is when rendered at once."""
        pieces = [_dumps({**answer, "records": []})[:-2]]
        due = monotonic() + SLICE_SECONDS
        while some := list(islice(entries, ENTRIES_AT_ONCE)):
            pieces += (_dumps(some)[1:-1], b",")
            if monotonic() >= due:
                yield
                due = monotonic() + SLICE_SECONDS
        pieces[-1] = b"]}"
        return self._queued_bulk(level, b"".join(pieces))

    def _queued_bulk(self, level: int, body: bytes) -> Response:
        return "202 Accepted", [*self._queued[level][:2], ("content-length", str(len(body)))], body

    def refused(self, error: InletError, *, receipt: bool, request_id: str, content_type: str) -> Response:
        """Return the problem document; that of a bulk without a valid record lists why."""
        members: dict[str, object] = {}
        if isinstance(error, NothingAccepted):
            errors = _shown(error.rejections, receipt=receipt)
            members = {"accepted": 0, "rejected": len(error.rejections), "errors": errors}
        return problem(error, ACCEPTED, request_id=request_id, **members)


def _slow_max(body: bytes) -> int:
    return SLOW_RECORDS_MAX if len(body) < LONG_BYTES_MIN else SHORT_RECORDS_MAX


def _dumps(value: object) -> bytes:
    return ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False).encode()


def _shown(rejections: Rejections | None, *, receipt: bool) -> list[dict[str, object]]:
    """The member ``errors``: the first rejections, in the order of the bulk."""
    # Each rejection is the producer's to fix: the same record sent again is refused again.
    more = {"retryable": False} if receipt else {}
    return [{**rejection._asdict(), **more} for rejection in rejections.kept] if rejections else []


def _entries(rejections: Rejections | None, lines: list[bytes], addresses: Addresses) -> Iterator[dict[str, object]]:
    """The elements of the member ``records``: where each accepted record is stored."""
    refused = iter(rejections.indexes if rejections else ())
    index, skipped = 0, next(refused, -1)
    for address, _ in zip(addresses, lines, strict=True):
        while index == skipped:
            index, skipped = index + 1, next(refused, -1)
        entry: dict[str, object] = {"index": index, "entry_id": address.entry_id or None, "line": address.line}
        if address.duplicate:
            entry["duplicate"] = True
        yield entry
        index += 1
