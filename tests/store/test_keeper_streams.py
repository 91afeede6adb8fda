"""The keeper over several streams: one lease for all, a list read anew, and a bad stream that stops no other."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from inlet.stream.client import StoreClient
from inlet.stream.errors import StoreRefuses
from inlet.stream.keeper import WAITING_STREAMS, Keeper, Kept
from inlet.stream.keys import full_key, groups_key, keeper_key
from inlet.stream.retention import Hold, Retention
from tests.consumer.support import command, fill
from tests.stream.support import read_all
from tests.support import DEADLINE_SECONDS, wait_until
from wsgi import metrics
from wsgi.store import keeper as thread
from wsgi.store.keeper import LINES_MAX, Reports

KEEP = Retention(entries=10)


@pytest.fixture
def client(store_url: str) -> Iterator[StoreClient]:
    """A keeper's connection."""
    client = StoreClient(store_url)
    yield client
    client.close()


def filled(db: Any, store_url: str, *names: str) -> None:
    for name in names:
        fill(db, name, 50, 1)
        read_all(store_url, name)


def test_every_stream_is_trimmed_under_one_lease(store_url: str, db: Any, client: StoreClient, stream: str) -> None:
    names = [stream, f"{stream}:a", f"{stream}:b"]
    filled(db, store_url, *names)
    first, second = Keeper(client, lambda: names, KEEP), Keeper(client, lambda: names, KEEP)
    kept = first.tick()
    assert kept is not None
    assert [(row.key, row.trimmed) for row in kept] == [(name, 40) for name in names]
    assert [db.exists(keeper_key(name)) for name in names] == [1, 0, 0]
    assert second.tick() is None
    assert db.hkeys(groups_key(names[2])) == [b"g"]


def test_a_stream_of_the_wrong_type_stopped_the_trimming_of_the_others(
    store_url: str, db: Any, client: StoreClient, stream: str
) -> None:
    """Regression: the first refusal ended the look."""
    names = [f"{stream}:bad", f"{stream}:a", f"{stream}:worse", f"{stream}:b"]
    for name in names[::2]:
        db.set(name, "a string")
    filled(db, store_url, *names[1::2])
    keeper = Keeper(client, lambda: names, KEEP)
    kept = keeper.tick()
    assert kept is not None
    assert [(row.key, row.trimmed) for row in kept] == [(name, 40) for name in names[1::2]]
    assert keeper.refused.keys() == set(names[::2])
    db.delete(names[0])
    keeper.tick()
    assert keeper.refused.keys() == {names[2]}


def test_a_lone_stream_of_the_wrong_type_is_raised_as_before(db: Any, client: StoreClient, stream: str) -> None:
    db.set(stream, "a string")
    with pytest.raises(StoreRefuses, match="WRONGTYPE"):
        Keeper(client, [stream], KEEP).tick()


def test_a_stream_added_later_is_trimmed_and_a_removed_one_is_left_alone(
    store_url: str, db: Any, client: StoreClient, stream: str
) -> None:
    names = [stream, f"{stream}:gone"]
    filled(db, store_url, f"{stream}:new")
    keeper = Keeper(client, lambda: names, KEEP)
    keeper.tick()
    names[1] = f"{stream}:new"
    filled(db, store_url, f"{stream}:gone")
    keeper.tick()
    assert (db.xlen(f"{stream}:new"), db.xlen(f"{stream}:gone")) == (10, 50)
    assert keeper._groups.keys() == {stream, f"{stream}:new"}


def test_one_full_stream_is_marked_and_no_other(store_url: str, db: Any, client: StoreClient, stream: str) -> None:
    names = [stream, f"{stream}:a"]
    filled(db, store_url, stream)
    fill(db, names[1], 50, 1)
    Keeper(client, lambda: names, KEEP, publish=True).tick()
    assert [db.exists(full_key(name)) for name in names] == [0, 1]


