"""bench.commits, run tiny so that it cannot rot."""

from __future__ import annotations

from bench import commits


def test_every_case_of_a_commit_is_measured() -> None:
    found = commits.run(rounds=1, commits=20)
    names = ("redis-py pack", "pack", "redis-py", "wire", "sink loop", "sink blocking")
    assert set(found) == {
        "spans 10,000 lines",
        *(f"{name}, {records} records" for name in names for records in (1, 25)),
    }
    assert all(0 < cost < 1_000_000 for cost in found.values())
