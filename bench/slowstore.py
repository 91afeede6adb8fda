"""A store that is slow: a replica behind a delay, an fsync that takes long, a stopped process.

What lives here: what is done to a running ``BenchStore``. What must not: servers, loads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from bench.store import BenchStore

READY_SECONDS_MAX = 30.0
POLL_SECONDS = 0.02
CHUNK_BYTES = 65_536


class NotPossible(RuntimeError):
    """This machine cannot slow the store in this way; the text says why."""


class DelayingProxy:
    """``with DelayingProxy(path, seconds) as proxy``: 127.0.0.1:``proxy.port`` leads to the unix socket ``path``.

    What the target sends is passed on at once, what the client sends after ``seconds``: a round trip takes so long.
    """

    def __init__(self, target: Path, seconds: float) -> None:
        self._target, self._seconds = target, seconds
        self._loop = asyncio.new_event_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(listener.getsockname()[1])
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=listener))
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> DelayingProxy:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()
        self._loop.run_until_complete(self._cancel())
        self._loop.close()

    @staticmethod
    async def _cancel() -> None:
        """End every connection."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            answers, upstream = await asyncio.open_unix_connection(str(self._target))
            try:
                await asyncio.gather(self._pass(reader, upstream, self._seconds), self._pass(answers, writer, 0.0))
            finally:
                upstream.transport.abort()
                writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if seconds:
                self._loop.call_later(seconds, writer.write, data)
            else:
                writer.write(data)
                await writer.drain()
        raise ConnectionResetError  # ends the other way as well


@contextlib.contextmanager
def replica_behind(store: BenchStore, seconds: float) -> Iterator[BenchStore]:
    """A replica whose acknowledgements reach the store ``seconds`` late; in step with it when this begins."""
    store.client.config_set("repl-diskless-sync-delay", "0")
    with DelayingProxy(store.socket, seconds) as proxy, BenchStore() as replica:
        replica.client.replicaof("127.0.0.1", proxy.port)
        _wait_until(lambda: store.client.wait(1, 1000), "the replica follows")
        yield replica


@contextlib.contextmanager
def slow_fsync(store: BenchStore, seconds: float) -> Iterator[None]:
    """Each fdatasync of the store, which it makes before every reply from now on, takes ``seconds`` longer.

    strace(1) makes it so. Raises NotPossible where it is missing or may not trace.
    """
    if shutil.which("strace") is None:
        raise NotPossible("strace is not installed")
    store.client.config_set("appendfsync", "always")
    calls = "fsync,fdatasync"
    with tempfile.TemporaryDirectory(prefix="inlet-strace-") as directory:
        said = Path(directory) / "said"
        words = ["-e", f"trace={calls}", "-e", f"inject={calls}:delay_exit={round(seconds * 1e6)}"]
        with open(said, "wb") as errors:
            tracer = subprocess.Popen(
                ["strace", "-f", "-o", os.devnull, *words, "-p", str(store.process.pid)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
            )  # fmt: skip

        def attached() -> bool:
            if tracer.poll() is not None:
                raise NotPossible(f"strace is not permitted here: {said.read_text(errors='replace').strip()}")
            statuses = [path.read_text() for path in Path(f"/proc/{store.process.pid}/task").glob("*/status")]
            return all(f"TracerPid:\t{tracer.pid}\n" in status for status in statuses)

        try:
            _wait_until(attached, "strace has attached")
            yield
        finally:
            if tracer.poll() is None:
                tracer.send_signal(signal.SIGINT)
            tracer.wait(READY_SECONDS_MAX)


@contextlib.contextmanager
def stopped(store: BenchStore) -> Iterator[None]:
    """SIGSTOP now, SIGCONT afterwards."""
    store.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        store.process.send_signal(signal.SIGCONT)


def append_seconds(store: BenchStore, seconds: float) -> list[float]:
    """Append to a stream of its own, one XADD after the other, and return how long each took: the store's own time."""
    found: list[float] = []
    with contextlib.closing(redis.Redis(unix_socket_path=str(store.socket), protocol=2)) as client:
        ends = time.monotonic() + seconds
        while (began := time.monotonic()) < ends:
            client.xadd("alone", {"r": "x"})
            found.append(time.monotonic() - began)
    return found


def _wait_until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while not condition():
        if time.monotonic() > deadline:
            raise NotPossible(f"waited {READY_SECONDS_MAX:.0f} s until {what}")
        time.sleep(POLL_SECONDS)
