"""INLET_DEDUP_SECONDS over a real store: what is stored, what is answered, and where the first one is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from inlet.stream.keys import ids_keys
from tests.sink.support import Sink, once_closed, refused
from tests.support import debian_redis, entries
from wsgi import metrics
from wsgi.sink.durability import RECEIVED

WINDOW_SECONDS = 3_600


@pytest.fixture(params=["valkey", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any]]:
    """URL and client of the wheel's Valkey, and of Debian's Redis 7.0."""
    if request.param == "valkey":
        url = request.getfixturevalue("valkey")
        yield url, request.getfixturevalue("client")
    elif shutil.which("redis-server") is None:
        pytest.skip("no redis-server")
    else:
        with debian_redis() as url, redis.Redis.from_url(url) as client:
            yield url, client


@pytest.fixture
def subject(store: tuple[str, Any], stream: str) -> Iterator[Sink]:
    """A sink that remembers ids for an hour; the ids of its stream are removed afterwards."""
    yield Sink(store[0], stream, dedup_seconds=WINDOW_SECONDS)
    store[1].delete(*ids_keys(stream.encode()))


def line(event_id: str, message: str = "m") -> bytes:
    """A line as the encoder writes it, of an id that needs no escapes."""
    return b'["%b","2026-01-31T23:59:59Z","s","%b",{}]' % (event_id.encode(), message.encode())


def commit(subject: Sink, *lines: bytes, destination: bytes | None = None) -> list[tuple[str, int, bool]]:
    """Store one request's lines; their addresses."""
    ticket = subject.append(list(lines), destination=destination)
    ticket.commit()
    return [tuple(each) for each in ticket.addresses()]


def stored(client: Any, stream: str) -> list[bytes]:
    """Every line of the stream."""
    found = []
    for _, fields in entries(client, stream):
        lines = fields[b"r"].split(b"\n")
        assert len(lines) == int(fields[b"n"])
        found += lines
    return found


@pytest.mark.usefixtures("driven")
def test_a_record_sent_again_is_stored_once_and_its_first_address_is_told(
    store: tuple[str, Any], subject: Sink, stream: str
) -> None:
    _, client = store
    duplicates, counted = metrics.RECORDS_DUPLICATE._value.get(), metrics.RECORDS_STORED._value.get()
    ((first, at, duplicate),) = commit(subject, line("a"))
    assert (at, duplicate) == (0, False)
    assert commit(subject, line("a", "other")) == [(first, 0, True)]
    assert stored(client, stream) == [line("a")]
    assert metrics.RECORDS_DUPLICATE._value.get() == duplicates + 1
    metrics.LATE.flush()
    assert metrics.RECORDS_STORED._value.get() == counted + 1


def test_the_lines_between_duplicates_have_their_own_addresses(
    store: tuple[str, Any], subject: Sink, stream: str
) -> None:
    _, client = store
    first = commit(subject, *(line(str(n)) for n in range(10)))[0][0]
    mixed = [line(str(n)) for n in (3, 10, 11, 0, 12, 9, 9, 13)]
    found = commit(subject, *mixed)
    second = entries(client, stream)[1][0]
    assert found == [
        (first, 3, True), (second, 0, False), (second, 1, False), (first, 0, True), (second, 2, False),
        (first, 9, True), (first, 9, True), (second, 3, False),
    ]  # fmt: skip
    assert stored(client, stream)[10:] == [line(str(n)) for n in (10, 11, 12, 13)]


def test_an_id_twice_in_one_payload_is_stored_once(store: tuple[str, Any], subject: Sink, stream: str) -> None:
    found = commit(subject, line("a", "1"), line("b"), line("a", "2"), line("c"), line("a", "3"))
    ((entry_id, _),) = entries(store[1], stream)
    assert [each[1:] for each in found] == [(0, False), (1, False), (0, True), (2, False), (0, True)]
    assert {each[0] for each in found} == {entry_id}
    assert stored(store[1], stream) == [line("a", "1"), line("b"), line("c")]


@pytest.mark.usefixtures("driven")
def test_an_id_in_several_requests_of_one_batch_is_stored_once(
    store: tuple[str, Any], subject: Sink, stream: str
) -> None:
    tickets = [subject.append([line("a", str(n)), line(f"own-{n}")]) for n in range(3)]
    for ticket in tickets:
        ticket.commit()
    ((entry_id, _),) = entries(store[1], stream)
    assert [ticket.addresses() for ticket in tickets] == [
        [(entry_id, 0, False), (entry_id, 1, False)],
        [(entry_id, 0, True), (entry_id, 2, False)],
        [(entry_id, 0, True), (entry_id, 3, False)],
    ]
    assert len(stored(store[1], stream)) == 4


