"""Inlet's downstream side: read a stream as a consumer group, at least once, without writing the loop again.

    from consumer import Reader

    with Reader("redis://localhost:6379/0", "logs", group="billing") as reader:
        reader.run(lambda record: print(record.service, record.message))

Read ``reader`` first (or ``aio``, the same for asyncio), then ``core`` (what is sent and why), ``entries`` (fields ->
records), ``handling`` (what a failing handler leads to), ``plan`` (every bound). ``python -m consumer`` is in
``command``. docs/consumers.md is the guide.
"""

from __future__ import annotations

from consumer.aio import AsyncReader
from consumer.core import Stats
from consumer.entries import Address, Bad, Entry
from consumer.errors import BadRecord, ConsumerError, Stopped, StoreAway, StoreRefuses
from consumer.plan import Options
from consumer.reader import Reader
from wsgi.record import Record

__all__ = [
    "Address",
    "AsyncReader",
    "Bad",
    "BadRecord",
    "ConsumerError",
    "Entry",
    "Options",
    "Reader",
    "Record",
    "Stats",
    "Stopped",
    "StoreAway",
    "StoreRefuses",
]
