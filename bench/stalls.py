"""``python -m bench.stalls OLD [NEW]``: what one client does to the others, in Inlet of two checkouts.

What lives here: the order of the runs, the JSON, the table. What must not: what a row does (``bench.stallrows``).

Each row runs on both trees, one right after the other, and which one is first alternates. The row ``mixed`` runs on
go_goredis as well, where that is built. Results go to ``bench/results/stalls.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.ordinary import PACE_SECONDS
from bench.peers import PEERS, ROOT
from bench.stallrows import CLIENTS, MIB, ROWS, Result, Row, measure
from bench.store import BenchStore
from bench.trees import NEW, OLD
from bench.trees import row as tree_peer

SECONDS = 4.0
"""Of an offender that goes on as long as it is let."""
GO = "go_goredis"
GO_ROW = "mixed"
RESULTS = ROOT / "bench" / "results" / "stalls.json"
ABOUT = (
    f"{CLIENTS} ordinary clients, two on each of the two workers, send one record each {PACE_SECONDS * 1000:.0f} ms on "
    "keep-alive connections, from a process of their own. Their latencies are corrected for coordinated omission: a "
    'stall counts for every request that would have been sent meanwhile. "Late" is the share over a second. Memory is '
    "the growth of the worker that grew most (VmHWM and VmRSS)."
)
FSYNC = (
    "With `appendfsync always`, which `synced` requires, the store fsyncs before it replies to anybody. So at `stored` "
    "every record waits for an fsync, whoever asked for what, and no server in front of the store can change it. That "
    "row therefore says what an XADD takes on the store alone, what the ordinary clients see without the offender, and "
    "what `/healthz` sees. At `received` an answer does not wait for the store, so there the others must be fast."
)


def compare(trees: dict[str, Path], rows: Sequence[Row], seconds: float, path: Path) -> dict[str, Any]:
    """Run everything; the JSON is written after each run, so a run that is cut off leaves what it had."""
    peers = {name: tree_peer(name, tree.resolve()) for name, tree in trees.items()}
    with BenchStore() as store:
        about = machine.describe(store.version())
    document: dict[str, Any] = {
        **about,
        "commits": {name: machine.commit(peer.tree) for name, peer in peers.items()},
        "seconds": seconds,
        "runs": [],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        names = list(peers) if number % 2 == 0 else list(peers)[::-1]
        for name in [*names, *([GO] if row.name == GO_ROW and PEERS[GO].is_built() else [])]:
            result = measure(row, peers[name], seconds) if name in peers else measure(row, PEERS[GO], seconds, 0)
            document["runs"].append({"row": row.name, "tree": name, **result})
            path.write_text(json.dumps(document, indent=1) + "\n")
            print(f"{row.name:16} {name:10} {latencies(result)}{more(result)}", flush=True)
    return document


def latencies(result: Result) -> str:
    """Return what the ordinary clients saw, in words."""
    if "impossible" in result:
        return f"not measured: {result['impossible']}"
    seen = result["ordinary"]
    late = f", {seen['late_percent']:.0f}% late" if seen["late_percent"] >= 0.5 else ""
    return f"{_ms(seen['p50_ms'])} / {_ms(seen['p99_ms'])} / {_ms(seen['max_ms'])}{late}"


def more(result: Result) -> str:
    """Return the other figures of a result, in words; empty if it has none."""
    found = []
    if statuses := result.get("offender", {}).get("statuses"):
        answers = ", ".join(f"{count} x {status}" for status, count in statuses.items())
        found.append(f"the offender got {answers}")
    if "stored" in result:
        found.append(f"{result['stored']} of its records are stored")
    for name, what in (("healthz", "`/healthz`"), ("without", "without the offender"), ("alone", "the store alone")):
        if name in result:
            found.append(f"{what} {_ms(result[name]['p99_ms'])} (max {_ms(result[name]['max_ms'])})")
    if result.get("died"):
        found.append(f"workers killed by their master: {result['died']}")
    elif "growth_bytes" in result:
        found.append(f"+{result['growth_bytes'] / MIB:.0f} MiB, {result['kept_bytes'] / MIB:+.0f} MiB afterwards")
    if "rate_share" in result:
        rates = (result["offender"]["per_second"], result["shallow"]["per_second"])
        found.append(f"{rates[0]:,.0f}/s against {rates[1]:,.0f}/s")
    return "".join(f"; {what}" for what in found)


def _ms(value: float) -> str:
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each row that was run, its result by tree, and whether it is what is wanted; None: not measured."""
    found = []
    for name in dict.fromkeys(run["row"] for run in runs):
        by_tree = {run["tree"]: dict(run) for run in runs if run["row"] == name}
        go = by_tree.pop(GO, None)
        for result in by_tree.values():
            if go is not None and "ordinary" in result:
                result["go_p99_ms"] = go["ordinary"]["p99_ms"]
        newest = by_tree.get(NEW) or by_tree[OLD]
        known = "impossible" not in newest and (name != GO_ROW or go is not None)
        met = bool(ROWS[name].met(newest)) if known else None
        found.append({"row": name, "trees": by_tree, "go": go, "met": met})
    return found


