"""A full disk under the embedded store: nothing that was answered 202 is lost, over a stop, a kill, and a restart."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import ujson

from tests.faults.load import Load
from tests.faults.oracle import judge, read_back
from tests.faults.rig import no_private_mount
from tests.store.disk import MKFS, Disk, small_disk
from tests.support import DEADLINE_SECONDS, Server, record, wait_until
from wsgi.sink.watcher import SAMPLE_SECONDS
from wsgi.store.disk import REFILL_SHARE, RESERVE_BYTES, RESERVE_SHARE, Reserve

DISK_BYTES = 64 * 2**20
WARM_ANSWERS = 100
FILE = "appendonlydir/appendonly.aof.1.incr.aof"
GET_READY = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
MASTER = """
import os, sys
from pathlib import Path
from wsgi.store import embedded
from wsgi.store.errors import StoreError
embedded.STOP_SECONDS_MAX = float(sys.argv[2])
store = embedded.EmbeddedStore(Path(sys.argv[1]))
try:
    store.start()
except StoreError as error:
    os.write(1, f"refused {error.detail}\\n".encode())
    sys.exit(1)
os.write(1, b"ready\\n")
sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(bool(no_private_mount()), reason=no_private_mount())


def kinds(*names: str) -> list[str]:
    return [name for name in names if name == "tmpfs" or os.access(MKFS, os.X_OK)]


@pytest.fixture
def disk(request: pytest.FixtureRequest) -> Iterator[Disk]:
    with small_disk(DISK_BYTES, getattr(request, "param", "tmpfs")) as disk:
        yield disk


@contextlib.contextmanager
def serving(disk: Disk) -> Iterator[tuple[Server, Load]]:
    """Inlet on the disk, under load that flows; both are ended."""
    server = disk.serve("--workers", "2")
    load = Load(f"disk-{os.getpid()}-{time.monotonic_ns()}", lambda: (server.host, server.port), pace=0.001)
    try:
        load.start()
        wait_until(lambda: len(load.accepted()) >= WARM_ANSWERS, "load flows")
        yield server, load
    finally:
        load.stop()
        server.close()


def refused(load: Load, began: float) -> None:
    """Return once no client has got a 202 for a second."""

    def is_refused() -> bool:
        statuses = {answer.status for answer in load.since(max(began, time.time() - 1))}
        return 503 in statuses and 202 not in statuses and time.time() > began + 1

    wait_until(is_refused, "everything is refused")


def lost(disk: Disk, load: Load) -> int:
    """Records that were answered 202 and are not there after a restart on a disk with space."""
    disk.free()
    server = disk.serve("--workers", "1")
    try:
        wait_until(lambda: server.send(GET_READY)[0] == 200, "it is ready")
        with disk.client() as client:
            verdict = judge(load.answers, read_back(client, "logs"))
    finally:
        server.close()
    assert verdict.answered >= WARM_ANSWERS
    assert not verdict._replace(lost=0).faults()
    return verdict.lost


@pytest.mark.parametrize(
    ("disk", "end"),
    [
        pytest.param(kind, end)
        for kind, end in zip(kinds("tmpfs", "ext4"), (signal.SIGTERM, signal.SIGKILL), strict=False)
    ],
    indirect=["disk"],
)
def test_the_batch_that_met_a_full_disk_was_lost_when_the_store_ended(disk: Disk, end: signal.Signals) -> None:
    """Regression: it was answered 202 from the store's memory, and gone with it. Now no write meets a full disk."""
    with serving(disk) as (server, load):
        began = time.time()
        disk.fill()
        refused(load, began)
        assert {answer.reason for answer in load.since(began) if answer.status == 503} == {"store-full"}
        if end == signal.SIGKILL:
            os.kill(disk.store_pid(), end)
        load.stop()
        assert server.stop() == 0
    assert "Error writing to the AOF" not in (disk.seen_as / "data" / "valkey.log").read_text()
    assert lost(disk, load) == 0


