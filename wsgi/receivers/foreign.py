"""A foreign record as a line: whatever a shipper sends, within the bounds of the contract.

What lives here: ids, bounds that cut, the lines of one request with the records that it refused, and what receivers of
such records share. What must not: protocols, how a body is read, where a record's parts stand in it.

A shipper cannot fix its records. So what is over a bound is cut, between two characters, and the member
``inlet.truncated`` names what was cut; characters that no UTF-8 text can hold become U+FFFD.

An id that the client did not send is a digest of the record and its position in its request, so that a client's retry
of the same request has the same ids (``INLET_DEDUP_SECONDS``): of the whole record, also where its line holds less. A
record with neither an id nor a time of its own gets a new id each time, and so does one with more pairs than a record
may have: two of them that look alike may be two events, and losing one would be worse than storing a retry twice.
"""

from __future__ import annotations

import secrets
import time
from hashlib import blake2b
from typing import Any

import ujson

from inlet.stream.limits import RecordLimits
from inlet.stream.rejected import rejected
from wsgi.problems import ClientError
from wsgi.receivers import moments
from wsgi.receivers.bulk import EVENT_ID_ECHO_CHARS_MAX
from wsgi.receivers.jsontext import SURROGATE
from wsgi.receivers.mounting import Bounds
from wsgi.receivers.parsed import Parsed, Rejections

ID_BYTES = 16
"""Bytes of a digest: two of a billion records share one in 10^20 cases."""
TRUNCATED = "inlet.truncated"
"""Name of the metadata that lists what was cut."""
UNKNOWN_SERVICE = "unknown"
"""Service of a record that names none."""
GROWTH_MAX = 8
"""Bytes of lines that a request may become, for each byte that its body may have. What many records share, as the
attributes of a resource, is written into each of them: without a bound, 1 MiB could become terabytes."""
SIX = 6
"""Bytes that one character may take in a line: ``\\u0001``."""

MARK_BYTES = 1_024
"""Bytes of a line that are kept for the mark, where a line is cut to its bound."""
SHORT_BYTES = 64
"""Bytes of a value that is dropped with its name rather than cut."""
MESSAGE: tuple[str, ...] = ()
"""Stands for the message where each pair of the metadata is a tuple of its name."""

_dumps = ujson.dumps


