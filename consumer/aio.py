"""The asyncio reader: performs ``core``'s steps over one redis.asyncio connection.

What lives here: the connection, and the loop that hands out entries. What must not: decisions about entries.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Literal

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from consumer import handling
from consumer.core import Session, Stats
from consumer.entries import Entry
from consumer.errors import Stopped, StoreAway, StoreRefuses
from consumer.link import checked, connection_options, to_fault, translate
from consumer.plan import Options
from consumer.reader import STOP_SIGNALS, WAIT_SLICE_SECONDS, consumer_name
from consumer.steps import Call, Invoke, Steps, T, Wait
from wsgi.record import Record


class AsyncLink:
    """``reader.Link`` for asyncio."""

    def __init__(self, url: str, block_ms: int) -> None:
        try:
            self._pool: Any = redis.asyncio.ConnectionPool.from_url(
                url, retry=Retry(NoBackoff(), 0), **connection_options(url, block_ms)
            )
        except ValueError as error:
            raise StoreRefuses(f"not an address of a store: {error}") from None
        self._connection: Any = None

    async def call(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """As ``reader.Link.call``. A cancellation drops the connection, whose replies nobody waits for."""
        try:
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
        """Drop the connection; the next call makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


class AsyncReader:
    """``Reader`` for asyncio: the same arguments, promises and errors, with ``async for``, and ``await`` to act.

    One task at a time may iterate, ack or flush; ``stop`` may come from any task of the loop.
    """

    def __init__(
        self,
        url: str,
        stream: str,
        group: str,
        consumer: str | None = None,
        *,
        partitions: int = 1,
        options: Options | None = None,
    ) -> None:
        options = options or Options()
        name = consumer or consumer_name()
        self._forget = consumer is None
        self._session = Session(stream, group, name, partitions, options, time.monotonic, recover=consumer is not None)
        self._link = AsyncLink(url, options.block_ms)

    @property
    def stats(self) -> Stats:
        """What this reader has done so far."""
        return self._session.stats

    @property
    def consumer(self) -> str:
        """The consumer's name."""
        return self._session.consumer

    def stop(self) -> None:
        """End the iteration, or ``run``, after the entry in hand; seen within ``block_ms``."""
        self._session.stopping = True

    def __aiter__(self) -> AsyncIterator[Entry]:
        return self.entries(forever=True)

    async def entries(self, *, forever: bool) -> AsyncIterator[Entry]:
        """As ``Reader.entries``."""
        session = self._session
        while not session.stopping:
            try:
                entry = await self._perform(session.next())
                if entry is None:
                    await self._perform(session.fetch(block=forever))
            except Stopped:
                return
            if entry is not None:
                yield entry
                continue
            if not forever and not session.buffer:
                return

    async def ack(self, entry: Entry) -> None:
        """As ``Reader.ack``."""
        if entry.bad:
            await self._perform(self._session.bury(entry, entry.bad))
        elif self._session.ack(entry):
            await self._perform(self._session.flush())

    async def flush(self) -> None:
        """Send the acks that still wait."""
        await self._perform(self._session.flush())

    async def run(
        self,
        handle: Callable[[Record], Awaitable[object]],
        *,
        forever: bool = True,
        signals: Iterable[signal.Signals] = STOP_SIGNALS,
    ) -> Stats:
        """As ``Reader.run``, with a coroutine function; one record after the other."""

        async def each(entry: Entry) -> bool:
            if entry.deliveries > 1:
                return await self._perform(handling.records(self._session, entry), handle)
            done = 0
            try:
                for record in entry.records:
                    await handle(record)
                    done += 1
            except Exception as error:
                return await self._perform(handling.records(self._session, entry, done, error), handle)
            if entry.bad:
                await self._perform(self._session.bury(entry, entry.bad))
                return False
            return self._session.ack(entry)

        return await self._run(each, forever, signals)

    async def run_entries(
        self,
        handle: Callable[[Entry], Awaitable[object]],
        *,
        forever: bool = True,
        signals: Iterable[signal.Signals] = STOP_SIGNALS,
    ) -> Stats:
        """As ``Reader.run_entries``, with a coroutine function."""

        async def each(entry: Entry) -> bool:
            return await self._perform(handling.whole(self._session, entry), handle)

        return await self._run(each, forever, signals)

    async def _run(
        self, each: Callable[[Entry], Awaitable[bool]], forever: bool, signals: Iterable[signal.Signals]
    ) -> Stats:
        loop = asyncio.get_running_loop()
        caught: list[signal.Signals] = []
        for number in signals:
            # Not the main thread, or not Unix: then whoever runs the loop has to call stop.
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                loop.add_signal_handler(number, self.stop)
                caught.append(number)
        try:
            async with self:
                async for entry in self.entries(forever=forever):
                    try:
                        if await each(entry):
                            await self.flush()
                    except Stopped:
                        break
        finally:
            for number in caught:
                loop.remove_signal_handler(number)
        return self.stats

    async def close(self) -> None:
        """As ``Reader.close``."""
        with contextlib.suppress(Stopped, StoreAway, StoreRefuses):
            await self._perform(self._session.leave(forget=self._forget))
        await self._link.close()

    async def __aenter__(self) -> AsyncReader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        await self.close()
        return False

    async def _perform(self, steps: Steps[T], handle: Callable[[Any], Awaitable[object]] | None = None) -> T:
        """Take the steps, as ``Reader._perform`` does."""
        error: Exception | None = None
        outcome: Any = None
        while True:
            try:
                step = steps.send(outcome) if error is None else steps.throw(error)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]  # StopIteration carries no type
            error = outcome = None
            try:
                outcome = await self._take(step, handle)
            except Exception as raised:
                error = raised

    async def _take(self, step: Call | Wait | Invoke, handle: Callable[[Any], Awaitable[object]] | None) -> Any:
        if isinstance(step, Call):
            if step.reconnect:
                await self._link.close()
            return await self._link.call(step.commands)
        if isinstance(step, Invoke):
            return await handle(step.argument) if handle else None
        deadline = time.monotonic() + step.seconds
        was_stopping = self._session.stopping
        while (left := deadline - time.monotonic()) > 0 and self._session.stopping == was_stopping:
            await asyncio.sleep(min(left, WAIT_SLICE_SECONDS))
        return None
