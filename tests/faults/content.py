"""What a record with a given event id holds: decided by the id alone, so that nobody has to remember what was sent.

What lives here: the record as a client sends it, and the line that the store must then hold, byte for byte. What must
not: clients, the store, and Inlet's own encoder, which this checks.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

SERVICES = ("checkout", "mail", "søk-og-finn", "a" * 256, 'quote"back\\slash', "日本語", "0")
STAMPS = (
    "2026-01-31T23:59:59.123Z",
    "2024-02-29t00:00:00z",
    "1999-12-31T23:59:60+00:00",
    "2026-06-15T12:30:45.123456789-11:30",
    "0001-01-01T00:00:00-00:00",
)
MESSAGES = (
    "",
    "paid",
    "line one\nline two\r\n\ttabbed",
    "controls \x01\x1f\x7f, separators \u2028\u2029, a slash / and <b>&amp;</b>",
    "m\u00e9lange \U0001f600 \u202e",
    'JSON in text: ["a","b",{"n":"1"}]\\n',
    "long " * 150,
)
METADATA: tuple[dict[str, str] | None, ...] = (
    {"region": "eu-1"},
    {},
    None,  # absent; stored as {}
    {"": "", "ключ": "значение", "n": "1\n2"},
    {f"key-{number}": "v" * number for number in range(12)},
)


def sent(event_id: str) -> dict[str, Any]:
    """The record that a client sends: every fourth with a member that Inlet does not know, which is not stored."""
    event_id, stamp, service, message, metadata = _members(event_id)
    more = {"unknown": [1, {"nested": None}]} if zlib.crc32(event_id.encode()) % 4 == 0 else {}
    known = {} if metadata is None else {"metadata": metadata}
    return {"event_id": event_id, "timestamp": stamp, "service": service, "message": message, **known, **more}


def stored(event_id: str) -> tuple[str, str, str, str, dict[str, str]]:
    """The five members that a consumer must get."""
    event_id, stamp, service, message, metadata = _members(event_id)
    return event_id, stamp, service, message, metadata or {}


def line(event_id: str) -> bytes:
    """The line that the store must hold (docs/protocol.md): JSON without spaces, UTF-8, no needless escapes."""
    return json.dumps(stored(event_id), ensure_ascii=False, separators=(",", ":")).encode()


def _members(event_id: str) -> tuple[str, str, str, str, dict[str, str] | None]:
    number = zlib.crc32(event_id.encode())
    number, stamp = divmod(number, len(STAMPS))
    number, service = divmod(number, len(SERVICES))
    number, message = divmod(number, len(MESSAGES))
    return event_id, STAMPS[stamp], SERVICES[service], MESSAGES[message], METADATA[number % len(METADATA)]
