"""wsgi.sink.watcher: the thread that looks at the store, and readiness, which is its last finding."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

from tests.sink.support import Sink, Store, refused
from tests.support import wait_until


def ready(subject: Sink) -> bool:
    return subject.watcher.readiness() is None


def test_readyz_talked_to_the_store_within_the_request() -> None:
    """Regression: a store that accepts and never answers held the event loop. Now only the watcher waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        subject = Sink(f"redis://127.0.0.1:{listener.getsockname()[1]}", "s", commit_timeout_ms=15_000)
        subject.watcher.start()
        connection, _ = listener.accept()  # the watcher's; it now waits 15 s for an answer
        with connection:
            began = time.monotonic()
            with refused("sink-unavailable", match="has not been checked yet"):
                subject.ready()
            assert time.monotonic() - began < 10


def test_it_looks_from_its_start_with_no_commit(valkey: str, stream: str) -> None:
    subject = Sink(valkey, stream)
    subject.watcher.start()
    wait_until(lambda: ready(subject), "the first look")


def test_the_first_append_starts_it(valkey: str, stream: str) -> None:
    subject = Sink(valkey, stream)
    subject.append([b"1"])
    wait_until(lambda: subject.watcher._last is not None, "it looks")


def test_the_first_readiness_starts_it(valkey: str, stream: str) -> None:
    subject = Sink(valkey, stream)
    # The first answer may be of before the look or of after it; nothing but asking starts the thread.
    wait_until(lambda: ready(subject), "it looks")


def test_start_is_idempotent(valkey: str, stream: str) -> None:
    subject = Sink(valkey, stream)
    before = threading.active_count()
    for _ in range(5):
        subject.watcher.start()
    assert threading.active_count() == before + 1


def test_a_look_that_is_too_old_is_not_relied_on(valkey: str, stream: str) -> None:
    subject = Sink(valkey, stream, look_seconds_max=3)
    subject.check()
    with subject.watcher._look_lock:  # the thread is stuck in a look
        wait_until(lambda: not ready(subject), "the look grows old")
        with refused("sink-unavailable", match=r"the last check of the store ended \d+ seconds ago"):
            subject.ready()
    wait_until(lambda: ready(subject), "it looks again")


def test_a_store_that_stops_and_goes_on_shows_with_no_request() -> None:
    store = Store()
    try:
        subject = Sink(store.url, "s", commit_timeout_ms=300)
        subject.check()
        store.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: not ready(subject), "the watcher notices")
        assert not subject.circuit.state.open  # a look does not refuse records; only a commit does
        store.process.send_signal(signal.SIGCONT)
        wait_until(lambda: ready(subject), "the watcher notices")
    finally:
        store.close()


def test_a_store_that_may_evict_the_stream_is_not_ready_and_an_error_is_new_each_time() -> None:
    store = Store("--maxmemory-policy", "allkeys-lru")
    try:
        subject = Sink(store.url, "s")
        subject.watcher.look()
        first, second = subject.watcher.readiness(), subject.watcher.readiness()
        assert first is not None
        assert second is not None
        assert "set noeviction" in first.detail
        assert first is not second
    finally:
        store.close()


def test_a_forked_child_has_a_watcher_of_its_own(valkey: str, stream: str) -> None:
    subject = Sink(valkey, stream)
    subject.check()
    if (pid := os.fork()) == 0:
        status = 1
        try:
            unchecked = subject.watcher.readiness()
            wait_until(lambda: ready(subject), "the child's first look")
            status = 0 if unchecked is not None and "not been checked" in unchecked.detail else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert ready(subject)
