"""One asyncio connection to the store: ``StoreClient`` for ``AsyncReader``.

What lives here: sending commands and reading replies with redis.asyncio. What must not: retries, decisions on replies.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from inlet.stream.client import SLICE_SECONDS, ReplyWait, checked, connection_options, to_fault, translate
from inlet.stream.errors import StoreRefuses


class AsyncStoreClient:
    """One connection, reopened after it breaks; no redis-py exception leaves it. Not for use by two tasks at once."""

    def __init__(self, url: str, block_ms: int, stopping: Callable[[], bool]) -> None:
        try:
            self._pool: Any = redis.asyncio.ConnectionPool.from_url(
                url, retry=Retry(NoBackoff(), 0), **connection_options(url, block_ms)
            )
        except ValueError as error:
            raise StoreRefuses(f"not an address of a store: {error}") from None
        self._connection: Any = None
        self._patience = ReplyWait(block_ms, stopping)

    async def call(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Do as ``StoreClient.call``. A cancellation drops the connection, since nobody reads its replies."""
        try:
            async with self._limited(commands):
                if self._connection is None:
                    connection: Any = self._pool.make_connection()
                    await connection.connect()
                    self._connection = connection
                return await self._exchange(commands)
        except (redis.RedisError, OSError) as error:
            await self.close()
            raise translate(error) from None
        except BaseException:
            await self.close()
            raise

    @contextlib.asynccontextmanager
    async def _limited(self, commands: list[tuple[Any, ...]]) -> AsyncIterator[None]:
        """Raise TimeoutError in the body once ``ReplyWait`` is at its end."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def look() -> None:
            nonlocal timer
            if self._patience.left() <= 0:
                deadline.reschedule(loop.time())
            else:
                timer = loop.call_later(SLICE_SECONDS, look)

        self._patience.begin(commands)
        timer = loop.call_later(SLICE_SECONDS, look)
        try:
            async with asyncio.timeout(None) as deadline:
                yield
        finally:
            if timer is not None:
                timer.cancel()

    async def _exchange(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        connection = self._connection
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        replies: list[Any] = []
        for _ in commands:
            try:
                reply = await connection.read_response(disable_decoding=True, disconnect_on_error=False)
                replies.append(checked(reply))
            except redis.ResponseError as error:
                replies.append(to_fault(error))
        return replies

    async def close(self) -> None:
        """Drop the connection; the next call opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
