"""The probe: what the watcher asks of the store, over a connection of its own. It changes nothing there.

What lives here: whether an XADD would succeed now, and the sample that backpressure judges. What must not: commits,
when to ask, what follows from it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import redis

from inlet.stream.keys import full_key
from inlet.stream.retention import Hold, read_marker
from wsgi.problems import SinkError
from wsgi.sink.driver import ERRORS, Driver, translate
from wsgi.sink.durability import REPLICATED, SYNCED
from wsgi.sink.waits import Waits


class Sample(NamedTuple):
    """What the store says of itself. None: it does not say, or is not permitted to (NOPERM)."""

    used_bytes: int | None
    max_bytes: int | None
    policy: str | None
    aof_writes: bool | None
    backlog_entries: int | None
    full: Hold | None
    """What keeps unread entries that fill the bounds of retention, if they do: ``<stream>:full``, from the keeper."""
    unreachable: dict[int, SinkError]
    """Levels, from the default on, that cannot be reached now, and why; those of which it does not say are not here."""


class Probe:
    """Asks about the stream at ``key``: with ``backlog`` for its groups, with ``retention`` for the keeper's verdict.

    Not thread-safe.
    """

    def __init__(
        self, driver: Driver, waits: Waits, key: str, *, backlog: bool = False, retention: bool = False
    ) -> None:
        self._driver, self._waits, self._key = driver, waits, key
        self._backlog_wanted, self._retention_wanted = backlog, retention

    def check(self, level: int) -> SinkError | None:
        """Return why an XADD would fail now, or ``level``, of which a sample found nothing, would not be reached.

        XADD with the ID 0-0 passes every check that a real one does (OOM, READONLY, MISCONF, NOREPLICAS, rights), and
        is then refused for its ID. TYPE tells whether the key is free or a stream.
        """
        try:
            self._driver.connect()
            self._try_xadd()
            return self._wrong_type() or self._waits.check(self._driver, level)
        except ERRORS as error:
            self._driver.close()
            return translate(error)

    def _try_xadd(self) -> None:
        try:
            self._driver.ask("XADD", self._key, "0-0", "probe", "1")
        except redis.ResponseError as error:
            if "must be greater than 0-0" not in str(error):
                raise

    def _wrong_type(self) -> SinkError | None:
        kind = self._ask_if_permitted("TYPE", self._key)
        if kind in (None, b"stream", b"none"):
            return None
        holds = f"the store key {self._key!r} holds a {kind.decode()}, not a stream"
        return SinkError("sink-misconfigured", holds)

    def sample(self, default: int) -> Sample | SinkError:
        """Ask for INFO, for what was wanted, and for the levels from ``default`` on; return why that fails instead.

        INFO, XINFO GROUPS, XLEN, GET, CONFIG GET, WAITAOF.
        """
        try:
            self._driver.connect()
            memory = self._info("memory")
            persistence = self._info("persistence")
            entries = self._backlog() if self._backlog_wanted else None
            marker = self._ask_if_permitted("GET", full_key(self._key)) if self._retention_wanted else None
            levels = range(max(default, SYNCED), REPLICATED + 1)
            faults = {level: self._waits.fault(self._driver, level) for level in levels}
        except ERRORS as error:
            self._driver.close()
            return translate(error)
        writes = persistence.get("aof_last_write_status")
        return Sample(
            _number(memory.get("used_memory")),
            _number(memory.get("maxmemory")),
            memory.get("maxmemory_policy"),
            None if writes is None else writes == "ok",
            entries,
            None if marker is None else read_marker(marker),
            {level: fault for level, fault in faults.items() if fault is not None},
        )

    def forget(self) -> None:
        """In a forked child: start with no connection."""
        self._driver.forget()

    def _ask_if_permitted(self, *command: str) -> Any:
        """Return the reply; None where it may not be asked for. That is no failure: records can be stored without."""
        try:
            return self._driver.ask(*command)
        except redis.exceptions.NoPermissionError:
            return None

    def _info(self, section: str) -> dict[str, str]:
        """INFO's fields; none where it is not permitted."""
        text = (self._ask_if_permitted("INFO", section) or b"").decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def _backlog(self) -> int | None:
        """Entries that the slowest consumer group has yet to read or ack; without groups, the stream's length."""
        try:
            groups = self._ask_if_permitted("XINFO", "GROUPS", self._key)
        except redis.ResponseError:
            return 0  # no such key
        if groups is None:
            return None
        most = 0
        for group in groups:
            fields = dict(zip(group[::2], group[1::2], strict=True))
            # "lag" is Redis 7's; nil where entries in the middle were deleted. Then only the length is known.
            if fields.get(b"lag") is None:
                break
            most = max(most, int(fields[b"lag"]) + int(fields[b"pending"]))
        else:
            if groups:
                return most
        length = self._ask_if_permitted("XLEN", self._key)
        return None if length is None else int(length)


def fault_of(sample: Sample) -> SinkError | None:
    """Return what the store's configuration or disk has against keeping records, or None."""
    if sample.policy not in (None, "noeviction"):
        detail = f"maxmemory-policy is {sample.policy}, which may evict the stream; set noeviction"
        return SinkError("sink-misconfigured", detail)
    if sample.aof_writes is False:
        detail = "the store cannot write its append-only file; check its log and the disk"
        return SinkError("sink-misconfigured", detail)
    return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
