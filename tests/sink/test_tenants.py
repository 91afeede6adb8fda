"""Tenants: several streams over one store. What is wrong with one of them refuses what goes there, and nothing else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inlet.stream.client import StoreClient
from inlet.stream.keeper import Keeper
from inlet.stream.keys import full_key
from inlet.stream.retention import Retention
from tests.sink.support import Sink, Store, refused
from tests.support import entries, wait_until
from wsgi import metrics
from wsgi.problems import SinkError
from wsgi.sink.barred import LINES_MAX
from wsgi.sink.durability import RECEIVED, SYNCED

WELL, ILL = "well", "ill"
"""Two tenants, by the end of their streams' names. The default stream is the test's own."""


class Tenants:
    """A sink of three streams: the default one, ``well`` and ``ill``. ``name`` makes a stream's name of its end."""

    def __init__(self, url: str, stream: str, **options: Any) -> None:
        self.stream = stream
        self.names = [stream, self.name(WELL), self.name(ILL)]
        self.sink = Sink(url, stream, streams=lambda: self.names, **options)

    def name(self, end: str) -> str:
        return f"{self.stream}:{end}"

    def send(self, *ends: str) -> dict[str, str]:
        """Append a record for each tenant ("" is the default stream) to one batch; the reason of each outcome."""
        tickets: dict[str, Any] = {}
        outcomes = {}
        for end in ends:
            try:
                destination = self.name(end).encode() if end else None
                tickets[end] = self.sink.append([b'["e-1"]'], destination=destination)
            except SinkError as error:
                outcomes[end] = error.reason
        for end, ticket in tickets.items():
            try:
                ticket.commit()
                outcomes[end] = "stored"
            except SinkError as error:
                outcomes[end] = error.reason
        return outcomes

    def send_all(self) -> dict[str, str]:
        return self.send("", WELL, ILL)


FINE = {"": "stored", WELL: "stored", ILL: "stored"}


def alone(reason: str) -> dict[str, str]:
    return {**FINE, ILL: reason}


@pytest.fixture
def tenants(valkey: str, client: Any, stream: str) -> Iterator[Tenants]:
    """Three streams over the session's store, with a bound on the backlog and retention."""
    yield Tenants(valkey, stream, backlog_max=5, retention=True)
    for key in client.scan_iter(f"{stream}*"):
        client.delete(key)


def wrong_type(client: Any, key: str) -> Callable[[], object]:
    client.set(key, "a string")
    return lambda: client.delete(key)


def over_the_backlog(client: Any, key: str) -> Callable[[], object]:
    client.xgroup_create(key, "g", id="0", mkstream=True)
    for _ in range(6):
        client.xadd(key, {"r": '["e-1"]', "n": 1})
    rows = client.execute_command("XREADGROUP", "GROUP", "g", "c", "STREAMS", key, ">")
    found = rows[key.encode()][0] if isinstance(rows, dict) else rows[0][1]
    return lambda: client.xack(key, "g", *(entry_id for entry_id, _ in found))


def full(client: Any, key: str) -> Callable[[], object]:
    client.set(full_key(key), "behind g")
    return lambda: client.delete(full_key(key))


CAUSES = [(wrong_type, "sink-misconfigured"), (over_the_backlog, "backlog-full"), (full, "backlog-full")]


@pytest.mark.parametrize(("cause", "reason"), CAUSES)
def test_one_tenant_is_refused_alone_and_accepted_again(
    tenants: Tenants, client: Any, cause: Callable[..., Callable[[], object]], reason: str
) -> None:
    tenants.sink.check()
    assert tenants.send_all() == FINE
    client.delete(tenants.name(ILL))
    cure = cause(client, tenants.name(ILL))
    tenants.sink.check()  # ready: two streams take records
    assert tenants.sink.watcher.refused_streams().keys() == {tenants.name(ILL)}
    before = [client.xlen(name) for name in tenants.names[:2]]
    assert tenants.send_all() == alone(reason)
    assert [client.xlen(name) for name in tenants.names[:2]] == [length + 1 for length in before]
    assert not tenants.sink.circuit.state.open
    cure()
    wait_until(lambda: tenants.send(ILL) == {ILL: "stored"}, "the watcher finds it well")
    assert tenants.sink.watcher.refused_streams() == {}


