"""The comparison: every load on every peer, round by round, and whether each one kept what it promised.

What lives here: the plan, one run, the check that records stored are records answered, the JSON. What must not: what a
figure means (``bench.report``).

Interleaved: in each round every load goes over all peers before the next load starts, and each round starts with
another peer, so a machine that changes its speed changes it for all. Every run has a fresh peer and a fresh, empty
store, and a short run of the same load before the measured one.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import machine, openloop, procs
from bench.load import BULK_RECORDS, Outcome, Request, big_bulk_records, bulk, payload, saturate, single
from bench.peers import BULK, MIXED, OPEN, PEERS, SINGLE, Peer, PeerFailed, Running
from bench.store import STREAM, BenchStore

WARM_SECONDS = 1
"""Before what is measured: connections, caches, the heap's size."""
BULK_CONNECTIONS = (4, 16)
FIXED_CONNECTIONS = 64
"""Of the loads at a fixed rate, and of the run that finds the rate."""
RATE_FROM = "go_goredis"
"""Whose saturation, halved, is the rate of the open loop."""
MIXED_RATE = 1000.0
"""Small requests a second of the mixed load."""
XADD_BOUND = "redis_benchmark"
XADD_COUNT = 300_000
XADD_PIPELINE = 64
XADD_CLIENTS = 50


@dataclass(frozen=True)
class Load:
    """One named load. ``rate`` (requests a second) is 0 where as many as possible are sent."""

    kind: str
    connections: int
    rate: float = 0.0

    @property
    def name(self) -> str:
        """Names the load: what, how large, how many connections."""
        what = {SINGLE: "single_467b", BULK: "bulk100_467b", OPEN: "open_467b", MIXED: "mixed_467b_5mb"}[self.kind]
        return f"{what}_c{self.connections}"

    @property
    def records(self) -> int:
        """Records per request."""
        return BULK_RECORDS if self.kind == BULK else 1


@dataclass(frozen=True)
class Options:
    """What to run; see the command line's help."""

    seconds: int
    connections: tuple[int, ...]
    rounds: int
    peers: tuple[str, ...]
    kinds: tuple[str, ...]
    rate: float = 0.0
    mixed_rate: float = MIXED_RATE
    bulk_connections: tuple[int, ...] = BULK_CONNECTIONS
    fixed_connections: int = FIXED_CONNECTIONS


def plan(options: Options) -> list[Load]:
    """The loads in order; single records come first, since they find the rate of the open loop."""
    loads = [Load(SINGLE, n) for n in options.connections] if SINGLE in options.kinds else []
    if BULK in options.kinds:
        loads += [Load(BULK, n) for n in options.bulk_connections]
    if OPEN in options.kinds:
        loads.append(Load(OPEN, options.fixed_connections, options.rate))
    if MIXED in options.kinds:
        loads.append(Load(MIXED, options.fixed_connections, options.mixed_rate))
    return loads


def fault(outcome: Outcome, stored: int | None, sent_more: int, records: int) -> str | None:
    """Why a run does not count, or None.

    ``stored``: records found in the stream, None where none are promised. ``sent_more``: requests that the generator
    may have left without reading their answer; their records may be stored too, but no others.
    """
    if outcome.refused:
        return f"{outcome.refused} requests were not answered as promised"
    if outcome.socket_errors:
        return f"{outcome.socket_errors} connections or requests failed"
    if not outcome.answered:
        return "no request was answered"
    if stored is None:
        return None
    answered = outcome.answered * records
    if stored < answered:
        return f"{answered} records were answered, {stored} are stored"
    if stored > answered + sent_more * records:
        return f"{stored} records are stored, {answered} were answered and {sent_more * records} under way"
    return None


def _generate(running: Running, load: Load, seconds: int) -> tuple[Outcome, Outcome | None]:
    peer = running.peer
    if load.kind == OPEN:
        return openloop.run(running.port, single(peer), load.connections, seconds, load.rate, peer.status), None
    if load.kind == MIXED:
        big = bulk(big_bulk_records())
        args = (running.port, single(peer), big, load.connections, seconds, load.rate, peer.status)
        return openloop.run_mixed(*args)
    return saturate(running.port, _request(peer, load), load.connections, seconds, peer.status), None


def _request(peer: Peer, load: Load) -> Request:
    return bulk(BULK_RECORDS) if load.kind == BULK else single(peer)


