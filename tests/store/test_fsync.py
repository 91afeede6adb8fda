"""Who fsyncs the embedded store's files: what a kill of the store loses in each mode, and the process that does it."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from inlet.stream.place import SOCKET_NAME
from tests.faults import power_cut
from tests.store.syncers import Directory, directory_of_its_own, failures, lives, messages, pid_of
from tests.support import ROOT, Server, processes_of, wait_until
from wsgi.store import server, sync_loop, syncing
from wsgi.store.sync_loop import PAUSE_SECONDS_MAX, PAUSE_SECONDS_MIN, PAUSE_SHARE, pause_after
from wsgi.store.syncing import Syncer

FSYNC_MICROSECONDS = 1_200_000
"""Of a slow disk."""
CLIENTS = 4
ANSWERS_MIN = 50
"""Commands answered while one fsync is in progress: fewer prove nothing."""
UNWRITTEN_BYTES = 16_384
"""Of commands that a store has answered and not written."""
KILLS = 4
KILL_SEED, KILL_SECONDS_MAX = 12, 0.3
"""The store is killed at instants drawn up to this long after load has begun, the same ones in every run."""
OWNER = """
import os, sys, time
from pathlib import Path
from wsgi.store.syncing import Syncer
syncer = Syncer(Path(sys.argv[1]))
syncer.start()
fork = os.fork() if "fork" in sys.argv else 0
if fork or "fork" not in sys.argv:
    os.write(1, f"{syncer._process.pid} {fork}\\n".encode())
