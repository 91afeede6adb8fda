"""The keeper: trims a stream to its retention, one keeper at a time.

What lives here: looking at a stream, the lease that makes one keeper of many, and XTRIM in bounded portions. What must
not: what may be trimmed (``inlet.stream.retention``), threads, the request path.

XTRIM MINID ~ removes whole nodes of entries below an ID, oldest first, and LIMIT bounds how many. So one command trims
by age, count or memory, and never past the safe ID. From Redis 8.2 on the server checks the same (ACKED).

Redis commands: TIME, XLEN, MEMORY USAGE, XINFO GROUPS, XPENDING, XRANGE, XTRIM, SET NX PX, EVAL.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from inlet.stream.client import StoreClient, named
from inlet.stream.errors import StoreRefuses
from inlet.stream.keys import full_key, keeper_key
from inlet.stream.retention import Group, Observed, Plan, Retention, Trim, parse_id, plan

LEASE_MS = 30_000
"""Milliseconds a keeper that died keeps the others out."""
KEEP_EVERY_SECONDS = 10.0
"""Seconds between two looks: a third of the lease, so that one missed look does not lose it."""
TRIM_LIMIT = 10_000
"""Entries one XTRIM can remove: the store does nothing else meanwhile."""
EXACT_MAX = 100
"""Entries removed at a time where whole nodes cannot be: they share a node, so they are small (4 KiB together)."""
PASSES_MAX = 6
"""Looks and trims in one tick: entries differ in size, so the first trim may leave some memory over the bound."""


def has_acked(info: bytes) -> bool:
    """Return whether XTRIM knows ACKED (Redis 8.2 and later, not Valkey), from the reply to INFO server."""
    if b"valkey" in info.lower():
        return False
    found = re.search(rb"^redis_version:(\d+)\.(\d+)", info, re.MULTILINE)
    return found is not None and (int(found[1]), int(found[2])) >= (8, 2)


def observe(client: StoreClient, key: str) -> Observed:
    """Return the stream's state (TIME, XINFO GROUPS, XPENDING, XLEN, MEMORY USAGE). Raises StoreAway, StoreRefuses."""
    now, length, memory = client.many([("TIME",), ("XLEN", key), ("MEMORY", "USAGE", key)])
    groups: list[Group] = []
    # XPENDING after XINFO, never before: what was delivered in between would seem acked.
    for row in group_rows(client, key):
        name = row["name"]
        summary = client.one("XPENDING", key, name)
        oldest = parse_id(summary[1]) if summary[0] and summary[1] else None
        groups.append(Group(name.decode(errors="replace"), parse_id(row["last-delivered-id"]), oldest))
    return Observed(int(now[0]) * 1000 + int(now[1]) // 1000, int(length), int(memory or 0), tuple(groups))


def group_rows(client: StoreClient, key: str) -> list[dict[str, Any]]:
    """Return XINFO GROUPS as dicts; none if the stream does not exist."""
    try:
        rows = client.one("XINFO", "GROUPS", key)
    except StoreRefuses as error:
        if "no such key" in error.detail:
            return []
        raise
    return [named(row) for row in rows]


class Kept(NamedTuple):
    """What a keeper found and did for one stream. ``dropped``: entries trimmed that some group had not acked."""

    key: str
    length: int
    memory_bytes: int
    trimmed: int
    dropped: int
    full: bool


class Keeper:
    """Trim the streams of ``keys`` to ``keep`` while no other keeper holds the lease. Not for use by two threads.

    ``publish``: set ``<stream>:full`` in the store while a stream is full, so that servers refuse new records. It
    expires with the lease, so only a keeper that ticks repeatedly should publish. ``trimmed`` is called after each
    XTRIM with the number of entries removed so far.
    """

    def __init__(
        self,
        client: StoreClient,
        keys: Sequence[str],
        keep: Retention,
        *,
        publish: bool = False,
        trimmed: Callable[[int], object] = lambda entries: None,
    ) -> None:
        self._client, self._keys, self._keep, self._publish = client, keys, keep, publish
        self._trimmed = trimmed
        self._lease = keeper_key(keys[0])
        self._token = uuid.uuid4().hex
        self._acked: bool | None = None

    def tick(self) -> list[Kept] | None:
        """Look once and trim; return None if another keeper holds the lease. Raises StoreAway, StoreRefuses."""
        if not self.hold():
            return None
        return [self._keep_one(key) for key in self._keys]

    def look(self) -> dict[str, Plan]:
        """Return what a tick would do, without a lease and without doing it."""
        return {key: plan(observe(self._client, key), self._keep) for key in self._keys}

    def hold(self) -> bool:
        """Take or renew the lease; return False if another keeper holds it."""
        if self._client.one("SET", self._lease, self._token, "NX", "PX", LEASE_MS) is not None:
            return True
        return bool(self._client.one("EVAL", RENEW, 1, self._lease, self._token, LEASE_MS))

    def release(self) -> None:
        """Release the lease, if it is still ours."""
        self._client.one("EVAL", RELEASE, 1, self._lease, self._token)

    def _keep_one(self, key: str) -> Kept:
        removed = {False: 0, True: 0}
        state = observe(self._client, key)
        for unread in (False, True):
            for _ in range(PASSES_MAX):
                wanted = [trim for trim in plan(state, self._keep).trims if trim.unread == unread]
                # One at a time: what age removed no longer counts against the bound on entries.
                gone = next(filter(None, (self._trim(key, trim) for trim in wanted)), 0)
                if not gone:
                    break
                removed[unread] += gone
                state = observe(self._client, key)
        was_full = bool(self._client.one("EXISTS", full_key(key))) if self._publish else False
        full = plan(state, self._keep, was_full).full
        if full and self._publish:
            self._client.one("SET", full_key(key), state.length, "PX", LEASE_MS)
        elif was_full:
            self._client.one("DEL", full_key(key))
        return Kept(key, state.length, state.memory_bytes, removed[False], removed[True], full)

    def _trim(self, key: str, trim: Trim) -> int:
        """Trim in bounded portions (XTRIM); return how many entries were removed."""
        if self._acked is None:
            self._acked = has_acked(self._client.one("INFO", "server"))
        gone = 0
        while trim.most is None or gone < trim.most:
            limit = TRIM_LIMIT if trim.most is None else min(TRIM_LIMIT, trim.most - gone)
            removed = int(self._client.one(*command(key, trim, limit, self._acked)))
            gone += removed
            self._trimmed(gone)
            if not removed or not self.hold():
                break
        return gone + self._trim_rest(key, trim, gone)

    def _trim_rest(self, key: str, trim: Trim, gone: int) -> int:
        """Trim what ``~`` leaves: entries in a node that also holds later ones, exactly and a few at a time."""
        if trim.most is None:
            return int(self._client.one(*exact(key, trim.below, trim, self._acked or False)))
        rest = 0
        while gone + rest < trim.most and self.hold():
            most = min(EXACT_MAX, trim.most - gone - rest)
            rows = self._client.one("XRANGE", key, "-", f"({trim.below[0]}-{trim.below[1]}", "COUNT", most)
            if not rows:
                break
            newest = parse_id(rows[-1][0])
            removed = int(self._client.one(*exact(key, (newest[0], newest[1] + 1), trim, self._acked or False)))
            rest += removed
            if not removed:
                break
        return rest


def command(key: str, trim: Trim, limit: int, acked: bool) -> tuple[Any, ...]:
    """Return the XTRIM of whole nodes: LIMIT needs ``~``, which keeps nodes that also hold later entries."""
    check = ("ACKED",) if acked and not trim.unread else ()
    return ("XTRIM", key, "MINID", "~", f"{trim.below[0]}-{trim.below[1]}", "LIMIT", limit, *check)


def exact(key: str, below: tuple[int, int], trim: Trim, acked: bool) -> tuple[Any, ...]:
    """Return the XTRIM of every entry below an ID."""
    check = ("ACKED",) if acked and not trim.unread else ()
    return ("XTRIM", key, "MINID", "=", f"{below[0]}-{below[1]}", *check)


RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
"""Only the holder may: its lease may have expired, and belong to another by now."""
