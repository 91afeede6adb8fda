"""Who fsyncs the embedded store's file, and what each way costs: ``python -m bench.fsync``.

What lives here: Inlet as people start it (2 workers, embedded store), once for each value of INLET_FSYNC, in rounds;
the rate of a saturated server, the latency at a fixed rate, and what an fsync costs the store. What must not: what each
way loses (``tests/store/test_fsync.py``, ``tests/faults/power_rows.py``), and peers.

Interleaved, and each round starts with another mode. A ratio is taken within a round; its median is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import machine, memory, openloop, procs
from bench.load import Outcome, saturate
from bench.peers import PROCESSES, ROOT, port_of, reserve_port
from bench.plan import WARM_SECONDS
from bench.traffic import VARIED, singles

MODES = ("background", "everysec", "always")
BASE = "everysec"
"""Whose figures the others are divided by: what the store does by itself."""
CONNECTIONS = 64
RATE = 8_000.0
"""Requests a second of the open loop: under what each mode reaches on this project's machine."""
SYNC_PROGRAM = "sync_loop.py"
FIGURES = {
    "rate": ("requests/s, saturated", "{:,.0f}", 1.0),
    "p99_us": ("p99 ms", "{:.1f}", 1e-3),
    "p999_us": ("p99.9 ms", "{:.1f}", 1e-3),
    "store_cpu_us": ("store's CPU, us/request", "{:.1f}", 1.0),
    "open_p99_us": ("open loop p99 ms", "{:.1f}", 1e-3),
    "open_p999_us": ("p99.9 ms", "{:.1f}", 1e-3),
    "sync_pss_bytes": ("PSS of the fsyncing process, MB", "{:.1f}", 1e-6),
}
"""Name in the JSON -> heading, format, factor. All but the rate are better when lower."""


def fault(outcome: Outcome) -> str:
    """Return why a load does not count; empty if it does."""
    if outcome.refused or outcome.socket_errors or not outcome.answered:
        return f"{outcome.answered} answered, {outcome.refused} refused, {outcome.socket_errors} failed"
    return ""


def measure(mode: str, seconds: int, rate: float) -> dict[str, Any]:
    """Run both loads on a fresh Inlet in ``mode``."""
    directory = Path(tempfile.mkdtemp(prefix="inlet-fsync-"))
    reserved = reserve_port()
    port = port_of(reserved)
    process = memory.start(directory, port, INLET_FSYNC=mode)
    try:
        traffic = singles(VARIED)
        saturate(port, traffic, CONNECTIONS, WARM_SECONDS, 202)
        (store,) = (pid for pid in procs.tree(process.pid) if procs.command(pid) == memory.STORE_PROGRAM)
        before = procs.cpu_seconds(store)
        full = saturate(port, traffic, CONNECTIONS, seconds, 202)
        store_cpu = procs.cpu_seconds(store) - before
        calm = openloop.run(port, traffic, CONNECTIONS, seconds, rate, 202) if rate else None
        return {
            "mode": mode,
            "rate": full.answered / full.seconds,
            "p99_us": full.p99_us,
            "p999_us": full.p999_us,
            "store_cpu_us": store_cpu * 1e6 / max(full.answered, 1),
            "open_p99_us": calm.p99_us if calm else None,
            "open_p999_us": calm.p999_us if calm else None,
            "sync_pss_bytes": sum(map(procs.pss_bytes, syncing(process.pid))),
            "fault": "; ".join(filter(None, (fault(outcome) for outcome in (full, calm) if outcome))),
        }
    finally:
        memory.end(process)
        reserved.close()
        shutil.rmtree(directory, ignore_errors=True)


def syncing(master: int) -> list[int]:
    """Return the processes below ``master`` that fsync."""
    return [pid for pid in procs.tree(master) if SYNC_PROGRAM in Path(f"/proc/{pid}/cmdline").read_text()]


def rounds(count: int, seconds: int, rate: float) -> list[dict[str, Any]]:
    """Return the runs: every mode in each round."""
    runs = []
    for number in range(count):
        first = number % len(MODES)
        for mode in MODES[first:] + MODES[:first]:
            runs.append({"round": number, **measure(mode, seconds, rate)})
            print(line(runs[-1]), flush=True)
    return runs


