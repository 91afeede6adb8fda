"""``python -m bench.options``: what an option costs: this tree with it against this tree without it, in pairs.

What lives here: the options, what is promised of them, the report. What must not: the order of the runs, and ratios
(``bench.pairs``); one run (``bench.compare.measure``).

Every option runs twice, without it and with it, one right after the other; the median of the rounds' ratios counts.
Both runs are sent the same requests: varied single records, each with a key in ``Authorization``, which the server
without keys ignores, and with an event ID that was never sent before, since a duplicate would cost less than a record
that is stored.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine, pairs
from bench.compare import measure
from bench.pairs import CPU, RPS
from bench.peers import INLET_WORKERS, ROOT, SINGLE, Peer, inlet
from bench.plan import Load
from bench.store import BenchStore
from bench.traffic import Traffic, fresh_singles
from inlet import keyfile
from inlet.keyfile import Key, KeyQuotas, Quota

CONNECTIONS = 64
STORE_CPU = "store_cpu_us_per_request"
KEYS_FILE = "keys file"
"""Stands for the path of a file with one key."""
QUOTAS = KeyQuotas(requests=Quota(1e6, 1e6), records=Quota(1e6, 1e6), bytes=Quota(1e9, 1e9))
"""All three, and none that a run comes near."""


@dataclass(frozen=True)
class Option:
    """One row. ``ratio_min``: what it must leave of the requests per second; 0 if nothing was promised."""

    name: str
    what: str
    env: dict[str, str]
    ratio_min: float = 0.0


OPTIONS = {
    option.name: option
    for option in (
        Option("keys", "a key, with quotas of requests, records and bytes", {"INLET_KEYS_FILE": KEYS_FILE}, 0.92),
        Option("dedup", "`INLET_DEDUP_SECONDS=60`", {"INLET_DEDUP_SECONDS": "60"}, 0.75),
        Option("log_json", "`INLET_LOG=json`", {"INLET_LOG": "json"}),
    )
}


@dataclass(frozen=True)
class KeyedLoad(Load):
    """The headline load with a key in every request, and every event ID sent once."""

    authorization: str = ""

    def traffic(self) -> Traffic:
        """Return what is sent."""
        return fresh_singles((("Authorization", self.authorization),))


def new_key(path: Path) -> str:
    """Write a file with one key, and return the field value that sends it."""
    secret, digest = keyfile.new_secret()
    key = Key(keyfile.new_id(), "bench", digest, datetime.now(UTC), quotas=QUOTAS)
    keyfile.save(path, (key,))
    return f"Bearer inlet_{key.id}_{secret}"


def row(name: str, given: dict[str, str], authorization: str, keys: Path) -> Peer:
    """Return Inlet on its own worker, with these settings."""
    env = {variable: str(keys) if value == KEYS_FILE else value for variable, value in given.items()}
    peer = inlet(name, name, INLET_WORKERS["inlet"])
    return replace(peer, env=peer.env | env, headers={"Authorization": authorization})


def compare(chosen: Sequence[Option], connections: int, seconds: int, rounds: int, path: Path) -> dict[str, Any]:
    """Run everything; see ``bench.pairs.run``."""
    with BenchStore() as store:
        about = machine.describe(store.version())
    document: dict[str, Any] = {
        **about,
        "options": {"connections": connections, "seconds": seconds, "rounds": rounds},
        "runs": [],
    }
    with tempfile.TemporaryDirectory(prefix="inlet-bench-") as directory:
        keys = Path(directory) / "keys.toml"
        authorization = new_key(keys)
        load = KeyedLoad(SINGLE, connections, authorization=authorization)

        def measured(option: Option, on: bool) -> tuple[dict[str, Any], str]:
            peer = row(option.name, option.env if on else {}, authorization, keys)
            run = {"option": option.name, "on": on, **measure(peer, load, seconds)}
            line = f"{option.name:10} {'on ' if on else 'off'} {run[RPS]:9.0f}/s"
            return run, f"{line}  {run[CPU]:6.1f} us  {run['fault'] or ''}"

        pairs.run(document, chosen, (False, True), rounds, measured, path)
    return document


def ratios(runs: list[dict[str, Any]], option: str, metric: str) -> list[float]:
    """Return on over off, one a round; none for rounds that lack one of them."""
    return pairs.ratios((run for run in runs if run["option"] == option), "on", (False, True), metric)


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each option the medians, and whether it leaves as much as it must, with no run at fault."""
    found = []
    for option in dict.fromkeys(run["option"] for run in runs):
        own = [run for run in runs if run["option"] == option]
        rates = {on: [run[RPS] for run in own if run["on"] == on] for on in (False, True)}
        # 0.0 misses every target; it stands where there is nothing to take a median of.
        medians = {metric: statistics.median(ratios(own, option, metric) or [0.0]) for metric in (RPS, CPU, STORE_CPU)}
        faults = sorted({run["fault"] for run in own if run["fault"]})
        wanted = OPTIONS[option].ratio_min
        found.append(
            {
                "option": option,
                "off": statistics.median(rates[False] or [0.0]),
                "on": statistics.median(rates[True] or [0.0]),
                "ratio": medians[RPS],
                "cpu_ratio": medians[CPU],
                "store_cpu_ratio": medians[STORE_CPU],
                "wanted": wanted,
                "faults": faults,
                "met": medians[RPS] >= wanted and not faults,
            }
        )
    return found


