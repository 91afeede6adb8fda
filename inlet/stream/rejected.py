"""Rejected records: what the server refused one by one, kept in ``<stream>:rejected``: layout and bounds. Pure.

What lives here: the layout of an entry, written and read, and how much of a record is kept. What must not: connections,
when a record is kept (``wsgi.sink.rejected``).

A rejected record is one entry, as redis-cli would write it; the time is in the entry ID::

    XADD logs:rejected MAXLEN 10000 * reason invalid-record detail 'missing: service' receiver native
                       event_id e-1 size 57 text '{"event_id":"e-1",...}'

``text`` is the record as the producer sent it, any bytes, cut at TEXT_BYTES_MAX; ``size`` is its length before the cut.
``event_id`` is absent where none could be read, ``size`` where the text is cut and nobody counted the rest.
"""

from __future__ import annotations

from typing import Any, NamedTuple

TEXT_BYTES_MAX = 4_096
"""Bytes of a record's text that are kept: most records are shorter, and the beginning of a longer one identifies it."""
DETAIL_BYTES_MAX = 1_024
"""Bytes of a detail that are kept; the answer to the producer had all of it."""
EVENT_ID_BYTES_MAX = 1_024
"""Bytes of an event_id that are kept: 256 characters of four bytes each."""
ENTRIES_MAX = 10_000
"""Entries that a ``<stream>:rejected`` holds; the oldest go first. With the three bounds above, the store needs at most
64 MB of memory for each stream, and 5 MB where the records have 400 bytes (MEMORY USAGE)."""

SIZE_DIGITS_MAX = 18
"""Digits of a size that is read; another writer may have put anything there."""


class Rejected(NamedTuple):
    """One refused record; ``rejected`` makes one from a text of any length."""

    reason: str
    detail: str
    event_id: str | None
    text: bytes
    """As sent, at most TEXT_BYTES_MAX bytes of it."""
    size: int | None = None
    """Bytes of the text before it was cut; None where nobody counted them, since they are over TEXT_BYTES_MAX."""


class RejectedEntry(NamedTuple):
    """A rejected record as read back."""

    entry_id: str
    reason: str
    detail: str
    receiver: str
    event_id: str | None
    size: int | None
    text: bytes


def rejected(reason: str, detail: str, event_id: str | None, text: bytes) -> Rejected:
    """Return a refused record whose whole ``text`` is at hand, cut to the bounds; the end of a line is dropped."""
    size = len(text) - text.endswith(b"\n") - text.endswith(b"\r\n")
    # A slice is a copy: a short one does not keep a body of megabytes alive.
    return Rejected(reason, detail[:DETAIL_BYTES_MAX], event_id, text[: min(size, TEXT_BYTES_MAX)], size)


def bytes_of(row: Rejected) -> int:
    """Return about how many bytes of memory a row takes in this process."""
    return ROW_BYTES + len(row.text) + len(row.detail) + 4 * len(row.event_id or "")


ROW_BYTES = 512
"""Bytes of a row beside its texts: the tuple, and the headers of five objects."""


def fields(row: Rejected, receiver: str) -> list[Any]:
    """Return the fields of the entry that keeps ``row``, flat."""
    found: list[Any] = [
        "reason", row.reason, "detail", row.detail.encode(errors="replace")[:DETAIL_BYTES_MAX], "receiver", receiver,
    ]  # fmt: skip
    if row.event_id is not None:
        found += ["event_id", row.event_id.encode(errors="replace")[:EVENT_ID_BYTES_MAX]]
    if row.size is not None:
        found += ["size", row.size]
    return [*found, "text", row.text[:TEXT_BYTES_MAX]]


def read(row: list[Any]) -> RejectedEntry:
    """Read one row of XRANGE. Raises nothing: what is missing is empty, or None."""
    values: list[bytes] = row[1]
    found = dict(zip(values[::2], values[1::2], strict=False))

    def text(name: bytes) -> str:
        return found.get(name, b"").decode(errors="replace")

    size = found.get(b"size", b"")
    return RejectedEntry(
        entry_id=bytes(row[0]).decode(),
        reason=text(b"reason"),
        detail=text(b"detail"),
        receiver=text(b"receiver"),
        event_id=text(b"event_id") if b"event_id" in found else None,
        size=int(size) if size.isdigit() and len(size) <= SIZE_DIGITS_MAX else None,
        text=found.get(b"text", b""),
    )
