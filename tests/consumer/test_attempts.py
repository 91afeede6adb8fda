"""Attempts are counted, not deliveries: over real stores, what a failing or killing record leads to, and how late."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from inlet import BadRecord, Entry, Options, Reader, Record
from inlet.consumer.notes import Note, Unit, Verdict, decode, encode
from inlet.stream.client import StoreClient
from inlet.stream.groups import forget
from tests.consumer.support import QUICK, Handler, Run, add, dead, pending, until
from tests.support import wait_until

PATIENT = replace(QUICK, claim_idle_ms=3_600_000, claim_idle_ms_max=3_600_000)
"""Nothing is claimed for being idle within the time of a test."""


def note_of(client: Any, stream: str, entry_id: str) -> Note | None:
    """What the store says of the entry's attempts."""
    return decode((client.get(f"{stream}:try:g:{entry_id}") or b"").split(b" ", 2)[-1])


def leave_note(client: Any, stream: str, entry_id: str, note: Note) -> None:
    """What a consumer leaves that was killed."""
    client.xgroup_create(stream, "g", id="0")
    client.xreadgroup("g", "dead", {stream: ">"})
    client.hset(f"{stream}:groups", "g", 1)
    client.set(f"{stream}:try:g:{entry_id}", b"0 1 " + encode(note))


def test_deliveries_are_no_attempts(run: Run, store_url: str, db: Any, stream: str) -> None:
    entry_id = add(db, stream, "a", "late")
    db.xgroup_create(stream, "g", id="0")
    db.xreadgroup("g", "dead", {stream: ">"})
    # Kills, reconnects, and what was read ahead and never handled.
    db.xclaim(stream, "g", "dead", 0, [entry_id], retrycount=20)
    handle = Handler({"late": 1})
    until(
        run, store_url, stream, handle, lambda: handle.seen.count("late") == 2, options=replace(QUICK, attempts_max=2)
    )
    assert (Counter(handle.seen), dead(db, stream), pending(db, stream, "g")) == ({"a": 1, "late": 2}, [], 0)


@pytest.mark.parametrize("consumer", [None, "me"])
def test_a_failed_attempt_is_not_repeated_by_restarts_before_it_is_due(
    run: Run, store_url: str, db: Any, stream: str, consumer: str | None
) -> None:
    entry_id = add(db, stream, "a", "bad")
    handle = Handler({"bad": 100})
    for _ in range(5):
        run(store_url, stream, handle, consumer=consumer, options=PATIENT)
    assert (Counter(handle.seen), dead(db, stream), pending(db, stream, "g")) == ({"a": 1, "bad": 1}, [], 1)
    assert note_of(db, stream, entry_id) == Note((Unit(1, 1, 1),))


