"""Faults of the store: killed, stopped, slow, full, read-only, loading, locked, misused.

What lives here: how each is made and undone, and how it must show. What must not: the order of a scenario.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import redis

from tests.faults import power_cut
from tests.faults.load import Answer
from tests.faults.oracle import connect
from tests.faults.rig import FAKETIME, STREAM, Rig, Store, no_private_mount, stopped
from tests.faults.scenario import WARM_ANSWERS, Fault, delayed, reported
from tests.support import wait_until

Command = tuple[str | int, ...]
FILLER_KEYS = 2_000
"""Commands to load at a millisecond each."""
ID_PART_MAX = 2**64 - 1
FUTURE_ID = 10**13 - 1
"""Milliseconds: in the year 2286."""
FSYNC_MICROSECONDS = 1_200_000
"""Of a slow disk: under every deadline of a commit."""
UNWRITTEN_BYTES = 16_384
ANSWERS_IN_FSYNC_MIN = 20
"""Requests answered 202 while one fsync is in progress: what a store that holds writes back would lose."""
LOOK_SECONDS = 0.02
DISK_BYTES = 16 * 2**20
SMALL_DISK = "/mnt"
"""Where only the server and its store see a small file system."""
ON_SMALL_DISK = {
    "own_store": False,
    "env": {"INLET_DATA_DIR": f"{SMALL_DISK}/data"},
    "python": (
        *("unshare", "--mount", "sh", "-c"),
        f'mount -t tmpfs -o size={4 * DISK_BYTES} inlet-faults {SMALL_DISK} && exec "$0" "$@"',
        sys.executable,
    ),
}
"""Keyword arguments of a Rig."""

AWAY = reported("sink-unavailable", "sink-outcome-unknown")
REFUSES = reported("sink-unavailable")
FULL = reported("sink-unavailable", "store-full")
MISUSED = reported("sink-misconfigured")
DISK = reported("sink-unavailable", "sink-outcome-unknown", "store-full")
REFUSES_OR_MISUSED = reported("sink-unavailable", "sink-misconfigured")
UNKNOWN = reported("sink-outcome-unknown", "durability-timeout")
SLOW = delayed(0.5)
ALL_LEVELS = ("stored", "synced", "replicated")


def kill_once_written(store: Store) -> None:
    """SIGKILL, when all that was answered is certain to be in the append-only file.

    Under ``everysec`` a store puts off write(2) while an fsync is in progress (see ``killed_in_fsync``), and answers
    meanwhile. Under the other policies it never answers before the write.
    """
    with store.client() as client:
        write_before_answers(client)
    store.kill()


def write_before_answers(client: Any) -> None:
    """Let a store write all that it answers from now on, and what it has put off; whether it syncs it or not."""
    if client.config_get("appendfsync")["appendfsync"] == "everysec":
        client.config_set("appendfsync", "no")


@contextlib.contextmanager
def killed(rig: Rig) -> Iterator[None]:
    """SIGKILL; then started again on the same files."""
    kill_once_written(rig.store)
    try:
        yield
    finally:
        rig.store.start()


@contextlib.contextmanager
def terminated(rig: Rig) -> Iterator[None]:
    """SIGTERM, at any time: a store writes what it has before it ends."""
    rig.store.signal(signal.SIGTERM)
    wait_until(lambda: not rig.store.alive(), "the store has ended")
    try:
        yield
    finally:
        rig.store.start()


@contextlib.contextmanager
def killed_in_fsync(rig: Rig) -> Iterator[None]:
    """SIGKILL in the middle of an fsync that takes long.

    Under ``everysec`` the store answers meanwhile, and keeps what it answered in its own memory for up to 2 s; under
    ``always`` it answers nobody.
    """
    slow = f"inject=fdatasync:delay_enter={FSYNC_MICROSECONDS}"
    trace = rig.store.root / "slow"
    with power_cut.traced(rig.store.pid, trace, "trace=fdatasync", slow):
        began = time.time()
        wait_until(functools.partial(caught_in_fsync, rig, began, trace), "an fsync is slow")
        rig.store.kill()
    try:
        yield
    finally:
        rig.store.start()


def caught_in_fsync(rig: Rig, began: float, trace: Path) -> bool:
    """Whether a kill now certainly takes what was answered; at ``synced``, whether the answers wait for the fsync.

    What was answered is looked for in the file while the store is stopped; otherwise it could still write it.
    """
    if rig.level == "synced":
        return any(answer.seconds > FSYNC_MICROSECONDS / 2e6 for answer in rig.load.since(began))
    if rig.store.command("INFO", "persistence")["aof_buffer_length"] <= UNWRITTEN_BYTES:
        return False
    power_cut.freeze(rig.store.pid, trace)
    (file,) = rig.store.directory.glob("appendonlydir/*.incr.aof")
    content = file.read_bytes()
    promised = [event_id for answer in rig.load.accepted(began) for event_id in answer.promised]
    if any(b'["%b"' % event_id.encode() not in content for event_id in promised):
        return True
    rig.store.signal(signal.SIGCONT)
    return False


@contextlib.contextmanager
def embedded_killed_in_fsync(rig: Rig) -> Iterator[None]:
    """SIGKILL to the embedded store in the middle of an fsync that takes long, whoever does it."""
    lock = rig.server.data_dir / "valkey.lock"
    before = lock.read_text()
    slow = f"inject=fdatasync:delay_enter={FSYNC_MICROSECONDS}"
    with contextlib.ExitStack() as stack:
        for pid in embedded_pids(rig):
            trace = rig.server.directory / f"slow-{pid}"
            stack.enter_context(power_cut.traced(pid, trace, "trace=fdatasync", slow))
        wait_until(functools.partial(answered_in_fsync, rig, time.time()), "an fsync is slow")
        os.kill(int(before), signal.SIGKILL)
    yield
    wait_until(lambda: lock.read_text() not in ("", before), "the master has started another store")


def embedded_pids(rig: Rig) -> list[int]:
    """The embedded store, and the process that fsyncs its files if there is one."""
    master = rig.server.process.pid
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    syncing = [pid for pid in children if b"sync_loop.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return [int((rig.server.data_dir / "valkey.lock").read_text()), *map(int, syncing)]


def answered_in_fsync(rig: Rig, began: float) -> bool:
    """Whether an fsync is in progress that requests were answered during, or at ``synced`` have waited for."""
    _, *syncing = embedded_pids(rig)
    if not syncing:
        return any(answer.seconds > FSYNC_MICROSECONDS / 2e6 for answer in rig.load.since(began))
    before = time.time()
    while power_cut.is_held(syncing[0]):
        if len(rig.load.accepted(before)) > ANSWERS_IN_FSYNC_MIN:
            return True
        time.sleep(LOOK_SECONDS)
    return False


@contextlib.contextmanager
def halted(rig: Rig) -> Iterator[None]:
    """SIGSTOP: connections stay, nobody answers."""
    with stopped(rig.store.pid):
        yield


def refused_by(make: Sequence[Command], undo: Sequence[Command]) -> Callable[[Rig], AbstractContextManager[None]]:
    """A fault that commands make, and commands undo."""

    @contextlib.contextmanager
    def inject(rig: Rig) -> Iterator[None]:
        for command in make:
            rig.store.command(*command)
        try:
            yield
        finally:
            for command in undo:
                rig.store.command(*command)

    return inject


def repeated(*command: str | int) -> Callable[[Rig], AbstractContextManager[None]]:
    """A command that holds the store up for a second, again until a client has noticed."""

    @contextlib.contextmanager
    def inject(rig: Rig) -> Iterator[None]:
        began = time.time()
        while not SLOW(rig, rig.load.since(began)):
            rig.store.command(*command)
            time.sleep(1)
        yield

    return inject


@contextlib.contextmanager
def loading(rig: Rig) -> Iterator[None]:
    """Killed, and slow to read its file again: it answers LOADING for seconds."""
    with rig.store.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in range(FILLER_KEYS):
            pipeline.set(f"filler:{number}", number)
        pipeline.execute()
    kill_once_written(rig.store)
    # Microseconds a command; and how many bytes it loads between two looks at its clients.
    rig.store.launch(key_load_delay="1000", loading_process_events_interval_bytes="1024")
    try:
        yield
    finally:
        wait_until(rig.store.serves, "the store has loaded")


@contextlib.contextmanager
def snapshot_fails(rig: Rig) -> Iterator[None]:
    """BGSAVE cannot put its file in place, and stop-writes-on-bgsave-error turns that into MISCONF."""
    rig.store.config(save="3600 1000000", stop_writes_on_bgsave_error="yes")
    obstacle = rig.store.directory / "dump.rdb" / "in-the-way"
    obstacle.parent.unlink(missing_ok=True)  # a soak comes here again, and a snapshot was saved
    obstacle.mkdir(parents=True)

    def save(status: str) -> None:
        with contextlib.suppress(redis.ResponseError):  # One is running.
            rig.store.command("BGSAVE")
        said = lambda: rig.store.command("INFO", "persistence")["rdb_last_bgsave_status"] == status  # noqa: E731
        wait_until(said, f"BGSAVE ends with {status}")

    save("err")
    try:
        yield
    finally:
        shutil.rmtree(obstacle.parent)
        save("ok")
        rig.store.config(save="")


@contextlib.contextmanager
def password_set(rig: Rig) -> Iterator[None]:
    """requirepass, and every connection cut: NOAUTH for whoever comes back without it."""
    with rig.store.client() as client:
        # Connected before the password is there, this one stays in.
        client.execute_command("CONFIG", "SET", "requirepass", "secret")
        client.execute_command("AUTH", "secret")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        try:
            yield
        finally:
            client.execute_command("CONFIG", "SET", "requirepass", "")


@contextlib.contextmanager
def back_with_password(rig: Rig) -> Iterator[None]:
    """Killed; and what comes back wants a password: the circuit is open, and its cause another one than before."""
    began = time.time()
    kill_once_written(rig.store)
    wait_until(lambda: AWAY(rig, rig.load.since(began)), "clients get the answer that the store is away")
    rig.store.launch(requirepass="secret")
    with connect(rig.store.socket_path, password="secret") as client:
        try:
            yield
        finally:
            client.config_set("requirepass", "")


@contextlib.contextmanager
def other_type(rig: Rig) -> Iterator[None]:
    """The stream is moved away, and a string is at its key: WRONGTYPE."""
    with rig.store.client() as client, client.pipeline(transaction=True) as moved:
        moved.rename(STREAM, rig.another_stream()).set(STREAM, "not a stream").execute()
    try:
        yield
    finally:
        rig.store.command("DEL", STREAM)


@contextlib.contextmanager
def busy(rig: Rig) -> Iterator[None]:
    """A script that does not end: BUSY, after busy-reply-threshold."""
    rig.store.config(busy_reply_threshold=100)

    def script() -> None:
        with contextlib.suppress(redis.ResponseError):
            rig.store.command("EVAL", "while true do end", 0)

    runner = threading.Thread(target=script)
    runner.start()
    try:
        yield
    finally:
        rig.store.command("SCRIPT", "KILL")
        runner.join()


@contextlib.contextmanager
def clients_full(rig: Rig) -> Iterator[None]:
    """maxclients is reached: whoever connects is turned away."""
    with rig.store.client() as client:
        # In this order: whoever is cut off cannot be back before the bound holds.
        client.execute_command("CONFIG", "SET", "maxclients", 1)
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        try:
            yield
        finally:
            client.execute_command("CONFIG", "SET", "maxclients", 1_000)


@contextlib.contextmanager
def last_id_taken(rig: Rig) -> Iterator[None]:
    """An entry with the last ID there is: no XADD * can follow. The operator moves the stream away."""
    rig.store.command("XADD", STREAM, f"{ID_PART_MAX}-{ID_PART_MAX}", "of", "the test")
    try:
        yield
    finally:
        rig.store.command("RENAME", STREAM, rig.another_stream())


@contextlib.contextmanager
def future_id(rig: Rig) -> Iterator[None]:
    """An entry of the year 2286, as if the clock had been there and was set back: IDs go on from it."""
    rig.store.command("XADD", STREAM, f"{FUTURE_ID}-0", "of", "the test")
    yield
    (last,) = rig.store.command("XREVRANGE", STREAM, "+", "-", "COUNT", 1)
    assert last[0].startswith(b"%d-" % FUTURE_ID), "the IDs did not go on from the future one"


def ids_go_on(rig: Rig, answers: list[Answer]) -> bool:
    """Records are accepted after the entry with the ID in the future."""
    return sum(answer.status == 202 for answer in answers) >= WARM_ANSWERS


def fill(ballast: Path) -> None:
    """Take all that is left of a file system."""
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 4_096):
            pass


@contextlib.contextmanager
def full_disk(rig: Rig) -> Iterator[None]:
    """A file takes the rest of the store's file system; a store that ended of it is started again."""
    ballast = rig.store.directory / "ballast"
    fill(ballast)
    try:
        yield
    finally:
        ballast.unlink()
        if not rig.store.alive():
            rig.store.start()


