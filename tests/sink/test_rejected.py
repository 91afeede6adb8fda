"""wsgi.sink.rejected: rejected records reach the store beside the requests, and never hold one up.

What lives here: the queue, the thread and its end, over real stores. What must not: which records are kept
(tests/receivers), the command that reads them (tests/command).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from inlet.stream.rejected import ENTRIES_MAX, TEXT_BYTES_MAX, Rejected, RejectedEntry, bytes_of, read, rejected
from tests.sink.support import Store
from tests.support import wait_until
from wsgi import metrics
from wsgi.sink import rejected as module
from wsgi.sink.rejected import BATCH_ROWS, QUEUE_BYTES_MAX, STREAM_BYTES_MAX, STREAM_ROWS_MAX, RejectedKeeper

ONE = rejected("invalid-record", "missing: service", "e-1", b'{"event_id":"e-1"}')
NOWHERE = "redis://127.0.0.1:1"
"""A port that nobody listens on."""


def lost() -> int:
    """Rows counted as lost, by this process."""
    return int(metrics.REJECTED_LOST._value.get())


def numbered(rows: int) -> list[Rejected]:
    return [rejected("invalid-record", "d", str(number), b"%d" % number) for number in range(rows)]


def kept(client: Any, stream: str) -> list[RejectedEntry]:
    return [read([entry_id, [part for pair in values.items() for part in pair]]) for entry_id, values
            in client.xrange(f"{stream}:rejected")]  # fmt: skip


def texts(client: Any, stream: str) -> list[bytes]:
    return [entry.text for entry in kept(client, stream)]


@pytest.fixture
def keeper(valkey: str, stream: str) -> Iterator[RejectedKeeper]:
    subject = RejectedKeeper(valkey, stream)
    yield subject
    subject.flush()


@pytest.fixture
def away() -> Iterator[RejectedKeeper]:
    """One whose store cannot be reached."""
    subject = RejectedKeeper(NOWHERE, "s")
    yield subject
    subject.flush()


@pytest.fixture
def own() -> Iterator[Store]:
    store = Store()
    yield store
    store.close()


def test_all_of_a_row_is_kept_whatever_bytes_are_in_it(store_url: str, stream: str) -> None:
    keeper = RejectedKeeper(store_url, stream)
    rows = [ONE, rejected("malformed-record", "not UTF-8", None, b"\xff\0\r\n\x1b[31m"),
            Rejected("record-too-large", "long", "\u00e9\ud800", b"x" * TEXT_BYTES_MAX)]  # fmt: skip
    keeper.keep(None, "native", rows)
    keeper.keep(f"{stream}-tenant".encode(), "native", [ONE])
    with redis.Redis.from_url(store_url) as client:
        first, second, third = wait_until(lambda: len(found := kept(client, stream)) == 3 and found, "they are written")
        assert first[1:] == ("invalid-record", "missing: service", "native", "e-1", 18, b'{"event_id":"e-1"}')
        assert second[1:] == ("malformed-record", "not UTF-8", "native", None, 9, b"\xff\0\r\n\x1b[31m")
        assert third[4:] == ("\u00e9?", None, b"x" * TEXT_BYTES_MAX)
        assert wait_until(lambda: texts(client, f"{stream}-tenant"), "the tenant's") == [ONE.text]
    keeper.flush()


def test_the_newest_are_kept_and_exactly_so_many(valkey: str, client: Any, stream: str, keeper: RejectedKeeper) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for number in range(ENTRIES_MAX - 1):
            pipeline.xadd(f"{stream}:rejected", {"text": f"old-{number}"})
        pipeline.execute()
    keeper.keep(None, "native", numbered(1))
    wait_until(lambda: client.xlen(f"{stream}:rejected") == ENTRIES_MAX, "one more fits")
    keeper.keep(None, "native", numbered(3))
    wait_until(lambda: texts(client, stream)[-1] == b"2", "three more")
    assert len(found := texts(client, stream)) == ENTRIES_MAX
    assert (found[0], found[-4:]) == (b"old-3", [b"0", b"0", b"1", b"2"])


def test_a_streams_queue_holds_so_many_rows_and_no_more(away: RejectedKeeper) -> None:
    before = lost()
    rows = [ONE] * STREAM_ROWS_MAX
    away.keep(None, "native", rows)
    wait_until(lambda: away._thread and not away._pending, "the thread waits for the store")
    assert lost() == before
    away.keep(None, "native", [ONE])
    assert lost() == before + 1
    # Another stream's rows still find room.
    away.keep(b"other", "native", rows)
    assert lost() == before + 1
    away.keep(b"other", "native", rows[:7], more=5)
    assert lost() == before + 13
    away.flush()
    assert lost() == before + 13 + 2 * STREAM_ROWS_MAX


def test_a_streams_queue_holds_so_many_bytes_and_all_together_so_many(away: RejectedKeeper) -> None:
    away._start = lambda: None  # type: ignore[method-assign]  # no thread takes rows away meanwhile
    row = rejected("invalid-record", "d", None, bytes(TEXT_BYTES_MAX))
    fitting = STREAM_BYTES_MAX // bytes_of(row)
    assert fitting < STREAM_ROWS_MAX
    before = lost()
    away.keep(None, "native", [row] * fitting)
    assert lost() == before
    away.keep(None, "native", [row])
    assert lost() == before + 1
    for tenant in range(10):
        away.keep(b"tenant-%d" % tenant, "native", [row] * fitting)
    all_fitting = QUEUE_BYTES_MAX // bytes_of(row)
    assert len(away._queue) == all_fitting
    assert lost() == before + 1 + 11 * fitting - all_fitting


def test_what_one_stream_sends_leaves_room_for_three_others(away: RejectedKeeper) -> None:
    before = lost()
    for _ in range(50):
        away.keep(b"hostile", "native", [rejected("invalid-record", "d", None, bytes(TEXT_BYTES_MAX))] * 100)
    crowded = lost() - before
    for stream in (b"a", b"b", b"c"):
        away.keep(stream, "native", [ONE] * 100)
    assert lost() == before + crowded
    assert crowded > 4_000


def test_rows_wait_in_order_while_the_store_hangs(own: Store) -> None:
    keeper = RejectedKeeper(own.url, "s")
    keeper.keep(None, "native", numbered(1))
    wait_until(lambda: texts(own.client, "s") == [b"0"], "the first is written")
    own.process.send_signal(signal.SIGSTOP)
    keeper.keep(None, "native", numbered(2 * BATCH_ROWS))
    own.process.send_signal(signal.SIGCONT)
    wait_until(lambda: len(texts(own.client, "s")) == 1 + 2 * BATCH_ROWS, "the others are written")
    assert texts(own.client, "s")[1:] == [row.text for row in numbered(2 * BATCH_ROWS)]
    keeper.flush()


def test_rows_wait_for_a_store_that_comes_up_later(stream: str, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    keeper = RejectedKeeper(f"redis://127.0.0.1:{port}", "s")
    before = lost()
    with caplog.at_level(logging.WARNING, "inlet"):
        keeper.keep(None, "native", numbered(30))
        wait_until(lambda: "rejected records wait" in caplog.text, "it is logged")
        store = Store("--port", str(port))
        try:
            wait_until(lambda: len(texts(store.client, "s")) == 30, "they are written")
        finally:
            store.close()
        keeper.flush()
    assert lost() == before
    assert caplog.text.count("rejected records wait") == 1


def test_rows_wait_while_the_store_is_out_of_memory(own: Store) -> None:
    keeper = RejectedKeeper(own.url, "s")
    own.client.config_set("maxmemory", "1")
    own.client.config_set("maxmemory-policy", "noeviction")
    before = lost()
    keeper.keep(None, "native", numbered(5))
    wait_until(lambda: own.client.info("errorstats").get("errorstat_OOM"), "the store refuses")
    own.client.config_set("maxmemory", "0")
    wait_until(lambda: texts(own.client, "s") == [b"0", b"1", b"2", b"3", b"4"], "they are written")
    keeper.flush()
    assert lost() == before


def test_a_key_of_the_wrong_type_costs_that_streams_rows_alone(
    client: Any, stream: str, keeper: RejectedKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    client.set(f"{stream}-bad:rejected", "no stream")
    before = lost()
    with caplog.at_level(logging.ERROR, "inlet"):
        for number in range(3):
            keeper.keep(f"{stream}-bad".encode(), "native", [ONE] * 10)
            keeper.keep(None, "native", [ONE])
            wait_until(lambda: len(texts(client, stream)) == number + 1, "the other stream's row")  # noqa: B023
    # The other stream's row is there a moment before its batch is accounted for.
    wait_until(lambda: lost() >= before + 30, "all are counted")
    assert lost() == before + 30
    assert caplog.text.count("WRONGTYPE") == 1
    assert client.get(f"{stream}-bad:rejected") == b"no stream"


def test_a_wrong_password_costs_rows_and_nothing_else(own: Store) -> None:
    own.client.execute_command("ACL", "SETUSER", "u", "on", ">right", "~*", "+@all")
    keeper = RejectedKeeper(f"unix://u:wrong@{own.path}", "s")
    before = lost()
    keeper.keep(None, "native", [ONE] * 3)
    wait_until(lambda: own.client.execute_command("ACL", "LOG"), "the store has refused")
    keeper.flush()
    assert lost() == before + 3


def test_flush_writes_what_waits_and_later_rows_are_lost(client: Any, stream: str, keeper: RejectedKeeper) -> None:
    before = lost()
    keeper.keep(None, "native", numbered(5 * BATCH_ROWS))
    keeper.flush(seconds=60)
    assert texts(client, stream) == [row.text for row in numbered(5 * BATCH_ROWS)]
    keeper.keep(None, "native", [ONE])
    assert lost() == before + 1


def test_flush_gives_up_on_a_store_that_hangs(own: Store) -> None:
    keeper = RejectedKeeper(own.url, "s")
    keeper.keep(None, "native", [ONE])
    wait_until(lambda: texts(own.client, "s"), "it is connected")
    own.process.send_signal(signal.SIGSTOP)
    before = lost()
    keeper.keep(None, "native", [ONE] * 150)
    wait_until(lambda: keeper._pending, "a batch is under way")
    keeper.flush(seconds=0.1)
    assert lost() == before + 150


def test_nothing_runs_before_the_first_row(valkey: str, stream: str) -> None:
    before = threading.active_count()
    keeper = RejectedKeeper(valkey, stream)
    keeper.keep(None, "native", [])
    assert threading.active_count() == before
    keeper.flush()


def test_many_threads_may_keep_at_once(client: Any, stream: str, keeper: RejectedKeeper) -> None:
    before = lost()

    def work() -> None:
        for _ in range(50):
            keeper.keep(None, "native", [ONE])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: len(texts(client, stream)) == 400, "all are written")
    assert (lost(), keeper._all_bytes, keeper._rows[None], keeper._bytes[None]) == (before, 0, 0, 0)


def test_a_forked_child_has_a_queue_and_a_thread_of_its_own(client: Any, stream: str, keeper: RejectedKeeper) -> None:
    keeper.keep(None, "native", [ONE])
    wait_until(lambda: len(texts(client, stream)) == 1, "the parent's row")
    with keeper._lock:  # held by another thread at the fork
        if (pid := os.fork()) == 0:
            status = 1
            try:
                empty = not keeper._queue and keeper._thread is None
                keeper.keep(None, "native", [ONE])
                keeper.flush(seconds=60)
                status = 0 if empty else 2
            finally:
                os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(texts(client, stream)) == 2
    keeper.keep(None, "native", [ONE])
    wait_until(lambda: len(texts(client, stream)) == 3, "the parent still writes")


def test_a_bug_costs_a_batch_and_not_the_thread(
    client: Any, stream: str, keeper: RejectedKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lost()
    with monkeypatch.context() as patch:
        patch.setattr(module, "fields", lambda row, receiver: 1 / 0)
        keeper.keep(None, "native", [ONE] * 3)
        wait_until(lambda: lost() == before + 3, "the batch is lost")
    keeper.keep(None, "native", [ONE])
    wait_until(lambda: texts(client, stream) == [ONE.text], "the next one is written")


def test_a_thread_that_cannot_start_fails_no_answer(
    client: Any, stream: str, keeper: RejectedKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        keeper.keep(None, "native", numbered(2))
    keeper.keep(None, "native", numbered(1))
    wait_until(lambda: texts(client, stream) == [b"0", b"1", b"0"], "all are written")
