"""The link: one connection to the store, and everything that knows Redis. No redis exception leaves this module.

What lives here: the commands (XADD, WAIT, WAITAOF, the probe, the sample), sending and reading them, and what an error
reply means. What must not: batches, HTTP, when to commit.

Nothing is ever sent twice: redis-py's own retries are off, and a connection that the store has closed is noticed before
a command is written to it.
"""

from __future__ import annotations

import contextlib
import select
from collections import deque
from typing import Any, NamedTuple, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from wsgi.durability import STORED, SYNCED
from wsgi.errors import (
    DurabilityTimeout,
    DurabilityUnavailable,
    SinkError,
    SinkMisconfigured,
    SinkOutcomeUnknown,
    SinkUnavailable,
)

PASSING = frozenset(
    ("OOM", "LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "MISCONF", "BUSY", "CLUSTERDOWN", "TRYAGAIN")
)
"""First words of the error replies that pass with time; every other one waits for the operator."""
DURABILITY_SHARE = 0.75
"""How much of the commit's deadline the store may wait for an fsync or replicas; the rest is for its reply."""
UNREAD_REPLIES_MAX = 1_024
"""Replies that may be outstanding at the level ``received`` before a commit waits for them: bounds what is unknown."""

Connection = Any
"""A redis.connection.Connection; most of its methods carry no types."""
Reply = str | SinkError
"""To an XADD: the entry ID, or why there is none."""


class Sample(NamedTuple):
    """What the store says of itself. None: it does not tell, or may not (NOPERM)."""

    used_bytes: int | None
    max_bytes: int | None
    policy: str | None
    aof_writes: bool | None
    backlog_entries: int | None
    full: bool
    """Unread entries fill the bounds of retention, says its keeper (``consumer.trim``)."""


class Link:
    """``url``: redis://, rediss:// or unix://. Deadlines in milliseconds. Connects when first used. Not thread-safe."""

    def __init__(
        self,
        url: str,
        stream: str,
        *,
        connect_timeout_ms: int,
        commit_timeout_ms: int,
        replicas: int,
    ) -> None:
        # protocol=2: nothing but replies ever arrives. No retry: redis-py would send an XADD again.
        self._pool = redis.ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=commit_timeout_ms / 1000,
            **({} if url.startswith("unix:") else {"socket_connect_timeout": connect_timeout_ms / 1000}),
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
        self._stream = stream
        self._replicas = replicas
        self._durability_timeout_ms = max(1, int(commit_timeout_ms * DURABILITY_SHARE))
        key = stream.encode()
        self._xadd_head = b"*7\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n$1\r\nr\r\n$" % (len(key), key)
        self._connection: Connection | None = None
        self._readable = select.poll().poll
        self._always = False  # appendfsync was found to be so, over this connection
        self._unread: deque[int] = deque()  # records of each XADD whose reply was not waited for

    def xadd(self, lines: list[bytes]) -> bytes:
        """One packed XADD (RESP2): built by hand because packing it anew costs more than the rest of a commit."""
        records = b"\n".join(lines)
        count = b"%d" % len(lines)
        return b"%b%d\r\n%b\r\n$1\r\nn\r\n$%d\r\n%b\r\n" % (self._xadd_head, len(records), records, len(count), count)

    def execute(self, commands: list[bytes], level: int = STORED) -> tuple[list[Reply], SinkError | None]:
        """Send packed XADDs and read their replies; the second value says why ``level`` was not reached.

        Nothing that ``post`` left may be outstanding: ``settle`` first.
        """
        try:
            connection = self._connect()
        except (redis.RedisError, OSError) as error:
            return [translate(error)] * len(commands), None
        replies: list[Reply] = []
        try:
            if level == SYNCED and (fault := self._sync_fault(connection)) is not None:
                return self.execute(commands)[0], fault
            if level > STORED:
                connection.send_packed_command([*commands, self._wait_command(level)])
            else:
                connection.send_packed_command(commands)
            for _ in commands:
                replies.append(self._read(connection))
            return replies, self._waited(connection, level) if level > STORED else None
        except (redis.RedisError, OSError) as error:
            self.close()
            if len(replies) == len(commands):
                return replies, DurabilityTimeout(f"the store's answer did not come: {words(error)}")
            if _code(error):
                # A reply all the same (LOADING, NOAUTH), after which redis-py has hung up.
                replies.append(translate(error))
            unknown = SinkOutcomeUnknown(f"the store's answer did not come: {words(error)}")
            return replies + [unknown] * (len(commands) - len(replies)), None
        except BaseException:
            # A reply may still be under way, and must not be taken for the next commit's.
            self.close()
            raise

    def post(self, commands: list[bytes], records: list[int]) -> SinkError | None:
        """Send packed XADDs of so many ``records`` each and read no reply (level ``received``); see ``settle``."""
        try:
            connection = self._connect()
        except (redis.RedisError, OSError) as error:
            return translate(error)
        try:
            connection.send_packed_command(commands)
        except (redis.RedisError, OSError) as error:
            self.close()
            return SinkOutcomeUnknown(f"the store stopped reading: {words(error)}")
        except BaseException:
            self.close()
            raise
        self._unread.extend(records)
        return None

    def settle(self, *, wait: bool) -> tuple[int, int, SinkError | None]:
        """Read the replies that ``post`` left: records stored, records dropped or unknown, and why.

        Without ``wait`` only those that are there, unless more than UNREAD_REPLIES_MAX are outstanding.
        """
        stored = dropped = 0
        fault: SinkError | None = None
        connection = self._connection
        try:
            while self._unread and (
                wait or len(self._unread) > UNREAD_REPLIES_MAX or cast("Connection", connection).can_read(0)
            ):
                reply = self._read(connection)
                records = self._unread.popleft()
                if isinstance(reply, SinkError):
                    dropped, fault = dropped + records, reply
                else:
                    stored += records
        except (redis.RedisError, OSError) as error:
            dropped += sum(self._unread)
            fault = SinkOutcomeUnknown(f"the store's answer did not come: {words(error)}")
            self.close()
        return stored, dropped, fault

    def check(self, level: int) -> None:
        """Raise SinkError unless an XADD would succeed now, and ``level`` can be reached; changes nothing.

        XADD with the ID 0-0 passes every check that a real one does (OOM, READONLY, MISCONF, NOREPLICAS, rights), and
        is then refused for its ID. TYPE tells whether the key is free or a stream.
        """
        try:
            connection = self._connect()
            try:
                self._ask(connection, "XADD", self._stream, "0-0", "probe", "1")
            except redis.ResponseError as error:
                if "must be greater than 0-0" not in str(error):
                    raise
            with contextlib.suppress(redis.exceptions.NoPermissionError):
                kind = self._ask(connection, "TYPE", self._stream)
                if kind not in (b"stream", b"none"):
                    raise SinkMisconfigured(f"the key {self._stream!r} holds a {kind.decode()}, not a stream")
            if level == SYNCED:
                self._always = False  # asked anew: it may have been changed
                if (fault := self._sync_fault(connection)) is not None:
                    raise fault
            if level > STORED:
                connection.send_packed_command([self._wait_command(level)])
                if (error_of_level := self._waited(connection, level)) is not None:
                    raise error_of_level
        except (redis.RedisError, OSError) as error:
            self.close()
            raise translate(error) from None

    def sample(self, *, backlog: bool, retention: bool) -> Sample:
        """Ask for INFO, with ``backlog`` for XINFO GROUPS too, with ``retention`` whether the keeper says full.

        Raises SinkError where the store is away.
        """
        try:
            connection = self._connect()
            memory = self._info(connection, "memory")
            persistence = self._info(connection, "persistence")
            entries = self._backlog(connection) if backlog else None
            full = retention and bool(self._ask(connection, "EXISTS", f"{self._stream}:full"))
        except (redis.RedisError, OSError) as error:
            self.close()
            raise translate(error) from None
        writes = persistence.get("aof_last_write_status")
        return Sample(
            _number(memory.get("used_memory")),
            _number(memory.get("maxmemory")),
            memory.get("maxmemory_policy"),
            None if writes is None else writes == "ok",
            entries,
            full,
        )

    def close(self) -> None:
        """Hang up; replies not read are lost."""
        self._unread.clear()
        self._always = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _connect(self) -> Connection:
        """Give a connection fit to send on: the one there is, unless its other end has closed it, else a new one."""
        if self._connection is not None:
            # Between commits nothing arrives; what is readable is the end of the connection.
            # PERF: redis-py's own can_read(0) does the same in three times the time.
            if self._unread or not self._readable(0):
                return self._connection
            self.close()
        connection = cast("Connection", self._pool.make_connection())
        connection.connect()
        poll = select.poll()
        poll.register(connection._sock.fileno(), select.POLLIN)
        self._readable, self._connection = poll.poll, connection
        return connection

    @staticmethod
    def _read(connection: Connection) -> Reply:
        try:
            reply = connection.read_response()
        except redis.ResponseError as error:
            return translate(error)
        return reply.decode() if isinstance(reply, bytes) else str(reply)

    @staticmethod
    def _ask(connection: Connection, *command: str) -> Any:
        connection.send_command(*command)
        return connection.read_response()

    def _info(self, connection: Connection, section: str) -> dict[str, str]:
        """INFO's fields; none where it is not permitted."""
        try:
            text = self._ask(connection, "INFO", section).decode()
        except redis.exceptions.NoPermissionError:
            return {}
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def _backlog(self, connection: Connection) -> int | None:
        """Entries that the slowest consumer group has yet to read or ack; without groups, the stream's length."""
        try:
            groups = self._ask(connection, "XINFO", "GROUPS", self._stream)
        except redis.exceptions.NoPermissionError:
            return None
        except redis.ResponseError:
            return 0  # no such key
        most = 0
        for group in groups:
            fields = dict(zip(group[::2], group[1::2], strict=True))
            # "lag" is Redis 7's; nil where entries in the middle were deleted. Then only the length is known.
            if fields.get(b"lag") is None:
                break
            most = max(most, int(fields[b"lag"]) + int(fields[b"pending"]))
        else:
            if groups:
                return most
        return int(self._ask(connection, "XLEN", self._stream))

    def _wait_command(self, level: int) -> bytes:
        words = ["WAITAOF", "1", "0"] if level == SYNCED else ["WAIT", str(self._replicas)]
        words.append(str(self._durability_timeout_ms))
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words)

    def _sync_fault(self, connection: Connection) -> SinkError | None:
        """Why WAITAOF is not to be trusted; asked once a connection.

        With ``appendfsync everysec`` servers before Redis 8.0, and Valkey up to 9.1 at least, may reply to WAITAOF
        before the fsync (redis/redis pull request 13793; tests/faults/test_power_cut.py shows it).
        """
        if self._always:
            return None
        try:
            reply = self._ask(connection, "CONFIG", "GET", "appendfsync")
        except redis.ResponseError as error:
            return DurabilityUnavailable(f"synced needs appendfsync always, and CONFIG GET is refused: {words(error)}")
        self._always = len(reply) == 2 and reply[1] == b"always"
        if self._always:
            return None
        found = reply[1].decode() if len(reply) == 2 else "unknown"
        return DurabilityUnavailable(f"synced needs the store's appendfsync to be always; it is {found}")

    def _waited(self, connection: Connection, level: int) -> SinkError | None:
        """Read the reply to WAITAOF or WAIT; both reply with a count, also when it was not reached in time."""
        try:
            reply = connection.read_response()
        except redis.ResponseError as error:
            return DurabilityUnavailable(f"the store cannot promise that: {words(error)}")
        if level == SYNCED:
            if int(reply[0]) >= 1:
                return None
            return DurabilityTimeout(f"not fsynced within {self._durability_timeout_ms} ms")
        if int(reply) >= self._replicas:
            return None
        return DurabilityTimeout(
            f"{int(reply)} of {self._replicas} replicas had it within {self._durability_timeout_ms} ms"
        )


def translate(error: Exception) -> SinkError:
    """What redis-py or the socket raised before anything was stored, as one of ours."""
    code = _code(error)
    if code is None:
        return SinkUnavailable(f"the store cannot be reached: {words(error)}")
    text = words(error) if words(error).startswith(code) else f"{code} {words(error)}"
    passing = code in PASSING or "max number of clients" in text
    return (SinkUnavailable if passing else SinkMisconfigured)(f"the store refuses: {text}")


def words(error: Exception | str) -> str:
    """A driver's message on one line, bounded."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _code(error: Exception) -> str | None:
    """First word of the error reply that ``error`` stands for; None where it is no reply."""
    # redis-py cuts the word off the message where it has a class for it, LOADING and NOAUTH as ConnectionErrors.
    code = getattr(error, "status_code", None)
    if code is None and isinstance(error, redis.ResponseError):
        code = str(error).partition(" ")[0] or "ERR"
    return code


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
