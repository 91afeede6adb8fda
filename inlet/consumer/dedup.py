"""Leave out records whose event_id was seen within a time window. The state is in the store.

What lives here: the one step that marks the records of an entry and leaves out those seen elsewhere. What must
not: connections, reading.

A record's mark is its address: ``SET <stream>:seen:<group>:<event_id> <partition>/<entry ID>/<line> NX PX window``.
A record that finds its own address is being delivered again, and is handled; a record that finds another address is a
duplicate. So a crash between the mark and the handler loses nothing: the marked record is still pending.

Cost: one SET a record, and one store key a record for the length of the window; docs/consumers.md has figures.
"""

from __future__ import annotations

from inlet.consumer.entries import Address, Entry
from inlet.consumer.steps import Patient, Steps
from inlet.stream.keys import seen_key

PIPELINE_MAX = 5_000
"""Commands sent before their replies are read: bounds the buffers of both sides."""


def suppress(patient: Patient, entry: Entry, window_ms: int) -> Steps[Entry]:
    """Return the entry without its duplicates (SET NX PX, then GET for those that were there)."""
    key, group = patient.keys[0], patient.group
    marks = [(seen_key(key, group, record.event_id), _mark(address)) for address, record in entry.items()]
    duplicates: set[int] = set()
    for start in range(0, len(marks), PIPELINE_MAX):
        part = marks[start : start + PIPELINE_MAX]
        firsts = yield from patient.call([("SET", name, mark, "NX", "PX", window_ms) for name, mark in part])
        there = [number for number, first in enumerate(firsts) if first is None]
        if there:
            owners = yield from patient.call([("GET", part[number][0]) for number in there])
            # None: the window ended in between, so the record is no longer a duplicate.
            duplicates.update(
                start + number
                for number, owner in zip(there, owners, strict=True)
                if owner is not None and owner != part[number][1]
            )
    if not duplicates:
        return entry
    kept = [number for number in range(len(marks)) if number not in duplicates]
    return entry._replace(
        records=[entry.records[number] for number in kept],
        lines=[entry.lines[number] for number in kept],
        suppressed=len(duplicates),
    )


def _mark(address: Address) -> bytes:
    return f"{address.partition}/{address.entry_id}/{address.line}".encode()
