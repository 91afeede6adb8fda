"""One connection to the store by redis-py, and what its exceptions mean. No redis-py exception leaves ``wsgi.sink``.

What lives here: connecting, closing, asking and waiting for the reply, error replies as SinkErrors. What must not:
commands of a commit (``link``) or of a look (``probe``), sending without waiting (``wire``).

Nothing is ever sent twice: redis-py's own retries are off, and a connection that the store has closed is noticed before
a command is written to it.

SinkErrors are returned, not raised: an exception that is stored or shared keeps the frames it was raised through. The
driver's own exceptions are cut off from their frames as they are translated, because redis-py leaves cycles there.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any, cast

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from inlet.stream.errors import PASSING, fault
from wsgi.problems import SinkError

SECONDS_A_COMMAND = 0.001
"""What each command of several adds to the deadline of their replies: fifty times what one takes on a slow machine."""
READ_BYTES = 65_536
"""Read at once while several replies are awaited."""
ERRORS = (redis.RedisError, OSError)
"""What the calls below raise; ``translate`` makes a SinkError of it."""


_NONE = object()


class Driver:
    """``url``: redis://, rediss:// or unix://. Deadlines in milliseconds. Connects when first used. Not thread-safe."""

    def __init__(self, url: str, *, connect_timeout_ms: int, commit_timeout_ms: int) -> None:
        # protocol=2: nothing but replies ever arrives. No retry: redis-py would send an XADD again.
        self._pool = redis.ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=commit_timeout_ms / 1000,
            **({} if url.startswith("unix:") else {"socket_connect_timeout": connect_timeout_ms / 1000}),
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
        self.connect_seconds_max = (connect_timeout_ms + commit_timeout_ms) / 1000
        """How long connecting may take in all: resolving a name obeys neither deadline."""
        self.reply_seconds_max = commit_timeout_ms / 1000
        self._connection: Any = None  # a redis.connection.Connection; most of its methods carry no types
        self._connected = False
        self._readable: Callable[[int], list[tuple[int, int]]] = select.poll().poll

    def connect(self) -> None:
        """Make sure of a connection fit to ask over. Raises one of ERRORS."""
        if self._connected:
            # Between two questions nothing arrives; what is readable is the end of the connection.
            # PERF: redis-py's own can_read(0) does the same in three times the time.
            if not self._readable(0):
                return
            self.close()
        if self._connection is None:
            self._connection = self._pool.make_connection()
        # The object is used again after a failure: each new one would leave a reference cycle of redis-py's parser.
        self._connection.connect()
        poll = select.poll()
        poll.register(self._connection._sock.fileno(), select.POLLIN)
        self._readable, self._connected = poll.poll, True

    def ask(self, *command: str) -> Any:
        """Send one command and return its reply: bytes, int or list. Raises one of ERRORS, for an error reply too."""
        self._connection.send_command(*command)
        return self._connection.read_response()

    def ask_all(self, commands: bytes, count: int) -> list[Any]:
        """Send ``count`` packed commands at once; return their replies, a hiredis.ReplyError for each error reply.

        Raises one of ERRORS. PERF: redis-py takes 30 us to pack a command and to read its reply, this 1 us.
        """
        sock, reader = self.socket(), hiredis.Reader(protocolError=redis.InvalidResponse, notEnoughData=_NONE)
        due = time.monotonic() + self.reply_seconds_max + count * SECONDS_A_COMMAND
        sock.sendall(commands)
        replies: list[Any] = []
        while len(replies) < count:
            data = sock.recv(READ_BYTES)
            if not data:
                raise redis.ConnectionError("the store closed the connection")
            reader.feed(data)
            while (reply := reader.gets()) is not _NONE:
                replies.append(reply)
            if time.monotonic() > due:
                raise redis.TimeoutError(f"{len(replies)} of {count} replies came in time")
        return replies

    def socket(self) -> Any:
        """Return the socket, after ``connect``, for whoever sends over it without waiting (``wire``)."""
        return self._connection._sock

    def close(self) -> None:
        """Disconnect; replies not read are lost."""
        self._connected = False
        if self._connection is not None:
            self._connection.disconnect()

    def forget(self) -> None:
        """In a forked child: leave the parent's connection alone, and start with none."""
        self.close()  # redis-py closes its copy of the socket, and shuts nothing down in another process
        self._connection = None


def pack(*words: bytes) -> bytes:
    """Return one command in RESP2."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def translate(error: Exception) -> SinkError:
    """Return what redis-py or the socket raised before anything was stored as a SinkError."""
    code = code_of(error)
    text = words(error)
    release(error)
    if code is None:
        return SinkError("sink-unavailable", f"the store cannot be reached: {text}")
    return refusal(text, code)


def refusal(text: str, code: str | None = None) -> SinkError:
    """Return an error reply as a SinkError; ``code`` is its first word where redis-py has cut it off ``text``."""
    # Of a command that it does not know, Redis quotes the arguments, which hold other clients' records too.
    found = fault(text.partition(", with args beginning with")[0], code)
    passing = found.code in PASSING or "max number of clients" in found.text
    return SinkError("sink-unavailable" if passing else "sink-misconfigured", f"the store refuses: {found.text}")


def unknown(what: str, error: Exception) -> SinkError:
    """Return the SinkError of commands that may have been executed: ``what`` happened, because of ``error``."""
    text = words(error)
    release(error)
    return SinkError("sink-outcome-unknown", f"{what}: {text}")


def words(error: Exception | str) -> str:
    """Return a driver's message on one line, bounded."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def code_of(error: Exception) -> str | None:
    """Return the first word of the error reply that ``error`` stands for, or None if it is no reply."""
    # redis-py cuts the word off the message where it has a class for it, LOADING and NOAUTH as ConnectionErrors.
    code = getattr(error, "status_code", None)
    if code is None and isinstance(error, redis.ResponseError):
        code = str(error).partition(" ")[0] or "ERR"
    return cast("str | None", code)


def release(error: BaseException) -> None:
    """Cut ``error``, and what it came from, off from the frames: redis-py raises exceptions held in locals."""
    found: BaseException | None = error
    while found is not None:
        context = found.__context__
        found.__traceback__ = found.__context__ = None
        found = context
