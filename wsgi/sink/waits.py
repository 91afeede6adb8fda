"""WAIT and WAITAOF: how the levels above ``stored`` are reached, and what their replies mean.

What lives here: the commands, their replies, and when WAITAOF is not to be trusted. What must not: when they are sent.
"""

from __future__ import annotations

from typing import Any

import redis

from wsgi.problems import SinkError
from wsgi.sink.driver import Driver, pack, words
from wsgi.sink.durability import STORED, SYNCED

WAIT_SHARE = 0.75
"""Share of the commit's deadline that the store may wait for an fsync or replicas; the rest is for its reply."""


class Waits:
    """``replicas``: how many must have the records for ``replicated``. ``commit_timeout_ms``: a commit's deadline."""

    def __init__(self, *, replicas: int, commit_timeout_ms: int) -> None:
        self._replicas = replicas
        self._timeout_ms = max(1, int(commit_timeout_ms * WAIT_SHARE))

    def commands(self, level: int) -> list[bytes]:
        """Return the packed command to send after the XADDs of ``level``; none up to ``stored``."""
        if level <= STORED:
            return []
        timeout = b"%d" % self._timeout_ms
        if level == SYNCED:
            return [pack(b"WAITAOF", b"1", b"0", timeout)]
        return [pack(b"WAIT", b"%d" % self._replicas, timeout)]

    def fault(self, driver: Driver, level: int) -> SinkError | None:
        """Return why ``level`` cannot be reached, asked once a connection. Raises one of ERRORS.

        With ``appendfsync everysec`` servers before Redis 8.0, and Valkey up to 9.1 at least, may reply to WAITAOF
        before the fsync (redis/redis pull request 13793; tests/faults/test_power_cut.py shows it).
        """
        if level != SYNCED or driver.fsyncs_always:
            return None
        try:
            reply = driver.ask("CONFIG", "GET", "appendfsync")
        except redis.ResponseError as error:
            refusal = f"synced needs appendfsync always, and CONFIG GET is refused: {words(error)}"
            return SinkError("durability-unavailable", refusal)
        driver.fsyncs_always = len(reply) == 2 and reply[1] == b"always"
        if driver.fsyncs_always:
            return None
        found = reply[1].decode() if len(reply) == 2 else "unknown"
        return SinkError("durability-unavailable", f"synced needs the store's appendfsync to be always; it is {found}")

    def outcome(self, driver: Driver, level: int) -> SinkError | None:
        """Read the reply to ``commands`` and return why ``level`` was not reached, or None. Raises one of ERRORS."""
        if level <= STORED:
            return None
        try:
            reply = driver.read()
        except redis.ResponseError as error:
            return SinkError("durability-unavailable", f"the store cannot promise that: {words(error)}")
        return self._shortfall(level, reply)

    def check(self, driver: Driver, level: int) -> SinkError | None:
        """Ask now whether ``level`` can be reached, and return why not. Raises one of ERRORS."""
        driver.fsyncs_always = False  # asked anew: it may have been changed
        if (fault := self.fault(driver, level)) is not None:
            return fault
        if commands := self.commands(level):
            driver.send(commands)
        return self.outcome(driver, level)

    def _shortfall(self, level: int, reply: Any) -> SinkError | None:
        """Both commands reply with a count, also where it was not reached in time."""
        if level == SYNCED:
            if int(reply[0]) >= 1:
                return None
            return SinkError("durability-timeout", f"not fsynced within {self._timeout_ms} ms")
        if int(reply) >= self._replicas:
            return None
        had = f"{int(reply)} of {self._replicas} replicas had it within {self._timeout_ms} ms"
        return SinkError("durability-timeout", had)
