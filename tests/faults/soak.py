"""``python -m tests.faults.soak --minutes 60 [--seed N]``: load, faults, consumers killed all along, nothing lost.

What lives here: the choice of faults, what must not grow, and the figures in the end. What must not: how a fault is
made (``*_faults``), the consumers (``crew``), and what became of each record (``ledger``).

One server and one store live through all of it, with retention so small that the stream is trimmed all the time, and is
full whenever the consumers stand still. With ``--embedded`` the store is Inlet's own, and is killed at any instant. The
exit status is 1 if anything is wrong, or if too little has happened.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from inlet.stream.keys import dead_key
from tests.faults import client_faults, network_faults, process_faults, store_faults
from tests.faults.aftermath import send
from tests.faults.client_faults import SHORT
from tests.faults.consumer import KINDS, POISON
from tests.faults.crew import GROUP, Crew
from tests.faults.fuzz import resident
from tests.faults.ledger import Ledger
from tests.faults.load import CLIENTS
from tests.faults.network_faults import PROXIED
from tests.faults.oracle import Verdict
from tests.faults.rig import STREAM, Rig
from tests.faults.scenario import Fault, Passage, explained, lead, reported, wrong
from tests.support import processes_of, wait_until

LOAD_SHARE = 0.6
"""Of what the same clients get out of the server without a pause, the consumers beside them."""
CAPACITY_SECONDS = 5.0
CALM_SECONDS = 3.0
"""Undisturbed load after each fault's recovery."""
RETENTION_SECONDS = 25.0
"""Of load that retention keeps: more than a killed consumer or poison holds back, and full soon without consumers."""
FULL_SECONDS = 240.0
"""How long it may take until retention is full, and until it no longer is: the machine may be busier than it was."""
READ_SECONDS = 0.5
"""Between two looks of the ledger: a fraction of RETENTION_SECONDS."""
SETTLE_SECONDS = 180.0
"""In the end, until everything is handled and acked: generous, since machines are shared."""
BESIDE = 4
"""Healthy records before a poison one in its request, and as many after it."""
SENDS_MAX = 60
"""Tries until a request with poison is accepted; each has ids of its own."""
GROWTH_BYTES_MAX = {"worker": 32 * 2**20, "master": 16 * 2**20, "store": 96 * 2**20}
"""Over the first measurement. The store's holds what the load's rate and the length of an outage make of the stream."""
DESCRIPTORS_MORE_MAX = {"worker": 16, "master": 8, "store": 48}
"""Over the first measurement: connections that come and go, each consumer's two and each worker's four among them."""
ONCE = ("store loading for seconds (LOADING)", "an ID in the future")
"""Faults that another of their kind, or a file of any length, would make another fault."""
FULL = "consumers stopped (SIGSTOP) until retention is full"
EMBEDDED = {"own_store": False}
EMBEDDED_ENTRIES = 6_000
"""Entries that retention keeps with the embedded store: it is set before the load can be measured."""
RECOVERING = [
    fault
    for fault in (*store_faults.FAULTS, *network_faults.FAULTS, *process_faults.FAULTS, *client_faults.FAULTS)
    if "stored" in fault.levels and "stored" not in fault.loses and fault.recovers and fault.name not in ONCE
]
FAULTS = [fault for fault in RECOVERING if fault.rig in ({}, PROXIED, SHORT)]
EMBEDDED_FAULTS = [
    fault
    for fault in RECOVERING
    if fault.rig in (EMBEDDED, SHORT) or (fault.rig == {} and fault not in store_faults.FAULTS)
]
COUNTED = (
    "requests", "answered 202", "refused", "outcome unknown", "outcome unknown, of which stored", "stored",
    "moved away by the operator", "handled", "handled records", "handled again",
)  # fmt: skip
"""Of the ledger's figures, those that are reported."""
LEAST_PER_MINUTE = {"faults": 1.0, "requests": 500.0, "answered 202": 500.0, "kills": 5.0, "handled again": 1.0}
"""What a run must have seen, for each of its minutes, to prove anything: a busy machine does several times that."""
LEAST = {"429": 1, "trimmed": 1_000, **{f"letters: {kind}": 1 for kind in KINDS}}
"""The same, for a run of any length."""