def test_a_failed_attempt_is_not_repeated_by_reconnects_before_it_is_due(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    add(db, stream, "bad")
    handle = Handler({"bad": 100})
    cuts: list[int] = []

    def step() -> bool:
        readers = [row for row in db.client_list() if row["cmd"] == "xreadgroup" and "b" in row["flags"]]
        if handle.seen and readers and len(cuts) < 5:
            db.client_kill_filter(_id=readers[0]["id"])
            cuts.append(add(db, stream, f"cut-{len(cuts)}") != "")
        return "cut-4" in handle.seen

    until(run, store_url, stream, handle, step, consumer="me", options=PATIENT)
    assert (handle.seen.count("bad"), dead(db, stream), pending(db, stream, "g")) == (1, [], 1)


def test_the_wait_grows_with_each_attempt_by_whichever_process(run: Run, store_url: str, db: Any, stream: str) -> None:
    add(db, stream, "bad")
    times: list[float] = []

    def handle(record: Record) -> None:
        times.append(time.monotonic())
        raise OSError("no")

    options = Options(block_ms=20, claim_idle_ms=100, claim_idle_ms_max=10_000, attempts_max=4)
    deadline = time.monotonic() + 60
    while not dead(db, stream):
        assert time.monotonic() < deadline
        run(store_url, stream, handle, options=options)
    waits = [after - before for before, after in itertools.pairwise(times)]
    assert len(waits) == 3
    for wait, least in zip(waits, (0.1, 0.2, 0.4), strict=True):
        assert wait >= least - 0.01, "the store counts whole milliseconds"


def test_only_what_fails_of_an_entry_becomes_a_letter(run: Run, store_url: str, db: Any, stream: str) -> None:
    names = [f"e-{number}" for number in range(10)]
    add(db, stream, *names)
    handled: list[str] = []
    calls: list[tuple[str, int, list[str]]] = []

    def handle(entry: Entry) -> None:
        found = [record.event_id for record in entry.records]
        calls.append((entry.watermark[1].partition("/")[2], entry.attempt, found))
        if "e-3" in found:
            raise ValueError("not that one")
        handled.extend(found)

    options = replace(QUICK, attempts_max=2)
    stats = until(run, store_url, stream, handle, lambda: dead(db, stream), whole=True, options=options)
    assert [(letter[b"line"], letter[b"attempts"]) for letter in dead(db, stream)] == [(b"3", b"2")]
    assert sorted(handled) == sorted(set(names) - {"e-3"})
    assert [call[:2] for call in calls] == [
        ("", 1), ("", 2), ("0-4", 2), ("0-2", 2), ("3-4", 2), ("3-3", 2), ("4-4", 2), ("5-9", 2),
    ]  # fmt: skip
    assert (stats.failed, pending(db, stream, "g"), db.keys(f"{stream}:try:*")) == (5, 0, [])


def test_a_bad_record_without_a_line_is_looked_for_at_once(run: Run, store_url: str, db: Any, stream: str) -> None:
    add(db, stream, "a", "b", "bad", "c")
    handled: list[str] = []

    def handle(entry: Entry) -> None:
        found = [record.event_id for record in entry.records]
        if "bad" in found:
            raise BadRecord("one of these")
        handled.extend(found)

    run(store_url, stream, handle, whole=True, options=PATIENT)
    assert (sorted(handled), [letter[b"reason"] for letter in dead(db, stream)]) == (["a", "b", "c"], [b"bad-record"])
    assert [letter[b"line"] for letter in dead(db, stream)] == [b"2"]


def test_a_begun_record_counts_one_attempt_and_the_others_none(run: Run, store_url: str, db: Any, stream: str) -> None:
    entry_id = add(db, stream, "a", "killer", "b")
    leave_note(db, stream, entry_id, Note((Unit(1, 1, 1, 1), Unit(2, 2)), (), (1, 1)))
    handle = Handler({"killer": 1})
    until(run, store_url, stream, handle, lambda: dead(db, stream), options=replace(QUICK, attempts_max=2))
    assert handle.seen == ["killer", "b"]
    assert [(letter[b"reason"], letter[b"attempts"]) for letter in dead(db, stream)] == [(b"handler-failed", b"2")]


@pytest.mark.parametrize("whole", [False, True])
def test_the_record_that_the_last_consumer_died_of_is_not_tried_again(
    run: Run, store_url: str, db: Any, stream: str, whole: bool
) -> None:
    entry_id = add(db, stream, "a", "killer", "b")
    leave_note(db, stream, entry_id, Note((Unit(0, 0), Unit(1, 1, 2, 2), Unit(2, 2)), (), (1, 1)))
    seen: list[str] = []

    def handle(argument: Any) -> None:
        seen.extend(record.event_id for record in (argument.records if whole else [argument]))

    options = replace(QUICK, attempts_max=2)
    until(run, store_url, stream, handle, lambda: dead(db, stream), whole=whole, options=options)
    assert seen == ["a", "b"]
    assert [(letter[b"reason"], letter[b"line"]) for letter in dead(db, stream)] == [(b"consumer-died", b"1")]
    assert (pending(db, stream, "g"), db.keys(f"{stream}:try:*")) == (0, [])


def test_an_entry_that_consumers_died_of_is_split(run: Run, store_url: str, db: Any, stream: str) -> None:
    entry_id = add(db, stream, "a", "b", "c", "d")
    leave_note(db, stream, entry_id, Note((Unit(0, 3, 5, 5),), (), (0, 3)))
    parts: list[str] = []
    until(
        run, store_url, stream, lambda entry: parts.append(entry.watermark[1].partition("/")[2]),
        lambda: db.xpending(stream, "g")["pending"] == 0, whole=True,
    )  # fmt: skip
    assert (parts, dead(db, stream)) == (["0-1", "2-3"], [])


def test_a_verdict_outlives_the_consumer_that_found_it(run: Run, store_url: str, db: Any, stream: str) -> None:
    entry_id = add(db, stream, "a", "bad", "b")
    notes: list[Note | None] = []

    def handle(entry: Entry) -> None:
        found = {record.event_id: at.line for at, record in entry.items()}
        if "bad" in found:
            raise BadRecord("no amount", found["bad"])
        # The rest is committed; a kill now must not cost the letter.
        notes.append(note_of(db, stream, entry_id))

    run(store_url, stream, handle, whole=True, options=PATIENT)
    verdict = Verdict(1, "bad-record", "no amount", 1)
    assert notes == [Note((Unit(0, 2, 1, 1),), (verdict,), (0, 2))]
    db.delete(f"{stream}:dead")
    db.xgroup_destroy(stream, "g")
    leave_note(db, stream, entry_id, Note((Unit(0, 2, 1, 1),), (verdict,), (0, 2)))
    seen: list[list[str]] = []
    # Whoever comes next is given the rest, finds the watermark stored, and does nothing.
    until(
        run, store_url, stream, lambda entry: seen.append([record.event_id for record in entry.records]),
        lambda: dead(db, stream), whole=True,
    )  # fmt: skip
    assert (seen, [letter[b"detail"] for letter in dead(db, stream)]) == ([["a", "b"]], [b"no amount"])


def test_a_loop_of_ones_own_gets_what_attempts_have_left_and_their_letters(
    valkey: str, client: Any, stream: str
) -> None:
    entry_id = add(client, stream, "a", "bad", "b", "c")
    note = Note((Unit(0, 0, 1), Unit(3, 3, 2)), (Verdict(1, "bad-record", "no", 1),))
    leave_note(client, stream, entry_id, note)
    with Reader(valkey, stream, "g", "dead", options=QUICK) as reader:
        for entry in reader.entries(forever=False):
            assert ([record.event_id for record in entry.records], entry.attempt) == (["a", "c"], 3)
            reader.ack(entry)
    assert [letter[b"line"] for letter in dead(client, stream)] == [b"1"]
    assert (pending(client, stream, "g"), client.keys(f"{stream}:try:*")) == (0, [])


def test_a_reader_that_lost_its_entry_to_another_stops_handling_it(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    entry_id = add(db, stream, "a", "b", "c")
    leave_note(db, stream, entry_id, Note((Unit(0, 2),)))
    seen: list[str] = []

    def handle(record: Record) -> None:
        seen.append(record.event_id)
        if record.event_id == "a":
            db.xclaim(stream, "g", "other", 0, [entry_id])
        else:
            raise BadRecord("not mine")

    until(run, store_url, stream, handle, lambda: seen)
    wait_until(lambda: db.xpending(stream, "g")["consumers"] == [{"name": b"other", "pending": 1}], "the other has it")
    assert (seen, dead(db, stream)) == (["a"], [])


def test_a_note_expires_long_after_its_entry_is_due(run: Run, store_url: str, db: Any, stream: str) -> None:
    entry_id = add(db, stream, "bad")
    run(store_url, stream, Handler({"bad": 1}), options=PATIENT)
    expires = db.pttl(f"{stream}:try:g:{entry_id}")
    assert 604_800_000 < expires <= 604_800_000 + PATIENT.claim_idle_ms


def test_a_record_of_a_split_entry_that_consumers_died_beside_is_tried_as_often_as_any(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    entry_id = add(db, stream, "a", "b")
    # Halves have one try; a death of this record, alone, is the first.
    leave_note(db, stream, entry_id, Note((Unit(0, 0, 5, 1), Unit(1, 1, 4)), (), (0, 0)))
    seen: list[int] = []
    until(run, store_url, stream, lambda entry: seen.append(entry.attempt), lambda: len(seen) == 2, whole=True)
    assert (seen, dead(db, stream), pending(db, stream, "g")) == ([6, 5], [], 0)


def test_a_note_of_a_group_that_was_forgotten_says_nothing_to_the_next_one_of_its_name(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    entry_id = add(db, stream, "a", "bad", "b")
    handle = Handler({"bad": 1})
    run(store_url, stream, handle, options=PATIENT)
    assert note_of(db, stream, entry_id) == Note((Unit(1, 1, 1),))
    with contextlib.closing(StoreClient(store_url)) as client:
        forget(client, stream, b"g")
    db.xgroup_create(stream, "g", id="0")
    db.xreadgroup("g", "dead", {stream: ">"})
    until(run, store_url, stream, handle, lambda: handle.seen.count("b") == 2)
    assert (Counter(handle.seen), pending(db, stream, "g")) == ({"a": 2, "bad": 2, "b": 2}, 0)
    assert db.keys(f"{stream}:try:*") == []


def test_a_note_that_is_none_is_deleted(run: Run, store_url: str, db: Any, stream: str) -> None:
    entry_id = add(db, stream, "a")
    leave_note(db, stream, entry_id, Note(()))
    db.set(f"{stream}:try:g:{entry_id}", b"9999999999999 junk")
    handle = Handler()
    until(run, store_url, stream, handle, lambda: handle.seen)
    assert (handle.seen, db.keys(f"{stream}:try:*")) == (["a"], [])
