"""What the tests of retention share: groups driven by plain commands, so that nothing else of Inlet is in the way."""

from __future__ import annotations

import contextlib
from typing import Any

import redis

from tests.consumer.support import connect


def read(db: Any, stream: str, group: str, count: int = 100_000) -> list[bytes]:
    """Deliver up to so many entries to the group, which is created at the oldest entry if need be; their IDs."""
    with contextlib.suppress(redis.ResponseError):  # BUSYGROUP
        db.xgroup_create(stream, group, id="0")
    reply = db.execute_command("XREADGROUP", "GROUP", group, "c", "COUNT", count, "STREAMS", stream, ">") or []
    rows = reply[stream.encode()][0] if isinstance(reply, dict) else reply[0][1] if reply else []
    return [row[0] for row in rows]


def ack(db: Any, stream: str, group: str, ids: list[bytes]) -> None:
    """Ack these entries."""
    for start in range(0, len(ids), 10_000):
        db.xack(stream, group, *ids[start : start + 10_000])


def read_all(url: str, stream: str, group: str = "g") -> int:
    """Deliver and ack everything there is; return how many entries that was, 0 if the store is away."""
    with connect(url) as db, contextlib.suppress(redis.ConnectionError):
        ids = read(db, stream, group)
        ack(db, stream, group, ids)
        return len(ids)
    return 0
