"""Trimming that loses nothing: how much may go, who may do it, and doing it.

What lives here: ``Retention``, the pure ``plan``, the lease that makes one keeper of many, and ``Keeper``. What must
not: the request path; reading the environment.

What every group has acked ends at the *safe ID*: over all groups the smallest of the oldest pending entry and of what
comes after the last one delivered. Without any group nothing has been read, so nothing is safe. XTRIM MINID ~ removes
whole nodes of entries below an ID, oldest first, and LIMIT says at most how many: so one command trims by age, by count
or by memory, and never past the safe ID. From Redis 8.2 on the server is asked to check the same (ACKED).

A group that is created *behind* the stream's end while entries are trimmed may miss them; a group's own past may not.

Keys: ``<stream>:keeper`` (the lease: SET NX PX, renewed and released only by its holder), ``<stream>:full``.
Redis commands: TIME, XLEN, MEMORY USAGE, XINFO GROUPS, XPENDING, XRANGE, XTRIM, EVAL.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from consumer.errors import StoreRefuses
from consumer.link import Link
from consumer.plan import named

FULL_SUFFIX = ":full"
"""After the stream's key: there, with its length, as long as unread entries fill the bound."""
LEASE_MS = 30_000
"""How long a keeper that died keeps the others out."""
KEEP_EVERY_SECONDS = 10.0
"""Between two looks: a third of the lease, so that one missed look does not lose it."""
TRIM_LIMIT = 10_000
"""Entries one XTRIM may remove: the store does nothing else meanwhile."""
EXACT_MAX = 100
"""Entries removed at a time where nodes cannot be: they share nodes, so they are small (a node has 4 KiB)."""
PASSES_MAX = 6
"""Looks and trims in one go: entries are not of average size, so the first may leave some memory over the bound."""
RESUME_FRACTION = 0.95
"""A full stream is full until it is below this share of its bound, so that producers are not told to and fro."""
ENTRIES_MAX = 10**12
MEMORY_MAX = 2**50
AGE_MS_MAX = 3_650 * 86_400_000
"""Bounds on a retention: far above what is meant, far below what overflows."""

