"""What a result says: medians, ratios within a round, targets; as Markdown.

What lives here: reading the JSON of ``bench.compare``, arithmetic on it, tables. What must not: measuring, drawing
(``bench.picture``).

A ratio is taken between two peers in the same round, and its median over the rounds is shown: the machine's moods
cancel out. A peer with a fault in any round of a load is shown with it and without figures.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine, picture
from bench.compare import RATE_FROM, XADD_BOUND, in_short
from bench.peers import PEERS

OURS = "inlet"
Run = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """Inlet's ``metric`` over ``against``'s, under these loads (by start of name), at least or at most ``bound``."""

    loads: tuple[str, ...]
    against: str
    metric: str
    bound: float
    at_least: bool = True


SATURATED = ("single_467b_c64", "single_467b_c256")
RPS = "requests_per_second"
RECORDS = "records_per_second"
TARGETS = (
    Target(SATURATED, "go_goredis", RPS, 3.0),
    Target(SATURATED, "go_goredis", "p99_us", 1.0, at_least=False),
    Target(SATURATED, "go_rueidis", RPS, 1.3),
    Target(SATURATED, "rust_redis", RPS, 1.0),
    Target(SATURATED, "rust_commit", RPS, 0.8),
    Target(SATURATED, "go_article", RPS, 1.2),
    Target(SATURATED, "py_fastapi", RPS, 8.0),
    Target(SATURATED, "py_flask", RPS, 8.0),
    Target(SATURATED, "granian", RPS, 3.0),
    Target(("bulk100_",), XADD_BOUND, RECORDS, 1.0),
    Target(("bulk100_",), "rust_redis", RECORDS, 1.0),
    Target(("open_",), RATE_FROM, "p99_us", 0.7, at_least=False),
    Target(("open_",), RATE_FROM, "p999_us", 0.7, at_least=False),
)


def of(runs: list[Run], load: str, peer: str) -> list[Run]:
    """Runs of one peer under one load."""
    return [run for run in runs if run["load"] == load and run["peer"] == peer]


def faults(runs: list[Run]) -> list[str]:
    """Why a peer is disqualified from a load, one line a fault."""
    return [in_short(run["fault"]) for run in runs if run["fault"]]


def median(runs: list[Run], metric: str) -> float | None:
    """Over the rounds that have it."""
    values = [run[metric] for run in runs if run.get(metric) is not None]
    return statistics.median(values) if values else None


def ratio(runs: list[Run], load: str, ours: str, other: str, metric: str) -> float | None:
    """Median over the rounds of ours divided by the other's; None if either is disqualified or was not measured."""
    mine, theirs = of(runs, load, ours), of(runs, load, other)
    if faults(mine) or faults(theirs):
        return None
    by_round = {run["round"]: run.get(metric) for run in theirs}
    values = [
        run[metric] / by_round[run["round"]]
        for run in mine
        if run.get(metric) is not None and by_round.get(run["round"])
    ]
    return statistics.median(values) if values else None


def loads(runs: list[Run]) -> list[str]:
    """Names of the loads, in the order they were run."""
    return list(dict.fromkeys(run["load"] for run in runs))


def peers(runs: list[Run], load: str) -> list[str]:
    """Peers under a load, fastest first, disqualified ones last."""
    names = list(dict.fromkeys(run["peer"] for run in runs if run["load"] == load))

    def key(name: str) -> tuple[bool, float]:
        own = of(runs, load, name)
        fixed = load.startswith(("open_", "mixed_"))
        value = median(own, "p99_us" if fixed else RECORDS) or 0.0
        return bool(faults(own)), value if fixed else -value

    return sorted(names, key=key)


def _cell(value: float | None, form: str = "{:,.0f}", factor: float = 1.0) -> str:
    return "-" if value is None else form.format(value * factor)


_COLUMNS: tuple[tuple[str, Callable[[list[Run]], str]], ...] = (
    ("requests/s", lambda own: _cell(median(own, RPS))),
    ("records/s", lambda own: _cell(median(own, RECORDS))),
    ("p50 ms", lambda own: _cell(median(own, "p50_us"), "{:.2f}", 1e-3)),
    ("p99 ms", lambda own: _cell(median(own, "p99_us"), "{:.2f}", 1e-3)),
    ("p99.9 ms", lambda own: _cell(median(own, "p999_us"), "{:.2f}", 1e-3)),
    ("CPU us/request", lambda own: _cell(median(own, "cpu_us_per_request"), "{:.1f}")),
    ("store CPU us", lambda own: _cell(median(own, "store_cpu_us_per_request"), "{:.1f}")),
    ("big bulks/s", lambda own: _cell(median(own, "big_bulks_per_second"), "{:.1f}")),
    ("peak PSS MB", lambda own: _cell(median(own, "pss_peak_bytes"), "{:.1f}", 1e-6)),
)


