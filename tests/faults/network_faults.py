"""Faults of the network: between the server and the store, and between the store and its replica.

What lives here: resets, black holes, replicas left behind, failover. What must not: how a proxy does it (``proxy``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from tests.faults.proxy import AFTER, BEFORE, HALF_REPLY, HOLE, MIDDLE, PASS, REFUSE
from tests.faults.rig import Rig
from tests.faults.scenario import WARM_ANSWERS, Fault, anything, reported
from tests.support import wait_until

CUT = reported("sink-unavailable", "sink-outcome-unknown")
UNKNOWN = reported("sink-outcome-unknown")
LATE = reported("durability-timeout", "sink-outcome-unknown")
ALL_LEVELS = ("stored", "synced", "replicated")
PROXIED = {"proxied": True}
FAILOVER = {"proxied": True, "replica": True}


def proxied(mode: str) -> Callable[[Rig], AbstractContextManager[None]]:
    """The proxy before the store misbehaves; it must have had something to cut."""

    @contextlib.contextmanager
    def inject(rig: Rig) -> Iterator[None]:
        rig.proxy.mode = mode
        if mode == REFUSE:
            rig.proxy.reset_all()
        try:
            yield
        finally:
            rig.proxy.mode = PASS
        assert mode == REFUSE or rig.proxy.hits, "nothing passed the proxy"

    return inject


@contextlib.contextmanager
def replica_behind(rig: Rig) -> Iterator[None]:
    """Nothing passes between the store and its replica."""
    rig.link.mode = HOLE
    try:
        yield
    finally:
        rig.link.mode = PASS


@contextlib.contextmanager
def replica_killed(rig: Rig) -> Iterator[None]:
    """The replica is killed, and comes back."""
    rig.replica.kill()
    try:
        yield
    finally:
        rig.replica.start()
        wait_until(rig.in_step, "the replica is in step again")


@contextlib.contextmanager
def failover(rig: Rig) -> Iterator[None]:
    """The store is killed and its replica promoted; the old store comes back as a replica of the new one."""
    rig.store.kill()
    promote(rig)
    try:
        yield
    finally:
        rejoin(rig)


@contextlib.contextmanager
def failover_behind(rig: Rig) -> Iterator[None]:
    """As ``failover``, of a replica that had not got the last records: 202s go on only where they may be lost."""
    rig.link.mode = HOLE
    # Only now: what is sent from here on cannot have reached the replica.
    began = time.time()
    wait_until(lambda: went_on(rig, began), "the level answers as it promises while the replica is behind")
    rig.store.kill()
    # What the link still held is lost with the machine that sent it.
    rig.link.mode = REFUSE
    rig.link.reset_all()
    promote(rig)
    try:
        yield
    finally:
        rejoin(rig)


def went_on(rig: Rig, began: float) -> bool:
    """What clients get while the replica is behind: 202 at ``stored``, no 202 at ``replicated``."""
    if rig.level == "replicated":
        return LATE(rig, rig.load.since(began))
    return len(rig.load.accepted(began)) >= WARM_ANSWERS


def promote(rig: Rig) -> None:
    """REPLICAOF NO ONE, and the server's address for the store leads there."""
    rig.replica.command("REPLICAOF", "NO", "ONE")
    rig.proxy.target = rig.replica.socket_path
    rig.holder = rig.replica


def rejoin(rig: Rig) -> None:
    """The old store as a replica of the new one; what it alone had is gone."""
    rig.link.target, rig.link.mode = rig.replica.socket_path, PASS
    rig.store.start(replicaof=f"127.0.0.1 {rig.link.port}")
    wait_until(rig.in_step, "the old store is in step with the new one")


FAULTS = [
    Fault(name="connection reset before the commit arrives", inject=proxied(BEFORE), seen=UNKNOWN, rig=PROXIED),
    Fault(name="connection reset in the middle of a commit", inject=proxied(MIDDLE), seen=UNKNOWN, rig=PROXIED),
    Fault(
        name="connection reset after the commit, before its reply",
        inject=proxied(AFTER),
        # The fault can come between the reply to XADD and the one to WAIT or WAITAOF.
        seen=LATE,
        levels=ALL_LEVELS,
        rig=PROXIED,
    ),
    Fault(name="connection reset in the middle of the reply", inject=proxied(HALF_REPLY), seen=UNKNOWN, rig=PROXIED),
    Fault(name="every connection to the store reset", inject=proxied(REFUSE), seen=CUT, rig=PROXIED),
    Fault(name="black hole before the store", inject=proxied(HOLE), seen=LATE, levels=ALL_LEVELS, rig=PROXIED),
    Fault(name="black hole before the replica", inject=replica_behind, seen=LATE, levels=("replicated",)),
    Fault(name="replica killed, restarted", inject=replica_killed, seen=LATE, levels=("replicated",)),
    Fault(
        name="store killed, its replica promoted",
        inject=failover,
        seen=anything,
        levels=("stored", "replicated"),
        loses=("stored",),
        rig=FAILOVER,
    ),
    Fault(
        name="store killed, a replica that was behind promoted",
        inject=failover_behind,
        seen=anything,
        levels=("stored", "replicated"),
        loses=("stored",),
        must_lose=("stored",),
        rig=FAILOVER,
    ),
]
