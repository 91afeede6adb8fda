"""Decoded JSON of OTLP: a log record to its parts, a resource and a scope to what their records share.

What lives here: which member becomes what. What must not: how texts are decoded (``wsgi.receivers.otlpjson``), what
both encodings have in common (``wsgi.receivers.otlprecord``).

OTLP/JSON (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding) is protobuf's JSON mapping, but ids are
hex and enums are numbers. Read besides: names in snake case and enums by name, as that mapping permits. Unknown members
are ignored; null is absent.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from wsgi.receivers.flatten import text
from wsgi.receivers.otlprecord import DEPTH_MAX, SLOW, OtlpPart, UnreadableRecord, ValueRoom, mark, moment, put_value

UINT64_MAX = 2**64 - 1
DIGITS_MAX = 20
"""Digits of a 64-bit number."""
HEX_LENGTHS = (16, 32)
"""Characters of a span id and of a trace id."""
SEVERITIES = {
    f"SEVERITY_NUMBER_{name}{more or ''}": 4 * row + max(more, 1)
    for row, name in enumerate(("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"))
    for more in (0, 2, 3, 4)
}
"""opentelemetry/proto/logs/v1/logs.proto, SeverityNumber."""
KINDS = {
    "stringValue": "string", "string_value": "string", "boolValue": "bool", "bool_value": "bool",
    "intValue": "int", "int_value": "int", "doubleValue": "double", "double_value": "double",
    "arrayValue": "array", "array_value": "array", "kvlistValue": "map", "kvlist_value": "map",
    "bytesValue": "bytes", "bytes_value": "bytes",
}  # fmt: skip
"""Member of an AnyValue -> what it holds."""


def member(value: dict[str, Any], name: str, snake: str = "") -> Any:
    """Return a member by either of its names; None if it is absent or null."""
    found = value.get(name)
    return value.get(snake) if found is None and snake else found


def record_of(record: Any, pairs_max: int) -> tuple[str | None, str, dict[str, str]]:
    """Return a log record's time, its message and its own metadata. Raises UnreadableRecord."""
    if type(record) is not dict:
        raise UnreadableRecord("the log record is no object")
    own: dict[str, str] = {}
    timestamp, attributes, room = _fixed(record, own), _list(record, "attributes"), ValueRoom()
    expected = len(own) + len(attributes)
    if expected > pairs_max or not _put_quick(own, attributes):
        expected = SLOW
    if len(own) != expected:
        own = {}
        _fixed(record, own)
        cut: list[str] = []
        numbers: dict[str, int] = {}
        for name, value in _pairs(attributes, pairs_max, room, cut):
            put_value(own, name, value, numbers, pairs_max + 1)
        mark(own, cut)
    body = record.get("body")
    room.cut = False
    message = "" if body is None else _message(plain(body, room))
    if room.cut:
        mark(own, ["message"])
    return timestamp, message, own


def _put_quick(own: dict[str, str], attributes: list[Any]) -> bool:
    """Add attributes of the ordinary kinds; return False if one is of another.

    PERF: a record with nine takes 6 us instead of 16.
    """
    try:
        for pair in attributes:
            value, name = pair["value"], pair["key"]
            found = value.get("stringValue")
            if type(found) is not str:
                if (found := value.get("intValue")) is not None:
                    found = str(integer(found))
                elif type(found := value.get("boolValue")) is bool:
                    found = "true" if found else "false"
                else:
                    return False
            if type(name) is not str:
                return False
            own[name] = found
    except (KeyError, TypeError, AttributeError):
        return False
    return True


def part_of(value: dict[str, Any], attributes: Any, schema_url: Any, pairs_max: int) -> OtlpPart:
    """Return what a resource or a scope gives to its records. Raises UnreadableRecord."""
    cut: list[str] = []
    pairs = list(_pairs(_list({"attributes": attributes}, "attributes"), pairs_max, ValueRoom(), cut))
    more: list[tuple[str, Any]] = [(name, _text(value, name)) for name in ("name", "version")]
    more.append(("schema_url", _text({"schemaUrl": schema_url}, "schemaUrl")))
    more.append(("dropped_attributes_count", _number(value, "droppedAttributesCount", "dropped_attributes_count")))
    return OtlpPart(pairs, more, cut)


