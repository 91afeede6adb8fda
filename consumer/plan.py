"""Decisions without I/O: what a reader may do, which pending entries are due, how long to wait.

What lives here: ``Options`` with every bound, and pure functions. What must not: connections, clocks, threads.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

BACKOFF_FIRST_SECONDS = 0.05
"""First wait for a store that is away: shorter than a failover, longer than a busy loop."""
BACKOFF_SECONDS_MAX = 2.0
"""Longest wait: how late a reader finds a store that is back."""
GHOST_IDLE_MS = 86_400_000
"""When a consumer with a made-up name is surely gone: a day. A living one looks at the stream every ``block_ms``."""
PARTITIONS_MAX = 1_024
"""Streams one reader may read at once."""

_PARTITION = re.compile(r":\{\d+\}$")

BOUNDS: dict[str, tuple[int, int]] = {
    "block_ms": (1, 60_000),
    "entries_max": (1, 10_000),
    "bytes_max": (1_024, 1_073_741_824),
    "claim_idle_ms": (10, 86_400_000),
    "claim_idle_ms_max": (10, 604_800_000),
    "deliveries_max": (1, 1_000),
    "ack_delay_ms": (0, 60_000),
    "dedup_window_ms": (0, 604_800_000),
}


@dataclass(frozen=True)
class Options:
    """How a reader reads. Raises ValueError for a value outside ``BOUNDS``."""

    start: Literal["start", "now"] = "start"
    """Where a group begins that does not exist yet: at the oldest entry, or with what comes after now."""
    block_ms: int = 500
    """Milliseconds an idle read waits in the store; also how late a stop is noticed. If unsure: leave it."""
    entries_max: int = 256
    """Entries read ahead: at the usual 100 records an entry, 25,600 records."""
    bytes_max: int = 8_388_608
    """Bytes read ahead (8 MiB). The size of an entry is known only once it is here, so the count asked for follows the
    largest seen lately; one read can pass the bound by as much as entries suddenly grow."""
    claim_idle_ms: int = 60_000
    """Milliseconds without an ack after which an entry is taken from its consumer: longer than any entry takes."""
    claim_idle_ms_max: int = 3_600_000
    """The wait doubles with each delivery, up to this (an hour)."""
    deliveries_max: int = 5
    """Deliveries after which a record that fails again goes to the dead-letter stream."""
    ack_delay_ms: int = 100
    """Milliseconds an ack may wait for others to share its round trip; what a crash may hand out again."""
    dedup_window_ms: int = 0
    """Milliseconds in which a second record with the same event_id is left out; 0: none is."""

    def __post_init__(self) -> None:
        if self.start not in ("start", "now"):
            raise ValueError(f"start must be 'start' or 'now', not {self.start!r}")
        for item in fields(self):
            if item.name in BOUNDS:
                low, high = BOUNDS[item.name]
                value = getattr(self, item.name)
                if type(value) is not int or not low <= value <= high:
                    raise ValueError(f"{item.name} must be a whole number from {low} to {high}, not {value!r}")
        if self.claim_idle_ms_max < self.claim_idle_ms:
            raise ValueError("claim_idle_ms_max must not be below claim_idle_ms")


def consumer_name(host: str, pid: int, random: str) -> str:
    """A name nobody else has; ``random``: six hexadecimal digits, since pids of containers repeat."""
    return f"{host}-{pid}-{random}"


_MADE_UP = re.compile(rb".+-\d+-[0-9a-f]{6}", re.DOTALL)


def ghosts(rows: Iterable[dict[str, Any]]) -> list[bytes]:
    """Consumers, of XINFO CONSUMERS' rows, with a made-up name, nothing pending, and not seen for ``GHOST_IDLE_MS``."""
    return [
        row["name"]
        for row in rows
        if not row["pending"] and row["idle"] >= GHOST_IDLE_MS and _MADE_UP.fullmatch(row["name"])
    ]


def named(row: Sequence[Any]) -> dict[str, Any]:
    """A flat reply of names and values as a dict."""
    return {bytes(name).decode(): value for name, value in zip(row[::2], row[1::2], strict=True)}


class Pending(NamedTuple):
    """One row of XPENDING's extended form."""

    entry_id: bytes
    consumer: bytes
    idle_ms: int
    deliveries: int


class Due(NamedTuple):
    """Entries to claim with one XCLAIM: each idle for at least ``min_idle_ms``. ``deliveries``: before this one."""

    min_idle_ms: int
    deliveries: dict[bytes, int]


def keys(stream: str, partitions: int) -> tuple[str, ...]:
    """The Redis keys of a stream: itself, or ``logs:{0}`` .. ``logs:{N-1}`` with N > 1 partitions."""
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise ValueError(f"partitions must be from 1 to {PARTITIONS_MAX}, not {partitions}")
    if partitions == 1:
        return (stream,)
    return tuple(f"{stream}:{{{number}}}" for number in range(partitions))


def seen_key(key: str, group: str, event_id: str) -> bytes:
    """Where dedup keeps a record's mark: the same for all partitions of a stream."""
    # Another writer's JSON may hold a lone surrogate, which redis-py would not encode.
    return f"{_PARTITION.sub('', key)}:seen:{group}:{event_id}".encode(errors="surrogatepass")


def pending(rows: Iterable[Any]) -> list[Pending]:
    """XPENDING's rows, typed."""
    return [Pending(bytes(row[0]), bytes(row[1]), int(row[2]), int(row[3])) for row in rows]


def retry_idle_ms(deliveries: int, options: Options) -> int:
    """How long an entry that was delivered so often must be idle before it is claimed: doubling, bounded."""
    # The shift is bounded too, so that no delivery count makes a number of a million digits.
    return min(options.claim_idle_ms << min(max(deliveries - 1, 0), 40), options.claim_idle_ms_max)


def due(rows: Iterable[Pending], held: Container[bytes], options: Options, *, own: bool) -> list[Due]:
    """Which pending entries to claim, grouped by how long they must have been idle.

    ``held``: in this reader's hands, so never claimed. ``own``: the rows are this consumer's, from before a crash or
    a lost reply, and due at once.
    """
    groups: dict[int, dict[bytes, int]] = {}
    for row in rows:
        idle_ms = 0 if own else retry_idle_ms(row.deliveries, options)
        if row.idle_ms >= idle_ms and row.entry_id not in held:
            groups.setdefault(idle_ms, {})[row.entry_id] = row.deliveries
    return [Due(idle_ms, members) for idle_ms, members in sorted(groups.items())]


def next_count(count: int, largest: int, options: Options, partitions: int) -> int:
    """COUNT of the next read of each partition: at most double, within the bounds on entries and bytes."""
    room = min(options.entries_max, options.bytes_max // max(largest, 1))
    return max(1, min(count * 2, room // partitions))


def backoff_seconds(attempt: int, fraction: float) -> float:
    """Wait before try number ``attempt`` (from 0); ``fraction`` in [0, 1) spreads the readers of a group."""
    whole: float = min(BACKOFF_FIRST_SECONDS * 2 ** min(attempt, 20), BACKOFF_SECONDS_MAX)
    return whole * (0.5 + fraction / 2)
