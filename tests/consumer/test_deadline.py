"""``handle_timeout_ms``: a handler that hangs is ended, and the others of the stream are handled."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from inlet import AsyncReader, BadRecord, Entry, HandlerTimeout, Reader, Record
from tests.consumer.support import QUICK, Handler, add, dead, pending, runner, until

LIMITED = replace(QUICK, handle_timeout_ms=150, attempts_max=2)


def test_a_handler_that_hangs_is_ended_and_the_others_are_handled(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a", "hang", "b")
    add(client, stream, "c")
    seen: list[str] = []

    def handle(record: Record) -> None:
        seen.append(record.event_id)
        if record.event_id == "hang":
            time.sleep(3_600)

    before = signal.getsignal(signal.SIGALRM)
    stats = until(runner("sync"), valkey, stream, handle, lambda: dead(client, stream), options=LIMITED)
    assert Counter(seen) == {"a": 1, "hang": 2, "b": 1, "c": 1}
    [letter] = dead(client, stream)
    assert letter[b"detail"] == b"HandlerTimeout: the handler took longer than 150 ms"
    assert (stats.failed, pending(client, stream, "g")) == (2, 0)
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)) == (before, (0.0, 0.0))


def test_a_coroutine_that_hangs_is_cancelled_and_the_others_are_handled(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a", "hang", "b")
    seen: list[str] = []

    async def handle(entry: Entry) -> None:
        found = [record.event_id for record in entry.records]
        if "hang" in found:
            await asyncio.sleep(3_600)
        seen.extend(found)
        if not reader.stats.dead and len(seen) == 2:
            reader.stop()

    async def main() -> None:
        await reader.run_entries(handle)

    reader = AsyncReader(valkey, stream, "g", options=LIMITED)
    asyncio.run(main())
    assert Counter(seen) == {"a": 1, "b": 1}
    [letter] = dead(client, stream)
    assert (letter[b"line"], letter[b"detail"][:14]) == (b"1", b"HandlerTimeout")


def test_a_handler_that_catches_the_deadline_meets_it_again(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "hang")
    caught: list[int] = []

    def handle(record: Record) -> None:
        with contextlib.suppress(Exception):
            time.sleep(3_600)
        caught.append(1)
        time.sleep(3_600)

    until(runner("sync"), valkey, stream, handle, lambda: dead(client, stream), options=LIMITED)
    assert caught == [1, 1]


def test_a_timeout_of_the_handlers_own_is_its_own_failure(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a")

    async def handle(record: Record) -> None:
        raise TimeoutError("the database")

    options = replace(QUICK, handle_timeout_ms=100, attempts_max=1)
    asyncio.run(AsyncReader(valkey, stream, "g", options=options).run(handle, forever=False))
    assert [letter[b"detail"] for letter in dead(client, stream)] == [b"TimeoutError: the database"]


def test_a_handler_within_the_deadline_is_not_disturbed(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, *[f"e-{number}" for number in range(200)])
    handle = Handler()
    options = replace(QUICK, claim_idle_ms=60_000, claim_idle_ms_max=60_000, handle_timeout_ms=30_000)
    stats = runner("sync")(valkey, stream, handle, options=options)
    assert (len(handle.seen), stats.failed) == (200, 0)


def test_outside_the_main_thread_a_deadline_is_refused_before_anything_is_read(
    valkey: str, client: Any, stream: str
) -> None:
    add(client, stream, "a")
    raised: list[BaseException] = []

    def main() -> None:
        try:
            Reader(valkey, stream, "g", options=LIMITED).run(print, forever=False)
        except ValueError as error:
            raised.append(error)

    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
    assert ["main thread" in str(error) for error in raised] == [True]
    with pytest.raises(Exception, match="no such key"):
        client.xinfo_groups(f"{stream}-none")
    assert client.xinfo_groups(stream) == []


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("bad", [False, True])
def test_a_handler_that_swallows_the_deadline_has_failed_whatever_it_returns_or_finds_bad(
    valkey: str, client: Any, stream: str, whole: bool, bad: bool
) -> None:
    add(client, stream, "hang")
    seen: list[int] = []

    def handle(given: Any) -> int:
        seen.append(1)
        with contextlib.suppress(HandlerTimeout):
            time.sleep(3_600)
        if bad:
            raise BadRecord("too slow")
        return 1

    until(runner("sync"), valkey, stream, handle, lambda: dead(client, stream), options=LIMITED, whole=whole)
    [letter] = dead(client, stream)
    assert (len(seen), letter[b"detail"][:14], pending(client, stream, "g")) == (2, b"HandlerTimeout", 0)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("bad", [False, True])
def test_a_coroutine_that_swallows_the_deadline_has_failed_whatever_it_returns_or_finds_bad(
    valkey: str, client: Any, stream: str, whole: bool, bad: bool
) -> None:
    add(client, stream, "hang")
    seen: list[int] = []

    async def handle(given: Any) -> int:
        seen.append(1)
        if len(seen) == 2:
            reader.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600)
        if bad:
            raise BadRecord("too slow")
        return 1

    async def main() -> None:
        await (reader.run_entries(handle) if whole else reader.run(handle))

    reader = AsyncReader(valkey, stream, "g", options=LIMITED)
    asyncio.run(main())
    [letter] = dead(client, stream)
    assert (len(seen), letter[b"detail"][:14], pending(client, stream, "g")) == (2, b"HandlerTimeout", 0)
