"""The keeper: trims streams to their retention, one keeper at a time.

What lives here: the lease that makes one keeper of many, how often and how long to trim, and the groups that a keeper
has seen. What must not: what may be trimmed (``inlet.stream.trimming``), threads, the request path.

Every keeper remembers the groups that it has seen, also while another one trims. If the store loses a group and its
note, in a failover to a replica that had heard of neither, the next keeper to trim puts the note back first.

One lease, at the first stream's key, covers all streams. What is wrong with one of them does not keep the others from
being trimmed.

Redis commands: INFO server, EVAL.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

from inlet.stream.client import StoreClient
from inlet.stream.errors import StoreRefuses
from inlet.stream.keys import keeper_key
from inlet.stream.retention import Hold, Retention, parse_id
from inlet.stream.trimming import Lease, count_below, portion

KEEP_EVERY_SECONDS = 2.0
"""Seconds between two looks: a quarter of the lease. A look costs the store about 0.1 ms."""
PORTIONS_MAX = 1_000
"""Portions in one tick: ten million entries, a few seconds. What is left is trimmed at the next tick."""


def has_acked(info: bytes) -> bool:
    """Return whether XTRIM knows ACKED (Redis 8.2 and later, not Valkey), from the reply to INFO server."""
    if b"valkey" in info.lower():
        return False
    found = re.search(rb"^redis_version:(\d+)\.(\d+)", info, re.MULTILINE)
    return found is not None and (int(found[1]), int(found[2])) >= (8, 2)


class Kept(NamedTuple):
    """What a keeper found and did for one stream. ``dropped``: entries trimmed that some group had not acked.

    ``held``: what keeps its oldest entries.
    """

    key: str
    length: int
    memory_bytes: int
    trimmed: int
    dropped: int
    full: bool
    held: Hold


class Forecast(NamedTuple):
    """What a tick would do. ``estimated``: the counts depend on the size of entries, which the store estimates."""

    trimmed: int
    dropped: int
    full: bool
    held: Hold
    estimated: bool


WAITING_STREAMS = 100
"""Streams after the first that a keeper without the lease looks at in one tick, in turn: it only notes their groups."""


class Keeper:
    """Trim the streams of ``keys`` to ``keep`` while no other keeper holds the lease. Not for use by two threads.

    ``keys``: store keys, or a function that each tick calls for them; the first one never changes.
    ``publish``: set ``<stream>:full`` in the store while a stream is full, so that servers refuse new records. It
    expires with the lease, so only a keeper that ticks repeatedly should publish. ``trimmed`` is called after each
    portion with the number of entries that this tick has removed from the stream so far.

    ``refused``: the streams that the last tick could not trim, and why.
    """

    def __init__(
        self,
        client: StoreClient,
        keys: Sequence[str] | Callable[[], Sequence[str]],
        keep: Retention,
        *,
        publish: bool = False,
        trimmed: Callable[[int], object] = lambda entries: None,
    ) -> None:
        self._client, self._keep, self._publish = client, keep, publish
        self._keys = keys if callable(keys) else lambda: keys
        self._trimmed = trimmed
        self._lease = Lease(keeper_key(self._keys()[0]), uuid.uuid4().hex)
        self._groups: dict[str, frozenset[bytes]] = {}
        self._acked: bool | None = None
        self._next = 0  # of the streams after the first, where a keeper without the lease goes on
        self.refused: dict[str, StoreRefuses] = {}

    def tick(self) -> list[Kept] | None:
        """Look once and trim; return None if another keeper holds the lease. Raises StoreAway, StoreRefuses.

        What the store has against one of several streams is not raised: it is in ``refused``.
        """
        self._client.call([])  # connect: what that raises is said of the store
        keys = list(dict.fromkeys(self._keys()))
        first, others = keys[0], keys[1:]
        self._groups = {key: self._groups.get(key, frozenset()) for key in keys}
        self.refused = {}
        kept: list[Kept] = []
        waiting = 0
        at = self._next % max(1, len(others))
        for key in (first, *others[at:], *others[:at]):
            try:
                row = self._keep_one(key)
            except StoreRefuses as error:
                if not others:
                    raise
                self.refused[key] = error
                continue
            if row is not None:
                kept.append(row)
            elif (waiting := waiting + 1) > WAITING_STREAMS:
                break
        self._next = at + max(0, waiting - 1)
        return None if waiting and not kept else kept

    def look(self) -> dict[str, Forecast]:
        """Return what a tick would do, without a lease and without doing it."""
        return {key: forecast(self._client, key, self._keep) for key in self._keys()}

    def release(self) -> None:
        """Release the lease, if it is still ours."""
        self._client.one("EVAL", RELEASE, 1, self._lease.key, self._lease.token)

    def _keep_one(self, key: str) -> Kept | None:
        trimmed = dropped = 0
        for _ in range(PORTIONS_MAX):
            found = portion(
                self._client, key, self._keep, self._lease, self._groups[key],
                publish=self._publish, acked=self._knows_acked(),
            )  # fmt: skip
            self._groups[key] = found.groups
            if not found.mine:
                return None
            gone = found.trimmed + found.dropped
            trimmed, dropped = trimmed + found.trimmed, dropped + found.dropped
            if not gone:
                break
            self._trimmed(trimmed + dropped)
        return Kept(key, found.length, found.memory_bytes, trimmed, dropped, found.full, found.held)

    def _knows_acked(self) -> bool:
        if self._acked is None:
            try:
                self._acked = has_acked(self._client.one("INFO", "server"))
            except StoreRefuses:
                self._acked = False  # not permitted; the script checks the same
        return self._acked


def forecast(client: StoreClient, key: str, keep: Retention) -> Forecast:
    """Return what trimming the stream would do. Raises StoreAway, StoreRefuses."""
    state = portion(client, key, keep, Lease(keeper_key(key)))

    def count(below: str, most: int) -> int:
        return count_below(client, key, below, most, state)

    # All bounds remove the oldest entries, so the largest count contains the others.
    acked = max(count(state.safe, state.over), count(min(state.old, state.safe, key=parse_id), state.length))
    total = acked
    if keep.unread == "drop":
        total = max(acked, state.over, count(state.old, state.length))
    full = keep.unread == "keep" and acked < state.over
    return Forecast(acked, total - acked, full, state.held, keep.memory_bytes is not None)


RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
"""Only the holder may: its lease may have expired, and belong to another by now."""