@contextlib.contextmanager
def full_disk_and_ended(rig: Rig) -> Iterator[None]:
    """The same, and the store is ended before there is space again: with it goes what it had answered from memory."""
    with full_disk(rig):
        yield
        if rig.store.alive():
            rig.store.signal(signal.SIGTERM)
            wait_until(lambda: not rig.store.alive(), "the store has ended")


@contextlib.contextmanager
def full_disk_of_embedded(rig: Rig) -> Iterator[None]:
    """A file takes the rest of the embedded store's disk, and the store is killed before there is space again."""
    disk = Path(f"/proc/{rig.server.process.pid}/root{SMALL_DISK}")
    # So that the oracle finds the socket: only the server's processes see the file system.
    rig.server.data_dir.symlink_to(disk / "data")
    fill(disk / "ballast")
    try:
        yield
    finally:
        lock = disk / "data" / "valkey.lock"
        before = lock.read_text()
        os.kill(int(before), signal.SIGKILL)
        (disk / "ballast").unlink()
        wait_until(lambda: lock.read_text() not in ("", before), "the master has started another store")


def no_libfaketime() -> str:
    """Why the store's clock cannot be set."""
    return "" if FAKETIME.exists() else "libfaketime is not installed"


@contextlib.contextmanager
def clock_set_back(rig: Rig) -> Iterator[None]:
    """The store's clock jumps an hour back: its IDs must go on from the last one all the same."""
    clock_file = Path(rig.store.directory) / "clock"
    clock_file.write_text("-1h\n")
    yield
    seconds, _ = rig.store.command("TIME")
    assert int(seconds) < time.time() - 3_000, "the store's clock was not set back"


