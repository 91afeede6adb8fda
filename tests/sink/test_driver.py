"""wsgi.sink.driver: what redis-py raises, as SinkErrors."""

from __future__ import annotations

import pytest
import redis
from redis._parsers.base import BaseParser

from wsgi.sink.driver import translate, words


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "sink-unavailable"),
        ("LOADING Redis is loading the dataset in memory", "sink-unavailable"),
        ("READONLY You can't write against a read only replica.", "sink-unavailable"),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "sink-unavailable"),
        ("NOREPLICAS Not enough good replicas to write.", "sink-unavailable"),
        ("MISCONF Errors writing to the AOF file: No space left on device", "sink-unavailable"),
        ("BUSY Redis is busy running a script.", "sink-unavailable"),
        ("CLUSTERDOWN Hash slot not served", "sink-unavailable"),
        ("ERR max number of clients reached", "sink-unavailable"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "sink-misconfigured"),
        ("NOAUTH Authentication required.", "sink-misconfigured"),
        ("NOPERM this user has no permissions to run the 'xadd' command", "sink-misconfigured"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "sink-misconfigured"),
        ("MOVED 3999 127.0.0.1:6381", "sink-misconfigured"),
        ("ERR unknown command 'XADD'", "sink-misconfigured"),
        ("ERR The stream has exhausted the last possible ID, unable to add more items", "sink-misconfigured"),
    ],
)
def test_an_error_reply_becomes_an_error_of_ours_that_quotes_it(reply: str, reason: str) -> None:
    error = translate(BaseParser.parse_error(reply))  # type: ignore[no-untyped-call]  # has no types
    assert error.reason == reason
    assert error.detail == f"the store refuses: {reply}"


@pytest.mark.parametrize("error", [redis.ConnectionError("refused"), redis.TimeoutError("slow"), OSError("reset")])
def test_whatever_is_no_reply_is_a_store_that_cannot_be_reached(error: Exception) -> None:
    assert translate(error).reason == "sink-unavailable"
    assert "cannot be reached" in translate(error).detail


def test_a_driver_message_is_one_bounded_line() -> None:
    assert words("a\nb\r\n  c") == "a b c"
    assert len(words("x" * 1_000)) == 200
    assert words(TimeoutError()) == "TimeoutError"