Id = tuple[int, int]
_AGE = re.compile(r"(\d{1,9})(s|m|h|d)")
_AGE_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MEMORY = re.compile(r"(\d{1,12})(b|kb|mb|gb|tb)?")
_MEMORY_BYTES = {None: 1, "b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40}


@dataclass(frozen=True)
class Retention:
    """What to keep: entries younger than ``age_ms``, at most ``entries``, at most ``memory_bytes`` in the store.

    None: no such bound. ``unread``: whether what some group has not acked is kept beyond the bounds, or dropped.
    """

    age_ms: int | None = None
    entries: int | None = None
    memory_bytes: int | None = None
    unread: Literal["keep", "drop"] = "keep"


def retention(text: str, unread: str = "keep") -> Retention:
    """``age=7d,entries=1000000,memory=2gb``, any of them, as INLET_RETENTION has it. Raises ValueError, in words."""
    if unread not in ("keep", "drop"):
        raise ValueError(f"unread must be keep or drop, not {unread!r}")
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        number = _number(name, value.strip().lower())
        if number is None or name in found:
            raise ValueError(f"{part!r} must be one of age=7d, entries=1000000, memory=2gb, each at most once")
        found[name] = number
    if not found:
        raise ValueError("no bound is given; write age=7d, entries=1000000 or memory=2gb, separated by commas")
    return Retention(
        found.get("age"), found.get("entries"), found.get("memory"), "drop" if unread == "drop" else "keep"
    )


def _number(name: str, value: str) -> int | None:
    number, most = 0, 0
    if name == "age" and (age := _AGE.fullmatch(value)):
        number, most = int(age[1]) * _AGE_MS[age[2]], AGE_MS_MAX
    elif name == "entries" and re.fullmatch(r"\d{1,15}", value, re.ASCII):
        number, most = int(value), ENTRIES_MAX
    elif name == "memory" and (memory := _MEMORY.fullmatch(value)):
        number, most = int(memory[1]) * _MEMORY_BYTES[memory[2]], MEMORY_MAX
    return number if 1 <= number <= most else None


class Group(NamedTuple):
    """One consumer group. ``oldest_pending``: None where nothing is pending."""

    name: str
    last_delivered: Id
    oldest_pending: Id | None


@dataclass(frozen=True)
class State:
    """One stream as it was at ``now_ms`` of the store's clock."""

    now_ms: int
    length: int
    memory_bytes: int
    groups: tuple[Group, ...]


class Trim(NamedTuple):
    """XTRIM to do: entries below ``below``, at most ``most`` (None: all). ``unread``: also what is not acked."""

    below: Id
    most: int | None
    unread: bool


class Plan(NamedTuple):
    """What to trim, in order; and whether the bounds on entries or memory are reached by unread entries alone."""

    trims: list[Trim]
    full: bool


def safe_id(groups: Sequence[Group]) -> Id:
    """Every entry below it is acked by every group. (0, 0) without groups: nothing is."""
    if not groups:
        return (0, 0)
    return min(group.oldest_pending or (group.last_delivered[0], group.last_delivered[1] + 1) for group in groups)


def excess(state: State, keep: Retention, fraction: float = 1.0) -> int:
    """Entries over the bounds on entries and memory, taking all entries to be of average size."""
    over = 0
    if keep.entries is not None:
        over = state.length - int(keep.entries * fraction)
    if keep.memory_bytes is not None and state.length:
        bytes_over = state.memory_bytes - int(keep.memory_bytes * fraction)
        if bytes_over > 0:
            over = max(over, -(-bytes_over * state.length // max(state.memory_bytes, 1)))
    return max(over, 0)


def plan(state: State, keep: Retention, was_full: bool = False) -> Plan:
    """What to trim, and whether new records have to be refused once that is done. Pure.

    ``full`` is decided on ``state`` as it is: call it again on what trimming has left. ``was_full``: it was so before.
    """
    safe = safe_id(state.groups)
    trims: list[Trim] = []
    old: Id = (state.now_ms - keep.age_ms, 0) if keep.age_ms is not None else (0, 0)
    if (below := min(old, safe)) > (0, 0):
        trims.append(Trim(below, None, False))
    over = excess(state, keep)
    if over and safe > (0, 0):
        trims.append(Trim(safe, over, False))
    if keep.unread == "drop":
        if old > safe:
            trims.append(Trim(old, None, True))
        if over:
            trims.append(Trim((state.now_ms + AGE_MS_MAX, 0), over, True))
    full = keep.unread == "keep" and excess(state, keep, RESUME_FRACTION if was_full else 1.0) > 0
    return Plan(trims, full)


def parse_id(text: bytes | str) -> Id:
    """``b"17-0"`` -> (17, 0)."""
    first, _, second = (text.decode() if isinstance(text, bytes) else text).partition("-")
    return int(first), int(second or 0)


def has_acked(info: bytes) -> bool:
    """Whether XTRIM knows ACKED, from INFO server: Redis from 8.2 on; Valkey gives its own version elsewhere."""
    if b"valkey" in info.lower():
        return False
    found = re.search(rb"^redis_version:(\d+)\.(\d+)", info, re.MULTILINE)
    return found is not None and (int(found[1]), int(found[2])) >= (8, 2)


def observe(link: Link, key: str) -> State:
    """The stream as it is (TIME, XINFO GROUPS, XPENDING, XLEN, MEMORY USAGE). Raises StoreAway, StoreRefuses."""
    now, length, memory = link.many([("TIME",), ("XLEN", key), ("MEMORY", "USAGE", key)])
    groups: list[Group] = []
    # XPENDING after XINFO, never before: what was delivered in between would seem acked.
    for row in group_rows(link, key):
        name = row["name"]
        summary = link.one("XPENDING", key, name)
        oldest = parse_id(summary[1]) if summary[0] and summary[1] else None
        groups.append(Group(name.decode(errors="replace"), parse_id(row["last-delivered-id"]), oldest))
    return State(int(now[0]) * 1000 + int(now[1]) // 1000, int(length), int(memory or 0), tuple(groups))


def group_rows(link: Link, key: str) -> list[dict[str, Any]]:
    """XINFO GROUPS as dicts; none where the stream does not exist."""
    try:
        rows = link.one("XINFO", "GROUPS", key)
    except StoreRefuses as error:
        if "no such key" in error.detail:
            return []
        raise
    return [named(row) for row in rows]


class Kept(NamedTuple):
    """What a keeper found and did for one key. ``dropped``: trimmed though some group had not acked it."""

    key: str
    length: int
    memory_bytes: int
    trimmed: int
    dropped: int
    full: bool


class Keeper:
    """Trims the streams of ``keys`` to ``keep``, if no other keeper is at it. Not for use by two threads.

    ``publish``: keep ``<stream>:full`` in the store as long as a stream is full, for servers to refuse new records.
    It is for a keeper that looks again and again: the key ends with the lease of one that does not.
    ``trimmed`` is called with the entries that are gone so far, after each XTRIM of one go.
    """

    def __init__(
        self,
        link: Link,
        keys: Sequence[str],
        keep: Retention,
        *,
        publish: bool = False,
        trimmed: Callable[[int], object] = lambda entries: None,
    ) -> None:
        self._link, self._keys, self._keep, self._publish = link, keys, keep, publish
        self._trimmed = trimmed
        self._lease = f"{keys[0]}:keeper"
        self._token = uuid.uuid4().hex
        self._acked: bool | None = None

    def tick(self) -> list[Kept] | None:
        """Look once and trim; None where another keeper holds the lease. Raises StoreAway, StoreRefuses."""
        if not self.hold():
            return None
        return [self._keep_one(key) for key in self._keys]

    def look(self) -> dict[str, Plan]:
        """What would be done, without lease and without doing it."""
        return {key: plan(observe(self._link, key), self._keep) for key in self._keys}

    def hold(self) -> bool:
        """Take the lease, or renew it; False where another has it."""
        if self._link.one("SET", self._lease, self._token, "NX", "PX", LEASE_MS) is not None:
            return True
        return bool(self._link.one("EVAL", RENEW, 1, self._lease, self._token, LEASE_MS))

    def release(self) -> None:
        """Give the lease back, if it is still ours."""
        self._link.one("EVAL", RELEASE, 1, self._lease, self._token)

    def _keep_one(self, key: str) -> Kept:
        removed = {False: 0, True: 0}
        state = observe(self._link, key)
        for unread in (False, True):
            for _ in range(PASSES_MAX):
                wanted = [trim for trim in plan(state, self._keep).trims if trim.unread == unread]
                # One at a time: what age has taken is not over the bound on entries any more.
                gone = next(filter(None, (self._trim(key, trim) for trim in wanted)), 0)
                if not gone:
                    break
                removed[unread] += gone
                state = observe(self._link, key)
        was_full = bool(self._link.one("EXISTS", key + FULL_SUFFIX)) if self._publish else False
        full = plan(state, self._keep, was_full).full
        if full and self._publish:
            self._link.one("SET", key + FULL_SUFFIX, state.length, "PX", LEASE_MS)
        elif was_full:
            self._link.one("DEL", key + FULL_SUFFIX)
        return Kept(key, state.length, state.memory_bytes, removed[False], removed[True], full)

    def _trim(self, key: str, trim: Trim) -> int:
        """XTRIM in bounded portions; how many entries are gone."""
        if self._acked is None:
            self._acked = has_acked(self._link.one("INFO", "server"))
        gone = 0
        while trim.most is None or gone < trim.most:
            limit = TRIM_LIMIT if trim.most is None else min(TRIM_LIMIT, trim.most - gone)
            removed = int(self._link.one(*command(key, trim, limit, self._acked)))
            gone += removed
            self._trimmed(gone)
            if not removed or not self.hold():
                break
        return gone + self._trim_rest(key, trim, gone)

    def _trim_rest(self, key: str, trim: Trim, gone: int) -> int:
        """What ``~`` leaves: entries in a node that also holds later ones, exactly and a few at a time."""
        if trim.most is None:
            return int(self._link.one(*exact(key, trim.below, trim, self._acked or False)))
        rest = 0
        while gone + rest < trim.most and self.hold():
            most = min(EXACT_MAX, trim.most - gone - rest)
            rows = self._link.one("XRANGE", key, "-", f"({trim.below[0]}-{trim.below[1]}", "COUNT", most)
            if not rows:
                break
            newest = parse_id(rows[-1][0])
            removed = int(self._link.one(*exact(key, (newest[0], newest[1] + 1), trim, self._acked or False)))
            rest += removed
            if not removed:
                break
        return rest


def command(key: str, trim: Trim, limit: int, acked: bool) -> tuple[Any, ...]:
    """The XTRIM of whole nodes. Only with ``~`` there is LIMIT; entries of a node that is not all below stay."""
    check = ("ACKED",) if acked and not trim.unread else ()
    return ("XTRIM", key, "MINID", "~", f"{trim.below[0]}-{trim.below[1]}", "LIMIT", limit, *check)


def exact(key: str, below: Id, trim: Trim, acked: bool) -> tuple[Any, ...]:
    """The XTRIM of every entry below an ID."""
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
"""Only the holder may: its lease can have run out, and be another's by now."""
