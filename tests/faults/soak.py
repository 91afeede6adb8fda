"""``python -m tests.faults.soak --minutes 10 [--seed N]``: load, one random fault after another, nothing lost.

What lives here: the choice of faults, and what must not grow. What must not: how a fault is made (``*_faults``).

One server and one store live through all of it. After each fault the oracle judges, and the stream is deleted, so that
memory that grows is a leak.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path

from tests.faults import client_faults, network_faults, process_faults, store_faults
from tests.faults.fuzz import resident
from tests.faults.load import CLIENTS
from tests.faults.network_faults import PROXIED
from tests.faults.rig import Rig
from tests.faults.scenario import Fault, explained, through
from tests.faults.table import line

LOAD_SHARE = 0.7
"""Of what the same clients get out of the server without a pause."""
CAPACITY_SECONDS = 5.0
CALM_SECONDS = 5.0
"""Undisturbed load after each fault's recovery."""
GROWTH_BYTES_MAX = 32 * 2**20
DESCRIPTORS_MORE_MAX = 8
"""Over the first measurement, for any worker: the store's connections, and clients' that come and go."""
ONCE = ("store loading for seconds (LOADING)", "an ID in the future")
"""Faults that another of their kind, or a file of any length, would make another fault."""
FAULTS = [
    fault
    for fault in (*store_faults.FAULTS, *network_faults.FAULTS, *process_faults.FAULTS, *client_faults.FAULTS)
    if "stored" in fault.levels
    and "stored" not in fault.loses
    and fault.rig in ({}, PROXIED)
    and fault.recovers
    and fault.name not in ONCE
]


def capacity_pace(rig: Rig) -> float:
    """The pause of a client, in seconds, at which the load is LOAD_SHARE of the most."""
    load = rig.new_load(pace=0)
    load.start()
    time.sleep(CAPACITY_SECONDS)
    load.stop()
    rate = len(load.answers) / CAPACITY_SECONDS
    print(f"at most {rate:.0f} requests/s from {CLIENTS} clients; going on with {LOAD_SHARE:.0%}", flush=True)
    return CLIENTS / rate * (1 / LOAD_SHARE - 1)


def sizes(rig: Rig) -> dict[int, tuple[int, int]]:
    """Of each worker: resident bytes, open descriptors."""
    return {pid: (resident(pid), len(os.listdir(Path(f"/proc/{pid}/fd")))) for pid in rig.server.workers()}


def cycle(rig: Rig, fault: Fault, pace: float) -> str:
    """One fault; its row. Raises AssertionError where anything is wrong."""
    rig.new_load(pace)
    row = through(fault, rig, calm_seconds=CALM_SECONDS)
    assert not row.wrong, f"{fault.name}: {row.wrong}"
    rig.store.command("DEL", *rig.streams)
    del rig.streams[1:]
    return line(row)


def main() -> None:
    """Soak. Raises AssertionError, with the answers and the log, where anything is wrong."""
    options = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seed", type=int, default=int(time.time()), help="printed, so that a run can be repeated")
    chosen = options.parse_args()
    print(f"seed {chosen.seed}; {len(FAULTS)} kinds of fault", flush=True)
    drawn = random.Random(chosen.seed)
    with Rig("stored", proxied=True) as rig, explained(rig):
        pace = capacity_pace(rig)
        rig.store.command("DEL", *rig.streams)
        first = sizes(rig)
        most_bytes, most_open = (max(values) for values in zip(*first.values(), strict=True))
        deadline = time.monotonic() + chosen.minutes * 60
        order: list[Fault] = []
        while time.monotonic() < deadline:
            # Each once, in a random order, before any comes again.
            order = order or drawn.sample(FAULTS, len(FAULTS))
            print(cycle(rig, order.pop(), pace))
            now = sizes(rig)
            shown = ", ".join(f"{size / 2**20:.1f} MiB {count} fds" for size, count in now.values())
            print(f"    workers: {shown}", flush=True)
            assert max(size for size, _ in now.values()) <= most_bytes + GROWTH_BYTES_MAX, f"memory grew: {first} {now}"
            assert max(count for _, count in now.values()) <= most_open + DESCRIPTORS_MORE_MAX, f"leak: {first} {now}"
    print("nothing lost, nothing doubled, nothing grown")


if __name__ == "__main__":
    main()
