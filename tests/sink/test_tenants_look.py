"""A look at all streams in one round trip: what is sent, what the replies mean, and how long it may take."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from typing import Any

import hiredis
import pytest
import redis

from inlet.stream.keys import full_key
from inlet.stream.retention import Hold
from tests.sink.support import Sink, Store, driver
from wsgi.sink.driver import ERRORS, pack
from wsgi.sink.durability import STORED
from wsgi.sink.probe import Probe, Sample, StreamSample
from wsgi.sink.waits import Waits


def probe(url: str, *names: str) -> Probe:
    waits = Waits(replicas=1, commit_timeout_ms=2_000)
    return Probe(driver(url), waits, names[0], backlog=True, retention=True, streams=lambda: names)


def sampled(subject: Probe) -> Sample:
    found = subject.sample(STORED)
    assert isinstance(found, Sample)
    return found


def test_each_stream_has_its_own_sample(store_url: str, stream: str) -> None:
    names = [f"{stream}:{kind}" for kind in ("none", "wrong", "full", "grouped", "plain")]
    with redis.Redis.from_url(store_url) as client:
        client.set(names[1], "a string")
        client.set(full_key(names[2]), "missing mail")
        client.xgroup_create(names[3], "g", id="0", mkstream=True)
        for name in names[3:]:
            for _ in range(3):
                client.xadd(name, {"r": "1"})
        found = sampled(probe(store_url, *names)).streams
        assert list(found) == [name.encode() for name in names]
        none, wrong, full, grouped, plain = found.values()
        assert none == StreamSample(None, 0, None)
        assert wrong.fault is not None
        assert wrong.fault.reason == "sink-misconfigured"
        assert wrong.fault.detail == f"the store key {names[1]!r} holds a string, not a stream"
        assert full == StreamSample(None, 0, Hold("missing", "mail"))
        assert (grouped.backlog_entries, plain.backlog_entries) == (3, 3)
        client.delete(*names, full_key(names[2]))


def test_a_marker_of_the_wrong_type_is_that_streams_fault(valkey: str, client: Any, stream: str) -> None:
    client.lpush(full_key(stream), "1")
    found = sampled(probe(valkey, stream, f"{stream}:other"))
    ill, well = found.streams.values()
    assert ill.fault is not None
    assert (well.fault, found.fault) == (None, None)
    client.delete(full_key(stream))


def test_a_name_twice_is_one_stream(valkey: str, stream: str) -> None:
    assert len(sampled(probe(valkey, stream, stream, f"{stream}:a")).streams) == 2


def test_what_passes_with_time_is_said_of_the_store_and_not_of_a_stream(stores: Any) -> None:
    store: Store = stores()
    store.client.config_set("maxmemory", "1")
    found = sampled(probe(store.url, "a", "b"))
    assert found.fault is not None
    assert found.fault.reason == "sink-unavailable"
    assert [sample.fault for sample in found.streams.values()] == [None, None]


def test_the_streams_may_change_between_two_looks(valkey: str, stream: str) -> None:
    names = [stream]
    subject = Probe(driver(valkey), Waits(replicas=1, commit_timeout_ms=2_000), stream, streams=lambda: names)
    assert list(sampled(subject).streams) == [stream.encode()]
    names.append(f"{stream}:a")
    assert len(sampled(subject).streams) == 2
    names.pop()
    assert len(sampled(subject).streams) == 1


def test_ten_thousand_commands_go_at_once_and_an_error_reply_is_among_the_replies(valkey: str) -> None:
    subject = driver(valkey)
    subject.connect()
    commands = [pack(b"ECHO", b"%d" % number) for number in range(10_000)] + [pack(b"NOSUCH")]
    replies = subject.ask_all(b"".join(commands), len(commands))
    assert replies[:-1] == [b"%d" % number for number in range(10_000)]
    assert isinstance(replies[-1], hiredis.ReplyError)
    assert subject.ask("ECHO", "again") == b"again"
    subject.close()


def test_a_store_that_stops_within_a_look_at_many_streams_is_not_waited_for(stores: Any) -> None:
    store: Store = stores()
    names = [f"t:{number}" for number in range(1_000)]
    subject = Sink(store.url, names[0], commit_timeout_ms=300, backlog_max=1, streams=lambda: names)
    subject.check()
    store.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    subject.watcher.look()
    assert time.monotonic() - began < 20  # 0.3 s to send or to hear anything, plus 4 s for four thousand replies
    error = subject.watcher.readiness()
    assert error is not None
    assert error.reason == "sink-unavailable"
    store.process.send_signal(signal.SIGCONT)
    subject.check()


def test_a_store_that_drips_its_replies_is_given_up() -> None:
    """Each byte comes in time, and all of them together would not."""
    done = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with contextlib.suppress(OSError), connection:
            while not done.is_set():
                for byte in b"+OK\r\n":
                    connection.sendall(bytes([byte]))
                    time.sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=[listener])
        thread.start()
        subject = driver(f"redis://127.0.0.1:{listener.getsockname()[1]}", 500)
        try:
            subject.connect()
            began = time.monotonic()
            with pytest.raises(ERRORS):
                subject.ask_all(pack(b"PING") * 1_000, 1_000)
            assert time.monotonic() - began < 20  # 100 s for all
        finally:
            done.set()
            subject.close()
            thread.join()


def test_a_connection_that_ends_within_the_replies_is_an_error(stores: Any) -> None:
    store: Store = stores()
    subject = driver(store.url)
    subject.connect()
    with pytest.raises(ERRORS):
        subject.ask_all(pack(b"QUIT"), 2)
    subject.close()