# Writes wait this many milliseconds in the store, and then are done.
PAUSED_SHORTLY = repeated("CLIENT", "PAUSE", 1_000, "WRITE")
PAUSED = refused_by([("CLIENT", "PAUSE", 10_000, "WRITE")], [("CLIENT", "UNPAUSE")])
FULL_OF_DATA = refused_by([("CONFIG", "SET", "maxmemory", 1)], [("CONFIG", "SET", "maxmemory", 0)])
TOO_FEW_REPLICAS = refused_by(
    [("CONFIG", "SET", "min-replicas-to-write", 1)], [("CONFIG", "SET", "min-replicas-to-write", 0)]
)
READ_ONLY = refused_by([("REPLICAOF", "127.0.0.1", 1)], [("REPLICAOF", "NO", "ONE")])
NO_RIGHT = refused_by([("ACL", "SETUSER", "default", "-xadd")], [("ACL", "SETUSER", "default", "+@all")])
LOCAL_LEVELS = ("stored", "synced")
FAULTS = [
    Fault(
        name="store killed (SIGKILL), restarted",
        inject=killed,
        seen=AWAY,
        levels=("received", *ALL_LEVELS),
        loses=("received",),
    ),
    Fault(name="store ended (SIGTERM), restarted", inject=terminated, seen=AWAY),
    Fault(
        name="external store killed in mid-fsync (slow disk), restarted",
        inject=killed_in_fsync,
        seen=AWAY,
        levels=LOCAL_LEVELS,
        loses=("stored",),
        must_lose=("stored",),
        impossible=power_cut.no_strace,
    ),
    Fault(
        name="embedded store killed in mid-fsync (slow disk)",
        inject=embedded_killed_in_fsync,
        seen=AWAY,
        levels=LOCAL_LEVELS,
        impossible=power_cut.no_strace,
        rig={"own_store": False},
    ),
    Fault(name="store stopped (SIGSTOP) for 5 s", inject=halted, seen=UNKNOWN, levels=ALL_LEVELS, hold_seconds=3),
    Fault(name="store slow (CLIENT PAUSE 1 s)", inject=PAUSED_SHORTLY, seen=SLOW, levels=LOCAL_LEVELS),
    Fault(name="store slow (CLIENT PAUSE 10 s)", inject=PAUSED, seen=UNKNOWN, levels=LOCAL_LEVELS),
    Fault(name="store asleep (DEBUG SLEEP 1 s)", inject=repeated("DEBUG", "SLEEP", "1"), seen=SLOW),
    Fault(
        name="store out of memory (OOM)",
        inject=FULL_OF_DATA,
        seen=FULL,
        levels=("received", *LOCAL_LEVELS),
        loses=("received",),
    ),
    Fault(name="store turned into a replica (READONLY)", inject=READ_ONLY, seen=REFUSES, levels=LOCAL_LEVELS),
    Fault(name="store loading for seconds (LOADING)", inject=loading, seen=AWAY),
    Fault(name="snapshot fails (MISCONF)", inject=snapshot_fails, seen=REFUSES),
    Fault(name="password set (NOAUTH)", inject=password_set, seen=MISUSED),
    Fault(name="store killed, restarted with a password (NOAUTH)", inject=back_with_password, seen=MISUSED),
    Fault(name="right to write taken (NOPERM)", inject=NO_RIGHT, seen=MISUSED),
    Fault(name="another type at the key (WRONGTYPE)", inject=other_type, seen=MISUSED),
    Fault(name="script that does not end (BUSY)", inject=busy, seen=AWAY),
    Fault(name="too few replicas (NOREPLICAS)", inject=TOO_FEW_REPLICAS, seen=REFUSES, levels=LOCAL_LEVELS),
    Fault(name="store full of clients (maxclients)", inject=clients_full, seen=AWAY),
    Fault(name="the stream's last ID is taken", inject=last_id_taken, seen=REFUSES_OR_MISUSED),
    Fault(name="an ID in the future", inject=future_id, seen=ids_go_on, hold_seconds=0),
    Fault(
        name="store's clock set back an hour",
        inject=clock_set_back,
        seen=ids_go_on,
        impossible=no_libfaketime,
        rig={"clock": True},
    ),
    Fault(
        name="disk full under the append-only file",
        inject=full_disk,
        seen=DISK,
        levels=LOCAL_LEVELS,
        impossible=no_private_mount,
        rig={"disk_bytes": DISK_BYTES},
    ),
    Fault(
        name="disk full under the append-only file, store ended (SIGTERM)",
        inject=full_disk_and_ended,
        seen=DISK,
        levels=LOCAL_LEVELS,
        loses=("stored",),
        must_lose=("stored",),
        impossible=no_private_mount,
        rig={"disk_bytes": DISK_BYTES},
    ),
    Fault(
        name="disk full under the embedded store, which is killed (SIGKILL)",
        inject=full_disk_of_embedded,
        seen=reported("store-full"),
        levels=LOCAL_LEVELS,
        impossible=no_private_mount,
        rig=ON_SMALL_DISK,
    ),
]