@dataclass
class Sizes:
    """Memory and descriptors of the server's and the store's processes, over the run."""

    bytes: dict[str, list[int]] = field(default_factory=dict)
    open: dict[str, list[int]] = field(default_factory=dict)

    def measure(self, rig: Rig) -> None:
        """Measure; of the workers, the largest."""
        pids = {"worker": rig.server.workers(), "master": [rig.server.process.pid], "store": [store_pid(rig)]}
        for name, each in pids.items():
            self.bytes.setdefault(name, []).append(max(map(resident, each)))
            self.open.setdefault(name, []).append(max(len(os.listdir(Path(f"/proc/{pid}/fd"))) for pid in each))

    def grown(self) -> list[str]:
        """What has grown, in words."""
        bounds = (("bytes", self.bytes, GROWTH_BYTES_MAX), ("descriptors", self.open, DESCRIPTORS_MORE_MAX))
        return [
            f"{name}: {what} grew from {sizes[name][0]} to {sizes[name][-1]}"
            for what, sizes, most in bounds
            for name in sizes
            if sizes[name][-1] > sizes[name][0] + most[name]
        ]


def rig_for(embedded: bool) -> Rig:
    """The rig of a run. The clients' deadlines are short, so that slow clients can be among the faults."""
    if embedded:
        kept = {"INLET_RETENTION": f"entries={EMBEDDED_ENTRIES}"}
        return Rig("stored", own_store=False, args=SHORT["args"], env=kept)
    return Rig("stored", proxied=True, args=SHORT["args"])


def store_pid(rig: Rig) -> int:
    """Of the store, whoever started it."""
    if rig.own_store:
        return rig.store.pid
    return int(wait_until((rig.server.data_dir / "valkey.lock").read_text, "the embedded store runs"))


