"""A dead letter and the ack of its entry: both or neither, and one letter a line at most. Over real stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from inlet import BadRecord, Reader, Record, StoreRefuses
from inlet.consumer import scripts
from tests.consumer.support import QUICK, Handler, Run, add, connect, dead, line, pending, until
from tests.faults.proxy import AFTER, PASS, Proxy
from wsgi.store.embedded import EmbeddedStore

ID_MAX = 18_446_744_073_709_551_615
"""The largest number in an entry's ID."""


@pytest.fixture
def proxy(valkey: str) -> Iterator[Proxy]:
    """A proxy in front of the session's store."""
    proxy = Proxy(valkey.removeprefix("unix://"))
    try:
        yield proxy
    finally:
        proxy.close()


def refuse(record: Record) -> None:
    """A handler that finds no record good, but those called ``good``."""
    if not record.event_id.startswith("good"):
        raise BadRecord("no")


def spoil_type(client: Any, key: str) -> None:
    client.set(key, "not a stream")


def spoil_last_id(client: Any, key: str) -> None:
    client.xadd(key, {"x": "y"}, id=f"{ID_MAX}-{ID_MAX}")


def spoil_last_but_one(client: Any, key: str) -> None:
    """One more letter is taken, and the second refused."""
    client.xadd(key, {"x": "y"}, id=f"{ID_MAX}-{ID_MAX - 1}")


@pytest.mark.parametrize("spoil", [spoil_type, spoil_last_id, spoil_last_but_one])
def test_an_entry_whose_letters_are_refused_stays_pending(
    run: Run, store_url: str, db: Any, stream: str, spoil: Any
) -> None:
    add(db, stream, "bad-0", "good", "bad-1")
    spoil(db, f"{stream}:dead")
    before = db.dump(f"{stream}:dead") if spoil is spoil_type else db.xlen(f"{stream}:dead")
    for _ in range(2):
        with pytest.raises(StoreRefuses):
            run(store_url, stream, refuse, consumer="me")
    assert pending(db, stream, "g") == 1
    assert before == (db.dump(f"{stream}:dead") if spoil is spoil_type else db.xlen(f"{stream}:dead"))
    db.delete(f"{stream}:dead")
    run(store_url, stream, refuse, consumer="me")
    assert ([letter[b"line"] for letter in dead(db, stream)], pending(db, stream, "g")) == ([b"0", b"2"], 0)


def test_junk_whose_letter_is_refused_stays_pending(run: Run, store_url: str, db: Any, stream: str) -> None:
    db.xadd(stream, {"message": "hello"})
    spoil_type(db, f"{stream}:dead")
    with pytest.raises(StoreRefuses):
        run(store_url, stream, refuse, consumer="me")
    assert pending(db, stream, "g") == 1
    db.delete(f"{stream}:dead")
    run(store_url, stream, refuse, consumer="me")
    assert (len(dead(db, stream)), pending(db, stream, "g")) == (1, 0)


def test_refused_letters_for_long_make_no_other_record_one_that_consumers_died_of(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    entry_id = add(db, stream, "bad", "good")
    db.xgroup_create(stream, "g", id="0")
    db.xreadgroup("g", "me", {stream: ">"})
    db.xclaim(stream, "g", "me", 0, [entry_id], retrycount=3)
    spoil_type(db, f"{stream}:dead")
    options = replace(QUICK, attempts_max=2, claim_idle_ms=10, claim_idle_ms_max=10)
    for _ in range(6):
        with pytest.raises(StoreRefuses):
            until(run, store_url, stream, refuse, lambda: False, consumer="me", options=options)
    db.delete(f"{stream}:dead")
    until(run, store_url, stream, refuse, lambda: dead(db, stream), consumer="me", options=options)
    assert [(letter[b"line"], letter[b"reason"]) for letter in dead(db, stream)] == [(b"0", b"bad-record")]


def test_out_of_memory_the_letters_wait_and_the_others_are_handled_and_acked(
    run: Run, own_store: EmbeddedStore
) -> None:
    options = replace(QUICK, claim_idle_ms=100, claim_idle_ms_max=100, attempts_max=2)
    with connect(own_store.url) as client:
        client.xgroup_create("logs", "g", id="0", mkstream=True)
        entries = [add(client, "logs", *names) for names in (("bad", "good-0"), ("failing", "good-1"), ("good-2",))]
        client.config_set("maxmemory", 1)
        handle = Handler({"failing": 1_000})

        def act(record: Record) -> None:
            handle(record)
            refuse(record)

        # The group is there, though XGROUP CREATE is refused now.
        until(run, own_store.url, "logs", act, lambda: handle.seen.count("failing") > 3, options=options)
        assert (pending(client, "logs", "g"), dead(client, "logs")) == (2, [])
        assert client.xpending_range("logs", "g", entries[2], entries[2], 1) == []
        client.config_set("maxmemory", 0)
        until(run, own_store.url, "logs", act, lambda: not pending(client, "logs", "g"), options=options)
        assert Counter(letter[b"line"] for letter in dead(client, "logs")) == {b"0": 2}


def test_lost_replies_make_no_second_letter(run: Run, valkey: str, client: Any, stream: str, proxy: Proxy) -> None:
    for number in range(20):
        client.xadd(stream, {"r": b"\n".join([line(f"good-{number}"), b"junk", line(f"bad-{number}")]), "n": 3})
    cut: list[int] = []

    def handle(record: Record) -> None:
        # The next reply is lost, whichever it is: of an ack, a read, a note or the letters.
        proxy.mode = AFTER
        refuse(record)

    def step() -> bool:
        if proxy.mode == AFTER and proxy.hits > len(cut):
            cut.append(proxy.hits)
            proxy.mode = PASS
        return len(dead(client, stream)) >= 40 and not pending(client, stream, "g")

    url = f"redis://127.0.0.1:{proxy.port}"
    stats = until(run, url, stream, handle, step, consumer="me")
    letters = Counter((letter[b"entry_id"], letter[b"line"]) for letter in dead(client, stream))
    assert (len(letters), set(letters.values())) == (40, {1})
    assert len(cut) >= 5, "too few replies were lost to show anything"
    # A reader whose reply was lost finds its letters written, and counts none.
    assert 40 - 2 * len(cut) <= stats.dead <= 40


def test_the_script_that_buries_adds_nothing_the_second_time(db: Any, stream: str) -> None:
    entry_id = add(db, stream, "a")
    db.xgroup_create(stream, "g", id="0")
    db.xreadgroup("g", "me", {stream: ">"})
    letters = [["line", 0, "record", b"\x00\xff"], ["line", 1]]
    for _ in range(2):
        db.execute_command(*scripts.bury(stream, "g", "other", entry_id, letters))
    assert (dead(db, stream), pending(db, stream, "g")) == ([], 1)
    said = [db.execute_command(*scripts.bury(stream, "g", "me", entry_id, letters)) for _ in range(2)]
    assert (said, pending(db, stream, "g")) == ([2, -1], 0)
    assert dead(db, stream) == [{b"line": b"0", b"record": b"\x00\xff"}, {b"line": b"1"}]


def test_an_entry_of_another_writer_with_thousands_of_fields_is_kept(valkey: str, client: Any, stream: str) -> None:
    client.xadd(stream, {f"name-{number}": "x" for number in range(6_000)})
    Reader(valkey, stream, "g", options=QUICK).run(refuse, forever=False)
    [letter] = dead(client, stream)
    assert (letter[b"reason"], pending(client, stream, "g")) == (b"missing-field", 0)
    assert letter[b"fields"].startswith(b"6:name-01:x6:name-11:x")
