"""One record: validate, encode to a line, decode a line. Pure: decoded JSON in, bytes out, and back.

What lives here: the record contract of docs/protocol.md, its bounds, and the wire layout of one line. What
must not: HTTP, payload formats, Redis, clocks, any state.

The layout of a line, always valid JSON (RFC 8259) in UTF-8, with no space between tokens and no ``\\n``::

    ["event_id","timestamp","service","message",{"key":"value",...}]

The client's bytes are never passed on: ujson reads what JSON forbids (NaN, raw control characters, lone
surrogates), so a line is written anew from strings whose types were checked. Control characters leave
escaped; U+007F, U+2028 and U+2029 leave as they are, which RFC 8259 section 7 allows.

Decisions on the timestamp (RFC 3339 section 5.6), which is kept as sent:
- ``T`` and ``Z`` in either case; any number of fraction digits within the bound; always an offset (``-00:00``
  is one); a space in place of ``T`` is refused.
- A leap second ``:60`` is accepted only in the last minute of a month in UTC, where section 5.7 puts them; not at
  the very end of year 9999.
- Year 0000 is refused, though the grammar has it: most consumers' calendars begin with year 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, NamedTuple

import ujson

from wsgi.errors import RecordInvalid, RecordTooLarge

KNOWN_MEMBERS = frozenset({"event_id", "timestamp", "service", "message", "metadata"})
"""Members of a record; any other is ignored, and counted by ``unknown_members``."""

QUOTED_CHARS_MAX = 64
"""Characters of a producer's own text that a detail quotes, escaped to ASCII: enough to find a key by."""


class Record(NamedTuple):
    """One validated event. ``timestamp`` is RFC 3339, as the producer sent it."""

    event_id: str
    timestamp: str
    service: str
    message: str
    metadata: dict[str, str]


@dataclass(frozen=True)
class RecordLimits:
    """Bounds on one record. Lengths in characters are Unicode code points, as ``len`` counts them."""

    record_bytes_max: int = 262_144
    """Encoded line, bytes: a quarter of the default ``entry_bytes_max``, so that an entry holds several."""
    event_id_chars_max: int = 256
    """A UUID takes 36; 256 leaves room for a composed id."""
    service_chars_max: int = 256
    """A name, not a text."""
    message_chars_max: int = 131_072
    """A long stack trace fits; a core dump does not."""
    metadata_pairs_max: int = 128
    """Pairs: what labels need, far below what would make one record a table."""
    metadata_key_chars_max: int = 256
    """A name, not a text."""
    metadata_value_chars_max: int = 16_384
    """A header or a query fits."""
    timestamp_chars_max: int = 64
    """RFC 3339 with nanoseconds takes 35; bounds the fraction, which the grammar does not."""


