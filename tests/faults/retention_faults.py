"""Faults around retention: the bound is full, a keeper comes back too late, a failover loses a consumer group.

What lives here: groups and keepers beside the load, and what they must not do to it. What must not: the keeper itself.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from inlet import Reader
from inlet.stream.keys import keeper_key
from tests.faults.aftermath import read_as_group
from tests.faults.network_faults import FAILOVER, PROXIED, promote, rejoin
from tests.faults.oracle import Address, read_lines
from tests.faults.proxy import HOLE, REFUSE
from tests.faults.rig import STREAM, Rig
from tests.faults.scenario import Fault, anything, reported
from tests.support import DEADLINE_SECONDS, ROOT, wait_until

ENTRIES_MAX = 50
"""Of retention: a fraction of what the load adds before the fault."""
EVERY_SECONDS = 0.2
"""Between two looks of the keeper that a scenario starts."""
LOOKS = 3
"""Looks after which a keeper has surely seen what was there before the first of them."""
RESUME_SECONDS = 30.0
"""Until records are accepted again after the acks: 15 s are promised; twice that, since machines are shared."""


@contextlib.contextmanager
def unread(rig: Rig) -> Iterator[None]:
    """A group reads nothing, so that retention is full; then it reads on and acks everything, to the end of the run."""
    with rig.reader() as client:
        client.xgroup_create(STREAM, "readers", id="0", mkstream=True)
    yield
    reader = Reader(rig.reader_url, STREAM, "readers")

    def read() -> None:
        with reader:
            for entry in reader:
                rig.consumed.update((Address(STREAM, entry.entry_id, line), entry.raw(line)) for line in entry.lines)
                reader.ack(entry)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    rig.at_end(thread.join)
    rig.at_end(reader.stop)


@contextlib.contextmanager
def keeper(rig: Rig) -> Iterator[None]:
    """``inlet trim --watch`` through the proxy."""
    words = ["trim", "--watch", "--every", str(EVERY_SECONDS), "--retention", f"entries={ENTRIES_MAX}"]
    where = ["--url", f"redis://127.0.0.1:{rig.proxy.port}/0", "--stream", STREAM]
    process = subprocess.Popen(
        [sys.executable, "-m", "inlet", *words, *where], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
        assert process.poll() is None, f"the keeper ended with status {process.returncode}"
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)


def looked(client: Any, looks: int = LOOKS) -> None:
    """Wait until a keeper has looked so often, as its renewals of the lease show (PTTL)."""
    deadline, last = time.monotonic() + DEADLINE_SECONDS, sys.maxsize
    while looks:
        now = client.pttl(keeper_key(STREAM))
        looks -= now > last
        last = now
        assert time.monotonic() < deadline, "the keeper does not look"
        time.sleep(EVERY_SECONDS / 10)


def ack_all(client: Any, group: str) -> None:
    """Read and ack as ``group`` all that is there now."""
    with contextlib.suppress(Exception):
        client.xgroup_create(STREAM, group, id="0")
    while batch := client.xreadgroup(group, "test", {STREAM: ">"}, count=1_000):
        client.xack(STREAM, group, *[entry_id for entry_id, _ in batch[0][1]])


@contextlib.contextmanager
def late_keeper(rig: Rig) -> Iterator[None]:
    """A keeper's trim is held up past its lease; a group is created meanwhile, for which nothing may be trimmed."""
    with rig.reader() as client:
        ack_all(client, "old")
        rig.proxy.hold = b"XTRIM"
        with keeper(rig):
            wait_until(lambda: rig.proxy.held, "the keeper trims")
            client.xgroup_create(STREAM, "late", id="0")
            # As if it had run out.
            client.delete(keeper_key(STREAM))
            rig.proxy.hold = b""
            looked(client)
            yield


@contextlib.contextmanager
def group_lost(rig: Rig) -> Iterator[None]:
    """A group is created, the store is killed, and the replica that is promoted has not heard of the group."""
    url = f"redis://127.0.0.1:{rig.proxy.port}/0"
    with rig.reader() as client:
        ack_all(client, "old")
        wait_until(rig.in_step, "the replica has the old group")
        with keeper(rig):
            rig.link.mode = HOLE
            with Reader(url, STREAM, "new") as reader:
                next(iter(reader.entries(forever=False)))
            looked(client)
            rig.store.kill()
            rig.link.mode = REFUSE
            rig.link.reset_all()
            promote(rig)
            read_late(rig, url)
            try:
                yield
            finally:
                rejoin(rig)


def read_late(rig: Rig, url: str) -> None:
    """On the promoted replica the old group acks everything, the keeper looks, and only then the new group is back."""
    with rig.reader() as client:
        held = dict(read_lines(client, STREAM))
        assert len(held) > ENTRIES_MAX, "there is nothing to trim"
        ack_all(client, "old")
        looked(client)
    got = {address: line for address, (line, _) in read_as_group(url, STREAM, "new")}
    rig.consumed.update(got)
    missing = len(held.keys() - got.keys())
    assert not missing, f"{missing} of {len(held)} records were trimmed that the group had not read"


FAULTS = [
    Fault(
        name="retention full, until its group acks",
        inject=unread,
        seen=reported("backlog-full"),
        rig={"env": {"INLET_RETENTION": f"entries={ENTRIES_MAX}"}},
        recovery_seconds=RESUME_SECONDS,
    ),
    Fault(
        name="keeper stopped past its lease, a group created meanwhile", inject=late_keeper, seen=anything, rig=PROXIED
    ),
    Fault(
        name="store killed, a replica without the newest group promoted",
        inject=group_lost,
        seen=anything,
        loses=("stored",),
        rig=FAILOVER,
    ),
]
