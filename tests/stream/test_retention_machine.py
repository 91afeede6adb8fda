"""Producers, groups, acks, failovers, restarts and clocks in any order, over the real store and a model of retention.

Two things always hold: nothing goes that a group has not acked, and nothing is refused once every group has acked
everything. What is trimmed is also exactly what the model, a plan of a few lines, would trim.
"""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from inlet.stream.client import StoreClient
from inlet.stream.groups import forget
from inlet.stream.keeper import Keeper, Kept
from inlet.stream.keys import forgotten_key
from inlet.stream.retention import Retention
from inlet.stream.trimming import RESUME_FRACTION
from tests.consumer.support import connect
from tests.stream.support import ack, read

HOUR_MS = 3_600_000
EXAMPLES = 150
STEPS = 60
SEEN_MIN = 20
"""How often each thing that matters must have happened, or the run has proven nothing."""
RESUME_TICKS = 1
"""Looks of a keeper that has the lease, after which an acked stream accepts again."""
NAMES = st.sampled_from(["a", "b"])
BOUNDS = st.builds(
    Retention,
    age_ms=st.sampled_from([None, HOUR_MS]),
    entries=st.sampled_from([None, 1, 2, 10, 40]),
    memory_bytes=st.sampled_from([None, None, 1, 12_000]),
    unread=st.sampled_from(["keep", "keep", "drop"]),
).filter(lambda keep: bool(keep.age_ms or keep.entries or keep.memory_bytes))

Id = tuple[int, int]


@dataclass
class Group:
    """What a group has not acked: all after its position, and what it was given; everything while it is missing."""

    position: Id
    pending: set[Id] = field(default_factory=set)
    missing: bool = False

    def owes(self, entries: list[Id]) -> set[Id]:
        return {entry for entry in entries if self.missing or entry > self.position or entry in self.pending}


def planned(entries: list[Id], owed: set[Id], any_group: bool, keep: Retention, now_ms: int, was_full: bool) -> int:
    """Return how many entries go, oldest first, for the bounds on age and entries."""
    acked = list(itertools.takewhile(lambda entry: any_group and entry not in owed, entries))
    old = [] if keep.age_ms is None else [entry for entry in entries if entry[0] < now_ms - keep.age_ms]
    bound = len(entries) if keep.entries is None else keep.entries
    over = len(entries) - (int(bound * RESUME_FRACTION) if was_full and keep.unread == "keep" else bound)
    most = len(entries) if keep.unread == "drop" else len(acked)
    return max(0, min(most, max(len(old), over)))


