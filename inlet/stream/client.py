"""One blocking connection to the store, and redis-py's exceptions translated to Inlet's. Knows nothing of streams.

What lives here: sending commands, reading replies, deadlines. What must not: retries, decisions on replies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from inlet.stream.errors import PASSING, Fault, StoreAway, StoreRefuses, fault

CONNECT_SECONDS_MAX = 5.0
"""Seconds a connect may take."""
REPLY_SECONDS_MAX = 10.0
"""Seconds a reply may take, beyond what a blocking read asks the store to wait."""
STOP_REPLY_SECONDS_MAX = 3.0
"""Seconds that replies may take, all together, once their reader is stopping: a supervisor kills after ten."""
SLICE_SECONDS = 0.1
"""Seconds: a wait for a reply notices a stop this late. Every wait lasts one slice at least."""
READ_BYTES = 262_144
"""Bytes read from the socket at a time: entries of about 40 KB arrive many at once."""


def connection_options(url: str, block_ms: int) -> dict[str, Any]:
    """Return what both clients pass to redis-py: nothing decoded, nothing retried, every wait bounded."""
    return {
        "protocol": 2,
        "socket_timeout": block_ms / 1000 + REPLY_SECONDS_MAX,
        "socket_read_size": READ_BYTES,
        "health_check_interval": 0,
        **({} if url.startswith("unix:") else {"socket_connect_timeout": CONNECT_SECONDS_MAX}),
    }


class ReplyWait:
    """How long a reply may take: ``REPLY_SECONDS_MAX``, or ``STOP_REPLY_SECONDS_MAX`` in all once ``stopping``."""

    def __init__(self, block_ms: int, stopping: Callable[[], bool]) -> None:
        self._block_seconds, self.stopping = block_ms / 1000, stopping
        self._stop_left = STOP_REPLY_SECONDS_MAX
        self._due = self._since = 0.0

    def begin(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """Begin to wait for the replies to these; the store itself lets a blocking read wait."""
        blocking = bool(commands) and "BLOCK" in commands[-1][:8]
        self._due = self._since = time.monotonic() + (self._block_seconds if blocking else 0)

    def left(self) -> float:
        """Return the seconds left, not above 0 if there are none; counts those that passed while stopping."""
        now = time.monotonic()
        if not self.stopping():
            self._since = max(self._since, now)
            return self._due + REPLY_SECONDS_MAX - now
        passed, self._since = max(now - self._since, 0), max(self._since, now)
        self._stop_left -= passed
        return self._stop_left + max(self._due - now, 0)


class StoreClient:
    """One connection, reopened after it breaks; no redis-py exception leaves it. Not for use by two threads.

    ``stopping``: return whether whoever waits for replies is to end soon.
    """

    def __init__(self, url: str, block_ms: int = 0, stopping: Callable[[], bool] = lambda: False) -> None:
        # The socket's own limit is for the greeting, and for the rest of a reply that has begun.
        options = {**connection_options(url, block_ms), "socket_timeout": CONNECT_SECONDS_MAX}
        try:
            self._pool = redis.ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), **options)
        except ValueError as error:
            raise StoreRefuses(f"not an address of a store: {error}") from None
        self._connection: Any = None
        self._patience = ReplyWait(block_ms, stopping)

    def call(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Send all commands; return their replies, a Fault for each error reply. Raises StoreAway, StoreRefuses."""
        wanted = list(commands)
        self._patience.begin(wanted)
        try:
            if self._connection is None:
                self._connection = self._connected()
            return self._exchange(wanted)
        except (redis.RedisError, OSError) as error:
            self.close()
            raise translate(error) from None
        except BaseException:
            # Replies may still arrive, and must not be taken for the next call's.
            self.close()
            raise

    def _connected(self) -> Any:
        connection: Any = self._pool.make_connection()
        if self._patience.stopping():
            seconds = min(max(self._patience.left(), SLICE_SECONDS), CONNECT_SECONDS_MAX)
            connection.socket_timeout = connection.socket_connect_timeout = seconds
        try:
            connection.connect()
        finally:
            self._patience.left()
        return connection

    def _exchange(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        connection = self._connection
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        while commands and not connection.can_read(SLICE_SECONDS):
            if self._patience.left() <= 0:
                raise redis.TimeoutError("no reply in time")
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(checked(connection.read_response(disable_decoding=True, disconnect_on_error=False)))
            except redis.ResponseError as error:
                replies.append(to_fault(error))
        return replies

    def one(self, *command: Any) -> Any:
        """Return the reply to one command. Raises StoreRefuses for an error reply, StoreAway for a passing one."""
        return raise_fault(self.call([command]))[0]

    def many(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Return the replies to these commands, none of them an error. Raises as ``one``."""
        return raise_fault(self.call(commands))

    def close(self) -> None:
        """Drop the connection; the next call opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()


def to_fault(error: redis.ResponseError) -> Fault:
    """Return the error reply that redis-py raised this for."""
    code = getattr(error, "status_code", None)
    return fault(str(error), str(code) if code else _CODES.get(type(error)))


_CODES: dict[type[Exception], str] = {
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.ExecAbortError: "EXECABORT",
    redis.exceptions.NoScriptError: "NOSCRIPT",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.TryAgainError: "TRYAGAIN",
}
"""Error codes that redis-py cuts off the text."""


def checked(reply: Any) -> Any:
    """Return a reply with the error replies inside a transaction's result as Faults."""
    if type(reply) is list and any(isinstance(item, Exception) for item in reply):
        return [to_fault(item) if isinstance(item, redis.ResponseError) else item for item in reply]
    return reply


def raise_fault(replies: list[Any]) -> list[Any]:
    """Return the replies, or raise for a Fault among them: StoreAway for a passing one, else StoreRefuses."""
    for reply in replies:
        if isinstance(reply, Fault):
            if reply.code in PASSING:
                raise StoreAway(f"the store refuses for now: {reply.text}")
            raise StoreRefuses(f"the store refuses: {reply.text}")
    return replies


def translate(error: Exception) -> StoreAway | StoreRefuses:
    """Return the StoreAway or StoreRefuses for what redis-py or the socket raised."""
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, redis.AuthenticationError):
        return StoreRefuses(f"the store refuses the credentials: {text}")
    if isinstance(error, redis.ResponseError) and to_fault(error).code in ("NOPERM", "NOAUTH", "WRONGPASS"):
        return StoreRefuses(f"the store refuses: {text}")
    return StoreAway(f"the store cannot be reached: {text}")


def named(row: Sequence[Any]) -> dict[str, Any]:
    """Return a flat reply of names and values as a dict."""
    return {bytes(name).decode(): value for name, value in zip(row[::2], row[1::2], strict=True)}
