"""Commits in flight, driven by an event loop: nothing that the store does holds the loop."""

from __future__ import annotations

import signal
import socket
import threading
import time
from typing import Any

import pytest

from tests.sink.loop import Pending
from tests.sink.support import Sink, Store, driver, once_closed, refused
from tests.support import entries, wait_until
from wsgi import metrics
from wsgi.sink import link, waits
from wsgi.sink.batches import LARGE_BYTES
from wsgi.sink.circuit import Circuit
from wsgi.sink.durability import RECEIVED, REPLICATED, STORED
from wsgi.sink.flight import Flight
from wsgi.sink.lane import Lane
from wsgi.sink.link import Link

HELD_SECONDS_MAX = 2.0
"""How long a call may hold the loop, on a machine with both cores busy. What would wait, waits for 20 s here."""
LONG_MS = 20_000
BULK = [b"%06d" % number + b"x" * 494 for number in range(10_000)]  # 5 MB
LARGE = [b"y" * (LARGE_BYTES + 1)]


def begin(subject: Sink, *lines: bytes, level: int = RECEIVED) -> list[Pending]:
    """A request for each line, appended and then iterated for the first time."""
    tickets = [subject.batches.append([line], level) for line in lines]
    return subject.loop.begin(*tickets)


def warm(subject: Sink, level: int = RECEIVED) -> None:
    """Connect, with a first commit."""
    assert subject.loop.finish(*begin(subject, b"0", level=level)) == [None]


def warm_large(subject: Sink) -> None:
    """Connect the lane of large requests, with a first commit."""
    assert subject.loop.finish(*subject.loop.begin(subject.batches.append(list(LARGE)))) == [None]


def stored(client: Any, stream: str) -> list[bytes]:
    """The records of each entry."""
    return [fields[b"r"] for _, fields in entries(client, stream)]


def test_what_arrives_during_a_commit_is_the_next_batch_and_is_sent_when_the_reply_comes(
    stores: Any, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "COMMITS_IN_FLIGHT_MAX", 1)
    store = stores()
    subject = Sink(store.url, stream, commit_timeout_ms=LONG_MS)
    warm(subject)
    store.process.send_signal(signal.SIGSTOP)
    pending = [one for number in range(1, 9) for one in begin(subject, b"%d" % number)]
    for _ in range(5):
        subject.loop.turn()
    assert not any(one.done for one in pending)
    store.process.send_signal(signal.SIGCONT)
    assert subject.loop.finish(*pending) == [None] * 8
    assert stored(store.client, stream) == [b"0", b"1", b"2\n3\n4\n5\n6\n7\n8"]
    assert [one.iterations for one in pending] == [2] * 8
    assert pending[7].ticket.addresses() == [(entries(store.client, stream)[2][0], 6, False)]
    assert subject.loop.longest_seconds < HELD_SECONDS_MAX


@pytest.mark.parametrize("flights", [1, 2])
def test_so_many_commits_are_in_flight_at_most(
    flights: int, stores: Any, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "COMMITS_IN_FLIGHT_MAX", flights)
    store = stores()
    subject = Sink(store.url, stream, commit_timeout_ms=LONG_MS)
    warm(subject)
    store.process.send_signal(signal.SIGSTOP)
    pending = [one for number in range(1, 6) for one in begin(subject, b"%d" % number)]
    assert len(subject.links[STORED].flights) == flights
    store.process.send_signal(signal.SIGCONT)
    assert subject.loop.finish(*pending) == [None] * 5
    rest = [b"1", b"2\n3\n4\n5"] if flights == 1 else [b"1", b"2", b"3\n4\n5"]
    assert stored(store.client, stream) == [b"0", *rest]


@pytest.mark.parametrize("flights", [1, 2])
def test_a_store_that_stops_holds_nobody_up_and_after_the_deadline_everything_open_is_refused(
    flights: int, stores: Any, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "COMMITS_IN_FLIGHT_MAX", flights)
    store = stores()
    subject = Sink(store.url, stream, commit_timeout_ms=3_000)
    warm(subject)
    store.process.send_signal(signal.SIGSTOP)
    pending = [one for number in range(1, 6) for one in begin(subject, b"%d" % number)]
    assert subject.loop.finish(*pending) == ["sink-outcome-unknown"] * flights + ["sink-unavailable"] * (5 - flights)
    assert subject.circuit.state.open
    with refused("sink-unavailable", match="not tried, since a commit failed just now"):
        subject.batches.append([b"6"])
    assert subject.loop.longest_seconds < HELD_SECONDS_MAX
    assert not subject.loop.watched
    store.process.send_signal(signal.SIGCONT)
    once_closed(subject, b"7")
    warm(subject)
    found = b"\n".join(stored(store.client, stream)).split(b"\n")
    assert len(found) == len(set(found) - {b"0"}) + 2  # nothing was sent twice: warm() wrote b"0" twice
    assert not set(found) & {b"%d" % number for number in range(1 + flights, 6)}


