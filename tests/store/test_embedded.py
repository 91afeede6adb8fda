"""wsgi.store over the real valkey-server: start, stop, kill -9 at every point, and who may use the directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from inlet.stream.place import from_environment
from wsgi.store import embedded as module
from wsgi.store import locks, server
from wsgi.store.embedded import EmbeddedStore, embedded
from wsgi.store.errors import StoreError

ROOT = Path(__file__).resolve().parent.parent.parent
MASTER = """
import os, sys, time
from pathlib import Path
from wsgi.store.errors import StoreError
from wsgi.store.embedded import EmbeddedStore
store = EmbeddedStore(Path(sys.argv[1]))
try:
    store.start()
except StoreError as error:
    os.write(1, f"refused {error.detail}\\n".encode())
    sys.exit(1)
BODY
os.write(1, b"ready\\n")  # print would write the line in two pieces where PYTHONUNBUFFERED is set
sys.stdin.read()
"""
Master = Callable[..., subprocess.Popen[str]]


def store_pid(data_dir: Path) -> int:
    """The process that holds ``valkey.lock``; 0 if none does."""
    try:
        lock = os.open(data_dir / "valkey.lock", os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(lock, 20, 0))
    finally:
        os.close(lock)
    return 0


def live_pid(data_dir: Path) -> int:
    """The same where a store must be running: a signal to 0 would go to pytest's whole process group."""
    pid = store_pid(data_dir)
    assert pid > 0
    return pid


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def client(store: EmbeddedStore) -> redis.Redis:
    return redis.Redis.from_url(store.url)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Not tmp_path: the path of a socket has to be short wherever pytest keeps its directories."""
    top = Path(tempfile.mkdtemp(prefix="inlet-"))
    yield top / "data"
    if pid := store_pid(top / "data"):
        kill(pid)
        wait_until(lambda: not store_pid(top / "data"))
    shutil.rmtree(top)


@pytest.fixture
def store(data_dir: Path) -> Iterator[EmbeddedStore]:
    """A started store."""
    store = EmbeddedStore(data_dir)
    store.start()
    yield store
    store.stop()


@pytest.fixture
def master(data_dir: Path) -> Iterator[Master]:
    """Starts a process that starts the store, runs ``body``, says ready and waits for its stdin to close."""
    running: list[subprocess.Popen[str]] = []

    def start(body: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", MASTER.replace("BODY", body), str(data_dir)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate(timeout=60)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def orphaned(master: Master, data_dir: Path) -> int:
    """The process of a store whose Inlet was killed."""
    process = master()
    assert said(process) == "ready"
    process.kill()
    process.wait()
    return live_pid(data_dir)


def test_the_store_answers_where_settings_say_it_is(data_dir: Path, store: EmbeddedStore) -> None:
    assert store.url == store.start() == from_environment({"INLET_DATA_DIR": str(data_dir)}).url
    assert client(store).ping()
    assert store.poll() is None


def test_a_directory_with_odd_characters_works(data_dir: Path) -> None:
    odd = EmbeddedStore(data_dir / "a b%41?#'\"é")
    try:
        assert redis.Redis.from_url(odd.start()).ping()
        assert odd.log_path.exists()
    finally:
        odd.stop()


def test_the_store_is_private_durable_and_never_evicts(data_dir: Path, store: EmbeddedStore) -> None:
    config: dict[str, str] = client(store).config_get("*")  # type: ignore[assignment]  # redis-py unites sync and async
    assert config["port"] == "0"
    assert (config["appendonly"], config["appendfsync"], config["save"]) == ("yes", "no", "")
    assert (config["maxmemory-policy"], config["aof-load-truncated"]) == ("noeviction", "yes")
    assert stat.S_IMODE(store.socket_path.stat().st_mode) == 0o700
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_who_fsyncs_is_passed_on(data_dir: Path, fsync: server.Fsync) -> None:
    other = EmbeddedStore(data_dir, fsync)
    try:
        other.start()
        assert client(other).config_get("appendfsync") == {"appendfsync": fsync}
        assert other.syncer is None
    finally:
        other.stop()


def test_a_ctrl_c_at_the_terminal_does_not_reach_the_store(data_dir: Path, store: EmbeddedStore) -> None:
    pid = live_pid(data_dir)
    assert os.getsid(pid) == os.getpgid(pid) == pid


def test_records_outlive_a_stop_which_leaves_no_process_and_no_socket(data_dir: Path, store: EmbeddedStore) -> None:
    client(store).xadd("logs", {"r": "one"})
    store.stop()
    store.stop()
    assert not store.socket_path.exists()
    assert store_pid(data_dir) == 0
    assert store.poll() == 0
    store.start()
    assert client(store).xlen("logs") == 1


def test_a_store_that_was_never_started_can_be_stopped(data_dir: Path) -> None:
    EmbeddedStore(data_dir).stop()
    assert not data_dir.exists()


def test_start_returns_only_once_everything_is_loaded(data_dir: Path, store: EmbeddedStore) -> None:
    store.stop()
    keys = 200_000
    commands = (b"*3\r\n$3\r\nSET\r\n$7\r\n%7d\r\n$40\r\n%40d\r\n" % (key, key) for key in range(keys))
    (data_dir / "appendonlydir" / "appendonly.aof.1.incr.aof").write_bytes(
        b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n" + b"".join(commands)
    )
    store.start()
    assert client(store).dbsize() == keys


def test_after_kill_9_of_everything_the_records_are_found_again(data_dir: Path, master: Master) -> None:
    process = master()
    assert said(process) == "ready"
    store = EmbeddedStore(data_dir)
    for number in range(300):
        client(store).xadd("logs", {"r": str(number)})
    process.kill()
    kill(live_pid(data_dir))
    wait_until(lambda: not store_pid(data_dir))
    assert store.socket_path.exists()
    try:
        store.start()
        assert client(store).xlen("logs") == 300
    finally:
        store.stop()


def test_a_store_that_outlived_its_inlet_is_stopped_and_nothing_lost(data_dir: Path, master: Master) -> None:
    process = master()
    assert said(process) == "ready"
    store = EmbeddedStore(data_dir)
    held = client(store)
    for number in range(300):
        held.xadd("logs", {"r": str(number)})
    process.kill()
    process.wait()
    orphan = live_pid(data_dir)
    assert held.ping()
    try:
        store.start()
        assert store_pid(data_dir) not in (0, orphan)
        assert client(store).xlen("logs") == 300
    finally:
        store.stop()


def test_an_orphan_that_cannot_be_reached_is_refused_and_not_doubled(
    data_dir: Path, master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, orphan = EmbeddedStore(data_dir), orphaned(master, data_dir)
    store.socket_path.unlink()
    monkeypatch.setattr(module, "STOP_SECONDS_MAX", 0.1)
    with pytest.raises(StoreError) as caught:
        store.start()
    assert str(orphan) in caught.value.detail
    assert str(data_dir) in caught.value.detail
    assert store_pid(data_dir) == orphan


def test_a_stopped_orphan_is_refused_and_taken_down_once_it_runs(
    data_dir: Path, master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, orphan = EmbeddedStore(data_dir), orphaned(master, data_dir)
    os.kill(orphan, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(module, "STOP_SECONDS_MAX", 0.1)
        patch.setattr(server, "COMMAND_SECONDS_MAX", 0.1)
        with pytest.raises(StoreError, match="does not answer"):
            store.start()
    os.kill(orphan, signal.SIGCONT)
    try:
        store.start()
        assert store_pid(data_dir) != orphan
    finally:
        store.stop()


def test_a_second_inlet_on_the_directory_is_refused(data_dir: Path, store: EmbeddedStore, master: Master) -> None:
    line = said(master())
    assert line.startswith(f"refused another Inlet (process {os.getpid()}) uses {data_dir};")
    with pytest.raises(StoreError, match="another Inlet"):
        EmbeddedStore(data_dir).start()
    assert client(store).ping()


def test_of_two_inlets_started_at_once_over_an_orphan_one_wins(data_dir: Path, master: Master) -> None:
    orphaned(master, data_dir)
    both = [master(), master()]
    assert sorted(said(process).split()[0] for process in both) == ["ready", "refused"]


def test_a_worker_cannot_stop_the_store_nor_free_its_directory(data_dir: Path, store: EmbeddedStore) -> None:
    pid = os.fork()
    if pid == 0:
        store.stop()
        store.stop()
        os._exit(0 if store.poll() == 0 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert client(store).ping()
    with pytest.raises(StoreError, match="another Inlet"):
        EmbeddedStore(data_dir).start()


def test_an_inlet_that_ends_without_a_stop_still_stops_its_store(data_dir: Path, master: Master) -> None:
    process = master()
    assert said(process) == "ready"
    process.communicate(timeout=60)
    assert store_pid(data_dir) == 0


@pytest.mark.parametrize("left", ["socket", "file"])
def test_what_lies_at_the_sockets_path_does_not_deceive(data_dir: Path, left: str) -> None:
    data_dir.mkdir()
    store = EmbeddedStore(data_dir)
    for name in ("inlet.lock", "valkey.lock"):
        (data_dir / name).write_text(f"{os.getpid()}\n")
    if left == "file":
        store.socket_path.write_text("not a socket")
    else:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(store.socket_path))
    try:
        store.start()
        assert client(store).ping()
    finally:
        store.stop()


def test_a_cut_off_end_of_the_file_is_dropped_and_the_rest_kept(data_dir: Path, store: EmbeddedStore) -> None:
    client(store).xadd("logs", {"r": "whole"})
    store.stop()
    with open(data_dir / "appendonlydir" / "appendonly.aof.1.incr.aof", "ab") as file:
        file.write(b"*5\r\n$4\r\nXADD\r\n$4\r\nlo")
    store.start()
    assert client(store).xlen("logs") == 1


def test_a_damaged_file_stops_the_start_with_the_logs_last_line(data_dir: Path, store: EmbeddedStore) -> None:
    client(store).xadd("logs", {"r": "one"})
    store.stop()
    file = data_dir / "appendonlydir" / "appendonly.aof.1.incr.aof"
    file.write_bytes(b"rubbish\r\n" + file.read_bytes())
    with pytest.raises(StoreError, match="Bad file format") as caught:
        store.start()
    assert "\n" not in caught.value.detail
    assert str(data_dir) in caught.value.detail
    assert store_pid(data_dir) == 0
    # The directory is free again: another one gets as far.
    with pytest.raises(StoreError, match="Bad file format"):
        EmbeddedStore(data_dir).start()


def test_a_directory_that_cannot_be_one_is_refused(data_dir: Path) -> None:
    data_dir.write_text("a file")
    for path in (data_dir, data_dir / "below"):
        with pytest.raises(StoreError, match="set INLET_DATA_DIR"):
            EmbeddedStore(path).start()


def test_the_death_of_the_store_shows_and_it_can_be_started_again(data_dir: Path, store: EmbeddedStore) -> None:
    client(store).xadd("logs", {"r": "one"})
    kill(live_pid(data_dir))
    wait_until(lambda: store.poll() is not None)
    assert store.poll() == -signal.SIGKILL
    with pytest.raises(StoreError, match="another Inlet"):
        EmbeddedStore(data_dir).start()
    store.start()
    assert store.poll() is None
    assert client(store).xlen("logs") == 1


def test_a_store_whose_status_another_reaper_took_counts_as_ended(data_dir: Path, store: EmbeddedStore) -> None:
    pid = live_pid(data_dir)
    kill(pid)
    assert os.waitpid(pid, 0)[0] == pid
    assert store.poll() == 0
    store.start()
    assert client(store).ping()


def test_a_store_that_cannot_end_is_waited_for_aloud_and_then_left(
    data_dir: Path, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pid = live_pid(data_dir)
    with socket.socket(socket.AF_UNIX) as busy:
        busy.connect(str(store.socket_path))
        busy.sendall(b'EVAL "while true do end" 0\r\n')
        monkeypatch.setattr(server, "COMMAND_SECONDS_MAX", 0.2)
        monkeypatch.setattr(module, "SILENT_SECONDS_MAX", 0.2)
        monkeypatch.setattr(module, "STOP_SECONDS_MAX", 1.0)
        store.stop()
    words = [line.getMessage() for line in caplog.records]
    assert [f"process {pid}" in line for line in words] == [True, True]
    assert "waiting for" in words[0]
    assert "left to the next start" in words[1]
    assert store_pid(data_dir) == pid


def test_a_process_has_one_store_a_directory(data_dir: Path) -> None:
    assert embedded(data_dir) is embedded(data_dir / "x" / "..")
    assert embedded(data_dir) is not embedded(data_dir / "x")


HOLDER = """
if os.fork() == 0:
    os.write(1, b"orphan %d\\n" % os.getpid())
    time.sleep(SECONDS)
    os._exit(0)
