"""What a result says, as Markdown and pictures: targets, a table for each load, how the time was spent.

What lives here: the whole report. What must not: measuring, arithmetic (``bench.figures``), the headline
(``bench.headline``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import headline, machine, picture, targets
from bench.figures import (
    OURS,
    P99,
    P999,
    RECORDS,
    RPS,
    Run,
    against_load,
    cell,
    faults,
    fixed_rate,
    loads,
    median,
    of,
    peers,
    ratio,
)
from bench.peers import BULK, PEERS, SINGLE
from bench.plan import Load
from bench.traffic import FIXED, GZIP, ZSTD

_COLUMNS: tuple[tuple[str, Callable[[list[Run]], str]], ...] = (
    ("requests/s", lambda own: cell(median(own, RPS))),
    ("records/s", lambda own: cell(median(own, RECORDS))),
    ("p50 ms", lambda own: cell(median(own, "p50_us"), "{:.2f}", 1e-3)),
    ("p99 ms", lambda own: cell(median(own, P99), "{:.2f}", 1e-3)),
    ("p99.9 ms", lambda own: cell(median(own, P999), "{:.2f}", 1e-3)),
    ("CPU us/request", lambda own: cell(median(own, "cpu_us_per_request"), "{:.1f}")),
    ("store CPU us", lambda own: cell(median(own, "store_cpu_us_per_request"), "{:.1f}")),
    ("big bulks/s", lambda own: cell(median(own, "big_bulks_per_second"), "{:.1f}")),
    ("peak PSS MB", lambda own: cell(median(own, "pss_peak_bytes"), "{:.1f}", 1e-6)),
)
_CODED = (Load(BULK, 16, GZIP).name, Load(BULK, 16, ZSTD).name)


def _what(name: str) -> str:
    return PEERS[name].what if name in PEERS else "bound: redis-benchmark, pipelined XADD of one record"


def _stored(own: list[Run]) -> str:
    if own[-1].get("stored_records") is None:
        return "stores nothing"
    return f"{own[-1]['stored_records']:,}" + (f" / {own[-1]['answered_records']:,}" if "p50_us" in own[-1] else "")


def table(runs: list[Run], load: str) -> list[str]:
    """Return one load's table, as lines of Markdown."""
    metric, versus = (P99, "Inlet's p99 / its") if fixed_rate(load) else (RECORDS, "Inlet's rate / its")
    columns = [column for column in _COLUMNS if column[0] != "big bulks/s" or load.startswith("mixed_")]
    head = ["peer", "", *(name for name, _ in columns), versus, "stored / answered, last round"]
    lines = [f"| {' | '.join(head)} |", f"|---|---|{'--:|' * (len(head) - 2)}"]
    for name in peers(runs, load):
        own = of(runs, load, name)
        wrong = faults(own)
        if wrong:
            cells = [f"disqualified: {wrong[0].replace('|', '/')}"] + [""] * (len(head) - 3)
        else:
            shown = cell(ratio(runs, load, OURS, name, metric), "{:.2f}")
            cells = [column(own) for _, column in columns] + [shown, _stored(own)]
        lines.append(f"| {name} | {_what(name)} | {' | '.join(cells)} |")
    return lines


def _over(runs: list[Run], load: str, other: str) -> str:
    """Return each peer's rate under a load over its rate under another one: ``inlet 1.20x, go_goredis 1.03x``."""
    found = [(name, against_load(runs, load, other, name, RPS)) for name in peers(runs, load)]
    return ", ".join(f"{name} {value:.2f}x" for name, value in found if value is not None)


def _fixed(runs: list[Run], load: str) -> str:
    over = _over(runs, load, Load(SINGLE, 64).name)
    return (
        "The same short request over and over. This flatters a server that remembers what it has seen: a head is "
        "parsed once, the caches stay warm, and the processor's branch predictor learns the bytes. Production traffic "
        "does not look like this." + (f" Requests/s over those of `{Load(SINGLE, 64).name}`: {over}." if over else "")
    )


def _coded(runs: list[Run], load: str) -> str:
    over = _over(runs, load, Load(BULK, 16).name)
    return (
        "Only Inlet's application, here under two servers, decodes compressed bodies. The Go, Rust, FastAPI and Flask "
        "services do not take part: their frameworks pass a body on as it arrived, and these services do not decode it."
        + (f" Requests/s over the same bulks uncompressed: {over}." if over else "")
    )