def test_a_reply_that_is_there_is_not_late_though_this_process_was_held_up(valkey: str, stream: str) -> None:
    """A loop that was stopped for longer than the deadline hears of the deadline before it hears of the socket."""
    subject = Sink(valkey, stream)
    warm(subject)
    pending = begin(subject, b"1")
    (watch,) = subject.loop.watched.values()
    wire = subject.links[STORED]._wire
    assert wire is not None
    assert wire.wait(60_000)
    watch.callback("late")
    assert subject.loop.finish(*pending) == [None]


def test_a_big_batch_to_a_stopped_store_holds_nobody_up_and_is_stored_whole(stores: Any, stream: str) -> None:
    store = stores()
    subject = Sink(store.url, stream, commit_timeout_ms=LONG_MS, inflight_bytes_max=20_000_000)
    warm(subject)
    warm_large(subject)
    store.process.send_signal(signal.SIGSTOP)
    subject.loop.longest_seconds = 0
    pending = subject.loop.begin(subject.batches.append(list(BULK)), subject.batches.append([b"last"]))
    for _ in range(20):
        subject.loop.turn()
    flight = subject.links[STORED]._writing
    assert flight is not None
    assert flight.taken < len(flight.pieces)  # the entries that have no room are not packed yet
    store.process.send_signal(signal.SIGCONT)
    assert subject.loop.finish(*pending) == [None, None]
    assert subject.loop.longest_seconds < HELD_SECONDS_MAX
    lines = b"\n".join(stored(store.client, stream)).split(b"\n")
    lines.remove(b"last")  # over another connection, so before or behind the others
    assert lines == [b"0", *LARGE, *BULK]
    found = dict(entries(store.client, stream))
    addresses = pending[0].ticket.addresses()
    assert [found[entry_id][b"r"].split(b"\n")[line] for entry_id, line, _ in addresses[::999]] == BULK[::999]


@pytest.mark.parametrize("level", [STORED, REPLICATED])
def test_a_large_request_made_the_others_wait_on_their_connection(valkey: str, stream: str, level: int) -> None:
    """Regression: the replies to small commits came behind those to 7 MB of others."""
    batches = Sink(valkey, stream, inflight_bytes_max=20_000_000).batches
    small, at_bound, large = (batches.append([b"x" * size], level)._lane for size in (1, LARGE_BYTES, LARGE_BYTES + 1))
    assert small is at_bound is batches.lane(level)
    assert large is batches.lane(level, large=True)
    assert large is not small
    assert large.level == small.level == level


def test_entries_that_were_never_sent_are_not_unknown(stores: Any, stream: str) -> None:
    store = stores()
    subject = Sink(store.url, stream, commit_timeout_ms=500, inflight_bytes_max=20_000_000)
    warm_large(subject)
    store.process.send_signal(signal.SIGSTOP)
    tickets = [subject.batches.append(BULK[:2_000]), *(subject.batches.append(BULK[2_000:4_000]) for _ in range(4))]
    pending = subject.loop.begin(*tickets)
    reasons = subject.loop.finish(*pending)
    store.process.send_signal(signal.SIGCONT)
    assert reasons[0] == "sink-outcome-unknown"
    assert reasons[-1] == "sink-unavailable"
    assert pending[-1].error is not None
    assert "not sent" in pending[-1].error.detail


def test_replicated_waited_before_everybody_elses_commits(pair: tuple[Store, Store], stream: str) -> None:
    """Regression: with four clients that asked for it, everybody's p50 was 1.5 s."""
    primary, replica = pair
    subject = Sink(primary.url, stream, commit_timeout_ms=LONG_MS)
    subject.check()
    warm(subject, level=REPLICATED)
    warm(subject)
    replica.process.send_signal(signal.SIGSTOP)
    with subject.watcher._look_lock:
        waiting = [*begin(subject, b"r1", level=REPLICATED), *begin(subject, b"r2", level=REPLICATED)]
        began = time.monotonic()
        for number in range(50):
            assert subject.loop.finish(*begin(subject, b"%d" % number)) == [None]
        assert time.monotonic() - began < LONG_MS / 1000 / 2
        assert not any(one.done for one in waiting)
        replica.process.send_signal(signal.SIGCONT)
        assert subject.loop.finish(*waiting) == [None, None]
    assert replica.client.xlen(stream) == 2 + 1 + 50 + 1
    assert subject.loop.longest_seconds < HELD_SECONDS_MAX


