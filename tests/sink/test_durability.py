"""The four levels over stores with and without an append-only file or a replica; the circuit; the bounds of a batch."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest
import redis

from tests.sink.support import Sink, Store, once_closed, refused
from tests.support import entries, wait_until
from wsgi.problems import PROBLEMS, SinkError
from wsgi.sink.durability import RECEIVED, REPLICATED, STORED, SYNCED
from wsgi.sink.link import UNREAD_REPLIES_MAX

pytestmark = pytest.mark.usefixtures("driven")


def adder(store: Store, stream: str, *rights: str) -> str:
    """Make a user who may add to the stream, and has these rights; return the URL to connect with."""
    store.client.execute_command("ACL", "SETUSER", "adder", "on", ">pw", f"~{stream}", "+xadd", *rights)
    return f"unix://adder:pw@{store.path}"


def test_synced_waits_for_the_append_only_file(stores: Any, stream: str) -> None:
    store = stores("--appendonly", "yes", "--appendfsync", "always")
    subject = Sink(store.url, stream, level=SYNCED)
    ticket = subject.append([b"1"])
    assert ticket.level == SYNCED
    ticket.commit()
    subject.check()
    assert store.client.xlen(stream) == 1


def unreachable(subject: Sink, store_client: Any, stream: str, match: str) -> None:
    """The default level cannot be reached: the first commit, readiness, and each append after that say so."""
    with refused("sink-unavailable", match=match):
        subject.append([b"1"]).commit()
    with refused("sink-unavailable", match=match):
        subject.check()
    with refused("sink-unavailable", match=match):
        subject.append([b"2"])
    assert store_client.xlen(stream) == 0


@pytest.mark.parametrize("fsync", ["everysec", "no"])
def test_synced_over_a_store_that_does_not_fsync_always_is_refused(stores: Any, stream: str, fsync: str) -> None:
    """Regression: WAITAOF of Valkey 9.1 replies before the fsync under everysec, which made false 202s."""
    store = stores("--appendonly", "yes", "--appendfsync", fsync)
    unreachable(Sink(store.url, stream, level=SYNCED), store.client, stream, f"it is {fsync}")


def test_synced_where_the_setting_cannot_be_read_is_refused(stores: Any, stream: str) -> None:
    store = stores("--appendonly", "yes", "--appendfsync", "always")
    subject = Sink(adder(store, stream, "+waitaof"), stream, level=SYNCED)
    unreachable(subject, store.client, stream, "CONFIG GET is refused")


def test_synced_without_an_append_only_file_is_refused_and_not_ready(stores: Any, stream: str) -> None:
    store = stores("--appendonly", "no")
    unreachable(Sink(store.url, stream, level=SYNCED), store.client, stream, "it is everysec")
    store.client.config_set("appendfsync", "always")
    unreachable(Sink(store.url, stream, level=SYNCED), store.client, stream, "appendonly is disabled")


def test_synced_on_a_server_that_has_no_waitaof_says_so(redis7: str, stream: str) -> None:
    with redis.Redis.from_url(redis7) as client:
        client.config_set("appendfsync", "always")
        unreachable(Sink(redis7, stream, level=SYNCED), client, stream, "unknown command")


def test_a_default_level_that_can_be_reached_again_is_not_refused_any_longer(stores: Any, stream: str) -> None:
    store = stores("--appendonly", "yes")
    subject = Sink(store.url, stream, level=SYNCED)
    unreachable(subject, store.client, stream, "it is everysec")
    store.client.config_set("appendfsync", "always")
    once_closed(subject, b"3").commit()
    subject.check()
    assert store.client.xlen(stream) == 1


@pytest.mark.parametrize("looked", [True, False], ids=["after a look", "before any look"])
@pytest.mark.parametrize(
    ("level", "match"), [(SYNCED, "it is everysec"), (REPLICATED, r"replicated needs 1 .*; the store has 0")]
)
def test_a_level_that_cannot_be_reached_was_stored_all_the_same_and_reported_as_retryable(
    level: int, match: str, looked: bool, stores: Any, stream: str
) -> None:
    """Regression: four clients that believed it stored 22,242 records in six seconds."""
    store = stores("--appendonly", "no")
    subject = Sink(store.url, stream)
    if looked:
        subject.check()
        plain = subject.append([b"1"])
        with refused("durability-unavailable", match=match):
            subject.append([b"2"], level)
    else:
        with subject.watcher._look_lock:  # so that none happens
            plain, more = subject.append([b"1"]), subject.append([b"2"], level)
            with refused("durability-unavailable", match=match):
                more.commit()
    plain.commit()
    assert not subject.circuit.state.open  # what only some ask for is not the store's failure
    subject.append([b"3"]).commit()
    assert [fields[b"r"] for _, fields in entries(store.client, stream)] == [b"1", b"3"]
    assert PROBLEMS["durability-unavailable"].retryable is False


def test_replicated_without_the_right_to_wait_was_stored_and_answered_as_a_failure(
    pair: tuple[Store, Store], stream: str
) -> None:
    """Regression: each request was stored, and told to try again."""
    primary, _ = pair
    url = adder(primary, stream, "+info")
    subject = Sink(url, stream)
    subject.check()
    with refused("durability-unavailable", match="the store cannot promise replicated"):
        subject.append([b"1"], REPLICATED)
    subject = Sink(url, stream, level=REPLICATED)
    unreachable(subject, primary.client, stream, "the store cannot promise replicated")


def test_a_level_may_be_tried_where_the_store_does_not_say_whether_it_can_be_reached(
    pair: tuple[Store, Store], stream: str
) -> None:
    primary, replica = pair
    subject = Sink(adder(primary, stream, "+wait"), stream)
    subject.check()
    subject.append([b"1"], REPLICATED).commit()
    assert replica.client.xlen(stream) == 1
    with refused("durability-unavailable", match="CONFIG GET is refused"):
        subject.append([b"2"], SYNCED)


def test_what_is_stored_and_not_confirmed_is_never_called_unavailable(stores: Any, stream: str) -> None:
    """The store changes between two looks: the row of durability-unavailable promises that nothing was stored."""
    store = stores("--appendonly", "yes", "--appendfsync", "always")
    subject = Sink(store.url, stream)
    with subject.watcher._look_lock:
        subject.append([b"1"], SYNCED).commit()
        store.client.config_set("appendonly", "no")
        late = subject.append([b"2"], SYNCED)
        with refused("durability-timeout", match="appendonly is disabled"):
            late.commit()
    assert store.client.xlen(stream) == 2
    subject.check()
    with refused("durability-unavailable"):
        subject.append([b"3"], SYNCED)


def test_a_replica_that_is_lost_makes_the_default_level_unreachable_until_it_is_back(
    pair: tuple[Store, Store], stream: str
) -> None:
    primary, replica = pair
    subject = Sink(primary.url, stream, level=REPLICATED)
    subject.append([b"1"]).commit()
    replica.client.replicaof("NO", "ONE")
    wait_until(lambda: not primary.client.info("replication")["connected_slaves"], "the replica has left")
    subject.watcher.look()
    with refused("sink-unavailable", match="the store has 0"):
        subject.ready()
    with refused("sink-unavailable", match="the store has 0"):
        subject.append([b"2"])
    assert primary.client.xlen(stream) == 1
    replica.client.replicaof("127.0.0.1", primary.client.config_get("port")["port"])
    once_closed(subject, b"3").commit()


def test_a_request_that_asks_for_less_gets_the_default(valkey: str, stream: str) -> None:
    subject = Sink(valkey, stream, level=SYNCED)
    with subject.watcher._look_lock:  # it would find that this store cannot reach the level
        assert [subject.append([b"1"], level).level for level in (RECEIVED, STORED)] == [SYNCED, SYNCED]


def test_replicated_counts_the_replicas_and_recovers(pair: tuple[Store, Store], stream: str) -> None:
    primary, replica = pair
    subject = Sink(primary.url, stream, level=REPLICATED, commit_timeout_ms=3_000)
    subject.check()
    subject.append([b"1"]).commit()
    assert replica.client.xlen(stream) == 1
    replica.process.send_signal(signal.SIGSTOP)
    with subject.watcher._look_lock:  # a look would close the circuit: WAIT counts for what its connection wrote
        with refused("durability-timeout", match="0 of 1 replicas"):
            subject.append([b"2"]).commit()
        with refused("durability-timeout", "sink-unavailable", match=r"0 of 1 replicas|not tried"):
            subject.ready()
    replica.process.send_signal(signal.SIGCONT)
    once_closed(subject, b"3").commit()
    assert replica.client.xlen(stream) == 3


def test_received_answers_without_a_reply_and_counts_it_later(valkey: str, client: Any, stream: str) -> None:
    subject = Sink(valkey, stream, level=RECEIVED)
    for count in range(1_500):
        subject.append([b"%d" % count]).commit()
        assert subject.links[RECEIVED]._unread <= UNREAD_REPLIES_MAX
    assert subject.append([b"last"], STORED).level == STORED
    subject.append([b"stored"], STORED).commit()

    def settled() -> bool:
        subject.batches.settle()
        subject.loop.turn()
        return not subject.links[RECEIVED].flights

    wait_until(settled, "every reply is read")
    assert client.xlen(stream) == 1_501  # the last two share an entry


def test_received_reports_records_that_were_dropped_and_opens_the_circuit(
    client: Any, valkey: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    client.set(stream, "a string")
    subject = Sink(valkey, stream, level=RECEIVED)

    def is_refused() -> bool:
        try:
            subject.append([b"1"]).commit()
        except SinkError:
            return True
        return False

    wait_until(is_refused, "the reply of an earlier commit is read, and later ones are refused")
    assert "WRONGTYPE" in caplog.text
    client.delete(stream)


def test_a_record_dropped_at_received_shows_with_no_request_after_it(
    client: Any, valkey: str, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    client.set(stream, "a string")
    subject = Sink(valkey, stream, level=RECEIVED)
    subject.append([b"1"]).commit()

    def is_open() -> bool:
        subject.loop.turn()
        return subject.circuit.state.open

    wait_until(is_open, "the watcher or the loop reads the reply")
    with refused("sink-misconfigured", match=r"WRONGTYPE|holds a string"):
        subject.append([b"2"])
    assert "succeed again" not in caplog.text
    client.delete(stream)
    once_closed(subject, b"3").commit()


def test_who_waits_behind_a_commit_that_failed_is_refused_without_another_wait(
    stores: Any, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sink, "driven", "blocking")  # tests/sink/test_in_flight.py has it in a loop
    store = stores()
    subject = Sink(store.url, stream, commit_timeout_ms=2_000)
    subject.append([b"0"]).commit()
    store.process.send_signal(signal.SIGSTOP)
    first = subject.append([b"1"])
    outcomes: list[Exception] = []

    def commit(ticket: Any) -> None:
        try:
            ticket.commit()
        except SinkError as error:
            outcomes.append(error)

    one = threading.Thread(target=commit, args=(first,))
    one.start()
    wait_until(lambda: subject.links[STORED].flights, "the first commit has been sent")
    second = subject.append([b"2"])
    commit(second)
    one.join()
    store.process.send_signal(signal.SIGCONT)
    assert sorted(error.reason for error in outcomes if isinstance(error, SinkError)) == [
        "sink-outcome-unknown",
        "sink-unavailable",
    ]
    once_closed(subject, b"3").commit()
    assert [f[b"r"] for _, f in store.client.xrange(stream)] in ([b"0", b"1", b"3"], [b"0", b"3"], [b"0", b"3", b"1"])


def test_the_circuit_closes_by_itself_with_no_request_in_between(stores: Any, stream: str) -> None:
    store = stores()
    subject = Sink(store.url, stream)
    store.client.config_set("maxmemory", 1)
    with refused("sink-unavailable"):
        subject.append([b"1"]).commit()
    store.client.config_set("maxmemory", 0)
    wait_until(lambda: subject.circuit.state.refusal is None, "the watcher closes the circuit")
    subject.append([b"2"]).commit()


@pytest.mark.parametrize("bound", ["bytes", "requests"])
def test_a_batch_takes_what_fits_and_refuses_one_past_it(bound: str, valkey: str, client: Any, stream: str) -> None:
    subject = (
        Sink(valkey, stream, inflight_bytes_max=8)
        if bound == "bytes"
        else Sink(valkey, stream, inflight_requests_max=2)
    )
    tickets = [subject.append([b"aaaa"]), subject.append([b"bbbb"])]
    with refused("overloaded"):
        subject.append([b"c"])
    for ticket in tickets:
        ticket.commit()
    subject.append([b"cccc" * 100]).commit()  # alone, none is too large
    assert client.xlen(stream) == 2


def test_an_evicting_store_is_not_ready(stores: Any, stream: str) -> None:
    store = stores("--maxmemory-policy", "allkeys-lru")
    with refused("sink-misconfigured", match="set noeviction"):
        Sink(store.url, stream).check()


def test_a_user_who_may_only_add_is_ready(stores: Any, stream: str) -> None:
    store = stores()
    url = adder(store, stream)
    subject = Sink(
        url, stream, entry_bytes_max=1_000, inflight_bytes_max=1_000, inflight_requests_max=10, backlog_max=10**6
    )
    subject.check()
    subject.append([b"1"]).commit()
    assert store.client.xlen(stream) == 1


def test_a_cause_that_changes_while_the_circuit_is_open_is_logged(
    stores: Any, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: the first cause stayed for good, and a missing password was never named."""
    store = stores()
    subject = Sink(store.url, stream, commit_timeout_ms=2_000)
    subject.append([b"0"]).commit()
    store.process.send_signal(signal.SIGSTOP)
    with refused("sink-outcome-unknown"):
        subject.append([b"1"]).commit()
    # While it cannot be probed, the cause becomes another one.
    with subject.watcher._look_lock:
        store.process.send_signal(signal.SIGCONT)
        store.client.execute_command("ACL", "SETUSER", "default", "-xadd")
    wait_until(lambda: subject.circuit.state.failing == "sink-misconfigured", "the probe's finding is the reason now")
    assert "NOPERM" in caplog.text
    with refused("sink-misconfigured", match="NOPERM"):
        subject.append([b"2"])
    store.client.execute_command("ACL", "SETUSER", "default", "+@all")
    once_closed(subject, b"3").commit()
