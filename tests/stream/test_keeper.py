"""inlet.stream.keeper over real stores: what goes, what never goes, and one keeper at a time."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from inlet.stream import keeper as keeping
from inlet.stream import trimming
from inlet.stream.client import StoreClient
from inlet.stream.keeper import Keeper, Kept, has_acked
from inlet.stream.retention import Hold, Retention
from inlet.stream.trimming import LEASE_MS, TRIM_LIMIT, Lease, count_below, portion
from tests.consumer.support import connect, fill, pending
from tests.stream.support import read_all
from tests.support import debian_redis, wait_until
from wsgi.store.embedded import EmbeddedStore


@pytest.fixture
def client(store_url: str) -> Iterator[StoreClient]:
    client = StoreClient(store_url)
    yield client
    client.close()


@pytest.fixture
def stores() -> Iterator[list[str]]:
    """The URLs of two stores of the test's own: Valkey, and Debian's Redis where it is installed."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="inlet-"))
        store = EmbeddedStore(Path(directory))
        stack.callback(store.stop)
        urls = [store.start()]
        if shutil.which("redis-server"):
            urls.append(stack.enter_context(debian_redis()))
        yield urls


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
    assert keep(client, stream, Retention(entries=300)) == Kept(
        stream, 1_000, db.memory_usage(stream), 0, 0, True, Hold("behind", "b")
    )
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
    now_ms = int(db.time()[0]) * 1000
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
    now_ms = int(db.time()[0]) * 1000
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
    assert (db.get(f"{stream}:full"), 0 < db.pttl(f"{stream}:full") <= LEASE_MS) == (b"nobody ", True)
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
    assert keep(client, stream, Retention(entries=1, age_ms=1)) == Kept(stream, 0, 0, 0, 0, False, Hold("nobody"))


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
    keeper = Keeper(client, [stream], Retention(entries=1))
    db.set(f"{stream}:keeper", "of another", px=LEASE_MS)
    assert keeper.tick() is None
    assert db.get(f"{stream}:keeper") == b"of another"
    db.set(f"{stream}:keeper", "of the dead", px=100)
    wait_until(keeper.tick, "the lease's end")


@pytest.mark.parametrize("left_ms", [None, LEASE_MS * 10])
def test_a_lease_that_no_living_keeper_can_hold_is_taken(
    store_url: str, db: Any, client: StoreClient, stream: str, left_ms: int | None
) -> None:
    """The clock was set back, or the lease was written by something else: it would keep every keeper out."""
    db.set(f"{stream}:keeper", "of the dead", px=left_ms)
    assert Keeper(client, [stream], Retention(entries=1)).tick() is not None
    assert 0 < db.pttl(f"{stream}:keeper") <= LEASE_MS


def test_looking_says_what_is_full_and_changes_nothing(
    store_url: str, db: Any, client: StoreClient, stream: str
) -> None:
    fill(db, stream, 200, 1)
    db.xgroup_create(stream, "g", id="0")
    keeper = Keeper(client, [stream], Retention(entries=100))
    assert keeper.look()[stream].full
    assert (db.xlen(stream), db.keys(f"{stream}:*")) == (200, [])


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


def test_a_look_finds_exactly_what_a_tick_does(store_url: str, db: Any, client: StoreClient, stream: str) -> None:
    now_ms = int(db.time()[0]) * 1000
    for number in range(300):
        db.xadd(stream, {"r": "x", "n": 1}, id=f"{now_ms - 100_000 + number}-0")
    ids = [entry_id for entry_id, _ in db.xrange(stream)]
    db.xgroup_create(stream, "g", id=ids[199])
    for retention, wanted in [
        (Retention(entries=1_000), (0, 0, False)),
        (Retention(entries=250), (50, 0, False)),
        (Retention(entries=50), (200, 0, True)),
        (Retention(entries=50, unread="drop"), (200, 50, False)),
        (Retention(entries=250, age_ms=now_ms - int(ids[80].split(b"-")[0])), (50, 0, False)),
        (Retention(age_ms=1), (200, 0, False)),
        (Retention(age_ms=1, unread="drop"), (200, 100, False)),
    ]:
        found = Keeper(client, [stream], retention).look()[stream]
        # The clock goes on: an age of so many ms takes a few more each time.
        assert found.trimmed >= wanted[0]
        assert found[1:3] == wanted[1:]
        assert not found.estimated
        copy = f"{stream}:{retention}"
        db.copy(stream, copy)
        kept = keep(client, copy, retention)
        assert kept.trimmed >= found.trimmed
        assert (kept.dropped, kept.full) == found[1:3]
        if retention.age_ms is None:
            assert kept.trimmed == wanted[0]