class Soak:
    """A run over ``rig``."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig, self.drawn = rig, random.Random(seed)
        url = f"redis://127.0.0.1:{rig.proxy.port}/0" if rig.own_store else rig.reader_url
        # Not the server's, which is started again.
        root = rig.store.root if rig.own_store else rig.server.directory
        self.crew = Crew(url, STREAM, root / "crew", self.drawn)
        self.ledger = Ledger(rig.reader(), STREAM, self.crew)
        self.every = [f for f in (FAULTS if rig.own_store else EMBEDDED_FAULTS) if not f.impossible()]
        self.sizes, self.faults, self.statuses = Sizes(), Counter[str](), Counter[str]()
        self.longest_full = 0.0
        self._pace = 0.0
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._reading = threading.Thread(target=self._read, name="ledger", daemon=True)
        self.full = Fault(
            name=FULL, inject=lambda rig: self.crew.halted(), seen=reported("backlog-full"),
            seen_seconds=FULL_SECONDS, recovery_seconds=FULL_SECONDS,
        )  # fmt: skip

    def wrong(self) -> list[str]:
        """What broke a promise so far."""
        return [*self.ledger.wrong, *self.crew.wrong, *self.sizes.grown()]

    def warm(self) -> None:
        """Start the consumers, find the most that the clients get, and set the pace and the retention by it."""
        self.crew.start()
        self._reading.start()
        load = self.rig.new_load(pace=0)
        load.start()
        time.sleep(CAPACITY_SECONDS)
        load.stop()
        requests, added = len(load.answers) / CAPACITY_SECONDS, self.added() / CAPACITY_SECONDS
        self._pace = CLIENTS / requests * (1 / LOAD_SHARE - 1)
        entries = int(added * LOAD_SHARE * RETENTION_SECONDS)
        print(f"{requests:.0f} requests/s without a pause, {entries} entries in {RETENTION_SECONDS:.0f} s", flush=True)
        self.balance()
        if self.rig.own_store:
            self.rig.start_server(INLET_RETENTION=f"entries={entries}")

    def added(self) -> int:
        """Entries ever added to the stream."""
        return int(self.ledger.client.xinfo_stream(STREAM)["entries-added"])

    def run(self, minutes: float) -> None:
        """One fault after another; each once, in a random order, before any comes again. Stops at what is wrong."""
        deadline = time.monotonic() + minutes * 60
        order: list[Fault] = []
        while time.monotonic() < deadline and not self.wrong():
            order = order or [*self.drawn.sample(self.every, len(self.every)), self.full]
            fault = order.pop()
            try:
                with explained(self.rig):
                    self.cycle(fault)
            except AssertionError as error:
                self.ledger.wrong.append(f"{fault.name}: {error}")
                self.rig.load.stop()

    def cycle(self, fault: Fault) -> None:
        """One fault, with poison sent before it. Raises AssertionError as ``lead`` does."""
        self.rig.new_load(self._pace)
        for kind in KINDS:
            self.send_poison(kind)
        began = time.monotonic()
        passage = lead(fault, self.rig, calm_seconds=CALM_SECONDS)
        self.balance()
        self.faults[fault.name] += 1
        self.note(fault, passage)
        self.sizes.measure(self.rig)
        shown = ", ".join(
            f"{name} {sizes[-1] / 2**20:.0f} MiB {self.sizes.open[name][-1]} fds"
            for name, sizes in self.sizes.bytes.items()
        )
        print(
            f"{fault.name}: {time.monotonic() - began:.0f} s, again after {passage.recovered or 0:.1f} s; "
            f"{self.ledger.waiting()} records wait; {shown}; {dict(self.crew.deaths)}",
            flush=True,
        )

    def note(self, fault: Fault, passage: Passage) -> None:
        """Count the answers, and blame what no fault excuses."""
        self.statuses.update(
            f"{answer.status or ''} {answer.reason}".strip() for answer in self.rig.load.answers if answer.status != 202
        )
        if fault is self.full:
            self.longest_full = max(self.longest_full, passage.recovered or 0)
        nothing = Verdict(0, 0, 0, 0, 0, 0, 0)
        if words := wrong(nothing, passage.during, self.rig.server.log(), may_lose=False):
            self.ledger.wrong.append(f"{fault.name}: {words}")

    def send_poison(self, kind: str) -> None:
        """Send a poison record between healthy ones, until a request with one is accepted."""
        for _ in range(SENDS_MAX):
            number = next(self._numbers)
            healthy = [f"{self.rig.load.name}-beside-{number}-{place}" for place in range(2 * BESIDE)]
            ids = [*healthy[:BESIDE], f"{self.rig.load.name}{POISON}{kind}-{number}", *healthy[BESIDE:]]
            if send(self.rig, ids) == 202:
                return
            time.sleep(1)
        raise AssertionError(f"no request with poison was accepted of {SENDS_MAX}")

    def balance(self) -> None:
        """Balance the book of the load that has ended, and forget the streams that a fault moved away."""
        with self._lock:
            for moved in self.rig.streams[1:]:
                self.ledger.excuse(moved)
                self.ledger.client.delete(moved, dead_key(moved))
            del self.rig.streams[1:]
            self.ledger.balance(self.rig.load.name, self.rig.load.answers)
            self.ledger.settle()

    def end(self) -> None:
        """Let the consumers finish; everything must be handled, acked, and gone."""
        self.crew.spare()
        with contextlib.suppress(AssertionError):
            wait_until(self.is_done, "everything is handled and acked", SETTLE_SECONDS)
        with self._lock:
            if not self.is_done():
                self.ledger.wrong.append(f"{self.ledger.waiting()} records wait in the end; {self.groups()}")
        self.crew.stop()
        self._ended.set()
        self._reading.join()
        if left := processes_of(self.crew.directory):
            self.crew.wrong.append(f"left behind: {left}")

    def is_done(self) -> bool:
        """Whether no record waits, and nothing is unread or pending in the group."""
        behind = [group["pending"] or group["lag"] for group in self.groups() if group["name"] == GROUP.encode()]
        return behind == [0] and not self.ledger.waiting()

    def groups(self) -> list[dict[str, Any]]:
        """The stream's groups; none if a fault has not been undone."""
        with contextlib.suppress(redis.RedisError):
            return list(self.ledger.client.xinfo_groups(STREAM))
        return []

    def _read(self) -> None:
        while not self._ended.wait(READ_SECONDS):
            with self._lock:
                try:
                    self.ledger.read()
                    self.ledger.settle()
                except Exception as error:
                    self.ledger.wrong.append(f"the ledger: {error!r}")
                    return

    def figures(self) -> dict[str, float]:
        """What has happened, by name."""
        _, _, metrics = self.rig.server.send(b"GET /metrics HTTP/1.1\r\nHost: faults\r\nConnection: close\r\n\r\n")
        return {
            "faults": self.faults.total(),
            "kinds of fault": len(self.faults),
            **{name: self.ledger.count[name] for name in COUNTED},
            "429": self.statuses["429 backlog-full"],
            "503": sum(number for what, number in self.statuses.items() if what.startswith("503")),
            "kills": self.crew.deaths.total() - self.crew.deaths["the store refused"],
            **{f"consumers ended: {what}": number for what, number in sorted(self.crew.deaths.items())},
            "trimmed": counter(metrics, b"inlet_entries_trimmed_total"),
            **{f"letters: {kind}": self.letters(kind) for kind in (*KINDS, "healthy")},
        }

    def letters(self, kind: str = "") -> int:
        """Dead letters of records of this kind, or of any."""
        return sum(
            number for what, number in self.ledger.letters.items() if what.startswith(f"{kind}:" if kind else "")
        )

    def too_little(self, minutes: float) -> list[str]:
        """Why the run proves nothing, in words."""
        figures = self.figures()
        least = {**{name: rate * minutes for name, rate in LEAST_PER_MINUTE.items()}, **LEAST}
        few = [f"only {figures[n]} {n}, where {most:.0f} are needed" for n, most in least.items() if figures[n] < most]
        return [*few, *([] if self.faults[FULL] else ["retention was never full"])]


