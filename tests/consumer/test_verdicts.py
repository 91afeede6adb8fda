"""Exceptions of a handler in every shape: each leads to a failed attempt or a letter, and none of them ends ``run``."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

import inlet
from inlet import AsyncReader, BadRecord, HandlerTimeout, Record, Stopped
from tests.consumer.support import QUICK, Run, add, dead, pending, until

ONCE = replace(QUICK, attempts_max=1)


class Mute(Exception):
    """Cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class NoText(Exception):
    """Prints as what is no text."""

    def __str__(self) -> Any:
        return 17


@pytest.mark.parametrize("name", ["BadRecord", "HandlerTimeout", "Stopped"])
def test_what_a_handler_may_raise_needs_no_words(name: str) -> None:
    kind = getattr(inlet, name)
    assert (str(kind()), kind("why").detail) == (kind().detail, "why")
    assert str(kind()), "one plain sentence"


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (BadRecord(ValueError("no amount")), b"no amount"),
        (BadRecord(), BadRecord().detail.encode()),
        (BadRecord(Mute()), b"(Mute without a text)"),
        (BadRecord(None), b"None"),
        (BadRecord("half: \ud800"), b"half: ?"),
        (Mute(), b"Mute: (Mute without a text)"),
        (NoText(), b"NoText: (NoText without a text)"),
        (HandlerTimeout(), f"HandlerTimeout: {HandlerTimeout()}".encode()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("whole", [False, True])
def test_an_exception_of_any_shape_becomes_a_letter_and_ends_nothing(
    run: Run, valkey: str, client: Any, stream: str, error: Exception, detail: bytes, whole: bool
) -> None:
    add(client, stream, "bad")
    add(client, stream, "good")
    seen: list[str] = []

    def handle(given: Any) -> None:
        record = given.records[0] if whole else given
        seen.append(record.event_id)
        if record.event_id == "bad":
            raise error

    until(run, valkey, stream, handle, lambda: dead(client, stream) and "good" in seen, whole=whole, options=ONCE)
    assert [letter[b"detail"] for letter in dead(client, stream)] == [detail]
    assert pending(client, stream, "g") == 0


@pytest.mark.parametrize("line", ["1", 1.0, None, 7, -1, [1]])
def test_a_line_that_is_none_of_the_entrys_is_looked_for(
    run: Run, valkey: str, client: Any, stream: str, line: Any
) -> None:
    add(client, stream, "a", "bad")

    def handle(entry: Any) -> None:
        if any(record.event_id == "bad" for record in entry.records):
            raise BadRecord("no", line)

    run(valkey, stream, handle, whole=True, options=QUICK)
    assert [letter[b"line"] for letter in dead(client, stream)] == [b"1"]


def test_a_bare_stopped_hands_the_entry_back(run: Run, valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a")

    def handle(record: Record) -> None:
        raise Stopped

    assert run(valkey, stream, handle).failed == 0
    assert pending(client, stream, "g") == 1


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("delivered", [False, True])
def test_a_canceled_task_of_the_handlers_own_is_a_failed_attempt(
    valkey: str, client: Any, stream: str, whole: bool, delivered: bool
) -> None:
    add(client, stream, "a", "bad")
    if delivered:
        client.xgroup_create(stream, "g", id="0")
        client.xreadgroup("g", "dead", {stream: ">"})
    seen = Counter[str]()

    async def handle(given: Any) -> None:
        for record in given.records if whole else [given]:
            seen[record.event_id] += 1
            if record.event_id == "bad":
                inner = asyncio.ensure_future(asyncio.sleep(3_600))
                inner.cancel()
                await inner

    async def main() -> None:
        reader = AsyncReader(valkey, stream, "g", "dead", options=ONCE)
        call = reader.run_entries if whole else reader.run
        await call(handle, forever=False)

    asyncio.run(main())
    [letter] = dead(client, stream)
    assert (letter[b"line"], letter[b"reason"], pending(client, stream, "g")) == (b"1", b"handler-failed", 0)
    assert letter[b"detail"] == b"HandlerCanceled: a task that the handler waited for was canceled"


def test_a_canceled_reader_is_no_failed_attempt(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a")
    readers: list[AsyncReader] = []

    async def main() -> None:
        begun = asyncio.Event()

        async def handle(record: Record) -> None:
            begun.set()
            await asyncio.sleep(3_600)

        readers.append(AsyncReader(valkey, stream, "g", options=ONCE))
        task = asyncio.ensure_future(readers[0].run(handle))
        await begun.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert (readers[0].stats.failed, dead(client, stream), pending(client, stream, "g")) == (0, [], 1)
