"""The benchmark of request heads runs, small."""

from __future__ import annotations

from bench import heads


def test_the_benchmark_of_heads_runs_every_case() -> None:
    costs = heads.run(rounds=1)
    assert len(costs) == 10
    assert all(cost > 0 for cost in costs.values())
    assert costs["10 fields, same"] < costs["10 fields, exact"]
