"""Arithmetic on a result: medians over the rounds, ratios within a round, who is disqualified.

What lives here: reading the runs of a JSON of ``bench.compare``. What must not: measuring, targets (``bench.targets``),
text (``bench.report``, ``bench.headline``).

A ratio is taken between two peers in the same round, and its median over the rounds is shown: the machine's moods
cancel out. A peer with a fault in any round of a load is shown with it and without figures.
"""

from __future__ import annotations

import statistics
from typing import Any

OURS = "inlet"
RPS = "requests_per_second"
RECORDS = "records_per_second"
P99, P999 = "p99_us", "p999_us"
Run = dict[str, Any]


def in_short(text: str) -> str:
    """Return the first line of a fault and, where a log follows, its last."""
    lines = [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))]
    return " ".join(dict.fromkeys((lines[0], lines[-1])))


def of(runs: list[Run], load: str, peer: str) -> list[Run]:
    """Return the runs of one peer under one load."""
    return [run for run in runs if run["load"] == load and run["peer"] == peer]


def faults(runs: list[Run]) -> list[str]:
    """Return why a peer is disqualified from a load, one line a fault."""
    return [in_short(run["fault"]) for run in runs if run["fault"]]


def median(runs: list[Run], metric: str) -> float | None:
    """Return the median over the rounds that have it; None if none has."""
    values = [run[metric] for run in runs if run.get(metric) is not None]
    return statistics.median(values) if values else None


def shown(runs: list[Run], load: str, peer: str, metric: str) -> float | None:
    """Return the median of a peer's figure under a load; None if it was not measured or is disqualified."""
    own = of(runs, load, peer)
    return None if faults(own) else median(own, metric)


def ratio(runs: list[Run], load: str, ours: str, other: str, metric: str) -> float | None:
    """Return the median of the rounds' ours / other's; None if either is disqualified or was not measured."""
    mine, theirs = of(runs, load, ours), of(runs, load, other)
    if faults(mine) or faults(theirs):
        return None
    return _ratio(mine, theirs, metric)


def against_load(runs: list[Run], load: str, other: str, peer: str, metric: str) -> float | None:
    """Return the median of the rounds' figure under ``load`` / under ``other``, of the same peer."""
    one, two = of(runs, load, peer), of(runs, other, peer)
    return None if faults(one) or faults(two) else _ratio(one, two, metric)


def _ratio(mine: list[Run], theirs: list[Run], metric: str) -> float | None:
    by_round = {run["round"]: run.get(metric) for run in theirs}
    values = [
        run[metric] / by_round[run["round"]]
        for run in mine
        if run.get(metric) is not None and by_round.get(run["round"])
    ]
    return statistics.median(values) if values else None


def loads(runs: list[Run]) -> list[str]:
    """Return the names of the loads, in the order they were run."""
    return list(dict.fromkeys(run["load"] for run in runs))


def fixed_rate(load: str) -> bool:
    """Whether a load is sent at a fixed rate, so that latencies are its figures."""
    return load.startswith(("open_", "mixed_"))


def peers(runs: list[Run], load: str) -> list[str]:
    """Return the peers under a load, fastest first, disqualified ones last."""
    names = list(dict.fromkeys(run["peer"] for run in runs if run["load"] == load))

    def key(name: str) -> tuple[bool, float]:
        own = of(runs, load, name)
        value = median(own, P99 if fixed_rate(load) else RECORDS) or 0.0
        return bool(faults(own)), value if fixed_rate(load) else -value

    return sorted(names, key=key)


def cell(value: float | None, form: str = "{:,.0f}", factor: float = 1.0) -> str:
    """Return a number for a table; a dash for none."""
    return "-" if value is None else form.format(value * factor)
