"""Dead letters: what could not be handled, kept in ``<stream>:dead`` with the reason, and how to replay it. Pure.

What lives here: the layout of a letter, written and read. What must not: connections.

A letter is one entry of the dead-letter stream, as redis-cli would write it::

    XADD logs:dead * reason handler-failed detail 'ValueError: ...' stream logs entry_id 17-0 line 3 group G
                     deliveries 5 record '["id-1",...]'

``line`` is -1 if the whole entry was not Inlet's: ``record`` is then empty, and the entry's own fields follow,
with ``field:`` before each name. A replayed letter becomes a new entry at the end of the stream it came from.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from inlet.consumer.entries import DETAIL_CHARS_MAX, WHOLE, Bad, Entry
from inlet.stream.entry import FIELD_COUNT, FIELD_RECORDS
from inlet.stream.errors import RecordInvalid
from inlet.stream.keys import dead_key, seen_key
from inlet.stream.record import decode

FIELD = b"field:"

HANDLER_FAILED = "handler-failed"
CONSUMER_DIED = "consumer-died"
BAD_RECORD = "bad-record"


class Letter(NamedTuple):
    """A dead letter as read back. ``fields``: the original entry's, if ``line`` is -1."""

    letter_id: str
    reason: str
    detail: str
    stream: str
    entry_id: str
    line: int
    group: str
    deliveries: int
    record: bytes
    fields: list[bytes]


def letter(key: str, group: str, entry: Entry, bad: Bad) -> tuple[Any, ...]:
    """Return the XADD that keeps ``bad``."""
    command: tuple[Any, ...] = (
        "XADD", dead_key(key), "*",
        "reason", bad.reason, "detail", bad.detail[:DETAIL_CHARS_MAX].encode(errors="replace"), "stream", key,
        "entry_id", entry.entry_id, "line", bad.line, "group", group, "deliveries", entry.deliveries,
        "record", bad.raw,
    )  # fmt: skip
    if bad.line == WHOLE:
        for position, value in enumerate(entry.fields):
            command += (value if position % 2 else FIELD + value,)
    return command


def read(row: list[Any]) -> Letter:
    """Read one row of XRANGE on a dead-letter stream. Raises nothing: a missing text is empty, a bad number 0 or -1."""
    flat: list[bytes] = row[1]
    pairs = dict(zip(flat[::2], flat[1::2], strict=False))

    def text(name: bytes) -> str:
        return pairs.get(name, b"").decode(errors="replace")

    fields: list[bytes] = []
    for name, value in zip(flat[::2], flat[1::2], strict=False):
        if name.startswith(FIELD):
            fields += [name[len(FIELD) :], value]
    return Letter(
        bytes(row[0]).decode(), text(b"reason"), text(b"detail"), text(b"stream"), text(b"entry_id"),
        _number(text(b"line"), WHOLE), text(b"group"), _number(text(b"deliveries"), 0), pairs.get(b"record", b""),
        fields,
    )  # fmt: skip


def replay(key: str, item: Letter) -> list[tuple[Any, ...]]:
    """Return one transaction: append the letter's record to the stream ``key``, and delete the letter."""
    fields: list[Any] = item.fields if item.line == WHOLE else [FIELD_RECORDS, item.record, FIELD_COUNT, 1]
    add = [("XADD", key, "*", *fields)] if fields else []
    return [("MULTI",), *add, *_forget_seen(key, item), ("XDEL", dead_key(key), item.letter_id), ("EXEC",)]


def _forget_seen(key: str, item: Letter) -> list[tuple[Any, ...]]:
    """Delete the mark: a reader with ``dedup_window_ms`` would take the replayed record for a duplicate."""
    try:
        event_id = decode(item.record).event_id
    except RecordInvalid:
        return []
    return [("DEL", seen_key(key, item.group, event_id))]


def _number(text: str, default: int) -> int:
    try:
        return int(text[:20])
    except ValueError:
        return default
