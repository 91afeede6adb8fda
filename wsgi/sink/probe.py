"""The probe: what the watcher asks of the store, over a connection of its own. It changes nothing there.

What lives here: the commands of a look, and what their replies mean: whether an XADD would succeed now, and the samples
that backpressure judges. What must not: commits, when to ask, what follows from it.

All that is asked of the store and of its streams, however many, goes in one round trip.

With INLET_DEDUP_SECONDS, the script of a commit is called without a record, for each stream until it has worked once,
and again after a commit has failed. That may begin an empty bucket of ids; nothing else changes anything.

Redis commands: INFO, XADD, TYPE, XINFO GROUPS, XLEN, GET; those of ``dedup`` and of ``waits``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import hiredis

from inlet.stream.keys import full_key
from inlet.stream.retention import Hold, read_marker
from wsgi.problems import SinkError
from wsgi.sink.dedup import Dedup, script_refusal
from wsgi.sink.driver import ERRORS, Driver, pack, refusal, translate, words
from wsgi.sink.durability import REPLICATED, SYNCED
from wsgi.sink.waits import Waits

Streams = Callable[[], Sequence[str]]
"""Returns the streams that records may go to, the default one first. They may change while the server runs."""


class StreamSample(NamedTuple):
    """What the store says of one stream. None: nothing, or it does not say, or is not permitted to (NOPERM)."""

    fault: SinkError | None
    """Why an XADD to it would fail now, for a reason of its own."""
    backlog_entries: int | None
    full: Hold | None
    """What keeps unread entries that fill the bounds of retention, if they do: ``<stream>:full``, from the keeper."""


class Sample(NamedTuple):
    """What the store says of itself. None: it does not say, or is not permitted to (NOPERM)."""

    used_bytes: int | None
    max_bytes: int | None
    policy: str | None
    aof_writes: bool | None
    unreachable: dict[int, SinkError]
    """Levels, from the default on, that cannot be reached now, and why; those of which it does not say are not here."""
    fault: SinkError | None
    """Why an XADD to any stream would fail now."""
    streams: dict[bytes, StreamSample]
    """By store key, the default stream first."""


class Plan(NamedTuple):
    """The commands of a look, as they are sent, for the streams of that time."""

    names: tuple[str, ...]
    keys: tuple[bytes, ...]
    commands: bytes
    replies: int


class Probe:
    """Asks about the stream at ``key``: with ``backlog`` for its groups, with ``retention`` for the keeper's verdict.

    ``streams``: all of them, that one first; None where there are no others. ``dedup``: how commits store each id once,
    if they do. Not thread-safe.
    """

    def __init__(
        self,
        driver: Driver,
        waits: Waits,
        key: str,
        *,
        backlog: bool = False,
        retention: bool = False,
        streams: Streams | None = None,
        dedup: Dedup | None = None,
    ) -> None:
        self._driver, self._waits, self._dedup = driver, waits, dedup
        self._tried: set[bytes] = set()  # streams for which the script of ``dedup`` was seen to work
        self._backlog_wanted, self._retention_wanted = backlog, retention
        self._streams: Streams = streams or (lambda: (key,))
        self._plan = self._planned(())

    def check(self, level: int) -> SinkError | None:
        """Return why ``level``, of which a sample found nothing, would not be reached by a commit now."""
        try:
            self._driver.connect()
            return self._waits.check(self._driver, level)
        except ERRORS as error:
            self._driver.close()
            return translate(error)

    def sample(self, default: int) -> Sample | SinkError:
        """Ask for all of a sample, with the levels from ``default`` on; return why that fails instead."""
        names = tuple(dict.fromkeys(self._streams()))
        if names != self._plan.names:
            self._plan = self._planned(names)
        plan = self._plan
        try:
            self._driver.connect()
            trials = self._trials(plan)
            replies = self._driver.ask_all(plan.commands + b"".join(trials.values()), plan.replies + len(trials))
            levels = range(max(default, SYNCED), REPLICATED + 1)
            faults = {level: self._waits.fault(self._driver, level) for level in levels}
        except ERRORS as error:
            self._driver.close()
            return translate(error)
        memory, persistence = replies[:2]
        if (failed := _failed(memory) or _failed(persistence)) is not None:
            return failed
        refused = self._tried_now(trials, replies[plan.replies :])
        return self._sampled(plan, _info(memory), _info(persistence), faults, iter(replies[2:]), refused)

    def doubt(self, keys: Collection[bytes] | None = None) -> None:
        """Try the script for these streams at the next look, None for all: a commit has failed since the last one."""
        self._tried = set() if keys is None else self._tried.difference(keys)

    def _trials(self, plan: Plan) -> dict[bytes, bytes]:
        """Return a call of the script for each stream for which it was not seen to work. Raises one of ERRORS."""
        if self._dedup is None:
            return {}
        trials = {key: self._dedup.trial(key) for key in plan.keys if key not in self._tried}
        if trials:
            self._dedup.load(self._driver)
        return trials

    def _tried_now(self, keys: Iterable[bytes], replies: list[Any]) -> dict[bytes, SinkError]:
        """Note for which streams the script works; return the faults of the others."""
        refused = {}
        for key, reply in zip(keys, replies, strict=True):
            if not isinstance(reply, hiredis.ReplyError):
                self._tried.add(key)
            elif not str(reply).startswith("NOSCRIPT"):
                refused[key] = script_refusal(words(reply))
        return refused

    def _sampled(
        self,
        plan: Plan,
        memory: dict[str, str],
        persistence: dict[str, str],
        faults: dict[int, SinkError | None],
        replies: Iterator[Any],
        refused: dict[bytes, SinkError],
    ) -> Sample:
        streams: dict[bytes, StreamSample] = {}
        whole = None
        for key in plan.keys:
            own = _xadd_fault(next(replies))
            kind = next(replies)
            own = own or _failed(kind) or _wrong_type(key, kind) or refused.get(key)
            entries, full = None, None
            if self._backlog_wanted:
                entries = _backlog(next(replies), next(replies))
            if self._retention_wanted:
                marker = next(replies)
                own = own or _failed(marker)
                full = read_marker(marker) if type(marker) is bytes else None
            if own is not None and own.reason == "sink-unavailable":
                # What passes with time (OOM, READONLY) is said of the whole store, whichever stream was asked for.
                whole, own = whole or own, None
            streams[key] = StreamSample(own, entries, full)
        writes = persistence.get("aof_last_write_status")
        return Sample(
            _number(memory.get("used_memory")),
            _number(memory.get("maxmemory")),
            memory.get("maxmemory_policy"),
            None if writes is None else writes == "ok",
            {level: fault for level, fault in faults.items() if fault is not None},
            whole,
            streams,
        )

    def _planned(self, names: tuple[str, ...]) -> Plan:
        """Return what a look at these streams asks, in the order in which ``_sampled`` takes the replies.

        XADD with the ID 0-0 passes every check that a real one does (OOM, READONLY, MISCONF, NOREPLICAS, rights), and
        is then refused for its ID. TYPE tells whether the key is free or a stream.
        """
        keys = tuple(name.encode() for name in names)
        asked = [(b"INFO", b"memory"), (b"INFO", b"persistence")]
        commands = [pack(*command) for command in asked]
        for name, key in zip(names, keys, strict=True):
            commands += [pack(b"XADD", key, b"0-0", b"probe", b"1"), pack(b"TYPE", key)]
            if self._backlog_wanted:
                commands += [pack(b"XINFO", b"GROUPS", key), pack(b"XLEN", key)]
            if self._retention_wanted:
                commands.append(pack(b"GET", full_key(name).encode()))
        return Plan(names, keys, b"".join(commands), len(commands))

    def forget(self) -> None:
        """In a forked child: start with no connection."""
        self._driver.forget()
        self._tried = set()


def _failed(reply: Any) -> SinkError | None:
    """Return the fault that an error reply stands for; what is not permitted (NOPERM) is none: it is done without."""
    if not isinstance(reply, hiredis.ReplyError) or str(reply).startswith("NOPERM"):
        return None
    return refusal(words(reply))


def _xadd_fault(reply: Any) -> SinkError | None:
    if not isinstance(reply, hiredis.ReplyError) or "must be greater than 0-0" in str(reply):
        return None
    return refusal(words(reply))


def _wrong_type(key: bytes, kind: Any) -> SinkError | None:
    if kind in (b"stream", b"none") or isinstance(kind, hiredis.ReplyError):
        return None
    holds = f"the store key {key.decode()!r} holds a {kind.decode()}, not a stream"
    return SinkError("sink-misconfigured", holds)


def _info(reply: Any) -> dict[str, str]:
    """INFO's fields; none where it is not permitted."""
    text = "" if isinstance(reply, hiredis.ReplyError) else reply.decode()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _backlog(groups: Any, length: Any) -> int | None:
    """Entries that the slowest consumer group has yet to read or ack; without groups, the stream's length."""
    if isinstance(groups, hiredis.ReplyError):
        return None if str(groups).startswith("NOPERM") else 0  # no such key
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
    return None if isinstance(length, hiredis.ReplyError) else int(length)


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
