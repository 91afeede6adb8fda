"""One consumer's life as steps: what to send to the store next, what its replies mean. No I/O, no threads, no clock.

What lives here: groups, reads, claims and acks, each as a generator of ``steps``. What must not: sockets, sleeping,
``async``. The two drivers (``reader`` and ``aio``) perform the steps, so that no decision is written twice.

Redis commands: XGROUP CREATE, XREADGROUP, XACK, XPENDING, XCLAIM. Not XAUTOCLAIM: it would claim entries whose note
says that they are not due, and its reply does not hold the delivery count.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from inlet.consumer import deadletter, dedup, scripts
from inlet.consumer.acks import ACKS_MAX, Acks
from inlet.consumer.entries import WHOLE, Bad, Entry, left_by, parse
from inlet.consumer.names import ghosts
from inlet.consumer.notes import Note, decode, encode
from inlet.consumer.options import BOUNDS, Options
from inlet.consumer.readahead import Raw, ReadAhead
from inlet.consumer.steps import OUT_OF_MEMORY, Patient, Steps, remember
from inlet.stream.client import named
from inlet.stream.errors import Fault
from inlet.stream.keys import partition_keys

log = logging.getLogger("inlet.consumer")

CLAIM_SCAN = 100
"""Rows of XPENDING read in one step: bounds both the reply and what is claimed at once."""
CLAIM_EVERY_SECONDS_MAX = 5.0
"""Seconds between two looks for due entries, at most; half of ``claim_idle_ms`` where that is shorter."""


@dataclass
class Stats:
    """Count what a reader has done so far. ``failed``: failed attempts, that is calls of the handler that raised."""

    entries: int = 0
    records: int = 0
    acked: int = 0
    failed: int = 0
    claimed: int = 0
    suppressed: int = 0
    dead: int = 0
    trimmed: int = 0


class Noted(Enum):
    """What became of a note: written, the entry is another consumer's or acked, or the store is out of memory."""

    YES = 1
    NOT_OURS = 0
    FULL = -1