def report(soak: Soak, seed: int, minutes: float) -> Iterator[str]:
    """The figures as Markdown, for docs/reliability.md."""
    yield f"| seed {seed} | {minutes:.0f} minutes |"
    yield "|---|---|"
    for name, number in soak.figures().items():
        yield f"| {name} | {number:,} |"
    yield f"| longest wait for a 202 after the consumers went on | {soak.longest_full:.1f} s |"
    for name, sizes in soak.sizes.bytes.items():
        many = soak.sizes.open[name]
        yield (
            f"| {name}: memory, descriptors (first, last, most) | {sizes[0] / 2**20:.1f}, {sizes[-1] / 2**20:.1f}, "
            f"{max(sizes) / 2**20:.1f} MiB; {many[0]}, {many[-1]}, {max(many)} |"
        )


def counter(metrics: bytes, name: bytes) -> int:
    """The value of a counter without labels in Prometheus' text format; 0 where it is not there."""
    found = re.search(rb"^%b (\S+)" % name, metrics, re.MULTILINE)
    return int(float(found[1])) if found else 0


def main() -> int:
    """Soak; return 1 if anything is wrong, or too little happened."""
    options = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seed", type=int, default=int(time.time()), help="printed, so that a run can be repeated")
    options.add_argument("--embedded", action="store_true", help="over the embedded store, which is killed too")
    chosen = options.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    with rig_for(chosen.embedded) as rig:
        soak = Soak(rig, chosen.seed)
        try:
            soak.warm()
            soak.run(chosen.minutes)
        finally:
            soak.end()
        bad = [*soak.wrong(), *soak.too_little(chosen.minutes)]
        print(*report(soak, chosen.seed, chosen.minutes), *(f"WRONG: {words}" for words in bad), sep="\n", flush=True)
    print("broken" if bad else "nothing lost, nothing healthy buried, nothing grown")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
