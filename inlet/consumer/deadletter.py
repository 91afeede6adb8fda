"""Dead letters: what could not be handled, kept in ``<stream>:dead`` with the reason, and how to replay it. Pure.

What lives here: the layout of a letter, written and read. What must not: connections.

A letter is one entry of the dead-letter stream, as redis-cli would write it::

    XADD logs:dead * reason handler-failed detail 'ValueError: ...' stream logs entry_id 17-0 line 3 group G
                     attempts 5 deliveries 7 record '["id-1",...]'

``attempts``: how often a handler was called with the record; ``deliveries``: how often the group received its entry.
``line`` is -1 if the whole entry was not Inlet's: ``record`` is then empty, and the entry's own fields follow,
with ``field:`` before each name. A replayed letter becomes a new entry at the end of the stream it came from.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from inlet.consumer import scripts
from inlet.consumer.entries import DETAIL_CHARS_MAX, WHOLE, Bad, Entry
from inlet.stream.entry import FIELD_COUNT, FIELD_RECORDS
from inlet.stream.errors import ConsumerError, RecordInvalid
from inlet.stream.keys import seen_key
from inlet.stream.record import decode

FIELD = b"field:"
PACKED = b"fields"
"""The field of a letter that holds all of another writer's fields where there are too many: ``<length>:<bytes>``..."""
FIELDS_MAX = 2_000
"""Names and values, together, of a letter's or an entry's fields that a script adds: Lua's stack holds about 8,000."""

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
    attempts: int
    deliveries: int
    record: bytes
    fields: list[bytes]


def letter(key: str, group: str, entry: Entry, bad: Bad) -> list[Any]:
    """Return the fields of the letter that keeps ``bad``, flat."""
    fields: list[Any] = [
        "reason", bad.reason, "detail", bad.detail[:DETAIL_CHARS_MAX].encode(errors="replace"), "stream", key,
        "entry_id", entry.entry_id, "line", bad.line, "group", group, "attempts", bad.attempts,
        "deliveries", entry.deliveries, "record", bad.raw,
    ]  # fmt: skip
    if bad.line != WHOLE:
        return fields
    if len(entry.fields) > FIELDS_MAX:
        return [*fields, PACKED, b"".join(b"%d:%b" % (len(value), value) for value in entry.fields)]
    for position, value in enumerate(entry.fields):
        fields.append(value if position % 2 else FIELD + value)
    return fields


def read(row: list[Any]) -> Letter:
    """Read one row of XRANGE on a dead-letter stream. Raises nothing: a missing text is empty, a bad number 0 or -1."""
    flat: list[bytes] = row[1]
    pairs = dict(zip(flat[::2], flat[1::2], strict=False))

    def text(name: bytes) -> str:
        return pairs.get(name, b"").decode(errors="replace")

    fields: list[bytes] = []
    for name, value in zip(flat[::2], flat[1::2], strict=False):
        if name == PACKED:
            fields += _unpack(value)
        elif name.startswith(FIELD):
            fields += [name[len(FIELD) :], value]
    return Letter(
        bytes(row[0]).decode(), text(b"reason"), text(b"detail"), text(b"stream"), text(b"entry_id"),
        _number(text(b"line"), WHOLE), text(b"group"), _number(text(b"attempts"), 0), _number(text(b"deliveries"), 0),
        pairs.get(b"record", b""), fields,
    )  # fmt: skip


def replay(key: str, item: Letter) -> tuple[Any, ...]:
    """Return the command that appends the letter's record to the stream ``key``, and deletes the letter.

    Raises ConsumerError for another writer's entry with more than ``FIELDS_MAX`` names and values, or of which fields
    are missing: there would be a letter less, and nothing in its place.
    """
    fields: list[Any] = item.fields if item.line == WHOLE else [FIELD_RECORDS, item.record, FIELD_COUNT, 1]
    if len(fields) > FIELDS_MAX:
        raise ConsumerError(f"letter {item.letter_id} has too many fields to be replayed; `dead show` prints them")
    if not fields or len(fields) % 2 or (item.line != WHOLE and not item.record):
        raise ConsumerError(f"letter {item.letter_id} is damaged: fields are missing; `dead show` prints what is left")
    return scripts.replay(key, item.letter_id, fields, _seen(key, item))


def _seen(key: str, item: Letter) -> list[bytes]:
    """Return the mark to delete: a reader with ``dedup_window_ms`` would take the replayed record for a duplicate."""
    try:
        return [seen_key(key, item.group, decode(item.record).event_id)]
    except RecordInvalid:
        return []


def _unpack(text: bytes) -> list[bytes]:
    """Return what ``letter`` packed, up to the first fault."""
    values: list[bytes] = []
    while text:
        length, _, text = text.partition(b":")
        size = _number(length.decode(errors="replace"), -1)
        if not 0 <= size <= len(text):
            break
        values.append(text[:size])
        text = text[size:]
    return values


def _number(text: str, default: int) -> int:
    try:
        return int(text[:20])
    except ValueError:
        return default
