"""The bounds on one body, with their defaults.

What lives here: the three bounds that an operator sets, their units and reasons. What must not: imports of any weight,
since the settings read their defaults here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PayloadLimits:
    """Bounds on one body."""

    payload_bytes_max: int = 8_388_608
    """Bytes, before and after decoding: what one request may make a worker hold."""
    otlp_bytes_max: int = 20_971_520
    """Bytes of an OTLP body, before and after decoding: collectors batch up to 20 MiB."""
    bulk_records_max: int = 50_000
    """Records of a bulk, rejected ones included: bounds the time of one turn, and the list of rejections."""
    nesting_depth_max: int = 32
    """Arrays and objects within each other, whatever is in unknown members; ujson's own bound is 1024."""
