"""The plain way to read a body: decoded as a whole, or line by line, each record encoded alone. The reference.

What lives here: what ``Native.read`` and ``Native.slices`` must come to, without groups, pieces or slices. What must
not: speed.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from inlet.stream.errors import RecordInvalid
from inlet.stream.limits import RecordLimits
from inlet.stream.record import encoder, unknown_members
from wsgi.problems import ClientError
from wsgi.receivers import jsontext
from wsgi.receivers.bulk import MALFORMED_RECORD, NOT_A_RECORD, echo, too_many
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.parsed import NothingAccepted, Parsed, Rejections


class Plain:
    """A native receiver that only reads."""

    def __init__(self, limits: PayloadLimits, record_limits: RecordLimits) -> None:
        self._records_max, self._depth_max = limits.bulk_records_max, limits.nesting_depth_max
        self._encode = encoder(record_limits)

    def read(self, body: bytes, *, ndjson: bool) -> Parsed:
        """Read a body of either kind."""
        if ndjson:
            return self._lines(body)
        value = jsontext.load(body, self._depth_max)
        if type(value) is list:
            return self._array(value, body)
        try:
            line = self._encode(value)
        except RecordInvalid:
            jsontext.check(body, self._depth_max)
            raise
        if len(value) != 5 or "metadata" not in value:
            jsontext.check(body, self._depth_max)
        return Parsed([line], None, unknown_members(value), False)

    def _array(self, values: list[Any], body: bytes) -> Parsed:
        if len(values) > self._records_max:
            raise too_many(self._records_max)
        lines, rejections, unknown = [], Rejections(), 0
        irregular = False
        for index, value in enumerate(values):
            try:
                lines.append(self._encode(value))
                unknown += unknown_members(value)
                irregular |= len(value) != 5 or "metadata" not in value
            except RecordInvalid as error:
                rejections.add(index, echo(value), error.reason, error.detail)
                irregular = True
        if irregular:
            jsontext.check(body, self._depth_max)
        return _bulk(lines, rejections, unknown)

    def _lines(self, body: bytes) -> Parsed:
        body = body.removeprefix(jsontext.BOM)
        if not body or body.isspace():
            raise jsontext.empty()
        jsontext.refuse_encoding(body)
        texts = [text for text in BytesIO(body) if text.strip(jsontext.BLANK)]
        if len(texts) > self._records_max:
            raise too_many(self._records_max)
        lines, rejections, unknown = [], Rejections(), 0
        for index, text in enumerate(texts):
            value = None
            try:
                value = jsontext.load(text, self._depth_max)
                line = self._encode(value)
                if len(value) != 5 or "metadata" not in value:
                    jsontext.check(text, self._depth_max)
                lines.append(line)
                unknown += unknown_members(value)
            except ClientError as malformed:
                rejections.add(index, None, MALFORMED_RECORD, malformed.detail)
            except RecordInvalid as error:
                try:
                    jsontext.check(text, self._depth_max)
                except ClientError as malformed:
                    rejections.add(index, None, MALFORMED_RECORD, malformed.detail)
                else:
                    detail = NOT_A_RECORD if type(value) is list else error.detail
                    rejections.add(index, echo(value), error.reason, detail)
        return _bulk(lines, rejections, unknown)


def _bulk(lines: list[bytes], rejections: Rejections, unknown: int) -> Parsed:
    if not lines:
        raise NothingAccepted(
            "no record of the bulk is valid" if rejections else "the bulk holds no record", rejections
        )
    return Parsed(lines, rejections or None, unknown, True)
