"""What the consumer's tests share: entries as the sink writes them, and consumers as processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import redis

from inlet import AsyncReader, Options, Reader, Record, Stats
from inlet.stream.limits import RecordLimits
from inlet.stream.record import encoder
from tests.support import ROOT, wait_until

encode = encoder(RecordLimits())

QUICK = Options(block_ms=50, claim_idle_ms=200, claim_idle_ms_max=400, ack_delay_ms=0)
"""Options that make a test wait no longer than it must."""

Spawn = Callable[..., subprocess.Popen[bytes]]
Handle = Callable[[Any], object]
Run = Callable[..., Stats]


def line(event_id: str, **members: object) -> bytes:
    """One record as the stream holds it."""
    value = {"event_id": event_id, "timestamp": "2026-01-31T23:59:59Z", "service": "checkout", "message": "paid"}
    return encode({**value, "metadata": {"region": "eu-1"}, **members})


def add(client: Any, key: str, *event_ids: str) -> str:
    """One entry with these records, in the sink's layout; its ID."""
    lines = [line(event_id) for event_id in event_ids]
    entry_id: bytes = client.xadd(key, {"r": b"\n".join(lines), "n": len(lines)})
    return entry_id.decode()


def fill(client: Any, key: str, records: int, entry_records: int = 100) -> list[str]:
    """So many records, ``e-0`` and up; their event_ids."""
    event_ids = [f"e-{number}" for number in range(records)]
    pipeline = client.pipeline(transaction=False)
    for start in range(0, records, entry_records):
        lines = [line(event_id) for event_id in event_ids[start : start + entry_records]]
        pipeline.xadd(key, {"r": b"\n".join(lines), "n": len(lines)})
    pipeline.execute()
    return event_ids


def pending(client: Any, key: str, group: str) -> int:
    """Entries of the group that are not acked."""
    return int(client.xpending(key, group)["pending"])


def dead(client: Any, key: str) -> list[dict[bytes, bytes]]:
    """The dead letters' fields."""
    return [fields for _, fields in client.xrange(f"{key}:dead")]


def environment(url: str, stream: str) -> dict[str, str]:
    """A process's environment with this store and stream, and no other setting of Inlet."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INLET_")}
    return {**kept, "REDIS_URL": url, "INLET_STREAM": stream, "PYTHONPATH": str(ROOT)}


def command(url: str, stream: str, *words: str, timeout: float = 60, **more: Any) -> subprocess.CompletedProcess[str]:
    """``inlet`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "inlet", *words],
        env=environment(url, stream), cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, **more,
    )  # fmt: skip


@contextlib.contextmanager
def spawning(url: str, stream: str) -> Iterator[Spawn]:
    """Start Python processes; those still alive at the end are killed, each by its pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, **more: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, *words], env=environment(url, stream), cwd=ROOT, **more)
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


def read_all(url: str, stream: str, group: str = "g") -> None:
    """Read and ack everything there is, as one group."""
    Reader(url, stream, group, options=Options(block_ms=50)).run(lambda record: None, forever=False)


def connect(url: str) -> redis.Redis:
    """redis-py, decoding nothing."""
    return redis.Redis.from_url(url)


def runner(kind: str) -> Run:
    """Run a reader, ``sync`` or ``asyncio``, with a plain function, until there is nothing more, or ``forever``."""

    def start(
        url: str, stream: str, handle: Handle, *, consumer: str | None = None, options: Options = QUICK,
        partitions: int = 1, whole: bool = False, forever: bool = False, ready: Callable[[Any], object] | None = None,
    ) -> Stats:  # fmt: skip
        make: Any = Reader if kind == "sync" else AsyncReader
        reader = make(url, stream, "g", consumer, partitions=partitions, options=options)
        if ready is not None:
            ready(reader)

        async def act(argument: Any) -> None:
            handle(argument)

        call = reader.run_entries if whole else reader.run
        stats: Stats = call(handle, forever=forever) if kind == "sync" else asyncio.run(call(act, forever=forever))
        return stats

    return start


class Handler:
    """Notes the event_ids it was given; raises for some of them, so often."""

    def __init__(self, failing: dict[str, int] | None = None) -> None:
        self.seen: list[str] = []
        self.failing = dict(failing or {})

    def __call__(self, record: Record) -> None:
        self.seen.append(record.event_id)
        left = self.failing.get(record.event_id, 0)
        if left:
            self.failing[record.event_id] = left - 1
            raise ValueError(f"cannot handle\n{record.event_id}")


def until(run: Run, url: str, stream: str, handle: Handle, done: Callable[[], Any], **more: Any) -> Stats:
    """Run a reader forever in this thread, and stop it as soon as ``done``; fail if that never comes."""
    readers: list[Any] = []
    failed: list[BaseException] = []
    ended: list[bool] = []

    def watch() -> None:
        try:
            wait_until(lambda: readers, "a reader")
            wait_until(lambda: ended or done(), "what the test waits for")
        except BaseException as error:
            failed.append(error)
        readers[0].stop()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        stats = run(url, stream, handle, forever=True, ready=readers.append, **more)
    finally:
        ended.append(True)
        watcher.join()
    if failed:
        raise failed[0]
    return stats
