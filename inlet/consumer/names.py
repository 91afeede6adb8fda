"""Names of consumers: made up for those without one, and which made-up ones are left over. Pure.

What lives here: the form of a made-up name. What must not: connections, the host's name, random numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

GHOST_IDLE_MS = 86_400_000
"""Milliseconds (a day) after which a consumer with a made-up name is surely gone: others read every ``block_ms``."""

_MADE_UP = re.compile(rb".+-\d+-[0-9a-f]{6}", re.DOTALL)


def consumer_name(host: str, pid: int, random: str) -> str:
    """Return a name that no other consumer has. ``random``: six hexadecimal digits, since containers repeat pids."""
    return f"{host}-{pid}-{random}"


def ghosts(rows: Iterable[dict[str, Any]]) -> list[bytes]:
    """Return the made-up names among XINFO CONSUMERS' rows with nothing pending and unseen for ``GHOST_IDLE_MS``."""
    return [
        row["name"]
        for row in rows
        if not row["pending"] and row["idle"] >= GHOST_IDLE_MS and _MADE_UP.fullmatch(row["name"])
    ]
