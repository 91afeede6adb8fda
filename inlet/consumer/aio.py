"""The asyncio reader: performs a session's steps over one redis.asyncio connection.

What lives here: the loop that hands out entries. What must not: decisions about entries.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Literal

from inlet.consumer import handling
from inlet.consumer.aio_client import AsyncStoreClient
from inlet.consumer.base import ReaderBase
from inlet.consumer.deadline import limited_async
from inlet.consumer.entries import Entry
from inlet.consumer.errors import HandlerCanceled, Stopped
from inlet.consumer.session import Stats
from inlet.consumer.steps import Call, Done, Invoke, Step, Steps, T, advance
from inlet.consumer.stopping import STOP_SIGNALS
from inlet.stream.errors import StoreAway, StoreRefuses
from inlet.stream.record import Record


class AsyncReader(ReaderBase[AsyncStoreClient]):
    """Read as ``Reader`` does, under asyncio: same arguments, guarantees and errors, with ``async for`` and ``await``.

    One task at a time may iterate, ack or flush; ``stop`` may be called from any task of the loop.
    """

    def _connect(self, url: str, block_ms: int) -> AsyncStoreClient:
        return AsyncStoreClient(url, block_ms, lambda: self._session.stopping)

    def __aiter__(self) -> AsyncIterator[Entry]:
        return self.entries(forever=True)

    async def entries(self, *, forever: bool) -> AsyncIterator[Entry]:
        """Do as ``Reader.entries``."""
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
        """Do as ``Reader.ack``."""
        if entry.bad or entry.note is not None:
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
        """Do as ``Reader.run``, with a coroutine function; one record after the other."""

        handle = limited_async(handle, self._session.options.handle_timeout_ms)

        async def each(entry: Entry) -> bool:
            if not handling.first(entry):
                return await self._perform(handling.records(self._session, entry), handle)
            done = 0
            try:
                for record in entry.records:
                    await handle(record)
                    done += 1
            except (Exception, asyncio.CancelledError) as raised:
                error = _failure(raised)
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
        """Do as ``Reader.run_entries``, with a coroutine function."""

        handle = limited_async(handle, self._session.options.handle_timeout_ms)

        async def each(entry: Entry) -> bool:
            return await self._perform(handling.whole(self._session, entry), handle)

        return await self._run(each, forever, signals)

    async def _run(
        self, each: Callable[[Entry], Awaitable[bool]], forever: bool, signals: Iterable[signal.Signals]
    ) -> Stats:
        loop = asyncio.get_running_loop()
        caught: list[signal.Signals] = []

        def stop() -> None:
            restore()
            self.stop()

        def restore() -> None:
            # A second signal has its former effect, so that it ends a handler that hangs.
            while caught:
                loop.remove_signal_handler(caught.pop())

        for number in signals:
            # Not the main thread, or not Unix: whoever runs the loop must call stop.
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                loop.add_signal_handler(number, stop)
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
            restore()
        return self.stats

    async def close(self) -> None:
        """Do as ``Reader.close``."""
        with contextlib.suppress(Stopped, StoreAway, StoreRefuses):
            await self._perform(self._session.leave(forget=self._forget))
        await self._client.close()

    async def __aenter__(self) -> AsyncReader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        await self.close()
        return False

    async def _perform(
        self,
        steps: Steps[T],
        handle: Callable[[Any], Awaitable[object]] | None = None,
        error: Exception | None = None,
    ) -> T:
        """Take the steps, as ``Reader._perform`` does."""
        step = advance(steps, error=error)
        while not isinstance(step, Done):
            try:
                outcome = await self._take(step, handle)
            except Exception as raised:
                step = advance(steps, error=raised)
            except (KeyboardInterrupt, asyncio.CancelledError):
                if isinstance(step, Invoke):
                    with contextlib.suppress(Stopped, StoreAway, StoreRefuses):
                        await self._perform(steps, error=Stopped("canceled"))
                raise
            else:
                step = advance(steps, outcome)
        return step.value

    async def _take(self, step: Step, handle: Callable[[Any], Awaitable[object]] | None) -> Any:
        if isinstance(step, Call):
            if step.reconnect:
                await self._client.close()
            return await self._client.call(step.commands)
        if isinstance(step, Invoke):
            try:
                return await handle(step.argument) if handle else None
            except asyncio.CancelledError as raised:
                raise _failure(raised) from raised
        for pause in self._pauses(step):
            await asyncio.sleep(pause)
        return None


def _failure(raised: BaseException) -> Exception:
    """Return what the handler has failed with. Raises the CancelledError that is meant for the reader's own task."""
    if not isinstance(raised, asyncio.CancelledError):
        assert isinstance(raised, Exception)
        return raised
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise raised
    return HandlerCanceled("a task that the handler waited for was canceled")