class Foreign:
    """Writes records as lines. Holds no state: safe between threads. ``receiver``: its name, a part of each id."""

    def __init__(self, receiver: str, limits: RecordLimits) -> None:
        self._salt = receiver.encode()
        self._limits = limits
        self._marks = limits.metadata_pairs_max > 0 and limits.metadata_key_chars_max >= len(TRUNCATED)

    def line(
        self,
        event_id: str,
        timestamp: str | None,
        service: str,
        message: str,
        metadata: dict[str, str],
        position: int,
    ) -> bytes:
        """Return the line of a record. Raises nothing.

        ``event_id``: empty if there is none. ``timestamp``: valid, None if there is none, and then it is the time of
        arrival. ``service``: may be empty. ``metadata``: belongs to the record afterwards. ``position``: in its
        request, from 0.
        """
        limits = self._limits
        timed = timestamp is not None
        if timestamp is None:
            timestamp = moments.from_nanos(time.time_ns()) or ""
        service = service or UNKNOWN_SERVICE
        if TRUNCATED in metadata or len(metadata) > limits.metadata_pairs_max:
            timed = False  # Others may have the same beginning.
        uncut = b""
        if (
            len(event_id) > limits.event_id_chars_max
            or len(service) > limits.service_chars_max
            or len(message) > limits.message_chars_max
            or len(timestamp) > limits.timestamp_chars_max
            or len(metadata) > limits.metadata_pairs_max
            # PERF: of few characters in all, none is too long by itself (a tenth of a record with four pairs).
            or (
                len("".join(metadata)) > limits.metadata_key_chars_max
                and max(map(len, metadata)) > limits.metadata_key_chars_max
            )
            or (
                len("".join(metadata.values())) > limits.metadata_value_chars_max
                and max(map(len, metadata.values())) > limits.metadata_value_chars_max
            )
        ):
            uncut = _encode(timestamp, service, message, metadata)
            event_id, timestamp, service, message, metadata = self._cut(event_id, timestamp, service, message, metadata)
        rest = _encode(timestamp, service, message, metadata)
        if len(rest) + SIX * limits.event_id_chars_max + 4 > limits.record_bytes_max:
            uncut = uncut or rest
            message, metadata = whole(message), {whole(name): whole(value) for name, value in metadata.items()}
            rest = self._fit(timestamp, whole(service), message, metadata)
        if not event_id:
            event_id = self._digest(uncut or rest, position) if timed else secrets.token_hex(ID_BYTES)
            return b'["%b",%b' % (event_id.encode(), rest[1:])  # hex needs no escapes
        try:
            return b"[%b,%b" % (_dumps(event_id, False, False, False).encode(), rest[1:])
        except ValueError:
            return b"[%b,%b" % (_dumps(whole(event_id), False, False, False).encode(), rest[1:])

    def _digest(self, rest: bytes, position: int) -> str:
        """The id of a record with a time: 32 hex digits."""
        return blake2b(rest, digest_size=ID_BYTES, key=self._salt, salt=position.to_bytes(16, "little")).hexdigest()

    def _cut(
        self, event_id: str, timestamp: str, service: str, message: str, metadata: dict[str, str]
    ) -> tuple[str, str, str, str, dict[str, str]]:
        """The parts within their bounds, as characters."""
        limits, cut = self._limits, []
        if len(event_id) > limits.event_id_chars_max:
            # Cut, two ids could be one.
            event_id = blake2b(event_id.encode(errors="replace"), digest_size=ID_BYTES, key=self._salt).hexdigest()
            cut.append("event_id")
        if len(timestamp) > limits.timestamp_chars_max:
            # A longest fraction is all that can be too long; the offset stays.
            offset = timestamp[-1:] if timestamp[-1:] in "Zz" else timestamp[-6:]
            timestamp = timestamp[: limits.timestamp_chars_max - len(offset)] + offset
            cut.append("timestamp")
        if len(service) > limits.service_chars_max:
            service = service[: limits.service_chars_max]
            cut.append("service")
        if len(message) > limits.message_chars_max:
            message = message[: limits.message_chars_max]
            cut.append("message")
        found: dict[str, str] = {}
        for name, value in metadata.items():
            if len(name) > limits.metadata_key_chars_max:
                name = name[: limits.metadata_key_chars_max]
                cut.append(name)
                if name in found:
                    continue
            if len(value) > limits.metadata_value_chars_max:
                value = value[: limits.metadata_value_chars_max]
                cut.append(name)
            found[name] = value
        return event_id, timestamp, service, message, self._marked(found, cut)

    def _marked(self, metadata: dict[str, str], cut: list[str]) -> dict[str, str]:
        """``metadata`` with at most as many pairs as there may be, and the mark where something was cut."""
        limits, before = self._limits, metadata.get(TRUNCATED)
        if len(metadata) > limits.metadata_pairs_max:
            cut.append("metadata")
            metadata = dict(list(metadata.items())[: limits.metadata_pairs_max])
        if not cut or not self._marks:
            return metadata
        if len(metadata) >= limits.metadata_pairs_max and TRUNCATED not in metadata:
            cut.append("metadata")
            del metadata[next(reversed(metadata))]
        if before:  # what the receiver itself cut
            cut = [*before.split(","), *cut]
        mark = ",".join(dict.fromkeys(cut))[: limits.metadata_value_chars_max]
        return {**metadata, TRUNCATED: mark}

    def _fit(self, timestamp: str, service: str, message: str, metadata: dict[str, str]) -> bytes:
        """The same where the line would have too many bytes: the longest part is cut, until it fits."""
        limits = self._limits
        room = limits.record_bytes_max - SIX * limits.event_id_chars_max - 4 - MARK_BYTES
        mark, cut = metadata.get(TRUNCATED, ""), dict[str, None]()
        parts: dict[tuple[str, ...], str] = {
            MESSAGE: message,
            **{(name,): value for name, value in metadata.items() if name != TRUNCATED},
        }
        sizes = {key: _bytes(text) for key, text in parts.items()}
        names = {key: _bytes(*key) + 4 for key in parts}
        over = _bytes(timestamp) + _bytes(service) + 64 + sum(sizes.values()) + sum(names.values()) - room
        while over > 0 and parts:
            key = max(sizes, key=sizes.__getitem__)
            cut[key[0] if key else "message"] = None
            before = sizes[key]
            if before > SHORT_BYTES or key is MESSAGE:
                parts[key] = _shorter(parts[key], min(over, before - 2))
                sizes[key] = _bytes(parts[key])
                over -= before - sizes[key]
                if before > 2:
                    continue
            # Only short ones are left: whole pairs go, the last ones first.
            key = next(reversed(parts))
            if key is MESSAGE:
                break
            over -= sizes.pop(key) + names.pop(key)
            del parts[key]
            cut["metadata"] = None
        if over > 0:
            service, cut["service"] = service[:1], None
        message = parts.pop(MESSAGE)
        found = {key[0]: value for key, value in parts.items()}
        if self._marks:
            if len(found) >= limits.metadata_pairs_max:
                del found[next(reversed(found))]
            said = ",".join(filter(None, (mark, *cut)))
            found[TRUNCATED] = said[: min(limits.metadata_value_chars_max, (MARK_BYTES - 32) // SIX)]
        return _dumps((timestamp, service, message, found), False, False, False).encode()


def _encode(timestamp: str, service: str, message: str, metadata: dict[str, str]) -> bytes:
    """What a line has behind its event_id, as an array."""
    try:
        return _dumps((timestamp, service, message, metadata), False, False, False).encode()
    except (ValueError, OverflowError):
        metadata = {whole(name): whole(value) for name, value in metadata.items()}
        return _dumps((timestamp, whole(service), whole(message), metadata), False, False, False).encode()


def _bytes(text: str = "") -> int:
    """Bytes that a text takes in a line."""
    return len(_dumps(text, False, False, False).encode())


def _shorter(text: str, over: int) -> str:
    """``text`` without what takes ``over`` bytes at least, or half of it, if that is less."""
    kept = text
    while kept and over > 0:
        part = kept[len(kept) - max(1, over // SIX) :]
        over -= len(_dumps(part, False, False, False).encode()) - 2
        kept = kept[: len(kept) - len(part)]
    return kept


def whole(text: str) -> str:
    """Return ``text`` with U+FFFD in place of each half of a UTF-16 pair."""
    return SURROGATE.sub("\ufffd", text)


class Lines:
    """The records of one request that were read, and what became of them."""

    __slots__ = ("_bytes", "_bytes_max", "_foreign", "_keep", "_records_max", "lines", "read", "rejections")

    def __init__(self, foreign: Foreign, *, records_max: int, bytes_max: int, keep_rejected: bool = False) -> None:
        """``bytes_max``: bytes that the body may have; its lines may have GROWTH_MAX times as many."""
        self._foreign = foreign
        self._records_max, self._bytes_max, self._bytes = records_max, GROWTH_MAX * bytes_max, 0
        self._keep = keep_rejected
        self.lines: list[bytes] = []
        self.rejections: Rejections | None = None
        self.read = 0
        """Records so far: the position of the next one."""

    def take(self, event_id: str, timestamp: str | None, service: str, message: str, metadata: dict[str, str]) -> None:
        """Take one record, as ``Foreign.line`` does. Raises ClientError (``payload-too-large``) beyond the bounds."""
        position = self._count()
        line = self._foreign.line(event_id, timestamp, service, message, metadata, position)
        self._bytes += len(line)
        if self._bytes > self._bytes_max:
            detail = (
                f"the records of the body take over {self._bytes_max} bytes with what they share; send fewer at once"
            )
            raise ClientError("payload-too-large", detail)
        self.lines.append(line)

    def reject(self, reason: str, detail: str, text: bytes, event_id: str | None = None) -> None:
        """Refuse one record, of which ``text`` was sent. Raises as ``take``."""
        position = self._count()
        rejections = self.rejections
        if rejections is None:
            rejections = self.rejections = Rejections()
        if rejections.full:
            rejections.count(position, reason)
            return
        echo = None if event_id is None else whole(event_id[:EVENT_ID_ECHO_CHARS_MAX])
        rejections.add(position, echo, reason, detail)
        if self._keep and rejections.wants_rows:
            rejections.keep(rejected(reason, detail, echo, text))

    def parsed(self, context: Any = None) -> Parsed:
        """Return what the request holds: maybe no line at all."""
        return Parsed(self.lines, self.rejections, 0, context)

    def _count(self) -> int:
        position = self.read
        if position >= self._records_max:
            raise too_many(self._records_max)
        self.read = position + 1
        return position


def too_many(records_max: int) -> ClientError:
    """Return the error of a request of more records, or of more of what holds them, than its bound."""
    return ClientError("payload-too-large", f"a request holds at most {records_max} records; send several requests")


class ForeignReceiver:
    """What the receivers of foreign records share: traits as most of them have them, and the lines of a request."""

    name: str
    methods: tuple[str, ...] = ("POST",)
    receipts, addressed, partial, probed = False, False, False, False

    def __init__(self, bounds: Bounds) -> None:
        self.bytes_max = bounds.payload.payload_bytes_max
        self._bounds = bounds
        self._foreign = Foreign(self.name, bounds.record)

    def _lines(self) -> Lines:
        bounds = self._bounds
        return Lines(
            self._foreign,
            records_max=bounds.payload.bulk_records_max,
            bytes_max=self.bytes_max,
            keep_rejected=bounds.keep_rejected,
        )