def _away(runs: list[Run], load: str) -> str:
    trip = median([run for run in runs if run["load"] == load], "round_trip_ms")
    measured = f" A round trip takes {trip:.2f} ms, measured before each run." if trip else ""
    return (
        f"A proxy delays every byte between the service and the store, in both directions.{measured} It does not limit "
        "the rate, but it takes CPU from the same cores. go_goredis has a pool of 256 connections here, one per client."
    )


def note(runs: list[Run], load: str) -> str:
    """Return what a reader of the load's table should know; empty if nothing."""
    if load == Load(SINGLE, 64, FIXED).name:
        return _fixed(runs, load)
    if load in _CODED:
        return _coded(runs, load)
    return _away(runs, load) if "ms_" in load else ""


def spent(document: dict[str, Any]) -> list[str]:
    """Return how the run spent its time: a table by peer, in seconds; empty for results that do not say."""
    runs = [run for run in document["runs"] if "spent_seconds" in run]
    if not runs:
        return []
    lines = ["| peer | runs | set-up s | load s | check s |", "|---|--:|--:|--:|--:|"]
    rows = [(name, [run for run in runs if run["peer"] == name]) for name in dict.fromkeys(run["peer"] for run in runs)]
    for name, own in [*rows, ("all", runs)]:
        parts = (sum(run["spent_seconds"][part] for run in own) for part in ("setup", "load", "check"))
        lines.append(f"| {name} | {len(own)} | {' | '.join(f'{part:.0f}' for part in parts)} |")
    return lines


def generator(runs: list[Run]) -> str:
    """Return how busy wrk was: whether the generator was the limit anywhere; empty for results that do not say."""
    found = [
        (run["generator_cpu_seconds"] / run["seconds"], run["peer"], run["load"], run["requests_per_second"])
        for run in runs
        if run.get("generator") == "wrk" and run.get("generator_cpu_seconds") and run["load"].startswith(SINGLE)
    ]
    if not found:
        return ""
    bound = max(rate for *_, rate in found)
    busy, peer, load, _ = max(row for row in found if row[1] not in PEERS or PEERS[row[1]].stores)
    return (
        f"wrk sent up to {bound:,.0f} requests/s to the fastest peer of all. Beside peers that store records, its one "
        f"thread was busiest with {peer} under {load}: {busy:.0%} of a core, including reading the requests."
    )


def markdown(document: dict[str, Any]) -> str:
    """Return the whole report."""
    runs = document["runs"]
    parts = [
        "# Comparison",
        f"{headline.origin(document)}, interleaved; a ratio is the median of the rounds' ratios. "
        f"The load generator and the store share the cores with the peer. {generator(runs)}".strip(),
        "What these figures do not say:",
        "\n".join(f"- {line}" for line in headline.LIMITS),
    ]
    goals = targets.table(runs)
    if goals:
        parts += ["## Targets", "\n".join(goals)]
    for load in loads(runs):
        rate = median([run for run in runs if run["load"] == load], "rate") or 0
        parts += [f"## {load}" + (f", {rate:,.0f} requests/s" if rate else "")]
        parts += [text for text in (note(runs, load), "\n".join(table(runs, load))) if text]
    taken = spent(document)
    if taken:
        total = document.get("elapsed_seconds", 0.0) / 60
        parts += ["## How the time was spent", f"{total:.1f} minutes in all.", "\n".join(taken)]
    return "\n\n".join([*parts, machine.versions(document)]) + "\n"


def write(document: dict[str, Any], path: Path) -> list[Path]:
    """Write the report and the picture beside the JSON, and the headline; their paths."""
    runs = document["runs"]
    report, drawing = path.with_suffix(".md"), path.with_suffix(".svg")
    charts = []
    for load in loads(runs):
        metric, unit, factor = (P99, "p99, ms", 1e-3) if fixed_rate(load) else (RECORDS, "records/s", 1.0)
        bars = [
            (name, (median(of(runs, load, name), metric) or 0.0) * factor)
            for name in peers(runs, load)
            if not faults(of(runs, load, name))
        ]
        charts.append(picture.Chart(f"{load}: {unit}", bars))
    drawing.write_text(picture.svg(charts, {OURS}))
    report.write_text(markdown(document) + f"\n![{drawing.stem}]({drawing.name})\n")
    return [report, drawing, *headline.write(document, path.parent)]
