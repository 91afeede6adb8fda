"""The bounds on one record, with their defaults.

What lives here: the eight bounds, their units and reasons. What must not: what is checked against them
(``inlet.stream.record``), and how an operator sets them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RecordLimits:
    """Bounds on one record. Lengths in characters are Unicode code points, as ``len`` counts them."""

    record_bytes_max: int = 262_144
    """Encoded line, bytes: a quarter of the default ``entry_bytes_max``, so that an entry holds several."""
    event_id_chars_max: int = 256
    """A UUID takes 36; 256 leaves room for a composed id."""
    service_chars_max: int = 256
    """A name, not a text."""
    message_chars_max: int = 131_072
    """A long stack trace fits; a core dump does not."""
    metadata_pairs_max: int = 128
    """Pairs: what labels need, far below what would make one record a table."""
    metadata_key_chars_max: int = 256
    """A name, not a text."""
    metadata_value_chars_max: int = 16_384
    """A header or a query fits."""
    timestamp_chars_max: int = 64
    """RFC 3339 with nanoseconds takes 35; bounds the fraction, which the grammar does not."""
