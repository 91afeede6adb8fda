"""A bulk: what became of its records so far, whatever format they came in.

What lives here: the rules for one bulk, the quick way for groups of valid records, the slow way for one record at a
time, and what a rejection names. What must not: formats (``wsgi.receivers.arrays``, ``wsgi.receivers.ndjson``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from inlet.stream.errors import RecordInvalid
from inlet.stream.faults import verdict
from inlet.stream.limits import RecordLimits
from inlet.stream.record import bulk_encoder, encoder, unknown_members
from inlet.stream.rejected import TEXT_BYTES_MAX, Rejected, rejected
from wsgi.problems import ClientError
from wsgi.receivers import jsontext
from wsgi.receivers.excerpt import excerpt
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.parsed import NothingAccepted, Parsed, Rejections

GROUP_RECORDS = 64
"""Records that are looked at between two looks at the clock: half a millisecond where they are ordinary."""
TOGETHER_RECORDS_MIN = 8
"""Records that are worth encoding together."""
MALFORMED_RECORD = "malformed-record"
"""Reason of a record that is not JSON, where each has a text of its own."""
EVENT_ID_ECHO_CHARS_MAX = 256
"""Characters of a rejected record's event_id that its rejection names."""
MEMBERS_MIN = 4
"""A record has at least so many members."""
NOT_A_RECORD = (
    "a line of NDJSON is one record, a JSON object, not an array; send an array with Content-Type: application/json"
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for every bulk, with every bound already bound."""

    records_max: int
    depth_max: int
    encode: Callable[[object], bytes]
    encode_without_words: Callable[[object], bytes]
    """``encode``, but an error has no detail."""
    encode_bulk: Callable[[list[Any]], tuple[list[bytes], int, bool] | None]
    keep_rejected: bool
    """Whether the texts of rejected records are kept (INLET_KEEP_REJECTED)."""


def rules(payload_limits: PayloadLimits, record_limits: RecordLimits, *, keep_rejected: bool = False) -> Rules:
    """Return the rules of these bounds."""
    return Rules(
        records_max=payload_limits.bulk_records_max,
        depth_max=payload_limits.nesting_depth_max,
        encode=encoder(record_limits),
        encode_without_words=encoder(record_limits, verdict),
        encode_bulk=bulk_encoder(record_limits),
        keep_rejected=keep_rejected,
    )


class Bulk:
    """The records of one bulk that were read, and what became of them."""

    __slots__ = ("_rules", "irregular", "lines", "read", "rejections", "unknown")

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.lines: list[bytes] = []
        self.rejections: Rejections | None = None
        self.unknown = 0
        self.read = 0
        """Records so far."""
        self.irregular = False
        """Whether a record was not exactly the five members: then its text may hold what is not JSON."""

    def take(self, values: list[Any], texts: Sequence[bytes] | None = None) -> None:
        """Take records, valid or not. Where each has a text of its own, that is checked as well, else ``irregular``.

        PERF: valid ones are encoded together; of a group with a bad one, each half is tried (bench/micro.py: bulk).
        """
        size = len(values)
        if size < TOGETHER_RECORDS_MIN:
            for at in range(size):
                self._take_one(values[at], None if texts is None else texts[at])
        elif not self.take_valid(values, texts):
            half = size // 2
            self.take(values[:half], None if texts is None else texts[:half])
            self.take(values[half:], None if texts is None else texts[half:])

    def take_valid(self, values: list[Any], texts: Sequence[bytes] | None = None) -> bool:
        """Take records if all are valid; return False, having taken none, if one is not, or may not be."""
        found = self._rules.encode_bulk(values)
        if found is None:
            return False
        lines, unknown, regular = found
        if not regular:
            # Exactly the five members hold neither numbers nor deep nesting; these are not.
            self.irregular = True
            if texts is not None:
                try:
                    # Each text is whole and ends its line, so none changes what stands in another.
                    jsontext.check(b"".join(texts), self._rules.depth_max)
                except ClientError:
                    return False
        self.lines += lines
        self.unknown += unknown
        self.read += len(values)
        return True

    def take_checked(self, value: Any, text: bytes) -> None:
        """Take one record, valid or not, whose text is known to be JSON."""
        self._take_one(value, None, text)

    def _take_one(self, value: Any, text: bytes | None, checked: bytes | None = None) -> None:
        """Take one record, or its rejection. ``text`` is still to be checked; ``checked`` is not."""
        rejections, line = self.rejections, None
        full = rejections is not None and rejections.full
        reason = detail = RecordInvalid.reason
        # Where its words are dropped, most of a rejection's cost can be saved.
        if not full or (type(value) is dict and len(value) >= MEMBERS_MIN):
            try:
                line = (self._rules.encode_without_words if full else self._rules.encode)(value)
                if len(value) == 5 and "metadata" in value:
                    self.lines.append(line)
                    self.read += 1
                    return
            except RecordInvalid as error:
                reason, detail = error.reason, error.detail
        self.irregular = True
        if text is not None:
            try:
                jsontext.check(text, self._rules.depth_max)
            except ClientError as error:
                # Not even JSON: that is said in place of what else is wrong.
                self.reject(None, MALFORMED_RECORD, error.detail, text)
                return
        if line is None:
            detail = NOT_A_RECORD if text is not None and type(value) is list else detail
            self.reject(value, reason, detail, text or checked)
            return
        self.lines.append(line)
        self.read += 1
        self.unknown += unknown_members(value)

    def reject(self, value: Any, reason: str, detail: str, text: bytes | None = None) -> None:
        """Reject one record; ``text`` is what was sent, None where only its ``value`` is at hand."""
        rejections = self.rejections
        if rejections is None:
            rejections = self.rejections = Rejections()
        if rejections.full:
            rejections.count(self.read, reason)
        else:
            event_id = echo(value)
            rejections.add(self.read, event_id, reason, detail)
            if self._rules.keep_rejected and rejections.wants_rows:
                rejections.keep(_row(value, reason, detail, event_id, text))
        self.read += 1

    def parsed(self) -> Parsed:
        """Return what the bulk holds; raise NothingAccepted where no record is valid."""
        if not self.lines:
            detail = "the bulk holds no record" if self.rejections is None else "no record of the bulk is valid"
            raise NothingAccepted(detail, self.rejections or Rejections())
        return Parsed(self.lines, self.rejections, self.unknown, True)


def too_many(records_max: int) -> ClientError:
    """Return the error of a bulk of more records than its bound."""
    return ClientError("payload-too-large", f"a bulk holds at most {records_max} records; send several requests")


def _row(value: Any, reason: str, detail: str, event_id: str | None, text: bytes | None) -> Rejected:
    """A rejected record with its text, written anew where only the value is at hand."""
    if text is not None:
        return rejected(reason, detail, event_id, text)
    written, whole = excerpt(value, TEXT_BYTES_MAX)
    return Rejected(reason, detail, event_id, written, len(written) if whole else None)


def echo(value: Any) -> str | None:
    """Return the event_id of a rejected record, if it can be named: a string of whole characters, cut to its bound."""
    event_id = value.get("event_id") if type(value) is dict else None
    if type(event_id) is not str:
        return None
    event_id = event_id[:EVENT_ID_ECHO_CHARS_MAX]
    return None if jsontext.SURROGATE.search(event_id) else event_id
