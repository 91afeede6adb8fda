"""consumer.Reader and consumer.AsyncReader over real stores: the same promises, kept by both."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from inlet import AsyncReader, BadRecord, Entry, Reader, Record
from tests.consumer.support import QUICK, Handler, Run, add, dead, fill, pending, until
from tests.support import wait_until


def test_every_record_is_handled_once_in_order_and_every_entry_acked(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    wanted = fill(db, stream, 2_345)
    handle = Handler()
    stats = run(store_url, stream, handle)
    assert handle.seen == wanted
    assert (stats.records, stats.entries, stats.acked, pending(db, stream, "g")) == (2_345, 24, 24, 0)
    assert db.xinfo_consumers(stream, "g") == [], "a name made up for the reader goes with it"


def test_a_new_group_may_begin_with_what_comes_after_now(run: Run, store_url: str, db: Any, stream: str) -> None:
    add(db, stream, "old")
    handle = Handler()
    options = replace(QUICK, start="now")
    run(store_url, stream, handle, options=options)
    add(db, stream, "new")
    run(store_url, stream, handle, options=options)
    assert handle.seen == ["new"]


def test_all_partitions_are_read_and_their_records_addressed(run: Run, store_url: str, db: Any, stream: str) -> None:
    for number in range(3):
        add(db, f"{stream}:{{{number}}}", f"a{number}", f"b{number}")
    seen: list[tuple[int, str]] = []
    run(
        store_url, stream, lambda entry: seen.extend((at.partition, record.event_id) for at, record in entry.items()),
        partitions=3, whole=True,
    )  # fmt: skip
    assert sorted(seen) == [(number, f"{letter}{number}") for number in range(3) for letter in "ab"]
    assert [pending(db, f"{stream}:{{{number}}}", "g") for number in range(3)] == [0, 0, 0]


def test_what_a_dead_consumer_left_is_claimed_and_its_deliveries_counted(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    fill(db, stream, 300)
    db.xgroup_create(stream, "g", id="0")
    db.xreadgroup("g", "dead", {stream: ">"}, count=2)
    deliveries: Counter[int] = Counter()

    def handle(entry: Entry) -> None:
        deliveries[entry.deliveries] += 1

    stats = until(run, store_url, stream, handle, lambda: sum(deliveries.values()) == 3, whole=True)
    assert (deliveries, stats.claimed, pending(db, stream, "g")) == ({1: 1, 2: 2}, 2, 0)


def test_a_consumer_that_comes_back_gets_what_it_had_at_once(run: Run, store_url: str, db: Any, stream: str) -> None:
    fill(db, stream, 300)
    db.xgroup_create(stream, "g", id="0")
    db.xreadgroup("g", "me", {stream: ">"}, count=3)
    handle = Handler()
    # Idle for an hour is what another's entries had to be.
    patient = replace(QUICK, claim_idle_ms=3_600_000, claim_idle_ms_max=3_600_000)
    run(store_url, stream, handle, consumer="me", options=patient)
    assert (len(handle.seen), pending(db, stream, "g")) == (300, 0)


def test_what_was_read_ahead_is_handed_back_at_a_stop(run: Run, store_url: str, db: Any, stream: str) -> None:
    fill(db, stream, 1_000)
    readers: list[Any] = []
    patient = replace(QUICK, claim_idle_ms=60_000, claim_idle_ms_max=60_000)

    def stop(entry: Entry) -> None:
        readers[0].stop()

    stats = run(store_url, stream, stop, whole=True, forever=True, ready=readers.append, options=patient)
    assert (stats.acked, pending(db, stream, "g") > 0) == (1, True)
    handle = Handler()
    # Not after a minute, but now: and it was no delivery, since nobody saw them.
    stats = until(run, store_url, stream, handle, lambda: len(handle.seen) == 900, options=patient)
    assert (sorted(Counter(handle.seen).values())[-1], pending(db, stream, "g"), stats.dead) == (1, 0, 0)


def test_a_handler_that_always_fails_on_one_record_blocks_nothing(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    entry_id = add(db, stream, "a", "bad", "b")
    add(db, stream, "c")
    handle = Handler({"bad": 1_000})
    options = replace(QUICK, attempts_max=3)
    stats = until(run, store_url, stream, handle, lambda: dead(db, stream), options=options)
    # The others of the entry are handled at its first delivery, and by this process never again.
    assert Counter(handle.seen) == {"a": 1, "b": 1, "c": 1, "bad": 3}
    [letter] = dead(db, stream)
    assert letter[b"reason"] == b"handler-failed"
    assert letter[b"detail"] == b"ValueError: cannot handle bad"
    assert (letter[b"entry_id"], letter[b"line"], letter[b"attempts"]) == (entry_id.encode(), b"1", b"3")
    assert (stats.dead, pending(db, stream, "g"), db.keys(f"{stream}:try:*")) == (1, 0, [])


def test_a_record_that_fails_for_a_while_is_handled_in_the_end(run: Run, store_url: str, db: Any, stream: str) -> None:
    add(db, stream, "a", "late")
    handle = Handler({"late": 2})
    until(run, store_url, stream, handle, lambda: len(handle.seen) == 4)
    assert (Counter(handle.seen), dead(db, stream), pending(db, stream, "g")) == ({"a": 1, "late": 3}, [], 0)


def test_a_bad_record_becomes_a_dead_letter_at_once(run: Run, store_url: str, db: Any, stream: str) -> None:
    add(db, stream, "a", "bad", "b")
    seen: list[str] = []

    def handle(record: Record) -> None:
        seen.append(record.event_id)
        if record.event_id == "bad":
            raise BadRecord("no retry can help")

    run(store_url, stream, handle)
    assert (seen, pending(db, stream, "g")) == (["a", "bad", "b"], 0)
    assert [(letter[b"reason"], letter[b"detail"]) for letter in dead(db, stream)] == [
        (b"bad-record", b"no retry can help")
    ]


def test_a_handler_of_entries_may_name_the_bad_line_and_gets_the_others(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    add(db, stream, "a", "bad", "b")
    handled: list[list[str]] = []

    def handle(entry: Entry) -> None:
        for address, record in entry.items():
            if record.event_id == "bad":
                raise BadRecord("this one", address.line)
        handled.append([record.event_id for record in entry.records])

    run(store_url, stream, handle, whole=True)
    assert (handled, [letter[b"line"] for letter in dead(db, stream)]) == ([["a", "b"]], [b"1"])
    assert pending(db, stream, "g") == 0


def test_an_entry_whose_handler_always_fails_goes_to_the_dead_letters_whole(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    add(db, stream, "a", "b")

    def handle(entry: Entry) -> None:
        raise OSError("no")

    options = replace(QUICK, attempts_max=2)
    until(run, store_url, stream, handle, lambda: dead(db, stream), whole=True, options=options)
    assert [letter[b"line"] for letter in dead(db, stream)] == [b"0", b"1"]
    assert pending(db, stream, "g") == 0


def test_junk_of_other_writers_goes_to_the_dead_letters_and_the_reader_goes_on(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    db.xadd(stream, {"message": "hello"})
    db.xadd(stream, {"r": '["a"]\nnot json', "n": 2})
    db.xadd(stream, {"r": "x", "n": "7"})
    add(db, stream, "good")
    handle = Handler()
    stats = run(store_url, stream, handle)
    assert (handle.seen, stats.dead, pending(db, stream, "g")) == (["good"], 4, 0)
    reasons = [letter[b"reason"] for letter in dead(db, stream)]
    assert reasons == [b"missing-field", b"invalid-line", b"invalid-line", b"count-mismatch"]


def test_duplicate_event_ids_are_left_out_within_the_window_but_redeliveries_are_not(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    add(db, stream, "a", "b", "a")
    add(db, stream, "b", "c")
    add(db, stream, "a")
    handle = Handler({"c": 1})
    options = replace(QUICK, dedup_window_ms=60_000)
    stats = until(run, store_url, stream, handle, lambda: handle.seen.count("c") == 2, options=options)
    assert (Counter(handle.seen), stats.suppressed) == ({"a": 1, "b": 1, "c": 2}, 3)
    assert pending(db, stream, "g") == 0


def test_duplicates_are_found_though_another_writer_put_half_a_character(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    for _ in range(2):
        db.xadd(stream, {"r": b'["\\ud800","t","s","m",{}]', "n": 1})
    handle = Handler()
    run(store_url, stream, handle, options=replace(QUICK, dedup_window_ms=60_000))
    assert handle.seen == ["\ud800"]


def test_an_entry_read_ahead_that_became_anothers_is_not_handled(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    ids = [add(db, stream, f"e-{number}") for number in range(3)]
    seen: list[str] = []

    def handle(record: Record) -> None:
        seen.append(record.event_id)
        if record.event_id == "e-0":
            wait_until(lambda: db.xpending_range(stream, "g", ids[1], ids[1], 1)[0]["time_since_delivered"] > 250, "")
            db.xclaim(stream, "g", "other", 0, [ids[1]])

    stats = run(store_url, stream, handle, options=replace(QUICK, claim_idle_ms=400))
    assert (seen, stats.acked) == (["e-0", "e-2"], 2)
    assert db.xpending(stream, "g")["consumers"] == [{"name": b"other", "pending": 1}]


def test_after_the_window_the_same_event_id_is_another_event(run: Run, store_url: str, db: Any, stream: str) -> None:
    options = replace(QUICK, dedup_window_ms=50)
    handle = Handler()
    add(db, stream, "a")
    run(store_url, stream, handle, options=options)
    wait_until(lambda: not db.keys(f"{stream}:seen:*"), "the window's end")
    add(db, stream, "a")
    run(store_url, stream, handle, options=options)
    assert handle.seen == ["a", "a"]


def test_the_loop_of_ones_own_acks_what_it_says(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a")
    add(client, stream, "b")
    with Reader(valkey, stream, "g", "me", options=QUICK) as reader:
        for entry in reader:
            if entry.records[0].event_id == "b":
                break
            reader.ack(entry)
    assert pending(client, stream, "g") == 1


def test_the_asyncio_loop_of_ones_own_acks_what_it_says(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a")
    add(client, stream, "b")

    async def main() -> None:
        async with AsyncReader(valkey, stream, "g", "me", options=QUICK) as reader:
            async for entry in reader:
                if entry.records[0].event_id == "b":
                    break
                await reader.ack(entry)

    asyncio.run(main())
    assert pending(client, stream, "g") == 1


def test_a_cancelled_task_leaves_its_entries_for_others(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a")

    async def main() -> None:
        reader = AsyncReader(valkey, stream, "g", "me", options=QUICK)
        started = asyncio.Event()

        async def handle(record: Record) -> None:
            started.set()
            await asyncio.sleep(60)

        task = asyncio.create_task(reader.run(handle))
        await asyncio.wait_for(started.wait(), 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert pending(client, stream, "g") == 1


def test_term_ends_a_run_after_the_current_entry_and_acks_it(run: Run, valkey: str, client: Any, stream: str) -> None:
    fill(client, stream, 1_000)
    seen: list[str] = []

    def handle(entry: Entry) -> None:
        seen.append(entry.entry_id)
        os.kill(os.getpid(), signal.SIGTERM)
        # asyncio hears of signals between steps only; the sync reader at once.
        time.sleep(0)

    before = signal.getsignal(signal.SIGTERM)
    stats = run(valkey, stream, handle, whole=True, forever=True)
    assert signal.getsignal(signal.SIGTERM) is before
    assert 1 <= len(seen) == stats.acked < 10