def test_a_level_that_only_some_ask_for_and_that_comes_late_does_not_open_the_circuit(
    pair: tuple[Store, Store], stream: str
) -> None:
    primary, replica = pair
    subject = Sink(primary.url, stream, commit_timeout_ms=1_000)
    subject.check()
    warm(subject, level=REPLICATED)
    replica.process.send_signal(signal.SIGSTOP)
    with subject.watcher._look_lock:
        late = begin(subject, b"1", level=REPLICATED)
        assert subject.loop.finish(*late) == ["durability-timeout"]
        assert not subject.circuit.state.open
        warm(subject)
    replica.process.send_signal(signal.SIGCONT)


def test_a_level_that_cannot_connect_refused_everybody(pair: tuple[Store, Store], stream: str) -> None:
    """Regression: where a slow fsync held up the connection of a level that one client asked for, all got 503."""
    primary, _ = pair
    subject = Sink(primary.url, stream, commit_timeout_ms=300)
    subject.check()
    warm(subject)
    with subject.watcher._look_lock, socket.create_server(("127.0.0.1", 0)) as silent:
        lane = subject.batches.lane(REPLICATED)
        lane._link = Link(driver(f"redis://127.0.0.1:{silent.getsockname()[1]}", 300), lane._link.waits, REPLICATED)
        assert subject.loop.finish(*begin(subject, b"r", level=REPLICATED)) == ["sink-unavailable"]
        assert not subject.circuit.state.open
        warm(subject)
        # The level itself is refused at once, until the next look.
        with refused("sink-unavailable", match="a commit at replicated failed just now"):
            subject.batches.append([b"r"], REPLICATED)
    subject.check()
    subject.batches.append([b"r"], REPLICATED)


@pytest.mark.parametrize("bound", ["bytes", "requests"])
def test_the_bounds_covered_the_open_batch_alone(bound: str, stores: Any, stream: str) -> None:
    """What is in flight is held too, so both together stay within the bound; what is done is not counted."""
    store = stores()
    bounds: dict[str, Any] = {"inflight_bytes_max": 8} if bound == "bytes" else {"inflight_requests_max": 2}
    subject = Sink(store.url, stream, commit_timeout_ms=LONG_MS, **bounds)
    for _ in range(3):
        warm(subject)
    store.process.send_signal(signal.SIGSTOP)
    pending = [*begin(subject, b"aaaa"), *begin(subject, b"bbbb")]
    with refused("overloaded", match="2 unfinished requests of 8 bytes"):
        subject.batches.append([b"c"])
    store.process.send_signal(signal.SIGCONT)
    assert subject.loop.finish(*pending) == [None, None]
    warm(subject)