"""


def orphan_of(master: Master, seconds: float) -> int:
    """A forked process, which shares ``inlet.lock``, and whose master was killed."""
    process = master(HOLDER.replace("SECONDS", str(seconds)))
    lines = [said(process), said(process)]
    process.kill()
    process.wait()
    orphans = [int(line.split()[1]) for line in lines if line.startswith("orphan")]
    assert orphans, lines
    return orphans[0]


def test_the_next_start_gave_up_while_a_worker_of_a_killed_master_still_held_the_lock(
    data_dir: Path, master: Master, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: it has to wait until that worker has noticed, and to say so."""
    orphan_of(master, 3)
    store = EmbeddedStore(data_dir)
    try:
        store.start()
        assert client(store).ping()
    finally:
        store.stop()
    waits = [line.getMessage() for line in caplog.records if "waiting up to" in line.getMessage()]
    assert len(waits) == 1
    assert str(data_dir) in waits[0]


def test_an_orphan_that_never_leaves_is_reported_after_the_bound(
    data_dir: Path, master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = orphan_of(master, 60)
    monkeypatch.setattr(locks, "ORPHAN_SECONDS_MAX", 0.3)
    try:
        with pytest.raises(StoreError, match="a worker of an earlier Inlet") as caught:
            EmbeddedStore(data_dir).start()
        assert str(data_dir) in caught.value.detail
    finally:
        kill(orphan)


def test_beside_a_live_owner_a_start_is_refused_without_waiting_for_orphans(
    data_dir: Path, store: EmbeddedStore, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    with pytest.raises(StoreError, match=rf"another Inlet \(process {os.getpid()}\)"):
        EmbeddedStore(data_dir).start()
    assert time.monotonic() - began < locks.ORPHAN_SECONDS_MAX / 2
    assert "waiting up to" not in caplog.text


def test_an_owner_is_alive_only_as_the_process_that_took_the_lock() -> None:
    started = locks.start_time(os.getpid())
    assert started
    assert locks.Owner(os.getpid(), started).lives()
    assert locks.Owner(os.getpid(), None).lives()
    assert not locks.Owner(os.getpid(), started - 1).lives()  # the pid was used again
    assert not locks.Owner(None, None).lives()
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as ended:
        assert ended.stdout is not None
        ended.stdout.read()
        wait_until(lambda: locks.start_time(ended.pid) == 0)  # a zombie: it has ended, nobody has waited for it
        assert not locks.Owner(ended.pid, started).lives()
        assert not locks.Owner(ended.pid, None).lives()
    assert not locks.Owner(ended.pid, None).lives()


@pytest.mark.parametrize(
    ("content", "pid", "started"),
    [(b"", None, None), (b"17\n", 17, None), (b"17 4\n", 17, 4), (b"x y z", None, None), (b"0 1", None, 1)],
)
def test_what_a_lock_file_says_of_its_owner(
    content: bytes, pid: int | None, started: int | None, tmp_path: Path
) -> None:
    (tmp_path / "lock").write_bytes(content)
    lock = locks.open_lock(tmp_path / "lock")
    try:
        assert locks.owner(lock) == (pid, started)
    finally:
        os.close(lock)
