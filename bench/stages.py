"""``python -m bench.stages``: what each stage of a request costs, in place: microseconds of CPU, user and system.

What lives here: the stages, the runs, the report. What must not: the stages' code (``bench.stage_app``), one run
(``bench.compare.measure``).

A stage alone, warm and in a loop, costs half of what it costs within a server (``bench.micro``), so stages are measured
where they belong: the real server answers the real load with an application that stops after the stage. What a stage
costs is the difference from the one before. Beside them ``uvloop_commit`` runs, the least Python that stores a record,
and go_goredis.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import machine
from bench.compare import measure
from bench.peers import INLET_WORKERS, PEERS, ROOT, SINGLE, Peer, inlet
from bench.plan import Load
from bench.store import BenchStore

LOADS = (Load(SINGLE, 64), Load(SINGLE, 4))
STAGES = {
    "server": "the server: read, parse the head, call, write a constant answer",
    "loads": "+ ujson.loads",
    "dumps": "+ ujson.dumps of the five members",
    "checked": "+ the record's checks",
    "read": "+ media type, encoding, bounds of the body",
    "unstored": "+ the pipeline: answers that are decided in their iteration",
    "inlet": "+ the sink: append, commit, wait for the reply",
}
BOUND, OTHER = "uvloop_commit", "go_goredis"
CPU, RPS = "cpu_us_per_request", "requests_per_second"


def row(name: str) -> Peer:
    """Return what answers: a stage, Inlet, or another peer."""
    if name in PEERS:
        return PEERS[name]
    peer = inlet(name, STAGES[name], INLET_WORKERS["inlet"], app="bench.stage_app:application")
    return replace(peer, stores=False, env={**peer.env, "BENCH_STAGE": name})


def run(seconds: int, rounds: int, path: Path) -> dict[str, Any]:
    """Run everything, interleaved; the JSON is written after each run."""
    with BenchStore() as store:
        document: dict[str, Any] = {**machine.describe(store.version()), "runs": []}
    document["options"] = {"seconds": seconds, "rounds": rounds}
    names = [*STAGES, BOUND, OTHER]
    for number in range(rounds):
        for load in LOADS:
            for name in names[number % len(names) :] + names[: number % len(names)]:
                found = measure(row(name), load, seconds)
                document["runs"].append({"round": number, "load": load.name, "stage": name, **found})
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(document, indent=1) + "\n")
                print(f"round {number + 1}  {load.name:20} {name:14} {found[CPU]:6.1f} us", found["fault"] or "")
    return document


def medians(runs: list[dict[str, Any]], load: str) -> dict[str, tuple[float, float]]:
    """Return for each stage (microseconds of CPU, requests a second): medians of the runs without a fault."""
    found: dict[str, tuple[float, float]] = {}
    for name in (*STAGES, BOUND, OTHER):
        own = [one for one in runs if one["load"] == load and one["stage"] == name and not one["fault"]]
        if own:
            found[name] = statistics.median(one[CPU] for one in own), statistics.median(one[RPS] for one in own)
    return found


def markdown(document: dict[str, Any]) -> str:
    """Return the report."""
    box, options = document["machine"], document["options"]
    parts = [
        "# What each stage of a request costs",
        f"{document['date']}, commit {document['commit']}; {box['cpu']}, {box['cores']} cores"
        f"{machine.interpreter(document)}; medians of {options['rounds']} rounds of {options['seconds']} s, "
        "interleaved; `python -m bench.stages`.",
        "CPU of the service per request, user and system, on its two workers. Each row does all that the rows above it "
        "do; *more* is the difference from the row above.",
    ]
    for load in dict.fromkeys(one["load"] for one in document["runs"]):
        lines = ["| stage | us | more | requests/s |", "|---|--:|--:|--:|"]
        found = medians(document["runs"], load)
        before = 0.0
        for name, (cpu, rate) in found.items():
            if name in STAGES:
                more, before = f"{cpu - before:.1f}", cpu
                lines.append(f"| {STAGES[name]} | {cpu:.1f} | {more} | {rate:,.0f} |")
            else:
                lines.append(f"| `{name}`: {PEERS[name].what} | {cpu:.1f} | | {rate:,.0f} |")
        parts += [f"## {load}", "\n".join(lines)]
    return "\n\n".join([*parts, machine.versions(document)]) + "\n"


def main(words: list[str] | None = None) -> int:
    """Measure, and write the JSON and the report."""
    options = argparse.ArgumentParser(prog="python -m bench.stages", description=__doc__.partition("\n")[0])
    options.add_argument("--seconds", type=int, default=2, help="of each measured run")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "stages.json")
    chosen = options.parse_args(words)
    document = run(chosen.seconds, chosen.rounds, chosen.json)
    chosen.json.with_suffix(".md").write_text(markdown(document))
    print(markdown(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