def markdown(document: dict[str, Any]) -> str:
    """Return the report."""
    box = document["machine"]
    lines = ["| offender | today | after | wanted | met |", "|---|---|---|---|---|"]
    for one in summary(document["runs"]):
        row = ROWS[one["row"]]
        cells = [f"{latencies(r)}{more(r)}" if (r := one["trees"].get(name)) else "-" for name in (OLD, NEW)]
        wanted = row.wanted + (f": {latencies(one['go'])}" if one["go"] is not None else "")
        verdict = {True: "yes", False: "no", None: "not measured"}[one["met"]]
        lines.append(f"| {' | '.join((row.offender, *cells, wanted, verdict))} |")
    commits = "; ".join(f"{name}: commit {commit}" for name, commit in document["commits"].items())
    return (
        "\n\n".join(
            [
                "# Stalls: what one client does to the others",
                f"{document['date']}; {commits}; {box['cpu']}, {box['cores']} cores, {box['memory_mb']} MB, "
                f"Linux {box['kernel']}{machine.interpreter(document)}. "
                f"`python -m bench.stalls OLD`; offenders that go on do so for {document['seconds']:g} s.",
                ABOUT,
                'Latencies are p50 / p99 / max. "Today" is the old tree, "after" the new one.',
                "\n".join(lines),
                FSYNC,
                machine.versions(document),
            ]
        )
        + "\n"
    )


def main(words: list[str] | None = None) -> int:
    """Measure, write the JSON and the report; 1 if the new tree misses what some row wants."""
    options = argparse.ArgumentParser(prog="python -m bench.stalls", description=__doc__.partition("\n")[0])
    options.add_argument("old", type=Path, help="a checkout of Inlet")
    options.add_argument("new", type=Path, nargs="?", default=ROOT, help="another one; default: this one")
    options.add_argument("--only", choices=(OLD, NEW), help="measure one of them; default: both")
    options.add_argument("--rows", default=",".join(ROWS), help="a list; default: all of %(default)s")
    options.add_argument("--seconds", type=float, default=SECONDS, help="of an offender that goes on")
    options.add_argument("--json", type=Path, default=RESULTS)
    chosen = options.parse_args(words)
    names = [name for name in chosen.rows.split(",") if name]
    if unknown := [name for name in names if name not in ROWS]:
        options.error(f"unknown rows: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    trees = {OLD: chosen.old, NEW: chosen.new}
    wanted = {name: tree for name, tree in trees.items() if chosen.only in (None, name)}
    document = compare(wanted, [ROWS[name] for name in names], chosen.seconds, chosen.json)
    found = summary(document["runs"])
    document["met"] = {one["row"]: one["met"] for one in found}
    chosen.json.write_text(json.dumps(document, indent=1) + "\n")
    chosen.json.with_suffix(".md").write_text(markdown(document))
    print(markdown(document))
    return 0 if all(one["met"] is not False for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