@pytest.mark.parametrize("driven_by", ["blocking", "loop"])
def test_a_commit_that_one_tenant_fails_stores_the_others_and_bars_that_one(
    tenants: Tenants, client: Any, driven_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one batch, before any look has found it."""
    monkeypatch.setattr(Sink, "driven", driven_by)
    wrong_type(client, tenants.name(ILL))
    watcher = tenants.sink.watcher
    with watcher._look_lock:  # the thread cannot look
        assert tenants.send_all() == alone("sink-misconfigured")
        assert not tenants.sink.circuit.state.open
        with refused("sink-misconfigured", match="WRONGTYPE"):
            tenants.sink.append([b"1"], destination=tenants.name(ILL).encode())
        assert tenants.send("", WELL) == {"": "stored", WELL: "stored"}
    assert [client.xlen(name) for name in tenants.names[:2]] == [2, 2]


@pytest.mark.parametrize("driven_by", ["blocking", "loop"])
def test_at_received_a_tenant_whose_records_are_dropped_is_barred_alone(
    valkey: str, client: Any, stream: str, driven_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sink, "driven", driven_by)
    tenants = Tenants(valkey, stream, level=RECEIVED)
    wrong_type(client, tenants.name(ILL))
    dropped = metrics.RECORDS_DROPPED._value.get()

    def barred() -> bool:
        tenants.sink.loop.turn()
        tenants.sink.batches.settle()
        return bool(tenants.sink.circuit.state.barred)

    with tenants.sink.watcher._look_lock:
        assert tenants.send_all() == FINE  # answered before the store has replied
        wait_until(barred, "the replies are read")
    assert tenants.send_all() == alone("sink-misconfigured")
    assert not tenants.sink.circuit.state.open
    assert metrics.RECORDS_DROPPED._value.get() == dropped + 1
    wait_until(lambda: client.xlen(tenants.stream) == 2, "the others are stored")
    client.delete(*tenants.names)


def test_a_tenant_that_fails_at_a_higher_level_is_barred_and_the_level_is_not(stores: Any) -> None:
    store: Store = stores("--appendonly", "yes", "--appendfsync", "always")
    tenants = Tenants(store.url, "logs")
    tenants.sink.check()
    with tenants.sink.watcher._look_lock:
        wrong_type(store.client, tenants.name(ILL))
        good = tenants.sink.append([b"1"], SYNCED)
        bad = tenants.sink.append([b"1"], SYNCED, destination=tenants.name(ILL).encode())
        good.commit()
        with refused("sink-misconfigured", match="WRONGTYPE"):
            bad.commit()
        tenants.sink.append([b"1"], SYNCED).commit()
        assert tenants.send_all() == alone("sink-misconfigured")


def test_the_default_stream_is_refused_alone_too(tenants: Tenants, client: Any) -> None:
    wrong_type(client, tenants.stream)
    assert tenants.send_all() == {**FINE, "": "sink-misconfigured"}
    tenants.sink.check()
    assert tenants.send_all() == {**FINE, "": "sink-misconfigured"}
    assert not tenants.sink.circuit.state.open


def test_it_is_not_ready_once_no_stream_takes_records(tenants: Tenants, client: Any) -> None:
    for name in tenants.names[1:]:
        wrong_type(client, name)
    tenants.sink.check()
    full(client, tenants.stream)
    with refused("backlog-full"):  # the default stream's reason
        tenants.sink.check()
    assert len(tenants.sink.watcher.refused_streams()) == 3
    client.delete(tenants.name(WELL))
    tenants.sink.check()


def test_each_refusal_has_its_own_retry_after_and_detail(tenants: Tenants, client: Any) -> None:
    full(client, tenants.name(WELL))
    over_the_backlog(client, tenants.name(ILL))
    tenants.sink.watcher.look()
    with refused("backlog-full", match="INLET_RETENTION") as first:
        tenants.sink.append([b"1"], destination=tenants.name(WELL).encode())
    with refused("backlog-full", match="6 entries wait for consumers; no more above 5") as second:
        tenants.sink.append([b"1"], destination=tenants.name(ILL).encode())
    assert (first.value.retry_after, second.value.retry_after) == (10, 60)


def test_the_backlog_of_a_tenant_at_its_bound_and_one_past_it(tenants: Tenants, client: Any) -> None:
    for _ in range(5):
        client.xadd(tenants.name(ILL), {"r": '["e-1"]', "n": 1})
    tenants.sink.check()
    assert tenants.send(ILL) == {ILL: "stored"}
    tenants.sink.check()
    assert tenants.send(ILL) == {ILL: "backlog-full"}


def test_a_tenant_without_permission_is_refused_alone_until_it_is_given(stores: Any) -> None:
    store: Store = stores()

    def permit(*keys: str) -> None:
        rules = [f"~{key}" for key in keys]
        commands = ["+xadd", "+info", "+type", "+xinfo", "+xlen", "+get"]
        store.client.execute_command("ACL", "SETUSER", "inlet", "reset", "on", ">secret", *rules, *commands)

    permit("logs", "logs:well", "logs:well:*", "logs:full")
    tenants = Tenants(f"unix://inlet:secret@{store.path}", "logs", backlog_max=100_000, retention=True)
    with tenants.sink.watcher._look_lock:
        assert tenants.send_all() == alone("sink-misconfigured")
    tenants.sink.check()
    assert tenants.send_all() == alone("sink-misconfigured")
    refusal = tenants.sink.watcher.refused_streams()["logs:ill"]
    assert "NOPERM" in refusal.detail
    tenants.sink.check()
    store.client.execute_command("ACL", "SETUSER", "inlet", "~logs:ill", "~logs:ill:*")
    wait_until(lambda: tenants.send_all() == FINE, "the watcher finds that it may")


def test_what_concerns_the_whole_store_opens_the_circuit_for_all(stores: Any) -> None:
    store: Store = stores()
    tenants = Tenants(store.url, "logs")
    assert tenants.send_all() == FINE
    store.client.config_set("maxmemory", "1")
    assert set(tenants.send_all().values()) == {"sink-unavailable"}
    assert tenants.sink.circuit.state.open
    assert tenants.sink.watcher.refused_streams() == {}
    with refused("sink-unavailable", "store-full"):
        tenants.sink.check()
    store.client.config_set("maxmemory", "0")
    wait_until(lambda: tenants.send_all() == FINE, "the circuit closes")


def test_a_commit_with_both_kinds_of_failure_opens_the_circuit_and_bars(tenants: Tenants) -> None:
    """So that the one stays refused when the others are accepted again."""
    circuit = tenants.sink.circuit
    circuit.bar([(b"ill", SinkError("sink-misconfigured", "WRONGTYPE"))])
    circuit.fail(SinkError("sink-unavailable", "away"))
    assert circuit.state.open
    assert circuit.state.barred.keys() == {b"ill"}


def test_a_stream_added_by_a_reload_is_watched_and_a_removed_one_forgotten(tenants: Tenants, client: Any) -> None:
    sink = tenants.sink
    new = tenants.name("new")
    wrong_type(client, new)
    wrong_type(client, tenants.name(ILL))
    sink.check()
    assert sink.watcher.refused_streams().keys() == {tenants.name(ILL)}
    tenants.names = [tenants.stream, new]
    sink.check()
    assert sink.watcher.refused_streams().keys() == {new}
    assert tenants.send("", "new") == {"": "stored", "new": "sink-misconfigured"}
    tenants.names = [tenants.stream]
    sink.check()
    assert sink.watcher.refused_streams() == {}
    assert set(sink.watcher._backpressure._backlog) == {tenants.stream.encode()}
    assert len(sink.circuit.failing_for) == 0


def test_a_change_is_logged_once_for_its_stream(
    tenants: Tenants, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inlet")
    cure = wrong_type(client, tenants.name(ILL))
    with tenants.sink.watcher._look_lock:
        tenants.send_all()
    for _ in range(3):
        tenants.sink.check()
        tenants.send_all()
    cure()
    tenants.sink.check()
    assert tenants.send_all() == FINE
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    name = f"sink: stream {tenants.name(ILL)!r}: "
    # Regression: this was critical, which is for what concerns the whole store.
    assert [level for level, _ in lines] == ["ERROR", "INFO"]
    assert lines[0][1].startswith(name + "commits fail, reason=sink-misconfigured: the store refuses: WRONGTYPE")
    assert lines[1][1] == name + "commits succeed again"


def test_what_a_look_finds_is_logged_once_and_so_is_its_end(
    tenants: Tenants, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inlet")
    cure = full(client, tenants.name(ILL))
    for _ in range(3):
        tenants.sink.check()
        tenants.send_all()
    cure()
    tenants.sink.check()
    levels = [record.levelname for record in caplog.records]
    words = [record.getMessage().partition(f"sink: stream {tenants.name(ILL)!r}: ")[2] for record in caplog.records]
    assert levels == ["WARNING", "INFO"]
    assert words[0].startswith("refusing, reason=backlog-full: ")
    assert words[1] == "accepting again"


def test_with_one_stream_its_failure_is_the_stores_and_logged_as_before(
    valkey: str, client: Any, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    client.set(stream, "a string")
    subject = Sink(valkey, stream)
    with refused("sink-misconfigured"):
        subject.append([b"1"]).commit()
    assert subject.circuit.state.open
    assert caplog.records[0].getMessage().startswith("sink: commits fail, reason=sink-misconfigured: ")
    with refused("sink-misconfigured"):
        subject.check()
    assert subject.watcher.refused_streams() == {}
    client.delete(stream)


def test_a_thousand_streams_are_looked_at_in_one_round_trip(
    valkey: str, client: Any, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"{stream}:{number}" for number in range(1_000)]
    subject = Sink(valkey, names[0], backlog_max=1, retention=True, streams=lambda: names)
    subject.check()
    before = client.info("stats")["total_reads_processed"]
    began = time.monotonic()
    subject.check()
    assert time.monotonic() - began < 10  # 0.02 s on an idle machine
    assert client.info("stats")["total_reads_processed"] - before < 100  # it reads 16 KiB at a time
    with client.pipeline(transaction=False) as pipeline:
        for name in names[1:]:
            pipeline.set(name, "a string")
        pipeline.execute()
    subject.check()
    assert len(subject.watcher.refused_streams()) == 999
    assert len(caplog.records) == LINES_MAX + 1
    assert caplog.records[-1].getMessage() == f"sink: the same for {999 - LINES_MAX} more streams"
    subject.append([b"1"]).commit()
    client.delete(*names)


@pytest.mark.parametrize("driven_by", ["blocking", "loop"])
def test_a_record_is_in_its_tenants_stream_and_in_no_other(
    valkey: str, client: Any, stream: str, driven_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over batches of all kinds of mixtures, with one tenant that fails now and then: stored is what was accepted."""
    monkeypatch.setattr(Sink, "driven", driven_by)
    tenants = Tenants(valkey, stream)
    ill, aside = tenants.name(ILL), tenants.name("aside")
    accepted: dict[str, list[bytes]] = {name: [] for name in tenants.names}
    refusals: set[tuple[str, str]] = set()
    client.xgroup_create(ill, "g", mkstream=True)
    for turn in range(200):
        if turn % 20 == 10:
            client.rename(ill, aside)
            client.set(ill, "a string")
        if turn % 20 == 15:
            client.rename(aside, ill)
            tenants.sink.watcher.look()
        tickets = []
        for number in range(1 + turn % 7):
            name, line = tenants.names[(turn + number) % 3], b'["%d-%d"]' % (turn, number)
            try:
                tickets.append((name, line, tenants.sink.append([line], destination=name.encode())))
            except SinkError as error:
                refusals.add((name, error.reason))
        for name, line, ticket in tickets:
            try:
                ticket.commit()
                accepted[name].append(line)
            except SinkError as error:
                refusals.add((name, error.reason))
    assert refusals == {(ill, "sink-misconfigured")}
    for name, lines in accepted.items():
        found = [line for _, fields in entries(client, name) for line in fields[b"r"].split(b"\n")]
        assert found == lines
        assert len(found) > 100
    client.delete(*tenants.names)


def stored_of(name: str) -> float:
    metrics.LATE.flush()
    return float(metrics.STREAM_RECORDS_STORED.labels(name)._value.get())


def test_records_stored_are_counted_by_stream_and_never_of_an_unknown_one(tenants: Tenants) -> None:
    assert tenants.send_all() == FINE
    assert tenants.send("", "", "unknown") == {"": "stored", "unknown": "stored"}
    assert tenants.send(WELL) == {WELL: "stored"}
    metrics.LATE.flush()
    assert (stored_of(tenants.name(WELL)), stored_of(tenants.name(ILL))) == (2, 1)
    assert tenants.name("unknown") not in str(metrics.STREAM_RECORDS_STORED.collect())
    assert tenants.stream in str(metrics.STREAM_RECORDS_STORED.collect())


def test_a_full_stream_in_the_keepers_eyes_refuses_only_that_tenant(tenants: Tenants, client: Any, valkey: str) -> None:
    """The keeper's own marker, and its end once the group has acked everything."""
    cure = over_the_backlog(client, tenants.name(ILL))
    keeper = Keeper(StoreClient(valkey), lambda: tenants.names, Retention(entries=3), publish=True)
    keeper.tick()
    assert client.get(full_key(tenants.name(ILL))) == b"behind g"
    tenants.sink.check()
    with refused("backlog-full", match="INLET_RETENTION"):
        tenants.sink.append([b"1"], destination=tenants.name(ILL).encode())
    cure()
    keeper.tick()
    tenants.sink.check()
    assert tenants.send_all() == FINE
    assert client.xlen(tenants.name(ILL)) <= 4
