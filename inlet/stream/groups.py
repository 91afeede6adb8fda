"""The consumer groups of a stream: those that the store has, those that are remembered, and forgetting one.

What lives here: reading them, and the script that forgets. What must not: remembering them, which keepers do
(``inlet.stream.trimming``) and readers.

Redis commands: XINFO GROUPS, HGETALL, EVAL, and inside it SET, HDEL, XGROUP DESTROY.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from inlet.stream.client import StoreClient, named
from inlet.stream.errors import StoreRefuses
from inlet.stream.keys import forgotten_key, groups_key

FORGOTTEN_MS = 86_400_000
"""Milliseconds for which a group that was forgotten is not remembered again by a keeper that has seen it: a day. A
keeper that was stopped for longer brings it back, which only holds entries; forget it again."""


class Forgotten(NamedTuple):
    """What there was to forget: a note of the group, and the group itself."""

    remembered: bool
    destroyed: bool


def group_rows(client: StoreClient, key: str) -> list[dict[str, Any]]:
    """Return XINFO GROUPS as dicts; none if the stream does not exist. Raises StoreAway, StoreRefuses."""
    try:
        rows = client.one("XINFO", "GROUPS", key)
    except StoreRefuses as error:
        if "no such key" in error.detail:
            return []
        raise
    return [named(row) for row in rows]


def remembered(client: StoreClient, key: str) -> dict[bytes, int]:
    """Return the remembered groups and when each was first seen, in ms since 1970. Raises StoreAway, StoreRefuses."""
    found = named_bytes(client.one("HGETALL", groups_key(key)))
    return {name: int(at) if at.isdigit() else 0 for name, at in found.items()}


def named_bytes(row: list[bytes]) -> dict[bytes, bytes]:
    """Return a flat reply of names and values as a dict of bytes: a group's name need not be text."""
    return dict(zip(row[::2], row[1::2], strict=True))


def forget(client: StoreClient, key: str, group: bytes) -> Forgotten:
    """Destroy a group and forget it: what only it had not acked may be trimmed. Raises StoreAway, StoreRefuses."""
    keys = (key, groups_key(key), forgotten_key(key, group))
    known, destroyed = client.one("EVAL", FORGET, len(keys), *keys, group, FORGOTTEN_MS)
    return Forgotten(bool(known), bool(destroyed))


FORGET = """
redis.call('SET', KEYS[3], 1, 'PX', ARGV[2])
local known, destroyed = redis.call('HDEL', KEYS[2], ARGV[1]), 0
if redis.call('EXISTS', KEYS[1]) == 1 then destroyed = redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1]) end
return {known, destroyed}
"""
"""One script: a keeper that looked in between would remember the group again."""
