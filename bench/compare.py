"""The comparison: every load on its peers, round by round, and whether each one kept what it promised.

What lives here: the rounds, one run, the check that records stored are records answered, the JSON. What must not: which
loads there are (``bench.plan``), what a figure means (``bench.report``).

Interleaved: in each round every load goes over all its peers before the next load starts, and each round starts with
another peer, so a machine that changes its speed changes it for all. Every run has a fresh peer and a fresh, empty
store, and a short run of the same load before the measured one.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench import distance, machine, openloop, plan, procs
from bench.figures import in_short
from bench.load import Outcome, saturate, single
from bench.peers import MIXED, OPEN, PEERS, POOL_SIZE, SINGLE, Peer, PeerFailed, Running
from bench.plan import RATE_FROM, WARM_SECONDS, XADD_BOUND, Load, Options
from bench.store import STREAM, BenchStore
from bench.traffic import Traffic, raw, varied_records

XADD_COUNT = 300_000
XADD_PIPELINE = 64
XADD_CLIENTS = 50


def fault(outcome: Outcome, stored: int | None, sent_more: int, records: int) -> str | None:
    """Return why a run does not count, or None.

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


def _as_taken(peer: Peer, load: Load) -> Traffic:
    """Return the load's requests: the same bytes for every peer but webdis, which takes a form of its own."""
    return Traffic((raw(single(peer)),)) if peer.name == "webdis" else load.traffic()


def _generate(running: Running, load: Load, seconds: int) -> tuple[Outcome, Outcome | None]:
    peer, traffic = running.peer, _as_taken(running.peer, load)
    if load.kind == OPEN:
        return openloop.run(running.port, traffic, load.connections, seconds, load.rate, peer.status), None
    if load.kind == MIXED:
        args = (running.port, traffic, load.second_traffic(), load.connections, seconds, load.rate, peer.status)
        return openloop.run_mixed(*args)
    return saturate(running.port, traffic, load.connections, seconds, peer.status), None


def _pool_size(load: Load) -> int:
    """Return the connections to the store of a peer with a pool: far away, as many as it can use at a time.

    One connection carries one command per round trip, so that 64 at 5 ms would bound a peer to 12,800 records a second.
    """
    return max(POOL_SIZE, load.connections) if load.away_ms else POOL_SIZE


def measure(peer: Peer, load: Load, seconds: int) -> dict[str, Any]:
    """Run one load on a fresh peer and a fresh store; return the figures, the fault if any, and the time it took."""
    begin = time.monotonic()
    load.traffic()  # made before anything waits for it
    with (
        BenchStore() as store,
        distance.away(store.socket, load.away_ms) as (socket, round_trip),
        Running(peer, socket, single(peer), _pool_size(load)) as running,
    ):
        up = time.monotonic()
        warm = replace(load, rate=load.rate / 2) if load.kind in (OPEN, MIXED) else load
        _generate(running, replace(warm, kind=OPEN) if load.kind == MIXED else warm, WARM_SECONDS)
        store.settle()
        before, store_before = procs.cpu_seconds(running.process.pid), procs.cpu_seconds(store.process.pid)
        with procs.Sampler(lambda: procs.tree_pss_bytes(running.process.pid)) as memory:
            outcome, big = _generate(running, load, seconds)
            cpu = procs.cpu_seconds(running.process.pid) - before
            store_cpu = procs.cpu_seconds(store.process.pid) - store_before
        done = time.monotonic()
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
        "round_trip_ms": round_trip,
        "fault": fault(outcome, stored, in_flight, load.records),
    }
    if big is not None:
        _add_big(result, outcome, big, stored, load.second_traffic().records)
    spent = {"setup": up - begin, "load": done - up, "check": time.monotonic() - done}
    return {**result, "spent_seconds": {part: round(taken, 2) for part, taken in spent.items()}}


def _add_big(result: dict[str, Any], outcome: Outcome, big: Outcome, stored: int | None, each: int) -> None:
    """Add the mixed load's second client: its records count too; one bulk may be under way at the end."""
    rest = None if stored is None else stored - outcome.answered
    result["answered_records"] += big.answered * each
    result["big_bulks_per_second"] = big.answered / big.seconds
    result["fault"] = fault(outcome, None, 0, 1) or fault(big, rest, 1, each)