def test_a_keeper_trims_where_the_store_is_out_of_memory(stores: Any) -> None:
    """Regression: taking the lease was refused with OOM, so nothing was trimmed exactly where that would help."""
    for store in stores:
        with connect(store) as db:
            fill(db, "logs", 20_000, 10)
            read_all(store, "logs")
            db.config_set("maxmemory", db.info("memory")["used_memory"] - 100_000)
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                db.xadd("logs", {"r": "x", "n": 1})
            kept = keep(StoreClient(store), "logs", Retention(entries=100))
            assert (kept.length, kept.full) == (100, False)
            assert db.hkeys("logs:groups") == [b"g"]
            db.xadd("logs", {"r": "x", "n": 1})


@pytest.mark.parametrize(
    ("last", "below"),
    [
        ("5-0", "5-1"),
        ("5-9", "5-10"),
        ("5-1999", "5-2000"),
        ("5-999", "5-1000"),
        ("5-9007199254740993", "5-9007199254740994"),
        ("9007199254740993-1", "9007199254740993-2"),
        ("18446744073709551614-18446744073709551615", "18446744073709551615-0"),
        ("5-18446744073709551615", "6-0"),
        ("9-18446744073709551615", "10-0"),
        ("18446744073709551615-18446744073709551615", "18446744073709551615-18446744073709551615"),
    ],
)
def test_the_safe_id_is_the_next_one_at_any_length(
    store_url: str, db: Any, client: StoreClient, stream: str, last: str, below: str
) -> None:
    """A number of the script's language has 53 bits, an entry ID 128."""
    db.xadd(stream, {"r": "x", "n": 1}, id=last)
    db.xgroup_create(stream, "g", id=last)
    found = portion(client, stream, Retention(entries=1), Lease(f"{stream}:keeper"))
    assert found.safe == below


def test_a_group_that_was_set_back_holds_what_it_reads_again(
    store_url: str, db: Any, client: StoreClient, stream: str
) -> None:
    """Regression: with a pending entry beyond its position, a group was taken to have acked what lies between."""
    fill(db, stream, 100, 1)
    db.xgroup_create(stream, "g", id="0")
    db.xreadgroup("g", "c", {stream: ">"}, count=100)
    ids = [entry_id for entry_id, _ in db.xrange(stream)]
    db.xack(stream, "g", *ids[:90])
    db.xgroup_setid(stream, "g", ids[9])
    assert keep(client, stream, Retention(entries=1)).trimmed == 10


def test_a_tick_ends_after_so_many_portions_and_the_next_goes_on(
    store_url: str, db: Any, client: StoreClient, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "PORTIONS_MAX", 2)
    fill(db, stream, 25_000, 1)
    read_all(store_url, stream)
    first, second = (keep(client, stream, Retention(entries=100)) for _ in range(2))
    # A portion takes whole nodes, and the last node only exactly.
    assert 2 * TRIM_LIMIT - 200 <= first.trimmed <= 2 * TRIM_LIMIT
    assert first.trimmed + second.trimmed + db.xlen(stream) == 25_000
    keep(client, stream, Retention(entries=100))
    assert db.xlen(stream) == 100


def test_large_entries_are_counted_a_few_at_a_time(
    store_url: str, db: Any, client: StoreClient, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(db, stream, 1_000, 1)
    state = portion(client, stream, Retention(), Lease(f"{stream}:keeper"))
    last = db.xrevrange(stream, count=1)[0][0].decode()
    for bytes_max in (1, 4_096, 4_194_304):
        monkeypatch.setattr(trimming, "COUNT_BYTES", bytes_max)
        assert count_below(client, stream, last, 2_000, state) == 999
        assert count_below(client, stream, last, 10, state) == 10
        assert count_below(client, stream, "0-0", 10, state) == 0


def test_a_marker_that_an_earlier_keeper_left_is_cleared_by_a_single_look(
    store_url: str, db: Any, client: StoreClient, stream: str
) -> None:
    fill(db, stream, 10, 1)
    for value in ("100", "behind g"):
        db.set(f"{stream}:full", value)
        keep(client, stream, Retention(entries=100))
        assert db.exists(f"{stream}:full") == 0
    # While the stream is full, it is left to those who look again and again.
    db.set(f"{stream}:full", "100")
    keep(client, stream, Retention(entries=9))
    assert db.get(f"{stream}:full") == b"100"
