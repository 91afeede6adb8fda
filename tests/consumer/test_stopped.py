"""A handler that raises ``Stopped``: its entry is handed back, as if it had never been handed out."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from dataclasses import replace
from typing import Any

import pytest

from inlet import AsyncReader, Entry, Reader, Record, Stopped
from tests.consumer.support import QUICK, Handler, Run, add, dead, pending, spawning, until

PATIENT = replace(QUICK, claim_idle_ms=3_600_000, claim_idle_ms_max=3_600_000)
"""Nothing is claimed for being idle within the time of a test."""

HANGING = """
import asyncio, os, sys, time
from inlet import AsyncReader, Reader
def handle(record):
    print("begun", flush=True)
    time.sleep(3600)
async def handle_async(record):
    print("begun", flush=True)
    await asyncio.sleep(3600)
arguments = os.environ["REDIS_URL"], os.environ["INLET_STREAM"], "g", "me"
if sys.argv[1] == "sync":
    Reader(*arguments).run(handle)
else:
    asyncio.run(AsyncReader(*arguments).run(handle_async))
"""


def test_an_entry_whose_handler_was_stopped_is_handed_back_and_no_attempt(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    add(db, stream, "a", "b")

    def stop(entry: Entry) -> None:
        raise Stopped("told to end")

    for _ in range(3):
        stats = run(store_url, stream, stop, whole=True, options=replace(PATIENT, attempts_max=1))
        assert (stats.failed, stats.dead, pending(db, stream, "g")) == (0, 0, 1)
    handle = Handler()
    # Not after an hour, but now.
    until(run, store_url, stream, handle, lambda: len(handle.seen) == 2, options=PATIENT)
    assert (handle.seen, dead(db, stream)) == (["a", "b"], [])


def test_a_handler_of_records_that_was_stopped_is_handed_back_too(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    add(db, stream, "a", "b", "c")

    def stop(record: Record) -> None:
        if record.event_id == "b":
            raise Stopped("told to end")

    stats = run(store_url, stream, stop, options=replace(PATIENT, attempts_max=1))
    assert (stats.failed, stats.dead, pending(db, stream, "g")) == (0, 0, 1)
    handle = Handler()
    until(run, store_url, stream, handle, lambda: "c" in handle.seen, options=PATIENT)
    assert (handle.seen[-2:], dead(db, stream)) == (["b", "c"], [])


def test_what_a_stopped_handler_of_records_has_done_of_a_retried_entry_is_not_repeated(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    entry_id = add(db, stream, "a", "b", "c")
    db.xgroup_create(stream, "g", id="0")
    db.xreadgroup("g", "me", {stream: ">"})
    db.xclaim(stream, "g", "me", 0, [entry_id], retrycount=1)

    def stop(record: Record) -> None:
        if record.event_id == "b":
            raise Stopped("told to end")

    run(store_url, stream, stop, consumer="me", options=PATIENT)
    handle = Handler()
    until(run, store_url, stream, handle, lambda: "c" in handle.seen, options=PATIENT)
    assert handle.seen == ["b", "c"]


@pytest.mark.parametrize("kind", ["interrupted", "canceled"])
def test_an_interrupted_handler_is_no_attempt(valkey: str, client: Any, stream: str, kind: str) -> None:
    entry_id = add(client, stream, "a")
    client.xgroup_create(stream, "g", id="0")
    client.xreadgroup("g", "me", {stream: ">"})
    client.xclaim(stream, "g", "me", 0, [entry_id], retrycount=1)
    options = replace(PATIENT, attempts_max=1)

    def interrupted(entry: Entry) -> None:
        raise KeyboardInterrupt

    async def hang(entry: Entry) -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.sleep(60)

    for _ in range(3):
        if kind == "interrupted":
            with pytest.raises(KeyboardInterrupt):
                Reader(valkey, stream, "g", "me", options=options).run_entries(interrupted)
        else:
            with pytest.raises(asyncio.CancelledError):
                asyncio.run(AsyncReader(valkey, stream, "g", "me", options=options).run_entries(hang))
    handle = Handler()
    Reader(valkey, stream, "g", "other", options=options).run(handle, forever=False)
    assert (handle.seen, dead(client, stream), pending(client, stream, "g")) == (["a"], [], 0)


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_a_second_term_ends_a_handler_that_hangs(valkey: str, client: Any, stream: str, kind: str) -> None:
    add(client, stream, "a")
    with spawning(valkey, stream) as spawn:
        process = spawn("-c", HANGING, kind, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM
    handle = Handler()
    Reader(valkey, stream, "g", "me", options=PATIENT).run(handle, forever=False)
    assert (handle.seen, dead(client, stream), pending(client, stream, "g")) == (["a"], [], 0)


def test_a_handler_that_was_stopped_beside_failed_records_keeps_their_wait(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    add(db, stream, "bad", "stop")
    handle = Handler({"bad": 100})

    def stop(record: Record) -> None:
        handle(record)
        if record.event_id == "stop":
            raise Stopped("told to end")

    for _ in range(3):
        run(store_url, stream, stop, options=PATIENT)
    assert (handle.seen, pending(db, stream, "g")) == (["bad", "stop"], 1)
