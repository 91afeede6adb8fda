"""What the project wants to reach against its peers, and what it reached.

What lives here: the table of targets. What must not: measuring, what a figure means beyond its bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.figures import OURS, P99, P999, RPS, Run, faults, loads, of, ratio
from bench.peers import BULK, MIXED, OPEN, SINGLE
from bench.plan import RATE_FROM, Load


@dataclass(frozen=True)
class Target:
    """Inlet's ``metric`` over ``against``'s, under these loads, at least or at most ``bound``."""

    loads: tuple[str, ...]
    against: str
    metric: str
    bound: float
    at_least: bool = True

    def is_met(self, value: float) -> bool:
        """Whether a ratio is within the bound."""
        return value >= self.bound if self.at_least else value <= self.bound


def _names(*loads: Load) -> tuple[str, ...]:
    return tuple(load.name for load in loads)


MANY = _names(Load(SINGLE, 64), Load(SINGLE, 256))
FEW = _names(Load(SINGLE, 4), Load(SINGLE, 16))
BULKS = _names(Load(BULK, 4), Load(BULK, 16))
OPENED = _names(Load(OPEN, 64))
TARGETS = (
    Target(MANY, "go_goredis", RPS, 2.3),
    Target(MANY, "go_rueidis", RPS, 1.6),
    Target(MANY, "rust_redis", RPS, 0.75),
    Target(MANY, "rust_commit", RPS, 0.5),
    Target(MANY, "py_fastapi", RPS, 8.0),
    Target(MANY, "py_flask", RPS, 12.0),
    Target(MANY, "granian", RPS, 4.0),
    Target(FEW, "go_goredis", RPS, 1.5),
    Target(BULKS, "go_goredis", RPS, 1.8),
    Target(BULKS, "rust_redis", RPS, 0.75),
    Target(OPENED, RATE_FROM, P99, 0.6, at_least=False),
    Target(OPENED, RATE_FROM, P999, 0.6, at_least=False),
    Target(_names(Load(MIXED, 64)), "go_goredis", P99, 1.0, at_least=False),
    Target(_names(Load(SINGLE, 256, away_ms=1), Load(SINGLE, 256, away_ms=5)), "go_goredis", RPS, 1.0),
)


def _verdict(runs: list[Run], load: str, target: Target) -> tuple[str, str] | None:
    """Return the ratio and whether it meets the target; None if one of the two did not run under the load."""
    both = [name for name in (OURS, target.against) if of(runs, load, name)]
    if len(both) < 2:
        return None
    value = ratio(runs, load, OURS, target.against, target.metric)
    if value is None:
        wrong = [name for name in both if faults(of(runs, load, name))]
        return "-", f"no figure: {', '.join(wrong)} disqualified"
    return f"{value:.2f}x", "met" if target.is_met(value) else "**missed**"


def table(runs: list[Run]) -> list[str]:
    """Return each target with what was measured, as lines of Markdown; those not measured are left out."""
    lines = ["| load | Inlet against | figure | target | measured | |", "|---|---|---|--:|--:|---|"]
    names = loads(runs)
    for target in TARGETS:
        for load in (name for name in target.loads if name in names):
            found = _verdict(runs, load, target)
            if found is not None:
                bound = f"{'at least' if target.at_least else 'at most'} {target.bound}x"
                what = {P99: "p99", P999: "p99.9"}.get(target.metric, "requests/s")
                lines.append(f"| {' | '.join((load, target.against, what, bound, *found))} |")
    return lines if len(lines) > 2 else []
