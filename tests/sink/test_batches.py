"""wsgi.sink.batches over real stores: what an entry holds, group commit, splitting, and every failure by its reason."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import Any

import pytest
import redis

from tests.sink.support import Sink, once_closed, refused
from tests.support import entries, wait_until
from wsgi.problems import PROBLEMS
from wsgi.sink.link import Link
from wsgi.store.embedded import EmbeddedStore

pytestmark = pytest.mark.usefixtures("driven")


def pid_of(store: EmbeddedStore) -> int:
    return int((store.data_dir / "valkey.lock").read_text())


def test_a_commit_is_one_entry_with_the_lines_and_their_number(store_url: str, stream: str) -> None:
    subject = Sink(store_url, stream)
    first = subject.append([b'["a"]', b'["b"]'])
    second = subject.append([b'["c"]'])
    first.commit()
    second.commit()
    with redis.Redis.from_url(store_url) as client:
        found = entries(client, stream)
    assert [fields for _, fields in found] == [{b"r": b'["a"]\n["b"]\n["c"]', b"n": b"3"}]
    entry_id = found[0][0]
    assert first.addresses() == [(entry_id, 0, False), (entry_id, 1, False)]
    assert second.addresses() == [(entry_id, 2, False)]


def test_the_next_batch_is_the_next_entry(valkey: str, client: Any, stream: str) -> None:
    subject = Sink(valkey, stream)
    for line in (b"1", b"2"):
        subject.append([line]).commit()
    assert [fields[b"r"] for _, fields in entries(client, stream)] == [b"1", b"2"]


def test_a_ticket_commits_once_however_often_it_is_asked(valkey: str, client: Any, stream: str) -> None:
    ticket = Sink(valkey, stream).append([b"1"])
    ticket.commit()
    ticket.commit()
    assert client.xlen(stream) == 1


@pytest.mark.parametrize(
    ("requests", "bytes_max", "spans"),
    [
        ([[b"aaaa", b"bbbb"]], 9, [(0, 2)]),  # 4 + 1 + 4 bytes: at the bound
        ([[b"aaaa", b"bbbb"]], 8, [(0, 1), (1, 2)]),  # one past it
        ([[b"aaaa"], [b"bbbb"]], 8, [(0, 1), (1, 2)]),
        ([[b"aa"], [b"bb", b"cc"]], 5, [(0, 1), (1, 3)]),  # the second request is not spread over two
        ([[b"aa"], [b"bb"], [b"cc"]], 5, [(0, 2), (2, 3)]),
        ([[b"aa", b"bb", b"cc"], [b"dd"]], 5, [(0, 2), (2, 4)]),  # the rest of a split one takes others along
        ([[b"aa"], [b"bb", b"cc", b"dd"], [b"ee"]], 5, [(0, 1), (1, 3), (3, 5)]),
    ],
)
def test_a_batch_over_the_bound_is_cut_between_requests_where_it_can_be(
    requests: list[list[bytes]], bytes_max: int, spans: list[tuple[int, int]], valkey: str, client: Any, stream: str
) -> None:
    subject = Sink(valkey, stream, entry_bytes_max=bytes_max)
    tickets = [subject.append(lines) for lines in requests]
    for ticket in tickets:
        ticket.commit()
    everything = [line for lines in requests for line in lines]
    found = entries(client, stream)
    assert [fields[b"r"] for _, fields in found] == [b"\n".join(everything[start:stop]) for start, stop in spans]
    addresses = [address for ticket in tickets for address in ticket.addresses()]
    assert addresses == [(found[i][0], n, False) for i, (start, stop) in enumerate(spans) for n in range(stop - start)]


def test_threads_share_commits_and_each_record_is_stored_once(
    valkey: str, client: Any, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sink, "driven", "blocking")  # a loop has one thread
    subject = Sink(valkey, stream)

    def work(name: int) -> None:
        for count in range(200):
            subject.append([b"%d-%d" % (name, count)]).commit()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [line for _, fields in entries(client, stream) for line in fields[b"r"].split(b"\n")]
    assert sorted(lines) == sorted(b"%d-%d" % (name, count) for name in range(8) for count in range(200))
    for name in range(8):
        own = [line for line in lines if line.startswith(b"%d-" % name)]
        assert own == [b"%d-%d" % (name, count) for count in range(200)]


def test_a_forked_child_starts_with_no_connection_and_no_record_of_its_parent(
    valkey: str, client: Any, stream: str
) -> None:
    subject = Sink(valkey, stream)
    subject.append([b"parent-1"]).commit()
    ticket = subject.append([b"parent-2"])
    if (pid := os.fork()) == 0:
        try:
            subject.append([b"child"]).commit()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    ticket.commit()
    assert [fields[b"r"] for _, fields in entries(client, stream)] == [b"parent-1", b"child", b"parent-2"]


def test_a_store_that_is_not_there_is_unavailable_and_nothing_is_kept_for_later(stream: str) -> None:
    subject = Sink("unix:///nonexistent/valkey.sock", stream)
    ticket = subject.append([b"1"])
    with refused("sink-unavailable", match="cannot be reached") as caught:
        ticket.commit()
    assert PROBLEMS[caught.value.reason].retryable is True
    with refused("sink-unavailable"):
        subject.check()


def test_after_the_store_is_back_commits_succeed_and_the_refused_ones_are_not_sent(
    own_store: EmbeddedStore, stream: str
) -> None:
    subject = Sink(own_store.url, stream)
    subject.append([b"before"]).commit()
    subject.check()
    own_store.stop()
    with refused("sink-unavailable"):
        subject.append([b"during"]).commit()
    own_store.start()
    once_closed(subject, b"after").commit()
    subject.check()
    with redis.Redis.from_url(own_store.url) as client:
        assert [fields[b"r"] for _, fields in entries(client, stream)] == [b"before", b"after"]


def test_an_answer_that_does_not_come_is_an_unknown_outcome_and_is_never_sent_again(
    own_store: EmbeddedStore, stream: str
) -> None:
    subject = Sink(own_store.url, stream, commit_timeout_ms=300)
    subject.append([b"1"]).commit()
    os.kill(pid_of(own_store), signal.SIGSTOP)
    try:
        with refused("sink-outcome-unknown") as caught:
            subject.append([b"2"]).commit()
    finally:
        os.kill(pid_of(own_store), signal.SIGCONT)
    assert PROBLEMS[caught.value.reason].retryable
    once_closed(subject, b"3").commit()
    with redis.Redis.from_url(own_store.url) as client:
        stored = [fields[b"r"] for _, fields in entries(client, stream)]
    # The stopped store had the bytes in its socket, and took them when it went on.
    assert stored in ([b"1", b"2", b"3"], [b"1", b"3"], [b"1", b"3", b"2"])


def test_all_requests_of_a_failed_batch_are_refused_and_logged_once(
    stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    subject = Sink("unix:///nonexistent/valkey.sock", stream)
    tickets = [subject.append([b"1"]), subject.append([b"2"])]
    late = subject.append([b"3"])
    for ticket in [*tickets, late]:
        with refused("sink-unavailable"):
            ticket.commit()
    for _ in range(3):
        with refused("sink-unavailable", match="not tried, since a commit failed just now"):
            subject.append([b"4"])
    assert len([r for r in caplog.records if "reason=sink-unavailable" in r.message]) == 1


def test_the_wrong_type_at_the_key_is_for_the_operator(valkey: str, client: Any, stream: str) -> None:
    client.set(stream, "a string")
    subject = Sink(valkey, stream)
    with refused("sink-misconfigured", match="WRONGTYPE"):
        subject.append([b"1"]).commit()
    with refused("sink-misconfigured", match="holds a string"):
        subject.check()
    client.delete(stream)
    once_closed(subject, b"1").commit()
    subject.check()


def test_out_of_memory_refuses_and_the_probe_says_so_too(own_store: EmbeddedStore, stream: str) -> None:
    subject = Sink(own_store.url, stream)
    with redis.Redis.from_url(own_store.url) as client:
        client.config_set("maxmemory", 1)
        with refused("sink-unavailable", match="OOM"):
            subject.append([b"1"]).commit()
        with refused("sink-unavailable", match="OOM"):
            subject.check()
        client.config_set("maxmemory", 0)
    once_closed(subject, b"1").commit()


def test_each_request_of_a_split_batch_has_its_own_outcome(own_store: EmbeddedStore, stream: str) -> None:
    """The last ID of the stream leaves room for one more entry: the first part is stored, the second refused."""
    with redis.Redis.from_url(own_store.url) as client:
        client.xadd(stream, {"r": "", "n": 0}, id="18446744073709551615-18446744073709551614")
        subject = Sink(own_store.url, stream, entry_bytes_max=4)
        tickets = [subject.append([b"aaaa"]), subject.append([b"bbbb"])]
        tickets[0].commit()
        assert tickets[0].addresses() == [("18446744073709551615-18446744073709551615", 0, False)]
        with refused("sink-misconfigured"):
            tickets[1].commit()
        client.delete(stream)
        client.xadd(stream, {"r": "", "n": 0}, id="18446744073709551615-18446744073709551614")
        subject = Sink(own_store.url, stream, entry_bytes_max=4)
        with refused("sink-misconfigured", match=r"^1 of 2 records were stored before: "):
            subject.append([b"aaaa", b"bbbb"]).commit()


@pytest.mark.parametrize("step", ["look", "connect", "send", "wait"])
def test_who_is_stopped_in_the_middle_of_a_commit_never_reads_it_as_success(
    step: str, valkey: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sink, "driven", "blocking")

    def stop(*arguments: object) -> None:
        raise SystemExit

    monkeypatch.setattr(Link, step, stop)
    subject = Sink(valkey, stream)
    tickets = [subject.append([b"1"]), subject.append([b"2"])]
    with pytest.raises(SystemExit):
        tickets[0].commit()
    with refused("sink-outcome-unknown"):
        tickets[1].commit()


def test_a_connection_the_store_has_closed_is_noticed_before_anything_is_sent(
    own_store: EmbeddedStore, stream: str
) -> None:
    subject = Sink(own_store.url, stream)
    subject.append([b"1"]).commit()
    with redis.Redis.from_url(own_store.url) as client:
        killed = {each["id"] for each in client.client_list()} - {str(client.client_id())}
        client.client_kill_filter(_type="normal", skipme=True)
        # The watcher may have connected again by now.
        wait_until(lambda: not killed & {each["id"] for each in client.client_list()}, "the connections are closed")
        subject.append([b"2"]).commit()
        assert client.xlen(stream) == 2


@pytest.mark.parametrize("loading", [b"-LOADING Redis is loading the dataset\r\n", b"-NOAUTH Authentication\r\n"])
def test_a_refusal_after_which_redis_py_hangs_up_is_a_refusal_and_no_unknown_outcome(
    loading: bytes, stream: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    # CLIENT SETINFO, twice, is what redis-py sends first. The watcher asks INFO, and is not answered.
                    while b"XADD" not in (data := connection.recv(65_536)) and b"INFO\r\n$6" not in data:
                        connection.sendall(b"+OK\r\n" * data.count(b"SETINFO"))
                    if b"INFO\r\n$6" not in data:
                        connection.sendall(loading)
                        return

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        subject = Sink(f"redis://127.0.0.1:{listener.getsockname()[1]}", stream)
        with refused("sink-unavailable", "sink-misconfigured", match=r"refuses: (LOADING|NOAUTH)"):
            subject.append([b"1"]).commit()
        thread.join()
