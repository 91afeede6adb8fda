"""Faults of the server's own processes: killed, reloaded, scaled, recycled, ended, out of descriptors.

What lives here: what is done to gunicorn under load, and how it must show. What must not: the store's faults.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator

from tests.faults.load import REFUSED, RESET, Answer
from tests.faults.rig import WORKERS, Rig
from tests.faults.scenario import Fault, anything, reported
from tests.support import wait_until

KILLS = 4
KILL_SEED, KILL_SECONDS_MAX = 7, 0.2
"""Workers are killed at instants drawn up to this far apart, the same ones in every run."""
REQUESTS_MAX = 150
"""max_requests: at some hundred requests a second, a worker is replaced every second."""
DESCRIPTORS_MAX = 64
FEW_DESCRIPTORS = {"python": ("prlimit", f"--nofile={DESCRIPTORS_MAX}:{DESCRIPTORS_MAX}", sys.executable)}
IDLE_CONNECTIONS = 3 * DESCRIPTORS_MAX
"""Over what all workers together may open."""
STALL_SECONDS = 1.0
"""A new connection that has no answer for this long is stalled."""
ALL_LEVELS = ("stored", "synced", "replicated")


@contextlib.contextmanager
def workers_killed(rig: Rig) -> Iterator[None]:
    """SIGKILL to one worker after another, in the middle of whatever they do."""
    drawn = random.Random(KILL_SEED)
    for _ in range(KILLS):
        (victim, *_) = wait_until(lambda: rig.server.workers() if whole(rig) else [], "both workers run")
        time.sleep(drawn.uniform(0, KILL_SECONDS_MAX))
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        wait_until(functools.partial(gone, rig, victim), "the worker is gone")
    yield
    wait_until(lambda: whole(rig), "both workers run again")


def whole(rig: Rig, workers: int = WORKERS) -> bool:
    """Whether as many workers run as should."""
    return len(rig.server.workers()) == workers


def gone(rig: Rig, pid: int) -> bool:
    """Whether this worker has ended."""
    return pid not in rig.server.workers()


@contextlib.contextmanager
def reloaded(rig: Rig) -> Iterator[None]:
    """HUP: new workers, and the old ones end gracefully."""
    before = set(rig.server.workers())
    rig.server.signal(signal.SIGHUP)
    wait_until(lambda: whole(rig) and not before & set(rig.server.workers()), "all workers are new")
    yield


@contextlib.contextmanager
def scaled(rig: Rig) -> Iterator[None]:
    """TTIN twice, then TTOU twice."""
    for number, workers in ((signal.SIGTTIN, 3), (signal.SIGTTIN, 4), (signal.SIGTTOU, 3), (signal.SIGTTOU, 2)):
        rig.server.signal(number)
        wait_until(functools.partial(whole, rig, workers), f"{workers} workers")
    yield


@contextlib.contextmanager
def recycled(rig: Rig) -> Iterator[None]:
    """max_requests replaces the workers; nothing to do but wait for it."""
    booted = len(rig.server.booted())
    wait_until(lambda: len(rig.server.booted()) >= booted + 2 * WORKERS, "every worker was replaced")
    yield


@contextlib.contextmanager
def ended(rig: Rig) -> Iterator[None]:
    """TERM: what was read is answered, then the port is closed."""
    rig.server.signal(signal.SIGTERM)
    assert rig.server.process.wait(30) == 0, "gunicorn did not end cleanly"
    yield


@contextlib.contextmanager
def out_of_descriptors(rig: Rig) -> Iterator[None]:
    """More idle connections than the workers may have open."""
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            stack.enter_context(socket.create_connection((rig.server.host, rig.server.port), 30))
        yield


@contextlib.contextmanager
def out_of_descriptors_and_store(rig: Rig) -> Iterator[None]:
    """As ``out_of_descriptors``; and the connections to the store are cut, so that new ones are needed."""
    with out_of_descriptors(rig):
        wait_until(functools.partial(stalled, rig, []), "the descriptors are used up")
        rig.store.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        yield


def stalled(rig: Rig, answers: list[Answer]) -> bool:
    """A new connection is not answered while the descriptors are used up, or is cut."""
    with socket.create_connection((rig.server.host, rig.server.port), STALL_SECONDS) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: faults\r\n\r\n")
        try:
            return not connection.recv(1)
        except OSError:
            return True


@contextlib.contextmanager
def embedded_store_killed(rig: Rig) -> Iterator[None]:
    """SIGKILL to the embedded store, at any time; gunicorn's master starts it again on the same files."""
    lock = rig.server.data_dir / "valkey.lock"
    before = lock.read_text()
    os.kill(int(before), signal.SIGKILL)
    yield
    wait_until(lambda: lock.read_text() not in ("", before), "the master has started another store")


FAULTS = [
    Fault(name="workers killed (SIGKILL)", inject=workers_killed, seen=reported(RESET), levels=ALL_LEVELS),
    Fault(name="HUP under load", inject=reloaded, seen=anything),
    Fault(name="TTIN and TTOU under load", inject=scaled, seen=anything),
    Fault(
        name="workers recycled (max_requests)",
        inject=recycled,
        seen=anything,
        rig={"args": ("--max-requests", str(REQUESTS_MAX))},
    ),
    Fault(name="TERM under load", inject=ended, seen=reported(REFUSED), levels=ALL_LEVELS, recovers=False),
    Fault(name="no file descriptor left", inject=out_of_descriptors, seen=stalled, rig=FEW_DESCRIPTORS),
    Fault(
        name="no file descriptor left, the store's connections cut",
        inject=out_of_descriptors_and_store,
        seen=anything,
        rig=FEW_DESCRIPTORS,
    ),
    Fault(
        name="embedded store killed (SIGKILL)",
        inject=embedded_store_killed,
        seen=reported("sink-unavailable", "sink-outcome-unknown"),
        levels=("stored", "synced"),
        rig={"own_store": False},
    ),
]
