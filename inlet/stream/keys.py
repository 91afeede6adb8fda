"""Every store key that Inlet uses, derived from the stream's name. Pure.

    <stream>                          entries; with N > 1 partitions <stream>:{0} .. <stream>:{N-1}
    <stream>:dead                     dead letters
    <stream>:rejected                 records that the server refused one by one (INLET_KEEP_REJECTED)
    {<stream>}:ids:0 .. :2            the event_ids stored lately and their addresses, in buckets used in turn
                                      (INLET_DEDUP_SECONDS); of a partition logs:{0}:ids:0 .. :2. The braces make a
                                      cluster keep them where the stream is
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

IDS_BUCKETS = 3
"""Buckets of remembered ids. With N of them, one lasts 1/(N-1) of the window, and N/(N-1) of its ids are held at most;
each is looked up for each record."""

_OWN = re.compile(r":(dead|rejected|full|keeper|groups)$|:(forgotten|try|seen):")
_PARTITION = re.compile(r":\{\d+\}$")


def partition_keys(stream: str, partitions: int) -> tuple[str, ...]:
    """Return the keys of a stream: the stream itself, or ``logs:{0}`` .. ``logs:{N-1}``. Raises ValueError."""
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise ValueError(f"partitions must be from 1 to {PARTITIONS_MAX}, not {partitions}")
    if partitions == 1:
        return (stream,)
    return tuple(f"{stream}:{{{number}}}" for number in range(partitions))


def is_reserved(stream: str) -> bool:
    """Return whether a name looks like one of the store keys that Inlet keeps beside some other stream."""
    return _OWN.search(stream) is not None


def dead_key(key: str) -> str:
    """Return the dead-letter stream of a stream's key."""
    return key + ":dead"


def rejected_key(key: str) -> str:
    """Return the stream of the records that were refused on their way to a stream's key."""
    return key + ":rejected"


def ids_keys(key: bytes) -> list[bytes]:
    """Return the buckets in which the server remembers the ids of a stream's key."""
    tagged = key if _PARTITION.search(key.decode()) else b"{%b}" % key
    return [b"%b:ids:%d" % (tagged, bucket) for bucket in range(IDS_BUCKETS)]


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