# The pattern holds the calendar but for two rare cases, each of which sets a group: 29 February, and ``:60``.
_TIMESTAMP = re.compile(
    r"(?!0000)\d{4}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31"
    r"|(02-29))[Tt](?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|(60))(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
# PERF: nearly every timestamp has this form, whose pattern is tried in a third of the time (bench/micro.py).
_USUAL_TIMESTAMP = re.compile(
    r"[12]\d{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:Z|\+00:00)",
    re.ASCII,
)
_timestamp_match = _TIMESTAMP.fullmatch
_usual_match = _USUAL_TIMESTAMP.fullmatch
_join = "".join
_members = itemgetter("event_id", "timestamp", "service", "message", "metadata")
_loads = ujson.loads
_dumps = ujson.dumps

LOADS_ERRORS = (ValueError, OverflowError, RecursionError)
"""What ``ujson.loads`` raises on untrusted bytes; UnicodeError and JSONDecodeError are ValueErrors."""


def encoder(limits: RecordLimits) -> Callable[[object], bytes]:
    """Return ``encode(value) -> line`` with every bound in ``limits`` already bound.

    ``value`` is decoded JSON of any type. ``encode`` raises RecordTooLarge where a length is over its bound
    and RecordInvalid for every other fault; the detail names the member, or a lone surrogate, and is safe to
    show. ``metadata`` may be absent (then it is empty), but not null. Unknown members are ignored.

    One boolean decides the common case; ``_fault`` looks for words only once there is known to be a fault.
    """
    line_max, id_max = limits.record_bytes_max, limits.event_id_chars_max
    service_max = limits.service_chars_max
    message_max, stamp_max = limits.message_chars_max, limits.timestamp_chars_max
    pairs_max, key_max = limits.metadata_pairs_max, limits.metadata_key_chars_max
    value_max = limits.metadata_value_chars_max

    def encode(value: Any) -> bytes:
        try:
            event_id, timestamp, service, message, metadata = members = _members(value)
        except KeyError:
            if "metadata" in value:
                raise _fault(value, limits) from None
            return encode({**value, "metadata": {}})
        except TypeError:
            raise _fault(value, limits) from None
        try:
            # PERF: "".join and the pattern check types at the speed of C (bench/micro.py). Lengths are looked at one by
            # one only where all together are over the bound of one.
            _join((event_id, service, message))
            if (
                not 0 < len(event_id) <= id_max
                or not 0 < len(service) <= service_max
                or len(message) > message_max
                or not (stamp := _usual_match(timestamp) or _timestamp_match(timestamp))
                or len(timestamp) > stamp_max
                or (stamp.lastindex and not _is_rare_timestamp(timestamp))
                or type(metadata) is not dict
                or len(metadata) > pairs_max
                or (len(_join(metadata)) > key_max and max(map(len, metadata)) > key_max)
                or (len(_join(metadata.values())) > value_max and _over_values(metadata, value_max, line_max))
            ):
                raise _fault(value, limits)
        except TypeError:
            raise _fault(value, limits) from None
        try:
            # ensure_ascii, encode_html_chars, escape_forward_slashes: by position, since ujson takes names slowly.
            line = _dumps(members, False, False, False).encode()
        except (ValueError, OverflowError, TypeError):
            raise RecordInvalid("a string holds a lone surrogate, which is no character") from None
        if len(line) > line_max:
            raise RecordTooLarge(f"the record takes {len(line)} bytes; at most {line_max} are allowed")
        return line

    return encode


def unknown_members(value: dict[str, object]) -> int:
    """How many members of a *valid* record are unknown; 0 where ``value`` is the five members."""
    return len(value) - len(KNOWN_MEMBERS) + ("metadata" not in value)


def decode(line: bytes) -> Record:
    """Decode one line that ``encode`` wrote; ``decode(encode(x))`` gives ``x``'s known members.

    Strict on shape: an array of exactly five, four strings and an object of strings; not on what the strings hold,
    which is ``encode``'s to check. Raises RecordInvalid.
    """
    try:
        value = _loads(line)
    except LOADS_ERRORS:
        raise RecordInvalid("the line is not valid JSON") from None
    if type(value) is not list or len(value) != 5:
        raise RecordInvalid("a line is a JSON array of five elements")
    event_id, timestamp, service, message, metadata = value
    if not type(event_id) is type(timestamp) is type(service) is type(message) is str:
        raise RecordInvalid("the first four elements of a line are strings")
    if type(metadata) is not dict or any(type(member) is not str for member in metadata.values()):
        raise RecordInvalid("the fifth element of a line is an object of strings")
    return Record(event_id, timestamp, service, message, metadata)


def _is_rare_timestamp(timestamp: str) -> bool:
    """Whether a timestamp of the right form with 29 February or a second of 60 names a real moment."""
    offset = "+00:00" if timestamp[-1] in "Zz" else timestamp[-6:]
    minutes = int(offset[1:3]) * 60 + int(offset[4:6])
    try:
        minute = datetime.fromisoformat(timestamp[:10] + "T" + timestamp[11:16])
        if timestamp[17:19] != "60":
            return True
        utc = minute - timedelta(minutes=minutes if offset[0] == "+" else -minutes)
        after = utc + timedelta(minutes=1)
    except (ValueError, OverflowError):
        return False
    return (after.day, after.hour, after.minute) == (1, 0, 0)


def _over_values(metadata: dict[str, str], value_max: int, line_max: int) -> bool:
    """Whether a value, or all together, are over their bound: encoding may grow text sixfold."""
    return max(map(len, metadata.values())) > value_max or sum(map(len, metadata.values())) > line_max


def _fault(value: object, limits: RecordLimits) -> RecordInvalid:
    """The first fault of a value known to have one, in words."""
    if type(value) is not dict:
        return RecordInvalid(f"a record is a JSON object, not {_kind(value)}")
    missing = [name for name in ("event_id", "timestamp", "service", "message") if name not in value]
    if missing:
        return RecordInvalid("missing: " + ", ".join(missing))
    for name, chars_max in (
        ("event_id", limits.event_id_chars_max),
        ("timestamp", limits.timestamp_chars_max),
        ("service", limits.service_chars_max),
        ("message", limits.message_chars_max),
    ):
        member = value[name]
        if type(member) is not str:
            return RecordInvalid(f"{name} must be a string, not {_kind(member)}")
        if not member and name != "message":
            return RecordInvalid(f"{name} must not be empty")
        if len(member) > chars_max:
            return _too_long(name, len(member), chars_max)
    return _metadata_fault(value.get("metadata", {}), limits) or RecordInvalid(
        "timestamp must be RFC 3339 with an offset, and a day that exists, such as 2026-01-31T23:59:59.123Z"
    )


def _metadata_fault(metadata: object, limits: RecordLimits) -> RecordInvalid | None:
    if type(metadata) is not dict:
        return RecordInvalid(f"metadata must be an object of strings, not {_kind(metadata)}")
    if len(metadata) > limits.metadata_pairs_max:
        pairs, pairs_max = len(metadata), limits.metadata_pairs_max
        return RecordTooLarge(f"metadata has {pairs} pairs; at most {pairs_max} are allowed")
    for key, member in metadata.items():
        if type(key) is not str:
            return RecordInvalid("a metadata key must be a string")
        if len(key) > limits.metadata_key_chars_max:
            return _too_long("a metadata key", len(key), limits.metadata_key_chars_max)
        name = f"metadata {ascii(key)[:QUOTED_CHARS_MAX]}"
        if type(member) is not str:
            return RecordInvalid(f"{name} must be a string, not {_kind(member)}")
        if len(member) > limits.metadata_value_chars_max:
            return _too_long(name, len(member), limits.metadata_value_chars_max)
    chars = sum(map(len, metadata.values()))
    if chars > limits.record_bytes_max:
        bytes_max = limits.record_bytes_max
        return RecordTooLarge(f"metadata holds {chars} characters; a record takes at most {bytes_max} bytes")
    return None


def _too_long(name: str, chars: int, chars_max: int) -> RecordTooLarge:
    return RecordTooLarge(f"{name} is {chars} characters long; at most {chars_max} are allowed")


_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def _kind(value: object) -> str:
    """The JSON name of a decoded value's type."""
    return _KINDS.get(type(value), "a number")