class Machine(RuleBasedStateMachine):
    """One stream, up to three groups, two keepers. ``url``: the store. ``happened``: what did, and how often."""

    def __init__(self, url: str, happened: Counter[str]) -> None:
        super().__init__()
        self.happened = happened
        self.db: Any = connect(url)
        self.key = f"machine-{uuid.uuid4().hex}"
        self.clients = [StoreClient(url), StoreClient(url)]
        self.groups: dict[str, Group] = {}
        self.seen: list[set[str]] = [set(), set()]
        self.offset_ms = 0

    @initialize(keep=BOUNDS)
    def begin(self, keep: Retention) -> None:
        self.keep = keep
        self.keepers = [Keeper(client, [self.key], keep, publish=True) for client in self.clients]

    def teardown(self) -> None:
        if hasattr(self, "keep"):
            self.everyone_acks()
            self.accepts_again()
        for name in self.db.scan_iter(f"{self.key}*"):
            self.db.delete(name)
        for client in (self.db, *self.clients):
            client.close()

    # The world.

    @rule(count=st.sampled_from([1, 20, 60]), bytes_each=st.sampled_from([1, 100, 3_000]))
    def produce(self, count: int, bytes_each: int) -> None:
        """A server appends unless it has been said that the stream is full; the store's clock may have been set."""
        if self.full():
            return
        now_ms = max(self.last_id()[0], self.now_ms() + self.offset_ms)
        for _ in range(count):
            self.db.xadd(self.key, {"r": "x" * bytes_each, "n": 1}, id=f"{now_ms}-*")

    @rule(hours=st.sampled_from([-48, -2, 0, 2, 48]))
    def set_clock(self, hours: int) -> None:
        self.offset_ms = hours * HOUR_MS

    @rule(name=NAMES, at=st.sampled_from(["0", "$"]), noted=st.booleans())
    def create(self, name: str, at: str, noted: bool) -> None:
        """A reader notes its group first; another program does not."""
        if name in self.groups and not self.groups[name].missing:
            return
        if noted:
            self.db.hsetnx(f"{self.key}:groups", name, 1)
        start = (0, 0) if at == "0" else self.last_id()
        self.db.xgroup_create(self.key, name, id=at, mkstream=True)
        self.groups[name] = Group(start)

    @precondition(lambda self: self.groups)
    @rule(name=NAMES, count=st.sampled_from([5, 40, 100_000]), share=st.sampled_from([0, 1, 1, 2, 2]))
    def work(self, name: str, count: int, share: int) -> None:
        """Read so many entries; ack none of all that is pending, all, or every second entry."""
        group = self.groups.get(name)
        if group is None or group.missing:
            return
        ids = [parsed(entry_id) for entry_id in read(self.db, self.key, name, count)]
        group.pending.update(ids)
        group.position = max([group.position, *ids])
        if share and (pending := sorted(group.pending)[::share]):
            ack(self.db, self.key, name, [b"%d-%d" % entry for entry in pending])
            group.pending.difference_update(pending)

    @rule(name=NAMES)
    def set_back(self, name: str) -> None:
        """Read everything again: XGROUP SETID, or a failover to a replica that is far behind."""
        if name in self.groups and not self.groups[name].missing:
            self.db.xgroup_setid(self.key, name, "0")
            self.groups[name].position = (0, 0)

    @precondition(lambda self: self.groups)
    @rule(name=NAMES, note_too=st.booleans())
    def fail_over(self, name: str, note_too: bool) -> None:
        """The store loses a group that was noted or seen; and its note, where every keeper has seen the group."""
        group = self.groups.get(name)
        noted = self.db.hexists(f"{self.key}:groups", name)
        if group is None or not (noted or all(name in seen for seen in self.seen)):
            return
        self.db.xgroup_destroy(self.key, name)
        if note_too and all(name in seen for seen in self.seen):
            self.db.hdel(f"{self.key}:groups", name)
            self.db.delete(forgotten_key(self.key, name.encode()))
        group.missing, group.pending = True, set()

    @rule(name=NAMES)
    def forget(self, name: str) -> None:
        forget(self.clients[0], self.key, name.encode())
        self.groups.pop(name, None)

    # The keepers.

    @rule(who=st.sampled_from([0, 1]), lease_ended=st.booleans())
    def tick(self, who: int, lease_ended: bool) -> None:
        if lease_ended:
            self.db.delete(f"{self.key}:keeper")
        before, was_full = self.entries(), self.full()
        owed = self.owed(before)
        kept = self.keepers[who].tick()
        self.seen[who] = set(self.groups)
        if kept is None:
            assert self.entries() == before
            self.happened["another keeper"] += 1
        else:
            self.judge(kept[0], before, owed, was_full)

    @rule()
    def leave_a_marker(self) -> None:
        """As an earlier version, a keeper with smaller bounds, or a clock that was set back may do."""
        self.db.set(f"{self.key}:full", 100)

    @precondition(lambda self: all(self.db.hexists(f"{self.key}:groups", name) for name in self.groups))
    @rule(who=st.sampled_from([0, 1]))
    def restart(self, who: int) -> None:
        """A keeper dies with its memory; its lease stays."""
        self.keepers[who] = Keeper(self.clients[who], [self.key], self.keep, publish=True)
        self.seen[who] = set()

    def judge(self, kept: Kept, before: list[Id], owed: set[Id], was_full: bool) -> None:
        """Check one look that trimmed."""
        after = self.entries()
        gone = before[: len(before) - len(after)]
        assert after == before[len(gone) :], "the oldest entries go, and no others"
        assert (kept.length, kept.trimmed + kept.dropped) == (len(after), len(gone))
        if self.keep.unread == "keep":
            assert not owed.intersection(gone)
            assert kept.dropped == 0
        assert kept.dropped == len(list(itertools.dropwhile(lambda entry: self.groups and entry not in owed, gone)))
        plan = planned(before, owed, bool(self.groups), self.keep, self.now_ms(), was_full)
        assert len(gone) == plan if self.keep.memory_bytes is None else len(gone) >= plan
        assert kept.full == self.full()
        self.happened.update(
            trimmed=kept.trimmed > 0, dropped=kept.dropped > 0, full=kept.full, resumed=was_full and not kept.full,
            held_by_a_missing_group=kept.held.kind == "missing" and not gone, memory=self.keep.memory_bytes is not None,
        )  # fmt: skip
        if kept.full:
            assert self.keep.unread == "keep"
            assert after[0] in owed or not self.groups
            assert self.exceeds(after, kept.memory_bytes)
        elif self.keep.entries is not None:
            assert len(after) <= self.keep.entries

    def exceeds(self, entries: list[Id], memory_bytes: int) -> bool:
        """Whether a bound, less what is left free before a full stream accepts again, is exceeded."""
        most, bytes_most = self.keep.entries, self.keep.memory_bytes
        return (most is not None and len(entries) > int(most * RESUME_FRACTION)) or (
            bytes_most is not None and memory_bytes > int(bytes_most * RESUME_FRACTION)
        )

    # The end: everyone comes back and acks.

    def everyone_acks(self) -> None:
        for name, group in self.groups.items():
            if group.missing:
                self.create(name, "0", True)
            self.work(name, 100_000, 1)

    def accepts_again(self) -> None:
        if not self.groups:
            return
        self.db.delete(f"{self.key}:keeper")
        for _ in range(RESUME_TICKS):
            self.tick(0, lease_ended=False)
        assert not self.full()
        if self.keep.entries is not None:
            assert len(self.entries()) <= self.keep.entries

    # What there is.

    def now_ms(self) -> int:
        return int(self.db.time()[0]) * 1000

    def entries(self) -> list[Id]:
        return [parsed(entry_id) for entry_id, _ in self.db.xrange(self.key)]

    def last_id(self) -> Id:
        return parsed(self.db.xinfo_stream(self.key)["last-generated-id"]) if self.db.exists(self.key) else (0, 0)

    def full(self) -> bool:
        return bool(self.db.exists(f"{self.key}:full"))

    def owed(self, entries: list[Id]) -> set[Id]:
        return set().union(*(group.owes(entries) for group in self.groups.values()))


def parsed(entry_id: bytes) -> Id:
    ms, seq = entry_id.split(b"-")
    return int(ms), int(seq)


def test_nothing_unacked_is_trimmed_and_nothing_is_refused_once_all_is_acked(store_url: str) -> None:
    happened: Counter[str] = Counter()
    machine: Any = lambda: Machine(store_url, happened)  # noqa: E731  # what is wanted has the type of a class
    run_state_machine_as_test(machine, settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS))
    assert len(happened) == 7
    assert min(happened.values()) >= SEEN_MIN, happened
