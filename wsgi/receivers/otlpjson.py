"""OTLP logs in JSON: a body to records, as a whole where it is short, else part by part.

What lives here: how a body is cut into parts, and the structure down to its log records. What must not: protobuf,
answers, what becomes of a record (``wsgi.receivers.otlpobjects``).

Three ways, by size. A short body is decoded as a whole. Of a long one, the elements of ``resourceLogs`` are cut out
first, and decoded some 64 KiB at a time. Of a long element, its log records are cut out, and decoded in the same way.
Where some of them cannot be decoded, as one nests too deep, each is tried alone, and so is each of a short body. A
single log record cannot be cut: one that is over RECORD_TEXT_MAX, or has more than RECORD_VALUES_MAX values, is
rejected.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import islice
from time import monotonic
from typing import Any

from inlet.stream.errors import RecordTooLarge
from inlet.stream.record import LOADS_ERRORS
from inlet.stream.rejected import TEXT_BYTES_MAX
from wsgi.problems import ClientError
from wsgi.receivers import jsontext
from wsgi.receivers.excerpt import excerpt
from wsgi.receivers.foreign import Lines
from wsgi.receivers.mounting import Bounds
from wsgi.receivers.otlpobjects import member, part_of, record_of
from wsgi.receivers.otlprecord import OtlpPart, OtlpShared, UnreadableRecord, deliver, fields_max, refuse, shared
from wsgi.receivers.otlpskeleton import PART_BYTES, Skeleton, is_own, words
from wsgi.receivers.slices import SLICE_SECONDS
from wsgi.receivers.structure import count_values

WHOLE_BYTES_MAX = 131_072
"""Bytes of a body that is decoded in one step: a millisecond where it is ordinary, six where it is all brackets."""
RECORD_TEXT_MAX = 1_048_576
"""Bytes of one log record's JSON: four times what a record may have, decoded in some 2 ms where it is one string."""
RECORD_VALUES_MAX = 20_000
"""Values that one long log record may hold: decoded in 2 ms."""
RESOURCE_DEPTH, RECORD_DEPTH = 3, 5
"""Brackets around what is cut out: the body's resourceLogs elements, and the log records within one of these."""


