"""One record: validate, encode to a line, decode a line. Pure: decoded JSON in, bytes out, and back.

What lives here: the record contract of docs/protocol.md, and the wire layout of one line. What must not: HTTP, payload
formats, Redis, clocks, any state, words for what is wrong (``inlet.stream.faults``).

The layout of a line, always valid JSON (RFC 8259) in UTF-8, with no space between tokens and no ``\\n``::

    ["event_id","timestamp","service","message",{"key":"value",...}]

The client's bytes are never passed on: ujson reads what JSON forbids (NaN, raw control characters, lone
surrogates), so a line is written anew from strings whose types were checked. Control characters leave
escaped; U+007F, U+2028 and U+2029 leave as they are, which RFC 8259 section 7 allows.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import ujson

from inlet.stream import timestamp as timestamps
from inlet.stream.errors import RecordInvalid
from inlet.stream.faults import refusal, too_many_bytes
from inlet.stream.limits import RecordLimits

KNOWN_MEMBERS = frozenset({"event_id", "timestamp", "service", "message", "metadata"})
"""Members of a record; any other is ignored, and counted by ``unknown_members``."""


class Record(NamedTuple):
    """One validated event. ``timestamp`` is RFC 3339, as the producer sent it."""

    event_id: str
    timestamp: str
    service: str
    message: str
    metadata: dict[str, str]


_timestamp_match = timestamps.match
_usual_match = timestamps.match_usual
_join = "".join
_chain = chain.from_iterable
_members = itemgetter("event_id", "timestamp", "service", "message", "metadata")
_loads = ujson.loads
_dumps = ujson.dumps

LOADS_ERRORS = (ValueError, OverflowError, RecursionError)
"""What ``ujson.loads`` raises on untrusted bytes; UnicodeError and JSONDecodeError are ValueErrors."""


def encoder(
    limits: RecordLimits, refusal: Callable[[object, RecordLimits], RecordInvalid] = refusal
) -> Callable[[object], bytes]:
    """Return ``encode(value) -> line`` with every bound in ``limits`` already bound.

    ``value`` is decoded JSON of any type. ``encode`` raises RecordTooLarge where lengths over their bounds are all
    that is wrong, else RecordInvalid; the detail names every fault and is safe to show. ``metadata`` may be absent
    (then it is empty), but not null. Unknown members are ignored. One boolean decides the common case. ``refusal``
    makes the error: ``inlet.stream.faults.verdict`` in its place does so without the words.
    """
    line_max, id_max, service_max = limits.record_bytes_max, limits.event_id_chars_max, limits.service_chars_max
    message_max, stamp_max, pairs_max = limits.message_chars_max, limits.timestamp_chars_max, limits.metadata_pairs_max
    key_max, value_max = limits.metadata_key_chars_max, limits.metadata_value_chars_max

    def encode(value: Any) -> bytes:
        try:
            event_id, timestamp, service, message, metadata = members = _members(value)
        except KeyError:
            if "metadata" in value:
                raise refusal(value, limits) from None
            return encode({**value, "metadata": {}})
        except TypeError:
            raise refusal(value, limits) from None
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
                or (stamp.lastindex and not timestamps.is_rare(timestamp))
                or type(metadata) is not dict
                or len(metadata) > pairs_max
                or (len(_join(metadata)) > key_max and max(map(len, metadata)) > key_max)
                or (len(_join(metadata.values())) > value_max and _over_values(metadata, value_max, line_max))
            ):
                raise refusal(value, limits)
        except TypeError:
            raise refusal(value, limits) from None
        try:
            # ensure_ascii, encode_html_chars, escape_forward_slashes: by position, since ujson takes names slowly.
            line = _dumps(members, False, False, False).encode()
        except (ValueError, OverflowError, TypeError):
            raise refusal(value, limits) from None  # a lone surrogate
        if len(line) > line_max:
            raise too_many_bytes(len(line), limits)
        return line

    return encode


def bulk_encoder(limits: RecordLimits) -> Callable[[list[Any]], tuple[list[bytes], int, bool] | None]:
    """Return ``encode_bulk(values) -> (lines, unknown members, all five)``: ``encode`` for several values at once.

    The last one is whether each value is exactly the five members. ``encode_bulk`` returns None where it is not certain
    that every value is valid: then call ``encode`` for each. It raises nothing. PERF: a member is checked for all
    values at once, by loops in C (bench/micro.py: record.encode, record.encode_bulk).
    """
    line_max, id_max, service_max = limits.record_bytes_max, limits.event_id_chars_max, limits.service_chars_max
    message_max, stamp_max, pairs_max = limits.message_chars_max, limits.timestamp_chars_max, limits.metadata_pairs_max
    key_max, value_max = limits.metadata_key_chars_max, limits.metadata_value_chars_max

    def columns(values: list[Any]) -> list[tuple[Any, ...]] | None:
        """The five members of each value, or None."""
        members = list(map(_members, values))
        ids, stamps, services, messages, metadata = zip(*members, strict=True)
        # Joining checks types. No key is longer than all of them, and no value than all of the bulk's: lengths are
        # looked at one by one only where that does not decide.
        _join(ids), _join(services), _join(messages)
        if set(map(type, metadata)) != {dict}:
            return None
        keys = set().union(*metadata)
        chars = len(_join(_chain(map(dict.values, metadata))))
        usual = (
            all(ids)
            and all(services)
            and max(map(len, ids)) <= id_max
            and max(map(len, services)) <= service_max
            and max(map(len, messages)) <= message_max
            and (all(map(_usual_match, stamps)) or all(map(timestamps.is_valid, stamps)))
            and max(map(len, stamps)) <= stamp_max
            and max(map(len, metadata)) <= pairs_max
            and (len(_join(keys)) <= key_max or max(map(len, keys)) <= key_max)
            # Encoding may grow text sixfold: no line is tried whose values alone are over its bound.
            and chars <= line_max
            and (chars <= value_max or max(map(len, _chain(map(dict.values, metadata)))) <= value_max)
        )
        return members if usual else None

    def encode_bulk(values: list[Any]) -> tuple[list[bytes], int, bool] | None:
        usual = True
        try:
            try:
                members = columns(values)
            except KeyError:
                usual = False
                values = [value if "metadata" in value else {**value, "metadata": {}} for value in values]
                members = columns(values)
            if members is None:
                return None
            lines = [_dumps(each, False, False, False).encode() for each in members]
        except (TypeError, KeyError, ValueError, OverflowError):
            return None
        if max(map(len, lines)) > line_max:
            return None
        unknown = sum(map(len, values)) - len(values) * len(KNOWN_MEMBERS)
        return lines, unknown, usual and not unknown

    return encode_bulk


def service_token(line: bytes) -> bytes:
    """Return what stands for the service of a line that ``encode`` wrote: equal where the services are, and only there.

    That is the text of the element, cut off at the first ``","``. A quote within an element is escaped, so these three
    bytes stand between two elements, or where an element ends with ``",``. Then what is cut off ends with an odd number
    of backslashes, as no whole element does, and the next element still begins where the next part does.
    """
    return line.split(b'","', 3)[2]


def token_of_service(service: str) -> bytes:
    """Return what ``service_token`` returns for the lines of this service."""
    return service_token(_dumps(("-", "-", service, "-", {}), False, False, False).encode())


def unknown_members(value: dict[str, object]) -> int:
    """Return how many members of a *valid* record are unknown; 0 where ``value`` is the five members."""
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


def _over_values(metadata: dict[str, str], value_max: int, line_max: int) -> bool:
    """Whether a value, or all together, are over their bound: encoding may grow text sixfold."""
    return max(map(len, metadata.values())) > value_max or sum(map(len, metadata.values())) > line_max
