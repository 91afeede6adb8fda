"""``python -m bench.receivers``: Inlet's receivers of shippers' protocols against a Go service of the same, in pairs.

What lives here: the sides, what is asked of Inlet, whether both store the same, the report. What must not: what is sent
(``bench.shippers``), the order of the runs, and ratios (``bench.pairs``), one run (``bench.compare.measure``), the cuts
of the stages (``bench.receiver_app``).

Each protocol's load runs on the Go service, on Inlet, and on Inlet cut off after each stage of a request, one right
after the other; the median of the rounds' ratios counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ujson

from bench import machine, pairs, shippers
from bench.compare import measure
from bench.figures import RECORDS
from bench.load import single
from bench.pairs import CPU
from bench.peers import BULK, GO_RECEIVERS, INLET_WORKERS, ROOT, Peer, Running, inlet
from bench.plan import Load
from bench.store import STREAM, BenchStore
from bench.traffic import BULK_RECORDS, Traffic

RATIO_MIN = 0.5
"""What Inlet must reach of the Go service's records per second."""
CONNECTIONS = 16
GO, OURS = "go_receivers", "inlet"
STORE_CPU = "store_cpu_us_per_request"
STAGES = {
    "server": "the server: read, parse the head, call, write a constant answer",
    "decode": "+ decode the body: protobuf or JSON; of a push, its snappy only",
    "map": "+ map each record to ID, time, service, message and metadata",
    "encode": "+ bounds, IDs, and the lines",
    "unstored": "+ the pipeline and the protocol's answer",
    OURS: "+ the sink: append, commit, wait for the reply",
}
PROTOCOLS = {
    shippers.OTLP: "OTLP logs, protobuf",
    shippers.ELASTIC: "Elasticsearch bulk",
    shippers.LOKI: "Loki push, protobuf in snappy",
}


@dataclass(frozen=True)
class ShipperLoad(Load):
    """Requests of one protocol, of BULK_RECORDS varied records each, without a pause; ``content`` is the protocol."""

    @property
    def name(self) -> str:
        """Name the load."""
        return f"{self.content}{BULK_RECORDS}_varied_c{self.connections}"

    def traffic(self) -> Traffic:
        """Return what is sent."""
        return shippers.traffic(self.content)


def row(side: str, protocol: str) -> Peer:
    """Return what answers: the Go service, Inlet, or a stage of it."""
    probe = next(iter(shippers.requests(protocol, 1)))
    if side == GO:
        return replace(GO_RECEIVERS, status=shippers.STATUS[protocol], probe=probe)
    app = "app:application" if side == OURS else "bench.receiver_app:application"
    peer = inlet(side, side, INLET_WORKERS["inlet"], app=app)
    env = peer.env if side == OURS else {**peer.env, "BENCH_STAGE": f"{protocol}:{side}"}
    return replace(peer, status=shippers.STATUS[protocol], probe=probe, env=env, stores=side == OURS)


def stored(peer: Peer) -> list[list[Any]]:
    """Return what it stores of the first request: the records without their IDs."""
    with BenchStore() as store, Running(peer, store.socket, single(peer)) as running:
        running.end()
        store.wait_until_quiet()
        entries: Any = store.client.xrange(STREAM)
    lines = [line for _, fields in entries for line in fields[b"r"].split(b"\n")]
    return [ujson.loads(line)[1:] for line in lines[-BULK_RECORDS:]]


def differences(ours: Sequence[list[Any]], theirs: Sequence[list[Any]]) -> list[str]:
    """Return what differs between records of the two sides, in words, each once; empty if they are the same."""
    found = {} if len(ours) == len(theirs) else {f"{len(ours)} records, {len(theirs)} of the Go service": None}
    for (*mine, my_pairs), (*other, other_pairs) in zip(ours, theirs, strict=False):
        parts = zip(("timestamp", "service", "message"), mine, other, strict=True)
        found |= {f"{name} {a!r}, {b!r} of the Go service": None for name, a, b in parts if a != b}
        found |= {f"{name} is Inlet's only": None for name in my_pairs.keys() - other_pairs.keys()}
        found |= {f"{name} is the Go service's only": None for name in other_pairs.keys() - my_pairs.keys()}
        both = my_pairs.keys() & other_pairs.keys()
        found |= {f"{name} differs": None for name in both if my_pairs[name] != other_pairs[name]}
    return sorted(found)