def test_records_are_refused_while_the_disk_is_full_and_accepted_once_it_is_not(disk: Disk) -> None:
    with serving(disk) as (server, load):
        began = time.time()
        disk.fill()
        refused(load, began)
        status, headers, body = server.send(GET_READY)
        document = ujson.loads(body)
        assert (status, document["reason"], document["retryable"]) == (503, "store-full", True)
        assert re.fullmatch(
            rf"the disk of {disk.data_dir} is nearly full: \d+ bytes are free, and \d+ are needed to accept records; "
            "free some space",
            document["detail"],
        )
        assert int(headers["retry-after"]) > 1
        disk.free()
        freed = time.time()
        wait_until(lambda: load.accepted(freed), "records are accepted again")
        assert server.log().count("reason=store-full") <= 2  # one line a worker
        load.stop()
        server.stop()
    assert lost(disk, load) == 0


@pytest.mark.parametrize("disk", kinds("ext3"), indirect=True)
def test_where_no_space_can_be_set_aside_records_are_refused_before_the_disk_is_full(disk: Disk) -> None:
    with serving(disk) as (server, load):
        began = time.time()
        with open(disk.seen_as / "ballast", "wb") as ballast:
            space = os.statvfs(disk.seen_as)
            ballast.write(b"\0" * (space.f_bavail * space.f_frsize - DISK_BYTES // RESERVE_SHARE // 2))
        refused(load, began)
        assert "reason=store-full" in server.log()
        load.stop()
        server.stop()
    assert lost(disk, load) == 0


def test_a_store_that_was_killed_comes_back_while_the_disk_is_still_full(disk: Disk) -> None:
    with serving(disk) as (server, load):
        began = time.time()
        disk.fill()
        refused(load, began)
        before = disk.store_pid()
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: disk.store_pid() != before, "the master has started another")
        wait_until(lambda: "was restarted" in server.log(), "the master has noticed that it serves")
        load.stop()
        with disk.client() as client:
            assert not judge(load.answers, read_back(client, "logs")).faults()
        wait_until(lambda: server.send(GET_READY)[0] == 503, "it still refuses")


@pytest.mark.parametrize("restarts", [False, True])
def test_a_disk_full_of_trimmed_records_stayed_full(disk: Disk, restarts: bool) -> None:
    """Regression: the store rewrote its files only once they had grown, which refused records do not make them."""
    server = disk.serve("--workers", "2")
    try:

        def is_accepted() -> bool:
            return server.send(post_of(record()))[0] == 202

        wait_until(is_accepted, "records are stored")
        with disk.client() as client:
            while server.send(post_of(record()))[0] == 202:
                for _ in range(100):
                    client.xadd("logs", {"r": os.urandom(20_000)}, maxlen=10, approximate=False)
                time.sleep(SAMPLE_SECONDS)  # Faster, and the reserve would not do: these are not refused.
        if restarts:
            server.stop()
            server.close()
            server = disk.serve("--workers", "2")
        # First: a worker that has not looked yet accepts.
        wait_until(lambda: "rewriting them" in server.log(), "the files are rewritten")
        wait_until(is_accepted, "records are stored again")
        server.stop()
    finally:
        server.close()


def post_of(document: dict[str, object]) -> bytes:
    body = ujson.dumps(document).encode()
    head = b"POST /ingest HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


@contextlib.contextmanager
def master(disk: Disk, stop_seconds: float = 60.0) -> Iterator[subprocess.Popen[str]]:
    """A process that starts the store without a worker, so that nobody sets space aside; it ends with its stdin."""
    command = [*disk.python(), "-c", MASTER, str(disk.data_dir), str(stop_seconds)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def write_until_refused(disk: Disk) -> int:
    """Entries that the store has acknowledged, the last one from memory."""
    disk.fill()
    count = 0
    with disk.client() as client:

        def is_written() -> bool:
            try:
                return bool(client.xadd("logs", {"r": "x" * 1_000}))
            except redis.ResponseError:
                return False

        while is_written():
            count += 1
    return count


def test_a_stop_waits_until_what_a_full_disk_has_held_up_is_written(disk: Disk) -> None:
    with master(disk) as process:
        assert line(process) == "ready\n"
        count = write_until_refused(disk)
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.close()
        assert "holds records that it cannot write" in process.stderr.readline()
        assert process.poll() is None
        disk.free()
        assert process.wait(DEADLINE_SECONDS) == 0
    with master(disk) as process:
        assert line(process) == "ready\n"
        with disk.client() as client:
            assert client.xlen("logs") == count


def test_a_store_that_cannot_write_is_left_running_and_the_next_start_loses_nothing(disk: Disk) -> None:
    with master(disk, stop_seconds=0.5) as process:
        assert line(process) == "ready\n"
        count = write_until_refused(disk)
        _, errors = process.communicate(timeout=DEADLINE_SECONDS)
        assert "is left to the next start" in errors
    with master(disk, stop_seconds=0.5) as process:
        refusal = line(process)
        assert refusal.startswith("refused a store of an earlier Inlet")
        assert "MISCONF" in refusal
        assert "free space" in refusal
    disk.free()
    with master(disk) as process:
        assert line(process) == "ready\n"
        with disk.client() as client:
            assert client.xlen("logs") == count


def files(data_dir: Path, size: int) -> Path:
    file = data_dir / FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * size)
    return file


def ahead(file: Path) -> int:
    status = file.stat()
    return status.st_blocks * 512 - status.st_size


def test_the_reserve_changes_neither_size_nor_content_and_is_refilled_once_an_eighth_is_used(disk: Disk) -> None:
    file = files(disk.seen_as, 1_000)
    reserve, wanted = Reserve(disk.seen_as), DISK_BYTES // RESERVE_SHARE
    assert reserve.refill() is None
    assert file.read_bytes() == b"x" * 1_000
    first = ahead(file)
    assert wanted <= first <= wanted + 8_192
    margin = wanted // REFILL_SHARE
    for used, refilled in ((first - wanted + margin - 4_096, False), (8_192, True)):
        with open(file, "ab") as more:
            more.write(b"y" * used)
        before = ahead(file)
        assert reserve.refill() is None
        assert (ahead(file) > before) is refilled


def test_the_reserve_is_at_most_an_eighth_of_the_disk_and_at_most_its_bound(tmp_path: Path, disk: Disk) -> None:
    space = os.statvfs(tmp_path)
    if space.f_bavail * space.f_frsize < 2 * RESERVE_BYTES:
        pytest.skip("this disk is too small for the test")
    large, small = files(tmp_path, 0), files(disk.seen_as, 0)
    assert Reserve(tmp_path).refill() is None
    assert Reserve(disk.seen_as).refill() is None
    assert RESERVE_BYTES <= ahead(large) <= RESERVE_BYTES + 2**20
    assert DISK_BYTES // RESERVE_SHARE <= ahead(small) <= DISK_BYTES // RESERVE_SHARE + 2**20
    shutil.rmtree(tmp_path / "appendonlydir")


def test_the_reserve_follows_the_newest_file_and_waits_for_the_first(disk: Disk) -> None:
    assert Reserve(disk.seen_as).refill() is None
    first = files(disk.seen_as, 1_000)
    second = first.with_name("appendonly.aof.10.incr.aof")
    second.write_bytes(b"")
    assert Reserve(disk.seen_as).refill() is None
    assert ahead(second) >= DISK_BYTES // RESERVE_SHARE
    assert ahead(first) < 8_192


def test_with_fsync_always_no_space_is_set_aside_and_the_free_space_decides(disk: Disk) -> None:
    file = files(disk.seen_as, 1_000)
    reserve = Reserve(disk.seen_as, ahead=False)
    assert reserve.refill() is None
    assert ahead(file) < 8_192
    disk.fill()
    assert reserve.refill() is not None


@pytest.mark.parametrize("more", [0, 1])
def test_records_are_refused_when_less_than_an_eighth_of_the_disk_is_free(disk: Disk, more: int) -> None:
    files(disk.seen_as, 1_000)
    reserve = Reserve(disk.seen_as)
    assert reserve.refill() is None
    space = os.statvfs(disk.seen_as)
    least = DISK_BYTES // RESERVE_SHARE // space.f_frsize
    with open(disk.seen_as / "ballast", "wb") as ballast:
        ballast.write(b"\0" * (space.f_bavail - least + more) * space.f_frsize)
    refusal = reserve.refill()
    assert (refusal is not None) is bool(more)
    if refusal:
        assert f"{(least - 1) * space.f_frsize} bytes are free, and {DISK_BYTES // RESERVE_SHARE} are needed" in refusal
