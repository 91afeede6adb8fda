"""What a receiver is made with, and what it is mounted as.

What lives here: these two types, apart from the catalog, whose members are made of them. What must not: the list of
receivers (``wsgi.receivers.catalog``).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from inlet.stream.limits import RecordLimits
from wsgi.receivers.interfaces import Receiver
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.routes import Pages


class Bounds(NamedTuple):
    """What every receiver is made with."""

    payload: PayloadLimits
    record: RecordLimits
    keep_rejected: bool = False
    """Whether the texts of rejected records are kept (INLET_KEEP_REJECTED)."""


class Mount(NamedTuple):
    """A receiver's paths, and other pages of its protocol."""

    receivers: Mapping[str, Receiver]
    pages: Pages = MappingProxyType({})