def _what(name: str) -> str:
    return PEERS[name].what if name in PEERS else "bound: redis-benchmark, pipelined XADD of one record"


def _stored(own: list[Run]) -> str:
    if own[-1].get("stored_records") is None:
        return "stores nothing"
    return f"{own[-1]['stored_records']:,}" + (f" / {own[-1]['answered_records']:,}" if "p50_us" in own[-1] else "")


def table(runs: list[Run], load: str) -> list[str]:
    """One load's table, as lines of Markdown."""
    fixed = load.startswith(("open_", "mixed_"))
    metric, versus = ("p99_us", "Inlet's p99 / its") if fixed else (RECORDS, "Inlet's rate / its")
    columns = [column for column in _COLUMNS if column[0] != "big bulks/s" or load.startswith("mixed_")]
    head = ["peer", "", *(name for name, _ in columns), versus, "stored / answered, last round"]
    lines = [f"| {' | '.join(head)} |", f"|---|---|{'--:|' * (len(head) - 2)}"]
    for name in peers(runs, load):
        own = of(runs, load, name)
        wrong = faults(own)
        if wrong:
            cells = [f"disqualified: {wrong[0].replace('|', '/')}"] + [""] * (len(head) - 3)
        else:
            shown = _cell(ratio(runs, load, OURS, name, metric), "{:.2f}")
            cells = [cell(own) for _, cell in columns] + [shown, _stored(own)]
        lines.append(f"| {name} | {_what(name)} | {' | '.join(cells)} |")
    return lines


def targets(runs: list[Run]) -> list[str]:
    """Each target with what was measured, as lines of Markdown; those not measured are left out."""
    lines = ["| load | Inlet against | figure | target | measured | |", "|---|---|---|--:|--:|---|"]
    for target in TARGETS:
        for load in (name for name in loads(runs) if name.startswith(target.loads)):
            value = ratio(runs, load, OURS, target.against, target.metric)
            if value is None:
                continue
            met = value >= target.bound if target.at_least else value <= target.bound
            sign = "at least" if target.at_least else "at most"
            what = target.metric.removesuffix("_us").replace("_", " ")
            cells = (load, target.against, what, f"{sign} {target.bound}x", f"{value:.2f}x", "met" if met else "missed")
            lines.append(f"| {' | '.join(cells)} |")
    return lines if len(lines) > 2 else []


def markdown(document: dict[str, Any]) -> str:
    """The whole report."""
    runs, options, box = document["runs"], document["options"], document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items() if version)
    rounds = len({run["round"] for run in runs})
    parts = [
        "# Comparison",
        f"{document['date']}, commit {document['commit']}; {box['cpu']}, {box['cores']} cores, {box['memory_mb']} MB, "
        f"Linux {box['kernel']}{machine.interpreter(document)}. "
        f"{rounds} rounds of {options['seconds']} s, interleaved; medians over the rounds; "
        "a ratio is the median of the rounds' ratios. The load generator and the store share the cores with the peer.",
    ]
    goals = targets(runs)
    if goals:
        parts += ["## Targets", "\n".join(goals)]
    for load in loads(runs):
        rate = median([run for run in runs if run["load"] == load], "rate") or 0
        parts += [f"## {load}" + (f", {rate:,.0f} requests/s" if rate else ""), "\n".join(table(runs, load))]
    return "\n\n".join([*parts, f"Versions: {versions}."]) + "\n"


def write(document: dict[str, Any], path: Path) -> list[Path]:
    """Write the report and the picture beside the JSON; their paths."""
    runs = document["runs"]
    report, drawing = path.with_suffix(".md"), path.with_suffix(".svg")
    charts = []
    for load in loads(runs):
        fixed = load.startswith(("open_", "mixed_"))
        metric, unit, factor = ("p99_us", "p99, ms", 1e-3) if fixed else (RECORDS, "records/s", 1.0)
        bars = [
            (name, (median(of(runs, load, name), metric) or 0.0) * factor)
            for name in peers(runs, load)
            if not faults(of(runs, load, name))
        ]
        charts.append(picture.Chart(f"{load}: {unit}", bars))
    drawing.write_text(picture.svg(charts, {OURS}))
    report.write_text(markdown(document) + f"\n![{drawing.stem}]({drawing.name})\n")
    return [report, drawing]
