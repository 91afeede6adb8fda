"""``python -m bench.trees OLD [NEW]``: Inlet of one checkout against Inlet of another, in pairs.

What lives here: the two sides, what is asked of them, the report. What must not: the order of the runs, and ratios
(``bench.pairs``); one run (``bench.compare.measure``).

Every load runs on both trees, one right after the other; the median of the rounds' ratios counts. Both run on the same
interpreter, with the same libraries, in fresh processes over a fresh and empty store.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import machine, pairs
from bench.compare import measure
from bench.pairs import CPU, RPS
from bench.peers import BULK, INLET_WORKERS, ROOT, SINGLE, Peer, inlet
from bench.plan import Load, named
from bench.store import BenchStore

RATIO_MIN = 0.97
"""What the new tree must reach of the old one's requests per second, under every load."""
OLD, NEW = "old", "new"
DEFAULT = (*(Load(SINGLE, n) for n in (4, 16, 64, 256)), Load(BULK, 4), Load(BULK, 16))


def row(name: str, tree: Path) -> Peer:
    """Return Inlet of a checkout, on its own worker."""
    if not (tree / "app.py").is_file():
        raise SystemExit(f"{tree} is no checkout of Inlet: it has no app.py")
    return inlet(name, f"Inlet of {tree.name}", INLET_WORKERS["inlet"], tree=tree)


def loads(text: str) -> tuple[Load, ...]:
    """Return the loads of a list of names; those that saturate only, since the others need a rate."""
    found = []
    for word in text.split(","):
        load = named(word)
        if load is None or load.kind not in (SINGLE, BULK):
            raise argparse.ArgumentTypeError(f"{word!r} is no load as {DEFAULT[0].name} or {DEFAULT[-1].name} is")
        found.append(load)
    return tuple(found)


def compare(trees: dict[str, Path], chosen: Sequence[Load], seconds: int, rounds: int, path: Path) -> dict[str, Any]:
    """Run everything; see ``bench.pairs.run``."""
    rows = [row(name, tree.resolve()) for name, tree in trees.items()]
    with BenchStore() as store:
        about = machine.describe(store.version())
    document: dict[str, Any] = {
        **about,
        "commits": {peer.name: machine.commit(peer.tree) for peer in rows},
        "options": {"loads": [load.name for load in chosen], "seconds": seconds, "rounds": rounds},
        "runs": [],
    }

    def measured(load: Load, peer: Peer) -> tuple[dict[str, Any], str]:
        run = {"load": load.name, "tree": peer.name, **measure(peer, load, seconds)}
        return run, f"{load.name:22} {peer.name}  {run[RPS]:9.0f}/s"

    pairs.run(document, chosen, rows, rounds, measured, path)
    return document


def ratios(runs: list[dict[str, Any]], load: str, metric: str) -> list[float]:
    """Return new over old, one a round; none for rounds in which the old one has no figure."""
    return pairs.ratios((run for run in runs if run["load"] == load), "tree", (OLD, NEW), metric)


def _median(found: list[float]) -> float:
    """Return the median; 0.0, which misses every target, where there is nothing to take it of."""
    return statistics.median(found) if found else 0.0


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each load the medians, and whether the new tree is as fast as it must be, with no run at fault."""
    found = []
    for load in dict.fromkeys(run["load"] for run in runs):
        own = [run for run in runs if run["load"] == load]
        rate = {t: statistics.median(r[RPS] for r in own if r["tree"] == t) for t in (OLD, NEW)}
        ratio = _median(ratios(own, load, RPS))
        cpu = _median(ratios(own, load, CPU))
        faults = sorted({run["fault"] for run in own if run["fault"]})
        met = ratio >= RATIO_MIN and not faults
        found.append({"load": load, **rate, "ratio": ratio, "cpu_ratio": cpu, "faults": faults, "met": met})
    return found


def markdown(document: dict[str, Any]) -> str:
    """Return the report."""
    box, options = document["machine"], document["options"]
    lines = [
        f"| load | old requests/s | new requests/s | new/old | CPU per request, new/old | at least {RATIO_MIN} |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for one in summary(document["runs"]):
        verdict = "; ".join(one["faults"]) or ("met" if one["met"] else "missed")
        cells = (one["load"], f"{one[OLD]:,.0f}", f"{one[NEW]:,.0f}", f"{one['ratio']:.3f}", f"{one['cpu_ratio']:.3f}")
        lines.append(f"| {' | '.join((*cells, verdict))} |")
    each = [
        f"{one['load']}: {', '.join(f'{ratio:.3f}' for ratio in ratios(document['runs'], one['load'], RPS))}"
        for one in summary(document["runs"])
    ]
    return (
        "\n\n".join(
            [
                "# One tree against another",
                f"{document['date']}; old: commit {document['commits'][OLD]}, new: commit {document['commits'][NEW]}; "
                f"{box['cpu']}, {box['cores']} cores, {box['memory_mb']} MB, Linux {box['kernel']}"
                f"{machine.interpreter(document)}. {options['rounds']} rounds of {options['seconds']} s, "
                "interleaved. A ratio is the median of the rounds' ratios.",
                "\n".join(lines),
                "New over old in each round. " + "; ".join(each) + ".",
                machine.versions(document),
            ]
        )
        + "\n"
    )


def main(words: list[str] | None = None) -> int:
    """Compare, write the JSON and the report; 1 if the new tree is slower than it may be."""
    options = argparse.ArgumentParser(prog="python -m bench.trees", description=__doc__.partition("\n")[0])
    options.add_argument("old", type=Path, help="a checkout of Inlet")
    options.add_argument("new", type=Path, nargs="?", default=ROOT, help="another one; default: this one")
    options.add_argument(
        "--loads", type=loads, default=DEFAULT, help=f"names; default: {','.join(load.name for load in DEFAULT)}"
    )
    options.add_argument("--seconds", type=int, default=5, help="of each measured run")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "trees.json")
    chosen = options.parse_args(words)
    trees = {OLD: chosen.old, NEW: chosen.new}
    document = compare(trees, chosen.loads, chosen.seconds, chosen.rounds, chosen.json)
    document["summary"] = summary(document["runs"])
    return pairs.publish(document, chosen.json, markdown(document))


if __name__ == "__main__":
    sys.exit(main())
