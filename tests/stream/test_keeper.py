"""inlet.stream.keeper over real stores: what goes, what never goes, and one keeper at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from inlet.stream.client import StoreClient
from inlet.stream.keeper import LEASE_MS, Keeper, Kept, exact, has_acked, observe
from inlet.stream.keeper import command as trim_command
from inlet.stream.retention import Retention, Trim
from tests.consumer.support import connect, fill, pending, read_all
from tests.support import wait_until


@pytest.fixture
def db(store_url: str) -> Iterator[Any]:
    """redis-py on the store in turn."""
    with connect(store_url) as client:
        yield client


@pytest.fixture
def client(store_url: str) -> Iterator[StoreClient]:
    client = StoreClient(store_url)
    yield client
    client.close()


def keep(client: StoreClient, stream: str, retention: Retention) -> Kept:
    keeper = Keeper(client, [stream], retention)
    kept = keeper.tick()
    assert kept is not None
    keeper.release()
    return kept[0]


def test_entries_over_the_bound_go_once_every_group_has_acked_them(
    store_url: str, db: Any, client: StoreClient, stream: str
) -> None:
    fill(db, stream, 1_000, 1)
    read_all(store_url, stream, "a")
    db.xgroup_create(stream, "b", id="0")
    assert keep(client, stream, Retention(entries=300)) == Kept(stream, 1_000, db.memory_usage(stream), 0, 0, True)
    read_all(store_url, stream, "b")
    kept = keep(client, stream, Retention(entries=300))
    assert (kept.length, kept.trimmed, kept.dropped, kept.full, db.xlen(stream)) == (300, 700, 0, False, 300)


def test_a_pending_entry_and_all_after_it_stay(store_url: str, db: Any, client: StoreClient, stream: str) -> None:
    fill(db, stream, 1_000, 1)
    db.xgroup_create(stream, "g", id="0")
    db.xreadgroup("g", "c", {stream: ">"}, count=500)
    ids = [entry_id for entry_id, _ in db.xrange(stream)]
    db.xack(stream, "g", *ids[:100], *ids[101:500])
    kept = keep(client, stream, Retention(entries=10))
    assert (kept.trimmed, kept.full, pending(db, stream, "g")) == (100, True, 1)
    assert db.xrange(stream, count=1)[0][0] == ids[100]


def test_without_a_group_nothing_goes(db: Any, client: StoreClient, stream: str) -> None:
    fill(db, stream, 200, 1)
    kept = keep(client, stream, Retention(age_ms=1, entries=10))
    assert (kept.trimmed, kept.dropped, kept.full, db.xlen(stream)) == (0, 0, True, 200)


def test_unread_entries_go_where_that_was_said_and_are_counted(
    store_url: str, db: Any, client: StoreClient, stream: str
) -> None:
    fill(db, stream, 1_000, 1)
    ids = [entry_id for entry_id, _ in db.xrange(stream)]
    db.xgroup_create(stream, "g", id=ids[599])
    kept = keep(client, stream, Retention(entries=300, unread="drop"))
    assert (kept.length, kept.trimmed, kept.dropped, kept.full) == (300, 600, 100, False)
    assert db.xrange(stream, count=1)[0][0] == ids[700]


def test_age_takes_what_is_old_and_acked_and_no_more(store_url: str, db: Any, client: StoreClient, stream: str) -> None:
    now_ms = observe(client, stream).now_ms
    for number in range(500):
        db.xadd(stream, {"r": "x", "n": 1}, id=f"{now_ms - 100_000}-{number}")
    for number in range(500):
        db.xadd(stream, {"r": "x", "n": 1}, id=f"{now_ms - 1_000}-{number}")
    assert keep(client, stream, Retention(age_ms=50_000)).trimmed == 0
    read_all(store_url, stream)
    kept = keep(client, stream, Retention(age_ms=50_000))
    assert (kept.trimmed, kept.length, kept.full) == (500, 500, False)


def test_what_age_has_taken_is_not_taken_again_by_the_bound_on_entries(
    store_url: str, db: Any, client: StoreClient, stream: str
) -> None:
    now_ms = observe(client, stream).now_ms
    for number in range(500):
        db.xadd(stream, {"r": "x", "n": 1}, id=f"{now_ms - 100_000}-{number}")
    for number in range(500):
        db.xadd(stream, {"r": "x", "n": 1}, id=f"{now_ms}-{number}")
    read_all(store_url, stream)
    kept = keep(client, stream, Retention(age_ms=50_000, entries=700))
    assert (kept.trimmed, kept.length) == (500, 500)


def test_a_full_stream_is_published_until_it_is_well_below_its_bound(
    store_url: str, db: Any, client: StoreClient, stream: str
) -> None:
    fill(db, stream, 100, 1)
    keeper = Keeper(client, [stream], Retention(entries=99), publish=True)
    keeper.tick()
    assert (db.get(f"{stream}:full"), 0 < db.pttl(f"{stream}:full") <= LEASE_MS) == (b"100", True)
    # Just within the bound again: producers must not see it flap.
    db.xtrim(stream, maxlen=97, approximate=False)
    keeper.tick()
    assert db.exists(f"{stream}:full") == 1
    db.xtrim(stream, maxlen=94, approximate=False)
    keeper.tick()
    assert db.exists(f"{stream}:full") == 0
    keeper.release()


def test_memory_over_the_bound_goes(store_url: str, db: Any, client: StoreClient, stream: str) -> None:
    fill(db, stream, 20_000)
    read_all(store_url, stream)
    before = db.memory_usage(stream)
    kept = keep(client, stream, Retention(memory_bytes=before // 2))
    assert 0.35 * before < kept.memory_bytes <= before // 2
    assert not kept.full


def test_more_entries_than_one_xtrim_may_take_go_in_portions(
    store_url: str, db: Any, client: StoreClient, stream: str
) -> None:
    fill(db, stream, 25_000, 1)
    read_all(store_url, stream)
    assert keep(client, stream, Retention(entries=100)).length == 100


def test_a_stream_that_does_not_exist_is_kept_without_a_word(client: StoreClient, stream: str) -> None:
    assert keep(client, stream, Retention(entries=1, age_ms=1)) == Kept(stream, 0, 0, 0, 0, False)


def test_only_one_keeper_at_a_time_and_the_next_once_the_lease_is_given_back(
    store_url: str, db: Any, client: StoreClient, stream: str
) -> None:
    other = StoreClient(store_url)
    first, second = Keeper(client, [stream], Retention(entries=1)), Keeper(other, [stream], Retention(entries=1))
    assert first.tick() is not None
    assert second.tick() is None
    assert first.tick() is not None, "renewed"
    assert 0 < db.pttl(f"{stream}:keeper") <= LEASE_MS
    second.release()
    assert second.tick() is None, "only the holder gives it back"
    first.release()
    assert second.tick() is not None
    second.release()
    other.close()


def test_a_lease_whose_keeper_died_ends_by_itself(store_url: str, db: Any, client: StoreClient, stream: str) -> None:
    db.set(f"{stream}:keeper", "of the dead", px=100)
    keeper = Keeper(client, [stream], Retention(entries=1))
    wait_until(keeper.hold, "the lease's end")
    db.set(f"{stream}:keeper", "of another")
    assert keeper.tick() is None
    assert db.get(f"{stream}:keeper") == b"of another"


def test_looking_says_what_is_full_and_changes_nothing(
    store_url: str, db: Any, client: StoreClient, stream: str
) -> None:
    fill(db, stream, 200, 1)
    keeper = Keeper(client, [stream], Retention(entries=100))
    assert keeper.look()[stream].full
    assert (db.xlen(stream), db.exists(f"{stream}:keeper")) == (200, 0)


@pytest.mark.parametrize(
    ("info", "known"),
    [
        (b"# Server\r\nredis_version:8.2.0\r\n", True),
        (b"# Server\r\nredis_version:8.10.1\r\n", True),
        (b"# Server\r\nredis_version:9.0.0\r\n", True),
        (b"# Server\r\nredis_version:8.0.3\r\n", False),
        (b"# Server\r\nredis_version:7.0.15\r\n", False),
        (b"# Server\r\nredis_version:9.0.0\r\nserver_name:valkey\r\nvalkey_version:9.0.0\r\n", False),
        (b"", False),
    ],
)
def test_acked_is_asked_for_only_where_the_server_knows_it(info: bytes, known: bool) -> None:
    assert has_acked(info) is known


def test_xtrim_asks_for_acked_only_for_what_must_be_acked() -> None:
    head = ("XTRIM", "logs", "MINID", "~", "5-1", "LIMIT", 10)
    assert trim_command("logs", Trim((5, 1), None, False), 10, True) == (*head, "ACKED")
    assert trim_command("logs", Trim((5, 1), None, False), 10, False) == head
    assert trim_command("logs", Trim((5, 1), None, True), 10, True) == head
    assert exact("logs", (5, 1), Trim((9, 0), 3, False), True)[-1] == "ACKED"
