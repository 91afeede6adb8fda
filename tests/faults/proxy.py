"""A TCP proxy in front of the store that misbehaves on command: the network's faults.

What lives here: bytes of a connection, forwarded, cut or kept. What must not: what the bytes mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading

PASS = "pass"
BEFORE = "before"  # a request comes: reset, nothing forwarded
MIDDLE = "middle"  # the first half of the request is forwarded, then reset
AFTER = "after"  # the request is forwarded, and reset instead of the reply
HALF_REPLY = "half reply"  # half of the reply is forwarded, then reset
HOLE = "hole"  # nothing passes, and neither side learns of it; it arrives once the hole is gone
REFUSE = "refuse"  # reset every connection, new ones as soon as they are made

CHUNK_BYTES = 65_536
HOLE_POLL_SECONDS = 0.01
_LINGER_NONE = struct.pack("ii", 1, 0)  # SO_LINGER of 0 seconds: close() sends RST (socket(7))


class Proxy:
    """Listens on ``127.0.0.1:port``, forwards to the unix socket ``target``; both may change at any time.

    ``hits`` counts the chunks that ``mode`` cut or kept. A request that holds the bytes ``hold`` waits, whatever the
    mode, until they are empty again; ``held`` counts these.
    """

    def __init__(self, target: str) -> None:
        self.target, self.mode, self.hits = target, PASS, 0
        self.hold, self.held = b"", 0
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(listener.getsockname()[1])
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=listener))
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End every connection, and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()
        self._loop.run_until_complete(_cancel(self._tasks))
        self._loop.close()

    def reset_all(self) -> None:
        """Reset every connection there is, in whatever state."""
        asyncio.run_coroutine_threadsafe(_cancel(self._tasks), self._loop).result()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self.mode != REFUSE:
                answers, upstream = await asyncio.open_unix_connection(self.target)
                await self._exchange(reader, upstream, answers, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            _reset(writer)
            if upstream is not None:
                upstream.close()

    async def _exchange(
        self,
        requests: asyncio.StreamReader,
        upstream: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        downstream: asyncio.StreamWriter,
    ) -> None:
        """Forward both ways until one way ends; then the whole connection does."""
        ways = [
            asyncio.create_task(self._requests(requests, upstream)),
            asyncio.create_task(self._answers(answers, downstream)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if self.mode in (BEFORE, REFUSE):
                self.hits += 1
                return
            if self.mode == MIDDLE:
                self.hits += 1
                writer.write(data[: len(data) // 2])
                await writer.drain()
                return
            if self.hold and self.hold in data:
                self.held += 1
                while self.hold:
                    await asyncio.sleep(HOLE_POLL_SECONDS)
            if not await self._may_pass():
                return
            writer.write(data)
            await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if self.mode in (AFTER, HALF_REPLY):
                self.hits += 1
                if self.mode == HALF_REPLY:
                    # Not followed by a reset at once, which would overtake what was written.
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    await asyncio.sleep(HOLE_POLL_SECONDS)
                return
            if not await self._may_pass():
                return
            writer.write(data)
            await writer.drain()

    async def _may_pass(self) -> bool:
        """Wait while there is a hole; False where it ends in a reset, with which all that it held is lost."""
        if self.mode == HOLE:
            self.hits += 1
        while self.mode == HOLE:
            await asyncio.sleep(HOLE_POLL_SECONDS)
        return self.mode != REFUSE


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel these tasks and wait for their end."""
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, where the socket still is one."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    writer.transport.abort()
