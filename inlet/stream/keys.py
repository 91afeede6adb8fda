"""Every store key that Inlet uses, derived from the stream's name. Pure.

    <stream>                          entries; with N > 1 partitions <stream>:{0} .. <stream>:{N-1}
    <stream>:dead                     dead letters
    <stream>:full                     set while unread entries fill the retention bounds: what holds the stream back
    <stream>:keeper                   the lease of the one process that trims
    <stream>:groups                   the groups seen: what each of them has not acked is kept
    <stream>:forgotten:<group>        set for a day after ``inlet groups forget``
    <stream>:try:<group>:<entry ID>   what earlier attempts have left of an entry: units, verdicts, when it is due
    <stream>:seen:<group>:<event_id>  the address of the first record with this event_id (``dedup_window_ms``); "%" and
                                      ":" in the group's name are "%25" and "%3A"

What lives here: names. What must not: what the keys hold.
"""

from __future__ import annotations

import re

PARTITIONS_MAX = 1_024
"""Streams that one reader may read at once."""

_PARTITION = re.compile(r":\{\d+\}$")


def partition_keys(stream: str, partitions: int) -> tuple[str, ...]:
    """Return the keys of a stream: the stream itself, or ``logs:{0}`` .. ``logs:{N-1}``. Raises ValueError."""
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise ValueError(f"partitions must be from 1 to {PARTITIONS_MAX}, not {partitions}")
    if partitions == 1:
        return (stream,)
    return tuple(f"{stream}:{{{number}}}" for number in range(partitions))


def dead_key(key: str) -> str:
    """Return the dead-letter stream of a stream's key."""
    return key + ":dead"


def full_key(key: str) -> str:
    """Return the key that exists while unread entries fill the retention bounds, and says what holds them back."""
    return key + ":full"


def keeper_key(key: str) -> str:
    """Return the key of the keeper's lease."""
    return key + ":keeper"


def groups_key(key: str) -> str:
    """Return the hash of the remembered groups: name -> ms since 1970 when it was first seen."""
    return key + ":groups"


def forgotten_key(key: str, group: bytes) -> bytes:
    """Return what keeps keepers from remembering a group again that was forgotten on purpose."""
    return key.encode() + b":forgotten:" + group


def try_key(key: str, group: str, entry_id: str) -> str:
    """Return where what is known of an entry's failed or interrupted attempts is kept."""
    # An entry's ID holds no ":", so no two groups share a key.
    return f"{key}:try:{group}:{entry_id}"


def seen_key(key: str, group: str, event_id: str) -> bytes:
    """Return where deduplication keeps a record's address: the same for all partitions of a stream."""
    # An event_id may hold ":", so the group must not: "17" in "billing:eu" is not "eu:17" in "billing".
    group = group.replace("%", "%25").replace(":", "%3A")
    # Another writer's JSON may hold a lone surrogate, which redis-py would not encode.
    return f"{_PARTITION.sub('', key)}:seen:{group}:{event_id}".encode(errors="surrogatepass")