def test_a_later_entry_of_a_commit_sees_the_earlier_ones(store: tuple[str, Any], stream: str) -> None:
    subject = Sink(store[0], stream, dedup_seconds=WINDOW_SECONDS, entry_bytes_max=100)
    lines = [line("a"), line("b"), line("c"), line("a"), line("d"), line("b")]
    found = commit(subject, *lines)
    assert [each[2] for each in found] == [False, False, False, True, False, True]
    assert (found[3][:2], found[5][:2]) == (found[0][:2], found[1][:2])
    held = dict(entries(store[1], stream))
    for sent, (entry_id, at, _) in zip(lines, found, strict=True):
        assert held[entry_id][b"r"].split(b"\n")[at] == sent
    store[1].delete(*ids_keys(stream.encode()))


@pytest.mark.parametrize("records", [1_000, 1_001, 2_048, 2_049, 5_000])
def test_every_size_of_a_call_and_every_form_of_an_address(store: tuple[str, Any], stream: str, records: int) -> None:
    """1,000 ids a lookup and a note; an address of a line from 2,048 on has the long form."""
    subject = Sink(store[0], stream, dedup_seconds=WINDOW_SECONDS)
    lines = [line(str(n)) for n in range(records)]
    first = commit(subject, *lines)
    ((entry_id, _),) = entries(store[1], stream)
    assert first == [(entry_id, n, False) for n in range(records)]
    assert commit(subject, *reversed(lines)) == [(entry_id, n, True) for n in reversed(range(records))]
    new = [line(f"new-{n}") for n in range(records)]
    mixed = commit(subject, *(each for pair in zip(lines, new, strict=True) for each in pair))
    second = entries(store[1], stream)[1][0]
    assert mixed[0::2] == [(entry_id, n, True) for n in range(records)]
    assert mixed[1::2] == [(second, n, False) for n in range(records)]
    assert stored(store[1], stream) == lines + new
    store[1].delete(*ids_keys(stream.encode()))


@pytest.mark.parametrize(
    "last",
    ["{now}-{order}", "18446744073709551000-5", "9007199254740993-0"],
)
@pytest.mark.parametrize("order", [30, 31, 100])
def test_an_address_is_exact_whatever_the_streams_last_id_is(
    store: tuple[str, Any], subject: Sink, stream: str, last: str, order: int
) -> None:
    """An entry's number in its ms from 32 on, and ms that no double holds, have the long form."""
    client = store[1]
    commit(subject, line("first"))
    now = client.time()[0] * 1_000 + 10_000_000
    client.xadd(stream, {"r": "x", "n": 1}, id=last.format(now=now, order=order))
    ((entry_id, at, _),) = commit(subject, line("a"))
    assert entry_id == entries(client, stream)[-1][0]
    assert commit(subject, line("a")) == [(entry_id, at, True)]


def test_each_stream_has_ids_of_its_own(store: tuple[str, Any], subject: Sink, stream: str) -> None:
    other = f"{stream}:other".encode()
    assert commit(subject, line("a"))[0][2] is False
    assert commit(subject, line("a"), destination=other)[0][2] is False
    assert commit(subject, line("a"), destination=other)[0][2] is True
    store[1].delete(other, *ids_keys(other))


def test_a_new_process_knows_what_another_has_stored(store: tuple[str, Any], subject: Sink, stream: str) -> None:
    first = commit(subject, line("a"))
    assert commit(Sink(store[0], stream, dedup_seconds=WINDOW_SECONDS), line("a")) == [(*first[0][:2], True)]


@pytest.mark.usefixtures("driven")
def test_at_received_it_is_stored_once_and_counted(store: tuple[str, Any], stream: str) -> None:
    subject = Sink(store[0], stream, dedup_seconds=WINDOW_SECONDS, level=RECEIVED)
    before = metrics.RECORDS_DUPLICATE._value.get()
    assert commit(subject, line("a"), line("a"), line("b")) == [("", 0, False), ("", 1, False), ("", 2, False)]
    subject.append([line("b")], 1).commit()  # in order, after it
    subject.append([line("c")], RECEIVED).commit()
    subject.append([line("c")], 1).commit()
    assert sorted(stored(store[1], stream)) == [line("a"), line("b"), line("c")]
    subject.batches.settle()
    if Sink.driven == "blocking":
        assert metrics.RECORDS_DUPLICATE._value.get() == before + 3
    store[1].delete(*ids_keys(stream.encode()))