class Session(Patient):
    """One consumer of one group. ``clock``: seconds, never going back. ``recover``: first read its pending entries."""

    def __init__(
        self,
        stream: str,
        group: str,
        consumer: str,
        partitions: int,
        options: Options,
        clock: Callable[[], float],
        *,
        recover: bool,
    ) -> None:
        super().__init__(partition_keys(stream, partitions), group, clock)
        self.consumer, self.options = consumer, options
        self.stats = Stats()
        self.buffer: deque[Raw] = deque()  # read ahead, not yet handed out
        self.seeks = dict[int, bytes]()  # partition -> where the next look for due entries begins
        self._held: dict[tuple[int, bytes], float] = {}  # delivered to us, not acked -> since when
        self._acks = Acks(self.keys, group, options.ack_delay_ms)
        self._ahead = ReadAhead(options, len(self.keys))
        self._opened = False
        if recover:
            self.own = dict.fromkeys(range(len(self.keys)), b"-")
        self._claim_every = min(options.claim_idle_ms / 2000, CLAIM_EVERY_SECONDS_MAX)
        self._claim_at = 0.0
        self._claimed_last = False
        self._more = False  # the last look at pending entries did not reach their end
        self._buffered_at = 0.0
        self._short = False  # it was logged that the store has no memory for notes and letters

    def open(self) -> Steps[None]:
        """Create the group if it does not exist (XGROUP CREATE ... MKSTREAM)."""
        if not self._opened:
            for key in self.keys:
                yield from self.create(key, "0" if self.options.start == "start" else "$")
            self._opened = True

    # Reading --------------------------------------------------------------------------------------------------

    def fetch(self, *, block: bool = True) -> Steps[None]:
        """Fill ``buffer`` with entries due to be claimed, else with new ones; it stays empty if ``block_ms`` pass."""
        yield from self.open()
        found: list[Raw] = []
        # Claims and new entries in turn, so that neither keeps the other waiting.
        due = bool(self.own) or self._clock() >= self._claim_at
        if due and not self._claimed_last:
            found = yield from self._claim()
        self._claimed_last = bool(found)
        if not found:
            found = yield from self._read(block and not self.own and not self._more)
        while not found and (self.own or self._more):
            found = yield from self._claim()
        self._buffered_at = self._clock()
        for raw in found:
            self._held[raw.partition, raw.entry_id] = self._buffered_at
        self.stats.entries += len(found)
        self.buffer.extend(found)

    def _read(self, block: bool) -> Steps[list[Raw]]:
        """Read what nobody in the group has (XREADGROUP), with the waiting acks in front."""
        command: list[Any] = ["XREADGROUP", "GROUP", self.group, self.consumer, "COUNT", self._ahead.count]
        if block:
            command += ["BLOCK", self.options.block_ms]
        command += ["STREAMS", *self.keys, *[">"] * len(self.keys)]
        acks = self._take_acks()
        replies = yield from self.call([*acks, tuple(command)])
        numbers = {key.encode(): number for number, key in enumerate(self.keys)}
        found: list[Raw] = []
        for key, rows in replies[-1] or ():
            number = numbers[key]
            found += [Raw(number, row[0], row[1], 1) for row in rows]
        self._ahead.learn(found)
        return found

    def _claim(self) -> Steps[list[Raw]]:
        """Look at each partition's pending entries once, and claim those that are due (XPENDING, XCLAIM)."""
        yield from self.flush()
        now, horizon = self._clock(), self.options.claim_idle_ms / 1000
        self._held = {key: since for key, since in self._held.items() if now - since < horizon}
        found: list[Raw] = []
        self._more = False
        for partition, key in enumerate(self.keys):
            own = partition in self.own
            begin = self.own[partition] if own else self.seeks.get(partition, b"-")
            idle = () if own else ("IDLE", self.options.claim_idle_ms)
            mine = (self.consumer,) if own else ()
            scan = ("XPENDING", key, self.group, *idle, begin, "+", min(CLAIM_SCAN, self._ahead.count), *mine)
            # Without the group's memory the look is still worth taking: out of memory, the acks are what frees some.
            _, rows = yield from self.call([remember(key, self.group), scan], accept=OUT_OF_MEMORY)
            last = b"(" + bytes(rows[-1][0]) if len(rows) == scan[-2 if own else -1] else b"-"
            # After one's own entries come those of others.
            self._more = self._more or own or last != b"-"
            if own and last == b"-":
                self.own.pop(partition, None)
            elif own:
                self.own[partition] = last
            else:
                self.seeks[partition] = last
            deliveries = {bytes(row[0]): int(row[3]) for row in rows}
            others = {name: count for name, count in deliveries.items() if (partition, name) not in self._held}
            found += yield from self._take(partition, others, own=own)
        if not self._more:
            self._claim_at = self._clock() + self._claim_every
        return found

    def _take(self, partition: int, deliveries: dict[bytes, int], *, own: bool) -> Steps[list[Raw]]:
        """Claim of these what is due (XCLAIM); entries that were trimmed while pending are logged and acked."""
        if not deliveries:
            return []
        key, idle_ms = self.keys[partition], 0 if own else self.options.claim_idle_ms
        command = scripts.claim(key, self.group, self.consumer, idle_ms, list(deliveries))
        [(rows, gone)] = yield from self.call([command])
        found = [Raw(partition, name, fields, deliveries[name] + 1, decode(note)) for name, fields, note in rows]
        self.stats.claimed += len(found)
        if gone:
            self.stats.trimmed += gone
            log.error("inlet: %d pending entries of %s were trimmed before they were handled", gone, key)
        return found

    def next(self) -> Steps[Entry | None]:
        """Return the next entry to hand out, or None if the buffer is empty. Never one that another consumer took."""
        while self.buffer:
            if self._clock() - self._buffered_at > self.options.claim_idle_ms / 2000:
                yield from self._renew()
                if not self.buffer:
                    break
            raw = self.buffer[0]
            entry = parse(raw.partition, raw.entry_id, raw.fields, raw.deliveries)
            if raw.note is not None:
                entry = left_by(raw.note, entry)
            if self.options.dedup_window_ms:
                entry = yield from dedup.suppress(self, entry, self.options.dedup_window_ms)
                self.stats.suppressed += entry.suppressed
            self.buffer.popleft()
            if entry.records:
                return entry
            # Nothing to hand out.
            if entry.bad or entry.note is not None:
                yield from self.bury(entry, entry.bad)
            elif self.ack(entry):
                yield from self.flush()
        return None

    def _renew(self) -> Steps[None]:
        """Keep of a buffer that waited long what is still ours, and reset its idle time so that nobody claims it."""
        kept: set[tuple[int, bytes]] = set()
        for partition, key in enumerate(self.keys):
            names = [raw.entry_id for raw in self.buffer if raw.partition == partition]
            if not names:
                continue
            # Claimed entries are not in order of their IDs.
            asked = [("XPENDING", key, self.group, name, name, 1, self.consumer) for name in names]
            replies = yield from self.call(asked)
            ours = [name for name, rows in zip(names, replies, strict=True) if rows]
            if ours:
                yield from self.call([("XCLAIM", key, self.group, self.consumer, 0, *ours, "JUSTID")])
            kept.update((partition, name) for name in ours)
        now = self._clock()
        for raw in self.buffer:
            self._held.pop((raw.partition, raw.entry_id), None)
        self.buffer = deque(raw for raw in self.buffer if (raw.partition, raw.entry_id) in kept)
        for raw in self.buffer:
            self._held[raw.partition, raw.entry_id] = now
        self._buffered_at = now

    # Acks -----------------------------------------------------------------------------------------------------

    def ack(self, entry: Entry) -> bool:
        """Note that ``entry`` is done; return True if it is time to ``flush``."""
        name = entry.entry_id.encode()
        self._held.pop((entry.partition, name), None)
        self.stats.records += len(entry.records)
        return self._acks.add(entry.partition, name, self._clock())

    def fail(self, entry: Entry) -> None:
        """Leave ``entry`` pending: it is delivered again once it is due."""
        self._held.pop((entry.partition, entry.entry_id.encode()), None)

    def give_back(self, entry: Entry) -> None:
        """Take back an entry that was not handled: ``leave`` hands it back with what was read ahead."""
        raw = Raw(entry.partition, entry.entry_id.encode(), entry.fields, entry.deliveries, entry.note)
        self.buffer.appendleft(raw)

    def flush(self) -> Steps[None]:
        """Send the waiting acks (XACK)."""
        acks = self._take_acks()
        if acks:
            yield from self.call(acks)

    def _take_acks(self) -> list[tuple[Any, ...]]:
        count, commands = self._acks.take()
        self.stats.acked += count
        return commands

    def note(self, entry: Entry, note: Note, wait_ms: int) -> Steps[Noted]:
        """Keep what is known of an entry until it is acked; its next attempt is due after ``wait_ms``."""
        key = self.keys[entry.partition]
        command = scripts.note(key, self.group, self.consumer, entry.entry_id, wait_ms, encode(note))
        [reply] = yield from self.call([command], accept=OUT_OF_MEMORY)
        if isinstance(reply, Fault):
            return Noted.FULL
        self._short = False
        return Noted.YES if reply else Noted.NOT_OURS

    def say_short(self, entry: Entry, what: str) -> None:
        """Log what the store has no memory for, once until it has taken a note or letters again."""
        if not self._short:
            self._short = True
            log.warning("inlet: %s %s stays pending, %s", self.keys[entry.partition], entry.entry_id, what)

    def bury(self, entry: Entry, bad: Sequence[Bad]) -> Steps[None]:
        """Write dead letters for ``bad``, ack the entry and forget its note, in one script: all of it or nothing.

        An entry that is no longer ours is left to whoever has it; it also stays pending while the store is out of
        memory. Every other refusal is raised as StoreRefuses.
        """
        key, lost = self.keys[entry.partition], self.losses
        letters = [deadletter.letter(key, self.group, entry, item) for item in bad]
        command = scripts.bury(key, self.group, self.consumer, entry.entry_id, letters)
        [reply] = yield from self.call([command], accept=OUT_OF_MEMORY)
        self._held.pop((entry.partition, entry.entry_id.encode()), None)
        if isinstance(reply, Fault):
            self.say_short(entry, f"its letters do not fit: {reply.text}")
            return
        self._short = self._short and not bad
        if reply < 0 and self.losses == lost:
            return
        # Not there any more after a lost reply: it was ours that took effect.
        self.stats.acked += 1
        self.stats.dead += len(bad)
        self.stats.records += len(entry.records)
        if not bad:
            return
        first = bad[0]
        where = "" if first.line == WHOLE else f" line {first.line}"
        log.warning(
            "inlet: %d dead letters of %s %s%s: %s: %s",
            len(bad), key, entry.entry_id, where, first.reason, first.detail,
        )  # fmt: skip

    def leave(self, *, forget: bool) -> Steps[None]:
        """Flush the acks, and hand back what was read ahead so that others can claim it at once.

        ``forget``: also delete the consumer, unless entries are still pending under its name, and consumers long gone.
        """
        self.stopping = True
        if not self._opened:
            return
        yield from self.flush()
        if self._clock() - self._buffered_at > self.options.claim_idle_ms / 2000:
            yield from self._renew()
        back: dict[tuple[int, int], list[bytes]] = {}
        for raw in self.buffer:
            back.setdefault((raw.partition, raw.deliveries - 1), []).append(raw.entry_id)
        for (partition, before), names in back.items():
            claim = ("XCLAIM", self.keys[partition], self.group, self.consumer, 0)
            # As long as any consumer's options may ask for; what has failed is held back by its note.
            idle = BOUNDS["claim_idle_ms"][1]
            for start in range(0, len(names), ACKS_MAX):
                some = names[start : start + ACKS_MAX]
                yield from self.call([(*claim, *some, "IDLE", idle, "RETRYCOUNT", before, "JUSTID")])
        self.buffer.clear()
        if forget:
            for key in self.keys:
                [rows] = yield from self.call([("XINFO", "CONSUMERS", key, self.group)])
                gone = ghosts(named(row) for row in rows)
                forget_all = [scripts.forget(key, self.group, name) for name in (self.consumer, *gone[:ACKS_MAX])]
                yield from self.call(forget_all)