def _fixed(record: dict[str, Any], own: dict[str, str]) -> str | None:
    """Put the members that are no attributes into ``own``; return the time."""
    timestamp = moment(
        _number(record, "timeUnixNano", "time_unix_nano"),
        _number(record, "observedTimeUnixNano", "observed_time_unix_nano"),
        own,
    )
    severity = member(record, "severityNumber", "severity_number")
    if severity:
        number = SEVERITIES.get(severity) if type(severity) is str else None
        number = number or _number({"severityNumber": 0 if severity in _UNSPECIFIED else severity}, "severityNumber")
        if number:
            own["severity_number"] = str(number)
    if severity_text := _text(record, "severityText", "severity_text"):
        own["severity_text"] = severity_text
    for name, camel in (("trace_id", "traceId"), ("span_id", "spanId")):
        if found := _text(record, camel, name):
            own[name] = found.lower() if len(found) in HEX_LENGTHS else found
    if flags := _number(record, "flags"):
        own["flags"] = str(flags)
    if event_name := _text(record, "eventName", "event_name"):
        own["event_name"] = event_name
    if dropped := _number(record, "droppedAttributesCount", "dropped_attributes_count"):
        own["dropped_attributes_count"] = str(dropped)
    return timestamp


_UNSPECIFIED = ("SEVERITY_NUMBER_UNSPECIFIED",)


def _message(value: Any) -> str:
    return "" if value is None else text(value)


def _pairs(attributes: list[Any], pairs_max: int, room: ValueRoom, cut: list[str]) -> list[tuple[str, Any]]:
    """Names and values of attributes, as many as a record may have, and one. Raises UnreadableRecord."""
    pairs = []
    for pair in islice(attributes, pairs_max + 1):
        if type(pair) is not dict:
            raise UnreadableRecord("an attribute is no object")
        name = _text(pair, "key")
        room.cut = False
        pairs.append((name, plain(pair.get("value"), room)))
        if room.cut:
            cut.append(name)
    return pairs


def plain(value: Any, room: ValueRoom, depth: int = 1) -> Any:
    """Return an AnyValue as plain JSON has it: bytes as base64, no value as None. Raises UnreadableRecord."""
    if value is None:
        return None
    if type(value) is not dict:
        raise UnreadableRecord('a value is no object such as {"stringValue":"..."}')
    for name, found in value.items():
        kind = KINDS.get(name)
        if kind is None or found is None:
            continue
        if kind in ("array", "map"):
            if depth >= DEPTH_MAX:
                raise UnreadableRecord(f"its arrays and maps nest more than {DEPTH_MAX} deep")
            if type(found) is not dict:
                raise UnreadableRecord(f"a value of the kind {name} is no object")
            return _nested(kind, _list(found, "values"), room, depth + 1)
        return _scalar(kind, name, found)
    return None


def _scalar(kind: str, name: str, found: Any) -> Any:
    """A string, a boolean, a number or bytes."""
    if kind == "int":
        return integer(found)
    if kind == "double" and type(found) is str:
        try:
            return float(found)
        except ValueError:
            raise UnreadableRecord("a doubleValue is no number") from None
    if kind == "double" and type(found) is int:
        return float(found) if abs(found) <= UINT64_MAX else found
    if type(found) is not {"string": str, "bytes": str, "bool": bool, "double": float}[kind]:
        raise UnreadableRecord(f"a value of the kind {name} has another type")
    return found


def _nested(kind: str, values: list[Any], room: ValueRoom, depth: int) -> Any:
    """An array, or a map: of its members with one name the last one counts."""
    if kind == "array":
        found = []
        for value in values:
            if not room.take():
                break
            found.append(plain(value, room, depth))
        return found
    members = {}
    for pair in values:
        if not room.take():
            break
        if type(pair) is not dict:
            raise UnreadableRecord("a member of a map is no object")
        members[_text(pair, "key")] = plain(pair.get("value"), room, depth)
    return members


def integer(value: Any) -> int:
    """Return a 64-bit number that was sent as a number or as its digits. Raises UnreadableRecord."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is str and len(value) <= DIGITS_MAX and value.removeprefix("-").isascii():
        digits = value.removeprefix("-")
        if digits.isdecimal():
            return int(value)
    raise UnreadableRecord("a whole number is something else")


def _number(value: dict[str, Any], name: str, snake: str = "") -> int:
    """A member that is a number of at most 64 bits, not negative; 0 if it is absent."""
    found = member(value, name, snake)
    if found is None:
        return 0
    try:
        number = integer(found)
    except UnreadableRecord:
        number = -1
    if not 0 <= number <= UINT64_MAX:
        raise UnreadableRecord(f"{name} is no number of 64 bits")
    return number


def _text(value: dict[str, Any], name: str, snake: str = "") -> str:
    """A member that is a string; empty if it is absent."""
    found = member(value, name, snake)
    if found is None:
        return ""
    if type(found) is not str:
        raise UnreadableRecord(f"{name} is no string")
    return found


def _list(value: dict[str, Any], name: str) -> list[Any]:
    """A member that is an array; empty if it is absent."""
    found = value.get(name)
    if found is None:
        return []
    if type(found) is not list:
        raise UnreadableRecord(f"{name} is no array")
    return found
