"""Read what Inlet has stored: consumer groups over a Redis stream, at least once, without writing the loop again.

    from inlet import Reader

    with Reader("redis://localhost:6379/0", "logs", group="billing") as reader:
        reader.run(lambda record: print(record.service, record.message))

``inlet.stream`` is the stream's contract, ``inlet.consumer`` the library, ``inlet.command`` the ``inlet`` command.
docs/consumers.md is the guide.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inlet.consumer.aio import AsyncReader
    from inlet.consumer.entries import Address, Bad, Entry
    from inlet.consumer.errors import BadRecord, HandlerTimeout, Stopped
    from inlet.consumer.options import Options
    from inlet.consumer.reader import Reader
    from inlet.consumer.session import Stats
    from inlet.stream.errors import ConsumerError, StoreAway, StoreRefuses
    from inlet.stream.record import Record

_HOMES = {
    "Address": "inlet.consumer.entries",
    "AsyncReader": "inlet.consumer.aio",
    "Bad": "inlet.consumer.entries",
    "BadRecord": "inlet.consumer.errors",
    "ConsumerError": "inlet.stream.errors",
    "Entry": "inlet.consumer.entries",
    "HandlerTimeout": "inlet.consumer.errors",
    "Options": "inlet.consumer.options",
    "Reader": "inlet.consumer.reader",
    "Record": "inlet.stream.record",
    "Stats": "inlet.consumer.session",
    "Stopped": "inlet.consumer.errors",
    "StoreAway": "inlet.stream.errors",
    "StoreRefuses": "inlet.stream.errors",
}

__all__ = [
    "Address",
    "AsyncReader",
    "Bad",
    "BadRecord",
    "ConsumerError",
    "Entry",
    "HandlerTimeout",
    "Options",
    "Reader",
    "Record",
    "Stats",
    "Stopped",
    "StoreAway",
    "StoreRefuses",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562): the server, which needs only ``inlet.stream``, loads no reader."""
    if name not in _HOMES:
        raise AttributeError(f"module 'inlet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
