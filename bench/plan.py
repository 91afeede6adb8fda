"""The plan: which loads there are, which peers run under each, and how long it all takes.

What lives here: names, the table, the estimate. What must not: running anything (``bench.compare``), content
(``bench.traffic``).

Not every peer runs under every load: a run of everything should fit between two meetings. A peer is in a row if the
project has a target against it there, or if it explains a figure; ``--peers`` runs others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.peers import BULK, KINDS, MIXED, OPEN, PEERS, SINGLE
from bench.traffic import BULK_RECORDS, FIXED, GZIP, VARIED, ZSTD, Traffic, big_bulks, bulks, singles

RATE_FROM = "go_goredis"
"""Whose saturation, halved, is the rate of the open loop."""
MIXED_RATE = 1000.0
"""Small requests a second of the mixed load."""
XADD_BOUND = "redis_benchmark"
WARM_SECONDS = 1
"""Of load before what is measured: connections, caches, the heap's size."""
OVERHEAD_SECONDS = 2.0
"""Of a run beside its load: starting the store and the peer, ending the peer, counting what is stored."""
XADD_SECONDS = 3.0
"""Of the bound, all in all."""
ROUNDS = 5
SECONDS = 4
MINUTES_MAX = 40
QUICK_MINUTES_MAX = 5
"""What a run and a quick run may take in all."""


@dataclass(frozen=True)
class Load:
    """One named load. ``rate`` (requests a second) is 0 where as many as possible are sent.

    ``away_ms`` is the round trip between the peer and the store, 0 where they share a machine.
    """

    kind: str
    connections: int
    content: str = VARIED
    away_ms: int = 0
    rate: float = 0.0

    @property
    def name(self) -> str:
        """Name the load: what, with which content, how far from the store, over how many connections."""
        parts = [self.kind, self.content]
        parts += ["5mb"] if self.kind == MIXED else []
        parts += [f"{self.away_ms}ms"] if self.away_ms else []
        return "_".join([*parts, f"c{self.connections}"])

    @property
    def records(self) -> int:
        """Return the records per request; of the mixed load, of the small ones."""
        return BULK_RECORDS if self.kind == BULK else 1

    def traffic(self) -> Traffic:
        """Return what is sent; of the mixed load, the small requests."""
        return bulks(self.content) if self.kind == BULK else singles(self.content)

    def second_traffic(self) -> Traffic:
        """Return what the second client of the mixed load sends."""
        return big_bulks()


_NAME = re.compile(rf"({'|'.join(KINDS)})_({'|'.join((FIXED, VARIED, GZIP, ZSTD))})(?:_5mb)?(?:_([0-9]+)ms)?_c([0-9]+)")


def named(name: str) -> Load | None:
    """Return the load of this name, in the plan or not; None if it names none."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    load = Load(found[1], int(found[4]), found[2], int(found[3] or 0))
    return load if load.name == name and load.connections > 0 else None


_FEW = ("inlet", "go_goredis", "rust_redis")
_MORE = ("inlet", "go_goredis", "go_rueidis", "rust_redis", "rust_commit", "py_fastapi", "py_flask", "granian")
PLAN: tuple[tuple[Load, tuple[str, ...]], ...] = (
    (Load(SINGLE, 64), (*_MORE, "inlet_gthread", "inlet_sync", "go_article", "uvloop_commit", "uvloop_constant")),
    (Load(SINGLE, 256), _MORE),
    (Load(SINGLE, 16), (*_FEW, "rust_commit", "uvloop_commit")),
    (Load(SINGLE, 4), (*_FEW, "rust_commit", "uvloop_commit")),
    (Load(SINGLE, 64, FIXED), (*_FEW, "rust_commit", "rust_article", "webdis")),
    (Load(BULK, 4), _FEW),
    (Load(BULK, 16), (*_FEW, XADD_BOUND)),
    (Load(BULK, 16, GZIP), ("inlet", "granian")),
    (Load(BULK, 16, ZSTD), ("inlet", "granian")),
    (Load(OPEN, 64), _FEW),
    (Load(MIXED, 64), _FEW),
    (Load(SINGLE, 256, away_ms=1), _FEW),
    (Load(SINGLE, 256, away_ms=5), _FEW),
)
"""Single records over 64 connections come first, since they find the rate of the open loop."""
QUICK_LOADS = (
    "single_varied_c", "bulk100_varied", "open", "mixed", "single_varied_1ms",
)  # fmt: skip
"""Of the quick run; of its peers, _FEW."""


@dataclass(frozen=True)
class Options:
    """What to run; see the command line's help. Without ``peers``, those of the plan that are built."""

    seconds: int = SECONDS
    rounds: int = ROUNDS
    peers: tuple[str, ...] = ()
    loads: tuple[str, ...] = ()
    rate: float = 0.0
    mixed_rate: float = MIXED_RATE
    minutes: float = MINUTES_MAX


def quick() -> Options:
    """Return a run that finds what has become slower, of QUICK_MINUTES_MAX."""
    return Options(2, 2, _FEW, QUICK_LOADS, minutes=QUICK_MINUTES_MAX)


def selected(words: tuple[str, ...]) -> list[Load]:
    """Return the loads that the words name: the start of planned ones' names, or the full name of any; all without.

    Raises ValueError, with the word that names nothing.
    """
    loads = [load for load, _ in PLAN if not words or load.name.startswith(words)]
    for word in words:
        if not any(load.name.startswith(word) for load, _ in PLAN):
            load = named(word)
            if load is None:
                raise ValueError(word)
            loads.append(load)
    return loads


def takes(name: str, load: Load) -> bool:
    """Whether a peer can take a load."""
    if name == XADD_BOUND:
        return load.kind == BULK and load.content in (FIXED, VARIED)
    return load.kind in PEERS[name].loads and load.content in PEERS[name].contents


def schedule(options: Options) -> list[tuple[Load, list[str]]]:
    """Return the loads in order, each with its peers; with ``options.peers``, all of those that can take it."""
    planned = {load.name: names for load, names in PLAN}
    found = []
    for load in selected(options.loads):
        names = options.peers or planned.get(load.name, _FEW)
        if not options.peers:
            names = tuple(name for name in names if name == XADD_BOUND or PEERS[name].is_built())
        found.append((load, [name for name in names if takes(name, load)]))
    return [(load, names) for load, names in found if names]


def expected_seconds(options: Options) -> float:
    """Return how long a whole run takes, about."""
    each = options.seconds + WARM_SECONDS + OVERHEAD_SECONDS
    names = [name for _, names in schedule(options) for name in names]
    bounds = names.count(XADD_BOUND)
    return options.rounds * ((len(names) - bounds) * each + bounds * XADD_SECONDS)


def described(options: Options) -> list[str]:
    """Return the plan as lines of text, with its expected time."""
    loads = schedule(options)
    width = max((len(load.name) for load, _ in loads), default=0)
    lines = [f"{load.name:{width}}  {', '.join(names)}" for load, names in loads]
    runs = sum(len(names) for _, names in loads)
    minutes = expected_seconds(options) / 60
    return [
        *lines,
        f"{runs} runs of {options.seconds} s in each of {options.rounds} rounds: about {minutes:.0f} minutes, "
        f"at most {options.minutes:.0f}",
    ]