def line(run: dict[str, Any]) -> str:
    """Return a run in a line."""
    return f"{run['round']}  {run['mode']:10}  {'  '.join(cells(run))}  {run['fault']}"


def cells(figures: dict[str, Any], names: Iterable[str] = FIGURES) -> list[str]:
    """Return the figures of these names as text; a dash for one that was not measured."""
    found = []
    for name in names:
        _, form, factor = FIGURES[name]
        found.append("-" if figures[name] is None else form.format(figures[name] * factor))
    return found


def medians(runs: list[dict[str, Any]], mode: str) -> dict[str, Any]:
    """Return the medians of a mode's figures over the rounds; None for one that was not measured."""
    own = [run for run in runs if run["mode"] == mode]
    values = {name: [run[name] for run in own if run[name] is not None] for name in FIGURES}
    return {name: statistics.median(found) if found else None for name, found in values.items()}


def ratios(runs: list[dict[str, Any]], mode: str, name: str) -> list[float]:
    """Return a mode's figure over BASE's in each round."""
    base = {run["round"]: run[name] for run in runs if run["mode"] == BASE}
    return [run[name] / base[run["round"]] for run in runs if run["mode"] == mode and run[name] and base[run["round"]]]


def markdown(document: dict[str, Any]) -> str:
    """Return the report."""
    box, options, runs = document["machine"], document["options"], document["runs"]
    opened = f"; the open loop at {options['rate']:,.0f} requests/s, as long again" if options["rate"] else ""
    measured = [name for name in FIGURES if any(run[name] is not None for run in runs)]
    compared = [name for name in measured if name != "sync_pss_bytes"]
    lines = table({mode: cells(medians(runs, mode), measured) for mode in MODES}, measured)
    lines += ["", f"Over `{BASE}` in the same round: the median, and the quartiles.", ""]
    lines += table({mode: [spread(ratios(runs, mode, name)) for name in compared] for mode in MODES}, compared)
    faults = [line(run) for run in runs if run["fault"]]
    return (
        "\n".join(
            [
                "# Who fsyncs the embedded store's file",
                "",
                f"{document['date']}, commit {document['commit']}; {box['cpu']}, {box['cores']} cores, Linux "
                f"{box['kernel']}{machine.interpreter(document)}. `python -m bench.fsync`: {PROCESSES} workers, "
                f"{CONNECTIONS} connections, varied single records; {options['rounds']} rounds of "
                f"{options['seconds']} s, interleaved{opened}. Medians.",
                "",
                *lines,
                *(["", "Faults:", "", *faults] if faults else []),
                "",
                f"Load average of the machine, before and after: {document['load'][0]:.1f}, {document['load'][1]:.1f}.",
            ]
        )
        + "\n"
    )


def table(rows: dict[str, list[str]], names: list[str]) -> list[str]:
    """Return lines of Markdown: a row for each mode, a column for each figure."""
    lines = [f"| INLET_FSYNC | {' | '.join(FIGURES[name][0] for name in names)} |", f"|---|{'--:|' * len(names)}"]
    return lines + [f"| `{mode}` | {' | '.join(row)} |" for mode, row in rows.items()]


def spread(values: list[float]) -> str:
    """Return the median and, of several values, the quartiles."""
    if len(values) < 2:
        return " ".join(f"{value:.2f}" for value in values) or "-"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main(words: list[str] | None = None) -> int:
    """Measure, write the JSON and the report; 1 if a run had a fault."""
    options = argparse.ArgumentParser(prog="python -m bench.fsync", description=__doc__.partition("\n")[0])
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--seconds", type=int, default=5, help="of each load")
    options.add_argument("--rate", type=float, default=RATE, help="of the open loop; 0 leaves it out")
    options.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "fsync.json")
    chosen = options.parse_args(words)
    rate = chosen.rate if openloop.GENERATOR.exists() else 0.0
    before = os.getloadavg()[0]
    runs = rounds(chosen.rounds, chosen.seconds, rate)
    document = {
        **machine.describe(""),
        "load": [before, os.getloadavg()[0]],
        "options": {"rounds": chosen.rounds, "seconds": chosen.seconds, "rate": rate},
        "runs": runs,
    }
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(document, indent=1) + "\n")
    chosen.json.with_suffix(".md").write_text(markdown(document))
    print(markdown(document))
    return 1 if any(run["fault"] for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