def run(
    protocols: Sequence[str], sides: Sequence[str], connections: int, seconds: int, rounds: int, path: Path
) -> dict[str, Any]:
    """Run everything; see ``bench.pairs.run``."""
    with BenchStore() as store:
        about = machine.describe(store.version())
    document: dict[str, Any] = {
        **about,
        "options": {"connections": connections, "seconds": seconds, "rounds": rounds},
        "differences": {},
        "runs": [],
    }
    for protocol in protocols if {GO, OURS} <= {*sides} else ():
        found = differences(stored(row(OURS, protocol)), stored(row(GO, protocol)))
        document["differences"][protocol] = found
        print(f"{protocol}: {'; '.join(found[:20]) or 'both store the same'}", flush=True)

    def measured(protocol: str, side: str) -> tuple[dict[str, Any], str]:
        load = ShipperLoad(BULK, connections, protocol)
        found = {"protocol": protocol, "side": side, "load": load.name, **measure(row(side, protocol), load, seconds)}
        each = f"{found[CPU] / BULK_RECORDS:6.2f} + {found[STORE_CPU] / BULK_RECORDS:5.2f} us"
        return found, f"{load.name:32} {side:12} {found[RECORDS]:9.0f}/s  {each}  {found['fault'] or ''}"

    pairs.run(document, protocols, sides, rounds, measured, path)
    return document


def _median(runs: list[dict[str, Any]], metric: str, divisor: int = 1) -> float:
    """Return the median of the runs without a fault; 0.0 if there is none."""
    return float(statistics.median([run[metric] / divisor for run in runs if not run["fault"]] or [0.0]))


