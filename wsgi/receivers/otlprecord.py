"""What a log record of OTLP becomes, whatever it was encoded in.

What lives here: names of metadata, what a resource and a scope give to each of their records, and the last step from a
decoded record to a line. What must not: protobuf (``wsgi.receivers.otlpproto``), JSON (``wsgi.receivers.otlpjson``).

Attributes are kept apart by prefix: ``resource.``, ``scope.``, and none for the record's own. A name that is taken gets
``#2`` behind it. The data model: https://opentelemetry.io/docs/specs/otel/logs/data-model/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from inlet.stream.limits import RecordLimits
from wsgi.receivers import moments
from wsgi.receivers.bulk import MALFORMED_RECORD
from wsgi.receivers.flatten import PAIRS_MAX, PREFIX_CHARS_MAX, flatten, put, text
from wsgi.receivers.foreign import TRUNCATED, Lines

VALUES_MAX = 8_192
"""Values within arrays and maps that one record may hold; what is beyond is cut. They take 4 ms."""
DEPTH_MAX = 64
"""Arrays and maps within each other. Protobuf decoders stop at about 48."""
SHARED_PART = 4
"""A resource and its scope may take one of so many parts of a line."""
RECORD_UID = "log.record.uid"
"""Attribute that becomes the ``event_id``: "other log records with the same id will be considered duplicates and can be
removed safely" (semantic conventions, general log attributes)."""
SLOW = -1
"""Pairs to expect where some attribute needs the slow way: never as many as there are."""
SERVICE_NAME = "resource.service.name"

FIELDS_PER_RECORD, FIELDS_MORE = 8, 64
"""Fields outside of log records that a body may have for each record that it may have, and more: one with a resource
and a scope of its own has seven."""

Pairs = Iterable[tuple[str, Any]]
"""Names and values of attributes, as ``flatten.text`` takes them."""
Take = Callable[[str, "str | None", str, str, dict[str, str]], None]


class UnreadableRecord(Exception):
    """One record cannot become a line. Never leaves the receiver."""


class ValueRoom:
    """How many values within arrays and maps may still be read of one record."""

    __slots__ = ("cut", "left")

    def __init__(self) -> None:
        self.left, self.cut = VALUES_MAX, False

    def take(self) -> bool:
        """Return whether there is room for one more value."""
        if self.left <= 0:
            self.cut = True
            return False
        self.left -= 1
        return True


class OtlpShared(NamedTuple):
    """What a resource and a scope give to each of their records."""

    service: str
    metadata: dict[str, str]


class OtlpPart(NamedTuple):
    """A resource, or a scope."""

    attributes: Pairs
    more: Pairs
    """Its own fields, empty ones included."""
    cut: Iterable[str] = ()
    """Names of attributes that were cut."""


def fields_max(records_max: int) -> int:
    """Return how many fields outside of log records a body may have."""
    return FIELDS_PER_RECORD * records_max + FIELDS_MORE


def shared(resource: OtlpPart, scope: OtlpPart, limits: RecordLimits) -> OtlpShared:
    """Return what each record of a scope gets. It is bounded once here, and not in each record again."""
    found: dict[str, str] = {}
    numbers: dict[str, int] = {}
    cut: list[str] = []
    pairs_max = limits.metadata_pairs_max + 1  # and service.name, which is taken out again
    for prefix, part in (("resource.", resource), ("scope.", scope)):
        for name, value in part.more:
            if value:
                found[prefix + name] = text(value)
        for name, value in part.attributes:
            put_value(found, prefix + name, value, numbers, pairs_max)
        cut += [prefix + name for name in part.cut]
    service = found.pop(SERVICE_NAME, "")
    metadata: dict[str, str] = {}
    room = limits.record_bytes_max // SHARED_PART
    for name, value in found.items():
        if len(value) > limits.metadata_value_chars_max:
            value = value[: limits.metadata_value_chars_max]
            cut.append(name)
        room -= len(name) + len(value)
        if room < 0 or len(metadata) >= limits.metadata_pairs_max or len(name) > limits.metadata_key_chars_max:
            cut.append("metadata")
            break
        metadata[name] = value
    mark(metadata, cut)
    return OtlpShared(service, metadata)


def put_value(into: dict[str, str], name: str, value: Any, numbers: dict[str, int], pairs_max: int = PAIRS_MAX) -> None:
    """Add an attribute: a map as one pair for each of its members, anything else as text.

    ``numbers``: as in ``flatten.put``, for all that is added to ``into``. A map stops at ``pairs_max`` pairs.
    """
    if type(value) is dict and value and len(name) < PREFIX_CHARS_MAX:
        flatten(value, name + ".", into, pairs_max=pairs_max, numbers=numbers)
    else:
        put(into, name, text(value), numbers)


def mark(metadata: dict[str, str], cut: list[str]) -> None:
    """Note what was cut."""
    if cut:
        names = [metadata[TRUNCATED], *cut] if TRUNCATED in metadata else cut
        metadata[TRUNCATED] = ",".join(dict.fromkeys(names))


def deliver(take: Take, common: OtlpShared, timestamp: str | None, message: str, own: dict[str, str]) -> None:
    """Take one record; ``own`` is its metadata without what it shares. Raises as ``Lines.take``."""
    metadata = {**own, **common.metadata}
    if len(metadata) != len(own) + len(common.metadata):
        metadata = _merged(own, common.metadata)
    take(metadata.pop(RECORD_UID, ""), timestamp, common.service, message, metadata)


def _merged(own: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    """Both, where a name is in both."""
    found = dict(own)
    for name, value in other.items():
        if name == TRUNCATED:
            mark(found, value.split(","))
        else:
            put(found, name, value)
    return found


def moment(nanos: int, observed: int, own: dict[str, str]) -> str | None:
    """Return a record's time: its own, else when it was observed, else None. Keeps the latter in ``own``."""
    if not observed:
        return moments.from_nanos(nanos) if nanos else None
    seen = moments.from_nanos(observed) or ""
    own["observed_timestamp"] = seen
    return moments.from_nanos(nanos) if nanos else seen


def refuse(lines: Lines, detail: str, sent: bytes, reason: str = MALFORMED_RECORD) -> None:
    """Reject one record. Raises as ``Lines.reject``."""
    lines.reject(reason, detail, sent)