def measure(peer: Peer, load: Load, seconds: int) -> dict[str, Any]:
    """One run, on a fresh peer and a fresh store."""
    with BenchStore() as store, Running(peer, store.socket, _request(peer, load)) as running:
        warm = replace(load, rate=load.rate / 2) if load.kind in (OPEN, MIXED) else load
        _generate(running, replace(warm, kind=OPEN) if load.kind == MIXED else warm, WARM_SECONDS)
        store.settle()
        before, store_before = procs.cpu_seconds(running.process.pid), procs.cpu_seconds(store.process.pid)
        with procs.Sampler(lambda: procs.tree_pss_bytes(running.process.pid)) as memory:
            outcome, big = _generate(running, load, seconds)
            cpu = procs.cpu_seconds(running.process.pid) - before
            store_cpu = procs.cpu_seconds(store.process.pid) - store_before
        running.end()
        store.wait_until_quiet()
        stored = store.records() if peer.stores else None
    in_flight = load.connections if load.rate == 0 else 0
    result = outcome.as_dict() | {
        "requests_per_second": outcome.answered / outcome.seconds,
        "records_per_second": outcome.answered * load.records / outcome.seconds,
        "cpu_us_per_request": cpu * 1e6 / max(outcome.answered, 1),
        "store_cpu_us_per_request": store_cpu * 1e6 / max(outcome.answered, 1),
        "pss_peak_bytes": memory.peak,
        "answered_records": outcome.answered * load.records,
        "stored_records": stored,
        "fault": fault(outcome, stored, in_flight, load.records),
    }
    if big is not None:
        _add_big(result, outcome, big, stored)
    return result


def _add_big(result: dict[str, Any], outcome: Outcome, big: Outcome, stored: int | None) -> None:
    """The mixed load's second client: its records count too; one bulk may be under way at the end."""
    each = big_bulk_records()
    rest = None if stored is None else stored - outcome.answered
    result["answered_records"] += big.answered * each
    result["big_bulks_per_second"] = big.answered / big.seconds
    result["fault"] = fault(outcome, None, 0, 1) or fault(big, rest, 1, each)


def xadd_bound() -> dict[str, Any]:
    """What the store takes of one-record XADDs from redis-benchmark, 64 to a write: records a second."""
    with BenchStore() as store:
        words = ["redis-benchmark", "-s", str(store.socket), "-c", str(XADD_CLIENTS), "-P", str(XADD_PIPELINE)]
        done = subprocess.run(
            [*words, "-n", str(XADD_COUNT), "-q", "XADD", STREAM, "*", "r", payload().decode()],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        stored = store.entries()
    rates = re.findall(r"([\d.]+) requests per second", done.stdout)
    # It stops at the first reply over the count, with whole pipelines of its clients under way.
    if not rates or not 0 <= stored - XADD_COUNT <= XADD_CLIENTS * XADD_PIPELINE:
        raise PeerFailed(f"redis-benchmark: {(done.stderr or done.stdout)[-200:]}, {stored} stored")
    rate = float(rates[-1])
    return {"records_per_second": rate, "requests_per_second": rate, "stored_records": stored, "fault": None}


def _runs(options: Options, load: Load, turn: int) -> Iterator[tuple[str, dict[str, Any]]]:
    names = [name for name in options.peers if name == XADD_BOUND or load.kind in PEERS[name].loads]
    names = [name for name in names if name != XADD_BOUND or load.kind == BULK]
    start = turn % max(len(names), 1)
    for name in names[start:] + names[:start]:
        try:
            result = xadd_bound() if name == XADD_BOUND else measure(PEERS[name], load, options.seconds)
        except (PeerFailed, RuntimeError, OSError, subprocess.SubprocessError) as error:
            result = {"fault": f"{type(error).__name__}: {error}"}
        yield name, result


def open_rate(runs: list[dict[str, Any]], connections: int) -> float:
    """Half of what RATE_FROM answered at saturation so far (median), requests a second; 0 if it was not measured."""
    name = Load(SINGLE, connections).name
    rates = [
        run["requests_per_second"]
        for run in runs
        if run["peer"] == RATE_FROM and run["load"] == name and "requests_per_second" in run
    ]
    return round(statistics.median(rates) / 2) if rates else 0.0


def compare(options: Options, path: Path) -> dict[str, Any]:
    """Run everything; the JSON is written after each run, so a run that is cut off leaves what it had."""
    with BenchStore() as store:
        about = machine.describe(store.version())
    document: dict[str, Any] = {**about, "options": vars(options).copy(), "runs": []}
    runs: list[dict[str, Any]] = document["runs"]
    rate = options.rate
    for number in range(options.rounds):
        for turn, load in enumerate(plan(options)):
            if load.kind == OPEN:
                # Found in the first round, and then the same for all.
                rate = rate or open_rate(runs, load.connections)
                if not rate:
                    raise SystemExit(f"the open loop needs --rate, or {RATE_FROM} under single at {load.connections}")
                load = replace(load, rate=rate)
            for name, result in _runs(options, load, number + turn):
                runs.append({"round": number, "load": load.name, "rate": load.rate, "peer": name, **result})
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(document, indent=1) + "\n")
                print(_line(runs[-1]), flush=True)
    return document


def in_short(text: str) -> str:
    """First line of a fault and, where a log follows, its last."""
    lines = [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))]
    return " ".join(dict.fromkeys((lines[0], lines[-1])))


def _line(run: dict[str, Any]) -> str:
    head = f"round {run['round'] + 1}  {run['load']:20} {run['peer']:16}"
    if "requests_per_second" not in run:
        return f"{head} {in_short(run['fault'])}"
    tail = f"p99 {run['p99_us'] / 1000:8.2f} ms  cpu {run['cpu_us_per_request']:7.1f} us" if "p99_us" in run else ""
    return f"{head} {run['requests_per_second']:9.0f}/s  {tail}  {run['fault'] or ''}"
