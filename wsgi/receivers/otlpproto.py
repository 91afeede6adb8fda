"""OTLP logs in protobuf: a body to records, at once where it is short, else piece by piece.

What lives here: how a body is cut into pieces, and how a decoded record becomes a line. What must not: JSON, answers,
the framing itself (``wsgi.receivers.otlpwire``).

Protobuf decodes a message in one step, 20 MiB of empty ones in 0.7 s. But what follows one another in a body follows
one another in the message: any run of whole fields of a ScopeLogs is a ScopeLogs. So a long body is walked to its log
records (ResourceLogs > ScopeLogs > LogRecord), and these are decoded some 64 KiB at a time. Where a piece cannot be
decoded, each of its records is tried alone: one that is broken does not take the others with it, and one whose strings
are not UTF-8 is repaired. ``opentelemetry.proto`` 1.45: opentelemetry/proto/logs/v1/logs.proto.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from time import monotonic
from typing import Any, NamedTuple

from google.protobuf.internal import api_implementation
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from inlet.stream.limits import RecordLimits
from wsgi.problems import ClientError
from wsgi.receivers.foreign import Lines, too_many
from wsgi.receivers.otlplean import ordinary
from wsgi.receivers.otlpmessages import part_of_resource, part_of_scope, record_to
from wsgi.receivers.otlprecord import OtlpPart, OtlpShared, fields_max, refuse, shared
from wsgi.receivers.otlprepair import repaired
from wsgi.receivers.otlpwire import LONG_BYTES, WALKED_FIELDS, Shortener, Span, fields, malformed
from wsgi.receivers.slices import SLICE_SECONDS

PIECE_BYTES = 65_536
"""Bytes of log records that are decoded at a time: a third of a millisecond where they are ordinary, 2 ms at worst."""
FIRST, SECOND, THIRD = 0x0A, 0x12, 0x1A
"""Tags of the fields 1, 2 and 3: of ResourceLogs the resource, scopes and schema URL; of ScopeLogs the scope, log
records and schema URL."""
BODY, ATTRIBUTES, SCOPE_ATTRIBUTES = 0x2A, 0x32, 0x1A

if api_implementation.Type() != "upb":  # pragma: no cover  # the wheel has it
    raise ImportError("protobuf runs without upb, its decoder in C, and would take twenty times as long")


class _Run(NamedTuple):
    """Log records that follow one another in a body."""

    begin: int
    stop: int
    long: bool
    """Whether it is one record that is too long to be decoded as it is."""


class OtlpProtoReader:
    """Reads the log records of one body into ``lines``."""

    def __init__(self, lines: Lines, limits: RecordLimits, records_max: int) -> None:
        self._lines, self._take = lines, lines.take
        self._limits, self._pairs_max = limits, limits.metadata_pairs_max
        self._records_max = records_max
        self._fields_left = fields_max(records_max)
        self._due = monotonic() + SLICE_SECONDS

    def decoded(self, request: Any) -> Generator[None, None, None]:
        """Read a request that was decoded as a whole."""
        for resource_logs in request.resource_logs:
            resource = part_of_resource(resource_logs.resource, resource_logs.schema_url, self._pairs_max)
            for scope_logs in resource_logs.scope_logs:
                if scope_logs.log_records:
                    common = self._shared(resource, scope_logs.scope, scope_logs.schema_url)
                    yield from self._records(scope_logs.log_records, common)
                elif monotonic() >= self._due:
                    yield from self._pause()
            if monotonic() >= self._due:
                yield from self._pause()

    def short(self, request: Any) -> None:
        """Read a short request of ``otlplean``. Raises DecodeError where it holds what is not protobuf."""
        take, pairs_max = self._take, self._pairs_max
        for resource_logs in request.resource_logs:
            resource = part_of_resource(
                Resource.FromString(resource_logs.resource), resource_logs.schema_url, pairs_max
            )
            for scope_logs in resource_logs.scope_logs:
                scope = InstrumentationScope.FromString(scope_logs.scope)
                common = self._shared(resource, scope, scope_logs.schema_url)
                for record in scope_logs.log_records:
                    if not ordinary(take, record, common, pairs_max):
                        record_to(take, LogRecord.FromString(record.SerializeToString()), common, pairs_max)

    def walked(self, body: bytes) -> Generator[None, None, None]:
        """Read a body of any size. Raises ClientError (``malformed-payload``, ``payload-too-large``)."""
        for tag, _, start, stop in self._outer(body, 0, len(body)):
            if tag == FIRST:
                yield from self._resource_logs(body, start, stop)
            if monotonic() >= self._due:
                yield from self._pause()

    def _outer(self, body: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Fields that are no log records, counted."""
        for found in fields(body, at, end):
            self._fields_left -= 1
            if self._fields_left < 0:
                raise ClientError("payload-too-large", "the body has too many fields besides its log records")
            yield found

    def _pause(self) -> Generator[None, None, None]:
        yield
        self._due = monotonic() + SLICE_SECONDS

    def _resource_logs(self, body: bytes, at: int, end: int) -> Generator[None, None, None]:
        """One ResourceLogs. Its resource may stand behind its scopes, so these wait."""
        resource, scopes, schema_url = bytearray(), list[Span](), b""
        for tag, _, start, stop in self._outer(body, at, end):
            if tag == FIRST:
                resource += body[start:stop]
            elif tag == SECOND:
                scopes.append((start, stop))
            elif tag == THIRD:
                schema_url = body[start : min(stop, start + LONG_BYTES)]
            if monotonic() >= self._due:
                yield from self._pause()
        message, cut = yield from self._part(Resource, bytes(resource), FIRST)
        of_resource = part_of_resource(message, schema_url.decode(errors="replace"), self._pairs_max, cut)
        for start, stop in scopes:
            yield from self._scope_logs(body, start, stop, of_resource)

    def _scope_logs(self, body: bytes, at: int, end: int, resource: OtlpPart) -> Generator[None, None, None]:
        """One ScopeLogs: what its records share first, then these, run by run."""
        scope, schema_url, runs = bytearray(), b"", list[_Run]()
        begin = last = records = 0
        for count, (tag, start, value, stop) in enumerate(fields(body, at, end)):
            if not count % WALKED_FIELDS and monotonic() >= self._due:
                yield from self._pause()
            if tag == SECOND:
                records += 1
                if self._lines.read + records > self._records_max:
                    break
                long = stop - value > LONG_BYTES
                if not begin or start != last or long or stop - begin > PIECE_BYTES:
                    if begin:
                        runs.append(_Run(begin, last, False))
                    begin = start
                last = stop
                if long:
                    runs.append(_Run(value, stop, True))
                    begin = 0
                continue
            self._fields_left -= 1
            if tag == FIRST:
                scope += body[value:stop]
            elif tag == THIRD:
                schema_url = body[value : min(stop, value + LONG_BYTES)]
            if self._fields_left < 0:
                raise ClientError("payload-too-large", "the body has too many fields besides its log records")
        if self._lines.read + records > self._records_max:
            raise too_many(self._records_max)
        if begin:
            runs.append(_Run(begin, last, False))
        if runs:
            message, cut = yield from self._part(InstrumentationScope, bytes(scope), SCOPE_ATTRIBUTES)
            common = self._shared(resource, message, schema_url.decode(errors="replace"), cut)
            for run in runs:
                yield from self._run(body, run, common)

    def _part(self, kind: Any, data: bytes, attribute: int) -> Generator[None, None, tuple[Any, list[str]]]:
        """A resource or a scope, decoded, and what was cut of it."""
        cut: list[str] = []
        if len(data) > LONG_BYTES:
            shortener = Shortener(attribute, 0, self._limits)
            data = yield from shortener.short(data, 0, len(data))
            cut = shortener.cut
        try:
            return kind.FromString(data), cut
        except DecodeError:
            pass
        found = yield from repaired(kind, data)
        if found is None:
            raise malformed("a resource or a scope cannot be decoded")
        return found, cut

    def _run(self, body: bytes, run: _Run, common: OtlpShared) -> Generator[None, None, None]:
        """Decode and take the records of one run."""
        if monotonic() >= self._due:
            yield from self._pause()
        if run.long:
            yield from self._alone(body, run.begin, run.stop, common)
            return
        try:
            message = ScopeLogs.FromString(body[run.begin : run.stop])
        except DecodeError:
            message = None
        if message is not None:
            yield from self._records(message.log_records, common)
            return
        for _, _, start, stop in fields(body, run.begin, run.stop):
            yield from self._alone(body, start, stop, common)

    def _alone(self, body: bytes, start: int, stop: int, common: OtlpShared) -> Generator[None, None, None]:
        """Take one record that is long, or may be broken."""
        data, cut = body[start:stop], list[str]()
        try:
            if len(data) > LONG_BYTES:
                shortener = Shortener(ATTRIBUTES, BODY, self._limits)
                data = yield from shortener.short(data, 0, len(data))
                cut = shortener.cut
            try:
                record = LogRecord.FromString(data)
            except DecodeError:
                record = None
            if record is None:
                record = yield from repaired(LogRecord, data)
        except ClientError:
            record = None
        if record is None:
            refuse(self._lines, "the log record is not protobuf, or nests too deep", body[start:stop])
        else:
            record_to(self._take, record, common, self._pairs_max, cut)
        if monotonic() >= self._due:
            yield from self._pause()

    def _records(self, records: Any, common: OtlpShared) -> Generator[None, None, None]:
        """Take decoded records."""
        take, pairs_max = self._take, self._pairs_max
        for record in records:
            record_to(take, record, common, pairs_max)
            if monotonic() >= self._due:
                yield from self._pause()

    def _shared(self, resource: OtlpPart, scope: Any, schema_url: str, cut: list[str] | None = None) -> OtlpShared:
        return shared(resource, part_of_scope(scope, schema_url, self._pairs_max, cut), self._limits)