def test_connecting_holds_nobody_up(stream: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # it accepts, and never answers
        subject = Sink(f"redis://127.0.0.1:{listener.getsockname()[1]}", stream, commit_timeout_ms=3_000)
        pending = [*begin(subject, b"1", b"2"), *begin(subject, b"3")]
        assert not any(one.done for one in pending)
        assert subject.loop.finish(*pending) == ["sink-unavailable"] * 3
        assert subject.loop.longest_seconds < HELD_SECONDS_MAX
        assert not [thread for thread in threading.enumerate() if thread.name == "inlet-connect"]


def test_a_name_that_is_resolved_for_ever_is_given_up(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = threading.Event()

    def getaddrinfo(*arguments: object, **options: object) -> Any:
        resolved.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    subject = Sink("redis://store.example", stream, commit_timeout_ms=200)  # 1.2 s to connect in all
    subject.batches._watch = lambda: None  # its watcher would wait in there too
    pending = begin(subject, b"1", b"2")
    assert subject.loop.finish(*pending) == ["sink-unavailable"] * 2
    assert pending[0].error is not None
    assert "no connection within 1.2 s" in pending[0].error.detail
    subject.circuit._forget()
    assert subject.loop.finish(*begin(subject, b"3")) == ["sink-unavailable"]  # at once: the first try still hangs
    assert subject.loop.longest_seconds < HELD_SECONDS_MAX
    resolved.set()
    wait_until(lambda: not subject.batches.lane(STORED)._connecting.running, "the thread ends")  # type: ignore[union-attr]
    subject.circuit._forget()
    (again,) = begin(subject, b"4")
    subject.loop.finish(again)
    assert again.error is not None
    assert "no answer" in again.error.detail


def test_a_level_found_out_of_reach_on_connecting_refuses_before_anything_is_stored(stores: Any, stream: str) -> None:
    store = stores()
    subject = Sink(store.url, stream, level=REPLICATED)
    with subject.watcher._look_lock:
        assert subject.loop.finish(*begin(subject, b"1", b"2")) == ["sink-unavailable"] * 2
    assert store.client.xlen(stream) == 0


def test_a_connection_that_the_store_closes_between_two_commits_is_left_at_once(stores: Any, stream: str) -> None:
    store = stores()
    subject = Sink(store.url, stream)
    for _ in range(3):
        warm(subject)
        store.client.client_kill_filter(_type="normal", skipme=True)
        subject.loop.until(lambda: not subject.loop.watched, "the loop sees the end of the connection")
        assert not subject.links[STORED].connected
    assert stored(store.client, stream) == [b"0"] * 3
    assert not subject.circuit.state.open


def test_a_connection_that_breaks_with_a_commit_in_flight_is_unknown_and_what_is_open_goes_on(
    stores: Any, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the circuit is closed again by the time, the open batch has a new connection made, and is not lost."""
    store = stores()
    subject = Sink(store.url, stream, commit_timeout_ms=LONG_MS)
    warm(subject)
    monkeypatch.setattr(Circuit, "fail", lambda self, error: None)
    monkeypatch.setattr(link, "COMMITS_IN_FLIGHT_MAX", 1)
    store.process.send_signal(signal.SIGSTOP)
    pending = [*begin(subject, b"1"), *begin(subject, b"2", b"3")]
    subject.links[STORED]._wire._recv = lambda size: b""  # type: ignore[union-attr]  # the end of the connection
    store.process.send_signal(signal.SIGCONT)
    assert subject.loop.finish(*pending) == ["sink-outcome-unknown", None, None]
    assert stored(store.client, stream) == [b"0", b"1", b"2\n3"]


def test_error_replies_in_the_middle_are_the_outcome_of_their_entries_only(stores: Any, stream: str) -> None:
    store = stores()
    subject = Sink(store.url, stream, entry_bytes_max=4)
    store.client.set("other", "a string")
    warm(subject)
    tickets = [
        subject.batches.append([b"aaaa"]),
        subject.batches.append([b"bbbb"], destination=b"other"),
        subject.batches.append([b"cccc"]),
    ]
    assert subject.loop.finish(*subject.loop.begin(*tickets)) == [None, "sink-misconfigured", None]
    assert stored(store.client, stream) == [b"0", b"aaaa", b"cccc"]


def test_what_nobody_asked_for_ends_the_connection(stream: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        talk = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(65_536):
                    connection.sendall(b"+OK\r\n" * data.count(b"SETINFO") or b"$3\r\n1-0\r\n")
                    if b"XADD" in data and talk.wait():
                        connection.sendall(b":1\r\n")

        threading.Thread(target=serve, daemon=True).start()
        subject = Sink(f"redis://127.0.0.1:{listener.getsockname()[1]}", stream)
        subject.batches._watch = lambda: None
        warm(subject)
        assert subject.loop.watched
        talk.set()
        subject.loop.until(lambda: not subject.loop.watched, "the connection is closed")


def test_received_is_done_once_it_is_sent_and_its_reply_is_counted_when_it_comes(stores: Any, stream: str) -> None:
    store = stores()
    subject = Sink(store.url, stream, level=RECEIVED, commit_timeout_ms=LONG_MS)
    warm(subject)
    subject.loop.until(lambda: not subject.links[RECEIVED].flights, "the reply")
    store.process.send_signal(signal.SIGSTOP)
    before = _records("stored")
    for number in range(20):
        assert subject.loop.finish(*begin(subject, b"%d" % number)) == [None]
    assert _records("stored") == before
    store.process.send_signal(signal.SIGCONT)
    subject.loop.until(lambda: not subject.links[RECEIVED].flights, "every reply")
    assert _records("stored") == before + 20
    assert store.client.xlen(stream) == 21


def test_received_waits_where_too_many_replies_are_outstanding(
    stores: Any, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "UNREAD_REPLIES_MAX", 4)
    store = stores()
    subject = Sink(store.url, stream, level=RECEIVED, commit_timeout_ms=LONG_MS)
    warm(subject)
    subject.loop.until(lambda: not subject.links[RECEIVED].flights, "the reply")
    store.process.send_signal(signal.SIGSTOP)
    pending = []
    for number in range(4):
        (one,) = begin(subject, b"%d" % number)
        subject.loop.finish(one)
        pending.append(one)
    pending += [*begin(subject, b"4"), *begin(subject, b"5")]
    for _ in range(20):
        subject.loop.turn()
    assert [one.done for one in pending] == [True] * 4 + [False] * 2
    store.process.send_signal(signal.SIGCONT)
    assert subject.loop.finish(*pending) == [None] * 6
    subject.loop.until(lambda: not subject.links[RECEIVED].flights, "every reply")
    assert stored(store.client, stream)[-1] == b"4\n5"


def test_received_to_a_store_that_stays_silent_opens_the_circuit_and_counts_what_may_be_lost(
    stores: Any, stream: str
) -> None:
    """Regression: what was outstanding when a later send failed was not counted as dropped."""
    store = stores()
    subject = Sink(store.url, stream, level=RECEIVED, commit_timeout_ms=500)
    warm(subject)
    subject.loop.until(lambda: not subject.links[RECEIVED].flights, "the reply")
    before = _records("dropped")
    store.process.send_signal(signal.SIGSTOP)
    assert subject.loop.finish(*begin(subject, b"1", b"2")) == [None, None]
    subject.loop.until(lambda: subject.circuit.state.open, "the deadline of the reply")
    assert _records("dropped") == before + 2
    store.process.send_signal(signal.SIGCONT)


def test_received_without_a_loop_has_a_deadline_for_its_replies_too(stores: Any, stream: str) -> None:
    store = stores()
    subject = Sink(store.url, stream, level=RECEIVED, commit_timeout_ms=500)
    subject.append([b"0"]).commit()
    store.process.send_signal(signal.SIGSTOP)
    subject.append([b"1"]).commit()
    wait_until(lambda: subject.circuit.state.open, "the watcher gives the reply up")
    store.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(("part", "method"), [(Link, "event"), (Flight, "settle")])
def test_a_bug_in_the_loop_is_an_unknown_outcome_and_nobody_waits_for_ever(
    part: type, method: str, valkey: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Sink(valkey, stream)
    warm(subject)
    pending = begin(subject, b"1")

    def bug(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(part, method, bug)
    with pytest.raises(ZeroDivisionError):
        subject.loop.finish(*pending)
    monkeypatch.undo()
    assert subject.loop.finish(*pending) == ["sink-outcome-unknown"]
    warm(subject)


def test_begin_costs_nothing_but_a_look_at_the_batch_for_all_but_its_first_request(
    valkey: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    original = Lane.begin

    def counted(lane: Lane, batch: Any, watch: Any) -> Any:
        calls.append(batch)
        return original(lane, batch, watch)

    monkeypatch.setattr(Lane, "begin", counted)
    subject = Sink(valkey, stream)
    warm(subject)
    tickets = [subject.batches.append([b"%d" % number]) for number in range(100)]
    calls.clear()
    pending = subject.loop.begin(*tickets)
    assert subject.loop.finish(*pending) == [None] * 100
    assert len(calls) == 1


def test_blocking_commits_go_on_where_a_loop_has_begun(valkey: str, client: Any, stream: str) -> None:
    subject = Sink(valkey, stream)
    warm(subject)
    first, second = subject.batches.append([b"1"]), subject.batches.append([b"2"])
    subject.loop.begin(first)
    third = subject.batches.append([b"3"])
    third.commit()
    second.commit()
    first.commit()
    assert stored(client, stream) == [b"0", b"1\n2", b"3"]


def _records(what: str) -> float:
    metrics.LATE.flush()
    counter = {"stored": metrics.RECORDS_STORED, "dropped": metrics.RECORDS_DROPPED}[what]
    return next(iter(counter.collect())).samples[0].value


def test_a_level_below_the_default_has_no_lane_of_its_own(valkey: str, client: Any, stream: str) -> None:
    subject = Sink(valkey, stream)
    warm(subject, level=RECEIVED)
    assert client.xlen(stream) == 1
    assert list(subject.links) == [STORED]


def test_a_replica_that_has_been_silent_for_long_does_not_count(
    pair: tuple[Store, Store], stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped replica stays connected for a minute (repl-timeout), and every commit would wait for it in vain."""
    monkeypatch.setattr(waits, "REPLICA_LAG_SECONDS_MAX", 1)
    primary, replica = pair
    subject = Sink(primary.url, stream)
    replica.process.send_signal(signal.SIGSTOP)

    def unreachable() -> bool:
        subject.watcher.look()
        return REPLICATED in subject.circuit.state.unreachable

    wait_until(unreachable, "its silence is noticed")
    assert primary.client.info("replication")["connected_slaves"] == 1
    replica.process.send_signal(signal.SIGCONT)
    wait_until(lambda: not unreachable(), "it is back")
