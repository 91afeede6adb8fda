"""bench.fsync: run tiny so that it cannot rot, and the arithmetic of its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import fsync
from bench.load import Outcome


def run(number: int, mode: str, rate: float, **figures: float | None) -> dict[str, Any]:
    """A run with these figures."""
    return {**dict.fromkeys(fsync.FIGURES), "round": number, "mode": mode, "rate": rate, "fault": "", **figures}


def test_every_mode_runs_and_only_one_has_a_process_that_fsyncs(tmp_path: Path) -> None:
    path = tmp_path / "fsync.json"
    assert fsync.main(["--rounds=1", "--seconds=1", "--rate=0", f"--json={path}"]) == 0
    runs = json.loads(path.read_text())["runs"]
    assert {one["mode"] for one in runs} == set(fsync.MODES)
    assert all(one["rate"] > 0 and one["store_cpu_us"] > 0 for one in runs)
    assert {one["mode"] for one in runs if one["sync_pss_bytes"] > 0} == {"background"}
    assert "| `always` | " in path.with_suffix(".md").read_text()


def test_a_ratio_is_taken_within_a_round() -> None:
    runs = [run(0, "everysec", 10.0), run(0, "always", 5.0), run(1, "everysec", 100.0), run(1, "always", 80.0)]
    assert fsync.ratios(runs, "always", "rate") == [0.5, 0.8]
    assert fsync.spread([0.5, 0.9, 0.6, 0.7, 0.8]) == "0.70 (0.60 to 0.80)"
    assert fsync.spread([0.5]) == "0.50"
    assert fsync.medians(runs, "always")["rate"] == 42.5
    assert fsync.ratios(runs, "always", "open_p99_us") == []
    assert fsync.spread([]) == "-"


def test_refused_and_failed_requests_disqualify_a_run() -> None:
    good = Outcome(1.0, 10, 0, 0, 1.0, 1.0, 1.0, 1.0, "wrk")
    assert fsync.fault(good) == ""
    for bad in ({"refused": 1}, {"socket_errors": 1}, {"answered": 0}):
        assert fsync.fault(Outcome(**{**good.as_dict(), **bad}))