time.sleep(600)
"""

traceable = pytest.mark.skipif(bool(power_cut.no_strace()), reason=power_cut.no_strace())


def opened(pid: int) -> set[str]:
    """The append-only files that a process has open, by name."""
    links = [os.readlink(link.path) for link in os.scandir(f"/proc/{pid}/fd")]
    return {Path(link).name for link in links if link.endswith(".aof")}


@pytest.fixture
def directory() -> Iterator[Directory]:
    with directory_of_its_own() as one:
        yield one


@contextlib.contextmanager
def writers(directory: Directory) -> Iterator[list[bytes]]:
    """Clients that add to the stream ``s`` until the store is gone; the IDs that they were answered, as they come."""
    answered: list[bytes] = []

    def write() -> None:
        with contextlib.suppress(redis.RedisError), directory.client() as client:
            for number in itertools.count():
                answered.append(client.xadd("s", {"r": number}))

    threads = [threading.Thread(target=write) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        directory.kill()
        for thread in threads:
            thread.join()


def lost_by_a_kill(directory: Directory, fsync: server.Fsync) -> int:
    """Kill the store while an fsync of 1.2 s is in progress and commands are answered; how many of them are gone."""
    directory.start(fsync)
    assert directory.store is not None
    pids = [directory.store.pid]
    if fsync == "background":
        directory.syncer.start()
        pids.append(directory.syncer_pid)
    slow = f"inject=fdatasync:delay_enter={FSYNC_MICROSECONDS}"
    with contextlib.ExitStack() as stack:
        for number, pid in enumerate(pids):
            trace = directory.root / f"trace-{number}"
            stack.enter_context(power_cut.traced(pid, trace, "trace=fdatasync", slow))
        answered = stack.enter_context(writers(directory))
        wait_until(lambda: answers_in_fsync(directory, fsync, answered), "commands are answered during an fsync")
        directory.kill()
    directory.start(fsync)
    with directory.client() as client:
        kept = {entry_id for entry_id, _ in client.xrange("s")}
    return len(set(answered) - kept)


def answers_in_fsync(directory: Directory, fsync: server.Fsync, answered: list[bytes]) -> bool:
    """Whether an fsync is in progress that began before the last answers; under ``always``, after some of them."""
    if fsync == "always":
        return len(answered) > 2 * CLIENTS
    if fsync == "everysec":
        with directory.client() as client:
            return bool(client.info("persistence")["aof_buffer_length"] > UNWRITTEN_BYTES)
    before = len(answered)
    while power_cut.is_held(directory.syncer_pid):
        if len(answered) > before + ANSWERS_MIN:
            return True
    return False


@traceable
@pytest.mark.parametrize("fsync", ["background", "always"])
def test_a_store_killed_during_a_slow_fsync_has_all_that_it_answered(directory: Directory, fsync: server.Fsync) -> None:
    assert lost_by_a_kill(directory, fsync) == 0


@traceable
def test_that_test_can_fail_since_everysec_holds_back_what_it_has_answered(directory: Directory) -> None:
    assert lost_by_a_kill(directory, "everysec") > 0


def test_kills_under_load_at_any_instant_and_during_rewrites_lose_nothing(directory: Directory) -> None:
    drawn = random.Random(KILL_SEED)
    directory.syncer.start()
    for number in range(KILLS):
        directory.start()
        with writers(directory) as answered, directory.client() as client:
            wait_until(lambda found=answered: len(found) > ANSWERS_MIN, "commands are answered")  # type: ignore[misc]
            if number % 2:
                client.bgrewriteaof()
            time.sleep(drawn.uniform(0, KILL_SECONDS_MAX))
            directory.kill()
        directory.start()
        with directory.client() as client:
            kept = {entry_id for entry_id, _ in client.xrange("s")}
            client.delete("s")
        assert not set(answered) - kept
        directory.kill()
    assert directory.syncer.poll() is None


def test_the_store_runs_with_the_policy_of_each_mode(directory: Directory) -> None:
    policies = {}
    for fsync in ("background", "everysec", "always"):
        directory.start(fsync)
        with directory.client() as client:
            policies[fsync] = client.config_get("appendfsync")["appendfsync"]
        directory.kill()
    assert policies == {"background": "no", "everysec": "everysec", "always": "always"}


@traceable
def test_what_is_written_is_fsynced_soon_and_an_idle_store_is_not(directory: Directory) -> None:
    directory.start()
    directory.syncer.start()
    trace = directory.root / "trace"
    with directory.client() as client, power_cut.traced(directory.syncer_pid, trace):
        client.xadd("s", {"r": 1})
        (file,) = directory.root.glob("appendonlydir/*.incr.aof")
        written = file.stat().st_mtime
        wait_until(lambda: any(call.began > written for call in synced(trace)), "the file is fsynced after a write")

        def three_rounds_without() -> bool:
            before, beats = len(synced(trace)), trace.read_text().count("write(1<")
            wait_until(lambda: trace.read_text().count("write(1<") > beats + 3, "three more rounds")
            return len(synced(trace)) == before

        wait_until(three_rounds_without, "an idle store is not fsynced")


def synced(trace: Path) -> list[power_cut.Call]:
    """The fsyncs of the append-only file that have ended well."""
    return [call for call in power_cut.calls(trace.read_text()) if call.name == "fdatasync" and call.result == 0]


@traceable
def test_it_follows_the_files_through_a_rewrite(directory: Directory) -> None:
    directory.syncer.start()  # before there is a file
    directory.start()
    with directory.client() as client:
        wait_until(lambda: opened(directory.syncer_pid) == {"appendonly.aof.1.incr.aof"}, "it has found the file")
        client.xadd("s", {"r": 1})
        client.bgrewriteaof()
        wait_until(lambda: opened(directory.syncer_pid) == {"appendonly.aof.2.incr.aof"}, "it has found the new file")
        trace = directory.root / "trace"
        with power_cut.traced(directory.syncer_pid, trace):
            client.xadd("s", {"r": 2})
            wait_until(lambda: synced(trace), "the new file is fsynced")
    assert directory.syncer.poll() is None


@traceable
def test_a_failed_fsync_is_reported_and_the_store_refuses_until_the_disk_is_well(
    directory: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    directory.start()
    directory.syncer.start()
    assert directory.store is not None
    failing = "inject=fdatasync:error=EIO"
    with directory.client() as client, contextlib.ExitStack() as stack:
        for pid in (directory.syncer_pid, directory.store.pid):
            trace = directory.root / f"trace-{pid}"
            stack.enter_context(power_cut.traced(pid, trace, "trace=fdatasync", failing))

        def refused() -> bool:
            try:
                client.xadd("s", {"r": 1})
            except redis.ResponseError as error:
                return "MISCONF" in str(error)
            return False

        wait_until(refused, "the store refuses writes")
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        wait_until(lambda: directory.syncer.poll() or failures(caplog), "the error is reported")
        stack.close()
        wait_until(lambda: not refused(), "the store takes writes again")
        wait_until(
            lambda: client.config_get("appendfsync") == {"appendfsync": "no"}, "the store leaves its fsyncs to it"
        )
        wait_until(lambda: client.info("persistence")["aof_rewrites"] == 1, "all of the store was written anew")
        wait_until(lambda: directory.syncer.poll() or messages(caplog)[-1].endswith("fsynced again"), "its end too")
    (failure,) = failures(caplog)
    assert "Input/output error" in failure


def test_one_that_is_stopped_is_reported_killed_and_started_again(
    directory: Directory, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.syncer.start()
    wait_until(lambda: select_beat(directory.syncer), "it reports")
    pid = directory.syncer_pid
    os.kill(pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(syncing, "SILENT_SECONDS_MAX", 0.5)
        wait_until(lambda: directory.syncer.poll() is not None, "it is killed")
    assert re.search("no fsync .* has ended for 0 s", failures(caplog)[0])
    directory.syncer.start()
    assert directory.syncer_pid != pid
    wait_until(lambda: directory.syncer.poll() or messages(caplog)[-1] == "store: its files are fsynced again", "again")


def select_beat(syncer: Syncer) -> bool:
    """Whether it has reported since it was started."""
    started = syncer._heard
    syncer.poll()
    return syncer._heard > started


def test_one_that_was_killed_is_reported_and_started_again(
    directory: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    directory.syncer.start()
    os.kill(directory.syncer_pid, signal.SIGKILL)
    wait_until(lambda: directory.syncer.poll() is not None, "it has ended")
    assert directory.syncer.poll() == -signal.SIGKILL
    assert failures(caplog) == [f"store: {sync_loop.ENDED}"]
    directory.syncer.start()
    assert directory.syncer.poll() is None


def test_start_and_stop_can_be_repeated(directory: Directory) -> None:
    syncer = directory.syncer
    assert syncer.poll() == 0
    syncer.stop()
    syncer.start()
    pid = pid_of(syncer)
    syncer.start()
    assert pid_of(syncer) == pid
    syncer.stop()
    syncer.stop()
    assert not lives(pid)
    assert syncer.poll() == 0
    syncer.start()
    assert pid_of(syncer) != pid


@traceable
def test_stop_comes_after_a_last_fsync(directory: Directory) -> None:
    directory.start()
    directory.syncer.start()
    trace = directory.root / "trace"
    with directory.client() as client, power_cut.traced(directory.syncer_pid, trace):
        for number in range(20):
            client.xadd("s", {"r": number})
        directory.kill()
        directory.syncer.stop()
    (file,) = directory.root.glob("appendonlydir/*.incr.aof")
    last = max(call.ended for call in synced(trace))
    assert last >= file.stat().st_mtime


def test_it_ends_with_its_owner_and_the_forks_of_it(directory: Directory) -> None:
    for words in ([], ["fork"]):
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(directory.root), *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert owner.stdout is not None
        pid, fork = map(int, owner.stdout.readline().split())
        owner.stdout.close()
        owner.kill()
        owner.wait()
        if fork:
            time.sleep(3 * PAUSE_SECONDS_MAX)
            assert lives(pid), "it ended, though a worker can still answer"
            os.kill(fork, signal.SIGKILL)
        wait_until(lambda pid=pid: not lives(pid), "it has ended")  # type: ignore[misc]


def syncers(server_: Server) -> list[int]:
    """The processes of a server that fsync."""
    return [pid for pid, words in processes_of(server_.directory).items() if "sync_loop.py" in words]


def test_inlet_runs_one_starts_another_when_it_dies_and_leaves_none(serve: Callable[..., Server]) -> None:
    server_ = serve("--workers", "1")
    (first,) = syncers(server_)
    os.kill(first, signal.SIGKILL)
    (second,) = wait_until(lambda: [pid for pid in syncers(server_) if pid != first], "another one runs")
    wait_until(lambda: "its files are fsynced again" in server_.log(), "and works")
    assert server_.log().count(f"store: {sync_loop.ENDED}") == 1
    assert server_.stop() == 0
    assert not lives(second)


@pytest.mark.parametrize("fsync", ["everysec", "always"])
def test_the_store_fsyncs_itself_where_the_setting_says_so(serve: Callable[..., Server], fsync: str) -> None:
    server_ = serve("--workers", "1", INLET_FSYNC=fsync)
    assert not syncers(server_)
    with redis.Redis(unix_socket_path=str(server_.data_dir / SOCKET_NAME)) as client:
        assert client.config_get("appendfsync") == {"appendfsync": fsync}


@pytest.mark.parametrize(
    ("took", "pause"),
    [
        (0.0, PAUSE_SECONDS_MIN),
        (PAUSE_SECONDS_MIN / PAUSE_SHARE, PAUSE_SECONDS_MIN),
        (0.05, 0.05 * PAUSE_SHARE),
        (PAUSE_SECONDS_MAX / PAUSE_SHARE, PAUSE_SECONDS_MAX),
        (60.0, PAUSE_SECONDS_MAX),
    ],
)
def test_a_slow_disk_gets_longer_pauses_within_bounds(took: float, pause: float) -> None:
    assert pause_after(took) == pytest.approx(pause)


def test_files_are_synced_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    files = tmp_path / sync_loop.FILES_DIRECTORY
    files.mkdir()
    for number in (9, 10, 2):
        (files / f"appendonly.aof.{number}.incr.aof").write_bytes(b"x")
    (files / "appendonly.aof.1.base.rdb").write_bytes(b"x")
    base = "file appendonly.aof.1.base.rdb seq 1 type b\n"
    listed = [f"file appendonly.aof.{number}.incr.aof seq {number} type i\n" for number in (2, 9, 10)]
    (files / sync_loop.MANIFEST).write_text(base + "".join(listed))
    found = sync_loop.Files(str(tmp_path))
    found.sync()
    assert list(found._durable) == [f"appendonly.aof.{number}.incr.aof" for number in (2, 9, 10)]
