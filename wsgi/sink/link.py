"""The link: a commit as Redis commands, and their replies.

What lives here: XADD, sending and reading it, with and without waiting for replies. What must not: batches, when to
commit, what the watcher asks (``probe``).

One entry, as redis-cli shows it (docs/protocol.md; the names are in ``inlet.stream.entry``)::

    XADD logs * r '["id-1",...]\\n["id-2",...]' n 2
"""

from __future__ import annotations

import time
from collections import deque

import redis

from inlet.stream.entry import FIELD_COUNT, FIELD_RECORDS
from wsgi import metrics
from wsgi.problems import SinkError
from wsgi.sink.driver import ERRORS, Driver, code_of, translate, unknown
from wsgi.sink.durability import STORED
from wsgi.sink.waits import Waits

UNREAD_REPLIES_MAX = 1_024
"""Replies that may be outstanding at the level ``received`` before a commit waits for them: bounds what is unknown."""

Reply = str | SinkError
"""To an XADD: the entry ID, or why there is none."""

_NO_ANSWER = "the store did not answer"
_RECORDS_WORD = b"$%d\r\n%b\r\n" % (len(FIELD_RECORDS), FIELD_RECORDS)
_COUNT_WORD = b"$%d\r\n%b\r\n" % (len(FIELD_COUNT), FIELD_COUNT)


def xadd(key: bytes, lines: list[bytes]) -> bytes:
    """Return one packed XADD (RESP2) of ``lines`` to ``key``.

    PERF: packing it with redis-py costs more than the rest of a commit (bench/micro.py).
    """
    records = b"\n".join(lines)
    count = b"%d" % len(lines)
    return b"*7\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n" % (
        len(key), key, _RECORDS_WORD, len(records), records, _COUNT_WORD, len(count), count,
    )  # fmt: skip


class Link:
    """Commits over one connection. Not thread-safe."""

    def __init__(self, driver: Driver, waits: Waits) -> None:
        self._driver, self._waits = driver, waits
        self._unread: deque[int] = deque()  # records of each XADD whose reply was not waited for

    def execute(self, commands: list[bytes], level: int = STORED) -> tuple[list[Reply], SinkError | None]:
        """Send packed XADDs and read their replies; the second value says why ``level`` was not reached.

        Observes COMMIT_SECONDS once the connection exists. ``settle`` first whatever ``post`` left.
        """
        driver = self._driver
        try:
            driver.connect()
            fault = self._waits.fault(driver, level) if level > STORED else None
        except ERRORS as error:
            driver.close()
            return [translate(error)] * len(commands), None
        except BaseException:
            driver.close()
            raise
        if fault is not None:
            return self.execute(commands)[0], fault
        replies: list[Reply] = []
        began = time.monotonic()
        try:
            driver.send([*commands, *self._waits.commands(level)] if level > STORED else commands)
            for _ in commands:
                replies.append(self._read())
            return replies, self._waits.outcome(driver, level) if level > STORED else None
        except ERRORS as error:
            return self._broken(commands, replies, error)
        except BaseException:
            # A reply may still be under way, and must not be taken for the next commit's.
            self.close()
            raise
        finally:
            metrics.COMMIT_SECONDS.observe(time.monotonic() - began)

    def _broken(
        self, commands: list[bytes], replies: list[Reply], error: Exception
    ) -> tuple[list[Reply], SinkError | None]:
        """Complete the outcome of a commit whose connection broke after the first byte was sent."""
        self.close()
        if len(replies) == len(commands):
            late = unknown(_NO_ANSWER, error)
            return replies, SinkError("durability-timeout", late.detail)
        if code_of(error):
            # A reply all the same (LOADING, NOAUTH), after which redis-py has hung up.
            replies.append(translate(error))
        missing = unknown(_NO_ANSWER, error)
        return replies + [missing] * (len(commands) - len(replies)), None

    def post(self, commands: list[bytes], records: list[int]) -> SinkError | None:
        """Send packed XADDs of so many ``records`` each and read no reply (level ``received``); see ``settle``."""
        try:
            self._driver.connect(expecting=bool(self._unread))
        except ERRORS as error:
            return translate(error)
        try:
            self._driver.send(commands)
        except ERRORS as error:
            self.close()
            return unknown("the store stopped reading", error)
        except BaseException:
            self.close()
            raise
        self._unread.extend(records)
        return None

    def settle(self, *, wait: bool) -> tuple[int, int, SinkError | None]:
        """Read the replies that ``post`` left: records stored, records dropped or unknown, and why.

        Without ``wait``, read only those that have arrived, unless more than UNREAD_REPLIES_MAX are outstanding.
        """
        stored = dropped = 0
        fault: SinkError | None = None
        try:
            while self._unread and (wait or len(self._unread) > UNREAD_REPLIES_MAX or self._driver.has_reply()):
                reply = self._read()
                records = self._unread.popleft()
                if isinstance(reply, SinkError):
                    dropped, fault = dropped + records, reply
                else:
                    stored += records
        except ERRORS as error:
            dropped += sum(self._unread)
            fault = unknown(_NO_ANSWER, error)
            self.close()
        except BaseException:
            self.close()
            raise
        return stored, dropped, fault

    def close(self) -> None:
        """Disconnect; replies not read are lost."""
        self._unread.clear()
        self._driver.close()

    def forget(self) -> None:
        """In a forked child: start with no connection and no outstanding reply."""
        self._unread.clear()
        self._driver.forget()

    def _read(self) -> Reply:
        try:
            reply = self._driver.read()
        except redis.ResponseError as error:
            return translate(error)
        return reply.decode() if isinstance(reply, bytes) else str(reply)
