"""Keepers that are stopped at the worst moment, and stores that forget: nothing unread may go."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from inlet import Reader
from inlet.stream.client import StoreClient
from inlet.stream.errors import StoreAway
from inlet.stream.groups import FORGOTTEN_MS, forget, remembered
from inlet.stream.keeper import Keeper, Kept
from inlet.stream.keys import forgotten_key
from inlet.stream.retention import Retention
from tests.consumer.support import QUICK, connect, fill
from tests.sink.relay import Relay
from tests.sink.support import Store
from tests.stream.support import read_all
from tests.support import DEADLINE_SECONDS, listen_on_a_free_port, wait_until


class Gate(Relay):
    """Stops at the first chunk that holds ``word``, as if the sender had been stopped before it, until ``go``."""

    def __init__(self, target: str, word: bytes) -> None:
        self.word, self.reached, self.go = word, threading.Event(), threading.Event()
        super().__init__(target)

    def lead_to(self, target: str) -> None:
        """Let new connections go to another store, and end the others."""
        self._target = target
        for sock in self._sockets[1:]:
            with contextlib.suppress(OSError):
                sock.shutdown(2)

    def _forward(self, source: Any, sink: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := source.recv(65_536):
                if self.word in data and not self.reached.is_set():
                    self.reached.set()
                    self.go.wait(DEADLINE_SECONDS)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(2)


@pytest.fixture
def own() -> Iterator[Store]:
    store = Store()
    yield store
    store.close()


@pytest.fixture
def replica(own: Store) -> Iterator[Store]:
    """A replica of ``own``, in step."""
    store = Store("--replicaof", f"127.0.0.1 {listen_on_a_free_port(own.client)}")
    wait_until(lambda: store.client.info("replication")["master_link_status"] == "up", "the replica is connected")
    yield store
    store.close()


def run(keeper: Keeper) -> threading.Thread:
    thread = threading.Thread(target=keeper.tick)
    thread.start()
    return thread


def ticked(keeper: Keeper) -> list[Kept] | None:
    with contextlib.suppress(StoreAway):
        return keeper.tick()
    return None


@pytest.mark.parametrize("unread", ["keep", "drop"])
def test_a_keeper_that_was_stopped_past_its_lease_trims_nothing_by_old_figures(own: Store, unread: Any) -> None:
    """Regression: 1,000 unread entries within the bound went, because they had been over it when it looked."""
    gate = Gate(str(own.path), b"XTRIM")
    fill(own.client, "logs", 2_000, 1)
    if unread == "keep":
        read_all(own.url, "logs")
    keep = Retention(entries=1_000, unread=unread)
    stopped = run(Keeper(StoreClient(f"redis://127.0.0.1:{gate.port}"), ["logs"], keep))
    assert gate.reached.wait(DEADLINE_SECONDS)
    own.client.delete("logs:keeper")  # its lease has run out
    other = Keeper(StoreClient(own.url), ["logs"], keep)
    assert other.tick() is not None
    assert own.client.xlen("logs") == 1_000
    first = own.client.xrange("logs", count=1)
    gate.go.set()
    stopped.join(DEADLINE_SECONDS)
    assert (own.client.xlen("logs"), own.client.xrange("logs", count=1)) == (1_000, first)
    assert other.tick() is not None, "the lease is still the other's"
    gate.close()


def test_a_keeper_that_was_stopped_while_a_group_was_set_back_trims_nothing_of_it(own: Store) -> None:
    gate = Gate(str(own.path), b"XTRIM")
    fill(own.client, "logs", 2_000, 1)
    read_all(own.url, "logs")
    stopped = run(Keeper(StoreClient(f"redis://127.0.0.1:{gate.port}"), ["logs"], Retention(entries=1_000)))
    assert gate.reached.wait(DEADLINE_SECONDS)
    own.client.xgroup_create("logs", "late", id="0")
    gate.go.set()
    stopped.join(DEADLINE_SECONDS)
    assert own.client.xlen("logs") == 2_000
    gate.close()


@pytest.mark.parametrize("noted", [False, True])
def test_a_failover_to_a_replica_without_a_group_loses_nothing_that_it_had_not_acked(
    own: Store, replica: Store, noted: bool
) -> None:
    """Regression: the keeper trimmed 2,900 of 3,000 entries before the group's consumer came back.

    ``noted``: the replica had the note of the group, and the keeper knows of nothing; else the other way around.
    """
    event_ids = fill(own.client, "logs", 3_000, 1)
    read_all(own.url, "logs", "old")
    gate = Gate(str(own.path), b"nothing")
    url = f"redis://127.0.0.1:{gate.port}"
    keeper = Keeper(StoreClient(url), ["logs"], Retention(entries=100))
    if noted:
        own.client.hsetnx("logs:groups", "new", 1)  # as a reader does before it creates the group
        wait_until(lambda: replica.client.hexists("logs:groups", "new"), "the replica has the note")
    wait_until(lambda: replica.client.xpending("logs", "old")["pending"] == 0, "the replica is in step")
    wait_until(lambda: replica.client.xinfo_groups("logs")[0]["lag"] == 0, "the replica is in step")
    replica.client.replicaof("NO", "ONE")  # what follows does not reach it
    own.client.xgroup_create("logs", "new", id="0")
    if not noted:
        keeper.tick()
    gate.lead_to(str(replica.path))
    kept = wait_until(lambda: ticked(keeper), "the keeper has connected again")
    assert (kept[0].trimmed, kept[0].held.words()[:32], replica.client.xlen("logs")) == (
        0, "group 'new' is missing from the ", 3_000,
    )  # fmt: skip
    seen: list[str] = []
    # Its consumer comes back, and creates it again.
    Reader(url, "logs", "new", options=QUICK).run(lambda record: seen.append(record.event_id), forever=False)
    assert set(seen) == set(event_ids)
    keeper.tick()
    assert replica.client.xlen("logs") <= 100
    gate.close()


def test_a_group_that_was_forgotten_is_not_remembered_again_by_a_keeper_that_has_seen_it(
    store_url: str, stream: str
) -> None:
    client = StoreClient(store_url)
    keeper = Keeper(client, [stream], Retention(entries=10))
    with connect(store_url) as db:
        fill(db, stream, 100, 1)
        read_all(store_url, stream, "a")
        db.xgroup_create(stream, "b", id="0")
        assert keeper.tick() is not None
        assert db.xlen(stream) == 100
        assert forget(client, stream, b"b") == (True, True)
        assert 0 < db.pttl(forgotten_key(stream, b"b")) <= FORGOTTEN_MS
        kept = keeper.tick()
        assert kept is not None
        assert (kept[0].trimmed, set(remembered(client, stream))) == (90, {b"a"})
        # Created again, it counts as before, and a failover may lose it again.
        db.xgroup_create(stream, "b", id="0")
        assert keeper.tick() is not None
        db.xgroup_destroy(stream, "b")
        db.delete(f"{stream}:groups")
        fill(db, stream, 100, 1)
        read_all(store_url, stream, "a")
        kept = keeper.tick()
        assert kept is not None
        assert (kept[0].trimmed, kept[0].held) == (0, ("missing", "b"))
    client.close()


def test_a_keeper_remembers_while_another_one_trims(store_url: str, stream: str) -> None:
    first, second = StoreClient(store_url), StoreClient(store_url)
    holder, other = (Keeper(client, [stream], Retention(entries=10)) for client in (first, second))
    with connect(store_url) as db:
        fill(db, stream, 100, 1)
        read_all(store_url, stream, "a")
        db.xgroup_create(stream, "b", id="0")
        assert (holder.tick() is None, other.tick()) == (False, None)
        # The holder and the store's memory of the group are gone at once.
        holder.release()
        db.xgroup_destroy(stream, "b")
        db.delete(f"{stream}:groups")
        kept = other.tick()
        assert kept is not None
        assert (kept[0].trimmed, kept[0].held) == (0, ("missing", "b"))
    first.close()
    second.close()


def test_unread_drop_trims_what_a_missing_group_holds(store_url: str, stream: str) -> None:
    """The bounds win: that is what drop is for."""
    client = StoreClient(store_url)
    with connect(store_url) as db:
        fill(db, stream, 100, 1)
        read_all(store_url, stream, "a")
        db.hset(f"{stream}:groups", "lost", 1)
        kept = Keeper(client, [stream], Retention(entries=10, unread="drop")).tick()
        assert kept is not None
        assert (kept[0].trimmed, kept[0].dropped, db.xlen(stream)) == (0, 90, 10)
    client.close()
