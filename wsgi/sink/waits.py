"""WAIT and WAITAOF: how the levels above ``stored`` are reached, when they cannot be, and what their replies mean.

What lives here: the commands, their replies, and what a level needs of the store. What must not: when they are sent.
"""

from __future__ import annotations

import re
from typing import Any

import hiredis
import redis

from inlet.stream.errors import PASSING
from wsgi.problems import SinkError
from wsgi.sink.driver import Driver, code_of, pack, release, words
from wsgi.sink.durability import STORED, SYNCED

WAIT_SHARE = 0.75
"""Share of the commit's deadline that the store may wait for an fsync or replicas; the rest is for its reply."""
REPLICA_LAG_SECONDS_MAX = 10
"""Silence of a replica after which it does not count as connected: Redis's own default (min-replicas-max-lag)."""

_REPLICA = re.compile(r"^slave\d+:(.+)$", re.MULTILINE)


class Waits:
    """``replicas``: how many must have the records for ``replicated``. ``commit_timeout_ms``: a commit's deadline."""

    def __init__(self, *, replicas: int, commit_timeout_ms: int) -> None:
        self._replicas = replicas
        self._timeout_ms = max(1, int(commit_timeout_ms * WAIT_SHARE))

    def command(self, level: int) -> bytes:
        """Return the packed command to send after the XADDs of ``level``; empty up to ``stored``."""
        return pack(*(word.encode() for word in self._words(level))) if level > STORED else b""

    def _words(self, level: int) -> list[str]:
        if level == SYNCED:
            return ["WAITAOF", "1", "0", str(self._timeout_ms)]
        return ["WAIT", str(self._replicas), str(self._timeout_ms)]

    def fault(self, driver: Driver, level: int) -> SinkError | None:
        """Return why ``level`` cannot be reached now, or None: it can, or the store does not say. Stores nothing.

        Raises one of ERRORS where the store does not answer, or refuses everything for now.
        """
        if level <= STORED:
            return None
        return self._fsync_fault(driver) if level == SYNCED else self._replica_fault(driver)

    def _fsync_fault(self, driver: Driver) -> SinkError | None:
        """With ``appendfsync everysec`` servers before Redis 8.0, and Valkey up to 9.1 at least, may reply to WAITAOF
        before the fsync (redis/redis pull request 13793; tests/faults/test_power_cut.py shows it).
        """
        try:
            reply = driver.ask("CONFIG", "GET", "appendfsync")
        except redis.ResponseError as error:
            return _unavailable("synced needs appendfsync always, and CONFIG GET is refused", error)
        found = reply[1].decode() if len(reply) == 2 else "unknown"
        if found != "always":
            needs = f"synced needs the store's appendfsync to be always; it is {found}"
            return SinkError("durability-unavailable", needs)
        try:
            driver.ask("WAITAOF", "1", "0", "1")  # whether it is permitted; not what it replies within 1 ms
        except redis.ResponseError as error:
            return _unavailable("the store cannot promise synced", error)
        return None

    def _replica_fault(self, driver: Driver) -> SinkError | None:
        """Count the replicas that INFO replication calls online and that have not been silent for too long."""
        try:
            driver.ask("WAIT", "0", "1")  # whether it is permitted: for no replica it replies at once
        except redis.ResponseError as error:
            return _unavailable("the store cannot promise replicated", error)
        try:
            text = driver.ask("INFO", "replication").decode()
        except redis.ResponseError as error:
            if code_of(error) in PASSING:
                raise
            release(error)
            return None
        if "connected_slaves:" not in text:
            return None
        replicas = [dict(pair.split("=", 1) for pair in line.strip().split(",")) for line in _REPLICA.findall(text)]
        connected = [
            replica
            for replica in replicas
            if replica.get("state") == "online" and int(replica.get("lag", "0")) <= REPLICA_LAG_SECONDS_MAX
        ]
        if len(connected) >= self._replicas:
            return None
        needs = f"replicated needs {self._replicas} connected replicas; the store has {len(connected)}"
        return SinkError("durability-unavailable", needs)

    def outcome(self, level: int, reply: Any) -> SinkError | None:
        """Return why ``level`` was not reached though the records are stored, from the reply to ``command``."""
        if isinstance(reply, hiredis.ReplyError):
            return SinkError("durability-timeout", f"stored, but the store cannot promise more: {words(reply)}")
        # Both commands reply with a count, also where it was not reached in time.
        if level == SYNCED:
            if int(reply[0]) >= 1:
                return None
            return SinkError("durability-timeout", f"not fsynced within {self._timeout_ms} ms")
        if int(reply) >= self._replicas:
            return None
        had = f"{int(reply)} of {self._replicas} replicas had it within {self._timeout_ms} ms"
        return SinkError("durability-timeout", had)

    def check(self, driver: Driver, level: int) -> SinkError | None:
        """Return why a commit at ``level`` would not reach it now, though ``fault`` has found nothing; as ``fault``."""
        if level <= STORED:
            return None
        try:
            reply = driver.ask(*self._words(level))
        except redis.ResponseError as error:
            return _unavailable("the store cannot promise that", error)
        return self.outcome(level, reply)


def at_default(fault: SinkError) -> SinkError:
    """Return ``fault`` as a refusal of everything: where the default level cannot be reached, a retry may help."""
    if fault.reason != "durability-unavailable":
        return fault
    return SinkError("sink-unavailable", fault.detail)


def _unavailable(what: str, error: redis.ResponseError) -> SinkError:
    """Return the fault that an error reply stands for; raise it where the store refuses everything for now."""
    if code_of(error) in PASSING:
        raise error
    detail = f"{what}: {words(error)}"
    release(error)
    return SinkError("durability-unavailable", detail)
