"""What a 202 promises: the four levels, from least to most. Names and order only."""

from __future__ import annotations

from typing import Final

RECEIVED: Final = 0
"""The records were written to the store's socket; nothing was read before answering."""
STORED: Final = 1
"""The store has replied to XADD."""
SYNCED: Final = 2
"""The store's own append-only file is fsynced (WAITAOF)."""
REPLICATED: Final = 3
"""So many replicas have the records (WAIT)."""

NAMES: Final = ("received", "stored", "synced", "replicated")
"""By level."""
LEVELS: Final = {name: level for level, name in enumerate(NAMES)}
"""By name."""
