"""inlet.consumer.session driven by hand, with replies of stores that the tests cannot start or cannot provoke."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from inlet.consumer.errors import Stopped
from inlet.consumer.options import Options
from inlet.consumer.session import Session
from inlet.consumer.steps import Call, Steps, Wait
from inlet.stream.errors import StoreAway, StoreRefuses, fault
from tests.consumer.support import line

GROUP = [1, b"OK"]
"""The group is remembered, and created."""
NOTHING = [0, []]
"""The group is remembered already, and nothing is pending."""
Replies = Iterable[list[Any] | Exception | None]


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def session(clock: Clock, **options: Any) -> Session:
    return Session("logs", "g", "me", 1, Options(**options), clock, recover=False)


def play(steps: Steps[Any], replies: Replies, clock: Clock) -> tuple[list[list[str]], Any]:
    """Answer each call in turn; waits pass at once. The commands' names and first arguments, and the outcome."""
    left = iter(replies)
    said: list[list[str]] = []
    answer: Any = None
    error: Exception | None = None
    while True:
        try:
            step = steps.send(answer) if error is None else steps.throw(error)
        except StopIteration as stop:
            return said, stop.value
        answer = error = None
        if isinstance(step, Wait):
            clock.now += step.seconds
            said.append(["WAIT"])
        else:
            assert isinstance(step, Call)
            said.append([*(["RECONNECT"] if step.reconnect else []), *[str(command[0]) for command in step.commands]])
            reply = next(left)
            error, answer = (reply, None) if isinstance(reply, Exception) else (None, reply)


def test_a_store_that_is_loading_is_asked_again_over_a_new_connection() -> None:
    clock = Clock()
    said, replies = play(
        session(clock).call([("PING",)]), [[fault("LOADING Redis is loading the dataset in memory")], [b"PONG"]], clock
    )
    assert (said, replies) == ([["PING"], ["WAIT"], ["RECONNECT", "PING"]], [b"PONG"])


@pytest.mark.parametrize("text", ["OOM command not allowed", "READONLY You can't write", "MASTERDOWN Link", "BUSY x",
                                  "CLUSTERDOWN x", "MISCONF x", "NOREPLICAS x", "TRYAGAIN x"])  # fmt: skip
def test_every_passing_refusal_is_waited_out(text: str) -> None:
    clock = Clock()
    said, _ = play(session(clock).call([("XACK",)]), [[fault(text)], [fault(text)], [1]], clock)
    assert [step[-1] for step in said] == ["XACK", "WAIT", "XACK", "WAIT", "XACK"]


@pytest.mark.parametrize("text", ["NOAUTH x", "NOPERM x", "WRONGTYPE x", "ERR unknown command", "EXECABORT x"])
def test_every_other_refusal_is_raised(text: str) -> None:
    clock = Clock()
    with pytest.raises(StoreRefuses, match=text):
        play(session(clock).call([("XACK",)]), [[fault(text)]], clock)


def test_a_stopping_reader_gives_a_store_that_is_away_a_few_seconds() -> None:
    clock = Clock()
    stopping = session(clock)
    stopping.stopping = True
    with pytest.raises(Stopped):
        play(stopping.call([("XACK",)]), [StoreAway("gone")] * 1_000, clock)
    assert 1_003 <= clock.now < 1_006


def test_after_a_lost_reply_what_is_pending_under_ones_own_name_is_looked_for() -> None:
    clock = Clock()
    reader = session(clock)
    entry = [b"5-0", [b"r", line("a"), b"n", b"1"]]
    play(reader.open(), [GROUP], clock)
    clock.now += 0.1
    replies: Replies = [NOTHING, StoreAway("reset"), [None], [0, [[b"5-0", b"me", 10, 1]]], [[[[*entry, b""]], 0]]]
    play(reader.fetch(), replies, clock)
    _, found = play(reader.next(), [], clock)
    assert (found.entry_id, found.deliveries) == ("5-0", 2)


def test_entries_that_were_trimmed_while_pending_are_counted() -> None:
    clock = Clock()
    reader = session(clock)
    pending = [[b"5-0", b"dead", 60_000, 1], [b"6-0", b"dead", 60_000, 1]]
    found = [[b"6-0", [b"r", line("a"), b"n", b"1"], b""]]
    said, _ = play(reader.fetch(), [GROUP, [0, pending], [[found, 1]]], clock)
    assert said == [["HSETNX", "XGROUP"], ["HSETNX", "XPENDING"], ["EVAL"]]
    assert (reader.stats.trimmed, len(reader.buffer)) == (1, 1)


def test_acks_share_the_round_trip_of_the_next_read() -> None:
    clock = Clock()
    reader = session(clock)
    rows = [[b"logs", [[b"5-0", [b"r", line("a"), b"n", b"1"]]]]]
    play(reader.fetch(), [GROUP, NOTHING, [rows]], clock)
    _, entry = play(reader.next(), [], clock)
    assert not reader.ack(entry)
    said, _ = play(reader.fetch(), [[1, None]], clock)
    assert said == [["XACK", "XREADGROUP"]]


def test_an_ack_does_not_wait_longer_than_it_may() -> None:
    clock = Clock()
    reader = session(clock, ack_delay_ms=100)
    rows = [[b"logs", [[b"%d-0" % number, [b"r", line("a"), b"n", b"1"]] for number in (5, 6, 7)]]]
    play(reader.fetch(), [GROUP, NOTHING, [rows]], clock)
    due = []
    for _ in range(3):
        due.append(reader.ack(play(reader.next(), [], clock)[1]))
        clock.now += 0.06
    assert due == [False, False, True]


def test_a_refused_letter_is_raised_and_a_lost_reply_of_a_written_one_is_no_second_letter() -> None:
    clock = Clock()
    reader = session(clock)
    rows = [[b"logs", [[b"%d-0" % number, [b"junk", b"x"]] for number in (5, 6)]]]
    play(reader.fetch(), [GROUP, NOTHING, [rows]], clock)
    with pytest.raises(StoreRefuses, match="WRONGTYPE"):
        play(reader.next(), [[fault("WRONGTYPE Operation against a key")]], clock)
    # Sent again, the script finds the entry acked: by the first time, so it is this reader's letter.
    play(reader.next(), [StoreAway("reset"), [-1]], clock)
    assert (reader.stats.dead, reader.stats.acked) == (1, 1)


def test_a_group_that_exists_is_enough_out_of_memory_and_one_that_does_not_is_waited_for() -> None:
    clock = Clock()
    oom = fault("OOM command not allowed when used memory > 'maxmemory'.")
    replies: Replies = [[oom, oom], [fault("NOGROUP x")], [oom, oom], [[0, None, None, None]]]
    said, _ = play(session(clock).open(), replies, clock)
    assert [step[-1] for step in said] == ["XGROUP", "XPENDING", "WAIT", "XGROUP", "XPENDING"]