@pytest.mark.parametrize("others", [WAITING_STREAMS, WAITING_STREAMS + 1])
def test_a_keeper_that_waits_looks_at_so_many_streams_in_a_tick_and_at_all_in_turn(
    db: Any, client: StoreClient, stream: str, others: int
) -> None:
    names = [stream, *(f"{stream}:{number}" for number in range(others))]
    for name in names:
        db.xgroup_create(name, "g", mkstream=True)
    holder, waiting = Keeper(client, lambda: names, KEEP), Keeper(client, lambda: names, KEEP)
    holder.tick()

    def known() -> int:
        return sum(1 for groups in waiting._groups.values() if groups)

    assert waiting.tick() is None
    assert known() == min(len(names), WAITING_STREAMS + 1)
    assert waiting.tick() is None
    assert known() == len(names)
    holder.release()
    kept = waiting.tick()
    assert kept is not None
    assert len(kept) == len(names)
    db.delete(*names, *(groups_key(name) for name in names))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is how the thread ends
def test_the_thread_trims_all_streams_and_those_that_a_reload_adds(
    store_url: str, db: Any, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inlet")
    names = [stream]
    db.set(f"{stream}:bad", "a string")
    filled(db, store_url, stream, f"{stream}:new")
    before = metrics.ENTRIES_TRIMMED._value.get()

    def streams() -> tuple[str, ...]:
        if not names:
            raise SystemExit  # ends the thread, and nothing else
        return tuple(names)

    started = thread.start(store_url, streams, KEEP, every_seconds=0.05)
    wait_until(lambda: db.xlen(stream) == 10, "the thread trims")
    assert db.xlen(f"{stream}:new") == 50
    names += [f"{stream}:bad", f"{stream}:new"]
    wait_until(lambda: db.xlen(f"{stream}:new") == 10, "the thread trims what was added")
    wait_until(lambda: metrics.ENTRIES_TRIMMED._value.get() - before >= 80, "it is counted")
    db.delete(f"{stream}:bad")
    trims_again = f"keeper: stream '{stream}:bad': trims again"
    wait_until(lambda: trims_again in [record.getMessage() for record in caplog.records], "it is logged")
    lines = [record.getMessage() for record in caplog.records if f"{stream}:bad" in record.getMessage()]
    assert len(lines) == 2
    assert lines[0].startswith(f"keeper: stream '{stream}:bad': cannot trim: the store refuses: WRONGTYPE")
    names.clear()
    started.join(DEADLINE_SECONDS)


def kept(key: str, *, full: bool = False, dropped: int = 0) -> Kept:
    return Kept(key, 10, 1_000, 0, dropped, full, Hold("behind", "g"))


def test_a_lone_stream_is_logged_without_its_name_and_one_of_several_with_it(caplog: pytest.LogCaptureFixture) -> None:
    alone, several = Reports(), Reports()
    for _ in range(2):
        alone.looked([kept("logs", full=True)], {}, ["logs"])
        several.looked([kept("logs"), kept("a", full=True)], {}, ["logs", "a"])
    alone.looked([kept("logs", dropped=2)], {}, ["logs"])
    assert [record.getMessage() for record in caplog.records] == [
        "keeper: unread entries fill INLET_RETENTION; group 'g' has acked the least",
        "keeper: stream 'a': unread entries fill INLET_RETENTION; group 'g' has acked the least",
        "keeper: dropped 2 entries that some group had not acked (INLET_RETENTION_UNREAD)",
    ]


def test_what_a_look_logs_is_bounded_and_what_is_said_of_removed_streams_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = [str(number) for number in range(LINES_MAX + 5)]
    reports = Reports()
    reports.looked([kept(name, full=True) for name in names], {}, names)
    assert len(caplog.records) == LINES_MAX + 1
    assert caplog.records[-1].getMessage() == "keeper: 5 more streams changed"
    reports.looked([], {"0": StoreRefuses("no"), "1": StoreRefuses("no")}, names)
    reports.looked([], {}, names[:1])
    assert (len(reports._held), len(reports._refused)) == (1, 1)


def test_inlet_trim_trims_the_other_partitions_and_reports_the_bad_one(store_url: str, db: Any, stream: str) -> None:
    good, bad = f"{stream}:{{1}}", f"{stream}:{{0}}"
    db.set(bad, "a string")
    filled(db, store_url, good)
    done = command(store_url, stream, "trim", "--retention", "entries=10", "--partitions", "2")
    assert done.returncode != 0
    assert "WRONGTYPE" in done.stderr
    assert db.xlen(good) == 10
