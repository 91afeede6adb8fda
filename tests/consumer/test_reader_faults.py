"""The readers over stores that go away, refuse, are flushed or trimmed; and the bound on what is read ahead."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from inlet import BadRecord, Entry, Reader, Record, StoreRefuses
from inlet.consumer.steps import STOP_SECONDS_MAX
from tests.consumer.support import QUICK, Handler, Run, add, connect, fill, pending, until
from wsgi.store.embedded import EmbeddedStore


def test_a_group_that_a_flush_took_is_made_again_from_the_oldest_entry(
    run: Run, store_url: str, db: Any, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    add(db, stream, "before")
    handle = Handler()
    flushed: list[bool] = []

    def step() -> bool:
        if handle.seen == ["before"] and not flushed:
            db.delete(stream)
            add(db, stream, "after-1")
            add(db, stream, "after-2")
            flushed.append(True)
        return len(handle.seen) >= 3

    until(run, store_url, stream, handle, step)
    assert handle.seen == ["before", "after-1", "after-2"]
    assert sum("is gone" in message for message in caplog.messages) == 1


def test_pending_entries_that_were_trimmed_are_logged_and_acked(
    run: Run, store_url: str, db: Any, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(db, stream, 300)
    db.xgroup_create(stream, "g", id="0")
    db.xreadgroup("g", "dead", {stream: ">"}, count=3)
    db.xtrim(stream, maxlen=1, approximate=False)
    handle = Handler()
    until(run, store_url, stream, handle, lambda: not pending(db, stream, "g"))
    assert len(handle.seen) == 100
    assert any("2 pending entries" in message and "trimmed" in message for message in caplog.messages)


def test_memory_is_bounded_by_bytes_read_ahead(run: Run, store_url: str, db: Any, stream: str) -> None:
    fill(db, stream, 20_000)
    most = 0

    def handle(entry: Entry) -> None:
        nonlocal most
        most = max(most, pending(db, stream, "g"))

    size = db.memory_usage(stream) // 200
    run(store_url, stream, handle, whole=True, options=replace(QUICK, bytes_max=size * 10, block_ms=50))
    assert most <= 12, "ten entries of average size, and what waits for its ack"


def test_a_key_that_is_not_a_stream_is_refused(run: Run, store_url: str, db: Any, stream: str) -> None:
    db.set(stream, "x")
    with pytest.raises(StoreRefuses, match="WRONGTYPE"):
        run(store_url, stream, Handler())


def test_an_invalid_url_is_refused() -> None:
    with pytest.raises(StoreRefuses, match="not an address"):
        Reader("http://localhost", "logs", "g")


def test_a_store_that_goes_away_is_waited_for_and_that_is_said_once(
    run: Run, own_store: EmbeddedStore, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(own_store.url) as client:
        fill(client, "logs", 300)
    handle = Handler()
    steps: list[str] = []

    def step() -> bool:
        if len(handle.seen) == 300 and not steps:
            own_store.stop()
            steps.append("stopped")
        elif steps == ["stopped"] and any("waiting for the store" in message for message in caplog.messages):
            own_store.start()
            with connect(own_store.url) as client:
                add(client, "logs", "after")
            steps.append("started")
        return "after" in handle.seen

    until(run, own_store.url, "logs", handle, step)
    assert Counter(handle.seen)["after"] == 1
    assert sum("waiting for the store" in message for message in caplog.messages) == 1
    assert sum("the store is back" in message for message in caplog.messages) == 1
    with connect(own_store.url) as client:
        assert pending(client, "logs", "g") == 0


def test_a_stop_ends_also_while_the_store_is_away(run: Run, own_store: EmbeddedStore) -> None:
    with connect(own_store.url) as client:
        add(client, "logs", "a")
    handle = Handler()
    steps: list[str] = []

    def step() -> bool:
        if handle.seen and not steps:
            own_store.stop()
            steps.append("stopped")
        return bool(steps)

    until(run, own_store.url, "logs", handle, step)


def test_a_store_that_refuses_for_a_while_is_waited_for(run: Run, own_store: EmbeddedStore) -> None:
    with connect(own_store.url) as client:
        # Acks and reads of a group are writes: out of memory they are let through, a replica without master refuses.
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        handle = Handler()
        steps: list[str] = []

        def step() -> bool:
            if not steps:
                client.execute_command("REPLICAOF", "NO", "ONE")
                add(client, "logs", "a")
                steps.append("master")
            return bool(handle.seen)

        until(run, own_store.url, "logs", handle, step)
    assert handle.seen == ["a"]


def test_a_stop_ends_soon_while_the_store_is_frozen(run: Run, own_store: EmbeddedStore) -> None:
    with connect(own_store.url) as client:
        add(client, "logs", "a")
        pid = client.info("server")["process_id"]
        frozen: list[float] = []
        handle = Handler()

        def step() -> bool:
            if handle.seen and not frozen:
                os.kill(pid, signal.SIGSTOP)
                frozen.append(time.monotonic())
            return bool(frozen)

        try:
            # The ack still waits, so that there is something to send.
            until(run, own_store.url, "logs", handle, step, options=replace(QUICK, ack_delay_ms=60_000))
            took = time.monotonic() - frozen[0]
        finally:
            os.kill(pid, signal.SIGCONT)
    assert took < 3 * STOP_SECONDS_MAX + 10, "waits of 10 s and more for each reply would be 30 s"


def test_out_of_memory_a_new_group_says_once_that_it_waits(
    run: Run, own_store: EmbeddedStore, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(own_store.url) as client:
        add(client, "logs", "a")
        client.config_set("maxmemory", 1)
        handle = Handler()
        began = time.monotonic()

        def step() -> bool:
            if client.config_get("maxmemory")["maxmemory"] != "0" and time.monotonic() - began > 2:
                client.config_set("maxmemory", 0)
            return bool(handle.seen)

        until(run, own_store.url, "logs", handle, step)
    assert sum("waiting for the store" in message for message in caplog.messages) == 1
    assert sum("the store is back" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("error", [ValueError("no"), BadRecord("no")])
def test_out_of_memory_what_cannot_be_noted_is_said_once(
    run: Run, own_store: EmbeddedStore, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    with connect(own_store.url) as client:
        add(client, "logs", "a")
        client.hset("logs:groups", "g", 1)
        client.xgroup_create("logs", "g", id="0")
        client.config_set("maxmemory", 1)
        seen: list[str] = []

        def handle(record: Record) -> None:
            seen.append(record.event_id)
            raise error

        until(run, own_store.url, "logs", handle, lambda: len(seen) >= 4)
        client.config_set("maxmemory", 0)
    assert len([message for message in caplog.messages if message.startswith("inlet: logs ")]) == 1
    assert any("memory" in message for message in caplog.messages)
