"""wsgi.store.supervisor over the real store, and under gunicorn: what has ended comes back, and each change is said."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.support import Server, processes_of, record, wait_until
from wsgi.store import locks, logfile
from wsgi.store.embedded import STOP_SECONDS_MAX, EmbeddedStore
from wsgi.store.supervisor import PAUSE_SECONDS, STEADY_SECONDS, Pause, Supervisor

Serve = Callable[..., Server]
FILE = Path("appendonlydir/appendonly.aof.1.incr.aof")
MANIFEST = Path("appendonlydir/appendonly.aof.manifest")
CORRUPT_SECONDS = 6.0
"""How long a test watches a store that cannot start: it was started 20 times a second."""
STARTS_MAX = 15


@pytest.fixture
def store() -> Iterator[EmbeddedStore]:
    """A started store; not in tmp_path, since the path of a socket has to be short."""
    top = Path(tempfile.mkdtemp(prefix="inlet-"))
    store = EmbeddedStore(top / "data")
    store.start()
    yield store
    store.stop()
    shutil.rmtree(top)


@pytest.fixture
def supervisor(store: EmbeddedStore) -> Supervisor:
    return Supervisor(store)


def pid_of(data_dir: Path) -> int:
    return int((data_dir / "valkey.lock").read_text())


def kill(store: EmbeddedStore, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(pid_of(store.data_dir), number)
    ended(store)


def ended(store: EmbeddedStore) -> None:
    wait_until(lambda: store.poll() is not None, "the store has ended")


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(line.levelno, line.getMessage()) for line in caplog.records if line.name == "inlet"]


def starts(data_dir: Path) -> int:
    return (data_dir / "valkey.log").read_text().count("Valkey is starting")


def test_a_killed_store_is_started_again_at_once_and_both_are_said(
    store: EmbeddedStore, supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    redis.Redis.from_url(store.url).xadd("logs", {"r": "one"})
    kill(store)
    supervisor.tick(100.0)
    wait_until(store.is_ready, "it serves")
    supervisor.tick(100.5)
    assert redis.Redis.from_url(store.url).xlen("logs") == 1
    (first, why), (second, back) = said(caplog)
    assert (first, second) == (logging.ERROR, logging.WARNING)
    assert "was killed by SIGKILL" in why
    assert "was restarted" in back
    supervisor.tick(101.0)
    assert len(said(caplog)) == 2


def test_a_store_that_cannot_start_is_tried_ever_more_rarely_and_said_once(
    store: EmbeddedStore, supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    file = store.data_dir / FILE
    whole = file.read_bytes()
    redis.Redis.from_url(store.url).xadd("logs", {"r": "one"})
    kill(store)
    damaged = file.read_bytes()
    file.write_bytes(b"rubbish\r\n" + whole)
    supervisor.tick(100.0)
    now, waits = 100.0, list[float]()
    for _ in range(13):
        ended(store)
        began = now
        while store.poll() is not None:
            supervisor.tick(now)
            now += 0.05
        waits.append(now - began)
    ended(store)
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(PAUSE_SECONDS[1], abs=0.1)
    assert [level for level, _ in said(caplog)] == [logging.ERROR, logging.CRITICAL]
    assert "cannot start: it exited with status 1: Bad file format" in said(caplog)[1][1]
    # The operator repairs the file.
    file.write_bytes(damaged)
    supervisor.tick(now)
    supervisor.tick(now + PAUSE_SECONDS[1])
    wait_until(store.is_ready, "it serves")
    supervisor.tick(now)
    assert "was restarted" in said(caplog)[-1][1]
    assert len(said(caplog)) == 3


def test_the_pause_grows_to_its_longest_and_is_gone_once_a_process_has_lasted() -> None:
    pause, now, pauses = Pause(), 0.0, list[float]()
    pause.end(now)
    assert pause.is_over(now)
    for _ in range(12):
        pause.begin(now)
        pause.end(now)
        began = now
        while not pause.is_over(now):
            now += 0.01
        pauses.append(now - began)
    shortest, longest = PAUSE_SECONDS
    assert pauses[:3] == pytest.approx([shortest, 2 * shortest, 4 * shortest], abs=0.02)
    assert pauses[-2:] == pytest.approx([longest, longest], abs=0.1)
    pause.begin(now)
    pause.end(now + STEADY_SECONDS - 0.1)
    assert not pause.is_over(now + STEADY_SECONDS)
    pause.begin(now)
    pause.end(now + STEADY_SECONDS)
    assert pause.is_over(now + STEADY_SECONDS)


def test_a_store_is_not_started_beside_a_process_that_the_old_one_has_forked(
    store: EmbeddedStore, supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    kill(store)
    lock = locks.open_lock(store.data_dir / "valkey.lock")
    try:
        assert locks.take(lock)
        for now in (100.0, 101.0, 102.0):
            supervisor.tick(now)
        assert store.poll() is not None
        assert [level for level, _ in said(caplog)] == [logging.ERROR, logging.WARNING]
    finally:
        os.close(lock)
    supervisor.tick(103.0)
    wait_until(store.is_ready, "it serves")


@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGKILL, "was killed by SIGKILL"), (signal.SIGSEGV, "SIGSEGV"), (signal.SIGTERM, "exited with status 0")],
)
def test_an_ending_is_said_by_name(store: EmbeddedStore, number: signal.Signals, words: str) -> None:
    kill(store, number)
    assert words in store.ending()


def test_a_status_that_another_reaper_took_is_not_invented(store: EmbeddedStore) -> None:
    pid = pid_of(store.data_dir)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert store.poll() == 0
    assert store.ending() == "ended"


def test_a_tail_that_was_dropped_at_a_restart_is_said_with_its_bytes(
    store: EmbeddedStore, supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    kill(store)
    with open(store.data_dir / FILE, "ab") as file:
        file.write(b"*5\r\n$4\r\nXADD\r\n$4\r\nlo")
    supervisor.tick(100.0)
    wait_until(store.is_ready, "it serves")
    caplog.clear()
    supervisor.tick(101.0)
    assert [
        words for _, words in said(caplog) if f"the end of {FILE.name} was incomplete" in words and " 20 bytes" in words
    ]


def test_without_its_manifest_a_killed_store_is_not_started_empty(
    store: EmbeddedStore, supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    redis.Redis.from_url(store.url).xadd("logs", {"r": "one"})
    kill(store)
    manifest = (store.data_dir / MANIFEST).read_bytes()
    (store.data_dir / MANIFEST).unlink()
    for now in (100.0, 110.0, 120.0):
        supervisor.tick(now)
    assert store.poll() is not None
    assert "would start empty" in said(caplog)[-1][1]
    assert len(said(caplog)) == 2
    (store.data_dir / MANIFEST).write_bytes(manifest)
    supervisor.tick(160.0)
    wait_until(store.is_ready, "it serves")
    assert redis.Redis.from_url(store.url).xlen("logs") == 1


def test_the_log_is_rotated_while_the_store_runs_and_it_goes_on_in_a_new_file(
    store: EmbeddedStore, supervisor: Supervisor
) -> None:
    with open(store.log_path, "ab") as log:
        log.truncate(logfile.LOG_BYTES_MAX)
    supervisor.tick(100.0)
    assert not store.log_path.exists()
    assert store.log_path.with_name("valkey.log.1").stat().st_size == logfile.LOG_BYTES_MAX
    redis.Redis.from_url(store.url).bgrewriteaof()
    wait_until(lambda: store.log_path.exists() and "AOF rewrite" in store.log_path.read_text(), "it goes on")


def test_the_process_that_fsyncs_is_started_again_and_that_is_said(
    store: EmbeddedStore, supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    def syncers() -> list[int]:
        return [pid for pid, words in processes_of(store.data_dir).items() if "sync_loop" in words]

    (before,) = wait_until(syncers, "it runs")
    os.kill(before, signal.SIGKILL)
    assert store.syncer is not None
    wait_until(lambda: store.syncer.poll() is not None, "it has ended")  # type: ignore[union-attr]  # asserted above
    for now in (100.0, 110.0):
        supervisor.tick(now)
    assert store.syncer.poll() is None
    assert before not in syncers()
    assert [words for _, words in said(caplog) if "fsync" in words]


def test_a_store_whose_socket_is_removed_is_restarted_and_one_line_says_why(
    store: EmbeddedStore, supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    redis.Redis.from_url(store.url).xadd("logs", {"r": "one"})
    supervisor.tick(100.0)
    store.socket_path.unlink()
    supervisor.tick(101.0)
    supervisor.tick(101.1)
    ended(store)
    supervisor.tick(102.0)
    wait_until(store.is_ready, "it serves")
    supervisor.tick(103.0)
    assert redis.Redis.from_url(store.url).xlen("logs") == 1
    (level, why), (_, back) = said(caplog)
    assert level == logging.ERROR
    assert "valkey.sock was removed" in why
    assert "was restarted" in back
    supervisor.tick(104.0)
    assert store.poll() is None


def test_a_store_whose_socket_is_replaced_is_restarted(store: EmbeddedStore, supervisor: Supervisor) -> None:
    os.replace(store.data_dir / "inlet.lock", store.socket_path)
    supervisor.tick(101.0)
    ended(store)
    supervisor.tick(102.0)
    wait_until(store.is_ready, "it serves")


def test_a_store_that_does_not_answer_is_not_restarted(store: EmbeddedStore, supervisor: Supervisor) -> None:
    os.kill(pid_of(store.data_dir), signal.SIGSTOP)
    for now in (101.0, 102.0, 103.0):
        supervisor.tick(now)
    os.kill(pid_of(store.data_dir), signal.SIGCONT)
    wait_until(store.is_ready, "it serves")
    assert store.poll() is None


@pytest.mark.parametrize("gone", [FILE, MANIFEST, FILE.parent])
def test_a_store_whose_files_are_removed_with_its_socket_is_left_running(
    store: EmbeddedStore, supervisor: Supervisor, caplog: pytest.LogCaptureFixture, gone: Path
) -> None:
    assert store.syncer is not None
    store.syncer.stop()  # It would have them written anew.
    path = store.data_dir / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    store.socket_path.unlink()
    for now in (101.0, 102.0):
        supervisor._keep_store(now)
    assert store.poll() is None
    ((level, words),) = said(caplog)
    assert level == logging.CRITICAL
    assert "only in its memory" in words


def post(server: Server) -> int:
    import ujson

    body = ujson.dumps(record()).encode()
    head = b"POST /ingest HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return server.send(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))[0]


def test_a_store_that_could_not_start_was_started_20_times_a_second_with_a_line_each(serve: Serve) -> None:
    """Regression, under gunicorn; and a SIGKILL was "status 0", since gunicorn's reaper takes every status."""
    server = serve("--workers", "1")
    assert post(server) == 202
    file = server.data_dir / FILE
    whole = file.read_bytes()
    os.kill(pid_of(server.data_dir), signal.SIGSTOP)  # so that it writes nothing more
    file.write_bytes(b"rubbish\r\n" + whole)
    os.kill(pid_of(server.data_dir), signal.SIGKILL)
    wait_until(lambda: "cannot start" in server.log(), "the master notices")
    before = starts(server.data_dir)
    time.sleep(CORRUPT_SECONDS)
    assert starts(server.data_dir) - before <= STARTS_MAX
    assert len(re.findall("CRITICAL", server.log())) == 1
    # Where the store dies within a reap of gunicorn's (for the SIGSTOP), gunicorn may take its status: then it "ended".
    assert re.search("store: it (was killed by SIGKILL|ended)", server.log())
    assert "with status 0" not in server.log()
    file.write_bytes(whole)
    wait_until(lambda: post(server) == 202, "records are stored again")
    wait_until(lambda: "was restarted" in server.log(), "the master notices")


def test_a_stopped_store_held_up_the_end_of_inlet_for_a_minute(serve: Serve) -> None:
    """Regression."""
    server = serve("--workers", "1")
    assert post(server) == 202
    os.kill(pid_of(server.data_dir), signal.SIGSTOP)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < STOP_SECONDS_MAX / 2
    assert not processes_of(server.data_dir)


def test_a_removed_socket_was_not_noticed_until_a_restart(serve: Serve) -> None:
    """Regression, under gunicorn."""
    server = serve("--workers", "1")
    assert post(server) == 202
    (server.data_dir / "valkey.sock").unlink()
    wait_until(lambda: "was restarted" in server.log(), "the master notices")
    wait_until(lambda: post(server) == 202, "records are stored again")
    assert server.stop() == 0
