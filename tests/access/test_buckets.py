"""Buckets: a model that is exact, the memory's rows, and what races, pauses and years of uptime may do."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlet.keyfile import BURST_MAX, PER_SECOND_MAX, PER_SECOND_MIN
from tests.access.forked import SECOND, Clock, forked, wait_for
from tests.support import DEADLINE_SECONDS
from wsgi.access import buckets
from wsgi.access.buckets import (
    CHANGES,
    FILLED,
    NAMES,
    ROWS,
    ROWS_USED,
    SLOTS,
    SLOTS_USED,
    SPILL_SHARE,
    STAMPS,
    UNITS_PER_NS,
    USED,
    Bucket,
    Buckets,
)  # fmt: skip

YEAR = 31_536_000 * SECOND


class Worker:
    """Another worker of the same host, within this process: its own view of the same memory."""

    def __init__(self, first: Buckets, slot: int) -> None:
        self.buckets = Buckets(first.clock)
        self.buckets.words = first.words
        self.buckets.start(slot)


def take(memory: Buckets, bucket: Bucket, tokens: float) -> bool:
    """Charge the bucket as a quota does: whether it had enough, or was full."""
    if memory.words[SLOTS_USED] != memory.slots:
        memory.rebind()
    level, cost = bucket.level(memory.clock() * UNITS_PER_NS), bucket.cost(tokens)
    if level < min(cost, bucket.burst):
        return False
    memory.words[bucket.mine] -= cost
    return True


def test_a_full_bucket_gives_its_burst_and_not_one_token_more() -> None:
    clock = Clock()
    memory = Buckets(clock)
    bucket = memory.bucket("a", 10, 20)
    assert [take(memory, bucket, 1) for _ in range(21)] == [True] * 20 + [False]
    clock.now += SECOND // 10 - 1
    assert not take(memory, bucket, 1)
    clock.now += 1
    assert take(memory, bucket, 1)
    assert not take(memory, bucket, 1)


def test_a_bucket_is_never_fuller_than_its_burst_however_long_it_was_left_alone() -> None:
    clock = Clock()
    memory = Buckets(clock)
    bucket = memory.bucket("a", 10, 20)
    for idle in (SECOND, 3 * SECOND, YEAR):
        clock.now += idle
        assert [take(memory, bucket, 1) for _ in range(21)] == [True] * 20 + [False]
        clock.now += 2 * SECOND


def test_more_than_the_burst_passes_a_full_bucket_alone_and_leaves_a_debt() -> None:
    clock = Clock()
    memory = Buckets(clock)
    bucket = memory.bucket("a", 10, 20)
    assert take(memory, bucket, 50)
    clock.now += 3 * SECOND  # The debt of 30 is paid.
    assert not take(memory, bucket, 1)
    clock.now += 2 * SECOND - 1
    assert not take(memory, bucket, 50)
    clock.now += 1
    assert take(memory, bucket, 50)


@st.composite
def steps(draw: st.DrawFn) -> tuple[float, float, int, list[tuple[int, int, int]]]:
    """Return a rate, a burst, a number of workers, and steps: worker, tokens, nanoseconds since the step before."""
    rate = draw(st.sampled_from([0.001, 0.3, 1, 7, 1_000, 123_456.789, 1e9]))
    burst = draw(st.sampled_from([1, 2, 10, 1_000, 10**6]))
    workers = draw(st.integers(1, 5))
    pause = st.one_of(st.integers(0, 1_000), st.integers(0, SECOND), st.integers(0, 10_000 * SECOND))
    step = st.tuples(st.integers(0, workers - 1), st.integers(1, 2 * burst), pause)
    return rate, burst, workers, draw(st.lists(step, max_size=60))


@given(steps())
def test_interleaved_workers_agree_with_one_exact_bucket(
    case: tuple[float, float, int, list[tuple[int, int, int]]],
) -> None:
    rate, burst, workers, todo = case
    clock = Clock()
    first = Buckets(clock)
    memories = [first, *(Worker(first, slot).buckets for slot in range(1, workers))]
    views = [memory.bucket("a", rate, burst) for memory in memories]
    level, last = Fraction(burst), clock.now
    # Each charge rounds down by less than a unit, and what has not spilled yet is a part of the burst.
    unit = Fraction(rate) / (UNITS_PER_NS * SECOND)
    slack = Fraction(burst) / SPILL_SHARE
    for count, (worker, tokens, pause) in enumerate(todo, 1):
        clock.now += pause
        level = min(level + Fraction(rate) * (clock.now - last) / SECOND, Fraction(burst))
        last = clock.now
        needed = min(Fraction(tokens), Fraction(burst))
        passed = take(memories[worker], views[worker], tokens)
        error = (count + 2) * unit
        if level >= needed + error:
            assert passed
        elif level < needed - slack - error:
            assert not passed
        # On the edge both are right; the model goes on from what was done.
        if passed:
            level -= tokens
        seen = Fraction(views[worker].level(clock.now * UNITS_PER_NS)) / Fraction(views[worker].per_token)
        assert abs(seen - level) <= slack + error + abs(level) / 10**9
        level = max(level, min(seen, Fraction(burst)))


def test_what_a_worker_was_charged_stays_charged_for_its_successor_and_for_the_others() -> None:
    clock = Clock()
    memory = Buckets(clock)
    one, two = Worker(memory, 0).buckets, Worker(memory, 1).buckets
    here, there = one.bucket("a", 10, 20), two.bucket("a", 10, 20)
    assert all(take(two, there, 1) for _ in range(15))
    successor = Worker(memory, 1).buckets
    again = successor.bucket("a", 10, 20)
    assert [take(successor, again, 1) for _ in range(4)] == [True] * 4
    assert [take(one, here, 1) for _ in range(2)] == [True, False]


def test_a_worker_adds_up_workers_that_start_after_it() -> None:
    clock = Clock()
    memory = Buckets(clock)
    first = memory.bucket("a", 10, 20)
    late = Worker(memory, 3).buckets
    bucket = late.bucket("a", 10, 20)
    assert all(take(late, bucket, 1) for _ in range(20))
    assert not take(memory, first, 1)


@pytest.mark.parametrize("slot", [SLOTS - 1, SLOTS, 3 * SLOTS + 5])
def test_a_slot_beyond_the_last_shares_the_word_of_another(slot: int) -> None:
    memory = Buckets(Clock())
    memory.start(slot)
    bucket = memory.bucket("a", 10, 20)
    assert [take(memory, bucket, 1) for _ in range(21)] == [True] * 20 + [False]


def test_a_worker_that_was_paused_while_it_wrote_gives_back_a_burst_at_most() -> None:
    clock = Clock()
    memory = Buckets(clock)
    bucket = memory.bucket("a", 10, 20)
    clock.now += 100 * SECOND
    assert bucket.level(clock.now * UNITS_PER_NS) == bucket.burst
    stale = memory.words[FILLED + bucket.row]  # What the paused worker is about to write.
    clock.now += 100 * SECOND
    assert sum(take(memory, bucket, 1) for _ in range(30)) == 20
    memory.words[FILLED + bucket.row] = stale
    assert sum(take(memory, bucket, 1) for _ in range(30)) == 20
    assert not take(memory, bucket, 1)


def test_a_clock_that_was_read_long_ago_takes_nothing_away() -> None:
    clock = Clock()
    memory = Buckets(clock)
    bucket = memory.bucket("a", 10, 20)
    early = clock.now * UNITS_PER_NS
    clock.now += 100 * SECOND
    assert take(memory, bucket, 1)
    bucket.spill(early)
    assert bucket.level(early) <= bucket.burst
    assert [take(memory, bucket, 1) for _ in range(20)] == [True] * 19 + [False]


@pytest.mark.parametrize(("rate", "burst"), [(1e9, 1e9), (1e9, 1e6), (PER_SECOND_MIN, BURST_MAX), (PER_SECOND_MAX, 1)])
def test_words_hold_fifteen_years_of_saturation_and_of_silence(rate: float, burst: float) -> None:
    clock = Clock(0)
    memory = Buckets(clock)
    bucket = memory.bucket("a", rate, burst)
    for _ in range(15):
        clock.now += YEAR
        now = clock.now * UNITS_PER_NS
        assert bucket.level(now) == bucket.burst  # After a year of silence.
        # A year of saturation, in one charge, and the largest that there can be.
        memory.words[bucket.mine] -= bucket.cost(1e30)
        assert bucket.level(now) <= 0
        assert not take(memory, bucket, 1)
    assert bucket.cost(1e30) == buckets.UNITS_MAX
    clock.now += YEAR
    assert take(memory, bucket, 1)


def test_a_bucket_holds_a_year_of_its_rate_at_most() -> None:
    memory = Buckets(Clock())
    assert memory.bucket("a", 1, buckets.SECONDS_MAX - 1).burst == buckets.UNITS_MAX - buckets.UNITS_PER_SECOND
    assert memory.bucket("a", 1, buckets.SECONDS_MAX + 1).burst == buckets.UNITS_MAX


def test_threads_of_a_process_lose_no_charge() -> None:
    memory = Buckets(Clock())
    bucket = memory.bucket("a", 1e6, 1e6)
    before, each, threads = sys.getswitchinterval(), 20_000, 4

    def charge() -> None:
        words, mine, one = memory.words, bucket.mine, bucket.one
        for _ in range(each):
            words[mine] -= one

    running = [threading.Thread(target=charge) for _ in range(threads)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(DEADLINE_SECONDS)
    finally:
        sys.setswitchinterval(before)
    assert memory.words[bucket.mine] == -bucket.one * each * threads


def test_keys_are_read_again_in_one_thread_while_another_finds_that_workers_have_started() -> None:
    memory = Buckets(Clock())
    held: list[Bucket] = []

    def read_keys() -> None:
        for number in range(2_000):
            held.append(memory.bucket(f"{number}", 1, 1))
            held[:-10] = []  # And others go.

    reader = threading.Thread(target=read_keys)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        reader.start()
        while reader.is_alive():
            memory.words[SLOTS_USED] = memory.words[SLOTS_USED] % SLOTS + 1
            memory.rebind()
        reader.join(DEADLINE_SECONDS)
    finally:
        sys.setswitchinterval(before)
    assert [len(bucket.read()) for bucket in held] == [memory.slots + 1] * len(held) != []


def test_a_bucket_is_the_same_for_the_same_name_rate_and_burst_and_another_for_any_change() -> None:
    memory = Buckets(Clock())
    rows = {memory.bucket(*given).row: given for given in (("a", 1, 2), ("b", 1, 2), ("a", 3, 2), ("a", 1, 4))}
    assert len(rows) == 4
    assert memory.bucket("a", 1, 2).row == next(row for row, given in rows.items() if given == ("a", 1, 2))
    assert Worker(memory, 1).buckets.bucket("a", 3, 2).row == next(
        row for row, given in rows.items() if given == ("a", 3, 2)
    )


def test_a_row_is_taken_over_when_the_table_is_full_and_the_oldest_that_nobody_here_uses_is_the_first() -> None:
    clock = Clock()
    memory = Buckets(clock)
    kept = memory.bucket("kept", 1, 5)
    assert all(take(memory, kept, 1) for _ in range(5))
    rows = []
    for number in range(ROWS - 1):
        clock.now += 1
        rows.append(memory.bucket(f"old {number}", 1e9, 1e9).row)
    assert memory.words[ROWS_USED] == ROWS
    gc.collect()
    again = memory.bucket("old 0", 1e9, 1e9)
    memory.words[USED + rows[1]] = -5  # A worker had been charged there.
    new = [memory.bucket(f"new {number}", 1, 3) for number in range(2)]
    assert [bucket.row for bucket in new] == rows[1:3]
    assert again.row == rows[0]
    assert [take(memory, new[0], 1) for _ in range(4)] == [True] * 3 + [False]
    assert not take(memory, kept, 1)


def test_a_process_cannot_use_more_buckets_than_there_are_rows() -> None:
    memory = Buckets(Clock())
    held = [memory.bucket(f"{number}", 1, 1) for number in range(ROWS)]
    with pytest.raises(RuntimeError, match="more than 6000 buckets"):
        memory.bucket("one more", 1, 1)
    assert memory.bucket("0", 1, 1) is held[0]


def test_a_worker_finds_that_its_row_was_taken_over_before_it_started() -> None:
    clock = Clock()
    memory = Buckets(clock)
    bucket = memory.bucket("a", 10, 20)
    memory.words[NAMES + bucket.row] = 12_345
    memory.words[CHANGES] += 1
    row = bucket.row
    memory.start(2)
    assert bucket.row != row
    assert [take(memory, bucket, 1) for _ in range(21)] == [True] * 20 + [False]


def test_only_what_is_used_takes_memory() -> None:
    memory = Buckets(Clock())
    before = _shared_kb()
    for number in range(100):
        memory.bucket(f"{number}", 1, 1)
    assert _shared_kb() - before <= 64
    assert memory.words[STAMPS] > 0


def _shared_kb() -> int:
    """Return the shared memory of this process, in KiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssShmem"))


def test_processes_that_claim_at_once_agree_on_the_rows_also_after_one_was_killed() -> None:
    memory = Buckets()
    names = [f"key {number}" for number in range(2_000)]
    unused = 7  # A word of the header: they all begin once it is set.

    def claim(number: int) -> None:
        while not memory.words[unused]:
            time.sleep(0.001)
        memory.start(number)
        # In another order each, so that they claim rows at once, and the same ones too.
        for name in names[number * 7 :] + names[: number * 7]:
            memory.bucket(name, 1, 1)
        if number == 3:
            # Killed with the lock held, with a row that is neither free nor anybody's.
            with memory._exclusive():
                memory.words[ROWS_USED] += 1
                os.kill(os.getpid(), signal.SIGKILL)

    pids = [forked(claim, number) for number in range(4)]
    memory.words[unused] = 1
    ended = [wait_for(pid) for pid in pids]
    assert ended == [0, 0, 0, -signal.SIGKILL]
    assert memory.words[ROWS_USED] == len(names) + 1
    assert len({memory.bucket(name, 1, 1).row for name in names}) == len(names)
    assert memory.words[ROWS_USED] == len(names) + 1