def markdown(document: dict[str, Any]) -> str:
    """Return the report."""
    box, options = document["machine"], document["options"]
    lines = [
        "| option | requests/s without | with | with/without | at least | CPU per request | store's CPU per request |",
        "|---|--:|--:|--:|---|--:|--:|",
    ]
    each = []
    for one in summary(document["runs"]):
        verdict = "; ".join(one["faults"]) or ("met" if one["met"] else "missed")
        wanted = f"{one['wanted']}: {verdict}" if one["wanted"] or one["faults"] else "-"
        cells = (OPTIONS[one["option"]].what, f"{one['off']:,.0f}", f"{one['on']:,.0f}", f"{one['ratio']:.3f}", wanted)
        lines.append(f"| {' | '.join(cells)} | {one['cpu_ratio']:.3f} | {one['store_cpu_ratio']:.3f} |")
        rounds = ", ".join(f"{ratio:.3f}" for ratio in ratios(document["runs"], one["option"], RPS))
        each.append(f"{one['option']}: {rounds}")
    return (
        "\n\n".join(
            [
                "# What options cost",
                f"{document['date']}; commit {document['commit']}; {box['cpu']}, {box['cores']} cores, "
                f"{box['memory_mb']} MB, Linux {box['kernel']}{machine.interpreter(document)}. {options['rounds']} "
                f"rounds of {options['seconds']} s over {options['connections']} connections, with and without the "
                "option one right after the other. Both are sent the same requests: varied single records, each with "
                "a key and an event ID of its own. A ratio is the median of the rounds' ratios; CPU is with/without.",
                "\n".join(lines),
                "With over without in each round. " + "; ".join(each) + ".",
                machine.versions(document),
            ]
        )
        + "\n"
    )


def _chosen(text: str) -> tuple[Option, ...]:
    words = [word for word in text.split(",") if word]
    if unknown := [word for word in words if word not in OPTIONS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no option; those are {', '.join(OPTIONS)}")
    return tuple(OPTIONS[word] for word in words)


def main(words: list[str] | None = None) -> int:
    """Compare, write the JSON and the report; 1 if an option leaves less than it must."""
    options = argparse.ArgumentParser(prog="python -m bench.options", description=__doc__.partition("\n")[0])
    options.add_argument("--options", type=_chosen, default=tuple(OPTIONS.values()), help=f"of {','.join(OPTIONS)}")
    options.add_argument("--connections", type=int, default=CONNECTIONS)
    options.add_argument("--seconds", type=int, default=5, help="of each measured run")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "options.json")
    chosen = options.parse_args(words)
    document = compare(chosen.options, chosen.connections, chosen.seconds, chosen.rounds, chosen.json)
    document["summary"] = summary(document["runs"])
    return pairs.publish(document, chosen.json, markdown(document))


if __name__ == "__main__":
    sys.exit(main())