@pytest.mark.parametrize("number", range(3))
def test_a_bucket_of_a_wrong_type_refuses_and_appends_nothing(
    store: tuple[str, Any], subject: Sink, stream: str, number: int
) -> None:
    client = store[1]
    key = ids_keys(stream.encode())[number]
    client.set(key, "a string")
    with refused("sink-misconfigured", match="WRONGTYPE"):
        commit(subject, line("a"))
    assert not client.exists(stream)
    client.delete(key)
    ticket = once_closed(subject, line("a"))
    ticket.commit()
    assert stored(client, stream) == [line("a")]


def test_a_stream_of_a_wrong_type_leaves_no_id_behind(store: tuple[str, Any], subject: Sink, stream: str) -> None:
    client = store[1]
    client.set(stream, "a string")
    with refused("sink-misconfigured", match="WRONGTYPE"):
        commit(subject, line("a"))
    client.delete(stream)
    ticket = once_closed(subject, line("a"))
    ticket.commit()
    assert ticket.addresses()[0].duplicate is False
    assert stored(client, stream) == [line("a")]


@pytest.mark.parametrize(
    ("denied", "keys"),
    [("-hset", "~*"), ("-hmget", "~*"), ("-xadd", "~*"), ("-unlink", "~*"), ("-pexpire", "~*"), ("-time", "~*"),
     ("-evalsha", "~*"), ("-script|load", "~*"), ("+get", "~{stream}"), ("+get", "~{stream} %R~*"),
     ("+get", "~*:ids:*")],
)  # fmt: skip
def test_a_permission_that_lacks_refuses_before_anything_is_appended(
    store: tuple[str, Any], stream: str, denied: str, keys: str
) -> None:
    url, client = store
    patterns = keys.replace("{stream}", stream).split()
    client.execute_command("ACL", "SETUSER", "once", "reset", "on", ">p", "+@all", denied, *patterns)
    authenticated = url.replace("unix://", "unix://once:p@")
    subject = Sink(authenticated, stream, dedup_seconds=WINDOW_SECONDS)
    with refused("sink-misconfigured"):
        commit(subject, line("a"))
    assert not client.exists(stream)
    client.execute_command("ACL", "DELUSER", "once")
    client.delete(*ids_keys(stream.encode()))


@pytest.mark.parametrize("denied", ["-hset", "-hmget", "-time", "-xadd"])
def test_a_permission_that_is_taken_away_refuses_before_anything_is_appended(
    store: tuple[str, Any], stream: str, denied: str
) -> None:
    """Found from outside: without +hset, up to a second of records were stored, answered 202, and not remembered."""
    url, client = store
    client.execute_command("ACL", "SETUSER", "once", "reset", "on", ">p", "+@all", "~*")
    subject = Sink(url.replace("unix://", "unix://once:p@"), stream, dedup_seconds=WINDOW_SECONDS)
    commit(subject, line("a"))
    client.execute_command("ACL", "SETUSER", "once", denied)
    with refused("sink-misconfigured", match="refuses the script of INLET_DEDUP_SECONDS"):
        commit(subject, line("b"))
    assert stored(client, stream) == [line("a")]
    client.execute_command("ACL", "SETUSER", "once", "+@all")
    ticket = once_closed(subject, line("b"), line("a"))
    ticket.commit()
    assert [address.duplicate for address in ticket.addresses()] == [False, True]
    assert stored(client, stream) == [line("a"), line("b")]
    client.execute_command("ACL", "DELUSER", "once")
    client.delete(*ids_keys(stream.encode()))


def test_full_memory_refuses_the_whole_call(stores: Any, stream: str) -> None:
    store = stores()
    subject = Sink(store.url, stream, dedup_seconds=WINDOW_SECONDS)
    commit(subject, line("a"))
    # In this order: a look refuses what comes behind it.
    ticket = subject.append([line("b")])
    store.client.config_set("maxmemory", 1)
    with refused("sink-unavailable", match="OOM"):
        ticket.commit()
    store.client.config_set("maxmemory", 0)
    ticket = once_closed(subject, line("b"))
    ticket.commit()
    assert stored(store.client, stream) == [line("a"), line("b")]
    assert ticket.addresses()[0].duplicate is False


@pytest.mark.usefixtures("driven")
def test_a_script_that_was_flushed_is_refused_as_not_stored_and_loaded_again(
    store: tuple[str, Any], subject: Sink, stream: str
) -> None:
    commit(subject, line("a"))
    store[1].script_flush()
    with refused("sink-unavailable", match="lost the script"):
        commit(subject, line("b"))
    assert stored(store[1], stream) == [line("a")]
    ticket = once_closed(subject, line("b"))
    ticket.commit()
    assert stored(store[1], stream) == [line("a"), line("b")]