def median_record() -> bytes:
    """Return the varied record of median length, for what can send only one."""
    ordered = sorted(varied_records(), key=len)
    return ordered[len(ordered) // 2]


def xadd_bound() -> dict[str, Any]:
    """Measure what the store takes of one-record XADDs from redis-benchmark, 64 to a write: records a second."""
    with BenchStore() as store:
        words = ["redis-benchmark", "-s", str(store.socket), "-c", str(XADD_CLIENTS), "-P", str(XADD_PIPELINE)]
        done = subprocess.run(
            [*words, "-n", str(XADD_COUNT), "-q", "XADD", STREAM, "*", "r", median_record().decode()],
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


def _runs(load: Load, names: list[str], seconds: int, turn: int) -> Iterator[tuple[str, dict[str, Any]]]:
    start = turn % max(len(names), 1)
    for name in names[start:] + names[:start]:
        try:
            result = xadd_bound() if name == XADD_BOUND else measure(PEERS[name], load, seconds)
        except (PeerFailed, RuntimeError, OSError, subprocess.SubprocessError) as error:
            result = {"fault": f"{type(error).__name__}: {error}"}
        yield name, result


def open_rate(runs: list[dict[str, Any]], connections: int) -> float:
    """Return half of what RATE_FROM answered at saturation so far (median), requests a second; 0 without a figure."""
    name = Load(SINGLE, connections).name
    rates = [
        run["requests_per_second"]
        for run in runs
        if run["peer"] == RATE_FROM and run["load"] == name and "requests_per_second" in run
    ]
    return round(statistics.median(rates) / 2) if rates else 0.0


def _with_rate(load: Load, options: Options, runs: list[dict[str, Any]]) -> Load:
    """Return the load with its rate; that of the open loop is found in the first round, and then the same for all."""
    if load.kind == MIXED:
        return replace(load, rate=options.mixed_rate)
    if load.kind != OPEN:
        return load
    earlier = [run["rate"] for run in runs if run["load"] == load.name]
    rate = options.rate or (earlier[0] if earlier else open_rate(runs, load.connections))
    if not rate:
        needed = f"{RATE_FROM} under {Load(SINGLE, load.connections).name}"
        raise SystemExit(f"the open loop needs --rate, or {needed}")
    return replace(load, rate=rate)


def compare(options: Options, path: Path) -> dict[str, Any]:
    """Run everything; the JSON is written after each run, so a run that is cut off leaves what it had.

    A round is not started if it would end after ``options.minutes``, going by the longest one so far.
    """
    begin = time.monotonic()
    with BenchStore() as store:
        about = machine.describe(store.version())
    document: dict[str, Any] = {**about, "options": asdict(options), "runs": []}
    runs: list[dict[str, Any]] = document["runs"]
    longest = 0.0
    for number in range(options.rounds):
        started = time.monotonic()
        if number and started - begin + longest > options.minutes * 60:
            print(f"{number} of {options.rounds} rounds: another one would take more than {options.minutes:g} minutes")
            break
        for turn, (planned, names) in enumerate(plan.schedule(options)):
            load = _with_rate(planned, options, runs)
            for name, result in _runs(load, names, options.seconds, number + turn):
                runs.append({"round": number, "load": load.name, "rate": load.rate, "peer": name, **result})
                document["elapsed_seconds"] = round(time.monotonic() - begin, 1)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(document, indent=1) + "\n")
                print(_line(runs[-1]), flush=True)
        longest = max(longest, time.monotonic() - started)
    return document


def _line(run: dict[str, Any]) -> str:
    head = f"round {run['round'] + 1}  {run['load']:23} {run['peer']:16}"
    if "requests_per_second" not in run:
        return f"{head} {in_short(run['fault'])}"
    tail = f"p99 {run['p99_us'] / 1000:8.2f} ms  cpu {run['cpu_us_per_request']:7.1f} us" if "p99_us" in run else ""
    return f"{head} {run['requests_per_second']:9.0f}/s  {tail}  {run['fault'] or ''}"
