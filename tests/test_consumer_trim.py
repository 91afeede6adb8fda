"""consumer.trim over real stores: what goes, what never goes, and one keeper at a time."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from consumer import Options, Reader
from consumer.link import Link
from consumer.trim import LEASE_MS, Keeper, Kept, Retention, observe
from tests.consumer_support import add, command, connect, fill, pending, spawning
from tests.support import wait_until


@pytest.fixture
def db(store_url: str) -> Iterator[Any]:
    """redis-py on the store in turn."""
    with connect(store_url) as client:
        yield client


@pytest.fixture
def link(store_url: str) -> Iterator[Link]:
    link = Link(store_url)
    yield link
    link.close()


def keep(link: Link, stream: str, retention: Retention) -> Kept:
    keeper = Keeper(link, [stream], retention)
    kept = keeper.tick()
    assert kept is not None
    keeper.release()
    return kept[0]


def read_all(url: str, stream: str, group: str = "g") -> None:
    Reader(url, stream, group, options=Options(block_ms=50)).run(lambda record: None, forever=False)


def test_entries_over_the_bound_go_once_every_group_has_acked_them(
    store_url: str, db: Any, link: Link, stream: str
) -> None:
    fill(db, stream, 1_000, 1)
    read_all(store_url, stream, "a")
    db.xgroup_create(stream, "b", id="0")
    assert keep(link, stream, Retention(entries=300)) == Kept(stream, 1_000, db.memory_usage(stream), 0, 0, True)
    read_all(store_url, stream, "b")
    kept = keep(link, stream, Retention(entries=300))
    assert (kept.length, kept.trimmed, kept.dropped, kept.full, db.xlen(stream)) == (300, 700, 0, False, 300)


def test_a_pending_entry_and_all_after_it_stay(store_url: str, db: Any, link: Link, stream: str) -> None:
    fill(db, stream, 1_000, 1)
    db.xgroup_create(stream, "g", id="0")
    db.xreadgroup("g", "c", {stream: ">"}, count=500)
    ids = [entry_id for entry_id, _ in db.xrange(stream)]
    db.xack(stream, "g", *ids[:100], *ids[101:500])
    kept = keep(link, stream, Retention(entries=10))
    assert (kept.trimmed, kept.full, pending(db, stream, "g")) == (100, True, 1)
    assert db.xrange(stream, count=1)[0][0] == ids[100]


def test_without_a_group_nothing_goes(db: Any, link: Link, stream: str) -> None:
    fill(db, stream, 200, 1)
    kept = keep(link, stream, Retention(age_ms=1, entries=10))
    assert (kept.trimmed, kept.dropped, kept.full, db.xlen(stream)) == (0, 0, True, 200)


def test_unread_entries_go_where_that_was_said_and_are_counted(
    store_url: str, db: Any, link: Link, stream: str
) -> None:
    fill(db, stream, 1_000, 1)
    ids = [entry_id for entry_id, _ in db.xrange(stream)]
    db.xgroup_create(stream, "g", id=ids[599])
    kept = keep(link, stream, Retention(entries=300, unread="drop"))
    assert (kept.length, kept.trimmed, kept.dropped, kept.full) == (300, 600, 100, False)
    assert db.xrange(stream, count=1)[0][0] == ids[700]


def test_age_takes_what_is_old_and_acked_and_no_more(store_url: str, db: Any, link: Link, stream: str) -> None:
    now_ms = observe(link, stream).now_ms
    for number in range(500):
        db.xadd(stream, {"r": "x", "n": 1}, id=f"{now_ms - 100_000}-{number}")
    for number in range(500):
        db.xadd(stream, {"r": "x", "n": 1}, id=f"{now_ms - 1_000}-{number}")
    assert keep(link, stream, Retention(age_ms=50_000)).trimmed == 0
    read_all(store_url, stream)
    kept = keep(link, stream, Retention(age_ms=50_000))
    assert (kept.trimmed, kept.length, kept.full) == (500, 500, False)


def test_what_age_has_taken_is_not_taken_again_by_the_bound_on_entries(
    store_url: str, db: Any, link: Link, stream: str
) -> None:
    now_ms = observe(link, stream).now_ms
    for number in range(500):
        db.xadd(stream, {"r": "x", "n": 1}, id=f"{now_ms - 100_000}-{number}")
    for number in range(500):
        db.xadd(stream, {"r": "x", "n": 1}, id=f"{now_ms}-{number}")
    read_all(store_url, stream)
    kept = keep(link, stream, Retention(age_ms=50_000, entries=700))
    assert (kept.trimmed, kept.length) == (500, 500)


def test_a_full_stream_is_published_until_it_is_well_below_its_bound(
    store_url: str, db: Any, link: Link, stream: str
) -> None:
    fill(db, stream, 100, 1)
    keeper = Keeper(link, [stream], Retention(entries=99), publish=True)
    keeper.tick()
    assert (db.get(f"{stream}:full"), 0 < db.pttl(f"{stream}:full") <= LEASE_MS) == (b"100", True)
    # Within the bound again, but only just: producers are not told to and fro.
    db.xtrim(stream, maxlen=97, approximate=False)
    keeper.tick()
    assert db.exists(f"{stream}:full") == 1
    db.xtrim(stream, maxlen=94, approximate=False)
    keeper.tick()
    assert db.exists(f"{stream}:full") == 0
    keeper.release()


def test_memory_over_the_bound_goes(store_url: str, db: Any, link: Link, stream: str) -> None:
    fill(db, stream, 20_000)
    read_all(store_url, stream)
    before = db.memory_usage(stream)
    kept = keep(link, stream, Retention(memory_bytes=before // 2))
    assert 0.35 * before < kept.memory_bytes <= before // 2
    assert not kept.full


def test_more_entries_than_one_xtrim_may_take_go_in_portions(store_url: str, db: Any, link: Link, stream: str) -> None:
    fill(db, stream, 25_000, 1)
    read_all(store_url, stream)
    assert keep(link, stream, Retention(entries=100)).length == 100


def test_a_stream_that_does_not_exist_is_kept_without_a_word(link: Link, stream: str) -> None:
    assert keep(link, stream, Retention(entries=1, age_ms=1)) == Kept(stream, 0, 0, 0, 0, False)


def test_only_one_keeper_at_a_time_and_the_next_once_the_lease_is_given_back(
    store_url: str, db: Any, link: Link, stream: str
) -> None:
    other_link = Link(store_url)
    first, second = Keeper(link, [stream], Retention(entries=1)), Keeper(other_link, [stream], Retention(entries=1))
    assert first.tick() is not None
    assert second.tick() is None
    assert first.tick() is not None, "renewed"
    assert 0 < db.pttl(f"{stream}:keeper") <= LEASE_MS
    second.release()
    assert second.tick() is None, "only the holder gives it back"
    first.release()
    assert second.tick() is not None
    second.release()
    other_link.close()


def test_a_lease_whose_keeper_died_ends_by_itself(store_url: str, db: Any, link: Link, stream: str) -> None:
    db.set(f"{stream}:keeper", "of the dead", px=100)
    keeper = Keeper(link, [stream], Retention(entries=1))
    wait_until(keeper.hold, "the lease's end")
    db.set(f"{stream}:keeper", "of another")
    assert keeper.tick() is None
    assert db.get(f"{stream}:keeper") == b"of another"


def test_looking_says_what_is_full_and_changes_nothing(store_url: str, db: Any, link: Link, stream: str) -> None:
    fill(db, stream, 200, 1)
    keeper = Keeper(link, [stream], Retention(entries=100))
    assert keeper.look()[stream].full
    assert (db.xlen(stream), db.exists(f"{stream}:keeper")) == (200, 0)


def test_the_command_trims_what_is_acked_and_refuses_the_rest_with_exit_code_4(
    valkey: str, client: Any, stream: str
) -> None:
    fill(client, stream, 1_000, 1)
    dry = command(valkey, stream, "trim", "--retention", "entries=100", "--dry-run", "--json")
    assert json.loads(dry.stdout) == {"key": stream, "trims": [], "full": True}
    refused = command(valkey, stream, "trim", "--retention", "entries=100")
    assert (refused.returncode, client.xlen(stream)) == (4, 1_000)
    assert "full" in refused.stdout
    read_all(valkey, stream)
    done = command(valkey, stream, "trim", "--retention", "entries=100", "--json")
    assert (done.returncode, json.loads(done.stdout)["trimmed"], client.xlen(stream)) == (0, 900, 100)
    assert client.exists(f"{stream}:keeper") == 0


def test_the_command_drops_unread_entries_only_when_told_so(valkey: str, client: Any, stream: str) -> None:
    fill(client, stream, 1_000, 1)
    done = command(valkey, stream, "trim", "--retention", "entries=100", "--unread", "drop")
    assert (done.returncode, client.xlen(stream), "900 UNREAD entries dropped" in done.stdout) == (0, 100, True)


def test_the_command_leaves_the_stream_to_the_keeper_that_has_the_lease(valkey: str, client: Any, stream: str) -> None:
    add(client, stream, "a")
    client.set(f"{stream}:keeper", "another", px=60_000)
    result = command(valkey, stream, "trim", "--retention", "entries=100")
    assert (result.returncode, "another keeper" in result.stderr) == (4, True)


def test_trim_watch_keeps_the_stream_within_its_bounds_until_term(valkey: str, client: Any, stream: str) -> None:
    with spawning(valkey, stream) as spawn:
        words = ("trim", "--retention", "entries=100", "--watch", "--every", "0.1")
        process = spawn("-m", "consumer", *words, stdout=subprocess.PIPE)
        fill(client, stream, 1_000, 1)
        read_all(valkey, stream)
        wait_until(lambda: client.xlen(stream) == 100, "the trim")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert (process.returncode, client.exists(f"{stream}:keeper")) == (0, 0)
