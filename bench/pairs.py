"""Two sides of one thing, run one right after the other, and the ratio of them.

What lives here: the order of the runs, the document that they go to, the ratios, and how a comparison ends. What must
not: what the sides are (``bench.trees``, ``bench.options``, ``bench.receivers``), one run (``bench.compare``), reports.

In each round every subject runs on both sides; which one is first alternates. A ratio is taken within a round, so a
machine that changes its speed changes it for both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

RPS, CPU = "requests_per_second", "cpu_us_per_request"


def run(
    document: dict[str, Any],
    subjects: Sequence[Any],
    sides: Sequence[Any],
    rounds: int,
    measured: Callable[[Any, Any], tuple[dict[str, Any], str]],
    path: Path,
) -> None:
    """Run everything, and add each run to ``document["runs"]``.

    ``measured`` returns a run and what the terminal says of it. The JSON is written to ``path`` after each one, so a
    comparison that is cut off leaves what it had.
    """
    for number in range(rounds):
        for turn, subject in enumerate(subjects):
            for side in sides if (number + turn) % 2 == 0 else sides[::-1]:
                found, line = measured(subject, side)
                document["runs"].append({"round": number, **found})
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(document, indent=1) + "\n")
                print(f"round {number + 1}  {line}", flush=True)


def publish(document: dict[str, Any], path: Path, report: str) -> int:
    """Write the document to ``path``, and the report beside it and to the terminal; return 1 if a bound is not met."""
    path.write_text(json.dumps(document, indent=1) + "\n")
    path.with_suffix(".md").write_text(report)
    print(report)
    return 0 if all(one["met"] for one in document["summary"]) else 1


def ratios(runs: Iterable[dict[str, Any]], member: str, sides: tuple[Any, Any], metric: str) -> list[float]:
    """Return the second side over the first, one a round; none for rounds that lack one, or where the first has 0.

    ``runs``: of one subject. ``member``: which one of a run says its side.
    """
    values = {(run["round"], run[member]): float(run[metric]) for run in runs}
    first, second = sides
    rounds = sorted({number for number, _ in values})
    return [
        values[number, second] / values[number, first]
        for number in rounds
        if (number, second) in values and values.get((number, first))
    ]
