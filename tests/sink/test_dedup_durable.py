"""INLET_DEDUP_SECONDS where the store is killed or replaced, and above the level ``stored``."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from inlet.stream.keys import ids_keys
from tests.sink.support import Sink, Store, refused
from tests.sink.test_dedup import WINDOW_SECONDS, commit, line, stored
from tests.support import DEADLINE_SECONDS, wait_until
from wsgi.problems import SinkError
from wsgi.sink.dedup import DIGEST_BYTES, digests_of
from wsgi.sink.durability import REPLICATED, STORED
from wsgi.sink.flight import Flight
from wsgi.store.server import server_binary

KILLS = 6


def noted(client: Any, stream: str) -> list[bytes]:
    """The digest of every remembered id."""
    fields = [field for key in ids_keys(stream.encode()) for field in client.hkeys(key)]
    return sorted(field for field in fields if len(field) == DIGEST_BYTES)


def test_a_retry_at_replicated_is_no_success_while_the_first_record_is_on_no_replica(
    pair: tuple[Store, Store], stream: str
) -> None:
    """A commit of duplicates alone appends nothing, so WAIT would have nothing to wait for."""
    primary, replica = pair
    subject = Sink(primary.url, stream, dedup_seconds=WINDOW_SECONDS)
    subject.append([line("warm")], REPLICATED).commit()
    (warm,) = commit(subject, line("warm"))
    assert warm[2] is True
    replica.process.send_signal(signal.SIGSTOP)
    (first,) = commit(subject, line("a"))
    again = Sink(primary.url, stream, dedup_seconds=WINDOW_SECONDS)  # a connection that has written nothing
    ticket = again.append([line("a")], REPLICATED)
    with refused("durability-timeout"):
        ticket.commit()
    replica.process.send_signal(signal.SIGCONT)

    def retry() -> Any:
        with contextlib.suppress(Exception):
            ticket = Sink(primary.url, stream, dedup_seconds=WINDOW_SECONDS).append([line("a")], REPLICATED)
            ticket.commit()
            return ticket.addresses()
        return None

    assert wait_until(retry, "the replica has it") == [(*first[:2], True)]
    assert stored(replica.client, stream) == [line("warm"), line("a")]


def test_a_call_of_duplicates_alone_writes_something_that_replicas_get(pair: tuple[Store, Store], stream: str) -> None:
    primary, _ = pair
    subject = Sink(primary.url, stream, dedup_seconds=WINDOW_SECONDS)
    commit(subject, line("a"))
    changes = primary.client.info("persistence")["rdb_changes_since_last_save"]
    assert commit(subject, line("a"))[0][2] is True
    assert primary.client.info("persistence")["rdb_changes_since_last_save"] > changes


def test_a_promoted_replica_knows_what_is_stored(pair: tuple[Store, Store], stream: str) -> None:
    primary, replica = pair
    subject = Sink(primary.url, stream, dedup_seconds=WINDOW_SECONDS)
    ticket = subject.append([line(str(n)) for n in range(100)], REPLICATED)
    ticket.commit()
    primary.process.kill()
    replica.client.replicaof("NO", "ONE")
    promoted = Sink(replica.url, stream, dedup_seconds=WINDOW_SECONDS)
    found = commit(promoted, *(line(str(n)) for n in range(101)))
    assert found[:100] == [(entry_id, at, True) for entry_id, at, _ in ticket.addresses()]
    assert found[100][2] is False
    assert stored(replica.client, stream) == [line(str(n)) for n in range(101)]


def test_a_commit_that_was_refused_or_that_nobody_knows_of_may_be_sent_again(stores: Any, stream: str) -> None:
    store = stores()
    first = Sink(store.url, stream, dedup_seconds=WINDOW_SECONDS, commit_timeout_ms=500)
    commit(first, line("warm"))
    store.process.send_signal(signal.SIGSTOP)
    with refused("sink-outcome-unknown"):
        commit(first, line("a"))  # it is in the store's socket, and is executed once it goes on
    store.process.send_signal(signal.SIGCONT)
    wait_until(lambda: store.client.xlen(stream) == 2, "the store executes it")
    retried = commit(Sink(store.url, stream, dedup_seconds=WINDOW_SECONDS), line("a"))
    assert retried[0][2] is True
    assert stored(store.client, stream) == [line("warm"), line("a")]


def test_the_same_ids_by_two_writers_at_once_are_stored_once(stores: Any, stream: str) -> None:
    store = stores()
    lines = [line(str(n)) for n in range(2_000)]
    found: list[list[Any]] = [[], []]

    def write(number: int) -> None:
        subject = Sink(store.url, stream, dedup_seconds=WINDOW_SECONDS)
        for start in range(0, len(lines), 7):
            found[number] += commit(subject, *lines[start : start + 7])

    threads = [threading.Thread(target=write, args=[number]) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stored(store.client, stream)) == sorted(lines)
    assert [each[:2] for each in found[0]] == [each[:2] for each in found[1]]
    assert [(one[2], other[2]) for one, other in zip(*found, strict=True)].count((False, False)) == 0


@contextlib.contextmanager
def killed_at_last(words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone afterwards."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE_SECONDS)


def answers(client: Any) -> bool:
    """Whether the store answers, and has loaded its file."""
    with contextlib.suppress(redis.RedisError):
        return bool(client.ping())
    return False


@pytest.mark.parametrize("program", ["valkey", "redis"])
def test_a_store_that_is_killed_at_any_moment_has_no_id_without_its_record_and_no_record_without_its_id(
    program: str, tmp_path: Path, stream: str
) -> None:
    if program == "redis" and shutil.which("redis-server") is None:
        pytest.skip("no redis-server")
    path, chance = tmp_path / "s.sock", random.Random(program)
    binary = server_binary() if program == "valkey" else "redis-server"
    words = [
        binary, "--port", "0", "--unixsocket", str(path), "--dir", str(tmp_path), "--save", "",
        "--appendonly", "yes", "--appendfsync", "no",  # it writes before it answers; everysec may put that off
    ]  # fmt: skip
    client = redis.Redis(unix_socket_path=str(path))
    numbers = itertools.count()
    answered: set[bytes] = set()
    reasons: set[str] = set()
    for _ in range(KILLS):
        with killed_at_last(words) as process:
            wait_until(functools.partial(answers, client), "the store answers")
            lines = stored(client, stream)
            assert len(lines) == len(set(lines))
            assert answered <= set(lines)
            assert sorted(digests_of(lines)) == noted(client, stream)
            subject = Sink(f"unix://{path}", stream, dedup_seconds=WINDOW_SECONDS)
            threading.Timer(0.05 + chance.random() / 2, process.kill).start()
            while True:
                batch = [line(str(next(numbers))) for _ in range(chance.choice([1, 30, 1_000]))]
                retried = [line(str(chance.randrange(1 + len(lines)))) for _ in range(chance.choice([0, 0, 5]))]
                try:
                    commit(subject, *batch, *retried)
                except SinkError as error:
                    reasons.add(error.reason)
                    break
                answered.update(batch)
            process.wait(DEADLINE_SECONDS)
    assert len(answered) > KILLS
    assert reasons <= {"sink-outcome-unknown", "sink-unavailable"}


def test_off_the_commands_are_what_they_were(stream: str) -> None:
    """``xadd`` is packed by a test of its own; here: nothing comes before or after."""
    subject = Sink("unix:///nonexistent", stream)
    batch = subject.append([line("a")])._batch
    flight = Flight(batch, STORED, subject.batches.lane(STORED)._link.waits, 1_000)
    assert flight.take() == (
        b"*7\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n$1\r\nr\r\n$%d\r\n%b\r\n$1\r\nn\r\n$1\r\n1\r\n"
        % (len(stream), stream.encode(), len(line("a")), line("a"))
    )
    assert flight.take() == b""
