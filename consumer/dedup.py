"""Suppression of doubled event_ids inside a time window, with the state in Redis.

What lives here: the one step that marks the records of an entry, and leaves out those seen elsewhere. What must
not: connections.

A record's mark is its address: ``SET <stream>:seen:<group>:<event_id> <partition>/<entry ID>/<line> NX PX window``.
A record that finds its own address there is being delivered again, and is handled; another's address makes it a
double. So a crash between the mark and the handler loses nothing: the marked one is still pending.

Cost: one SET a record, and a key for as long as the window is; docs/consumers.md has figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consumer import plan
from consumer.entries import Address, Entry

if TYPE_CHECKING:
    from consumer.core import Session
    from consumer.steps import Steps

PIPELINE_MAX = 5_000
"""Commands sent before their replies are read: bounds both sides' buffers."""


def suppress(session: Session, entry: Entry) -> Steps[Entry]:
    """The entry without the records that are doubles. Redis: SET NX PX, then GET for those that were there."""
    window = session.options.dedup_window_ms
    key, group = session.keys[0], session.group
    marks = [(plan.seen_key(key, group, record.event_id), _mark(address)) for address, record in entry.items()]
    doubled: set[int] = set()
    for start in range(0, len(marks), PIPELINE_MAX):
        part = marks[start : start + PIPELINE_MAX]
        firsts = yield from session.call([("SET", name, mark, "NX", "PX", window) for name, mark in part])
        there = [number for number, first in enumerate(firsts) if first is None]
        if there:
            owners = yield from session.call([("GET", part[number][0]) for number in there])
            # None: the window ended in between, so it is none any more.
            doubled.update(
                start + number
                for number, owner in zip(there, owners, strict=True)
                if owner is not None and owner != part[number][1]
            )
    if not doubled:
        return entry
    session.stats.suppressed += len(doubled)
    kept = [number for number in range(len(marks)) if number not in doubled]
    return entry._replace(
        records=[entry.records[number] for number in kept],
        lines=[entry.lines[number] for number in kept],
        suppressed=len(doubled),
    )


def _mark(address: Address) -> bytes:
    return f"{address.partition}/{address.entry_id}/{address.line}".encode()
