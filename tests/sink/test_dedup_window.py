"""How long INLET_DEDUP_SECONDS remembers an id: the window, the buckets' turns, and clocks that are set."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from inlet.stream.keys import IDS_BUCKETS, ids_keys
from tests.sink.support import Sink, Store, once_closed
from tests.sink.test_dedup import commit, line, stored
from tests.support import wait_until
from wsgi.problems import SinkError
from wsgi.sink.dedup import DIGEST_BYTES

HOUR_SECONDS = 3_600
LONGEST_SECONDS = HOUR_SECONDS * IDS_BUCKETS / (IDS_BUCKETS - 1)


@pytest.fixture
def own(stores: Any) -> Store:
    """A store of this test's own."""
    store: Store = stores()
    return store


def pass_time(client: Any, stream: str, seconds: float) -> None:
    """Make the buckets as they will be in ``seconds``; a negative number is a clock set back."""
    for key in ids_keys(stream.encode()):
        if not client.exists(key):
            continue
        client.hincrby(key, "t", -int(seconds * 1_000))
        # A clock moves the deadlines of all keys nearer or away.
        left = client.pttl(key) - int(seconds * 1_000)
        if left > 0:
            client.pexpire(key, left)
        else:
            client.delete(key)


def remembered(client: Any, stream: str) -> int:
    """Ids in all buckets."""
    return sum(sum(len(field) == DIGEST_BYTES for field in client.hkeys(key)) for key in ids_keys(stream.encode()))


def test_an_id_is_known_a_second_before_the_window_ends_and_is_stored_again_after_the_longest_time(
    own: Store, stream: str
) -> None:
    subject = Sink(own.url, stream, dedup_seconds=HOUR_SECONDS)
    (first,) = commit(subject, line("a"))
    pass_time(own.client, stream, HOUR_SECONDS - 1)
    assert commit(subject, line("a")) == [(*first[:2], True)]
    pass_time(own.client, stream, LONGEST_SECONDS - HOUR_SECONDS + 2)
    assert commit(subject, line("a"))[0][2] is False
    assert len(stored(own.client, stream)) == 2


@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_when_an_id_is_known_for_the_window_and_never_for_half_as_long_again(
    own: Store, stream: str, seed: int
) -> None:
    """The address told is the last one stored, and memory holds no more ids than the longest time has seen."""
    chance = random.Random(seed)
    subject = Sink(own.url, stream, dedup_seconds=HOUR_SECONDS)
    now = 0.0
    known: dict[str, tuple[float, tuple[str, int]]] = {}
    for _ in range(300):
        event_id = str(chance.randrange(40))
        ((entry_id, at, duplicate),) = commit(subject, line(event_id))
        if event_id in known:
            since = now - known[event_id][0]
            if duplicate:
                assert (entry_id, at) == known[event_id][1]
                assert since <= LONGEST_SECONDS + 30  # the test itself takes time
            else:
                assert since >= HOUR_SECONDS
        else:
            assert not duplicate
        if not duplicate:
            known[event_id] = now, (entry_id, at)
        seconds = chance.choice([0, 60, 600, 1_799, 1_801]) if chance.random() < 0.4 else 0
        now += seconds
        pass_time(own.client, stream, seconds)
    held = remembered(own.client, stream)
    assert held <= sum(now - when <= LONGEST_SECONDS + 30 for when, _ in known.values())


def test_a_clock_that_is_set_back_forgets_nothing_early(own: Store, stream: str) -> None:
    subject = Sink(own.url, stream, dedup_seconds=HOUR_SECONDS)
    (first,) = commit(subject, line("a"))
    pass_time(own.client, stream, -86_400)
    assert commit(subject, line("b"), line("a"))[1] == (*first[:2], True)
    for _ in range(4):
        pass_time(own.client, stream, HOUR_SECONDS / 4 - 1)
        assert commit(subject, line("a")) == [(*first[:2], True)]


def test_a_clock_that_was_set_back_by_a_year_does_not_keep_ids_for_a_year(own: Store, stream: str) -> None:
    subject = Sink(own.url, stream, dedup_seconds=HOUR_SECONDS)
    commit(subject, line("a"))
    pass_time(own.client, stream, -366 * 86_400)
    commit(subject, line("b"))
    for _ in range(2 * IDS_BUCKETS):
        pass_time(own.client, stream, HOUR_SECONDS / 2 + 1)
        commit(subject, line(str(random.random())))
    assert commit(subject, line("a"))[0][2] is False


def test_buckets_vanish_where_no_more_records_come(own: Store, stream: str) -> None:
    subject = Sink(own.url, stream, dedup_seconds=1)
    commit(subject, line("a"))
    assert own.client.exists(*ids_keys(stream.encode())) == 1
    wait_until(lambda: not own.client.exists(*ids_keys(stream.encode())), "the bucket expires")
    assert own.client.xlen(stream) == 1