def summary(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return for each protocol the medians of both sides, the ratio, and whether it is met with no run at fault."""
    found = []
    for protocol in dict.fromkeys(run["protocol"] for run in document["runs"]):
        own = [run for run in document["runs"] if run["protocol"] == protocol]
        sides = {side: [run for run in own if run["side"] == side] for side in (OURS, GO)}
        # 0.0 misses the target; it stands where there is nothing to take a median of.
        ratio = statistics.median(pairs.ratios(own, "side", (GO, OURS), RECORDS) or [0.0])
        faults = sorted({run["fault"] for runs in sides.values() for run in runs if run["fault"]})
        figures = {
            side: {
                "records_per_second": _median(runs, RECORDS),
                "cpu_us_per_record": _median(runs, CPU, BULK_RECORDS),
                "store_cpu_us_per_record": _median(runs, STORE_CPU, BULK_RECORDS),
            }
            for side, runs in sides.items()
        }
        cpu = statistics.median(pairs.ratios(own, "side", (GO, OURS), CPU) or [0.0])
        met = ratio >= RATIO_MIN and not faults
        found.append({"protocol": protocol, **figures, "ratio": ratio, "cpu_ratio": cpu, "faults": faults, "met": met})
    return found


def stages(runs: Sequence[dict[str, Any]], protocol: str) -> list[tuple[str, float]]:
    """Return (stage, microseconds of CPU per record) of those that were measured: medians of runs without a fault."""
    found = []
    for stage in STAGES:
        own = [run for run in runs if run["protocol"] == protocol and run["side"] == stage and not run["fault"]]
        if own:
            found.append((stage, _median(own, CPU, BULK_RECORDS)))
    return found


def _pairs_table(document: dict[str, Any]) -> str:
    lines = [
        "| protocol | Inlet, records/s | Go, records/s | Inlet/Go | at least | CPU per record: Inlet | Go | ratio | "
        "store's CPU per record: Inlet | Go |",
        "|---|--:|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    for one in summary(document):
        ours, theirs = one[OURS], one[GO]
        verdict = "; ".join(one["faults"]) or ("met" if one["met"] else "missed")
        cells = [
            PROTOCOLS[one["protocol"]], f"{ours[RECORDS]:,.0f}", f"{theirs[RECORDS]:,.0f}", f"{one['ratio']:.3f}",
            f"{RATIO_MIN}: {verdict}", f"{ours['cpu_us_per_record']:.2f} us", f"{theirs['cpu_us_per_record']:.2f} us",
            f"{one['cpu_ratio']:.2f}", f"{ours['store_cpu_us_per_record']:.2f} us",
            f"{theirs['store_cpu_us_per_record']:.2f} us",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _stages_table(document: dict[str, Any]) -> str:
    protocols = list(dict.fromkeys(run["protocol"] for run in document["runs"]))
    found = {protocol: dict(stages(document["runs"], protocol)) for protocol in protocols}
    names = " | ".join(f"{PROTOCOLS[protocol]} | more" for protocol in protocols)
    lines = [f"| stage | {names} |", f"|---|{'--:|' * 2 * len(protocols)}"]
    before = dict.fromkeys(protocols, 0.0)
    for stage, what in STAGES.items():
        cells = []
        for protocol in protocols:
            if (cost := found[protocol].get(stage)) is None:
                cells += ["", ""]
            else:
                cells += [f"{cost:.2f}", f"{cost - before[protocol]:.2f}"]
                before[protocol] = cost
        lines.append(f"| {' | '.join((what, *cells))} |")
    return "\n".join(lines)


def _equal(document: dict[str, Any]) -> str:
    if all(found == [] for found in document["differences"].values()):
        return (
            "Before the runs, both were sent the same request, and what they had stored was the same but for the IDs."
        )
    each = [f"{name}: {'; '.join(found[:10])}" for name, found in document["differences"].items() if found]
    return f"**The two sides store different records.** {'. '.join(each)}."


def markdown(document: dict[str, Any]) -> str:
    """Return the report."""
    box, options = document["machine"], document["options"]
    each = [
        f"{one['protocol']}: "
        + ", ".join(
            f"{ratio:.3f}"
            for ratio in pairs.ratios(
                (run for run in document["runs"] if run["protocol"] == one["protocol"]), "side", (GO, OURS), RECORDS
            )
        )
        for one in summary(document)
    ]
    return (
        "\n\n".join(
            [
                "# Receivers",
                f"{document['date']}; commit {document['commit']}; {box['cpu']}, {box['cores']} cores, "
                f"{box['memory_mb']} MB, Linux {box['kernel']}{machine.interpreter(document)}. {options['rounds']} "
                f"rounds of {options['seconds']} s over {options['connections']} connections, both sides one right "
                f"after the other; `python -m bench.receivers`. A request has {BULK_RECORDS} varied records and is not "
                "compressed, but for Loki's own snappy. The Go service stores a request with one XADD and "
                "answers after the reply. A ratio is the median of the rounds' ratios.",
                _pairs_table(document),
                "Inlet over Go in each round. " + "; ".join(each) + ". " + _equal(document),
                "## Where Inlet's time goes",
                "CPU of Inlet per record, user and system, in microseconds, on its two workers under the same load. "
                "Each row does all that the rows above it do; *more* is the difference from the row above.",
                _stages_table(document),
                machine.versions(document),
            ]
        )
        + "\n"
    )


def _protocols(text: str) -> tuple[str, ...]:
    words = tuple(word for word in text.split(",") if word)
    if unknown := [word for word in words if word not in PROTOCOLS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no protocol; those are {', '.join(PROTOCOLS)}")
    return words


def main(words: list[str] | None = None) -> int:
    """Measure, write the JSON and the report; 1 if Inlet reaches less than it must."""
    options = argparse.ArgumentParser(prog="python -m bench.receivers", description=__doc__.partition("\n")[0])
    options.add_argument("--protocols", type=_protocols, default=tuple(PROTOCOLS), help=f"of {','.join(PROTOCOLS)}")
    options.add_argument("--connections", type=int, default=CONNECTIONS)
    options.add_argument("--seconds", type=int, default=4, help="of each measured run")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--no-stages", action="store_true", help="only the two sides")
    options.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "receivers.json")
    chosen = options.parse_args(words)
    if not GO_RECEIVERS.is_built():
        options.error("go_receivers is not built; run `python -m bench peers`")
    sides = (GO, OURS, *(() if chosen.no_stages else (stage for stage in STAGES if stage != OURS)))
    document = run(chosen.protocols, sides, chosen.connections, chosen.seconds, chosen.rounds, chosen.json)
    document["summary"] = summary(document)
    return pairs.publish(document, chosen.json, markdown(document))


if __name__ == "__main__":
    sys.exit(main())