class OtlpJsonReader:
    """Reads the log records of one body into ``lines``."""

    def __init__(self, lines: Lines, bounds: Bounds) -> None:
        self._lines, self._limits = lines, bounds.record
        self._pairs_max = bounds.record.metadata_pairs_max
        self._due = monotonic() + SLICE_SECONDS
        self._values_max = self._containers_left = fields_max(bounds.payload.bulk_records_max)

    def read(self, body: bytes) -> Generator[None, None, None]:
        """Read a body. Raises ClientError (``malformed-payload``, ``payload-too-large``)."""
        body = body.removeprefix(jsontext.BOM)  # copies only where there is one
        if len(body) <= WHOLE_BYTES_MAX:
            try:
                request = jsontext.strict(body)
            except LOADS_ERRORS as error:
                said = words(error)
            else:
                for element in _elements(request, "resourceLogs", "resource_logs", "the body"):
                    yield from self._resource_logs(element)
                return
            if not is_own(said):
                raise (yield from jsontext.explain(body, said))
        skeleton = Skeleton(body, self._values_max)
        yield from skeleton.decode(RESOURCE_DEPTH)
        for element in _elements(skeleton.value, "resourceLogs", "resource_logs", "the body"):
            span = skeleton.part(element)
            if span is None:
                yield from self._resource_logs(element)
                continue
            if span[1] - span[0] > PART_BYTES:
                inner = Skeleton(body, self._values_max, *span)
                yield from inner.decode(RECORD_DEPTH)
                yield from self._resource_logs(inner.value, inner)
                continue
            yield from self._neighbors(body[span[0] : span[1]])
            yield from self._pause()

    def _neighbors(self, text: bytes) -> Generator[None, None, None]:
        """Elements of ``resourceLogs``. Where they cannot be decoded, each of their log records is, alone."""
        apart: Skeleton | None = None
        try:
            found = _decoded(text)
        except UnreadableRecord:
            apart = Skeleton(b"[%b]" % text, self._values_max, single=True)
            yield from apart.decode(RECORD_DEPTH + 1)
            found = apart.value
        for element in found:
            yield from self._resource_logs(element, apart)

    def _pause(self) -> Generator[None, None, None]:
        yield
        self._due = monotonic() + SLICE_SECONDS

    def _count(self) -> None:
        """Count an element of resourceLogs or scopeLogs."""
        self._containers_left -= 1
        if self._containers_left < 0:
            raise ClientError("payload-too-large", "the body has too many elements besides its log records")

    def _resource_logs(self, value: Any, skeleton: Skeleton | None = None) -> Generator[None, None, None]:
        """One element of ``resourceLogs``."""
        self._count()
        if value is None:
            return
        scopes = _elements(value, "scopeLogs", "scope_logs", "an element of resourceLogs")
        part = member(value, "resource") or {}
        resource = self._part(part, member(value, "schemaUrl", "schema_url"), skeleton)
        for scope_logs in scopes:
            self._count()
            if scope_logs is None:
                continue
            records = _elements(scope_logs, "logRecords", "log_records", "an element of scopeLogs")
            if records:
                scope = self._part(
                    member(scope_logs, "scope") or {}, member(scope_logs, "schemaUrl", "schema_url"), skeleton
                )
                yield from self._records(records, shared(resource, scope, self._limits), skeleton)
            if monotonic() >= self._due:
                yield from self._pause()
        if monotonic() >= self._due:
            yield from self._pause()

    def _part(self, value: Any, schema_url: Any, skeleton: Skeleton | None) -> OtlpPart:
        """A resource or a scope."""
        if type(value) is not dict:
            raise _malformed("a resource or a scope is no object")
        attributes = member(value, "attributes")
        if skeleton is not None:
            attributes = self._expanded(attributes, skeleton)
        try:
            return part_of(value, attributes, schema_url, self._pairs_max)
        except UnreadableRecord as error:
            raise _malformed(f"of a resource or a scope, {error}") from None

    def _expanded(self, attributes: Any, skeleton: Skeleton) -> Any:
        """Attributes with what was cut out of them, as many as a record may have."""
        span = skeleton.part(attributes)
        if span is not None:
            return _decoded_alone(
                skeleton.text[span[0] : span[1]], "the attributes of a scope are no array, or too long"
            )
        if type(attributes) is not list:
            return attributes
        pairs: list[Any] = []
        for pair in islice(attributes, self._pairs_max + 1):
            span = skeleton.part(pair.get("value")) if type(pair) is dict else skeleton.part(pair)
            if span is not None:
                what = "an attribute of a resource is no object, or too long"
                value = _decoded_alone(skeleton.text[span[0] : span[1]], what)
                if type(pair) is not dict:
                    raise _malformed(what)
                pair = {**pair, "value": value}
            pairs.append(pair)
        return pairs

    def _records(
        self, records: list[Any], common: OtlpShared, skeleton: Skeleton | None
    ) -> Generator[None, None, None]:
        """The records of one scope."""
        for value in records:
            span = None if skeleton is None else skeleton.part(value)
            if span is None or skeleton is None:
                self._take(value, common)
            else:
                text = skeleton.text[span[0] : span[1]]
                if len(text) > PART_BYTES and (yield from self._too_long(text)):
                    continue
                try:
                    found = _decoded(text)
                except UnreadableRecord as error:
                    found = []
                    if skeleton.single:
                        refuse(self._lines, str(error), text)
                    else:
                        apart = Skeleton(b"[%b]" % text, self._values_max, single=True)
                        yield from apart.decode(2)
                        yield from self._records(apart.value, common, apart)
                for each in found:
                    self._take(each, common)
                    if monotonic() >= self._due:
                        yield from self._pause()
            if monotonic() >= self._due:
                yield from self._pause()

    def _too_long(self, text: bytes) -> Generator[None, None, bool]:
        """Reject one record if it is too long to be decoded in one step."""
        detail = f"the log record takes more than {RECORD_TEXT_MAX} bytes of JSON"
        if len(text) <= RECORD_TEXT_MAX:
            if (yield from count_values(text)) <= RECORD_VALUES_MAX:
                return False
            detail = f"the log record holds more than {RECORD_VALUES_MAX} values"
        refuse(self._lines, detail, text, RecordTooLarge.reason)
        return True

    def _take(self, value: Any, common: OtlpShared) -> None:
        """Take one log record, or its rejection."""
        try:
            timestamp, message, own = record_of(value, self._pairs_max)
        except UnreadableRecord as error:
            refuse(self._lines, str(error), excerpt(value, TEXT_BYTES_MAX)[0])
        else:
            deliver(self._lines.take, common, timestamp, message, own)


def _decoded(text: bytes) -> list[Any]:
    """The elements of a part. Raises ClientError where it is no JSON, UnreadableRecord where one value is to blame."""
    try:
        found: list[Any] = jsontext.strict(b"[%b]" % text)
    except LOADS_ERRORS as error:
        said = words(error)
    else:
        return found
    if is_own(said):
        raise UnreadableRecord(f"it cannot be decoded: {said}")
    raise _malformed(f"not valid JSON: {said}")


def _decoded_alone(text: bytes, what: str) -> Any:
    """The one value that a part outside of log records is; ``what`` says what is wrong where it is none."""
    try:
        found = _decoded(text) if len(text) <= 2 * PART_BYTES else []
    except UnreadableRecord as error:
        raise _malformed(str(error)) from None
    if len(found) != 1:
        raise _malformed(what)
    return found[0]


def _elements(value: Any, name: str, snake: str, what: str) -> list[Any]:
    """The array that is a member of ``value``; empty where there is none."""
    if type(value) is not dict:
        raise _malformed(f"{what} is no object")
    found = member(value, name, snake)
    if found is None:
        return []
    if type(found) is not list:
        raise _malformed(f"{name} is no array")
    return found


def _malformed(detail: str) -> ClientError:
    return ClientError("malformed-payload", f"the body is not an ExportLogsServiceRequest in JSON: {detail}")