@pytest.mark.parametrize("seconds", [1, 2])
def test_a_short_window_in_real_time(own: Store, stream: str, seconds: int) -> None:
    """The bound of the setting, and one more. Known while less than the window has passed; forgotten some time."""
    subject = Sink(own.url, stream, dedup_seconds=seconds)
    before = time.monotonic()
    commit(subject, line("a"))
    while True:
        duplicate = commit(subject, line("a"))[0][2]
        if not duplicate:
            break
        assert time.monotonic() - before < 60
        time.sleep(0.05)
    assert time.monotonic() - before >= seconds
    assert len(stored(own.client, stream)) == 2


def test_the_longest_window(own: Store, stream: str) -> None:
    week_seconds = 604_800
    subject = Sink(own.url, stream, dedup_seconds=week_seconds)
    (first,) = commit(subject, line("a"))
    pass_time(own.client, stream, week_seconds - 1)
    assert commit(subject, line("a")) == [(*first[:2], True)]


@pytest.mark.parametrize("lost", ["n", "t", "b"])
def test_a_bucket_that_somebody_has_damaged_refuses_or_begins_anew_and_notes_nothing_that_is_not_stored(
    own: Store, stream: str, lost: str
) -> None:
    subject = Sink(own.url, stream, dedup_seconds=HOUR_SECONDS)
    commit(subject, line("a"))
    own.client.hdel(ids_keys(stream.encode())[0], lost)
    assert commit(subject, line("b"))[0][2] is False
    assert commit(subject, line("b"))[0][2] is True
    assert stored(own.client, stream).count(line("b")) == 1


@pytest.mark.parametrize(("before", "after"), [(10, HOUR_SECONDS), (HOUR_SECONDS, 10)])
def test_another_window_holds_from_the_first_commit_on(own: Store, stream: str, before: int, after: int) -> None:
    """Found from outside: with a longer window, ids went on being noted in a bucket that expired by the shorter one."""
    commit(Sink(own.url, stream, dedup_seconds=before), line("a"))
    subject = Sink(own.url, stream, dedup_seconds=after)
    assert commit(subject, line("a"), line("b"))[0][2] is True
    pass_time(own.client, stream, after - 1)
    assert [known for _, _, known in commit(subject, line("b"), line("a"))] == [True, True]
    pass_time(own.client, stream, after * 2)
    assert commit(subject, line("b"))[0][2] is False


@pytest.mark.parametrize("denied", ["-unlink", "-pexpire", "-hset"])
def test_a_turn_of_the_buckets_that_is_refused_again_and_again_forgets_nothing(
    own: Store, stream: str, denied: str
) -> None:
    """Found from outside: without +unlink each refused commit went one bucket further, in the end to the newest ids."""
    own.client.execute_command("ACL", "SETUSER", "once", "reset", "on", ">p", "+@all", "~*")
    subject = Sink(own.url.replace("unix://", "unix://once:p@"), stream, dedup_seconds=HOUR_SECONDS)
    commit(subject, line("a"))
    pass_time(own.client, stream, HOUR_SECONDS / 2 + 1)
    commit(subject, line("b"))
    pass_time(own.client, stream, HOUR_SECONDS / 2 - 60)
    own.client.execute_command("ACL", "SETUSER", "once", denied)
    pass_time(own.client, stream, 61)
    ticket = subject.append([line("refused")])
    with pytest.raises(SinkError):
        ticket.commit()
    for _ in range(2 * IDS_BUCKETS):
        # A look tries what the commit has tried.
        with pytest.raises(SinkError):
            subject.check()
    own.client.execute_command("ACL", "SETUSER", "once", "+@all")
    ticket = once_closed(subject, line("b"), line("c"))
    ticket.commit()
    assert [address.duplicate for address in ticket.addresses()] == [True, False]
    assert stored(own.client, stream) == [line("a"), line("b"), line("c")]


def test_each_call_looks_at_the_clock(own: Store, stream: str) -> None:
    """Found from outside: a call that waited out a stall of the store was noted in a bucket whose turn was over."""
    subject = Sink(own.url, stream, dedup_seconds=HOUR_SECONDS)
    commit(subject, line("a"))
    pass_time(own.client, stream, HOUR_SECONDS / 2 + 1)
    commit(subject, line("b"))
    pass_time(own.client, stream, HOUR_SECONDS - 1)
    assert commit(subject, line("b"))[0][2] is True


def test_lines_far_down_a_long_entry_take_little_memory_too(own: Store, stream: str) -> None:
    """Found from outside: from line 2,048 on, an address took 30 bytes."""
    subject = Sink(own.url, stream, dedup_seconds=HOUR_SECONDS)
    lines = [line(str(number)) for number in range(2_050)]
    first = commit(subject, *lines)
    (key,) = (key for key in ids_keys(stream.encode()) if own.client.exists(key))
    sizes = {len(value) for field, value in own.client.hgetall(key).items() if len(field) == DIGEST_BYTES}
    assert sizes == {6, 9}
    assert commit(subject, *lines) == [(entry_id, number, True) for entry_id, number, _ in first]
